/*
 * flusher.c - frames out of the sessions' queues into sockets, many at a time (`eb-flush-N`).
 *
 *   eb_ws_conn_wake -> list -> flush: [rest of a half-sent frame][control frames][up to 64 frames] -> sendmsg
 *                        ^                     |  EAGAIN
 *                        `---- more ----       `-> epoll, EPOLLOUT|EPOLLONESHOT -> flush again
 *
 * (F1) A connection is pinned to one flusher: one writer, so order holds and no socket is written by two. A thread
 *      that commits (its own, or another's), may take the flusher's place for a moment (W6 in ws_conn.c): whoever is to flush
 *      has it dirty.
 * (F2) A dirty connection is on the list, being flushed, or waits for EPOLLOUT; exactly one of them, and exactly
 *      until its state falls back to clean (EB_CONN_DIRTY). Whoever makes it dirty pushes it, nobody else does.
 * (F3) The eventfd is written only when the flusher may be asleep.
 * (F4) Of a connection that its thread has left (EB_CONN_DEAD) nothing is sent: the socket is given back here.
 * (F5) A half-sent frame is finished before anything else; then control frames overtake data; behind a close
 *      frame nothing follows.
 *
 * Why not wake each connection's own thread: ten times slower (docs/decisions/0003-connection-threads.md).
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "broker/net/ws_internal.h"
#include "common/log.h"

#define FRAMES 64
#define BYTES  (256 * 1024)
#define EVENTS 64

/* [I] immutable  [a] atomic  [F] lock  [N] own thread only */
struct eb_flusher {
    pthread_t thread;                   /* [I] */
    unsigned number;                    /* [I] */
    int epoll, wakeup;                  /* [I] */
    struct eb_lock lock;                /* rank FLUSHER */
    struct eb_ws_conn *first, *last;    /* [F] */
    bool sleeping;                      /* [F] */
    atomic_bool stop;                   /* [a] */
    atomic_ullong frames, bytes, sends; /* [a] written by its own thread */
};

/* One sendmsg: what it is made of. */
struct batch {
    struct iovec iov[FRAMES + 2];
    int iov_count;
    size_t part_len, control_len, total;
    struct eb_out items[FRAMES];
    size_t count;
    uint8_t control[EB_WS_CONTROL_CAP];
};

static void append_locked(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    conn->flush_next = NULL;
    if (flusher->last)
        flusher->last->flush_next = conn;
    else
        flusher->first = conn;
    flusher->last = conn;
}

static void wake(struct eb_flusher *flusher)
{
    const uint64_t one = 1;

    /* Cannot fail but for a counter that is already far from 0. */
    if (write(flusher->wakeup, &one, sizeof(one)) < 0)
        return;
}

void eb_flusher_push(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    eb_lock_take(&flusher->lock);
    append_locked(flusher, conn);
    bool asleep = flusher->sleeping;
    flusher->sleeping = false;
    eb_lock_drop(&flusher->lock);
    if (asleep)
        wake(flusher);
}

