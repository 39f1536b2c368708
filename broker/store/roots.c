/*
 * roots.c - where a log's tables begin, and which of its pages are free, read below SQLite.
 */
#include "broker/store/salvage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

static bool is(const struct eb_value *v, const char *text)
{
    return v->type == EB_V_TEXT && v->len == strlen(text) && !memcmp(v->data, text, v->len);
}

/* One row of sqlite_schema: type, name, tbl_name, rootpage, sql. */
static int read_entry(struct eb_pages *pages, const struct eb_cell *cell, struct eb_buf *buf,
                      struct eb_roots *ret)
{
    struct eb_value v[5];
    if (eb_cell_payload(pages, cell, buf, NULL, NULL) ||
        eb_record_read((const uint8_t *)buf->data, cell->payload, v, 5) != 5 ||
        v[1].type != EB_V_TEXT)
        return -EBADMSG;
    bool table = is(&v[0], "table"), index = is(&v[0], "index");
    ret->views = ret->views || (is(&v[0], "view") && is(&v[1], "messages"));
    ret->old_bus = ret->old_bus || (table && is(&v[1], "messages"));
    if (!table && !index)
        return 0;
    if (v[3].type != EB_V_INT || v[3].i < 2 || v[3].i > pages->count)
        return -EBADMSG;
    for (int i = 0; i < EB_TREE_COUNT; i++) {
        if (is(&v[1], eb_tree_names[i])) {
            ret->root[i] = (uint32_t)v[3].i;
            return 0;
        }
    }
    if (ret->other_count < sizeof(ret->others) / sizeof(*ret->others)) {
        /* WITHOUT ROWID tables are index trees: the root's own type says it when it is walked */
        ret->other_table[ret->other_count] = table;
        ret->others[ret->other_count++] = (uint32_t)v[3].i;
    }
    return 0;
}

static void schema_broken(void *ctx, uint32_t pgno, int64_t low, int64_t high, const char *why)
{
    *(const char **)ctx = why;
}

int eb_roots_read(struct eb_pages *pages, uint8_t *bits, struct eb_roots *ret, const char **ret_why)
{
    struct eb_walk walk = {.bits = bits, .broken = schema_broken};
    struct eb_walk_step step;
    struct eb_buf buf = EB_BUF_INIT;
    const char *why = NULL;
    memset(ret, 0, sizeof(*ret));
    walk.ctx = &why;
    int rc = eb_walk_begin(&walk, pages, 1, true);
    while (!rc && (rc = eb_walk_next(&walk, &step)) > 0) {
        const char *bad = eb_node_check(step.node, NULL);
        why = why ? why : bad;
        rc = 0;
        for (uint32_t i = 0; i < step.node->cells; i++) {
            struct eb_cell cell;
            if (!eb_cell_read(step.node, i, &cell) || read_entry(pages, &cell, &buf, ret))
                why = why ? why : "an entry of the schema cannot be read";
        }
    }
    eb_walk_finish(&walk);
    eb_buf_finish(&buf);
    if (rc < 0)
        return rc;
    *ret_why = why;
    return why ? -EBADMSG : 0;
}

/* The shape of what a table tree holds, and how deep its leftmost leaf lies. */
static enum eb_shape tree_shape(struct eb_pages *pages, uint32_t root, int *ret_depth)
{
    uint8_t page[EB_PAGE_MAX];
    struct eb_node node;
    struct eb_cell cell;
    uint32_t at = root;
    for (int depth = 0; depth < EB_WALK_DEPTH; depth++) {
        if (eb_pages_read(pages, at, page) || !eb_node_read(&node, pages, at, page) || !node.table)
            return EB_SHAPE_NONE;
        uint32_t i = 0;
        *ret_depth = depth;
        if (!node.inner) {
            for (; i < node.cells; i++)
                if (eb_cell_read(&node, i, &cell) && eb_table_shape(&cell) != EB_SHAPE_NONE)
                    return eb_table_shape(&cell);
            return EB_SHAPE_NONE;
        }
        if (!node.cells || !eb_cell_read(&node, 0, &cell))
            return EB_SHAPE_NONE;
        at = cell.child;
        if (at < 2 || at > pages->count)
            return EB_SHAPE_NONE;
    }
    return EB_SHAPE_NONE;
}

