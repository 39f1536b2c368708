/*
 * dedupe.c - the ids that publishers gave in the last minutes (dedupe.h).
 *
 * The writer waits for all that happens here, so nothing is ever moved as a whole: the queue is a list of chunks,
 * and the table one of 256 small ones, each of which doubles in microseconds at a moment of its own.
 *
 * (U1) The queue is in order of acceptance: seqs and timestamps rise from head to tail.
 * (U2) Every entry has one slot that points to it, save one whose id came again later (loaded at start, or after
 *      it had expired): it stays in the queue without a slot until its turn comes.
 * (U3) What was put in a transaction is a run at the tail: undo is popping. Hence nothing is dropped for
 *      the bound before the commit (eb_dedupe_bound comes after it), or undo could not bring it back.
 * (U4) A shard is at most half full: probes stay short. Deletion shifts back, there are no tombstones.
 */
#include "broker/store/dedupe.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "broker/store/sip.h"
#include "common/clock.h"

#define CHUNK       (1u << EB_DEDUPE_CHUNK_BITS)
#define START_SLOTS 16u
#define EXPIRE_STEP 8192u  /* entries of one call: more than a group can bring */
#define BOUND_STEP  65536u /* the same; a batch may be larger than a group */
#define AHEAD       16u    /* slots asked of the memory at once */

/* Ids are the client's choice, the slots they fall into must not be. */
static uint32_t hash_id(const struct eb_dedupe *dedupe, const uint8_t id[16])
{
    uint64_t m[2];
    memcpy(m, id, 16);
    uint32_t hash = (uint32_t)eb_sip16(dedupe->key, m[0], m[1]);
    return hash ? hash : 1; /* 0 is the empty slot */
}

static inline struct eb_dedupe_entry *entry_at(const struct eb_dedupe *dedupe, uint64_t position)
{
    uint64_t chunk = position >> EB_DEDUPE_CHUNK_BITS;
    return &dedupe->chunks[chunk & (dedupe->chunk_cap - 1)][position & (CHUNK - 1)];
}

/* Positions of entries that are there differ by less than 2^32. */
static inline uint64_t position_of(const struct eb_dedupe *dedupe, uint32_t index)
{
    return dedupe->head + (uint32_t)(index - (uint32_t)dedupe->head);
}

static inline struct eb_dedupe_shard *shard_of(struct eb_dedupe *dedupe, uint32_t hash)
{
    return &dedupe->shards[hash >> 24];
}

int eb_dedupe_init(struct eb_dedupe *dedupe)
{
    *dedupe = (struct eb_dedupe){.chunk_cap = 4, .expired_upto = INT64_MIN};
    if (getrandom(dedupe->key, sizeof dedupe->key, 0) != (ssize_t)sizeof dedupe->key) {
        /* No random source so early in a boot: an address and a clock are what is left. */
        dedupe->key[0] = (uint64_t)(uintptr_t)dedupe;
        dedupe->key[1] = (uint64_t)eb_mono_us();
    }
    dedupe->chunks = calloc(dedupe->chunk_cap, sizeof *dedupe->chunks);
    dedupe->spare = malloc(CHUNK * sizeof *dedupe->spare);
    bool whole = dedupe->chunks && dedupe->spare;
    for (unsigned i = 0; i < EB_DEDUPE_SHARDS; i++) {
        dedupe->shards[i].cap = START_SLOTS;
        dedupe->shards[i].slots = calloc(START_SLOTS, sizeof *dedupe->shards[i].slots);
        whole = whole && dedupe->shards[i].slots;
    }
    if (!whole) {
        eb_dedupe_finish(dedupe);
        return -ENOMEM;
    }
    return 0;
}

void eb_dedupe_finish(struct eb_dedupe *dedupe)
{
    for (uint64_t n = dedupe->chunk_begin; n < dedupe->chunk_end; n++)
        free(dedupe->chunks[n & (dedupe->chunk_cap - 1)]);
    for (unsigned i = 0; i < EB_DEDUPE_SHARDS; i++)
        free(dedupe->shards[i].slots);
    free(dedupe->chunks);
    free(dedupe->spare);
    *dedupe = (struct eb_dedupe){0};
}

