/*
 * consumer_internal.h - what the consumer_*.c files share: who owns which field of a consumer and of a worker.
 *
 * Keys: [I] immutable after create   [a] atomic   [K] the consumer's lock   [L] the list's lock
 *       [W] the run list's lock      [T] the thread `eb-consumer`           [C] the holder of the commit lock
 *
 * Lifetimes. A consumer is held by the list, by its place in the run list, by its feed, by each of its workers, by
 * each read and burial under way and by its state op. The circle consumer -> feed -> session -> consumer is cut by
 * eb_feed_close. It is freed by whoever lets go last, on any thread, the commit lock held at most.
 */
#pragma once

#include "broker/bus/consumers.h"
#include "broker/bus/internal.h"

#define EB_CONSUMER_AHEAD       256 /* events taken off the feed before a worker wants them */
#define EB_CONSUMER_CACHE_BYTES (1024 * 1024) /* of events kept for jobs that are not out */
#define EB_CONSUMER_FETCH       128           /* events read by their seq at once … */
#define EB_CONSUMER_FETCH_BYTES (1024 * 1024) /* … and their bytes */
#define EB_CONSUMER_BURIALS     32            /* dead letters of a consumer under way */
#define EB_CONSUMER_TICK_MS     5000 /* its position follows the log, and what stalls is seen */
#define EB_CONSUMER_RETRY_MS    1000 /* after a read or a commit that failed */
#define EB_CONSUMER_STALL_MS    60000
#define EB_REASON_MAX           199

struct eb_consumer;

/* ---- consumer_cache.c: events at hand, by seq ---- */

struct eb_cached {
    struct eb_cached *chain;
    struct eb_event *event; /* one reference */
};
struct eb_consumer_cache { /* [K] */
    struct eb_cached **buckets;
    uint32_t count, cap;
    size_t bytes;
};
/** Takes a reference. False: it is full (or there is no memory), nothing is kept. With @force beyond the bound. */
bool eb_cache_put(struct eb_consumer_cache *cache, struct eb_event *event, bool force);
/** The event, whose reference is the caller's now; NULL: it is not at hand. */
struct eb_event *eb_cache_take(struct eb_consumer_cache *cache, uint64_t seq);
bool eb_cache_has(const struct eb_consumer_cache *cache, uint64_t seq);
void eb_cache_clear(struct eb_consumer_cache *cache);

/* ---- what a consumer is ---- */

enum eb_consumer_life {
    EB_CONSUMER_MAKING, /* its first commit is under way: nobody else sees it */
    EB_CONSUMER_THERE,
    EB_CONSUMER_GONE, /* deleted, or could not be made */
};

/* One event to be given up (consumer_dead.c), or a reason that waits for it. */
struct eb_reason {
    struct eb_reason *next;
    uint64_t seq;
    char text[EB_REASON_MAX + 1];
};

struct eb_feed; /* consumer_feed.c */
struct eb_redrive;

/* What was lost and no worker was told yet. */
struct eb_untold {
    uint64_t from_seq, to_seq; /* to_seq 0: nothing */
    enum eb_gap_reason reason;
};

/* An administrative request on its way (consumer_change.c). */
struct eb_change {
    struct eb_change *next; /* of the list it waits in */
    struct eb_consumer_request *request;
    struct eb_consumers *all;
    struct eb_consumer *consumer;          /* one reference, or NULL: none yet */
    struct eb_consumer_settings *settings; /* put, ensure: a copy, or NULL */
    struct eb_buf text;                    /* the same as it is stored */
    struct eb_read read;                   /* one that it waits for */
    bool ready;                            /* [K] it asks for a state op … */
    bool collected;                        /* [K] … and is in one */
    bool moved;                            /* [K] … and it was a seek that was not refused */
    bool again;                            /* [K] redrive: the next step is to be begun */
    char stopped[EB_REASON_MAX + 1];       /* what the consumer's was */
    bool time_known;                       /* `at` is the first seq of the time asked for */
    uint64_t at;                           /* where it begins, or seeks to */
    struct eb_redrive *redrive;            /* consumer_redrive.c; malloc'd */
    uint64_t *letters;                     /* seek: redriven ones that were open; malloc'd */
    size_t letter_count;
    struct eb_error err;
};

