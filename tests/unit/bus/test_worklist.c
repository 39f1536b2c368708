/*
 * test_worklist.c - the open events of a durable consumer (PROTOCOL.md 7): who has one, in which order, how often,
 * and that what is stored of it is enough to go on. By example, then by random lives against a model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/worklist.h"

static const struct eb_order_key no_key = {0};

static struct eb_worklist *make(struct eb_worklist_config config)
{
    struct eb_worklist *list;

    if (!config.max_inflight)
        config.max_inflight = 256;
    if (!config.ack_wait_ms)
        config.ack_wait_ms = 30000;
    if (!config.order_window)
        config.order_window = 10000;
    assert_int_equal(eb_worklist_create(&config, 1, &list), 0);
    return list;
}

static struct eb_order_key key(uint64_t n)
{
    return (struct eb_order_key){.hash = {n % 3, n}, .present = true}; /* some share a bucket */
}

static void offer(struct eb_worklist *list, uint64_t first, uint64_t last)
{
    for (uint64_t seq = first; seq <= last; seq++)
        assert_int_equal(eb_worklist_offer(list, seq, no_key), 0);
}

/* The seq taken, 0 when there is none; checks the number of the delivery. */
static uint64_t take(struct eb_worklist *list, struct eb_worker *worker, int64_t now,
                     uint32_t delivery)
{
    struct eb_job_view view;

    if (!eb_worklist_take(list, worker, now, &view))
        return 0;
    assert_int_equal(view.delivery, delivery);
    return view.seq;
}

static struct eb_worklist_figures figures(const struct eb_worklist *list)
{
    struct eb_worklist_figures ret;

    eb_worklist_figures(list, &ret);
    return ret;
}

static void test_each_event_is_out_at_one_worker(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){.max_inflight = 3});
    struct eb_worker a = {0}, b = {0};

    offer(list, 1, 3);
    assert_int_equal(take(list, &a, 0, 1), 1);
    assert_int_equal(take(list, &b, 0, 1), 2);
    assert_int_equal(take(list, &a, 0, 1), 3);
    assert_false(eb_worklist_wants(list) && eb_worklist_ready(list));
    offer(list, 4, 4);
    assert_int_equal(take(list, &b, 0, 1), 0); /* max_inflight */
    assert_int_equal(eb_worklist_ack(list, 2), EB_JOB_OK);
    assert_int_equal(take(list, &b, 0, 1), 4);
    assert_int_equal(a.count, 2);
    assert_int_equal(b.count, 1);
    eb_worklist_destroy(list);
}

static void test_answers_say_what_they_met(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){0});
    struct eb_worker a = {0};

    offer(list, 1, 4);
    assert_int_equal(eb_worklist_ack(list, 1), EB_JOB_UNKNOWN); /* never delivered */
    assert_int_equal(eb_worklist_ack(list, 9), EB_JOB_UNKNOWN);
    take(list, &a, 0, 1), take(list, &a, 0, 1);
    assert_int_equal(eb_worklist_nack(list, 1, 2, 0, 0), EB_JOB_LATE); /* another delivery */
    assert_int_equal(eb_worklist_nack(list, 1, 1, 1000, 0), EB_JOB_OK);
    assert_int_equal(eb_worklist_nack(list, 1, EB_ANY_DELIVERY, 0, 0), EB_JOB_LATE);
    assert_int_equal(eb_worklist_in_progress(list, 1, EB_ANY_DELIVERY, 0), EB_JOB_LATE);
    assert_int_equal(eb_worklist_term(list, 3, EB_ANY_DELIVERY), EB_JOB_UNKNOWN);
    assert_int_equal(eb_worklist_ack(list, 1), EB_JOB_OK); /* while it waits */
    assert_int_equal(eb_worklist_ack(list, 1), EB_JOB_OK); /* once more */
    assert_int_equal(eb_worklist_nack(list, 1, EB_ANY_DELIVERY, 0, 0), EB_JOB_LATE);
    eb_worklist_reset(list, 1);
    assert_int_equal(eb_worklist_ack(list, 2), EB_JOB_UNKNOWN); /* forgotten by a seek */
    assert_int_equal(a.count, 0);
    eb_worklist_destroy(list);
}

