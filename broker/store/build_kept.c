/*
 * build_kept.c - what is kept beside the events, put into a new log: consumers, their open blocks and dead letters,
 * marks, what waits until it is due; and made to fit the log that it came with.
 */
#include "broker/store/build_internal.h"
#include "broker/store/schema.h"

static int put_numbers(struct eb_build *build, int which, uint64_t first, uint64_t second)
{
    bool fresh;

    sqlite3_bind_int64(build->put[which], 1, (sqlite3_int64)first);
    sqlite3_bind_int64(build->put[which], 2, (sqlite3_int64)second);
    return eb_build_put(build, which, &fresh);
}

int eb_build_topic_last(struct eb_build *build, uint32_t id, uint64_t seq)
{
    return put_numbers(build, PUT_LAST, id, seq);
}

int eb_build_consumer(struct eb_build *build, const struct eb_state_consumer *c)
{
    sqlite3_stmt *stmt = build->put[PUT_CONSUMER];
    const uint64_t numbers[] = {c->next, c->first_open, c->counts.redelivered, c->counts.dead,
                                c->counts.lost};
    bool fresh;

    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)c->id);
    sqlite3_bind_text(stmt, 2, c->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, c->settings, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 4, c->made_ms);
    for (int i = 0; i < 5; i++)
        sqlite3_bind_int64(stmt, 5 + i, (sqlite3_int64)numbers[i]);
    sqlite3_bind_text(stmt, 10, c->stopped, -1, SQLITE_STATIC); /* NULL is NULL */
    return eb_build_put(build, PUT_CONSUMER, &fresh);
}

int eb_build_block(struct eb_build *build, uint64_t consumer, uint64_t block, const void *data,
                   size_t len)
{
    sqlite3_bind_blob64(build->put[PUT_BLOCK], 3, len ? data : "", len, SQLITE_STATIC);
    return put_numbers(build, PUT_BLOCK, consumer, block);
}

int eb_build_dead(struct eb_build *build, uint64_t consumer, uint64_t seq)
{
    return put_numbers(build, PUT_DEAD, consumer, seq);
}

int eb_build_mark(struct eb_build *build, const char *name, size_t len, uint64_t value)
{
    bool fresh;

    sqlite3_bind_text(build->put[PUT_MARK], 1, name, (int)len, SQLITE_STATIC);
    sqlite3_bind_int64(build->put[PUT_MARK], 2, (sqlite3_int64)value);
    return eb_build_put(build, PUT_MARK, &fresh);
}

int eb_build_scheduled(struct eb_build *build, const struct eb_scheduled_row *row)
{
    bool fresh;

    eb_scheduled_row_bind(build->put[PUT_SCHEDULED], row);
    return eb_build_put(build, PUT_SCHEDULED, &fresh);
}

int eb_build_scheduled_told(struct eb_build *build)
{
    if (build->has_there)
        return 0;
    build->has_there = true;
    int rc = eb_sql_exec(build->db, "CREATE TEMP TABLE there(place INTEGER PRIMARY KEY, due)");
    return rc ? rc : eb_sql_prepare(build->db, eb_build_sql[PUT_THERE], &build->put[PUT_THERE]);
}

int eb_build_scheduled_there(struct eb_build *build, uint64_t place, int64_t due)
{
    int rc = eb_build_scheduled_told(build);

    return rc ? rc : put_numbers(build, PUT_THERE, place, (uint64_t)due);
}

/* ---- at the end ---- */

static int exec(struct eb_build *build, const char *format, uint64_t seq)
{
    char *sql = sqlite3_mprintf(format, seq, seq, seq);
    int rc = sql ? eb_sql_exec(build->db, sql) : eb_sql_errno(build->db, SQLITE_NOMEM);

    sqlite3_free(sql);
    return rc;
}

int eb_build_kept_finish(struct eb_build *build, bool rewind)
{
    int rc = build->has_there
                 ? eb_sql_exec(build->db, "DELETE FROM scheduled WHERE NOT EXISTS (SELECT 1 FROM"
                                          " there t WHERE t.place = scheduled.place AND t.due ="
                                          " scheduled.due); DROP TABLE there")
                 : 0;

    if (!rc && rewind)
        rc = eb_sql_exec(build->db, "DELETE FROM open_blocks; UPDATE consumers SET next ="
                                    " min(next, first_open), first_open = min(next, first_open)");
    if (!rc) /* the end of the log was lost: what is given these seqs next is not what was handled */
        rc = exec(build,
                  "DELETE FROM open_blocks WHERE consumer IN"
                  " (SELECT id FROM consumers WHERE next > %llu)",
                  build->last_seq + 1);
    if (!rc)
        rc = exec(build,
                  "UPDATE consumers SET next = min(first_open, %llu),"
                  " first_open = min(first_open, %llu) WHERE next > %llu",
                  build->last_seq + 1);
    if (!rc)
        rc = exec(build, "UPDATE topics SET last_seq = 0 WHERE last_seq > %llu", build->last_seq);
    return rc ? rc
              : eb_sql_exec(build->db,
                            "DELETE FROM open_blocks WHERE consumer NOT IN (SELECT id FROM"
                            " consumers); DELETE FROM dead_letters WHERE consumer NOT IN (SELECT"
                            " id FROM consumers) OR seq NOT IN (SELECT seq FROM log)");
}
