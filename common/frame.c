/* frame.c - reference-counted bytes that many queues hold at once (declared in buf.h). */
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/event.h"

struct eb_frame *eb_frame_create(size_t cap)
{
    if (cap > UINT32_MAX)
        return NULL;
    struct eb_frame *frame = malloc(sizeof(*frame) + cap);
    if (!frame)
        return NULL;
    atomic_init(&frame->refs, 1);
    frame->len = 0;
    frame->cap = (uint32_t)cap;
    frame->event = NULL;
    frame->events = 0;
    return frame;
}

struct eb_frame *eb_frame_reserve(struct eb_frame *frame, size_t more)
{
    if (!frame)
        return eb_frame_create(more);
    if (frame->cap - frame->len >= more)
        return frame;
    size_t need = frame->len + more, cap = 2 * (size_t)frame->cap;
    if (cap < need)
        cap = need;
    if (cap > UINT32_MAX)
        return NULL;
    frame = realloc(frame, sizeof(*frame) + cap);
    if (frame)
        frame->cap = (uint32_t)cap;
    return frame;
}

struct eb_frame *eb_frame_from(const void *data, size_t len)
{
    struct eb_frame *frame = eb_frame_create(len);

    if (frame && len > 0) {
        memcpy(frame->data, data, len);
        frame->len = (uint32_t)len;
    }
    return frame;
}

/* ---- bundles: [frame][bytes][padding][seqs], all in one piece ---- */

void eb_frame_begin(struct eb_buf *buf, size_t room)
{
    if (eb_buf_reserve(buf, sizeof(struct eb_frame) + room))
        buf->len = sizeof(struct eb_frame);
}

size_t eb_frame_begun(const struct eb_buf *buf)
{
    return buf->failed ? 0 : buf->len - sizeof(struct eb_frame);
}

static size_t seqs_at(size_t len)
{
    return (len + sizeof(uint64_t) - 1) / sizeof(uint64_t) * sizeof(uint64_t);
}

struct eb_frame *eb_frame_end(struct eb_buf *buf, const uint64_t *seqs, uint32_t count)
{
    size_t len = eb_frame_begun(buf), at = seqs_at(len), room = at + count * sizeof(*seqs);

    if (!eb_buf_reserve(buf, room - len) || len > UINT32_MAX) {
        eb_buf_finish(buf);
        return NULL;
    }
    struct eb_frame *frame = (struct eb_frame *)(void *)buf->data;
    atomic_init(&frame->refs, 1);
    frame->len = frame->cap = (uint32_t)len;
    frame->event = NULL;
    frame->events = count;
    memcpy(frame->data + at, seqs, count * sizeof(*seqs));
    *buf = (struct eb_buf)EB_BUF_INIT;
    return frame;
}

const uint64_t *eb_frame_seqs(const struct eb_frame *frame)
{
    return (const uint64_t *)(const void *)(frame->data + seqs_at(frame->len));
}

struct eb_frame *eb_frame_ref(struct eb_frame *frame)
{
    atomic_fetch_add_explicit(&frame->refs, 1, memory_order_relaxed);
    return frame;
}

void eb_frame_unref(struct eb_frame *frame)
{
    /* acq_rel: what other holders did with the frame happened before it is freed. */
    if (!frame || atomic_fetch_sub_explicit(&frame->refs, 1, memory_order_acq_rel) != 1)
        return;
    eb_event_unref(frame->event);
    free(frame);
}
