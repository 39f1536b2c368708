/*
 * writer.c - the way into the log: operations wait in one queue, the writer commits them in groups.
 *
 *   submit ──> queue [Q] ──> backlog [C] ──> group: begin, ops in order, COMMIT ──> hook, done, settled
 *                                              │ failed
 *                                              └──> all of it undone, again one mode lower
 *
 * (W1) A group is a run of the queue, bounded by group_events and group_bytes, but never less than one op:
 *      a batch is not split.
 * (W2) Two steps: an op is checked whole (duplicates, room, seqs) before any row of it is written. So a refused
 *      op has written nothing and harms nobody (S4), and no savepoint is needed. Rows are written for many ops
 *      at once: at the end, or before an ack, which may be of one of them.
 * (W3) A failed write fails the transaction, never one op of it. Everything is undone (seqs, timestamps,
 *      dedupe entries, rows) and the same ops run again one mode lower (enum eb_group_mode), each judged
 *      afresh: what was compared with an event that is now gone must not stand. The lowest mode writes
 *      nothing and cannot fail, so that every op is answered and a fence always succeeds.
 * (W4) seq = base + 1 + its place among the group's new events: no holes, whatever is refused between.
 * (W5) last_seq is raised after the commit and before the hook; readers never look past it.
 * (W6) The ids that are remembered are bounded only after a commit (dedupe.c, U3), and expire by the log's clock only.
 * (W7) The writer sleeps only with its backlog empty. A thread that would wait for its answer anyway and finds it
 *      asleep, the queue empty and the janitor without a turn takes the turn itself (inline_turn) and commits its
 *      op: no switch to the writer and back. What is submitted meanwhile is the writer's, who is woken once the
 *      turn is over: so a group is as large as ever as soon as there are several publishers.
 * (W8) What an op wants kept (state.h) is asked for once, when its place in the order has come; then it is written again
 *      in every try of its group, as its events are. Nothing of an op that is refused is written. In the lowest mode
 *      an op that has something to keep is refused, so that who is told `ok` finds it after a crash.
 * (W9) Ops and events come from other cores' caches, and a large group does not fit into this one's. So each step asks
 *      for what it will need a few ops later, and a group is judged and written in runs of RUN_EVENTS.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

#define RUN_EVENTS  256 /* W9 */
#define FETCH_BYTES 512

static void commit_group_locked(struct eb_store *store, struct eb_op *ops);

/* ---- the queue ---- */

void eb_store_submit(struct eb_store *store, struct eb_op *first, struct eb_op *last)
{
    last->next = NULL;
    eb_lock_take(&store->queue_lock);
    if (store->tail)
        store->tail->next = first;
    else
        store->head = first;
    store->tail = last;
    if (store->writer_sleeps) {
        store->writer_sleeps = false; /* one signal wakes it, however many submit meanwhile */
        pthread_cond_signal(&store->writer_cond);
    }
    eb_lock_drop(&store->queue_lock);
}

/* Nobody commits, nobody waits for it (W7). */
static bool may_commit_locked(const struct eb_store *store)
{
    return store->writer_sleeps && !store->head && !store->janitor_turn && !store->stopping;
}

void eb_store_submit_or_commit(struct eb_store *store, struct eb_op *op)
{
    eb_lock_assert_none();
    op->next = NULL;
    eb_lock_take(&store->queue_lock);
    bool mine = may_commit_locked(store);
    store->inline_turn = store->inline_turn || mine;
    if (mine)
        store->writer_sleeps = false; /* what comes meanwhile needs no signal: see below */
    eb_lock_drop(&store->queue_lock);
    if (!mine) {
        eb_store_submit(store, op, op);
        return;
    }
    eb_lock_take(&store->commit_lock);
    commit_group_locked(store, op);
    eb_lock_drop(&store->commit_lock);
    eb_lock_take(&store->queue_lock);
    store->inline_turn = false;
    if (store->head || store->janitor_asks || store->stopping)
        pthread_cond_signal(&store->writer_cond);
    else
        store->writer_sleeps = true;
    eb_lock_drop(&store->queue_lock);
}

