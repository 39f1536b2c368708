/*
 * internal.h - what the rooms of broker/net/ share: the net itself, one HTTP request, a WebSocket's life.
 */
#pragma once

#include "broker/net/net.h"
#include "common/lock.h"

/* ---- http.c: requests and answers ---- */

struct eb_http_request; /* one per request, libmicrohttpd's req_cls; http.c */

/* ---- ws.c, owned by the WebSocket side ---- */

struct eb_ws_side; /* all WebSockets of a net, its flushers and keeper */
int eb_ws_side_create(struct eb_net *net, const struct eb_net_config *config, struct eb_bus *bus,
                      struct eb_ws_side **ret);
void eb_ws_side_reconfigure(struct eb_ws_side *side, const struct eb_net_config *config);
/**
 * Answer an upgrade request that auth.c has let through (method, path, Host, Origin and token are checked): validates
 * the handshake of RFC 6455 4.2.1 in full and the subprotocols, reserves the connection's place and thread,
 * queues 101 (or 400/426/503 as problem+json through eb_http_problem). @bearer: the subprotocol list held a bearer
 * token, which is not a protocol to be chosen.
 */
enum MHD_Result eb_ws_upgrade(struct eb_ws_side *side, struct MHD_Connection *connection);
/** No more upgrades; close all with @code (1001) once their queues are flushed or the deadline (eb_mono_ms) is there; wait for none. */
void eb_ws_side_stop(struct eb_ws_side *side, int close_code, int64_t deadline_ms);
void eb_ws_side_destroy(struct eb_ws_side *side);

struct eb_ws_counters {
    uint64_t connections, connections_total, refused_total, messages_in, bytes_in, frames_out,
        bytes_out, sends;
    uint64_t pings, pong_timeouts, idle_closed, stall_closed, bad_requests, legacy_connections,
        legacy_unsent;
    uint64_t protocol_errors, rate_limited, binary_connections, records_in;
};
void eb_ws_counters(struct eb_ws_side *side, struct eb_ws_counters *ret);

struct eb_connection_info {
    uint64_t session;      /* eb_session_number */
    const char *transport; /* "websocket" */
    const char *protocol;  /* "eventbus.json.v1", "legacy" … */
    char peer[64];
    int64_t connected_ms; /* wall clock */
    unsigned subscriptions;
    unsigned consumers; /* that it works for */
    uint64_t delivered, queued_events, queued_bytes;
    bool lagging;
};
/** WebSockets with a session number above @after, rising; malloc'd; returns how many (<= max). */
size_t eb_ws_connections(struct eb_ws_side *side, uint64_t after, size_t max,
                         struct eb_connection_info **ret);

/* ---- shared by HTTP and WebSocket (http.c) ---- */

/**
 * Places for long-lived connections (WebSocket and SSE together, max_connections): taken before a 101 or the
 * first byte of a stream. False: none is left.
 */
bool eb_net_place_take(struct eb_net *net);
void eb_net_place_give(struct eb_net *net);
/** Queue an application/problem+json answer with the headers each error needs (Allow, Retry-After, CORS). */
enum MHD_Result eb_http_problem(struct eb_net *net, struct MHD_Connection *connection,
                                enum eb_code code, const char *detail, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- a token bucket for publish_rate (rate.c); one thread at a time ---- */
struct eb_rate {
    double tokens;
    int64_t at_us;
};
/** Take @n tokens; false when there are too few. @per_second 0: always true. */
bool eb_rate_take(struct eb_rate *rate, double per_second, double n);
