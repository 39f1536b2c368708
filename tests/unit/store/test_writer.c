/* test_writer.c - order, duplicates, acknowledging, and what a failing disk does to a group. */
#include "fixture.h"

static int setup(void **state)
{
    *state = calloc(1, sizeof(struct fixture));
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *fx = *state;
    eb_store_close(fx->store);
    free(fx);
    return 0;
}

static struct eb_store_counters counters_of(struct fixture *fx)
{
    struct eb_store_counters counters;
    eb_store_counters(fx->store, &counters);
    return counters;
}

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

/* ---- a disk that fails ---- */

/* Disk full at the commit: publishes are told, acks, the broker's own events and fences go through. */
static void full_disk_spares_acks(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    fx->fault = (struct fault){.at = 4, .code = -ENOSPC}; /* the ack of seq 3 */
    struct act *a = submit(publish(fx, 2, "a", "2"));
    struct act *ack = submit(ack_new(fx, 1));
    struct act *own = publish(fx, 3, "$dead.x", "3");
    own->op.internal = true;
    submit(own);
    struct act *late = submit(ack_new(fx, 3));
    struct act *repeat = submit(publish(fx, 1, "a", "1"));
    struct act *fence = submit(act_new(fx, EB_OP_FENCE));
    eb_writer_drain(fx->store);
    assert_int_equal(1, fx->fault.hits);
    assert_int_equal(EB_STORAGE_FULL, a->op.err.code);
    assert_int_equal(0, a->events[0]->seq);
    assert_int_equal(EB_OK, ack->op.err.code);
    assert_int_equal(EB_OK, own->op.err.code);
    assert_int_equal(2, own->results[0].seq); /* the seq that was taken back */
    assert_int_equal(EB_NOT_FOUND, late->op.err.code);
    assert_int_equal(EB_OK, repeat->op.err.code);
    assert_int_equal(EB_OK, fence->op.err.code);
    assert_int_equal(2, fence->op.last_seq);
    assert_int_equal(2, a->done);
    assert_int_equal(7, fence->done);
    assert_int_equal(1, info_of(fx).acked);
    assert_int_equal(1, counters_of(fx).refused_full);
    struct act *all[] = {a, ack, own, late, repeat, fence};
    for (size_t i = 0; i < 6; i++)
        act_free(all[i]);
    fx->mono += EB_RETRY_MS;
    assert_int_equal(3, seq_of(publish(fx, 2, "a", "2"))); /* its id was given back too */
    assert_false(info_of(fx).full);
}

/* A full disk is not asked again by every publish, and a publish that works ends it. */
static void full_disk_is_tried_once_a_second(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    fx->fault = (struct fault){.at = 2, .code = -ENOSPC};
    assert_int_equal(EB_STORAGE_FULL, code_of(publish(fx, 1, "a", "1")));
    assert_true(info_of(fx).full);
    unsigned begins = fx->begins;
    assert_int_equal(EB_STORAGE_FULL, code_of(publish(fx, 1, "a", "1")));
    assert_int_equal(begins, fx->begins);
    fx->mono += EB_RETRY_MS;
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    assert_false(info_of(fx).full);
    assert_string_equal("", info_of(fx).trouble);
}

/* Nobody publishes: more room than when it was full ends it; the same room does not (a quota may be why). */
static void full_disk_ends_with_more_room(void **state)
{
    struct fixture *fx = *state;
    fx->config.path = "folder/eventbus.db";
    fx->free = 3 << 20;
    fx_open(fx);
    fx->fault = (struct fault){.at = 2, .code = -ENOSPC};
    assert_int_equal(EB_STORAGE_FULL, code_of(publish(fx, 1, "a", "1")));
    fx->mono += EB_RETRY_MS;
    step_janitor(fx);
    assert_true(info_of(fx).full);
    fx->mono += EB_RETRY_MS;
    fx->free = 4 << 20;
    step_janitor(fx);
    assert_false(info_of(fx).full);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
}

