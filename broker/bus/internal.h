/*
 * internal.h - what the files of broker/bus/ share: sessions, subscriptions, streams and who owns which field.
 *
 * Keys: [I] immutable after create   [a] atomic   [Q] its session's lock   [S] its shard's lock
 *       [C] the holder of the commit lock   [P] the pool's lock   [T] the reader whose turn it is (ahead.c, A2)
 *       [R] the thread that makes the session's requests
 *
 * Lifetimes. A session is held by its transport, by each of its subscriptions, by each open request and by
 * its shared stream's place in the pool. A subscription is held by its session's list, by the topic table,
 * by each match array and lag snapshot it stands in, and by its stream's place in the pool. The circle
 * session -> subscription -> session is cut by unsubscribe and by eb_session_close, and by nothing else.
 */
#pragma once

#include "broker/bus/bus.h"

#define EB_SEGMENT_EVENTS 256 /* events between two moves of `visible` */
#define EB_PAGE_EVENTS    512 /* bounds of one reader's turn */
#define EB_PAGE_BYTES     (512 * 1024)
#define EB_AHEAD          8  /* how far an operation's `ahead` is */
#define EB_SHARDS         16 /* and one more for patterns that begin with a wildcard */
#define EB_NO_PUSH        UINT32_MAX

struct eb_sub;
struct eb_ahead;
struct eb_consumers; /* consumers.h */

/* ---- streams ---- */

enum eb_sched { EB_SCHED_IDLE, EB_SCHED_QUEUED, EB_SCHED_RUNNING };

/* A cursor into the log that the pool reads on behalf of: a replaying subscription or the shared stream. */
struct eb_stream {
    struct eb_stream *run_next; /* [P] */
    int64_t due_ms;             /* [P] of one that sleeps after a read error */
    struct eb_session *session; /* [I] */
    struct eb_sub *sub;         /* [I] NULL: the session's shared stream */
    uint64_t cursor;            /* [Q] everything up to here was handed over or passed */
    uint8_t sched;              /* [Q] enum eb_sched: at most one place in the pool */
    bool waits_room;            /* [Q] IDLE until the queue has drained */
};

/* ---- subscriptions ---- */

enum eb_sub_state { EB_SUB_NEW, EB_SUB_REPLAYING, EB_SUB_LIVE, EB_SUB_CLOSED };

struct eb_entry {                 /* one pattern of a subscription in the topic table */
    struct eb_sub *sub;           /* [I] */
    struct eb_node *node;         /* [S] */
    struct eb_entry *prev, *next; /* [S] others with the same pattern */
    struct eb_pattern pattern;    /* [I] */
};

struct eb_last {    /* a subscription that begins with the newest event of each topic (last.c) */
    uint64_t upto;  /* [I] once it is in its session's list; 0: it does not, or there is none */
    bool known;     /* [T] the list was made */
    uint64_t *seqs; /* [T] rising, malloc'd */
    size_t count;   /* [T] */
};

struct eb_sub {
    atomic_uint refs;
    _Atomic uint8_t state; /* [Q] to write, [a] to peek; moves in eb_sub_move_locked only */
    bool all_there_is;     /* [Q] the first page makes no retention gap; false once it has begun */
    bool pending_only;     /* [I] once it is in its session's list */
    struct eb_session *session;     /* [I] one reference */
    struct eb_sub *next;            /* [Q] in the session's list */
    uint64_t floor;                 /* [Q] live: served up to here when it joined */
    struct eb_stream stream;        /* while it replays */
    struct eb_selection *selection; /* [T] */
    struct eb_ahead *ahead;         /* [Q] NULL: nothing was ever read ahead of its replay */
    struct eb_sub *ahead_next;      /* [P] in the list of those to be read ahead of */
    struct eb_last last;
    uint32_t count; /* [I] */
    struct eb_entry entries[];
};

struct eb_sub *eb_sub_create(struct eb_session *session, const struct eb_pattern *patterns,
                             size_t count);
