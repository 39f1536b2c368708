/*
 * buf.h - a growing byte buffer, and a frame: shared, immutable, reference-counted bytes.
 *
 * A buffer that ran out of memory turns `failed` and ignores what is appended afterwards; it is
 * asked once at the end (eb_buf_failed), not at every append.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct eb_buf {
    char *data;
    size_t len, cap;
    bool failed;
};

#define EB_BUF_INIT                                                                                \
    {                                                                                              \
        0                                                                                          \
    }

void eb_buf_finish(struct eb_buf *buf); /* frees; the buffer is empty and usable again */
/** Make room for @more bytes and return where they go (then add to ->len); NULL when out of memory. */
char *eb_buf_reserve(struct eb_buf *buf, size_t more);
void eb_buf_add(struct eb_buf *buf, const void *data, size_t len);
void eb_buf_str(struct eb_buf *buf, const char *text);
void eb_buf_printf(struct eb_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline bool eb_buf_failed(const struct eb_buf *buf)
{
    return buf->failed;
}

struct eb_event;

/* Bytes that many queues may hold at once. Immutable once a second holder has it. */
struct eb_frame {
    atomic_uint refs; /* one per holder: a queue entry, an event's cache of encodings, the maker */
    uint32_t len;
    uint32_t cap;    /* answers only: room behind len while one queue alone holds it */
    uint32_t events; /* of a bundle: how many stand in it, see eb_frame_seqs; else 0 */
    struct eb_event
        *event; /* embedded subscribers: the event itself, one reference held; else NULL */
    unsigned char data[];
};

/** A frame with room for @cap bytes and len 0, one reference; NULL when out of memory. */
struct eb_frame *eb_frame_create(size_t cap);
/**
 * The frame that nobody else holds yet (NULL: a new one) with room for @more bytes behind its own; it may have moved.
 * NULL when out of memory: @frame is as it was.
 */
struct eb_frame *eb_frame_reserve(struct eb_frame *frame, size_t more);
struct eb_frame *eb_frame_from(const void *data, size_t len);
/**
 * A bundle, one frame with several events: begin it in an empty buffer with room for about @room bytes, append
 * the events as they go on the wire, end it with their @count seqs. The frame takes the buffer's memory, which is
 * empty afterwards; NULL when memory ran out on the way.
 */
void eb_frame_begin(struct eb_buf *buf, size_t room);
struct eb_frame *eb_frame_end(struct eb_buf *buf, const uint64_t *seqs, uint32_t count);
/** Bytes appended since eb_frame_begin. */
size_t eb_frame_begun(const struct eb_buf *buf);
/** The seqs of a bundle's events, ->events of them. */
const uint64_t *eb_frame_seqs(const struct eb_frame *frame);
struct eb_frame *eb_frame_ref(struct eb_frame *frame);
void eb_frame_unref(struct eb_frame *frame); /* NULL is fine */
