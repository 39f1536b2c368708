/*
 * ws_json.c - the JSON protocol on a WebSocket: requests to the bus, answers back (PROTOCOL 2.1, 2.2, 2.5).
 *
 * (J1) A request with an `id` is answered exactly once: by its `done` when it reached the bus, here when it did not.
 * (J2) The id goes back as the text it came as. Without one nothing is sent on success; an error carries null.
 * (J3) A bad request is answered and never ends the connection; only text that is not UTF-8 does (RFC 6455 8.1).
 * (J4) Whether the peer is the older client is decided once, by its first request.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/net/ws_internal.h"
#include "common/event_ask.h"
#include "common/log.h"
#include "common/text.h"
#include "common/uuid.h"

#define ID_INT_MAX  ((int64_t)1 << 53)
#define KEEP_TOKENS 4096
#define KEEP_BYTES  (64 * 1024)

/* What one large message made grow is not kept for the next small ones. */
static void shrink(struct eb_ws_parser *parser)
{
    if (parser->json.cap > KEEP_TOKENS || parser->json.scratch.cap > KEEP_BYTES) {
        eb_json_finish(&parser->json);
        eb_json_init(&parser->json);
    }
    if (parser->memory.payload.cap > KEEP_BYTES) {
        eb_draft_memory_finish(&parser->memory);
        eb_draft_memory_init(&parser->memory);
    }
}

/* ---- answers ---- */

/* What one result takes at most, and the frame around the answer with one (a string id may be all escapes). */
#define RESULT_MAX 100
#define ANSWER_MAX (EB_WS_HEADROOM + 32 + 6 * EB_REQUEST_ID_MAX + 2 + RESULT_MAX)

#define PUT(at, text) ((char *)memcpy(at, text, sizeof(text) - 1) + sizeof(text) - 1)

static char *put_result(char *at, const struct eb_publish *publish, uint32_t i)
{
    if (publish->op.results[i].scheduled) {
        at = PUT(at, "\"scheduled\":true");
    } else {
        at = PUT(at, "\"seq\":");
        at = eb_json_put_u64(at, publish->op.results[i].seq);
    }
    at = PUT(at, ",\"message_id\":\"");
    eb_uuid_format(at, publish->op.events[i]->id);
    at += EB_UUID_TEXT;
    return publish->op.results[i].duplicate ? PUT(at, "\",\"duplicate\":true")
                                            : PUT(at, "\",\"duplicate\":false");
}

static void write_results(struct eb_buf *buf, const struct eb_publish *publish)
{
    eb_buf_str(buf, ",\"results\":[");
    char *begin = eb_buf_reserve(buf, (size_t)publish->op.count * (RESULT_MAX + 3)), *at = begin;
    for (uint32_t i = 0; at && i < publish->op.count; i++) {
        at = i > 0 ? PUT(at, ",{") : PUT(at, "{");
        at = put_result(at, publish, i);
        *at++ = '}';
    }
    buf->len += (size_t)(at - begin);
    eb_buf_str(buf, "]");
}

/* The answer that nearly all are: to a publish of one event, written at once. */
static void answer_publish(struct eb_ws_conn *conn, struct eb_ws_id id,
                           const struct eb_publish *publish)
{
    char frame[ANSWER_MAX], *text = frame + EB_WS_HEADROOM, *at = text;
    unsigned char header[EB_WS_HEADER_MAX];

    at = PUT(at, "{\"type\":\"ok\",\"id\":");
    memcpy(at, id.text, id.len);
    at = PUT(at + id.len, ",");
    at = PUT(put_result(at, publish, 0), "}");
    size_t size = eb_ws_header(header, EB_WS_TEXT, (size_t)(at - text));
    memcpy(text - size, header, size);
    eb_session_answer(conn->session, text - size, (size_t)(at - text) + size);
}

