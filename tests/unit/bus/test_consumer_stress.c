/*
 * test_consumer_stress.c - durable consumers over the real store, with threads: publishers, workers that come and go,
 * acknowledge, give back and leave, restarts of the broker in between. Meant for TSan too; the rules themselves are
 * played in test_consumer.c.
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

#define PUBLISHERS 2
#define WORKERS    3    /* a consumer */
#define EVENTS     1500 /* each publisher */
#define ALL        (PUBLISHERS * EVENTS)
#define KEYS       7

/* What is known of one consumer's events; all atomic. */
struct ledger {
    const char *name;
    bool ordered;
    _Atomic uint8_t delivered[ALL + 1], asked[ALL + 1], answered[ALL + 1];
    _Atomic uint8_t out[ALL + 1];
    _Atomic uint64_t done;
    _Atomic uint64_t after_answer, twice_out, out_of_order; /* the first seq of each wrong */
};

struct world {
    char path[64];
    struct eb_store *store;
    struct eb_bus *bus;
    struct ledger ledgers[2];
    _Atomic uint8_t key[ALL + 1];
    _Atomic bool stop;
};

/* ---- life ---- */

static void open_world(struct world *world)
{
    struct eb_store_config store = {.path = world->path,
                                    .durability = EB_DURABILITY_OS,
                                    .dedupe_window_ms = 1000,
                                    .dedupe_max = 1000,
                                    .acked_retention_ms = -1};
    struct eb_bus_config bus = {.readers = 2,
                                .max_batch = 100,
                                .limits = {.max_payload = 1000, .max_headers = 8},
                                .queue_events = 64,
                                .queue_bytes = 100000,
                                .max_subscriptions = 4};
    struct eb_error err;
    assert_int_equal(eb_store_open(&store, &world->store, &err), 0);
    assert_int_equal(eb_bus_create(&bus, world->store, &world->bus), 0);
}

static void close_world(struct world *world)
{
    eb_bus_stop(world->bus);
    eb_store_close(world->store);
    eb_bus_destroy(world->bus);
}

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool done;
};

static void finish(struct waiter *waiter)
{
    pthread_mutex_lock(&waiter->mutex);
    waiter->done = true;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->mutex);
}

static void requested(struct eb_consumer_request *request)
{
    finish(request->user);
}

static void request(struct world *world, struct eb_consumer_request *request)
{
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    request->done = requested;
    request->user = &waiter;
    eb_bus_consumer(world->bus, request);
    pthread_mutex_lock(&waiter.mutex);
    while (!waiter.done)
        pthread_cond_wait(&waiter.cond, &waiter.mutex);
    pthread_mutex_unlock(&waiter.mutex);
}

static void make(struct world *world, const char *name, bool ordered)
{
    struct eb_consumer_settings settings = {.pattern_count = 1,
                                            .from = EB_FROM_ALL,
                                            .ack_wait_ms = 600000,
                                            .max_inflight = 40,
                                            .order = ordered ? EB_ORDER_TOPIC : EB_ORDER_NONE,
                                            .order_window = 100,
                                            .dead_letter = true};
    struct eb_consumer_request r = {.verb = EB_CONSUMER_PUT, .settings = &settings};
    struct eb_error err;
    assert_int_equal(eb_pattern_parse(&settings.patterns[0], "#", 1, &err), 0);
    snprintf(r.name, sizeof(r.name), "%s", name);
    request(world, &r);
    assert_int_equal(r.err.code, EB_OK);
    assert_true(r.created);
}

/* ---- publishers ---- */

static void published(struct eb_publish *publish)
{
    struct world *world = publish->user;
    (void)world;
    eb_publish_destroy(publish);
}

static void *publish(void *arg)
{
    struct world *world = arg;
    for (int i = 0; i < EVENTS; i++) {
        struct eb_publish *publish = eb_publish_create(1);
        char topic[8];
        struct eb_draft draft = {.topic = topic, .payload = "x", .payload_len = 1};
        struct eb_error err;
        draft.topic_len = (size_t)snprintf(topic, sizeof(topic), "k.%d", i % KEYS);
        assert_int_equal(eb_publish_add(world->bus, publish, &draft, &err), 0);
        publish->done = published;
        publish->user = world;
        eb_bus_publish(world->bus, publish);
        if (i % 50 == 0)
            usleep(500);
    }
    return NULL;
}

