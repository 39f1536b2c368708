/*
 * bus.h - publish, subscribe, acknowledge: who gets which event, and from where.
 *
 * A *session* is one connection's place on the bus (a WebSocket, an SSE response, an embedded
 * subscriber). It has an outbound queue of frames, one shared stream for its live subscriptions and a
 * stream of its own for each subscription that still replays.
 *
 *              subscribe          full queue
 *   replaying ----------> live <-------------> lagging          (state of a *stream*)
 *       `---- caught up ----^     caught up
 *
 * (B1) Committed before seen: frames of an event are made after its commit.
 * (B2) Events enter a queue in seq order per stream; only the holder of the commit lock pushes to live streams.
 * (B3) `visible` is the end of the segment being dispatched: set before its dispatch begins, and no reader
 *      looks past it. A stream goes live under its session's lock and only when its cursor is at `visible`.
 *      Hence no gap and no repeat at the seam (see dispatch.c, session.c).
 * (B4) Queues are bounded, in events and bytes. A full one makes the shared stream lagging: it holds no memory and is fed by the
 *      reader pool from its cursor. Answers are not bounded here: the net stops reading requests.
 * (B5) No session or shard lock is held across disk, socket or callback; wake-ups are collected and run after.
 * (B6) Requests of one session take effect in order: subscribe, unsubscribe and ack are operations in the
 *      store's queue, carried out by the dispatcher at their place.
 *
 * (B7) Consecutive events of a stream may share a place in the queue, as one frame (a bundle): they are counted,
 *      bounded, skipped and marked one by one as without.
 *
 * Replies to bad input are the callers' business: functions here fill a struct eb_error.
 */
#pragma once

#include <stdatomic.h>

#include "broker/store/store.h"
#include "common/event_json.h"
#include "common/lock.h"

struct eb_bus;
struct eb_session;

struct eb_bus_config {
    unsigned readers;    /* reader threads, default 4 */
    int64_t default_ttl; /* seconds, 0 = none */
    size_t max_batch;
    struct eb_event_limits limits;
    size_t queue_events, queue_bytes; /* channel_capacity and its bound in bytes */
    unsigned max_subscriptions;       /* per session */
    size_t
        max_open_bytes; /* per session: events submitted and not yet done (eb_session_wait_room); 0: no bound */
    bool auto_ack;
    unsigned max_consumers; /* durable ones, consumers.h; 0: 1,000 */
    bool retention_holds;   /* age and size delete nothing that a consumer has not done yet */
};

/** @store is open and not yet started; the bus starts it with its own hooks. */
int eb_bus_create(const struct eb_bus_config *config, struct eb_store *store, struct eb_bus **ret);
/**
 * Stop the reader pool and whatever the bus submits by itself; all sessions are closed before. No reader is left
 * after this, but the store's hooks still run: then eb_store_close, then eb_bus_destroy. NULL is fine.
 */
void eb_bus_stop(struct eb_bus *bus);
/** Free it, after eb_store_close. NULL is fine. */
void eb_bus_destroy(struct eb_bus *bus);
/** Called after the dispatch of every commit, on the committing thread under the commit lock (HTTP resumes). */
void eb_bus_on_settled(struct eb_bus *bus, void (*settled)(void *ctx), void *ctx);
struct eb_store *eb_bus_store(struct eb_bus *bus);
const struct eb_bus_config *eb_bus_config(struct eb_bus *bus);
/** End of what subscribers may see; at least every seq that was answered. */
uint64_t eb_bus_visible(struct eb_bus *bus);

#define EB_ID_ROOM 78 /* for a request's `id`, or the place of a longer one */

/* ---- publish ---- */

#define EB_REPLY_TTL 60 /* seconds */

/*
 * A publish from draft to answer. Made by eb_publish_create, completed by `done` on the committing thread,
 * destroyed by whoever wants its result last.
 */
struct eb_publish {
    struct eb_session *session; /* one reference if set: nothing more is done with it here */
    void (*done)(struct eb_publish *publish); /* as eb_op.done */
    void *user;
    bool batch;
    uint8_t id_len;
    char id_text[EB_ID_ROOM]; /* room for the request's `id` as it came: the net's */
    struct eb_op op;          /* op.err, op.results; op.user is the bus's */
    struct eb_op_ask ask1;
};
/**
 * Room for up to @max events. NULL when out of memory. Then eb_publish_add for each draft, then
 * eb_bus_publish. eb_publish_destroy unrefs events and session; NULL is fine.
 */
