/*
 * bench_growth.c - the log when it is large and old, through store.h: how fast it is filled, opened, closed and
 * published to, and how long a publish waits at worst. 128-byte events over 100 topics.
 *
 *   bench_growth fill PATH EVENTS             as fast as it goes, durability = os
 *   bench_growth open PATH [WINDOW_S]         open, close: the time of each, and what is resident
 *   bench_growth crash PATH                   open and end without a close: the next start rebuilds
 *   bench_growth flat PATH SECONDS [KEEP]     as fast as it goes, synced; KEEP = retention_events
 *   bench_growth paced PATH SECONDS RATE [KEEP]  RATE events a second, synced; each wait above 20 ms is shown
 *
 * What stands in the log decides nothing else than what is measured: PATH may be new. Without arguments (as
 * `meson test --benchmark` runs it): a small round of all of it in a folder of its own.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/store/store.h"
#include "common/clock.h"
#include "common/uuid.h"

#define BATCH     16u
#define OPEN_OPS  256u /* flat out: so many batches wait at once */
#define SLOW_US   20000
#define PAYLOAD   128
#define HISTOGRAM 24

struct batch {
    struct eb_op op;
    struct eb_event *events[BATCH];
    struct eb_op_result results[BATCH];
    int64_t submitted;
};

struct run {
    struct eb_store *store;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned open; /* [lock] */
    /* [the commit lock, then whoever has closed the store] */
    int64_t begin, slowest, shown;
    uint64_t events, batches, wait_us[HISTOGRAM]; /* below 2^i us */
    bool show;
};

static void check(int rc, const char *what, const struct eb_error *err)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, err ? err->message : strerror(-rc));
    exit(1);
}

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double resident_mib(void)
{
    long pages = 0, total;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%ld %ld", &total, &pages) != 2)
        pages = 0;
    if (file)
        fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576;
}

static void note_wait(struct run *run, int64_t us)
{
    unsigned i = 0;
    while (i < HISTOGRAM - 1 && us >= (int64_t)1 << i)
        i++;
    run->wait_us[i]++;
    if (us > run->slowest)
        run->slowest = us;
    /* One line for all that waited for the same thing. */
    if (run->show && us > SLOW_US && eb_mono_us() - run->shown > SLOW_US) {
        struct eb_store_counters counters;
        eb_store_counters(run->store, &counters);
        run->shown = eb_mono_us();
        printf("  at %.3f s: %.1f ms (%" PRIu64 " events, %" PRIu64 " checkpoints so far)\n",
               (double)(run->shown - run->begin) / 1e6, (double)us / 1e3, run->events,
               counters.checkpoints);
    }
}

static void done(struct eb_op *op)
{
    struct batch *batch = (struct batch *)op;
    struct run *run = op->user;
    if (op->err.code != EB_OK) {
        fprintf(stderr, "refused: %s\n", op->err.message);
        exit(1);
    }
    note_wait(run, eb_mono_us() - batch->submitted);
    run->events += op->count;
    run->batches++;
    for (unsigned i = 0; i < BATCH; i++)
        eb_event_unref(batch->events[i]);
    free(batch);
    pthread_mutex_lock(&run->lock);
    if (run->open-- == OPEN_OPS || !run->open)
        pthread_cond_signal(&run->cond);
    pthread_mutex_unlock(&run->lock);
}

static void submit(struct run *run, uint64_t number)
{
    static char payload[PAYLOAD];
    struct batch *batch = calloc(1, sizeof *batch);
    char topic[32];
    if (!batch)
        abort();
    for (unsigned i = 0; i < BATCH; i++) {
        struct eb_draft draft = {.topic = topic, .payload = payload, .payload_len = PAYLOAD};
        draft.topic_len = (size_t)snprintf(topic, sizeof topic, "bench.topic-%u",
                                           (unsigned)((number * BATCH + i) * 7919 % 100));
        draft.has_id = true;
        eb_uuid_v7(draft.id);
        batch->events[i] = eb_event_create(&draft);
        if (!batch->events[i])
            abort();
    }
    batch->op = (struct eb_op){.kind = EB_OP_PUBLISH,
                               .count = BATCH,
                               .events = batch->events,
                               .results = batch->results,
                               .done = done,
                               .user = run};
    batch->submitted = eb_mono_us();
    eb_store_submit(run->store, &batch->op, &batch->op);
}

static void take_place(struct run *run, bool bounded)
{
    pthread_mutex_lock(&run->lock);
    while (bounded && run->open >= OPEN_OPS)
        pthread_cond_wait(&run->cond, &run->lock);
    run->open++;
    pthread_mutex_unlock(&run->lock);
}

