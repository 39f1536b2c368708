/*
 * test_event.c - an event holds its own bytes, shares its encodings, and headers keep their limits.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/event.h"
#include "common/uuid.h"

static struct eb_event *make(const char *payload, size_t len)
{
    struct eb_draft draft = {.topic = "a.b",
                             .topic_len = 3,
                             .payload = payload,
                             .payload_len = len,
                             .ttl = EB_TTL_UNSET};
    struct eb_event *event = eb_event_create(&draft);

    assert_non_null(event);
    return event;
}

/* ---- events ---- */

/* The event outlives what the draft pointed to; every text has a NUL behind it. */
static void event_holds_its_own_bytes(void **state)
{
    char topic[] = "user.created", payload[] = "a\0b", type[] = "application/json",
         headers[] = "{\"k\":\"v\"}";
    struct eb_draft draft = {.topic = topic,
                             .topic_len = 12,
                             .payload = payload,
                             .payload_len = 3,
                             .content_type = type,
                             .content_type_len = 16,
                             .headers = headers,
                             .headers_len = 9,
                             .ttl = 60,
                             .has_id = true};
    memset(draft.id, 7, sizeof(draft.id));
    struct eb_event *event = eb_event_create(&draft);

    assert_non_null(event);
    memset(topic, 'x', 12);
    memset(payload, 'x', 3);
    memset(type, 'x', 16);
    memset(headers, 'x', 9);
    assert_string_equal(event->topic, "user.created");
    assert_int_equal(event->topic_len, 12);
    assert_memory_equal(event->payload, "a\0b", 4);
    assert_int_equal(event->payload_len, 3);
    assert_string_equal(event->content_type, "application/json");
    assert_string_equal(event->headers, "{\"k\":\"v\"}");
    assert_int_equal(event->headers_len, 9);
    assert_int_equal(event->ttl, 60);
    assert_int_equal(event->id[15], 7);
    assert_true(event->payload_utf8);
    assert_true(event->seq == 0 && event->timestamp == 0);
    assert_true(eb_event_size(event) >= sizeof(*event) + 12 + 3 + 16 + 9);
    eb_event_unref(event);
    eb_event_unref(NULL);
}

/* What the publisher did not say: text/plain, no headers, an empty payload may be NULL. */
static void event_has_defaults(void **state)
{
    struct eb_event *event = make(NULL, 0);

    assert_string_equal(event->content_type, "text/plain");
    assert_int_equal(event->content_type_len, 10);
    assert_int_equal(event->headers_len, 0);
    assert_int_equal(event->payload_len, 0);
    assert_true(event->payload_utf8);
    assert_int_equal(event->ttl, 0);
    eb_event_unref(event);
    event = make("\xff", 1);
    assert_false(event->payload_utf8);
    eb_event_unref(event);
}

/* An event expires ttl seconds after its timestamp, without overflow, and never when ttl is 0. */
static void event_expires_by_its_ttl(void **state)
{
    struct eb_event *event = make("x", 1);

    event->timestamp = 1000500;
    assert_false(eb_event_expired(event, INT64_MAX));
    event->ttl = 2;
    assert_false(eb_event_expired(event, 1002499));
    assert_true(eb_event_expired(event, 1002500));
    assert_false(eb_event_expired(event, 0)); /* the clock jumped back */
    event->ttl = EB_TTL_MAX;
    assert_false(eb_event_expired(event, INT64_MAX / 2));
    event->ttl = INT64_MAX;
    assert_false(eb_event_expired(event, INT64_MAX));
    eb_event_unref(event);
}

/* ---- the cache of encodings ---- */

/* The first frame stays; a later one is given up, and its maker gets the first. */
static void first_frame_stays(void **state)
{
    struct eb_event *event = make("x", 1);
    struct eb_frame *first = eb_frame_from("1", 1), *second = eb_frame_from("2", 1);

    assert_null(eb_event_cached(event, EB_ENC_SSE));
    assert_ptr_equal(eb_event_cache_frame(event, EB_ENC_SSE, first), first);
    assert_int_equal(atomic_load(&first->refs), 2);
    assert_ptr_equal(eb_event_cache_frame(event, EB_ENC_SSE, second), first);
    assert_ptr_equal(eb_event_cached(event, EB_ENC_SSE), first);
    assert_int_equal(atomic_load(&first->refs), 4);
    assert_null(eb_event_cached(event, EB_ENC_WS_JSON));
    eb_event_ref(event);
    eb_event_unref(event);
    assert_int_equal(atomic_load(&first->refs), 4);
    eb_event_unref(event); /* drops the cache's reference */
    assert_int_equal(atomic_load(&first->refs), 3);
    eb_frame_unref(first);
    eb_frame_unref(first);
    eb_frame_unref(first);
}

