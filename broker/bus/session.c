/*
 * session.c - one connection's place on the bus: its outbound queue, and who moves its streams.
 *
 * Everything here is guarded by the session's own lock. The seam between the log and live delivery:
 *
 *   dispatcher                               reader (stream.c)
 *   visible = end of the segment  (B3)       page up to some `visible`
 *   lock: live? push what is above           lock: all handed over and `visible` still the same?
 *         the cursor; full? -> lagging             -> live, cursor = visible
 *
 * (Q1) Both decide under the lock. If the reader comes first, the dispatcher finds the stream live and pushes
 *      everything above its cursor; if the dispatcher comes first, it has moved `visible` before, so the reader
 *      sees that it is not at the end. No event falls between, none comes twice.
 * (Q2) Waiting room: an event or bundle fits when it keeps both bounds or when no event waits at all (a single
 *      event larger than the bound must pass; bundles are small beside the bounds, bundle.c). Answers and notices always fit; the net bounds them by not reading.
 * (Q3) What was taken still counts until it is sent, and its places in the ring stay free for putback.
 * (Q4) A stream is at most once in the pool. One that found no room is woken by eb_session_sent; there was an
 *      unsent event then, so that call will come.
 * (Q5) Frames are dropped and callbacks run after the lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"

#define RING_MIN    16
#define ANSWER_MIN  512
#define ANSWER_MORE 4096

/* ---- life ---- */

int eb_session_create(struct eb_bus *bus, const struct eb_session_ops *ops, void *user,
                      bool one_subscription, struct eb_session **ret)
{
    struct eb_session *session = calloc(1, sizeof(*session));
    if (session == NULL)
        return -ENOMEM;
    atomic_init(&session->refs, 1);
    session->bus = bus;
    session->ops = ops;
    session->user = user;
    session->one_subscription = one_subscription;
    session->shared.session = session;
    session->push_head = session->push_tail = EB_NO_PUSH;
    eb_block_session_init(session);
    eb_lock_init(&session->lock, EB_RANK_SESSION);
    eb_cond_init(&session->room);
    eb_bus_register(bus, session);
    *ret = session;
    return 0;
}

struct eb_session *eb_session_ref(struct eb_session *session)
{
    atomic_fetch_add_explicit(&session->refs, 1, memory_order_relaxed);
    return session;
}

bool eb_session_try_ref(struct eb_session *session)
{
    unsigned refs = atomic_load_explicit(&session->refs, memory_order_relaxed);
    while (refs != 0) {
        if (atomic_compare_exchange_weak_explicit(&session->refs, &refs, refs + 1,
                                                  memory_order_acquire, memory_order_relaxed))
            return true;
    }
    return false;
}

void eb_session_unref(struct eb_session *session)
{
    if (session == NULL || atomic_fetch_sub_explicit(&session->refs, 1, memory_order_acq_rel) != 1)
        return;
    struct eb_bus *bus = session->bus;
    eb_bus_unregister(bus, session);
    for (uint32_t i = 0; i < session->count; i++)
        eb_frame_unref(session->ring[(session->head + i) & (session->cap - 1)].frame);
    free(session->ring);
    eb_snapshot_free(session->snap);
    eb_frame_unref(session->answers);
    eb_session_rest(session);
    if (session->ops->destroy != NULL)
        session->ops->destroy(session);
    pthread_cond_destroy(&session->room);
    eb_lock_finish(&session->lock);
    free(session);
    eb_bus_unref(bus);
}

void *eb_session_user(struct eb_session *session)
{
    return session->user;
}

struct eb_bus *eb_session_bus(struct eb_session *session)
{
    return session->bus;
}

uint64_t eb_session_number(struct eb_session *session)
{
    return session->number;
}

void eb_session_set_legacy(struct eb_session *session)
{
    atomic_store(&session->legacy, true);
}

bool eb_session_legacy(struct eb_session *session)
{
    return atomic_load(&session->legacy);
}

void eb_session_set_feed(struct eb_session *session)
{
    session->feed = true;
    eb_count(session->bus->counters.sessions, -1);
}

bool eb_session_closed(struct eb_session *session)
{
    return atomic_load(&session->closed);
}

