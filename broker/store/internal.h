/*
 * internal.h - the store from inside: what store.c, writer.c, janitor.c and space.c share.
 *
 * Keys of shared fields: [I] immutable once open (hooks: once started)   [a] atomic
 *   [Q] queue_lock   [C] commit_lock   [S] state_lock   [W] the writer (without a writer thread: [C])
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "broker/store/dedupe.h"
#include "broker/store/engine.h"
#include "broker/store/made.h"
#include "broker/store/window.h"
#include "common/lock.h"

#define EB_GROUP_EVENTS   4096
#define EB_GROUP_BYTES    ((size_t)8 << 20)
#define EB_SPACE_CACHE_MS 200  /* how long one look at the disk is believed */
#define EB_RETRY_MS       1000 /* how often a log that cannot be written is tried again */
#define EB_JANITOR_MS     1000

/* What the store asks of its surroundings; tests put theirs here. */
struct eb_store_env {
    void *ctx;
    int64_t (*wall_ms)(void *ctx);
    int64_t (*mono_ms)(void *ctx);
    /** Free bytes of the disk that holds @path, 0 or -errno. */
    int (*free_bytes)(void *ctx, const char *path, uint64_t *ret);
};
extern const struct eb_store_env eb_store_env_real;

/* What may change while it runs (eb_store_reconfigure). */
struct eb_store_tune {
    int64_t dedupe_window_ms;
    size_t dedupe_max;
    int64_t retention_age_ms;
    uint64_t retention_bytes, retention_events;
    int64_t acked_retention_ms;
    uint64_t min_free;
    uint64_t max_scheduled;
};

struct eb_space {
    _Atomic int64_t checked_at; /* [a] mono ms of the last look, INT64_MIN: never */
    _Atomic uint64_t free;      /* [a] less what the WAL still brings; UINT64_MAX: unknown */
    _Atomic uint64_t written;   /* [a] bytes stored since that look */
    atomic_bool low;            /* [a] below min_free: moves in eb_space_low() only */
};

struct eb_store_stats { /* [a] relaxed; written under the commit lock */
    _Atomic uint64_t commits, commit_failures, stored, duplicates, ids_reused, ids_evicted;
    _Atomic uint64_t acked, expired, retained_out, refused_full;
    _Atomic uint64_t commit_us_sum, commit_us_bucket[20];
};

/* How much of a group may be written; each step down is taken when the one above failed. */
enum eb_group_mode {
    EB_GROUP_ALL,
    EB_GROUP_NO_PUBLISH, /* no room: acks and the broker's own events only */
    EB_GROUP_NO_WRITE,   /* nothing that needs a row: fences and pure duplicates are answered */
};

/* Which of a group's events is its topic's last (tails.c). Begins zeroed but for the key. */
struct eb_tails {
    uint32_t *slots;  /* 1 + place in group->fresh; 0: empty */
    uint32_t *before; /* by place: what stood in the slot */
    uint32_t cap;
    size_t known; /* of group->fresh, so many are in it */
    uint64_t key;
};

/* One transaction while it is built. */
struct eb_group {
    enum eb_group_mode mode;
    struct eb_error refusal; /* what those get that the mode keeps out */
    bool begun;              /* the engine's transaction is open */
    uint64_t base;           /* last seq before it */
    int64_t now;             /* timestamp of all its events (S6) */
    uint64_t mark;           /* of the dedupe table, to undo */
    struct eb_event **fresh; /* fresh[i] has seq base + 1 + i; memory kept from group to group */
    size_t count, cap;
    size_t appended; /* the engine has these of them */
    uint64_t bytes;  /* of its new events */
    struct eb_tails tails;
    uint64_t max_scheduled;
    uint64_t scheduled_before; /* store->scheduled when it was begun */
    uint64_t waiting;          /* members that were scheduled */
    bool schedule_moved;       /* there is more or less that waits */
    uint64_t duplicates, reused, acked, refused_full;
    struct eb_trim_result trimmed; /* what it deleted on the way */
};

