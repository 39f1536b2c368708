/* stalls.h - the longest waits for an answer, and what the machine did meanwhile. Of one loop, on its thread. */
#ifndef STALLS_H
#define STALLS_H

#include <stdint.h>
#include <stdio.h>

struct stalls;

struct stalls *stalls_new(void);
/* Called often: looks at /proc/stat every five milliseconds. Times are now_ns()'s. */
void stalls_sample(struct stalls *stalls, uint64_t now);
/* Something left that much behind its time. */
void stalls_late(struct stalls *stalls, uint64_t late);
/* What was due at from was answered now. */
void stalls_wait(struct stalls *stalls, uint64_t from, uint64_t now);
/*
 * Ends it: ,"own_max_us":…,"own_late_us":… of the longest stall in which no host took the cores (if there was none: of the
 * longest wait that was no stall), "aside_s" of those in which it did, in all, and ,"stalls":[…], the longest first, at_s
 * seconds behind start.
 */
void stalls_print(struct stalls *stalls, uint64_t start, FILE *out);

#endif
