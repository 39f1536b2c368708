/*
 * verify.c - look at every page of a log and its WAL, and say what is wrong with it.
 *
 *   page 1, schema -> each tree, page by page: is every byte accounted for, do keys rise, is no page used twice
 *                  -> log: each row's CRC32C;  postings: each list's CRC32C, and does it name every row
 *                  -> freelist, pointer map: does every page belong to exactly one thing
 *
 * (Y1) What is lost is said as ranges of seqs: between the whole rows on both sides, or the keys in the page
 *      above. A range may name seqs that were deleted before; it never leaves out one that was lost.
 * (Y2) A row behind a broken inner page is not lost: repair finds it, and so does verify (second look).
 * (Y3) Where frames of the WAL are damaged, it is not known which pages they held: every hole in the log, and
 *      what came after its end, is said to be in doubt.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/store/copy.h"
#include "broker/store/ops.h"
#include "broker/store/salvage.h"
#include "broker/store/segments.h"
#include "common/clock.h"
#include "common/uuid.h"

#define LINES_MAX 200 /* of one kind: the rest is counted */
#define OPEN_END  UINT64_MAX

struct range {
    uint64_t from, to;
};
struct ranges {
    struct range *list;
    size_t count, cap;
};

struct pair {
    uint32_t topic, offset;
};

/* The lists of `postings`, pulled one by one in their order. */
struct lists {
    struct eb_walk walk;
    struct eb_walk_step step;
    uint32_t next;
    bool in_step, there;
    uint64_t segment;
    uint32_t topic;
    struct eb_buf buf;
    int count; /* offsets, -1: the list is broken */
    const uint8_t *blob;
};

struct verify {
    const struct eb_ops *ops;
    struct eb_ops_summary *sum;
    struct eb_pages pages;
    struct eb_roots roots;
    struct eb_salvage salvage;
    struct eb_page_map *map;
    uint8_t *bits; /* pages that belong to a tree, to a chain of its own, or are free */
    uint8_t *free_bits;
    struct ranges lost, found;
    int oom;
    const char *tree; /* at work on */
    bool broken;      /* some page of some tree is: pages behind it belong to nothing for now */
    uint64_t last, deleted_upto; /* whole row before, end of what retention deleted */
    uint64_t *seqs;              /* of the leaf at hand */
    size_t seq_count, seq_cap;
    bool bad_cells;
    bool second_look;
    struct pair *pairs; /* of the segment at hand */
    uint32_t pair_count;
    uint64_t segment;
    uint64_t *closed; /* segments with a row in `segments`, rising */
    size_t closed_count, closed_cap;
    struct lists lists;
    uint64_t expiry_rows, expiry_sum, ttl_rows, ttl_sum;
    int64_t told_ms;
};

