/*
 * wire_eventbus_bin.c - eventbus over WebSocket in binary (eventbus.bin.v1, docs/binary.md).
 *
 * Publishes are records, which may stand in one message or in many: what is written in one go is packed into messages
 * of at most --frame records. With --batch they are publish_batch records. A request's id is its number, from 1, so
 * that acks come as ranges.
 */
#include <endian.h>
#include <stdlib.h>

#include "ws.h"

#define RECORD     8 /* a record's header: u32 length of the body, u8 kind, u8 flags, u16 small */
#define FRAME_HEAD 8 /* of all messages from 126 to 65,535 bytes */
#define FRAME_MOST 65535
#define SUBSCRIBE  UINT64_MAX /* the id of a subscribe */

enum kind {
    KIND_MEMBER = 0x00,
    KIND_PUBLISH = 0x01,
    KIND_BATCH = 0x02,
    KIND_SUBSCRIBE = 0x03,
    KIND_ACKS = 0x81,
    KIND_PUBLISHED = 0x82,
    KIND_BATCH_ANSWER = 0x83,
    KIND_SUBSCRIBED = 0x85,
    KIND_PONG = 0x86,
    KIND_ERROR = 0x87,
    KIND_EVENT = 0x90,
    KIND_LIVE = 0x91,
    KIND_GAP = 0x92,
};

static struct tmpl *publishes, *members; /* a topic each */

static void put_u16(uint8_t *to, uint16_t value)
{
    value = htole16(value);
    memcpy(to, &value, 2);
}

static void put_u32(uint8_t *to, uint32_t value)
{
    value = htole32(value);
    memcpy(to, &value, 4);
}

static void put_u64(uint8_t *to, uint64_t value)
{
    value = htole64(value);
    memcpy(to, &value, 8);
}

static uint32_t get_u32(const uint8_t *from)
{
    uint32_t value;

    memcpy(&value, from, 4);
    return le32toh(value);
}

static uint64_t get_u64(const uint8_t *from)
{
    uint64_t value;

    memcpy(&value, from, 8);
    return le64toh(value);
}

static void put_record(uint8_t *to, size_t body, enum kind kind, uint8_t flags, size_t small)
{
    put_u32(to, (uint32_t)body);
    to[4] = (uint8_t)kind;
    to[5] = flags;
    put_u16(to + 6, (uint16_t)small);
}

/* Header, so many bytes of fixed fields, topic, payload. */
static void make(struct tmpl *tmpl, unsigned topic, enum kind kind, size_t fixed)
{
    size_t prefix = RECORD + fixed, len;

    tmpl_make(tmpl, "%*st.%u%s", (int)prefix, "", topic, opt.payload_text);
    len = tmpl->len - prefix;
    memset(tmpl->bytes, 0, prefix);
    put_record(tmpl->bytes, fixed + len, kind, 0, len - opt.payload);
}

static void prepare(void)
{
    publishes = calloc(opt.topics, sizeof(*publishes));
    members = calloc(opt.topics, sizeof(*members));
    if (!publishes || !members)
        die("no memory");
    for (unsigned i = 0; i < opt.topics; i++) {
        make(&publishes[i], i, KIND_PUBLISH, 8);
        make(&members[i], i, KIND_MEMBER, 0);
    }
}

static void open_ws(struct conn *c)
{
    ws_open(c, "/ws", "eventbus.bin.v1");
}

static void put_message(struct conn *c, const uint8_t *bytes, size_t len)
{
    uint8_t *to = conn_reserve(c, ws_head_len(len) + len);

    memcpy(to + ws_head_len(len), bytes, len);
    conn_wrote(c, (size_t)(ws_seal(c, to, WS_BINARY, len) - to));
}

static void subscribe(struct conn *c)
{
    static const char pattern[] = "t.*";
    uint8_t record[RECORD + 8 + 3 + 8] = {0};
    bool all = c->role == ROLE_REPLAY;
    size_t len = sizeof(record) - (all ? 0 : 8);

    put_record(record, len - RECORD, KIND_SUBSCRIBE, all ? 0x01 : 0, 3);
    put_u64(record + RECORD, SUBSCRIBE);
    memcpy(record + RECORD + 8, opt.topics > 1 ? pattern : "t.0", 3); /* and starting seq 0 */
    put_message(c, record, len);
}

/* ---- publishing: left bytes of a message with carry records are written behind room for its head ---- */

