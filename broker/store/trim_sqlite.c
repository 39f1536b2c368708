/*
 * trim_sqlite.c - deletion: what expired, the prefix that is too old or too much, what was acknowledged, and
 * what is left behind of all that.
 *
 * (D1) Everything a deletion touches is in one transaction: the row, its places in `expiry` and `acked`, its id
 *      in `ids`, the figures of its segment, `deleted_upto`, and `last_seq` when the newest event goes; its
 *      topic's `last_seq` when it is of the open segment, or the topic itself (last_sqlite.c, L1 and L3).
 * (D2) `deleted_upto` moves by age, bytes and number only: single deletions make no gap.
 * (D3) A turn deletes at most max_rows events and looks at a bounded number of rows besides.
 * (D4) Rows are collected first and deleted then: no table is changed while it is read.
 * (D5) Whole blocks (blocks.h) of the prefix go without being read: their number and bytes are known, their ids are in
 *      the dedupe table or say their seqs, and of closed segments nothing else is to be known, unless there are ttls or replies' topics.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/row.h"
#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"

#define LOOK_FACTOR 8 /* rows of `acked` and `gone` looked at for one that may be deleted */

struct victim {
    uint64_t seq;
    int64_t ts, ttl, bytes;
    int64_t at; /* of `expiry`, when that is where it was found */
    int64_t topic;
    uint8_t id[16];
    bool no_id; /* a damaged row may have anything there; it goes all the same */
};

struct turn {
    struct eb_sqlite *e;
    const struct eb_trim_request *request;
    struct eb_trim_result *result;
    struct victim *victims;       /* room for max_rows */
    struct eb_dedupe_entry *kept; /* the same: ids that stay in the dedupe window */
    size_t kept_count;
    struct eb_last_note *lasts; /* the same: what is to be known of them beyond this turn */
    size_t last_count;
    unsigned left; /* rows that may still be deleted */
    bool rest;     /* the prefix is not through: the next turn goes on with whole blocks */
};

#define VICTIM_COLUMNS "seq, id, ts, ttl, " EB_ROW_BYTES_SQL ", topic"

int eb_sqlite_trim_prepare(struct eb_sqlite *e)
{
    const struct {
        sqlite3_stmt **stmt;
        const char *sql;
    } all[] = {
        {&e->due_expiry, "SELECT at, seq FROM expiry WHERE at <= ?1 ORDER BY at, seq LIMIT ?2"},
        {&e->prefix, "SELECT " VICTIM_COLUMNS " FROM log ORDER BY seq LIMIT ?1"},
        {&e->victim, "SELECT " VICTIM_COLUMNS " FROM log WHERE seq = ?1"},
        {&e->drop_row, "DELETE FROM log WHERE seq = ?1"},
        {&e->drop_expiry, "DELETE FROM expiry WHERE at = ?1 AND seq = ?2"},
        {&e->drop_acked, "DELETE FROM acked WHERE seq = ?1"},
        {&e->drop_range, "DELETE FROM log WHERE seq BETWEEN ?1 AND ?2"},
        {&e->drop_acked_range, "DELETE FROM acked WHERE seq BETWEEN ?1 AND ?2"},
        {&e->add_ids, "INSERT OR REPLACE INTO ids(part, last_seq, last_ts, entries)"
                      " VALUES(?1, ?2, ?3, ?4)"},
        {&e->drop_ids, "DELETE FROM ids WHERE part BETWEEN ?1 AND ?2"},
        {&e->bucket, "SELECT entries FROM ids WHERE part = ?1"},
        {&e->first_run, "SELECT part, last_seq, last_ts FROM ids WHERE part > 0 ORDER BY part"
                        " LIMIT 1"},
        {&e->last_piece, "SELECT part, last_seq, last_ts FROM ids WHERE part < 0 ORDER BY part"
                         " LIMIT 1"},
        {&e->first, "SELECT seq FROM log ORDER BY seq LIMIT 1"},
        {&e->due_acked,
         "SELECT seq, at FROM acked WHERE seq > ?1 AND seq < ?3 ORDER BY seq LIMIT ?2"},
        {&e->due_gone, "SELECT id, ts FROM gone WHERE id > ?1 ORDER BY id LIMIT ?2"},
        {&e->drop_gone, "DELETE FROM gone WHERE id = ?1"},
        {&e->dead_segment, "SELECT segment FROM segments WHERE events <= 0 LIMIT 1"},
        {&e->drop_postings,
         "DELETE FROM postings WHERE place BETWEEN ?1 << 32 AND (?1 << 32 | ?2)"},
        {&e->any_postings,
         "SELECT topic FROM postings WHERE place BETWEEN ?1 << 32 AND (?1 << 32 | 4294967295)"
         " ORDER BY place LIMIT 1 OFFSET ?2"},
        {&e->drop_segment, "DELETE FROM segments WHERE segment = ?1"},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        int result = eb_sql_prepare(e->db, all[i].sql, all[i].stmt);
        if (result < 0)
            return result;
    }
    return 0;
}

