/*
 * answers.c - one message of the broker, to the request or the subscriptions that it concerns.
 *
 * (A1) A message is decoded without the lock; under it, it only moves what is already understood.
 * (A2) Answers are matched by id alone: they may come in another order than the requests went.
 * (A3) A binary message holds many records. When a queue is full in the midst of it the rest waits here, as JSON
 *      messages wait unread, and so do messages behind it that wslay had read already. It goes with its connection.
 * (A4) An answer that cannot be understood ends its request as INTERNAL; a message that cannot be, the connection.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/consumer.h"

static const char not_understood[] = "the broker's answer cannot be understood";

static int bad_answer(eb_client *client, const char *why)
{
    snprintf(client->broken, sizeof(client->broken), "%s", why);
    return -EPROTO;
}

static bool read_receipts(eb_client *client, struct eb_request *request, const struct eb_wire *wire)
{
    uint32_t tok;

    if (request->kind == EB_REQUEST_ACK)
        return true;
    if (!wire->json)
        return eb_wire_receipts(request, wire);
    if (request->kind == EB_REQUEST_PUBLISH) {
        request->receipts[0].seq = wire->seq;
        request->receipts[0].duplicate = wire->duplicate;
        request->receipts[0].scheduled = wire->scheduled;
        memcpy(request->receipts[0].message_id, wire->message_id, sizeof(wire->message_id));
        return (wire->has_seq || wire->scheduled) && wire->message_id[0];
    }
    if (!wire->results)
        return false;
    tok = wire->results + 1;
    for (size_t i = 0; i < request->count; i++) {
        if (tok >= client->json.tokens[wire->results].next ||
            !eb_wire_receipt(&client->json, tok, &request->receipts[i]))
            return false;
        tok = client->json.tokens[tok].next;
    }
    return true;
}

/* Stored, each with the seq that follows the last: the answer to many publishes at once. */
static void handle_acks_locked(eb_client *client, const struct eb_bin_answer *acks)
{
    for (uint32_t i = 0; i < acks->count; i++) {
        struct eb_request *request = eb_inflight_find(&client->inflight, acks->id + i);
        const struct eb_wire one = {.has_seq = true, .seq = acks->seq + i};
        bool fits = request && request->kind == EB_REQUEST_PUBLISH && request->attempts > 0 &&
                    eb_wire_receipts(request, &one);
        if (request && !fits)
            eb_client_set_error_locked(client, not_understood);
        if (request)
            eb_request_complete_locked(client, request, fits ? EB_RESULT_OK : EB_RESULT_INTERNAL);
    }
}

static void handle_answer_locked(eb_client *client, const struct eb_wire *wire)
{
    struct eb_request *request;

    if (!wire->has_id)
        return; /* an error nobody waits for: of an unsubscribe */
    request = eb_inflight_find(&client->inflight, wire->id);
    if (!request) {
        if (!eb_stream_answer_locked(client, wire))
            eb_consume_answer_locked(client, &client->json, wire);
        return;
    }
    if (wire->type == EB_WIRE_ERROR) {
        eb_client_set_error_locked(client, wire->text);
        eb_request_complete_locked(client, request, wire->result);
        return;
    }
    if (!read_receipts(client, request, wire)) {
        eb_client_set_error_locked(client, not_understood);
        eb_request_complete_locked(client, request, EB_RESULT_INTERNAL);
        return;
    }
    eb_request_complete_locked(client, request, EB_RESULT_OK);
}

static void handle_gap_locked(eb_client *client, const struct eb_wire *wire)
{
    char pattern[EB_TOPIC_MAX + 1];
    uint32_t tok, end;

    if (wire->consumer) {
        eb_consume_gap_locked(client, wire);
        return;
    }
    if (wire->pattern)
        eb_stream_gap_locked(client, wire->pattern, wire);
    if (!wire->patterns)
        return;
    end = client->json.tokens[wire->patterns].next;
    for (tok = wire->patterns + 1; tok < end; tok = client->json.tokens[tok].next) {
        if (eb_wire_pattern(&client->json, tok, pattern))
            eb_stream_gap_locked(client, pattern, wire);
    }
}

/* A message that was understood. 1: a queue is full now. */
static int handle(eb_client *client, struct eb_wire *wire)
{
    bool full = false;

    if (wire->type == EB_WIRE_OTHER)
        return 0;
    eb_lock_take(&client->lock);
    if (wire->type == EB_WIRE_EVENT && wire->consumer) {
        eb_consume_event_locked(client, wire->consumer, wire->item);
    } else if (wire->type == EB_WIRE_RELEASED) {
        eb_consume_released_locked(client, wire);
    } else if (wire->type == EB_WIRE_EVENT) {
        eb_stream_event_locked(client, wire->item, wire->pattern);
        for (eb_subscription *sub = client->subs; sub && !full; sub = sub->next)
            full = sub->full && sub->state == EB_SUB_ACTIVE;
    } else if (wire->type == EB_WIRE_LIVE) {
        eb_stream_live_locked(client, wire->pattern, wire->seq);
    } else if (wire->type == EB_WIRE_GAP) {
        handle_gap_locked(client, wire);
    } else if (wire->type == EB_WIRE_ACKS) {
        handle_acks_locked(client, &wire->bin);
    } else {
        handle_answer_locked(client, wire);
    }
    eb_lock_drop(&client->lock);
    eb_item_unref(wire->item);
    return full;
}

/* Records, until a queue is full (1); @ret_used bytes are done with. */
static int take_records(eb_client *client, const char *data, size_t len, size_t *ret_used)
{
    struct eb_bin_record record;
    struct eb_wire wire;
    const char *why = "out of memory";
    int more, full = 0;

    *ret_used = 0;
    while (!full && (more = eb_bin_next((const uint8_t *)data, len, ret_used, &record)) != 0) {
        if (more < 0)
            return bad_answer(client, "the broker sent something that is no record");
        if (eb_wire_decode_record(&wire, &client->json, &record, &why) < 0)
            return bad_answer(client, why);
        full = handle(client, &wire);
    }
    return full;
}

int eb_answers_take(eb_client *client, const char *text, size_t len)
{
    struct eb_wire wire;
    const char *why = "out of memory";
    size_t used;
    int rc;

    if (!eb_connection_binary(client->connection)) {
        rc = eb_wire_decode(&wire, &client->json, text, len, &why);
        return rc < 0 ? bad_answer(client, why) : handle(client, &wire);
    }
    used = 0;
    rc = client->rest.len > 0 ? 1 : take_records(client, text, len, &used);
    if (rc == 1 && used < len) {
        eb_buf_add(&client->rest, text + used, len - used);
        if (eb_buf_failed(&client->rest))
            return bad_answer(client, why);
    }
    return rc;
}

int eb_answers_rest(eb_client *client)
{
    struct eb_buf *rest = &client->rest;
    size_t used;
    int rc;

    if (rest->len == 0)
        return 0;
    rc = take_records(client, rest->data + client->rest_at, rest->len - client->rest_at, &used);
    client->rest_at += used;
    if (rc < 0 || client->rest_at == rest->len)
        eb_answers_forget(client);
    return rc;
}

void eb_answers_forget(eb_client *client)
{
    eb_buf_finish(&client->rest);
    client->rest_at = 0;
}
