/* ws.c - frame headers, masking and the accept key of RFC 6455. */
#include "common/ws.h"

#include <nettle/sha1.h>
#include <string.h>

#include "common/text.h"

#define FINAL 0x80
#define GUID  "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

size_t eb_ws_header(unsigned char out[EB_WS_HEADER_MAX], int opcode, uint64_t len)
{
    out[0] = (unsigned char)(FINAL | opcode);
    if (len < 126) {
        out[1] = (unsigned char)len;
        return 2;
    }
    int bytes = len <= UINT16_MAX ? 2 : 8;
    out[1] = bytes == 2 ? 126 : 127;
    for (int i = 0; i < bytes; i++)
        out[2 + i] = (unsigned char)(len >> (8 * (bytes - 1 - i)));
    return (size_t)(2 + bytes);
}

void eb_ws_mask(void *data, size_t len, const unsigned char key[4], uint64_t offset)
{
    unsigned char *at = data, *end = at + len, turned[8];
    uint64_t mask, word;

    for (unsigned i = 0; i < 8; i++)
        turned[i] = key[(offset + i) & 3];
    memcpy(&mask, turned, 8);
    for (; end - at >= 8; at += 8) {
        memcpy(&word, at, 8);
        word ^= mask;
        memcpy(at, &word, 8);
    }
    for (unsigned i = 0; at < end; i++)
        *at++ ^= turned[i];
}

void eb_ws_accept(char out[29], const char *key, size_t key_len)
{
    struct sha1_ctx sha1;
    uint8_t digest[SHA1_DIGEST_SIZE];

    sha1_init(&sha1);
    sha1_update(&sha1, key_len, (const uint8_t *)key);
    sha1_update(&sha1, strlen(GUID), (const uint8_t *)GUID);
    sha1_digest(&sha1, sizeof(digest), digest);
    out[eb_base64_encode(out, digest, sizeof(digest))] = '\0';
}
