/*
 * test_blocks.c - retention that deletes whole stretches without reading them: whatever the log has been through, its
 * figures are those of its rows, and no id of the dedupe window is forgotten.
 */
#include "broker/store/internal.h"
#include "broker/store/row.h"
#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"
#include "sqlite_fixture.h"

#define WINDOW 600000
#define MANY   200000u

struct run {
    struct log_fixture fx;
    struct eb_dedupe dedupe;
    unsigned rng;
};

static unsigned random_of(struct run *run, unsigned n)
{
    run->rng = run->rng * 1103515245u + 12345u;
    return (run->rng >> 8) % n;
}

static int setup(void **state)
{
    struct run *run = calloc(1, sizeof *run);
    fx_init(&run->fx);
    fx_open(&run->fx);
    assert_int_equal(eb_dedupe_init(&run->dedupe), 0);
    *state = run;
    return 0;
}

static int teardown(void **state)
{
    struct run *run = *state;
    eb_dedupe_finish(&run->dedupe);
    fx_finish(&run->fx);
    free(run);
    return 0;
}

static void append(struct run *run, unsigned count, int64_t ttl)
{
    struct log_fixture *fx = &run->fx;
    for (unsigned i = 0; i < count; i++) {
        char topic[16], payload[64] = {0};
        struct eb_draft draft = {.topic = topic, .payload = payload, .ttl = ttl, .has_id = true};
        draft.topic_len = (size_t)snprintf(topic, sizeof topic, "t%u", random_of(run, 9));
        draft.payload_len = random_of(run, sizeof payload);
        memcpy(draft.id, &fx->next_seq, sizeof fx->next_seq);
        struct eb_event *event = eb_event_create(&draft);
        event->seq = fx->next_seq++;
        event->timestamp = fx->now;
        uint32_t hash = eb_dedupe_ahead(&run->dedupe, draft.id);
        assert_null(eb_dedupe_put(&run->dedupe, draft.id, hash, event->seq, fx->now));
        assert_int_equal(fx->engine->ops->append(fx->engine, &event, 1), 0);
        eb_event_unref(event);
    }
}

static void publish(struct run *run, unsigned count, int64_t ttl)
{
    fx_begin(&run->fx);
    append(run, count, ttl);
    fx_commit(&run->fx);
}

static int64_t ask(struct run *run, const char *sql)
{
    int64_t value = -1;
    assert_int_equal(eb_sql_int(eb_sqlite_of(run->fx.engine)->db, sql, 0, &value), 0);
    return value;
}

static void count_id(void *ctx, const uint8_t id[16], uint64_t seq, int64_t timestamp)
{
    uint64_t *last = ctx, number;
    memcpy(&number, id, sizeof number);
    assert_int_equal(number, seq);
    assert_int_equal(seq, *last + 1); /* each, once */
    *last = seq;
}

/* Figures, segments and ids are those of the rows. */
static void is_consistent(struct run *run)
{
    struct eb_engine_figures figures = fx_figures(&run->fx);
    uint64_t open = eb_sqlite_of(run->fx.engine)->open->number, last = 0;
    char sql[400];
    assert_int_equal(figures.events, ask(run, "SELECT count(*) FROM log"));
    assert_int_equal(figures.bytes, ask(run, "SELECT sum(" EB_ROW_BYTES_SQL ") FROM log"));
    assert_int_equal(figures.acked, ask(run, "SELECT count(*) FROM acked"));
    if (figures.events)
        assert_int_equal(figures.first_seq, ask(run, "SELECT min(seq) FROM log"));
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM segments s WHERE s.events <> (SELECT count(*) FROM log WHERE"
             " seq >> 16 = s.segment) OR s.segment < %llu AND s.bytes <> (SELECT"
             " ifnull(sum(" EB_ROW_BYTES_SQL "), 0) FROM log WHERE seq >> 16 = s.segment)",
             (unsigned long long)open);
    assert_int_equal(ask(run, sql), 0);
    struct eb_engine *engine = run->fx.engine;
    const struct eb_engine_ids tell = {.ctx = &last, .id = count_id};
    assert_int_equal(engine->ops->load_ids(engine, run->fx.now - WINDOW + 1, MANY * 2, &tell), 0);
    assert_int_equal(last, run->fx.next_seq - 1);
}