static void test_time_brings_an_event_again(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){
        .ack_wait_ms = 100, .backoff_count = 2, .backoff_ms = {10, 50}});
    struct eb_worker a = {0};

    offer(list, 1, 1);
    assert_int_equal(eb_worklist_due(list), INT64_MAX);
    assert_int_equal(take(list, &a, 1000, 1), 1);
    assert_int_equal(eb_worklist_due(list), 1100);
    assert_int_equal(eb_worklist_in_progress(list, 1, 1, 1050), EB_JOB_OK);
    assert_int_equal(eb_worklist_expire(list, 1149), 0);
    assert_int_equal(eb_worklist_expire(list, 1150), 1);
    assert_int_equal(a.count, 0);
    assert_int_equal(take(list, &a, 1150, 2), 0); /* the backoff before the second */
    assert_int_equal(eb_worklist_due(list), 1160);
    eb_worklist_expire(list, 1160);
    assert_int_equal(take(list, &a, 1160, 2), 1);
    assert_int_equal(eb_worklist_nack(list, 1, 2, -1, 1160), EB_JOB_OK);
    assert_int_equal(eb_worklist_due(list), 1210); /* the backoff before the third */
    eb_worklist_expire(list, 1210);
    assert_int_equal(take(list, &a, 1210, 3), 1);
    assert_int_equal(eb_worklist_nack(list, 1, 3, -1, 1210), EB_JOB_OK);
    assert_int_equal(eb_worklist_due(list), 1260); /* the last repeats */
    eb_worklist_destroy(list);
}

static void test_a_worker_that_leaves_gives_back(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){.max_deliver = 2});
    struct eb_worker a = {0}, b = {0};
    struct eb_job_view view;

    offer(list, 1, 2);
    take(list, &a, 0, 1), take(list, &a, 0, 1);
    eb_worklist_return(list, 2, 1); /* could not be written: uncounted */
    assert_int_equal(take(list, &b, 0, 1), 2);
    eb_worklist_detach(list, &a);
    assert_int_equal(take(list, &b, 0, 2), 1);
    assert_false(eb_worklist_dying(list, &view));
    eb_worklist_detach(list, &b);
    assert_true(eb_worklist_dying(list, &view)); /* 1 had its two deliveries, 2 has one left */
    assert_int_equal(view.seq, 1);
    assert_false(eb_worklist_dying(list, &view));
    assert_int_equal(take(list, &a, 0, 2), 2);
    eb_worklist_destroy(list);
}

static void test_what_a_worker_leaves_goes_on_in_its_order(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){.max_deliver = 0});
    struct eb_worker a = {0}, b = {0};

    offer(list, 1, 5);
    for (uint64_t seq = 1; seq <= 5; seq++)
        assert_int_equal(take(list, &a, 0, 1), seq);
    eb_worklist_detach(list, &a);
    for (uint64_t seq = 1; seq <= 5; seq++)
        assert_int_equal(take(list, &b, 0, 2), seq);
    eb_worklist_detach_uncounted(list, &b);
    for (uint64_t seq = 1; seq <= 5; seq++)
        assert_int_equal(take(list, &a, 0, 2), seq);
    eb_worklist_destroy(list);
}

