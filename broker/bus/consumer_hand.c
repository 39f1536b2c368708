/*
 * consumer_hand.c - workers: they come, are handed events in turn, and go.
 *
 * (W1) All ops of workers are called by `eb-consumer`, with no lock held and `calling` set. Who leaves takes the worker
 *      off its list first and then waits for a call that is under way, unless he is called himself.
 * (W2) An event is out with its worker before `deliver` is called, and ready again at once if that does not take it: also
 *      when the worker leaves in between, whose owner waits for the call and would leave it out with nobody. What a
 *      detach in between has taken back already stays as that has left it.
 * (W3) One event each in turn: `workers` points to the next to be served. Who has no room is passed over.
 * (W4) What ops->room says is counted down, and asked again when it is used up. When it says 0 it is asked again after
 *      eb_consumer_worker_room.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/bus/consumer_internal.h"
#include "common/clock.h"

#define RUN_MAX 256 /* deliveries in one run */

/* ---- lists of workers ---- */

static void link_locked(struct eb_consumer *consumer, struct eb_consumer_worker *worker)
{
    struct eb_consumer_worker *next = consumer->workers;
    worker->listed = true;
    consumer->worker_count++;
    if (next == NULL) {
        consumer->workers = worker->prev = worker->next = worker;
        return;
    }
    worker->next = next;
    worker->prev = next->prev;
    next->prev->next = worker;
    next->prev = worker;
}

static void unlink_locked(struct eb_consumer *consumer, struct eb_consumer_worker *worker)
{
    if (worker->listed) {
        worker->listed = false;
        consumer->worker_count--;
        if (consumer->workers == worker)
            consumer->workers = worker->next != worker ? worker->next : NULL;
        worker->prev->next = worker->next;
        worker->next->prev = worker->prev;
    } else if (worker->in_leaving) {
        struct eb_consumer_worker **at = &consumer->leaving;
        while (*at != worker)
            at = &(*at)->next;
        *at = worker->next;
        worker->in_leaving = false;
    }
}

static void worker_unref(struct eb_consumer_worker *worker)
{
    if (atomic_fetch_sub_explicit(&worker->refs, 1, memory_order_acq_rel) != 1)
        return;
    eb_consumer_unref(worker->consumer);
    free(worker);
}

/* ---- coming and going ---- */

static int may_attach_locked(const struct eb_consumer *consumer, bool pushes, struct eb_error *err)
{
    if (consumer->life != EB_CONSUMER_THERE)
        return eb_fail(err, EB_NOT_FOUND, "there is no consumer %s", consumer->name);
    if (consumer->stopping)
        return eb_fail(err, EB_UNAVAILABLE, "the broker is going down");
    if (consumer->stopped[0] != '\0')
        return eb_fail(err, EB_CONFLICT, "consumer %s was stopped and must be PUT again: %s",
                       consumer->name, consumer->stopped);
    if (consumer->settings->has_push && !pushes)
        return eb_fail(
            err, EB_CONFLICT,
            "consumer %s has a webhook (push), which is given its events: PUT it without "
            "push to fetch or consume",
            consumer->name);
    if (!consumer->settings->has_push && pushes)
        return eb_fail(err, EB_CONFLICT, "consumer %s has no webhook (push)", consumer->name);
    return 0;
}

