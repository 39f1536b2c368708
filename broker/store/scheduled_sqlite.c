/*
 * scheduled_sqlite.c - events that wait until they are due (PROTOCOL 8), as rows of `scheduled`.
 *
 * (S1) Nothing is kept in memory for each: how many there are and when the next is due are two numbers, the rest is
 *      found by the index on (due, place). So a million that wait cost no scan, neither at a tick nor at start.
 * (S2) The number is kept in `meta` by the transaction that changes it; a copy of a log comes without and is counted.
 * (S3) A row is believed only with its checksum over all its fields (docs/formats/log.md). One that fails it when it is
 *      due is counted, logged, and passed over from then on, so that the rest goes on; it stays in the file (to delete
 *      it would need an index that its damaged fields still fit).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/reader_internal.h"
#include "broker/store/row.h"
#include "broker/store/scheduled_row.h"
#include "broker/store/schema.h"
#include "common/log.h"

#define DUE_BYTES ((size_t)8 << 20) /* of one call: what is due at once may be gigabytes */
#define DUE_ROWS  256               /* read before they are deleted */

static void say_damaged(struct eb_sqlite *e, uint64_t place)
{
    atomic_fetch_add_explicit(&e->counters->damaged, 1, memory_order_relaxed);
    eb_error_log("EB-DAMAGED",
                 "the scheduled event in place %llu is damaged and is not delivered: see "
                 "`eventbusd --verify --db %s`",
                 (unsigned long long)place, e->path);
}

/* ---- what is passed over (S3) ---- */

static bool is_passed_over(const struct eb_sqlite *e, uint64_t place)
{
    for (size_t i = 0; i < e->bad_count; i++)
        if (e->bad[i] == place)
            return true;
    return false;
}

static int pass_over(struct eb_sqlite *e, uint64_t place)
{
    uint64_t *more = realloc(e->bad, (e->bad_count + 1) * sizeof(*more));

    if (!more)
        return -ENOMEM;
    more[e->bad_count++] = place;
    e->bad = more;
    say_damaged(e, place);
    return 0;
}

/* ---- figures ---- */

static int read_next_due(struct eb_sqlite *e)
{
    int rc;

    do
        rc = sqlite3_step(e->next_due);
    while (rc == SQLITE_ROW && is_passed_over(e, (uint64_t)sqlite3_column_int64(e->next_due, 1)));
    e->now.next_due = rc == SQLITE_ROW ? sqlite3_column_int64(e->next_due, 0) : INT64_MAX;
    sqlite3_reset(e->next_due);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return 0;
    return eb_sqlite_failed(e, rc, "looking for the next scheduled event");
}

int eb_scheduled_prepare(struct eb_sqlite *e)
{
    const struct {
        sqlite3_stmt **stmt;
        const char *sql;
    } all[] = {
        {&e->schedule,
         "INSERT INTO scheduled(" EB_SCHEDULED_COLUMNS ") VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)"},
        {&e->scheduled_find, "SELECT " EB_SCHEDULED_COLUMNS " FROM scheduled WHERE id = ?1"},
        {&e->unschedule, "DELETE FROM scheduled WHERE id = ?1"},
        {&e->due,
         "SELECT " EB_SCHEDULED_COLUMNS " FROM scheduled INDEXED BY scheduled_due WHERE due <= ?1"
         " ORDER BY due, place"},
        {&e->drop_due, "DELETE FROM scheduled WHERE place = ?1"},
        {&e->next_due,
         "SELECT due, place FROM scheduled INDEXED BY scheduled_due ORDER BY due, place"},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        int result = eb_sql_prepare(e->db, all[i].sql, all[i].stmt);
        if (result < 0)
            return result;
    }
    return 0;
}

