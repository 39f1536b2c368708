/*
 * ws_upgrade.c - from an upgrade request to a running connection.
 *
 *   request -> handshake -> place -> session, thread (parked) -> 101 -> upgrade handler -> thread runs
 *
 * (U1) Whatever may be lacking (a place, memory, a thread) is found out before the 101: 503 otherwise.
 * (U2) libmicrohttpd does not say that a client vanished before its 101 was out; the handler is then never called.
 *      Hence the pending object and its patience (ws_internal.h).
 * (U3) An upgraded connection of libmicrohttpd keeps its pool, its place in CONNECTION_LIMIT and its turn in each
 *      walk over what is suspended until its socket is given back. So it is given back at once: ours is a duplicate.
 *      It closes its own without a shutdown, so the peer sees nothing of that. With TLS what it gives is one end of
 *      a socket pair that it serves itself: that stays borrowed until the end, and so does one when no descriptor is
 *      left for a duplicate (`urh` says which).
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/net/ws_internal.h"
#include "common/log.h"

#define SEND_BUFFER   (128 * 1024)
#define PENDING_MS    10000
#define FORGET_MS     (15 * 60 * 1000)
#define USER_GRACE_MS 30000 /* TCP gives up this much later than the keeper */

/* Measured (docs/decisions/0003): what is not touched costs nothing, so this only has to be enough. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STACK_BYTES (512 * 1024)
#else
#define STACK_BYTES (128 * 1024)
#endif

/* ---- the parked thread ---- */

static void pending_unlink_locked(struct eb_ws_pending *pending)
{
    struct eb_ws_side *side = pending->side;

    if (pending->prev)
        pending->prev->next = pending->next;
    else
        side->pending = pending->next;
    if (pending->next)
        pending->next->prev = pending->prev;
}

static void pending_free(struct eb_ws_pending *pending)
{
    pthread_cond_destroy(&pending->cond);
    free(pending);
}

/* Its upgrade does not come. */
static void conn_abandon(struct eb_ws_conn *conn)
{
    eb_net_place_give(conn->side->net);
    eb_session_close(conn->session);
    eb_session_unref(conn->session);
}

static void *thread_main(void *arg)
{
    struct eb_ws_pending *pending = arg;
    struct eb_ws_side *side = pending->side;

    pthread_setname_np(pthread_self(), "eb-ws");
    eb_lock_take(&side->lock);
    while (pending->state == EB_PENDING_WAITS)
        eb_cond_wait(&pending->cond, &side->lock, -1);
    struct eb_ws_conn *conn = pending->conn;
    bool go = pending->state == EB_PENDING_GO;
    bool left_behind = pending->state == EB_PENDING_ABANDONED;
    pending->conn = NULL;
    if (!left_behind)
        pending_unlink_locked(pending);
    eb_lock_drop(&side->lock);

    if (!left_behind)
        pending_free(pending);
    if (go)
        eb_ws_conn_run(conn);
    else
        conn_abandon(conn);
    return NULL;
}

void eb_ws_pending_tick_locked(struct eb_ws_side *side, int64_t now_ms, bool all)
{
    struct eb_ws_pending *next;

    eb_lock_assert_held(&side->lock);
    for (struct eb_ws_pending *pending = side->pending; pending; pending = next) {
        int64_t age = now_ms - pending->since_ms;
        next = pending->next;
        if (pending->state == EB_PENDING_WAITS && (all || age > PENDING_MS)) {
            pending->state = EB_PENDING_ABANDONED;
            pthread_cond_signal(&pending->cond);
        } else if (pending->state == EB_PENDING_ABANDONED && !pending->conn && age > FORGET_MS) {
            pending_unlink_locked(pending);
            pending_free(pending);
        }
    }
}

/* ---- after the 101 ---- */

