/*
 * worklist.c - the open events of one durable consumer: their states, their order by key, their times.
 *
 * A job is in one state, and in what belongs to it: READY and DYING in a queue, PARKED in its key's, OUT in its
 * worker's and in the heap, WAITING in the heap, RECALL in the queue of what a restart knows without its key.
 * leave() and enter_…() are the only ways between them. How jobs are found, by seq and by key, and how they are
 * put into blocks is worklist_index.c's.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/bus/worklist_internal.h"

/* ---- queues ---- */

static void queue_push(struct eb_job_queue *queue, struct eb_job *job)
{
    job->next = NULL;
    job->prev = queue->last;
    if (queue->last)
        queue->last->next = job;
    else
        queue->first = job;
    queue->last = job;
}

static void queue_remove(struct eb_job_queue *queue, struct eb_job *job)
{
    if (job->prev)
        job->prev->next = job->next;
    else
        queue->first = job->next;
    if (job->next)
        job->next->prev = job->prev;
    else
        queue->last = job->prev;
}

/* ---- states ---- */

static void leave(struct eb_worklist *list, struct eb_job *job)
{
    list->counts[job->state]--;
    switch (job->state) {
    case EB_JOB_READY:
        queue_remove(&list->ready[job->again], job);
        break;
    case EB_JOB_PARKED:
        queue_remove(&job->key->parked, job);
        break;
    case EB_JOB_RECALL:
        queue_remove(&list->recall, job);
        break;
    case EB_JOB_DYING:
        queue_remove(&list->dying[job->asked], job);
        break;
    case EB_JOB_OUT:
        eb_job_heap_remove(list, job);
        if (job->prev)
            job->prev->next = job->next;
        else
            job->worker->jobs = job->next;
        if (job->next)
            job->next->prev = job->prev;
        job->worker->count--;
        job->worker = NULL;
        break;
    case EB_JOB_WAITING:
        eb_job_heap_remove(list, job);
        break;
    case EB_JOB_BURYING:
        break;
    }
}

static void enter(struct eb_worklist *list, struct eb_job *job, enum eb_job_state state)
{
    job->state = (uint8_t)state;
    list->counts[state]++;
    eb_job_mark(list, job);
}

static void enter_ready(struct eb_worklist *list, struct eb_job *job, bool again)
{
    job->again = again;
    enter(list, job, EB_JOB_READY);
    queue_push(&list->ready[again], job);
}

static void enter_waiting(struct eb_worklist *list, struct eb_job *job, int64_t at_ms)
{
    enter(list, job, EB_JOB_WAITING);
    eb_job_heap_add(list, job, at_ms);
}

static void enter_dying(struct eb_worklist *list, struct eb_job *job)
{
    enter(list, job, EB_JOB_DYING);
    job->asked = false;
    queue_push(&list->dying[0], job);
}

static void enter_out(struct eb_worklist *list, struct eb_job *job, struct eb_worker *worker,
                      int64_t now_ms)
{
    enter(list, job, EB_JOB_OUT);
    job->worker = worker;
    job->prev = NULL;
    job->next = worker->jobs;
    if (job->next)
        job->next->prev = job;
    worker->jobs = job;
    worker->count++;
    eb_job_heap_add(list, job, now_ms + list->config.ack_wait_ms);
}

/* Its key, if any, is free for the next one. */
static void pass_key_on(struct eb_worklist *list, struct eb_job *job)
{
    struct eb_job_key *key = job->key;

    if (!key)
        return;
    job->key = NULL;
    if (key->holder == job)
        key->holder = NULL;
    struct eb_job *next = key->parked.first;
    if (!key->holder && next) {
        leave(list, next);
        key->holder = next;
        enter_ready(list, next, true);
    }
    if (!key->holder)
        eb_job_key_drop(list, key);
}

/* Over: it leaves the list (L1), and the window moves on. */
static void done(struct eb_worklist *list, struct eb_job *job)
{
    leave(list, job);
    pass_key_on(list, job);
    eb_job_drop(list, job);
    eb_worklist_window_pop(list);
}

static bool used_up(const struct eb_worklist *list, const struct eb_job *job)
{
    return job->ended ||
           (list->config.max_deliver > 0 && job->deliveries >= list->config.max_deliver);
}