/* ---- one event ---- */

static void read_victim(sqlite3_stmt *stmt, struct victim *ret)
{
    const void *id = sqlite3_column_blob(stmt, 1);

    *ret = (struct victim){
        .seq = (uint64_t)sqlite3_column_int64(stmt, 0),
        .ts = sqlite3_column_int64(stmt, 2),
        .ttl = sqlite3_column_int64(stmt, 3),
        .bytes = sqlite3_column_int64(stmt, 4),
        .topic = sqlite3_column_int64(stmt, 5),
        .at = INT64_MAX,
    };
    ret->no_id = !id || sqlite3_column_bytes(stmt, 1) != 16;
    if (!ret->no_id)
        memcpy(ret->id, id, 16);
}

static int run(struct turn *turn, sqlite3_stmt *stmt)
{
    int rc = eb_sqlite_run(stmt);

    return rc == SQLITE_OK ? 0 : eb_sqlite_failed(turn->e, rc, "deleting events");
}

static int drop_expiry(struct turn *turn, int64_t at, uint64_t seq)
{
    sqlite3_bind_int64(turn->e->drop_expiry, 1, at);
    sqlite3_bind_int64(turn->e->drop_expiry, 2, (sqlite3_int64)seq);
    return run(turn, turn->e->drop_expiry);
}

static void keep_id(struct turn *turn, const struct victim *v)
{
    struct eb_dedupe_entry *kept = &turn->kept[turn->kept_count];

    if (v->no_id || v->ts <= turn->request->now_ms - turn->request->dedupe_window_ms ||
        (v->seq < turn->request->dedupe_from_seq && !turn->e->cold.filter))
        return;
    if (turn->request->made && eb_made_is(turn->request->made, v->id, v->seq, v->ts))
        return; /* it says by itself that there was such an event */
    memcpy(kept->id, v->id, 16);
    kept->seq = v->seq;
    kept->timestamp = v->ts;
    turn->kept_count++;
}

static void note_last(struct turn *turn, const struct victim *v)
{
    if (eb_last_wants(turn->e, v->seq) && v->topic > 0 && v->topic <= UINT32_MAX)
        turn->lasts[turn->last_count++] =
            (struct eb_last_note){.topic = (uint32_t)v->topic, .seq = v->seq};
}

