/*
 * dedupe.h - the ids of the last minutes: which seq has this id already?
 *
 * A ring of entries in order of acceptance (its head is the oldest, so that expiry needs no search) and
 * an open hash table of indexes into it. Not thread-safe: it belongs to the holder of the commit lock.
 */
#pragma once

#include <stdint.h>

struct eb_dedupe_entry {
    uint8_t id[16];
    uint64_t seq;
    int64_t timestamp;
};

struct eb_dedupe_slot {
    uint32_t index; /* in the ring, + 1; 0 = empty */
    uint32_t hash;
};

struct eb_dedupe {
    uint64_t key[2]; /* secret of the hash: clients choose the ids */
    struct eb_dedupe_entry *ring;
    struct eb_dedupe_slot *slots; /* 2 * cap */
    uint32_t cap;                 /* of the ring, a power of two */
    uint64_t head, tail;          /* positions that only rise; entry = ring[position & (cap - 1)] */
    uint64_t evicted;             /* dropped while still inside the window */
};

int eb_dedupe_init(struct eb_dedupe *dedupe); /* 0 or -ENOMEM */
void eb_dedupe_finish(struct eb_dedupe *dedupe);
/**
 * The entry with that id, or NULL: then it was added with @seq and @timestamp (not below the last one's).
 * Never fails: without memory to grow the oldest goes early. The result lives until the next call.
 */
const struct eb_dedupe_entry *eb_dedupe_put(struct eb_dedupe *dedupe, const uint8_t id[16],
                                            uint64_t seq, int64_t timestamp);
/** At start: the later entry of an id wins. */
void eb_dedupe_load(struct eb_dedupe *dedupe, const uint8_t id[16], uint64_t seq,
                    int64_t timestamp);
static inline uint64_t eb_dedupe_mark(const struct eb_dedupe *dedupe)
{
    return dedupe->tail;
}
/** Take back all that was put since @mark. */
void eb_dedupe_undo(struct eb_dedupe *dedupe, uint64_t mark);
/** Drop what was accepted at @upto or before. */
void eb_dedupe_expire(struct eb_dedupe *dedupe, int64_t upto);
/** Keep no more than @max; what goes is counted in ->evicted. */
void eb_dedupe_bound(struct eb_dedupe *dedupe, uint64_t max);
static inline uint64_t eb_dedupe_count(const struct eb_dedupe *dedupe)
{
    return dedupe->tail - dedupe->head;
}
/** Timestamp of the oldest; INT64_MIN when there is none. */
int64_t eb_dedupe_oldest(const struct eb_dedupe *dedupe);
