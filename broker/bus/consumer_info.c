/*
 * consumer_info.c - what can be told about consumers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "common/clock.h"

static const char *state_of(const struct eb_consumer *consumer,
                            const struct eb_worklist_figures *figures)
{
    if (consumer->stopped[0] != '\0')
        return "stopped";
    if (figures->window_full)
        return "window_full";
    return consumer->worker_count > 0 ? "active" : "idle";
}

static bool describe(struct eb_consumer *consumer, bool settings, struct eb_consumer_info *ret)
{
    struct eb_worklist_figures f;
    uint64_t visible = eb_bus_visible(consumer->all->bus);
    int64_t wall = eb_wall_ms();
    struct eb_consumer_settings *copy = settings ? malloc(sizeof(*copy)) : NULL;
    eb_lock_take(&consumer->lock);
    bool there = consumer->life == EB_CONSUMER_THERE;
    eb_feed_passed_locked(consumer);
    eb_worklist_figures(consumer->list, &f);
    int64_t oldest = eb_worklist_oldest(consumer->list);
    *ret = (struct eb_consumer_info){
        .settings = copy,
        .state = state_of(consumer, &f),
        .made_ms = consumer->made_ms,
        .cursor = f.first_open - 1,
        .next = f.next,
        .pending = f.ready + f.waiting + f.parked,
        .inflight = f.out,
        .waiting = f.waiting,
        .parked = f.parked,
        .dying = f.dying,
        .workers = consumer->worker_count,
        .delivered = consumer->delivered,
        .acked = consumer->acked,
        .redelivered = consumer->counts.redelivered,
        .dead = consumer->counts.dead,
        .lost = consumer->counts.lost,
        .dead_waiting = consumer->dead_waiting,
        .lag_events = f.open + (visible >= f.next ? visible + 1 - f.next : 0),
    };
    memcpy(ret->name, consumer->name, sizeof(ret->name));
    memcpy(ret->stopped, consumer->stopped, sizeof(ret->stopped));
    if (copy != NULL)
        *copy = *consumer->settings;
    if (f.open == 0 && ret->lag_events > 0)
        oldest = eb_feed_oldest_locked(consumer);
    eb_lock_drop(&consumer->lock);
    ret->lag_ms = oldest > 0 && oldest < wall ? wall - oldest : 0;
    if (!there) {
        free(copy);
        ret->settings = NULL;
    }
    return there;
}

/* The first whose name is above @after, with a reference. */
static struct eb_consumer *next_after(struct eb_consumers *all, const char *after)
{
    struct eb_consumer *found = NULL;
    eb_lock_take(&all->list_lock);
    size_t low = 0, high = all->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (after != NULL && strcmp(all->list[middle]->name, after) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < all->count)
        found = eb_consumer_ref(all->list[low]);
    eb_lock_drop(&all->list_lock);
    return found;
}

size_t eb_bus_consumers(struct eb_bus *bus, const char *after, size_t max, bool settings,
                        struct eb_consumer_info **ret)
{
    struct eb_consumer_info *list = NULL;
    struct eb_consumer *consumer = NULL, *prev = NULL;
    size_t count = 0, cap = 0;
    while (count < max && (consumer = next_after(bus->consumers, after)) != NULL) {
        eb_consumer_unref(prev);
        prev = consumer; /* holds its name */
        after = consumer->name;
        if (count == cap) {
            cap = cap != 0 ? cap * 2 : 16;
            struct eb_consumer_info *more = realloc(list, cap * sizeof(*list));
            if (more == NULL)
                break;
            list = more;
        }
        count += describe(consumer, settings, &list[count]);
    }
    eb_consumer_unref(prev);
    *ret = list;
    return count;
}

bool eb_bus_consumer_info(struct eb_bus *bus, const char *name, struct eb_consumer_info *ret)
{
    struct eb_consumer *consumer = eb_consumer_find(bus->consumers, name);
    bool there = consumer != NULL && describe(consumer, true, ret);
    eb_consumer_unref(consumer);
    return there;
}

void eb_consumer_infos_finish(struct eb_consumer_info *infos, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(infos[i].settings);
    free(infos);
}

bool eb_bus_consumer_listens(struct eb_bus *bus, const char *topic, size_t len)
{
    size_t count;
    bool listens = false;
    struct eb_consumer **list = eb_consumers_all(bus->consumers, &count);
    for (size_t i = 0; i < count && !listens; i++) {
        struct eb_consumer *consumer = list[i];
        eb_lock_take(&consumer->lock);
        listens = consumer->life == EB_CONSUMER_THERE && consumer->worker_count > 0 &&
                  eb_consumer_matches(consumer->settings, topic, len);
        eb_lock_drop(&consumer->lock);
    }
    eb_consumers_all_finish(list, count);
    return listens;
}

uint64_t eb_bus_consumer_id(struct eb_bus *bus, const char *name)
{
    struct eb_consumer *consumer = eb_consumer_find(bus->consumers, name);
    uint64_t id = 0;
    if (consumer == NULL)
        return 0;
    eb_lock_take(&consumer->lock);
    if (consumer->life == EB_CONSUMER_THERE)
        id = consumer->id;
    eb_lock_drop(&consumer->lock);
    eb_consumer_unref(consumer);
    return id;
}
