/*
 * test_stress.c - the bus over the real store in memory, with threads: publishers, subscribers that drain
 * slowly or fast, sessions that come and go. Meant for TSan; the rules themselves are played in test_seam.c.
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

#include "broker/bus/bus.h"
#include "common/clock.h"

#define PUBLISHERS  3
#define SUBSCRIBERS 6
#define EVENTS      2000 /* each publisher */
#define LIVES       40   /* of a lone replay */

struct world {
    struct eb_store *store;
    struct eb_bus *bus;
};

struct box { /* a transport that checks what it takes */
    struct world *world;
    struct eb_session *session;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool awake, ok;
    uint64_t got, last_live, last_replay, gaps;
    uint64_t live_from; /* `live` notice or last_seq */
    uint64_t bad;       /* first seq out of its place: cmocka may not fail on this thread */
    bool replaying;
    unsigned nap_every;
    _Atomic bool stop;
};

/* A frame of this test: kind, seq. */
struct note {
    char kind; /* E event, R replayed event, G gap, L live */
    uint64_t seq;
};

static struct eb_frame *note(char kind, uint64_t seq)
{
    struct note n = {.kind = kind, .seq = seq};
    return eb_frame_from(&n, sizeof(n));
}

static struct eb_frame *on_event(struct eb_session *session, struct eb_event *event,
                                 const char *pattern)
{
    return note(pattern != NULL ? 'R' : 'E', event->seq);
}

static struct eb_frame *on_gap(struct eb_session *session, const struct eb_gap *gap)
{
    return note('G', gap->to_seq);
}

static struct eb_frame *on_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    return note('L', seq);
}

static void on_wake(struct eb_session *session)
{
    struct box *box = eb_session_user(session);
    pthread_mutex_lock(&box->mutex);
    box->awake = true;
    pthread_cond_signal(&box->cond);
    pthread_mutex_unlock(&box->mutex);
}

static size_t on_events(struct eb_session *session, struct eb_event *const *events, size_t count,
                        const char *pattern, size_t max_bytes, struct eb_buf *out)
{
    size_t i;
    for (i = 0; i < count && (i == 0 || out->len < max_bytes); i++) {
        struct note n = {.kind = pattern != NULL ? 'R' : 'E', .seq = events[i]->seq};
        eb_buf_add(out, &n, sizeof(n));
    }
    return i;
}

static const struct eb_session_ops ops = {
    .event = on_event, .gap = on_gap, .live = on_live, .wake = on_wake, .events = on_events};

static void free_box(struct eb_session *session)
{
    free(eb_session_user(session));
}

static const struct eb_session_ops lone_ops = {.event = on_event,
                                               .gap = on_gap,
                                               .live = on_live,
                                               .wake = on_wake,
                                               .events = on_events,
                                               .destroy = free_box};

static void check(struct box *box, const struct note *n)
{
    uint64_t *last = n->kind == 'R' ? &box->last_replay : &box->last_live;
    switch (n->kind) {
    case 'G':
        box->gaps++;
        break;
    case 'L':
        box->bad = box->bad != 0 || n->seq >= box->last_replay ? box->bad : n->seq;
        box->live_from = n->seq;
        if (box->last_live < n->seq)
            box->last_live = n->seq;
        break;
    default: /* all topics match, so the seqs of a stream have no hole */
        if (n->kind == 'E' || *last != 0)
            box->bad = box->bad != 0 || n->seq == *last + 1 ? box->bad : n->seq;
        *last = n->seq;
        box->got++;
        if (n->kind == 'R' && box->last_live < n->seq)
            box->last_live = n->seq;
    }
}

static void *drain(void *arg)
{
    struct box *box = arg;
    struct eb_out out[16];
    unsigned round = 0;
    for (;;) {
        size_t count = eb_session_take(box->session, out, 16, 1 << 20);
        if (count == 0) {
            pthread_mutex_lock(&box->mutex);
            while (!box->awake && !box->stop)
                pthread_cond_wait(&box->cond, &box->mutex);
            box->awake = false;
            bool stop = box->stop;
            pthread_mutex_unlock(&box->mutex);
            if (stop)
                break;
            continue;
        }
        size_t sent = ++round % 3 == 0 ? count / 2 : count; /* EAGAIN now and then */
        for (size_t i = 0; i < sent; i++) {
            for (size_t at = 0; at < out[i].frame->len; at += sizeof(struct note)) {
                struct note n;
                memcpy(&n, out[i].frame->data + at, sizeof(n));
                check(box, &n);
            }
        }
        eb_session_putback(box->session, out + sent, count - sent);
        eb_session_sent(box->session, out, sent);
        if (box->nap_every != 0 && round % box->nap_every == 0)
            sched_yield();
    }
    return NULL;
}

static void publish_done(struct eb_publish *publish)
{
    assert_int_equal(publish->op.err.code, EB_OK);
    eb_publish_destroy(publish);
}

