/*
 * consumer.h - what the files of durable consumers share (PROTOCOL 7).
 *
 *        event arrives           a thread, or next            ack, nack, term           broker answers
 *     ─────────────────> HELD ──────────────────────> HANDED ───────────────> ANSWERED ────────────────> gone
 *                         │  ^                          │  ^ │ it comes again      │ connection ends
 *                         │  └──────────────────────────┘  └─┘ (V3)                └──> sent again on the next
 *                         └ connection ends: gone, it comes again
 *
 * (V1) One entry (struct eb_out) a seq, whatever the number of its deliveries: the event is handed over once at a time.
 * (V2) What is HELD goes with its connection: the broker gives it to others at once. What is HANDED stays, its answer
 *      counts on any connection. An answer goes away only when the broker has answered it, or said why it will not.
 * (V3) An event that comes again while its callback runs, or while its answer is under way, waits in `again`: an ack that
 *      the broker took covers it, else it is HELD then. One that was handed over for a later answer is HELD anew.
 * (V4) Answers wait until the consume of this connection is answered: if the log became another, they are void.
 */
#pragma once

#include "client/internal.h"

#define EB_ANSWERS_A_REQUEST 1000 /* seqs, unless the broker takes fewer (max_batch) */
#define EB_WORKERS_MAX       256

enum eb_out_state { EB_OUT_HELD, EB_OUT_HANDED, EB_OUT_ANSWERED };

enum eb_notice_kind { EB_NOTICE_ANSWERED, EB_NOTICE_GAP, EB_NOTICE_RELEASED, EB_NOTICE_FAILED };

/* Something to tell the program on eb-client-cb. */
struct eb_notice {
    struct eb_notice *next;
    eb_consumer *consumer; /* one of its refs */
    enum eb_notice_kind kind;
    uint64_t seq, to_seq;
    uint32_t delivery;
    eb_verdict verdict;
    int result;
    char text[240]; /* reason, or why */
};

/* Somebody who waits for what becomes of an ack; on that thread's stack. */
struct eb_answer_waiter {
    struct eb_answer_waiter *next;
    pthread_cond_t cond;
    bool done;
    int result;
};

struct eb_out {
    struct eb_out *hash_next;
    struct eb_out *prev, *next; /* of the list it is in: held, handed, fresh or a batch's */
    uint64_t seq;
    uint32_t delivery;
    enum eb_out_state state;
    bool running;           /* a callback has it: HANDED, or ANSWERED from within */
    bool outlived;          /* its log is gone (V4) */
    struct eb_item *item;   /* HELD */
    struct eb_item *again;  /* V3 */
    eb_verdict verdict;     /* ANSWERED, from here on */
    int64_t delay;          /* of a nack */
    char *reason;           /* of a term, or NULL */
    uint64_t mark;          /* requests and answers given before it have lower ones, for flush */
    struct eb_notice *told; /* for `answered`, made with the answer */
    struct eb_answer_waiter *waiters;
};

struct eb_out_list {
    struct eb_out *first, *last;
    size_t count;
};

/* Answers that share a request. */
struct eb_batch {
    struct eb_batch *next;
    uint64_t id; /* of the request */
    struct eb_out_list outs;
};

/* A pulled delivery, until it is answered. */
struct eb_parcel {
    struct eb_parcel *next;
    struct eb_item *item;
    eb_delivery delivery;
    char epoch[37];
};

enum eb_consume_state {
    EB_CONSUME_IDLE,     /* to be asked for on the next turn */
    EB_CONSUME_ASKED,    /* what comes until the answer is an older attachment's */
    EB_CONSUME_ATTACHED, /* answered */
    EB_CONSUME_PARKED,   /* the broker wants us later */
    EB_CONSUME_DEAD
};

struct eb_consumer {
    eb_client *client;                   /* [I] */
    eb_consumer *prev, *next;            /* [C] of the client */
    unsigned refs;                       /* [C] the client's list, threads inside, notices */
    eb_consumer_options options;         /* [I] its texts are below */
    char name[EB_CONSUMER_NAME_LEN + 1]; /* [I] */
    char *settings;                      /* [I] as JSON, or NULL */
    int64_t progress_every;              /* [I] 0: off */

    enum eb_consume_state state; /* [C] */
    bool closing;                /* [C] somebody closes it: nothing is handed over any more */
    bool ended;                  /* [C] no callback begins any more */
    bool answered;               /* [C] the broker said ok once */
    bool waited;                 /* [C] its opener takes the refusal */
    bool make;                   /* [C] the next consume goes with settings */
    uint64_t request;            /* [C] id of the open consume */
    uint64_t after;              /* [C] its first consume goes behind the publishes up to this id */
    int64_t retry_at;            /* [C] PARKED: when to ask again */
    int64_t answers_at;          /* [C] refused at first: when answers are sent again; 0: at once */
    int64_t progress_at;         /* [C] */
    int result;                  /* [C] why it is dead */
    char why[240];               /* [C] */
    char epoch[37];              /* [C] of the log that the deliveries are of, "" while unknown */
    uint64_t received;           /* [C] */

