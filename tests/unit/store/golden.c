/* golden.c - make logs whose rows follow from their seqs, by the broker's own schema and row code. */
#include "tests/unit/store/golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/store/schema.h"
#include "broker/store/segments.h"

#define PAYLOAD_MAX 16384

static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

int golden_topic(char out[64], uint64_t seq)
{
    if (seq % 1000 == 1)
        return snprintf(out, 64, "rare.%llu.only-once", (unsigned long long)seq);
    return snprintf(out, 64, "t%llu.word.x", (unsigned long long)(mix(seq) % 300));
}

bool golden_acked(uint64_t seq)
{
    return seq % 3 == 0;
}

bool golden_live(const struct golden *g, uint64_t seq)
{
    bool single = seq % 37 == 5 && (!g->wal_from || seq < g->wal_from);
    bool hole = g->with_free && seq >= g->first + 6000 && seq < g->first + 6600;
    return seq > g->deleted && seq >= g->first && seq <= g->last && !single && !hole;
}

/* The row of a seq; its bytes live in @room. */
struct room {
    uint8_t payload[PAYLOAD_MAX], id[16];
    char headers[64];
};

static void row_of(struct eb_row *row, uint64_t seq, struct room *room)
{
    size_t len = seq % 50 == 0 ? 6000 + mix(seq) % 9000 : 20 + mix(seq) % 180;
    for (size_t i = 0; i < len; i += 8) {
        uint64_t x = mix(seq * 131 + i);
        memcpy(room->payload + i, &x, 8);
    }
    uint64_t a = mix(seq), b = mix(~seq);
    memcpy(room->id, &a, 8);
    memcpy(room->id + 8, &b, 8);
    *row = (struct eb_row){.seq = seq,
                           .ts = 1700000000000 + (int64_t)seq,
                           .ttl = seq % 5 == 0 ? 1000000000 : 0,
                           .id = room->id,
                           .payload = room->payload,
                           .payload_len = len};
    if (seq % 7 == 0) {
        row->content_type = "application/json";
        row->content_type_len = strlen(row->content_type);
    }
    if (seq % 11 == 0) {
        row->headers = room->headers;
        row->headers_len = (size_t)snprintf(room->headers, sizeof(room->headers),
                                            "{\"n\":\"%llu\"}", (unsigned long long)seq);
    }
}

bool golden_row_is(const struct eb_row *row, const char *topic, size_t topic_len)
{
    static struct room room;
    struct eb_row want;
    char name[64];
    int len = golden_topic(name, row->seq);
    row_of(&want, row->seq, &room);
    return topic_len == (size_t)len && !memcmp(topic, name, topic_len) && row->ts == want.ts &&
           row->ttl == want.ttl && !memcmp(row->id, want.id, 16) &&
           row->payload_len == want.payload_len &&
           !memcmp(row->payload, want.payload, want.payload_len) &&
           row->content_type_len == want.content_type_len && row->headers_len == want.headers_len &&
           !memcmp(row->headers ? row->headers : "", want.headers ? want.headers : "",
                   want.headers_len);
}

static void run(sqlite3 *db, const char *sql)
{
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", sql, why);
}

static uint32_t topic_row(sqlite3 *db, sqlite3_stmt *insert, const char *name)
{
    static uint32_t last;
    sqlite3_bind_text(insert, 1, name, -1, SQLITE_STATIC);
    if (sqlite3_step(insert) == SQLITE_ROW)
        last = (uint32_t)sqlite3_column_int64(insert, 0);
    sqlite3_reset(insert);
    return last;
}

