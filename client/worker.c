/*
 * worker.c - the threads `eb-worker`: a consumer's callbacks, one at a time on each.
 *
 * (Y1) No lock is held in a callback, and it may wait: for publishes, requests, acks.
 * (Y2) After `closing` nothing is handed over; after `stop` the thread ends, when its callback has returned.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/consumer.h"

static _Thread_local const eb_client *worker_of;

bool eb_client_in_worker(const eb_client *client)
{
    return worker_of == client;
}

static void run(eb_consumer *consumer, struct eb_out *out, struct eb_item *item)
{
    eb_client *client = consumer->client;
    uint64_t seq = out->seq;
    char epoch[37];
    eb_delivery delivery = {.message = &item->message,
                            .number = item->delivery,
                            .epoch = epoch,
                            .delay = EB_DELAY_BACKOFF};
    eb_verdict verdict;

    memcpy(epoch, consumer->epoch, sizeof(epoch)); /* what is held is of this connection (V2) */
    out->running = true;
    consumer->running++;
    eb_lock_drop(&client->lock);
    verdict = consumer->options.event(consumer->options.user, consumer, &delivery);
    delivery.reason[sizeof(delivery.reason) - 1] = '\0';
    eb_lock_take(&client->lock);
    eb_deliveries_returned_locked(consumer, seq, verdict, &delivery);
    eb_item_unref(item);
    consumer->running--;
    pthread_cond_broadcast(&consumer->quiet);
    if (client->inside > 0)
        pthread_cond_broadcast(&client->changed);
}

static void *work(void *arg)
{
    eb_consumer *consumer = arg;
    eb_client *client = consumer->client;

    pthread_setname_np(pthread_self(), "eb-worker");
    worker_of = client;
    eb_lock_take(&client->lock);
    while (!consumer->stop) {
        struct eb_item *item;
        struct eb_out *out = NULL;
        if (!consumer->closing && !client->draining && !client->closing)
            out = eb_deliveries_hand_over_locked(consumer, &item);
        if (out)
            run(consumer, out, item);
        else
            eb_cond_wait(&consumer->work, &client->lock, -1);
    }
    eb_lock_drop(&client->lock);
    return NULL;
}

int eb_workers_start(eb_consumer *consumer)
{
    unsigned count = consumer->options.event ? consumer->options.threads : 0;
    sigset_t all, before;
    int rc = 0;

    if (count == 0)
        return EB_RESULT_OK;
    consumer->thread = calloc(count, sizeof(*consumer->thread));
    if (!consumer->thread)
        return EB_RESULT_MEMORY;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (consumer->threads < count && rc == 0) {
        rc = pthread_create(&consumer->thread[consumer->threads], NULL, work, consumer);
        if (rc == 0)
            consumer->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0 ? EB_RESULT_OK : EB_RESULT_MEMORY;
}

void eb_workers_join(eb_consumer *consumer)
{
    for (unsigned i = 0; i < consumer->threads; i++)
        pthread_join(consumer->thread[i], NULL);
    free(consumer->thread);
    consumer->thread = NULL;
    consumer->threads = 0;
}
