/* wire_eventbus_json.c - eventbus over WebSocket in JSON (eventbus.json.v1, docs/protocol.md). */
#include <stdlib.h>

#include "ws.h"

static struct tmpl *answered, *unanswered, *members; /* a topic each */
static struct tmpl batch_answered, batch_unanswered; /* what stands before the members */

static void prepare(void)
{
    answered = tmpl_topics("{\"type\":\"publish\",\"id\":" ID_MARK
                           ",\"data\":{\"topic\":\"t.%u\",\"payload\":\"%s\"}}");
    unanswered =
        tmpl_topics("{\"type\":\"publish\",\"data\":{\"topic\":\"t.%u\",\"payload\":\"%s\"}}");
    members = tmpl_topics("{\"topic\":\"t.%u\",\"payload\":\"%s\"}");
    tmpl_make(&batch_answered, "{\"type\":\"publish_batch\",\"id\":" ID_MARK ",\"messages\":[");
    tmpl_make(&batch_unanswered, "{\"type\":\"publish_batch\",\"messages\":[");
}

static void open_ws(struct conn *c)
{
    ws_open(c, "/ws", "eventbus.json.v1");
}

static void put_text(struct conn *c, const char *text)
{
    size_t len = strlen(text), head = ws_head_len(len);
    uint8_t *to = conn_reserve(c, head + len);

    memcpy(to + head, text, len);
    conn_wrote(c, (size_t)(ws_seal(c, to, WS_TEXT, len) - to));
}

static void subscribe(struct conn *c)
{
    const char *from = c->role == ROLE_REPLAY ? ",\"starting_seq\":0" : "";
    const char *pattern = opt.topics > 1 ? "t.*" : "t.0";
    char text[128];

    snprintf(text, sizeof(text), "{\"type\":\"subscribe\",\"id\":\"s\",\"pattern\":\"%s\"%s}",
             pattern, from);
    put_text(c, text);
}

/* ---- a worker of the consumer "load" ---- */

static void work(struct conn *c)
{
    char text[256];

    snprintf(text, sizeof(text),
             "{\"type\":\"consume\",\"id\":\"w\",\"consumer\":\"load\",\"max_inflight\":%u,"
             "\"settings\":{\"patterns\":[\"t.*\"],\"from\":\"all\",\"max_inflight\":%u}}",
             opt.window, opt.window * opt.subscribers);
    put_text(c, text);
}

static void ack(struct conn *c, const uint8_t *seq)
{
    static const char before[] = "{\"type\":\"ack\",\"id\":",
                      middle[] = ",\"consumer\":\"load\",\"seq\":";
    uint8_t *start = conn_reserve(c, WS_HEADER_MAX + 128), *text = start + 6, *to = text;

    to = mempcpy(to, before, sizeof(before) - 1);
    to = mempcpy(to, c->id, ID_TEXT);
    to = mempcpy(to, middle, sizeof(middle) - 1);
    while (*seq >= '0' && *seq <= '9' && to < text + 100)
        *to++ = *seq++;
    *to++ = '}';
    text_next(c->id, ID_TEXT);
    c->requests++;
    conn_wrote(c, (size_t)(ws_seal(c, start, WS_TEXT, (size_t)(to - text)) - start));
}

static void on_job(struct conn *c, const uint8_t *text, size_t len)
{
    static const char mark[] = "\"payload\":\"", number[] = "\"seq\":";
    const uint8_t *payload = memmem(text, len, mark, sizeof(mark) - 1);
    const uint8_t *seq = memmem(text, len, number, sizeof(number) - 1);

    if (!payload || !seq || (size_t)(text + len - payload) < sizeof(mark) + opt.payload)
        conn_fail_bytes(c, "an event that is not ours", text, len);
    else if (conn_job(c, payload + sizeof(mark) - 1, opt.payload))
        ack(c, seq + sizeof(number) - 1);
}