/* Delete one event and all that hangs on it (D1). */
static int delete_event(struct turn *turn, const struct victim *v)
{
    struct eb_sqlite *e = turn->e;
    int64_t at = eb_row_expires(v->ts, v->ttl), acked = 0;
    int result;

    sqlite3_bind_int64(e->drop_row, 1, (sqlite3_int64)v->seq);
    result = run(turn, e->drop_row);
    if (result == 0 && v->at != INT64_MAX)
        result = drop_expiry(turn, v->at, v->seq);
    if (result == 0 && at != INT64_MAX && at != v->at)
        result = drop_expiry(turn, at, v->seq);
    if (result == 0 && e->now.acked) {
        sqlite3_bind_int64(e->drop_acked, 1, (sqlite3_int64)v->seq);
        result = run(turn, e->drop_acked);
        acked = result == 0 ? sqlite3_changes(e->db) : 0;
    }
    if (result == 0) {
        keep_id(turn, v);
        note_last(turn, v);
        eb_blocks_take(&e->blocks, v->seq, (uint64_t)v->bytes);
        result = eb_sqlite_count(e, v->seq, -1, -v->bytes, -acked);
    }
    turn->left--;
    return result;
}

/* 1: there, 0: not there (any more), -errno. */
static int find_victim(struct turn *turn, uint64_t seq, struct victim *ret)
{
    sqlite3_stmt *stmt = turn->e->victim;
    int rc;

    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)seq);
    rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        read_victim(stmt, ret);
    sqlite3_reset(stmt);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return rc == SQLITE_ROW;
    return eb_sqlite_failed(turn->e, rc, "reading an event to be deleted");
}

/* ---- what is to go ---- */

static int trim_expired(struct turn *turn)
{
    sqlite3_stmt *stmt = turn->e->due_expiry;
    unsigned count = 0;
    int rc, result = 0;

    sqlite3_bind_int64(stmt, 1, turn->request->now_ms);
    sqlite3_bind_int64(stmt, 2, turn->left);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && count < turn->left)
        turn->victims[count++] = (struct victim){
            .at = sqlite3_column_int64(stmt, 0),
            .seq = (uint64_t)sqlite3_column_int64(stmt, 1),
        };
    sqlite3_reset(stmt);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return eb_sqlite_failed(turn->e, rc, "looking for expired events");
    for (unsigned i = 0; i < count && result == 0; i++) {
        struct victim v;
        int64_t at = turn->victims[i].at;
        int there = find_victim(turn, turn->victims[i].seq, &v);
        if (there < 0)
            return there;
        if (!there) { /* a leftover; takes a place in the turn, so that it ends */
            turn->left--;
            result = drop_expiry(turn, at, turn->victims[i].seq);
            continue;
        }
        v.at = at;
        result = delete_event(turn, &v);
        turn->result->expired += result == 0;
    }
    return result;
}

/* Somebody is not done with it (retention_holds): only its ttl may end it. */
static bool held(const struct eb_trim_request *request, uint64_t seq)
{
    return request->hold_from && seq >= request->hold_from;
}

/* Must the first event go, with @events and @bytes in the log? */
static bool prefix_due(const struct eb_trim_request *request, const struct victim *v,
                       uint64_t events, uint64_t bytes)
{
    if (held(request, v->seq))
        return false;
    if (request->age_ms && v->ts <= request->now_ms - request->age_ms)
        return true;
    if (request->max_events && events > request->max_events)
        return true;
    return request->max_bytes && bytes > request->max_bytes;
}

static int drop_range(struct turn *turn, sqlite3_stmt *stmt, uint64_t from, uint64_t to)
{
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)from);
    sqlite3_bind_int64(stmt, 2, (sqlite3_int64)to);
    return run(turn, stmt);
}

/* The rows of a range of one segment, and of `acked`. */
static int drop_rows(struct turn *turn, uint64_t from, uint64_t to, int64_t *ret_events,
                     int64_t *ret_acked)
{
    struct eb_sqlite *e = turn->e;
    int result = drop_range(turn, e->drop_range, from, to);

    *ret_events = result == 0 ? sqlite3_changes(e->db) : 0;
    *ret_acked = 0;
    if (result == 0 && e->now.acked) {
        result = drop_range(turn, e->drop_acked_range, from, to);
        *ret_acked = result == 0 ? sqlite3_changes(e->db) : 0;
    }
    return result;
}

