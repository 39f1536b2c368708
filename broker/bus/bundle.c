/*
 * bundle.c - several consecutive events of a stream as one frame, so that what a delivery costs (a place in the
 * queue, its lock, a reference, an entry of the sendmsg) is paid once for all of them.
 *
 * (U1) A bundle is at most a quarter of what a queue may hold, and at most EVENTS and BYTES: so a queue's bounds
 *      are met as finely as without, and an empty queue takes any bundle.
 * (U2) It knows the seqs in it: they are counted and marked one by one (eb_frame_seqs).
 */
#include <stdlib.h>

#include "broker/bus/internal.h"

#define EVENTS 64
#define BYTES  (64 * 1024)

struct eb_bundle_bounds eb_bundle_bounds(const struct eb_session *session)
{
    const struct eb_bus_config *config = &session->bus->config;
    size_t events = config->queue_events / 4, bytes = config->queue_bytes / 4;

    if (session->ops->events == NULL || events < 1)
        events = 1;
    return (struct eb_bundle_bounds){
        .events = events < EVENTS ? (uint32_t)events : EVENTS,
        .bytes = bytes < BYTES ? bytes : BYTES,
    };
}

/* How many come together by their sizes alone; what encoding makes of them the encoder watches itself. */
static uint32_t together(struct eb_event *const *events, uint32_t count,
                         const struct eb_bundle_bounds *bounds, size_t *ret_bytes)
{
    uint32_t n = 0;
    *ret_bytes = 0;
    while (n < count && n < bounds->events) {
        size_t size = eb_event_size(events[n]);
        if (n > 0 && *ret_bytes + size > bounds->bytes)
            break;
        *ret_bytes += size;
        n++;
    }
    return n;
}

struct eb_frame *eb_bundle_make(struct eb_session *session, struct eb_event *const *events,
                                uint32_t count, const char *pattern,
                                const struct eb_bundle_bounds *bounds, uint32_t *ret_count)
{
    struct eb_buf buf = EB_BUF_INIT;
    uint64_t seqs[EVENTS];
    size_t bytes;
    uint32_t n = together(events, count, bounds, &bytes);

    *ret_count = n;
    if (n == 1)
        return session->ops->event(session, events[0], pattern);
    eb_frame_begin(&buf, bytes + n * (bytes / n / 4 + 160));
    n = (uint32_t)session->ops->events(session, events, n, pattern,
                                       sizeof(struct eb_frame) + bounds->bytes, &buf);
    for (uint32_t i = 0; i < n; i++)
        seqs[i] = events[i]->seq;
    *ret_count = n;
    return eb_frame_end(&buf, seqs, n);
}
