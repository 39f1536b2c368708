/*
 * rest_request.c - request and reply in one HTTP call (PROTOCOL 8): POST /v1/topics/{topic}/request.
 *
 *   the call --> subscribe _reply.<uuid>, then publish with `reply_to`: one push into the store's queue
 *            <-- the first event on that topic, the time is over, the publish was refused, or the broker stops
 *
 * (A1) Of several ends the first counts: it takes `state` from WAITING, and it alone touches the request, which it
 *      resumes. The request's thread does the rest.
 * (A2) A call is held by its request, by its session and by its publish. Each of them may be the last to let go.
 * (A3) It is on the net's list while the request has it, so that the ticker finds it when its time is over and the
 *      end of the net finds all of them.
 * (A4) When nobody listens nothing is published: who would answer later could not be heard any more.
 */
#include "broker/net/http.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/event_ask.h"
#include "common/json.h"
#include "common/text.h"
#include "common/uuid.h"

#define TIMEOUT_DEFAULT_MS 5000
#define TIMEOUT_MAX_MS     60000
#define REPLY_WORD         "_reply."
#define HEADERS_MAX                                                                                \
    (8 * 1024) /* of a reply in an answer: libmicrohttpd has a bounded room for them */
#define ITEMS 16

enum state { WAITING, OVER };

struct eb_call {
    atomic_uint refs;                /* A2 */
    atomic_int state;                /* A1 */
    atomic_uint wakes;               /* of its session: one thread at a time takes what there is */
    struct eb_call *prev, *next;     /* the net's calls_lock */
    bool listed;                     /* the request's thread's */
    struct eb_net *net;              /* [I] */
    struct eb_http_request *request; /* [I] */
    struct eb_session *session;      /* [I] one reference */
    int64_t until_ms;                /* [I] monotonic */
    struct eb_pattern pattern;       /* [I] the reply's topic */
    struct eb_subscribe subscribe;
    struct eb_error err;               /* whose end it was */
    struct eb_event *reply;            /* one reference */
    char message_id[EB_UUID_TEXT + 1]; /* [I] the request's, from its commit on */
    size_t correlation_len;            /* [I] */
    char correlation[];                /* [I] */
};

static void call_unref(struct eb_call *call)
{
    if (atomic_fetch_sub(&call->refs, 1) != 1)
        return;
    eb_event_unref(call->reply);
    free(call);
}

/* A1. @err NULL: it was answered with @reply. */
static void end(struct eb_call *call, const struct eb_error *err, struct eb_event *reply)
{
    int waiting = WAITING;
    if (!atomic_compare_exchange_strong(&call->state, &waiting, OVER))
        return;
    if (err)
        call->err = *err;
    if (reply)
        call->reply = eb_event_ref(reply);
    eb_http_resume_soon(call->request);
}

static void end_with(struct eb_call *call, enum eb_code code, const char *why)
{
    struct eb_error err;
    eb_fail(&err, code, "%s", why);
    end(call, &err, NULL);
}

/* ---- the reply ---- */

static bool is_text(const struct eb_buf *value, const char *text, size_t len)
{
    return value->len == len && (len == 0 || memcmp(value->data, text, len) == 0);
}

/*
 * A reply with the request's correlation_id, or with its message id in that place, is ours, and so is one that names
 * none; one that names another is passed over.
 */
static bool is_ours(const struct eb_call *call, const struct eb_event *event)
{
    struct eb_buf value = EB_BUF_INIT;
    bool ours = event->headers_len == 0 ||
                !eb_headers_get(event->headers, event->headers_len, "correlation_id", &value) ||
                is_text(&value, call->correlation, call->correlation_len) ||
                is_text(&value, call->message_id, EB_UUID_TEXT);
    eb_buf_finish(&value);
    return ours;
}

static struct eb_frame *on_event(struct eb_session *session, struct eb_event *event,
                                 const char *pattern)
{
    struct eb_frame *frame = eb_frame_create(0);
    if (frame)
        frame->event = eb_event_ref(event);
    return frame;
}

