/*
 * deliveries.c - the events of a consumer that are here: held, handed over, answered (consumer.h, V1 to V4).
 *
 * No thread, no socket, no text of the wire: only who has what.
 */
#include <stdlib.h>
#include <string.h>

#include "client/consumer.h"
#include "common/text.h"

#define FIRST_BUCKETS 64

/* ---- lists and the table ---- */

void eb_out_append(struct eb_out_list *list, struct eb_out *out)
{
    out->next = NULL;
    out->prev = list->last;
    if (list->last)
        list->last->next = out;
    else
        list->first = out;
    list->last = out;
    list->count++;
}

void eb_out_unlink(struct eb_out_list *list, struct eb_out *out)
{
    if (out->prev)
        out->prev->next = out->next;
    else
        list->first = out->next;
    if (out->next)
        out->next->prev = out->prev;
    else
        list->last = out->prev;
    out->prev = out->next = NULL;
    list->count--;
}

int eb_deliveries_init(eb_consumer *consumer)
{
    consumer->buckets = calloc(FIRST_BUCKETS, sizeof(*consumer->buckets));
    consumer->mask = FIRST_BUCKETS - 1;
    return consumer->buckets ? 0 : -1;
}

struct eb_out *eb_deliveries_find(const eb_consumer *consumer, uint64_t seq)
{
    struct eb_out *out = consumer->buckets[seq & consumer->mask];

    while (out && out->seq != seq)
        out = out->hash_next;
    return out;
}

static void grow(eb_consumer *consumer)
{
    size_t mask = consumer->mask * 2 + 1;
    struct eb_out **buckets = calloc(mask + 1, sizeof(struct eb_out *));

    if (!buckets)
        return; /* longer chains, no harm */
    for (size_t i = 0; i <= consumer->mask; i++) {
        struct eb_out *out = consumer->buckets[i], *next;
        for (; out; out = next) {
            next = out->hash_next;
            out->hash_next = buckets[out->seq & mask];
            buckets[out->seq & mask] = out;
        }
    }
    free(consumer->buckets);
    consumer->buckets = buckets;
    consumer->mask = mask;
}

static struct eb_out *add(eb_consumer *consumer, uint64_t seq, uint32_t delivery)
{
    struct eb_out *out = calloc(1, sizeof(*out));

    if (!out)
        return NULL;
    if (consumer->outs > consumer->mask)
        grow(consumer);
    out->seq = seq;
    out->delivery = delivery;
    out->hash_next = consumer->buckets[seq & consumer->mask];
    consumer->buckets[seq & consumer->mask] = out;
    consumer->outs++;
    return out;
}

/* @out is in no list any more. */
static void drop(eb_consumer *consumer, struct eb_out *out)
{
    struct eb_out **link = &consumer->buckets[out->seq & consumer->mask];

    while (*link != out)
        link = &(*link)->hash_next;
    *link = out->hash_next;
    consumer->outs--;
    eb_item_unref(out->item);
    eb_item_unref(out->again);
    free(out->reason);
    free(out->told);
    free(out);
}

/* Who closes or drains looks again when something may have become quiet. */
static void look_again_locked(eb_consumer *consumer)
{
    pthread_cond_broadcast(&consumer->quiet);
    if (consumer->client->inside > 0)
        pthread_cond_broadcast(&consumer->client->changed);
}

/* ---- in ---- */

static void hold(eb_consumer *consumer, struct eb_out *out, struct eb_item *item)
{
    out->state = EB_OUT_HELD;
    out->item = item;
    out->delivery = item->delivery;
    eb_out_append(&consumer->held, out);
    pthread_cond_signal(&consumer->work);
}

void eb_deliveries_arrived_locked(eb_consumer *consumer, struct eb_item *item)
{
    struct eb_out *out = eb_deliveries_find(consumer, item->message.seq);

    consumer->received++;
    if (!out) {
        out = add(consumer, item->message.seq, item->delivery);
        if (out)
            hold(consumer, out, eb_item_ref(item));
        return; /* without memory for it it stays unanswered, and comes again */
    }
    if (out->state == EB_OUT_HELD) { /* it keeps its place */
        eb_item_unref(out->item);
        out->item = eb_item_ref(item);
        out->delivery = item->delivery;
    } else if (out->state == EB_OUT_ANSWERED || out->running) {
        eb_item_unref(out->again);
        out->again = eb_item_ref(item);
    } else {
        eb_out_unlink(&consumer->handed, out);
        out->outlived = false;
        hold(consumer, out, eb_item_ref(item));
    }
}

struct eb_out *eb_deliveries_hand_over_locked(eb_consumer *consumer, struct eb_item **ret)
{
    struct eb_out *out = consumer->held.first;

    if (!out)
        return NULL;
    eb_out_unlink(&consumer->held, out);
    out->state = EB_OUT_HANDED;
    eb_out_append(&consumer->handed, out);
    *ret = out->item;
    out->item = NULL;
    return out;
}

