/*
 * embed_request.c - request and reply from inside the process: a session of the bus without a thread of its own, whose
 * one event the caller waits for.
 *
 * (R1) It is subscribed before the request is published, so no reply comes too early.
 * (R2) Nothing is waited for with the bus's callbacks still to come: the session is closed before the call returns, and
 *      what they touch is counted.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "broker/broker.h"
#include "broker/embed.h"
#include "broker/include/eventbus/broker_consumer.h"
#include "common/clock.h"
#include "common/topic.h"
#include "common/uuid.h"

#define HEADER_REPLY_TO    "reply_to"
#define HEADER_CORRELATION "correlation_id"

struct eb_broker_reply {
    struct eb_event *event; /* one reference */
    char id[EB_UUID_TEXT + 1];
    eb_message message;
};

/* What waits for the reply; the session holds it. */
struct desk {
    struct eb_session *session;
    char correlation[EB_UUID_TEXT + 1]; /* [I] */
    struct eb_lock lock;                /* EB_RANK_LEAF: ready */
    pthread_cond_t cond;
    bool ready;
};

/* ---- the session's side ---- */

static struct eb_frame *frame_event(struct eb_session *session, struct eb_event *event,
                                    const char *pattern)
{
    (void)session, (void)pattern;
    struct eb_frame *frame = eb_frame_create(0);
    if (frame)
        frame->event = eb_event_ref(event);
    return frame;
}

static struct eb_frame *frame_gap(struct eb_session *session, const struct eb_gap *gap)
{
    (void)session, (void)gap;
    return NULL;
}

static struct eb_frame *frame_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    (void)session, (void)pattern, (void)seq;
    return NULL;
}

static void wake(struct eb_session *session)
{
    struct desk *desk = eb_session_user(session);
    eb_lock_take(&desk->lock);
    desk->ready = true;
    pthread_cond_signal(&desk->cond);
    eb_lock_drop(&desk->lock);
}

static void destroy(struct eb_session *session)
{
    struct desk *desk = eb_session_user(session);
    pthread_cond_destroy(&desk->cond);
    eb_lock_finish(&desk->lock);
    free(desk);
}

static const struct eb_session_ops session_ops = {
    .event = frame_event, .gap = frame_gap, .live = frame_live, .wake = wake, .destroy = destroy};

static struct desk *desk_make(eb_broker *broker, struct eb_error *error)
{
    struct desk *desk = calloc(1, sizeof *desk);
    uint8_t id[16];
    if (desk) {
        eb_uuid_v4(id);
        eb_uuid_format(desk->correlation, id);
        eb_lock_init(&desk->lock, EB_RANK_LEAF);
        eb_cond_init(&desk->cond);
        if (eb_session_create(broker->bus, &session_ops, desk, true, &desk->session) == 0)
            return desk;
        pthread_cond_destroy(&desk->cond);
        eb_lock_finish(&desk->lock);
        free(desk);
    }
    eb_fail(error, EB_INTERNAL, "out of memory");
    return NULL;
}

/* ---- the call ---- */

struct asked {
    struct eb_embed_wait wait;
};

static void subscribed(struct eb_subscribe *subscribe)
{
    struct asked *asked = subscribe->user;
    eb_embed_wait_done(&asked->wait);
}

static int subscribe(eb_broker *broker, struct desk *desk, const char *topic,
                     struct eb_error *error)
{
    struct eb_pattern pattern;
    struct asked asked;
    struct eb_subscribe subscribe = {
        .patterns = &pattern, .count = 1, .done = subscribed, .user = &asked};
    if (eb_pattern_parse(&pattern, topic, strlen(topic), error) < 0)
        return -1;
    eb_embed_wait_init(&asked.wait);
    eb_bus_subscribe(broker->bus, desk->session, &subscribe);
    eb_embed_wait_finish(&asked.wait);
    *error = subscribe.err;
    return error->code == EB_OK ? 0 : -1;
}

/* A reply that names another request is passed over; one that names none is ours. */
static bool is_ours(const struct desk *desk, const struct eb_event *event)
{
    struct eb_buf value = EB_BUF_INIT;
    bool ours =
        event->headers_len == 0 ||
        !eb_headers_get(event->headers, event->headers_len, HEADER_CORRELATION, &value) ||
        (value.len == EB_UUID_TEXT && memcmp(value.data, desk->correlation, EB_UUID_TEXT) == 0);
    eb_buf_finish(&value);
    return ours;
}

/* The reply, with a reference, if it is there. */
static struct eb_event *take(struct desk *desk)
{
    struct eb_event *event = NULL;
    struct eb_out out;
    while (!event && eb_session_take(desk->session, &out, 1, SIZE_MAX) == 1) {
        if (out.frame->event && is_ours(desk, out.frame->event))
            event = eb_event_ref(out.frame->event);
        eb_session_sent(desk->session, &out, 1);
    }
    return event;
}

