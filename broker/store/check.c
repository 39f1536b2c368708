/*
 * check.c - the look at a log before it is opened.
 *
 * Bounded by what it reads, not by the log: page 1, the freelist and the WAL (as far as time allows: of a WAL of
 * many GiB only the frames read in that time are judged, and no page behind them), the roots, and the right edge of each tree with its last leaves, where a crash would have left its traces. What lies in the
 * middle is found by the checksums when it is read (a `damaged` gap), and by --verify.
 */
#include "broker/store/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/salvage.h"
#include "common/clock.h"

#define LAST_LEAVES 64
#define LAST_PAGES  64
#define WAL_MS      1000
#define FREELIST_MS 500

struct check {
    const char *path;
    struct eb_error *err;
    uint32_t version;
    struct eb_pages pages;
    struct eb_roots roots;
    struct eb_salvage salvage;
    struct eb_page_map *map;
    uint8_t *bits;
    bool bad_row;
    uint64_t bad_seq;
};

static int damaged(struct check *c, const char *what)
{
    size_t len = strlen(c->path);
    const char *path = len > 48 ? "PATH" : c->path; /* the command must fit as well */
    eb_fail(c->err, EB_INTERNAL,
            "%s%.48s is damaged: %.60s; `eventbusd --verify --db %s` shows all of it, `eventbusd "
            "--repair NEW --db %s` "
            "saves what is whole",
            len > 48 ? "..." : "", len > 48 ? c->path + len - 45 : c->path, what, path, path);
    return -EBADMSG;
}

static int damaged_page(struct check *c, const char *tree, uint32_t pgno, const char *what)
{
    char text[120];
    snprintf(text, sizeof(text), "page %u of %s: %s", pgno, tree, what);
    return damaged(c, text);
}

/* ---- whose file, header, size ---- */

/* 1: ours, go on. 0: not for us to judge. */
static int check_head(struct check *c)
{
    struct eb_pages *p = &c->pages;
    uint8_t page[EB_PAGE_MAX];
    int rc = eb_pages_read(p, 1, page);
    if (rc && rc != -ENODATA)
        return rc;
    if (!p->header_whole) {
        if (!memcmp(page, "SQLite format 3", 16))
            return damaged(c, "the header on page 1 makes no sense");
        if (eb_looks_like_log(p, 256))
            return damaged(c, "the header on page 1 is not SQLite's");
        eb_fail(c->err, EB_INTERNAL,
                "%.100s is not a database: name another file with --db (if it was a log, try "
                "--repair NEW --db)",
                c->path);
        return -EINVAL;
    }
    if (rc)
        return damaged(c, "there is no page 1");
    if (eb_be32(page + 68) != EB_APPLICATION_ID) {
        const char *why;
        if (!eb_roots_read(p, NULL, &c->roots, &why) && c->roots.root[EB_TREE_LOG] &&
            c->roots.views)
            return damaged(c, "application_id in the header is not ours");
        if (eb_looks_like_log(p, 256))
            return damaged(c, "header or schema on page 1 is not that of a log");
        return 0;
    }
    c->version = eb_be32(page + 60);
    if (c->version > EB_SCHEMA_VERSION)
        return 0; /* a newer one: said by whoever opens it */
    if (!p->wal_partial && p->count > p->file_pages && !eb_pages_in_wal(p, p->count)) {
        char what[80];
        snprintf(what, sizeof(what), "it is cut, %u of %u pages are there", p->file_pages,
                 p->count);
        return damaged(c, what);
    }
    return 1;
}

/* ---- the WAL ---- */

static bool same_boot(const char *boot, size_t len)
{
    char now[64] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f)
        return false;
    bool got = fgets(now, sizeof(now), f) != NULL;
    fclose(f);
    return got && strcspn(now, "\n") == len && !memcmp(now, boot, len);
}

static bool text_is(const struct eb_value *v, const char *text)
{
    return v->type == EB_V_TEXT && v->len == strlen(text) && !memcmp(v->data, text, v->len);
}

/* Under durability = os a power cut may leave any of the WAL: then it is no damage, and the epoch will be new. */
static bool may_be_torn(struct check *c)
{
    uint8_t page[EB_PAGE_MAX];
    struct eb_node node;
    uint32_t root = c->roots.root[EB_TREE_META];
    bool os = false, other_boot = true;
    if (eb_pages_read(&c->pages, root, page) || !eb_node_read(&node, &c->pages, root, page) ||
        node.inner)
        return false;
    for (uint32_t i = 0; i < node.cells; i++) {
        struct eb_cell cell;
        struct eb_value v[2];
        if (!eb_cell_read(&node, i, &cell) || cell.overflow ||
            eb_record_read(cell.data, cell.payload, v, 2) != 2)
            continue;
        if (text_is(&v[0], EB_META_DURABILITY))
            os = text_is(&v[1], "os");
        if (text_is(&v[0], EB_META_BOOT_ID) && v[1].type == EB_V_TEXT)
            other_boot = !same_boot((const char *)v[1].data, v[1].len);
    }
    return os && other_boot;
}

