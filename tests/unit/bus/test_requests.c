/*
 * test_requests.c - requests on their way: collected in order, counted, answered a segment at a time (C1 to C4).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/unit/bus/fake_world.h"

static void wide(struct eb_bus_config *config)
{
    config->queue_events = 1000;
    config->queue_bytes = 1 << 20;
}

static unsigned wakes, merges, alone;

static void on_wake(struct eb_session *session)
{
    wakes++;
}

/* What several answers were merged into is written at the end of the segment. */
static void on_answers(struct eb_session *session)
{
    merges++;
    eb_session_answer(session, "merged ", 7);
}

static void on_answered(struct eb_session *session)
{
    alone++;
}

static const struct eb_session_ops alone_ops = {.wake = on_wake, .answered = on_answered};
static const struct eb_session_ops merging_ops = {.wake = on_wake, .answers = on_answers};
static const struct eb_session_ops plain_ops = {.wake = on_wake};

static struct eb_session *open_session(struct fake_world *w, const struct eb_session_ops *ops)
{
    struct eb_session *session;
    assert_int_equal(eb_session_create(w->bus, ops, NULL, false, &session), 0);
    wakes = merges = alone = 0;
    return session;
}

static void close_session(struct eb_session *session)
{
    eb_session_close(session);
    eb_session_unref(session);
}

/* An answer of as many bytes as publish->user says, the first of them the topic's. */
static void published(struct eb_publish *publish)
{
    size_t len = (size_t)publish->user;
    char *text = malloc(len);
    memset(text, publish->op.events[0]->topic[0], len);
    assert_int_equal(publish->op.err.code, EB_OK);
    eb_session_answer(publish->session, text, len);
    free(text);
    eb_publish_destroy(publish);
}

static void published_merged(struct eb_publish *publish)
{
    eb_session_answer_later(publish->session);
    eb_publish_destroy(publish);
}

static void publish(struct eb_session *session, const char *topic, size_t answer,
                    void (*done)(struct eb_publish *publish))
{
    struct eb_publish *publish = eb_publish_create(1);
    struct eb_draft draft = {
        .topic = topic, .topic_len = strlen(topic), .payload = "x", .payload_len = 1};
    struct eb_error err;
    assert_int_equal(eb_publish_add(eb_session_bus(session), publish, &draft, &err), 0);
    publish->done = done;
    publish->user = (void *)answer;
    publish->session = eb_session_ref(session);
    eb_bus_publish(eb_session_bus(session), publish);
}

/* All that waits in the session's queue, as one text. */
static const char *drain(struct eb_session *session, size_t *ret_frames, size_t *ret_len)
{
    static char text[200000];
    struct eb_out item;
    size_t frames = 0, len = 0;
    while (eb_session_take(session, &item, 1, SIZE_MAX) == 1) {
        memcpy(text + len, item.frame->data, item.frame->len);
        len += item.frame->len;
        frames++;
        eb_session_sent(session, &item, 1);
    }
    text[len] = '\0';
    *ret_frames = frames;
    *ret_len = len;
    return text;
}

/* C1: the store sees nothing until the chunk is handed over, and then all of it in the order it was made. */
static void collected_requests_go_in_order(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = fake_box(w, false);
    eb_session_collect(box->session);
    fake_publish_on(box, "a");
    fake_subscribe(box, "#", LIVE);
    fake_publish_on(box, "b");
    fake_ack(box, 2);
    fake_unsubscribe(box, "#");
    fake_publish_on(box, "c");
    assert_int_equal(fake_commit(w, ALL), 0);
    assert_int_equal(eb_session_submit(box->session), 6);
    assert_int_equal(eb_session_submit(box->session), 0); /* nothing is left */
    assert_int_equal(fake_commit(w, ALL), 6);
    assert_string_equal(fake_drain_all(box), "ok=1 ok#1 ok=2 acked E2 bye ok=3");
    fake_box_close(box);
    fake_close(w);
}

