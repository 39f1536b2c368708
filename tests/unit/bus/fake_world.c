/* fake_world.c - see fake_world.h: the boxes, what they ask for, and the world's life. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/unit/bus/fake_internal.h"

struct fake fake;

/* ---- the transport: a frame is its word and a NUL, padded to the payload's length ---- */

static struct eb_frame *word(size_t pad, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    struct eb_frame *frame = eb_frame_create((size_t)len + 1 > pad ? (size_t)len + 1 : pad);
    memset(frame->data, 0, frame->cap);
    memcpy(frame->data, text, (size_t)len);
    frame->len = frame->cap;
    return frame;
}

static struct eb_frame *on_event(struct eb_session *session, struct eb_event *event,
                                 const char *pattern)
{
    struct fake_box *box = eb_session_user(session);
    void (*during)(struct fake_box *, void *) = pattern == NULL ? box->during_event : NULL;
    eb_lock_assert_none();
    assert_false(eb_session_closed(session));
    assert_true(event->seq <= atomic_load(&box->world->bus->visible)); /* B1, B3 */
    box->made++;
    if (during != NULL) {
        box->during_event = NULL;
        during(box, box->ctx);
    }
    if (pattern != NULL)
        return word(event->payload_len, "R%" PRIu64 "@%s", event->seq, pattern);
    return word(event->payload_len, "E%" PRIu64, event->seq);
}

/* Their words in a row, and as many bytes as they have singly. */
static size_t on_events(struct eb_session *session, struct eb_event *const *events, size_t count,
                        const char *pattern, size_t max_bytes, struct eb_buf *out)
{
    static const char nothing[1024];
    size_t done = 0, pad = 0;
    while (done < count && (done == 0 || out->len + pad < max_bytes)) {
        struct eb_frame *frame = on_event(session, events[done], pattern);
        size_t len = strlen((const char *)frame->data);
        eb_buf_add(out, " ", done > 0);
        eb_buf_add(out, frame->data, len);
        pad += frame->len - len - (done > 0);
        eb_frame_unref(frame);
        done++;
    }
    for (size_t more; pad > 0; pad -= more) {
        more = pad < sizeof(nothing) ? pad : sizeof(nothing);
        eb_buf_add(out, nothing, more);
    }
    return done;
}

static struct eb_frame *on_gap(struct eb_session *session, const struct eb_gap *gap)
{
    char list[512] = "";
    eb_lock_assert_none();
    if (eb_session_legacy(session))
        return NULL;
    for (size_t i = 0; i < gap->pattern_count; i++) {
        strcat(list, i != 0 ? "," : "");
        strcat(list, gap->patterns[i]);
    }
    return word(0, "G%" PRIu64 "-%" PRIu64 "@%s:%s", gap->from_seq, gap->to_seq, list,
                eb_gap_reason_name(gap->reason));
}

static struct eb_frame *on_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    eb_lock_assert_none();
    if (eb_session_legacy(session))
        return NULL;
    return word(0, "L%" PRIu64 "@%s", seq, pattern != NULL ? pattern : "");
}

static void on_wake(struct eb_session *session)
{
    struct fake_box *box = eb_session_user(session);
    eb_lock_assert_none();
    box->wakes++;
}

static void on_destroy(struct eb_session *session)
{
    eb_lock_assert_none();
    free(eb_session_user(session));
}

static const struct eb_session_ops session_ops = {
    .event = on_event, .gap = on_gap, .live = on_live, .wake = on_wake, .destroy = on_destroy};
static const struct eb_session_ops bundle_ops = {.event = on_event,
                                                 .gap = on_gap,
                                                 .live = on_live,
                                                 .wake = on_wake,
                                                 .destroy = on_destroy,
                                                 .events = on_events};

const char *fake_drain(struct fake_box *box, size_t max)
{
    struct eb_out item;
    char *at = box->text;
    *at = '\0';
    for (size_t i = 0; i < max && eb_session_take(box->session, &item, 1, SIZE_MAX) == 1; i++) {
        at += snprintf(at, sizeof(box->text) - (size_t)(at - box->text), "%s%s", i != 0 ? " " : "",
                       (const char *)item.frame->data);
        eb_session_sent(box->session, &item, 1);
    }
    return box->text;
}

const char *fake_drain_all(struct fake_box *box)
{
    char *all = calloc(1, sizeof(box->text));
    size_t len = 0;
    for (;;) {
        fake_turns(box->world);
        const char *more = fake_drain(box, ALL);
        if (*more == '\0')
            break;
        len +=
            (size_t)snprintf(all + len, sizeof(box->text) - len, "%s%s", len != 0 ? " " : "", more);
    }
    strcpy(box->text, all);
    free(all);
    return box->text;
}

