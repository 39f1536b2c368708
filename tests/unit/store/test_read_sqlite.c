/*
 * test_read_sqlite.c - the ways through the log give the same events; a rare topic costs few pages; damage is
 * stepped over; the WAL stays short whatever readers do.
 *
 * EB_TEST_FULL=1: the rare topic in a log of 5,000,000.
 */
#include <fcntl.h>
#include <pthread.h>

#include "broker/store/sqlite_internal.h"
#include "sqlite_fixture.h"

static int setup(void **state)
{
    struct log_fixture *fx = malloc(sizeof(*fx));

    fx_init(fx);
    fx->config.durability = EB_DURABILITY_OS; /* these are not about power cuts */
    *state = fx;
    return 0;
}

static int teardown(void **state)
{
    fx_finish(*state);
    free(*state);
    return 0;
}

static uint64_t random_state = 42;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 11) % n;
}

/* Topics with very different frequencies: "t0.w" is half of all, "t15.w" is rare. */
static void random_topic(char out[32])
{
    unsigned n = 0;

    while (n < 15 && random_below(2))
        n++;
    snprintf(out, 32, "t%u.%c", n, "wxyz"[random_below(4)]);
}

#define MODEL_MAX 300000
struct model {
    struct log_fixture *fx;
    char (*topics)[32]; /* by seq; "" deleted */
};

static void fill(struct model *m, unsigned count)
{
    char topic[32];

    while (count) {
        fx_begin(m->fx);
        for (unsigned i = 0; i < 4096 && count; i++, count--) {
            random_topic(topic);
            uint64_t seq = fx_append(m->fx, topic, "payload", 0);
            assert_true(seq < MODEL_MAX);
            strcpy(m->topics[seq], topic);
        }
        fx_commit(m->fx);
    }
}

/* Read @patterns by pages of random size from a random place; compare with the model. */
static void compare(struct model *m, struct eb_selection *selection, uint64_t from)
{
    uint64_t last = m->fx->next_seq - 1, want = from;
    struct eb_page_request request = {.from = from, .upto = last, .all_there_is = true};

    while (request.from <= last) {
        request.max_events = 1 + random_below(500);
        request.max_bytes = 1 << 20;
        struct eb_page page = fx_page(m->fx, selection, &request);
        for (size_t i = 0; i < page.count; i++) {
            const struct eb_event *event = page.items[i].event;
            assert_non_null(event);
            for (; want < event->seq; want++)
                assert_false(m->topics[want][0] && eb_selection_match(selection, m->topics[want],
                                                                      strlen(m->topics[want])));
            assert_string_equal(event->topic, m->topics[want]);
            want++;
        }
        assert_true(page.next > request.from || page.count == 0);
        request.from = page.next;
        eb_page_finish(&page);
    }
    for (; want <= last; want++)
        assert_false(m->topics[want][0] &&
                     eb_selection_match(selection, m->topics[want], strlen(m->topics[want])));
}

/* Delete some alone and a prefix, in the file and in the model. */
static void delete_some(struct model *m, uint64_t prefix, unsigned single)
{
    struct log_fixture *fx = m->fx;

    fx_begin(fx);
    for (unsigned i = 0; i < single; i++) {
        uint64_t seq = prefix + random_below((uint32_t)(fx->next_seq - prefix));
        assert_int_equal(fx->engine->ops->ack(fx->engine, seq, fx->now - 1000), 0);
        m->topics[seq][0] = '\0';
    }
    fx_commit(fx);
    while (fx_trim(fx, (struct eb_trim_request){.acked_ms = 10, .max_rows = 4000}).more)
        ;
    uint64_t kept = 0;
    for (uint64_t seq = prefix; seq < fx->next_seq; seq++)
        kept += m->topics[seq][0] != '\0';
    for (uint64_t seq = 0; seq < prefix; seq++)
        m->topics[seq][0] = '\0';
    while (
        fx_trim(fx, (struct eb_trim_request){.acked_ms = -1, .max_rows = 4000, .max_events = kept})
            .more)
        ;
    assert_int_equal(fx_figures(fx).events, kept);
}

static int64_t scalar(struct log_fixture *fx, const char *sql)
{
    int64_t value = -1;

    assert_int_equal(eb_sql_int(eb_sqlite_of(fx->engine)->db, sql, 0, &value), 0);
    return value;
}

static const char *const patterns[] = {"t0.w", "t0.*", "t3.#", "*.x", "#.y",  "t12.z",  "t15.*",
                                       "t9.w", "#",    "t#",   "t1",  "t7.*", "no.such"};

