/*
 * host.c - requests that a host program's own libmicrohttpd daemon hands over: which are ours, and whether that
 * daemon is made so that we can serve them.
 *
 *   raw URI callback -> [registered, by connection] -> hand-over, checked -> eb_net_handle ... -> completion callback
 *
 * (O1) What stands in *req_cls is believed only if it is the registered request of that connection: it may be
 *      the host's own, or nothing, when a callback is missing.
 * (O2) Nothing is done for a request before the hand-over but keeping its URI: libmicrohttpd refuses some by
 *      itself and then completes them for nobody, and the host may not hand it over. Such a record goes with the
 *      next request of a connection at the same address, so there are never more than connections once were.
 * (O3) A connection that brings its next request while the one before was handed over and not completed
 *      proves that the completion callback is missing: libmicrohttpd calls it before either the next request or
 *      the end of the connection. From then on that daemon's requests are refused until a completion comes.
 * (O4) Nothing is suspended or upgraded on a daemon whose flags do not say so (libmicrohttpd would abort the process).
 */
#include "broker/net/http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BUCKETS 256

struct eb_host_request {
    struct eb_host_request *next;      /* [H] of its bucket */
    struct MHD_Connection *connection; /* [I] */
    struct MHD_Daemon *daemon;         /* [I] */
    char *raw;                         /* the request's thread: the URI, until it is handed over */
    void *inner;      /* the request's thread: what eb_net_handle calls its req_cls */
    bool handed;      /* the request's thread */
    bool uncompleted; /* [I] the one before it was never completed (O3) */
};

struct eb_host_side {
    struct eb_net *net;                     /* [I] */
    struct eb_lock lock;                    /* EB_RANK_LEAF */
    struct eb_host_request *table[BUCKETS]; /* [H] */
    _Atomic(struct MHD_Daemon *)
        no_completion; /* [a] a daemon that was found without the callback */
};

int eb_host_side_create(struct eb_net *net, struct eb_host_side **ret)
{
    struct eb_host_side *side = calloc(1, sizeof(*side));
    if (!side)
        return -ENOMEM;
    side->net = net;
    eb_lock_init(&side->lock, EB_RANK_LEAF);
    *ret = side;
    return 0;
}

static void request_free(struct eb_host_request *host)
{
    eb_http_free(host->inner);
    free(host->raw);
    free(host);
}

void eb_host_side_destroy(struct eb_host_side *side)
{
    if (!side)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (side->table[i]) {
            struct eb_host_request *host = side->table[i];
            side->table[i] = host->next;
            request_free(host);
        }
    }
    eb_lock_finish(&side->lock);
    free(side);
}

/* ---- the table ---- */

static struct eb_host_request **bucket(struct eb_host_side *side,
                                       const struct MHD_Connection *connection)
{
    return &side->table[((uintptr_t)connection >> 6) % BUCKETS];
}

/* The connection's request; taken out of the table if @take. NULL: none. */
static struct eb_host_request *find(struct eb_host_side *side,
                                    const struct MHD_Connection *connection, bool take)
{
    eb_lock_take(&side->lock);
    struct eb_host_request **at = bucket(side, connection);
    while (*at && (*at)->connection != connection)
        at = &(*at)->next;
    struct eb_host_request *host = *at;
    if (host && take)
        *at = host->next;
    eb_lock_drop(&side->lock);
    return host;
}

static void add(struct eb_host_side *side, struct eb_host_request *host)
{
    eb_lock_take(&side->lock);
    struct eb_host_request **at = bucket(side, host->connection);
    host->next = *at;
    *at = host;
    eb_lock_drop(&side->lock);
}

/* Ours, if *req_cls is (O1). */
static struct eb_host_request *ours(struct eb_host_side *side, struct MHD_Connection *connection,
                                    void *const *req_cls)
{
    struct eb_host_request *host = *req_cls ? find(side, connection, false) : NULL;
    return host == *req_cls ? host : NULL;
}

static struct MHD_Daemon *daemon_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_DAEMON);
    return info ? info->daemon : NULL;
}

static struct eb_host_request *announce(struct eb_host_side *side,
                                        struct MHD_Connection *connection, const char *uri)
{
    struct eb_host_request *host = calloc(1, sizeof(*host));
    if (!host)
        return NULL;
    host->connection = connection;
    host->daemon = daemon_of(connection);
    host->raw = strdup(uri);
    if (!host->raw) {
        free(host);
        return NULL;
    }
    add(side, host);
    return host;
}

/* ---- whose URL is it ---- */

/* Past "http://host" of the absolute form. */
static const char *path_of(const char *uri)
{
    if (strncasecmp(uri, "http://", 7) != 0 && strncasecmp(uri, "https://", 8) != 0)
        return uri;
    uri = strstr(uri, "//") + 2;
    return uri + strcspn(uri, "/?#");
}

/* As libmicrohttpd does before it tells its URL to the host: what is no escape stays. */
static size_t decode_path(const char *uri, char *out, size_t room)
{
    size_t len = strcspn(uri, "?#"), n = 0;
    for (size_t i = 0; i < len && n + 1 < room; i++) {
        char one[2];
        if (len - i >= 3 && memcmp(uri + i, "%00", 3) == 0)
            break;
        if (uri[i] == '%' && len - i >= 3 && eb_percent_decode(one, uri + i, 3) == 1) {
            out[n++] = one[0];
            i += 2;
        } else {
            out[n++] = uri[i];
        }
    }
    out[n] = 0;
    return n;
}