void eb_session_close(struct eb_session *session)
{
    eb_lock_take(&session->lock);
    if (session->closed) {
        eb_lock_drop(&session->lock);
        return;
    }
    atomic_store(&session->closed, true);
    struct eb_sub *subs = session->subs;
    session->subs = NULL;
    session->sub_count = 0;
    for (struct eb_sub *sub = subs; sub != NULL; sub = sub->next)
        eb_sub_move_locked(sub, EB_SUB_CLOSED);
    struct eb_snapshot *snap = session->snap;
    session->snap = NULL;
    struct eb_out *ring = session->ring;
    uint32_t head = session->head, count = session->count, cap = session->cap;
    session->ring = NULL;
    session->head = session->count = session->cap = session->flying = 0;
    session->events = 0;
    session->event_bytes = session->answer_bytes = 0;
    pthread_cond_broadcast(&session->room);
    eb_lock_drop(&session->lock);

    for (uint32_t i = 0; i < count; i++)
        eb_frame_unref(ring[(head + i) & (cap - 1)].frame);
    free(ring);
    eb_snapshot_free(snap);
    for (struct eb_sub *next, *sub = subs; sub != NULL; sub = next) {
        next = sub->next;
        eb_table_remove(session->bus->table, sub);
        eb_sub_unref(sub);
    }
    eb_bus_share_rest(session->bus);
}

/* ---- subscriptions' states ---- */

struct eb_sub *eb_sub_create(struct eb_session *session, const struct eb_pattern *patterns,
                             size_t count)
{
    struct eb_sub *sub = calloc(1, sizeof(*sub) + count * sizeof(sub->entries[0]));
    if (sub == NULL)
        return NULL;
    atomic_init(&sub->refs, 1);
    sub->session = eb_session_ref(session);
    sub->stream.session = session;
    sub->stream.sub = sub;
    sub->count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        sub->entries[i].sub = sub;
        sub->entries[i].pattern = patterns[i];
    }
    return sub;
}

struct eb_sub *eb_sub_ref(struct eb_sub *sub)
{
    atomic_fetch_add_explicit(&sub->refs, 1, memory_order_relaxed);
    return sub;
}

void eb_sub_unref(struct eb_sub *sub)
{
    if (sub == NULL || atomic_fetch_sub_explicit(&sub->refs, 1, memory_order_acq_rel) != 1)
        return;
    eb_selection_destroy(sub->selection);
    eb_ahead_destroy(sub->ahead);
    eb_last_finish(&sub->last);
    struct eb_session *session = sub->session;
    free(sub);
    eb_session_unref(session);
}

static void stop_waiting_locked(struct eb_stream *stream)
{
    if (stream->waits_room) {
        stream->waits_room = false;
        stream->session->waiting--;
    }
}

void eb_sub_move_locked(struct eb_sub *sub, enum eb_sub_state to)
{
    static const bool allowed[4][4] = {
        [EB_SUB_NEW] = {[EB_SUB_REPLAYING] = true, [EB_SUB_LIVE] = true, [EB_SUB_CLOSED] = true},
        [EB_SUB_REPLAYING] = {[EB_SUB_LIVE] = true, [EB_SUB_CLOSED] = true},
        [EB_SUB_LIVE] = {[EB_SUB_CLOSED] = true},
    };
    struct eb_session *session = sub->session;
    enum eb_sub_state from = eb_sub_state(sub);
    eb_lock_assert_held(&session->lock);
    if (!allowed[from][to])
        abort();
    if (from == EB_SUB_NEW && to != EB_SUB_CLOSED && !session->feed)
        eb_count(session->bus->counters.subscriptions, 1);
    if (from != EB_SUB_NEW && to == EB_SUB_CLOSED && !session->feed)
        eb_count(session->bus->counters.subscriptions, -1);
    if (from == EB_SUB_REPLAYING) {
        session->replaying--;
        eb_count(session->bus->counters.replaying, -1);
        stop_waiting_locked(&sub->stream);
    }
    if (to == EB_SUB_REPLAYING) {
        session->replaying++;
        eb_count(session->bus->counters.replaying, 1);
        eb_count(session->bus->counters.replays_total, !session->feed);
    }
    if (from == EB_SUB_LIVE || to == EB_SUB_LIVE) {
        session->gen++;
        session->live += to == EB_SUB_LIVE ? 1u : -1u;
    }
    atomic_store_explicit(&sub->state, (uint8_t)to, memory_order_relaxed);
    if (session->live == 0 && session->lagging) /* nobody is left to lag */
        eb_session_catch_up_locked(session, session->shared.cursor);
}

