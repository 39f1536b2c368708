/*
 * ids_sqlite.c - ids in bulk in table `ids`: those of deleted events that are inside the dedupe window, a row for
 * each turn of deletion; and the snapshot of the whole window that an orderly end leaves, so that a start need not read
 * a million rows of the log; how its ids are found there is saved_sqlite.c's. Ids that the broker made are in neither (made.h).
 *
 * (I1) The snapshot counts only while meta.saved names it: written in the transaction that marks the end as clean,
 *      deleted in the one that marks the next start, before anything else is committed. So a stale one is never
 *      believed, wherever a run is killed.
 * (I2) It belongs to one epoch and one last_seq, and reaches as far back, and holds as many ids, as
 *      this start asks for; every piece has its checksum. Anything else: the ids are read from the log, which says the same.
 * (I3) Pieces are written and deleted in short transactions: the WAL stays short, nobody waits long.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"
#include "common/text.h"

#define PIECE        4096u /* ids of one piece of an older broker's snapshot */
#define TAIL         EB_IDS_TAIL
#define PART_SEGMENT (-1) /* the open segment's topics */
#define PART_RUNS    (-2) /* of the window; below them what saved_sqlite.c has */
#define PART_FIRST   (-2) /* of an older broker's snapshot: its ids, and the next below */
#define RUN_BYTES    32u
#define DROP_PIECES  64   /* rows of a snapshot that go at once: about 1 MiB */
#define SAVED_KIND   "2 " /* before this the snapshot had all ids, and no runs */

/* ---- a list as it lies in the file ---- */

