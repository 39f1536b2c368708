/*
 * test_seek.c - several events at once, the first one of a time, how many match: the same as what a look at every row
 * finds, without looking at every row.
 */
#include "broker/store/sqlite_internal.h"
#include "sqlite_fixture.h"

#define MODEL 150000 /* two closed segments and a part of the third */

struct model {
    struct log_fixture *fx;
    char (*topic)[16]; /* by seq; "" : not given */
    int64_t *ts;       /* by seq; 0: deleted */
};

static uint64_t random_state = 99;

static uint64_t below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % n;
}

static void fill(struct model *m)
{
    static const char *const topics[] = {"a.b", "a.b", "a.b", "a.c", "a.c", "d", "$dead.x", "_r.1"};
    struct log_fixture *fx = m->fx;
    while (fx->next_seq < MODEL) {
        fx_begin(fx);
        for (int i = 0; i < 3000 && fx->next_seq < MODEL; i++) {
            const char *topic = below(20000) ? topics[below(8)] : "rare";
            uint64_t seq = fx_append(fx, topic, "payload", 0);
            strcpy(m->topic[seq], topic);
            m->ts[seq] = fx->now;
            fx->now += below(4) ? 0 : (int64_t)below(50);
        }
        fx_commit(fx);
    }
}

static int setup(void **state)
{
    struct model *m = calloc(1, sizeof(*m));
    m->fx = calloc(1, sizeof(*m->fx));
    m->topic = calloc(MODEL + 1, sizeof(*m->topic));
    m->ts = calloc(MODEL + 1, sizeof(*m->ts));
    fx_init(m->fx);
    m->fx->config.durability = EB_DURABILITY_OS; /* these are not about power cuts */
    fx_open(m->fx);
    fill(m);
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    struct model *m = *state;
    fx_finish(m->fx);
    free(m->fx);
    free(m->topic);
    free(m->ts);
    free(m);
    return 0;
}

static void delete_prefix(struct model *m, uint64_t upto)
{
    struct eb_trim_request request = {.acked_ms = -1, .max_rows = 4000};
    uint64_t kept = 0;
    for (uint64_t seq = upto + 1; seq < m->fx->next_seq; seq++)
        kept += m->ts[seq] != 0;
    request.max_events = kept;
    while (fx_trim(m->fx, request).more)
        ;
    for (uint64_t seq = 1; seq <= upto; seq++)
        m->ts[seq] = 0;
}

static void delete_singly(struct model *m, unsigned count)
{
    struct log_fixture *fx = m->fx;
    fx_begin(fx);
    for (unsigned i = 0; i < count; i++) {
        uint64_t seq = 1 + below(fx->next_seq - 1);
        assert_int_equal(fx->engine->ops->ack(fx->engine, seq, fx->now - 1000), 0);
        m->ts[seq] = 0;
    }
    fx_commit(fx);
    while (fx_trim(fx, (struct eb_trim_request){.acked_ms = 10, .max_rows = 4000}).more)
        ;
}

/* ---- how many match ---- */

static uint64_t by_index(struct model *m, struct eb_selection *s, uint64_t from, uint64_t upto)
{
    uint64_t n = 0;
    assert_int_equal(m->fx->engine->ops->count(m->fx->engine, m->fx->reader, s, from, upto, &n), 0);
    return n;
}

/* Those that are there, and those that ever were in the part that is not deleted as a prefix. */
static void by_scan(struct model *m, struct eb_selection *s, uint64_t from, uint64_t upto,
                    uint64_t *ret_there, uint64_t *ret_ever)
{
    uint64_t deleted = fx_figures(m->fx).deleted_upto;
    *ret_there = *ret_ever = 0;
    for (uint64_t seq = from > deleted ? from : deleted + 1; seq <= upto; seq++) {
        bool match = eb_selection_match(s, m->topic[seq], strlen(m->topic[seq]));
        *ret_there += match && m->ts[seq];
        *ret_ever += match;
    }
}

static void compare_counts(struct model *m)
{
    static const char *const patterns[] = {"a.b", "a.*", "#",       "rare", "no.such",
                                           "*",   "a.#", "$dead.*", "*.c"};
    for (size_t p = 0; p < sizeof(patterns) / sizeof(*patterns); p++) {
        struct eb_selection *s = fx_select(patterns[p]);
        for (int i = 0; i < 20; i++) {
            uint64_t from = i ? 1 + below(MODEL - 1) : 1;
            uint64_t upto = i < 2 ? MODEL - 1 : from + below(MODEL - from), there, ever;
            uint64_t n = by_index(m, s, from, upto);
            by_scan(m, s, from, upto, &there, &ever);
            if (n < there || n > ever)
                fail_msg("%s %llu-%llu: %llu, a scan finds %llu of %llu", patterns[p],
                         (unsigned long long)from, (unsigned long long)upto, (unsigned long long)n,
                         (unsigned long long)there, (unsigned long long)ever);
        }
        eb_selection_destroy(s);
    }
}

/* The index counts what a scan counts; of what was deleted singly it may count all or none. */
static void counts_are_those_of_a_scan(void **state)
{
    struct model *m = *state;
    compare_counts(m);
    delete_prefix(m, 30000);
    compare_counts(m);
    delete_singly(m, 5000);
    compare_counts(m);
    delete_prefix(m, 90000); /* a whole segment and a part of the next */
    compare_counts(m);
}

