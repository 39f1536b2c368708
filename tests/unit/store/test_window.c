/* test_window.c - the run of seqs inside the dedupe window against a plain list of their times. */
#include "fixture.h"

#include "broker/store/window.h"

#define MANY 200000u

struct model {
    int64_t times[MANY + 1];
    uint64_t last, floor, evicted;
};

static void model_expire(struct model *model, int64_t upto)
{
    while (model->floor < model->last && model->times[model->floor + 1] <= upto)
        model->floor++;
}

static void model_bound(struct model *model, uint64_t max)
{
    if (model->last - model->floor <= max)
        return;
    model->evicted += model->last - max - model->floor;
    model->floor = model->last - max;
}

/*
 * Groups come, time passes, the bound changes. With runs of one millisecond all is exact; with longer ones a seq may stay
 * for as long as its run, and no longer.
 */
static void against_a_list(int64_t length)
{
    static struct model model;
    static struct eb_window window;
    unsigned seed = 11;
    int64_t now = 1000000, late = length / 512;
    memset(&model, 0, sizeof model);
    memset(&window, 0, sizeof window);
    eb_window_set(&window, length);
    while (model.last < MANY - 100) {
        unsigned what = (unsigned)rand_r(&seed) % 100;
        now += what < 30 ? rand_r(&seed) % (int)(length / 40) : 0;
        if (what < 80) {
            uint64_t count = 1 + (unsigned)rand_r(&seed) % 90;
            eb_window_add(&window,
                          &(struct eb_window_run){model.last + 1, model.last + count, now, now});
            while (count--)
                model.times[++model.last] = now;
        } else if (what < 95) {
            eb_window_expire(&window, now - length);
        } else {
            uint64_t max = 500 + (unsigned)rand_r(&seed) % 3000;
            model_expire(&model, now - length - late);
            model_bound(&model, max);
            eb_window_expire(&window, now - length);
            eb_window_bound(&window, max);
            if (!late)
                assert_int_equal(model.evicted, window.evicted);
        }
        if (what < 80 || what >= 95)
            continue;
        model_expire(&model, now - length - late);
        assert_true(eb_window_count(&window) <= model.last - model.floor);
        struct model exact = {.last = model.last, .floor = model.floor};
        memcpy(exact.times, model.times, sizeof exact.times);
        model_expire(&exact, now - length);
        assert_true(eb_window_count(&window) >= exact.last - exact.floor);
        if (exact.floor < exact.last)
            assert_in_range(exact.times[exact.floor + 1] - eb_window_oldest(&window), 0, late);
        assert_true(window.count <= EB_WINDOW_RUNS);
    }
}

static void exact_when_short(void **state)
{
    against_a_list(500);
}

static void no_later_than_a_run_when_long(void **state)
{
    against_a_list(600000);
}

/* A window that becomes long when there are many short runs: they are joined, and none is lost. */
static void longer_than_there_is_room_for(void **state)
{
    static struct eb_window window;
    memset(&window, 0, sizeof window);
    for (uint64_t seq = 1; seq <= 10000; seq++)
        eb_window_add(&window, &(struct eb_window_run){seq, seq, (int64_t)seq, (int64_t)seq});
    assert_true(window.count <= EB_WINDOW_RUNS);
    assert_int_equal(10000, eb_window_count(&window));
    assert_int_equal(1, eb_window_oldest(&window));
    uint64_t next = 1;
    for (unsigned i = 0; i < window.count; i++) {
        struct eb_window_run run = eb_window_at(&window, i);
        assert_int_equal(next, run.first);
        assert_int_equal(next, run.first_ts);
        assert_int_equal(run.last, run.last_ts);
        next = run.last + 1;
    }
    assert_int_equal(10001, next);
    eb_window_bound(&window, 100);
    assert_int_equal(100, eb_window_count(&window));
    assert_int_equal(9900, window.evicted);
    assert_int_equal(9901, eb_window_at(&window, 0).first);
}

/* What is told at start may begin anywhere, have holes and repeat itself: what was never told is not counted before. */
static void told_at_start(void **state)
{
    static struct eb_window window;
    memset(&window, 0, sizeof window);
    assert_int_equal(0, eb_window_count(&window));
    assert_true(eb_window_oldest(&window) == INT64_MIN);
    eb_window_add(&window, &(struct eb_window_run){31, 40, 100, 150});
    eb_window_add(&window, &(struct eb_window_run){33, 33, 110, 110});
    eb_window_add(&window, &(struct eb_window_run){50, 50, 160, 160});
    assert_int_equal(20, eb_window_count(&window));
    eb_window_expire(&window, 150);
    assert_int_equal(10, eb_window_count(&window));
    eb_window_expire(&window, 160);
    assert_int_equal(0, eb_window_count(&window));
    eb_window_bound(&window, 0);
    eb_window_add(&window, &(struct eb_window_run){51, 52, 170, 170});
    assert_int_equal(2, eb_window_count(&window));
    assert_int_equal(0, window.evicted);
}

#define T(name)                                                                                    \
    {                                                                                              \
        "window/" #name, name, NULL, NULL, NULL                                                    \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(exact_when_short),
        T(no_later_than_a_run_when_long),
        T(longer_than_there_is_room_for),
        T(told_at_start),
    };
    return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