static void put_rows(sqlite3 *db, uint64_t from, uint64_t to)
{
    static struct room room;
    sqlite3_stmt *log, *topic, *acked, *expiry;
    assert_int_equal(sqlite3_prepare_v2(db, EB_ROW_INSERT, -1, &log, NULL), 0);
    assert_int_equal(
        sqlite3_prepare_v2(db, "INSERT INTO acked VALUES(?1, 1700000000000)", -1, &acked, NULL), 0);
    assert_int_equal(sqlite3_prepare_v2(db, "INSERT INTO expiry VALUES(?1, ?2)", -1, &expiry, NULL),
                     0);
    assert_int_equal(
        sqlite3_prepare_v2(db,
                           "INSERT INTO topics(name) VALUES(?1) ON CONFLICT(name) DO UPDATE SET "
                           "name = name RETURNING id",
                           -1, &topic, NULL),
        0);
    for (uint64_t seq = from; seq <= to; seq++) {
        struct eb_row row;
        char name[64];
        int len = golden_topic(name, seq);
        row_of(&row, seq, &room);
        row.topic_id = topic_row(db, topic, name);
        row.crc = eb_row_crc(&row, name, (size_t)len);
        eb_row_bind(log, &row);
        assert_int_equal(sqlite3_step(log), SQLITE_DONE);
        sqlite3_reset(log);
        if (golden_acked(seq)) {
            sqlite3_bind_int64(acked, 1, (sqlite3_int64)seq);
            assert_int_equal(sqlite3_step(acked), SQLITE_DONE);
            sqlite3_reset(acked);
        }
        if (row.ttl) {
            sqlite3_bind_int64(expiry, 1, eb_row_expires(row.ts, row.ttl));
            sqlite3_bind_int64(expiry, 2, (sqlite3_int64)seq);
            assert_int_equal(sqlite3_step(expiry), SQLITE_DONE);
            sqlite3_reset(expiry);
        }
    }
    sqlite3_finalize(log);
    sqlite3_finalize(topic);
    sqlite3_finalize(acked);
    sqlite3_finalize(expiry);
}

static void copy_file(const char *from, const char *to)
{
    char cmd[1200];
    snprintf(cmd, sizeof(cmd), "cp '%s' '%s'", from, to);
    assert_int_equal(system(cmd), 0);
}

static void delete_rows(sqlite3 *db, const struct golden *g)
{
    char sql[400];
    uint64_t last = g->wal_from ? g->wal_from - 1 : g->last;
    snprintf(sql, sizeof(sql),
             "DELETE FROM log WHERE seq <= %llu OR (seq %% 37 = 5 AND seq <= %llu)"
             " OR seq BETWEEN %llu AND %llu;"
             "DELETE FROM acked WHERE seq NOT IN (SELECT seq FROM log);"
             "DELETE FROM expiry WHERE seq NOT IN (SELECT seq FROM log);",
             (unsigned long long)g->deleted, (unsigned long long)last,
             (unsigned long long)(g->with_free ? g->first + 6000 : 0),
             (unsigned long long)(g->with_free ? g->first + 6599 : 0));
    run(db, sql);
    if (!g->with_free)
        run(db, "PRAGMA incremental_vacuum");
    eb_meta_set_int(db, EB_META_DELETED_UPTO, (int64_t)g->deleted);
}

void golden_make(const struct golden *g, const char *path)
{
    char work[512], from[520], to[520];
    struct eb_error err;
    sqlite3 *db;
    snprintf(work, sizeof(work), "%s.work", path);
    unlink(work);
    assert_int_equal(eb_db_open(work, NULL, EB_DB_CREATE, &db, &err), 0);
    assert_int_equal(eb_schema_create(db), 0);
    run(db, "PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0; BEGIN");
    put_rows(db, g->first, g->wal_from ? g->wal_from - 1 : g->last);
    delete_rows(db, g);
    run(db, "COMMIT");
    assert_int_equal(eb_segments_complete(db, eb_segment_of(g->last)), 0);
    run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    for (uint64_t seq = g->wal_from; g->wal_from && seq <= g->last; seq += 50) {
        run(db, "BEGIN");
        put_rows(db, seq, seq + 49 < g->last ? seq + 49 : g->last);
        run(db, "COMMIT");
    }
    if (g->wal_from) { /* as a crash leaves it */
        snprintf(from, sizeof(from), "%s-wal", work);
        snprintf(to, sizeof(to), "%s-wal", path);
        copy_file(from, to);
        copy_file(work, path);
    }
    sqlite3_close(db);
    if (!g->wal_from)
        assert_int_equal(rename(work, path), 0);
    unlink(work);
}

uint64_t golden_read(const char *path, uint8_t *present, uint64_t bits)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;
    uint64_t n = 0;
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), 0);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT " EB_ROW_COLUMNS
                                        ", (SELECT name FROM topics WHERE id = topic) FROM log",
                                        -1, &stmt, NULL),
                     0);
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct eb_row row;
        assert_int_equal(eb_row_read(stmt, &row), 0);
        const char *topic = (const char *)sqlite3_column_text(stmt, 9);
        if (!topic || !golden_row_is(&row, topic, strlen(topic)))
            fail_msg("event %llu is not what was written", (unsigned long long)row.seq);
        assert_true(row.seq < bits);
        present[row.seq / 8] |= (uint8_t)(1u << row.seq % 8);
        n++;
    }
    assert_int_equal(rc, SQLITE_DONE);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return n;
}
