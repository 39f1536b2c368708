/*
 * consumer_cache.c - events that a consumer has at hand for jobs that are not out: those that came from its feed, and
 * those that were read for it by their seqs. Bounded in bytes; what is not here is read from the log.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"

#define BUCKETS_MIN 64

static struct eb_cached **place(const struct eb_consumer_cache *cache, uint64_t seq)
{
    struct eb_cached **at =
        &cache->buckets[(uint32_t)((seq * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (cache->cap - 1)];
    while (*at != NULL && (*at)->event->seq != seq)
        at = &(*at)->chain;
    return at;
}

static bool grow(struct eb_consumer_cache *cache)
{
    struct eb_consumer_cache larger = {.cap = cache->cap != 0 ? cache->cap * 2 : BUCKETS_MIN};
    if (cache->count < cache->cap)
        return true;
    larger.buckets = calloc(larger.cap, sizeof(struct eb_cached *));
    if (larger.buckets == NULL)
        return false;
    for (uint32_t i = 0; i < cache->cap; i++) {
        for (struct eb_cached *next, *cached = cache->buckets[i]; cached != NULL; cached = next) {
            next = cached->chain;
            cached->chain = NULL;
            *place(&larger, cached->event->seq) = cached;
        }
    }
    free(cache->buckets);
    cache->buckets = larger.buckets;
    cache->cap = larger.cap;
    return true;
}

bool eb_cache_put(struct eb_consumer_cache *cache, struct eb_event *event, bool force)
{
    size_t bytes = eb_event_size(event);
    if ((!force && cache->count > 0 && cache->bytes + bytes > EB_CONSUMER_CACHE_BYTES) ||
        !grow(cache))
        return false;
    struct eb_cached **at = place(cache, event->seq), *cached;
    if (*at != NULL)
        return true;
    cached = malloc(sizeof(*cached));
    if (cached == NULL)
        return false;
    *cached = (struct eb_cached){.event = eb_event_ref(event)};
    *at = cached;
    cache->count++;
    cache->bytes += bytes;
    return true;
}

struct eb_event *eb_cache_take(struct eb_consumer_cache *cache, uint64_t seq)
{
    struct eb_cached **at = cache->cap != 0 ? place(cache, seq) : NULL;
    if (at == NULL || *at == NULL)
        return NULL;
    struct eb_cached *cached = *at;
    struct eb_event *event = cached->event;
    *at = cached->chain;
    free(cached);
    cache->count--;
    cache->bytes -= eb_event_size(event);
    return event;
}

bool eb_cache_has(const struct eb_consumer_cache *cache, uint64_t seq)
{
    return cache->cap != 0 && *place(cache, seq) != NULL;
}

void eb_cache_clear(struct eb_consumer_cache *cache)
{
    for (uint32_t i = 0; i < cache->cap; i++) {
        for (struct eb_cached *next, *cached = cache->buckets[i]; cached != NULL; cached = next) {
            next = cached->chain;
            eb_event_unref(cached->event);
            free(cached);
        }
    }
    free(cache->buckets);
    *cache = (struct eb_consumer_cache){0};
}
