/*
 * linger.c - the TCP connections of our own daemons: those that take too long over a request, and those that
 * must stay open a little so that the peer gets our answer.
 *
 * (L1) libmicrohttpd's timeout is one of silence: a byte now and then keeps a connection for ever
 *      (slow-loris). Here each request's head has request_timeout, its body the same and a floor of
 *      BODY_FLOOR bytes a millisecond on top. What is over is shut down; libmicrohttpd then closes it.
 * (L2) A socket closed with unread bytes in it is reset, and the reset may overtake the answer. So a
 *      refusal that leaves a body unread keeps a duplicate of the socket, reads it empty and closes it when
 *      the peer has, or after LINGER_TIME_MS. There are at most EB_LINGER_MAX of them; beyond, a reset.
 * (L3) A peer is on the list exactly while its socket is open: both ends are told by libmicrohttpd
 *      before the socket is closed.
 * (L4) A request whose headers libmicrohttpd refuses by itself (too large for its pool) is announced to us, by
 *      its URI, but never completed. So a peer knows its request and frees what was left.
 */
#include "broker/net/http.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

#define BODY_FLOOR     16
#define LINGER_TIME_MS 10000
#define LINGER_READS   16

static void peer_started(struct eb_net *net, struct MHD_Connection *connection,
                         void **socket_context)
{
    *socket_context = NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct eb_peer *peer = info ? calloc(1, sizeof(*peer)) : NULL;
    if (!peer)
        return;
    peer->fd = info->connect_fd;
    eb_peer_enter(peer, EB_PEER_HEAD);
    eb_lock_take(&net->peers_lock);
    peer->next = net->peers;
    if (peer->next)
        peer->next->prev = peer;
    net->peers = peer;
    eb_lock_drop(&net->peers_lock);
    *socket_context = peer;
}

static void peer_closed(struct eb_net *net, void **socket_context)
{
    struct eb_peer *peer = *socket_context;
    if (!peer)
        return;
    *socket_context = NULL;
    eb_lock_take(&net->peers_lock);
    if (peer->prev)
        peer->prev->next = peer->next;
    else
        net->peers = peer->next;
    if (peer->next)
        peer->next->prev = peer->prev;
    eb_lock_drop(&net->peers_lock);
    eb_http_free(peer->request);
    eb_kept_answer_free(peer->kept);
    free(peer);
}

void eb_peer_notify(void *ctx, struct MHD_Connection *connection, void **socket_context,
                    enum MHD_ConnectionNotificationCode code)
{
    struct eb_net_daemon *daemon = ctx;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        peer_started(daemon->net, connection, socket_context);
        return;
    }
    peer_closed(daemon->net, socket_context);
    atomic_fetch_sub(&daemon->count, 1); /* accept.c G2 */
}

void eb_peer_begin(struct eb_peer *peer, struct eb_http_request *request)
{
    if (!peer)
        return;
    eb_http_free(peer->request);
    peer->request = request;
}

void eb_peer_enter(struct eb_peer *peer, enum eb_peer_state state)
{
    if (!peer)
        return;
    atomic_store(&peer->since_ms, eb_mono_ms());
    atomic_store(&peer->state, state);
}

void eb_peer_received(struct eb_peer *peer, size_t len)
{
    if (!peer)
        return;
    int64_t since = atomic_load(&peer->since_ms) + (int64_t)(len / BODY_FLOOR), now = eb_mono_ms();
    atomic_store(&peer->since_ms, since < now ? since : now);
}

void eb_peer_tick(struct eb_net *net, int64_t now_ms)
{
    eb_lock_take(&net->peers_lock);
    for (struct eb_peer *peer = net->peers; peer; peer = peer->next) {
        int state = atomic_load(&peer->state);
        if (state != EB_PEER_HEAD && state != EB_PEER_BODY)
            continue;
        if (now_ms - atomic_load(&peer->since_ms) < net->request_timeout_ms)
            continue;
        shutdown(peer->fd, SHUT_RDWR);
        atomic_store(&peer->state, EB_PEER_ANSWER);
        atomic_fetch_add(&net->slow_closed, 1);
    }
    eb_lock_drop(&net->peers_lock);
}

void eb_linger(struct eb_net *net, struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    int fd = info ? fcntl(info->connect_fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd < 0)
        return;
    eb_lock_take(&net->peers_lock);
    bool taken = net->linger_count < EB_LINGER_MAX;
    if (taken) {
        net->linger[net->linger_count].fd = fd;
        net->linger[net->linger_count].until_ms = eb_mono_ms() + LINGER_TIME_MS;
        net->linger_count++;
    }
    eb_lock_drop(&net->peers_lock);
    if (!taken) {
        close(fd);
        return;
    }
    eb_lock_take(&net->resume_lock);
    net->tick_linger = true;
    pthread_cond_broadcast(&net->resume_cond);
    eb_lock_drop(&net->resume_lock);
}

/* False: the peer has closed, or went wrong. On the ticker's thread. */
static bool read_empty(int fd)
{
    char waste[65536];
    for (int i = 0; i < LINGER_READS; i++) {
        ssize_t got = recv(fd, waste, sizeof(waste), MSG_DONTWAIT);
        if (got == 0)
            return false;
        if (got < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    }
    return true;
}

/* The list is the ticker's but for what is added at its end, so an entry may be read without the lock. */
bool eb_linger_tick(struct eb_net *net, int64_t now_ms)
{
    eb_lock_take(&net->peers_lock);
    unsigned count = net->linger_count;
    eb_lock_drop(&net->peers_lock);
    for (unsigned i = 0; i < count;) {
        eb_lock_take(&net->peers_lock);
        int fd = net->linger[i].fd;
        int64_t until = net->linger[i].until_ms;
        eb_lock_drop(&net->peers_lock);
        if (now_ms < until && read_empty(fd)) {
            i++;
            continue;
        }
        shutdown(fd, SHUT_RDWR);
        close(fd);
        eb_lock_take(&net->peers_lock);
        net->linger[i] = net->linger[--net->linger_count];
        eb_lock_drop(&net->peers_lock);
        count--;
    }
    return count > 0;
}

void eb_linger_finish(struct eb_net *net)
{
    while (net->linger_count > 0)
        close(net->linger[--net->linger_count].fd);
}
