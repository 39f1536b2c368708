/* consumer_json.c - requests about durable consumers read, their answers and deliveries written (consumer_json.h). */
#include "broker/net/consumer_json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/event_json.h"

struct eb_consumer_call *eb_consumer_call_create(enum eb_consumer_verb verb)
{
    struct eb_consumer_call *call = calloc(1, sizeof(*call));

    if (!call)
        return NULL;
    call->request.verb = verb;
    call->request.delay_ms = -1;
    call->request.delivery = EB_ANY_DELIVERY;
    call->request.err.index = -1;
    return call;
}

void eb_consumer_call_destroy(struct eb_consumer_call *call)
{
    if (!call)
        return;
    free(call->settings);
    free(call->seqs);
    free(call->results);
    free(call);
}

static int no_memory(struct eb_error *err)
{
    return eb_fail(err, EB_UNAVAILABLE, "out of memory");
}

/* ---- reading ---- */

int eb_consumer_call_name(struct eb_consumer_call *call, const char *name, size_t len,
                          struct eb_error *err)
{
    if (eb_consumer_name_check(name, len, err) < 0)
        return -1;
    memcpy(call->request.name, name, len);
    call->request.name[len] = '\0';
    return 0;
}

int eb_consumer_call_settings(struct eb_consumer_call *call, struct eb_json *json, uint32_t obj,
                              struct eb_error *err)
{
    call->settings = calloc(1, sizeof(*call->settings));
    if (!call->settings)
        return no_memory(err);
    call->request.settings = call->settings;
    return eb_consumer_settings_read(call->settings, json, obj, err);
}

int eb_consumer_read_int(const struct eb_json *json, uint32_t obj, const char *name, int64_t min,
                         int64_t max, int64_t *ret, struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, obj, name);
    int64_t value;

    if (!tok)
        return 0;
    if (!eb_json_int64(json, tok, &value) || value < min || value > max)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"%s\" must be an integer from %" PRId64 " to %" PRId64, name, min, max);
    *ret = value;
    return 0;
}

/* "12", "0.25": as JSON writes a number, without sign and exponent. Beyond milliseconds it is cut. */
static bool read_ms(const char *text, size_t len, int64_t max_s, int64_t *ret)
{
    int64_t ms = 0, unit = 1000;
    size_t i = 0;

    for (; i < len && text[i] >= '0' && text[i] <= '9'; i++) {
        ms = ms * 10 + (text[i] - '0') * 1000;
        if (ms > max_s * 1000)
            return false;
    }
    if (i == 0 || (i < len && text[i] != '.'))
        return false;
    for (i++; i < len && text[i] >= '0' && text[i] <= '9'; i++) {
        unit /= 10;
        ms += (text[i] - '0') * unit;
    }
    if (i < len || ms > max_s * 1000)
        return false;
    *ret = ms;
    return true;
}

int eb_consumer_read_seconds(const struct eb_json *json, uint32_t obj, const char *name,
                             int64_t max_s, int64_t *ret_ms, struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, obj, name);

    if (!tok)
        return 0;
    const struct eb_json_token *token = &json->tokens[tok];
    if (token->type != EB_JSON_NUMBER ||
        !read_ms(json->text + token->start, token->len, max_s, ret_ms))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"%s\" must be a number of seconds from 0 to %" PRId64, name, max_s);
    return 0;
}

static int read_seq(const struct eb_json *json, uint32_t tok, uint64_t *ret, struct eb_error *err)
{
    int64_t value;

    if (!eb_json_int64(json, tok, &value) || value < 1 || value > (int64_t)EB_SEQ_MAX)
        return eb_fail(err, EB_INVALID_REQUEST, "a seq must be an integer from 1 to 2^53");
    *ret = (uint64_t)value;
    return 0;
}

/* The seqs at @tok, a @list or one. */
static int take_seqs(struct eb_consumer_call *call, const struct eb_json *json, uint32_t tok,
                     bool list, size_t max, struct eb_error *err)
{
    uint32_t first = list ? tok + 1 : tok, end = list ? json->tokens[tok].next : tok + 1;
    size_t count = 0;

    for (uint32_t i = first; i < end; i = json->tokens[i].next)
        count++;
    if (count == 0)
        return eb_fail(err, EB_INVALID_REQUEST, "\"seqs\" is empty: name at least one");
    if (count > max)
        return eb_fail(err, EB_LIMIT_EXCEEDED, "%zu seqs; at most %zu (max_batch) are allowed",
                       count, max);
    call->seqs = calloc(count, sizeof(*call->seqs));
    call->results = calloc(count, sizeof(*call->results));
    if (!call->seqs || !call->results)
        return no_memory(err);
    count = 0;
    for (uint32_t i = first; i < end; i = json->tokens[i].next)
        if (read_seq(json, i, &call->seqs[count++], err) < 0)
            return -1;
    call->request.seqs = call->seqs;
    call->request.results = call->results;
    call->request.count = (uint32_t)count;
    return 0;
}

static int take_reason(struct eb_consumer_call *call, struct eb_json *json, uint32_t obj,
                       struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, obj, "reason");
    size_t len = 0, max = sizeof(call->request.reason) - 1;

    if (!tok)
        return 0;
    const char *text =
        json->tokens[tok].type == EB_JSON_STRING ? eb_json_string(json, tok, &len) : NULL;
    if (!text || len > max || memchr(text, '\0', len))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"reason\" must be a string of at most %zu bytes without U+0000", max);
    memcpy(call->request.reason, text, len);
    return 0;
}

