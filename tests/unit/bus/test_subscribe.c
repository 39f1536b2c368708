/*
 * test_subscribe.c - requests and what they are answered (PROTOCOL 2.3), and the one gap contract (2.4).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/unit/bus/fake_world.h"

#define OURS  "11111111-2222-4333-8444-555555555555"
#define OTHER "99999999-2222-4333-8444-555555555555"

static struct fake_world *world_with(int count)
{
    struct fake_world *w = fake_open(NULL);
    for (int i = 0; i < count; i++)
        fake_publish(w, "a");
    fake_commit(w, ALL);
    return w;
}

static const char *commit_and_drain(struct fake_box *box)
{
    fake_commit(box->world, ALL);
    return fake_drain_all(box);
}

/* The same pattern again without a start: ok, and nothing changes, live or while it replays. */
static void subscribe_again_changes_nothing(void **unused)
{
    struct fake_world *w = world_with(2);
    struct fake_box *box = fake_box(w, false);
    struct eb_session_state state;
    fake_subscribe(box, "a", 0);
    fake_subscribe(box, "a", LIVE);
    assert_string_equal(commit_and_drain(box), "ok#2 ok#2 R1@a R2@a L2@a");
    fake_subscribe(box, "a", LIVE);
    fake_publish(w, "a");
    assert_string_equal(commit_and_drain(box), "ok#2 E3");
    eb_session_state(box->session, &state);
    assert_int_equal(state.subscriptions, 1);
    fake_box_close(box);
    fake_close(w);
}

/* max_subscriptions is per connection; one that is there may always start afresh; one that left makes room. */
static void subscribe_up_to_the_limit(void **unused)
{
    struct fake_world *w = world_with(0);
    struct fake_box *box = fake_box(w, false), *another = fake_box(w, false);
    const char *patterns[] = {"a", "b", "c", "d", "e"};
    for (int i = 0; i < 5; i++)
        fake_subscribe(box, patterns[i], LIVE);
    assert_string_equal(commit_and_drain(box), "ok#0 ok#0 ok#0 ok#0 error:limit_exceeded");
    fake_subscribe(box, "a", 0);
    fake_subscribe(another, "e", LIVE);
    assert_string_equal(commit_and_drain(box), "ok#0 L0@a");
    fake_unsubscribe(box, "b");
    fake_subscribe(box, "e", LIVE);
    fake_publish(w, "e");
    fake_publish(w, "b");
    assert_string_equal(commit_and_drain(box), "bye ok#0 E1");
    fake_box_close(box);
    fake_box_close(another);
    fake_close(w);
}

static void unsubscribe_unknown_pattern_is_not_found(void **unused)
{
    struct fake_world *w = world_with(0);
    struct fake_box *box = fake_box(w, false);
    fake_unsubscribe(box, "a");
    fake_subscribe(box, "a", LIVE);
    fake_unsubscribe(box, "a.*");
    assert_string_equal(commit_and_drain(box), "error:not_found ok#0 error:not_found");
    fake_box_close(box);
    fake_close(w);
}

static void ack_is_answered_by_the_log(void **unused)
{
    struct fake_world *w = world_with(1);
    struct fake_box *box = fake_box(w, false);
    fake_ack(box, 1);
    fake_ack(box, 7);
    assert_string_equal(commit_and_drain(box), "acked error:not_found");
    fake_box_close(box);
    fake_close(w);
}

/* Another epoch: told so behind the ok, and everything from the first retained; our own in any case: nothing. */
static void epoch_of_another_log_starts_over(void **unused)
{
    struct fake_world *w = world_with(5);
    struct fake_box *box = fake_box(w, false);
    fake_retain(w, 2);
    fake_subscribe_epoch(box, "a", 5, OTHER);
    assert_string_equal(commit_and_drain(box), "ok#5 G0-2@a:epoch R3@a R4@a R5@a L5@a");
    fake_subscribe_epoch(box, "#", 5, OURS);
    assert_string_equal(commit_and_drain(box), "ok#5 R5@# L5@#");
    fake_subscribe_epoch(box, "a.#", LIVE, OURS);
    assert_string_equal(commit_and_drain(box), "ok#5");
    fake_subscribe_epoch(box, "*", LIVE, "nonsense");
    assert_string_equal(commit_and_drain(box), "ok#5 G0-2@*:epoch R3@* R4@* R5@* L5@*");
    fake_box_close(box);
    fake_close(w);
}