/* ---- the queue ---- */

static void give_back_chunk(struct eb_dedupe *dedupe)
{
    free(dedupe->spare);
    dedupe->spare = dedupe->chunks[dedupe->chunk_begin & (dedupe->chunk_cap - 1)];
    dedupe->chunk_begin++;
}

/* Room for one more pointer: doubled, each under its number again. */
static bool more_chunks(struct eb_dedupe *dedupe)
{
    struct eb_dedupe_entry **chunks = calloc((size_t)dedupe->chunk_cap * 2, sizeof *chunks);
    if (!chunks)
        return false;
    for (uint64_t n = dedupe->chunk_begin; n < dedupe->chunk_end; n++)
        chunks[n & (dedupe->chunk_cap * 2 - 1)] = dedupe->chunks[n & (dedupe->chunk_cap - 1)];
    free(dedupe->chunks);
    dedupe->chunks = chunks;
    dedupe->chunk_cap *= 2;
    return true;
}

static bool add_chunk(struct eb_dedupe *dedupe)
{
    if (dedupe->chunk_end - dedupe->chunk_begin == dedupe->chunk_cap && !more_chunks(dedupe))
        return false;
    struct eb_dedupe_entry *chunk = dedupe->spare;
    dedupe->spare = NULL;
    if (!chunk)
        chunk = malloc(CHUNK * sizeof *chunk);
    if (!chunk)
        return false;
    dedupe->chunks[dedupe->chunk_end++ & (dedupe->chunk_cap - 1)] = chunk;
    return true;
}

/* ---- the table ---- */

/* The slot of @id, or the empty one where it belongs. */
static struct eb_dedupe_slot *find_slot(const struct eb_dedupe *dedupe,
                                        const struct eb_dedupe_shard *shard, const uint8_t id[16],
                                        uint32_t hash)
{
    uint32_t mask = shard->cap - 1;
    for (uint32_t at = hash & mask;; at = (at + 1) & mask) {
        struct eb_dedupe_slot *slot = &shard->slots[at];
        if (!slot->hash)
            return slot;
        if (slot->hash == hash &&
            memcmp(entry_at(dedupe, position_of(dedupe, slot->index))->id, id, 16) == 0)
            return slot;
    }
}

/* False: no memory, all is as it was. */
static bool resize(struct eb_dedupe_shard *shard, uint32_t cap)
{
    struct eb_dedupe_slot *slots = calloc(cap, sizeof *slots);
    if (!slots)
        return false;
    for (uint32_t i = 0; i < shard->cap; i++) {
        if (!shard->slots[i].hash)
            continue;
        uint32_t at = shard->slots[i].hash & (cap - 1);
        while (slots[at].hash)
            at = (at + 1) & (cap - 1);
        slots[at] = shard->slots[i];
    }
    free(shard->slots);
    shard->slots = slots;
    shard->cap = cap;
    return true;
}

/* Empty the slot and close the hole, so that every probe still meets what it looks for (U4). */
static void remove_slot(struct eb_dedupe_shard *shard, struct eb_dedupe_slot *slot)
{
    uint32_t mask = shard->cap - 1, hole = (uint32_t)(slot - shard->slots);
    for (uint32_t at = (hole + 1) & mask; shard->slots[at].hash; at = (at + 1) & mask) {
        uint32_t home = shard->slots[at].hash & mask;
        if (((at - home) & mask) < ((at - hole) & mask))
            continue; /* its home lies behind the hole: it may stay */
        shard->slots[hole] = shard->slots[at];
        hole = at;
    }
    shard->slots[hole] = (struct eb_dedupe_slot){0};
    shard->count--;
    if (shard->cap > START_SLOTS && shard->count < shard->cap / 8)
        resize(shard, shard->cap / 2);
}

static inline void prefetch_slot(struct eb_dedupe *dedupe, uint32_t hash)
{
    const struct eb_dedupe_shard *shard = shard_of(dedupe, hash);
    __builtin_prefetch(&shard->slots[hash & (shard->cap - 1)], 1);
}

