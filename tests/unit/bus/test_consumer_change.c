/*
 * test_consumer_change.c - durable consumers that are made, changed, moved, stopped and ended (PROTOCOL 7), and what a
 * caller is told who asks for what cannot be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/consumer_world.h"

#define ALL_TOPICS "{\"patterns\":[\"#\"],\"from\":\"all\"}"

static void publish(struct fake_world *world, const char *topic, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        fake_publish(world, topic);
    fake_commit(world, ALL);
}

/* ---- where it begins ---- */

/* "new" is above the last seq at the request's place in the order: a publish sent before it is not new, one after is. */
static void new_begins_at_its_place_in_the_order(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_consumer_settings settings = {.pattern_count = 1,
                                            .ack_wait_ms = 1000,
                                            .max_inflight = 10,
                                            .order_window = 10,
                                            .dead_letter = true};
    struct eb_error err;
    assert_int_equal(eb_pattern_parse(&settings.patterns[0], "#", 1, &err), 0);
    struct asked_consumer asked = {
        .request = {.verb = EB_CONSUMER_PUT, .name = "c", .settings = &settings}};
    fake_publish(w, "t");
    ask(w, &asked);
    fake_round(w); /* its state op is queued behind the publish */
    fake_publish(w, "t");
    fake_commit(w, ALL);
    assert_string_equal(asked.text, "ok");
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "2");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A seq before the first retained begins there with a gap, one above the log's next is refused; a time finds its event. */
static void seq_and_time_find_their_place(void **state)
{
    struct fake_world *w = fake_open(NULL);
    publish(w, "t", 6);
    fake_retain(w, 3);
    fake_event(w, 5)->timestamp += 100000;
    fake_event(w, 6)->timestamp += 100000;
    char text[200];
    snprintf(text, sizeof(text), "{\"patterns\":[\"#\"],\"from\":{\"time\":%lld}}",
             (long long)fake_event(w, 4)->timestamp + 1);
    make(w, "time", text);
    make(w, "seq", "{\"patterns\":[\"#\"],\"from\":{\"seq\":2}}");
    make(w, "all", ALL_TOPICS);
    make(w, "end", "{\"patterns\":[\"#\"],\"from\":{\"seq\":7}}");
    assert_string_equal(put(w, "beyond", "{\"patterns\":[\"#\"],\"from\":{\"seq\":8}}"),
                        "invalid_request");
    assert_string_equal(ensure(w, "beyond", NULL), "not_found");
    struct hand *time = attach(w, "time", 0), *seq = attach(w, "seq", 0),
                *all = attach(w, "all", 0);
    assert_string_equal(given(time), "5 6");
    assert_string_equal(given(seq), "gap2-3:retention 4 5 6");
    assert_string_equal(given(all), "4 5 6");
    leave(time, EB_LEAVE_AGAIN);
    leave(seq, EB_LEAVE_AGAIN);
    leave(all, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* ---- PUT, ensure ---- */

/* A PUT replaces what may change and refuses another from or order; what it refuses changes nothing. */
static void put_replaces_the_settings(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"a\"],\"from\":\"all\",\"max_inflight\":1}");
    publish(w, "a", 2);
    publish(w, "b", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    assert_string_equal(put(w, "c", "{\"patterns\":[\"a\"]}"), "conflict");
    assert_string_equal(put(w, "c", "{\"patterns\":[\"a\"],\"from\":\"all\",\"order\":\"topic\"}"),
                        "conflict");
    assert_string_equal(given(a), "");
    assert_string_equal(put(w, "c", "{\"patterns\":[\"a\",\"b\"],\"from\":\"all\"}"), "ok");
    assert_string_equal(given(a), "2"); /* what it has passed does not come back */
    publish(w, "b", 1);
    assert_string_equal(given(a), "4");
    struct eb_consumer_info info;
    assert_true(eb_bus_consumer_info(w->bus, "c", &info));
    assert_int_equal(info.settings->pattern_count, 2);
    assert_int_equal(info.settings->max_inflight, 256);
    assert_string_equal(info.state, "active");
    free(info.settings);
    leave_quietly(a);
    fake_restart(w);
    assert_true(eb_bus_consumer_info(w->bus, "c", &info));
    assert_int_equal(info.settings->pattern_count, 2);
    free(info.settings);
    fake_close(w);
}

/* A PUT whose commit failed is refused and leaves the old settings; one that makes leaves no consumer behind. */
static void a_put_that_cannot_be_kept_changes_nothing(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"a\"],\"from\":\"all\"}");
    w->fail_commit = true;
    assert_string_equal(put(w, "c", ALL_TOPICS), "storage_full");
    w->fail_commit = true;
    assert_string_equal(put(w, "d", ALL_TOPICS), "storage_full");
    assert_string_equal(ensure(w, "d", NULL), "not_found");
    struct eb_consumer_info info;
    assert_true(eb_bus_consumer_info(w->bus, "c", &info));
    assert_string_equal(info.settings->patterns[0].text, "a");
    free(info.settings);
    make(w, "d", ALL_TOPICS);
    fake_close(w);
}

/* ensure makes a consumer once; later ones with the same settings, or none, find it; others are told. */
static void ensure_makes_it_once(void **state)
{
    struct fake_world *w = fake_open(NULL);
    assert_string_equal(ensure(w, "c", NULL), "not_found");
    assert_string_equal(ensure(w, "c", ALL_TOPICS), "created");
    assert_string_equal(ensure(w, "c", ALL_TOPICS), "ok");
    assert_string_equal(ensure(w, "c", NULL), "ok");
    assert_string_equal(ensure(w, "c", "{\"patterns\":[\"a\"],\"from\":\"all\"}"), "conflict");
    fake_close(w);
}

static void two(struct eb_bus_config *config)
{
    config->max_consumers = 2;
}

/* max_consumers is a bound; deleting makes room. Push is refused where nobody calls webhooks. */
static void limits_are_said(void **state)
{
    struct fake_world *w = fake_open(two);
    make(w, "a", ALL_TOPICS);
    make(w, "b", ALL_TOPICS);
    assert_string_equal(put(w, "c", ALL_TOPICS), "limit_exceeded");
    assert_string_equal(put(w, "b", ALL_TOPICS), "ok");
    assert_string_equal(end(w, "a"), "ok");
    make(w, "c", ALL_TOPICS);
    assert_string_equal(put(w, "b",
                            "{\"patterns\":[\"#\"],\"from\":\"all\",\"push\":{\"url\":\"http://x\","
                            "\"secret\":\"whsec_x\"}}"),
                        "invalid_request");
    fake_restart(w);
    assert_string_equal(ensure(w, "b", NULL), "ok");
    assert_string_equal(ensure(w, "c", NULL), "ok");
    fake_close(w);
}

/* Changes of one consumer that were asked for at once are carried out one by one, in order. */
static void changes_wait_for_each_other(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct eb_consumer_settings settings = {.pattern_count = 1,
                                            .from = EB_FROM_ALL,
                                            .ack_wait_ms = 1000,
                                            .max_inflight = 10,
                                            .order_window = 10};
    struct eb_error err;
    assert_int_equal(eb_pattern_parse(&settings.patterns[0], "#", 1, &err), 0);
    struct asked_consumer asked[5] = {
        {.request = {.verb = EB_CONSUMER_PUT, .name = "c", .settings = &settings}},
        {.request = {.verb = EB_CONSUMER_ENSURE, .name = "c"}},
        {.request = {.verb = EB_CONSUMER_DELETE, .name = "c"}},
        {.request = {.verb = EB_CONSUMER_SEEK, .name = "c", .seq = 1}},
        {.request = {.verb = EB_CONSUMER_PUT, .name = "c", .settings = &settings}},
    };
    static const char *const want[] = {"ok", "ok", "ok", "not_found", "ok"};
    for (int i = 0; i < 5; i++)
        ask(w, &asked[i]);
    fake_consume(w);
    for (int i = 0; i < 5; i++)
        assert_string_equal(asked[i].text, want[i]);
    assert_true(asked[0].request.created && asked[4].request.created);
    fake_close(w);
}

/* ---- seek, stop ---- */

/* Seek releases the workers, forgets what is open, and begins there; what was out before is unknown. */
static void seek_begins_afresh(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 4);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2 3 4");
    assert_string_equal(ack(w, "c", 2), "ok");
    assert_string_equal(seek(w, "c", 6), "invalid_request");
    assert_string_equal(a->released, "");
    assert_int_equal(info_of(w, "c").inflight, 3);
    assert_string_equal(ack(w, "c", 1), "ok");
    assert_int_equal(info_of(w, "c").cursor, 2);
    assert_string_equal(seek(w, "c", 2), "ok");
    assert_string_equal(a->released, "seek");
    assert_string_equal(ack(w, "c", 3), "unknown");
    leave(a, EB_LEAVE_AGAIN);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2 3 4");
    leave_quietly(a);
    fake_restart(w);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2:2 3:2 4:2");
    assert_string_equal(seek(w, "c", 5), "ok");
    leave(a, EB_LEAVE_AGAIN);
    assert_int_equal(fake_disk_blocks(NULL), 0);
    assert_int_equal(info_of(w, "c").cursor, 4);
    fake_close(w);
}

