/*
 * ws.h - the few lines of RFC 6455 that wslay 1.1.1 leaves to its user: frame headers of data frames we
 * send (server: unmasked), masking many bytes at a time, and the handshake's accept key.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define EB_WS_HEADER_MAX 10
enum { EB_WS_TEXT = 1, EB_WS_BINARY = 2, EB_WS_CLOSE = 8, EB_WS_PING = 9, EB_WS_PONG = 10 };

/** Write the header of a final, unmasked frame of @len bytes; returns 2, 4 or 10 (RFC 6455 5.2). */
size_t eb_ws_header(unsigned char out[EB_WS_HEADER_MAX], int opcode, uint64_t len);
/** (Un)mask @len bytes whose first is byte @offset of its frame's payload (RFC 6455 5.3). */
void eb_ws_mask(void *data, size_t len, const unsigned char key[4], uint64_t offset);
/** Sec-WebSocket-Accept for a key (RFC 6455 4.2.2): 28 characters and a NUL. */
void eb_ws_accept(char out[29], const char *key, size_t key_len);