/* All others: to a batch, and what goes into a record. */
static void answer_written(struct eb_ws_conn *conn, struct eb_ws_id id,
                           const struct eb_publish *publish)
{
    struct eb_buf buf = EB_BUF_INIT;
    char result[RESULT_MAX];

    eb_ws_answer_begin(conn, &buf, "ok", id, false);
    if (publish->batch) {
        write_results(&buf, publish);
    } else {
        eb_buf_str(&buf, ",");
        eb_buf_add(&buf, result, (size_t)(put_result(result, publish, 0) - result));
    }
    eb_ws_answer_send(conn, &buf, id);
}

/* ---- publish ---- */

static void publish_done(struct eb_publish *publish)
{
    struct eb_ws_conn *conn = publish->user;
    struct eb_ws_id id = eb_ws_kept_id(publish->id_text, publish->id_len);

    if (publish->op.err.code != EB_OK) {
        eb_ws_answer_error(conn, id, &publish->op.err);
    } else if (id.len > 0 && (publish->batch || conn->binary)) {
        answer_written(conn, id, publish);
    } else if (id.len > 0) {
        answer_publish(conn, id, publish);
    }
    eb_ws_id_drop(publish->id_text, &publish->id_len);
    eb_publish_destroy(publish);
}

/* A publish for @max events that will answer to @id; NULL after an error was answered. */
static struct eb_publish *make_publish(struct eb_ws_conn *conn, struct eb_ws_id id, size_t max)
{
    struct eb_error err;
    struct eb_publish *publish = eb_ws_publish_create(conn, max, publish_done, &err);

    if (!publish) {
        eb_ws_answer_error(conn, id, &err);
        return NULL;
    }
    if (!eb_ws_id_keep(publish->id_text, &publish->id_len, id.text, id.len)) {
        eb_publish_destroy(publish);
        eb_ws_answer_memory(conn, id);
        return NULL;
    }
    return publish;
}

static void drop_publish(struct eb_publish *publish)
{
    eb_ws_id_drop(publish->id_text, &publish->id_len);
    eb_publish_destroy(publish);
}

/* One event at token @obj; what it has not of its own it has from @outer. */
static int add_event(struct eb_ws_conn *conn, struct eb_ws_parser *parser,
                     struct eb_publish *publish, uint32_t obj, const struct eb_draft *outer,
                     struct eb_error *err)
{
    struct eb_bus *bus = conn->side->bus;
    struct eb_draft draft = {0};

    if (eb_draft_from_json(&draft, &parser->memory, &parser->json, obj, true,
                           &eb_bus_config(bus)->limits, err) < 0)
        return -1;
    eb_asks_default(&draft, outer);
    return eb_publish_add(bus, publish, &draft, err);
}

/* The usual publish, read without tokens. False: it is not one, nothing was done. */
static bool publish_scanned(struct eb_ws_conn *conn, const char *text, size_t len)
{
    struct eb_publish_scan scan;
    struct eb_error err;

    if (!conn->decided || !eb_publish_scan(&scan, text, len) || atomic_load(&conn->side->stopping))
        return false;
    struct eb_ws_id id = {.text = scan.id, .len = scan.id_len};
    struct eb_publish *publish = make_publish(conn, id, 1);
    if (!publish)
        return true;
    if (eb_publish_add(conn->side->bus, publish, &scan.draft, &err) < 0) {
        err.index = -1;
        eb_ws_answer_error(conn, id, &err);
        drop_publish(publish);
        return true;
    }
    eb_bus_publish(conn->side->bus, publish);
    return true;
}

static void do_publish(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    const struct eb_json *json = &parser->json;
    uint32_t data = eb_json_member(json, 0, "data");
    struct eb_draft outer;
    struct eb_error err;

    if (!data || json->tokens[data].type != EB_JSON_OBJECT) {
        eb_fail(&err, EB_INVALID_REQUEST,
                "publish needs \"data\", an object with \"topic\" and \"payload\"");
        eb_ws_answer_error(conn, id, &err);
        return;
    }
    if (eb_asks_from_json(&outer, json, 0, &err) < 0) {
        eb_ws_answer_error(conn, id, &err);
        return;
    }
    struct eb_publish *publish = make_publish(conn, id, 1);
    if (!publish)
        return;
    if (add_event(conn, parser, publish, data, &outer, &err) < 0) {
        err.index = -1;
        eb_ws_answer_error(conn, id, &err);
        drop_publish(publish);
        return;
    }
    eb_bus_publish(conn->side->bus, publish);
}