static void open_store(struct run *run, const char *path, enum eb_durability durability,
                       uint64_t keep, int64_t window_s)
{
    struct eb_store_config config = {.path = path,
                                     .durability = durability,
                                     .dedupe_window_ms = window_s * 1000,
                                     .dedupe_max = 1000000,
                                     .retention_events = keep,
                                     .acked_retention_ms = -1};
    struct eb_error err;
    *run = (struct run){.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    check(eb_store_open(&config, &run->store, &err), path, &err);
}

static void publish_all(struct run *run, uint64_t events, double seconds, double rate)
{
    int64_t end = run->begin + (int64_t)(seconds * 1e6);
    uint64_t number = 0;
    for (; number < events / BATCH; number++) {
        int64_t now = eb_mono_us();
        if (now >= end)
            break;
        int64_t due = rate > 0 ? run->begin + (int64_t)((double)(number * BATCH) / rate * 1e6) : 0;
        if (due > now + 500)
            usleep((useconds_t)(due - now));
        take_place(run, rate <= 0);
        submit(run, number);
    }
}

static double quantile(const struct run *run, double q)
{
    uint64_t seen = 0, want = (uint64_t)((double)run->batches * q);
    for (unsigned i = 0; i < HISTOGRAM; i++) {
        seen += run->wait_us[i];
        if (seen > want)
            return (double)((int64_t)1 << i) / 1e3;
    }
    return 0;
}

static void publish(const char *path, enum eb_durability durability, uint64_t events,
                    double seconds, double rate, uint64_t keep)
{
    struct eb_store_counters counters;
    struct eb_store_info info;
    struct run run;
    open_store(&run, path, durability, keep, 600);
    check(eb_store_start(run.store, NULL), "start", NULL);
    eb_store_info(run.store, &info);
    uint64_t before = info.events;
    double cpu = cpu_seconds();
    run.begin = eb_mono_us();
    run.show = rate > 0;
    publish_all(&run, events, seconds, rate);
    pthread_mutex_lock(&run.lock);
    while (run.open)
        pthread_cond_wait(&run.cond, &run.lock);
    pthread_mutex_unlock(&run.lock);
    double took = (double)(eb_mono_us() - run.begin) / 1e6;
    eb_store_counters(run.store, &counters);
    eb_store_info(run.store, &info);
    cpu = cpu_seconds() - cpu;
    double resident = resident_mib();
    int64_t close_begin = eb_mono_us();
    eb_store_close(run.store);
    printf("%" PRIu64 " events in the log before, %" PRIu64 " after: %.0f/s, CPU %.2f us an event; "
           "wait below p50 %.3g p99 %.3g p99.9 %.3g ms, longest %.1f ms; deleted %" PRIu64
           "; %" PRIu64 " checkpoints, WAL %.1f MiB; resident %.1f MiB; close %.1f ms\n",
           before, info.events, (double)run.events / took, cpu * 1e6 / (double)run.events,
           quantile(&run, .5), quantile(&run, .99), quantile(&run, .999), (double)run.slowest / 1e3,
           counters.retained_out, counters.checkpoints, (double)info.wal_bytes / 1048576, resident,
           (double)(eb_mono_us() - close_begin) / 1e3);
}

static void open_and_close(const char *path, bool crash, int64_t window_s)
{
    struct eb_store_info info;
    struct run run;
    int64_t before = eb_mono_us();
    double cpu = cpu_seconds();
    open_store(&run, path, EB_DURABILITY_FSYNC, 0, window_s);
    int64_t opened = eb_mono_us();
    eb_store_info(run.store, &info);
    printf("%" PRIu64 " events, %" PRIu64 " ids: open %.1f ms (CPU %.1f), resident %.1f MiB\n",
           info.events, info.dedupe_ids, (double)(opened - before) / 1e3,
           (cpu_seconds() - cpu) * 1e3, resident_mib());
    if (crash)
        _exit(0);
    check(eb_store_start(run.store, NULL), "start", NULL);
    opened = eb_mono_us();
    eb_store_close(run.store);
    printf("close %.1f ms\n", (double)(eb_mono_us() - opened) / 1e3);
}

static void small_round(void)
{
    char folder[] = "/tmp/eb-growth-XXXXXX", path[64], command[64];
    if (!mkdtemp(folder))
        abort();
    snprintf(path, sizeof path, "%s/log.db", folder);
    publish(path, EB_DURABILITY_OS, 1000000, 1e9, 0, 0);
    open_and_close(path, false, 600);
    publish(path, EB_DURABILITY_FSYNC, UINT64_MAX, 5, 0, 0);
    publish(path, EB_DURABILITY_FSYNC, UINT64_MAX, 5, 0, 500000);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command))
        abort();
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "", *path = argc > 2 ? argv[2] : "";
    double number = argc > 3 ? atof(argv[3]) : 0, more = argc > 4 ? atof(argv[4]) : 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 1)
        small_round();
    else if (strcmp(what, "fill") == 0 && number > 0)
        publish(path, EB_DURABILITY_OS, (uint64_t)number, 1e9, 0, 0);
    else if (strcmp(what, "open") == 0)
        open_and_close(path, false, argc > 3 ? (int64_t)number : 600);
    else if (strcmp(what, "crash") == 0)
        open_and_close(path, true, argc > 3 ? (int64_t)number : 600);
    else if (strcmp(what, "flat") == 0 && number > 0)
        publish(path, EB_DURABILITY_FSYNC, UINT64_MAX, number, 0, (uint64_t)more);
    else if (strcmp(what, "paced") == 0 && more > 0)
        publish(path, EB_DURABILITY_FSYNC, UINT64_MAX, number, more,
                argc > 5 ? (uint64_t)atof(argv[5]) : 0);
    else
        return fprintf(stderr, "see the comment at the top of bench_growth.c\n"), 2;
    return 0;
}
