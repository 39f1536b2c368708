/*
 * net.c - the net's life: its daemons (two of libmicrohttpd per listening socket, of one thread each), places, start and
 * the orderly end.
 *
 * The end, in the order that libmicrohttpd 0.9.75 needs (each step's reason):
 * (N1) no new connection is accepted, so that what follows is finite.
 * (N2) streams end their bodies when they have sent what is queued, fetches of consumers are answered, WebSockets are
 *      closed, no webhook is called any more: none of them waits for the other.
 * (N3) wait until no request is active, or the time is up. The bus still runs, so publishes are answered.
 * (N4) shut the gate (H4) and wait until every suspended request and stream has been resumed: MHD_stop_daemon
 *      aborts otherwise. This has no deadline: what a request waits for is a commit or one page of the log.
 * (N5) stop the daemons, then the ticker that resumed for them.
 * (N6) leave the bus: the committing thread may be inside our `settled`. A fence submitted after it was taken off
 *      is answered by a later commit, so behind it nobody knows of us.
 */
#include "broker/net/http.h"
#include "broker/net/push.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

#define HTTP_THREADS 2
/*
 * Room for a request's line and headers: the 16 KiB of an event's headers with their prefixes, 2 KiB of others,
 * libmicrohttpd's own list of them, and room for a piece of the body. A connection has it until its upgrade
 * (ws_upgrade.c U3) or its end; a stream keeps it. (Above 32 KiB the pool is mapped by itself, which is dear.)
 */
#define POOL_BYTES (28 * 1024)

struct eb_net_listener {
    struct eb_net_listener *next;
    struct eb_net *net;
    bool loopback, unix_socket;
    struct eb_acceptor acceptor;
    struct eb_net_daemon daemons[HTTP_THREADS];
};

/* A Unix socket is out of a browser's reach, so DNS rebinding is no matter there. */
bool eb_listener_checks_host(const struct eb_net_listener *listener)
{
    return listener->loopback && !listener->unix_socket;
}

struct eb_policy *eb_net_policy(struct eb_net *net)
{
    eb_lock_take(&net->policy_lock);
    struct eb_policy *policy = net->policy;
    atomic_fetch_add_explicit(&policy->refs, 1, memory_order_relaxed);
    eb_lock_drop(&net->policy_lock);
    return policy;
}

bool eb_net_place_take(struct eb_net *net)
{
    unsigned taken = atomic_load(&net->places);
    do {
        if (taken >= net->max_connections) {
            atomic_fetch_add(&net->refused_places, 1);
            return false;
        }
    } while (!atomic_compare_exchange_weak(&net->places, &taken, taken + 1));
    return true;
}

void eb_net_place_give(struct eb_net *net)
{
    atomic_fetch_sub(&net->places, 1);
}

static void net_free(struct eb_net *net)
{
    if (net->policy)
        eb_policy_unref(net->policy);
    eb_lock_finish(&net->policy_lock);
    eb_lock_finish(&net->resume_lock);
    eb_lock_finish(&net->peers_lock);
    eb_lock_finish(&net->streams_lock);
    eb_lock_finish(&net->calls_lock);
    eb_lock_finish(&net->fetches_lock);
    pthread_cond_destroy(&net->resume_cond);
    free(net->ws_path);
    free(net);
}

static int net_init(struct eb_net *net, const struct eb_net_config *config, struct eb_bus *bus)
{
    eb_lock_init(&net->policy_lock, EB_RANK_LEAF);
    eb_lock_init(&net->resume_lock, EB_RANK_RESUME);
    eb_lock_init(&net->peers_lock, EB_RANK_CONNECTIONS);
    eb_lock_init(&net->streams_lock, EB_RANK_CONNECTIONS);
    eb_lock_init(&net->calls_lock, EB_RANK_CONNECTIONS);
    net->calls_due_ms = INT64_MAX;
    eb_lock_init(&net->fetches_lock, EB_RANK_CONNECTIONS);
    eb_cond_init(&net->resume_cond);
    net->bus = bus;
    net->ws_path = strdup(config->ws_path ? config->ws_path : "/ws");
    if (!net->ws_path)
        return -ENOMEM;
    net->max_message = config->max_message;
    net->max_connections = config->max_connections;
    net->max_http_connections = config->max_http_connections ? config->max_http_connections : 256;
    net->max_body_bytes = config->max_body_bytes > 0 ? config->max_body_bytes : (size_t)256 << 20;
    net->request_timeout_ms = config->request_timeout_ms > 0 ? config->request_timeout_ms : 30000;
    net->sse_comment_ms = config->sse_comment_ms > 0 ? config->sse_comment_ms : 15000;
    int64_t shortest = net->sse_comment_ms < net->request_timeout_ms ? net->sse_comment_ms
                                                                     : net->request_timeout_ms;
    net->tick_ms = shortest / 8 < 10 ? 10 : shortest / 8 > 1000 ? 1000 : shortest / 8;
    net->pages = config->pages;
    net->started_ms = eb_mono_ms();
    return eb_policy_create(config, &net->policy);
}