/* Delete events that lie side by side in one segment: the same as one by one (D1), in fewer statements. */
static int delete_run(struct turn *turn, const struct victim *list, unsigned count)
{
    struct eb_sqlite *e = turn->e;
    uint64_t from = list[0].seq, to = list[count - 1].seq;
    int64_t bytes = 0, events, acked;
    int result = drop_rows(turn, from, to, &events, &acked);

    for (unsigned i = 0; i < count && result == 0; i++) {
        int64_t at = eb_row_expires(list[i].ts, list[i].ttl);
        if (at != INT64_MAX)
            result = drop_expiry(turn, at, list[i].seq);
        keep_id(turn, &list[i]);
        note_last(turn, &list[i]);
        eb_blocks_take(&e->blocks, list[i].seq, (uint64_t)list[i].bytes);
        bytes += list[i].bytes;
    }
    if (result == 0)
        result = eb_sqlite_count(e, from, -(int64_t)count, -bytes, -acked);
    if (result < 0)
        return result;
    e->now.deleted_upto = to;
    turn->left -= count;
    turn->result->retained_out += count;
    return 0;
}

/* ---- blocks of the prefix (D5) ---- */

/* Must all of it go, @from its first seq on, and may it without a look at its rows? (Else they know what is missing.) */
static bool block_due(const struct turn *turn, const struct eb_block *block, uint64_t from)
{
    const struct eb_trim_request *request = turn->request;
    const struct eb_sqlite *e = turn->e;
    uint64_t last = eb_block_last(block->number), events = e->now.events + request->coming;

    if (block->mortal || block->events != last - from + 1 || eb_last_wants(e, last) ||
        held(request, last))
        return false;
    if (request->age_ms && block->last_ts <= request->now_ms - request->age_ms)
        return true;
    if (request->max_events && events >= request->max_events + block->events)
        return true;
    return request->max_bytes && e->now.bytes >= request->max_bytes + block->bytes;
}

static void keep_ids(struct turn *turn, uint64_t from, uint64_t to)
{
    const struct eb_dedupe *dedupe = turn->request->dedupe;
    uint64_t at = eb_dedupe_position(dedupe, from), end = eb_dedupe_position(dedupe, to + 1);
    size_t run;

    for (; at < end; at += run) {
        const struct eb_dedupe_entry *list = eb_dedupe_run(dedupe, at, &run);
        run = run < end - at ? run : end - at;
        for (size_t i = 0; i < run; i++)
            if (list[i].timestamp > turn->request->now_ms - turn->request->dedupe_window_ms)
                turn->kept[turn->kept_count++] = list[i];
    }
}

static int delete_block(struct turn *turn, struct eb_block *block, uint64_t from)
{
    struct eb_sqlite *e = turn->e;
    uint64_t to = eb_block_last(block->number);
    int64_t events, acked;
    int result = drop_rows(turn, from, to, &events, &acked);

    if (result == 0)
        result = eb_sqlite_count(e, from, -events, -(int64_t)block->bytes, -acked);
    if (result < 0)
        return result;
    keep_ids(turn, from, to);
    block->known = false;
    e->now.deleted_upto = to;
    turn->left -= block->events;
    turn->result->retained_out += block->events;
    return 0;
}

/*
 * What a turn's bound cuts off is left to the next, as whole blocks; and a group that deletes on its way leaves what is no
 * whole block to the janitor.
 */
static int trim_blocks(struct turn *turn)
{
    struct eb_sqlite *e = turn->e;
    uint64_t from = e->now.first_seq;
    bool some = false;
    int result = 0;

    while (result == 0 && turn->request->dedupe && from <= e->now.last_seq) {
        struct eb_block *block = eb_blocks_get(&e->blocks, eb_block_of(from));
        bool due = block && block_due(turn, block, from);
        bool fits = due && block->events <= turn->left;
        if (!fits)
            turn->rest = some && (due || turn->request->coming);
        if (!fits)
            break;
        result = delete_block(turn, block, from);
        from = eb_block_first(eb_block_of(from) + 1);
        some = true;
    }
    return result;
}

