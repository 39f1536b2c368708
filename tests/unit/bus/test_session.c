/*
 * test_session.c - the outbound queue as its transport sees it: order, putback, bounds, flow control, memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/unit/bus/fake_world.h"

static void wide(struct eb_bus_config *config)
{
    config->queue_events = 1000;
    config->queue_bytes = 1 << 20;
}

static void few_open_bytes(struct eb_bus_config *config)
{
    config->max_open_bytes = 1;
}

static void with_auto_ack(struct eb_bus_config *config)
{
    config->auto_ack = true;
}

static struct fake_box *box_with(struct fake_world *w, int count)
{
    struct fake_box *box = fake_box(w, false);
    fake_subscribe(box, "#", LIVE);
    fake_commit(w, ALL);
    fake_drain(box, ALL);
    for (int i = 0; i < count; i++)
        fake_publish(w, "a");
    fake_commit(w, ALL);
    return box;
}

/* Q3: what the kernel did not take goes back to the head in its old order, also when as many came as the ring
 * would have had places for without it. */
static void queue_putback_keeps_the_order(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = box_with(w, 14);
    struct eb_session_state state;
    struct eb_out out[12];
    assert_int_equal(eb_session_take(box->session, out, 12, SIZE_MAX), 12);
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 14); /* taken is not sent */
    for (int i = 0; i < 14; i++)
        fake_publish(w, "a");
    fake_commit(w, ALL);
    eb_session_sent(box->session, out, 2);
    eb_session_putback(box->session, out + 2, 10);
    assert_string_equal(fake_drain(box, 14), "E3 E4 E5 E6 E7 E8 E9 E10 E11 E12 E13 E14 E15 E16");
    assert_string_equal(fake_drain(box, ALL), "E17 E18 E19 E20 E21 E22 E23 E24 E25 E26 E27 E28");
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 0);
    assert_int_equal(state.queued_bytes, 0);
    assert_int_equal(state.delivered, 28);
    fake_box_close(box);
    fake_close(w);
}

/* A take ends at its bound of bytes, but gives at least one. */
static void queue_take_is_bounded_by_bytes(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = box_with(w, 0);
    struct eb_out out[8];
    for (int i = 0; i < 4; i++)
        fake_publish_large(w, "a", 100);
    fake_commit(w, ALL);
    assert_int_equal(eb_session_take(box->session, out, 8, 250), 2);
    eb_session_sent(box->session, out, 2);
    assert_int_equal(eb_session_take(box->session, out, 8, 10), 1);
    eb_session_sent(box->session, out, 1);
    fake_box_close(box);
    fake_close(w);
}

/* Answers that wait are joined in one frame, never behind something else and never once they were taken. */
static void queue_joins_answers(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = box_with(w, 0);
    struct eb_session_state state;
    struct eb_out out[8];
    char large[2000] = {0};
    eb_session_reply_bytes(box->session, "one ", 4);
    eb_session_reply_bytes(box->session, "two", 4);
    eb_session_state(box->session, &state);
    assert_int_equal(state.answers_bytes, 8);
    assert_int_equal(eb_session_take(box->session, out, 8, SIZE_MAX), 1);
    assert_string_equal((char *)out[0].frame->data, "one two");
    eb_session_reply_bytes(box->session, "three", 6);
    fake_publish(w, "a");
    fake_commit(w, ALL);
    eb_session_reply_bytes(box->session, "four", 5);
    eb_session_reply_bytes(box->session, large, sizeof(large));
    eb_session_putback(box->session, out, 1);
    assert_int_equal(eb_session_take(box->session, out, 8, SIZE_MAX), 5);
    assert_string_equal((char *)out[1].frame->data, "three");
    assert_int_equal(out[2].seq, 1);
    assert_string_equal((char *)out[3].frame->data, "four");
    assert_int_equal(out[4].frame->len, sizeof(large));
    eb_session_sent(box->session, out, 5);
    eb_session_state(box->session, &state);
    assert_int_equal(state.answers_bytes, 0);
    fake_box_close(box);
    fake_close(w);
}

/* Answers are not bounded by the queue's bounds and take no event's room. */
static void queue_answers_always_fit(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = box_with(w, 8);
    struct eb_session_state state;
    char bytes[2000] = "x";
    eb_session_reply_bytes(box->session, bytes, sizeof(bytes));
    eb_session_state(box->session, &state);
    assert_int_equal(state.answers_bytes, sizeof(bytes));
    assert_false(state.lagging);
    fake_drain(box, 8);
    fake_publish(w, "a"); /* the answer still waits */
    fake_commit(w, ALL);
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 1);
    fake_box_close(box);
    fake_close(w);
}

struct waiting {
    struct fake_box *box;
    unsigned open;
    size_t bytes;
    int rc;
};

static void *wait_room(void *arg)
{
    struct waiting *waiting = arg;
    waiting->rc = eb_session_wait_room(waiting->box->session, waiting->open, waiting->bytes, -1);
    return NULL;
}

/* Until there is a waiter, or it is through (a look at the private count stands for a sleep). */
static void until_it_waits(struct fake_box *box)
{
    while (atomic_load(&box->session->waiters) == 0)
        sched_yield();
}

