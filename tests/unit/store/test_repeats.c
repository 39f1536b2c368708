/* test_repeats.c - an id that the broker made is published again (PROTOCOL 2.2): it says its seq, and no table knows it. */
#include <sqlite3.h>

#include "common/uuid.h"
#include "fixture.h"

struct world {
    struct fixture fx; /* first */
    char folder[64], path[96];
};

static int setup(void **state)
{
    *state = calloc(1, sizeof(struct world));
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char command[96];
    eb_store_close(w->fx.store);
    snprintf(command, sizeof command, "rm -rf '%s'", w->folder);
    int rc = w->folder[0] ? system(command) : 0;
    free(w);
    return rc;
}

/* With a file in place of memory. */
static struct fixture *with_file(void **state)
{
    struct world *w = *state;
    if (!w->folder[0]) {
        snprintf(w->folder, sizeof w->folder, "/dev/shm/eb-repeats-XXXXXX");
        assert_non_null(mkdtemp(w->folder));
        snprintf(w->path, sizeof w->path, "%s/log.db", w->folder);
        w->fx.log = w->path;
    }
    fx_open(&w->fx);
    return &w->fx;
}

static void sql(struct fixture *fx, const char *text)
{
    sqlite3 *db;
    char *why = NULL;
    assert_int_equal(sqlite3_open(fx->log, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", text, why);
    sqlite3_close(db);
}

static struct eb_event *plain_event(const char *topic, const char *payload, const uint8_t *id)
{
    struct eb_draft draft = {.topic = topic,
                             .topic_len = strlen(topic),
                             .payload = payload,
                             .payload_len = strlen(payload),
                             .has_id = id != NULL};
    if (id)
        memcpy(draft.id, id, 16);
    struct eb_event *event = eb_event_create(&draft);
    assert_non_null(event);
    return event;
}

/* One more event without an id, or with one in full. */
static struct act *add_event(struct act *act, const char *payload, const uint8_t *id)
{
    act->events[act->op.count++] = plain_event("a", payload, id);
    return act;
}

static struct act *unnamed(struct fixture *fx, const char *payload)
{
    return add_event(act_new(fx, EB_OP_PUBLISH), payload, NULL);
}

static struct act *named(struct fixture *fx, const char *payload, const uint8_t id[16])
{
    return add_event(act_new(fx, EB_OP_PUBLISH), payload, id);
}

/* Publish without an id; the answer's seq, and the id. */
static uint64_t publish_plain(struct fixture *fx, const char *payload, uint8_t ret_id[16])
{
    struct act *act = run(unnamed(fx, payload));
    assert_int_equal(EB_OK, act->op.err.code);
    assert_false(act->results[0].duplicate);
    memcpy(ret_id, act->events[0]->id, 16);
    uint64_t seq = act->results[0].seq;
    act_free(act);
    return seq;
}

/* Publish with @id: what it repeats, 0: it was new. */
static uint64_t repeat_of(struct fixture *fx, const char *payload, const uint8_t id[16])
{
    struct act *act = run(named(fx, payload, id));
    assert_int_equal(EB_OK, act->op.err.code);
    uint64_t seq = act->results[0].duplicate ? act->results[0].seq : 0;
    act_free(act);
    return seq;
}

/* Each event that brings none gets an id of its own that says its time and sorts as its seq; the table stays empty. */
static void made_with_the_seq(void **state)
{
    struct fixture *fx = *state;
    fx_open(fx);
    struct act *a = submit(unnamed(fx, "1"));
    struct act *b = submit(add_event(add(unnamed(fx, "2"), 7, "a", "named"), "3", NULL));
    eb_writer_drain(fx->store);
    const uint8_t *ids[] = {a->events[0]->id, b->events[0]->id, b->events[2]->id};
    for (int i = 0; i < 3; i++) {
        int64_t ms = 0;
        for (int k = 0; k < 6; k++)
            ms = ms << 8 | ids[i][k];
        assert_int_equal(fx->wall, ms);
        assert_int_equal(7, ids[i][6] >> 4);
        assert_int_equal(2, ids[i][8] >> 6);
        if (i > 0)
            assert_true(memcmp(ids[i - 1], ids[i], 16) < 0);
    }
    assert_int_equal(4, b->results[2].seq);
    assert_int_equal(1, eb_dedupe_count(&fx->store->dedupe));
    assert_int_equal(4, info_of(fx).dedupe_ids);
    act_free(a);
    act_free(b);
}

/* The same event again is its seq; another one under its id is refused; an ack may name it. */
static void repeat_is_compared(void **state)
{
    struct fixture *fx = *state;
    uint8_t id[16], second[16];
    fx_open(fx);
    publish_plain(fx, "1", id);
    assert_int_equal(2, publish_plain(fx, "2", second));
    assert_int_equal(1, repeat_of(fx, "1", id));
    assert_int_equal(2, repeat_of(fx, "2", second));
    struct act *other = run(named(fx, "not 1", id));
    assert_int_equal(EB_MESSAGE_ID_REUSED, other->op.err.code);
    assert_non_null(strstr(other->op.err.message, "event 1 with another payload"));
    act_free(other);
    assert_int_equal(2, eb_store_last_seq(fx->store));
    assert_int_equal(0, eb_dedupe_count(&fx->store->dedupe));
    struct act *ack = ack_new(fx, 2);
    ack->op.has_id = true;
    memcpy(ack->op.id, second, 16);
    assert_int_equal(EB_OK, code_of(ack));
    struct act *wrong = ack_new(fx, 2);
    wrong->op.has_id = true;
    memcpy(wrong->op.id, id, 16);
    assert_int_equal(EB_INVALID_REQUEST, code_of(wrong));
}

/* In a batch it stands beside new ones; a refused member takes its neighbours' seqs and ids back. */
static void repeat_in_a_batch(void **state)
{
    struct fixture *fx = *state;
    uint8_t id[16];
    fx_open(fx);
    publish_plain(fx, "1", id);
    struct act *bad = submit(add_event(unnamed(fx, "2"), "not 1", id));
    struct act *good = submit(add_event(add_event(unnamed(fx, "2"), "1", id), "3", NULL));
    eb_writer_drain(fx->store);
    assert_int_equal(EB_MESSAGE_ID_REUSED, bad->op.err.code);
    assert_int_equal(1, bad->op.err.index);
    assert_int_equal(EB_OK, good->op.err.code);
    assert_int_equal(2, good->results[0].seq);
    assert_true(good->results[1].duplicate && !good->results[1].fresh);
    assert_int_equal(1, good->results[1].seq);
    assert_int_equal(3, good->results[2].seq);
    assert_int_equal(2, repeat_of(fx, "2", good->events[0]->id));
    assert_int_equal(3, repeat_of(fx, "3", good->events[2]->id));
    act_free(bad);
    act_free(good);
}

/* A group that fails is tried again (writer.c, W3): an id says the seq that its event got at last, and is stored so. */
static void made_afresh_in_each_try(void **state)
{
    struct fixture *fx = with_file(state);
    uint8_t id[16], first[16];
    struct eb_event *stored;
    publish_plain(fx, "1", first);
    fx->fault = (struct fault){.at = 3, .code = -ENOSPC}; /* the commit */
    struct act *refused = submit(unnamed(fx, "2"));
    struct act *own = unnamed(fx, "own");
    own->op.internal = true;
    submit(own);
    eb_writer_drain(fx->store);
    assert_int_equal(1, fx->fault.hits);
    assert_int_equal(EB_STORAGE_FULL, refused->op.err.code);
    assert_int_equal(2, own->results[0].seq);
    assert_int_equal(0, fx->inner->ops->lookup(fx->inner, 2, &stored));
    assert_memory_equal(own->events[0]->id, stored->id, 16);
    eb_event_unref(stored);
    assert_int_equal(2, repeat_of(fx, "own", own->events[0]->id));
    act_free(refused);
    act_free(own);
    fx->mono += EB_RETRY_MS;
    assert_int_equal(3, publish_plain(fx, "2", id));
    assert_int_equal(3, repeat_of(fx, "2", id));
}

/* Nothing can be written: a repeat is answered all the same, and one that cannot be compared is refused, not stored. */
static void repeat_while_nothing_is_written(void **state)
{
    struct fixture *fx = *state;
    uint8_t id[16];
    fx_open(fx);
    publish_plain(fx, "1", id);
    fx->fault = (struct fault){.at = 2, .code = -EIO};
    struct act *lost = run(unnamed(fx, "2"));
    assert_int_equal(EB_UNAVAILABLE, lost->op.err.code);
    act_free(lost);
    assert_int_equal(1, repeat_of(fx, "1", id));
    fx->fault = (struct fault){.at = 0, .code = -EIO, .lasting = true};
    assert_int_equal(EB_UNAVAILABLE, code_of(named(fx, "1", id)));
    fx->fault.at = -1;
    fx->mono += EB_RETRY_MS;
    assert_int_equal(1, repeat_of(fx, "1", id));
    assert_int_equal(1, eb_store_last_seq(fx->store));
}

/* The window counts from acceptance, to the millisecond; behind it the id is a new event's. */
static void window_ends(void **state)
{
    struct fixture *fx = *state;
    uint8_t id[16];
    fx->config.dedupe_window_ms = 60000;
    fx_open(fx);
    publish_plain(fx, "1", id);
    fx->wall += 59999;
    assert_int_equal(1, repeat_of(fx, "1", id));
    assert_int_equal(59999, info_of(fx).dedupe_oldest_ms);
    fx->wall += 1;
    assert_int_equal(0, repeat_of(fx, "other", id));
    assert_int_equal(2, eb_store_last_seq(fx->store));
    assert_int_equal(1, info_of(fx).dedupe_ids);
    assert_int_equal(2, repeat_of(fx, "other", id)); /* from now on the table has it */
}

/* Made ones and given ones count together: beyond dedupe_max the oldest of both go, and that is counted. */
static void dedupe_max_forgets_the_oldest(void **state)
{
    struct fixture *fx = *state;
    struct eb_store_counters counters;
    uint8_t id[6][16];
    fx->config.dedupe_max = 3;
    fx_open(fx);
    publish_plain(fx, "1", id[1]);
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "2")));
    publish_plain(fx, "3", id[3]);
    assert_int_equal(1, repeat_of(fx, "1", id[1]));
    publish_plain(fx, "4", id[4]);
    assert_int_equal(3, info_of(fx).dedupe_ids);
    assert_int_equal(2, seq_of(publish(fx, 2, "a", "2")));
    assert_int_equal(3, repeat_of(fx, "3", id[3]));
    assert_int_equal(0, repeat_of(fx, "1", id[1])); /* seq 5 */
    assert_int_equal(6, seq_of(publish(fx, 2, "a", "2")));
    assert_int_equal(4, repeat_of(fx, "4", id[4]));
    assert_int_equal(5, repeat_of(fx, "1", id[1]));
    eb_store_counters(fx->store, &counters);
    assert_int_equal(3, counters.ids_evicted);
    assert_int_equal(3, info_of(fx).dedupe_ids);
}

