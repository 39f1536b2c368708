/*
 * row.h - one event as a row of `log`: its columns, its checksum, and the way in and out of them.
 */
#pragma once

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/event.h"

/* The columns in the order that eb_row_read and eb_row_bind expect them. */
#define EB_ROW_COLUMNS "seq, topic, ts, ttl, id, content_type, headers, payload, crc"
#define EB_ROW_INSERT  "INSERT INTO log(" EB_ROW_COLUMNS ") VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9)"

/* A row as it lies in the file. Pointers are borrowed: from a statement until its next step, or from an event. */
struct eb_row {
    uint64_t seq;
    uint32_t topic_id; /* 0: not one that can be ours */
    int64_t ts, ttl;
    const uint8_t *id;        /* 16 bytes */
    const char *content_type; /* NULL with length 0: text/plain */
    const char *headers;      /* NULL with length 0: none */
    const void *payload;      /* NULL when empty */
    size_t content_type_len, headers_len, payload_len;
    uint32_t crc; /* as stored */
};

/** What a row counts against retention_bytes: what it keeps on disk, without pages and indexes. */
#define EB_ROW_FIXED_BYTES 48
#define EB_ROW_BYTES_SQL                                                                           \
    "(48+length(payload)+ifnull(length(CAST(headers AS BLOB)),0)"                                  \
    "+ifnull(length(CAST(content_type AS BLOB)),0))"
/** Is it the content type that a row leaves out? */
static inline bool eb_row_usual_type(const struct eb_event *event)
{
    uint64_t eight, usual_eight;
    uint16_t two, usual_two;

    if (event->content_type_len != sizeof(EB_CONTENT_TYPE_DEFAULT) - 1)
        return false;
    /* Asked of each event: ten bytes are two comparisons, and no call of memcmp. */
    _Static_assert(sizeof(EB_CONTENT_TYPE_DEFAULT) - 1 == 8 + 2, "it is ten bytes");
    memcpy(&eight, event->content_type, 8);
    memcpy(&two, event->content_type + 8, 2);
    memcpy(&usual_eight, EB_CONTENT_TYPE_DEFAULT, 8);
    memcpy(&usual_two, &EB_CONTENT_TYPE_DEFAULT[8], 2);
    return eight == usual_eight && two == usual_two;
}
static inline uint64_t eb_row_bytes(const struct eb_row *row)
{
    return EB_ROW_FIXED_BYTES + row->content_type_len + row->headers_len + row->payload_len;
}

static inline uint64_t eb_row_event_bytes(const struct eb_event *event)
{
    return EB_ROW_FIXED_BYTES + (eb_row_usual_type(event) ? 0 : event->content_type_len) +
           event->headers_len + event->payload_len;
}

/** The row of an event that has its seq, timestamp and id. Borrows from it; computes the checksum. */
void eb_row_from_event(struct eb_row *ret, const struct eb_event *event, uint32_t topic_id);
/** CRC32C over all fields of @row and its topic's name, as docs/formats/log.md says. */
uint32_t eb_row_crc(const struct eb_row *row, const char *topic, size_t topic_len);
/** The same, the fields copied into one piece first: where the processor has no instruction for it. */
uint32_t eb_row_crc_pieces(const struct eb_row *row, const char *topic, size_t topic_len);
/** Bind @row to a statement of EB_ROW_INSERT (borrowed until it is stepped). An SQLite result code. */
int eb_row_bind(sqlite3_stmt *stmt, const struct eb_row *row);

/**
 * The value that the row of @event has in a column, 0 to 8 in the order of EB_ROW_COLUMNS, as the result of a virtual
 * table: borrowed until the table goes on. It has its seq, timestamp, id and topic_id.
 */
void eb_row_result(sqlite3_context *out, const struct eb_event *event, int column);

/**
 * Take the row that @stmt (EB_ROW_COLUMNS from its first column on) stands at. -EBADMSG: a column is not of its
 * kind or out of its bounds; then only ->seq is filled in. Checks no checksum.
 */
int eb_row_read(sqlite3_stmt *stmt, struct eb_row *ret);
#define EB_ROW_VALUES 9
/** The same, of the values of EB_ROW_COLUMNS. */
int eb_row_from_values(sqlite3_value *const value[EB_ROW_VALUES], struct eb_row *ret);
/** Is it whole? 0 or -EBADMSG. */
int eb_row_check(const struct eb_row *row, const char *topic, size_t topic_len);
/** The event of a row that was checked: seq, timestamp, topic_id set. NULL when out of memory. */
struct eb_event *eb_row_event(const struct eb_row *row, const char *topic, size_t topic_len,
                              struct eb_slab **slab);
/** When it expires, in ms since 1970; INT64_MAX: never. */
int64_t eb_row_expires(int64_t ts, int64_t ttl);
