/*
 * subscribe.c - subscribe, unsubscribe, ack and fence: operations that take effect at their place (B6).
 *
 * Each is an operation in the store's queue. The *_at_place functions run on the dispatcher, under the commit
 * lock, between two segments: everything sent before them is dispatched, nothing after them is.
 *
 * Order inside one subscribe (the only one that begins anything):
 *   1. into the topic table in state NEW: nothing is pushed for it, but nothing can fail any more
 *   2. the same pattern's old subscription leaves
 *   3. done(): the transport queues the `ok`
 *   4. under the session's lock: NEW -> LIVE with floor = last_seq, or NEW -> REPLAYING and into the pool
 * so that the `ok` is in the queue before anything the subscription brings.
 */
#include <errno.h>
#include <string.h>

#include "broker/bus/internal.h"
#include "common/uuid.h"

/* ---- where a replay begins ---- */

static bool same_epoch(const char *given, const char *ours)
{
    uint8_t a[16], b[16];
    if (!eb_uuid_parse(a, given, strlen(given)) || !eb_uuid_parse(b, ours, strlen(ours)))
        return strcmp(given, ours) == 0;
    return memcmp(a, b, sizeof(a)) == 0;
}

/*
 * @epoch NULL: none given. @last is the last seq at the request's place. A client of another log, or one that
 * has seen more than there is, starts over from the first retained event and is told so.
 */
void eb_bus_start_rule(struct eb_bus *bus, const char *epoch, uint64_t starting_seq, uint64_t last,
                       struct eb_start *ret)
{
    *ret = (struct eb_start){.from = starting_seq > 1 ? starting_seq : 1,
                             .all_there_is = starting_seq <= 1};
    if ((epoch == NULL || same_epoch(epoch, eb_store_epoch(bus->store))) &&
        starting_seq <= last + 1)
        return;
    struct eb_store_info info;
    eb_store_info(bus->store, &info);
    uint64_t first = info.first_seq < last + 1 ? info.first_seq : last + 1;
    if (first == 0)
        first = 1;
    *ret = (struct eb_start){
        .from = first, .all_there_is = true, .epoch_gap = true, .gap_to = first - 1};
}

/* ---- a session's list ---- */

static bool same_patterns(const struct eb_sub *a, const struct eb_sub *b)
{
    if (a->count != b->count)
        return false;
    for (uint32_t i = 0; i < a->count; i++) {
        const struct eb_pattern *pa = &a->entries[i].pattern, *pb = &b->entries[i].pattern;
        if (pa->len != pb->len || memcmp(pa->text, pb->text, pa->len) != 0)
            return false;
    }
    return true;
}

static struct eb_sub *find_locked(struct eb_session *session, const struct eb_sub *like)
{
    struct eb_sub *sub = session->subs;
    while (sub != NULL && !same_patterns(sub, like))
        sub = sub->next;
    return sub;
}

/* Closes it; the caller then owns the list's reference and takes it out of the table. */
static void leave_locked(struct eb_session *session, struct eb_sub *sub)
{
    struct eb_sub **place = &session->subs;
    while (*place != sub)
        place = &(*place)->next;
    *place = sub->next;
    sub->next = NULL;
    session->sub_count--;
    eb_sub_move_locked(sub, EB_SUB_CLOSED);
}

static void leave_table(struct eb_sub *sub)
{
    if (sub == NULL)
        return;
    eb_table_remove(sub->session->bus->table, sub);
    eb_sub_unref(sub);
}

/* ---- subscribe ---- */

