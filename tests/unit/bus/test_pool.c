/*
 * test_pool.c - the reader threads over the real store in memory: one-off reads, timed auto_ack, the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/bus.h"
#include "common/clock.h"

struct world {
    struct eb_store *store;
    struct eb_bus *bus;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    unsigned done;
};

static struct world *open_world(bool auto_ack)
{
    struct world *w = calloc(1, sizeof(*w));
    struct eb_store_config store = {.memory_bytes = 16 << 20,
                                    .dedupe_window_ms = 1000,
                                    .dedupe_max = 1000,
                                    .acked_retention_ms = -1};
    struct eb_bus_config bus = {.readers = 2,
                                .max_batch = 100,
                                .limits = {.max_payload = 1 << 20, .max_headers = 64},
                                .queue_events = 100,
                                .queue_bytes = 1 << 20,
                                .max_subscriptions = 10,
                                .auto_ack = auto_ack};
    struct eb_error err;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->cond, NULL);
    assert_int_equal(eb_store_open(&store, &w->store, &err), 0);
    assert_int_equal(eb_bus_create(&bus, w->store, &w->bus), 0);
    return w;
}

static void close_world(struct world *w)
{
    eb_bus_stop(w->bus);
    eb_store_close(w->store);
    eb_bus_destroy(w->bus);
    free(w);
}

static void one_done(struct world *w)
{
    pthread_mutex_lock(&w->mutex);
    w->done++;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

static void wait_done(struct world *w, unsigned count)
{
    pthread_mutex_lock(&w->mutex);
    while (w->done < count)
        pthread_cond_wait(&w->cond, &w->mutex);
    w->done = 0;
    pthread_mutex_unlock(&w->mutex);
}

static void published(struct eb_publish *publish)
{
    one_done(publish->user);
    eb_publish_destroy(publish);
}

static void publish(struct world *w, const char *topic, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct eb_publish *publish = eb_publish_create(1);
        struct eb_draft draft = {
            .topic = topic, .topic_len = strlen(topic), .payload = "x", .payload_len = 1};
        struct eb_error err;
        assert_int_equal(eb_publish_add(w->bus, publish, &draft, &err), 0);
        publish->done = published;
        publish->user = w;
        eb_bus_publish(w->bus, publish);
    }
    wait_done(w, count);
}

static void read_done(struct eb_read *read)
{
    one_done(read->user);
}

static void do_read(struct world *w, struct eb_read *read, const char *pattern)
{
    struct eb_pattern parsed;
    struct eb_error err;
    if (pattern != NULL) {
        assert_int_equal(eb_pattern_parse(&parsed, pattern, strlen(pattern), &err), 0);
        read->patterns = &parsed;
        read->count = 1;
    }
    read->done = read_done;
    read->user = w;
    if (read->max_bytes == 0)
        read->max_bytes = 1 << 20;
    eb_bus_read(w->bus, read);
    wait_done(w, 1);
    read->patterns = NULL;
}

/* The same rules as a subscription's replay: from, limit, where to go on, the gap of another epoch. */
static void read_page_by_page(void **unused)
{
    struct world *w = open_world(false);
    publish(w, "a", 3);
    publish(w, "b", 2);
    struct eb_read page = {.kind = EB_READ_PAGE, .limit = 2, .from = 0};
    do_read(w, &page, "a");
    assert_int_equal(page.err.code, EB_OK);
    assert_int_equal(page.page.count, 2);
    assert_int_equal(page.page.items[1].event->seq, 2);
    assert_int_equal(page.page.next, 3);
    assert_int_equal(page.last_seq, 5);
    eb_read_finish(&page);

    struct eb_read rest = {.kind = EB_READ_PAGE, .limit = 10, .from = 4};
    do_read(w, &rest, "a");
    assert_int_equal(rest.page.count, 0);
    assert_int_equal(rest.page.next, 6);
    eb_read_finish(&rest);

    struct eb_read at_end = {.kind = EB_READ_PAGE, .limit = 10, .from = 6};
    do_read(w, &at_end, "#");
    assert_int_equal(at_end.page.count, 0);
    assert_int_equal(at_end.page.next, 6);
    eb_read_finish(&at_end);

    struct eb_read beyond = {.kind = EB_READ_PAGE, .limit = 1, .from = 7};
    do_read(w, &beyond, "#");
    assert_int_equal(beyond.page.count, 2);
    assert_int_equal(beyond.page.items[0].reason, EB_GAP_EPOCH);
    assert_int_equal(beyond.page.items[0].to_seq, 0);
    assert_int_equal(beyond.page.items[1].event->seq, 1);
    eb_read_finish(&beyond);

    struct eb_read other = {
        .kind = EB_READ_PAGE, .limit = 10, .from = 2, .has_epoch = true, .epoch = "nonsense"};
    do_read(w, &other, "b");
    assert_int_equal(other.page.items[0].reason, EB_GAP_EPOCH);
    assert_int_equal(other.page.items[1].event->seq, 4);
    eb_read_finish(&other);
    close_world(w);
}

