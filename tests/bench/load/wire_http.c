/*
 * wire_http.c - publishing by POST on keep-alive connections: eventbus-http, and nchan with subscribers over WebSocket.
 *
 * nchan is to be configured with a publisher at /pub/CHANNEL and a subscriber at /sub/CHANNEL.
 */
#include <stdlib.h>
#include <strings.h>

#include "ws.h"

static struct tmpl *posts, *members;

static void prepare_with(const char *path)
{
    posts = calloc(opt.topics, sizeof(*posts));
    members = tmpl_topics("{\"topic\":\"t.%u\",\"payload\":\"%s\"}\n");
    for (unsigned i = 0; posts && i < opt.topics; i++) {
        char target[64];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(target, sizeof(target), path, i);
#pragma GCC diagnostic pop
        tmpl_make(&posts[i],
                  "POST %s HTTP/1.1\r\nHost: %s:%u\r\nContent-Type: text/plain\r\nContent-Length: "
                  "%zu\r\n\r\n%s",
                  target, opt.host, opt.port, opt.payload, opt.payload_text);
    }
}

static void prepare_eventbus(void)
{
    prepare_with("/v1/topics/t.%u/events");
}

static void prepare_nchan(void)
{
    prepare_with("/pub/t.%u");
}

static void open_http(struct conn *c)
{
    if (c->role == ROLE_SUBSCRIBER)
        ws_open(c, "/sub/t.0", NULL);
    else
        conn_ready(c); /* there is nothing to open */
}

static void publish_batch(struct conn *c, unsigned events)
{
    size_t len = 0;
    unsigned topic = c->topic;

    for (unsigned i = 0; i < events; i++) {
        len += members[topic].len;
        topic = topic + 1 == opt.topics ? 0 : topic + 1;
    }
    conn_printf(c,
                "POST /v1/events HTTP/1.1\r\nHost: %s:%u\r\nContent-Type: "
                "application/x-ndjson\r\nContent-Length: %zu\r\n\r\n",
                opt.host, opt.port, len);
    uint8_t *to = conn_reserve(c, len);
    for (unsigned i = 0; i < events; i++)
        to = tmpl_put(&members[conn_topic(c)], c, to);
    conn_wrote(c, len);
}

static void publish(struct conn *c, unsigned events)
{
    if (opt.batch > 1) {
        publish_batch(c, events);
        return;
    }
    const struct tmpl *tmpl = &posts[conn_topic(c)];
    tmpl_put(tmpl, c, conn_reserve(c, tmpl->len));
    conn_wrote(c, tmpl->len);
}

/* The value of a header by its name, which begins with a line end and ends with a colon. */
static const char *header(const uint8_t *head, size_t len, const char *name)
{
    size_t name_len = strlen(name);

    for (const uint8_t *p = head; (p = memchr(p, '\n', len - (size_t)(p - head))); p++)
        if (len - (size_t)(p - head) > name_len &&
            strncasecmp((const char *)p, name, name_len) == 0)
            return (const char *)p + name_len;
    return NULL;
}

/* Length of a message with its body, 0 while it is not whole. (What gcc knows of its callers makes it warn under UBSan.) */
__attribute__((noipa)) static size_t message_len(struct conn *c, const uint8_t *data, size_t len)
{
    const uint8_t *end = memmem(data, len, "\r\n\r\n", 4);
    size_t head = end ? (size_t)(end - data) + 4 : 0, body;

    if (!end)
        return 0;
    const char *value = header(data, head, "\nContent-Length:");
    if (!value) {
        conn_fail_bytes(c, "an answer without a length", data, head);
        return 0;
    }
    body = strtoul(value, NULL, 10);
    return len - head < body ? 0 : head + body;
}

static size_t parse_answers(struct conn *c, uint8_t *data, size_t len)
{
    static const char good[] = "HTTP/1.1 20";
    size_t used = 0, took;

    while (used < len && (took = message_len(c, data + used, len - used)) > 0) {
        if (memcmp(data + used, good, sizeof(good) - 1) != 0)
            conn_fail_bytes(c, "refused", data + used, took);
        else
            conn_ack_next(c);
        used += took;
    }
    return used;
}

static size_t parse_nchan(struct conn *c, uint8_t *data, size_t len)
{
    struct ws_frame frame;
    size_t used = 0, took;

    if (c->role != ROLE_SUBSCRIBER)
        return parse_answers(c, data, len);
    if (c->step == 0) {
        used = ws_opened(c, data, len);
        if (used == 0)
            return 0;
        c->step = 1;
        conn_ready(c);
    }
    while ((took = ws_read(c, data + used, len - used, &frame)) > 0) {
        if (frame.opcode == WS_TEXT || frame.opcode == WS_BINARY)
            conn_event(c, frame.payload, frame.len);
        else
            ws_control(c, &frame);
        used += took;
    }
    return used;
}

/* ---- the sink: 201 for each POST ---- */

static size_t serve(struct conn *c, uint8_t *data, size_t len)
{
    static const char created[] =
        "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 88\r\n\r\n"
        "{\"seq\":1000000000,\"message_id\":\"01900000-0000-7000-8000-000000000000\",\"duplicate\":"
        "false}";
    size_t used = 0, took;

    while (used < len && (took = message_len(c, data + used, len - used)) > 0) {
        conn_put(c, created, sizeof(created) - 1);
        used += took;
    }
    return used;
}

/* nchan's: what is posted for subscribers, to all of them, beside. */
static size_t serve_nchan(struct conn *c, uint8_t *data, size_t len)
{
    uint8_t head[10];
    size_t used = 0, took, head_len = ws_head(head, WS_TEXT, opt.payload);

    if (c->step == 0 && len > 4 && memcmp(data, "GET ", 4) == 0) {
        used = ws_accept(c, data, len, NULL);
        if (used > 0)
            sink_subscribe(c);
        c->step = used > 0;
        return used;
    }
    while (c->step == 0 && used < len && (took = serve(c, data + used, len - used)) > 0) {
        uint8_t *to = sink_reserve(head_len + opt.payload);
        memcpy(to, head, head_len);
        memcpy(to + head_len, data + used + took - opt.payload, opt.payload);
        sink_wrote(head_len + opt.payload);
        used += took;
    }
    return used;
}

const struct wire wire_eventbus_http = {
    .name = "eventbus-http",
    .always_answers = true,
    .window_max = 1,
    .prepare = prepare_eventbus,
    .open = open_http,
    .publish = publish,
    .parse = parse_answers,
    .serve = serve,
};

const struct wire wire_nchan = {
    .name = "nchan",
    .may_drop = true,
    .always_answers = true,
    .window_max = 1,
    .batch_max = 1,
    .topics_max = 1,
    .prepare = prepare_nchan,
    .open = open_http,
    .publish = publish,
    .parse = parse_nchan,
    .serve = serve_nchan,
};