static void test_a_dead_letter_or_an_ack_never_both(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){.max_deliver = 1});
    struct eb_worker a = {0};
    struct eb_job_view view;

    offer(list, 1, 3);
    for (uint64_t seq = 1; seq <= 3; seq++) {
        assert_int_equal(take(list, &a, 0, 1), seq);
        eb_worklist_nack(list, seq, 1, 0, 0);
        assert_true(eb_worklist_dying(list, &view));
        assert_int_equal(view.seq, seq);
    }
    assert_int_equal(eb_worklist_ack(list, 1), EB_JOB_OK);
    assert_false(eb_worklist_bury(list, 1)); /* acknowledged in time: no dead letter */
    assert_true(eb_worklist_bury(list, 2));
    assert_int_equal(eb_worklist_ack(list, 2), EB_JOB_LATE); /* too late */
    eb_worklist_buried(list, 2, true);
    assert_true(eb_worklist_bury(list, 3));
    eb_worklist_buried(list, 3, false); /* the commit failed: it is told of again */
    assert_true(eb_worklist_dying(list, &view));
    assert_int_equal(view.seq, 3);
    assert_int_equal(eb_worklist_ack(list, 3), EB_JOB_OK);
    assert_int_equal(figures(list).open, 0);
    eb_worklist_destroy(list);
}

static void test_order_by_key(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){.ordered = true});
    struct eb_worker a = {0};

    for (uint64_t seq = 1; seq <= 6; seq++)
        assert_int_equal(eb_worklist_offer(list, seq, key(seq % 2)), 0);
    assert_int_equal(eb_worklist_offer(list, 7, no_key), 0);
    assert_int_equal(take(list, &a, 0, 1), 1);
    assert_int_equal(take(list, &a, 0, 1), 2);
    assert_int_equal(take(list, &a, 0, 1), 7); /* without the header: no order */
    assert_int_equal(take(list, &a, 0, 1), 0);
    assert_int_equal(eb_worklist_ack(list, 3), EB_JOB_UNKNOWN);
    eb_worklist_nack(list, 1, 1, 500, 0); /* blocks its key only */
    assert_int_equal(eb_worklist_ack(list, 2), EB_JOB_OK);
    assert_int_equal(take(list, &a, 0, 1), 4);
    assert_int_equal(take(list, &a, 0, 1), 0);
    eb_worklist_expire(list, 500);
    assert_int_equal(take(list, &a, 500, 2), 1);
    eb_worklist_gone(list, 1);
    assert_int_equal(take(list, &a, 500, 1), 3);
    eb_worklist_destroy(list);
}

static void test_a_blocked_key_holds_the_window(void **state)
{
    struct eb_worklist *list =
        make((struct eb_worklist_config){.ordered = true, .order_window = 100});
    struct eb_worker a = {0};
    uint64_t seq = 0, done = 0;

    assert_int_equal(eb_worklist_offer(list, ++seq, key(7)), 0);
    assert_int_equal(take(list, &a, 0, 1), 1);
    while (eb_worklist_wants(list)) { /* every second one of the blocked key */
        seq++;
        assert_int_equal(eb_worklist_offer(list, seq, seq % 2 ? key(7) : no_key), 0);
        for (uint64_t got; (got = take(list, &a, 0, 1)) != 0; done++)
            eb_worklist_ack(list, got);
    }
    assert_int_equal(seq, 101);
    assert_int_equal(done, 50);
    assert_true(figures(list).window_full);
    eb_worklist_ack(list, 1);
    assert_true(eb_worklist_wants(list));
    assert_int_equal(take(list, &a, 0, 1), 3);
    eb_worklist_destroy(list);
}

static struct eb_worklist *reopen(struct eb_worklist *list, struct eb_worklist_config config,
                                  size_t *ret_bytes)
{
    struct eb_worklist_delta delta;
    struct eb_worklist *again;

    assert_int_equal(eb_worklist_collect(list, 1000000, &delta), 0);
    config.max_inflight = config.max_inflight ? config.max_inflight : 256;
    config.ack_wait_ms = config.ack_wait_ms ? config.ack_wait_ms : 30000;
    assert_int_equal(eb_worklist_create(&config, delta.next, &again), 0);
    *ret_bytes = 0;
    for (size_t i = 0; i < delta.count; i++) {
        *ret_bytes += delta.blocks[i].len;
        if (delta.blocks[i].len > 0)
            assert_int_equal(eb_worklist_load(again, delta.blocks[i].number, delta.blocks[i].data,
                                              delta.blocks[i].len, 1000000),
                             0);
    }
    eb_worklist_delta_finish(&delta);
    assert_int_equal(eb_worklist_collect(again, 1000000, &delta), 0);
    assert_int_equal(delta.count, 0); /* what was loaded is what is stored */
    eb_worklist_delta_finish(&delta);
    eb_worklist_destroy(list);
    return again;
}

