/*
 * made.h - message ids that the broker makes: each says its event's seq, so no table need hold it.
 *
 *   48 bits timestamp, ms | 7 | 12 bits seq >> 30 | 2 | 30 bits seq | 32 bits hash of seq and timestamp under a secret
 *
 * A UUIDv7 (RFC 9562); they sort as their seqs do. Of a seq above 2^42 the low bits are there: which one is meant is
 * told by the log's last.
 *
 * (I1) The hash tells an id of this log from all others. A publisher cannot make one, and need not be believed: the
 *      event that has the seq is asked, as long as it is there (repeats.c).
 * (I2) A new epoch may give seqs again whose events were lost with the log's end; so it begins a new era, which goes
 *      into the hash. Ids of the era before are known up to the seq that was the last when it ended, those of older
 *      ones not: they are like any publisher's.
 *
 * No locks: a value that its owner writes at start only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct eb_made {
    uint64_t key[2];
    uint64_t from; /* seqs above it are of `era`, the others of `before` */
    uint32_t era, before;
};

int eb_made_init(struct eb_made *made); /* a secret of its own. 0 or -errno */
/** A new epoch begins behind @last_seq (I2). */
void eb_made_new_era(struct eb_made *made, uint64_t last_seq);
void eb_made_id(const struct eb_made *made, uint8_t id[16], uint64_t seq, int64_t timestamp);
/** Is @id what eb_made_id() makes of that? */
bool eb_made_is(const struct eb_made *made, const uint8_t id[16], uint64_t seq, int64_t timestamp);
/** The seq in an id that was made here, above @floor and up to @last, and its timestamp; 0: it was not. */
uint64_t eb_made_seq(const struct eb_made *made, const uint8_t id[16], uint64_t floor,
                     uint64_t last, int64_t *ret_timestamp);

/* As the file keeps it, with the epoch that it goes on in (meta.id_key, docs/formats/log.md). */
#define EB_MADE_TEXT 160
void eb_made_format(const struct eb_made *made, const char *epoch, char out[EB_MADE_TEXT]);
/** False: @text is not whole. @ret_epoch may be NULL. */
bool eb_made_parse(const char *text, struct eb_made *ret, char ret_epoch[37]);