    struct eb_out **buckets;                /* [C] by seq */
    size_t mask, outs;                      /* [C] */
    struct eb_out_list held, handed, fresh; /* [C] fresh: answers to be sent */
    struct eb_batch *batches;               /* [C] answers under way, in the order sent */
    size_t answers;                         /* [C] fresh and under way */
    size_t batch_max;                       /* [C] seqs a request */
    struct eb_parcel *parcels;              /* [C] */
    size_t notices;                         /* [C] not run yet */
    bool in_notice;                         /* [C] */

    pthread_cond_t work;  /* workers, and who pulls */
    pthread_cond_t quiet; /* who closes it */
    bool stop;            /* [C] workers end */
    unsigned running;     /* [C] callbacks */
    unsigned threads;     /* [I] started */
    pthread_t *thread;    /* [I] */
};

/* ---- deliveries.c: the table of what is out here ---- */

int eb_deliveries_init(eb_consumer *consumer);
/** Forget all without a word; for the end. */
void eb_deliveries_finish_locked(eb_consumer *consumer);
struct eb_out *eb_deliveries_find(const eb_consumer *consumer, uint64_t seq);
/** An event came. */
void eb_deliveries_arrived_locked(eb_consumer *consumer, struct eb_item *item);
/** The first HELD one becomes HANDED; its item is the caller's. NULL: none. */
struct eb_out *eb_deliveries_hand_over_locked(eb_consumer *consumer, struct eb_item **ret);
/** It comes back from its callback with @verdict. */
void eb_deliveries_returned_locked(eb_consumer *consumer, uint64_t seq, eb_verdict verdict,
                                   const eb_delivery *delivery);
/** The program answers: 0 or a result. @waiter (or NULL) is told what becomes of it. */
int eb_deliveries_answer_locked(eb_consumer *consumer, uint64_t seq, uint32_t delivery,
                                eb_verdict verdict, int64_t delay, const char *reason,
                                struct eb_answer_waiter *waiter);
/** The broker said what became of the answer; @out is gone, or HELD again. */
void eb_deliveries_settle_locked(eb_consumer *consumer, struct eb_out_list *list,
                                 struct eb_out *out, int result);
/** The connection ended (V2). */
void eb_deliveries_disconnected_locked(eb_consumer *consumer);
/** What is HELD is nothing any more: a seek, a deletion. */
void eb_deliveries_forget_held_locked(eb_consumer *consumer);
/** The log is another: answers end as DISCONNECTED, now or when they are given. */
void eb_deliveries_outlived_locked(eb_consumer *consumer);
/** All answers end with @result. */
void eb_deliveries_settle_all_locked(eb_consumer *consumer, int result);
void eb_out_append(struct eb_out_list *list, struct eb_out *out);
void eb_out_unlink(struct eb_out_list *list, struct eb_out *out);

/* ---- consume.c: what is said to the broker, and what it says ---- */

/** Records that are to be sent now, on a connection that is there. */
void eb_consume_pick_locked(eb_client *client, struct eb_buf *out, int64_t now);
/** Would pick have anything? */
bool eb_consume_wants_locked(const eb_client *client, int64_t now);
/** When to look again. */
int64_t eb_consume_next_locked(const eb_client *client);
/** The first consume that others wait behind, as barrier_locked (loop.c). */
uint64_t eb_consume_barrier_locked(const eb_client *client);
/** The answer to a consume or to answers; false if it is none of ours. */
bool eb_consume_answer_locked(eb_client *client, struct eb_json *json,
                              const struct eb_wire *answer);
void eb_consume_event_locked(eb_client *client, const char *consumer, struct eb_item *item);
void eb_consume_gap_locked(eb_client *client, const struct eb_wire *gap);
void eb_consume_released_locked(eb_client *client, const struct eb_wire *wire);
void eb_consume_disconnected_locked(eb_client *client);
/** The consumer is over: nothing comes any more. */
void eb_consume_kill_locked(eb_consumer *consumer, int result, const char *why);
/** Are all answers up to @mark answered? */
bool eb_consume_flushed_locked(const eb_client *client, uint64_t mark);

/* ---- worker.c ---- */

int eb_workers_start(eb_consumer *consumer);
/** `stop` is set; no lock held. Returns when all ended. */
void eb_workers_join(eb_consumer *consumer);
/** Is this one of its threads? */
bool eb_client_in_worker(const eb_client *client);

/* ---- consumer.c ---- */

void eb_consumer_unref_locked(eb_consumer *consumer);
void eb_consumer_unlink_locked(eb_consumer *consumer);
/** Nothing is handed over any more: for drain. */
bool eb_consumers_quiet_locked(const eb_client *client);
void eb_consumers_wake_locked(eb_client *client);
/** The end of the client, in two steps: workers end; then the memory goes. */
void eb_consumers_stop(eb_client *client);
void eb_consumers_free_locked(eb_client *client);
/** Run the first notice, if there is one (callbacks.c). */
bool eb_notice_run(eb_client *client);
struct eb_notice *eb_notice_create(eb_consumer *consumer, enum eb_notice_kind kind);
void eb_notice_queue_locked(struct eb_notice *notice);
