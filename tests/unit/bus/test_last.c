/*
 * test_last.c - a subscription that begins with the newest event of each topic (PROTOCOL 8, last.c): first those, in seq
 * order, then everything above the seq of its `ok`, with no gap and no repeat at the seam, whatever comes between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/fake_world.h"
#include "tests/unit/bus/join_race.h"

static void publish_each(struct fake_world *w, const char *const *topics, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fake_publish(w, topics[i]);
    fake_commit(w, ALL);
}
#define PUBLISH(w, ...)                                                                            \
    publish_each(w, (const char *const[]){__VA_ARGS__},                                            \
                 sizeof((const char *[]){__VA_ARGS__}) / sizeof(const char *))

/* The newest of each topic that matches, in seq order, then `live`, then what comes. */
static void newest_of_each_topic_then_live(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    PUBLISH(w, "a.x", "a.y", "b", "a.x", "a.z", "a.y");
    fake_subscribe(box, "a.*", NEWEST);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#6 R4@a.* R5@a.* R6@a.* L6@a.*");
    PUBLISH(w, "a.x", "b", "a.y");
    assert_string_equal(fake_drain_all(box), "E7 E9");
    assert_int_equal(w->lists, 1);
    fake_box_close(box);
    fake_close(w);
}

/* L1: of what comes behind the `ok` all is given, also of a topic that the list names, also before the list is made. */
static void nothing_behind_the_ok_is_left_out(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    PUBLISH(w, "a", "b", "a");
    fake_subscribe(box, "#", NEWEST);
    fake_publish(w, "a");
    fake_publish(w, "a");
    fake_commit(w, ALL); /* no turn yet: the list is made later */
    PUBLISH(w, "a", "c");
    assert_string_equal(fake_drain_all(box), "ok#3 R2@# R3@# R4@# R5@# R6@# R7@# L7@#");
    fake_box_close(box);
    fake_close(w);
}

static void publish_two(struct fake_world *w, void *ctx)
{
    PUBLISH(w, "a", "b");
}

/* Events that arrive while a page of the list is read come once, behind it. */
static void events_while_the_list_is_read_come_once(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    PUBLISH(w, "a", "b");
    fake_subscribe(box, "#", NEWEST);
    fake_commit(w, ALL);
    w->during_page = publish_two;
    assert_string_equal(fake_drain_all(box), "ok#2 R1@# R2@# R3@# R4@# L4@#");
    PUBLISH(w, "a");
    assert_string_equal(fake_drain_all(box), "E5");
    fake_box_close(box);
    fake_close(w);
}

/* ... and so do those that arrive at the very moment when the stream joins. */
static void events_at_the_moment_of_joining_come_once(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    PUBLISH(w, "a", "b");
    fake_subscribe(box, "#", NEWEST);
    fake_commit(w, ALL);
    turn_that_joins_while_one_is_dispatched(w, box);
    assert_string_equal(fake_drain_all(box), "ok#2 R1@# R2@# L2@# E3");
    fake_box_close(box);
    fake_close(w);
}

/* A list longer than the queue goes in pages: each event once, in order; it is made once. */
static void list_longer_than_the_queue(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, true);
    char topic[16], want[1024] = "ok#60";
    for (int i = 0; i < 60; i++) {
        snprintf(topic, sizeof(topic), "t.%d", i % 30);
        fake_publish(w, topic);
    }
    fake_commit(w, ALL);
    fake_subscribe(box, "t.*", NEWEST);
    fake_commit(w, ALL);
    for (int i = 31; i <= 60; i++)
        snprintf(want + strlen(want), sizeof(want) - strlen(want), " E%d", i);
    strcat(want, " L60@");
    assert_string_equal(fake_drain_all(box), want);
    assert_int_equal(w->lists, 1);
    fake_box_close(box);
    fake_close(w);
}

