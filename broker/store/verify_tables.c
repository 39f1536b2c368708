/*
 * verify_tables.c - the small tables of a log, and tables that are not ours to know: structure, order, kinds.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/ids.h"
#include "broker/store/made.h"
#include "broker/store/verify_internal.h"
#include "common/uuid.h"

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
    if (is_text(&c[0], EB_META_ID_KEY)) {
        char text[EB_MADE_TEXT];
        struct eb_made made;
        if (c[1].type != EB_V_TEXT || c[1].len >= sizeof(text))
            return false;
        memcpy(text, c[1].data, c[1].len);
        text[c[1].len] = '\0';
        return eb_made_parse(text, &made, NULL);
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

/* One entry of a small table. False if it cannot be one. */
static bool check_entry(struct verify *v, enum eb_tree tree, const struct eb_cell *cell,
                        const struct eb_value *c, int n)
{
    switch (tree) {
    case EB_TREE_META:
        return n == 2 && c[0].type == EB_V_TEXT && check_meta(v, c);
    case EB_TREE_TOPICS:
        return (n == 2 || (n == 3 && c[2].type == EB_V_INT && c[2].i >= 0)) &&
               c[1].type == EB_V_TEXT &&
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
        v->oom = eb_seq_list_add(&v->closed, (uint64_t)cell->rowid);
        return n == 5 && cell->rowid >= 0;
    case EB_TREE_IDS:
        return n == 4 && c[1].type == EB_V_INT && c[2].type == EB_V_INT && c[3].type == EB_V_BLOB &&
               eb_ids_check(cell->rowid, c[3].data, c[3].len) >= 0;
    default:
        return eb_verify_kept_entry(v, tree, cell, c, n);
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
    int rc = eb_cell_payload(&v->pages, cell, &s->now, eb_verify_chain_page, v);
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

int eb_verify_tree(struct verify *v, enum eb_tree tree, uint32_t root, const char *name, bool table)
{
    struct eb_walk walk = {
        .bits = v->bits, .ctx = v, .broken = eb_verify_broken, .visit = eb_verify_visit};
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

int eb_verify_others(struct verify *v)
{
    int rc = 0;
    for (unsigned i = 0; i < v->roots.other_count && !rc; i++) {
        uint8_t page[EB_PAGE_MAX];
        struct eb_node node;
        uint32_t root = v->roots.others[i];
        bool table = !eb_pages_read(&v->pages, root, page) &&
                     eb_node_read(&node, &v->pages, root, page) && node.table;
        rc = eb_verify_tree(v, EB_TREE_COUNT, root, "another table", table);
    }
    return rc;
}

/* The table of topics and its index must say the same. */
void eb_verify_names(struct verify *v)
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