static bool is_bus_path(const struct eb_net *net, const char *path)
{
    return strcmp(path, net->ws_path) == 0 || strcmp(path, "/v1") == 0 ||
           strncmp(path, "/v1/", 4) == 0;
}

bool eb_net_host_wants(const struct eb_net *net, const char *url)
{
    return is_bus_path(net, path_of(url));
}

/* Only as much of the URI is decoded as tells whose it is. */
static bool wants_raw(const struct eb_net *net, const char *uri)
{
    char path[512];
    decode_path(path_of(uri), path, sizeof(path));
    return is_bus_path(net, path);
}

/* ---- libmicrohttpd's callbacks ---- */

void *eb_net_host_raw_uri(struct eb_net *net, const char *uri, struct MHD_Connection *connection)
{
    struct eb_host_side *side = net->host;
    struct eb_host_request *left = find(side, connection, true);
    bool uncompleted = left && left->handed;
    if (uncompleted)
        atomic_store(&side->no_completion, left->daemon); /* O3 */
    if (left)
        request_free(left);
    if (!wants_raw(side->net, uri))
        return NULL;
    struct eb_host_request *host = announce(side, connection, uri);
    if (host)
        host->uncompleted = uncompleted;
    return host;
}

bool eb_net_host_completed(struct eb_net *net, struct MHD_Connection *connection, void **req_cls,
                           enum MHD_RequestTerminationCode why)
{
    struct eb_host_side *side = net->host;
    struct eb_host_request *host = ours(side, connection, req_cls);
    if (!host)
        return false;
    struct MHD_Daemon *found = host->daemon;
    find(side, connection, true);
    atomic_compare_exchange_strong(&side->no_completion, &found, NULL);
    eb_net_completed(net, connection, &host->inner, why);
    request_free(host);
    *req_cls = NULL;
    return true;
}

/* What the daemon lacks, or has too much, for us to serve on it; NULL: nothing. */
static const char *wrong_flag(struct MHD_Daemon *daemon)
{
    const union MHD_DaemonInfo *info =
        daemon ? MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_FLAGS) : NULL;
    unsigned flags = info ? (unsigned)info->flags : 0;
    unsigned suspend = (unsigned)MHD_ALLOW_SUSPEND_RESUME & ~(unsigned)MHD_USE_ITC;
    if (!(flags & suspend))
        return "lacks the flag MHD_ALLOW_SUSPEND_RESUME";
    if (!(flags & MHD_ALLOW_UPGRADE))
        return "lacks the flag MHD_ALLOW_UPGRADE";
    if (flags & MHD_USE_THREAD_PER_CONNECTION)
        return "has the flag MHD_USE_THREAD_PER_CONNECTION, with which nothing can be suspended";
    return NULL;
}

static enum MHD_Result refuse(struct eb_host_side *side, struct MHD_Connection *connection,
                              const char *what)
{
    return eb_http_problem(side->net, connection, EB_INTERNAL,
                           "the program that serves this %s: see <eventbus/broker_mhd.h>", what);
}

/* The first call for a request: register what came without the raw URI, check the daemon. NULL: it was answered. */
static struct eb_host_request *take_over(struct eb_host_side *side,
                                         struct MHD_Connection *connection, const char *url,
                                         void **req_cls, enum MHD_Result *ret)
{
    struct eb_host_request *host = ours(side, connection, req_cls);
    struct MHD_Daemon *daemon = daemon_of(connection);
    const char *wrong = wrong_flag(daemon);
    if (!wrong && !host && *req_cls)
        wrong = "put something of its own into *req_cls before it handed the request over, or "
                "lacks the "
                "option MHD_OPTION_URI_LOG_CALLBACK";
    if (!wrong && !host && eb_net_host_wants(side->net, url))
        wrong = "lacks the option MHD_OPTION_URI_LOG_CALLBACK";
    if (!wrong && ((host && host->uncompleted) || atomic_load(&side->no_completion) == daemon))
        wrong = "lacks the option MHD_OPTION_NOTIFY_COMPLETED";
    if (!wrong && !host && !(host = announce(side, connection, url)))
        wrong = "is out of memory";
    if (wrong) {
        *ret = refuse(side, connection, wrong);
        return NULL;
    }
    host->handed = true;
    host->inner = eb_net_raw_uri(side->net, host->raw, connection);
    *req_cls = host;
    return host;
}

enum MHD_Result eb_net_host_handle(struct eb_net *net, struct MHD_Connection *connection,
                                   const char *url, const char *method, const char *version,
                                   const char *upload_data, size_t *upload_data_size,
                                   void **req_cls)
{
    enum MHD_Result result = MHD_NO;
    struct eb_host_request *host = ours(net->host, connection, req_cls);
    if (!host || !host->handed)
        host = take_over(net->host, connection, url, req_cls, &result);
    if (!host)
        return result;
    result = eb_net_handle(net, connection, url, method, version, upload_data, upload_data_size,
                           &host->inner);
    if (!host->inner) { /* upgraded: the request has ended, the connection is a WebSocket's */
        find(net->host, connection, true);
        request_free(host);
        *req_cls = NULL;
    }
    return result;
}