/* ---- workers ---- */

#define INBOX 64

struct worker {
    struct world *world;
    struct ledger *ledger;
    unsigned seed;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    uint64_t inbox[INBOX];
    unsigned head, count;
    bool refusing;
    _Atomic bool released;
};

static void wrong(_Atomic uint64_t *first, uint64_t seq)
{
    uint64_t none = 0;
    atomic_compare_exchange_strong(first, &none, seq);
}

/* Called by `eb-consumer` alone: so its own order is that of the deliveries. */
static bool deliver(void *user, struct eb_event *event, uint32_t delivery)
{
    struct worker *worker = user;
    struct ledger *ledger = worker->ledger;
    uint64_t seq = event->seq;
    bool taken;
    (void)delivery;
    if (atomic_load(&ledger->answered[seq]))
        wrong(&ledger->after_answer, seq);
    atomic_store(&worker->world->key[seq], (uint8_t)(event->topic[2] - '0' + 1));
    for (uint64_t i = seq > 200 ? seq - 200 : 1; ledger->ordered && i < seq; i++) {
        if (atomic_load(&worker->world->key[i]) == atomic_load(&worker->world->key[seq]) &&
            !atomic_load(&ledger->asked[i]))
            wrong(&ledger->out_of_order, seq);
    }
    pthread_mutex_lock(&worker->mutex);
    taken = !worker->refusing && worker->count < INBOX;
    if (taken) {
        if (atomic_exchange(&ledger->out[seq], 1))
            wrong(&ledger->twice_out, seq);
        atomic_store(&ledger->delivered[seq], 1);
        worker->inbox[(worker->head + worker->count++) % INBOX] = seq;
        pthread_cond_signal(&worker->cond);
    }
    pthread_mutex_unlock(&worker->mutex);
    return taken;
}

static size_t room(void *user)
{
    struct worker *worker = user;
    pthread_mutex_lock(&worker->mutex);
    size_t left = INBOX - worker->count;
    pthread_mutex_unlock(&worker->mutex);
    return left;
}

static void released(void *user, const char *reason)
{
    struct worker *worker = user;
    (void)reason;
    pthread_mutex_lock(&worker->mutex);
    worker->released = true;
    pthread_cond_signal(&worker->cond);
    pthread_mutex_unlock(&worker->mutex);
}

static const struct eb_worker_ops ops = {.deliver = deliver, .room = room, .released = released};

static uint64_t take(struct worker *worker)
{
    uint64_t seq = 0;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 10000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&worker->mutex);
    if (worker->count == 0 && !worker->released)
        pthread_cond_timedwait(&worker->cond, &worker->mutex, &until);
    if (worker->count > 0) {
        seq = worker->inbox[worker->head];
        worker->head = (worker->head + 1) % INBOX;
        worker->count--;
    }
    pthread_mutex_unlock(&worker->mutex);
    return seq;
}

static void answer(struct worker *worker, uint64_t seq)
{
    struct ledger *ledger = worker->ledger;
    enum eb_job_result result = EB_JOB_UNKNOWN;
    bool acks = rand_r(&worker->seed) % 8 != 0;
    struct eb_consumer_request r = {.verb = acks ? EB_CONSUMER_ACK : EB_CONSUMER_NACK,
                                    .seqs = &seq,
                                    .count = 1,
                                    .delay_ms = rand_r(&worker->seed) % 2,
                                    .results = &result};
    snprintf(r.name, sizeof(r.name), "%s", ledger->name);
    atomic_store(&ledger->out[seq], 0);
    if (acks)
        atomic_store(&ledger->asked[seq], 1);
    request(worker->world, &r);
    if (r.err.code == EB_OK && result == EB_JOB_OK && acks) {
        atomic_store(&ledger->answered[seq], 1);
        atomic_fetch_add(&ledger->done, 1);
    } else if (acks) { /* released meanwhile: it is to come again */
        atomic_store(&ledger->asked[seq], 0);
    }
}

