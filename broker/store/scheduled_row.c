/* scheduled_row.c - rows of `scheduled`: read by SQLite or below it, checked, bound. */
#include "broker/store/scheduled_row.h"

#include <errno.h>
#include <string.h>

#include "common/text.h"
#include "common/topic.h"

static unsigned char *put_le(unsigned char *at, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        *at++ = (unsigned char)(value >> (8 * i));
    return at;
}

static unsigned char *put_text(unsigned char *at, const char *text, size_t len)
{
    at = put_le(at, len);
    if (len)
        memcpy(at, text, len);
    return at + len;
}

uint32_t eb_scheduled_crc(const struct eb_scheduled_row *row)
{
    unsigned char head[4 * 8 + 16 + 8 + EB_TOPIC_MAX + 8 + EB_CONTENT_TYPE_MAX + 8], *at = head;
    const struct eb_draft *draft = &row->draft;
    uint32_t crc;

    at = put_le(at, row->place);
    at = put_le(at, (uint64_t)row->due);
    at = put_le(at, (uint64_t)row->made);
    at = put_le(at, (uint64_t)draft->ttl);
    memcpy(at, draft->id, 16);
    at = put_text(at + 16, draft->topic, draft->topic_len);
    at = put_text(at, draft->content_type, draft->content_type_len);
    at = put_le(at, draft->headers_len);
    crc = eb_crc32c(0, head, (size_t)(at - head));
    if (draft->headers_len)
        crc = eb_crc32c(crc, draft->headers, draft->headers_len);
    if (draft->payload_len)
        crc = eb_crc32c(crc, draft->payload, draft->payload_len);
    return crc;
}

/* All columns are there: do they fit their bounds and the checksum? */
static int check(const struct eb_scheduled_row *row)
{
    const struct eb_draft *draft = &row->draft;

    if (draft->ttl < 0 || draft->topic_len < 1 || draft->topic_len > EB_TOPIC_MAX ||
        draft->content_type_len > EB_CONTENT_TYPE_MAX || (!draft->payload && draft->payload_len))
        return -EBADMSG;
    return eb_scheduled_crc(row) == row->crc ? 0 : -EBADMSG;
}

static bool read_text(sqlite3_stmt *stmt, int column, const char **ret, size_t *ret_len)
{
    *ret = NULL;
    *ret_len = 0;
    if (sqlite3_column_type(stmt, column) == SQLITE_NULL)
        return true;
    if (sqlite3_column_type(stmt, column) != SQLITE_TEXT)
        return false;
    *ret = (const char *)sqlite3_column_text(stmt, column);
    *ret_len = (size_t)sqlite3_column_bytes(stmt, column);
    return *ret != NULL;
}

int eb_scheduled_row_read(sqlite3_stmt *stmt, struct eb_scheduled_row *ret)
{
    const void *id = sqlite3_column_blob(stmt, 1);
    struct eb_scheduled_row row = {
        .place = (uint64_t)sqlite3_column_int64(stmt, 0),
        .due = sqlite3_column_int64(stmt, 2),
        .made = sqlite3_column_int64(stmt, 3),
        .crc = (uint32_t)sqlite3_column_int64(stmt, 9),
        .draft = {.ttl = sqlite3_column_int64(stmt, 5), .has_id = true},
    };
    struct eb_draft *draft = &row.draft;

    ret->place = row.place;
    if (!id || sqlite3_column_bytes(stmt, 1) != 16 ||
        !read_text(stmt, 4, &draft->topic, &draft->topic_len) ||
        !read_text(stmt, 6, &draft->content_type, &draft->content_type_len) ||
        !read_text(stmt, 7, &draft->headers, &draft->headers_len) ||
        sqlite3_column_type(stmt, 8) != SQLITE_BLOB)
        return -EBADMSG;
    memcpy(draft->id, id, 16);
    draft->payload = sqlite3_column_blob(stmt, 8);
    draft->payload_len = (size_t)sqlite3_column_bytes(stmt, 8);
    if (check(&row) < 0)
        return -EBADMSG;
    *ret = row;
    return 0;
}

static bool take_text(const struct eb_value *v, const char **ret, size_t *ret_len)
{
    bool null = v->type == EB_V_NULL;

    *ret = null ? NULL : (const char *)v->data;
    *ret_len = null ? 0 : v->len;
    return null || v->type == EB_V_TEXT;
}

int eb_scheduled_row_from(const struct eb_value *c, int64_t rowid, struct eb_scheduled_row *ret)
{
    struct eb_scheduled_row row = {
        .place = (uint64_t)rowid,
        .due = c[2].i,
        .made = c[3].i,
        .crc = (uint32_t)c[9].i,
        .draft = {.ttl = c[5].i, .has_id = true},
    };
    struct eb_draft *draft = &row.draft;

    ret->place = row.place;
    if (rowid < 1 || c[1].type != EB_V_BLOB || c[1].len != 16 || c[2].type != EB_V_INT ||
        c[3].type != EB_V_INT || c[5].type != EB_V_INT || c[8].type != EB_V_BLOB ||
        c[9].type != EB_V_INT || c[9].i < 0 || c[9].i > UINT32_MAX ||
        !take_text(&c[4], &draft->topic, &draft->topic_len) ||
        !take_text(&c[6], &draft->content_type, &draft->content_type_len) ||
        !take_text(&c[7], &draft->headers, &draft->headers_len))
        return -EBADMSG;
    memcpy(draft->id, c[1].data, 16);
    draft->payload = (const char *)c[8].data;
    draft->payload_len = c[8].len;
    if (check(&row) < 0)
        return -EBADMSG;
    *ret = row;
    return 0;
}

static void bind_text(sqlite3_stmt *stmt, int column, const char *text, size_t len)
{
    if (text)
        sqlite3_bind_text(stmt, column, text, (int)len, SQLITE_STATIC);
    else
        sqlite3_bind_null(stmt, column);
}

void eb_scheduled_row_bind(sqlite3_stmt *stmt, const struct eb_scheduled_row *row)
{
    const struct eb_draft *draft = &row->draft;

    sqlite3_bind_int64(stmt, 1, (sqlite3_int64)row->place);
    sqlite3_bind_blob(stmt, 2, draft->id, 16, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 3, row->due);
    sqlite3_bind_int64(stmt, 4, row->made);
    bind_text(stmt, 5, draft->topic, draft->topic_len);
    sqlite3_bind_int64(stmt, 6, draft->ttl);
    bind_text(stmt, 7, draft->content_type, draft->content_type_len);
    bind_text(stmt, 8, draft->headers, draft->headers_len);
    sqlite3_bind_blob(stmt, 9, draft->payload_len ? draft->payload : "", (int)draft->payload_len,
                      SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 10, row->crc);
}
