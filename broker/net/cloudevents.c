/* cloudevents.c - see cloudevents.h. CloudEvents 1.0.2: the JSON event format and the HTTP binding. */
#include "broker/net/cloudevents.h"

#include <string.h>

#include "common/text.h"
#include "common/uuid.h"

void eb_cloudevent_init(struct eb_cloudevent *event, unsigned max_headers)
{
    memset(event, 0, sizeof(*event));
    eb_draft_memory_init(&event->memory);
    eb_headers_finish(&event->memory.headers);
    eb_headers_init(&event->memory.headers, max_headers);
}

void eb_cloudevent_finish(struct eb_cloudevent *event)
{
    eb_draft_memory_finish(&event->memory);
    eb_buf_finish(&event->topic);
    eb_buf_finish(&event->content_type);
}

void eb_ce_core_finish(struct eb_ce_core *core)
{
    eb_buf_finish(&core->id);
    eb_buf_finish(&core->source);
    eb_buf_finish(&core->type);
    eb_buf_finish(&core->topic);
}

/* ---- attributes ---- */

static bool is_name(const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9')))
            return false;
    return len > 0 && len <= 64;
}

static bool named(const char *name, size_t len, const char *want)
{
    return len == strlen(want) && memcmp(name, want, len) == 0;
}

static void keep(struct eb_buf *buf, const char *value, size_t len)
{
    buf->len = 0;
    eb_buf_add(buf, value, len);
}

int eb_ce_attribute(struct eb_ce_core *core, struct eb_headers *headers, const char *name,
                    size_t name_len, const char *value, size_t value_len, struct eb_error *err)
{
    char quoted[80], header[80] = "ce-";
    if (!is_name(name, name_len))
        return eb_fail(
            err, EB_INVALID_REQUEST,
            "CloudEvents attribute \"%s\": a name is 1 to 64 lower-case letters and digits",
            eb_quote(quoted, sizeof(quoted), name, name_len));
    if (memchr(value, 0, value_len)) /* it parts source from id in the message id */
        return eb_fail(err, EB_INVALID_REQUEST, "CloudEvents attribute \"%s\" has a NUL in it",
                       eb_quote(quoted, sizeof(quoted), name, name_len));
    if (named(name, name_len, "specversion")) {
        if (!named(value, value_len, "1.0"))
            return eb_fail(err, EB_INVALID_REQUEST,
                           "CloudEvents specversion is \"%s\": only 1.0 is understood",
                           eb_quote(quoted, sizeof(quoted), value, value_len));
        core->specversion = true;
    }
    if (named(name, name_len, "id"))
        keep(&core->id, value, value_len);
    else if (named(name, name_len, "source"))
        keep(&core->source, value, value_len);
    else if (named(name, name_len, "type"))
        keep(&core->type, value, value_len);
    else if (named(name, name_len, "topic"))
        keep(&core->topic, value, value_len);
    memcpy(header + 3, name, name_len);
    return eb_headers_add(headers, header, name_len + 3, value, value_len, err);
}

static int require(const struct eb_buf *value, const char *name, struct eb_error *err)
{
    if (eb_buf_failed(value))
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    if (value->len == 0)
        return eb_fail(err, EB_INVALID_REQUEST, "CloudEvents attribute %s is missing or empty",
                       name);
    return 0;
}

static int make_id(struct eb_ce_core *core, struct eb_draft *draft, struct eb_error *err)
{
    struct eb_buf key = EB_BUF_INIT;
    eb_buf_add(&key, core->source.data, core->source.len);
    eb_buf_add(&key, "", 1);
    eb_buf_add(&key, core->id.data, core->id.len);
    bool failed = eb_buf_failed(&key);
    if (!failed)
        eb_uuid_v5(draft->id, key.data, key.len);
    draft->has_id = true;
    eb_buf_finish(&key);
    return failed ? eb_fail(err, EB_UNAVAILABLE, "out of memory") : 0;
}

