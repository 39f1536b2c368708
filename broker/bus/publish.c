/*
 * publish.c - from a publisher's draft to its answer.
 *
 * The events are made and checked on the publisher's thread, so that the writer finds them ready; the store
 * gives seqs and finds duplicates; the dispatcher calls `done` when the last event is visible (dispatch.c, D3).
 */
#include <stdlib.h>
#include <string.h>

#include "broker/bus/publish_internal.h"
#include "common/clock.h"
#include "common/uuid.h"

static struct publish *outer(struct eb_publish *pub)
{
    return eb_container(pub, struct publish, pub);
}

/* All zero but the two long texts, which nobody reads before he has written them, and an @old event for its memory. */
static void init(struct publish *publish, size_t max, struct eb_block *block, struct eb_event *old)
{
    struct eb_publish *pub = &publish->pub;
    publish->bus = NULL;
    publish->max = max;
    publish->block = block;
    memset(pub, 0, offsetof(struct eb_publish, id_text));
    memset(&pub->op, 0, offsetof(struct eb_op, err));
    pub->op.kind = EB_OP_PUBLISH;
    pub->op.event1 = old;
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
    init(publish, max, NULL, NULL);
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

struct eb_publish *eb_publish_create_on(struct eb_session *session, size_t max)
{
    struct eb_publish *pub;
    if (max == 1) {
        struct eb_block *block;
        struct publish *publish = eb_block_place(session, &block);
        if (publish == NULL)
            return NULL;
        init(publish, 1, block, publish->pub.op.event1);
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
    if (publish->block != NULL) {
        eb_block_leave(publish->block);
        return;
    }
    for (uint32_t i = 0; i < pub->op.count; i++)
        eb_event_unref(pub->op.events[i]);
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
    struct eb_event **event = &pub->op.events[pub->op.count];
    *event = eb_event_create_over(*event, &copy);
    if (*event == NULL) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        goto refused;
    }
    pub->op.count++;
    pub->op.bytes += eb_event_size(*event);
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