static void compare_all(struct model *m)
{
    for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++) {
        struct eb_pattern parsed;
        struct eb_error err;
        if (eb_pattern_parse(&parsed, patterns[i], strlen(patterns[i]), &err) < 0)
            continue;
        struct eb_selection *selection = fx_select(patterns[i]);
        compare(m, selection, 1);
        compare(m, selection, 1 + random_below((uint32_t)m->fx->next_seq - 1));
        eb_selection_destroy(selection);
    }
}

/* Whatever the pattern, page size, deletions and restarts: lists and memory find what a scan finds. */
static void lists_find_what_a_scan_finds(void **state)
{
    struct log_fixture *fx = *state;
    struct model m = {.fx = fx, .topics = calloc(MODEL_MAX, sizeof(*m.topics))};

    fx_open(fx);
    fill(&m, 150000);
    assert_int_equal(scalar(fx, "SELECT count(*) FROM segments"), 2);
    compare_all(&m);
    delete_some(&m, 70000, 500);
    assert_int_equal(scalar(fx, "SELECT min(segment) FROM segments"), 1);
    assert_int_equal(scalar(fx, "SELECT min(segment) FROM postings"), 1);
    compare_all(&m);
    fx_close(fx);
    fx_open(fx);
    assert_int_equal(fx_figures(fx).events, scalar(fx, "SELECT count(*) FROM log"));
    assert_int_equal(fx_figures(fx).bytes, scalar(fx, "SELECT sum(" EB_ROW_BYTES_SQL ") FROM log"));
    fill(&m, 60000);
    compare_all(&m);
    delete_some(&m, 200000, 100);
    assert_int_equal(fx_figures(fx).bytes, scalar(fx, "SELECT sum(" EB_ROW_BYTES_SQL ") FROM log"));
    compare_all(&m);
    free(m.topics);
}

/* A segment's end inside a transaction that fails leaves no list and no figure behind. */
static void rollback_across_a_segment(void **state)
{
    struct log_fixture *fx = *state;
    struct model m = {.fx = fx, .topics = calloc(MODEL_MAX, sizeof(*m.topics))};

    fx_open(fx);
    fill(&m, 65530);
    fx_begin(fx);
    for (int i = 0; i < 20; i++)
        fx_append(fx, "lost", "payload", 0);
    fx->engine->ops->rollback(fx->engine);
    fx->next_seq = 65531;
    assert_int_equal(scalar(fx, "SELECT count(*) FROM segments"), 0);
    assert_int_equal(fx_figures(fx).events, 65530);
    fill(&m, 20);
    assert_int_equal(scalar(fx, "SELECT count(*) FROM segments"), 1);
    assert_int_equal(fx_figures(fx).events, 65550);
    compare_all(&m);
    free(m.topics);
}

/* A list whose bytes changed hides nothing: the segment is read row by row instead. */
static void damaged_list_hides_nothing(void **state)
{
    struct log_fixture *fx = *state;
    struct model m = {.fx = fx, .topics = calloc(MODEL_MAX, sizeof(*m.topics))};

    fx_open(fx);
    fill(&m, 70000);
    fx_sql(fx, "UPDATE postings SET seqs = substr(seqs, 3) WHERE topic % 2;"
               "UPDATE postings SET seqs = x'ffff' WHERE topic % 2 = 0");
    compare_all(&m);
    free(m.topics);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LONG_LOG 140000 /* still three segments */
#else
#define LONG_LOG 300000
#endif

/* 100 events of one topic in a long log: no more than ten pages each are read. */
static void rare_topic_reads_few_pages(void **state)
{
    struct log_fixture *fx = *state;
    unsigned total = getenv("EB_TEST_FULL") ? 5000000 : LONG_LOG, rare = 0, found = 0;
    char topic[32], payload[129];

    memset(payload, 'x', 128);
    payload[128] = '\0';
    fx_open(fx);
    for (unsigned done = 0; done < total;) {
        fx_begin(fx);
        for (unsigned i = 0; i < 4096 && done < total; i++, done++) {
            snprintf(topic, sizeof(topic), "usual.%u", done % 100);
            bool is_rare = done % (total / 100) == total / 200;
            rare += is_rare;
            fx_append(fx, is_rare ? "rare.one" : topic, payload, 0);
        }
        fx_commit(fx);
    }
    assert_int_equal(rare, 100);
    fx_close(fx);
    fx_open(fx);
    struct eb_selection *selection = fx_select("rare.*");
    uint64_t before = atomic_load(&fx->counters.pages_read);
    struct eb_page_request request = {
        .from = 1, .upto = total, .max_events = 100, .max_bytes = 1 << 20};
    while (request.from <= total) {
        struct eb_page page = fx_page(fx, selection, &request);
        found += (unsigned)page.count;
        request.from = page.next;
        eb_page_finish(&page);
    }
    eb_selection_destroy(selection);
    assert_int_equal(found, 100);
    uint64_t pages = atomic_load(&fx->counters.pages_read) - before;
    print_message("%u events: %llu pages read for 100\n", total, (unsigned long long)pages);
    assert_true(pages <= 1000);
}

/* A flood of topics ends in `many` and bounded memory, and still finds the rare one among them. */
static void topic_flood_is_bounded(void **state)
{
    struct log_fixture *fx = *state;
    char topic[32], text[64];

    fx_open(fx);
    for (unsigned i = 0; i < 100000; i++) {
        if (i % 4096 == 0)
            fx_begin(fx);
        snprintf(topic, sizeof(topic), "flood.%u.%s", i, i == 77777 ? "rare" : "usual");
        fx_append(fx, topic, "", 0);
        if (i % 4096 == 4095 || i == 99999)
            fx_commit(fx);
    }
    fx_replay(fx, "flood.*.rare", 1, true, text, sizeof(text));
    assert_string_equal(text, "77778 ");
    fx_replay(fx, "flood.77777.#", 1, true, text, sizeof(text));
    assert_string_equal(text, "77778 ");
    fx_replay(fx, "#.rare", 1, true, text, sizeof(text));
    assert_string_equal(text, "77778 ");
    struct eb_selection *selection = fx_select("flood.#");
    unsigned found = 0;
    struct eb_page_request request = {
        .from = 1, .upto = 100000, .max_events = 10000, .max_bytes = 64 << 20};
    while (request.from <= 100000) {
        struct eb_page page = fx_page(fx, selection, &request);
        found += (unsigned)page.count;
        request.from = page.next;
        eb_page_finish(&page);
    }
    assert_int_equal(found, 100000);
    assert_true(selection->many);
    eb_selection_destroy(selection);
}

/* ---- damage ---- */

static void overwrite(const char *path, int64_t page, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, len, (page - 1) * 4096), len);
    close(fd);
}

