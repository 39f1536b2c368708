/*
 * rest_publish.c - publishing over HTTP: one event at its topic's path, or one and many at /v1/events.
 *
 * The request is suspended until the commit that holds its events and resumed together with all others of
 * that commit (http.h H2, tick.c T1), so a publish that waits holds up nobody. What the request says is made into
 * events by rest_body.c.
 */
#include "broker/net/rest_body.h"

#include <string.h>

#include "common/clock.h"
#include "common/text.h"
#include "common/uuid.h"

/* ---- before the body ---- */

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

int eb_rest_publish_events_begin(struct eb_http_request *request, struct eb_error *err)
{
    char quoted[80];
    if (eb_rest_check_encoding(request, err) < 0)
        return -1;
    enum eb_body_kind kind = eb_rest_body_kind(request);
    if (kind == EB_BODY_NONE)
        return eb_fail(
            err, EB_UNSUPPORTED_MEDIA_TYPE,
            "Content-Type is \"%s\": here it must be application/json, application/x-ndjson, "
            "application/cloudevents+json or application/cloudevents-batch+json",
            eb_quote(quoted, sizeof(quoted), request->media_type, strlen(request->media_type)));
    request->body_limit =
        kind == EB_BODY_RAW ? limits_of(request)->max_payload : request->net->max_message;
    return 0;
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
    struct eb_publish *publish = NULL;
    if (eb_rest_events_build(request, &publish, &err) == 0)
        return submit(request, publish);
    eb_publish_destroy(publish);
    return eb_http_fail(request, &err);
}
