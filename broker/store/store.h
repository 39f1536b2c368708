/*
 * store.h - the log: what goes into it, in which order, and how it is read.
 *
 *   any thread -- eb_store_submit(op, op, …) --> queue --> writer: one transaction for all that waits
 *                                                             |  COMMIT
 *                                                             v
 *                                            hooks.committed(ops in commit order)   [commit lock held]
 *                                                             |  each op->done(op)
 *   reader threads <-- eb_reader_page() --- committed log <---+
 *
 * (S1) Order: operations take effect in the order of submission; all that one thread submits stays in order.
 * (S2) Commit first: an op's `done` runs after the commit that holds it; a failed commit takes back the
 *      seqs and dedupe entries of its ops and completes them with an error; nothing of it is ever read.
 * (S3) Seqs rise without a hole inside a batch and are never given twice within one epoch, also after a crash.
 * (S4) A batch is stored whole or not at all. A refused op does not harm its neighbours.
 * (S5) Whoever holds the commit lock owns the writer's SQLite connection and the right to call the hook.
 * (S6) Timestamps never run backward along the log.
 *
 * Two engines stand behind this: SQLite (engine_sqlite.c) and a ring in memory (engine_memory.c).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/store/state.h"
#include "common/error.h"
#include "common/event.h"
#include "common/topic.h"

struct eb_store;
struct eb_reader;
struct eb_selection;

enum eb_durability { EB_DURABILITY_FSYNC, EB_DURABILITY_OS };

struct eb_store_config {
    const char *path; /* NULL: storage = memory */
    const char *vfs;  /* SQLite VFS by name; NULL: the default one (tests put theirs here) */
    enum eb_durability durability;
    size_t memory_bytes; /* storage = memory: size of the ring */
    int64_t dedupe_window_ms;
    size_t dedupe_max;
    int64_t retention_age_ms; /* 0 = off, here and below */
    uint64_t retention_bytes;
    uint64_t retention_events;
    int64_t acked_retention_ms; /* -1 = off; 0 deletes what is acknowledged at the next turn */
    uint64_t min_free;          /* bytes */
    bool new_epoch;             /* --new-epoch */
    uint64_t max_scheduled;     /* events that wait until they are due */
    size_t group_events, group_bytes; /* bounds of one transaction; 0: 4096 and 8 MiB */
};

enum eb_op_kind {
    EB_OP_PUBLISH,    /* events[0..count) stored whole or not at all */
    EB_OP_ACK,        /* plain ack of seq */
    EB_OP_AUTO_ACK,   /* marks seqs acknowledged, not answered: seqs[0..count) */
    EB_OP_FENCE,      /* no row: only a place in the order */
    EB_OP_STATE,      /* what `collect` gives, and no event (state.h) */
    EB_OP_UNSCHEDULE, /* takes the scheduled event with `id` back */
    EB_OP_DUE, /* broker's own: what is due enters the log, at most `room` events; see `count` */
};

/* What a member of a publish asks beside being stored now and whatever was before it (PROTOCOL 8). */
struct eb_op_ask {
    bool has_expected;
    uint64_t expected; /* the topic's last seq must be this; 0: it has none yet */
    int64_t due_ms;    /* > 0: wall clock ms; it enters the log then and has no seq until then */
};

struct eb_op_result {
    uint64_t seq;
    bool duplicate;
    bool fresh;     /* duplicate: of an event of this same op (nothing to compare outside) */
    bool scheduled; /* seq is 0: it is kept until it is due (also a duplicate of one that is) */
    uint32_t hash;  /* the store's, until there is a result */
};

/*
 * One operation. Memory and events belong to the submitter's `done`: the store never frees any of it.
 * The store fills `err`, `results`, `last_seq`.
 * What each publish needs comes first, so that the committing thread, to which all of it is news, fetches little.
 */
