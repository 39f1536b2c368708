/*
 * verify_kept.c - what is kept beside the events: is each row what it can be, and does it fit the others and the log?
 */
#include <stdlib.h>

#include "broker/store/scheduled_row.h"
#include "broker/store/verify_internal.h"

static bool is_int(const struct eb_value *v)
{
    return v->type == EB_V_INT && v->i >= 0;
}

static bool check_consumer(struct verify *v, const struct eb_cell *cell, const struct eb_value *c,
                           int n)
{
    bool good = n == 10 && cell->rowid > 0 && c[1].type == EB_V_TEXT && c[2].type == EB_V_TEXT &&
                c[3].type == EB_V_INT && (c[9].type == EB_V_NULL || c[9].type == EB_V_TEXT);

    for (int i = 4; good && i < 9; i++)
        good = is_int(&c[i]);
    if (!good)
        return false;
    if (c[5].i > c[4].i)
        PROBLEM(v,
                "consumers: the position of consumer %llu lies beyond the last seq, or before what "
                "it has open",
                (unsigned long long)cell->rowid);
    v->oom = eb_seq_list_add(&v->consumers, (uint64_t)cell->rowid);
    if (!v->oom)
        v->oom = eb_seq_list_add(&v->positions, (uint64_t)c[4].i);
    return true;
}

static int by_value(const void *va, const void *vb)
{
    const uint64_t *a = va, *b = vb;

    return *a < *b ? -1 : *a > *b;
}

/* A row of a consumer that is not there is said once. */
static void check_owner(struct verify *v, uint64_t id, uint64_t *said, const char *what)
{
    if (v->broken || id == *said ||
        (v->consumers.count && bsearch(&id, v->consumers.items, v->consumers.count,
                                       sizeof(*v->consumers.items), by_value)))
        return;
    *said = id;
    PROBLEM(v, "%s of consumer %llu, which is not there", what, (unsigned long long)id);
}

static bool check_scheduled(struct verify *v, const struct eb_cell *cell, const struct eb_value *c,
                            int n)
{
    struct eb_scheduled_row row;

    v->scheduled_rows++;
    if (n != 10)
        return false;
    if (eb_scheduled_row_from(c, cell->rowid, &row) < 0)
        PROBLEM(v, "scheduled: the event in place %llu is damaged",
                (unsigned long long)cell->rowid);
    return true;
}

bool eb_verify_kept_entry(struct verify *v, enum eb_tree tree, const struct eb_cell *cell,
                          const struct eb_value *c, int n)
{
    switch (tree) {
    case EB_TREE_CONSUMERS:
        return check_consumer(v, cell, c, n);
    case EB_TREE_CONSUMERS_INDEX:
        v->consumer_names++;
        return n == 2 && c[0].type == EB_V_TEXT && is_int(&c[1]);
    case EB_TREE_BLOCKS:
        if (n != 3 || !is_int(&c[0]) || !is_int(&c[1]) || c[2].type != EB_V_BLOB)
            return false;
        check_owner(v, (uint64_t)c[0].i, &v->said_block, "open_blocks: there are blocks");
        return true;
    case EB_TREE_DEAD:
        if (n != 2 || !is_int(&c[0]) || !is_int(&c[1]))
            return false;
        check_owner(v, (uint64_t)c[0].i, &v->said_dead, "dead_letters: there are some");
        return true;
    case EB_TREE_MARKS:
        return n == 2 && c[0].type == EB_V_TEXT && c[1].type == EB_V_INT;
    case EB_TREE_SCHEDULED:
        return check_scheduled(v, cell, c, n);
    case EB_TREE_SCHEDULED_IDS:
        v->scheduled_ids++;
        return n == 2 && c[0].type == EB_V_BLOB && is_int(&c[1]);
    case EB_TREE_SCHEDULED_DUE:
        v->scheduled_dues++;
        return n >= 2 && c[0].type == EB_V_INT && is_int(&c[1]);
    case EB_TREE_REPLIES:
        return n == 2 && cell->rowid > 0 && c[1].type == EB_V_INT;
    default:
        return true;
    }
}

void eb_verify_kept(struct verify *v)
{
    if (v->consumer_names != v->consumers.count)
        PROBLEM(v, "consumers: %zu in the table, %llu in its index", v->consumers.count,
                (unsigned long long)v->consumer_names);
    if (v->scheduled_ids != v->scheduled_rows || v->scheduled_dues != v->scheduled_rows)
        PROBLEM(v, "scheduled: %llu in the table, %llu and %llu in its indexes",
                (unsigned long long)v->scheduled_rows, (unsigned long long)v->scheduled_ids,
                (unsigned long long)v->scheduled_dues);
    for (size_t i = 0; i < v->positions.count && !v->broken; i++)
        if (v->positions.items[i] > v->sum->last_seq + 1)
            PROBLEM(v,
                    "consumers: the position of consumer %llu lies beyond the last seq, or before "
                    "what it has open",
                    (unsigned long long)v->consumers.items[i]);
}
