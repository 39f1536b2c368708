/*
 * select_sqlite.c - which topics a selection means, and where in the log they occur.
 *
 * (C1) Topic ids rise and are never given twice: a selection that knows all ids up to `upto` has to look only
 *      at those above it. The first time, patterns with literal first words look at a range of names instead.
 * (C2) ids are sorted and at most EB_FEW_MAX; beyond, `many` is set and the log is read row by row.
 * (C3) One page looks at a bounded number of topics, so that a flood of topics does not make it long.
 * (C4) What cannot be read here costs speed and no event: the rows themselves are read then.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/reader_internal.h"

#define TOPICS_A_PAGE 65536
#define LISTS_EACH    1024 /* up to so many topics are looked up one by one in a segment's lists */

bool eb_sqlite_damage(int rc)
{
    if (rc == SQLITE_IOERR_NOMEM)
        return false;
    return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_IOERR ||
           (rc & 0xff) == SQLITE_NOTADB;
}

static struct eb_chosen *chosen_of(struct eb_selection *selection)
{
    struct eb_chosen *chosen = selection->engine_state;

    if (!chosen) {
        chosen = calloc(1, sizeof(*chosen));
        if (chosen)
            chosen->segment = UINT64_MAX;
        selection->engine_state = chosen;
    }
    return chosen;
}

static void give_up_listing(struct eb_selection *selection)
{
    free(selection->ids);
    selection->ids = NULL;
    selection->id_count = selection->id_cap = 0;
    selection->many = true;
}

/* ---- topics ---- */

