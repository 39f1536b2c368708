/* test_deliveries.c - who has which event of a consumer, by hand: without threads or a socket (client/consumer.h, V1 to V4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/consumer.h"

static eb_client client;
static eb_consumer *consumer;

static void on_answered(void *user, eb_consumer *handle, uint64_t seq, uint32_t delivery,
                        eb_verdict verdict, int result)
{
}

static int setup(void **state)
{
    memset(&client, 0, sizeof(client));
    eb_lock_init(&client.lock, EB_RANK_CLIENT);
    eb_cond_init(&client.changed);
    eb_cond_init(&client.work);
    client.options = (eb_client_options)EB_CLIENT_OPTIONS_INIT;
    assert_int_equal(eb_inflight_init(&client.inflight), 0);
    eb_lock_take(&client.lock);
    consumer = calloc(1, sizeof(*consumer));
    consumer->client = &client;
    consumer->refs = 1;
    strcpy(consumer->name, "w");
    consumer->batch_max = EB_ANSWERS_A_REQUEST;
    consumer->options = (eb_consumer_options)EB_CONSUMER_OPTIONS_INIT;
    consumer->options.answered = on_answered;
    consumer->state = EB_CONSUME_ATTACHED;
    eb_cond_init(&consumer->work);
    eb_cond_init(&consumer->quiet);
    assert_int_equal(eb_deliveries_init(consumer), 0);
    client.consumers = consumer;
    return 0;
}

static int teardown(void **state)
{
    eb_consumers_free_locked(&client);
    eb_stream_disconnected_locked(&client);
    eb_lock_drop(&client.lock);
    eb_inflight_finish(&client.inflight);
    eb_lock_finish(&client.lock);
    return 0;
}

static void arrive(uint64_t seq, uint32_t delivery)
{
    struct eb_item *item = eb_item_create(EB_ITEM_EVENT, 0);

    item->message.seq = seq;
    item->delivery = delivery;
    eb_deliveries_arrived_locked(consumer, item);
    eb_item_unref(item);
}

/* The next one as a worker takes it; its number is returned. */
static uint32_t take(uint64_t seq)
{
    struct eb_item *item = NULL;
    struct eb_out *out = eb_deliveries_hand_over_locked(consumer, &item);
    uint32_t number;

    assert_non_null(out);
    assert_int_equal(out->seq, seq);
    out->running = true;
    number = item->delivery;
    eb_item_unref(item);
    return number;
}

static void give(uint64_t seq, uint32_t number, eb_verdict verdict)
{
    const eb_delivery delivery = {.number = number, .delay = EB_DELAY_BACKOFF};

    eb_deliveries_returned_locked(consumer, seq, verdict, &delivery);
}

static void settled(uint64_t seq, int result)
{
    struct eb_out *out = eb_deliveries_find(consumer, seq);

    assert_non_null(out);
    assert_int_equal(out->state, EB_OUT_ANSWERED);
    eb_deliveries_settle_locked(consumer, &consumer->fresh, out, result);
}

static bool holds_nothing(void)
{
    return consumer->outs == 0 && consumer->held.count == 0 && consumer->handed.count == 0 &&
           consumer->fresh.count == 0 && consumer->answers == 0;
}

/* The usual way: held, handed over, answered, gone, and told. */
static void an_event_goes_its_way(void **state)
{
    arrive(7, 1);
    assert_int_equal(consumer->held.count, 1);
    assert_int_equal(take(7), 1);
    give(7, 1, EB_ACK);
    assert_int_equal(consumer->answers, 1);
    settled(7, 0);
    assert_true(holds_nothing());
    assert_non_null(client.notice_first);
    assert_int_equal(client.notice_first->seq, 7);
    assert_int_equal(client.notice_first->result, 0);
}

/* V1: the newer delivery takes the place of the one that waits. */
static void one_entry_a_seq(void **state)
{
    arrive(7, 1);
    arrive(8, 1);
    arrive(7, 2);
    assert_int_equal(consumer->held.count, 2);
    assert_int_equal(take(7), 2);
    assert_int_equal(take(8), 1);
}

/* V3: while its callback runs it is handed to nobody else; an ack covers it, a nack that was late does not. */
static void what_comes_again_while_it_runs_waits(void **state)
{
    for (int late = 0; late <= 1; late++) {
        arrive(7, 1);
        take(7);
        arrive(7, 2);
        assert_int_equal(consumer->held.count, 0);
        give(7, 1, late ? EB_NACK : EB_ACK);
        arrive(7, 3);
        settled(7, late ? EB_RESULT_LATE : EB_RESULT_OK);
        assert_int_equal(consumer->held.count, late);
    }
    assert_int_equal(take(7), 3);
    give(7, 3, EB_ACK);
    settled(7, 0);
    assert_true(holds_nothing());
}