struct eb_store {
    struct eb_store_config config;             /* [I] path and vfs are copies */
    struct eb_store_env env;                   /* [I] */
    struct eb_store_hooks hooks;               /* [I] */
    struct eb_engine *engine;                  /* [I]; its [C] calls under commit_lock */
    struct eb_engine_counters engine_counters; /* [a] */
    char epoch[37];                            /* [I] */
    bool started;                              /* [I] */
    pthread_t writer, janitor;                 /* [I] */

    struct eb_lock queue_lock;
    pthread_cond_t writer_cond, janitor_cond;
    struct eb_op *head, *tail; /* [Q] submitted, not yet taken by the writer */
    bool writer_sleeps;        /* [Q] waits for work: a submit must signal */
    bool stopping;             /* [Q] the writer ends when nothing is left */
    bool janitor_stop;         /* [Q] */
    bool janitor_asks;         /* [Q] wants a turn after the writer's next group */
    bool janitor_turn;         /* [Q] the writer waits until it is over */
    bool inline_turn;          /* [Q] a submitter commits, the writer waits until it is over */

    struct eb_lock commit_lock;
    struct eb_op *backlog, *backlog_tail; /* [W] taken from the queue, not yet in a group */
    struct eb_dedupe dedupe;              /* [C] ids that publishers gave */
    struct eb_made made;                  /* [I] makes the others, and knows them again */
    struct eb_window window;              /* [C] how many are remembered */
    struct eb_group group;                /* [C] */
    uint64_t given;                       /* [C] last seq given */
    int64_t last_timestamp;               /* [C] */
    int64_t retry_at;    /* [C] mono ms: nothing is written before, when read_only or disk_full */
    uint64_t full_free;  /* [C] free bytes when the disk was last full */
    unsigned trim_rows;  /* [C] janitor: rows of one step, by how long they take */
    uint64_t scheduled;  /* [C] events that wait, this transaction's included */
    bool trim_behind;    /* [C] retention has more to delete: each group takes a part with it */
    bool join_vain;      /* [C] a group that tried had nothing to delete (all is held), or failed */
    uint64_t joined_out; /* [C] what groups have deleted since the janitor's last step */

    struct eb_lock state_lock;
    struct eb_store_tune tune; /* [S] */
    char trouble[200];         /* [S] */

    _Atomic uint64_t hold;      /* [a] eb_store_hold; 0: nothing is held */
    _Atomic uint64_t deletions; /* [a] eb_store_deletions */
    _Atomic uint64_t last_seq;  /* [a] committed */
    _Atomic int64_t next_due;   /* [a] eb_store_next_due */
    atomic_bool read_only;      /* [a] moves in eb_store_failed() and eb_store_recovered() only */
    atomic_bool disk_full;      /* [a] the same: the disk itself said so */
    _Atomic uint64_t dedupe_ids;
    _Atomic int64_t dedupe_oldest; /* [a] timestamp, INT64_MIN: none */
    struct eb_store_stats stats;
    struct eb_space space;
};

struct eb_reader {
    struct eb_store *store;
    void *impl; /* the engine's */
};

/**
 * A store on an engine that is open already; @env NULL: the real one. On success the engine belongs to
 * the store, on failure still to the caller.
 */
int eb_store_create(const struct eb_store_config *config, const struct eb_store_env *env,
                    struct eb_engine *engine, const struct eb_engine_start *start,
                    struct eb_store **ret, struct eb_error *err);

/* store.c */
void eb_store_tune_get(struct eb_store *store, struct eb_store_tune *ret);
/** Log time now: wall time that never runs backward. [C] */
int64_t eb_store_now_locked(struct eb_store *store);
/** A write failed: note the state that follows from @rc and say so once. [C] */
void eb_store_failed_locked(struct eb_store *store, int rc);
/** A write worked: @published says that it held an event (only that proves there is room). [C] */
void eb_store_recovered_locked(struct eb_store *store, bool published);
/** At log time @now: ids that are older than the window are known no more. [C] */
void eb_store_expire_ids_locked(struct eb_store *store, const struct eb_store_tune *tune,
                                int64_t now);
