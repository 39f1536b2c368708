/*
 * dispatch.c - hand each committed event to every subscription that matches it.
 *
 *   store: commit -> ops in order --+-- segment: events up to a fence, or 256 --> visible, answers, pushes
 *                                   +-- fence: subscribe, unsubscribe …       --> at its place, between segments
 *
 * (D1) Committed before seen: this runs after the commit, in commit order, under the commit lock (B1).
 * (D2) `visible` is moved to a segment's end before anything of the segment is done (B3). So whoever has read
 *      up to it may join at once, and skips what is pushed here because its cursor is there already.
 * (D3) A publish is answered when its last event is visible, and before its events are pushed. The answers of a
 *      segment are collected by session and go out together (requests.c).
 * (D4) Matches are gathered with no lock held but the shard's own for the look-up, merged per session, and
 *      pushed with one take of its lock, in seq order, once per event however many subscriptions match.
 * (D5) Frames are made before the lock. Peeking at a stream's state without the lock only saves work: a stream
 *      that is found live under the lock though it did not look so gets its frames made then, in a second go.
 *      (It may have joined between our move of `visible` and the peek, at an end from before that move.)
 * (D6) What cannot be pushed for want of memory is read from the log: every live stream turns lagging there.
 * (D7) Wake-ups run with no lock held but the commit lock.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

#define PUSHES_MAX                                                                                 \
    65536 /* gathered at once: bounds the scratch memory of a segment with many receivers */

struct push {
    struct eb_sub *sub; /* held by the segment's match arrays */
    uint32_t event;
    uint32_t next;
};

struct slot { /* one session's frame for an event of the segment */
    struct eb_frame *frame;
    bool made;
};

struct eb_dispatch {                            /* [C] scratch, reused */
    struct eb_event *events[EB_SEGMENT_EVENTS]; /* one reference each */
    uint32_t count;
    struct eb_op *done;
    struct eb_op **done_end;
    struct eb_match *matches[2 * EB_SEGMENT_EVENTS];
    uint32_t match_count;
    struct push *pushes;
    uint32_t push_count, push_cap;
    struct eb_session *touched;
    struct slot slots[EB_SEGMENT_EVENTS];
    int64_t now_ms;
};

int eb_dispatch_create(struct eb_dispatch **ret)
{
    struct eb_dispatch *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return -ENOMEM;
    d->done_end = &d->done;
    *ret = d;
    return 0;
}

void eb_dispatch_destroy(struct eb_dispatch *d)
{
    if (d == NULL)
        return;
    free(d->pushes);
    free(d);
}

/* ---- one session ---- */

static void make_frames(struct eb_dispatch *d, struct eb_session *session, bool all)
{
    if (!all && atomic_load_explicit(&session->lagging, memory_order_relaxed))
        return;
    for (uint32_t i = session->push_head; i != EB_NO_PUSH; i = d->pushes[i].next) {
        struct push *push = &d->pushes[i];
        struct slot *slot = &d->slots[push->event];
        if (slot->made || (!all && eb_sub_state(push->sub) != EB_SUB_LIVE))
            continue;
        if (eb_session_closed(session))
            return;
        slot->frame = session->ops->event(session, d->events[push->event], NULL);
        slot->made = true;
    }
}

enum pushed { PUSHED_NONE, PUSHED, PUSH_NEEDS_FRAMES };

/* D4. Goes on from *at; PUSH_NEEDS_FRAMES leaves *at where a frame is missing (D5). */
static enum pushed push_locked(struct eb_dispatch *d, struct eb_session *session, uint32_t *at)
{
    enum pushed result = PUSHED_NONE;
    for (uint32_t i = *at; i != EB_NO_PUSH; *at = i = d->pushes[i].next) {
        struct push *push = &d->pushes[i];
        struct eb_event *event = d->events[push->event];
        struct slot *slot = &d->slots[push->event];
        if (session->closed || session->lagging)
            return result;
        if (event->seq <= session->shared.cursor || eb_sub_state(push->sub) != EB_SUB_LIVE ||
            push->sub->floor >= event->seq)
            continue;
        if (event->ttl > 0 && eb_event_expired(event, d->now_ms))
            continue;
        if (!slot->made)
            return PUSH_NEEDS_FRAMES;
        if (slot->frame == NULL)
            continue;
        if (!eb_queue_fits_locked(session, eb_frame_weight(slot->frame), EB_FIT_LIVE) ||
            eb_queue_push_locked(session, slot->frame, event->seq) < 0) {
            eb_session_lag_locked(session, event->seq - 1);
            return result;
        }
        eb_frame_ref(slot->frame); /* the queue's; the slot keeps its own */
        session->shared.cursor = event->seq;
        result = PUSHED;
    }
    return result;
}

