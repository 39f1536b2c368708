/*
 * event.c - the event's memory and its shared encodings, message ids, and the collecting of headers.
 *
 * (E1) An event and all its texts are one allocation; nothing in it points outside but `frames`.
 * (E2) A slot of `frames` goes from NULL to a frame once and stays: whoever loses the race gives up its own.
 *      The event holds one reference of each and drops them when it goes itself.
 * (E3) Headers are kept unescaped with one entry each until their text is asked for. A name given again
 *      only changes its entry; the bytes it leaves behind are swept out once there are more of them than of
 *      those in use. So a million repeats of a name cost a million short look-ups and no more memory.
 */
#include "common/event.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/json.h"
#include "common/text.h"
#include "common/uuid.h"

#define MESSAGE_ID     "message-id"
#define MESSAGE_ID_LEN (sizeof(MESSAGE_ID) - 1)

/* ---- events ---- */

/* Copy with a NUL behind; returns the place after it. */
static char *put_text(char *at, const char **ret, const char *text, size_t len)
{
    if (len)
        memcpy(at, text, len);
    at[len] = '\0';
    *ret = at;
    return at + len + 1;
}

/* ---- memory of many ---- */

#define TEXT_ENDS  4u            /* a NUL behind each of its texts */
#define OWN_ROUND  32u           /* of events with memory of their own */
#define SLAB_BYTES (256u * 1024) /* a page of 512 events of SLAB_LARGE */
#define SLAB_LARGE 496u          /* what is larger costs more than its allocation anyway */
#define SLAB_ALIGN 16u
#define SLAB_BIAS  (1u << 30)

struct eb_slab {
    atomic_uint left; /* BIAS less the events that are gone; once dropped: the events that live */
    uint32_t given;   /* its thread's: events made since it was last empty */
    uint32_t used;    /* the same */
    _Alignas(SLAB_ALIGN) char data[];
};

void eb_slab_drop(struct eb_slab *slab)
{
    if (!slab)
        return;
    unsigned keep = SLAB_BIAS - slab->given;
    if (atomic_fetch_sub_explicit(&slab->left, keep, memory_order_acq_rel) == keep)
        free(slab);
}

static void slab_give_back(struct eb_event *event)
{
    struct eb_slab *slab = (struct eb_slab *)((char *)event - event->slab_at);

    if (atomic_fetch_sub_explicit(&slab->left, 1, memory_order_acq_rel) == 1)
        free(slab);
}

static struct eb_slab *slab_new(void)
{
    struct eb_slab *slab = malloc(SLAB_BYTES);

    if (!slab)
        return NULL;
    atomic_init(&slab->left, SLAB_BIAS);
    slab->given = 0;
    slab->used = sizeof(*slab);
    return slab;
}

/* @size bytes of *slab, or NULL. All that were made are gone: it begins anew. */
static void *slab_take(struct eb_slab **slab, size_t size)
{
    struct eb_slab *now = *slab;

    if (now && now->given &&
        atomic_load_explicit(&now->left, memory_order_acquire) == SLAB_BIAS - now->given) {
        atomic_store_explicit(&now->left, SLAB_BIAS, memory_order_relaxed);
        now->given = 0;
        now->used = sizeof(*now);
    }
    if (!now || now->used + size > SLAB_BYTES) {
        now = slab_new();
        if (!now)
            return NULL;
        eb_slab_drop(*slab);
        *slab = now;
    }
    void *at = (char *)now + now->used;
    now->used += (uint32_t)((size + SLAB_ALIGN - 1) & ~(size_t)(SLAB_ALIGN - 1));
    now->given++;
    return at;
}

/* ---- events ---- */

struct parts {
    const char *type;
    size_t type_len, headers_len, size;
};

static struct parts parts_of(const struct eb_draft *draft)
{
    struct parts parts = {
        .type = draft->content_type ? draft->content_type : EB_CONTENT_TYPE_DEFAULT,
        .type_len = draft->content_type ? draft->content_type_len : strlen(EB_CONTENT_TYPE_DEFAULT),
        .headers_len = draft->headers ? draft->headers_len : 0,
    };

    parts.size = sizeof(struct eb_event) + draft->topic_len + parts.type_len + parts.headers_len +
                 draft->payload_len + TEXT_ENDS;
    return parts;
}

