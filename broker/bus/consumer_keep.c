/*
 * consumer_keep.c - what a consumer has on disk: one state op after the other, each with all that has changed.
 *
 *   requests, deliveries ... --> changed, waiting --submit--> collect (commit lock) --COMMIT--> done: answers
 *                                     ^                                                          |
 *                                     `------- what came meanwhile goes with the next one -------'
 *
 * (K1) One state op of a consumer is under way at a time. What comes meanwhile waits, and goes with the next: so the
 *      more there is to do, the more goes into one transaction.
 * (K2) collect takes all requests that wait: what they changed is in its delta, since they changed it before they waited.
 * (K3) A failed commit leaves what was changed standing in memory, and is tried again: by the next request, else after a
 *      second. The requests of the failed one are told.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "common/clock.h"
#include "common/log.h"

/* ---- requests at their end ---- */

void eb_consumer_request_done(struct eb_consumer_request *request)
{
    struct eb_session *session = request->session;
    request->next = NULL;
    request->done(request); /* may free it */
    if (session != NULL)
        eb_session_over(session);
}

void eb_consumer_requests_done(struct eb_consumer_request *requests, const struct eb_error *err)
{
    for (struct eb_consumer_request *next, *request = requests; request != NULL; request = next) {
        next = request->next;
        if (err->code != EB_OK)
            request->err = *err;
        eb_consumer_request_done(request);
    }
}

/* ---- the writes ---- */

struct eb_state_counts eb_keep_counts_locked(const struct eb_consumer *consumer)
{
    struct eb_state_counts counts = consumer->counts;
    counts.dead += consumer->burying;
    return counts;
}

size_t eb_keep_writes(struct eb_consumer *consumer, const struct eb_worklist_delta *delta,
                      struct eb_state_write *at)
{
    size_t count = 0;
    for (size_t i = 0; i < delta->count; i++)
        at[count++] = (struct eb_state_write){.kind = EB_STATE_BLOCK,
                                              .consumer = consumer->id,
                                              .block = delta->blocks[i].number,
                                              .data = delta->blocks[i].data,
                                              .len = delta->blocks[i].len};
    at[count++] =
        (struct eb_state_write){.kind = EB_STATE_POSITION,
                                .consumer = consumer->id,
                                .next = delta->next,
                                .first_open = delta->first_open,
                                .counts = eb_keep_counts_locked(consumer),
                                .stopped = consumer->stopped[0] != '\0' ? consumer->stopped : NULL};
    return count;
}

static struct eb_consumer *consumer_of(struct eb_op *op)
{
    return eb_container(op, struct eb_consumer, keep.op);
}

/* Room for all of them, behind each other. NULL: no memory. */
static const struct eb_state_write *write_all_locked(struct eb_consumer *consumer)
{
    struct eb_state_op *keep = &consumer->keep;
    struct eb_change *change = keep->change;
    bool changes = change != NULL && change->collected && change->err.code == EB_OK;
    size_t room = EB_KEEP_WRITES(&keep->delta) + (changes ? eb_change_room(change) : 0);
    size_t count = 0;
    keep->writes = calloc(room, sizeof(*keep->writes));
    if (keep->writes == NULL)
        return NULL;
    keep->cleared = consumer->clear_blocks;
    if (keep->cleared)
        keep->writes[count++] =
            (struct eb_state_write){.kind = EB_STATE_BLOCKS_CLEAR, .consumer = consumer->id};
    if (changes)
        count += eb_change_writes_locked(consumer, change, keep->writes + count);
    if (!changes || change->request->verb != EB_CONSUMER_DELETE)
        count += eb_keep_writes(consumer, &keep->delta, keep->writes + count);
    for (size_t i = 0; i + 1 < count; i++)
        keep->writes[i].next_write = &keep->writes[i + 1];
    return keep->writes;
}

