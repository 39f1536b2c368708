/*
 * segments.c - the index by segments: written once when a segment is full, in memory until then.
 *
 * Why not an index on (topic, seq): it costs 2 us a row and more as the log grows, because each insert touches
 * a page of its own; a list written once per segment costs two bytes an event (decisions/).
 *
 * (G1) The rows of a segment are written in the transaction that gives its last seq, or in a later one at start.
 * (G2) A list may name events that were deleted meanwhile, never one of another topic; it is dropped when the
 *      segment's last event is.
 * (G3) A list is believed only with its checksum: else its segment is read row by row, which finds the same.
 * (G4) With a topic's list `topics.last_seq` reaches at least to the list's end: so what a topic's last seq was is known
 *      for all closed segments, whatever was deleted of them. A topic that is gone (last_sqlite.c) gets no list.
 */
#include "broker/store/segments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/row.h"
#include "broker/store/schema.h"
#include "common/text.h"

struct eb_segment *eb_segment_create(uint64_t number)
{
    struct eb_segment *segment = calloc(1, sizeof(*segment));

    if (!segment)
        return NULL;
    atomic_init(&segment->refs, 1);
    segment->number = number;
    return segment;
}

struct eb_segment *eb_segment_ref(struct eb_segment *segment)
{
    atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
    return segment;
}

void eb_segment_unref(struct eb_segment *segment)
{
    if (segment && atomic_fetch_sub_explicit(&segment->refs, 1, memory_order_acq_rel) == 1)
        free(segment);
}

static int bind_range(sqlite3_stmt *stmt, uint64_t number)
{
    int rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)eb_segment_base(number));

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 2, (sqlite3_int64)eb_segment_base(number + 1));
    return rc;
}

