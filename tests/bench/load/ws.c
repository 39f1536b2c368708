/* ws.c - frames and handshakes (ws.h). */
#include <endian.h>

#include "ws.h"

void ws_open(struct conn *c, const char *path, const char *protocol)
{
    conn_printf(
        c,
        "GET %s HTTP/1.1\r\nHost: %s:%u\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s%s%s\r\n",
        path, opt.host, opt.port, protocol ? "Sec-WebSocket-Protocol: " : "",
        protocol ? protocol : "", protocol ? "\r\n" : "");
    c->key = 0x9e3779b9U ^ ((unsigned)c->role << 24) ^ (c->number + 1);
}

size_t ws_opened(struct conn *c, const uint8_t *data, size_t len)
{
    static const char good[] = "HTTP/1.1 101";
    const uint8_t *end = memmem(data, len, "\r\n\r\n", 4);

    if (!end)
        return 0;
    if (memcmp(data, good, sizeof(good) - 1) != 0) {
        conn_fail_bytes(c, "no upgrade", data, len);
        return 0;
    }
    return (size_t)(end - data) + 4;
}

size_t ws_read_head(struct conn *c, uint8_t *data, size_t len, struct ws_frame *ret)
{
    size_t head = 2;
    uint64_t payload;

    if (len < 2)
        return 0;
    payload = data[1];
    if (payload == 126) {
        head = 4;
        if (len < head)
            return 0;
        payload = (uint64_t)data[2] << 8 | data[3];
    } else if (payload == 127) {
        head = 10;
        if (len < head)
            return 0;
        memcpy(&payload, data + 2, 8);
        payload = be64toh(payload);
    } else if (payload > 127) {
        conn_fail(c, "a masked frame from the server");
        return 0;
    }
    ret->opcode = data[0] & 15;
    ret->payload = data + head;
    ret->len = payload;
    return head;
}

size_t ws_read(struct conn *c, uint8_t *data, size_t len, struct ws_frame *ret)
{
    size_t head = ws_read_head(c, data, len, ret);

    if (head == 0 || ret->len > len - head)
        return 0;
    if (!(data[0] & 0x80)) {
        conn_fail(c, "a fragmented message: it is not read");
        return 0;
    }
    return head + ret->len;
}

/* xorshift32: never 0 */
static uint32_t next_key(struct conn *c)
{
    c->key ^= c->key << 13;
    c->key ^= c->key >> 17;
    c->key ^= c->key << 5;
    return c->key;
}

static void mask(uint8_t *bytes, size_t len, uint32_t key)
{
    uint64_t both = (uint64_t)key << 32 | key, word;
    uint8_t keys[4];
    size_t i = 0;

    memcpy(keys, &key, 4);
    for (; i + 8 <= len; i += 8) {
        memcpy(&word, bytes + i, 8);
        word ^= both;
        memcpy(bytes + i, &word, 8);
    }
    for (; i < len; i++)
        bytes[i] ^= keys[i & 3];
}

/* A head, with the bit that says that a mask follows, or without. */
static size_t put_head(uint8_t *to, unsigned opcode, size_t len, uint8_t masked)
{
    to[0] = (uint8_t)(0x80 | opcode);
    if (len < 126) {
        to[1] = (uint8_t)(masked | len);
        return 2;
    }
    if (len < 65536) {
        to[1] = masked | 126;
        to[2] = (uint8_t)(len >> 8);
        to[3] = (uint8_t)len;
        return 4;
    }
    uint64_t big = htobe64(len);
    to[1] = masked | 127;
    memcpy(to + 2, &big, 8);
    return 10;
}

uint8_t *ws_seal(struct conn *c, uint8_t *to, unsigned opcode, size_t len)
{
    uint32_t key = opt.mask_zero ? 0 : next_key(c);
    size_t head = put_head(to, opcode, len, 0x80);

    memcpy(to + head, &key, 4);
    if (key)
        mask(to + head + 4, len, key);
    return to + head + 4 + len;
}

void ws_control(struct conn *c, const struct ws_frame *frame)
{
    if (frame->opcode == WS_PING && frame->len < 126) {
        uint8_t *to = conn_reserve(c, ws_head_len(frame->len) + frame->len);
        memcpy(to + ws_head_len(frame->len), frame->payload, frame->len);
        conn_wrote(c, (size_t)(ws_seal(c, to, WS_PONG, frame->len) - to));
    } else if (frame->opcode == WS_CLOSE) {
        unsigned code =
            frame->len >= 2 ? (unsigned)frame->payload[0] << 8 | frame->payload[1] : 1005;
        conn_fail(c, "the peer closed the WebSocket with %u", code);
    } else if (frame->opcode != WS_PONG) {
        conn_fail(c, "a frame of opcode %u", frame->opcode);
    }
}

/* ---- the sink's side ---- */

size_t ws_accept(struct conn *c, const uint8_t *data, size_t len, const char *protocol)
{
    const uint8_t *end = memmem(data, len, "\r\n\r\n", 4);

    if (!end)
        return 0;
    /* Our client does not look at the accept key. */
    conn_printf(c,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "
                "Upgrade\r\n%s%s%s\r\n",
                protocol ? "Sec-WebSocket-Protocol: " : "", protocol ? protocol : "",
                protocol ? "\r\n" : "");
    return (size_t)(end - data) + 4;
}

size_t ws_serve(uint8_t *data, size_t len, bool unmask, struct ws_frame *ret, uint8_t ret_key[4])
{
    size_t head;
    uint32_t key;
    struct ws_frame frame;

    if (len < 2)
        return 0;
    uint8_t second = data[1];
    data[1] &= 127;
    head = ws_read_head(NULL, data, len, &frame);
    data[1] = second;
    if (head == 0 || len < head + 4 || frame.len > len - head - 4)
        return 0;
    memcpy(ret_key, data + head, 4);
    memcpy(&key, data + head, 4);
    frame.payload += 4;
    if (unmask && key)
        mask(frame.payload, frame.len, key);
    *ret = frame;
    return head + 4 + frame.len;
}

size_t ws_head(uint8_t *to, unsigned opcode, size_t len)
{
    return put_head(to, opcode, len, 0);
}

size_t ws_serve_all(struct conn *c, uint8_t *data, size_t len, const char *protocol,
                    void (*on_frame)(struct conn *c, const struct ws_frame *frame))
{
    struct ws_frame frame;
    size_t used = 0, took;
    uint8_t key[4];

    if (c->step == 0) {
        used = ws_accept(c, data, len, protocol);
        c->step = used > 0;
    }
    while (c->step && (took = ws_serve(data + used, len - used, true, &frame, key)) > 0) {
        on_frame(c, &frame);
        used += took;
    }
    return used;
}
