/*
 * sqlite_internal.h - the SQLite engine from inside: what engine_sqlite.c, append_sqlite.c, open_sqlite.c,
 * trim_sqlite.c, ids_sqlite.c, state_sqlite.c, wal_sqlite.c, read_sqlite.c and seek_sqlite.c share.
 *
 * Keys of shared fields: [I] immutable once open   [a] atomic   [C] commit lock   [S] state_lock   [G] gate.lock
 */
#pragma once

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

#include "broker/store/blocks.h"
#include "broker/store/dedupe.h"
#include "broker/store/engine.h"
#include "broker/store/ids.h"
#include "broker/store/segments.h"
#include "broker/store/wal_file.h"
#include "common/lock.h"

/* ---- topic_ids.c: names to ids, for the writer ---- */

struct eb_topic_known {
    uint32_t id;
    bool reply; /* it is gone with its last event (last_sqlite.c, L3) */
    uint64_t
        last; /* the topic's last seq, this transaction included: exact, or the topic is not known here */
};
struct eb_topic_ids; /* bounded: what does not fit is asked of the file again */
struct eb_topic_ids *eb_topic_ids_create(void);
void eb_topic_ids_destroy(struct eb_topic_ids *ids);
/** NULL: not known. Lives until the next call that changes the cache. */
struct eb_topic_known *eb_topic_ids_get(struct eb_topic_ids *ids, const char *name, size_t len);
void eb_topic_ids_put(struct eb_topic_ids *ids, const char *name, size_t len,
                      struct eb_topic_known known);
void eb_topic_ids_drop(struct eb_topic_ids *ids, const char *name, size_t len);
void eb_topic_ids_clear(struct eb_topic_ids *ids);

/* ---- row_source.c: events as rows of a virtual table ---- */

#define EB_ROW_SOURCE "eb_row_source"
struct eb_row_source {
    struct eb_event *const
        *events; /* with seq, timestamp and topic_id; borrowed while the statement runs */
    size_t count;
};
/** Make the table known to @db; what it holds is whatever @source says at the time. An SQLite code. */
int eb_row_source_register(sqlite3 *db, struct eb_row_source *source);

/* ---- the engine ---- */

/* What a transaction changes in the row of a segment that is written already. */
struct eb_segment_delta {
    uint64_t segment;
    int64_t events, bytes, acked;
};
#define EB_DELTAS 32

/* A table that is looked through in turns for rows that are due; what is not due yet is remembered by its time. */
struct eb_sweep {
    int64_t next; /* nothing is due before; INT64_MIN: not known */
    int64_t min;  /* of the round under way */
    bool under_way;
    uint64_t seq;  /* where the next turn goes on: `acked` */
    uint64_t hold; /* the same: rows from here on were not looked at, they were held; 0: all were */
    uint8_t id[16]; /* the same: `gone` */
};

/* All that a rollback has to bring back. */
struct eb_sqlite_state {
    uint64_t first_seq, last_seq, deleted_upto, events, bytes, acked;
    int64_t last_ts;
    bool tail;          /* last_seq's row is there: the log's last (append_sqlite.c, M1) */
    uint32_t topic_top; /* highest id in `topics`; ids rise, and copies and repairs leave holes */
    uint64_t topics;    /* rows in it */
    /* of the open segment */
    uint64_t open_events, open_bytes, open_acked;
    int64_t open_last_ts;
    bool dead_segments; /* there may be segments without events, whose rows can go */
    struct eb_sweep acked_sweep, gone_sweep;
    int64_t ids_top;                   /* highest part in `ids` */
    bool ids_saved;                    /* there may be pieces of an old snapshot in `ids` */
    bool replies;                      /* there may be rows in `replies` */
    uint64_t scheduled, scheduled_top; /* rows in `scheduled`, highest place given in it */
    int64_t next_due;                  /* INT64_MAX: there are none */
};

/* What meta.saved says of the snapshot (ids_sqlite.c). */
struct eb_saved {
    bool there;
    bool runs; /* it has the window's runs, and no ids that were made; else all ids */
    char epoch[37];
    uint64_t last_seq, ids, max, topics;
    int64_t since_ms;              /* all ids younger than this are in it */
    uint64_t events, bytes, acked; /* of the open segment */
    int64_t last_ts;               /* the same */
    int64_t newest_ts;             /* the log's, at this start: no id of it is newer */
};

/* The ids of the snapshot, which stay in the file (saved_sqlite.c). */
struct eb_saved_ids {
    struct eb_made made;   /* [I] its secret is that of their hash, too */
    unsigned char *filter; /* NULL: there are none, or they are out of the window */
    uint64_t mask;         /* of a bit's place */
    uint64_t buckets;
};

