/* test_once.c - the exactly-once helper's calls, one by one (client/sqlite/once.c). Kills: tests/e2e/test_client_once.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include <sqlite3.h>

#include <eventbus/client_sqlite.h>

#define A "00000000-0000-4000-8000-00000000000a"
#define B "00000000-0000-4000-8000-00000000000b"

static sqlite3 *db;
static eb_once *once;

static int setup(void **state)
{
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE t(seq)", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(eb_once_open(db, "n", &once), 0);
    return 0;
}

static int teardown(void **state)
{
    eb_once_close(once);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return 0;
}

static int apply(void *user, sqlite3 *handle, const eb_message *message)
{
    char sql[64];

    assert_ptr_equal(handle, db);
    snprintf(sql, sizeof(sql), "INSERT INTO t VALUES (%d)", (int)message->seq);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    return user ? *(int *)user : 0;
}

static int rows(void)
{
    sqlite3_stmt *stmt;
    int count;

    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM t", -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    count = sqlite3_column_int(stmt, 0);
    sqlite3_finalize(stmt);
    return count;
}

static int applied(uint64_t seq, const char *epoch)
{
    const eb_message message = {.seq = seq};

    return eb_once_apply(once, &message, epoch, apply, NULL);
}

/* At or below the cursor of the same log: passed over. Another log's events are new. */
static void a_cursor_passes_over_what_was_applied(void **state)
{
    char epoch[37];

    assert_int_equal(eb_once_position(once, epoch), 0);
    assert_string_equal(epoch, "");
    assert_int_equal(applied(5, A), 1);
    assert_int_equal(applied(5, A), 0);
    assert_int_equal(applied(4, A), 0);
    assert_int_equal(applied(6, A), 1);
    assert_int_equal(applied(1, B), 1);
    assert_int_equal(eb_once_position(once, epoch), 1);
    assert_string_equal(epoch, B);
    assert_int_equal(rows(), 3);
}

/* A subscription goes on behind the cursor, with its epoch. */
static void resume_sets_the_options(void **state)
{
    eb_subscribe_options options = EB_SUBSCRIBE_OPTIONS_INIT;

    eb_once_resume(once, &options);
    assert_int_equal(options.starting_seq, 1);
    assert_null(options.epoch);
    applied(7, A);
    eb_once_resume(once, &options);
    assert_int_equal(options.starting_seq, 8);
    assert_string_equal(options.epoch, A);
}

/* What the program refuses leaves nothing, and is applied when it comes again. */
static void a_refusal_leaves_nothing(void **state)
{
    const eb_message message = {.seq = 3};
    int refuse = -77;

    assert_int_equal(eb_once_apply(once, &message, A, apply, &refuse), -77);
    assert_int_equal(eb_once_apply_any(once, &message, A, apply, &refuse), -77);
    assert_int_equal(rows(), 0);
    assert_int_equal(eb_once_position(once, NULL), 0);
    assert_int_equal(applied(3, A), 1);
    assert_int_equal(eb_once_apply_any(once, &message, A, apply, NULL), 1);
}

/* In steps: begin, the program's own statements, commit or rollback. */
static void in_steps(void **state)
{
    assert_int_equal(eb_once_begin(once, 1, A), 1);
    assert_int_equal(eb_once_begin(once, 2, A), EB_RESULT_INVALID);
    eb_once_rollback(once);
    assert_int_equal(eb_once_commit(once), EB_RESULT_INVALID);
    assert_int_equal(eb_once_begin(once, 1, A), 1);
    assert_int_equal(eb_once_commit(once), 0);
    assert_int_equal(eb_once_begin(once, 1, A), 0);
    assert_true(sqlite3_get_autocommit(db));
}

/* Any order: each event by itself, until it is forgotten. */
static void any_order(void **state)
{
    for (int round = 0; round < 2; round++) {
        for (uint64_t seq = 9; seq >= 1; seq--) {
            const eb_message message = {.seq = seq};
            assert_int_equal(eb_once_apply_any(once, &message, "", apply, NULL), round == 0);
        }
    }
    assert_int_equal(rows(), 9);
    assert_int_equal(eb_once_forget(once, 100), 0);
    const eb_message again = {.seq = 4};
    assert_int_equal(eb_once_apply_any(once, &again, "", apply, NULL), 0);
    assert_int_equal(sqlite3_exec(db, "UPDATE eventbus_once_seen SET at = at - 101 WHERE seq = 4",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(eb_once_forget(once, 100), 0);
    assert_int_equal(eb_once_apply_any(once, &again, "", apply, NULL), 1);
}

/* Names are apart. */
static void names_are_apart(void **state)
{
    eb_once *other;
    const eb_message message = {.seq = 1};

    assert_int_equal(applied(1, A), 1);
    assert_int_equal(eb_once_open(db, "other", &other), 0);
    assert_int_equal(eb_once_apply(other, &message, A, apply, NULL), 1);
    eb_once_close(other);
}

/* What cannot be is refused before anything is touched. */
static void nonsense_is_refused(void **state)
{
    eb_once *none;
    char name[300];

    memset(name, 'x', 299);
    name[299] = '\0';
    assert_int_equal(eb_once_open(db, "", &none), EB_RESULT_INVALID);
    assert_int_equal(eb_once_open(db, name, &none), EB_RESULT_INVALID);
    assert_int_equal(eb_once_open(NULL, "n", &none), EB_RESULT_INVALID);
    assert_int_equal(applied(0, A), EB_RESULT_INVALID);
    assert_int_equal(applied((uint64_t)1 << 53, A), EB_RESULT_INVALID);
    assert_int_equal(applied(1, ""), EB_RESULT_INVALID);
    assert_int_equal(applied(1, name), EB_RESULT_INVALID);
    assert_int_equal(eb_once_forget(once, -1), EB_RESULT_INVALID);
    sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
    assert_int_equal(applied(1, A), EB_RESULT_INVALID);
    assert_int_equal(eb_once_open(db, "m", &none), EB_RESULT_INVALID);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    assert_int_equal(rows(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) {"once/" #name, name, setup, teardown}
        TEST(a_cursor_passes_over_what_was_applied),
        TEST(resume_sets_the_options),
        TEST(a_refusal_leaves_nothing),
        TEST(in_steps),
        TEST(any_order),
        TEST(names_are_apart),
        TEST(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
