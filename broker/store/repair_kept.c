/*
 * repair_kept.c - consumers, blocks, dead letters, marks and scheduled events out of pages that may be damaged.
 *
 * (P1) The newest committed image of a page comes first, and the first row of a key is taken.
 * (P2) Where a page of consumers or blocks is missing, or may be an older one, blocks are not believed at all: every
 *      consumer goes back to its first open event (build.h, rewind). So what was open is delivered again, whatever was lost.
 */
#include "broker/store/repair_kept.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/scheduled_row.h"

#define CONSUMER_MAX (UINT64_C(1) << 32) /* no id is larger, and no time in `expiry` is smaller */

/* ---- what the schema says ---- */

static void note_broken(void *ctx, uint32_t pgno, int64_t low, int64_t high, const char *why)
{
    *(bool *)ctx = true;
}

static int walk_tree(struct eb_repair_kept *kept, enum eb_tree tree, uint32_t root)
{
    bool broken = false;
    struct eb_walk walk = {.ctx = &broken, .broken = note_broken};
    struct eb_walk_step step;
    int rc = eb_walk_begin(&walk, kept->pages, root, eb_tree_is_table(tree));

    while (!rc && (rc = eb_walk_next(&walk, &step)) > 0) {
        rc = 0;
        kept->kinds[step.pgno] = (uint8_t)(1 + tree);
        broken = broken || (!step.single && eb_node_check(step.node, NULL));
    }
    eb_walk_finish(&walk);
    if (broken && (tree == EB_TREE_CONSUMERS || tree == EB_TREE_BLOCKS))
        kept->whole = false;
    return rc == -ENOMEM ? rc : 0;
}

int eb_repair_kept_init(struct eb_repair_kept *kept, struct eb_pages *pages)
{
    static const enum eb_tree trees[] = {
        EB_TREE_TOPICS_INDEX,  EB_TREE_EXPIRY,        EB_TREE_CONSUMERS, EB_TREE_CONSUMERS_INDEX,
        EB_TREE_BLOCKS,        EB_TREE_DEAD,          EB_TREE_MARKS,     EB_TREE_SCHEDULED,
        EB_TREE_SCHEDULED_IDS, EB_TREE_SCHEDULED_DUE, EB_TREE_REPLIES};
    struct eb_roots roots;
    const char *why;
    int rc = 0;

    kept->pages = pages;
    kept->kinds = calloc(pages->count + 1, 1);
    if (!kept->kinds)
        return -ENOMEM;
    kept->known = pages->header_whole && eb_roots_read(pages, NULL, &roots, &why) == 0;
    kept->whole = kept->known && !pages->broken_frames && pages->committed_end <= pages->sql_end;
    for (size_t i = 0; kept->known && !rc && i < sizeof(trees) / sizeof(*trees); i++)
        if (roots.root[trees[i]])
            rc = walk_tree(kept, trees[i], roots.root[trees[i]]);
    return rc;
}

void eb_repair_kept_finish(struct eb_repair_kept *kept)
{
    free(kept->kinds);
    free(kept->list);
    *kept = (struct eb_repair_kept){0};
}

static int kind_of(const struct eb_repair_kept *kept, uint32_t pgno)
{
    return pgno <= kept->pages->count ? (int)kept->kinds[pgno] - 1 : -1;
}

bool eb_repair_kept_foreign(const struct eb_repair_kept *kept, uint32_t pgno)
{
    int kind = kind_of(kept, pgno);

    return kind >= 0 && kind != EB_TREE_TOPICS_INDEX;
}

/* ---- round 1 ---- */

static bool of_table(const struct eb_node *node)
{
    struct eb_cell cell;

    for (uint32_t i = 0; i < node->cells; i++)
        if (eb_cell_read(node, i, &cell) && (eb_table_shape(&cell) == EB_SHAPE_CONSUMER ||
                                             eb_table_shape(&cell) == EB_SHAPE_SCHEDULED))
            return true;
    return false;
}

