/*
 * worklist_internal.h - what the worklist_*.c files share: worklist.c (in, out, a restart), worklist_states.c (states),
 * worklist_answers.c (how deliveries end), worklist_index.c (finding, times, window) and worklist_blocks.c (the form on
 * disk).
 */
#pragma once

#include "broker/bus/worklist.h"

enum eb_job_state {
    EB_JOB_RECALL,
    EB_JOB_PARKED,
    EB_JOB_READY,
    EB_JOB_OUT,
    EB_JOB_WAITING,
    EB_JOB_DYING,
    EB_JOB_BURYING,
};
#define EB_JOB_STATES (EB_JOB_BURYING + 1)

struct eb_job_queue {
    struct eb_job *first, *last;
};

struct eb_job_key {
    struct eb_job_key *hash_next;
    uint64_t hash[2];
    struct eb_job *holder; /* ready, out, waiting or dying */
    struct eb_job_queue parked;
};

struct eb_job {
    uint64_t seq;
    int64_t at_ms;    /* in the heap */
    int64_t due_ms;   /* restored: not before; 0: at once */
    uint32_t heap_at; /* place in the heap + 1; 0: not in it */
    uint32_t deliveries;
    uint8_t state;
    bool again;      /* ready: was delivered before, or waited for its key */
    bool asked;      /* dying: eb_worklist_dying has told of it */
    bool extra;      /* inserted out of turn: no pattern need match it */
    bool ended;      /* by a term: it is not delivered again */
    int64_t time_ms; /* of the event; 0: not known */
    struct eb_job *hash_next;
    struct eb_job *block_prev, *block_next;
    struct eb_job *prev, *next; /* of the queue its state belongs to */
    struct eb_worker *worker;   /* out */
    struct eb_job_key *key;
};

/* The open events among EB_WORKLIST_BLOCK seqs. */
struct eb_job_block {
    uint64_t number;
    struct eb_job *jobs;
    uint32_t count;
    bool dirty;
};

struct eb_worklist {
    struct eb_worklist_config config;
    uint64_t next;                /* below it, what is not here is done */
    uint64_t feed;                /* next to be offered; below `next` while a restart recalls */
    struct eb_job_queue ready[2]; /* by `again` */
    struct eb_job_queue dying[2]; /* by `asked` */
    struct eb_job_queue recall;   /* in seq order */
    uint32_t counts[EB_JOB_STATES];

    struct eb_job **jobs; /* hash table by seq */
    uint32_t job_count, job_buckets;
    struct eb_job_key **keys;
    uint32_t key_count, key_buckets;
    struct eb_job *spare;        /* dropped ones, by hash_next */
    struct eb_job_block *blocks; /* sorted; a clean one has jobs */
    size_t block_count, block_cap;
    struct eb_job **heap;
    uint32_t heap_count, heap_cap; /* cap: room for every job there is */
    uint64_t *window; /* ordered: ring of the seqs looked at, from the first open one */
    uint32_t window_head, window_count, window_cap;
};

/* ---- worklist_states.c ---- */

void eb_job_queue_push(struct eb_job_queue *queue, struct eb_job *job);
void eb_job_queue_remove(struct eb_job_queue *queue, struct eb_job *job);
/** Out of its state, and of what belongs to it; the caller gives it another one, or drops it. */
void eb_job_leave(struct eb_worklist *list, struct eb_job *job);
/** Into a state; the caller puts it into the queue that belongs to it, if one does. */
void eb_job_enter(struct eb_worklist *list, struct eb_job *job, enum eb_job_state state);
void eb_job_enter_ready(struct eb_worklist *list, struct eb_job *job, bool again);
void eb_job_enter_waiting(struct eb_worklist *list, struct eb_job *job, int64_t at_ms);
void eb_job_enter_dying(struct eb_worklist *list, struct eb_job *job);
void eb_job_enter_out(struct eb_worklist *list, struct eb_job *job, struct eb_worker *worker,
                      int64_t now_ms);
/** Over: it leaves the list (L1), and the window moves on. */
void eb_job_done(struct eb_worklist *list, struct eb_job *job);
/** A delivery ended without an ack. */
void eb_job_failed(struct eb_worklist *list, struct eb_job *job, int64_t wait_ms, int64_t now_ms);
/** One that has just become known takes its place behind its key. 0, or -ENOMEM: it has no state then. */
int eb_job_place(struct eb_worklist *list, struct eb_job *job, struct eb_order_key order,
                 bool again);
/** Is that delivery of it out? @job may be NULL. */
bool eb_job_is_out(const struct eb_job *job, uint32_t delivery);

/* ---- worklist_index.c ---- */

int eb_worklist_index_create(struct eb_worklist *list);
void eb_worklist_index_destroy(struct eb_worklist *list);

/** A job without a state, in the table and in its block, with room kept in the heap. NULL: no memory. */
struct eb_job *eb_job_make(struct eb_worklist *list, uint64_t seq);
struct eb_job *eb_job_find(const struct eb_worklist *list, uint64_t seq);
/** Out of the table and its block; the caller has taken it out of its state. */
void eb_job_drop(struct eb_worklist *list, struct eb_job *job);
/** All jobs, keys and times at once; every worker is left without jobs. */
void eb_job_drop_all(struct eb_worklist *list);
/** Its block is to be stored. */
void eb_job_mark(struct eb_worklist *list, struct eb_job *job);
struct eb_job_block *eb_job_block_find(struct eb_worklist *list, uint64_t number);
/** The block, made when there is none. NULL: no memory. */
struct eb_job_block *eb_job_block_get(struct eb_worklist *list, uint64_t number);
uint64_t eb_worklist_first_open(const struct eb_worklist *list);

/** The key's place, made when there is none. NULL: no memory. */
struct eb_job_key *eb_job_key_get(struct eb_worklist *list, struct eb_order_key order);
void eb_job_key_drop(struct eb_worklist *list, struct eb_job_key *key);

void eb_job_heap_add(struct eb_worklist *list, struct eb_job *job, int64_t at_ms);
void eb_job_heap_remove(struct eb_worklist *list, struct eb_job *job);

/** Room for one more in the window. */
int eb_worklist_window_reserve(struct eb_worklist *list);
void eb_worklist_window_push(struct eb_worklist *list, uint64_t seq);
/** Drop what is done from its front. */
void eb_worklist_window_pop(struct eb_worklist *list);
void eb_worklist_window_clear(struct eb_worklist *list);
bool eb_worklist_window_full(const struct eb_worklist *list);

/* ---- a restart: what worklist_blocks.c reads, worklist.c takes in ---- */

struct eb_job_saved {
    uint64_t seq;
    uint32_t deliveries;
    int64_t due_ms; /* 0: was not waiting */
    bool extra, ended;
};
/** 0, -ENOMEM, -EBADMSG. */
int eb_worklist_restore(struct eb_worklist *list, const struct eb_job_saved *saved);
