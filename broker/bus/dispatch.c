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
 * (D4) Matches are gathered with no lock held but the shard's own for the look-up. Events of the segment with the
 *      same answers of the table are one group, so sessions and subscriptions are gone through once a group. What a
 *      session wants is the union of its groups (a set of bits), and is pushed with one take of its lock, in seq
 *      order, once per event however many subscriptions match.
 * (D5) Frames are made before the lock. Peeking at a stream's state without the lock only saves work: a stream
 *      that is found live under the lock though it did not look so gets its frames made then, in a second go.
 *      (It may have joined between our move of `visible` and the peek, at an end from before that move.)
 * (D6) What cannot be pushed for want of memory is read from the log: every live stream turns lagging there.
 * (D7) Wake-ups run with no lock held but the commit lock.
 * (D8) Sessions that want the same events are given the same bundles (bundle.c). A bundle is pushed whole or not at
 *      all, and only to a session for which it cannot matter which event is looked at: all its subscriptions in
 *      question live from before the first event. For the others, and for what does not fit, it goes event by event.
 * (D9) While nobody subscribes to anything an event is not looked at: a segment that begins with the table empty is quiet
 *      to its end, since who subscribes does it between two segments. Else what was heard of its topic before may do
 *      (known.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

#define PUSHES_MAX                                                                                 \
    65536 /* gathered at once: bounds the scratch memory of a segment with many receivers */

#define SET_WORDS (EB_SEGMENT_EVENTS / 64)
#define PLANS     16

struct push {
    struct eb_sub *sub; /* held by its group's match arrays */
    uint32_t group;
    uint32_t next; /* of the same session; those of one group follow each other */
};

/* Events that the table gave the same answers for. */
struct group {
    struct eb_match *match[2]; /* one reference each, or NULL */
    uint64_t set[SET_WORDS];   /* which events */
    uint32_t first;            /* for the session at hand: its first push of this group */
};

struct slot { /* one session's frame for an event of the segment */
    struct eb_frame *frame;
    bool made;
};

struct bundle {
    struct eb_frame *frame; /* one reference */
    uint64_t first, last;   /* seqs */
};

/* The bundles of one set of events, for all sessions alike. */
struct plan {
    const struct eb_session_ops *ops; /* NULL: free */
    bool legacy;
    uint64_t set[SET_WORDS];
    uint32_t count;
    struct bundle bundles[EB_SEGMENT_EVENTS];
};

struct eb_dispatch { /* [C] scratch, reused */
    struct eb_event
        *events[EB_SEGMENT_EVENTS]; /* one reference each; none of a quiet segment (D9) */
    uint32_t count;
    uint32_t quiet; /* events of a quiet segment */
    uint64_t last;  /* seq, of the segment's last event */
    struct eb_known *known;
    struct eb_op *done;
    struct eb_op **done_end;
    struct group groups[EB_SEGMENT_EVENTS];
    uint32_t group_count;
    uint16_t group_of[EB_SEGMENT_EVENTS];
    uint16_t places[2 * EB_SEGMENT_EVENTS]; /* groups by hash of their answers, 1 + index */
    struct push *pushes;
    uint32_t push_count, push_cap;
    struct eb_session *touched;
    struct slot slots[EB_SEGMENT_EVENTS];
    struct plan plans[PLANS];
    uint32_t plans_made;
    int64_t now_ms;
};

int eb_dispatch_create(struct eb_dispatch **ret)
{
    struct eb_dispatch *d = calloc(1, sizeof(*d));
    if (d == NULL || eb_known_create(&d->known) < 0) {
        free(d);
        return -ENOMEM;
    }
    d->done_end = &d->done;
    *ret = d;
    return 0;
}

void eb_dispatch_destroy(struct eb_dispatch *d)
{
    if (d == NULL)
        return;
    eb_known_destroy(d->known);
    free(d->pushes);
    free(d);
}

/* ---- sets of events ---- */

/* The lowest event of @set that is not below @from, or EB_SEGMENT_EVENTS. */
static uint32_t set_next(const uint64_t set[SET_WORDS], uint32_t from)
{
    for (uint32_t word = from / 64; word < SET_WORDS; word++) {
        uint64_t bits = set[word];
        if (word == from / 64)
            bits &= UINT64_MAX << (from % 64);
        if (bits != 0)
            return word * 64 + (uint32_t)__builtin_ctzll(bits);
    }
    return EB_SEGMENT_EVENTS;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    return (hash ^ word ^ hash >> 29) * 0x9e3779b97f4a7c15u;
}

/* ---- bundles (D8) ---- */

static void plan_drop(struct plan *plan)
{
    for (uint32_t i = 0; i < plan->count; i++)
        eb_frame_unref(plan->bundles[i].frame);
    plan->count = 0;
    plan->ops = NULL;
}

/* False: out of memory, or the session ends. */
static bool plan_fill(struct eb_dispatch *d, struct eb_session *session, struct plan *plan)
{
    struct eb_bundle_bounds bounds = eb_bundle_bounds(session);
    struct eb_event *events[EB_SEGMENT_EVENTS];
    uint32_t count = 0, taken;
    for (uint32_t i = set_next(plan->set, 0); i < d->count; i = set_next(plan->set, i + 1))
        events[count++] = d->events[i];
    /* From the second set on events are likely to stand in several: each is encoded once, for all to copy. */
    for (uint32_t i = 0; d->plans_made > 0 && i < count && !eb_session_closed(session); i++)
        eb_frame_unref(session->ops->event(session, events[i], NULL));
    d->plans_made++;
    for (uint32_t done = 0; done < count; done += taken) {
        if (eb_session_closed(session))
            return false;
        struct eb_frame *frame =
            eb_bundle_make(session, events + done, count - done, NULL, &bounds, &taken);
        if (frame == NULL)
            return false;
        plan->bundles[plan->count++] =
            (struct bundle){frame, events[done]->seq, events[done + taken - 1]->seq};
    }
    return true;
}

/* The bundles of @set for @session, NULL when there are none. */
static const struct plan *plan_get(struct eb_dispatch *d, struct eb_session *session,
                                   const uint64_t set[SET_WORDS])
{
    bool legacy = eb_session_legacy(session);
    uint64_t hash = (uintptr_t)session->ops + legacy;
    for (uint32_t i = 0; i < SET_WORDS; i++)
        hash = mix(hash, set[i]);
    struct plan *plan = &d->plans[hash >> 32 & (PLANS - 1)];
    if (plan->ops == session->ops && plan->legacy == legacy &&
        memcmp(plan->set, set, sizeof(plan->set)) == 0)
        return plan;
    plan_drop(plan);
    memcpy(plan->set, set, sizeof(plan->set));
    plan->legacy = legacy;
    if (!plan_fill(d, session, plan)) {
        plan_drop(plan);
        return NULL;
    }
    plan->ops = session->ops;
    return plan;
}

/* May the session be given bundles that begin with @first? */
static bool may_bundle_locked(const struct eb_dispatch *d, const struct eb_session *session,
                              uint64_t first)
{
    if (session->shared.cursor >= first)
        return false;
    for (uint32_t i = session->push_head; i != EB_NO_PUSH; i = d->pushes[i].next) {
        struct eb_sub *sub = d->pushes[i].sub;
        if (eb_sub_state(sub) != EB_SUB_LIVE || sub->floor >= first)
            return false;
    }
    return true;
}

/* True: nothing is left to be done for this session. */
static bool push_plan_locked(struct eb_dispatch *d, struct eb_session *session,
                             const struct plan *plan, bool *ret_pushed)
{
    if (session->closed || session->lagging)
        return true;
    if (!may_bundle_locked(d, session, plan->bundles[0].first))
        return false;
    for (uint32_t i = 0; i < plan->count; i++) {
        struct eb_frame *frame = plan->bundles[i].frame;
        if (!eb_queue_fits_locked(session, eb_frame_events(frame), eb_frame_weight(frame),
                                  EB_FIT_LIVE) ||
            eb_queue_push_locked(session, frame, plan->bundles[i].first) < 0)
            return false;
        eb_frame_ref(frame); /* the queue's; the plan keeps its own */
        session->shared.cursor = plan->bundles[i].last;
        *ret_pushed = true;
    }
    return true;
}

/* ---- one session, event by event ---- */

/* What one session wants of the segment. */
struct wanted {
    struct eb_session *session;
    uint64_t set[SET_WORDS];
    uint32_t at; /* the event to go on with */
    bool live;   /* all its subscriptions looked live */
};

/* Does one of its subscriptions want @event, as far as their states say? With @locked they are read under the lock. */
static bool wants(const struct eb_dispatch *d, uint32_t event, bool locked)
{
    uint32_t group = d->group_of[event];
    for (uint32_t i = d->groups[group].first; i != EB_NO_PUSH && d->pushes[i].group == group;
         i = d->pushes[i].next) {
        struct eb_sub *sub = d->pushes[i].sub;
        if (eb_sub_state(sub) == EB_SUB_LIVE && (!locked || sub->floor < d->events[event]->seq))
            return true;
    }
    return false;
}

static void make_frames(struct eb_dispatch *d, const struct wanted *w, bool all)
{
    struct eb_session *session = w->session;
    if (!all && atomic_load_explicit(&session->lagging, memory_order_relaxed))
        return;
    for (uint32_t i = set_next(w->set, w->at); i < d->count; i = set_next(w->set, i + 1)) {
        struct slot *slot = &d->slots[i];
        if (slot->made || (!all && !wants(d, i, false)))
            continue;
        if (eb_session_closed(session))
            return;
        slot->frame = session->ops->event(session, d->events[i], NULL);
        slot->made = true;
    }
}

enum pushed { PUSHED_ALL, PUSH_NEEDS_FRAMES };

/* D4. Goes on from w->at; PUSH_NEEDS_FRAMES leaves it where a frame is missing (D5). */
static enum pushed push_locked(struct eb_dispatch *d, struct wanted *w, bool *ret_pushed)
{
    struct eb_session *session = w->session;
    for (w->at = set_next(w->set, w->at); w->at < d->count; w->at = set_next(w->set, w->at + 1)) {
        uint64_t seq = d->events[w->at]->seq;
        struct slot *slot = &d->slots[w->at];
        if (session->closed || session->lagging)
            return PUSHED_ALL;
        if (seq <= session->shared.cursor || !wants(d, w->at, true))
            continue;
        if (!slot->made)
            return PUSH_NEEDS_FRAMES;
        if (slot->frame == NULL)
            continue;
        if (!eb_queue_fits_locked(session, 1, eb_frame_weight(slot->frame), EB_FIT_LIVE) ||
            eb_queue_push_locked(session, slot->frame, seq) < 0) {
            eb_session_lag_locked(session, seq - 1);
            return PUSHED_ALL;
        }
        eb_frame_ref(slot->frame); /* the queue's; the slot keeps its own */
        session->shared.cursor = seq;
        *ret_pushed = true;
    }
    return PUSHED_ALL;
}

/* Returns whether something entered the queue. */
static bool push_singly(struct eb_dispatch *d, struct wanted *w)
{
    enum pushed result;
    bool pushed = false, all = false;
    do {
        make_frames(d, w, all);
        eb_lock_take(&w->session->lock);
        result = push_locked(d, w, &pushed);
        eb_lock_drop(&w->session->lock);
        all = true;
    } while (result == PUSH_NEEDS_FRAMES && !eb_session_closed(w->session));
    for (uint32_t i = set_next(w->set, 0); i < d->count; i = set_next(w->set, i + 1)) {
        eb_frame_unref(d->slots[i].frame);
        d->slots[i] = (struct slot){0};
    }
    return pushed;
}

/* ---- one session ---- */

/* The union of its groups; each group's `first` is set for this session. Returns how many events it has. */
static uint32_t want(struct eb_dispatch *d, struct wanted *w)
{
    uint32_t last = UINT32_MAX, count = 0;
    for (uint32_t i = w->session->push_head; i != EB_NO_PUSH; i = d->pushes[i].next) {
        struct group *group = &d->groups[d->pushes[i].group];
        w->live = w->live && eb_sub_state(d->pushes[i].sub) == EB_SUB_LIVE;
        if (d->pushes[i].group == last)
            continue;
        last = d->pushes[i].group;
        group->first = i;
        for (uint32_t word = 0; word < SET_WORDS; word++)
            w->set[word] |= group->set[word];
    }
    for (uint32_t word = 0; word < SET_WORDS; word++)
        count += (uint32_t)__builtin_popcountll(w->set[word]);
    return count;
}

static void push_session(struct eb_dispatch *d, struct eb_session *session)
{
    struct wanted w = {.session = session, .live = true};
    const struct plan *plan = NULL;
    bool pushed = false, done = false;

    if (want(d, &w) > 1 && w.live && eb_bundle_bounds(session).events > 1 &&
        !atomic_load_explicit(&session->lagging, memory_order_relaxed))
        plan = plan_get(d, session, w.set);
    if (plan != NULL) {
        eb_lock_take(&session->lock);
        done = push_plan_locked(d, session, plan, &pushed);
        eb_lock_drop(&session->lock);
    }
    if (!done && push_singly(d, &w))
        pushed = true;
    session->push_head = session->push_tail = EB_NO_PUSH;
    if (pushed && !eb_session_closed(session))
        eb_session_wake(session);
}

/* ---- one segment ---- */

static struct group *group_find(struct eb_dispatch *d, struct eb_match *const match[2],
                                uint32_t *ret_place)
{
    uint32_t mask = sizeof(d->places) / sizeof(d->places[0]) - 1;
    uint64_t hash = mix(mix(0, (uintptr_t)match[0]), (uintptr_t)match[1]);
    uint32_t place = (uint32_t)(hash >> 32) & mask;
    for (; d->places[place] != 0; place = (place + 1) & mask) {
        struct group *group = &d->groups[d->places[place] - 1];
        if (group->match[0] == match[0] && group->match[1] == match[1])
            return group;
    }
    *ret_place = place;
    return NULL;
}

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
    for (uint32_t i = 0; d->plans_made > 0 && i < PLANS; i++)
        plan_drop(&d->plans[i]);
    d->plans_made = 0;
    for (uint32_t i = 0; i < d->group_count; i++) {
        eb_match_unref(d->groups[i].match[0]);
        eb_match_unref(d->groups[i].match[1]);
    }
    if (d->group_count > 0)
        memset(d->places, 0, sizeof(d->places));
    d->group_count = 0;
    eb_known_next_round(d->known);
}

