/* test_writer.c - groups: their order, their bounds, acknowledging. */
#include "writer_fixture.h"

/* ---- order ---- */

/* Ops complete in the order of submission in one transaction, and a fence knows what came before it. */
static void fence_sees_what_came_before(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    struct act *a = submit(publish(fx, 1, "a", "1"));
    struct act *fence1 = submit(act_new(fx, EB_OP_FENCE));
    struct act *b = submit(add(publish(fx, 2, "a", "2"), 3, "a", "3"));
    struct act *fence2 = submit(act_new(fx, EB_OP_FENCE));
    eb_writer_drain(fx->store);
    assert_int_equal(1, fx->commits);
    assert_int_equal(1, a->done);
    assert_int_equal(2, fence1->done);
    assert_int_equal(3, b->done);
    assert_int_equal(4, fence2->done);
    assert_int_equal(1, fence1->op.last_seq);
    assert_int_equal(3, fence2->op.last_seq);
    assert_int_equal(2, b->results[0].seq);
    assert_int_equal(3, b->results[1].seq);
    assert_int_equal(3, b->events[1]->seq);
    act_free(a);
    act_free(b);
    act_free(fence1);
    act_free(fence2);
}

/* A fence alone, or a pure duplicate, costs no transaction. */
static void nothing_to_write_is_no_transaction(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    assert_int_equal(EB_OK, code_of(act_new(fx, EB_OP_FENCE)));
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    assert_int_equal(EB_OK, code_of(act_new(fx, EB_OP_PUBLISH))); /* an empty batch */
    assert_int_equal(1, fx->begins);
}

/* A group ends at its bounds, and a batch is not split even if it is larger alone. */
static void group_is_bounded_and_batches_whole(void **state)
{
    struct fixture *fx = *state;
    fx->config.group_events = 2;
    fx_open(fx);
    struct act *acts[] = {
        submit(publish(fx, 1, "a", "1")),
        submit(add(add(publish(fx, 2, "a", "2"), 3, "a", "3"), 4, "a", "4")),
        submit(publish(fx, 5, "a", "5")),
        submit(publish(fx, 6, "a", "6")),
    };
    eb_writer_drain(fx->store);
    assert_int_equal(3, fx->commits);
    assert_int_equal(6, eb_store_last_seq(fx->store));
    for (size_t i = 0; i < 4; i++)
        act_free(acts[i]);
}

/* W1: what the submitter says its events come to bounds a group as their number does. */
static void group_is_bounded_in_bytes(void **state)
{
    struct fixture *fx = *state;
    struct act *acts[5];
    fx->config.group_bytes = 2 * sizeof(struct eb_event) + 100;
    fx_open(fx);
    for (unsigned i = 0; i < 5; i++)
        acts[i] = submit(publish(fx, i + 1, "a", "1"));
    eb_writer_drain(fx->store);
    assert_int_equal(3, fx->commits);
    for (size_t i = 0; i < 5; i++)
        act_free(acts[i]);
}

#define MANY 1000

/* W9: a group of several runs is one transaction; what it finds repeated may lie in any of them. */
static void a_group_of_several_runs_is_one_transaction(void **state)
{
    struct fixture *fx = *state;
    struct act *acts[MANY];
    fx_open(fx);
    for (unsigned i = 0; i < MANY; i++) {
        unsigned id = i == 650 ? 4 : i == 660 ? 641 : i == 670 ? 5 : i + 1;
        acts[i] = submit(publish(fx, id, "a", i == 670 ? "other" : "1"));
        if (i >= 8)
            acts[i - 8]->op.ahead = &acts[i]->op;
    }
    eb_writer_drain(fx->store);
    assert_int_equal(1, fx->begins);
    assert_int_equal(1, fx->commits);
    assert_int_equal(MANY - 3, eb_store_last_seq(fx->store));
    assert_true(acts[650]->results[0].duplicate && acts[650]->results[0].seq == 4);
    assert_true(acts[660]->results[0].duplicate && acts[660]->results[0].seq == 641);
    assert_int_equal(EB_MESSAGE_ID_REUSED, acts[670]->op.err.code);
    for (unsigned i = 0; i < MANY; i++)
        act_free(acts[i]);
}