/* Wait for it. NULL: the time is over, or the broker stops. */
static struct eb_event *wait_reply(eb_broker *broker, struct desk *desk, int64_t timeout_ms)
{
    int64_t deadline = eb_mono_ms() + timeout_ms;
    struct eb_event *event = NULL;
    bool over = false;
    while (!over && !(event = take(desk))) {
        int64_t step = eb_mono_ms() + 100; /* a quiesce is noticed */
        eb_lock_take(&desk->lock);
        while (!desk->ready && eb_cond_wait(&desk->cond, &desk->lock,
                                            step < deadline ? step : deadline) != ETIMEDOUT)
            ;
        desk->ready = false;
        eb_lock_drop(&desk->lock);
        over = eb_mono_ms() >= deadline || eb_embed_stops(broker);
    }
    return event ? event : take(desk);
}

static int make_reply(struct eb_event *event, eb_broker_reply **ret)
{
    eb_broker_reply *reply = calloc(1, sizeof *reply);
    if (!reply) {
        eb_event_unref(event);
        return -ENOMEM;
    }
    reply->event = event;
    eb_embed_message(event, reply->id, &reply->message);
    *ret = reply;
    return 0;
}

/* Everything but the session's end. */
static int ask(eb_broker *broker, struct desk *desk, const eb_broker_publish *event,
               int64_t timeout_ms, eb_broker_reply **ret, char *err)
{
    struct eb_error error = {.code = EB_OK};
    char topic[sizeof "_reply." + EB_UUID_TEXT];
    snprintf(topic, sizeof topic, "_reply.%s", desk->correlation);
    if (subscribe(broker, desk, topic, &error) < 0) /* R1 */
        return eb_embed_errno(&error, err);
    const char *const more[] = {HEADER_REPLY_TO, topic, HEADER_CORRELATION, desk->correlation,
                                NULL};
    int rc = eb_embed_publish_with(broker, event, more, err);
    if (rc < 0)
        return rc;
    struct eb_event *reply = wait_reply(broker, desk, timeout_ms);
    if (reply)
        return make_reply(reply, ret);
    bool stops = eb_embed_stops(broker);
    snprintf(err, EB_BROKER_ERROR, "%s",
             stops ? "the broker is stopping" : "nobody has answered in time");
    return stops ? -ESHUTDOWN : -ETIMEDOUT;
}

int eb_broker_request(eb_broker *broker, const eb_broker_publish *event, int64_t timeout_ms,
                      eb_broker_reply **ret, char err[EB_BROKER_ERROR])
{
    struct eb_error error = {.code = EB_OK};
    char unused[EB_BROKER_ERROR];
    int rc = -EHOSTUNREACH;
    err = err ? err : unused;
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    if (event->topic && !eb_bus_listens(broker->bus, event->topic, strlen(event->topic))) {
        snprintf(err, EB_BROKER_ERROR,
                 "nobody listens to %.200s: no subscription and no consumer with a worker matches",
                 event->topic);
    } else {
        struct desk *desk = desk_make(broker, &error);
        rc = desk ? ask(broker, desk, event, timeout_ms, ret, err) : eb_embed_errno(&error, err);
        if (desk) {
            struct eb_session *session = desk->session;
            eb_session_close(session); /* R2 */
            eb_session_unref(session);
        }
    }
    eb_embed_leave(broker);
    return rc;
}

const eb_message *eb_broker_reply_message(const eb_broker_reply *reply)
{
    return &reply->message;
}

void eb_broker_reply_free(eb_broker_reply *reply)
{
    if (reply)
        eb_event_unref(reply->event);
    free(reply);
}

/* ---- the other side ---- */

int eb_broker_answer_request(eb_broker *broker, const eb_message *request,
                             const eb_broker_publish *answer, char err[EB_BROKER_ERROR])
{
    struct eb_buf topic = EB_BUF_INIT, correlation = EB_BUF_INIT;
    int rc = -EINVAL;
    bool asked = request->headers &&
                 eb_headers_get(request->headers, request->headers_len, HEADER_REPLY_TO, &topic);
    bool named = asked && eb_headers_get(request->headers, request->headers_len, HEADER_CORRELATION,
                                         &correlation);
    eb_buf_add(&topic, "", 1);
    eb_buf_add(&correlation, "", 1);
    eb_broker_publish reply = *answer;
    reply.topic = topic.data;
    if (!asked) {
        if (err)
            snprintf(err, EB_BROKER_ERROR,
                     "the message has no header reply_to: it asks for nothing");
    } else if (eb_buf_failed(&topic) || eb_buf_failed(&correlation)) {
        rc = -ENOMEM;
    } else {
        const char *const more[] = {named ? HEADER_CORRELATION : NULL, correlation.data, NULL};
        rc = eb_embed_publish_with(broker, &reply, more, err);
    }
    eb_buf_finish(&topic);
    eb_buf_finish(&correlation);
    return rc;
}
