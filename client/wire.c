/*
 * wire.c - the protocol in JSON (PROTOCOL 2): requests written, answers and deliveries read.
 *
 * (W1) An object's members are walked once, whatever their number; the last of a name counts, null is absent.
 * (W2) What the broker says is checked like anything from the net: a member of a wrong kind makes the message
 *      one that cannot be understood, never a crash. Unknown members and types are a newer broker's.
 * (W3) An event is copied once, out of the parser into its item, and shared from there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/internal.h"
#include "common/error.h"
#include "common/event.h"
#include "common/text.h"

/* ---- reading ---- */

enum member {
    M_TYPE,
    M_ID,
    M_SEQ,
    M_LAST_SEQ,
    M_EPOCH,
    M_MESSAGE_ID,
    M_DUPLICATE,
    M_RESULTS,
    M_CODE,
    M_STATUS,
    M_MESSAGE,
    M_PATTERN,
    M_PATTERNS,
    M_FROM_SEQ,
    M_TO_SEQ,
    M_REASON,
    M_TOPIC,
    M_PAYLOAD,
    M_PAYLOAD_ENCODING,
    M_TTL,
    M_METADATA,
    M_TIMESTAMP,
    M_CONTENT_TYPE,
    M_HEADERS,
    M_CONSUMER,
    M_DELIVERY,
    M_RESULT,
    M_SCHEDULED,
    M_COUNT
};

static const struct {
    const char *name;
    size_t len;
} members[M_COUNT] = {
#define MEMBER(name)                                                                               \
    {                                                                                              \
        name, sizeof(name) - 1                                                                     \
    }
    [M_TYPE] = MEMBER("type"),
    [M_ID] = MEMBER("id"),
    [M_SEQ] = MEMBER("seq"),
    [M_LAST_SEQ] = MEMBER("last_seq"),
    [M_EPOCH] = MEMBER("epoch"),
    [M_MESSAGE_ID] = MEMBER("message_id"),
    [M_DUPLICATE] = MEMBER("duplicate"),
    [M_RESULTS] = MEMBER("results"),
    [M_CODE] = MEMBER("code"),
    [M_STATUS] = MEMBER("status"),
    [M_MESSAGE] = MEMBER("message"),
    [M_PATTERN] = MEMBER("pattern"),
    [M_PATTERNS] = MEMBER("patterns"),
    [M_FROM_SEQ] = MEMBER("from_seq"),
    [M_TO_SEQ] = MEMBER("to_seq"),
    [M_REASON] = MEMBER("reason"),
    [M_TOPIC] = MEMBER("topic"),
    [M_PAYLOAD] = MEMBER("payload"),
    [M_PAYLOAD_ENCODING] = MEMBER("payload_encoding"),
    [M_TTL] = MEMBER("ttl"),
    [M_METADATA] = MEMBER("metadata"),
    [M_TIMESTAMP] = MEMBER("timestamp"),
    [M_CONTENT_TYPE] = MEMBER("content_type"),
    [M_HEADERS] = MEMBER("headers"),
    [M_CONSUMER] = MEMBER("consumer"),
    [M_DELIVERY] = MEMBER("delivery"),
    [M_RESULT] = MEMBER("result"),
    [M_SCHEDULED] = MEMBER("scheduled"),
#undef MEMBER
};

/* The value of each known member of @obj; 0: absent or null (W1). */
static void find_members(uint32_t found[M_COUNT], const struct eb_json *json, uint32_t obj)
{
    const struct eb_json_token *tokens = json->tokens;
    uint32_t end = tokens[obj].next;

    memset(found, 0, M_COUNT * sizeof(found[0]));
    for (uint32_t i = obj + 1; i < end; i = tokens[i + 1].next) {
        for (int m = 0; m < M_COUNT; m++) {
            if (!tokens[i].escaped && tokens[i].len != members[m].len)
                continue;
            if (eb_json_equals(json, i, members[m].name, members[m].len)) {
                found[m] = tokens[i + 1].type == EB_JSON_NULL ? 0 : i + 1;
                break;
            }
        }
    }
}

static bool is_a(const struct eb_json *json, uint32_t tok, enum eb_json_type type)
{
    return tok != 0 && json->tokens[tok].type == type;
}

