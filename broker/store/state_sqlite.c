/*
 * state_sqlite.c - what others keep in the log's file (state.h): consumers, open blocks, dead letters, marks.
 *
 * (Z1) All writes are made in the open transaction and nothing of them is kept in memory: a rollback leaves nothing.
 * (Z2) Each write touches one row by its key, whatever else is there; only a consumer's end and a seek, which ask for
 *      it, touch as many as it has.
 */
#include <errno.h>
#include <string.h>

#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"

enum {
    PUT_CONSUMER,
    SET_POSITION,
    DROP_CONSUMER,
    PUT_BLOCK,
    DROP_BLOCK,
    CLEAR_BLOCKS,
    ADD_DEAD,
    DROP_DEAD,
    CLEAR_DEAD,
    SET_MARK,
    GET_MARK,
    STATEMENTS
};
_Static_assert(STATEMENTS == EB_SQLITE_KEEP, "room in struct eb_sqlite");

static const char *const keep_sql[STATEMENTS] = {
    "INSERT INTO consumers(id, name, settings, made, next, first_open, redelivered, dead, lost,"
    " stopped) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT(id) DO UPDATE SET"
    " name = ?2, settings = ?3, made = ?4, next = ?5, first_open = ?6, redelivered = ?7,"
    " dead = ?8, lost = ?9, stopped = ?10",
    ("UPDATE consumers SET next = ?5, first_open = ?6, redelivered = ?7, dead = ?8, lost = ?9,"
     " stopped = ?10 WHERE id = ?1"),
    "DELETE FROM consumers WHERE id = ?1",
    "INSERT OR REPLACE INTO open_blocks(consumer, block, data) VALUES(?1, ?2, ?3)",
    "DELETE FROM open_blocks WHERE consumer = ?1 AND block = ?2",
    "DELETE FROM open_blocks WHERE consumer = ?1",
    "INSERT OR IGNORE INTO dead_letters(consumer, seq) VALUES(?1, ?2)",
    "DELETE FROM dead_letters WHERE consumer = ?1 AND seq = ?2",
    "DELETE FROM dead_letters WHERE consumer = ?1",
    "INSERT OR REPLACE INTO marks(name, value) VALUES(?1, ?2)",
    "SELECT value FROM marks WHERE name = ?1",
};

int eb_sqlite_keep_prepare(struct eb_sqlite *e)
{
    for (int i = 0; i < STATEMENTS; i++) {
        int result = eb_sql_prepare(e->db, keep_sql[i], &e->keep[i]);
        if (result < 0)
            return result;
    }
    return 0;
}

/* ---- writing ---- */

static int run(struct eb_sqlite *e, int which)
{
    int rc = eb_sqlite_run(e->keep[which]);

    return rc == SQLITE_OK ? 0 : eb_sqlite_failed(e, rc, "keeping the state of a consumer");
}

static int run_numbers(struct eb_sqlite *e, int which, uint64_t first, uint64_t second)
{
    sqlite3_bind_int64(e->keep[which], 1, (sqlite3_int64)first);
    if (sqlite3_bind_parameter_count(e->keep[which]) > 1)
        sqlite3_bind_int64(e->keep[which], 2, (sqlite3_int64)second);
    return run(e, which);
}

static int put_consumer(struct eb_sqlite *e, const struct eb_state_write *write, bool whole)
{
    sqlite3_stmt *stmt = e->keep[whole ? PUT_CONSUMER : SET_POSITION];

    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)write->consumer);
    if (whole) {
        sqlite3_bind_text(stmt, 2, write->name, -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 3, write->settings, -1, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 4, write->made_ms);
    }
    sqlite3_bind_int64(stmt, 5, (sqlite3_int64)write->next);
    sqlite3_bind_int64(stmt, 6, (sqlite3_int64)write->first_open);
    sqlite3_bind_int64(stmt, 7, (sqlite3_int64)write->counts.redelivered);
    sqlite3_bind_int64(stmt, 8, (sqlite3_int64)write->counts.dead);
    sqlite3_bind_int64(stmt, 9, (sqlite3_int64)write->counts.lost);
    sqlite3_bind_text(stmt, 10, write->stopped, -1, SQLITE_STATIC); /* NULL is NULL */
    return run(e, whole ? PUT_CONSUMER : SET_POSITION);
}

static int put_block(struct eb_sqlite *e, const struct eb_state_write *write)
{
    sqlite3_stmt *stmt = e->keep[PUT_BLOCK];

    if (write->len == 0)
        return run_numbers(e, DROP_BLOCK, write->consumer, write->block);
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)write->consumer);
    sqlite3_bind_int64(stmt, 2, (sqlite3_int64)write->block);
    sqlite3_bind_blob64(stmt, 3, write->data, write->len, SQLITE_STATIC);
    return run(e, PUT_BLOCK);
}