static int count_members(const struct eb_json *json, uint32_t array)
{
    int n = 0;

    for (uint32_t i = array + 1; i < json->tokens[array].next; i = json->tokens[i].next)
        n++;
    return n;
}

/* The array `messages`, checked as a whole. 0, or -1 with @err. */
static int batch_check(struct eb_ws_conn *conn, const struct eb_json *json, uint32_t *ret_array,
                       size_t *ret_count, struct eb_draft *ret_outer, struct eb_error *err)
{
    size_t max = eb_bus_config(conn->side->bus)->max_batch;
    uint32_t array = eb_json_member(json, 0, "messages");

    if (!array || json->tokens[array].type != EB_JSON_ARRAY)
        return eb_fail(err, EB_INVALID_REQUEST, "publish_batch needs \"messages\", an array");
    size_t count = (size_t)count_members(json, array);
    if (count > max)
        return eb_fail(err, EB_LIMIT_EXCEEDED, "a batch of %zu events; at most %zu are allowed",
                       count, max);
    if (eb_asks_from_json(ret_outer, json, 0, err) < 0)
        return -1;
    *ret_array = array;
    *ret_count = count;
    return 0;
}

static void do_publish_batch(struct eb_ws_conn *conn, struct eb_ws_parser *parser,
                             struct eb_ws_id id)
{
    const struct eb_json *json = &parser->json;
    struct eb_error err;
    uint32_t array = 0;
    struct eb_draft outer;
    size_t count = 0;
    int index = 0;

    if (batch_check(conn, json, &array, &count, &outer, &err) < 0) {
        eb_ws_answer_error(conn, id, &err);
        return;
    }
    struct eb_publish *publish = make_publish(conn, id, count);
    if (!publish)
        return;
    publish->batch = true;
    for (uint32_t i = array + 1; i < json->tokens[array].next; i = json->tokens[i].next, index++) {
        int rc = json->tokens[i].type == EB_JSON_OBJECT
                     ? add_event(conn, parser, publish, i, &outer, &err)
                     : eb_fail(&err, EB_INVALID_REQUEST, "a member of \"messages\" is no object");
        if (rc < 0) {
            err.index = index;
            eb_ws_answer_error(conn, id, &err);
            drop_publish(publish);
            return;
        }
    }
    eb_bus_publish(conn->side->bus, publish);
}

/* ---- subscribe, unsubscribe, ack ---- */

static void subscribe_done(struct eb_subscribe *call)
{
    struct eb_ws_conn *conn = call->user;
    struct eb_ws_id id = eb_ws_kept_id(call->id_text, call->id_len);

    if (call->err.code != EB_OK) {
        eb_ws_answer_error(conn, id, &call->err);
    } else if (id.len > 0) {
        struct eb_buf buf = EB_BUF_INIT;
        eb_ws_answer_begin(conn, &buf, "ok", id, false);
        eb_buf_str(&buf, ",\"last_seq\":");
        eb_json_write_u64(&buf, call->last_seq);
        eb_buf_printf(&buf, ",\"epoch\":\"%s\"", eb_store_epoch(eb_bus_store(conn->side->bus)));
        eb_ws_answer_send(conn, &buf, id);
    }
    eb_ws_id_drop(call->id_text, &call->id_len);
    free((struct eb_ws_subscribe *)call); /* its first member */
}

static int read_pattern(struct eb_json *json, struct eb_pattern *ret, struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, 0, "pattern");
    size_t len;

    if (!tok || json->tokens[tok].type != EB_JSON_STRING)
        return eb_fail(err, EB_INVALID_REQUEST, "\"pattern\" is missing or not a string");
    const char *text = eb_json_string(json, tok, &len);
    return eb_pattern_parse(ret, text, len, err);
}

