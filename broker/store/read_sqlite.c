/*
 * read_sqlite.c - reading the log from its file: pages for streams, single events, topics.
 *
 * (R1) A page is one short read transaction inside the gate (wal_sqlite.c, K2): it looks at a bounded number of
 *      rows, and no statement stays open behind it.
 * (R2) What is given passed its checksum and has not expired. What failed it is a `damaged` gap.
 * (R3) Three ways through a stretch of the log, all with the same events (a gap of a damaged row is for whoever
 *      comes by it: whose event it was cannot be known): row by row (every topic, many, or
 *      most of the rows), by the lists of a closed segment, by the open segment's topics in memory.
 * (R4) A part of the file that cannot be read is stepped over with a `damaged` gap and never ends a stream:
 *      the first seq behind it from which reading works is searched for by doubling and halving.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/reader_internal.h"
#include "broker/store/row.h"
#include "broker/store/scheduled_row.h"
#include "broker/store/schema.h"
#include "common/clock.h"

#define LOOK_MAX 4096 /* rows of a page */
#define WINDOW   1024 /* of the open segment, judged at a time */
#define DENSE    16   /* a match in so many rows or fewer: the stretch is read row by row */

static void take(sqlite3_context *out, int count, sqlite3_value **value);

/* ---- life ---- */

static int prepare(struct eb_sqlite_reader *r)
{
    const struct {
        sqlite3_stmt **stmt;
        const char *sql;
    } all[] = {
        {&r->begin, "BEGIN"},
        {&r->commit, "COMMIT"},
        {&r->scan, "SELECT 1 FROM log WHERE seq BETWEEN ?1 AND ?2 AND eb_take(" EB_ROW_COLUMNS ")"
                   " ORDER BY seq"},
        {&r->rows, "SELECT " EB_ROW_COLUMNS " FROM log WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq"},
        {&r->get, "SELECT " EB_ROW_COLUMNS " FROM log WHERE seq = ?1"},
        {&r->is_acked, "SELECT 1 FROM acked WHERE seq = ?1"},
        {&r->deleted_upto, "SELECT value FROM meta WHERE key = 'deleted_upto'"},
        {&r->topic_name, "SELECT name FROM topics WHERE id = ?1"},
        {&r->topic_id, "SELECT id, name FROM topics WHERE name = ?1"},
        {&r->topic_top, "SELECT max(id) FROM topics"},
        {&r->topics_above, "SELECT id, name FROM topics WHERE id > ?1 ORDER BY id"},
        {&r->topics_between, "SELECT id, name FROM topics WHERE name >= ?1 AND name < ?2"},
        {&r->topics_after, "SELECT name FROM topics WHERE name > ?1 ORDER BY name LIMIT ?2"},
        {&r->reserved, "SELECT id, name FROM topics WHERE (name >= '$' AND name < '%')"
                       " OR (name >= '_' AND name < '`')"},
        {&r->list_bytes, "SELECT length(seqs) FROM postings WHERE place = (?1 << 32 | ?2)"},
        {&r->segment_events, "SELECT segment, events FROM segments WHERE segment BETWEEN ?1 AND ?2"
                             " ORDER BY segment"},
        {&r->last_row, "SELECT max(seq) FROM log"},
        {&r->dead, "SELECT seq FROM dead_letters WHERE consumer = ?1 AND seq > ?2 ORDER BY seq"
                   " LIMIT ?3"},
        {&r->nearest, "SELECT seq, ts, ttl FROM log WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1"},
        {&r->scan_topic, "SELECT seq, ts, ttl FROM log WHERE seq BETWEEN ?1 AND ?2 AND topic = ?3"
                         " ORDER BY seq DESC"},
        {&r->segment_below, "SELECT segment FROM segments WHERE segment <= ?1"
                            " ORDER BY segment DESC LIMIT 1"},
        {&r->topic_known, "SELECT id, last_seq FROM topics WHERE name = ?1"},
        {&r->known_above, "SELECT id, name, last_seq FROM topics WHERE id > ?1 ORDER BY id"},
        {&r->known_between,
         "SELECT id, name, last_seq FROM topics WHERE name >= ?1 AND name < ?2 ORDER BY name"},
        {&r->scheduled,
         "SELECT " EB_SCHEDULED_COLUMNS " FROM scheduled WHERE place > ?1 ORDER BY place"},
        {&r->list, "SELECT seqs FROM postings WHERE place = (?1 << 32 | ?2)"},
        {&r->lists,
         "SELECT topic, seqs FROM postings WHERE place BETWEEN ?1 << 32 AND (?1 << 32 | 4294967295)"
         " ORDER BY place"},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        int result = eb_sql_prepare(r->db, all[i].sql, all[i].stmt);
        if (result < 0)
            return result;
    }
    return 0;
}

