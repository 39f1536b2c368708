/*
 * row_source.c - the events of a group as a virtual table, so that one INSERT ... SELECT writes all of them.
 *
 * Bound and stepped one by one, each row pays for a statement of its own: begin, a cursor, the way down the
 * tree, halt. Here the cursor stays at the end of the log from row to row (decisions/0012).
 *
 * (V1) A value is made when the statement asks for it, straight from the event: nothing is copied but by SQLite into
 *      its page, and a statement that leaves columns out (append_sqlite.c) does not pay for them.
 * (V2) The table has no name in the schema (eponymous) and is of use to its own statement only: it is empty
 *      unless somebody has put events into the source.
 */
#include <string.h>

#include "broker/store/row.h"
#include "broker/store/sqlite_internal.h"

struct source_table {
    sqlite3_vtab base;
    struct eb_row_source *source;
};

struct source_cursor {
    sqlite3_vtab_cursor base;
    const struct eb_row_source *source;
    size_t at;
};

static int connect_table(sqlite3 *db, void *aux, int argc, const char *const *argv,
                         sqlite3_vtab **ret, char **ret_error)
{
    struct source_table *table;
    int rc = sqlite3_declare_vtab(db, "CREATE TABLE x(" EB_ROW_COLUMNS ")");

    if (rc == SQLITE_OK)
        rc = sqlite3_vtab_config(db, SQLITE_VTAB_DIRECTONLY);
    if (rc != SQLITE_OK)
        return rc;
    table = sqlite3_malloc(sizeof(*table));
    if (!table)
        return SQLITE_NOMEM;
    memset(table, 0, sizeof(*table));
    table->source = aux;
    *ret = &table->base;
    return SQLITE_OK;
}

static int disconnect_table(sqlite3_vtab *base)
{
    sqlite3_free(base);
    return SQLITE_OK;
}

/* There is one way to go through it. */
static int best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    info->estimatedCost = EB_SEGMENT_SEQS;
    info->estimatedRows = EB_SEGMENT_SEQS;
    return SQLITE_OK;
}

static int open_cursor(sqlite3_vtab *base, sqlite3_vtab_cursor **ret)
{
    struct source_cursor *cursor = sqlite3_malloc(sizeof(*cursor));

    if (!cursor)
        return SQLITE_NOMEM;
    memset(cursor, 0, sizeof(*cursor));
    cursor->source = ((struct source_table *)base)->source;
    *ret = &cursor->base;
    return SQLITE_OK;
}

static int close_cursor(sqlite3_vtab_cursor *base)
{
    sqlite3_free(base);
    return SQLITE_OK;
}

static int first_row(sqlite3_vtab_cursor *base, int index, const char *text, int argc,
                     sqlite3_value **argv)
{
    ((struct source_cursor *)base)->at = 0;
    return SQLITE_OK;
}

static int next_row(sqlite3_vtab_cursor *base)
{
    ((struct source_cursor *)base)->at++;
    return SQLITE_OK;
}

static int at_end(sqlite3_vtab_cursor *base)
{
    const struct source_cursor *cursor = (const struct source_cursor *)base;

    return cursor->at >= cursor->source->count;
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *out, int index)
{
    const struct source_cursor *cursor = (const struct source_cursor *)base;

    eb_row_result(out, cursor->source->events[cursor->at], index);
    return SQLITE_OK;
}

static int row_id(sqlite3_vtab_cursor *base, sqlite3_int64 *ret)
{
    const struct source_cursor *cursor = (const struct source_cursor *)base;

    *ret = (sqlite3_int64)cursor->source->events[cursor->at]->seq;
    return SQLITE_OK;
}

static const sqlite3_module source_module = {
    .xConnect = connect_table,
    .xBestIndex = best_index,
    .xDisconnect = disconnect_table,
    .xOpen = open_cursor,
    .xClose = close_cursor,
    .xFilter = first_row,
    .xNext = next_row,
    .xEof = at_end,
    .xColumn = column,
    .xRowid = row_id,
};

int eb_row_source_register(sqlite3 *db, struct eb_row_source *source)
{
    return sqlite3_create_module(db, EB_ROW_SOURCE, &source_module, source);
}
