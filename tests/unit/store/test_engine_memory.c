/* test_engine_memory.c - the ring: pages, what falls off, what is deleted alone. */
#include "fixture.h"

#include "common/clock.h"

static int setup(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    *state = fx;
    if (!fx)
        return -1;
    fx->wall = eb_wall_ms(); /* the ring's readers expire by the real clock */
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fx = *state;
    eb_store_close(fx->store);
    free(fx);
    return 0;
}

static void fill(struct fixture *fx, unsigned from, unsigned to)
{
    static const char *const topics[] = {"user.created", "user.deleted", "order.paid"};
    for (unsigned n = from; n <= to; n++)
        assert_int_equal(n, seq_of(publish(fx, n, topics[n % 3], "payload")));
}

static bool janitor(struct fixture *fx)
{
    bool more;
    eb_lock_take(&fx->store->commit_lock);
    eb_janitor_step_locked(fx->store, &more);
    eb_lock_drop(&fx->store->commit_lock);
    return more;
}

/* Pages bounded by events give every match once, in order, whatever the bound. */
static void pages_join_without_gap_or_repeat(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    fill(fx, 1, 1000);
    for (size_t bound = 1; bound < 300; bound = bound * 3 + 1) {
        uint64_t next = 1, last = 0;
        size_t got = 0;
        while (next <= 1000) {
            struct eb_page page =
                page_of(fx, "user.*",
                        (struct eb_page_request){.from = next, .upto = 1000, .max_events = bound});
            assert_true(page.next > next);
            assert_true(page.count <= bound);
            for (size_t i = 0; i < page.count; i++) {
                struct eb_event *event = page.items[i].event;
                assert_true(event->seq > last && event->seq < page.next);
                assert_memory_equal("user.", event->topic, 5);
                last = event->seq;
                got++;
            }
            next = page.next;
            eb_page_finish(&page);
        }
        assert_int_equal(1001, next);
        assert_int_equal(667, got);
    }
}

/* At least one event however small max_bytes is, and no event more than fits. */
static void bytes_bound_a_page(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    fill(fx, 1, 10);
    struct eb_page page = page_of(fx, "#", (struct eb_page_request){.from = 1, .max_bytes = 1});
    assert_int_equal(1, page.count);
    assert_int_equal(2, page.next);
    size_t size = eb_event_size(page.items[0].event);
    eb_page_finish(&page);
    page = page_of(fx, "#", (struct eb_page_request){.from = 1, .max_bytes = size * 5});
    assert_true(page.count >= 4 && page.count <= 5);
    assert_int_equal(page.count + 1, page.next);
    eb_page_finish(&page);
}

/* No page looks past what is committed, nor at nothing. */
static void pages_end_at_the_commit(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    struct eb_page page = page_of(fx, "#", (struct eb_page_request){.from = 1});
    assert_int_equal(0, page.count);
    assert_int_equal(1, page.next);
    eb_page_finish(&page);
    fill(fx, 1, 3);
    page = page_of(fx, "#", (struct eb_page_request){.from = 2});
    assert_int_equal(2, page.count);
    assert_int_equal(4, page.next);
    eb_page_finish(&page);
}

/* A reserved topic is reached by its first word only. */
static void reserved_topics_need_their_name(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "_reply.x", "1")));
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "2")));
    struct eb_page page = page_of(fx, "#", (struct eb_page_request){.from = 1});
    assert_int_equal(1, page.count);
    assert_int_equal(2, page.items[0].event->seq);
    eb_page_finish(&page);
    page = page_of(fx, "_reply.#", (struct eb_page_request){.from = 1});
    assert_int_equal(1, page.count);
    assert_int_equal(1, page.items[0].event->seq);
    eb_page_finish(&page);
}

