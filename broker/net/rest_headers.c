/*
 * rest_headers.c - what the headers of a request say of the event that is its body: its own headers, id, ttl and
 * Content-Type, and what is asked beside.
 */
#include <string.h>

#include "broker/net/rest_body.h"
#include "common/event_ask.h"
#include "common/text.h"

bool eb_rest_is_ce_binary(struct eb_http_request *request)
{
    static const char *const names[] = {"ce-specversion", "ce-id", "ce-source", "ce-type"};
    size_t len;
    if (!request->names_event)
        return false;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (eb_http_header(request, names[i], &len))
            return true;
    return false;
}

struct header_walk {
    struct eb_http_request *request;
    struct eb_headers *headers;
    struct eb_ce_core *core;           /* binary mode, or NULL */
    struct eb_buf tracestate, baggage; /* may come in several lines, which are one list */
    struct eb_error *err;
    bool failed;
};

static void join(struct eb_buf *list, const char *value, size_t len)
{
    if (list->len > 0)
        eb_buf_add(list, ",", 1);
    eb_buf_add(list, value, len);
}

static int ce_header(struct header_walk *walk, const char *name, size_t name_len, const char *value,
                     size_t len)
{
    struct eb_buf decoded = EB_BUF_INIT;
    eb_ce_header_value(&decoded, value, len);
    int rc = eb_buf_failed(&decoded)
                 ? eb_fail(walk->err, EB_UNAVAILABLE, "out of memory")
                 : eb_ce_attribute(walk->core, walk->headers, name, name_len,
                                   decoded.data ? decoded.data : "", decoded.len, walk->err);
    eb_buf_finish(&decoded);
    return rc;
}

static enum MHD_Result one_header(void *ctx, enum MHD_ValueKind kind, const char *key,
                                  size_t key_len, const char *value, size_t len)
{
    struct header_walk *walk = ctx;
    char name[256];
    if (!value)
        value = "", len = 0;
    while (len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'))
        len--; /* as eb_http_header does */
    if (key_len >= sizeof(name)) {
        if (strncasecmp(key, "event-header-", 13) == 0)
            eb_fail(walk->err, EB_INVALID_REQUEST, "the name of an Event-Header may have %zu bytes",
                    sizeof(name) - 14);
        else if (walk->core && strncasecmp(key, "ce-", 3) == 0)
            eb_fail(walk->err, EB_INVALID_REQUEST,
                    "the name of a CloudEvents attribute may have 64 letters and digits");
        else
            return MHD_YES; /* not ours */
        walk->failed = true;
        return MHD_NO;
    }
    for (size_t i = 0; i <= key_len; i++)
        name[i] = key[i] >= 'A' && key[i] <= 'Z' ? (char)(key[i] + 32) : key[i];
    int rc = 0;
    if (strncmp(name, "event-header-", 13) == 0)
        rc = eb_headers_add(walk->headers, name + 13, key_len - 13, value, len, walk->err);
    else if (walk->core && strncmp(name, "ce-", 3) == 0)
        rc = ce_header(walk, name + 3, key_len - 3, value, len);
    else if (strcmp(name, "traceparent") == 0)
        rc = eb_headers_add(walk->headers, name, key_len, value, len, walk->err);
    else if (strcmp(name, "tracestate") == 0)
        join(&walk->tracestate, value, len);
    else if (strcmp(name, "baggage") == 0)
        join(&walk->baggage, value, len);
    walk->failed = rc < 0;
    return rc < 0 ? MHD_NO : MHD_YES;
}

/* Where a request's reply is to go. */
static int reply_headers(const struct eb_reply_to *reply, struct eb_headers *headers,
                         struct eb_error *err)
{
    if (!reply)
        return 0;
    if (eb_headers_add(headers, "reply_to", 8, reply->topic, strlen(reply->topic), err) < 0)
        return -1;
    return reply->given ? 0
                        : eb_headers_add(headers, "correlation_id", 14, reply->correlation,
                                         reply->correlation_len, err);
}

int eb_rest_event_headers(struct eb_http_request *request, struct eb_headers *headers,
                          struct eb_ce_core *core, struct eb_error *err)
{
    struct header_walk walk = {.request = request, .headers = headers, .core = core, .err = err};
    if (!request->names_event)
        return reply_headers(request->reply_to, headers, err);
    MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, one_header, &walk);
    int rc = walk.failed ? -1 : 0;
    if (rc == 0 && walk.tracestate.len > 0)
        rc = eb_headers_add(headers, "tracestate", 10, walk.tracestate.data, walk.tracestate.len,
                            err);
    if (rc == 0 && walk.baggage.len > 0)
        rc = eb_headers_add(headers, "baggage", 7, walk.baggage.data, walk.baggage.len, err);
    eb_buf_finish(&walk.tracestate);
    eb_buf_finish(&walk.baggage);
    return rc == 0 ? reply_headers(request->reply_to, headers, err) : rc;
}

