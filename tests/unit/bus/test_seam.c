/*
 * test_seam.c - the seam between the log and live delivery, each interleaving played by hand: no gap, no
 * repeat, in order. One claim per rule of bus.h (B1-B6), session.c (Q), dispatch.c (D) and stream.c (R).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/fake_world.h"
#include "tests/unit/bus/join_race.h"

static void publish_many(struct fake_world *w, const char *topic, int count)
{
    for (int i = 0; i < count; i++)
        fake_publish(w, topic);
}

static void live_box(struct fake_world *w, struct fake_box **ret, const char *pattern)
{
    *ret = fake_box(w, false);
    fake_subscribe(*ret, pattern, LIVE);
    fake_commit(w, ALL);
    fake_drain(*ret, ALL);
}

/* B1: what is queued or whose commit failed is seen by nobody. */
static void dispatch_nothing_before_its_commit(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    live_box(w, &box, "#");
    fake_publish_on(box, "a");
    assert_string_equal(fake_drain_all(box), "");
    w->fail_commit = true;
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "error:storage_full");
    assert_int_equal(eb_bus_visible(w->bus), 0);
    fake_publish_on(box, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok=1 E1");
    fake_box_close(box);
    fake_close(w);
}

/* What was scheduled is pushed when it has entered the log, like what was published, and not before. */
static void dispatch_what_was_due(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    w->shares = true; /* as with a file: in memory nothing can wait */
    live_box(w, &box, "a");
    fake_schedule(box, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok=0");
    assert_int_equal(eb_bus_visible(w->bus), 0);
    fake_publish(w, "a");
    fake_due(w, "a", 2);
    fake_publish(w, "a");
    fake_due(w, "b", 1);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "E1 E2 E3 E4");
    assert_int_equal(eb_bus_visible(w->bus), 5);
    fake_box_close(box);
    fake_close(w);
}

/* B2, D4: an event that several subscriptions match comes once, and in seq order. */
static void dispatch_once_however_many_match(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    fake_subscribe(box, "a.b", LIVE);
    fake_subscribe(box, "a.*", LIVE);
    fake_subscribe(box, "#", LIVE);
    fake_publish(w, "a.b");
    fake_publish(w, "c");
    fake_publish(w, "a.x");
    fake_publish(w, "a.b");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#0 ok#0 ok#0 E1 E2 E3 E4");
    fake_box_close(box);
    fake_close(w);
}

/* D3: a batch larger than a segment is answered once, when its last event is visible; its events come all. */
static void dispatch_batch_longer_than_a_segment(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    fake_subscribe(box, "z", LIVE);
    fake_publish_batch(box, "a", 600);
    fake_publish_on(box, "z");
    fake_commit(w, ALL); /* `published` asserts that the answered seq is visible */
    assert_string_equal(fake_drain_all(box), "ok#0 ok=600 ok=601 E601");
    fake_box_close(box);
    fake_close(w);
}

/* B6: subscribe and unsubscribe take effect at their place among the publishes of one commit. */
static void dispatch_requests_at_their_place(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    fake_publish(w, "a");
    fake_subscribe(box, "a", LIVE);
    fake_publish(w, "a");
    fake_unsubscribe(box, "a");
    fake_publish(w, "a");
    fake_subscribe(box, "a", LIVE);
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#1 E2 bye ok#3 E4");
    fake_box_close(box);
    fake_close(w);
}

/* What the log could not store does not keep the requests among it from taking effect. */
static void dispatch_requests_run_though_the_commit_failed(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    fake_publish_on(box, "a");
    fake_subscribe(box, "a", LIVE);
    w->fail_commit = true;
    fake_commit(w, ALL);
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "error:storage_full ok#0 E1");
    fake_box_close(box);
    fake_close(w);
}

/* An event past its ttl does not enter a queue. */
static void dispatch_expired_events_are_left_out(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    live_box(w, &box, "#");
    fake_publish(w, "a");
    fake_publish_expired(w, "a");
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "E1 E3");
    fake_box_close(box);
    fake_close(w);
}

