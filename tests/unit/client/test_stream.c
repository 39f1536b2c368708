/* test_stream.c - the rules of the stream by hand, without threads or a socket (client/stream.c, T1 to T6). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "client/internal.h"
#include "common/error.h"

static eb_client client;

static int setup(void **state)
{
    memset(&client, 0, sizeof(client));
    eb_lock_init(&client.lock, EB_RANK_CLIENT);
    pthread_cond_init(&client.changed, NULL);
    pthread_cond_init(&client.work, NULL);
    client.options = (eb_client_options)EB_CLIENT_OPTIONS_INIT;
    assert_int_equal(eb_inflight_init(&client.inflight), 0);
    eb_lock_take(&client.lock);
    return 0;
}

static eb_subscription *add(const char *pattern, uint64_t start, bool live, size_t max_queued)
{
    eb_subscription *sub = calloc(1, sizeof(*sub));
    struct eb_error err;

    assert_int_equal(eb_pattern_parse(&sub->pattern, pattern, strlen(pattern), &err), 0);
    sub->client = &client;
    sub->refs = 1;
    sub->fd = -1;
    sub->options = (eb_subscribe_options)EB_SUBSCRIBE_OPTIONS_INIT;
    sub->options.starting_seq = start;
    sub->options.max_queued = max_queued;
    sub->seen = start == EB_START_LIVE ? 0 : start - 1;
    sub->state = EB_SUB_ACTIVE;
    sub->answered = true;
    sub->live = sub->was_live = live;
    pthread_cond_init(&sub->cond, NULL);
    sub->next = client.subs;
    if (sub->next)
        sub->next->prev = sub;
    client.subs = sub;
    return sub;
}

static int teardown(void **state)
{
    while (client.subs) {
        eb_subscription *sub = client.subs;
        eb_subscription_unlink_locked(sub);
        eb_subscription_unref_locked(sub);
    }
    eb_stream_disconnected_locked(&client);
    eb_lock_drop(&client.lock);
    eb_inflight_finish(&client.inflight);
    eb_lock_finish(&client.lock);
    return 0;
}

static void event(uint64_t seq, const char *topic, const char *pattern)
{
    struct eb_item *item = eb_item_create(EB_ITEM_EVENT, 0);

    item->message.seq = seq;
    item->message.topic = topic;
    item->message.topic_len = strlen(topic);
    eb_stream_event_locked(&client, item, pattern);
    eb_item_unref(item);
}

static uint64_t pop(eb_subscription *sub)
{
    struct eb_item *item = eb_stream_pop_locked(sub);
    uint64_t seq = item ? item->message.seq : 0;

    eb_item_unref(item);
    return seq;
}

/* T1: at or below the cursor nothing is taken again, marked or not. */
static void what_was_seen_is_not_taken_again(void **state)
{
    eb_subscription *sub = add("a.*", 5, true, 100);

    event(4, "a.b", NULL);
    event(5, "a.b", NULL);
    event(5, "a.b", NULL);
    event(5, "a.b", "a.*");
    event(6, "a.b", "a.*");
    assert_int_equal(sub->count, 2);
    assert_int_equal(pop(sub), 5);
    assert_int_equal(pop(sub), 6);
}

/* T2: for a live one the shared stream vouches for all that it passes; for a replaying one it says nothing. */
static void the_shared_stream_moves_live_cursors_only(void **state)
{
    eb_subscription *live = add("a", EB_START_LIVE, true, 100);
    eb_subscription *replaying = add("b", 1, false, 100);

    event(10, "c", NULL);
    event(11, "b", NULL);
    assert_int_equal(live->seen, 11);
    assert_int_equal(replaying->seen, 0);
    assert_int_equal(replaying->count, 0);
    assert_int_equal(eb_stream_resume_from(live), 12);
    assert_int_equal(eb_stream_resume_from(replaying), 1);
}

