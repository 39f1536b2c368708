/* rest_later.c - a topic's newest event, and what waits until it is due, over HTTP (PROTOCOL 8). */
#include "broker/net/http.h"

#include <stdlib.h>
#include <string.h>

#include "common/event_json.h"
#include "common/uuid.h"

#define ANSWER_BYTES (4u * 1024 * 1024)

/* ---- GET /v1/topics/{topic}/last ---- */

enum MHD_Result eb_rest_last(struct eb_http_request *request)
{
    char topic[EB_PATH_TOPIC];
    size_t len;
    if (eb_http_path_topic(request, topic, &len, &request->refused) < 0)
        return eb_http_fail(request, &request->refused);
    struct eb_read_job *job = eb_read_job_new(request);
    if (!job)
        return eb_http_fail(request, &request->refused);
    job->text = malloc(len + 1);
    if (!job->text) {
        eb_fail(&request->refused, EB_UNAVAILABLE, "out of memory");
        return eb_http_fail(request, &request->refused);
    }
    memcpy(job->text, topic, len);
    job->read.kind = EB_READ_LAST;
    job->read.topic = job->text;
    job->read.topic_len = len;
    return eb_read_job_start(job, eb_rest_answer_event);
}

/* ---- GET /v1/scheduled ---- */

static enum MHD_Result answer_scheduled(struct eb_http_request *request)
{
    struct eb_read_job *job = request->job;
    struct eb_read *read = &job->read;
    struct eb_buf body = EB_BUF_INIT;
    size_t count = 0;
    if (read->err.code != EB_OK)
        return eb_http_fail(request, &read->err);
    eb_buf_str(&body, "{\"scheduled\":[");
    for (; count < read->scheduled_count && (count == 0 || body.len < ANSWER_BYTES); count++) {
        const struct eb_scheduled *row = &read->scheduled[count];
        struct eb_event_json_style style = {.deliver_at = row->due_ms,
                                            .scheduled_at = row->made_ms};
        if (count > 0)
            eb_buf_add(&body, ",", 1);
        eb_event_write_json(&body, row->event, &style);
    }
    eb_rest_write_next(&body, count > 0 && (read->more || count < read->scheduled_count),
                       count > 0 ? read->scheduled[count - 1].place : 0);
    return eb_http_json(request, 200, &body);
}

enum MHD_Result eb_rest_scheduled(struct eb_http_request *request)
{
    uint64_t after, limit;
    if (eb_rest_paging(request, &after, &limit) < 0)
        return eb_http_fail(request, &request->refused);
    struct eb_read_job *job = eb_read_job_new(request);
    if (!job)
        return eb_http_fail(request, &request->refused);
    job->read.kind = EB_READ_SCHEDULED;
    job->read.from = after;
    job->read.limit = (size_t)limit;
    job->read.max_bytes = ANSWER_BYTES;
    return eb_read_job_start(job, answer_scheduled);
}

/* ---- DELETE /v1/scheduled/{message_id} ---- */

struct take_back {
    struct eb_request call;
    struct eb_http_request *request;
};

/* On the committing thread. */
static void taken_back(struct eb_request *call)
{
    eb_http_resume_settled(((struct take_back *)call->user)->request);
}

static enum MHD_Result answer_taken_back(struct eb_http_request *request)
{
    struct take_back *job = request->job;
    if (job->call.err.code != EB_OK)
        return eb_http_fail(request, &job->call.err);
    return eb_http_queue(request->net, request->connection, request->policy, MHD_HTTP_NO_CONTENT,
                         MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT), true);
}

/* The message id of the path, in any form that a publisher may use. */
static int path_id(struct eb_http_request *request, uint8_t ret[16])
{
    struct eb_error *err = &request->refused;
    char text[3 * 255 + 1];
    ptrdiff_t len = -1;
    bool foreign;
    if (request->segment_len < sizeof(text))
        len = eb_percent_decode(text, request->segment, request->segment_len);
    if (len < 0)
        return eb_fail(err, EB_INVALID_MESSAGE_ID,
                       "the message id is too long or has a bad percent-escape");
    return eb_message_id_parse(ret, &foreign, text, (size_t)len, err);
}

enum MHD_Result eb_rest_unschedule(struct eb_http_request *request)
{
    struct take_back *job = calloc(1, sizeof(*job));
    if (!job)
        return MHD_NO;
    request->job = job;
    request->job_free = free;
    job->request = request;
    job->call.user = job;
    job->call.done = taken_back;
    if (path_id(request, job->call.op.id) < 0)
        return eb_http_fail(request, &request->refused);
    if (!eb_http_suspend(request, answer_taken_back)) {
        eb_fail(&request->refused, EB_UNAVAILABLE, "the broker is stopping");
        return eb_http_fail(request, &request->refused);
    }
    eb_bus_unschedule(request->net->bus, NULL, &job->call);
    return MHD_YES;
}
