/*
 * consumer_turn.c - what `eb-consumer` does: whose turn it is, and one consumer's turn.
 *
 * (R1) A consumer stands in the run list once. Its turn does a bounded amount of work and puts it at the tail again
 *      when there is more: so one with a long backlog does not hold up the others.
 * (R2) What is due by the clock is found in one heap; each turn says anew when its consumer is due next.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/bus/consumer_internal.h"
#include "common/clock.h"
#include "common/log.h"

#define ROUNDS  4 /* of taking in and handing out in one turn */
#define HOLD_MS 1000

/* ---- the run list ---- */

void eb_consumer_run(struct eb_consumer *consumer)
{
    struct eb_consumers *all = consumer->all;
    eb_lock_take(&all->run_lock);
    if (!consumer->queued) {
        consumer->queued = true;
        consumer->run_next = NULL;
        *all->run_end = eb_consumer_ref(consumer);
        all->run_end = &consumer->run_next;
        eb_consumers_signal_locked(all);
    }
    eb_lock_drop(&all->run_lock);
}

static struct eb_consumer *take_run(struct eb_consumers *all)
{
    eb_lock_take(&all->run_lock);
    struct eb_consumer *consumer = all->run;
    if (consumer != NULL) {
        all->run = consumer->run_next;
        if (all->run == NULL)
            all->run_end = &all->run;
        consumer->queued = false;
    }
    eb_lock_drop(&all->run_lock);
    return consumer;
}

/* ---- the heap of times (R2) ---- */

static void heap_put(struct eb_consumers *all, uint32_t at, struct eb_consumer *consumer)
{
    all->heap[at] = consumer;
    consumer->heap_at = at + 1;
}

static void heap_up(struct eb_consumers *all, uint32_t at, struct eb_consumer *consumer)
{
    for (; at > 0 && all->heap[(at - 1) / 2]->due_ms > consumer->due_ms; at = (at - 1) / 2)
        heap_put(all, at, all->heap[(at - 1) / 2]);
    heap_put(all, at, consumer);
}

static void heap_down(struct eb_consumers *all, uint32_t at, struct eb_consumer *consumer)
{
    for (uint32_t child; (child = at * 2 + 1) < all->heap_count; at = child) {
        if (child + 1 < all->heap_count && all->heap[child + 1]->due_ms < all->heap[child]->due_ms)
            child++;
        if (all->heap[child]->due_ms >= consumer->due_ms)
            break;
        heap_put(all, at, all->heap[child]);
    }
    heap_put(all, at, consumer);
}

static void heap_remove(struct eb_consumers *all, struct eb_consumer *consumer)
{
    uint32_t at = consumer->heap_at - 1;
    struct eb_consumer *last = all->heap[--all->heap_count];
    consumer->heap_at = 0;
    if (last == consumer)
        return;
    if (at > 0 && all->heap[(at - 1) / 2]->due_ms > last->due_ms)
        heap_up(all, at, last);
    else
        heap_down(all, at, last);
}

void eb_consumer_time(struct eb_consumer *consumer, int64_t due_ms)
{
    struct eb_consumers *all = consumer->all;
    bool was_in = consumer->heap_at != 0;
    if (was_in)
        heap_remove(all, consumer);
    consumer->due_ms = due_ms;
    if (due_ms == INT64_MAX) {
        if (was_in)
            eb_consumer_unref(consumer); /* may free it */
        return;
    }
    if (all->heap_count == all->heap_cap) {
        uint32_t cap = all->heap_cap != 0 ? all->heap_cap * 2 : 16;
        struct eb_consumer **heap = realloc(all->heap, cap * sizeof(struct eb_consumer *));
        if (heap ==
            NULL) { /* without memory: by turns instead of by the clock; it was not in then */
            eb_consumer_run(consumer);
            return;
        }
        all->heap = heap;
        all->heap_cap = cap;
    }
    heap_up(all, all->heap_count++, was_in ? consumer : eb_consumer_ref(consumer));
}

/* ---- one turn ---- */

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* What is to be kept now; requests that wait do not wait for the clock. */
static void keep_turn_locked(struct eb_consumer *consumer, int64_t now)
{
    bool asked = consumer->keep.waiting != NULL ||
                 (consumer->keep.change != NULL && consumer->keep.change->ready);
    if (consumer->life == EB_CONSUMER_GONE)
        return;
    if (asked || (consumer->changed && consumer->keep_ms <= now))
        eb_consumer_keep_locked(consumer);
}

static int64_t due_locked(struct eb_consumer *consumer, int64_t now)
{
    int64_t due = earlier(eb_worklist_due(consumer->list), eb_workers_due_locked(consumer));
    if (consumer->changed && !consumer->keep.under_way)
        due = earlier(due, consumer->keep_ms);
    if (consumer->feed_ms > now)
        due = earlier(due, consumer->feed_ms);
    if (consumer->fetch_ms > now)
        due = earlier(due, consumer->fetch_ms);
    if (consumer->bury_ms > now)
        due = earlier(due, consumer->bury_ms);
    return earlier(due, consumer->said.tick_ms);
}