/* A delivery ended without an ack. */
static void failed(struct eb_worklist *list, struct eb_job *job, int64_t wait_ms, int64_t now_ms)
{
    leave(list, job);
    if (used_up(list, job))
        enter_dying(list, job);
    else if (wait_ms > 0)
        enter_waiting(list, job, now_ms + wait_ms);
    else
        enter_ready(list, job, true);
}

/* The wait before the delivery that follows this one. */
static int64_t backoff(const struct eb_worklist *list, const struct eb_job *job)
{
    uint32_t count = list->config.backoff_count;

    if (count == 0)
        return 0;
    uint32_t at = job->deliveries > 0 ? job->deliveries - 1 : 0;
    return list->config.backoff_ms[at < count ? at : count - 1];
}

/* ---- feeding ---- */

bool eb_worklist_wants(const struct eb_worklist *list)
{
    if (list->counts[EB_JOB_READY] >= list->config.max_inflight)
        return false;
    return !eb_worklist_window_full(list);
}

/* A job that has just become known takes its place behind its key. */
static int place(struct eb_worklist *list, struct eb_job *job, struct eb_order_key order,
                 bool again)
{
    struct eb_job_key *key = NULL;

    if (list->config.ordered && order.present) {
        key = eb_job_key_get(list, order);
        if (!key)
            return -ENOMEM;
    }
    job->key = key;
    if (key && key->holder) {
        enter(list, job, EB_JOB_PARKED);
        queue_push(&key->parked, job);
        return 0;
    }
    if (key)
        key->holder = job;
    if (used_up(list, job))
        enter_dying(list, job);
    else if (job->due_ms > 0)
        enter_waiting(list, job, job->due_ms);
    else
        enter_ready(list, job, again);
    return 0;
}

/* What a restart knew of and the log no longer has, before @seq. */
static void forget_recalled(struct eb_worklist *list, uint64_t seq)
{
    while (list->recall.first && list->recall.first->seq < seq)
        done(list, list->recall.first);
}

static int offer_known(struct eb_worklist *list, uint64_t seq, struct eb_order_key key)
{
    struct eb_job *job = list->recall.first;

    if (!job || job->seq != seq)
        return 0;
    leave(list, job);
    int rc = place(list, job, key, true);
    if (rc == 0)
        return 0;
    enter(list, job, EB_JOB_RECALL); /* at its old place: the head */
    job->prev = NULL;
    job->next = list->recall.first;
    if (job->next)
        job->next->prev = job;
    else
        list->recall.last = job;
    list->recall.first = job;
    return rc;
}

static int offer_new(struct eb_worklist *list, uint64_t seq, struct eb_order_key key)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!job) { /* else it was inserted out of turn */
        job = eb_job_make(list, seq);
        if (!job)
            return -ENOMEM;
        if (place(list, job, key, false) < 0) {
            eb_job_drop(list, job);
            return -ENOMEM;
        }
    }
    list->next = seq + 1;
    return 0;
}

int eb_worklist_offer(struct eb_worklist *list, uint64_t seq, struct eb_order_key key)
{
    if (seq < list->feed)
        return 0;
    if (eb_worklist_window_reserve(list) < 0)
        return -ENOMEM;
    forget_recalled(list, seq);
    int rc = seq < list->next ? offer_known(list, seq, key) : offer_new(list, seq, key);
    if (rc < 0)
        return rc;
    list->feed = seq + 1;
    eb_worklist_window_push(list, seq);
    return 0;
}

void eb_worklist_passed(struct eb_worklist *list, uint64_t seq)
{
    if (seq < list->feed)
        return;
    forget_recalled(list, seq + 1);
    list->feed = seq + 1;
    if (list->next < list->feed)
        list->next = list->feed;
}

int eb_worklist_insert(struct eb_worklist *list, uint64_t seq, struct eb_order_key key)
{
    if (eb_job_find(list, seq))
        return -EEXIST;
    struct eb_job *job = eb_job_make(list, seq);
    if (!job)
        return -ENOMEM;
    job->extra = true;
    if (place(list, job, key, true) == 0)
        return 0;
    eb_job_drop(list, job);
    return -ENOMEM;
}