int eb_scheduled_load(struct eb_sqlite *e)
{
    int64_t count = -1, top = 0;
    int result = eb_meta_int(e->db, EB_META_SCHEDULED, -1, &count);

    if (result == 0)
        result = eb_sql_int(e->db, "SELECT max(place) FROM scheduled", 0, &top);
    if (result == 0)
        result = eb_sql_int(e->db,
                            "SELECT due FROM scheduled INDEXED BY scheduled_due"
                            " ORDER BY due, place LIMIT 1",
                            INT64_MAX, &e->now.next_due);
    /* (S2); also if somebody has put rows in or taken them out by hand. */
    if (result == 0 && (count < 0 || (count == 0) != (top == 0)))
        result = eb_sql_int(e->db, "SELECT count(*) FROM scheduled", 0, &count);
    e->now.scheduled = count > 0 ? (uint64_t)count : 0;
    e->now.scheduled_top = (uint64_t)top;
    return result;
}

int eb_scheduled_settle(struct eb_sqlite *e)
{
    if (e->now.scheduled == e->was.scheduled)
        return 0;
    return eb_sqlite_set_meta(e, EB_META_SCHEDULED, (int64_t)e->now.scheduled);
}

/* ---- the writer's ---- */

int eb_sqlite_schedule(struct eb_engine *engine, const struct eb_event *event, int64_t due_ms,
                       int64_t now_ms)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    bool usual = eb_row_usual_type(event);
    struct eb_scheduled_row row = {
        .place = e->now.scheduled_top + 1,
        .due = due_ms,
        .made = now_ms,
        .draft = {.topic = event->topic,
                  .topic_len = event->topic_len,
                  .content_type = usual ? NULL : event->content_type,
                  .content_type_len = usual ? 0 : event->content_type_len,
                  .headers = event->headers_len ? event->headers : NULL,
                  .headers_len = event->headers_len,
                  .payload = event->payload_len ? event->payload : "",
                  .payload_len = event->payload_len,
                  .ttl = event->ttl},
    };
    sqlite3_stmt *stmt = e->schedule;

    memcpy(row.draft.id, event->id, 16);
    row.crc = eb_scheduled_crc(&row);
    eb_scheduled_row_bind(stmt, &row);
    int rc = eb_sqlite_run(stmt);
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "scheduling an event");
    e->now.scheduled_top = row.place;
    e->now.scheduled++;
    if (due_ms < e->now.next_due)
        e->now.next_due = due_ms;
    return 0;
}

int eb_sqlite_scheduled_find(struct eb_engine *engine, const uint8_t id[16], struct eb_event **ret)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    struct eb_scheduled_row row;
    int result, rc;

    sqlite3_bind_blob(e->scheduled_find, 1, id, 16, SQLITE_STATIC);
    rc = sqlite3_step(e->scheduled_find);
    if (rc == SQLITE_ROW) {
        result = eb_scheduled_row_read(e->scheduled_find, &row);
        if (result < 0)
            say_damaged(e, row.place);
        else if (!(*ret = eb_event_create(&row.draft)))
            result = -ENOMEM;
    } else {
        result = rc == SQLITE_DONE ? -ENOENT : eb_sqlite_failed(e, rc, "reading a scheduled event");
    }
    sqlite3_reset(e->scheduled_find);
    return result;
}

int eb_sqlite_unschedule(struct eb_engine *engine, const uint8_t id[16])
{
    struct eb_sqlite *e = eb_sqlite_of(engine);

    sqlite3_bind_blob(e->unschedule, 1, id, 16, SQLITE_STATIC);
    int rc = eb_sqlite_run(e->unschedule);
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "taking a scheduled event back");
    if (sqlite3_changes(e->db) == 0)
        return -ENOENT;
    e->now.scheduled -= e->now.scheduled > 0;
    return read_next_due(e);
}