/* The janitor's own transaction fails: noted like a publish's, and over when it works again. */
static void janitor_failing_is_noted(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    fx->fault = (struct fault){.at = 1, .code = -EIO};
    step_janitor(fx);
    assert_true(info_of(fx).read_only);
    fx->mono += EB_RETRY_MS;
    step_janitor(fx);
    assert_false(info_of(fx).read_only);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
}

/* I/O error: unavailable, read_only with the reason; fences and pure repeats are answered meanwhile. */
static void io_error_turns_read_only(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    fx->fault = (struct fault){.at = 2, .code = -EIO, .lasting = true};
    struct act *a = submit(publish(fx, 2, "a", "2"));
    struct act *ack = submit(ack_new(fx, 1));
    struct act *fence = submit(act_new(fx, EB_OP_FENCE));
    eb_writer_drain(fx->store);
    assert_int_equal(EB_UNAVAILABLE, a->op.err.code);
    assert_int_equal(EB_UNAVAILABLE, ack->op.err.code);
    assert_int_equal(EB_OK, fence->op.err.code);
    assert_int_equal(1, fence->op.last_seq);
    act_free(a);
    act_free(ack);
    act_free(fence);
    assert_true(info_of(fx).read_only);
    assert_non_null(strstr(info_of(fx).trouble, "made to fail"));
    unsigned hits = fx->fault.hits;
    assert_int_equal(EB_UNAVAILABLE, code_of(publish(fx, 2, "a", "2")));
    assert_int_equal(hits, fx->fault.hits); /* not tried within the second */
    fx->mono += EB_RETRY_MS;
    assert_int_equal(EB_UNAVAILABLE, code_of(publish(fx, 2, "a", "2")));
    assert_true(fx->fault.hits > hits);
    fx->fault.at = -1;
    fx->mono += EB_RETRY_MS;
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "2")));
    assert_false(info_of(fx).read_only);
    assert_string_equal("", info_of(fx).trouble);
}

/* Nobody publishes: the janitor tries the log again by itself. */
static void janitor_finds_it_writable_again(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    fx->fault = (struct fault){.at = 0, .code = -EIO, .lasting = true};
    assert_int_equal(EB_UNAVAILABLE, code_of(publish(fx, 1, "a", "1")));
    for (int i = 0; i < 3; i++) {
        assert_true(info_of(fx).read_only);
        fx->mono += EB_RETRY_MS;
        if (i == 2)
            fx->fault.at = -1;
        step_janitor(fx);
    }
    assert_int_equal(3, fx->probes);
    assert_false(info_of(fx).read_only);
}

/* Below min_free publishes are refused with both figures; the rest goes on; room again: taken again. */
static void min_free_refuses_publishes(void **state)
{
    struct fixture *fx = *state;
    fx->config.path = "folder/eventbus.db";
    fx->config.min_free = 64 << 20;
    fx->free = 100 << 20;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    fx->free = 10 << 20;
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "2"))); /* the last look is believed a while */
    fx->mono += EB_SPACE_CACHE_MS;
    struct act *a = run(publish(fx, 3, "a", "3"));
    assert_int_equal(EB_STORAGE_FULL, a->op.err.code);
    assert_non_null(strstr(a->op.err.message, "10.0 MiB"));
    assert_non_null(strstr(a->op.err.message, "64.0 MiB"));
    act_free(a);
    assert_true(info_of(fx).full);
    assert_int_equal(10 << 20, info_of(fx).free_bytes);
    assert_int_equal(EB_OK, code_of(ack_new(fx, 1)));
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "2")));
    struct act *own = publish(fx, 4, "$dead.x", "4");
    own->op.internal = true;
    assert_int_equal(3, seq_of(own));
    assert_true(info_of(fx).full); /* the broker's own event proves nothing */
    fx->free = 65 << 20;
    fx->mono += EB_SPACE_CACHE_MS;
    assert_int_equal(4, seq_of(publish(fx, 3, "a", "3")));
    assert_false(info_of(fx).full);
}

/* ---- what is kept with an op ---- */

static unsigned collected;

