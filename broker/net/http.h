/*
 * http.h - what the files of the HTTP side share: the net, one request from its first line to its last
 * byte, the answers, and the resuming of requests that wait.
 *
 * Life of a request (http.c moves it, nobody else):
 *
 *   uri seen -> headers in -> body ... -> handler -> [suspended -> resumed] -> answered -> completed
 *                   `-- refused: the body is drained if it is small, else left unread (linger.c) --^
 *
 * (H1) A request belongs to libmicrohttpd's thread that runs it, save while it is suspended: then it belongs
 *      to whoever will resume it, and is not touched by anyone else.
 * (H2) Suspend first, then submit: the completion may come before the submitting call returns.
 * (H3) Exactly one resume for each suspend. It is the last thing done with a request outside its thread.
 * (H4) Nothing is suspended any more once `gate` is shut: libmicrohttpd aborts the process when it is
 *      stopped with a suspended request.
 */
#pragma once

#include <stdatomic.h>

#include "broker/net/internal.h"
#include "common/buf.h"
#include "common/error.h"

struct eb_sse_stream;
struct eb_fetch;
struct eb_push;
struct eb_net_listener;

enum eb_method {
    EB_METHOD_GET = 1,
    EB_METHOD_HEAD = 2,
    EB_METHOD_POST = 4,
    EB_METHOD_OPTIONS = 8,
    EB_METHOD_OTHER = 16,
    EB_METHOD_PUT = 32,
    EB_METHOD_DELETE = 64,
};

/* ---- policy: who may, swapped whole by eb_net_reconfigure (auth.c) ---- */

/* All fields [I] but refs. */
struct eb_policy {
    atomic_uint refs;             /* [a] the net's, one per request that uses it */
    unsigned char (*digests)[32]; /* SHA-256 of each token */
    size_t digest_count;
    bool tokens; /* a token is asked for (also when the list is empty) */
    bool insecure;
    char **allowed_origins; /* NULL-terminated */
    char **cors_origins;
    double publish_rate;
    int64_t stall_timeout_ms;
    char *limits_json; /* for /v1/stats */
};
int eb_policy_create(const struct eb_net_config *config, struct eb_policy **ret);
void eb_policy_unref(struct eb_policy *policy);

struct eb_http_request;
bool eb_listener_checks_host(const struct eb_net_listener *listener); /* net.c */
/** Host, a foreign page's Origin, then token (unless @open). 0, or -1 with @err. */
int eb_auth_check(struct eb_http_request *request, bool open, struct eb_error *err);
/** A WebSocket's Origin. */
int eb_auth_origin(struct eb_http_request *request, struct eb_error *err);
/** Does a token of @policy equal @token? Takes the same time whichever it is and wherever they differ. */
bool eb_policy_token(const struct eb_policy *policy, const void *token, size_t len);
bool eb_host_is_loopback(const char *host);
/** Is @origin ("http://a:80") the same as what the Host header says? */
bool eb_origin_is_host(const char *origin, const char *host);
/** The value of Access-Control-Allow-Origin for this connection's Origin, or NULL. @policy is borrowed. */
const char *eb_cors_origin(const struct eb_policy *policy, struct MHD_Connection *connection);

/* ---- uri.c ---- */

#define EB_URI_PARAMS 80
struct eb_param {
    const char *name, *value; /* decoded, in the request's own copy */
    size_t name_len, value_len;
};
struct eb_uri {
    char *path;              /* raw, without query */
    struct eb_param *params; /* room for EB_URI_PARAMS, made for the first query */
    unsigned param_count;
};
void eb_uri_finish(struct eb_uri *uri);
/** Decode %XX of @text into @out (room for @len; may be @text). -1: a bad escape or %00. */
ptrdiff_t eb_percent_decode(char *out, const char *text, size_t len);
/** Take @raw apart in place (a URI in origin or absolute form). -1 with @err: bad escape, too many parameters. @uri: zeroed, or used before. */
int eb_uri_split(struct eb_uri *uri, char *raw, struct eb_error *err);
/** The last parameter of that name, or NULL. */
const struct eb_param *eb_uri_param(const struct eb_uri *uri, const char *name);
/**
 * A parameter that is a whole number from @min to @max; absent: *ret stays. -1 with EB_INVALID_REQUEST.
 * *ret_given (may be NULL) says whether it was there.
 */
int eb_uri_number(const struct eb_uri *uri, const char *name, uint64_t min, uint64_t max,
                  uint64_t *ret, bool *ret_given, struct eb_error *err);
