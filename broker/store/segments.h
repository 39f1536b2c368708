/*
 * segments.h - which topic occurs where: the index by segments of 65,536 seqs (docs/formats/log.md).
 */
#pragma once

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EB_SEGMENT_BITS 16
#define EB_SEGMENT_SEQS (1u << EB_SEGMENT_BITS)

static inline uint64_t eb_segment_of(uint64_t seq)
{
    return seq >> EB_SEGMENT_BITS;
}
static inline uint64_t eb_segment_base(uint64_t segment)
{
    return segment << EB_SEGMENT_BITS;
}

/*
 * A segment that is being filled: each seq's topic. Written by the holder of the commit lock; a reader looks only
 * at seqs that were committed before it took its reference.
 */
struct eb_segment {
    atomic_uint refs;                        /* the engine's, one a reader at work */
    uint64_t number;                         /* [I] */
    uint64_t events, bytes, acked;           /* of the rows there are; commit lock */
    int64_t last_ts;                         /* commit lock */
    _Atomic uint32_t topic[EB_SEGMENT_SEQS]; /* [a] by offset; 0: no event */
};

struct eb_segment *eb_segment_create(uint64_t number); /* NULL when out of memory */
struct eb_segment *eb_segment_ref(struct eb_segment *segment);
void eb_segment_unref(struct eb_segment *segment); /* NULL is fine */
/** Fill it from the rows of `log` and `acked`: at start, and to make the index anew. */
int eb_segment_load(struct eb_segment *segment, sqlite3 *db);
/** Write its rows of `segments` and `postings` (replaces what is there). Inside a transaction. */
int eb_segment_write(const struct eb_segment *segment, sqlite3 *db);
/**
 * Write the index of every segment below @open that has rows in `log` and none in `segments` (after a repair or
 * an import). Opens transactions of its own, one a segment.
 */
int eb_segments_complete(sqlite3 *db, uint64_t open);

/* A list as it lies in `postings.seqs`: rising offsets of two bytes, then four bytes of CRC32C, all little-endian. */
#define EB_POSTINGS_TAIL 4
uint32_t eb_postings_crc(uint64_t segment, uint32_t topic, const void *offsets, size_t len);
/** Number of offsets in a list that is whole, or -EBADMSG (length, checksum, order). */
int eb_postings_check(uint64_t segment, uint32_t topic, const void *blob, size_t len);
static inline uint32_t eb_postings_at(const void *blob, size_t i)
{
    const unsigned char *at = (const unsigned char *)blob + 2 * i;
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}
