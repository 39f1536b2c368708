/*
 * row.c - one event as a row of `log`, and the checksum that says whether it is still the same.
 *
 * The checksum covers the topic's name, not its number: so it also speaks for the row of `topics` that it
 * points to. A row is believed only after eb_row_check; what comes from the disk is never a bug.
 */
#include "broker/store/row.h"

#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/text.h"
#include "common/topic.h"

static unsigned char *put_u64(unsigned char *at, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        *at++ = (unsigned char)(value >> (8 * i));
    return at;
}

static unsigned char *put_bytes(unsigned char *at, const void *data, size_t len)
{
    at = put_u64(at, len);
    if (len)
        memcpy(at, data, len);
    return at + len;
}

uint32_t eb_row_crc_pieces(const struct eb_row *row, const char *topic, size_t topic_len)
{
    /* All but headers and payload in one piece: one call of the checksum for the usual event but one. */
    unsigned char head[3 * 8 + 16 + 8 + EB_TOPIC_MAX + 8 + EB_CONTENT_TYPE_MAX + 8];
    unsigned char *at = head;
    uint32_t crc;

    at = put_u64(at, row->seq);
    at = put_u64(at, (uint64_t)row->ts);
    at = put_u64(at, (uint64_t)row->ttl);
    memcpy(at, row->id, 16);
    at = put_bytes(at + 16, topic, topic_len);
    at = put_bytes(at, row->content_type, row->content_type_len);
    at = put_u64(at, row->headers_len);
    crc = eb_crc32c(0, head, (size_t)(at - head));
    if (row->headers_len)
        crc = eb_crc32c(crc, row->headers, row->headers_len);
    if (row->payload_len)
        crc = eb_crc32c(crc, row->payload, row->payload_len);
    return crc;
}

/* The fields of an event's row but its checksum, each by itself: the whole would be cleared first. */
static inline void set_fields(struct eb_row *row, const struct eb_event *event)
{
    bool usual = eb_row_usual_type(event);

    row->seq = event->seq;
    row->ts = event->timestamp;
    row->ttl = event->ttl;
    row->id = event->id;
    row->content_type = usual ? NULL : event->content_type;
    row->content_type_len = usual ? 0 : event->content_type_len;
    row->headers = event->headers_len ? event->headers : NULL;
    row->headers_len = event->headers_len;
    row->payload = event->payload;
    row->payload_len = event->payload_len;
}

#ifdef __x86_64__
/* The checksum of the fields where they lie. */
EB_CRC32C_STEPS static inline uint32_t crc_by_steps(const struct eb_row *row, const char *topic,
                                                    size_t topic_len)
{
    uint64_t state = UINT32_MAX, id[2];

    memcpy(id, row->id, sizeof(id));
    state = eb_crc32c_step_u64(state, row->seq);
    state = eb_crc32c_step_u64(state, (uint64_t)row->ts);
    state = eb_crc32c_step_u64(state, (uint64_t)row->ttl);
    state = eb_crc32c_step_u64(state, id[0]);
    state = eb_crc32c_step_u64(state, id[1]);
    state = eb_crc32c_step_u64(state, topic_len);
    state = eb_crc32c_step(state, topic, topic_len);
    state = eb_crc32c_step_u64(state, row->content_type_len);
    if (row->content_type_len)
        state = eb_crc32c_step(state, row->content_type, row->content_type_len);
    state = eb_crc32c_step_u64(state, row->headers_len);
    if (row->headers_len)
        state = eb_crc32c_step(state, row->headers, row->headers_len);
    return ~(uint32_t)eb_crc32c_step(state, row->payload, row->payload_len);
}

EB_CRC32C_STEPS static uint32_t row_crc_by_steps(const struct eb_row *row, const char *topic,
                                                 size_t topic_len)
{
    return crc_by_steps(row, topic, topic_len);
}