struct eb_op {
    struct eb_op *next;
    struct eb_op
        *ahead; /* one a few places behind this one, or NULL: the store fetches it betimes */
    enum eb_op_kind kind;
    uint32_t
        count; /* publish, auto_ack; due: 0 when submitted, the store sets how many there were */
    struct eb_event *
        *events; /* publish: each one's seq and timestamp are set when it is new; due: one reference
                                     each for the submitter */
    struct eb_op_result *results; /* publish: count of them */
    const struct eb_op_ask *asks; /* publish: count of them, or NULL: nothing is asked */
    size_t bytes;            /* publish: eb_event_size of all its events, for the group's bound */
    struct eb_event *event1; /* where `events` and `results` of a single one may point, */
    struct eb_op_result result1; /* and then lie where they are needed */
    /*
     * state, publish: what is to be kept in the same transaction; NULL: nothing. Called once, under the commit lock,
     * at the op's place and before its events are judged; not again when the group is tried again. It may set
     * `count` of a publish to 0: then the op is a fence, or a state op if there is something to be kept. A refused op
     * writes nothing of it: `err` tells.
     */
    const struct eb_state_write *(*collect)(struct eb_op *op);
    /*
     * Called exactly once, by the thread that holds the commit lock, after the commit (or its failure).
     * May free the op. Must not block, nor submit and wait; submitting is allowed.
     */
    void (*done)(struct eb_op *op);
    uint64_t
        last_seq; /* the log's last seq at the op's place in the order; `collect` finds it set */
    /*
     * Code EB_OK when it took effect. Else, for a publish with `index` = the member it is about:
     * EB_MESSAGE_ID_REUSED, EB_CONFLICT (another seq is the topic's last: the message says which), EB_LIMIT_EXCEEDED
     * (max_scheduled), EB_INVALID_REQUEST (due_ms with storage = memory), EB_STORAGE_FULL (no room), EB_UNAVAILABLE (the log cannot be written now, or no
     * memory), EB_INTERNAL (seqs used up). Ack: EB_NOT_FOUND (above the last seq), EB_INVALID_REQUEST (the id
     * is another event's), EB_STORAGE_FULL, EB_UNAVAILABLE. Unschedule: EB_NOT_FOUND, EB_CONFLICT (it has entered the
     * log), EB_UNAVAILABLE. State: EB_STORAGE_FULL (at the real end of the disk), EB_UNAVAILABLE. A fence always works.
     */
    struct eb_error err;
    void *user;
    uint64_t *seqs;                      /* auto_ack */
    uint64_t seq;                        /* ack */
    uint8_t id[16];                      /* ack, unschedule */
    bool has_id;                         /* ack: compare with the seq's own id */
    bool more;                           /* due: there is more that is due */
    bool collected;                      /* the store's; false when submitted */
    bool internal;                       /* publish: the broker's own, goes on below min_free */
    uint32_t room;                       /* due: room in events and results */
    const struct eb_state_write *writes; /* the store's: what `collect` gave */
};

/* Let the memory be brought of what a walk along ->next reaches soon after @op. Returns op->ahead. */
static inline const struct eb_op *eb_op_fetch(const struct eb_op *op)
{
    const struct eb_op *ahead = op->ahead;
    if (ahead && ahead->ahead) {
        __builtin_prefetch(ahead->ahead);
        __builtin_prefetch(&ahead->ahead->done);
    }
    return ahead;
}

struct eb_store_hooks {
    void *ctx;
    /*
     * Hands over all operations of one transaction in order (linked by ->next); the hook calls each
     * op->done exactly once. Runs under the commit lock. Ops that failed are among them (err.code).
     * NULL: the store calls done itself.
     */
    void (*committed)(void *ctx, struct eb_op *ops);
    /* After the hook of every commit: the place to resume HTTP requests together. May be NULL. */
    void (*settled)(void *ctx);
};

/**
 * Open or create the log, check it (header, schema, WAL, last pages: at most 2 s), recover, start the
 * threads `eb-writer`, `eb-checkpoint` and `eb-janitor` (retention, ttl, free space).
 * Errors: -EIO, -EACCES, -EBUSY (another broker has it), -EINVAL (not ours, newer schema, an old
 *         prk_eventbus file), -EBADMSG (damaged), -ENOMEM, -ENOSPC; @err->message says what and what to type.
 * Before eb_store_start nothing is deleted and the hooks are not called.
 */