/* ---- the rest of it, row by row ---- */

static int trim_rows(struct turn *turn)
{
    struct eb_sqlite *e = turn->e;
    uint64_t events = e->now.events + turn->request->coming, bytes = e->now.bytes;
    unsigned count = 0;
    int rc = SQLITE_DONE, result = 0;

    if (!turn->left || !e->now.events)
        return 0;
    sqlite3_bind_int64(e->prefix, 1, turn->left);
    while (count < turn->left && (rc = sqlite3_step(e->prefix)) == SQLITE_ROW) {
        struct victim *v = &turn->victims[count];
        read_victim(e->prefix, v);
        if (!prefix_due(turn->request, v, events, bytes))
            break;
        events -= events > 0;
        bytes -= (uint64_t)v->bytes < bytes ? (uint64_t)v->bytes : bytes;
        count++;
    }
    sqlite3_reset(e->prefix);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return eb_sqlite_failed(e, rc, "looking for what is out of retention");
    for (unsigned i = 0, run; i < count && result == 0; i += run) {
        uint64_t segment = eb_segment_of(turn->victims[i].seq);
        for (run = 1; i + run < count; run++)
            if (eb_segment_of(turn->victims[i + run].seq) != segment)
                break;
        result = delete_run(turn, &turn->victims[i], run);
    }
    return result;
}

static int trim_prefix(struct turn *turn)
{
    struct eb_sqlite *e = turn->e;
    uint64_t before = e->now.deleted_upto;
    int result;

    if (!turn->request->age_ms && !turn->request->max_events && !turn->request->max_bytes)
        return 0;
    result = trim_blocks(turn);
    if (result == 0 && !turn->rest)
        result = trim_rows(turn);
    if (result == 0 && e->now.deleted_upto != before)
        result = eb_sqlite_set_meta(e, EB_META_DELETED_UPTO, (int64_t)e->now.deleted_upto);
    return result;
}

/* ---- tables looked through in turns ---- */

/* May the round be left out, or does it go on where it stood? */
static bool sweep_begin(struct eb_sweep *sweep, int64_t due)
{
    if (sweep->under_way)
        return true;
    if (sweep->next > due)
        return false;
    sweep->under_way = true;
    sweep->min = INT64_MAX;
    sweep->seq = 0;
    memset(sweep->id, 0, sizeof(sweep->id));
    return true;
}

static void sweep_end(struct eb_sweep *sweep)
{
    sweep->under_way = false;
    sweep->next = sweep->min;
}

/* What is held is not looked at, and so must be when it is held no longer. */
static bool acked_begin(struct eb_sweep *sweep, int64_t due, uint64_t hold)
{
    bool fresh = !sweep->under_way;
    if (fresh && sweep->next > due && sweep->hold && (!hold || hold > sweep->hold)) {
        sweep->under_way = true;
        sweep->min = sweep->next;
        sweep->seq = sweep->hold - 1;
    } else if (!sweep_begin(sweep, due)) {
        return false;
    }
    if (fresh)
        sweep->hold = hold;
    return true;
}

