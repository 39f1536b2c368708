/*
 * dedupe.h - the ids that publishers gave in the last minutes: which seq has this id already? Those that the broker
 * makes are not here (made.h).
 *
 * A queue of entries in order of acceptance (its head is the oldest, so that expiry needs no search) and an open
 * hash table that finds them. Not thread-safe: it belongs to the holder of the commit lock.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define EB_DEDUPE_SHARDS     256
#define EB_DEDUPE_CHUNK_BITS 10

struct eb_dedupe_entry {
    uint8_t id[16];
    uint64_t seq;
    int64_t timestamp;
};

struct eb_dedupe_slot {
    uint32_t index; /* low half of the entry's position */
    uint32_t hash;  /* 0: empty */
};

/* A table of its own for each value of the hash's first byte: it grows by itself, in microseconds. */
struct eb_dedupe_shard {
    struct eb_dedupe_slot *slots;
    uint32_t cap, count; /* cap: a power of two, at least twice the count if there is memory */
};

struct eb_dedupe {
    uint64_t key[2]; /* secret of the hash: clients choose the ids */
    struct eb_dedupe_shard shards[EB_DEDUPE_SHARDS];
    struct eb_dedupe_entry **chunks; /* chunk n is chunks[n & (chunk_cap - 1)] */
    uint32_t chunk_cap;
    uint64_t chunk_begin, chunk_end; /* numbers of those there are */
    struct eb_dedupe_entry *spare;   /* a chunk that was given back last */
    uint64_t head, tail;             /* positions that only rise */
    int64_t expired_upto;
    uint64_t evicted; /* dropped for want of memory */
};

int eb_dedupe_init(struct eb_dedupe *dedupe); /* 0 or -ENOMEM */
void eb_dedupe_finish(struct eb_dedupe *dedupe);
/**
 * The hash of @id. Its slot is asked of the memory meanwhile, so that a put soon after need not wait for it: a
 * million ids lie in 16 MB and more.
 */
uint32_t eb_dedupe_ahead(struct eb_dedupe *dedupe, const uint8_t id[16]);
/**
 * The entry with that id, or NULL: then it was added with @seq and @timestamp (not below the last one's).
 * @hash: eb_dedupe_ahead's. Never fails: without memory to grow the oldest goes early. The result lives until the
 * next call.
 */
const struct eb_dedupe_entry *eb_dedupe_put(struct eb_dedupe *dedupe, const uint8_t id[16],
                                            uint32_t hash, uint64_t seq, int64_t timestamp);
/** At start: in order; the later entry of an id wins. Nothing is found before eb_dedupe_loaded(). */
void eb_dedupe_load(struct eb_dedupe *dedupe, const uint8_t id[16], uint64_t seq,
                    int64_t timestamp);
void eb_dedupe_loaded(struct eb_dedupe *dedupe);
static inline uint64_t eb_dedupe_mark(const struct eb_dedupe *dedupe)
{
    return dedupe->tail;
}
/** Take back all that was put since @mark. */
void eb_dedupe_undo(struct eb_dedupe *dedupe, uint64_t mark);
/**
 * What was accepted at @upto or before is found no more. Its memory is given back by this and the next calls, a
 * bounded number of entries each (millions may expire in one moment).
 */
void eb_dedupe_expire(struct eb_dedupe *dedupe, int64_t upto);
/** Those of seqs up to @upto go, whatever their time; a bounded number at once. */
void eb_dedupe_bound(struct eb_dedupe *dedupe, uint64_t upto);
static inline uint64_t eb_dedupe_count(const struct eb_dedupe *dedupe)
{
    return dedupe->tail - dedupe->head;
}
/** The entries from @position on (dedupe->head is the oldest): *ret_count that lie side by side, >= 1. */
const struct eb_dedupe_entry *eb_dedupe_run(const struct eb_dedupe *dedupe, uint64_t position,
                                            size_t *ret_count);
/** Position of the first entry whose seq is @seq or larger; ->tail when there is none. */
uint64_t eb_dedupe_position(const struct eb_dedupe *dedupe, uint64_t seq);
/** Timestamp of the oldest; INT64_MIN when there is none. */
int64_t eb_dedupe_oldest(const struct eb_dedupe *dedupe);
/** Seq of the oldest; UINT64_MAX when there is none. */
uint64_t eb_dedupe_oldest_seq(const struct eb_dedupe *dedupe);