/* An index page that the schema did not lead to: could it be of blocks or dead letters? */
static bool of_index(const struct eb_node *node)
{
    struct eb_cell cell;
    uint64_t types[3];

    for (uint32_t i = 0; i < node->cells; i++) {
        if (!eb_cell_read(node, i, &cell))
            continue;
        int n = eb_record_types(cell.data, cell.local, types, 3);
        if ((n == 2 || (n == 3 && types[2] >= 12 && types[2] % 2 == 0)) && types[0] < 10 &&
            types[1] < 10)
            return true;
    }
    return false;
}

int eb_repair_kept_look(struct eb_repair_kept *kept, const struct eb_node *node, uint32_t pgno,
                        uint32_t frame)
{
    int kind = frame ? -1 : kind_of(kept, pgno);
    bool ours = kind == EB_TREE_BLOCKS || kind == EB_TREE_DEAD || kind == EB_TREE_MARKS;

    if (node->table)
        ours = of_table(node);
    else if (kind < 0)
        ours = of_index(node);
    if (!ours)
        return 0;
    if (kept->count == kept->cap) {
        size_t cap = kept->cap ? 2 * kept->cap : 64;
        struct eb_kept_page *list = realloc(kept->list, cap * sizeof(*list));
        if (!list)
            return -ENOMEM;
        kept->list = list;
        kept->cap = cap;
    }
    kept->list[kept->count++] = (struct eb_kept_page){pgno, frame};
    return 0;
}

/* ---- taking ---- */

struct taking {
    struct eb_repair_kept *kept;
    struct eb_build *build;
    uint8_t *chains;
    struct eb_buf payload, name, settings, stopped;
    uint32_t pages[64]; /* overflow pages of the row at hand, the first */
    unsigned page_count;
};

static bool note_chain(void *ctx, uint32_t pgno)
{
    struct taking *t = ctx;

    if (t->page_count < sizeof(t->pages) / sizeof(*t->pages))
        t->pages[t->page_count] = pgno;
    t->page_count++;
    return true;
}

static bool mark_chain(void *ctx, uint32_t pgno)
{
    eb_bit_set(((struct taking *)ctx)->chains, pgno);
    return true;
}

/* A text as a string, in @buf; NULL stays NULL. */
static const char *string_of(const struct eb_value *v, struct eb_buf *buf)
{
    buf->len = 0;
    if (v->type == EB_V_NULL)
        return NULL;
    eb_buf_add(buf, v->data, v->len);
    eb_buf_add(buf, "", 1);
    return buf->data;
}

static bool is_count(const struct eb_value *v)
{
    return v->type == EB_V_INT && v->i >= 0;
}

static int take_consumer(struct taking *t, int64_t rowid, const struct eb_value *c)
{
    struct eb_state_consumer row = {
        .id = (uint64_t)rowid,
        .made_ms = c[3].i,
        .next = (uint64_t)c[4].i,
        .first_open = (uint64_t)c[5].i,
        .counts = {(uint64_t)c[6].i, (uint64_t)c[7].i, (uint64_t)c[8].i},
    };
    bool good = rowid > 0 && c[1].type == EB_V_TEXT && c[1].len > 0 && c[2].type == EB_V_TEXT;

    for (int i = 4; good && i < 9; i++)
        good = is_count(&c[i]);
    if (!good || row.next >= EB_SEQ_MAX || row.first_open > row.next) {
        t->kept->bad++;
        return 0;
    }
    row.name = string_of(&c[1], &t->name);
    row.settings = string_of(&c[2], &t->settings);
    row.stopped = string_of(&c[9], &t->stopped);
    if (eb_buf_failed(&t->name) || eb_buf_failed(&t->settings) || eb_buf_failed(&t->stopped))
        return -ENOMEM;
    return eb_build_consumer(t->build, &row);
}