struct racer {
    struct eb_event *event;
    struct eb_frame *got;
    pthread_barrier_t *start;
};

static void *race(void *arg)
{
    struct racer *racer = arg;

    pthread_barrier_wait(racer->start);
    racer->got = eb_event_cached(racer->event, EB_ENC_WS_JSON);
    if (!racer->got)
        racer->got = eb_event_cache_frame(racer->event, EB_ENC_WS_JSON, eb_frame_from("f", 1));
    eb_event_unref(racer->event);
    return NULL;
}

/* Threads that make the same encoding at once all end with one and the same frame. */
static void racing_makers_share_one_frame(void **state)
{
    enum { THREADS = 4, ROUNDS = 100 };

    for (int round = 0; round < ROUNDS; round++) {
        struct eb_event *event = make("x", 1);
        struct racer racers[THREADS];
        pthread_t threads[THREADS];
        pthread_barrier_t start;

        pthread_barrier_init(&start, NULL, THREADS);
        for (int i = 0; i < THREADS; i++) {
            racers[i] = (struct racer){eb_event_ref(event), NULL, &start};
            assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
        }
        eb_event_unref(event);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < THREADS; i++)
            assert_ptr_equal(racers[i].got, racers[0].got);
        assert_int_equal(atomic_load(&racers[0].got->refs), THREADS);
        for (int i = 0; i < THREADS; i++)
            eb_frame_unref(racers[i].got);
        pthread_barrier_destroy(&start);
    }
}

/* ---- message ids ---- */

/* A UUID in any usual form is itself; other text becomes its UUIDv5 and is foreign; the rest is refused. */
static void message_ids_are_taken_or_derived(void **state)
{
    static const char *const forms[] = {
        "0190f5fe-7c00-7abc-8def-0123456789ab", "0190F5FE-7C00-7ABC-8DEF-0123456789AB",
        "0190f5fe7c007abc8def0123456789ab", "{0190f5fe-7c00-7abc-8def-0123456789ab}",
        "urn:uuid:0190f5fe-7c00-7abc-8def-0123456789ab"};
    char text[EB_UUID_TEXT + 1], long_id[256];
    struct eb_error err;
    uint8_t id[16], want[16];
    bool foreign;

    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        assert_int_equal(eb_message_id_parse(id, &foreign, forms[i], strlen(forms[i]), &err), 0);
        assert_false(foreign);
        eb_uuid_format(text, id);
        assert_string_equal(text, forms[0]);
    }
    assert_int_equal(eb_message_id_parse(id, &foreign, "order-17", 8, &err), 0);
    assert_true(foreign);
    eb_uuid_v5(want, "order-17", 8);
    assert_memory_equal(id, want, 16);
    memset(long_id, 'a', sizeof(long_id));
    assert_int_equal(eb_message_id_parse(id, &foreign, long_id, 255, &err), 0);
    assert_int_equal(eb_message_id_parse(id, &foreign, long_id, 256, &err), -1);
    assert_int_equal(err.code, EB_INVALID_MESSAGE_ID);
    assert_int_equal(eb_message_id_parse(id, &foreign, "", 0, &err), -1);
    assert_int_equal(err.code, EB_INVALID_MESSAGE_ID);
    assert_int_equal(eb_message_id_parse(id, &foreign, "\xff", 1, &err), -1);
    assert_int_equal(err.code, EB_INVALID_MESSAGE_ID);
}

/* ---- headers ---- */

static int add(struct eb_headers *headers, const char *name, const char *value,
               struct eb_error *err)
{
    return eb_headers_add(headers, name, strlen(name), value, strlen(value), err);
}

static void text_is(struct eb_headers *headers, const char *want)
{
    size_t len;
    const char *text = eb_headers_text(headers, &len);

    assert_non_null(text);
    assert_int_equal(len, strlen(want));
    assert_memory_equal(text, want, len);
}