/* One stay: attach, work a while, leave with some still out. */
static void stay(struct worker *worker)
{
    struct eb_consumer_worker *attached;
    struct eb_error err;
    worker->head = worker->count = 0;
    worker->released = worker->refusing = false;
    if (eb_consumer_attach(worker->world->bus, worker->ledger->name, &ops, worker,
                           1 + (uint32_t)rand_r(&worker->seed) % 30, -1, false, &attached,
                           &err) < 0) {
        usleep(1000);
        return;
    }
    eb_consumer_begin(attached);
    for (int i = rand_r(&worker->seed) % 200; i >= 0 && !atomic_load(&worker->world->stop); i--) {
        uint64_t seq = take(worker);
        if (seq != 0) {
            answer(worker, seq);
            eb_consumer_worker_room(attached);
        }
    }
    pthread_mutex_lock(&worker->mutex);
    worker->refusing = true; /* what comes from now on goes back by itself */
    while (worker->count > 0) {
        atomic_store(&worker->ledger->out[worker->inbox[worker->head]], 0);
        worker->head = (worker->head + 1) % INBOX;
        worker->count--;
    }
    pthread_mutex_unlock(&worker->mutex);
    eb_consumer_leave(attached, rand_r(&worker->seed) % 2 ? EB_LEAVE_AGAIN : EB_LEAVE_RETURN);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    while (!atomic_load(&worker->world->stop))
        stay(worker);
    return NULL;
}

static void run(struct world *world, bool publishes, uint64_t until)
{
    pthread_t publishers[PUBLISHERS], threads[2 * WORKERS];
    static struct worker workers[2 * WORKERS];
    atomic_store(&world->stop, false);
    for (int i = 0; i < 2 * WORKERS; i++) {
        workers[i] = (struct worker){.world = world,
                                     .ledger = &world->ledgers[i % 2],
                                     .seed = (unsigned)(i + 1) * 77,
                                     .mutex = PTHREAD_MUTEX_INITIALIZER,
                                     .cond = PTHREAD_COND_INITIALIZER};
        pthread_create(&threads[i], NULL, work, &workers[i]);
    }
    for (int i = 0; publishes && i < PUBLISHERS; i++)
        pthread_create(&publishers[i], NULL, publish, world);
    for (int i = 0; publishes && i < PUBLISHERS; i++)
        pthread_join(publishers[i], NULL);
    int64_t end = eb_mono_ms() + 90000;
    while ((world->ledgers[0].done < until || world->ledgers[1].done < until) && eb_mono_ms() < end)
        usleep(2000);
    atomic_store(&world->stop, true);
    for (int i = 0; i < 2 * WORKERS; i++)
        pthread_join(threads[i], NULL);
}

static void remove_log(const char *path)
{
    char name[128];
    static const char *const ends[] = {"", "-wal", "-shm", ".lock"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        snprintf(name, sizeof(name), "%s%s", path, ends[i]);
        unlink(name);
    }
}

/*
 * Each event is acknowledged once by each consumer, whatever workers come and go and across a restart; none is out at
 * two at a time, none is delivered after its ack was answered, and with `order` each key's events come in order.
 */
static void each_event_is_handled_and_none_after_its_ack(void **state)
{
    static struct world world;
    char folder[] = "/tmp/eb-consumer-XXXXXX";
    assert_non_null(mkdtemp(folder));
    snprintf(world.path, sizeof(world.path), "%s/log.db", folder);
    world.ledgers[0].name = "plain";
    world.ledgers[1].name = "ordered";
    world.ledgers[1].ordered = true;
    open_world(&world);
    make(&world, "plain", false);
    make(&world, "ordered", true);
    run(&world, true, ALL / 2);
    close_world(&world);
    open_world(&world);
    run(&world, false, ALL);
    for (int i = 0; i < 2; i++) {
        struct ledger *ledger = &world.ledgers[i];
        struct eb_consumer_info info;
        assert_int_equal(ledger->after_answer, 0);
        assert_int_equal(ledger->twice_out, 0);
        assert_int_equal(ledger->out_of_order, 0);
        assert_int_equal(ledger->done, ALL);
        assert_true(eb_bus_consumer_info(world.bus, ledger->name, &info));
        free(info.settings);
        assert_int_equal(info.cursor, ALL);
        assert_int_equal(info.pending + info.inflight, 0);
        assert_int_equal(info.lost + info.dead, 0);
    }
    close_world(&world);
    remove_log(world.path);
    rmdir(folder);
}

