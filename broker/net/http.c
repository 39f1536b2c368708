/*
 * http.c - one request from its URI to its completion: what libmicrohttpd tells us, in the order it tells it.
 *
 * libmicrohttpd calls eb_net_handle when the headers are in, for each piece of the body, when the body is
 * through, and again after each resume; http.h draws the states. What refuses a request (who may, route,
 * method, type, size) is decided when the headers are in, before a byte of the body is kept.
 */
#include "broker/net/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/text.h"

/* A refused body up to this size is read and thrown away, so that the connection can go on. */
#define DRAIN_MAX (256 * 1024)

/* ---- answers ---- */

const char *eb_http_header(struct eb_http_request *request, const char *name, size_t *ret_len)
{
    const char *value = NULL;
    size_t len = 0;
    if (MHD_lookup_connection_value_n(request->connection, MHD_HEADER_KIND, name, strlen(name),
                                      &value, &len) != MHD_YES)
        return NULL;
    while (value && len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'))
        len--; /* white space behind a value is no part of it (RFC 9110 5.5); libmicrohttpd leaves it */
    *ret_len = value ? len : 0;
    return value ? value : "";
}

void eb_media_type(const char *value, char *out, size_t size)
{
    size_t n = 0;
    value += strspn(value, " \t");
    for (; *value && *value != ';' && *value != ' ' && *value != '\t' && n + 1 < size; value++)
        out[n++] = *value >= 'A' && *value <= 'Z' ? (char)(*value + 32) : *value;
    out[n] = 0;
}

static void count_status(struct eb_net *net, unsigned status)
{
    if (status < 600)
        atomic_fetch_add_explicit(&net->status[status], 1, memory_order_relaxed);
}

static void add_headers_of_all(struct MHD_Response *response, bool no_store)
{
    if (no_store)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
}

enum MHD_Result eb_http_queue(struct eb_net *net, struct MHD_Connection *connection,
                              const struct eb_policy *policy, unsigned status,
                              struct MHD_Response *response, bool no_store)
{
    if (!response)
        return MHD_NO;
    add_headers_of_all(response, no_store);
    if (atomic_load(&net->stopping))
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    const char *origin = eb_cors_origin(policy, connection);
    if (origin) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
        MHD_add_response_header(response, "Access-Control-Expose-Headers",
                                "Allow, Location, Retry-After");
    }
    if (policy && policy->cors_origins[0])
        MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Origin");
    count_status(net, status);
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

/*
 * A short answer's response, kept with its connection: making one, its headers and letting it go costs more than all
 * else about the answer. The next one of the same type and length is written into it. libmicrohttpd asks us about a
 * request only when it has sent the whole answer to the one before, so nobody reads the text then.
 */
#define KEPT_MAX 160
struct eb_kept_answer {
    struct MHD_Response *response;
    const char *content_type;
    size_t len;
    char text[KEPT_MAX];
};

void eb_kept_answer_free(struct eb_kept_answer *kept)
{
    if (!kept)
        return;
    if (kept->response)
        MHD_destroy_response(kept->response);
    free(kept);
}

static struct eb_kept_answer *kept_answer(struct eb_peer *peer, const char *content_type,
                                          size_t len)
{
    struct eb_kept_answer *kept = peer->kept;
    if (kept && kept->len == len && strcmp(kept->content_type, content_type) == 0)
        return kept;
    eb_kept_answer_free(kept);
    peer->kept = kept = calloc(1, sizeof(*kept));
    if (!kept)
        return NULL;
    kept->content_type = content_type;
    kept->len = len;
    kept->response = MHD_create_response_from_buffer(len, kept->text, MHD_RESPMEM_PERSISTENT);
    if (!kept->response) {
        eb_kept_answer_free(kept);
        return peer->kept = NULL;
    }
    MHD_add_response_header(kept->response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    add_headers_of_all(kept->response, true);
    return kept;
}

/* False: it is to be answered in the common way. @content_type: a literal. */
static bool answer_with_kept(struct eb_http_request *request, unsigned status,
                             const char *content_type, const struct eb_buf *body,
                             enum MHD_Result *ret)
{
    struct eb_net *net = request->net;
    bool plain = !atomic_load(&net->stopping) && !request->policy->cors_origins[0];
    if (!request->peer || !plain || body->len > KEPT_MAX)
        return false;
    struct eb_kept_answer *kept = kept_answer(request->peer, content_type, body->len);
    if (!kept)
        return false;
    memcpy(kept->text, body->data, body->len);
    count_status(net, status);
    *ret = MHD_queue_response(request->connection, status, kept->response);
    return true;
}

enum MHD_Result eb_http_reply(struct eb_http_request *request, unsigned status,
                              const char *content_type, struct eb_buf *body)
{
    struct MHD_Response *response = NULL;
    enum MHD_Result result;
    if (!eb_buf_failed(body) && answer_with_kept(request, status, content_type, body, &result)) {
        eb_buf_finish(body);
        return result;
    }
    if (!eb_buf_failed(body))
        response = MHD_create_response_from_buffer(body->len, body->data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        eb_buf_finish(body);
        return MHD_NO;
    }
    *body = (struct eb_buf)EB_BUF_INIT;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    return eb_http_queue(request->net, request->connection, request->policy, status, response,
                         true);
}

enum MHD_Result eb_http_json(struct eb_http_request *request, unsigned status, struct eb_buf *body)
{
    eb_buf_add(body, "\n", 1);
    return eb_http_reply(request, status, "application/json", body);
}

/* ---- birth and death ---- */

void *eb_net_raw_uri(void *ctx, const char *uri, struct MHD_Connection *connection)
{
    struct eb_net *net = ctx;
    size_t len = strlen(uri);
    struct eb_http_request *request = malloc(sizeof(*request) + len + 1);
    if (!request)
        return NULL;
    memset(request, 0, sizeof(*request));
    memcpy(request->raw, uri, len + 1);
    request->net = net;
    request->connection = connection;
    request->policy = eb_net_policy(net);
    request->started_us = eb_mono_us();
    atomic_fetch_add(&net->active, 1);
    return request;
}

void eb_http_free(struct eb_http_request *request)
{
    if (!request)
        return;
    if (request->job_free)
        request->job_free(request->job);
    eb_buf_finish(&request->body);
    eb_policy_unref(request->policy);
    atomic_fetch_sub(&request->net->bodies, request->held);
    atomic_fetch_sub(&request->net->active, 1);
    eb_uri_finish(&request->uri);
    free(request);
}

void eb_net_completed(struct eb_net *net, struct MHD_Connection *connection, void **req_cls,
                      enum MHD_RequestTerminationCode why)
{
    struct eb_http_request *request = *req_cls;
    if (!request)
        return;
    *req_cls = NULL;
    if (request->linger)
        eb_linger(net, connection);
    if (!request->counted)
        eb_histogram_add(&net->request_duration, eb_mono_us() - request->started_us);
    eb_peer_enter(request->peer, EB_PEER_HEAD);
    if (request->peer)
        request->peer->request = NULL;
    request->sent = why == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    eb_http_free(request);
}

/* ---- the headers are in ---- */

static enum eb_method method_of(const char *method)
{
    static const struct {
        const char *name;
        enum eb_method method;
    } names[] = {{"GET", EB_METHOD_GET},       {"HEAD", EB_METHOD_HEAD},
                 {"POST", EB_METHOD_POST},     {"PUT", EB_METHOD_PUT},
                 {"DELETE", EB_METHOD_DELETE}, {"OPTIONS", EB_METHOD_OPTIONS}};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (strcmp(method, names[i].name) == 0)
            return names[i].method;
    return EB_METHOD_OTHER;
}

/* -1: no body, or (@chunked) of a length that is not told. */
static int64_t body_length(struct eb_http_request *request, bool *ret_chunked)
{
    size_t len;
    *ret_chunked = eb_http_header(request, MHD_HTTP_HEADER_TRANSFER_ENCODING, &len) != NULL;
    const char *text = eb_http_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH, &len);
    uint64_t value;
    if (*ret_chunked || !text)
        return -1;
    return eb_parse_u64(text, len, INT64_MAX, &value) ? (int64_t)value : INT64_MAX;
}

static int too_large(struct eb_http_request *request)
{
    return eb_fail(&request->refused, EB_PAYLOAD_TOO_LARGE,
                   "the body is larger than the %zu bytes allowed here", request->body_limit);
}

static int check_method(struct eb_http_request *request, const char *method)
{
    struct eb_error *err = &request->refused;
    char quoted[80];
    if (!request->route && !request->websocket)
        return eb_fail(
            err, EB_NOT_FOUND, "there is nothing at \"%s\"",
            eb_quote(quoted, sizeof(quoted), request->uri.path, strlen(request->uri.path)));
    unsigned methods = request->websocket ? EB_METHOD_GET : request->route->methods;
    bool fits = (methods & request->method) || (request->method == EB_METHOD_HEAD &&
                                                !request->websocket && (methods & EB_METHOD_GET));
    if (fits)
        return 0;
    return eb_fail(err, EB_METHOD_NOT_ALLOWED, "%s is not answered here: see the header Allow",
                   eb_quote(quoted, sizeof(quoted), method, strlen(method)));
}

struct framing {
    unsigned hosts, lengths, codings;
    bool chunked, spaced, names_event;
};

/* Does a header of this name say something of the event: Event-*, Idempotency-Key, ce-*, tracing? Most requests have none. */
static bool names_event(const char *key)
{
    static const char *const beginnings[] = {"ce-",   "event-",  "idempotency-key",
                                             "trace", "baggage", "expected-last-seq"};
    for (size_t i = 0; i < sizeof(beginnings) / sizeof(*beginnings); i++)
        if ((key[0] | 0x20) == beginnings[i][0] &&
            strncasecmp(key, beginnings[i], strlen(beginnings[i])) == 0)
            return true;
    return false;
}

static enum MHD_Result look_at_header(void *ctx, enum MHD_ValueKind kind, const char *key,
                                      size_t key_len, const char *value, size_t value_len)
{
    (void)kind, (void)value_len;
    struct framing *framing = ctx;
    framing->spaced |= memchr(key, ' ', key_len) || memchr(key, '\t', key_len);
    framing->names_event |= names_event(key);
    framing->hosts += strcasecmp(key, MHD_HTTP_HEADER_HOST) == 0;
    framing->lengths += strcasecmp(key, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0;
    if (strcasecmp(key, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0) {
        framing->codings++;
        framing->chunked = value && strcasecmp(value, "chunked") == 0;
    }
    return MHD_YES;
}

/*
 * What two readers could read as two things (RFC 9112 3.2, 5.1, 6.1, 6.3): libmicrohttpd takes the first of several lengths
 * and hosts, where a proxy before it may have taken another.
 */
static int check_framing(struct eb_http_request *request)
{
    struct framing framing = {0};
    MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, look_at_header, &framing);
    request->names_event = framing.names_event;
    const char *why = NULL;
    if (framing.spaced)
        why = "there is a space in the name of a header";
    else if (framing.hosts > 1)
        why = "there is more than one Host";
    else if (framing.lengths > 1)
        why = "there is more than one Content-Length";
    else if (framing.lengths && framing.codings)
        why = "there are Content-Length and Transfer-Encoding: one of them must say where the body "
              "ends";
    else if (framing.codings > 1 || (framing.codings && !framing.chunked))
        why = "the only Transfer-Encoding that is understood is \"chunked\"";
    return why ? eb_fail(&request->refused, EB_INVALID_REQUEST, "%s", why) : 0;
}

/* Everything that can be said before the body. Fills request->refused. */
static int begin(struct eb_http_request *request, const char *method)
{
    struct eb_error *err = &request->refused;
    request->method = method_of(method);
    bool bad_uri = eb_uri_split(&request->uri, request->raw, err) < 0;
    struct eb_error uri_error = *err;
    *err = (struct eb_error){.code = EB_OK, .index = -1};
    request->websocket = strcmp(request->uri.path, request->net->ws_path) == 0;
    if (!request->websocket)
        request->route = eb_route_find(request->uri.path, request->net->pages, &request->segment,
                                       &request->segment_len);
    bool open = request->method == EB_METHOD_OPTIONS || (request->route && request->route->open);
    if (eb_auth_check(request, open, err) < 0)
        return -1;
    if (request->method == EB_METHOD_OPTIONS)
        return 0;
    if (check_method(request, method) < 0)
        return -1;
    if (bad_uri) {
        *err = uri_error;
        return -1;
    }
    if (request->websocket)
        return eb_auth_origin(request, err);
    if (request->method & (EB_METHOD_POST | EB_METHOD_PUT) && request->route->post_begin)
        return request->route->post_begin(request, err);
    return 0;
}

static enum MHD_Result answer_refused(struct eb_http_request *request)
{
    eb_peer_enter(request->peer, EB_PEER_ANSWER);
    return eb_http_fail(request, &request->refused);
}

/* The answer, then the end of the connection. */
static enum MHD_Result answer_closing(struct eb_http_request *request)
{
    struct eb_buf body = EB_BUF_INIT;
    eb_peer_enter(request->peer, EB_PEER_ANSWER);
    eb_problem_write(&body, &request->refused);
    struct MHD_Response *response =
        eb_buf_failed(&body)
            ? NULL
            : MHD_create_response_from_buffer(body.len, body.data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        eb_buf_finish(&body);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/problem+json");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    request->linger = true;
    return eb_http_queue(request->net, request->connection, request->policy,
                         (unsigned)eb_code_http(request->refused.code), response, true);
}

static enum MHD_Result headers_in(struct eb_http_request *request, const char *method)
{
    bool chunked;
    size_t unused;
    request->begun = true;
    eb_peer_enter(request->peer, EB_PEER_BODY);
    if (check_framing(request) < 0)
        return answer_closing(request); /* nobody knows where the next request begins */
    begin(request, method);
    int64_t length = body_length(request, &chunked);
    request->has_body = chunked || length > 0;
    if (request->refused.code == EB_OK && length > 0 && (uint64_t)length > request->body_limit)
        too_large(request);
    if (request->refused.code == EB_OK || !request->has_body)
        return MHD_YES;
    bool expects = eb_http_header(request, MHD_HTTP_HEADER_EXPECT, &unused) != NULL;
    if (!expects && length <= DRAIN_MAX) {
        request->drain = true;
        return MHD_YES;
    }
    request->linger = true;
    return answer_refused(request);
}

/* ---- the body ---- */

/*
 * A body of untold length went on past all bounds. libmicrohttpd takes no response in the middle of an upload,
 * so the answer goes to the socket by hand, and the connection ends.
 */
static enum MHD_Result answer_by_hand(struct eb_http_request *request)
{
    struct MHD_Connection *connection = request->connection;
    const union MHD_ConnectionInfo *fd =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *tls =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    if (!fd || (tls && tls->tls_session))
        return MHD_NO;
    struct eb_buf body = EB_BUF_INIT, answer = EB_BUF_INIT;
    eb_problem_write(&body, &request->refused);
    eb_buf_printf(&answer,
                  "HTTP/1.1 413 Content Too Large\r\nContent-Type: application/problem+json\r\n"
                  "Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
                  body.len);
    eb_buf_add(&answer, body.data, body.len);
    if (!eb_buf_failed(&answer) && send(fd->connect_fd, answer.data, answer.len,
                                        MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)answer.len)
        atomic_fetch_add(&request->net->status[413], 1);
    eb_buf_finish(&body);
    eb_buf_finish(&answer);
    request->linger = true;
    return MHD_NO;
}

/* The body is of no more use: what comes of it is read and thrown away. */
static void drop_body(struct eb_http_request *request)
{
    request->drain = true;
    eb_buf_finish(&request->body);
    atomic_fetch_sub(&request->net->bodies, request->held);
    request->held = 0;
}

/* Keep a piece, within what all bodies together may take. */
static void keep_piece(struct eb_http_request *request, const char *data, size_t len)
{
    struct eb_net *net = request->net;
    request->held += len;
    if (atomic_fetch_add(&net->bodies, len) + len > net->max_body_bytes) {
        eb_fail(
            &request->refused, EB_UNAVAILABLE,
            "request bodies of more than %zu bytes (max_body_bytes) would be in memory at once: "
            "try again",
            net->max_body_bytes);
        drop_body(request);
        return;
    }
    eb_buf_add(&request->body, data, len);
    if (eb_buf_failed(&request->body)) {
        eb_fail(&request->refused, EB_UNAVAILABLE, "out of memory for this body");
        drop_body(request);
    }
}

static enum MHD_Result body_piece(struct eb_http_request *request, const char *data, size_t len)
{
    request->received += len;
    atomic_fetch_add_explicit(&request->net->bytes_in, len, memory_order_relaxed);
    eb_peer_received(request->peer, len);
    if (!request->drain && request->received > request->body_limit) {
        if (request->refused.code == EB_OK)
            too_large(request);
        drop_body(request);
    }
    if (request->drain)
        return request->received <= request->body_limit + DRAIN_MAX ? MHD_YES
                                                                    : answer_by_hand(request);
    keep_piece(request, data, len);
    return MHD_YES;
}

/* ---- all is in ---- */

static enum MHD_Result answer_options(struct eb_http_request *request)
{
    bool star = strcmp(request->uri.path, "*") == 0;
    if (!request->route && !request->websocket && !star) {
        eb_fail(&request->refused, EB_NOT_FOUND, "there is nothing here");
        return answer_refused(request);
    }
    char allow[64];
    eb_route_allow(star ? EB_METHOD_GET | EB_METHOD_PUT | EB_METHOD_POST | EB_METHOD_DELETE
                   : request->websocket ? 0
                                        : request->route->methods,
                   allow);
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW,
                            request->websocket ? "GET, OPTIONS" : allow);
    size_t len;
    const char *wanted = eb_http_header(request, "Access-Control-Request-Headers", &len);
    if (eb_cors_origin(request->policy, request->connection)) {
        MHD_add_response_header(response, "Access-Control-Allow-Methods", allow);
        MHD_add_response_header(response, "Access-Control-Max-Age", "600");
        if (wanted && len > 0)
            MHD_add_response_header(response, "Access-Control-Allow-Headers", wanted);
    }
    return eb_http_queue(request->net, request->connection, request->policy, 204, response, true);
}

static enum MHD_Result all_in(struct eb_http_request *request)
{
    eb_peer_enter(request->peer, EB_PEER_ANSWER);
    if (request->refused.code != EB_OK)
        return answer_refused(request);
    if (request->method == EB_METHOD_OPTIONS)
        return answer_options(request);
    switch (request->method) {
    case EB_METHOD_POST:
        return request->route->post(request);
    case EB_METHOD_PUT:
        return request->route->put(request);
    case EB_METHOD_DELETE:
        return request->route->remove(request);
    default:
        return request->route->get(request);
    }
}

/* The request ends here; from now on the WebSocket side owns the connection. */
static enum MHD_Result upgrade(struct eb_http_request *request, void **req_cls)
{
    struct eb_ws_side *ws = request->net->ws;
    struct MHD_Connection *connection = request->connection;
    eb_peer_enter(request->peer, EB_PEER_UPGRADED);
    *req_cls = NULL;
    if (request->peer)
        request->peer->request = NULL;
    eb_http_free(request);
    return eb_ws_upgrade(ws, connection);
}

static void name_thread(void)
{
    static _Thread_local bool named;
    static atomic_uint number;
    if (named)
        return;
    named = true;
    char name[16];
    snprintf(name, sizeof(name), "eb-http-%u", atomic_fetch_add(&number, 1) % 10000);
    pthread_setname_np(pthread_self(), name);
}

enum MHD_Result eb_net_handle(struct eb_net *net, struct MHD_Connection *connection,
                              const char *url, const char *method, const char *version,
                              const char *upload_data, size_t *upload_data_size, void **req_cls)
{
    struct eb_http_request *request = *req_cls;
    if (!request)
        return eb_http_problem(
            net, connection, EB_INTERNAL,
            "there is no memory, or the daemon lacks MHD_OPTION_URI_LOG_CALLBACK");
    if (!request->begun) {
        if (request->listener)
            name_thread();
        return headers_in(request, method);
    }
    if (*upload_data_size > 0) {
        size_t len = *upload_data_size;
        *upload_data_size = 0;
        return body_piece(request, upload_data, len);
    }
    if (request->dispatched)
        return request->resumed(request);
    /*
     * libmicrohttpd reads on a connection before it asks us after a resume, unless the state in which it was
     * suspended wanted no more input: then a peer that has shut down its sending side (a FIN behind its
     * request, as nc and others do) is cut off without an answer to what was done. That state is only noted
     * between two calls, so the request is begun in a second one, which follows at once.
     */
    if (!request->whole) {
        request->whole = true;
        return MHD_YES;
    }
    request->dispatched = true;
    if (request->websocket && request->refused.code == EB_OK && request->method == EB_METHOD_GET)
        return upgrade(request, req_cls);
    return all_in(request);
}