/* Steps 1 and 2. True: @sub is in the table and has to be begun. False: nothing is to be done (err says why, if). */
static bool enter(struct eb_subscribe *subscribe, struct eb_session *session, struct eb_sub *sub)
{
    struct eb_error *err = &subscribe->err;
    unsigned max = session->bus->config.max_subscriptions;
    bool nothing = false;

    if (sub == NULL || eb_table_add(session->bus->table, sub) < 0) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        return false;
    }
    eb_lock_take(&session->lock);
    struct eb_sub *old = find_locked(session, sub);
    if (session->closed) {
        eb_fail(err, EB_UNAVAILABLE, "the connection is closing");
    } else if (old == NULL && session->sub_count >= max) {
        eb_fail(err, EB_LIMIT_EXCEEDED,
                "this connection has %u subscriptions, the most it may have", max);
    } else if (old != NULL && !subscribe->replay) {
        nothing = true;
    } else if (old != NULL) {
        leave_locked(session, old);
    }
    nothing = nothing || err->code != EB_OK;
    if (nothing)
        old = NULL;
    eb_lock_drop(&session->lock);
    leave_table(old);
    if (nothing)
        eb_table_remove(session->bus->table, sub);
    return !nothing;
}

/* Step 4. Takes over the reference to @sub. */
static void begin(struct eb_session *session, struct eb_sub *sub, bool replay,
                  const struct eb_start *start, uint64_t last)
{
    struct eb_frame *gap = NULL;
    bool wake = false;
    if (replay && start->epoch_gap && !eb_session_closed(session))
        gap = eb_sub_gap_frame(sub, 0, start->gap_to, EB_GAP_EPOCH);
    eb_lock_take(&session->lock);
    bool closed = session->closed;
    if (!closed) {
        sub->next = session->subs;
        session->subs = sub;
        session->sub_count++;
        if (gap != NULL && eb_queue_push_locked(session, gap, 0) == 0) {
            gap = NULL;
            wake = true;
        }
        if (replay) {
            sub->stream.cursor = start->from - 1;
            sub->all_there_is = start->all_there_is;
            eb_sub_move_locked(sub, EB_SUB_REPLAYING);
            eb_stream_kick_locked(&sub->stream);
        } else {
            sub->floor = last;
            eb_sub_move_locked(sub, EB_SUB_LIVE);
        }
    }
    eb_lock_drop(&session->lock);
    eb_frame_unref(gap);
    if (closed)
        leave_table(sub);
    else if (wake)
        eb_session_wake(session);
}

static void subscribe_at_place(struct eb_op *op)
{
    struct eb_subscribe *subscribe = eb_container(op, struct eb_subscribe, op);
    struct eb_session *session = subscribe->session;
    struct eb_bus *bus = session->bus;
    struct eb_sub *sub = op->user;
    uint64_t last = eb_bus_visible(bus);
    struct eb_start start = {.from = 1};
    bool other = subscribe->has_epoch && !same_epoch(subscribe->epoch, eb_store_epoch(bus->store));
    bool replay = subscribe->replay || other;

    subscribe->last_seq = last;
    if (replay)
        eb_bus_start_rule(bus, subscribe->has_epoch ? subscribe->epoch : NULL,
                          subscribe->starting_seq, last, &start);
    if (subscribe->resumes && !start.epoch_gap)
        start.all_there_is = false;
    if (subscribe->last) {
        start.all_there_is = false; /* behind the list everything is due */
        if (sub != NULL)
            sub->last.upto = last;
    }
    bool entered = enter(subscribe, session, sub);
    subscribe->done(subscribe); /* may free it */
    eb_bus_settle(bus);         /* the `ok` is in the queue now (step 3) */
    if (entered)
        begin(session, sub, replay, &start, last);
    else
        eb_sub_unref(sub);
    eb_session_settle(session, 0);
    eb_session_unref(session);
}

