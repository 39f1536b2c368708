/*
 * test_bundle.c - several events in one frame: shared, and counted, bounded, skipped and marked one by one (B7).
 * Queues hold 40 events here, so a bundle holds 10 at most.
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

static void forty(struct eb_bus_config *config)
{
    config->queue_events = 40;
    config->queue_bytes = 100000;
}

static void few_bytes(struct eb_bus_config *config)
{
    forty(config);
    config->queue_bytes = 4000;
}

static void with_auto_ack(struct eb_bus_config *config)
{
    forty(config);
    config->auto_ack = true;
}

static struct fake_world *open_world(void (*change)(struct eb_bus_config *))
{
    struct fake_world *w = fake_open(change);
    w->bundles = true;
    return w;
}

static struct fake_box *live_box(struct fake_world *w, const char *pattern)
{
    struct fake_box *box = fake_box(w, false);
    fake_subscribe(box, pattern, LIVE);
    fake_commit(w, ALL);
    fake_drain(box, ALL);
    return box;
}

static void publish(struct fake_world *w, const char *topic, int count)
{
    for (int i = 0; i < count; i++)
        fake_publish(w, topic);
}

/* "E<from> E<from+1> … E<to>" */
static void expect_events(const char *words, uint64_t from, uint64_t to)
{
    char *save = NULL, *copy = strdup(words), expected[32];
    char *word = strtok_r(copy, " ", &save);
    for (uint64_t seq = from; seq <= to; seq++, word = strtok_r(NULL, " ", &save)) {
        snprintf(expected, sizeof(expected), "E%llu", (unsigned long long)seq);
        assert_non_null(word);
        assert_string_equal(word, expected);
    }
    assert_null(word);
    free(copy);
}

/* Sessions that want the same events of a segment are given the same frames; each event was encoded once. */
static void bundle_is_shared_by_all_that_want_the_same(void **unused)
{
    struct fake_world *w = open_world(forty);
    struct fake_box *all = live_box(w, "#"), *too = live_box(w, "a"), *few = live_box(w, "b");
    struct eb_out one[8], two[8];
    publish(w, "a", 20);
    fake_publish(w, "b");
    fake_commit(w, ALL);
    assert_int_equal(eb_session_take(all->session, one, 8, SIZE_MAX), 3);
    assert_string_equal((char *)one[2].frame->data, "E21"); /* alone: a frame of its own */
    eb_session_sent(all->session, one, 3);
    expect_events(fake_drain(few, ALL), 21, 21);
    expect_events(fake_drain(too, ALL), 1, 20);

    struct fake_box *other = live_box(w, "a");
    publish(w, "a", 20);
    fake_commit(w, ALL);
    assert_int_equal(eb_session_take(too->session, one, 8, SIZE_MAX), 2);
    assert_int_equal(eb_session_take(other->session, two, 8, SIZE_MAX), 2);
    assert_ptr_equal(one[0].frame, two[0].frame);
    assert_ptr_equal(one[1].frame, two[1].frame);
    eb_session_sent(too->session, one, 2);
    eb_session_sent(other->session, two, 2);
    fake_box_close(all);
    fake_box_close(too);
    fake_box_close(few);
    fake_box_close(other);
    fake_close(w);
}

/* B4: what waits and what was delivered are numbers of events, also behind a putback. */
static void bundle_counts_its_events(void **unused)
{
    struct fake_world *w = open_world(forty);
    struct fake_box *box = live_box(w, "#");
    struct eb_session_state state;
    struct eb_out out[8];
    publish(w, "a", 25);
    fake_commit(w, ALL);
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 25);
    assert_int_equal(eb_session_take(box->session, out, 8, SIZE_MAX), 3); /* 10, 10, 5 */
    eb_session_putback(box->session, out + 1, 2);
    eb_session_sent(box->session, out, 1);
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 15);
    assert_int_equal(state.delivered, 10);
    assert_int_equal(state.cursor, 25);
    expect_events(fake_drain(box, ALL), 11, 25);
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events + state.queued_bytes, 0);
    assert_int_equal(state.delivered, 25);
    fake_box_close(box);
    fake_close(w);
}

/* A bundle that does not fit is not pushed and not dropped: its events fill the queue one by one, up to the bound. */
static void bundle_that_does_not_fit_is_split(void **unused)
{
    struct fake_world *w = open_world(forty);
    struct fake_box *box = live_box(w, "#");
    struct eb_session_state state;
    publish(w, "a", 35);
    fake_commit(w, ALL);
    publish(w, "a", 10);
    fake_commit(w, ALL);
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 40);
    assert_true(state.lagging);
    assert_int_equal(state.cursor, 40);
    expect_events(fake_drain_all(box), 1, 45);
    eb_session_state(box->session, &state);
    assert_false(state.lagging);
    fake_box_close(box);
    fake_close(w);
}

/* The same by bytes: 4,000 hold nine events of 400. */
static void bundle_keeps_the_bound_in_bytes(void **unused)
{
    struct fake_world *w = open_world(few_bytes);
    struct fake_box *box = live_box(w, "#");
    struct eb_session_state state;
    for (int i = 0; i < 30; i++)
        fake_publish_large(w, "a", 400);
    fake_commit(w, ALL);
    eb_session_state(box->session, &state);
    assert_in_range(state.queued_bytes, 3500, 4000);
    assert_true(state.lagging);
    while (fake_turn(w))
        ;
    eb_session_state(box->session, &state);
    assert_in_range(state.queued_bytes, 1, 4000);
    expect_events(fake_drain_all(box), 1, 30);
    fake_box_close(box);
    fake_close(w);
}

