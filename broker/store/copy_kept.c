/*
 * copy_kept.c - what is kept beside the events, read from a log that a broker may be writing to: for a copy of it, or to
 * see whether it fits together.
 *
 * What is scheduled may be much: its rows are read in short reads, and the read that fixes the copy's end goes only through
 * the index to see which are still there, and takes what came meanwhile. The rest is small.
 */
#include <stdio.h>

#include "broker/store/build.h"
#include "broker/store/copy.h"
#include "broker/store/scheduled_row.h"

#define ROWS_A_READ  512
#define BYTES_A_READ (4u << 20)
#define LINES_MAX    1000

static void say(struct eb_copy_kept *copy, uint64_t *counter, const char *format, uint64_t number)
{
    char line[160];

    if (++*counter > LINES_MAX || !copy->ops->report)
        return;
    snprintf(line, sizeof(line), format, (unsigned long long)number);
    copy->ops->report(copy->ops->ctx, line);
}

int eb_copy_kept_begin(struct eb_copy_kept *copy)
{
    int version = 0;
    int rc = eb_schema_version(copy->from, &version);

    copy->there = version >= 3;
    return rc;
}

/* ---- what is scheduled ---- */

static int one_scheduled(struct eb_copy_kept *copy, sqlite3_stmt *stmt, size_t *bytes)
{
    struct eb_scheduled_row row;
    int rc = eb_scheduled_row_read(stmt, &row);

    copy->place = row.place;
    if (rc < 0) {
        say(copy, copy->build ? &copy->sum->damaged : &copy->sum->problems,
            copy->build ? "lost: the scheduled event in place %llu"
                        : "scheduled: the event in place %llu is damaged",
            row.place);
        return 0;
    }
    *bytes += row.draft.payload_len;
    return copy->build ? eb_build_scheduled(copy->build, &row) : 0;
}

int eb_copy_scheduled(struct eb_copy_kept *copy)
{
    sqlite3_stmt *stmt = NULL;
    int64_t top =
        0; /* as it is now: what comes faster than it can be read is left to the last read */
    int step = SQLITE_ROW, rc = 0;

    if (!copy->there)
        return 0;
    rc = eb_sql_int(copy->from, "SELECT max(place) FROM scheduled", 0, &top);
    if (!rc)
        rc = eb_sql_prepare(copy->from,
                            "SELECT " EB_SCHEDULED_COLUMNS " FROM scheduled WHERE place > ?1"
                            " AND place <= ?2 ORDER BY place",
                            &stmt);
    if (!rc)
        sqlite3_bind_int64(stmt, 2, top);
    for (int n = 1; !rc && n > 0;) {
        size_t bytes = 0;
        sqlite3_bind_int64(stmt, 1, (sqlite3_int64)copy->place);
        for (n = 0; !rc && n < ROWS_A_READ && bytes < BYTES_A_READ &&
                    (step = sqlite3_step(stmt)) == SQLITE_ROW;
             n++)
            rc = one_scheduled(copy, stmt, &bytes);
        if (!rc)
            rc = eb_sql_errno(copy->from, step);
        sqlite3_reset(stmt);
    }
    sqlite3_finalize(stmt);
    return rc;
}

/* ---- the rest ---- */

typedef int take_fn(struct eb_copy_kept *copy, sqlite3_stmt *stmt);

static int each(struct eb_copy_kept *copy, const char *sql, take_fn *take)
{
    sqlite3_stmt *stmt = NULL;
    int rc = eb_sql_prepare(copy->from, sql, &stmt), step = SQLITE_DONE;

    while (!rc && (step = sqlite3_step(stmt)) == SQLITE_ROW)
        rc = take(copy, stmt);
    if (!rc)
        rc = eb_sql_errno(copy->from, step);
    sqlite3_finalize(stmt);
    return rc;
}

static uint64_t column(sqlite3_stmt *stmt, int i)
{
    return (uint64_t)sqlite3_column_int64(stmt, i);
}