static struct eb_frame *on_gap(struct eb_session *session, const struct eb_gap *gap)
{
    return NULL;
}

static struct eb_frame *on_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    return NULL;
}

static void take_events(struct eb_call *call)
{
    struct eb_out items[ITEMS];
    size_t count;
    while ((count = eb_session_take(call->session, items, ITEMS, SIZE_MAX)) > 0) {
        for (size_t i = 0; i < count; i++)
            if (items[i].frame->event && is_ours(call, items[i].frame->event))
                end(call, NULL, items[i].frame->event);
        eb_session_sent(call->session, items, count);
    }
}

static void on_wake(struct eb_session *session)
{
    struct eb_call *call = eb_session_user(session);
    unsigned seen = 1;
    if (atomic_fetch_add(&call->wakes, 1) != 0)
        return; /* who is in there looks again */
    do {
        take_events(call);
        unsigned before = atomic_fetch_sub(&call->wakes, seen);
        seen = before - seen;
    } while (seen > 0);
}

static void on_destroy(struct eb_session *session)
{
    call_unref(eb_session_user(session));
}

static const struct eb_session_ops OPS = {
    .event = on_event, .gap = on_gap, .live = on_live, .wake = on_wake, .destroy = on_destroy};

/* ---- the list (A3) ---- */

static void list_add(struct eb_call *call)
{
    struct eb_net *net = call->net;
    eb_lock_take(&net->calls_lock);
    call->listed = true;
    call->next = net->calls;
    if (net->calls)
        net->calls->prev = call;
    net->calls = call;
    net->call_count++;
    eb_lock_drop(&net->calls_lock);
    eb_tick_call_at(net, call->until_ms);
    if (atomic_load(&net->stopping)) /* eb_calls_stop may have been here before us */
        end_with(call, EB_UNAVAILABLE, "the broker is stopping");
}

static void list_remove(struct eb_call *call)
{
    struct eb_net *net = call->net;
    if (!call->listed)
        return;
    eb_lock_take(&net->calls_lock);
    if (call->prev)
        call->prev->next = call->next;
    else
        net->calls = call->next;
    if (call->next)
        call->next->prev = call->prev;
    net->call_count--;
    eb_lock_drop(&net->calls_lock);
}

int64_t eb_calls_tick(struct eb_net *net, int64_t now_ms)
{
    int64_t next = INT64_MAX;
    eb_lock_take(&net->calls_lock);
    for (struct eb_call *call = net->calls; call; call = call->next) {
        if (call->until_ms > now_ms) {
            next = call->until_ms < next ? call->until_ms : next;
        } else if (atomic_load(&call->state) == WAITING) {
            end_with(call, EB_TIMEOUT, "nobody has answered in time");
            atomic_fetch_add(&net->calls_timeout, 1);
        }
    }
    eb_lock_drop(&net->calls_lock);
    return next;
}

void eb_calls_stop(struct eb_net *net)
{
    eb_lock_take(&net->calls_lock);
    for (struct eb_call *call = net->calls; call; call = call->next)
        end_with(call, EB_UNAVAILABLE, "the broker is stopping");
    eb_lock_drop(&net->calls_lock);
}

/* ---- the answer ---- */

/* What may be a header's name and value in HTTP. */
static bool is_token(const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (name[i] <= ' ' || name[i] >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", name[i]))
            return false;
    return len > 0;
}

static bool is_line(const char *value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)value[i] < ' ' || value[i] == 0x7f)
            return false;
    return true;
}

/* One header of the reply, as Event-Header-NAME; returns the room it took. */
static size_t add_header(struct MHD_Response *response, const char *name, size_t len,
                         const char *value, size_t value_len, size_t room)
{
    char line[300] = "Event-Header-";
    size_t head = strlen(line), size = head + len + value_len + 4;
    if (size > room || len >= sizeof(line) - head || !is_token(name, len) ||
        !is_line(value, value_len))
        return 0;
    char *text = strndup(value, value_len);
    if (!text)
        return 0;
    memcpy(line + head, name, len);
    line[head + len] = 0;
    MHD_add_response_header(response, line, text);
    free(text);
    return size;
}

