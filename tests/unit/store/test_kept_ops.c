/*
 * test_kept_ops.c - backup, restore, verify and repair of what is kept beside the events: it fits the log that it comes
 * with, whatever happens meanwhile, and nothing that was open is ever taken for handled.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/store/internal.h"
#include "broker/store/ops.h"
#include "broker/store/salvage.h"
#include "broker/store/schema.h"
#include "common/log.h"
#include "common/uuid.h"

static char dir[64], log_db[96], copy_db[96], new_db[96];
static struct eb_store *store;

static struct eb_store *open_store(const char *path)
{
    struct eb_store_config config = {.path = path,
                                     .durability = EB_DURABILITY_OS,
                                     .dedupe_window_ms = 600000,
                                     .dedupe_max = 1000,
                                     .max_scheduled = 100000,
                                     .acked_retention_ms = -1};
    struct eb_store *opened;
    struct eb_error err;
    if (eb_store_open(&config, &opened, &err) < 0)
        fail_msg("open: %s", err.message);
    return opened;
}

static int setup(void **state)
{
    strcpy(dir, "/tmp/eb-kept-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(log_db, sizeof(log_db), "%s/log.db", dir);
    snprintf(copy_db, sizeof(copy_db), "%s/copy.db", dir);
    snprintf(new_db, sizeof(new_db), "%s/new.db", dir);
    store = open_store(log_db);
    return 0;
}

static int teardown(void **state)
{
    char command[128];
    eb_store_close(store);
    store = NULL;
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

/* ---- filling it ---- */

struct work {
    struct eb_op op;
    struct eb_event *event;
    struct eb_op_result result;
    struct eb_op_ask ask;
    const struct eb_state_write *give;
    atomic_bool done;
};

static const struct eb_state_write *collect(struct eb_op *op)
{
    return ((struct work *)op->user)->give;
}

static void done(struct eb_op *op)
{
    atomic_store(&((struct work *)op->user)->done, true);
}

static void run(struct work *w)
{
    w->op.collect = collect;
    w->op.done = done;
    w->op.user = w;
    if (store->started) {
        eb_store_submit_or_commit(store, &w->op);
        while (!atomic_load(&w->done))
            usleep(100);
    } else {
        eb_store_submit(store, &w->op, &w->op);
        eb_writer_drain(store);
    }
    if (w->op.err.code != EB_OK)
        fail_msg("%s", w->op.err.message);
}

/* A publish of event @n, which keeps @write; @due_ms > 0: it is scheduled. Its seq. */
static uint64_t publish(uint32_t n, const char *topic, int64_t due_ms,
                        const struct eb_state_write *write)
{
    struct work w = {.op = {.kind = EB_OP_PUBLISH, .count = 1}, .give = write};
    char payload[3000];
    memset(payload, 'p', sizeof(payload));
    struct eb_draft draft = {.topic = topic,
                             .topic_len = strlen(topic),
                             .payload = payload,
                             .payload_len = n % 10 ? 100 : sizeof(payload),
                             .has_id = true};
    memcpy(draft.id, &n, 4);
    w.event = eb_event_create(&draft);
    w.ask.due_ms = due_ms;
    w.op.events = &w.event;
    w.op.results = &w.result;
    w.op.asks = due_ms ? &w.ask : NULL;
    run(&w);
    eb_event_unref(w.event);
    return w.result.seq;
}

static void keep(struct eb_state_write *writes, size_t count)
{
    for (size_t i = 0; i + 1 < count; i++)
        writes[i].next_write = &writes[i + 1];
    struct work w = {.op = {.kind = EB_OP_STATE}, .give = writes};
    run(&w);
}
#define KEEP(...)                                                                                  \
    keep((struct eb_state_write[]){__VA_ARGS__},                                                   \
         sizeof((struct eb_state_write[]){__VA_ARGS__}) / sizeof(struct eb_state_write))

static struct eb_state_write consumer(uint64_t id, const char *name, uint64_t next, uint64_t first)
{
    return (struct eb_state_write){.kind = EB_STATE_CONSUMER,
                                   .consumer = id,
                                   .name = name,
                                   .settings = "{\"patterns\":[\"a.#\"]}",
                                   .made_ms = 1700000000000,
                                   .next = next,
                                   .first_open = first,
                                   .counts = {id, 2, 3}};
}