static int compare_ids(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

bool eb_chosen_has(const struct eb_selection *selection, uint32_t topic)
{
    if (selection->id_count == 1)
        return selection->ids[0] == topic;
    return bsearch(&topic, selection->ids, selection->id_count, sizeof(topic), compare_ids) != NULL;
}

static int add_id(struct eb_selection *selection, uint32_t id)
{
    if (selection->id_count == EB_FEW_MAX) {
        give_up_listing(selection);
        return 0;
    }
    if (selection->id_count == selection->id_cap) {
        size_t cap = selection->id_cap ? selection->id_cap * 4 : 16;
        uint32_t *ids = realloc(selection->ids, cap * sizeof(*ids));
        if (!ids)
            return -ENOMEM;
        selection->ids = ids;
        selection->id_cap = cap;
    }
    selection->ids[selection->id_count++] = id;
    return 0;
}

/* Take the matching ones of the topics that @stmt gives as (id, name). ret_last: the last id seen. */
static int take_topics(sqlite3_stmt *stmt, struct eb_selection *selection, unsigned *budget,
                       uint32_t *ret_last)
{
    int rc = SQLITE_DONE, result = 0;

    while (result == 0 && !selection->many && *budget && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(stmt, 1);
        int len = sqlite3_column_bytes(stmt, 1);
        --*budget;
        *ret_last = (uint32_t)sqlite3_column_int64(stmt, 0);
        if (name && len > 0 && len <= EB_TOPIC_MAX &&
            eb_selection_match(selection, name, (size_t)len))
            result = add_id(selection, *ret_last);
    }
    sqlite3_reset(stmt);
    if (result == 0 && !selection->many && rc != SQLITE_ROW && rc != SQLITE_DONE) {
        if (rc == SQLITE_NOMEM)
            return -ENOMEM;
        give_up_listing(selection); /* (C4) */
    }
    return result;
}

/* Every match of @pattern begins with its literal words: a range of names holds them all. */
static int take_range(struct eb_sqlite_reader *r, struct eb_selection *selection,
                      const struct eb_pattern *pattern, unsigned *budget)
{
    char end[EB_TOPIC_MAX + 2];
    uint32_t last;

    if (!pattern->wild) {
        sqlite3_bind_text(r->topic_id, 1, pattern->text, pattern->len, SQLITE_STATIC);
        return take_topics(r->topic_id, selection, budget, &last);
    }
    memcpy(end, pattern->text, pattern->literal);
    end[pattern->literal] = (char)0xff; /* above every byte of UTF-8 */
    sqlite3_bind_text(r->topics_between, 1, pattern->text, pattern->literal, SQLITE_STATIC);
    sqlite3_bind_text(r->topics_between, 2, end, pattern->literal + 1, SQLITE_STATIC);
    return take_topics(r->topics_between, selection, budget, &last);
}

static bool by_range(const struct eb_selection *selection, const struct eb_chosen *chosen)
{
    if (selection->upto > 0 || chosen->no_range)
        return false;
    for (size_t i = 0; i < selection->count; i++)
        if (selection->patterns[i].wild && selection->patterns[i].literal == 0)
            return false;
    return true;
}

static void sort_ids(struct eb_selection *selection)
{
    size_t kept = 0;

    if (selection->id_count == 0)
        return;
    qsort(selection->ids, selection->id_count, sizeof(*selection->ids), compare_ids);
    for (size_t i = 1; i < selection->id_count; i++)
        if (selection->ids[i] != selection->ids[kept])
            selection->ids[++kept] = selection->ids[i];
    selection->id_count = kept + 1;
}

static int all_ranges(struct eb_sqlite_reader *r, struct eb_selection *selection, uint32_t top)
{
    struct eb_chosen *chosen = selection->engine_state;
    unsigned budget = TOPICS_A_PAGE;
    int result = 0;

    for (size_t i = 0; i < selection->count && result == 0 && budget; i++)
        result = take_range(r, selection, &selection->patterns[i], &budget);
    if (result < 0 || budget == 0) {
        selection->id_count = 0; /* begun afresh, by id */
        chosen->no_range = true;
        return result;
    }
    sort_ids(selection);
    selection->upto = top;
    return 0;
}

int eb_chosen_topics(struct eb_sqlite_reader *r, struct eb_selection *selection)
{
    struct eb_chosen *chosen = chosen_of(selection);
    unsigned budget = TOPICS_A_PAGE;
    uint32_t top = 0, last = 0;
    int rc, result;

    if (!chosen)
        return -ENOMEM;
    rc = sqlite3_step(r->topic_top);
    if (rc == SQLITE_ROW)
        top = (uint32_t)sqlite3_column_int64(r->topic_top, 0);
    sqlite3_reset(r->topic_top);
    if (rc != SQLITE_ROW) {
        give_up_listing(selection);
        return 0;
    }
    if (selection->upto >= top)
        return 0;
    if (by_range(selection, chosen)) {
        result = all_ranges(r, selection, top);
        if (result < 0 || selection->many || selection->upto >= top)
            return result;
    }
    sqlite3_bind_int64(r->topics_above, 1, selection->upto);
    result = take_topics(r->topics_above, selection, &budget, &last);
    if (result < 0 || selection->many)
        return result;
    selection->upto = budget ? top : last;
    return selection->upto < top;
}

/* ---- places ---- */

/* Add a list's offsets; false: the segment is better read row by row (or the list is not whole). */
static bool add_list(struct eb_chosen *chosen, uint32_t topic, sqlite3_stmt *stmt, int column)
{
    const void *blob = sqlite3_column_blob(stmt, column);
    int count =
        eb_postings_check(chosen->segment, topic, blob, (size_t)sqlite3_column_bytes(stmt, column));

    if (count < 0 || chosen->count + (uint32_t)count > EB_SPARSE_MAX)
        return false;
    for (int i = 0; i < count; i++)
        chosen->offsets[chosen->count++] = (uint16_t)eb_postings_at(blob, (size_t)i);
    return true;
}

static int compare_offsets(const void *a, const void *b)
{
    return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

/* Few topics: each one's list. True: chosen holds them all. */
static bool lists_one_by_one(struct eb_sqlite_reader *r, const struct eb_selection *selection,
                             struct eb_chosen *chosen)
{
    bool good = true;

    sqlite3_bind_int64(r->list, 1, (sqlite3_int64)chosen->segment);
    for (size_t i = 0; i < selection->id_count && good; i++) {
        sqlite3_bind_int64(r->list, 2, selection->ids[i]);
        int rc = sqlite3_step(r->list);
        good = rc == SQLITE_DONE ||
               (rc == SQLITE_ROW && add_list(chosen, selection->ids[i], r->list, 0));
        sqlite3_reset(r->list);
    }
    return good;
}

/* Many: go through all lists of the segment. */
static bool lists_in_order(struct eb_sqlite_reader *r, const struct eb_selection *selection,
                           struct eb_chosen *chosen)
{
    bool good = true;
    int rc = SQLITE_DONE;

    sqlite3_bind_int64(r->lists, 1, (sqlite3_int64)chosen->segment);
    while (good && (rc = sqlite3_step(r->lists)) == SQLITE_ROW) {
        uint32_t topic = (uint32_t)sqlite3_column_int64(r->lists, 0);
        if (eb_chosen_has(selection, topic))
            good = add_list(chosen, topic, r->lists, 1);
    }
    sqlite3_reset(r->lists);
    return good && rc == SQLITE_DONE;
}

int eb_chosen_offsets(struct eb_sqlite_reader *r, struct eb_selection *selection, uint64_t segment)
{
    struct eb_chosen *chosen = chosen_of(selection);

    if (!chosen)
        return -ENOMEM;
    if (chosen->segment == segment)
        return 0;
    chosen->segment = segment;
    chosen->count = 0;
    chosen->dense = selection->id_count <= LISTS_EACH ? !lists_one_by_one(r, selection, chosen)
                                                      : !lists_in_order(r, selection, chosen);
    if (!chosen->dense && selection->id_count > 1)
        qsort(chosen->offsets, chosen->count, sizeof(*chosen->offsets), compare_offsets);
    return 0;
}
