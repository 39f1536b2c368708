/*
 * test_ahead.c - pages read ahead of a replay (ahead.c): in order, each once, from where the cursor is, and only while
 * the replay is alone. Queues hold 80 events here, so a page that is read ahead holds 20.
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

#define EVENTS 200

static void eighty(struct eb_bus_config *config)
{
    config->queue_events = 80;
    config->queue_bytes = 100000;
    config->max_subscriptions = 10;
}

/* A world with EVENTS events of one topic, and a replay of them that has had its first turn. */
static struct fake_world *open_replay(struct fake_box **ret)
{
    struct fake_world *w = fake_open(eighty);
    w->bundles = true;
    for (int i = 0; i < EVENTS; i++)
        fake_publish(w, "a");
    fake_commit(w, ALL);
    *ret = fake_box(w, true);
    fake_subscribe(*ret, "a", 1);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain(*ret, ALL), "ok#200");
    assert_false(fake_ahead(w));
    assert_true(fake_turn(w));
    return w;
}

/* What was drained is E<*at> and those behind it, to where it ends. */
static void expect_from(const char *words, uint64_t *at)
{
    char *save = NULL, *copy = strdup(words), expected[32];
    for (char *word = strtok_r(copy, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save)) {
        if (*at > EVENTS) {
            assert_string_equal(word, "L200@");
            continue;
        }
        snprintf(expected, sizeof(expected), "E%llu", (unsigned long long)(*at)++);
        assert_string_equal(word, expected);
    }
    free(copy);
}

static void finish(struct fake_world *w, struct fake_box *box, uint64_t at)
{
    expect_from(fake_drain_all(box), &at);
    assert_int_equal(at, EVENTS + 1);
    fake_box_close(box);
    fake_close(w);
}

/* A turn that finds a page reads none; two are ahead at most. */
static void turn_takes_what_was_read_ahead(void **unused)
{
    struct fake_box *box;
    struct fake_world *w = open_replay(&box);
    uint64_t at = 1;
    assert_int_equal(w->pages, 1);
    assert_true(fake_ahead(w));
    assert_int_equal(w->pages, 3);
    assert_false(fake_ahead(w));
    expect_from(fake_drain(box, ALL), &at);
    uint64_t before = at;
    assert_true(fake_turn(w));
    assert_int_equal(w->pages, 3);
    expect_from(fake_drain(box, ALL), &at);
    assert_int_equal(at, before + 20);
    assert_true(fake_ahead(w)); /* one place is free again */
    assert_int_equal(w->pages, 4);
    finish(w, box, at);
}

/* A turn that comes while its page is read gives its place up, and has it again as soon as the page is there. */
static void turn_comes_meanwhile(struct fake_world *w, void *ctx)
{
    struct fake_box *box = ctx;
    struct eb_session_state state;
    unsigned pages = w->pages;
    eb_session_state(box->session, &state);
    assert_int_equal(state.queued_events, 0);
    assert_true(fake_turn(w));
    assert_int_equal(w->pages, pages);
    assert_int_equal(fake_runnable(w), 0);
    assert_false(fake_turn(w));
}

static void turn_waits_for_the_page_that_is_read(void **unused)
{
    struct fake_box *box;
    struct fake_world *w = open_replay(&box);
    uint64_t at = 1;
    expect_from(fake_drain(box, ALL), &at);
    w->during_page = turn_comes_meanwhile;
    w->ctx = box;
    assert_true(fake_ahead(w));
    assert_null(w->during_page);
    assert_int_equal(fake_runnable(w), 1);
    unsigned pages = w->pages;
    assert_true(fake_turn(w));
    assert_int_equal(w->pages, pages);
    finish(w, box, at);
}

/* A turn that has read by itself before the reader came: that one has nothing to do. */
static void reader_comes_late(void **unused)
{
    struct fake_box *box;
    struct fake_world *w = open_replay(&box);
    uint64_t at = 1;
    expect_from(fake_drain(box, ALL), &at);
    assert_true(fake_turn(w));
    expect_from(fake_drain(box, ALL), &at);
    finish(w, box, at);
}

static void turn_is_given(struct fake_world *w, void *ctx)
{
    assert_true(fake_ahead(w));
    *(unsigned *)ctx = w->pages;
}

/* While a turn reads by itself nobody else reads by its selection (A2). */
static void nobody_reads_beside_the_turn(void **unused)
{
    struct fake_box *box;
    struct fake_world *w = open_replay(&box);
    unsigned pages = 0;
    uint64_t at = 1;
    expect_from(fake_drain(box, ALL), &at);
    w->during_page = turn_is_given;
    w->ctx = &pages;
    assert_true(fake_turn(w));
    assert_int_equal(pages, 2);
    assert_int_equal(w->pages, 2);
    finish(w, box, at);
}

/* A read error ahead is not told twice: the turn meets it, and the replay sleeps until it works again. */
static void failure_is_left_to_the_turn(void **unused)
{
    struct fake_box *box;
    struct fake_world *w = open_replay(&box);
    uint64_t at = 1;
    w->fail_pages = true;
    assert_true(fake_ahead(w));
    expect_from(fake_drain(box, ALL), &at);
    assert_int_equal(fake_sleeping(w), 0);
    assert_true(fake_turn(w));
    assert_int_equal(fake_sleeping(w), 1);
    fake_box_close(box);
    fake_close(w);
}