/* ---- deadlines, dead letters and changes under load ---- */

/* A worker that answers some, lets the time of others run out, and gives some up; it holds nothing itself. */
static void answered(struct eb_consumer_request *request)
{
    free((void *)request->seqs);
    free(request->results);
    free(request);
}

static bool deliver_and_answer(void *user, struct eb_event *event, uint32_t delivery)
{
    struct worker *worker = user;
    struct eb_consumer_request *r = calloc(1, sizeof(*r));
    uint64_t *seq = malloc(sizeof(*seq));
    unsigned chance = (unsigned)rand_r(&worker->seed) % 10;
    (void)delivery;
    *seq = event->seq;
    r->seqs = seq;
    r->count = 1;
    r->results = calloc(1, sizeof(*r->results));
    r->delay_ms = -1;
    r->done = answered;
    snprintf(r->name, sizeof(r->name), "%s", worker->ledger->name);
    r->verb = chance < 5   ? EB_CONSUMER_ACK
              : chance < 7 ? EB_CONSUMER_NACK
              : chance < 8 ? EB_CONSUMER_TERM
                           : EB_CONSUMER_IN_PROGRESS;
    if (chance == 9) /* its time runs out */
        answered(r);
    else
        eb_bus_consumer(worker->world->bus, r);
    return rand_r(&worker->seed) % 16 != 0;
}

static void not_told(void *user, const char *reason)
{
    released(user, reason);
}

static const struct eb_worker_ops careless = {.deliver = deliver_and_answer, .released = not_told};

static void *come_and_go(void *arg)
{
    struct worker *worker = arg;
    struct eb_consumer_worker *attached;
    struct eb_error err;
    while (!atomic_load(&worker->world->stop)) {
        worker->released = false;
        if (eb_consumer_attach(worker->world->bus, worker->ledger->name, &careless, worker, 20, -1,
                               false, &attached, &err) < 0) {
            usleep(500);
            continue;
        }
        eb_consumer_begin(attached);
        for (int i = rand_r(&worker->seed) % 20; i >= 0 && !worker->released; i--) {
            eb_consumer_worker_room(attached);
            take(worker);
        }
        eb_consumer_leave(attached, (enum eb_leave)(rand_r(&worker->seed) % 3));
    }
    return NULL;
}

static void put_hasty(struct world *world, const char *name)
{
    struct eb_consumer_settings settings = {.pattern_count = 1,
                                            .from = EB_FROM_ALL,
                                            .ack_wait_ms = 5,
                                            .max_deliver = 3,
                                            .max_inflight = 50,
                                            .order_window = 100,
                                            .dead_letter = true};
    struct eb_consumer_request r = {.verb = EB_CONSUMER_PUT, .settings = &settings};
    struct eb_error err;
    assert_int_equal(eb_pattern_parse(&settings.patterns[0], "k.*", 3, &err), 0);
    snprintf(r.name, sizeof(r.name), "%s", name);
    request(world, &r);
    assert_int_equal(r.err.code, EB_OK);
}

/* Whatever changes at once: seek, PUT, STOP, redrive, DELETE, and looking at it all. */
static void *change(void *arg)
{
    struct world *world = arg;
    unsigned seed = 5;
    while (!atomic_load(&world->stop)) {
        static const enum eb_consumer_verb verbs[] = {EB_CONSUMER_SEEK, EB_CONSUMER_DELETE,
                                                      EB_CONSUMER_STOP, EB_CONSUMER_REDRIVE,
                                                      EB_CONSUMER_ENSURE};
        struct eb_consumer_info *list;
        struct eb_consumer_request r = {.verb = verbs[rand_r(&seed) % 5],
                                        .name = "moved",
                                        .seq = 1 + (unsigned)rand_r(&seed) % 100};
        request(world, &r);
        put_hasty(world, "moved");
        eb_consumer_infos_finish(list, eb_bus_consumers(world->bus, NULL, 10, true, &list));
        eb_bus_consumer_listens(world->bus, "k.1", 3);
        usleep(2000);
    }
    return NULL;
}

