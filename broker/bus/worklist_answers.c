/*
 * worklist_answers.c - how deliveries end: by an answer, by time, or given up.
 */
#include "broker/bus/worklist_internal.h"

/* ---- answers ---- */

/* The wait before the delivery that follows this one. */
static int64_t backoff(const struct eb_worklist *list, const struct eb_job *job)
{
    uint32_t count = list->config.backoff_count;

    if (count == 0)
        return 0;
    uint32_t at = job->deliveries > 0 ? job->deliveries - 1 : 0;
    return list->config.backoff_ms[at < count ? at : count - 1];
}

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
    eb_job_done(list, job);
    return EB_JOB_OK;
}

enum eb_job_result eb_worklist_nack(struct eb_worklist *list, uint64_t seq, uint32_t delivery,
                                    int64_t delay_ms, int64_t now_ms)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!eb_job_is_out(job, delivery))
        return not_out(list, job, seq);
    eb_job_failed(list, job, delay_ms >= 0 ? delay_ms : backoff(list, job), now_ms);
    return EB_JOB_OK;
}

enum eb_job_result eb_worklist_term(struct eb_worklist *list, uint64_t seq, uint32_t delivery)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!eb_job_is_out(job, delivery))
        return not_out(list, job, seq);
    eb_job_leave(list, job);
    job->ended = true;
    eb_job_enter_dying(list, job);
    return EB_JOB_OK;
}

enum eb_job_result eb_worklist_in_progress(struct eb_worklist *list, uint64_t seq,
                                           uint32_t delivery, int64_t now_ms)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!eb_job_is_out(job, delivery))
        return not_out(list, job, seq);
    eb_job_heap_remove(list, job);
    eb_job_heap_add(list, job, now_ms + list->config.ack_wait_ms);
    return EB_JOB_OK;
}

void eb_worklist_gone(struct eb_worklist *list, uint64_t seq)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (job && job->state != EB_JOB_BURYING)
        eb_job_done(list, job);
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
            eb_job_failed(list, job, backoff(list, job), now_ms);
        } else {
            eb_job_leave(list, job);
            eb_job_enter_ready(list, job, true);
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
    eb_job_queue_remove(&list->dying[0], job);
    eb_job_queue_push(&list->dying[1], job);
    job->asked = true;
    *ret = (struct eb_job_view){job->seq, job->deliveries, job->ended};
    return true;
}

bool eb_worklist_bury(struct eb_worklist *list, uint64_t seq)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!job || job->state != EB_JOB_DYING)
        return false;
    eb_job_leave(list, job);
    eb_job_enter(list, job, EB_JOB_BURYING);
    return true;
}

void eb_worklist_buried(struct eb_worklist *list, uint64_t seq, bool committed)
{
    struct eb_job *job = eb_job_find(list, seq);

    if (!job || job->state != EB_JOB_BURYING)
        return;
    if (committed) {
        eb_job_done(list, job);
        return;
    }
    eb_job_leave(list, job);
    eb_job_enter_dying(list, job);
}
