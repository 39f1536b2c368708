/*
 * embed.c - the embedding API of <eventbus/broker.h>: configuration by names, publish and acknowledge that
 * wait for their commit. Subscriptions are embed_subscribe.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/broker.h"
#include "broker/embed.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

struct eb_broker_config {
    struct eb_settings settings;
};

eb_broker_config *eb_broker_config_create(void)
{
    eb_broker_config *config = calloc(1, sizeof *config);
    if (!config || eb_settings_init(&config->settings) < 0) {
        free(config);
        return NULL;
    }
    free(config->settings.listen[0]);
    config->settings.listen[0] = NULL;
    return config;
}

void eb_broker_config_destroy(eb_broker_config *config)
{
    if (config)
        eb_settings_finish(&config->settings);
    free(config);
}

int eb_broker_config_set(eb_broker_config *config, const char *key, const char *value,
                         char err[EB_BROKER_ERROR])
{
    return eb_settings_set(&config->settings, key, value, EB_FROM_COMMAND_LINE, err);
}

int eb_broker_config_load(eb_broker_config *config, const char *path, char err[EB_BROKER_ERROR])
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return -ENOMEM;
    int bad = eb_settings_load(&config->settings, path, out);
    fclose(out);
    if (bad > 0)
        snprintf(err, EB_BROKER_ERROR, "%.*s", (int)strcspn(text, "\n"), text);
    else if (bad < 0)
        snprintf(err, EB_BROKER_ERROR, "%s: %s", path, strerror(-bad));
    free(text);
    return bad > 0 ? -EINVAL : bad;
}

int eb_broker_start(const eb_broker_config *config, eb_broker **ret, char err[EB_BROKER_ERROR])
{
    return eb_broker_start_settings(&config->settings, ret, err);
}

int eb_broker_log(const char *level, const char *format, const char *file)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(level, levels[i]) == 0)
            return eb_log_setup((enum eb_log_level)i, strcmp(format, "json") == 0, file);
    }
    return -EINVAL;
}

uint64_t eb_broker_last_seq(eb_broker *broker)
{
    return eb_store_last_seq(broker->store);
}

const char *eb_broker_epoch(eb_broker *broker)
{
    return eb_store_epoch(broker->store);
}

int eb_embed_errno(const struct eb_error *error, char *err)
{
    static const int codes[EB_CODE_COUNT] = {
        [EB_INVALID_JSON] = EINVAL,       [EB_INVALID_REQUEST] = EINVAL,
        [EB_INVALID_TOPIC] = EINVAL,      [EB_INVALID_PATTERN] = EINVAL,
        [EB_INVALID_MESSAGE_ID] = EINVAL, [EB_FORBIDDEN] = EPERM,
        [EB_NOT_FOUND] = ENOENT,          [EB_CONFLICT] = ESTALE,
        [EB_TIMEOUT] = ETIMEDOUT,         [EB_PAYLOAD_TOO_LARGE] = EMSGSIZE,
        [EB_MESSAGE_ID_REUSED] = EEXIST,  [EB_LIMIT_EXCEEDED] = EMFILE,
        [EB_UNAVAILABLE] = ESHUTDOWN,     [EB_STORAGE_FULL] = ENOSPC,
    };
    if (error->code == EB_OK)
        return 0;
    if (err)
        snprintf(err, EB_BROKER_ERROR, "%s", error->message);
    return codes[error->code] ? -codes[error->code] : -EIO;
}

/* ---- calls under way ---- */

bool eb_embed_enter(eb_broker *broker, char *err)
{
    eb_lock_take(&broker->lock);
    bool may = !broker->quiesced;
    broker->calls += may;
    eb_lock_drop(&broker->lock);
    if (!may && err)
        snprintf(err, EB_BROKER_ERROR, "the broker is stopping");
    return may;
}

bool eb_embed_stops(eb_broker *broker)
{
    eb_lock_take(&broker->lock);
    bool stops = broker->quiesced;
    eb_lock_drop(&broker->lock);
    return stops;
}

void eb_embed_leave(eb_broker *broker)
{
    eb_lock_take(&broker->lock);
    broker->calls--;
    pthread_cond_signal(&broker->idle); /* under the lock: behind it the broker may be gone */
    eb_lock_drop(&broker->lock);
}

/* ---- parts ---- */

void eb_embed_add(struct eb_embed_part *part, unsigned threads,
                  void (*end)(struct eb_embed_part *part))
{
    eb_broker *broker = part->broker;
    part->end = end;
    eb_lock_take(&broker->lock);
    broker->threads += threads;
    part->open = true;
    part->next = broker->parts;
    if (part->next)
        part->next->prev = part;
    broker->parts = part;
    eb_lock_drop(&broker->lock);
}

