/*
 * consume.c - durable consumers towards the broker: consume, answers, in_progress; what it says to them.
 *
 * (J1) A consume goes without settings once it was answered: an operator may have changed them, and that must not end
 *      who works there. It goes with them again when the broker knows no such consumer any more.
 * (J2) Answers of one kind share a request, as many as are there; one that is refused at first is sent again later, with
 *      fewer of them when there may have been too many.
 * (J3) Its requests are made when they are sent, so nothing of them is kept for the next connection but what they say.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/consumer.h"

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static eb_consumer *find(const eb_client *client, const char *name)
{
    eb_consumer *consumer = client->consumers;

    while (consumer && strcmp(consumer->name, name) != 0)
        consumer = consumer->next;
    return consumer;
}

/* ---- what we say ---- */

/* @text becomes a request in @out, or nothing does when memory ran out. */
static bool say(struct eb_buf *out, uint64_t id, struct eb_buf *text)
{
    size_t before = out->len;

    if (!eb_buf_failed(text))
        eb_bin_write_json(out, EB_BIN_JSON_REQUEST, id, text->data, text->len);
    bool said = !eb_buf_failed(text) && !eb_buf_failed(out);
    if (!said)
        out->len = before;
    eb_buf_finish(text);
    return said;
}

static void begin(struct eb_buf *text, const char *type, const eb_consumer *consumer)
{
    eb_buf_printf(text, "{\"type\":\"%s\",\"consumer\":\"%s\"", type, consumer->name);
}

static void write_seconds(struct eb_buf *text, const char *member, int64_t ms)
{
    eb_buf_printf(text, ",\"%s\":%lld.%03lld", member, (long long)(ms / 1000),
                  (long long)(ms % 1000));
}

static void pick_consume(eb_client *client, eb_consumer *consumer, struct eb_buf *out)
{
    struct eb_buf text = EB_BUF_INIT;

    begin(&text, "consume", consumer);
    eb_buf_printf(&text, ",\"max_inflight\":%u", consumer->options.max_inflight);
    if (consumer->settings && (consumer->make || !consumer->answered)) /* J1 */
        eb_buf_printf(&text, ",\"settings\":%s", consumer->settings);
    eb_buf_str(&text, "}");
    consumer->request = ++client->last_id;
    if (say(out, consumer->request, &text))
        consumer->state = EB_CONSUME_ASKED;
}

/* May these two answers stand in one request? */
static bool alike(const struct eb_out *a, const struct eb_out *b)
{
    if (a->verdict != b->verdict)
        return false;
    if (a->verdict == EB_ACK)
        return true;
    return a->delivery == b->delivery && a->delay == b->delay && !a->reason && !b->reason;
}

static void write_answers(struct eb_buf *text, const eb_consumer *consumer,
                          const struct eb_out_list *outs)
{
    static const char *const types[] = {[EB_ACK] = "ack", [EB_NACK] = "nack", [EB_TERM] = "term"};
    const struct eb_out *first = outs->first;
    const char *before = ",\"seqs\":[";

    begin(text, types[first->verdict], consumer);
    for (const struct eb_out *out = first; out; out = out->next) {
        eb_buf_str(text, before);
        eb_json_write_u64(text, out->seq);
        before = ",";
    }
    eb_buf_str(text, "]");
    if (first->verdict != EB_ACK && first->delivery != 0)
        eb_buf_printf(text, ",\"delivery\":%u", first->delivery);
    if (first->verdict == EB_NACK && first->delay != EB_DELAY_BACKOFF)
        write_seconds(text, "delay", first->delay);
    if (first->reason) {
        eb_buf_str(text, ",\"reason\":");
        eb_json_write_string(text, first->reason, strlen(first->reason));
    }
    eb_buf_str(text, "}");
}

/* The answers of @batch are fresh again, in front of the others: given before them. */
static void put_back(eb_consumer *consumer, struct eb_batch *batch)
{
    struct eb_out *out;

    while ((out = consumer->fresh.first)) {
        eb_out_unlink(&consumer->fresh, out);
        eb_out_append(&batch->outs, out);
    }
    consumer->fresh = batch->outs;
    batch->outs = (struct eb_out_list){0};
}

