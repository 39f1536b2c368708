/*
 * subscribe.c - subscriptions as their owner sees them: made, pulled, ended.
 *
 * (O1) A subscription lives in its client's list from subscribe to end (or close). `refs` keeps its memory for
 *      threads that are inside it meanwhile: one that pulls, one that ends it, the callback thread.
 * (O2) eb_subscription_end returns when no callback of it runs, save on the callback thread, which cannot wait
 *      for itself: there the one that runs is the caller's own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client/internal.h"
#include "common/error.h"

void eb_subscription_unref_locked(eb_subscription *sub)
{
    if (--sub->refs > 0)
        return;
    eb_stream_clear_locked(sub);
    eb_item_unref(sub->current);
    if (sub->fd >= 0)
        close(sub->fd);
    pthread_cond_destroy(&sub->cond);
    free(sub);
}

/* Out of the list; the caller has the list's reference now. */
void eb_subscription_unlink_locked(eb_subscription *sub)
{
    if (sub->prev)
        sub->prev->next = sub->next;
    else
        sub->client->subs = sub->next;
    if (sub->next)
        sub->next->prev = sub->prev;
    sub->prev = sub->next = NULL;
    sub->ended = true;
}

/* ---- making ---- */

/* A caller built with an older header gives less: the rest keeps its default. */
static int read_options(eb_subscribe_options *ret, const eb_subscribe_options *options,
                        struct eb_pattern *pattern, struct eb_error *err)
{
    eb_subscribe_options defaults = EB_SUBSCRIBE_OPTIONS_INIT;
    uint8_t epoch[16];

    *ret = defaults;
    if (!options || options->size < offsetof(eb_subscribe_options, max_queued_bytes))
        return eb_fail(err, EB_INVALID_REQUEST, "options: start from EB_SUBSCRIBE_OPTIONS_INIT");
    memcpy(ret, options, options->size < sizeof(*ret) ? options->size : sizeof(*ret));
    if (!ret->pattern)
        return eb_fail(err, EB_INVALID_REQUEST, "options: the pattern is missing");
    if (eb_pattern_parse(pattern, ret->pattern, strlen(ret->pattern), err) < 0)
        return -1;
    if (ret->starting_seq != EB_START_LIVE && ret->starting_seq >= (uint64_t)1 << 53)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "starting_seq must be below 2^53, or EB_START_LIVE");
    if (ret->epoch && ret->epoch[0] && !eb_uuid_parse(epoch, ret->epoch, strlen(ret->epoch)))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "epoch must be a UUID, as eb_subscription_position gives it");
    if (ret->max_queued == 0 || ret->max_queued_bytes == 0)
        return eb_fail(err, EB_INVALID_REQUEST, "max_queued and max_queued_bytes must not be 0");
    if (!ret->event && ret->failed)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "failed is for subscriptions with event; a pulled one learns it from next");
    return 0;
}

static eb_subscription *create(eb_client *client, const eb_subscribe_options *options,
                               const struct eb_pattern *pattern)
{
    eb_subscription *sub = calloc(1, sizeof(*sub));
    uint8_t epoch[16];

    if (!sub)
        return NULL;
    sub->client = client;
    sub->refs = 1;
    sub->pattern = *pattern;
    sub->options = *options;
    sub->options.pattern = sub->pattern.text;
    sub->fd = -1;
    if (options->epoch && options->epoch[0] &&
        eb_uuid_parse(epoch, options->epoch, strlen(options->epoch))) {
        eb_uuid_format(sub->epoch, epoch);
        memcpy(sub->handed_epoch, sub->epoch, sizeof(sub->epoch));
    }
    if (options->starting_seq != EB_START_LIVE && options->starting_seq > 0)
        sub->seen = options->starting_seq - 1;
    eb_cond_init(&sub->cond);
    return sub;
}

static bool exists_locked(const eb_client *client, const struct eb_pattern *pattern)
{
    for (const eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (strcmp(sub->pattern.text, pattern->text) == 0)
            return true;
    }
    return false;
}

