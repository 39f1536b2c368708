/*
 * ws.c - all WebSockets of a net: the registry, its figures, the orderly end.
 *
 * (S1) A connection stands in the registry while its thread runs; its socket is valid as long.
 * (S2) `alive` counts connections whose memory is there: their threads, and requests that are still under way in
 *      the store. The side is destroyed at 0, so an answer that comes late finds its side.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "broker/net/ws_internal.h"
#include "common/log.h"

#define FEW_CORES        2
#define DEFAULT_FLUSHERS 2
#define DRAIN_TICK_MS    10
#define CLOSE_MS         1000 /* for the peers' close frames, beyond the deadline if need be */

void eb_ws_side_reconfigure(struct eb_ws_side *side, const struct eb_net_config *config)
{
    atomic_store(&side->max_message, config->max_message);
    atomic_store(&side->max_unsent_answers,
                 config->max_unsent_answers > 0 ? config->max_unsent_answers : 1);
    atomic_store(&side->max_open_requests,
                 config->max_open_requests > 0 ? config->max_open_requests : 1);
    atomic_store(&side->publish_rate, config->publish_rate);
    atomic_store(&side->ping_interval_ms, config->ping_interval_ms);
    atomic_store(&side->idle_timeout_ms, config->idle_timeout_ms);
    atomic_store(&side->stall_timeout_ms, config->stall_timeout_ms);
}

/*
 * W6: to send an answer takes less than to wake a flusher for it, but with cores to spare a flusher does it beside
 * the next commit. Measured with two (docs/decisions/0025-what-the-committing-thread-leaves-out.md).
 */
static bool few_cores(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) <= FEW_CORES;
}

int eb_ws_side_create(struct eb_net *net, const struct eb_net_config *config, struct eb_bus *bus,
                      struct eb_ws_side **ret)
{
    unsigned want = config->flushers > 0 ? config->flushers : DEFAULT_FLUSHERS;
    struct eb_ws_side *side = calloc(1, sizeof(*side));
    int rc = -ENOMEM;

    if (!side)
        return -ENOMEM;
    side->net = net;
    side->bus = bus;
    side->answers_itself = few_cores();
    eb_lock_init(&side->lock, EB_RANK_CONNECTIONS);
    eb_lock_init(&side->count_lock, EB_RANK_LEAF);
    eb_cond_init(&side->none);
    eb_ws_side_reconfigure(side, config);
    side->flushers = calloc(want, sizeof(*side->flushers));
    if (!side->flushers)
        goto fail;
    for (; side->flusher_count < want; side->flusher_count++) {
        rc = eb_flusher_create(side, side->flusher_count, &side->flushers[side->flusher_count]);
        if (rc < 0)
            goto fail;
    }
    rc = eb_keeper_create(side, &side->keeper);
    if (rc < 0)
        goto fail;
    *ret = side;
    return 0;

fail:
    eb_ws_side_destroy(side);
    return rc;
}

static void wait_alive_none(struct eb_ws_side *side)
{
    eb_lock_take(&side->count_lock);
    while (side->alive > 0)
        eb_cond_wait(&side->none, &side->count_lock, -1);
    eb_lock_drop(&side->count_lock);
}

void eb_ws_side_destroy(struct eb_ws_side *side)
{
    if (!side)
        return;
    wait_alive_none(side);
    eb_keeper_destroy(side->keeper);
    for (unsigned i = 0; i < side->flusher_count; i++)
        eb_flusher_destroy(side->flushers[i]);
    free(side->flushers);
    while (side->pending) { /* left behind by upgrades that never came */
        struct eb_ws_pending *pending = side->pending;
        side->pending = pending->next;
        pthread_cond_destroy(&pending->cond);
        free(pending);
    }
    pthread_cond_destroy(&side->none);
    eb_lock_finish(&side->count_lock);
    eb_lock_finish(&side->lock);
    free(side);
}

void eb_ws_side_leave(struct eb_ws_side *side, struct eb_ws_conn *conn)
{
    eb_lock_take(&side->lock);
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        side->first = conn->next;
    if (conn->next)
        conn->next->prev = conn->prev;
    else
        side->last = conn->prev;
    side->running--;
    eb_lock_drop(&side->lock);
}

void eb_ws_side_gone(struct eb_ws_side *side)
{
    eb_lock_take(&side->count_lock);
    if (--side->alive == 0)
        pthread_cond_broadcast(&side->none);
    eb_lock_drop(&side->count_lock);
}

/* ---- the orderly end ---- */

/* Every answer and event that it was to get is sent. */
static bool flushed(struct eb_ws_conn *conn)
{
    struct eb_session_state state;

    eb_session_state(conn->session, &state);
    return state.closed || state.queued_bytes == 0;
}

/* No connection has a request under way, so no event of theirs is still to come to another. */
static bool quiet(struct eb_ws_side *side)
{
    struct eb_session_state state = {0};

    eb_lock_take(&side->lock);
    for (struct eb_ws_conn *conn = side->first; conn && state.open == 0; conn = conn->next)
        eb_session_state(conn->session, &state);
    eb_lock_drop(&side->lock);
    return state.open == 0;
}

/*
 * One connection that is to be closed now (all: @late), its session held; NULL when there is none. @ret_busy:
 * others are still to be flushed.
 */
static struct eb_ws_conn *next_to_close(struct eb_ws_side *side, bool late, bool *ret_busy)
{
    struct eb_ws_conn *found = NULL;