/* A nack that counted brings it again, also before its answer is read. */
static void a_redelivery_may_overtake_the_answer(void **state)
{
    arrive(7, 1);
    take(7);
    give(7, 1, EB_NACK);
    arrive(7, 2);
    settled(7, 0);
    assert_int_equal(take(7), 2);
}

/* V3: one that the program answers later comes to it again; the old number's nack is late, an ack is none's. */
static void what_is_answered_later_comes_again(void **state)
{
    arrive(7, 1);
    take(7);
    give(7, 1, EB_LATER);
    assert_int_equal(consumer->handed.count, 1);
    arrive(7, 2);
    assert_int_equal(consumer->held.count, 1);
    assert_int_equal(
        eb_deliveries_answer_locked(consumer, 7, 1, EB_NACK, EB_DELAY_BACKOFF, NULL, NULL),
        EB_RESULT_LATE);
    assert_int_equal(
        eb_deliveries_answer_locked(consumer, 7, 1, EB_ACK, EB_DELAY_BACKOFF, NULL, NULL), 0);
    assert_int_equal(consumer->held.count, 0);
    settled(7, 0);
    assert_true(holds_nothing());
}

/* Came again while the callback ran that leaves it for later: handed over anew, so that the program knows. */
static void later_after_a_redelivery_is_handed_over_anew(void **state)
{
    arrive(7, 1);
    take(7);
    arrive(7, 2);
    give(7, 1, EB_LATER);
    assert_int_equal(take(7), 2);
}

/* V2: held ones go with the connection, handed ones and answers stay; what was under way is to be sent again, first. */
static void a_lost_connection_takes_only_what_is_held(void **state)
{
    struct eb_batch *batch = calloc(1, sizeof(*batch));
    struct eb_out *out;

    for (uint64_t seq = 1; seq <= 5; seq++)
        arrive(seq, 1);
    for (uint64_t seq = 1; seq <= 3; seq++)
        take(seq);
    give(1, 1, EB_ACK);
    give(2, 1, EB_ACK);
    out = consumer->fresh.first;
    eb_out_unlink(&consumer->fresh, out);
    eb_out_append(&batch->outs, out);
    consumer->batches = batch;
    eb_deliveries_disconnected_locked(consumer);
    assert_int_equal(consumer->held.count, 0);
    assert_int_equal(consumer->handed.count, 1);
    assert_null(consumer->batches);
    assert_int_equal(consumer->fresh.first->seq, 1);
    assert_int_equal(consumer->fresh.last->seq, 2);
    assert_int_equal(consumer->answers, 2);
    give(3, 1, EB_ACK);
    assert_int_equal(consumer->answers, 3);
}

/* Answers need no delivery of this connection, or of this run. */
static void an_answer_from_nowhere_is_given(void **state)
{
    assert_int_equal(eb_deliveries_answer_locked(consumer, 9, 3, EB_NACK, 5, NULL, NULL), 0);
    assert_int_equal(consumer->fresh.first->delivery, 3);
    assert_int_equal(consumer->fresh.first->delay, 5);
    client.options.max_pending = 1;
    assert_int_equal(eb_deliveries_answer_locked(consumer, 10, 1, EB_ACK, 0, NULL, NULL),
                     EB_RESULT_FULL);
    settled(9, EB_RESULT_UNKNOWN);
    assert_true(holds_nothing());
}

/* V4: answers for another log are void, those given and those still to be given. */
static void answers_do_not_outlive_their_log(void **state)
{
    arrive(1, 1);
    arrive(2, 1);
    take(1);
    take(2);
    give(1, 1, EB_ACK);
    eb_deliveries_outlived_locked(consumer);
    assert_int_equal(consumer->answers, 0);
    give(2, 1, EB_ACK);
    assert_true(holds_nothing());
    for (struct eb_notice *notice = client.notice_first; notice; notice = notice->next)
        assert_int_equal(notice->result, EB_RESULT_DISCONNECTED);
    assert_int_equal(client.notices_queued, 2);
}

/* A verdict that is none is no success. */
static void nonsense_is_a_nack(void **state)
{
    arrive(1, 1);
    take(1);
    give(1, 1, (eb_verdict)77);
    assert_int_equal(consumer->fresh.first->verdict, EB_NACK);
}