struct eb_state_op {
    struct eb_op op;
    bool under_way;                      /* [K] */
    struct eb_consumer_request *waiting; /* [K] requests for the next one … */
    struct eb_consumer_request **waiting_end;
    struct eb_consumer_request *taken; /* [K] … and those of the one under way */
    struct eb_change *change;          /* [K] whose writes are asked for, or under way */
    bool collected;                    /* [C] `delta` and `writes` are those of the one under way */
    struct eb_worklist_delta delta;    /* [C] */
    struct eb_state_write *writes;     /* [C] malloc'd */
    bool cleared;                      /* [C] it clears the blocks */
    bool failed;                       /* [C] no memory to collect */
};

struct eb_consumer {
    atomic_uint refs;
    struct eb_consumers *all;                       /* [I] */
    uint64_t id;                                    /* [I] */
    int64_t made_ms;                                /* [I] */
    char name[EB_CONSUMER_NAME_MAX + 1];            /* [I] */
    char dead_topic[EB_CONSUMER_NAME_MAX + 1 + 16]; /* [I] */

    struct eb_consumer *run_next; /* [W] */
    bool queued;                  /* [W] */
    int64_t due_ms;               /* [T] INT64_MAX: none */
    uint32_t heap_at;             /* [T] place in the heap + 1 */

    struct eb_lock lock;        /* EB_RANK_CONSUMER */
    pthread_cond_t calls;       /* [K] a worker's call is over */
    enum eb_consumer_life life; /* [K] */
    bool stopping;              /* [K] the broker ends: nothing is handed out, nothing attached */
    bool damaged;               /* [K] its settings could not be read: PUT gives it new ones */
    struct eb_consumer_settings *settings; /* [K] malloc'd */
    char stopped[EB_REASON_MAX + 1];       /* [K] */
    bool was_stopped;                      /* [K] committed */
    struct eb_worklist *list;              /* [K] */
    uint64_t gen; /* [K] changes with seek: what belongs to an older one is dropped */
    struct eb_consumer_cache cache; /* [K] */
    struct eb_state_counts counts;  /* [K] kept on disk */
    uint32_t burying; /* [K] letters in a commit under way: written as dead, not in `counts` yet */
    uint64_t delivered, acked;                /* [K] since the start */
    uint64_t dead_waiting;                    /* [K] */
    struct eb_reason *reasons, **reasons_end; /* [K] of those that are dying by `term` */
    struct eb_untold untold;                  /* [K] */
    uint64_t suspect_from, suspect_to;        /* [K] a damaged block's: not all in it match */

    struct eb_consumer_worker *workers; /* [K] circular: the next to be served */
    uint32_t worker_count;              /* [K] */
    struct eb_consumer_worker *leaving; /* [K] to be told that they are released */
    struct eb_worker nobody;            /* [K] has what is out with nobody (EB_LEAVE_OUT) */

    struct eb_state_op keep;
    bool changed;        /* [K] what is on disk is old … */
    int64_t keep_ms;     /* [K] … and is to be renewed then; INT64_MAX: nothing to do */
    bool clear_blocks;   /* [K] a seek: the blocks on disk go with the next op */
    uint64_t kept_first; /* [K] the first open event, as on disk */
    struct eb_change *changes, **changes_end; /* [K] that wait for the one of keep.change */

    struct eb_feed *feed; /* [K] to change, which [T] does; [T] looks without */
    bool feed_afresh;     /* [K] it is to be made anew: other patterns, another position */
    int64_t feed_ms;      /* [T] not before then, after a failure */
    bool fetching;        /* [K] a read for jobs whose event is not at hand is under way */
    int64_t fetch_ms;     /* [K] not before then */
    uint32_t burials;     /* [K] under way */
    int64_t bury_ms;      /* [K] not before then */
    bool stamping;        /* [K] a read for the age of the first open event is under way */