static void test_one_open_event_costs_little(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){0});
    struct eb_worklist_delta delta;
    struct eb_worker a = {0};
    size_t bytes;

    offer(list, 1, 1);
    take(list, &a, 0, 1);
    for (uint64_t seq = 2; seq <= 1000000; seq++) {
        offer(list, seq, seq);
        assert_int_equal(take(list, &a, 0, 1), seq);
        assert_int_equal(eb_worklist_ack(list, seq), EB_JOB_OK);
        if (seq % 1000 == 0) {
            assert_int_equal(eb_worklist_collect(list, 0, &delta), 0);
            assert_true(delta.count <= 3); /* rows written for a thousand acks */
            eb_worklist_delta_finish(&delta);
        }
    }
    assert_int_equal(figures(list).first_open, 1);
    eb_worklist_nack(list, 1, 1, 0, 0); /* so that its block is collected once more */
    list = reopen(list, (struct eb_worklist_config){0}, &bytes);
    assert_true(bytes < 16);
    a = (struct eb_worker){0};
    assert_int_equal(take(list, &a, 0, 2), 1);
    assert_int_equal(take(list, &a, 0, 1), 0);
    assert_int_equal(eb_worklist_next(list), 1000001);
    assert_int_equal(eb_worklist_ack(list, 500000), EB_JOB_OK);
    eb_worklist_destroy(list);
}

static void test_each_change_is_stored_once(void **state)
{
    struct eb_worklist *list = make((struct eb_worklist_config){0});
    struct eb_worklist_delta delta;
    struct eb_worker a = {0};

    offer(list, 1, 2);
    take(list, &a, 0, 1);
    assert_int_equal(eb_worklist_collect(list, 0, &delta), 0);
    assert_true(delta.count == 1 && delta.blocks[0].len > 0);
    assert_true(delta.next == 3 && delta.first_open == 1);
    eb_worklist_delta_finish(&delta);
    assert_int_equal(eb_worklist_collect(list, 0, &delta), 0);
    assert_int_equal(delta.count, 0);
    eb_worklist_ack(list, 1);
    assert_int_equal(eb_worklist_collect(list, 0, &delta), 0);
    assert_true(delta.count == 1 && delta.first_open == 2);
    eb_worklist_delta_finish(&delta);
    take(list, &a, 0, 1);
    eb_worklist_ack(list, 2);
    assert_int_equal(eb_worklist_collect(list, 0, &delta), 0);
    assert_true(delta.count == 1 && delta.blocks[0].len == 0 && delta.first_open == 3);
    eb_worklist_uncollect(list, &delta); /* it could not be stored */
    eb_worklist_delta_finish(&delta);
    assert_int_equal(eb_worklist_collect(list, 0, &delta), 0);
    assert_true(delta.count == 1 && delta.blocks[0].len == 0);
    eb_worklist_delta_finish(&delta);
    assert_int_equal(eb_worklist_collect(list, 0, &delta), 0);
    assert_int_equal(delta.count, 0);
    eb_worklist_destroy(list);
}

