/*
 * bench_writer.c - how many events a second the way into the log carries: queue, duplicates, group, hook.
 *
 * Against an engine that does nothing (what the store itself costs) and the ring in memory. Chunks are
 * what one read turn of a connection submits at once. To run: meson test --benchmark, in a release build.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"
#include "common/clock.h"
#include "common/uuid.h"

#define EVENTS 1000000u
#define ROUNDS 3

struct bench {
    struct eb_op *ops;
    struct eb_event **events;
    struct eb_op_result *results;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned left; /* [lock] */
};

static void committed(void *ctx, struct eb_op *ops)
{
    struct bench *bench = ctx;
    unsigned count = 0;
    for (; ops; ops = ops->next)
        count++;
    pthread_mutex_lock(&bench->lock);
    bench->left -= count;
    if (!bench->left)
        pthread_cond_signal(&bench->cond);
    pthread_mutex_unlock(&bench->lock);
}

/* ---- the engine that does nothing ---- */

static int null_ok(struct eb_engine *engine)
{
    return 0;
}
static int null_append(struct eb_engine *engine, struct eb_event *event)
{
    return 0;
}
static void null_rollback(struct eb_engine *engine)
{
}
static int null_trim(struct eb_engine *engine, const struct eb_trim_request *request,
                     struct eb_trim_result *ret)
{
    *ret = (struct eb_trim_result){0};
    return 0;
}
static int null_load_ids(struct eb_engine *engine, int64_t since, eb_engine_id_fn *fn, void *ctx)
{
    return 0;
}
static void null_figures(struct eb_engine *engine, struct eb_engine_figures *ret)
{
    *ret = (struct eb_engine_figures){0};
}
static void null_close(struct eb_engine *engine, bool clean, int64_t now_ms)
{
}
static const char *null_trouble(struct eb_engine *engine)
{
    return "";
}

static const struct eb_engine_ops null_ops = {
    .begin = null_ok,
    .append = null_append,
    .commit = null_ok,
    .rollback = null_rollback,
    .trim = null_trim,
    .load_ids = null_load_ids,
    .figures = null_figures,
    .close = null_close,
    .trouble = null_trouble,
};

/* ---- */

static int open_store(bool memory, struct eb_store **ret)
{
    static struct eb_engine null_engine = {&null_ops};
    struct eb_store_config config = {
        .memory_bytes = (size_t)256 << 20,
        .dedupe_window_ms = 600000,
        .dedupe_max = 1000000,
        .acked_retention_ms = -1,
    };
    struct eb_engine_start start = {0};
    struct eb_error err;
    if (memory)
        return eb_store_open(&config, ret, &err);
    return eb_store_create(&config, NULL, &null_engine, &start, ret, &err);
}

static void prepare(struct bench *bench, unsigned chunk)
{
    char payload[128], topic[32];
    memset(payload, 'x', sizeof payload);
    for (unsigned i = 0; i < EVENTS; i++) {
        struct eb_draft draft = {.topic = topic, .payload = payload, .payload_len = sizeof payload};
        draft.topic_len = (size_t)snprintf(topic, sizeof topic, "bench.topic-%u", i % 100);
        eb_uuid_v7(draft.id);
        bench->events[i] = eb_event_create(&draft);
        if (!bench->events[i])
            abort();
        memcpy(bench->events[i]->id, draft.id, sizeof draft.id);
        bench->ops[i] = (struct eb_op){.kind = EB_OP_PUBLISH,
                                       .count = 1,
                                       .events = &bench->events[i],
                                       .results = &bench->results[i]};
        if ((i + 1) % chunk)
            bench->ops[i].next = &bench->ops[i + 1];
    }
    bench->left = EVENTS;
}

static double run(struct bench *bench, bool memory, unsigned chunk)
{
    struct eb_store *store;
    struct eb_store_hooks hooks = {.ctx = bench, .committed = committed};
    prepare(bench, chunk);
    if (open_store(memory, &store) < 0 || eb_store_start(store, &hooks) < 0)
        abort();
    int64_t before = eb_mono_us();
    for (unsigned i = 0; i < EVENTS; i += chunk)
        eb_store_submit(store, &bench->ops[i], &bench->ops[i + chunk - 1]);
    pthread_mutex_lock(&bench->lock);
    while (bench->left)
        pthread_cond_wait(&bench->cond, &bench->lock);
    pthread_mutex_unlock(&bench->lock);
    int64_t us = eb_mono_us() - before;
    eb_store_close(store);
    for (unsigned i = 0; i < EVENTS; i++)
        eb_event_unref(bench->events[i]);
    return EVENTS * 1e6 / (double)us;
}

int main(void)
{
    struct bench bench = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    bench.ops = calloc(EVENTS, sizeof *bench.ops);
    bench.events = calloc(EVENTS, sizeof *bench.events);
    bench.results = calloc(EVENTS, sizeof *bench.results);
    if (!bench.ops || !bench.events || !bench.results)
        return 1;
    for (int memory = 0; memory < 2; memory++)
        for (unsigned chunk = 1; chunk <= 64; chunk *= 64)
            for (int round = 0; round < ROUNDS; round++)
                printf("%-6s chunk %2u: %8.0f events/s\n", memory ? "memory" : "null", chunk,
                       run(&bench, memory, chunk));
    free(bench.ops);
    free(bench.events);
    free(bench.results);
    return 0;
}
