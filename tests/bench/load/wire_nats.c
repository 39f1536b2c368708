/*
 * wire_nats.c - NATS: core over TCP (nats) and over WebSocket (nats-ws), and JetStream (jetstream).
 *
 * Core publishes have no answer: a publisher that wants one sends a PING behind each request (--batch events), whose
 * PONG says that the server has read them. JetStream publishes carry a reply subject that ends in the request's id;
 * one subscription gets all answers. The stream (LOAD, on file, topics t.>) is made by the loader. A replay is an
 * ordered push consumer with flow control. Workers share a durable pull consumer; an ack has a reply subject, so that
 * it is answered (what the clients call a double ack). Over WebSocket the frames are a stream of bytes: a message may begin in
 * one and end in the next.
 */
#include <stdlib.h>

#include "ws.h"

#define CONNECT                                                                                    \
    "CONNECT "                                                                                     \
    "{\"verbose\":false,\"pedantic\":false,\"tls_required\":false,\"name\":\"load\",\"lang\":"     \
    "\"c\","                                                                                       \
    "\"version\":\"1\",\"protocol\":1,\"echo\":true,\"headers\":true,\"no_responders\":true}\r\n"
#define STEP_STREAM 3 /* the stream is asked for */
#define STEP_READY  4
#define STREAM                                                                                     \
    "{\"name\":\"LOAD\",\"subjects\":[\"t.>\"],\"retention\":\"limits\",\"max_consumers\":-1,"     \
    "\"max_msgs\":-1,"                                                                             \
    "\"max_bytes\":-1,\"max_age\":0,\"max_msg_size\":-1,\"storage\":\"file\",\"discard\":\"old\"," \
    "\"num_replicas\":1}"
#define CONSUMER                                                                                   \
    "{\"stream_name\":\"LOAD\",\"config\":{\"deliver_subject\":\"_R\",\"deliver_policy\":\"all\"," \
    "\"ack_policy\":\"none\",\"max_deliver\":1,\"flow_control\":true,\"idle_heartbeat\":"          \
    "5000000000,"                                                                                  \
    "\"replay_policy\":\"instant\",\"mem_storage\":true,\"num_replicas\":1}}"
#define DURABLE                                                                                    \
    "{\"stream_name\":\"LOAD\",\"config\":{\"durable_name\":\"W\",\"deliver_policy\":\"all\","     \
    "\"ack_policy\":\"explicit\",\"ack_wait\":30000000000,\"max_deliver\":-1,\"max_ack_pending\":" \
    "1000000,"                                                                                     \
    "\"replay_policy\":\"instant\",\"num_replicas\":1}}"
#define WORKERS_FROM 5000       /* their inboxes are not those of publishers */
#define INBOX        "_I.0000." /* of a publisher: its number, and the request's id */
#define SID_INBOX    '1'
#define SID_EVENTS   '2'

static struct tmpl *pubs, *stored; /* a topic each */
static char usual[64];             /* the line before most events */
static size_t usual_len;

static bool is_jetstream(const struct conn *c)
{
    return c->wire->topics_max == 1;
}

static void prepare(void)
{
    pubs = calloc(opt.topics, sizeof(*pubs));
    stored = calloc(opt.topics, sizeof(*stored));
    for (unsigned i = 0; pubs && stored && i < opt.topics; i++) {
        tmpl_make(&pubs[i], "PUB t.%u %zu\r\n%s\r\n", i, opt.payload, opt.payload_text);
        tmpl_make(&stored[i], "PUB t.%u " INBOX ID_MARK " %zu\r\n%s\r\n", i, opt.payload,
                  opt.payload_text);
    }
    usual_len =
        (size_t)snprintf(usual, sizeof(usual), "MSG t.0 %c %zu\r\n", SID_EVENTS, opt.payload);
}

/* ---- writing: over WebSocket each request is one frame ---- */