static int trim_acked(struct turn *turn)
{
    struct eb_sqlite *e = turn->e;
    struct eb_sweep *sweep = &e->now.acked_sweep;
    int64_t due = turn->request->now_ms - turn->request->acked_ms;
    unsigned count = 0, looked = 0, limit = turn->left * LOOK_FACTOR;
    int rc = SQLITE_DONE, result = 0;

    if (turn->request->acked_ms < 0 || !turn->left ||
        !acked_begin(sweep, due, turn->request->hold_from))
        return 0;
    sqlite3_bind_int64(e->due_acked, 3, sweep->hold ? (sqlite3_int64)sweep->hold : INT64_MAX);
    sqlite3_bind_int64(e->due_acked, 1, (sqlite3_int64)sweep->seq);
    sqlite3_bind_int64(e->due_acked, 2, limit);
    while (count < turn->left && (rc = sqlite3_step(e->due_acked)) == SQLITE_ROW) {
        int64_t at = sqlite3_column_int64(e->due_acked, 1);
        sweep->seq = (uint64_t)sqlite3_column_int64(e->due_acked, 0);
        looked++;
        if (at <= due && !held(turn->request, sweep->seq))
            turn->victims[count++].seq = sweep->seq;
        else if (at < sweep->min)
            sweep->min = at;
    }
    sqlite3_reset(e->due_acked);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return eb_sqlite_failed(e, rc, "looking for acknowledged events");
    if (rc == SQLITE_DONE && looked < limit)
        sweep_end(sweep);
    for (unsigned i = 0; i < count && result == 0; i++) {
        struct victim v;
        int there = find_victim(turn, turn->victims[i].seq, &v);
        if (there < 0)
            return there;
        if (there)
            result = delete_event(turn, &v);
        turn->result->acked_out += there && result == 0;
    }
    return result;
}

static int trim_gone(struct turn *turn)
{
    struct eb_sqlite *e = turn->e;
    struct eb_sweep *sweep = &e->now.gone_sweep;
    int64_t due = turn->request->now_ms - turn->request->dedupe_window_ms;
    unsigned count = 0, looked = 0, max = turn->request->max_rows, limit = max * LOOK_FACTOR;
    int rc = SQLITE_DONE, result = 0;

    if (!sweep_begin(sweep, due))
        return 0;
    sqlite3_bind_blob(e->due_gone, 1, sweep->id, sizeof(sweep->id), SQLITE_TRANSIENT);
    sqlite3_bind_int64(e->due_gone, 2, limit);
    while (count < max && (rc = sqlite3_step(e->due_gone)) == SQLITE_ROW) {
        int64_t ts = sqlite3_column_int64(e->due_gone, 1);
        const void *id = sqlite3_column_blob(e->due_gone, 0);
        looked++;
        if (!id || sqlite3_column_bytes(e->due_gone, 0) != 16)
            continue;
        memcpy(sweep->id, id, 16);
        if (ts <= due)
            memcpy(turn->victims[count++].id, id, 16);
        else if (ts < sweep->min)
            sweep->min = ts;
    }
    sqlite3_reset(e->due_gone);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return eb_sqlite_failed(e, rc, "looking for ids out of the dedupe window");
    if (rc == SQLITE_DONE && looked < limit)
        sweep_end(sweep);
    for (unsigned i = 0; i < count && result == 0; i++) {
        sqlite3_bind_blob(e->drop_gone, 1, turn->victims[i].id, 16, SQLITE_STATIC);
        result = run(turn, e->drop_gone);
    }
    return result;
}

/* The rows of a segment without events, a bounded part a turn. */
static int trim_segments(struct turn *turn)
{
    struct eb_sqlite *e = turn->e;
    int64_t segment = 0, topic = UINT32_MAX;
    int rc, result;

    if (!e->now.dead_segments)
        return 0;
    rc = sqlite3_step(e->dead_segment);
    if (rc == SQLITE_ROW)
        segment = sqlite3_column_int64(e->dead_segment, 0);
    sqlite3_reset(e->dead_segment);
    if (rc == SQLITE_DONE)
        e->now.dead_segments = false;
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? 0 : eb_sqlite_failed(e, rc, "looking for empty segments");
    sqlite3_bind_int64(e->any_postings, 1, segment);
    sqlite3_bind_int64(e->any_postings, 2, turn->request->max_rows);
    rc = sqlite3_step(e->any_postings);
    bool all = rc == SQLITE_DONE;
    if (rc == SQLITE_ROW)
        topic = sqlite3_column_int64(e->any_postings, 0);
    sqlite3_reset(e->any_postings);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return eb_sqlite_failed(e, rc, "looking for an empty segment's postings");
    sqlite3_bind_int64(e->drop_postings, 1, segment);
    sqlite3_bind_int64(e->drop_postings, 2, topic);
    result = run(turn, e->drop_postings);
    if (result == 0 && all) {
        sqlite3_bind_int64(e->drop_segment, 1, segment);
        result = run(turn, e->drop_segment);
    }
    return result;
}

