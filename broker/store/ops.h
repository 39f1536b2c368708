/*
 * ops.h - what an operator does with a log from the command line (PROTOCOL 6): backup, restore, verify,
 * repair and import.
 *
 * (O1) A source is never written to: a damaged file and an old one are byte for byte what they were.
 * (O2) A target exists whole or not at all: it is built under a name of its own beside it, made durable,
 *      and only then given its name. A name that is taken is refused, never replaced.
 * (O3) No event is made up: each row that reaches a target passed its checksum on the way.
 * (O4) Each function works by itself and blocks on disk for as long as it takes; progress is told.
 *
 * All return 0 or a negative errno with a sentence in @err->message that says what is wrong and what to do.
 */
#pragma once

#include <stdint.h>

#include "common/error.h"

struct eb_ops {
    void *ctx;
    /* Now and then, and at the end; @total 0 when it is not known. May be NULL. */
    void (*progress)(void *ctx, uint64_t done, uint64_t total);
    /* One line of the report: what is damaged, what was left out and why. May be NULL. */
    void (*report)(void *ctx, const char *line);
    const char *vfs; /* SQLite VFS by name; NULL: the default one */
};

struct eb_ops_summary {
    uint64_t rows;     /* events written to the target; verify: events that are whole */
    uint64_t damaged;  /* events known to be damaged or lost: not in the target */
    uint64_t left_out; /* import: rows that cannot be events here, each one reported */
    uint64_t
        problems; /* verify: what else is wrong (structure, postings, lists), each one reported */
    uint64_t topics, acked, consumers, scheduled;
    uint64_t pages; /* verify, repair: pages looked at */
    uint64_t bytes; /* size of the target; verify: of the file */
    uint64_t first_seq,
        last_seq;   /* of the events in `rows`; last_seq: the highest ever given, if it is known */
    char epoch[37]; /* of the target; verify: of the file, "" if it cannot be read */
};

/**
 * Copy the log at @path into the new file @copy, also beside a running broker: publishes go on, no read stays
 * open for longer than some milliseconds, so the WAL stays bounded. The copy is a prefix of the log, with its
 * epoch: bring it back with eb_store_restore. Consumers and what is scheduled are in it as they stood at its last seq.
 * An event that is damaged or cannot be read is reported (`lost: …`) and counted in @ret->damaged, and the copy is
 * made without it: 0 says that the copy is there, @ret->damaged whether it lacks something.
 * Errors: -EEXIST (@copy is there), -ENOENT, -EBADMSG (a small table cannot be read: repair), -EIO, -ENOSPC.
 */
int eb_store_backup(const char *path, const char *copy, const struct eb_ops *ops,
                    struct eb_ops_summary *ret, struct eb_error *err);
/** Make the log @target from a backup, with a new epoch. Damaged events and errors as above. */
int eb_store_restore(const char *copy, const char *target, const struct eb_ops *ops,
                     struct eb_ops_summary *ret, struct eb_error *err);
/**
 * Read everything in the file and its WAL: structure, checksums, postings, lists. One line of report for each
 * thing that is wrong. 0: whole. -EBADMSG: damaged, @ret says how much; else it could not be looked at.
 */
int eb_store_verify(const char *path, const struct eb_ops *ops, struct eb_ops_summary *ret,
                    struct eb_error *err);
/**
 * Bring every whole row of @damaged into the new log @target, with seqs, ids and acknowledgements and a new
 * epoch, consumers (at their first open event where something of them may be lost) and scheduled events. Needs no header,
 * no schema and no index: it looks at every page. -EBADMSG: not one event was found.
 */
int eb_store_repair(const char *damaged, const char *target, const struct eb_ops *ops,
                    struct eb_ops_summary *ret, struct eb_error *err);
/**
 * Take over a file of prk_eventbus 0.1. Rows that cannot be events here are reported and left out; 0 unless
 * not one could be taken. -EINVAL: not such a file.
 */
int eb_store_import(const char *old, const char *target, const struct eb_ops *ops,
                    struct eb_ops_summary *ret, struct eb_error *err);
