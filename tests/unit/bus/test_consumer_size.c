/*
 * test_consumer_size.c - what a long log costs a durable consumer, over the real store: rows and bytes on disk, and the
 * time of a start, with one event open in front of a great many that are done, and with a key that is stuck.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/bus/bus.h"
#include "broker/bus/consumers.h"
#include "common/clock.h"

#define EVENTS 200000
#define BATCH  1000
#define OPEN   7 /* the seq that is never acknowledged */

struct world {
    char path[64];
    struct eb_store *store;
    struct eb_bus *bus;
    _Atomic uint64_t acked;
    struct acks *acks; /* of `eb-consumer` */
};

static struct eb_store *open_store(struct world *world)
{
    struct eb_store_config config = {.path = world->path,
                                     .durability = EB_DURABILITY_OS,
                                     .dedupe_window_ms = 1000,
                                     .dedupe_max = 1000,
                                     .acked_retention_ms = -1};
    struct eb_error err;
    assert_int_equal(eb_store_open(&config, &world->store, &err), 0);
    return world->store;
}

static void open_bus(struct world *world)
{
    struct eb_bus_config config = {.readers = 2,
                                   .max_batch = BATCH,
                                   .limits = {.max_payload = 1000, .max_headers = 8},
                                   .queue_events = 1024,
                                   .queue_bytes = 1 << 20,
                                   .max_subscriptions = 4};
    assert_int_equal(eb_bus_create(&config, world->store, &world->bus), 0);
}

static void close_world(struct world *world)
{
    eb_bus_stop(world->bus);
    eb_store_close(world->store);
    eb_bus_destroy(world->bus);
}

/* ---- requests that are waited for ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static bool finished;

static void finish(void)
{
    pthread_mutex_lock(&mutex);
    finished = true;
    pthread_cond_signal(&cond);
    pthread_mutex_unlock(&mutex);
}

static void wait_finished(void)
{
    pthread_mutex_lock(&mutex);
    while (!finished)
        pthread_cond_wait(&cond, &mutex);
    finished = false;
    pthread_mutex_unlock(&mutex);
}

static void made(struct eb_consumer_request *request)
{
    finish();
}

static void make(struct world *world, enum eb_consumer_order order)
{
    struct eb_consumer_settings settings = {.pattern_count = 1,
                                            .from = EB_FROM_ALL,
                                            .ack_wait_ms = 600000,
                                            .max_inflight = 1000,
                                            .order = order,
                                            .order_window = 10000};
    struct eb_consumer_request request = {
        .verb = EB_CONSUMER_PUT, .name = "c", .settings = &settings, .done = made};
    struct eb_error err;
    assert_int_equal(eb_pattern_parse(&settings.patterns[0], "#", 1, &err), 0);
    eb_bus_consumer(world->bus, &request);
    wait_finished();
    assert_int_equal(request.err.code, EB_OK);
}

static void published(struct eb_publish *publish)
{
    eb_publish_destroy(publish);
    finish();
}

/* The open event's topic comes again with every tenth event. */
static void publish_all(struct world *world)
{
    for (unsigned done = 0; done < EVENTS; done += BATCH) {
        struct eb_publish *publish = eb_publish_create(BATCH);
        publish->batch = true;
        for (unsigned i = 0; i < BATCH; i++) {
            char topic[16];
            unsigned seq = done + i + 1;
            struct eb_draft draft = {.topic = topic, .payload = "x", .payload_len = 1};
            struct eb_error err;
            draft.topic_len = (size_t)snprintf(topic, sizeof(topic), "t.%u", seq % 10);
            assert_int_equal(eb_publish_add(world->bus, publish, &draft, &err), 0);
        }
        publish->done = published;
        eb_bus_publish(world->bus, publish);
        wait_finished();
    }
}

/* ---- a worker that acknowledges all but one ---- */

struct acks {
    struct eb_consumer_request request;
    uint64_t seqs[BATCH];
    enum eb_job_result results[BATCH];
};

static void acked(struct eb_consumer_request *request)
{
    struct world *world = request->user;
    atomic_fetch_add(&world->acked, request->count);
    free(request); /* the first member */
}

static void flush(void *user)
{
    struct world *world = user;
    struct acks *acks = world->acks;
    world->acks = NULL;
    if (acks != NULL)
        eb_bus_consumer(world->bus, &acks->request);
}

static bool deliver(void *user, struct eb_event *event, uint32_t delivery)
{
    struct world *world = user;
    if (event->seq == OPEN)
        return true;
    if (world->acks == NULL) {
        world->acks = calloc(1, sizeof(*world->acks));
        world->acks->request = (struct eb_consumer_request){.verb = EB_CONSUMER_ACK,
                                                            .name = "c",
                                                            .seqs = world->acks->seqs,
                                                            .results = world->acks->results,
                                                            .done = acked,
                                                            .user = world};
    }
    world->acks->seqs[world->acks->request.count++] = event->seq;
    if (world->acks->request.count == BATCH)
        flush(user);
    return true;
}

