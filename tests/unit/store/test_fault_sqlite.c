/*
 * test_fault_sqlite.c - each write, sync and truncation fails in turn: what was committed is there, what was not
 * is not, and the log goes on as soon as the disk does.
 */
#include "broker/store/sqlite_internal.h"
#include "faulty_vfs.h"
#include "sqlite_fixture.h"

#define STEPS 6

/* What waits until it is due (PROTOCOL 8): two come, one is taken back, one is taken off as due. */
static int step_scheduled(struct log_fixture *fx, int number)
{
    const struct eb_engine_ops *ops = fx->engine->ops;
    struct eb_event *event = fx_event(fx, "later", "x", 0), *due[4];
    size_t count = 0;
    bool more;
    int rc = 0;

    fx->next_seq--;
    for (uint8_t i = 1; i <= 2 && number == 1 && rc == 0; i++) {
        memset(event->id, i, 16);
        rc = ops->schedule(fx->engine, event, fx->now + i, fx->now);
    }
    memset(event->id, 1, 16);
    if (number == 2)
        rc = ops->unschedule(fx->engine, event->id);
    if (number == 5)
        rc = ops->due(fx->engine, fx->now + 10, due, 4, &count, &more);
    if (number == 5 && rc == 0) {
        assert_int_equal(count, 1);
        assert_false(more);
        assert_int_equal(due[0]->id[0], 2);
        eb_event_unref(due[0]);
    }
    eb_event_unref(event);
    return rc;
}

/* What consumers keep (state.h), each step over what the one before it left. */
static int step_kept(struct log_fixture *fx, int number, int attempt)
{
    const uint8_t data[2] = {(uint8_t)number, (uint8_t)attempt};
    const struct eb_state_write writes[] = {
        {.kind = number % 2 ? EB_STATE_POSITION : EB_STATE_CONSUMER,
         .consumer = 1,
         .name = "c",
         .settings = "{}",
         .next = (uint64_t)number * 10 + (uint64_t)attempt},
        {.kind = EB_STATE_BLOCK, .consumer = 1, .block = 7, .data = data, .len = 2},
        {.kind = EB_STATE_BLOCK, .consumer = 1, .block = (uint64_t)number, .data = data, .len = 1},
        {.kind = EB_STATE_BLOCK, .consumer = 1, .block = (uint64_t)number - 1},
        {.kind = EB_STATE_DEAD_ADD, .consumer = 1},
        {.kind = EB_STATE_DEAD_DROP, .consumer = 1, .seq = (uint64_t)(number - 1) * 3 + 1},
        {.kind = EB_STATE_MARK, .name = "m", .next = (uint64_t)number * 10 + (uint64_t)attempt},
        {.kind = EB_STATE_CONSUMER, .consumer = 2, .name = "d", .settings = "{}"},
        {.kind = EB_STATE_BLOCKS_CLEAR, .consumer = 2},
        {.kind = EB_STATE_DROP, .consumer = 2},
    };
    int rc = 0;

    for (size_t i = 0; i < sizeof(writes) / sizeof(*writes) && rc == 0; i++)
        if (writes[i].kind != EB_STATE_BLOCK || writes[i].len || number > 0)
            rc = fx->engine->ops->state(fx->engine, &writes[i], (uint64_t)number * 3 + 1);
    return rc;
}

/* Of the last step's committed attempt, and nothing of any other. */
static void check_kept(struct log_fixture *fx, const int attempts[STEPS])
{
    sqlite3 *db = eb_sqlite_of(fx->engine)->db;
    int64_t last = (STEPS - 1) * 10 + attempts[STEPS - 1], n = -1;
    uint64_t mark = 0;

    assert_int_equal(fx->engine->ops->mark(fx->engine, "m", &mark), 0);
    assert_int_equal(mark, last);
    assert_int_equal(eb_sql_int(db, "SELECT next FROM consumers", -1, &n), 0);
    assert_int_equal(n, last);
    assert_int_equal(eb_sql_int(db, "SELECT sum(block) FROM open_blocks", -1, &n), 0);
    assert_int_equal(n, 7 + STEPS - 1);
    assert_int_equal(eb_sql_int(db, "SELECT sum(seq) FROM dead_letters", -1, &n), 0);
    assert_int_equal(n, (STEPS - 1) * 3 + 1);
    assert_int_equal(eb_sql_int(db, "SELECT count(*) FROM consumers", -1, &n), 0);
    assert_int_equal(n, 1);
}