void eb_bus_subscribe(struct eb_bus *bus, struct eb_session *session,
                      struct eb_subscribe *subscribe)
{
    struct eb_sub *sub = eb_sub_create(session, subscribe->patterns, subscribe->count);
    if (subscribe->last) { /* a replay from the beginning, of which last.c gives less */
        subscribe->replay = true;
        subscribe->starting_seq = 0;
    }
    if (sub != NULL) {
        sub->pending_only = subscribe->pending_only || eb_session_legacy(session);
        if ((subscribe->replay || subscribe->has_epoch) &&
            eb_selection_create(subscribe->patterns, subscribe->count, &sub->selection) < 0) {
            eb_sub_unref(sub);
            sub = NULL;
        }
    }
    subscribe->session = eb_session_ref(session);
    subscribe->err = (struct eb_error){.code = EB_OK, .index = -1};
    subscribe->op.kind = EB_OP_FENCE;
    subscribe->op.done = subscribe_at_place;
    subscribe->op.user = sub;
    eb_session_request(session, &subscribe->op, 0);
}

/* ---- the others ---- */

static void request_done(struct eb_request *request)
{
    struct eb_session *session = request->session;
    if (session != NULL)
        eb_session_settle(session, 0);
    request->done(request); /* may free it */
    eb_session_unref(session);
}

static void request_submit(struct eb_bus *bus, struct eb_session *session,
                           struct eb_request *request, enum eb_op_kind kind,
                           void (*at_place)(struct eb_op *op))
{
    request->session = session != NULL ? eb_session_ref(session) : NULL;
    request->err = (struct eb_error){.code = EB_OK, .index = -1};
    request->op.kind = kind;
    request->op.done = at_place;
    request->op.user = bus;
    if (session != NULL)
        eb_session_request(session, &request->op, 0);
    else
        eb_bus_submit(bus, &request->op);
}

static void unsubscribe_at_place(struct eb_op *op)
{
    struct eb_request *request = eb_container(op, struct eb_request, op);
    struct eb_session *session = request->session;
    const struct eb_pattern *pattern = &request->pattern;
    struct eb_sub *sub;

    eb_lock_take(&session->lock);
    for (sub = session->subs; sub != NULL; sub = sub->next) {
        const struct eb_pattern *own = &sub->entries[0].pattern;
        if (sub->count == 1 && own->len == pattern->len &&
            memcmp(own->text, pattern->text, own->len) == 0)
            break;
    }
    if (sub != NULL)
        leave_locked(session, sub);
    eb_lock_drop(&session->lock);
    if (sub == NULL) {
        char quoted[300];
        eb_fail(&request->err, EB_NOT_FOUND, "this connection has no subscription %s",
                eb_quote(quoted, sizeof(quoted), pattern->text, pattern->len));
    }
    leave_table(sub);
    request_done(request);
}

void eb_bus_unsubscribe(struct eb_bus *bus, struct eb_session *session, struct eb_request *request)
{
    request_submit(bus, session, request, EB_OP_FENCE, unsubscribe_at_place);
}

static void ack_at_place(struct eb_op *op)
{
    struct eb_request *request = eb_container(op, struct eb_request, op);
    request->err = op->err;
    struct eb_bus *bus = op->user;
    if (op->err.code == EB_OK)
        eb_count(bus->counters.acked, 1);
    request_done(request);
}

void eb_bus_ack(struct eb_bus *bus, struct eb_session *session, struct eb_request *request)
{
    request_submit(bus, session, request, EB_OP_ACK, ack_at_place);
}

static void unschedule_at_place(struct eb_op *op)
{
    struct eb_request *request = eb_container(op, struct eb_request, op);
    request->err = op->err;
    request_done(request);
}

void eb_bus_unschedule(struct eb_bus *bus, struct eb_session *session, struct eb_request *request)
{
    request_submit(bus, session, request, EB_OP_UNSCHEDULE, unschedule_at_place);
}

static void fence_at_place(struct eb_op *op)
{
    request_done(eb_container(op, struct eb_request, op));
}

void eb_bus_fence(struct eb_bus *bus, struct eb_session *session, struct eb_request *request)
{
    request_submit(bus, session, request, EB_OP_FENCE, fence_at_place);
}