static struct eb_state_write block(uint64_t id, uint64_t number, const char *data)
{
    return (struct eb_state_write){.kind = EB_STATE_BLOCK,
                                   .consumer = id,
                                   .block = number,
                                   .data = (const uint8_t *)data,
                                   .len = strlen(data)};
}

#define EVENTS 300
#define FAR    INT64_C(4000000000000)

/* 300 events, two consumers with blocks and dead letters, a mark, and 40 that wait. */
static void fill(void)
{
    struct eb_state_write dead = {.kind = EB_STATE_DEAD_ADD, .consumer = 1};
    for (uint32_t n = 1; n <= EVENTS; n++)
        publish(n, n % 50 ? "a.b" : "$dead.mail", 0, n % 50 ? NULL : &dead);
    KEEP(consumer(1, "mail", 290, 17), consumer(2, "billing", EVENTS + 1, EVENTS + 1),
         block(1, 0, "seventeen"), block(1, 1, "more"),
         {.kind = EB_STATE_MARK, .name = "outbox", .next = 4711});
    KEEP({.kind = EB_STATE_POSITION,
          .consumer = 2,
          .next = EVENTS + 1,
          .first_open = EVENTS + 1,
          .stopped = "410"});
    for (uint32_t n = 1; n <= 40; n++)
        publish(10000 + n, "later.x", FAR + (int64_t)n % 7, NULL);
}

/* ---- what is there ---- */

static void print(void *ctx, const char *line)
{
    strncat(ctx, line, 8000 - strlen(ctx) - 2);
    strcat(ctx, "\n");
}

static void rows_of(sqlite3 *db, const char *sql, char *out, size_t size)
{
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        size_t len = strlen(out);
        assert_true(snprintf(out + len, size - len, "%s\n", sqlite3_column_text(stmt, 0)) <
                    (int)(size - len));
    }
    sqlite3_finalize(stmt);
}

/* All that is kept in a file, as text. */
static void dump(const char *path, char *out, size_t size)
{
    static const char *const tables[] = {
        "SELECT id || '|' || name || '|' || settings || made || '|' || next || '|' || first_open ||"
        " '|' || redelivered || '|' || dead || '|' || lost || '|' || ifnull(stopped, '-') FROM"
        " consumers ORDER BY id",
        "SELECT consumer || '.' || block || '=' || data FROM open_blocks ORDER BY 1",
        "SELECT consumer || ':' || seq FROM dead_letters ORDER BY consumer, seq",
        "SELECT name || '=' || value FROM marks ORDER BY 1",
        "SELECT place || '@' || due || hex(id) || length(payload) || '~' || crc FROM scheduled"
        " ORDER BY place",
        "SELECT name FROM topics WHERE last_seq > 0 ORDER BY 1",
    };
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    out[0] = '\0';
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); i++)
        rows_of(db, tables[i], out, size);
    sqlite3_close(db);
}

static int64_t number(const char *path, const char *sql)
{
    sqlite3 *db;
    int64_t n = -1;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(eb_sql_int(db, sql, -1, &n), 0);
    sqlite3_close(db);
    return n;
}

static void sql(const char *path, const char *text)
{
    sqlite3 *db;
    char *message = NULL;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", text, message);
    sqlite3_close(db);
}

static void close_log(void)
{
    eb_store_close(store);
    store = NULL;
}

/* ---- backup and restore ---- */

/* A copy and what is restored from it have all that is kept, as it was. */
static void a_copy_keeps_all(void **state)
{
    static char was[20000], is[20000];
    struct eb_ops_summary sum = {0};
    struct eb_error err;
    fill();
    close_log();
    dump(log_db, was, sizeof(was));
    assert_int_equal(eb_store_backup(log_db, copy_db, NULL, &sum, &err), 0);
    assert_int_equal(sum.consumers, 2);
    assert_int_equal(sum.scheduled, 40);
    dump(copy_db, is, sizeof(is));
    assert_string_equal(is, was);
    assert_int_equal(eb_store_verify(copy_db, NULL, &sum, &err), 0);
    assert_int_equal(eb_store_restore(copy_db, new_db, NULL, &sum, &err), 0);
    dump(new_db, is, sizeof(is));
    assert_string_equal(is, was);
    store = open_store(new_db);
    struct eb_store_info info;
    eb_store_info(store, &info);
    assert_int_equal(info.scheduled, 40);
}

