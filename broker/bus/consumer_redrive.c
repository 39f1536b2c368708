/*
 * consumer_redrive.c - dead letters that are given to their consumer again, a page after the other: read which there
 * are (and, with `order`, their events for the keys), then in one commit off the list of dead letters and open again.
 *
 * (D1) It stops while EB_WORKLIST_OPEN events are open, and says how many it has redriven: more can be asked for later.
 * (D2) The same way those leave the list that retention took (EB_CONSUMER_TIDY): they are open no more, and not redriven.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"

#define PAGE 256

struct eb_redrive {
    uint64_t after; /* all: from which seq on to look */
    uint32_t named; /* named: how many are through … */
    uint32_t page;  /* … and the first of this step */
    size_t count;   /* of this step */
    size_t keyed;   /* of them have their key */
    uint64_t *seqs; /* malloc'd */
    bool over;      /* there are no others */
    uint64_t upto;  /* tidy: those up to here leave the list, and are open no more */
    bool in[PAGE];  /* open again by this step */
    struct eb_order_key keys[PAGE];
};

void eb_redrive_free(struct eb_redrive *redrive)
{
    if (redrive == NULL)
        return;
    free(redrive->seqs);
    free(redrive);
}

/* ---- reading a step ---- */

static void read_keys(struct eb_change *change);

static void keys_read(struct eb_read *read)
{
    struct eb_change *change = read->user;
    struct eb_consumer *consumer = change->consumer;
    struct eb_redrive *redrive = change->redrive;
    char header[EB_ORDER_HEADER_MAX + 1];
    eb_lock_take(&consumer->lock);
    enum eb_consumer_order order = consumer->settings->order;
    memcpy(header, consumer->settings->order_header, sizeof(header));
    eb_lock_drop(&consumer->lock);
    for (size_t i = 0; i < read->looked_at; i++) {
        if (read->events[i] != NULL)
            redrive->keys[redrive->keyed + i] =
                eb_order_key(consumer, read->events[i], order, header);
    }
    redrive->keyed += read->looked_at;
    if (read->err.code != EB_OK) {
        change->err = read->err;
        redrive->count = redrive->keyed = 0;
    }
    eb_read_finish(read);
    if (redrive->keyed < redrive->count)
        read_keys(change);
    else
        eb_change_ready(change);
}

static void read_keys(struct eb_change *change)
{
    struct eb_redrive *redrive = change->redrive;
    change->read = (struct eb_read){.kind = EB_READ_EVENTS,
                                    .seqs = redrive->seqs + redrive->keyed,
                                    .seq_count = redrive->count - redrive->keyed,
                                    .max_bytes = EB_CONSUMER_FETCH_BYTES,
                                    .done = keys_read,
                                    .user = change};
    eb_bus_read(change->all->bus, &change->read);
}

static bool is_tidy(const struct eb_change *change)
{
    return change->request->verb == EB_CONSUMER_TIDY;
}

static void seqs_read(struct eb_read *read)
{
    struct eb_change *change = read->user;
    struct eb_consumer *consumer = change->consumer;
    struct eb_redrive *redrive = change->redrive;
    free(redrive->seqs);
    redrive->seqs = read->dead_seqs;
    redrive->count = read->dead_count;
    read->dead_seqs = NULL;
    if (read->err.code != EB_OK) {
        change->err = read->err;
        redrive->count = 0;
    }
    if (change->request->count == 0) {
        redrive->over = redrive->count < PAGE;
        redrive->after = redrive->count > 0 ? redrive->seqs[redrive->count - 1] + 1 : 0;
    }
    while (is_tidy(change) && redrive->count > 0 &&
           redrive->seqs[redrive->count - 1] > redrive->upto) {
        redrive->count--;
        redrive->over = true;
    }
    eb_read_finish(read);
    eb_lock_take(&consumer->lock);
    bool ordered = consumer->settings->order != EB_ORDER_NONE && !is_tidy(change);
    eb_lock_drop(&consumer->lock);
    if (ordered && redrive->count > 0)
        read_keys(change);
    else
        eb_change_ready(change);
}