struct eb_sub *eb_sub_ref(struct eb_sub *sub);
void eb_sub_unref(struct eb_sub *sub); /* no lock held but the commit lock at most */
/** The one place where a subscription changes state; keeps the session's counts and `gen`. */
void eb_sub_move_locked(struct eb_sub *sub, enum eb_sub_state to);
static inline enum eb_sub_state eb_sub_state(struct eb_sub *sub)
{
    return atomic_load_explicit(&sub->state, memory_order_relaxed);
}

/* What a lagging shared stream reads by: the live subscriptions of one `gen`, one reference each. */
struct eb_snapshot {
    struct eb_selection *selection;
    uint32_t gen;
    uint64_t min_floor, max_floor;
    size_t count;
    struct {
        struct eb_sub *sub;
        uint64_t floor;
    } subs[];
};
void eb_snapshot_free(struct eb_snapshot *snap); /* NULL is fine */

/* ---- sessions ---- */

struct eb_session {
    atomic_uint refs;
    atomic_uint open;                 /* [a] requests submitted and not yet done */
    atomic_size_t open_bytes;         /* [a] of their events */
    struct eb_bus *bus;               /* [I] one reference */
    const struct eb_session_ops *ops; /* [I] */
    void *user;                       /* [I] */
    uint64_t number;                  /* [I] */
    struct eb_session *prev, *next;   /* the bus's registry lock */
    struct eb_lock lock;              /* EB_RANK_SESSION: all that is [Q] */
    pthread_cond_t room;              /* [Q] eb_session_wait_room */
    atomic_uint waiters;              /* [Q] to write, [a] to peek: threads in it */
    atomic_bool closed;               /* [Q] to write, [a] to peek; never false again */
    atomic_bool legacy;               /* [a] */
    bool one_subscription;            /* [I] */
    bool feed;     /* [I] once it has a subscription: a durable consumer's, eb_session_set_feed */
    bool collects; /* [I] once it has made a request: eb_session_collect */
    bool settling; /* [C] in the bus's list */
    _Atomic uint8_t lagging; /* [Q] to write, [a] to peek: the shared stream is fed by the pool */

    struct eb_out
        *ring; /* [Q] cap places, `count` used from head; `flying` more stay free for putback */
    uint32_t head, count, cap, flying; /* [Q] */
    uint32_t events;                   /* [Q] events waiting or flying */
    size_t event_bytes;                /* [Q] theirs */
    atomic_size_t
        answer_bytes;   /* [Q] to write, [a] to peek: of answers and notices, waiting or flying */
    uint64_t delivered; /* [Q] */

    struct eb_stream shared;
    struct eb_sub
        *subs; /* [Q] one reference each; changed by the holder of the commit lock and by close */
    uint32_t sub_count, live, replaying; /* [Q] */
    uint32_t waiting;                    /* [Q] streams with waits_room */
    uint32_t gen;                        /* [Q] changes with the set of live subscriptions */
    struct eb_snapshot *snap;            /* [Q] of the lagging stream between two turns */

    struct { /* [R] requests made and not yet handed to the store (requests.c) */
        struct eb_op *first, *last;
        struct eb_op *recent[EB_AHEAD]; /* the last ones, by their number */
        unsigned ops;
        size_t bytes; /* of their events */
    } chunk;
    struct eb_block
        *block; /* [R] memory of the chunk's publishes with places left, or NULL (publish.c) */
    unsigned block_cap;              /* [R] places of the next one */
    struct eb_block *spare;          /* [R] blocks that came back and are not used again yet */
    _Atomic(struct eb_block *) back; /* [a] those that come back (publish_block.c) */
    atomic_size_t back_bytes;        /* [a] of these and the spare ones */
    struct eb_session *settle_next;  /* [C] the bus's list of sessions with something to settle */
    struct eb_frame *answers;        /* [C] what `done` has answered and is not in the queue yet */
    unsigned settled;                /* [C] requests done and not yet taken off `open` */
    size_t settled_bytes;            /* [C] of their events */

    struct eb_session *touched;    /* [C] the segment's list of sessions with something to push */
    uint32_t push_head, push_tail; /* [C] EB_NO_PUSH: none */
};
_Static_assert(sizeof(struct eb_session) < 512, "an idle session holds less than 512 bytes");