/* In order of first appearance; the last value of a name counts; names differ by case. */
static void last_header_counts(void **state)
{
    struct eb_headers headers;
    struct eb_error err;
    size_t len = 9;

    eb_headers_init(&headers, 0);
    assert_null(eb_headers_text(&headers, &len));
    assert_int_equal(len, 0);
    assert_int_equal(add(&headers, "a", "1", &err), 0);
    assert_int_equal(add(&headers, "b", "say \"\n\"", &err), 0);
    assert_int_equal(add(&headers, "A", "", &err), 0);
    assert_int_equal(add(&headers, "a", "longer than before", &err), 0);
    text_is(&headers, "{\"a\":\"longer than before\",\"b\":\"say \\\"\\n\\\"\",\"A\":\"\"}");
    assert_int_equal(headers.count, 3);
    assert_int_equal(headers.bytes, 1 + 18 + 1 + 7 + 1);
    assert_int_equal(add(&headers, "a", "", &err), 0); /* also after the text was given */
    text_is(&headers, "{\"a\":\"\",\"b\":\"say \\\"\\n\\\"\",\"A\":\"\"}");
    eb_headers_reset(&headers, 0);
    assert_null(eb_headers_text(&headers, &len));
    eb_headers_finish(&headers);
}

/* A publisher's message-id is left out in any case of letters; the broker's own does not count. */
static void message_id_header_is_the_brokers(void **state)
{
    struct eb_headers headers;
    struct eb_error err;

    eb_headers_init(&headers, 1);
    assert_int_equal(add(&headers, "message-id", "mine", &err), 0);
    assert_int_equal(add(&headers, "Message-ID", "mine", &err), 0);
    assert_int_equal(add(&headers, "k", "v", &err), 0);
    assert_int_equal(headers.count, 1);
    assert_int_equal(headers.bytes, 2);
    assert_int_equal(eb_headers_set_message_id(&headers, "order-17", 8), 0);
    assert_int_equal(eb_headers_set_message_id(&headers, "order-18", 8), 0);
    assert_int_equal(add(&headers, "MESSAGE-id", "mine", &err), 0);
    assert_int_equal(headers.count, 1);
    assert_int_equal(headers.bytes, 2);
    text_is(&headers, "{\"k\":\"v\",\"message-id\":\"order-18\"}");
    eb_headers_finish(&headers);
}

/* The count and the 16 KiB are bounds that may be reached and not passed; replacing stays allowed at them. */
static void header_limits_hold(void **state)
{
    static char value[EB_HEADERS_MAX_BYTES + 1];
    struct eb_headers headers;
    struct eb_error err;
    char name[16];

    memset(value, 'v', sizeof(value));
    eb_headers_init(&headers, 1000); /* no more than the protocol's */
    for (int i = 0; i < EB_HEADERS_MAX_COUNT; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(add(&headers, name, "v", &err), 0);
    }
    assert_int_equal(add(&headers, "one-more", "v", &err), -1);
    assert_int_equal(err.code, EB_LIMIT_EXCEEDED);
    assert_int_equal(add(&headers, "n7", "again", &err), 0);
    assert_int_equal(eb_headers_set_message_id(&headers, "x", 1), 0);
    eb_headers_reset(&headers, 3);
    assert_int_equal(add(&headers, "a", "", &err), 0);
    assert_int_equal(eb_headers_add(&headers, "b", 1, value, EB_HEADERS_MAX_BYTES - 2, &err), 0);
    assert_int_equal(add(&headers, "c", "", &err), -1);
    assert_int_equal(err.code, EB_LIMIT_EXCEEDED);
    eb_headers_reset(&headers, 3);
    assert_int_equal(add(&headers, "", "v", &err), -1);
    assert_int_equal(err.code, EB_INVALID_REQUEST);
    assert_int_equal(add(&headers, "a\xff", "v", &err), -1);
    assert_int_equal(err.code, EB_INVALID_REQUEST);
    assert_int_equal(add(&headers, "a", "\xc3", &err), -1);
    assert_int_equal(err.code, EB_INVALID_REQUEST);
    assert_int_equal(headers.count, 0);
    eb_headers_finish(&headers);
}

/* A name given again and again costs no memory, and what is in use survives the sweeping. */
static void repeated_headers_stay_small(void **state)
{
    struct eb_headers headers;
    struct eb_error err;
    struct eb_buf got = EB_BUF_INIT;
    size_t len;

    eb_headers_init(&headers, 0);
    for (int i = 0; i < 200000; i++) {
        char name[16], value[32];
        snprintf(name, sizeof(name), "n%d", i % EB_HEADERS_MAX_COUNT);
        snprintf(value, sizeof(value), "value %d", i);
        assert_int_equal(add(&headers, name, value, &err), 0);
    }
    assert_true(headers.raw.cap <= 8 * EB_HEADERS_MAX_BYTES);
    assert_int_equal(headers.bytes, headers.live);
    const char *text = eb_headers_text(&headers, &len);
    assert_true(eb_headers_get(text, len, "n63", &got)); /* 199,999 = 63 mod 64 */
    assert_int_equal(got.len, 12);
    assert_memory_equal(got.data, "value 199999", 12);
    eb_buf_finish(&got);
    eb_headers_finish(&headers);
}