static const struct eb_state_write *collect_given(struct eb_op *op)
{
    collected++;
    assert_ptr_not_equal(op->seqs, NULL);
    return (const struct eb_state_write *)(void *)op->seqs;
}

/* The writes travel where an act keeps its seqs: neither kind of op uses them. */
static struct act *keeping(struct act *act, struct eb_state_write *writes)
{
    act->op.seqs = (uint64_t *)(void *)writes;
    act->op.collect = collect_given;
    return act;
}

static bool is_dead(struct fixture *fx, uint64_t consumer, uint64_t seq)
{
    uint64_t found = 0;
    return fx->inner->ops->dead(fx->inner, NULL, consumer, seq - 1, &found, 1) == 1 && found == seq;
}

/* Below min_free what is kept goes on, as acks do; a publish from outside that brings something does not. */
static void state_goes_on_below_min_free(void **state)
{
    struct fixture *fx = *state;
    struct eb_state_write dead[] = {{.kind = EB_STATE_DEAD_ADD, .consumer = 1, .seq = 3},
                                    {.kind = EB_STATE_DEAD_ADD, .consumer = 2}};
    fx->config.path = "folder/eventbus.db";
    fx->config.min_free = 64 << 20;
    fx->free = 1 << 20;
    fx_open(fx);
    assert_int_equal(EB_OK, code_of(keeping(act_new(fx, EB_OP_STATE), &dead[0])));
    assert_true(is_dead(fx, 1, 3));
    assert_int_equal(EB_STORAGE_FULL, code_of(keeping(publish(fx, 1, "a", "1"), &dead[1])));
    struct act *own = keeping(publish(fx, 2, "$dead.x", "2"), &dead[1]);
    own->op.internal = true;
    assert_int_equal(1, seq_of(own));
    assert_true(is_dead(fx, 2, 1));
}

/* A group that fails is tried again without asking again; at the real end of the disk the op is refused. */
static void collected_once_however_often_it_is_tried(void **state)
{
    struct fixture *fx = *state;
    struct eb_state_write dead = {.kind = EB_STATE_DEAD_ADD, .consumer = 1, .seq = 3};
    fx_open(fx);
    collected = 0;
    fx->fault = (struct fault){.at = 2, .code = -ENOSPC}; /* the first commit */
    assert_int_equal(EB_OK, code_of(keeping(act_new(fx, EB_OP_STATE), &dead)));
    assert_int_equal(1, collected);
    assert_int_equal(2, fx->writes);
    assert_true(is_dead(fx, 1, 3));
    dead.seq = 4;
    fx->mono += EB_RETRY_MS;
    fx->fault = (struct fault){.at = 2, .code = -ENOSPC, .lasting = true};
    assert_int_equal(EB_STORAGE_FULL, code_of(keeping(act_new(fx, EB_OP_STATE), &dead)));
    assert_int_equal(2, collected);
    assert_false(is_dead(fx, 1, 4));
}

/* What is held is told to each turn of deletion. */
static void a_hold_reaches_the_janitor(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    fx->hold_from = 99;
    step_janitor(fx);
    assert_int_equal(0, fx->hold_from);
    eb_store_hold(fx->store, 7);
    step_janitor(fx);
    assert_int_equal(7, fx->hold_from);
    eb_store_hold(fx->store, 0);
    step_janitor(fx);
    assert_int_equal(1, fx->hold_from);
    eb_store_hold(fx->store, UINT64_MAX);
    step_janitor(fx);
    assert_int_equal(0, fx->hold_from);
}

/* Retention takes part in the writer's groups (J2); what is held is held there, too, in memory as well. */
static void a_hold_reaches_groups(void **state)
{
    struct fixture *fx = *state;
    fx->config.retention_events = 4;
    fx_open(fx);
    for (unsigned i = 1; i <= 10; i++)
        seq_of(publish(fx, i, "a", "x"));
    eb_store_hold(fx->store, 3);
    fx->store->trim_behind = true;
    seq_of(publish(fx, 11, "a", "x"));
    assert_int_equal(3, fx->hold_from);
    assert_int_equal(3, info_of(fx).first_seq);
    eb_store_hold(fx->store, UINT64_MAX);
    fx->store->trim_behind = true;
    seq_of(publish(fx, 12, "a", "x"));
    assert_int_equal(9, info_of(fx).first_seq);
}