static int read_seq(const struct eb_json *json, const char *name, int64_t min, uint64_t *ret,
                    struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, 0, name);
    int64_t value;

    if (!tok || !eb_json_int64(json, tok, &value) || value < min || value > ID_INT_MAX)
        return eb_fail(err, EB_INVALID_REQUEST, "\"%s\" must be an integer from %lld to 2^53", name,
                       (long long)min);
    *ret = (uint64_t)value;
    return 0;
}

/* "last": first the newest event of each topic. */
static int read_last(const struct eb_json *json, struct eb_subscribe *call, struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, 0, "last");

    if (!tok || json->tokens[tok].type == EB_JSON_FALSE)
        return 0;
    if (json->tokens[tok].type != EB_JSON_TRUE)
        return eb_fail(err, EB_INVALID_REQUEST, "\"last\" must be true or false");
    if (call->replay || call->pending_only)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"last\" goes without \"starting_seq\" and \"pending_only\": it says "
                       "where to begin, and acknowledged events count");
    call->last = true;
    return 0;
}

static int read_subscribe(struct eb_json *json, struct eb_ws_subscribe *ret, struct eb_error *err)
{
    struct eb_subscribe *call = &ret->call;
    uint32_t epoch = eb_json_member(json, 0, "epoch");
    uint32_t pending = eb_json_member(json, 0, "pending_only");

    if (read_pattern(json, &ret->pattern, err) < 0)
        return -1;
    call->replay = eb_json_member(json, 0, "starting_seq") != 0;
    if (call->replay && read_seq(json, "starting_seq", 0, &call->starting_seq, err) < 0)
        return -1;
    if (pending) {
        uint8_t type = json->tokens[pending].type;
        if (type != EB_JSON_TRUE && type != EB_JSON_FALSE)
            return eb_fail(err, EB_INVALID_REQUEST, "\"pending_only\" must be true or false");
        call->pending_only = type == EB_JSON_TRUE;
    }
    if (read_last(json, call, err) < 0)
        return -1;
    if (epoch) {
        if (json->tokens[epoch].type != EB_JSON_STRING)
            return eb_fail(err, EB_INVALID_REQUEST, "\"epoch\" must be a string");
        size_t len;
        const char *text = eb_json_string(json, epoch, &len);
        /* What is longer than an epoch is another log's in any case. */
        if (len > sizeof(call->epoch) - 1)
            len = sizeof(call->epoch) - 1;
        memcpy(call->epoch, text, len);
        call->has_epoch = true;
    }
    return 0;
}

static void do_subscribe(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    struct eb_ws_subscribe *subscribe = eb_ws_subscribe_create(conn, subscribe_done);
    struct eb_error err;

    if (!subscribe) {
        eb_ws_answer_memory(conn, id);
        return;
    }
    struct eb_subscribe *call = &subscribe->call;
    if (read_subscribe(&parser->json, subscribe, &err) < 0) {
        eb_ws_answer_error(conn, id, &err);
        free(subscribe);
        return;
    }
    if (!eb_ws_id_keep(call->id_text, &call->id_len, id.text, id.len)) {
        eb_ws_answer_memory(conn, id);
        free(subscribe);
        return;
    }
    eb_bus_subscribe(conn->side->bus, conn->session, call);
}

static void request_done(struct eb_request *request)
{
    struct eb_ws_conn *conn = request->user;
    struct eb_ws_id id = eb_ws_kept_id(request->id_text, request->id_len);

    if (request->err.code != EB_OK) {
        eb_ws_answer_error(conn, id, &request->err);
    } else if (id.len > 0) {
        struct eb_buf buf = EB_BUF_INIT;
        eb_ws_answer_begin(conn, &buf, "ok", id, false);
        eb_ws_answer_send(conn, &buf, id);
    }
    eb_ws_id_drop(request->id_text, &request->id_len);
    free(request);
}