void eb_sqlite_reader_destroy(struct eb_engine *engine, void *reader)
{
    struct eb_sqlite_reader *r = reader;
    sqlite3_stmt *stmt;

    if (!r)
        return;
    while (r->db && (stmt = sqlite3_next_stmt(r->db, NULL)))
        sqlite3_finalize(stmt);
    sqlite3_close(r->db);
    for (unsigned i = 0; i < EB_NAMES; i++)
        free(r->names[i].text);
    eb_slab_drop(r->slab);
    free(r);
}

int eb_sqlite_reader_create(struct eb_engine *engine, void **ret)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    struct eb_sqlite_reader *r = calloc(1, sizeof(*r));
    struct eb_error err;
    int result;

    if (!r)
        return -ENOMEM;
    r->e = e;
    result = eb_db_open(e->path, e->vfs, EB_DB_READ, &r->db, &err);
    if (result == 0)
        result = eb_sql_errno(r->db, sqlite3_create_function(r->db, "eb_take", EB_ROW_VALUES,
                                                             SQLITE_UTF8 | SQLITE_DIRECTONLY, r,
                                                             take, NULL, NULL));
    if (result == 0)
        result = prepare(r);
    if (result < 0) {
        eb_sqlite_reader_destroy(engine, r);
        return result;
    }
    *ret = r;
    return 0;
}

void eb_sqlite_reader_enter(struct eb_sqlite_reader *r)
{
    eb_gate_enter(&r->e->gate);
}

void eb_sqlite_reader_leave(struct eb_sqlite_reader *r)
{
    int pages = 0, high;

    eb_gate_leave(&r->e->gate);
    if (sqlite3_db_status(r->db, SQLITE_DBSTATUS_CACHE_MISS, &pages, &high, 1) == SQLITE_OK)
        atomic_fetch_add_explicit(&r->e->counters->pages_read, (uint64_t)pages,
                                  memory_order_relaxed);
}

int eb_sqlite_reader_errno(struct eb_sqlite_reader *r, int rc)
{
    return eb_sql_errno(r->db, rc) == -ENOMEM ? -ENOMEM : -EIO;
}

/* ---- rows ---- */

/* The name of a topic, NULL if there is none or it cannot be read; it lives until the next call. */
static const char *topic_name(struct eb_sqlite_reader *r, uint32_t id, size_t *ret_len)
{
    unsigned slot = id % EB_NAMES;

    if (r->names[slot].id != id) {
        sqlite3_bind_int64(r->topic_name, 1, id);
        int rc = sqlite3_step(r->topic_name);
        const char *text =
            rc == SQLITE_ROW ? (const char *)sqlite3_column_text(r->topic_name, 0) : NULL;
        int len = text ? sqlite3_column_bytes(r->topic_name, 0) : 0;
        char *copy = len > 0 && len <= EB_TOPIC_MAX ? malloc((size_t)len) : NULL;
        if (copy) {
            memcpy(copy, text, (size_t)len);
            free(r->names[slot].text);
            r->names[slot].id = id;
            r->names[slot].asked = 0;
            r->names[slot].text = copy;
            r->names[slot].len = (uint8_t)len;
        }
        sqlite3_reset(r->topic_name);
        if (!copy)
            return NULL;
    }
    *ret_len = r->names[slot].len;
    return r->names[slot].text;
}

static int check_row(struct eb_sqlite_reader *r, const struct eb_row *row, const char **ret_topic,
                     size_t *ret_len)
{
    *ret_topic = topic_name(r, row->topic_id, ret_len);
    return *ret_topic ? eb_row_check(row, *ret_topic, *ret_len) : -EBADMSG;
}