void eb_session_lag_locked(struct eb_session *session, uint64_t cursor)
{
    if (session->lagging || session->closed)
        return;
    session->lagging = true;
    if (session->shared.cursor < cursor)
        session->shared.cursor = cursor;
    eb_count(session->bus->counters.lagging, 1);
    eb_count(session->bus->counters.feeds_lagging, session->feed);
    eb_count(session->bus->counters.lagged_total, !session->feed);
    eb_shared_lags(session->bus->shared, session->shared.cursor);
    eb_stream_kick_locked(&session->shared);
}

void eb_session_catch_up_locked(struct eb_session *session, uint64_t cursor)
{
    if (!session->lagging)
        return;
    session->lagging = false;
    session->shared.cursor = cursor;
    stop_waiting_locked(&session->shared);
    eb_count(session->bus->counters.lagging, -1);
    eb_count(session->bus->counters.feeds_lagging, -(uint64_t)session->feed);
}

/* ---- the queue ---- */

size_t eb_frame_weight(const struct eb_frame *frame)
{
    return frame->event != NULL ? eb_event_size(frame->event) : frame->len;
}

void eb_queue_bounds(const struct eb_session *session, enum eb_fit fit, size_t *ret_events,
                     size_t *ret_bytes)
{
    size_t events = session->bus->config.queue_events, bytes = session->bus->config.queue_bytes;
    /* A replay leaves some room, lest every live event make the others lag. */
    *ret_events = fit == EB_FIT_REPLAY ? events - events / 4 : events;
    *ret_bytes = fit == EB_FIT_REPLAY ? bytes - bytes / 4 : bytes;
}

bool eb_queue_fits_locked(struct eb_session *session, uint32_t count, size_t weight,
                          enum eb_fit fit)
{
    size_t events, bytes;
    eb_queue_bounds(session, fit, &events, &bytes);
    if (session->events == 0)
        return true;
    return session->events < events && count <= events - session->events &&
           session->event_bytes < bytes && weight <= bytes - session->event_bytes;
}

bool eb_queue_has_room_locked(struct eb_session *session)
{
    const struct eb_bus_config *config = &session->bus->config;
    return session->events == 0 || (session->events <= config->queue_events / 2 &&
                                    session->event_bytes <= config->queue_bytes / 2);
}

static int ring_reserve_locked(struct eb_session *session)
{
    if (session->count + session->flying < session->cap)
        return 0;
    uint32_t cap = session->cap != 0 ? session->cap * 2 : RING_MIN;
    struct eb_out *ring = malloc(cap * sizeof(*ring));
    if (ring == NULL)
        return -ENOMEM;
    /* `flying` places stay free before the head, round the corner (Q3). */
    for (uint32_t i = 0; i < session->count; i++)
        ring[i] = session->ring[(session->head + i) & (session->cap - 1)];
    free(session->ring);
    session->ring = ring;
    session->head = 0;
    session->cap = cap;
    return 0;
}

int eb_queue_push_locked(struct eb_session *session, struct eb_frame *frame, uint64_t seq)
{
    eb_lock_assert_held(&session->lock);
    if (ring_reserve_locked(session) < 0)
        return -ENOMEM;
    session->ring[(session->head + session->count) & (session->cap - 1)] =
        (struct eb_out){frame, seq};
    session->count++;
    if (seq != 0) {
        session->events += eb_frame_events(frame);
        session->event_bytes += eb_frame_weight(frame);
    } else {
        session->answer_bytes += frame->len;
    }
    return 0;
}

/* Sent or dropped: no longer counted. */
static void uncount_locked(struct eb_session *session, const struct eb_out *item)
{
    if (item->seq != 0) {
        session->events -= eb_frame_events(item->frame);
        session->event_bytes -= eb_frame_weight(item->frame);
    } else {
        session->answer_bytes -= item->frame->len;
    }
}

void eb_session_wake(struct eb_session *session)
{
    if (session->ops->wake != NULL)
        session->ops->wake(session);
}