/* The fresh answers like the first one, into one request. False: nothing was sent, try again later. */
static bool pick_batch(eb_client *client, eb_consumer *consumer, struct eb_buf *out)
{
    struct eb_batch *batch = calloc(1, sizeof(*batch)), **link = &consumer->batches;
    struct eb_buf text = EB_BUF_INIT;
    struct eb_out *next, *one = consumer->fresh.first;

    if (!batch)
        return false;
    for (; one && batch->outs.count < consumer->batch_max; one = next) {
        next = one->next;
        if (batch->outs.first && !alike(batch->outs.first, one))
            continue;
        eb_out_unlink(&consumer->fresh, one);
        eb_out_append(&batch->outs, one);
    }
    batch->id = ++client->last_id;
    write_answers(&text, consumer, &batch->outs);
    if (!say(out, batch->id, &text)) {
        put_back(consumer, batch);
        free(batch);
        return false;
    }
    while (*link)
        link = &(*link)->next;
    *link = batch;
    return true;
}

static bool in_progress(const struct eb_out *out)
{
    return out->state == EB_OUT_HELD || (out->state == EB_OUT_HANDED && out->running);
}

struct progress {
    eb_consumer *consumer;
    struct eb_buf *out, text;
    size_t seqs;
    uint32_t number;
};

static void end_progress(struct progress *progress)
{
    if (progress->seqs > 0) {
        eb_buf_printf(&progress->text, "],\"delivery\":%u}", progress->number);
        say(progress->out, 0, &progress->text);
    }
    progress->seqs = 0;
}

static void add_progress(struct progress *progress, const struct eb_out *one)
{
    if (progress->seqs == progress->consumer->batch_max)
        end_progress(progress);
    if (progress->seqs == 0)
        begin(&progress->text, "in_progress", progress->consumer);
    eb_buf_str(&progress->text, progress->seqs == 0 ? ",\"seqs\":[" : ",");
    eb_json_write_u64(&progress->text, one->seq);
    progress->seqs++;
}

/* Requests for each number of delivery among @list, which is nearly always 1. */
static void pick_progress(eb_consumer *consumer, const struct eb_out_list *list, struct eb_buf *out)
{
    struct progress progress = {.consumer = consumer, .out = out};
    uint32_t next = 1;

    while (next != 0) {
        progress.number = next;
        next = 0;
        for (const struct eb_out *one = list->first; one; one = one->next) {
            if (!in_progress(one) || one->outlived || one->delivery < progress.number)
                continue;
            if (one->delivery == progress.number)
                add_progress(&progress, one);
            else if (next == 0 || one->delivery < next)
                next = one->delivery;
        }
        end_progress(&progress);
    }
}

static bool may_answer(const eb_consumer *consumer, int64_t now)
{
    return consumer->state == EB_CONSUME_ATTACHED && consumer->fresh.first &&
           consumer->answers_at <= now;
}

static bool may_ask(const eb_client *client, const eb_consumer *consumer, int64_t now)
{
    const struct eb_request *unsent = client->inflight.unsent;

    if (consumer->closing && consumer->answers == 0)
        return false;
    if (consumer->state == EB_CONSUME_PARKED)
        return consumer->retry_at <= now;
    return consumer->state == EB_CONSUME_IDLE &&
           (consumer->answered || !unsent || unsent->id > consumer->after || client->hold);
}

static bool progress_due(const eb_consumer *consumer, int64_t now)
{
    return consumer->progress_every > 0 && consumer->state == EB_CONSUME_ATTACHED &&
           consumer->progress_at <= now;
}

void eb_consume_pick_locked(eb_client *client, struct eb_buf *out, int64_t now)
{
    for (eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        if (may_ask(client, consumer, now))
            pick_consume(client, consumer, out);
        if (progress_due(consumer, now)) {
            pick_progress(consumer, &consumer->held, out);
            pick_progress(consumer, &consumer->handed, out);
            consumer->progress_at = now + consumer->progress_every;
        }
        while (may_answer(consumer, now)) {
            if (pick_batch(client, consumer, out))
                continue;
            consumer->answers_at = now + client->options.reconnect_interval;
        }
    }
}

bool eb_consume_wants_locked(const eb_client *client, int64_t now)
{
    for (const eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        if (may_ask(client, consumer, now) || may_answer(consumer, now) ||
            progress_due(consumer, now))
            return true;
    }
    return false;
}

int64_t eb_consume_next_locked(const eb_client *client)
{
    int64_t next = INT64_MAX;

    for (const eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        if (consumer->state == EB_CONSUME_PARKED)
            next = earlier(next, consumer->retry_at);
        if (consumer->state != EB_CONSUME_ATTACHED)
            continue;
        if (consumer->fresh.first)
            next = earlier(next, consumer->answers_at);
        if (consumer->progress_every > 0)
            next = earlier(next, consumer->progress_at);
    }
    return next;
}

