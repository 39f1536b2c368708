/*
 * test_consumer.c - a durable consumer (PROTOCOL 7) from PUT to DELETE: what its workers are given, what their answers
 * do, and that all of it is there after a restart. Over the world that is stepped by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/consumer_world.h"

#define ALL_TOPICS "{\"patterns\":[\"#\"],\"from\":\"all\"}"

static void publish(struct fake_world *world, const char *topic, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        fake_publish(world, topic);
    fake_commit(world, ALL);
}

/* A worker is given what matches, in order, from where the consumer begins. */
static void events_that_match_come_in_order(void **state)
{
    struct fake_world *w = fake_open(NULL);
    publish(w, "a.b", 2);
    publish(w, "c", 1);
    make(w, "new", "{\"patterns\":[\"a.*\"]}");
    make(w, "all", "{\"patterns\":[\"a.*\"],\"from\":\"all\"}");
    make(w, "seq", "{\"patterns\":[\"#\"],\"from\":{\"seq\":2}}");
    publish(w, "a.c", 1);
    struct hand *a = attach(w, "new", 0), *b = attach(w, "all", 0), *c = attach(w, "seq", 0);
    assert_string_equal(given(a), "4");
    assert_string_equal(given(b), "1 2 4");
    assert_string_equal(given(c), "2 3 4");
    assert_true(b->flushes > 0);
    publish(w, "a.d", 1);
    assert_string_equal(given(a), "5");
    leave(a, EB_LEAVE_AGAIN);
    leave(b, EB_LEAVE_AGAIN);
    leave(c, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* Each event is out at one worker at a time, one each in turn; one that takes nothing starves nobody. */
static void workers_share_the_events_in_turn(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    struct hand *a = attach(w, "c", 0), *b = attach(w, "c", 1), *c = attach(w, "c", 0);
    c->room = 0;
    eb_consumer_worker_room(c->worker);
    publish(w, "t", 4);
    assert_string_equal(given(a), "1 3 4");
    assert_string_equal(given(b), "2");
    assert_string_equal(given(c), "");
    assert_string_equal(ack(w, "c", 2), "ok");
    publish(w, "t", 1);
    c->room = 1;
    eb_consumer_worker_room(c->worker);
    publish(w, "t", 2);
    given(a);
    assert_int_equal(a->count + b->count + c->count, 7);
    assert_int_equal(c->count, 1);
    leave(a, EB_LEAVE_AGAIN);
    leave(b, EB_LEAVE_AGAIN);
    leave(c, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* An ack is answered after its commit; nacked and timed-out events come again, acked ones never. */
static void answers_decide_what_comes_again(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"#\"],\"from\":\"all\",\"ack_wait\":10}");
    struct hand *a = attach(w, "c", 0);
    publish(w, "t", 3);
    assert_string_equal(given(a), "1 2 3");
    struct asked_consumer asked;
    ask_ack(w, "c", 1, &asked);
    assert_string_equal(asked.text, "");
    fake_commit(w, ALL);
    assert_string_equal(asked.text, "ok");
    assert_string_equal(nack(w, "c", 2, -1), "ok");
    assert_string_equal(given(a), "2:2");
    assert_string_equal(nack(w, "c", 2, 5000), "ok");
    assert_string_equal(given(a), "");
    fake_now += 5000;
    assert_string_equal(given(a), "2:3");
    fake_now += 5000;
    assert_string_equal(given(a), "3:2");
    assert_string_equal(ack(w, "c", 3), "ok");
    assert_string_equal(ack(w, "c", 3), "ok");
    assert_string_equal(ack(w, "c", 9), "unknown");
    assert_string_equal(nack(w, "c", 3, 0), "late");
    assert_string_equal(ack(w, "x", 1), "not_found");
    fake_now += 60000;
    assert_string_equal(given(a), "2:4");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* What was out with a worker that leaves is another's at once: counted, uncounted, or left out. */
static void a_worker_that_leaves_gives_its_events_on(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"#\"],\"from\":\"all\",\"ack_wait\":10}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    leave(a, EB_LEAVE_AGAIN);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "1:2");
    leave(a, EB_LEAVE_RETURN);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "1:2");
    leave(a, EB_LEAVE_OUT);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "");
    assert_int_equal(info_of(w, "c").inflight, 1);
    fake_now += 10000;
    assert_string_equal(given(a), "1:3");
    leave(a, EB_LEAVE_OUT);
    assert_string_equal(ack(w, "c", 1), "ok");
    assert_int_equal(info_of(w, "c").inflight, 0);
    fake_close(w);
}

static void *leave_out(void *worker)
{
    eb_consumer_leave(worker, EB_LEAVE_OUT);
    return NULL;
}

/* Its owner has left it by now, and waits for the call that is under way. */
static void leave_meanwhile(struct hand *hand)
{
    struct eb_consumer *consumer = hand->worker->consumer;
    assert_int_equal(pthread_create(hand->ctx, NULL, leave_out, hand->worker), 0);
    for (bool left = false; !left; sched_yield()) {
        eb_lock_take(&consumer->lock);
        left = hand->worker->left;
        eb_lock_drop(&consumer->lock);
    }
}

/*
 * W2: a fetch that was answered is completed in the moment in which it is offered one event more. What it did not take was never
 * delivered: it is another's at once, not after ack_wait.
 */
static void what_a_leaving_worker_did_not_take_is_anothers_at_once(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"#\"],\"from\":\"all\",\"ack_wait\":10}");
    struct hand *a = attach(w, "c", 0);
    pthread_t thread;
    publish(w, "t", 1);
    assert_string_equal(given(a), "1");
    a->refuse = 1;
    a->refusing = leave_meanwhile;
    a->ctx = &thread;
    publish(w, "t", 1);
    fake_consume(w);
    assert_int_equal(a->refuse, 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    a->worker = NULL; /* it has left */
    leave(a, EB_LEAVE_OUT);
    assert_int_equal(info_of(w, "c").inflight, 1);
    struct hand *b = attach(w, "c", 0);
    assert_string_equal(given(b), "2");
    assert_int_equal(info_of(w, "c").inflight, 2);
    leave(b, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* After a restart all that was not acknowledged comes again, and nothing else; counts of deliveries go on. */
static void a_restart_remembers_what_is_open(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 5);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2 3 4 5");
    assert_string_equal(ack(w, "c", 1), "ok");
    assert_string_equal(ack(w, "c", 3), "ok");
    assert_string_equal(nack(w, "c", 4, 60000), "ok");
    struct eb_consumer_worker *worker = a->worker;
    fake_restart(w);
    assert_string_equal(a->released, "shutdown");
    eb_consumer_leave(worker, EB_LEAVE_AGAIN);
    a->worker = NULL;
    leave(a, EB_LEAVE_AGAIN);
    publish(w, "t", 1);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2:2 5:2 6");
    fake_now += 60000;
    assert_string_equal(ack(w, "c", 3), "ok");
    assert_non_null(strstr(given(a), "4:2"));
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* DELETE releases the workers and leaves nothing on disk; the name may be used afresh, with another id. */
static void deleting_leaves_nothing(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    uint64_t id = eb_bus_consumer_id(w->bus, "c");
    publish(w, "t", 2);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(end(w, "c"), "ok");
    assert_string_equal(a->released, "deleted");
    assert_string_equal(ack(w, "c", 1), "not_found");
    attach_with(w, "c", 0, -1, false, "not_found");
    assert_int_equal(fake_disk_next("c"), 0);
    assert_int_equal(fake_disk_blocks(NULL), 0);
    leave(a, EB_LEAVE_AGAIN);
    make(w, "c", ALL_TOPICS);
    assert_true(eb_bus_consumer_id(w->bus, "c") > id);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_that_match_come_in_order),
        cmocka_unit_test(workers_share_the_events_in_turn),
        cmocka_unit_test(answers_decide_what_comes_again),
        cmocka_unit_test(a_worker_that_leaves_gives_its_events_on),
        cmocka_unit_test(what_a_leaving_worker_did_not_take_is_anothers_at_once),
        cmocka_unit_test(a_restart_remembers_what_is_open),
        cmocka_unit_test(deleting_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
