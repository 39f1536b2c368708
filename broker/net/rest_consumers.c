/*
 * rest_consumers.c - durable consumers over HTTP: made, shown, ended, answered to, set elsewhere, redriven; their dead
 * letters. Fetching is rest_fetch.c.
 *
 * What changes something is suspended until the commit that holds it. It is resumed by the ticker: who completes it may
 * be the committing thread, `eb-consumer`, or this one.
 */
#include "broker/net/rest_consumers.h"

#include <stdlib.h>
#include <string.h>

#define LIMIT_DEFAULT 100
#define LIMIT_MAX     1000
#define LIST_BYTES    (4u * 1024 * 1024)

/* ---- names and bodies ---- */

int eb_rest_consumer_name(struct eb_http_request *request, char out[EB_CONSUMER_NAME_MAX + 1],
                          struct eb_error *err)
{
    char name[3 * EB_CONSUMER_NAME_MAX];
    ptrdiff_t len = request->segment_len <= sizeof(name)
                        ? eb_percent_decode(name, request->segment, request->segment_len)
                        : -1;
    if (len < 0) /* a bad escape, or too long: what is wrong is said of it as it came */
        return eb_consumer_name_check(request->segment, request->segment_len, err) < 0
                   ? -1
                   : eb_fail(err, EB_INVALID_REQUEST, "the consumer's name has a bad escape");
    if (eb_consumer_name_check(name, (size_t)len, err) < 0)
        return -1;
    memcpy(out, name, (size_t)len);
    out[len] = '\0';
    return 0;
}

int eb_rest_consumers_begin(struct eb_http_request *request, struct eb_error *err)
{
    char name[EB_CONSUMER_NAME_MAX + 1];
    request->body_limit = request->net->max_message;
    if (eb_rest_check_encoding(request, err) < 0)
        return -1;
    return eb_rest_consumer_name(request, name, err);
}

int eb_rest_json_body(struct eb_http_request *request, struct eb_json *json, struct eb_error *err)
{
    const char *text = request->body.len > 0 ? request->body.data : "{}";
    if (eb_json_parse(json, text, request->body.len > 0 ? request->body.len : 2, err) < 0)
        return -1;
    if (json->tokens[0].type != EB_JSON_OBJECT)
        return eb_fail(err, EB_INVALID_REQUEST, "the body must be a JSON object");
    return 0;
}

static enum MHD_Result not_found(struct eb_http_request *request, const char *name)
{
    eb_fail(&request->refused, EB_NOT_FOUND, "there is no consumer %s", name);
    return eb_http_fail(request, &request->refused);
}

/* ---- one request to the bus ---- */

static void free_call(void *job)
{
    eb_consumer_call_destroy(job);
}

static void call_done(struct eb_consumer_request *call)
{
    eb_http_resume_soon(call->user);
}

static enum MHD_Result submit(struct eb_http_request *request, struct eb_consumer_call *call,
                              enum MHD_Result (*answer)(struct eb_http_request *))
{
    eb_buf_finish(&request->body);
    call->request.done = call_done;
    call->request.user = request;
    if (!eb_http_suspend(request, answer)) {
        eb_fail(&request->refused, EB_UNAVAILABLE, "the broker is stopping");
        return eb_http_fail(request, &request->refused);
    }
    eb_bus_consumer(request->net->bus, &call->request);
    return MHD_YES;
}

/* What the verb needs of the body. */
static int read_call(struct eb_http_request *request, struct eb_consumer_call *call,
                     struct eb_json *json, struct eb_error *err)
{
    size_t max = eb_bus_config(request->net->bus)->max_batch;
    if (call->request.verb == EB_CONSUMER_DELETE)
        return 0;
    if (eb_rest_json_body(request, json, err) < 0)
        return -1;
    if (call->request.verb == EB_CONSUMER_PUT)
        return eb_consumer_call_settings(call, json, 0, err);
    if (call->request.verb == EB_CONSUMER_SEEK)
        return eb_consumer_call_position(call, json, 0, err);
    return eb_consumer_call_seqs(call, json, 0, max, err);
}

