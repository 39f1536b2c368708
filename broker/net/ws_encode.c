/*
 * ws_encode.c - events, gaps and live notices as whole WebSocket frames: text (PROTOCOL 2.2) and binary.
 *
 * An event's frame is made once for all receivers and kept in the event. Two cases are a receiver's own: a
 * subscription that still replays (its pattern stands beside the event), and the older client where the payload
 * is not UTF-8 (shared among older clients).
 */
#include <string.h>

#include "broker/net/ws_internal.h"
#include "common/event_bin.h"
#include "common/event_json.h"
#include "common/log.h"
#include "common/uuid.h"

void eb_ws_headroom(struct eb_buf *buf)
{
    static const char room[EB_WS_HEADROOM];

    eb_buf_add(buf, room, sizeof(room));
}

char *eb_ws_seal(struct eb_buf *buf, int opcode, size_t *ret_len)
{
    unsigned char header[EB_WS_HEADER_MAX];
    size_t len = buf->len - EB_WS_HEADROOM;
    size_t size = eb_ws_header(header, opcode, len);
    char *start = buf->data + EB_WS_HEADROOM - size;

    memcpy(start, header, size);
    *ret_len = size + len;
    return start;
}

static struct eb_frame *to_frame(struct eb_buf *buf, int opcode)
{
    struct eb_frame *frame = NULL;

    if (!eb_buf_failed(buf)) {
        size_t len;
        char *start = eb_ws_seal(buf, opcode, &len);
        frame = eb_frame_from(start, len);
    }
    eb_buf_finish(buf);
    return frame;
}

struct eb_frame *eb_ws_event_frame(const struct eb_event *event, const char *pattern,
                                   bool payload_array)
{
    struct eb_buf buf = EB_BUF_INIT;
    struct eb_event_json_style style = {
        .type = "event", .pattern = pattern, .payload_array = payload_array};

    eb_ws_headroom(&buf);
    eb_event_write_json(&buf, event, &style);
    return to_frame(&buf, EB_WS_TEXT);
}

struct eb_frame *eb_ws_encode_event(struct eb_session *session, struct eb_event *event,
                                    const char *pattern)
{
    const struct eb_ws_conn *conn = eb_session_user(session);
    bool legacy = atomic_load(&conn->legacy);

    if (pattern && !legacy) /* the older client knows no pattern beside an event */
        return eb_ws_event_frame(event, pattern, false);
    enum eb_encoding enc = legacy && !event->payload_utf8 ? EB_ENC_WS_LEGACY : EB_ENC_WS_JSON;
    struct eb_frame *frame = eb_event_cached(event, enc);
    if (frame)
        return frame;
    frame = eb_ws_event_frame(event, NULL, enc == EB_ENC_WS_LEGACY);
    return frame ? eb_event_cache_frame(event, enc, frame) : NULL;
}

/* Messages one behind the other: each header is written when its length is known, into room guessed by the last one. */
struct message {
    size_t at, guess;
};

static bool message_begin(struct eb_buf *out, struct message *message)
{
    message->at = out->len;
    if (!eb_buf_reserve(out, message->guess))
        return false;
    out->len += message->guess;
    return true;
}

static void message_end(struct eb_buf *out, struct message *message, int opcode)
{
    unsigned char header[EB_WS_HEADER_MAX];

    if (eb_buf_failed(out))
        return;
    size_t len = out->len - message->at - message->guess;
    size_t size = eb_ws_header(header, opcode, len);
    if (size > message->guess && !eb_buf_reserve(out, size - message->guess))
        return;
    char *start = out->data + message->at;
    if (size != message->guess)
        memmove(start + size, start + message->guess, len);
    memcpy(start, header, size);
    out->len = message->at + size + len;
    message->guess = size;
}

static void append_event(struct eb_buf *out, struct message *message, const struct eb_event *event,
                         const struct eb_event_json_style *style)
{
    if (!message_begin(out, message))
        return;
    eb_event_write_json(out, event, style);
    message_end(out, message, EB_WS_TEXT);
}

size_t eb_ws_encode_events(struct eb_session *session, struct eb_event *const *events, size_t count,
                           const char *pattern, size_t max_bytes, struct eb_buf *out)
{
    const struct eb_ws_conn *conn = eb_session_user(session);
    bool legacy = atomic_load(&conn->legacy);
    struct eb_event_json_style style = {.type = "event", .pattern = legacy ? NULL : pattern};
    struct message message = {.guess = 4};
    size_t i;

    for (i = 0; i < count && (i == 0 || out->len < max_bytes); i++) {
        style.payload_array = legacy && !events[i]->payload_utf8;
        struct eb_frame *frame = style.pattern || style.payload_array
                                     ? NULL
                                     : eb_event_cached(events[i], EB_ENC_WS_JSON);
        if (frame)
            eb_buf_add(out, frame->data, frame->len);
        else
            append_event(out, &message, events[i], &style);
        eb_frame_unref(frame);
    }
    return i;
}

/* An older client is sent events and nothing else: what it is not told is counted and logged. */
static bool keep_from_legacy(const struct eb_ws_conn *conn, const char *what)
{
    if (!atomic_load(&conn->legacy))
        return false;
    eb_ws_count(&conn->side->count.legacy_unsent);
    eb_debug("older client %s (connection %llu) is not told: %s", conn->peer,
             (unsigned long long)conn->number, what);
    return true;
}