static void fill_event(struct eb_event *event, const struct eb_draft *draft,
                       const struct parts *parts)
{
    char *at;

    memset(event, 0, sizeof(*event));
    atomic_init(&event->refs, 1);
    for (int i = 0; i < EB_ENC_COUNT; i++)
        atomic_init(&event->frames[i], NULL);
    if (draft->has_id)
        memcpy(event->id, draft->id, sizeof(event->id));
    event->make_id = !draft->has_id;
    event->ttl = draft->ttl == EB_TTL_UNSET ? 0 : draft->ttl;
    event->topic_len = (uint8_t)draft->topic_len;
    event->content_type_len = (uint8_t)parts->type_len;
    event->headers_len = (uint32_t)parts->headers_len;
    event->payload_len = (uint32_t)draft->payload_len;
    at = put_text(event->data, &event->topic, draft->topic, draft->topic_len);
    at = put_text(at, &event->content_type, parts->type, parts->type_len);
    at = put_text(at, &event->headers, draft->headers, parts->headers_len);
    put_text(at, &event->payload, draft->payload, draft->payload_len);
    event->payload_utf8 = draft->payload_utf8 || eb_utf8_valid(event->payload, event->payload_len);
}

/* What is allocated for an event of so many bytes: the next one in its place is often a little longer. */
static size_t room_for(size_t size)
{
    return (size + OWN_ROUND - 1) & ~(size_t)(OWN_ROUND - 1);
}

struct eb_event *eb_event_create(const struct eb_draft *draft)
{
    return eb_event_create_over(NULL, draft);
}

static void drop_frames(struct eb_event *event)
{
    for (int i = 0; i < EB_ENC_COUNT; i++)
        eb_frame_unref(atomic_load_explicit(&event->frames[i], memory_order_relaxed));
}

/* Can one of @size bytes take its place? Not when most of the memory would be idle. */
static bool makes_room(const struct eb_event *old, size_t size)
{
    size_t room = room_for(eb_event_size(old) + TEXT_ENDS);

    return old->slab_at == 0 && size <= room && room <= 2 * room_for(size) &&
           atomic_load_explicit(&old->refs, memory_order_acquire) == 1;
}

struct eb_event *eb_event_create_over(struct eb_event *old, const struct eb_draft *draft)
{
    struct parts parts = parts_of(draft);
    struct eb_event *event = old;

    if (old && makes_room(old, parts.size)) {
        drop_frames(old);
    } else {
        eb_event_unref(old);
        event = malloc(room_for(parts.size));
    }
    if (event)
        fill_event(event, draft, &parts);
    return event;
}

struct eb_event *eb_event_create_in(struct eb_slab **slab, const struct eb_draft *draft)
{
    struct parts parts = parts_of(draft);
    if (parts.size > SLAB_LARGE)
        return eb_event_create(draft);
    struct eb_event *event = slab_take(slab, parts.size);
    if (!event)
        return NULL;
    fill_event(event, draft, &parts);
    event->slab_at = (uint32_t)((char *)event - (char *)*slab);
    return event;
}

struct eb_event *eb_event_ref(struct eb_event *event)
{
    atomic_fetch_add_explicit(&event->refs, 1, memory_order_relaxed);
    return event;
}

void eb_event_unref(struct eb_event *event)
{
    if (!event)
        return;
    /* Who holds the last one shares it with nobody. */
    if (atomic_load_explicit(&event->refs, memory_order_acquire) != 1 &&
        atomic_fetch_sub_explicit(&event->refs, 1, memory_order_acq_rel) != 1)
        return;
    drop_frames(event);
    if (event->slab_at)
        slab_give_back(event);
    else
        free(event);
}

bool eb_event_expired(const struct eb_event *event, int64_t now_ms)
{
    if (event->ttl == 0 || now_ms < event->timestamp)
        return false;
    return (now_ms - event->timestamp) / 1000 >= event->ttl;
}

size_t eb_event_size(const struct eb_event *event)
{
    return sizeof(*event) + event->topic_len + event->content_type_len + event->headers_len +
           event->payload_len;
}

struct eb_frame *eb_event_cache_frame(struct eb_event *event, enum eb_encoding enc,
                                      struct eb_frame *frame)
{
    struct eb_frame *first = NULL;

    eb_frame_ref(frame); /* the caller's; the one it came with is the cache's (E2) */
    if (atomic_compare_exchange_strong_explicit(&event->frames[enc], &first, frame,
                                                memory_order_acq_rel, memory_order_acquire))
        return frame;
    eb_frame_unref(frame);
    eb_frame_unref(frame);
    return eb_frame_ref(first);
}

