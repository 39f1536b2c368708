/*
 * outbox_table.c - the tables of an outbox in the program's own database (outbox.h).
 */
#include "broker/outbox.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/uuid.h"

#define BUSY_MS 5000

static const char tables_sql[] =
    "CREATE TABLE IF NOT EXISTS eventbus_outbox(place INTEGER PRIMARY KEY, id BLOB NOT NULL,"
    "  topic TEXT NOT NULL, payload BLOB NOT NULL, content_type TEXT, headers TEXT,"
    "  ttl INTEGER, deliver_at INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE IF NOT EXISTS eventbus_outbox_refused(place INTEGER PRIMARY KEY, id BLOB NOT "
    "NULL,"
    "  topic TEXT NOT NULL, payload BLOB NOT NULL, content_type TEXT, headers TEXT,"
    "  ttl INTEGER, deliver_at INTEGER NOT NULL, code TEXT NOT NULL, why TEXT NOT NULL,"
    "  at INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS eventbus_outbox_state(one INTEGER PRIMARY KEY CHECK(one = 1),"
    "  id TEXT NOT NULL, top INTEGER NOT NULL);";

#define COLUMNS "place, id, topic, payload, content_type, headers, ttl, deliver_at"

int eb_outbox_failed(sqlite3 *db, int rc, char *err)
{
    if (err)
        snprintf(err, EB_BROKER_ERROR, "outbox: %s", sqlite3_errmsg(db));
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_READONLY:
        return -EACCES;
    case SQLITE_NOTADB:
    case SQLITE_ERROR: /* no such table or column */
        return -EINVAL;
    default:
        return -EIO;
    }
}

/* ---- opening ---- */

/* The outbox's id (X3), made with the table. */
static int read_id(sqlite3 *db, char ret_id[37])
{
    char fresh[EB_UUID_TEXT + 1];
    uint8_t id[16];
    sqlite3_stmt *stmt = NULL;
    eb_uuid_v4(id);
    eb_uuid_format(fresh, id);
    int rc = sqlite3_prepare_v2(
        db, "INSERT OR IGNORE INTO eventbus_outbox_state(one, id, top) VALUES(1, ?1, 0)", -1, &stmt,
        NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 1, fresh, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    sqlite3_finalize(stmt);
    if (rc != SQLITE_DONE)
        return rc;
    rc = sqlite3_prepare_v2(db, "SELECT id FROM eventbus_outbox_state", -1, &stmt, NULL);
    if (rc != SQLITE_OK)
        return rc;
    rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        snprintf(ret_id, EB_UUID_TEXT + 1, "%s", (const char *)sqlite3_column_text(stmt, 0));
        rc = SQLITE_OK;
    }
    sqlite3_finalize(stmt);
    return rc;
}

static int make_tables(sqlite3 *db, char ret_id[37])
{
    /* IMMEDIATE: two programs that open at once make one id. */
    int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, tables_sql, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = read_id(db, ret_id);
    if (rc == SQLITE_OK) /* are they ours? */
        rc = sqlite3_exec(db, "SELECT " COLUMNS " FROM eventbus_outbox LIMIT 0", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    return rc;
}

int eb_outbox_db_open(const char *path, sqlite3 **ret, char ret_id[37], char err[EB_BROKER_ERROR])
{
    sqlite3 *db = NULL;
    int rc = sqlite3_open_v2(
        path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_busy_timeout(db, BUSY_MS);
        rc = make_tables(db, ret_id);
    }
    if (rc != SQLITE_OK) {
        rc = eb_outbox_failed(db, rc, err);
        sqlite3_close(db);
        return rc;
    }
    /* What this connection deletes may come back after a power cut: it is at or below the mark (X2). */
    sqlite3_exec(db, "PRAGMA synchronous = NORMAL", NULL, NULL, NULL);
    *ret = db;
    return 0;
}

/* ---- the program's side ---- */

static void bind_text(sqlite3_stmt *stmt, int at, const char *text, size_t len)
{
    if (text)
        sqlite3_bind_text(stmt, at, text, (int)len, SQLITE_STATIC);
}

int eb_outbox_insert(sqlite3 *db, const struct eb_draft *draft, char err[EB_BROKER_ERROR])
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(
        db,
        "INSERT INTO eventbus_outbox(" COLUMNS ") VALUES(max(?1,"
        "  1 + ifnull((SELECT max(place) FROM eventbus_outbox), 0),"
        "  1 + ifnull((SELECT top FROM eventbus_outbox_state), 0)), ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        -1, &stmt, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(stmt, 1, eb_wall_ms() * 1000); /* X1 */
        sqlite3_bind_blob(stmt, 2, draft->id, 16, SQLITE_STATIC);
        bind_text(stmt, 3, draft->topic, draft->topic_len);
        sqlite3_bind_blob(stmt, 4, draft->payload ? draft->payload : "", (int)draft->payload_len,
                          SQLITE_STATIC);
        bind_text(stmt, 5, draft->content_type, draft->content_type_len);
        bind_text(stmt, 6, draft->headers, draft->headers_len);
        if (draft->ttl != EB_TTL_UNSET)
            sqlite3_bind_int64(stmt, 7, draft->ttl);
        sqlite3_bind_int64(stmt, 8, draft->deliver_at_ms);
        rc = sqlite3_step(stmt);
    }
    int result = rc == SQLITE_DONE ? 0 : eb_outbox_failed(db, rc, err);
    sqlite3_finalize(stmt);
    return result;
}