static void *publish(void *arg)
{
    struct world *world = arg;
    for (int i = 0; i < EVENTS; i++) {
        struct eb_publish *publish = eb_publish_create(1);
        struct eb_draft draft = {
            .topic = i % 2 ? "a.b" : "c", .payload = "x", .payload_len = 1, .ttl = EB_TTL_UNSET};
        struct eb_error err;
        draft.topic_len = strlen(draft.topic);
        assert_int_equal(eb_publish_add(world->bus, publish, &draft, &err), 0);
        publish->done = publish_done;
        eb_bus_publish(world->bus, publish);
    }
    return NULL;
}

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool done;
    uint64_t last_seq;
    struct box *box;
};

static void finish(struct waiter *waiter)
{
    pthread_mutex_lock(&waiter->mutex);
    waiter->done = true;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->mutex);
}

static void wait_for(struct waiter *waiter)
{
    pthread_mutex_lock(&waiter->mutex);
    while (!waiter->done)
        pthread_cond_wait(&waiter->cond, &waiter->mutex);
    pthread_mutex_unlock(&waiter->mutex);
}

static void subscribed(struct eb_subscribe *subscribe)
{
    struct waiter *waiter = subscribe->user;
    assert_int_equal(subscribe->err.code, EB_OK);
    if (!subscribe
             ->replay) /* live: the next event is last_seq + 1; nothing is drained for it before this returns */
        waiter->box->last_live = subscribe->last_seq;
    finish(waiter);
}

static void requested(struct eb_request *request)
{
    finish(request->user);
}

static void subscribe(struct box *box, const char *text, bool replay, uint64_t from)
{
    struct eb_pattern pattern;
    struct eb_error err;
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, .box = box};
    struct eb_subscribe request = {.patterns = &pattern,
                                   .count = 1,
                                   .replay = replay,
                                   .starting_seq = from,
                                   .done = subscribed,
                                   .user = &waiter};
    assert_int_equal(eb_pattern_parse(&pattern, text, strlen(text), &err), 0);
    eb_bus_subscribe(box->world->bus, box->session, &request);
    wait_for(&waiter);
}

static void fence(struct box *box)
{
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
    struct eb_request request = {.done = requested, .user = &waiter};
    eb_bus_fence(box->world->bus, box->session, &request);
    wait_for(&waiter);
}