struct eb_frame *eb_event_cached(struct eb_event *event, enum eb_encoding enc)
{
    struct eb_frame *frame = atomic_load_explicit(&event->frames[enc], memory_order_acquire);

    return frame ? eb_frame_ref(frame) : NULL;
}

int eb_message_id_parse(uint8_t ret_id[16], bool *ret_foreign, const char *text, size_t len,
                        struct eb_error *err)
{
    uint8_t id[16];

    if (len == 0)
        return eb_fail(err, EB_INVALID_MESSAGE_ID,
                       "message id is empty; expected 1 to 255 bytes of UTF-8");
    if (len > 255)
        return eb_fail(err, EB_INVALID_MESSAGE_ID,
                       "message id has %zu bytes; expected 1 to 255 bytes of UTF-8", len);
    if (eb_uuid_parse(id, text, len)) {
        *ret_foreign = false;
    } else if (eb_utf8_valid(text, len)) {
        eb_uuid_v5(id, text, len);
        *ret_foreign = true;
    } else {
        return eb_fail(err, EB_INVALID_MESSAGE_ID, "message id is not valid UTF-8");
    }
    memcpy(ret_id, id, sizeof(id));
    return 0;
}

/* ---- headers ---- */

void eb_headers_init(struct eb_headers *headers, unsigned max_count)
{
    headers->buf = headers->raw = (struct eb_buf)EB_BUF_INIT;
    eb_headers_reset(headers, max_count);
}

void eb_headers_reset(struct eb_headers *headers, unsigned max_count)
{
    if (headers->raw.failed || headers->raw.cap > 4 * EB_HEADERS_MAX_BYTES)
        eb_buf_finish(&headers->raw);
    if (headers->buf.failed)
        eb_buf_finish(&headers->buf);
    headers->buf.len = headers->raw.len = 0;
    headers->entries = headers->count = 0;
    headers->bytes = headers->live = 0;
    headers->max_count =
        max_count && max_count < EB_HEADERS_MAX_COUNT ? max_count : EB_HEADERS_MAX_COUNT;
}

void eb_headers_finish(struct eb_headers *headers)
{
    eb_buf_finish(&headers->buf);
    eb_buf_finish(&headers->raw);
    headers->entries = headers->count = 0;
    headers->bytes = headers->live = 0;
}

static uint32_t name_hash(const char *name, size_t len)
{
    uint32_t hash = 2166136261u; /* FNV-1a; only so that most of 64 names are told apart at once */

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    return hash;
}

/* Move the bytes in use together (E3). Entries keep their order, bytes may change theirs. */
static int sweep(struct eb_headers *headers)
{
    struct eb_buf fresh = EB_BUF_INIT;

    if (!eb_buf_reserve(&fresh, headers->live + 1))
        return -1;
    for (unsigned i = 0; i < headers->entries; i++) {
        struct eb_header_entry *entry = &headers->entry[i];
        size_t at = fresh.len;
        eb_buf_add(&fresh, headers->raw.data + entry->at,
                   (size_t)entry->name_len + entry->value_len);
        entry->at = at;
    }
    eb_buf_finish(&headers->raw);
    headers->raw = fresh;
    return 0;
}

/* The entry's bytes are @name and @value from now on. -1: out of memory. */
static int set_entry(struct eb_headers *headers, struct eb_header_entry *entry, const char *name,
                     size_t name_len, const char *value, size_t value_len)
{
    struct eb_buf *raw = &headers->raw;
    size_t at = raw->len;

    eb_buf_add(raw, name, name_len);
    eb_buf_add(raw, value, value_len);
    if (eb_buf_failed(raw))
        return -1;
    headers->live += name_len + value_len;
    headers->live -= (size_t)entry->name_len + entry->value_len;
    entry->at = at;
    entry->name_len = (uint32_t)name_len;
    entry->value_len = (uint32_t)value_len;
    if (raw->len > 2 * headers->live + EB_HEADERS_MAX_BYTES)
        return sweep(headers);
    return 0;
}

/* The entry of that name, or a new, empty one (the caller has counted). */
static struct eb_header_entry *entry_for(struct eb_headers *headers, const char *name, size_t len,
                                         bool *ret_new)
{
    uint32_t hash = name_hash(name, len);

    for (unsigned i = 0; i < headers->entries; i++) {
        struct eb_header_entry *entry = &headers->entry[i];
        if (entry->hash == hash && entry->name_len == len &&
            memcmp(headers->raw.data + entry->at, name, len) == 0) {
            *ret_new = false;
            return entry;
        }
    }
    *ret_new = true;
    struct eb_header_entry *entry = &headers->entry[headers->entries];
    *entry = (struct eb_header_entry){.hash = hash};
    return entry;
}

