/*
 * worklist.h - what of the log is still open for one durable consumer, and which worker has it.
 *
 *                        take                      ack, term, gone
 *   offer --> ready ---------------> out ---------------------------> done: no longer here
 *     |         ^                     |  nack, time over, worker left    ^
 *     | key     | due                 v                                  | buried
 *     v         `----------------- waiting          dying ---------> burying
 *   parked                            `-- max_deliver --^
 *
 * (L1) What is done is not kept: a seq below `next` that is not here is done, whether it matched or not. So one
 *      open event costs the same whether ten or ten million behind it are done.
 * (L2) With `order`, of one key at most one event is ready, out, waiting or dying: the oldest that is open. The
 *      others are parked, in seq order.
 * (L3) For the disk the seqs are cut into blocks of EB_WORKLIST_BLOCK. A change marks its block; collect gives
 *      each marked block whole, empty when nothing in it is open. What is burying counts as done there: its end
 *      is committed together with what is collected.
 * (L4) No clock, no lock, no I/O in here: the caller has all three, and one clock for all `now_ms`. No call
 *      allocates but create, offer, insert, load and collect.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EB_WORKLIST_BLOCK 1024  /* seqs in a block */
#define EB_WORKLIST_OPEN  65536 /* without `order`: no more are looked at while so many are open */
#define EB_BACKOFF_MAX    16

struct eb_worklist;
struct eb_job;

struct eb_worklist_config {
    bool ordered;
    uint32_t order_window; /* ordered: events looked at past the first open one */
    uint32_t max_deliver;  /* 0: no bound */
    uint32_t max_inflight;
    int64_t ack_wait_ms;
    uint32_t backoff_count;
    int64_t backoff_ms[EB_BACKOFF_MAX];
};

/* What orders events: 128 bits of a keyed hash of the topic or the header. Two keys that share them wait for each
   other, which is safe. */
struct eb_order_key {
    uint64_t hash[2];
    bool present; /* false: no order among these */
};

/* One that takes jobs: a connection, a fetch, a webhook's slot. The caller's memory, zeroed before its first use. */
struct eb_worker {
    struct eb_job *jobs; /* the worklist's */
    uint32_t count;      /* out with it */
    void *user;
};

int eb_worklist_create(const struct eb_worklist_config *config, uint64_t next,
                       struct eb_worklist **ret);
/** Workers must be detached before. NULL is fine. */
void eb_worklist_destroy(struct eb_worklist *list);
/** New values hold from the next delivery. `ordered` must not change: seek, or load afresh. */
void eb_worklist_configure(struct eb_worklist *list, const struct eb_worklist_config *config);

/* ---- feeding: events in seq order ---- */

/** May another event be offered now? */
bool eb_worklist_wants(const struct eb_worklist *list);
/**
 * The next event that matches; what lies between it and the one before does not match. Of one that is already
 * done, or not recalled (see eb_worklist_load), nothing is kept. 0 or -ENOMEM (then it counts as not offered).
 */
int eb_worklist_offer(struct eb_worklist *list, uint64_t seq, struct eb_order_key key);
/** Nothing more matches up to and with @seq. */
void eb_worklist_passed(struct eb_worklist *list, uint64_t seq);
/** An event out of turn (redrive), as if never delivered. 0, -EEXIST when it is open, -ENOMEM. */
int eb_worklist_insert(struct eb_worklist *list, uint64_t seq, struct eb_order_key key);
/** Is it a ready one out of turn whose key a restart has forgotten? Then it is to be told before it is taken. */
bool eb_worklist_wants_key(const struct eb_worklist *list, uint64_t seq);
/** Its key: it is parked when another of that key is under way. 0 or -ENOMEM. */
int eb_worklist_key(struct eb_worklist *list, uint64_t seq, struct eb_order_key key);
/** The seqs of those that were inserted and are open, but what is burying; at most @max. Returns how many there are. */
size_t eb_worklist_extra(const struct eb_worklist *list, uint64_t *seqs, size_t max);
/** Forget all that is open and go on from @next (seek). Workers keep nothing. */
void eb_worklist_reset(struct eb_worklist *list, uint64_t next);
/** First seq not yet offered or passed; with `order`, after a load, the first to offer again. */
uint64_t eb_worklist_next(const struct eb_worklist *list);

/* ---- handing out ---- */

struct eb_job_view {
    uint64_t seq;
    uint32_t delivery; /* from 1 */
    bool ended;        /* by a term */
};
/** The next event for @worker, which is out from now on. False: nothing is ready, or max_inflight are out. */
bool eb_worklist_take(struct eb_worklist *list, struct eb_worker *worker, int64_t now_ms,
                      struct eb_job_view *ret);
/** The answer to a fetch could not be written: ready again at once, and the delivery does not count. */
void eb_worklist_return(struct eb_worklist *list, uint64_t seq, uint32_t delivery);
/** The worker has gone: what was out with it is ready again (or dying) at once. */
void eb_worklist_detach(struct eb_worklist *list, struct eb_worker *worker);
/** The same, but none of its deliveries counts. */
void eb_worklist_detach_uncounted(struct eb_worklist *list, struct eb_worker *worker);
/** What is out with @from is out with @to from now on; its time runs on. */
void eb_worklist_give(struct eb_worklist *list, struct eb_worker *from, struct eb_worker *to);
/** A ready one cannot be had just now: it waits until then, and others go before it. */
void eb_worklist_put_off(struct eb_worklist *list, uint64_t seq, int64_t at_ms);
/** Would eb_worklist_take give something? */
bool eb_worklist_ready(const struct eb_worklist *list);
/** The seqs that it would give next, in that order, at most @max. Returns how many. */
size_t eb_worklist_peek(const struct eb_worklist *list, uint64_t *seqs, size_t max);