/* Its event was deleted: nothing is left to compare with, so a repeat it is, in memory and in the file. */
static void repeat_of_a_deleted_event(void **state)
{
    struct world *w = *state;
    for (int file = 0; file < 2; file++) {
        struct fixture *fx = &w->fx;
        uint8_t id[16], other[16];
        fx->config.retention_events = 1;
        file ? (void)with_file(state) : fx_open(fx);
        publish_plain(fx, "1", id);
        publish_plain(fx, "2", other);
        step_janitor(fx);
        assert_int_equal(2, info_of(fx).first_seq);
        assert_int_equal(1, repeat_of(fx, "other", id));
        assert_int_equal(2, eb_store_last_seq(fx->store));
        if (file)
            break;
        eb_store_close(fx->store);
        *fx = (struct fixture){0};
    }
}

/* Its event is damaged: it has one, whatever it was. */
static void repeat_of_a_damaged_event(void **state)
{
    struct fixture *fx = with_file(state);
    uint8_t id[16];
    publish_plain(fx, "1", id);
    sql(fx, "UPDATE log SET payload = 'x' WHERE seq = 1");
    assert_int_equal(1, repeat_of(fx, "1", id));
}

/* An id that says a seq whose event has another is a publisher's like any other, also once that event is deleted. */
static void the_seq_has_another_id(void **state)
{
    struct fixture *fx = *state;
    uint8_t id[16], more[16];
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    eb_made_id(&fx->store->made, id, 1, fx->wall);
    assert_int_equal(0, repeat_of(fx, "2", id));
    assert_int_equal(2, repeat_of(fx, "2", id));
    fx->config.retention_events = 2;
    eb_store_reconfigure(fx->store, &fx->config);
    publish_plain(fx, "3", more);
    step_janitor(fx);
    assert_int_equal(2, info_of(fx).first_seq);
    assert_int_equal(2, repeat_of(fx, "2", id));
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
}