/* C2: what is collected counts, and is not left behind by a thread that waits. */
static void collected_requests_count_as_open(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = fake_box(w, false);
    eb_session_collect(box->session);
    fake_publish_on(box, "a");
    fake_publish_on(box, "b");
    assert_int_equal(eb_session_wait_room(box->session, 3, 1000, 0), 0);
    assert_int_equal(fake_commit(w, ALL), 0);
    assert_int_equal(eb_session_wait_room(box->session, 2, 1000, eb_mono_ms()), -ETIMEDOUT);
    assert_int_equal(fake_commit(w, ALL), 2);
    assert_int_equal(eb_session_wait_room(box->session, 1, 1000, 0), 0);
    fake_box_close(box);
    fake_close(w);
}

/* A chunk does not grow without bound while its thread is busy. */
static void a_large_chunk_goes_by_itself(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct eb_session *session = open_session(w, &plain_ops);
    size_t submitted = 0, frames, len;
    eb_session_collect(session);
    for (int i = 0; i < 5000; i++) {
        publish(session, "a", 1, published);
        submitted += fake_commit(w, ALL);
        assert_in_range((size_t)i + 1 - submitted, 0, 1024);
    }
    eb_session_submit(session);
    fake_commit(w, ALL);
    drain(session, &frames, &len);
    assert_int_equal(len, 5000);
    close_session(session);
    fake_close(w);
}

/* Publishes of one chunk lie together; whichever goes last, also unsubmitted, all of it is given up once. */
static void publishes_of_a_chunk_share_memory(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct eb_session *session = open_session(w, &plain_ops);
    struct eb_draft draft = {.topic = "a", .topic_len = 1, .payload = "x", .payload_len = 1};
    struct eb_error err;
    size_t frames, len, sent = 0;
    eb_session_collect(session);
    for (unsigned chunk = 0; chunk < 5; chunk++) {
        for (unsigned i = 0; i < 1 + 60 * chunk; i++) {
            struct eb_publish *publish = eb_publish_create_on(session, 1);
            assert_ptr_equal(publish->session, session);
            assert_int_equal(publish->op.count, 0);
            assert_int_equal(publish->op.results[0].seq, 0);
            assert_int_equal(eb_publish_add(w->bus, publish, &draft, &err), 0);
            if (i % 3 == 1) { /* as a refused one */
                eb_publish_destroy(publish);
                continue;
            }
            publish->done = published;
            publish->user = (void *)(size_t)1;
            eb_bus_publish(w->bus, publish);
            sent++;
        }
        eb_session_submit(session);
        if (chunk % 2)
            fake_commit(w, ALL);
    }
    fake_commit(w, ALL);
    drain(session, &frames, &len);
    assert_int_equal(len, sent);
    for (int i = 0; i < 3;
         i++) { /* the only one of its chunk, and it goes before the chunk is over */
        eb_publish_destroy(eb_publish_create_on(session, 1));
        eb_session_submit(session);
    }
    eb_publish_destroy(eb_publish_create_on(session, 2));
    eb_session_submit(session);
    close_session(session);
    fake_close(w); /* the sanitizers' builds see what is left or given up twice */
}

/* What the store is told of a chunk's operations beforehand: how large each is, and which one comes soon behind it. */
static void operations_of_a_chunk_say_what_comes(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct eb_session *session = open_session(w, &plain_ops);
    struct eb_draft draft = {.topic = "a", .topic_len = 1, .payload = "xyz", .payload_len = 3};
    struct eb_op *ops[100];
    struct eb_error err;
    size_t frames, len;
    eb_session_collect(session);
    for (int chunk = 0; chunk < 2; chunk++) {
        for (int i = 0; i < 100; i++) {
            struct eb_publish *publish = eb_publish_create_on(session, 1);
            assert_int_equal(eb_publish_add(w->bus, publish, &draft, &err), 0);
            assert_int_equal(publish->op.bytes, eb_event_size(publish->op.events[0]));
            publish->done = published;
            publish->user = (void *)(size_t)1;
            ops[i] = &publish->op;
            eb_bus_publish(w->bus, publish);
        }
        for (int i = 0; i < 100; i++)
            assert_ptr_equal(ops[i]->ahead, i + EB_AHEAD < 100 ? ops[i + EB_AHEAD] : NULL);
        eb_session_submit(session);
        fake_commit(w, ALL);
    }
    drain(session, &frames, &len);
    assert_int_equal(len, 200);
    close_session(session);
    fake_close(w);
}

