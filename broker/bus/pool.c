/*
 * pool.c - the reader threads `eb-read-N`: pages for streams that replay or lag, and one-off reads.
 *
 * (P1) A stream stands in the run list once, at its tail; a turn reads one page and it goes back to the tail:
 *      round robin, so that a long replay does not hold up a short one.
 * (P2) One-off reads and streams take turns, so that neither starves the other.
 * (P3) A reader holds no lock while it reads (B5); each has its own reader of the store.
 * (P4) A stream that a reader puts back wakes nobody: that reader looks next, and who takes one and leaves more
 *      wakes the next reader. So one replay stays with one reader and its cache, and switches no threads.
 * (P5) A reader that has nothing else to do reads ahead of a replay (ahead.c), and goes on with it as long as pages
 *      are taken: then one thread reads and another encodes.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

struct reader {
    struct eb_pool *pool;
    struct eb_reader *reader;
    pthread_t thread;
    bool started;
};

static _Thread_local bool
    is_reader; /* this thread will look at the run list again by itself (P4) */

struct eb_pool {
    struct eb_bus *bus;  /* [I] */
    struct eb_lock lock; /* EB_RANK_POOL: all below */
    pthread_cond_t work;
    bool stop;
    bool reads_next;       /* P2 */
    struct eb_stream *run; /* each with one reference to its session or subscription */
    struct eb_stream **run_end;
    struct eb_stream *later;
    struct eb_sub *ahead; /* those to be read ahead of, each with one reference */
    struct eb_read *reads;
    struct eb_read **reads_end;
    int64_t autoack_ms; /* <0: nothing waits */
    unsigned count;     /* [I] */
    struct reader readers[];
};

/* ---- one-off reads ---- */

static void refuse_read(struct eb_read *read)
{
    read->next = NULL;
    eb_fail(&read->err, EB_UNAVAILABLE, "the broker is going down");
    read->done(read);
}

void eb_bus_read(struct eb_bus *bus, struct eb_read *read)
{
    struct eb_pool *pool = bus->pool;
    read->next = NULL;
    eb_lock_take(&pool->lock);
    bool stop = pool->stop;
    if (!stop) {
        *pool->reads_end = read;
        pool->reads_end = &read->next;
        pthread_cond_signal(&pool->work);
    }
    eb_lock_drop(&pool->lock);
    if (stop)
        refuse_read(read);
}

/* ---- the run list ---- */

static void append_locked(struct eb_pool *pool, struct eb_stream *stream)
{
    stream->run_next = NULL;
    *pool->run_end = stream;
    pool->run_end = &stream->run_next;
    if (!is_reader)
        pthread_cond_signal(&pool->work);
}

void eb_pool_run(struct eb_pool *pool, struct eb_stream *stream)
{
    eb_lock_take(&pool->lock);
    append_locked(pool, stream);
    eb_lock_drop(&pool->lock);
}

void eb_pool_run_later(struct eb_pool *pool, struct eb_stream *stream, int64_t delay_ms)
{
    stream->due_ms = eb_mono_ms() + delay_ms;
    eb_lock_take(&pool->lock);
    stream->run_next = pool->later;
    pool->later = stream;
    pthread_cond_signal(&pool->work);
    eb_lock_drop(&pool->lock);
}

void eb_pool_autoack_due(struct eb_pool *pool, int64_t due_ms)
{
    eb_lock_take(&pool->lock);
    pool->autoack_ms = due_ms;
    pthread_cond_signal(&pool->work);
    eb_lock_drop(&pool->lock);
}

void eb_pool_ahead(struct eb_pool *pool, struct eb_sub *sub)
{
    eb_lock_take(&pool->lock);
    sub->ahead_next = pool->ahead;
    pool->ahead = sub;
    pthread_cond_signal(&pool->work);
    eb_lock_drop(&pool->lock);
}

void eb_pool_wake(struct eb_pool *pool)
{
    eb_lock_take(&pool->lock);
    pthread_cond_signal(&pool->work);
    eb_lock_drop(&pool->lock);
}

/* Put what has slept long enough back; when the next one is due, or -1. */
static int64_t wake_sleepers_locked(struct eb_pool *pool, int64_t now)
{
    int64_t due = pool->autoack_ms;
    for (struct eb_stream **place = &pool->later; *place != NULL;) {
        struct eb_stream *stream = *place;
        if (stream->due_ms <= now) {
            *place = stream->run_next;
            append_locked(pool, stream);
            continue;
        }
        if (due < 0 || stream->due_ms < due)
            due = stream->due_ms;
        place = &stream->run_next;
    }
    return due;
}

static struct eb_stream *take_stream_locked(struct eb_pool *pool)
{
    struct eb_stream *stream = pool->run;
    if (stream == NULL)
        return NULL;
    pool->run = stream->run_next;
    if (pool->run == NULL)
        pool->run_end = &pool->run;
    stream->run_next = NULL;
    return stream;
}

