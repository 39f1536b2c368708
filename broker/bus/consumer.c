/*
 * consumer.c - durable consumers from making to end, and the list of them by name.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "common/uuid.h"

#define MAX_CONSUMERS 1000
#define PUSH_GRACE_MS 5000 /* a webhook's own timeout comes before ack_wait */

/* ---- one ---- */

void eb_consumer_config(const struct eb_consumer_settings *settings, struct eb_worklist_config *ret)
{
    *ret = (struct eb_worklist_config){
        .ordered = settings->order != EB_ORDER_NONE,
        .order_window = settings->order_window,
        .max_deliver = settings->max_deliver,
        .max_inflight = settings->max_inflight,
        .ack_wait_ms =
            settings->has_push ? settings->push.timeout_ms + PUSH_GRACE_MS : settings->ack_wait_ms,
        .backoff_count = settings->backoff_count,
    };
    memcpy(ret->backoff_ms, settings->backoff_ms, sizeof(ret->backoff_ms));
}

struct eb_consumer *eb_consumer_create(struct eb_consumers *all, const char *name, uint64_t id,
                                       int64_t made_ms, struct eb_consumer_settings *settings,
                                       uint64_t next)
{
    struct eb_consumer *consumer = calloc(1, sizeof(*consumer));
    struct eb_worklist_config config;
    if (consumer == NULL)
        return NULL;
    eb_consumer_config(settings, &config);
    if (eb_worklist_create(&config, next, &consumer->list) < 0) {
        free(consumer);
        return NULL;
    }
    atomic_init(&consumer->refs, 1);
    consumer->all = all;
    consumer->id = id;
    consumer->made_ms = made_ms;
    consumer->settings = settings;
    consumer->kept_first = next;
    consumer->due_ms = consumer->keep_ms = INT64_MAX;
    consumer->keep.waiting_end = &consumer->keep.waiting;
    consumer->changes_end = &consumer->changes;
    consumer->reasons_end = &consumer->reasons;
    consumer->said.alone_ms = -1;
    snprintf(consumer->name, sizeof(consumer->name), "%s", name);
    snprintf(consumer->dead_topic, sizeof(consumer->dead_topic), "$dead.%s", name);
    eb_lock_init(&consumer->lock, EB_RANK_CONSUMER);
    eb_cond_init(&consumer->calls);
    return consumer;
}

struct eb_consumer *eb_consumer_ref(struct eb_consumer *consumer)
{
    atomic_fetch_add_explicit(&consumer->refs, 1, memory_order_relaxed);
    return consumer;
}

void eb_consumer_unref(struct eb_consumer *consumer)
{
    if (consumer == NULL ||
        atomic_fetch_sub_explicit(&consumer->refs, 1, memory_order_acq_rel) != 1)
        return;
    eb_reasons_clear_locked(consumer);
    eb_cache_clear(&consumer->cache);
    eb_worklist_destroy(consumer->list);
    free(consumer->settings);
    pthread_cond_destroy(&consumer->calls);
    eb_lock_finish(&consumer->lock);
    free(consumer);
}

void eb_consumer_changed_locked(struct eb_consumer *consumer)
{
    consumer->changed = true;
    if (consumer->keep_ms == INT64_MAX)
        consumer->keep_ms = eb_consumers_now() + EB_CONSUMER_LAZY_MS;
}

/* ---- the list ---- */