/* B4: a full queue turns the stream lagging; the rest comes from the log, once, in order, then live again. */
static void lag_full_queue_then_everything_comes(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    struct eb_session_state state;
    live_box(w, &box, "#");
    publish_many(w, "a", 20);
    fake_commit(w, ALL);
    eb_session_state(box->session, &state);
    assert_true(state.lagging);
    assert_int_equal(state.queued_events, 8);
    assert_int_equal(state.cursor, 8);
    assert_int_equal(fake_runnable(w), 0); /* it waits for room */
    assert_string_equal(fake_drain(box, 3), "E1 E2 E3");
    assert_int_equal(fake_runnable(w), 0); /* more than half is still there */
    fake_drain(box, 1);
    assert_int_equal(fake_runnable(w), 1);
    assert_string_equal(fake_drain_all(box),
                        "E5 E6 E7 E8 E9 E10 E11 E12 E13 E14 E15 E16 E17 E18 E19 E20");
    eb_session_state(box->session, &state);
    assert_false(state.lagging);
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_int_equal(fake_runnable(w), 0);
    assert_string_equal(fake_drain(box, ALL), "E21");
    fake_box_close(box);
    fake_close(w);
}

/* While it lags nothing is pushed, and an event that several subscriptions match still comes once. */
static void lag_once_however_many_match(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    fake_subscribe(box, "a", LIVE);
    fake_subscribe(box, "#", LIVE);
    publish_many(w, "a", 10);
    fake_commit(w, ALL);
    unsigned made = box->made;
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_int_equal(box->made, made); /* D5: not even encoded */
    assert_string_equal(fake_drain_all(box), "ok#0 ok#0 E1 E2 E3 E4 E5 E6 E7 E8 E9 E10 E11");
    fake_box_close(box);
    fake_close(w);
}

/* Q2: an event larger than the bound of bytes passes when the queue is empty, live and from the log. */
static void lag_event_larger_than_the_queue_passes(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    live_box(w, &box, "#");
    fake_publish_large(w, "a", 5000);
    fake_publish(w, "a");
    fake_publish_large(w, "a", 5000);
    fake_publish_large(w, "a", 600);
    fake_publish_large(w, "a", 600);
    fake_commit(w, ALL);
    struct eb_session_state state;
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 1);
    assert_string_equal(fake_drain_all(box), "E1 E2 E3 E4 E5");
    fake_box_close(box);
    fake_close(w);
}

/* D6: without memory to say who matches, every live stream reads that event from the log. */
static void lag_when_a_match_fails(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box, *other;
    live_box(w, &box, "a");
    live_box(w, &other, "b");
    publish_many(w, "a", 2);
    fake_publish(w, "b");
    fake_commit(w, 2);
    w->fail_matches = 1;
    publish_many(w, "a", 1);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "E1 E2 E4");
    assert_string_equal(fake_drain_all(other), "E3");
    struct eb_session_state state;
    eb_session_state(box->session, &state);
    assert_false(state.lagging);
    fake_box_close(box);
    fake_box_close(other);
    fake_close(w);
}

static void commit_more(struct fake_world *w, void *ctx)
{
    publish_many(w, "a", 3);
    fake_commit(w, ALL);
}

/* B3, Q1: events committed while the last page is read come once: the stream may not join at the old end. */
static void seam_commit_while_the_last_page_is_read(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *lagging, *replaying = fake_box(w, false);
    live_box(w, &lagging, "#");
    publish_many(w, "a", 10);
    fake_commit(w, ALL);
    fake_drain(lagging, ALL);
    w->during_page = commit_more;
    assert_true(fake_turn(w));
    assert_string_equal(fake_drain_all(lagging), "E9 E10 E11 E12 E13");

    fake_subscribe(replaying, "#", 11);
    fake_commit(w, ALL);
    w->during_page = commit_more;
    assert_true(fake_turn(w));
    assert_string_equal(fake_drain_all(replaying),
                        "ok#13 R11@# R12@# R13@# R14@# R15@# R16@# L16@#");
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(replaying), "E17");
    fake_box_close(lagging);
    fake_box_close(replaying);
    fake_close(w);
}

static void run_turns(struct fake_box *box, void *ctx)
{
    fake_turns(box->world);
}

static void drain_and_run_turns(struct fake_box *box, void *ctx)
{
    struct fake_box *other = ctx;
    strcat(other->world->ctx, fake_drain(other, ALL));
    strcat(other->world->ctx, " ");
    fake_turns(box->world);
}

/* B3, D2: a reader that catches up in the midst of a dispatch joins at the segment's end, so what the dispatcher
 * still has to push is there already, and what it pushed before is not lost. */