/* An integer from 0 to below 2^53. */
static bool read_seq(const struct eb_json *json, uint32_t tok, uint64_t *ret)
{
    int64_t value;

    if (!is_a(json, tok, EB_JSON_NUMBER) || !eb_json_int64(json, tok, &value) || value < 0 ||
        (uint64_t)value >= EB_SEQ_MAX)
        return false;
    *ret = (uint64_t)value;
    return true;
}

/* A string of 1 to @size - 1 bytes without NUL; false if it is none. */
static bool read_text(struct eb_json *json, uint32_t tok, char *out, size_t size)
{
    const char *text;
    size_t len;

    if (!is_a(json, tok, EB_JSON_STRING))
        return false;
    text = eb_json_string(json, tok, &len);
    if (len == 0 || len >= size || memchr(text, '\0', len))
        return false;
    memcpy(out, text, len);
    out[len] = '\0';
    return true;
}

const char *eb_wire_pattern(struct eb_json *json, uint32_t tok, char buf[EB_TOPIC_MAX + 1])
{
    return read_text(json, tok, buf, EB_TOPIC_MAX + 1) ? buf : NULL;
}

static bool read_metadata(struct eb_wire_parts *parts, struct eb_json *json, uint32_t obj)
{
    uint32_t found[M_COUNT];

    if (!is_a(json, obj, EB_JSON_OBJECT))
        return false;
    find_members(found, json, obj);
    if (!found[M_TIMESTAMP] || !eb_json_int64(json, found[M_TIMESTAMP], &parts->timestamp))
        return false;
    if (!is_a(json, found[M_CONTENT_TYPE], EB_JSON_STRING))
        return false;
    parts->content_type = eb_json_string(json, found[M_CONTENT_TYPE], &parts->content_type_len);
    if (found[M_HEADERS]) {
        if (!is_a(json, found[M_HEADERS], EB_JSON_OBJECT))
            return false;
        parts->headers = json->text + json->tokens[found[M_HEADERS]].start;
        parts->headers_len = json->tokens[found[M_HEADERS]].len;
    }
    return true;
}

static bool read_parts(struct eb_wire_parts *parts, struct eb_json *json,
                       const uint32_t found[M_COUNT])
{
    char encoding[16];

    *parts = (struct eb_wire_parts){0};
    if (!read_seq(json, found[M_SEQ], &parts->seq) || parts->seq == 0)
        return false;
    if (!read_text(json, found[M_MESSAGE_ID], parts->message_id, sizeof(parts->message_id)))
        return false;
    if (!is_a(json, found[M_TOPIC], EB_JSON_STRING) ||
        !is_a(json, found[M_PAYLOAD], EB_JSON_STRING))
        return false;
    parts->topic = eb_json_string(json, found[M_TOPIC], &parts->topic_len);
    if (eb_topic_check(parts->topic, parts->topic_len, &(struct eb_error){0}) < 0)
        return false;
    parts->payload = eb_json_string(json, found[M_PAYLOAD], &parts->payload_len);
    if (found[M_PAYLOAD_ENCODING]) {
        if (!read_text(json, found[M_PAYLOAD_ENCODING], encoding, sizeof(encoding)) ||
            strcmp(encoding, "base64") != 0)
            return false;
        parts->base64 = true;
    }
    if (found[M_TTL] && (!eb_json_int64(json, found[M_TTL], &parts->ttl) || parts->ttl < 0))
        return false;
    return read_metadata(parts, json, found[M_METADATA]);
}

static char *put(char **at, const char *text, size_t len)
{
    char *start = *at;

    if (len > 0)
        memcpy(start, text, len);
    start[len] = '\0';
    *at += len + 1;
    return start;
}

int eb_wire_make_event(struct eb_item **ret, const struct eb_wire_parts *parts)
{
    struct eb_item *item =
        eb_item_create(EB_ITEM_EVENT, parts->topic_len + parts->payload_len +
                                          parts->content_type_len + parts->headers_len + 37 + 5);
    eb_message *message;
    ptrdiff_t decoded;
    char *at;

    if (!item)
        return -ENOMEM;
    at = item->data;
    message = &item->message;
    message->seq = parts->seq;
    message->timestamp_ms = parts->timestamp;
    message->ttl_s = parts->ttl;
    message->message_id = put(&at, parts->message_id, strlen(parts->message_id));
    message->topic = put(&at, parts->topic, parts->topic_len);
    message->topic_len = parts->topic_len;
    message->content_type = put(&at, parts->content_type, parts->content_type_len);
    if (parts->headers) {
        message->headers = put(&at, parts->headers, parts->headers_len);
        message->headers_len = parts->headers_len;
    }
    message->payload = at;
    message->payload_len = parts->payload_len;
    put(&at, parts->payload, parts->payload_len);
    if (parts->base64) {
        char *payload = (char *)message->payload;
        decoded = eb_base64_decode(payload, payload, parts->payload_len);
        if (decoded < 0) {
            eb_item_unref(item);
            return -EPROTO;
        }
        message->payload_len = (size_t)decoded;
        payload[decoded] = '\0';
    }
    *ret = item;
    return 0;
}