/* A seek while an event is being delivered: the delivery is nobody's any more, and the event comes afresh. */
static void seek_from_within(struct hand *hand, uint64_t seq)
{
    struct asked_consumer *asked = hand->ctx;
    *asked = (struct asked_consumer){.request = {.verb = EB_CONSUMER_SEEK, .name = "c", .seq = 1}};
    ask(hand->world, asked);
}

static void seek_during_a_delivery(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer asked;
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 1);
    struct hand *a = attach_with(w, "c", 0, -1, false, NULL);
    a->during = seek_from_within;
    a->ctx = &asked;
    eb_consumer_begin(a->worker);
    assert_string_equal(given(a), "1");
    assert_string_equal(asked.text, "ok");
    assert_string_equal(a->released, "seek");
    leave(a, EB_LEAVE_AGAIN);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

struct pushes {
    char text[1000];
};

static int push_check(void *ctx, const struct eb_consumer_settings *settings, struct eb_error *err)
{
    if (strcmp(settings->push.url, "http://no") == 0)
        return eb_fail(err, EB_INVALID_REQUEST, "no");
    return 0;
}

static void push_start(void *ctx, const char *name, const struct eb_consumer_settings *settings)
{
    struct pushes *pushes = ctx;
    strcat(strcat(strcat(strcat(pushes->text, "+"), name), "="), settings->push.url + 7);
    strcat(pushes->text, " ");
}

