/*
 * read_memory.c - reading the ring of storage = memory: references are copied under its lock, what matches is chosen
 * outside (R1).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/memory_internal.h"
#include "common/clock.h"

#define COPY_MAX 128u  /* references copied under one hold of the lock */
#define LOOK_MAX 4096u /* slots looked at for one page */

int eb_memory_reader_create(struct eb_engine *engine, void **ret)
{
    *ret = NULL;
    return 0;
}

void eb_memory_reader_destroy(struct eb_engine *engine, void *reader)
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

static void copy_stretch(struct eb_memory *m, const struct eb_page_request *request, uint64_t from,
                         struct copy *ret)
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
    for (; seq <= request->upto && seq < eb_memory_next(m) && ret->looked < COPY_MAX; seq++) {
        struct eb_memory_slot *slot = eb_memory_slot(m, seq);
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

int eb_memory_page(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                   const struct eb_page_request *request, struct eb_page *ret)
{
    struct eb_memory *m = eb_memory_self(engine);
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

int eb_memory_event(struct eb_engine *engine, void *reader, uint64_t seq, struct eb_event **ret)
{
    struct eb_event *event;
    int rc = eb_memory_lookup(engine, seq, &event);
    if (rc < 0)
        return rc;
    if (eb_event_expired(event, eb_wall_ms())) {
        eb_event_unref(event);
        return -ENOENT;
    }
    *ret = event;
    return 0;
}

int eb_memory_topics(struct eb_engine *engine, void *reader, const char *after,
                     struct eb_topic_info *out, size_t max)
{
    struct eb_memory *m = eb_memory_self(engine);
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
int eb_memory_first_at(struct eb_engine *engine, void *reader, int64_t time_ms, uint64_t *ret)
{
    struct eb_memory *m = eb_memory_self(engine);
    *ret = UINT64_MAX;
    eb_lock_take(&m->lock);
    uint64_t low = m->base, high = eb_memory_next(m);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2, seq = middle;
        while (seq < high && !eb_memory_slot(m, seq)->event)
            seq++;
        if (seq < high && eb_memory_slot(m, seq)->event->timestamp < time_ms) {
            low = seq + 1;
        } else {
            *ret = seq < high ? seq : *ret;
            high = middle;
        }
    }
    eb_lock_drop(&m->lock);
    return 0;
}

int eb_memory_count(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                    uint64_t from, uint64_t upto, uint64_t *ret)
{
    struct eb_memory *m = eb_memory_self(engine);
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

ptrdiff_t eb_memory_dead(struct eb_engine *engine, void *reader, uint64_t consumer, uint64_t after,
                         uint64_t *ret, size_t max)
{
    struct eb_memory *m = eb_memory_self(engine);
    eb_lock_take(&m->lock);
    size_t count = eb_deadlist_read(&m->dead, consumer, after, ret, max);
    eb_lock_drop(&m->lock);
    return (ptrdiff_t)count;
}

/* ---- last values ---- */

/* The topic's newest event that is there, not above @upto and not expired; NULL: none. Borrowed, lock held. */
static struct eb_event *newest_locked(struct eb_memory *m, const struct eb_topic_node *topic,
                                      uint64_t upto, int64_t now)
{
    for (uint64_t seq = topic->last; seq >= m->base && seq > 0;
         seq = eb_memory_slot(m, seq)->before) {
        const struct eb_memory_slot *slot = eb_memory_slot(m, seq);
        if (seq <= upto && slot->event && !(slot->expires && slot->expires <= now))
            return slot->event;
    }
    return NULL;
}

int eb_memory_last(struct eb_engine *engine, void *reader, const char *topic, size_t len,
                   uint64_t upto, struct eb_event **ret)
{
    struct eb_memory *m = eb_memory_self(engine);
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

int eb_memory_last_seqs(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                        uint64_t upto, uint64_t **ret, size_t *ret_count)
{
    struct eb_memory *m = eb_memory_self(engine);
    char after[EB_TOPIC_MAX + 1];
    uint64_t *seqs = NULL;
    size_t count = 0, cap = 0, len = 0;
    int64_t now = eb_wall_ms();
    for (;;) {
        struct eb_event *event = NULL;
        eb_lock_take(&m->lock); /* for each one, as eb_memory_topics does */
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
