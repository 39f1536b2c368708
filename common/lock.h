/*
 * lock.h - mutexes with a rank. A thread only ever takes a lock of a higher number than those it
 * holds; with EB_LOCK_CHECK (every build but release) a wrong take aborts and names both locks.
 * This list is the one lock order; docs/architecture.md says the same with reasons.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* X(rank, what it protects) - outermost first. */
#define EB_LOCK_RANKS(X)                                                                           \
    X(EB_RANK_BROKER, "start/stop state of a broker")                                              \
    X(EB_RANK_CLIENT, "client: connection state, in-flight table, subscriptions")                  \
    X(EB_RANK_CONNECTIONS, "net: list of connections")                                             \
    X(EB_RANK_COMMIT, "store: the writer's SQLite connection and the right to dispatch")           \
    X(EB_RANK_SHARD, "bus: one shard's subscriber lists and match cache")                          \
    X(EB_RANK_WORKERS, "net: the consumers that one WebSocket works for")                          \
    X(EB_RANK_CONSUMER, "bus: one consumer's worklist, workers, requests; the list of consumers")  \
    X(EB_RANK_SESSION, "bus: one session's outbound queue, cursor, stream states")                 \
    X(EB_RANK_STORE_QUEUE, "store: operations waiting for the writer")                             \
    X(EB_RANK_STORE_STATE, "store: shared figures (open segment, retention, space)")               \
    X(EB_RANK_POOL, "bus: run list of the reader pool")                                            \
    X(EB_RANK_FLUSHER, "net: one flusher's list of dirty connections")                             \
    X(EB_RANK_RESUME, "net: HTTP requests to be resumed")                                          \
    X(EB_RANK_LEAF, "small private tables; takes nothing but the log sink")                        \
    X(EB_RANK_LOG_SINK, "the log output")

enum eb_lock_rank {
#define X(rank, what) rank,
    EB_LOCK_RANKS(X)
#undef X
        EB_LOCK_RANK_COUNT
};

struct eb_lock {
    pthread_mutex_t mutex;
    uint8_t rank;
};

/* For locks that live as long as the process. */
#define EB_LOCK_INIT(rank_)                                                                        \
    {                                                                                              \
        .mutex = PTHREAD_MUTEX_INITIALIZER, .rank = (rank_)                                        \
    }

void eb_lock_init(struct eb_lock *lock, enum eb_lock_rank rank);
void eb_lock_finish(struct eb_lock *lock);
void eb_lock_take(struct eb_lock *lock);
bool eb_lock_try(struct eb_lock *lock);
void eb_lock_drop(struct eb_lock *lock);
/** Abort (EB_LOCK_CHECK only) unless this thread holds @lock: for the functions called *_locked. */
void eb_lock_assert_held(struct eb_lock *lock);
/** Abort (EB_LOCK_CHECK only) if this thread holds any lock: before I/O and callbacks. */
void eb_lock_assert_none(void);

/** Condition variables wait on CLOCK_MONOTONIC. */
void eb_cond_init(pthread_cond_t *cond);
/** Wait; the rank bookkeeping follows. @deadline_ms is eb_mono_ms() time, <0 = for ever. Returns 0 or ETIMEDOUT. */
int eb_cond_wait(pthread_cond_t *cond, struct eb_lock *lock, int64_t deadline_ms);