/* The commit lock is held. */
static const struct eb_state_write *keep_collect(struct eb_op *op)
{
    struct eb_consumer *consumer = consumer_of(op);
    struct eb_state_op *keep = &consumer->keep;
    const struct eb_state_write *writes = NULL;
    eb_lock_take(&consumer->lock);
    keep->taken = keep->waiting; /* K2 */
    keep->waiting = NULL;
    keep->waiting_end = &keep->waiting;
    if (keep->change != NULL && keep->change->ready)
        eb_change_collect_locked(consumer, keep->change, op->last_seq);
    bool refused = consumer->life == EB_CONSUMER_MAKING && keep->change->err.code != EB_OK;
    eb_feed_passed_locked(consumer);
    keep->collected =
        eb_worklist_collect(consumer->list, eb_wall_ms() - eb_consumers_now(), &keep->delta) == 0;
    if (keep->collected && !refused)
        writes = write_all_locked(consumer);
    keep->failed = writes == NULL && !refused;
    if (writes != NULL) {
        consumer->changed = consumer->clear_blocks = false;
        consumer->keep_ms = INT64_MAX;
    }
    eb_lock_drop(&consumer->lock);
    return writes;
}

/* ---- the end of one ---- */

static void settle_locked(struct eb_consumer *consumer, bool ok)
{
    struct eb_state_op *keep = &consumer->keep;
    if (ok && keep->collected) {
        consumer->kept_first = keep->delta.first_open;
    } else if (!ok) { /* K3 */
        if (keep->collected)
            eb_worklist_uncollect(consumer->list, &keep->delta);
        consumer->clear_blocks = consumer->clear_blocks || keep->cleared;
        consumer->changed = true;
        consumer->keep_ms = eb_consumers_now() + EB_CONSUMER_RETRY_MS;
    }
    eb_worklist_delta_finish(&keep->delta);
    free(keep->writes);
    keep->writes = NULL;
    keep->collected = keep->cleared = false;
}

/* Under the commit lock. */
static void keep_done(struct eb_op *op)
{
    struct eb_consumer *consumer = consumer_of(op);
    struct eb_state_op *keep = &consumer->keep;
    eb_lock_take(&consumer->lock);
    struct eb_error err = op->err;
    if (err.code == EB_OK && keep->failed)
        eb_fail(&err, EB_UNAVAILABLE, "out of memory: what was asked for is not kept yet");
    bool ok = err.code == EB_OK;
    if (!ok && keep->taken == NULL) { /* it was not even asked */
        keep->taken = keep->waiting;
        keep->waiting = NULL;
        keep->waiting_end = &keep->waiting;
    }
    struct eb_consumer_request *requests = keep->taken;
    keep->taken = NULL;
    settle_locked(consumer, ok);
    struct eb_change *change = keep->change;
    if (change != NULL && change->ready && (change->collected || !ok))
        change = eb_change_committed_locked(consumer, change, &err, op->last_seq);
    else
        change = NULL;
    keep->under_way = false;
    bool gone = consumer->life == EB_CONSUMER_GONE;
    struct eb_consumer_request *left = gone ? keep->waiting : NULL;
    if (gone) {
        keep->waiting = NULL;
        keep->waiting_end = &keep->waiting;
    } else if (keep->waiting != NULL) {
        eb_consumer_keep_locked(consumer);
    }
    eb_lock_drop(&consumer->lock);
    if (gone)
        eb_consumer_unlist(consumer);
    eb_consumer_requests_done(requests, &err);
    if (left != NULL) {
        eb_fail(&err, EB_NOT_FOUND, "there is no consumer %s", consumer->name);
        eb_consumer_requests_done(left, &err);
    }
    if (change != NULL)
        eb_change_finish(change);
    eb_consumer_run(consumer);
    eb_consumer_unref(consumer);
}

void eb_consumer_keep_locked(struct eb_consumer *consumer)
{
    struct eb_state_op *keep = &consumer->keep;
    if (keep->under_way)
        return;
    keep->under_way = true;
    keep->failed = false;
    keep->op = (struct eb_op){
        .kind = EB_OP_STATE,
        .collect = keep_collect,
        .done = keep_done,
        .err = {.code = EB_OK, .index = -1},
    };
    eb_consumer_ref(consumer);
    eb_store_submit(consumer->all->bus->store, &keep->op, &keep->op);
}