/* Vacuum keeps roots at the file's beginning. The pointer map tells them; without it, the deepest tree is meant. */
void eb_roots_guess(struct eb_pages *pages, struct eb_roots *ret)
{
    struct eb_page_map *map = calloc(1, sizeof(*map));
    int best[2] = {-1, -1};
    if (!map)
        return;
    map->pages = pages;
    for (uint32_t pgno = 3; pgno <= 64 && pgno <= pages->count; pgno++) {
        int depth = 0;
        enum eb_page_use use = eb_page_use(map, pgno, NULL);
        if (use != EB_USE_ROOT && use != EB_USE_UNKNOWN)
            continue;
        enum eb_shape shape = tree_shape(pages, pgno, &depth);
        int i = shape == EB_SHAPE_LOG ? 0 : shape == EB_SHAPE_TOPIC ? 1 : -1;
        depth += use == EB_USE_ROOT ? 100 : 0;
        if (i < 0 || depth <= best[i])
            continue;
        best[i] = depth;
        ret->root[i ? EB_TREE_TOPICS : EB_TREE_LOG] = pgno;
    }
    free(map);
}

bool eb_looks_like_log(struct eb_pages *pages, uint32_t max)
{
    uint8_t page[EB_PAGE_MAX];
    for (uint32_t i = 1; i <= max; i++) {
        struct eb_node node;
        struct eb_cell cell;
        bool got = i <= pages->count && !eb_pages_read(pages, i, page);
        if (got && eb_node_read(&node, pages, i, page) && node.type == EB_TABLE_LEAF)
            for (uint32_t k = 0; k < node.cells; k++)
                if (eb_cell_read(&node, k, &cell) && eb_table_shape(&cell) == EB_SHAPE_LOG)
                    return true;
    }
    return false;
}

int eb_freelist_read(struct eb_pages *pages, uint8_t *bits, int64_t deadline_ms,
                     uint64_t *ret_count, const char **ret_why)
{
    uint8_t page[EB_PAGE_MAX];
    uint64_t found = 0;
    *ret_why = NULL;
    *ret_count = 0;
    int rc = eb_pages_read(pages, 1, page);
    if (rc)
        return rc;
    uint32_t said = eb_be32(page + 36);
    for (uint32_t trunk = eb_be32(page + 32); trunk && !*ret_why; trunk = eb_be32(page)) {
        if (trunk > pages->count || trunk < 2 || eb_page_is_map(pages, trunk) ||
            eb_bit_set(bits, trunk)) {
            *ret_why = "the chain of free pages leads nowhere";
            break;
        }
        rc = eb_pages_read(pages, trunk, page);
        if (rc == -ENODATA) {
            *ret_why = "a page of the freelist lies behind the file's end";
            break;
        }
        if (rc)
            return rc;
        uint32_t n = eb_be32(page + 4);
        if (n > pages->usable / 4 - 2) {
            *ret_why = "a page of the freelist makes no sense";
            break;
        }
        found++;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t leaf = eb_be32(page + 8 + 4 * i);
            if (leaf < 2 || leaf > pages->count || eb_page_is_map(pages, leaf) ||
                eb_bit_set(bits, leaf))
                *ret_why = "the freelist names a page that cannot be free";
            else
                found++;
        }
        if (deadline_ms && eb_mono_ms() > deadline_ms) {
            *ret_count = found;
            return 0;
        }
    }
    *ret_count = found;
    if (!*ret_why && found != said)
        *ret_why = "the freelist has another length than the header says";
    return *ret_why ? -EBADMSG : 0;
}