/** No more than dedupe_max are remembered; and show the figures to eb_store_info. [C] */
void eb_store_bound_ids_locked(struct eb_store *store, const struct eb_store_tune *tune);

/* writer.c */
void *eb_writer_thread(void *store);
/** Commit all that is queued on the caller's thread: no writer thread runs (tests, close before start). */
void eb_writer_drain(struct eb_store *store);

/* Of a group that is being built [C]; a refusal needs op->err and 1. */
void eb_group_refuse(struct eb_op *op, const struct eb_group *group, int index);
/** May a new event enter? 0, or 1 with op->err. */
int eb_group_check_new(struct eb_store *store, struct eb_op *op, uint32_t i);
int eb_group_begin(struct eb_store *store);
int eb_group_room(struct eb_group *group, size_t more);
/** The next seq is @event's, and so its id if that is to be made. There is room. */
void eb_group_add(struct eb_store *store, struct eb_event *event);
/** The event of this group that has @seq, or NULL. */
struct eb_event *eb_group_fresh(const struct eb_group *group, uint64_t seq);

/* repeats.c [C] */
/** What tells a repeat from another event under the same id; NULL: it is a repeat. */
const char *eb_group_difference(const struct eb_event *a, const struct eb_event *b);
/**
 * Does a member repeat an event of the log? *ret_repeat: it does and has its result; @op_first: events of the group before
 * the op's. Else an id that was given is in the table from now on, with the next seq. 0, 1 (refused), -errno.
 */
int eb_repeat_check(struct eb_store *store, struct eb_op *op, uint32_t i, size_t op_first,
                    bool *ret_repeat);
/** The seq of the event of the log that has @id, or had it inside the window; 0: there is none. */
uint64_t eb_repeat_seq(struct eb_store *store, const uint8_t id[16]);

/* tails.c [C] */
/** Seq of the last event of the topic among group->fresh, 0: there is none. 0 or -ENOMEM. */
int eb_tails_find(struct eb_group *group, const char *topic, size_t len, uint64_t *ret);
void eb_tails_cut(struct eb_group *group, size_t count); /* before group->count falls to @count */
void eb_tails_clear(struct eb_group *group);             /* before group->fresh is filled anew */
void eb_tails_finish(struct eb_group *group);

/* asks.c [C] */
/**
 * Judge a member that is no repeat of an event, when it asks something or something waits. *ret_done: it has its
 * result. 0, 1 (refused, op->err says why), -errno.
 */
int eb_asked_member(struct eb_store *store, struct eb_op *op, uint32_t i, bool *ret_done);
/** The op is refused: what its first @count members have scheduled goes. */
int eb_asked_take_back(struct eb_store *store, struct eb_op *op, uint32_t count);
int eb_asked_unschedule(struct eb_store *store, struct eb_op *op);
int eb_asked_due(struct eb_store *store, struct eb_op *op);
/** Show what the engine has committed: how many wait, until when. */
void eb_asked_show(struct eb_store *store);

/* janitor.c */
void *eb_janitor_thread(void *store);
/**
 * Delete in the transaction of a group that is judged what retention wants, about as many events as the group brings, so
 * that a log at its bound needs one sync and not two; before their rows are written, which then find its pages free.
 * Nothing unless the janitor has found that it is behind. [C]
 */
int eb_janitor_join_locked(struct eb_store *store, const struct eb_store_tune *tune);
/** One step. [C] @ret_more: there is more to do at once. */
void eb_janitor_step_locked(struct eb_store *store, bool *ret_more);

/* space.c */
void eb_space_init(struct eb_space *space);
/** Free bytes as of now or at most EB_SPACE_CACHE_MS ago. 0 with storage = memory. Threads: any. */
uint64_t eb_space_free(struct eb_store *store);
/** Is there less than min_free? Logs when that changes. @ret_free: for the message. */
bool eb_space_low(struct eb_store *store, uint64_t min_free, uint64_t *ret_free);
/** "12.3 MiB" */
const char *eb_space_text(char *buf, size_t size, uint64_t bytes);