static void push_session(struct eb_dispatch *d, struct eb_session *session)
{
    uint32_t at = session->push_head;
    bool wake = false;
    for (bool all = false;; all = true) {
        make_frames(d, session, all);
        eb_lock_take(&session->lock);
        enum pushed pushed = push_locked(d, session, &at);
        eb_lock_drop(&session->lock);
        wake = wake || pushed == PUSHED;
        if (pushed != PUSH_NEEDS_FRAMES)
            break;
        wake = true; /* it may have pushed before it found one missing */
        if (eb_session_closed(session))
            break;
    }
    for (uint32_t i = session->push_head; i != EB_NO_PUSH; i = d->pushes[i].next) {
        struct slot *slot = &d->slots[d->pushes[i].event];
        eb_frame_unref(slot->frame);
        *slot = (struct slot){0};
    }
    session->push_head = session->push_tail = EB_NO_PUSH;
    if (wake && !eb_session_closed(session))
        eb_session_wake(session);
}

/* ---- one segment ---- */

/* Push what was gathered. The subscriptions hold their sessions until the match arrays go. */
static void push_gathered(struct eb_dispatch *d)
{
    for (struct eb_session *next, *session = d->touched; session != NULL; session = next) {
        next = session->touched;
        session->touched = NULL;
        push_session(d, session);
    }
    d->touched = NULL;
    d->push_count = 0;
    for (uint32_t i = 0; i < d->match_count; i++)
        eb_match_unref(d->matches[i]);
    d->match_count = 0;
}

static int gather(struct eb_dispatch *d, struct eb_match *match, uint32_t event)
{
    if (d->push_count + match->count > d->push_cap) {
        uint32_t cap = d->push_cap != 0 ? d->push_cap : 1024;
        while (cap < d->push_count + match->count)
            cap *= 2;
        struct push *pushes = realloc(d->pushes, cap * sizeof(*pushes));
        if (pushes == NULL)
            return -ENOMEM;
        d->pushes = pushes;
        d->push_cap = cap;
    }
    for (uint32_t i = 0; i < match->count; i++) {
        struct eb_sub *sub = match->subs[i];
        struct eb_session *session = sub->session;
        uint32_t index = d->push_count;
        if (eb_sub_state(sub) == EB_SUB_NEW || eb_session_closed(session))
            continue;
        d->pushes[index] = (struct push){sub, event, EB_NO_PUSH};
        d->push_count++;
        if (session->push_head == EB_NO_PUSH) {
            session->push_head = index;
            session->touched = d->touched;
            d->touched = session;
        } else {
            d->pushes[session->push_tail].next = index;
        }
        session->push_tail = index;
    }
    return 0;
}

/* D6 */
static void lag_all(struct eb_bus *bus, uint64_t cursor)
{
    struct eb_session *session = NULL;
    while ((session = eb_bus_next_session(bus, session, 0)) != NULL) {
        eb_lock_take(&session->lock);
        if (session->live > 0 && session->shared.cursor <= cursor)
            eb_session_lag_locked(session, cursor);
        eb_lock_drop(&session->lock);
    }
}

static void gather_event(struct eb_bus *bus, struct eb_dispatch *d, uint32_t index)
{
    struct eb_event *event = d->events[index];
    for (int wild = 0; wild < 2; wild++) {
        struct eb_match *match = NULL;
        int rc = eb_table_match(bus->table, wild, event->topic, event->topic_len, &match);
        if (rc == 0 && match == NULL)
            continue;
        if (rc == 0) {
            if (d->push_count + match->count > PUSHES_MAX && d->push_count > 0)
                push_gathered(d);
            d->matches[d->match_count++] = match;
            rc = gather(d, match, index);
        }
        if (rc < 0) {
            push_gathered(d);
            lag_all(bus, event->seq - 1);
        }
    }
}

static void flush_segment(struct eb_bus *bus, struct eb_dispatch *d)
{
    if (d->count > 0)
        atomic_store_explicit(&bus->visible, d->events[d->count - 1]->seq, memory_order_release);
    struct eb_op *done = d->done;
    d->done = NULL;
    d->done_end = &d->done;
    for (struct eb_op *next; done != NULL; done = next) {
        next = done->next;
        done->next = NULL;
        done->done(done); /* may free it */
    }
    eb_bus_settle(bus);
    if (d->count == 0)
        return;
    d->now_ms = eb_wall_ms();
    for (uint32_t i = 0; i < d->count; i++)
        gather_event(bus, d, i);
    push_gathered(d);
    for (uint32_t i = 0; i < d->count; i++)
        eb_event_unref(d->events[i]);
    d->count = 0;
}

static void take_publish(struct eb_bus *bus, struct eb_dispatch *d, struct eb_op *op)
{
    for (uint32_t i = 0; op->err.code == EB_OK && i < op->count; i++) {
        if (op->results[i].duplicate)
            continue;
        if (d->count == EB_SEGMENT_EVENTS)
            flush_segment(bus, d);
        d->events[d->count++] = eb_event_ref(op->events[i]);
    }
}

void eb_dispatch_committed(void *ctx, struct eb_op *ops)
{
    struct eb_bus *bus = ctx;
    struct eb_dispatch *d = bus->dispatch;

    for (struct eb_op *next, *op = ops; op != NULL; op = next) {
        next = op->next;
        op->next = NULL;
        if (op->kind == EB_OP_FENCE) {
            flush_segment(bus, d);
            op->done(op);
            eb_bus_settle(bus);
            continue;
        }
        if (op->kind == EB_OP_PUBLISH)
            take_publish(bus, d, op);
        *d->done_end = op;
        d->done_end = &op->next;
    }
    flush_segment(bus, d);
}
