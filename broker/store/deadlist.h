/*
 * deadlist.h - which events are a consumer's dead letters, in memory: what storage = memory keeps of state.h.
 *
 * A change can be taken back until the next eb_deadlist_begin. Not thread-safe: guarded by the memory engine's lock.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct eb_dead {
    uint64_t consumer, seq;
};
struct eb_deadlist_change {
    struct eb_dead dead;
    int added; /* else dropped */
};
struct eb_deadlist {
    struct eb_dead *list; /* by consumer, then seq */
    size_t count, cap;
    struct eb_deadlist_change *changes;
    size_t change_count, change_cap;
};

void eb_deadlist_finish(struct eb_deadlist *dead);
void eb_deadlist_begin(struct eb_deadlist *dead);
void eb_deadlist_undo(struct eb_deadlist *dead);
/** 0 or -ENOMEM; what is there already, or is not there, is fine. */
int eb_deadlist_add(struct eb_deadlist *dead, uint64_t consumer, uint64_t seq);
int eb_deadlist_drop(struct eb_deadlist *dead, uint64_t consumer, uint64_t seq);
int eb_deadlist_clear(struct eb_deadlist *dead, uint64_t consumer);
/** Seqs above @after, rising: how many (<= max). */
size_t eb_deadlist_read(const struct eb_deadlist *dead, uint64_t consumer, uint64_t after,
                        uint64_t *ret, size_t max);
