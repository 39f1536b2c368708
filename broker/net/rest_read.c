/*
 * rest_read.c - reading over HTTP: a page of events, one event, topics, subscriptions, connections.
 *
 * What touches the log is read on the bus's reader pool with the request suspended; the rest is in memory
 * and answered at once. Lists are paged by `after` and `limit`; "next_after" is null at the end.
 */
#include "broker/net/http.h"

#include <stdlib.h>
#include <string.h>

#include "common/event_json.h"
#include "common/json.h"

#define LIMIT_DEFAULT 100
#define LIMIT_MAX     1000
#define ANSWER_BYTES  (4u * 1024 * 1024)

/* ---- the job of a suspended read ---- */

static void job_free(void *ctx)
{
    struct eb_read_job *job = ctx;
    eb_read_finish(&job->read);
    free(job->patterns);
    free(job->text);
    free(job);
}

static void read_done(struct eb_read *read)
{
    eb_http_resume_soon(((struct eb_read_job *)read->user)->request);
}

struct eb_read_job *eb_read_job_new(struct eb_http_request *request)
{
    struct eb_read_job *job = calloc(1, sizeof(*job));
    if (!job) {
        eb_fail(&request->refused, EB_UNAVAILABLE, "out of memory");
        return NULL;
    }
    job->request = request;
    job->read.user = job;
    job->read.done = read_done;
    request->job = job;
    request->job_free = job_free;
    return job;
}

enum MHD_Result eb_read_job_start(struct eb_read_job *job,
                                  enum MHD_Result (*answer)(struct eb_http_request *))
{
    struct eb_http_request *request = job->request;
    if (!eb_http_suspend(request, answer)) {
        eb_fail(&request->refused, EB_UNAVAILABLE, "the broker is stopping");
        return eb_http_fail(request, &request->refused);
    }
    eb_bus_read(request->net->bus, &job->read);
    return MHD_YES;
}

/* ---- GET /v1/events ---- */

static void write_gap(struct eb_buf *out, const struct eb_read_job *job,
                      const struct eb_page_item *gap)
{
    eb_buf_str(out, ",\"gap\":{");
    eb_buf_str(out, job->read.count == 1 ? "\"pattern\":" : "\"patterns\":[");
    for (size_t i = 0; i < job->read.count; i++) {
        if (i > 0)
            eb_buf_add(out, ",", 1);
        eb_json_write_string(out, job->patterns[i].text, job->patterns[i].len);
    }
    eb_buf_printf(out, "%s,\"from_seq\":%llu,\"to_seq\":%llu,\"reason\":\"%s\"",
                  job->read.count == 1 ? "" : "]", (unsigned long long)gap->from_seq,
                  (unsigned long long)gap->to_seq, eb_gap_reason_name(gap->reason));
    if (gap->reason == EB_GAP_EPOCH)
        eb_buf_printf(out, ",\"epoch\":\"%s\"",
                      eb_store_epoch(eb_bus_store(job->request->net->bus)));
    eb_buf_add(out, "}", 1);
}

/*
 * Events until the answer is full; *ret_gap is the page's gap. An answer tells one gap, so a second one (and
 * what is behind it) is left to the next page. Returns the first seq not looked at.
 */
static uint64_t write_events(struct eb_buf *out, const struct eb_page *page,
                             const struct eb_page_item **ret_gap)
{
    static const struct eb_event_json_style style = {0};
    bool first = true;
    for (size_t i = 0; i < page->count; i++) {
        const struct eb_page_item *item = &page->items[i];
        if (!item->event && *ret_gap)
            return item->from_seq;
        if (!item->event) {
            *ret_gap = item;
            continue;
        }
        size_t before = out->len;
        if (!first)
            eb_buf_add(out, ",", 1);
        eb_event_write_json(out, item->event, &style);
        if (!first && out->len > ANSWER_BYTES - 512) {
            out->len = before;
            return item->event->seq;
        }
        first = false;
    }
    return page->next;
}

static enum MHD_Result answer_events(struct eb_http_request *request)
{
    struct eb_read_job *job = request->job;
    if (job->read.err.code != EB_OK)
        return eb_http_fail(request, &job->read.err);
    struct eb_buf body = EB_BUF_INIT;
    const struct eb_page_item *gap = NULL;
    eb_buf_str(&body, "{\"events\":[");
    uint64_t next = write_events(&body, &job->read.page, &gap);
    eb_buf_printf(&body, "],\"next_seq\":%llu,\"last_seq\":%llu,\"epoch\":\"%s\"",
                  (unsigned long long)next, (unsigned long long)job->read.last_seq,
                  eb_store_epoch(eb_bus_store(request->net->bus)));
    if (gap)
        write_gap(&body, job, gap);
    eb_buf_add(&body, "}", 1);
    return eb_http_json(request, 200, &body);
}

