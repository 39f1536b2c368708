/*
 * engine_sqlite.c - the log in an SQLite file: the transaction, its figures and its acknowledgements.
 *
 * (E1) `now` is what the transaction has made of the figures, `was` what they were before it; rollback copies
 *      one over the other. Readers and eb_store_info see `figures` and `shown`, set after each commit.
 * (E2) last_seq never falls: it is the larger of the log's last row and meta.last_seq, which is written in the
 *      transaction that deletes the newest row (trim_sqlite.c, D1).
 * (E3) A segment's index is written in the transaction that gives its last seq, and shown to readers with that
 *      commit: so whoever sees segment n open finds the lists of all before it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/row.h"
#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"
#include "common/log.h"

/* ---- small helpers ---- */

int eb_sqlite_failed(struct eb_sqlite *e, int rc, const char *doing)
{
    int sys = sqlite3_system_errno(e->db), result = eb_sql_errno(e->db, rc);

    snprintf(e->trouble, sizeof(e->trouble), "%s: %s%s%s", doing, sqlite3_errmsg(e->db),
             sys ? ": " : "", sys ? strerror(sys) : "");
    return result < 0 ? result : -EIO;
}

int eb_sqlite_run(sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt);

    sqlite3_reset(stmt);
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int eb_sqlite_set_meta(struct eb_sqlite *e, const char *key, int64_t value)
{
    int rc;

    sqlite3_bind_text(e->set_meta, 1, key, -1, SQLITE_STATIC);
    sqlite3_bind_int64(e->set_meta, 2, value);
    rc = eb_sqlite_run(e->set_meta);
    return rc == SQLITE_OK ? 0 : eb_sqlite_failed(e, rc, "writing a mark");
}

static void note_damaged(struct eb_sqlite *e, uint64_t seq, const char *why)
{
    bool known;

    eb_lock_take(&e->damaged_lock);
    uint64_t *slot = &e->damaged[seq % EB_DAMAGED_KNOWN];
    known = *slot == seq;
    *slot = seq;
    eb_lock_drop(&e->damaged_lock);
    if (known)
        return;
    atomic_fetch_add_explicit(&e->counters->damaged, 1, memory_order_relaxed);
    eb_error_log(
        "EB-DAMAGED",
        "event %llu is damaged (%s) and is not delivered: see `eventbusd --verify --db %s`",
        (unsigned long long)seq, why, e->path);
}

void eb_sqlite_damaged(struct eb_sqlite *e, uint64_t from, uint64_t to, const char *why)
{
    if (from < to)
        eb_debug("seqs %llu to %llu cannot be read", (unsigned long long)from,
                 (unsigned long long)to);
    note_damaged(e, from, why); /* a stretch counts once, by its first seq */
}

/* ---- figures ---- */

static struct eb_segment_delta *delta_of(struct eb_sqlite *e, uint64_t segment)
{
    for (unsigned i = 0; i < e->delta_count; i++)
        if (e->deltas[i].segment == segment)
            return &e->deltas[i];
    if (e->delta_count == EB_DELTAS)
        return NULL;
    e->deltas[e->delta_count] = (struct eb_segment_delta){.segment = segment};
    return &e->deltas[e->delta_count++];
}

static int flush_deltas(struct eb_sqlite *e)
{
    for (unsigned i = 0; i < e->delta_count; i++) {
        const struct eb_segment_delta *delta = &e->deltas[i];
        sqlite3_bind_int64(e->add_delta, 1, (sqlite3_int64)delta->segment);
        sqlite3_bind_int64(e->add_delta, 2, delta->events);
        sqlite3_bind_int64(e->add_delta, 3, delta->bytes);
        sqlite3_bind_int64(e->add_delta, 4, delta->acked);
        int rc = eb_sqlite_run(e->add_delta);
        if (rc != SQLITE_OK)
            return eb_sqlite_failed(e, rc, "writing the figures of a segment");
        if (delta->events < 0)
            e->now.dead_segments = true;
    }
    e->delta_count = 0;
    return 0;
}