/* One step of the script, all or nothing; -errno when it failed and was rolled back. */
static int step(struct log_fixture *fx, int number, int attempt)
{
    const struct eb_engine_ops *ops = fx->engine->ops;
    uint64_t seq = fx->next_seq;
    struct eb_trim_result result;
    int rc;

    eb_sqlite_of(fx->engine)->wal_try = 1; /* a checkpoint before each transaction */
    rc = ops->begin(fx->engine);
    for (int i = 0; i < 3 && rc == 0; i++) {
        char payload[64];
        snprintf(payload, sizeof(payload), "step %d attempt %d", number, attempt);
        const char *topic = i == 0 ? "c" : i == 1 ? "a.b" : number % 2 ? "_reply.x" : "_reply.y";
        struct eb_event *event = fx_event(fx, topic, payload, i == 2 ? 1 : 0);
        rc = ops->append(fx->engine, &event, 1);
        eb_event_unref(event);
    }
    if (rc == 0)
        rc = step_scheduled(fx, number);
    if (rc == 0)
        rc = step_kept(fx, number, attempt);
    if (rc == 0 && number == 3)
        rc = ops->ack(fx->engine, 2, fx->now);
    if (rc == 0 && number == 4)
        rc = ops->trim(
            fx->engine,
            &(struct eb_trim_request){
                .now_ms = fx->now + 2000, .acked_ms = -1, .max_events = 12, .max_rows = 100},
            &result);
    if (rc == 0)
        rc = ops->commit(fx->engine);
    if (rc < 0) {
        ops->rollback(fx->engine);
        fx->next_seq = seq;
        assert_true(rc == -ENOSPC || rc == -EIO || rc == -ENOMEM);
        assert_true(ops->trouble(fx->engine)[0] != '\0');
    }
    return rc;
}

/* Every seq has the payload of the attempt that was committed. */
static void check_payloads(struct log_fixture *fx, const int attempts[STEPS])
{
    for (int number = 0; number < STEPS; number++)
        for (int i = 0; i < 2; i++) { /* the third has a ttl */
            uint64_t seq = 1 + (uint64_t)number * 3 + (uint64_t)i;
            struct eb_event *event;
            char payload[64];
            int rc = fx->engine->ops->lookup(fx->engine, seq, &event);
            if (seq <= fx_figures(fx).deleted_upto) {
                assert_int_equal(rc, -ENOENT);
                continue;
            }
            assert_int_equal(rc, 0);
            snprintf(payload, sizeof(payload), "step %d attempt %d", number, attempts[number]);
            assert_string_equal(event->payload, payload);
            eb_event_unref(event);
        }
}

static void check_sound(struct log_fixture *fx)
{
    sqlite3 *db = eb_sqlite_of(fx->engine)->db;
    int64_t events, acked, topics;
    uint64_t last;

    assert_int_equal(eb_sql_int(db, "SELECT count(*) FROM log", 0, &events), 0);
    assert_int_equal(fx_figures(fx).events, events);
    assert_int_equal(eb_sql_int(db, "SELECT count(*) FROM acked", 0, &acked), 0);
    assert_int_equal(fx_figures(fx).acked, acked);
    assert_int_equal(fx->start.last_seq, STEPS * 3);
    assert_int_equal(eb_sql_int(db, "SELECT count(*) FROM topics", 0, &topics), 0);
    assert_int_equal(fx_figures(fx).topics, topics);
    assert_int_equal(topics, 3); /* that of the last step's reply */
    assert_int_equal(fx_figures(fx).scheduled, 0);
    assert_int_equal(fx->engine->ops->topic_last(fx->engine, "a.b", 3, &last), 0);
    assert_int_equal(last, STEPS * 3 - 1);
    assert_int_equal(fx->engine->ops->topic_last(fx->engine, "_reply.y", 8, &last), 0);
    assert_int_equal(last, 0);
    assert_int_equal(eb_sql_int(db,
                                "SELECT count(*) FROM pragma_integrity_check WHERE"
                                " integrity_check <> 'ok'",
                                0, &events),
                     0);
    assert_int_equal(events, 0);
}