/* C1: only what a peer waits for with nothing else under way may be committed on the connection's thread. */
static void a_lone_small_request_may_be_committed_at_once(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = fake_box(w, false);
    fake_publish_on(box, "a"); /* not collected: an HTTP request, a program */
    assert_int_equal(fake_alone(w), 0);
    fake_commit(w, ALL);
    eb_session_collect(box->session);
    fake_publish_on(box, "a");
    eb_session_submit(box->session);
    assert_int_equal(fake_alone(w), 1);
    fake_publish_on(box, "b"); /* the one before is still open */
    eb_session_submit(box->session);
    assert_int_equal(fake_alone(w), 0);
    fake_commit(w, ALL);
    fake_publish_on(box, "a");
    fake_publish_on(box, "b");
    eb_session_submit(box->session);
    assert_int_equal(fake_alone(w), 0);
    fake_commit(w, ALL);
    fake_publish_batch(box, "a", 500);
    eb_session_submit(box->session);
    assert_int_equal(fake_alone(w), 0);
    fake_commit(w, ALL);
    fake_publish_on(box, "a");
    eb_session_submit(box->session);
    assert_int_equal(fake_alone(w), 1);
    fake_commit(w, ALL);
    fake_box_close(box);
    fake_close(w);
}

/* C3: the answers of one segment are one frame and one wake, in the order of their requests. */
static void answers_of_a_segment_go_together(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct eb_session *one = open_session(w, &plain_ops), *other = open_session(w, &plain_ops);
    struct eb_session_state state;
    size_t frames, len;
    for (int i = 0; i < 3; i++) {
        publish(one, "abc" + i, 2, published);
        publish(other, "xyz" + i, 1, published);
    }
    fake_commit(w, ALL);
    assert_int_equal(wakes, 2);
    assert_string_equal(drain(one, &frames, &len), "aabbcc");
    assert_int_equal(frames, 1);
    assert_string_equal(drain(other, &frames, &len), "xyz");
    assert_int_equal(frames, 1);
    eb_session_state(one, &state);
    assert_int_equal(state.open, 0);
    close_session(one);
    close_session(other);
    fake_close(w);
}

/* C5: the answer to the only open request is told apart, when it is in the queue; any other is a wake. */
static void an_answer_that_is_waited_for_is_told_apart(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct eb_session *session = open_session(w, &alone_ops);
    size_t frames, len;
    publish(session, "a", 1, published);
    fake_commit(w, ALL);
    assert_int_equal(alone, 1);
    assert_int_equal(wakes, 0);
    assert_string_equal(drain(session, &frames, &len), "a");
    publish(session, "b", 1, published);
    publish(session, "c", 1, published);
    fake_commit(w, 1); /* one is still open */
    assert_int_equal(wakes, 1);
    fake_commit(w, 1);
    assert_int_equal(alone, 2);
    publish(session, "d", 1, published);
    publish(session, "e", 1, published);
    fake_commit(w, ALL); /* two at once */
    assert_int_equal(alone, 2);
    assert_int_equal(wakes, 2);
    assert_string_equal(drain(session, &frames, &len), "bcde");
    close_session(session);
    fake_close(w);
}

