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
#include "broker/store/segments.h"
#include "broker/store/verify_internal.h"
#include "common/clock.h"

void eb_verify_line(struct verify *v, const char *fmt, ...)
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

int eb_seq_list_add(struct eb_seq_list *list, uint64_t value)
{
    if (list->count == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 512;
        uint64_t *items = realloc(list->items, cap * sizeof(*items));
        if (!items)
            return -ENOMEM;
        list->items = items;
        list->cap = cap;
    }
    list->items[list->count++] = value;
    return 0;
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
    int rc = eb_seq_list_add(&v->seqs, row->seq);
    if (rc < 0)
        return rc;
    uint64_t segment = eb_segment_of(row->seq);
    if (segment != v->segment) {
        rc = segment > v->segment ? eb_verify_end_segment(v) : 0;
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

/* Is the leaf's last cell a whole row, @seq? Then nothing of it is lost behind that. */
static bool ends_with(const struct eb_node *node, uint64_t seq)
{
    struct eb_cell cell;
    return node->cells && eb_cell_read(node, node->cells - 1, &cell) && (uint64_t)cell.rowid == seq;
}

/* A leaf was read: what lies between its whole rows is lost, if something in it is broken (Y1). */
static void judge_leaf(struct verify *v, const struct eb_walk_step *step, bool page_suspect)
{
    bool suspect = page_suspect || v->bad_cells;
    uint64_t low = step->low > 0 ? (uint64_t)step->low : 0;
    uint64_t high = step->high == INT64_MAX ? OPEN_END : (uint64_t)step->high;
    uint64_t before = v->last > low ? v->last : low;
    before = before > v->deleted_upto ? before : v->deleted_upto;
    qsort(v->seqs.items, v->seqs.count, sizeof(*v->seqs.items), by_value);
    for (size_t i = 0; i < v->seqs.count; i++) {
        if (v->seqs.items[i] <= before)
            continue;
        if (suspect)
            add_range(v, &v->lost, before + 1, v->seqs.items[i] - 1);
        before = v->seqs.items[i];
    }
    if (suspect && before != OPEN_END && (page_suspect || !ends_with(step->node, before)))
        add_range(v, &v->lost, before + 1, high);
    v->last = before;
}

void eb_verify_broken(void *ctx, uint32_t pgno, int64_t low, int64_t high, const char *why)
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

void eb_verify_visit(void *ctx, uint32_t pgno, uint32_t parent)
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
    struct eb_walk walk = {
        .bits = v->bits, .ctx = v, .broken = eb_verify_broken, .visit = eb_verify_visit};
    struct eb_walk_step step;
    if (!v->roots.root[EB_TREE_LOG])
        return 0;
    v->tree = "log";
    int rc = eb_walk_begin(&walk, &v->pages, v->roots.root[EB_TREE_LOG], true);
    while (!rc && (v->tree = "log", rc = eb_walk_next(&walk, &step)) > 0) {
        const char *why = NULL;
        v->seqs.count = 0;
        v->bad_cells = false;
        rc = eb_salvage_leaf(&v->salvage, step.pgno, step.node->page, &why);
        if (why)
            PROBLEM(v, "page %u of log is damaged: %s", step.pgno, why);
        judge_leaf(v, &step, why || v->pages.broken_frames || v->pages.wal_header_broken);
        rc = rc < 0 ? rc : v->oom;
    }
    eb_walk_finish(&walk);
    if (!rc)
        rc = eb_verify_end_segment(v);
    while (!rc && v->lists.there)
        rc = eb_verify_next_list(v);
    return rc;
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
        eb_verify_line(v, "lost: events from %llu on, if there were any", (unsigned long long)from);
    else if (from == to)
        eb_verify_line(v, "lost: event %llu", (unsigned long long)from);
    else
        eb_verify_line(v, "lost: events %llu to %llu", (unsigned long long)from,
                       (unsigned long long)to);
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
        eb_verify_line(v, "lost: %llu more ranges", (unsigned long long)(lines - LINES_MAX));
}

/* ---- the whole ---- */

/* Does the header of page 1 carry our mark? */
static bool is_ours(struct eb_pages *p)
{
    uint8_t page[EB_PAGE_MAX];
    return !eb_pages_read(p, 1, page) && eb_be32(page + 68) == EB_APPLICATION_ID;
}

/* 0: it cannot be read. */
static uint32_t schema_version(struct eb_pages *p)
{
    uint8_t page[EB_PAGE_MAX];
    return p->header_whole && !eb_pages_read(p, 1, page) ? eb_be32(page + 60) : 0;
}

static void check_head(struct verify *v)
{
    struct eb_pages *p = &v->pages;
    const char *why = NULL;
    if (!p->header_whole)
        PROBLEM(v, "the header of the file is damaged");
    else if (p->count && !is_ours(p))
        PROBLEM(v, "application_id in the header is not ours");
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
        if (v->roots.root[i] || (!rc && p->count == 0) || !eb_tree_expected(i, schema_version(p)))
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
    static const enum eb_tree order[] = {
        EB_TREE_META,      EB_TREE_TOPICS,          EB_TREE_TOPICS_INDEX,  EB_TREE_SEGMENTS,
        EB_TREE_EXPIRY,    EB_TREE_ACKED,           EB_TREE_GONE,          EB_TREE_IDS,
        EB_TREE_CONSUMERS, EB_TREE_CONSUMERS_INDEX, EB_TREE_BLOCKS,        EB_TREE_DEAD,
        EB_TREE_MARKS,     EB_TREE_SCHEDULED,       EB_TREE_SCHEDULED_IDS, EB_TREE_SCHEDULED_DUE,
        EB_TREE_REPLIES};
    int rc = 0;
    for (size_t i = 0; i < sizeof(order) / sizeof(*order) && !rc; i++)
        rc = eb_verify_tree(v, order[i], v->roots.root[order[i]], eb_tree_names[order[i]],
                            eb_tree_is_table(order[i]));
    if (!rc && !v->sum->epoch[0])
        PROBLEM(v, "meta: there is no epoch");
    if (!rc)
        rc = eb_verify_others(v);
    eb_verify_names(v);
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
    l->walk = (struct eb_walk){
        .bits = v->bits, .ctx = v, .broken = eb_verify_broken, .visit = eb_verify_visit};
    v->tree = "postings";
    if (v->roots.root[EB_TREE_POSTINGS])
        rc = eb_walk_begin(&l->walk, &v->pages, v->roots.root[EB_TREE_POSTINGS], true);
    if (!rc && v->roots.root[EB_TREE_POSTINGS])
        rc = eb_verify_next_list(v);
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
    if (!rc)
        eb_verify_kept(v);
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
    free(v.seqs.items);
    free(v.closed.items);
    free(v.consumers.items);
    free(v.positions.items);
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