int eb_store_open(const struct eb_store_config *config, struct eb_store **ret,
                  struct eb_error *err);
/** Set the hooks and start the threads. */
int eb_store_start(struct eb_store *store, const struct eb_store_hooks *hooks);
/** New values for what may change at run time (retention, dedupe, min_free). Threads: any. */
void eb_store_reconfigure(struct eb_store *store, const struct eb_store_config *config);
/** Commit what is queued, stop the threads, mark the end as clean, close. No reader may be left. NULL is fine. */
void eb_store_close(struct eb_store *store);

/**
 * Queue operations linked by ->next, in order, in one push. Never blocks on disk, never fails:
 * what cannot be done is said in op->err. Threads: any; no lock above EB_RANK_STORE_QUEUE's place held.
 */
void eb_store_submit(struct eb_store *store, struct eb_op *first, struct eb_op *last);

/**
 * The same for one op; but when nothing else is under way the caller commits it by itself: `done` and the hooks run
 * on this thread, and it blocks on disk. For a thread that has nothing to do until it is answered. Threads: any that
 * may block; no lock held; never from within `done` or a hook.
 */
void eb_store_submit_or_commit(struct eb_store *store, struct eb_op *op);

/* ---- what the log holds ---- */

struct eb_store_info {
    char epoch[37];
    bool memory;
    enum eb_durability durability;
    uint64_t first_seq, last_seq; /* first retained (last + 1 when empty), last committed */
    uint64_t
        deleted_upto; /* end of the prefix deleted by age or size (memory: fallen off the ring) */
    uint64_t events, bytes, wal_bytes, free_bytes;
    uint64_t topics;
    uint64_t dedupe_ids;
    int64_t dedupe_oldest_ms; /* age; 0 when there is none */
    uint64_t acked;
    uint64_t scheduled; /* events that wait until they are due */
    bool full;          /* publishes are refused: below min_free or the disk said so */
    bool read_only;     /* an I/O error stopped the writer: text in `trouble` */
    char trouble[200];
};
void eb_store_info(struct eb_store *store, struct eb_store_info *ret); /* threads: any; cheap */
const char *eb_store_epoch(struct eb_store *store);                    /* constant while open */
uint64_t eb_store_last_seq(struct eb_store *store); /* committed; one atomic load */

/**
 * Moves on before something is deleted and again after it. What was read between two equal answers, and they are still
 * the answer, has not been deleted since.
 */
uint64_t eb_store_deletions(struct eb_store *store);
/** When the next scheduled event is due (wall clock ms), INT64_MAX: there is none. One atomic load. */
int64_t eb_store_next_due(struct eb_store *store);
bool eb_store_in_memory(struct eb_store *store); /* constant while open */

/* Counters, all monotonic. */
struct eb_store_counters {
    uint64_t commits, commit_failures, stored, duplicates, ids_reused, ids_evicted;
    uint64_t acked, expired, retained_out, damaged, refused_full;
    uint64_t commit_us_sum, commit_us_bucket[20]; /* le 2^i * 25 us; the last is +Inf */
    uint64_t checkpoints, checkpoints_held, pages_read, rows_read;
};
void eb_store_counters(struct eb_store *store, struct eb_store_counters *ret);

/* ---- reading ---- */

/** A reader: its own SQLite connection, for one thread at a time. */
int eb_reader_create(struct eb_store *store, struct eb_reader **ret);
void eb_reader_destroy(struct eb_reader *reader);

/**
 * What a stream of events wants: a set of patterns, and what the store has learned about it (the ids of
 * the topics that match, kept up to date from page to page). Owned by the stream, one page at a time.
 */
int eb_selection_create(const struct eb_pattern *patterns, size_t count, struct eb_selection **ret);
void eb_selection_destroy(struct eb_selection *selection);
bool eb_selection_match(const struct eb_selection *selection, const char *topic, size_t len);

enum eb_gap_reason {
    EB_GAP_NONE,
    EB_GAP_RETENTION,
    EB_GAP_EPOCH,
    EB_GAP_DAMAGED,
    EB_GAP_OVERFLOW,
    EB_GAP_DELETED
};
const char *eb_gap_reason_name(enum eb_gap_reason reason);