static void take_locked(struct eb_embed_part *part)
{
    if (part->prev)
        part->prev->next = part->next;
    else
        part->broker->parts = part->next;
    if (part->next)
        part->next->prev = part->prev;
    part->open = false;
}

void eb_embed_threads_come(eb_broker *broker, unsigned threads)
{
    eb_lock_take(&broker->lock);
    broker->threads += threads;
    eb_lock_drop(&broker->lock);
}

void eb_embed_thread_left(eb_broker *broker)
{
    eb_lock_take(&broker->lock);
    broker->threads--;
    pthread_cond_signal(&broker->idle); /* under the lock: behind it the broker may be gone */
    eb_lock_drop(&broker->lock);
}

bool eb_embed_take(struct eb_embed_part *part)
{
    eb_lock_take(&part->broker->lock);
    bool was_open = part->open;
    if (was_open)
        take_locked(part);
    eb_lock_drop(&part->broker->lock);
    return was_open;
}

void eb_embed_end(eb_broker *broker)
{
    struct eb_embed_part *part;
    eb_lock_take(&broker->lock);
    while ((part = broker->parts) || broker->calls > 0 || broker->threads > 0) {
        if (!part || broker->calls > 0) { /* a call may be making one */
            eb_cond_wait(&broker->idle, &broker->lock, -1);
            continue;
        }
        take_locked(part);
        eb_lock_drop(&broker->lock);
        part->end(part);
        eb_lock_take(&broker->lock);
    }
    eb_lock_drop(&broker->lock);
}

/* ---- waiting for a commit ---- */

void eb_embed_wait_init(struct eb_embed_wait *wait)
{
    eb_lock_init(&wait->lock, EB_RANK_LEAF);
    eb_cond_init(&wait->cond);
    wait->done = false;
}

void eb_embed_wait_done(struct eb_embed_wait *wait)
{
    eb_lock_take(&wait->lock);
    wait->done = true;
    pthread_cond_signal(&wait->cond);
    eb_lock_drop(&wait->lock);
}

void eb_embed_wait_finish(struct eb_embed_wait *wait)
{
    eb_lock_take(&wait->lock);
    while (!wait->done)
        eb_cond_wait(&wait->cond, &wait->lock, -1);
    eb_lock_drop(&wait->lock);
    pthread_cond_destroy(&wait->cond);
    eb_lock_finish(&wait->lock);
}

/* ---- events ---- */

void eb_embed_message(const struct eb_event *event, char id[EB_UUID_TEXT + 1], eb_message *ret)
{
    eb_uuid_format(id, event->id);
    *ret = (eb_message){
        .seq = event->seq,
        .message_id = id,
        .topic = event->topic,
        .topic_len = event->topic_len,
        .payload = event->payload,
        .payload_len = event->payload_len,
        .timestamp_ms = event->timestamp,
        .ttl_s = event->ttl,
        .content_type = event->content_type,
        .headers = event->headers_len ? event->headers : NULL,
        .headers_len = event->headers_len,
    };
}

/* ---- publish ---- */

static int add_headers(struct eb_headers *headers, const char *const *list, struct eb_error *error)
{
    for (; list && list[0]; list += 2) {
        if (!list[1])
            return eb_fail(error, EB_INVALID_REQUEST,
                           "headers must come in pairs of name and value, then NULL");
        if (eb_headers_add(headers, list[0], strlen(list[0]), list[1], strlen(list[1]), error) < 0)
            return -1;
    }
    return 0;
}

static int message_id(const char *text, struct eb_headers *headers, struct eb_draft *ret,
                      struct eb_error *error)
{
    bool foreign = false;
    if (eb_message_id_parse(ret->id, &foreign, text, strlen(text), error) < 0)
        return -1;
    ret->has_id = true;
    if (foreign && eb_headers_set_message_id(headers, text, strlen(text)) < 0)
        return eb_fail(error, EB_INTERNAL, "out of memory");
    return 0;
}

static int when(const eb_broker_publish *event, struct eb_draft *ret, struct eb_error *error)
{
    if (event->delay_ms != 0 && event->deliver_at_ms != 0)
        return eb_fail(error, EB_INVALID_REQUEST,
                       "deliver_at_ms and delay_ms are both set: one says when");
    if (event->delay_ms < 0 || event->deliver_at_ms < 0)
        return eb_fail(error, EB_INVALID_REQUEST, "deliver_at_ms or delay_ms is negative");
    ret->deliver_at_ms =
        event->delay_ms > 0 ? eb_wall_ms() + event->delay_ms : event->deliver_at_ms;
    return 0;
}

