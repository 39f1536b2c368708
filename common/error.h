/*
 * error.h - the error codes of the wire (PROTOCOL 2.2) and how a refusal is carried to whom it concerns.
 *
 * Inside the house functions return 0 or a negative errno. What a *client* did wrong, or must be
 * told, is a `struct eb_error`: one of the protocol's codes and a sentence that says what was wrong
 * and what would be right.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(symbol, name on the wire, HTTP status, title for problem+json) */
#define EB_CODES(X)                                                                                \
    X(EB_OK, "ok", 200, "OK")                                                                      \
    X(EB_INVALID_JSON, "invalid_json", 400, "Invalid JSON")                                        \
    X(EB_INVALID_REQUEST, "invalid_request", 400, "Invalid request")                               \
    X(EB_INVALID_TOPIC, "invalid_topic", 400, "Invalid topic")                                     \
    X(EB_INVALID_PATTERN, "invalid_pattern", 400, "Invalid pattern")                               \
    X(EB_INVALID_MESSAGE_ID, "invalid_message_id", 400, "Invalid message id")                      \
    X(EB_UNAUTHORIZED, "unauthorized", 401, "Unauthorized")                                        \
    X(EB_FORBIDDEN, "forbidden", 403, "Forbidden")                                                 \
    X(EB_NOT_FOUND, "not_found", 404, "Not found")                                                 \
    X(EB_METHOD_NOT_ALLOWED, "method_not_allowed", 405, "Method not allowed")                      \
    X(EB_CONFLICT, "conflict", 409, "Conflict")                                                    \
    X(EB_PAYLOAD_TOO_LARGE, "payload_too_large", 413, "Payload too large")                         \
    X(EB_UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", 415, "Unsupported media type")          \
    X(EB_MESSAGE_ID_REUSED, "message_id_reused", 422, "Message id reused")                         \
    X(EB_RATE_LIMITED, "rate_limited", 429, "Rate limited")                                        \
    X(EB_LIMIT_EXCEEDED, "limit_exceeded", 429, "Limit exceeded")                                  \
    X(EB_INTERNAL, "internal", 500, "Internal error")                                              \
    X(EB_UNAVAILABLE, "unavailable", 503, "Unavailable")                                           \
    X(EB_TIMEOUT, "timeout", 504, "Timeout")                                                       \
    X(EB_STORAGE_FULL, "storage_full", 507, "Storage full")

enum eb_code {
#define X(sym, name, http, title) sym,
    EB_CODES(X)
#undef X
        EB_CODE_COUNT
};

struct eb_error {
    enum eb_code code;
    int index; /* the refused member of a batch, from 0; -1: not a batch */
    bool
        has_last_seq; /* EB_CONFLICT of an expected_last_seq: which one it is; eb_fail takes it back */
    uint64_t last_seq;
    char message[240]; /* UTF-8, one sentence; bad input is quoted escaped and cut */
};

const char *eb_code_name(enum eb_code code);
const char *eb_code_title(enum eb_code code);
int eb_code_http(enum eb_code code);
/** The code with that wire name; EB_INTERNAL if a newer broker speaks of one we do not know. */
enum eb_code eb_code_from_name(const char *name, size_t len);

/** Set code and message (index becomes -1). Returns -1, so that a check may `return eb_fail(...)`. */
int eb_fail(struct eb_error *err, enum eb_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/**
 * Quote at most 64 bytes of untrusted text for a message: control characters and bytes that are not
 * UTF-8 become \xNN, a cut is shown by "...". The result lives in @buf. Never splits a code point.
 */
const char *eb_quote(char *buf, size_t size, const char *text, size_t len);
