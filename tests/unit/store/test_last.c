/*
 * test_last.c - last values and last seqs of topics, and topics that go with their last event (PROTOCOL 8): both engines
 * against a model, whatever is deleted, rolled back, closed or restarted in between.
 */
#include "tests/unit/store/sqlite_fixture.h"

#include "broker/store/ops.h"
#include "broker/store/sqlite_internal.h"
#include "common/log.h"

#define TOPICS 10
#define EVENTS 20000

static const char *const names[TOPICS] = {"a",   "a.b",     "a.b.c",    "a.c",      "b",
                                          "b.b", "$dead.x", "_reply.1", "_reply.2", "_reply"};

static const char *const patterns[] = {"#",        "a.*",      "a.#", "b",
                                       "_reply.*", "_reply.#", "*.b", "x.#"};

struct known {
    unsigned topic;
    bool there, expired;
};

struct model {
    struct log_fixture fx;
    bool memory;
    struct known events[EVENTS]; /* by number: seq - base of its stretch */
    uint64_t seqs[EVENTS];
    unsigned count;
    uint64_t last[TOPICS];
    uint32_t random;
};

static uint32_t chance(struct model *m, uint32_t n)
{
    m->random = m->random * 1664525u + 1013904223u;
    return (m->random >> 8) % n;
}

static bool is_reply(unsigned topic)
{
    return topic >= 7;
}

static void open_log(struct model *m)
{
    if (!m->memory) {
        fx_open(&m->fx);
        return;
    }
    m->fx.config.path = NULL;
    m->fx.config.memory_bytes = 64 << 20;
    assert_int_equal(eb_engine_memory_open(&m->fx.config, &m->fx.counters, &m->fx.engine,
                                           &m->fx.start, &m->fx.err),
                     0);
    m->fx.next_seq = 1;
}

static struct model *model_new(uint32_t seed, bool memory)
{
    struct model *m = calloc(1, sizeof(*m));
    assert_non_null(m);
    fx_init(&m->fx);
    m->random = seed;
    m->memory = memory;
    m->fx.config.durability = EB_DURABILITY_OS; /* no sync: nothing here needs one */
    m->fx.now -= 1000000;                       /* a ttl of a second is over for whoever reads */
    open_log(m);
    return m;
}

static void model_free(struct model *m)
{
    fx_finish(&m->fx);
    free(m);
}

/* ---- the model ---- */

/* What is there, asked of the writer seq by seq: of topics without events, replies are forgotten. */
static void look(struct model *m)
{
    bool any[TOPICS] = {false};
    for (unsigned i = 0; i < m->count; i++) {
        struct eb_event *event = NULL;
        m->events[i].there =
            m->events[i].there && m->fx.engine->ops->lookup(m->fx.engine, m->seqs[i], &event) == 0;
        eb_event_unref(event);
        if (m->events[i].there)
            any[m->events[i].topic] = true;
    }
    for (unsigned t = 0; t < TOPICS; t++)
        if (is_reply(t) && !any[t])
            m->last[t] = 0;
}

static uint64_t newest(const struct model *m, unsigned topic, uint64_t upto)
{
    for (unsigned i = m->count; i-- > 0;)
        if (m->events[i].topic == topic && m->events[i].there && !m->events[i].expired &&
            m->seqs[i] <= upto)
            return m->seqs[i];
    return 0;
}

static void check_last_seqs(struct model *m, const char *pattern, uint64_t upto)
{
    struct eb_selection *selection = fx_select(pattern);
    uint64_t *seqs = NULL;
    size_t count = 0, expected = 0;
    assert_int_equal(
        m->fx.engine->ops->last_seqs(m->fx.engine, m->fx.reader, selection, upto, &seqs, &count),
        0);
    for (size_t i = 1; i < count; i++)
        assert_true(seqs[i - 1] < seqs[i]);
    for (unsigned t = 0; t < TOPICS; t++) {
        uint64_t seq = newest(m, t, upto);
        bool found = false;
        if (!seq || !eb_selection_match(selection, names[t], strlen(names[t])))
            continue;
        expected++;
        for (size_t i = 0; i < count; i++)
            found = found || seqs[i] == seq;
        if (!found)
            fail_msg("%s does not have %llu of %s", pattern, (unsigned long long)seq, names[t]);
    }
    assert_int_equal(count, expected);
    free(seqs);
    eb_selection_destroy(selection);
}