int eb_consumer_attach(struct eb_bus *bus, const char *name, const struct eb_worker_ops *ops,
                       void *user, uint32_t max_inflight, int64_t until_ms, bool pushes,
                       struct eb_consumer_worker **ret, struct eb_error *err)
{
    struct eb_consumer *consumer = eb_consumer_find(bus->consumers, name);
    struct eb_consumer_worker *worker = calloc(1, sizeof(*worker));
    int rc = -1;
    if (consumer == NULL) {
        eb_fail(err, EB_NOT_FOUND, "there is no consumer %s", name);
    } else if (worker == NULL) {
        eb_fail(err, EB_INTERNAL, "out of memory");
    } else {
        atomic_init(&worker->refs, 1);
        worker->consumer = consumer;
        worker->ops = ops;
        worker->user = user;
        worker->max_inflight = max_inflight;
        worker->until_ms = until_ms;
        worker->pushes = pushes;
        worker->asks_room = ops->room != NULL;
        worker->room = SIZE_MAX;
        eb_lock_take(&consumer->lock);
        rc = may_attach_locked(consumer, pushes, err);
        if (rc == 0)
            link_locked(consumer, worker);
        eb_lock_drop(&consumer->lock);
    }
    if (rc < 0) {
        eb_consumer_unref(consumer);
        free(worker);
        return -1;
    }
    *ret = worker;
    return 0;
}

void eb_consumer_begin(struct eb_consumer_worker *worker)
{
    eb_lock_take(&worker->consumer->lock);
    worker->begun = true;
    eb_lock_drop(&worker->consumer->lock);
    eb_consumer_run(worker->consumer);
}

void eb_consumer_worker_limit(struct eb_consumer_worker *worker, uint32_t max_inflight)
{
    eb_lock_take(&worker->consumer->lock);
    worker->max_inflight = max_inflight;
    eb_lock_drop(&worker->consumer->lock);
    eb_consumer_run(worker->consumer);
}

static void room_again(struct eb_consumer_worker *worker)
{
    worker->asks_room = worker->ops->room != NULL;
    worker->room = SIZE_MAX;
}

void eb_consumer_worker_room(struct eb_consumer_worker *worker)
{
    eb_lock_take(&worker->consumer->lock);
    room_again(worker);
    eb_lock_drop(&worker->consumer->lock);
    eb_consumer_run(worker->consumer);
}

/* What is out with it. */
static void give_up_locked(struct eb_consumer *consumer, struct eb_consumer_worker *worker,
                           enum eb_leave how)
{
    if (worker->base.count == 0)
        return;
    switch (how) {
    case EB_LEAVE_AGAIN:
        eb_worklist_detach(consumer->list, &worker->base);
        break;
    case EB_LEAVE_RETURN:
        eb_worklist_detach_uncounted(consumer->list, &worker->base);
        break;
    case EB_LEAVE_OUT:
        eb_worklist_give(consumer->list, &worker->base, &consumer->nobody);
        break;
    }
    eb_consumer_changed_locked(consumer);
}

void eb_consumer_leave(struct eb_consumer_worker *worker, enum eb_leave how)
{
    struct eb_consumer *consumer = worker->consumer;
    eb_lock_take(&consumer->lock);
    unlink_locked(consumer, worker);
    worker->left = true;
    while (worker->calling && !eb_consumers_thread()) /* W1 */
        eb_cond_wait(&consumer->calls, &consumer->lock, -1);
    give_up_locked(consumer, worker, how);
    bool ending = consumer->stopping; /* then the list of all may be gone */
    eb_lock_drop(&consumer->lock);
    if (!ending)
        eb_consumer_run(consumer);
    worker_unref(worker);
}

void eb_workers_release_locked(struct eb_consumer *consumer, const char *reason)
{
    struct eb_consumer_worker *worker;
    while ((worker = consumer->workers) != NULL) {
        unlink_locked(consumer, worker);
        give_up_locked(consumer, worker, EB_LEAVE_AGAIN);
        worker->reason = reason;
        worker->in_leaving = true;
        worker->next = consumer->leaving;
        consumer->leaving = worker;
    }
}

/* ---- calls ---- */

/* From here to call_end_locked the worker stays, and its owner waits if he wants to leave. Drops the lock. */
static void call_begin_locked(struct eb_consumer *consumer, struct eb_consumer_worker *worker)
{
    worker->calling = true;
    atomic_fetch_add_explicit(&worker->refs, 1, memory_order_relaxed);
    eb_lock_drop(&consumer->lock);
}