/* Some rows that are due: as events into @ret, their places into @places. -EBADMSG, -ENOMEM, -EIO. */
static int read_due(struct eb_sqlite *e, int64_t now_ms, size_t max, struct eb_event **ret,
                    size_t *ret_count, uint64_t *places, unsigned *ret_rows, size_t *bytes)
{
    int rc = SQLITE_DONE, result = 0;
    struct eb_scheduled_row row;

    sqlite3_bind_int64(e->due, 1, now_ms);
    while (result == 0 && *ret_rows < max && *bytes < DUE_BYTES &&
           (rc = sqlite3_step(e->due)) == SQLITE_ROW) {
        if (is_passed_over(e, (uint64_t)sqlite3_column_int64(e->due, 0)))
            continue;
        result = eb_scheduled_row_read(e->due, &row);
        if (result == -EBADMSG) {
            result = pass_over(e, row.place);
            continue;
        }
        struct eb_event *event = eb_event_create(&row.draft);
        if (!event) {
            result = -ENOMEM;
            break;
        }
        places[(*ret_rows)++] = row.place;
        ret[(*ret_count)++] = event;
        *bytes += eb_event_size(event);
    }
    sqlite3_reset(e->due);
    if (result == 0 && rc != SQLITE_ROW && rc != SQLITE_DONE)
        result = eb_sqlite_failed(e, rc, "reading what is due");
    return result;
}

static int drop_due(struct eb_sqlite *e, const uint64_t *places, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        sqlite3_bind_int64(e->drop_due, 1, (sqlite3_int64)places[i]);
        int rc = eb_sqlite_run(e->drop_due);
        if (rc != SQLITE_OK)
            return eb_sqlite_failed(e, rc, "taking what is due off the table");
        e->now.scheduled -= e->now.scheduled > 0;
    }
    return 0;
}

int eb_sqlite_due(struct eb_engine *engine, int64_t now_ms, struct eb_event **ret, size_t max,
                  size_t *ret_count, bool *ret_more)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    uint64_t places[DUE_ROWS];
    size_t count = 0, bytes = 0;
    unsigned rows = DUE_ROWS, looked = 0;
    int result = 0;

    while (result == 0 && rows > 0 && count < max && bytes < DUE_BYTES) {
        size_t room = max - count < DUE_ROWS ? max - count : DUE_ROWS;
        rows = 0;
        result = read_due(e, now_ms, room, ret, &count, places, &rows, &bytes);
        if (result == -EBADMSG && looked > 0)
            result = -EIO; /* what was taken before is deleted already: all of it fails */
        looked += rows;
        if (result == 0)
            result = drop_due(e, places, rows);
    }
    if (result == 0)
        result = read_next_due(e);
    if (result < 0) {
        while (count > 0)
            eb_event_unref(ret[--count]);
        return result;
    }
    *ret_count = count;
    *ret_more = e->now.next_due <= now_ms;
    return 0;
}

/* ---- a reader's ---- */

ptrdiff_t eb_sqlite_scheduled(struct eb_engine *engine, void *reader, uint64_t after,
                              struct eb_scheduled *ret, size_t max)
{
    struct eb_sqlite_reader *r = reader;
    size_t count = 0;
    int rc = SQLITE_DONE, result = 0;

    if (max == 0)
        return 0;
    eb_sqlite_reader_enter(r);
    sqlite3_bind_int64(r->scheduled, 1, (sqlite3_int64)after);
    while (result == 0 && count < max && (rc = sqlite3_step(r->scheduled)) == SQLITE_ROW) {
        struct eb_scheduled_row row;
        result = eb_scheduled_row_read(r->scheduled, &row);
        if (result == -EBADMSG) {
            result = 0;
            continue;
        }
        struct eb_event *event = eb_event_create(&row.draft);
        if (event)
            ret[count++] = (struct eb_scheduled){row.place, row.due, row.made, event};
        else
            result = -ENOMEM;
    }
    sqlite3_reset(r->scheduled);
    eb_sqlite_reader_leave(r);
    if (result == 0 && rc != SQLITE_ROW && rc != SQLITE_DONE)
        result = eb_sqlite_reader_errno(r, rc);
    if (result == 0)
        return (ptrdiff_t)count;
    while (count > 0)
        eb_event_unref(ret[--count].event);
    return result;
}