/* What fell off is an overflow gap up to the first that is there; a start from 0 or 1 gets none. */
static void overflow_is_a_gap(void **state)
{
    struct fixture *fx = *state;
    fx->config.memory_bytes = 32 << 10;
    fx_open(fx);
    fill(fx, 1, 1000);
    struct eb_store_info info;
    eb_store_info(fx->store, &info);
    assert_int_equal(1000, info.last_seq);
    assert_true(info.first_seq > 100 && info.first_seq < 1000);
    assert_int_equal(info.first_seq - 1, info.deleted_upto);
    assert_int_equal(1001 - info.first_seq, info.events);
    assert_true(info.bytes <= fx->config.memory_bytes);
    assert_int_equal(3, info.topics);

    struct eb_page page = page_of(fx, "#", (struct eb_page_request){.from = 5});
    assert_int_equal(EB_GAP_OVERFLOW, page.items[0].reason);
    assert_null(page.items[0].event);
    assert_int_equal(5, page.items[0].from_seq);
    assert_int_equal(info.first_seq - 1, page.items[0].to_seq);
    assert_int_equal(info.first_seq, page.items[1].event->seq);
    assert_int_equal(info.events + 1, page.count);
    eb_page_finish(&page);
    page = page_of(fx, "#", (struct eb_page_request){.from = 1, .all_there_is = true});
    assert_int_equal(info.first_seq, page.items[0].event->seq);
    eb_page_finish(&page);
    /* A page speaks of no more than it was asked for. */
    page = page_of(fx, "#", (struct eb_page_request){.from = 5, .upto = 9});
    assert_int_equal(1, page.count);
    assert_int_equal(9, page.items[0].to_seq);
    assert_int_equal(10, page.next);
    eb_page_finish(&page);
}

/* One event larger than the ring is kept until the next one comes. */
static void newest_stays_however_large(void **state)
{
    struct fixture *fx = *state;
    fx->config.memory_bytes = 1000;
    fx_open(fx);
    char *large = malloc(5001);
    memset(large, 'x', 5000);
    large[5000] = '\0';
    assert_int_equal(1, seq_of(publish(fx, 1, "a", large)));
    struct eb_page page = page_of(fx, "#", (struct eb_page_request){.from = 1});
    assert_int_equal(1, page.count);
    eb_page_finish(&page);
    assert_int_equal(2, seq_of(publish(fx, 2, "b", "small")));
    page = page_of(fx, "#", (struct eb_page_request){.from = 1});
    assert_int_equal(2, page.count);
    assert_int_equal(EB_GAP_OVERFLOW, page.items[0].reason);
    assert_int_equal(2, page.items[1].event->seq);
    eb_page_finish(&page);
    free(large);
}

/* Past its ttl an event is not given, makes no gap, and is deleted. */
static void expired_makes_no_gap(void **state)
{
    struct fixture *fx = *state;
    fx->wall -= 10000; /* ten seconds ago */
    fx_open(fx);
    for (unsigned n = 1; n <= 6; n++) {
        struct act *act = publish(fx, n, "a", "x");
        act->events[0]->ttl = n % 2 ? 5 : 0;
        assert_int_equal(n, seq_of(act));
    }
    struct eb_page page = page_of(fx, "#", (struct eb_page_request){.from = 1});
    assert_int_equal(3, page.count);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(2 * (i + 1), page.items[i].event->seq);
    assert_int_equal(7, page.next);
    eb_page_finish(&page);
    fx->wall += 10000;
    assert_false(janitor(fx));
    struct eb_store_info info;
    struct eb_store_counters counters;
    eb_store_info(fx->store, &info);
    eb_store_counters(fx->store, &counters);
    assert_int_equal(3, counters.expired);
    assert_int_equal(3, info.events);
    assert_int_equal(2, info.first_seq);
    assert_int_equal(0, info.deleted_upto);
    page = page_of(fx, "#", (struct eb_page_request){.from = 1});
    assert_int_equal(3, page.count);
    assert_non_null(page.items[0].event);
    eb_page_finish(&page);
}

/* Deleted by age, count or size: a retention gap. */
static void retention_is_a_gap(void **state)
{
    struct fixture *fx = *state;
    struct eb_store_info info;
    fx->config.retention_age_ms = 60000;
    fx_open(fx);
    fill(fx, 1, 10);
    fx->wall += 30000;
    fill(fx, 11, 20);
    fx->wall += 30000;
    while (janitor(fx))
        ;
    struct eb_page page = page_of(fx, "#", (struct eb_page_request){.from = 3});
    assert_int_equal(EB_GAP_RETENTION, page.items[0].reason);
    assert_int_equal(3, page.items[0].from_seq);
    assert_int_equal(10, page.items[0].to_seq);
    assert_int_equal(11, page.count);
    eb_page_finish(&page);
    struct eb_store_config config = fx->config;
    config.retention_age_ms = 0;
    config.retention_events = 4;
    eb_store_reconfigure(fx->store, &config);
    while (janitor(fx))
        ;
    eb_store_info(fx->store, &info);
    assert_int_equal(17, info.first_seq);
    assert_int_equal(16, info.deleted_upto);
    config.retention_events = 0;
    config.retention_bytes = info.bytes / 2;
    eb_store_reconfigure(fx->store, &config);
    while (janitor(fx))
        ;
    eb_store_info(fx->store, &info);
    assert_int_equal(19, info.first_seq);
}

