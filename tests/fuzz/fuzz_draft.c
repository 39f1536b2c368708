/*
 * fuzz_draft.c - any bytes as a publisher's event: what eb_draft_from_json lets through may be stored, and
 * its frame reads back as the same event.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/event_json.h"
#include "common/text.h"
#include "common/topic.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct eb_json json, again; /* kept from input to input, as a connection does */
static struct eb_draft_memory memory, memory2;
static struct eb_buf out;
static const struct eb_event_limits limits = {.max_payload = 4096, .max_headers = 8};

static void check_draft(const struct eb_draft *draft)
{
    struct eb_error err;

    CHECK(eb_topic_check(draft->topic, draft->topic_len, &err) == 0 && draft->topic[0] != '$');
    CHECK(draft->payload_len <= limits.max_payload);
    CHECK(draft->ttl == EB_TTL_UNSET || (draft->ttl >= 0 && draft->ttl <= EB_TTL_MAX));
    CHECK(!draft->content_type || (draft->content_type_len >= 1 && draft->content_type_len <= 255 &&
                                   eb_utf8_valid(draft->content_type, draft->content_type_len)));
    if (draft->headers)
        CHECK(eb_json_parse(&again, draft->headers, draft->headers_len, &err) == 0 &&
              again.count >= 3 && again.count <= 1 + 2 * 9);
}

static void check_frame(const struct eb_draft *draft, bool array)
{
    const struct eb_event_json_style style = {.type = "event", .payload_array = array};
    struct eb_event *event = eb_event_create(draft);
    struct eb_draft back;
    struct eb_error err;

    CHECK(event);
    event->seq = 1;
    event->timestamp = 1;
    out.len = 0;
    eb_event_write_json(&out, event, &style);
    CHECK(eb_json_parse(&again, out.data, out.len, &err) == 0);
    if (!array || event->payload_utf8) {
        CHECK(eb_draft_from_json(&back, &memory2, &again, 0, true, &limits, &err) == 0);
        CHECK(back.topic_len == draft->topic_len && back.payload_len == draft->payload_len);
        CHECK(memcmp(back.payload, event->payload, back.payload_len) == 0);
        CHECK(back.has_id && memcmp(back.id, event->id, 16) == 0);
    }
    eb_event_unref(event);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct eb_error err = {.code = EB_OK};
    struct eb_draft draft;

    if (eb_json_parse(&json, (const char *)data, size, &err) < 0)
        return 0;
    if (eb_draft_from_json(&draft, &memory, &json, 0, true, &limits, &err) < 0) {
        CHECK(err.code != EB_OK && err.code != EB_INTERNAL && err.code != EB_UNAVAILABLE);
        CHECK(eb_utf8_valid(err.message, strlen(err.message)));
        return 0;
    }
    check_draft(&draft);
    check_frame(&draft, false);
    check_frame(&draft, true);
    return 0;
}
