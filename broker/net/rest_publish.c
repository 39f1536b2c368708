/*
 * rest_publish.c - publishing over HTTP: one event at its topic's path, or one and many at /v1/events.
 *
 * The request is suspended until the commit that holds its events and resumed together with all others of
 * that commit (http.h H2, tick.c T1), so a publish that waits holds up nobody.
 */
#include "broker/net/cloudevents.h"
#include "broker/net/http.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/event_ask.h"
#include "common/text.h"
#include "common/uuid.h"

enum body_kind { BODY_RAW, BODY_JSON, BODY_NDJSON, BODY_CE, BODY_CE_BATCH, BODY_NONE };

/* ---- before the body ---- */

static bool is_ce_binary(struct eb_http_request *request)
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

/* The first that is done for a publish. */
int eb_rest_check_encoding(struct eb_http_request *request, struct eb_error *err)
{
    size_t len;
    char quoted[80], *type = request->media_type;
    const char *value = eb_http_header(request, MHD_HTTP_HEADER_CONTENT_TYPE, &len);
    eb_media_type(value ? value : "", type, sizeof(request->media_type));
    const char *encoding = eb_http_header(request, MHD_HTTP_HEADER_CONTENT_ENCODING, &len);
    if (encoding && strcasecmp(encoding, "identity") != 0)
        return eb_fail(err, EB_UNSUPPORTED_MEDIA_TYPE,
                       "Content-Encoding \"%s\" is not understood: send it as it is",
                       eb_quote(quoted, sizeof(quoted), encoding, len));
    if (strncmp(type, "multipart/", 10) == 0)
        return eb_fail(
            err, EB_UNSUPPORTED_MEDIA_TYPE,
            "multipart bodies are not understood: send the content itself, with its Content-Type");
    return 0;
}

static const struct eb_event_limits *limits_of(struct eb_http_request *request)
{
    return &eb_bus_config(request->net->bus)->limits;
}

int eb_http_path_topic(struct eb_http_request *request, char out[EB_PATH_TOPIC], size_t *ret_len,
                       struct eb_error *err)
{
    char quoted[80];
    if (request->segment_len >= EB_PATH_TOPIC)
        return eb_fail(err, EB_INVALID_TOPIC, "topic is longer than %d bytes", EB_TOPIC_MAX);
    ptrdiff_t len = eb_percent_decode(out, request->segment, request->segment_len);
    if (len < 0)
        return eb_fail(err, EB_INVALID_TOPIC,
                       "topic \"%s\" has a bad percent-escape: %%XX with two hex digits, not %%00",
                       eb_quote(quoted, sizeof(quoted), request->segment, request->segment_len));
    *ret_len = (size_t)len;
    return eb_topic_check(out, (size_t)len, err);
}

int eb_rest_publish_begin(struct eb_http_request *request, struct eb_error *err)
{
    char topic[EB_PATH_TOPIC];
    const char *type = request->media_type;
    size_t len = 0;
    if (eb_rest_check_encoding(request, err) < 0 ||
        eb_http_path_topic(request, topic, &len, err) < 0)
        return -1;
    if (strcmp(type, "application/cloudevents-batch+json") == 0)
        return eb_fail(err, EB_UNSUPPORTED_MEDIA_TYPE,
                       "a batch of CloudEvents goes to POST /v1/events");
    bool structured = strcmp(type, "application/cloudevents+json") == 0;
    request->body_limit = structured ? request->net->max_message : limits_of(request)->max_payload;
    return 0;
}

static enum body_kind events_kind(struct eb_http_request *request)
{
    const char *type = request->media_type;
    if (strcmp(type, "application/cloudevents+json") == 0)
        return BODY_CE;
    if (strcmp(type, "application/cloudevents-batch+json") == 0)
        return BODY_CE_BATCH;
    if (is_ce_binary(request))
        return BODY_RAW;
    if (strcmp(type, "application/json") == 0)
        return BODY_JSON;
    if (strcmp(type, "application/x-ndjson") == 0 || strcmp(type, "application/ndjson") == 0 ||
        strcmp(type, "application/jsonl") == 0)
        return BODY_NDJSON;
    return BODY_NONE;
}

