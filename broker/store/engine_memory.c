/*
 * engine_memory.c - storage = memory: a ring of the newest events, bounded by memory_bytes. Reading is read_memory.c's.
 *
 *        head                              next
 *   -----[ 17 ][ 18 ][  - ][ 20 ] … [ 96 ]        slot of seq = slots[(first + seq - base) & mask]
 *    17 = base              |
 *                 deleted alone (ttl, acknowledged): an empty slot, until it becomes the head
 *
 * (R1) One lock guards the ring. Readers hold it to copy a few references; they match outside.
 * (R2) Slots are in seq order without a hole: the store gives seqs one after the other and takes them back
 *      from the end. base + count is the next seq.
 * (R3) What does not fit falls off the head, after the commit: a rollback must not have cost anything.
 *      The newest event stays, however large.
 * (R4) What fell off is known by its end (`overflow_upto`); retention's end is `deleted_upto`, never below
 *      it. A reader that starts at or before them is told so by a gap.
 * (R5) A topic's last seq outlives its events (PROTOCOL 8): topics without events are remembered in `past`, those that
 *      had their last event longest ago are forgotten first when they are more than a part of memory_bytes. Each slot
 *      knows the seq before it of the same topic: so a topic's events are a list, from the newest.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/memory_internal.h"
#include "common/uuid.h"

#define START_SLOTS 1024u
#define SCAN_FACTOR 32u /* slots scanned for each row a trim may delete */
#define PAST_PART   16u /* of memory_bytes may be taken by topics without events */

static uint64_t used_bytes(const struct eb_memory *m)
{
    return m->bytes + m->count * sizeof(struct eb_memory_slot);
}

/* ---- the ring, lock held ---- */

static int grow_locked(struct eb_memory *m)
{
    size_t cap = m->cap ? m->cap * 2 : START_SLOTS;
    struct eb_memory_slot *slots = malloc(cap * sizeof *slots);
    if (!slots)
        return -ENOMEM;
    for (size_t i = 0; i < m->count; i++)
        slots[i] = m->slots[(m->first + i) & (m->cap - 1)];
    free(m->slots);
    m->slots = slots;
    m->cap = cap;
    m->first = 0;
    return 0;
}

/* ---- topics that have no event any more (R5), lock held ---- */

static size_t node_bytes(const struct eb_topic_node *node)
{
    return sizeof *node + node->len + 1u;
}

static void past_drop_locked(struct eb_memory_past *past, struct eb_topic_node *node)
{
    past->bytes -= node_bytes(node);
    *(node->older ? &node->older->younger : &past->oldest) = node->younger;
    *(node->younger ? &node->younger->older : &past->youngest) = node->older;
    eb_topicset_drop(&past->topics, node);
}

/* The last seq of a topic that gets an event again; it is remembered with that from now on. */
static uint64_t past_take_locked(struct eb_memory_past *past, const struct eb_topic_node *topic)
{
    struct eb_topic_node *node = eb_topicset_find(&past->topics, topic->name, topic->len);
    uint64_t last = node ? node->last : 0;
    if (node)
        past_drop_locked(past, node);
    return last;
}

static void past_add_locked(struct eb_memory *m, const struct eb_topic_node *topic)
{
    struct eb_memory_past *past = &m->past;
    if (!topic->last || eb_topic_is_reply(topic->name, topic->len))
        return;
    struct eb_topic_node *node = eb_topicset_add(&past->topics, topic->name, topic->len);
    if (!node)
        return; /* as if it were one too many */
    node->last = topic->last;
    node->older = past->youngest;
    *(past->youngest ? &past->youngest->younger : &past->oldest) = node;
    past->youngest = node;
    past->bytes += node_bytes(node);
    while (past->bytes > m->limit / PAST_PART)
        past_drop_locked(past, past->oldest);
}

static void empty_slot_locked(struct eb_memory *m, struct eb_memory_slot *slot)
{
    if (!slot->event)
        return;
    if (slot->topic->events == 1)
        past_add_locked(m, slot->topic);
    m->bytes -= eb_event_size(slot->event);
    m->events--;
    m->mortal -= slot->expires != 0;
    m->acked -= slot->acked != 0;
    eb_topicset_drop(&m->topics, slot->topic);
    eb_event_unref(slot->event);
    *slot = (struct eb_memory_slot){.before = slot->before};
}

