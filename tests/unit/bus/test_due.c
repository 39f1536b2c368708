/*
 * test_due.c - the thread that lets what is due into the log, over a store that is a counter: when it takes turns, how
 * large they are, and that it neither sleeps through a time nor loses what a turn could not take.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

#define HOUR_MS 3600000
#define LOG_MAX 512

/* ---- a store ---- */

static struct {
    _Atomic int64_t next_due;
    atomic_uint waiting, entered, turns, failures; /* failures: so many turns to come fail */
    size_t payload;                                /* of each event */
    uint32_t rooms[LOG_MAX];
    bool memory;
} fake;

int64_t eb_store_next_due(struct eb_store *store)
{
    return fake.next_due;
}

bool eb_store_in_memory(struct eb_store *store)
{
    return fake.memory;
}

/* The turn is carried out at once, as by a writer that had nothing else to do. */
void eb_bus_submit(struct eb_bus *bus, struct eb_op *op)
{
    static char payload[1 << 20];
    assert_int_equal(op->kind, EB_OP_DUE);
    assert_int_equal(op->count, 0);
    fake.rooms[fake.turns % LOG_MAX] = op->room;
    fake.turns++;
    if (fake.failures > 0) {
        fake.failures--;
        eb_fail(&op->err, EB_STORAGE_FULL, "no room");
        op->done(op);
        return;
    }
    while (op->count < op->room && fake.waiting > 0) {
        struct eb_draft draft = {
            .topic = "a", .topic_len = 1, .payload = payload, .payload_len = fake.payload};
        op->events[op->count] = eb_event_create(&draft);
        op->results[op->count++].seq = ++fake.entered;
        fake.waiting--;
    }
    op->more = fake.waiting > 0;
    if (!op->more)
        fake.next_due = INT64_MAX;
    op->done(op);
}

/* ---- the thread ---- */

static struct eb_bus bus;
static struct eb_due *due;

static void begin(unsigned waiting, int64_t next_due, size_t payload, unsigned failures)
{
    memset(&fake, 0, sizeof(fake));
    memset(&bus, 0, sizeof(bus));
    fake.waiting = waiting;
    fake.next_due = next_due;
    fake.payload = payload;
    fake.failures = failures;
    assert_int_equal(eb_due_create(&bus, &due), 0);
    assert_int_equal(eb_due_start(due), 0);
    eb_due_kick(due);
}

static void end(void)
{
    eb_due_stop(due);
    eb_due_stop(due);
    eb_due_destroy(due);
}

static void wait_entered(unsigned count)
{
    int64_t deadline = eb_mono_ms() + 60000;
    while (fake.entered < count) {
        assert_true(eb_mono_ms() < deadline);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(fake.entered, count);
}

/* Nothing waits, or not yet: no turn is taken, and the end does not wait for it. */
static void no_turn_without_need(void **unused)
{
    int64_t before = eb_mono_ms();
    begin(0, INT64_MAX, 0, 0);
    eb_due_kick(due);
    end();
    assert_int_equal(fake.turns, 0);
    begin(1, eb_wall_ms() + HOUR_MS, 0, 0);
    end();
    assert_int_equal(fake.turns, 0);
    assert_true(eb_mono_ms() - before < 30000);
}

/* E2: what is overdue at the start enters whole, in turns that grow while they are small. */
static void a_crowd_enters_in_turns_that_grow(void **unused)
{
    begin(2000, 1, 10, 0);
    wait_entered(2000);
    end();
    assert_int_equal(fake.rooms[0], 16);
    assert_int_equal(fake.rooms[1], 32);
    assert_int_equal(fake.rooms[fake.turns - 1], 256);
    assert_true(fake.turns < 16);
    assert_int_equal(bus.counters.due, 2000);
}

/* ... and shrink where the events are large, so that a turn costs a bounded amount of memory. */
static void turns_of_large_events_are_small(void **unused)
{
    begin(60, 1, 1 << 20, 0);
    wait_entered(60);
    end();
    assert_int_equal(fake.rooms[0], 16);
    for (unsigned i = 3; i < fake.turns; i++)
        assert_true(fake.rooms[i] <= 4);
}

/* E3: a commit that makes something due earlier is not slept through. */
static void an_earlier_time_wakes_it(void **unused)
{
    for (int i = 0; i < 20; i++) {
        begin(1, INT64_MAX, 0, 0); /* for ever: only the kick can wake it */
        fake.next_due = eb_wall_ms() + 5;
        eb_due_kick(due);
        wait_entered(1);
        end();
    }
}

/* E1: the clock jumps over a time that was far: it is seen without anybody's word. */
static void a_clock_that_jumps_is_followed(void **unused)
{
    begin(1, eb_wall_ms() + HOUR_MS, 0, 0);
    nanosleep(&(struct timespec){.tv_nsec = 20000000},
              NULL);   /* it may be asleep by now, or not: both are to work */
    fake.next_due = 1; /* as if an hour had passed */
    wait_entered(1);
    end();
}

/* A turn that fails is tried again, and nothing is lost or comes twice. */
static void a_failed_turn_is_tried_again(void **unused)
{
    begin(20, 1, 0, 1);
    wait_entered(20);
    end();
    assert_int_equal(fake.turns, 3);
    assert_int_equal(bus.counters.due, 20);
}

/* With storage = memory there is no thread at all; what ends nothing is harmless. */
static void no_thread_in_memory(void **unused)
{
    memset(&fake, 0, sizeof(fake));
    fake.memory = true;
    fake.next_due = 1;
    assert_int_equal(eb_due_create(&bus, &due), 0);
    assert_int_equal(eb_due_start(due), 0);
    eb_due_kick(due);
    end();
    assert_int_equal(fake.turns, 0);
    eb_due_kick(NULL);
    eb_due_stop(NULL);
    eb_due_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_turn_without_need),
        cmocka_unit_test(a_crowd_enters_in_turns_that_grow),
        cmocka_unit_test(turns_of_large_events_are_small),
        cmocka_unit_test(an_earlier_time_wakes_it),
        cmocka_unit_test(a_clock_that_jumps_is_followed),
        cmocka_unit_test(a_failed_turn_is_tried_again),
        cmocka_unit_test(no_thread_in_memory),
    };
    return cmocka_run_group_tests_name("bus/due", tests, NULL, NULL);
}