int eb_rest_publish_events_begin(struct eb_http_request *request, struct eb_error *err)
{
    char quoted[80];
    if (eb_rest_check_encoding(request, err) < 0)
        return -1;
    enum body_kind kind = events_kind(request);
    if (kind == BODY_NONE)
        return eb_fail(
            err, EB_UNSUPPORTED_MEDIA_TYPE,
            "Content-Type is \"%s\": here it must be application/json, application/x-ndjson, "
            "application/cloudevents+json or application/cloudevents-batch+json",
            eb_quote(quoted, sizeof(quoted), request->media_type, strlen(request->media_type)));
    request->body_limit =
        kind == BODY_RAW ? limits_of(request)->max_payload : request->net->max_message;
    return 0;
}

/* ---- headers of the request as headers of the event ---- */

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

static int collect_headers(struct eb_http_request *request, struct eb_headers *headers,
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

static int header_ttl(struct eb_http_request *request, int64_t *ret, struct eb_error *err)
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

static int header_asks(struct eb_http_request *request, struct eb_draft *draft,
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
static int no_header_asks(struct eb_http_request *request, struct eb_error *err)
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
static int header_id(struct eb_http_request *request, struct eb_draft *draft,
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
static void raw_content_type(struct eb_http_request *request, struct eb_draft *draft)
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

/* ---- from a body to drafts to a publish ---- */

static struct eb_publish *new_publish(size_t max, bool batch, struct eb_error *err)
{
    struct eb_publish *publish = eb_publish_create(max);
    if (!publish)
        eb_fail(err, EB_UNAVAILABLE, "out of memory for this publish");
    else
        publish->batch = batch;
    return publish;
}

static int add(struct eb_http_request *request, struct eb_publish *publish,
               const struct eb_headers *headers, const struct eb_draft *draft, struct eb_error *err)
{
    if (eb_buf_failed(&headers->buf))
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    return eb_publish_add(request->net->bus, publish, draft, err);
}

/* The body as it is: one event, by the headers of the request. */
static int publish_raw(struct eb_http_request *request, struct eb_publish *publish,
                       const char *topic, size_t topic_len, struct eb_error *err)
{
    struct eb_cloudevent event;
    struct eb_ce_core core = {0};
    bool binary = is_ce_binary(request);
    struct eb_draft draft = {.topic = topic,
                             .topic_len = topic_len,
                             .payload = request->body.data ? request->body.data : "",
                             .payload_len = request->body.len};
    eb_cloudevent_init(&event, limits_of(request)->max_headers);
    raw_content_type(request, &draft);
    int rc = header_ttl(request, &draft.ttl, err);
    if (rc == 0)
        rc = header_asks(request, &draft, err);
    if (rc == 0)
        rc = collect_headers(request, &event.memory.headers, binary ? &core : NULL, err);
    if (rc == 0 && binary) {
        rc = eb_ce_finish_core(&core, &event, topic, topic_len, &draft, err);
    } else if (rc == 0) {
        rc = header_id(request, &draft, &event.memory.headers, err);
        draft.headers = eb_headers_text(&event.memory.headers, &draft.headers_len);
    }
    if (rc == 0)
        rc = add(request, publish, &event.memory.headers, &draft, err);
    eb_ce_core_finish(&core);
    eb_cloudevent_finish(&event);
    return rc;
}

static int publish_structured(struct eb_http_request *request, struct eb_publish *publish,
                              struct eb_json *json, uint32_t tok, const char *topic,
                              size_t topic_len, struct eb_error *err)
{
    struct eb_cloudevent event;
    struct eb_draft draft;
    eb_cloudevent_init(&event, limits_of(request)->max_headers);
    int rc = collect_headers(request, &event.memory.headers, NULL, err);
    if (rc == 0)
        rc = eb_ce_structured(&draft, &event, json, tok, topic, topic_len, err);
    if (rc == 0)
        rc = header_ttl(request, &draft.ttl, err);
    if (rc == 0)
        rc = header_asks(request, &draft, err);
    if (rc == 0)
        rc = add(request, publish, &event.memory.headers, &draft, err);
    eb_cloudevent_finish(&event);
    return rc;
}

/* Nothing is said around an event. */
#define NOTHING                                                                                    \
    {                                                                                              \
        .ttl = EB_TTL_UNSET                                                                        \
    }

static int publish_member(struct eb_http_request *request, struct eb_publish *publish,
                          struct eb_json *json, uint32_t tok, const struct eb_draft *outer,
                          struct eb_error *err)
{
    struct eb_draft_memory memory;
    struct eb_draft draft;
    if (json->tokens[tok].type != EB_JSON_OBJECT)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "an event must be a JSON object with topic and payload");
    eb_draft_memory_init(&memory);
    int rc = eb_draft_from_json(&draft, &memory, json, tok, true, limits_of(request), err);
    if (rc == 0) {
        eb_asks_default(&draft, outer);
        rc = eb_publish_add(request->net->bus, publish, &draft, err);
    }
    eb_draft_memory_finish(&memory);
    return rc;
}

static int check_count(struct eb_http_request *request, size_t count, struct eb_error *err)
{
    size_t max = eb_bus_config(request->net->bus)->max_batch;
    if (max > 0 && count > max)
        return eb_fail(err, EB_LIMIT_EXCEEDED,
                       "the batch has %zu events: at most %zu (max_batch) are taken", count, max);
    return 0;
}

static uint32_t count_members(const struct eb_json *json, uint32_t array)
{
    uint32_t count = 0;
    for (uint32_t tok = array + 1; tok < json->tokens[array].next; tok = json->tokens[tok].next)
        count++;
    return count;
}

/* Members of a JSON array, as events of ours or CloudEvents. */
static int publish_array(struct eb_http_request *request, struct eb_json *json, uint32_t array,
                         bool cloudevents, const struct eb_draft *outer, struct eb_publish **ret,
                         struct eb_error *err)
{
    uint32_t count = count_members(json, array);
    if (check_count(request, count, err) < 0)
        return -1;
    *ret = new_publish(count, true, err);
    if (!*ret)
        return -1;
    int index = 0;
    for (uint32_t tok = array + 1; tok < json->tokens[array].next;
         tok = json->tokens[tok].next, index++) {
        int rc = cloudevents ? publish_structured(request, *ret, json, tok, NULL, 0, err)
                             : publish_member(request, *ret, json, tok, outer, err);
        if (rc < 0) {
            err->index = index;
            return -1;
        }
    }
    return 0;
}

static int publish_json(struct eb_http_request *request, struct eb_json *json,
                        struct eb_publish **ret, struct eb_error *err)
{
    struct eb_draft outer = NOTHING;
    if (no_header_asks(request, err) < 0)
        return -1;
    if (eb_json_parse(json, request->body.data ? request->body.data : "", request->body.len, err) <
        0)
        return -1;
    if (json->tokens[0].type != EB_JSON_OBJECT)
        return eb_fail(
            err, EB_INVALID_REQUEST,
            "the body must be one event {\"topic\":…,\"payload\":…} or {\"messages\":[…]}");
    uint32_t messages = eb_json_member(json, 0, "messages");
    if (!messages) {
        *ret = new_publish(1, false, err);
        return *ret ? publish_member(request, *ret, json, 0, &outer, err) : -1;
    }
    if (json->tokens[messages].type != EB_JSON_ARRAY)
        return eb_fail(err, EB_INVALID_REQUEST, "messages must be an array of events");
    if (eb_asks_from_json(&outer, json, 0, err) < 0)
        return -1;
    return publish_array(request, json, messages, false, &outer, ret, err);
}

static bool blank(const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

/* The next line of @text at @at that is not blank; false at the end. */
static bool next_line(const struct eb_buf *text, size_t *at, const char **ret, size_t *ret_len)
{
    while (*at < text->len) {
        const char *line = text->data + *at, *end = memchr(line, '\n', text->len - *at);
        size_t len = end ? (size_t)(end - line) : text->len - *at;
        *at += len + 1;
        if (!blank(line, len)) {
            *ret = line;
            *ret_len = len;
            return true;
        }
    }
    return false;
}

static int publish_ndjson(struct eb_http_request *request, struct eb_json *json,
                          struct eb_publish **ret, struct eb_error *err)
{
    size_t count = 0, at = 0, len;
    const char *line;
    while (next_line(&request->body, &at, &line, &len))
        count++;
    if (no_header_asks(request, err) < 0)
        return -1;
    if (check_count(request, count, err) < 0)
        return -1;
    *ret = new_publish(count, true, err);
    if (!*ret)
        return -1;
    at = 0;
    const struct eb_draft outer = NOTHING;
    for (int index = 0; next_line(&request->body, &at, &line, &len); index++) {
        if (eb_json_parse(json, line, len, err) < 0 ||
            publish_member(request, *ret, json, 0, &outer, err) < 0) {
            err->index = index;
            return -1;
        }
    }
    return 0;
}

static int publish_cloudevents(struct eb_http_request *request, struct eb_json *json, bool batch,
                               const char *topic, size_t topic_len, struct eb_publish **ret,
                               struct eb_error *err)
{
    if (eb_json_parse(json, request->body.data ? request->body.data : "", request->body.len, err) <
        0)
        return -1;
    if (batch) {
        if (json->tokens[0].type != EB_JSON_ARRAY)
            return eb_fail(err, EB_INVALID_REQUEST, "a batch of CloudEvents must be a JSON array");
        return publish_array(request, json, 0, true, NULL, ret, err);
    }
    *ret = new_publish(1, false, err);
    return *ret ? publish_structured(request, *ret, json, 0, topic, topic_len, err) : -1;
}

/* ---- submit, wait, answer ---- */

static void write_result(struct eb_buf *out, const struct eb_publish *publish, uint32_t i)
{
    const struct eb_op_result *result = &publish->op.results[i];
    char id[EB_UUID_TEXT + 1];
    eb_uuid_format(id, publish->op.events[i]->id);
    if (result->scheduled) {
        eb_buf_str(out, "{\"scheduled\":true");
    } else {
        eb_buf_str(out, "{\"seq\":");
        eb_json_write_u64(out, result->seq);
    }
    eb_buf_str(out, ",\"message_id\":\"");
    eb_buf_add(out, id, EB_UUID_TEXT);
    eb_buf_str(out, result->duplicate ? "\",\"duplicate\":true" : "\",\"duplicate\":false");
    if (result->scheduled &&
        !result->duplicate) /* a duplicate's is the first one's, which may be another */
        eb_buf_printf(out, ",\"deliver_at\":%lld", (long long)publish->op.asks[i].due_ms);
    eb_buf_add(out, "}", 1);
}

/* 201: one is new in the log; else 202: one is new and waits until it is due; else 200. */
static unsigned status_of(const struct eb_publish *publish)
{
    unsigned status = 200;
    for (uint32_t i = 0; i < publish->op.count; i++) {
        const struct eb_op_result *result = &publish->op.results[i];
        if (!result->duplicate && !result->scheduled)
            return 201;
        if (!result->duplicate)
            status = 202;
    }
    return status;
}

static enum MHD_Result answer(struct eb_http_request *request)
{
    struct eb_publish *publish = request->job;
    if (publish->op.err.code != EB_OK)
        return eb_http_fail(request, &publish->op.err);
    struct eb_buf body = EB_BUF_INIT;
    if (publish->batch)
        eb_buf_str(&body, "{\"results\":[");
    for (uint32_t i = 0; i < publish->op.count; i++) {
        if (i > 0)
            eb_buf_add(&body, ",", 1);
        write_result(&body, publish, i);
    }
    if (publish->batch)
        eb_buf_str(&body, "]}");
    return eb_http_json(request, status_of(publish), &body);
}

/* On the committing thread. */
static void published(struct eb_publish *publish)
{
    struct eb_http_request *request = publish->user;
    eb_histogram_add(&request->net->publish_duration, eb_mono_us() - request->started_us);
    eb_http_resume_settled(request);
}

static void free_publish(void *publish)
{
    eb_publish_destroy(publish);
}

static enum MHD_Result submit(struct eb_http_request *request, struct eb_publish *publish)
{
    struct eb_error err;
    request->job = publish;
    request->job_free = free_publish;
    eb_buf_finish(&request->body); /* the events hold copies */
    if (request->peer &&
        !eb_rate_take(&request->peer->rate, request->policy->publish_rate, publish->op.count)) {
        eb_fail(&err, EB_RATE_LIMITED,
                "more than %g events a second on this connection (publish_rate)",
                request->policy->publish_rate);
        return eb_http_fail(request, &err);
    }
    publish->user = request;
    publish->done = published;
    if (!eb_http_suspend(request, answer)) {
        eb_fail(&err, EB_UNAVAILABLE, "the broker is stopping");
        return eb_http_fail(request, &err);
    }
    eb_bus_publish(request->net->bus, publish);
    return MHD_YES;
}

int eb_rest_publish_build(struct eb_http_request *request, const char *topic, size_t topic_len,
                          struct eb_publish **ret, struct eb_error *err)
{
    struct eb_json json;
    int rc;
    if (strcmp(request->media_type, "application/cloudevents+json") != 0) {
        *ret = new_publish(1, false, err);
        return *ret ? publish_raw(request, *ret, topic, topic_len, err) : -1;
    }
    eb_json_init(&json);
    rc = publish_cloudevents(request, &json, false, topic, topic_len, ret, err);
    eb_json_finish(&json);
    return rc;
}

enum MHD_Result eb_rest_publish(struct eb_http_request *request)
{
    struct eb_error err = {.index = -1};
    struct eb_publish *publish = NULL;
    char topic[EB_PATH_TOPIC];
    size_t topic_len = 0;
    int rc = eb_http_path_topic(request, topic, &topic_len, &err);
    if (rc == 0)
        rc = eb_rest_publish_build(request, topic, topic_len, &publish, &err);
    if (rc == 0)
        return submit(request, publish);
    eb_publish_destroy(publish);
    err.index = -1;
    return eb_http_fail(request, &err);
}

enum MHD_Result eb_rest_publish_events(struct eb_http_request *request)
{
    struct eb_error err = {.index = -1};
    struct eb_json json;
    struct eb_publish *publish = NULL;
    int rc = -1;
    enum body_kind kind = events_kind(request);
    eb_json_init(&json);
    switch (kind) {
    case BODY_JSON:
        rc = publish_json(request, &json, &publish, &err);
        break;
    case BODY_NDJSON:
        rc = publish_ndjson(request, &json, &publish, &err);
        break;
    case BODY_CE:
    case BODY_CE_BATCH:
        rc = publish_cloudevents(request, &json, kind == BODY_CE_BATCH, NULL, 0, &publish, &err);
        break;
    default:
        publish = new_publish(1, false, &err);
        rc = publish ? publish_raw(request, publish, NULL, 0, &err) : -1;
    }
    eb_json_finish(&json);
    if (rc == 0)
        return submit(request, publish);
    eb_publish_destroy(publish);
    return eb_http_fail(request, &err);
}