static uint8_t *start(struct conn *c, size_t len)
{
    return conn_reserve(c, ws_head_len(len) + len) + (c->wire->websocket ? ws_head_len(len) : 0);
}

static void finish(struct conn *c, size_t len)
{
    uint8_t *to = c->out + c->out_to;

    conn_wrote(c, c->wire->websocket ? (size_t)(ws_seal(c, to, WS_BINARY, len) - to) : len);
}

static void put_text(struct conn *c, const char *text)
{
    memcpy(start(c, strlen(text)), text, strlen(text));
    finish(c, strlen(text));
}

static void publish_stored(struct conn *c)
{
    const struct tmpl *tmpl = &stored[conn_topic(c)];
    uint8_t *to = start(c, tmpl->len);

    tmpl_put(tmpl, c, to);
    memcpy(to + tmpl->id_at - STAMP_PUBLISHER - 1, c->stamp, STAMP_PUBLISHER);
    finish(c, tmpl->len);
}

static void publish(struct conn *c, unsigned events)
{
    size_t len = c->role == ROLE_PUBLISHER ? 6 : 0;
    unsigned topic = c->topic;

    if (is_jetstream(c)) {
        publish_stored(c);
        return;
    }
    for (unsigned i = 0; i < events; i++) {
        len += pubs[topic].len;
        topic = topic + 1 == opt.topics ? 0 : topic + 1;
    }
    uint8_t *to = start(c, len);
    for (unsigned i = 0; i < events; i++)
        to = tmpl_put(&pubs[conn_topic(c)], c, to);
    if (c->role == ROLE_PUBLISHER)
        memcpy(to, "PING\r\n", 6);
    finish(c, len);
}

/* ---- opening: INFO, CONNECT and PING, PONG; a stream, if it is to be kept ---- */

static void open_tcp(struct conn *c)
{
    c->step = 1;
}

static void open_ws(struct conn *c)
{
    ws_open(c, "/", NULL);
}

static bool makes_stream(const struct conn *c)
{
    return c->number == 0 && c->role != ROLE_WORKER;
}

/* The first connection, which is no worker, makes the stream; each asks for it until it is there, or until the server serves streams. */
static void ask_stream(struct conn *c)
{
    char text[1024];

    if (makes_stream(c))
        snprintf(text, sizeof(text), "PUB $JS.API.STREAM.CREATE.LOAD _I.%.4s.stream %zu\r\n%s\r\n",
                 c->stamp, strlen(STREAM), STREAM);
    else
        snprintf(text, sizeof(text), "PUB $JS.API.STREAM.INFO.LOAD _I.%.4s.stream 0\r\n\r\n",
                 c->stamp);
    put_text(c, text);
    c->step = STEP_STREAM;
}

static void greeted(struct conn *c)
{
    char text[256];

    if (c->role == ROLE_WORKER) {
        snprintf(text, sizeof(text), "%04u", (WORKERS_FROM + c->number) % PUBLISHERS_MAX);
        memcpy(c->stamp, text, STAMP_PUBLISHER);
    }

    put_text(c, CONNECT);
    if (c->role == ROLE_SUBSCRIBER)
        put_text(c, opt.topics > 1 ? "SUB t.* 2\r\n" : "SUB t.0 2\r\n");
    if (is_jetstream(c)) {
        /* What a worker pulls comes to an inbox of its own, what a reader asks for to _R. */
        snprintf(text, sizeof(text), "SUB _I.%.4s.* %c\r\nSUB %s%.*s %c\r\n", c->stamp, SID_INBOX,
                 c->role == ROLE_WORKER ? "_W." : "_R", c->role == ROLE_WORKER ? 4 : 0, c->stamp,
                 SID_EVENTS);
        put_text(c, text);
        ask_stream(c);
        return;
    }
    put_text(c, "PING\r\n");
    c->step = 2;
}