static void seam_join_in_the_midst_of_a_dispatch(void **unused)
{
    for (int order = 0; order < 2; order++) {
        struct fake_world *w = fake_open(NULL);
        struct fake_box *first, *second, *lagging, *other;
        char seen[4096] = "";
        live_box(w, &first, "#");
        live_box(w, &second, "#");
        lagging = order ? first : second;
        other = order ? second : first;
        publish_many(w, "a", 10);
        fake_commit(w, ALL);
        fake_drain_all(other);
        w->ctx = seen;
        other->during_event = drain_and_run_turns;
        other->ctx = lagging;
        publish_many(w, "a", 2);
        fake_commit(w, ALL);
        strcat(seen, fake_drain_all(lagging));
        assert_string_equal(seen, "E1 E2 E3 E4 E5 E6 E7 E8 E9 E10 E11 E12");
        assert_string_equal(fake_drain_all(other), "E11 E12");
        fake_box_close(first);
        fake_box_close(second);
        fake_close(w);
    }
}

/* D5: a stream that joins at the old end after the dispatcher has moved `visible` and has seen it lagging is pushed
 * to all the same. */
static void seam_join_between_the_peek_and_the_lock(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    live_box(w, &box, "#");
    publish_many(w, "a", 10);
    fake_commit(w, ALL);
    fake_drain(box, ALL);
    turn_that_joins_while_one_is_dispatched(w, box);
    assert_string_equal(fake_drain_all(box), "E9 E10 E11");

    fake_subscribe(box, "#", 11); /* and a replay in the same place */
    fake_commit(w, ALL);
    turn_that_joins_while_one_is_dispatched(w, box);
    assert_string_equal(fake_drain_all(box), "ok#11 R11@# L11@# E12");
    fake_box_close(box);
    fake_close(w);
}

/* D4: a replay that joins in the midst of a dispatch has the segment's events; its floor keeps them from coming
 * again when the dispatcher gets to its session. */
static void seam_replay_joins_in_the_midst_of_a_dispatch(void **unused)
{
    for (int order = 0; order < 2; order++) {
        struct fake_world *w = fake_open(NULL);
        struct fake_box *first, *second;
        live_box(w, &first, "b");
        live_box(w, &second, "b");
        struct fake_box *other = order ? first : second, *late = order ? second : first;
        fake_subscribe(late, "a", 0);
        fake_commit(w, ALL);
        other->during_event = run_turns;
        fake_publish(w, "b");
        publish_many(w, "a", 2);
        fake_commit(w, ALL);
        const char *all = fake_drain_all(late);
        assert_true(strcmp(all, "ok#0 R2@a R3@a L3@a E1") == 0 ||
                    strcmp(all, "ok#0 E1 R2@a R3@a L3@a") == 0);
        assert_string_equal(fake_drain_all(other), "E1");
        fake_box_close(first);
        fake_box_close(second);
        fake_close(w);
    }
}

/* B3, R1: a commit of several segments; a reader in the first one's dispatch looks no further than its end. */
static void seam_reader_looks_no_further_than_visible(void **unused)
{
    for (int order = 0; order < 2; order++) {
        struct fake_world *w = fake_open(NULL);
        struct fake_box *first, *second, *other;
        live_box(w, &first, order ? "a" : "b");
        live_box(w, &second, order ? "b" : "a");
        other = order ? first : second; /* gets the "a" of the first segment */
        struct fake_box *late = order ? second : first;
        fake_subscribe(late, "c", 0);
        fake_commit(w, ALL);
        other->during_event = run_turns;
        for (int i = 0; i < 300; i++)
            fake_publish(w, i == 0 ? "a" : i == 255 || i == 256 ? "c" : "x");
        fake_commit(w, ALL);
        assert_int_equal(w->last_page_upto, 256);
        assert_string_equal(fake_drain_all(late), "ok#0 R256@c L256@c E257");
        assert_string_equal(fake_drain_all(other), "E1");
        fake_box_close(first);
        fake_box_close(second);
        fake_close(w);
    }
}

/* A replay comes with its pattern beside, then `live`, then the same stream as the others, above its floor. */
static void replay_then_live(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    live_box(w, &box, "b");
    publish_many(w, "a", 3);
    fake_publish(w, "b");
    fake_commit(w, ALL);
    fake_subscribe(box, "a", 2);
    fake_publish(w, "a");
    fake_commit(w, ALL);
    fake_publish(w, "b");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "E4 ok#4 E6 R2@a R3@a R5@a L6@a");
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "E7");
    fake_box_close(box);
    fake_close(w);
}