static void put_le(unsigned char *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get_le(const unsigned char *at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static uint32_t crc_of(int64_t part, const void *data, size_t len)
{
    unsigned char head[8];
    put_le(head, (uint64_t)part, 8);
    return eb_crc32c(eb_crc32c(0, head, sizeof head), data, len);
}

static void encode(unsigned char *at, const struct eb_dedupe_entry *list, size_t count)
{
    for (size_t i = 0; i < count; i++, at += EB_IDS_ENTRY) {
        memcpy(at, list[i].id, 16);
        put_le(at + 16, list[i].seq, 8);
        put_le(at + 24, (uint64_t)list[i].timestamp, 8);
    }
}

void eb_ids_decode(const void *blob, size_t i, struct eb_dedupe_entry *ret)
{
    const unsigned char *at = (const unsigned char *)blob + i * EB_IDS_ENTRY;
    memcpy(ret->id, at, 16);
    ret->seq = get_le(at + 16, 8);
    ret->timestamp = (int64_t)get_le(at + 24, 8);
}

/* Length without the checksum, or -EBADMSG. */
int64_t eb_ids_blob(int64_t part, const void *blob, size_t len)
{
    if (!blob || len < TAIL ||
        get_le((const unsigned char *)blob + len - TAIL, 4) != crc_of(part, blob, len - TAIL))
        return -EBADMSG;
    return (int64_t)(len - TAIL);
}

int64_t eb_ids_check(int64_t part, const void *blob, size_t len)
{
    int64_t rest = eb_ids_blob(part, blob, len);
    if (part < 0 || rest < 0)
        return rest < 0 ? rest : 0;
    return rest % EB_IDS_ENTRY ? -EBADMSG : rest / EB_IDS_ENTRY;
}

/* @blob has room for TAIL bytes more. In the open transaction. */
int eb_ids_put_part(struct eb_sqlite *e, int64_t part, uint64_t last_seq, int64_t last_ts,
                    unsigned char *blob, size_t len)
{
    put_le(blob + len, crc_of(part, blob, len), TAIL);
    sqlite3_bind_int64(e->add_ids, 1, part);
    sqlite3_bind_int64(e->add_ids, 2, (sqlite3_int64)last_seq);
    sqlite3_bind_int64(e->add_ids, 3, last_ts);
    sqlite3_bind_blob(e->add_ids, 4, blob, (int)(len + TAIL), SQLITE_STATIC);
    int rc = eb_sqlite_run(e->add_ids);
    return rc == SQLITE_OK ? 0 : eb_sqlite_failed(e, rc, "writing ids of the dedupe window");
}

int eb_ids_put_list(struct eb_sqlite *e, int64_t part, const struct eb_dedupe_entry *list,
                    size_t count)
{
    unsigned char *blob = malloc(count * EB_IDS_ENTRY + TAIL);
    uint64_t last_seq = 0;
    int64_t last_ts = INT64_MIN;
    if (!blob)
        return -ENOMEM;
    encode(blob, list, count);
    for (size_t i = 0; i < count; i++) {
        last_seq = list[i].seq > last_seq ? list[i].seq : last_seq;
        last_ts = list[i].timestamp > last_ts ? list[i].timestamp : last_ts;
    }
    int result = eb_ids_put_part(e, part, last_seq, last_ts, blob, count * EB_IDS_ENTRY);
    free(blob);
    return result;
}

/* ---- of deleted events ---- */

int eb_ids_add_run(struct eb_sqlite *e, const struct eb_dedupe_entry *list, size_t count)
{
    int result = eb_ids_put_list(e, e->now.ids_top + 1, list, count);
    if (result == 0)
        e->now.ids_top++;
    return result;
}

/* And, of a snapshot, the next above it. */
static int drop_part(struct eb_sqlite *e, int64_t part)
{
    int64_t upto = part < -DROP_PIECES ? part + DROP_PIECES : part < 0 ? -1 : part;
    sqlite3_bind_int64(e->drop_ids, 1, part);
    sqlite3_bind_int64(e->drop_ids, 2, upto);
    int rc = eb_sqlite_run(e->drop_ids);
    return rc == SQLITE_OK ? 0 : eb_sqlite_failed(e, rc, "dropping ids of the dedupe window");
}

/* One row by @stmt: 1 and its values, 0: none. */
static int look(struct eb_sqlite *e, sqlite3_stmt *stmt, int64_t *part, uint64_t *last_seq,
                int64_t *last_ts)
{
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        *part = sqlite3_column_int64(stmt, 0);
        *last_seq = (uint64_t)sqlite3_column_int64(stmt, 1);
        *last_ts = sqlite3_column_int64(stmt, 2);
    }
    sqlite3_reset(stmt);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return rc == SQLITE_ROW;
    return eb_sqlite_failed(e, rc, "looking for ids out of the dedupe window");
}

int eb_ids_trim(struct eb_sqlite *e, int64_t due_ms, uint64_t from_seq, bool *ret_more)
{
    int64_t part = 0, last_ts = 0;
    uint64_t last_seq = 0;
    int there = 0;
    *ret_more = false;
    if (e->cold.filter && e->saved.newest_ts <= due_ms)
        eb_saved_close(e); /* (saved_sqlite.c, V3) */
    if (e->cold.filter)
        from_seq = 0; /* the table, which said so, does not have those */
    for (unsigned i = 0; i < 4; i++) {
        there = look(e, e->first_run, &part, &last_seq, &last_ts);
        if (there <= 0 || (last_ts > due_ms && last_seq >= from_seq))
            break;
        int result = drop_part(e, part);
        if (result < 0)
            return result;
        *ret_more = true;
    }
    if (there < 0 || !e->now.ids_saved || e->cold.filter)
        return there < 0 ? there : 0;
    there = look(e, e->last_piece, &part, &last_seq, &last_ts);
    if (there <= 0) {
        e->now.ids_saved = false;
        return there;
    }
    *ret_more = true;
    return drop_part(e, part);
}

/* ---- the snapshot ---- */

/* meta.saved: what the snapshot belongs to, and what would have to be counted without it. */
#define SAVED_PRINT                                                                                \
    "%36s %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64        \
    " %" PRIu64 " %" PRId64
#define SAVED_SCAN                                                                                 \
    "%36s %" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64        \
    " %" SCNu64 " %" SCNd64

int eb_ids_saved(sqlite3 *db, struct eb_saved *ret)
{
    char text[256];
    struct eb_saved s = {.there = true};
    int result = eb_meta_text(db, EB_META_SAVED, text, sizeof(text));
    s.runs = strncmp(text, SAVED_KIND, strlen(SAVED_KIND)) == 0;
    if (result == 0 &&
        sscanf(s.runs ? text + strlen(SAVED_KIND) : text, SAVED_SCAN, s.epoch, &s.last_seq, &s.ids,
               &s.since_ms, &s.max, &s.topics, &s.events, &s.bytes, &s.acked, &s.last_ts) != 10)
        s.there = false;
    *ret = s;
    return result;
}

/* The open segment's topics, as far as it is filled. */
static int save_segment(struct eb_sqlite *e)
{
    size_t count = e->now.last_seq + 1 - eb_segment_base(e->open->number);
    unsigned char *blob = malloc(count * 4 + TAIL);
    if (!blob)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        put_le(blob + 4 * i, atomic_load_explicit(&e->open->topic[i], memory_order_relaxed), 4);
    int result =
        eb_ids_put_part(e, PART_SEGMENT, e->now.last_seq, e->now.open_last_ts, blob, count * 4);
    free(blob);
    return result;
}

static int save_runs(struct eb_sqlite *e, const struct eb_window *window)
{
    unsigned char *blob = malloc((size_t)window->count * RUN_BYTES + TAIL);
    if (!blob)
        return -ENOMEM;
    for (unsigned i = 0; i < window->count; i++) {
        struct eb_window_run run = eb_window_at(window, i);
        put_le(blob + i * RUN_BYTES, run.first, 8);
        put_le(blob + i * RUN_BYTES + 8, run.last, 8);
        put_le(blob + i * RUN_BYTES + 16, (uint64_t)run.first_ts, 8);
        put_le(blob + i * RUN_BYTES + 24, (uint64_t)run.last_ts, 8);
    }
    int result = eb_ids_put_part(e, PART_RUNS, e->now.last_seq, e->now.last_ts, blob,
                                 (size_t)window->count * RUN_BYTES);
    free(blob);
    return result;
}

int eb_ids_save(struct eb_engine *engine, const struct eb_dedupe *dedupe,
                const struct eb_window *window, int64_t since_ms, uint64_t max)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    const struct eb_sqlite_state *now = &e->now;
    uint64_t ids = 0;
    int result = engine->ops->begin(engine);
    if (result < 0)
        return result;
    result = save_segment(e);
    if (result == 0)
        result = eb_saved_write(e, dedupe, since_ms, window->floor, &ids);
    if (result == 0)
        result = save_runs(e, window);
    if (result == 0)
        result = engine->ops->commit(engine);
    if (result < 0) {
        engine->ops->rollback(engine);
        return result;
    }
    snprintf(e->saved_text, sizeof(e->saved_text), SAVED_KIND SAVED_PRINT, e->epoch, now->last_seq,
             ids, since_ms, max, now->topics, now->open_events, now->open_bytes, now->open_acked,
             now->open_last_ts);
    return 0;
}