/* Lets readers in, or holds them back for the moment that a checkpoint needs (wal_sqlite.c). */
struct eb_gate {
    struct eb_lock lock;
    pthread_cond_t cond;
    unsigned inside; /* [G] readers that have a page open */
    bool closed;     /* [G] */
};

/* The thread that checkpoints beside the writer (checkpoint_sqlite.c). */
enum eb_checkpoint_state {
    EB_CHECKPOINT_IDLE,
    EB_CHECKPOINT_BUSY,  /* asked for, or under way */
    EB_CHECKPOINT_READY, /* little is left: the writer brings in the rest */
};
struct eb_checkpointer {
    sqlite3 *db;      /* the thread's */
    pthread_t thread; /* [I] */
    bool runs;        /* [I] once started */
    bool syncs;       /* [I] durability = fsync */
    struct eb_lock lock;
    pthread_cond_t cond;
    enum eb_checkpoint_state state; /* [lock] */
    bool stop;                      /* [lock] */
    _Atomic unsigned frames;        /* [a] in the WAL after the last commit */
};

#define EB_DAMAGED_KNOWN 1024
#define EB_SQLITE_KEEP   11 /* statements of state_sqlite.c */

struct eb_sqlite {
    struct eb_engine base;
    char *path, *vfs;                    /* [I] */
    enum eb_durability durability;       /* [I] */
    struct eb_engine_counters *counters; /* [a] */
    int lock_fd;                         /* [I] */

    struct eb_wal_vfs wal_vfs; /* [I] of db */
    sqlite3 *db;               /* [C] and all statements of it */
    sqlite3_stmt *begin, *commit, *rollback, *append, *append_next, *append_plain, *last_row,
        *add_expiry, *add_topic, *find_topic, *topic_name, *get, *ack, *set_meta, *add_delta;
    sqlite3_stmt *due_expiry, *prefix, *victim, *drop_row, *drop_expiry, *drop_acked, *first,
        *due_acked, *due_gone, *drop_gone, *dead_segment, *drop_postings, *drop_segment,
        *any_postings, *drop_range, *drop_acked_range, *add_ids, *drop_ids, *first_run, *last_piece,
        *bucket;
    sqlite3_stmt *keep[EB_SQLITE_KEEP]; /* of state_sqlite.c */
    sqlite3_stmt *keep_last, *add_reply, *drop_replies, *forget_reply, *drop_topic, *drop_list;
    sqlite3_stmt *schedule, *scheduled_find, *unschedule, *due, *drop_due, *next_due;
    struct eb_row_source source;               /* [C] what `append` inserts */
    struct eb_topic_ids *topics;               /* [C] */
    struct eb_segment *open;                   /* [C] being filled */
    struct eb_blocks blocks;                   /* [C] */
    struct eb_sqlite_state now;                /* [C] of the transaction */
    struct eb_sqlite_state was;                /* [C] before it */
    struct eb_segment_delta deltas[EB_DELTAS]; /* [C] */
    unsigned delta_count;                      /* [C] */
    int page_size;                             /* [I] */
    char epoch[37];                            /* [I] */
    struct eb_saved saved;                     /* [I] the snapshot this start may use */
    struct eb_saved_ids cold;                  /* [C] */
    char saved_text[256];                      /* [C] of the one this end has written */
    unsigned wal_frames;                       /* [C] in the WAL after the last commit */
    uint64_t wal_bytes;                        /* [C] length of its file (wal_sqlite.c, K4) */
    unsigned wal_try;  /* [C] frames at which the next checkpoint is tried */
    unsigned wal_owed; /* [C] frames that the last checkpoint left */
    bool wal_held;     /* at the last try another process kept it from starting again (K5) */
    bool wal_shrinks; /* [C] pages given back that the file has not lost yet: a checkpoint is due */

    struct eb_gate gate;
    struct eb_checkpointer checkpointer;

    struct eb_lock state_lock;
    struct eb_engine_figures figures; /* [S] */
    struct eb_segment *shown;         /* [S] the open segment as of the last commit */
    char trouble[200];                /* [C] */

    uint64_t *bad; /* [C] places in `scheduled` that are passed over (scheduled_sqlite.c, S3) */
    size_t bad_count;

    struct eb_lock damaged_lock;
    uint64_t damaged[EB_DAMAGED_KNOWN]; /* [damaged_lock] seqs that were counted and logged */
};

static inline struct eb_sqlite *eb_sqlite_of(struct eb_engine *engine)
{
    return (struct eb_sqlite *)engine;
}