static void push_stop(void *ctx, const char *name)
{
    struct pushes *pushes = ctx;
    strcat(strcat(strcat(pushes->text, "-"), name), " ");
}

static const struct eb_push_ops push_ops = {push_check, push_start, push_stop};

#define PUSH(url)                                                                                  \
    "{\"patterns\":[\"#\"],\"from\":\"all\",\"push\":{\"url\":\"http://" url                       \
    "\",\"secret\":\"whsec_x\"}}"

static const char *pushed(struct fake_world *w, struct pushes *pushes)
{
    static char text[1000];
    fake_consume(w);
    strcpy(text, pushes->text);
    pushes->text[0] = '\0';
    return text;
}

/* Who calls webhooks is told what there is, when it changes, and what is there when he comes; its slots are released. */
static void webhooks_are_started_and_stopped(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct pushes pushes = {""};
    eb_bus_on_push(w->bus, &push_ops, &pushes);
    make(w, "c", PUSH("a"));
    assert_string_equal(pushed(w, &pushes), "+c=a ");
    attach_with(w, "c", 0, -1, false, "conflict");
    struct hand *slot = attach_with(w, "c", 1, -1, true, NULL);
    eb_consumer_begin(slot->worker);
    assert_string_equal(put(w, "c", PUSH("a")), "ok");
    assert_string_equal(slot->released, "");
    assert_string_equal(put(w, "c", PUSH("no")), "invalid_request");
    assert_string_equal(put(w, "c", PUSH("b")), "ok");
    assert_string_equal(slot->released, "push");
    leave(slot, EB_LEAVE_AGAIN);
    assert_string_equal(pushed(w, &pushes), "-c +c=b ");
    eb_bus_on_push(w->bus, NULL, NULL);
    assert_string_equal(pushed(w, &pushes), "");
    fake_restart(w);
    assert_string_equal(pushed(w, &pushes), "");
    eb_bus_on_push(w->bus, &push_ops, &pushes);
    assert_string_equal(pushed(w, &pushes), "+c=b ");
    assert_string_equal(put(w, "c", ALL_TOPICS), "ok");
    assert_string_equal(pushed(w, &pushes), "-c ");
    attach_with(w, "c", 0, -1, true, "conflict");
    fake_close(w);
}

