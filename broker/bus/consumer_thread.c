/*
 * consumer_thread.c - `eb-consumer`: one thread that hands out and keeps the time for all consumers (K2). It is all
 * of the consumers that knows of threads and clocks; the tests have their own.
 */
#include <errno.h>
#include <pthread.h>

#include "broker/bus/consumer_internal.h"
#include "common/clock.h"

static _Thread_local bool is_consumer_thread;

int64_t eb_consumers_now(void)
{
    return eb_mono_ms();
}

bool eb_consumers_thread(void)
{
    return is_consumer_thread;
}

void eb_consumers_signal_locked(struct eb_consumers *all)
{
    pthread_cond_signal(&all->work);
}

static bool anything_locked(const struct eb_consumers *all)
{
    return all->run != NULL || all->changes != NULL || all->push_seen != all->push_round;
}

static void *thread_main(void *arg)
{
    struct eb_consumers *all = arg;
    bool stop = false;
    is_consumer_thread = true;
    eb_lock_take(&all->run_lock);
    while (!all->running && !all->stop)
        eb_cond_wait(&all->work, &all->run_lock, -1);
    bool running = all->running;
    eb_lock_drop(&all->run_lock);
    if (!running) /* the store did not start */
        return NULL;
    while (!stop) {
        int64_t due = eb_consumers_round(all);
        eb_lock_take(&all->run_lock);
        while (!anything_locked(all) && !all->stop) {
            if (eb_cond_wait(&all->work, &all->run_lock, due == INT64_MAX ? -1 : due) == ETIMEDOUT)
                break;
        }
        stop = all->stop;
        eb_lock_drop(&all->run_lock);
    }
    while (!eb_consumers_end(all)) { /* the last commits; their `done` signals */
        eb_lock_take(&all->run_lock);
        if (all->run == NULL)
            eb_cond_wait(&all->work, &all->run_lock, eb_mono_ms() + EB_CONSUMER_LAZY_MS);
        eb_lock_drop(&all->run_lock);
    }
    return NULL;
}

int eb_consumers_start(struct eb_consumers *all)
{
    int rc = -pthread_create(&all->thread, NULL, thread_main, all);
    if (rc < 0)
        return rc;
    all->started = true;
    pthread_setname_np(all->thread, "eb-consumer");
    return 0;
}

void eb_consumers_go(struct eb_consumers *all)
{
    eb_lock_take(&all->run_lock);
    all->running = true;
    pthread_cond_signal(&all->work);
    eb_lock_drop(&all->run_lock);
}

void eb_consumers_halt(struct eb_consumers *all)
{
    if (all == NULL || !all->started)
        return;
    eb_lock_take(&all->run_lock);
    bool first = !all->stop;
    all->stop = true;
    pthread_cond_signal(&all->work);
    eb_lock_drop(&all->run_lock);
    if (first)
        pthread_join(all->thread, NULL);
}