size_t eb_worklist_extra(const struct eb_worklist *list, uint64_t *seqs, size_t max)
{
    size_t count = 0;

    for (size_t i = 0; i < list->block_count; i++) {
        for (const struct eb_job *job = list->blocks[i].jobs; job; job = job->block_next) {
            if (!job->extra || job->state == EB_JOB_BURYING)
                continue;
            if (count < max)
                seqs[count] = job->seq;
            count++;
        }
    }
    return count;
}

bool eb_worklist_wants_key(const struct eb_worklist *list, uint64_t seq)
{
    const struct eb_job *job = eb_job_find(list, seq);

    return job && list->config.ordered && job->extra && !job->key && job->state == EB_JOB_READY;
}

int eb_worklist_key(struct eb_worklist *list, uint64_t seq, struct eb_order_key key)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!key.present || !eb_worklist_wants_key(list, seq))
        return 0;
    leave(list, job);
    job->due_ms = 0; /* it has waited */
    int rc = place(list, job, key, true);
    if (rc < 0)
        enter_ready(list, job, true);
    return rc;
}

void eb_worklist_reset(struct eb_worklist *list, uint64_t next)
{
    eb_job_drop_all(list);
    list->ready[0] = list->ready[1] = (struct eb_job_queue){0};
    list->dying[0] = list->dying[1] = list->recall = (struct eb_job_queue){0};
    for (size_t i = 0; i < EB_JOB_STATES; i++)
        list->counts[i] = 0;
    list->next = list->feed = next;
    eb_worklist_window_clear(list);
}

uint64_t eb_worklist_next(const struct eb_worklist *list)
{
    return list->feed;
}

/* ---- handing out ---- */

bool eb_worklist_ready(const struct eb_worklist *list)
{
    return list->counts[EB_JOB_READY] > 0 && list->counts[EB_JOB_OUT] < list->config.max_inflight;
}

bool eb_worklist_take(struct eb_worklist *list, struct eb_worker *worker, int64_t now_ms,
                      struct eb_job_view *ret)
{
    if (!eb_worklist_ready(list))
        return false;
    struct eb_job *job = list->ready[1].first ? list->ready[1].first : list->ready[0].first;
    leave(list, job);
    job->deliveries++;
    enter_out(list, job, worker, now_ms);
    *ret = (struct eb_job_view){job->seq, job->deliveries, false};
    return true;
}

static bool is_out(const struct eb_job *job, uint32_t delivery)
{
    return job && job->state == EB_JOB_OUT &&
           (delivery == EB_ANY_DELIVERY || delivery == job->deliveries);
}

void eb_worklist_return(struct eb_worklist *list, uint64_t seq, uint32_t delivery)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!is_out(job, delivery))
        return;
    leave(list, job);
    job->deliveries--;
    enter_ready(list, job, true);
}

/* What it was given first: what it leaves goes on in the order in which it came to it. */
static struct eb_job *first_taken(const struct eb_worker *worker)
{
    struct eb_job *job = worker->jobs;

    while (job && job->next)
        job = job->next;
    return job;
}

void eb_worklist_detach(struct eb_worklist *list, struct eb_worker *worker)
{
    for (struct eb_job *job = first_taken(worker), *later; job; job = later) {
        later = job->prev;
        failed(list, job, 0, 0);
    }
}

void eb_worklist_detach_uncounted(struct eb_worklist *list, struct eb_worker *worker)
{
    for (struct eb_job *job = first_taken(worker), *later; job; job = later) {
        later = job->prev;
        eb_worklist_return(list, job->seq, job->deliveries);
    }
}

void eb_worklist_give(struct eb_worklist *list, struct eb_worker *from, struct eb_worker *to)
{
    struct eb_job *last = NULL;

    (void)list;
    for (struct eb_job *job = from->jobs; job; last = job, job = job->next)
        job->worker = to;
    if (!last)
        return;
    last->next = to->jobs;
    if (to->jobs)
        to->jobs->prev = last;
    to->jobs = from->jobs;
    to->count += from->count;
    from->jobs = NULL;
    from->count = 0;
}