static int bad(const char **why, const char *what)
{
    *why = what;
    return -EPROTO;
}

/* Whose it is, if a consumer's. False: it says so in a way that cannot be understood. */
static bool read_consumer(struct eb_wire *ret, struct eb_json *json, const uint32_t found[M_COUNT])
{
    if (!found[M_CONSUMER])
        return true;
    if (!read_text(json, found[M_CONSUMER], ret->consumer_text, sizeof(ret->consumer_text)))
        return false;
    ret->consumer = ret->consumer_text;
    return true;
}

static int read_event(struct eb_wire *ret, struct eb_json *json, const uint32_t found[M_COUNT],
                      const char **why)
{
    struct eb_wire_parts parts;
    uint64_t delivery = 0;
    int rc;

    if (!read_consumer(ret, json, found) ||
        (ret->consumer &&
         (!read_seq(json, found[M_DELIVERY], &delivery) || delivery == 0 || delivery > UINT32_MAX)))
        return bad(why, "the broker sent a consumer's event without a sound delivery");

    if (found[M_PATTERN]) {
        ret->pattern = eb_wire_pattern(json, found[M_PATTERN], ret->pattern_text);
        if (!ret->pattern)
            return bad(why, "the broker sent an event with an unsound pattern");
    }
    if (!read_parts(&parts, json, found))
        return bad(why, "the broker sent an event that cannot be understood");
    rc = eb_wire_make_event(&ret->item, &parts);
    if (rc == 0)
        ret->item->delivery = (uint32_t)delivery;
    return rc == -EPROTO ? bad(why, "the broker sent a payload that is not base64") : rc;
}

static void read_id(struct eb_wire *ret, const struct eb_json *json, uint32_t tok)
{
    ret->has_id = read_seq(json, tok, &ret->id);
}

static int read_ok(struct eb_wire *ret, struct eb_json *json, const uint32_t found[M_COUNT])
{
    uint32_t duplicate = found[M_DUPLICATE];

    ret->has_seq = read_seq(json, found[M_SEQ], &ret->seq);
    ret->has_last_seq = read_seq(json, found[M_LAST_SEQ], &ret->last_seq);
    ret->duplicate = is_a(json, duplicate, EB_JSON_TRUE);
    ret->scheduled = is_a(json, found[M_SCHEDULED], EB_JSON_TRUE);
    read_text(json, found[M_EPOCH], ret->epoch, sizeof(ret->epoch));
    read_text(json, found[M_MESSAGE_ID], ret->message_id, sizeof(ret->message_id));
    if (is_a(json, found[M_RESULTS], EB_JSON_ARRAY))
        ret->results = found[M_RESULTS];
    return 0;
}

static int read_error(struct eb_wire *ret, struct eb_json *json, const uint32_t found[M_COUNT])
{
    const char *text;
    size_t len;
    int64_t status;
    char code[64] = "";

    read_text(json, found[M_CODE], code, sizeof(code));
    ret->result = eb_result_from_code(code, strlen(code));
    if (ret->result == EB_RESULT_INTERNAL && found[M_STATUS] &&
        eb_json_int64(json, found[M_STATUS], &status) && status >= 400 && status < 600)
        ret->result = eb_result_from_status((int)status);
    text = code;
    len = strlen(code);
    if (is_a(json, found[M_MESSAGE], EB_JSON_STRING))
        text = eb_json_string(json, found[M_MESSAGE], &len);
    if (len >= sizeof(ret->message_text))
        len = sizeof(ret->message_text) - 1;
    memcpy(ret->message_text, text, len);
    ret->message_text[len] = '\0';
    ret->text = ret->message_text;
    return 0;
}

