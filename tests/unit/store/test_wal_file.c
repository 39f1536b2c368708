/* test_wal_file.c - frames that are gathered on their way into the WAL: fewer writes, and nothing else is different. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "broker/store/schema.h"
#include "broker/store/wal_file.h"
#include "faulty_vfs.h"
#include "sqlite_fixture.h"

#define COUNTED 1000000

/* libc's is not called: what the file asked for is kept, and refused. */
static struct hints {
    int64_t from, to; /* of all together */
    unsigned count;
    bool gap;
} hints;

int sync_file_range(int fd, off64_t from, off64_t len, unsigned flags)
{
    if (hints.count++ == 0)
        hints.from = from;
    else if (from != hints.to)
        hints.gap = true;
    hints.to = from + len;
    assert_true(len > 0 && from % EB_PAGE_SIZE == 0 && len % EB_PAGE_SIZE == 0);
    assert_int_equal(flags, SYNC_FILE_RANGE_WRITE);
    errno = EIO;
    return -1;
}

struct wal_fixture {
    char folder[64], path[96], copy[96];
    struct eb_wal_vfs vfs;
    sqlite3 *db;
};

static void run(sqlite3 *db, const char *sql)
{
    char *message = NULL;

    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
}

static int setup(void **state)
{
    struct wal_fixture *fx = calloc(1, sizeof(*fx));

    strcpy(fx->folder, "/tmp/eb-wal-XXXXXX");
    assert_non_null(mkdtemp(fx->folder));
    snprintf(fx->path, sizeof(fx->path), "%s/x.db", fx->folder);
    snprintf(fx->copy, sizeof(fx->copy), "%s/copy.db", fx->folder);
    vfs_fault = (struct vfs_fault){.at = -1};
    faulty_vfs_register();
    assert_int_equal(eb_wal_vfs_init(&fx->vfs, "eb-faulty"), 0);
    assert_int_equal(sqlite3_open_v2(fx->path, &fx->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                                     fx->vfs.name),
                     SQLITE_OK);
    run(fx->db, "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;"
                "CREATE TABLE t(n INTEGER PRIMARY KEY, v BLOB NOT NULL)");
    *state = fx;
    return 0;
}

static int teardown(void **state)
{
    struct wal_fixture *fx = *state;
    char command[128];

    vfs_fault.at = -1;
    sqlite3_close(fx->db);
    eb_wal_vfs_finish(&fx->vfs);
    snprintf(command, sizeof(command), "rm -rf %s", fx->folder);
    assert_int_equal(system(command), 0);
    free(fx);
    return 0;
}

static int64_t ask(sqlite3 *db, const char *sql)
{
    int64_t value = -1;

    assert_int_equal(eb_sql_int(db, sql, -1, &value), 0);
    return value;
}

#define MANY                                                                                       \
    "INSERT INTO t(v) WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 400)"   \
    " SELECT randomblob(2000) FROM c"

/* Frames of a commit share their writes, 16 of them one; and a lone one is one write. */
static void a_commit_takes_few_writes(void **state)
{
    struct wal_fixture *fx = *state;

    run(fx->db, "PRAGMA synchronous = OFF"); /* syncs are counted too */
    vfs_fault.at = COUNTED;
    run(fx->db, MANY);
    int writes = COUNTED - vfs_fault.at;
    assert_in_range(writes, 200 / 16, 200 / 16 + 4);
    vfs_fault.at = COUNTED;
    run(fx->db, "INSERT INTO t VALUES(NULL, x'00')");
    assert_int_equal(COUNTED - vfs_fault.at, 1);
}

static void copy_file(const char *from, const char *to, const char *suffix)
{
    char command[300];

    snprintf(command, sizeof(command), "cp %s%s %s%s", from, suffix, to, suffix);
    assert_int_equal(system(command), 0);
}