void eb_worklist_put_off(struct eb_worklist *list, uint64_t seq, int64_t at_ms)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!job || job->state != EB_JOB_READY)
        return;
    leave(list, job);
    enter_waiting(list, job, at_ms);
}

size_t eb_worklist_peek(const struct eb_worklist *list, uint64_t *seqs, size_t max)
{
    size_t count = 0;

    for (int again = 1; again >= 0; again--)
        for (const struct eb_job *job = list->ready[again].first; job && count < max;
             job = job->next)
            seqs[count++] = job->seq;
    return count;
}

/* ---- answers ---- */

/* What an answer about @seq means when it is not open, or not out. */
static enum eb_job_result not_out(const struct eb_worklist *list, const struct eb_job *job,
                                  uint64_t seq)
{
    if (job)
        return job->deliveries > 0 ? EB_JOB_LATE : EB_JOB_UNKNOWN;
    return seq < list->next ? EB_JOB_LATE : EB_JOB_UNKNOWN;
}

enum eb_job_result eb_worklist_ack(struct eb_worklist *list, uint64_t seq)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!job)
        return seq < list->next ? EB_JOB_OK : EB_JOB_UNKNOWN;
    if (job->state == EB_JOB_BURYING)
        return EB_JOB_LATE;
    if (job->deliveries == 0)
        return EB_JOB_UNKNOWN;
    done(list, job);
    return EB_JOB_OK;
}

enum eb_job_result eb_worklist_nack(struct eb_worklist *list, uint64_t seq, uint32_t delivery,
                                    int64_t delay_ms, int64_t now_ms)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!is_out(job, delivery))
        return not_out(list, job, seq);
    failed(list, job, delay_ms >= 0 ? delay_ms : backoff(list, job), now_ms);
    return EB_JOB_OK;
}

enum eb_job_result eb_worklist_term(struct eb_worklist *list, uint64_t seq, uint32_t delivery)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!is_out(job, delivery))
        return not_out(list, job, seq);
    leave(list, job);
    job->ended = true;
    enter_dying(list, job);
    return EB_JOB_OK;
}

enum eb_job_result eb_worklist_in_progress(struct eb_worklist *list, uint64_t seq,
                                           uint32_t delivery, int64_t now_ms)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!is_out(job, delivery))
        return not_out(list, job, seq);
    eb_job_heap_remove(list, job);
    eb_job_heap_add(list, job, now_ms + list->config.ack_wait_ms);
    return EB_JOB_OK;
}

void eb_worklist_gone(struct eb_worklist *list, uint64_t seq)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (job && job->state != EB_JOB_BURYING)
        done(list, job);
}

/* ---- time ---- */

int64_t eb_worklist_due(const struct eb_worklist *list)
{
    return list->heap_count > 0 ? list->heap[0]->at_ms : INT64_MAX;
}

size_t eb_worklist_expire(struct eb_worklist *list, int64_t now_ms)
{
    size_t count = 0;

    while (list->heap_count > 0 && list->heap[0]->at_ms <= now_ms) {
        struct eb_job *job = list->heap[0];
        if (job->state == EB_JOB_OUT) {
            failed(list, job, backoff(list, job), now_ms);
        } else {
            leave(list, job);
            enter_ready(list, job, true);
        }
        count++;
    }
    return count;
}

/* ---- given up ---- */

bool eb_worklist_dying(struct eb_worklist *list, struct eb_job_view *ret)
{
    struct eb_job *job = list->dying[0].first;

    if (!job)
        return false;
    queue_remove(&list->dying[0], job);
    queue_push(&list->dying[1], job);
    job->asked = true;
    *ret = (struct eb_job_view){job->seq, job->deliveries, job->ended};
    return true;
}

bool eb_worklist_bury(struct eb_worklist *list, uint64_t seq)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!job || job->state != EB_JOB_DYING)
        return false;
    leave(list, job);
    enter(list, job, EB_JOB_BURYING);
    return true;
}

void eb_worklist_buried(struct eb_worklist *list, uint64_t seq, bool committed)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!job || job->state != EB_JOB_BURYING)
        return;
    if (committed) {
        done(list, job);
        return;
    }
    leave(list, job);
    enter_dying(list, job);
}

