/*
 * autoack.c - events that a plain subscriber was given, marked in the log in batches (PROTOCOL 2.2, `auto_ack`).
 *
 * (A1) A batch is submitted when it has BATCH seqs or is DELAY_MS old, whichever is first: by whoever filled
 *      it, or by a reader of the pool.
 * (A2) The first subscriber counts. A small table of what was marked lately keeps the others' out; what slips
 *      through it is marked twice, which changes nothing.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

#define BATCH    1024
#define DELAY_MS 50
#define RECENT   4096 /* a power of two */

struct batch {
    struct eb_op op;
    struct eb_bus *bus;
    uint64_t seqs[BATCH];
};

struct eb_autoack {
    struct eb_bus *bus;  /* [I] */
    struct eb_lock lock; /* EB_RANK_LEAF: all below */
    struct batch *batch; /* being filled, or NULL */
    uint64_t recent[RECENT];
};

static void batch_done(struct eb_op *op)
{
    struct batch *batch = eb_container(op, struct batch, op);
    struct eb_bus *bus = batch->bus;
    if (op->err.code == EB_OK)
        eb_count(bus->counters.acked, op->count);
    free(batch);
}

static void submit(struct batch *batch)
{
    if (batch == NULL)
        return;
    batch->op.kind = EB_OP_AUTO_ACK;
    batch->op.seqs = batch->seqs;
    batch->op.done = batch_done;
    eb_bus_submit(batch->bus, &batch->op);
}

static struct batch *steal_locked(struct eb_autoack *autoack)
{
    struct batch *batch = autoack->batch;
    autoack->batch = NULL;
    return batch;
}

/* How many of the seqs it took; *ret_full is a batch to be submitted, *ret_first: a batch was begun. */
static size_t fill_locked(struct eb_autoack *autoack, const uint64_t *seqs, size_t count,
                          struct batch **ret_full, bool *ret_first)
{
    size_t i;
    for (i = 0; i < count && *ret_full == NULL; i++) {
        uint64_t seq = seqs[i], *recent = &autoack->recent[seq % RECENT];
        if (*recent == seq)
            continue;
        if (autoack->batch == NULL) {
            autoack->batch = calloc(1, sizeof(*autoack->batch));
            if (autoack->batch == NULL)
                return count; /* such marks may be lost (PROTOCOL 2.2) */
            autoack->batch->bus = autoack->bus;
            *ret_first = true;
        }
        *recent = seq;
        autoack->batch->seqs[autoack->batch->op.count++] = seq;
        if (autoack->batch->op.count == BATCH)
            *ret_full = steal_locked(autoack);
    }
    return i;
}

static void mark(struct eb_autoack *autoack, const uint64_t *seqs, size_t count, bool *ret_first)
{
    while (count > 0) {
        struct batch *full = NULL;
        eb_lock_take(&autoack->lock);
        size_t taken = fill_locked(autoack, seqs, count, &full, ret_first);
        eb_lock_drop(&autoack->lock);
        submit(full);
        seqs += taken;
        count -= taken;
    }
}

void eb_autoack_mark(struct eb_autoack *autoack, const struct eb_out *items, size_t count)
{
    bool first = false;
    for (size_t i = 0; i < count; i++) {
        const struct eb_frame *frame = items[i].frame;
        if (items[i].seq == 0)
            continue;
        if (frame->events != 0)
            mark(autoack, eb_frame_seqs(frame), frame->events, &first);
        else
            mark(autoack, &items[i].seq, 1, &first);
    }
    if (first)
        eb_pool_autoack_due(autoack->bus->pool, eb_mono_ms() + DELAY_MS);
}

void eb_autoack_flush(struct eb_autoack *autoack)
{
    if (autoack == NULL)
        return;
    eb_lock_take(&autoack->lock);
    struct batch *batch = steal_locked(autoack);
    eb_lock_drop(&autoack->lock);
    submit(batch);
}

int eb_autoack_create(struct eb_bus *bus, struct eb_autoack **ret)
{
    struct eb_autoack *autoack = calloc(1, sizeof(*autoack));
    if (autoack == NULL)
        return -ENOMEM;
    autoack->bus = bus;
    eb_lock_init(&autoack->lock, EB_RANK_LEAF);
    *ret = autoack;
    return 0;
}

void eb_autoack_destroy(struct eb_autoack *autoack)
{
    if (autoack == NULL)
        return;
    free(autoack->batch);
    eb_lock_finish(&autoack->lock);
    free(autoack);
}