int eb_sqlite_whole_row(struct eb_sqlite_reader *r, sqlite3_stmt *stmt, struct eb_row *ret,
                        const char **ret_topic, size_t *ret_len)
{
    int result = eb_row_read(stmt, ret);

    return result < 0 ? result : check_row(r, ret, ret_topic, ret_len);
}

/* A page while it is made. */
struct walk {
    struct eb_sqlite_reader *r;
    struct eb_selection *selection;
    const struct eb_page_request *request;
    struct eb_page *page;
    struct eb_segment *open; /* one reference */
    uint64_t next;           /* first seq not looked at */
    int64_t now;
    size_t events, bytes;
    unsigned looked;
    bool full;  /* the page ends at `next` */
    int result; /* of the row that `scan` gave last */
};

static int damaged(struct walk *w, uint64_t from, uint64_t to, const char *why)
{
    eb_sqlite_damaged(w->r->e, from, to, why);
    w->page->whole_from = 0;
    return eb_page_add_gap(w->page, from, to, EB_GAP_DAMAGED);
}

/* 1: acknowledged, 0: pending (also when that cannot be read: better once more than never). */
static bool is_acked(struct walk *w, uint64_t seq)
{
    bool acked;

    sqlite3_bind_int64(w->r->is_acked, 1, (sqlite3_int64)seq);
    acked = sqlite3_step(w->r->is_acked) == SQLITE_ROW;
    sqlite3_reset(w->r->is_acked);
    return acked;
}

/* Topics come again and again: each is compared with the patterns once. */
static bool matches(struct walk *w, const struct eb_row *row, const char *topic, size_t len)
{
    unsigned slot = row->topic_id % EB_NAMES;

    if (w->r->names[slot].asked != w->selection->number) {
        w->r->names[slot].matches = eb_selection_match(w->selection, topic, len);
        w->r->names[slot].asked = w->selection->number;
    }
    return w->r->names[slot].matches;
}

/* Is it one that is wanted now? */
static bool wanted(struct walk *w, const struct eb_row *row, const char *topic, size_t len)
{
    if (!matches(w, row, topic, len))
        return false;
    if (eb_row_expires(row->ts, row->ttl) <= w->now)
        return false;
    return !w->request->pending_only || !is_acked(w, row->seq);
}

/* Give the row, if it is wanted. The page is `full` when it did not fit. */
static int take_row(struct walk *w, sqlite3_value *const value[EB_ROW_VALUES])
{
    struct eb_event *event;
    struct eb_row row;
    const char *topic = NULL;
    size_t len = 0, size;
    int result = eb_row_from_values(value, &row);

    if (result == 0)
        result = check_row(w->r, &row, &topic, &len);
    w->looked++;
    if (result == -EBADMSG) {
        result = damaged(w, row.seq, row.seq, "its checksum does not fit");
        w->next = row.seq + 1;
        return result;
    }
    if (!wanted(w, &row, topic, len)) {
        w->page->whole_from = 0;
        w->next = row.seq + 1;
        return 0;
    }
    event = eb_row_event(&row, topic, len, w->request->passing ? &w->r->slab : NULL);
    if (!event)
        return -ENOMEM;
    size = eb_event_size(event);
    if (w->events &&
        (w->events >= w->request->max_events || w->bytes + size > w->request->max_bytes)) {
        eb_event_unref(event);
        w->full = true;
        w->next = row.seq;
        return 0;
    }
    w->events++;
    w->bytes += size;
    w->next = row.seq + 1;
    w->full = w->events >= w->request->max_events || w->bytes >= w->request->max_bytes;
    return eb_page_add_event(w->page, event);
}

static bool page_ends(const struct walk *w)
{
    return w->full || w->looked >= LOOK_MAX;
}

/* The SQL function of `scan`: takes the row; true ends the statement. */
static void take(sqlite3_context *out, int count, sqlite3_value **value)
{
    struct walk *w = ((struct eb_sqlite_reader *)sqlite3_user_data(out))->walk;

    w->result = take_row(w, value);
    sqlite3_result_int(out, w->result < 0 || page_ends(w));
}