int eb_sqlite_count(struct eb_sqlite *e, uint64_t seq, int64_t events, int64_t bytes, int64_t acked)
{
    uint64_t segment = eb_segment_of(seq);

    e->now.events += (uint64_t)events;
    e->now.bytes += (uint64_t)bytes;
    e->now.acked += (uint64_t)acked;
    if (segment == e->open->number) {
        e->now.open_events += (uint64_t)events;
        e->now.open_bytes += (uint64_t)bytes;
        e->now.open_acked += (uint64_t)acked;
        return 0;
    }
    struct eb_segment_delta *delta = delta_of(e, segment);
    if (!delta) {
        int result = flush_deltas(e);
        if (result < 0)
            return result;
        delta = delta_of(e, segment);
    }
    delta->events += events;
    delta->bytes += bytes;
    delta->acked += acked;
    return 0;
}

void eb_sqlite_show(struct eb_sqlite *e)
{
    struct eb_engine_figures figures = {
        .first_seq = e->now.events ? e->now.first_seq : e->now.last_seq + 1,
        .deleted_upto = e->now.deleted_upto,
        .events = e->now.events,
        .bytes = e->now.bytes,
        .wal_bytes = e->wal_bytes,
        .topics = e->now.topics,
        .acked = e->now.acked,
        .scheduled = e->now.scheduled,
        .next_due_ms = e->now.next_due,
    };
    struct eb_segment *before = NULL;

    unsigned owed = e->wal_frames > e->wal_owed ? e->wal_frames : e->wal_owed;
    figures.wal_pending_bytes = (uint64_t)owed * (uint64_t)e->page_size;
    eb_lock_take(&e->state_lock);
    e->figures = figures;
    if (e->shown != e->open) {
        before = e->shown;
        e->shown = eb_segment_ref(e->open);
    }
    eb_lock_drop(&e->state_lock);
    eb_segment_unref(before);
}

static void sqlite_figures(struct eb_engine *engine, struct eb_engine_figures *ret)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);

    eb_lock_take(&e->state_lock);
    *ret = e->figures;
    eb_lock_drop(&e->state_lock);
}

static const char *sqlite_trouble(struct eb_engine *engine)
{
    return eb_sqlite_of(engine)->trouble;
}

/* ---- the transaction ---- */

static int sqlite_begin(struct eb_engine *engine)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    int rc;

    eb_wal_before_transaction(e);
    rc = eb_sqlite_run(e->begin);
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "beginning a transaction");
    e->was = e->now;
    e->delta_count = 0;
    return 0;
}

static void sqlite_rollback(struct eb_engine *engine)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);

    if (!sqlite3_get_autocommit(e->db))
        eb_sqlite_run(e->rollback);
    for (uint64_t seq = e->was.last_seq + 1; seq <= e->now.last_seq; seq++)
        if (eb_segment_of(seq) == e->open->number)
            atomic_store_explicit(&e->open->topic[seq & (EB_SEGMENT_SEQS - 1)], 0,
                                  memory_order_relaxed);
    e->now = e->was;
    e->now.tail = false; /* (append_sqlite.c, M2) */
    /* What was looked through and not deleted after all is looked through again. */
    e->now.acked_sweep = e->now.gone_sweep = (struct eb_sweep){.next = INT64_MIN};
    e->delta_count = 0;
    eb_blocks_forget(&e->blocks);
    eb_topic_ids_clear(e->topics);
    if (e->open !=
        e->shown) { /* [S] is written under the commit lock only, so it may be read here */
        eb_segment_unref(e->open);
        e->open = eb_segment_ref(e->shown);
    }
}

static int sqlite_commit(struct eb_engine *engine)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    int result = flush_deltas(e), rc;

    if (result == 0)
        result = eb_scheduled_settle(e);
    if (result < 0)
        return result;
    rc = eb_sqlite_run(e->commit);
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "committing");
    eb_sqlite_show(e);
    return 0;
}

/* Something harmless that needs a page in the WAL and its sync. */
static int sqlite_probe(struct eb_engine *engine)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    int result = sqlite_begin(engine);

    if (result < 0)
        return result;
    result = eb_sqlite_set_meta(e, EB_META_LAST_TS, e->now.last_ts);
    if (result == 0)
        result = sqlite_commit(engine);
    if (result < 0)
        sqlite_rollback(engine);
    return result;
}