/* What waits told its id when it was accepted; an event of the log cannot be taken back, whoever made its id. */
static void not_scheduled(void **state)
{
    struct fixture *fx = with_file(state);
    uint8_t id[16];
    publish_plain(fx, "1", id);
    struct act *act = act_new(fx, EB_OP_UNSCHEDULE);
    memcpy(act->op.id, id, 16);
    run(act);
    assert_int_equal(EB_CONFLICT, act->op.err.code);
    assert_non_null(strstr(act->op.err.message, "seq 1"));
    act_free(act);
    fx->wall += fx->config.dedupe_window_ms;
    act = act_new(fx, EB_OP_UNSCHEDULE);
    memcpy(act->op.id, id, 16);
    assert_int_equal(EB_NOT_FOUND, code_of(act));
}

/* An id of the last run that cannot be looked for: its publish, and that of a new one, is refused and can be tried again. */
static void a_saved_id_cannot_be_read(void **state)
{
    struct fixture *fx = with_file(state);
    uint8_t made[16], id[16];
    id_from(id, 1);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    publish_plain(fx, "2", made);
    eb_store_close(fx->store);
    with_file(state);
    assert_int_equal(0, eb_dedupe_count(&fx->store->dedupe));
    assert_int_equal(1, repeat_of(fx, "1", id));
    assert_int_equal(EB_MESSAGE_ID_REUSED, code_of(publish(fx, 1, "a", "not 1")));
    fx->find_fault = -EIO;
    assert_int_equal(EB_UNAVAILABLE, code_of(publish(fx, 1, "a", "1")));
    assert_int_equal(EB_UNAVAILABLE, code_of(publish(fx, 3, "a", "3")));
    fx->find_fault = 0;
    fx->mono += EB_RETRY_MS;
    assert_int_equal(1, repeat_of(fx, "1", id));
    assert_int_equal(2, repeat_of(fx, "2", made));
    assert_int_equal(3, seq_of(publish(fx, 3, "a", "3")));
    assert_int_equal(3, seq_of(publish(fx, 3, "a", "3")));
}