/* Remove the slot of the entry at @position, unless a later entry has it (U2). */
static void forget(struct eb_dedupe *dedupe, uint64_t position, uint32_t hash)
{
    const struct eb_dedupe_entry *entry = entry_at(dedupe, position);
    struct eb_dedupe_shard *shard = shard_of(dedupe, hash);
    struct eb_dedupe_slot *slot = find_slot(dedupe, shard, entry->id, hash);
    if (slot->hash && slot->index == (uint32_t)position)
        remove_slot(shard, slot);
}

static uint32_t hash_at(const struct eb_dedupe *dedupe, uint64_t position)
{
    return hash_id(dedupe, entry_at(dedupe, position)->id);
}

static void drop_head(struct eb_dedupe *dedupe, uint32_t hash)
{
    forget(dedupe, dedupe->head, hash);
    dedupe->head++;
    if (!(dedupe->head & (CHUNK - 1)))
        give_back_chunk(dedupe);
}

/* The @count oldest, whose slots lie anywhere: asked of the memory some ahead, lest each is waited for. */
static void drop_oldest(struct eb_dedupe *dedupe, uint64_t count)
{
    uint32_t hashes[AHEAD] = {0};
    for (uint64_t run; count > 0; count -= run) {
        run = count < AHEAD ? count : AHEAD;
        for (uint64_t i = 0; i < run; i++) {
            hashes[i] = hash_at(dedupe, dedupe->head + i);
            prefetch_slot(dedupe, hashes[i]);
        }
        for (uint64_t i = 0; i < run; i++)
            drop_head(dedupe, hashes[i]);
    }
}

static void evict_oldest(struct eb_dedupe *dedupe, uint64_t count)
{
    drop_oldest(dedupe, count);
    dedupe->evicted += count;
}

/* Room in the queue and in the shard; without memory the oldest make it. */
static void room_in_queue(struct eb_dedupe *dedupe)
{
    while (dedupe->tail >> EB_DEDUPE_CHUNK_BITS == dedupe->chunk_end && !add_chunk(dedupe))
        evict_oldest(dedupe, 1);
}

static void room_in_shard(struct eb_dedupe *dedupe, struct eb_dedupe_shard *shard)
{
    if (shard->count < shard->cap / 2 || resize(shard, shard->cap * 2))
        return;
    while (shard->count >= shard->cap - shard->cap / 8)
        evict_oldest(dedupe, 1);
}

static void add_entry(struct eb_dedupe *dedupe, const uint8_t id[16], uint64_t seq,
                      int64_t timestamp)
{
    struct eb_dedupe_entry *entry = entry_at(dedupe, dedupe->tail++);
    memcpy(entry->id, id, 16);
    entry->seq = seq;
    entry->timestamp = timestamp;
}

uint32_t eb_dedupe_ahead(struct eb_dedupe *dedupe, const uint8_t id[16])
{
    uint32_t hash = hash_id(dedupe, id);
    prefetch_slot(dedupe, hash);
    return hash;
}

const struct eb_dedupe_entry *eb_dedupe_put(struct eb_dedupe *dedupe, const uint8_t id[16],
                                            uint32_t hash, uint64_t seq, int64_t timestamp)
{
    struct eb_dedupe_shard *shard = shard_of(dedupe, hash);
    room_in_queue(dedupe);
    room_in_shard(dedupe, shard);
    struct eb_dedupe_slot *slot = find_slot(dedupe, shard, id, hash);
    if (slot->hash) {
        const struct eb_dedupe_entry *entry = entry_at(dedupe, position_of(dedupe, slot->index));
        if (entry->timestamp > dedupe->expired_upto)
            return entry;
    } else {
        shard->count++;
    }
    *slot = (struct eb_dedupe_slot){.index = (uint32_t)dedupe->tail, .hash = hash};
    add_entry(dedupe, id, seq, timestamp);
    return NULL;
}

/* ---- at start ---- */

void eb_dedupe_load(struct eb_dedupe *dedupe, const uint8_t id[16], uint64_t seq, int64_t timestamp)
{
    room_in_queue(dedupe);
    add_entry(dedupe, id, seq, timestamp);
}

