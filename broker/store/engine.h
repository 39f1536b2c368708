/*
 * engine.h - where the log is kept: what the SQLite file and the ring in memory have to offer the store.
 *
 * store.c/writer.c own order, seqs, timestamps, duplicates and tickets; an engine owns rows. Everything
 * marked [C] is called under the commit lock only (one thread at a time); [R] belongs to a reader's
 * thread; [A] any thread. Return 0 or -errno (-ENOSPC: disk full, -EIO: the rest that is lasting,
 * -EBADMSG: damaged, -ENOENT: no such row); `why` of eb_engine_trouble says it in words.
 */
#pragma once

#include "broker/store/dedupe.h"
#include "broker/store/made.h"
#include "broker/store/store.h"
#include "broker/store/window.h"

struct eb_engine {
    const struct eb_engine_ops *ops;
};

/* What the log was when it was opened; the store goes on from there. */
struct eb_engine_start {
    char epoch[37];
    uint64_t last_seq;      /* highest ever given, also if its event is gone */
    int64_t last_timestamp; /* of the log, for (S6) */
    struct eb_made made;    /* makes ids, and knows those of earlier runs */
};

/* Where load_ids tells what is inside the dedupe window. */
struct eb_engine_ids {
    void *ctx;
    /* Of a retained event, or of one deleted meanwhile. */
    void (*id)(void *ctx, const uint8_t id[16], uint64_t seq, int64_t timestamp);
    /* Seqs whose ids are inside the window, those that were made among them, which may not be told one by one. */
    void (*run)(void *ctx, const struct eb_window_run *run);
    void (*again)(void *ctx); /* what was told so far is void */
};

struct
    eb_engine_figures { /* plain numbers, kept by the engine, copied under its own EB_RANK_STORE_STATE lock */
    uint64_t first_seq, deleted_upto, events, bytes, wal_bytes, topics, acked;
    uint64_t scheduled;
    int64_t next_due_ms;        /* INT64_MAX: nothing is scheduled */
    uint64_t wal_pending_bytes; /* what checkpoints still have to bring into the file */
};

/* One short turn of deletion. Zeroes: nothing of that kind. */
struct eb_trim_request {
    int64_t now_ms;
    int64_t age_ms;     /* delete the prefix older than this */
    uint64_t max_bytes; /* delete the prefix until the log is no larger */
    uint64_t max_events;
    uint64_t
        coming; /* events that this transaction appends afterwards: max_events leaves them room */
    int64_t acked_ms;         /* -1 off; delete single events acknowledged for longer */
    int64_t dedupe_window_ms; /* ids of deleted events younger than this are kept in `gone` */
    uint64_t
        hold_from; /* age, max_bytes, max_events and acked_ms delete nothing at or above; 0: nothing is held */
    uint64_t dedupe_from_seq; /* ids of events below are known no more, so they need not be kept */
    const struct eb_dedupe *
        dedupe; /* has all that were given, in the order of seqs. May be NULL: then rows are asked */
    const struct eb_made *made; /* knows the others, which need not be kept. May be NULL */
    unsigned max_rows;          /* bound of this turn */
};
struct eb_trim_result {
    uint64_t expired, retained_out, acked_out; /* deleted in this turn, by reason */
    bool more;                                 /* the turn ended at its bound */
};

struct eb_engine_ops {
    void (*close)(struct eb_engine *engine, bool clean, int64_t now_ms);

    /* Threads of its own, before the store's. close ends them. May be NULL. */
    int (*start)(struct eb_engine *engine);