    uint64_t push_round; /* [T] the all->push_seen that it was started in */
    bool push_started;   /* [T] push_ops.start was called for its settings as they are */
    bool push_afresh;    /* [K] its push settings are new */
    struct {             /* [T] what stalls is said once */
        int64_t tick_ms, alone_ms;
        uint64_t cursor;
        uint64_t tidy; /* the list of dead letters has none up to here that retention took */
        bool stalled, window;
    } said;
};

struct eb_consumer_worker {
    struct eb_worker base;                  /* [K] */
    atomic_uint refs;                       /* its owner, and the thread while it calls */
    struct eb_consumer *consumer;           /* [I] one reference */
    const struct eb_worker_ops *ops;        /* [I] */
    void *user;                             /* [I] */
    uint32_t max_inflight;                  /* [K] 0: the consumer's */
    bool pushes;                            /* [I] */
    struct eb_consumer_worker *prev, *next; /* [K] circular in `workers`; or by next in `leaving` */
    const char *reason;                     /* [K] set: it is in `leaving`, or was told */
    bool listed;                            /* [K] in `workers` */
    bool in_leaving;                        /* [K] in `leaving` */
    bool begun, left;                       /* [K] */
    bool calling;                           /* [K] `eb-consumer` is in one of its ops */
    bool touched;                           /* [K] a flush is due */
    bool served;                            /* [K] something was delivered */
    int64_t until_ms;                       /* [K] -1: none, or it has expired */
    bool asks_room;                         /* [K] what ops->room says is to be asked again */
    size_t room;                            /* [K] what it said, less what was delivered since */
};

struct eb_consumers {
    struct eb_bus *bus;        /* [I] */
    uint64_t key[2];           /* [I] of the hash of order keys */
    struct eb_lock list_lock;  /* EB_RANK_CONSUMER; not held with a consumer's own */
    struct eb_consumer **list; /* [L] by name, one reference each */
    size_t count, cap;         /* [L] */
    uint64_t ids;              /* [L] the highest id given */
    bool closed;               /* [L] the broker ends: no request is taken */

    struct eb_lock run_lock; /* EB_RANK_LEAF: all that is [W] */
    pthread_cond_t work;
    struct eb_consumer *run, **run_end;       /* [W] one reference each */
    struct eb_change *changes, **changes_end; /* [W] not begun */
    bool stop, running;                       /* [W] */
    const struct eb_push_ops *push_ops;       /* [W] */
    void *push_ctx;                           /* [W] */
    bool push_calling;                        /* [W] a call of push_ops is under way */
    uint64_t push_round;                      /* [W] counts eb_bus_on_push */
    pthread_cond_t push_over;                 /* [W] */

    struct eb_consumer *
        *heap; /* [T] by due_ms; holds no reference: who leaves the list leaves it */
    uint32_t heap_count, heap_cap; /* [T] */
    uint64_t push_seen;            /* [T] the push_round that consumers were told of */
    uint64_t held;                 /* [T] what eb_store_hold was told */
    int64_t hold_ms;               /* [T] when to look again */
    atomic_bool hold_afresh;       /* look now */
    pthread_t thread;
    bool started;
};

/* ---- consumer.c ---- */

/** With @settings, which it takes over, at @next. Not in the list. NULL: no memory. */
struct eb_consumer *eb_consumer_create(struct eb_consumers *all, const char *name, uint64_t id,
                                       int64_t made_ms, struct eb_consumer_settings *settings,
                                       uint64_t next);
struct eb_consumer *eb_consumer_ref(struct eb_consumer *consumer);
void eb_consumer_unref(struct eb_consumer *consumer); /* NULL is fine */
/** By name, with a reference; NULL: there is none. */
struct eb_consumer *eb_consumer_find(struct eb_consumers *all, const char *name);
/** Into the list, which takes a reference. 0, -EEXIST, -ENOSPC (max_consumers), -ENOMEM. */
int eb_consumer_list(struct eb_consumers *all, struct eb_consumer *consumer);
void eb_consumer_unlist(struct eb_consumer *consumer);
/** References to all of them, malloc'd; *ret_count. NULL when there is none (or no memory). */
struct eb_consumer **eb_consumers_all(struct eb_consumers *all, size_t *ret_count);
unsigned eb_consumers_max(const struct eb_consumers *all);
void eb_consumers_all_finish(struct eb_consumer **list, size_t count);
void eb_consumer_config(const struct eb_consumer_settings *settings,
                        struct eb_worklist_config *ret);
