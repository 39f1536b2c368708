/*
 * bus.c - a bus from start to end, the list of its sessions, and what it can tell about itself.
 *
 * The end: eb_bus_stop joins the readers and closes the sessions, eb_store_close commits what is queued (its
 * hooks still come here), eb_bus_destroy frees. Sessions that a transport still holds keep the bare struct
 * alive, and nothing else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumers.h"
#include "broker/bus/internal.h"

#define SHARED_BYTES (8 << 20) /* of events; their encoded forms come on top */

/* ---- the store's side ---- */

void eb_bus_submit(struct eb_bus *bus, struct eb_op *op)
{
    op->next = NULL;
    eb_store_submit(bus->store, op, op);
}

static void hook_settled(void *ctx)
{
    struct eb_bus *bus = ctx;
    eb_bus_answered(bus);
    eb_due_kick(bus->due);
    eb_lock_take(&bus->settled_lock);
    void (*settled)(void *) = bus->settled;
    void *settled_ctx = bus->settled_ctx;
    eb_lock_drop(&bus->settled_lock);
    if (settled != NULL)
        settled(settled_ctx);
}

/* ---- life ---- */

static void bus_free(struct eb_bus *bus)
{
    eb_lock_finish(&bus->settled_lock);
    eb_lock_finish(&bus->registry);
    free(bus);
}

void eb_bus_unref(struct eb_bus *bus)
{
    if (atomic_fetch_sub_explicit(&bus->refs, 1, memory_order_acq_rel) == 1)
        bus_free(bus);
}

static void free_parts(struct eb_bus *bus)
{
    eb_pool_destroy(bus->pool);
    eb_due_destroy(bus->due);
    eb_autoack_destroy(bus->autoack);
    eb_dispatch_destroy(bus->dispatch);
    eb_table_destroy(bus->table);
    eb_shared_destroy(bus->shared);
    eb_consumers_destroy(bus->consumers);
    bus->consumers = NULL;
    bus->pool = NULL;
    bus->due = NULL;
    bus->autoack = NULL;
    bus->dispatch = NULL;
    bus->table = NULL;
    bus->shared = NULL;
}

int eb_bus_create(const struct eb_bus_config *config, struct eb_store *store, struct eb_bus **ret)
{
    struct eb_bus *bus = calloc(1, sizeof(*bus));
    if (bus == NULL)
        return -ENOMEM;
    atomic_init(&bus->refs, 1);
    bus->config = *config;
    if (bus->config.readers == 0)
        bus->config.readers = 4;
    bus->store = store;
    atomic_init(&bus->visible, eb_store_last_seq(store));
    atomic_init(&bus->dispatched, eb_store_last_seq(store));
    eb_lock_init(&bus->registry, EB_RANK_LEAF);
    eb_lock_init(&bus->settled_lock, EB_RANK_LEAF);

    struct eb_store_hooks hooks = {
        .ctx = bus, .committed = eb_dispatch_committed, .settled = hook_settled};
    int rc = eb_table_create(bus, &bus->table);
    if (rc == 0)
        rc = eb_shared_create(SHARED_BYTES, &bus->shared);
    if (rc == 0)
        rc = eb_dispatch_create(&bus->dispatch);
    if (rc == 0)
        rc = eb_due_create(bus, &bus->due);
    if (rc == 0 && config->auto_ack)
        rc = eb_autoack_create(bus, &bus->autoack);
    if (rc == 0)
        rc = eb_pool_create(bus, bus->config.readers, &bus->pool);
    if (rc == 0)
        rc = eb_consumers_create(bus, &bus->consumers);
    if (rc == 0)
        rc = eb_consumers_load(bus->consumers);
    if (rc == 0)
        rc = eb_consumers_start(bus->consumers);
    if (rc == 0)
        rc = eb_due_start(bus->due);
    if (rc == 0)
        rc = eb_store_start(store, &hooks);
    if (rc < 0) {
        eb_due_stop(bus->due);
        eb_consumers_halt(bus->consumers);
        if (bus->pool != NULL)
            eb_pool_stop(bus->pool);
        free_parts(bus);
        bus_free(bus);
        return rc;
    }
    eb_consumers_go(bus->consumers);
    eb_due_kick(bus->due);
    *ret = bus;
    return 0;
}