/* L2: what is gone when its turn comes is passed over, without a word: it is a topic's old value. */
static void gone_when_its_turn_comes_is_passed_over(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    char topic[16];
    for (int i = 0; i < 20; i++) {
        snprintf(topic, sizeof(topic), "t.%d", i);
        fake_publish(w, topic);
    }
    fake_commit(w, ALL);
    fake_subscribe(box, "t.*", NEWEST);
    fake_commit(w, ALL);
    fake_turn(w); /* the list, and the first events */
    fake_retain(w, 18);
    const char *words = fake_drain_all(box);
    assert_non_null(strstr(words, "ok#20 R1@t.*"));
    assert_non_null(strstr(words, " R19@t.* R20@t.* L20@t.*"));
    assert_null(strstr(words, "R18"));
    assert_null(strstr(words, "G"));
    fake_box_close(box);
    fake_close(w);
}

/* What is deleted behind the list, before it was delivered, is a gap like any other. */
static void deleted_behind_the_list_is_a_gap(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    PUBLISH(w, "a", "b");
    fake_subscribe(box, "#", NEWEST);
    fake_commit(w, ALL);
    PUBLISH(w, "a", "a", "b", "b");
    fake_retain(w, 4);
    assert_string_equal(fake_drain_all(box), "ok#2 G3-4@#:retention R5@# R6@# L6@#");
    fake_box_close(box);
    fake_close(w);
}

/* A damaged one is never delivered, and said. */
static void damaged_is_a_gap(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    PUBLISH(w, "a", "b", "c");
    fake_damage(w, 2);
    fake_subscribe(box, "#", NEWEST);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#3 R1@# G2-2@#:damaged R3@# L3@#");
    fake_box_close(box);
    fake_close(w);
}

/* An empty log, or none that matches: live at once. Events that were deleted before are no gap: there is no value. */
static void nothing_to_begin_with(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false), *other = fake_box(w, false);
    fake_subscribe(box, "#", NEWEST);
    fake_commit(w, ALL);
    PUBLISH(w, "a", "a");
    assert_string_equal(fake_drain_all(box), "ok#0 R1@# R2@# L2@#");
    fake_retain(w, 2);
    fake_subscribe(other, "a", NEWEST);
    fake_subscribe(other, "z", NEWEST);
    fake_commit(w, ALL);
    const char *words = fake_drain_all(other);
    assert_null(strstr(words, "G"));
    assert_null(strstr(words, "R"));
    assert_non_null(strstr(words, "L2@a"));
    assert_non_null(strstr(words, "L2@z"));
    fake_box_close(other);
    fake_box_close(box);
    fake_close(w);
}

/* Another log's client is told so, and still begins with the newest of each topic. */
static void other_epoch_is_said(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    PUBLISH(w, "a", "a", "b");
    fake_retain(w, 1);
    fake_subscribe_epoch(box, "#", NEWEST, "99999999-2222-4333-8444-555555555555");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#3 G0-1@#:epoch R2@# R3@# L3@#");
    fake_box_close(box);
    fake_close(w);
}

/* Several patterns in one subscription have one list; the same again starts afresh; what left gets nothing more. */
static void again_and_away(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, true), *other = fake_box(w, false);
    static const char *const patterns[] = {"a.*", "b"};
    PUBLISH(w, "b", "a.x", "c", "a.x");
    fake_subscribe_list(box, patterns, 2, NEWEST);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#4 E1 E4 L4@");
    fake_subscribe_list(box, patterns, 2, NEWEST);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(box), "ok#4 E1 E4 L4@");
    assert_int_equal(w->lists, 2);
    fake_subscribe(other, "a.*", NEWEST);
    fake_unsubscribe(other, "a.*");
    fake_commit(w, ALL);
    assert_string_equal(fake_drain_all(other), "ok#4 bye");
    fake_box_close(other);
    fake_box_close(box);
    fake_close(w);
}