/* Acknowledged: passed over by pending_only alone; deleted when acked_retention is over; no gap. */
static void acknowledged_is_passed_over_and_deleted(void **state)
{
    struct fixture *fx = *state;
    fx->config.acked_retention_ms = 1000;
    fx_open(fx);
    fill(fx, 1, 4);
    assert_int_equal(EB_OK, code_of(ack_new(fx, 2)));
    struct eb_page page =
        page_of(fx, "#", (struct eb_page_request){.from = 1, .pending_only = true});
    assert_int_equal(3, page.count);
    assert_int_equal(3, page.items[1].event->seq);
    eb_page_finish(&page);
    janitor(fx);
    page = page_of(fx, "#", (struct eb_page_request){.from = 1});
    assert_int_equal(4, page.count);
    eb_page_finish(&page);
    fx->wall += 1000;
    janitor(fx);
    page = page_of(fx, "#", (struct eb_page_request){.from = 1});
    assert_int_equal(3, page.count);
    assert_int_equal(3, page.items[1].event->seq);
    eb_page_finish(&page);
}

/* Topics live as long as an event has them, and come in byte order, page by page. */
static void topics_follow_their_events(void **state)
{
    struct fixture *fx = *state;
    struct eb_reader *reader;
    struct eb_topic_info out[4];
    fx->config.retention_events = 2;
    fx_open(fx);
    fill(fx, 1, 7);
    assert_int_equal(0, eb_reader_create(fx->store, &reader));
    assert_int_equal(2, eb_reader_topics(reader, NULL, out, 2));
    assert_string_equal("order.paid", out[0].name);
    assert_string_equal("user.created", out[1].name);
    assert_int_equal(1, eb_reader_topics(reader, "user.created", out, 4));
    assert_string_equal("user.deleted", out[0].name);
    janitor(fx); /* leaves 6 and 7 */
    assert_int_equal(2, eb_reader_topics(reader, NULL, out, 4));
    assert_string_equal("user.created", out[0].name);
    struct eb_event *event;
    assert_int_equal(-ENOENT, eb_reader_event(reader, 5, &event));
    assert_int_equal(-ENOENT, eb_reader_event(reader, 8, &event));
    assert_int_equal(0, eb_reader_event(reader, 7, &event));
    assert_int_equal(7, event->seq);
    eb_event_unref(event);
    eb_reader_destroy(reader);
}

/* ---- against a plain list ---- */

#define MODEL_MAX 12000

struct model_event {
    bool there, acked;
    unsigned topic;
};

/* A page of the ring is what the list has from there on: same events, same end, gaps only before deleted_upto. */
static void assert_page_as_listed(struct fixture *fx, const struct model_event *list, uint64_t last,
                                  unsigned *seed)
{
    struct eb_engine_figures figures;
    struct eb_page_request request = {
        .from = 1 + (unsigned)rand_r(seed) % last,
        .upto = last,
        .max_events = 1 + (unsigned)rand_r(seed) % 300,
        .pending_only = rand_r(seed) % 2,
    };
    fx->inner->ops->figures(fx->inner, &figures);
    struct eb_page page = page_of(fx, "t.1", request);
    uint64_t seq = request.from, next = page.next;
    for (size_t i = 0; i < page.count; i++) {
        if (!page.items[i].event) {
            assert_int_equal(seq, page.items[i].from_seq);
            assert_true(page.items[i].to_seq <= figures.deleted_upto);
            seq = page.items[i].to_seq + 1;
            continue;
        }
        for (; seq < page.items[i].event->seq; seq++)
            assert_false(list[seq].there && list[seq].topic == 1 &&
                         !(request.pending_only && list[seq].acked));
        assert_true(list[seq].there && list[seq].topic == 1);
        seq++;
    }
    for (; seq < next; seq++)
        assert_false(list[seq].there && list[seq].topic == 1 &&
                     !(request.pending_only && list[seq].acked));
    assert_true(next > request.from && next <= last + 1);
    eb_page_finish(&page);
}

