/*
 * bin.c - the binary protocol's records (docs/binary.md), read within their bounds and written.
 *
 * (BN1) Every length is held against what is left before anything is read: a reader that ran short gives zeros
 *       from then on and is asked once at the end.
 * (BN2) From a client a record must be exactly what its header says: no unknown flag, nothing left over.
 */
#include "common/bin.h"

#include <string.h>

enum {
    SUBSCRIBE_SEQ = 0x01,
    SUBSCRIBE_EPOCH = 0x02,
    SUBSCRIBE_PENDING = 0x04,

    PUBLISHED_DUPLICATE = 0x01,
    ERROR_INDEX = 0x01,
    GAP_EPOCH = 0x01,

    OPTION_NEEDED = 0x80,
};

/* ---- little-endian ---- */

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static char *put16(char *p, unsigned value)
{
    p[0] = (char)value;
    p[1] = (char)(value >> 8);
    return p + 2;
}

static char *put32(char *p, uint32_t value)
{
    return put16(put16(p, value), value >> 16);
}

static char *put64(char *p, uint64_t value)
{
    return put32(put32(p, (uint32_t)value), (uint32_t)(value >> 32));
}

static char *put_bytes(char *p, const void *data, size_t len)
{
    if (len > 0)
        memcpy(p, data, len);
    return p + len;
}

static char *put_header(char *p, size_t body, unsigned kind, unsigned flags, unsigned small)
{
    p = put32(p, (uint32_t)body);
    *p++ = (char)kind;
    *p++ = (char)flags;
    return put16(p, small);
}

/* ---- taking a body apart ---- */

struct body {
    const uint8_t *at, *end;
    bool cut; /* BN1 */
};

static struct body body_of(const struct eb_bin_record *record)
{
    return (struct body){record->body, record->body + record->len, false};
}

static size_t left(const struct body *body)
{
    return (size_t)(body->end - body->at);
}

static const uint8_t *take(struct body *body, size_t len)
{
    const uint8_t *at = body->at;

    if (body->cut || len > left(body)) {
        body->cut = true;
        return NULL;
    }
    body->at += len;
    return at;
}

static unsigned take8(struct body *body)
{
    const uint8_t *at = take(body, 1);
    return at ? *at : 0;
}

static unsigned take16(struct body *body)
{
    const uint8_t *at = take(body, 2);
    return at ? get16(at) : 0;
}

static uint32_t take32(struct body *body)
{
    const uint8_t *at = take(body, 4);
    return at ? get32(at) : 0;
}

static uint64_t take64(struct body *body)
{
    const uint8_t *at = take(body, 8);
    return at ? get64(at) : 0;
}

static struct eb_bin_bytes take_bytes(struct body *body, size_t len)
{
    const uint8_t *at = take(body, len);
    return (struct eb_bin_bytes){(const char *)at, at ? len : 0};
}

static struct eb_bin_bytes take_short(struct body *body)
{
    return take_bytes(body, take8(body));
}

/* The headers, each held against the bytes; what comes back begins behind their number. */
static struct eb_bin_bytes take_headers(struct body *body)
{
    unsigned count = take16(body);
    const uint8_t *begin = body->at;

    while (count-- > 0 && !body->cut) {
        size_t name = take16(body), value = take16(body);
        take(body, name + value);
    }
    return (struct eb_bin_bytes){(const char *)begin, (size_t)(body->at - begin)};
}

/* Passes over options; the first tag that must be known is kept, there is none that is. -1: they do not fit. */
static int take_options(struct body *body, unsigned flags, unsigned *ret_needed)
{
    if (!(flags & EB_BIN_PART_OPTIONS))
        return 0;
    size_t len = take16(body);
    const uint8_t *begin = take(body, len);
    if (!begin)
        return -1;
    struct body inner = {begin, begin + len, false};
    while (inner.at < inner.end) {
        unsigned tag = take8(&inner);
        take(&inner, take16(&inner));
        if (inner.cut)
            return -1;
        if ((tag & OPTION_NEEDED) && *ret_needed == 0)
            *ret_needed = tag;
    }
    return 0;
}