/* Nothing to replay: `live` at once, behind the ok. */
static void replay_of_nothing_is_live_at_once(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    publish_many(w, "a", 3);
    fake_subscribe(box, "a", 4);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#3 L3@a");
    fake_box_close(box);
    fake_close(w);
}

/* A subscription that joins a lagging stream is served by it above its floor only; the others from the cursor. */
static void replay_joins_a_lagging_stream(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    live_box(w, &box, "b");
    publish_many(w, "b", 8);
    for (int i = 0; i < 3; i++) {
        fake_publish(w, "a");
        fake_publish(w, "b");
    }
    fake_commit(w, ALL); /* full after 8; lagging with a cursor of 9 */
    fake_subscribe(box, "a", 0);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain(box, 8), "E1 E2 E3 E4 E5 E6 E7 E8");
    /* The replay goes first: the shared stream is at the head of the list, so take its turn last. */
    w->page_rows = 2;
    const char *all = fake_drain_all(box);
    assert_non_null(strstr(all, "R9@a"));
    assert_non_null(strstr(all, "R11@a"));
    assert_non_null(strstr(all, "R13@a"));
    assert_non_null(strstr(all, "E10"));
    assert_non_null(strstr(all, "E12"));
    assert_non_null(strstr(all, "E14"));
    assert_null(strstr(all, "E9"));
    assert_null(strstr(all, "E11"));
    assert_null(strstr(all, "E13"));
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "E15");
    fake_box_close(box);
    fake_close(w);
}

static void unsubscribe_a(struct fake_world *w, void *ctx)
{
    fake_unsubscribe(ctx, "a");
    fake_commit(w, ALL);
}

/* R2, R3: a page that was being read while its subscription left brings nothing on its account. */
static void unsubscribe_while_a_page_is_read(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *replaying = fake_box(w, false), *lagging = fake_box(w, false);
    publish_many(w, "a", 3);
    fake_subscribe(replaying, "a", 0);
    fake_commit(w, ALL);
    w->during_page = unsubscribe_a;
    w->ctx = replaying;
    fake_turn(w);
    assert_string_equal(fake_drain_all(replaying), "ok#3 bye");

    fake_subscribe(lagging, "a", LIVE);
    fake_subscribe(lagging, "b", LIVE);
    for (int i = 0; i < 10; i++) {
        fake_publish(w, "a");
        fake_publish(w, "b");
    }
    fake_commit(w, ALL);
    assert_string_equal(fake_drain(lagging, ALL), "ok#3 ok#3 E4 E5 E6 E7 E8 E9 E10 E11");
    w->during_page = unsubscribe_a;
    w->ctx = lagging;
    fake_turn(w);
    assert_string_equal(fake_drain_all(lagging), "bye E13 E15 E17 E19 E21 E23");
    fake_box_close(replaying);
    fake_box_close(lagging);
    fake_close(w);
}

static void subscribe_c(struct fake_world *w, void *ctx)
{
    fake_subscribe(ctx, "c", LIVE);
    fake_publish(w, "c");
    fake_commit(w, ALL);
}

/* R2: a subscription that begins while a page of the lagging stream is read misses nothing of its own. */
static void subscribe_while_a_page_is_read(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    live_box(w, &box, "a");
    publish_many(w, "a", 9);
    fake_publish(w, "c");
    fake_commit(w, ALL);
    fake_drain(box, ALL);
    w->during_page = subscribe_c;
    w->ctx = box;
    fake_turn(w);
    assert_string_equal(fake_drain_all(box), "ok#10 E9 E11");
    fake_box_close(box);
    fake_close(w);
}

static void restart_a(struct fake_world *w, void *ctx)
{
    fake_subscribe(ctx, "a", 2);
    fake_commit(w, ALL);
}

/* R3: started afresh while a page is read: nothing of the old start comes behind the new ok. */
static void restart_while_a_page_is_read(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    publish_many(w, "a", 3);
    fake_subscribe(box, "a", 0);
    fake_commit(w, ALL);
    w->during_page = restart_a;
    w->ctx = box;
    fake_turn(w);
    assert_string_equal(fake_drain_all(box), "ok#3 ok#3 R2@a R3@a L3@a");
    fake_subscribe(box, "a", 3); /* from live too, in one step */
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#3 R3@a R4@a L4@a");
    fake_box_close(box);
    fake_close(w);
}

