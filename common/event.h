/*
 * event.h - one event (PROTOCOL 1), from the publisher's draft to the shared, immutable thing.
 *
 * A draft borrows everything it points to and lives on a stack. An event is one allocation that
 * holds its own bytes. It is written by the thread that made it until it is submitted to the
 * store, by the committing thread until its commit (seq, timestamp), and by nobody afterwards.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

#define EB_CONTENT_TYPE_DEFAULT "text/plain"
#define EB_CONTENT_TYPE_MAX     255
#define EB_HEADERS_MAX_COUNT    64
#define EB_HEADERS_MAX_BYTES    (16 * 1024)
#define EB_TTL_MAX              (((int64_t)1 << 53) - 1) /* timestamp + ttl in ms still fits int64 */
#define EB_TTL_UNSET            INT64_MIN                /* draft only: default_ttl applies */
#define EB_SEQ_MAX              ((uint64_t)1 << 53)      /* seqs stay below it */

/* The encodings of a delivery that are shared by all receivers; made once, on first need. */
enum eb_encoding {
    EB_ENC_WS_JSON, /* a whole WebSocket text frame, header and all */
    EB_ENC_WS_LEGACY, /* the same for the older client (PROTOCOL 2.5): differs only where the payload is not UTF-8 */
    EB_ENC_WS_BINARY,
    EB_ENC_SSE, /* without epoch in the id */
    EB_ENC_COUNT
};

struct eb_event {
    atomic_uint
        refs; /* maker, its operation in the store, each page, queue entry or callback that holds it */
    uint32_t topic_id; /* store's own, 0 = unknown */
    uint64_t seq;      /* 0 until the store has given it */
    int64_t timestamp; /* ms since 1970, 0 until the store has given it */
    int64_t ttl;       /* seconds, 0 = no expiry */
    uint8_t id[16];
    uint32_t payload_len;
    uint32_t headers_len; /* JSON object text, canonical compact form; 0 = none */
    uint8_t topic_len;
    uint8_t content_type_len;
    bool payload_utf8; /* payload is valid UTF-8: computed once, where the event is made */
    bool make_id;      /* made without an id: the store makes it, with the seq */
    uint32_t slab_at;  /* how far behind the beginning of its slab; 0: it has memory of its own */
    const char *topic; /* NUL behind each text for convenience of logs; lengths rule */
    const char *content_type;
    const char *headers;
    const char *payload;
    _Atomic(struct eb_frame *) frames[EB_ENC_COUNT]; /* one reference each */
    char data[];
};

/* What a publisher asked for, checked by nobody yet. All pointers are borrowed. */
struct eb_draft {
    const char *topic;
    size_t topic_len;
    const char *payload;
    size_t payload_len;
    bool payload_utf8;        /* known to be valid UTF-8 (false: it is looked at) */
    const char *content_type; /* NULL: text/plain */
    size_t content_type_len;
    const char *headers; /* JSON object text made by eb_headers_* (canonical), NULL: none */
    size_t headers_len;
    int64_t ttl; /* EB_TTL_UNSET: default */
    bool has_expected;
    uint64_t expected;     /* with has_expected: stored only if this is its topic's last seq */
    int64_t deliver_at_ms; /* wall clock; 0: now */
    bool has_id;
    uint8_t id[16];
};

struct eb_event *
eb_event_create(const struct eb_draft *draft); /* copies; NULL when out of memory; seq 0, refs 1 */
/**
 * The same in the memory of @old, an event that its caller gives up (NULL: none), when nobody else has it and it is about
 * as large. @old is gone in any case. By the thread that made @old, or memory goes from one thread's arena to another's.
 */
struct eb_event *eb_event_create_over(struct eb_event *old, const struct eb_draft *draft);
/**
 * The same in memory that many share which are made by one thread and given up together, as a page's are: *slab (NULL: there
 * is none yet) is that thread's. As long as one of them lives the memory of all does. Events that are large get their own.
 */
