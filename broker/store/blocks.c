/*
 * blocks.c - what lies in each stretch of the log, as far as this process has appended it: so that retention can delete
 * a stretch without reading its rows first, which costs as much as deleting them (trim_sqlite.c, D5).
 *
 * (B1) A block is known from its first seq on, or not at all: of one that was begun by an earlier process, or has left
 *      the ring, nothing is said, and its rows are read.
 * (B2) Every deletion of single rows is told (eb_blocks_take). A rollback makes all blocks unknown: it is rare, and
 *      what comes next begins anew.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/store/blocks.h"

#define BLOCKS 8192u /* 8 million events; a power of two */

int eb_blocks_init(struct eb_blocks *blocks)
{
    blocks->ring = calloc(BLOCKS, sizeof *blocks->ring);
    return blocks->ring ? 0 : -ENOMEM;
}

void eb_blocks_finish(struct eb_blocks *blocks)
{
    free(blocks->ring);
    blocks->ring = NULL;
}

static struct eb_block *slot_of(const struct eb_blocks *blocks, uint64_t seq)
{
    return &blocks->ring[eb_block_of(seq) & (BLOCKS - 1)];
}

void eb_blocks_add(struct eb_blocks *blocks, uint64_t seq, uint32_t count, uint64_t bytes,
                   int64_t ts, bool mortal)
{
    struct eb_block *block = slot_of(blocks, seq);

    if (block->number != eb_block_of(seq) || !block->begun)
        *block = (struct eb_block){
            .number = eb_block_of(seq),
            .begun = true,
            .known = seq == eb_block_first(eb_block_of(seq)),
        };
    block->events += count;
    block->bytes += bytes;
    block->last_ts = ts;
    block->mortal |= mortal;
}

struct eb_block *eb_blocks_get(const struct eb_blocks *blocks, uint64_t number)
{
    struct eb_block *block = slot_of(blocks, number * EB_BLOCK_SEQS);

    return block->known && block->number == number ? block : NULL;
}

void eb_blocks_take(struct eb_blocks *blocks, uint64_t seq, uint64_t bytes)
{
    struct eb_block *block = eb_blocks_get(blocks, eb_block_of(seq));

    if (!block)
        return;
    block->known =
        block->events > 0 && block->bytes >= bytes; /* else it is not what was appended */
    block->events--;
    block->bytes -= bytes;
}

void eb_blocks_forget(struct eb_blocks *blocks)
{
    for (size_t i = 0; i < BLOCKS; i++)
        if (blocks->ring[i].begun) /* pages that were never touched stay so */
            blocks->ring[i] = (struct eb_block){0};
}
