/*
 * consumers.h - durable consumers (PROTOCOL 7): named cursors that the broker keeps, whose events are shared out among
 * workers and stay open until they are acknowledged.
 *
 *   log --- feed (an internal session: replays, lags, goes live like any other) ---> worklist ---> workers
 *            ^ cursor                                        states of the open events |  ^
 *            `------- the log's file <--- state op: one for all that changed ----------'  `- ack, nack, term …
 *
 * A consumer's feed is a session of the bus, so there is no second way of delivery: what is not in its bounded queue is
 * read from the log. What a worker is given comes from that queue or, the second time, from the log by its seq.
 *
 * (K1) One lock a consumer (EB_RANK_CONSUMER) guards its worklist, its workers and its pending requests. It is taken
 *      under the commit lock (to collect) and never the other way round; no store call but a submit, no callback and no
 *      encoder runs under it.
 * (K2) One thread, `eb-consumer`, hands out and keeps the time, for all consumers: it has the list of those that have
 *      something to do and the heap of their times. Whoever gives it something to do only puts the consumer on the list.
 * (K3) A request is answered after the commit that holds what it changed; a fetch too, with the deliveries that are its
 *      answer (EB_CONSUMER_KEEP). Other deliveries are kept lazily: their counts go with the next state op, at the latest
 *      EB_CONSUMER_LAZY_MS after them.
 * (K4) What is out belongs to one worker. A worker is the transport's: a WebSocket, a waiting fetch, a webhook's slot, a
 *      thread of the embedding program.
 * (K5) A dead letter is a publish of the broker's own whose `collect` ends the original in the same transaction.
 */
#pragma once

#include "broker/bus/bus.h"
#include "broker/bus/worklist.h"
#include "common/json.h"

#define EB_CONSUMER_NAME_MAX     64
#define EB_CONSUMER_PATTERNS_MAX 16
#define EB_CONSUMER_LAZY_MS      200
#define EB_ORDER_HEADER_MAX      255
#define EB_PUSH_URL_MAX          2048
#define EB_PUSH_SECRET_MAX       128

struct eb_consumers; /* all of a bus */
struct eb_consumer_worker;

/* ---- settings ---- */

enum eb_consumer_from { EB_FROM_NEW, EB_FROM_ALL, EB_FROM_SEQ, EB_FROM_TIME };
enum eb_consumer_order { EB_ORDER_NONE, EB_ORDER_TOPIC, EB_ORDER_HEADER };

struct eb_consumer_settings {
    struct eb_pattern patterns[EB_CONSUMER_PATTERNS_MAX];
    unsigned pattern_count;
    enum eb_consumer_from from;
    uint64_t from_seq;
    int64_t from_time_ms;
    int64_t ack_wait_ms;
    uint32_t max_deliver; /* 0: no bound */
    uint32_t backoff_count;
    int64_t backoff_ms[EB_BACKOFF_MAX];
    uint32_t max_inflight;
    enum eb_consumer_order order;
    char order_header[EB_ORDER_HEADER_MAX + 1]; /* lower case */
    uint32_t order_window;
    bool dead_letter;
    bool has_push;
    struct {
        char url[EB_PUSH_URL_MAX + 1];
        char secret[EB_PUSH_SECRET_MAX + 1]; /* "whsec_…" */
        int64_t timeout_ms;
        uint32_t concurrency;
    } push;
};

/** 1 to 64 of A-Z a-z 0-9 _ -. 0, or -1 with @err. */
int eb_consumer_name_check(const char *name, size_t len, struct eb_error *err);
/**
 * Read them from the object at token @obj; what is absent or null gets its default, unknown members are ignored, numbers of
 * seconds may have a fraction. -1 with @err, which names the member and what would be right. The URL's host and the
 * secret's form are the transport's to judge (eb_push_ops.check).
 */
int eb_consumer_settings_read(struct eb_consumer_settings *ret, struct eb_json *json, uint32_t obj,
                              struct eb_error *err);
/** As a JSON object that eb_consumer_settings_read takes; all members. Without @secret it is shown as "secret":true. */
void eb_consumer_settings_write(struct eb_buf *out, const struct eb_consumer_settings *settings,
                                bool secret);
bool eb_consumer_settings_equal(const struct eb_consumer_settings *a,
                                const struct eb_consumer_settings *b);

/* ---- requests ---- */