int eb_embed_draft(const eb_broker_publish *event, struct eb_headers *headers, struct eb_draft *ret,
                   struct eb_error *error)
{
    *ret = (struct eb_draft){
        .topic = event->topic ? event->topic : "",
        .topic_len = event->topic ? strlen(event->topic) : 0,
        .payload = event->payload ? event->payload : "",
        .payload_len = event->payload ? event->payload_len : 0,
        .content_type = event->content_type,
        .content_type_len = event->content_type ? strlen(event->content_type) : 0,
        .ttl = event->ttl_s < 0 ? EB_TTL_UNSET : event->ttl_s,
        .has_expected = event->expects_last_seq,
        .expected = event->expected_last_seq,
    };
    if (when(event, ret, error) < 0 || add_headers(headers, event->headers, error) < 0)
        return -1;
    if (event->message_id && message_id(event->message_id, headers, ret, error) < 0)
        return -1;
    ret->headers = eb_headers_text(headers, &ret->headers_len);
    return eb_buf_failed(&headers->buf) ? eb_fail(error, EB_INTERNAL, "out of memory") : 0;
}

static int add_event(eb_broker *broker, struct eb_publish *publish, const eb_broker_publish *event,
                     struct eb_error *error)
{
    struct eb_headers headers;
    struct eb_draft draft;
    eb_headers_init(&headers, (unsigned)broker->settings.max_headers);
    int rc = eb_embed_draft(event, &headers, &draft, error);
    if (rc == 0)
        rc = eb_publish_add(broker->bus, publish, &draft, error);
    eb_headers_finish(&headers);
    return rc;
}

static void published(struct eb_publish *publish)
{
    eb_embed_wait_done(publish->user);
}

static void take_results(const struct eb_publish *publish, eb_broker_ack *rets)
{
    for (uint32_t i = 0; rets && i < publish->op.count; i++) {
        rets[i].seq = publish->op.results[i].seq;
        rets[i].duplicate = publish->op.results[i].duplicate;
        rets[i].scheduled = publish->op.results[i].scheduled;
        eb_uuid_format(rets[i].message_id, publish->op.events[i]->id);
    }
}

/* Everything but the bookkeeping of the call. */
static int publish_all(eb_broker *broker, const eb_broker_publish *events, size_t count,
                       eb_broker_ack *rets, char *err)
{
    struct eb_error error = {.code = EB_OK};
    struct eb_embed_wait wait;
    struct eb_publish *publish = eb_publish_create(count);
    if (!publish) {
        if (err)
            snprintf(err, EB_BROKER_ERROR, "out of memory");
        return -ENOMEM;
    }
    publish->batch = count != 1;
    for (size_t i = 0; i < count && error.code == EB_OK; i++)
        add_event(broker, publish, &events[i], &error);
    if (error.code == EB_OK) {
        eb_embed_wait_init(&wait);
        publish->done = published;
        publish->user = &wait;
        eb_bus_publish(broker->bus, publish);
        eb_embed_wait_finish(&wait);
        error = publish->op.err;
        if (error.code == EB_OK)
            take_results(publish, rets);
    }
    eb_publish_destroy(publish);
    return eb_embed_errno(&error, err);
}

int eb_broker_publish_batch(eb_broker *broker, const eb_broker_publish *events, size_t count,
                            eb_broker_ack *rets, char err[EB_BROKER_ERROR])
{
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    int rc = publish_all(broker, events, count, rets, err);
    eb_embed_leave(broker);
    return rc;
}

int eb_broker_publish_event(eb_broker *broker, const eb_broker_publish *event, eb_broker_ack *ret,
                            char err[EB_BROKER_ERROR])
{
    return eb_broker_publish_batch(broker, event, 1, ret, err);
}

static size_t count_texts(const char *const *list)
{
    size_t count = 0;
    while (list && list[count])
        count++;
    return count;
}

int eb_embed_publish_with(eb_broker *broker, const eb_broker_publish *event,
                          const char *const *more, char *err)
{
    size_t own = count_texts(event->headers), further = count_texts(more);
    const char **headers = calloc(own + further + 1, sizeof *headers);
    if (!headers)
        return -ENOMEM;
    for (size_t i = 0; i < own; i++)
        headers[i] = event->headers[i];
    for (size_t i = 0; i < further; i++)
        headers[own + i] = more[i];
    eb_broker_publish whole = *event;
    whole.headers = headers;
    int rc = eb_broker_publish_event(broker, &whole, NULL, err);
    free(headers);
    return rc;
}

static void acknowledged(struct eb_request *request)
{
    eb_embed_wait_done(request->user);
}

int eb_broker_acknowledge(eb_broker *broker, uint64_t seq, char err[EB_BROKER_ERROR])
{
    struct eb_embed_wait wait;
    struct eb_request request = {.op = {.seq = seq}, .done = acknowledged, .user = &wait};
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    eb_embed_wait_init(&wait);
    eb_bus_ack(broker->bus, NULL, &request);
    eb_embed_wait_finish(&wait);
    eb_embed_leave(broker);
    return eb_embed_errno(&request.err, err);
}
