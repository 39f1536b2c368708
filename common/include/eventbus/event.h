/*
 * <eventbus/event.h> - what the client library and the embeddable broker have in common: one event as a
 * program sees it, and the error codes.
 */
#ifndef EVENTBUS_EVENT_H
#define EVENTBUS_EVENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define EB_API __attribute__((visibility("default")))
#else
#define EB_API
#endif

/**
 * One event as it is handed to a program. Everything it points to belongs to the library and lives as long
 * as the call (or object) that gave it says. Texts end with a NUL that their length does not count.
 */
typedef struct eb_message {
    uint64_t seq;           /* position in the log, from 1 */
    const char *message_id; /* UUID, 36 characters, lower case */
    const char *topic;
    size_t topic_len;
    const void
        *payload; /* any bytes; not NULL, also when payload_len is 0; a NUL stands behind it */
    size_t payload_len;
    int64_t timestamp_ms; /* when the broker accepted it: milliseconds since 1970 UTC */
    int64_t ttl_s;        /* seconds from timestamp_ms; 0: no expiry */
    const char *content_type;
    const char *headers; /* JSON object of strings (RFC 8259), or NULL: none */
    size_t headers_len;
} eb_message;

#ifdef __cplusplus
}
#endif
#endif