static bool rests(struct world *world, const char *name)
{
    struct eb_consumer_info info;
    if (!eb_bus_consumer_info(world->bus, name, &info))
        return false;
    free(info.settings);
    return info.lag_events == 0 && info.dying == 0;
}

static uint64_t dead_in_the_log(struct world *world, const char *name)
{
    struct eb_reader *reader;
    uint64_t seqs[1000], after = 0, count = 0;
    ptrdiff_t more;
    assert_int_equal(eb_reader_create(world->store, &reader), 0);
    while ((more = eb_reader_dead(reader, eb_bus_consumer_id(world->bus, name), after, seqs,
                                  1000)) > 0) {
        count += (uint64_t)more;
        after = seqs[more - 1];
    }
    eb_reader_destroy(reader);
    return count;
}

/*
 * With deadlines of milliseconds, terms, refusals and workers that leave in all ways, each event ends as acknowledged or
 * as one dead letter; beside it another consumer is moved, stopped, deleted and made anew all the time.
 */
static void every_event_ends_once(void **state)
{
    static struct world world;
    static struct worker workers[2 * WORKERS];
    static struct eb_consumer_info info;
    pthread_t threads[2 * WORKERS], publishers[PUBLISHERS], changer;
    char folder[] = "/tmp/eb-consumer-XXXXXX";
    assert_non_null(mkdtemp(folder));
    memset(&world, 0, sizeof(world));
    snprintf(world.path, sizeof(world.path), "%s/log.db", folder);
    world.ledgers[0].name = "steady";
    world.ledgers[1].name = "moved";
    open_world(&world);
    put_hasty(&world, "steady");
    put_hasty(&world, "moved");
    for (int i = 0; i < 2 * WORKERS; i++) {
        workers[i] = (struct worker){.world = &world,
                                     .ledger = &world.ledgers[i % 2],
                                     .seed = (unsigned)(i + 1) * 99,
                                     .mutex = PTHREAD_MUTEX_INITIALIZER,
                                     .cond = PTHREAD_COND_INITIALIZER};
        pthread_create(&threads[i], NULL, come_and_go, &workers[i]);
    }
    pthread_create(&changer, NULL, change, &world);
    for (int i = 0; i < PUBLISHERS; i++)
        pthread_create(&publishers[i], NULL, publish, &world);
    for (int i = 0; i < PUBLISHERS; i++)
        pthread_join(publishers[i], NULL);
    int64_t end = eb_mono_ms() + 90000;
    while (!rests(&world, "steady") && eb_mono_ms() < end)
        usleep(2000);
    atomic_store(&world.stop, true);
    pthread_join(changer, NULL);
    for (int i = 0; i < 2 * WORKERS; i++)
        pthread_join(threads[i], NULL);
    assert_true(eb_bus_consumer_info(world.bus, "steady", &info));
    free(info.settings);
    assert_int_equal(info.pending + info.inflight + info.dying, 0);
    assert_int_equal(info.acked + info.dead, ALL);
    assert_int_equal(info.dead_waiting, info.dead);
    assert_int_equal(dead_in_the_log(&world, "steady"), info.dead);
    assert_true(info.dead > 0 && info.redelivered > 0);
    assert_int_equal(info.lost, 0);
    close_world(&world);
    open_world(&world);
    assert_true(eb_bus_consumer_info(world.bus, "steady", &info));
    free(info.settings);
    assert_int_equal(info.pending + info.inflight + info.dying, 0);
    assert_int_equal(info.dead_waiting, info.dead);
    close_world(&world);
    remove_log(world.path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_event_is_handled_and_none_after_its_ack),
        cmocka_unit_test(every_event_ends_once),
    };
    return cmocka_run_group_tests_name("bus/consumer_stress", tests, NULL, NULL);
}
