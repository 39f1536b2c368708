/*
 * request.c - a question and its answer over the bus (PROTOCOL 8): eb_request, eb_reply.
 *
 * (QR1) A client has one topic for replies, `_reply.<uuid>`, and one subscription to it, made with the first question. It
 *       is asked for before that question is sent, so no reply can come before anybody listens.
 * (QR2) A reply belongs to the question whose correlation id it has; the first one counts, others are dropped.
 * (QR3) Replies are taken where they are read: a slow callback holds up none.
 */
#include <stdlib.h>
#include <string.h>

#include "client/consumer.h"
#include "common/error.h"
#include "common/event.h"

#define REPLY_TOPICS "_reply."
#define HEADERS_MAX  64 /* pairs, with ours */

/* Who waits for a reply; on that thread's stack. */
struct eb_asker {
    struct eb_asker *next;
    char correlation[EB_UUID_TEXT + 1];
    struct eb_waiter *publish; /* its cond is signalled for both */
    struct eb_item *reply;
};

/* ---- replies ---- */

void eb_askers_wake_locked(eb_client *client)
{
    for (struct eb_asker *asker = client->askers; asker; asker = asker->next)
        pthread_cond_signal(&asker->publish->cond);
}

void eb_asker_replied_locked(eb_client *client, struct eb_item *item)
{
    const eb_message *message = &item->message;
    struct eb_buf value = EB_BUF_INIT;

    if (message->headers &&
        eb_headers_get(message->headers, message->headers_len, "correlation_id", &value)) {
        for (struct eb_asker *asker = client->askers; asker; asker = asker->next) {
            if (asker->reply || value.len != EB_UUID_TEXT ||
                memcmp(asker->correlation, value.data, EB_UUID_TEXT) != 0)
                continue;
            asker->reply = eb_item_ref(item);
            pthread_cond_signal(&asker->publish->cond);
        }
    }
    eb_buf_finish(&value);
}

/* ---- the asking side ---- */

static bool is_ours(const char *name)
{
    return strcmp(name, "reply_to") == 0 || strcmp(name, "correlation_id") == 0;
}

/* @request's headers and ours into @room. */
static int add_headers(const char *room[2 * HEADERS_MAX + 1], const eb_publication *request,
                       const char *topic, const char *correlation, struct eb_error *err)
{
    size_t n = 0;

    for (size_t i = 0; request->headers && request->headers[i]; i += 2) {
        if (is_ours(request->headers[i]))
            return eb_fail(err, EB_INVALID_REQUEST,
                           "a request's headers reply_to and correlation_id are the library's");
        if (!request->headers[i + 1] || n + 6 > 2 * HEADERS_MAX)
            return eb_fail(err, EB_INVALID_REQUEST, "headers: at most 62 names, each with a value");
        room[n++] = request->headers[i];
        room[n++] = request->headers[i + 1];
    }
    room[n++] = "reply_to";
    room[n++] = topic;
    room[n++] = "correlation_id";
    room[n++] = correlation;
    room[n] = NULL;
    return 0;
}

/* The subscription to our replies, with a reference for the caller. A dead one is made anew. */
static int listen_locked(eb_client *client, eb_subscription **ret)
{
    eb_subscription *sub = client->replies;
    int rc;

    if (sub && (sub->state == EB_SUB_DEAD || sub->ended)) {
        client->replies = NULL;
        if (!sub->ended) {
            eb_subscription_unlink_locked(sub);
            eb_subscription_unref_locked(sub);
        }
        sub = NULL;
    }
    if (!sub) {
        char pattern[sizeof(REPLY_TOPICS) + EB_UUID_TEXT] = REPLY_TOPICS;
        uint8_t id[16];
        eb_uuid_v4(id);
        eb_uuid_format(pattern + sizeof(REPLY_TOPICS) - 1, id);
        rc = eb_subscription_listen_locked(client, pattern, &sub);
        if (rc < 0)
            return rc;
        client->replies = sub;
    }
    sub->refs++;
    *ret = sub;
    return EB_RESULT_OK;
}

static int wait_locked(eb_client *client, struct eb_asker *asker, eb_subscription *sub,
                       int64_t deadline)
{
    struct eb_waiter *publish = asker->publish;

    while (!asker->reply) {
        if (publish->done && publish->result < 0)
            return publish->result;
        if (sub->state == EB_SUB_DEAD)
            return sub->result;
        if (client->closing || client->state == EB_STATE_FAILED)
            return EB_RESULT_CLOSED;
        if (eb_cond_wait(&publish->cond, &client->lock, deadline) != 0 && !asker->reply)
            return EB_RESULT_TIMEOUT;
    }
    return EB_RESULT_OK;
}

