/*
 * test_publish_block.c - the memory of publishes on its way to the committing thread and back (M1 to M3).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/fake_world.h"

#define MIB ((size_t)1 << 20)

static const struct eb_session_ops ops = {.wake = NULL};

static struct eb_session *open_session(struct fake_world *w)
{
    struct eb_session *session;
    assert_int_equal(eb_session_create(w->bus, &ops, NULL, false, &session), 0);
    eb_session_collect(session);
    return session;
}

static void close_session(struct eb_session *session)
{
    eb_session_close(session);
    eb_session_unref(session);
}

static struct eb_publish *make(struct eb_session *session, size_t bytes)
{
    static char payload[1 << 16];
    struct eb_draft draft = {
        .topic = "a", .topic_len = 1, .payload = payload, .payload_len = bytes};
    struct eb_error err;
    struct eb_publish *publish = eb_publish_create_on(session, 1);
    assert_non_null(publish);
    assert_int_equal(eb_publish_add(eb_session_bus(session), publish, &draft, &err), 0);
    return publish;
}

static size_t kept(struct eb_session *session)
{
    return atomic_load(&session->back_bytes);
}

/* M2: who leaves last frees nothing; the next publish lies where the last one lay, and its event that somebody still has is left
 * to him. */
static void memory_comes_back_to_who_made_it(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_session *session = open_session(w);
    struct eb_publish *first = make(session, 100);
    struct eb_event *event = eb_event_ref(first->op.events[0]);
    eb_publish_end_block(session);
    eb_publish_destroy(first);
    assert_int_equal(event->refs, 2);
    assert_in_range(kept(session), eb_event_size(event), 2000);
    struct eb_publish *second = make(session, 100);
    assert_ptr_equal(second, first);
    assert_int_equal(event->refs, 1);
    assert_int_equal(kept(session), 0);
    eb_publish_end_block(session);
    eb_publish_destroy(second);
    eb_event_unref(event);
    close_session(session);
    fake_close(w);
}

static struct eb_event *event_of(const struct eb_publish *publish)
{
    return publish->op.events[0];
}

static void over(struct eb_session *session, struct eb_publish *publish)
{
    eb_publish_end_block(session);
    eb_publish_destroy(publish);
}

/* M2: an event takes the memory of the one before it, as one that nobody ever had. */
static void an_event_takes_the_memory_of_the_last_one(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_session *session = open_session(w);
    struct eb_publish *first = make(session, 100);
    struct eb_event *event = event_of(first);
    event->seq = 7;
    event->topic_id = 8;
    eb_frame_unref(eb_event_cache_frame(event, EB_ENC_SSE, eb_frame_create(1)));
    over(session, first);
    struct eb_publish *second = make(session, 90);
    assert_ptr_equal(event_of(second), event);
    assert_int_equal(event->refs, 1);
    assert_int_equal(event->payload_len, 90);
    assert_true(event->seq == 0 && event->topic_id == 0);
    assert_null(eb_event_cached(event, EB_ENC_SSE));
    over(session, second);
    struct eb_publish *large = make(session, 20000);
    assert_int_equal(event_of(large)->payload_len, 20000);
    over(session, large);
    struct eb_publish *small =
        make(session, 10); /* and does not sit on all that memory: a sanitizer would see no fault */
    assert_in_range(malloc_usable_size(event_of(small)), 10, 2000);
    over(session, small);
    close_session(session);
    fake_close(w);
}

/* M2: a publish that is refused needs no event; the memory waits for the next one in its place, or goes with the block. */
static void memory_that_was_not_needed_stays_or_goes(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_session *session = open_session(w);
    struct eb_draft bad = {.topic = "a..b", .topic_len = 4, .payload = "x", .payload_len = 1};
    struct eb_error err;
    struct eb_publish *many[8], *one = make(session, 100);
    struct eb_event *event = event_of(one);
    over(session, one);
    one = eb_publish_create_on(session, 1);
    assert_int_equal(eb_publish_add(w->bus, one, &bad, &err), -1);
    assert_int_equal(one->op.count, 0);
    over(session, one);
    one = make(session, 100);
    assert_ptr_equal(event_of(one), event);
    over(session, one);
    for (int i = 0; i < 8; i++)
        many[i] = make(session, 100);
    eb_publish_end_block(session);
    for (int i = 0; i < 8; i++)
        eb_publish_destroy(many[i]);
    for (int i = 0; i < 4; i++) /* most of these blocks is not used this time */
        over(session, make(session, 100));
    close_session(session);
    fake_close(w); /* what is lost or given up twice is the sanitizers' to tell */
}