static void write_patterns(struct eb_buf *buf, const struct eb_gap *gap)
{
    if (gap->pattern_count == 1) {
        eb_buf_str(buf, ",\"pattern\":");
        eb_json_write_string(buf, gap->patterns[0], strlen(gap->patterns[0]));
        return;
    }
    eb_buf_str(buf, ",\"patterns\":[");
    for (size_t i = 0; i < gap->pattern_count; i++) {
        if (i > 0)
            eb_buf_str(buf, ",");
        eb_json_write_string(buf, gap->patterns[i], strlen(gap->patterns[i]));
    }
    eb_buf_str(buf, "]");
}

struct eb_frame *eb_ws_encode_gap(struct eb_session *session, const struct eb_gap *gap)
{
    const struct eb_ws_conn *conn = eb_session_user(session);
    struct eb_buf buf = EB_BUF_INIT;

    if (keep_from_legacy(conn, "gap"))
        return NULL;
    eb_ws_headroom(&buf);
    eb_buf_str(&buf, "{\"type\":\"gap\"");
    write_patterns(&buf, gap);
    eb_buf_str(&buf, ",\"from_seq\":");
    eb_json_write_u64(&buf, gap->from_seq);
    eb_buf_str(&buf, ",\"to_seq\":");
    eb_json_write_u64(&buf, gap->to_seq);
    eb_buf_printf(&buf, ",\"reason\":\"%s\"", eb_gap_reason_name(gap->reason));
    if (gap->reason == EB_GAP_EPOCH)
        eb_buf_printf(&buf, ",\"epoch\":\"%s\"", eb_store_epoch(eb_bus_store(conn->side->bus)));
    eb_buf_str(&buf, "}");
    return to_frame(&buf, EB_WS_TEXT);
}

struct eb_frame *eb_ws_encode_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    const struct eb_ws_conn *conn = eb_session_user(session);
    struct eb_buf buf = EB_BUF_INIT;

    if (keep_from_legacy(conn, "live"))
        return NULL;
    eb_ws_headroom(&buf);
    eb_buf_str(&buf, "{\"type\":\"live\",\"pattern\":");
    eb_json_write_string(&buf, pattern, strlen(pattern));
    eb_buf_str(&buf, ",\"seq\":");
    eb_json_write_u64(&buf, seq);
    eb_buf_str(&buf, "}");
    return to_frame(&buf, EB_WS_TEXT);
}

/* ---- the binary protocol ---- */

static struct eb_frame *event_frame_bin(const struct eb_event *event, const char *pattern)
{
    struct eb_buf buf = EB_BUF_INIT;

    eb_ws_headroom(&buf);
    eb_event_write_bin(&buf, event, pattern);
    return to_frame(&buf, EB_WS_BINARY);
}

struct eb_frame *eb_ws_encode_event_bin(struct eb_session *session, struct eb_event *event,
                                        const char *pattern)
{
    if (pattern)
        return event_frame_bin(event, pattern);
    struct eb_frame *frame = eb_event_cached(event, EB_ENC_WS_BINARY);
    if (frame)
        return frame;
    frame = event_frame_bin(event, NULL);
    return frame ? eb_event_cache_frame(event, EB_ENC_WS_BINARY, frame) : NULL;
}

/* What stands in a message of its own, without its header (2, 4 or 10 bytes, RFC 6455 5.2). */
static void add_record(struct eb_buf *out, const struct eb_frame *frame)
{
    unsigned char len = frame->data[1];
    size_t header = len < 126 ? 2 : len == 126 ? 4 : 10;

    eb_buf_add(out, frame->data + header, frame->len - header);
}

/* One message with a record for each. */
size_t eb_ws_encode_events_bin(struct eb_session *session, struct eb_event *const *events,
                               size_t count, const char *pattern, size_t max_bytes,
                               struct eb_buf *out)
{
    struct message message = {.guess = 4};
    size_t i;

    message_begin(out, &message);
    for (i = 0; i < count && (i == 0 || out->len < max_bytes); i++) {
        struct eb_frame *frame = pattern ? NULL : eb_event_cached(events[i], EB_ENC_WS_BINARY);
        if (frame)
            add_record(out, frame);
        else
            eb_event_write_bin(out, events[i], pattern);
        eb_frame_unref(frame);
    }
    message_end(out, &message, EB_WS_BINARY);
    return i;
}

struct eb_frame *eb_ws_encode_gap_bin(struct eb_session *session, const struct eb_gap *gap)
{
    const struct eb_ws_conn *conn = eb_session_user(session);
    struct eb_buf buf = EB_BUF_INIT;
    uint8_t epoch[16];
    bool told = gap->reason == EB_GAP_EPOCH &&
                eb_uuid_parse(epoch, eb_store_epoch(eb_bus_store(conn->side->bus)), EB_UUID_TEXT);

    eb_ws_headroom(&buf);
    eb_bin_write_gap(&buf, gap->from_seq, gap->to_seq, eb_gap_reason_name(gap->reason),
                     gap->patterns, gap->pattern_count, told ? epoch : NULL);
    return to_frame(&buf, EB_WS_BINARY);
}

struct eb_frame *eb_ws_encode_live_bin(struct eb_session *session, const char *pattern,
                                       uint64_t seq)
{
    struct eb_buf buf = EB_BUF_INIT;

    eb_ws_headroom(&buf);
    eb_bin_write_live(&buf, pattern, seq);
    return to_frame(&buf, EB_WS_BINARY);
}
