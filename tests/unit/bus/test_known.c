/*
 * test_known.c - what the dispatcher remembers of topics (known.c, N1 to N4) and what it leaves out while nobody
 * listens (dispatch.c, D9): neither may cost an event that somebody wants.
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

static int find(struct eb_known *known, uint64_t added, const char *topic)
{
    return eb_known_find(known, added, topic, strlen(topic));
}

static void put(struct eb_known *known, uint64_t added, const char *topic, int group)
{
    eb_known_put(known, added, topic, strlen(topic), group);
}

/* N1: it holds until a pattern is added, however many rounds that takes. */
static void that_nobody_wants_a_topic_is_known_until_a_pattern_is_added(void **unused)
{
    struct eb_known *known;
    assert_int_equal(eb_known_create(&known), 0);
    assert_int_equal(find(known, 0, "user.created"), EB_KNOWN_NOT);
    put(known, 7, "user.created", EB_KNOWN_NOBODY);
    eb_known_next_round(known);
    assert_int_equal(find(known, 7, "user.created"), EB_KNOWN_NOBODY);
    assert_int_equal(find(known, 7, "user.create"), EB_KNOWN_NOT);
    assert_int_equal(find(known, 7, "user.createD"), EB_KNOWN_NOT);
    assert_int_equal(find(known, 8, "user.created"), EB_KNOWN_NOT);
    eb_known_destroy(known);
}

/* N2: a group is known in its round, and not in the next one, whose groups are others. */
static void a_group_is_known_in_its_round_only(void **unused)
{
    struct eb_known *known;
    assert_int_equal(eb_known_create(&known), 0);
    put(known, 1, "a", 0);
    put(known, 1, "b.c", 255);
    assert_int_equal(find(known, 1, "a"), 0);
    assert_int_equal(find(known, 1, "b.c"), 255);
    eb_known_next_round(known);
    assert_int_equal(find(known, 1, "a"), EB_KNOWN_NOT);
    assert_int_equal(find(known, 1, "b.c"), EB_KNOWN_NOT);
    eb_known_destroy(known);
}

/* N3: of a flood of topics each is answered rightly or not at all, whatever their lengths. */
static void topics_that_meet_are_not_taken_for_each_other(void **unused)
{
    struct eb_known *known;
    char topic[EB_TOPIC_MAX + 1];
    int right = 0;
    assert_int_equal(eb_known_create(&known), 0);
    for (int i = 0; i < 20000; i++) {
        size_t len = 8 + (size_t)i % (EB_TOPIC_MAX - 8);
        memset(topic, 'x', sizeof(topic));
        snprintf(topic, sizeof(topic), "%d", i);
        topic[strlen(topic)] = 'x';
        int group = i % 3 == 0 ? EB_KNOWN_NOBODY : i % 256;
        eb_known_put(known, 5, topic, len, group);
        int found = eb_known_find(known, 5, topic, len);
        assert_true(found == group || found == EB_KNOWN_NOT);
        right += found == group;
        topic[len - 1] = 'y';
        assert_int_equal(eb_known_find(known, 5, topic, len), EB_KNOWN_NOT);
    }
    assert_in_range(right, 3000, 20000); /* long ones are not remembered */
    eb_known_destroy(known);
}

/* D9 in one commit: what stands before a subscription is not its own, what stands behind it is, and so on again. */
static void who_subscribes_among_events_that_nobody_wanted_gets_those_behind(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    fake_publish(w, "a");
    fake_publish(w, "a");
    fake_subscribe(box, "a", LIVE);
    fake_publish(w, "a");
    fake_publish(w, "b");
    fake_unsubscribe(box, "a");
    fake_publish(w, "a");
    fake_publish(w, "b");
    fake_subscribe(box, "b", LIVE);
    fake_publish(w, "a");
    fake_publish(w, "b");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#2 E3 bye ok#6 E8");
    fake_box_close(box);
    fake_close(w);
}

/* N1: a topic found unwanted is delivered to who wants it later, by its name or by a wildcard. */
static void a_topic_that_nobody_wanted_is_delivered_once_somebody_does(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false), *other = fake_box(w, false);
    fake_subscribe(box, "elsewhere", LIVE);
    fake_publish(w, "a.b");
    fake_publish(w, "a.b");
    fake_commit(w, ALL);
    fake_subscribe(box, "a.b", LIVE);
    fake_publish(w, "a.b");
    fake_subscribe(other, "#", LIVE);
    fake_publish(w, "a.b");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#0 ok#2 E3 E4");
    assert_string_equal(fake_drain_all(other), "ok#3 E4");
    fake_unsubscribe(box, "a.b");
    fake_publish(w, "a.b");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "bye");
    assert_string_equal(fake_drain_all(other), "E5");
    fake_box_close(box);
    fake_box_close(other);
    fake_close(w);
}

/* N2, over several segments of one commit: each topic goes to its own, also when the groups' numbers change. */
static void wanted_topics_keep_their_subscribers_over_segments(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *a = fake_box(w, false), *b = fake_box(w, false), *none = fake_box(w, false);
    fake_subscribe(a, "a", LIVE);
    fake_subscribe(b, "b", LIVE);
    fake_commit(w, ALL);
    for (int segment = 0; segment < 3; segment++) {
        for (int i = 0; i < 3; i++) {
            fake_publish(w, segment % 2 ? "b" : "a");
            fake_publish(w, "c");
            fake_publish(w, segment % 2 ? "a" : "b");
        }
        fake_subscribe(none, "none", LIVE); /* a fence */
    }
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(a), "ok#0 E1 E4 E7 E12 E15 E18 E19 E22 E25");
    assert_string_equal(fake_drain_all(b), "ok#0 E3 E6 E9 E10 E13 E16 E21 E24 E27");
    fake_box_close(a);
    fake_box_close(b);
    fake_box_close(none);
    fake_close(w);
}

/* D2 holds for a segment that nobody looks at: who replays joins at its end, with nothing missing and nothing twice. */
static void a_quiet_segment_is_visible_to_its_end(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    fake_publish_batch(box, "a", 700);
    fake_commit(w, ALL);
    assert_int_equal(eb_bus_visible(w->bus), 700);
    assert_int_equal(w->bus->dispatched, 700);
    fake_drain_all(box);
    fake_subscribe(box, "a", 698);
    fake_publish(w, "a");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#700 R698@a R699@a R700@a R701@a L701@a");
    fake_box_close(box);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(that_nobody_wants_a_topic_is_known_until_a_pattern_is_added),
        cmocka_unit_test(a_group_is_known_in_its_round_only),
        cmocka_unit_test(topics_that_meet_are_not_taken_for_each_other),
        cmocka_unit_test(who_subscribes_among_events_that_nobody_wanted_gets_those_behind),
        cmocka_unit_test(a_topic_that_nobody_wanted_is_delivered_once_somebody_does),
        cmocka_unit_test(wanted_topics_keep_their_subscribers_over_segments),
        cmocka_unit_test(a_quiet_segment_is_visible_to_its_end),
    };
    return cmocka_run_group_tests_name("bus/known", tests, NULL, NULL);
}
