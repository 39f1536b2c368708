/*
 * consumer_tick.c - what is looked at now and then: positions where nothing matches, how old the first open event is,
 * what stalls, and what retention must hold.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "common/log.h"

/* ---- the age of the first open event, when it is not known from its delivery ---- */

struct stamp {
    struct eb_read read;
    struct eb_consumer *consumer; /* one reference */
    uint64_t seq;
};

static void stamped(struct eb_read *read)
{
    struct stamp *stamp = read->user;
    struct eb_consumer *consumer = stamp->consumer;
    eb_lock_take(&consumer->lock);
    if (read->looked_at == 1 && read->events[0] != NULL)
        eb_worklist_stamp(consumer->list, stamp->seq, read->events[0]->timestamp);
    consumer->stamping = false;
    eb_lock_drop(&consumer->lock);
    eb_read_finish(read);
    eb_consumer_unref(consumer);
    free(stamp);
}

static void find_age(struct eb_consumer *consumer, uint64_t seq)
{
    struct stamp *stamp = calloc(1, sizeof(*stamp));
    if (stamp == NULL)
        return;
    stamp->consumer = eb_consumer_ref(consumer);
    stamp->seq = seq;
    stamp->read.kind = EB_READ_EVENTS;
    stamp->read.seqs = &stamp->seq;
    stamp->read.seq_count = 1;
    stamp->read.max_bytes = 1;
    stamp->read.done = stamped;
    stamp->read.user = stamp;
    eb_lock_take(&consumer->lock);
    consumer->stamping = true;
    eb_lock_drop(&consumer->lock);
    eb_bus_read(consumer->all->bus, &stamp->read);
}

/* ---- what is said once ---- */

/* Work waits, nobody is there for it, and that for a minute. */
static void say_stall(struct eb_consumer *consumer, int64_t now, bool alone, uint64_t cursor,
                      uint64_t lag)
{
    if (!alone || cursor != consumer->said.cursor || consumer->said.alone_ms < 0)
        consumer->said.alone_ms = alone ? now : -1;
    if (consumer->said.stalled && (!alone || cursor != consumer->said.cursor)) {
        consumer->said.stalled = false;
        eb_info("EB-CONSUMER-MOVES", "consumer %s goes on: all up to seq %llu is done",
                consumer->name, (unsigned long long)cursor);
    }
    consumer->said.cursor = cursor;
    if (!alone || consumer->said.stalled || now - consumer->said.alone_ms < EB_CONSUMER_STALL_MS)
        return;
    consumer->said.stalled = true;
    eb_warn(
        "EB-CONSUMER-STALLED",
        "consumer %s has no worker and has not moved for a minute: up to %llu events of the log "
        "wait for it; start one, or delete the consumer",
        consumer->name, (unsigned long long)lag);
}

static void say_window(struct eb_consumer *consumer, const struct eb_worklist_figures *figures)
{
    if (figures->window_full == consumer->said.window)
        return;
    consumer->said.window = figures->window_full;
    if (figures->window_full)
        eb_warn("EB-CONSUMER-WINDOW",
                "consumer %s waits: %u events are open and its window (order_window) is full; the "
                "first open one is seq %llu",
                consumer->name, figures->open, (unsigned long long)figures->first_open);
    else
        eb_info("EB-CONSUMER-MOVES", "consumer %s goes on: its window is not full any more",
                consumer->name);
}

/* ---- dead letters that retention took ---- */

static void tidied(struct eb_consumer_request *request)
{
    free(request);
}

static void tidy(struct eb_consumer *consumer)
{
    struct eb_consumer_request *request = calloc(1, sizeof(*request));
    if (request == NULL)
        return;
    request->verb = EB_CONSUMER_TIDY;
    request->err = (struct eb_error){.code = EB_OK, .index = -1};
    request->done = tidied;
    memcpy(request->name, consumer->name, sizeof(request->name));
    eb_change_submit(consumer->all, request);
}

void eb_consumer_tick(struct eb_consumer *consumer, int64_t now)
{
    struct eb_worklist_figures figures;
    struct eb_store_info info;
    eb_store_info(consumer->all->bus->store, &info);
    uint64_t visible = eb_bus_visible(consumer->all->bus);
    consumer->said.tick_ms = now + EB_CONSUMER_TICK_MS;
    eb_lock_take(&consumer->lock);
    eb_feed_passed_locked(consumer);
    eb_worklist_figures(consumer->list, &figures);
    uint64_t lag = figures.open + (visible >= figures.next ? visible + 1 - figures.next : 0);
    bool there = consumer->life == EB_CONSUMER_THERE && consumer->stopped[0] == '\0';
    bool alone = there && consumer->worker_count == 0 && lag > 0;
    bool ageless =
        there && !consumer->stamping && figures.open > 0 && eb_worklist_oldest(consumer->list) == 0;
    bool untidy = consumer->dead_waiting > 0 && info.deleted_upto > consumer->said.tidy;
    eb_lock_drop(&consumer->lock);
    if (ageless)
        find_age(consumer, figures.first_open);
    consumer->said.tidy = info.deleted_upto;
    if (untidy)
        tidy(consumer);
    if (!there)
        return;
    say_stall(consumer, now, alone, figures.first_open - 1, lag);
    say_window(consumer, &figures);
}

/* ---- retention_holds ---- */

void eb_consumers_hold(struct eb_consumers *all)
{
    uint64_t first = UINT64_MAX;
    size_t count;
    if (!all->bus->config.retention_holds)
        return;
    struct eb_consumer **list = eb_consumers_all(all, &count);
    for (size_t i = 0; i < count; i++) {
        eb_lock_take(&list[i]->lock);
        if (list[i]->life == EB_CONSUMER_THERE && list[i]->kept_first < first)
            first = list[i]->kept_first;
        eb_lock_drop(&list[i]->lock);
    }
    eb_consumers_all_finish(list, count);
    if (first != all->held)
        eb_store_hold(all->bus->store, first);
    all->held = first;
}