static void pop_head_locked(struct eb_memory *m)
{
    empty_slot_locked(m, &m->slots[m->first]);
    m->first = (m->first + 1) & (m->cap - 1);
    m->base++;
    m->count--;
}

/* Empty slots do not stay at the head. */
static void skip_holes_locked(struct eb_memory *m)
{
    while (m->count && !m->slots[m->first].event)
        pop_head_locked(m);
}

static int64_t expiry_of(const struct eb_event *event)
{
    int64_t ms;
    if (event->ttl <= 0 || __builtin_mul_overflow(event->ttl, 1000, &ms) ||
        __builtin_add_overflow(event->timestamp, ms, &ms))
        return 0;
    return ms;
}

static int push_locked(struct eb_memory *m, struct eb_event *event)
{
    if (m->count == m->cap) {
        int rc = grow_locked(m);
        if (rc < 0)
            return rc;
    }
    struct eb_topic_node *topic = eb_topicset_add(&m->topics, event->topic, event->topic_len);
    if (!topic)
        return -ENOMEM;
    if (m->count == 0)
        m->base = event->seq;
    if (topic->events == 1)
        topic->last = past_take_locked(&m->past, topic);
    struct eb_memory_slot *slot = &m->slots[(m->first + m->count) & (m->cap - 1)];
    *slot = (struct eb_memory_slot){
        .event = eb_event_ref(event),
        .topic = topic,
        .expires = expiry_of(event),
        .before = topic->last,
    };
    topic->last = event->seq;
    m->count++;
    m->events++;
    m->mortal += slot->expires != 0;
    m->bytes += eb_event_size(event);
    return 0;
}

/* ---- transactions ---- */

static int memory_begin(struct eb_engine *engine)
{
    struct eb_memory *m = eb_memory_self(engine);
    eb_lock_take(&m->lock);
    m->mark = eb_memory_next(m);
    eb_deadlist_begin(&m->dead);
    eb_lock_drop(&m->lock);
    m->ack_count = 0;
    return 0;
}

static int memory_append(struct eb_engine *engine, struct eb_event *const *events, size_t count)
{
    struct eb_memory *m = eb_memory_self(engine);
    int rc = 0;
    eb_lock_take(&m->lock);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = push_locked(m, events[i]);
    eb_lock_drop(&m->lock);
    return rc;
}

static int memory_ack(struct eb_engine *engine, uint64_t seq, int64_t now_ms)
{
    struct eb_memory *m = eb_memory_self(engine);
    if (m->ack_count == m->ack_cap) {
        size_t cap = m->ack_cap ? m->ack_cap * 2 : 64;
        uint64_t *acks = realloc(m->acks, cap * sizeof *acks);
        if (!acks)
            return -ENOMEM;
        m->acks = acks;
        m->ack_cap = cap;
    }
    eb_lock_take(&m->lock);
    struct eb_memory_slot *slot = eb_memory_holds(m, seq) ? eb_memory_slot(m, seq) : NULL;
    if (slot && slot->event && !slot->acked) {
        slot->acked = now_ms > 0 ? now_ms : 1;
        m->acked++;
        m->acks[m->ack_count++] = seq;
    }
    eb_lock_drop(&m->lock);
    return 0;
}

/* Only dead letters are kept (state.h, T3). */
static int memory_state(struct eb_engine *engine, const struct eb_state_write *write,
                        uint64_t first_seq)
{
    struct eb_memory *m = eb_memory_self(engine);
    int rc = 0;
    eb_lock_take(&m->lock);
    if (write->kind == EB_STATE_DEAD_ADD)
        rc = eb_deadlist_add(&m->dead, write->consumer, write->seq ? write->seq : first_seq);
    else if (write->kind == EB_STATE_DEAD_DROP)
        rc = eb_deadlist_drop(&m->dead, write->consumer, write->seq);
    else if (write->kind == EB_STATE_DROP)
        rc = eb_deadlist_clear(&m->dead, write->consumer);
    eb_lock_drop(&m->lock);
    return rc;
}