/* Counting reads lists, not rows: a rare topic costs a few pages and a whole log no row. */
static void counting_reads_no_rows(void **state)
{
    struct model *m = *state;
    static const char *const patterns[] = {"rare", "a.*", "#"};
    for (int p = 0; p < 3; p++) {
        struct eb_selection *s = fx_select(patterns[p]);
        by_index(m, s, 1, MODEL - 1); /* its topics are known from now on */
        uint64_t pages = atomic_load(&m->fx->counters.pages_read);
        uint64_t rows = atomic_load(&m->fx->counters.rows_read);
        by_index(m, s, 1, MODEL - 1);
        assert_int_equal(atomic_load(&m->fx->counters.rows_read), rows);
        assert_true(atomic_load(&m->fx->counters.pages_read) - pages < 40);
        by_index(m, s, 70000, MODEL - 1); /* from the middle of a segment: its lists, whole */
        assert_int_equal(atomic_load(&m->fx->counters.rows_read), rows);
        assert_true(atomic_load(&m->fx->counters.pages_read) - pages < 160);
        eb_selection_destroy(s);
    }
}

/* A list that fails its checksum hides nothing: its rows are counted. */
static void a_damaged_list_is_counted_by_its_rows(void **state)
{
    struct model *m = *state;
    fx_sql(m->fx, "UPDATE postings SET seqs = zeroblob(length(seqs)) WHERE segment = 1 AND topic ="
                  " (SELECT id FROM topics WHERE name = 'a.c')");
    struct eb_selection *s = fx_select("a.c");
    uint64_t there, ever;
    by_scan(m, s, 70000, 120000, &there, &ever);
    assert_int_equal(by_index(m, s, 70000, 120000), there);
    eb_selection_destroy(s);
}

/* ---- the first one of a time ---- */

static uint64_t first_at(struct model *m, int64_t time)
{
    uint64_t seq = 0;
    assert_int_equal(m->fx->engine->ops->first_at(m->fx->engine, m->fx->reader, time, &seq), 0);
    return seq;
}

static void compare_times(struct model *m)
{
    int64_t start = 0;
    for (uint64_t seq = 1; !start; seq++)
        start = m->ts[seq];
    for (int i = 0; i < 200; i++) {
        int64_t time = i ? start + (int64_t)below((uint64_t)(m->fx->now - start) + 10) : 0;
        uint64_t want = 1;
        while (want < MODEL && (!m->ts[want] || m->ts[want] < time))
            want++;
        assert_int_equal(first_at(m, time), want < MODEL ? want : UINT64_MAX);
    }
    assert_int_equal(first_at(m, INT64_MAX), UINT64_MAX);
}

/* A time is found as a scan finds it, with holes and without a beginning; it takes some looks, not all. */
static void a_time_is_found_with_few_looks(void **state)
{
    struct model *m = *state;
    compare_times(m);
    delete_singly(m, 20000);
    delete_prefix(m, 40000);
    compare_times(m);
    uint64_t rows = atomic_load(&m->fx->counters.rows_read);
    first_at(m, m->ts[140000] ? m->ts[140000] : m->fx->now);
    assert_true(atomic_load(&m->fx->counters.rows_read) - rows <= 20);
}

/* A row that is damaged says nothing about its time. */
static void a_damaged_row_leads_no_search_astray(void **state)
{
    struct model *m = *state;
    fx_sql(m->fx, "UPDATE log SET ts = 1 WHERE seq % 1000 < 500");
    for (uint64_t seq = 1; seq < MODEL; seq++)
        if (seq % 1000 < 500)
            m->ts[seq] = 0;
    for (int i = 0; i < 20; i++) {
        uint64_t seq = 500 + 1000 * below(140);
        int64_t time = m->ts[seq];
        while (seq > 1 && (!m->ts[seq - 1] || m->ts[seq - 1] >= time))
            seq--;
        while (!m->ts[seq])
            seq++;
        assert_int_equal(first_at(m, time), seq);
    }
}

/* ---- several events ---- */

/* Each gets its own answer; it ends behind the event that fills it, and one is always given. */
static void several_events_have_an_answer_each(void **state)
{
    struct model *m = *state;
    const uint64_t seqs[] = {7, 100000, 3, 66000, 8};
    struct eb_event *events[5];
    int errs[5];
    fx_sql(m->fx, "DELETE FROM log WHERE seq = 3; UPDATE log SET payload = 'x' WHERE seq = 66000");
    const struct eb_engine_ops *ops = m->fx->engine->ops;
    assert_int_equal(ops->events(m->fx->engine, m->fx->reader, seqs, 5, 1 << 20, events, errs), 5);
    assert_int_equal(errs[0], 0);
    assert_int_equal(events[0]->seq, 7);
    assert_int_equal(events[1]->seq, 100000);
    assert_int_equal(errs[2], -ENOENT);
    assert_int_equal(errs[3], -EBADMSG);
    assert_null(events[3]);
    assert_int_equal(events[4]->seq, 8);
    for (int i = 0; i < 5; i++)
        eb_event_unref(events[i]);
    assert_int_equal(ops->events(m->fx->engine, m->fx->reader, seqs, 5, 1, events, errs), 1);
    eb_event_unref(events[0]);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(counts_are_those_of_a_scan),
        T(counting_reads_no_rows),
        T(a_damaged_list_is_counted_by_its_rows),
        T(a_time_is_found_with_few_looks),
        T(a_damaged_row_leads_no_search_astray),
        T(several_events_have_an_answer_each),
    };
    return cmocka_run_group_tests_name("seek", tests, NULL, NULL);
}