static void take_queue(struct eb_store *store)
{
    if (!store->head)
        return;
    if (store->backlog)
        store->backlog_tail->next = store->head;
    else
        store->backlog = store->head;
    store->backlog_tail = store->tail;
    store->head = store->tail = NULL;
}

/* Cut the next group off the backlog (W1). */
static struct eb_op *cut_group(struct eb_store *store)
{
    struct eb_op *first = store->backlog, *last = NULL;
    size_t events = 0, bytes = 0;
    for (struct eb_op *op = first; op; op = op->next) {
        eb_op_fetch(op);
        size_t more = op->kind == EB_OP_PUBLISH ? op->bytes : 0;
        size_t rows = op->kind == EB_OP_PUBLISH || op->kind == EB_OP_AUTO_ACK ? op->count
                      : op->kind == EB_OP_DUE                                 ? op->room
                                                                              : 1;
        if (last && (events + rows > store->config.group_events ||
                     bytes + more > store->config.group_bytes))
            break;
        events += rows;
        bytes += more;
        last = op;
    }
    if (!first)
        return NULL;
    store->backlog = last->next;
    if (!store->backlog)
        store->backlog_tail = NULL;
    last->next = NULL;
    return first;
}

/* ---- building a group ---- */

void eb_group_refuse(struct eb_op *op, const struct eb_group *group, int index)
{
    op->err = group->refusal;
    op->err.index = index;
}

int eb_group_begin(struct eb_store *store)
{
    struct eb_group *group = &store->group;
    int rc = group->begun ? 0 : store->engine->ops->begin(store->engine);
    group->begun = group->begun || rc == 0;
    return rc;
}

/* The transaction is open, and all events of the group so far are in it. */
static int need_transaction(struct eb_store *store)
{
    struct eb_group *group = &store->group;
    int rc = eb_group_begin(store);
    if (rc < 0 || group->appended == group->count)
        return rc;
    rc = store->engine->ops->append(store->engine, group->fresh + group->appended,
                                    group->count - group->appended);
    group->appended = group->count;
    return rc;
}

struct eb_event *eb_group_fresh(const struct eb_group *group, uint64_t seq)
{
    if (seq <= group->base || seq - group->base > group->count)
        return NULL;
    return group->fresh[seq - group->base - 1];
}

int eb_group_room(struct eb_group *group, size_t more)
{
    if (group->count + more <= group->cap)
        return 0;
    size_t cap = group->cap ? group->cap : 1024;
    while (cap < group->count + more)
        cap *= 2;
    struct eb_event **fresh = realloc(group->fresh, cap * sizeof *fresh);
    if (!fresh)
        return -ENOMEM;
    group->fresh = fresh;
    group->cap = cap;
    return 0;
}

/* Take back the events after the first @count of the group: they were given seqs, but no rows yet. */
static void take_back(struct eb_store *store, size_t count, uint64_t mark)
{
    struct eb_group *group = &store->group;
    eb_dedupe_undo(&store->dedupe, mark);
    eb_tails_cut(group, count);
    while (group->count > count) {
        struct eb_event *event = group->fresh[--group->count];
        group->bytes -= eb_event_size(event);
        event->seq = 0;
        event->timestamp = 0;
    }
    store->given = group->base + group->count;
}

int eb_group_check_new(struct eb_store *store, struct eb_op *op, uint32_t i)
{
    struct eb_group *group = &store->group;
    if (group->mode == EB_GROUP_NO_WRITE || (group->mode == EB_GROUP_NO_PUBLISH && !op->internal)) {
        eb_group_refuse(op, group, (int)i);
        if (op->err.code == EB_STORAGE_FULL)
            group->refused_full++;
        return 1;
    }
    if (store->given + 1 >= EB_SEQ_MAX) {
        eb_fail(&op->err, EB_INTERNAL,
                "the log has given its last seq: start the broker with --new-epoch");
        op->err.index = (int)i;
        return 1;
    }
    return 0;
}

void eb_group_add(struct eb_store *store, struct eb_event *event)
{
    struct eb_group *group = &store->group;
    event->seq = store->given + 1;
    event->timestamp = group->now;
    if (event->make_id) /* afresh in each try: an id says seq and timestamp */
        eb_made_id(&store->made, event->id, event->seq, event->timestamp);
    group->fresh[group->count++] = event;
    group->bytes += eb_event_size(event);
    store->given = event->seq;
}