/** Digits only, no sign, at most @max. */
bool eb_parse_u64(const char *text, size_t len, uint64_t max, uint64_t *ret);
/** All `pattern` parameters; malloc'd. -1 with @err (none, a bad one, too many). */
int eb_uri_patterns(const struct eb_uri *uri, struct eb_pattern **ret, size_t *ret_count,
                    struct eb_error *err);

/* ---- routes.c ---- */

struct eb_route {
    const char *path; /* "{}" stands for one segment */
    unsigned methods; /* enum eb_method; HEAD and OPTIONS are added where they belong */
    bool open;        /* no token is asked for */
    bool page;        /* only when pages are served */
    enum MHD_Result (*get)(struct eb_http_request *request);
    enum MHD_Result (*post)(struct eb_http_request *request);
    enum MHD_Result (*put)(struct eb_http_request *request);
    enum MHD_Result (*remove)(struct eb_http_request *request); /* DELETE */
    /* POST, PUT: headers are in, the body is not. Sets body_limit. -1 with @err. */
    int (*post_begin)(struct eb_http_request *request, struct eb_error *err);
};
/** Find the route of a raw path; NULL if there is none. @ret_segment: what "{}" stood for. */
const struct eb_route *eb_route_find(const char *path, bool pages, const char **ret_segment,
                                     size_t *ret_len);
/** "GET, HEAD, OPTIONS" of a route's methods. */
void eb_route_allow(unsigned methods, char out[64]);

/* ---- one TCP connection of our own daemons (linger.c) ---- */

enum eb_peer_state { EB_PEER_HEAD, EB_PEER_BODY, EB_PEER_ANSWER, EB_PEER_UPGRADED };
struct eb_peer {
    struct eb_peer *prev, *next;     /* [L] list of its net, under peers_lock */
    int fd;                          /* [I] open while it is on the list */
    atomic_int state;                /* [a] enum eb_peer_state */
    _Atomic int64_t since_ms;        /* [a] of the state; body: moves on with what was received */
    struct eb_rate rate;             /* its thread only */
    struct eb_http_request *request; /* its thread only: begun, not completed (L4) */
    struct eb_kept_answer *kept;     /* its thread only (http.c) */
};
void eb_kept_answer_free(struct eb_kept_answer *kept); /* NULL is fine */

/* ---- requests ---- */

struct eb_resume {
    struct eb_resume *next;
    struct MHD_Connection *connection;
};

/* Where the answer to a published request is to go; both become headers of the event. */
struct eb_reply_to {
    char topic[48];
    const char *correlation; /* borrowed */
    size_t correlation_len;
    bool given; /* the request has that header already */
};

struct eb_http_request {
    struct eb_net *net;                /* [I] */
    struct eb_net_listener *listener;  /* [I] NULL: a host's own daemon */
    struct MHD_Connection *connection; /* [I] */
    struct eb_peer *peer;              /* NULL: a host's own daemon */
    struct eb_policy *policy;          /* one reference */
    struct eb_uri uri;                 /* its texts lie in `raw` */
    enum eb_method method;
    const struct eb_route *route;
    const char *segment; /* raw */
    size_t segment_len;
    bool begun, whole, dispatched, websocket, has_body, drain, linger, counted;
    bool sent;               /* the socket has taken the whole answer; known to job_free */
    struct eb_error refused; /* code EB_OK: not refused */
    struct eb_buf body;
    size_t body_limit, received;
    size_t held; /* bytes of its body that count in net->bodies */
    int64_t started_us;
    struct eb_resume resume;
    enum MHD_Result (*resumed)(struct eb_http_request *request);
    void *job; /* what the handler keeps over a suspension */
    void (*job_free)(void *job);
    char media_type[80];                /* a POST's, lower case, without parameters */
    const struct eb_reply_to *reply_to; /* while its publish is built, or NULL */
    bool names_event; /* a header says something of the event (http.c names_event) */
    char raw[];       /* the URI as it came, then taken apart by uri */
};

/** End of a request's life. NULL is fine. */
void eb_http_free(struct eb_http_request *request);
/**
 * Suspend; @resumed runs on the request's thread when it was resumed. False: the broker is stopping and the
 * caller answers EB_UNAVAILABLE (H4). Submit the work only after this returned true (H2).
 */
bool eb_http_suspend(struct eb_http_request *request,
                     enum MHD_Result (*resumed)(struct eb_http_request *));