/* ---- records ---- */

int eb_bin_next(const uint8_t *message, size_t len, size_t *at, struct eb_bin_record *ret)
{
    const uint8_t *p = message + *at;
    size_t rest = len - *at;

    if (rest == 0)
        return 0;
    if (rest < EB_BIN_HEADER || get32(p) > rest - EB_BIN_HEADER)
        return -1;
    *ret = (struct eb_bin_record){
        .kind = p[4],
        .flags = p[5],
        .small = get16(p + 6),
        .body = p + EB_BIN_HEADER,
        .len = get32(p),
    };
    *at += EB_BIN_HEADER + ret->len;
    return 1;
}

uint64_t eb_bin_request_id(const struct eb_bin_record *record)
{
    return record->kind != EB_BIN_MEMBER && record->len >= 8 ? get64(record->body) : 0;
}

static const char *kind_name(unsigned kind)
{
    static const char *const names[] = {
        [EB_BIN_MEMBER] = "member",
        [EB_BIN_PUBLISH] = "publish",
        [EB_BIN_PUBLISH_BATCH] = "publish_batch",
        [EB_BIN_SUBSCRIBE] = "subscribe",
        [EB_BIN_UNSUBSCRIBE] = "unsubscribe",
        [EB_BIN_ACK] = "ack",
        [EB_BIN_PING] = "ping",
        [EB_BIN_JSON_REQUEST] = "json_request",
    };
    return kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "record";
}

static int bad_flags(const struct eb_bin_record *record, struct eb_error *err)
{
    return eb_fail(err, EB_INVALID_REQUEST, "the flags 0x%02x of a %s are not allowed",
                   record->flags, kind_name(record->kind));
}

/* BN2, once all of @record was taken. 0 or -1. */
static int judge(const struct eb_bin_record *record, const struct body *body, unsigned needed,
                 struct eb_error *err)
{
    const char *name = kind_name(record->kind);

    if (body->cut)
        return eb_fail(err, EB_INVALID_REQUEST, "a %s of %zu bytes is too short for its parts",
                       name, record->len);
    if (left(body) > 0)
        return eb_fail(err, EB_INVALID_REQUEST, "a %s has %zu bytes too many", name, left(body));
    if (needed)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "option 0x%02x of a %s must be known and is not; this broker is too old",
                       needed, name);
    return 0;
}

/* ---- events ---- */

static void take_parts(struct body *body, unsigned flags, struct eb_bin_event *ret)
{
    if (flags & EB_BIN_PART_UUID)
        ret->uuid = take(body, 16);
    if (flags & EB_BIN_PART_ID_TEXT)
        ret->id_text = take_short(body);
    if (flags & EB_BIN_PART_TTL) {
        ret->has_ttl = true;
        ret->ttl = take64(body);
    }
    if (flags & EB_BIN_PART_CONTENT_TYPE)
        ret->content_type = take_short(body);
    if (flags & EB_BIN_PART_HEADERS)
        ret->headers = take_headers(body);
    if (flags & EB_BIN_PART_PATTERN)
        ret->pattern = take_short(body);
}

int eb_bin_read_event(const struct eb_bin_record *record, struct eb_bin_event *ret,
                      struct eb_error *err)
{
    bool delivered = record->kind == EB_BIN_EVENT;
    unsigned flags = record->flags, needed = 0;
    struct body body = body_of(record);

    memset(ret, 0, sizeof(*ret));
    if (delivered) {
        ret->seq = take64(&body);
        ret->timestamp = take64(&body);
        ret->uuid = take(&body, 16);
        flags &= ~(unsigned)(EB_BIN_PART_UUID | EB_BIN_PART_ID_TEXT);
    } else if ((flags & ~(EB_BIN_PART_UUID | EB_BIN_PART_ID_TEXT | EB_BIN_PART_TTL |
                          EB_BIN_PART_CONTENT_TYPE | EB_BIN_PART_HEADERS | EB_BIN_PART_OPTIONS)) ||
               (flags & (EB_BIN_PART_UUID | EB_BIN_PART_ID_TEXT)) ==
                   (EB_BIN_PART_UUID | EB_BIN_PART_ID_TEXT)) {
        return bad_flags(record, err);
    }
    if (record->kind == EB_BIN_PUBLISH)
        ret->id = take64(&body);
    ret->topic = take_bytes(&body, record->small);
    if (flags)
        take_parts(&body, flags, ret);
    if (take_options(&body, flags, &needed) < 0)
        body.cut = true;
    ret->payload = take_bytes(&body, left(&body));
    return judge(record, &body, delivered ? 0 : needed, err);
}