void eb_bus_stop(struct eb_bus *bus)
{
    struct eb_session *session = NULL;
    if (bus == NULL)
        return;
    eb_consumers_halt(bus->consumers);
    while ((session = eb_bus_next_session(bus, session, 0)) != NULL)
        eb_session_close(session);
    eb_due_stop(bus->due);
    eb_pool_stop(bus->pool);
    eb_autoack_flush(bus->autoack);
}

void eb_bus_destroy(struct eb_bus *bus)
{
    if (bus == NULL)
        return;
    free_parts(bus);
    eb_bus_unref(bus);
}

void eb_bus_on_settled(struct eb_bus *bus, void (*settled)(void *ctx), void *ctx)
{
    eb_lock_take(&bus->settled_lock);
    bus->settled = settled;
    bus->settled_ctx = ctx;
    eb_lock_drop(&bus->settled_lock);
}

struct eb_store *eb_bus_store(struct eb_bus *bus)
{
    return bus->store;
}

const struct eb_bus_config *eb_bus_config(struct eb_bus *bus)
{
    return &bus->config;
}

uint64_t eb_bus_visible(struct eb_bus *bus)
{
    return atomic_load_explicit(&bus->visible, memory_order_acquire);
}

void eb_bus_share_rest(struct eb_bus *bus)
{
    if (bus->shared != NULL &&
        atomic_load_explicit(&bus->counters.lagging, memory_order_relaxed) == 0 &&
        atomic_load_explicit(&bus->counters.replaying, memory_order_relaxed) == 0)
        eb_shared_drop(bus->shared);
}

/* ---- the sessions ---- */

void eb_bus_register(struct eb_bus *bus, struct eb_session *session)
{
    atomic_fetch_add_explicit(&bus->refs, 1, memory_order_relaxed);
    eb_lock_take(&bus->registry);
    session->number = ++bus->numbers;
    session->prev = bus->last;
    if (bus->last != NULL)
        bus->last->next = session;
    else
        bus->first = session;
    bus->last = session;
    eb_lock_drop(&bus->registry);
    eb_count(bus->counters.sessions, 1);
}

void eb_bus_unregister(struct eb_bus *bus, struct eb_session *session)
{
    eb_lock_take(&bus->registry);
    if (session->prev != NULL)
        session->prev->next = session->next;
    else
        bus->first = session->next;
    if (session->next != NULL)
        session->next->prev = session->prev;
    else
        bus->last = session->prev;
    eb_lock_drop(&bus->registry);
    if (!session->feed)
        eb_count(bus->counters.sessions, -1);
}

/* Sessions are looked at one by one: their locks rank below the registry's and are never taken under it. */
struct eb_session *eb_bus_next_session(struct eb_bus *bus, struct eb_session *prev, uint64_t after)
{
    eb_lock_take(&bus->registry);
    struct eb_session *session =
        prev != NULL ? prev->next : bus->first; /* @prev is held, so it is in the list */
    while (session != NULL && (session->number <= after || !eb_session_try_ref(session)))
        session = session->next;
    eb_lock_drop(&bus->registry);
    eb_session_unref(prev);
    return session;
}

/* ---- what is there ---- */

static void describe_locked(struct eb_session *session, const struct eb_sub *sub,
                            const struct eb_pattern *pattern, struct eb_subscription_info *ret)
{
    bool replaying = eb_sub_state((struct eb_sub *)sub) == EB_SUB_REPLAYING;
    ret->session = session->number;
    memcpy(ret->pattern, pattern->text, pattern->len);
    ret->pattern[pattern->len] = '\0';
    ret->state = replaying ? "replaying" : session->lagging ? "lagging" : "live";
    if (replaying)
        ret->cursor = sub->stream.cursor;
    else
        ret->cursor = session->lagging ? session->shared.cursor : eb_bus_visible(session->bus);
}