/* Judge one member: give it a seq or find that it is a repeat. 0, 1 (refused), -errno. */
static int check_member(struct eb_store *store, struct eb_op *op, uint32_t i, size_t op_first)
{
    struct eb_event *event = op->events[i];
    bool done = false;
    int rc = eb_repeat_check(store, op, i, op_first, &done);
    if (rc == 0 && !done && (op->asks || store->scheduled))
        rc = eb_asked_member(store, op, i, &done);
    if (rc == 0 && !done)
        rc = eb_group_check_new(store, op, i);
    if (rc || done)
        return rc; /* refused: the entry just put goes with the rest of the op */
    eb_group_add(store, event);
    op->results[i] = (struct eb_op_result){.seq = event->seq};
    return 0;
}

static int apply_publish(struct eb_store *store, struct eb_op *op)
{
    struct eb_group *group = &store->group;
    size_t op_first = group->count;
    uint64_t waiting = group->waiting;
    uint64_t mark = eb_dedupe_mark(&store->dedupe);
    int rc = group->mode == EB_GROUP_NO_WRITE ? 0 : eb_group_room(group, op->count);
    uint32_t judged = 0;
    for (; rc == 0 && judged < op->count; judged++)
        rc = check_member(store, op, judged, op_first);
    if (rc == 1) {
        take_back(store, op_first, mark);
        rc = eb_asked_take_back(store, op, judged - 1);
        memset(op->results, 0, op->count * sizeof *op->results);
        return rc;
    }
    group->duplicates += op->count - (group->count - op_first) - (group->waiting - waiting);
    return rc;
}

/* Ask the op what it wants kept, once however often its group is tried (W8). */
static void collect(struct eb_store *store, struct eb_op *op)
{
    if (op->collected)
        return;
    op->collected = true;
    op->last_seq = store->given;
    op->writes = op->collect ? op->collect(op) : NULL;
}

/* Write what the op wants kept. Its own events may come later: nothing of it refers to a row. */
static int apply_writes(struct eb_store *store, struct eb_op *op, uint64_t first_seq)
{
    int (*put)(struct eb_engine *, const struct eb_state_write *, uint64_t) =
        store->engine->ops->state;
    int rc = 0;
    if (!op->writes || !put)
        return 0;
    rc = eb_group_begin(store);
    for (const struct eb_state_write *w = op->writes; w && rc == 0; w = w->next_write)
        rc = put(store->engine, w, first_seq);
    return rc;
}

static int apply_state(struct eb_store *store, struct eb_op *op)
{
    collect(store, op);
    if (op->writes && store->group.mode == EB_GROUP_NO_WRITE) {
        eb_group_refuse(op, &store->group, -1);
        return 0;
    }
    return apply_writes(store, op, 0);
}

/* A publish that has something to keep: with its events or not at all. */
static int apply_publish_with(struct eb_store *store, struct eb_op *op)
{
    collect(store, op);
    if (!op->count)
        return apply_state(store, op);
    if (op->writes && store->group.mode == EB_GROUP_NO_WRITE) {
        eb_group_refuse(op, &store->group, -1);
        memset(op->results, 0, op->count * sizeof *op->results);
        return 0;
    }
    int rc = apply_publish(store, op);
    return rc < 0 || op->err.code != EB_OK ? rc : apply_writes(store, op, op->results[0].seq);
}

static int apply_ack(struct eb_store *store, struct eb_op *op)
{
    struct eb_group *group = &store->group;
    if (op->seq < 1 || op->seq > store->given) {
        eb_fail(&op->err, EB_NOT_FOUND, "there is no event %" PRIu64 ": the last seq is %" PRIu64,
                op->seq, store->given);
        return 0;
    }
    if (group->mode == EB_GROUP_NO_WRITE) {
        eb_group_refuse(op, group, -1);
        return 0;
    }
    if (op->has_id) {
        struct eb_event *stored = NULL, *event = eb_group_fresh(group, op->seq);
        int rc = 0;
        if (!event) {
            rc = store->engine->ops->lookup(store->engine, op->seq, &stored);
            event = stored;
        }
        if (rc < 0 && rc != -ENOENT && rc != -EBADMSG)
            return rc;
        if (rc == 0 && memcmp(event->id, op->id, 16) != 0) {
            char id[EB_UUID_TEXT + 1];
            eb_uuid_format(id, event->id);
            eb_fail(&op->err, EB_INVALID_REQUEST,
                    "message_id is not that of event %" PRIu64 ", which is %s", op->seq, id);
        }
        eb_event_unref(stored);
        if (op->err.code != EB_OK)
            return 0;
    }
    int rc = need_transaction(store);
    if (rc == 0)
        rc = store->engine->ops->ack(store->engine, op->seq, group->now);
    group->acked++;
    return rc;
}

