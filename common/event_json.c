/*
 * event_json.c - events as JSON: the members of `data` into a draft, an event into the frame of PROTOCOL 2.2.
 *
 * (EJ1) What comes out of eb_draft_from_json may be stored: kinds, sizes, topic, id and headers are checked.
 * (EJ2) The members are walked once, whatever their number; the last of a name counts, and null is absent.
 * (EJ3) The draft points into the request's text, the parser's scratch or @memory, never anywhere else.
 */
#include "common/event_json.h"

#include <string.h>

#include "common/event_ask.h"
#include "common/text.h"
#include "common/topic.h"
#include "common/uuid.h"

void eb_draft_memory_init(struct eb_draft_memory *memory)
{
    eb_headers_init(&memory->headers, 0);
    memory->payload = (struct eb_buf)EB_BUF_INIT;
}

void eb_draft_memory_finish(struct eb_draft_memory *memory)
{
    eb_headers_finish(&memory->headers);
    eb_buf_finish(&memory->payload);
}

/* ---- reading ---- */

enum member {
    TOPIC,
    PAYLOAD,
    PAYLOAD_ENCODING,
    CONTENT_TYPE,
    HEADERS,
    MESSAGE_ID,
    TTL,
    EXPECTED_LAST_SEQ,
    DELIVER_AT,
    DELAY,
    MEMBER_COUNT
};

static const struct {
    const char *name;
    size_t len;
} members[MEMBER_COUNT] = {
#define MEMBER(name)                                                                               \
    {                                                                                              \
        name, sizeof(name) - 1                                                                     \
    }
    [TOPIC] = MEMBER("topic"),
    [PAYLOAD] = MEMBER("payload"),
    [PAYLOAD_ENCODING] = MEMBER("payload_encoding"),
    [CONTENT_TYPE] = MEMBER("content_type"),
    [HEADERS] = MEMBER("headers"),
    [MESSAGE_ID] = MEMBER("message_id"),
    [TTL] = MEMBER("ttl"),
    [EXPECTED_LAST_SEQ] = MEMBER("expected_last_seq"),
    [DELIVER_AT] = MEMBER("deliver_at"),
    [DELAY] = MEMBER("delay"),
#undef MEMBER
};

/* The value of each known member; 0: absent or null (EJ2). */
static void find_members(uint32_t found[MEMBER_COUNT], const struct eb_json *json, uint32_t obj)
{
    const struct eb_json_token *tokens = json->tokens;
    uint32_t end = tokens[obj].next;

    memset(found, 0, MEMBER_COUNT * sizeof(found[0]));
    for (uint32_t i = obj + 1; i < end; i = tokens[i + 1].next) {
        for (int m = 0; m < MEMBER_COUNT; m++) {
            if (!tokens[i].escaped && tokens[i].len != members[m].len)
                continue;
            if (eb_json_equals(json, i, members[m].name, members[m].len)) {
                found[m] = tokens[i + 1].type == EB_JSON_NULL ? 0 : i + 1;
                break;
            }
        }
    }
}

static const char *kind_name(const struct eb_json *json, uint32_t tok)
{
    static const char *const names[] = {
        [EB_JSON_NULL] = "null",        [EB_JSON_FALSE] = "false",     [EB_JSON_TRUE] = "true",
        [EB_JSON_NUMBER] = "a number",  [EB_JSON_STRING] = "a string", [EB_JSON_ARRAY] = "an array",
        [EB_JSON_OBJECT] = "an object",
    };
    return names[json->tokens[tok].type];
}

/* The string @tok (not 0), or NULL with @err. */
static const char *string_member(struct eb_json *json, uint32_t tok, enum member member,
                                 size_t *ret_len, struct eb_error *err)
{
    if (json->tokens[tok].type != EB_JSON_STRING) {
        eb_fail(err, member == MESSAGE_ID ? EB_INVALID_MESSAGE_ID : EB_INVALID_REQUEST,
                "\"%s\" must be a string, not %s", members[member].name, kind_name(json, tok));
        return NULL;
    }
    return eb_json_string(json, tok, ret_len);
}

