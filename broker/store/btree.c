/*
 * btree.c - read SQLite's trees from pages that may be damaged (format: sqlite.org/fileformat2.html, 1.6 to 2.1).
 */
#include "broker/store/btree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A varint of at most 9 bytes. Returns its length, 0 if it runs over the end. */
static unsigned varint(const uint8_t *p, uint64_t have, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < 9 && i < have; i++) {
        if (i == 8) {
            *ret = v << 8 | p[i];
            return 9;
        }
        v = v << 7 | (p[i] & 0x7f);
        if (!(p[i] & 0x80)) {
            *ret = v;
            return i + 1;
        }
    }
    return 0;
}

bool eb_node_read(struct eb_node *node, const struct eb_pages *pages, uint32_t pgno,
                  const uint8_t *page)
{
    uint32_t start = pgno == 1 ? 100 : 0;
    const uint8_t *h = page + start;
    memset(node, 0, sizeof(*node));
    node->page = page;
    node->usable = pages->usable;
    node->start = start;
    node->type = h[0];
    node->inner = h[0] == EB_INDEX_INNER || h[0] == EB_TABLE_INNER;
    node->table = h[0] == EB_TABLE_INNER || h[0] == EB_TABLE_LEAF;
    node->cells = eb_be16(h + 3);
    node->array = start + (node->inner ? 12 : 8);
    node->right = node->inner ? eb_be32(h + 8) : 0;
    bool known = node->inner || h[0] == EB_INDEX_LEAF || h[0] == EB_TABLE_LEAF;
    return known && node->array + 2 * node->cells <= node->usable;
}

/* How much of a payload lies in the page (fileformat2 1.6, "cell payload overflow"). */
static uint32_t local_bytes(const struct eb_node *node, uint64_t payload)
{
    uint32_t u = node->usable;
    uint32_t max = node->type == EB_TABLE_LEAF ? u - 35 : (u - 12) * 64 / 255 - 23;
    uint32_t min = (u - 12) * 32 / 255 - 23;
    if (payload <= max)
        return (uint32_t)payload;
    uint32_t k = min + (uint32_t)((payload - min) % (u - 4));
    return k <= max ? k : min;
}

bool eb_cell_at(const struct eb_node *node, uint32_t offset, struct eb_cell *ret)
{
    uint32_t floor = node->start + (node->inner ? 12 : 8);
    if (offset < floor || offset + 4 > node->usable)
        return false;
    const uint8_t *p = node->page + offset;
    const uint8_t *end = node->page + node->usable;
    struct eb_cell c = {.offset = offset};
    if (node->inner) {
        c.child = eb_be32(p);
        p += 4;
    }
    uint64_t v;
    unsigned n;
    if (node->type != EB_TABLE_INNER) {
        n = varint(p, (uint64_t)(end - p), &c.payload);
        if (!n || c.payload > INT32_MAX)
            return false;
        p += n;
    }
    if (node->table) {
        n = varint(p, (uint64_t)(end - p), &v);
        if (!n)
            return false;
        c.rowid = (int64_t)v;
        p += n;
    }
    if (node->type != EB_TABLE_INNER) {
        c.local = local_bytes(node, c.payload);
        c.data = p;
        uint32_t tail = c.local < c.payload ? 4 : 0;
        if ((uint64_t)(end - p) < (uint64_t)c.local + tail)
            return false;
        p += c.local;
        if (tail)
            c.overflow = eb_be32(p);
        p += tail;
    }
    c.size = (uint32_t)(p - (node->page + offset));
    if (c.size < 4)
        c.size = 4;
    *ret = c;
    return true;
}

bool eb_cell_read(const struct eb_node *node, uint32_t i, struct eb_cell *ret)
{
    uint32_t at = eb_be16(node->page + node->array + 2 * i);
    return at >= node->array + 2 * node->cells && eb_cell_at(node, at, ret);
}

static bool take(uint8_t *map, uint32_t at, uint32_t len, uint32_t usable, uint8_t mark)
{
    if (at + len > usable)
        return false;
    for (uint32_t i = at; i < at + len; i++) {
        if (map[i])
            return false;
        map[i] = mark;
    }
    return true;
}

static const char *check_free(const struct eb_node *node, uint8_t *map, uint32_t content)
{
    const uint8_t *h = node->page + node->start;
    uint32_t last = 0;
    for (uint32_t at = eb_be16(h + 1); at; at = eb_be16(node->page + at)) {
        if (at < content || at <= last || at + 4 > node->usable)
            return "its list of free blocks makes no sense";
        uint32_t size = eb_be16(node->page + at + 2);
        if (size < 4 || !take(map, at, size, node->usable, 2))
            return "a free block overlaps something";
        last = at;
    }
    uint32_t holes = 0;
    for (uint32_t i = content; i < node->usable; i++)
        holes += !map[i];
    return holes == h[7] ? NULL : "bytes in it belong to nothing";
}

