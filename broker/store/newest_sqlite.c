/*
 * newest_sqlite.c - last values (PROTOCOL 8): the newest event of a topic that is there and has not expired.
 *
 * (N1) From the newest place of the topic downward: the open segment's array, then `topics.last_seq` names the segment
 *      whose list is the first to be looked at. So a topic whose newest event lives costs one row, wherever it lies.
 * (N2) A place whose event is gone is passed over together with all places above the nearest row below it: a deleted
 *      stretch costs one look.
 * (N3) In short reads of a bounded number of topics and rows: nobody waits for a selection of many thousand topics.
 *      What is deleted between two of them counts as deleted before.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/reader_internal.h"
#include "common/clock.h"

#define TOPICS_A_READ 256
#define LOOK_MAX      4096 /* rows of a read */

struct search {
    struct eb_sqlite_reader *r;
    struct eb_segment *open; /* one reference, from before the first read */
    uint64_t upto;
    int64_t now;
    struct top *tops; /* of the open segment, by topic; NULL: not made, its array is gone through */
    unsigned looked, looked_before; /* rows: in all, and when this read began */
};

/* The newest place of a topic in the open segment. */
struct top {
    uint32_t topic; /* 0: free */
    uint32_t offset;
};
#define TOPS (2 * EB_SEGMENT_SEQS)

/* ---- one read ---- */

static void begin(struct search *s)
{
    eb_sqlite_reader_enter(s->r);
    eb_sqlite_run(s->r->begin); /* if it fails, each statement is a read of its own */
    s->looked_before = s->looked;
}

static void end(struct search *s)
{
    if (!sqlite3_get_autocommit(s->r->db))
        eb_sqlite_run(s->r->commit);
    eb_sqlite_reader_leave(s->r);
}

/* A search that takes long lets go between two rows. */
static void breathe(struct search *s)
{
    if (s->looked - s->looked_before < LOOK_MAX)
        return;
    end(s);
    begin(s);
}

static void finish(struct search *s)
{
    atomic_fetch_add_explicit(&s->r->e->counters->rows_read, s->looked, memory_order_relaxed);
    eb_segment_unref(s->open);
    free(s->tops);
}

/* ---- the open segment by topic: for many topics one way through the array, not one each ---- */

static struct top *top_of(const struct search *s, uint32_t topic)
{
    uint32_t at = topic * 2654435761u >> 15;

    while (s->tops[at].topic && s->tops[at].topic != topic)
        at = (at + 1) % TOPS;
    return &s->tops[at];
}

static void make_tops(struct search *s)
{
    uint64_t base = eb_segment_base(s->open->number);

    s->tops = s->upto >= base ? calloc(TOPS, sizeof(*s->tops)) : NULL;
    for (uint32_t offset = 0; s->tops && offset < EB_SEGMENT_SEQS; offset++) {
        uint32_t topic = atomic_load_explicit(&s->open->topic[offset], memory_order_relaxed);
        if (topic && base + offset <= s->upto)
            *top_of(s, topic) = (struct top){topic, offset};
    }
}

/* ---- one topic ---- */

/* The nearest row at or below @seq, of whichever topic. 1, 0: there is none, -errno. */
static int nearest(struct search *s, uint64_t seq, uint64_t *ret_seq, bool *ret_lives)
{
    sqlite3_stmt *stmt = s->r->nearest;
    int rc;

    breathe(s);
    s->looked++;
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)seq);
    rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        *ret_seq = (uint64_t)sqlite3_column_int64(stmt, 0);
        *ret_lives =
            eb_row_expires(sqlite3_column_int64(stmt, 1), sqlite3_column_int64(stmt, 2)) > s->now;
    }
    sqlite3_reset(stmt);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return rc == SQLITE_ROW;
    return eb_sqlite_reader_errno(s->r, rc);
}

enum found { FOUND_NONE, FOUND, FOUND_END /* there is no row below either */ };

