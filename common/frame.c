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