static int read_base64(struct eb_draft *draft, struct eb_buf *out, const char *text, size_t len,
                       const struct eb_event_limits *limits, struct eb_error *err)
{
    ptrdiff_t decoded;

    if (len / 4 > limits->max_payload / 3 + 1) /* not worth decoding */
        return eb_fail(err, EB_PAYLOAD_TOO_LARGE,
                       "payload has about %zu bytes; at most %zu are taken", len / 4 * 3,
                       limits->max_payload);
    if (out->failed || (out->cap > 64 * 1024 && out->cap / 4 > len))
        eb_buf_finish(out);
    out->len = 0;
    if (!eb_buf_reserve(out, len + 1))
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    decoded = eb_base64_decode(out->data, text, len);
    if (decoded < 0)
        return eb_fail(
            err, EB_INVALID_REQUEST,
            "\"payload\" is not base64 (RFC 4648 section 4, padded, without white space)");
    out->len = (size_t)decoded;
    draft->payload = out->data;
    draft->payload_len = out->len;
    return 0;
}

static int read_payload(struct eb_draft *draft, struct eb_draft_memory *memory,
                        struct eb_json *json, uint32_t payload, uint32_t encoding,
                        const struct eb_event_limits *limits, struct eb_error *err)
{
    const char *text;
    size_t len;

    if (!payload)
        return eb_fail(err, EB_INVALID_REQUEST, "\"payload\" is missing; expected a string");
    if (encoding) {
        const char *name = string_member(json, encoding, PAYLOAD_ENCODING, &len, err);
        if (!name)
            return -1;
        if (len != 6 || memcmp(name, "base64", 6) != 0) {
            char quoted[300];
            return eb_fail(err, EB_INVALID_REQUEST,
                           "\"payload_encoding\" must be \"base64\", not \"%s\"",
                           eb_quote(quoted, sizeof(quoted), name, len));
        }
    }
    text = string_member(json, payload, PAYLOAD, &len, err);
    if (!text)
        return -1;
    if (encoding)
        return read_base64(draft, &memory->payload, text, len, limits, err);
    draft->payload = text;
    draft->payload_len = len;
    draft->payload_utf8 = true; /* a JSON string is */
    return 0;
}

/* All members of the object @obj become headers. */
static int read_headers(struct eb_headers *headers, struct eb_json *json, uint32_t obj,
                        struct eb_error *err)
{
    const struct eb_json_token *tokens = json->tokens;

    if (tokens[obj].type != EB_JSON_OBJECT)
        return eb_fail(err, EB_INVALID_REQUEST, "\"headers\" must be an object of strings, not %s",
                       kind_name(json, obj));
    uint32_t end = tokens[obj].next;
    for (uint32_t i = obj + 1; i < end; i = tokens[i + 1].next) {
        size_t name_len, value_len;
        const char *name = eb_json_string(json, i, &name_len);
        if (tokens[i + 1].type != EB_JSON_STRING) {
            char quoted[300];
            return eb_fail(err, EB_INVALID_REQUEST, "the header \"%s\" must be a string, not %s",
                           eb_quote(quoted, sizeof(quoted), name, name_len),
                           kind_name(json, i + 1));
        }
        const char *value = eb_json_string(json, i + 1, &value_len);
        if (eb_headers_put(headers, name, name_len, value, value_len, err) < 0)
            return -1;
    }
    return eb_headers_check(headers, err);
}

/* The id, and the header that keeps it if it is no UUID. */
static int read_message_id(struct eb_draft *draft, struct eb_headers *headers, struct eb_json *json,
                           uint32_t tok, struct eb_error *err)
{
    bool foreign;
    size_t len;
    const char *text = string_member(json, tok, MESSAGE_ID, &len, err);

    if (!text || eb_message_id_parse(draft->id, &foreign, text, len, err) < 0)
        return -1;
    draft->has_id = true;
    if (foreign && eb_headers_set_message_id(headers, text, len) < 0)
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    return 0;
}

int eb_ttl_from_json(int64_t *ret, const struct eb_json *json, uint32_t tok, struct eb_error *err)
{
    int64_t ttl;

    if (tok == 0 || json->tokens[tok].type == EB_JSON_NULL) {
        *ret = EB_TTL_UNSET;
        return 0;
    }
    if (!eb_json_int64(json, tok, &ttl) || ttl < 0 || ttl > EB_TTL_MAX)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"ttl\" must be a whole number of seconds from 0 to %lld, or null",
                       (long long)EB_TTL_MAX);
    *ret = ttl;
    return 0;
}

