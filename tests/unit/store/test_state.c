/* test_state.c - what others keep in the log's file: with its operation or not at all, found again, at a fixed cost. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/store/internal.h"
#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"
#include "common/uuid.h"

struct kept {
    char folder[64], path[96];
    struct eb_store_config config;
    struct eb_store *store;
    struct eb_reader *reader;
};

static void kept_open(struct kept *k)
{
    struct eb_error err;
    if (eb_store_open(&k->config, &k->store, &err) < 0)
        fail_msg("open: %s", err.message);
    assert_int_equal(eb_reader_create(k->store, &k->reader), 0);
}

static void kept_close(struct kept *k)
{
    eb_reader_destroy(k->reader);
    eb_store_close(k->store);
    k->store = NULL;
    k->reader = NULL;
}

static int setup(void **state)
{
    struct kept *k = calloc(1, sizeof(*k));
    strcpy(k->folder, "/tmp/eb-state-XXXXXX");
    assert_non_null(mkdtemp(k->folder));
    snprintf(k->path, sizeof(k->path), "%s/log.db", k->folder);
    k->config = (struct eb_store_config){.path = k->path,
                                         .durability = EB_DURABILITY_OS,
                                         .dedupe_window_ms = 600000,
                                         .dedupe_max = 100000,
                                         .memory_bytes = 1 << 20,
                                         .acked_retention_ms = -1};
    kept_open(k);
    *state = k;
    return 0;
}

static int setup_memory(void **state)
{
    int rc = setup(state);
    struct kept *k = *state;
    kept_close(k);
    k->config.path = NULL;
    kept_open(k);
    return rc;
}

static int teardown(void **state)
{
    struct kept *k = *state;
    char command[128];
    kept_close(k);
    snprintf(command, sizeof(command), "rm -rf %s", k->folder);
    assert_int_equal(system(command), 0);
    free(k);
    return 0;
}

/* ---- operations ---- */

struct work {
    struct eb_op op;
    struct eb_event *event;
    struct eb_op_result result;
    const struct eb_state_write *give;
    bool withdraw; /* set count to 0 in collect */
    uint64_t last; /* as collect found it */
    unsigned collected, done;
};

static const struct eb_state_write *collect(struct eb_op *op)
{
    struct work *w = op->user;
    w->collected++;
    w->last = op->last_seq;
    if (w->withdraw)
        op->count = 0;
    return w->give;
}

static void done(struct eb_op *op)
{
    ((struct work *)op->user)->done++;
}

static void run(struct kept *k, struct work *w)
{
    w->op.collect = collect;
    w->op.done = done;
    w->op.user = w;
    eb_store_submit(k->store, &w->op, &w->op);
    eb_writer_drain(k->store);
    assert_int_equal(w->done, 1);
    assert_int_equal(w->collected, 1);
}

/* A state op with these writes (linked here). */
static enum eb_code keep(struct kept *k, struct eb_state_write *writes, size_t count)
{
    for (size_t i = 0; i + 1 < count; i++)
        writes[i].next_write = &writes[i + 1];
    struct work w = {.op = {.kind = EB_OP_STATE}, .give = count ? writes : NULL};
    run(k, &w);
    return w.op.err.code;
}
#define KEEP(k, ...)                                                                               \
    keep(k, (struct eb_state_write[]){__VA_ARGS__},                                                \
         sizeof((struct eb_state_write[]){__VA_ARGS__}) / sizeof(struct eb_state_write))

static struct eb_event *event_of(const char *topic, const char *payload, const uint8_t *id)
{
    struct eb_draft draft = {.topic = topic,
                             .topic_len = strlen(topic),
                             .payload = payload,
                             .payload_len = strlen(payload),
                             .has_id = true};
    if (id)
        memcpy(draft.id, id, 16);
    else
        eb_uuid_v7(draft.id);
    struct eb_event *event = eb_event_create(&draft);
    assert_non_null(event);
    return event;
}

/* A publish that keeps @write with it. */
static struct work publish(struct kept *k, const char *topic, const char *payload,
                           const uint8_t *id, const struct eb_state_write *write)
{
    struct work w = {.op = {.kind = EB_OP_PUBLISH, .count = 1}, .give = write};
    w.event = event_of(topic, payload, id);
    w.op.events = &w.event;
    w.op.results = &w.result;
    run(k, &w);
    eb_event_unref(w.event);
    w.op.events = NULL;
    w.op.results = NULL;
    return w;
}

static struct eb_state_write consumer(uint64_t id, const char *name, uint64_t next)
{
    return (struct eb_state_write){.kind = EB_STATE_CONSUMER,
                                   .consumer = id,
                                   .name = name,
                                   .settings = "{}",
                                   .made_ms = 5,
                                   .next = next,
                                   .first_open = next};
}