int eb_consumer_call_seqs(struct eb_consumer_call *call, struct eb_json *json, uint32_t obj,
                          size_t max, struct eb_error *err)
{
    struct eb_consumer_request *request = &call->request;
    uint32_t list = eb_json_member(json, obj, "seqs"), one = eb_json_member(json, obj, "seq");
    int64_t delivery = EB_ANY_DELIVERY;

    if (list && json->tokens[list].type != EB_JSON_ARRAY)
        return eb_fail(err, EB_INVALID_REQUEST, "\"seqs\" must be a list of seqs: {\"seqs\":[17]}");
    if (list && one)
        return eb_fail(err, EB_INVALID_REQUEST, "\"seq\" and \"seqs\" are both there: name one");
    if (!list && !one && request->verb == EB_CONSUMER_REDRIVE)
        return 0; /* all of them */
    if (!list && !one)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"seqs\" is missing: a list of seqs, {\"seqs\":[17]}");
    if (take_seqs(call, json, list ? list : one, list != 0, max, err) < 0)
        return -1;
    if (request->verb == EB_CONSUMER_ACK || request->verb == EB_CONSUMER_REDRIVE)
        return 0;
    if (eb_consumer_read_int(json, obj, "delivery", 1, UINT32_MAX, &delivery, err) < 0)
        return -1;
    request->delivery = (uint32_t)delivery;
    if (request->verb == EB_CONSUMER_NACK)
        return eb_consumer_read_seconds(json, obj, "delay", EB_CONSUMER_DELAY_MAX_S,
                                        &request->delay_ms, err);
    return request->verb == EB_CONSUMER_TERM ? take_reason(call, json, obj, err) : 0;
}

int eb_consumer_call_position(struct eb_consumer_call *call, const struct eb_json *json,
                              uint32_t obj, struct eb_error *err)
{
    struct eb_consumer_request *request = &call->request;
    int64_t seq = -1, time = -1;

    if (eb_consumer_read_int(json, obj, "seq", 0, (int64_t)EB_SEQ_MAX, &seq, err) < 0 ||
        eb_consumer_read_int(json, obj, "time", 0, INT64_MAX, &time, err) < 0)
        return -1;
    if ((seq < 0) == (time < 0))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "say where to: {\"seq\":N}, or {\"time\":MILLISECONDS since 1970}");
    request->by_time = time >= 0;
    request->time_ms = time;
    request->seq = seq >= 0 ? (uint64_t)seq : 0;
    return 0;
}

/* ---- writing ---- */

void eb_consumer_write_results(struct eb_buf *out, const struct eb_consumer_request *request)
{
    static const char *const names[] = {
        [EB_JOB_OK] = "ok", [EB_JOB_LATE] = "late", [EB_JOB_UNKNOWN] = "unknown"};

    eb_buf_str(out, "\"results\":[");
    for (uint32_t i = 0; i < request->count; i++) {
        eb_buf_str(out, i > 0 ? ",{\"seq\":" : "{\"seq\":");
        eb_json_write_u64(out, request->seqs[i]);
        eb_buf_str(out, ",\"result\":\"");
        eb_buf_str(out, names[request->results[i]]);
        eb_buf_str(out, "\"}");
    }
    eb_buf_str(out, "]");
}

/* The object that was written at @begin goes on with further members. */
static void reopen(struct eb_buf *out, size_t begin)
{
    if (!eb_buf_failed(out) && out->len > begin)
        out->len--;
}

void eb_consumer_write_delivery(struct eb_buf *out, const struct eb_event *event, const char *type,
                                const char *consumer, uint32_t delivery)
{
    const struct eb_event_json_style style = {.type = type};
    size_t begin = out->len;

    eb_event_write_json(out, event, &style);
    reopen(out, begin);
    if (consumer) {
        eb_buf_str(out, ",\"consumer\":\"");
        eb_buf_str(out, consumer); /* of characters that need no escape */
        eb_buf_str(out, "\"");
    }
    eb_buf_str(out, ",\"delivery\":");
    eb_json_write_u64(out, delivery);
    eb_buf_str(out, "}");
}

static void member(struct eb_buf *out, const char *name, uint64_t value)
{
    eb_buf_printf(out, ",\"%s\":%" PRIu64, name, value);
}

static void write_state(struct eb_buf *out, const struct eb_consumer_info *info)
{
    eb_buf_printf(out, ",\"state\":\"%s\"", info->state);
    if (info->stopped[0]) {
        eb_buf_str(out, ",\"stopped\":");
        eb_json_write_string(out, info->stopped, strlen(info->stopped));
    }
    eb_buf_printf(out, ",\"created\":%" PRId64, info->made_ms);
    member(out, "cursor", info->cursor);
    member(out, "next", info->next);
    member(out, "pending", info->pending);
    member(out, "inflight", info->inflight);
    member(out, "waiting", info->waiting);
    member(out, "blocked", info->parked);
    member(out, "workers", info->workers);
    member(out, "delivered", info->delivered);
    member(out, "acked", info->acked);
    member(out, "redelivered", info->redelivered);
    member(out, "dead", info->dead);
    member(out, "dead_waiting", info->dead_waiting);
    member(out, "lost", info->lost);
    eb_buf_printf(out, ",\"lag\":{\"events\":%" PRIu64 ",\"seconds\":%" PRId64 ".%03d}",
                  info->lag_events, info->lag_ms / 1000, (int)(info->lag_ms % 1000));
}

void eb_consumer_write_info(struct eb_buf *out, const struct eb_consumer_info *info)
{
    eb_buf_printf(out, "{\"name\":\"%s\"", info->name);
    if (info->settings) {
        size_t begin = out->len;
        eb_consumer_settings_write(out, info->settings, false);
        if (!eb_buf_failed(out))
            out->data[begin] = ','; /* its members become ours */
        reopen(out, begin);
    }
    write_state(out, info);
    eb_buf_str(out, "}");
}