static void test_restart_keeps_counts_and_times(void **state)
{
    const struct eb_worklist_config config = {.max_deliver = 2};
    struct eb_worklist *list = make(config);
    struct eb_worker a = {0};
    struct eb_job_view view;
    size_t bytes;

    offer(list, 1020, 1029); /* over the edge of a block */
    take(list, &a, 0, 1), take(list, &a, 0, 1);
    eb_worklist_nack(list, 1020, 1, 0, 0);
    take(list, &a, 0, 2); /* its last */
    eb_worklist_nack(list, 1021, 1, 700, 0);
    assert_int_equal(eb_worklist_insert(list, 5, no_key), 0); /* a redriven one */
    assert_int_equal(eb_worklist_insert(list, 5, no_key), -EEXIST);
    list = reopen(list, config, &bytes);
    a = (struct eb_worker){0};
    assert_true(eb_worklist_dying(list, &view)); /* out for the last time when the broker ended */
    assert_int_equal(view.seq, 1020);
    assert_int_equal(eb_worklist_due(list), 700);
    assert_int_equal(take(list, &a, 0, 1), 5);
    for (uint64_t seq = 1022; seq <= 1029; seq++)
        assert_int_equal(take(list, &a, 0, 1), seq);
    assert_int_equal(take(list, &a, 0, 1), 0);
    eb_worklist_expire(list, 700);
    assert_int_equal(take(list, &a, 700, 2), 1021);
    eb_worklist_destroy(list);
}

static void test_restart_recalls_keys(void **state)
{
    const struct eb_worklist_config config = {.ordered = true, .order_window = 100};
    struct eb_worklist *list = make(config);
    struct eb_worker a = {0};
    size_t bytes;

    for (uint64_t seq = 1; seq <= 9; seq++)
        assert_int_equal(eb_worklist_offer(list, seq, key(seq % 3)), 0);
    for (uint64_t seq = 1; seq <= 3; seq++)
        assert_int_equal(take(list, &a, 0, 1), seq);
    eb_worklist_ack(list, 2);
    assert_int_equal(eb_worklist_insert(list, 20, key(1)), 0);
    list = reopen(list, config, &bytes);
    a = (struct eb_worker){0};
    assert_int_equal(eb_worklist_next(list), 1); /* the log is offered again from here */
    assert_int_equal(take(list, &a, 0, 1), 20);  /* but for what no pattern need match */
    assert_int_equal(eb_worklist_ack(list, 20), EB_JOB_OK);
    assert_int_equal(take(list, &a, 0, 1), 0);
    for (uint64_t seq = 1; seq <= 8; seq++) /* 6 has expired meanwhile */
        if (seq != 6)
            assert_int_equal(eb_worklist_offer(list, seq, key(seq % 3)), 0);
    assert_int_equal(take(list, &a, 0, 2), 1);
    assert_int_equal(take(list, &a, 0, 2), 3);
    assert_int_equal(take(list, &a, 0, 1), 5); /* 2 was done */
    assert_int_equal(take(list, &a, 0, 1), 0);
    eb_worklist_ack(list, 3);
    assert_int_equal(take(list, &a, 0, 1), 0); /* 6 is no more, 9 was not offered yet */
    eb_worklist_passed(list, 12);
    assert_int_equal(figures(list).open, 5); /* 1, 4, 5, 7, 8 */
    eb_worklist_destroy(list);
}

static void test_a_damaged_block_is_refused(void **state)
{
    static const struct {
        const char *data;
        size_t len;
    } bad[] = {{"", 0},         {"\2", 1},         {"\1\0", 2},        {"\1\200", 2},
               {"\1\0\1", 3},   {"\1\5\4\0\4", 5}, {"\1\200\10\4", 4}, {"\1\377\7\4\1\4", 6},
               {"\1\0\377", 3}, {"\1\12\4", 3}};
    struct eb_worklist *list = make((struct eb_worklist_config){0});

    eb_worklist_passed(list, 9);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(eb_worklist_load(list, 0, (const uint8_t *)bad[i].data, bad[i].len, 0),
                         -EBADMSG);
    eb_worklist_destroy(list);
}

/* ---- random lives ---- */

#define EVENTS  120
#define WORKERS 3
#define KEYS    5

struct life {
    struct eb_worklist *list;
    struct eb_worklist_config config;
    struct eb_worker workers[WORKERS];
    int64_t now;
    bool open[EVENTS + 1], out[EVENTS + 1], over[EVENTS + 1], dying[EVENTS + 1],
        ended[EVENTS + 1]; /* by a term */
    uint32_t deliveries[EVENTS + 1];
    int64_t deadline[EVENTS + 1];
    unsigned worker[EVENTS + 1];
    uint64_t offered;
};