/* A replay leaves a part of the queue to live events: they do not lag at once for its sake. */
static void replay_leaves_room_for_live_events(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box;
    struct eb_session_state state;
    live_box(w, &box, "b");
    publish_many(w, "a", 50);
    fake_subscribe(box, "a", 0);
    fake_commit(w, ALL);
    fake_turns(w);
    fake_publish(w, "b");
    fake_commit(w, ALL);
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 7);
    assert_false(state.lagging);
    assert_int_equal(state.replaying, 1);
    fake_box_close(box);
    fake_close(w);
}

static void close_it(struct fake_world *w, void *ctx)
{
    fake_box_close(ctx);
}

static void close_box(struct fake_box *box, void *ctx)
{
    fake_box_close(ctx);
}

/* A session closed while its page is read, or in the midst of a dispatch, is left alone and freed. */
static void close_at_any_moment(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false), *a, *b;
    struct eb_bus_counters counters;
    publish_many(w, "a", 3);
    fake_subscribe(box, "#", 0);
    fake_commit(w, ALL);
    w->during_page = close_it;
    w->ctx = box;
    fake_turn(w);
    live_box(w, &a, "#");
    live_box(w, &b, "#");
    a->during_event = close_box;
    a->ctx = b;
    publish_many(w, "a", 2);
    fake_commit(w, ALL);
    fake_box_close(a);
    live_box(w, &a, "#");
    live_box(w, &b, "#");
    b->during_event = close_box;
    b->ctx = a;
    publish_many(w, "a", 2);
    fake_commit(w, ALL);
    fake_subscribe(b, "x", 0);
    fake_box_close(b); /* with a request open */
    fake_commit(w, ALL);
    eb_bus_counters(w->bus, &counters);
    assert_int_equal(counters.sessions, 0);
    assert_int_equal(counters.subscriptions, 0);
    assert_int_equal(counters.lagging, 0);
    fake_close(w);
}

/* A log that cannot be read is asked again later; nothing is skipped. */
static void replay_read_error_is_tried_again(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    publish_many(w, "a", 3);
    fake_subscribe(box, "#", 0);
    fake_commit(w, ALL);
    w->fail_pages = true;
    fake_turns(w);
    assert_string_equal(fake_drain(box, ALL), "ok#3");
    assert_int_equal(fake_runnable(w), 0);
    assert_int_equal(fake_sleeping(w), 1);
    fake_box_close(box);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dispatch_nothing_before_its_commit),
        cmocka_unit_test(dispatch_what_was_due),
        cmocka_unit_test(dispatch_once_however_many_match),
        cmocka_unit_test(dispatch_batch_longer_than_a_segment),
        cmocka_unit_test(dispatch_requests_at_their_place),
        cmocka_unit_test(dispatch_requests_run_though_the_commit_failed),
        cmocka_unit_test(dispatch_expired_events_are_left_out),
        cmocka_unit_test(lag_full_queue_then_everything_comes),
        cmocka_unit_test(lag_once_however_many_match),
        cmocka_unit_test(lag_event_larger_than_the_queue_passes),
        cmocka_unit_test(lag_when_a_match_fails),
        cmocka_unit_test(seam_commit_while_the_last_page_is_read),
        cmocka_unit_test(seam_join_in_the_midst_of_a_dispatch),
        cmocka_unit_test(seam_join_between_the_peek_and_the_lock),
        cmocka_unit_test(seam_replay_joins_in_the_midst_of_a_dispatch),
        cmocka_unit_test(seam_reader_looks_no_further_than_visible),
        cmocka_unit_test(replay_then_live),
        cmocka_unit_test(replay_of_nothing_is_live_at_once),
        cmocka_unit_test(replay_joins_a_lagging_stream),
        cmocka_unit_test(unsubscribe_while_a_page_is_read),
        cmocka_unit_test(subscribe_while_a_page_is_read),
        cmocka_unit_test(restart_while_a_page_is_read),
        cmocka_unit_test(replay_leaves_room_for_live_events),
        cmocka_unit_test(close_at_any_moment),
        cmocka_unit_test(replay_read_error_is_tried_again),
    };
    return cmocka_run_group_tests_name("bus/seam", tests, NULL, NULL);
}