static struct eb_sub *take_ahead_locked(struct eb_pool *pool)
{
    struct eb_sub *sub = pool->ahead;
    if (sub != NULL)
        pool->ahead = sub->ahead_next;
    return sub;
}

static struct eb_read *take_read_locked(struct eb_pool *pool)
{
    struct eb_read *read = pool->reads;
    if (read == NULL || (!pool->reads_next && pool->run != NULL))
        return NULL;
    pool->reads = read->next;
    if (pool->reads == NULL)
        pool->reads_end = &pool->reads;
    return read;
}

static void *reader_main(void *arg)
{
    struct reader *self = arg;
    struct eb_pool *pool = self->pool;
    is_reader = true;
    eb_lock_take(&pool->lock);
    while (!pool->stop) {
        int64_t now = eb_mono_ms();
        int64_t due = wake_sleepers_locked(pool, now);
        bool autoack = pool->autoack_ms >= 0 && pool->autoack_ms <= now;
        struct eb_read *read = autoack ? NULL : take_read_locked(pool);
        struct eb_stream *stream = autoack || read != NULL ? NULL : take_stream_locked(pool);
        struct eb_sub *ahead =
            autoack || read != NULL || stream != NULL ? NULL : take_ahead_locked(pool);
        if (autoack)
            pool->autoack_ms = -1;
        if (!autoack && read == NULL && stream == NULL && ahead == NULL) {
            eb_cond_wait(&pool->work, &pool->lock, due);
            continue;
        }
        if (!autoack)
            pool->reads_next = read == NULL;
        if (pool->run != NULL || pool->reads != NULL || pool->ahead != NULL)
            pthread_cond_signal(&pool->work);
        eb_lock_drop(&pool->lock);
        if (autoack)
            eb_autoack_flush(pool->bus->autoack);
        else if (read != NULL)
            eb_read_do(pool->bus, self->reader, read);
        else if (ahead != NULL)
            eb_ahead_run(ahead, self->reader);
        else
            eb_stream_turn(stream, self->reader);
        eb_lock_take(&pool->lock);
    }
    eb_lock_drop(&pool->lock);
    return NULL;
}

/* ---- life ---- */

int eb_pool_create(struct eb_bus *bus, unsigned readers, struct eb_pool **ret)
{
    struct eb_pool *pool = calloc(1, sizeof(*pool) + readers * sizeof(pool->readers[0]));
    int rc = 0;
    if (pool == NULL)
        return -ENOMEM;
    pool->bus = bus;
    pool->count = readers;
    pool->run_end = &pool->run;
    pool->reads_end = &pool->reads;
    pool->autoack_ms = -1;
    eb_lock_init(&pool->lock, EB_RANK_POOL);
    eb_cond_init(&pool->work);
    for (unsigned i = 0; rc == 0 && i < readers; i++) {
        struct reader *reader = &pool->readers[i];
        char name[20];
        reader->pool = pool;
        rc = eb_reader_create(bus->store, &reader->reader);
        if (rc == 0)
            rc = -pthread_create(&reader->thread, NULL, reader_main, reader);
        if (rc < 0)
            break;
        reader->started = true;
        snprintf(name, sizeof(name), "eb-read-%u", i);
        pthread_setname_np(reader->thread, name);
    }
    if (rc < 0) {
        eb_pool_stop(pool);
        eb_pool_destroy(pool);
        return rc;
    }
    *ret = pool;
    return 0;
}

/* Streams that still have a place leave it. */
static void drop_streams(struct eb_pool *pool)
{
    struct eb_stream *stream;
    for (;;) {
        eb_lock_take(&pool->lock);
        wake_sleepers_locked(pool, INT64_MAX);
        stream = take_stream_locked(pool);
        struct eb_sub *ahead = take_ahead_locked(pool);
        eb_lock_drop(&pool->lock);
        if (stream == NULL && ahead == NULL)
            break;
        if (stream != NULL)
            eb_stream_unref_place(stream);
        eb_sub_unref(ahead);
    }
}

void eb_pool_stop(struct eb_pool *pool)
{
    eb_lock_take(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    eb_lock_drop(&pool->lock);
    for (unsigned i = 0; i < pool->count; i++) {
        struct reader *reader = &pool->readers[i];
        if (reader->started)
            pthread_join(reader->thread, NULL);
        reader->started = false;
        eb_reader_destroy(reader->reader);
        reader->reader = NULL;
    }
    eb_lock_take(&pool->lock);
    struct eb_read *reads = pool->reads;
    pool->reads = NULL;
    pool->reads_end = &pool->reads;
    eb_lock_drop(&pool->lock);
    for (struct eb_read *next; reads != NULL; reads = next) {
        next = reads->next;
        refuse_read(reads);
    }
    drop_streams(pool);
}

void eb_pool_destroy(struct eb_pool *pool)
{
    if (pool == NULL)
        return;
    drop_streams(pool);
    pthread_cond_destroy(&pool->work);
    eb_lock_finish(&pool->lock);
    free(pool);
}
