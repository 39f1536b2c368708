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
#include "broker/store/state.h"

struct eb_build;
struct eb_scheduled_row;

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
/** The topic's last seq, deleted or not: the largest that is told. */
int eb_build_topic_last(struct eb_build *build, uint32_t id, uint64_t seq);
/** What is kept for others (state.h), and what waits until it is due. The first one of a key is taken. */
int eb_build_consumer(struct eb_build *build, const struct eb_state_consumer *consumer);
int eb_build_block(struct eb_build *build, uint64_t consumer, uint64_t block, const void *data,
                   size_t len);
int eb_build_dead(struct eb_build *build, uint64_t consumer, uint64_t seq);
int eb_build_mark(struct eb_build *build, const char *name, size_t len, uint64_t value);
int eb_build_scheduled(struct eb_build *build, const struct eb_scheduled_row *row);
/** It is still scheduled at the end of a copy. Once one was told, those that were not are taken back at the end. */
int eb_build_scheduled_there(struct eb_build *build, uint64_t place, int64_t due);
/** None is told, and all may be taken back. */
int eb_build_scheduled_told(struct eb_build *build);
/** Take back rows up to @seq (deleted in the source while it was copied). */
int eb_build_trim(struct eb_build *build, uint64_t seq);

struct eb_build_end {
    const char *epoch; /* NULL: a new one */
    /*
     * What ids are made with (made.h), NULL or "": none. The first start of the target then makes its own secret, and takes
     * the ids of the rows for publishers'. So it is when events may be missing (repair): a seq without its event would say
     * that it was deleted, and a lost one could not be published again. Of deleted ones, ids that were made are then not known.
     */
    const char *id_key;
    uint64_t last_seq; /* the highest ever given; at least that of the rows */
    uint64_t deleted_upto;
    int64_t last_ts;
    /*
     * Blocks of open events may be missing: each consumer goes back to its first open one and has none, so that what
     * was open is delivered again, and some of what was not. A position beyond the log's end does so in any case.
     */
    bool rewind;
};
/** Write lists and values, sync, name. Fills rows, topics, acked, consumers, scheduled, first_seq, last_seq, bytes,
 * epoch of @ret. */
int eb_build_finish(struct eb_build *build, const struct eb_build_end *end,
                    struct eb_ops_summary *ret, struct eb_error *err);
/** The failure of a call above in words, for @err. Returns @rc. */
int eb_build_say(struct eb_build *build, int rc, struct eb_error *err);
uint64_t eb_build_last_seq(const struct eb_build *build);
