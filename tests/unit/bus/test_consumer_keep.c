/*
 * test_consumer_keep.c - what a durable consumer has on disk (PROTOCOL 7): how much it costs, what a failed commit and a
 * restart do to it, what is damaged, what retention took, and order by key.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/unit/bus/consumer_world.h"

#define ALL_TOPICS "{\"patterns\":[\"#\"],\"from\":\"all\"}"

static void publish(struct fake_world *world, const char *topic, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        fake_publish(world, topic);
    fake_commit(world, ALL);
}

static void roomy(struct eb_bus_config *config)
{
    config->queue_events = 1024;
    config->queue_bytes = 1 << 20;
}

/* ---- commits ---- */

/* An ack whose commit failed is not answered ok, but stands: no new delivery begins, and the next commit keeps it. */
static void a_failed_commit_is_told_and_made_up_for(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer first, second;
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 2);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2");
    fake_now += EB_CONSUMER_LAZY_MS;
    fake_consume(w);
    ask_ack(w, "c", 1, &first);
    w->fail_commit = true;
    fake_commit(w, ALL);
    assert_string_equal(first.text, "storage_full");
    ask_ack(w, "c", 1, &second); /* handled already, but not kept yet: it waits */
    assert_string_equal(second.text, "");
    fake_commit(w, ALL);
    assert_string_equal(second.text, "ok");
    leave_quietly(a);
    fake_restart(w);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2:2");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* Requests that come while a commit is under way are answered by the next one, all of them by one. */
static void requests_share_a_commit(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer asked[5];
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 5);
    struct hand *a = attach(w, "c", 0);
    given(a);
    fake_now += EB_CONSUMER_LAZY_MS;
    fake_consume(w);
    fake_disk_writes();
    for (uint64_t i = 0; i < 5; i++)
        ask_ack(w, "c", i + 1, &asked[i]);
    assert_int_equal(fake_commit(w, ALL), 1);
    for (int i = 0; i < 5; i++)
        assert_string_equal(asked[i].text, "ok");
    assert_int_equal(fake_disk_writes(), 2); /* the block, which goes, and the position */
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A request counts as open in its session until it is answered. */
static void a_request_is_open_until_its_answer(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    struct eb_session_state open;
    struct asked_consumer asked;
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    given(a);
    asked = (struct asked_consumer){.seq = 1,
                                    .request = {.verb = EB_CONSUMER_ACK,
                                                .name = "c",
                                                .seqs = &asked.seq,
                                                .count = 1,
                                                .results = &asked.result,
                                                .session = box->session}};
    ask(w, &asked);
    eb_session_state(box->session, &open);
    assert_int_equal(open.open, 1);
    assert_int_equal(eb_session_wait_room(box->session, 1, 1000, 0), -ETIMEDOUT);
    fake_consume(w);
    eb_session_state(box->session, &open);
    assert_int_equal(open.open, 0);
    assert_int_equal(eb_session_wait_room(box->session, 1, 1000, 0), 0);
    fake_box_close(box);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* ---- what it costs ---- */

/* One open event with a great many acknowledged behind it costs less than 1 KiB on disk, and next to nothing to load. */
static void one_open_event_costs_little_however_many_are_done(void **state)
{
    struct fake_world *w = fake_open(roomy);
    size_t bytes;
    make(w, "c", ALL_TOPICS);
    struct hand *a = attach(w, "c", 0);
    for (unsigned round = 0; round < 200; round++) {
        publish(w, "t", 200);
        uint64_t seqs[200];
        enum eb_job_result results[200];
        struct eb_consumer_request r = {
            .verb = EB_CONSUMER_ACK, .name = "c", .seqs = seqs, .results = results};
        given(a);
        for (unsigned i = 0; i < 200; i++) {
            if (round * 200 + i + 1 != 7)
                seqs[r.count++] = round * 200 + i + 1;
        }
        assert_string_equal(request(w, &r), "ok");
    }
    assert_int_equal(info_of(w, "c").cursor, 6);
    assert_int_equal(info_of(w, "c").inflight, 1);
    assert_int_equal(fake_disk_blocks(&bytes), 1);
    assert_true(bytes < 1024);
    leave_quietly(a);
    int64_t begun = eb_mono_ms();
    fake_restart(w);
    assert_true(eb_mono_ms() - begun < 100);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "7:2");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* ---- where nothing matches ---- */

/* The position follows the log where nothing matches, in what is told and, lazily, on disk. */
static void the_cursor_follows_the_log(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"a\"],\"from\":\"all\"}");
    fake_consume(w);
    publish(w, "b", 20);
    assert_int_equal(info_of(w, "c").cursor, 20);
    assert_int_equal(info_of(w, "c").lag_events, 0);
    fake_now += EB_CONSUMER_TICK_MS;
    fake_consume(w);
    fake_now += EB_CONSUMER_LAZY_MS;
    fake_consume(w);
    assert_int_equal(fake_disk_next("c"), 21);
    publish(w, "a", 1);
    publish(w, "b", 1);
    assert_int_equal(info_of(w, "c").lag_events, 2);
    fake_consume(w);
    assert_int_equal(info_of(w, "c").cursor, 20);
    assert_int_equal(info_of(w, "c").next, 23);
    assert_int_equal(info_of(w, "c").lag_events, 1);
    fake_close(w);
}