static void check(struct model *m)
{
    const struct eb_engine_ops *ops = m->fx.engine->ops;
    uint64_t topics = 0;
    look(m);
    for (unsigned t = 0; t < TOPICS; t++) {
        struct eb_event *event = NULL;
        uint64_t last = 99, seq = newest(m, t, UINT64_MAX);
        assert_int_equal(ops->topic_last(m->fx.engine, names[t], strlen(names[t]), &last), 0);
        if (last != m->last[t])
            fail_msg("%s: last seq %llu, not %llu", names[t], (unsigned long long)last,
                     (unsigned long long)m->last[t]);
        topics += m->last[t] > 0;
        int rc =
            ops->last(m->fx.engine, m->fx.reader, names[t], strlen(names[t]), UINT64_MAX, &event);
        assert_int_equal(rc, seq ? 0 : -ENOENT);
        if (event)
            assert_int_equal(event->seq, seq);
        eb_event_unref(event);
    }
    for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++) {
        check_last_seqs(m, patterns[i], UINT64_MAX / 2);
        check_last_seqs(m, patterns[i], m->fx.next_seq / 2 + 1);
    }
    if (!m->memory)
        assert_int_equal(fx_figures(&m->fx).topics, topics);
}

/* ---- what happens ---- */

/* In the open transaction; it counts only if the transaction does. */
static unsigned append_some(struct model *m, unsigned first)
{
    unsigned count = 1 + chance(m, 5);
    for (unsigned i = 0; i < count; i++) {
        unsigned topic = chance(m, TOPICS), kind = chance(m, 4);
        m->fx.now++;
        m->events[first + i] = (struct known){topic, true, kind == 0};
        m->seqs[first + i] = fx_append(&m->fx, names[topic], "x",
                                       kind == 0   ? 1
                                       : kind == 1 ? 1000000
                                                   : 0);
    }
    return count;
}

static void publish_some(struct model *m)
{
    fx_begin(&m->fx);
    unsigned count = append_some(m, m->count);
    fx_commit(&m->fx);
    for (unsigned i = 0; i < count; i++)
        m->last[m->events[m->count + i].topic] = m->seqs[m->count + i];
    m->count += count;
}

static void roll_back(struct model *m)
{
    struct eb_trim_request request = {.now_ms = m->fx.now + 5000, .max_rows = 50, .acked_ms = -1};
    struct eb_trim_result result;
    uint64_t next = m->fx.next_seq;
    fx_begin(&m->fx);
    append_some(m, m->count);
    if (!m->memory && chance(m, 2))
        assert_int_equal(m->fx.engine->ops->trim(m->fx.engine, &request, &result), 0);
    m->fx.engine->ops->rollback(m->fx.engine);
    m->fx.next_seq = next;
}

static void delete_some(struct model *m)
{
    struct eb_trim_request request = {.acked_ms = -1, .max_rows = 1 + chance(m, 30)};
    switch (chance(m, 4)) {
    case 0:
        break; /* what has expired */
    case 1:
        request.max_events = 1 + chance(m, 40);
        break;
    case 2:
        request.age_ms = 1 + chance(m, 40);
        break;
    case 3:
        request.acked_ms = 0;
        fx_begin(&m->fx);
        for (unsigned i = 0; i < 10 && m->count; i++)
            m->fx.engine->ops->ack(m->fx.engine,
                                   m->seqs[m->count - 1 - chance(m, m->count < 30 ? m->count : 30)],
                                   m->fx.now);
        fx_commit(&m->fx);
        break;
    }
    m->fx.now += chance(m, 3000);
    fx_trim(&m->fx, request);
}

static void close_segment(struct model *m)
{
    uint64_t end = eb_segment_base(eb_segment_of(m->fx.next_seq) + 1);
    uint64_t next = end - 1 - chance(m, 4);
    m->fx.next_seq = next > m->fx.next_seq ? next : m->fx.next_seq;
    publish_some(m);
}

static void restart(struct model *m)
{
    bool clean = chance(m, 2);
    m->fx.engine->ops->reader_destroy(m->fx.engine, m->fx.reader);
    m->fx.engine->ops->close(m->fx.engine, clean, m->fx.now);
    m->fx.engine = NULL;
    fx_open(&m->fx);
}

static void say(void *ctx, const char *line)
{
    fail_msg("verify: %s", line);
}

static void verify(struct model *m)
{
    struct eb_ops ops = {.report = say};
    struct eb_ops_summary summary;
    struct eb_error err;
    fx_close(&m->fx);
    int rc = eb_store_verify(m->fx.path, &ops, &summary, &err);
    if (rc < 0)
        fail_msg("verify: %s", err.message);
    fx_open(&m->fx);
}