/** A reference unless the last one is already gone. */
bool eb_session_try_ref(struct eb_session *session);
bool eb_session_closed(struct eb_session *session);

/**
 * It feeds a durable consumer: what it takes is no delivery to a subscriber (not counted, not marked by auto_ack, not
 * listed). Before its first subscribe.
 */
void eb_session_set_feed(struct eb_session *session);
/** Of one subscription: all that matches up to here has been taken and sent, nothing below comes any more. 0: not known. */
uint64_t eb_session_served(struct eb_session *session);
/** Time of the first event in its queue, of frames that carry their event; 0: there is none. */
int64_t eb_session_oldest(struct eb_session *session);

/* ---- publish.c ---- */

struct eb_block;
/** The chunk is over: what is left of its memory is given up. Thread: the session's requests'. */
void eb_publish_end_block(struct eb_session *session);
void eb_block_session_init(struct eb_session *session);

/* ---- requests.c ---- */

/** Make a request of @session, with @bytes of events: collected, or submitted at once. Thread: its requests'. */
void eb_session_request(struct eb_session *session, struct eb_op *op, size_t bytes);
/** A request that goes no way through the chunk is open, and over: `over` drops the reference that `open` took. */
void eb_session_open(struct eb_session *session);
void eb_session_over(struct eb_session *session);
/** One of them is done: it is open until eb_bus_settle. The commit lock is held; the caller holds the session. */
void eb_session_settle(struct eb_session *session, size_t bytes);
/** What was answered and settled since the last time goes to the sessions. The commit lock is held. */
void eb_bus_settle(struct eb_bus *bus);
/** The group is over: those that were answered alone (C5) are told. The commit lock is held. */
void eb_bus_answered(struct eb_bus *bus);

/* ---- session.c, the queue ---- */

enum eb_fit { EB_FIT_LIVE, EB_FIT_REPLAY };
size_t eb_frame_weight(const struct eb_frame *frame);
/** Would so many events of that weight in all fit? Always when no event waits, however large. */
bool eb_queue_fits_locked(struct eb_session *session, uint32_t events, size_t weight,
                          enum eb_fit fit);
/** What the queue has room for at most when nothing waits. */
void eb_queue_bounds(const struct eb_session *session, enum eb_fit fit, size_t *ret_events,
                     size_t *ret_bytes);
/** The queue has drained under half of its bounds: streams may go on. */
bool eb_queue_has_room_locked(struct eb_session *session);
/** Append; takes over the frame's reference only when it returns 0. -ENOMEM. */
int eb_queue_push_locked(struct eb_session *session, struct eb_frame *frame, uint64_t seq);
/** How many events a queued frame with a seq holds. */
static inline uint32_t eb_frame_events(const struct eb_frame *frame)
{
    return frame->events != 0 ? frame->events : 1;
}
/** The same for an answer, which is joined with the one before it when that still waits and has room. */
int eb_queue_answer_locked(struct eb_session *session, struct eb_frame *frame);
/** Give a stream that wants to be read its place in the pool, or let it wait for room. */
void eb_stream_kick_locked(struct eb_stream *stream);
/** The shared stream stops being pushed to: it goes on from @cursor by the pool, when there is room. */
void eb_session_lag_locked(struct eb_session *session, uint64_t cursor);
void eb_session_catch_up_locked(struct eb_session *session, uint64_t cursor);
void eb_session_wake(struct eb_session *session);

/* ---- publish.c ---- */

#define EB_PUBLISH_FRONT 128 /* bytes of a publish that lie before its operation */

/* ---- bundle.c ---- */

struct eb_bundle_bounds {
    uint32_t events; /* 1: none are made */
    size_t bytes;
};
/** Small beside the queue's own bounds, so that those stay fine. */
struct eb_bundle_bounds eb_bundle_bounds(const struct eb_session *session);
/**
 * The first of @events as one frame, as many as the bounds allow: *ret_count of them, at least 1. A single one is the
 * frame of ops->event. NULL: out of memory. No lock held.
 */
struct eb_frame *eb_bundle_make(struct eb_session *session, struct eb_event *const *events,
                                uint32_t count, const char *pattern,
                                const struct eb_bundle_bounds *bounds, uint32_t *ret_count);

