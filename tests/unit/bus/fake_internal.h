/* fake_internal.h - what the fake_*.c files share: the one world there is at a time. */
#pragma once

#include "tests/unit/bus/fake_world.h"

struct fake_row {
    struct eb_event *event;
    bool damaged, acked, deleted;
};

struct fake {
    struct fake_world *world;
    struct eb_store_hooks hooks;
    struct eb_op *queue, **queue_end;
    size_t alone;
    struct fake_row *rows; /* rows[seq - 1] */
    uint64_t last, deleted_upto, deletions;
    struct eb_stream *run, **run_end, *later;
    struct eb_sub *ahead;
    struct eb_read *reads, **reads_end;
};
extern struct fake fake; /* fake_world.c */
