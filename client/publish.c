/*
 * publish.c - handing over events and acks, waiting for their answers, flush.
 *
 * (U1) A request is encoded by its caller, without the lock; inside it only gets its id and its place.
 * (U2) `open` counts what was taken and whose completion did not run yet: a slow completion callback holds up
 *      publishers, not memory. Bytes are given back with the answer.
 * (U3) The callback thread never waits here: for room it gets FULL, for answers WOULD_DEADLOCK.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/consumer.h"

/* ---- requests ---- */

static struct eb_request *request_create(enum eb_request_kind kind, size_t count)
{
    struct eb_request *request = calloc(1, sizeof(*request));

    if (!request)
        return NULL;
    request->kind = kind;
    request->count = count;
    request->receipts = &request->one;
    if (kind == EB_REQUEST_BATCH && count > 0)
        request->receipts = calloc(count, sizeof(*request->receipts));
    if (!request->receipts) {
        eb_request_destroy(request);
        return NULL;
    }
    return request;
}

void eb_request_destroy(struct eb_request *request)
{
    if (!request)
        return;
    eb_buf_finish(&request->text);
    if (request->receipts != &request->one)
        free(request->receipts);
    free(request);
}

static void wake_flushers_locked(eb_client *client)
{
    const struct eb_request *first = client->inflight.first;

    if (client->inside > 0 && (!first || first->id > client->flush_mark)) {
        client->flush_mark = UINT64_MAX;
        pthread_cond_broadcast(&client->changed);
    }
}

void eb_request_complete_locked(eb_client *client, struct eb_request *request, int result)
{
    struct eb_waiter *waiter = request->waiter;

    eb_inflight_remove(&client->inflight, request);
    eb_buf_finish(&request->text);
    request->result = result;
    if (waiter) {
        waiter->result = result;
        waiter->done = true;
        if (waiter->receipts && result == 0 && request->count > 0)
            memcpy(waiter->receipts, request->receipts, request->count * sizeof(eb_receipt));
        pthread_cond_signal(&waiter->cond);
    }
    if (client->blocked > 0)
        pthread_cond_signal(&client->room);
    if (request->done) {
        if (client->done_last)
            client->done_last->next = request;
        else
            client->done_first = request;
        client->done_last = request;
        client->done_queued++;
        eb_callbacks_wake_locked(client);
    } else {
        client->open--;
        eb_request_destroy(request);
    }
    wake_flushers_locked(client);
}

void eb_request_complete_all_locked(eb_client *client, int result)
{
    while (client->inflight.first)
        eb_request_complete_locked(client, client->inflight.first, result);
}

/* ---- taking ---- */

static bool gone_locked(const eb_client *client, const struct eb_request *request)
{
    return client->closing || client->state == EB_STATE_FAILED ||
           (client->draining && request->kind != EB_REQUEST_ACK);
}

static bool fits_locked(const eb_client *client, const struct eb_request *request)
{
    return client->open < client->options.max_pending &&
           (client->inflight.count == 0 ||
            client->inflight.bytes + request->cost <= client->options.max_pending_bytes);
}

static int wait_for_room_locked(eb_client *client, const struct eb_request *request,
                                int64_t deadline)
{
    int rc = EB_RESULT_OK;

    if (client->options.when_full == EB_WHEN_FULL_ERROR || eb_client_in_callback(client))
        return EB_RESULT_FULL;
    client->inside++;
    client->blocked++;
    while (rc == 0 && !gone_locked(client, request) && !fits_locked(client, request)) {
        if (eb_cond_wait(&client->room, &client->lock, deadline) == ETIMEDOUT)
            rc = EB_RESULT_FULL;
    }
    client->blocked--;
    eb_client_leave_locked(client);
    return rc;
}

/* What was reserved for the worst (a text that is all escapes) is given back: it may wait for long. */
static void shrink(struct eb_buf *text)
{
    char *data = text->cap - text->len > 64 ? realloc(text->data, text->len) : NULL;

    if (data) {
        text->data = data;
        text->cap = text->len;
    }
}

int eb_request_take_locked(eb_client *client, struct eb_request *request, int64_t deadline)
{
    int rc = EB_RESULT_OK;

    request->cost = sizeof(*request) + request->text.cap + request->count * sizeof(eb_receipt);
    if (request->cost > client->options.max_pending_bytes)
        rc = EB_RESULT_TOO_LARGE;
    else if (!gone_locked(client, request) && !fits_locked(client, request))
        rc = wait_for_room_locked(client, request, deadline);
    if (rc == 0 && gone_locked(client, request))
        rc = EB_RESULT_CLOSED;
    if (rc < 0) {
        eb_request_destroy(request);
        return rc;
    }
    request->id = ++client->last_id;
    client->open++;
    eb_inflight_add(&client->inflight, request);
    client->wanted = true;
    if (client->state == EB_STATE_IDLE || client->state == EB_STATE_CONNECTED)
        eb_client_wake_locked(client);
    return EB_RESULT_OK;
}

