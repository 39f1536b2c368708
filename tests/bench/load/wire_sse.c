/*
 * wire_sse.c - eventbus over Server-Sent Events (docs/http.md): subscribers only. What is published for them goes over
 * a WebSocket, so that it is the stream that is measured.
 *
 * The body is chunked, and an event may begin in one chunk and end in the next: chunks are taken apart as frames of
 * NATS over WebSocket are, by moving what one leaves over to the start of the next.
 */
#include "load.h"

extern const struct wire wire_eventbus_json;

#define NAMED 1 /* in cursor[0]: the event has a name, so it is none that was published */

static void get_stream(struct conn *c, const char *from)
{
    conn_printf(
        c,
        "GET /v1/stream?pattern=%s%s HTTP/1.1\r\nHost: %s:%u\r\nAccept: text/event-stream\r\n\r\n",
        opt.topics > 1 ? "t.*" : "t.0", from, opt.host, opt.port);
}

static void open_http(struct conn *c)
{
    if (c->role == ROLE_REPLAY)
        conn_ready(c);
    else
        get_stream(c, "");
}

static void replay(struct conn *c)
{
    get_stream(c, "&starting_seq=0");
}

static void on_data(struct conn *c, const uint8_t *line, size_t len)
{
    static const char mark[] = "\"payload\":\"";
    const uint8_t *found = memmem(line, len, mark, sizeof(mark) - 1);
    const uint8_t *payload = found + sizeof(mark) - 1;

    if (!found || (size_t)(line + len - payload) <= opt.payload || payload[opt.payload] != '"')
        conn_fail_bytes(c, "an event that is not ours", line, len);
    else
        conn_event(c, payload, opt.payload);
}

static void on_line(struct conn *c, const uint8_t *line, size_t len)
{
    if (len == 0)
        c->cursor[0] = 0;
    else if (len > 7 && memcmp(line, "event: ", 7) == 0) {
        c->cursor[0] = NAMED;
        if (memcmp(line + 7, "open", 4) == 0)
            conn_ready(c);
        if (memcmp(line + 7, "gap", 3) == 0) {
            c->loop->gaps++;
            conn_fail(c, "a gap");
        }
    } else if (len > 6 && memcmp(line, "data: ", 6) == 0 && c->cursor[0] != NAMED)
        on_data(c, line + 6, len - 6);
}

static size_t parse_lines(struct conn *c, const uint8_t *data, size_t len)
{
    size_t used = 0;
    const uint8_t *end;

    while ((end = memchr(data + used, '\n', len - used))) {
        on_line(c, data + used, (size_t)(end - data) - used);
        used = (size_t)(end - data) + 1;
    }
    return used;
}

/* "1f4\r\n", after the "\r\n" that ends the chunk before. Bytes of it, 0 while it is not whole. */
static size_t chunk_head(struct conn *c, const uint8_t *data, size_t len, uint64_t *ret_len)
{
    size_t at = len >= 2 && data[0] == '\r' ? 2 : 0;
    uint64_t value = 0;
    const uint8_t *end = memchr(data + at, '\n', len - at);

    if (!end)
        return 0;
    for (; data[at] != '\r' && data + at < end; at++) {
        unsigned digit = data[at] <= '9' ? (unsigned)data[at] - '0' : (data[at] | 32U) - 'a' + 10;
        value = value << 4 | (digit & 15);
    }
    if (value == 0)
        conn_fail(c, "the stream ended");
    *ret_len = value;
    return (size_t)(end - data) + 1;
}

static size_t headers(struct conn *c, const uint8_t *data, size_t len)
{
    static const char good[] = "HTTP/1.1 200";
    const uint8_t *end = memmem(data, len, "\r\n\r\n", 4);

    if (!end)
        return 0;
    if (memcmp(data, good, sizeof(good) - 1) != 0 ||
        !memmem(data, (size_t)(end - data), "chunked", 7)) {
        conn_fail_bytes(c, "no stream", data, len);
        return 0;
    }
    c->step = 1;
    return (size_t)(end - data) + 4;
}

/* carry bytes at the start of data are out of their chunk already, left bytes of the current one are to come. */
static size_t parse(struct conn *c, uint8_t *data, size_t len)
{
    uint8_t *p = data, *end = data + len;

    if (c->step == 0)
        p += headers(c, data, len);
    while (c->step) {
        uint8_t *raw = p + c->carry;
        if (c->left == 0) {
            size_t head = chunk_head(c, raw, (size_t)(end - raw), &c->left);
            if (head == 0)
                break;
            memmove(p + head, p, c->carry);
            p += head;
            raw += head;
        }
        size_t now = (size_t)(end - raw) < c->left ? (size_t)(end - raw) : c->left;
        size_t used = parse_lines(c, p, c->carry + now);
        c->left -= now;
        c->carry = c->carry + now - used;
        p += used;
        if (c->left > 0 || p + c->carry == end)
            break;
    }
    return (size_t)(p - data);
}

static void prepare(void)
{
    if (strcmp(opt.mode, "publish") == 0)
        die("eventbus-sse only subscribes: publish by eventbus-http");
    wire_eventbus_json.prepare();
}

const struct wire wire_eventbus_sse = {
    .name = "eventbus-sse",
    .feeder = &wire_eventbus_json,
    .prepare = prepare,
    .open = open_http,
    .replay = replay,
    .parse = parse,
};
