/*
 * janitor.c - deletes what has had its time: ttl, retention, what is acknowledged; and tidies the file.
 *
 * (J1) In steps of one short transaction each, of as many rows as take a few milliseconds here.
 * (J2) Turns: a step runs while the writer has nothing to do, or after the writer's next group when it has.
 *      The writer is always first after a step. So a publish waits for one step at most, and a log under
 *      constant load is cleaned nevertheless. (A mutex alone would give neither: it is not fair.)
 *      Retention that has to delete as fast as events come takes part in the writer's groups instead: what a
 *      group brings, and a little more, goes with the same commit; the steps then come more rarely. It goes first: so
 *      the group's rows take the pages that become free, and each is written once. It stays so as long as such a
 *      group had something to delete since the last step.
 * (J3) Below min_free and on a full disk it goes on: deleting is what makes room.
 * (J4) It is also the one that tries a log that cannot be written again when nobody publishes.
 */
#include <errno.h>
#include <inttypes.h>

#include "broker/store/internal.h"
#include "common/clock.h"
#include "common/log.h"

#define ROWS_MIN     16
#define ROWS_START   128
#define ROWS_MAX     4096
#define JOIN_MAX     8192 /* of a group's part: more than a full group brings */
#define FAR_EVENTS   16384 /* so much above retention_events the groups begin to help by themselves */
#define FAR_BYTES    ((uint64_t)16 << 20) /* the same, retention_bytes */
#define BEHIND_MS    10   /* between steps while the writer's groups take a part each */
#define STEP_LONG_US 5000 /* a longer step halves the next one's rows */
#define ROOM_BYTES   ((uint64_t)1 << 20) /* a full disk with so much more room is full no longer */