struct eb_page_item {
    struct eb_event *event;    /* one reference owned by the page, or NULL: a gap */
    uint64_t from_seq, to_seq; /* of the gap */
    enum eb_gap_reason reason;
};
struct eb_page_request {
    uint64_t from; /* first seq wanted, >= 1 */
    uint64_t upto; /* last seq to look at: never beyond what is committed */
    bool pending_only;
    bool all_there_is; /* starting_seq 0 or 1: a deleted prefix makes no gap */
    bool passing; /* its events are given up together: they may share memory (eb_event_create_in) */
    size_t max_events, max_bytes; /* at least one event is given however large */
};
struct eb_page {
    struct eb_page_item *items;
    size_t count, cap;
    uint64_t next; /* first seq not looked at; > upto when the range is through */
    uint64_t
        whole_from; /* from here to `next` all that there is stands in it, whatever its topic; 0: nothing */
};
/**
 * One page: events and gaps in seq order. Short: bounded by max_events, max_bytes and by rows looked at,
 * so `next` may move on with no item; no SQLite statement stays open behind it.
 * Errors: -EIO, -ENOMEM (then ret holds nothing).
 */
int eb_reader_page(struct eb_reader *reader, struct eb_selection *selection,
                   const struct eb_page_request *request, struct eb_page *ret);
void eb_page_finish(struct eb_page *page);
/** One event by seq. 0, -ENOENT (none, deleted or expired), -EBADMSG (damaged), -EIO. */
int eb_reader_event(struct eb_reader *reader, uint64_t seq, struct eb_event **ret);

/**
 * Several at once: @events[i] for @seqs[i], one reference each, or NULL with @errs[i] as eb_reader_event returns it.
 * Stops when the events have @max_bytes (at least one is read). Returns how many seqs were looked at, or -EIO.
 */
ptrdiff_t eb_reader_events(struct eb_reader *reader, const uint64_t *seqs, size_t count,
                           size_t max_bytes, struct eb_event **events, int *errs);
/** The first seq whose event has this timestamp or a later one; last + 1 when there is none. 0 or -EIO. */
int eb_reader_first_at(struct eb_reader *reader, int64_t time_ms, uint64_t *ret);
/**
 * How many events match from @from to @upto, by the index of the segments: what was deleted singly or has expired there
 * is counted, and a @selection of too many topics counts all events. 0 or -EIO, -ENOMEM.
 */
int eb_reader_count(struct eb_reader *reader, struct eb_selection *selection, uint64_t from,
                    uint64_t upto, uint64_t *ret);
/** Seqs of @consumer's dead letters above @after, rising. Returns how many (<= max) or -errno. */
ptrdiff_t eb_reader_dead(struct eb_reader *reader, uint64_t consumer, uint64_t after, uint64_t *ret,
                         size_t max);
/** The newest unexpired event of @topic. 0 with one reference, -ENOENT, -EBADMSG, -EIO, -ENOMEM. */
int eb_reader_last(struct eb_reader *reader, const char *topic, size_t len, struct eb_event **ret);
/** The seqs of the newest unexpired events of all topics that match, not above @upto, rising. *ret is malloc'd. 0 or -errno. */
int eb_reader_last_seqs(struct eb_reader *reader, struct eb_selection *selection, uint64_t upto,
                        uint64_t **ret, size_t *ret_count);

struct eb_scheduled {
    uint64_t place; /* in the order in which they were scheduled, from 1 */
    int64_t due_ms, made_ms;
    struct eb_event *event; /* seq 0; one reference */
};
/** Those behind the place @after by place. Returns how many (<= max) or -errno. */
ptrdiff_t eb_reader_scheduled(struct eb_reader *reader, uint64_t after, struct eb_scheduled *ret,
                              size_t max);

struct eb_topic_info {
    char name[EB_TOPIC_MAX + 1];
    uint8_t len;
};
/** Topics after @after (NULL: from the start) in byte order. Returns how many (<= max) or -errno. */
int eb_reader_topics(struct eb_reader *reader, const char *after, struct eb_topic_info *out,
                     size_t max);
