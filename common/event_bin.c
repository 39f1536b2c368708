/* event_bin.c - events in the binary protocol: into drafts, and into records that are delivered. */
#include "common/event_bin.h"

#include <string.h>

/* ---- reading ---- */

int eb_ttl_from_bin(int64_t *ret, bool has_ttl, uint64_t ttl, struct eb_error *err)
{
    *ret = EB_TTL_UNSET;
    if (!has_ttl)
        return 0;
    if (ttl > (uint64_t)EB_TTL_MAX)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "a ttl of %llu seconds; at most %lld are allowed, 0 means no expiry",
                       (unsigned long long)ttl, (long long)EB_TTL_MAX);
    *ret = (int64_t)ttl;
    return 0;
}

/* Headers, and the id that is kept among them if it is no UUID. */
static int read_texts(struct eb_draft *draft, struct eb_draft_memory *memory,
                      const struct eb_bin_event *event, const struct eb_event_limits *limits,
                      struct eb_error *err)
{
    struct eb_headers *headers = &memory->headers;
    struct eb_bin_bytes rest = event->headers, name, value;
    bool foreign = false;

    eb_headers_reset(headers, limits->max_headers);
    while (eb_bin_next_header(&rest, &name, &value))
        if (eb_headers_put(headers, name.data, name.len, value.data, value.len, err) < 0)
            return -1;
    if (eb_headers_check(headers, err) < 0)
        return -1;
    if (event->id_text.data) {
        if (eb_message_id_parse(draft->id, &foreign, event->id_text.data, event->id_text.len, err) <
            0)
            return -1;
        draft->has_id = true;
    }
    if (foreign && eb_headers_set_message_id(headers, event->id_text.data, event->id_text.len) < 0)
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    draft->headers = eb_headers_text(headers, &draft->headers_len);
    if (eb_buf_failed(&headers->buf))
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    return 0;
}

int eb_draft_from_bin(struct eb_draft *draft, struct eb_draft_memory *memory,
                      const struct eb_bin_event *event, const struct eb_event_limits *limits,
                      struct eb_error *err)
{
    *draft = (struct eb_draft){
        .topic = event->topic.data,
        .topic_len = event->topic.len,
        .payload = event->payload.data,
        .payload_len = event->payload.len,
        .content_type = event->content_type.data,
        .content_type_len = event->content_type.len,
    };
    if (event->uuid) {
        draft->has_id = true;
        memcpy(draft->id, event->uuid, sizeof(draft->id));
    }
    if (eb_ttl_from_bin(&draft->ttl, event->has_ttl, event->ttl, err) < 0)
        return -1;
    if (event->headers.len > 0 || event->id_text.data)
        return read_texts(draft, memory, event, limits, err);
    return 0;
}

/* ---- writing ---- */

static bool is_default(const struct eb_event *event)
{
    static const char text[] = EB_CONTENT_TYPE_DEFAULT;

    return event->content_type_len == sizeof(text) - 1 &&
           memcmp(event->content_type, text, sizeof(text) - 1) == 0;
}

static void add_u16(struct eb_buf *out, size_t value)
{
    const char bytes[2] = {(char)value, (char)(value >> 8)};

    eb_buf_add(out, bytes, sizeof(bytes));
}

static void add_short(struct eb_buf *out, const char *text, size_t len)
{
    const char size = (char)len;

    eb_buf_add(out, &size, 1);
    eb_buf_add(out, text, len);
}

/* The event's canonical JSON as pairs. What the broker stored always reads back. */
static void write_headers(struct eb_buf *out, const struct eb_event *event)
{
    struct eb_json json;
    struct eb_error err;

    eb_json_init(&json);
    if (eb_json_parse(&json, event->headers, event->headers_len, &err) < 0) {
        out->failed = true; /* out of memory */
        eb_json_finish(&json);
        return;
    }
    size_t at = out->len, count = 0;
    add_u16(out, 0);
    for (uint32_t i = 1; i < json.tokens[0].next; i = json.tokens[i + 1].next, count++) {
        size_t name_len, value_len;
        const char *name = eb_json_string(&json, i, &name_len);
        const char *value = eb_json_string(&json, i + 1, &value_len);
        add_u16(out, name_len);
        add_u16(out, value_len);
        eb_buf_add(out, name, name_len);
        eb_buf_add(out, value, value_len);
    }
    if (!eb_buf_failed(out)) {
        out->data[at] = (char)count;
        out->data[at + 1] = (char)(count >> 8);
    }
    eb_json_finish(&json);
}

void eb_event_write_bin(struct eb_buf *out, const struct eb_event *event, const char *pattern)
{
    bool type = !is_default(event);
    unsigned flags =
        (event->ttl != 0 ? EB_BIN_PART_TTL : 0u) | (type ? EB_BIN_PART_CONTENT_TYPE : 0u) |
        (event->headers_len ? EB_BIN_PART_HEADERS : 0u) | (pattern ? EB_BIN_PART_PATTERN : 0u);
    size_t begin;

    /* Enough for the usual event at once. */
    eb_buf_reserve(out, EB_BIN_HEADER + 32u + event->topic_len + event->headers_len +
                            event->payload_len);
    begin = eb_bin_begin(out, EB_BIN_EVENT, flags, event->topic_len);
    eb_bin_u64(out, event->seq);
    eb_bin_u64(out, (uint64_t)event->timestamp);
    eb_buf_add(out, event->id, sizeof(event->id));
    eb_buf_add(out, event->topic, event->topic_len);
    if (event->ttl != 0)
        eb_bin_u64(out, (uint64_t)event->ttl);
    if (type)
        add_short(out, event->content_type, event->content_type_len);
    if (event->headers_len)
        write_headers(out, event);
    if (pattern)
        add_short(out, pattern, strlen(pattern));
    eb_buf_add(out, event->payload, event->payload_len);
    eb_bin_end(out, begin);
}
