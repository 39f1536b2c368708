/*
 * worklist.c - the open events of one durable consumer: how they come in, are handed out, and are known again after a
 * restart.
 *
 * What states they have and how they get from one to another is worklist_states.c's; how a delivery ends,
 * worklist_answers.c's; how jobs are found, by seq and by key, worklist_index.c's; how they are put into blocks,
 * worklist_blocks.c's.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/bus/worklist_internal.h"

/* ---- feeding ---- */

bool eb_worklist_wants(const struct eb_worklist *list)
{
    if (list->counts[EB_JOB_READY] >= list->config.max_inflight)
        return false;
    return !eb_worklist_window_full(list);
}

/* What a restart knew of and the log no longer has, before @seq. */
static void forget_recalled(struct eb_worklist *list, uint64_t seq)
{
    while (list->recall.first && list->recall.first->seq < seq)
        eb_job_done(list, list->recall.first);
}

static int offer_known(struct eb_worklist *list, uint64_t seq, struct eb_order_key key)
{
    struct eb_job *job = list->recall.first;

    if (!job || job->seq != seq)
        return 0;
    eb_job_leave(list, job);
    int rc = eb_job_place(list, job, key, true);
    if (rc == 0)
        return 0;
    eb_job_enter(list, job, EB_JOB_RECALL); /* at its old place: the head */
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
        if (eb_job_place(list, job, key, false) < 0) {
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
    if (eb_job_place(list, job, key, true) == 0)
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
    eb_job_leave(list, job);
    job->due_ms = 0; /* it has waited */
    int rc = eb_job_place(list, job, key, true);
    if (rc < 0)
        eb_job_enter_ready(list, job, true);
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
    eb_job_leave(list, job);
    job->deliveries++;
    eb_job_enter_out(list, job, worker, now_ms);
    *ret = (struct eb_job_view){job->seq, job->deliveries, false};
    return true;
}

void eb_worklist_return(struct eb_worklist *list, uint64_t seq, uint32_t delivery)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!eb_job_is_out(job, delivery))
        return;
    eb_job_leave(list, job);
    job->deliveries--;
    eb_job_enter_ready(list, job, true);
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
        eb_job_failed(list, job, 0, 0);
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
    eb_job_leave(list, job);
    eb_job_enter_waiting(list, job, at_ms);
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
        return eb_job_place(list, job, none, true);
    eb_job_enter(list, job, EB_JOB_RECALL);
    eb_job_queue_push(&list->recall, job);
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
                eb_job_done(list, job);
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