/* ---- what is there, as text ---- */

struct told {
    char text[4096];
    size_t len;
    int stop;
};

static int tell_consumer(void *ctx, const struct eb_state_consumer *c)
{
    struct told *t = ctx;
    t->len += (size_t)snprintf(
        t->text + t->len, sizeof(t->text) - t->len, "%llu %s %s %lld %llu %llu %llu/%llu/%llu %s\n",
        (unsigned long long)c->id, c->name, c->settings, (long long)c->made_ms,
        (unsigned long long)c->next, (unsigned long long)c->first_open,
        (unsigned long long)c->counts.redelivered, (unsigned long long)c->counts.dead,
        (unsigned long long)c->counts.lost, c->stopped ? c->stopped : "-");
    return t->stop;
}

static int tell_block(void *ctx, uint64_t id, uint64_t block, const uint8_t *data, size_t len)
{
    struct told *t = ctx;
    t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, " %llu.%llu %.*s\n",
                               (unsigned long long)id, (unsigned long long)block, (int)len, data);
    return 0;
}

static void is_kept(struct kept *k, const char *expected)
{
    struct told t = {.text = ""};
    struct eb_state_loader loader = {&t, tell_consumer, tell_block};
    assert_int_equal(eb_store_load_state(k->store, &loader), 0);
    assert_string_equal(t.text, expected);
}

static void dead_are(struct kept *k, uint64_t consumer_id, uint64_t after, size_t max,
                     const char *expected)
{
    uint64_t seqs[16];
    char text[256] = "";
    ptrdiff_t n = eb_reader_dead(k->reader, consumer_id, after, seqs, max);
    assert_true(n >= 0);
    for (ptrdiff_t i = 0; i < n; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%llu ",
                 (unsigned long long)seqs[i]);
    assert_string_equal(text, expected);
}

static uint64_t mark(struct kept *k, const char *name)
{
    uint64_t value = 77;
    assert_int_equal(eb_store_mark(k->store, name, &value), 0);
    return value;
}

/* ---- tests ---- */

/* All that a state op gave is found after a start, in the order that was promised, and a change replaces what was. */
static void kept_is_found_again(void **state)
{
    struct kept *k = *state;
    struct eb_state_write billing = consumer(3, "billing", 10);
    billing.counts = (struct eb_state_counts){1, 2, 3};
    billing.stopped = "gone";
    assert_int_equal(
        KEEP(
            k, billing, consumer(1, "mail", 1),
            {.kind = EB_STATE_BLOCK,
             .consumer = 1,
             .block = 9,
             .data = (uint8_t *)"nine",
             .len = 4},
            {.kind = EB_STATE_BLOCK, .consumer = 1, .block = 2, .data = (uint8_t *)"two", .len = 3},
            {.kind = EB_STATE_BLOCK,
             .consumer = 3,
             .block = 5,
             .data = (uint8_t *)"five",
             .len = 4},
            {.kind = EB_STATE_MARK, .name = "outbox", .next = 41}),
        EB_OK);
    assert_int_equal(
        KEEP(k, {.kind = EB_STATE_POSITION, .consumer = 1, .next = 8, .first_open = 4},
             {.kind = EB_STATE_BLOCK, .consumer = 1, .block = 2, .data = (uint8_t *)"2", .len = 1},
             {.kind = EB_STATE_BLOCK, .consumer = 3, .block = 5}, /* without data: it goes */
             {.kind = EB_STATE_MARK, .name = "outbox", .next = 42}),
        EB_OK);
    kept_close(k);
    kept_open(k);
    is_kept(k, "1 mail {} 5 8 4 0/0/0 -\n 1.2 2\n 1.9 nine\n3 billing {} 5 10 10 1/2/3 gone\n");
    assert_int_equal(mark(k, "outbox"), 42);
    assert_int_equal(mark(k, "other"), 0);
    assert_int_equal(KEEP(k, {.kind = EB_STATE_BLOCKS_CLEAR, .consumer = 1},
                          {.kind = EB_STATE_DROP, .consumer = 3}),
                     EB_OK);
    is_kept(k, "1 mail {} 5 8 4 0/0/0 -\n");
}

/* What a callback says ends the telling. */
static void loading_ends_where_it_is_told_to(void **state)
{
    struct kept *k = *state;
    struct told t = {.stop = -ECANCELED};
    struct eb_state_loader loader = {&t, tell_consumer, tell_block};
    assert_int_equal(KEEP(k, consumer(1, "a", 1), consumer(2, "b", 1)), EB_OK);
    assert_int_equal(eb_store_load_state(k->store, &loader), -ECANCELED);
    assert_string_equal(t.text, "1 a {} 5 1 1 0/0/0 -\n");
}

