/*
 * test_asks.c - what a publish may ask beside being stored now (PROTOCOL 8): a condition on its topic's last seq, and to
 * wait until it is due.
 */
#include "tests/unit/store/fixture.h"

#include <sqlite3.h>

#include "common/log.h"

struct world {
    struct fixture fx;
    char folder[64], path[96];
};

static struct world *world_new(bool memory)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    strcpy(w->folder, "/tmp/eb-asks-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    snprintf(w->path, sizeof(w->path), "%s/eventbus.db", w->folder);
    w->fx.log = memory ? NULL : w->path;
    w->fx.free = UINT64_MAX / 2;
    w->fx.config.max_scheduled = 1000;
    w->fx.config.durability = EB_DURABILITY_OS;
    w->fx.config.dedupe_max = 100000;
    fx_open(&w->fx);
    return w;
}

static void restart(struct world *w)
{
    eb_store_close(w->fx.store);
    fx_open(&w->fx);
}

static void world_free(struct world *w)
{
    char command[128];
    eb_store_close(w->fx.store);
    snprintf(command, sizeof(command), "rm -rf %s", w->folder);
    assert_int_equal(system(command), 0);
    free(w);
}

/* ---- ops ---- */

static struct eb_op_ask asks[64][8];
static unsigned asks_used;

/* Another member, with what it asks. */
static struct act *member(struct act *act, unsigned id, const char *topic, const char *payload,
                          struct eb_op_ask ask)
{
    struct eb_op_ask *mine = (struct eb_op_ask *)act->op.asks;
    if (!mine) {
        mine = asks[asks_used++ % 64];
        memset(mine, 0, sizeof(asks[0]));
        act->op.asks = mine;
    }
    mine[act->op.count] = ask;
    return add(act, id, topic, payload);
}

#define EXPECT(seq) ((struct eb_op_ask){.has_expected = true, .expected = (seq)})
#define DUE(ms)     ((struct eb_op_ask){.due_ms = (ms)})

static struct act *one(struct world *w, unsigned id, const char *topic, const char *payload,
                       struct eb_op_ask ask)
{
    return member(act_new(&w->fx, EB_OP_PUBLISH), id, topic, payload, ask);
}

static enum eb_code unschedule(struct world *w, unsigned id)
{
    struct act *act = act_new(&w->fx, EB_OP_UNSCHEDULE);
    id_from(act->op.id, id);
    return code_of(act);
}

/* What is due enters; its ids as text, in the order in which it came: "3 1 2". */
static const char *due(struct world *w, uint32_t room)
{
    static char text[200];
    size_t len = 0;
    struct act *act = act_new(&w->fx, EB_OP_DUE);
    act->op.room = room;
    run(act);
    assert_int_equal(act->op.err.code, EB_OK);
    text[0] = '\0';
    for (uint32_t i = 0; i < act->op.count; i++) {
        unsigned id;
        memcpy(&id, act->events[i]->id, sizeof(id));
        assert_int_equal(act->events[i]->seq, act->results[i].seq);
        assert_true(act->results[i].seq > 0 && !act->results[i].duplicate);
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%u", i ? " " : "", id);
        eb_event_unref(act->events[i]);
    }
    if (act->op.more)
        snprintf(text + len, sizeof(text) - len, " more");
    act_free(act);
    return text;
}

static uint64_t scheduled(struct world *w)
{
    struct eb_store_info info;
    eb_store_info(w->fx.store, &info);
    return info.scheduled;
}

/* Ids that wait, by place. */
static const char *waiting(struct world *w)
{
    static char text[200];
    struct eb_reader *reader;
    struct eb_scheduled list[3];
    uint64_t after = 0;
    ptrdiff_t count;
    size_t len = 0;
    text[0] = '\0';
    assert_int_equal(eb_reader_create(w->fx.store, &reader), 0);
    while ((count = eb_reader_scheduled(reader, after, list, 3)) > 0)
        for (ptrdiff_t i = 0; i < count; i++) {
            unsigned id;
            memcpy(&id, list[i].event->id, sizeof(id));
            assert_int_equal(list[i].event->seq, 0);
            assert_true(list[i].place > after);
            after = list[i].place;
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%u", len ? " " : "", id);
            eb_event_unref(list[i].event);
        }
    assert_int_equal(count, 0);
    eb_reader_destroy(reader);
    return text;
}