bool eb_bin_next_header(struct eb_bin_bytes *headers, struct eb_bin_bytes *name,
                        struct eb_bin_bytes *value)
{
    const uint8_t *at = (const uint8_t *)headers->data;
    struct body body = {at, at + headers->len, false};

    if (headers->len == 0)
        return false;
    size_t name_len = take16(&body), value_len = take16(&body);
    *name = take_bytes(&body, name_len);
    *value = take_bytes(&body, value_len);
    *headers = (struct eb_bin_bytes){(const char *)body.at, left(&body)};
    return true;
}

/* ---- the other requests ---- */

/* Are the members what the batch announces? */
static int check_members(const struct eb_bin_publish_batch *batch, struct eb_error *err)
{
    struct eb_bin_record member;
    uint32_t count = 0;
    size_t at = 0;
    int rc;

    while ((rc = eb_bin_next(batch->members, batch->members_len, &at, &member)) > 0) {
        if (member.kind != EB_BIN_MEMBER)
            return eb_fail(err, EB_INVALID_REQUEST,
                           "member %u of a publish_batch is of kind 0x%02x", count, member.kind);
        count++;
    }
    if (rc < 0)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "member %u of a publish_batch reaches beyond its end", count);
    if (count != batch->count)
        return eb_fail(err, EB_INVALID_REQUEST, "a publish_batch announces %u members and has %u",
                       batch->count, count);
    return 0;
}

int eb_bin_read_publish_batch(const struct eb_bin_record *record, struct eb_bin_publish_batch *ret,
                              struct eb_error *err)
{
    struct body body = body_of(record);
    unsigned needed = 0;

    memset(ret, 0, sizeof(*ret));
    if ((record->flags & ~(EB_BIN_PART_TTL | EB_BIN_PART_OPTIONS)) || record->small != 0)
        return bad_flags(record, err);
    ret->id = take64(&body);
    ret->count = take32(&body);
    ret->has_ttl = record->flags & EB_BIN_PART_TTL;
    if (ret->has_ttl)
        ret->ttl = take64(&body);
    if (take_options(&body, record->flags, &needed) < 0)
        body.cut = true;
    ret->members_len = left(&body);
    ret->members = take(&body, ret->members_len);
    if (judge(record, &body, needed, err) < 0)
        return -1;
    return check_members(ret, err);
}

int eb_bin_read_call(const struct eb_bin_record *record, struct eb_bin_call *ret,
                     struct eb_error *err)
{
    static const uint8_t allowed[] = {
        [EB_BIN_SUBSCRIBE] =
            SUBSCRIBE_SEQ | SUBSCRIBE_EPOCH | SUBSCRIBE_PENDING | EB_BIN_PART_OPTIONS,
        [EB_BIN_UNSUBSCRIBE] = EB_BIN_PART_OPTIONS,
        [EB_BIN_ACK] = EB_BIN_PART_UUID | EB_BIN_PART_ID_TEXT | EB_BIN_PART_OPTIONS,
        [EB_BIN_PING] = EB_BIN_PART_OPTIONS,
    };
    unsigned flags = record->flags, needed = 0;
    bool subscribe = record->kind == EB_BIN_SUBSCRIBE, ack = record->kind == EB_BIN_ACK;
    bool pattern = subscribe || record->kind == EB_BIN_UNSUBSCRIBE;
    struct body body = body_of(record);