int eb_draft_from_json(struct eb_draft *draft, struct eb_draft_memory *memory, struct eb_json *json,
                       uint32_t obj, bool with_ttl, const struct eb_event_limits *limits,
                       struct eb_error *err)
{
    uint32_t found[MEMBER_COUNT];

    if (json->tokens[obj].type != EB_JSON_OBJECT)
        return eb_fail(err, EB_INVALID_REQUEST, "an event must be an object, not %s",
                       kind_name(json, obj));
    *draft = (struct eb_draft){.ttl = EB_TTL_UNSET};
    eb_headers_reset(&memory->headers, limits->max_headers);
    find_members(found, json, obj);
    if (!found[TOPIC])
        return eb_fail(err, EB_INVALID_REQUEST, "\"topic\" is missing; expected a string");
    draft->topic = string_member(json, found[TOPIC], TOPIC, &draft->topic_len, err);
    if (!draft->topic)
        return -1;
    if (read_payload(draft, memory, json, found[PAYLOAD], found[PAYLOAD_ENCODING], limits, err) < 0)
        return -1;
    if (found[CONTENT_TYPE]) {
        draft->content_type =
            string_member(json, found[CONTENT_TYPE], CONTENT_TYPE, &draft->content_type_len, err);
        if (!draft->content_type)
            return -1;
    }
    if (found[HEADERS] && read_headers(&memory->headers, json, found[HEADERS], err) < 0)
        return -1;
    if (found[MESSAGE_ID] &&
        read_message_id(draft, &memory->headers, json, found[MESSAGE_ID], err) < 0)
        return -1;
    draft->headers = eb_headers_text(&memory->headers, &draft->headers_len);
    if (eb_buf_failed(&memory->headers.buf))
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    if (with_ttl && eb_ttl_from_json(&draft->ttl, json, found[TTL], err) < 0)
        return -1;
    if (eb_asks_from_tokens(draft, json, found[EXPECTED_LAST_SEQ], found[DELIVER_AT], found[DELAY],
                            err) < 0)
        return -1;
    return eb_draft_check(draft, limits, err);
}

/* U+0000-001F and U+007F-009F in valid UTF-8. */
static bool has_control(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;

    for (size_t i = 0; i < len; i++)
        if (p[i] < 0x20 || p[i] == 0x7f || (p[i] == 0xc2 && i + 1 < len && p[i + 1] < 0xa0))
            return true;
    return false;
}

static int check_content_type(const struct eb_draft *draft, struct eb_error *err)
{
    const char *type = draft->content_type;
    size_t len = draft->content_type_len;

    if (!type)
        return 0;
    if (len == 0 || len > EB_CONTENT_TYPE_MAX)
        return eb_fail(err, EB_INVALID_REQUEST, "content type has %zu bytes; expected 1 to %d", len,
                       EB_CONTENT_TYPE_MAX);
    if (!eb_utf8_valid(type, len) || has_control(type, len)) {
        char quoted[300];
        return eb_fail(err, EB_INVALID_REQUEST,
                       "content type must be UTF-8 without control characters, not \"%s\"",
                       eb_quote(quoted, sizeof(quoted), type, len));
    }
    return 0;
}

int eb_draft_check(const struct eb_draft *draft, const struct eb_event_limits *limits,
                   struct eb_error *err)
{
    if (eb_topic_check(draft->topic, draft->topic_len, err) < 0)
        return -1;
    if (draft->topic[0] == '$') {
        char quoted[300];
        return eb_fail(err, EB_FORBIDDEN,
                       "topics whose first word starts with '$' are the broker's own: \"%s\"",
                       eb_quote(quoted, sizeof(quoted), draft->topic, draft->topic_len));
    }
    if (draft->payload_len > limits->max_payload || draft->payload_len > UINT32_MAX)
        return eb_fail(err, EB_PAYLOAD_TOO_LARGE, "payload has %zu bytes; at most %zu are taken",
                       draft->payload_len, limits->max_payload);
    if (draft->ttl != EB_TTL_UNSET && (draft->ttl < 0 || draft->ttl > EB_TTL_MAX))
        return eb_fail(err, EB_INVALID_REQUEST, "ttl must be from 0 to %lld seconds",
                       (long long)EB_TTL_MAX);
    if (draft->has_expected && draft->deliver_at_ms != 0)
        return eb_fail(
            err, EB_INVALID_REQUEST,
            "an expected last seq and a time to deliver at are both given: the condition "
            "could only be judged then");
    return check_content_type(draft, err);
}