static void replay(struct conn *c)
{
    char text[1024];

    snprintf(text, sizeof(text), "PUB $JS.API.CONSUMER.CREATE.LOAD _I.%.4s.reader %zu\r\n%s\r\n",
             c->stamp, strlen(CONSUMER), CONSUMER);
    put_text(c, text);
}

/* ---- a worker: pulls by requests of half a window, each event's reply subject takes its ack ---- */

static void pull(struct conn *c)
{
    char body[32], text[128];
    unsigned batch = opt.window > 1 ? opt.window / 2 : 1;
    int len = snprintf(body, sizeof(body), "{\"batch\":%u}", batch);

    snprintf(text, sizeof(text), "PUB $JS.API.CONSUMER.MSG.NEXT.LOAD.W _W.%.4s %d\r\n%s\r\n",
             c->stamp, len, body);
    put_text(c, text);
    c->left += batch;
}

static void work(struct conn *c)
{
    char text[1024];

    snprintf(text, sizeof(text),
             "PUB $JS.API.CONSUMER.DURABLE.CREATE.LOAD.W _I.%.4s.reader %zu\r\n%s\r\n", c->stamp,
             strlen(DURABLE), DURABLE);
    put_text(c, text);
}

static void on_job(struct conn *c, const uint8_t *reply, size_t reply_len, const uint8_t *payload,
                   size_t len)
{
    c->left--;
    if (c->left <= opt.window / 2)
        pull(c);
    if (!conn_job(c, payload, len))
        return;
    conn_printf(c, "PUB %.*s _I.%.4s.%.*s 4\r\n+ACK\r\n", (int)reply_len, (const char *)reply,
                c->stamp, ID_TEXT, c->id);
    text_next(c->id, ID_TEXT);
    c->requests++;
}

static void on_work(struct conn *c, const uint8_t *subject, const uint8_t *body, size_t len)
{
    if (memcmp(subject + sizeof(INBOX) - 1, "reader", 6) != 0)
        conn_job_acked(c, 1);
    else if (memmem(body, len, "\"error\"", 7))
        conn_fail_bytes(c, "an error", body, len);
    else {
        pull(c);
        if (opt.window > 1)
            pull(c);
    }
}

/* ---- reading ---- */

static void on_inbox(struct conn *c, const uint8_t *subject, const uint8_t *body, size_t len)
{
    const uint8_t *id = subject + sizeof(INBOX) - 1;

    if (c->step == STEP_STREAM && !makes_stream(c) && memmem(body, len, "\"error\"", 7))
        ask_stream(c);
    else if (memmem(body, len, "\"error\"", 7) || len < 10)
        conn_fail_bytes(c, "an error", body, len);
    else if (memcmp(id, "stream", 6) == 0) {
        c->step = STEP_READY;
        conn_ready(c);
    } else if (memcmp(id, "reader", 6) != 0 && memcmp(body, "{\"stream\":", 10) == 0)
        conn_ack(c, id);
}

/* A message with headers: the server's own, about the consumer or about a subject that nobody serves. */
static void on_status(struct conn *c, uint8_t *reply, size_t reply_len, const uint8_t *body,
                      size_t len)
{
    char text[256];

    if (memmem(body, len, "FlowControl", 11) && reply_len > 0 && reply_len < 200) {
        snprintf(text, sizeof(text), "PUB %.*s 0\r\n\r\n", (int)reply_len, (char *)reply);
        put_text(c, text);
    } else if (c->step == STEP_STREAM && memmem(body, len, "503", 3))
        ask_stream(c);
    else if (!memmem(body, len, "Heartbeat", 9))
        conn_fail_bytes(c, "a status", body, len);
}

/* "MSG subject sid [reply] [headers] size": the number at the end of the line, and what stands before it. */
static uint8_t *last_number(uint8_t *line, uint8_t *end, size_t *ret_number)
{
    size_t value = 0, place = 1;

    while (end > line && end[-1] != ' ') {
        value += place * (size_t)(end[-1] - '0');
        place *= 10;
        end--;
    }
    *ret_number = value;
    return end - 1;
}

