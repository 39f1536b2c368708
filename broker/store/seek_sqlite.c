/*
 * seek_sqlite.c - what is asked of the log beside its pages: several events by seq, the first one of a time, how many
 * match, who is dead.
 *
 * (N1) Each is one short read transaction inside the gate, as a page is (read_sqlite.c, R1).
 * (N2) Timestamps never run backward along the log: a time is searched for by halving the seqs. A row that is damaged
 *      says nothing; the next whole one does.
 * (N3) Counting reads no row where there is an index: lengths of lists in closed segments, the topics in memory in the
 *      open one. Only a list that is not whole has its rows counted, in a stretch whose end lies inside its segment.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/reader_internal.h"

#define LISTS_EACH 1024 /* up to so many topics are looked up one by one in a segment's lists */

static int begin(struct eb_sqlite_reader *r)
{
    eb_sqlite_reader_enter(r);
    int rc = eb_sqlite_run(r->begin);

    return rc == SQLITE_OK ? 0 : eb_sqlite_reader_errno(r, rc);
}

static void end(struct eb_sqlite_reader *r)
{
    if (!sqlite3_get_autocommit(r->db))
        eb_sqlite_run(r->commit);
    eb_sqlite_reader_leave(r);
}

/* ---- several events ---- */

ptrdiff_t eb_sqlite_events(struct eb_engine *engine, void *reader, const uint64_t *seqs,
                           size_t count, size_t max_bytes, struct eb_event **events, int *errs)
{
    struct eb_sqlite_reader *r = reader;
    size_t bytes = 0, i = 0;
    int result = begin(r);

    for (; result == 0 && i < count && (i == 0 || bytes < max_bytes); i++) {
        events[i] = NULL;
        errs[i] = eb_sqlite_read_one(r, seqs[i], &events[i]);
        if (errs[i] == -EIO || errs[i] == -ENOMEM) {
            result = errs[i];
            break;
        }
        bytes += events[i] ? eb_event_size(events[i]) : 0;
    }
    end(r);
    atomic_fetch_add_explicit(&r->e->counters->rows_read, i, memory_order_relaxed);
    return i == 0 && result < 0 ? result : (ptrdiff_t)i;
}

/* ---- the first one of a time (N2) ---- */

enum probe { PROBE_NONE, PROBE_WHOLE, PROBE_BAD_ROW, PROBE_UNREADABLE };

/* The first row from @seq to @upto: what of it can be read. An enum probe, or -errno. */
static int probe(struct eb_sqlite_reader *r, uint64_t seq, uint64_t upto, struct eb_row *ret)
{
    const char *topic;
    size_t len;
    int result;

    sqlite3_bind_int64(r->rows, 1, (sqlite3_int64)seq);
    sqlite3_bind_int64(r->rows, 2, (sqlite3_int64)upto);
    int rc = sqlite3_step(r->rows);
    if (rc == SQLITE_ROW)
        result =
            eb_sqlite_whole_row(r, r->rows, ret, &topic, &len) == 0 ? PROBE_WHOLE : PROBE_BAD_ROW;
    else if (rc == SQLITE_DONE)
        result = PROBE_NONE;
    else
        result = eb_sqlite_damage(rc) ? PROBE_UNREADABLE : eb_sqlite_reader_errno(r, rc);
    sqlite3_reset(r->rows);
    atomic_fetch_add_explicit(&r->e->counters->rows_read, 1, memory_order_relaxed);
    return result;
}

/* Nothing can be read at *seq: move it to where something can, by doubling and halving. False: to no place. */
static bool pass_unreadable(struct eb_sqlite_reader *r, uint64_t *seq, uint64_t upto)
{
    uint64_t bad = *seq, good = bad + 1;
    struct eb_row row;

    for (uint64_t step = 1; good <= upto; step *= 2, good = *seq + step) {
        int got = probe(r, good, upto, &row);
        if (got >= 0 && got != PROBE_UNREADABLE)
            break;
        bad = good;
    }
    if (good > upto)
        return false;
    while (good - bad > 1) {
        uint64_t half = bad + (good - bad) / 2;
        int got = probe(r, half, upto, &row);
        if (got >= 0 && got != PROBE_UNREADABLE)
            good = half;
        else
            bad = half;
    }
    *seq = good;
    return true;
}

