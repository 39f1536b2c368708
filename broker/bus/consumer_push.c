/*
 * consumer_push.c - whoever calls webhooks is told which consumers have one. He may come and go while the bus runs.
 */
#include "broker/bus/consumer_internal.h"

void eb_bus_on_push(struct eb_bus *bus, const struct eb_push_ops *ops, void *ctx)
{
    struct eb_consumers *all = bus->consumers;
    eb_lock_take(&all->run_lock);
    all->push_ops = ops;
    all->push_ctx = ctx;
    all->push_round++;
    eb_consumers_signal_locked(all);
    while (ops == NULL && all->push_calling && !eb_consumers_thread())
        eb_cond_wait(&all->push_over, &all->run_lock, -1);
    eb_lock_drop(&all->run_lock);
}

bool eb_push_enter(struct eb_consumers *all, const struct eb_push_ops **ret_ops, void **ret_ctx)
{
    eb_lock_take(&all->run_lock);
    *ret_ops = all->push_ops;
    *ret_ctx = all->push_ctx;
    all->push_calling = all->push_ops != NULL;
    bool there = all->push_calling;
    eb_lock_drop(&all->run_lock);
    return there;
}

void eb_push_leave(struct eb_consumers *all)
{
    eb_lock_take(&all->run_lock);
    all->push_calling = false;
    pthread_cond_broadcast(&all->push_over);
    eb_lock_drop(&all->run_lock);
}

void eb_push_follow(struct eb_consumer *consumer)
{
    struct eb_consumers *all = consumer->all;
    const struct eb_push_ops *ops;
    struct eb_consumer_settings settings;
    void *ctx;
    eb_lock_take(&consumer->lock);
    bool wanted = consumer->life == EB_CONSUMER_THERE && !consumer->stopping &&
                  !consumer->damaged && consumer->stopped[0] == '\0' &&
                  consumer->settings->has_push;
    bool afresh = consumer->push_afresh || consumer->push_round != all->push_seen;
    bool nothing = consumer->push_started == wanted && !(wanted && afresh);
    if (!nothing && wanted)
        settings = *consumer->settings;
    eb_lock_drop(&consumer->lock);
    if (nothing)
        return;
    if (consumer->push_started)
        eb_workers_tell(consumer); /* its slots are released before */
    if (!eb_push_enter(all, &ops, &ctx)) {
        consumer->push_started = false;
        consumer->push_round = all->push_seen;
        return;
    }
    if (consumer->push_started && consumer->push_round == all->push_seen)
        ops->stop(ctx, consumer->name);
    if (wanted)
        ops->start(ctx, consumer->name, &settings);
    eb_push_leave(all);
    consumer->push_started = wanted;
    consumer->push_round = all->push_seen;
    eb_lock_take(&consumer->lock);
    consumer->push_afresh = false;
    eb_lock_drop(&consumer->lock);
}