/* A topic that has no event left keeps its last seq in a copy: it outlives them. */
static void a_copy_keeps_last_seqs(void **state)
{
    struct eb_ops_summary sum = {0};
    struct eb_error err;
    fill();
    publish(20000, "gone.soon", 0, NULL);
    publish(20001, "a.b", 0, NULL);
    struct eb_trim_request request = {.acked_ms = -1, .max_events = 1, .max_rows = 1000};
    struct eb_trim_result result;
    assert_int_equal(store->engine->ops->begin(store->engine), 0);
    assert_int_equal(store->engine->ops->trim(store->engine, &request, &result), 0);
    assert_int_equal(store->engine->ops->commit(store->engine), 0);
    close_log();
    assert_int_equal(eb_store_backup(log_db, copy_db, NULL, &sum, &err), 0);
    store = open_store(copy_db);
    uint64_t last = 0;
    assert_int_equal(store->engine->ops->topic_last(store->engine, "gone.soon", 9, &last), 0);
    assert_int_equal(last, EVENTS + 1);
}

static atomic_bool stop;

/* Publishes; with each event goes the position behind it, and it is open. Now and then one is scheduled, or is due. */
static void *busy(void *arg)
{
    for (uint32_t n = 1; !atomic_load(&stop); n++) {
        struct eb_state_write position = {.kind = EB_STATE_POSITION, .consumer = 1};
        struct eb_state_write mark = {.kind = EB_STATE_MARK, .name = "m", .next_write = &position};
        position.next = eb_store_last_seq(store) + 2;
        position.first_open = 1;
        mark.next = position.next - 1;
        publish(n, "a.b", 0, &mark);
        publish(1000000 + n, "later", n % 5 ? FAR : 1, NULL);
    }
    return NULL;
}

/* Takes what is due off the table and into the log, as the broker does. */
static void *ticking(void *arg)
{
    while (!atomic_load(&stop)) {
        struct eb_event *events[64] = {NULL};
        struct eb_op_result results[64];
        struct work w = {
            .op = {.kind = EB_OP_DUE, .events = events, .results = results, .room = 64}};
        run(&w);
        for (uint32_t i = 0; i < w.op.count; i++)
            eb_event_unref(events[i]);
        usleep(500);
    }
    return NULL;
}

/*
 * Beside a broker at work: the position in the copy is that of its last event, the mark stands with it, and an event
 * that became due is there once, scheduled or in the log.
 */
static void a_copy_beside_a_broker_fits_its_end(void **state)
{
    pthread_t threads[2];
    struct eb_error err;
    KEEP(consumer(1, "mail", 1, 1));
    eb_store_hold(store, 0);
    assert_int_equal(eb_store_start(store, NULL), 0);
    atomic_store(&stop, false);
    pthread_create(&threads[0], NULL, busy, NULL);
    pthread_create(&threads[1], NULL, ticking, NULL);
    for (int i = 0; i < 8; i++) {
        struct eb_ops_summary sum = {0};
        usleep(100000);
        if (eb_store_backup(log_db, copy_db, NULL, &sum, &err))
            fail_msg("%s", err.message);
        int64_t last = number(copy_db, "SELECT max(seq) FROM log WHERE topic ="
                                       " (SELECT id FROM topics WHERE name = 'a.b')");
        int64_t end = number(copy_db, "SELECT max(seq) FROM log");
        int64_t next = number(copy_db, "SELECT next FROM consumers");
        assert_true(next <= end + 1);
        assert_true(next <= last + 1); /* what was due may lie between */
        assert_int_equal(number(copy_db, "SELECT value FROM marks"), next - 1);
        assert_int_equal(number(copy_db, "SELECT first_open FROM consumers"), 1);
        /* Ids 1000001, …: those that were accepted are all there, and none twice. */
        int64_t waiting = number(copy_db, "SELECT count(*) FROM scheduled");
        int64_t entered = number(copy_db, "SELECT count(*) FROM log WHERE topic ="
                                          " (SELECT id FROM topics WHERE name = 'later')");
        int64_t published = number(copy_db, "SELECT count(*) FROM log WHERE topic ="
                                            " (SELECT id FROM topics WHERE name = 'a.b')");
        assert_true(waiting + entered == published || waiting + entered == published - 1);
        assert_int_equal(number(copy_db, "SELECT count(*) FROM scheduled s JOIN log l USING(id)"),
                         0);
        assert_int_equal(eb_store_verify(copy_db, NULL, &sum, &err), 0);
        unlink(copy_db);
    }
    atomic_store(&stop, true);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
}