/** What is on disk is old; renewed lazily. */
void eb_consumer_changed_locked(struct eb_consumer *consumer);

/* ---- consumer_thread.c: the thread, its lists; the tests have their own ---- */

int64_t eb_consumers_now(void); /* the clock of the worklists, ms */
/** Is this `eb-consumer`? */
bool eb_consumers_thread(void);
/** It has something to do. Any lock but a leaf may be held. */
void eb_consumer_run(struct eb_consumer *consumer);
void eb_consumers_signal_locked(struct eb_consumers *all);
/** All that is to be done at once; returns when there is something again (INT64_MAX: not by the clock). [T] */
int64_t eb_consumers_round(struct eb_consumers *all);

/* ---- consumer_turn.c ---- */

/** One consumer's turn. [T] */
void eb_consumer_turn(struct eb_consumer *consumer);
void eb_consumer_time(struct eb_consumer *consumer,
                      int64_t due_ms); /* into the heap, INT64_MAX: out of it. [T] */
/** The last turn of all: released, kept, fed no more. False: a commit is still under way. [T] */
bool eb_consumers_end(struct eb_consumers *all);

/* ---- consumer_tick.c: now and then ---- */

/** What stalls is said, the position follows the log, the age of the first open event is found. [T] */
void eb_consumer_tick(struct eb_consumer *consumer, int64_t now);
/** Retention holds what is open, if it is to. Returns when to look again. [T], or before the start. */
void eb_consumers_hold(struct eb_consumers *all);

/* ---- consumer_push.c ---- */

/** Tell whoever calls webhooks what the consumer has. [T] */
void eb_push_follow(struct eb_consumer *consumer);
/** False: there is nobody. Else nobody else calls, and he stays, until eb_push_leave. [T] */
bool eb_push_enter(struct eb_consumers *all, const struct eb_push_ops **ret_ops, void **ret_ctx);
void eb_push_leave(struct eb_consumers *all);

/* ---- consumer_feed.c ---- */

/** The feed as the consumer wants it: none, the one there is, or one made anew. [T] */
void eb_feed_follow(struct eb_consumer *consumer);
/** Take in what the worklist wants. True: something came. [T] */
bool eb_feed_take_in(struct eb_consumer *consumer);
void eb_feed_close(struct eb_consumer *consumer); /* [T] */
/** `next` follows the log where nothing matches. */
void eb_feed_passed_locked(struct eb_consumer *consumer);
/** The time of the first event that waits in the feed; 0: not known. */
int64_t eb_feed_oldest_locked(const struct eb_consumer *consumer);
/** Read what is ready and not at hand. [T] */
void eb_feed_fetch(struct eb_consumer *consumer);
bool eb_consumer_matches(const struct eb_consumer_settings *settings, const char *topic,
                         size_t len);
/** @lost events were not handled: counted and logged, workers are told. */
void eb_consumer_lost_locked(struct eb_consumer *consumer, uint64_t from, uint64_t to,
                             uint64_t lost, enum eb_gap_reason reason);
/** What @read has not found is done; it is lost unless its own ttl ended it. */
void eb_consumer_gone_locked(struct eb_consumer *consumer, const struct eb_read *read,
                             uint64_t deleted_upto);
struct eb_order_key eb_order_key(const struct eb_consumer *consumer, const struct eb_event *event,
                                 enum eb_consumer_order order, const char *header);
void eb_siphash(const uint64_t key[2], const void *data, size_t len, uint64_t ret[2]);

/* ---- consumer_hand.c ---- */