/* A reader of requests waits for the answers of those it has submitted, for unsent answers, and for the end. */
static void wait_room_ends_when_it_should(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = box_with(w, 0);
    struct waiting waiting = {.box = box, .open = 2, .bytes = 1000};
    pthread_t thread;
    fake_ack(box, 1);
    fake_publish_on(box, "b");
    assert_int_equal(eb_session_wait_room(box->session, 3, 1000, -1), 0);
    assert_int_equal(eb_session_wait_room(box->session, 2, 1000, eb_mono_ms() + 1), -ETIMEDOUT);
    pthread_create(&thread, NULL, wait_room, &waiting);
    until_it_waits(box);
    fake_commit(w, ALL);
    pthread_join(thread, NULL);
    assert_int_equal(waiting.rc, 0);

    char bytes[1000] = "x";
    eb_session_reply_bytes(box->session, bytes, sizeof(bytes));
    pthread_create(&thread, NULL, wait_room, &waiting);
    until_it_waits(box);
    fake_drain(box, ALL);
    pthread_join(thread, NULL);
    assert_int_equal(waiting.rc, 0);

    eb_session_reply_bytes(box->session, bytes, sizeof(bytes));
    pthread_create(&thread, NULL, wait_room, &waiting);
    until_it_waits(box);
    eb_session_close(box->session);
    pthread_join(thread, NULL);
    assert_int_equal(waiting.rc, -ECANCELED);
    fake_box_close(box);
    fake_close(w);
}

/* A publisher of large events is not read while too many bytes of them wait for their commit. */
static void wait_room_counts_the_bytes_of_open_events(void **unused)
{
    struct fake_world *w = fake_open(few_open_bytes);
    struct fake_box *box = box_with(w, 0);
    fake_ack(box, 1);
    assert_int_equal(eb_session_wait_room(box->session, 100, 1000, eb_mono_ms() + 1), 0);
    fake_publish_on(box, "b");
    assert_int_equal(eb_session_wait_room(box->session, 100, 1000, eb_mono_ms() + 1), -ETIMEDOUT);
    fake_commit(w, ALL);
    assert_int_equal(eb_session_wait_room(box->session, 100, 1000, eb_mono_ms() + 1), 0);
    fake_box_close(box);
    fake_close(w);
}

/* After close nothing is queued, made or woken; what the transport had taken is dropped by either way back. */
static void close_is_the_end(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = box_with(w, 6);
    struct eb_out out[4];
    struct eb_session_state state;
    eb_session_take(box->session, out, 4, SIZE_MAX);
    fake_subscribe(box, "b", 0);
    eb_session_close(box->session);
    eb_session_close(box->session);
    unsigned wakes = box->wakes, made = box->made;
    fake_publish(w, "a");
    fake_commit(w, ALL);
    fake_turns(w);
    eb_session_reply_bytes(box->session, "x", 1);
    eb_session_sent(box->session, out, 2);
    eb_session_putback(box->session, out + 2, 2);
    assert_int_equal(box->wakes, wakes);
    assert_int_equal(box->made, made);
    eb_session_state(box->session, &state);
    assert_true(state.closed);
    assert_int_equal(state.queued_events + state.queued_bytes + state.subscriptions, 0);
    assert_string_equal(fake_drain(box, ALL), "");
    fake_box_close(box);
    fake_close(w);
}

/* A session with nothing queued holds less than 512 bytes, also after it had much. */
static void idle_session_is_small(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = box_with(w, 900);
    fake_drain(box, ALL);
    assert_true(malloc_usable_size(box->session) < 512);
    assert_null(box->session->ring);
    assert_null(box->session->snap);
    fake_box_close(box);
    fake_close(w);
}

/* auto_ack: marked once it was sent, not when it was queued; in one batch; notices and answers are none. */
static void auto_ack_marks_what_was_sent(void **unused)
{
    struct fake_world *w = fake_open(with_auto_ack);
    struct fake_box *box = box_with(w, 3), *other = box_with(w, 0);
    struct eb_bus_counters counters;
    fake_drain(box, 2);
    eb_autoack_flush(w->bus->autoack);
    assert_int_equal(fake_commit(w, ALL), 1);
    assert_true(fake_acked(w, 1));
    assert_true(fake_acked(w, 2));
    assert_false(fake_acked(w, 3));
    fake_subscribe(other, "a", 1);
    fake_commit(w, ALL);
    fake_drain_all(other);
    eb_autoack_flush(w->bus->autoack);
    fake_commit(w, ALL);
    assert_true(fake_acked(w, 3));
    eb_bus_counters(w->bus, &counters);
    assert_int_equal(counters.acked, 3); /* the first subscriber counts */
    fake_box_close(box);
    fake_box_close(other);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queue_putback_keeps_the_order),
        cmocka_unit_test(queue_take_is_bounded_by_bytes),
        cmocka_unit_test(queue_joins_answers),
        cmocka_unit_test(queue_answers_always_fit),
        cmocka_unit_test(wait_room_ends_when_it_should),
        cmocka_unit_test(wait_room_counts_the_bytes_of_open_events),
        cmocka_unit_test(close_is_the_end),
        cmocka_unit_test(idle_session_is_small),
        cmocka_unit_test(auto_ack_marks_what_was_sent),
    };
    return cmocka_run_group_tests_name("bus/session", tests, NULL, NULL);
}
