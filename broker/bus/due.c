/*
 * due.c - the thread `eb-due`: what was published for a later time enters the log when it is due (PROTOCOL 8).
 *
 * The store keeps what waits, ordered by its time, and knows the earliest one; this thread only keeps the time. So a
 * million waiting events cost nothing until one is due.
 *
 * (E1) The times are the wall clock's, which may jump: with something to wait for it is looked at every second.
 * (E2) What is due is taken in turns of bounded size, as an operation of the store (EB_OP_DUE) among the publishes:
 *      a crowd that is due at once (at a start, overdue) holds up nobody.
 * (E3) `armed_ms` is what the thread waits for. A commit that makes something due before it wakes the thread: each of
 *      the two writes first, then looks at what the other wrote, so that one of them sees it. (Both change `armed_ms`,
 *      so one of the changes comes behind the other, and behind all that was written before that.)
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"
#include "common/clock.h"
#include "common/log.h"

#define LOOK_MS  1000 /* E1, and after a turn that failed */
#define ROOM_MIN 16
#define ROOM_MAX 256
#define TURN_LESS                                                                                  \
    (256 * 1024) /* bytes of a turn: below it the next may be larger, above the other smaller */
#define TURN_MORE (4 * 1024 * 1024)

struct eb_due {
    struct eb_bus *bus; /* [I] */
    pthread_t thread;
    bool started;             /* start and stop only */
    _Atomic int64_t armed_ms; /* [a] E3 */
    struct eb_lock lock;      /* EB_RANK_LEAF: the three below */
    pthread_cond_t cond;
    bool stop, kicked, answered;
    /* the thread's, and the store's while an operation is there */
    struct eb_op op;
    struct eb_event *events[ROOM_MAX];
    struct eb_op_result results[ROOM_MAX];
    uint32_t room;
    bool failing; /* it was said */
};

static void answered(struct eb_op *op)
{
    struct eb_due *due = op->user;
    eb_lock_take(&due->lock);
    due->answered = true;
    pthread_cond_signal(&due->cond);
    eb_lock_drop(&due->lock);
}

static void adapt(struct eb_due *due, size_t bytes)
{
    if (bytes > TURN_MORE && due->room > 1)
        due->room /= 2;
    else if (bytes < TURN_LESS && due->room < ROOM_MAX)
        due->room *= 2;
}

/* One turn (E2). False: it brought nothing, and another try at once would not either. */
static bool turn(struct eb_due *due)
{
    struct eb_op *op = &due->op;
    size_t bytes = 0;
    *op = (struct eb_op){.kind = EB_OP_DUE,
                         .room = due->room,
                         .events = due->events,
                         .results = due->results,
                         .err = {.code = EB_OK, .index = -1},
                         .done = answered,
                         .user = due};
    memset(due->results, 0, sizeof(due->results));
    due->answered = false;
    eb_bus_submit(due->bus, op);
    eb_lock_take(&due->lock);
    while (!due->answered)
        eb_cond_wait(&due->cond, &due->lock, -1);
    eb_lock_drop(&due->lock);
    if (op->err.code != EB_OK) {
        if (!due->failing)
            eb_warn("EB-DUE-FAILED", "what is due cannot enter the log: %s; trying again",
                    op->err.message);
        due->failing = true;
        return false;
    }
    due->failing = false;
    for (uint32_t i = 0; i < op->count; i++) {
        bytes += eb_event_size(due->events[i]);
        eb_event_unref(due->events[i]);
    }
    eb_count(due->bus->counters.due, op->count);
    adapt(due, bytes);
    return op->count > 0;
}

/* Say what is waited for, then look what it is (E3). */
static int64_t arm(struct eb_due *due)
{
    int64_t next, armed = eb_store_next_due(due->bus->store);
    for (;; armed = next) {
        atomic_exchange(&due->armed_ms, armed);
        next = eb_store_next_due(due->bus->store);
        if (next >= armed)
            return next;
    }
}

void eb_due_kick(struct eb_due *due)
{
    if (due == NULL)
        return;
    int64_t armed =
        atomic_fetch_add(&due->armed_ms, 0); /* E3: behind the other's exchange, or before it */
    if (eb_store_next_due(due->bus->store) >= armed)
        return;
    eb_lock_take(&due->lock);
    due->kicked = true;
    pthread_cond_signal(&due->cond);
    eb_lock_drop(&due->lock);
}

/* Until @deadline_ms (monotonic; <0: for ever), a kick or the end. False: the end. */
static bool wait_until(struct eb_due *due, int64_t deadline_ms)
{
    eb_lock_take(&due->lock);
    while (!due->stop && !due->kicked &&
           eb_cond_wait(&due->cond, &due->lock, deadline_ms) != ETIMEDOUT)
        ;
    due->kicked = false;
    bool go_on = !due->stop;
    eb_lock_drop(&due->lock);
    return go_on;
}

static void *due_main(void *arg)
{
    struct eb_due *due = arg;
    pthread_setname_np(pthread_self(), "eb-due");
    int64_t wait_ms = -1; /* until the first kick */
    while (wait_until(due, wait_ms < 0 ? -1 : eb_mono_ms() + wait_ms)) {
        int64_t next = arm(due), now = eb_wall_ms();
        if (next > now) {
            wait_ms = next == INT64_MAX ? -1 : next - now < LOOK_MS ? next - now : LOOK_MS;
            continue;
        }
        atomic_store(&due->armed_ms, INT64_MIN); /* awake: nobody has to kick */
        wait_ms = turn(due) ? 0 : LOOK_MS;
    }
    return NULL;
}

int eb_due_create(struct eb_bus *bus, struct eb_due **ret)
{
    struct eb_due *due = calloc(1, sizeof(*due));
    if (due == NULL)
        return -ENOMEM;
    due->bus = bus;
    due->room = ROOM_MIN;
    atomic_init(&due->armed_ms, INT64_MAX);
    eb_lock_init(&due->lock, EB_RANK_LEAF);
    eb_cond_init(&due->cond);
    *ret = due;
    return 0;
}

int eb_due_start(struct eb_due *due)
{
    if (eb_store_in_memory(due->bus->store)) /* nothing is ever scheduled there */
        return 0;
    int rc = pthread_create(&due->thread, NULL, due_main, due);
    due->started = rc == 0;
    return -rc;
}

void eb_due_stop(struct eb_due *due)
{
    if (due == NULL || !due->started)
        return;
    eb_lock_take(&due->lock);
    due->stop = true;
    pthread_cond_signal(&due->cond);
    eb_lock_drop(&due->lock);
    pthread_join(due->thread, NULL);
    due->started = false;
}

void eb_due_destroy(struct eb_due *due)
{
    if (due == NULL)
        return;
    pthread_cond_destroy(&due->cond);
    eb_lock_finish(&due->lock);
    free(due);
}