int eb_segment_load(struct eb_segment *segment, sqlite3 *db)
{
    sqlite3_stmt *stmt = NULL;
    uint64_t base = eb_segment_base(segment->number);
    int rc;

    rc = sqlite3_prepare_v2(
        db, "SELECT seq, topic, ts, " EB_ROW_BYTES_SQL " FROM log WHERE seq >= ?1 AND seq < ?2", -1,
        &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = bind_range(stmt, segment->number);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(stmt);
        if (rc != SQLITE_ROW)
            break;
        uint64_t offset = (uint64_t)sqlite3_column_int64(stmt, 0) - base;
        sqlite3_int64 topic = sqlite3_column_int64(stmt, 1);
        /* A topic that cannot be one: the row is damaged; whoever reads it by the scan says so. */
        atomic_store_explicit(&segment->topic[offset],
                              topic < 0 || topic > UINT32_MAX ? 0 : (uint32_t)topic,
                              memory_order_relaxed);
        segment->events++;
        segment->bytes += (uint64_t)sqlite3_column_int64(stmt, 3);
        if (sqlite3_column_int64(stmt, 2) > segment->last_ts)
            segment->last_ts = sqlite3_column_int64(stmt, 2);
    }
    sqlite3_finalize(stmt);
    if (rc != SQLITE_DONE)
        return eb_sql_errno(db, rc);
    rc = sqlite3_prepare_v2(db, "SELECT count(*) FROM acked WHERE seq >= ?1 AND seq < ?2", -1,
                            &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = bind_range(stmt, segment->number);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        segment->acked = (uint64_t)sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return eb_sql_errno(db, rc);
}

/* ---- writing ---- */

/* Offsets that have an event, ordered by (topic, offset): a radix sort, stable, two rounds of 16 bits. */
static uint32_t sort_by_topic(const struct eb_segment *segment, uint16_t *order)
{
    uint32_t *counts = calloc(EB_SEGMENT_SEQS, sizeof(*counts));
    uint16_t *other = malloc(EB_SEGMENT_SEQS * sizeof(*other));
    uint32_t count = 0;

    if (!counts || !other) {
        free(counts);
        free(other);
        return UINT32_MAX;
    }
    for (uint32_t i = 0; i < EB_SEGMENT_SEQS; i++)
        if (atomic_load_explicit(&segment->topic[i], memory_order_relaxed))
            other[count++] = (uint16_t)i;
    for (unsigned shift = 0; shift < 32; shift += 16) {
        uint16_t *from = shift ? order : other, *to = shift ? other : order;
        uint32_t sum = 0;
        memset(counts, 0, EB_SEGMENT_SEQS * sizeof(*counts));
#define KEY(i) ((atomic_load_explicit(&segment->topic[i], memory_order_relaxed) >> shift) & 0xffff)
        for (uint32_t i = 0; i < count; i++)
            counts[KEY(from[i])]++;
        for (uint32_t k = 0; k < EB_SEGMENT_SEQS; k++) {
            uint32_t n = counts[k];
            counts[k] = sum;
            sum += n;
        }
        for (uint32_t i = 0; i < count; i++)
            to[counts[KEY(from[i])]++] = from[i];
#undef KEY
    }
    memcpy(order, other, count * sizeof(*order));
    free(counts);
    free(other);
    return count;
}

uint32_t eb_postings_crc(uint64_t segment, uint32_t topic, const void *offsets, size_t len)
{
    unsigned char head[16];

    for (int i = 0; i < 8; i++) {
        head[i] = (unsigned char)(segment >> (8 * i));
        head[8 + i] = (unsigned char)((uint64_t)topic >> (8 * i));
    }
    return eb_crc32c(eb_crc32c(0, head, sizeof(head)), offsets, len);
}

int eb_postings_check(uint64_t segment, uint32_t topic, const void *blob, size_t len)
{
    const unsigned char *tail;
    uint32_t crc = 0;
    size_t count;

    if (!blob || len < EB_POSTINGS_TAIL || len % 2 || len > EB_SEGMENT_SEQS * 2 + EB_POSTINGS_TAIL)
        return -EBADMSG;
    tail = (const unsigned char *)blob + len - EB_POSTINGS_TAIL;
    for (int i = 0; i < EB_POSTINGS_TAIL; i++)
        crc |= (uint32_t)tail[i] << (8 * i);
    if (crc != eb_postings_crc(segment, topic, blob, len - EB_POSTINGS_TAIL))
        return -EBADMSG;
    count = (len - EB_POSTINGS_TAIL) / 2;
    for (size_t i = 1; i < count; i++)
        if (eb_postings_at(blob, i - 1) >= eb_postings_at(blob, i))
            return -EBADMSG;
    return (int)count;
}

static int write_list(sqlite3_stmt *stmt, const struct eb_segment *segment, uint32_t topic,
                      const uint16_t *offsets, uint32_t count, unsigned char *blob)
{
    size_t len = (size_t)count * 2;
    uint32_t crc;
    int rc;

    for (uint32_t i = 0; i < count; i++) {
        blob[2 * i] = (unsigned char)offsets[i];
        blob[2 * i + 1] = (unsigned char)(offsets[i] >> 8);
    }
    crc = eb_postings_crc(segment->number, topic, blob, len);
    for (int i = 0; i < EB_POSTINGS_TAIL; i++)
        blob[len++] = (unsigned char)(crc >> (8 * i));
    rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)segment->number);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 2, topic);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob(stmt, 3, blob, (int)len, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* (G4) ret_there: is there still such a topic? */
static int write_last(sqlite3 *db, sqlite3_stmt *stmt, uint32_t topic, uint64_t seq,
                      bool *ret_there)
{
    int rc = sqlite3_bind_int64(stmt, 1, topic);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 2, (sqlite3_int64)seq);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    *ret_there = rc == SQLITE_DONE && sqlite3_changes(db) > 0;
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int write_lists(const struct eb_segment *segment, sqlite3 *db, sqlite3_stmt *stmt,
                       sqlite3_stmt *last, const uint16_t *order, uint32_t count,
                       unsigned char *blob)
{
    uint64_t base = eb_segment_base(segment->number);
    int rc = SQLITE_OK;
    bool there;

    for (uint32_t i = 0, n; i < count && rc == SQLITE_OK; i += n) {
        uint32_t topic = atomic_load_explicit(&segment->topic[order[i]], memory_order_relaxed);
        for (n = 1; i + n < count; n++)
            if (atomic_load_explicit(&segment->topic[order[i + n]], memory_order_relaxed) != topic)
                break;
        rc = write_last(db, last, topic, base + order[i + n - 1], &there);
        if (rc == SQLITE_OK && there)
            rc = write_list(stmt, segment, topic, order + i, n, blob);
    }
    return rc;
}

static int write_row(const struct eb_segment *segment, sqlite3 *db)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db,
                                "INSERT OR REPLACE INTO segments(segment, events, bytes, acked,"
                                " last_ts) VALUES(?1, ?2, ?3, ?4, ?5)",
                                -1, &stmt, NULL);
    const int64_t values[] = {(int64_t)segment->number, (int64_t)segment->events,
                              (int64_t)segment->bytes, (int64_t)segment->acked, segment->last_ts};

    for (int i = 0; i < 5 && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_int64(stmt, i + 1, values[i]);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    sqlite3_finalize(stmt);
    return eb_sql_errno(db, rc);
}