/* Leaves of the log that cannot be read are stepped over; what lies around them is given. */
static void unreadable_leaf_is_stepped_over(void **state)
{
    struct log_fixture *fx = *state;
    char zeroes[4096] = {0}, payload[201];
    int64_t pages[3];
    unsigned gaps = 0, events = 0;
    uint64_t want = 1;

    memset(payload, 'x', 200);
    payload[200] = '\0';
    fx_open(fx);
    fx_begin(fx);
    for (int i = 0; i < 20000; i++)
        fx_append(fx, "a", payload, 0);
    fx_commit(fx);
    fx_close(fx);
    fx_open(fx);
    for (int i = 0; i < 3; i++) {
        char sql[200];
        snprintf(sql, sizeof(sql),
                 "SELECT pageno FROM dbstat WHERE name = 'log' AND pagetype = 'leaf' ORDER BY path"
                 " LIMIT 1 OFFSET %d",
                 i == 2 ? 500 : 100 + i);
        pages[i] = scalar(fx, sql);
    }
    for (int i = 0; i < 3; i++)
        overwrite(fx->path, pages[i], zeroes, sizeof(zeroes));
    fx->engine->ops->reader_destroy(fx->engine, fx->reader);
    assert_int_equal(fx->engine->ops->reader_create(fx->engine, &fx->reader), 0);
    struct eb_selection *selection = fx_select("#");
    struct eb_page_request request = {
        .from = 1, .upto = 20000, .max_events = 300, .max_bytes = 1 << 20};
    while (request.from <= 20000) {
        struct eb_page page = fx_page(fx, selection, &request);
        for (size_t i = 0; i < page.count; i++) {
            const struct eb_page_item *item = &page.items[i];
            if (item->event) {
                assert_int_equal(item->event->seq, want);
                want++;
                events++;
            } else {
                assert_int_equal(item->reason, EB_GAP_DAMAGED);
                assert_int_equal(item->from_seq, want);
                want = item->to_seq + 1;
                gaps++;
            }
        }
        request.from = page.next;
        eb_page_finish(&page);
    }
    assert_int_equal(want, 20001);
    assert_int_equal(gaps, 2); /* the first two leaves are neighbours */
    assert_true(events > 19900);
    eb_selection_destroy(selection);
}

/* ---- the WAL ---- */

struct endless {
    struct log_fixture *fx;
    void *reader;
    atomic_bool stop;
    _Atomic uint64_t upto;
    unsigned pages;
};

static void *read_endlessly(void *arg)
{
    struct endless *endless = arg;
    struct eb_engine *engine = endless->fx->engine;
    struct eb_selection *selection = fx_select("#");
    uint64_t from = 1;

    while (!atomic_load(&endless->stop)) {
        uint64_t upto = atomic_load(&endless->upto);
        struct eb_page_request request = {.from = from <= upto ? from : 1,
                                          .upto = upto,
                                          .max_events = 1000,
                                          .max_bytes = 1 << 20};
        struct eb_page page = {0};
        if (upto == 0 || engine->ops->page(engine, endless->reader, selection, &request, &page) < 0)
            continue;
        from = page.next;
        endless->pages++;
        eb_page_finish(&page);
    }
    eb_selection_destroy(selection);
    return NULL;
}