static int memory_commit(struct eb_engine *engine)
{
    struct eb_memory *m = eb_memory_self(engine);
    eb_lock_take(&m->lock);
    while (m->count > 1 && used_bytes(m) > m->limit) { /* (R3) */
        m->deleted_upto = m->overflow_upto = m->base;
        pop_head_locked(m);
    }
    skip_holes_locked(m);
    eb_lock_drop(&m->lock);
    m->ack_count = 0;
    return 0;
}

static void memory_rollback(struct eb_engine *engine)
{
    struct eb_memory *m = eb_memory_self(engine);
    eb_lock_take(&m->lock);
    for (size_t i = 0; i < m->ack_count; i++) {
        if (eb_memory_holds(m, m->acks[i]) && eb_memory_slot(m, m->acks[i])->acked) {
            eb_memory_slot(m, m->acks[i])->acked = 0;
            m->acked--;
        }
    }
    while (m->count && eb_memory_next(m) > m->mark) {
        struct eb_memory_slot *slot = eb_memory_slot(m, eb_memory_next(m) - 1);
        if (slot->event)
            slot->topic->last = slot->before;
        empty_slot_locked(m, slot);
        m->count--;
    }
    if (!m->count)
        m->base = m->mark;
    eb_deadlist_undo(&m->dead);
    eb_lock_drop(&m->lock);
    m->ack_count = 0;
}

static int memory_topic_last(struct eb_engine *engine, const char *topic, size_t len, uint64_t *ret)
{
    struct eb_memory *m = eb_memory_self(engine);
    eb_lock_take(&m->lock);
    const struct eb_topic_node *node = eb_topicset_find(&m->topics, topic, len);
    if (!node)
        node = eb_topicset_find(&m->past.topics, topic, len);
    *ret = node ? node->last : 0;
    eb_lock_drop(&m->lock);
    return 0;
}

int eb_memory_lookup(struct eb_engine *engine, uint64_t seq, struct eb_event **ret)
{
    struct eb_memory *m = eb_memory_self(engine);
    eb_lock_take(&m->lock);
    struct eb_event *event = eb_memory_holds(m, seq) ? eb_memory_slot(m, seq)->event : NULL;
    if (event)
        *ret = eb_event_ref(event);
    eb_lock_drop(&m->lock);
    return event ? 0 : -ENOENT;
}

static int memory_load_ids(struct eb_engine *engine, int64_t since_ms, uint64_t max,
                           const struct eb_engine_ids *tell)
{
    return 0; /* it always starts empty */
}

/* ---- deletion ---- */

static bool held(const struct eb_trim_request *request, uint64_t seq)
{
    return request->hold_from && seq >= request->hold_from;
}

static bool prefix_due_locked(const struct eb_memory *m, const struct eb_trim_request *request)
{
    const struct eb_memory_slot *head = &m->slots[m->first];
    if (!m->count || held(request, m->base))
        return false;
    if (request->age_ms && head->event &&
        head->event->timestamp <= request->now_ms - request->age_ms)
        return true;
    if (request->max_events && m->events + request->coming > request->max_events)
        return true;
    return request->max_bytes && m->bytes > request->max_bytes;
}

/* Search on from where the last turn stopped, once around; a bounded stretch at a time. */
static bool scan_locked(struct eb_memory *m, const struct eb_trim_request *request, unsigned rows,
                        struct eb_trim_result *ret)
{
    uint64_t budget = (uint64_t)rows * SCAN_FACTOR;
    bool acks = request->acked_ms >= 0 && m->acked;
    if (!m->mortal && !acks)
        return false;
    if (m->scan < m->base)
        m->scan = m->base;
    for (; m->scan < eb_memory_next(m) && budget; m->scan++, budget--) {
        struct eb_memory_slot *slot = eb_memory_slot(m, m->scan);
        if (!rows)
            break;
        if (slot->expires && slot->expires <= request->now_ms)
            ret->expired++;
        else if (acks && slot->acked && !held(request, m->scan) &&
                 slot->acked <= request->now_ms - request->acked_ms)
            ret->acked_out++;
        else
            continue;
        empty_slot_locked(m, slot);
        rows--;
    }
    if (m->scan < eb_memory_next(m))
        return true;
    m->scan = 0;
    return false;
}