/* A deletion that fails inside a group costs the group nothing: it goes without, and the janitor says so. */
static void a_failing_delete_inside_a_group_costs_no_publish(void **state)
{
    struct fixture *fx = *state;
    fx->config.retention_events = 2;
    fx_open(fx);
    for (unsigned i = 1; i <= 6; i++)
        seq_of(publish(fx, i, "a", "x"));
    fx->store->trim_behind = true;
    fx->trim_fault = -EIO;
    struct act *a = submit(publish(fx, 7, "a", "7")), *repeat = submit(publish(fx, 1, "a", "x"));
    eb_writer_drain(fx->store);
    assert_int_equal(EB_OK, a->op.err.code);
    assert_int_equal(7, a->results[0].seq);
    assert_true(repeat->results[0].duplicate);
    act_free(a);
    act_free(repeat);
    assert_false(fx->store->trim_behind);
    assert_false(info_of(fx).read_only);
    assert_int_equal(7, info_of(fx).events);
    step_janitor(fx);
    assert_true(info_of(fx).read_only);
    fx->trim_fault = 0;
    fx->mono += EB_RETRY_MS;
    step_janitor(fx);
    step_janitor(fx);
    assert_int_equal(6, info_of(fx).first_seq);
}

/* ---- fault loop ---- */

static struct eb_state_write loop_keeps[] = {
    {.kind = EB_STATE_DEAD_ADD, .consumer = 5, .seq = 40},
    {.kind = EB_STATE_DEAD_ADD, .consumer = 6},
};

#define LOOP_ACTS 14

static void loop_acts(struct fixture *fx, struct act *acts[LOOP_ACTS])
{
    size_t n = 0;
    acts[n++] = submit(publish(fx, 10, "a", "10"));
    acts[n++] = submit(add(add(publish(fx, 11, "a", "11"), 12, "b", "12"), 11, "a", "11"));
    acts[n++] = submit(act_new(fx, EB_OP_FENCE));
    acts[n++] = submit(ack_new(fx, 1));
    acts[n++] = submit(publish(fx, 1, "a", "1"));     /* a repeat of what is stored */
    acts[n++] = submit(publish(fx, 1, "a", "not 1")); /* refused */
    acts[n++] = submit(publish(fx, 10, "a", "10"));   /* a repeat inside the transaction */
    acts[n++] = submit(add(publish(fx, 13, "c", "13"), 2, "a", "not 2")); /* refused, whole */
    struct act *ack = ack_new(fx, 2);
    ack->op.has_id = true;
    id_from(ack->op.id, 2);
    acts[n++] = submit(ack);
    acts[n] = publish(fx, 14, "$dead.x", "14");
    acts[n]->op.internal = true;
    submit(acts[n++]);
    acts[n++] = submit(add(publish(fx, 15, "a", "15"), 16, "a", "16"));
    acts[n++] = submit(keeping(act_new(fx, EB_OP_STATE), &loop_keeps[0]));
    acts[n] = keeping(publish(fx, 17, "$dead.x", "17"), &loop_keeps[1]);
    acts[n]->op.internal = true;
    submit(acts[n++]);
    acts[n++] = submit(act_new(fx, EB_OP_FENCE));
    assert_int_equal(LOOP_ACTS, n);
}