static int read_gap(struct eb_wire *ret, struct eb_json *json, const uint32_t found[M_COUNT],
                    const char **why)
{
    if (!read_seq(json, found[M_FROM_SEQ], &ret->from_seq) ||
        !read_seq(json, found[M_TO_SEQ], &ret->to_seq))
        return bad(why, "the broker sent a gap without from_seq and to_seq");
    if (!read_text(json, found[M_REASON], ret->reason_text, sizeof(ret->reason_text)))
        strcpy(ret->reason_text, "unknown");
    ret->reason = ret->reason_text;
    if (!read_consumer(ret, json, found))
        return bad(why, "the broker sent a gap with an unsound consumer");
    ret->pattern = eb_wire_pattern(json, found[M_PATTERN], ret->pattern_text);
    if (is_a(json, found[M_PATTERNS], EB_JSON_ARRAY))
        ret->patterns = found[M_PATTERNS];
    read_text(json, found[M_EPOCH], ret->epoch, sizeof(ret->epoch));
    return 0;
}

static int read_live(struct eb_wire *ret, struct eb_json *json, const uint32_t found[M_COUNT],
                     const char **why)
{
    ret->pattern = eb_wire_pattern(json, found[M_PATTERN], ret->pattern_text);
    if (!ret->pattern || !read_seq(json, found[M_SEQ], &ret->seq))
        return bad(why, "the broker sent a live notice without pattern and seq");
    return 0;
}

static int read_released(struct eb_wire *ret, struct eb_json *json, const uint32_t found[M_COUNT],
                         const char **why)
{
    if (!found[M_CONSUMER] || !read_consumer(ret, json, found))
        return bad(why, "the broker sent the end of a consumer without its name");
    if (!read_text(json, found[M_REASON], ret->reason_text, sizeof(ret->reason_text)))
        strcpy(ret->reason_text, "unknown");
    ret->reason = ret->reason_text;
    return 0;
}

int eb_wire_decode(struct eb_wire *ret, struct eb_json *json, const char *text, size_t len,
                   const char **why)
{
    uint32_t found[M_COUNT];
    struct eb_error err;

    *ret = (struct eb_wire){.type = EB_WIRE_OTHER, .json = true};
    if (eb_json_parse(json, text, len, &err) < 0)
        return bad(why, "the broker sent something that is not JSON");
    if (json->tokens[0].type != EB_JSON_OBJECT)
        return bad(why, "the broker sent JSON that is not an object");
    find_members(found, json, 0);
    if (!is_a(json, found[M_TYPE], EB_JSON_STRING))
        return bad(why, "the broker sent a message without a type");
    read_id(ret, json, found[M_ID]);
    if (eb_json_equals(json, found[M_TYPE], "event", 5)) {
        ret->type = EB_WIRE_EVENT;
        return read_event(ret, json, found, why);
    }
    if (eb_json_equals(json, found[M_TYPE], "ok", 2)) {
        ret->type = EB_WIRE_OK;
        return read_ok(ret, json, found);
    }
    if (eb_json_equals(json, found[M_TYPE], "error", 5)) {
        ret->type = EB_WIRE_ERROR;
        return read_error(ret, json, found);
    }
    if (eb_json_equals(json, found[M_TYPE], "live", 4)) {
        ret->type = EB_WIRE_LIVE;
        return read_live(ret, json, found, why);
    }
    if (eb_json_equals(json, found[M_TYPE], "gap", 3)) {
        ret->type = EB_WIRE_GAP;
        return read_gap(ret, json, found, why);
    }
    if (eb_json_equals(json, found[M_TYPE], "released", 8)) {
        ret->type = EB_WIRE_RELEASED;
        return read_released(ret, json, found, why);
    }
    return 0;
}

bool eb_wire_answered(struct eb_json *json, uint32_t tok, uint64_t *ret_seq, int *ret_result)
{
    uint32_t found[M_COUNT];
    char result[16];

    if (!is_a(json, tok, EB_JSON_OBJECT))
        return false;
    find_members(found, json, tok);
    if (!read_seq(json, found[M_SEQ], ret_seq) ||
        !read_text(json, found[M_RESULT], result, sizeof(result)))
        return false;
    if (strcmp(result, "ok") == 0)
        *ret_result = EB_RESULT_OK;
    else
        *ret_result = strcmp(result, "late") == 0 ? EB_RESULT_LATE : EB_RESULT_UNKNOWN;
    return true;
}