int eb_segment_write(const struct eb_segment *segment, sqlite3 *db)
{
    uint16_t *order = malloc(EB_SEGMENT_SEQS * sizeof(*order));
    unsigned char *blob = malloc(EB_SEGMENT_SEQS * 2 + EB_POSTINGS_TAIL);
    sqlite3_stmt *stmt = NULL, *last = NULL;
    uint32_t count = UINT32_MAX;
    int result = -ENOMEM;

    if (order && blob)
        count = sort_by_topic(segment, order);
    if (count == UINT32_MAX)
        goto out;
    result = eb_sql_errno(
        db, sqlite3_prepare_v2(db,
                               "INSERT OR REPLACE INTO postings(segment, topic, seqs, place)"
                               " VALUES(?1, ?2, ?3, ?1 << 32 | ?2)",
                               -1, &stmt, NULL));
    if (result == 0)
        result =
            eb_sql_errno(db, sqlite3_prepare_v2(db,
                                                "UPDATE topics SET last_seq = max(last_seq, ?2)"
                                                " WHERE id = ?1",
                                                -1, &last, NULL));
    if (result == 0)
        result = eb_sql_errno(db, write_lists(segment, db, stmt, last, order, count, blob));
    if (result == 0)
        result = write_row(segment, db);
out:
    sqlite3_finalize(stmt);
    sqlite3_finalize(last);
    free(order);
    free(blob);
    return result;
}

/* ---- making it whole ---- */

static int write_missing(sqlite3 *db, uint64_t number)
{
    struct eb_segment *segment = eb_segment_create(number);
    int result = segment ? eb_segment_load(segment, db) : -ENOMEM;

    if (result == 0)
        result = eb_sql_exec(db, "BEGIN IMMEDIATE");
    if (result == 0) {
        result = eb_segment_write(segment, db);
        if (result == 0)
            result = eb_sql_exec(db, "COMMIT");
        if (result < 0 && !sqlite3_get_autocommit(db))
            sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    }
    eb_segment_unref(segment);
    return result;
}

/* The first row at or above @seq, 0 if there is none. */
static int next_row(sqlite3 *db, uint64_t seq, uint64_t *ret)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, "SELECT seq FROM log WHERE seq >= ?1 ORDER BY seq LIMIT 1", -1,
                                &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)seq);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    *ret = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;
    sqlite3_finalize(stmt);
    return eb_sql_errno(db, rc);
}

static int has_row(sqlite3 *db, uint64_t segment, bool *ret)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, "SELECT 1 FROM segments WHERE segment = ?1", -1, &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 1, (sqlite3_int64)segment);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    *ret = rc == SQLITE_ROW;
    sqlite3_finalize(stmt);
    return eb_sql_errno(db, rc);
}

int eb_segments_complete(sqlite3 *db, uint64_t open)
{
    uint64_t seq = 0;
    bool there;
    int result;

    for (;;) {
        result = next_row(db, seq, &seq);
        if (result < 0 || seq == 0 || eb_segment_of(seq) >= open)
            return result;
        result = has_row(db, eb_segment_of(seq), &there);
        if (result == 0 && !there)
            result = write_missing(db, eb_segment_of(seq));
        if (result < 0)
            return result;
        seq = eb_segment_base(eb_segment_of(seq) + 1);
    }
}