/* ---- answers ---- */

/* The parcel of that delivery is done with; @delivery 0: the oldest. */
static void unwrap(eb_consumer *consumer, uint64_t seq, uint32_t delivery)
{
    struct eb_parcel **link = &consumer->parcels, *parcel;

    for (; (parcel = *link); link = &parcel->next) {
        if (parcel->delivery.message->seq != seq ||
            (delivery != 0 && parcel->delivery.number != delivery))
            continue;
        *link = parcel->next;
        eb_item_unref(parcel->item);
        free(parcel);
        return;
    }
}

/* As much of it as may be sent: UTF-8, and no character cut in two. */
static size_t reason_length(const char *reason)
{
    size_t len = reason ? strnlen(reason, sizeof(((eb_delivery *)0)->reason) - 1) : 0;

    while (len > 0 && !eb_utf8_valid(reason, len))
        len--;
    return len;
}

/* Everything that an answer needs, so that nothing can fail later. */
static int prepare(eb_consumer *consumer, struct eb_out *out, const char *reason, bool waited)
{
    size_t len = reason_length(reason);

    if (len > 0 && !(out->reason = strndup(reason, len)))
        return EB_RESULT_MEMORY;
    if (waited || !consumer->options.answered)
        return EB_RESULT_OK;
    out->told = eb_notice_create(consumer, EB_NOTICE_ANSWERED);
    return out->told ? EB_RESULT_OK : EB_RESULT_MEMORY;
}

static void queue_answer(eb_consumer *consumer, struct eb_out *out, eb_verdict verdict,
                         int64_t delay)
{
    eb_client *client = consumer->client;

    out->state = EB_OUT_ANSWERED;
    out->verdict = verdict;
    out->delay = delay;
    out->mark = client->last_id;
    eb_out_append(&consumer->fresh, out);
    consumer->answers++;
    if (out->outlived)
        eb_deliveries_settle_locked(consumer, &consumer->fresh, out, EB_RESULT_DISCONNECTED);
    else
        eb_client_wake_locked(client);
}

/* 1: it was answered so before. */
static int check_locked(const eb_consumer *consumer, const struct eb_out *out, uint32_t delivery,
                        eb_verdict verdict)
{
    const eb_client *client = consumer->client;

    if (client->closing || client->state == EB_STATE_FAILED)
        return EB_RESULT_CLOSED;
    if (consumer->state == EB_CONSUME_DEAD)
        return consumer->result;
    if (out && out->state == EB_OUT_ANSWERED)
        return out->verdict == verdict ? 1 : EB_RESULT_CONFLICT;
    if (out && verdict != EB_ACK && delivery != 0 && delivery != out->delivery)
        return EB_RESULT_LATE; /* it is known that a later delivery was made */
    if (!out && consumer->answers >= client->options.max_pending)
        return EB_RESULT_FULL;
    return EB_RESULT_OK;
}

static void attach_waiter(struct eb_out *out, struct eb_answer_waiter *waiter)
{
    if (!waiter)
        return;
    waiter->next = out->waiters;
    out->waiters = waiter;
}

int eb_deliveries_answer_locked(eb_consumer *consumer, uint64_t seq, uint32_t delivery,
                                eb_verdict verdict, int64_t delay, const char *reason,
                                struct eb_answer_waiter *waiter)
{
    struct eb_out *out = eb_deliveries_find(consumer, seq);
    bool known = out != NULL;
    int rc = check_locked(consumer, out, delivery, verdict);

    unwrap(consumer, seq, delivery);
    if (rc != 0) {
        if (rc == 1)
            attach_waiter(out, waiter);
        return rc < 0 ? rc : EB_RESULT_OK;
    }
    if (!known && !(out = add(consumer, seq, delivery)))
        return EB_RESULT_MEMORY;
    rc = prepare(consumer, out, reason, waiter != NULL);
    if (rc < 0) {
        if (!known)
            drop(consumer, out);
        return rc;
    }
    attach_waiter(out, waiter);
    if (known)
        eb_out_unlink(out->state == EB_OUT_HELD ? &consumer->held : &consumer->handed, out);
    eb_item_unref(out->item);
    out->item = NULL;
    queue_answer(consumer, out, verdict, delay);
    return EB_RESULT_OK;
}