/* engine_sqlite.c */
/** Note what failed in words and return it as -errno. [C] */
int eb_sqlite_failed(struct eb_sqlite *e, int rc, const char *doing);
/** Step a statement that gives no row, and reset it. An SQLite code, SQLITE_OK when done. */
int eb_sqlite_run(sqlite3_stmt *stmt);
/** A value of `meta`, in the open transaction. */
int eb_sqlite_set_meta(struct eb_sqlite *e, const char *key, int64_t value);
/** Change the figures of @seq's segment and of the log, in the open transaction. [C] */
int eb_sqlite_count(struct eb_sqlite *e, uint64_t seq, int64_t events, int64_t bytes,
                    int64_t acked);
/** Count and log a damaged seq, once each. Threads: any. */
void eb_sqlite_damaged(struct eb_sqlite *e, uint64_t from, uint64_t to, const char *why);
void eb_sqlite_show(struct eb_sqlite *e); /* the figures as committed. [C] */

extern const struct eb_engine_ops eb_sqlite_ops;
int eb_sqlite_prepare(struct eb_sqlite *e);

/* append_sqlite.c */
int eb_append_prepare(struct eb_sqlite *e);
int eb_sqlite_append(struct eb_engine *engine, struct eb_event *const *events, size_t count);

/* open_sqlite.c */
void eb_sqlite_close(struct eb_engine *engine, bool clean, int64_t now_ms);

/* state_sqlite.c */
int eb_sqlite_keep_prepare(struct eb_sqlite *e);
int eb_sqlite_keep(struct eb_engine *engine, const struct eb_state_write *write,
                   uint64_t first_seq);
int eb_sqlite_mark(struct eb_engine *engine, const char *name, uint64_t *ret);
int eb_sqlite_load_kept(struct eb_engine *engine, const struct eb_state_loader *loader);

/* trim_sqlite.c */
int eb_sqlite_trim(struct eb_engine *engine, const struct eb_trim_request *request,
                   struct eb_trim_result *ret);
int eb_sqlite_trim_prepare(struct eb_sqlite *e);

/* last_sqlite.c */
int eb_last_prepare(struct eb_sqlite *e);
int eb_last_load(struct eb_sqlite *e); /* at start */
int eb_sqlite_topic_last(struct eb_engine *engine, const char *topic, size_t len, uint64_t *ret);
/** An event of a topic whose first word is _reply is appended. [C] */
int eb_last_reply(struct eb_sqlite *e, uint32_t topic);
/** An event that is deleted. */
struct eb_last_note {
    uint32_t topic;
    uint64_t seq;
};
/** Must its deletion be noted? */
static inline bool eb_last_wants(const struct eb_sqlite *e, uint64_t seq)
{
    return e->now.replies || eb_segment_of(seq) == e->open->number;
}
/**
 * The last seqs of @notes' topics outlive their events, or the topics go with them; in the open transaction. Sorts
 * the notes. [C]
 */
int eb_last_settle(struct eb_sqlite *e, struct eb_last_note *notes, size_t count);

/* newest_sqlite.c */
int eb_sqlite_last(struct eb_engine *engine, void *reader, const char *topic, size_t len,
                   uint64_t upto, struct eb_event **ret);
int eb_sqlite_last_seqs(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                        uint64_t upto, uint64_t **ret, size_t *ret_count);

/* scheduled_sqlite.c */
int eb_scheduled_prepare(struct eb_sqlite *e);
int eb_scheduled_load(struct eb_sqlite *e); /* the figures, at start */
/** In the transaction that ends: what a start need not count. [C] */
int eb_scheduled_settle(struct eb_sqlite *e);
int eb_sqlite_schedule(struct eb_engine *engine, const struct eb_event *event, int64_t due_ms,
                       int64_t now_ms);
int eb_sqlite_scheduled_find(struct eb_engine *engine, const uint8_t id[16], struct eb_event **ret);
int eb_sqlite_unschedule(struct eb_engine *engine, const uint8_t id[16]);
int eb_sqlite_due(struct eb_engine *engine, int64_t now_ms, struct eb_event **ret, size_t max,
                  size_t *ret_count, bool *ret_more);
ptrdiff_t eb_sqlite_scheduled(struct eb_engine *engine, void *reader, uint64_t after,
                              struct eb_scheduled *ret, size_t max);

/* ids_sqlite.c */
/** Keep the ids of deleted events, in the open transaction. [C] */
int eb_ids_add_run(struct eb_sqlite *e, const struct eb_dedupe_entry *list, size_t count);
/** A bounded part of what is out of the window (accepted until @due_ms, or below @from_seq) and of old snapshots. */
int eb_ids_trim(struct eb_sqlite *e, int64_t due_ms, uint64_t from_seq, bool *ret_more);
/** Write the snapshot; the end's last transaction makes it count. [C] */
int eb_ids_save(struct eb_engine *engine, const struct eb_dedupe *dedupe,
                const struct eb_window *window, int64_t since_ms, uint64_t max);