/* ---- answers ---- */

enum eb_job_result { EB_JOB_OK, EB_JOB_LATE, EB_JOB_UNKNOWN };
#define EB_ANY_DELIVERY 0

/** Done, or done before: OK. Never delivered: UNKNOWN. Its dead letter is being committed: LATE. */
enum eb_job_result eb_worklist_ack(struct eb_worklist *list, uint64_t seq);
/**
 * These act on the current delivery only; with @delivery another one, or none under way, is LATE.
 * @delay_ms < 0: as the backoff says. A term makes it dying at once, whatever max_deliver says, and for good.
 */
enum eb_job_result eb_worklist_nack(struct eb_worklist *list, uint64_t seq, uint32_t delivery,
                                    int64_t delay_ms, int64_t now_ms);
enum eb_job_result eb_worklist_term(struct eb_worklist *list, uint64_t seq, uint32_t delivery);
enum eb_job_result eb_worklist_in_progress(struct eb_worklist *list, uint64_t seq,
                                           uint32_t delivery, int64_t now_ms);
/** The event itself is no more (expired, deleted): done. */
void eb_worklist_gone(struct eb_worklist *list, uint64_t seq);

/* ---- time ---- */

/** When eb_worklist_expire has something to do, or INT64_MAX. */
int64_t eb_worklist_due(const struct eb_worklist *list);
/** What is out too long goes to waiting, ready or dying; what waited long enough is ready. Returns how many. */
size_t eb_worklist_expire(struct eb_worklist *list, int64_t now_ms);

/* ---- given up ---- */

/** The next one to be given up, or false. It stays dying until buried: ask once for each. */
bool eb_worklist_dying(struct eb_worklist *list, struct eb_job_view *ret);
/** Its dead letter is about to be committed. False: it was acknowledged meanwhile, no dead letter is due. */
bool eb_worklist_bury(struct eb_worklist *list, uint64_t seq);
/** @committed: done. Else it is dying again. */
void eb_worklist_buried(struct eb_worklist *list, uint64_t seq, bool committed);

/* ---- the disk ---- */

struct eb_worklist_block {
    uint64_t number;     /* of the seqs number * EB_WORKLIST_BLOCK … */
    const uint8_t *data; /* in the delta's own memory */
    size_t len;          /* 0: nothing in it is open */
};
struct eb_worklist_delta {
    uint64_t next, first_open; /* first_open == next: nothing is open */
    struct eb_worklist_block *blocks;
    size_t count;
    void *memory;
};
/** What changed since the last collect. @wall_ms: wall clock less the clock of `now_ms`. 0 or -ENOMEM (nothing is taken). */
int eb_worklist_collect(struct eb_worklist *list, int64_t wall_ms, struct eb_worklist_delta *ret);
/** The delta was not stored: its blocks are marked again. */
void eb_worklist_uncollect(struct eb_worklist *list, const struct eb_worklist_delta *delta);
void eb_worklist_delta_finish(struct eb_worklist_delta *delta);
/**
 * One block as it was collected; in rising order, before anything else is done with the list. What was out is
 * ready again at once, or dying. With `order` the events wait to be recalled: the log is offered again from
 * eb_worklist_next (the first open one), for their keys. 0, -ENOMEM, -EBADMSG (not what collect writes).
 */
int eb_worklist_load(struct eb_worklist *list, uint64_t number, const uint8_t *data, size_t len,
                     int64_t wall_ms);

/**
 * A block that could not be loaded: all that it may have held is open, as after one delivery, whether it matches or
 * not; its caller finds out when it reads the events. 0 or -ENOMEM.
 */
int eb_worklist_reopen(struct eb_worklist *list, uint64_t number);
/** Another list with the same open events as after a restart, and another config, even another order. 0 or -ENOMEM. */
int eb_worklist_copy(struct eb_worklist *list, const struct eb_worklist_config *config,
                     struct eb_worklist **ret);
/** The log ends before @end (it has lost its last events): nothing from there on is known or open. */
void eb_worklist_cut(struct eb_worklist *list, uint64_t end);

/* ---- figures ---- */

/** The time of the event, for its age; for one that is open. */
void eb_worklist_stamp(struct eb_worklist *list, uint64_t seq, int64_t time_ms);
/** That of the first open event; 0: none is open, or its time is not known. */
int64_t eb_worklist_oldest(const struct eb_worklist *list);
uint32_t eb_worklist_open(const struct eb_worklist *list);          /* how many are */
bool eb_worklist_has(const struct eb_worklist *list, uint64_t seq); /* is it? */
uint32_t eb_worklist_ready_count(const struct eb_worklist *list);   /* of them are ready */

struct eb_worklist_figures {
    uint32_t open, ready, out, waiting, parked, dying;
    uint64_t next, first_open;
    bool window_full; /* ordered: order_window is reached; else EB_WORKLIST_OPEN */
};
void eb_worklist_figures(const struct eb_worklist *list, struct eb_worklist_figures *ret);