static int add_locked(eb_client *client, eb_subscription *sub)
{
    int rc = eb_client_want_locked(client);

    if (rc < 0)
        return rc;
    if (exists_locked(client, &sub->pattern)) {
        eb_client_set_error_locked(client,
                                   "this client has a subscription with that pattern already");
        return EB_RESULT_INVALID;
    }
    sub->after = client->last_id;
    sub->next = client->subs;
    if (sub->next)
        sub->next->prev = sub;
    client->subs = sub;
    eb_client_wake_locked(client);
    return 0;
}

int eb_subscription_listen_locked(eb_client *client, const char *text, eb_subscription **ret)
{
    eb_subscribe_options options = EB_SUBSCRIBE_OPTIONS_INIT;
    struct eb_pattern pattern;
    struct eb_error err;
    eb_subscription *sub;
    int rc;

    if (eb_pattern_parse(&pattern, text, strlen(text), &err) < 0)
        return EB_RESULT_INVALID;
    sub = create(client, &options, &pattern);
    if (!sub)
        return EB_RESULT_MEMORY;
    rc = add_locked(client, sub);
    if (rc < 0)
        eb_subscription_unref_locked(sub);
    else
        *ret = sub;
    return rc;
}

/* Until the broker answered; what became of it. The caller holds a reference of its own. */
static int wait_answer_locked(eb_client *client, eb_subscription *sub, int64_t deadline)
{
    int rc = 0;

    client->inside++;
    while (!sub->answered && sub->state != EB_SUB_DEAD && !sub->ended && !client->closing &&
           rc == 0)
        rc = eb_cond_wait(&client->changed, &client->lock, deadline);
    eb_client_leave_locked(client);
    if (sub->answered)
        return EB_RESULT_OK;
    if (sub->state == EB_SUB_DEAD)
        return sub->result;
    return client->closing || sub->ended ? EB_RESULT_CLOSED : EB_RESULT_TIMEOUT;
}

static void end_locked(eb_subscription *sub);

