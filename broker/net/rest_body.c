/*
 * rest_body.c - a request's body as a publish, nothing submitted: one event as it is, JSON, NDJSON or CloudEvents.
 *
 * Who calls frees what *ret holds, also after a failure; err->index says which event of a batch was wrong.
 */
#include "broker/net/rest_body.h"

#include <string.h>

#include "common/event_ask.h"

static const struct eb_event_limits *limits_of(struct eb_http_request *request)
{
    return &eb_bus_config(request->net->bus)->limits;
}

enum eb_body_kind eb_rest_body_kind(struct eb_http_request *request)
{
    const char *type = request->media_type;
    if (strcmp(type, "application/cloudevents+json") == 0)
        return EB_BODY_CE;
    if (strcmp(type, "application/cloudevents-batch+json") == 0)
        return EB_BODY_CE_BATCH;
    if (eb_rest_is_ce_binary(request))
        return EB_BODY_RAW;
    if (strcmp(type, "application/json") == 0)
        return EB_BODY_JSON;
    if (strcmp(type, "application/x-ndjson") == 0 || strcmp(type, "application/ndjson") == 0 ||
        strcmp(type, "application/jsonl") == 0)
        return EB_BODY_NDJSON;
    return EB_BODY_NONE;
}

/* ---- events of each form ---- */

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
    bool binary = eb_rest_is_ce_binary(request);
    struct eb_draft draft = {.topic = topic,
                             .topic_len = topic_len,
                             .payload = request->body.data ? request->body.data : "",
                             .payload_len = request->body.len};
    eb_cloudevent_init(&event, limits_of(request)->max_headers);
    eb_rest_raw_content_type(request, &draft);
    int rc = eb_rest_header_ttl(request, &draft.ttl, err);
    if (rc == 0)
        rc = eb_rest_header_asks(request, &draft, err);
    if (rc == 0)
        rc = eb_rest_event_headers(request, &event.memory.headers, binary ? &core : NULL, err);
    if (rc == 0 && binary) {
        rc = eb_ce_finish_core(&core, &event, topic, topic_len, &draft, err);
    } else if (rc == 0) {
        rc = eb_rest_header_id(request, &draft, &event.memory.headers, err);
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
    int rc = eb_rest_event_headers(request, &event.memory.headers, NULL, err);
    if (rc == 0)
        rc = eb_ce_structured(&draft, &event, json, tok, topic, topic_len, err);
    if (rc == 0)
        rc = eb_rest_header_ttl(request, &draft.ttl, err);
    if (rc == 0)
        rc = eb_rest_header_asks(request, &draft, err);
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
    if (eb_rest_no_header_asks(request, err) < 0)
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
    if (eb_rest_no_header_asks(request, err) < 0)
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

/* ---- the whole body ---- */

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

int eb_rest_events_build(struct eb_http_request *request, struct eb_publish **ret,
                         struct eb_error *err)
{
    struct eb_json json;
    int rc = -1;
    enum eb_body_kind kind = eb_rest_body_kind(request);
    eb_json_init(&json);
    switch (kind) {
    case EB_BODY_JSON:
        rc = publish_json(request, &json, ret, err);
        break;
    case EB_BODY_NDJSON:
        rc = publish_ndjson(request, &json, ret, err);
        break;
    case EB_BODY_CE:
    case EB_BODY_CE_BATCH:
        rc = publish_cloudevents(request, &json, kind == EB_BODY_CE_BATCH, NULL, 0, ret, err);
        break;
    default:
        *ret = new_publish(1, false, err);
        rc = *ret ? publish_raw(request, *ret, NULL, 0, err) : -1;
    }
    eb_json_finish(&json);
    return rc;
}
