/*
 * wire.c - the protocol's JSON (PROTOCOL 2): requests written, answers and deliveries read.
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

/* What an event is made of, borrowed from the parser. */
struct parts {
    const char *topic, *payload, *content_type;
    size_t topic_len, payload_len, content_type_len;
    const char *headers; /* the JSON text itself */
    size_t headers_len;
    bool base64;
    char message_id[37];
    uint64_t seq;
    int64_t timestamp, ttl;
};

static bool read_metadata(struct parts *parts, struct eb_json *json, uint32_t obj)
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

static bool read_parts(struct parts *parts, struct eb_json *json, const uint32_t found[M_COUNT])
{
    char encoding[16];

    *parts = (struct parts){0};
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

static int make_event(struct eb_item **ret, const struct parts *parts)
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

static int read_event(struct eb_wire *ret, struct eb_json *json, const uint32_t found[M_COUNT],
                      const char **why)
{
    struct parts parts;
    int rc;

    if (found[M_PATTERN]) {
        ret->pattern = eb_wire_pattern(json, found[M_PATTERN], ret->pattern_text);
        if (!ret->pattern)
            return bad(why, "the broker sent an event with an unsound pattern");
    }
    if (!read_parts(&parts, json, found))
        return bad(why, "the broker sent an event that cannot be understood");
    rc = make_event(&ret->item, &parts);
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

int eb_wire_decode(struct eb_wire *ret, struct eb_json *json, const char *text, size_t len,
                   const char **why)
{
    uint32_t found[M_COUNT];
    struct eb_error err;

    *ret = (struct eb_wire){.type = EB_WIRE_OTHER};
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
    return 0;
}

bool eb_wire_receipt(struct eb_json *json, uint32_t tok, eb_receipt *ret)
{
    uint32_t found[M_COUNT];

    if (!is_a(json, tok, EB_JSON_OBJECT))
        return false;
    find_members(found, json, tok);
    ret->duplicate = is_a(json, found[M_DUPLICATE], EB_JSON_TRUE);
    return read_seq(json, found[M_SEQ], &ret->seq) &&
           read_text(json, found[M_MESSAGE_ID], ret->message_id, sizeof(ret->message_id));
}

/* ---- writing ---- */

static int check_headers(const char *const *headers, struct eb_error *err)
{
    for (size_t i = 0; headers && headers[i]; i += 2) {
        if (!headers[i + 1])
            return eb_fail(err, EB_INVALID_REQUEST, "headers: the last name has no value");
        if (!headers[i][0] || !eb_utf8_valid(headers[i], strlen(headers[i])) ||
            !eb_utf8_valid(headers[i + 1], strlen(headers[i + 1])))
            return eb_fail(err, EB_INVALID_REQUEST,
                           "headers: names and values must be UTF-8, a name not empty");
    }
    return 0;
}

static int check_event(const eb_publication *event, struct eb_error *err)
{
    uint8_t id[16];
    bool foreign;

    if (!event || !event->topic)
        return eb_fail(err, EB_INVALID_REQUEST, "an event needs a topic");
    if (!event->payload && event->payload_len > 0)
        return eb_fail(err, EB_INVALID_REQUEST, "payload is NULL, but payload_len is not 0");
    if (event->ttl_s < EB_TTL_BROKER || event->ttl_s > EB_TTL_MAX)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "ttl_s must be 0 (no expiry), seconds, or EB_TTL_BROKER");
    if (eb_topic_check(event->topic, strlen(event->topic), err) < 0)
        return -1;
    if (event->message_id &&
        eb_message_id_parse(id, &foreign, event->message_id, strlen(event->message_id), err) < 0)
        return -1;
    if (event->content_type && !eb_utf8_valid(event->content_type, strlen(event->content_type)))
        return eb_fail(err, EB_INVALID_REQUEST, "content_type is not UTF-8");
    return check_headers(event->headers, err);
}

static void write_payload(struct eb_buf *out, const eb_publication *event)
{
    size_t len;
    char *at;

    eb_buf_str(out, ",\"payload\":");
    if (eb_utf8_valid(event->payload, event->payload_len)) {
        eb_json_write_string(out, event->payload_len ? event->payload : "", event->payload_len);
        return;
    }
    len = eb_base64_length(event->payload_len);
    at = eb_buf_reserve(out, len + 2);
    if (!at)
        return;
    *at = '"';
    eb_base64_encode(at + 1, event->payload, event->payload_len);
    at[len + 1] = '"';
    out->len += len + 2;
    eb_buf_str(out, ",\"payload_encoding\":\"base64\"");
}

static void write_headers(struct eb_buf *out, const char *const *headers)
{
    eb_buf_str(out, ",\"headers\":{");
    for (size_t i = 0; headers[i]; i += 2) {
        if (i > 0)
            eb_buf_add(out, ",", 1);
        eb_json_write_string(out, headers[i], strlen(headers[i]));
        eb_buf_add(out, ":", 1);
        eb_json_write_string(out, headers[i + 1], strlen(headers[i + 1]));
    }
    eb_buf_add(out, "}", 1);
}

int eb_wire_write_event(struct eb_buf *out, const eb_publication *event, bool with_ttl,
                        struct eb_error *err)
{
    uint8_t id[16];
    char text[EB_UUID_TEXT + 1];
    const char *message_id;

    if (check_event(event, err) < 0)
        return EB_RESULT_INVALID;
    message_id = event->message_id;
    if (!message_id) {
        eb_uuid_v7(id);
        eb_uuid_format(text, id);
        message_id = text;
    }
    eb_buf_str(out, "{\"topic\":");
    eb_json_write_string(out, event->topic, strlen(event->topic));
    eb_buf_str(out, ",\"message_id\":");
    eb_json_write_string(out, message_id, strlen(message_id));
    if (event->content_type) {
        eb_buf_str(out, ",\"content_type\":");
        eb_json_write_string(out, event->content_type, strlen(event->content_type));
    }
    if (event->headers && event->headers[0])
        write_headers(out, event->headers);
    write_payload(out, event);
    if (with_ttl && event->ttl_s != EB_TTL_BROKER) {
        eb_buf_str(out, ",\"ttl\":");
        eb_json_write_i64(out, event->ttl_s);
    }
    eb_buf_add(out, "}", 1);
    return eb_buf_failed(out) ? EB_RESULT_MEMORY : EB_RESULT_OK;
}

void eb_wire_write_subscribe(struct eb_buf *out, uint64_t id, const char *pattern,
                             uint64_t starting_seq, const char *epoch, bool pending_only)
{
    eb_buf_str(out, "{\"type\":\"subscribe\",\"id\":");
    eb_json_write_u64(out, id);
    eb_buf_str(out, ",\"pattern\":");
    eb_json_write_string(out, pattern, strlen(pattern));
    if (starting_seq != EB_START_LIVE) {
        eb_buf_str(out, ",\"starting_seq\":");
        eb_json_write_u64(out, starting_seq);
        if (epoch[0]) {
            eb_buf_str(out, ",\"epoch\":");
            eb_json_write_string(out, epoch, strlen(epoch));
        }
        if (pending_only)
            eb_buf_str(out, ",\"pending_only\":true");
    }
    eb_buf_add(out, "}", 1);
}

void eb_wire_write_unsubscribe(struct eb_buf *out, const char *pattern)
{
    eb_buf_str(out, "{\"type\":\"unsubscribe\",\"pattern\":");
    eb_json_write_string(out, pattern, strlen(pattern));
    eb_buf_add(out, "}", 1);
}