/* Transactions that commit or roll back, acks, overflow and trims in random order: the ring has what a list has. */
static void same_as_a_list(void **state)
{
    static struct model_event list[MODEL_MAX + 1];
    struct fixture *fx = *state;
    unsigned seed = 11;
    uint64_t last = 0;
    fx->config.memory_bytes = 300 << 10;
    fx_open(fx);
    const struct eb_engine_ops *ops = fx->inner->ops;
    while (last < MODEL_MAX - 100) {
        unsigned count = (unsigned)rand_r(&seed) % 60, acks = (unsigned)rand_r(&seed) % 20;
        bool fails = rand_r(&seed) % 4 == 0;
        uint64_t acked[20];
        assert_int_equal(0, ops->begin(fx->inner));
        for (unsigned i = 1; i <= count; i++) {
            struct eb_event *event =
                event_new((unsigned)last + i, rand_r(&seed) % 3 ? "t.0" : "t.1", "x");
            event->seq = last + i;
            event->timestamp = fx->wall;
            assert_int_equal(0, ops->append(fx->inner, &event, 1));
            list[last + i] = (struct model_event){true, false, event->topic[2] == '1'};
            eb_event_unref(event);
        }
        for (unsigned i = 0; i < acks && last + count; i++) {
            acked[i] = 1 + (unsigned)rand_r(&seed) % (last + count);
            assert_int_equal(0, ops->ack(fx->inner, acked[i], fx->wall));
        }
        if (fails) {
            ops->rollback(fx->inner);
            continue;
        }
        assert_int_equal(0, ops->commit(fx->inner));
        for (unsigned i = 0; i < acks && last + count; i++)
            list[acked[i]].acked = true;
        last += count;
        if (rand_r(&seed) % 5 == 0) {
            struct eb_trim_request trim = {.now_ms = fx->wall, .acked_ms = 0, .max_rows = 40};
            struct eb_trim_result result;
            if (rand_r(&seed) % 2)
                trim.max_events = 400;
            assert_int_equal(0, ops->trim(fx->inner, &trim, &result));
        }
        /* What is gone from the ring was overflow, retention or acknowledged: the list forgets it too. */
        struct eb_engine_figures figures;
        uint64_t events = 0;
        ops->figures(fx->inner, &figures);
        for (uint64_t seq = 1; seq <= last; seq++) {
            struct eb_event *event;
            bool there = ops->lookup(fx->inner, seq, &event) == 0;
            if (there)
                eb_event_unref(event);
            assert_true(there ? list[seq].there
                              : !list[seq].there || list[seq].acked || seq <= figures.deleted_upto);
            list[seq].there = there;
            events += there;
        }
        assert_int_equal(events, figures.events);
        assert_true(figures.bytes <= fx->config.memory_bytes);
        atomic_store(&fx->store->last_seq, last);
        if (last)
            assert_page_as_listed(fx, list, last, &seed);
    }
}

/* ---- what is asked beside pages ---- */

