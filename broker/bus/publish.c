/*
 * publish.c - from a publisher's draft to its answer.
 *
 * The events are made and checked on the publisher's thread, so that the writer finds them ready; the store
 * gives seqs and finds duplicates; the dispatcher calls `done` when the last event is visible (dispatch.c, D3).
 */
#include <stdlib.h>

#include "broker/bus/internal.h"
#include "common/uuid.h"

/* What eb_publish_create really makes. */
struct publish {
    struct eb_publish pub;
    struct eb_bus *bus; /* from eb_bus_publish on */
    size_t max;
    size_t bytes; /* of its events */
};

static struct publish *outer(struct eb_publish *pub)
{
    return eb_container(pub, struct publish, pub);
}

struct eb_publish *eb_publish_create(size_t max)
{
    struct publish *publish = calloc(1, sizeof(*publish));
    if (publish == NULL)
        return NULL;
    struct eb_op *op = &publish->pub.op;
    publish->max = max;
    op->kind = EB_OP_PUBLISH;
    op->err.index = -1;
    op->events = &publish->pub.event1;
    op->results = &publish->pub.result1;
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

void eb_publish_destroy(struct eb_publish *pub)
{
    if (pub == NULL)
        return;
    struct publish *publish = outer(pub);
    for (uint32_t i = 0; i < pub->op.count; i++)
        eb_event_unref(pub->op.events[i]);
    if (publish->max > 1) {
        free(pub->op.events);
        free(pub->op.results);
    }
    eb_session_unref(pub->session);
    free(publish);
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
    if (!copy.has_id) {
        eb_uuid_v7(copy.id);
        copy.has_id = true;
    }
    struct eb_event *event = eb_event_create(&copy);
    if (event == NULL) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        goto refused;
    }
    pub->op.events[pub->op.count++] = event;
    outer(pub)->bytes += eb_event_size(event);
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
    size_t bytes = outer(pub)->bytes;
    uint64_t stored = 0;
    for (uint32_t i = 0; op->err.code == EB_OK && i < op->count; i++)
        stored += !op->results[i].duplicate;
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
        eb_session_request(pub->session, &pub->op, outer(pub)->bytes);
    else
        eb_bus_submit(bus, &pub->op);
}