/* ---- table.c ---- */

struct eb_match {           /* immutable, shared: who wants a topic */
    atomic_uint refs;       /* one per topic of the cache, one per dispatch that uses it */
    bool listed;            /* [S] among the cache's different answers */
    uint64_t hash;          /* [I] of its contents */
    struct eb_match *chain; /* [S] of that list */
    uint32_t count;
    struct eb_sub *subs[]; /* one reference each */
};
void eb_match_unref(
    struct eb_match *match); /* NULL is fine; no lock held but the commit lock at most */

struct eb_table;
int eb_table_create(struct eb_bus *bus, struct eb_table **ret);
void eb_table_destroy(struct eb_table *table);
/** All its patterns or none. One reference. -ENOMEM. */
int eb_table_add(struct eb_table *table, struct eb_sub *sub);
void eb_table_remove(struct eb_table *table, struct eb_sub *sub);
/**
 * Who wants @topic among the patterns of its own shard (@wild false) or of the wildcard shard. 0 with one
 * reference in @ret, NULL when nobody does; -ENOMEM.
 */
int eb_table_match(struct eb_table *table, bool wild, const char *topic, size_t len,
                   struct eb_match **ret);
/** Nobody wants anything. Who holds the commit lock knows by this that nobody will until he lets go of it. */
bool eb_table_empty(const struct eb_table *table);
/** Another number whenever a subscription was added. [C] */
uint64_t eb_table_added(const struct eb_table *table);
/** Topics in the caches and pointers in their answers, for tests of the bounds. */
size_t eb_table_cached(struct eb_table *table, size_t *ret_pointers);

/* ---- known.c ---- */

#define EB_KNOWN_NOT    (-1) /* the table is to be asked */
#define EB_KNOWN_NOBODY (-2)

struct eb_known; /* [C] */
int eb_known_create(struct eb_known **ret);
void eb_known_destroy(struct eb_known *known);
/** The group of @topic in this round, EB_KNOWN_NOBODY or EB_KNOWN_NOT. @added: eb_table_added now, here and below. */
int eb_known_find(struct eb_known *known, uint64_t added, const char *topic, size_t len);
/** @group: from 0, for this round only, or EB_KNOWN_NOBODY. */
void eb_known_put(struct eb_known *known, uint64_t added, const char *topic, size_t len, int group);
/** All groups are forgotten. */
void eb_known_next_round(struct eb_known *known);

/* ---- dispatch.c ---- */

struct eb_dispatch;
int eb_dispatch_create(struct eb_dispatch **ret);
void eb_dispatch_destroy(struct eb_dispatch *dispatch);
void eb_dispatch_committed(void *bus, struct eb_op *ops); /* the store's hook */

/* ---- subscribe.c ---- */

struct eb_start {  /* where a replay begins (PROTOCOL 2.3, 2.4) */
    uint64_t from; /* first seq wanted */
    bool all_there_is;
    bool epoch_gap;
    uint64_t gap_to;
};
void eb_bus_start_rule(struct eb_bus *bus, const char *epoch, uint64_t starting_seq, uint64_t last,
                       struct eb_start *ret);

/* ---- stream.c ---- */

/** One page for one stream. Drops the reference that the pool's place held. */
void eb_stream_turn(struct eb_stream *stream, struct eb_reader *reader);
/** The gap as its transport says it; counted. No lock held but the commit lock. */
struct eb_frame *eb_sub_gap_frame(struct eb_sub *sub, uint64_t from, uint64_t to,
                                  enum eb_gap_reason reason);

/* ---- last.c ---- */

/** A page of the list, for request->from not above last.upto. Thread: the reader whose turn it is. */
int eb_last_page(struct eb_sub *sub, struct eb_reader *reader,
                 const struct eb_page_request *request, struct eb_page *page);
void eb_last_finish(struct eb_last *last);
/** The newest event of read->topic. 0 or -errno, with read->err where a client is to be told. */
int eb_read_last(struct eb_reader *reader, struct eb_read *read);

/* ---- scheduled.c ---- */

