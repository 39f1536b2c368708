/*
 * bench_json.c - the strict reader and writer against json-c, turn by turn in the same run, so that what
 * counts is the ratio and not the day's clock speed. How to run it: docs/decisions/0002.
 */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/event_json.h"

#define ROUNDS 5

struct job {
    const char *name;
    char *text;
    size_t len;
    unsigned turns;
};

static volatile size_t sink; /* keeps results alive */
static const struct eb_event_limits limits = {.max_payload = 1 << 20, .max_headers = 64};

/* ---- one turn each ---- */

static void ours_parse(const struct job *job, struct eb_json *json, struct eb_draft_memory *memory)
{
    struct eb_error err;

    if (eb_json_parse(json, job->text, job->len, &err) < 0)
        abort();
    sink += json->count;
}

/* What a publish needs: type, id, data checked into a draft, ttl. */
static void ours_publish(const struct job *job, struct eb_json *json,
                         struct eb_draft_memory *memory)
{
    struct eb_draft draft;
    struct eb_error err;
    int64_t id, ttl;

    if (eb_json_parse(json, job->text, job->len, &err) < 0)
        abort();
    uint32_t data = eb_json_member(json, 0, "data");
    if (!eb_json_member(json, 0, "type") ||
        !eb_json_int64(json, eb_json_member(json, 0, "id"), &id) ||
        eb_ttl_from_json(&ttl, json, eb_json_member(json, 0, "ttl"), &err) < 0 ||
        eb_draft_from_json(&draft, memory, json, data, false, &limits, &err) < 0)
        abort();
    sink += draft.payload_len + (size_t)id;
}

static struct json_object *jsonc_read(const struct job *job, struct json_tokener *tokener)
{
    json_tokener_reset(tokener);
    struct json_object *root = json_tokener_parse_ex(tokener, job->text, (int)job->len);
    if (!root)
        abort();
    return root;
}

static void jsonc_parse(const struct job *job, struct json_tokener *tokener)
{
    struct json_object *root = jsonc_read(job, tokener);

    sink += json_object_get_type(root);
    json_object_put(root);
}

static void jsonc_publish(const struct job *job, struct json_tokener *tokener)
{
    struct json_object *root = jsonc_read(job, tokener), *data, *value;

    if (!json_object_object_get_ex(root, "type", &value) ||
        !json_object_object_get_ex(root, "id", &value))
        abort();
    sink += (size_t)json_object_get_int64(value);
    json_object_object_get_ex(root, "ttl", &value);
    if (!json_object_object_get_ex(root, "data", &data) ||
        !json_object_object_get_ex(data, "topic", &value))
        abort();
    sink += (size_t)json_object_get_string_len(value);
    if (!json_object_object_get_ex(data, "payload", &value))
        abort();
    sink += (size_t)json_object_get_string_len(value);
    json_object_object_get_ex(data, "content_type", &value);
    json_object_object_get_ex(data, "message_id", &value);
    json_object_object_get_ex(data, "headers", &value);
    json_object_object_get_ex(data, "payload_encoding", &value);
    json_object_put(root);
}

/* ---- the race ---- */

static void race(const struct job *job, bool publish)
{
    double best_ours = 1e9, best_jsonc = 1e9;
    struct json_tokener *tokener = json_tokener_new();
    struct eb_draft_memory memory;
    struct eb_json json;

    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    eb_json_init(&json);
    eb_draft_memory_init(&memory);
    for (int round = 0; round < ROUNDS; round++) {
        int64_t start = eb_mono_us();
        for (unsigned i = 0; i < job->turns; i++)
            (publish ? ours_publish : ours_parse)(job, &json, &memory);
        double ours = (double)(eb_mono_us() - start) * 1000 / job->turns;
        start = eb_mono_us();
        for (unsigned i = 0; i < job->turns; i++)
            (publish ? jsonc_publish : jsonc_parse)(job, tokener);
        double jsonc = (double)(eb_mono_us() - start) * 1000 / job->turns;
        best_ours = ours < best_ours ? ours : best_ours;
        best_jsonc = jsonc < best_jsonc ? jsonc : best_jsonc;
    }
    printf("%-28s %8zu B  ours %10.1f ns %7.2f GB/s   json-c %10.1f ns   ratio %5.1f\n", job->name,
           job->len, best_ours, (double)job->len / best_ours, best_jsonc, best_jsonc / best_ours);
    eb_draft_memory_finish(&memory);
    eb_json_finish(&json);
    json_tokener_free(tokener);
}