static size_t on_message(struct conn *c, uint8_t *data, uint8_t *line_end, uint8_t *end)
{
    bool status = *data == 'H';
    uint8_t *subject = data + (status ? 5 : 4), *sid, *rest;
    size_t size, headers = 0;

    rest = last_number(data, line_end - 2, &size);
    if (status)
        rest = last_number(data, rest, &headers);
    if ((size_t)(end - line_end) < size + 2)
        return 0;
    sid = memchr(subject, ' ', (size_t)(rest - subject));
    if (!sid)
        return conn_fail_bytes(c, "not understood", data, (size_t)(line_end - data)), 0;
    sid++;
    if (status)
        on_status(c, sid + 2, rest > sid + 2 ? (size_t)(rest - sid - 2) : 0, line_end, size);
    else if (*sid == SID_EVENTS && c->role == ROLE_WORKER)
        on_job(c, sid + 2, rest > sid + 2 ? (size_t)(rest - sid - 2) : 0, line_end, size);
    else if (*sid == SID_EVENTS)
        conn_event(c, line_end, size);
    else if (c->role == ROLE_WORKER && c->ready)
        on_work(c, subject, line_end, size);
    else
        on_inbox(c, subject, line_end, size);
    return (size_t)(line_end - data) + size + 2;
}

static size_t on_line(struct conn *c, uint8_t *data, uint8_t *end)
{
    uint8_t *nl;

    if ((size_t)(end - data) > usual_len && memcmp(data, usual, usual_len) == 0) {
        if ((size_t)(end - data) < usual_len + opt.payload + 2)
            return 0;
        conn_event(c, data + usual_len, opt.payload);
        return usual_len + opt.payload + 2;
    }
    nl = memchr(data, '\n', (size_t)(end - data));
    if (!nl)
        return 0;
    nl++;
    if (*data == 'M' || *data == 'H')
        return on_message(c, data, nl, end);
    if (data[1] == 'I' && *data == 'P')
        put_text(c, "PONG\r\n");
    else if (*data == 'P' && !c->ready)
        conn_ready(c);
    else if (*data == 'P' && c->role == ROLE_PUBLISHER)
        conn_ack_next(c);
    else if (*data == 'I' && c->step == 1)
        greeted(c);
    else if (*data == '-')
        conn_fail_bytes(c, "an error", data, (size_t)(nl - data));
    return (size_t)(nl - data);
}

static size_t parse_text(struct conn *c, uint8_t *data, size_t len)
{
    size_t used = 0, took;

    while (used < len && (took = on_line(c, data + used, data + len)) > 0)
        used += took;
    return used;
}

/*
 * carry bytes at the start of data are out of their frame already, left bytes of the current frame are to come. What
 * a frame leaves over is moved to the start of the next one's payload, where it goes on.
 */
static size_t parse_ws(struct conn *c, uint8_t *data, size_t len)
{
    uint8_t *p = data, *end = data + len;
    struct ws_frame frame;

    if (c->step == 0) {
        p += ws_opened(c, data, len);
        c->step = p > data;
    }
    while (c->step) {
        uint8_t *raw = p + c->carry;
        if (c->left == 0) {
            size_t head = ws_read_head(c, raw, (size_t)(end - raw), &frame);
            if (head == 0)
                break;
            if (frame.opcode >= WS_CLOSE) {
                if (frame.len > (size_t)(end - raw) - head)
                    break;
                ws_control(c, &frame);
                head += frame.len;
            } else
                c->left = frame.len;
            memmove(p + head, p, c->carry);
            p += head;
            raw += head;
        }
        size_t now = (size_t)(end - raw) < c->left ? (size_t)(end - raw) : c->left;
        size_t used = parse_text(c, p, c->carry + now);
        c->left -= now;
        c->carry = c->carry + now - used;
        p += used;
        if (c->left > 0 || p + c->carry == end)
            break;
    }
    return (size_t)(p - data);
}

