/*
 * json.h - JSON exactly as RFC 8259 and PROTOCOL 2 say: a strict reader and a writer on eb_buf.
 *
 * Why not json-c on this path: it clamps integers beyond 64 bits, lets unpaired surrogates through
 * and cuts member names at U+0000 (decisions/0002). json-c writes what is not on the hot path.
 *
 * The reader validates a whole text once (UTF-8, grammar, depth, surrogates) into a flat array of
 * tokens; strings stay escaped in the text until they are asked for.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

#define EB_JSON_DEPTH 32

enum eb_json_type {
    EB_JSON_NULL,
    EB_JSON_FALSE,
    EB_JSON_TRUE,
    EB_JSON_NUMBER,
    EB_JSON_STRING,
    EB_JSON_ARRAY,
    EB_JSON_OBJECT
};

/* Tokens in document order; a value's descendants follow it. In an object: name, value, name, value … */
struct eb_json_token {
    uint32_t start, len; /* in the text; strings without their quotes */
    uint32_t next;       /* index of the token behind this value and all inside it */
    uint8_t type;        /* enum eb_json_type */
    bool escaped;        /* string with a backslash: eb_json_string() must unescape */
};

struct eb_json {
    const char *text;
    size_t len;
    struct eb_json_token *tokens; /* owned; kept for reuse by the next parse */
    uint32_t count, cap;
    struct eb_buf scratch; /* unescaped strings; stable until the next parse (allocated up front) */
};

void eb_json_init(struct eb_json *json);
void eb_json_finish(struct eb_json *json);
/** Read @text (borrowed until the next parse); token 0 is the value. -1 with EB_INVALID_JSON and the byte where. */
int eb_json_parse(struct eb_json *json, const char *text, size_t len, struct eb_error *err);
/** Index of the value of member @name of object @obj: the last one given; 0 if absent *or null*. */
uint32_t eb_json_member(const struct eb_json *json, uint32_t obj, const char *name);
/** The same, but tells null from absent: 0 only if absent. */
uint32_t eb_json_member_or_null(const struct eb_json *json, uint32_t obj, const char *name);
/** Is the string (or member name) @tok, unescaped, exactly these bytes? For walking an object's members oneself. */
bool eb_json_equals(const struct eb_json *json, uint32_t tok, const char *text, size_t len);
/** Name of the object's last member as written (PROTOCOL 2.5: `type` is last), or NULL for {}. Unescaped. */
const char *eb_json_last_name(struct eb_json *json, uint32_t obj, size_t *ret_len);
/** The string's bytes, unescaped (may hold NUL). Lives until the next parse. @tok must be a string. */
const char *eb_json_string(struct eb_json *json, uint32_t tok, size_t *ret_len);
/** An integer within int64 written without fraction or exponent (-0 is 0): true. Anything else: false. */
bool eb_json_int64(const struct eb_json *json, uint32_t tok, int64_t *ret);

/* ---- writing ---- */

/** Append @text as a JSON string with quotes; @text must be valid UTF-8. Escapes only what RFC 8259 demands. */
void eb_json_write_string(struct eb_buf *out, const char *text, size_t len);
/** The digits at @at, at most 20 of them; returns the place behind. */
char *eb_json_put_u64(char *at, uint64_t value);
void eb_json_write_u64(struct eb_buf *out, uint64_t value);
void eb_json_write_i64(struct eb_buf *out, int64_t value);