static int read_ack(struct eb_json *json, struct eb_request *ret, struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, 0, "message_id");
    bool foreign;
    size_t len;

    if (read_seq(json, "seq", 1, &ret->op.seq, err) < 0)
        return -1;
    if (!tok)
        return 0;
    if (json->tokens[tok].type != EB_JSON_STRING)
        return eb_fail(err, EB_INVALID_MESSAGE_ID, "\"message_id\" must be a string");
    const char *text = eb_json_string(json, tok, &len);
    ret->op.has_id = true;
    return eb_message_id_parse(ret->op.id, &foreign, text, len, err);
}

/* Unsubscribe and ack, told apart by how they are read and submitted. */
static void do_request(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id,
                       bool ack)
{
    struct eb_request *request = eb_ws_request_create(conn, request_done);
    struct eb_error err;

    if (!request) {
        eb_ws_answer_memory(conn, id);
        return;
    }
    if ((ack ? read_ack(&parser->json, request, &err)
             : read_pattern(&parser->json, &request->pattern, &err)) < 0) {
        eb_ws_answer_error(conn, id, &err);
        free(request);
        return;
    }
    if (!eb_ws_id_keep(request->id_text, &request->id_len, id.text, id.len)) {
        eb_ws_answer_memory(conn, id);
        free(request);
        return;
    }
    if (ack)
        eb_bus_ack(conn->side->bus, conn->session, request);
    else
        eb_bus_unsubscribe(conn->side->bus, conn->session, request);
}

static void do_unsubscribe(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    do_request(conn, parser, id, false);
}

static void do_ack(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    if (eb_json_member(&parser->json, 0, "consumer"))
        eb_ws_do_settle(conn, parser, id, EB_CONSUMER_ACK);
    else
        do_request(conn, parser, id, true);
}

static void do_nack(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    eb_ws_do_settle(conn, parser, id, EB_CONSUMER_NACK);
}

static void do_term(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    eb_ws_do_settle(conn, parser, id, EB_CONSUMER_TERM);
}

static void do_in_progress(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    eb_ws_do_settle(conn, parser, id, EB_CONSUMER_IN_PROGRESS);
}

static void do_ping(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    struct eb_buf buf = EB_BUF_INIT;

    if (atomic_load(&conn->legacy)) {
        eb_ws_count(&conn->side->count.legacy_unsent);
        return;
    }
    eb_ws_answer_begin(conn, &buf, "pong", id, false);
    eb_ws_answer_send(conn, &buf, id);
}

/* ---- the request ---- */

static const struct {
    const char *type;
    void (*carry_out)(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id);
} requests[] = {
    {"publish", do_publish},
    {"publish_batch", do_publish_batch},
    {"subscribe", do_subscribe},
    {"unsubscribe", do_unsubscribe},
    {"ack", do_ack},
    {"ping", do_ping},
    {"consume", eb_ws_do_consume},
    {"release", eb_ws_do_release},
    {"nack", do_nack},
    {"term", do_term},
    {"in_progress", do_in_progress},
};
#define REQUESTS (sizeof(requests) / sizeof(requests[0]))

/* The id as it came, which is the text between its quotes and the quotes, too. */
static int read_id(struct eb_json *json, struct eb_ws_id *ret, struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, 0, "id");

    *ret = (struct eb_ws_id){0};
    if (!tok)
        return 0;
    const struct eb_json_token *token = &json->tokens[tok];
    if (token->type == EB_JSON_STRING) {
        size_t len;
        eb_json_string(json, tok, &len);
        if (len > EB_REQUEST_ID_MAX)
            return eb_fail(err, EB_INVALID_REQUEST, "\"id\" has %zu bytes; at most %d are allowed",
                           len, EB_REQUEST_ID_MAX);
        *ret = (struct eb_ws_id){.text = json->text + token->start - 1, .len = token->len + 2};
        return 0;
    }
    int64_t value;
    if (!eb_json_int64(json, tok, &value) || value < -ID_INT_MAX || value > ID_INT_MAX)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"id\" must be an integer within 2^53 or a string");
    *ret = (struct eb_ws_id){.text = json->text + token->start, .len = token->len};
    return 0;
}

