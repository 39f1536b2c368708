/*
 * net.h - the network front of a broker: HTTP, Server-Sent Events and WebSockets over a bus.
 *
 * Rooms inside: http.c takes each request from libmicrohttpd and finds its route; rest.c, sse.c, pages.c answer;
 * auth.c says who may; ws.c takes an upgraded socket and its thread, ws_json.c speaks the JSON protocol on it,
 * flusher.c sends what sessions have queued, keeper.c watches the clock (pings, idle, stalled).
 *
 * Threads: `eb-accept` (one a listening socket), `eb-http-N` (libmicrohttpd's, two a listening socket), `eb-ws` (one a WebSocket), `eb-flush-N`, `eb-keeper`.
 */
#pragma once

#include <microhttpd.h>

#include "broker/bus/bus.h"

struct eb_net;

/* Strings and lists are copied. Lists are NULL-terminated or NULL. Times are milliseconds. */
struct eb_net_config {
    const char *ws_path; /* "/ws" */
    size_t max_message;
    size_t max_body_bytes;    /* of all request bodies in memory at once; 0: 256 MiB */
    unsigned max_connections; /* WebSockets and SSE streams together */
    unsigned
        max_http_connections; /* libmicrohttpd's own limit lies above max_connections by this much */
    double publish_rate;      /* events a second and connection; 0 = off */
    int64_t ping_interval_ms, idle_timeout_ms, stall_timeout_ms, request_timeout_ms, sse_comment_ms;
    size_t max_unsent_answers;  /* bytes, per connection */
    unsigned max_open_requests; /* per connection */
    const char *const *allowed_origins;
    const char *const *cors_origins;
    const char *const *tokens; /* NULL: no token is asked for */
    bool insecure;
    bool pages;        /* serve `/` and its static files */
    unsigned flushers; /* default 2 */
    const char *const
        *webhook_allow; /* networks that webhooks may call though they are not global */
    /* for /v1/stats: `limits` as one JSON object text, made by the broker from its settings table */
    const char *limits_json;
};

int eb_net_create(const struct eb_net_config *config, struct eb_bus *bus, struct eb_net **ret);
/** Swap tokens, origins, rates (SIGHUP). Threads: any. */
int eb_net_reconfigure(struct eb_net *net, const struct eb_net_config *config);
/**
 * Serve on a bound and listening socket (taken over). @loopback: the address is a loopback one (or a Unix
 * socket, @unix_socket), so the Host check of "Who may" applies. Several calls, several sockets.
 */
int eb_net_serve(struct eb_net *net, int listen_fd, bool loopback, bool unix_socket);
/** /readyz: 503 with @why from now on; NULL: ready. @why is a string literal. */
void eb_net_set_ready(struct eb_net *net, const char *why_not);
/**
 * The orderly end: no new connections, answer what is in flight, flush queues, close WebSockets with 1001 and
 * SSE bodies properly, all within @timeout_ms; then libmicrohttpd is stopped (its traps: DESIGN.md).
 * The bus and the store still run while this goes on.
 */
void eb_net_stop(struct eb_net *net, int64_t timeout_ms);
/** After eb_net_stop. NULL is fine. */
void eb_net_destroy(struct eb_net *net);

/* ---- a host's own daemon (embedding; host.c) ---- */

/** Is this path (as libmicrohttpd tells it, decoded) one that only the bus answers: ws_path, /v1 and below? */
bool eb_net_host_wants(const struct eb_net *net, const char *url);
/**
 * Serve one request of a host's daemon. The daemon is checked at the first call for each: what it lacks is
 * named in a 500. Until eb_net_stop; after it the answer is 503.
 */
enum MHD_Result eb_net_host_handle(struct eb_net *net, struct MHD_Connection *connection,
                                   const char *url, const char *method, const char *version,
                                   const char *upload_data, size_t *upload_data_size,
                                   void **req_cls);
/** MHD_OPTION_NOTIFY_COMPLETED. False: the request is the host's own, nothing was touched. */
bool eb_net_host_completed(struct eb_net *net, struct MHD_Connection *connection, void **req_cls,
                           enum MHD_RequestTerminationCode why);
/** MHD_OPTION_URI_LOG_CALLBACK. NULL: the request is the host's own (or there is no memory). */
void *eb_net_host_raw_uri(struct eb_net *net, const char *uri, struct MHD_Connection *connection);