static int in_open(struct search *s, uint32_t topic, uint64_t from, uint64_t *ret)
{
    uint64_t base = eb_segment_base(s->open->number), there;
    bool lives = false;

    if (s->tops) {
        const struct top *top = top_of(s, topic);
        if (!top->topic)
            return FOUND_NONE;
        from = base + top->offset;
    }
    for (uint64_t offset = from - base + 1; offset-- > 0;) {
        if (atomic_load_explicit(&s->open->topic[offset], memory_order_relaxed) != topic)
            continue;
        int rc = nearest(s, base + offset, &there, &lives);
        if (rc <= 0)
            return rc < 0 ? rc : FOUND_END;
        if (there == base + offset && lives) {
            *ret = there;
            return FOUND;
        }
        if (there < base)
            return FOUND_NONE;
        if (there < base + offset)
            offset = there - base + 1; /* (N2) */
    }
    return FOUND_NONE;
}

/* The list as it lies in the file, a copy: statements must not stay open. *ret_count 0: there is none. */
static int read_list(struct search *s, uint64_t segment, uint32_t topic, unsigned char **ret,
                     int *ret_count)
{
    sqlite3_stmt *stmt = s->r->list;
    int rc, result = 0;

    *ret = NULL;
    *ret_count = 0;
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)segment);
    sqlite3_bind_int64(stmt, 2, topic);
    rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        const void *blob = sqlite3_column_blob(stmt, 0);
        size_t len = (size_t)sqlite3_column_bytes(stmt, 0);
        result = *ret_count = eb_postings_check(segment, topic, blob, len);
        *ret = result > 0 ? malloc(len) : NULL;
        if (*ret)
            memcpy(*ret, blob, len);
        else if (result > 0)
            result = -ENOMEM;
    } else if (rc != SQLITE_DONE) {
        result = eb_sqlite_damage(rc) ? -EBADMSG : eb_sqlite_reader_errno(s->r, rc);
    }
    sqlite3_reset(stmt);
    return result < 0 ? result : 0;
}

/* A segment whose list is not whole, row by row. */
static int in_rows(struct search *s, uint32_t topic, uint64_t base, uint64_t upto, uint64_t *ret)
{
    sqlite3_stmt *stmt = s->r->scan_topic;
    int rc, result = FOUND_NONE;

    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)base);
    sqlite3_bind_int64(stmt, 2, (sqlite3_int64)upto);
    sqlite3_bind_int64(stmt, 3, topic);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW && result == FOUND_NONE) {
        s->looked++;
        *ret = (uint64_t)sqlite3_column_int64(stmt, 0);
        if (eb_row_expires(sqlite3_column_int64(stmt, 1), sqlite3_column_int64(stmt, 2)) > s->now)
            result = FOUND;
    }
    sqlite3_reset(stmt);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? result : eb_sqlite_reader_errno(s->r, rc);
}

static int in_list(struct search *s, uint32_t topic, uint64_t segment, uint64_t upto, uint64_t *ret)
{
    uint64_t base = eb_segment_base(segment), there;
    unsigned char *list;
    bool lives = false;
    int count, result = read_list(s, segment, topic, &list, &count);

    if (result == -EBADMSG)
        return in_rows(s, topic, base, upto, ret);
    for (int i = count; result == FOUND_NONE && i-- > 0;) {
        uint64_t seq = base + eb_postings_at(list, (size_t)i);
        if (seq > upto)
            continue;
        int rc = nearest(s, seq, &there, &lives);
        if (rc <= 0) {
            result = rc < 0 ? rc : FOUND_END;
        } else if (there == seq && lives) {
            *ret = seq;
            result = FOUND;
        } else if (there < seq) {
            upto = there; /* (N2) */
        }
    }
    free(list);
    return result;
}

/* The highest segment at or below @segment that has rows. 1, 0, -errno. */
static int segment_below(struct search *s, uint64_t segment, uint64_t *ret)
{
    sqlite3_stmt *stmt = s->r->segment_below;
    int rc;

    s->looked++;
    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)segment);
    rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *ret = (uint64_t)sqlite3_column_int64(stmt, 0);
    sqlite3_reset(stmt);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return rc == SQLITE_ROW;
    return eb_sqlite_reader_errno(s->r, rc);
}