/* ---- the sink: PONG, an answer for each reply subject, and each event to all who subscribed ---- */

static void sink_put(struct conn *c, const char *text)
{
    uint8_t head[10];

    if (c->wire->websocket)
        conn_put(c, head, ws_head(head, WS_BINARY, strlen(text)));
    conn_put(c, text, strlen(text));
}

static void greet(struct conn *c)
{
    sink_put(c, "INFO {\"server_id\":\"sink\",\"headers\":true,\"max_payload\":1048576}\r\n");
}

static void sink_pub(struct conn *c, uint8_t *line, uint8_t *line_end)
{
    static const char answer[] = " 1 30\r\n{\"stream\":\"LOAD\", \"seq\":100000}\r\n";
    uint8_t *reply = memchr(line + 4, ' ', (size_t)(line_end - line) - 4), *behind;

    behind = reply ? memchr(reply + 1, ' ', (size_t)(line_end - reply) - 1) : NULL;
    if (behind) {
        conn_put(c, "MSG ", 4);
        conn_put(c, reply + 1, (size_t)(behind - reply) - 1);
        conn_put(c, answer, sizeof(answer) - 1);
        return;
    }
    size_t len = usual_len + opt.payload + 2;
    uint8_t *start_at = sink_reserve(len + 10), *to = start_at;
    if (c->wire->websocket)
        to += ws_head(to, WS_BINARY, len);
    memcpy(to, usual, usual_len);
    memcpy(to + usual_len, line_end, opt.payload + 2);
    sink_wrote((size_t)(to - start_at) + len);
}

static size_t sink_line(struct conn *c, uint8_t *data, uint8_t *end)
{
    uint8_t *nl = memchr(data, '\n', (size_t)(end - data));
    size_t size = 0;

    if (!nl)
        return 0;
    nl++;
    if (data[1] == 'U' && *data == 'P') {
        last_number(data, nl - 2, &size);
        if ((size_t)(end - nl) < size + 2)
            return 0;
        sink_pub(c, data, nl);
        return (size_t)(nl - data) + size + 2;
    }
    if (data[1] == 'I')
        sink_put(c, "PONG\r\n");
    else if (*data == 'S' && nl[-3] == SID_EVENTS)
        sink_subscribe(c);
    return (size_t)(nl - data);
}

static size_t serve(struct conn *c, uint8_t *data, size_t len)
{
    size_t used = 0, took;

    while (used < len && (took = sink_line(c, data + used, data + len)) > 0)
        used += took;
    return used;
}

/* The loader's own publishers write whole lines and messages into a frame. */
static size_t serve_ws(struct conn *c, uint8_t *data, size_t len)
{
    struct ws_frame frame;
    size_t used = 0, took;
    uint8_t key[4];

    if (c->step == 0) {
        used = ws_accept(c, data, len, NULL);
        if (used == 0)
            return 0;
        c->step = 1;
        greet(c);
    }
    while ((took = ws_serve(data + used, len - used, true, &frame, key)) > 0) {
        if (frame.opcode == WS_BINARY)
            serve(c, frame.payload, frame.len);
        used += took;
    }
    return used;
}

const struct wire wire_nats = {
    .name = "nats",
    .may_drop = true,
    .prepare = prepare,
    .open = open_tcp,
    .publish = publish,
    .parse = parse_text,
    .greet = greet,
    .serve = serve,
};

const struct wire wire_nats_ws = {
    .name = "nats-ws",
    .may_drop = true,
    .websocket = true,
    .prepare = prepare,
    .open = open_ws,
    .publish = publish,
    .parse = parse_ws,
    .serve = serve_ws,
};

const struct wire wire_jetstream = {
    .name = "jetstream",
    .batch_max = 1,
    .topics_max = 1,
    .prepare = prepare,
    .open = open_tcp,
    .replay = replay,
    .work = work,
    .publish = publish,
    .parse = parse_text,
    .greet = greet,
    .serve = serve,
};