/** Resume with all others of this commit (on the committing thread, before `settled`). */
void eb_http_resume_settled(struct eb_http_request *request);
/** Resume soon. Any thread. */
void eb_http_resume_soon(struct eb_http_request *request);

/** Answer with @body, which is taken over and emptied. */
enum MHD_Result eb_http_reply(struct eb_http_request *request, unsigned status,
                              const char *content_type, struct eb_buf *body);
enum MHD_Result eb_http_json(struct eb_http_request *request, unsigned status, struct eb_buf *body);
/** Answer a problem. */
enum MHD_Result eb_http_fail(struct eb_http_request *request, const struct eb_error *err);
/** Queue @response after the headers that every answer has; destroys @response. NULL: out of memory. */
enum MHD_Result eb_http_queue(struct eb_net *net, struct MHD_Connection *connection,
                              const struct eb_policy *policy, unsigned status,
                              struct MHD_Response *response, bool no_store);
#define EB_PATH_TOPIC (3 * EB_TOPIC_MAX + 1)
/** The topic of the path, decoded into @out and checked. -1 with @err. */
int eb_http_path_topic(struct eb_http_request *request, char out[EB_PATH_TOPIC], size_t *ret_len,
                       struct eb_error *err);
/** Value of a request header or NULL; *ret_len its length. */
const char *eb_http_header(struct eb_http_request *request, const char *name, size_t *ret_len);
/** Copy the media type of @value (before ';', lower case, trimmed). */
void eb_media_type(const char *value, char *out, size_t size);

/** Problem as JSON text. @index < 0: none. */
void eb_problem_write(struct eb_buf *out, const struct eb_error *err);
enum MHD_Result eb_problem_queue(struct eb_net *net, struct MHD_Connection *connection,
                                 const struct eb_policy *policy, const struct eb_error *err,
                                 const char *allow);

/* ---- one-off reads (rest_read.c) ---- */

/* What a suspended read keeps; freed with its request. */
struct eb_read_job {
    struct eb_read read;
    struct eb_http_request *request;
    struct eb_pattern *patterns; /* malloc'd, or NULL */
    char *text;                  /* the same: what `read` borrows */
};
/** NULL: out of memory, which stands in request->refused. */
struct eb_read_job *eb_read_job_new(struct eb_http_request *request);
/** Suspend, read; @answer on the request's thread. */
enum MHD_Result eb_read_job_start(struct eb_read_job *job,
                                  enum MHD_Result (*answer)(struct eb_http_request *));
/** Answers read.event, or read.err. */
enum MHD_Result eb_rest_answer_event(struct eb_http_request *request);
/** `after` (0: absent) and `limit`. -1 with request->refused. */
int eb_rest_paging(struct eb_http_request *request, uint64_t *ret_after, uint64_t *ret_limit);
/** Ends a list: `],"next_after":…}`, null without @more. */
void eb_rest_write_next(struct eb_buf *out, bool more, uint64_t after);

/* ---- handlers ---- */

enum MHD_Result eb_rest_publish(struct eb_http_request *request);
int eb_rest_publish_begin(struct eb_http_request *request, struct eb_error *err);
/** The request's body as a publish to @topic, nothing submitted. -1 with @err. */
int eb_rest_publish_build(struct eb_http_request *request, const char *topic, size_t topic_len,
                          struct eb_publish **ret, struct eb_error *err);
/** A body's Content-Type, kept in media_type, and Content-Encoding: can it be read at all? -1 with @err. */
int eb_rest_check_encoding(struct eb_http_request *request, struct eb_error *err);
enum MHD_Result eb_rest_publish_events(struct eb_http_request *request);
int eb_rest_publish_events_begin(struct eb_http_request *request, struct eb_error *err);
enum MHD_Result eb_rest_events(struct eb_http_request *request);
enum MHD_Result eb_rest_event(struct eb_http_request *request);
enum MHD_Result eb_rest_topics(struct eb_http_request *request);
enum MHD_Result eb_rest_last(struct eb_http_request *request);
enum MHD_Result eb_rest_scheduled(struct eb_http_request *request);
enum MHD_Result eb_rest_unschedule(struct eb_http_request *request);
enum MHD_Result eb_rest_request(struct eb_http_request *request);
enum MHD_Result eb_rest_subscriptions(struct eb_http_request *request);
enum MHD_Result eb_rest_connections(struct eb_http_request *request);
enum MHD_Result eb_rest_stats(struct eb_http_request *request);
enum MHD_Result eb_rest_metrics(struct eb_http_request *request);
enum MHD_Result eb_rest_healthz(struct eb_http_request *request);
enum MHD_Result eb_rest_readyz(struct eb_http_request *request);
enum MHD_Result eb_sse_handle(struct eb_http_request *request);
enum MHD_Result eb_page_handle(struct eb_http_request *request);

