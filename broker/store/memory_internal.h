/*
 * memory_internal.h - the ring of storage = memory, as engine_memory.c (which says the rules: R1-R5) and read_memory.c
 * share it.
 */
#pragma once

#include "broker/store/deadlist.h"
#include "broker/store/engine.h"
#include "broker/store/topicset.h"
#include "common/lock.h"

struct eb_memory_slot {
    struct eb_event *event; /* one reference; NULL: deleted alone */
    struct eb_topic_node *topic;
    int64_t expires; /* ms since 1970, 0 = never */
    int64_t acked;   /* when, 0 = not */
    uint64_t before; /* the topic's seq before this one, 0: none; also of an empty slot */
};

/* Topics without events, and their last seqs. */
struct eb_memory_past {
    struct eb_topicset topics;
    struct eb_topic_node *oldest, *youngest;
    size_t bytes;
};

struct eb_memory {
    struct eb_engine engine;
    struct eb_engine_counters *counters;
    size_t limit; /* [I] */

    struct eb_lock lock;          /* EB_RANK_STORE_STATE */
    struct eb_memory_slot *slots; /* [lock], all below */
    size_t cap, first, count;
    uint64_t base;                         /* seq of the first slot; the next seq when empty */
    uint64_t bytes, events, acked, mortal; /* mortal: slots with a ttl */
    uint64_t deleted_upto, overflow_upto;
    struct eb_topicset topics;
    struct eb_deadlist dead;
    struct eb_memory_past past;
    uint64_t scan; /* where the search for expired and acknowledged ones goes on */

    /* The holder of the commit lock only. */
    uint64_t mark;  /* next seq at begin */
    uint64_t *acks; /* marked in this transaction */
    size_t ack_count, ack_cap;
};

static inline struct eb_memory *eb_memory_self(struct eb_engine *engine)
{
    return (struct eb_memory *)engine;
}

static inline struct eb_memory_slot *eb_memory_slot(struct eb_memory *m, uint64_t seq)
{
    return &m->slots[(m->first + (seq - m->base)) & (m->cap - 1)];
}

static inline uint64_t eb_memory_next(const struct eb_memory *m)
{
    return m->base + m->count;
}

static inline bool eb_memory_holds(const struct eb_memory *m, uint64_t seq)
{
    return seq >= m->base && seq < eb_memory_next(m);
}

/* ---- engine_memory.c ---- */

int eb_memory_lookup(struct eb_engine *engine, uint64_t seq, struct eb_event **ret);

/* ---- read_memory.c: the ops of engine.h; @reader is NULL ---- */

int eb_memory_reader_create(struct eb_engine *engine, void **ret);
void eb_memory_reader_destroy(struct eb_engine *engine, void *reader);
int eb_memory_page(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                   const struct eb_page_request *request, struct eb_page *ret);
int eb_memory_event(struct eb_engine *engine, void *reader, uint64_t seq, struct eb_event **ret);
int eb_memory_topics(struct eb_engine *engine, void *reader, const char *after,
                     struct eb_topic_info *out, size_t max);
int eb_memory_first_at(struct eb_engine *engine, void *reader, int64_t time_ms, uint64_t *ret);
int eb_memory_count(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                    uint64_t from, uint64_t upto, uint64_t *ret);
ptrdiff_t eb_memory_dead(struct eb_engine *engine, void *reader, uint64_t consumer, uint64_t after,
                         uint64_t *ret, size_t max);
int eb_memory_last(struct eb_engine *engine, void *reader, const char *topic, size_t len,
                   uint64_t upto, struct eb_event **ret);
int eb_memory_last_seqs(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                        uint64_t upto, uint64_t **ret, size_t *ret_count);