/* An event that is announced but not yet pushed is never passed over, whoever looks at that moment. */
static void look(struct fake_world *w, void *ctx)
{
    struct eb_consumer_info *info = ctx;
    *info = info_of(w, "c");
}

static void nothing_is_passed_before_it_was_pushed(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_consumer_info info = {.next = 99};
    struct fake_box *box = fake_box(w, false);
    make(w, "c", "{\"patterns\":[\"a\"],\"from\":\"all\"}");
    struct hand *a = attach(w, "c", 0);
    fake_subscribe(box, "#", LIVE);
    fake_consume(w);
    box->during_event = NULL;
    w->ctx = &info;
    w->after_visible = look;   /* called from within the next look at `visible` */
    fake_publish_on(box, "a"); /* its answer looks at it, before the push */
    fake_commit(w, ALL);
    assert_string_equal(given(a), "1");
    fake_box_close(box);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* ---- what is gone ---- */

/* What retention took before it was looked at is lost: counted, told to workers as a gap, and the rest goes on. */
static void what_retention_took_is_lost_and_told(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"#\"],\"from\":\"all\",\"max_inflight\":1}");
    publish(w, "t", 3);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    leave_quietly(a);
    fake_restart(w);
    publish(w, "t", 20);
    fake_retain(w, 21);
    assert_int_equal(fake_disk_next("c"), 3);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "gap1-2:retention gap3-21:retention 22");
    assert_int_equal(info_of(w, "c").lost, 21); /* and 1 and 2, which were open */
    assert_string_equal(ack(w, "c", 22), "ok");
    assert_string_equal(given(a), "23");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* An event that ends by its ttl while it is open is not delivered again and not lost; its ack is ok. */
static void an_event_that_expired_is_done(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 2);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2");
    fake_delete(w, 1);
    assert_string_equal(nack(w, "c", 1, -1), "ok");
    assert_string_equal(nack(w, "c", 2, -1), "ok");
    assert_string_equal(given(a), "2:2");
    assert_string_equal(ack(w, "c", 1), "ok");
    assert_int_equal(info_of(w, "c").lost, 0);
    assert_int_equal(info_of(w, "c").cursor, 1);
    fake_damage(w, 2);
    assert_string_equal(nack(w, "c", 2, -1), "ok");
    assert_string_equal(given(a), "gap2-2:damaged");
    assert_int_equal(info_of(w, "c").lost, 1);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

static void holds(struct eb_bus_config *config)
{
    config->retention_holds = true;
}