static int parse_events(struct eb_http_request *request, struct eb_read_job *job)
{
    struct eb_error *err = &request->refused;
    uint64_t limit = LIMIT_DEFAULT, from = 1;
    if (eb_uri_number(&request->uri, "limit", 1, LIMIT_MAX, &limit, NULL, err) < 0 ||
        eb_uri_number(&request->uri, "starting_seq", 0, EB_SEQ_MAX, &from, NULL, err) < 0 ||
        eb_uri_patterns(&request->uri, &job->patterns, &job->read.count, err) < 0)
        return -1;
    const struct eb_param *epoch = eb_uri_param(&request->uri, "epoch");
    job->read.has_epoch = epoch && epoch->value_len > 0;
    if (job->read.has_epoch) {
        strncpy(job->read.epoch, epoch->value, sizeof(job->read.epoch) - 1);
    }
    job->read.kind = EB_READ_PAGE;
    job->read.patterns = job->patterns;
    job->read.from = from;
    job->read.limit = (size_t)limit;
    job->read.max_bytes = ANSWER_BYTES;
    return 0;
}

enum MHD_Result eb_rest_events(struct eb_http_request *request)
{
    struct eb_read_job *job = eb_read_job_new(request);
    if (!job || parse_events(request, job) < 0)
        return eb_http_fail(request, &request->refused);
    return eb_read_job_start(job, answer_events);
}

/* ---- GET /v1/events/{seq} ---- */

enum MHD_Result eb_rest_answer_event(struct eb_http_request *request)
{
    static const struct eb_event_json_style style = {0};
    struct eb_read_job *job = request->job;
    if (job->read.err.code != EB_OK)
        return eb_http_fail(request, &job->read.err);
    if (!job->read.event) {
        eb_fail(&request->refused, EB_NOT_FOUND, "there is no event with seq %llu",
                (unsigned long long)job->read.from);
        return eb_http_fail(request, &request->refused);
    }
    struct eb_buf body = EB_BUF_INIT;
    eb_event_write_json(&body, job->read.event, &style);
    return eb_http_json(request, 200, &body);
}

enum MHD_Result eb_rest_event(struct eb_http_request *request)
{
    uint64_t seq;
    if (!eb_parse_u64(request->segment, request->segment_len, EB_SEQ_MAX - 1, &seq) || seq == 0) {
        char quoted[80];
        eb_fail(&request->refused, EB_INVALID_REQUEST,
                "seq is \"%s\": it must be an integer from 1",
                eb_quote(quoted, sizeof(quoted), request->segment, request->segment_len));
        return eb_http_fail(request, &request->refused);
    }
    struct eb_read_job *job = eb_read_job_new(request);
    if (!job)
        return eb_http_fail(request, &request->refused);
    job->read.kind = EB_READ_EVENT;
    job->read.from = seq;
    return eb_read_job_start(job, eb_rest_answer_event);
}

/* ---- lists ---- */

static enum MHD_Result answer_topics(struct eb_http_request *request)
{
    struct eb_read_job *job = request->job;
    if (job->read.err.code != EB_OK)
        return eb_http_fail(request, &job->read.err);
    struct eb_buf body = EB_BUF_INIT;
    size_t count = job->read.topic_count;
    eb_buf_str(&body, "{\"topics\":[");
    for (size_t i = 0; i < count; i++) {
        eb_buf_str(&body, i > 0 ? ",{\"topic\":" : "{\"topic\":");
        eb_json_write_string(&body, job->read.topics[i].name, job->read.topics[i].len);
        eb_buf_add(&body, "}", 1);
    }
    eb_buf_str(&body, "],\"next_after\":");
    if (count > 0 && count == job->read.limit)
        eb_json_write_string(&body, job->read.topics[count - 1].name,
                             job->read.topics[count - 1].len);
    else
        eb_buf_str(&body, "null");
    eb_buf_add(&body, "}", 1);
    return eb_http_json(request, 200, &body);
}

