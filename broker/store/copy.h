/* copy.h - reading a log beside a running broker, in short reads, each row checked: backup, restore, verify. */
#pragma once

#include "broker/store/ops.h"

#include "broker/store/schema.h"

struct eb_build;

/* ---- copy_kept.c: what is kept beside the events; all by short reads, or inside the caller's ---- */

/* Who is told what; a copy or a look. */
struct eb_copy_kept {
    sqlite3 *from;
    struct eb_build *build; /* NULL: only look */
    const struct eb_ops *ops;
    struct eb_ops_summary *sum;
    bool there;     /* the file's version has such tables */
    uint64_t place; /* of the last scheduled event that was read */
};
/** Begin: is there anything? */
int eb_copy_kept_begin(struct eb_copy_kept *copy);
/** Copy or look at scheduled events, a bounded part at each read. A damaged one is `lost`. */
int eb_copy_scheduled(struct eb_copy_kept *copy);
/** The rest, in the caller's read, which fixes the copy's end: consumers and theirs, marks, topics' last seqs, what is scheduled. */
int eb_copy_kept_end(struct eb_copy_kept *copy);
/** Report what does not fit together, in the caller's read, with the log's @last seq. */
int eb_look_at_kept(struct eb_copy_kept *copy, uint64_t last);

/** Read the rows and lists of a log that a broker has open, and report what is damaged in them. As eb_store_verify. */
int eb_verify_online(const char *path, const struct eb_ops *ops, struct eb_ops_summary *ret,
                     struct eb_error *err);