static int take(eb_client *client, struct eb_request *request)
{
    int rc;

    shrink(&request->text);
    eb_lock_take(&client->lock);
    rc = eb_request_take_locked(client, request, -1);
    eb_lock_drop(&client->lock);
    return rc;
}

/* Into the table, and wait for the answer. */
static int take_and_wait(eb_client *client, struct eb_request *request, eb_receipt *rets,
                         int64_t timeout)
{
    struct eb_waiter waiter = {.receipts = rets, .result = EB_RESULT_TIMEOUT};
    int64_t deadline = eb_deadline(timeout);
    int rc;

    shrink(&request->text);
    eb_cond_init(&waiter.cond);
    eb_lock_take(&client->lock);
    /* cppcheck-suppress autoVariables; taken back before we leave */
    request->waiter = &waiter;
    rc = eb_request_take_locked(client, request, deadline);
    if (rc == 0) {
        client->inside++;
        while (!waiter.done && eb_cond_wait(&waiter.cond, &client->lock, deadline) != ETIMEDOUT)
            ;
        if (!waiter.done)
            request->waiter = NULL; /* it goes on without us */
        rc = waiter.result;
        eb_client_leave_locked(client);
    }
    eb_lock_drop(&client->lock);
    pthread_cond_destroy(&waiter.cond);
    return rc;
}

/* ---- making ---- */

static int refuse(eb_client *client, struct eb_request *request, int rc, const struct eb_error *err)
{
    if (rc == EB_RESULT_INVALID) {
        eb_lock_take(&client->lock);
        eb_client_set_error_locked(client, err->message);
        eb_lock_drop(&client->lock);
    }
    eb_request_destroy(request);
    return rc;
}

int eb_request_make_publish(eb_client *client, const eb_publication *event, struct eb_request **ret)
{
    struct eb_request *request = request_create(EB_REQUEST_PUBLISH, 1);
    struct eb_error err = {0};
    int rc;

    if (!request)
        return EB_RESULT_MEMORY;
    if (event && eb_wire_asks_more(event, 1))
        rc = eb_wire_write_more(&request->text, event, 1, false, &err);
    else
        rc = eb_wire_write_event(&request->text, event, false, &err);
    if (rc < 0)
        return refuse(client, request, rc, &err);
    shrink(&request->text);
    *ret = request;
    return 0;
}

static int write_members(struct eb_buf *text, const eb_publication *events, size_t count,
                         struct eb_error *err)
{
    size_t begin = eb_bin_begin(text, EB_BIN_PUBLISH_BATCH, 0, 0);
    int rc = EB_RESULT_OK;

    eb_bin_u64(text, 0); /* the id, once it is known */
    eb_bin_u32(text, (uint32_t)count);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = eb_wire_write_event(text, &events[i], true, err);
    eb_bin_end(text, begin);
    return rc;
}

static int make_batch(eb_client *client, const eb_publication *events, size_t count,
                      struct eb_request **ret)
{
    struct eb_request *request = request_create(EB_REQUEST_BATCH, count);
    struct eb_error err = {0};
    int rc = 0;

    if (!request)
        return EB_RESULT_MEMORY;
    if (!events && count > 0) {
        eb_fail(&err, EB_INVALID_REQUEST, "events is NULL, but count is not 0");
        rc = EB_RESULT_INVALID;
    }
    if (rc == 0 && eb_wire_asks_more(events, count))
        rc = eb_wire_write_more(&request->text, events, count, true, &err);
    else if (rc == 0)
        rc = write_members(&request->text, events, count, &err);
    if (rc == 0 && eb_buf_failed(&request->text))
        rc = EB_RESULT_MEMORY;
    if (rc < 0)
        return refuse(client, request, rc, &err);
    *ret = request;
    return 0;
}

/* ---- the public functions ---- */

EB_API int eb_client_publish(eb_client *client, const eb_publication *event, eb_publish_fn *done,
                             void *user)
{
    struct eb_request *request;
    int rc = eb_request_make_publish(client, event, &request);

    if (rc < 0)
        return rc;
    request->done = done;
    request->user = user;
    return take(client, request);
}

