/*
 * reconnect.c - how long to wait before the next try.
 *
 * The wait doubles from the first to the longest. Jitter spreads the clients of a broker that came back. Only a
 * connection that stood for a while brings back the short waits: a broker that accepts and hangs up at once
 * would be called in a tight loop otherwise.
 */
#include "client/internal.h"

#define STEADY_MS 5000

void eb_backoff_init(struct eb_backoff *backoff, int64_t first, int64_t max)
{
    *backoff = (struct eb_backoff){.first = first, .max = max, .next = first};
}

int64_t eb_backoff_wait(struct eb_backoff *backoff, uint64_t random)
{
    int64_t wait = backoff->next, quarter = wait / 4;

    backoff->next = wait > backoff->max / 2 ? backoff->max : wait * 2;
    if (quarter > 0)
        wait += (int64_t)(random % (uint64_t)(2 * quarter + 1)) - quarter;
    return wait;
}

void eb_backoff_connected(struct eb_backoff *backoff, int64_t lived)
{
    backoff->failures = 0;
    if (lived >= STEADY_MS || lived >= backoff->max)
        backoff->next = backoff->first;
}