static void play(uint32_t seed, bool memory)
{
    struct model *m = model_new(seed, memory);
    for (unsigned step = 0; step < 400; step++) {
        uint32_t dice = chance(m, 100);
        if (dice < 50)
            publish_some(m);
        else if (dice < 60)
            roll_back(m);
        else if (dice < 90)
            delete_some(m);
        else if (dice < 95 && !memory)
            close_segment(m);
        else if (!memory)
            restart(m);
        if (step % 4 == 0)
            check(m);
    }
    check(m);
    if (!memory)
        verify(m);
    model_free(m);
}

/* Whatever happens in between, a topic's last seq and its last value are what the model says. */
static void file_is_as_the_model(void **state)
{
    for (uint32_t seed = 1; seed <= 6; seed++)
        play(seed, false);
}

static void memory_is_as_the_model(void **state)
{
    for (uint32_t seed = 1; seed <= 30; seed++)
        play(seed, true);
}

/* ---- what it costs ---- */

static void publish_run(struct log_fixture *fx, const char *format, unsigned from, unsigned count,
                        int64_t ttl)
{
    char topic[64];
    fx_begin(fx);
    for (unsigned i = from; i < from + count; i++) {
        snprintf(topic, sizeof(topic), format, i);
        fx_append(fx, topic, "x", ttl);
    }
    fx_commit(fx);
}

/* Thousands of topics, each with one event far back in a long log: a row or two each, and no scan. */
static void last_of_many_topics_scans_nothing(void **state)
{
    struct log_fixture fx;
    struct eb_event *event = NULL;
    uint64_t *seqs, rows;
    size_t count;
    fx_init(&fx);
    fx_open(&fx);
    publish_run(&fx, "state.%u", 0, 5000, 0);
    for (unsigned i = 0; i < 30; i++)
        publish_run(&fx, "noise", 0, 10000, 0);
    publish_run(&fx, "state.%u", 2000, 1000, 0);
    struct eb_selection *selection = fx_select("state.*");
    rows = atomic_load(&fx.counters.rows_read);
    assert_int_equal(
        fx.engine->ops->last_seqs(fx.engine, fx.reader, selection, fx.next_seq - 1, &seqs, &count),
        0);
    rows = atomic_load(&fx.counters.rows_read) - rows;
    assert_int_equal(count, 5000);
    assert_int_equal(seqs[0], 1);
    assert_int_equal(seqs[4999], fx.next_seq - 1);
    assert_in_range(rows, 5000, 4 * 5000); /* a topic, a segment, a row */
    free(seqs);
    eb_selection_destroy(selection);
    rows = atomic_load(&fx.counters.rows_read);
    assert_int_equal(fx.engine->ops->last(fx.engine, fx.reader, "state.7", 7, fx.next_seq, &event),
                     0);
    assert_int_equal(event->seq, 8);
    assert_in_range(atomic_load(&fx.counters.rows_read) - rows, 1, 4);
    eb_event_unref(event);
    fx_finish(&fx);
}

/* A damaged newest event is said; it is not silently an older one. */
static void damaged_newest_is_said(void **state)
{
    struct log_fixture fx;
    struct eb_event *event = NULL;
    fx_init(&fx);
    fx_open(&fx);
    fx_publish(&fx, "a", "x", 0);
    fx_publish(&fx, "a", "y", 0);
    fx_sql(&fx, "UPDATE log SET payload = x'00' WHERE seq = 2");
    assert_int_equal(fx.engine->ops->last(fx.engine, fx.reader, "a", 1, fx.next_seq, &event),
                     -EBADMSG);
    fx_finish(&fx);
}

/* In memory a topic's last seq outlives what the ring has lost; how many are remembered so is bounded. */
static void ring_loses_events_and_no_last_seq(void **state)
{
    struct model *m = calloc(1, sizeof(*m));
    const struct eb_engine_ops *ops;
    uint64_t last;
    assert_non_null(m);
    fx_init(&m->fx);
    m->memory = true;
    m->fx.config.path = NULL;
    m->fx.config.memory_bytes = 1 << 20;
    assert_int_equal(eb_engine_memory_open(&m->fx.config, &m->fx.counters, &m->fx.engine,
                                           &m->fx.start, &m->fx.err),
                     0);
    m->fx.next_seq = 1;
    ops = m->fx.engine->ops;
    publish_run(&m->fx, "old.%u", 0, 100, 0);
    publish_run(&m->fx, "noise", 0, 20000, 0);
    assert_true(fx_figures(&m->fx).first_seq > 100);
    assert_int_equal(fx_figures(&m->fx).topics, 1);
    for (unsigned i = 0; i < 100; i++) {
        char topic[32];
        snprintf(topic, sizeof(topic), "old.%u", i);
        assert_int_equal(ops->topic_last(m->fx.engine, topic, strlen(topic), &last), 0);
        assert_int_equal(last, i + 1);
    }
    publish_run(&m->fx, "old.%u", 7, 1, 0);
    assert_int_equal(ops->topic_last(m->fx.engine, "old.7", 5, &last), 0);
    assert_int_equal(last, m->fx.next_seq - 1);
    publish_run(&m->fx, "flood.%u", 0, 20000, 0); /* those that died longest ago are forgotten */
    publish_run(&m->fx, "noise", 0, 20000, 0);
    assert_int_equal(ops->topic_last(m->fx.engine, "old.8", 5, &last), 0);
    assert_int_equal(last, 0);
    assert_int_equal(ops->topic_last(m->fx.engine, "flood.19999", 11, &last), 0);
    assert_true(last > 0);
    model_free(m);
}