void eb_consumer_turn(struct eb_consumer *consumer)
{
    bool more = false;
    int64_t now = eb_consumers_now(), due = INT64_MAX;
    eb_changes_turn(consumer);
    eb_push_follow(consumer);
    eb_workers_tell(consumer);
    eb_feed_follow(consumer);
    eb_lock_take(&consumer->lock);
    if (eb_worklist_expire(consumer->list, now) > 0)
        eb_consumer_changed_locked(consumer);
    eb_lock_drop(&consumer->lock);
    for (int round = 0; round < ROUNDS; round++) {
        more = eb_feed_take_in(consumer);
        eb_feed_fetch(consumer);
        more = eb_consumer_hand_out(consumer) || more;
        if (!more)
            break;
    }
    eb_workers_tell(consumer); /* of gaps that came */
    eb_workers_expire(consumer);
    eb_consumer_bury(consumer);
    if (consumer->said.tick_ms <= now)
        eb_consumer_tick(consumer, now);
    eb_lock_take(&consumer->lock);
    keep_turn_locked(consumer, now);
    if (consumer->life != EB_CONSUMER_GONE)
        due = due_locked(consumer, now);
    eb_lock_drop(&consumer->lock);
    eb_consumer_time(consumer, due);
    if (more)
        eb_consumer_run(consumer);
}

/* ---- a round of all ---- */

/* Whoever calls webhooks is new, or has gone: all of them look. */
static void follow_push(struct eb_consumers *all)
{
    eb_lock_take(&all->run_lock);
    bool seen = all->push_seen == all->push_round;
    all->push_seen = all->push_round;
    eb_lock_drop(&all->run_lock);
    if (seen)
        return;
    size_t count;
    struct eb_consumer **list = eb_consumers_all(all, &count);
    for (size_t i = 0; i < count; i++)
        eb_consumer_run(list[i]);
    eb_consumers_all_finish(list, count);
}

int64_t eb_consumers_round(struct eb_consumers *all)
{
    int64_t now = eb_consumers_now();
    struct eb_consumer *consumer;
    follow_push(all);
    eb_changes_begin(all);
    while (all->heap_count > 0 && all->heap[0]->due_ms <= now) {
        consumer = all->heap[0];
        heap_remove(all, consumer);
        eb_consumer_run(consumer);
        eb_consumer_unref(consumer);
    }
    eb_lock_take(&all->run_lock);
    uint32_t turns = 0;
    for (consumer = all->run; consumer != NULL; consumer = consumer->run_next)
        turns++;
    eb_lock_drop(&all->run_lock);
    for (; turns > 0 && (consumer = take_run(all)) != NULL; turns--) {
        eb_consumer_turn(consumer);
        eb_consumer_unref(consumer);
    }
    if (atomic_exchange(&all->hold_afresh, false) || now >= all->hold_ms) {
        all->hold_ms = now + HOLD_MS;
        eb_consumers_hold(all);
    }
    return all->heap_count > 0 ? all->heap[0]->due_ms : INT64_MAX;
}

/* ---- the end ---- */

/* True: nothing of it is under way any more. */
static bool end_one(struct eb_consumer *consumer)
{
    eb_lock_take(&consumer->lock);
    bool first = !consumer->stopping;
    consumer->stopping = true;
    if (first)
        eb_workers_release_locked(consumer, "shutdown");
    eb_lock_drop(&consumer->lock);
    eb_workers_tell(consumer);
    if (first)
        eb_feed_close(consumer);
    eb_changes_refuse(consumer->all, consumer);
    eb_lock_take(&consumer->lock);
    if (first && consumer->changed && consumer->life == EB_CONSUMER_THERE)
        eb_consumer_keep_locked(consumer);
    bool over = !consumer->keep.under_way && consumer->burials == 0;
    eb_lock_drop(&consumer->lock);
    return over;
}

bool eb_consumers_end(struct eb_consumers *all)
{
    struct eb_consumer *consumer;
    bool over = true;
    size_t count;
    eb_lock_take(&all->list_lock);
    all->closed = true;
    eb_lock_drop(&all->list_lock);
    eb_changes_refuse(all, NULL);
    while ((consumer = take_run(all)) != NULL)
        eb_consumer_unref(consumer);
    while (all->heap_count > 0)
        eb_consumer_time(all->heap[0], INT64_MAX);
    struct eb_consumer **list = eb_consumers_all(all, &count);
    for (size_t i = 0; i < count; i++)
        over = end_one(list[i]) && over;
    eb_consumers_all_finish(list, count);
    return over;
}