    memset(ret, 0, sizeof(*ret));
    if ((flags & ~(unsigned)allowed[record->kind]) || (!pattern && record->small != 0) ||
        (ack && (flags & EB_BIN_PART_UUID) && (flags & EB_BIN_PART_ID_TEXT)))
        return bad_flags(record, err);
    ret->id = take64(&body);
    if (pattern)
        ret->pattern = take_bytes(&body, record->small);
    ret->replay = subscribe && (flags & SUBSCRIBE_SEQ);
    if (ack || ret->replay)
        ret->seq = take64(&body);
    if (subscribe && (flags & SUBSCRIBE_EPOCH))
        ret->epoch = take(&body, 16);
    ret->pending_only = subscribe && (flags & SUBSCRIBE_PENDING);
    if (ack && (flags & EB_BIN_PART_UUID))
        ret->uuid = take(&body, 16);
    if (ack && (flags & EB_BIN_PART_ID_TEXT))
        ret->id_text = take_short(&body);
    if (take_options(&body, flags, &needed) < 0)
        body.cut = true;
    return judge(record, &body, needed, err);
}

int eb_bin_read_json(const struct eb_bin_record *record, uint64_t *ret_id,
                     struct eb_bin_bytes *ret_text, struct eb_error *err)
{
    struct body body = body_of(record);

    if (record->flags != 0 || record->small != 0)
        return bad_flags(record, err);
    *ret_id = take64(&body);
    *ret_text = take_bytes(&body, left(&body));
    return judge(record, &body, 0, err);
}

/* ---- what a broker says ---- */

static void take_batch(struct body *body, unsigned flags, struct eb_bin_answer *ret)
{
    ret->count = take32(body);
    if (flags & EB_BIN_BATCH_LIST)
        ret->seqs = take(body, (size_t)ret->count * 8);
    else
        ret->seq = take64(body);
    if (flags & EB_BIN_BATCH_UUIDS)
        ret->uuids = take(body, (size_t)ret->count * 16);
}

static void take_error(struct body *body, const struct eb_bin_record *record,
                       struct eb_bin_answer *ret)
{
    unsigned ignored = 0;

    ret->status = (uint16_t)take16(body);
    ret->code = take_bytes(body, record->small);
    ret->index = -1;
    if (record->flags & ERROR_INDEX) {
        uint32_t index = take32(body);
        ret->index = index <= INT32_MAX ? (int32_t)index : -1;
    }
    if (take_options(body, record->flags, &ignored) < 0)
        body->cut = true;
    ret->message = take_bytes(body, left(body));
}

static void take_gap(struct body *body, const struct eb_bin_record *record,
                     struct eb_bin_answer *ret)
{
    ret->from_seq = take64(body);
    ret->to_seq = take64(body);
    ret->reason = take_short(body);
    ret->count = record->small;
    for (unsigned i = 0; i < record->small; i++) {
        struct eb_bin_bytes pattern = take_short(body);
        if (i == 0)
            ret->pattern = pattern;
    }
    if (record->flags & GAP_EPOCH)
        ret->epoch = take(body, 16);
}

int eb_bin_read_answer(const struct eb_bin_record *record, struct eb_bin_answer *ret)
{
    struct body body = body_of(record);

    memset(ret, 0, sizeof(*ret));
    if (record->kind != EB_BIN_GAP)
        ret->id = take64(&body);
    switch (record->kind) {
    case EB_BIN_ACKS:
        ret->seq = take64(&body);
        ret->count = take32(&body);
        break;
    case EB_BIN_PUBLISHED:
        ret->seq = take64(&body);
        ret->uuids = take(&body, 16);
        ret->duplicate = record->flags & PUBLISHED_DUPLICATE;
        break;
    case EB_BIN_BATCH:
        take_batch(&body, record->flags, ret);
        break;
    case EB_BIN_OK:
    case EB_BIN_PONG:
        break;
    case EB_BIN_SUBSCRIBED:
        ret->seq = take64(&body);
        ret->epoch = take(&body, 16);
        break;
    case EB_BIN_ERROR:
        take_error(&body, record, ret);
        break;
    case EB_BIN_LIVE:
        ret->seq = ret->id;
        ret->id = 0;
        ret->pattern = take_bytes(&body, record->small);
        break;
    case EB_BIN_GAP:
        take_gap(&body, record, ret);
        break;
    case EB_BIN_JSON:
        ret->json = take_bytes(&body, left(&body));
        break;
    default:
        return 1;
    }
    return body.cut ? -1 : 0;
}