int eb_net_create(const struct eb_net_config *config, struct eb_bus *bus, struct eb_net **ret)
{
    struct eb_net *net = calloc(1, sizeof(*net));
    if (!net)
        return -ENOMEM;
    int rc = net_init(net, config, bus);
    if (rc < 0)
        goto free_net;
    rc = eb_tick_start(net);
    if (rc < 0)
        goto free_net;
    rc = eb_ws_side_create(net, config, bus, &net->ws);
    if (rc < 0)
        goto stop_tick;
    rc = eb_host_side_create(net, &net->host);
    if (rc < 0)
        goto destroy_ws;
    rc = eb_push_create(bus, config, &net->push);
    if (rc < 0)
        goto destroy_host;
    eb_bus_on_settled(bus, eb_tick_settled, net);
    *ret = net;
    return 0;

destroy_host:
    eb_host_side_destroy(net->host);
destroy_ws:
    eb_ws_side_destroy(net->ws);
stop_tick:
    eb_tick_stop(net);
free_net:
    net_free(net);
    return rc;
}

int eb_net_reconfigure(struct eb_net *net, const struct eb_net_config *config)
{
    struct eb_policy *policy;
    int rc = eb_policy_create(config, &policy);
    if (rc < 0)
        return rc;
    eb_lock_take(&net->policy_lock);
    struct eb_policy *old = net->policy;
    net->policy = policy;
    eb_lock_drop(&net->policy_lock);
    eb_policy_unref(old);
    eb_ws_side_reconfigure(net->ws, config);
    return eb_push_reconfigure(net->push, config);
}

void eb_net_set_ready(struct eb_net *net, const char *why_not)
{
    atomic_store(&net->not_ready, why_not);
}

/* ---- daemons ---- */

/* libmicrohttpd would decode %2F before we have split the path: leave everything as it came. */
static size_t unescape_nothing(void *ctx, struct MHD_Connection *connection, char *text)
{
    return strlen(text);
}

static void log_line(void *ctx, const char *fmt, va_list args)
{
    if (eb_log_level() < EB_LOG_DEBUG)
        return;
    char line[256];
    int len = vsnprintf(line, sizeof(line), fmt, args);
    if (len > 0 && (size_t)len < sizeof(line) && line[len - 1] == '\n')
        line[len - 1] = 0;
    eb_debug("libmicrohttpd: %s", line);
}

static enum MHD_Result handle(void *daemon, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload_data,
                              size_t *upload_data_size, void **req_cls)
{
    return eb_net_handle(((struct eb_net_daemon *)daemon)->net, connection, url, method, version,
                         upload_data, upload_data_size, req_cls);
}

static void completed(void *daemon, struct MHD_Connection *connection, void **req_cls,
                      enum MHD_RequestTerminationCode why)
{
    eb_net_completed(((struct eb_net_daemon *)daemon)->net, connection, req_cls, why);
}

static void *raw_uri(void *ctx, const char *uri, struct MHD_Connection *connection)
{
    struct eb_net_daemon *daemon = ctx;
    struct eb_http_request *request = eb_net_raw_uri(daemon->net, uri, connection);
    if (request) {
        request->listener = daemon->listener;
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        request->peer = info ? info->socket_context : NULL;
        eb_peer_begin(request->peer, request);
        if (request->peer && atomic_load(&request->peer->state) == EB_PEER_UPGRADED)
            eb_peer_enter(request->peer,
                          EB_PEER_HEAD); /* the upgrade before this request was refused */
    }
    return request;
}

static struct MHD_Daemon *start_daemon(struct eb_net_daemon *daemon)
{
    struct eb_net *net = daemon->net;
    unsigned idle_s = (unsigned)((net->request_timeout_ms + 999) / 1000);
    return MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC |
            MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | MHD_USE_ERROR_LOG,
        0, NULL, NULL, handle, daemon, MHD_OPTION_EXTERNAL_LOGGER, log_line, NULL,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES, MHD_OPTION_CONNECTION_LIMIT,
        net->max_connections + net->max_http_connections, MHD_OPTION_CONNECTION_TIMEOUT, idle_s,
        MHD_OPTION_URI_LOG_CALLBACK, raw_uri, daemon, MHD_OPTION_UNESCAPE_CALLBACK,
        unescape_nothing, NULL, MHD_OPTION_NOTIFY_COMPLETED, completed, daemon,
        MHD_OPTION_NOTIFY_CONNECTION, eb_peer_notify, daemon, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_END);
}

static void stop_daemons(struct eb_net_listener *listener)
{
    for (unsigned i = 0; i < HTTP_THREADS; i++)
        if (listener->daemons[i].daemon)
            MHD_stop_daemon(listener->daemons[i].daemon);
}