/** Hand out what is ready, at most so many. True: there may be more. [T] */
bool eb_consumer_hand_out(struct eb_consumer *consumer);
/** Tell released workers, and of gaps. [T] */
void eb_workers_tell(struct eb_consumer *consumer);
/** Those whose time is over and who were given nothing. [T] */
void eb_workers_expire(struct eb_consumer *consumer);
/** All workers are to be told that they are released; what was out with them is again. */
void eb_workers_release_locked(struct eb_consumer *consumer, const char *reason);
int64_t eb_workers_due_locked(const struct eb_consumer *consumer);

/* ---- consumer_keep.c ---- */

/** Submit a state op unless one is under way. */
void eb_consumer_keep_locked(struct eb_consumer *consumer);
/** Blocks and position as writes, from @at on. Returns how many, EB_KEEP_WRITES at most. The consumer's lock is held. */
size_t eb_keep_writes(struct eb_consumer *consumer, const struct eb_worklist_delta *delta,
                      struct eb_state_write *at);
#define EB_KEEP_WRITES(delta) ((delta)->count + 4)
/** The counts as they will be when what has been collected is committed. */
struct eb_state_counts eb_keep_counts_locked(const struct eb_consumer *consumer);
/** A request has ended: `done`, and it is no longer open in its session. No lock held but the commit lock. */
void eb_consumer_request_done(struct eb_consumer_request *request);
void eb_consumer_requests_done(struct eb_consumer_request *requests, const struct eb_error *err);

/* ---- consumer_change.c ---- */

/** Any thread, no lock held. */
void eb_change_submit(struct eb_consumers *all, struct eb_consumer_request *request);
/** All that it needs is known: into the next commit. No lock held. */
void eb_change_ready(struct eb_change *change);
/** Begin those that were asked for. [T] */
void eb_changes_begin(struct eb_consumers *all);
/** Begin the consumer's next one, when it has none. [T] */
void eb_changes_turn(struct eb_consumer *consumer);
/** What it does to the consumer's memory before the delta is taken; change->err when it may not. [C] */
void eb_change_collect_locked(struct eb_consumer *consumer, struct eb_change *change,
                              uint64_t last_seq);
/** What it writes beside blocks and position. Returns how many, eb_change_room at most. [C] */
size_t eb_change_writes_locked(struct eb_consumer *consumer, struct eb_change *change,
                               struct eb_state_write *at);
size_t eb_change_room(const struct eb_change *change);
/** Its op has ended. [C]. Returns the change when it is the caller's to finish, NULL when it goes on. */
struct eb_change *eb_change_committed_locked(struct eb_consumer *consumer, struct eb_change *change,
                                             const struct eb_error *err, uint64_t last_seq);
/** Answer it and free it. No lock held but the commit lock. */
void eb_change_finish(struct eb_change *change);
/** The broker ends: those that wait, of @consumer or (NULL) of nobody yet. */
void eb_changes_refuse(struct eb_consumers *all, struct eb_consumer *consumer);

/* ---- consumer_redrive.c ---- */

/** Read the next dead letters of the change; it is ready then, or at its end. [T] */
void eb_redrive_read(struct eb_change *change);
void eb_redrive_collect_locked(struct eb_consumer *consumer, struct eb_redrive *redrive);
size_t eb_redrive_room(const struct eb_redrive *redrive);
size_t eb_redrive_writes(const struct eb_consumer *consumer, const struct eb_redrive *redrive,
                         struct eb_state_write *at);
/** True: there may be more to be redriven. */
bool eb_redrive_committed_locked(struct eb_consumer *consumer, struct eb_redrive *redrive, bool ok,
                                 struct eb_consumer_request *request);
void eb_redrive_free(struct eb_redrive *redrive); /* NULL is fine */

/* ---- consumer_dead.c ---- */

/** Begin to give up what is dying. [T] */
void eb_consumer_bury(struct eb_consumer *consumer);
void eb_reason_set_locked(struct eb_consumer *consumer, uint64_t seq, const char *text);
void eb_reason_drop_locked(struct eb_consumer *consumer, uint64_t seq);
void eb_reasons_clear_locked(struct eb_consumer *consumer);