void eb_redrive_read(struct eb_change *change)
{
    const struct eb_consumer_request *request = change->request;
    struct eb_redrive *redrive = change->redrive;
    if (redrive == NULL) {
        redrive = change->redrive = calloc(1, sizeof(*redrive));
        for (uint32_t i = 0; i < request->count; i++)
            request->results[i] = EB_JOB_UNKNOWN;
    }
    if (redrive == NULL) {
        eb_fail(&change->err, EB_INTERNAL, "out of memory");
        eb_change_ready(change);
        return;
    }
    if (is_tidy(change) && redrive->upto == 0) {
        struct eb_store_info info;
        eb_store_info(change->all->bus->store, &info);
        redrive->upto = info.deleted_upto;
    }
    redrive->keyed = redrive->count = 0;
    memset(redrive->keys, 0, sizeof(redrive->keys));
    change->read = (struct eb_read){.kind = EB_READ_DEAD_SEQS,
                                    .consumer = change->consumer->id,
                                    .limit = PAGE,
                                    .from = redrive->after,
                                    .done = seqs_read,
                                    .user = change};
    if (request->count > 0) {
        uint32_t left = request->count - redrive->named;
        redrive->page = redrive->named;
        change->read.seqs = request->seqs + redrive->named;
        change->read.seq_count = left < PAGE ? left : PAGE;
        redrive->named += (uint32_t)change->read.seq_count;
        redrive->over = redrive->named == request->count;
    }
    eb_bus_read(change->all->bus, &change->read);
}

/* ---- committing it ---- */

void eb_redrive_collect_locked(struct eb_consumer *consumer, struct eb_redrive *redrive)
{
    for (size_t i = 0; redrive != NULL && i < redrive->count; i++) {
        redrive->in[i] = redrive->upto > 0;
        if (redrive->in[i])
            continue;
        if (eb_worklist_open(consumer->list) >= EB_WORKLIST_OPEN) { /* D1 */
            redrive->over = true;
            continue;
        }
        int rc = eb_worklist_insert(consumer->list, redrive->seqs[i], redrive->keys[i]);
        redrive->in[i] = rc == 0 || rc == -EEXIST;
    }
}

size_t eb_redrive_room(const struct eb_redrive *redrive)
{
    return redrive->count;
}

size_t eb_redrive_writes(const struct eb_consumer *consumer, const struct eb_redrive *redrive,
                         struct eb_state_write *at)
{
    size_t count = 0;
    for (size_t i = 0; redrive != NULL && i < redrive->count; i++) {
        if (redrive->in[i])
            at[count++] = (struct eb_state_write){
                .kind = EB_STATE_DEAD_DROP, .consumer = consumer->id, .seq = redrive->seqs[i]};
    }
    return count;
}

/* Both are in the order that was asked for. */
static void answer_named(const struct eb_redrive *redrive, struct eb_consumer_request *request)
{
    size_t at = 0;
    for (uint32_t i = redrive->page; i < redrive->named && at < redrive->count; i++) {
        if (request->seqs[i] != redrive->seqs[at])
            continue;
        if (redrive->in[at++])
            request->results[i] = EB_JOB_OK;
    }
}

bool eb_redrive_committed_locked(struct eb_consumer *consumer, struct eb_redrive *redrive, bool ok,
                                 struct eb_consumer_request *request)
{
    for (size_t i = 0; redrive != NULL && i < redrive->count; i++) {
        if (!redrive->in[i])
            continue;
        if (ok) {
            request->redriven++;
            consumer->dead_waiting -= consumer->dead_waiting > 0;
        } else { /* it stays a dead letter */
            eb_worklist_gone(consumer->list, redrive->seqs[i]);
        }
    }
    if (ok && redrive != NULL && request->count > 0)
        answer_named(redrive, request);
    return redrive != NULL && !redrive->over;
}