static enum MHD_Result carry_out(struct eb_http_request *request, enum eb_consumer_verb verb,
                                 enum MHD_Result (*answer)(struct eb_http_request *))
{
    struct eb_error *err = &request->refused;
    struct eb_consumer_call *call = eb_consumer_call_create(verb);
    struct eb_json json;
    if (!call) {
        eb_fail(err, EB_UNAVAILABLE, "out of memory");
        return eb_http_fail(request, err);
    }
    request->job = call;
    request->job_free = free_call;
    eb_json_init(&json);
    int rc = eb_rest_consumer_name(request, call->request.name, err);
    if (rc == 0)
        rc = read_call(request, call, &json, err);
    eb_json_finish(&json);
    return rc == 0 ? submit(request, call, answer) : eb_http_fail(request, err);
}

/* ---- answers ---- */

/* What the consumer is now; it may be deleted meanwhile. */
static enum MHD_Result answer_info(struct eb_http_request *request, unsigned status,
                                   const char *name)
{
    struct eb_consumer_info info;
    struct eb_buf body = EB_BUF_INIT;
    if (!eb_bus_consumer_info(request->net->bus, name, &info))
        return not_found(request, name);
    eb_consumer_write_info(&body, &info);
    free(info.settings);
    return eb_http_json(request, status, &body);
}

/* Of a PUT and a seek. */
static enum MHD_Result answer_changed(struct eb_http_request *request)
{
    const struct eb_consumer_request *call = request->job;
    if (call->err.code != EB_OK)
        return eb_http_fail(request, &call->err);
    return answer_info(request, call->created ? 201 : 200, call->name);
}

static enum MHD_Result answer_deleted(struct eb_http_request *request)
{
    const struct eb_consumer_request *call = request->job;
    if (call->err.code != EB_OK)
        return eb_http_fail(request, &call->err);
    return eb_http_queue(request->net, request->connection, request->policy, 204,
                         MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT), true);
}

static enum MHD_Result answer_results(struct eb_http_request *request)
{
    const struct eb_consumer_request *call = request->job;
    struct eb_buf body = EB_BUF_INIT;
    if (call->err.code != EB_OK)
        return eb_http_fail(request, &call->err);
    eb_buf_str(&body, "{");
    eb_consumer_write_results(&body, call);
    eb_buf_str(&body, "}");
    return eb_http_json(request, 200, &body);
}

static enum MHD_Result answer_redrive(struct eb_http_request *request)
{
    const struct eb_consumer_request *call = request->job;
    struct eb_buf body = EB_BUF_INIT;
    if (call->err.code != EB_OK)
        return eb_http_fail(request, &call->err);
    eb_buf_printf(&body, "{\"redriven\":%llu", (unsigned long long)call->redriven);
    if (call->count > 0) {
        eb_buf_str(&body, ",");
        eb_consumer_write_results(&body, call);
    }
    eb_buf_str(&body, "}");
    return eb_http_json(request, 200, &body);
}

enum MHD_Result eb_rest_consumer_put(struct eb_http_request *request)
{
    return carry_out(request, EB_CONSUMER_PUT, answer_changed);
}

enum MHD_Result eb_rest_consumer_delete(struct eb_http_request *request)
{
    return carry_out(request, EB_CONSUMER_DELETE, answer_deleted);
}

enum MHD_Result eb_rest_consumer_ack(struct eb_http_request *request)
{
    return carry_out(request, EB_CONSUMER_ACK, answer_results);
}

enum MHD_Result eb_rest_consumer_nack(struct eb_http_request *request)
{
    return carry_out(request, EB_CONSUMER_NACK, answer_results);
}

enum MHD_Result eb_rest_consumer_term(struct eb_http_request *request)
{
    return carry_out(request, EB_CONSUMER_TERM, answer_results);
}

enum MHD_Result eb_rest_consumer_in_progress(struct eb_http_request *request)
{
    return carry_out(request, EB_CONSUMER_IN_PROGRESS, answer_results);
}

enum MHD_Result eb_rest_consumer_seek(struct eb_http_request *request)
{
    return carry_out(request, EB_CONSUMER_SEEK, answer_changed);
}

enum MHD_Result eb_rest_consumer_redrive(struct eb_http_request *request)
{
    return carry_out(request, EB_CONSUMER_REDRIVE, answer_redrive);
}

/* ---- what is there ---- */

enum MHD_Result eb_rest_consumer(struct eb_http_request *request)
{
    char name[EB_CONSUMER_NAME_MAX + 1];
    if (eb_rest_consumer_name(request, name, &request->refused) < 0)
        return eb_http_fail(request, &request->refused);
    return answer_info(request, 200, name);
}