enum eb_consumer_verb {
    EB_CONSUMER_PUT, /* make, or replace all settings; another `from` or `order` of one that is there: EB_CONFLICT */
    EB_CONSUMER_ENSURE, /* make if there is none (with settings); other settings than its own: EB_CONFLICT; without
                           settings: is it there? EB_NOT_FOUND */
    EB_CONSUMER_DELETE,
    EB_CONSUMER_SEEK,
    EB_CONSUMER_REDRIVE,
    EB_CONSUMER_STOP, /* takes nothing any more until it is PUT again; `reason` says why (a webhook's 410) */
    EB_CONSUMER_TIDY, /* the bus's own: dead letters that retention took leave the list */
    EB_CONSUMER_ACK,  /* from here on: about `seqs` */
    EB_CONSUMER_NACK,
    EB_CONSUMER_TERM,
    EB_CONSUMER_IN_PROGRESS,
    EB_CONSUMER_KEEP, /* changes nothing: answered when all that stands by now is kept, deliveries too */
};

/*
 * One request from its maker to its answer. The maker's memory, untouched by it until `done`.
 * Every verb: EB_NOT_FOUND when there is no such consumer; EB_UNAVAILABLE, EB_STORAGE_FULL (it could not be kept: what it
 * changed stands in memory and is kept later, but the maker is not told `ok`).
 */
struct eb_consumer_request {
    struct eb_consumer_request *next; /* the bus's */
    enum eb_consumer_verb verb;
    char name[EB_CONSUMER_NAME_MAX + 1];
    const struct eb_consumer_settings *settings; /* put, ensure; borrowed until done */
    bool by_time;                                /* seek: to time_ms, else to seq */
    uint64_t seq;
    int64_t time_ms;
    const uint64_t *
        seqs; /* ack …: count of them; redrive: of dead letters, count 0: all. Borrowed until done */
    uint32_t count;
    uint32_t delivery; /* nack, term, in_progress; EB_ANY_DELIVERY */
    int64_t delay_ms;  /* nack; -1: as the backoff says */
    char reason[200];  /* term, stop; may be empty */
    struct eb_session
        *session; /* counts as open there until done (eb_session_wait_room); NULL: none */
    /* results */
    struct eb_error err;
    enum eb_job_result *results; /* room for count, the maker's; ack … and redrive of named seqs */
    bool created;                /* put, ensure */
    uint64_t redriven;           /* redrive: how many */
    /* Once; on the committing thread under the commit lock, on `eb-consumer`, on a reader, or on the caller's own before
       the call returned. Must not block, nor make requests about consumers; eb_session_reply_bytes works on all of them. */
    void (*done)(struct eb_consumer_request *request);
    void *user;
    char id_text[EB_ID_ROOM]; /* as in eb_publish */
    uint8_t id_len;
};
/** Threads: any, no lock held. */
void eb_bus_consumer(struct eb_bus *bus, struct eb_consumer_request *request);

/* ---- workers ---- */

struct eb_worker_ops {
    /* One event, @delivery from 1. False: it cannot be taken, and goes back uncounted. May keep a reference. */
    bool (*deliver)(void *user, struct eb_event *event, uint32_t delivery);
    /* No more of them at present. May be NULL. */
    void (*flush)(void *user);
    /* Events that it takes just now beside its max_inflight; 0: none, until eb_consumer_worker_room. NULL: any number. */
    size_t (*room)(void *user);
    /* What the consumer will not be given any more. May be NULL. */
    void (*gap)(void *user, uint64_t from_seq, uint64_t to_seq, enum eb_gap_reason reason);
    /* Detached, not asked for: @reason is "deleted", "seek", "push" or "shutdown". The last call; @user may be freed,
       and eb_consumer_leave is still to be called (later, or from within). */
    void (*released)(void *user, const char *reason);
    /* `until_ms` is over and nothing was delivered since the worker came. May be NULL. */
    void (*expired)(void *user);
};
/*
 * All calls come from `eb-consumer`, one at a time for a worker, with no lock held; they must not block.
 */

/**
 * Attach to a consumer that is there. @max_inflight: out with it at most (0: the consumer's). @until_ms: mono ms, -1 none.
 * @pushes: it is a webhook's slot; others are refused by a consumer that has one, and it by one that has none
 * (EB_CONFLICT), and all by one that was stopped. EB_NOT_FOUND; EB_UNAVAILABLE when the broker ends. Nothing is delivered
 * before eb_consumer_begin.
 */
int eb_consumer_attach(struct eb_bus *bus, const char *name, const struct eb_worker_ops *ops,
                       void *user, uint32_t max_inflight, int64_t until_ms, bool pushes,
                       struct eb_consumer_worker **ret, struct eb_error *err);