/* A log that cannot be read just now is tried again, and nothing is skipped. */
static void reading_fails_and_is_tried_again(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    PUBLISH(w, "a", "b");
    fake_subscribe(box, "#", NEWEST);
    fake_commit(w, ALL);
    w->fail_pages = true;
    fake_turn(w);
    assert_string_equal(fake_drain(box, ALL), "ok#2");
    assert_int_equal(fake_sleeping(w) + fake_runnable(w), 1);
    fake_box_close(box);
    fake_close(w);
}

/* ---- any interleaving ---- */

static void append(char **words, const char *more)
{
    if (*more == '\0')
        return;
    size_t len = strlen(*words);
    *words = realloc(*words, len + strlen(more) + 2);
    strcat(strcat(*words, " "), more);
}

/* The seqs of the events among @words, and at *ret_last the seq of its `ok`. */
static size_t seqs_of(char *words, uint64_t *seqs, uint64_t *ret_last)
{
    size_t count = 0;
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " ")) {
        if (word[0] == 'o')
            *ret_last = strtoull(word + 3, NULL, 10);
        else if (word[0] == 'E' || word[0] == 'R')
            seqs[count++] = strtoull(word + 1, NULL, 10);
    }
    return count;
}

/* One run: a subscription among publishes, turns and drains in any order; at the end it has exactly what it should. */
static void one_run(unsigned seed)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, true);
    char topic[16], *words = calloc(1, 1);
    uint64_t seqs[1024], last = 0;
    int at = rand_r(&seed) % 60;
    for (int step = 0; step < 120; step++) {
        if (step == at)
            fake_subscribe(box, "t.*", NEWEST);
        snprintf(topic, sizeof(topic), "%s.%d", rand_r(&seed) % 5 != 0 ? "t" : "u",
                 rand_r(&seed) % 12);
        switch (rand_r(&seed) % 5) {
        case 0:
        case 1:
            fake_publish(w, topic);
            break;
        case 2:
            fake_commit(w, (size_t)rand_r(&seed) % 4);
            break;
        case 3:
            fake_turn(w);
            break;
        case 4:
            append(&words, fake_drain(box, (size_t)rand_r(&seed) % 4));
        }
    }
    fake_commit(w, ALL);
    append(&words, fake_drain_all(box));
    size_t count = seqs_of(words, seqs, &last), next = 0;
    for (uint64_t seq = 1; seq <= fake_last(w); seq++) {
        bool newest = fake_topic(w, seq)[0] == 't';
        for (uint64_t later = seq + 1; later <= last && newest; later++)
            newest = strcmp(fake_topic(w, seq), fake_topic(w, later)) != 0;
        bool due = fake_topic(w, seq)[0] == 't' && (seq > last || newest);
        if (due && (next == count || seqs[next] != seq))
            fail_msg("event %" PRIu64 " is missing or not in order", seq);
        next += due;
    }
    assert_int_equal(next, count);
    free(words);
    fake_box_close(box);
    fake_close(w);
}

static void any_interleaving(void **unused)
{
    for (unsigned seed = 1; seed <= 2000; seed++)
        one_run(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newest_of_each_topic_then_live),
        cmocka_unit_test(nothing_behind_the_ok_is_left_out),
        cmocka_unit_test(events_while_the_list_is_read_come_once),
        cmocka_unit_test(events_at_the_moment_of_joining_come_once),
        cmocka_unit_test(list_longer_than_the_queue),
        cmocka_unit_test(gone_when_its_turn_comes_is_passed_over),
        cmocka_unit_test(deleted_behind_the_list_is_a_gap),
        cmocka_unit_test(damaged_is_a_gap),
        cmocka_unit_test(nothing_to_begin_with),
        cmocka_unit_test(other_epoch_is_said),
        cmocka_unit_test(again_and_away),
        cmocka_unit_test(reading_fails_and_is_tried_again),
        cmocka_unit_test(any_interleaving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
