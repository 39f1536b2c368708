/*
 * test_power.c - the power is cut at any moment, again and again; an outside ledger knows what was answered.
 *
 * After each cut: what was answered is there, as it was; no seq was given twice; no batch is there in part; nothing
 * fails its checksum; what a publish keeps is there with it or not at all; ids that were told, a publisher's or the broker's,
 * are known again. The same with syncs that do nothing, and
 * with a broker that answers before the commit, must fail: that shows that the test can see.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/store/store.h"
#include "common/log.h"
#include "tests/unit/store/vfs_power.h"

#define IDS_MAX    200000
#define MEMBERS    4
#define IN_FLIGHT  6
#define DEDUPE_MAX 1000

struct promise { /* of an event, by its number */
    bool answered;
    uint8_t id[16]; /* once it is known */
    uint32_t first, len;
    uint64_t seq; /* 0: not known */
    uint8_t members;
};

struct ledger {
    char dir[64], path[96];
    struct promise *promises; /* by number, from 1 */
    uint64_t *number_of;      /* by seq: which event was answered or read under it */
    uint8_t *members;         /* of each batch, as read */
    uint8_t *dead;            /* by seq: it is listed as a dead letter */
    uint64_t listed;          /* of them */
    uint32_t next;
    uint64_t random, checked, read, opened, repeats;
    bool early, ignore_sync;
    char trouble[200];
};

static uint64_t chance(struct ledger *l, uint64_t n)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return (l->random >> 11) % n;
}

static bool broken(struct ledger *l, const char *what, uint64_t number, uint64_t seq)
{
    snprintf(l->trouble, sizeof(l->trouble), "%s: event %llu, seq %llu", what,
             (unsigned long long)number, (unsigned long long)seq);
    return false;
}

static bool note_seq(struct ledger *l, uint32_t number, uint64_t seq, const uint8_t id[16])
{
    static const uint8_t none[16];
    if (seq >= IDS_MAX)
        return broken(l, "a seq out of all bounds", number, seq);
    if (l->number_of[seq] && l->number_of[seq] != number)
        return broken(l, "a seq was given twice", number, seq);
    if (l->promises[number].seq && l->promises[number].seq != seq)
        return broken(l, "an event has two seqs", number, seq);
    if (memcmp(l->promises[number].id, none, 16) != 0 &&
        memcmp(l->promises[number].id, id, 16) != 0)
        return broken(l, "an event has two ids", number, seq);
    memcpy(l->promises[number].id, id, 16);
    l->number_of[seq] = number;
    l->promises[number].seq = seq;
    return true;
}

/* ---- what is there ---- */

static bool read_event(struct ledger *l, const struct eb_event *event, uint8_t *there)
{
    uint32_t number = 0, first = 0;
    if (event->payload_len >= 8) {
        memcpy(&first, event->payload, 4);
        memcpy(&number, event->payload + 4, 4);
    }
    if (!number || number >= l->next)
        return broken(l, "an event nobody published", number, event->seq);
    for (uint32_t i = 8; i < event->payload_len; i++)
        if ((uint8_t)event->payload[i] != (uint8_t)(number + i))
            return broken(l, "another payload", number, event->seq);
    there[number] = 1;
    l->members[first]++;
    l->read++;
    return note_seq(l, number, event->seq, event->id);
}

static bool read_log(struct ledger *l, struct eb_store *store, uint8_t *there)
{
    struct eb_pattern all;
    struct eb_selection *selection;
    struct eb_reader *reader;
    struct eb_error err;
    bool good = true;
    assert_int_equal(eb_pattern_parse(&all, "#", 1, &err), 0);
    assert_int_equal(eb_selection_create(&all, 1, &selection), 0);
    assert_int_equal(eb_reader_create(store, &reader), 0);
    for (uint64_t next = 1; good && next <= eb_store_last_seq(store);) {
        struct eb_page page = {0};
        struct eb_page_request request = {.from = next,
                                          .upto = eb_store_last_seq(store),
                                          .all_there_is = true,
                                          .max_events = 500,
                                          .max_bytes = 1 << 20};
        if (eb_reader_page(reader, selection, &request, &page)) {
            good = broken(l, "the log cannot be read", 0, next);
            break;
        }
        for (size_t i = 0; i < page.count && good; i++)
            good = page.items[i].event ? read_event(l, page.items[i].event, there)
                                       : broken(l, "a damaged event", 0, page.items[i].from_seq);
        next = page.next;
        eb_page_finish(&page);
    }
    eb_reader_destroy(reader);
    eb_selection_destroy(selection);
    return good;
}