static void seal(struct conn *c)
{
    uint8_t *start = c->out + c->out_to;

    if (c->left == 0)
        return;
    if (ws_head_len(c->left) < FRAME_HEAD)
        memmove(start + ws_head_len(c->left), start + FRAME_HEAD, c->left);
    conn_wrote(c, (size_t)(ws_seal(c, start, WS_BINARY, c->left) - start));
    c->left = 0;
    c->carry = 0;
}

/* Where the next record goes, in the message that is being made, or as one of its own if it is large. */
static uint8_t *start_record(struct conn *c, size_t len)
{
    if (c->left + len > FRAME_MOST || c->carry >= opt.frame)
        seal(c);
    if (len > FRAME_MOST)
        return conn_reserve(c, ws_head_len(len) + len) + ws_head_len(len);
    /* Always for a whole message: what is not sealed would not be moved with the rest. */
    return conn_reserve(c, FRAME_HEAD + FRAME_MOST) + FRAME_HEAD + c->left;
}

static void end_record(struct conn *c, size_t len)
{
    if (len > FRAME_MOST) {
        uint8_t *start = c->out + c->out_to;
        conn_wrote(c, (size_t)(ws_seal(c, start, WS_BINARY, len) - start));
        return;
    }
    c->left += len;
    c->carry++;
}

static uint64_t request_id(const struct conn *c)
{
    return c->role == ROLE_PUBLISHER ? c->requests + 1 : 0;
}

static void publish_batch(struct conn *c, unsigned events)
{
    size_t len = RECORD + 12;
    unsigned topic = c->topic;

    for (unsigned i = 0; i < events; i++) {
        len += members[topic].len;
        topic = topic + 1 == opt.topics ? 0 : topic + 1;
    }
    uint8_t *to = start_record(c, len);
    put_record(to, len - RECORD, KIND_BATCH, 0, 0);
    put_u64(to + RECORD, request_id(c));
    put_u32(to + RECORD + 8, events);
    to += RECORD + 12;
    for (unsigned i = 0; i < events; i++)
        to = tmpl_put(&members[conn_topic(c)], c, to);
    end_record(c, len);
}

static void publish(struct conn *c, unsigned events)
{
    if (opt.batch > 1) {
        publish_batch(c, events);
        return;
    }
    const struct tmpl *tmpl = &publishes[conn_topic(c)];
    uint8_t *to = start_record(c, tmpl->len);
    tmpl_put(tmpl, c, to);
    put_u64(to + RECORD, request_id(c));
    end_record(c, tmpl->len);
}

/* ---- reading ---- */

static void on_event(struct conn *c, const uint8_t *record, size_t len)
{
    size_t at = RECORD + 32 + (record[6] | (size_t)record[7] << 8);
    uint8_t flags = record[5];

    if (flags & 0x04)
        at += 8;
    if ((flags & 0x08) && at < len)
        at += 1 + (size_t)record[at];
    if ((flags & 0x20) && at < len)
        at += 1 + (size_t)record[at];
    if ((flags & 0x90) || at > len)
        conn_fail_bytes(c, "an event that is not ours", record, len);
    else
        conn_event(c, record + at, len - at);
}

static void on_record(struct conn *c, const uint8_t *record, size_t len)
{
    const uint8_t *body = record + RECORD;
    size_t body_len = len - RECORD;

    if (record[4] == KIND_EVENT && body_len >= 32)
        on_event(c, record, len);
    else if (record[4] == KIND_ACKS && body_len >= 20)
        conn_ack_numbers(c, get_u64(body) - 1, get_u32(body + 16));
    else if (record[4] == KIND_BATCH_ANSWER && body_len >= 20 && record[5] == 0)
        conn_ack_numbers(c, get_u64(body) - 1, 1);
    else if (record[4] == KIND_SUBSCRIBED)
        conn_ready(c);
    else if (record[4] == KIND_GAP) {
        c->loop->gaps++;
        conn_fail_bytes(c, "a gap", record, len);
    } else if (record[4] != KIND_LIVE && record[4] != KIND_PONG)
        conn_fail_bytes(c, "an answer that is no success", record, len);
}

/* Bytes of the record at the start; 0 when it does not fit. */
static size_t record_len(const uint8_t *data, size_t len)
{
    size_t all = len >= RECORD ? RECORD + (size_t)get_u32(data) : 0;

    return all <= len ? all : 0;
}