int eb_ids_saved(sqlite3 *db, struct eb_saved *ret);
/** Fill the open segment from the snapshot. False: it is not whole, nothing was filled. */
bool eb_ids_load_segment(struct eb_sqlite *e, struct eb_segment *segment);
/** Tell what the snapshot has. -EBADMSG: it is not whole, and what was told is void (which was told, too). */
int eb_ids_load(struct eb_sqlite *e, int64_t since_ms, const struct eb_engine_ids *tell);

#define EB_IDS_TAIL 4u
/** Length of a row's blob without its checksum, or -EBADMSG. */
int64_t eb_ids_blob(int64_t part, const void *blob, size_t len);
/** Write a row, in the open transaction. @blob has room for EB_IDS_TAIL bytes more. */
int eb_ids_put_part(struct eb_sqlite *e, int64_t part, uint64_t last_seq, int64_t last_ts,
                    unsigned char *blob, size_t len);
int eb_ids_put_list(struct eb_sqlite *e, int64_t part, const struct eb_dedupe_entry *list,
                    size_t count);

/* saved_sqlite.c [C] */
/** Tell the ids of the log's rows and those of deleted events, by seq: what there is without a snapshot. */
int eb_ids_from_log(struct eb_sqlite *e, int64_t since_ms, uint64_t max,
                    const struct eb_engine_ids *tell);
int eb_saved_open(struct eb_sqlite *e); /* at start. 0, or -EBADMSG: the snapshot is not whole */
void eb_saved_close(struct eb_sqlite *e);
/** Of the ids in the snapshot: 0, -ENOENT, or -errno. */
int eb_saved_find(struct eb_engine *engine, const uint8_t id[16], struct eb_dedupe_entry *ret);
/** The ids of this run and those of the last that are in the window still: accepted at @since_ms or later, above @floor. */
int eb_saved_write(struct eb_sqlite *e, const struct eb_dedupe *dedupe, int64_t since_ms,
                   uint64_t floor, uint64_t *ret_count);

/* made_sqlite.c */
/**
 * The secret that ids are made with, at start, behind load_state(): the file's; a new one if there is none or it is not
 * whole; and a new era if the epoch is another than when it was written.
 */
int eb_made_load(struct eb_sqlite *e, struct eb_made *ret);

/* wal_sqlite.c */
#define EB_WAL_FRAMES 8000 /* 32 MiB: the writer waits until the WAL starts again (K5) */
void eb_gate_init(struct eb_gate *gate);
void eb_gate_finish(struct eb_gate *gate);
void eb_gate_enter(struct eb_gate *gate);
void eb_gate_leave(struct eb_gate *gate);
void eb_wal_watch(struct eb_sqlite *e); /* count frames from now on, no automatic checkpoints */
void eb_wal_before_transaction(struct eb_sqlite *e);
int eb_wal_tidy(struct eb_engine *engine, bool *ret_more);

/* checkpoint_sqlite.c */
void eb_checkpointer_init(struct eb_checkpointer *c);
void eb_checkpointer_finish(struct eb_checkpointer *c);
int eb_checkpointer_start(struct eb_engine *engine);
void eb_checkpointer_stop(struct eb_sqlite *e); /* also if it was not started */
/**
 * The WAL is due: true if the writer is to checkpoint by itself now, either what is left or, without a thread or
 * if the thread cannot keep up, all of it. Waits in that last case. [C]
 */
bool eb_checkpointer_turn(struct eb_sqlite *e);

/* read_sqlite.c */
int eb_sqlite_reader_create(struct eb_engine *engine, void **ret);
void eb_sqlite_reader_destroy(struct eb_engine *engine, void *reader);
int eb_sqlite_page(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                   const struct eb_page_request *request, struct eb_page *ret);
int eb_sqlite_event(struct eb_engine *engine, void *reader, uint64_t seq, struct eb_event **ret);
int eb_sqlite_topics(struct eb_engine *engine, void *reader, const char *after,
                     struct eb_topic_info *out, size_t max);

/* seek_sqlite.c */
ptrdiff_t eb_sqlite_events(struct eb_engine *engine, void *reader, const uint64_t *seqs,
                           size_t count, size_t max_bytes, struct eb_event **events, int *errs);
int eb_sqlite_first_at(struct eb_engine *engine, void *reader, int64_t time_ms, uint64_t *ret);
int eb_sqlite_count_matching(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                             uint64_t from, uint64_t upto, uint64_t *ret);
ptrdiff_t eb_sqlite_dead(struct eb_engine *engine, void *reader, uint64_t consumer, uint64_t after,
                         uint64_t *ret, size_t max);