/* ---- requests ---- */

static void answer(struct fake_box *box, const struct eb_error *err, const char *ok)
{
    if (err->code != EB_OK)
        eb_session_reply(box->session, word(0, "error:%s", eb_code_name(err->code)));
    else
        eb_session_reply(box->session, word(0, "%s", ok));
}

static void published(struct eb_publish *publish)
{
    char text[64];
    struct fake_box *box = publish->user;
    if (box != NULL && publish->op.err.code == EB_OK && publish->op.count > 0) {
        uint64_t last = publish->op.results[publish->op.count - 1].seq;
        assert_true(eb_bus_visible(box->world->bus) >= last); /* D3 */
        snprintf(text, sizeof(text), "ok=%" PRIu64, last);
        answer(box, &publish->op.err, text);
    } else if (box != NULL) {
        answer(box, &publish->op.err, "ok=");
    }
    eb_publish_destroy(publish);
}

static const char *next_headers; /* of the next publish */

static void publish_later(struct fake_world *world, struct fake_box *box, const char *topic,
                          size_t bytes, size_t count, int64_t ttl, int64_t deliver_at_ms)
{
    struct eb_publish *publish = eb_publish_create(count);
    char *payload = calloc(1, bytes + 1);
    struct eb_draft draft = {.topic = topic,
                             .topic_len = strlen(topic),
                             .payload = payload,
                             .payload_len = bytes,
                             .headers = next_headers,
                             .headers_len = next_headers != NULL ? strlen(next_headers) : 0,
                             .ttl = ttl,
                             .deliver_at_ms = deliver_at_ms};
    struct eb_error err;
    next_headers = NULL;
    publish->batch = count != 1;
    for (size_t i = 0; i < count; i++)
        assert_int_equal(eb_publish_add(world->bus, publish, &draft, &err), 0);
    free(payload);
    publish->done = published;
    publish->user = box;
    if (box != NULL)
        publish->session = eb_session_ref(box->session);
    eb_bus_publish(world->bus, publish);
}

static void publish(struct fake_world *world, struct fake_box *box, const char *topic, size_t bytes,
                    size_t count, int64_t ttl)
{
    publish_later(world, box, topic, bytes, count, ttl, 0);
}

void fake_schedule(struct fake_box *box, const char *topic)
{
    publish_later(box->world, box, topic, 1, 1, 0, eb_wall_ms() + 60000);
}

struct due {
    struct eb_op op;
    struct eb_event *events[8];
    struct eb_op_result results[8];
};

static void due_done(struct eb_op *op)
{
    for (uint32_t i = 0; i < op->count; i++)
        eb_event_unref(op->events[i]);
    free(op->user);
}

void fake_due(struct fake_world *world, const char *topic, size_t count)
{
    struct due *due = calloc(1, sizeof(*due));
    struct eb_draft draft = {
        .topic = topic, .topic_len = strlen(topic), .payload = "x", .payload_len = 1};
    assert_non_null(due);
    due->op = (struct eb_op){.kind = EB_OP_DUE,
                             .count = (uint32_t)count,
                             .room = 8,
                             .events = due->events,
                             .results = due->results,
                             .done = due_done,
                             .user = due};
    for (size_t i = 0; i < count; i++)
        assert_non_null(due->events[i] = eb_event_create(&draft));
    eb_store_submit(world->bus->store, &due->op, &due->op);
}

void fake_publish(struct fake_world *world, const char *topic)
{
    publish(world, NULL, topic, 1, 1, 0);
}

void fake_publish_headers(struct fake_world *world, const char *topic, const char *headers)
{
    next_headers = headers;
    publish(world, NULL, topic, 1, 1, 0);
}

void fake_publish_on(struct fake_box *box, const char *topic)
{
    publish(box->world, box, topic, 1, 1, 0);
}

void fake_publish_large(struct fake_world *world, const char *topic, size_t bytes)
{
    publish(world, NULL, topic, bytes, 1, 0);
}

void fake_publish_batch(struct fake_box *box, const char *topic, size_t count)
{
    publish(box->world, box, topic, 1, count, 0);
}

void fake_publish_expired(struct fake_world *world, const char *topic)
{
    publish(world, NULL, topic, 1, 1, 5);
}

struct asked {
    struct eb_subscribe subscribe;
    struct fake_box *box;
    struct eb_pattern patterns[];
};

static void subscribed(struct eb_subscribe *subscribe)
{
    struct asked *asked = subscribe->user;
    char text[400];
    snprintf(text, sizeof(text), "ok#%" PRIu64, subscribe->last_seq);
    answer(asked->box, &subscribe->err, text);
    free(asked);
}