/* ---- requests that wait for their reply (rest_request.c) ---- */

/** End those whose time is over; when the next one's is. On the ticker's thread. */
int64_t eb_calls_tick(struct eb_net *net, int64_t now_ms);
/** End all, those that are on their way in too: `stopping` is set before. */
void eb_calls_stop(struct eb_net *net);
/** Answer all waiting fetches of consumers now (rest_fetch.c). */
void eb_fetch_stop(struct eb_net *net);

/* ---- SSE ---- */

/** End the bodies of all streams properly. */
void eb_sse_stop(struct eb_net *net);
/** Write comments where one is due. On the ticker's thread. */
void eb_sse_tick(struct eb_net *net, int64_t now_ms);
/** Streams with a session number above @after, rising; malloc'd. */
size_t eb_sse_connections(struct eb_net *net, uint64_t after, size_t max,
                          struct eb_connection_info **ret);
void eb_peer_name(struct MHD_Connection *connection, char out[64]);

/* ---- ticker (tick.c): resumes what is to be resumed, watches slow requests, lingering closes ---- */

int eb_tick_start(struct eb_net *net);
void eb_tick_stop(struct eb_net *net);
/** The thread that resumes takes @resume from here. Any thread. */
void eb_tick_resume(struct eb_net *net, struct eb_resume *resume);
/** eb_calls_tick is to be called at @at_ms. Any thread. */
void eb_tick_call_at(struct eb_net *net, int64_t at_ms);
/** `settled` of the bus. */
void eb_tick_settled(void *net);

/* ---- accept.c ---- */

/* One of libmicrohttpd's daemons of a listening socket: one thread, `eb-http-N`. Its callbacks are given this. */
struct eb_net_daemon {
    struct eb_net *net;               /* [I] */
    struct eb_net_listener *listener; /* [I] */
    struct MHD_Daemon *daemon;        /* [I] */
    atomic_uint count;                /* [a] connections it has, or is about to have */
};
/* `fd`, `limit`, `daemons` and their number are set before the start. */
struct eb_acceptor {
    int fd, stop_fd;               /* [I] its own; the listening one does not block */
    unsigned limit;                /* [I] connections of all daemons */
    unsigned daemon_count;         /* [I] */
    struct eb_net_daemon *daemons; /* [I] borrowed */
    pthread_t thread;
    bool started;
};
int eb_acceptor_start(struct eb_acceptor *acceptor);
/** No connection is taken any more; closes the socket. Nothing is done if it was not started. */
void eb_acceptor_stop(struct eb_acceptor *acceptor);

/* ---- linger.c ---- */

void eb_peer_notify(void *daemon, struct MHD_Connection *connection, void **socket_context,
                    enum MHD_ConnectionNotificationCode code);
/** @request is the peer's from now on. One that never was completed is freed. */
void eb_peer_begin(struct eb_peer *peer, struct eb_http_request *request);
void eb_peer_enter(struct eb_peer *peer, enum eb_peer_state state);
/** @len bytes of a body came. */
void eb_peer_received(struct eb_peer *peer, size_t len);
/** Shut down connections that take too long over a request. */
void eb_peer_tick(struct eb_net *net, int64_t now_ms);
/** Keep the socket of @connection open until its peer has read our last answer. */
void eb_linger(struct eb_net *net, struct MHD_Connection *connection);
/** True while there is one to look at. */
bool eb_linger_tick(struct eb_net *net, int64_t now_ms);
void eb_linger_finish(struct eb_net *net);

/* ---- host.c: requests of a host's own daemon (net.h) ---- */

struct eb_host_side; /* what was announced by a host's daemons and not completed */
int eb_host_side_create(struct eb_net *net, struct eb_host_side **ret);
/** After the host's daemons are stopped. NULL is fine. */
void eb_host_side_destroy(struct eb_host_side *side);

/* ---- one request, as libmicrohttpd tells it (http.c): for our own daemons and host.c ---- */