/* @last: topics.last_seq. FOUND, FOUND_NONE, -errno. */
static int search(struct search *s, uint32_t topic, uint64_t last, uint64_t *ret)
{
    uint64_t base = eb_segment_base(s->open->number), upto = s->upto, segment = 0;
    int rc;

    if (upto >= base) {
        uint64_t top = base + EB_SEGMENT_SEQS - 1;
        rc = in_open(s, topic, upto < top ? upto : top, ret);
        if (rc != FOUND_NONE)
            return rc == FOUND_END ? FOUND_NONE : rc;
        upto = base ? base - 1 : 0;
    }
    upto = last < upto ? last : upto;
    while (upto > 0) {
        breathe(s);
        rc = segment_below(s, eb_segment_of(upto), &segment);
        if (rc <= 0)
            return rc;
        if (segment < eb_segment_of(upto))
            upto = eb_segment_base(segment + 1) - 1;
        rc = in_list(s, topic, segment, upto, ret);
        if (rc != FOUND_NONE)
            return rc == FOUND_END ? FOUND_NONE : rc;
        upto = segment ? eb_segment_base(segment) - 1 : 0;
    }
    return FOUND_NONE;
}

/* One that expires or goes just then is passed over like the others. */
static int read_newest(struct search *s, uint32_t id, uint64_t last, struct eb_event **ret)
{
    uint64_t seq;
    int rc;

    for (; s->upto > 0; s->upto = seq - 1) {
        rc = search(s, id, last, &seq);
        if (rc != FOUND)
            return rc < 0 ? rc : -ENOENT;
        rc = eb_sqlite_read_one(s->r, seq, ret);
        if (rc != -ENOENT)
            return rc;
    }
    return -ENOENT;
}

int eb_sqlite_last(struct eb_engine *engine, void *reader, const char *topic, size_t len,
                   uint64_t upto, struct eb_event **ret)
{
    struct eb_sqlite_reader *r = reader;
    struct search s = {.r = r, .upto = upto, .now = eb_wall_ms()};
    uint64_t last = 0;
    uint32_t id = 0;
    int rc;

    s.open = eb_sqlite_open_segment(r->e);
    begin(&s);
    sqlite3_bind_text(r->topic_known, 1, topic, (int)len, SQLITE_STATIC);
    rc = sqlite3_step(r->topic_known);
    if (rc == SQLITE_ROW) {
        id = (uint32_t)sqlite3_column_int64(r->topic_known, 0);
        last = (uint64_t)sqlite3_column_int64(r->topic_known, 1);
    }
    sqlite3_reset(r->topic_known);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        rc = id ? read_newest(&s, id, last, ret) : -ENOENT;
    else
        rc = eb_sqlite_reader_errno(r, rc);
    end(&s);
    finish(&s);
    return rc;
}

/* ---- all topics that match ---- */

struct topics { /* of one read */
    uint32_t ids[TOPICS_A_READ];
    uint64_t lasts[TOPICS_A_READ];
    size_t count;
    bool more;
};

struct seqs {
    uint64_t *list;
    size_t count, cap;
};

static int add_seq(struct seqs *seqs, uint64_t seq)
{
    if (seqs->count == seqs->cap) {
        size_t cap = seqs->cap ? seqs->cap * 2 : 64;
        uint64_t *list = realloc(seqs->list, cap * sizeof(*list));
        if (!list)
            return -ENOMEM;
        seqs->list = list;
        seqs->cap = cap;
    }
    seqs->list[seqs->count++] = seq;
    return 0;
}

/* Where the next read of topics goes on. */
struct place {
    uint32_t id;                 /* by id: behind it */
    char from[EB_TOPIC_MAX + 2]; /* by name: from it on */
    size_t from_len;
};

/* Take what matches of a part of the topics that @stmt gives as (id, name, last_seq). */
static int take_topics(struct search *s, const struct eb_selection *selection, sqlite3_stmt *stmt,
                       struct place *place, struct topics *ret)
{
    unsigned rows = 0;
    int rc = SQLITE_DONE;