bool eb_wire_receipt(struct eb_json *json, uint32_t tok, eb_receipt *ret)
{
    uint32_t found[M_COUNT];

    if (!is_a(json, tok, EB_JSON_OBJECT))
        return false;
    find_members(found, json, tok);
    ret->duplicate = is_a(json, found[M_DUPLICATE], EB_JSON_TRUE);
    ret->scheduled = is_a(json, found[M_SCHEDULED], EB_JSON_TRUE);
    return (read_seq(json, found[M_SEQ], &ret->seq) || ret->scheduled) &&
           read_text(json, found[M_MESSAGE_ID], ret->message_id, sizeof(ret->message_id));
}

/* ---- writing: a request's record as JSON (wire_bin.c, WB1) ---- */

static void write_text(struct eb_buf *out, const char *name, struct eb_bin_bytes text)
{
    eb_buf_printf(out, ",\"%s\":", name);
    eb_json_write_string(out, text.data, text.len);
}

static void write_payload(struct eb_buf *out, struct eb_bin_bytes payload)
{
    size_t len;
    char *at;

    if (eb_utf8_valid(payload.data, payload.len)) {
        write_text(out, "payload", payload);
        return;
    }
    eb_buf_str(out, ",\"payload\":");
    len = eb_base64_length(payload.len);
    at = eb_buf_reserve(out, len + 2);
    if (!at)
        return;
    *at = '"';
    eb_base64_encode(at + 1, payload.data, payload.len);
    at[len + 1] = '"';
    out->len += len + 2;
    eb_buf_str(out, ",\"payload_encoding\":\"base64\"");
}

static void write_headers(struct eb_buf *out, struct eb_bin_bytes headers)
{
    struct eb_bin_bytes name, value;
    const char *before = ",\"headers\":{";

    while (eb_bin_next_header(&headers, &name, &value)) {
        eb_buf_str(out, before);
        eb_json_write_string(out, name.data, name.len);
        eb_buf_add(out, ":", 1);
        eb_json_write_string(out, value.data, value.len);
        before = ",";
    }
    eb_buf_add(out, "}", 1);
}

/* @more: what the record has no place for, or NULL. */
static void write_event(struct eb_buf *out, const struct eb_bin_record *record,
                        const eb_publication *more)
{
    struct eb_bin_event event;
    struct eb_error err;
    char id[EB_UUID_TEXT + 1];

    if (eb_bin_read_event(record, &event, &err) < 0)
        return; /* it was written here */
    eb_buf_str(out, "{\"topic\":");
    eb_json_write_string(out, event.topic.data, event.topic.len);
    if (event.uuid) {
        eb_uuid_format(id, event.uuid);
        event.id_text = (struct eb_bin_bytes){id, EB_UUID_TEXT};
    }
    write_text(out, "message_id", event.id_text);
    if (event.content_type.data)
        write_text(out, "content_type", event.content_type);
    if (event.headers.len > 0)
        write_headers(out, event.headers);
    write_payload(out, event.payload);
    if (event.has_ttl) {
        eb_buf_str(out, ",\"ttl\":");
        eb_json_write_u64(out, event.ttl);
    }
    if (more && more->deliver_at_ms > 0)
        eb_buf_printf(out, ",\"deliver_at\":%lld", (long long)more->deliver_at_ms);
    if (more && more->delay_ms > 0)
        eb_buf_printf(out, ",\"delay\":%lld.%03lld", (long long)(more->delay_ms / 1000),
                      (long long)(more->delay_ms % 1000));
    if (more && more->expects_last_seq)
        eb_buf_printf(out, ",\"expected_last_seq\":%llu",
                      (unsigned long long)more->expected_last_seq);
    eb_buf_add(out, "}", 1);
}

static void write_batch(struct eb_buf *out, const struct eb_bin_record *record)
{
    struct eb_bin_publish_batch batch;
    struct eb_bin_record member;
    struct eb_error err;
    size_t at = 0;

    eb_buf_str(out, ",\"messages\":[");
    if (eb_bin_read_publish_batch(record, &batch, &err) < 0)
        return; /* it was written here */
    for (bool first = true; eb_bin_next(batch.members, batch.members_len, &at, &member) > 0;
         first = false) {
        if (!first)
            eb_buf_add(out, ",", 1);
        write_event(out, &member, NULL);
    }
    eb_buf_add(out, "]", 1);
}