static void index_entry(struct eb_dedupe *dedupe, uint64_t position, uint32_t hash)
{
    struct eb_dedupe_shard *shard = shard_of(dedupe, hash);
    room_in_shard(dedupe, shard);
    if (position < dedupe->head)
        return; /* went to make that room */
    struct eb_dedupe_slot *slot = find_slot(dedupe, shard, entry_at(dedupe, position)->id, hash);
    shard->count += !slot->hash;
    *slot = (struct eb_dedupe_slot){.index = (uint32_t)position, .hash = hash};
}

void eb_dedupe_loaded(struct eb_dedupe *dedupe)
{
    uint32_t cap = START_SLOTS, hashes[AHEAD] = {0};
    while (cap < eb_dedupe_count(dedupe) * 33 / 16 / EB_DEDUPE_SHARDS)
        cap *= 2;
    for (unsigned i = 0; i < EB_DEDUPE_SHARDS && cap > START_SLOTS; i++)
        resize(&dedupe->shards[i], cap); /* else it grows as it is filled */
    for (uint64_t at = dedupe->head, run; at < dedupe->tail; at += run) {
        run = dedupe->tail - at < AHEAD ? dedupe->tail - at : AHEAD;
        for (uint64_t i = 0; i < run; i++) {
            if (at + i < dedupe->head)
                continue; /* went already, for want of memory */
            hashes[i] = hash_at(dedupe, at + i);
            prefetch_slot(dedupe, hashes[i]);
        }
        for (uint64_t i = 0; i < run; i++)
            if (at + i >= dedupe->head)
                index_entry(dedupe, at + i, hashes[i]);
    }
}

/* ---- going ---- */

void eb_dedupe_undo(struct eb_dedupe *dedupe, uint64_t mark)
{
    while (dedupe->tail > mark && dedupe->tail > dedupe->head) {
        forget(dedupe, dedupe->tail - 1, hash_at(dedupe, dedupe->tail - 1));
        dedupe->tail--;
    }
}

void eb_dedupe_expire(struct eb_dedupe *dedupe, int64_t upto)
{
    dedupe->expired_upto = upto;
    uint64_t count = 0, most = eb_dedupe_count(dedupe);
    if (most > EXPIRE_STEP)
        most = EXPIRE_STEP;
    while (count < most && entry_at(dedupe, dedupe->head + count)->timestamp <= upto)
        count++;
    drop_oldest(dedupe, count);
}

void eb_dedupe_bound(struct eb_dedupe *dedupe, uint64_t upto)
{
    uint64_t count = 0, most = eb_dedupe_count(dedupe);
    if (most > BOUND_STEP)
        most = BOUND_STEP;
    while (count < most && entry_at(dedupe, dedupe->head + count)->seq <= upto)
        count++;
    drop_oldest(dedupe, count);
}

/* ---- what there is ---- */

const struct eb_dedupe_entry *eb_dedupe_run(const struct eb_dedupe *dedupe, uint64_t position,
                                            size_t *ret_count)
{
    uint64_t run = CHUNK - (position & (CHUNK - 1)), left = dedupe->tail - position;
    *ret_count = (size_t)(run < left ? run : left);
    return entry_at(dedupe, position);
}

uint64_t eb_dedupe_position(const struct eb_dedupe *dedupe, uint64_t seq)
{
    uint64_t low = dedupe->head, high = dedupe->tail;

    while (low < high) {
        uint64_t half = low + (high - low) / 2;
        if (entry_at(dedupe, half)->seq < seq)
            low = half + 1;
        else
            high = half;
    }
    return low;
}

int64_t eb_dedupe_oldest(const struct eb_dedupe *dedupe)
{
    return dedupe->head < dedupe->tail ? entry_at(dedupe, dedupe->head)->timestamp : INT64_MIN;
}

uint64_t eb_dedupe_oldest_seq(const struct eb_dedupe *dedupe)
{
    return dedupe->head < dedupe->tail ? entry_at(dedupe, dedupe->head)->seq : UINT64_MAX;
}