/* Place of the first whose name is not below @name. */
static size_t place_locked(const struct eb_consumers *all, const char *name)
{
    size_t low = 0, high = all->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(all->list[middle]->name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_at_locked(const struct eb_consumers *all, size_t place, const char *name)
{
    return place < all->count && strcmp(all->list[place]->name, name) == 0;
}

struct eb_consumer *eb_consumer_find(struct eb_consumers *all, const char *name)
{
    struct eb_consumer *found = NULL;
    eb_lock_take(&all->list_lock);
    size_t place = place_locked(all, name);
    if (is_at_locked(all, place, name))
        found = eb_consumer_ref(all->list[place]);
    eb_lock_drop(&all->list_lock);
    return found;
}

unsigned eb_consumers_max(const struct eb_consumers *all)
{
    unsigned max = all->bus->config.max_consumers;
    return max != 0 ? max : MAX_CONSUMERS;
}

static int list_locked(struct eb_consumers *all, struct eb_consumer *consumer)
{
    size_t place = place_locked(all, consumer->name);
    if (is_at_locked(all, place, consumer->name))
        return -EEXIST;
    if (all->count == all->cap) {
        size_t cap = all->cap != 0 ? all->cap * 2 : 16;
        struct eb_consumer **list = realloc(all->list, cap * sizeof(struct eb_consumer *));
        if (list == NULL)
            return -ENOMEM;
        all->list = list;
        all->cap = cap;
    }
    memmove(&all->list[place + 1], &all->list[place],
            (all->count - place) * sizeof(struct eb_consumer *));
    all->list[place] = eb_consumer_ref(consumer);
    all->count++;
    return 0;
}

int eb_consumer_list(struct eb_consumers *all, struct eb_consumer *consumer)
{
    eb_lock_take(&all->list_lock);
    int rc =
        all->started && all->count >= eb_consumers_max(all) ? -ENOSPC : list_locked(all, consumer);
    eb_lock_drop(&all->list_lock);
    return rc;
}

void eb_consumer_unlist(struct eb_consumer *consumer)
{
    struct eb_consumers *all = consumer->all;
    eb_lock_take(&all->list_lock);
    size_t place = place_locked(all, consumer->name);
    bool found = place < all->count && all->list[place] == consumer;
    if (found) {
        all->count--;
        memmove(&all->list[place], &all->list[place + 1],
                (all->count - place) * sizeof(struct eb_consumer *));
    }
    eb_lock_drop(&all->list_lock);
    if (found)
        eb_consumer_unref(consumer);
}

struct eb_consumer **eb_consumers_all(struct eb_consumers *all, size_t *ret_count)
{
    eb_lock_take(&all->list_lock);
    size_t count = all->count;
    struct eb_consumer **list = count != 0 ? malloc(count * sizeof(struct eb_consumer *)) : NULL;
    for (size_t i = 0; list != NULL && i < count; i++)
        list[i] = eb_consumer_ref(all->list[i]);
    eb_lock_drop(&all->list_lock);
    *ret_count = list != NULL ? count : 0;
    return list;
}

void eb_consumers_all_finish(struct eb_consumer **list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        eb_consumer_unref(list[i]);
    free(list);
}

/* ---- all ---- */

int eb_consumers_create(struct eb_bus *bus, struct eb_consumers **ret)
{
    struct eb_consumers *all = calloc(1, sizeof(*all));
    uint8_t seed[16];
    if (all == NULL)
        return -ENOMEM;
    all->bus = bus;
    eb_uuid_v4(seed);
    memcpy(all->key, seed, sizeof(seed));
    all->run_end = &all->run;
    all->changes_end = &all->changes;
    all->held = UINT64_MAX;
    eb_lock_init(&all->list_lock, EB_RANK_CONSUMER);
    eb_lock_init(&all->run_lock, EB_RANK_LEAF);
    eb_cond_init(&all->work);
    eb_cond_init(&all->push_over);
    *ret = all;
    return 0;
}

void eb_consumers_destroy(struct eb_consumers *all)
{
    if (all == NULL)
        return;
    for (struct eb_consumer *next, *consumer = all->run; consumer != NULL; consumer = next) {
        next = consumer->run_next;
        eb_consumer_unref(consumer);
    }
    for (size_t i = 0; i < all->count; i++)
        eb_consumer_unref(all->list[i]);
    free(all->list);
    free(all->heap);
    pthread_cond_destroy(&all->work);
    pthread_cond_destroy(&all->push_over);
    eb_lock_finish(&all->run_lock);
    eb_lock_finish(&all->list_lock);
    free(all);
}