static void released(void *user, const char *reason)
{
}

static const struct eb_worker_ops ops = {.deliver = deliver, .flush = flush, .released = released};

/* Until @count are acknowledged. */
static void work(struct world *world, uint64_t count)
{
    struct eb_consumer_worker *worker;
    struct eb_error err;
    int64_t end = eb_mono_ms() + 90000;
    assert_int_equal(eb_consumer_attach(world->bus, "c", &ops, world, 0, -1, false, &worker, &err),
                     0);
    eb_consumer_begin(worker);
    while (atomic_load(&world->acked) < count && eb_mono_ms() < end)
        usleep(1000);
    assert_int_equal(atomic_load(&world->acked), count);
    eb_consumer_leave(worker, EB_LEAVE_OUT);
}

/* ---- what stands on disk ---- */

struct size {
    size_t rows, bytes;
};

static int on_consumer(void *ctx, const struct eb_state_consumer *row)
{
    struct size *size = ctx;
    size->bytes += strlen(row->name) + strlen(row->settings) + 8 * 8;
    return 0;
}

static int on_block(void *ctx, uint64_t consumer, uint64_t number, const uint8_t *data, size_t len)
{
    struct size *size = ctx;
    size->rows++;
    size->bytes += len;
    return 0;
}

/* Opens the world again, and says what it found and how long the consumer took. */
static struct size open_again(struct world *world, int64_t *ret_ms)
{
    struct size size = {0};
    struct eb_state_loader loader = {&size, on_consumer, on_block};
    assert_int_equal(eb_store_load_state(open_store(world), &loader), 0);
    int64_t begun = eb_mono_ms();
    open_bus(world);
    *ret_ms = eb_mono_ms() - begun;
    return size;
}

static void begin(struct world *world, char *folder)
{
    assert_non_null(mkdtemp(folder));
    *world = (struct world){0};
    snprintf(world->path, sizeof(world->path), "%s/log.db", folder);
    open_store(world);
    open_bus(world);
}

static void end(struct world *world, const char *folder)
{
    static const char *const ends[] = {"", "-wal", "-shm", ".lock"};
    char name[128];
    close_world(world);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        snprintf(name, sizeof(name), "%s%s", world->path, ends[i]);
        unlink(name);
    }
    rmdir(folder);
}

/* One open event costs less than 1 KiB on disk and 100 ms at a start, however many behind it are acknowledged. */
static void one_open_event_is_cheap(void **state)
{
    struct world world;
    struct eb_consumer_info info;
    char folder[] = "/tmp/eb-consumer-XXXXXX";
    int64_t ms;
    begin(&world, folder);
    make(&world, EB_ORDER_NONE);
    publish_all(&world);
    work(&world, EVENTS - 1);
    close_world(&world);
    struct size size = open_again(&world, &ms);
    assert_int_equal(size.rows, 1);
    assert_true(size.bytes < 1024);
    assert_true(ms < 100);
    assert_true(eb_bus_consumer_info(world.bus, "c", &info));
    free(info.settings);
    assert_int_equal(info.cursor, OPEN - 1);
    assert_int_equal(info.next, EVENTS + 1);
    assert_int_equal(info.pending, 1);
    end(&world, folder);
}

/* A stuck key: order_window events past its first open one are looked at, so many and no more are kept, however long the log. */
static void a_stuck_key_costs_its_window(void **state)
{
    struct world world;
    struct eb_consumer_info info;
    char folder[] = "/tmp/eb-consumer-XXXXXX";
    int64_t ms;
    begin(&world, folder);
    make(&world, EB_ORDER_TOPIC);
    publish_all(&world);
    work(&world,
         6 + 9000); /* nine of ten of the window's 10,000, and what stands before the open one */
    assert_true(eb_bus_consumer_info(world.bus, "c", &info));
    free(info.settings);
    assert_string_equal(info.state, "window_full");
    assert_int_equal(info.cursor, OPEN - 1);
    assert_int_equal(info.next, OPEN + 10000 + 1);
    assert_int_equal(info.pending + info.inflight, 1001);
    close_world(&world);
    struct size size = open_again(&world, &ms);
    assert_true(size.rows <= 11);
    assert_true(size.bytes < 8 * 1024);
    assert_true(ms < 100);
    end(&world, folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_open_event_is_cheap),
        cmocka_unit_test(a_stuck_key_costs_its_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