int eb_headers_put(struct eb_headers *headers, const char *name, size_t name_len, const char *value,
                   size_t value_len, struct eb_error *err)
{
    char quoted[300];
    bool fresh;

    if (name_len == 0)
        return eb_fail(err, EB_INVALID_REQUEST, "a header has an empty name");
    if (!eb_utf8_valid(name, name_len) || !eb_utf8_valid(value, value_len))
        return eb_fail(err, EB_INVALID_REQUEST, "the header \"%s\" is not valid UTF-8",
                       eb_quote(quoted, sizeof(quoted), name, name_len));
    if (name_len > UINT32_MAX || value_len > UINT32_MAX)
        return eb_fail(err, EB_LIMIT_EXCEEDED, "a header is too large; at most 16 KiB for all");
    if (name_len == MESSAGE_ID_LEN && strncasecmp(name, MESSAGE_ID, MESSAGE_ID_LEN) == 0)
        return 0;
    struct eb_header_entry *entry = entry_for(headers, name, name_len, &fresh);
    if (fresh && headers->count >= headers->max_count)
        return eb_fail(err, EB_LIMIT_EXCEEDED, "more than %u headers", headers->max_count);
    size_t before = fresh ? 0 : (size_t)entry->name_len + entry->value_len;
    if (set_entry(headers, entry, name, name_len, value, value_len) < 0)
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    headers->entries += fresh;
    headers->count += fresh;
    headers->bytes += name_len + value_len - before;
    return 0;
}

int eb_headers_check(const struct eb_headers *headers, struct eb_error *err)
{
    if (headers->bytes > EB_HEADERS_MAX_BYTES)
        return eb_fail(err, EB_LIMIT_EXCEEDED,
                       "headers have %zu bytes in names and values; at most %d", headers->bytes,
                       EB_HEADERS_MAX_BYTES);
    return 0;
}

int eb_headers_add(struct eb_headers *headers, const char *name, size_t name_len, const char *value,
                   size_t value_len, struct eb_error *err)
{
    if (eb_headers_put(headers, name, name_len, value, value_len, err) < 0)
        return -1;
    return eb_headers_check(headers, err);
}

int eb_headers_set_message_id(struct eb_headers *headers, const char *value, size_t len)
{
    bool fresh;
    struct eb_header_entry *entry = entry_for(headers, MESSAGE_ID, MESSAGE_ID_LEN, &fresh);

    if (set_entry(headers, entry, MESSAGE_ID, MESSAGE_ID_LEN, value, len) < 0)
        return -1;
    headers->entries += fresh;
    return 0;
}

const char *eb_headers_text(struct eb_headers *headers, size_t *ret_len)
{
    struct eb_buf *buf = &headers->buf;

    *ret_len = 0;
    buf->len = 0;
    if (headers->entries == 0)
        return NULL;
    for (unsigned i = 0; i < headers->entries; i++) {
        const struct eb_header_entry *entry = &headers->entry[i];
        const char *at = headers->raw.data + entry->at;
        eb_buf_add(buf, i ? "," : "{", 1);
        eb_json_write_string(buf, at, entry->name_len);
        eb_buf_add(buf, ":", 1);
        eb_json_write_string(buf, at + entry->name_len, entry->value_len);
    }
    eb_buf_add(buf, "}", 1);
    if (eb_buf_failed(buf))
        return NULL;
    *ret_len = buf->len;
    return buf->data;
}

bool eb_headers_get(const char *headers, size_t len, const char *name, struct eb_buf *out)
{
    struct eb_error err;
    struct eb_json json;
    uint32_t tok = 0;

    if (!headers || len == 0)
        return false;
    eb_json_init(&json);
    if (eb_json_parse(&json, headers, len, &err) == 0)
        tok = eb_json_member(&json, 0, name);
    if (tok && json.tokens[tok].type != EB_JSON_STRING)
        tok = 0;
    if (tok) {
        size_t value_len;
        const char *value = eb_json_string(&json, tok, &value_len);
        eb_buf_add(out, value, value_len);
    }
    eb_json_finish(&json);
    return tok != 0;
}
