/*
 * test_ops.c - backup beside a broker that writes, restore, import of an older bus's file, and what they refuse.
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/store/build.h"
#include "broker/store/check.h"
#include "broker/store/salvage.h"
#include "broker/store/store.h"
#include "common/log.h"
#include "tests/unit/store/golden.h"

static char dir[64], log_db[96], copy_db[96], new_db[96];

static int setup(void **state)
{
    strcpy(dir, "/tmp/eb-ops-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(log_db, sizeof(log_db), "%s/log.db", dir);
    snprintf(copy_db, sizeof(copy_db), "%s/copy.db", dir);
    snprintf(new_db, sizeof(new_db), "%s/new.db", dir);
    return 0;
}

static int teardown(void **state)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    return system(cmd);
}

static int64_t number(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), 0);
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return n;
}

static void print(void *ctx, const char *line)
{
    strncat(ctx, line, 4000 - strlen(ctx));
    strncat(ctx, "\n", 4000 - strlen(ctx));
}

/* A copy has every row, mark and topic; restored, it is the same log under another epoch. */
static void backup_and_restore(void **state)
{
    struct golden g = {.first = 65000, .last = 67000, .deleted = 65100, .wal_from = 66000};
    struct eb_ops_summary sum = {0}, back = {0};
    struct eb_error err;
    uint8_t *bits = calloc(1, 70000);
    golden_make(&g, log_db);
    if (eb_store_backup(log_db, copy_db, NULL, &sum, &err))
        fail_msg("%s", err.message);
    assert_int_equal(golden_read(copy_db, bits, 70000), sum.rows);
    for (uint64_t seq = 1; seq < 70000; seq++)
        assert_int_equal(golden_live(&g, seq), bits[seq / 8] >> seq % 8 & 1);
    assert_int_equal(eb_store_verify(copy_db, NULL, &back, &err), 0);
    assert_int_equal(number(copy_db, "SELECT count(*) FROM acked"),
                     number(log_db, "SELECT count(*) FROM acked"));
    assert_int_equal(number(copy_db, "SELECT value FROM meta WHERE key = 'deleted_upto'"), 65100);
    /* The name of the topic that lost its only event stays behind, and the broker counts what is there. */
    static const char unused[] =
        "SELECT count(*) FROM topics WHERE id NOT IN (SELECT topic FROM log)";
    assert_true(number(log_db, unused) > 0);
    assert_int_equal(number(copy_db, unused), 0);
    if (eb_store_restore(copy_db, new_db, NULL, &back, &err))
        fail_msg("%s", err.message);
    struct eb_store_config config = {.path = new_db, .dedupe_max = 10, .acked_retention_ms = -1};
    struct eb_store *store;
    struct eb_store_info info;
    assert_int_equal(eb_store_open(&config, &store, &err), 0);
    eb_store_info(store, &info);
    eb_store_close(store);
    assert_int_equal(info.topics, number(new_db, "SELECT count(*) FROM topics"));
    assert_int_equal(back.rows, sum.rows);
    assert_int_equal(back.last_seq, 67000);
    assert_string_not_equal(back.epoch, sum.epoch);
    assert_int_equal(golden_read(new_db, bits, 70000), sum.rows);
    assert_int_equal(eb_store_check(new_db, NULL, &err), 0);
    free(bits);
}