/* A scheduled event that fails its checksum is named, and the copy is made without it. */
static void a_damaged_scheduled_event_costs_itself(void **state)
{
    static char said[9000];
    struct eb_ops ops = {.ctx = said, .report = print};
    struct eb_ops_summary sum = {0};
    struct eb_error err;
    fill();
    close_log();
    sql(log_db, "UPDATE scheduled SET ttl = 5 WHERE place = 7");
    said[0] = '\0';
    assert_int_equal(eb_store_verify(log_db, &ops, &sum, &err), -EBADMSG);
    assert_non_null(strstr(said, "scheduled: the event in place 7 is damaged"));
    assert_int_equal(eb_store_backup(log_db, copy_db, &ops, &sum, &err), 0);
    assert_non_null(strstr(said, "lost: the scheduled event in place 7"));
    assert_int_equal(sum.damaged, 1);
    assert_int_equal(sum.scheduled, 39);
    memset(&sum, 0, sizeof(sum));
    assert_int_equal(eb_store_repair(log_db, new_db, &ops, &sum, &err), 0);
    assert_int_equal(sum.scheduled, 39);
    assert_int_equal(sum.rows, EVENTS);
}

/* ---- verify ---- */

/* What belongs to nobody, and what lies beyond the log, is said; offline and beside a broker. */
static void what_does_not_fit_is_said(void **state)
{
    static const char *const lines[] = {
        "open_blocks: there are blocks of consumer 77, which is not there",
        "dead_letters: there are some of consumer 78, which is not there",
        "consumers: the position of consumer 2 lies beyond the last seq",
        "consumers: the position of consumer 1 lies beyond the last seq, or before what it has "
        "open",
    };
    static char said[2][9000];
    struct eb_ops_summary sum = {0};
    struct eb_error err;
    fill();
    close_log();
    assert_int_equal(eb_store_verify(log_db, NULL, &sum, &err), 0);
    sql(log_db, "INSERT INTO open_blocks VALUES(77, 1, x'00'), (77, 2, x'00');"
                "INSERT INTO dead_letters VALUES(78, 50), (78, 100);"
                "UPDATE consumers SET next = 302 WHERE id = 2;"
                "UPDATE consumers SET first_open = 291 WHERE id = 1");
    struct eb_ops offline = {.ctx = said[0], .report = print},
                  online = {.ctx = said[1], .report = print};
    assert_int_equal(eb_store_verify(log_db, &offline, &sum, &err), -EBADMSG);
    assert_int_equal(sum.problems, 4);
    assert_int_equal(sum.rows, EVENTS);
    store = open_store(log_db);
    assert_int_equal(eb_store_verify(log_db, &online, &sum, &err), -EBADMSG);
    assert_int_equal(sum.problems, 4);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 2; k++)
            if (!strstr(said[k], lines[i]))
                fail_msg("\"%s\" is not in: %s", lines[i], said[k]);
}

/* ---- repair ---- */

static void repaired(struct eb_ops_summary *sum, char said[9000])
{
    struct eb_ops ops = {.ctx = said, .report = print};
    struct eb_error err;
    said[0] = '\0';
    memset(sum, 0, sizeof(*sum));
    if (eb_store_repair(log_db, new_db, &ops, sum, &err))
        fail_msg("%s", err.message);
    struct eb_ops_summary looked = {0};
    if (eb_store_verify(new_db, &ops, &looked, &err))
        fail_msg("%s: %s", err.message, said);
}

/* Where nothing of it is damaged, repair brings all that is kept, as it was. */
static void repair_brings_all_that_is_kept(void **state)
{
    static char was[20000], is[20000], said[9000];
    struct eb_ops_summary sum;
    fill();
    close_log();
    dump(log_db, was, sizeof(was));
    repaired(&sum, said);
    assert_int_equal(sum.consumers, 2);
    assert_int_equal(sum.scheduled, 40);
    assert_int_equal(sum.topics, 2);
    assert_int_equal(sum.acked, 0);
    dump(new_db, is, sizeof(is));
    assert_string_equal(is, was);
    assert_string_equal(said, "");
}

