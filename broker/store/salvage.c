/*
 * salvage.c - find whole rows, names and roots in pages that may be damaged.
 *
 * (V1) A row is given out only if its CRC32C matches; the checksum covers seq, id and the topic's name, so that a
 *      row under a wrong seq or topic is none.
 * (V2) Overflow pages hold what publishers chose, which may look like a page of the log: they are never taken
 *      for one (see repair.c). Inside a leaf, only bytes that belong to no whole row are searched.
 */
#include "broker/store/salvage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/event.h"
#include "common/topic.h"

const char *const eb_tree_names[EB_TREE_COUNT] = {
    "meta",
    "topics",
    "sqlite_autoindex_topics_1",
    "log",
    "expiry",
    "acked",
    "gone",
    "segments",
    "postings",
    "ids",
    "consumers",
    "sqlite_autoindex_consumers_1",
    "open_blocks",
    "dead_letters",
    "marks",
    "scheduled",
    "sqlite_autoindex_scheduled_1",
    "scheduled_due",
    "replies",
};

bool eb_tree_is_table(enum eb_tree tree)
{
    return tree == EB_TREE_TOPICS || tree == EB_TREE_LOG || tree == EB_TREE_ACKED ||
           tree == EB_TREE_SEGMENTS || tree == EB_TREE_POSTINGS || tree == EB_TREE_IDS ||
           tree == EB_TREE_CONSUMERS || tree == EB_TREE_SCHEDULED || tree == EB_TREE_REPLIES;
}

static bool is_int(uint64_t type)
{
    return (type >= 1 && type <= 6) || type == 8 || type == 9;
}

static bool is_text(uint64_t type)
{
    return type >= 13 && type % 2;
}

static bool is_blob(uint64_t type)
{
    return type >= 12 && type % 2 == 0;
}

/* Tables of ten columns. */
static enum eb_shape wide_shape(const uint64_t *t)
{
    if (is_text(t[1]) && is_text(t[2]) && is_int(t[3]) && is_int(t[4]) && is_int(t[5]) &&
        is_int(t[6]) && is_int(t[7]) && is_int(t[8]) && (!t[9] || is_text(t[9])))
        return EB_SHAPE_CONSUMER;
    return t[1] == 44 && is_int(t[2]) && is_int(t[3]) && is_text(t[4]) && is_int(t[5]) &&
                   (!t[6] || is_text(t[6])) && (!t[7] || is_text(t[7])) && is_blob(t[8]) &&
                   is_int(t[9])
               ? EB_SHAPE_SCHEDULED
               : EB_SHAPE_NONE;
}

enum eb_shape eb_table_shape(const struct eb_cell *cell)
{
    uint64_t t[10];
    if (!cell->data)
        return EB_SHAPE_NONE;
    int n = eb_record_types(cell->data, cell->local, t, 10);
    if (n < 2 || t[0])
        return EB_SHAPE_NONE;
    if (n == 9 && is_int(t[1]) && is_int(t[2]) && is_int(t[3]) && t[4] == 44 &&
        (!t[5] || is_text(t[5])) && (!t[6] || is_text(t[6])) && is_blob(t[7]) && is_int(t[8]))
        return EB_SHAPE_LOG;
    if (n == 2)
        return is_text(t[1]) ? EB_SHAPE_TOPIC : is_int(t[1]) ? EB_SHAPE_ACKED : EB_SHAPE_NONE;
    if (n == 10)
        return wide_shape(t);
    if (n == 3)
        return is_text(t[1]) && is_int(t[2]) ? EB_SHAPE_TOPIC : EB_SHAPE_NONE;
    if (n == 4)
        return is_int(t[1]) && is_int(t[2]) && is_blob(t[3]) ? EB_SHAPE_IDS : EB_SHAPE_NONE;
    return n == 5 && is_int(t[1]) && is_int(t[2]) && is_int(t[3]) && is_int(t[4]) ? EB_SHAPE_SEGMENT
                                                                                  : EB_SHAPE_NONE;
}

/* ---- names ---- */

int eb_names_add(struct eb_names *names, int64_t id, const void *text, uint64_t len, bool indexed)
{
    struct eb_error err = {.code = EB_OK};
    if (id < 1 || id > UINT32_MAX || len > EB_TOPIC_MAX || eb_topic_check(text, len, &err))
        return 0;
    if (names->count == names->cap) {
        size_t cap = names->cap ? 2 * names->cap : 256;
        struct eb_name *list = realloc(names->list, cap * sizeof(*list));
        if (!list)
            return -ENOMEM;
        names->list = list;
        names->cap = cap;
    }
    if (names->text.len > UINT32_MAX - EB_TOPIC_MAX)
        return -ENOMEM;
    names->list[names->count++] = (struct eb_name){.id = (uint32_t)id,
                                                   .at = (uint32_t)names->text.len,
                                                   .len = (uint8_t)len,
                                                   .indexed = indexed,
                                                   .tabled = !indexed};
    eb_buf_add(&names->text, text, len);
    names->sorted = false;
    return eb_buf_failed(&names->text) ? -ENOMEM : 0;
}

