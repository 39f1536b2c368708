/*
 * append_sqlite.c - events that come into the log: their topics, their rows, and what is kept beside them.
 *
 * Two rounds over a run of events that the cache holds: the first finds their topics and sums them up, the second is
 * the statement, which makes the rows (row_source.c). So the figures are touched once a run (decisions/0024).
 *
 * (M1) A row gets its seq from SQLite, one above the log's last: to name it would cost a way down the tree that finds
 *      that there is no such row yet. That is right only behind last_seq's own row (`tail`). If it is not known to be
 *      there the log is asked: when it was deleted the run's first row is named, and when there are rows above, which
 *      are not ours, all are.
 * (M2) What SQLite gave is compared after each statement: if another program has put rows behind the last or taken
 *      them from there the transaction fails, and the next one does not trust `tail` (rollback forgets it).
 * (M3) A run is of one segment and one block. What it changes is undone by rollback, wherever it fails.
 */
#include <errno.h>
#include <stdio.h>

#include "broker/store/row.h"
#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"

#define APPEND_RUN                                                                                 \
    256 /* events of one statement: they stay in the cache from one round over them to the next */

/* Without `seq`, and without what such rows leave empty: the fewer columns, the fewer calls an event. */
#define INSERT_ROWS "INSERT OR FAIL INTO log"
#define NEXT_ROWS   "topic, ts, ttl, id, content_type, headers, payload, crc"

/* ---- topics ---- */

/* The id of a topic that the cache does not know, made if there is none. 0 with ret_id, -errno. */
static int find_topic(struct eb_sqlite *e, const struct eb_event *event, uint32_t *ret_id)
{
    int rc;

    sqlite3_bind_text(e->find_topic, 1, event->topic, event->topic_len, SQLITE_STATIC);
    rc = sqlite3_step(e->find_topic);
    if (rc == SQLITE_ROW)
        *ret_id = (uint32_t)sqlite3_column_int64(e->find_topic, 0);
    sqlite3_reset(e->find_topic);
    if (rc == SQLITE_ROW)
        return 0;
    if (rc != SQLITE_DONE)
        return eb_sqlite_failed(e, rc, "looking for a topic");
    if (e->now.topic_top == UINT32_MAX)
        return -ENOSPC;
    *ret_id = e->now.topic_top + 1;
    sqlite3_bind_int64(e->add_topic, 1, *ret_id);
    sqlite3_bind_text(e->add_topic, 2, event->topic, event->topic_len, SQLITE_STATIC);
    rc = eb_sqlite_run(e->add_topic);
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "adding a topic");
    e->now.topic_top = *ret_id;
    e->now.topics++;
    return 0;
}

static int topic_id(struct eb_sqlite *e, struct eb_event *event)
{
    struct eb_topic_known *known = eb_topic_ids_get(e->topics, event->topic, event->topic_len);
    bool reply;

    if (known) {
        known->last = event->seq;
        event->topic_id = known->id;
        reply = known->reply;
    } else {
        int result = find_topic(e, event, &event->topic_id);
        if (result < 0)
            return result;
        reply = eb_topic_is_reply(event->topic, event->topic_len);
        eb_topic_ids_put(
            e->topics, event->topic, event->topic_len,
            (struct eb_topic_known){.id = event->topic_id, .reply = reply, .last = event->seq});
    }
    return reply ? eb_last_reply(e, event->topic_id) : 0;
}

/* ---- segments ---- */

/* Write the open segment's index and open segment @number (engine_sqlite.c, E3). */
static int next_segment(struct eb_sqlite *e, uint64_t number)
{
    struct eb_segment *next = eb_segment_create(number);
    int result;

    if (!next)
        return -ENOMEM;
    e->open->events = e->now.open_events;
    e->open->bytes = e->now.open_bytes;
    e->open->acked = e->now.open_acked;
    e->open->last_ts = e->now.open_last_ts;
    result = eb_segment_write(e->open, e->db);
    if (result < 0) {
        eb_segment_unref(next);
        return eb_sqlite_failed(e, sqlite3_errcode(e->db), "writing the index of a segment");
    }
    if (e->now.open_events == 0)
        e->now.dead_segments = true;
    eb_segment_unref(e->open);
    e->open = next;
    e->now.open_events = e->now.open_bytes = e->now.open_acked = 0;
    e->now.open_last_ts = 0;
    return 0;
}

/* ---- a run ---- */

/* Some events of one segment and one block (M3). */
struct run {
    struct eb_event *const *events;
    size_t count;
    uint64_t bytes;
    bool plain;  /* of the usual content type, without headers or ttl, at one time */
    bool mortal; /* there is one with a ttl */
};

static int add_expiry(struct eb_sqlite *e, const struct eb_event *event)
{
    int64_t at = eb_row_expires(event->timestamp, event->ttl);
    int rc;

    if (at == INT64_MAX)
        return 0;
    sqlite3_bind_int64(e->add_expiry, 1, at);
    sqlite3_bind_int64(e->add_expiry, 2, (sqlite3_int64)event->seq);
    rc = eb_sqlite_run(e->add_expiry);
    return rc == SQLITE_OK ? 0 : eb_sqlite_failed(e, rc, "adding an expiry");
}