/* ---- reading it ---- */

static int open_part(sqlite3 *db, int64_t part, sqlite3_stmt **ret)
{
    int rc = sqlite3_prepare_v2(db, "SELECT entries FROM ids WHERE part = ?1", -1, ret, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(*ret, 1, part);
    return eb_sql_errno(db, rc);
}

bool eb_ids_load_segment(struct eb_sqlite *e, struct eb_segment *segment)
{
    sqlite3_stmt *stmt = NULL;
    int64_t len = -EBADMSG;
    if (open_part(e->db, PART_SEGMENT, &stmt) == 0 && sqlite3_step(stmt) == SQLITE_ROW)
        len = eb_ids_blob(PART_SEGMENT, sqlite3_column_blob(stmt, 0),
                          (size_t)sqlite3_column_bytes(stmt, 0));
    bool whole = len == (int64_t)(e->saved.last_seq + 1 - eb_segment_base(segment->number)) * 4;
    const unsigned char *blob = whole ? sqlite3_column_blob(stmt, 0) : NULL;
    for (int64_t i = 0; blob && i < len / 4; i++)
        atomic_store_explicit(&segment->topic[i], (uint32_t)get_le(blob + 4 * i, 4),
                              memory_order_relaxed);
    if (blob) {
        segment->events = e->saved.events;
        segment->bytes = e->saved.bytes;
        segment->acked = e->saved.acked;
        segment->last_ts = e->saved.last_ts;
    }
    sqlite3_finalize(stmt);
    return blob != NULL;
}

static bool load_runs(struct eb_sqlite *e, int64_t since_ms, const struct eb_engine_ids *tell)
{
    sqlite3_stmt *stmt = NULL;
    int64_t len = -EBADMSG;
    if (open_part(e->db, PART_RUNS, &stmt) == 0 && sqlite3_step(stmt) == SQLITE_ROW)
        len = eb_ids_blob(PART_RUNS, sqlite3_column_blob(stmt, 0),
                          (size_t)sqlite3_column_bytes(stmt, 0));
    bool whole = len >= 0 && len % RUN_BYTES == 0;
    const unsigned char *at = whole ? sqlite3_column_blob(stmt, 0) : NULL;
    for (int64_t i = 0; whole && i < len; i += RUN_BYTES) {
        const struct eb_window_run run = {get_le(at + i, 8), get_le(at + i + 8, 8),
                                          (int64_t)get_le(at + i + 16, 8),
                                          (int64_t)get_le(at + i + 24, 8)};
        if (run.last_ts >= since_ms)
            tell->run(tell->ctx, &run);
    }
    sqlite3_finalize(stmt);
    return whole;
}

/* Of an older broker's. True: all of them. */
static bool load_pieces(struct eb_sqlite *e, int64_t since_ms, const struct eb_engine_ids *tell)
{
    sqlite3_stmt *stmt = NULL;
    uint64_t told = 0;
    int rc = sqlite3_prepare_v2(e->db,
                                "SELECT part, entries FROM ids WHERE part <= ?1"
                                " ORDER BY part DESC",
                                -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        sqlite3_bind_int64(stmt, 1, PART_FIRST);
    while (told < e->saved.ids && sqlite3_step(stmt) == SQLITE_ROW) {
        const void *blob = sqlite3_column_blob(stmt, 1);
        int64_t part = sqlite3_column_int64(stmt, 0),
                len = eb_ids_blob(part, blob, (size_t)sqlite3_column_bytes(stmt, 1));
        if (len < 0 || len % EB_IDS_ENTRY || part != PART_FIRST - (int64_t)(told / PIECE))
            break;
        for (size_t i = 0; i < (size_t)len / EB_IDS_ENTRY; i++, told++) {
            struct eb_dedupe_entry entry;
            eb_ids_decode(blob, i, &entry);
            if (entry.timestamp >= since_ms)
                tell->id(tell->ctx, entry.id, entry.seq, entry.timestamp);
        }
    }
    sqlite3_finalize(stmt);
    return told == e->saved.ids;
}

int eb_ids_load(struct eb_sqlite *e, int64_t since_ms, const struct eb_engine_ids *tell)
{
    if (e->saved.runs ? load_runs(e, since_ms, tell) && eb_saved_open(e) == 0
                      : load_pieces(e, since_ms, tell))
        return 0;
    tell->again(tell->ctx);
    return -EBADMSG;
}

/* ---- without it: the ids of deleted events, in order ---- */

static int by_seq(const void *a, const void *b)
{
    const struct eb_dedupe_entry *x = a, *y = b;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static int add(struct eb_ids_list *list, const struct eb_dedupe_entry *entry)
{
    if (list->count == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 256;
        struct eb_dedupe_entry *more = realloc(list->entries, cap * sizeof(*more));
        if (!more)
            return -ENOMEM;
        list->entries = more;
        list->cap = cap;
    }
    list->entries[list->count++] = *entry;
    return 0;
}

static int add_part(struct eb_ids_list *list, sqlite3_stmt *stmt, int64_t since_ms)
{
    const void *blob = sqlite3_column_blob(stmt, 1);
    int64_t count =
        eb_ids_check(sqlite3_column_int64(stmt, 0), blob, (size_t)sqlite3_column_bytes(stmt, 1));
    int result = 0;
    for (int64_t i = 0; i < count && result == 0; i++) { /* none of a damaged list */
        struct eb_dedupe_entry entry;
        eb_ids_decode(blob, (size_t)i, &entry);
        if (entry.timestamp >= since_ms)
            result = add(list, &entry);
    }
    return result;
}

static int add_single(struct eb_ids_list *list, sqlite3_stmt *stmt)
{
    struct eb_dedupe_entry entry = {.seq = (uint64_t)sqlite3_column_int64(stmt, 1),
                                    .timestamp = sqlite3_column_int64(stmt, 2)};
    const void *id = sqlite3_column_blob(stmt, 0);
    if (!id || sqlite3_column_bytes(stmt, 0) != 16)
        return 0;
    memcpy(entry.id, id, 16);
    return add(list, &entry);
}

static int each(sqlite3 *db, const char *sql, struct eb_ids_list *list, int64_t since_ms)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), result = 0;
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(stmt, 1, since_ms);
    while (result == 0 && (rc == SQLITE_OK || rc == SQLITE_ROW) &&
           (rc = sqlite3_step(stmt)) == SQLITE_ROW)
        result = sqlite3_column_count(stmt) == 2 ? add_part(list, stmt, since_ms)
                                                 : add_single(list, stmt);
    sqlite3_finalize(stmt);
    return result < 0 ? result : eb_sql_errno(db, rc);
}

int eb_ids_gone(sqlite3 *db, int64_t since_ms, struct eb_ids_list *ret)
{
    int64_t there = 0; /* not before version 2 */
    int result = eb_sql_int(db, "SELECT count(*) FROM sqlite_schema WHERE name = 'ids'", 0, &there);
    if (result == 0)
        result =
            each(db, "SELECT id, seq, ts FROM gone WHERE ts >= ?1 ORDER BY seq", ret, since_ms);
    if (result == 0 && there)
        result = each(db,
                      "SELECT part, entries FROM ids WHERE part > 0 AND last_ts >= ?1"
                      " ORDER BY part",
                      ret, since_ms);
    bool sorted = true;
    for (size_t i = 1; i < ret->count && sorted; i++)
        sorted = ret->entries[i - 1].seq <= ret->entries[i].seq;
    if (!sorted)
        qsort(ret->entries, ret->count, sizeof(*ret->entries), by_seq);
    return result;
}