    /* [C] one transaction: begin, any of append/ack/trim, then commit or rollback. */
    int (*begin)(struct eb_engine *engine);
    /* seq, timestamp, ttl, id set; each seq is the one before it + 1. What fails fails the transaction. */
    int (*append)(struct eb_engine *engine, struct eb_event *const *events, size_t count);
    int (*ack)(struct eb_engine *engine, uint64_t seq,
               int64_t now_ms); /* of a deleted or acked event: 0 */
    /* One write of an op (state.h). @first_seq: of the op's own first event, for dead_add. May be NULL: nothing is kept. */
    int (*state)(struct eb_engine *engine, const struct eb_state_write *write, uint64_t first_seq);
    /* The topic's last seq ever given, deleted or not, of what is appended; 0: none. */
    int (*topic_last)(struct eb_engine *engine, const char *topic, size_t len, uint64_t *ret);
    /* Events that wait (PROTOCOL 8). NULL, all of them: not kept. `find` and `due` give one reference. */
    int (*schedule)(struct eb_engine *engine, const struct eb_event *event, int64_t due_ms,
                    int64_t now_ms);
    int (*scheduled_find)(struct eb_engine *engine, const uint8_t id[16], struct eb_event **ret);
    int (*unschedule)(struct eb_engine *engine, const uint8_t id[16]); /* -ENOENT */
    /*
     * Takes up to @max that are due off the table, by due time and place; *ret_count of them, less than @max also when
     * they are many bytes: *ret_more. -EBADMSG: the table cannot be read, and nothing was taken.
     */
    int (*due)(struct eb_engine *engine, int64_t now_ms, struct eb_event **ret, size_t max,
               size_t *ret_count, bool *ret_more);
    int (*commit)(struct eb_engine *engine);    /* durable as configured when it returns 0 */
    void (*rollback)(struct eb_engine *engine); /* also after a failed commit */
    int (*trim)(struct eb_engine *engine, const struct eb_trim_request *request,
                struct eb_trim_result *ret);
    /* [C] between transactions: checkpoint and give free pages back, one bounded step. May be NULL. */
    int (*tidy)(struct eb_engine *engine, bool *ret_more);
    /*
     * [C] between transactions: write something harmless and make it durable, to see whether writes work
     * again. May be NULL: then an empty transaction has to do.
     */
    int (*probe)(struct eb_engine *engine);
    /* [C] the writer's own view, uncommitted rows included; expired ones too. -ENOENT, -EBADMSG. */
    int (*lookup)(struct eb_engine *engine, uint64_t seq, struct eb_event **ret);
    /* [C] before start */
    int (*load_state)(struct eb_engine *engine, const struct eb_state_loader *loader);
    int (*mark)(struct eb_engine *engine, const char *name,
                uint64_t *ret); /* 0 when there is none */
    /*
     * [C] before start: every id younger than @since_ms, in seq order; not more than the newest @max matter. Those
     * that were made may be left out, and those that find_id finds.
     */
    int (*load_ids)(struct eb_engine *engine, int64_t since_ms, uint64_t max,
                    const struct eb_engine_ids *tell);
    /*
     * [C] before an orderly close: keep what load_ids will be asked for. Of the newest @max ids of those younger than
     * @since_ms, @dedupe has those that were given, and @window the seqs of all. May fail, may be NULL.
     */
    int (*save_ids)(struct eb_engine *engine, const struct eb_dedupe *dedupe,
                    const struct eb_window *window, int64_t since_ms, uint64_t max);
    /*
     * [C] an id that load_ids has not told, as it is kept where it lies: 0 (it may be out of the window), -ENOENT or
     * -errno. May be NULL: all are told.
     */
    int (*find_id)(struct eb_engine *engine, const uint8_t id[16], struct eb_dedupe_entry *ret);

    /* [R] */
    int (*reader_create)(struct eb_engine *engine, void **ret);
    void (*reader_destroy)(struct eb_engine *engine, void *reader);
    int (*page)(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                const struct eb_page_request *request, struct eb_page *ret);
    int (*event)(struct eb_engine *engine, void *reader, uint64_t seq, struct eb_event **ret);
    /* As eb_reader_events, of seqs that are committed or 0. */
    ptrdiff_t (*events)(struct eb_engine *engine, void *reader, const uint64_t *seqs, size_t count,
                        size_t max_bytes, struct eb_event **events, int *errs);
    int (*topics)(struct eb_engine *engine, void *reader, const char *after,
                  struct eb_topic_info *out, size_t max);
    /* UINT64_MAX: there is none. */
    int (*first_at)(struct eb_engine *engine, void *reader, int64_t time_ms, uint64_t *ret);
    int (*count)(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                 uint64_t from, uint64_t upto, uint64_t *ret);
    ptrdiff_t (*dead)(struct eb_engine *engine, void *reader, uint64_t consumer, uint64_t after,
                      uint64_t *ret, size_t max);
    int (*last)(struct eb_engine *engine, void *reader, const char *topic, size_t len,
                uint64_t upto, struct eb_event **ret);
    int (*last_seqs)(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                     uint64_t upto, uint64_t **ret, size_t *ret_count);
    ptrdiff_t (*scheduled)(struct eb_engine *engine, void *reader, uint64_t after,
                           struct eb_scheduled *ret, size_t max);

    /* [A] */
    void (*figures)(struct eb_engine *engine, struct eb_engine_figures *ret);
    const char *(*trouble)(
        struct eb_engine *engine); /* the last failure in words; static or engine-owned */
};

/* Counters that engines bump where they happen (all atomic, relaxed). */
struct eb_engine_counters {
    _Atomic uint64_t damaged, pages_read, rows_read, checkpoints, checkpoints_held;
};

int eb_engine_sqlite_open(const struct eb_store_config *config, struct eb_engine_counters *counters,
                          struct eb_engine **ret, struct eb_engine_start *ret_start,
                          struct eb_error *err);
int eb_engine_memory_open(const struct eb_store_config *config, struct eb_engine_counters *counters,
                          struct eb_engine **ret, struct eb_engine_start *ret_start,
                          struct eb_error *err);

/* ---- selection.c: shared by both engines ---- */

struct eb_selection {
    uint64_t number; /* no other has had it, in this process; not 0 */
    struct eb_pattern *patterns;
    size_t count;
    bool all; /* some pattern is "#": everything but reserved topics */
    /* SQLite's: ids of the matching topics, known for all topic ids <= upto; `many` = too many to list, scan instead */
    uint32_t *ids;
    size_t id_count, id_cap;
    uint32_t upto;
    bool many;
    void *engine_state; /* freed with free() */
};

/* ---- page.c: shared by both engines ---- */

/** Append; takes over the event's reference. -ENOMEM frees it. */
int eb_page_add_event(struct eb_page *page, struct eb_event *event);
/** Append a gap, or widen the one at the end if it touches and has the same reason. */
int eb_page_add_gap(struct eb_page *page, uint64_t from, uint64_t to, enum eb_gap_reason reason);