/* A start above the last seq + 1 proves another history; last + 1 itself does not. */
static void epoch_start_above_the_end_starts_over(void **unused)
{
    struct fake_world *w = world_with(3);
    struct fake_box *box = fake_box(w, false);
    fake_subscribe(box, "a", 4);
    fake_subscribe(box, "#", 5);
    assert_string_equal(commit_and_drain(box), "ok#3 ok#3 G0-0@#:epoch L3@a R1@# R2@# R3@# L3@#");
    fake_box_close(box);
    fake_close(w);
}

static void retain_4(struct fake_world *w, void *ctx)
{
    fake_retain(w, 4);
}

/* 0 and 1 ask for what there is: no gap for what was gone before; but for what goes once it has begun. */
static void retention_gap_only_once_begun(void **unused)
{
    struct fake_world *w = world_with(6);
    struct fake_box *box = fake_box(w, false);
    fake_retain(w, 1);
    fake_subscribe(box, "a", 1);
    assert_string_equal(commit_and_drain(box), "ok#6 R2@a R3@a R4@a R5@a R6@a L6@a");
    fake_subscribe(box, "*", 0);
    w->page_rows = 1;
    w->during_page = retain_4;
    assert_string_equal(commit_and_drain(box), "ok#6 R2@* G3-4@*:retention R5@* R6@* L6@*");
    fake_subscribe(box, "#", 3);
    assert_string_equal(commit_and_drain(box), "ok#6 G3-4@#:retention R5@# R6@# L6@#");
    fake_box_close(box);
    fake_close(w);
}

/* What a lagging stream lost is said once for each subscription, above its own floor only. */
static void retention_gap_of_a_lagging_stream(void **unused)
{
    struct fake_world *w = world_with(0);
    struct fake_box *box = fake_box(w, false);
    fake_subscribe(box, "a", LIVE);
    fake_commit(w, ALL);
    for (int i = 0; i < 12; i++)
        fake_publish(w, "a");
    fake_commit(w, ALL);
    fake_subscribe(box, "b", LIVE); /* floor 12 */
    for (int i = 0; i < 4; i++)
        fake_publish(w, "a");
    fake_subscribe(box, "c", LIVE); /* floor 16 */
    fake_commit(w, ALL);
    fake_retain(w, 15);
    assert_string_equal(
        fake_drain_all(box),
        "ok#0 E1 E2 E3 E4 E5 E6 E7 E8 ok#12 ok#16 G13-15@b:retention G9-15@a:retention E16");
    fake_box_close(box);
    fake_close(w);
}

static void damaged_event_is_a_gap(void **unused)
{
    struct fake_world *w = world_with(3);
    struct fake_box *box = fake_box(w, false);
    fake_damage(w, 2);
    fake_subscribe(box, "a", 1);
    assert_string_equal(commit_and_drain(box), "ok#3 R1@a G2-2@a:damaged R3@a L3@a");
    struct eb_bus_counters counters;
    eb_bus_counters(w->bus, &counters);
    assert_int_equal(counters.gaps[EB_GAP_DAMAGED], 1);
    fake_box_close(box);
    fake_close(w);
}

/* The older client: its replay passes over what is acknowledged; notices are its transport's to leave out. */
static void legacy_replays_what_is_pending(void **unused)
{
    struct fake_world *w = world_with(4);
    struct fake_box *box = fake_box(w, false);
    eb_session_set_legacy(box->session);
    fake_mark_acked(w, 2);
    fake_retain(w, 1);
    fake_subscribe(box, "a", 1);
    assert_string_equal(commit_and_drain(box), "ok#4 R3@a R4@a");
    fake_publish(w, "a");
    assert_string_equal(commit_and_drain(box), "E5");
    fake_box_close(box);
    fake_close(w);
}

/* Several patterns as one subscription: not marked, once per event, one `live`, one gap with the list. */
static void one_subscription_of_several_patterns(void **unused)
{
    struct fake_world *w = world_with(0);
    struct fake_box *box = fake_box(w, true);
    const char *patterns[] = {"a.*", "a.b", "c"};
    fake_publish(w, "a.b");
    fake_publish(w, "x");
    fake_publish(w, "c");
    fake_publish(w, "a.z");
    fake_commit(w, ALL);
    fake_retain(w, 1);
    fake_damage(w, 4);
    fake_subscribe_list(box, patterns, 3, 1);
    assert_string_equal(commit_and_drain(box), "ok#4 E3 G4-4@a.*,a.b,c:damaged L4@");
    for (int i = 0; i < 10; i++)
        fake_publish(w, i % 2 ? "a.b" : "c");
    fake_publish(w, "x");
    fake_commit(w, ALL);
    fake_retain(w, 13);
    assert_string_equal(fake_drain_all(box),
                        "E5 E6 E7 E8 E9 E10 E11 E12 G13-13@a.*,a.b,c:retention E14");
    fake_box_close(box);
    fake_close(w);
}