struct eb_publish *eb_publish_create(size_t max);
/**
 * The same for a session that collects, by the thread of its requests: `session` is set and held. Cheap for one
 * event; eb_session_submit is to follow, also when it is destroyed.
 */
struct eb_publish *eb_publish_create_on(struct eb_session *session, size_t max);
void eb_publish_destroy(struct eb_publish *publish);
/**
 * Check the draft, fill in default ttl and id, copy it. A time to deliver at that is over means now; topics whose first
 * word is _reply have a ttl of EB_REPLY_TTL, whatever was asked. -1 with @err (its index is the member's for a batch). */
int eb_publish_add(struct eb_bus *bus, struct eb_publish *publish, const struct eb_draft *draft,
                   struct eb_error *err);
/** Submit. From then on @publish belongs to the store until `done`. An empty batch completes like any other. */
void eb_bus_publish(struct eb_bus *bus, struct eb_publish *publish);

/* ---- sessions ---- */

struct eb_gap {
    uint64_t from_seq, to_seq;
    enum eb_gap_reason reason;
    const char *const *patterns; /* one, or several where one subscription has a list */
    size_t pattern_count;
};

/*
 * What the transport does for its session. The encoders run on the dispatcher's or a reader's thread, with
 * no lock held, and return a frame with one reference (NULL: nothing is to be sent, or out of memory).
 */
struct eb_session_ops {
    struct eb_frame *(*event)(struct eb_session *session, struct eb_event *event,
                              const char *pattern /* replaying, or NULL */);
    struct eb_frame *(*gap)(struct eb_session *session, const struct eb_gap *gap);
    struct eb_frame *(*live)(struct eb_session *session,
                             const char *pattern /* NULL with one_subscription */, uint64_t seq);
    /* The queue has something to send, or the session was closed by the bus. No lock held but the commit lock at most. */
    void (*wake)(struct eb_session *session);
    /*
     * In place of wake, when what is to be sent answers the only request that was open, so that its peer probably waits:
     * comes at the end of the group, and may send by itself without waiting. On the committing thread, under the commit
     * lock. May be NULL.
     */
    void (*answered)(struct eb_session *session);
    /* Last reference gone: free user's memory. Any thread, no lock held but the commit lock at most. */
    void (*destroy)(struct eb_session *session);
    /*
     * All answers of a segment are given (eb_session_answer, eb_session_answer_later): the place to write what was
     * merged from several, by eb_session_answer. May be NULL. On the committing thread, under the commit lock.
     */
    void (*answers)(struct eb_session *session);
    /*
     * Several events as they go on the wire, one behind the other: appends the first, and further ones until @out has
     * grown to @max_bytes, and returns how many. With NULL each event is a frame of its own. Sessions with the same ops
     * that are legacy alike are given the same bundles when they want the same events. As `event` otherwise.
     */
    size_t (*events)(struct eb_session *session, struct eb_event *const *events, size_t count,
                     const char *pattern, size_t max_bytes, struct eb_buf *out);
};

/**
 * One reference for the caller. @one_subscription: several patterns are one subscription, in one stream
 * that is *not* marked with `pattern` while it replays (SSE, embedded): see eb_subscribe.patterns.
 */
int eb_session_create(struct eb_bus *bus, const struct eb_session_ops *ops, void *user,
                      bool one_subscription, struct eb_session **ret);
struct eb_session *eb_session_ref(struct eb_session *session);
void eb_session_unref(struct eb_session *session);
void *eb_session_user(struct eb_session *session);
struct eb_bus *eb_session_bus(struct eb_session *session);
/** Legacy (PROTOCOL 2.5): its replays are pending_only; set before the first subscribe. */
void eb_session_set_legacy(struct eb_session *session);
bool eb_session_legacy(struct eb_session *session);
/**
 * Collect: from now on what is published, subscribed, acknowledged … on the session is kept by it, in order, until
 * eb_session_submit hands all of it to the store in one push (or a bound is reached). For a session whose requests
 * come from one thread; that thread calls both, and submits before it waits for anything and before it ends.
 * Returns how many requests it handed over.
 */
void eb_session_collect(struct eb_session *session);
unsigned eb_session_submit(struct eb_session *session);
/**
 * The thread of its requests is about to wait for long: what memory of answered ones is kept for the next is given up,
 * and none is kept until there are some. That thread only.
 */