/* ---- what waits ---- */

static int pages_read(struct log_fixture *fx)
{
    int pages = 0, high;
    assert_int_equal(sqlite3_db_status(eb_sqlite_of(fx->engine)->db, SQLITE_DBSTATUS_CACHE_MISS,
                                       &pages, &high, 1),
                     SQLITE_OK);
    return pages;
}

/* However many wait, a start and a tick read a few pages. */
static void many_that_wait_cost_no_scan(void **state)
{
    struct log_fixture fx;
    const char *many = getenv("EB_TEST_SCHEDULED");
    unsigned count = many ? (unsigned)atoi(many) : 100000;
    struct eb_event *event, *due[8];
    size_t got;
    bool more;
    fx_init(&fx);
    fx.config.durability = EB_DURABILITY_OS;
    fx_open(&fx);
    fx_begin(&fx);
    event = fx_event(&fx, "later", "some payload of a usual length", 0);
    for (unsigned i = 0; i < count; i++) {
        eb_uuid_v4(event->id);
        assert_int_equal(fx.engine->ops->schedule(fx.engine, event, fx.now + 1000 + i, fx.now), 0);
    }
    fx_commit(&fx);
    fx_close(&fx);
    int64_t before = eb_mono_us();
    fx_open(&fx);
    print_message("%u scheduled: the start took %lld us\n", count,
                  (long long)(eb_mono_us() - before));
    assert_in_range(pages_read(&fx), 1, 100);
    assert_int_equal(fx_figures(&fx).scheduled, count);
    assert_int_equal(fx_figures(&fx).next_due_ms, fx.now + 1000);
    for (int tick = 0; tick < 3; tick++) {
        fx_begin(&fx);
        before = eb_mono_us();
        assert_int_equal(fx.engine->ops->due(fx.engine, fx.now + 1000 + tick, due, 8, &got, &more),
                         0);
        print_message("a tick took %lld us\n", (long long)(eb_mono_us() - before));
        fx_commit(&fx);
        assert_int_equal(got, 1);
        assert_false(more);
        eb_event_unref(due[0]);
        assert_in_range(pages_read(&fx), 0, 40);
    }
    assert_int_equal(fx_figures(&fx).scheduled, count - 3);
    eb_event_unref(event);
    fx_finish(&fx);
}

/* ---- replies ---- */

static void expire_all(struct log_fixture *fx)
{
    struct eb_trim_result result;
    fx->now += 61000;
    do
        result = fx_trim(fx, (struct eb_trim_request){.acked_ms = -1, .max_rows = 4096});
    while (result.more);
}

static uint64_t file_pages(struct log_fixture *fx)
{
    char command[256], text[64];
    snprintf(command, sizeof(command),
             "sqlite3 %s 'SELECT page_count - freelist_count FROM pragma_page_count,"
             " pragma_freelist_count'",
             fx->path);
    fx_shell(command, text, sizeof(text));
    return strtoull(text, NULL, 10);
}