static void line(struct verify *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(struct verify *v, const char *fmt, ...)
{
    char text[400];
    va_list args;
    if (!v->ops->report)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    v->ops->report(v->ops->ctx, text);
}

#define PROBLEM(v, ...)                                                                            \
    do {                                                                                           \
        if (++(v)->sum->problems <= LINES_MAX)                                                     \
            line(v, __VA_ARGS__);                                                                  \
        else if ((v)->sum->problems == LINES_MAX + 1)                                              \
            line(v, "there is more: it is counted, not shown");                                    \
    } while (0)

static void told(struct verify *v)
{
    int64_t now = eb_mono_ms();
    v->sum->pages++;
    if (v->ops->progress && now - v->told_ms > 100) {
        v->told_ms = now;
        v->ops->progress(v->ops->ctx, v->sum->pages, v->pages.count);
    }
}

static void add_range(struct verify *v, struct ranges *r, uint64_t from, uint64_t to)
{
    if (from > to)
        return;
    if (r->count && r->list[r->count - 1].to + 1 == from && r->list[r->count - 1].to != OPEN_END) {
        r->list[r->count - 1].to = to;
        return;
    }
    if (r->count == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 64;
        struct range *list = realloc(r->list, cap * sizeof(*list));
        if (!list) {
            v->oom = -ENOMEM;
            return;
        }
        r->list = list;
        r->cap = cap;
    }
    r->list[r->count++] = (struct range){from, to};
}

/* ---- postings against rows ---- */

static bool chain_page(void *ctx, uint32_t pgno)
{
    struct verify *v = ctx;
    return !eb_bit_set(v->bits, pgno);
}

/* Take the list in @cell. False if it is no list at all. */
static bool take_list(struct verify *v, struct lists *l, const struct eb_cell *cell)
{
    struct eb_value c[4]; /* the fourth is the rowid, which SQLite keeps as NULL */
    if (eb_cell_payload(&v->pages, cell, &l->buf, chain_page, v) ||
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
static int next_list(struct verify *v)
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
    size_t lo = 0, hi = v->closed_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (v->closed[mid] < segment)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < v->closed_count && v->closed[lo] == segment;
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
static int end_segment(struct verify *v)
{
    struct lists *l = &v->lists;
    uint32_t missing = 0;
    int rc = 0;
    while (!rc && l->there && l->segment < v->segment)
        rc = next_list(v);
    if (!rc && v->pair_count && is_closed(v, v->segment)) {
        qsort(v->pairs, v->pair_count, sizeof(*v->pairs), by_topic);
        for (uint32_t i = 0, n; i < v->pair_count && !rc; i += n) {
            uint32_t topic = v->pairs[i].topic;
            for (n = 1; i + n < v->pair_count && v->pairs[i + n].topic == topic; n++)
                ;
            while (!rc && l->there && l->segment == v->segment && l->topic < topic)
                rc = next_list(v);
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

/* ---- the log ---- */

static int on_row(void *ctx, const struct eb_row *row, struct eb_name *name)
{
    struct verify *v = ctx;
    v->sum->rows++;
    int64_t at = eb_row_expires(row->ts, row->ttl);
    if (at != INT64_MAX) {
        v->ttl_rows++;
        v->ttl_sum += (uint64_t)at * 0x9E3779B97F4A7C15u ^ row->seq;
    }
    if (v->second_look) {
        add_range(v, &v->found, row->seq, row->seq);
        return v->oom;
    }
    if (v->seq_count == v->seq_cap) {
        size_t cap = v->seq_cap ? 2 * v->seq_cap : 512;
        uint64_t *list = realloc(v->seqs, cap * sizeof(*list));
        if (!list)
            return -ENOMEM;
        v->seqs = list;
        v->seq_cap = cap;
    }
    v->seqs[v->seq_count++] = row->seq;
    int rc = 0;
    uint64_t segment = eb_segment_of(row->seq);
    if (segment != v->segment) {
        rc = segment > v->segment ? end_segment(v) : 0;
        v->segment = segment > v->segment ? segment : v->segment;
    }
    if (segment == v->segment && v->pair_count < EB_SEGMENT_SEQS)
        v->pairs[v->pair_count++] =
            (struct pair){name->id, (uint32_t)(row->seq - eb_segment_base(segment))};
    return rc;
}

static void on_bad(void *ctx, uint64_t seq, const char *why)
{
    struct verify *v = ctx;
    v->bad_cells = true;
    if (seq)
        PROBLEM(v, "event %llu is damaged: %s", (unsigned long long)seq, why);
    else
        PROBLEM(v, "an event is damaged: %s", why);
}

static int by_value(const void *va, const void *vb)
{
    const uint64_t *a = va, *b = vb;
    return *a < *b ? -1 : *a > *b;
}

/* A leaf was read: what lies between its whole rows is lost, if something in it is broken (Y1). */
static void judge_leaf(struct verify *v, const struct eb_walk_step *step, bool suspect)
{
    uint64_t low = step->low > 0 ? (uint64_t)step->low : 0;
    uint64_t high = step->high == INT64_MAX ? OPEN_END : (uint64_t)step->high;
    uint64_t before = v->last > low ? v->last : low;
    before = before > v->deleted_upto ? before : v->deleted_upto;
    qsort(v->seqs, v->seq_count, sizeof(*v->seqs), by_value);
    for (size_t i = 0; i < v->seq_count; i++) {
        if (v->seqs[i] <= before)
            continue;
        if (suspect)
            add_range(v, &v->lost, before + 1, v->seqs[i] - 1);
        before = v->seqs[i];
    }
    if (suspect && before != OPEN_END)
        add_range(v, &v->lost, before + 1, high);
    v->last = before;
}

static void on_broken(void *ctx, uint32_t pgno, int64_t low, int64_t high, const char *why)
{
    struct verify *v = ctx;
    v->broken = true;
    PROBLEM(v, "page %u of %s is damaged: %s", pgno, v->tree, why);
    if (strcmp(v->tree, "log"))
        return;
    uint64_t from = (low > 0 ? (uint64_t)low : 0) + 1;
    from = from > v->deleted_upto ? from : v->deleted_upto + 1;
    add_range(v, &v->lost, from, high == INT64_MAX ? OPEN_END : high < 0 ? 0 : (uint64_t)high);
}

static void on_visit(void *ctx, uint32_t pgno, uint32_t parent)
{
    struct verify *v = ctx;
    uint32_t said = 0;
    told(v);
    if (pgno == 1)
        return;
    enum eb_page_use use = eb_page_use(v->map, pgno, &said);
    if (use != (parent ? EB_USE_TREE : EB_USE_ROOT) || (parent && said != parent))
        PROBLEM(v, "the pointer map is wrong about page %u of %s", pgno, v->tree);
}

static int walk_log(struct verify *v)
{
    struct eb_walk walk = {.bits = v->bits, .ctx = v, .broken = on_broken, .visit = on_visit};
    struct eb_walk_step step;
    if (!v->roots.root[EB_TREE_LOG])
        return 0;
    v->tree = "log";
    int rc = eb_walk_begin(&walk, &v->pages, v->roots.root[EB_TREE_LOG], true);
    while (!rc && (v->tree = "log", rc = eb_walk_next(&walk, &step)) > 0) {
        const char *why = NULL;
        v->seq_count = 0;
        v->bad_cells = false;
        rc = eb_salvage_leaf(&v->salvage, step.pgno, step.node->page, &why);
        if (why)
            PROBLEM(v, "page %u of log is damaged: %s", step.pgno, why);
        judge_leaf(v, &step,
                   why || v->bad_cells || v->pages.broken_frames || v->pages.wal_header_broken);
        rc = rc < 0 ? rc : v->oom;
    }
    eb_walk_finish(&walk);
    if (!rc)
        rc = end_segment(v);
    while (!rc && v->lists.there)
        rc = next_list(v);
    return rc;
}

/* ---- the other trees ---- */

static bool is_text(const struct eb_value *value, const char *text)
{
    return value->type == EB_V_TEXT && value->len == strlen(text) &&
           !memcmp(value->data, text, value->len);
}

static bool check_meta(struct verify *v, const struct eb_value *c)
{
    uint8_t id[16];
    if (is_text(&c[0], EB_META_EPOCH)) {
        if (c[1].type != EB_V_TEXT || c[1].len != EB_UUID_TEXT ||
            !eb_uuid_parse(id, (const char *)c[1].data, c[1].len))
            return false;
        eb_uuid_format(v->sum->epoch, id);
    }
    if (is_text(&c[0], EB_META_DELETED_UPTO) || is_text(&c[0], EB_META_LAST_SEQ)) {
        if (c[1].type != EB_V_INT || c[1].i < 0)
            return false;
        if (is_text(&c[0], EB_META_DELETED_UPTO))
            v->deleted_upto = (uint64_t)c[1].i;
        else
            v->sum->last_seq = (uint64_t)c[1].i;
    }
    return true;
}

static int note_segment(struct verify *v, uint64_t segment)
{
    if (v->closed_count == v->closed_cap) {
        size_t cap = v->closed_cap ? 2 * v->closed_cap : 64;
        uint64_t *list = realloc(v->closed, cap * sizeof(*list));
        if (!list)
            return -ENOMEM;
        v->closed = list;
        v->closed_cap = cap;
    }
    v->closed[v->closed_count++] = segment;
    return 0;
}

/* One entry of a small table. False if it cannot be one. */
static bool check_entry(struct verify *v, enum eb_tree tree, const struct eb_cell *cell,
                        const struct eb_value *c, int n)
{
    switch (tree) {
    case EB_TREE_META:
        return n == 2 && c[0].type == EB_V_TEXT && check_meta(v, c);
    case EB_TREE_TOPICS:
        return n == 2 && c[1].type == EB_V_TEXT &&
               !(v->oom = eb_names_add(&v->salvage.names, cell->rowid, c[1].data, c[1].len, false));
    case EB_TREE_TOPICS_INDEX:
        return n == 2 && c[0].type == EB_V_TEXT && c[1].type == EB_V_INT &&
               !(v->oom = eb_names_add(&v->salvage.names, c[1].i, c[0].data, c[0].len, true));
    case EB_TREE_EXPIRY:
        if (n != 2 || c[0].type != EB_V_INT || c[1].type != EB_V_INT)
            return false;
        v->expiry_rows++;
        v->expiry_sum += (uint64_t)c[0].i * 0x9E3779B97F4A7C15u ^ (uint64_t)c[1].i;
        return true;
    case EB_TREE_ACKED:
        v->sum->acked++;
        return n == 2 && cell->rowid > 0 && c[1].type == EB_V_INT;
    case EB_TREE_GONE:
        return n == 3 && c[0].type == EB_V_BLOB && c[0].len == 16 && c[1].type == EB_V_INT &&
               c[2].type == EB_V_INT;
    case EB_TREE_SEGMENTS:
        v->oom = note_segment(v, (uint64_t)cell->rowid);
        return n == 5 && cell->rowid >= 0;
    default:
        return true;
    }
}

/* Do entries of an index rise? Compares as SQLite does for the kinds that occur here. */
static int compare(const struct eb_value *a, const struct eb_value *b, int n)
{
    for (int i = 0; i < n; i++) {
        if (a[i].type != b[i].type)
            return a[i].type < b[i].type ? -1 : 1;
        if (a[i].type == EB_V_INT && a[i].i != b[i].i)
            return a[i].i < b[i].i ? -1 : 1;
        if (a[i].type < EB_V_TEXT)
            continue;
        uint64_t len = a[i].len < b[i].len ? a[i].len : b[i].len;
        int d = memcmp(a[i].data, b[i].data, len);
        if (d || a[i].len != b[i].len)
            return d ? d : a[i].len < b[i].len ? -1 : 1;
    }
    return 0;
}

struct small {
    struct verify *v;
    enum eb_tree tree; /* EB_TREE_COUNT: a table that is not ours to know */
    int64_t rowid;
    bool started;
    struct eb_buf now, before; /* payloads */
    uint64_t before_len;
};

static void check_cell(struct small *s, uint32_t pgno, const struct eb_cell *cell, bool table)
{
    struct verify *v = s->v;
    struct eb_value c[16], old[16];
    int rc = eb_cell_payload(&v->pages, cell, &s->now, chain_page, v);
    int n = rc ? -1 : eb_record_read((const uint8_t *)s->now.data, cell->payload, c, 16);
    if (n < 1 || !check_entry(v, s->tree, cell, c, n)) {
        PROBLEM(v, "an entry on page %u of %s is damaged", pgno, v->tree);
        return;
    }
    bool order = !s->started || cell->rowid > s->rowid;
    if (!table && s->started) {
        int m = eb_record_read((const uint8_t *)s->before.data, s->before_len, old, 16);
        int keys =
            n < m ? n : m; /* the key comes first in a WITHOUT ROWID table, and is unique there */
        order = keys < 1 || compare(old, c, keys) < 0;
    }
    if (!order)
        PROBLEM(v, "entries on page %u of %s are out of order", pgno, v->tree);
    s->started = true;
    s->rowid = cell->rowid;
    struct eb_buf swap = s->before;
    s->before = s->now;
    s->before_len = cell->payload;
    s->now = swap;
}

static int walk_small(struct verify *v, enum eb_tree tree, uint32_t root, const char *name,
                      bool table)
{
    struct eb_walk walk = {.bits = v->bits, .ctx = v, .broken = on_broken, .visit = on_visit};
    struct eb_walk_step step;
    struct small small = {.v = v, .tree = tree};
    if (!root)
        return 0;
    v->tree = name;
    int rc = eb_walk_begin(&walk, &v->pages, root, table);
    while (!rc && (rc = eb_walk_next(&walk, &step)) > 0) {
        rc = 0;
        if (step.single) {
            check_cell(&small, step.pgno, &step.cell, table);
            continue;
        }
        const char *why = eb_node_check(step.node, NULL);
        if (why)
            PROBLEM(v, "page %u of %s is damaged: %s", step.pgno, name, why);
        for (uint32_t i = 0; i < step.node->cells; i++) {
            struct eb_cell cell;
            if (eb_cell_read(step.node, i, &cell))
                check_cell(&small, step.pgno, &cell, table);
        }
        rc = v->oom;
    }
    eb_walk_finish(&walk);
    eb_buf_finish(&small.now);
    eb_buf_finish(&small.before);
    return rc;
}

static int walk_others(struct verify *v)
{
    int rc = 0;
    for (unsigned i = 0; i < v->roots.other_count && !rc; i++) {
        uint8_t page[EB_PAGE_MAX];
        struct eb_node node;
        uint32_t root = v->roots.others[i];
        bool table = !eb_pages_read(&v->pages, root, page) &&
                     eb_node_read(&node, &v->pages, root, page) && node.table;
        rc = walk_small(v, EB_TREE_COUNT, root, "another table", table);
    }
    return rc;
}

/* The table of topics and its index must say the same. */
static void check_names(struct verify *v)
{
    struct eb_names *names = &v->salvage.names;
    size_t table = 0, index = 0;
    for (size_t i = 0; i < names->count; i++)
        names->list[i].indexed ? index++ : table++;
    v->sum->topics = table;
    if (index != table)
        PROBLEM(v, "topics: %zu in the table, %zu in its index", table, index);
    eb_names_sort(names);
    if (names->count != table && index == table)
        PROBLEM(v, "topics: table and index do not name the same");
}

/* ---- what belongs to nothing ---- */

static int check_page(struct verify *v, uint32_t pgno)
{
    uint8_t page[EB_PAGE_MAX];
    const char *why;
    bool is_free = eb_bit_get(v->free_bits, pgno);
    bool in_tree = eb_bit_get(v->bits, pgno), in_chain = eb_bit_get(v->salvage.chains, pgno);
    enum eb_page_use use = eb_page_use(v->map, pgno, NULL);
    if (use == EB_USE_MAP || pgno == 1)
        return 0;
    if (is_free + in_tree + in_chain > 1)
        PROBLEM(v, "page %u is used twice", pgno);
    if (is_free && use != EB_USE_FREE)
        PROBLEM(v, "the pointer map is wrong about the free page %u", pgno);
    if (in_chain && use != EB_USE_OVERFLOW && use != EB_USE_OVERFLOW_FIRST)
        PROBLEM(v, "the pointer map is wrong about the overflow page %u", pgno);
    if (is_free || in_tree || in_chain)
        return 0;
    if (!v->broken && !v->sum->damaged && !v->bad_cells)
        PROBLEM(v, "page %u belongs to nothing", pgno);
    if (use == EB_USE_FREE || use == EB_USE_OVERFLOW || use == EB_USE_OVERFLOW_FIRST)
        return 0;
    struct eb_node node;
    int rc = eb_pages_read(&v->pages, pgno, page);
    if (rc)
        return rc == -ENODATA ? 0 : rc;
    if (eb_node_read(&node, &v->pages, pgno, page) && node.type != EB_TABLE_LEAF)
        return 0;
    return eb_salvage_leaf(&v->salvage, pgno, page, &why);
}

/* (Y2) rows behind broken inner pages, and in frames that are not whole */
static int look_again(struct verify *v)
{
    uint8_t page[EB_PAGE_MAX];
    const char *why;
    int rc = 0;
    v->second_look = true;
    v->salvage.bad = NULL;
    for (uint32_t pgno = 1; pgno <= v->pages.count && !rc; pgno++)
        rc = check_page(v, pgno);
    for (uint32_t f = 1; f <= v->pages.committed_end && !rc; f++) {
        uint32_t pgno = v->pages.frames[f - 1].pgno;
        if (v->pages.frames[f - 1].chained)
            continue;
        PROBLEM(v, "frame %u of the WAL (page %u) is damaged", f, pgno);
        uint64_t rows = v->sum->rows;
        rc = eb_pages_read_frame(&v->pages, f, page);
        if (!rc)
            rc = eb_salvage_leaf(&v->salvage, 2, page, &why);
        v->sum->rows = rows; /* some of them were counted in the page's older image */
    }
    return rc;
}

static int by_from(const void *va, const void *vb)
{
    const struct range *a = va, *b = vb;
    return a->from < b->from ? -1 : a->from > b->from;
}

static void say_lost(struct verify *v, uint64_t from, uint64_t to, uint64_t *lines)
{
    v->sum->damaged += to == OPEN_END ? 1 : to - from + 1;
    if (++*lines > LINES_MAX)
        return;
    if (to == OPEN_END)
        line(v, "lost: events from %llu on, if there were any", (unsigned long long)from);
    else if (from == to)
        line(v, "lost: event %llu", (unsigned long long)from);
    else
        line(v, "lost: events %llu to %llu", (unsigned long long)from, (unsigned long long)to);
}

/* What is lost, less what the second look found. */
static void sum_up(struct verify *v)
{
    struct ranges *lost = &v->lost, *found = &v->found;
    uint64_t lines = 0;
    size_t f = 0;
    if (lost->count)
        qsort(lost->list, lost->count, sizeof(*lost->list), by_from);
    if (found->count)
        qsort(found->list, found->count, sizeof(*found->list), by_from);
    uint64_t from = 0;
    for (size_t i = 0; i < lost->count; i++) {
        from = lost->list[i].from > from ? lost->list[i].from : from;
        uint64_t to = lost->list[i].to;
        while (f < found->count && found->list[f].to < from)
            f++;
        for (; f < found->count && found->list[f].from <= to && from <= to; f++) {
            if (found->list[f].from > from)
                say_lost(v, from, found->list[f].from - 1, &lines);
            from = found->list[f].to + 1 > from ? found->list[f].to + 1 : from;
        }
        if (f) /* it may reach into the next range */
            f--;
        if (from <= to)
            say_lost(v, from, to, &lines);
        from = to == OPEN_END ? to : to + 1 > from ? to + 1 : from;
        if (to == OPEN_END)
            break;
    }
    if (lines > LINES_MAX)
        line(v, "lost: %llu more ranges", (unsigned long long)(lines - LINES_MAX));
}

/* ---- the whole ---- */

static void check_head(struct verify *v)
{
    struct eb_pages *p = &v->pages;
    const char *why = NULL;
    if (!p->header_whole)
        PROBLEM(v, "the header of the file is damaged");
    if (p->wal_header_broken && p->committed_end)
        PROBLEM(v, "the header of the WAL is damaged");
    else if (p->wal_header_broken)
        p->wal_header_broken = false; /* nothing in it was ever committed */
    if (p->committed_end > p->sql_end)
        PROBLEM(v, "the WAL is damaged from frame %u on: SQLite would drop what follows",
                p->sql_end + 1);
    if (p->count > p->file_pages && !eb_pages_in_wal(p, p->count))
        PROBLEM(v, "the file is cut: %u pages of %u are there", p->file_pages, p->count);
    if (p->db_bytes % p->page_size)
        PROBLEM(v, "the file does not end with a whole page");
    v->tree = "the schema";
    int rc = eb_roots_read(p, v->bits, &v->roots, &why);
    if (rc)
        PROBLEM(v, "the schema on page 1 is damaged: %s", why ? why : "it cannot be read");
    for (int i = 0; i < EB_TREE_COUNT; i++) {
        if (v->roots.root[i] || (!rc && p->count == 0))
            continue;
        v->broken = true;
        if (!rc)
            PROBLEM(v, "there is no table %s", eb_tree_names[i]);
    }
    if (!v->roots.root[EB_TREE_LOG] || !v->roots.root[EB_TREE_TOPICS]) {
        struct eb_roots guess = v->roots;
        eb_roots_guess(p, &guess);
        for (int i = 0; i < EB_TREE_COUNT; i++)
            v->roots.root[i] = v->roots.root[i] ? v->roots.root[i] : guess.root[i];
    }
}

static int check_small_trees(struct verify *v)
{
    static const enum eb_tree order[] = {EB_TREE_META,     EB_TREE_TOPICS, EB_TREE_TOPICS_INDEX,
                                         EB_TREE_SEGMENTS, EB_TREE_EXPIRY, EB_TREE_ACKED,
                                         EB_TREE_GONE};
    int rc = 0;
    for (size_t i = 0; i < sizeof(order) / sizeof(*order) && !rc; i++)
        rc = walk_small(v, order[i], v->roots.root[order[i]], eb_tree_names[order[i]],
                        eb_tree_is_table(order[i]));
    if (!rc && !v->sum->epoch[0])
        PROBLEM(v, "meta: there is no epoch");
    if (!rc)
        rc = walk_others(v);
    check_names(v);
    return rc;
}

/* If a table of names is not reachable, their pages still are: rows are not to be called damaged for it. */
static int more_names(struct verify *v)
{
    uint8_t page[EB_PAGE_MAX];
    struct eb_node node;
    if (!v->broken)
        return 0;
    for (uint32_t pgno = 2; pgno <= v->pages.count; pgno++) {
        enum eb_page_use use = eb_page_use(v->map, pgno, NULL);
        if (eb_bit_get(v->bits, pgno) ||
            (use != EB_USE_ROOT && use != EB_USE_TREE && use != EB_USE_UNKNOWN))
            continue;
        if (eb_pages_read(&v->pages, pgno, page) || !eb_node_read(&node, &v->pages, pgno, page))
            continue;
        int rc = eb_salvage_names(&v->salvage, &node);
        if (rc)
            return rc;
    }
    eb_names_sort(&v->salvage.names);
    return 0;
}

static int check_log(struct verify *v)
{
    struct lists *l = &v->lists;
    int rc = 0;
    l->walk = (struct eb_walk){.bits = v->bits, .ctx = v, .broken = on_broken, .visit = on_visit};
    v->tree = "postings";
    if (v->roots.root[EB_TREE_POSTINGS])
        rc = eb_walk_begin(&l->walk, &v->pages, v->roots.root[EB_TREE_POSTINGS], true);
    if (!rc && v->roots.root[EB_TREE_POSTINGS])
        rc = next_list(v);
    if (!rc)
        rc = walk_log(v);
    eb_walk_finish(&l->walk);
    if (!rc && !v->lost.count && !v->broken &&
        (v->expiry_rows != v->ttl_rows || v->expiry_sum != v->ttl_sum))
        PROBLEM(v,
                "expiry: it does not list the events that have a ttl (%llu in it, %llu in the log)",
                (unsigned long long)v->expiry_rows, (unsigned long long)v->ttl_rows);
    return rc;
}

static int check_all(struct verify *v)
{
    const char *why = NULL;
    uint64_t free_pages;
    check_head(v);
    int rc = eb_freelist_read(&v->pages, v->free_bits, 0, &free_pages, &why);
    if (rc == -EBADMSG) {
        PROBLEM(v, "the freelist is damaged: %s", why);
        v->broken = true;
        rc = 0;
    }
    rc = rc == -ENODATA ? 0 : rc;
    if (!rc)
        rc = check_small_trees(v);
    if (!rc)
        rc = more_names(v);
    if (!rc)
        rc = check_log(v);
    v->broken = v->broken || v->lost.count;
    if (!rc)
        rc = look_again(v);
    if (!rc)
        sum_up(v);
    if (v->last > v->sum->last_seq)
        v->sum->last_seq = v->last;
    return rc ? rc : v->oom;
}

static int verify_pages(const char *path, const struct eb_ops *ops, struct eb_ops_summary *ret,
                        struct eb_error *err)
{
    struct eb_ops_summary sum = {0};
    struct verify v = {.ops = ops, .sum = &sum};
    int rc = eb_pages_open(&v.pages, path, ops->vfs, err);
    if (rc)
        return rc;
    eb_fail(err, EB_INTERNAL, "out of memory");
    rc = eb_salvage_init(&v.salvage, &v.pages);
    v.map = calloc(1, sizeof(*v.map));
    v.bits = calloc(v.pages.count / 8 + 1, 1);
    v.free_bits = calloc(v.pages.count / 8 + 1, 1);
    v.pairs = malloc(EB_SEGMENT_SEQS * sizeof(*v.pairs));
    if (!v.map || !v.bits || !v.free_bits || !v.pairs)
        rc = -ENOMEM;
    if (!rc) {
        v.map->pages = &v.pages;
        v.salvage.ctx = &v;
        v.salvage.row = on_row;
        v.salvage.bad = on_bad;
        sum.bytes = v.pages.db_bytes;
        rc = v.pages.count ? check_all(&v) : 0;
    }
    if (ops->progress)
        ops->progress(ops->ctx, v.pages.count, v.pages.count);
    eb_salvage_finish(&v.salvage);
    eb_pages_close(&v.pages);
    free(v.map);
    free(v.bits);
    free(v.free_bits);
    free(v.pairs);
    free(v.seqs);
    free(v.closed);
    free(v.lost.list);
    free(v.found.list);
    eb_buf_finish(&v.lists.buf);
    if (rc == -EIO)
        eb_fail(err, EB_INTERNAL, "%.150s cannot be read: the disk reports an error", path);
    if (rc)
        return rc;
    *ret = sum;
    return sum.problems || sum.damaged ? -EBADMSG : 0;
}

int eb_store_verify(const char *path, const struct eb_ops *ops, struct eb_ops_summary *ret,
                    struct eb_error *err)
{
    static const struct eb_ops none;
    int lock = -1, rc;
    ops = ops ? ops : &none;
    if (access(path, F_OK)) {
        eb_fail(err, EB_INTERNAL, "there is no file %.150s", path);
        return -ENOENT;
    }
    rc = eb_log_lock(path, &lock, err);
    if (rc == -EBUSY) {
        if (ops->report)
            ops->report(
                ops->ctx,
                "a broker is running on it: rows and lists are read beside it; stop it to have "
                "every page looked at");
        rc = eb_verify_online(path, ops, ret, err);
    } else {
        rc = verify_pages(path, ops, ret, err);
    }
    eb_log_unlock(lock);
    if (rc == -EBADMSG)
        eb_fail(err, EB_INTERNAL,
                "%.80s is damaged: `eventbusd --repair NEW --db %.80s` brings what is whole "
                "into a new log",
                path, path);
    return rc;
}