/* The first whole row from @seq to @upto. 1 with its seq and timestamp, 0: none, -errno. */
static int first_whole(struct eb_sqlite_reader *r, uint64_t seq, uint64_t upto, uint64_t *ret_seq,
                       int64_t *ret_ts)
{
    while (seq <= upto) {
        struct eb_row row = {0};
        int got = probe(r, seq, upto, &row);
        if (got < 0 || got == PROBE_NONE)
            return got;
        if (got == PROBE_WHOLE) {
            *ret_seq = row.seq;
            *ret_ts = row.ts;
            return 1;
        }
        if (got == PROBE_BAD_ROW)
            seq = row.seq + 1;
        else if (!pass_unreadable(r, &seq, upto))
            return -EIO; /* it may be the disk's fault, and what lies there is not known to be older */
    }
    return 0;
}

static int last_row(struct eb_sqlite_reader *r, uint64_t *ret)
{
    int rc = sqlite3_step(r->last_row);

    *ret = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(r->last_row, 0) : 0;
    sqlite3_reset(r->last_row);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : eb_sqlite_reader_errno(r, rc);
}

static int search_time(struct eb_sqlite_reader *r, int64_t time_ms, uint64_t *ret)
{
    uint64_t low = 1, high = 0;
    int result = last_row(r, &high);

    *ret = UINT64_MAX;
    high++;
    /* Below `low` all are older; from `high` on none is, and *ret is the first of those. */
    while (result >= 0 && low < high) {
        uint64_t middle = low + (high - low) / 2, seq = 0;
        int64_t ts = 0;
        result = first_whole(r, middle, high - 1, &seq, &ts);
        if (result > 0 && ts < time_ms) {
            low = seq + 1;
        } else {
            *ret = result > 0 ? seq : *ret;
            high = middle;
        }
    }
    return result < 0 ? result : 0;
}

int eb_sqlite_first_at(struct eb_engine *engine, void *reader, int64_t time_ms, uint64_t *ret)
{
    struct eb_sqlite_reader *r = reader;
    int result = begin(r);

    if (result == 0)
        result = search_time(r, time_ms, ret);
    end(r);
    return result;
}

/* ---- how many match (N3) ---- */

struct tally {
    struct eb_sqlite_reader *r;
    struct eb_selection *selection;
    struct eb_segment *open;
    bool every;       /* all topics but those in `but` */
    uint32_t *but;    /* sorted ids of reserved topics that the selection does not mean */
    size_t but_count; /* UINT32_MAX of them are too many to be told apart: then none is */
    uint64_t from, upto, total;
};

static int by_id(const void *va, const void *vb)
{
    const uint32_t *a = va, *b = vb;

    return *a < *b ? -1 : *a > *b;
}

/* Does it mean the topic? */
static bool means(const struct tally *t, uint32_t topic)
{
    if (!t->every)
        return t->selection->id_count && eb_chosen_has(t->selection, topic);
    return !t->but_count || !bsearch(&topic, t->but, t->but_count, sizeof(topic), by_id);
}

/* "#" reaches no topic that begins with $ or _. */
static int find_reserved(struct tally *t)
{
    sqlite3_stmt *stmt = t->r->reserved;
    int rc;

    t->but = malloc(EB_FEW_MAX * sizeof(*t->but));
    if (!t->but)
        return -ENOMEM;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && t->but_count < EB_FEW_MAX) {
        const char *name = (const char *)sqlite3_column_text(stmt, 1);
        int len = sqlite3_column_bytes(stmt, 1);
        if (name && len > 0 && !eb_selection_match(t->selection, name, (size_t)len))
            t->but[t->but_count++] = (uint32_t)sqlite3_column_int64(stmt, 0);
    }
    sqlite3_reset(stmt);
    if (rc == SQLITE_ROW)
        t->but_count = 0; /* too many: they are counted with the rest */
    qsort(t->but, t->but_count, sizeof(*t->but), by_id);
    return rc == SQLITE_NOMEM ? -ENOMEM : 0;
}

