/*
 * test_property.c - random lives of sessions against a model that knows only the log and what was answered.
 *
 * The model reads what each session was sent, in order, and keeps per pattern what PROTOCOL 2.3 and 2.4 promise:
 * a replaying subscription gets every matching event above its start, then `live`; a live one every matching
 * event above its floor, together with the session's others, once and in seq order; what is missing was said.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/fake_world.h"

#define BOXES  3
#define STEPS  400
#define ROUNDS 300

static const char *const patterns[] = {"a", "b", "*", "#", "a.*", "a.#"};
static const char *const topics[] = {"a", "b", "a.b", "a.b.c", "c"};
#define PATTERNS (sizeof(patterns) / sizeof(patterns[0]))

enum where { GONE, REPLAYING, LIVELY };

struct model {
    struct fake_box *box;
    enum where where[PATTERNS];
    uint64_t
        cursor[PATTERNS]; /* replaying: served up to; live: its floor, or the end of its last gap */
    uint64_t shared;      /* last event of the shared stream */
    struct {
        unsigned kind, pattern; /* requests in the order sent: 's' live, 'r' replay, 'u' */
        uint64_t from;
    } asked[STEPS + 10];
    unsigned asked_count, answered;
    uint64_t retained_at_start;
};

static uint64_t seed;
static struct fake_world *world;

static unsigned any(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)((seed >> 11) % below);
}

static bool wants(unsigned pattern, uint64_t seq)
{
    struct eb_pattern parsed;
    struct eb_error err;
    const char *topic = fake_topic(world, seq);
    eb_pattern_parse(&parsed, patterns[pattern], strlen(patterns[pattern]), &err);
    return eb_pattern_match(&parsed, topic, strlen(topic));
}

/* No event of the pattern in (from, to) was due. */
static void nothing_between(unsigned pattern, uint64_t from, uint64_t to)
{
    for (uint64_t seq = from + 1; seq < to && seq <= fake_last(world); seq++)
        assert_false(wants(pattern, seq));
}

static void nothing_missing_before(struct model *m, uint64_t to)
{
    for (unsigned p = 0; p < PATTERNS; p++) {
        if (m->where[p] == LIVELY)
            nothing_between(p, m->cursor[p] > m->shared ? m->cursor[p] : m->shared, to);
    }
}

static unsigned pattern_of(const char *text, size_t len)
{
    for (unsigned p = 0; p < PATTERNS; p++) {
        if (strlen(patterns[p]) == len && memcmp(patterns[p], text, len) == 0)
            return p;
    }
    fail_msg("unknown pattern in \"%s\"", text);
    return 0;
}

static void on_ok(struct model *m, bool subscribed, uint64_t last)
{
    assert_true(m->answered < m->asked_count);
    unsigned p = m->asked[m->answered].pattern, kind = m->asked[m->answered].kind;
    assert_int_equal(subscribed, kind != 'u');
    if (kind == 'u') {
        m->where[p] = GONE;
    } else if (kind == 'r') {
        uint64_t from = m->asked[m->answered].from;
        m->where[p] = REPLAYING;
        m->cursor[p] = from > 1 ? from - 1 : 0;
    } else if (m->where[p] == GONE) {
        m->where[p] = LIVELY;
        m->cursor[p] = last;
    }
    m->answered++;
}

static void on_event(struct model *m, uint64_t seq, const char *pattern)
{
    bool wanted = false;
    if (pattern != NULL) {
        unsigned p = pattern_of(pattern, strlen(pattern));
        assert_int_equal(m->where[p], REPLAYING);
        assert_true(seq > m->cursor[p]);
        assert_true(wants(p, seq));
        nothing_between(p, m->cursor[p], seq);
        m->cursor[p] = seq;
        return;
    }
    assert_true(seq > m->shared);
    for (unsigned p = 0; p < PATTERNS; p++)
        wanted = wanted || (m->where[p] == LIVELY && seq > m->cursor[p] && wants(p, seq));
    assert_true(wanted);
    nothing_missing_before(m, seq);
    m->shared = seq;
}

static void on_live(struct model *m, uint64_t seq, const char *pattern)
{
    unsigned p = pattern_of(pattern, strlen(pattern));
    assert_int_equal(m->where[p], REPLAYING);
    nothing_between(p, m->cursor[p], seq + 1);
    m->where[p] = LIVELY;
    m->cursor[p] = seq;
}

static void on_gap(struct model *m, uint64_t from, uint64_t to, const char *rest)
{
    unsigned p = pattern_of(rest, strcspn(rest, ":"));
    uint64_t served = m->cursor[p];
    if (m->where[p] == LIVELY && m->shared > served)
        served = m->shared;
    assert_int_not_equal(m->where[p], GONE);
    assert_true(from > served && to >= from);
    nothing_between(p, served, from);
    m->cursor[p] = to;
}

/* 0 or 1 asked for what there is: the events that were gone before its first page are not missed. */
static void forgive_start(struct model *m, const char *word)
{
    uint64_t seq;
    char pattern[32];
    if (sscanf(word, "%*[RL]%" SCNu64 "@%31s", &seq, pattern) != 2 &&
        sscanf(word, "G%" SCNu64 "-%*u@%31[^:]", &seq, pattern) != 2)
        return;
    unsigned p = pattern_of(pattern, strlen(pattern));
    if (m->where[p] == REPLAYING && m->cursor[p] == 0) {
        struct eb_store_info info;
        eb_store_info(NULL, &info);
        uint64_t gone = info.first_seq - 1;
        m->cursor[p] = gone < seq ? gone : seq - (word[0] != 'L');
    }
}