static void on_work(struct conn *c, const uint8_t *text, size_t len)
{
    static const char result[] = "\"result\":\"ok\"";

    if (memmem(text, len < 32 ? len : 32, "\"event\"", 7))
        on_job(c, text, len);
    else if (memmem(text, len, result, sizeof(result) - 1))
        conn_job_acked(c, 1);
    else if (!memmem(text, len, "\"id\":\"w\"", 8) || memmem(text, len, "error", 5))
        conn_fail_bytes(c, "an answer that is no success", text, len);
}

static void publish_batch(struct conn *c, unsigned events)
{
    const struct tmpl *head = c->role == ROLE_PUBLISHER ? &batch_answered : &batch_unanswered;
    size_t len = head->len + events - 1 + 2;
    unsigned topic = c->topic;

    for (unsigned i = 0; i < events; i++) {
        len += members[topic].len;
        topic = topic + 1 == opt.topics ? 0 : topic + 1;
    }
    uint8_t *start = conn_reserve(c, ws_head_len(len) + len);
    uint8_t *to = tmpl_put(head, c, start + ws_head_len(len));
    for (unsigned i = 0; i < events; i++) {
        to = tmpl_put(&members[conn_topic(c)], c, to);
        *to++ = ',';
    }
    to[-1] = ']';
    *to = '}';
    conn_wrote(c, (size_t)(ws_seal(c, start, WS_TEXT, len) - start));
}

static void publish(struct conn *c, unsigned events)
{
    if (opt.batch > 1) {
        publish_batch(c, events);
        return;
    }
    const struct tmpl *tmpl = &(c->role == ROLE_PUBLISHER ? answered : unanswered)[conn_topic(c)];
    uint8_t *start = conn_reserve(c, ws_head_len(tmpl->len) + tmpl->len);
    tmpl_put(tmpl, c, start + ws_head_len(tmpl->len));
    conn_wrote(c, (size_t)(ws_seal(c, start, WS_TEXT, tmpl->len) - start));
}

/* An event's payload is where that of the event before was, or is looked for. */
static void on_event(struct conn *c, const uint8_t *text, size_t len)
{
    static const char mark[] = "\"payload\":\"";
    const size_t mark_len = sizeof(mark) - 1;

    if (c->hint + opt.payload >= len || memcmp(text + c->hint - mark_len, mark, mark_len) != 0) {
        const uint8_t *found = memmem(text, len, mark, mark_len);
        c->hint = found ? (size_t)(found - text) + mark_len : 0;
        if (!found || c->hint + opt.payload >= len) {
            c->hint = 0;
            conn_fail_bytes(c, "an event that is not ours", text, len);
            return;
        }
    }
    if (text[c->hint + opt.payload] != '"')
        conn_fail_bytes(c, "a payload of another length", text, len);
    else
        conn_event(c, text + c->hint, opt.payload);
}

static bool is(const uint8_t *text, size_t len, const char *start)
{
    return len > strlen(start) && memcmp(text, start, strlen(start)) == 0;
}

static void on_text(struct conn *c, const uint8_t *text, size_t len)
{
    static const char ok[] = "{\"type\":\"ok\",\"id\":";
    const size_t at = sizeof(ok) - 1;

    if (c->hint && is(text, len, "{\"type\":\"event\","))
        on_event(c, text, len);
    else if (is(text, len, "{\"type\":\"ok\",\"id\":\"s\""))
        conn_ready(c);
    else if (is(text, len, ok) && len > at + ID_TEXT)
        conn_ack(c, text + at);
    else if (is(text, len, "{\"type\":\"event\",") && len > 64) {
        c->hint = 64;
        on_event(c, text, len);
    } else if (is(text, len, "{\"type\":\"gap\"")) {
        c->loop->gaps++;
        conn_fail_bytes(c, "a gap", text, len);
    } else if (!is(text, len, "{\"type\":\"live\"") && !is(text, len, "{\"type\":\"pong\""))
        conn_fail_bytes(c, "an answer that is no success", text, len);
}

