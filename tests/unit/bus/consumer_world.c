/* consumer_world.c - see consumer_world.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/consumer_world.h"

/* ---- workers ---- */

static void append(struct hand *hand, const char *fmt, ...)
{
    va_list args;
    size_t len = strlen(hand->text);
    if (len > 0)
        hand->text[len++] = ' ';
    va_start(args, fmt);
    vsnprintf(hand->text + len, sizeof(hand->text) - len, fmt, args);
    va_end(args);
}

static bool on_deliver(void *user, struct eb_event *event, uint32_t delivery)
{
    struct hand *hand = user;
    eb_lock_assert_none();
    assert_string_equal(hand->released, "");
    if (hand->refuse > 0) {
        hand->refuse--;
        if (hand->refusing != NULL)
            hand->refusing(hand);
        hand->refusing = NULL;
        return false;
    }
    if (delivery == 1)
        append(hand, "%llu", (unsigned long long)event->seq);
    else
        append(hand, "%llu:%u", (unsigned long long)event->seq, delivery);
    hand->count++;
    if (hand->room != SIZE_MAX)
        hand->room--;
    eb_event_unref(hand->last);
    hand->last = eb_event_ref(event);
    void (*during)(struct hand *, uint64_t) = hand->during;
    hand->during = NULL;
    if (during != NULL)
        during(hand, event->seq);
    return true;
}

static void on_flush(void *user)
{
    struct hand *hand = user;
    eb_lock_assert_none();
    hand->flushes++;
}

static size_t on_room(void *user)
{
    struct hand *hand = user;
    eb_lock_assert_none();
    return hand->room;
}

static void on_gap(void *user, uint64_t from, uint64_t to, enum eb_gap_reason reason)
{
    eb_lock_assert_none();
    append(user, "gap%llu-%llu:%s", (unsigned long long)from, (unsigned long long)to,
           eb_gap_reason_name(reason));
}

static void on_released(void *user, const char *reason)
{
    struct hand *hand = user;
    eb_lock_assert_none();
    assert_string_equal(hand->released, "");
    snprintf(hand->released, sizeof(hand->released), "%s", reason);
}

static void on_expired(void *user)
{
    struct hand *hand = user;
    hand->expired++;
}

static const struct eb_worker_ops worker_ops = {on_deliver, on_flush,    on_room,
                                                on_gap,     on_released, on_expired};

struct hand *attach_with(struct fake_world *world, const char *name, uint32_t max_inflight,
                         int64_t until_ms, bool pushes, const char *refused)
{
    struct hand *hand = calloc(1, sizeof(*hand));
    struct eb_error err;
    hand->world = world;
    hand->room = SIZE_MAX;
    int rc = eb_consumer_attach(world->bus, name, &worker_ops, hand, max_inflight, until_ms, pushes,
                                &hand->worker, &err);
    assert_int_equal(rc, refused != NULL ? -1 : 0);
    if (refused == NULL)
        return hand;
    assert_string_equal(eb_code_name(err.code), refused);
    free(hand);
    return NULL;
}

struct hand *attach(struct fake_world *world, const char *name, uint32_t max_inflight)
{
    struct hand *hand = attach_with(world, name, max_inflight, -1, false, NULL);
    eb_consumer_begin(hand->worker);
    fake_consume(world);
    return hand;
}

void leave(struct hand *hand, enum eb_leave how)
{
    struct fake_world *world = hand->world;
    if (hand->worker != NULL)
        eb_consumer_leave(hand->worker, how);
    eb_event_unref(hand->last);
    free(hand);
    fake_consume(world);
}

void leave_quietly(struct hand *hand)
{
    eb_consumer_leave(hand->worker, EB_LEAVE_OUT);
    eb_event_unref(hand->last);
    free(hand);
}

const char *given(struct hand *hand)
{
    static char texts[4][sizeof(hand->text)];
    static unsigned turn;
    char *text = texts[turn++ % 4];
    fake_consume(hand->world);
    memcpy(text, hand->text, sizeof(hand->text));
    hand->text[0] = '\0';
    return text;
}

/* ---- requests ---- */

static const char *const results[] = {
    [EB_JOB_OK] = "ok", [EB_JOB_LATE] = "late", [EB_JOB_UNKNOWN] = "unknown"};

static void request_done(struct eb_consumer_request *request)
{
    char *text = request->user;
    bool about = request->count == 1 && request->results != NULL;
    assert_string_equal(text, ""); /* once */
    if (request->err.code != EB_OK)
        snprintf(text, 32, "%s", eb_code_name(request->err.code));
    else
        snprintf(text, 32, "%s", about ? results[request->results[0]] : "ok");
}