int eb_ce_finish_core(struct eb_ce_core *core, struct eb_cloudevent *event, const char *path_topic,
                      size_t path_topic_len, struct eb_draft *draft, struct eb_error *err)
{
    if (!core->specversion)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "CloudEvents attribute specversion is missing: it must be 1.0");
    if (require(&core->id, "id", err) < 0 || require(&core->source, "source", err) < 0 ||
        require(&core->type, "type", err) < 0)
        return -1;
    if (path_topic)
        keep(&event->topic, path_topic, path_topic_len);
    else if (core->topic.len > 0)
        keep(&event->topic, core->topic.data, core->topic.len);
    else
        keep(&event->topic, core->type.data, core->type.len);
    if (eb_buf_failed(&event->topic))
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    draft->topic = event->topic.data;
    draft->topic_len = event->topic.len;
    draft->headers = eb_headers_text(&event->memory.headers, &draft->headers_len);
    return make_id(core, draft, err);
}

/* ---- structured mode ---- */

/* What the specification itself names is text, in JSON too; extensions may be booleans and integers. */
static bool is_text_attribute(const char *name, size_t len)
{
    static const char *const names[] = {"specversion", "id",   "source",    "type",
                                        "subject",     "time", "dataschema"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (named(name, len, names[i]))
            return true;
    return false;
}

/* The canonical string form of an attribute's JSON value (CloudEvents type system). */
static int attribute_text(struct eb_json *json, uint32_t tok, const char *name, size_t name_len,
                          const char **ret, size_t *ret_len, struct eb_error *err)
{
    char quoted[80];
    int64_t number;
    const struct eb_json_token *token = &json->tokens[tok];
    if (token->type == EB_JSON_STRING) {
        *ret = eb_json_string(json, tok, ret_len);
        return 0;
    }
    if (is_text_attribute(name, name_len))
        return eb_fail(err, EB_INVALID_REQUEST, "CloudEvents attribute \"%s\" must be a string",
                       eb_quote(quoted, sizeof(quoted), name, name_len));
    if (token->type == EB_JSON_TRUE || token->type == EB_JSON_FALSE ||
        eb_json_int64(json, tok, &number)) {
        *ret = json->text + token->start;
        *ret_len = token->len;
        return 0;
    }
    return eb_fail(err, EB_INVALID_REQUEST,
                   "CloudEvents attribute \"%s\" must be a string, a boolean or an integer",
                   eb_quote(quoted, sizeof(quoted), name, name_len));
}

static int attributes(struct eb_ce_core *core, struct eb_headers *headers, struct eb_json *json,
                      uint32_t obj, struct eb_error *err)
{
    uint32_t end = json->tokens[obj].next;
    for (uint32_t tok = obj + 1; tok < end;) {
        uint32_t value_tok = tok + 1;
        size_t name_len, value_len = 0;
        const char *name = eb_json_string(json, tok, &name_len), *value = "";
        tok = json->tokens[value_tok].next;
        if (json->tokens[value_tok].type == EB_JSON_NULL || named(name, name_len, "data") ||
            named(name, name_len, "data_base64") || named(name, name_len, "datacontenttype"))
            continue;
        if (attribute_text(json, value_tok, name, name_len, &value, &value_len, err) < 0 ||
            eb_ce_attribute(core, headers, name, name_len, value, value_len, err) < 0)
            return -1;
    }
    return 0;
}

/* JSON by its media type: text/json, application/json, anything +json. */
static bool is_json_type(const char *type, size_t len)
{
    size_t end = 0;
    while (end < len && type[end] != ';' && type[end] != ' ')
        end++;
    return (end >= 5 && strncasecmp(type + end - 5, "/json", 5) == 0) ||
           (end >= 5 && strncasecmp(type + end - 5, "+json", 5) == 0);
}

static int decode_base64(struct eb_draft *draft, struct eb_cloudevent *event, struct eb_json *json,
                         uint32_t tok, struct eb_error *err)
{
    size_t len;
    if (json->tokens[tok].type != EB_JSON_STRING)
        return eb_fail(err, EB_INVALID_REQUEST, "CloudEvents data_base64 must be a string");
    const char *text = eb_json_string(json, tok, &len);
    struct eb_buf *out = &event->memory.payload;
    out->len = 0;
    char *room = eb_buf_reserve(out, len + 1);
    if (!room)
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    ptrdiff_t decoded = eb_base64_decode(room, text, len);
    if (decoded < 0)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "CloudEvents data_base64 is not padded base64 (RFC 4648 section 4)");
    out->len = (size_t)decoded;
    draft->payload = out->data;
    draft->payload_len = out->len;
    return 0;
}

