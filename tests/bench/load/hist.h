/* hist.h - latencies counted in buckets of rising width, each within 1 % of its value (the idea of HdrHistogram). */
#ifndef HIST_H
#define HIST_H

#include <stdint.h>

#define HIST_STEPS   128 /* buckets an octave */
#define HIST_OCTAVES 36  /* 2^42 ns is over an hour */

struct hist {
    uint64_t count, max;
    uint64_t buckets[HIST_OCTAVES * HIST_STEPS];
};

static inline unsigned hist_bucket(uint64_t value)
{
    if (value < HIST_STEPS)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - 7; /* leaves 128 to 255 */
    unsigned bucket = (shift + 1) * HIST_STEPS + (unsigned)(value >> shift) - HIST_STEPS;
    return bucket < HIST_OCTAVES * HIST_STEPS ? bucket : HIST_OCTAVES * HIST_STEPS - 1;
}

static inline void hist_add(struct hist *hist, uint64_t value)
{
    hist->count++;
    hist->buckets[hist_bucket(value)]++;
    if (value > hist->max)
        hist->max = value;
}

void hist_merge(struct hist *into, const struct hist *from);
/* The value that this share of all (0 to 1) does not exceed; 0 when there is none. */
uint64_t hist_at(const struct hist *hist, double share);

#endif