/* What the broker shows: never more than was asked for, also when a page ends amid a session. */
static void subscriptions_are_listed(void **unused)
{
    struct fake_world *w = world_with(2);
    struct fake_box *one = fake_box(w, false), *two = fake_box(w, false);
    struct eb_subscription_info *list;
    fake_subscribe(one, "a", LIVE);
    fake_subscribe(one, "b", 0);
    fake_subscribe(two, "#", LIVE);
    fake_commit(w, ALL);
    size_t count = eb_bus_subscriptions(w->bus, 0, 2, &list);
    assert_int_equal(count, 2);
    assert_string_equal(list[0].pattern, "a");
    assert_string_equal(list[0].state, "live");
    assert_int_equal(list[0].cursor, 2);
    assert_string_equal(list[1].pattern, "b");
    assert_string_equal(list[1].state, "replaying");
    assert_int_equal(list[1].cursor, 0);
    uint64_t middle = list[0].place, after = list[1].place;
    free(list);
    assert_int_equal(eb_bus_subscriptions(w->bus, middle, 100, &list), 2);
    assert_string_equal(list[0].pattern, "b");
    free(list);
    assert_int_equal(eb_bus_subscriptions(w->bus, after, 2, &list), 1);
    assert_string_equal(list[0].pattern, "#");
    assert_int_equal(list[0].session, eb_session_number(two->session));
    free(list);
    fake_box_close(one);
    fake_box_close(two);
    fake_close(w);
}

static void refused(struct fake_world *w, struct eb_draft *draft, enum eb_code code)
{
    struct eb_publish *publish = eb_publish_create(2);
    struct eb_error err = {.code = EB_OK};
    publish->batch = true;
    draft->topic_len = strlen(draft->topic);
    if (code == EB_OK) {
        assert_int_equal(eb_publish_add(w->bus, publish, draft, &err), 0);
    } else {
        struct eb_draft good = {.topic = "a", .topic_len = 1, .payload = "", .ttl = EB_TTL_UNSET};
        assert_int_equal(eb_publish_add(w->bus, publish, &good, &err), 0);
        assert_int_equal(eb_publish_add(w->bus, publish, draft, &err), -1);
        assert_int_equal(err.code, code);
        assert_int_equal(err.index, 1);
    }
    eb_publish_destroy(publish);
}

/* A draft is refused before it costs anything, with the member's index; an empty batch is answered in its place. */
static void publish_checks_its_drafts(void **unused)
{
    struct fake_world *w = world_with(0);
    struct fake_box *box = fake_box(w, false);
    struct eb_draft draft = {.topic = "a.b", .payload = "", .ttl = EB_TTL_UNSET};
    refused(w, &draft, EB_OK);
    draft.ttl = -1;
    refused(w, &draft, EB_INVALID_REQUEST);
    draft.ttl = 0;
    draft.topic = "a..b";
    refused(w, &draft, EB_INVALID_TOPIC);
    draft.topic = "$sys";
    refused(w, &draft, EB_FORBIDDEN);
    fake_publish_on(box, "a");
    fake_publish_batch(box, "a", 0);
    assert_string_equal(commit_and_drain(box), "ok=1 ok=");
    struct eb_bus_counters counters;
    eb_bus_counters(w->bus, &counters);
    assert_int_equal(counters.published, 1);
    assert_int_equal(counters.publish_refused[EB_FORBIDDEN], 1);
    fake_box_close(box);
    fake_close(w);
}

static const struct eb_op_ask *asked(struct fake_world *w, struct eb_publish **ret, size_t max,
                                     const struct eb_draft *draft)
{
    struct eb_error err;
    if (*ret == NULL) {
        *ret = eb_publish_create(max);
        (*ret)->batch = max > 1;
    }
    if (eb_publish_add(w->bus, *ret, draft, &err) < 0)
        fail_msg("%s", err.message);
    return (*ret)->op.asks;
}