/* Takes the lock. False: its owner has left, it may be gone. */
static bool call_end_locked(struct eb_consumer *consumer, struct eb_consumer_worker *worker)
{
    eb_lock_take(&consumer->lock);
    bool left = worker->left;
    worker->calling = false;
    pthread_cond_broadcast(&consumer->calls);
    /* It is not the consumer's last reference: the thread holds one. */
    worker_unref(worker);
    return !left;
}

/* ---- handing out ---- */

static bool has_room_locked(const struct eb_consumer_worker *worker)
{
    return worker->listed && worker->begun && worker->room > 0 &&
           (worker->max_inflight == 0 || worker->base.count < worker->max_inflight);
}

/* The next worker with room (W3), asked for it if need be; NULL: none has. The lock is dropped on the way. */
static struct eb_consumer_worker *next_worker_locked(struct eb_consumer *consumer)
{
    for (uint32_t tries = consumer->worker_count; tries > 0 && consumer->workers != NULL; tries--) {
        struct eb_consumer_worker *worker = consumer->workers;
        if (has_room_locked(worker) && worker->asks_room) {
            worker->asks_room = false;
            call_begin_locked(consumer, worker);
            size_t room = worker->ops->room(worker->user);
            if (!call_end_locked(consumer, worker))
                continue;
            if (!worker->asks_room) /* else he has called meanwhile: ask again later */
                worker->room = room;
        }
        if (has_room_locked(worker) && !worker->asks_room)
            return worker;
        if (consumer->workers == worker)
            consumer->workers = worker->next;
    }
    return NULL;
}

/* The head of what is ready, if its event is at hand. */
static struct eb_event *head_locked(struct eb_consumer *consumer)
{
    uint64_t seq;
    if (!eb_worklist_ready(consumer->list) || eb_worklist_peek(consumer->list, &seq, 1) == 0)
        return NULL;
    return eb_cache_take(&consumer->cache, seq);
}

static void refused_locked(struct eb_consumer *consumer, struct eb_event *event, uint32_t delivery)
{
    eb_worklist_return(consumer->list, event->seq, delivery);
    if (eb_worklist_has(consumer->list, event->seq))
        eb_cache_put(&consumer->cache, event, true);
    consumer->delivered--;
    if (delivery > 1)
        consumer->counts.redelivered--;
}

/* One event for @worker. It takes over the event's reference. The lock is dropped on the way. */
static void deliver_locked(struct eb_consumer *consumer, struct eb_consumer_worker *worker,
                           struct eb_event *event)
{
    struct eb_job_view view;
    eb_worklist_take(consumer->list, &worker->base, eb_consumers_now(), &view); /* W2 */
    eb_consumer_changed_locked(consumer);
    consumer->delivered++;
    consumer->counts.redelivered += view.delivery > 1;
    worker->touched = worker->served = true;
    if (worker->room != SIZE_MAX && --worker->room == 0)
        room_again(worker); /* W4: all that it said is used, and it may have more by now */
    consumer->workers = worker->next;
    uint64_t gen = consumer->gen;
    call_begin_locked(consumer, worker);
    bool taken = worker->ops->deliver(worker->user, event, view.delivery);
    bool there = call_end_locked(consumer, worker);
    if (!taken && gen == consumer->gen)
        refused_locked(consumer, event, view.delivery);
    if (!taken && there && !worker->asks_room)
        worker->room = 0;
    eb_event_unref(event);
}

static struct eb_consumer_worker *touched_locked(const struct eb_consumer *consumer)
{
    struct eb_consumer_worker *worker = consumer->workers;
    for (uint32_t i = 0; i < consumer->worker_count; i++, worker = worker->next) {
        if (worker->touched)
            return worker;
    }
    return NULL;
}