EB_API int eb_client_subscribe(eb_client *client, const eb_subscribe_options *options,
                               int64_t timeout, eb_subscription **ret)
{
    eb_subscribe_options checked;
    struct eb_pattern pattern;
    struct eb_error err = {0};
    eb_subscription *sub;
    int rc;

    if (timeout != 0 && eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    if (read_options(&checked, options, &pattern, &err) < 0) {
        eb_lock_take(&client->lock);
        eb_client_set_error_locked(client, err.message);
        eb_lock_drop(&client->lock);
        return EB_RESULT_INVALID;
    }
    sub = create(client, &checked, &pattern);
    if (!sub)
        return EB_RESULT_MEMORY;
    eb_lock_take(&client->lock);
    rc = add_locked(client, sub);
    if (rc == 0 && timeout != 0) {
        sub->told = true; /* a refusal is our result, not a callback */
        sub->refs++;
        rc = wait_answer_locked(client, sub, eb_deadline(timeout));
        if (rc < 0 && !sub->ended)
            end_locked(sub);
        sub->told = false;
        if (rc == 0 && ret)
            *ret = sub;
    } else if (rc == 0) {
        if (ret)
            *ret = sub;
        sub->refs++;
    }
    eb_subscription_unref_locked(sub);
    eb_lock_drop(&client->lock);
    return rc;
}

/* ---- ending ---- */

/* At the broker too, if it knows of it; no callback begins any more. */
static void end_locked(eb_subscription *sub)
{
    if (sub->state == EB_SUB_ASKED)
        sub->state = EB_SUB_ACTIVE; /* asked for on this connection: to be taken back */
    if (sub->state == EB_SUB_ACTIVE)
        eb_stream_park_locked(sub, 0);
    eb_subscription_unlink_locked(sub);
    pthread_cond_broadcast(&sub->cond);
    pthread_cond_broadcast(&sub->client->changed);
    eb_client_wake_locked(sub->client); /* a pause may be over */
    eb_subscription_unref_locked(sub);
}

EB_API int eb_subscription_end(eb_subscription *subscription)
{
    eb_client *client;

    if (!subscription)
        return EB_RESULT_OK;
    client = subscription->client;
    eb_lock_take(&client->lock);
    if (subscription->ended) { /* by another thread: it is not ours any more */
        eb_lock_drop(&client->lock);
        return EB_RESULT_CLOSED;
    }
    subscription->refs++;
    end_locked(subscription);
    client->inside++;
    while (subscription->in_callback && !eb_client_in_callback(client))
        eb_cond_wait(&subscription->cond, &client->lock, -1);
    eb_client_leave_locked(client);
    eb_subscription_unref_locked(subscription);
    eb_lock_drop(&client->lock);
    return EB_RESULT_OK;
}

/* ---- pulling ---- */

/* Gaps and live notices are told on this thread, without the lock. */
static void tell(eb_client *client, eb_subscription *sub, struct eb_item *item)
{
    eb_lock_drop(&client->lock);
    if (item->kind == EB_ITEM_LIVE && sub->options.live) {
        sub->options.live(sub->options.user, sub, item->live_seq);
    } else if (item->kind == EB_ITEM_GAP && sub->options.gap) {
        eb_gap_info gap = {sub->pattern.text, item->gap.from_seq, item->gap.to_seq,
                           item->gap.reason};
        sub->options.gap(sub->options.user, sub, &gap);
    }
    eb_item_unref(item);
    eb_lock_take(&client->lock);
}

/* 1: an event became current. 0: nothing there. Negative: nothing will come any more. */
static int next_locked(eb_client *client, eb_subscription *sub)
{
    struct eb_item *item;

    while (!sub->ended && (item = eb_stream_pop_locked(sub))) {
        eb_subscription_moved_locked(sub, item);
        if (item->kind == EB_ITEM_EVENT) {
            sub->current = item;
            return 1;
        }
        tell(client, sub, item);
    }
    if (sub->ended || client->closing)
        return EB_RESULT_CLOSED;
    return sub->state == EB_SUB_DEAD ? sub->result : 0;
}

EB_API int eb_subscription_next(eb_subscription *subscription, const eb_message **ret,
                                int64_t timeout)
{
    eb_client *client = subscription->client;
    int64_t deadline = eb_deadline(timeout);
    struct eb_item *last;
    int rc;

    if (subscription->options.event)
        return EB_RESULT_INVALID;
    if (timeout != 0 && eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    eb_lock_take(&client->lock);
    last = subscription->current;
    subscription->current = NULL;
    subscription->refs++;
    client->inside++;
    while ((rc = next_locked(client, subscription)) == 0 && timeout != 0 &&
           eb_cond_wait(&subscription->cond, &client->lock, deadline) != ETIMEDOUT)
        ;
    if (rc == 1)
        *ret = &subscription->current->message;
    eb_client_leave_locked(client);
    eb_subscription_unref_locked(subscription);
    eb_lock_drop(&client->lock);
    eb_item_unref(last);
    return rc;
}

EB_API int eb_subscription_fd(eb_subscription *subscription)
{
    eb_client *client = subscription->client;
    int fd;

    if (subscription->options.event)
        return EB_RESULT_INVALID;
    eb_lock_take(&client->lock);
    if (subscription->fd < 0) {
        bool some = subscription->count > 0 || subscription->state == EB_SUB_DEAD;
        subscription->fd = eventfd(some ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
        subscription->fd_set = some;
    }
    fd = subscription->fd;
    eb_lock_drop(&client->lock);
    return fd < 0 ? EB_RESULT_MEMORY : fd;
}

EB_API uint64_t eb_subscription_position(eb_subscription *subscription, char epoch[37])
{
    eb_client *client = subscription->client;
    uint64_t seq;

    eb_lock_take(&client->lock);
    seq = subscription->handed;
    if (epoch)
        memcpy(epoch, subscription->handed_epoch, sizeof(subscription->handed_epoch));
    eb_lock_drop(&client->lock);
    return seq;
}
