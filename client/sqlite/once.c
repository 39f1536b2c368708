/*
 * once.c - libeventbus-sqlite: what an event changes and the note that it was applied, in one transaction.
 *
 * (O1) The note is looked up inside the write transaction: two processes on one database cannot both find it missing.
 * (O2) Nothing is kept in memory but statements: what counts is what was committed.
 * (O3) It knows nothing of the client but types, so that a program may link it beside any way of receiving events.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqlite3.h>

#include <eventbus/client_sqlite.h>

enum statement { BEGIN, READ, MOVE, SEE, COMMIT, ROLLBACK, FORGET, STATEMENTS };

struct eb_once {
    sqlite3 *db;
    sqlite3_stmt *stmt[STATEMENTS];
    bool open;    /* our transaction */
    uint64_t seq; /* of the event in it */
    char epoch[37];
    char resume[37]; /* eb_once_resume */
    char name[256];
};

static const char tables[] =
    "CREATE TABLE IF NOT EXISTS eventbus_once(name TEXT PRIMARY KEY, epoch TEXT NOT NULL, seq "
    "INTEGER NOT NULL) "
    "WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS eventbus_once_seen(name TEXT NOT NULL, epoch TEXT NOT NULL, seq "
    "INTEGER NOT NULL, "
    "at INTEGER NOT NULL, PRIMARY KEY(name, epoch, seq)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS eventbus_once_seen_at ON eventbus_once_seen(name, at);";

static const char move[] =
    "INSERT INTO eventbus_once(name, seq, epoch) VALUES (?1, ?2, ?3) "
    "ON CONFLICT(name) DO UPDATE SET seq = excluded.seq, epoch = excluded.epoch";
static const char see[] = "INSERT OR IGNORE INTO eventbus_once_seen(name, seq, epoch, at) "
                          "VALUES (?1, ?2, ?3, unixepoch())";

static const char *const texts[STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [READ] = "SELECT seq, epoch FROM eventbus_once WHERE name = ?1",
    [MOVE] = move,
    [SEE] = see,
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [FORGET] = "DELETE FROM eventbus_once_seen WHERE name = ?1 AND at < unixepoch() - ?2",
};

static int result_of(int sqlite)
{
    switch (sqlite & 0xff) {
    case SQLITE_NOMEM:
        return EB_RESULT_MEMORY;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EB_RESULT_UNAVAILABLE;
    case SQLITE_FULL:
        return EB_RESULT_STORAGE_FULL;
    default:
        return EB_RESULT_INTERNAL;
    }
}

/* One statement without a row that is wanted. 0 or a result. */
static int run(eb_once *once, enum statement which)
{
    int rc = sqlite3_step(once->stmt[which]);

    sqlite3_reset(once->stmt[which]);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? EB_RESULT_OK : result_of(rc);
}

EB_API int eb_once_open(sqlite3 *db, const char *name, eb_once **ret)
{
    size_t len = name ? strlen(name) : 0;
    eb_once *once;
    int rc;

    if (!db || !ret || len < 1 || len > 255 || !sqlite3_get_autocommit(db))
        return EB_RESULT_INVALID;
    once = calloc(1, sizeof(*once));
    if (!once)
        return EB_RESULT_MEMORY;
    once->db = db;
    memcpy(once->name, name, len + 1);
    rc = sqlite3_exec(db, tables, NULL, NULL, NULL);
    for (int i = 0; i < STATEMENTS && rc == SQLITE_OK; i++) {
        rc = sqlite3_prepare_v3(db, texts[i], -1, SQLITE_PREPARE_PERSISTENT, &once->stmt[i], NULL);
        if (rc == SQLITE_OK && sqlite3_bind_parameter_count(once->stmt[i]) > 0)
            rc = sqlite3_bind_text(once->stmt[i], 1, once->name, -1, SQLITE_STATIC);
    }
    if (rc != SQLITE_OK) {
        eb_once_close(once);
        return result_of(rc);
    }
    *ret = once;
    return EB_RESULT_OK;
}

EB_API void eb_once_close(eb_once *once)
{
    if (!once)
        return;
    eb_once_rollback(once);
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(once->stmt[i]);
    free(once);
}

/* ---- the cursor ---- */

/* 0 or a result. Without a note: seq 0, epoch "". */
static int read_cursor(eb_once *once, uint64_t *ret_seq, char epoch[37])
{
    sqlite3_stmt *stmt = once->stmt[READ];
    int rc = sqlite3_step(stmt);

    *ret_seq = 0;
    epoch[0] = '\0';
    if (rc == SQLITE_ROW) {
        *ret_seq = (uint64_t)sqlite3_column_int64(stmt, 0);
        snprintf(epoch, 37, "%s", (const char *)sqlite3_column_text(stmt, 1));
    }
    sqlite3_reset(stmt);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? EB_RESULT_OK : result_of(rc);
}

