/*
 * test_power_asks.c - the power is cut at any moment while events are scheduled, taken back and become due (PROTOCOL 8);
 * an outside ledger knows what was answered.
 *
 * After each cut: what was answered as scheduled waits or is in the log, once and never both; what was answered as due is
 * in the log; what was taken back is nowhere; and a topic's last seq is that of its last event.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/store/internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/store/vfs_power.h"

#define NUMBERS 20000
#define ROOM    6

enum promised { NOTHING, SCHEDULED, ENTERED, TAKEN_BACK, OPEN /* asked to go, not answered */ };

struct ledger {
    char dir[64], path[96];
    enum promised promised[NUMBERS]; /* by number of the event */
    uint64_t seq[NUMBERS];
    uint8_t waits[NUMBERS], there[NUMBERS];
    uint32_t next;
    uint64_t chain; /* last seq of the topic "chain", as read */
    uint64_t random, opened, entered, taken;
    bool early;
};

static uint64_t chance(struct ledger *l, uint64_t n)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return (l->random >> 11) % n;
}

static uint32_t number_of(const struct eb_event *event)
{
    uint32_t number;
    memcpy(&number, event->id, 4);
    return number;
}

static void id_of(uint8_t id[16], uint32_t number)
{
    memset(id, 0, 16);
    memcpy(id, &number, 4);
    id[6] = 0x70;
}

static struct eb_event *new_event(const char *topic, uint32_t number)
{
    struct eb_draft draft = {.topic = topic,
                             .topic_len = strlen(topic),
                             .payload = "x",
                             .payload_len = 1,
                             .has_id = true};
    id_of(draft.id, number);
    return eb_event_create(&draft);
}

/* ---- operations, one at a time on this thread ---- */

static void done(struct eb_op *op)
{
}

static bool run(struct eb_store *store, struct eb_op *op)
{
    op->done = done;
    eb_store_submit(store, op, op);
    eb_writer_drain(store);
    return op->err.code == EB_OK;
}

static void schedule(struct ledger *l, struct eb_store *store)
{
    uint32_t number = l->next++;
    struct eb_event *event = new_event("later", number);
    struct eb_op_ask ask = {.due_ms = eb_wall_ms() + (chance(l, 3) ? 1 : 3600000)};
    struct eb_op_result result = {0};
    struct eb_op op = {
        .kind = EB_OP_PUBLISH, .count = 1, .events = &event, .asks = &ask, .results = &result};
    if (run(store, &op) || l->early) {
        assert_true(l->early || (result.scheduled && result.seq == 0));
        l->promised[number] = SCHEDULED;
    }
    eb_event_unref(event);
}

static void take_back(struct ledger *l, struct eb_store *store)
{
    struct eb_op op = {.kind = EB_OP_UNSCHEDULE};
    uint32_t number = 1 + (uint32_t)chance(l, l->next);
    enum promised before = l->promised[number];
    id_of(op.id, number);
    if (before != SCHEDULED)
        return;
    l->promised[number] = OPEN;
    if (run(store, &op)) {
        l->promised[number] = TAKEN_BACK;
        l->taken++;
    } else if (op.err.code == EB_CONFLICT || op.err.code == EB_NOT_FOUND) {
        fail_msg("event %u waits and cannot be taken back: %s", number, op.err.message);
    }
}

static void enter(struct ledger *l, struct eb_store *store)
{
    struct eb_event *events[ROOM];
    struct eb_op_result results[ROOM];
    struct eb_op op = {.kind = EB_OP_DUE, .room = ROOM, .events = events, .results = results};
    bool good = run(store, &op);
    for (uint32_t i = 0; i < op.count; i++) {
        uint32_t number = number_of(events[i]);
        assert_true(good);
        l->promised[number] = ENTERED;
        l->seq[number] = results[i].seq;
        l->entered++;
        eb_event_unref(events[i]);
    }
}

/* The next of a chain of events, each of which names the one before. */
static void link_on(struct ledger *l, struct eb_store *store)
{
    uint32_t number = l->next++;
    struct eb_event *event = new_event("chain", number);
    struct eb_op_ask ask = {.has_expected = true, .expected = l->chain};
    struct eb_op_result result = {0};
    struct eb_op op = {
        .kind = EB_OP_PUBLISH, .count = 1, .events = &event, .asks = &ask, .results = &result};
    if (run(store, &op))
        l->chain = result.seq;
    else if (op.err.code == EB_CONFLICT)
        fail_msg("the chain is broken: %s", op.err.message);
    eb_event_unref(event);
}

/* ---- what is there ---- */

static void read_waiting(struct ledger *l, struct eb_store *store)
{
    struct eb_store_info info;
    struct eb_reader *reader;
    struct eb_scheduled list[16];
    uint64_t after = 0, total = 0;
    int64_t first = INT64_MAX;
    ptrdiff_t count;
    assert_int_equal(eb_reader_create(store, &reader), 0);
    while ((count = eb_reader_scheduled(reader, after, list, 16)) > 0)
        for (ptrdiff_t i = 0; i < count; i++) {
            l->waits[number_of(list[i].event)]++;
            after = list[i].place;
            first = list[i].due_ms < first ? list[i].due_ms : first;
            total++;
            eb_event_unref(list[i].event);
        }
    assert_int_equal(count, 0);
    eb_reader_destroy(reader);
    eb_store_info(store, &info);
    assert_int_equal(info.scheduled, total);
    assert_int_equal(eb_store_next_due(store), first);
}