/* Returns false when @n is past the last call of the script. */
static bool round_with_fault(int n, int code, bool lasting)
{
    struct log_fixture fx;
    int attempts[STEPS] = {0};
    unsigned hits;

    fx_init(&fx);
    fx.config.vfs = "eb-faulty";
    fx_open(&fx);
    vfs_fault = (struct vfs_fault){.at = n, .code = code, .lasting = lasting};
    for (int number = 0; number < STEPS; number++)
        while (step(&fx, number, attempts[number]) < 0) {
            assert_true(++attempts[number] < 10);
            if (attempts[number] == 2)
                vfs_fault.at = -1; /* the disk is well again */
        }
    hits = vfs_fault.hits;
    vfs_fault.at = -1;
    check_payloads(&fx, attempts);
    check_kept(&fx, attempts);
    fx_close(&fx);
    fx.config.vfs = NULL;
    fx_open(&fx);
    check_payloads(&fx, attempts);
    check_kept(&fx, attempts);
    check_sound(&fx);
    fx_finish(&fx);
    return hits > 0;
}

static void each_write_fails(int code, bool lasting)
{
    int n = 0;

    while (round_with_fault(n, code, lasting))
        n++;
    print_message("%d fault points\n", n);
    assert_true(n > 20);
}

static void full_disk_at_each_write(void **state)
{
    each_write_fails(SQLITE_FULL, false);
}

static void full_disk_that_lasts(void **state)
{
    each_write_fails(SQLITE_FULL, true);
}

static void io_error_at_each_write(void **state)
{
    each_write_fails(SQLITE_IOERR_WRITE, false);
}

/* A log whose making failed anywhere is made at the next start. */
static void creation_fails_at_each_write(void **state)
{
    int n = 0;

    for (bool hit = true; hit; n++) {
        struct log_fixture fx;
        fx_init(&fx);
        fx.config.vfs = "eb-faulty";
        vfs_fault = (struct vfs_fault){.at = n, .code = SQLITE_FULL, .lasting = true};
        int rc = fx_try_open(&fx);
        hit = vfs_fault.hits > 0;
        vfs_fault.at = -1;
        if (rc < 0) {
            assert_true(rc == -ENOSPC || rc == -EIO);
            assert_true(fx.err.message[0] != '\0');
            fx_open(&fx);
        }
        fx_publish(&fx, "a", "x", 0);
        fx_finish(&fx);
    }
    assert_true(n > 10);
}

/* Fill the WAL some times over; a commit that fails ends the test. */
static void fill_the_wal(struct log_fixture *fx, int commits)
{
    static char payload[8000];

    memset(payload, 'p', sizeof(payload) - 1);
    for (int i = 0; i < commits; i++) {
        fx_begin(fx);
        for (int k = 0; k < 50; k++)
            fx_append(fx, "a", payload, 0);
        fx_commit(fx);
    }
}

/*
 * The thread that checkpoints can neither write nor sync: no commit fails for it, the WAL stays bounded because the writer
 * brings it in by itself, and all is there.
 */
static void a_failing_checkpoint_thread_costs_no_commit(void **state)
{
    struct log_fixture fx;

    fx_init(&fx);
    fx.config.vfs = "eb-faulty";
    fx_open(&fx);
    assert_int_equal(fx.engine->ops->start(fx.engine), 0);
    vfs_fault.code = SQLITE_IOERR_WRITE;
    vfs_fault.thread = "eb-checkpoint";
    vfs_fault.at = 0;
    fill_the_wal(&fx, 150); /* 60 MB */
    assert_true(atomic_load(&vfs_fault.thread_hits) > 0);
    assert_true(eb_sqlite_of(fx.engine)->wal_frames < 2 * EB_WAL_FRAMES);
    assert_true(atomic_load(&fx.counters.checkpoints) > 0);
    vfs_fault.at = -1; /* the disk is well again */
    fill_the_wal(&fx, 20);
    fx_close(&fx);
    vfs_fault.thread = NULL;
    fx.config.vfs = NULL;
    fx_open(&fx);
    assert_int_equal(fx_figures(&fx).events, 170 * 50);
    int64_t wrong = -1;
    assert_int_equal(eb_sql_int(eb_sqlite_of(fx.engine)->db,
                                "SELECT count(*) FROM pragma_integrity_check WHERE"
                                " integrity_check <> 'ok'",
                                -1, &wrong),
                     0);
    assert_int_equal(wrong, 0);
    fx_finish(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_disk_at_each_write),
        cmocka_unit_test(full_disk_that_lasts),
        cmocka_unit_test(io_error_at_each_write),
        cmocka_unit_test(creation_fails_at_each_write),
        cmocka_unit_test(a_failing_checkpoint_thread_costs_no_commit),
    };

    faulty_vfs_register();
    return cmocka_run_group_tests_name("fault_sqlite", tests, NULL, NULL);
}