/* ---- acknowledgements ---- */

static int sqlite_ack(struct eb_engine *engine, uint64_t seq, int64_t now_ms)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    int rc;

    sqlite3_bind_int64(e->ack, 1, (sqlite3_int64)seq);
    sqlite3_bind_int64(e->ack, 2, now_ms);
    rc = eb_sqlite_run(e->ack);
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "acknowledging an event");
    if (sqlite3_changes(e->db) == 0)
        return 0; /* deleted, or acknowledged before */
    if (now_ms < e->now.acked_sweep.next)
        e->now.acked_sweep.next = now_ms;
    if (now_ms < e->now.acked_sweep.min)
        e->now.acked_sweep.min = now_ms;
    return eb_sqlite_count(e, seq, 0, 0, 1);
}

/* ---- the writer's own view ---- */

static int lookup_row(struct eb_sqlite *e, sqlite3_stmt *stmt, struct eb_event **ret)
{
    struct eb_event *event;
    struct eb_row row;
    const char *name;
    int len, rc, result;

    if (eb_row_read(stmt, &row) < 0)
        return -EBADMSG;
    sqlite3_bind_int64(e->topic_name, 1, row.topic_id);
    rc = sqlite3_step(e->topic_name);
    name = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(e->topic_name, 0) : NULL;
    len = name ? sqlite3_column_bytes(e->topic_name, 0) : 0;
    result = eb_row_check(&row, name, (size_t)len);
    if (result == 0) {
        event = eb_row_event(&row, name, (size_t)len, NULL);
        if (event)
            *ret = event;
        else
            result = -ENOMEM;
    }
    sqlite3_reset(e->topic_name);
    return result;
}

static int sqlite_lookup(struct eb_engine *engine, uint64_t seq, struct eb_event **ret)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    int rc, result;

    sqlite3_bind_int64(e->get, 1, (sqlite3_int64)seq);
    rc = sqlite3_step(e->get);
    if (rc == SQLITE_ROW)
        result = lookup_row(e, e->get, ret);
    else
        result = rc == SQLITE_DONE ? -ENOENT : eb_sqlite_failed(e, rc, "reading an event");
    sqlite3_reset(e->get);
    if (result == -EBADMSG)
        eb_sqlite_damaged(e, seq, seq, "its checksum does not fit");
    return result;
}

/* The ids of the log's rows and those of deleted events, merged by seq. */
static int ids_of_log(struct eb_sqlite *e, sqlite3_stmt *stmt, const struct eb_ids_list *gone,
                      const struct eb_engine_ids *tell)
{
    const struct eb_dedupe_entry *at = gone->entries, *end = at + gone->count;
    int rc;

    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        uint64_t seq = (uint64_t)sqlite3_column_int64(stmt, 0);
        const void *id = sqlite3_column_blob(stmt, 1);
        for (; at < end && at->seq < seq; at++)
            tell->id(tell->ctx, at->id, at->seq, at->timestamp);
        if (id && sqlite3_column_bytes(stmt, 1) == 16)
            tell->id(tell->ctx, id, seq, sqlite3_column_int64(stmt, 2));
    }
    for (; at < end; at++)
        tell->id(tell->ctx, at->id, at->seq, at->timestamp);
    return rc == SQLITE_DONE ? 0 : eb_sqlite_failed(e, rc, "reading the ids of the dedupe window");
}

/* Without a snapshot. */
int eb_ids_from_log(struct eb_sqlite *e, int64_t since_ms, uint64_t max,
                    const struct eb_engine_ids *tell)
{
    uint64_t from =
        e->now.last_seq > max ? e->now.last_seq - max : 0; /* an id has a seq of its own */
    struct eb_ids_list gone = {NULL};
    sqlite3_stmt *stmt = NULL;
    int result = eb_ids_gone(e->db, since_ms, &gone), rc;

    if (result < 0) {
        eb_sqlite_failed(e, sqlite3_errcode(e->db), "reading the ids of deleted events");
        goto out;
    }
    /* Timestamps rise along the log: segments that end before the window hold nothing of it. */
    rc = sqlite3_prepare_v2(
        e->db,
        "SELECT seq, id, ts FROM log WHERE ts >= ?1 AND seq > ?2 AND seq >= 65536 * ifnull("
        "(SELECT max(segment) + 1 FROM segments WHERE last_ts < ?1), 0) ORDER BY seq",
        -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 1, since_ms);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 2, (sqlite3_int64)from);
    result = rc == SQLITE_OK ? ids_of_log(e, stmt, &gone, tell)
                             : eb_sqlite_failed(e, rc, "reading the ids of the dedupe window");
