/*
 * verify_lists.c - postings against the log: is each list whole, and is every event in the list of its topic?
 *
 * Lists come by segment and topic, rows by seq: both are read once, side by side, a segment at a time. A list may
 * name events that were deleted; an event that no list names would never be found by its topic.
 */
#include <stdlib.h>

#include "broker/store/segments.h"
#include "broker/store/verify_internal.h"

bool eb_verify_chain_page(void *ctx, uint32_t pgno)
{
    struct verify *v = ctx;
    return !eb_bit_set(v->bits, pgno);
}

/* Take the list in @cell. False if it is no list at all. */
static bool take_list(struct verify *v, struct lists *l, const struct eb_cell *cell)
{
    struct eb_value c[4]; /* the fourth is the rowid, which SQLite keeps as NULL */
    if (eb_cell_payload(&v->pages, cell, &l->buf, eb_verify_chain_page, v) ||
        eb_record_read((const uint8_t *)l->buf.data, cell->payload, c, 4) != 4 ||
        c[0].type != EB_V_INT || c[1].type != EB_V_INT || c[2].type != EB_V_BLOB || c[0].i < 0 ||
        c[1].i < 1 || c[1].i > UINT32_MAX) {
        PROBLEM(v, "postings: an entry cannot be read");
        return false;
    }
    uint64_t segment = (uint64_t)c[0].i;
    uint32_t topic = (uint32_t)c[1].i;
    if (l->there && (segment < l->segment || (segment == l->segment && topic <= l->topic)))
        PROBLEM(v, "postings: entries are out of order at segment %llu",
                (unsigned long long)segment);
    l->segment = segment;
    l->topic = topic;
    l->blob = c[2].data;
    l->count = eb_postings_check(segment, topic, c[2].data, c[2].len);
    if (l->count < 0)
        PROBLEM(v, "postings: the list of topic %u in segment %llu is damaged", topic,
                (unsigned long long)segment);
    l->there = true;
    return true;
}

/* Move on to the next list; ->there false at the end. */
int eb_verify_next_list(struct verify *v)
{
    struct lists *l = &v->lists;
    for (;;) {
        struct eb_cell cell;
        while (l->in_step && l->next < l->step.node->cells)
            if (eb_cell_read(l->step.node, l->next++, &cell) && take_list(v, l, &cell))
                return 0;
        l->in_step = false;
        v->tree = "postings";
        int rc = eb_walk_next(&l->walk, &l->step);
        if (rc <= 0) {
            l->there = false;
            return rc;
        }
        if (l->step.single && take_list(v, l, &l->step.cell))
            return 0;
        if (l->step.single)
            continue;
        const char *why = eb_node_check(l->step.node, NULL);
        if (why)
            PROBLEM(v, "page %u of postings is damaged: %s", l->step.pgno, why);
        l->in_step = true;
        l->next = 0;
    }
}

static int by_topic(const void *va, const void *vb)
{
    const struct pair *a = va, *b = vb;
    if (a->topic != b->topic)
        return a->topic < b->topic ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static bool is_closed(const struct verify *v, uint64_t segment)
{
    size_t lo = 0, hi = v->closed.count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (v->closed.items[mid] < segment)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < v->closed.count && v->closed.items[lo] == segment;
}

/* How many of the pairs of one topic the list at hand does not name. */
static uint32_t missing_in_list(const struct lists *l, const struct pair *pairs, uint32_t n)
{
    uint32_t missing = 0;
    int at = 0;
    for (uint32_t i = 0; i < n; i++) {
        while (at < l->count && eb_postings_at(l->blob, (size_t)at) < pairs[i].offset)
            at++;
        missing += at >= l->count || eb_postings_at(l->blob, (size_t)at) != pairs[i].offset;
    }
    return missing;
}

/* All rows of a segment were seen: is each in the list of its topic? */
int eb_verify_end_segment(struct verify *v)
{
    struct lists *l = &v->lists;
    uint32_t missing = 0;
    int rc = 0;
    while (!rc && l->there && l->segment < v->segment)
        rc = eb_verify_next_list(v);
    if (!rc && v->pair_count && is_closed(v, v->segment)) {
        qsort(v->pairs, v->pair_count, sizeof(*v->pairs), by_topic);
        for (uint32_t i = 0, n; i < v->pair_count && !rc; i += n) {
            uint32_t topic = v->pairs[i].topic;
            for (n = 1; i + n < v->pair_count && v->pairs[i + n].topic == topic; n++)
                ;
            while (!rc && l->there && l->segment == v->segment && l->topic < topic)
                rc = eb_verify_next_list(v);
            bool here = l->there && l->segment == v->segment && l->topic == topic;
            if (!here)
                missing += n;
            else if (l->count >= 0) /* a broken list was reported, and is read around */
                missing += missing_in_list(l, v->pairs + i, n);
        }
        if (missing)
            PROBLEM(v, "postings: %u events of segment %llu are in no list", missing,
                    (unsigned long long)v->segment);
    }
    v->pair_count = 0;
    return rc;
}