/* With retention_holds the store is told the lowest event that some consumer has not done. */
static void retention_waits_for_consumers_if_asked_to(void **state)
{
    struct fake_world *w = fake_open(holds);
    make(w, "a", ALL_TOPICS);
    make(w, "b", ALL_TOPICS);
    publish(w, "t", 5);
    struct hand *a = attach(w, "a", 0), *b = attach(w, "b", 0);
    given(a);
    given(b);
    for (uint64_t seq = 1; seq <= 5; seq++)
        ack(w, "a", seq);
    ack(w, "b", 1);
    fake_now += EB_CONSUMER_TICK_MS;
    fake_consume(w);
    assert_int_equal(fake_held(), 2);
    fake_restart(w);
    assert_int_equal(fake_held(), 2);
    assert_string_equal(end(w, "b"), "ok");
    fake_now += EB_CONSUMER_TICK_MS;
    fake_consume(w);
    assert_int_equal(fake_held(), 6);
    assert_string_equal(seek(w, "a", 1), "ok");
    assert_int_equal(fake_held(), 1);
    assert_string_equal(end(w, "a"), "ok");
    assert_true(fake_held() == UINT64_MAX);
    eb_consumer_leave(a->worker, EB_LEAVE_AGAIN);
    a->worker = NULL;
    eb_consumer_leave(b->worker, EB_LEAVE_AGAIN);
    b->worker = NULL;
    leave(a, EB_LEAVE_AGAIN);
    leave(b, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* ---- damage ---- */

/* Settings that cannot be read keep nobody from starting: the consumer waits for a PUT and goes on at its position. */
static void damaged_settings_wait_for_a_put(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 3);
    struct hand *a = attach(w, "c", 0);
    given(a);
    ack(w, "c", 1);
    leave_quietly(a);
    fake_disk_damage_settings("c");
    fake_restart(w);
    assert_string_equal(info_of(w, "c").state, "stopped");
    publish(w, "t", 1);
    assert_string_equal(put(w, "c", "{\"patterns\":[\"#\"]}"), "ok");
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2:2 3:2 4");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* With order a restart reads again what lies behind the first open event: what of it is done is not kept in memory. */
static void what_is_done_is_not_kept_at_hand(void **state)
{
    struct fake_world *w = fake_open(roomy);
    make(w, "c", "{\"patterns\":[\"#\"],\"from\":\"all\",\"order\":\"topic\"}");
    publish(w, "slow", 1);
    publish(w, "t", 20);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2");
    for (uint64_t seq = 2; seq <= 21; seq++)
        assert_string_equal(ack(w, "c", seq), "ok");
    given(a);
    leave_quietly(a);
    fake_restart(w);
    publish(w, "t", 1);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "1:2 22");
    struct eb_consumer *consumer = eb_consumer_find(w->bus->consumers, "c");
    assert_int_equal(consumer->cache.count, 0);
    eb_consumer_unref(consumer);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* An event that is acknowledged while it is being read for another delivery is not kept either. */
static void an_ack_during_the_read_leaves_nothing(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    struct asked_consumer nacked = {.request = {.verb = EB_CONSUMER_NACK,
                                                .name = "c",
                                                .seqs = &nacked.seq,
                                                .count = 1,
                                                .results = &nacked.result},
                                    .seq = 1},
                          acked;
    assert_string_equal(given(a), "1");
    ask(w, &nacked);
    fake_round(w); /* it is to be read */
    ask_ack(w, "c", 1, &acked);
    assert_true(fake_read(w));
    fake_consume(w);
    assert_string_equal(acked.text, "ok");
    assert_string_equal(given(a), "");
    struct eb_consumer *consumer = eb_consumer_find(w->bus->consumers, "c");
    assert_int_equal(consumer->cache.count, 0);
    eb_consumer_unref(consumer);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A block that cannot be read: what it may have held is delivered again, nothing is lost, what does not match is not. */
static void a_damaged_block_is_delivered_again(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"a\"],\"from\":\"all\"}");
    publish(w, "a", 2);
    publish(w, "b", 1);
    publish(w, "a", 2);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2 4 5");
    ack(w, "c", 1);
    leave_quietly(a);
    fake_disk_damage_block();
    fake_restart(w);
    publish(w, "a", 1);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "1:2 2:2 4:2 5:2 6");
    assert_int_equal(info_of(w, "c").lost, 0);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A log that has lost its end gives its seqs again: the consumer is set back and misses none of the new ones. */
static void a_position_beyond_the_log_is_set_back(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 5);
    struct hand *a = attach(w, "c", 0);
    given(a);
    ack(w, "c", 1);
    leave_quietly(a);
    fake_restart_cut(w, 2);
    publish(w, "t", 2);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2:2 3 4");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* Settings that could not be read and are PUT with an order: what is open comes in that order from then on. */
static void order_comes_back_with_the_settings(void **state)
{
    static const char settings[] = "{\"patterns\":[\"#\"],\"from\":\"all\",\"order\":\"topic\"}";
    struct fake_world *w = fake_open(NULL);
    make(w, "c", settings);
    publish(w, "x", 3);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    leave_quietly(a);
    fake_disk_damage_settings("c");
    fake_restart(w);
    assert_string_equal(put(w, "c", settings), "ok");
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "1:2");
    assert_string_equal(ack(w, "c", 1), "ok");
    assert_string_equal(given(a), "2");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* ---- a feed is no subscriber ---- */

static void acks_by_itself(struct eb_bus_config *config)
{
    config->auto_ack = true;
}

/* What a consumer takes is neither marked by auto_ack nor counted or listed as a subscriber's. */
static void a_feed_is_no_subscriber(void **state)
{
    struct fake_world *w = fake_open(acks_by_itself);
    struct eb_bus_counters counters;
    struct eb_subscription_info *list;
    make(w, "c", "{\"patterns\":[\"#\"],\"from\":\"all\",\"max_inflight\":1}");
    publish(w, "t", 20);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    publish(w, "t", 20); /* its feed lags */
    fake_consume(w);
    eb_bus_counters(w->bus, &counters);
    assert_int_equal(counters.sessions, 0);
    assert_int_equal(counters.subscriptions, 0);
    assert_int_equal(counters.delivered, 0);
    assert_int_equal(counters.lagging, 0);
    assert_int_equal(eb_bus_subscriptions(w->bus, 0, 10, &list), 0);
    free(list);
    leave_quietly(a);
    fake_restart(w);
    assert_false(fake_acked(w, 1));
    fake_close(w);
}

/* ---- order ---- */

#define ORDERED "{\"patterns\":[\"#\"],\"from\":\"all\",\"order\":\"topic\",\"order_window\":4}"

/* Of one key one event is out at a time, in seq order; a nacked one holds up its key and no other. */
static void one_of_a_key_at_a_time(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ORDERED);
    struct hand *a = attach(w, "c", 0);
    publish(w, "x", 2);
    publish(w, "y", 2);
    assert_string_equal(given(a), "1 3");
    assert_string_equal(nack(w, "c", 1, 1000), "ok");
    assert_string_equal(ack(w, "c", 3), "ok");
    assert_string_equal(given(a), "4");
    fake_now += 1000;
    assert_string_equal(given(a), "1:2");
    assert_string_equal(ack(w, "c", 1), "ok");
    assert_string_equal(given(a), "2");
    leave_quietly(a);
    fake_restart(w);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2:2 4:2");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* Behind a key that is stuck, order_window events are looked at and no more, and the state says so. */
static void a_stuck_key_fills_its_window_and_no_more(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ORDERED);
    struct hand *a = attach(w, "c", 0);
    publish(w, "x", 1);
    publish(w, "y", 10);
    assert_string_equal(given(a), "1 2");
    for (uint64_t seq = 2; seq <= 4; seq++)
        ack(w, "c", seq);
    assert_string_equal(given(a), "3 4 5");
    ack(w, "c", 5);
    assert_string_equal(given(a), "");
    assert_string_equal(info_of(w, "c").state, "window_full");
    assert_int_equal(info_of(w, "c").next, 6);
    leave_quietly(a);
    fake_restart(w);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "1:2");
    assert_string_equal(ack(w, "c", 1), "ok");
    assert_string_equal(given(a), "6");
    assert_string_equal(ack(w, "c", 6), "ok");
    assert_string_equal(given(a), "7");
    assert_string_equal(ack(w, "c", 7), "ok");
    assert_string_equal(info_of(w, "c").state, "active");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* Order by a header: its name without case, events without it in no order. */
static void order_by_a_header(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"#\"],\"from\":\"all\",\"order\":\"header:Customer\"}");
    struct hand *a = attach(w, "c", 0);
    fake_publish_headers(w, "t", "{\"a\":\"customer\",\"customer\":\"7\"}");
    fake_publish_headers(w, "t", "{\"Customer\":\"7\"}");
    fake_publish_headers(w, "t", "{\"customer\":\"8\"}");
    fake_publish(w, "t");
    fake_publish(w, "t");
    fake_commit(w, ALL);
    assert_string_equal(given(a), "1 3 4 5");
    assert_string_equal(ack(w, "c", 1), "ok");
    assert_string_equal(given(a), "2");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* ---- workers and time ---- */

/* A fetch that waits is told when its time is over, unless something came. */
static void a_worker_with_nothing_is_told_when_its_time_is_over(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    struct hand *a = attach_with(w, "c", 1, fake_now + 500, false, NULL),
                *b = attach_with(w, "c", 1, fake_now + 500, false, NULL);
    eb_consumer_begin(a->worker);
    eb_consumer_begin(b->worker);
    fake_consume(w);
    publish(w, "t", 1);
    assert_string_equal(given(a), "1");
    fake_now += 500;
    fake_consume(w);
    assert_int_equal(a->expired, 0);
    assert_int_equal(b->expired, 1);
    leave(a, EB_LEAVE_AGAIN);
    leave(b, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* What a worker does not take goes back uncounted and to somebody else; it is asked again when it has room. */
static void what_is_not_taken_goes_back(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    struct hand *a = attach(w, "c", 0);
    a->refuse = 1;
    publish(w, "t", 1);
    assert_string_equal(given(a), "");
    struct hand *b = attach(w, "c", 0);
    assert_string_equal(given(b), "1");
    assert_int_equal(info_of(w, "c").delivered, 1);
    eb_consumer_worker_room(a->worker);
    publish(w, "t", 2);
    given(b);
    assert_int_equal(a->count, 1);
    assert_int_equal(b->count, 2);
    leave(a, EB_LEAVE_AGAIN);
    leave(b, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A worker that leaves from within its own delivery: the event is out no more, and comes to the next one. */
static void leave_from_within(struct hand *hand, uint64_t seq)
{
    eb_consumer_leave(hand->worker, EB_LEAVE_AGAIN);
    hand->worker = NULL;
}

static void a_worker_leaves_from_within_its_delivery(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    struct hand *a = attach_with(w, "c", 0, -1, false, NULL);
    a->during = leave_from_within;
    eb_consumer_begin(a->worker);
    publish(w, "t", 2);
    assert_string_equal(given(a), "1");
    struct hand *b = attach(w, "c", 0);
    assert_string_equal(given(b), "1:2 2");
    leave(a, EB_LEAVE_AGAIN);
    leave(b, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* An event that cannot be read just now (a bad sector) is tried again and holds up no other. */
static void an_event_that_cannot_be_read_holds_up_no_other(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 3);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2 3");
    leave(a, EB_LEAVE_AGAIN);
    w->fail_seq = 1;
    a = attach(w, "c", 0);
    given(a);
    fake_now += EB_CONSUMER_RETRY_MS;
    given(a);
    assert_int_equal(a->count, 2);
    w->fail_seq = 0;
    fake_now += EB_CONSUMER_RETRY_MS;
    assert_string_equal(given(a), "1:2");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* An ack from within the delivery is as good as a later one. */
static void ack_from_within(struct hand *hand, uint64_t seq)
{
    ask_ack(hand->world, "c", seq, hand->ctx);
}

static void an_ack_from_within_its_delivery(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer asked;
    make(w, "c", ALL_TOPICS);
    struct hand *a = attach(w, "c", 1);
    a->during = ack_from_within;
    a->ctx = &asked;
    publish(w, "t", 2);
    assert_string_equal(given(a), "1 2");
    assert_string_equal(asked.text, "ok");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_commit_is_told_and_made_up_for),
        cmocka_unit_test(requests_share_a_commit),
        cmocka_unit_test(a_request_is_open_until_its_answer),
        cmocka_unit_test(one_open_event_costs_little_however_many_are_done),
        cmocka_unit_test(the_cursor_follows_the_log),
        cmocka_unit_test(nothing_is_passed_before_it_was_pushed),
        cmocka_unit_test(what_retention_took_is_lost_and_told),
        cmocka_unit_test(an_event_that_expired_is_done),
        cmocka_unit_test(retention_waits_for_consumers_if_asked_to),
        cmocka_unit_test(damaged_settings_wait_for_a_put),
        cmocka_unit_test(what_is_done_is_not_kept_at_hand),
        cmocka_unit_test(an_ack_during_the_read_leaves_nothing),
        cmocka_unit_test(a_damaged_block_is_delivered_again),
        cmocka_unit_test(a_position_beyond_the_log_is_set_back),
        cmocka_unit_test(order_comes_back_with_the_settings),
        cmocka_unit_test(a_feed_is_no_subscriber),
        cmocka_unit_test(one_of_a_key_at_a_time),
        cmocka_unit_test(a_stuck_key_fills_its_window_and_no_more),
        cmocka_unit_test(order_by_a_header),
        cmocka_unit_test(a_worker_with_nothing_is_told_when_its_time_is_over),
        cmocka_unit_test(what_is_not_taken_goes_back),
        cmocka_unit_test(a_worker_leaves_from_within_its_delivery),
        cmocka_unit_test(an_event_that_cannot_be_read_holds_up_no_other),
        cmocka_unit_test(an_ack_from_within_its_delivery),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