static void do_subscribe(struct fake_box *box, const char *const *patterns, size_t count,
                         uint64_t from, const char *epoch)
{
    struct asked *asked = calloc(1, sizeof(*asked) + count * sizeof(asked->patterns[0]));
    struct eb_error err;
    for (size_t i = 0; i < count; i++)
        assert_int_equal(
            eb_pattern_parse(&asked->patterns[i], patterns[i], strlen(patterns[i]), &err), 0);
    asked->box = box;
    asked->subscribe = (struct eb_subscribe){.patterns = asked->patterns,
                                             .count = count,
                                             .replay = from != LIVE && from != NEWEST,
                                             .last = from == NEWEST,
                                             .done = subscribed,
                                             .user = asked};
    if (asked->subscribe.replay)
        asked->subscribe.starting_seq = from;
    if (epoch != NULL) {
        asked->subscribe.has_epoch = true;
        snprintf(asked->subscribe.epoch, sizeof(asked->subscribe.epoch), "%s", epoch);
    }
    eb_bus_subscribe(box->world->bus, box->session, &asked->subscribe);
}

void fake_subscribe(struct fake_box *box, const char *pattern, uint64_t from)
{
    do_subscribe(box, &pattern, 1, from, NULL);
}

void fake_subscribe_epoch(struct fake_box *box, const char *pattern, uint64_t from,
                          const char *epoch)
{
    do_subscribe(box, &pattern, 1, from, epoch);
}

void fake_subscribe_list(struct fake_box *box, const char *const *patterns, size_t count,
                         uint64_t from)
{
    do_subscribe(box, patterns, count, from, NULL);
}

static void request_done(struct eb_request *request)
{
    answer(request->user, &request->err, request->op.kind == EB_OP_ACK ? "acked" : "bye");
    free(request);
}

void fake_unsubscribe(struct fake_box *box, const char *pattern)
{
    struct eb_request *request = calloc(1, sizeof(*request));
    struct eb_error err;
    assert_int_equal(eb_pattern_parse(&request->pattern, pattern, strlen(pattern), &err), 0);
    request->done = request_done;
    request->user = box;
    eb_bus_unsubscribe(box->world->bus, box->session, request);
}

void fake_ack(struct fake_box *box, uint64_t seq)
{
    struct eb_request *request = calloc(1, sizeof(*request));
    request->op.seq = seq;
    request->done = request_done;
    request->user = box;
    eb_bus_ack(box->world->bus, box->session, request);
}

/* ---- life ---- */

struct fake_world *fake_open(void (*change)(struct eb_bus_config *config))
{
    struct fake_world *world = calloc(1, sizeof(*world));
    world->config = (struct eb_bus_config){
        .readers = 1,
        .max_batch = 10000,
        .limits = {.max_payload = 1 << 20, .max_headers = 64},
        .queue_events = 8,
        .queue_bytes = 1000,
        .max_subscriptions = 4,
    };
    if (change != NULL)
        change(&world->config);
    memset(&fake, 0, sizeof(fake));
    fake_disk_clear();
    fake.world = world;
    fake.queue_end = &fake.queue;
    fake.run_end = &fake.run;
    fake.reads_end = &fake.reads;
    assert_int_equal(eb_bus_create(&world->config, NULL, &world->bus), 0);
    return world;
}

static void stop(struct fake_world *world)
{
    eb_bus_stop(world->bus);
    while (fake_read(world) || fake_commit(world, ALL) > 0)
        ;
    eb_bus_destroy(world->bus);
}

void fake_restart(struct fake_world *world)
{
    fake_restart_cut(world, UINT64_MAX);
}

void fake_restart_cut(struct fake_world *world, uint64_t last)
{
    stop(world);
    while (fake.last > last)
        eb_event_unref(fake.rows[--fake.last].event);
    assert_int_equal(eb_bus_create(&world->config, NULL, &world->bus), 0);
}

void fake_close(struct fake_world *world)
{
    stop(world);
    fake_disk_clear();
    for (uint64_t i = 0; i < fake.last; i++)
        eb_event_unref(fake.rows[i].event);
    free(fake.rows);
    free(world);
}

struct fake_box *fake_box(struct fake_world *world, bool one_subscription)
{
    struct fake_box *box = calloc(1, sizeof(*box));
    box->world = world;
    assert_int_equal(eb_session_create(world->bus, world->bundles ? &bundle_ops : &session_ops, box,
                                       one_subscription, &box->session),
                     0);
    return box;
}

void fake_box_close(struct fake_box *box)
{
    struct eb_session *session = box->session;
    eb_session_close(session);
    eb_session_unref(session);
}

size_t fake_alone(struct fake_world *world)
{
    size_t alone = fake.alone;
    fake.alone = 0;
    return alone;
}
