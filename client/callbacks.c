/*
 * callbacks.c - the thread `eb-client-cb`: everything that is told to the program, one thing at a time.
 *
 * (H1) No lock is held in a callback.
 * (H2) States first, then completions, then what consumers tell, then events; subscriptions take turns, an item each.
 * (H3) A subscription that ended is not called again: looked at under the lock right before each call. Its end
 *      waits for `in_callback`, unless it is that very callback that ends it.
 * (H4) After cb_stop the completions and states that are there are still told, then the thread ends.
 */
#include <stdlib.h>
#include <string.h>

#include "client/consumer.h"

void eb_callbacks_wake_locked(eb_client *client)
{
    if (!client->cb_sleeps)
        return;
    client->cb_sleeps = false;
    pthread_cond_signal(&client->work);
}

static bool run_state(eb_client *client)
{
    struct eb_state_change change;

    if (client->states_count == 0)
        return false;
    change = client->states[client->states_head];
    client->states_head = (client->states_head + 1) % EB_STATES_KEPT;
    client->states_count--;
    eb_lock_drop(&client->lock);
    client->options.state(client->options.user, change.state, change.why);
    eb_lock_take(&client->lock);
    return true;
}

/* All that are there, in the order of their answers. */
static bool run_completions(eb_client *client)
{
    struct eb_request *request = client->done_first;
    size_t count = 0;

    if (!request)
        return false;
    client->done_first = client->done_last = NULL;
    eb_lock_drop(&client->lock);
    while (request) {
        struct eb_request *next = request->next;
        request->done(request->user, request->result,
                      request->result == 0 ? request->receipts : NULL,
                      request->result == 0 ? request->count : 0);
        eb_request_destroy(request);
        request = next;
        count++;
    }
    eb_lock_take(&client->lock);
    client->done_run += count;
    client->open -= count;
    if (client->blocked > 0)
        pthread_cond_broadcast(&client->room);
    if (client->inside > 0)
        pthread_cond_broadcast(&client->changed);
    return true;
}

static void hand_over(eb_subscription *sub, const struct eb_item *item)
{
    const eb_subscribe_options *options = &sub->options;

    if (item->kind == EB_ITEM_EVENT) {
        options->event(options->user, sub, &item->message);
    } else if (item->kind == EB_ITEM_LIVE) {
        options->live(options->user, sub, item->live_seq);
    } else if (options->gap) {
        eb_gap_info gap = {sub->pattern.text, item->gap.from_seq, item->gap.to_seq,
                           item->gap.reason};
        options->gap(options->user, sub, &gap);
    }
}

void eb_subscription_moved_locked(eb_subscription *sub, const struct eb_item *item)
{
    if (item->kind == EB_ITEM_EVENT) {
        sub->handed = item->message.seq;
    } else if (item->kind == EB_ITEM_GAP && item->gap.epoch[0]) {
        sub->handed = item->gap.to_seq;
        memcpy(sub->handed_epoch, item->gap.epoch, sizeof(sub->handed_epoch));
    }
}

/* One item of @sub, or its death. */
static void run_item(eb_client *client, eb_subscription *sub)
{
    struct eb_item *item = eb_stream_pop_locked(sub);
    bool failed = !item && sub->state == EB_SUB_DEAD && !sub->told && sub->options.failed;

    if (!item && !failed)
        return;
    sub->in_callback = true;
    if (item)
        eb_subscription_moved_locked(sub, item);
    else
        sub->told = true;
    eb_lock_drop(&client->lock);
    if (item)
        hand_over(sub, item);
    else
        sub->options.failed(sub->options.user, sub, sub->result, sub->why);
    eb_item_unref(item);
    eb_lock_take(&client->lock);
    sub->in_callback = false;
    if (sub->ended)
        pthread_cond_broadcast(&sub->cond);
}

static bool run_subscription(eb_client *client)
{
    eb_subscription *sub = client->ready_first;

    if (!sub)
        return false;
    client->ready_first = sub->ready_next;
    if (!client->ready_first)
        client->ready_last = NULL;
    sub->ready = false;
    if (!sub->ended)
        run_item(client, sub);
    if (!sub->ended &&
        (sub->count > 0 || (sub->state == EB_SUB_DEAD && !sub->told && sub->options.failed)))
        eb_stream_notify_locked(sub); /* to the end of the list: the others first */
    else if (client->draining)
        pthread_cond_broadcast(&client->changed);
    eb_subscription_unref_locked(sub);
    return true;
}

void *eb_client_cb_thread(void *arg)
{
    eb_client *client = arg;

    pthread_setname_np(pthread_self(), "eb-client-cb");
    eb_lock_take(&client->lock);
    for (;;) {
        if (run_state(client) || run_completions(client) || eb_notice_run(client))
            continue;
        if (client->cb_stop)
            break;
        if (run_subscription(client))
            continue;
        client->cb_sleeps = true;
        eb_cond_wait(&client->work, &client->lock, -1);
        client->cb_sleeps = false;
    }
    eb_lock_drop(&client->lock);
    return NULL;
}