static int take_consumer(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    struct eb_state_consumer c = {
        .id = column(stmt, 0),
        .name = (const char *)sqlite3_column_text(stmt, 1),
        .settings = (const char *)sqlite3_column_text(stmt, 2),
        .made_ms = sqlite3_column_int64(stmt, 3),
        .next = column(stmt, 4),
        .first_open = column(stmt, 5),
        .counts = {column(stmt, 6), column(stmt, 7), column(stmt, 8)},
        .stopped = (const char *)sqlite3_column_text(stmt, 9),
    };
    return eb_build_consumer(copy->build, &c);
}

static int take_block(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    return eb_build_block(copy->build, column(stmt, 0), column(stmt, 1),
                          sqlite3_column_blob(stmt, 2), (size_t)sqlite3_column_bytes(stmt, 2));
}

static int take_dead(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    return eb_build_dead(copy->build, column(stmt, 0), column(stmt, 1));
}

static int take_mark(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    return eb_build_mark(copy->build, (const char *)sqlite3_column_text(stmt, 0),
                         (size_t)sqlite3_column_bytes(stmt, 0), column(stmt, 1));
}

/* Also of a topic that has no event left: its last seq outlives them. */
static int take_last(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    uint32_t id = (uint32_t)column(stmt, 0);
    const char *name = (const char *)sqlite3_column_text(stmt, 1);
    int rc = eb_build_topic(copy->build, id, name, (size_t)sqlite3_column_bytes(stmt, 1));

    return rc ? rc : eb_build_topic_last(copy->build, id, column(stmt, 2));
}

static int take_there(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    return eb_build_scheduled_there(copy->build, column(stmt, 1), sqlite3_column_int64(stmt, 0));
}

int eb_copy_kept_end(struct eb_copy_kept *copy)
{
    static const struct {
        const char *sql;
        take_fn *take;
    } all[] = {
        {"SELECT id, name, settings, made, next, first_open, redelivered, dead, lost, stopped FROM"
         " consumers ORDER BY id",
         take_consumer},
        {"SELECT consumer, block, data FROM open_blocks", take_block},
        {"SELECT consumer, seq FROM dead_letters", take_dead},
        {"SELECT name, value FROM marks", take_mark},
        {"SELECT id, name, last_seq FROM topics WHERE last_seq > 0", take_last},
        {"SELECT due, place FROM scheduled INDEXED BY scheduled_due ORDER BY due, place",
         take_there},
    };
    int rc = copy->there ? eb_build_scheduled_told(copy->build) : 0;

    for (size_t i = 0; !rc && copy->there && i < sizeof(all) / sizeof(*all); i++)
        rc = each(copy, all[i].sql, all[i].take);
    return rc ? rc : eb_copy_scheduled(copy);
}

/* ---- does it fit together ---- */

static int lost_block(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    say(copy, &copy->sum->problems,
        "open_blocks: there are blocks of consumer %llu, which is not there", column(stmt, 0));
    return 0;
}

static int lost_dead(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    say(copy, &copy->sum->problems,
        "dead_letters: there are some of consumer %llu, which is not there", column(stmt, 0));
    return 0;
}

static int bad_position(struct eb_copy_kept *copy, sqlite3_stmt *stmt)
{
    say(copy, &copy->sum->problems,
        "consumers: the position of consumer %llu lies beyond the last seq, or before what it has "
        "open",
        column(stmt, 0));
    return 0;
}

int eb_look_at_kept(struct eb_copy_kept *copy, uint64_t last)
{
    char sql[160];
    int rc;

    if (!copy->there)
        return 0;
    rc = each(copy,
              "SELECT DISTINCT consumer FROM open_blocks WHERE consumer NOT IN (SELECT id FROM"
              " consumers)",
              lost_block);
    if (!rc)
        rc = each(copy,
                  "SELECT DISTINCT consumer FROM dead_letters WHERE consumer NOT IN (SELECT id FROM"
                  " consumers)",
                  lost_dead);
    snprintf(sql, sizeof(sql),
             "SELECT id FROM consumers WHERE next > %llu OR first_open > next OR next < 0",
             (unsigned long long)last + 1);
    return rc ? rc : each(copy, sql, bad_position);
}