/* What is deleted, or expires, while its page waits here is not given (PROTOCOL 2.1, ttl). */
static void expires(struct fake_world *w, uint64_t seq)
{
    fake_event(w, seq)->timestamp = 1;
    fake_event(w, seq)->ttl = 1;
}

static void nothing_ahead_outlives_its_event(void **unused)
{
    void (*const ways[])(struct fake_world *, uint64_t) = {fake_delete, expires};
    for (int i = 0; i < 2; i++) {
        struct fake_box *box;
        struct fake_world *w = open_replay(&box);
        uint64_t at = 1;
        assert_true(fake_ahead(w));
        expect_from(fake_drain(box, ALL), &at);
        assert_int_equal(at, 61);
        ways[i](w, 65);
        char *words = strdup(fake_drain_all(box));
        assert_non_null(strstr(words, "E64 E66 "));
        assert_non_null(strstr(words, "E200 L200"));
        free(words);
        fake_box_close(box);
        fake_close(w);
    }
}

/* A turn that finds all void while more is read: that is void, too, and its reader stops, so that the turn goes on. */
static void is_void_meanwhile(struct fake_world *w, void *ctx)
{
    fake_delete(w, 65);
    assert_true(fake_turn(w));
    assert_int_equal(fake_runnable(w), 0);
    *(unsigned *)ctx = w->pages;
}

static void reader_stops_when_all_is_void(void **unused)
{
    struct fake_box *box;
    struct fake_world *w = open_replay(&box);
    unsigned pages = 0;
    uint64_t at = 1;
    assert_true(fake_ahead(w));
    expect_from(fake_drain(box, ALL), &at);
    assert_true(fake_turn(w)); /* takes one of two, so that one more is read */
    expect_from(fake_drain(box, ALL), &at);
    assert_int_equal(at, 81);
    w->during_page = is_void_meanwhile;
    w->ctx = &pages;
    assert_true(fake_ahead(w));
    assert_int_equal(w->pages, pages);
    assert_int_equal(fake_runnable(w), 1);
    finish(w, box, at);
}

static void leaves(struct fake_world *w, void *ctx)
{
    struct fake_box *box = ctx;
    fake_unsubscribe(box, "a");
    fake_commit(w, ALL);
}

static void closes(struct fake_world *w, void *ctx)
{
    struct fake_box *box = ctx;
    eb_session_close(box->session);
}

/* It goes while pages are ahead and one is being read: nothing of it is given to anybody, nothing is lost (ASan). */
static void replay_ends_meanwhile(void **unused)
{
    void (*const ways[])(struct fake_world *, void *) = {leaves, closes};
    for (int i = 0; i < 4; i++) {
        struct fake_box *box;
        struct fake_world *w = open_replay(&box);
        uint64_t at = 1;
        w->during_page = ways[i % 2];
        w->ctx = box;
        if (i >= 2) { /* in the midst of a turn, with both pages ahead */
            assert_true(fake_ahead(w));
            w->during_page = NULL;
            ways[i % 2](w, box);
            fake_turn(w);
        } else {
            assert_true(fake_ahead(w));
            assert_null(w->during_page);
        }
        fake_turns(w);
        if (ways[i % 2] == leaves) {
            char *words = strdup(fake_drain(box, ALL)), *ok = strstr(words, "bye");
            assert_non_null(ok);
            assert_null(strchr(ok, 'E'));
            *ok = '\0';
            expect_from(words, &at);
            assert_true(at < EVENTS);
            free(words);
        }
        fake_box_close(box);
        fake_close(w);
    }
}

/* A replay that starts afresh is another one: pages of the one before are not its own. */
static void replay_starts_afresh(void **unused)
{
    struct fake_box *box;
    struct fake_world *w = open_replay(&box);
    uint64_t at = 150;
    assert_true(fake_ahead(w));
    fake_drain(box, ALL);
    fake_subscribe(box, "a", 150);
    fake_commit(w, ALL);
    assert_string_equal(fake_drain(box, ALL), "ok#200");
    finish(w, box, at);
}

/* With another stream every reader has something to do, and pages are shared instead (A1). */
static void only_one_replay_is_read_ahead(void **unused)
{
    struct fake_box *box;
    struct fake_world *w = open_replay(&box);
    struct fake_box *other = fake_box(w, true);
    fake_subscribe(other, "a", 1);
    fake_commit(w, ALL);
    assert_true(fake_ahead(w)); /* asked for before */
    assert_int_equal(w->pages, 1);
    fake_turns(w);
    assert_false(fake_ahead(w));
    fake_box_close(other);
    finish(w, box, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turn_takes_what_was_read_ahead),
        cmocka_unit_test(turn_waits_for_the_page_that_is_read),
        cmocka_unit_test(reader_comes_late),
        cmocka_unit_test(nobody_reads_beside_the_turn),
        cmocka_unit_test(failure_is_left_to_the_turn),
        cmocka_unit_test(nothing_ahead_outlives_its_event),
        cmocka_unit_test(reader_stops_when_all_is_void),
        cmocka_unit_test(replay_ends_meanwhile),
        cmocka_unit_test(replay_starts_afresh),
        cmocka_unit_test(only_one_replay_is_read_ahead),
    };
    return cmocka_run_group_tests_name("bus/ahead", tests, NULL, NULL);
}