int eb_read_scheduled(struct eb_reader *reader, struct eb_read *read);
void eb_read_finish_scheduled(struct eb_read *read);

/* ---- shared.c ---- */

struct eb_shared;
int eb_shared_create(size_t max_bytes, struct eb_shared **ret);
void eb_shared_destroy(struct eb_shared *shared);
/** Nobody reads: all is given up. Threads, here and below: any, no lock held but the commit lock. */
void eb_shared_drop(struct eb_shared *shared);
size_t eb_shared_bytes(struct eb_shared *shared);
/**
 * There is nothing from @from to @to but @events, in seq order; as far as is known after so many @deletions
 * (eb_store_deletions before they were read).
 */
void eb_shared_add(struct eb_shared *shared, uint64_t deletions, uint64_t from, uint64_t to,
                   struct eb_event *const *events, size_t count);
/** A page as eb_reader_page gives it, without gaps. False: what is at request->from is not known. */
bool eb_shared_take(struct eb_shared *shared, uint64_t deletions, struct eb_selection *selection,
                    const struct eb_page_request *request, struct eb_page *page);
/** A stream lags, and looks for what is up to @upto. Any lock may be held. */
void eb_shared_lags(struct eb_shared *shared, uint64_t upto);
/** Is @seq near what was looked for last? */
bool eb_shared_near(struct eb_shared *shared, uint64_t seq);
/** Gives up what is shared when no stream reads any more. No lock held but the commit lock. */
void eb_bus_share_rest(struct eb_bus *bus);

/* ---- stream.c ---- */

/** No page is of use to another stream: there is at most one that replays or lags. */
bool eb_bus_reads_alone(struct eb_bus *bus);

/* ---- ahead.c ---- */

#define EB_AHEAD_PAGES 2

enum eb_ahead_found {
    EB_AHEAD_NOTHING, /* the turn reads by itself */
    EB_AHEAD_PAGE,    /* @page, and request->upto as it was read by */
    EB_AHEAD_SOON, /* it is being read: the stream has no place now and is kicked when it is there */
};
struct eb_spoilt_pages {
    unsigned count;
    struct eb_page pages[2 * EB_AHEAD_PAGES]; /* at the begin and at the end of a turn */
};
/** What was read ahead of @sub's replay from request->from on. What is of no use comes back in @spoilt. */
enum eb_ahead_found eb_ahead_take_locked(struct eb_sub *sub, struct eb_page_request *request,
                                         struct eb_page *page, struct eb_spoilt_pages *spoilt);
/** The turn has its page, which ends before @at: more may be read ahead. No lock held. */
void eb_ahead_go_on(struct eb_sub *sub, uint64_t at);
/** The replay is over. */
void eb_ahead_over_locked(struct eb_sub *sub, struct eb_spoilt_pages *spoilt);
/** A reader is at it: the selection is in use. */
bool eb_ahead_reads_locked(const struct eb_sub *sub);
void eb_spoilt_pages_finish(struct eb_spoilt_pages *spoilt); /* no lock held */
void eb_ahead_destroy(struct eb_ahead *ahead);               /* its subscription goes */
/** Read until enough is ahead. Thread: a reader's, no lock held. Drops the list's reference. */
void eb_ahead_run(struct eb_sub *sub, struct eb_reader *reader);

/* ---- reads.c ---- */

/** Carry it out and call its `done`. No lock held. */
void eb_read_do(struct eb_bus *bus, struct eb_reader *reader, struct eb_read *read);

/* ---- pool.c ---- */

struct eb_pool;
int eb_pool_create(struct eb_bus *bus, unsigned readers, struct eb_pool **ret);
/** Ends the threads; what waits is completed with EB_UNAVAILABLE or dropped. Idempotent. */
void eb_pool_stop(struct eb_pool *pool);
void eb_pool_destroy(struct eb_pool *pool);
/** Append to the run list. The session's lock is held; the caller took the place's reference. */
void eb_pool_run(struct eb_pool *pool, struct eb_stream *stream);
/** The same after @delay_ms. */
void eb_pool_run_later(struct eb_pool *pool, struct eb_stream *stream, int64_t delay_ms);
/** A reader that has nothing else to do reads ahead of it. The caller took the list's reference. */
void eb_pool_ahead(struct eb_pool *pool, struct eb_sub *sub);
/** Another reader than this one is to look at the run list. */
void eb_pool_wake(struct eb_pool *pool);
/** An auto_ack batch waits: write it by @due_ms at the latest. */
void eb_pool_autoack_due(struct eb_pool *pool, int64_t due_ms);
void eb_stream_ref_place(struct eb_stream *stream);
void eb_stream_unref_place(struct eb_stream *stream);