/* Before any later event. */
static void tell_gap_locked(struct eb_consumer *consumer)
{
    struct eb_untold gap = consumer->untold;
    uint32_t count = consumer->worker_count;
    bool told = false;
    for (; gap.to_seq != 0 && count > 0 && consumer->workers != NULL; count--) {
        struct eb_consumer_worker *worker = consumer->workers;
        consumer->workers = worker->next;
        if (!worker->begun)
            continue;
        if (!told)
            consumer->untold = (struct eb_untold){0};
        told = true;
        if (worker->ops->gap == NULL)
            continue;
        call_begin_locked(consumer, worker);
        worker->ops->gap(worker->user, gap.from_seq, gap.to_seq, gap.reason);
        call_end_locked(consumer, worker);
    }
}

bool eb_consumer_hand_out(struct eb_consumer *consumer)
{
    struct eb_consumer_worker *worker;
    uint32_t count = 0;
    eb_lock_take(&consumer->lock);
    while (count < RUN_MAX && !consumer->stopping && consumer->stopped[0] == '\0' &&
           eb_worklist_ready(consumer->list) && (worker = next_worker_locked(consumer)) != NULL) {
        if (consumer->untold.to_seq != 0) {
            tell_gap_locked(consumer);
            continue;
        }
        struct eb_event *event = head_locked(consumer);
        if (event == NULL) /* it is being read, or was taken back meanwhile */
            break;
        if (event->ttl > 0 && eb_event_expired(event, eb_wall_ms())) {
            eb_worklist_gone(consumer->list, event->seq);
            eb_consumer_changed_locked(consumer);
            eb_event_unref(event);
            continue;
        }
        deliver_locked(consumer, worker, event);
        count++;
    }
    while (count > 0 && (worker = touched_locked(consumer)) != NULL) {
        worker->touched = false;
        if (worker->ops->flush == NULL)
            continue;
        call_begin_locked(consumer, worker);
        worker->ops->flush(worker->user);
        call_end_locked(consumer, worker);
    }
    eb_lock_drop(&consumer->lock);
    return count > 0;
}

/* ---- what else they are told ---- */

/* What is ready is being read: nobody's time is over before it was offered. */
static bool is_read_locked(const struct eb_consumer *consumer)
{
    return consumer->fetching && eb_worklist_ready(consumer->list);
}

static struct eb_consumer_worker *expired_locked(const struct eb_consumer *consumer, int64_t now)
{
    struct eb_consumer_worker *worker = consumer->workers;
    if (is_read_locked(consumer))
        return NULL;
    for (uint32_t i = 0; i < consumer->worker_count; i++, worker = worker->next) {
        if (worker->begun && !worker->served && worker->until_ms >= 0 && worker->until_ms <= now)
            return worker;
    }
    return NULL;
}

int64_t eb_workers_due_locked(const struct eb_consumer *consumer)
{
    const struct eb_consumer_worker *worker = consumer->workers;
    int64_t due = INT64_MAX;
    if (is_read_locked(consumer))
        return due;
    for (uint32_t i = 0; i < consumer->worker_count; i++, worker = worker->next) {
        if (worker->begun && !worker->served && worker->until_ms >= 0 && worker->until_ms < due)
            due = worker->until_ms;
    }
    return due;
}

void eb_workers_tell(struct eb_consumer *consumer)
{
    struct eb_consumer_worker *worker;
    eb_lock_take(&consumer->lock);
    while ((worker = consumer->leaving) != NULL) {
        consumer->leaving = worker->next;
        worker->in_leaving = false;
        call_begin_locked(consumer, worker);
        worker->ops->released(worker->user, worker->reason);
        call_end_locked(consumer, worker);
    }
    tell_gap_locked(consumer);
    eb_lock_drop(&consumer->lock);
}

void eb_workers_expire(struct eb_consumer *consumer)
{
    struct eb_consumer_worker *worker;
    int64_t now = eb_consumers_now();
    eb_lock_take(&consumer->lock);
    while ((worker = expired_locked(consumer, now)) != NULL) {
        worker->until_ms = -1;
        if (worker->ops->expired == NULL)
            continue;
        call_begin_locked(consumer, worker);
        worker->ops->expired(worker->user);
        call_end_locked(consumer, worker);
    }
    eb_lock_drop(&consumer->lock);
}
