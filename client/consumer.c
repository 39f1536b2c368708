/*
 * consumer.c - durable consumers as their owner sees them: opened, pulled, answered, closed.
 *
 * (E1) A consumer lives in its client's list from open to close. `refs` keeps its memory for threads that are inside
 *      it meanwhile, and for notices that are still to be told.
 * (E2) The end: `closing` (nothing is handed over), quiet (nothing runs, all is answered), release, `stop` (workers end),
 *      `ended` (no notice is told any more). Whoever sets `closing` goes that way; the client's end does it for the rest.
 * (E3) What is held at the end goes back by `release`, not one by one: a nack would bring it back to us.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/consumer.h"
#include "common/error.h"
#include "common/text.h"

void eb_consumer_unref_locked(eb_consumer *consumer)
{
    if (--consumer->refs > 0)
        return;
    eb_deliveries_finish_locked(consumer);
    pthread_cond_destroy(&consumer->work);
    pthread_cond_destroy(&consumer->quiet);
    free(consumer->buckets);
    free(consumer->settings);
    free(consumer->thread);
    free(consumer);
}

/* Out of the list; the caller has the list's reference now. */
void eb_consumer_unlink_locked(eb_consumer *consumer)
{
    if (consumer->prev)
        consumer->prev->next = consumer->next;
    else
        consumer->client->consumers = consumer->next;
    if (consumer->next)
        consumer->next->prev = consumer->prev;
    consumer->prev = consumer->next = NULL;
    consumer->ended = true;
}

/* ---- notices ---- */

struct eb_notice *eb_notice_create(eb_consumer *consumer, enum eb_notice_kind kind)
{
    struct eb_notice *notice = calloc(1, sizeof(*notice));

    if (!notice)
        return NULL;
    notice->consumer = consumer;
    notice->kind = kind;
    return notice;
}

void eb_notice_queue_locked(struct eb_notice *notice)
{
    eb_client *client = notice->consumer->client;

    notice->next = NULL;
    notice->consumer->refs++;
    notice->consumer->notices++;
    if (client->notice_last)
        client->notice_last->next = notice;
    else
        client->notice_first = notice;
    client->notice_last = notice;
    client->notices_queued++;
    eb_callbacks_wake_locked(client);
}

static void tell(const struct eb_notice *notice)
{
    eb_consumer *consumer = notice->consumer;
    const eb_consumer_options *options = &consumer->options;

    if (notice->kind == EB_NOTICE_ANSWERED) {
        options->answered(options->user, consumer, notice->seq, notice->delivery, notice->verdict,
                          notice->result);
    } else if (notice->kind == EB_NOTICE_GAP) {
        eb_gap_info gap = {NULL, notice->seq, notice->to_seq, notice->text};
        options->gap(options->user, consumer, &gap);
    } else if (notice->kind == EB_NOTICE_RELEASED) {
        options->released(options->user, consumer, notice->text);
    } else {
        options->failed(options->user, consumer, notice->result, notice->text);
    }
}

bool eb_notice_run(eb_client *client)
{
    struct eb_notice *notice = client->notice_first;
    eb_consumer *consumer;

    if (!notice)
        return false;
    client->notice_first = notice->next;
    if (!client->notice_first)
        client->notice_last = NULL;
    consumer = notice->consumer;
    if (!consumer->ended) {
        consumer->in_notice = true;
        eb_lock_drop(&client->lock);
        tell(notice);
        eb_lock_take(&client->lock);
        consumer->in_notice = false;
    }
    consumer->notices--;
    client->notices_run++;
    pthread_cond_broadcast(&consumer->quiet);
    if (client->inside > 0)
        pthread_cond_broadcast(&client->changed);
    free(notice);
    eb_consumer_unref_locked(consumer);
    return true;
}

/* ---- options ---- */

static int check_patterns(const char *const *patterns, struct eb_error *err)
{
    struct eb_pattern pattern;
    size_t count = 0;

    while (patterns && patterns[count]) {
        if (eb_pattern_parse(&pattern, patterns[count], strlen(patterns[count]), err) < 0)
            return -1;
        count++;
    }
    if (count < 1 || count > 16)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "settings: patterns must be 1 to 16 patterns with NULL behind them");
    return 0;
}

