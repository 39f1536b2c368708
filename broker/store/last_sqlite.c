/*
 * last_sqlite.c - a topic's last seq (PROTOCOL 8, conditional publish): it outlives the events themselves.
 *
 * (L1) It is the larger of `topics.last_seq` and the topic's last place in the open segment's array. The row is written
 *      when a segment closes (segments.c, G4), and in the transaction that deletes an event of the open segment: for a
 *      start may fill the array from the rows that are left.
 * (L2) So it costs nothing where an event is appended but one store into the writer's cache of topics (topic_ids.c),
 *      which a rollback empties.
 * (L3) A topic whose first word is _reply is gone with its last event (PROTOCOL 8), in the same transaction: its row, its
 *      last seq and its lists. `replies` counts the events of such topics. Its id is not given again: `meta` has the
 *      highest that was.
 */
#include <stdlib.h>

#include "broker/store/schema.h"
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
        found.reply = eb_topic_is_reply(topic, len);
        eb_topic_ids_put(e->topics, topic, len, found);
    }
    *ret = found.last;
    return 0;
}

/* ---- topics that go with their last event (L3) ---- */

int eb_last_prepare(struct eb_sqlite *e)
{
    const struct {
        sqlite3_stmt **stmt;
        const char *sql;
    } all[] = {
        {&e->keep_last, "UPDATE topics SET last_seq = max(last_seq, ?2) WHERE id = ?1"},
        {&e->add_reply, "INSERT INTO replies(topic, events) VALUES(?1, 1)"
                        " ON CONFLICT(topic) DO UPDATE SET events = events + 1"},
        {&e->drop_replies,
         "UPDATE replies SET events = events - ?2 WHERE topic = ?1 RETURNING events"},
        {&e->forget_reply, "DELETE FROM replies WHERE topic = ?1"},
        {&e->drop_topic, "DELETE FROM topics WHERE id = ?1 RETURNING name"},
        {&e->drop_list, "DELETE FROM postings WHERE place = (?1 << 32 | ?2)"},
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        int result = eb_sql_prepare(e->db, all[i].sql, all[i].stmt);
        if (result < 0)
            return result;
    }
    return 0;
}

int eb_last_load(struct eb_sqlite *e)
{
    int64_t there = 0, top = 0;
    int result = eb_sql_int(e->db, "SELECT EXISTS(SELECT 1 FROM replies)", 0, &there);

    if (result == 0)
        result = eb_meta_int(e->db, EB_META_TOPIC_TOP, 0, &top);
    e->now.replies = there != 0;
    if (top > e->now.topic_top && top <= UINT32_MAX)
        e->now.topic_top = (uint32_t)top;
    return result;
}

int eb_last_reply(struct eb_sqlite *e, uint32_t topic)
{
    sqlite3_bind_int64(e->add_reply, 1, topic);
    int rc = eb_sqlite_run(e->add_reply);
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "counting the events of a reply's topic");
    e->now.replies = true;
    return 0;
}

/* @gone of its events are deleted. 1: it has none left, 0: it has, or is none of these topics; -errno. */
static int count_down(struct eb_sqlite *e, uint32_t topic, size_t gone)
{
    int64_t left = 1;
    int rc;

    sqlite3_bind_int64(e->drop_replies, 1, topic);
    sqlite3_bind_int64(e->drop_replies, 2, (sqlite3_int64)gone);
    rc = sqlite3_step(e->drop_replies);
    if (rc == SQLITE_ROW) {
        left = sqlite3_column_int64(e->drop_replies, 0);
        rc = sqlite3_step(e->drop_replies);
    }
    sqlite3_reset(e->drop_replies);
    if (rc != SQLITE_DONE)
        return eb_sqlite_failed(e, rc, "counting the events of a reply's topic");
    return left <= 0;
}

/* The topic, its count, and its lists where it had these events. */
static int drop_topic(struct eb_sqlite *e, const struct eb_last_note *notes, size_t count)
{
    uint64_t segment = UINT64_MAX;
    int rc;

    sqlite3_bind_int64(e->drop_topic, 1, notes->topic);
    rc = sqlite3_step(e->drop_topic);
    if (rc == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(e->drop_topic, 0);
        if (name)
            eb_topic_ids_drop(e->topics, name, (size_t)sqlite3_column_bytes(e->drop_topic, 0));
        e->now.topics -= e->now.topics > 0;
        rc = sqlite3_step(e->drop_topic);
    }
    sqlite3_reset(e->drop_topic);
    sqlite3_bind_int64(e->forget_reply, 1, notes->topic);
    if (rc == SQLITE_DONE)
        rc = eb_sqlite_run(e->forget_reply);
    for (size_t i = 0; i < count && rc == SQLITE_OK; i++) {
        if (eb_segment_of(notes[i].seq) == segment)
            continue;
        segment = eb_segment_of(notes[i].seq);
        sqlite3_bind_int64(e->drop_list, 1, (sqlite3_int64)segment);
        sqlite3_bind_int64(e->drop_list, 2, notes->topic);
        rc = segment < e->open->number ? eb_sqlite_run(e->drop_list) : SQLITE_OK;
    }
    return rc == SQLITE_OK ? 0 : eb_sqlite_failed(e, rc, "dropping a reply's topic");
}

/* ---- events that are deleted ---- */

static int by_topic(const void *a, const void *b)
{
    const struct eb_last_note *x = a, *y = b;

    if (x->topic != y->topic)
        return x->topic < y->topic ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Those of one topic, by seq. *ret_gone: the topic is gone. */
static int settle_topic(struct eb_sqlite *e, const struct eb_last_note *notes, size_t count,
                        bool *ret_gone)
{
    int result = e->now.replies ? count_down(e, notes->topic, count) : 0;

    *ret_gone = result > 0;
    if (result > 0)
        return drop_topic(e, notes, count);
    if (result < 0 || eb_segment_of(notes[count - 1].seq) != e->open->number)
        return result;
    sqlite3_bind_int64(e->keep_last, 1, notes->topic);
    sqlite3_bind_int64(e->keep_last, 2, (sqlite3_int64)notes[count - 1].seq);
    int rc = eb_sqlite_run(e->keep_last);
    return rc == SQLITE_OK ? 0 : eb_sqlite_failed(e, rc, "keeping a topic's last seq");
}

int eb_last_settle(struct eb_sqlite *e, struct eb_last_note *notes, size_t count)
{
    bool dropped = false;
    int result = 0;

    if (count > 1)
        qsort(notes, count, sizeof(*notes), by_topic);
    for (size_t i = 0, n; i < count && result == 0; i += n) {
        bool gone;
        for (n = 1; i + n < count && notes[i + n].topic == notes[i].topic; n++)
            ;
        result = settle_topic(e, notes + i, n, &gone);
        dropped = dropped || gone;
    }
    if (result == 0 && dropped)
        result = eb_sqlite_set_meta(e, EB_META_TOPIC_TOP, e->now.topic_top);
    return result;
}