static int memory_trim(struct eb_engine *engine, const struct eb_trim_request *request,
                       struct eb_trim_result *ret)
{
    struct eb_memory *m = eb_memory_self(engine);
    struct eb_trim_result result = {0};
    unsigned rows = request->max_rows;
    eb_lock_take(&m->lock);
    skip_holes_locked(m);
    while (rows && prefix_due_locked(m, request)) {
        m->deleted_upto = m->base;
        pop_head_locked(m);
        skip_holes_locked(m);
        result.retained_out++;
        rows--;
    }
    result.more = prefix_due_locked(m, request) || scan_locked(m, request, rows, &result);
    skip_holes_locked(m);
    eb_lock_drop(&m->lock);
    *ret = result;
    return 0;
}

/* ---- the rest ---- */

static void memory_figures(struct eb_engine *engine, struct eb_engine_figures *ret)
{
    struct eb_memory *m = eb_memory_self(engine);
    eb_lock_take(&m->lock);
    *ret = (struct eb_engine_figures){
        .first_seq = m->base,
        .deleted_upto = m->deleted_upto,
        .events = m->events,
        .bytes = m->bytes,
        .topics = m->topics.count,
        .acked = m->acked,
    };
    eb_lock_drop(&m->lock);
}

static const char *memory_trouble(struct eb_engine *engine)
{
    return "out of memory";
}

static void memory_close(struct eb_engine *engine, bool clean, int64_t now_ms)
{
    struct eb_memory *m = eb_memory_self(engine);
    while (m->count)
        pop_head_locked(m);
    while (m->past.oldest)
        past_drop_locked(&m->past, m->past.oldest);
    eb_lock_finish(&m->lock);
    free(m->slots);
    free(m->acks);
    eb_deadlist_finish(&m->dead);
    free(m);
}

static const struct eb_engine_ops memory_ops = {
    .close = memory_close,
    .begin = memory_begin,
    .append = memory_append,
    .ack = memory_ack,
    .state = memory_state,
    .topic_last = memory_topic_last,
    .commit = memory_commit,
    .rollback = memory_rollback,
    .trim = memory_trim,
    .lookup = eb_memory_lookup,
    .load_ids = memory_load_ids,
    .reader_create = eb_memory_reader_create,
    .reader_destroy = eb_memory_reader_destroy,
    .page = eb_memory_page,
    .event = eb_memory_event,
    .topics = eb_memory_topics,
    .last = eb_memory_last,
    .last_seqs = eb_memory_last_seqs,
    .first_at = eb_memory_first_at,
    .count = eb_memory_count,
    .dead = eb_memory_dead,
    .figures = memory_figures,
    .trouble = memory_trouble,
};

int eb_engine_memory_open(const struct eb_store_config *config, struct eb_engine_counters *counters,
                          struct eb_engine **ret, struct eb_engine_start *ret_start,
                          struct eb_error *err)
{
    struct eb_memory *m = calloc(1, sizeof *m);
    struct eb_made made;
    uint8_t epoch[16];
    int rc = m ? eb_made_init(&made) : -ENOMEM;
    if (rc < 0) {
        eb_fail(err, EB_INTERNAL, m ? "no random bytes: %s" : "out of memory", strerror(-rc));
        free(m);
        return rc;
    }
    m->engine.ops = &memory_ops;
    m->counters = counters;
    m->limit = config->memory_bytes;
    m->base = 1;
    eb_lock_init(&m->lock, EB_RANK_STORE_STATE);
    eb_uuid_v4(epoch);
    *ret_start = (struct eb_engine_start){.last_timestamp = 0, .made = made};
    eb_uuid_format(ret_start->epoch, epoch);
    *ret = &m->engine;
    return 0;
}