static int check_settings(const eb_consumer_settings *settings, struct eb_error *err)
{
    if (settings->size < sizeof(*settings))
        return eb_fail(err, EB_INVALID_REQUEST, "settings: start from EB_CONSUMER_SETTINGS_INIT");
    if (check_patterns(settings->patterns, err) < 0)
        return -1;
    if (settings->from > EB_CONSUMER_TIME || settings->start_at < 0)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "settings: from must be one of EB_CONSUMER_…, start_at not negative");
    if (settings->ack_wait < 1)
        return eb_fail(err, EB_INVALID_REQUEST, "settings: ack_wait must be at least 1 ms");
    if (settings->backoff_count > 0 && !settings->backoff)
        return eb_fail(err, EB_INVALID_REQUEST, "settings: backoff is NULL, its count is not 0");
    for (size_t i = 0; i < settings->backoff_count; i++) {
        if (settings->backoff[i] < 0)
            return eb_fail(err, EB_INVALID_REQUEST, "settings: backoff must not be negative");
    }
    if (settings->order && !eb_utf8_valid(settings->order, strlen(settings->order)))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "settings: order must be \"none\", \"topic\" or \"header:NAME\"");
    return 0;
}

static int check_name(const char *name, struct eb_error *err)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t len = name ? strlen(name) : 0;

    if (len < 1 || len > EB_CONSUMER_NAME_LEN || strspn(name, allowed) != len)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "a consumer's name must be 1 to 64 of A-Z a-z 0-9 _ -");
    return 0;
}

/* A caller built with an older header gives less: the rest keeps its default. */
static int read_options(eb_consumer_options *ret, const eb_consumer_options *options,
                        struct eb_error *err)
{
    eb_consumer_options defaults = EB_CONSUMER_OPTIONS_INIT;

    *ret = defaults;
    if (!options || options->size < sizeof(defaults))
        return eb_fail(err, EB_INVALID_REQUEST, "options: start from EB_CONSUMER_OPTIONS_INIT");
    memcpy(ret, options, sizeof(*ret));
    if (check_name(ret->name, err) < 0 || (ret->settings && check_settings(ret->settings, err) < 0))
        return -1;
    if (ret->max_inflight < 1)
        return eb_fail(err, EB_INVALID_REQUEST, "max_inflight must be at least 1");
    if (ret->event && (ret->threads < 1 || ret->threads > EB_WORKERS_MAX))
        return eb_fail(err, EB_INVALID_REQUEST, "threads must be 1 to %d", EB_WORKERS_MAX);
    if (ret->in_progress != 0 && !ret->event)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "in_progress is for callbacks; who pulls calls eb_consumer_in_progress");
    if (ret->in_progress < EB_IN_PROGRESS_AUTO)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "in_progress must be 0 (off), milliseconds, or EB_IN_PROGRESS_AUTO");
    if (ret->in_progress == EB_IN_PROGRESS_AUTO && !ret->settings)
        return eb_fail(
            err, EB_INVALID_REQUEST,
            "in_progress: without settings ack_wait is not known, so say every how many ms");
    return 0;
}

static void write_seconds(struct eb_buf *out, int64_t ms)
{
    eb_buf_printf(out, "%lld.%03lld", (long long)(ms / 1000), (long long)(ms % 1000));
}

static void write_from(struct eb_buf *out, const eb_consumer_settings *settings)
{
    long long at = settings->start_at;

    eb_buf_str(out, ",\"from\":");
    if (settings->from == EB_CONSUMER_SEQ)
        eb_buf_printf(out, "{\"seq\":%lld}", at);
    else if (settings->from == EB_CONSUMER_TIME)
        eb_buf_printf(out, "{\"time\":%lld}", at);
    else
        eb_buf_str(out, settings->from == EB_CONSUMER_ALL ? "\"all\"" : "\"new\"");
}

