/*
 * engine_memory.c - storage = memory: a ring of the newest events, bounded by memory_bytes.
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

#include "broker/store/deadlist.h"
#include "broker/store/engine.h"
#include "broker/store/topicset.h"
#include "common/clock.h"
#include "common/lock.h"
#include "common/uuid.h"

#define START_SLOTS 1024u
#define COPY_MAX    128u  /* references copied under one hold of the lock */
#define LOOK_MAX    4096u /* slots looked at for one page */
#define SCAN_FACTOR 32u   /* slots scanned for each row a trim may delete */
#define PAST_PART   16u   /* of memory_bytes may be taken by topics without events */

struct slot {
    struct eb_event *event; /* one reference; NULL: deleted alone */
    struct eb_topic_node *topic;
    int64_t expires; /* ms since 1970, 0 = never */
    int64_t acked;   /* when, 0 = not */
    uint64_t before; /* the topic's seq before this one, 0: none; also of an empty slot */
};

/* Topics without events, and their last seqs. */
struct past {
    struct eb_topicset topics;
    struct eb_topic_node *oldest, *youngest;
    size_t bytes;
};

struct memory_engine {
    struct eb_engine engine;
    struct eb_engine_counters *counters;
    size_t limit; /* [I] */

    struct eb_lock lock; /* EB_RANK_STORE_STATE */
    struct slot *slots;  /* [lock], all below */
    size_t cap, first, count;
    uint64_t base;                         /* seq of the first slot; the next seq when empty */
    uint64_t bytes, events, acked, mortal; /* mortal: slots with a ttl */
    uint64_t deleted_upto, overflow_upto;
    struct eb_topicset topics;
    struct eb_deadlist dead;
    struct past past;
    uint64_t scan; /* where the search for expired and acknowledged ones goes on */

    /* The holder of the commit lock only. */
    uint64_t mark;  /* next seq at begin */
    uint64_t *acks; /* marked in this transaction */
    size_t ack_count, ack_cap;
};

static inline struct memory_engine *self(struct eb_engine *engine)
{
    return (struct memory_engine *)engine;
}

static inline struct slot *slot_of(struct memory_engine *m, uint64_t seq)
{
    return &m->slots[(m->first + (seq - m->base)) & (m->cap - 1)];
}

static inline uint64_t next_seq(const struct memory_engine *m)
{
    return m->base + m->count;
}

static inline bool holds(const struct memory_engine *m, uint64_t seq)
{
    return seq >= m->base && seq < next_seq(m);
}

static uint64_t used_bytes(const struct memory_engine *m)
{
    return m->bytes + m->count * sizeof(struct slot);
}

/* ---- the ring, lock held ---- */