/* Zero @len bytes of a file at @at. */
static void zero(const char *path, long at, size_t len)
{
    static const char zeros[4096];
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fwrite(zeros, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

/* A leaf of the log, all its bytes zero; whose seqs it held. */
static void zero_a_leaf(const char *path, uint64_t *ret_first, uint64_t *ret_last)
{
    struct eb_pages pages;
    struct eb_roots roots;
    struct eb_walk walk = {0};
    struct eb_walk_step step;
    struct eb_error err;
    struct eb_cell cell;
    const char *why;
    assert_int_equal(eb_pages_open(&pages, path, NULL, &err), 0);
    assert_int_equal(eb_roots_read(&pages, NULL, &roots, &why), 0);
    assert_int_equal(eb_walk_begin(&walk, &pages, roots.root[EB_TREE_LOG], true), 0);
    for (int i = 0; i < 20; i++)
        assert_true(eb_walk_next(&walk, &step) > 0);
    assert_true(eb_cell_read(step.node, 0, &cell));
    *ret_first = (uint64_t)cell.rowid;
    assert_true(eb_cell_read(step.node, step.node->cells - 1, &cell));
    *ret_last = (uint64_t)cell.rowid;
    long at = (long)(step.pgno - 1) * (long)pages.page_size;
    eb_walk_finish(&walk);
    eb_pages_close(&pages);
    zero(path, at, 4096);
}

/* On the bad day the backup is made all the same, of all that is whole, and says by name what it lacks. */
static void backup_names_what_it_lacks(void **state)
{
    struct golden g = {.first = 1, .last = 3000, .deleted = 10};
    struct eb_ops_summary sum = {0}, seen = {0};
    struct eb_error err;
    uint64_t first, last, n = 0;
    sqlite3 *db;
    char *report = calloc(1, 8192), line[80];
    uint8_t *bits = calloc(1, 3008);
    struct eb_ops ops = {.ctx = report, .report = print};
    golden_make(&g, log_db);
    assert_int_equal(sqlite3_open(log_db, &db), 0);
    assert_int_equal(
        sqlite3_exec(db, "UPDATE log SET crc = crc + 1 WHERE seq = 2500", NULL, NULL, NULL), 0);
    sqlite3_close(db);
    zero_a_leaf(log_db, &first, &last);
    if (eb_store_backup(log_db, copy_db, &ops, &sum, &err))
        fail_msg("%s", err.message);
    assert_non_null(strstr(report, "lost: event 2500\n"));
    assert_int_equal(golden_read(copy_db, bits, 3008), sum.rows);
    for (uint64_t seq = 1; seq <= 3000; seq++) {
        bool want = golden_live(&g, seq) && seq != 2500 && (seq < first || seq > last);
        if ((bits[seq / 8] >> seq % 8 & 1) != want)
            fail_msg("event %llu, zeroed %llu to %llu: %s", (unsigned long long)seq,
                     (unsigned long long)first, (unsigned long long)last, report);
        n += want;
    }
    assert_int_equal(sum.rows, n);
    assert_true(sum.damaged >= last - first + 2);
    snprintf(line, sizeof(line), "to %llu\n", (unsigned long long)last);
    assert_non_null(strstr(report, line));
    assert_int_equal(eb_store_verify(copy_db, NULL, &seen, &err), 0);
    free(bits);
    free(report);
}

/* A name that is taken stays what it was, and nothing is left beside it. */
static void taken_name_is_refused(void **state)
{
    struct golden g = {.first = 1, .last = 100};
    struct eb_ops_summary sum;
    struct eb_error err;
    char cmd[160];
    golden_make(&g, log_db);
    golden_make(&g, copy_db);
    assert_int_equal(eb_store_backup(log_db, copy_db, NULL, &sum, &err), -EEXIST);
    assert_int_equal(eb_store_restore(copy_db, log_db, NULL, &sum, &err), -EEXIST);
    assert_int_equal(eb_store_repair(log_db, copy_db, NULL, &sum, &err), -EEXIST);
    assert_int_equal(eb_store_import(log_db, copy_db, NULL, &sum, &err), -EEXIST);
    assert_non_null(strstr(err.message, "is there already"));
    assert_int_equal(eb_store_backup("/nowhere/at/all.db", new_db, NULL, &sum, &err), -ENOENT);
    assert_int_equal(eb_store_import(log_db, new_db, NULL, &sum, &err), -EINVAL);
    assert_int_equal(access(new_db, F_OK), -1);
    snprintf(cmd, sizeof(cmd), "! ls '%s' | grep -q part", dir);
    assert_int_equal(system(cmd), 0);
}

/* ---- beside a broker ---- */

static atomic_bool stop;

struct turn {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void turn_done(struct eb_op *op)
{
    struct turn *t = op->user;
    pthread_mutex_lock(&t->lock);
    t->done = true;
    pthread_cond_signal(&t->cond);
    pthread_mutex_unlock(&t->lock);
}

static uint64_t put_batch(struct eb_store *store, unsigned count)
{
    static const char payload[200] = "beside";
    struct eb_event *events[64];
    struct eb_op_result results[64];
    struct turn turn = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    static uint64_t id;
    for (unsigned i = 0; i < count; i++) {
        struct eb_draft draft = {.topic = "ops.test",
                                 .topic_len = 8,
                                 .payload = payload,
                                 .payload_len = 200,
                                 .has_id = true};
        id++;
        memcpy(draft.id, &id, 8);
        events[i] = eb_event_create(&draft);
    }
    struct eb_op op = {.kind = EB_OP_PUBLISH,
                       .count = count,
                       .events = events,
                       .results = results,
                       .done = turn_done,
                       .user = &turn};
    eb_store_submit(store, &op, &op);
    pthread_mutex_lock(&turn.lock);
    while (!turn.done)
        pthread_cond_wait(&turn.cond, &turn.lock);
    pthread_mutex_unlock(&turn.lock);
    assert_int_equal(op.err.code, EB_OK);
    for (unsigned i = 0; i < count; i++)
        eb_event_unref(events[i]);
    return results[count - 1].seq;
}

static void *keep_writing(void *arg)
{
    while (!atomic_load(&stop))
        put_batch(arg, 64);
    return NULL;
}

/* The copy is a prefix: everything up to its last seq, which was answered when the backup began; publishes went on. */
static void backup_beside_a_broker(void **state)
{
    struct eb_store_config config = {.path = log_db,
                                     .dedupe_max = 1000,
                                     .dedupe_window_ms = 1000,
                                     .acked_retention_ms = -1,
                                     .durability = EB_DURABILITY_OS};
    struct eb_store *store;
    struct eb_ops_summary sum = {0}, seen = {0};
    struct eb_store_info info;
    struct eb_error err;
    pthread_t writer;
    assert_int_equal(eb_store_open(&config, &store, &err), 0);
    assert_int_equal(eb_store_start(store, NULL), 0);
    uint64_t before = 0;
    for (int i = 0; i < 500; i++)
        before = put_batch(store, 64);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&writer, NULL, keep_writing, store), 0);
    if (eb_store_backup(log_db, copy_db, NULL, &sum, &err))
        fail_msg("%s", err.message);
    uint64_t after = eb_store_last_seq(store);
    assert_int_equal(eb_store_repair(log_db, new_db, NULL, &seen, &err), -EBUSY);
    if (eb_store_verify(log_db, NULL, &seen, &err))
        fail_msg("verify beside a broker: %s", err.message);
    assert_true(seen.rows >= sum.rows);
    atomic_store(&stop, true);
    pthread_join(writer, NULL);
    eb_store_info(store, &info);
    eb_store_close(store);
    assert_true(sum.last_seq >= before && sum.last_seq <= after);
    assert_int_equal(sum.rows, sum.last_seq);
    assert_int_equal(number(copy_db, "SELECT max(seq) = count(*) AND min(seq) = 1 FROM log"), 1);
    assert_true(info.wal_bytes < 64u << 20);
    assert_int_equal(eb_store_verify(copy_db, NULL, &seen, &err), 0);
    char *report = calloc(1, 4096);
    struct eb_ops ops = {.ctx = report, .report = print};
    if (eb_store_verify(log_db, &ops, &seen, &err))
        fail_msg("%s\n%s", err.message, report);
    free(report);
}

/* ---- the older bus ---- */

static const char old_sql[] =
    "CREATE TABLE messages (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload "
    "BLOB NOT NULL,"
    " metadata TEXT NOT NULL, ttl INTEGER NOT NULL, status TEXT NOT NULL DEFAULT 'pending');"
    "CREATE TABLE processed_messages (message_id TEXT PRIMARY KEY);"
    "INSERT INTO messages(topic, payload, metadata, ttl, status) VALUES"
    "('user.created', x'00ff', '{\"timestamp\":1700000000,\"content_type\":\"text/plain\"}', 0, "
    "'delivered'),"
    "('user.created', 'two', "
    "'{\"timestamp\":1700000001500,\"content_type\":\"application/json\"}', 3600, 'pending'),"
    "('bad topic', 'three', '{\"timestamp\":1700000002,\"content_type\":\"text/plain\"}', 0, "
    "'pending'),"
    "('user.deleted', 'four', '{\"timestamp\":1700000001,\"content_type\":\"text/plain\"}', 0, "
    "'pending'),"
    "('x.y', 'five', '{\"timestamp\":1700000009,\"content_type\":\"text/plain\"}', 0, 'pending');"
    "DELETE FROM messages WHERE seq = 5;"
    "INSERT INTO processed_messages VALUES('0190aaaa-bbbb-4ccc-8ddd-eeeeffff0001');";

/* As its broker leaves it: at rest, or with a WAL after a crash. */
static void make_old(const char *path, bool with_wal)
{
    sqlite3 *db;
    char work[128], cmd[600];
    snprintf(work, sizeof(work), "%s.work", path);
    assert_int_equal(sqlite3_open(work, &db), 0);
    if (with_wal)
        sqlite3_exec(db, "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0", NULL, NULL,
                     NULL);
    assert_int_equal(sqlite3_exec(db, old_sql, NULL, NULL, NULL), 0);
    snprintf(cmd, sizeof(cmd), "cp '%s' '%s' && %s '%s-wal' '%s-wal'", work, path,
             with_wal ? "cp" : ": ", work, path);
    assert_int_equal(system(cmd), 0);
    sqlite3_close(db);
    unlink(work);
}

/* Seqs, bytes, times and marks are kept; what cannot be an event is named; the old file stays as it is. */
static void import_takes_over(void **state)
{
    struct eb_ops_summary sum;
    struct eb_error err;
    struct stat before, after;
    char *report = calloc(1, 4096);
    struct eb_ops ops = {.ctx = report, .report = print};
    make_old(log_db, false);
    assert_int_equal(stat(log_db, &before), 0);
    if (eb_store_import(log_db, new_db, &ops, &sum, &err))
        fail_msg("%s", err.message);
    assert_int_equal(stat(log_db, &after), 0);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    assert_int_equal(sum.rows, 3);
    assert_int_equal(sum.left_out, 1);
    assert_int_equal(sum.acked, 1);
    assert_int_equal(sum.last_seq, 5);
    assert_non_null(strstr(report, "message 3"));
    assert_int_equal(
        number(
            new_db,
            "SELECT count(*) FROM messages WHERE seq = 1 AND status = 'processed' AND ttl IS NULL"),
        1);
    assert_int_equal(
        number(new_db,
               "SELECT count(*) FROM messages WHERE seq = 2 AND status = 'pending' AND ttl = 3600 "
               "AND payload = 'two'"),
        1);
    assert_int_equal(
        number(new_db, "SELECT json_extract(metadata, '$.timestamp') FROM messages WHERE seq = 1"),
        1700000000000);
    assert_int_equal(
        number(new_db, "SELECT json_extract(metadata, '$.timestamp') FROM messages WHERE seq = 4"),
        1700000001500);
    assert_int_equal(number(new_db, "SELECT hex(payload) = '00FF' FROM log WHERE seq = 1"), 1);
    assert_int_equal(number(new_db, "SELECT count(*) FROM processed_messages WHERE message_id = "
                                    "'0190aaaa-bbbb-4ccc-8ddd-eeeeffff0001'"),
                     1);
    memset(report, 0, 4096);
    if (eb_store_verify(new_db, &ops, &sum, &err))
        fail_msg("%s\n%s", err.message, report);
    /* What it brought goes on into copies. */
    assert_int_equal(eb_store_backup(new_db, copy_db, NULL, &sum, &err), 0);
    assert_int_equal(number(copy_db, "SELECT count(*) FROM processed_messages"), 2);
    unlink(copy_db);
    assert_int_equal(eb_store_repair(new_db, copy_db, NULL, &sum, &err), 0);
    assert_int_equal(number(copy_db, "SELECT count(*) FROM processed_messages"), 2);
    free(report);
}

/* What only the WAL holds is taken over too, and neither file nor WAL is touched. */
static void import_reads_a_wal(void **state)
{
    struct eb_ops_summary sum;
    struct eb_error err;
    struct stat before, after;
    char wal[128], cmd[160];
    make_old(log_db, true);
    snprintf(wal, sizeof(wal), "%s-wal", log_db);
    assert_int_equal(stat(wal, &before), 0);
    if (eb_store_import(log_db, new_db, NULL, &sum, &err))
        fail_msg("%s", err.message);
    assert_int_equal(sum.rows, 3);
    assert_int_equal(stat(wal, &after), 0);
    assert_int_equal(before.st_size, after.st_size);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    snprintf(cmd, sizeof(cmd), "! ls '%s' | grep -q 'old-\\|part\\|shm'", dir);
    assert_int_equal(system(cmd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"ops/backup_and_restore_keep_all", backup_and_restore, setup, teardown, NULL},
        {"ops/backup_names_what_it_lacks", backup_names_what_it_lacks, setup, teardown, NULL},
        {"ops/taken_name_is_refused", taken_name_is_refused, setup, teardown, NULL},
        {"ops/backup_beside_a_broker_is_a_prefix", backup_beside_a_broker, setup, teardown, NULL},
        {"ops/import_takes_over", import_takes_over, setup, teardown, NULL},
        {"ops/import_reads_a_wal", import_reads_a_wal, setup, teardown, NULL},
    };
    assert_int_equal(eb_log_setup(EB_LOG_ERROR, false, "/dev/null"), 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