const char *request(struct fake_world *world, struct eb_consumer_request *request)
{
    static char texts[4][32];
    static unsigned turn;
    char *text = texts[turn++ % 4];
    text[0] = '\0';
    request->done = request_done;
    request->user = text;
    eb_bus_consumer(world->bus, request);
    fake_consume(world);
    assert_string_not_equal(text, "");
    return text;
}

static const char *with_settings(struct fake_world *world, enum eb_consumer_verb verb,
                                 const char *name, const char *text)
{
    struct eb_consumer_settings settings;
    struct eb_consumer_request r = {.verb = verb};
    struct eb_json json;
    struct eb_error err = {0};
    snprintf(r.name, sizeof(r.name), "%s", name);
    if (text != NULL) {
        eb_json_init(&json);
        assert_int_equal(eb_json_parse(&json, text, strlen(text), &err), 0);
        if (eb_consumer_settings_read(&settings, &json, 0, &err) < 0)
            fail_msg("%s", err.message);
        eb_json_finish(&json);
        r.settings = &settings;
    }
    const char *answer = request(world, &r);
    return r.created ? "created" : answer;
}

const char *put(struct fake_world *world, const char *name, const char *settings)
{
    return with_settings(world, EB_CONSUMER_PUT, name, settings);
}

void make(struct fake_world *world, const char *name, const char *settings)
{
    assert_string_equal(put(world, name, settings), "created");
}

const char *ensure(struct fake_world *world, const char *name, const char *settings)
{
    return with_settings(world, EB_CONSUMER_ENSURE, name, settings);
}

static const char *about(struct fake_world *world, enum eb_consumer_verb verb, const char *name,
                         uint64_t seq, int64_t delay_ms, const char *reason)
{
    enum eb_job_result result = EB_JOB_UNKNOWN;
    struct eb_consumer_request r = {
        .verb = verb, .seqs = &seq, .count = 1, .delay_ms = delay_ms, .results = &result};
    snprintf(r.name, sizeof(r.name), "%s", name);
    snprintf(r.reason, sizeof(r.reason), "%s", reason);
    return request(world, &r);
}

const char *ack(struct fake_world *world, const char *name, uint64_t seq)
{
    return about(world, EB_CONSUMER_ACK, name, seq, 0, "");
}

const char *nack(struct fake_world *world, const char *name, uint64_t seq, int64_t delay_ms)
{
    return about(world, EB_CONSUMER_NACK, name, seq, delay_ms, "");
}

const char *term(struct fake_world *world, const char *name, uint64_t seq, const char *reason)
{
    return about(world, EB_CONSUMER_TERM, name, seq, 0, reason);
}

const char *seek(struct fake_world *world, const char *name, uint64_t seq)
{
    struct eb_consumer_request r = {.verb = EB_CONSUMER_SEEK, .seq = seq};
    snprintf(r.name, sizeof(r.name), "%s", name);
    return request(world, &r);
}

const char *end(struct fake_world *world, const char *name)
{
    struct eb_consumer_request r = {.verb = EB_CONSUMER_DELETE};
    snprintf(r.name, sizeof(r.name), "%s", name);
    return request(world, &r);
}

const char *redrive(struct fake_world *world, const char *name, uint64_t *ret_count)
{
    struct eb_consumer_request r = {.verb = EB_CONSUMER_REDRIVE};
    snprintf(r.name, sizeof(r.name), "%s", name);
    const char *answer = request(world, &r);
    *ret_count = r.redriven;
    return answer;
}

struct eb_consumer_info info_of(struct fake_world *world, const char *name)
{
    struct eb_consumer_info info;
    assert_true(eb_bus_consumer_info(world->bus, name, &info));
    free(info.settings);
    info.settings = NULL;
    return info;
}

void ask(struct fake_world *world, struct asked_consumer *asked)
{
    asked->text[0] = '\0';
    asked->request.done = request_done;
    asked->request.user = asked->text;
    eb_bus_consumer(world->bus, &asked->request);
}

void ask_ack(struct fake_world *world, const char *name, uint64_t seq, struct asked_consumer *asked)
{
    *asked = (struct asked_consumer){
        .seq = seq,
        .request = {
            .verb = EB_CONSUMER_ACK, .seqs = &asked->seq, .count = 1, .results = &asked->result}};
    snprintf(asked->request.name, sizeof(asked->request.name), "%s", name);
    ask(world, asked);
}

void read_done(struct eb_read *read)
{
}