EB_CRC32C_STEPS static uint32_t event_crc_by_steps(const struct eb_event *event)
{
    struct eb_row row;

    set_fields(&row, event);
    return crc_by_steps(&row, event->topic, event->topic_len);
}

uint32_t eb_row_crc(const struct eb_row *row, const char *topic, size_t topic_len)
{
    return eb_crc32c_has_instruction() ? row_crc_by_steps(row, topic, topic_len)
                                       : eb_row_crc_pieces(row, topic, topic_len);
}
#else
static uint32_t event_crc_by_steps(const struct eb_event *event)
{
    return 0; /* never called: there is no such instruction */
}

uint32_t eb_row_crc(const struct eb_row *row, const char *topic, size_t topic_len)
{
    return eb_row_crc_pieces(row, topic, topic_len);
}
#endif

static uint32_t event_crc(const struct eb_event *event)
{
    struct eb_row row;

    if (eb_crc32c_has_instruction())
        return event_crc_by_steps(event);
    set_fields(&row, event);
    return eb_row_crc_pieces(&row, event->topic, event->topic_len);
}

void eb_row_from_event(struct eb_row *ret, const struct eb_event *event, uint32_t topic_id)
{
    set_fields(ret, event);
    ret->topic_id = topic_id;
    ret->crc = event_crc(event);
}

static int bind_text(sqlite3_stmt *stmt, int column, const char *text, size_t len)
{
    if (!text)
        return sqlite3_bind_null(stmt, column);
    return sqlite3_bind_text(stmt, column, text, (int)len, SQLITE_STATIC);
}

int eb_row_bind(sqlite3_stmt *stmt, const struct eb_row *row)
{
    int rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)row->seq);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 2, row->topic_id);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 3, row->ts);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 4, row->ttl);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob(stmt, 5, row->id, 16, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = bind_text(stmt, 6, row->content_type, row->content_type_len);
    if (rc == SQLITE_OK)
        rc = bind_text(stmt, 7, row->headers, row->headers_len);
    /* An empty blob needs a pointer: NULL would be bound as NULL. */
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob(stmt, 8, row->payload ? row->payload : "", (int)row->payload_len,
                               SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 9, row->crc);
    return rc;
}

void eb_row_result(sqlite3_context *out, const struct eb_event *event, int column)
{
    switch (column) {
    case 0:
        sqlite3_result_int64(out, (sqlite3_int64)event->seq);
        break;
    case 1:
        sqlite3_result_int64(out, event->topic_id);
        break;
    case 2:
        sqlite3_result_int64(out, event->timestamp);
        break;
    case 3:
        sqlite3_result_int64(out, event->ttl);
        break;
    case 4:
        sqlite3_result_blob(out, event->id, 16, SQLITE_STATIC);
        break;
    case 5: /* no result is NULL */
        if (!eb_row_usual_type(event))
            sqlite3_result_text(out, event->content_type, event->content_type_len, SQLITE_STATIC);
        break;
    case 6:
        if (event->headers_len)
            sqlite3_result_text(out, event->headers, (int)event->headers_len, SQLITE_STATIC);
        break;
    case 7: /* an empty blob needs a pointer, as above */
        sqlite3_result_blob(out, event->payload_len ? event->payload : "", (int)event->payload_len,
                            SQLITE_STATIC);
        break;
    default:
        sqlite3_result_int64(out, event_crc(event));
        break;
    }
}

/* A text or NULL; false if it is of another kind. */
static bool read_text(sqlite3_value *value, const char **ret, size_t *ret_len)
{
    int type = sqlite3_value_type(value);

    *ret = NULL;
    *ret_len = 0;
    if (type == SQLITE_NULL)
        return true;
    if (type != SQLITE_TEXT)
        return false;
    *ret = (const char *)sqlite3_value_text(value);
    *ret_len = (size_t)sqlite3_value_bytes(value);
    return *ret != NULL;
}