static uint64_t seed;

static unsigned any(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)((seed >> 11) % below);
}

static uint64_t key_of(uint64_t seq)
{
    return seq * 7 % KEYS; /* 0: no key */
}

static struct eb_order_key order_of(uint64_t seq)
{
    return key_of(seq) ? key(key_of(seq)) : no_key;
}

static void live_offer(struct life *life)
{
    uint64_t seq = eb_worklist_next(life->list);

    if (seq > EVENTS || !eb_worklist_wants(life->list))
        return;
    assert_int_equal(eb_worklist_offer(life->list, seq, order_of(seq)), 0);
    if (seq > life->offered) {
        life->offered = seq;
        life->open[seq] = true;
    }
}

/* L2, and that nothing is out twice or after it is over. */
static void check_taken(const struct life *life, struct eb_job_view view)
{
    assert_true(life->open[view.seq] && !life->out[view.seq] && !life->over[view.seq]);
    assert_int_equal(view.delivery, life->deliveries[view.seq] + 1);
    if (!life->config.ordered || !key_of(view.seq))
        return;
    for (uint64_t seq = 1; seq < view.seq; seq++)
        assert_false(life->open[seq] && key_of(seq) == key_of(view.seq));
}

static void live_take(struct life *life)
{
    struct eb_job_view view;
    unsigned out = 0, worker = any(WORKERS);

    if (!eb_worklist_take(life->list, &life->workers[worker], life->now, &view))
        return;
    check_taken(life, view);
    life->out[view.seq] = true;
    life->worker[view.seq] = worker;
    life->deadline[view.seq] = life->now + life->config.ack_wait_ms;
    life->deliveries[view.seq]++;
    for (uint64_t seq = 1; seq <= EVENTS; seq++)
        out += life->out[seq];
    assert_true(out <= life->config.max_inflight);
}

static bool used_up(const struct life *life, uint64_t seq)
{
    return life->config.max_deliver && life->deliveries[seq] >= life->config.max_deliver;
}

static void live_end(struct life *life, uint64_t seq)
{
    life->out[seq] = false;
    life->dying[seq] = used_up(life, seq);
}

static void live_over(struct life *life, uint64_t seq)
{
    life->open[seq] = life->out[seq] = life->dying[seq] = false;
    life->over[seq] = true;
}

static void live_answer(struct life *life)
{
    uint64_t seq = 1 + any(EVENTS);
    bool out = life->out[seq];
    enum eb_job_result result;

    switch (any(6)) {
    case 0:
        result = eb_worklist_nack(life->list, seq, life->deliveries[seq], (int64_t)any(2) * 20,
                                  life->now);
        assert_int_equal(result == EB_JOB_OK, out);
        if (out)
            live_end(life, seq);
        break;
    case 1:
        result = eb_worklist_in_progress(life->list, seq, EB_ANY_DELIVERY, life->now);
        assert_int_equal(result == EB_JOB_OK, out);
        life->deadline[seq] = life->now + life->config.ack_wait_ms;
        break;
    case 2:
        result = eb_worklist_term(life->list, seq, EB_ANY_DELIVERY);
        assert_int_equal(result == EB_JOB_OK, out);
        life->out[seq] = false;
        life->dying[seq] |= out;
        life->ended[seq] |= out;
        break;
    default:
        result = eb_worklist_ack(life->list, seq);
        assert_int_equal(result == EB_JOB_OK,
                         life->over[seq] || (life->open[seq] && life->deliveries[seq] > 0));
        if (result == EB_JOB_OK)
            live_over(life, seq);
    }
}

static void live_time(struct life *life)
{
    life->now += 10;
    eb_worklist_expire(life->list, life->now);
    for (uint64_t seq = 1; seq <= EVENTS; seq++)
        if (life->out[seq] && life->deadline[seq] <= life->now)
            live_end(life, seq);
}

