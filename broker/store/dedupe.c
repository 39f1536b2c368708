/*
 * dedupe.c - the ids of the last minutes (dedupe.h).
 *
 * (U1) The ring is in order of acceptance: seqs and timestamps rise from head to tail.
 * (U2) Every entry has one slot that points to it, save one whose id was loaded again later (start only):
 *      it stays in the ring without a slot until it expires.
 * (U3) What was put in a transaction is a run at the tail: undo is popping. Hence nothing is dropped for
 *      the bound before the commit (eb_dedupe_bound comes after it), or undo could not bring it back.
 * (U4) The table is at most half full: probes stay short. Deletion shifts back, there are no tombstones.
 */
#include "broker/store/dedupe.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"

#define START_CAP 1024u
#define MAX_CAP   (1u << 30)

static inline uint64_t rotl(uint64_t x, int b)
{
    return (x << b) | (x >> (64 - b));
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

/* SipHash-1-3 of exactly 16 bytes: ids are the client's choice, the slots they fall into must not be. */
static uint32_t hash_id(const struct eb_dedupe *dedupe, const uint8_t id[16])
{
    uint64_t m[3];
    memcpy(m, id, 16);
    m[2] = (uint64_t)16 << 56;
    uint64_t v[4] = {
        dedupe->key[0] ^ 0x736f6d6570736575u,
        dedupe->key[1] ^ 0x646f72616e646f6du,
        dedupe->key[0] ^ 0x6c7967656e657261u,
        dedupe->key[1] ^ 0x7465646279746573u,
    };
    for (int i = 0; i < 3; i++) {
        v[3] ^= m[i];
        sip_round(v);
        v[0] ^= m[i];
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return (uint32_t)(v[0] ^ v[1] ^ v[2] ^ v[3]);
}

static inline uint32_t slot_mask(const struct eb_dedupe *dedupe)
{
    return dedupe->cap * 2 - 1;
}

static inline struct eb_dedupe_entry *entry_at(const struct eb_dedupe *dedupe, uint64_t position)
{
    return &dedupe->ring[position & (dedupe->cap - 1)];
}

int eb_dedupe_init(struct eb_dedupe *dedupe)
{
    *dedupe = (struct eb_dedupe){.cap = START_CAP};
    if (getrandom(dedupe->key, sizeof dedupe->key, 0) != (ssize_t)sizeof dedupe->key) {
        /* No random source so early in a boot: an address and a clock are what is left. */
        dedupe->key[0] = (uint64_t)(uintptr_t)dedupe;
        dedupe->key[1] = (uint64_t)eb_mono_us();
    }
    dedupe->ring = calloc(dedupe->cap, sizeof *dedupe->ring);
    dedupe->slots = calloc((size_t)dedupe->cap * 2, sizeof *dedupe->slots);
    if (!dedupe->ring || !dedupe->slots) {
        eb_dedupe_finish(dedupe);
        return -ENOMEM;
    }
    return 0;
}

void eb_dedupe_finish(struct eb_dedupe *dedupe)
{
    free(dedupe->ring);
    free(dedupe->slots);
    *dedupe = (struct eb_dedupe){0};
}

/* The slot of @id, or the empty one where it belongs. */
static uint32_t find_slot(const struct eb_dedupe *dedupe, const uint8_t id[16], uint32_t hash)
{
    uint32_t mask = slot_mask(dedupe);
    uint32_t at = hash & mask;
    for (;; at = (at + 1) & mask) {
        const struct eb_dedupe_slot *slot = &dedupe->slots[at];
        if (!slot->index)
            return at;
        if (slot->hash == hash && memcmp(dedupe->ring[slot->index - 1].id, id, 16) == 0)
            return at;
    }
}

/* Empty the slot and close the hole, so that every probe still meets what it looks for (U4). */
static void remove_slot(struct eb_dedupe *dedupe, uint32_t hole)
{
    uint32_t mask = slot_mask(dedupe);
    for (uint32_t at = (hole + 1) & mask; dedupe->slots[at].index; at = (at + 1) & mask) {
        uint32_t home = dedupe->slots[at].hash & mask;
        if (((at - home) & mask) < ((at - hole) & mask))
            continue; /* its home lies behind the hole: it may stay */
        dedupe->slots[hole] = dedupe->slots[at];
        hole = at;
    }
    dedupe->slots[hole] = (struct eb_dedupe_slot){0};
}

/* Remove the slot of the entry at @position, unless a later entry has it (U2). */
static void forget(struct eb_dedupe *dedupe, uint64_t position)
{
    struct eb_dedupe_entry *entry = entry_at(dedupe, position);
    uint32_t at = find_slot(dedupe, entry->id, hash_id(dedupe, entry->id));
    if (dedupe->slots[at].index == (uint32_t)(position & (dedupe->cap - 1)) + 1)
        remove_slot(dedupe, at);
}

/*
 * Double the ring and the table. The writer waits for this, so it touches no entry one by one: the ring is
 * copied in at most two pieces, and a slot knows its hash.
 */
static bool grow(struct eb_dedupe *dedupe)
{
    if (dedupe->cap >= MAX_CAP)
        return false;
    struct eb_dedupe next = *dedupe;
    uint32_t old_mask = dedupe->cap - 1;
    next.cap = dedupe->cap * 2;
    next.ring = malloc(next.cap * sizeof *next.ring);
    next.slots = calloc((size_t)next.cap * 2, sizeof *next.slots);
    if (!next.ring || !next.slots) {
        free(next.ring);
        free(next.slots);
        return false;
    }
    for (uint64_t position = dedupe->head, run; position < dedupe->tail; position += run) {
        run = dedupe->cap - (position & old_mask);
        if (run > dedupe->tail - position)
            run = dedupe->tail - position;
        memcpy(entry_at(&next, position), entry_at(dedupe, position), run * sizeof *next.ring);
    }
    for (size_t i = 0; i < (size_t)dedupe->cap * 2; i++) {
        struct eb_dedupe_slot slot = dedupe->slots[i];
        if (!slot.index)
            continue;
        uint64_t position = dedupe->head + ((slot.index - 1 - dedupe->head) & old_mask);
        slot.index = (uint32_t)(position & (next.cap - 1)) + 1;
        uint32_t at = slot.hash & slot_mask(&next);
        while (next.slots[at].index)
            at = (at + 1) & slot_mask(&next);
        next.slots[at] = slot;
    }
    free(dedupe->ring);
    free(dedupe->slots);
    dedupe->ring = next.ring;
    dedupe->slots = next.slots;
    dedupe->cap = next.cap;
    return true;
}

static void drop_head(struct eb_dedupe *dedupe)
{
    forget(dedupe, dedupe->head);
    dedupe->head++;
}

static void add_at(struct eb_dedupe *dedupe, uint32_t at, uint32_t hash, const uint8_t id[16],
                   uint64_t seq, int64_t timestamp)
{
    uint64_t position = dedupe->tail++;
    struct eb_dedupe_entry *entry = entry_at(dedupe, position);
    memcpy(entry->id, id, 16);
    entry->seq = seq;
    entry->timestamp = timestamp;
    dedupe->slots[at].index = (uint32_t)(position & (dedupe->cap - 1)) + 1;
    dedupe->slots[at].hash = hash;
}

static void make_room(struct eb_dedupe *dedupe)
{
    if (eb_dedupe_count(dedupe) < dedupe->cap || grow(dedupe))
        return;
    drop_head(dedupe);
    dedupe->evicted++;
}

const struct eb_dedupe_entry *eb_dedupe_put(struct eb_dedupe *dedupe, const uint8_t id[16],
                                            uint64_t seq, int64_t timestamp)
{
    make_room(dedupe);
    uint32_t hash = hash_id(dedupe, id);
    uint32_t at = find_slot(dedupe, id, hash);
    if (dedupe->slots[at].index)
        return &dedupe->ring[dedupe->slots[at].index - 1];
    add_at(dedupe, at, hash, id, seq, timestamp);
    return NULL;
}

void eb_dedupe_load(struct eb_dedupe *dedupe, const uint8_t id[16], uint64_t seq, int64_t timestamp)
{
    make_room(dedupe);
    uint32_t hash = hash_id(dedupe, id);
    add_at(dedupe, find_slot(dedupe, id, hash), hash, id, seq, timestamp);
}

void eb_dedupe_undo(struct eb_dedupe *dedupe, uint64_t mark)
{
    while (dedupe->tail > mark && dedupe->tail > dedupe->head) {
        forget(dedupe, dedupe->tail - 1);
        dedupe->tail--;
    }
}

void eb_dedupe_expire(struct eb_dedupe *dedupe, int64_t upto)
{
    while (dedupe->head < dedupe->tail && entry_at(dedupe, dedupe->head)->timestamp <= upto)
        drop_head(dedupe);
}

void eb_dedupe_bound(struct eb_dedupe *dedupe, uint64_t max)
{
    while (eb_dedupe_count(dedupe) > max) {
        drop_head(dedupe);
        dedupe->evicted++;
    }
}

int64_t eb_dedupe_oldest(const struct eb_dedupe *dedupe)
{
    return dedupe->head < dedupe->tail ? entry_at(dedupe, dedupe->head)->timestamp : INT64_MIN;
}