/*
 * Each column is fetched once, as a value: every sqlite3_column_* takes the connection's mutex and looks for a failed
 * allocation. Such values must not be shared by threads, and a connection of ours belongs to one at a time.
 */
int eb_row_read(sqlite3_stmt *stmt, struct eb_row *ret)
{
    sqlite3_value *value[EB_ROW_VALUES];

    for (int i = 0; i < EB_ROW_VALUES; i++)
        value[i] = sqlite3_column_value(stmt, i);
    return eb_row_from_values(value, ret);
}

int eb_row_from_values(sqlite3_value *const value[EB_ROW_VALUES], struct eb_row *ret)
{
    static const int kinds[EB_ROW_VALUES] = {
        SQLITE_INTEGER, SQLITE_INTEGER, SQLITE_INTEGER, SQLITE_INTEGER, SQLITE_BLOB, 0, 0,
        SQLITE_BLOB,    SQLITE_INTEGER};
    struct eb_row row = {.seq = (uint64_t)sqlite3_value_int64(value[0])};

    *ret = row;
    for (int i = 1; i < EB_ROW_VALUES; i++)
        if (kinds[i] != 0 && sqlite3_value_type(value[i]) != kinds[i])
            return -EBADMSG;
    if (sqlite3_value_bytes(value[4]) != 16 ||
        !read_text(value[5], &row.content_type, &row.content_type_len) ||
        !read_text(value[6], &row.headers, &row.headers_len))
        return -EBADMSG;
    sqlite3_int64 topic = sqlite3_value_int64(value[1]), crc = sqlite3_value_int64(value[8]);
    row.ts = sqlite3_value_int64(value[2]);
    row.ttl = sqlite3_value_int64(value[3]);
    if (topic < 1 || topic > UINT32_MAX || crc < 0 || crc > UINT32_MAX || row.ttl < 0 ||
        row.content_type_len > EB_CONTENT_TYPE_MAX || row.seq == 0 || row.seq >= EB_SEQ_MAX)
        return -EBADMSG;
    row.topic_id = (uint32_t)topic;
    row.crc = (uint32_t)crc;
    row.id = sqlite3_value_blob(value[4]);
    row.payload = sqlite3_value_blob(value[7]);
    row.payload_len = (size_t)sqlite3_value_bytes(value[7]);
    if (!row.id || (!row.payload && row.payload_len))
        return -EBADMSG;
    *ret = row;
    return 0;
}

int eb_row_check(const struct eb_row *row, const char *topic, size_t topic_len)
{
    if (topic_len == 0 || topic_len > EB_TOPIC_MAX || row->content_type_len > EB_CONTENT_TYPE_MAX)
        return -EBADMSG;
    return eb_row_crc(row, topic, topic_len) == row->crc ? 0 : -EBADMSG;
}

struct eb_event *eb_row_event(const struct eb_row *row, const char *topic, size_t topic_len,
                              struct eb_slab **slab)
{
    struct eb_draft draft = {
        .topic = topic,
        .topic_len = topic_len,
        .payload = row->payload,
        .payload_len = row->payload_len,
        .content_type = row->content_type,
        .content_type_len = row->content_type_len,
        .headers = row->headers,
        .headers_len = row->headers_len,
        .ttl = row->ttl,
        .has_id = true,
    };
    struct eb_event *event;

    memcpy(draft.id, row->id, sizeof(draft.id));
    event = slab ? eb_event_create_in(slab, &draft) : eb_event_create(&draft);
    if (!event)
        return NULL;
    event->seq = row->seq;
    event->timestamp = row->ts;
    event->topic_id = row->topic_id;
    return event;
}

int64_t eb_row_expires(int64_t ts, int64_t ttl)
{
    int64_t at;

    if (ttl <= 0 || __builtin_mul_overflow(ttl, (int64_t)1000, &at) ||
        __builtin_add_overflow(at, ts, &at))
        return INT64_MAX;
    return at;
}
