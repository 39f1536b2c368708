/* test_writer_ids.c - duplicates as the writer finds them: in the log, in one transaction, after a restart. */
#include "writer_fixture.h"

/* ---- duplicates ---- */

/* The same event again is its first seq; another topic, payload or content type is refused. */
static void repeat_is_compared(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    struct act *again = run(publish(fx, 1, "a", "1"));
    assert_true(again->results[0].duplicate);
    assert_false(again->results[0].fresh);
    assert_int_equal(1, again->results[0].seq);
    act_free(again);
    assert_int_equal(EB_MESSAGE_ID_REUSED, code_of(publish(fx, 1, "b", "1")));
    assert_int_equal(EB_MESSAGE_ID_REUSED, code_of(publish(fx, 1, "a", "2")));
    struct eb_draft draft = {.topic = "a",
                             .topic_len = 1,
                             .payload = "1",
                             .payload_len = 1,
                             .content_type = "text/html",
                             .content_type_len = 9,
                             .has_id = true};
    struct act *act = act_new(fx, EB_OP_PUBLISH);
    id_from(draft.id, 1);
    act->events[act->op.count++] = eb_event_create(&draft);
    run(act);
    assert_int_equal(EB_MESSAGE_ID_REUSED, act->op.err.code);
    assert_non_null(strstr(act->op.err.message, "content type"));
    act_free(act);
    assert_int_equal(1, eb_store_last_seq(fx->store));
    assert_int_equal(3, counters_of(fx).ids_reused);
    assert_int_equal(1, counters_of(fx).duplicates);
}

/* In one transaction, and inside one batch, a repeat finds the first although it is not committed yet. */
static void repeats_in_one_transaction(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    struct act *a = submit(publish(fx, 1, "a", "1"));
    struct act *b = submit(publish(fx, 1, "a", "1"));
    struct act *c = submit(publish(fx, 1, "a", "other"));
    struct act *d =
        submit(add(add(add(publish(fx, 2, "a", "2"), 1, "a", "1"), 2, "a", "2"), 3, "a", "3"));
    eb_writer_drain(fx->store);
    assert_int_equal(1, b->results[0].seq);
    assert_true(b->results[0].duplicate && !b->results[0].fresh);
    assert_int_equal(EB_MESSAGE_ID_REUSED, c->op.err.code);
    assert_int_equal(EB_OK, d->op.err.code);
    assert_int_equal(2, d->results[0].seq);
    assert_int_equal(1, d->results[1].seq);
    assert_true(d->results[1].duplicate && !d->results[1].fresh);
    assert_int_equal(2, d->results[2].seq);
    assert_true(d->results[2].duplicate && d->results[2].fresh);
    assert_int_equal(3, d->results[3].seq);
    assert_false(d->results[3].duplicate);
    assert_int_equal(3, counters_of(fx).stored);
    act_free(a);
    act_free(b);
    act_free(c);
    act_free(d);
}

/* A refused member refuses its batch, leaves no id and no hole behind, and harms no neighbour. */
static void refused_batch_leaves_nothing(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    struct act *before = submit(publish(fx, 2, "a", "2"));
    struct act *bad = submit(add(add(publish(fx, 3, "a", "3"), 4, "a", "4"), 1, "a", "not 1"));
    struct act *after = submit(publish(fx, 3, "a", "another 3"));
    eb_writer_drain(fx->store);
    assert_int_equal(2, before->results[0].seq);
    assert_int_equal(EB_MESSAGE_ID_REUSED, bad->op.err.code);
    assert_int_equal(2, bad->op.err.index);
    assert_int_equal(0, bad->events[0]->seq);
    assert_int_equal(0, bad->events[0]->timestamp);
    assert_int_equal(EB_OK, after->op.err.code);
    assert_false(after->results[0].duplicate);
    assert_int_equal(3, after->results[0].seq);
    act_free(before);
    act_free(bad);
    act_free(after);
}