/* ---- the relay's side ---- */

/* A column's bytes into the batch; *ret_len 0 also for NULL. */
static void take(struct eb_outbox_batch *batch, sqlite3_stmt *stmt, int column, size_t *ret,
                 size_t *ret_len)
{
    const void *data = sqlite3_column_blob(stmt, column);
    *ret = batch->texts.len;
    *ret_len = (size_t)sqlite3_column_bytes(stmt, column);
    if (*ret_len > 0)
        eb_buf_add(&batch->texts, data, *ret_len);
}

static void take_row(struct eb_outbox_batch *batch, sqlite3_stmt *stmt)
{
    struct eb_outbox_row *row = &batch->rows[batch->count++];
    *row = (struct eb_outbox_row){.place = sqlite3_column_int64(stmt, 0)};
    if (sqlite3_column_bytes(stmt, 1) == 16)
        memcpy(row->id, sqlite3_column_blob(stmt, 1), 16);
    take(batch, stmt, 2, &row->topic, &row->topic_len);
    take(batch, stmt, 3, &row->payload, &row->payload_len);
    take(batch, stmt, 4, &row->content_type, &row->content_type_len);
    take(batch, stmt, 5, &row->headers, &row->headers_len);
    row->ttl =
        sqlite3_column_type(stmt, 6) == SQLITE_NULL ? EB_TTL_UNSET : sqlite3_column_int64(stmt, 6);
    row->deliver_at = sqlite3_column_int64(stmt, 7);
}

int eb_outbox_read(sqlite3 *db, int64_t after, struct eb_outbox_batch *ret)
{
    sqlite3_stmt *stmt = NULL;
    ret->count = 0;
    ret->texts.len = 0;
    int rc = sqlite3_prepare_v2(
        db, "SELECT " COLUMNS " FROM eventbus_outbox WHERE place > ?1 ORDER BY place", -1, &stmt,
        NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 1, after);
    while (rc == SQLITE_OK && ret->count < EB_OUTBOX_ROWS && ret->texts.len < EB_OUTBOX_BYTES &&
           (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        take_row(ret, stmt);
        rc = SQLITE_OK;
    }
    int result = rc == SQLITE_OK || rc == SQLITE_DONE ? 0 : eb_outbox_failed(db, rc, NULL);
    sqlite3_finalize(stmt);
    return result == 0 && eb_buf_failed(&ret->texts) ? -ENOMEM : result;
}

void eb_outbox_draft(const struct eb_outbox_batch *batch, const struct eb_outbox_row *row,
                     struct eb_draft *ret)
{
    const char *texts = batch->texts.data;
    *ret = (struct eb_draft){
        .topic = texts + row->topic,
        .topic_len = row->topic_len,
        .payload = row->payload_len > 0 ? texts + row->payload : "",
        .payload_len = row->payload_len,
        .content_type = row->content_type_len > 0 ? texts + row->content_type : NULL,
        .content_type_len = row->content_type_len,
        .headers = row->headers_len > 0 ? texts + row->headers : NULL,
        .headers_len = row->headers_len,
        .ttl = row->ttl,
        .deliver_at_ms = row->deliver_at,
        .has_id = true,
    };
    memcpy(ret->id, row->id, 16);
}

/* Run @sql, whose ?1 is @place and whose ?2 and ?3 are texts if it has them. */
static int run(sqlite3 *db, const char *sql, int64_t place, const char *code, const char *why)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(stmt, 1, place);
        if (code) {
            sqlite3_bind_text(stmt, 2, code, -1, SQLITE_STATIC);
            sqlite3_bind_text(stmt, 3, why, -1, SQLITE_STATIC);
            sqlite3_bind_int64(stmt, 4, eb_wall_ms());
        }
        rc = sqlite3_step(stmt);
    }
    sqlite3_finalize(stmt);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* Two statements in one transaction. */
static int both(sqlite3 *db, const char *first, const char *code, const char *why,
                const char *second, int64_t place)
{
    int rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = run(db, first, place, code, why);
    if (rc == SQLITE_OK)
        rc = run(db, second, place, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        return 0;
    int result = eb_outbox_failed(db, rc, NULL);
    if (!sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return result;
}

int eb_outbox_forget(sqlite3 *db, int64_t upto)
{
    return both(db, "UPDATE eventbus_outbox_state SET top = max(top, ?1)", NULL, NULL,
                "DELETE FROM eventbus_outbox WHERE place <= ?1", upto);
}

int eb_outbox_refuse(sqlite3 *db, int64_t place, const char *code, const char *why)
{
    return both(db,
                "INSERT OR REPLACE INTO eventbus_outbox_refused(" COLUMNS ", code, why, at)"
                " SELECT " COLUMNS ", ?2, ?3, ?4 FROM eventbus_outbox WHERE place = ?1",
                code, why, "DELETE FROM eventbus_outbox WHERE place = ?1", place);
}