static int by_id(const void *va, const void *vb)
{
    const struct eb_name *a = va, *b = vb;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->at < b->at ? -1 : a->at > b->at;
}

/* Sort, and keep of those that say the same only one, which remembers the index. */
void eb_names_sort(struct eb_names *names)
{
    size_t kept = 0;
    if (!names->count)
        return;
    qsort(names->list, names->count, sizeof(*names->list), by_id);
    for (size_t i = 0; i < names->count; i++) {
        struct eb_name n = names->list[i];
        size_t k = kept;
        while (k > 0 && names->list[k - 1].id == n.id &&
               (names->list[k - 1].len != n.len ||
                memcmp(eb_name_text(names, &names->list[k - 1]), eb_name_text(names, &n), n.len)))
            k--;
        if (k > 0 && names->list[k - 1].id == n.id) {
            struct eb_name *same = &names->list[k - 1];
            same->indexed = same->indexed || n.indexed;
            same->tabled = same->tabled || n.tabled;
            same->last = n.last > same->last ? n.last : same->last;
        } else {
            names->list[kept++] = n;
        }
    }
    names->count = kept;
    names->sorted = true;
}

struct eb_name *eb_names_find(struct eb_names *names, uint32_t id, size_t *ret_count)
{
    size_t lo = 0, hi = names->count, n = 0;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (names->list[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    while (lo + n < names->count && names->list[lo + n].id == id)
        n++;
    *ret_count = n;
    return n ? &names->list[lo] : NULL;
}

void eb_names_finish(struct eb_names *names)
{
    free(names->list);
    eb_buf_finish(&names->text);
    memset(names, 0, sizeof(*names));
}

/* ---- rows ---- */

int eb_salvage_init(struct eb_salvage *s, struct eb_pages *pages)
{
    memset(s, 0, sizeof(*s));
    s->pages = pages;
    uint32_t most = pages->count > pages->file_pages ? pages->count : pages->file_pages;
    s->chains = calloc(most / 8 + 1, 1);
    return s->chains ? 0 : -ENOMEM;
}

void eb_salvage_finish(struct eb_salvage *s)
{
    eb_names_finish(&s->names);
    eb_buf_finish(&s->payload);
    free(s->chains);
    s->chains = NULL;
}

static const void *bytes_of(const struct eb_value *v, size_t *len)
{
    *len = v->len;
    return v->type == EB_V_NULL ? NULL : v->data;
}

static bool row_from(struct eb_row *row, int64_t rowid, const uint8_t *record, size_t len)
{
    struct eb_value v[9];
    if (eb_record_read(record, len, v, 9) != 9 || rowid < 1 || (uint64_t)rowid >= EB_SEQ_MAX)
        return false;
    if (v[1].type != EB_V_INT || v[2].type != EB_V_INT || v[3].type != EB_V_INT || v[4].len != 16 ||
        v[8].type != EB_V_INT)
        return false;
    if (v[1].i < 1 || v[1].i > UINT32_MAX || v[8].i < 0 || v[8].i > UINT32_MAX || v[3].i < 0)
        return false;
    *row = (struct eb_row){.seq = (uint64_t)rowid,
                           .topic_id = (uint32_t)v[1].i,
                           .ts = v[2].i,
                           .ttl = v[3].i,
                           .id = v[4].data,
                           .crc = (uint32_t)v[8].i};
    row->content_type = bytes_of(&v[5], &row->content_type_len);
    row->headers = bytes_of(&v[6], &row->headers_len);
    row->payload = bytes_of(&v[7], &row->payload_len);
    return true;
}

static bool note_chain(void *ctx, uint32_t pgno)
{
    struct eb_salvage *s = ctx;
    if (s->chain_count < sizeof(s->chain) / sizeof(*s->chain))
        s->chain[s->chain_count] = pgno;
    s->chain_count++;
    return true;
}

/* Mark the overflow pages of a whole row; of a long chain walk it again. */
static bool mark_chain(void *ctx, uint32_t pgno)
{
    struct eb_salvage *s = ctx;
    eb_bit_set(s->chains, pgno);
    return true;
}

/* 1: a whole row, given out. 0: none. <0: stop. */
static int try_images(struct eb_salvage *s, const struct eb_cell *cell, const char **ret_why)
{
    struct eb_row row;
    const uint8_t *record = cell->data;
    s->chain_count = 0;
    if (cell->overflow) {
        int rc = eb_cell_payload(s->pages, cell, &s->payload, note_chain, s);
        *ret_why = "its overflow pages are broken";
        if (rc == -EBADMSG)
            return 0;
        if (rc)
            return rc;
        record = (const uint8_t *)s->payload.data;
    }
    *ret_why = "its record cannot be read";
    if (!row_from(&row, cell->rowid, record, cell->payload))
        return 0;
    size_t n;
    struct eb_name *name = eb_names_find(&s->names, row.topic_id, &n);
    *ret_why = n ? "its checksum does not match" : "its topic has no name";
    for (size_t i = 0; i < n; i++) {
        if (eb_row_check(&row, eb_name_text(&s->names, &name[i]), name[i].len))
            continue;
        for (uint32_t k = 0; k < s->chain_count && k < 64; k++)
            mark_chain(s, s->chain[k]);
        int rc = s->row(s->ctx, &row, &name[i]);
        if (rc >= 0 && s->chain_count > 64) /* the row's bytes are no longer needed */
            rc = eb_cell_payload(s->pages, cell, &s->payload, mark_chain, s);
        return rc < 0 ? rc : 1;
    }
    return 0;
}

static int try_cell(struct eb_salvage *s, const struct eb_cell *cell, const char **ret_why)
{
    if (eb_table_shape(cell) != EB_SHAPE_LOG) {
        *ret_why = "it is no row of the log";
        return 0;
    }
    int rc = try_images(s, cell, ret_why);
    if (!rc && cell->overflow &&
        s->pages->broken_count) { /* the rest may lie in frames that are not whole */
        s->pages->try_broken = true;
        rc = try_images(s, cell, ret_why);
        s->pages->try_broken = false;
    }
    return rc;
}

/* Cells at any byte that no whole row occupies. */
static int search(struct eb_salvage *s, struct eb_node *node, uint8_t *used)
{
    node->type = EB_TABLE_LEAF;
    node->inner = false;
    node->table = true;
    for (uint32_t at = node->start + 8; at + 24 < node->usable; at++) {
        struct eb_cell cell;
        const char *why;
        if (used[at] || !eb_cell_at(node, at, &cell) || cell.payload < 24)
            continue;
        if (cell.rowid < 1 || memchr(used + at, 1, cell.size) ||
            eb_table_shape(&cell) != EB_SHAPE_LOG)
            continue;
        int rc = try_cell(s, &cell, &why);
        if (rc < 0)
            return rc;
        if (rc)
            memset(used + at, 1, cell.size);
    }
    return 0;
}

int eb_salvage_leaf(struct eb_salvage *s, uint32_t pgno, const uint8_t *page, const char **ret_why)
{
    struct eb_node node;
    uint8_t used[EB_PAGE_MAX];
    const char *why, *cell_why;
    bool good = eb_node_read(&node, s->pages, pgno, page) && node.type == EB_TABLE_LEAF;
    why = good ? eb_node_check(&node, NULL) : "it is no leaf of the log";
    memset(used, 0, node.usable);
    /* With a broken type byte the pointers may still be good: every cell must pass its checksum anyway. */
    node.type = EB_TABLE_LEAF;
    node.inner = false;
    node.table = true;
    node.array = node.start + 8;
    uint32_t cells = node.array + 2 * node.cells <= node.usable ? node.cells : 0;
    bool lost = false;
    for (uint32_t i = 0; i < cells; i++) {
        struct eb_cell cell;
        bool readable = eb_cell_read(&node, i, &cell);
        bool doubled = readable && why && memchr(used + cell.offset, 1, cell.size);
        int rc = 0;
        cell_why = "a cell pointer points nowhere";
        if (readable && !doubled)
            rc = try_cell(s, &cell, &cell_why);
        if (rc < 0)
            return rc;
        if (rc)
            memset(used + cell.offset, 1, cell.size);
        lost = lost || !rc;
        if (!rc && s->bad)
            s->bad(s->ctx, readable && cell.rowid > 0 ? (uint64_t)cell.rowid : 0, cell_why);
    }
    int rc = why || lost ? search(s, &node, used) : 0;
    *ret_why = why;
    return rc;
}

/* A row of `topics`, which has its last seq since version 3. */
static int add_tabled(struct eb_names *names, const struct eb_cell *cell, const struct eb_value *v,
                      int n)
{
    size_t before = names->count;
    int rc = eb_names_add(names, cell->rowid, v[1].data, v[1].len, false);
    if (!rc && names->count > before && n == 3 && v[2].i > 0 && (uint64_t)v[2].i < EB_SEQ_MAX)
        names->list[before].last = (uint64_t)v[2].i;
    return rc;
}

int eb_salvage_names(struct eb_salvage *s, const struct eb_node *node)
{
    for (uint32_t i = 0; i < node->cells; i++) {
        struct eb_cell cell;
        struct eb_value v[3];
        if (node->type == EB_TABLE_INNER || !eb_cell_read(node, i, &cell) || cell.overflow)
            continue;
        int n = eb_record_read(cell.data, cell.payload, v, 3), rc = 0;
        if (n != 2 && !(n == 3 && node->table && v[2].type == EB_V_INT))
            continue;
        if (node->table && v[0].type == EB_V_NULL && v[1].type == EB_V_TEXT)
            rc = add_tabled(&s->names, &cell, v, n);
        else if (!node->table && v[0].type == EB_V_TEXT && v[1].type == EB_V_INT)
            rc = eb_names_add(&s->names, v[1].i, v[0].data, v[0].len, true);
        if (rc)
            return rc;
    }
    return 0;
}
