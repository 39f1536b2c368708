/* test_reconnect.c - the waits between tries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client/internal.h"

/* Without jitter (its middle) the waits double up to the longest and stay there. */
static void waits_double_up_to_the_longest(void **state)
{
    static const int64_t expected[] = {500, 1000, 2000, 4000, 8000, 15000, 15000, 15000};
    struct eb_backoff backoff;

    eb_backoff_init(&backoff, 500, 15000);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
        assert_int_equal(eb_backoff_wait(&backoff, (uint64_t)expected[i] / 4), expected[i]);
}

/* Whatever the random number, a wait stays within a quarter either way; both ends are reached. */
static void jitter_stays_within_a_quarter(void **state)
{
    int64_t lowest = INT64_MAX, highest = 0;

    for (uint64_t random = 0; random < 5000; random++) {
        struct eb_backoff backoff;
        eb_backoff_init(&backoff, 1000, 1000);
        int64_t wait = eb_backoff_wait(&backoff, random * 0x9E3779B97F4A7C15u);
        lowest = wait < lowest ? wait : lowest;
        highest = wait > highest ? wait : highest;
    }
    assert_in_range(lowest, 750, 755);
    assert_in_range(highest, 1245, 1250);
}

/* The smallest interval and the largest do not overflow or become 0. */
static void extremes_are_safe(void **state)
{
    struct eb_backoff backoff;

    eb_backoff_init(&backoff, 1, 1);
    assert_int_equal(eb_backoff_wait(&backoff, UINT64_MAX), 1);
    eb_backoff_init(&backoff, INT64_MAX / 4, INT64_MAX / 2);
    for (int i = 0; i < 5; i++)
        assert_true(eb_backoff_wait(&backoff, UINT64_MAX) > 0);
}

/* A connection that stood brings back the short waits; one that ended at once does not, but the count starts anew. */
static void only_a_steady_connection_brings_back_short_waits(void **state)
{
    struct eb_backoff backoff;

    eb_backoff_init(&backoff, 100, 60000);
    for (int i = 0; i < 4; i++)
        eb_backoff_wait(&backoff, 0);
    backoff.failures = 4;
    eb_backoff_connected(&backoff, 10);
    assert_int_equal(backoff.failures, 0);
    assert_int_equal(backoff.next, 1600);
    eb_backoff_connected(&backoff, 6000);
    assert_int_equal(backoff.next, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"reconnect/waits_double_up_to_the_longest", waits_double_up_to_the_longest},
        {"reconnect/jitter_stays_within_a_quarter", jitter_stays_within_a_quarter},
        {"reconnect/extremes_are_safe", extremes_are_safe},
        {"reconnect/only_a_steady_connection_brings_back_short_waits",
         only_a_steady_connection_brings_back_short_waits},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