uint64_t eb_consume_barrier_locked(const eb_client *client)
{
    uint64_t barrier = UINT64_MAX;

    for (const eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        if (consumer->state == EB_CONSUME_IDLE && !consumer->answered && consumer->after < barrier)
            barrier = consumer->after;
    }
    return barrier;
}

bool eb_consume_flushed_locked(const eb_client *client, uint64_t mark)
{
    for (const eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        if (consumer->fresh.first && consumer->fresh.first->mark <= mark)
            return false;
        for (const struct eb_batch *batch = consumer->batches; batch; batch = batch->next) {
            if (batch->outs.first && batch->outs.first->mark <= mark)
                return false;
        }
    }
    return true;
}

/* ---- what the broker says ---- */

void eb_consume_kill_locked(eb_consumer *consumer, int result, const char *why)
{
    struct eb_notice *notice;

    if (consumer->state == EB_CONSUME_DEAD)
        return;
    consumer->state = EB_CONSUME_DEAD;
    consumer->result = result;
    snprintf(consumer->why, sizeof(consumer->why), "%s", why);
    eb_deliveries_settle_all_locked(consumer, result);
    eb_deliveries_forget_held_locked(consumer);
    if (consumer->options.failed && !consumer->waited && !consumer->closing &&
        (notice = eb_notice_create(consumer, EB_NOTICE_FAILED))) {
        notice->result = result;
        snprintf(notice->text, sizeof(notice->text), "%s", why);
        eb_notice_queue_locked(notice);
    }
    pthread_cond_broadcast(&consumer->work);
    pthread_cond_broadcast(&consumer->quiet);
    pthread_cond_broadcast(&consumer->client->changed);
}

static void park(eb_consumer *consumer, int64_t wait)
{
    consumer->state = EB_CONSUME_PARKED;
    consumer->retry_at = eb_mono_ms() + wait;
}

static void attached(eb_client *client, eb_consumer *consumer, const struct eb_wire *answer)
{
    consumer->state = EB_CONSUME_ATTACHED;
    consumer->answered = true;
    consumer->make = false;
    consumer->progress_at = eb_mono_ms() + consumer->progress_every;
    if (answer->epoch[0]) {
        if (consumer->epoch[0] && strcmp(consumer->epoch, answer->epoch) != 0)
            eb_deliveries_outlived_locked(consumer); /* V4 */
        memcpy(consumer->epoch, answer->epoch, sizeof(consumer->epoch));
        eb_stream_learn_epoch_locked(client, answer->epoch);
    }
}

/* What may be otherwise in a while, without anybody's doing. */
static bool passes(int result)
{
    return result == EB_RESULT_UNAVAILABLE || result == EB_RESULT_LIMIT ||
           result == EB_RESULT_STORAGE_FULL;
}

/* A broker from before consumers, in either protocol. */
static bool too_old(const struct eb_wire *answer)
{
    return answer->result == EB_RESULT_INVALID &&
           (strstr(answer->text, "unknown type \"consume\"") ||
            strstr(answer->text, "is no request that this broker knows"));
}

static void refused(eb_client *client, eb_consumer *consumer, const struct eb_wire *answer)
{
    const char *why = too_old(answer) ? "the broker is older than durable consumers" : answer->text;

    eb_client_set_error_locked(client, why);
    if (answer->result == EB_RESULT_NOT_FOUND && consumer->answered && consumer->settings &&
        !consumer->make) {
        consumer->make = true; /* J1: the broker lost it, or the log is another */
        consumer->state = EB_CONSUME_IDLE;
    } else if (consumer->answered &&
               (passes(answer->result) || answer->result == EB_RESULT_INTERNAL)) {
        park(consumer, client->options.reconnect_interval_max);
    } else {
        eb_consume_kill_locked(consumer, answer->result, why);
    }
}

static struct eb_out *find_in(struct eb_out_list *list, uint64_t seq)
{
    struct eb_out *out = list->first;

    while (out && out->seq != seq)
        out = out->next;
    return out;
}

/* The answer to answers: a result each, normally in their order. What is not named was not understood. */
static void settle(eb_client *client, eb_consumer *consumer, struct eb_batch *batch,
                   struct eb_json *json, const struct eb_wire *answer)
{
    uint32_t tok, end;
    uint64_t seq;
    int result;