struct eb_slab;
struct eb_event *eb_event_create_in(struct eb_slab **slab, const struct eb_draft *draft);
void eb_slab_drop(struct eb_slab *slab); /* NULL is fine; its events live on */
struct eb_event *eb_event_ref(struct eb_event *event);
void eb_event_unref(struct eb_event *event); /* NULL is fine */
/** Past its ttl at @now_ms (PROTOCOL 1)? */
bool eb_event_expired(const struct eb_event *event, int64_t now_ms);
/** What an event counts against queue and log bounds: its bytes and a fixed part. */
size_t eb_event_size(const struct eb_event *event);
/**
 * Put @frame into the event's cache for @enc unless another thread was first; returns the cached one
 * with a reference for the caller, and takes over the caller's reference of @frame.
 */
struct eb_frame *eb_event_cache_frame(struct eb_event *event, enum eb_encoding enc,
                                      struct eb_frame *frame);
/** The cached frame with a reference for the caller, or NULL. */
struct eb_frame *eb_event_cached(struct eb_event *event, enum eb_encoding enc);

/**
 * A publisher's message id: a UUID in any usual form is taken as it is; any other string of 1 to
 * 255 bytes of UTF-8 becomes its UUIDv5 and is to be kept in the header `message-id`.
 * @ret_foreign says that it was such a string. -1 with EB_INVALID_MESSAGE_ID otherwise.
 */
int eb_message_id_parse(uint8_t ret_id[16], bool *ret_foreign, const char *text, size_t len,
                        struct eb_error *err);

/* ---- headers: collected one by one, written as canonical JSON ---- */

struct eb_header_entry {
    size_t at; /* in eb_headers.raw: the name, then the value, unescaped */
    uint32_t name_len, value_len;
    uint32_t hash;
};

struct eb_headers {
    struct eb_buf buf; /* the text, once asked for */
    struct eb_buf raw; /* the bytes of the entries, and of what they replaced */
    unsigned entries;  /* in the order of their first appearance */
    unsigned count;    /* those that count against the limits */
    size_t bytes;      /* names and values that count against the limits */
    size_t live;       /* bytes of raw in use */
    unsigned max_count;
    struct eb_header_entry entry[EB_HEADERS_MAX_COUNT + 1]; /* one more: message-id */
};

/** @max_count: 0 or more than EB_HEADERS_MAX_COUNT mean that. */
void eb_headers_init(struct eb_headers *headers, unsigned max_count);
/** Empty again, memory kept. */
void eb_headers_reset(struct eb_headers *headers, unsigned max_count);
void eb_headers_finish(struct eb_headers *headers);
/**
 * Add one; the same name again replaces (the last counts). A publisher's own "message-id" is left
 * out (it is the broker's). Name: 1 or more bytes of UTF-8; value: UTF-8. -1 with EB_INVALID_REQUEST
 * (not UTF-8, empty name) or EB_LIMIT_EXCEEDED (count, 16 KiB).
 */
int eb_headers_add(struct eb_headers *headers, const char *name, size_t name_len, const char *value,
                   size_t value_len, struct eb_error *err);
/**
 * The same without the check of the 16 KiB, for a source where a later member may still replace this one
 * (JSON); eb_headers_check at the end.
 */
int eb_headers_put(struct eb_headers *headers, const char *name, size_t name_len, const char *value,
                   size_t value_len, struct eb_error *err);
int eb_headers_check(const struct eb_headers *headers, struct eb_error *err);
/** Set the broker's own header `message-id`. Does not count. -1 when out of memory. */
int eb_headers_set_message_id(struct eb_headers *headers, const char *value, size_t len);
/**
 * The text; it lives until the next call with @headers. *ret_len 0 and NULL when there is none, or out of
 * memory (then eb_buf_failed(&headers->buf)).
 */
const char *eb_headers_text(struct eb_headers *headers, size_t *ret_len);
/** Value of @name in canonical header text, appended unescaped to @out; false if absent. */
bool eb_headers_get(const char *headers, size_t len, const char *name, struct eb_buf *out);