int eb_rest_header_ttl(struct eb_http_request *request, int64_t *ret, struct eb_error *err)
{
    size_t len;
    uint64_t ttl;
    char quoted[80];
    const char *value = request->names_event ? eb_http_header(request, "Event-TTL", &len) : NULL;
    *ret = EB_TTL_UNSET;
    if (!value)
        return 0;
    if (!eb_parse_u64(value, len, INT64_MAX, &ttl))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "Event-TTL is \"%s\": it must be whole seconds, 0 or more",
                       eb_quote(quoted, sizeof(quoted), value, len));
    *ret = (int64_t)ttl;
    return 0;
}

/* What is asked beside: Expected-Last-Seq, Event-Deliver-At, Event-Delay. */
static const struct {
    const char *name;
    int (*read)(struct eb_draft *, const char *, const char *, size_t, struct eb_error *);
} ASKS[] = {{"Expected-Last-Seq", eb_ask_expected},
            {"Event-Deliver-At", eb_ask_deliver_at},
            {"Event-Delay", eb_ask_delay}};
#define ASK_COUNT (sizeof(ASKS) / sizeof(ASKS[0]))

int eb_rest_header_asks(struct eb_http_request *request, struct eb_draft *draft,
                        struct eb_error *err)
{
    for (size_t i = 0; request->names_event && i < ASK_COUNT; i++) {
        size_t len;
        const char *value = eb_http_header(request, ASKS[i].name, &len);
        if (value && ASKS[i].read(draft, ASKS[i].name, value, len, err) < 0)
            return -1;
    }
    return 0;
}

/* Where each event says it by itself a header would be passed over: better refused. */
int eb_rest_no_header_asks(struct eb_http_request *request, struct eb_error *err)
{
    for (size_t i = 0; request->names_event && i < ASK_COUNT; i++) {
        size_t len;
        if (eb_http_header(request, ASKS[i].name, &len))
            return eb_fail(err, EB_INVALID_REQUEST,
                           "%s goes with one event as the body: in JSON each event has a member "
                           "for it (expected_last_seq, deliver_at, delay)",
                           ASKS[i].name);
    }
    return 0;
}

/* Event-Id, else Idempotency-Key (whose draft quotes its value). */
int eb_rest_header_id(struct eb_http_request *request, struct eb_draft *draft,
                      struct eb_headers *headers, struct eb_error *err)
{
    size_t len;
    bool foreign = false;
    if (!request->names_event)
        return 0;
    const char *value = eb_http_header(request, "Event-Id", &len);
    if (!value) {
        value = eb_http_header(request, "Idempotency-Key", &len);
        if (value && len > 2 && value[0] == '"' && value[len - 1] == '"') {
            value++;
            len -= 2;
        }
    }
    if (!value)
        return 0;
    if (eb_message_id_parse(draft->id, &foreign, value, len, err) < 0)
        return -1;
    draft->has_id = true;
    if (foreign && eb_headers_set_message_id(headers, value, len) < 0)
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    return 0;
}

/* What the body is when nobody says so: text if it is UTF-8. */
void eb_rest_raw_content_type(struct eb_http_request *request, struct eb_draft *draft)
{
    size_t len;
    const char *type = request->media_type;
    const char *value = eb_http_header(request, MHD_HTTP_HEADER_CONTENT_TYPE, &len);
    if (value && *value && strcmp(type, "application/x-www-form-urlencoded") != 0) {
        draft->content_type = value;
        draft->content_type_len = len;
    } else if (!eb_utf8_valid(draft->payload, draft->payload_len)) {
        draft->content_type = "application/octet-stream";
        draft->content_type_len = strlen(draft->content_type);
    }
}