static void add_headers(struct MHD_Response *response, const struct eb_event *event)
{
    struct eb_json json;
    struct eb_error err;
    size_t room = HEADERS_MAX;
    eb_json_init(&json);
    if (eb_json_parse(&json, event->headers, event->headers_len, &err) == 0) {
        for (uint32_t i = 1; i < json.tokens[0].next; i = json.tokens[i + 1].next) {
            size_t len, value_len;
            const char *name = eb_json_string(&json, i, &len);
            const char *value = eb_json_string(&json, i + 1, &value_len);
            room -= add_header(response, name, len, value, value_len, room);
        }
    }
    eb_json_finish(&json);
}

static enum MHD_Result answer(struct eb_http_request *request)
{
    struct eb_call *call = request->job;
    if (call->err.code != EB_OK)
        return eb_http_fail(request, &call->err);
    const struct eb_event *event = call->reply;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        event->payload_len, (void *)event->payload, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    if (is_line(event->content_type, event->content_type_len))
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, event->content_type);
    if (event->headers_len > 0)
        add_headers(response, event);
    return eb_http_queue(request->net, request->connection, request->policy, 200, response, true);
}

/* The request lets go: answered, or never begun. */
static void job_free(void *job)
{
    struct eb_call *call = job;
    struct eb_session *session = call->session;
    list_remove(call);
    eb_session_close(session);
    eb_session_unref(session);
    call_unref(call);
}

/* ---- the call ---- */

/* On the committing thread, both. */
static void subscribed(struct eb_subscribe *subscribe)
{
    struct eb_call *call = subscribe->user;
    if (subscribe->err.code != EB_OK)
        end(call, &subscribe->err, NULL);
    call_unref(call);
}

static void published(struct eb_publish *publish)
{
    struct eb_call *call = publish->user;
    if (publish->op.err.code != EB_OK)
        end(call, &publish->op.err, NULL);
    else if (publish->op.results[0].duplicate)
        end_with(call, EB_CONFLICT,
                 "an event with this message id was published before: a request needs its own, as "
                 "a repeat is delivered to nobody");
    else /* before anybody has seen it, and can reply */
        eb_uuid_format(call->message_id, publish->op.events[0]->id);
    eb_publish_destroy(publish);
    call_unref(call);
}

static int read_timeout(struct eb_http_request *request, int64_t *ret_ms)
{
    const struct eb_param *param = eb_uri_param(&request->uri, "timeout");
    char quoted[80];
    *ret_ms = TIMEOUT_DEFAULT_MS;
    if (!param || (eb_seconds_parse(param->value, param->value_len, ret_ms) && *ret_ms > 0 &&
                   *ret_ms <= TIMEOUT_MAX_MS))
        return 0;
    return eb_fail(&request->refused, EB_INVALID_REQUEST,
                   "timeout is \"%s\": it must be a number of seconds above 0 and up to %d",
                   eb_quote(quoted, sizeof(quoted), param->value, param->value_len),
                   TIMEOUT_MAX_MS / 1000);
}

static struct eb_call *new_call(struct eb_http_request *request, const struct eb_reply_to *reply,
                                const struct eb_publish *publish, int64_t timeout_ms)
{
    struct eb_call *call = calloc(1, sizeof(*call) + reply->correlation_len);
    if (!call)
        return NULL;
    atomic_init(&call->refs, 2); /* the request's, the session's */
    call->net = request->net;
    call->request = request;
    call->until_ms = eb_mono_ms() + timeout_ms;
    call->err = (struct eb_error){.code = EB_OK, .index = -1};
    memcpy(call->correlation, reply->correlation, reply->correlation_len);
    call->correlation_len = reply->correlation_len;
    call->subscribe.patterns = &call->pattern;
    call->subscribe.count = 1;
    call->subscribe.done = subscribed;
    call->subscribe.user = call;
    struct eb_error err;
    if (eb_pattern_parse(&call->pattern, reply->topic, strlen(reply->topic), &err) < 0 ||
        eb_session_create(request->net->bus, &OPS, call, true, &call->session) < 0) {
        free(call);
        return NULL;
    }
    return call;
}