uint64_t eb_bin_listed_seq(const uint8_t *seqs, uint32_t i, bool *ret_duplicate)
{
    uint64_t value = get64(seqs + (size_t)i * 8);

    *ret_duplicate = value & EB_BIN_DUPLICATE;
    return value & ~EB_BIN_DUPLICATE;
}

/* ---- writing ---- */

/* Room for a whole record whose header is written; NULL when out of memory. */
static char *whole(struct eb_buf *out, size_t body, unsigned kind, unsigned flags, unsigned small)
{
    char *p = eb_buf_reserve(out, EB_BIN_HEADER + body);

    if (!p)
        return NULL;
    out->len += EB_BIN_HEADER + body;
    return put_header(p, body, kind, flags, small);
}

size_t eb_bin_begin(struct eb_buf *out, enum eb_bin_kind kind, unsigned flags, unsigned small)
{
    size_t begin = out->len;

    whole(out, 0, kind, flags, small);
    return begin;
}

void eb_bin_end(struct eb_buf *out, size_t begin)
{
    if (!eb_buf_failed(out))
        put32(out->data + begin, (uint32_t)(out->len - begin - EB_BIN_HEADER));
}

void eb_bin_u32(struct eb_buf *out, uint32_t value)
{
    char bytes[4];

    put32(bytes, value);
    eb_buf_add(out, bytes, sizeof(bytes));
}

void eb_bin_u64(struct eb_buf *out, uint64_t value)
{
    char bytes[8];

    put64(bytes, value);
    eb_buf_add(out, bytes, sizeof(bytes));
}

static void short_text(struct eb_buf *out, const char *text, size_t len)
{
    char size = (char)len;

    eb_buf_add(out, &size, 1);
    eb_buf_add(out, text, len);
}

static void write_headers(struct eb_buf *out, struct eb_bin_bytes headers)
{
    struct eb_bin_bytes rest = headers, name, value;
    unsigned count = 0;
    char bytes[2];

    while (eb_bin_next_header(&rest, &name, &value))
        count++;
    put16(bytes, count);
    eb_buf_add(out, bytes, sizeof(bytes));
    eb_buf_add(out, headers.data, headers.len);
}

void eb_bin_write_publish(struct eb_buf *out, bool member, const struct eb_bin_event *event)
{
    unsigned flags = (event->uuid ? EB_BIN_PART_UUID : 0u) |
                     (event->id_text.data ? EB_BIN_PART_ID_TEXT : 0u) |
                     (event->has_ttl ? EB_BIN_PART_TTL : 0u) |
                     (event->content_type.data ? EB_BIN_PART_CONTENT_TYPE : 0u) |
                     (event->headers.len ? EB_BIN_PART_HEADERS : 0u);
    size_t begin = eb_bin_begin(out, member ? EB_BIN_MEMBER : EB_BIN_PUBLISH, flags,
                                (unsigned)event->topic.len);

    if (!member)
        eb_bin_u64(out, event->id);
    eb_buf_add(out, event->topic.data, event->topic.len);
    if (event->uuid)
        eb_buf_add(out, event->uuid, 16);
    if (event->id_text.data)
        short_text(out, event->id_text.data, event->id_text.len);
    if (event->has_ttl)
        eb_bin_u64(out, event->ttl);
    if (event->content_type.data)
        short_text(out, event->content_type.data, event->content_type.len);
    if (event->headers.len)
        write_headers(out, event->headers);
    eb_buf_add(out, event->payload.data, event->payload.len);
    eb_bin_end(out, begin);
}