static int apply_auto_ack(struct eb_store *store, struct eb_op *op)
{
    struct eb_group *group = &store->group;
    if (group->mode == EB_GROUP_NO_WRITE) {
        eb_group_refuse(op, group, -1);
        return 0;
    }
    int rc = op->count ? need_transaction(store) : 0;
    for (uint32_t i = 0; rc == 0 && i < op->count; i++) {
        if (op->seqs[i] < 1 || op->seqs[i] > store->given)
            continue;
        rc = store->engine->ops->ack(store->engine, op->seqs[i], group->now);
        group->acked++;
    }
    return rc;
}

/* What is to be read of the event, from the memory of the one who made it. */
static inline void fetch(const struct eb_event *event)
{
    const char *at = (const char *)event;
    size_t size = eb_event_size(event);
    for (size_t i = 64; i < size && i < FETCH_BYTES; i += 64)
        __builtin_prefetch(at + i);
}

/*
 * (W9) The ids that publishers gave, from @op on, looked for at once: one after the other they would be waited for one by one.
 * Returns the first op that is for the next call.
 */
static struct eb_op *look_ahead(struct eb_store *store, struct eb_op *op)
{
    for (size_t events = 0; op && events < RUN_EVENTS; op = op->next) {
        const struct eb_op *soon = eb_op_fetch(op);
        if (soon && soon->kind == EB_OP_PUBLISH && soon->count)
            __builtin_prefetch(soon->events[0]);
        for (uint32_t i = 0; op->kind == EB_OP_PUBLISH && i < op->count; i++) {
            if (!op->events[i]->make_id)
                op->results[i].hash = eb_dedupe_ahead(&store->dedupe, op->events[i]->id);
            fetch(op->events[i]);
        }
        events += op->count;
    }
    return op;
}

static int apply_ops(struct eb_store *store, struct eb_op *ops)
{
    struct eb_group *group = &store->group;
    struct eb_op *ahead = ops;
    int rc = 0;
    for (struct eb_op *op = ops; op && rc == 0; op = op->next) {
        if (op == ahead)
            ahead = look_ahead(store, op);
        op->err.code = EB_OK; /* not the whole of it: its message is as long as an event */
        op->err.index = -1;
        switch (op->kind) {
        case EB_OP_PUBLISH:
            rc = op->collect ? apply_publish_with(store, op) : apply_publish(store, op);
            break;
        case EB_OP_ACK:
            rc = apply_ack(store, op);
            break;
        case EB_OP_AUTO_ACK:
            rc = apply_auto_ack(store, op);
            break;
        case EB_OP_STATE:
            rc = apply_state(store, op);
            break;
        case EB_OP_UNSCHEDULE:
            rc = eb_asked_unschedule(store, op);
            break;
        case EB_OP_DUE:
            rc = eb_asked_due(store, op);
            break;
        case EB_OP_FENCE:
            break;
        }
        op->last_seq = store->given;
        /* What retention deletes with the group goes first: its pages are taken by these rows. */
        if (rc == 0 && !store->trim_behind && group->count - group->appended >= RUN_EVENTS)
            rc = need_transaction(store);
    }
    return rc;
}

/* ---- commit, failure, completion ---- */