/* A hundred thousand replies leave no topic, no list and no page behind; their ids are not given again. */
static void replies_leave_nothing_behind(void **state)
{
    struct log_fixture fx;
    uint64_t pages = 0;
    uint32_t top = 0;
    fx_init(&fx);
    fx_open(&fx);
    fx_publish(&fx, "stays", "x", 0);
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < 25; i++) {
            publish_run(&fx, "_reply.%06u", round * 25000 + i * 1000, 1000, 60);
            fx_publish(&fx, "stays", "x", 0); /* so that every segment stays */
        }
        assert_int_equal(fx_figures(&fx).topics, 25001);
        expire_all(&fx);
        assert_int_equal(fx_figures(&fx).topics, 1);
        if (round % 2) {
            fx_close(&fx);
            fx_open(&fx);
        }
        if (round == 0)
            pages = file_pages(&fx);
    }
    assert_in_range(file_pages(&fx), 1, pages + 40);
    struct eb_topic_info topics[4];
    assert_int_equal(fx.engine->ops->topics(fx.engine, fx.reader, NULL, topics, 4), 1);
    fx_begin(&fx);
    struct eb_event *event = fx_event(&fx, "new", "x", 0);
    assert_int_equal(fx.engine->ops->append(fx.engine, &event, 1), 0);
    top = event->topic_id;
    fx_commit(&fx);
    eb_event_unref(event);
    assert_int_equal(top, 100002);
    fx_close(&fx);
    struct eb_ops ops = {.report = say};
    struct eb_ops_summary summary;
    assert_int_equal(eb_store_verify(fx.path, &ops, &summary, &fx.err), 0);
    assert_int_equal(summary.topics, 2);
    fx_finish(&fx);
}

/* In a backup and what is restored from it they go with their last event as well, and last seqs are known. */
static void copies_know_topics_of_replies(void **state)
{
    struct log_fixture fx;
    struct eb_ops ops = {0};
    struct eb_ops_summary summary;
    char copy[128], restored[128];
    uint64_t last;
    fx_init(&fx);
    fx_open(&fx);
    for (unsigned i = 0; i < 3; i++)
        publish_run(&fx, "_reply.%u", 0, 10, 60);
    fx_publish(&fx, "gone", "x", 0);
    fx_publish(&fx, "stays", "x", 0);
    fx_begin(&fx);
    assert_int_equal(fx.engine->ops->ack(fx.engine, 31, fx.now), 0);
    fx_commit(&fx);
    fx_trim(&fx, (struct eb_trim_request){.acked_ms = 0});
    fx_close(&fx);
    snprintf(copy, sizeof(copy), "%s/copy.db", fx.folder);
    snprintf(restored, sizeof(restored), "%s/restored.db", fx.folder);
    assert_int_equal(eb_store_backup(fx.path, copy, &ops, &summary, &fx.err), 0);
    assert_int_equal(eb_store_restore(copy, restored, &ops, &summary, &fx.err), 0);
    fx.config.path = restored;
    fx_open(&fx);
    assert_int_equal(fx_figures(&fx).topics, 12);
    assert_int_equal(fx.engine->ops->topic_last(fx.engine, "gone", 4, &last), 0);
    assert_int_equal(last, 31);
    assert_int_equal(fx.engine->ops->topic_last(fx.engine, "_reply.3", 8, &last), 0);
    assert_int_equal(last, 24);
    expire_all(&fx);
    assert_int_equal(fx_figures(&fx).topics, 2);
    fx_close(&fx);
    ops.report = say;
    assert_int_equal(eb_store_verify(restored, &ops, &summary, &fx.err), 0);
    fx_finish(&fx);
}

/* A subscription that reads on across the end of such topics gets each later reply once. */
static void selection_goes_on_past_replies(void **state)
{
    struct log_fixture fx;
    char text[400];
    fx_init(&fx);
    fx_open(&fx);
    struct eb_selection *selection = fx_select("_reply.*");
    struct eb_page_request request = {.from = 1, .max_events = 100, .max_bytes = 1 << 20};
    size_t len = 0;
    for (unsigned i = 0; i < 5; i++) {
        publish_run(&fx, "_reply.%u", i, 2, 60);
        request.upto = fx.next_seq - 1;
        struct eb_page page = fx_page(&fx, selection, &request);
        for (size_t n = 0; n < page.count; n++)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%llu ",
                                    (unsigned long long)page.items[n].event->seq);
        request.from = page.next;
        eb_page_finish(&page);
        int64_t now = fx.now;
        expire_all(&fx);
        fx.now = now;
    }
    assert_string_equal(text, "1 2 3 4 5 6 7 8 9 10 ");
    assert_int_equal(fx_figures(&fx).topics, 0);
    eb_selection_destroy(selection);
    fx_finish(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_is_as_the_model),
        cmocka_unit_test(memory_is_as_the_model),
        cmocka_unit_test(ring_loses_events_and_no_last_seq),
        cmocka_unit_test(last_of_many_topics_scans_nothing),
        cmocka_unit_test(damaged_newest_is_said),
        cmocka_unit_test(many_that_wait_cost_no_scan),
        cmocka_unit_test(replies_leave_nothing_behind),
        cmocka_unit_test(copies_know_topics_of_replies),
        cmocka_unit_test(selection_goes_on_past_replies),
    };
    return cmocka_run_group_tests_name("last", tests, NULL, NULL);
}