EB_API uint64_t eb_once_position(eb_once *once, char epoch[37])
{
    char room[37];
    uint64_t seq;

    read_cursor(once, &seq, epoch ? epoch : room);
    return seq;
}

EB_API void eb_once_resume(eb_once *once, eb_subscribe_options *options)
{
    options->starting_seq = eb_once_position(once, once->resume) + 1;
    options->epoch = once->resume[0] ? once->resume : NULL;
}

static bool sound(uint64_t seq, const char *epoch)
{
    return seq > 0 && seq < (uint64_t)1 << 53 && epoch &&
           strlen(epoch) < sizeof(((eb_once *)0)->epoch);
}

static int begin(eb_once *once, uint64_t seq, const char *epoch)
{
    int rc;

    if (!sound(seq, epoch) || once->open || !sqlite3_get_autocommit(once->db))
        return EB_RESULT_INVALID;
    rc = run(once, BEGIN);
    if (rc < 0)
        return rc;
    once->open = true;
    once->seq = seq;
    strcpy(once->epoch, epoch);
    return EB_RESULT_OK;
}

EB_API int eb_once_begin(eb_once *once, uint64_t seq, const char *epoch)
{
    char last_epoch[37];
    uint64_t last;
    int rc;

    if (!epoch || !epoch[0])
        return EB_RESULT_INVALID; /* without it a cursor means nothing */
    rc = begin(once, seq, epoch);
    if (rc < 0)
        return rc;
    rc = read_cursor(once, &last, last_epoch); /* O1 */
    if (rc == 0 && (last < seq || strcmp(last_epoch, epoch) != 0))
        return 1;
    eb_once_rollback(once);
    return rc;
}

/* @note: the statement that notes the event, or -1: it is noted already. */
static int commit(eb_once *once, int note)
{
    int rc = once->open ? EB_RESULT_OK : EB_RESULT_INVALID;

    if (rc == 0 && note >= 0) {
        sqlite3_bind_int64(once->stmt[note], 2, (sqlite3_int64)once->seq);
        sqlite3_bind_text(once->stmt[note], 3, once->epoch, -1, SQLITE_STATIC);
        rc = run(once, (enum statement)note);
    }
    if (rc == 0)
        rc = run(once, COMMIT);
    if (rc == 0)
        once->open = false;
    else
        eb_once_rollback(once);
    return rc;
}

EB_API int eb_once_commit(eb_once *once)
{
    return commit(once, MOVE);
}

EB_API void eb_once_rollback(eb_once *once)
{
    if (once->open && !sqlite3_get_autocommit(once->db))
        run(once, ROLLBACK);
    once->open = false;
}

EB_API int eb_once_apply(eb_once *once, const eb_message *message, const char *epoch,
                         eb_once_fn *apply, void *user)
{
    int rc = eb_once_begin(once, message->seq, epoch);

    if (rc != 1)
        return rc;
    rc = apply(user, once->db, message);
    if (rc < 0) {
        eb_once_rollback(once);
        return rc;
    }
    rc = eb_once_commit(once);
    return rc < 0 ? rc : 1;
}

/* ---- any order ---- */

EB_API int eb_once_apply_any(eb_once *once, const eb_message *message, const char *epoch,
                             eb_once_fn *apply, void *user)
{
    int rc = begin(once, message->seq, epoch);

    if (rc < 0)
        return rc;
    sqlite3_bind_int64(once->stmt[SEE], 2, (sqlite3_int64)message->seq);
    sqlite3_bind_text(once->stmt[SEE], 3, once->epoch, -1, SQLITE_STATIC);
    rc = run(once, SEE);
    if (rc == 0 && sqlite3_changes(once->db) == 0) { /* O1: it is there */
        eb_once_rollback(once);
        return 0;
    }
    if (rc == 0)
        rc = apply(user, once->db, message);
    if (rc < 0) {
        eb_once_rollback(once);
        return rc;
    }
    rc = commit(once, -1);
    return rc < 0 ? rc : 1;
}

EB_API int eb_once_forget(eb_once *once, int64_t seconds)
{
    if (seconds < 0)
        return EB_RESULT_INVALID;
    sqlite3_bind_int64(once->stmt[FORGET], 2, seconds);
    return run(once, FORGET);
}