    if (answer->type == EB_WIRE_OK && answer->results) {
        end = json->tokens[answer->results].next;
        for (tok = answer->results + 1; tok < end; tok = json->tokens[tok].next) {
            struct eb_out *out;
            if (eb_wire_answered(json, tok, &seq, &result) && (out = find_in(&batch->outs, seq)))
                eb_deliveries_settle_locked(consumer, &batch->outs, out, result);
        }
    }
    result = answer->type == EB_WIRE_ERROR ? answer->result : EB_RESULT_INTERNAL;
    if (result == EB_RESULT_LIMIT && batch->outs.count > 1)
        consumer->batch_max =
            (batch->outs.count + 1) / 2; /* J2: it may be too many for its max_batch */
    if (answer->type == EB_WIRE_ERROR || batch->outs.first)
        eb_client_set_error_locked(client, answer->type == EB_WIRE_ERROR
                                               ? answer->text
                                               : "the broker's answer cannot be understood");
    while (batch->outs.first && !passes(result))
        eb_deliveries_settle_locked(consumer, &batch->outs, batch->outs.first, result);
    if (!batch->outs.first)
        return;
    put_back(consumer, batch); /* J2 */
    consumer->answers_at = eb_mono_ms() + client->options.reconnect_interval;
}

static bool answer_batch(eb_client *client, eb_consumer *consumer, struct eb_json *json,
                         const struct eb_wire *answer)
{
    struct eb_batch **link = &consumer->batches, *batch;

    while ((batch = *link) && batch->id != answer->id)
        link = &batch->next;
    if (!batch)
        return false;
    *link = batch->next;
    settle(client, consumer, batch, json, answer);
    free(batch);
    return true;
}

bool eb_consume_answer_locked(eb_client *client, struct eb_json *json, const struct eb_wire *answer)
{
    for (eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        if (answer_batch(client, consumer, json, answer))
            return true;
        if (consumer->state != EB_CONSUME_ASKED || consumer->request != answer->id)
            continue;
        if (answer->type == EB_WIRE_OK)
            attached(client, consumer, answer);
        else
            refused(client, consumer, answer);
        pthread_cond_broadcast(&client->changed);
        return true;
    }
    return false;
}

void eb_consume_event_locked(eb_client *client, const char *name, struct eb_item *item)
{
    eb_consumer *consumer = find(client, name);

    if (consumer && consumer->state == EB_CONSUME_ATTACHED)
        eb_deliveries_arrived_locked(consumer, item);
}

void eb_consume_gap_locked(eb_client *client, const struct eb_wire *gap)
{
    eb_consumer *consumer = find(client, gap->consumer);
    struct eb_notice *notice;

    if (!consumer || !consumer->options.gap || consumer->ended ||
        !(notice = eb_notice_create(consumer, EB_NOTICE_GAP)))
        return;
    notice->seq = gap->from_seq;
    notice->to_seq = gap->to_seq;
    snprintf(notice->text, sizeof(notice->text), "%s", gap->reason);
    eb_notice_queue_locked(notice);
}

void eb_consume_released_locked(eb_client *client, const struct eb_wire *wire)
{
    eb_consumer *consumer = find(client, wire->consumer);
    struct eb_notice *notice;

    if (!consumer || consumer->state != EB_CONSUME_ATTACHED)
        return;
    if (consumer->options.released && (notice = eb_notice_create(consumer, EB_NOTICE_RELEASED))) {
        snprintf(notice->text, sizeof(notice->text), "%s", wire->reason);
        eb_notice_queue_locked(notice);
    }
    if (strcmp(wire->reason, "deleted") == 0) {
        eb_consume_kill_locked(consumer, EB_RESULT_NOT_FOUND, "the consumer was deleted");
    } else if (strcmp(wire->reason, "push") == 0) {
        eb_consume_kill_locked(consumer, EB_RESULT_CONFLICT,
                               "the consumer has a webhook now, so nobody else may consume");
    } else {
        eb_deliveries_disconnected_locked(consumer);
        if (strcmp(wire->reason, "seek") == 0)
            consumer->state = EB_CONSUME_IDLE;
        else
            park(consumer, client->options.reconnect_interval);
    }
}

void eb_consume_disconnected_locked(eb_client *client)
{
    for (eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next) {
        eb_deliveries_disconnected_locked(consumer);
        if (consumer->state != EB_CONSUME_DEAD)
            consumer->state = EB_CONSUME_IDLE;
    }
}