    ret->count = 0;
    while (rows < TOPICS_A_READ && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(stmt, 1);
        int len = sqlite3_column_bytes(stmt, 1);
        rows++;
        place->id = (uint32_t)sqlite3_column_int64(stmt, 0);
        if (!name || len < 1 || len > EB_TOPIC_MAX)
            continue;
        memcpy(place->from, name, (size_t)len + 1); /* the next name is above it with a NUL */
        place->from_len = (size_t)len + 1;
        if (!eb_selection_match(selection, name, (size_t)len))
            continue;
        ret->ids[ret->count] = place->id;
        ret->lasts[ret->count++] = (uint64_t)sqlite3_column_int64(stmt, 2);
    }
    sqlite3_reset(stmt);
    s->looked += rows;
    ret->more = rc == SQLITE_ROW;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : eb_sqlite_reader_errno(s->r, rc);
}

static int search_all(struct search *s, const struct topics *topics, struct seqs *seqs)
{
    int rc = 0;

    for (size_t i = 0; i < topics->count && rc >= 0; i++) {
        uint64_t seq;
        rc = search(s, topics->ids[i], topics->lasts[i], &seq);
        if (rc == FOUND)
            rc = add_seq(seqs, seq);
    }
    return rc < 0 ? rc : 0;
}

/* Every topic, by id. */
static int by_id(struct search *s, const struct eb_selection *selection, struct seqs *seqs)
{
    struct place place = {0};
    struct topics topics = {.more = true};
    int rc = 0;

    while (rc == 0 && topics.more) {
        begin(s);
        sqlite3_bind_int64(s->r->known_above, 1, place.id);
        rc = take_topics(s, selection, s->r->known_above, &place, &topics);
        if (rc == 0)
            rc = search_all(s, &topics, seqs);
        end(s);
    }
    return rc;
}

/* All matches of @pattern begin with its literal words (as in select_sqlite.c). */
static int by_name(struct search *s, const struct eb_selection *selection,
                   const struct eb_pattern *pattern, struct seqs *seqs)
{
    struct place place = {.from_len = pattern->wild ? pattern->literal : pattern->len};
    struct topics topics = {.more = true};
    char above[EB_TOPIC_MAX + 2];
    int rc = 0;

    memcpy(place.from, pattern->text, place.from_len);
    memcpy(above, pattern->text, place.from_len);
    above[place.from_len] = pattern->wild ? (char)0xff : '\0';
    int above_len = (int)place.from_len + 1;
    while (rc == 0 && topics.more) {
        begin(s);
        sqlite3_bind_text(s->r->known_between, 1, place.from, (int)place.from_len, SQLITE_STATIC);
        sqlite3_bind_text(s->r->known_between, 2, above, above_len, SQLITE_STATIC);
        rc = take_topics(s, selection, s->r->known_between, &place, &topics);
        if (rc == 0)
            rc = search_all(s, &topics, seqs);
        end(s);
    }
    return rc;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* A topic that several patterns match was found as often, by the same seq. */
static void sort(struct seqs *seqs)
{
    size_t kept = 0;

    if (seqs->count == 0)
        return;
    qsort(seqs->list, seqs->count, sizeof(*seqs->list), compare);
    for (size_t i = 1; i < seqs->count; i++)
        if (seqs->list[i] != seqs->list[kept])
            seqs->list[++kept] = seqs->list[i];
    seqs->count = kept + 1;
}

int eb_sqlite_last_seqs(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                        uint64_t upto, uint64_t **ret, size_t *ret_count)
{
    struct eb_sqlite_reader *r = reader;
    struct search s = {.r = r, .upto = upto, .now = eb_wall_ms()};
    struct seqs seqs = {NULL};
    bool all = false;
    int rc = 0;

    s.open = eb_sqlite_open_segment(r->e);
    make_tops(&s);
    for (size_t i = 0; i < selection->count; i++)
        all = all || (selection->patterns[i].wild && selection->patterns[i].literal == 0);
    if (all)
        rc = by_id(&s, selection, &seqs);
    for (size_t i = 0; !all && i < selection->count && rc == 0; i++)
        rc = by_name(&s, selection, &selection->patterns[i], &seqs);
    finish(&s);
    if (rc < 0) {
        free(seqs.list);
        return rc;
    }
    sort(&seqs);
    *ret = seqs.list;
    *ret_count = seqs.count;
    return 0;
}