enum MHD_Result eb_net_handle(struct eb_net *net, struct MHD_Connection *connection,
                              const char *url, const char *method, const char *version,
                              const char *upload_data, size_t *upload_data_size, void **req_cls);
void eb_net_completed(struct eb_net *net, struct MHD_Connection *connection, void **req_cls,
                      enum MHD_RequestTerminationCode why);
/** MHD_OPTION_URI_LOG_CALLBACK: keeps the raw URI, so that %2F in a topic is not split. NULL: out of memory. */
void *eb_net_raw_uri(void *net, const char *uri, struct MHD_Connection *connection);

/* ---- the net ---- */

#define EB_LINGER_MAX   64
#define EB_HTTP_BUCKETS 20

struct eb_histogram {
    _Atomic uint64_t bucket[EB_HTTP_BUCKETS]; /* le 2^i * 50 us; the last is +Inf */
    _Atomic uint64_t sum_us, count;
};
void eb_histogram_add(struct eb_histogram *histogram, int64_t us);
void eb_histogram_write(struct eb_buf *out, const char *name, const char *labels,
                        struct eb_histogram *histogram);

/* [I] immutable after create   [a] atomic   [P] peers_lock   [S] streams_lock   [R] resume_lock   [L] policy_lock */
struct eb_net {
    struct eb_bus *bus;                             /* [I] */
    struct eb_ws_side *ws;                          /* [I] */
    struct eb_host_side *host;                      /* [I] */
    struct eb_push *push;                           /* [I] */
    char *ws_path;                                  /* [I] */
    size_t max_message;                             /* [I] */
    unsigned max_connections, max_http_connections; /* [I] */
    int64_t request_timeout_ms, sse_comment_ms;     /* [I] */
    bool pages;                                     /* [I] */
    int64_t started_ms;                             /* [I] monotonic */

    struct eb_lock policy_lock;        /* EB_RANK_LEAF */
    struct eb_policy *policy;          /* [L] */
    struct eb_net_listener *listeners; /* start and stop only */

    _Atomic(const char *) not_ready; /* [a] NULL: ready */
    atomic_bool stopping;            /* [a] streams end, answers close their connection */
    atomic_uint places;              /* [a] long-lived connections */
    size_t max_body_bytes;           /* [I] */
    atomic_size_t bodies;            /* [a] bytes of bodies in memory, of all requests */
    atomic_uint active;              /* [a] requests begun and not completed */

    struct eb_lock resume_lock;               /* EB_RANK_RESUME */
    pthread_cond_t resume_cond;               /* of the ticker */
    struct eb_resume *resume_soon;            /* [R] */
    struct eb_resume *resume_settled;         /* [R] */
    atomic_uint held;                         /* [a] suspended requests and streams (tick.c T2) */
    bool gate;                                /* [R] shut: no request may be suspended (H4) */
    bool tick_stop, tick_sleeps, tick_linger; /* [R] */
    int64_t calls_due_ms;                     /* [R] when eb_calls_tick is to be called */
    pthread_t tick;                           /* [I] */
    bool tick_started;

    struct eb_lock peers_lock; /* EB_RANK_CONNECTIONS */
    struct eb_peer *peers;     /* [P] */
    struct {
        int fd;
        int64_t until_ms;
    } linger[EB_LINGER_MAX]; /* [P] */
    unsigned linger_count;   /* [P] */

    struct eb_lock calls_lock; /* EB_RANK_CONNECTIONS */
    struct eb_call *calls;     /* requests that wait for their reply; under calls_lock */
    unsigned call_count;       /* the same */
    _Atomic uint64_t calls_total, calls_timeout, calls_unheard;

    struct eb_lock streams_lock;                  /* EB_RANK_CONNECTIONS */
    struct eb_sse_stream *streams, *streams_tail; /* [S] rising by session number */
    unsigned stream_count;                        /* [S] */
    atomic_bool streams_cut;                      /* [a] end them at once */
    int64_t tick_ms;                              /* [I] */

    struct eb_lock fetches_lock; /* EB_RANK_CONNECTIONS */
    struct eb_fetch *fetches;    /* [fetches_lock] those that wait */

    _Atomic uint64_t status[600]; /* [a] answers by HTTP status */
    _Atomic uint64_t sse_total, sse_events, slow_closed, bytes_in, refused_places;
    struct eb_histogram request_duration, publish_duration;
};
struct eb_policy *eb_net_policy(struct eb_net *net); /* one reference for the caller */
