/*
 * ws.h - as much of RFC 6455 as a load generator needs: the handshake, frames that a client masks, frames that a
 * server does not.
 *
 * Every frame that a client writes is masked with a new random key, as browsers do; --mask zero takes the key 0,
 * which is legal on the wire and spares both ends most of the work: it shows what unmasking costs.
 */
#ifndef LOAD_WS_H
#define LOAD_WS_H

#include "load.h"

#define WS_TEXT       1
#define WS_BINARY     2
#define WS_CLOSE      8
#define WS_PING       9
#define WS_PONG       10
#define WS_HEADER_MAX 14

struct ws_frame {
    unsigned opcode;
    uint8_t *payload;
    size_t len;
};

/* Ask for the upgrade; protocol may be NULL. */
void ws_open(struct conn *c, const char *path, const char *protocol);
/* The server's answer: how many bytes it has once it is whole, 0 while it is not or when it is no 101 (told). */
size_t ws_opened(struct conn *c, const uint8_t *data, size_t len);
/* A frame of a server. Bytes it takes, 0 while it is not whole. */
size_t ws_read(struct conn *c, uint8_t *data, size_t len, struct ws_frame *ret);
/* Only its head: bytes of the head, 0 while that is not whole; the length is of the whole payload. */
size_t ws_read_head(struct conn *c, uint8_t *data, size_t len, struct ws_frame *ret);
/* Answer what is neither data nor ours: a ping; a close is an error. */
void ws_control(struct conn *c, const struct ws_frame *frame);

/* The bytes of a head before a payload of len bytes, as a client writes it. */
static inline size_t ws_head_len(size_t len)
{
    return len < 126 ? 6 : len < 65536 ? 8 : 14;
}

/* Write the head at to and mask the payload that stands behind it. Returns the frame's end. */
uint8_t *ws_seal(struct conn *c, uint8_t *to, unsigned opcode, size_t len);

/* ---- the sink's side ---- */

/* A request for an upgrade: answered when it is whole, with a protocol unless it is NULL. Returns its bytes, 0 while it is not whole. */
size_t ws_accept(struct conn *c, const uint8_t *data, size_t len, const char *protocol);
/* A client's frame, unmasked in place when unmask says so. Bytes it takes, 0 while it is not whole. */
size_t ws_serve(uint8_t *data, size_t len, bool unmask, struct ws_frame *ret, uint8_t ret_key[4]);
/* The whole of a sink's reading: the upgrade (c->step 0), then each frame that is whole, unmasked. Bytes taken. */
size_t ws_serve_all(struct conn *c, uint8_t *data, size_t len, const char *protocol,
                    void (*on_frame)(struct conn *c, const struct ws_frame *frame));
/* The head of a server's frame; at most 10 bytes. */
size_t ws_head(uint8_t *to, unsigned opcode, size_t len);

#endif
