/* hist.c - merging and reading what hist.h counts. */
#include "hist.h"

void hist_merge(struct hist *into, const struct hist *from)
{
    into->count += from->count;
    if (from->max > into->max)
        into->max = from->max;
    for (unsigned i = 0; i < HIST_OCTAVES * HIST_STEPS; i++)
        into->buckets[i] += from->buckets[i];
}

/* The largest value that falls into a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    unsigned octave = bucket / HIST_STEPS;
    uint64_t step = bucket % HIST_STEPS;

    if (octave == 0)
        return step;
    return ((HIST_STEPS + step + 1) << (octave - 1)) - 1;
}

uint64_t hist_at(const struct hist *hist, double share)
{
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)hist->count + 0.5);

    if (wanted == 0)
        wanted = 1;
    for (unsigned i = 0; i < HIST_OCTAVES * HIST_STEPS && hist->count > 0; i++) {
        seen += hist->buckets[i];
        if (seen >= wanted)
            return bucket_top(i) < hist->max ? bucket_top(i) : hist->max;
    }
    return 0;
}