enum MHD_Result eb_rest_consumers(struct eb_http_request *request)
{
    uint64_t limit = LIMIT_DEFAULT;
    if (eb_uri_number(&request->uri, "limit", 1, LIMIT_MAX, &limit, NULL, &request->refused) < 0)
        return eb_http_fail(request, &request->refused);
    const struct eb_param *after = eb_uri_param(&request->uri, "after");
    struct eb_consumer_info *infos = NULL;
    struct eb_buf body = EB_BUF_INIT;
    size_t count = eb_bus_consumers(request->net->bus, after ? after->value : NULL, (size_t)limit,
                                    true, &infos);
    eb_buf_str(&body, "{\"consumers\":[");
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            eb_buf_str(&body, ",");
        eb_consumer_write_info(&body, &infos[i]);
    }
    if (count == limit)
        eb_buf_printf(&body, "],\"next_after\":\"%s\"}", infos[count - 1].name);
    else
        eb_buf_str(&body, "],\"next_after\":null}");
    eb_consumer_infos_finish(infos, count);
    return eb_http_json(request, 200, &body);
}

/* ---- dead letters ---- */

struct dead_job {
    struct eb_read read;
    struct eb_http_request *request;
};

static void free_dead(void *ctx)
{
    struct dead_job *job = ctx;
    eb_read_finish(&job->read);
    free(job);
}

static void dead_done(struct eb_read *read)
{
    eb_http_resume_soon(((struct dead_job *)read->user)->request);
}

/* Events until the answer is full; returns `next_after`, 0 at the end. */
static uint64_t write_dead(struct eb_buf *out, const struct eb_read *read)
{
    static const struct eb_event_json_style style = {0};
    for (size_t i = 0; i < read->dead_count; i++) {
        size_t before = out->len;
        if (i > 0)
            eb_buf_str(out, ",");
        eb_event_write_json(out, read->dead[i], &style);
        if (i > 0 && out->len > LIST_BYTES - 512) {
            out->len = before;
            return read->dead[i - 1]->seq;
        }
    }
    return read->dead_next > 0 ? read->dead_next - 1 : 0;
}

static enum MHD_Result answer_dead(struct eb_http_request *request)
{
    const struct dead_job *job = request->job;
    struct eb_buf body = EB_BUF_INIT;
    if (job->read.err.code != EB_OK)
        return eb_http_fail(request, &job->read.err);
    eb_buf_str(&body, "{\"events\":[");
    uint64_t next = write_dead(&body, &job->read);
    if (next > 0)
        eb_buf_printf(&body, "],\"next_after\":%llu}", (unsigned long long)next);
    else
        eb_buf_str(&body, "],\"next_after\":null}");
    return eb_http_json(request, 200, &body);
}

enum MHD_Result eb_rest_consumer_dead(struct eb_http_request *request)
{
    struct eb_error *err = &request->refused;
    char name[EB_CONSUMER_NAME_MAX + 1];
    uint64_t after = 0, limit = LIMIT_DEFAULT;
    if (eb_rest_consumer_name(request, name, err) < 0 ||
        eb_uri_number(&request->uri, "after", 0, EB_SEQ_MAX, &after, NULL, err) < 0 ||
        eb_uri_number(&request->uri, "limit", 1, LIMIT_MAX, &limit, NULL, err) < 0)
        return eb_http_fail(request, err);
    uint64_t id = eb_bus_consumer_id(request->net->bus, name);
    if (id == 0)
        return not_found(request, name);
    struct dead_job *job = calloc(1, sizeof(*job));
    if (!job) {
        eb_fail(err, EB_UNAVAILABLE, "out of memory");
        return eb_http_fail(request, err);
    }
    job->request = request;
    job->read = (struct eb_read){.kind = EB_READ_DEAD,
                                 .consumer = id,
                                 .from = after + 1,
                                 .limit = (size_t)limit,
                                 .max_bytes = LIST_BYTES,
                                 .done = dead_done,
                                 .user = job};
    request->job = job;
    request->job_free = free_dead;
    if (!eb_http_suspend(request, answer_dead)) {
        eb_fail(err, EB_UNAVAILABLE, "the broker is stopping");
        return eb_http_fail(request, err);
    }
    eb_bus_read(request->net->bus, &job->read);
    return MHD_YES;
}