/* Each batch has listed its first event, and brought a mark with it. */
static bool read_kept(struct ledger *l, struct eb_store *store)
{
    struct eb_reader *reader;
    uint64_t seqs[100], after = 0, mark;
    ptrdiff_t n = 0;
    assert_int_equal(eb_reader_create(store, &reader), 0);
    memset(l->dead, 0, IDS_MAX);
    l->listed = 0;
    while ((n = eb_reader_dead(reader, 1, after, seqs, 100)) > 0) {
        for (ptrdiff_t i = 0; i < n; i++)
            l->dead[seqs[i] < IDS_MAX ? seqs[i] : 0] = 1;
        after = seqs[n - 1];
        l->listed += (uint64_t)n;
    }
    eb_reader_destroy(reader);
    if (n < 0 || eb_store_mark(store, "last", &mark) < 0)
        return broken(l, "what is kept cannot be read", 0, 0);
    if (mark != after)
        return broken(l, "the mark and the list are of different commits", mark, after);
    return true;
}

/* True: the log keeps what was promised. */
static bool check(struct ledger *l, struct eb_store *store)
{
    uint8_t *there = calloc(l->next + 1, 1);
    memset(l->members, 0, l->next + 1);
    bool good = read_log(l, store, there) && read_kept(l, store);
    uint64_t batches = 0;
    for (uint32_t n = 1; n < l->next && good; n++) {
        struct promise *p = &l->promises[n];
        if (p->answered && !there[n])
            good = broken(l, "answered and lost", n, p->seq);
        if (p->seq && there[n] == 0 && !p->answered)
            good = broken(l, "read once and lost", n, p->seq);
        batches += p->members && there[n];
        if (p->members && there[n] && !l->dead[p->seq])
            good = broken(l, "stored without what it keeps", n, p->seq);
        if (there[n] && l->dead[p->seq] && !p->members)
            good = broken(l, "kept under another's seq", n, p->seq);
        if (p->members && l->members[n] && l->members[n] != p->members)
            good = broken(l, "a batch in part", n, p->seq);
    }
    if (good && l->listed != batches)
        good = broken(l, "kept without its event", batches, l->listed);
    free(there);
    l->checked++;
    return good;
}

/* ---- publishing ---- */

struct flight {
    struct eb_op op;
    struct eb_event *events[MEMBERS];
    struct eb_op_result results[MEMBERS];
    struct eb_state_write dead, mark;
    uint32_t first;
};

/* The mark is the seq that the list gets: nothing else is published. */
static const struct eb_state_write *keep_first(struct eb_op *op)
{
    struct flight *f = op->user;
    f->mark = (struct eb_state_write){.kind = EB_STATE_MARK, .name = "last"};
    f->mark.next = op->last_seq + 1;
    f->dead =
        (struct eb_state_write){.kind = EB_STATE_DEAD_ADD, .consumer = 1, .next_write = &f->mark};
    return &f->dead;
}

static pthread_mutex_t flight_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t landed = PTHREAD_COND_INITIALIZER;
static unsigned in_flight;

static void done(struct eb_op *op)
{
    pthread_mutex_lock(&flight_lock);
    in_flight--;
    pthread_cond_signal(&landed);
    pthread_mutex_unlock(&flight_lock);
}

