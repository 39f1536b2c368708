/*
 * test_publish_block.c - the memory of publishes on its way to the committing thread and back (M1 to M3).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
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

/* M2: who leaves last frees nothing; the next publish lies where the last one lay, and then its event is given up. */
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
        cmocka_unit_test(a_thread_that_rests_keeps_nothing),
        cmocka_unit_test(what_comes_back_is_bounded),
        cmocka_unit_test(blocks_go_between_two_threads),
    };
    return cmocka_run_group_tests_name("bus/publish_block", tests, NULL, NULL);
}
