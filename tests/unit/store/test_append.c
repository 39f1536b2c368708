/* test_append.c - rows that SQLite numbers: behind the log's last row, and wherever that is not what it should be. */
#include "broker/store/sqlite_internal.h"
#include "sqlite_fixture.h"

static int setup(void **state)
{
    struct log_fixture *fx = malloc(sizeof(*fx));

    fx_init(fx);
    fx_open(fx);
    *state = fx;
    return 0;
}

static int teardown(void **state)
{
    fx_finish(*state);
    free(*state);
    return 0;
}

static struct eb_sqlite *engine_of(struct log_fixture *fx)
{
    return eb_sqlite_of(fx->engine);
}

enum kind { PLAIN, TYPED, HEADERS, MORTAL, EMPTY, KINDS };

/* The event at fx->next_seq; its payload is that seq as text, but for an empty one. */
static struct eb_event *event_of(struct log_fixture *fx, const char *topic, enum kind kind)
{
    char payload[24];
    struct eb_draft draft = {
        .topic = topic,
        .topic_len = strlen(topic),
        .payload = payload,
        .has_id = true,
        .content_type = kind == TYPED ? "application/json" : NULL,
        .content_type_len = kind == TYPED ? 16 : 0,
        .headers = kind == HEADERS ? "{\"a\":\"b\"}" : NULL,
        .headers_len = kind == HEADERS ? 9 : 0,
        .ttl = kind == MORTAL ? 60 : 0,
    };
    struct eb_event *event;

    snprintf(payload, sizeof(payload), "%llu", (unsigned long long)fx->next_seq);
    draft.payload_len = kind == EMPTY ? 0 : strlen(payload);
    eb_uuid_v7(draft.id);
    event = eb_event_create(&draft);
    assert_non_null(event);
    event->seq = fx->next_seq++;
    event->timestamp = fx->now;
    return event;
}

/* @count events of one kind, or (KINDS) of all of them in turn, in one call. Inside a transaction. */
static int append_many(struct log_fixture *fx, size_t count, enum kind kind)
{
    struct eb_event **events = calloc(count, sizeof(struct eb_event *));
    int result;

    assert_non_null(events);
    for (size_t i = 0; i < count; i++)
        events[i] = event_of(fx, fx->next_seq % 3 ? "a.b" : "c",
                             kind == KINDS ? (enum kind)(fx->next_seq % KINDS) : kind);
    result = fx->engine->ops->append(fx->engine, events, count);
    for (size_t i = 0; i < count; i++)
        eb_event_unref(events[i]);
    free(events);
    return result;
}

static void publish_many(struct log_fixture *fx, size_t count, enum kind kind)
{
    fx_begin(fx);
    if (append_many(fx, count, kind) < 0)
        fail_msg("%s", fx->engine->ops->trouble(fx->engine));
    fx_commit(fx);
}

static void try_many(struct log_fixture *fx, size_t count, enum kind kind, int expected)
{
    fx_begin(fx);
    assert_int_equal(append_many(fx, count, kind), expected);
    fx->engine->ops->rollback(fx->engine);
    fx->next_seq -= count;
}

/* The log holds @from to @upto, each with its own payload, and the figures say so. */
static void check_rows(struct log_fixture *fx, uint64_t from, uint64_t upto)
{
    struct eb_event *event;

    for (uint64_t seq = from; seq <= upto; seq++) {
        char payload[24];
        if (fx->engine->ops->event(fx->engine, fx->reader, seq, &event) < 0)
            fail_msg("event %llu is not there", (unsigned long long)seq);
        snprintf(payload, sizeof(payload), "%llu", (unsigned long long)seq);
        assert_string_equal(event->topic, seq % 3 ? "a.b" : "c");
        if (event->payload_len)
            assert_string_equal(event->payload, payload);
        eb_event_unref(event);
    }
    assert_int_equal(fx_figures(fx).events, upto - from + 1);
    assert_int_equal(fx_figures(fx).first_seq, from);
}

static int64_t ask(struct log_fixture *fx, const char *sql)
{
    int64_t value = -1;
    sqlite3 *db;

    assert_int_equal(sqlite3_open(fx->path, &db), SQLITE_OK);
    assert_int_equal(eb_sql_int(db, sql, -1, &value), 0);
    sqlite3_close(db);
    return value;
}

/* Nobody looks for a row that cannot be there: SQLite numbers the rows, and they go to the end of the tree. */
static void rows_are_numbered_not_looked_for(void **state)
{
    struct log_fixture *fx = *state;
    sqlite3_stmt *const stmts[] = {engine_of(fx)->append_next, engine_of(fx)->append_plain};

    for (size_t i = 0; i < 2; i++) {
        sqlite3_stmt *explain;
        unsigned numbered = 0, looked = 0;
        char sql[512];
        snprintf(sql, sizeof(sql), "EXPLAIN %s", sqlite3_sql(stmts[i]));
        assert_int_equal(sqlite3_prepare_v2(engine_of(fx)->db, sql, -1, &explain, NULL), 0);
        while (sqlite3_step(explain) == SQLITE_ROW) {
            const char *op = (const char *)sqlite3_column_text(explain, 1);
            numbered += strcmp(op, "NewRowid") == 0;
            looked += strcmp(op, "NotExists") == 0;
        }
        sqlite3_finalize(explain);
        assert_int_equal(numbered, 1);
        assert_int_equal(looked, 0);
    }
}