/* ---- a restart ---- */

int eb_worklist_restore(struct eb_worklist *list, const struct eb_job_saved *saved)
{
    const struct eb_order_key none = {0};

    if (eb_job_find(list, saved->seq) || (saved->seq >= list->next && !saved->extra))
        return -EBADMSG;
    struct eb_job *job = eb_job_make(list, saved->seq);
    if (!job)
        return -ENOMEM;
    job->deliveries = saved->deliveries;
    job->due_ms = saved->due_ms;
    job->extra = saved->extra;
    job->ended = saved->ended;
    if (!list->config.ordered || job->extra)
        return place(list, job, none, true);
    enter(list, job, EB_JOB_RECALL);
    queue_push(&list->recall, job);
    if (job->seq < list->feed)
        list->feed = job->seq;
    return 0;
}

int eb_worklist_reopen(struct eb_worklist *list, uint64_t number)
{
    uint64_t first = number * EB_WORKLIST_BLOCK;

    for (uint64_t seq = first > 0 ? first : 1; seq < first + EB_WORKLIST_BLOCK && seq < list->next;
         seq++) {
        struct eb_job_saved saved = {.seq = seq, .deliveries = 1};
        if (!eb_job_find(list, seq) && eb_worklist_restore(list, &saved) < 0)
            return -ENOMEM;
    }
    return 0;
}

void eb_worklist_cut(struct eb_worklist *list, uint64_t end)
{
    for (size_t i = list->block_count; i-- > 0;) {
        struct eb_job *next, *job = list->blocks[i].jobs;
        if ((list->blocks[i].number + 1) * EB_WORKLIST_BLOCK <= end)
            break;
        for (; job; job = next) {
            next = job->block_next;
            if (job->seq >= end)
                done(list, job);
        }
    }
    if (list->next > end)
        list->next = end;
    if (list->feed > end)
        list->feed = end;
}

/* ---- figures ---- */

void eb_worklist_stamp(struct eb_worklist *list, uint64_t seq, int64_t time_ms)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (job)
        job->time_ms = time_ms;
}

int64_t eb_worklist_oldest(const struct eb_worklist *list)
{
    const struct eb_job *job = eb_job_find(list, eb_worklist_first_open(list));

    return job ? job->time_ms : 0;
}

uint32_t eb_worklist_open(const struct eb_worklist *list)
{
    return list->job_count;
}

bool eb_worklist_has(const struct eb_worklist *list, uint64_t seq)
{
    return eb_job_find(list, seq) != NULL;
}

uint32_t eb_worklist_ready_count(const struct eb_worklist *list)
{
    return list->counts[EB_JOB_READY];
}

void eb_worklist_figures(const struct eb_worklist *list, struct eb_worklist_figures *ret)
{
    *ret = (struct eb_worklist_figures){
        .open = list->job_count,
        .ready = list->counts[EB_JOB_READY],
        .out = list->counts[EB_JOB_OUT],
        .waiting = list->counts[EB_JOB_WAITING],
        .parked = list->counts[EB_JOB_PARKED] + list->counts[EB_JOB_RECALL],
        .dying = list->counts[EB_JOB_DYING] + list->counts[EB_JOB_BURYING],
        .next = list->next,
        .first_open = eb_worklist_first_open(list),
        .window_full = eb_worklist_window_full(list),
    };
}

int eb_worklist_create(const struct eb_worklist_config *config, uint64_t next,
                       struct eb_worklist **ret)
{
    struct eb_worklist *list = calloc(1, sizeof(*list));

    if (!list)
        return -ENOMEM;
    list->config = *config;
    list->next = list->feed = next;
    if (eb_worklist_index_create(list) < 0) {
        free(list);
        return -ENOMEM;
    }
    *ret = list;
    return 0;
}

void eb_worklist_configure(struct eb_worklist *list, const struct eb_worklist_config *config)
{
    bool ordered = list->config.ordered;

    list->config = *config;
    list->config.ordered = ordered;
}

void eb_worklist_destroy(struct eb_worklist *list)
{
    if (!list)
        return;
    eb_job_drop_all(list);
    eb_worklist_index_destroy(list);
    free(list);
}