/* As the JSON object that the broker takes; NULL: no memory. */
static char *settings_text(const eb_consumer_settings *settings)
{
    const char *order = settings->order ? settings->order : "none";
    struct eb_buf out = EB_BUF_INIT;

    eb_buf_str(&out, "{\"patterns\":");
    for (size_t i = 0; settings->patterns[i]; i++) {
        eb_buf_str(&out, i == 0 ? "[" : ",");
        eb_json_write_string(&out, settings->patterns[i], strlen(settings->patterns[i]));
    }
    eb_buf_str(&out, "]");
    write_from(&out, settings);
    eb_buf_str(&out, ",\"ack_wait\":");
    write_seconds(&out, settings->ack_wait);
    eb_buf_printf(&out, ",\"max_deliver\":%u", settings->max_deliver);
    for (size_t i = 0; i < settings->backoff_count; i++) {
        eb_buf_str(&out, i == 0 ? ",\"backoff\":[" : ",");
        write_seconds(&out, settings->backoff[i]);
    }
    eb_buf_printf(&out, "%s,\"max_inflight\":%u,\"order\":", settings->backoff_count > 0 ? "]" : "",
                  settings->max_inflight);
    eb_json_write_string(&out, order, strlen(order));
    eb_buf_printf(&out, ",\"order_window\":%u,\"dead_letter\":%s}", settings->order_window,
                  settings->dead_letter ? "true" : "false");
    eb_buf_add(&out, "", 1);
    if (!eb_buf_failed(&out))
        return out.data;
    eb_buf_finish(&out);
    return NULL;
}

/* ---- making ---- */

static eb_consumer *create(eb_client *client, const eb_consumer_options *options)
{
    eb_consumer *consumer = calloc(1, sizeof(*consumer));

    if (!consumer)
        return NULL;
    consumer->client = client;
    consumer->refs = 1;
    consumer->options = *options;
    strcpy(consumer->name, options->name);
    consumer->options.name = consumer->name;
    consumer->options.settings = NULL;
    consumer->batch_max = EB_ANSWERS_A_REQUEST;
    consumer->progress_every = options->in_progress;
    if (options->in_progress == EB_IN_PROGRESS_AUTO)
        consumer->progress_every =
            options->settings->ack_wait / 3 > 0 ? options->settings->ack_wait / 3 : 1;
    eb_cond_init(&consumer->work);
    eb_cond_init(&consumer->quiet);
    if (options->settings)
        consumer->settings = settings_text(options->settings);
    if (eb_deliveries_init(consumer) == 0 && (consumer->settings || !options->settings))
        return consumer;
    eb_consumer_unref_locked(consumer); /* nobody else knows of it */
    return NULL;
}

static int add_locked(eb_client *client, eb_consumer *consumer)
{
    int rc = eb_client_want_locked(client);

    if (rc < 0)
        return rc;
    for (const eb_consumer *other = client->consumers; other; other = other->next) {
        if (strcmp(other->name, consumer->name) == 0) {
            eb_client_set_error_locked(client, "this client consumes by that name already");
            return EB_RESULT_INVALID;
        }
    }
    consumer->after = client->last_id;
    consumer->next = client->consumers;
    if (consumer->next)
        consumer->next->prev = consumer;
    client->consumers = consumer;
    eb_client_wake_locked(client);
    return EB_RESULT_OK;
}

static int wait_answer_locked(eb_client *client, eb_consumer *consumer, int64_t deadline)
{
    int rc = 0;

    client->inside++;
    while (!consumer->answered && consumer->state != EB_CONSUME_DEAD && !client->closing && rc == 0)
        rc = eb_cond_wait(&client->changed, &client->lock, deadline);
    eb_client_leave_locked(client);
    if (consumer->answered)
        return EB_RESULT_OK;
    if (consumer->state == EB_CONSUME_DEAD)
        return consumer->result;
    return client->closing ? EB_RESULT_CLOSED : EB_RESULT_TIMEOUT;
}

static void end_locked(eb_consumer *consumer);

static int refuse(eb_client *client, const struct eb_error *err)
{
    eb_lock_take(&client->lock);
    eb_client_set_error_locked(client, err->message);
    eb_lock_drop(&client->lock);
    return EB_RESULT_INVALID;
}

