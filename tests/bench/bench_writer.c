/*
 * bench_writer.c - how many events a second the way into the log carries: queue, duplicates, group, hook.
 *
 * Against an engine that does nothing (what the store itself costs), the ring in memory, and a file that is
 * synced: there by the size of the groups, with the CPU time of the thread that commits (bench_store has the bare
 * SQLite insert beside). 128-byte events over 100 topics. Chunks are what one read turn of a connection submits
 * at once. To run: meson test --benchmark, in a release build; system calls: strace -c -f bench_writer sqlite.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/store/internal.h"
#include "common/clock.h"
#include "common/uuid.h"

#define EVENTS 1000000u
#define ROUNDS 3

enum storage { NOTHING, MEMORY, SQLITE };

struct bench {
    char folder[32];
    unsigned events; /* of this run */
    struct eb_op *ops;
    struct eb_event **events_made;
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
static int null_append(struct eb_engine *engine, struct eb_event *const *events, size_t count)
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
static int null_load_ids(struct eb_engine *engine, int64_t since, uint64_t max,
                         const struct eb_engine_ids *tell)
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

static int open_store(struct bench *bench, enum storage storage, size_t group,
                      struct eb_store **ret)
{
    static struct eb_engine null_engine = {&null_ops};
    char path[64];
    struct eb_store_config config = {
        .memory_bytes = (size_t)256 << 20,
        .dedupe_window_ms = 600000,
        .dedupe_max = 1000000,
        .acked_retention_ms = -1,
        .group_events = group,
    };
    struct eb_engine_start start = {0};
    struct eb_error err;
    snprintf(path, sizeof path, "%s/log.db", bench->folder);
    if (storage == SQLITE)
        config.path = path;
    if (storage == NOTHING)
        return eb_store_create(&config, NULL, &null_engine, &start, ret, &err);
    return eb_store_open(&config, ret, &err);
}

static void prepare(struct bench *bench, unsigned chunk)
{
    char payload[128], topic[32];
    memset(payload, 'x', sizeof payload);
    for (unsigned i = 0; i < bench->events; i++) {
        struct eb_draft draft = {.topic = topic, .payload = payload, .payload_len = sizeof payload};
        draft.topic_len = (size_t)snprintf(topic, sizeof topic, "bench.topic-%u", i % 100);
        eb_uuid_v7(draft.id);
        bench->events_made[i] = eb_event_create(&draft);
        if (!bench->events_made[i])
            abort();
        memcpy(bench->events_made[i]->id, draft.id, sizeof draft.id);
        bench->ops[i] = (struct eb_op){.kind = EB_OP_PUBLISH,
                                       .count = 1,
                                       .events = &bench->events_made[i],
                                       .results = &bench->results[i]};
        if ((i + 1) % chunk)
            bench->ops[i].next = &bench->ops[i + 1];
    }
    bench->left = bench->events;
}

static double cpu_us(struct eb_store *store)
{
    clockid_t clock;
    struct timespec now;
    if (pthread_getcpuclockid(store->writer, &clock) || clock_gettime(clock, &now))
        abort();
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* All @bench->events, submitted in chunks; @group: bound of a transaction, 0 the usual one. */
static void run(struct bench *bench, enum storage storage, unsigned chunk, unsigned group)
{
    static const char *const names[] = {"null", "memory", "sqlite"};
    struct eb_store *store;
    struct eb_store_counters counters;
    struct eb_store_hooks hooks = {.ctx = bench, .committed = committed};
    prepare(bench, chunk);
    if (open_store(bench, storage, group, &store) < 0 || eb_store_start(store, &hooks) < 0)
        abort();
    double cpu = cpu_us(store);
    int64_t before = eb_mono_us();
    for (unsigned i = 0; i < bench->events; i += chunk)
        eb_store_submit(store, &bench->ops[i], &bench->ops[i + chunk - 1]);
    pthread_mutex_lock(&bench->lock);
    while (bench->left)
        pthread_cond_wait(&bench->cond, &bench->lock);
    pthread_mutex_unlock(&bench->lock);
    double us = (double)(eb_mono_us() - before);
    cpu = cpu_us(store) - cpu;
    eb_store_counters(store, &counters);
    eb_store_close(store);
    printf(
        "%-6s chunk %4u, groups of %4.0f: %8.0f events/s; writer's CPU %5.0f ns an event, %6.1f us "
        "a commit\n",
        names[storage], chunk, (double)bench->events / (double)counters.commits,
        bench->events * 1e6 / us, cpu * 1e3 / bench->events, cpu / (double)counters.commits);
    for (unsigned i = 0; i < bench->events; i++)
        eb_event_unref(bench->events_made[i]);
    if (storage == SQLITE) {
        char command[64];
        snprintf(command, sizeof command, "rm -f %s/log.db*", bench->folder);
        if (system(command) != 0)
            abort();
    }
}

static void run_all(struct bench *bench, const char *only, unsigned group)
{
    static const unsigned groups[] = {1, 16, 64, 256, 4096};
    for (int round = 0; round < ROUNDS; round++) {
        bench->events = EVENTS;
        for (unsigned chunk = 1; chunk <= 64; chunk *= 64) {
            if (!only || strcmp(only, "null") == 0)
                run(bench, NOTHING, chunk, 0);
            if (!only || strcmp(only, "memory") == 0)
                run(bench, MEMORY, chunk, 0);
        }
        if (only && strcmp(only, "sqlite") != 0)
            continue;
        for (unsigned i = 0; i < sizeof groups / sizeof *groups; i++) {
            if (group && group != groups[i])
                continue;
            bench->events = groups[i] * 10000;
            if (bench->events > EVENTS / 2)
                bench->events = EVENTS / 2 / groups[i] * groups[i];
            run(bench, SQLITE, groups[i], groups[i]);
        }
    }
}

/* Usage: bench_writer [null | memory | sqlite [1 | 16 | 64 | 256 | 4096]] */
int main(int argc, char **argv)
{
    struct bench bench = {.lock = PTHREAD_MUTEX_INITIALIZER,
                          .cond = PTHREAD_COND_INITIALIZER,
                          .folder = "/tmp/eb-bench-XXXXXX"};
    bench.ops = calloc(EVENTS, sizeof *bench.ops);
    bench.events_made = calloc(EVENTS, sizeof *bench.events_made);
    bench.results = calloc(EVENTS, sizeof *bench.results);
    if (!bench.ops || !bench.events_made || !bench.results || !mkdtemp(bench.folder))
        return 1;
    run_all(&bench, argc > 1 ? argv[1] : NULL, argc > 2 ? (unsigned)atoi(argv[2]) : 0);
    free(bench.ops);
    free(bench.events_made);
    free(bench.results);
    return rmdir(bench.folder);
}