/* W3, W9: a row of the second run that cannot be written takes the whole group back. */
static void a_failure_in_the_second_run_takes_all_back(void **state)
{
    struct fixture *fx = *state;
    struct act *acts[MANY];
    fx_open(fx);
    for (unsigned i = 0; i < MANY; i++)
        acts[i] = submit(publish(fx, i + 1, "a", "1"));
    fx->fault.at = 300;
    fx->fault.code = -EIO;
    eb_writer_drain(fx->store);
    assert_int_equal(1, fx->fault.hits);
    assert_int_equal(0, fx->commits);
    assert_int_equal(0, eb_store_last_seq(fx->store));
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(EB_UNAVAILABLE, acts[i]->op.err.code);
        assert_int_equal(0, acts[i]->results[0].seq);
        act_free(acts[i]);
    }
    fx->mono += 10000;
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
}

/* The clock jumps back; timestamps do not. */
static void timestamps_never_run_backward(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    struct act *a = run(publish(fx, 1, "a", "1"));
    fx->wall -= 5000;
    struct act *b = run(publish(fx, 2, "a", "2"));
    fx->wall += 9000;
    struct act *c = run(publish(fx, 3, "a", "3"));
    assert_int_equal(a->events[0]->timestamp, b->events[0]->timestamp);
    assert_int_equal(a->events[0]->timestamp + 4000, c->events[0]->timestamp);
    act_free(a);
    act_free(b);
    act_free(c);
}

/* ---- acknowledge ---- */

static enum eb_code ack_with_id(struct fixture *fx, uint64_t seq, unsigned id)
{
    struct act *act = ack_new(fx, seq);
    act->op.has_id = true;
    id_from(act->op.id, id);
    return code_of(act);
}

/* Above the last: not found. With an id that is not the seq's: refused. Again: fine. */
static void ack_is_checked(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    assert_int_equal(EB_NOT_FOUND, code_of(ack_new(fx, 1)));
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    assert_int_equal(EB_NOT_FOUND, code_of(ack_new(fx, 0)));
    assert_int_equal(EB_NOT_FOUND, code_of(ack_new(fx, 2)));
    assert_int_equal(EB_INVALID_REQUEST, ack_with_id(fx, 1, 2));
    assert_int_equal(0, info_of(fx).acked);
    assert_int_equal(EB_OK, ack_with_id(fx, 1, 1));
    assert_int_equal(EB_OK, code_of(ack_new(fx, 1)));
    assert_int_equal(1, info_of(fx).acked);
}

/* A publish and its ack in one transaction; the ack's id is compared with what is not committed yet. */
static void ack_in_the_same_transaction(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    struct act *a = submit(publish(fx, 1, "a", "1"));
    struct act *bad = ack_new(fx, 1), *good = ack_new(fx, 1);
    bad->op.has_id = good->op.has_id = true;
    id_from(bad->op.id, 9);
    id_from(good->op.id, 1);
    submit(bad);
    submit(good);
    struct act *marks = act_new(fx, EB_OP_AUTO_ACK);
    marks->op.count = 2;
    marks->seqs[0] = 1;
    marks->seqs[1] = 99; /* of no event: passed over */
    submit(marks);
    eb_writer_drain(fx->store);
    assert_int_equal(EB_INVALID_REQUEST, bad->op.err.code);
    assert_int_equal(EB_OK, good->op.err.code);
    assert_int_equal(EB_OK, marks->op.err.code);
    assert_int_equal(1, info_of(fx).acked);
    act_free(a);
    act_free(bad);
    act_free(good);
    act_free(marks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(fence_sees_what_came_before),
        TEST(nothing_to_write_is_no_transaction),
        TEST(group_is_bounded_and_batches_whole),
        TEST(group_is_bounded_in_bytes),
        TEST(a_group_of_several_runs_is_one_transaction),
        TEST(a_failure_in_the_second_run_takes_all_back),
        TEST(timestamps_never_run_backward),
        TEST(ack_is_checked),
        TEST(ack_in_the_same_transaction),
    };
    return cmocka_run_group_tests_name("writer", tests, NULL, NULL);
}