/* A run of plain events, which has a statement of its own, leaves what the statement for all kinds leaves. */
static void plain_rows_are_as_any(void **state)
{
    struct log_fixture *fx = *state;

    publish_many(fx, 1, TYPED);
    publish_many(fx, 600, PLAIN);
    check_rows(fx, 1, 601);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log WHERE content_type IS NULL AND headers IS "
                             "NULL AND ttl = 0 AND typeof(ttl) = 'integer' AND typeof(ts) = "
                             "'integer' AND typeof(id) = 'blob' AND length(id) = 16 AND "
                             "typeof(payload) = 'blob' AND typeof(crc) = 'integer'"),
                     600);
    assert_int_equal(ask(fx, "SELECT count(DISTINCT ts) FROM log"), 1);
    /* The same events, in a run that is not plain for its last one. */
    fx->now += 5;
    fx_begin(fx);
    struct eb_event *pair[] = {event_of(fx, "a.b", PLAIN), event_of(fx, "c", HEADERS)};
    assert_int_equal(fx->engine->ops->append(fx->engine, pair, 2), 0);
    fx_commit(fx);
    eb_event_unref(pair[0]);
    eb_event_unref(pair[1]);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log WHERE seq = 602 AND content_type IS NULL "
                             "AND headers IS NULL AND ttl = 0"),
                     1);
    check_rows(fx, 1, 603);
}

/* Kinds and times that change within a group are each event's own. */
static void mixed_runs_keep_what_is_each_events(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_event *event, *times[2];

    publish_many(fx, 700, KINDS);
    check_rows(fx, 1, 700);
    for (uint64_t seq = 1; seq <= 700; seq++) {
        assert_int_equal(fx->engine->ops->event(fx->engine, fx->reader, seq, &event), 0);
        assert_int_equal(event->content_type_len, seq % KINDS == TYPED ? 16 : 10);
        assert_int_equal(event->headers_len, seq % KINDS == HEADERS ? 9 : 0);
        assert_int_equal(event->ttl, seq % KINDS == MORTAL ? 60 : 0);
        assert_int_equal(event->payload_len == 0, seq % KINDS == EMPTY);
        eb_event_unref(event);
    }
    assert_int_equal(ask(fx, "SELECT count(*) FROM expiry"), 700 / KINDS);
    times[0] = event_of(fx, "a.b", PLAIN);
    times[1] = event_of(fx, "c", PLAIN);
    times[1]->timestamp++;
    fx_begin(fx);
    assert_int_equal(fx->engine->ops->append(fx->engine, times, 2), 0);
    fx_commit(fx);
    assert_int_equal(ask(fx, "SELECT max(ts) - min(ts) FROM log WHERE seq > 700"), 1);
    eb_event_unref(times[0]);
    eb_event_unref(times[1]);
}

/* The newest row is gone: what comes next has the seq that it was given, not the one that is free. */
static void append_behind_a_deleted_row(void **state)
{
    struct log_fixture *fx = *state;

    publish_many(fx, 9, PLAIN);
    publish_many(fx, 1, MORTAL);
    fx->now += 61000;
    fx_trim(fx, (struct eb_trim_request){.acked_ms = -1});
    assert_int_equal(ask(fx, "SELECT max(seq) FROM log"), 9);
    publish_many(fx, 300, PLAIN);
    publish_many(fx, 2, MORTAL);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log WHERE seq = 10"), 0);
    /* The same in one transaction, as when a publish takes a turn of retention with it. */
    fx->now += 61000;
    fx_begin(fx);
    struct eb_trim_result result;
    struct eb_trim_request request = {.acked_ms = -1, .max_rows = 100, .now_ms = fx->now};
    assert_int_equal(fx->engine->ops->trim(fx->engine, &request, &result), 0);
    assert_int_equal(result.expired, 2);
    assert_int_equal(append_many(fx, 300, PLAIN), 0);
    fx_commit(fx);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log"), 609);
    assert_int_equal(ask(fx, "SELECT max(seq) FROM log"), 612);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log WHERE seq IN (10, 311, 312)"), 0);
    assert_int_equal(
        ask(fx, "SELECT count(*) FROM log WHERE seq <> CAST(CAST(payload AS TEXT) AS INTEGER)"), 0);
}