/* ---- stepping over what cannot be read (R4) ---- */

/* Does reading work from @seq on? ret_rc: what it said if not. */
static bool readable_from(struct walk *w, uint64_t seq, uint64_t to, int *ret_rc)
{
    int rc;

    sqlite3_bind_int64(w->r->rows, 1, (sqlite3_int64)seq);
    sqlite3_bind_int64(w->r->rows, 2, (sqlite3_int64)to);
    rc = sqlite3_step(w->r->rows);
    sqlite3_reset(w->r->rows);
    *ret_rc = rc;
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* Reading from w->next failed with @rc: go on behind the damage, at the latest behind @to. */
static int step_over(struct walk *w, uint64_t to, int rc)
{
    uint64_t bad = w->next, good, step = 1;
    bool found = false;

    if (!eb_sqlite_damage(rc))
        return eb_sqlite_reader_errno(w->r, rc);
    for (good = w->next + 1; good <= to; step *= 2, good = w->next + step) {
        found = readable_from(w, good, to, &rc);
        if (!found && !eb_sqlite_damage(rc))
            return eb_sqlite_reader_errno(w->r, rc);
        if (found)
            break;
        bad = good;
    }
    if (!found)
        good = to + 1;
    while (good - bad > 1) {
        uint64_t half = bad + (good - bad) / 2;
        bool works = readable_from(w, half, to, &rc);
        if (!works && !eb_sqlite_damage(rc))
            return eb_sqlite_reader_errno(w->r, rc);
        found = found || works;
        if (works)
            good = half;
        else
            bad = half;
    }
    /* An I/O error all the way may be the disk's, not the file's: it is tried again. */
    if (!found && (rc & 0xff) == SQLITE_IOERR)
        return -EIO;
    int result = damaged(w, w->next, good - 1, "its part of the file cannot be read");
    w->next = good;
    w->looked += 64;
    return result;
}

/* ---- the three ways (R3) ---- */

/*
 * Row by row from w->next to @to. The statement itself calls for each row (eb_take) and gives one only where it is to
 * end: a row that is handed out costs as much again as its columns.
 */
static int walk_rows(struct walk *w, uint64_t to)
{
    sqlite3_stmt *scan = w->r->scan;
    int rc;

    sqlite3_bind_int64(scan, 1, (sqlite3_int64)w->next);
    sqlite3_bind_int64(scan, 2, (sqlite3_int64)to);
    w->result = 0;
    rc = sqlite3_step(scan);
    sqlite3_reset(scan);
    if (w->result < 0 || page_ends(w))
        return w->result;
    if (rc == SQLITE_DONE) {
        w->next = to + 1;
        return 0;
    }
    return step_over(w, to, rc);
}

/* The one row @seq, if it is still there. */
static int walk_one(struct walk *w, uint64_t seq)
{
    sqlite3_stmt *get = w->r->get;
    sqlite3_value *value[EB_ROW_VALUES];
    int rc, result = 0;

    w->next = seq;
    sqlite3_bind_int64(get, 1, (sqlite3_int64)seq);
    rc = sqlite3_step(get);
    if (rc == SQLITE_ROW) {
        for (int i = 0; i < EB_ROW_VALUES; i++)
            value[i] = sqlite3_column_value(get, i);
        result = take_row(w, value);
    } else {
        w->looked++;
        w->next = seq + 1;
    }
    sqlite3_reset(get);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return result;
    if (!eb_sqlite_damage(rc))
        return eb_sqlite_reader_errno(w->r, rc);
    return damaged(w, seq, seq, "its part of the file cannot be read");
}

/* First of the sorted offsets that is not below @offset. */
static uint32_t lower_bound(const struct eb_chosen *chosen, uint32_t offset)
{
    uint32_t low = 0, high = chosen->count;

    while (low < high) {
        uint32_t half = (low + high) / 2;
        if (chosen->offsets[half] < offset)
            low = half + 1;
        else
            high = half;
    }
    return low;
}

/* A closed segment, from w->next to @to, by its lists. */
static int walk_lists(struct walk *w, uint64_t segment, uint64_t to)
{
    uint64_t base = eb_segment_base(segment);
    const struct eb_chosen *chosen;
    int result = eb_chosen_offsets(w->r, w->selection, segment);

    if (result < 0)
        return result;
    chosen = w->selection->engine_state;
    if (chosen->dense)
        return walk_rows(w, to);
    w->page->whole_from = 0;
    for (uint32_t i = lower_bound(chosen, (uint32_t)(w->next - base)); i < chosen->count; i++) {
        uint64_t seq = base + chosen->offsets[i];
        if (seq > to)
            break;
        if (page_ends(w))
            return 0;
        result = walk_one(w, seq);
        if (result < 0)
            return result;
    }
    if (!w->full)
        w->next = to + 1;
    return 0;
}

/* A window of the open segment, from w->next to @to, by the topics in memory. */
static int walk_window(struct walk *w, uint64_t to)
{
    uint64_t hits[WINDOW];
    unsigned count = 0;
    int result = 0;

    for (uint64_t seq = w->next; seq <= to; seq++) {
        uint32_t topic = atomic_load_explicit(&w->open->topic[seq & (EB_SEGMENT_SEQS - 1)],
                                              memory_order_relaxed);
        if (topic && eb_chosen_has(w->selection, topic))
            hits[count++] = seq;
    }
    if (count * DENSE > to - w->next + 1)
        return walk_rows(w, to);
    w->page->whole_from = 0;
    for (unsigned i = 0; i < count; i++) {
        if (page_ends(w))
            return 0;
        result = walk_one(w, hits[i]);
        if (result < 0)
            return result;
    }
    if (!w->full)
        w->next = to + 1;
    return 0;
}

/* Only where the chosen topics occur. */
static int walk_chosen(struct walk *w)
{
    uint64_t segment = eb_segment_of(w->next);
    uint64_t to = eb_segment_base(segment + 1) - 1;

    if (w->selection->id_count == 0) {
        w->page->whole_from = 0;
        w->next = w->request->upto + 1;
        return 0;
    }
    if (to > w->request->upto)
        to = w->request->upto;
    if (segment < w->open->number) {
        w->looked += 8; /* a look-up in the index; so that a page over an empty stretch ends, too */
        return walk_lists(w, segment, to);
    }
    if (segment > w->open->number) /* cannot be: see engine_sqlite.c, E3 */
        return walk_rows(w, to);
    if (to - w->next >= WINDOW)
        to = w->next + WINDOW - 1;
    return walk_window(w, to);
}

/* ---- the page ---- */

/* What was deleted before w->next could be given: a gap, or only passed over. */
static int pass_deleted(struct walk *w)
{
    uint64_t deleted = 0;
    int rc = sqlite3_step(w->r->deleted_upto);

    if (rc == SQLITE_ROW)
        deleted = (uint64_t)sqlite3_column_int64(w->r->deleted_upto, 0);
    sqlite3_reset(w->r->deleted_upto);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE && !eb_sqlite_damage(rc))
        return eb_sqlite_reader_errno(w->r, rc);
    if (deleted > w->request->upto)
        deleted = w->request->upto;
    if (deleted < w->next)
        return 0;
    int result = 0;
    if (!w->request->all_there_is)
        result = eb_page_add_gap(w->page, w->next, deleted, EB_GAP_RETENTION);
    w->next = deleted + 1;
    return result;
}