/* ---- autoack.c ---- */

struct eb_autoack;
int eb_autoack_create(struct eb_bus *bus, struct eb_autoack **ret);
void eb_autoack_destroy(struct eb_autoack *autoack);
/** These events were given to a plain subscriber. No lock held. */
void eb_autoack_mark(struct eb_autoack *autoack, const struct eb_out *items, size_t count);
void eb_autoack_flush(struct eb_autoack *autoack);

/* ---- due.c ---- */

struct eb_due;
int eb_due_create(struct eb_bus *bus, struct eb_due **ret);
/** Start the thread, which waits until it is kicked: after eb_store_start for what is waiting from the last run. */
int eb_due_start(struct eb_due *due);
/** After each commit: something may be due earlier than what is waited for. NULL is fine. Any lock below a leaf's held. */
void eb_due_kick(struct eb_due *due);
/** End the thread; the store still runs. Idempotent; NULL is fine. */
void eb_due_stop(struct eb_due *due);
void eb_due_destroy(struct eb_due *due);

/* ---- bus.c ---- */

struct eb_bus_atomics { /* relaxed; read by eb_bus_counters */
    _Atomic uint64_t published, publish_refused[EB_CODE_COUNT], delivered, acked;
    _Atomic uint64_t subscriptions, sessions, lagging, lagged_total, replays_total;
    _Atomic uint64_t gaps[EB_GAP_DELETED + 1], match_hits, match_misses, pages;
    _Atomic uint64_t replaying, feeds_lagging, shared_hits, shared_misses, due;
};

struct eb_bus {
    atomic_uint refs;             /* one for the owner, one per session */
    struct eb_bus_config config;  /* [I] */
    struct eb_store *store;       /* [I] */
    _Atomic uint64_t visible;     /* [C] to write (B3) */
    _Atomic uint64_t dispatched;  /* [C] to write: all up to here has been pushed to live streams */
    struct eb_table *table;       /* [I] */
    struct eb_dispatch *dispatch; /* [C] */
    struct eb_pool *pool;         /* [I] */
    struct eb_shared *shared;     /* [I] */
    struct eb_autoack *autoack;   /* [I] NULL: off */
    struct eb_consumers *consumers; /* [I] */
    struct eb_due *due;             /* [I] */
    struct eb_session *settling;    /* [C] sessions with something to settle, one reference each */
    struct eb_session *answered; /* [C] those that were answered alone (requests.c, C5), the same */
    unsigned answered_count;     /* [C] of these in this group */
    struct eb_bus_atomics counters;

    struct eb_lock registry; /* EB_RANK_LEAF: the list of sessions, numbers rising */
    struct eb_session *first, *last;
    uint64_t numbers;

    struct eb_lock settled_lock; /* EB_RANK_LEAF: the two below */
    void (*settled)(void *ctx);
    void *settled_ctx;
};

void eb_bus_unref(struct eb_bus *bus);
/** Submit one operation. No lock held. */
void eb_bus_submit(struct eb_bus *bus, struct eb_op *op);
void eb_bus_register(struct eb_bus *bus, struct eb_session *session);
void eb_bus_unregister(struct eb_bus *bus, struct eb_session *session);
/** The first session behind @prev (NULL: of all) numbered above @after, with a reference, or NULL. Drops that of @prev. */
struct eb_session *eb_bus_next_session(struct eb_bus *bus, struct eb_session *prev, uint64_t after);

#define eb_count(counter, n)                                                                       \
    ((void)atomic_fetch_add_explicit(&(counter), (uint64_t)(n), memory_order_relaxed))
#define eb_container(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
