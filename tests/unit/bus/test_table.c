/*
 * test_table.c - the topic table against the pattern matcher itself, and its bounds.
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

static uint64_t seed = 88172645463325252u;

static unsigned any(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed % below);
}

static void random_words(char *out, size_t max, bool pattern)
{
    static const char *const words[] = {"a", "b", "user", "$sys", "_x", "*", "#"};
    size_t count = 1 + any((unsigned)max);
    *out = '\0';
    for (size_t i = 0; i < count; i++) {
        strcat(out, i != 0 ? "." : "");
        strcat(out, words[any(pattern ? 7 : 5)]);
    }
}

static struct eb_sub *make_sub(struct fake_box *box, const char *text)
{
    struct eb_pattern pattern;
    struct eb_error err;
    assert_int_equal(eb_pattern_parse(&pattern, text, strlen(text), &err), 0);
    return eb_sub_create(box->session, &pattern, 1);
}

/* In both shards together exactly the matching ones, each once. */
static void check_topic(struct eb_table *table, struct eb_sub **subs, size_t count,
                        const char *topic)
{
    size_t len = strlen(topic), found = 0, expected = 0;
    for (size_t i = 0; i < count; i++)
        expected += subs[i] != NULL && eb_pattern_match(&subs[i]->entries[0].pattern, topic, len);
    for (int wild = 0; wild < 2; wild++) {
        struct eb_match *match = NULL;
        assert_int_equal(eb_table_match(table, wild, topic, len, &match), 0);
        for (uint32_t i = 0; match != NULL && i < match->count; i++) {
            assert_true(eb_pattern_match(&match->subs[i]->entries[0].pattern, topic, len));
            for (uint32_t j = 0; j < i; j++)
                assert_ptr_not_equal(match->subs[i], match->subs[j]);
            found++;
        }
        eb_match_unref(match);
    }
    assert_int_equal(found, expected);
}

/* Patterns come and go at random; the table always answers as the matcher does, from the cache or not. */
static void table_answers_as_the_matcher_does(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    struct eb_sub *subs[40] = {NULL};
    char text[128];
    for (int round = 0; round < 4000; round++) {
        unsigned i = any(40);
        if (subs[i] != NULL) {
            eb_table_remove(w->bus->table, subs[i]);
            eb_sub_unref(subs[i]);
            subs[i] = NULL;
        } else {
            random_words(text, 5, true);
            subs[i] = make_sub(box, text);
            assert_int_equal(eb_table_add(w->bus->table, subs[i]), 0);
        }
        for (int t = 0; t < 4; t++) {
            random_words(text, 5, false);
            check_topic(w->bus->table, subs, 40, text);
        }
    }
    for (int i = 0; i < 40; i++) {
        if (subs[i] != NULL) {
            eb_table_remove(w->bus->table, subs[i]);
            eb_sub_unref(subs[i]);
        }
    }
    fake_box_close(box);
    fake_close(w);
}

/* T3: a million different topics leave a bounded number of answers behind. */
static void table_flood_of_topics_stays_bounded(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    size_t most = 0, pointers;
    char text[64];
    fake_subscribe(box, "#", LIVE);
    fake_subscribe(box, "flood.x", LIVE);
    fake_commit(w, ALL);
    for (int i = 0; i < 1000000; i++) {
        size_t len = (size_t)snprintf(text, sizeof(text), "%s%d", i % 2 ? "flood." : "f", i);
        for (int wild = 0; wild < 2; wild++) {
            struct eb_match *match = NULL;
            assert_int_equal(eb_table_match(w->bus->table, wild, text, len, &match), 0);
            eb_match_unref(match);
        }
        if (i % 4096 == 0 && eb_table_cached(w->bus->table, &pointers) > most)
            most = eb_table_cached(w->bus->table, &pointers);
    }
    assert_in_range(most, 1, 45000);
    fake_box_close(box);
    fake_close(w);
}

/* T3: also where each of them is wanted by many. */
static void table_flood_with_long_answers_stays_bounded(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    struct eb_sub *subs[6000];
    size_t most = 0;
    char text[64];
    for (int i = 0; i < 6000;
         i++) { /* 500 of each kind want all topics, and one more each, so that no two agree */
        snprintf(text, sizeof(text), i % 2 ? "*.%d" : "flood.%d", i / 2 - 500);
        subs[i] = make_sub(box, i >= 1000 ? text : i % 2 ? "#" : "flood.#");
        assert_int_equal(eb_table_add(w->bus->table, subs[i]), 0);
    }
    for (int i = 0; i < 2500; i++) {
        size_t pointers, len = (size_t)snprintf(text, sizeof(text), "flood.%d", i);
        for (int wild = 0; wild < 2; wild++) {
            struct eb_match *match = NULL;
            assert_int_equal(eb_table_match(w->bus->table, wild, text, len, &match), 0);
            assert_int_equal(match->count, 501);
            eb_match_unref(match);
        }
        eb_table_cached(w->bus->table, &pointers);
        most = pointers > most ? pointers : most;
    }
    assert_in_range(most, 100000, 1200000);
    for (int i = 0; i < 6000; i++) {
        eb_table_remove(w->bus->table, subs[i]);
        eb_sub_unref(subs[i]);
    }
    fake_box_close(box);
    fake_close(w);
}

/* T6: topics wanted by the same subscriptions have one answer, others have another. */
static void table_same_answers_are_one(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    static const char *const topics[] = {"a.x", "a.y", "a.b"};
    struct eb_match *match[3] = {NULL};
    fake_subscribe(box, "a.*", LIVE);
    fake_subscribe(box, "a.b", LIVE);
    fake_commit(w, ALL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(
            eb_table_match(w->bus->table, false, topics[i], strlen(topics[i]), &match[i]), 0);
    assert_ptr_equal(match[0], match[1]);
    assert_ptr_not_equal(match[0], match[2]);
    for (int i = 0; i < 3; i++)
        eb_match_unref(match[i]);
    fake_box_close(box);
    fake_close(w);
}

/* T2: a session that closed is freed though answers that named it were remembered. */
static void table_closed_sessions_are_let_go(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    struct eb_bus_counters counters;
    fake_subscribe(box, "a.*", LIVE);
    fake_subscribe(box, "#", LIVE);
    fake_publish(w, "a.b");
    fake_publish(w, "c");
    fake_commit(w, ALL);
    fake_box_close(box);
    eb_bus_counters(w->bus, &counters);
    assert_int_equal(counters.sessions, 0);
    fake_close(w);
}

/* An answer is remembered until a pattern of its shard comes or goes. */
static void table_repeats_are_hits(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false);
    struct eb_bus_counters before, after;
    fake_subscribe(box, "a", LIVE);
    fake_publish(w, "a");
    fake_commit(w, ALL);
    eb_bus_counters(w->bus, &before);
    for (int i = 0; i < 5; i++)
        fake_publish(w, "a");
    fake_commit(w, ALL);
    eb_bus_counters(w->bus, &after);
    assert_int_equal(after.match_hits - before.match_hits, 5);
    fake_box_close(box);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_answers_as_the_matcher_does),
        cmocka_unit_test(table_flood_of_topics_stays_bounded),
        cmocka_unit_test(table_flood_with_long_answers_stays_bounded),
        cmocka_unit_test(table_same_answers_are_one),
        cmocka_unit_test(table_closed_sessions_are_let_go),
        cmocka_unit_test(table_repeats_are_hits),
    };
    return cmocka_run_group_tests_name("bus/table", tests, NULL, NULL);
}