/* M3: a thread that rests keeps nothing, and what comes back meanwhile is freed by who brings it. */
static void a_thread_that_rests_keeps_nothing(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_session *session = open_session(w);
    struct eb_publish *before = make(session, 100), *late;
    eb_publish_end_block(session);
    late = make(session, 100);
    eb_publish_end_block(session);
    struct eb_event *event = eb_event_ref(late->op.events[0]);
    eb_publish_destroy(before);
    assert_true(kept(session) > 0);
    eb_session_rest(session);
    assert_int_equal(kept(session), 0);
    eb_publish_destroy(late);
    assert_int_equal(event->refs, 1);
    assert_int_equal(kept(session), 0);
    before = make(session, 100); /* awake again */
    eb_publish_end_block(session);
    eb_publish_destroy(before);
    assert_true(kept(session) > 0);
    eb_event_unref(event);
    close_session(session);
    fake_close(w); /* the sanitizers' builds see what is left */
}

/* M3: however much is answered at once, what waits for its thread is bounded. */
static void what_comes_back_is_bounded(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_session *session = open_session(w);
    static struct eb_publish *all[1000];
    for (int i = 0; i < 1000; i++)
        all[i] = make(session, 10000);
    eb_publish_end_block(session);
    for (int i = 0; i < 1000; i++)
        eb_publish_destroy(all[i]);
    assert_in_range(kept(session), 2 * MIB, 4 * MIB);
    size_t before = kept(session);
    for (int i = 0; i < 64; i++) /* each new block takes one up */
        all[i] = make(session, 10);
    assert_in_range(kept(session), 0, before - 10000);
    eb_publish_end_block(session);
    for (int i = 0; i < 64; i++)
        eb_publish_destroy(all[i]);
    close_session(session);
    fake_close(w);
}

/* ---- two threads ---- */

struct way {
    pthread_mutex_t lock;
    struct eb_op *head, **tail;
    bool over;
};

/* The committing one: leaves what it is given. */
static void *committing(void *arg)
{
    struct way *way = arg;
    for (bool over = false; !over;) {
        pthread_mutex_lock(&way->lock);
        struct eb_op *op = way->head;
        way->head = NULL;
        way->tail = &way->head;
        over = way->over && op == NULL;
        pthread_mutex_unlock(&way->lock);
        for (struct eb_op *next; op != NULL; op = next) {
            next = op->next;
            eb_publish_destroy(eb_container(op, struct eb_publish, op));
        }
    }
    return NULL;
}

/* Whatever meets, each event is given up once, and the counts come out even. */
static void blocks_go_between_two_threads(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_session *session = open_session(w);
    struct way way = {.tail = &way.head};
    pthread_t thread;
    pthread_mutex_init(&way.lock, NULL);
    assert_int_equal(pthread_create(&thread, NULL, committing, &way), 0);
    for (int chunk = 0; chunk < 3000; chunk++) {
        struct eb_op *head = NULL, **tail = &head;
        for (int i = 0; i <= chunk % 150; i++) {
            struct eb_publish *publish = make(session, (size_t)(chunk % 7) * 50);
            *tail = &publish->op;
            tail = &publish->op.next;
        }
        eb_publish_end_block(session);
        *tail = NULL;
        pthread_mutex_lock(&way.lock);
        *way.tail = head;
        way.tail = tail;
        pthread_mutex_unlock(&way.lock);
        if (chunk % 40 == 39)
            eb_session_rest(session);
    }
    pthread_mutex_lock(&way.lock);
    way.over = true;
    pthread_mutex_unlock(&way.lock);
    pthread_join(thread, NULL);
    eb_session_rest(session);
    assert_int_equal(kept(session), 0);
    pthread_mutex_destroy(&way.lock);
    close_session(session);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_comes_back_to_who_made_it),
        cmocka_unit_test(an_event_takes_the_memory_of_the_last_one),
        cmocka_unit_test(memory_that_was_not_needed_stays_or_goes),
        cmocka_unit_test(a_thread_that_rests_keeps_nothing),
        cmocka_unit_test(what_comes_back_is_bounded),
        cmocka_unit_test(blocks_go_between_two_threads),
    };
    return cmocka_run_group_tests_name("bus/publish_block", tests, NULL, NULL);
}