/* C5: a group that goes on is not waited for, and no more than a number of it are told apart. */
static void answers_do_not_wait_for_a_long_group(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct fake_box *box = fake_box(w, false);
    struct eb_session *first = open_session(w, &alone_ops), *many[100];
    size_t frames, len;
    publish(first, "a", 1, published);
    fake_publish_batch(box, "b", 300);
    fake_commit(w, ALL);
    assert_int_equal(wakes, 1);
    assert_int_equal(alone, 0);
    assert_string_equal(drain(first, &frames, &len), "a");
    for (int i = 0; i < 100; i++)
        many[i] = open_session(w, &alone_ops);
    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < 100; i++)
            publish(many[i], "x", 1, published);
        fake_commit(w, ALL);
        assert_int_equal(alone, 64 * round);
        assert_int_equal(wakes, 36 * round);
    }
    for (int i = 0; i < 100; i++) {
        assert_string_equal(drain(many[i], &frames, &len), "xx");
        close_session(many[i]);
    }
    close_session(first);
    fake_box_close(box);
    fake_close(w);
}

/* What is merged is written once, behind the last answer; a session without answers is not asked. */
static void merged_answers_are_written_at_the_end(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct eb_session *session = open_session(w, &merging_ops);
    struct eb_session_state state;
    size_t frames, len;
    fake_publish(w, "other");
    fake_commit(w, ALL);
    assert_int_equal(merges, 0);
    publish(session, "a", 0, published_merged);
    publish(session, "b", 2, published);
    publish(session, "c", 0, published_merged);
    fake_commit(w, ALL);
    assert_int_equal(merges, 1);
    assert_string_equal(drain(session, &frames, &len), "bbmerged ");
    assert_int_equal(wakes, 1);
    eb_session_state(session, &state);
    assert_int_equal(state.open, 0);
    close_session(session);
    fake_close(w);
}

/* C4, with more answers than one frame is let grow to: none is lost, none is out of order. */
static void many_bytes_of_answers_keep_their_order(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct eb_session *session = open_session(w, &plain_ops);
    struct eb_session_state state;
    size_t frames, len;
    publish(session, "a", 40000, published);
    publish(session, "b", 40000, published);
    publish(session, "c", 40000, published);
    fake_commit(w, ALL);
    eb_session_state(session, &state);
    assert_int_equal(state.open, 0);
    assert_int_equal(state.answers_bytes, 120000);
    const char *text = drain(session, &frames, &len);
    assert_int_equal(len, 120000);
    assert_in_range(frames, 2, 3);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(text[i], "abc"[i / 40000]);
    close_session(session);
    fake_close(w);
}

/* A session closed meanwhile gets no answers, and its requests are settled all the same. */
static void a_closed_session_is_settled(void **unused)
{
    struct fake_world *w = fake_open(wide);
    struct eb_session *session = open_session(w, &merging_ops);
    struct eb_session_state state;
    publish(session, "a", 5, published);
    eb_session_close(session);
    fake_commit(w, ALL);
    assert_int_equal(wakes, 0);
    eb_session_state(session, &state);
    assert_int_equal(state.open, 0);
    assert_int_equal(state.answers_bytes, 0);
    eb_session_unref(session);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(collected_requests_go_in_order),
        cmocka_unit_test(collected_requests_count_as_open),
        cmocka_unit_test(a_large_chunk_goes_by_itself),
        cmocka_unit_test(publishes_of_a_chunk_share_memory),
        cmocka_unit_test(operations_of_a_chunk_say_what_comes),
        cmocka_unit_test(a_lone_small_request_may_be_committed_at_once),
        cmocka_unit_test(answers_of_a_segment_go_together),
        cmocka_unit_test(an_answer_that_is_waited_for_is_told_apart),
        cmocka_unit_test(answers_do_not_wait_for_a_long_group),
        cmocka_unit_test(merged_answers_are_written_at_the_end),
        cmocka_unit_test(many_bytes_of_answers_keep_their_order),
        cmocka_unit_test(a_closed_session_is_settled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