static struct eb_trim_request request_of(struct run *run, uint64_t keep)
{
    return (struct eb_trim_request){
        .acked_ms = -1,
        .max_events = keep,
        .dedupe_window_ms = WINDOW,
        .dedupe_from_seq = eb_dedupe_oldest_seq(&run->dedupe),
        .dedupe = &run->dedupe,
        .max_rows = 1000 + random_of(run, 5000),
    };
}

/* What a segment of the log is after single deletions, ttls and acks, in any order. */
static void single_deletions(struct run *run)
{
    struct log_fixture *fx = &run->fx;
    struct eb_trim_request acked = request_of(run, 0);
    uint64_t first = fx_figures(fx).first_seq;
    acked.acked_ms = 0;
    fx_begin(fx);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(
            fx->engine->ops->ack(
                fx->engine, first + random_of(run, (unsigned)(fx->next_seq - first)), fx->now - 1),
            0);
    fx_commit(fx);
    if (random_of(run, 2))
        fx_trim(fx, acked);
}

static void rolled_back(struct run *run, uint64_t keep)
{
    struct log_fixture *fx = &run->fx;
    struct eb_trim_request request = request_of(run, keep);
    struct eb_trim_result result;
    uint64_t mark = eb_dedupe_mark(&run->dedupe), next = fx->next_seq;
    request.now_ms = fx->now;
    fx_begin(fx);
    assert_int_equal(fx->engine->ops->trim(fx->engine, &request, &result), 0);
    append(run, 3000, 0);
    fx->engine->ops->rollback(fx->engine);
    eb_dedupe_undo(&run->dedupe, mark);
    fx->next_seq = next;
}

/* A group deletes, then appends: as janitor.c, J2. */
static void group(struct run *run, uint64_t keep)
{
    struct log_fixture *fx = &run->fx;
    struct eb_trim_request request = request_of(run, keep);
    struct eb_trim_result result;
    uint64_t before = fx_figures(fx).deleted_upto;
    request.now_ms = fx->now;
    request.coming = 500 + random_of(run, 4000);
    request.hold_from = random_of(run, 5) ? 0 : fx->next_seq - random_of(run, 70000) % fx->next_seq;
    fx_begin(fx);
    assert_int_equal(fx->engine->ops->trim(fx->engine, &request, &result), 0);
    append(run, (unsigned)request.coming, random_of(run, 12) ? 0 : 1 + random_of(run, 30));
    fx_commit(fx);
    if (request.hold_from && before < request.hold_from)
        assert_true(fx_figures(fx).deleted_upto < request.hold_from);
    assert_true(result.retained_out <= request.max_rows);
}

/* Groups, single deletions, ttls, holds, rollbacks and restarts in any order. */
static void figures_are_those_of_the_rows(void **state)
{
    struct run *run = *state;
    struct log_fixture *fx = &run->fx;
    const uint64_t keep = 70000; /* more than a segment: what goes is of closed ones */
    run->rng = 7;
    publish(run, 71000, 0);
    while (fx->next_seq < MANY) {
        fx->now += 100;
        group(run, keep);
        unsigned what = random_of(run, 24);
        if (what == 0)
            single_deletions(run);
        else if (what == 1)
            rolled_back(run, keep);
        else if (what == 2)
            fx_close(fx), fx_open(fx);
        if (what < 8)
            is_consistent(run);
    }
    while (fx_trim(fx, request_of(run, keep)).more)
        ;
    is_consistent(run);
    assert_int_equal(fx_figures(fx).events, keep);
}

/* Rows of whole blocks are not read: deleting is cheap where it has to keep up with publishing. */
static void whole_blocks_are_not_read(void **state)
{
    struct run *run = *state;
    struct log_fixture *fx = &run->fx;
    sqlite3_stmt *prefix = eb_sqlite_of(fx->engine)->prefix;
    publish(run, 80000, 0);
    struct eb_trim_request request = request_of(run, 75000);
    request.max_rows = 4096;
    request.coming = 1;
    assert_int_equal(fx_trim(fx, request).retained_out, 4095); /* seq 1 to the end of block 3 */
    assert_int_equal(sqlite3_stmt_status(prefix, SQLITE_STMTSTATUS_RUN, 0), 0);
    request.coming = 0;
    assert_int_equal(fx_trim(fx, request).retained_out,
                     905); /* by rows: exactly what is too much */
    assert_int_equal(sqlite3_stmt_status(prefix, SQLITE_STMTSTATUS_RUN, 0), 1);
    assert_int_equal(fx_figures(fx).events, 75000);
    is_consistent(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(figures_are_those_of_the_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(whole_blocks_are_not_read, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
