/*
 * sqlite.c - what SQLite itself gives: rows inserted in WAL mode with synchronous = FULL and no index, and rows read
 * back in pages of 256 by rowid. No broker on it is faster, whatever it does around it.
 */
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/raw/raw.h"

#define PAGE_ROWS 256

struct raw_rows {
    char path[4096];
    sqlite3 *db;
    sqlite3_stmt *insert, *begin, *commit;
    char *payload;
    unsigned bytes;
    uint64_t seq; /* of the last row */
};

static int say(struct raw_rows *base, const char *what)
{
    fprintf(stderr, "sqlite: %s: %s\n", what, base->db ? sqlite3_errmsg(base->db) : "no memory");
    return -1;
}

static void base_remove(struct raw_rows *base)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    char path[4096 + 8];

    sqlite3_finalize(base->insert);
    sqlite3_finalize(base->begin);
    sqlite3_finalize(base->commit);
    sqlite3_close(base->db);
    free(base->payload);
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
        snprintf(path, sizeof(path), "%s%s", base->path, ends[i]);
        unlink(path);
    }
}

static int base_make(struct raw_rows *base, const struct raw_options *options,
                     const char *synchronous)
{
    char pragmas[200];

    *base = (struct raw_rows){.bytes = options->bytes};
    snprintf(base->path, sizeof(base->path), "%s", raw_path(options, "raw-sqlite.db"));
    snprintf(pragmas, sizeof(pragmas),
             "PRAGMA journal_mode = WAL; PRAGMA synchronous = %s;"
             "CREATE TABLE t (seq INTEGER PRIMARY KEY, payload BLOB);",
             synchronous);
    base->payload = malloc(base->bytes + 1);
    if (base->payload == NULL)
        return -1;
    memset(base->payload, 'x', base->bytes);
    if (sqlite3_open(base->path, &base->db) != SQLITE_OK ||
        sqlite3_exec(base->db, pragmas, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(base->db, "INSERT INTO t (seq, payload) VALUES (?, ?)", -1,
                           &base->insert, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(base->db, "BEGIN IMMEDIATE", -1, &base->begin, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(base->db, "COMMIT", -1, &base->commit, NULL) != SQLITE_OK)
        return say(base, base->path);
    return 0;
}

static int step(sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt);

    sqlite3_reset(stmt);
    return rc == SQLITE_DONE ? 0 : -1;
}

int raw_rows_commit(struct raw_rows *base, unsigned rows)
{
    int rc = step(base->begin);

    for (unsigned i = 0; i < rows && rc == 0; i++) {
        sqlite3_bind_int64(base->insert, 1, (sqlite3_int64)++base->seq);
        sqlite3_bind_blob(base->insert, 2, base->payload, (int)base->bytes, SQLITE_STATIC);
        rc = step(base->insert);
    }
    return rc == 0 ? step(base->commit) : rc;
}

struct raw_rows *raw_rows_open(const struct raw_options *options, const char *synchronous)
{
    struct raw_rows *rows = malloc(sizeof(*rows));

    if (rows && base_make(rows, options, synchronous) < 0) {
        raw_rows_close(rows);
        rows = NULL;
    }
    return rows;
}

void raw_rows_close(struct raw_rows *rows)
{
    base_remove(rows);
    free(rows);
}

int raw_sqlite_insert(const struct raw_options *options)
{
    struct raw_rows base;
    struct raw_times times = {0};
    char name[40];
    int rc = base_make(&base, options, "FULL");
    double start = raw_now(), now = start;

    while (rc == 0 && now - start < options->seconds) {
        rc = raw_rows_commit(&base, options->batch);
        double end = raw_now();
        if (rc < 0 || raw_times_add(&times, end - now) < 0)
            rc = say(&base, "insert");
        now = end;
    }
    if (rc == 0) {
        snprintf(name, sizeof(name), "sqlite-insert-%u", options->batch);
        raw_print(name, (double)base.seq, now - start, &times);
    }
    base_remove(&base);
    return rc;
}

/*
 * Rows that come at an even pace, each committed with all that came meanwhile: from when one comes to the end of its
 * commit. Half of a commit is waited for by whoever comes during it; no broker that commits with SQLite is spared that.
 */
int raw_sqlite_paced(const struct raw_options *options)
{
    struct raw_rows base;
    struct raw_times times = {0};
    int rc = base_make(&base, options, "FULL");
    double start = raw_now(), now = start;

    while (rc == 0 && now - start < options->seconds) {
        uint64_t come = (uint64_t)((now - start) * options->rate), before = base.seq;
        if (come > before) {
            rc = raw_rows_commit(&base, (unsigned)(come - before));
            now = raw_now();
            for (uint64_t i = before; i < come && rc == 0; i++)
                rc = raw_times_add(&times, now - start - (double)(i + 1) / options->rate);
            if (rc < 0)
                say(&base, "insert");
        } else { /* not asleep: to be woken is not the disk's time */
            now = raw_now();
        }
    }
    if (rc == 0)
        raw_print("sqlite-paced", (double)base.seq, now - start, &times);
    base_remove(&base);
    return rc;
}

/* One page: rows with seq > *from. Returns how many, or -1. */
static int read_page(sqlite3_stmt *select, sqlite3_int64 *from, uint64_t *bytes)
{
    int rows = 0, rc;

    sqlite3_bind_int64(select, 1, *from);
    while ((rc = sqlite3_step(select)) == SQLITE_ROW) {
        *from = sqlite3_column_int64(select, 0);
        const unsigned char *blob = sqlite3_column_blob(select, 1);
        *bytes += blob[0] + (unsigned)sqlite3_column_bytes(select, 1);
        rows++;
    }
    sqlite3_reset(select);
    return rc == SQLITE_DONE ? rows : -1;
}

int raw_sqlite_select(const struct raw_options *options)
{
    struct raw_rows base;
    sqlite3_stmt *select = NULL;
    uint64_t rows = 0, bytes = 0;
    int rc = base_make(&base, options, "OFF");

    while (rc == 0 && base.seq < options->events)
        rc = raw_rows_commit(&base, 4096);
    if (rc == 0 && sqlite3_prepare_v2(
                       base.db, "SELECT seq, payload FROM t WHERE seq > ? ORDER BY seq LIMIT 256",
                       -1, &select, NULL) != SQLITE_OK)
        rc = -1;
    double start = raw_now(), now = start;
    while (rc == 0 &&
           now - start < options->seconds) { /* from the start again when it is through */
        int got = PAGE_ROWS;
        for (sqlite3_int64 from = 0; got == PAGE_ROWS;) {
            got = read_page(select, &from, &bytes);
            rows += got > 0 ? (uint64_t)got : 0;
        }
        rc = got < 0 ? -1 : 0;
        now = raw_now();
    }
    if (rc == 0 && bytes != 0)
        raw_print("sqlite-select", (double)rows, now - start, NULL);
    else
        rc = say(&base, "select");
    sqlite3_finalize(select);
    base_remove(&base);
    return rc;
}
