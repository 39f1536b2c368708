/* text.h - what bytes are: UTF-8, Base64 (RFC 4648 section 4 and 5), CRC32C (RFC 3720 B.4). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Exactly the well-formed UTF-8 of Unicode 15 table 3-7 (no surrogates, no overlong forms). U+0000 is fine. */
bool eb_utf8_valid(const char *text, size_t len);

/** Length of the padded Base64 of @len bytes. */
size_t eb_base64_length(size_t len);
/** Encode; @out has room for eb_base64_length(len). Returns what was written. */
size_t eb_base64_encode(char *out, const void *data, size_t len);
/** Decode strictly: padded, no white space, no bits left over. @out may be @text. Returns the length or -1. */
ptrdiff_t eb_base64_decode(void *out, const char *text, size_t len);
/** The URL alphabet, unpadded (subprotocol `bearer.`). @out may be @text. Returns the length or -1. */
ptrdiff_t eb_base64url_decode(void *out, const char *text, size_t len);

/** CRC32C continued from @crc (start with 0). */
uint32_t eb_crc32c(uint32_t crc, const void *data, size_t len);