/* Row by row: the index of this stretch cannot be believed. */
static int count_rows(struct tally *t, uint64_t from, uint64_t upto)
{
    sqlite3_stmt *scan = t->r->rows;
    int rc;

    sqlite3_bind_int64(scan, 1, (sqlite3_int64)from);
    sqlite3_bind_int64(scan, 2, (sqlite3_int64)upto);
    while ((rc = sqlite3_step(scan)) == SQLITE_ROW)
        t->total += means(t, (uint32_t)sqlite3_column_int64(scan, 1));
    sqlite3_reset(scan);
    return rc == SQLITE_DONE || eb_sqlite_damage(rc) ? 0 : eb_sqlite_reader_errno(t->r, rc);
}

/* Offsets of a list from @low to @high. -EBADMSG: it is not whole. */
static int64_t inside(uint64_t segment, uint32_t topic, sqlite3_stmt *stmt, int column,
                      uint32_t low, uint32_t high)
{
    const void *blob = sqlite3_column_blob(stmt, column);
    int count = eb_postings_check(segment, topic, blob, (size_t)sqlite3_column_bytes(stmt, column));
    int64_t n = 0;

    if (count < 0)
        return count;
    for (int i = 0; i < count; i++) {
        uint32_t offset = eb_postings_at(blob, (size_t)i);
        n += offset >= low && offset <= high;
    }
    return n;
}

/* A part of a closed segment, by the lists of the topics that are meant. */
static int count_part(struct tally *t, uint64_t segment, uint64_t from, uint64_t upto)
{
    sqlite3_stmt *stmt = t->r->lists;
    uint64_t base = eb_segment_base(segment), sum = 0;
    int rc;

    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)segment);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        uint32_t topic = (uint32_t)sqlite3_column_int64(stmt, 0);
        int64_t n = !means(t, topic) ? 0
                                     : inside(segment, topic, stmt, 1, (uint32_t)(from - base),
                                              (uint32_t)(upto - base));
        if (n < 0) {
            rc = SQLITE_CORRUPT;
            break;
        }
        sum += (uint64_t)n;
    }
    sqlite3_reset(stmt);
    if (rc != SQLITE_DONE)
        return eb_sqlite_damage(rc) ? count_rows(t, from, upto) : eb_sqlite_reader_errno(t->r, rc);
    t->total += sum;
    return 0;
}

/* The lengths of the lists of @ids in one segment. */
static int list_lengths(struct tally *t, uint64_t segment, const uint32_t *ids, size_t count,
                        uint64_t *ret)
{
    sqlite3_stmt *stmt = t->r->list_bytes;
    int rc = SQLITE_DONE;

    *ret = 0;
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)segment);
    for (size_t i = 0; i < count && (rc == SQLITE_DONE || rc == SQLITE_ROW); i++) {
        sqlite3_bind_int64(stmt, 2, ids[i]);
        rc = sqlite3_step(stmt);
        int64_t len = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
        *ret += len > EB_POSTINGS_TAIL ? (uint64_t)(len - EB_POSTINGS_TAIL) / 2 : 0;
        sqlite3_reset(stmt);
    }
    return rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : rc;
}

/* A whole closed segment with @events rows. */
static int count_segment(struct tally *t, uint64_t segment, uint64_t events)
{
    const uint32_t *ids = t->every ? t->but : t->selection->ids;
    size_t count = t->every ? t->but_count : t->selection->id_count;
    uint64_t base = eb_segment_base(segment), n = 0;

    if (count > LISTS_EACH)
        return count_part(t, segment, base, base + EB_SEGMENT_SEQS - 1);
    int rc = list_lengths(t, segment, ids, count, &n);
    if (rc)
        return eb_sqlite_damage(rc) ? count_rows(t, base, base + EB_SEGMENT_SEQS - 1)
                                    : eb_sqlite_reader_errno(t->r, rc);
    if (t->every)
        n = events > n ? events - n : 0;
    t->total += n;
    return 0;
}