out:
    sqlite3_finalize(stmt);
    free(gone.entries);
    return result;
}

static int sqlite_load_ids(struct eb_engine *engine, int64_t since_ms, uint64_t max,
                           const struct eb_engine_ids *tell)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);

    if (e->saved.there && max <= e->saved.max && since_ms >= e->saved.since_ms &&
        eb_ids_load(e, since_ms, tell) == 0)
        return 0;
    return eb_ids_from_log(e, since_ms, max, tell);
}

/* ---- statements and operations ---- */

int eb_sqlite_prepare(struct eb_sqlite *e)
{
    const struct {
        sqlite3_stmt **stmt;
        const char *sql;
    } all[] = {
        {&e->begin, "BEGIN IMMEDIATE"},
        {&e->commit, "COMMIT"},
        {&e->rollback, "ROLLBACK"},
        {&e->topic_name, "SELECT name FROM topics WHERE id = ?1"},
        {&e->get, "SELECT " EB_ROW_COLUMNS " FROM log WHERE seq = ?1"},
        {&e->ack, "INSERT OR IGNORE INTO acked(seq, at) SELECT ?1, ?2 WHERE EXISTS"
                  " (SELECT 1 FROM log WHERE seq = ?1)"},
        {&e->set_meta, "INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)"},
        {&e->add_delta, "UPDATE segments SET events = events + ?2, bytes = bytes + ?3,"
                        " acked = acked + ?4 WHERE segment = ?1"},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        int result = eb_sql_prepare(e->db, all[i].sql, all[i].stmt);
        if (result < 0)
            return result;
    }
    int result = eb_append_prepare(e);
    if (result == 0)
        result = eb_sqlite_keep_prepare(e);
    if (result == 0)
        result = eb_scheduled_prepare(e);
    if (result == 0)
        result = eb_last_prepare(e);
    return result < 0 ? result : eb_sqlite_trim_prepare(e);
}

const struct eb_engine_ops eb_sqlite_ops = {
    .close = eb_sqlite_close,
    .start = eb_checkpointer_start,
    .begin = sqlite_begin,
    .append = eb_sqlite_append,
    .ack = sqlite_ack,
    .state = eb_sqlite_keep,
    .topic_last = eb_sqlite_topic_last,
    .schedule = eb_sqlite_schedule,
    .scheduled_find = eb_sqlite_scheduled_find,
    .unschedule = eb_sqlite_unschedule,
    .due = eb_sqlite_due,
    .commit = sqlite_commit,
    .rollback = sqlite_rollback,
    .trim = eb_sqlite_trim,
    .tidy = eb_wal_tidy,
    .probe = sqlite_probe,
    .lookup = sqlite_lookup,
    .load_state = eb_sqlite_load_kept,
    .mark = eb_sqlite_mark,
    .load_ids = sqlite_load_ids,
    .save_ids = eb_ids_save,
    .find_id = eb_saved_find,
    .reader_create = eb_sqlite_reader_create,
    .reader_destroy = eb_sqlite_reader_destroy,
    .page = eb_sqlite_page,
    .event = eb_sqlite_event,
    .topics = eb_sqlite_topics,
    .events = eb_sqlite_events,
    .first_at = eb_sqlite_first_at,
    .count = eb_sqlite_count_matching,
    .dead = eb_sqlite_dead,
    .last = eb_sqlite_last,
    .last_seqs = eb_sqlite_last_seqs,
    .scheduled = eb_sqlite_scheduled,
    .figures = sqlite_figures,
    .trouble = sqlite_trouble,
};