void eb_consumer_begin(struct eb_consumer_worker *worker);
/** Another max_inflight, from the next delivery on; what is out with it stays so. Any thread, as worker_room. */
void eb_consumer_worker_limit(struct eb_consumer_worker *worker, uint32_t max_inflight);
/** There is room again. Any thread, any lock of a lower rank than EB_RANK_CONSUMER may be held. */
void eb_consumer_worker_room(struct eb_consumer_worker *worker);

enum eb_leave {
    EB_LEAVE_AGAIN, /* what is out with it goes to others at once; the delivery counts (a connection ended) */
    EB_LEAVE_RETURN, /* the same, uncounted (an answer that could not be written) */
    EB_LEAVE_OUT, /* it stays out until it is answered or ack_wait is over (a fetch that was answered) */
};
/**
 * Detach; @worker is gone. No ops call runs when this has returned, nor begins, save when called from within one. Threads: any, no lock
 * held but the commit lock; from `released` too.
 */
void eb_consumer_leave(struct eb_consumer_worker *worker, enum eb_leave how);

/* ---- webhooks: who calls them is the transport's ---- */

struct eb_push_ops {
    /* May these settings be called? -1 with @err. Any thread. */
    int (*check)(void *ctx, const struct eb_consumer_settings *settings, struct eb_error *err);
    /* The consumer has these push settings from now on (made, loaded, PUT): attach slots. Before the first one's events. */
    void (*start)(void *ctx, const char *name, const struct eb_consumer_settings *settings);
    /* It has none any more, or was deleted or stopped: its slots were released before. */
    void (*stop)(void *ctx, const char *name);
};
/**
 * Who calls webhooks; any time after eb_bus_create, which has started the store by then. Without it `push` is refused by PUT,
 * and consumers that have it wait. `start` comes for each of them that is there and for those to come; start and stop
 * come from `eb-consumer`. With NULL nobody does any more: no call runs when that has returned and none begins, and the
 * slots are left by their owner. Threads: any, no lock held.
 */
void eb_bus_on_push(struct eb_bus *bus, const struct eb_push_ops *ops, void *ctx);

/* ---- what is there ---- */

struct eb_consumer_info {
    char name[EB_CONSUMER_NAME_MAX + 1];
    struct eb_consumer_settings *settings; /* malloc'd, or NULL when not asked for */
    char stopped[200];                     /* empty: it is not */
    const char *state; /* "idle" (no worker), "active", "window_full" (order_window), "stopped" */
    int64_t made_ms;
    uint64_t cursor;  /* all up to here is done, or does not match */
    uint64_t next;    /* first seq not looked at */
    uint64_t pending; /* open and not out: ready, waiting, blocked by their key */
    uint64_t inflight, waiting, parked, dying;
    uint32_t workers;
    uint64_t delivered, acked; /* since the start */
    uint64_t redelivered, dead, lost;
    uint64_t dead_waiting; /* dead letters that may be redriven */
    uint64_t lag_events;   /* of the log behind the cursor, an upper bound of what is to be done */
    int64_t lag_ms;        /* age of the oldest event that is not done; 0: none is */
};
/** Consumers whose name is above @after (NULL: from the first), by name, at most @max. *ret is malloc'd, finish it. */
size_t eb_bus_consumers(struct eb_bus *bus, const char *after, size_t max, bool settings,
                        struct eb_consumer_info **ret);
/** One by name; false: there is none. */
bool eb_bus_consumer_info(struct eb_bus *bus, const char *name, struct eb_consumer_info *ret);
void eb_consumer_infos_finish(struct eb_consumer_info *infos, size_t count);
/** Is there a consumer that matches @topic and has a worker attached (request/reply: does anybody listen)? */
bool eb_bus_consumer_listens(struct eb_bus *bus, const char *topic, size_t len);
/** Lists the dead letters of a consumer: seqs above @after. A one-off read: see eb_read.kind EB_READ_DEAD. */
uint64_t eb_bus_consumer_id(struct eb_bus *bus, const char *name); /* 0: none */

/* ---- life, for bus.c ---- */

int eb_consumers_create(struct eb_bus *bus, struct eb_consumers **ret);
/** What the log keeps becomes consumers; before eb_store_start. 0 or -errno. */
int eb_consumers_load(struct eb_consumers *consumers);
/** Make the thread, before eb_store_start; it does nothing until eb_consumers_go. 0 or -errno. */
int eb_consumers_start(struct eb_consumers *consumers);
/** After eb_store_start. */
void eb_consumers_go(struct eb_consumers *consumers);
/** Release all workers ("shutdown"), keep what changed, end the thread. Before the pool ends. Idempotent. */
void eb_consumers_halt(struct eb_consumers *consumers);
void eb_consumers_destroy(struct eb_consumers *consumers);