/* What a draft asks beside stands at its member's place; what is over is asked for at once; nothing costs nothing. */
static void publish_keeps_what_its_drafts_ask(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_draft plain = {.topic = "a", .topic_len = 1, .payload = "", .ttl = EB_TTL_UNSET};
    struct eb_draft later = plain, over = plain, expecting = plain;
    struct eb_publish *one = NULL, *batch = NULL;
    w->shares = true; /* a log with a file */
    later.deliver_at_ms = eb_wall_ms() + 60000;
    over.deliver_at_ms = 1;
    expecting.has_expected = true;
    expecting.expected = 7;
    assert_null(asked(w, &one, 1, &plain));
    eb_publish_destroy(one);
    one = NULL;
    assert_int_equal(asked(w, &one, 1, &later)[0].due_ms, later.deliver_at_ms);
    eb_publish_destroy(one);
    asked(w, &batch, 4, &plain);
    asked(w, &batch, 4, &expecting);
    asked(w, &batch, 4, &over);
    const struct eb_op_ask *asks = asked(w, &batch, 4, &later);
    assert_true(!asks[0].has_expected && asks[0].due_ms == 0);
    assert_true(asks[1].has_expected && asks[1].expected == 7 && asks[1].due_ms == 0);
    assert_true(!asks[2].has_expected && asks[2].due_ms == 0);
    assert_true(!asks[3].has_expected && asks[3].due_ms == later.deliver_at_ms);
    eb_publish_destroy(batch);
    w->shares = false; /* one in memory keeps nothing for later */
    refused(w, &later, EB_INVALID_REQUEST);
    refused(w, &over, EB_INVALID_REQUEST);
    fake_close(w);
}

/* Replies live a minute, whatever was asked, and only theirs do. */
static void replies_have_a_ttl_of_their_own(void **unused)
{
    static const struct {
        const char *topic;
        int64_t ttl;
    } cases[] = {{"_reply.x", 60}, {"_reply", 60}, {"_replyx.y", 5}, {"a._reply", 5}, {"_rep", 5}};
    struct fake_world *w = fake_open(NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct eb_draft draft = {
            .topic = cases[i].topic, .topic_len = strlen(cases[i].topic), .payload = "", .ttl = 5};
        struct eb_publish *publish = NULL;
        asked(w, &publish, 1, &draft);
        assert_int_equal(publish->op.events[0]->ttl, cases[i].ttl);
        eb_publish_destroy(publish);
    }
    fake_close(w);
}

/* Who replays, lags or is live hears it; who has left, was closed or is a consumer's feed does not. */
static void who_listens(void **unused)
{
    struct fake_world *w = fake_open(NULL);
    struct fake_box *box = fake_box(w, false), *feed = fake_box(w, true);
    eb_session_set_feed(feed->session);
    fake_subscribe(feed, "a.*", LIVE);
    commit_and_drain(box);
    assert_false(eb_bus_listens(w->bus, "a.b", 3));
    fake_subscribe(box, "a.b", LIVE);
    commit_and_drain(box);
    assert_true(eb_bus_listens(w->bus, "a.b", 3));
    assert_false(eb_bus_listens(w->bus, "a.c", 3));
    fake_unsubscribe(box, "a.b");
    commit_and_drain(box);
    assert_false(eb_bus_listens(w->bus, "a.b", 3));
    fake_subscribe(box, "#", 0);
    commit_and_drain(box);
    assert_true(eb_bus_listens(w->bus, "a.c", 3));
    assert_false(eb_bus_listens(w->bus, "_reply.x", 8));
    fake_box_close(box);
    assert_false(eb_bus_listens(w->bus, "a.c", 3));
    fake_box_close(feed);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subscribe_again_changes_nothing),
        cmocka_unit_test(subscribe_up_to_the_limit),
        cmocka_unit_test(unsubscribe_unknown_pattern_is_not_found),
        cmocka_unit_test(ack_is_answered_by_the_log),
        cmocka_unit_test(epoch_of_another_log_starts_over),
        cmocka_unit_test(epoch_start_above_the_end_starts_over),
        cmocka_unit_test(retention_gap_only_once_begun),
        cmocka_unit_test(retention_gap_of_a_lagging_stream),
        cmocka_unit_test(damaged_event_is_a_gap),
        cmocka_unit_test(legacy_replays_what_is_pending),
        cmocka_unit_test(one_subscription_of_several_patterns),
        cmocka_unit_test(subscriptions_are_listed),
        cmocka_unit_test(publish_checks_its_drafts),
        cmocka_unit_test(publish_keeps_what_its_drafts_ask),
        cmocka_unit_test(replies_have_a_ttl_of_their_own),
        cmocka_unit_test(who_listens),
    };
    return cmocka_run_group_tests_name("bus/subscribe", tests, NULL, NULL);
}