static size_t parse(struct conn *c, uint8_t *data, size_t len)
{
    struct ws_frame frame;
    size_t used = 0, took;

    if (c->step == 0) {
        used = ws_opened(c, data, len);
        if (used == 0)
            return 0;
        c->step = 1;
        if (c->role == ROLE_SUBSCRIBER)
            subscribe(c);
        else
            conn_ready(c);
    }
    while ((took = ws_read(c, data + used, len - used, &frame)) > 0) {
        if (frame.opcode == WS_TEXT && c->role == ROLE_WORKER)
            on_work(c, frame.payload, frame.len);
        else if (frame.opcode == WS_TEXT)
            on_text(c, frame.payload, frame.len);
        else
            ws_control(c, &frame);
        used += took;
    }
    return used;
}

/* ---- the sink: answers every id, and gives each event's payload to all who subscribed ---- */

static void sink_event(const uint8_t *payload)
{
    static const char before[] = "{\"type\":\"event\",\"seq\":1000000,\"message_id\":\"01900000-"
                                 "0000-7000-8000-000000000000\","
                                 "\"topic\":\"t.0\",\"payload\":\"";
    static const char behind[] =
        "\",\"metadata\":{\"timestamp\":1700000000000,\"content_type\":\"text/plain\"}}";
    size_t len = sizeof(before) - 1 + opt.payload + sizeof(behind) - 1;
    uint8_t *start = sink_reserve(len + 10), *to = start;

    to += ws_head(to, WS_TEXT, len);
    memcpy(to, before, sizeof(before) - 1);
    to += sizeof(before) - 1;
    memcpy(to, payload, opt.payload);
    memcpy(to + opt.payload, behind, sizeof(behind) - 1);
    sink_wrote((size_t)(to - start) + opt.payload + sizeof(behind) - 1);
}

static void sink_ok(struct conn *c, const uint8_t *id)
{
    static const char behind[] = ",\"seq\":1000000000,\"message_id\":\"01900000-0000-7000-8000-"
                                 "000000000000\",\"duplicate\":false}";
    static const char before[] = "{\"type\":\"ok\",\"id\":";
    const size_t len = sizeof(before) - 1 + ID_TEXT + sizeof(behind) - 1;
    uint8_t *start = conn_reserve(c, len + 10), *to = start;

    to += ws_head(to, WS_TEXT, len);
    memcpy(to, before, sizeof(before) - 1);
    to += sizeof(before) - 1;
    memcpy(to, id, ID_TEXT);
    memcpy(to + ID_TEXT, behind, sizeof(behind) - 1);
    conn_wrote(c, (size_t)(to - start) + ID_TEXT + sizeof(behind) - 1);
}

static void sink_frame(struct conn *c, const struct ws_frame *frame)
{
    static const char subscribed[] = "{\"type\":\"ok\",\"id\":\"s\",\"last_seq\":0}";
    const char *type = (const char *)frame->payload + 9;
    uint8_t head[10];

    if (memcmp(type, "subscribe", 9) == 0) {
        conn_put(c, head, ws_head(head, WS_TEXT, sizeof(subscribed) - 1));
        conn_put(c, subscribed, sizeof(subscribed) - 1);
        sink_subscribe(c);
        return;
    }
    /* With an id it is answered, without it is for the subscribers: that is how a loader asks. */
    const uint8_t *member = memchr(type, ',', frame->len - 9);
    if (member && memcmp(member, ",\"id\":", 6) == 0)
        sink_ok(c, member + 6);
    else
        sink_event(frame->payload + unanswered[0].stamp_at);
}

static size_t serve(struct conn *c, uint8_t *data, size_t len)
{
    return ws_serve_all(c, data, len, NULL, sink_frame);
}

const struct wire wire_eventbus_json = {
    .name = "eventbus-json",
    .prepare = prepare,
    .open = open_ws,
    .replay = subscribe,
    .work = work,
    .publish = publish,
    .parse = parse,
    .serve = serve,
};