void eb_session_rest(struct eb_session *session);
/**
 * End it: subscriptions leave the table, the queue is emptied, waits end. No encoder or wake call begins after
 * this returned, save on a thread that was on its way into one. Idempotent. Threads: any, no lock held.
 * To be called before the transport's last eb_session_unref: a session's subscriptions hold it.
 */
void eb_session_close(struct eb_session *session);

struct eb_subscribe {
    struct eb_op op;            /* bus's own */
    struct eb_session *session; /* a reference, taken by eb_bus_subscribe, dropped after done */
    const struct eb_pattern
        *patterns; /* borrowed until done; 1, or several for a session with one_subscription */
    size_t count;
    bool replay; /* starting_seq was given */
    uint64_t starting_seq;
    bool pending_only;
    bool last; /* first the newest event of each topic; without starting_seq and pending_only */
    bool
        resumes; /* it was there before: what was deleted from starting_seq on is a gap, also from 1 */
    bool has_epoch; /* the epoch text as the client gave it */
    char epoch[40];
    /* results */
    struct eb_error err;
    uint64_t last_seq;
    /* On the committing thread at the request's place in the order; before its first event. May free it at once. */
    void (*done)(struct eb_subscribe *subscribe);
    void *user;
    char id_text[EB_ID_ROOM];
    uint8_t id_len;
};
void eb_bus_subscribe(struct eb_bus *bus, struct eb_session *session,
                      struct eb_subscribe *subscribe);

struct eb_request { /* unsubscribe and ack: small enough to share a form */
    struct eb_op op;
    struct eb_session *session;
    struct eb_pattern pattern;
    struct eb_error err;
    void (*done)(struct eb_request *request);
    void *user;
    char id_text[EB_ID_ROOM];
    uint8_t id_len;
};
/** err: EB_NOT_FOUND when the session has no such subscription. */
void eb_bus_unsubscribe(struct eb_bus *bus, struct eb_session *session, struct eb_request *request);
/** Plain ack (2.2): op.seq, op.has_id, op.id are set by the caller. @session NULL: the embedding program itself. */
void eb_bus_ack(struct eb_bus *bus, struct eb_session *session, struct eb_request *request);
/** Takes a scheduled event back: op.id is set by the caller. err: EB_NOT_FOUND; EB_CONFLICT when it has entered the log. */
void eb_bus_unschedule(struct eb_bus *bus, struct eb_session *session, struct eb_request *request);
/** A place in the order and nothing else (a ping behind publishes, a drain at shutdown). */
void eb_bus_fence(struct eb_bus *bus, struct eb_session *session, struct eb_request *request);

/* ---- the outbound queue, for the transport ---- */

struct eb_out {
    struct eb_frame *frame; /* one reference */
    uint64_t seq; /* of a live or replayed event, or a bundle's first; 0: an answer or notice */
};
/** Append an answer (never dropped, not bounded here). Takes over the frame's reference. Wakes. Any thread. */
void eb_session_reply(struct eb_session *session, struct eb_frame *frame);
/** The same for bytes: joined with the answer before it in one frame when that still waits. */
void eb_session_reply_bytes(struct eb_session *session, const void *data, size_t len);
/**
 * The same from within the `done` of one of the session's requests, on the committing thread: it goes out with
 * the session's other answers of the segment, under one lock and with one wake.
 */
void eb_session_answer(struct eb_session *session, const void *data, size_t len);
/** From within `done` too: nothing is written now, but ops->answers will be called for this session. */
void eb_session_answer_later(struct eb_session *session);
/**
 * Take up to @max items off the head, in order. Returns how many. The items count as unsent until
 * eb_session_sent or eb_session_putback. One thread at a time (the holder of the transport's sending right).
 */
size_t eb_session_take(struct eb_session *session, struct eb_out *items, size_t max,
                       size_t max_bytes);
/** The kernel took these whole: drops references, counts, auto_ack, schedules streams that waited for room. */
void eb_session_sent(struct eb_session *session, struct eb_out *items, size_t count);
/** Back to the head in their old order. */
void eb_session_putback(struct eb_session *session, struct eb_out *items, size_t count);