static void read_log(struct ledger *l, struct eb_store *store)
{
    struct eb_reader *reader;
    uint64_t last = eb_store_last_seq(store);
    assert_int_equal(eb_reader_create(store, &reader), 0);
    l->chain = 0;
    for (uint64_t seq = 1; seq <= last; seq++) {
        struct eb_event *event;
        assert_int_equal(eb_reader_event(reader, seq, &event), 0);
        l->there[number_of(event)]++;
        uint64_t *known = &l->seq[number_of(event)];
        if (*known)
            assert_int_equal(*known, seq);
        *known = seq;
        if (strcmp(event->topic, "chain") == 0)
            l->chain = seq;
        eb_event_unref(event);
    }
    eb_reader_destroy(reader);
}

/* NULL, or what was broken. */
static const char *judge(struct ledger *l, uint32_t number)
{
    unsigned waits = l->waits[number], there = l->there[number];
    if (waits + there > 1)
        return "is there twice";
    switch (l->promised[number]) {
    case SCHEDULED:
        if (waits + there == 0)
            return "was scheduled and is lost";
        break;
    case ENTERED:
        if (!there)
            return "was due and is not in the log";
        break;
    case TAKEN_BACK:
        if (waits + there)
            return "was taken back and is there";
        break;
    default:
        break;
    }
    /* What was not answered is settled by what is there now. */
    if (l->promised[number] != TAKEN_BACK)
        l->promised[number] = there ? ENTERED : waits ? SCHEDULED : NOTHING;
    return NULL;
}

/* False: a promise was broken. */
static bool check(struct ledger *l, struct eb_store *store)
{
    memset(l->waits, 0, sizeof(l->waits));
    memset(l->there, 0, sizeof(l->there));
    read_waiting(l, store);
    read_log(l, store);
    for (uint32_t n = 1; n < l->next; n++) {
        const char *what = judge(l, n);
        if (what && !l->early)
            fail_msg("event %u %s", n, what);
        if (what)
            return false;
    }
    return true;
}

/* ---- rounds ---- */

static bool one_round(struct ledger *l)
{
    struct power_options options = {.seed = chance(l, UINT32_MAX) + 1};
    struct eb_store_config config = {.path = l->path,
                                     .vfs = "power",
                                     .dedupe_window_ms = 600000,
                                     .dedupe_max = 1000,
                                     .max_scheduled = 10000,
                                     .acked_retention_ms = -1};
    struct eb_store *store = NULL;
    struct eb_error err = {0};
    bool good = true;
    power_begin(&options);
    int rc = eb_store_open(&config, &store, &err);
    if (rc)
        fail_msg("it does not start: %s", err.message);
    l->opened++;
    good = check(l, store);
    power_arm(1 + chance(l, 200));
    for (uint64_t turns = 5 + chance(l, 60); turns > 0 && good && !power_is_cut(); turns--) {
        uint64_t dice = chance(l, 10);
        if (dice < 4)
            schedule(l, store);
        else if (dice < 6)
            take_back(l, store);
        else if (dice < 8)
            enter(l, store);
        else
            link_on(l, store);
    }
    if (chance(l, 3))
        power_cut();
    eb_store_close(store); /* orderly, if the power lasts */
    power_cut();
    power_restore();
    return good;
}

static struct ledger *begin(uint64_t seed)
{
    struct ledger *l = calloc(1, sizeof(*l));
    assert_non_null(l);
    l->random = seed;
    l->next = 1;
    strcpy(l->dir, access("/dev/shm", W_OK) ? "/tmp/eb-power-XXXXXX" : "/dev/shm/eb-power-XXXXXX");
    assert_non_null(mkdtemp(l->dir));
    snprintf(l->path, sizeof(l->path), "%s/log.db", l->dir);
    return l;
}

static void end(struct ledger *l)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", l->dir);
    assert_int_equal(system(cmd), 0);
    free(l);
}

static void nothing_scheduled_is_lost_or_doubled(void **state)
{
    uint64_t entered = 0, taken = 0;
    for (uint64_t log = 1; log <= 6; log++) {
        struct ledger *l = begin(log * 7919);
        for (int i = 0; i < 30; i++)
            assert_true(one_round(l));
        entered += l->entered;
        taken += l->taken;
        end(l);
    }
    assert_true(entered > 100);
    assert_true(taken > 20);
}

/* The test can see: an answer before the commit is caught. */
static void early_answer_is_caught(void **state)
{
    bool good = true;
    for (uint64_t log = 1; log <= 10 && good; log++) {
        struct ledger *l = begin(log * 104729);
        l->early = true;
        for (int i = 0; i < 30 && good; i++)
            good = one_round(l);
        end(l);
    }
    assert_false(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_scheduled_is_lost_or_doubled),
        cmocka_unit_test(early_answer_is_caught),
    };
    assert_int_equal(eb_log_setup(EB_LOG_ERROR, false, "/dev/null"), 0);
    return cmocka_run_group_tests_name("power_asks", tests, NULL, NULL);
}