EB_API int eb_consumer_open(eb_client *client, const eb_consumer_options *options, int64_t timeout,
                            eb_consumer **ret)
{
    eb_consumer_options checked;
    struct eb_error err = {0};
    eb_consumer *consumer;
    int rc;

    if (timeout != 0 && eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    if (!ret)
        eb_fail(&err, EB_INVALID_REQUEST, "there is no place for the consumer (ret is NULL)");
    if (!ret || read_options(&checked, options, &err) < 0)
        return refuse(client, &err);
    consumer = create(client, &checked);
    if (!consumer)
        return EB_RESULT_MEMORY;
    eb_lock_take(&client->lock);
    rc = add_locked(client, consumer);
    if (rc < 0) {
        eb_consumer_unref_locked(consumer);
    } else {
        *ret = consumer; /* callbacks may begin before we return */
        rc = eb_workers_start(consumer);
        consumer->waited = timeout != 0;
        if (rc == 0 && timeout != 0)
            rc = wait_answer_locked(client, consumer, eb_deadline(timeout));
        consumer->waited = false;
        if (rc < 0)
            end_locked(consumer);
    }
    if (rc < 0)
        *ret = NULL;
    eb_lock_drop(&client->lock);
    return rc;
}

/* ---- ending ---- */

static bool quiet(const eb_consumer *consumer)
{
    if (consumer->running > 0)
        return false;
    return consumer->state == EB_CONSUME_DEAD ||
           (consumer->handed.count == 0 && consumer->answers == 0);
}

bool eb_consumers_quiet_locked(const eb_client *client)
{
    for (const eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        if (!quiet(consumer))
            return false;
    }
    return true;
}

void eb_consumers_wake_locked(eb_client *client)
{
    for (eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        pthread_cond_broadcast(&consumer->work);
        pthread_cond_broadcast(&consumer->quiet);
    }
}

/* E3. Also of one that was asked for and not answered yet. */
static void release_locked(eb_consumer *consumer)
{
    struct eb_buf text = EB_BUF_INIT, record = EB_BUF_INIT;

    if (consumer->state != EB_CONSUME_ATTACHED && consumer->state != EB_CONSUME_ASKED)
        return;
    eb_buf_printf(&text, "{\"type\":\"release\",\"consumer\":\"%s\"}", consumer->name);
    if (!eb_buf_failed(&text))
        eb_bin_write_json(&record, EB_BIN_JSON_REQUEST, 0, text.data, text.len);
    eb_buf_finish(&text);
    eb_client_control_locked(consumer->client, &record);
}

/* Workers end; the lock is dropped meanwhile. Nobody else ends this one: `closing` is set. */
static void stop_workers_locked(eb_consumer *consumer)
{
    eb_client *client = consumer->client;

    consumer->stop = true;
    pthread_cond_broadcast(&consumer->work);
    eb_lock_drop(&client->lock);
    eb_workers_join(consumer);
    eb_lock_take(&client->lock);
}

/* The whole end behind the waiting; frees. */
static void end_locked(eb_consumer *consumer)
{
    eb_client *client = consumer->client;

    consumer->closing = true;
    client->inside++;
    release_locked(consumer);
    stop_workers_locked(consumer);
    consumer->ended = true;
    while (consumer->in_notice && !eb_client_in_callback(client))
        eb_cond_wait(&consumer->quiet, &client->lock, -1);
    eb_deliveries_settle_all_locked(consumer, EB_RESULT_CLOSED); /* who waits for an ack leaves */
    pthread_cond_broadcast(&consumer->work);
    eb_consumer_unlink_locked(consumer);
    pthread_cond_broadcast(&client->changed);
    eb_consumer_unref_locked(consumer);
    eb_client_leave_locked(client);
}

EB_API int eb_consumer_close(eb_consumer *consumer, int64_t timeout)
{
    eb_client *client;
    int64_t deadline;
    int rc = 0;

    if (!consumer)
        return EB_RESULT_OK;
    client = consumer->client;
    deadline = eb_deadline(timeout);
    if (eb_client_in_callback(client) || eb_client_in_worker(client))
        return EB_RESULT_WOULD_DEADLOCK;
    eb_lock_take(&client->lock);
    if (consumer->closing) { /* by another thread: it is not ours any more */
        eb_lock_drop(&client->lock);
        return EB_RESULT_CLOSED;
    }
    consumer->closing = true;
    pthread_cond_broadcast(&consumer->work);
    client->inside++;
    while (rc == 0 && !client->closing && (!quiet(consumer) || consumer->notices > 0))
        rc = eb_cond_wait(&consumer->quiet, &client->lock, deadline);
    if (!quiet(consumer) && rc == 0)
        rc = EB_RESULT_CLOSED;
    end_locked(consumer);
    eb_client_leave_locked(client);
    eb_lock_drop(&client->lock);
    return rc == ETIMEDOUT ? EB_RESULT_TIMEOUT : rc;
}

void eb_consumers_stop(eb_client *client)
{
    eb_lock_take(&client->lock);
    for (eb_consumer *consumer = client->consumers; consumer;) {
        pthread_cond_broadcast(&consumer->quiet);
        if (consumer->closing) { /* its closer sees to it */
            consumer = consumer->next;
            continue;
        }
        consumer->closing = true;
        consumer->refs++;
        stop_workers_locked(consumer);
        eb_deliveries_settle_all_locked(consumer, EB_RESULT_CLOSED);
        eb_consumer_unref_locked(consumer);
        consumer = client->consumers; /* the list may be another */
    }
    eb_lock_drop(&client->lock);
}

void eb_consumers_free_locked(eb_client *client)
{
    while (client->notice_first) {
        struct eb_notice *notice = client->notice_first;
        client->notice_first = notice->next;
        eb_consumer_unref_locked(notice->consumer);
        free(notice);
    }
    while (client->consumers) {
        eb_consumer *consumer = client->consumers;
        eb_consumer_unlink_locked(consumer);
        eb_consumer_unref_locked(consumer);
    }
}

/* ---- pulling ---- */

/* 1: an event was handed over. 0: none is there. Negative: none will come. */
static int next_locked(eb_consumer *consumer, const eb_delivery **ret)
{
    eb_client *client = consumer->client;
    struct eb_parcel *parcel;
    struct eb_item *item;

    if (consumer->closing || client->draining || client->closing)
        return EB_RESULT_CLOSED;
    if (consumer->state == EB_CONSUME_DEAD)
        return consumer->result;
    if (!consumer->held.first)
        return 0;
    parcel = calloc(1, sizeof(*parcel));
    if (!parcel)
        return EB_RESULT_MEMORY;
    eb_deliveries_hand_over_locked(consumer, &item);
    parcel->item = item;
    memcpy(parcel->epoch, consumer->epoch, sizeof(parcel->epoch));
    parcel->delivery = (eb_delivery){.message = &item->message,
                                     .number = item->delivery,
                                     .epoch = parcel->epoch,
                                     .delay = EB_DELAY_BACKOFF};
    parcel->next = consumer->parcels;
    consumer->parcels = parcel;
    *ret = &parcel->delivery;
    return 1;
}

EB_API int eb_consumer_next(eb_consumer *consumer, const eb_delivery **ret, int64_t timeout)
{
    eb_client *client = consumer->client;
    int64_t deadline = eb_deadline(timeout);
    int rc;

    if (consumer->options.event)
        return EB_RESULT_INVALID;
    if (timeout != 0 && eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    eb_lock_take(&client->lock);
    consumer->refs++;
    client->inside++;
    while ((rc = next_locked(consumer, ret)) == 0 && timeout != 0 &&
           eb_cond_wait(&consumer->work, &client->lock, deadline) != ETIMEDOUT)
        ;
    eb_client_leave_locked(client);
    eb_consumer_unref_locked(consumer);
    eb_lock_drop(&client->lock);
    return rc;
}

/* ---- answering ---- */

static bool sound(uint64_t seq)
{
    return seq > 0 && seq < (uint64_t)1 << 53;
}

static int answer(eb_consumer *consumer, uint64_t seq, uint32_t delivery, eb_verdict verdict,
                  int64_t delay, const char *reason)
{
    eb_client *client = consumer->client;
    int rc;

    if (!sound(seq) || delay < EB_DELAY_BACKOFF ||
        (reason && !eb_utf8_valid(reason, strlen(reason))))
        return EB_RESULT_INVALID;
    eb_lock_take(&client->lock);
    rc = eb_deliveries_answer_locked(consumer, seq, delivery, verdict, delay, reason, NULL);
    eb_lock_drop(&client->lock);
    return rc;
}

EB_API int eb_consumer_ack(eb_consumer *consumer, uint64_t seq, uint32_t delivery)
{
    return answer(consumer, seq, delivery, EB_ACK, EB_DELAY_BACKOFF, NULL);
}

EB_API int eb_consumer_nack(eb_consumer *consumer, uint64_t seq, uint32_t delivery, int64_t delay)
{
    return answer(consumer, seq, delivery, EB_NACK, delay, NULL);
}

EB_API int eb_consumer_term(eb_consumer *consumer, uint64_t seq, uint32_t delivery,
                            const char *reason)
{
    return answer(consumer, seq, delivery, EB_TERM, EB_DELAY_BACKOFF, reason);
}

EB_API int eb_consumer_in_progress(eb_consumer *consumer, uint64_t seq, uint32_t delivery)
{
    eb_client *client = consumer->client;
    struct eb_buf text = EB_BUF_INIT, record = EB_BUF_INIT;
    int rc = EB_RESULT_OK;

    if (!sound(seq))
        return EB_RESULT_INVALID;
    eb_buf_printf(&text, "{\"type\":\"in_progress\",\"consumer\":\"%s\",\"seq\":%llu",
                  consumer->name, (unsigned long long)seq);
    if (delivery != 0)
        eb_buf_printf(&text, ",\"delivery\":%u", delivery);
    eb_buf_str(&text, "}");
    if (!eb_buf_failed(&text))
        eb_bin_write_json(&record, EB_BIN_JSON_REQUEST, 0, text.data, text.len);
    eb_lock_take(&client->lock);
    if (client->closing || client->state == EB_STATE_FAILED)
        rc = EB_RESULT_CLOSED;
    else if (consumer->state != EB_CONSUME_ATTACHED)
        rc = EB_RESULT_DISCONNECTED;
    else if (eb_buf_failed(&text) || !eb_client_control_locked(client, &record))
        rc = EB_RESULT_MEMORY;
    eb_lock_drop(&client->lock);
    eb_buf_finish(&text);
    eb_buf_finish(&record);
    return rc;
}

/* The deadline is over: it goes on without us. */
static void leave(eb_consumer *consumer, uint64_t seq, struct eb_answer_waiter *waiter)
{
    struct eb_out *out = eb_deliveries_find(consumer, seq);
    struct eb_answer_waiter **link = out ? &out->waiters : NULL;

    while (link && *link && *link != waiter)
        link = &(*link)->next;
    if (link && *link)
        *link = waiter->next;
}

EB_API int eb_consumer_ack_wait(eb_consumer *consumer, uint64_t seq, uint32_t delivery,
                                int64_t timeout)
{
    eb_client *client = consumer->client;
    struct eb_answer_waiter waiter = {.result = EB_RESULT_TIMEOUT};
    int64_t deadline = eb_deadline(timeout);
    int rc;

    if (eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    if (!sound(seq))
        return EB_RESULT_INVALID;
    eb_cond_init(&waiter.cond);
    eb_lock_take(&client->lock);
    rc = eb_deliveries_answer_locked(consumer, seq, delivery, EB_ACK, EB_DELAY_BACKOFF, NULL,
                                     &waiter);
    if (rc == 0) {
        client->inside++;
        consumer->refs++;
        while (!waiter.done && eb_cond_wait(&waiter.cond, &client->lock, deadline) != ETIMEDOUT)
            ;
        if (!waiter.done)
            leave(consumer, seq, &waiter);
        rc = waiter.result;
        eb_consumer_unref_locked(consumer);
        eb_client_leave_locked(client);
    }
    eb_lock_drop(&client->lock);
    pthread_cond_destroy(&waiter.cond);
    return rc;
}

EB_API int eb_consumer_get_figures(eb_consumer *consumer, eb_consumer_figures *ret)
{
    eb_client *client = consumer->client;

    if (!ret || ret->size < sizeof(*ret))
        return EB_RESULT_INVALID;
    eb_lock_take(&client->lock);
    ret->attached = consumer->state == EB_CONSUME_ATTACHED;
    ret->held = consumer->held.count;
    ret->handed = consumer->handed.count;
    ret->answers = consumer->answers;
    ret->received = consumer->received;
    eb_lock_drop(&client->lock);
    return EB_RESULT_OK;
}