const char *eb_node_check(const struct eb_node *node, uint8_t *used)
{
    uint8_t own[EB_PAGE_MAX];
    uint8_t *map = used ? used : own;
    memset(map, 0, node->usable);
    uint32_t content = eb_be16(node->page + node->start + 5);
    content = content ? content : 65536;
    const char *why = NULL;
    if (content < node->array + 2 * node->cells || content > node->usable)
        why = "its content begins nowhere";
    for (uint32_t i = 0; i < node->cells; i++) {
        struct eb_cell cell;
        if (!eb_cell_read(node, i, &cell) || cell.offset < content)
            why = why ? why : "a cell pointer points nowhere";
        else if (!take(map, cell.offset, cell.size, node->usable, 1))
            why = why ? why : "two cells overlap";
    }
    if (!why)
        why = check_free(node, map, content);
    for (uint32_t i = 0; used && i < node->usable; i++)
        used[i] = used[i] == 1;
    return why;
}

int eb_cell_payload(struct eb_pages *pages, const struct eb_cell *cell, struct eb_buf *buf,
                    bool (*seen)(void *ctx, uint32_t pgno), void *ctx)
{
    buf->len = 0;
    if (cell->payload > (uint64_t)pages->count * pages->page_size + pages->page_size)
        return -EBADMSG;
    uint64_t rest = cell->payload - cell->local;
    if (rest > (uint64_t)pages->count * (pages->usable - 4))
        return -EBADMSG;
    if (!eb_buf_reserve(buf, cell->payload + 1))
        return -ENOMEM;
    eb_buf_add(buf, cell->data, cell->local);
    uint8_t page[EB_PAGE_MAX];
    for (uint32_t at = cell->overflow; rest; at = eb_be32(page)) {
        if (at < 2 || at > pages->count || (seen && !seen(ctx, at)))
            return -EBADMSG;
        int rc = eb_pages_read(pages, at, page);
        if (rc)
            return rc == -ENODATA ? -EBADMSG : rc;
        uint64_t n = rest < pages->usable - 4 ? rest : pages->usable - 4;
        eb_buf_add(buf, page + 4, n);
        rest -= n;
    }
    return eb_buf_failed(buf) ? -ENOMEM : 0;
}

int eb_record_types(const uint8_t *record, uint64_t have, uint64_t *types, int max)
{
    uint64_t head;
    unsigned at = varint(record, have, &head);
    int n = 0;
    if (!at || head < at || head > have)
        return -1;
    while (at < head) {
        if (n == max)
            return -1;
        unsigned len = varint(record + at, head - at, &types[n]);
        if (!len || types[n] == 10 || types[n] == 11)
            return -1;
        at += len;
        n++;
    }
    return n;
}

static uint64_t type_bytes(uint64_t type)
{
    static const uint8_t small[] = {0, 1, 2, 3, 4, 6, 8, 8, 0, 0};
    return type < 10 ? small[type] : (type - 12) / 2;
}

int eb_record_read(const uint8_t *record, uint64_t have, struct eb_value *values, int max)
{
    uint64_t types[16], at = 0;
    int n = eb_record_types(record, have, types, max < 16 ? max : 16);
    if (n < 0)
        return -1;
    varint(record, have, &at); /* `at` is the header's length now: values begin there */
    for (int i = 0; i < n; i++) {
        struct eb_value *v = &values[i];
        uint64_t len = type_bytes(types[i]);
        if (len > have - at)
            return -1;
        *v = (struct eb_value){.data = record + at, .len = len};
        if (types[i] >= 12)
            v->type = types[i] & 1 ? EB_V_TEXT : EB_V_BLOB;
        else if (types[i] == 7)
            v->type = EB_V_REAL;
        else if (types[i])
            v->type = EB_V_INT;
        if (v->type == EB_V_INT) {
            uint64_t x = len && (record[at] & 0x80) ? UINT64_MAX : 0;
            for (uint64_t k = 0; k < len; k++)
                x = x << 8 | record[at + k];
            v->i = types[i] >= 8 ? (int64_t)types[i] - 8 : (int64_t)x;
        }
        at += len;
    }
    return at == have ? n : -1;
}

/* ---- walks ---- */