static void read_word(struct model *m, const char *word)
{
    uint64_t seq, to;
    char rest[64];
    forgive_start(m, word);
    if (sscanf(word, "ok#%" SCNu64, &seq) == 1)
        on_ok(m, true, seq);
    else if (strcmp(word, "bye") == 0 || strcmp(word, "error:not_found") == 0)
        on_ok(m, false, 0);
    else if (sscanf(word, "E%" SCNu64, &seq) == 1)
        on_event(m, seq, NULL);
    else if (sscanf(word, "R%" SCNu64 "@%63s", &seq, rest) == 2)
        on_event(m, seq, rest);
    else if (sscanf(word, "L%" SCNu64 "@%63s", &seq, rest) == 2)
        on_live(m, seq, rest);
    else if (sscanf(word, "G%" SCNu64 "-%" SCNu64 "@%63s", &seq, &to, rest) == 3)
        on_gap(m, seq, to, rest);
    else
        fail_msg("unknown word \"%s\"", word);
}

static void read_words(struct model *m, const char *words)
{
    char *copy = strdup(words), *save = NULL;
    for (char *word = strtok_r(copy, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save))
        read_word(m, word);
    free(copy);
}

static void ask(struct model *m)
{
    unsigned p = any(PATTERNS), kind = any(3);
    uint64_t from = any(3) ? any((unsigned)fake_last(world) + 2) : 0;
    m->asked[m->asked_count].pattern = p;
    m->asked[m->asked_count].from = from;
    m->asked[m->asked_count++].kind = kind == 0 ? 's' : kind == 1 ? 'r' : 'u';
    if (kind == 2)
        fake_unsubscribe(m->box, patterns[p]);
    else
        fake_subscribe(m->box, patterns[p], kind == 0 ? LIVE : from);
}

static struct model models[BOXES];

static void step(bool retention);

static void step_inside(struct fake_world *w, void *ctx)
{
    step(false);
    step(false);
}

/* No commit inside a commit: only readers and other sessions go on in the midst of a dispatch. */
static void turns_inside(struct fake_box *box, void *ctx)
{
    for (unsigned n = 1 + any(4); n > 0; n--)
        fake_turn(world);
}

static void step(bool retention)
{
    struct model *m = &models[any(BOXES)];
    switch (any(8)) {
    case 0:
    case 1:
        for (unsigned n = any(12); n > 0; n--)
            fake_publish(world, topics[any(5)]);
        break;
    case 2:
        ask(m);
        break;
    case 3:
    case 4:
        if (any(2) != 0 && world->during_page == NULL)
            m->box->during_event = turns_inside;
        fake_commit(world, any(3) ? ALL : 1 + any(4));
        m->box->during_event = NULL;
        break;
    case 5:
        if (any(2) != 0 && world->during_page == NULL)
            world->during_page = step_inside;
        if (any(2) == 0 || !fake_ahead(world))
            fake_turn(world);
        if (world->during_page == step_inside && any(2) != 0)
            world->during_page = NULL;
        break;
    case 6:
        read_words(m, fake_drain(m->box, 1 + any(12)));
        break;
    case 7:
        if (retention && any(10) == 0)
            fake_retain(world, any((unsigned)fake_last(world) + 1));
        world->page_rows = any(2) != 0 ? 1 + any(5) : 0;
    }
}

static void many(struct eb_bus_config *config)
{
    config->max_subscriptions = PATTERNS;
    config->queue_events = 1 + any(any(2) != 0 ? 12 : 60);
}

/* Two lives of three have transports that take bundles, so that pages are read ahead; every other one shares what it reads. */
static void one_life(uint64_t start, bool retention)
{
    seed = start * 0x9e3779b97f4a7c15u | 1;
    world = fake_open(many);
    world->bundles = start % 3 != 0;
    world->shares = start % 2 != 0;
    memset(models, 0, sizeof(models));
    for (int i = 0; i < BOXES; i++)
        models[i].box = fake_box(world, false);
    for (int i = 0; i < STEPS; i++)
        step(retention);
    world->during_page = NULL;
    fake_commit(world, ALL);
    for (int i = 0; i < BOXES; i++) {
        struct model *m = &models[i];
        read_words(m, fake_drain_all(m->box));
        assert_int_equal(m->answered, m->asked_count);
        nothing_missing_before(m, fake_last(world) + 1);
        for (unsigned p = 0; p < PATTERNS; p++)
            assert_int_not_equal(m->where[p], REPLAYING);
    }
    for (int i = 0; i < BOXES; i++)
        fake_box_close(models[i].box);
    fake_close(world);
}

/* Nothing missing, nothing twice, all in order, whatever is asked and whenever. */
static void streams_are_whole(void **unused)
{
    for (uint64_t round = 1; round <= ROUNDS; round++)
        one_life(round, false);
}

/* The same while the log's beginning is deleted: what is missing was said. */
static void streams_are_whole_but_for_gaps(void **unused)
{
    for (uint64_t round = 1; round <= ROUNDS; round++)
        one_life(round + 1000000, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_are_whole),
        cmocka_unit_test(streams_are_whole_but_for_gaps),
    };
    return cmocka_run_group_tests_name("bus/property", tests, NULL, NULL);
}
