/*
 * event_json.h - events as JSON: reading what a publisher sends, writing what a subscriber gets (PROTOCOL 2).
 */
#pragma once

#include "common/event.h"
#include "common/json.h"

struct eb_event_limits {
    size_t max_payload;
    unsigned max_headers;
};

/* A draft with the memory that it borrows from. Reusable; _finish frees. */
struct eb_draft_memory {
    struct eb_headers headers;
    struct eb_buf payload; /* decoded base64 */
};
void eb_draft_memory_init(struct eb_draft_memory *memory);
void eb_draft_memory_finish(struct eb_draft_memory *memory);

/**
 * Read the members of `data` (2.1) at token @obj into @draft: topic, payload, payload_encoding,
 * content_type, headers, message_id, expected_last_seq, deliver_at, delay and, if @with_ttl, ttl. Checks kinds, sizes, topic and id, so that what
 * comes out may be stored; a '$' topic is EB_FORBIDDEN, an absent ttl EB_TTL_UNSET.
 * The draft borrows from @json and @memory. 0, or -1 with @err.
 */
int eb_draft_from_json(struct eb_draft *draft, struct eb_draft_memory *memory, struct eb_json *json,
                       uint32_t obj, bool with_ttl, const struct eb_event_limits *limits,
                       struct eb_error *err);
#define EB_REQUEST_ID_MAX 128 /* bytes of a request's id that is a string (2.1) */

/* A publish of one event, as eb_publish_scan reads it. All pointers are into its text. */
struct eb_publish_scan {
    const char *id; /* JSON text, as it came */
    size_t id_len;  /* 0: none */
    struct eb_draft draft;
};
/**
 * Read a publish (2.1) of the usual kind: no escapes, no headers, no member twice or unknown, a message id that is
 * a UUID. True: it is well-formed, and @ret what the JSON reader and eb_draft_from_json make of it, save that
 * eb_draft_check is left to the caller. False says nothing: read it with them.
 */
bool eb_publish_scan(struct eb_publish_scan *ret, const char *text, size_t len);
/** The ttl member at @tok (0 = absent → EB_TTL_UNSET); negative or not an integer: EB_INVALID_REQUEST. */
int eb_ttl_from_json(int64_t *ret, const struct eb_json *json, uint32_t tok, struct eb_error *err);
/** Checks every draft goes through, however it came (topic, '$', sizes, content type). 0 or -1 with @err. */
int eb_draft_check(const struct eb_draft *draft, const struct eb_event_limits *limits,
                   struct eb_error *err);

struct eb_event_json_style {
    const char *type;    /* "event" to write "type" first, NULL for HTTP */
    const char *pattern; /* a replaying subscription's pattern beside it, or NULL */
    bool payload_array;  /* older client: bytes that are not UTF-8 as an array of numbers */
    /* of one that waits until it is due, in place of seq and timestamp, which it has not yet; else 0 */
    int64_t deliver_at, scheduled_at;
};
/** Append the event of 2.2 as one JSON object on one line. */
void eb_event_write_json(struct eb_buf *out, const struct eb_event *event,
                         const struct eb_event_json_style *style);