static size_t rows_locked(const struct eb_session *session)
{
    size_t rows = 0;
    for (const struct eb_sub *sub = session->subs; sub != NULL; sub = sub->next)
        rows += sub->count;
    return rows;
}

/* A row's place: its session, and its number there from the oldest on, so that new ones come behind. */
#define PLACE_BITS 20

/* The rows of @session (@rows in all) from number @skip on, at most @max of them. */
static void list_locked(struct eb_session *session, size_t rows, size_t skip, size_t max,
                        struct eb_subscription_info *ret)
{
    size_t number = rows; /* the newest comes first in the list */
    for (struct eb_sub *sub = session->subs; sub != NULL; sub = sub->next) {
        for (uint32_t i = 0; i < sub->count; i++) {
            number--;
            if (number < skip || number - skip >= max)
                continue;
            ret[number - skip].place = session->number << PLACE_BITS | (number + 1);
            describe_locked(session, sub, &sub->entries[i].pattern, &ret[number - skip]);
        }
    }
}

size_t eb_bus_subscriptions(struct eb_bus *bus, uint64_t after, size_t max,
                            struct eb_subscription_info **ret)
{
    struct eb_subscription_info *list = NULL;
    struct eb_session *session = NULL;
    uint64_t first = after >> PLACE_BITS;
    size_t count = 0;
    while (count < max &&
           (session = eb_bus_next_session(bus, session, first > 0 ? first - 1 : 0)) != NULL) {
        if (session->feed)
            continue;
        size_t skip = session->number == first ? after & (((size_t)1 << PLACE_BITS) - 1) : 0;
        eb_lock_take(&session->lock);
        size_t rows = rows_locked(session), room = max - count;
        size_t wanted = rows > skip ? rows - skip : 0;
        wanted = wanted < room ? wanted : room;
        struct eb_subscription_info *more = NULL;
        if (wanted > 0)
            more = realloc(list, (count + wanted) * sizeof(*list));
        if (more != NULL) {
            list = more;
            list_locked(session, rows, skip, wanted, list + count);
            count += wanted;
        }
        eb_lock_drop(&session->lock);
    }
    eb_session_unref(session);
    *ret = list;
    return count;
}

bool eb_bus_listens(struct eb_bus *bus, const char *topic, size_t len)
{
    bool found = false;
    for (int wild = 0; wild < 2 && !found; wild++) {
        struct eb_match *match = NULL;
        if (eb_table_match(bus->table, wild, topic, len, &match) < 0)
            return true; /* out of memory: nobody can say that there is none */
        for (uint32_t i = 0; match != NULL && i < match->count && !found; i++)
            found = !match->subs[i]->session->feed && !eb_session_closed(match->subs[i]->session) &&
                    eb_sub_state(match->subs[i]) != EB_SUB_CLOSED;
        eb_match_unref(match);
    }
    return found || eb_bus_consumer_listens(bus, topic, len);
}

void eb_bus_counters(struct eb_bus *bus, struct eb_bus_counters *ret)
{
    struct eb_bus_atomics *from = &bus->counters;
#define READ(name) ret->name = atomic_load_explicit(&from->name, memory_order_relaxed)
    READ(published);
    READ(delivered);
    READ(acked);
    READ(subscriptions);
    READ(sessions);
    READ(lagging);
    READ(lagged_total);
    READ(replays_total);
    READ(match_hits);
    READ(match_misses);
    READ(pages);
    READ(shared_hits);
    READ(shared_misses);
    READ(due);
    uint64_t feeds = atomic_load_explicit(&from->feeds_lagging, memory_order_relaxed);
    ret->lagging -= feeds < ret->lagging ? feeds : ret->lagging; /* subscribers' only */
    ret->shared_bytes = eb_shared_bytes(bus->shared);
    for (size_t i = 0; i < EB_CODE_COUNT; i++)
        READ(publish_refused[i]);
    for (size_t i = 0; i <= EB_GAP_DELETED; i++)
        READ(gaps[i]);
#undef READ
}