static int walk(struct walk *w)
{
    int result = pass_deleted(w);

    w->page->whole_from = w->next; /* until something is passed over */
    if (result == 0 && !w->selection->all && !w->selection->many) {
        result = eb_chosen_topics(w->r, w->selection);
        if (result > 0) /* the rest of the topics is the next page's work */
            return 0;
    }
    while (result == 0 && w->next <= w->request->upto && !page_ends(w)) {
        if (w->selection->all || w->selection->many)
            result = walk_rows(w, w->request->upto);
        else
            result = walk_chosen(w);
    }
    return result;
}

struct eb_segment *eb_sqlite_open_segment(struct eb_sqlite *e)
{
    struct eb_segment *open;

    eb_lock_take(&e->state_lock);
    open = eb_segment_ref(e->shown);
    eb_lock_drop(&e->state_lock);
    return open;
}

int eb_sqlite_page(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                   const struct eb_page_request *request, struct eb_page *ret)
{
    struct walk w = {
        .r = reader,
        .selection = selection,
        .request = request,
        .page = ret,
        .next = request->from ? request->from : 1,
        .now = eb_wall_ms(),
    };
    int rc, result;

    w.open = eb_sqlite_open_segment(
        w.r->e); /* before the transaction: what it calls closed has its lists there */
    w.r->walk = &w;
    eb_sqlite_reader_enter(w.r);
    rc = eb_sqlite_run(w.r->begin);
    result = rc == SQLITE_OK ? walk(&w) : eb_sqlite_reader_errno(w.r, rc);
    if (!sqlite3_get_autocommit(w.r->db))
        eb_sqlite_run(w.r->commit);
    eb_sqlite_reader_leave(w.r);
    eb_segment_unref(w.open);
    atomic_fetch_add_explicit(&w.r->e->counters->rows_read, w.looked, memory_order_relaxed);
    if (result < 0) {
        eb_page_finish(ret);
        return result;
    }
    ret->next = w.next;
    return 0;
}

