/*
 * publish.c - from a publisher's draft to its answer.
 *
 * The events are made and checked on the publisher's thread, so that the writer finds them ready; the store
 * gives seqs and finds duplicates; the dispatcher calls `done` when the last event is visible (dispatch.c, D3).
 *
 * The publishes of one event that a session makes in one chunk lie in one block of memory (struct block): it goes
 * when the last of them does, and it holds the session for all of them.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"
#include "common/clock.h"
#include "common/uuid.h"

#define BLOCK_MAX 64
#define LINES     128 /* two of the cache, which the processor fetches together */

/* What eb_publish_create really makes. */
struct publish {
    struct eb_bus *bus; /* from eb_bus_publish on */
    size_t max;
    struct eb_block *block; /* that it lies in, or NULL */
    struct eb_publish pub;
};
_Static_assert(offsetof(struct publish, pub.op) == EB_PUBLISH_FRONT &&
                   offsetof(struct publish, pub.op.err.message) <= EB_PUBLISH_FRONT + LINES,
               "what each publish needs stands together");

struct eb_block {
    atomic_uint
        refs; /* places that are in use or may still be, and the session's while it has it */
    unsigned used, cap;         /* the requests' thread's */
    struct eb_session *session; /* one reference */
    struct place *places;       /* behind this */
};

struct place {
    _Alignas(LINES) struct publish publish;
};

static struct publish *outer(struct eb_publish *pub)
{
    return eb_container(pub, struct publish, pub);
}

/* All zero but the two long texts, which nobody reads before he has written them. */
static void init(struct publish *publish, size_t max, struct eb_block *block)
{
    struct eb_publish *pub = &publish->pub;
    publish->bus = NULL;
    publish->max = max;
    publish->block = block;
    memset(pub, 0, offsetof(struct eb_publish, id_text));
    memset(&pub->op, 0, offsetof(struct eb_op, err));
    pub->op.kind = EB_OP_PUBLISH;
    pub->op.events = &pub->op.event1;
    pub->op.results = &pub->op.result1;
    pub->op.err.code = EB_OK;
    pub->op.err.index = -1;
    pub->op.err.message[0] = '\0';
    memset((char *)&pub->op + offsetof(struct eb_op, user), 0,
           sizeof(pub->op) - offsetof(struct eb_op, user));
}

struct eb_publish *eb_publish_create(size_t max)
{
    struct publish *publish = malloc(sizeof(*publish));
    if (publish == NULL)
        return NULL;
    init(publish, max, NULL);
    struct eb_op *op = &publish->pub.op;
    if (max <= 1)
        return &publish->pub;
    op->events = calloc(max, sizeof(struct eb_event *));
    op->results = calloc(max, sizeof(*op->results));
    if (op->events == NULL || op->results == NULL) {
        free(op->events);
        free(op->results);
        free(publish);
        return NULL;
    }
    return &publish->pub;
}

static void unref_block(struct eb_block *block, unsigned places)
{
    if (atomic_fetch_sub_explicit(&block->refs, places, memory_order_acq_rel) != places)
        return;
    eb_session_unref(block->session);
    free(block);
}

void eb_publish_end_block(struct eb_session *session)
{
    struct eb_block *block = session->block;
    session->block = NULL;
    if (block == NULL)
        return;
    session->block_cap = block->used; /* as many as last time, for a start */
    unref_block(block, block->cap - block->used + 1);
}

/* A block with a place free, or NULL. The first of a chunk is as large as the last chunk's, each more twice that. */
static struct eb_block *open_block(struct eb_session *session)
{
    struct eb_block *block = session->block;
    if (block != NULL && block->used < block->cap)
        return block;
    unsigned cap = block != NULL ? 2 * block->cap : session->block_cap;
    cap = cap < 1 ? 1 : cap > BLOCK_MAX ? BLOCK_MAX : cap;
    eb_publish_end_block(session);
    block = malloc(sizeof(*block) + LINES - 1 + cap * sizeof(block->places[0]));
    if (block == NULL)
        return NULL;
    block->places =
        (struct place *)(void *)(((uintptr_t)(block + 1) + LINES - 1) & ~(uintptr_t)(LINES - 1));
    atomic_init(&block->refs, cap + 1);
    block->used = 0;
    block->cap = cap;
    block->session = eb_session_ref(session);
    return session->block = block;
}

struct eb_publish *eb_publish_create_on(struct eb_session *session, size_t max)
{
    struct eb_publish *pub;
    if (max == 1) {
        struct eb_block *block = open_block(session);
        if (block == NULL)
            return NULL;
        struct publish *publish = &block->places[block->used++].publish;
        init(publish, 1, block);
        pub = &publish->pub;
        pub->session = session;
    } else if ((pub = eb_publish_create(max)) != NULL) {
        pub->session = eb_session_ref(session);
    }
    return pub;
}

