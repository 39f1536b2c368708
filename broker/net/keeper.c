/*
 * keeper.c - watches the clock for all WebSockets (`eb-keeper`): pings, silent peers, stalled peers, late closes.
 *
 * (K1) A missing pong or idle_timeout ends only connections that asked for a subprotocol: an older client never
 *      reads, so it cannot pong (PROTOCOL 2.5). Others end by TCP. They are not sent a second ping while the
 *      first is unanswered, so that pings do not fill the buffers of a peer that never reads.
 * (K2) Whatever the peer sends proves that it lives, not only a pong.
 * (K3) Stalled is a peer whose socket has taken nothing for stall_timeout while something waits to be sent. What
 *      the kernel still drains to a slow peer counts as taken.
 * (K4) Connections are looked at under the side's lock, and acted upon after it, save for shutdown(): a socket is
 *      valid while its connection stands in the registry.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "broker/net/ws_internal.h"
#include "common/log.h"

#define TICK_MIN_MS 10
#define TICK_MAX_MS 500
#define GONE_MS     1000  /* patience with a peer that has been silent for long */
#define STALL_MS    30000 /* how long a stalled peer may take to come and see its 1013 */
#define ACTS        64    /* acted upon at once; the rest at the next tick, which then comes soon */

struct eb_keeper {
    pthread_t thread;        /* [I] */
    struct eb_ws_side *side; /* [I] */
    struct eb_lock lock;     /* rank LEAF */
    pthread_cond_t cond;
    bool stop; /* [lock] */
};

enum verdict { KEEP, PING, CLOSE_PONG, CLOSE_IDLE, CLOSE_STALLED };

struct act_on {
    struct eb_session *session; /* one reference: keeps the connection's memory */
    struct eb_ws_conn *conn;
    enum verdict verdict;
};

static bool stalled_locked(struct eb_ws_conn *conn, int64_t now, int64_t timeout)
{
    int64_t blocked = atomic_load(&conn->blocked_ms);
    int outq = 0;

    if (blocked == 0 || timeout <= 0) {
        conn->outq = 0;
        return false;
    }
    if (ioctl(conn->fd, SIOCOUTQ, &outq) == 0) {
        if (conn->outq > 0 && outq < conn->outq) {
            /* The peer takes, if slowly (K3). Lost against the flusher's own reset: no harm. */
            long long expected = blocked;
            atomic_compare_exchange_strong(&conn->blocked_ms, &expected, now);
            blocked = now;
        }
        conn->outq = outq;
    }
    return now - blocked >= timeout;
}

static enum verdict ping_locked(struct eb_ws_conn *conn, int64_t now, int64_t interval)
{
    int64_t received = atomic_load(&conn->received_ms);

    if (conn->pinged_ms != 0 && received >= conn->pinged_ms)
        conn->pinged_ms = 0; /* K2 */
    if (conn->next_ping_ms == 0)
        conn->next_ping_ms = conn->born_ms + interval;
    if (interval <= 0 || now < conn->next_ping_ms)
        return KEEP;
    conn->next_ping_ms = now + interval;
    if (conn->pinged_ms == 0) {
        conn->pinged_ms = now;
        return PING;
    }
    return conn->asked ? CLOSE_PONG : KEEP; /* K1 */
}

static enum verdict judge_locked(struct eb_ws_side *side, struct eb_ws_conn *conn, int64_t now)
{
    int64_t close_by = atomic_load(&conn->close_by_ms);

    if (atomic_load(&conn->closing)) {
        if (close_by != 0 && now >= close_by)
            shutdown(conn->fd, SHUT_RDWR);
        return KEEP;
    }
    if (stalled_locked(conn, now, atomic_load(&side->stall_timeout_ms)))
        return CLOSE_STALLED;
    if (atomic_load(&conn->waiting)) {
        conn->pinged_ms = 0; /* its thread does not read now: a pong may be there unseen */
        return KEEP;
    }
    int64_t idle = atomic_load(&side->idle_timeout_ms);
    if (conn->asked && idle > 0 && now - atomic_load(&conn->received_ms) >= idle)
        return CLOSE_IDLE;
    return ping_locked(conn, now, atomic_load(&side->ping_interval_ms));
}

