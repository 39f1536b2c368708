/*
 * test_consumer_dead.c - what is given up (PROTOCOL 7): dead letters, what stands in them, that none comes twice nor is
 * lost however it interleaves with acks and failed commits, and redrive.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/consumer_world.h"

#define TWICE "{\"patterns\":[\"t.*\"],\"from\":\"all\",\"max_deliver\":2}"

static void publish(struct fake_world *world, const char *topic, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        fake_publish(world, topic);
    fake_commit(world, ALL);
}

static const char *header(const struct eb_event *event, const char *name)
{
    static char texts[4][256];
    static unsigned turn;
    char *text = texts[turn++ % 4];
    struct eb_buf buf = EB_BUF_INIT;
    if (!eb_headers_get(event->headers, event->headers_len, name, &buf))
        return NULL;
    snprintf(text, sizeof(texts[0]), "%.*s", (int)buf.len, buf.data);
    eb_buf_finish(&buf);
    return text;
}

/* After max_deliver deliveries an event becomes a new one on $dead.NAME that says what it was; it never comes again. */
static void an_event_is_given_up_after_its_last_delivery(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", TWICE);
    make(w, "watch", "{\"patterns\":[\"$dead.*\"],\"from\":\"all\"}");
    publish(w, "t.a", 1);
    struct hand *a = attach(w, "c", 0), *b = attach(w, "watch", 0);
    assert_string_equal(given(a), "1");
    assert_string_equal(nack(w, "c", 1, -1), "ok");
    assert_string_equal(given(a), "1:2");
    assert_string_equal(nack(w, "c", 1, -1), "ok");
    assert_string_equal(given(a), "");
    assert_string_equal(given(b), "2");
    struct eb_event *dead = b->last;
    assert_string_equal(dead->topic, "$dead.c");
    assert_int_equal(dead->payload_len, 1);
    assert_int_equal(dead->ttl, 0);
    assert_string_equal(header(dead, "dead-seq"), "1");
    assert_string_equal(header(dead, "dead-topic"), "t.a");
    assert_string_equal(header(dead, "dead-deliveries"), "2");
    assert_string_equal(header(dead, "dead-reason"), "max_deliver");
    assert_int_equal(strlen(header(dead, "dead-message-id")), 36);
    assert_int_equal(info_of(w, "c").dead, 1);
    assert_int_equal(info_of(w, "c").dead_waiting, 1);
    assert_int_equal(info_of(w, "c").cursor, 2);
    fake_restart(w);
    assert_int_equal(info_of(w, "c").dead, 1);
    assert_int_equal(info_of(w, "c").dead_waiting, 1);
    leave(a, EB_LEAVE_AGAIN);
    leave(b, EB_LEAVE_AGAIN);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* term gives up at once, with its reason, whatever max_deliver says; without dead_letter it is only counted. */
static void term_gives_up_at_once_and_says_why(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    make(w, "silent", "{\"patterns\":[\"t\"],\"from\":\"all\",\"dead_letter\":false}");
    make(w, "watch", "{\"patterns\":[\"$dead.*\"],\"from\":\"all\"}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0), *b = attach(w, "silent", 0), *d = attach(w, "watch", 0);
    assert_string_equal(given(a), "1");
    assert_string_equal(given(b), "1");
    assert_string_equal(term(w, "c", 1, "no such customer"), "ok");
    assert_string_equal(term(w, "silent", 1, ""), "ok");
    assert_string_equal(given(d), "2");
    assert_string_equal(header(d->last, "dead-reason"), "no such customer");
    assert_int_equal(info_of(w, "silent").dead, 1);
    assert_int_equal(info_of(w, "silent").dead_waiting, 0);
    assert_string_equal(term(w, "c", 1, "again"), "late");
    leave(a, EB_LEAVE_AGAIN);
    leave(b, EB_LEAVE_AGAIN);
    leave(d, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* An ack that comes before the dead letter's commit wins: no dead letter. One that comes after is late. */
static void an_ack_before_the_burial_wins(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\",\"max_deliver\":1}");
    publish(w, "t", 2);
    struct hand *a = attach(w, "c", 0);
    struct asked_consumer early;
    uint64_t seqs[2] = {1, 2};
    enum eb_job_result results[2];
    assert_string_equal(given(a), "1 2");
    struct eb_consumer_request r = {.verb = EB_CONSUMER_NACK,
                                    .seqs = seqs,
                                    .count = 2,
                                    .delay_ms = -1,
                                    .results = results,
                                    .name = "c"};
    struct asked_consumer nacks = {.request = r, .text = ""};
    ask(w, &nacks);
    fake_commit(w, ALL);
    fake_round(w); /* both are dying, and read */
    assert_true(fake_read(w));
    ask_ack(w, "c", 1, &early);
    fake_consume(w);
    assert_string_equal(early.text, "ok");
    assert_int_equal(fake_last(w), 3); /* one dead letter: of event 2 */
    assert_int_equal(info_of(w, "c").dead, 1);
    assert_string_equal(ack(w, "c", 2), "ok"); /* it is done */
    assert_int_equal(info_of(w, "c").cursor, 3);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A dead letter that could not be committed is tried again; in between nothing is delivered nor forgotten. */
static void a_failed_burial_is_tried_again(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    struct asked_consumer asked = {.request = {.verb = EB_CONSUMER_TERM,
                                               .name = "c",
                                               .seqs = &asked.seq,
                                               .count = 1,
                                               .reason = "bad",
                                               .results = &asked.result},
                                   .seq = 1};
    ask(w, &asked);
    fake_commit(w, ALL);
    assert_string_equal(asked.text, "ok");
    fake_round(w);
    assert_true(fake_read(w));
    w->fail_commit = true;
    fake_consume(w);
    assert_int_equal(fake_last(w), 1);
    assert_int_equal(info_of(w, "c").dying, 1);
    assert_int_equal(info_of(w, "c").dead, 0);
    fake_now += EB_CONSUMER_RETRY_MS;
    fake_consume(w);
    assert_int_equal(fake_last(w), 2);
    assert_string_equal(header(fake_event(w, 2), "dead-reason"), "bad");
    assert_int_equal(info_of(w, "c").dead, 1);
    assert_string_equal(given(a), "");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

static void look_at_dead(struct fake_world *w, void *ctx)
{
    *(uint64_t *)ctx = info_of(w, "c").dead;
}

static int kept_consumer(void *ctx, const struct eb_state_consumer *row)
{
    *(uint64_t *)ctx = row->counts.dead;
    return 0;
}

static int kept_block(void *ctx, uint64_t consumer, uint64_t number, const uint8_t *data,
                      size_t len)
{
    return 0;
}

/* `dead` counts a letter from its commit on, not before; what that commit keeps has all the letters in it. */
static void a_dead_letter_is_counted_with_its_commit(void **state)
{
    struct fake_world *w = fake_open(NULL);
    uint64_t before = UINT64_MAX, kept = 0;
    struct eb_state_loader loader = {.ctx = &kept, .consumer = kept_consumer, .block = kept_block};
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 2);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2");
    uint64_t seqs[2] = {1, 2};
    enum eb_job_result results[2];
    struct asked_consumer asked = {
        .request = {
            .verb = EB_CONSUMER_TERM, .name = "c", .seqs = seqs, .count = 2, .results = results}};
    ask(w, &asked);
    fake_commit(w, ALL);
    fake_round(w);
    assert_true(fake_read(w));
    w->ctx = &before;
    w->during_commit = look_at_dead;
    fake_commit(w, ALL);
    assert_int_equal(before, 0);
    assert_int_equal(info_of(w, "c").dead, 2);
    assert_int_equal(eb_store_load_state(NULL, &loader), 0);
    assert_int_equal(kept, 2);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A crash between a term and its dead letter loses neither the term nor the event. */
static void a_term_survives_a_restart(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    given(a);
    struct asked_consumer asked = {.request = {.verb = EB_CONSUMER_TERM,
                                               .name = "c",
                                               .seqs = &asked.seq,
                                               .count = 1,
                                               .results = &asked.result},
                                   .seq = 1};
    ask(w, &asked);
    fake_commit(w, ALL);
    leave_quietly(a);
    fake_restart(w);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "");
    assert_int_equal(fake_last(w), 2);
    assert_string_equal(fake_topic(w, 2), "$dead.c");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* Redrive gives the kept copy to that consumer alone, as a first delivery; one that fails again goes back to the list. */
static void redrive_gives_the_dead_letter_to_its_consumer(void **state)
{
    struct fake_world *w = fake_open(NULL);
    uint64_t count;
    make(w, "c", "{\"patterns\":[\"t\",\"$dead.*\"],\"from\":\"all\",\"max_deliver\":1}");
    make(w, "other", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 2);
    struct hand *a = attach(w, "c", 0), *b = attach(w, "other", 0);
    assert_string_equal(given(a), "1 2");
    nack(w, "c", 1, -1);
    nack(w, "c", 2, -1);
    assert_string_equal(given(a), ""); /* never its own dead letters */
    assert_int_equal(fake_last(w), 4);
    assert_string_equal(redrive(w, "c", &count), "ok");
    assert_int_equal(count, 2);
    assert_string_equal(given(a), "3 4");
    assert_string_equal(a->last->topic, "$dead.c");
    assert_string_equal(given(b), "1 2");
    assert_string_equal(ack(w, "c", 3), "ok");
    assert_string_equal(nack(w, "c", 4, -1), "ok");
    fake_consume(w);
    assert_int_equal(fake_last(w), 4); /* no dead letter of a dead letter */
    assert_int_equal(info_of(w, "c").dead_waiting, 1);
    leave_quietly(a);
    leave_quietly(b);
    fake_restart(w);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "");
    uint64_t seqs[3] = {3, 4, 9};
    enum eb_job_result results[3];
    struct eb_consumer_request r = {
        .verb = EB_CONSUMER_REDRIVE, .name = "c", .seqs = seqs, .count = 3, .results = results};
    assert_string_equal(request(w, &r), "ok");
    assert_int_equal(r.redriven, 1);
    assert_int_equal(results[0], EB_JOB_UNKNOWN);
    assert_int_equal(results[1], EB_JOB_OK);
    assert_int_equal(results[2], EB_JOB_UNKNOWN);
    assert_string_equal(given(a), "4");
    assert_int_equal(info_of(w, "c").dead_waiting, 0);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* With order the dead letter that is redriven waits for its own topic's events, as they do for it. */
static void a_redriven_dead_letter_keeps_its_key(void **state)
{
    struct fake_world *w = fake_open(NULL);
    uint64_t count;
    make(w, "c", "{\"patterns\":[\"t.*\"],\"from\":\"all\",\"max_deliver\":1,\"order\":\"topic\"}");
    publish(w, "t.a", 2);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    nack(w, "c", 1, -1);
    assert_string_equal(given(a), "2");
    assert_string_equal(redrive(w, "c", &count), "ok");
    assert_int_equal(count, 1);
    publish(w, "t.b", 1);
    assert_string_equal(given(a), "4"); /* t.a is busy with 2 */
    assert_string_equal(ack(w, "c", 2), "ok");
    assert_string_equal(given(a), "3");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* The same after a restart, whichever of the two was there first: two of one key are never out at once. */
static void a_redriven_dead_letter_keeps_its_key_over_a_restart(void **state)
{
    struct fake_world *w = fake_open(NULL);
    uint64_t count;
    make(w, "c", "{\"patterns\":[\"t.*\"],\"from\":\"all\",\"max_deliver\":1,\"order\":\"topic\"}");
    publish(w, "t.a", 2);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    nack(w, "c", 1, -1);
    assert_string_equal(ack(w, "c", 2), "ok");
    assert_string_equal(given(a), "2");
    leave_quietly(a);
    assert_string_equal(redrive(w, "c", &count), "ok");
    assert_int_equal(count, 1);
    publish(w, "t.a", 1);
    fake_restart(w);
    a = attach(w, "c", 0);
    uint64_t first = strtoull(given(a), NULL, 10); /* the redriven one, or the new one: not both */
    assert_int_equal(a->count, 1);
    assert_string_equal(ack(w, "c", first), "ok");
    assert_string_equal(given(a), first == 3 ? "4" : "3");
    assert_int_equal(a->count, 2);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

static void ask_term(struct fake_world *w, struct asked_consumer *asked)
{
    *asked = (struct asked_consumer){.request = {.verb = EB_CONSUMER_TERM,
                                                 .name = "c",
                                                 .seqs = &asked->seq,
                                                 .count = 1,
                                                 .reason = "bad",
                                                 .results = &asked->result},
                                     .seq = 1};
    ask(w, asked);
}

/* A term that is overtaken by an ack leaves nothing behind. */
static void an_ack_after_a_term_forgets_its_reason(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer asked, acked;
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    ask_term(w, &asked);
    ask_ack(w, "c", 1, &acked);
    fake_consume(w);
    assert_string_equal(acked.text, "ok");
    assert_int_equal(fake_last(w), 1);
    struct eb_consumer *consumer = eb_consumer_find(w->bus->consumers, "c");
    assert_null(consumer->reasons);
    eb_consumer_unref(consumer);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A consumer that is deleted in the transaction of a dead letter leaves no rows of it: none is given up any more. */
static void a_dead_letter_after_the_deletion_is_none(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer asked, deleted = {.request = {.verb = EB_CONSUMER_DELETE, .name = "c"}};
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    ask_term(w, &asked);
    fake_commit(w, ALL);
    fake_round(w); /* it is dying, and is to be read */
    ask(w, &deleted);
    fake_round(w);             /* the deletion is queued */
    assert_true(fake_read(w)); /* and behind it the dead letter */
    fake_commit(w, ALL);
    fake_consume(w);
    assert_string_equal(deleted.text, "ok");
    assert_int_equal(fake_last(w), 1);
    assert_int_equal(fake_disk_blocks(NULL), 0);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A seek in the transaction of a dead letter does not make it uncounted. */
static void a_dead_letter_before_a_seek_is_counted(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer asked,
        moved = {.request = {.verb = EB_CONSUMER_SEEK, .name = "c", .seq = 2}};
    uint64_t count;
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    ask_term(w, &asked);
    fake_commit(w, ALL);
    fake_round(w);
    assert_true(fake_read(w)); /* the dead letter is queued */
    ask(w, &moved);
    fake_round(w); /* and behind it the seek */
    fake_commit(w, ALL);
    fake_consume(w);
    assert_string_equal(moved.text, "ok");
    assert_int_equal(fake_last(w), 2);
    assert_int_equal(info_of(w, "c").dead, 1);
    assert_int_equal(info_of(w, "c").dead_waiting, 1);
    assert_string_equal(redrive(w, "c", &count), "ok");
    assert_int_equal(count, 1);
    assert_int_equal(info_of(w, "c").dead_waiting, 0);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* A broker that ends while many are redriven answers who asked for it. */
static void a_redrive_is_answered_when_the_broker_ends(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer all = {.request = {.verb = EB_CONSUMER_REDRIVE, .name = "c"}};
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\",\"max_deliver\":1,\"max_inflight\":1000}");
    publish(w, "t", 300);
    struct hand *a = attach(w, "c", 0);
    given(a);
    for (uint64_t seq = 1; seq <= 300; seq++)
        assert_string_equal(nack(w, "c", seq, -1), "ok");
    fake_consume(w);
    assert_int_equal(info_of(w, "c").dead_waiting, 300);
    leave(a, EB_LEAVE_AGAIN);
    ask(w, &all);
    fake_round(w);
    assert_true(fake_read(w)); /* the first step is queued */
    fake_close(w);
    assert_string_not_equal(all.text, "");
}

/* A seek leaves no way to what was redriven and is open: it is a dead letter again, or open still if that failed. */
static void a_seek_does_not_lose_what_was_redriven(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer moved = {.request = {.verb = EB_CONSUMER_SEEK, .name = "c", .seq = 3}};
    uint64_t count;
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\",\"max_deliver\":1}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    nack(w, "c", 1, -1);
    assert_string_equal(redrive(w, "c", &count), "ok");
    assert_string_equal(given(a), "2");
    ask(w, &moved);
    fake_round(w);
    w->fail_commit = true;
    fake_consume(w);
    assert_string_equal(moved.text, "storage_full");
    leave(a, EB_LEAVE_AGAIN);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2");
    assert_string_equal(seek(w, "c", 3), "ok");
    assert_int_equal(info_of(w, "c").dead_waiting, 1);
    leave(a, EB_LEAVE_AGAIN);
    fake_restart(w);
    assert_int_equal(info_of(w, "c").dead_waiting, 1);
    assert_string_equal(redrive(w, "c", &count), "ok");
    assert_int_equal(count, 1);
    a = attach(w, "c", 0);
    assert_string_equal(given(a), "2");
    assert_string_equal(ack(w, "c", 2), "ok");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* One that cannot be read just now holds up no other's dead letter. */
static void a_burial_that_cannot_be_read_holds_up_no_other(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 3);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1 2 3");
    w->fail_seq = 1;
    for (uint64_t seq = 1; seq <= 3; seq++)
        assert_string_equal(term(w, "c", seq, ""), "ok");
    for (int i = 0; i < 4; i++, fake_now += EB_CONSUMER_RETRY_MS)
        fake_consume(w);
    assert_int_equal(info_of(w, "c").dead, 2);
    w->fail_seq = 0;
    fake_consume(w);
    assert_int_equal(info_of(w, "c").dead, 3);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* The list of dead letters, which is kept on disk, does not grow with what is no more, nor is that counted as waiting. */
static void dead_letters_that_retention_took_wait_no_more(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    assert_string_equal(term(w, "c", 1, ""), "ok");
    assert_int_equal(info_of(w, "c").dead_waiting, 1);
    fake_retain(w, 2);
    fake_now += EB_CONSUMER_TICK_MS;
    fake_consume(w);
    assert_int_equal(info_of(w, "c").dead_waiting, 0);
    leave_quietly(a);
    fake_restart(w);
    assert_int_equal(info_of(w, "c").dead_waiting, 0);
    fake_close(w);
}

/* What retention takes from under its burial is lost, and said. */
static void what_is_gone_before_its_burial_is_lost(void **state)
{
    struct fake_world *w = fake_open(NULL);
    struct asked_consumer asked;
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\"}");
    publish(w, "t", 1);
    struct hand *a = attach(w, "c", 0);
    assert_string_equal(given(a), "1");
    ask_term(w, &asked);
    fake_retain(w, 1);
    fake_consume(w);
    assert_int_equal(fake_last(w), 1);
    assert_int_equal(info_of(w, "c").lost, 1);
    assert_string_equal(given(a), "gap1-1:retention");
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

/* The lists that GET …/dead shows, by pages. */
static void dead_letters_are_read_in_pages(void **state)
{
    struct fake_world *w = fake_open(NULL);
    make(w, "c", "{\"patterns\":[\"t\"],\"from\":\"all\",\"max_deliver\":1}");
    publish(w, "t", 3);
    struct hand *a = attach(w, "c", 0);
    given(a);
    for (uint64_t seq = 1; seq <= 3; seq++)
        nack(w, "c", seq, -1);
    fake_consume(w);
    struct eb_read read = {.kind = EB_READ_DEAD,
                           .consumer = eb_bus_consumer_id(w->bus, "c"),
                           .limit = 2,
                           .max_bytes = 1 << 20,
                           .done = read_done};
    eb_bus_read(w->bus, &read);
    assert_true(fake_read(w));
    assert_int_equal(read.dead_count, 2);
    assert_int_equal(read.dead[0]->seq, 4);
    assert_int_equal(read.dead_next, 6);
    eb_read_finish(&read);
    read.from = 6;
    read.seqs = NULL;
    eb_bus_read(w->bus, &read);
    assert_true(fake_read(w));
    assert_int_equal(read.dead_count, 1);
    assert_int_equal(read.dead_next, 0);
    eb_read_finish(&read);
    leave(a, EB_LEAVE_AGAIN);
    fake_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_is_given_up_after_its_last_delivery),
        cmocka_unit_test(term_gives_up_at_once_and_says_why),
        cmocka_unit_test(an_ack_before_the_burial_wins),
        cmocka_unit_test(a_failed_burial_is_tried_again),
        cmocka_unit_test(a_dead_letter_is_counted_with_its_commit),
        cmocka_unit_test(a_term_survives_a_restart),
        cmocka_unit_test(redrive_gives_the_dead_letter_to_its_consumer),
        cmocka_unit_test(a_redriven_dead_letter_keeps_its_key),
        cmocka_unit_test(a_redriven_dead_letter_keeps_its_key_over_a_restart),
        cmocka_unit_test(an_ack_after_a_term_forgets_its_reason),
        cmocka_unit_test(a_dead_letter_after_the_deletion_is_none),
        cmocka_unit_test(a_dead_letter_before_a_seek_is_counted),
        cmocka_unit_test(a_redrive_is_answered_when_the_broker_ends),
        cmocka_unit_test(a_seek_does_not_lose_what_was_redriven),
        cmocka_unit_test(a_burial_that_cannot_be_read_holds_up_no_other),
        cmocka_unit_test(dead_letters_that_retention_took_wait_no_more),
        cmocka_unit_test(what_is_gone_before_its_burial_is_lost),
        cmocka_unit_test(dead_letters_are_read_in_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