static void sql(struct world *w, const char *text)
{
    sqlite3 *db;
    char *message = NULL;
    assert_int_equal(sqlite3_open(w->path, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", text, message);
    sqlite3_close(db);
}

/* ---- conditions ---- */

static void check_conflict(struct act *act, int index, uint64_t last, const char *text)
{
    run(act);
    assert_int_equal(act->op.err.code, EB_CONFLICT);
    assert_int_equal(act->op.err.index, index);
    assert_true(act->op.err.has_last_seq);
    assert_int_equal(act->op.err.last_seq, last);
    assert_string_equal(act->op.err.message, text);
    act_free(act);
}

static void only_after_the_seq_it_names(bool memory)
{
    struct world *w = world_new(memory);
    assert_int_equal(seq_of(one(w, 1, "a", "x", EXPECT(0))), 1);
    assert_int_equal(seq_of(one(w, 2, "b", "x", EXPECT(0))), 2);
    assert_int_equal(seq_of(one(w, 3, "a", "x", EXPECT(1))), 3);
    check_conflict(one(w, 4, "a", "x", EXPECT(1)), 0, 3,
                   "topic \"a\" has last seq 3, not 1: read what is new and try again");
    check_conflict(one(w, 4, "c", "x", EXPECT(9)), 0, 0,
                   "topic \"c\" has last seq 0, not 9: read what is new and try again");
    assert_int_equal(seq_of(publish(&w->fx, 5, "a", "x")), 4);
    assert_int_equal(seq_of(one(w, 4, "a", "x", EXPECT(4))), 5);
    world_free(w);
}

/* A condition holds or refuses, naming the true last seq; a refused id is free again. */
static void condition_in_a_file(void **state)
{
    only_after_the_seq_it_names(false);
}
static void condition_in_memory(void **state)
{
    only_after_the_seq_it_names(true);
}

/* A retry of one's own success is a repeat, though the condition no longer holds; another content is not. */
static void repeat_comes_before_the_condition(void **state)
{
    struct world *w = world_new(false);
    struct act *act;
    assert_int_equal(seq_of(one(w, 1, "a", "x", EXPECT(0))), 1);
    assert_int_equal(seq_of(one(w, 2, "a", "y", EXPECT(1))), 2);
    act = run(one(w, 1, "a", "x", EXPECT(0)));
    assert_int_equal(act->op.err.code, EB_OK);
    assert_true(act->results[0].duplicate);
    assert_int_equal(act->results[0].seq, 1);
    act_free(act);
    assert_int_equal(code_of(one(w, 1, "a", "z", EXPECT(0))), EB_MESSAGE_ID_REUSED);
    world_free(w);
}

/* Members see earlier members, ops earlier ops of the group; what is refused between has not been. */
static void members_and_ops_see_what_is_before_them(void **state)
{
    struct world *w = world_new(false);
    struct act *batch = act_new(&w->fx, EB_OP_PUBLISH), *refused, *last, *other;
    member(batch, 1, "a", "x", EXPECT(0));
    member(batch, 2, "b", "x", EXPECT(0));
    member(batch, 3, "a", "x", EXPECT(1));
    submit(batch);
    refused = act_new(&w->fx, EB_OP_PUBLISH);
    member(refused, 4, "a", "x", EXPECT(3));
    member(refused, 5, "c", "x", EXPECT(0));
    member(refused, 6, "a", "x", EXPECT(3)); /* it is 4 by now */
    submit(refused);
    last = submit(one(w, 7, "a", "x", EXPECT(3)));
    other = submit(one(w, 8, "c", "x", EXPECT(0)));
    eb_writer_drain(w->fx.store);
    assert_int_equal(w->fx.commits, 1);
    assert_int_equal(batch->op.err.code, EB_OK);
    assert_int_equal(batch->results[2].seq, 3);
    assert_int_equal(refused->op.err.code, EB_CONFLICT);
    assert_int_equal(refused->op.err.index, 2);
    assert_int_equal(refused->op.err.last_seq, 4);
    assert_int_equal(refused->results[0].seq, 0);
    assert_int_equal(last->op.err.code, EB_OK);
    assert_int_equal(last->results[0].seq, 4);
    assert_int_equal(eb_store_last_seq(w->fx.store), 5);
    act_free(batch);
    act_free(refused);
    assert_int_equal(other->results[0].seq, 5);
    act_free(last);
    act_free(other);
    world_free(w);
}

#define GROUP 6
#define WORDS 5

/* What a store should be: topics' last seqs, ids that are known. */
struct simple {
    uint64_t last[WORDS], next;
    uint64_t seq_of[100000]; /* by id; 0: not known */
    uint32_t random;
};

static uint32_t chance(struct simple *s, uint32_t n)
{
    s->random = s->random * 1664525u + 1013904223u;
    return (s->random >> 8) % n;
}

static const char *const words[WORDS] = {"a", "b", "c", "d", "e"};

/* A random op; what it asks is right most of the time, as far as this can know. */
static struct act *random_op(struct world *w, struct simple *s, unsigned *next_id,
                             const uint64_t last[WORDS])
{
    struct act *act = act_new(&w->fx, EB_OP_PUBLISH);
    unsigned count = 1 + chance(s, 8);
    for (unsigned i = 0; i < count; i++) {
        unsigned word = chance(s, WORDS);
        unsigned id = chance(s, 8) ? ++*next_id : 1 + chance(s, *next_id + 1);
        struct eb_op_ask ask = {.has_expected = chance(s, 3) > 0,
                                .expected = chance(s, 10) ? last[word] : chance(s, 50)};
        member(act, id, words[word], words[word], ask);
    }
    return act;
}

static unsigned id_of(const struct eb_event *event)
{
    unsigned id;
    memcpy(&id, event->id, sizeof(id));
    return id;
}

/* The op on the simple store: what it must have been answered. */
static void check_op(struct simple *s, const struct act *act, uint64_t seqs[100000])
{
    struct simple *t = malloc(sizeof(*t));
    enum eb_code code = EB_OK;
    assert_non_null(t);
    *t = *s;
    for (uint32_t i = 0; code == EB_OK && i < act->op.count; i++) {
        const struct eb_event *event = act->events[i];
        unsigned word = (unsigned)(event->topic[0] - 'a'), id = id_of(event);
        if (t->seq_of[id]) {
            if (seqs[id] != word)
                code = EB_MESSAGE_ID_REUSED;
            else if (act->op.err.code == EB_OK)
                assert_true(act->results[i].duplicate && act->results[i].seq == t->seq_of[id]);
        } else if (act->op.asks[i].has_expected && act->op.asks[i].expected != t->last[word]) {
            code = EB_CONFLICT;
            assert_int_equal(act->op.err.last_seq, t->last[word]);
        } else {
            t->last[word] = t->seq_of[id] = t->next++;
            seqs[id] = word;
            if (act->op.err.code == EB_OK)
                assert_int_equal(act->results[i].seq, t->seq_of[id]);
        }
        if (code != EB_OK)
            assert_int_equal(act->op.err.index, i);
    }
    assert_int_equal(act->op.err.code, code);
    if (code == EB_OK)
        *s = *t;
    free(t);
}

static void groups_as_one_by_one(bool memory, uint32_t seed)
{
    struct world *w = world_new(memory);
    struct simple *s = calloc(1, sizeof(*s));
    uint64_t *words_of = calloc(100000, sizeof(*words_of));
    unsigned next_id = 0, conflicts = 0;
    s->next = 1;
    s->random = seed;
    for (int round = 0; round < 150; round++) {
        struct act *group[GROUP];
        uint64_t guess[WORDS];
        memcpy(guess, s->last, sizeof(guess));
        for (int i = 0; i < GROUP; i++) {
            group[i] = random_op(w, s, &next_id, guess);
            submit(group[i]);
            for (unsigned n = 0; n < WORDS && chance(s, 2); n++)
                guess[n] = s->next + chance(s, 8);
        }
        bool fails = chance(s, 8) == 0;
        w->fx.fault =
            (struct fault){.at = fails ? (int)chance(s, 4) : -1, .code = -EIO, .lasting = true};
        unsigned hits = w->fx.fault.hits;
        eb_writer_drain(w->fx.store);
        fails = w->fx.fault.hits > hits;
        w->fx.fault.at = -1;
        w->fx.mono += 10000;
        for (int i = 0; i < GROUP; i++) {
            if (!fails)
                check_op(s, group[i], words_of);
            conflicts += group[i]->op.err.code == EB_CONFLICT;
            act_free(group[i]);
        }
        assert_int_equal(eb_store_last_seq(w->fx.store), s->next - 1);
    }
    assert_true(conflicts > 20);
    free(words_of);
    free(s);
    world_free(w);
}

/* However ops are grouped, refused or tried again: each is judged as if all before it had been stored one by one. */
static void groups_are_as_one_by_one(void **state)
{
    for (uint32_t seed = 1; seed <= 10; seed++) {
        groups_as_one_by_one(true, seed);
        groups_as_one_by_one(false, seed);
    }
}

/* ---- scheduled ---- */

/* Durable and without a seq until it is due; then an event like any other, once. */
static void waits_until_it_is_due(void **state)
{
    struct world *w = world_new(false);
    int64_t now = w->fx.wall;
    struct eb_page page;
    struct act *act = run(one(w, 1, "later", "x", DUE(now + 1000)));
    assert_int_equal(act->op.err.code, EB_OK);
    assert_int_equal(act->results[0].seq, 0);
    assert_true(act->results[0].scheduled && !act->results[0].duplicate);
    act_free(act);
    assert_int_equal(eb_store_next_due(w->fx.store), now + 1000);
    assert_int_equal(scheduled(w), 1);
    assert_string_equal(due(w, 8), "");
    assert_int_equal(seq_of(publish(&w->fx, 2, "now", "x")), 1);
    w->fx.wall += 1000;
    assert_string_equal(due(w, 8), "1");
    assert_int_equal(eb_store_next_due(w->fx.store), INT64_MAX);
    assert_int_equal(scheduled(w), 0);
    assert_string_equal(due(w, 8), "");
    page = page_of(&w->fx, "later", (struct eb_page_request){.from = 1});
    assert_int_equal(page.count, 1);
    assert_int_equal(page.items[0].event->seq, 2);
    assert_int_equal(page.items[0].event->timestamp, now + 1000);
    eb_page_finish(&page);
    world_free(w);
}

/* While it waits its id is taken, then its event's until the dedupe window is over. */
static void id_is_taken_when_scheduled(void **state)
{
    struct world *w = world_new(false);
    int64_t now = w->fx.wall;
    struct act *act;
    assert_int_equal(code_of(one(w, 1, "a", "x", DUE(now + 1000))), EB_OK);
    for (int again = 0; again < 2; again++) { /* once asked to wait, once not */
        act = run(one(w, 1, "a", "x", DUE(again ? 0 : now + 5000)));
        assert_int_equal(act->op.err.code, EB_OK);
        assert_true(act->results[0].duplicate && act->results[0].scheduled);
        assert_int_equal(act->results[0].seq, 0);
        act_free(act);
    }
    act = run(publish(&w->fx, 1, "a", "other"));
    assert_int_equal(act->op.err.code, EB_MESSAGE_ID_REUSED);
    assert_non_null(strstr(act->op.err.message, "scheduled event with another payload"));
    act_free(act);
    w->fx.wall += 1000;
    assert_string_equal(due(w, 8), "1");
    act = run(one(w, 1, "a", "x", DUE(now + 9000)));
    assert_true(act->results[0].duplicate && !act->results[0].scheduled);
    assert_int_equal(act->results[0].seq, 1);
    act_free(act);
    w->fx.wall += w->fx.config.dedupe_window_ms + 1;
    assert_int_equal(seq_of(publish(&w->fx, 1, "a", "other")), 2);
    world_free(w);
}

/* What waits can be taken back, what has entered the log cannot. */
static void may_be_taken_back(void **state)
{
    struct world *w = world_new(false);
    int64_t now = w->fx.wall;
    assert_int_equal(unschedule(w, 1), EB_NOT_FOUND);
    assert_int_equal(code_of(one(w, 1, "a", "x", DUE(now + 1000))), EB_OK);
    assert_int_equal(code_of(one(w, 2, "a", "x", DUE(now + 2000))), EB_OK);
    assert_int_equal(unschedule(w, 3), EB_NOT_FOUND);
    assert_int_equal(unschedule(w, 1), EB_OK);
    assert_int_equal(unschedule(w, 1), EB_NOT_FOUND);
    assert_int_equal(eb_store_next_due(w->fx.store), now + 2000);
    w->fx.wall += 2000;
    assert_string_equal(due(w, 8), "2");
    assert_int_equal(unschedule(w, 2), EB_CONFLICT);
    assert_int_equal(seq_of(publish(&w->fx, 1, "a", "another")), 2);
    world_free(w);
}

/* By due time, then as they were scheduled; as many as there is room for, and it says whether there are more. */
static void due_by_time_and_place(void **state)
{
    struct world *w = world_new(false);
    int64_t now = w->fx.wall;
    const int64_t delay[6] = {300, 100, 200, 100, 5000, 100};
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(code_of(one(w, i + 1, "a", "x", DUE(now + delay[i]))), EB_OK);
    assert_string_equal(waiting(w), "1 2 3 4 5 6");
    w->fx.wall += 1000;
    assert_string_equal(due(w, 2), "2 4 more");
    assert_string_equal(waiting(w), "1 3 5 6");
    assert_string_equal(due(w, 3), "6 3 1");
    assert_int_equal(eb_store_next_due(w->fx.store), now + 5000);
    assert_string_equal(waiting(w), "5");
    world_free(w);
}

/* A restart forgets nothing of it, and counts no rows. */
static void waits_over_a_restart(void **state)
{
    struct world *w = world_new(false);
    int64_t now = w->fx.wall;
    for (unsigned i = 1; i <= 4; i++)
        assert_int_equal(code_of(one(w, i, "a", "x", DUE(now + 100 * i))), EB_OK);
    assert_int_equal(unschedule(w, 2), EB_OK);
    restart(w);
    assert_int_equal(scheduled(w), 3);
    assert_int_equal(eb_store_next_due(w->fx.store), now + 100);
    w->fx.wall += 10000;
    assert_string_equal(due(w, 2), "1 3 more");
    restart(w);
    assert_int_equal(scheduled(w), 1);
    assert_int_equal(unschedule(w, 3), EB_CONFLICT);
    assert_string_equal(due(w, 8), "4");
    world_free(w);
}

/* What was put in or taken out by hand while nobody ran is noticed. */
static void rows_changed_by_hand_are_counted(void **state)
{
    struct world *w = world_new(false);
    int64_t now = w->fx.wall;
    assert_int_equal(code_of(one(w, 1, "a", "x", DUE(now + 100))), EB_OK);
    eb_store_close(w->fx.store);
    sql(w, "CREATE TABLE kept AS SELECT * FROM scheduled; DELETE FROM scheduled");
    fx_open(&w->fx);
    assert_int_equal(scheduled(w), 0);
    assert_int_equal(eb_store_next_due(w->fx.store), INT64_MAX);
    assert_int_equal(seq_of(publish(&w->fx, 9, "a", "x")), 1);
    eb_store_close(w->fx.store);
    sql(w, "INSERT INTO scheduled SELECT * FROM kept; DROP TABLE kept;"
           "UPDATE meta SET value = 0 WHERE key = 'scheduled'");
    fx_open(&w->fx);
    assert_int_equal(scheduled(w), 1);
    w->fx.wall += 1000;
    assert_string_equal(due(w, 8), "1");
    world_free(w);
}

/* A batch that is refused has scheduled nothing; its own members are seen by later ones. */
static void batch_is_scheduled_whole(void **state)
{
    struct world *w = world_new(false);
    int64_t soon = w->fx.wall + 1000;
    struct act *act = act_new(&w->fx, EB_OP_PUBLISH);
    member(act, 1, "a", "x", DUE(soon));
    member(act, 2, "a", "x", EXPECT(0));
    member(act, 3, "a", "x", DUE(soon));
    member(act, 4, "a", "x", EXPECT(0));
    assert_int_equal(code_of(act), EB_CONFLICT);
    assert_int_equal(scheduled(w), 0);
    assert_string_equal(waiting(w), "");
    assert_int_equal(unschedule(w, 1), EB_NOT_FOUND);
    act = act_new(&w->fx, EB_OP_PUBLISH);
    member(act, 1, "a", "x", DUE(soon));
    member(act, 2, "a", "x", EXPECT(0));
    member(act, 1, "a", "x", DUE(soon));
    run(act);
    assert_int_equal(act->op.err.code, EB_OK);
    assert_true(act->results[0].scheduled && !act->results[0].duplicate);
    assert_int_equal(act->results[1].seq, 1);
    assert_true(act->results[2].scheduled && act->results[2].duplicate);
    act_free(act);
    assert_int_equal(scheduled(w), 1);
    struct eb_store_counters counters;
    eb_store_counters(w->fx.store, &counters);
    assert_int_equal(counters.duplicates, 1);
    world_free(w);
}

/* max_scheduled bounds what waits; it may be changed while it runs. */
static void no_more_than_max_scheduled(void **state)
{
    struct world *w = world_new(false);
    int64_t soon = w->fx.wall + 1000;
    struct eb_store_config config = w->fx.config;
    config.max_scheduled = 2;
    eb_store_reconfigure(w->fx.store, &config);
    assert_int_equal(code_of(one(w, 1, "a", "x", DUE(soon))), EB_OK);
    assert_int_equal(code_of(one(w, 2, "a", "x", DUE(soon))), EB_OK);
    struct act *act = run(one(w, 3, "a", "x", DUE(soon)));
    assert_int_equal(act->op.err.code, EB_LIMIT_EXCEEDED);
    assert_non_null(strstr(act->op.err.message, "max_scheduled is 2"));
    act_free(act);
    assert_int_equal(code_of(one(w, 2, "a", "x", DUE(soon))), EB_OK); /* a repeat takes no room */
    assert_int_equal(unschedule(w, 1), EB_OK);
    assert_int_equal(code_of(one(w, 3, "a", "x", DUE(soon))), EB_OK);
    world_free(w);
}

/* storage = memory keeps nothing for later, and says so. */
static void memory_has_no_later(void **state)
{
    struct world *w = world_new(true);
    struct act *act = run(one(w, 1, "a", "x", DUE(w->fx.wall + 1000)));
    assert_int_equal(act->op.err.code, EB_INVALID_REQUEST);
    assert_non_null(strstr(act->op.err.message, "storage = sqlite"));
    act_free(act);
    assert_int_equal(unschedule(w, 1), EB_NOT_FOUND);
    assert_string_equal(due(w, 8), "");
    assert_string_equal(waiting(w), "");
    assert_int_equal(eb_store_next_due(w->fx.store), INT64_MAX);
    world_free(w);
}

/* Below min_free what is due still enters the log; nothing new is scheduled. */
static void due_goes_on_below_min_free(void **state)
{
    struct world *w = world_new(false);
    struct eb_store_config config = w->fx.config;
    assert_int_equal(code_of(one(w, 1, "a", "x", DUE(w->fx.wall + 1000))), EB_OK);
    config.min_free = 1 << 20;
    eb_store_reconfigure(w->fx.store, &config);
    w->fx.free = 1000;
    w->fx.mono += 10000;
    w->fx.wall += 1000;
    assert_int_equal(code_of(one(w, 2, "a", "x", DUE(w->fx.wall + 1000))), EB_STORAGE_FULL);
    assert_int_equal(code_of(publish(&w->fx, 3, "a", "x")), EB_STORAGE_FULL);
    assert_string_equal(due(w, 8), "1");
    world_free(w);
}

/* A failed write at any point: all of it or nothing, told truly; it works when tried again. */
static void fault_at_each_call(void **state)
{
    for (int at = 0; at < 12; at++) {
        struct world *w = world_new(false);
        int64_t soon = w->fx.wall + 1000;
        assert_int_equal(code_of(one(w, 1, "a", "x", DUE(soon))), EB_OK);
        assert_int_equal(code_of(one(w, 2, "a", "x", DUE(soon))), EB_OK);
        w->fx.wall += 1000;
        struct act *enters = act_new(&w->fx, EB_OP_DUE), *goes = act_new(&w->fx, EB_OP_UNSCHEDULE),
                   *comes = one(w, 3, "a", "x", DUE(soon + 5000)),
                   *new = one(w, 4, "b", "x", EXPECT(0));
        enters->op.room = 1;
        id_from(goes->op.id, 2);
        w->fx.fault = (struct fault){.at = at, .code = -EIO, .lasting = true};
        submit(enters), submit(goes), submit(comes), submit(new);
        eb_writer_drain(w->fx.store);
        bool hit = w->fx.fault.hits > 0;
        w->fx.fault.at = -1;
        assert_int_equal(enters->op.err.code, hit ? EB_UNAVAILABLE : EB_OK);
        assert_int_equal(goes->op.err.code, hit ? EB_UNAVAILABLE : EB_OK);
        assert_int_equal(comes->op.err.code, hit ? EB_UNAVAILABLE : EB_OK);
        assert_int_equal(new->op.err.code, hit ? EB_UNAVAILABLE : EB_OK);
        assert_int_equal(enters->op.count, hit ? 0 : 1);
        assert_string_equal(waiting(w), hit ? "1 2" : "3");
        for (uint32_t i = 0; i < enters->op.count; i++)
            eb_event_unref(enters->events[i]);
        act_free(enters), act_free(goes), act_free(comes), act_free(new);
        w->fx.mono += 10000;
        assert_string_equal(due(w, 8), hit ? "1 2" : "");
        restart(w);
        assert_string_equal(waiting(w), hit ? "" : "3");
        assert_int_equal(eb_store_last_seq(w->fx.store), 2);
        world_free(w);
    }
}

/* A damaged row is never delivered; it is counted, and does not hold up those behind it. */
static void damaged_one_is_passed_over(void **state)
{
    struct world *w = world_new(false);
    int64_t soon = w->fx.wall + 1000;
    for (unsigned i = 1; i <= 3; i++)
        assert_int_equal(code_of(one(w, i, "a", "x", DUE(soon + i))), EB_OK);
    eb_store_close(w->fx.store);
    sql(w, "UPDATE scheduled SET payload = x'79' WHERE place = 1");
    fx_open(&w->fx);
    assert_string_equal(waiting(w), "2 3");
    w->fx.wall += 2000;
    assert_string_equal(due(w, 8), "2 3");
    assert_int_equal(atomic_load(&w->fx.counters.damaged), 1);
    assert_int_equal(eb_store_next_due(w->fx.store), INT64_MAX);
    assert_int_equal(code_of(one(w, 1, "a", "x", DUE(soon + 9000))), EB_MESSAGE_ID_REUSED);
    assert_int_equal(code_of(one(w, 4, "a", "x", DUE(soon + 9000))), EB_OK);
    world_free(w);
}

/* The checksum of a row is what docs/formats/log.md says (the number is another program's). */
static void crc_is_as_documented(void **state)
{
    struct world *w = world_new(false);
    sqlite3 *db;
    sqlite3_stmt *stmt;
    assert_int_equal(w->fx.wall, 1700000000000);
    assert_int_equal(code_of(one(w, 1, "a", "x", DUE(1700000001000))), EB_OK);
    assert_int_equal(sqlite3_open(w->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT crc FROM scheduled", -1, &stmt, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int64(stmt, 0), 0xbc20bf07u);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(condition_in_a_file),
        cmocka_unit_test(condition_in_memory),
        cmocka_unit_test(repeat_comes_before_the_condition),
        cmocka_unit_test(members_and_ops_see_what_is_before_them),
        cmocka_unit_test(groups_are_as_one_by_one),
        cmocka_unit_test(waits_until_it_is_due),
        cmocka_unit_test(id_is_taken_when_scheduled),
        cmocka_unit_test(may_be_taken_back),
        cmocka_unit_test(due_by_time_and_place),
        cmocka_unit_test(waits_over_a_restart),
        cmocka_unit_test(rows_changed_by_hand_are_counted),
        cmocka_unit_test(batch_is_scheduled_whole),
        cmocka_unit_test(no_more_than_max_scheduled),
        cmocka_unit_test(memory_has_no_later),
        cmocka_unit_test(due_goes_on_below_min_free),
        cmocka_unit_test(fault_at_each_call),
        cmocka_unit_test(damaged_one_is_passed_over),
        cmocka_unit_test(crc_is_as_documented),
    };
    return cmocka_run_group_tests_name("asks", tests, NULL, NULL);
}