/* A dead letter stands under the seq that its event was given; the list is read in pages; a drop ends it. */
static void dead_letters_are_listed_by_their_seq(void **state)
{
    struct kept *k = *state;
    struct eb_state_write dead = {.kind = EB_STATE_DEAD_ADD, .consumer = 7};
    assert_int_equal(KEEP(k, {.kind = EB_STATE_DROP, .consumer = 7}), EB_OK); /* of nothing */
    for (int i = 1; i <= 4; i++)
        assert_int_equal(publish(k, "$dead.c", "x", NULL, i == 2 ? NULL : &dead).op.err.code,
                         EB_OK);
    assert_int_equal(KEEP(k, {.kind = EB_STATE_DEAD_ADD, .consumer = 8, .seq = 2}), EB_OK);
    dead_are(k, 7, 0, 16, "1 3 4 ");
    dead_are(k, 7, 1, 1, "3 ");
    dead_are(k, 8, 0, 16, "2 ");
    assert_int_equal(KEEP(k, {.kind = EB_STATE_DEAD_DROP, .consumer = 7, .seq = 3},
                          {.kind = EB_STATE_DEAD_DROP, .consumer = 7, .seq = 99}),
                     EB_OK);
    dead_are(k, 7, 0, 16, "1 4 ");
    assert_int_equal(KEEP(k, {.kind = EB_STATE_DROP, .consumer = 7}), EB_OK);
    dead_are(k, 7, 0, 16, "");
    dead_are(k, 8, 0, 16, "2 ");
}

/* A refused publish keeps nothing; one that was withdrawn is a fence; a repeat keeps what it brings. */
static void refused_keeps_nothing(void **state)
{
    struct kept *k = *state;
    static const uint8_t id[16] = {7};
    struct eb_state_write at[] = {{.kind = EB_STATE_MARK, .name = "m", .next = 1},
                                  {.kind = EB_STATE_MARK, .name = "m", .next = 2},
                                  {.kind = EB_STATE_MARK, .name = "m", .next = 3}};
    assert_int_equal(publish(k, "t", "x", id, &at[0]).result.seq, 1);
    assert_int_equal(mark(k, "m"), 1);
    assert_int_equal(publish(k, "t", "other", id, &at[1]).op.err.code, EB_MESSAGE_ID_REUSED);
    assert_int_equal(mark(k, "m"), 1);
    assert_true(publish(k, "t", "x", id, &at[2]).result.duplicate);
    assert_int_equal(mark(k, "m"), 3);
    struct work w = {.op = {.kind = EB_OP_PUBLISH, .count = 1}, .withdraw = true};
    w.event = event_of("t", "y", NULL);
    w.op.events = &w.event;
    w.op.results = &w.result;
    run(k, &w);
    eb_event_unref(w.event);
    assert_int_equal(w.op.err.code, EB_OK);
    assert_int_equal(w.last, 1);
    assert_int_equal(eb_store_last_seq(k->store), 1);
}

static const struct eb_state_write *collect_by_mark(struct eb_op *op)
{
    struct work *w = op->user;
    uint64_t value;
    assert_int_equal(eb_store_mark(((struct kept *)w->give)->store, "m", &value), 0);
    if (value >= 5)
        op->count = 0;
    static const struct eb_state_write five = {.kind = EB_STATE_MARK, .name = "m", .next = 5};
    return value >= 5 ? NULL : &five;
}

/* `collect` sees the mark that an op before it has set, also in the same transaction. */
static void a_mark_is_seen_by_the_next_op(void **state)
{
    struct kept *k = *state;
    struct work w[2];
    for (int i = 0; i < 2; i++) {
        w[i] = (struct work){.op = {.kind = EB_OP_PUBLISH, .count = 1, .done = done},
                             .give = (const void *)k};
        w[i].event = event_of("t", "x", NULL);
        w[i].op.events = &w[i].event;
        w[i].op.results = &w[i].result;
        w[i].op.collect = collect_by_mark;
        w[i].op.user = &w[i];
    }
    w[0].op.next = &w[1].op;
    eb_store_submit(k->store, &w[0].op, &w[1].op);
    eb_writer_drain(k->store);
    assert_int_equal(w[0].op.err.code, EB_OK);
    assert_int_equal(w[1].op.err.code, EB_OK);
    assert_int_equal(w[1].op.count, 0);
    assert_int_equal(eb_store_last_seq(k->store), 1);
    for (int i = 0; i < 2; i++)
        eb_event_unref(w[i].event);
}

/* An op that keeps nothing, and one with nothing that can be kept, are places in the order. */
static void nothing_to_keep_is_a_fence(void **state)
{
    struct kept *k = *state;
    uint64_t commits = atomic_load(&k->store->stats.commits);
    assert_int_equal(keep(k, NULL, 0), EB_OK);
    assert_int_equal(atomic_load(&k->store->stats.commits), commits);
}