static void read_one_event(void **unused)
{
    struct world *w = open_world(false);
    publish(w, "a.b", 1);
    struct eb_read there = {.kind = EB_READ_EVENT, .from = 1};
    do_read(w, &there, NULL);
    assert_int_equal(there.err.code, EB_OK);
    assert_string_equal(there.event->topic, "a.b");
    eb_read_finish(&there);
    struct eb_read missing = {.kind = EB_READ_EVENT, .from = 2};
    do_read(w, &missing, NULL);
    assert_int_equal(missing.err.code, EB_NOT_FOUND);
    eb_read_finish(&missing);
    close_world(w);
}

static void read_topics_in_order(void **unused)
{
    struct world *w = open_world(false);
    publish(w, "b", 1);
    publish(w, "a", 1);
    publish(w, "c", 1);
    struct eb_read topics = {.kind = EB_READ_TOPICS, .limit = 2, .after = "a"};
    do_read(w, &topics, NULL);
    assert_int_equal(topics.topic_count, 2);
    assert_string_equal(topics.topics[0].name, "b");
    assert_string_equal(topics.topics[1].name, "c");
    eb_read_finish(&topics);
    close_world(w);
}

/* After the stop a read is answered at once: unavailable. */
static void read_after_stop_is_refused(void **unused)
{
    struct world *w = open_world(false);
    struct eb_read read = {.kind = EB_READ_EVENT, .from = 1};
    eb_bus_stop(w->bus);
    do_read(w, &read, NULL);
    assert_int_equal(read.err.code, EB_UNAVAILABLE);
    eb_read_finish(&read);
    close_world(w); /* stops a second time */
}

static struct eb_frame *on_event(struct eb_session *session, struct eb_event *event,
                                 const char *pattern)
{
    return eb_frame_from("event", 5);
}

static const struct eb_session_ops ops = {.event = on_event};

static void subscribed(struct eb_subscribe *subscribe)
{
    one_done(subscribe->user);
}

/* auto_ack: a batch that does not fill up is written by a reader after a short while. */
static void autoack_is_written_after_a_while(void **unused)
{
    struct world *w = open_world(true);
    struct eb_session *session;
    struct eb_pattern pattern;
    struct eb_error err;
    struct eb_out out[4];
    struct eb_bus_counters counters;
    struct eb_subscribe subscribe = {
        .patterns = &pattern, .count = 1, .done = subscribed, .user = w};
    assert_int_equal(eb_pattern_parse(&pattern, "a", 1, &err), 0);
    assert_int_equal(eb_session_create(w->bus, &ops, NULL, false, &session), 0);
    eb_bus_subscribe(w->bus, session, &subscribe);
    wait_done(w, 1);
    publish(w, "a", 3);
    for (size_t got = 0; got < 3;) {
        size_t count = eb_session_take(session, out, 4, SIZE_MAX);
        eb_session_sent(session, out, count);
        got += count;
    }
    int64_t deadline = eb_mono_ms() + 20000;
    do {
        eb_bus_counters(w->bus, &counters);
        assert_true(eb_mono_ms() < deadline);
        sched_yield();
    } while (counters.acked < 3);
    eb_session_close(session);
    eb_session_unref(session);
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_page_by_page),
        cmocka_unit_test(read_one_event),
        cmocka_unit_test(read_topics_in_order),
        cmocka_unit_test(read_after_stop_is_refused),
        cmocka_unit_test(autoack_is_written_after_a_while),
    };
    return cmocka_run_group_tests_name("bus/pool", tests, NULL, NULL);
}
