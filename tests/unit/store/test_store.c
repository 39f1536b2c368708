/*
 * test_store.c - the store as its users see it, on both engines: threads running, the real clock, and for
 * the file what is still known after a restart.
 */
#include "fixture.h"

#include "common/clock.h"

static char folder[64], path[96];

static int setup(void **state)
{
    snprintf(folder, sizeof folder, "/tmp/eb-test-store-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/eventbus.db", folder);
    return 0;
}

static int teardown(void **state)
{
    const char *const ends[] = {"", "-wal", "-shm", ".lock"};
    char name[128];
    for (size_t i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, ends[i]);
        unlink(name);
    }
    return rmdir(folder);
}

static struct eb_store_config config_of(bool file)
{
    return (struct eb_store_config){
        .path = file ? path : NULL,
        .memory_bytes = 16 << 20,
        .dedupe_window_ms = 600000,
        .dedupe_max = 100000,
        .acked_retention_ms = -1,
    };
}

static struct eb_store *opened(const struct eb_store_config *config)
{
    struct eb_store *store;
    struct eb_error err;
    assert_int_equal(0, eb_store_open(config, &store, &err));
    assert_int_equal(0, eb_store_start(store, NULL));
    return store;
}

/* ---- one operation at a time ---- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void wake(struct eb_op *op)
{
    struct waiter *waiter = op->user;
    pthread_mutex_lock(&waiter->lock);
    waiter->done = true;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->lock);
}

static void submit_and_wait(struct eb_store *store, struct eb_op *op)
{
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
    op->done = wake;
    op->user = &waiter;
    eb_store_submit(store, op, op);
    pthread_mutex_lock(&waiter.lock);
    while (!waiter.done)
        pthread_cond_wait(&waiter.cond, &waiter.lock);
    pthread_mutex_unlock(&waiter.lock);
}

static struct eb_op_result put(struct eb_store *store, unsigned id, const char *payload,
                               enum eb_code want)
{
    struct eb_event *event = event_new(id, "store.test", payload);
    struct eb_op_result result = {0};
    struct eb_op op = {.kind = EB_OP_PUBLISH, .count = 1, .events = &event, .results = &result};
    submit_and_wait(store, &op);
    assert_int_equal(want, op.err.code);
    eb_event_unref(event);
    return result;
}

static enum eb_code acknowledge(struct eb_store *store, uint64_t seq, unsigned id)
{
    struct eb_op op = {.kind = EB_OP_ACK, .seq = seq, .has_id = id != 0};
    id_from(op.id, id);
    submit_and_wait(store, &op);
    return op.err.code;
}

/* Seqs, epoch, ids and acknowledgements are those of before; a repeat is compared with what is stored. */
static void restart_goes_on(void **state)
{
    struct eb_store_config config = config_of(true);
    struct eb_store *store = opened(&config);
    struct eb_store_info before, after;
    for (unsigned n = 1; n <= 20; n++)
        assert_int_equal(n, put(store, n, "first", EB_OK).seq);
    assert_int_equal(EB_OK, acknowledge(store, 3, 3));
    assert_int_equal(EB_INVALID_REQUEST, acknowledge(store, 3, 4));
    eb_store_info(store, &before);
    eb_store_close(store);
    store = opened(&config);
    eb_store_info(store, &after);
    assert_string_equal(before.epoch, after.epoch);
    assert_int_equal(20, after.last_seq);
    assert_int_equal(20, after.dedupe_ids);
    assert_int_equal(1, after.acked);
    assert_false(after.memory);
    assert_true(put(store, 7, "first", EB_OK).duplicate);
    assert_int_equal(7, put(store, 7, "first", EB_OK).seq);
    put(store, 8, "other", EB_MESSAGE_ID_REUSED);
    assert_int_equal(21, put(store, 21, "next", EB_OK).seq);
    assert_int_equal(EB_OK, acknowledge(store, 3, 3));
    assert_int_equal(EB_NOT_FOUND, acknowledge(store, 22, 0));
    eb_store_close(store);
}

/* With storage = memory nothing is left, and another epoch says so. */
static void memory_starts_anew(void **state)
{
    struct eb_store_config config = config_of(false);
    struct eb_store *store = opened(&config);
    struct eb_store_info before, after;
    assert_int_equal(1, put(store, 1, "first", EB_OK).seq);
    eb_store_info(store, &before);
    assert_true(before.memory);
    eb_store_close(store);
    store = opened(&config);
    eb_store_info(store, &after);
    assert_string_not_equal(before.epoch, after.epoch);
    assert_int_equal(0, after.last_seq);
    assert_int_equal(1, after.first_seq);
    assert_int_equal(1, put(store, 1, "other", EB_OK).seq);
    eb_store_close(store);
}

/* ---- many at once ---- */

#define PUBLISHERS 8
#define BATCHES    40
#define MEMBERS    5

struct publisher {
    struct eb_store *store;
    unsigned number;
};