static int structured_data(struct eb_draft *draft, struct eb_cloudevent *event,
                           struct eb_json *json, uint32_t obj, struct eb_error *err)
{
    uint32_t type = eb_json_member(json, obj, "datacontenttype");
    uint32_t data = eb_json_member(json, obj, "data"); /* null is absent */
    uint32_t base64 = eb_json_member(json, obj, "data_base64");
    if (data && base64)
        return eb_fail(err, EB_INVALID_REQUEST, "a CloudEvent has data or data_base64, not both");
    if (type && json->tokens[type].type != EB_JSON_STRING)
        return eb_fail(err, EB_INVALID_REQUEST, "CloudEvents datacontenttype must be a string");
    draft->payload = "";
    draft->payload_len = 0;
    if (type) {
        size_t len;
        const char *text = eb_json_string(json, type, &len);
        keep(&event->content_type, text, len);
    } else if (data || base64) {
        eb_buf_str(&event->content_type,
                   "application/json"); /* what the JSON format says an absent one means */
    }
    if (event->content_type.len > 0) {
        draft->content_type = event->content_type.data;
        draft->content_type_len = event->content_type.len;
    }
    if (base64)
        return decode_base64(draft, event, json, base64, err);
    if (!data)
        return 0;
    const struct eb_json_token *token = &json->tokens[data];
    if (token->type == EB_JSON_STRING &&
        !is_json_type(draft->content_type, draft->content_type_len)) {
        draft->payload = eb_json_string(json, data, &draft->payload_len);
        return 0;
    }
    unsigned quotes = token->type == EB_JSON_STRING;
    draft->payload = json->text + token->start - quotes;
    draft->payload_len = token->len + 2 * quotes;
    return 0;
}

int eb_ce_structured(struct eb_draft *draft, struct eb_cloudevent *event, struct eb_json *json,
                     uint32_t obj, const char *path_topic, size_t path_topic_len,
                     struct eb_error *err)
{
    struct eb_ce_core core = {0};
    *draft = (struct eb_draft){.ttl = EB_TTL_UNSET};
    if (json->tokens[obj].type != EB_JSON_OBJECT)
        return eb_fail(err, EB_INVALID_REQUEST, "a CloudEvent must be a JSON object");
    int rc = attributes(&core, &event->memory.headers, json, obj, err);
    if (rc == 0)
        rc = structured_data(draft, event, json, obj, err);
    if (rc == 0)
        rc = eb_ce_finish_core(&core, event, path_topic, path_topic_len, draft, err);
    eb_ce_core_finish(&core);
    return rc;
}

/* ---- binary mode ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void eb_ce_header_value(struct eb_buf *out, const char *value, size_t len)
{
    bool quoted = len >= 2 && value[0] == '"' && value[len - 1] == '"';
    if (quoted) {
        value++;
        len -= 2;
    }
    for (size_t i = 0; i < len; i++) {
        if (quoted && value[i] == '\\' && i + 1 < len) { /* a quoted-pair stands for its second */
            eb_buf_add(out, &value[++i], 1);
            continue;
        }
        int high = value[i] == '%' && i + 2 < len ? hex_digit(value[i + 1]) : -1;
        int low = high >= 0 ? hex_digit(value[i + 2]) : -1;
        char byte = low >= 0 ? (char)(high << 4 | low) : value[i];
        i += low >= 0 ? 2 : 0;
        eb_buf_add(out, &byte, 1);
    }
}