static void leave_locked(eb_client *client, struct eb_asker *asker)
{
    struct eb_asker **link = &client->askers;

    while (*link != asker)
        link = &(*link)->next;
    *link = asker->next;
}

/* Publish with our headers and wait, listening on @sub. */
static int ask_locked(eb_client *client, const eb_publication *request, eb_subscription *sub,
                      struct eb_asker *asker, int64_t deadline)
{
    const char *headers[2 * HEADERS_MAX + 1];
    eb_publication event = *request;
    struct eb_error err = {0};
    struct eb_request *publish;
    uint8_t id[16];
    int rc;

    eb_uuid_v7(id);
    eb_uuid_format(asker->correlation, id);
    if (!event.message_id)
        event.message_id = asker->correlation;
    event.headers = headers;
    if (add_headers(headers, request, sub->pattern.text, asker->correlation, &err) < 0) {
        eb_client_set_error_locked(client, err.message);
        return EB_RESULT_INVALID;
    }
    eb_lock_drop(&client->lock);
    rc = eb_request_make_publish(client, &event, &publish);
    eb_lock_take(&client->lock);
    if (rc < 0)
        return rc;
    asker->next = client->askers;
    client->askers = asker;
    publish->waiter = asker->publish;
    rc = eb_request_take_locked(client, publish, deadline);
    if (rc == 0) {
        rc = wait_locked(client, asker, sub, deadline);
        if (!asker->publish->done)
            publish->waiter = NULL; /* it goes on without us */
    }
    leave_locked(client, asker);
    return rc;
}

EB_API int eb_request(eb_client *client, const eb_publication *request, const eb_message **ret,
                      int64_t timeout)
{
    struct eb_waiter publish = {.result = EB_RESULT_TIMEOUT};
    struct eb_asker asker = {.publish = &publish};
    int64_t deadline = eb_deadline(timeout);
    eb_subscription *sub;
    int rc;

    if (eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    if (!request || !ret)
        return EB_RESULT_INVALID;
    eb_cond_init(&publish.cond);
    eb_lock_take(&client->lock);
    client->inside++;
    rc = listen_locked(client, &sub);
    if (rc == 0) {
        rc = ask_locked(client, request, sub, &asker, deadline);
        eb_subscription_unref_locked(sub);
    }
    eb_client_leave_locked(client);
    eb_lock_drop(&client->lock);
    pthread_cond_destroy(&publish.cond);
    if (rc == 0)
        *ret = &asker.reply->message;
    else
        eb_item_unref(asker.reply);
    return rc;
}

EB_API void eb_reply_free(const eb_message *reply)
{
    if (reply)
        eb_item_unref((struct eb_item *)((char *)reply - offsetof(struct eb_item, message)));
}

/* ---- the answering side ---- */

/* The value of header @name, NUL-terminated in @out. */
static bool header(const eb_message *message, const char *name, struct eb_buf *out)
{
    bool found = message && message->headers &&
                 eb_headers_get(message->headers, message->headers_len, name, out);

    eb_buf_add(out, "", 1);
    return found && !eb_buf_failed(out) && strlen(out->data) == out->len - 1;
}

EB_API int eb_reply(eb_client *client, const eb_message *request, const void *payload, size_t len,
                    const char *content_type, eb_publish_fn *done, void *user)
{
    struct eb_buf topic = EB_BUF_INIT, correlation = EB_BUF_INIT;
    const char *headers[] = {NULL, NULL, NULL};
    eb_publication event = {.payload = payload,
                            .payload_len = len,
                            .content_type = content_type,
                            .headers = headers,
                            .ttl_s = EB_TTL_BROKER};
    int rc = EB_RESULT_INVALID;

    if (header(request, "reply_to", &topic) &&
        strncmp(topic.data, REPLY_TOPICS, sizeof(REPLY_TOPICS) - 1) == 0) {
        event.topic = topic.data;
        if (header(request, "correlation_id", &correlation)) {
            headers[0] = "correlation_id";
            headers[1] = correlation.data;
        }
        rc = eb_client_publish(client, &event, done, user);
    }
    eb_buf_finish(&topic);
    eb_buf_finish(&correlation);
    return rc;
}