static int listener_start(struct eb_net_listener *listener, int listen_fd)
{
    struct eb_net *net = listener->net;
    int flags = fcntl(listen_fd, F_GETFL);
    if (flags < 0 || fcntl(listen_fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    for (unsigned i = 0; i < HTTP_THREADS; i++) {
        struct eb_net_daemon *daemon = &listener->daemons[i];
        daemon->net = net;
        daemon->listener = listener;
        daemon->daemon = start_daemon(daemon);
        if (!daemon->daemon)
            return -ENOMEM;
    }
    listener->acceptor = (struct eb_acceptor){
        .fd = listen_fd,
        .limit = net->max_connections + net->max_http_connections,
        .daemons = listener->daemons,
        .daemon_count = HTTP_THREADS,
    };
    return eb_acceptor_start(&listener->acceptor);
}

int eb_net_serve(struct eb_net *net, int listen_fd, bool loopback, bool unix_socket)
{
    struct eb_net_listener *listener = calloc(1, sizeof(*listener));
    if (!listener)
        return -ENOMEM;
    listener->net = net;
    listener->loopback = loopback;
    listener->unix_socket = unix_socket;
    int rc = listener_start(listener, listen_fd);
    if (rc < 0) {
        stop_daemons(listener);
        free(listener);
        return rc;
    }
    listener->next = net->listeners;
    net->listeners = listener;
    return 0;
}

/* ---- the end ---- */

static bool wait_until_idle(struct eb_net *net, int64_t deadline_ms)
{
    while (atomic_load(&net->active) > 0) {
        if (eb_mono_ms() >= deadline_ms)
            return false;
        eb_lock_take(&net->resume_lock);
        eb_cond_wait(&net->resume_cond, &net->resume_lock, eb_mono_ms() + 10);
        eb_lock_drop(&net->resume_lock);
    }
    return true;
}

static void shut_gate(struct eb_net *net)
{
    eb_lock_take(&net->resume_lock);
    net->gate = true;
    while (atomic_load(&net->held) > 0)
        eb_cond_wait(&net->resume_cond, &net->resume_lock, eb_mono_ms() + 10);
    eb_lock_drop(&net->resume_lock);
}

/* ---- N6: a fence behind the last commit that knows of us ---- */

struct fence {
    struct eb_request request;
    struct eb_net *net;
    bool done; /* under resume_lock */
};

static void nothing(struct eb_session *session)
{
}

static void fence_done(struct eb_request *request)
{
    struct fence *fence = request->user;
    struct eb_net *net = fence->net;
    eb_lock_take(&net->resume_lock);
    fence->done = true;
    pthread_cond_broadcast(&net->resume_cond);
    eb_lock_drop(&net->resume_lock);
}

static void leave_bus(struct eb_net *net)
{
    static const struct eb_session_ops ops = {.wake = nothing, .destroy = nothing};
    struct fence fence = {.request = {.done = fence_done, .user = &fence}, .net = net};
    struct eb_session *session;
    eb_bus_on_settled(net->bus, NULL, NULL);
    if (eb_session_create(net->bus, &ops, NULL, false, &session) < 0)
        return;
    eb_bus_fence(net->bus, session, &fence.request);
    eb_lock_take(&net->resume_lock);
    while (!fence.done)
        eb_cond_wait(&net->resume_cond, &net->resume_lock, -1);
    eb_lock_drop(&net->resume_lock);
    eb_session_close(session);
    eb_session_unref(session);
}

void eb_net_stop(struct eb_net *net, int64_t timeout_ms)
{
    int64_t deadline = eb_mono_ms() + timeout_ms;
    eb_net_set_ready(net, "the broker is stopping");
    for (struct eb_net_listener *l = net->listeners; l; l = l->next) /* N1 */
        eb_acceptor_stop(&l->acceptor);
    atomic_store(&net->stopping, true);
    eb_sse_stop(net); /* N2 */
    eb_calls_stop(net);
    eb_fetch_stop(net);
    eb_push_quiesce(net->push);
    eb_ws_side_stop(net->ws, 1001, deadline);
    wait_until_idle(net, deadline); /* N3 */
    eb_push_stop(net->push, deadline);
    atomic_store(&net->streams_cut, true);
    eb_sse_stop(net);
    shut_gate(net);          /* N4 */
    while (net->listeners) { /* N5 */
        struct eb_net_listener *listener = net->listeners;
        net->listeners = listener->next;
        stop_daemons(listener);
        free(listener);
    }
    leave_bus(net); /* N6 */
}

void eb_net_destroy(struct eb_net *net)
{
    if (!net)
        return;
    eb_ws_side_destroy(net->ws);
    eb_host_side_destroy(net->host);
    eb_push_destroy(net->push);
    eb_tick_stop(net);
    eb_linger_finish(net);
    net_free(net);
}