    *ret_busy = false;
    eb_lock_take(&side->lock);
    for (struct eb_ws_conn *conn = side->first; conn && !found; conn = conn->next) {
        if (atomic_load(&conn->closing))
            continue;
        if (late || flushed(conn)) {
            eb_session_ref(conn->session);
            found = conn;
        } else {
            *ret_busy = true;
        }
    }
    eb_lock_drop(&side->lock);
    return found;
}

/* Close all that are flushed (all: @late). True when others remain. */
static bool close_some(struct eb_ws_side *side, int code, bool late, int64_t patience_ms)
{
    struct eb_ws_conn *conn;
    bool busy;

    while ((conn = next_to_close(side, late, &busy))) {
        eb_ws_conn_close(conn, code, NULL, false, patience_ms);
        eb_session_unref(conn->session);
    }
    return busy;
}

/* Wait a little, or until no connection is left. */
static bool wait_none(struct eb_ws_side *side, int64_t deadline_ms)
{
    int rc = 0;

    eb_lock_take(&side->count_lock);
    while (side->alive > 0 && rc == 0)
        rc = eb_cond_wait(&side->none, &side->count_lock, deadline_ms);
    bool none = side->alive == 0;
    eb_lock_drop(&side->count_lock);
    return none;
}

void eb_ws_side_stop(struct eb_ws_side *side, int close_code, int64_t deadline_ms)
{
    int64_t now = eb_mono_ms();
    bool busy = true;

    eb_lock_take(&side->lock);
    atomic_store(&side->stopping, true);
    eb_ws_pending_tick_locked(side, now, true);
    eb_lock_drop(&side->lock);
    /* Two quiet looks in a row: a request may be on its way from its thread to the bus at the first. */
    for (unsigned looks = 0; looks < 2 && now < deadline_ms; now = eb_mono_ms()) {
        looks = quiet(side) ? looks + 1 : 0;
        if (wait_none(side, now + DRAIN_TICK_MS))
            return;
    }
    do {
        int64_t left = deadline_ms - now;
        busy = close_some(side, close_code, left <= 0, left > CLOSE_MS ? left : CLOSE_MS);
        if (wait_none(side, now + DRAIN_TICK_MS))
            return;
        now = eb_mono_ms();
    } while (busy || now < deadline_ms);

    int64_t end = now + CLOSE_MS;
    wait_none(side, end);
    eb_lock_take(&side->lock);
    for (struct eb_ws_conn *conn = side->first; conn; conn = conn->next)
        shutdown(conn->fd, SHUT_RDWR);
    eb_lock_drop(&side->lock);
    wait_alive_none(side);
}

/* ---- figures ---- */

static uint64_t load(const atomic_ullong *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void eb_ws_counters(struct eb_ws_side *side, struct eb_ws_counters *ret)
{
    struct eb_ws_counters c = {
        .connections_total = load(&side->count.connections_total),
        .refused_total = load(&side->count.refused),
        .messages_in = load(&side->count.messages_in),
        .bytes_in = load(&side->count.bytes_in),
        .pings = load(&side->count.pings),
        .pong_timeouts = load(&side->count.pong_timeouts),
        .idle_closed = load(&side->count.idle_closed),
        .stall_closed = load(&side->count.stall_closed),
        .bad_requests = load(&side->count.bad_requests),
        .legacy_connections = load(&side->count.legacy_connections),
        .legacy_unsent = load(&side->count.legacy_unsent),
        .protocol_errors = load(&side->count.protocol_errors),
        .rate_limited = load(&side->count.rate_limited),
        .binary_connections = load(&side->count.binary_connections),
        .records_in = load(&side->count.records_in),
    };

    for (unsigned i = 0; i < side->flusher_count; i++)
        eb_flusher_counters(side->flushers[i], &c);
    eb_lock_take(&side->lock);
    c.connections = side->running;
    eb_lock_drop(&side->lock);
    *ret = c;
}

static void describe(struct eb_ws_conn *conn, struct eb_connection_info *info)
{
    struct eb_session_state state;

    eb_session_state(conn->session, &state);
    *info = (struct eb_connection_info){
        .session = conn->number,
        .transport = "websocket",
        .protocol = conn->binary                 ? EB_WS_PROTOCOL_BINARY
                    : atomic_load(&conn->legacy) ? "legacy"
                                                 : EB_WS_PROTOCOL_JSON,
        .connected_ms = conn->connected_ms,
        .subscriptions = state.subscriptions,
        .consumers = eb_ws_consume_count(conn),
        .delivered = state.delivered,
        .queued_events = state.queued_events,
        .queued_bytes = state.queued_bytes,
        .lagging = state.lagging,
    };
    memcpy(info->peer, conn->peer, sizeof(info->peer));
}

size_t eb_ws_connections(struct eb_ws_side *side, uint64_t after, size_t max,
                         struct eb_connection_info **ret)
{
    struct eb_connection_info *list = NULL;
    size_t count = 0;

    eb_lock_take(&side->lock);
    size_t room = side->running < max ? side->running : max;
    if (room > 0)
        list = malloc(room * sizeof(*list));
    for (struct eb_ws_conn *conn = side->first; list && conn && count < room; conn = conn->next)
        if (conn->number > after)
            describe(conn, &list[count++]);
    eb_lock_drop(&side->lock);
    *ret = list;
    return count;
}
