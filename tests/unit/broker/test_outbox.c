/* test_outbox.c - <eventbus/broker_outbox.h>: a program's own tables and its events, one transaction. */
#include "tests/unit/broker/embed_fixture.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>

#include "broker/include/eventbus/broker_outbox.h"

static char own[112]; /* the program's database */

static int make(void **state)
{
    int rc = folder_make(state);
    snprintf(own, sizeof own, "%s/own.db", folder);
    return rc;
}

static void sql(sqlite3 *program, const char *text)
{
    char *why = NULL;
    if (sqlite3_exec(program, text, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", text, why);
}

static sqlite3 *open_own(void)
{
    sqlite3 *program;
    assert_int_equal(sqlite3_open(own, &program), SQLITE_OK);
    sqlite3_busy_timeout(program, 10000);
    sql(program, "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY)");
    return program;
}

static int64_t number(sqlite3 *program, const char *text)
{
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_prepare_v2(program, text, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return value;
}

static eb_broker_outbox *open_outbox(eb_broker *broker)
{
    eb_broker_outbox *outbox = NULL;
    if (eb_broker_outbox_open(broker, own, 0, &outbox, err) != 0)
        fail_msg("%s", err);
    return outbox;
}

static int add(eb_broker_outbox *outbox, sqlite3 *program, const char *payload, const char *id)
{
    eb_broker_publish event = {.topic = "t.made",
                               .payload = payload,
                               .payload_len = strlen(payload),
                               .message_id = id,
                               .ttl_s = -1};
    return eb_broker_outbox_add(outbox, program, &event, NULL, err);
}

/* One row of the program's own and its event, committed together. */
static void add_row(eb_broker_outbox *outbox, sqlite3 *program, int n)
{
    char text[64], payload[16];
    snprintf(text, sizeof text, "INSERT INTO t VALUES(%d)", n);
    snprintf(payload, sizeof payload, "%d", n);
    sql(program, "BEGIN IMMEDIATE");
    sql(program, text);
    assert_int_equal(add(outbox, program, payload, NULL), 0);
    sql(program, "COMMIT");
}

static void flush(eb_broker_outbox *outbox)
{
    assert_int_equal(eb_broker_outbox_flush(outbox, PATIENCE_S * 1000), 0);
}

/* What is committed is in the log, in the order of the commits; nothing stays in the table. */
static void what_is_committed_is_relayed_in_order(void **state)
{
    eb_broker *broker = start(NULL);
    sqlite3 *program = open_own();
    eb_broker_outbox *outbox = open_outbox(broker);
    struct seen *seen = seen_make();
    subscribe(broker, "#", 1, seen);
    for (int n = 1; n <= 2500; n++) {
        add_row(outbox, program, n);
        if (n % 100 == 0)
            eb_broker_outbox_wake(outbox);
    }
    flush(outbox);
    wait_at_least(seen, &seen->count, 2500);
    assert_seqs(seen, 1, 2500);
    assert_string_equal(seen->last, "t.made 2500 ");
    eb_broker_outbox_state got;
    eb_broker_outbox_get_state(outbox, &got);
    assert_int_equal(got.relayed, 2500);
    assert_int_equal(got.refused, 0);
    assert_int_equal(number(program, "SELECT count(*) FROM eventbus_outbox"), 0);
    eb_broker_stop(broker); /* ends the outbox */
    sqlite3_close(program);
    seen_free(seen);
}

/* What is rolled back was never there. */
static void what_is_rolled_back_is_not_relayed(void **state)
{
    eb_broker *broker = start(NULL);
    sqlite3 *program = open_own();
    eb_broker_outbox *outbox = open_outbox(broker);
    sql(program, "BEGIN");
    assert_int_equal(add(outbox, program, "no", NULL), 0);
    sql(program, "ROLLBACK");
    add_row(outbox, program, 1);
    flush(outbox);
    assert_int_equal(eb_broker_last_seq(broker), 1);
    eb_broker_outbox_close(outbox);
    eb_broker_stop(broker);
    sqlite3_close(program);
}

/* A database that is brought back from before its rows were deleted: the log knows that they are relayed. */
static void what_was_relayed_is_not_relayed_again(void **state)
{
    char command[400];
    sqlite3 *program = open_own();
    eb_broker *broker = start(NULL);
    eb_broker_outbox *outbox = open_outbox(broker);
    sql(program, "BEGIN IMMEDIATE");
    for (int i = 0; i < 3; i++)
        assert_int_equal(add(outbox, program, "x", NULL), 0);
    sql(program, "COMMIT");
    /* a copy with the rows in it: the relay deletes them behind it at the latest */
    sql(program, "PRAGMA wal_checkpoint(TRUNCATE)");
    flush(outbox);
    uint64_t last = eb_broker_last_seq(broker);
    assert_int_equal(last, 3);
    eb_broker_stop(broker);
    /* the rows again, with the places that the mark covers */
    int64_t top = number(program, "SELECT top FROM eventbus_outbox_state");
    snprintf(command, sizeof command,
             "INSERT INTO eventbus_outbox SELECT %lld, randomblob(16), 't.made', 'x', NULL, NULL,"
             " NULL, 0; UPDATE eventbus_outbox_state SET top = 0",
             (long long)top);
    sql(program, command);
    broker = start(NULL);
    outbox = open_outbox(broker);
    flush(outbox);
    assert_int_equal(eb_broker_last_seq(broker), 3);
    assert_int_equal(number(program, "SELECT count(*) FROM eventbus_outbox"), 0);
    assert_int_equal(number(program, "SELECT top FROM eventbus_outbox_state"), top);
    add_row(outbox, program, 4); /* what is new is above it */
    flush(outbox);
    assert_int_equal(eb_broker_last_seq(broker), 4);
    eb_broker_stop(broker);
    sqlite3_close(program);
}

/* An event that the log refuses is put aside with the reason, and those behind it are relayed. */
static void what_is_refused_stands_in_nobodys_way(void **state)
{
    eb_broker *broker = start(NULL);
    sqlite3 *program = open_own();
    eb_broker_outbox *outbox = open_outbox(broker);
    assert_int_equal(add(outbox, program, "first", "the-id"), 0);
    flush(outbox);
    sql(program, "BEGIN");
    assert_int_equal(add(outbox, program, "before", NULL), 0);
    assert_int_equal(add(outbox, program, "another", "the-id"), 0);
    assert_int_equal(add(outbox, program, "behind", NULL), 0);
    sql(program, "COMMIT");
    flush(outbox);
    eb_broker_outbox_state got;
    eb_broker_outbox_get_state(outbox, &got);
    assert_int_equal(got.refused, 1);
    assert_int_equal(eb_broker_last_seq(broker), 3);
    assert_int_equal(number(program, "SELECT count(*) FROM eventbus_outbox_refused"
                                     " WHERE code = 'message_id_reused' AND why LIKE '%id%'"
                                     " AND CAST(payload AS TEXT) = 'another'"),
                     1);
    eb_broker_stop(broker);
    sqlite3_close(program);
}

/* What cannot be an event is refused where it is added, with the errno of a publish. */
static void adding_checks_as_publishing_does(void **state)
{
    eb_broker *broker = start(NULL);
    sqlite3 *program = open_own();
    eb_broker_outbox *outbox = open_outbox(broker);
    const struct {
        eb_broker_publish event;
        int rc;
    } bad[] = {
        {{.topic = "a..b", .ttl_s = -1}, -EINVAL},
        {{.topic = "$mine", .ttl_s = -1}, -EPERM},
        {{.topic = "a", .message_id = "", .ttl_s = -1}, -EINVAL},
        {{.topic = "a", .ttl_s = -1, .delay_ms = 5, .deliver_at_ms = 5}, -EINVAL},
        {{.topic = "a", .ttl_s = -1, .expects_last_seq = true}, -EINVAL},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err[0] = '\0';
        assert_int_equal(eb_broker_outbox_add(outbox, program, &bad[i].event, NULL, err),
                         bad[i].rc);
        assert_true(strlen(err) > 10);
    }
    assert_int_equal(number(program, "SELECT count(*) FROM eventbus_outbox"), 0);
    eb_broker_stop(broker);
    sqlite3_close(program);
}

/* The process that serves both, killed wherever it is: what follows is done by the parent. */
static void child(int from)
{
    eb_broker *broker = start(NULL);
    sqlite3 *program = open_own();
    eb_broker_outbox *outbox = open_outbox(broker);
    for (int n = from;; n++) {
        add_row(outbox, program, n);
        if (n % 3 == 0)
            eb_broker_outbox_wake(outbox);
    }
}

/* Killed at any place, no row is without its event and no event without its row, and none comes twice. */
static void a_kill_never_tells_one_without_the_other(void **state)
{
    int from = 1;
    for (int round = 0; round < 8; round++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            child(from);
            _exit(1);
        }
        struct timespec some = {.tv_nsec = 60000000 + round * 31000000};
        nanosleep(
            &some,
            NULL); /* any moment will do: this is the kill's place, not a wait for something */
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        sqlite3 *program = open_own();
        from = (int)number(program, "SELECT ifnull(max(n), 0) + 1 FROM t");
        sqlite3_close(program);
    }
    eb_broker *broker = start(NULL);
    eb_broker_outbox *outbox = open_outbox(broker);
    flush(outbox);
    struct seen *seen = seen_make();
    subscribe(broker, "#", 1, seen);
    wait_at_least(seen, &seen->lives, 1);
    assert_true(from > 1);
    assert_seqs(seen, 1, (size_t)from - 1);
    char last[32];
    snprintf(last, sizeof last, "t.made %d ", from - 1);
    assert_string_equal(seen->last, last);
    eb_broker_stop(broker);
    seen_free(seen);
}

/* Another program's table of that name is left alone. */
static void a_table_of_another_form_is_refused(void **state)
{
    eb_broker *broker = start(NULL);
    sqlite3 *program = open_own();
    eb_broker_outbox *outbox = NULL;
    sql(program, "CREATE TABLE eventbus_outbox(x)");
    assert_int_equal(eb_broker_outbox_open(broker, own, 0, &outbox, err), -EINVAL);
    assert_true(strlen(err) > 10);
    assert_int_equal(
        number(program, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'eventbus%'"), 1);
    eb_broker_stop(broker);
    sqlite3_close(program);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, folder_remove)
    const struct CMUnitTest tests[] = {
        TEST(what_is_committed_is_relayed_in_order), TEST(what_is_rolled_back_is_not_relayed),
        TEST(what_was_relayed_is_not_relayed_again), TEST(what_is_refused_stands_in_nobodys_way),
        TEST(adding_checks_as_publishing_does),      TEST(a_kill_never_tells_one_without_the_other),
        TEST(a_table_of_another_form_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