/* Batches of one publisher, each waited for: consecutive seqs, and every third is acknowledged. */
static void *publish_batches(void *arg)
{
    struct publisher *self = arg;
    for (unsigned n = 0; n < BATCHES; n++) {
        struct eb_event *events[MEMBERS];
        struct eb_op_result results[MEMBERS];
        for (unsigned i = 0; i < MEMBERS; i++)
            events[i] =
                event_new(1 + (self->number * BATCHES + n) * MEMBERS + i, "store.test", "x");
        struct eb_op op = {
            .kind = EB_OP_PUBLISH, .count = MEMBERS, .events = events, .results = results};
        submit_and_wait(self->store, &op);
        assert_int_equal(EB_OK, op.err.code);
        for (unsigned i = 0; i < MEMBERS; i++) {
            assert_int_equal(results[0].seq + i, results[i].seq);
            assert_int_equal(results[i].seq, events[i]->seq);
            eb_event_unref(events[i]);
        }
        if (n % 3 == 0)
            assert_int_equal(EB_OK, acknowledge(self->store, results[0].seq, 0));
    }
    return NULL;
}

static uint64_t read_whole_log(struct eb_store *store)
{
    struct eb_pattern pattern;
    struct eb_selection *selection;
    struct eb_reader *reader;
    struct eb_error err;
    uint64_t next = 1, events = 0, last = 0;
    int64_t timestamp = 0;
    assert_int_equal(0, eb_pattern_parse(&pattern, "store.*", 7, &err));
    assert_int_equal(0, eb_selection_create(&pattern, 1, &selection));
    assert_int_equal(0, eb_reader_create(store, &reader));
    while (next <= eb_store_last_seq(store)) {
        struct eb_page page;
        struct eb_page_request request = {
            .from = next, .upto = UINT64_MAX, .max_events = 100, .max_bytes = 1 << 20};
        assert_int_equal(0, eb_reader_page(reader, selection, &request, &page));
        for (size_t i = 0; i < page.count; i++, events++) {
            struct eb_event *event = page.items[i].event;
            assert_non_null(event);
            assert_true(event->seq > last && event->timestamp >= timestamp);
            last = event->seq;
            timestamp = event->timestamp;
        }
        next = page.next;
        eb_page_finish(&page);
    }
    eb_reader_destroy(reader);
    eb_selection_destroy(selection);
    return events;
}

static void many_publishers(bool file)
{
    struct eb_store_config config = config_of(file);
    struct eb_store *store = opened(&config);
    struct publisher publishers[PUBLISHERS];
    pthread_t threads[PUBLISHERS];
    struct eb_store_counters counters;
    for (unsigned i = 0; i < PUBLISHERS; i++) {
        publishers[i] = (struct publisher){store, i};
        assert_int_equal(0, pthread_create(&threads[i], NULL, publish_batches, &publishers[i]));
    }
    for (unsigned i = 0; i < PUBLISHERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(PUBLISHERS * BATCHES * MEMBERS, eb_store_last_seq(store));
    assert_int_equal(PUBLISHERS * BATCHES * MEMBERS, read_whole_log(store));
    eb_store_counters(store, &counters);
    assert_int_equal(PUBLISHERS * BATCHES * MEMBERS, counters.stored);
    assert_int_equal(PUBLISHERS * ((BATCHES + 2) / 3), counters.acked);
    assert_int_equal(0, counters.commit_failures);
    eb_store_close(store);
}

/* Eight threads, batches and acks, an engine each: all of it there, in order, batches without a hole. */
static void many_publishers_memory(void **state)
{
    many_publishers(false);
}

static void many_publishers_file(void **state)
{
    many_publishers(true);
}

/* The janitor's thread deletes by count while the store runs, and tells readers by a gap. */
static void retention_while_it_runs(void **state)
{
    for (int file = 0; file < 2; file++) {
        struct eb_store_config config = config_of(file);
        struct eb_store_info info;
        config.retention_events = 10;
        struct eb_store *store = opened(&config);
        for (unsigned n = 1; n <= 100; n++)
            put(store, n, "x", EB_OK);
        int64_t deadline = eb_mono_ms() + 20000;
        do { /* it comes by once a second */
            assert_true(eb_mono_ms() < deadline);
            put(store, 1, "x", EB_OK); /* a repeat, deleted or not */
            eb_store_info(store, &info);
        } while (info.events > 10);
        assert_int_equal(91, info.first_seq);
        assert_int_equal(90, info.deleted_upto);
        assert_int_equal(100, info.last_seq);
        eb_store_close(store);
    }
}

#define TEST(name)                                                                                 \
    {                                                                                              \
        "store/" #name, name, setup, teardown, NULL                                                \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(restart_goes_on),      TEST(memory_starts_anew),      TEST(many_publishers_memory),
        TEST(many_publishers_file), TEST(retention_while_it_runs),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