/* A header is found by its whole name and given unescaped. */
static void header_is_found_unescaped(void **state)
{
    static const char text[] = "{\"a\":\"1\",\"quote\\\"\":\"\\u0000\\n\\\\\"}";
    struct eb_buf out = EB_BUF_INIT;

    assert_true(eb_headers_get(text, strlen(text), "quote\"", &out));
    assert_int_equal(out.len, 3);
    assert_memory_equal(out.data, "\0\n\\", 3);
    assert_true(eb_headers_get(text, strlen(text), "a", &out)); /* appended */
    assert_int_equal(out.len, 4);
    assert_false(eb_headers_get(text, strlen(text), "A", &out));
    assert_false(eb_headers_get(NULL, 0, "a", &out));
    assert_false(eb_headers_get("{", 1, "a", &out));
    eb_buf_finish(&out);
}

/* ---- memory of many ---- */

#define SHARERS 5000u

static struct eb_event *make_in(struct eb_slab **slab, unsigned n, size_t len)
{
    char topic[16], payload[2000];
    struct eb_draft draft = {.topic = topic, .payload = payload, .payload_len = len};

    memset(payload, (int)n, sizeof(payload));
    draft.topic_len = (size_t)snprintf(topic, sizeof(topic), "t.%u", n);
    struct eb_event *event = eb_event_create_in(slab, &draft);
    assert_non_null(event);
    event->seq = n;
    return event;
}

static void is_whole(const struct eb_event *event)
{
    char topic[16];

    snprintf(topic, sizeof(topic), "t.%u", (unsigned)event->seq);
    assert_string_equal(event->topic, topic);
    for (uint32_t i = 0; i < event->payload_len; i++)
        assert_int_equal((char)event->seq, event->payload[i]);
    assert_int_equal(0, event->payload[event->payload_len]);
}

static void *give_up(void *arg)
{
    struct eb_event **events = arg;

    for (unsigned i = 0; i < SHARERS; i += 2) {
        is_whole(events[i]);
        eb_event_unref(events[i]);
    }
    return NULL;
}

/* Events that share memory are each whole as long as they are held, whoever goes first, and by whichever thread. */
static void events_share_memory(void **state)
{
    static struct eb_event *events[SHARERS];
    struct eb_slab *slab = NULL;
    pthread_t other;

    for (unsigned i = 0; i < SHARERS; i++)
        events[i] = make_in(&slab, i, i % 17 == 0 ? 2000 : i * 7 % 300);
    assert_int_equal(0, pthread_create(&other, NULL, give_up, events));
    for (unsigned i = 1; i < SHARERS; i += 2) {
        is_whole(events[i]);
        if (i % 500 != 1)
            eb_event_unref(events[i]);
    }
    pthread_join(other, NULL);
    for (unsigned i = SHARERS; i < SHARERS * 2; i++) { /* what was given up is used again */
        struct eb_event *event = make_in(&slab, i, i % 300);
        is_whole(event);
        eb_event_unref(event);
    }
    eb_slab_drop(slab);
    for (unsigned i = 1; i < SHARERS; i += 500) {
        is_whole(events[i]);
        eb_event_unref(events[i]);
    }
}

/* A page's memory serves the next page: no allocation once its events are gone. */
static void memory_of_a_page_is_used_again(void **state)
{
    struct eb_slab *slab = NULL, *first = NULL;
    struct eb_event *events[512];

    for (unsigned page = 0; page < 50; page++) {
        for (unsigned i = 0; i < 512; i++)
            events[i] = make_in(&slab, i, 128);
        first = page ? first : slab;
        assert_ptr_equal(first, slab);
        for (unsigned i = 0; i < 512; i++)
            eb_event_unref(events[i]);
    }
    eb_slab_drop(slab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"event/holds_its_own_bytes", event_holds_its_own_bytes},
        {"event/has_defaults", event_has_defaults},
        {"event/expires_by_its_ttl", event_expires_by_its_ttl},
        {"frames/first_stays", first_frame_stays},
        {"frames/racing_makers_share_one", racing_makers_share_one_frame},
        {"message_id/taken_or_derived", message_ids_are_taken_or_derived},
        {"headers/last_counts", last_header_counts},
        {"headers/message_id_is_the_brokers", message_id_header_is_the_brokers},
        {"headers/limits_hold", header_limits_hold},
        {"headers/repeated_stay_small", repeated_headers_stay_small},
        {"headers/found_unescaped", header_is_found_unescaped},
        {"slab/events_share_memory", events_share_memory},
        {"slab/page_is_used_again", memory_of_a_page_is_used_again},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