static int take_scheduled(struct taking *t, const struct eb_cell *cell, const struct eb_value *c)
{
    struct eb_scheduled_row row;

    if (eb_scheduled_row_from(c, cell->rowid, &row) < 0) {
        t->kept->bad++;
        return 0;
    }
    int rc = eb_build_scheduled(t->build, &row);
    for (unsigned i = 0; i < t->page_count && i < 64; i++)
        mark_chain(t, t->pages[i]);
    if (!rc && t->page_count > 64) /* the row's bytes are no longer needed */
        rc = eb_cell_payload(t->kept->pages, cell, &t->payload, mark_chain, t);
    return rc;
}

static int take_table_row(struct taking *t, const struct eb_cell *cell)
{
    enum eb_shape shape = eb_table_shape(cell);
    struct eb_value c[10];

    if (shape != EB_SHAPE_CONSUMER && shape != EB_SHAPE_SCHEDULED)
        return 0;
    t->page_count = 0;
    int rc = eb_cell_payload(t->kept->pages, cell, &t->payload, note_chain, t);
    if (rc == -ENOMEM)
        return rc;
    if (rc || eb_record_read((const uint8_t *)t->payload.data, cell->payload, c, 10) != 10) {
        t->kept->bad++;
        return 0;
    }
    return shape == EB_SHAPE_CONSUMER ? take_consumer(t, cell->rowid, c)
                                      : take_scheduled(t, cell, c);
}

/* @kind: by the schema, -1: by its shape. */
static int take_index_row(struct taking *t, const struct eb_cell *cell, int kind)
{
    struct eb_value c[3];
    int rc = eb_cell_payload(t->kept->pages, cell, &t->payload, NULL, NULL);

    if (rc == -ENOMEM)
        return rc;
    int n = rc ? -1 : eb_record_read((const uint8_t *)t->payload.data, cell->payload, c, 3);
    if (kind == EB_TREE_MARKS && n == 2 && c[0].type == EB_V_TEXT && c[1].type == EB_V_INT)
        return eb_build_mark(t->build, (const char *)c[0].data, c[0].len, (uint64_t)c[1].i);
    bool numbers = n >= 2 && is_count(&c[0]) && is_count(&c[1]) && (uint64_t)c[0].i < CONSUMER_MAX;
    if (numbers && n == 3 && c[2].type == EB_V_BLOB && (kind < 0 || kind == EB_TREE_BLOCKS))
        return eb_build_block(t->build, (uint64_t)c[0].i, (uint64_t)c[1].i, c[2].data, c[2].len);
    if (numbers && n == 2 && (kind < 0 || kind == EB_TREE_DEAD))
        return eb_build_dead(t->build, (uint64_t)c[0].i, (uint64_t)c[1].i);
    t->kept->bad += kind >= 0;
    return 0;
}

static int take_page(struct taking *t, const struct eb_kept_page *at)
{
    uint8_t page[EB_PAGE_MAX];
    struct eb_node node;
    struct eb_cell cell;
    int kind = at->frame ? -1 : kind_of(t->kept, at->pgno);
    int rc = at->frame ? eb_pages_read_frame(t->kept->pages, at->frame, page)
                       : eb_pages_read(t->kept->pages, at->pgno, page);

    if (rc || !eb_node_read(&node, t->kept->pages, at->pgno, page))
        return rc == -ENOMEM ? rc : 0;
    for (uint32_t i = 0; !rc && i < node.cells; i++) {
        if (!eb_cell_read(&node, i, &cell)) {
            t->kept->bad += kind >= 0;
            continue;
        }
        rc = node.table ? take_table_row(t, &cell) : take_index_row(t, &cell, kind);
    }
    return rc;
}

int eb_repair_kept_take(struct eb_repair_kept *kept, struct eb_build *build, uint8_t *chains)
{
    struct taking t = {.kept = kept, .build = build, .chains = chains};
    int rc = 0;

    for (size_t i = 0; i < kept->count && !rc; i++)
        rc = take_page(&t, &kept->list[i]);
    eb_buf_finish(&t.payload);
    eb_buf_finish(&t.name);
    eb_buf_finish(&t.settings);
    eb_buf_finish(&t.stopped);
    return rc;
}