EB_API int eb_client_publish_wait(eb_client *client, const eb_publication *event, eb_receipt *ret,
                                  int64_t timeout)
{
    struct eb_request *request;
    int rc;

    if (eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    rc = eb_request_make_publish(client, event, &request);
    return rc < 0 ? rc : take_and_wait(client, request, ret, timeout);
}

EB_API int eb_client_publish_batch(eb_client *client, const eb_publication *events, size_t count,
                                   eb_publish_fn *done, void *user)
{
    struct eb_request *request;
    int rc = make_batch(client, events, count, &request);

    if (rc < 0)
        return rc;
    request->done = done;
    request->user = user;
    return take(client, request);
}

EB_API int eb_client_publish_batch_wait(eb_client *client, const eb_publication *events,
                                        size_t count, eb_receipt *rets, int64_t timeout)
{
    struct eb_request *request;
    int rc;

    if (eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    rc = make_batch(client, events, count, &request);
    return rc < 0 ? rc : take_and_wait(client, request, rets, timeout);
}

EB_API int eb_client_acknowledge(eb_client *client, uint64_t seq, int64_t timeout)
{
    struct eb_request *request;

    if (timeout != 0 && eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    if (seq == 0 || seq >= (uint64_t)1 << 53)
        return EB_RESULT_INVALID;
    request = request_create(EB_REQUEST_ACK, 0);
    if (!request)
        return EB_RESULT_MEMORY;
    eb_wire_write_ack(&request->text, seq);
    if (eb_buf_failed(&request->text)) {
        eb_request_destroy(request);
        return EB_RESULT_MEMORY;
    }
    return timeout == 0 ? take(client, request) : take_and_wait(client, request, NULL, timeout);
}

/* ---- flush and drain ---- */

static bool flushed_locked(eb_client *client, uint64_t mark)
{
    const struct eb_request *first = client->inflight.first;

    return (!first || first->id > mark) && eb_consume_flushed_locked(client, mark);
}

/* Everything up to now answered, and its completions run. */
static int flush_locked(eb_client *client, int64_t deadline)
{
    uint64_t mark = client->last_id, target, told;
    int rc = 0;

    client->inside++;
    while (rc == 0 && !flushed_locked(client, mark)) {
        if (mark < client->flush_mark)
            client->flush_mark = mark;
        rc = eb_cond_wait(&client->changed, &client->lock, deadline);
    }
    target = client->done_queued; /* in the order of the answers */
    told = client->notices_queued;
    while (rc == 0 && (client->done_run < target || client->notices_run < told))
        rc = eb_cond_wait(&client->changed, &client->lock, deadline);
    eb_client_leave_locked(client);
    if (rc == 0 && (client->closing || client->state == EB_STATE_FAILED))
        return EB_RESULT_CLOSED;
    return rc == 0 ? EB_RESULT_OK : EB_RESULT_TIMEOUT;
}

EB_API int eb_client_flush(eb_client *client, int64_t timeout)
{
    int rc;

    if (eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    eb_lock_take(&client->lock);
    rc = flush_locked(client, eb_deadline(timeout));
    eb_lock_drop(&client->lock);
    return rc;
}

/* Has every subscription with callbacks handed over what it holds? */
static bool handed_over_locked(const eb_client *client)
{
    for (const eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (sub->options.event && (sub->count > 0 || sub->in_callback))
            return false;
    }
    return eb_consumers_quiet_locked(client);
}

EB_API int eb_client_drain(eb_client *client, int64_t timeout)
{
    int64_t deadline = eb_deadline(timeout);
    int rc = 0;

    if (eb_client_in_callback(client) || eb_client_in_worker(client))
        return EB_RESULT_WOULD_DEADLOCK;
    eb_lock_take(&client->lock);
    client->draining = true;
    pthread_cond_broadcast(&client->room);
    eb_consumers_wake_locked(client); /* who pulls is to hear of it */
    client->inside++;
    while (rc == 0 && !handed_over_locked(client))
        rc = eb_cond_wait(&client->changed, &client->lock, deadline);
    eb_client_leave_locked(client);
    rc = rc == 0 ? flush_locked(client, deadline)
                 : EB_RESULT_TIMEOUT; /* also the acks of those callbacks */
    eb_lock_drop(&client->lock);
    return rc;
}

EB_API size_t eb_client_pending(eb_client *client)
{
    size_t count;

    eb_lock_take(&client->lock);
    count = client->inflight.count - client->inflight.acks;
    eb_lock_drop(&client->lock);
    return count;
}