/* A log that has lost all of its events goes on where it was, also when it is opened anew. */
static void append_to_an_empty_log(void **state)
{
    struct log_fixture *fx = *state;

    publish_many(fx, 5, MORTAL);
    check_rows(fx, 1, 5);
    fx->now += 61000;
    fx_trim(fx, (struct eb_trim_request){.acked_ms = -1});
    assert_int_equal(fx_figures(fx).events, 0);
    publish_many(fx, 4, KINDS);
    check_rows(fx, 6, 9);
    fx->now += 61000;
    fx_trim(fx, (struct eb_trim_request){.acked_ms = -1, .age_ms = 1000});
    assert_int_equal(fx_figures(fx).events, 0);
    fx_close(fx);
    fx_open(fx);
    publish_many(fx, 3, PLAIN);
    check_rows(fx, 10, 12);
}

/* What was rolled back leaves no row behind that the next would be numbered after. */
static void append_after_a_rollback(void **state)
{
    struct log_fixture *fx = *state;

    try_many(fx, 300, PLAIN, 0);
    publish_many(fx, 3, PLAIN);
    try_many(fx, 2000, KINDS, 0);
    publish_many(fx, 400, KINDS);
    check_rows(fx, 1, 403);
}

/* A run ends with its segment, whose index names each of its rows, and with its block, whose sum retention goes by. */
static void runs_end_with_their_segment(void **state)
{
    struct log_fixture *fx = *state;
    const uint64_t first = EB_SEGMENT_SEQS - 200, last = EB_SEGMENT_SEQS + 99;

    fx->next_seq = first; /* not behind the log's last row, of which there is none */
    publish_many(fx, 300, KINDS);
    check_rows(fx, first, last);
    assert_int_equal(ask(fx, "SELECT events FROM segments WHERE segment = 0"), 200);
    assert_int_equal(ask(fx, "SELECT sum((length(seqs) - 4) / 2) FROM postings"), 200);
    publish_many(fx, 5000, PLAIN);
    check_rows(fx, first, last + 5000);
    for (uint64_t n = 64; n <= 67; n++) {
        const struct eb_block *block = eb_blocks_get(&engine_of(fx)->blocks, n);
        char sql[200];
        assert_non_null(block);
        snprintf(sql, sizeof(sql),
                 "SELECT sum(" EB_ROW_BYTES_SQL ") FROM log WHERE seq / %u = %llu", EB_BLOCK_SEQS,
                 (unsigned long long)n);
        assert_int_equal(block->events, EB_BLOCK_SEQS);
        assert_int_equal(block->bytes, ask(fx, sql));
    }
}

/* Another program's row behind the last is noticed by the seq that SQLite gives; then rows are named, as long as it fits. */
static void rows_put_behind_the_last_are_noticed(void **state)
{
    struct log_fixture *fx = *state;
    const char *trouble;

    publish_many(fx, 10, PLAIN);
    fx_sql(fx, "INSERT INTO log SELECT 1000, topic, ts, ttl, id, content_type, headers, payload,"
               " crc FROM log WHERE seq = 10");
    try_many(fx, 20, PLAIN, -EIO);
    trouble = fx->engine->ops->trouble(fx->engine);
    assert_non_null(strstr(trouble, "event 30 would have become row 1020"));
    assert_non_null(strstr(trouble, "another program"));
    assert_int_equal(ask(fx, "SELECT count(*) FROM log"), 11);
    publish_many(fx, 20, PLAIN);
    publish_many(fx, 20, KINDS);
    check_rows(fx, 1, 50);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log"), 51);
    fx_sql(fx, "DELETE FROM log WHERE seq = 1000");
    publish_many(fx, 500, PLAIN);
    publish_many(fx, 500, KINDS);
    check_rows(fx, 1, 1050);
}

/* The same of a last row that another program has deleted: nothing takes its seq. */
static void a_last_row_taken_away_is_noticed(void **state)
{
    struct log_fixture *fx = *state;

    publish_many(fx, 10, PLAIN);
    fx_sql(fx, "DELETE FROM log WHERE seq = 10");
    try_many(fx, 1, PLAIN, -EIO);
    assert_non_null(
        strstr(fx->engine->ops->trouble(fx->engine), "event 11 would have become row 10"));
    assert_int_equal(ask(fx, "SELECT max(seq) FROM log"), 9);
    publish_many(fx, 300, PLAIN);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log WHERE seq = 10"), 0);
    assert_int_equal(ask(fx, "SELECT max(seq) FROM log"), 310);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(rows_are_numbered_not_looked_for),
        T(plain_rows_are_as_any),
        T(mixed_runs_keep_what_is_each_events),
        T(append_behind_a_deleted_row),
        T(append_to_an_empty_log),
        T(append_after_a_rollback),
        T(runs_end_with_their_segment),
        T(rows_put_behind_the_last_are_noticed),
        T(a_last_row_taken_away_is_noticed),
    };

    return cmocka_run_group_tests_name("append", tests, NULL, NULL);
}