/* All closed segments of the stretch. */
static int count_closed(struct tally *t)
{
    sqlite3_stmt *stmt = t->r->segment_events;
    int rc = SQLITE_DONE, result = 0;

    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)eb_segment_of(t->from));
    sqlite3_bind_int64(stmt, 2, (sqlite3_int64)eb_segment_of(t->upto));
    while (result == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        uint64_t segment = (uint64_t)sqlite3_column_int64(stmt, 0);
        int64_t events = sqlite3_column_int64(stmt, 1);
        uint64_t base = eb_segment_base(segment), last = base + EB_SEGMENT_SEQS - 1;
        if (segment >= t->open->number)
            break;
        if (t->from <= base && last <= t->upto)
            result = count_segment(t, segment, events > 0 ? (uint64_t)events : 0);
        else
            result = count_part(t, segment, t->from > base ? t->from : base,
                                last < t->upto ? last : t->upto);
    }
    sqlite3_reset(stmt);
    if (result == 0 && rc != SQLITE_DONE && rc != SQLITE_ROW && !eb_sqlite_damage(rc))
        result = eb_sqlite_reader_errno(t->r, rc);
    return result;
}

static void count_open(struct tally *t)
{
    uint64_t base = eb_segment_base(t->open->number), last = base + EB_SEGMENT_SEQS - 1;
    uint64_t to = t->upto < last ? t->upto : last;

    for (uint64_t seq = t->from > base ? t->from : base; seq <= to; seq++) {
        uint32_t topic = atomic_load_explicit(&t->open->topic[seq - base], memory_order_relaxed);
        t->total += topic && means(t, topic);
    }
}

/* What was deleted by age or size is not there to be counted. */
static int skip_deleted(struct tally *t)
{
    sqlite3_stmt *stmt = t->r->deleted_upto;
    int rc = sqlite3_step(stmt);
    uint64_t deleted = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;

    sqlite3_reset(stmt);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE && !eb_sqlite_damage(rc))
        return eb_sqlite_reader_errno(t->r, rc);
    t->from = deleted >= t->from ? deleted + 1 : t->from;
    return 0;
}

static int count_all(struct tally *t)
{
    int result = skip_deleted(t);

    while (result == 0 && !t->selection->all && !t->selection->many &&
           (result = eb_chosen_topics(t->r, t->selection)) > 0)
        result = 0; /* a bounded part of the topics at a time */
    t->every = t->selection->all || t->selection->many;
    if (result == 0 && t->selection->all)
        result = find_reserved(t);
    if (result == 0 && t->from <= t->upto)
        result = count_closed(t);
    if (result == 0)
        count_open(t);
    return result;
}

int eb_sqlite_count_matching(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                             uint64_t from, uint64_t upto, uint64_t *ret)
{
    struct eb_sqlite_reader *r = reader;
    struct tally t = {.r = r, .selection = selection, .from = from, .upto = upto};

    t.open = eb_sqlite_open_segment(r->e); /* before the transaction: see eb_sqlite_page */
    int result = begin(r);
    if (result == 0)
        result = count_all(&t);
    end(r);
    eb_segment_unref(t.open);
    free(t.but);
    if (result == 0)
        *ret = t.total;
    return result;
}

/* ---- dead letters ---- */

ptrdiff_t eb_sqlite_dead(struct eb_engine *engine, void *reader, uint64_t consumer, uint64_t after,
                         uint64_t *ret, size_t max)
{
    struct eb_sqlite_reader *r = reader;
    size_t count = 0;
    int rc = SQLITE_DONE;

    eb_sqlite_reader_enter(r);
    sqlite3_bind_int64(r->dead, 1, (sqlite3_int64)consumer);
    sqlite3_bind_int64(r->dead, 2, (sqlite3_int64)after);
    sqlite3_bind_int64(r->dead, 3, (sqlite3_int64)max);
    while (count < max && (rc = sqlite3_step(r->dead)) == SQLITE_ROW)
        ret[count++] = (uint64_t)sqlite3_column_int64(r->dead, 0);
    sqlite3_reset(r->dead);
    eb_sqlite_reader_leave(r);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return eb_sqlite_reader_errno(r, rc);
    return (ptrdiff_t)count;
}