/* T5: at the bound it is full, at twice the bound it is parked, at half of it the broker is asked again. */
static void a_queue_is_full_then_parked_then_asked_again(void **state)
{
    eb_subscription *sub = add("a", 1, true, 4);

    for (uint64_t seq = 1; seq <= 20; seq++)
        event(seq, "a", NULL);
    assert_true(sub->full);
    assert_int_equal(sub->count, 8);
    assert_int_equal(sub->state, EB_SUB_PARKED);
    assert_non_null(client.control_first); /* the unsubscribe */
    assert_int_equal(eb_stream_resume_from(sub), 9);
    for (uint64_t seq = 1; seq <= 5; seq++)
        assert_int_equal(pop(sub), seq);
    assert_int_equal(sub->state, EB_SUB_PARKED);
    assert_int_equal(pop(sub), 6);
    assert_int_equal(sub->state, EB_SUB_IDLE);
    assert_false(sub->full);
    event(9, "a", NULL); /* left over from the older stream (T3) */
    assert_int_equal(sub->count, 2);
}

/* T5: reading stops for a full queue only while nobody is hurt, and not for long. */
static void reading_stops_only_while_nobody_is_hurt(void **state)
{
    eb_subscription *sub = add("a", 1, true, 2), *other;
    struct eb_request request = {.id = 1};

    assert_false(eb_stream_pause_locked(&client, 1000));
    event(1, "a", NULL);
    event(2, "a", NULL);
    assert_true(eb_stream_pause_locked(&client, 1000));
    eb_inflight_add(&client.inflight, &request);
    assert_false(eb_stream_pause_locked(&client, 1001)); /* an answer is waited for */
    eb_inflight_remove(&client.inflight, &request);
    other = add("b", 1, true, 2);
    assert_false(eb_stream_pause_locked(&client, 1002)); /* another has room */
    other->state = EB_SUB_DEAD;
    assert_true(eb_stream_pause_locked(&client, 2000));
    assert_true(eb_stream_pause_locked(&client, 3999));
    assert_false(eb_stream_pause_locked(&client, 4000)); /* too long: parked */
    assert_int_equal(sub->state, EB_SUB_PARKED);
}

/* T6: another log sets the cursor back; other gaps move only where the next request starts. */
static void gaps_move_the_cursor(void **state)
{
    eb_subscription *sub = add("a", 1, true, 100);
    struct eb_wire gap = {.from_seq = 11, .to_seq = 20, .reason = "retention"};

    event(10, "a", NULL);
    eb_stream_gap_locked(&client, "a", &gap);
    assert_int_equal(eb_stream_resume_from(sub), 21);
    event(15, "a", NULL); /* "may be missing": this one is not */
    assert_int_equal(sub->count, 2);
    gap = (struct eb_wire){.from_seq = 0, .to_seq = 2, .reason = "epoch", .epoch = "e"};
    eb_stream_gap_locked(&client, "a", &gap);
    assert_int_equal(eb_stream_resume_from(sub), 3);
    assert_string_equal(sub->epoch, "e");
    event(3, "a", NULL);
    assert_int_equal(sub->count, 4);
}

/* After a lost connection everything alive asks again; what is parked waits for its room. */
static void a_lost_connection_asks_again(void **state)
{
    eb_subscription *active = add("a", 1, true, 2), *parked = add("b", 1, true, 2);

    eb_stream_park_locked(parked, 0);
    eb_stream_disconnected_locked(&client);
    assert_int_equal(active->state, EB_SUB_IDLE);
    assert_false(active->live);
    assert_int_equal(parked->state, EB_SUB_PARKED);
    assert_null(client.control_first);
}

int main(void)
{
#define TEST(name)                                                                                 \
    {                                                                                              \
        "stream/" #name, name, setup, teardown                                                     \
    }
    const struct CMUnitTest tests[] = {
        TEST(what_was_seen_is_not_taken_again),
        TEST(the_shared_stream_moves_live_cursors_only),
        TEST(a_queue_is_full_then_parked_then_asked_again),
        TEST(reading_stops_only_while_nobody_is_hurt),
        TEST(gaps_move_the_cursor),
        TEST(a_lost_connection_asks_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