static void act(const struct act_on *act_on)
{
    struct eb_ws_conn *conn = act_on->conn;
    struct eb_ws_side *side = conn->side;

    switch (act_on->verdict) {
    case KEEP:
        break;
    case PING:
        if (eb_ws_conn_control(conn, EB_WS_PING, NULL, 0))
            eb_ws_count(&side->count.pings);
        break;
    case CLOSE_PONG:
        eb_ws_count(&side->count.pong_timeouts);
        eb_info(NULL, "connection %llu of %s is closed: no pong", (unsigned long long)conn->number,
                conn->peer);
        eb_ws_conn_close(conn, EB_WS_CLOSE_LATER, "no pong", true, GONE_MS);
        break;
    case CLOSE_IDLE:
        eb_ws_count(&side->count.idle_closed);
        eb_info(NULL, "connection %llu of %s is closed: nothing came for idle_timeout",
                (unsigned long long)conn->number, conn->peer);
        eb_ws_conn_close(conn, EB_WS_CLOSE_LATER, "idle", true, GONE_MS);
        break;
    case CLOSE_STALLED:
        eb_ws_count(&side->count.stall_closed);
        eb_warn("EB-STALLED", "connection %llu of %s is closed: it took nothing for stall_timeout",
                (unsigned long long)conn->number, conn->peer);
        eb_ws_conn_close(conn, EB_WS_CLOSE_LATER, "stalled", true, STALL_MS);
        break;
    }
}

/* One look at all connections. True: more is to be done at once. */
static bool tick(struct eb_ws_side *side)
{
    struct act_on act_on[ACTS];
    int64_t now = eb_mono_ms();
    size_t n = 0;

    eb_lock_take(&side->lock);
    eb_ws_pending_tick_locked(side, now, false);
    for (struct eb_ws_conn *conn = side->first; conn && n < ACTS; conn = conn->next) {
        enum verdict verdict = judge_locked(side, conn, now);
        if (verdict != KEEP)
            act_on[n++] = (struct act_on){eb_session_ref(conn->session), conn, verdict};
    }
    eb_lock_drop(&side->lock);
    for (size_t i = 0; i < n; i++) {
        act(&act_on[i]);
        eb_session_unref(act_on[i].session);
    }
    return n == ACTS;
}

/* A quarter of the shortest time that is watched. */
static int64_t tick_ms(struct eb_ws_side *side)
{
    const int64_t times[] = {atomic_load(&side->ping_interval_ms),
                             atomic_load(&side->idle_timeout_ms),
                             atomic_load(&side->stall_timeout_ms)};
    int64_t shortest = 4 * TICK_MAX_MS;

    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
        if (times[i] > 0 && times[i] < shortest)
            shortest = times[i];
    return shortest / 4 < TICK_MIN_MS ? TICK_MIN_MS : shortest / 4;
}

static void *run(void *arg)
{
    struct eb_keeper *keeper = arg;

    pthread_setname_np(pthread_self(), "eb-keeper");
    eb_lock_take(&keeper->lock);
    while (!keeper->stop) {
        eb_lock_drop(&keeper->lock);
        while (tick(keeper->side))
            ;
        int64_t next = eb_mono_ms() + tick_ms(keeper->side);
        eb_lock_take(&keeper->lock);
        int rc = 0;
        while (!keeper->stop && rc == 0)
            rc = eb_cond_wait(&keeper->cond, &keeper->lock, next);
    }
    eb_lock_drop(&keeper->lock);
    return NULL;
}

int eb_keeper_create(struct eb_ws_side *side, struct eb_keeper **ret)
{
    struct eb_keeper *keeper = calloc(1, sizeof(*keeper));

    if (!keeper)
        return -ENOMEM;
    keeper->side = side;
    eb_lock_init(&keeper->lock, EB_RANK_LEAF);
    eb_cond_init(&keeper->cond);
    int rc = pthread_create(&keeper->thread, NULL, run, keeper);
    if (rc) {
        pthread_cond_destroy(&keeper->cond);
        eb_lock_finish(&keeper->lock);
        free(keeper);
        return -rc;
    }
    *ret = keeper;
    return 0;
}

void eb_keeper_destroy(struct eb_keeper *keeper)
{
    if (!keeper)
        return;
    eb_lock_take(&keeper->lock);
    keeper->stop = true;
    pthread_cond_signal(&keeper->cond);
    eb_lock_drop(&keeper->lock);
    pthread_join(keeper->thread, NULL);
    pthread_cond_destroy(&keeper->cond);
    eb_lock_finish(&keeper->lock);
    free(keeper);
}