/* ---- one event, and topics ---- */

static int read_event(struct eb_sqlite_reader *r, sqlite3_stmt *get, struct eb_event **ret)
{
    struct eb_event *event;
    struct eb_row row;
    const char *topic = NULL;
    size_t len = 0;
    int result = eb_sqlite_whole_row(r, get, &row, &topic, &len);

    if (result == -EBADMSG)
        eb_sqlite_damaged(r->e, row.seq, row.seq, "its checksum does not fit");
    if (result < 0)
        return result;
    if (eb_row_expires(row.ts, row.ttl) <= eb_wall_ms())
        return -ENOENT;
    event = eb_row_event(&row, topic, len, NULL);
    if (!event)
        return -ENOMEM;
    *ret = event;
    return 0;
}

int eb_sqlite_read_one(struct eb_sqlite_reader *r, uint64_t seq, struct eb_event **ret)
{
    int rc, result;

    sqlite3_bind_int64(r->get, 1, (sqlite3_int64)seq);
    rc = sqlite3_step(r->get);
    if (rc == SQLITE_ROW)
        result = read_event(r, r->get, ret);
    else if (rc == SQLITE_DONE)
        result = -ENOENT;
    else
        result = (rc & 0xff) == SQLITE_CORRUPT ? -EBADMSG : eb_sqlite_reader_errno(r, rc);
    sqlite3_reset(r->get);
    if (rc != SQLITE_ROW && result == -EBADMSG)
        eb_sqlite_damaged(r->e, seq, seq, "its part of the file cannot be read");
    return result;
}

int eb_sqlite_event(struct eb_engine *engine, void *reader, uint64_t seq, struct eb_event **ret)
{
    struct eb_sqlite_reader *r = reader;

    eb_sqlite_reader_enter(r);
    int result = eb_sqlite_read_one(r, seq, ret);
    eb_sqlite_reader_leave(r);
    return result;
}

int eb_sqlite_topics(struct eb_engine *engine, void *reader, const char *after,
                     struct eb_topic_info *out, size_t max)
{
    struct eb_sqlite_reader *r = reader;
    size_t count = 0;
    int rc = SQLITE_DONE;

    eb_sqlite_reader_enter(r);
    sqlite3_bind_text(r->topics_after, 1, after ? after : "", -1, SQLITE_STATIC);
    sqlite3_bind_int64(r->topics_after, 2, (sqlite3_int64)max);
    while (count < max && (rc = sqlite3_step(r->topics_after)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(r->topics_after, 0);
        int len = sqlite3_column_bytes(r->topics_after, 0);
        if (!name || len < 1 || len > EB_TOPIC_MAX)
            continue;
        memcpy(out[count].name, name, (size_t)len);
        out[count].name[len] = '\0';
        out[count++].len = (uint8_t)len;
    }
    sqlite3_reset(r->topics_after);
    eb_sqlite_reader_leave(r);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return eb_sqlite_reader_errno(r, rc);
    return (int)count;
}
