/*
 * ws_conn.c - one WebSocket connection: its life, and who may use its socket.
 *
 *   upgrade --> running --(peer closed, broke the protocol, vanished; keeper; stop)--> closing --> dead --> given back
 *
 * (W1) The socket is used by two: the connection's thread (reads, shuts down) and, while EB_CONN_DIRTY is set, its
 *      flusher (writes; W6). Others that shut it down (the keeper) do so under the side's lock while the connection
 *      stands in the registry, which its thread leaves before it is dead.
 * (W2) The thread ends with EB_CONN_DEAD. From then on nobody makes the connection dirty.
 * (W3) Who gives the socket back: the thread, if the connection was not dirty when it became dead; else the
 *      flusher, when it finds that it is dead. Both are decided by one atomic operation on `state`, so it happens
 *      exactly once.
 * (W4) The memory is the session's: publishes that are still under way hold the session, hence the connection,
 *      beyond its socket.
 * (W5) Nothing follows a close frame, and after it the peer is given time to answer: a socket closed with unread
 *      bytes in it is reset, and the reset overtakes the close frame.
 * (W6) Who makes the connection dirty hands it to its flusher; but its own thread, when that happens while it hands
 *      over its requests (it committed them by itself, so the answer is there), is the flusher of that moment:
 *      it sends, and hands on only what the socket does not take. The same for the first OTHERS that it made dirty
 *      meanwhile: to send to so few takes less than to wake a flusher. So is the committing thread for the answers that
 *      their peers wait for (session_answered), where there are no more cores than that thread and another need.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/net/ws_internal.h"

#define CLOSE_FLUSH_MS 1000
#define OTHERS         2 /* W6 */

/* W6: whose thread this is, and what it has made dirty and is to send to. */
static _Thread_local struct {
    struct eb_ws_conn *conn, *others[OTHERS];
    bool itself;
    unsigned count;
} submitting;

/* True: the connection was clean, and whoever called is to see to it that it is sent to. */
static bool make_dirty(struct eb_ws_conn *conn)
{
    const unsigned both = EB_CONN_DIRTY | EB_CONN_AGAIN;
    unsigned state = atomic_load(&conn->state);

    /* AGAIN still set: the flusher has yet to look, and will see what the caller queued before. */
    if ((state & both) == both || (state & EB_CONN_DEAD))
        return false;
    state = atomic_fetch_or(&conn->state, both);
    return !(state & (EB_CONN_DIRTY | EB_CONN_DEAD));
}

void eb_ws_conn_wake(struct eb_ws_conn *conn)
{
    if (!make_dirty(conn))
        return;
    if (submitting.conn == conn)
        submitting.itself = true;
    else if (submitting.conn != NULL && submitting.count < OTHERS)
        submitting.others[submitting.count++] = conn;
    else
        eb_flusher_push(conn->flusher, conn);
}

unsigned eb_ws_conn_submit(struct eb_ws_conn *conn)
{
    submitting.conn = conn;
    unsigned requests = eb_session_submit(conn->session);
    submitting.conn = NULL;
    for (unsigned i = 0; i < submitting.count; i++)
        eb_flusher_send(submitting.others[i]->flusher, submitting.others[i]);
    if (submitting.itself)
        eb_flusher_send(conn->flusher, conn);
    submitting.itself = false;
    submitting.count = 0;
    return requests;
}

bool eb_ws_conn_control(struct eb_ws_conn *conn, int opcode, const void *data, size_t len)
{
    eb_lock_take(&conn->lock);
    bool queued = eb_ws_control_push(&conn->control, opcode, data, len);
    eb_lock_drop(&conn->lock);
    if (queued)
        eb_ws_conn_wake(conn);
    return queued;
}