static int check_wal(struct check *c)
{
    struct eb_pages *p = &c->pages;
    char what[80];
    if (p->committed_end <= p->sql_end || may_be_torn(c))
        return 0;
    if (p->wal_header_broken)
        return damaged(c, "the header of its WAL makes no sense");
    snprintf(what, sizeof(what), "frame %u of its WAL, and commits follow", p->sql_end + 1);
    for (uint32_t f = p->sql_end; f < p->committed_end; f++) {
        if (!p->frames[f].chained) {
            snprintf(what, sizeof(what), "frame %u of its WAL, and commits follow", f + 1);
            break;
        }
    }
    return damaged(c, what);
}

/* ---- trees ---- */

static int check_roots(struct check *c)
{
    const char *why = NULL;
    char what[80];
    int rc = eb_roots_read(&c->pages, NULL, &c->roots, &why);
    if (rc)
        return rc == -EBADMSG ? damaged_page(c, "the schema", 1, why) : rc;
    for (int i = 0; i < EB_TREE_COUNT; i++) {
        if (c->roots.root[i] || !eb_tree_expected(i, c->version))
            continue;
        snprintf(what, sizeof(what), "its schema has no table %s", eb_tree_names[i]);
        return damaged(c, what);
    }
    return 0;
}

/* Find the name of a topic by its id, down the tree of `topics`. */
static int find_name(struct check *c, uint32_t id)
{
    uint8_t page[EB_PAGE_MAX];
    struct eb_node node;
    struct eb_cell cell;
    struct eb_value v[3];
    uint32_t at = c->roots.root[EB_TREE_TOPICS];
    for (int depth = 0; depth < EB_WALK_DEPTH; depth++) {
        int rc = eb_pages_read(&c->pages, at, page);
        if (rc || !eb_node_read(&node, &c->pages, at, page) || !node.table)
            return rc == -EIO ? rc : 0;
        uint32_t i = 0;
        for (; i < node.cells; i++)
            if (eb_cell_read(&node, i, &cell) && cell.rowid >= id)
                break;
        if (node.inner) {
            at = i < node.cells ? cell.child : node.right;
            continue;
        }
        if (i < node.cells && cell.rowid == id && !cell.overflow &&
            eb_record_read(cell.data, cell.payload, v, 3) >= 2 && v[1].type == EB_V_TEXT)
            return eb_names_add(&c->salvage.names, id, v[1].data, v[1].len, false);
        return 0;
    }
    return 0;
}

/* Names of all topics in a leaf of the log. */
static int find_names(struct check *c, const struct eb_node *node)
{
    uint32_t before = 0;
    for (uint32_t i = 0; i < node->cells; i++) {
        struct eb_cell cell;
        struct eb_value v[9];
        size_t n;
        if (!eb_cell_read(node, i, &cell) || eb_table_shape(&cell) != EB_SHAPE_LOG)
            continue;
        /* Only the first two columns are needed: read what is in the page. */
        uint64_t types[9];
        if (eb_record_types(cell.data, cell.local, types, 9) != 9)
            continue;
        uint64_t have = cell.local;
        if (cell.overflow) {
            if (eb_cell_payload(&c->pages, &cell, &c->salvage.payload, NULL, NULL))
                continue;
            cell.data = (const uint8_t *)c->salvage.payload.data;
            have = cell.payload;
        }
        if (eb_record_read(cell.data, have, v, 9) != 9 || v[1].i < 1 || v[1].i > UINT32_MAX ||
            (uint32_t)v[1].i == before)
            continue;
        before = (uint32_t)v[1].i;
        eb_names_sort(&c->salvage.names);
        int rc = eb_names_find(&c->salvage.names, before, &n) ? 0 : find_name(c, before);
        if (rc)
            return rc;
    }
    eb_names_sort(&c->salvage.names);
    return 0;
}

static int on_row(void *ctx, const struct eb_row *row, struct eb_name *name)
{
    return 0;
}

static void on_bad(void *ctx, uint64_t seq, const char *why)
{
    struct check *c = ctx;
    c->bad_row = true;
    c->bad_seq = seq;
}