/* Thousands are found by seq after the table grew, in whatever order they end. */
static void thousands_are_found(void **state)
{
    for (uint64_t seq = 1; seq <= 5000; seq++)
        arrive(seq * 64, 1);
    for (uint64_t seq = 1; seq <= 5000; seq++)
        take(seq * 64);
    for (uint64_t seq = 5000; seq >= 1; seq--)
        give(seq * 64, 1, EB_ACK);
    for (uint64_t seq = 1; seq <= 5000; seq++)
        settled(seq * 64, 0);
    assert_true(holds_nothing());
}

/* ---- the requests ---- */

/* What pick says, as JSON, one request a line. */
static const char *picked(int64_t now)
{
    static char text[4096];
    struct eb_buf out = EB_BUF_INIT, json = EB_BUF_INIT;
    struct eb_bin_record record;
    size_t at = 0;

    eb_consume_pick_locked(&client, &out, now);
    while (eb_bin_next((uint8_t *)out.data, out.len, &at, &record) > 0) {
        eb_wire_json(&json, &record);
        eb_buf_str(&json, "\n");
    }
    eb_buf_add(&json, "", 1);
    snprintf(text, sizeof(text), "%s", json.data);
    eb_buf_finish(&out);
    eb_buf_finish(&json);
    return text;
}

static void answer(uint64_t seq, uint32_t delivery, eb_verdict verdict, int64_t delay,
                   const char *reason)
{
    assert_int_equal(
        eb_deliveries_answer_locked(consumer, seq, delivery, verdict, delay, reason, NULL), 0);
}

/* Acks go together; nacks of one delivery and delay, too; a term with a reason goes alone. */
static void like_answers_share_a_request(void **state)
{
    answer(1, 1, EB_ACK, EB_DELAY_BACKOFF, NULL);
    answer(2, 1, EB_NACK, 1500, NULL);
    answer(3, 2, EB_ACK, EB_DELAY_BACKOFF, NULL);
    answer(4, 1, EB_NACK, 1500, NULL);
    answer(5, 2, EB_NACK, EB_DELAY_BACKOFF, NULL);
    answer(6, 1, EB_TERM, EB_DELAY_BACKOFF, "bad \"one\"");
    answer(7, 0, EB_TERM, EB_DELAY_BACKOFF, NULL);
    assert_string_equal(
        picked(1), "{\"id\":1,\"type\":\"ack\",\"consumer\":\"w\",\"seqs\":[1,3]}\n"
                   "{\"id\":2,\"type\":\"nack\",\"consumer\":\"w\",\"seqs\":[2,4],\"delivery\":1,"
                   "\"delay\":1.500}\n"
                   "{\"id\":3,\"type\":\"nack\",\"consumer\":\"w\",\"seqs\":[5],\"delivery\":2}\n"
                   "{\"id\":4,\"type\":\"term\",\"consumer\":\"w\",\"seqs\":[6],\"delivery\":1,"
                   "\"reason\":\"bad "
                   "\\\"one\\\"\"}\n"
                   "{\"id\":5,\"type\":\"term\",\"consumer\":\"w\",\"seqs\":[7]}\n");
    assert_string_equal(picked(1), "");
    assert_false(eb_consume_flushed_locked(&client, 0));
}

/* What a program writes as a reason or delay is made sound before it is sent: else the broker could not read it. */
static void what_a_callback_writes_is_made_sound(void **state)
{
    eb_delivery delivery = {.number = 1, .delay = -7};

    arrive(1, 1);
    take(1);
    eb_deliveries_returned_locked(consumer, 1, EB_NACK, &delivery);
    assert_int_equal(consumer->fresh.first->delay, EB_DELAY_BACKOFF);
    strcpy(delivery.reason, "caf\xc3\xa9 \xff rest");
    arrive(2, 1);
    take(2);
    eb_deliveries_returned_locked(consumer, 2, EB_TERM, &delivery);
    assert_string_equal(consumer->fresh.last->reason, "caf\xc3\xa9 ");
    char text[400];
    memset(text, 'x', sizeof(text));
    strcpy(text + 198, "\xc3\xa9"); /* the bound cuts it */
    answer(3, 1, EB_TERM, EB_DELAY_BACKOFF, text);
    assert_int_equal(strlen(consumer->fresh.last->reason), 198);
}