/* A time and a number are found as a look at every event finds them, with holes and after the head fell off. */
static void times_and_counts_are_those_of_a_look(void **state)
{
    struct fixture *fx = *state;
    struct eb_reader *reader;
    int64_t ts[401] = {0}, start;
    fx_open(fx);
    start = fx->wall;
    for (unsigned n = 1; n <= 400; n++) {
        fx->wall += n % 3 ? 0 : 7;
        ts[n] = fx->wall;
        assert_int_equal(n, seq_of(publish(fx, n, n % 3 ? "a.x" : "b", "payload")));
    }
    struct eb_store_config config = fx->config;
    config.acked_retention_ms = 0;
    config.retention_events = 350;
    for (unsigned n = 60; n < 400; n += 9) {
        assert_int_equal(EB_OK, code_of(ack_new(fx, n)));
        ts[n] = 0;
    }
    eb_store_reconfigure(fx->store, &config);
    while (janitor(fx))
        ;
    struct eb_store_info info;
    eb_store_info(fx->store, &info);
    for (unsigned n = 1; n < info.first_seq; n++)
        ts[n] = 0;
    assert_int_equal(0, eb_reader_create(fx->store, &reader));
    for (int64_t time = start - 5; time < fx->wall + 10; time += 3) {
        uint64_t want = 1, seq = 0;
        while (want <= 400 && (!ts[want] || ts[want] < time))
            want++;
        assert_int_equal(0, eb_reader_first_at(reader, time, &seq));
        assert_int_equal(want, seq);
    }
    struct eb_pattern pattern;
    struct eb_selection *selection;
    struct eb_error err;
    assert_int_equal(0, eb_pattern_parse(&pattern, "a.*", 3, &err));
    assert_int_equal(0, eb_selection_create(&pattern, 1, &selection));
    for (uint64_t from = 0; from < 420; from += 37) {
        uint64_t want = 0, found = 0;
        for (uint64_t n = from ? from : 1; n <= 380; n++)
            want += ts[n] && n % 3;
        assert_int_equal(0, eb_reader_count(reader, selection, from, 380, &found));
        assert_int_equal(want, found);
    }
    eb_selection_destroy(selection);
    eb_reader_destroy(reader);
}

#define CONSUMERS 4
#define LETTERS   40

static void dead_as_listed(struct fixture *fx, bool model[CONSUMERS][LETTERS])
{
    for (uint64_t c = 0; c < CONSUMERS; c++) {
        uint64_t seqs[LETTERS], after = 0, n = 0, want = 0;
        ptrdiff_t got;
        while ((got = fx->inner->ops->dead(fx->inner, NULL, c + 1, after, seqs, 7)) > 0) {
            for (ptrdiff_t i = 0; i < got; i++) {
                assert_true(seqs[i] > after && model[c][seqs[i]]);
                after = seqs[i];
            }
            n += (uint64_t)got;
        }
        for (uint64_t s = 1; s < LETTERS; s++)
            want += model[c][s];
        assert_int_equal(want, n);
    }
}

/* Lists of dead letters change with their transaction and are what they were when it is taken back. */
static void dead_letters_go_back_with_their_transaction(void **state)
{
    static bool model[CONSUMERS][LETTERS], before[CONSUMERS][LETTERS];
    struct fixture *fx = *state;
    unsigned seed = 5;
    fx_open(fx);
    const struct eb_engine_ops *ops = fx->inner->ops;
    memset(model, 0, sizeof model);
    for (int round = 0; round < 400; round++) {
        memcpy(before, model, sizeof model);
        assert_int_equal(0, ops->begin(fx->inner));
        for (int i = 0; i < 12; i++) {
            uint64_t c = (uint64_t)rand_r(&seed) % CONSUMERS;
            uint64_t s = 1 + (uint64_t)rand_r(&seed) % (LETTERS - 1);
            int what = rand_r(&seed) % 20;
            struct eb_state_write write = {.kind = what == 0   ? EB_STATE_DROP
                                                   : what < 12 ? EB_STATE_DEAD_ADD
                                                               : EB_STATE_DEAD_DROP,
                                           .consumer = c + 1,
                                           .seq = s};
            assert_int_equal(0, ops->state(fx->inner, &write, 0));
            if (what == 0)
                memset(model[c], 0, sizeof model[c]);
            else
                model[c][s] = what < 12;
        }
        dead_as_listed(fx, model);
        if (round % 3) {
            assert_int_equal(0, ops->commit(fx->inner));
        } else {
            ops->rollback(fx->inner);
            memcpy(model, before, sizeof model);
        }
        dead_as_listed(fx, model);
    }
}

#define TEST(name)                                                                                 \
    {                                                                                              \
        "memory/" #name, name, setup, teardown, NULL                                               \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pages_join_without_gap_or_repeat),
        TEST(bytes_bound_a_page),
        TEST(pages_end_at_the_commit),
        TEST(reserved_topics_need_their_name),
        TEST(overflow_is_a_gap),
        TEST(newest_stays_however_large),
        TEST(expired_makes_no_gap),
        TEST(retention_is_a_gap),
        TEST(acknowledged_is_passed_over_and_deleted),
        TEST(topics_follow_their_events),
        TEST(same_as_a_list),
        TEST(times_and_counts_are_those_of_a_look),
        TEST(dead_letters_go_back_with_their_transaction),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