/* What a crash at this moment would leave: the files as they are now, recovered by SQLite alone. */
static int64_t sum_after_crash(struct wal_fixture *fx, const char *sql)
{
    char shm[120];
    sqlite3 *db;

    copy_file(fx->path, fx->copy, "");
    copy_file(fx->path, fx->copy, "-wal");
    snprintf(shm, sizeof(shm), "%s-shm", fx->copy);
    unlink(shm);
    assert_int_equal(sqlite3_open(fx->copy, &db), SQLITE_OK);
    int64_t sum = ask(db, sql);
    assert_int_equal(
        ask(db, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"), 1);
    sqlite3_close(db);
    return sum;
}

/*
 * After each commit the file holds it whole, synced or not: also when pages were written before it, for want of room, and
 * written again, or left behind by a rollback; and when the WAL has started again.
 */
static void each_commit_is_in_the_file(void **state)
{
    static const char sum_sql[] = "SELECT ifnull(sum(n * length(v) + unicode(hex(v))), 0) FROM t";
    struct wal_fixture *fx = *state;
    sqlite3 *other;

    assert_int_equal(sqlite3_open(fx->path, &other), SQLITE_OK);
    run(fx->db, "PRAGMA cache_size = 10");
    run(fx->db, MANY);
    int64_t sum = ask(fx->db, sum_sql);
    for (int round = 0; round < 60; round++) {
        run(fx->db, round % 2 ? "PRAGMA synchronous = OFF" : "PRAGMA synchronous = FULL");
        run(fx->db, "BEGIN");
        for (int i = 0; i < 1 + round % 7; i++) {
            char sql[200];
            snprintf(sql, sizeof(sql),
                     "UPDATE t SET v = randomblob(1 + abs(random() %% 3000)) WHERE n %% %d = %d",
                     3 + round % 11, i % 3);
            run(fx->db, round % 5 == 4 ? "UPDATE t SET v = randomblob(9) WHERE n = 7" : sql);
        }
        run(fx->db, round % 4 == 3 ? "ROLLBACK" : "COMMIT");
        assert_int_equal(round % 4 == 3 ? sum : ask(other, sum_sql), ask(fx->db, sum_sql));
        sum = ask(other, sum_sql);
        assert_int_equal(sum_after_crash(fx, sum_sql), sum);
        if (round % 9 == 8)
            run(other, "PRAGMA wal_checkpoint(RESTART)");
    }
    sqlite3_close(other);
}

/* A write that fails fails the transaction whose frames it has, whichever it is, and nothing else. */
static void a_failed_write_fails_its_transaction(void **state)
{
    struct wal_fixture *fx = *state;
    unsigned failed = 0;
    int rc;

    run(fx->db, "PRAGMA cache_size = 10; PRAGMA synchronous = OFF");
    do {
        int64_t before = ask(fx->db, "SELECT count(*) FROM t");
        vfs_fault = (struct vfs_fault){.at = (int)failed, .code = SQLITE_FULL};
        rc = sqlite3_exec(fx->db, MANY, NULL, NULL, NULL);
        vfs_fault.at = -1;
        failed += rc != SQLITE_OK;
        assert_int_equal(vfs_fault.hits, rc != SQLITE_OK);
        assert_int_equal(ask(fx->db, "SELECT count(*) FROM t"), before + (rc ? 0 : 400));
        assert_int_equal(sum_after_crash(fx, "SELECT count(*) FROM t"), before + (rc ? 0 : 400));
        assert_true(rc == SQLITE_OK || rc == SQLITE_FULL);
    } while (rc != SQLITE_OK);
    assert_true(failed > 10);
}

/* What a rollback leaves is never written over what another connection has committed there meanwhile. */
static void a_rollback_leaves_nothing_to_write(void **state)
{
    struct wal_fixture *fx = *state;
    sqlite3 *other;

    assert_int_equal(sqlite3_open(fx->path, &other), SQLITE_OK);
    run(fx->db, "PRAGMA cache_size = 10; PRAGMA synchronous = OFF");
    run(fx->db, MANY);
    for (int i = 0; i < 40; i++) {
        char sql[200];
        run(fx->db, "BEGIN");
        snprintf(sql, sizeof(sql),
                 "INSERT INTO t(v) WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c"
                 " LIMIT %d) SELECT randomblob(2000) FROM c",
                 30 + 7 * i);
        run(fx->db, sql);
        run(fx->db, "ROLLBACK");
        run(other, "UPDATE t SET v = zeroblob(2000)"); /* more frames than those */
        run(fx->db, "INSERT INTO t(v) VALUES(zeroblob(2000))");
        assert_int_equal(ask(fx->db, "SELECT sum(length(v)) FROM t"), 2000 * (401 + i));
        assert_int_equal(sum_after_crash(fx, "SELECT sum(length(v)) FROM t"), 2000 * (401 + i));
    }
    sqlite3_close(other);
}

static int64_t wal_bytes(const struct wal_fixture *fx)
{
    char path[120];
    struct stat st;

    snprintf(path, sizeof(path), "%s-wal", fx->path);
    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* H5: most of a long commit is on its way to the disk before its sync; a hint's failure is none. A short one has no hints. */
static void a_long_commit_begins_to_be_written_early(void **state)
{
    struct wal_fixture *fx = *state;
    int64_t size;

    sqlite3_close(fx->db);
    fx->vfs.syncs = true;
    assert_int_equal(sqlite3_open_v2(fx->path, &fx->db, SQLITE_OPEN_READWRITE, fx->vfs.name),
                     SQLITE_OK);
    hints = (struct hints){0};
    run(fx->db, MANY);
    assert_in_range(hints.count, 200 / 16 - 1, 200 / 16 + 1);
    assert_false(hints.gap);
    assert_in_range(hints.from, 0, EB_PAGE_SIZE);
    assert_true((size = wal_bytes(fx)) > 0 && hints.to <= size);
    assert_in_range(size - hints.to, 0, 17 * (24 + EB_PAGE_SIZE));
    hints = (struct hints){0};
    run(fx->db, "INSERT INTO t VALUES(NULL, x'00')");
    assert_int_equal(hints.count, 0);
    assert_int_equal(ask(fx->db, "SELECT count(*) FROM t"), 401);
}

/* H5: without a sync there is nothing to be early for. */
static void what_is_not_synced_is_left_to_the_kernel(void **state)
{
    struct wal_fixture *fx = *state;

    hints = (struct hints){0};
    run(fx->db, MANY);
    assert_int_equal(hints.count, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_commit_takes_few_writes),
        T(each_commit_is_in_the_file),
        T(a_failed_write_fails_its_transaction),
        T(a_rollback_leaves_nothing_to_write),
        T(a_long_commit_begins_to_be_written_early),
        T(what_is_not_synced_is_left_to_the_kernel),
    };

    return cmocka_run_group_tests_name("wal_file", tests, NULL, NULL);
}
