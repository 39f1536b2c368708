/*
 * worklist_states.c - which state a job is in, and the ways from one to another.
 *
 * A job is in one state, and in what belongs to it: READY and DYING in a queue, PARKED in its key's, OUT in its
 * worker's and in the heap, WAITING in the heap, RECALL in the queue of what a restart knows without its key.
 * eb_job_leave() and eb_job_enter…() are the only ways between them.
 */
#include <errno.h>

#include "broker/bus/worklist_internal.h"

/* ---- queues ---- */

void eb_job_queue_push(struct eb_job_queue *queue, struct eb_job *job)
{
    job->next = NULL;
    job->prev = queue->last;
    if (queue->last)
        queue->last->next = job;
    else
        queue->first = job;
    queue->last = job;
}

void eb_job_queue_remove(struct eb_job_queue *queue, struct eb_job *job)
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

void eb_job_leave(struct eb_worklist *list, struct eb_job *job)
{
    list->counts[job->state]--;
    switch (job->state) {
    case EB_JOB_READY:
        eb_job_queue_remove(&list->ready[job->again], job);
        break;
    case EB_JOB_PARKED:
        eb_job_queue_remove(&job->key->parked, job);
        break;
    case EB_JOB_RECALL:
        eb_job_queue_remove(&list->recall, job);
        break;
    case EB_JOB_DYING:
        eb_job_queue_remove(&list->dying[job->asked], job);
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

void eb_job_enter(struct eb_worklist *list, struct eb_job *job, enum eb_job_state state)
{
    job->state = (uint8_t)state;
    list->counts[state]++;
    eb_job_mark(list, job);
}

void eb_job_enter_ready(struct eb_worklist *list, struct eb_job *job, bool again)
{
    job->again = again;
    eb_job_enter(list, job, EB_JOB_READY);
    eb_job_queue_push(&list->ready[again], job);
}

void eb_job_enter_waiting(struct eb_worklist *list, struct eb_job *job, int64_t at_ms)
{
    eb_job_enter(list, job, EB_JOB_WAITING);
    eb_job_heap_add(list, job, at_ms);
}

void eb_job_enter_dying(struct eb_worklist *list, struct eb_job *job)
{
    eb_job_enter(list, job, EB_JOB_DYING);
    job->asked = false;
    eb_job_queue_push(&list->dying[0], job);
}

void eb_job_enter_out(struct eb_worklist *list, struct eb_job *job, struct eb_worker *worker,
                      int64_t now_ms)
{
    eb_job_enter(list, job, EB_JOB_OUT);
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
        eb_job_leave(list, next);
        key->holder = next;
        eb_job_enter_ready(list, next, true);
    }
    if (!key->holder)
        eb_job_key_drop(list, key);
}

/* Over: it leaves the list (L1), and the window moves on. */
void eb_job_done(struct eb_worklist *list, struct eb_job *job)
{
    eb_job_leave(list, job);
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
void eb_job_failed(struct eb_worklist *list, struct eb_job *job, int64_t wait_ms, int64_t now_ms)
{
    eb_job_leave(list, job);
    if (used_up(list, job))
        eb_job_enter_dying(list, job);
    else if (wait_ms > 0)
        eb_job_enter_waiting(list, job, now_ms + wait_ms);
    else
        eb_job_enter_ready(list, job, true);
}

/* A job that has just become known takes its place behind its key. */
int eb_job_place(struct eb_worklist *list, struct eb_job *job, struct eb_order_key order,
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
        eb_job_enter(list, job, EB_JOB_PARKED);
        eb_job_queue_push(&key->parked, job);
        return 0;
    }
    if (key)
        key->holder = job;
    if (used_up(list, job))
        eb_job_enter_dying(list, job);
    else if (job->due_ms > 0)
        eb_job_enter_waiting(list, job, job->due_ms);
    else
        eb_job_enter_ready(list, job, again);
    return 0;
}

bool eb_job_is_out(const struct eb_job *job, uint32_t delivery)
{
    return job && job->state == EB_JOB_OUT &&
           (delivery == EB_ANY_DELIVERY || delivery == job->deliveries);
}