void eb_flusher_forget(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    if (conn->registered)
        epoll_ctl(flusher->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
    conn->registered = false;
}

/* ---- one connection ---- */

static void add_iov(struct batch *batch, const void *data, size_t len)
{
    if (len == 0)
        return;
    batch->iov[batch->iov_count++] = (struct iovec){(void *)data, len};
    batch->total += len;
}

static void collect(struct eb_ws_conn *conn, struct batch *batch)
{
    batch->iov_count = 0;
    batch->total = batch->count = batch->part_len = 0;
    if (conn->have_part) {
        batch->part_len = conn->part.frame->len - conn->part_off;
        add_iov(batch, conn->part.frame->data + conn->part_off, batch->part_len);
    }
    eb_lock_take(&conn->lock);
    batch->control_len = eb_ws_control_peek(&conn->control, batch->control);
    bool closing = conn->control.closing;
    eb_lock_drop(&conn->lock);
    add_iov(batch, batch->control, batch->control_len);
    if (closing)
        return;
    batch->count = eb_session_take(conn->session, batch->items, FRAMES, BYTES);
    for (size_t i = 0; i < batch->count; i++)
        add_iov(batch, batch->items[i].frame->data, batch->items[i].frame->len);
}

static void part_done(struct eb_ws_conn *conn)
{
    struct eb_out item = {.frame = conn->part.frame, .seq = conn->part.seq};

    conn->have_part = false;
    eb_session_sent(conn->session, &item, 1);
}

static void control_done(struct eb_ws_conn *conn, size_t bytes)
{
    if (bytes == 0)
        return;
    eb_lock_take(&conn->lock);
    eb_ws_control_sent(&conn->control, bytes);
    bool closed = conn->control.closing && conn->control.len == 0;
    bool shut = closed && !conn->close_sent && (conn->fail || conn->close_received);
    if (closed) {
        long long patience = eb_mono_ms() + EB_WS_LINGER_MS;
        if (atomic_load(&conn->close_by_ms) > patience)
            atomic_store(&conn->close_by_ms, patience);
        conn->close_sent = true;
        pthread_cond_signal(&conn->closed);
    }
    eb_lock_drop(&conn->lock);
    if (shut)
        shutdown(conn->fd, SHUT_WR);
}

/* The kernel took @sent bytes of the batch: account for them; keeps F5. Returns how many frames it has whole. */
static size_t settle(struct eb_ws_conn *conn, struct batch *batch, size_t sent)
{
    if (batch->part_len > 0) {
        size_t n = sent < batch->part_len ? sent : batch->part_len;
        conn->part_off += n;
        sent -= n;
        if (n == batch->part_len)
            part_done(conn);
    }
    size_t n = sent < batch->control_len ? sent : batch->control_len;
    control_done(conn, n);
    sent -= n;

    size_t whole = 0;
    while (whole < batch->count && sent >= batch->items[whole].frame->len)
        sent -= batch->items[whole++].frame->len;
    size_t rest = whole;
    if (sent > 0) {
        conn->part.frame = batch->items[whole].frame;
        conn->part.seq = batch->items[whole].seq;
        conn->part_off = sent;
        conn->have_part = true;
        rest++;
    }
    if (rest < batch->count)
        eb_session_putback(conn->session, batch->items + rest, batch->count - rest);
    if (whole > 0)
        eb_session_sent(conn->session, batch->items, whole);
    return whole;
}

static void count_sent(struct eb_flusher *flusher, size_t frames, size_t bytes)
{
    atomic_fetch_add_explicit(&flusher->sends, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&flusher->bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&flusher->frames, frames, memory_order_relaxed);
}

static void put_part_back(struct eb_ws_conn *conn)
{
    struct eb_out item = {.frame = conn->part.frame, .seq = conn->part.seq};

    if (conn->have_part)
        eb_session_putback(conn->session, &item, 1);
    conn->have_part = false;
}

/*
 * Not called by the flusher's own thread (F1), @conn may be that one's again before epoll_ctl has returned: nothing of
 * it is touched behind the call that succeeds.
 */
static bool wait_out(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT, .data.ptr = conn};
    int op = conn->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    conn->want_out = conn->registered = true;
    if (epoll_ctl(flusher->epoll, op, conn->fd, &event) == 0)
        return true;
    conn->want_out = false;
    conn->registered = op == EPOLL_CTL_MOD;
    eb_warn(NULL, "a WebSocket of %s is given up: epoll: %s", conn->peer, strerror(errno));
    eb_ws_conn_break(conn);
    return false;
}

enum outcome { SENT_ALL, SENT_MORE_WAITS, SENT_BLOCKED, SENT_BROKEN };

/* All that was taken is sent. A session that the bus closed by itself (it lost an answer) ends its connection. */
static enum outcome what_is_left(struct eb_ws_conn *conn)
{
    struct eb_session_state state;

    eb_session_state(conn->session, &state);
    if (state.closed)
        return atomic_load(&conn->closing) ? SENT_ALL : SENT_BROKEN;
    return state.queued_bytes > 0 ? SENT_MORE_WAITS : SENT_ALL;
}

static enum outcome send_batch(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    struct batch batch;

    collect(conn, &batch);
    if (batch.total == 0)
        return what_is_left(conn);
    struct msghdr msg = {.msg_iov = batch.iov, .msg_iovlen = (size_t)batch.iov_count};
    ssize_t n;
    do
        n = sendmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    int error = n < 0 ? errno : 0;
    size_t sent = n > 0 ? (size_t)n : 0;
    size_t frames = settle(conn, &batch, sent);
    if (error && error != EAGAIN && error != EWOULDBLOCK && error != ENOBUFS && error != ENOMEM)
        return SENT_BROKEN;
    count_sent(flusher, frames, sent);
    if (sent > 0) {
        atomic_store(&conn->blocked_ms, 0);
        eb_ws_consume_sent(conn);
    }
    return sent == batch.total ? what_is_left(conn) : SENT_BLOCKED;
}

/* Clean again unless something came meanwhile. False: it is to be looked at once more. */
static bool settle_state(struct eb_ws_conn *conn)
{
    unsigned expected = EB_CONN_DIRTY;

    return atomic_compare_exchange_strong(&conn->state, &expected, 0);
}