static bool pushes_reserve(struct eb_dispatch *d, uint32_t more)
{
    if (d->push_count + more <= d->push_cap)
        return true;
    uint32_t cap = d->push_cap != 0 ? d->push_cap : 1024;
    while (cap < d->push_count + more)
        cap *= 2;
    struct push *pushes = realloc(d->pushes, cap * sizeof(*pushes));
    if (pushes == NULL)
        return false;
    d->pushes = pushes;
    d->push_cap = cap;
    return true;
}

/* A group's subscriptions, by session. Room was reserved. */
static void gather(struct eb_dispatch *d, const struct eb_match *match, uint32_t group)
{
    for (uint32_t i = 0; match != NULL && i < match->count; i++) {
        struct eb_sub *sub = match->subs[i];
        struct eb_session *session = sub->session;
        uint32_t index = d->push_count;
        if (eb_sub_state(sub) == EB_SUB_NEW || eb_session_closed(session))
            continue;
        d->pushes[index] = (struct push){sub, group, EB_NO_PUSH};
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

static uint32_t match_count(const struct eb_match *match)
{
    return match != NULL ? match->count : 0;
}

static void join(struct eb_dispatch *d, struct group *group, uint32_t index)
{
    group->set[index / 64] |= (uint64_t)1 << (index % 64);
    d->group_of[index] = (uint16_t)(group - d->groups);
}

/* Put the event into the group of its answers, a new one if need be. Takes over their references. False: no memory. */
static bool group_event(struct eb_dispatch *d, uint64_t added, struct eb_match *match[2],
                        uint32_t index)
{
    uint32_t count = match_count(match[0]) + match_count(match[1]), place = 0;
    struct group *group = group_find(d, match, &place);
    if (group == NULL) {
        if (d->push_count + count > PUSHES_MAX && d->push_count > 0) {
            push_gathered(d);
            group_find(d, match, &place);
        }
        if (!pushes_reserve(d, count))
            return false;
        group = &d->groups[d->group_count++];
        *group = (struct group){.match = {match[0], match[1]}};
        d->places[place] = (uint16_t)d->group_count;
        gather(d, match[0], d->group_count - 1);
        gather(d, match[1], d->group_count - 1);
    } else {
        eb_match_unref(match[0]);
        eb_match_unref(match[1]);
    }
    eb_known_put(d->known, added, d->events[index]->topic, d->events[index]->topic_len,
                 (int)(group - d->groups));
    join(d, group, index);
    return true;
}

/* Ask the table. */
static void match_event(struct eb_bus *bus, struct eb_dispatch *d, uint32_t index)
{
    struct eb_event *event = d->events[index];
    uint64_t added = eb_table_added(bus->table);
    struct eb_match *match[2] = {NULL, NULL};
    int rc = 0;
    for (int wild = 0; wild < 2 && rc == 0; wild++)
        rc = eb_table_match(bus->table, wild, event->topic, event->topic_len, &match[wild]);
    if (rc == 0 && match[0] == NULL && match[1] == NULL) {
        eb_known_put(d->known, added, event->topic, event->topic_len, EB_KNOWN_NOBODY);
        return;
    }
    if (rc == 0 && group_event(d, added, match, index))
        return;
    push_gathered(d);
    eb_match_unref(match[0]);
    eb_match_unref(match[1]);
    lag_all(bus, event->seq - 1);
}

static void gather_events(struct eb_bus *bus, struct eb_dispatch *d)
{
    uint64_t added = eb_table_added(bus->table), hits = 0;
    for (uint32_t i = 0; i < d->count; i++) {
        struct eb_event *event = d->events[i];
        if (event->ttl > 0 && eb_event_expired(event, d->now_ms))
            continue;
        int group = eb_known_find(d->known, added, event->topic, event->topic_len);
        if (group == EB_KNOWN_NOT) {
            match_event(bus, d, i);
            continue;
        }
        hits++;
        if (group >= 0)
            join(d, &d->groups[group], i);
    }
    eb_count(bus->counters.match_hits, hits);
}

/* Who has just begun to lag, or is nearly through, finds in memory what was announced now (shared.c). */
static void share_segment(struct eb_bus *bus, struct eb_dispatch *d)
{
    if (atomic_load_explicit(&bus->counters.lagging, memory_order_relaxed) == 0)
        eb_bus_share_rest(bus);
    else if (d->count > 0 && !eb_store_in_memory(bus->store) &&
             eb_shared_near(bus->shared, d->last))
        eb_shared_add(bus->shared, eb_store_deletions(bus->store), d->events[0]->seq, d->last + 1,
                      d->events, d->count);
}

/* D3 */
static void answer(struct eb_bus *bus, struct eb_dispatch *d)
{
    struct eb_op *done = d->done;
    d->done = NULL;
    d->done_end = &d->done;
    for (struct eb_op *next; done != NULL; done = next) {
        next = done->next;
        done->next = NULL;
        done->done(done); /* may free it */
    }
    eb_bus_settle(bus);
}

static void flush_segment(struct eb_bus *bus, struct eb_dispatch *d)
{
    bool events = d->count > 0 || d->quiet > 0;
    if (events)
        atomic_store_explicit(&bus->visible, d->last, memory_order_release);
    answer(bus, d);
    if (!events)
        return;
    if (d->count > 0) {
        d->now_ms = eb_wall_ms();
        gather_events(bus, d);
        push_gathered(d);
    }
    atomic_store_explicit(&bus->dispatched, d->last, memory_order_release);
    share_segment(bus, d);
    for (uint32_t i = 0; i < d->count; i++)
        eb_event_unref(d->events[i]);
    d->count = d->quiet = 0;
}

static void take_publish(struct eb_bus *bus, struct eb_dispatch *d, struct eb_op *op)
{
    for (uint32_t i = 0; op->err.code == EB_OK && i < op->count; i++) {
        if (op->results[i].duplicate || op->results[i].scheduled)
            continue;
        if (d->count + d->quiet == EB_SEGMENT_EVENTS)
            flush_segment(bus, d);
        d->last = op->results[i].seq;
        if (d->quiet > 0 || (d->count == 0 && eb_table_empty(bus->table)))
            d->quiet++;
        else
            d->events[d->count++] = eb_event_ref(op->events[i]);
    }
}

/* What the commit has pushed out of the cache. */
static void fetch(const struct eb_op *op)
{
    const struct eb_op *ahead = eb_op_fetch(op);
    if (ahead != NULL && ahead->ahead != NULL) {
        __builtin_prefetch((const char *)ahead->ahead - EB_PUBLISH_FRONT);
        __builtin_prefetch((const char *)ahead->ahead - EB_PUBLISH_FRONT / 2);
    }
}

void eb_dispatch_committed(void *ctx, struct eb_op *ops)
{
    struct eb_bus *bus = ctx;
    struct eb_dispatch *d = bus->dispatch;

    for (struct eb_op *next, *op = ops; op != NULL; op = next) {
        next = op->next;
        fetch(op);
        op->next = NULL;
        if (op->kind == EB_OP_FENCE) {
            flush_segment(bus, d);
            op->done(op);
            eb_bus_settle(bus);
            continue;
        }
        if (op->kind == EB_OP_PUBLISH || op->kind == EB_OP_DUE)
            take_publish(bus, d, op);
        *d->done_end = op;
        d->done_end = &op->next;
    }
    flush_segment(bus, d);
}