bool eb_bit_set(uint8_t *bits, uint32_t n)
{
    bool was = bits[n / 8] >> n % 8 & 1;
    bits[n / 8] |= (uint8_t)(1u << n % 8);
    return was;
}

bool eb_bit_get(const uint8_t *bits, uint32_t n)
{
    return bits[n / 8] >> n % 8 & 1;
}

static void tell(struct eb_walk *walk, uint32_t pgno, int64_t low, int64_t high, const char *why)
{
    if (walk->broken)
        walk->broken(walk->ctx, pgno, low, high, why);
}

/* Step down into @pgno. 1 when it is entered, 0 when it is broken and was told. */
static int enter(struct eb_walk *walk, uint32_t pgno, int64_t low, int64_t high)
{
    if (walk->depth == EB_WALK_DEPTH) {
        tell(walk, pgno, low, high, "the tree is too deep");
        return 0;
    }
    if (!pgno || pgno > walk->pages->count || eb_page_is_map(walk->pages, pgno)) {
        tell(walk, pgno, low, high, "there can be no such page");
        return 0;
    }
    if (walk->bits && eb_bit_set(walk->bits, pgno)) {
        tell(walk, pgno, low, high, "it is used twice");
        return 0;
    }
    struct eb_walk_level *l = &walk->level[walk->depth];
    l->page = walk->buffers + (size_t)walk->depth * walk->pages->page_size;
    int rc = eb_pages_read(walk->pages, pgno, l->page);
    if (rc && rc != -ENODATA)
        return rc;
    if (rc || !eb_node_read(&l->node, walk->pages, pgno, l->page) || l->node.table != walk->table) {
        tell(walk, pgno, low, high, rc ? "the file ends before it" : "it is no page of this tree");
        return 0;
    }
    if (walk->visit)
        walk->visit(walk->ctx, pgno, walk->depth ? l[-1].pgno : 0);
    l->pgno = pgno;
    l->next = 0;
    l->low = low;
    l->high = high;
    walk->depth++;
    return 1;
}

int eb_walk_begin(struct eb_walk *walk, struct eb_pages *pages, uint32_t root, bool table)
{
    walk->pages = pages;
    walk->table = table;
    walk->depth = 0;
    walk->buffers = malloc((size_t)EB_WALK_DEPTH * pages->page_size);
    if (!walk->buffers)
        return -ENOMEM;
    int rc = enter(walk, root, INT64_MIN, INT64_MAX);
    return rc < 0 ? rc : 0;
}

void eb_walk_finish(struct eb_walk *walk)
{
    free(walk->buffers);
    walk->buffers = NULL;
    walk->depth = 0;
}

/* The next child of an inner node; for an index the cell before it comes out as a step of its own. */
static int descend(struct eb_walk *walk, struct eb_walk_step *ret)
{
    struct eb_walk_level *l = &walk->level[walk->depth - 1];
    uint32_t turn = l->next++;
    uint32_t i = walk->table ? turn : turn / 2; /* index: child 0, cell 0, child 1, cell 1, … */
    bool entry = !walk->table && turn % 2;
    if (i > l->node.cells || (entry && i == l->node.cells)) {
        walk->depth--;
        return 0;
    }
    struct eb_cell cell;
    if (i == l->node.cells)
        return enter(walk, l->node.right, l->low, l->high);
    if (!eb_cell_read(&l->node, i, &cell)) {
        if (!entry)
            tell(walk, l->pgno, l->low, l->high, "a cell pointer points nowhere");
        return 0;
    }
    if (entry) {
        *ret =
            (struct eb_walk_step){.node = &l->node, .pgno = l->pgno, .single = true, .cell = cell};
        return 2;
    }
    int64_t low = l->low, high = walk->table ? cell.rowid : l->high;
    if (walk->table && (high <= low || high > l->high)) {
        tell(walk, l->pgno, low, l->high, "its keys are out of order");
        high = l->high;
    } else if (walk->table) {
        l->low = high;
    }
    return enter(walk, cell.child, low, high);
}

int eb_walk_next(struct eb_walk *walk, struct eb_walk_step *ret)
{
    while (walk->depth) {
        struct eb_walk_level *l = &walk->level[walk->depth - 1];
        if (l->node.inner) {
            int rc = descend(walk, ret);
            if (rc < 0 || rc == 2)
                return rc < 0 ? rc : 1;
            continue;
        }
        *ret = (struct eb_walk_step){
            .node = &l->node, .pgno = l->pgno, .low = l->low, .high = l->high};
        walk->depth--;
        return 1;
    }
    return 0;
}