/* It is out of the window, or pushed out by number, in the file as in the table. */
static void a_saved_id_has_its_time(void **state)
{
    struct fixture *fx = with_file(state);
    uint8_t id[16];
    id_from(id, 1);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "1")));
    eb_store_close(fx->store);
    with_file(state);
    fx->wall += fx->config.dedupe_window_ms - 1;
    assert_int_equal(1, repeat_of(fx, "1", id));
    fx->wall += 1;
    assert_int_equal(0, repeat_of(fx, "1", id));
    eb_store_close(fx->store);
    fx->config.dedupe_max = 2;
    with_file(state);
    assert_int_equal(2, repeat_of(fx, "1", id));
    assert_int_equal(3, seq_of(publish(fx, 2, "a", "2")));
    assert_int_equal(4, seq_of(publish(fx, 3, "a", "3")));
    assert_int_equal(0, repeat_of(fx, "1", id));
}

/* A condition that fails takes back the seq; the next event gets it, with the id that says it. */
static void a_condition_that_fails(void **state)
{
    struct fixture *fx = with_file(state);
    struct eb_op_ask ask = {.has_expected = true, .expected = 9};
    uint8_t id[16];
    struct act *act = unnamed(fx, "1");
    act->op.asks = &ask;
    assert_int_equal(EB_CONFLICT, code_of(act));
    assert_int_equal(1, publish_plain(fx, "1", id));
    assert_int_equal(1, repeat_of(fx, "1", id));
}

#define T(name)                                                                                    \
    {                                                                                              \
        "repeats/" #name, name, setup, teardown, NULL                                              \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(made_with_the_seq),
        T(repeat_is_compared),
        T(repeat_in_a_batch),
        T(made_afresh_in_each_try),
        T(repeat_while_nothing_is_written),
        T(window_ends),
        T(dedupe_max_forgets_the_oldest),
        T(repeat_of_a_deleted_event),
        T(repeat_of_a_damaged_event),
        T(the_seq_has_another_id),
        T(not_scheduled),
        T(a_saved_id_cannot_be_read),
        T(a_saved_id_has_its_time),
        T(a_condition_that_fails),
    };
    return cmocka_run_group_tests_name("repeats", tests, NULL, NULL);
}