static int grow_locked(struct memory_engine *m)
{
    size_t cap = m->cap ? m->cap * 2 : START_SLOTS;
    struct slot *slots = malloc(cap * sizeof *slots);
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

static void past_drop_locked(struct past *past, struct eb_topic_node *node)
{
    past->bytes -= node_bytes(node);
    *(node->older ? &node->older->younger : &past->oldest) = node->younger;
    *(node->younger ? &node->younger->older : &past->youngest) = node->older;
    eb_topicset_drop(&past->topics, node);
}

/* The last seq of a topic that gets an event again; it is remembered with that from now on. */
static uint64_t past_take_locked(struct past *past, const struct eb_topic_node *topic)
{
    struct eb_topic_node *node = eb_topicset_find(&past->topics, topic->name, topic->len);
    uint64_t last = node ? node->last : 0;
    if (node)
        past_drop_locked(past, node);
    return last;
}

static void past_add_locked(struct memory_engine *m, const struct eb_topic_node *topic)
{
    struct past *past = &m->past;
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

static void empty_slot_locked(struct memory_engine *m, struct slot *slot)
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
    *slot = (struct slot){.before = slot->before};
}

static void pop_head_locked(struct memory_engine *m)
{
    empty_slot_locked(m, &m->slots[m->first]);
    m->first = (m->first + 1) & (m->cap - 1);
    m->base++;
    m->count--;
}

/* Empty slots do not stay at the head. */
static void skip_holes_locked(struct memory_engine *m)
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

static int push_locked(struct memory_engine *m, struct eb_event *event)
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
    struct slot *slot = &m->slots[(m->first + m->count) & (m->cap - 1)];
    *slot = (struct slot){
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
    struct memory_engine *m = self(engine);
    eb_lock_take(&m->lock);
    m->mark = next_seq(m);
    eb_deadlist_begin(&m->dead);
    eb_lock_drop(&m->lock);
    m->ack_count = 0;
    return 0;
}

static int memory_append(struct eb_engine *engine, struct eb_event *const *events, size_t count)
{
    struct memory_engine *m = self(engine);
    int rc = 0;
    eb_lock_take(&m->lock);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = push_locked(m, events[i]);
    eb_lock_drop(&m->lock);
    return rc;
}

static int memory_ack(struct eb_engine *engine, uint64_t seq, int64_t now_ms)
{
    struct memory_engine *m = self(engine);
    if (m->ack_count == m->ack_cap) {
        size_t cap = m->ack_cap ? m->ack_cap * 2 : 64;
        uint64_t *acks = realloc(m->acks, cap * sizeof *acks);
        if (!acks)
            return -ENOMEM;
        m->acks = acks;
        m->ack_cap = cap;
    }
    eb_lock_take(&m->lock);
    struct slot *slot = holds(m, seq) ? slot_of(m, seq) : NULL;
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
    struct memory_engine *m = self(engine);
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
    struct memory_engine *m = self(engine);
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
    struct memory_engine *m = self(engine);
    eb_lock_take(&m->lock);
    for (size_t i = 0; i < m->ack_count; i++) {
        if (holds(m, m->acks[i]) && slot_of(m, m->acks[i])->acked) {
            slot_of(m, m->acks[i])->acked = 0;
            m->acked--;
        }
    }
    while (m->count && next_seq(m) > m->mark) {
        struct slot *slot = slot_of(m, next_seq(m) - 1);
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
    struct memory_engine *m = self(engine);
    eb_lock_take(&m->lock);
    const struct eb_topic_node *node = eb_topicset_find(&m->topics, topic, len);
    if (!node)
        node = eb_topicset_find(&m->past.topics, topic, len);
    *ret = node ? node->last : 0;
    eb_lock_drop(&m->lock);
    return 0;
}

static int memory_lookup(struct eb_engine *engine, uint64_t seq, struct eb_event **ret)
{
    struct memory_engine *m = self(engine);
    eb_lock_take(&m->lock);
    struct eb_event *event = holds(m, seq) ? slot_of(m, seq)->event : NULL;
    if (event)
        *ret = eb_event_ref(event);
    eb_lock_drop(&m->lock);
    return event ? 0 : -ENOENT;
}

static int memory_load_ids(struct eb_engine *engine, int64_t since_ms, uint64_t max,
                           eb_engine_id_fn *fn, void *ctx)
{
    return 0; /* it always starts empty */
}

/* ---- deletion ---- */

static bool held(const struct eb_trim_request *request, uint64_t seq)
{
    return request->hold_from && seq >= request->hold_from;
}

static bool prefix_due_locked(const struct memory_engine *m, const struct eb_trim_request *request)
{
    const struct slot *head = &m->slots[m->first];
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
static bool scan_locked(struct memory_engine *m, const struct eb_trim_request *request,
                        unsigned rows, struct eb_trim_result *ret)
{
    uint64_t budget = (uint64_t)rows * SCAN_FACTOR;
    bool acks = request->acked_ms >= 0 && m->acked;
    if (!m->mortal && !acks)
        return false;
    if (m->scan < m->base)
        m->scan = m->base;
    for (; m->scan < next_seq(m) && budget; m->scan++, budget--) {
        struct slot *slot = slot_of(m, m->scan);
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
    if (m->scan < next_seq(m))
        return true;
    m->scan = 0;
    return false;
}

static int memory_trim(struct eb_engine *engine, const struct eb_trim_request *request,
                       struct eb_trim_result *ret)
{
    struct memory_engine *m = self(engine);
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

/* ---- reading ---- */

static int memory_reader_create(struct eb_engine *engine, void **ret)
{
    *ret = NULL;
    return 0;
}

static void memory_reader_destroy(struct eb_engine *engine, void *reader)
{
}

/* One stretch of the ring, copied under the lock. */
struct copy {
    struct eb_event *events[COPY_MAX]; /* a reference each */
    size_t count;
    uint64_t overflow_upto, deleted_upto; /* ends of what @from has missed; 0: nothing */
    uint64_t next;                        /* first seq not looked at */
    unsigned looked;
};

static void copy_stretch(struct memory_engine *m, const struct eb_page_request *request,
                         uint64_t from, struct copy *ret)
{
    int64_t now = eb_wall_ms();
    ret->count = ret->looked = 0;
    ret->overflow_upto = ret->deleted_upto = 0;
    eb_lock_take(&m->lock);
    if (from <= m->deleted_upto) {
        ret->overflow_upto = m->overflow_upto;
        ret->deleted_upto = m->deleted_upto;
    }
    uint64_t seq = from > m->base ? from : m->base;
    for (; seq <= request->upto && seq < next_seq(m) && ret->looked < COPY_MAX; seq++) {
        struct slot *slot = slot_of(m, seq);
        ret->looked++;
        if (slot->event && !(request->pending_only && slot->acked) &&
            !(slot->expires && slot->expires <= now))
            ret->events[ret->count++] = eb_event_ref(slot->event);
    }
    /* What is committed and not here was deleted alone: looked at. */
    ret->next = seq > request->upto ? request->upto + 1 : seq;
    eb_lock_drop(&m->lock);
}

/* (R4). Gaps end at @upto, so that a page never speaks of what it was not asked for. */
static int add_gaps(struct eb_page *page, const struct eb_page_request *request, uint64_t from,
                    const struct copy *copy)
{
    int rc = 0;
    uint64_t overflow = copy->overflow_upto < request->upto ? copy->overflow_upto : request->upto;
    uint64_t deleted = copy->deleted_upto < request->upto ? copy->deleted_upto : request->upto;
    /* A stream that takes what there is has missed nothing before its first event. */
    if (request->all_there_is && from == request->from)
        return 0;
    if (from <= overflow) {
        rc = eb_page_add_gap(page, from, overflow, EB_GAP_OVERFLOW);
        from = overflow + 1;
    }
    if (rc == 0 && from <= deleted)
        rc = eb_page_add_gap(page, from, deleted, EB_GAP_RETENTION);
    return rc;
}

/* Take what matches until the page is full. Returns how many were used up, or -ENOMEM. */
static int take_matching(struct copy *copy, struct eb_selection *selection,
                         const struct eb_page_request *request, struct eb_page *page,
                         size_t *events, size_t *bytes)
{
    size_t i;
    int rc = 0;
    for (i = 0; i < copy->count && rc == 0; i++) {
        struct eb_event *event = copy->events[i];
        size_t size = eb_event_size(event);
        if (!eb_selection_match(selection, event->topic, event->topic_len)) {
            eb_event_unref(event);
            continue;
        }
        if (*events && (*events >= request->max_events || *bytes + size > request->max_bytes)) {
            copy->next = event->seq;
            break;
        }
        ++*events;
        *bytes += size;
        rc = eb_page_add_event(page, event); /* takes the reference, also when it fails */
    }
    for (; i < copy->count; i++)
        eb_event_unref(copy->events[i]);
    return rc;
}

static int memory_page(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                       const struct eb_page_request *request, struct eb_page *ret)
{
    struct memory_engine *m = self(engine);
    struct copy copy;
    size_t events = 0, bytes = 0;
    uint64_t from = request->from;
    unsigned looked = 0;
    int rc = 0;
    while (from <= request->upto && looked < LOOK_MAX && rc == 0) {
        copy_stretch(m, request, from, &copy);
        looked += copy.looked ? copy.looked : 1;
        rc = add_gaps(ret, request, from, &copy);
        if (rc < 0)
            copy.count = 0;
        uint64_t whole = copy.next;
        if (rc == 0)
            rc = take_matching(&copy, selection, request, ret, &events, &bytes);
        from = copy.next;
        if (from != whole || (events && events >= request->max_events))
            break;
    }
    atomic_fetch_add_explicit(&m->counters->rows_read, looked, memory_order_relaxed);
    ret->next = from;
    return rc;
}

static int memory_event(struct eb_engine *engine, void *reader, uint64_t seq, struct eb_event **ret)
{
    struct eb_event *event;
    int rc = memory_lookup(engine, seq, &event);
    if (rc < 0)
        return rc;
    if (eb_event_expired(event, eb_wall_ms())) {
        eb_event_unref(event);
        return -ENOENT;
    }
    *ret = event;
    return 0;
}

static int memory_topics(struct eb_engine *engine, void *reader, const char *after,
                         struct eb_topic_info *out, size_t max)
{
    struct memory_engine *m = self(engine);
    size_t count = 0, len = after ? strlen(after) : 0;
    for (; count < max; count++) {
        eb_lock_take(&m->lock); /* for each one: a long list must not hold up the writer */
        const struct eb_topic_node *node = eb_topicset_next(&m->topics, after, len);
        if (node) {
            memcpy(out[count].name, node->name, (size_t)node->len + 1);
            out[count].len = node->len;
        }
        eb_lock_drop(&m->lock);
        if (!node)
            break;
        after = out[count].name;
        len = out[count].len;
    }
    return (int)count;
}

/* Timestamps never run backward, and holes have none: their neighbours above stand for them. */
static int memory_first_at(struct eb_engine *engine, void *reader, int64_t time_ms, uint64_t *ret)
{
    struct memory_engine *m = self(engine);
    *ret = UINT64_MAX;
    eb_lock_take(&m->lock);
    uint64_t low = m->base, high = next_seq(m);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2, seq = middle;
        while (seq < high && !slot_of(m, seq)->event)
            seq++;
        if (seq < high && slot_of(m, seq)->event->timestamp < time_ms) {
            low = seq + 1;
        } else {
            *ret = seq < high ? seq : *ret;
            high = middle;
        }
    }
    eb_lock_drop(&m->lock);
    return 0;
}

static int memory_count(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                        uint64_t from, uint64_t upto, uint64_t *ret)
{
    struct memory_engine *m = self(engine);
    struct eb_page_request request = {.from = from, .upto = upto, .all_there_is = true};
    struct copy copy;
    uint64_t count = 0;
    for (; from <= upto; from = copy.next) {
        copy_stretch(m, &request, from, &copy);
        for (size_t i = 0; i < copy.count; i++) {
            struct eb_event *event = copy.events[i];
            count += eb_selection_match(selection, event->topic, event->topic_len);
            eb_event_unref(event);
        }
        if (!copy.looked)
            break; /* the end of the ring */
    }
    *ret = count;
    return 0;
}

static ptrdiff_t memory_dead(struct eb_engine *engine, void *reader, uint64_t consumer,
                             uint64_t after, uint64_t *ret, size_t max)
{
    struct memory_engine *m = self(engine);
    eb_lock_take(&m->lock);
    size_t count = eb_deadlist_read(&m->dead, consumer, after, ret, max);
    eb_lock_drop(&m->lock);
    return (ptrdiff_t)count;
}

/* ---- last values ---- */

/* The topic's newest event that is there, not above @upto and not expired; NULL: none. Borrowed, lock held. */
static struct eb_event *newest_locked(struct memory_engine *m, const struct eb_topic_node *topic,
                                      uint64_t upto, int64_t now)
{
    for (uint64_t seq = topic->last; seq >= m->base && seq > 0; seq = slot_of(m, seq)->before) {
        const struct slot *slot = slot_of(m, seq);
        if (seq <= upto && slot->event && !(slot->expires && slot->expires <= now))
            return slot->event;
    }
    return NULL;
}

static int memory_last(struct eb_engine *engine, void *reader, const char *topic, size_t len,
                       uint64_t upto, struct eb_event **ret)
{
    struct memory_engine *m = self(engine);
    eb_lock_take(&m->lock);
    const struct eb_topic_node *node = eb_topicset_find(&m->topics, topic, len);
    struct eb_event *event = node ? newest_locked(m, node, upto, eb_wall_ms()) : NULL;
    if (event)
        *ret = eb_event_ref(event);
    eb_lock_drop(&m->lock);
    return event ? 0 : -ENOENT;
}

static int by_seq(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static int memory_last_seqs(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                            uint64_t upto, uint64_t **ret, size_t *ret_count)
{
    struct memory_engine *m = self(engine);
    char after[EB_TOPIC_MAX + 1];
    uint64_t *seqs = NULL;
    size_t count = 0, cap = 0, len = 0;
    int64_t now = eb_wall_ms();
    for (;;) {
        struct eb_event *event = NULL;
        eb_lock_take(&m->lock); /* for each one, as memory_topics does */
        const struct eb_topic_node *node = eb_topicset_next(&m->topics, len ? after : NULL, len);
        if (node) {
            len = node->len;
            memcpy(after, node->name, len);
        }
        if (node && eb_selection_match(selection, after, len))
            event = newest_locked(m, node, upto, now);
        uint64_t seq = event ? event->seq : 0;
        eb_lock_drop(&m->lock);
        if (!node)
            break;
        if (!seq)
            continue;
        if (count == cap) {
            cap = cap ? cap * 2 : 64;
            uint64_t *more = realloc(seqs, cap * sizeof *more);
            if (!more) {
                free(seqs);
                return -ENOMEM;
            }
            seqs = more;
        }
        seqs[count++] = seq;
    }
    if (count)
        qsort(seqs, count, sizeof *seqs, by_seq);
    *ret = seqs;
    *ret_count = count;
    return 0;
}

/* ---- the rest ---- */

static void memory_figures(struct eb_engine *engine, struct eb_engine_figures *ret)
{
    struct memory_engine *m = self(engine);
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
    struct memory_engine *m = self(engine);
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
    .lookup = memory_lookup,
    .load_ids = memory_load_ids,
    .reader_create = memory_reader_create,
    .reader_destroy = memory_reader_destroy,
    .page = memory_page,
    .event = memory_event,
    .topics = memory_topics,
    .last = memory_last,
    .last_seqs = memory_last_seqs,
    .first_at = memory_first_at,
    .count = memory_count,
    .dead = memory_dead,
    .figures = memory_figures,
    .trouble = memory_trouble,
};

int eb_engine_memory_open(const struct eb_store_config *config, struct eb_engine_counters *counters,
                          struct eb_engine **ret, struct eb_engine_start *ret_start,
                          struct eb_error *err)
{
    struct memory_engine *m = calloc(1, sizeof *m);
    uint8_t epoch[16];
    if (!m) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        return -ENOMEM;
    }
    m->engine.ops = &memory_ops;
    m->counters = counters;
    m->limit = config->memory_bytes;
    m->base = 1;
    eb_lock_init(&m->lock, EB_RANK_STORE_STATE);
    eb_uuid_v4(epoch);
    *ret_start = (struct eb_engine_start){.last_timestamp = 0};
    eb_uuid_format(ret_start->epoch, epoch);
    *ret = &m->engine;
    return 0;
}
