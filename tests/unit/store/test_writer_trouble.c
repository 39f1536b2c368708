/* test_writer_trouble.c - what a failing or full disk does to a group, and what is held and kept meanwhile. */
#include "writer_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
    return cmocka_run_group_tests_name("writer_trouble", tests, NULL, NULL);
}
