/*
 * test_shared.c - what several streams read is read from the log about once, and is never older than the log.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/bus/fake_world.h"

#define READERS 100
#define EVENTS  40

static struct fake_world *open_shared(unsigned events)
{
    struct fake_world *world = fake_open(NULL);
    world->shares = true;
    for (unsigned i = 0; i < events; i++)
        fake_publish(world, i % 2 ? "a.b" : "a.c");
    fake_commit(world, ALL);
    return world;
}

static void close_all(struct fake_world *world, struct fake_box **boxes, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        fake_box_close(boxes[i]);
    assert_int_equal(eb_shared_bytes(world->bus->shared), 0); /* nobody reads: nothing is kept */
    fake_close(world);
}

/* A hundred replays of one range cost about one read of the log, and each gets all of it. */
static void replays_read_the_log_once(void **unused)
{
    struct fake_world *world = open_shared(EVENTS);
    struct fake_box *boxes[READERS];
    unsigned alone, last = 0;
    for (int i = 0; i < READERS; i++) {
        boxes[i] = fake_box(world, false);
        fake_subscribe(boxes[i], "a.*", 1);
    }
    fake_commit(world, ALL);
    for (bool more = true; more;) {
        more = false;
        fake_turns(world);
        for (int i = 0; i < READERS; i++) {
            const char *words = fake_drain(boxes[i], ALL);
            more = more || words[0] != '\0';
            last += strstr(words, "R40@a.*") != NULL;
        }
    }
    alone = EVENTS / 4; /* a page is at least half of a queue of 8 */
    assert_int_equal(last, READERS);
    assert_in_range(world->pages, 1, alone);
    close_all(world, boxes, READERS);
}

/* What was deleted after it was shared is a gap, not an event out of memory. */
static void deleted_is_not_given(void **unused)
{
    struct fake_world *world = open_shared(12);
    struct fake_box *boxes[2];
    for (int i = 0; i < 2; i++) {
        boxes[i] = fake_box(world, false);
        fake_subscribe(boxes[i], "a.*", 2);
    }
    fake_commit(world, ALL);
    fake_turn(world); /* the first one's page is shared */
    assert_true(eb_shared_bytes(world->bus->shared) > 0);
    fake_retain(world, 4);
    assert_non_null(strstr(fake_drain_all(boxes[1]), "G2-4@a.*:retention R5@a.*"));
    fake_drain_all(boxes[0]);
    close_all(world, boxes, 2);
}

static void delete_three(struct fake_world *world, void *ctx)
{
    fake_retain(world, 3);
}

/* Nor is a page taken in that was read before the deletion. */
static void read_before_a_deletion_is_not_kept(void **unused)
{
    struct fake_world *world = open_shared(12);
    struct fake_box *boxes[2];
    for (int i = 0; i < 2; i++) {
        boxes[i] = fake_box(world, false);
        fake_subscribe(boxes[i], "a.*", 2);
    }
    fake_commit(world, ALL);
    world->during_page = delete_three;
    fake_turn(world);
    assert_non_null(strstr(fake_drain_all(boxes[1]), "G2-3@a.*:retention R4@a.*"));
    fake_drain_all(boxes[0]);
    close_all(world, boxes, 2);
}

/* Who lags finds what was announced meanwhile in memory: nothing is read from the log. */
static void lagging_reads_what_was_announced(void **unused)
{
    struct fake_world *world = open_shared(0);
    struct fake_box *box = fake_box(world, false);
    fake_subscribe(box, "a.*", LIVE);
    fake_commit(world, ALL);
    for (int i = 0; i < 30; i++)
        fake_publish(world, "a.b");
    fake_commit(world, ALL);
    assert_non_null(strstr(fake_drain_all(box), "E29 E30"));
    assert_int_equal(world->pages, 0);
    close_all(world, &box, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replays_read_the_log_once),
        cmocka_unit_test(deleted_is_not_given),
        cmocka_unit_test(read_before_a_deletion_is_not_kept),
        cmocka_unit_test(lagging_reads_what_was_announced),
    };
    return cmocka_run_group_tests_name("bus/shared", tests, NULL, NULL);
}
