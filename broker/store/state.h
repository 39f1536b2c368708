/*
 * state.h - what others keep in the log's file beside the events: durable consumers, their open events and dead
 * letters, and marks. The store knows the tables and no meaning: the bus says what stands in them.
 *
 * (T1) Writes are made in the transaction of the operation that carries them (eb_op.collect), at its place in the
 *      order: either all of them and its events are there after a crash, or none.
 * (T2) The bus is asked for them late, under the commit lock: so one operation of a consumer carries all that has
 *      changed up to then, however many acks that were.
 * (T3) With storage = memory nothing is kept but the lists of dead letters.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct eb_store;

enum eb_state_kind {
    EB_STATE_CONSUMER,     /* the whole row, made or replaced */
    EB_STATE_POSITION,     /* of a row that is there: next, first_open, counts, stopped */
    EB_STATE_DROP,         /* the consumer with its blocks and its list of dead letters */
    EB_STATE_BLOCK,        /* one block of open events; len 0: the row goes */
    EB_STATE_BLOCKS_CLEAR, /* all of them go (seek) */
    EB_STATE_DEAD_ADD, /* `seq` is a dead letter that waits for redrive; 0: the first event of this op */
    EB_STATE_DEAD_DROP,
    EB_STATE_MARK, /* `name` stands at `next`: only ever set with what it marks */
};

struct eb_state_counts {
    uint64_t redelivered, dead, lost;
};

/* One write. All pointers are borrowed until the operation's `done`. */
struct eb_state_write {
    const struct eb_state_write *next_write;
    enum eb_state_kind kind;
    uint64_t consumer;    /* id, from 1, never used again */
    const char *name;     /* consumer (UTF-8, NUL-terminated), mark */
    const char *settings; /* JSON text, NUL-terminated */
    int64_t made_ms;
    uint64_t next, first_open; /* position; mark: its value */
    struct eb_state_counts counts;
    const char *stopped; /* why it takes nothing any more; NULL: it does */
    uint64_t block;
    const uint8_t *data;
    size_t len;
    uint64_t seq; /* dead letters */
};

/* A consumer as it was stored; pointers live as long as the call. */
struct eb_state_consumer {
    uint64_t id;
    const char *name, *settings, *stopped;
    int64_t made_ms;
    uint64_t next, first_open;
    struct eb_state_counts counts;
};

/* What a start is told. For each consumer: the row, then its blocks in rising order. Return < 0 ends it. */
struct eb_state_loader {
    void *ctx;
    int (*consumer)(void *ctx, const struct eb_state_consumer *row);
    int (*block)(void *ctx, uint64_t consumer, uint64_t number, const uint8_t *data, size_t len);
};
/** All that is kept, between eb_store_open and eb_store_start. 0, -EIO, -EBADMSG, -ENOMEM, or what a callback returned. */
int eb_store_load_state(struct eb_store *store, const struct eb_state_loader *loader);

/** The value of a mark, 0 when there is none. Before eb_store_start, or from within `collect`. 0 or -EIO. */
int eb_store_mark(struct eb_store *store, const char *name, uint64_t *ret);

/**
 * Age, size and acked_retention delete nothing at or above @seq from now on (retention_holds); UINT64_MAX: nothing is
 * held. A ttl is not held. Threads: any.
 */
void eb_store_hold(struct eb_store *store, uint64_t seq);