/* The first round: topics, expiries, the segment's topics and the sums. */
static int look_over(struct eb_sqlite *e, struct run *run)
{
    int64_t ts = run->events[0]->timestamp;
    int result = 0;

    run->plain = true;
    for (size_t i = 0; i < run->count && result == 0; i++) {
        struct eb_event *event = run->events[i];
        e->now.last_seq = event->seq; /* what rollback goes by */
        result = topic_id(e, event);
        if (result == 0 && event->ttl) {
            result = add_expiry(e, event);
            run->mortal = true;
        }
        atomic_store_explicit(&e->open->topic[event->seq & (EB_SEGMENT_SEQS - 1)], event->topic_id,
                              memory_order_relaxed);
        run->bytes += eb_row_event_bytes(event);
        run->plain = run->plain && eb_row_usual_type(event) && !event->headers_len && !event->ttl &&
                     event->timestamp == ts;
    }
    return result;
}

/* One statement; the last of its rows is to have the last event's seq (M2). */
static int insert(struct eb_sqlite *e, sqlite3_stmt *stmt, struct eb_event *const *events,
                  size_t count)
{
    sqlite3_int64 last = (sqlite3_int64)events[count - 1]->seq, got;
    int rc;

    e->source = (struct eb_row_source){events, count};
    rc = eb_sqlite_run(stmt);
    e->source = (struct eb_row_source){NULL, 0};
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "appending events");
    got = sqlite3_last_insert_rowid(e->db);
    if (got == last)
        return 0;
    snprintf(e->trouble, sizeof(e->trouble),
             "appending events: event %lld would have become row %lld, so another program has put "
             "rows behind the log's last or has deleted that",
             (long long)last, (long long)got);
    return -EIO;
}

/* The second round. Of its rows the first @named get the seq that they are given (M1). */
static int insert_run(struct eb_sqlite *e, const struct run *run, size_t named)
{
    int result = named ? insert(e, e->append, run->events, named) : 0;

    if (result < 0 || named == run->count)
        return result;
    if (run->plain)
        sqlite3_bind_int64(e->append_plain, 1, run->events[0]->timestamp);
    return insert(e, run->plain ? e->append_plain : e->append_next, run->events + named,
                  run->count - named);
}

/* (M1) The log's last row, 0 if there is none. */
static int find_tail(struct eb_sqlite *e, uint64_t *ret)
{
    int rc = sqlite3_step(e->last_row);

    if (rc == SQLITE_ROW)
        *ret = (uint64_t)sqlite3_column_int64(e->last_row, 0);
    sqlite3_reset(e->last_row);
    return rc == SQLITE_ROW ? 0 : eb_sqlite_failed(e, rc, "looking for the last event");
}

static int append_run(struct eb_sqlite *e, struct eb_event *const *events, size_t count)
{
    struct run run = {.events = events, .count = count};
    uint64_t first = events[0]->seq, last = e->now.last_seq;
    int result = e->now.tail ? 0 : find_tail(e, &last);

    if (result == 0)
        result = look_over(e, &run);
    if (result == 0)
        result = insert_run(e, &run, last + 1 == first ? 0 : last < first ? 1 : count);
    if (result < 0)
        return result;
    if (e->now.events == 0)
        e->now.first_seq = first;
    e->now.tail = last < first;
    e->now.last_ts = e->now.open_last_ts = events[count - 1]->timestamp;
    eb_blocks_add(&e->blocks, first, (uint32_t)count, run.bytes, e->now.last_ts, run.mortal);
    return eb_sqlite_count(e, first, (int64_t)count, (int64_t)run.bytes, 0);
}

/* How many of @count events from @seq on go into one run. */
static size_t run_of(uint64_t seq, size_t count)
{
    uint64_t block = eb_block_last(eb_block_of(seq)) - seq + 1;

    if (count > block)
        count = (size_t)block;
    return count < APPEND_RUN ? count : APPEND_RUN;
}

int eb_sqlite_append(struct eb_engine *engine, struct eb_event *const *events, size_t count)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    int result = 0;

    while (count > 0 && result == 0) {
        uint64_t seq = events[0]->seq;
        size_t run = run_of(seq, count);
        if (eb_segment_of(seq) != e->open->number)
            result = next_segment(e, eb_segment_of(seq));
        if (result == 0)
            result = append_run(e, events, run);
        if (result == 0 && ((seq + run) & (EB_SEGMENT_SEQS - 1)) == 0)
            result = next_segment(e, e->open->number + 1);
        events += run;
        count -= run;
    }
    return result;
}

int eb_append_prepare(struct eb_sqlite *e)
{
    const struct {
        sqlite3_stmt **stmt;
        const char *sql;
    } all[] = {
        /* OR FAIL: what fails fails the transaction, so no statement needs a journal of its own. */
        {&e->append,
         INSERT_ROWS "(" EB_ROW_COLUMNS ") SELECT " EB_ROW_COLUMNS " FROM " EB_ROW_SOURCE},
        {&e->append_next, INSERT_ROWS "(" NEXT_ROWS ") SELECT " NEXT_ROWS " FROM " EB_ROW_SOURCE},
        {&e->append_plain,
         INSERT_ROWS "(topic, ts, ttl, id, payload, crc) SELECT topic, ?1, 0, id, payload, crc"
                     " FROM " EB_ROW_SOURCE},
        {&e->last_row, "SELECT max(seq) FROM log"},
        {&e->add_expiry, "INSERT OR IGNORE INTO expiry(at, seq) VALUES(?1, ?2)"},
        {&e->add_topic, "INSERT INTO topics(id, name) VALUES(?1, ?2)"},
        {&e->find_topic, "SELECT id, last_seq FROM topics WHERE name = ?1"},
    };

    if (eb_row_source_register(e->db, &e->source) != SQLITE_OK)
        return -ENOMEM;
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        int result = eb_sql_prepare(e->db, all[i].sql, all[i].stmt);
        if (result < 0)
            return result;
    }
    return 0;
}