/* ---- the turn ---- */

/* After deletions: where the log begins now, and what must outlive its newest event (D1). */
static int settle(struct turn *turn)
{
    struct eb_sqlite *e = turn->e;
    int rc = sqlite3_step(e->first), result = 0;
    uint64_t last = e->now.last_seq;
    bool there;

    e->now.first_seq = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(e->first, 0) : last + 1;
    sqlite3_reset(e->first);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return eb_sqlite_failed(e, rc, "looking for the first event");
    if (last == 0)
        return 0;
    sqlite3_bind_int64(e->victim, 1, (sqlite3_int64)last);
    rc = sqlite3_step(e->victim);
    there = rc == SQLITE_ROW;
    sqlite3_reset(e->victim);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return eb_sqlite_failed(e, rc, "looking for the last event");
    e->now.tail = there;
    if (!there)
        result = eb_sqlite_set_meta(e, EB_META_LAST_SEQ, (int64_t)last);
    if (!there && result == 0)
        result = eb_sqlite_set_meta(e, EB_META_LAST_TS, e->now.last_ts);
    if (result == 0)
        result = eb_last_settle(e, turn->lasts, turn->last_count);
    return result;
}

/* The ids of what this turn deleted, and those whose time is over. */
static int trim_ids(struct turn *turn, bool *ret_more)
{
    int64_t due = turn->request->now_ms - turn->request->dedupe_window_ms;
    int result = 0;

    if (turn->kept_count)
        result = eb_ids_add_run(turn->e, turn->kept, turn->kept_count);
    return result < 0 ? result
                      : eb_ids_trim(turn->e, due, turn->request->dedupe_from_seq, ret_more);
}

static int trim_all(struct turn *turn)
{
    bool more_ids = false;
    int rc = trim_expired(turn);

    if (rc == 0)
        rc = trim_prefix(turn);
    if (rc == 0)
        rc = trim_acked(turn);
    if (rc == 0 && turn->left < turn->request->max_rows)
        rc = settle(turn);
    if (rc == 0)
        rc = trim_ids(turn, &more_ids);
    if (rc == 0)
        rc = trim_gone(turn);
    if (rc == 0)
        rc = trim_segments(turn);
    const struct eb_sqlite_state *now = &turn->e->now;
    turn->result->more = turn->left == 0 || turn->rest || more_ids ||
                         (turn->request->acked_ms >= 0 && now->acked_sweep.under_way) ||
                         now->gone_sweep.under_way || now->dead_segments;
    return rc;
}

int eb_sqlite_trim(struct eb_engine *engine, const struct eb_trim_request *request,
                   struct eb_trim_result *ret)
{
    struct eb_trim_result result = {0};
    struct turn turn = {.e = eb_sqlite_of(engine), .request = request, .result = &result};
    int rc = -ENOMEM;

    turn.left = request->max_rows;
    turn.victims = malloc((request->max_rows + 1u) * sizeof(*turn.victims));
    turn.kept = malloc((request->max_rows + 1u) * sizeof(*turn.kept));
    turn.lasts = malloc((request->max_rows + 1u) * sizeof(*turn.lasts));
    if (turn.victims && turn.kept && turn.lasts)
        rc = trim_all(&turn);
    if (rc == 0)
        *ret = result;
    free(turn.victims);
    free(turn.kept);
    free(turn.lasts);
    return rc;
}