void eb_session_reply(struct eb_session *session, struct eb_frame *frame)
{
    int rc = 0;
    if (frame == NULL)
        return;
    eb_lock_take(&session->lock);
    bool closed = session->closed;
    if (!closed)
        rc = eb_queue_push_locked(session, frame, 0);
    eb_lock_drop(&session->lock);
    if (closed || rc < 0)
        eb_frame_unref(frame);
    if (rc < 0) { /* an answer is never dropped: the connection goes instead */
        eb_session_close(session);
        closed = false;
    }
    if (!closed)
        eb_session_wake(session);
}

/* The answer at the end of the queue, when it is only ours and has room for @len more. */
static struct eb_frame *open_answer_locked(struct eb_session *session, size_t len, size_t *ret_cap)
{
    *ret_cap = ANSWER_MIN;
    if (session->count == 0)
        return NULL;
    struct eb_out *tail = &session->ring[(session->head + session->count - 1) & (session->cap - 1)];
    if (tail->seq != 0 || tail->frame->event != NULL || atomic_load(&tail->frame->refs) != 1)
        return NULL;
    *ret_cap = ANSWER_MORE;
    return tail->frame->cap - tail->frame->len >= len ? tail->frame : NULL;
}

int eb_queue_answer_locked(struct eb_session *session, struct eb_frame *frame)
{
    size_t cap;
    struct eb_frame *tail =
        frame->len < ANSWER_MIN ? open_answer_locked(session, frame->len, &cap) : NULL;
    if (tail == NULL)
        return eb_queue_push_locked(session, frame, 0);
    memcpy(tail->data + tail->len, frame->data, frame->len);
    tail->len += frame->len;
    session->answer_bytes += frame->len;
    eb_frame_unref(frame);
    return 0;
}

void eb_session_reply_bytes(struct eb_session *session, const void *data, size_t len)
{
    size_t cap;
    if (len == 0)
        return;
    eb_lock_take(&session->lock);
    if (session->closed) {
        eb_lock_drop(&session->lock);
        return;
    }
    struct eb_frame *frame = open_answer_locked(session, len, &cap);
    if (frame != NULL) {
        memcpy(frame->data + frame->len, data, len);
        frame->len += (uint32_t)len;
        session->answer_bytes += len;
        eb_lock_drop(&session->lock);
        eb_session_wake(session);
        return;
    }
    frame = eb_frame_create(len > cap ? len : cap);
    bool failed = frame == NULL;
    if (!failed) {
        memcpy(frame->data, data, len);
        frame->len = (uint32_t)len;
        failed = eb_queue_push_locked(session, frame, 0) < 0;
    }
    eb_lock_drop(&session->lock);
    if (failed) {
        eb_frame_unref(frame);
        eb_session_close(session);
    }
    eb_session_wake(session);
}

size_t eb_session_take(struct eb_session *session, struct eb_out *items, size_t max,
                       size_t max_bytes)
{
    size_t count = 0, bytes = 0;
    eb_lock_take(&session->lock);
    while (count < max && session->count > 0) {
        struct eb_out *item = &session->ring[session->head];
        if (count > 0 && bytes + item->frame->len > max_bytes)
            break;
        bytes += item->frame->len;
        items[count++] = *item;
        session->head = (session->head + 1) & (session->cap - 1);
        session->count--;
        session->flying++;
    }
    eb_lock_drop(&session->lock);
    return count;
}

/* Streams that waited may go on. */
static void resume_locked(struct eb_session *session)
{
    if (session->waiting == 0 || session->closed || !eb_queue_has_room_locked(session))
        return;
    eb_stream_kick_locked(&session->shared);
    for (struct eb_sub *sub = session->subs; sub != NULL && session->waiting > 0; sub = sub->next)
        eb_stream_kick_locked(&sub->stream);
}