void eb_deliveries_returned_locked(eb_consumer *consumer, uint64_t seq, eb_verdict verdict,
                                   const eb_delivery *delivery)
{
    struct eb_out *out = eb_deliveries_find(consumer, seq);
    struct eb_item *again;

    if (!out || !out->running || out->delivery != delivery->number)
        return; /* answered from within, and done */
    out->running = false;
    if (out->state != EB_OUT_HANDED)
        return;
    if (verdict == EB_LATER) {
        again = out->again;
        out->again = NULL;
        if (again) { /* it came again meanwhile, and the program is to know */
            eb_out_unlink(&consumer->handed, out);
            hold(consumer, out, again);
        }
        return;
    }
    if (verdict != EB_ACK && verdict != EB_TERM)
        verdict = EB_NACK; /* what is no verdict is no success */
    if (eb_deliveries_answer_locked(consumer, seq, delivery->number, verdict,
                                    verdict == EB_NACK && delivery->delay >= 0 ? delivery->delay
                                                                               : EB_DELAY_BACKOFF,
                                    verdict == EB_TERM ? delivery->reason : NULL, NULL) < 0) {
        eb_out_unlink(&consumer->handed, out); /* unanswered, so it is delivered again */
        drop(consumer, out);
    }
}

/* ---- out ---- */

static void tell(struct eb_out *out, int result)
{
    struct eb_answer_waiter *waiter = out->waiters, *next;

    for (; waiter; waiter = next) {
        next = waiter->next;
        waiter->result = result;
        waiter->done = true;
        pthread_cond_signal(&waiter->cond);
    }
    out->waiters = NULL;
    if (!out->told || out->told->consumer->ended) /* nobody is to be told any more */
        return;
    out->told->seq = out->seq;
    out->told->delivery = out->delivery;
    out->told->verdict = out->verdict;
    out->told->result = result;
    eb_notice_queue_locked(out->told);
    out->told = NULL;
}

void eb_deliveries_settle_locked(eb_consumer *consumer, struct eb_out_list *list,
                                 struct eb_out *out, int result)
{
    struct eb_item *again = out->again;

    eb_out_unlink(list, out);
    consumer->answers--;
    tell(out, result);
    out->again = NULL;
    if (again && (result != EB_RESULT_OK || out->verdict == EB_NACK)) { /* V3 */
        free(out->reason);
        out->reason = NULL;
        out->running = out->outlived = false;
        hold(consumer, out, again);
    } else {
        eb_item_unref(again);
        drop(consumer, out);
    }
    look_again_locked(consumer);
}

void eb_deliveries_settle_all_locked(eb_consumer *consumer, int result)
{
    while (consumer->batches) {
        struct eb_batch *batch = consumer->batches;
        consumer->batches = batch->next;
        while (batch->outs.first)
            eb_deliveries_settle_locked(consumer, &batch->outs, batch->outs.first, result);
        free(batch);
    }
    while (consumer->fresh.first)
        eb_deliveries_settle_locked(consumer, &consumer->fresh, consumer->fresh.first, result);
}

void eb_deliveries_forget_held_locked(eb_consumer *consumer)
{
    while (consumer->held.first) {
        struct eb_out *out = consumer->held.first;
        eb_out_unlink(&consumer->held, out);
        drop(consumer, out);
    }
}

static void forget_again(struct eb_out *out)
{
    for (; out; out = out->next) {
        eb_item_unref(out->again);
        out->again = NULL;
    }
}

/* Answers under way go to the front again, in the order in which they were given. */
static void rewind_answers(eb_consumer *consumer)
{
    struct eb_out_list all = {0};
    struct eb_out *out;

    while (consumer->batches) {
        struct eb_batch *batch = consumer->batches;
        consumer->batches = batch->next;
        while ((out = batch->outs.first)) {
            eb_out_unlink(&batch->outs, out);
            eb_out_append(&all, out);
        }
        free(batch);
    }
    while ((out = consumer->fresh.first)) {
        eb_out_unlink(&consumer->fresh, out);
        eb_out_append(&all, out);
    }
    consumer->fresh = all;
}

void eb_deliveries_disconnected_locked(eb_consumer *consumer)
{
    rewind_answers(consumer);
    consumer->answers_at = 0;
    eb_deliveries_forget_held_locked(consumer);
    forget_again(consumer->handed.first);
    forget_again(consumer->fresh.first);
    look_again_locked(consumer);
}

void eb_deliveries_outlived_locked(eb_consumer *consumer)
{
    eb_deliveries_forget_held_locked(consumer);
    for (struct eb_out *out = consumer->handed.first; out; out = out->next)
        out->outlived = true;
    eb_deliveries_settle_all_locked(consumer, EB_RESULT_DISCONNECTED);
}

void eb_deliveries_finish_locked(eb_consumer *consumer)
{
    eb_deliveries_settle_all_locked(consumer, EB_RESULT_CLOSED);
    eb_deliveries_forget_held_locked(consumer);
    while (consumer->handed.first) {
        struct eb_out *out = consumer->handed.first;
        eb_out_unlink(&consumer->handed, out);
        drop(consumer, out);
    }
    while (consumer->parcels) {
        struct eb_parcel *parcel = consumer->parcels;
        consumer->parcels = parcel->next;
        eb_item_unref(parcel->item);
        free(parcel);
    }
}