/* @conn is dirty and ours (F2). After this it is clean, waits for EPOLLOUT or is gone; or true: more is to be sent. */
static bool flush(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    unsigned state = atomic_fetch_and(&conn->state, ~(unsigned)EB_CONN_AGAIN);
    enum outcome outcome = SENT_BROKEN;

    conn->want_out = false;
    if (!(state & EB_CONN_DEAD))
        outcome = send_batch(flusher, conn);
    if (outcome == SENT_BLOCKED) {
        long long none = 0;
        atomic_compare_exchange_strong(&conn->blocked_ms, &none, eb_mono_ms());
        if (wait_out(flusher, conn))
            return false;
        outcome = SENT_BROKEN;
    } else if (outcome == SENT_BROKEN && !(state & EB_CONN_DEAD)) {
        eb_ws_conn_break(conn);
    }
    if (outcome == SENT_BROKEN)
        put_part_back(conn);
    if (outcome != SENT_MORE_WAITS && settle_state(conn))
        return false;
    if (atomic_load(&conn->state) & EB_CONN_DEAD) { /* F4 */
        put_part_back(conn);
        eb_ws_conn_give_back(conn);
        return false;
    }
    return true;
}

void eb_flusher_send(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    if (flush(flusher, conn))
        eb_flusher_push(flusher, conn);
}

void eb_flusher_send_once(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    unsigned state = atomic_fetch_and(&conn->state, ~(unsigned)EB_CONN_AGAIN);

    conn->want_out = false;
    if ((state & EB_CONN_DEAD) || send_batch(flusher, conn) != SENT_ALL || !settle_state(conn))
        eb_flusher_push(flusher, conn);
}

/* On the flusher's own thread, which looks at its list before it sleeps. */
static void flush_listed(struct eb_flusher *flusher, struct eb_ws_conn *conn)
{
    if (!flush(flusher, conn))
        return;
    eb_lock_take(&flusher->lock);
    append_locked(flusher, conn);
    eb_lock_drop(&flusher->lock);
}

/* ---- the thread ---- */

static struct eb_ws_conn *take_list(struct eb_flusher *flusher, bool may_sleep)
{
    eb_lock_take(&flusher->lock);
    struct eb_ws_conn *list = flusher->first;
    flusher->first = flusher->last = NULL;
    flusher->sleeping = !list && may_sleep;
    eb_lock_drop(&flusher->lock);
    return list;
}

static void wait_events(struct eb_flusher *flusher, int timeout)
{
    struct epoll_event events[EVENTS];
    int n = epoll_wait(flusher->epoll, events, EVENTS, timeout);

    for (int i = 0; i < n; i++) {
        struct eb_ws_conn *conn = events[i].data.ptr;
        if (conn) {
            if (conn->want_out)
                flush_listed(flusher, conn);
            continue;
        }
        uint64_t count;
        if (read(flusher->wakeup, &count, sizeof(count)) < 0)
            continue; /* somebody's write was seen before */
    }
}

static void *run(void *arg)
{
    struct eb_flusher *flusher = arg;
    char name[16];

    snprintf(name, sizeof(name), "eb-flush-%u", flusher->number);
    pthread_setname_np(pthread_self(), name);
    while (!atomic_load(&flusher->stop)) {
        struct eb_ws_conn *conn = take_list(flusher, true), *next;

        bool busy = conn;
        for (; conn; conn = next) {
            next = conn->flush_next; /* flush_listed() may put it on the list again */
            flush_listed(flusher, conn);
        }
        wait_events(flusher, busy ? 0 : -1);
    }
    return NULL;
}

int eb_flusher_create(struct eb_ws_side *side, unsigned number, struct eb_flusher **ret)
{
    struct eb_flusher *flusher = calloc(1, sizeof(*flusher));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    int rc;

    if (!flusher)
        return -ENOMEM;
    flusher->number = number;
    eb_lock_init(&flusher->lock, EB_RANK_FLUSHER);
    flusher->epoll = epoll_create1(EPOLL_CLOEXEC);
    flusher->wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (flusher->epoll < 0 || flusher->wakeup < 0 ||
        epoll_ctl(flusher->epoll, EPOLL_CTL_ADD, flusher->wakeup, &event) < 0) {
        rc = -errno;
        goto fail;
    }
    rc = -pthread_create(&flusher->thread, NULL, run, flusher);
    if (rc < 0)
        goto fail;
    *ret = flusher;
    return 0;

fail:
    if (flusher->epoll >= 0)
        close(flusher->epoll);
    if (flusher->wakeup >= 0)
        close(flusher->wakeup);
    eb_lock_finish(&flusher->lock);
    free(flusher);
    return rc;
}

void eb_flusher_destroy(struct eb_flusher *flusher)
{
    if (!flusher)
        return;
    atomic_store(&flusher->stop, true);
    wake(flusher);
    pthread_join(flusher->thread, NULL);
    close(flusher->epoll);
    close(flusher->wakeup);
    eb_lock_finish(&flusher->lock);
    free(flusher);
}

void eb_flusher_counters(const struct eb_flusher *flusher, struct eb_ws_counters *ret)
{
    ret->frames_out += atomic_load_explicit(&flusher->frames, memory_order_relaxed);
    ret->bytes_out += atomic_load_explicit(&flusher->bytes, memory_order_relaxed);
    ret->sends += atomic_load_explicit(&flusher->sends, memory_order_relaxed);
}