/* What was answered is there and as answered, what was refused is not, and seqs have no holes. */
static void assert_sound(struct fixture *fx, struct act *acts[LOOP_ACTS])
{
    uint64_t last = eb_store_last_seq(fx->store), new_events = 2;
    unsigned place = acts[0]->done;
    for (size_t i = 0; i < LOOP_ACTS; i++) {
        struct act *act = acts[i];
        assert_int_equal(place++, act->done); /* in order, once */
        assert_true(act->op.last_seq <= last);
        if (act->op.kind == EB_OP_FENCE)
            assert_int_equal(EB_OK, act->op.err.code);
        if (act->op.kind != EB_OP_PUBLISH)
            continue;
        for (uint32_t k = 0; k < act->op.count; k++) {
            if (act->op.err.code != EB_OK) {
                assert_int_equal(0, act->events[k]->seq);
                continue;
            }
            struct eb_event *stored;
            assert_int_equal(0, fx->inner->ops->lookup(fx->inner, act->results[k].seq, &stored));
            assert_memory_equal(act->events[k]->id, stored->id, 16);
            assert_true(act->results[k].duplicate || stored == act->events[k]);
            new_events += !act->results[k].duplicate;
            eb_event_unref(stored);
        }
    }
    assert_int_equal(acts[11]->op.err.code == EB_OK, is_dead(fx, 5, 40));
    if (acts[12]->op.err.code == EB_OK)
        assert_true(is_dead(fx, 6, acts[12]->results[0].seq));
    else
        assert_int_equal(0, fx->inner->ops->dead(fx->inner, NULL, 6, 0, &(uint64_t){0}, 1));
    assert_int_equal(last, new_events);
    assert_int_equal(last, info_of(fx).events);
}

static unsigned run_with_fault(int n, int code, bool lasting)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    struct act *acts[LOOP_ACTS];
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "2")));
    fx->fault = (struct fault){.at = n, .code = code, .lasting = lasting};
    loop_acts(fx, acts);
    eb_writer_drain(fx->store);
    unsigned hits = fx->fault.hits;
    assert_sound(fx, acts);
    for (size_t i = 0; i < LOOP_ACTS; i++)
        act_free(acts[i]);
    /* The disk is well again: nothing that failed has left a trace. */
    fx->fault.at = -1;
    fx->mono += EB_RETRY_MS;
    uint64_t last = eb_store_last_seq(fx->store);
    assert_int_equal(last + 1, seq_of(publish(fx, 99, "a", "99")));
    assert_false(info_of(fx).read_only);
    assert_false(info_of(fx).full);
    eb_store_close(fx->store);
    free(fx);
    return hits;
}

/* Each call into the engine fails in turn, once and lasting, with each error: always sound. */
static void every_failure_is_sound(void **state)
{
    const int codes[] = {-ENOSPC, -EIO, -ENOMEM};
    struct fixture *fx = *state;
    for (size_t c = 0; c < 3; c++)
        for (int lasting = 0; lasting < 2; lasting++)
            for (int n = 0;; n++) {
                if (run_with_fault(n, codes[c], lasting) == 0) {
                    assert_true(n > 10); /* it did fail on the way */
                    break;
                }
            }
    fx_open(fx); /* for the teardown */
}

#define TEST(name)                                                                                 \
    {                                                                                              \
        "writer/" #name, name, setup, teardown, NULL                                               \
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
        TEST(repeat_is_compared),
        TEST(repeats_in_one_transaction),
        TEST(refused_batch_leaves_nothing),
        TEST(window_ends),
        TEST(dedupe_max_forgets_the_oldest),
        TEST(repeat_of_a_deleted_event),
        TEST(ids_survive_a_restart),
        TEST(last_seq_of_all),
        TEST(ack_is_checked),
        TEST(ack_in_the_same_transaction),
        TEST(full_disk_spares_acks),
        TEST(full_disk_is_tried_once_a_second),
        TEST(full_disk_ends_with_more_room),
        TEST(janitor_failing_is_noted),
        TEST(io_error_turns_read_only),
        TEST(janitor_finds_it_writable_again),
        TEST(min_free_refuses_publishes),
        TEST(state_goes_on_below_min_free),
        TEST(collected_once_however_often_it_is_tried),
        TEST(a_hold_reaches_the_janitor),
        TEST(a_hold_reaches_groups),
        TEST(a_failing_delete_inside_a_group_costs_no_publish),
        TEST(every_failure_is_sound),
    };
    return cmocka_run_group_tests_name("writer", tests, NULL, NULL);
}