static void zero_page(const char *path, uint32_t pgno, long from, size_t len)
{
    static const char zeros[4096];
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)(pgno - 1) * 4096 + from, SEEK_SET), 0);
    assert_int_equal(fwrite(zeros, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static uint32_t root_of(const char *table)
{
    char text[120];
    snprintf(text, sizeof(text), "SELECT rootpage FROM sqlite_schema WHERE name = '%s'", table);
    return (uint32_t)number(log_db, text);
}

/* Blocks of open events that are lost: the consumer goes back to its first open one, and it is said. */
static void lost_blocks_take_a_consumer_back(void **state)
{
    static char said[9000];
    struct eb_ops_summary sum;
    fill();
    close_log();
    zero_page(log_db, root_of("open_blocks"), 0, 4096);
    repaired(&sum, said);
    assert_int_equal(number(new_db, "SELECT next FROM consumers WHERE name = 'mail'"), 17);
    assert_int_equal(number(new_db, "SELECT next FROM consumers WHERE name = 'billing'"), 301);
    assert_int_equal(number(new_db, "SELECT count(*) FROM open_blocks"), 0);
    assert_int_equal(number(new_db, "SELECT count(*) FROM dead_letters"), 6);
    assert_int_equal(number(new_db, "SELECT value FROM marks"), 4711);
    assert_non_null(strstr(said, "each begins again at its first one"));
}

/* Without a schema consumers are known by their shape, and begin at their first open event; no topic is made up. */
static void consumers_are_found_without_a_schema(void **state)
{
    static char said[9000];
    struct eb_ops_summary sum;
    fill();
    close_log();
    zero_page(log_db, 1, 0, 4096);
    repaired(&sum, said);
    assert_int_equal(sum.rows, EVENTS);
    assert_int_equal(sum.consumers, 2);
    assert_int_equal(sum.scheduled, 40);
    assert_int_equal(sum.topics, 2);
    assert_int_equal(sum.acked, 0);
    assert_int_equal(number(new_db, "SELECT next FROM consumers WHERE name = 'mail'"), 17);
    assert_int_equal(number(new_db, "SELECT count(*) FROM dead_letters WHERE consumer = 1"), 6);
    assert_int_equal(number(new_db, "SELECT count(*) FROM marks"), 0);
    assert_non_null(strstr(said, "marks"));
}

/* The end of the log is lost: no consumer stands beyond what is left, where other events will be. */
static void a_lost_end_caps_positions(void **state)
{
    static char said[9000];
    struct eb_ops_summary sum;
    fill();
    close_log();
    sql(log_db, "UPDATE log SET crc = crc + 1 WHERE seq > 250; UPDATE topics SET last_seq = 299"
                " WHERE name = 'a.b'; DELETE FROM meta WHERE key = 'last_seq'");
    repaired(&sum, said);
    assert_int_equal(sum.last_seq, 250);
    assert_int_equal(number(new_db, "SELECT next FROM consumers WHERE name = 'mail'"), 17);
    assert_int_equal(number(new_db, "SELECT next FROM consumers WHERE name = 'billing'"), 251);
    assert_int_equal(number(new_db, "SELECT count(*) FROM open_blocks"), 0);
    assert_int_equal(number(new_db, "SELECT count(*) FROM dead_letters"), 5);
    assert_int_equal(number(new_db, "SELECT max(last_seq) FROM topics"), 0);
}

#define T(name)                                                                                    \
    {                                                                                              \
        "kept/" #name, name, setup, teardown, NULL                                                 \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_copy_keeps_all),
        T(a_copy_keeps_last_seqs),
        T(a_copy_beside_a_broker_fits_its_end),
        T(a_damaged_scheduled_event_costs_itself),
        T(what_does_not_fit_is_said),
        T(repair_brings_all_that_is_kept),
        T(lost_blocks_take_a_consumer_back),
        T(consumers_are_found_without_a_schema),
        T(a_lost_end_caps_positions),
    };
    eb_log_setup(EB_LOG_ERROR, false, "/dev/null");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