/* More than a request takes go in several. */
static void a_request_has_a_bound(void **state)
{
    for (uint64_t seq = 1; seq <= EB_ANSWERS_A_REQUEST + 1; seq++)
        answer(seq, 1, EB_ACK, EB_DELAY_BACKOFF, NULL);
    picked(1);
    assert_int_equal(consumer->batches->outs.count, EB_ANSWERS_A_REQUEST);
    assert_int_equal(consumer->batches->next->outs.count, 1);
}

/* J2: a broker that takes fewer at once is given fewer, until it takes them; none is lost on the way. */
static void a_lower_bound_of_the_broker_is_found(void **state)
{
    struct eb_wire limit = {
        .type = EB_WIRE_ERROR, .has_id = true, .text = "max_batch", .result = EB_RESULT_LIMIT};
    uint64_t first = client.last_id;

    for (uint64_t seq = 1; seq <= 10; seq++)
        answer(seq, 1, EB_ACK, EB_DELAY_BACKOFF, NULL);
    for (size_t bound = 10; bound > 1; bound = (bound + 1) / 2) {
        picked(INT64_MAX - 1);
        assert_int_equal(consumer->batches->outs.count, bound);
        eb_deliveries_disconnected_locked(consumer);
        picked(INT64_MAX - 1);
        limit.id = consumer->batches->id;
        assert_true(eb_consume_answer_locked(&client, NULL, &limit));
        eb_deliveries_disconnected_locked(consumer);
    }
    assert_int_equal(consumer->batch_max, 1);
    assert_int_equal(consumer->fresh.count, 10);
    assert_true(client.last_id > first);
}

/* J1 and V4: a consume first, with settings once; answers wait for its answer. */
static void answers_wait_for_the_consume(void **state)
{
    struct eb_wire ok = {.type = EB_WIRE_OK, .id = 1, .has_id = true, .json = true};

    consumer->state = EB_CONSUME_IDLE;
    consumer->settings = strdup("{\"patterns\":[\"a\"]}");
    answer(1, 1, EB_ACK, EB_DELAY_BACKOFF, NULL);
    assert_string_equal(picked(1), "{\"id\":1,\"type\":\"consume\",\"consumer\":\"w\","
                                   "\"max_inflight\":64,\"settings\":{\"patterns\":[\"a\"]}}\n");
    assert_true(eb_consume_answer_locked(&client, NULL, &ok));
    assert_string_equal(picked(1), "{\"id\":2,\"type\":\"ack\",\"consumer\":\"w\",\"seqs\":[1]}\n");
    eb_consume_disconnected_locked(&client);
    assert_string_equal(picked(1), "{\"id\":3,\"type\":\"consume\",\"consumer\":\"w\","
                                   "\"max_inflight\":64}\n");
}

/* Every interval: what runs and what waits here, a request for each number of delivery. */
static void progress_is_told_of_what_is_here(void **state)
{
    consumer->progress_every = 100;
    consumer->progress_at = 100;
    arrive(1, 1);
    arrive(2, 1);
    arrive(3, 2);
    arrive(4, 1);
    take(1);
    take(2);
    give(2, 1, EB_LATER);
    assert_string_equal(picked(99), "");
    assert_int_equal(eb_consume_next_locked(&client), 100);
    assert_string_equal(
        picked(100), "{\"type\":\"in_progress\",\"consumer\":\"w\",\"seqs\":[4],\"delivery\":1}\n"
                     "{\"type\":\"in_progress\",\"consumer\":\"w\",\"seqs\":[3],\"delivery\":2}\n"
                     "{\"type\":\"in_progress\",\"consumer\":\"w\",\"seqs\":[1],\"delivery\":1}\n");
    assert_string_equal(picked(101), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) {"deliveries/" #name, name, setup, teardown}
        TEST(an_event_goes_its_way),
        TEST(one_entry_a_seq),
        TEST(what_comes_again_while_it_runs_waits),
        TEST(a_redelivery_may_overtake_the_answer),
        TEST(what_is_answered_later_comes_again),
        TEST(later_after_a_redelivery_is_handed_over_anew),
        TEST(a_lost_connection_takes_only_what_is_held),
        TEST(an_answer_from_nowhere_is_given),
        TEST(answers_do_not_outlive_their_log),
        TEST(nonsense_is_a_nack),
        TEST(thousands_are_found),
        TEST(like_answers_share_a_request),
        TEST(what_a_callback_writes_is_made_sound),
        TEST(a_request_has_a_bound),
        TEST(a_lower_bound_of_the_broker_is_found),
        TEST(answers_wait_for_the_consume),
        TEST(progress_is_told_of_what_is_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
