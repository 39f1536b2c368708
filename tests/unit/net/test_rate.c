/* The token bucket of publish_rate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/net/internal.h"
#include "common/clock.h"

/* Off means off. */
static void rate_0_lets_all_through(void **state)
{
    struct eb_rate rate = {0};

    for (int i = 0; i < 1000; i++)
        assert_true(eb_rate_take(&rate, 0, 1e9));
}

/* One second's worth at once, then nothing until time has passed. */
static void a_second_worth_is_the_burst(void **state)
{
    struct eb_rate rate = {0};

    for (int i = 0; i < 5; i++)
        assert_true(eb_rate_take(&rate, 5, 1));
    assert_false(eb_rate_take(&rate, 5, 1));
    rate.at_us -= 200000; /* a fifth of a second later */
    assert_true(eb_rate_take(&rate, 5, 1));
    assert_false(eb_rate_take(&rate, 5, 1));
}

/* A batch larger than the bucket passes when it is full, and is paid for afterwards. */
static void a_large_batch_leaves_a_debt(void **state)
{
    struct eb_rate rate = {0};

    assert_true(eb_rate_take(&rate, 10, 30));
    rate.at_us -= 1900000;
    assert_false(eb_rate_take(&rate, 10, 1));
    rate.at_us -= 300000;
    assert_true(eb_rate_take(&rate, 10, 1));
}

/* A rate below one a second still lets single events through. */
static void a_slow_rate_lets_single_events_through(void **state)
{
    struct eb_rate rate = {0};

    assert_true(eb_rate_take(&rate, 0.5, 1));
    assert_false(eb_rate_take(&rate, 0.5, 1));
    rate.at_us -= 2100000;
    assert_true(eb_rate_take(&rate, 0.5, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"rate/rate_0_lets_all_through", rate_0_lets_all_through, NULL, NULL, NULL},
        {"rate/a_second_worth_is_the_burst", a_second_worth_is_the_burst, NULL, NULL, NULL},
        {"rate/a_large_batch_leaves_a_debt", a_large_batch_leaves_a_debt, NULL, NULL, NULL},
        {"rate/a_slow_rate_lets_single_events_through", a_slow_rate_lets_single_events_through,
         NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("rate", tests, NULL, NULL);
}
