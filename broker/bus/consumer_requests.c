/*
 * consumer_requests.c - requests about consumers: answers of workers act at once on the worklist, on the caller's
 * thread, and wait for the commit that holds what they changed; all others are `eb-consumer`'s (consumer_change.c).
 */
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"

static void answer_one_locked(struct eb_consumer *consumer, struct eb_consumer_request *request,
                              uint32_t i, int64_t now)
{
    struct eb_worklist *list = consumer->list;
    uint64_t seq = request->seqs[i];
    enum eb_job_result *result = &request->results[i];
    uint32_t open = eb_worklist_open(list);
    switch (request->verb) {
    case EB_CONSUMER_ACK:
        *result = eb_worklist_ack(list, seq);
        if (eb_worklist_open(list) < open) {
            consumer->acked++;
            eb_event_unref(eb_cache_take(&consumer->cache, seq));
            eb_reason_drop_locked(consumer, seq);
        }
        break;
    case EB_CONSUMER_NACK:
        *result = eb_worklist_nack(list, seq, request->delivery, request->delay_ms, now);
        break;
    case EB_CONSUMER_TERM:
        *result = eb_worklist_term(list, seq, request->delivery);
        if (*result == EB_JOB_OK)
            eb_reason_set_locked(consumer, seq, request->reason);
        break;
    default:
        *result = eb_worklist_in_progress(list, seq, request->delivery, now);
        break;
    }
}

/* True: the request waits for its commit. */
static bool answer_locked(struct eb_consumer *consumer, struct eb_consumer_request *request)
{
    int64_t now = eb_consumers_now();
    bool keep = request->verb == EB_CONSUMER_KEEP;
    bool ok = keep, acts = !keep && request->verb != EB_CONSUMER_ACK;
    uint32_t open = eb_worklist_open(consumer->list);
    if (consumer->life != EB_CONSUMER_THERE) {
        eb_fail(&request->err, EB_NOT_FOUND, "there is no consumer %s", request->name);
        return false;
    }
    if (consumer->stopping) {
        eb_fail(&request->err, EB_UNAVAILABLE, "the broker is going down");
        return false;
    }
    for (uint32_t i = 0; i < request->count; i++) {
        answer_one_locked(consumer, request, i, now);
        ok = ok || request->results[i] == EB_JOB_OK;
    }
    if (!ok || request->verb == EB_CONSUMER_IN_PROGRESS)
        return false;
    if (acts || eb_worklist_open(consumer->list) < open)
        eb_consumer_changed_locked(consumer);
    else if (!consumer->changed && !consumer->keep.under_way)
        return false; /* what it repeats is kept already */
    request->next = NULL;
    *consumer->keep.waiting_end = request;
    consumer->keep.waiting_end = &request->next;
    eb_consumer_keep_locked(consumer);
    return true;
}

static void answer(struct eb_consumers *all, struct eb_consumer_request *request)
{
    struct eb_consumer *consumer = eb_consumer_find(all, request->name);
    bool waits = false;
    if (consumer == NULL) {
        eb_fail(&request->err, EB_NOT_FOUND, "there is no consumer %s", request->name);
    } else {
        eb_lock_take(&consumer->lock);
        waits = answer_locked(consumer, request);
        eb_lock_drop(&consumer->lock);
        eb_consumer_run(consumer); /* there may be room now, or another time */
        eb_consumer_unref(consumer);
    }
    if (!waits)
        eb_consumer_request_done(request);
}

void eb_bus_consumer(struct eb_bus *bus, struct eb_consumer_request *request)
{
    request->next = NULL;
    request->err = (struct eb_error){.code = EB_OK, .index = -1};
    request->created = false;
    request->redriven = 0;
    if (request->session != NULL)
        eb_session_open(request->session);
    if (request->verb >= EB_CONSUMER_ACK)
        answer(bus->consumers, request);
    else
        eb_change_submit(bus->consumers, request);
}
