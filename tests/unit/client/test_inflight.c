/* test_inflight.c - the table of requests: order, lookup, sending again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "client/internal.h"

static struct eb_request *add(struct eb_inflight *table, uint64_t id)
{
    struct eb_request *request = calloc(1, sizeof(*request));

    request->id = id;
    request->cost = 10;
    eb_inflight_add(table, request);
    return request;
}

static void drop(struct eb_inflight *table, uint64_t id)
{
    struct eb_request *request = eb_inflight_find(table, id);

    assert_non_null(request);
    eb_inflight_remove(table, request);
    free(request);
}

static void finish(struct eb_inflight *table)
{
    while (table->first)
        drop(table, table->first->id);
    assert_int_equal(table->count, 0);
    assert_int_equal(table->bytes, 0);
    eb_inflight_finish(table);
}

/* Thousands are found by id after the hash grew, in whatever order they are answered. */
static void all_are_found_after_growth(void **state)
{
    struct eb_inflight table;

    assert_int_equal(eb_inflight_init(&table), 0);
    for (uint64_t id = 1; id <= 5000; id++)
        add(&table, id * 3);
    assert_true(table.mask + 1 >= 4096);
    assert_int_equal(table.bytes, 50000);
    assert_null(eb_inflight_find(&table, 4));
    for (uint64_t i = 0; i < 5000; i++)
        drop(&table, ((i * 1237) % 5000 + 1) * 3);
    finish(&table);
}

/* After a lost connection the unanswered ones are sent again in their first order, and before the new ones. */
static void sent_again_in_the_first_order(void **state)
{
    static const uint64_t again[] = {1, 3, 5, 6, 7};
    struct eb_inflight table;
    struct eb_request *request;

    assert_int_equal(eb_inflight_init(&table), 0);
    for (uint64_t id = 1; id <= 6; id++)
        add(&table, id);
    for (int i = 0; i < 5; i++)
        assert_int_equal(eb_inflight_send_next(&table, 100 + i)->id, i + 1);
    drop(&table, 4);
    drop(&table, 2);
    eb_inflight_rewind(&table);
    add(&table, 7);
    for (size_t i = 0; i < 5; i++) {
        request = eb_inflight_send_next(&table, 200);
        assert_int_equal(request->id, again[i]);
        assert_int_equal(request->attempts, again[i] <= 5 ? 2 : 1);
        assert_int_equal(request->first_sent, again[i] <= 5 ? 99 + again[i] : 200);
    }
    assert_null(eb_inflight_send_next(&table, 200));
    finish(&table);
}

/* An answer for one that was not sent again yet moves the cursor past it. */
static void an_answer_before_the_second_sending_is_not_sent_again(void **state)
{
    struct eb_inflight table;

    assert_int_equal(eb_inflight_init(&table), 0);
    add(&table, 1);
    add(&table, 2);
    eb_inflight_send_next(&table, 1);
    eb_inflight_rewind(&table);
    drop(&table, 1);
    assert_int_equal(eb_inflight_send_next(&table, 1)->id, 2);
    assert_null(eb_inflight_send_next(&table, 1));
    add(&table, 3);
    assert_int_equal(eb_inflight_send_next(&table, 1)->id, 3);
    finish(&table);
}

/* Only what was sent can be in doubt, oldest first; what waits for a connection never is. */
static void only_the_sent_grow_old(void **state)
{
    struct eb_inflight table;

    assert_int_equal(eb_inflight_init(&table), 0);
    add(&table, 1);
    add(&table, 2);
    assert_null(eb_inflight_older(&table, INT64_MAX));
    eb_inflight_send_next(&table, 100);
    assert_null(eb_inflight_older(&table, 99));
    assert_int_equal(eb_inflight_older(&table, 100)->id, 1);
    eb_inflight_rewind(&table);
    assert_int_equal(eb_inflight_older(&table, 100)->id, 1);
    drop(&table, 1);
    assert_null(eb_inflight_older(&table, INT64_MAX));
    finish(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"inflight/all_are_found_after_growth", all_are_found_after_growth},
        {"inflight/sent_again_in_the_first_order", sent_again_in_the_first_order},
        {"inflight/an_answer_before_the_second_sending_is_not_sent_again",
         an_answer_before_the_second_sending_is_not_sent_again},
        {"inflight/only_the_sent_grow_old", only_the_sent_grow_old},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