void eb_ws_conn_close(struct eb_ws_conn *conn, int code, const char *reason, bool fail,
                      int64_t patience_ms)
{
    uint8_t body[125] = {(uint8_t)(code >> 8), (uint8_t)code};
    size_t len = code == EB_WS_CLOSE_NO_STATUS ? 0 : 2;

    if (len > 0 && reason) {
        size_t more = strnlen(reason, sizeof(body) - len);
        memcpy(body + len, reason, more);
        len += more;
    }
    atomic_store(&conn->closing, true);
    eb_lock_take(&conn->lock);
    bool first = !conn->control.closing;
    if (first) {
        conn->fail = fail;
        atomic_store(&conn->close_by_ms, eb_mono_ms() + patience_ms);
        eb_ws_control_push(&conn->control, EB_WS_CLOSE, body, len);
    }
    eb_lock_drop(&conn->lock);
    if (first) {
        eb_session_close(conn->session);
        eb_ws_consume_end(conn);
        eb_ws_conn_wake(conn);
    }
}

void eb_ws_conn_break(struct eb_ws_conn *conn)
{
    atomic_store(&conn->closing, true);
    shutdown(conn->fd, SHUT_RDWR);
    eb_session_close(conn->session);
    eb_ws_consume_end(conn);
}

/* A peer that has only closed its sending side still wants our close frame. Keeps W5. */
static void wait_close_sent(struct eb_ws_conn *conn)
{
    int64_t deadline = eb_mono_ms() + CLOSE_FLUSH_MS;

    eb_lock_take(&conn->lock);
    while (conn->control.closing && !conn->close_sent)
        if (eb_cond_wait(&conn->closed, &conn->lock, deadline) != 0)
            break;
    eb_lock_drop(&conn->lock);
}

void eb_ws_conn_run(struct eb_ws_conn *conn)
{
    eb_ws_read(conn);
    wait_close_sent(conn);
    atomic_store(&conn->closing, true);
    eb_session_close(conn->session);
    eb_ws_consume_end(conn);
    eb_ws_reader_destroy(conn->reader);
    conn->reader = NULL;
    eb_buf_finish(&conn->early);
    eb_ws_side_leave(conn->side, conn);
    shutdown(conn->fd, SHUT_RDWR); /* a flusher that waits for room is woken by it */
    if (!(atomic_fetch_or(&conn->state, EB_CONN_DEAD) & EB_CONN_DIRTY))
        eb_ws_conn_give_back(conn);
}

void eb_ws_conn_give_back(struct eb_ws_conn *conn)
{
    struct eb_ws_side *side = conn->side;

    eb_flusher_forget(conn->flusher, conn);
    if (conn->urh)
        MHD_upgrade_action(conn->urh, MHD_UPGRADE_ACTION_CLOSE);
    else
        close(conn->fd);
    eb_net_place_give(side->net);
    eb_session_unref(conn->session); /* frees @conn unless requests are still under way (W4) */
}

/* ---- the session's side ---- */

static void session_wake(struct eb_session *session)
{
    eb_ws_conn_wake(eb_session_user(session));
}

static void session_answered(struct eb_session *session)
{
    struct eb_ws_conn *conn = eb_session_user(session);

    if (submitting.conn == conn || !conn->side->answers_itself)
        eb_ws_conn_wake(conn);
    else if (make_dirty(conn))
        eb_flusher_send_once(conn->flusher, conn);
}

static void session_destroy(struct eb_session *session)
{
    struct eb_ws_conn *conn = eb_session_user(session);
    struct eb_ws_side *side = conn->side;

    eb_ws_consume_free(conn);
    eb_ws_control_finish(&conn->control);
    eb_buf_finish(&conn->early);
    eb_buf_finish(&conn->answers.records);
    pthread_cond_destroy(&conn->closed);
    eb_lock_finish(&conn->lock);
    free(conn);
    eb_ws_side_gone(side);
}

const struct eb_session_ops eb_ws_session_ops = {
    .event = eb_ws_encode_event,
    .events = eb_ws_encode_events,
    .gap = eb_ws_encode_gap,
    .live = eb_ws_encode_live,
    .wake = session_wake,
    .answered = session_answered,
    .destroy = session_destroy,
};

const struct eb_session_ops eb_ws_binary_session_ops = {
    .event = eb_ws_encode_event_bin,
    .events = eb_ws_encode_events_bin,
    .gap = eb_ws_encode_gap_bin,
    .live = eb_ws_encode_live_bin,
    .wake = session_wake,
    .answered = session_answered,
    .destroy = session_destroy,
    .answers = eb_ws_bin_answers,
};