struct eb_session_state {
    size_t queued_events, queued_bytes; /* events waiting, and bytes of all that waits */
    size_t answers_bytes;               /* of it unsent answers */
    unsigned open;                      /* requests submitted and not yet done */
    unsigned subscriptions, replaying;
    bool lagging, closed;
    uint64_t delivered; /* events sent */
    uint64_t cursor;
};
void eb_session_state(struct eb_session *session, struct eb_session_state *ret);
/**
 * Wait until fewer than @max_open requests and max_open_bytes of their events are open and fewer than @max_bytes
 * answers unsent, or the session
 * is closed, or the deadline (eb_mono_ms, <0: none). Returns 0, -ETIMEDOUT or -ECANCELED (closed).
 * What was collected is submitted before it waits. Without waiting it takes no lock.
 */
int eb_session_wait_room(struct eb_session *session, unsigned max_open, size_t max_bytes,
                         int64_t deadline_ms);

/* ---- one-off reads on the reader pool ---- */

struct eb_read {
    struct eb_read *next; /* the pool's */
    enum {
        EB_READ_PAGE,
        EB_READ_EVENT,
        EB_READ_TOPICS,
        EB_READ_DEAD,      /* dead letters of `consumer` from `from` on, as events */
        EB_READ_DEAD_SEQS, /* the same as seqs; with `seqs`: which of those it has */
        EB_READ_EVENTS,    /* those of `seqs` */
        EB_READ_FIRST_AT,  /* the first seq of time_ms or later */
        EB_READ_LAST,      /* the newest event of `topic` */
        EB_READ_SCHEDULED, /* what waits, behind the place `from` */
    } kind;
    /* page: the same rules as a subscription's replay, gaps included */
    struct eb_pattern *patterns;
    size_t count;
    uint64_t from;     /* starting_seq; page, event; dead: first seq to be told */
    uint64_t consumer; /* dead: eb_bus_consumer_id */
    size_t limit, max_bytes;
    bool has_epoch;
    char epoch[40];
    const char *after; /* topics */
    const char *topic; /* last; borrowed until done */
    size_t topic_len;
    const uint64_t *seqs; /* events, dead_seqs; borrowed until done */
    size_t seq_count;
    int64_t time_ms;
    /* results */
    struct eb_error err;
    struct eb_page page;
    uint64_t last_seq;
    struct eb_event *event;
    struct eb_topic_info *topics;
    size_t topic_count;
    struct eb_event **dead; /* dead letters that wait for redrive, rising; their list is malloc'd */
    size_t dead_count;
    uint64_t dead_next;       /* first seq of the list not looked at; 0: that was all */
    uint64_t *dead_seqs;      /* dead_count of them, malloc'd */
    struct eb_event **events; /* as many as looked_at, NULL with errs[i] < 0 (eb_reader_events) */
    int *errs;
    size_t looked_at;
    uint64_t first_seq;
    struct eb_scheduled *scheduled; /* malloc'd, one reference to each event */
    size_t scheduled_count;
    bool more;                          /* scheduled: there may be more behind the last one */
    void (*done)(struct eb_read *read); /* on a reader thread, no lock held */
    void *user;
};
void eb_bus_read(struct eb_bus *bus, struct eb_read *read);
/** Frees results (not the struct). */
void eb_read_finish(struct eb_read *read);

/* ---- what is there ---- */

struct eb_subscription_info {
    uint64_t place;   /* in the list, below 2^53; means nothing else */
    uint64_t session; /* its number */
    char pattern[EB_TOPIC_MAX + 1];
    const char *state; /* "live", "lagging", "replaying" */
    uint64_t cursor;
};
uint64_t eb_session_number(struct eb_session *session); /* unique in this process, from 1 */
/** Subscriptions behind the place @after (0: from the first), at most @max. Malloc'd; returns count. */
size_t eb_bus_subscriptions(struct eb_bus *bus, uint64_t after, size_t max,
                            struct eb_subscription_info **ret);

/** Does anybody hear what is published to @topic: a subscription, or a consumer with a worker? */
bool eb_bus_listens(struct eb_bus *bus, const char *topic, size_t len);

struct eb_bus_counters {
    uint64_t published, publish_refused[EB_CODE_COUNT], delivered, acked;
    uint64_t subscriptions, sessions, lagging, lagged_total, replays_total;
    uint64_t gaps[EB_GAP_DELETED + 1], match_hits, match_misses, pages;
    uint64_t shared_hits, shared_misses,
        shared_bytes; /* pages for streams out of memory, or not; now */
    uint64_t due;     /* scheduled events that entered the log */
};
void eb_bus_counters(struct eb_bus *bus, struct eb_bus_counters *ret);