static void open_world(struct world *world, size_t queue_events)
{
    struct eb_store_config store = {.memory_bytes = 64 << 20,
                                    .dedupe_window_ms = 1000,
                                    .dedupe_max = 1000,
                                    .acked_retention_ms = -1};
    struct eb_bus_config bus = {.readers = 2,
                                .max_batch = 100,
                                .limits = {.max_payload = 1 << 20, .max_headers = 64},
                                .queue_events = queue_events,
                                .queue_bytes = 1 << 20,
                                .max_subscriptions = 10,
                                .auto_ack = true};
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

static void wait_until_all(struct box *box, uint64_t upto)
{
    int64_t deadline = eb_mono_ms() + 60000;
    for (;;) {
        struct eb_session_state state;
        eb_session_state(box->session, &state);
        pthread_mutex_lock(&box->mutex);
        bool drained = state.queued_events == 0 && !state.lagging && state.replaying == 0;
        pthread_mutex_unlock(&box->mutex);
        if (drained && eb_bus_visible(box->world->bus) == upto)
            return;
        assert_true(eb_mono_ms() < deadline);
        sched_yield();
    }
}

static void stop_draining(struct box *box, pthread_t drainer)
{
    pthread_mutex_lock(&box->mutex);
    box->stop = true;
    pthread_cond_signal(&box->cond);
    pthread_mutex_unlock(&box->mutex);
    pthread_join(drainer, NULL);
}

/* Six subscribers, live and replaying, over queues far too small, get every event of three publishers in order. */
static void everyone_gets_everything_in_order(void **unused)
{
    struct world world;
    struct box boxes[SUBSCRIBERS] = {0};
    pthread_t publishers[PUBLISHERS], drainers[SUBSCRIBERS];
    open_world(&world, 32);
    for (int i = 0; i < PUBLISHERS; i++)
        pthread_create(&publishers[i], NULL, publish, &world);
    for (int i = 0; i < SUBSCRIBERS; i++) {
        struct box *box = &boxes[i];
        box->world = &world;
        box->nap_every = (unsigned)i;
        pthread_mutex_init(&box->mutex, NULL);
        pthread_cond_init(&box->cond, NULL);
        assert_int_equal(eb_session_create(world.bus, &ops, box, false, &box->session), 0);
        subscribe(box, "#", i % 2 == 0, 0);
        pthread_create(&drainers[i], NULL, drain, box);
    }
    for (int i = 0; i < PUBLISHERS; i++)
        pthread_join(publishers[i], NULL);
    fence(&boxes[0]);
    for (int i = 0; i < SUBSCRIBERS; i++)
        wait_until_all(&boxes[i], PUBLISHERS * EVENTS);
    for (int i = 0; i < SUBSCRIBERS; i++) {
        struct box *box = &boxes[i];
        stop_draining(box, drainers[i]);
        assert_int_equal(box->bad, 0);
        assert_int_equal(box->last_live, PUBLISHERS * EVENTS);
        assert_int_equal(box->gaps, 0);
        if (i % 2 == 0)
            assert_int_equal(box->got, PUBLISHERS * EVENTS);
        eb_session_close(box->session);
        eb_session_unref(box->session);
    }
    close_world(&world);
}

static void unsubscribe(struct box *box, const char *text)
{
    struct eb_error err;
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
    struct eb_request request = {.done = requested, .user = &waiter};
    assert_int_equal(eb_pattern_parse(&request.pattern, text, strlen(text), &err), 0);
    eb_bus_unsubscribe(box->world->bus, box->session, &request);
    wait_for(&waiter);
}

/* Its session may live on for a moment: a reader may hold it. */
static struct box *lone_box(struct world *world, unsigned nap_every)
{
    struct box *box = calloc(1, sizeof(*box));
    box->world = world;
    box->nap_every = nap_every;
    pthread_mutex_init(&box->mutex, NULL);
    pthread_cond_init(&box->cond, NULL);
    assert_int_equal(eb_session_create(world->bus, &lone_ops, box, false, &box->session), 0);
    return box;
}

/* One replay, alone, so that one reader reads ahead while another encodes (ahead.c): whole, or left at any moment. */
static void lone_replay_is_whole(void **unused)
{
    struct world world;
    open_world(&world, 64);
    for (int i = 0; i < PUBLISHERS; i++)
        publish(&world);
    for (unsigned life = 0; life < LIVES; life++) {
        struct box *box = lone_box(&world, life % 4);
        pthread_t drainer;
        pthread_create(&drainer, NULL, drain, box);
        subscribe(box, "#", true, 0);
        fence(box); /* it has begun */
        if (life % 2 == 0)
            wait_until_all(box, PUBLISHERS * EVENTS);
        else if (life % 4 == 1)
            unsubscribe(box, "#");
        stop_draining(box, drainer);
        assert_int_equal(box->bad, 0);
        if (life % 2 == 0)
            assert_int_equal(box->got, PUBLISHERS * EVENTS);
        struct eb_session *session = box->session;
        eb_session_close(session);
        eb_session_unref(session);
    }
    close_world(&world);
}

static void no_wake(struct eb_session *session)
{
}

static const struct eb_session_ops passing_ops = {
    .event = on_event, .gap = on_gap, .live = on_live, .wake = no_wake, .destroy = free_box};

static void open_published(struct eb_publish *publish)
{
    struct note n = {.kind = 'o'};
    eb_session_reply_bytes(publish->session, &n, sizeof(n));
    eb_publish_destroy(publish);
}

/* One connection's life: publish with flow control, subscribe, drain a little, start afresh, leave, close. */
static void one_life(struct world *world, unsigned life)
{
    struct box *box = calloc(1, sizeof(*box));
    struct eb_out out[8];
    struct eb_session *session;
    box->world = world;
    assert_int_equal(eb_session_create(world->bus, &passing_ops, box, false, &session), 0);
    box->session = session;
    subscribe(box, "#", true, 0);
    subscribe(box, "a.*", life % 2 == 0, life);
    for (int i = 0; i < 20; i++) {
        struct eb_publish *publish = eb_publish_create(1);
        struct eb_draft draft = {.topic = "a.b", .topic_len = 3, .payload = "x", .payload_len = 1};
        struct eb_error err;
        assert_int_equal(eb_publish_add(world->bus, publish, &draft, &err), 0);
        publish->done = open_published;
        publish->session = eb_session_ref(session);
        eb_bus_publish(world->bus, publish);
        size_t count = eb_session_take(session, out, 8, 1 << 20);
        eb_session_sent(session, out, count / 2);
        eb_session_putback(session, out + count / 2, count - count / 2);
        assert_int_equal(eb_session_wait_room(session, 8, 1 << 20, -1), 0);
    }
    if (life % 3 == 0)
        subscribe(box, "#", true, life);
    if (life % 3 != 2)
        unsubscribe(box, "a.*");
    eb_session_close(session);
    eb_session_unref(session);
}

static void *live_lives(void *arg)
{
    for (unsigned i = 0; i < 60; i++)
        one_life(arg, i);
    return NULL;
}

/* Connections come and go under load, with requests open and pages on their way; in the end nothing is left. */
static void sessions_come_and_go(void **unused)
{
    struct world world;
    struct eb_bus_counters counters;
    struct eb_subscription_info *list;
    pthread_t threads[3], publisher;
    open_world(&world, 16);
    pthread_create(&publisher, NULL, publish, &world);
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, live_lives, &world);
    for (int i = 0; i < 50; i++) {
        eb_bus_subscriptions(world.bus, 0, 100, &list);
        free(list);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    pthread_join(publisher, NULL);
    eb_bus_stop(world.bus);
    eb_store_close(world.store);
    eb_bus_counters(world.bus, &counters);
    assert_int_equal(counters.subscriptions, 0);
    assert_int_equal(counters.lagging, 0);
    eb_bus_destroy(world.bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everyone_gets_everything_in_order),
        cmocka_unit_test(lone_replay_is_whole),
        cmocka_unit_test(sessions_come_and_go),
    };
    return cmocka_run_group_tests_name("bus/stress", tests, NULL, NULL);
}