static void write_call(struct eb_buf *out, const struct eb_bin_record *record)
{
    struct eb_bin_call call;
    struct eb_error err;
    char epoch[EB_UUID_TEXT + 1];

    if (eb_bin_read_call(record, &call, &err) < 0)
        return; /* it was written here */
    if (call.pattern.len > 0)
        write_text(out, "pattern", call.pattern);
    if (call.seq > 0 || call.replay) {
        eb_buf_str(out, call.replay ? ",\"starting_seq\":" : ",\"seq\":");
        eb_json_write_u64(out, call.seq);
    }
    if (call.epoch) {
        eb_uuid_format(epoch, call.epoch);
        write_text(out, "epoch", (struct eb_bin_bytes){epoch, EB_UUID_TEXT});
    }
    if (call.pending_only)
        eb_buf_str(out, ",\"pending_only\":true");
}

/* A request that is JSON in any case: with its id put in. */
static void write_as_it_is(struct eb_buf *out, const struct eb_bin_record *record, uint64_t id)
{
    const char *text = (const char *)record->body + EB_BIN_ID;
    size_t len = record->len - EB_BIN_ID;

    eb_buf_add(out, "{", 1);
    if (id != 0) {
        eb_buf_str(out, "\"id\":");
        eb_json_write_u64(out, id);
        eb_buf_add(out, ",", 1);
    }
    eb_buf_add(out, text + 1, len - 1);
}

void eb_wire_json(struct eb_buf *out, const struct eb_bin_record *record)
{
    static const char *const types[] = {
        [EB_BIN_PUBLISH] = "publish",
        [EB_BIN_PUBLISH_BATCH] = "publish_batch",
        [EB_BIN_SUBSCRIBE] = "subscribe",
        [EB_BIN_UNSUBSCRIBE] = "unsubscribe",
        [EB_BIN_ACK] = "ack",
    };
    uint64_t id = eb_bin_request_id(record);

    if (record->kind == EB_BIN_JSON_REQUEST) {
        write_as_it_is(out, record, id);
        return;
    }
    eb_buf_printf(out, "{\"type\":\"%s\"", types[record->kind]);
    if (id != 0) {
        eb_buf_str(out, ",\"id\":");
        eb_json_write_u64(out, id);
    }
    if (record->kind == EB_BIN_PUBLISH) {
        eb_buf_str(out, ",\"data\":");
        write_event(out, record, NULL);
    } else if (record->kind == EB_BIN_PUBLISH_BATCH) {
        write_batch(out, record);
    } else {
        write_call(out, record);
    }
    eb_buf_add(out, "}", 1);
}

bool eb_wire_asks_more(const eb_publication *events, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (events[i].deliver_at_ms != 0 || events[i].delay_ms != 0 || events[i].expects_last_seq)
            return true;
    }
    return false;
}

/* One event by way of its record, which checks it. */
static int write_more(struct eb_buf *out, const eb_publication *event, struct eb_error *err)
{
    struct eb_buf record = EB_BUF_INIT;
    struct eb_bin_record read;
    size_t at = 0;
    int rc = eb_wire_write_event(&record, event, true, err);

    if (rc == 0 && eb_bin_next((uint8_t *)record.data, record.len, &at, &read) > 0)
        write_event(out, &read, event);
    eb_buf_finish(&record);
    return rc;
}

int eb_wire_write_more(struct eb_buf *out, const eb_publication *events, size_t count, bool batch,
                       struct eb_error *err)
{
    struct eb_buf text = EB_BUF_INIT;
    int rc = EB_RESULT_OK;

    eb_buf_str(&text, batch ? "{\"type\":\"publish_batch\",\"messages\":["
                            : "{\"type\":\"publish\",\"data\":");
    for (size_t i = 0; i < count && rc == 0; i++) {
        if (i > 0)
            eb_buf_str(&text, ",");
        rc = write_more(&text, &events[i], err);
    }
    eb_buf_str(&text, batch ? "]}" : "}");
    if (rc == 0 && !eb_buf_failed(&text))
        eb_bin_write_json(out, EB_BIN_JSON_REQUEST, 0, text.data, text.len);
    if (rc == 0 && (eb_buf_failed(&text) || eb_buf_failed(out)))
        rc = EB_RESULT_MEMORY;
    eb_buf_finish(&text);
    return rc;
}