/* auto_ack (PROTOCOL 2.2) marks each event of a bundle, and none of one that was not sent. */
static void bundle_marks_each_event(void **unused)
{
    struct fake_world *w = open_world(with_auto_ack);
    struct fake_box *box = live_box(w, "#");
    publish(w, "a", 20);
    fake_commit(w, ALL);
    fake_drain(box, 1);
    eb_autoack_flush(w->bus->autoack);
    fake_commit(w, ALL);
    for (uint64_t seq = 1; seq <= 20; seq++)
        assert_int_equal(fake_acked(w, seq), seq <= 10);
    fake_box_close(box);
    fake_close(w);
}

/* What has expired when its segment is dispatched stands in no bundle. */
static void bundle_leaves_out_the_expired(void **unused)
{
    struct fake_world *w = open_world(forty);
    struct fake_box *box = live_box(w, "#");
    publish(w, "a", 3);
    fake_publish_expired(w, "a");
    publish(w, "a", 2);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain(box, 1), "E1 E2 E3 E5 E6");
    fake_box_close(box);
    fake_close(w);
}

/* A session with two subscriptions that share only some events is given each once, in order. */
static void bundle_merges_subscriptions(void **unused)
{
    struct fake_world *w = open_world(forty);
    struct fake_box *box = live_box(w, "a.#");
    fake_subscribe(box, "*.b", LIVE);
    fake_commit(w, ALL);
    fake_drain(box, ALL);
    static const char *const topics[] = {"a", "a.b", "c.b", "c", "a.b.c", "a.b"};
    for (int i = 0; i < 6; i++)
        fake_publish(w, topics[i]);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain(box, 1), "E1 E2 E3 E5 E6");
    fake_box_close(box);
    fake_close(w);
}

/* A subscription with a floor within the segment is served above it only (Q1), whatever the others of it get. */
static void joins_inside(struct fake_box *box, void *ctx)
{
    fake_turns(box->world);
}

static void bundle_is_not_for_who_joins_meanwhile(void **unused)
{
    struct fake_world *w = open_world(forty);
    struct fake_box *other = live_box(w, "#");
    publish(w, "a", 5);
    fake_commit(w, ALL);
    struct fake_box *box = fake_box(w, false);
    fake_subscribe(box, "a", 1);
    fake_commit(w, ALL);
    publish(w, "a", 6);
    other->during_event = joins_inside; /* its replay reaches 11 while their bundle is made */
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#5 R1@a R2@a R3@a R4@a R5@a R6@a R7@a R8@a R9@a "
                                             "R10@a R11@a L11@a");
    publish(w, "a", 3);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "E12 E13 E14");
    expect_events(fake_drain(other, ALL), 1, 14);
    fake_box_close(other);
    fake_box_close(box);
    fake_close(w);
}

/* One that lagged and catches up with the segment while it is dispatched has its events already (Q1). */
static void bundle_is_not_for_who_caught_up_meanwhile(void **unused)
{
    struct fake_world *w = open_world(forty);
    struct fake_box *other = live_box(w, "#"), *late = live_box(w, "#");
    struct eb_session_state state;
    publish(w, "a", 20);
    fake_commit(w, ALL);
    fake_drain(other, ALL);
    publish(w, "a", 25);
    fake_commit(w, ALL);
    expect_events(fake_drain(late, ALL), 1, 40);
    eb_session_state(late->session, &state);
    assert_true(state.lagging);
    publish(w, "a", 6);
    other->during_event = joins_inside;
    fake_commit(w, ALL);
    assert_null(other->during_event);
    eb_session_state(late->session, &state);
    assert_false(state.lagging);
    expect_events(fake_drain_all(late), 41, 51);
    fake_box_close(other);
    fake_box_close(late);
    fake_close(w);
}

/* A page becomes bundles; a gap stands between them at its place. */
static void bundle_ends_at_a_gap(void **unused)
{
    struct fake_world *w = open_world(forty);
    struct fake_box *box = fake_box(w, false);
    publish(w, "a", 9);
    fake_commit(w, ALL);
    fake_damage(w, 4);
    fake_subscribe(box, "a", 1);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain(box, ALL), "ok#9");
    fake_turns(w);
    assert_string_equal(fake_drain(box, 1), "R1@a R2@a R3@a");
    assert_string_equal(fake_drain(box, 1), "G4-4@a:damaged");
    assert_string_equal(fake_drain(box, ALL), "R5@a R6@a R7@a R8@a R9@a L9@a");
    fake_box_close(box);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bundle_is_shared_by_all_that_want_the_same),
        cmocka_unit_test(bundle_counts_its_events),
        cmocka_unit_test(bundle_that_does_not_fit_is_split),
        cmocka_unit_test(bundle_keeps_the_bound_in_bytes),
        cmocka_unit_test(bundle_marks_each_event),
        cmocka_unit_test(bundle_leaves_out_the_expired),
        cmocka_unit_test(bundle_merges_subscriptions),
        cmocka_unit_test(bundle_is_not_for_who_joins_meanwhile),
        cmocka_unit_test(bundle_is_not_for_who_caught_up_meanwhile),
        cmocka_unit_test(bundle_ends_at_a_gap),
    };
    return cmocka_run_group_tests_name("bus/bundle", tests, NULL, NULL);
}