/* Every third has no id until it is stored. @id: it is published again under that. */
static struct eb_event *new_event(uint32_t number, uint32_t first, size_t len, const uint8_t *id)
{
    static char payload[40000];
    memcpy(payload, &first, 4);
    memcpy(payload + 4, &number, 4);
    for (size_t i = 8; i < len; i++)
        payload[i] = (char)(number + i);
    struct eb_draft draft = {.topic = "power.test",
                             .topic_len = 10,
                             .payload = payload,
                             .payload_len = len,
                             .has_id = id || number % 3 != 0};
    memcpy(draft.id, &number, 4);
    draft.id[6] = 0x70;
    if (id)
        memcpy(draft.id, id, 16);
    return eb_event_create(&draft);
}

static void board(struct ledger *l, struct flight *f)
{
    uint32_t n = (uint32_t)(1 + chance(l, MEMBERS));
    memset(f, 0, sizeof(*f));
    f->first = l->next;
    for (uint32_t i = 0; i < n; i++, l->next++) {
        size_t len = chance(l, 20) ? 8 + chance(l, 300) : 8 + chance(l, 30000);
        f->events[i] = new_event(l->next, f->first, len, NULL);
        l->promises[l->next] =
            (struct promise){.answered = l->early, .first = f->first, .len = (uint32_t)len};
    }
    l->promises[f->first].members = (uint8_t)n;
    f->op = (struct eb_op){.kind = EB_OP_PUBLISH,
                           .count = n,
                           .events = f->events,
                           .results = f->results,
                           .collect = keep_first,
                           .user = f,
                           .done = done};
}

static bool land(struct ledger *l, struct flight *f)
{
    bool good = true;
    for (uint32_t i = 0; i < f->op.count; i++) {
        if (f->op.err.code == EB_OK) {
            l->promises[f->first + i].answered = true;
            good = good && note_seq(l, f->first + i, f->results[i].seq, f->events[i]->id);
        }
        eb_event_unref(f->events[i]);
    }
    return good;
}

/* One of the last that were answered comes again: it is a duplicate, or nothing could be said. */
static bool repeat(struct ledger *l, struct eb_store *store)
{
    uint64_t last = eb_store_last_seq(store);
    uint64_t seq =
        last > DEDUPE_MAX / 2 ? last - chance(l, DEDUPE_MAX / 2) : 1 + chance(l, last + 1);
    uint64_t number = seq < IDS_MAX ? l->number_of[seq] : 0;
    const struct promise *p = &l->promises[number];
    if (!number || !p->answered || l->early)
        return true;
    struct eb_event *event = new_event((uint32_t)number, p->first, p->len, p->id);
    struct eb_op_result result = {0};
    struct eb_op op = {
        .kind = EB_OP_PUBLISH, .count = 1, .events = &event, .results = &result, .done = done};
    in_flight = 1;
    eb_store_submit(store, &op, &op);
    pthread_mutex_lock(&flight_lock);
    while (in_flight)
        pthread_cond_wait(&landed, &flight_lock);
    pthread_mutex_unlock(&flight_lock);
    eb_event_unref(event);
    l->repeats += op.err.code == EB_OK;
    if (op.err.code == EB_MESSAGE_ID_REUSED)
        return broken(l, "a repeat was taken for another event", number, seq);
    if (op.err.code == EB_OK && (!result.duplicate || result.seq != seq))
        return broken(l, "a repeat was stored again", number, seq);
    return true;
}

/* Publish until the power is out, or for a while. */
static bool publish(struct ledger *l, struct eb_store *store)
{
    struct flight flights[IN_FLIGHT];
    bool good = true;
    uint64_t turns = 1 + chance(l, 30);
    for (uint64_t turn = 0; turn < turns && good && !power_is_cut(); turn++) {
        unsigned n = 1 + (unsigned)chance(l, IN_FLIGHT);
        for (unsigned i = 0; i < n; i++)
            board(l, &flights[i]);
        pthread_mutex_lock(&flight_lock);
        in_flight = n;
        pthread_mutex_unlock(&flight_lock);
        for (unsigned i = 0; i < n; i++)
            eb_store_submit(store, &flights[i].op, &flights[i].op);
        pthread_mutex_lock(&flight_lock);
        while (in_flight)
            pthread_cond_wait(&landed, &flight_lock);
        pthread_mutex_unlock(&flight_lock);
        for (unsigned i = 0; i < n; i++)
            good = land(l, &flights[i]) && good;
    }
    return good;
}

