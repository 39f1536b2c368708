/*
 * uuid.h - message ids: UUIDs as 16 bytes (RFC 9562).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EB_UUID_TEXT 36 /* without the NUL */

/** Write the lower-case hyphenated form and a NUL (37 bytes). */
void eb_uuid_format(char out[EB_UUID_TEXT + 1], const uint8_t id[16]);
/** Any usual form: any case, with or without hyphens, in braces, after "urn:uuid:". False otherwise. */
bool eb_uuid_parse(uint8_t out[16], const char *text, size_t len);
/** A UUIDv7 from now; those of one process never repeat and rise, also when the clock jumps back. Threads: any. */
void eb_uuid_v7(uint8_t out[16]);
void eb_uuid_v4(uint8_t out[16]);
/** UUIDv5 of @name in the broker's fixed namespace (docs/protocol.md has vectors). */
void eb_uuid_v5(uint8_t out[16], const void *name, size_t len);
/**
 * The fixed namespace, 39f5ce6a-4ead-540a-9b0b-139eb792e64f: the UUIDv5 of "eventbus" in RFC 9562's
 * DNS namespace, so that anybody can recompute it.
 */
extern const uint8_t eb_uuid_namespace[16];
