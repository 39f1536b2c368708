/*
 * blocks.h - number and bytes of the events in each stretch of 1,024 seqs that this process has appended (blocks.c).
 *
 * Not thread-safe: it belongs to the holder of the commit lock.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EB_BLOCK_SEQS 1024u /* divides a segment */

struct eb_block {
    uint64_t number, bytes;
    int64_t last_ts;
    uint32_t events;
    bool begun, known;
    bool mortal; /* there was one with a ttl */
};
struct eb_blocks {
    struct eb_block *ring;
};

static inline uint64_t eb_block_of(uint64_t seq)
{
    return seq / EB_BLOCK_SEQS;
}
/** There is no seq 0. */
static inline uint64_t eb_block_first(uint64_t number)
{
    return number ? number * EB_BLOCK_SEQS : 1;
}
static inline uint64_t eb_block_last(uint64_t number)
{
    return number * EB_BLOCK_SEQS + EB_BLOCK_SEQS - 1;
}

int eb_blocks_init(struct eb_blocks *blocks); /* 0 or -ENOMEM */
void eb_blocks_finish(struct eb_blocks *blocks);
/** Rows are appended, from @seq on, all of one block: @bytes is their sum, @ts that of the last. */
void eb_blocks_add(struct eb_blocks *blocks, uint64_t seq, uint32_t count, uint64_t bytes,
                   int64_t ts, bool mortal);
/** What is left of a block, or NULL: not known. Lives until the next call. */
struct eb_block *eb_blocks_get(const struct eb_blocks *blocks, uint64_t number);
/** One row is deleted. */
void eb_blocks_take(struct eb_blocks *blocks, uint64_t seq, uint64_t bytes);
/** None is known any more. */
void eb_blocks_forget(struct eb_blocks *blocks);