void eb_publish_destroy(struct eb_publish *pub)
{
    if (pub == NULL)
        return;
    struct publish *publish = outer(pub);
    for (uint32_t i = 0; i < pub->op.count; i++)
        eb_event_unref(pub->op.events[i]);
    if (publish->block != NULL) {
        unref_block(publish->block, 1);
        return;
    }
    if (publish->max > 1) {
        free(pub->op.events);
        free(pub->op.results);
        free((void *)pub->op.asks);
    }
    eb_session_unref(pub->session);
    free(publish);
}

/* What the draft asks beside, for the member that comes next. -1 with @err. */
static int ask(struct eb_bus *bus, struct eb_publish *pub, const struct eb_draft *draft,
               struct eb_error *err)
{
    struct publish *publish = outer(pub);
    struct eb_op_ask *asks = (struct eb_op_ask *)pub->op.asks;
    if (draft->deliver_at_ms != 0 && eb_store_in_memory(bus->store))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "with storage = memory no event can wait until it is due: leave out "
                       "deliver_at and delay, or give the broker a file");
    if (asks == NULL) {
        asks = publish->max > 1 ? calloc(publish->max, sizeof(*asks)) : &pub->ask1;
        if (asks == NULL)
            return eb_fail(err, EB_INTERNAL, "out of memory");
        pub->op.asks = asks;
    }
    asks[pub->op.count] = (struct eb_op_ask){
        .has_expected = draft->has_expected,
        .expected = draft->expected,
        .due_ms = draft->deliver_at_ms > eb_wall_ms() ? draft->deliver_at_ms : 0,
    };
    return 0;
}

int eb_publish_add(struct eb_bus *bus, struct eb_publish *pub, const struct eb_draft *draft,
                   struct eb_error *err)
{
    struct eb_draft copy = *draft;
    size_t max = bus->config.max_batch < outer(pub)->max ? bus->config.max_batch : outer(pub)->max;
    if (!pub->batch)
        max = 1;
    if (pub->op.count >= max) {
        eb_fail(err, EB_LIMIT_EXCEEDED, "a batch has at most %zu events", max);
        goto refused;
    }
    if (eb_draft_check(draft, &bus->config.limits, err) < 0)
        goto refused;
    if (copy.ttl == EB_TTL_UNSET)
        copy.ttl = bus->config.default_ttl;
    if (copy.ttl < 0) {
        eb_fail(err, EB_INVALID_REQUEST, "ttl is negative; 0 means no expiry");
        goto refused;
    }
    if (eb_topic_is_reply(draft->topic, draft->topic_len))
        copy.ttl = EB_REPLY_TTL;
    if ((draft->has_expected || draft->deliver_at_ms != 0) && ask(bus, pub, draft, err) < 0)
        goto refused;
    if (!copy.has_id && pub->op.asks != NULL && pub->op.asks[pub->op.count].due_ms > 0) {
        eb_uuid_v7(copy.id); /* told before it has a seq; the others' is made with theirs */
        copy.has_id = true;
    }
    struct eb_event *event = eb_event_create(&copy);
    if (event == NULL) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        goto refused;
    }
    pub->op.events[pub->op.count++] = event;
    pub->op.bytes += eb_event_size(event);
    return 0;
refused:
    if (pub->batch)
        err->index = (int)pub->op.count;
    eb_count(bus->counters.publish_refused[err->code], 1);
    return -1;
}

static void publish_done(struct eb_op *op)
{
    struct eb_publish *pub = eb_container(op, struct eb_publish, op);
    struct eb_bus *bus = outer(pub)->bus;
    struct eb_session *session = pub->session;
    size_t bytes = op->bytes;
    uint64_t stored = 0;
    for (uint32_t i = 0; op->err.code == EB_OK && i < op->count; i++)
        stored += !op->results[i].duplicate && !op->results[i].scheduled;
    if (!pub->batch)
        op->err.index = -1; /* the store counts members, a single event is none */
    if (op->err.code == EB_OK)
        eb_count(bus->counters.published, stored);
    else
        eb_count(bus->counters.publish_refused[op->err.code], 1);
    if (session != NULL)
        eb_session_settle(session, bytes); /* holds it; open until eb_bus_settle */
    pub->done(pub);                        /* may free it */
}

void eb_bus_publish(struct eb_bus *bus, struct eb_publish *pub)
{
    outer(pub)->bus = bus;
    if (pub->op.count == 0)
        pub->op.kind = EB_OP_FENCE; /* an empty batch is only a place in the order */
    pub->op.done = publish_done;
    if (pub->session != NULL)
        eb_session_request(pub->session, &pub->op, pub->op.bytes);
    else
        eb_bus_submit(bus, &pub->op);
}