static int check_leaf(struct check *c, enum eb_tree tree, uint32_t pgno, uint8_t *page)
{
    struct eb_node node;
    const char *why = NULL, *name = eb_tree_names[tree];
    int rc = pgno < 2 || pgno > c->pages.count ? -ENODATA : eb_pages_read(&c->pages, pgno, page);
    if (rc)
        return rc == -ENODATA ? damaged_page(c, name, pgno, "it is not there") : rc;
    if (!eb_node_read(&node, &c->pages, pgno, page) || node.table != eb_tree_is_table(tree))
        return damaged_page(c, name, pgno, "it is no page of this table");
    why = eb_node_check(&node, NULL);
    if (why)
        return damaged_page(c, name, pgno, why);
    if (tree != EB_TREE_LOG || node.inner)
        return 0;
    rc = find_names(c, &node);
    if (!rc)
        rc = eb_salvage_leaf(&c->salvage, pgno, page, &why);
    if (!rc && c->bad_row) {
        char what[80];
        snprintf(what, sizeof(what), "event %llu near its end", (unsigned long long)c->bad_seq);
        return damaged(c, what);
    }
    return rc;
}

/* Down the right edge; at its end the last leaves. */
static int check_edge(struct check *c, enum eb_tree tree)
{
    uint8_t page[EB_PAGE_MAX], leaf[EB_PAGE_MAX];
    struct eb_node node;
    uint32_t at = c->roots.root[tree];
    for (int depth = 0; depth < EB_WALK_DEPTH; depth++) {
        int rc = check_leaf(c, tree, at, page);
        if (rc)
            return rc;
        eb_node_read(&node, &c->pages, at, page);
        if (!node.inner)
            return 0;
        /* The page beside the right edge tells leaves from inner pages: all leaves are equally deep. */
        uint32_t most = tree == EB_TREE_LOG ? LAST_LEAVES : 1;
        for (uint32_t i = node.cells > most ? node.cells - most : 0; i < node.cells; i++) {
            struct eb_cell cell;
            if (!eb_cell_read(&node, i, &cell))
                return damaged_page(c, eb_tree_names[tree], at, "a cell pointer points nowhere");
            rc = check_leaf(c, tree, cell.child, leaf);
            if (rc)
                return rc;
        }
        at = node.right;
    }
    return damaged_page(c, eb_tree_names[tree], at, "the tree has no end");
}

/* The last pages of the file: is each something that can be there? */
static int check_end(struct check *c)
{
    uint8_t page[EB_PAGE_MAX];
    uint32_t n = c->pages.count;
    for (uint32_t pgno = n > LAST_PAGES ? n - LAST_PAGES + 1 : 2; pgno <= n; pgno++) {
        struct eb_node node;
        enum eb_page_use use = eb_page_use(c->map, pgno, NULL);
        if (use == EB_USE_UNKNOWN)
            return damaged_page(c, "the file", pgno, "the pointer map does not know it");
        if (use != EB_USE_TREE && use != EB_USE_ROOT)
            continue;
        int rc = eb_pages_read(&c->pages, pgno, page);
        if (rc == -EIO)
            return rc;
        if (rc || !eb_node_read(&node, &c->pages, pgno, page))
            return damaged_page(c, "the file", pgno, "it should be a page of a table");
    }
    return 0;
}

static int check_freelist(struct check *c)
{
    const char *why = NULL;
    uint64_t n;
    int rc = eb_freelist_read(&c->pages, c->bits, eb_mono_ms() + FREELIST_MS, &n, &why);
    return rc == -EBADMSG ? damaged(c, why) : rc;
}

static int check_ours(struct check *c)
{
    c->map = calloc(1, sizeof(*c->map));
    c->bits = calloc(c->pages.count / 8 + 1, 1);
    int rc = eb_salvage_init(&c->salvage, &c->pages);
    if (!c->map || !c->bits || rc)
        return -ENOMEM;
    c->map->pages = &c->pages;
    c->salvage.ctx = c;
    c->salvage.row = on_row;
    c->salvage.bad = on_bad;
    rc = check_roots(c);
    if (!rc)
        rc = check_wal(c);
    if (!rc && c->pages.wal_partial)
        return 0;
    if (!rc)
        rc = check_freelist(c);
    for (int i = 0; i < EB_TREE_COUNT && !rc; i++)
        if (c->roots.root[i])
            rc = check_edge(c, i);
    return rc ? rc : check_end(c);
}

int eb_store_check(const char *path, const char *vfs, struct eb_error *err)
{
    struct check c = {.path = path, .err = err};
    int rc = eb_pages_open_until(&c.pages, path, vfs, eb_mono_ms() + WAL_MS, err);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (c.pages.count) {
        rc = check_head(&c);
        if (rc > 0)
            rc = check_ours(&c);
    }
    if (rc == -EIO || rc == -ENOMEM || rc == -ENODATA)
        eb_fail(err, EB_INTERNAL, "%.150s cannot be read: %s", path,
                rc == -ENOMEM ? "out of memory" : "the disk reports an error");
    eb_salvage_finish(&c.salvage);
    eb_pages_close(&c.pages);
    free(c.map);
    free(c.bits);
    return rc == -ENODATA ? -EIO : rc;
}
