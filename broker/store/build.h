/*
 * build.h - a new log made from rows of another: what backup, restore, repair and import write into.
 *
 * It grows under a name of its own beside the target and takes the target's name when it is whole and synced
 * (ops.h, O2). Rows should come in the order of seq, which is fast; they need not. A seq that is there already
 * is passed over.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "broker/store/ops.h"
#include "broker/store/row.h"

struct eb_build;

/** -EEXIST: the target is there; -ENOSPC, -EACCES, -EIO, -ENOMEM. */
int eb_build_create(const char *target, const char *vfs, struct eb_build **ret,
                    struct eb_error *err);
/** Throw away what is not finished. NULL is fine. */
void eb_build_destroy(struct eb_build *build);

int eb_build_topic(struct eb_build *build, uint32_t id, const char *name, size_t len);
/** A row whose checksum was verified, and whose topic is or will be there (one of a reply's: is). */
int eb_build_row(struct eb_build *build, const struct eb_row *row);
/** Mark a seq acknowledged, if its row is there: rows first. */
int eb_build_acked(struct eb_build *build, uint64_t seq, int64_t at);
int eb_build_gone(struct eb_build *build, const uint8_t id[16], uint64_t seq, int64_t ts);
/** An id that a file of prk_eventbus had in processed_messages (docs/formats/log.md, `imported`). */
int eb_build_imported(struct eb_build *build, const char *id, size_t len);
/** Take back rows up to @seq (deleted in the source while it was copied). */
int eb_build_trim(struct eb_build *build, uint64_t seq);

struct eb_build_end {
    const char *epoch; /* NULL: a new one */
    uint64_t last_seq; /* the highest ever given; at least that of the rows */
    uint64_t deleted_upto;
    int64_t last_ts;
};
/** Write lists and values, sync, name. Fills rows, topics, acked, first_seq, last_seq, bytes, epoch of @ret. */
int eb_build_finish(struct eb_build *build, const struct eb_build_end *end,
                    struct eb_ops_summary *ret, struct eb_error *err);
/** The failure of a call above in words, for @err. Returns @rc. */
int eb_build_say(struct eb_build *build, int rc, struct eb_error *err);
uint64_t eb_build_last_seq(const struct eb_build *build);
