/*
 * publish_internal.h - what publish.c and publish_block.c share: a publish as it really is, and where it lies.
 */
#pragma once

#include "broker/bus/internal.h"

struct eb_block;

/* What eb_publish_create really makes. */
struct publish {
    struct eb_bus *bus; /* from eb_bus_publish on */
    size_t max;
    struct eb_block *block; /* that it lies in, or NULL */
    struct eb_publish pub;
};

/**
 * Room for a publish of one event in the session's open block, to be filled; its `block` is to be @ret_block, and its
 * op.event1 may be an older event, for the memory of its own (eb_event_create_over). NULL: out of memory. Thread: the
 * session's requests'.
 */
struct publish *eb_block_place(struct eb_session *session, struct eb_block **ret_block);
/** The publish is over; its event goes with the block. Threads: any, no lock held but the commit lock at most. */
void eb_block_leave(struct eb_block *block);