void eb_bin_write_call(struct eb_buf *out, enum eb_bin_kind kind, const struct eb_bin_call *call)
{
    bool subscribe = kind == EB_BIN_SUBSCRIBE, ack = kind == EB_BIN_ACK;
    unsigned flags =
        subscribe ? (call->replay ? SUBSCRIBE_SEQ : 0u) | (call->epoch ? SUBSCRIBE_EPOCH : 0u) |
                        (call->pending_only ? SUBSCRIBE_PENDING : 0u)
        : ack
            ? (call->uuid ? EB_BIN_PART_UUID : 0u) | (call->id_text.data ? EB_BIN_PART_ID_TEXT : 0u)
            : 0u;
    size_t begin = eb_bin_begin(out, kind, flags, (unsigned)call->pattern.len);

    eb_bin_u64(out, call->id);
    eb_buf_add(out, call->pattern.data, call->pattern.len);
    if (ack || (subscribe && call->replay))
        eb_bin_u64(out, call->seq);
    if (subscribe && call->epoch)
        eb_buf_add(out, call->epoch, 16);
    if (ack && call->uuid)
        eb_buf_add(out, call->uuid, 16);
    if (ack && call->id_text.data)
        short_text(out, call->id_text.data, call->id_text.len);
    eb_bin_end(out, begin);
}

void eb_bin_write_json(struct eb_buf *out, enum eb_bin_kind kind, uint64_t id, const char *text,
                       size_t len)
{
    char *p = whole(out, 8 + len, kind, 0, 0);

    if (p)
        put_bytes(put64(p, id), text, len);
}

void eb_bin_write_acks(struct eb_buf *out, uint64_t first_id, uint64_t first_seq, uint32_t count)
{
    char *p = whole(out, 20, EB_BIN_ACKS, 0, 0);

    if (p)
        put32(put64(put64(p, first_id), first_seq), count);
}

void eb_bin_write_published(struct eb_buf *out, uint64_t id, uint64_t seq, const uint8_t uuid[16],
                            bool duplicate)
{
    char *p = whole(out, 32, EB_BIN_PUBLISHED, duplicate ? PUBLISHED_DUPLICATE : 0, 0);

    if (p)
        put_bytes(put64(put64(p, id), seq), uuid, 16);
}

void eb_bin_write_plain(struct eb_buf *out, enum eb_bin_kind kind, uint64_t id)
{
    char *p = whole(out, 8, kind, 0, 0);

    if (p)
        put64(p, id);
}

void eb_bin_write_subscribed(struct eb_buf *out, uint64_t id, uint64_t last_seq,
                             const uint8_t epoch[16])
{
    char *p = whole(out, 32, EB_BIN_SUBSCRIBED, 0, 0);

    if (p)
        put_bytes(put64(put64(p, id), last_seq), epoch, 16);
}

void eb_bin_write_error(struct eb_buf *out, uint64_t id, const struct eb_error *err)
{
    const char *code = eb_code_name(err->code);
    size_t code_len = strlen(code), message_len = strlen(err->message);
    bool index = err->index >= 0;
    char *p = whole(out, 10 + code_len + (index ? 4 : 0) + message_len, EB_BIN_ERROR,
                    index ? ERROR_INDEX : 0, (unsigned)code_len);

    if (!p)
        return;
    p = put16(put64(p, id), (unsigned)eb_code_http(err->code));
    p = put_bytes(p, code, code_len);
    if (index)
        p = put32(p, (uint32_t)err->index);
    put_bytes(p, err->message, message_len);
}

void eb_bin_write_live(struct eb_buf *out, const char *pattern, uint64_t seq)
{
    size_t len = strlen(pattern);
    char *p = whole(out, 8 + len, EB_BIN_LIVE, 0, (unsigned)len);

    if (p)
        put_bytes(put64(p, seq), pattern, len);
}

void eb_bin_write_gap(struct eb_buf *out, uint64_t from_seq, uint64_t to_seq, const char *reason,
                      const char *const *patterns, size_t count, const uint8_t *epoch)
{
    size_t begin = eb_bin_begin(out, EB_BIN_GAP, epoch ? GAP_EPOCH : 0, (unsigned)count);

    eb_bin_u64(out, from_seq);
    eb_bin_u64(out, to_seq);
    short_text(out, reason, strlen(reason));
    for (size_t i = 0; i < count; i++)
        short_text(out, patterns[i], strlen(patterns[i]));
    if (epoch)
        eb_buf_add(out, epoch, 16);
    eb_bin_end(out, begin);
}