/* ---- rounds ---- */

/* One life of the broker and its end. False: a promise was broken. */
static bool one_round(struct ledger *l)
{
    struct power_options options = {.seed = chance(l, UINT32_MAX) + 1,
                                    .ignore_sync = l->ignore_sync};
    struct eb_store_config config = {.path = l->path,
                                     .vfs = "power",
                                     .dedupe_window_ms = 600000,
                                     .dedupe_max = DEDUPE_MAX,
                                     .acked_retention_ms = -1};
    struct eb_store *store = NULL;
    struct eb_error err = {0};
    bool good = true;
    power_begin(&options);
    if (!chance(l, 4)) /* while it recovers */
        power_arm(1 + chance(l, 40));
    int rc = eb_store_open(&config, &store, &err);
    if (rc && !power_is_cut()) {
        snprintf(l->trouble, sizeof(l->trouble), "it does not start: %.180s", err.message);
        good = false;
    }
    if (!rc) {
        l->opened++;
        if (!power_is_cut())
            good = check(l, store);
        power_arm(1 + chance(l, 300));
        assert_int_equal(eb_store_start(store, NULL), 0);
        for (int i = 0; i < 5 && good; i++)
            good = repeat(l, store);
        good = good && publish(l, store) && repeat(l, store);
        if (chance(l, 3))
            power_cut();
        eb_store_close(store); /* orderly, if the power lasts */
    }
    power_cut();
    power_restore();
    return good;
}

static struct ledger *begin(uint64_t seed)
{
    struct ledger *l = calloc(1, sizeof(*l));
    l->random = seed;
    l->next = 1;
    l->promises = calloc(IDS_MAX, sizeof(*l->promises));
    l->number_of = calloc(IDS_MAX, sizeof(*l->number_of));
    l->members = calloc(IDS_MAX, 1);
    l->dead = calloc(IDS_MAX, 1);
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
    free(l->promises);
    free(l->number_of);
    free(l->members);
    free(l->dead);
    free(l);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOGS 3
#else
#define LOGS 8
#endif

/* Hundreds of cuts (EB_TEST_FULL=1: thousands); each few dozen on a log of their own. */
static void nothing_answered_is_lost(void **state)
{
    const char *full = getenv("EB_TEST_FULL");
    uint64_t checked = 0, repeats = 0;
    for (uint64_t log = 1; log <= (full ? 100 : LOGS); log++) {
        struct ledger *l = begin(log * 7919);
        for (int i = 0; i < 30; i++)
            if (!one_round(l))
                fail_msg("log %llu, round %d: %s", (unsigned long long)log, i, l->trouble);
        checked += l->checked;
        repeats += l->repeats;
        end(l);
    }
    assert_true(checked > LOGS * 12);
    assert_true(repeats > LOGS * 12);
}

/* @early or @ignore: the ledger must catch it. */
static void must_be_caught(bool early, bool ignore)
{
    for (uint64_t log = 1; log <= 10; log++) {
        struct ledger *l = begin(log * 104729);
        l->early = early;
        l->ignore_sync = ignore;
        bool good = true;
        for (int i = 0; i < 30 && good; i++)
            good = one_round(l);
        end(l);
        if (!good)
            return;
    }
    fail_msg("the loss was not seen");
}

static void sync_off_is_caught(void **state)
{
    must_be_caught(false, true);
}

static void early_answer_is_caught(void **state)
{
    must_be_caught(true, false);
}

static void quiet(void)
{
    assert_int_equal(eb_log_setup(EB_LOG_ERROR, false, "/dev/null"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"power/nothing_answered_is_lost", nothing_answered_is_lost, NULL, NULL, NULL},
        {"power/sync_off_is_caught", sync_off_is_caught, NULL, NULL, NULL},
        {"power/early_answer_is_caught", early_answer_is_caught, NULL, NULL, NULL},
    };
    quiet();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
