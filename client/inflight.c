/*
 * inflight.c - the requests that wait for an answer: a list in the order they were handed over, and a hash by id.
 *
 * (F1) Ids rise along the list, and so does the time of the first sending among those that were sent.
 * (F2) From `unsent` on nothing was sent on this connection; everything before it was.
 * (F3) A new connection starts at the front: the broker meets the requests in their first order, always.
 */
#include <assert.h>
#include <stdlib.h>

#include "client/internal.h"

#define FIRST_BUCKETS 64

int eb_inflight_init(struct eb_inflight *table)
{
    *table = (struct eb_inflight){0};
    table->buckets = calloc(FIRST_BUCKETS, sizeof(*table->buckets));
    if (!table->buckets)
        return -1;
    table->mask = FIRST_BUCKETS - 1;
    return 0;
}

void eb_inflight_finish(struct eb_inflight *table)
{
    free(table->buckets);
    *table = (struct eb_inflight){0};
}

static void grow(struct eb_inflight *table)
{
    size_t mask = table->mask * 2 + 1;
    struct eb_request **buckets = calloc(mask + 1, sizeof(*buckets));

    if (!buckets)
        return; /* longer chains, no harm */
    for (struct eb_request *r = table->first; r; r = r->next) {
        r->hash_next = buckets[r->id & mask];
        buckets[r->id & mask] = r;
    }
    free(table->buckets);
    table->buckets = buckets;
    table->mask = mask;
}

void eb_inflight_add(struct eb_inflight *table, struct eb_request *request)
{
    assert(!table->last || request->id > table->last->id);
    if (table->count > table->mask)
        grow(table);
    request->prev = table->last;
    request->next = NULL;
    if (table->last)
        table->last->next = request;
    else
        table->first = request;
    table->last = request;
    if (!table->unsent)
        table->unsent = request;
    request->hash_next = table->buckets[request->id & table->mask];
    table->buckets[request->id & table->mask] = request;
    table->count++;
    table->bytes += request->cost;
    table->acks += request->kind == EB_REQUEST_ACK;
}

struct eb_request *eb_inflight_find(struct eb_inflight *table, uint64_t id)
{
    struct eb_request *request = table->buckets[id & table->mask];

    while (request && request->id != id)
        request = request->hash_next;
    return request;
}

void eb_inflight_remove(struct eb_inflight *table, struct eb_request *request)
{
    struct eb_request **link = &table->buckets[request->id & table->mask];

    while (*link != request)
        link = &(*link)->hash_next;
    *link = request->hash_next;
    if (table->unsent == request)
        table->unsent = request->next;
    if (request->prev)
        request->prev->next = request->next;
    else
        table->first = request->next;
    if (request->next)
        request->next->prev = request->prev;
    else
        table->last = request->prev;
    request->prev = request->next = request->hash_next = NULL;
    table->count--;
    table->bytes -= request->cost;
    table->acks -= request->kind == EB_REQUEST_ACK;
}

struct eb_request *eb_inflight_send_next(struct eb_inflight *table, int64_t now)
{
    struct eb_request *request = table->unsent;

    if (!request)
        return NULL;
    table->unsent = request->next;
    if (request->attempts++ == 0)
        request->first_sent = now;
    return request;
}

void eb_inflight_rewind(struct eb_inflight *table)
{
    table->unsent = table->first;
}

struct eb_request *eb_inflight_older(struct eb_inflight *table, int64_t limit)
{
    struct eb_request *request = table->first;

    return request && request->attempts > 0 && request->first_sent <= limit ? request : NULL;
}