/* A consumer that was stopped takes nothing, also after a restart, until it is PUT again; then it goes on where it was. */
static void a_stopped_consumer_waits_for_a_put(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct pushes pushes = {""};
    eb_bus_on_push(w->bus, &push_ops, &pushes);
    make(w, "c", PUSH("a"));
    publish(w, "t", 2);
    struct hand *slot = attach_with(w, "c", 1, -1, true, NULL);
    eb_consumer_begin(slot->worker);
    assert_string_equal(given(slot), "1");
    assert_string_equal(ack(w, "c", 1), "ok");
    struct eb_consumer_request r = {.verb = EB_CONSUMER_STOP, .name = "c", .reason = "410 Gone"};
    assert_string_equal(request(w, &r), "ok");
    assert_string_equal(slot->released, "push");
    assert_string_equal(pushed(w, &pushes), "+c=a -c ");
    assert_string_equal(info_of(w, "c").state, "stopped");
    assert_string_equal(info_of(w, "c").stopped, "410 Gone");
    attach_with(w, "c", 0, -1, true, "conflict");
    leave(slot, EB_LEAVE_AGAIN);
    eb_bus_on_push(w->bus, NULL, NULL);
    fake_restart(w);
    eb_bus_on_push(w->bus, &push_ops, &pushes);
    assert_string_equal(pushed(w, &pushes), "");
    assert_string_equal(info_of(w, "c").stopped, "410 Gone");
    assert_string_equal(put(w, "c", PUSH("a")), "ok");
    assert_string_equal(pushed(w, &pushes), "+c=a ");
    assert_string_equal(info_of(w, "c").stopped, "");
    slot = attach_with(w, "c", 1, -1, true, NULL);
    eb_consumer_begin(slot->worker);
    assert_string_equal(given(slot), "2:2");
    leave(slot, EB_LEAVE_AGAIN);
    eb_bus_on_push(w->bus, NULL, NULL);
    fake_close(w);
}

/*
 * A place is judged with the publishes before it, which may be refused when the disk is full: what comes then in their
 * place is not passed over.
 */
static void a_place_does_not_lie_beyond_what_was_kept(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer moved = {.request = {.verb = EB_CONSUMER_SEEK, .name = "c", .seq = 4}};
    make(w, "c", ALL_TOPICS);
    publish(w, "t", 1);
    ask(w, &moved);
    fake_round(w);
    w->first_try = 2;
    fake_consume(w);
    assert_string_equal(moved.text, "ok");
    publish(w, "t", 2);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "2 3");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_begins_at_its_place_in_the_order),
        cmocka_unit_test(seq_and_time_find_their_place),
        cmocka_unit_test(put_replaces_the_settings),
        cmocka_unit_test(a_put_that_cannot_be_kept_changes_nothing),
        cmocka_unit_test(ensure_makes_it_once),
        cmocka_unit_test(limits_are_said),
        cmocka_unit_test(changes_wait_for_each_other),
        cmocka_unit_test(seek_begins_afresh),
        cmocka_unit_test(seek_during_a_delivery),
        cmocka_unit_test(webhooks_are_started_and_stopped),
        cmocka_unit_test(a_stopped_consumer_waits_for_a_put),
        cmocka_unit_test(a_place_does_not_lie_beyond_what_was_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