/* The window ends by the log's clock; an acknowledged event's id stays in it. */
static void window_ends(void **state)
{
    struct fixture *fx = *state;
    fx->config.dedupe_window_ms = 60000;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    assert_int_equal(EB_OK, code_of(ack_new(fx, 1)));
    fx->wall += 59999;
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    assert_int_equal(59999, info_of(fx).dedupe_oldest_ms);
    fx->wall += 1;
    assert_int_equal(2, seq_of(publish(fx, 1, "a", "other")));
    assert_int_equal(1, info_of(fx).dedupe_ids);
}

/* Beyond dedupe_max the oldest is forgotten early, and that is counted. */
static void dedupe_max_forgets_the_oldest(void **state)
{
    struct fixture *fx = *state;
    fx->config.dedupe_max = 3;
    fx_open(fx);
    for (unsigned n = 1; n <= 4; n++)
        assert_int_equal(n, seq_of(publish(fx, n, "a", "x")));
    assert_int_equal(1, counters_of(fx).ids_evicted);
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "x")));
    assert_int_equal(5, seq_of(publish(fx, 1, "a", "x")));
    assert_int_equal(3, info_of(fx).dedupe_ids);
}

/* The event of an id is gone: nothing to compare with, so a repeat it is. */
static void repeat_of_a_deleted_event(void **state)
{
    struct fixture *fx = *state;
    fx->config.retention_events = 1;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "2")));
    step_janitor(fx);
    assert_int_equal(2, info_of(fx).first_seq);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "other")));
    assert_int_equal(EB_OK, code_of(ack_new(fx, 1)));
}

/* Ids of before the start are known, as far as the window reaches, and no more than dedupe_max. */
static void ids_survive_a_restart(void **state)
{
    struct fixture *fx = *state;
    fx->config.dedupe_window_ms = 60000;
    fx->config.dedupe_max = 2;
    fx->wall = 1700000000000;
    fx->start_seq = 40;
    for (unsigned n = 0; n < 4; n++) { /* of 60, 59, 58 and 57 seconds ago */
        struct eb_dedupe_entry *entry = &fx->stored[n];
        id_from(entry->id, n + 1);
        entry->seq = 31 + n;
        entry->timestamp = fx->wall - 60000 + 1000 * n;
    }
    fx_open(fx);
    assert_int_equal(2, info_of(fx).dedupe_ids);
    assert_int_equal(58000, info_of(fx).dedupe_oldest_ms);
    assert_int_equal(1, counters_of(fx).ids_evicted); /* the first was past the window */
    assert_int_equal(33, seq_of(publish(fx, 3, "a", "x")));
    assert_int_equal(34, seq_of(publish(fx, 4, "a", "x")));
    assert_int_equal(41, seq_of(publish(fx, 2, "a", "x")));
}

/* Seqs stay below 2^53: the log says so, it does not wrap. */
static void last_seq_of_all(void **state)
{
    struct fixture *fx = *state;
    fx->start_seq = EB_SEQ_MAX - 2;
    fx_open(fx);
    assert_true(EB_SEQ_MAX - 1 == seq_of(publish(fx, 1, "a", "1")));
    struct act *act = run(publish(fx, 2, "a", "2"));
    assert_int_equal(EB_INTERNAL, act->op.err.code);
    assert_non_null(strstr(act->op.err.message, "--new-epoch"));
    act_free(act);
    assert_int_equal(EB_OK, code_of(ack_new(fx, EB_SEQ_MAX - 1)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(repeat_is_compared),
        TEST(repeats_in_one_transaction),
        TEST(refused_batch_leaves_nothing),
        TEST(window_ends),
        TEST(dedupe_max_forgets_the_oldest),
        TEST(repeat_of_a_deleted_event),
        TEST(ids_survive_a_restart),
        TEST(last_seq_of_all),
    };
    return cmocka_run_group_tests_name("writer_ids", tests, NULL, NULL);
}