/* What a write costs does not depend on what is there: pages that go into the WAL are counted. */
static void a_write_costs_the_same_behind_any_backlog(void **state)
{
    struct kept *k = *state;
    struct eb_sqlite *e = eb_sqlite_of(k->store->engine);
    unsigned cost[2];
    uint8_t data[64] = {1};
    assert_int_equal(KEEP(k, consumer(1, "a", 1)), EB_OK);
    for (int round = 0; round < 2; round++) {
        unsigned before = e->wal_frames;
        for (uint64_t i = 0; i < 50; i++)
            assert_int_equal(KEEP(k,
                                  {.kind = EB_STATE_POSITION, .consumer = 1, .next = 1000000 + i},
                                  {.kind = EB_STATE_BLOCK,
                                   .consumer = 1,
                                   .block = 7,
                                   .data = data,
                                   .len = sizeof(data)},
                                  {.kind = EB_STATE_MARK, .name = "m", .next = i},
                                  {.kind = EB_STATE_DEAD_ADD, .consumer = 1, .seq = 500 + i}),
                             EB_OK);
        cost[round] = e->wal_frames - before;
        struct eb_state_write *many = calloc(40000, sizeof(*many));
        for (uint64_t i = 0; i < 20000 && round == 0; i++) {
            many[2 * i] = (struct eb_state_write){.kind = EB_STATE_BLOCK,
                                                  .consumer = 1 + i % 3,
                                                  .block = 100 + i,
                                                  .data = data,
                                                  .len = sizeof(data)};
            many[2 * i + 1] = (struct eb_state_write){
                .kind = EB_STATE_DEAD_ADD, .consumer = 1 + i % 3, .seq = 1000 + i};
        }
        if (round == 0)
            assert_int_equal(keep(k, many, 40000), EB_OK);
        free(many);
    }
    assert_true(cost[0] <= 50 * 4);
    assert_true(cost[1] <= 50 * 4 + 4); /* a page that splits */
}

/* A deletion that fails inside a group (J2) takes neither the publish nor what it keeps with it. */
static void a_failing_delete_in_a_group_costs_nothing(void **state)
{
    struct kept *k = *state;
    struct eb_state_write mark_five = {.kind = EB_STATE_MARK, .name = "m", .next = 5};
    kept_close(k);
    k->config.retention_events = 2;
    kept_open(k);
    for (int i = 0; i < 6; i++)
        publish(k, "t", "x", NULL, NULL);
    assert_int_equal(eb_sql_exec(eb_sqlite_of(k->store->engine)->db,
                                 "CREATE TEMP TRIGGER no BEFORE DELETE ON main.log BEGIN"
                                 " SELECT RAISE(FAIL, 'cannot be deleted'); END"),
                     0);
    k->store->trim_behind = true;
    struct work w = publish(k, "t", "y", NULL, &mark_five);
    assert_int_equal(w.op.err.code, EB_OK);
    assert_int_equal(w.result.seq, 7);
    assert_int_equal(mark(k, "m"), 5);
    assert_false(k->store->trim_behind);
    struct eb_store_info info;
    eb_store_info(k->store, &info);
    assert_int_equal(info.events, 7);
    assert_false(info.read_only);
    assert_int_equal(eb_sql_exec(eb_sqlite_of(k->store->engine)->db, "DROP TRIGGER no"), 0);
    k->store->trim_behind = true;
    publish(k, "t", "z", NULL, NULL);
    eb_store_info(k->store, &info);
    assert_true(info.events < 8);
}

/* With storage = memory lists of dead letters are kept, the rest is taken and forgotten. */
static void memory_keeps_dead_letters_only(void **state)
{
    struct kept *k = *state;
    assert_int_equal(KEEP(k, consumer(1, "a", 1), {.kind = EB_STATE_MARK, .name = "m", .next = 4}),
                     EB_OK);
    is_kept(k, "");
    assert_int_equal(mark(k, "m"), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define MEMORY(name)                                                                               \
    {                                                                                              \
#name "/memory", name, setup_memory, teardown, NULL                                        \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(kept_is_found_again),
        T(loading_ends_where_it_is_told_to),
        T(dead_letters_are_listed_by_their_seq),
        MEMORY(dead_letters_are_listed_by_their_seq),
        T(refused_keeps_nothing),
        T(a_mark_is_seen_by_the_next_op),
        T(nothing_to_keep_is_a_fence),
        T(a_write_costs_the_same_behind_any_backlog),
        T(a_failing_delete_in_a_group_costs_nothing),
        MEMORY(memory_keeps_dead_letters_only),
    };
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