void eb_session_sent(struct eb_session *session, struct eb_out *items, size_t count)
{
    uint64_t events = 0;
    struct eb_out *ring = NULL;
    eb_lock_take(&session->lock);
    for (size_t i = 0; i < count; i++) {
        events += items[i].seq != 0 ? eb_frame_events(items[i].frame) : 0;
        if (!session->closed)
            uncount_locked(session, &items[i]);
    }
    session->delivered += events;
    if (!session->closed) {
        session->flying -= (uint32_t)count;
        if (session->count + session->flying == 0) { /* idle sessions hold no ring */
            ring = session->ring;
            session->ring = NULL;
            session->head = session->cap = 0;
        }
        resume_locked(session);
    }
    if (session->waiters > 0)
        pthread_cond_broadcast(&session->room);
    eb_lock_drop(&session->lock);
    free(ring);
    if (events > 0 && !session->feed) {
        eb_count(session->bus->counters.delivered, events);
        if (session->bus->autoack != NULL)
            eb_autoack_mark(session->bus->autoack, items, count);
    }
    for (size_t i = 0; i < count; i++)
        eb_frame_unref(items[i].frame);
}

void eb_session_putback(struct eb_session *session, struct eb_out *items, size_t count)
{
    eb_lock_take(&session->lock);
    bool closed = session->closed;
    if (!closed) {
        for (size_t i = count; i-- > 0;) {
            session->head = (session->head - 1) & (session->cap - 1);
            session->ring[session->head] = items[i];
        }
        session->count += (uint32_t)count;
        session->flying -= (uint32_t)count;
    }
    eb_lock_drop(&session->lock);
    for (size_t i = 0; closed && i < count; i++)
        eb_frame_unref(items[i].frame);
}

/* ---- streams that wait ---- */

static bool wants_pages_locked(struct eb_stream *stream)
{
    if (stream->session->closed)
        return false;
    return stream->sub != NULL ? eb_sub_state(stream->sub) == EB_SUB_REPLAYING
                               : stream->session->lagging;
}

void eb_stream_kick_locked(struct eb_stream *stream)
{
    struct eb_session *session = stream->session;
    eb_lock_assert_held(&session->lock);
    if (stream->sched != EB_SCHED_IDLE || !wants_pages_locked(stream))
        return;
    stop_waiting_locked(stream);
    if (!eb_queue_has_room_locked(session)) {
        stream->waits_room = true;
        session->waiting++;
        return;
    }
    stream->sched = EB_SCHED_QUEUED;
    eb_stream_ref_place(stream);
    eb_pool_run(session->bus->pool, stream);
}

void eb_stream_ref_place(struct eb_stream *stream)
{
    if (stream->sub != NULL)
        eb_sub_ref(stream->sub);
    else
        eb_session_ref(stream->session);
}

void eb_stream_unref_place(struct eb_stream *stream)
{
    if (stream->sub != NULL)
        eb_sub_unref(stream->sub);
    else
        eb_session_unref(stream->session);
}

/* ---- figures ---- */

/*
 * `dispatched` is read before the queue is looked at: what it covers has been pushed, so a live stream whose queue is
 * empty then has been given all of it that matches.
 */
uint64_t eb_session_served(struct eb_session *session)
{
    uint64_t served = atomic_load_explicit(&session->bus->dispatched, memory_order_acquire);
    eb_lock_take(&session->lock);
    const struct eb_sub *sub = session->subs;
    if (sub == NULL || session->count + session->flying > 0)
        served = 0;
    else if (session->replaying > 0)
        served = sub->stream.cursor;
    else if (session->lagging)
        served = session->shared.cursor;
    else if (served < sub->floor)
        served = sub->floor;
    eb_lock_drop(&session->lock);
    return served;
}

int64_t eb_session_oldest(struct eb_session *session)
{
    int64_t oldest = 0;
    eb_lock_take(&session->lock);
    for (uint32_t i = 0; i < session->count && oldest == 0; i++) {
        const struct eb_frame *frame =
            session->ring[(session->head + i) & (session->cap - 1)].frame;
        oldest = frame->event != NULL ? frame->event->timestamp : 0;
    }
    eb_lock_drop(&session->lock);
    return oldest;
}

void eb_session_state(struct eb_session *session, struct eb_session_state *ret)
{
    eb_lock_take(&session->lock);
    *ret = (struct eb_session_state){
        .queued_events = session->events,
        .queued_bytes = session->event_bytes + session->answer_bytes,
        .answers_bytes = session->answer_bytes,
        .open = atomic_load(&session->open),
        .subscriptions = session->sub_count,
        .replaying = session->replaying,
        .lagging = session->lagging,
        .closed = session->closed,
        .delivered = session->delivered,
        .cursor = session->shared.cursor,
    };
    eb_lock_drop(&session->lock);
}
