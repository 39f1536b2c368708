/*
 * window.h - which seqs are inside the dedupe window: how many ids are remembered, and how old the oldest is.
 *
 * Each event has an id, the publisher's (dedupe.h) or one that was made for it (made.h); so what is remembered is a run
 * of seqs up to the last, cut off by age and by number. Its times are kept for stretches of the run, not for each
 * seq: the number cuts exactly; by age a stretch goes when its last one does. Whether one id has expired is judged by its
 * own timestamp, not here.
 *
 * Not thread-safe: it belongs to the holder of the commit lock.
 */
#pragma once

#include <stdint.h>

#define EB_WINDOW_RUNS 1024

struct eb_window_run {
    uint64_t first, last;
    int64_t first_ts, last_ts;
};

struct eb_window {
    struct eb_window_run runs[EB_WINDOW_RUNS]; /* a ring, oldest at head */
    unsigned head, count;
    int64_t step;     /* ms that a run may span */
    uint64_t last;    /* the newest seq that was told */
    uint64_t floor;   /* seqs up to it are out, by age or by number */
    uint64_t bound;   /* the same by number alone */
    uint64_t evicted; /* went by number while inside the window */
};

/** The window is so long from now on. */
void eb_window_set(struct eb_window *window, int64_t window_ms);
/** More seqs, in order; those up to the last one told are passed over. */
void eb_window_add(struct eb_window *window, const struct eb_window_run *run);
/** What was accepted at @upto or before goes. */
void eb_window_expire(struct eb_window *window, int64_t upto);
/** No more than @max stay; what goes is counted in ->evicted. */
void eb_window_bound(struct eb_window *window, uint64_t max);
static inline uint64_t eb_window_count(const struct eb_window *window)
{
    return window->last - window->floor;
}
/** Timestamp of the oldest; INT64_MIN when there is none. */
int64_t eb_window_oldest(const struct eb_window *window);
/** The @i-th run, 0 <= @i < ->count, of what is inside. */
struct eb_window_run eb_window_at(const struct eb_window *window, unsigned i);
