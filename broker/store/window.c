/* window.c - the run of seqs inside the dedupe window (window.h). */
#include "broker/store/window.h"

#include <stddef.h>

#define STEPS 512 /* of a window: half of the runs there are room for, as it may become longer */

void eb_window_set(struct eb_window *window, int64_t window_ms)
{
    window->step = window_ms / STEPS;
}

static struct eb_window_run *at(struct eb_window *window, unsigned i)
{
    return &window->runs[(window->head + i) % EB_WINDOW_RUNS];
}

static void join(struct eb_window_run *run, const struct eb_window_run *next)
{
    run->last = next->last;
    run->last_ts = next->last_ts;
}

/* Two by two they become one: the times are half as fine from now on. */
static void thin(struct eb_window *window)
{
    for (unsigned i = 0; i < EB_WINDOW_RUNS / 2; i++) {
        struct eb_window_run run = *at(window, 2 * i);
        join(&run, at(window, 2 * i + 1));
        *at(window, i) = run;
    }
    window->count = EB_WINDOW_RUNS / 2;
}

void eb_window_add(struct eb_window *window, const struct eb_window_run *run)
{
    struct eb_window_run *newest = window->count ? at(window, window->count - 1) : NULL;
    if (run->last <= window->last || run->last < run->first)
        return;
    if (!newest && run->first - 1 > window->floor)
        window->floor = run->first - 1; /* what is below was never told, or is out */
    window->last = run->last;
    if (newest && run->last_ts - newest->first_ts <= window->step) {
        join(newest, run);
        return;
    }
    if (window->count == EB_WINDOW_RUNS)
        thin(window);
    *at(window, window->count++) = *run;
}

static void drop_oldest(struct eb_window *window)
{
    window->head = (window->head + 1) % EB_WINDOW_RUNS;
    window->count--;
}

void eb_window_expire(struct eb_window *window, int64_t upto)
{
    while (window->count && at(window, 0)->last_ts <= upto) {
        if (at(window, 0)->last > window->floor)
            window->floor = at(window, 0)->last;
        drop_oldest(window);
    }
}

void eb_window_bound(struct eb_window *window, uint64_t max)
{
    if (window->last > max && window->last - max > window->bound)
        window->bound = window->last - max;
    if (window->bound <= window->floor)
        return;
    window->evicted += window->bound - window->floor;
    window->floor = window->bound;
    while (window->count && at(window, 0)->last <= window->floor)
        drop_oldest(window);
}

int64_t eb_window_oldest(const struct eb_window *window)
{
    return window->count ? window->runs[window->head].first_ts : INT64_MIN;
}

struct eb_window_run eb_window_at(const struct eb_window *window, unsigned i)
{
    struct eb_window_run run = window->runs[(window->head + i) % EB_WINDOW_RUNS];
    if (run.first <= window->floor)
        run.first = window->floor + 1;
    return run;
}