static void count(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

/* Is the log writable again? At most once in EB_RETRY_MS, when nobody's publish finds out (J4). */
static bool probe_locked(struct eb_store *store)
{
    const struct eb_engine_ops *ops = store->engine->ops;
    if (store->env.mono_ms(store->env.ctx) < store->retry_at)
        return false;
    int rc;
    if (ops->probe) {
        rc = ops->probe(store->engine);
    } else {
        rc = ops->begin(store->engine);
        if (rc == 0) {
            rc = ops->commit(store->engine);
            if (rc < 0)
                ops->rollback(store->engine);
        }
    }
    if (rc < 0) {
        eb_store_failed_locked(store, rc);
        return false;
    }
    eb_store_recovered_locked(store, false);
    return true;
}

/*
 * Notice room and the lack of it without waiting for a publish. What is free says little by itself: a disk
 * may be full by a quota; so it must have become more since.
 */
static void look_at_space_locked(struct eb_store *store, const struct eb_store_tune *tune)
{
    uint64_t bytes = 0;
    bool low = eb_space_low(store, tune->min_free, &bytes);
    if (atomic_load(&store->disk_full) && !low && bytes != UINT64_MAX && bytes > store->full_free &&
        bytes - store->full_free >= ROOM_BYTES)
        eb_store_recovered_locked(store, true);
}

static struct eb_trim_request request_locked(struct eb_store *store,
                                             const struct eb_store_tune *tune, unsigned rows)
{
    return (struct eb_trim_request){
        .now_ms = eb_store_now_locked(store),
        .age_ms = tune->retention_age_ms,
        .max_bytes = tune->retention_bytes,
        .max_events = tune->retention_events,
        .acked_ms = tune->acked_retention_ms,
        .dedupe_window_ms = tune->dedupe_window_ms,
        .hold_from = atomic_load(&store->hold),
        .dedupe_from_seq = eb_dedupe_oldest_seq(&store->dedupe),
        .dedupe = &store->dedupe,
        .made = &store->made,
        .max_rows = rows,
    };
}

/* *ret_us: what deleting took; that of a commit says nothing about the number of rows. */
static int trim_locked(struct eb_store *store, const struct eb_store_tune *tune,
                       struct eb_trim_result *ret, int64_t *ret_us)
{
    const struct eb_engine_ops *ops = store->engine->ops;
    struct eb_trim_request request = request_locked(store, tune, store->trim_rows);
    int rc = ops->begin(store->engine);
    if (rc < 0)
        return rc;
    int64_t before = eb_mono_us();
    rc = ops->trim(store->engine, &request, ret);
    *ret_us = eb_mono_us() - before;
    bool deletes = ret->expired + ret->retained_out + ret->acked_out > 0;
    if (deletes)
        count(&store->deletions, 1);
    if (rc == 0)
        rc = ops->commit(store->engine);
    if (deletes)
        count(&store->deletions, 1);
    if (rc < 0)
        ops->rollback(store->engine);
    return rc;
}

/* Is the log so far above its bound that the groups are to help before the janitor's next step? */
static bool far_behind(const struct eb_store *store, const struct eb_store_tune *tune)
{
    struct eb_engine_figures figures;

    if ((!tune->retention_events && !tune->retention_bytes) || store->join_vain)
        return false;
    store->engine->ops->figures(store->engine, &figures);
    return (tune->retention_events && figures.events > tune->retention_events + FAR_EVENTS) ||
           (tune->retention_bytes && figures.bytes > tune->retention_bytes + FAR_BYTES);
}

int eb_janitor_join_locked(struct eb_store *store, const struct eb_store_tune *tune)
{
    struct eb_group *group = &store->group;
    size_t rows = group->count + group->count / 4; /* a little more than comes: it catches up */
    if (!group->count || (!store->trim_behind && !far_behind(store, tune)))
        return 0;
    if (rows < ROWS_MIN)
        rows = ROWS_MIN;
    struct eb_trim_request request =
        request_locked(store, tune, rows < JOIN_MAX ? (unsigned)rows : JOIN_MAX);
    request.coming = group->count - group->appended;
    int rc = eb_group_begin(store);
    if (rc == 0)
        rc = store->engine->ops->trim(store->engine, &request, &group->trimmed);
    count(&store->deletions, 1);
    store->joined_out += group->trimmed.retained_out;
    store->join_vain = group->trimmed.retained_out == 0;
    /* One that fails: the group goes without; the janitor meets it and says so. */
    store->trim_behind = rc == 0 && (store->trim_behind || !store->join_vain);
    return rc;
}

static void adapt_rows(struct eb_store *store, int64_t us, bool full_step)
{
    if (us > STEP_LONG_US && store->trim_rows > ROWS_MIN)
        store->trim_rows /= 2;
    else if (full_step && us < STEP_LONG_US / 3 && store->trim_rows < ROWS_MAX)
        store->trim_rows *= 2;
}

void eb_janitor_step_locked(struct eb_store *store, bool *ret_more)
{
    struct eb_store_tune tune;
    struct eb_trim_result result = {0};
    bool more = false;
    eb_lock_assert_held(&store->commit_lock);
    eb_store_tune_get(store, &tune);
    if (!store->trim_rows)
        store->trim_rows = ROWS_START;
    look_at_space_locked(store, &tune);
    eb_store_expire_ids_locked(store, &tune, eb_store_now_locked(store));
    eb_store_bound_ids_locked(store, &tune);
    if (atomic_load(&store->read_only) && !probe_locked(store)) {
        *ret_more = false;
        return;
    }
    int64_t us = 0;
    int rc = trim_locked(store, &tune, &result, &us);
    adapt_rows(store, us, result.more);
    if (rc < 0) {
        eb_store_failed_locked(store, rc);
        *ret_more = false;
        return;
    }
    store->trim_behind = (result.more && result.retained_out) || store->joined_out;
    store->joined_out = 0;
    store->join_vain = false;
    count(&store->stats.expired, result.expired);
    count(&store->stats.retained_out, result.retained_out + result.acked_out);
    *ret_more = result.more;
    /* The file's turn comes when the rows are through: pages freed one by one are given back together. */
    if (!result.more && store->engine->ops->tidy) {
        rc = store->engine->ops->tidy(store->engine, &more);
        if (rc < 0 && rc != -EBUSY)
            eb_store_failed_locked(store, rc);
        *ret_more = rc == 0 && more;
    }
}

/* ---- the thread ---- */

/* Wait for the right to step (J2). False: the end. */
static bool turn_begin(struct eb_store *store)
{
    eb_lock_take(&store->queue_lock);
    if (!store->head && store->writer_sleeps) {
        store->janitor_turn = true;
    } else {
        store->janitor_asks = true;
        /* A writer that was signalled and finds nothing gives the turn as well. */
        while (!store->janitor_turn && !store->janitor_stop)
            eb_cond_wait(&store->janitor_cond, &store->queue_lock, -1);
        store->janitor_asks = false;
    }
    bool go = store->janitor_turn;
    eb_lock_drop(&store->queue_lock);
    return go;
}

static void turn_end(struct eb_store *store)
{
    eb_lock_take(&store->queue_lock);
    store->janitor_turn = false;
    pthread_cond_signal(&store->writer_cond);
    eb_lock_drop(&store->queue_lock);
}

/* False: the end. */
static bool pause_until(struct eb_store *store, int64_t deadline)
{
    eb_lock_take(&store->queue_lock);
    while (!store->janitor_stop &&
           eb_cond_wait(&store->janitor_cond, &store->queue_lock, deadline) != ETIMEDOUT)
        ;
    bool go = !store->janitor_stop;
    eb_lock_drop(&store->queue_lock);
    return go;
}

void *eb_janitor_thread(void *arg)
{
    struct eb_store *store = arg;
    bool more = false, behind = false;
    pthread_setname_np(pthread_self(), "eb-janitor");
    for (;;) {
        int64_t pause = more ? behind ? BEHIND_MS : 0 : EB_JANITOR_MS;
        if (!pause_until(store, eb_mono_ms() + pause) || !turn_begin(store))
            return NULL;
        eb_lock_take(&store->commit_lock);
        eb_janitor_step_locked(store, &more);
        behind = store->trim_behind;
        eb_lock_drop(&store->commit_lock);
        turn_end(store);
    }
}