static int drop_consumer(struct eb_sqlite *e, uint64_t consumer)
{
    int result = run_numbers(e, DROP_CONSUMER, consumer, 0);

    if (result == 0)
        result = run_numbers(e, CLEAR_BLOCKS, consumer, 0);
    return result < 0 ? result : run_numbers(e, CLEAR_DEAD, consumer, 0);
}

static int set_mark(struct eb_sqlite *e, const struct eb_state_write *write)
{
    sqlite3_bind_text(e->keep[SET_MARK], 1, write->name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(e->keep[SET_MARK], 2, (sqlite3_int64)write->next);
    return run(e, SET_MARK);
}

int eb_sqlite_keep(struct eb_engine *engine, const struct eb_state_write *write, uint64_t first_seq)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);

    switch (write->kind) {
    case EB_STATE_CONSUMER:
        return put_consumer(e, write, true);
    case EB_STATE_POSITION:
        return put_consumer(e, write, false);
    case EB_STATE_DROP:
        return drop_consumer(e, write->consumer);
    case EB_STATE_BLOCK:
        return put_block(e, write);
    case EB_STATE_BLOCKS_CLEAR:
        return run_numbers(e, CLEAR_BLOCKS, write->consumer, 0);
    case EB_STATE_DEAD_ADD:
        return run_numbers(e, ADD_DEAD, write->consumer, write->seq ? write->seq : first_seq);
    case EB_STATE_DEAD_DROP:
        return run_numbers(e, DROP_DEAD, write->consumer, write->seq);
    case EB_STATE_MARK:
        return set_mark(e, write);
    }
    return -EINVAL;
}

/* ---- reading ---- */

int eb_sqlite_mark(struct eb_engine *engine, const char *name, uint64_t *ret)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    sqlite3_stmt *stmt = e->keep[GET_MARK];

    sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
    int rc = sqlite3_step(stmt);
    uint64_t value = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_reset(stmt);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        eb_sqlite_failed(e, rc, "reading a mark");
        return -EIO;
    }
    *ret = value;
    return 0;
}

static int load_failed(struct eb_sqlite *e, int rc)
{
    int result = eb_sqlite_failed(e, rc, "reading the consumers");

    return result == -EBADMSG || result == -ENOMEM ? result : -EIO;
}

static int load_blocks(struct eb_sqlite *e, sqlite3_stmt *stmt, uint64_t consumer,
                       const struct eb_state_loader *loader)
{
    int rc = SQLITE_DONE, result = 0;

    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)consumer);
    while (result >= 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
        result = loader->block(loader->ctx, consumer, (uint64_t)sqlite3_column_int64(stmt, 0),
                               sqlite3_column_blob(stmt, 1), (size_t)sqlite3_column_bytes(stmt, 1));
    sqlite3_reset(stmt);
    if (result < 0)
        return result;
    return rc == SQLITE_DONE ? 0 : load_failed(e, rc);
}

static int load_consumer(struct eb_sqlite *e, sqlite3_stmt *stmt, sqlite3_stmt *blocks,
                         const struct eb_state_loader *loader)
{
    struct eb_state_consumer row = {
        .id = (uint64_t)sqlite3_column_int64(stmt, 0),
        .name = (const char *)sqlite3_column_text(stmt, 1),
        .settings = (const char *)sqlite3_column_text(stmt, 2),
        .made_ms = sqlite3_column_int64(stmt, 3),
        .next = (uint64_t)sqlite3_column_int64(stmt, 4),
        .first_open = (uint64_t)sqlite3_column_int64(stmt, 5),
        .counts = {.redelivered = (uint64_t)sqlite3_column_int64(stmt, 6),
                   .dead = (uint64_t)sqlite3_column_int64(stmt, 7),
                   .lost = (uint64_t)sqlite3_column_int64(stmt, 8)},
        .stopped = (const char *)sqlite3_column_text(stmt, 9),
    };

    if (!row.name || !row.settings)
        return -ENOMEM; /* NOT NULL both */
    int result = loader->consumer(loader->ctx, &row);
    return result < 0 ? result : load_blocks(e, blocks, row.id, loader);
}

int eb_sqlite_load_kept(struct eb_engine *engine, const struct eb_state_loader *loader)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    sqlite3_stmt *stmt = NULL, *blocks = NULL;
    int rc = sqlite3_prepare_v2(e->db,
                                "SELECT id, name, settings, made, next, first_open, redelivered,"
                                " dead, lost, stopped FROM consumers ORDER BY id",
                                -1, &stmt, NULL);
    int result = 0;

    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(
            e->db, "SELECT block, data FROM open_blocks WHERE consumer = ?1 ORDER BY block", -1,
            &blocks, NULL);
    if (rc == SQLITE_OK)
        while (result >= 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
            result = load_consumer(e, stmt, blocks, loader);
    if (result >= 0)
        result = rc == SQLITE_DONE ? 0 : load_failed(e, rc);
    sqlite3_finalize(blocks);
    sqlite3_finalize(stmt);
    return result;
}