static void race_writer(const char *name, const struct eb_draft *draft, unsigned turns)
{
    const struct eb_event_json_style style = {.type = "event"};
    double best_ours = 1e9, best_jsonc = 1e9;
    struct eb_event *event = eb_event_create(draft);
    struct eb_buf out = EB_BUF_INIT;
    size_t len = 0;

    if (!event)
        abort();
    event->seq = 123456;
    event->timestamp = 1700000000123;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t start = eb_mono_us();
        for (unsigned i = 0; i < turns; i++) {
            out.len = 0;
            eb_event_write_json(&out, event, &style);
            len = out.len;
        }
        double ours = (double)(eb_mono_us() - start) * 1000 / turns;
        start = eb_mono_us();
        for (unsigned i = 0; i < turns; i++) {
            struct json_object *root = json_object_new_object(), *meta = json_object_new_object();
            json_object_object_add(root, "type", json_object_new_string("event"));
            json_object_object_add(root, "seq", json_object_new_int64((int64_t)event->seq));
            json_object_object_add(
                root, "message_id",
                json_object_new_string_len("00000000-0000-0000-0000-000000000000", 36));
            json_object_object_add(root, "topic",
                                   json_object_new_string_len(event->topic, event->topic_len));
            json_object_object_add(
                root, "payload",
                json_object_new_string_len(event->payload, (int)event->payload_len));
            json_object_object_add(meta, "timestamp", json_object_new_int64(event->timestamp));
            json_object_object_add(meta, "content_type",
                                   json_object_new_string(event->content_type));
            json_object_object_add(root, "metadata", meta);
            sink += strlen(json_object_to_json_string_ext(
                root, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
            json_object_put(root);
        }
        double jsonc = (double)(eb_mono_us() - start) * 1000 / turns;
        best_ours = ours < best_ours ? ours : best_ours;
        best_jsonc = jsonc < best_jsonc ? jsonc : best_jsonc;
    }
    printf("%-28s %8zu B  ours %10.1f ns %7.2f GB/s   json-c %10.1f ns   ratio %5.1f\n", name, len,
           best_ours, (double)len / best_ours, best_jsonc, best_jsonc / best_ours);
    eb_buf_finish(&out);
    eb_event_unref(event);
}

/* @head, then @unit until there are @size bytes of it, then @tail. */
static char *build(const char *head, const char *unit, size_t size, const char *tail,
                   size_t *ret_len)
{
    struct eb_buf buf = EB_BUF_INIT;
    size_t units = size / strlen(unit);

    eb_buf_str(&buf, head);
    for (size_t i = 0; i < units; i++)
        eb_buf_str(&buf, unit);
    eb_buf_str(&buf, tail);
    if (eb_buf_failed(&buf))
        abort();
    *ret_len = buf.len;
    return buf.data;
}

int main(void)
{
    static const char publish_head[] =
        "{\"type\":\"publish\",\"id\":17,\"data\":{\"topic\":\"user.created\",\"payload\":\"";
    static const char publish_tail[] = "\",\"content_type\":\"application/json\"},\"ttl\":3600}";
    static const struct {
        const char *name, *head, *unit, *tail;
        size_t size;
        unsigned turns;
        bool publish;
    } cases[] = {
        {"publish, small", publish_head, "hello wo", publish_tail, 40, 200000, true},
        {"publish, JSON in payload", publish_head, "{\\\"id\\\":1}", publish_tail, 200, 100000,
         true},
        {"publish, 64 KiB ASCII", publish_head, "0123456789abcdef", publish_tail, 65536, 1000,
         true},
        {"publish, 64 KiB Cyrillic", publish_head, "\xd0\xbf\xd1\x80\xd0\xb8", publish_tail, 65536,
         500, true},
        {"publish, 64 KiB \\u", publish_head, "\\u0416", publish_tail, 65536, 500, true},
        {"reader, numbers", "[0", ",12345", "]", 65536, 200, false},
        {"reader, small objects", "[0", ",{\"a\":\"b\",\"c\":null}", "]", 65536, 200, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct job job = {.name = cases[i].name, .turns = cases[i].turns};
        job.text = build(cases[i].head, cases[i].unit, cases[i].size, cases[i].tail, &job.len);
        race(&job, cases[i].publish);
        free(job.text);
    }
    struct eb_draft draft = {.topic = "user.created", .topic_len = 12, .ttl = EB_TTL_UNSET};
    draft.payload = build("", "hello wo", 128, "", &draft.payload_len);
    race_writer("writer, 128 B payload", &draft, 200000);
    free((char *)draft.payload);
    draft.payload = build("", "0123456789abcdef", 65536, "", &draft.payload_len);
    race_writer("writer, 64 KiB payload", &draft, 1000);
    free((char *)draft.payload);
    draft.payload = build("", "{\"id\":1}\n", 65536, "", &draft.payload_len);
    race_writer("writer, 64 KiB with escapes", &draft, 500);
    free((char *)draft.payload);
    return 0;
}