static inline void count(_Atomic uint64_t *counter, uint64_t more)
{
    if (more)
        atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

static void count_commit(struct eb_store *store, uint64_t us)
{
    const unsigned last = sizeof store->stats.commit_us_bucket / sizeof(uint64_t) - 1;
    unsigned i = 0;
    while (i < last && us > ((uint64_t)25 << i))
        i++;
    count(&store->stats.commit_us_bucket[i], 1);
    count(&store->stats.commit_us_sum, us);
    count(&store->stats.commits, 1);
}

static int commit(struct eb_store *store)
{
    if (!store->group.begun)
        return 0;
    int64_t before = eb_mono_us();
    int rc = store->engine->ops->commit(store->engine);
    if (rc == 0)
        count_commit(store, (uint64_t)(eb_mono_us() - before));
    return rc;
}

/* All of a failed transaction goes (W3). */
static void undo(struct eb_store *store)
{
    struct eb_group *group = &store->group;
    if (group->begun)
        store->engine->ops->rollback(store->engine);
    take_back(store, 0, group->mark);
    store->scheduled = group->scheduled_before;
    count(&store->stats.commit_failures, 1);
}

/* What the mode keeps out is told @code and why. */
static void set_mode(struct eb_group *group, enum eb_group_mode mode, enum eb_code code,
                     const char *what, const char *why)
{
    group->mode = mode;
    eb_fail(&group->refusal, code, "%s%s%.160s", what, why ? ": " : "", why ? why : "");
}

static void mode_low(struct eb_group *group, uint64_t has, uint64_t min_free)
{
    char has_text[32], min_text[32];
    group->mode = EB_GROUP_NO_PUBLISH;
    eb_fail(&group->refusal, EB_STORAGE_FULL,
            "storage is full: %s free on the log's disk, less than min_free (%s)",
            eb_space_text(has_text, sizeof has_text, has),
            eb_space_text(min_text, sizeof min_text, min_free));
}

static void start_group(struct eb_store *store, const struct eb_store_tune *tune)
{
    struct eb_group *group = &store->group;
    uint64_t has;
    group->mode = EB_GROUP_ALL;
    group->base = store->given;
    eb_tails_clear(group);
    group->max_scheduled = tune->max_scheduled;
    group->scheduled_before = store->scheduled;
    group->count = 0;
    group->bytes = 0;
    group->now = eb_store_now_locked(store);
    eb_store_expire_ids_locked(store, tune, group->now);
    group->mark = eb_dedupe_mark(&store->dedupe);
    bool wait = (atomic_load(&store->read_only) || atomic_load(&store->disk_full)) &&
                store->env.mono_ms(store->env.ctx) < store->retry_at;
    if (wait && atomic_load(&store->read_only))
        set_mode(group, EB_GROUP_NO_WRITE, EB_UNAVAILABLE, "the log cannot be written now",
                 store->trouble);
    else if (wait)
        set_mode(group, EB_GROUP_NO_PUBLISH, EB_STORAGE_FULL, "the log's disk is full",
                 store->trouble);
    else if (eb_space_low(store, tune->min_free, &has))
        mode_low(group, has, tune->min_free);
}

/* One mode lower after @rc; from the lowest there is nothing that can fail. */
static void lower_mode(struct eb_store *store, int rc)
{
    struct eb_group *group = &store->group;
    const char *why = store->engine->ops->trouble(store->engine);
    if (rc == -ENOSPC) {
        bool publish = group->mode == EB_GROUP_ALL;
        set_mode(group, publish ? EB_GROUP_NO_PUBLISH : EB_GROUP_NO_WRITE, EB_STORAGE_FULL,
                 "the log's disk is full", why);
    } else if (rc == -ENOMEM) {
        set_mode(group, EB_GROUP_NO_WRITE, EB_UNAVAILABLE, "the broker is out of memory", NULL);
    } else {
        set_mode(group, EB_GROUP_NO_WRITE, EB_UNAVAILABLE, "the log cannot be written now", why);
    }
}

static int try_group(struct eb_store *store, const struct eb_store_tune *tune, struct eb_op *ops)
{
    struct eb_group *group = &store->group;
    group->begun = false;
    group->appended = 0;
    group->trimmed = (struct eb_trim_result){0};
    group->duplicates = group->reused = group->acked = group->refused_full = 0;
    group->waiting = 0;
    group->schedule_moved = false;
    int rc = apply_ops(store, ops);
    if (rc == 0 && group->mode == EB_GROUP_ALL && eb_janitor_join_locked(store, tune) < 0) {
        undo(store);
        return try_group(store, tune, ops); /* trim_behind is false now: once */
    }
    if (rc == 0 && group->count > group->appended)
        rc = need_transaction(store);
    return rc < 0 ? rc : commit(store);
}

/* A committed group becomes visible (W5) and counted. */
static void settle(struct eb_store *store, const struct eb_store_tune *tune)
{
    struct eb_group *group = &store->group;
    if (group->count) {
        store->last_timestamp = group->now;
        eb_window_add(&store->window, &(struct eb_window_run){group->base + 1, store->given,
                                                              group->now, group->now});
    }
    atomic_store_explicit(&store->last_seq, store->given, memory_order_release);
    if (group->begun)
        eb_store_recovered_locked(store, group->count > 0);
    eb_store_bound_ids_locked(store, tune);
    if (group->schedule_moved)
        eb_asked_show(store);
    count(&store->stats.stored, group->count);
    count(&store->space.written, group->bytes);
    count(&store->stats.duplicates, group->duplicates);
    count(&store->stats.ids_reused, group->reused);
    count(&store->stats.acked, group->acked);
    count(&store->stats.refused_full, group->refused_full);
    if (group->trimmed.expired + group->trimmed.retained_out + group->trimmed.acked_out > 0)
        count(&store->deletions, 1);
    count(&store->stats.expired, group->trimmed.expired);
    count(&store->stats.retained_out, group->trimmed.retained_out + group->trimmed.acked_out);
}

static void hand_over(struct eb_store *store, struct eb_op *ops)
{
    if (store->hooks.committed) {
        store->hooks.committed(store->hooks.ctx, ops);
    } else {
        for (struct eb_op *op = ops, *next; op; op = next) {
            next = op->next;
            op->done(op);
        }
    }
    if (store->hooks.settled)
        store->hooks.settled(store->hooks.ctx);
}

static void commit_group_locked(struct eb_store *store, struct eb_op *ops)
{
    struct eb_store_tune tune;
    int rc;
    eb_lock_assert_held(&store->commit_lock);
    eb_store_tune_get(store, &tune);
    start_group(store, &tune);
    while ((rc = try_group(store, &tune, ops)) < 0) {
        undo(store);
        eb_store_failed_locked(store, rc);
        lower_mode(store, rc);
    }
    settle(store, &tune);
    hand_over(store, ops);
}

/* ---- the thread ---- */

static void give_turn(struct eb_store *store)
{
    store->janitor_asks = false;
    store->janitor_turn = true;
    pthread_cond_signal(&store->janitor_cond);
}

/*
 * Wait for work, and give the janitor the turn it asked for before the next group. False: the end.
 * The backlog is the writer's alone between its own calls, so it may be read without the commit lock.
 */
static bool wait_for_work(struct eb_store *store)
{
    eb_lock_take(&store->queue_lock);
    if (store->janitor_asks)
        give_turn(store);
    while (store->janitor_turn || store->inline_turn ||
           (!store->head && !store->backlog && !store->stopping)) {
        if (store->janitor_asks && !store->janitor_turn && !store->inline_turn)
            give_turn(store); /* asked while we were on our way to sleep: nobody else wakes it */
        store->writer_sleeps = !store->janitor_turn && !store->inline_turn;
        eb_cond_wait(&store->writer_cond, &store->queue_lock, -1);
    }
    store->writer_sleeps = false;
    bool work = store->head || store->backlog;
    take_queue(store);
    eb_lock_drop(&store->queue_lock);
    return work;
}

void *eb_writer_thread(void *arg)
{
    struct eb_store *store = arg;
    pthread_setname_np(pthread_self(), "eb-writer");
    while (wait_for_work(store)) {
        eb_lock_take(&store->commit_lock);
        commit_group_locked(store, cut_group(store));
        eb_lock_drop(&store->commit_lock);
    }
    return NULL;
}

void eb_writer_drain(struct eb_store *store)
{
    eb_lock_take(&store->commit_lock);
    for (;;) {
        eb_lock_take(&store->queue_lock);
        take_queue(store);
        eb_lock_drop(&store->queue_lock);
        struct eb_op *ops = cut_group(store);
        if (!ops)
            break;
        commit_group_locked(store, ops);
    }
    eb_lock_drop(&store->commit_lock);
}