static void on_message(struct conn *c, const struct ws_frame *frame)
{
    size_t used = 0, took;

    while (used < frame->len && (took = record_len(frame->payload + used, frame->len - used)) > 0) {
        on_record(c, frame->payload + used, took);
        used += took;
    }
    if (used < frame->len)
        conn_fail(c, "a record reaches beyond its message");
}

static size_t parse(struct conn *c, uint8_t *data, size_t len)
{
    struct ws_frame frame;
    size_t used = 0, took;

    if (c->step == 0) {
        used = ws_opened(c, data, len);
        if (used == 0)
            return 0;
        if (!memmem(data, used, "eventbus.bin.v1", 15)) {
            conn_fail(c, "the broker does not speak eventbus.bin.v1");
            return used;
        }
        c->step = 1;
        if (c->role == ROLE_SUBSCRIBER)
            subscribe(c);
        else
            conn_ready(c);
    }
    while ((took = ws_read(c, data + used, len - used, &frame)) > 0) {
        if (frame.opcode == WS_BINARY)
            on_message(c, &frame);
        else
            ws_control(c, &frame);
        used += took;
    }
    return used;
}

/* ---- the sink: one ack for all of a message; what has no id is for the subscribers ---- */

static void sink_answer(struct conn *c, enum kind kind, uint64_t id, uint32_t count)
{
    bool acks = kind == KIND_ACKS;
    uint8_t message[10 + RECORD + 32] = {0}, *body;
    size_t body_len = kind == KIND_SUBSCRIBED ? 32 : 20,
           at = ws_head(message, WS_BINARY, RECORD + body_len);

    put_record(message + at, body_len, kind, 0, 0);
    body = message + at + RECORD;
    put_u64(body, id);
    put_u64(body + 8, 1);
    if (acks)
        put_u32(body + 16, count);
    else
        put_u32(body + 8, count);
    conn_put(c, message, at + RECORD + body_len);
}

/* Bytes of the request at the start, 0 when there is none with an id. */
static size_t request_len(const struct ws_frame *frame, size_t used)
{
    size_t len = record_len(frame->payload + used, frame->len - used);

    return len < RECORD + 8 ? 0 : len;
}

/* Events of a message to the subscribers, as one message: the parts of a publish behind the fields of an event. */
static void sink_events(const struct ws_frame *frame)
{
    size_t events = 0, used, len;

    for (used = 0; (len = request_len(frame, used)) > 0; used += len)
        events++;
    uint8_t *start = sink_reserve(frame->len + events * 24 + 10), *to = start;
    to += ws_head(to, WS_BINARY, used + events * 24);
    for (used = 0; (len = request_len(frame, used)) > 0; used += len) {
        const uint8_t *record = frame->payload + used;
        put_record(to, len - RECORD + 24, KIND_EVENT, 0, record[6]);
        memset(to + RECORD, 0, 32);
        memcpy(to + RECORD + 32, record + RECORD + 8, len - RECORD - 8);
        to += len + 24;
    }
    sink_wrote((size_t)(to - start));
}

static void sink_message(struct conn *c, const struct ws_frame *frame)
{
    uint32_t count = 0;

    if (frame->opcode != WS_BINARY || frame->len < RECORD + 8)
        return;
    uint64_t first = get_u64(frame->payload + RECORD);

    if (frame->payload[4] == KIND_SUBSCRIBE) {
        sink_answer(c, KIND_SUBSCRIBED, first, 0);
        sink_subscribe(c);
        return;
    }
    if (first == 0) {
        sink_events(frame);
        return;
    }
    for (size_t used = 0, took; (took = request_len(frame, used)) > 0; used += took) {
        if (frame->payload[used + 4] == KIND_BATCH)
            sink_answer(c, KIND_BATCH_ANSWER, first + count,
                        get_u32(frame->payload + used + RECORD + 8));
        count++;
    }
    if (frame->payload[4] == KIND_PUBLISH)
        sink_answer(c, KIND_ACKS, first, count);
}

static size_t serve(struct conn *c, uint8_t *data, size_t len)
{
    return ws_serve_all(c, data, len, "eventbus.bin.v1", sink_message);
}

const struct wire wire_eventbus_bin = {
    .name = "eventbus-bin",
    .prepare = prepare,
    .open = open_ws,
    .replay = subscribe,
    .publish = publish,
    .published = seal,
    .parse = parse,
    .serve = serve,
};
