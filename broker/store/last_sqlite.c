/*
 * last_sqlite.c - a topic's last seq (PROTOCOL 8, conditional publish): it outlives the events themselves.
 *
 * (L1) It is the larger of `topics.last_seq` and the topic's last place in the open segment's array. The row is written
 *      when a segment closes (segments.c, G4), and in the transaction that deletes an event of the open segment: for a
 *      start may fill the array from the rows that are left.
 * (L2) So it costs nothing where an event is appended but one store into the writer's cache of topics (topic_ids.c),
 *      which a rollback empties.
 */
#include <stdlib.h>

#include "broker/store/sqlite_internal.h"

/* The last event of @topic in the open segment, deleted or not; 0: none. */
static uint64_t last_in_open(const struct eb_sqlite *e, uint32_t topic)
{
    uint64_t base = eb_segment_base(e->open->number);

    if (e->now.last_seq < base)
        return 0;
    for (uint64_t offset = e->now.last_seq - base + 1; offset-- > 0;)
        if (atomic_load_explicit(&e->open->topic[offset], memory_order_relaxed) == topic)
            return base + offset;
    return 0;
}

int eb_sqlite_topic_last(struct eb_engine *engine, const char *topic, size_t len, uint64_t *ret)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    struct eb_topic_known *known = eb_topic_ids_get(e->topics, topic, len), found = {0};
    int rc;

    if (known) {
        *ret = known->last;
        return 0;
    }
    sqlite3_bind_text(e->find_topic, 1, topic, (int)len, SQLITE_STATIC);
    rc = sqlite3_step(e->find_topic);
    if (rc == SQLITE_ROW) {
        found.id = (uint32_t)sqlite3_column_int64(e->find_topic, 0);
        found.last = (uint64_t)sqlite3_column_int64(e->find_topic, 1);
    }
    sqlite3_reset(e->find_topic);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return eb_sqlite_failed(e, rc, "looking for a topic");
    if (rc == SQLITE_ROW) {
        uint64_t last = last_in_open(e, found.id);
        found.last = last > found.last ? last : found.last;
        eb_topic_ids_put(e->topics, topic, len, found);
    }
    *ret = found.last;
    return 0;
}

/* ---- events that are deleted ---- */

static int by_topic(const void *a, const void *b)
{
    const struct eb_last_note *x = a, *y = b;

    if (x->topic != y->topic)
        return x->topic < y->topic ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

int eb_last_keep(struct eb_sqlite *e, struct eb_last_note *notes, size_t count)
{
    if (count > 1)
        qsort(notes, count, sizeof(*notes), by_topic);
    for (size_t i = 0; i < count; i++) {
        if (!notes[i].topic || (i + 1 < count && notes[i + 1].topic == notes[i].topic))
            continue;
        sqlite3_bind_int64(e->keep_last, 1, notes[i].topic);
        sqlite3_bind_int64(e->keep_last, 2, (sqlite3_int64)notes[i].seq);
        int rc = eb_sqlite_run(e->keep_last);
        if (rc != SQLITE_OK)
            return eb_sqlite_failed(e, rc, "keeping a topic's last seq");
    }
    return 0;
}