/* Readers that never pause do not let the WAL grow: the gate gives checkpoints their moment. */
static void wal_is_bounded_under_endless_readers(void **state)
{
    struct log_fixture *fx = *state;
    struct endless endless[3];
    pthread_t threads[3];
    uint64_t largest = 0;
    char payload[513];

    memset(payload, 'x', 512);
    payload[512] = '\0';
    fx_open(fx);
    for (int i = 0; i < 3; i++) {
        endless[i] = (struct endless){.fx = fx};
        assert_int_equal(fx->engine->ops->reader_create(fx->engine, &endless[i].reader), 0);
        pthread_create(&threads[i], NULL, read_endlessly, &endless[i]);
    }
    for (int group = 0; group < 400; group++) {
        fx_begin(fx);
        for (int i = 0; i < 256; i++)
            fx_append(fx, "a", payload, 0);
        fx_commit(fx);
        for (int i = 0; i < 3; i++)
            atomic_store(&endless[i].upto, fx->next_seq - 1);
        if (fx_figures(fx).wal_bytes > largest)
            largest = fx_figures(fx).wal_bytes;
    }
    for (int i = 0; i < 3; i++) {
        atomic_store(&endless[i].stop, true);
        pthread_join(threads[i], NULL);
        fx->engine->ops->reader_destroy(fx->engine, endless[i].reader);
    }
    print_message("largest WAL: %llu KiB, checkpoints: %llu\n", (unsigned long long)largest / 1024,
                  (unsigned long long)atomic_load(&fx->counters.checkpoints));
    /* 100,000 events are more than 60 MB; 8,000 frames are 32 MB. */
    assert_true(largest < 33 << 20);
}

static void write_groups(struct log_fixture *fx, int groups)
{
    char payload[2049];

    memset(payload, 'x', 2048);
    payload[2048] = '\0';
    for (int group = 0; group < groups; group++) {
        fx_begin(fx);
        for (int i = 0; i < 256; i++)
            fx_append(fx, "a", payload, 0);
        fx_commit(fx);
    }
}

/* A read that another process forgot: it is counted, nobody waits for it for long, and after it all is as before. */
static void a_forgotten_reader_is_counted_and_outlived(void **state)
{
    struct log_fixture *fx = *state;
    sqlite3 *other;

    fx_open(fx);
    write_groups(fx, 1);
    assert_int_equal(sqlite3_open(fx->path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN; SELECT count(*) FROM messages", NULL, NULL, NULL),
                     SQLITE_OK);
    write_groups(fx, 100); /* some 50 MB */
    uint64_t held = atomic_load(&fx->counters.checkpoints_held), grown = fx_figures(fx).wal_bytes;
    assert_true(held > 0);
    assert_true(grown > 33 << 20);
    assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    write_groups(fx, 200);
    assert_int_equal(atomic_load(&fx->counters.checkpoints_held), held);
    assert_true(fx_figures(fx).wal_bytes <
                grown + (16 << 20)); /* written from its beginning again */
}

/* Deleting most of the log gives most of the file back, in bounded steps. */
static void tidy_gives_space_back(void **state)
{
    struct log_fixture *fx = *state;
    char payload[1025];
    unsigned steps = 0;
    bool more = true;

    memset(payload, 'x', 1024);
    payload[1024] = '\0';
    fx_open(fx);
    fx_begin(fx);
    for (int i = 0; i < 8000; i++)
        fx_append(fx, "a", payload, 0);
    fx_commit(fx);
    int64_t before = scalar(fx, "PRAGMA page_count");
    while (fx_trim(fx, (struct eb_trim_request){.acked_ms = -1, .max_events = 100}).more)
        ;
    while (more) {
        assert_int_equal(fx->engine->ops->tidy(fx->engine, &more), 0);
        assert_true(++steps < 1000);
    }
    int64_t after = scalar(fx, "PRAGMA page_count");
    assert_true(before > 2000);
    assert_true(after < 500);
    assert_int_equal(fx_figures(fx).events, 100);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(lists_find_what_a_scan_finds),
        T(rollback_across_a_segment),
        T(damaged_list_hides_nothing),
        T(rare_topic_reads_few_pages),
        T(topic_flood_is_bounded),
        T(unreadable_leaf_is_stepped_over),
        T(wal_is_bounded_under_endless_readers),
        T(a_forgotten_reader_is_counted_and_outlived),
        T(tidy_gives_space_back),
    };

    return cmocka_run_group_tests_name("read_sqlite", tests, NULL, NULL);
}