/* PROTOCOL 2.5: the first request has no id, and `type` last, as serde writes a tagged enum of that client. */
static void decide_legacy(struct eb_ws_conn *conn, struct eb_json *json)
{
    size_t len;

    conn->decided = true;
    if (conn->asked || eb_json_member(json, 0, "id"))
        return;
    const char *last = eb_json_last_name(json, 0, &len);
    if (!last || len != 4 || memcmp(last, "type", 4) != 0)
        return;
    atomic_store(&conn->legacy, true);
    eb_session_set_legacy(conn->session);
    eb_ws_count(&conn->side->count.legacy_connections);
    eb_info(NULL, "connection %llu of %s is an older client: it is sent events only",
            (unsigned long long)conn->number, conn->peer);
}

static int find_request(struct eb_json *json, struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, 0, "type");
    char quoted[288];
    size_t len;

    if (!tok || json->tokens[tok].type != EB_JSON_STRING)
        return eb_fail(err, EB_INVALID_REQUEST, "\"type\" is missing or not a string");
    const char *type = eb_json_string(json, tok, &len);
    for (size_t i = 0; i < REQUESTS; i++)
        if (len == strlen(requests[i].type) && memcmp(type, requests[i].type, len) == 0)
            return (int)i;
    return eb_fail(err, EB_INVALID_REQUEST,
                   "unknown type \"%s\"; known are publish, publish_batch, subscribe, unsubscribe, "
                   "ack, ping, consume, release, nack, term and in_progress",
                   eb_quote(quoted, sizeof(quoted), type, len));
}

static void carry_out(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    struct eb_error err;

    int which = find_request(&parser->json, &err);
    if (which >= 0 && eb_ws_check_open(conn, &err) < 0)
        which = -1;
    if (which < 0)
        eb_ws_answer_error(conn, id, &err);
    else
        requests[which].carry_out(conn, parser, id);
}

static void carry_out_text(struct eb_ws_conn *conn, struct eb_ws_parser *parser)
{
    struct eb_json *json = &parser->json;
    struct eb_error err;
    struct eb_ws_id id = {0};

    if (json->tokens[0].type != EB_JSON_OBJECT) {
        conn->decided = true;
        eb_fail(&err, EB_INVALID_REQUEST, "a request is a JSON object");
        eb_ws_answer_error(conn, id, &err);
        return;
    }
    if (!conn->decided)
        decide_legacy(conn, json);
    if (read_id(json, &id, &err) < 0)
        eb_ws_answer_error(conn, id, &err);
    else
        carry_out(conn, parser, id);
}

void eb_ws_json_record(struct eb_ws_conn *conn, struct eb_ws_parser *parser, const char *text,
                       size_t len, uint64_t number)
{
    struct eb_json *json = &parser->json;
    char digits[24];
    struct eb_ws_id id = {.text = digits};
    struct eb_error err;

    if (number != 0)
        id.len = (size_t)(eb_json_put_u64(digits, number) - digits);
    int rc = eb_json_parse(json, text, len, &err);
    if (rc == 0 && json->tokens[0].type != EB_JSON_OBJECT)
        rc = eb_fail(&err, EB_INVALID_REQUEST, "a request is a JSON object");
    if (rc < 0)
        eb_ws_answer_error(conn, id, &err);
    else
        carry_out(conn, parser, id);
    shrink(parser);
}

int eb_ws_json_message(struct eb_ws_conn *conn, struct eb_ws_parser *parser, const char *text,
                       size_t len, bool binary)
{
    struct eb_error err;

    if (publish_scanned(conn, text, len))
        return 0;
    if (eb_json_parse(&parser->json, text, len, &err) == 0) {
        carry_out_text(conn, parser);
    } else if (!binary && !eb_utf8_valid(text, len)) {
        return EB_WS_CLOSE_NOT_UTF8;
    } else {
        conn->decided = true;
        eb_ws_answer_error(conn, (struct eb_ws_id){0}, &err);
    }
    shrink(parser);
    return 0;
}