static void live_bury(struct life *life)
{
    struct eb_job_view view;

    if (!eb_worklist_dying(life->list, &view))
        return;
    assert_true(life->dying[view.seq]);
    assert_true(eb_worklist_bury(life->list, view.seq));
    bool committed = any(2);
    eb_worklist_buried(life->list, view.seq, committed);
    if (committed)
        live_over(life, view.seq);
}

static void live_detach(struct life *life, unsigned which)
{
    eb_worklist_detach(life->list, &life->workers[which]);
    assert_int_equal(life->workers[which].count, 0);
    for (uint64_t seq = 1; seq <= EVENTS; seq++)
        if (life->out[seq] && life->worker[seq] == which)
            live_end(life, seq);
}

/* A crash between two commits would lose what came after the last; here everything was stored. */
static void live_restart(struct life *life)
{
    size_t bytes;

    for (uint64_t seq = 1; seq <= EVENTS;
         seq++) { /* terms that are not committed are not answered either */
        life->dying[seq] = life->open[seq] && (used_up(life, seq) || life->ended[seq]);
        life->out[seq] = false;
    }
    /* A clean block is on the disk of a real one; here its only one must come in any case. */
    struct eb_worklist_block block = {0};
    const struct eb_worklist_delta delta = {.blocks = &block, .count = 1};
    eb_worklist_uncollect(life->list, &delta);
    life->list = reopen(life->list, life->config, &bytes);
    memset(life->workers, 0, sizeof(life->workers));
}

static void live(bool ordered, bool restarts)
{
    struct life life = {
        .config = {.ordered = ordered,
                   .order_window = 10 + any(30),
                   .max_deliver = any(4),
                   .max_inflight = 1 + any(10),
                   .ack_wait_ms = 10 + any(50)},
    };

    assert_int_equal(eb_worklist_create(&life.config, 1, &life.list), 0);
    for (unsigned step = 0; step < 3000; step++) {
        switch (any(10)) {
        case 0:
        case 1:
            live_offer(&life);
            break;
        case 2:
        case 3:
        case 4:
            live_take(&life);
            break;
        case 5:
            live_time(&life);
            break;
        case 6:
            live_bury(&life);
            break;
        case 7:
            if (any(10) == 0)
                live_detach(&life, any(WORKERS));
            else if (restarts && any(60) == 0)
                live_restart(&life);
            break;
        default:
            live_answer(&life);
        }
    }
    for (unsigned step = 0; step < 100000 && figures(life.list).first_open <= EVENTS; step++) {
        live_offer(&life);
        live_take(&life);
        live_bury(&life);
        live_answer(&life);
        if (step % 50 == 0)
            live_time(&life);
    }
    for (uint64_t seq = 1; seq <= EVENTS; seq++)
        assert_true(life.over[seq] && !life.open[seq]); /* nothing is forgotten */
    eb_worklist_destroy(life.list);
}

static void test_random_lives(void **state)
{
    for (unsigned round = 1; round <= 400; round++) {
        seed = round * UINT64_C(0x2545f4914f6cdd1d);
        live(round % 2, round % 3 == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_event_is_out_at_one_worker),
        cmocka_unit_test(test_answers_say_what_they_met),
        cmocka_unit_test(test_time_brings_an_event_again),
        cmocka_unit_test(test_a_worker_that_leaves_gives_back),
        cmocka_unit_test(test_what_a_worker_leaves_goes_on_in_its_order),
        cmocka_unit_test(test_a_dead_letter_or_an_ack_never_both),
        cmocka_unit_test(test_order_by_key),
        cmocka_unit_test(test_a_blocked_key_holds_the_window),
        cmocka_unit_test(test_one_open_event_costs_little),
        cmocka_unit_test(test_each_change_is_stored_once),
        cmocka_unit_test(test_restart_keeps_counts_and_times),
        cmocka_unit_test(test_restart_recalls_keys),
        cmocka_unit_test(test_a_damaged_block_is_refused),
        cmocka_unit_test(test_random_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