static void set_options(struct eb_ws_conn *conn)
{
    const int one = 1, buffer = SEND_BUFFER;
    const struct timeval idle_free = {.tv_usec = EB_WS_IDLE_FREE_MS * 1000};
    int64_t ping = atomic_load(&conn->side->ping_interval_ms);
    int64_t stall = atomic_load(&conn->side->stall_timeout_ms);
    int idle_s = ping > 0 ? (int)((ping + 999) / 1000) : 60;
    unsigned user_ms = (unsigned)(stall + USER_GRACE_MS);

    /* All of these are improvements only, and a Unix socket knows but the first. */
    setsockopt(conn->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(conn->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(conn->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    setsockopt(conn->fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle_s, sizeof(idle_s));
    /* Its thread waits for bytes in recv itself (I1 in ws_input.c); all others that use it say MSG_DONTWAIT. */
    setsockopt(conn->fd, SOL_SOCKET, SO_RCVTIMEO, &idle_free, sizeof(idle_free));
    fcntl(conn->fd, F_SETFL, fcntl(conn->fd, F_GETFL) & ~O_NONBLOCK);
    if (stall > 0)
        setsockopt(conn->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof(user_ms));
}

/* Keep the registry in the order of session numbers: nearly always at the end. */
static void register_locked(struct eb_ws_side *side, struct eb_ws_conn *conn)
{
    struct eb_ws_conn *before = side->last;

    while (before && before->number > conn->number)
        before = before->prev;
    conn->prev = before;
    conn->next = before ? before->next : side->first;
    if (conn->prev)
        conn->prev->next = conn;
    else
        side->first = conn;
    if (conn->next)
        conn->next->prev = conn;
    else
        side->last = conn;
    side->running++;
}

/* A descriptor of our own for the client's socket; -1: libmicrohttpd's is to be kept (U3). */
static int own_socket(struct MHD_Connection *connection, int sock)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    return info && info->connect_fd == sock ? fcntl(sock, F_DUPFD_CLOEXEC, 0) : -1;
}

/* Let the parked thread run on @fd. False: it has been let go. */
static bool hand_over(struct eb_ws_pending *pending, int fd, struct MHD_UpgradeResponseHandle *urh,
                      const char *early, size_t early_len)
{
    struct eb_ws_side *side = pending->side;
    int64_t now = eb_mono_ms();

    eb_lock_take(&side->lock);
    struct eb_ws_conn *conn = pending->conn;
    bool wanted = pending->state == EB_PENDING_WAITS;
    if (wanted) {
        conn->fd = fd;
        conn->urh = urh;
        conn->connected_ms = eb_wall_ms();
        conn->born_ms = now;
        atomic_store(&conn->received_ms, now);
        if (early_len > 0)
            eb_buf_add(&conn->early, early, early_len);
        set_options(conn);
        register_locked(side, conn);
        eb_ws_count(&side->count.connections_total);
        if (conn->binary)
            eb_ws_count(&side->count.binary_connections);
        pending->state = EB_PENDING_GO;
        pthread_cond_signal(&pending->cond);
    }
    eb_lock_drop(&side->lock);
    return wanted;
}

static void on_upgraded(void *cls, struct MHD_Connection *connection, void *req_cls,
                        const char *extra_in, size_t extra_in_size, MHD_socket sock,
                        struct MHD_UpgradeResponseHandle *urh)
{
    int own = own_socket(connection, sock);
    bool taken =
        hand_over(cls, own >= 0 ? own : sock, own >= 0 ? NULL : urh, extra_in, extra_in_size);

    if (!taken) {
        shutdown(sock, SHUT_RDWR);
        if (own >= 0)
            close(own);
    }
    if (!taken || own >= 0)
        MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
}

/* ---- before it ---- */

static void peer_name(struct MHD_Connection *connection, char *out, size_t size)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *addr = info ? info->client_addr : NULL;
    char host[48], port[8];
    socklen_t len = addr && addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                        : sizeof(struct sockaddr_in);

    snprintf(out, size, "%s", "unix");
    if (!addr || (addr->sa_family != AF_INET && addr->sa_family != AF_INET6))
        return;
    if (getnameinfo(addr, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(out, size, addr->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

static int conn_create(struct eb_ws_side *side, struct MHD_Connection *connection,
                       const struct eb_ws_agreed *agreed, struct eb_ws_conn **ret)
{
    struct eb_ws_conn *conn = calloc(1, sizeof(*conn));
    unsigned n = atomic_fetch_add(&side->next_flusher, 1);

    if (!conn)
        return -ENOMEM;
    conn->side = side;
    conn->fd = -1;
    conn->asked = agreed->asked;
    conn->protocol = agreed->protocol;
    conn->binary = agreed->protocol && strcmp(agreed->protocol, EB_WS_PROTOCOL_BINARY) == 0;
    conn->flusher = side->flushers[n % side->flusher_count];
    peer_name(connection, conn->peer, sizeof(conn->peer));
    eb_lock_init(&conn->lock, EB_RANK_LEAF);
    eb_cond_init(&conn->closed);
    int rc =
        eb_session_create(side->bus, conn->binary ? &eb_ws_binary_session_ops : &eb_ws_session_ops,
                          conn, false, &conn->session);
    if (rc < 0) {
        pthread_cond_destroy(&conn->closed);
        eb_lock_finish(&conn->lock);
        free(conn);
        return rc;
    }
    eb_session_collect(conn->session);
    conn->number = eb_session_number(conn->session);
    eb_lock_take(&side->count_lock);
    side->alive++;
    eb_lock_drop(&side->count_lock);
    *ret = conn;
    return 0;
}

static int thread_start(struct eb_ws_pending *pending)
{
    pthread_attr_t attr;
    pthread_t thread;
    int rc = pthread_attr_init(&attr);

    if (rc)
        return -rc;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    rc = pthread_create(&thread, &attr, thread_main, pending);
    pthread_attr_destroy(&attr);
    return -rc;
}

/* Connection and parked thread, in the list of pending upgrades. The caller holds a place, taken over on success. */
static int pending_create(struct eb_ws_side *side, struct MHD_Connection *connection,
                          const struct eb_ws_agreed *agreed, struct eb_ws_pending **ret)
{
    struct eb_ws_pending *pending = calloc(1, sizeof(*pending));
    int rc;

    if (!pending)
        return -ENOMEM;
    pending->side = side;
    pending->since_ms = eb_mono_ms();
    eb_cond_init(&pending->cond);
    rc = conn_create(side, connection, agreed, &pending->conn);
    if (rc < 0)
        goto free_pending;
    eb_lock_take(&side->lock);
    pending->next = side->pending;
    if (pending->next)
        pending->next->prev = pending;
    side->pending = pending;
    if (atomic_load(&side->stopping))
        pending->state = EB_PENDING_ABANDONED;
    eb_lock_drop(&side->lock);
    rc = thread_start(pending);
    if (rc < 0)
        goto unlink;
    *ret = pending;
    return 0;

unlink:
    eb_lock_take(&side->lock);
    pending_unlink_locked(pending);
    eb_lock_drop(&side->lock);
    eb_session_close(pending->conn->session);
    eb_session_unref(pending->conn->session);
free_pending:
    pending_free(pending);
    return rc;
}

/* The 101 cannot be queued: the thread goes. */
static void pending_refuse(struct eb_ws_pending *pending)
{
    struct eb_ws_side *side = pending->side;

    eb_lock_take(&side->lock);
    if (pending->state == EB_PENDING_WAITS) {
        pending->state = EB_PENDING_REFUSED;
        pthread_cond_signal(&pending->cond);
    }
    eb_lock_drop(&side->lock);
}

struct gather {
    struct eb_buf upgrade, connection, version, key, protocols;
    unsigned keys;
};

static enum MHD_Result gather_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                     const char *value)
{
    struct gather *gather = cls;
    struct eb_buf *buf = NULL;

    if (strcasecmp(name, "Upgrade") == 0)
        buf = &gather->upgrade;
    else if (strcasecmp(name, "Connection") == 0)
        buf = &gather->connection;
    else if (strcasecmp(name, "Sec-WebSocket-Version") == 0)
        buf = &gather->version;
    else if (strcasecmp(name, "Sec-WebSocket-Key") == 0)
        buf = &gather->key, gather->keys++;
    else if (strcasecmp(name, "Sec-WebSocket-Protocol") == 0)
        buf = &gather->protocols;
    if (buf) {
        if (buf->len > 0)
            eb_buf_str(buf, ", ");
        eb_buf_str(buf, value ? value : "");
    }
    return MHD_YES;
}

static const char *text_of(struct eb_buf *buf)
{
    if (buf->len == 0)
        return NULL;
    eb_buf_add(buf, "", 1);
    return eb_buf_failed(buf) ? NULL : buf->data;
}

static enum eb_ws_handshake read_handshake(struct MHD_Connection *connection,
                                           struct eb_ws_agreed *ret, char *why, size_t why_size)
{
    struct gather gather = {0};

    MHD_get_connection_values(connection, MHD_HEADER_KIND, gather_header, &gather);
    struct eb_ws_offer offer = {
        .upgrade = text_of(&gather.upgrade),
        .connection = text_of(&gather.connection),
        .version = text_of(&gather.version),
        .key = text_of(&gather.key),
        .protocols = text_of(&gather.protocols),
        .keys = gather.keys,
    };
    enum eb_ws_handshake result = eb_ws_handshake(&offer, ret, why, why_size);
    eb_buf_finish(&gather.upgrade);
    eb_buf_finish(&gather.connection);
    eb_buf_finish(&gather.version);
    eb_buf_finish(&gather.key);
    eb_buf_finish(&gather.protocols);
    return result;
}

/* 426 is not among the codes of the protocol: an invalid_request with the status that RFC 6455 4.4 wants. */
static enum MHD_Result answer_upgrade_required(struct MHD_Connection *connection, const char *why)
{
    struct eb_buf body = EB_BUF_INIT;

    eb_buf_str(&body, "{\"type\":\"about:blank\",\"title\":\"Upgrade Required\",\"status\":426,"
                      "\"detail\":");
    eb_json_write_string(&body, why, strlen(why));
    eb_buf_str(&body, ",\"code\":\"invalid_request\"}");
    if (eb_buf_failed(&body)) {
        eb_buf_finish(&body);
        return MHD_NO;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(body.len, body.data, MHD_RESPMEM_MUST_COPY);
    eb_buf_finish(&body);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", "application/problem+json");
    MHD_add_response_header(response, "Upgrade", "websocket");
    MHD_add_response_header(response, "Connection", "Upgrade");
    MHD_add_response_header(response, "Sec-WebSocket-Version", "13");
    enum MHD_Result result = MHD_queue_response(connection, 426, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result queue_101(struct MHD_Connection *connection,
                                 const struct eb_ws_agreed *agreed, struct eb_ws_pending *pending)
{
    struct MHD_Response *response = MHD_create_response_for_upgrade(on_upgraded, pending);

    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Upgrade", "websocket");
    MHD_add_response_header(response, "Sec-WebSocket-Accept", agreed->accept);
    if (agreed->protocol)
        MHD_add_response_header(response, "Sec-WebSocket-Protocol", agreed->protocol);
    enum MHD_Result result = MHD_queue_response(connection, 101, response);
    MHD_destroy_response(response);
    return result;
}

enum MHD_Result eb_ws_upgrade(struct eb_ws_side *side, struct MHD_Connection *connection)
{
    struct eb_ws_agreed agreed;
    struct eb_ws_pending *pending;
    char why[160];

    enum eb_ws_handshake verdict = read_handshake(connection, &agreed, why, sizeof(why));
    if (verdict != EB_HANDSHAKE_OK)
        eb_ws_count(&side->count.refused);
    if (verdict == EB_HANDSHAKE_UPGRADE_REQUIRED)
        return answer_upgrade_required(connection, why);
    if (verdict == EB_HANDSHAKE_BAD)
        return eb_http_problem(side->net, connection, EB_INVALID_REQUEST, "%s", why);
    if (atomic_load(&side->stopping) || !eb_net_place_take(side->net)) {
        eb_ws_count(&side->count.refused);
        return eb_http_problem(side->net, connection, EB_UNAVAILABLE,
                               atomic_load(&side->stopping)
                                   ? "the broker is going down"
                                   : "max_connections are open; try again later");
    }
    int rc = pending_create(side, connection, &agreed, &pending);
    if (rc < 0) {
        eb_net_place_give(side->net);
        eb_ws_count(&side->count.refused);
        eb_warn("EB-NO-THREAD", "a WebSocket is refused: %s", strerror(-rc));
        return eb_http_problem(side->net, connection, EB_UNAVAILABLE,
                               "no room for another connection; try again later");
    }
    enum MHD_Result result = queue_101(connection, &agreed, pending);
    if (result == MHD_YES)
        return MHD_YES;
    /* libmicrohttpd refuses, as it does for HTTP/1.0: nothing was queued, so this answer may be. */
    pending_refuse(pending);
    eb_ws_count(&side->count.refused);
    return eb_http_problem(side->net, connection, EB_INVALID_REQUEST,
                           "a WebSocket handshake needs HTTP/1.1");
}