/* Is it a request at all, and does anybody hear it? */
static int check(struct eb_http_request *request, const struct eb_publish *publish,
                 const char *topic, size_t len)
{
    struct eb_error *err = &request->refused;
    char quoted[300];
    if (publish->op.asks && publish->op.asks[0].due_ms > 0)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "a request is answered now: Event-Deliver-At and Event-Delay do not go with "
                       "it");
    if (request->peer && !eb_rate_take(&request->peer->rate, request->policy->publish_rate, 1))
        return eb_fail(err, EB_RATE_LIMITED,
                       "more than %g events a second on this connection (publish_rate)",
                       request->policy->publish_rate);
    if (!eb_bus_listens(request->net->bus, topic, len)) {
        atomic_fetch_add(&request->net->calls_unheard, 1);
        return eb_fail(err, EB_UNAVAILABLE,
                       "nobody listens to \"%s\": no subscription and no consumer with a worker "
                       "matches it, nothing was published",
                       eb_quote(quoted, sizeof(quoted), topic, len));
    }
    return 0;
}

/* Both in one push: the subscription first, so no reply is missed. Takes over the publish. */
static enum MHD_Result start(struct eb_http_request *request, struct eb_call *call,
                             struct eb_publish *publish)
{
    struct eb_bus *bus = request->net->bus;
    struct eb_session *session = eb_session_ref(call->session);
    request->job = call;
    request->job_free = job_free;
    if (!eb_http_suspend(request, answer)) { /* H2: suspended before anybody could resume it */
        eb_publish_destroy(publish);
        eb_session_unref(session);
        eb_fail(&request->refused, EB_UNAVAILABLE, "the broker is stopping");
        return eb_http_fail(request, &request->refused);
    }
    atomic_fetch_add(&call->refs, 2); /* the subscribe's and the publish's */
    publish->session = eb_session_ref(session);
    publish->user = call;
    publish->done = published;
    list_add(call);
    eb_session_collect(session);
    eb_bus_subscribe(bus, session, &call->subscribe);
    eb_bus_publish(bus, publish);
    eb_session_submit(session);
    eb_session_unref(session);
    return MHD_YES;
}

/* The request's own correlation_id, or one that is made here. */
static void correlate(struct eb_http_request *request, struct eb_reply_to *reply)
{
    uint8_t id[16];
    size_t len = 0;
    const char *given = eb_http_header(request, "Event-Header-correlation_id", &len);
    eb_uuid_v7(id);
    memcpy(reply->topic, REPLY_WORD, sizeof(REPLY_WORD));
    eb_uuid_format(reply->topic + sizeof(REPLY_WORD) - 1, id);
    reply->given = given != NULL;
    reply->correlation = given ? given : reply->topic + sizeof(REPLY_WORD) - 1;
    reply->correlation_len = given ? len : EB_UUID_TEXT;
}

enum MHD_Result eb_rest_request(struct eb_http_request *request)
{
    struct eb_publish *publish = NULL;
    struct eb_reply_to reply;
    char topic[EB_PATH_TOPIC];
    int64_t timeout_ms;
    size_t len = 0;
    if (read_timeout(request, &timeout_ms) < 0 ||
        eb_http_path_topic(request, topic, &len, &request->refused) < 0)
        return eb_http_fail(request, &request->refused);
    correlate(request, &reply);
    request->reply_to = &reply;
    int rc = eb_rest_publish_build(request, topic, len, &publish, &request->refused);
    request->reply_to = NULL;
    struct eb_call *call = NULL;
    if (rc == 0 && check(request, publish, topic, len) == 0) {
        call = new_call(request, &reply, publish, timeout_ms);
        if (!call)
            eb_fail(&request->refused, EB_UNAVAILABLE, "out of memory");
    }
    if (!call) {
        eb_publish_destroy(publish);
        return eb_http_fail(request, &request->refused);
    }
    atomic_fetch_add(&request->net->calls_total, 1);
    return start(request, call, publish);
}