enum MHD_Result eb_rest_topics(struct eb_http_request *request)
{
    uint64_t limit = LIMIT_DEFAULT;
    struct eb_read_job *job = eb_read_job_new(request);
    if (!job ||
        eb_uri_number(&request->uri, "limit", 1, LIMIT_MAX, &limit, NULL, &request->refused) < 0)
        return eb_http_fail(request, &request->refused);
    const struct eb_param *after = eb_uri_param(&request->uri, "after");
    job->read.kind = EB_READ_TOPICS;
    job->read.limit = (size_t)limit;
    job->read.after = after ? after->value : NULL;
    return eb_read_job_start(job, answer_topics);
}

int eb_rest_paging(struct eb_http_request *request, uint64_t *ret_after, uint64_t *ret_limit)
{
    *ret_after = 0;
    *ret_limit = LIMIT_DEFAULT;
    return eb_uri_number(&request->uri, "after", 0, EB_SEQ_MAX, ret_after, NULL,
                         &request->refused) < 0 ||
                   eb_uri_number(&request->uri, "limit", 1, LIMIT_MAX, ret_limit, NULL,
                                 &request->refused) < 0
               ? -1
               : 0;
}

void eb_rest_write_next(struct eb_buf *out, bool more, uint64_t after)
{
    if (more)
        eb_buf_printf(out, "],\"next_after\":%llu}", (unsigned long long)after);
    else
        eb_buf_str(out, "],\"next_after\":null}");
}

enum MHD_Result eb_rest_subscriptions(struct eb_http_request *request)
{
    uint64_t after, limit;
    struct eb_bus *bus = request->net->bus;
    if (eb_rest_paging(request, &after, &limit) < 0)
        return eb_http_fail(request, &request->refused);
    struct eb_subscription_info *rows = NULL;
    size_t count = eb_bus_subscriptions(bus, after, (size_t)limit, &rows);
    struct eb_buf body = EB_BUF_INIT;
    eb_buf_str(&body, "{\"subscriptions\":[");
    for (size_t i = 0; i < count; i++) {
        eb_buf_printf(&body, "%s{\"connection\":%llu,\"pattern\":", i > 0 ? "," : "",
                      (unsigned long long)rows[i].session);
        eb_json_write_string(&body, rows[i].pattern, strlen(rows[i].pattern));
        eb_buf_printf(&body, ",\"state\":\"%s\",\"cursor\":%llu}", rows[i].state,
                      (unsigned long long)rows[i].cursor);
    }
    eb_rest_write_next(&body, count == limit, count > 0 ? rows[count - 1].place : 0);
    free(rows);
    return eb_http_json(request, 200, &body);
}

static void write_connection(struct eb_buf *out, const struct eb_connection_info *info)
{
    eb_buf_printf(out, "{\"id\":%llu,\"transport\":\"%s\",\"protocol\":\"%s\",\"peer\":",
                  (unsigned long long)info->session, info->transport, info->protocol);
    eb_json_write_string(out, info->peer, strlen(info->peer));
    eb_buf_printf(out,
                  ",\"connected_at\":%lld,\"subscriptions\":%u,\"consumers\":%u,\"delivered\":%llu,"
                  "\"queued_events\":%llu,\"queued_bytes\":%llu,\"lagging\":%s}",
                  (long long)info->connected_ms, info->subscriptions, info->consumers,
                  (unsigned long long)info->delivered, (unsigned long long)info->queued_events,
                  (unsigned long long)info->queued_bytes, info->lagging ? "true" : "false");
}

enum MHD_Result eb_rest_connections(struct eb_http_request *request)
{
    uint64_t after, limit, last = 0;
    struct eb_net *net = request->net;
    if (eb_rest_paging(request, &after, &limit) < 0)
        return eb_http_fail(request, &request->refused);
    struct eb_connection_info *sockets = NULL, *streams = NULL;
    size_t socket_count = eb_ws_connections(net->ws, after, (size_t)limit, &sockets);
    size_t stream_count = eb_sse_connections(net, after, (size_t)limit, &streams);
    struct eb_buf body = EB_BUF_INIT;
    eb_buf_str(&body, "{\"connections\":[");
    size_t count = 0;
    for (size_t i = 0, j = 0; count < limit && (i < socket_count || j < stream_count); count++) {
        bool socket =
            j == stream_count || (i < socket_count && sockets[i].session < streams[j].session);
        const struct eb_connection_info *info = socket ? &sockets[i++] : &streams[j++];
        if (count > 0)
            eb_buf_add(&body, ",", 1);
        write_connection(&body, info);
        last = info->session;
    }
    eb_rest_write_next(&body, count == limit, last);
    free(sockets);
    free(streams);
    return eb_http_json(request, 200, &body);
}