/* ---- writing ---- */

static void write_base64(struct eb_buf *out, const char *data, size_t len)
{
    size_t need = eb_base64_length(len) + 2;
    char *p = eb_buf_reserve(out, need);

    if (!p)
        return;
    *p = '"';
    eb_base64_encode(p + 1, data, len);
    p[need - 1] = '"';
    out->len += need;
}

/* [104,105]: what the older client takes bytes from. */
static void write_byte_array(struct eb_buf *out, const char *data, size_t len)
{
    char *p = eb_buf_reserve(out, 4 * len + 2), *begin = p;

    if (!p)
        return;
    *p++ = '[';
    for (size_t i = 0; i < len; i++) {
        unsigned byte = (unsigned char)data[i];
        if (i)
            *p++ = ',';
        if (byte >= 100)
            *p++ = (char)('0' + byte / 100);
        if (byte >= 10)
            *p++ = (char)('0' + byte / 10 % 10);
        *p++ = (char)('0' + byte % 10);
    }
    *p++ = ']';
    out->len += (size_t)(p - begin);
}

/* A text whose length the compiler knows. */
#define LITERAL(out, text) add_literal(out, text, sizeof(text) - 1)
static inline void add_literal(struct eb_buf *out, const char *text, size_t len)
{
    char *at = eb_buf_reserve(out, len);

    if (!at)
        return;
    memcpy(at, text, len);
    out->len += len;
}

static void write_payload(struct eb_buf *out, const struct eb_event *event, bool array)
{
    LITERAL(out, ",\"payload\":");
    if (event->payload_utf8) {
        eb_json_write_string(out, event->payload, event->payload_len);
    } else if (array) {
        write_byte_array(out, event->payload, event->payload_len);
    } else {
        write_base64(out, event->payload, event->payload_len);
        LITERAL(out, ",\"payload_encoding\":\"base64\"");
    }
}

void eb_event_write_json(struct eb_buf *out, const struct eb_event *event,
                         const struct eb_event_json_style *style)
{
    char id[EB_UUID_TEXT + 1];

    /* Enough for the usual event at once. */
    if (!eb_buf_reserve(out, 256u + event->topic_len + event->headers_len + event->payload_len))
        return;
    LITERAL(out, "{");
    if (style->type) {
        LITERAL(out, "\"type\":\"");
        eb_buf_str(out, style->type); /* a word of ours */
        LITERAL(out, "\",");
    }
    if (style->deliver_at != 0) {
        eb_buf_printf(out, "\"deliver_at\":%lld,\"scheduled_at\":%lld",
                      (long long)style->deliver_at, (long long)style->scheduled_at);
    } else {
        LITERAL(out, "\"seq\":");
        eb_json_write_u64(out, event->seq);
    }
    eb_uuid_format(id, event->id);
    LITERAL(out, ",\"message_id\":\"");
    eb_buf_add(out, id, EB_UUID_TEXT);
    LITERAL(out, "\",\"topic\":");
    eb_json_write_string(out, event->topic, event->topic_len);
    if (style->pattern) {
        LITERAL(out, ",\"pattern\":");
        eb_json_write_string(out, style->pattern, strlen(style->pattern));
    }
    write_payload(out, event, style->payload_array);
    if (event->ttl != 0) {
        LITERAL(out, ",\"ttl\":");
        eb_json_write_i64(out, event->ttl);
    }
    LITERAL(out, ",\"metadata\":{");
    if (style->deliver_at == 0) {
        LITERAL(out, "\"timestamp\":");
        eb_json_write_i64(out, event->timestamp);
        LITERAL(out, ",");
    }
    LITERAL(out, "\"content_type\":");
    eb_json_write_string(out, event->content_type, event->content_type_len);
    if (event->headers_len) {
        LITERAL(out, ",\"headers\":");
        eb_buf_add(out, event->headers, event->headers_len);
    }
    LITERAL(out, "}}");
}
