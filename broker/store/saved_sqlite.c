/*
 * saved_sqlite.c - the ids of a snapshot (ids_sqlite.c), kept where they lie: a start reads a filter of them, 16 to 32 bits an
 * id, and a publish's id that passes it is looked for in the file, in the one row of its bucket.
 *
 *   id --> keyed hash --> filter: surely not | bucket: row of 256 to 512 ids
 *
 * (V1) So an id that is not among them costs four bits of memory looked at, and one in 400 of them a row read; a
 *      start and the memory cost 2 to 4 bytes an id.
 * (V2) A bucket that fails its checksum is not believed: the log is looked through for the one id, slowly. It says the
 *      same, as it does for the snapshot as a whole.
 * (V3) They are in use until the newest of them is out of the window; their rows are deleted then.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/ids.h"
#include "broker/store/schema.h"
#include "broker/store/sip.h"
#include "broker/store/sqlite_internal.h"

#define PART_FILTER   (-3)
#define PART_BUCKET   (-4) /* the first; the next are below */
#define BUCKET_IDS    512u /* at the most, on the average: 16 KiB, so that pages are full */
#define BITS_AN_ID    16u
#define PROBES        4
#define A_TRANSACTION 64u /* buckets */

static uint64_t hash_of(const struct eb_sqlite *e, const uint8_t id[16])
{
    const uint64_t key[2] = {e->cold.made.key[0], ~e->cold.made.key[1]}; /* not made.c's hash */
    uint64_t m[2];
    memcpy(m, id, 16);
    return eb_sip16(key, m[0], m[1]);
}

static uint64_t power_of_two(uint64_t least)
{
    uint64_t n = 1;
    while (n < least)
        n *= 2;
    return n;
}

static uint64_t buckets_for(uint64_t ids)
{
    return power_of_two(ids / BUCKET_IDS);
}

/* The bits of an id are apart by an odd step: all of them differ. */
static bool has_bits(const unsigned char *filter, uint64_t mask, uint64_t hash)
{
    uint64_t step = hash >> 32 | 1;
    for (int i = 0; i < PROBES; i++, hash += step)
        if (!(filter[(hash & mask) >> 3] >> (hash & 7) & 1))
            return false;
    return true;
}

static void set_bits(unsigned char *filter, uint64_t mask, uint64_t hash)
{
    uint64_t step = hash >> 32 | 1;
    for (int i = 0; i < PROBES; i++, hash += step)
        filter[(hash & mask) >> 3] |= (unsigned char)(1u << (hash & 7));
}

static uint64_t bucket_of(uint64_t hash, uint64_t buckets)
{
    return (hash ^ hash >> 29) * UINT64_C(0x9E3779B97F4A7C15) >> 20 & (buckets - 1);
}

/* ---- looking ---- */

/* The row of a bucket, until e->bucket is reset: number of ids, -EBADMSG or another -errno. */
static int64_t read_bucket(struct eb_sqlite *e, uint64_t bucket, const void **ret)
{
    int64_t part = PART_BUCKET - (int64_t)bucket, len = -EBADMSG;
    sqlite3_bind_int64(e->bucket, 1, part);
    int rc = sqlite3_step(e->bucket);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return eb_sqlite_failed(e, rc, "reading ids of the dedupe window");
    if (rc == SQLITE_ROW) {
        *ret = sqlite3_column_blob(e->bucket, 0);
        len = eb_ids_blob(part, *ret, (size_t)sqlite3_column_bytes(e->bucket, 0));
    }
    return len < 0 || len % EB_IDS_ENTRY ? -EBADMSG : len / EB_IDS_ENTRY;
}

/* The newest of that id, of what the snapshot covers: (V2). */
static int find_in_log(struct eb_sqlite *e, const uint8_t id[16], struct eb_dedupe_entry *ret)
{
    struct eb_ids_list gone = {NULL};
    sqlite3_stmt *stmt = NULL;
    int result = eb_ids_gone(e->db, e->saved.since_ms, &gone), rc;
    *ret = (struct eb_dedupe_entry){.seq = 0};
    for (size_t i = 0; result == 0 && i < gone.count; i++)
        if (memcmp(gone.entries[i].id, id, 16) == 0)
            *ret = gone.entries[i];
    free(gone.entries);
    if (result < 0)
        return result;
    rc = sqlite3_prepare_v2(e->db,
                            "SELECT seq, ts FROM log WHERE id = ?1 AND seq > ?2 AND seq <= ?3"
                            " AND ts >= ?4 ORDER BY seq DESC LIMIT 1",
                            -1, &stmt, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_blob(stmt, 1, id, 16, SQLITE_STATIC);
        sqlite3_bind_int64(stmt, 2, (sqlite3_int64)ret->seq);
        sqlite3_bind_int64(stmt, 3, (sqlite3_int64)e->saved.last_seq);
        sqlite3_bind_int64(stmt, 4, e->saved.since_ms);
        rc = sqlite3_step(stmt);
    }
    if (rc == SQLITE_ROW) {
        memcpy(ret->id, id, 16);
        ret->seq = (uint64_t)sqlite3_column_int64(stmt, 0);
        ret->timestamp = sqlite3_column_int64(stmt, 1);
    }
    sqlite3_finalize(stmt);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return eb_sqlite_failed(e, rc, "looking for an id in the log");
    return ret->seq ? 0 : -ENOENT;
}

int eb_saved_find(struct eb_engine *engine, const uint8_t id[16], struct eb_dedupe_entry *ret)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    const void *blob = NULL;
    if (!e->cold.filter)
        return -ENOENT;
    uint64_t hash = hash_of(e, id);
    if (!has_bits(e->cold.filter, e->cold.mask, hash))
        return -ENOENT;
    int64_t count = read_bucket(e, bucket_of(hash, e->cold.buckets), &blob);
    int result = count < 0 ? (int)count : -ENOENT;
    for (int64_t i = 0; i < count; i++) {
        struct eb_dedupe_entry entry;
        eb_ids_decode(blob, (size_t)i, &entry);
        if (memcmp(entry.id, id, 16) != 0 || (result == 0 && entry.seq < ret->seq))
            continue;
        *ret = entry; /* of an id that came again after its time the later one */
        result = 0;
    }
    sqlite3_reset(e->bucket);
    return result == -EBADMSG ? find_in_log(e, id, ret) : result;
}

/* ---- at start ---- */

int eb_saved_open(struct eb_sqlite *e)
{
    sqlite3_stmt *stmt = NULL;
    int64_t len = -EBADMSG;
    if (!e->saved.ids)
        return 0;
    int rc = sqlite3_prepare_v2(e->db, "SELECT entries FROM ids WHERE part = -3", -1, &stmt, NULL);
    if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW)
        len = eb_ids_blob(PART_FILTER, sqlite3_column_blob(stmt, 0),
                          (size_t)sqlite3_column_bytes(stmt, 0));
    if (len > 0 && (uint64_t)len == power_of_two(e->saved.ids * BITS_AN_ID) / 8) {
        e->cold.filter = malloc((size_t)len);
        if (e->cold.filter)
            memcpy(e->cold.filter, sqlite3_column_blob(stmt, 0), (size_t)len);
        e->cold.mask = (uint64_t)len * 8 - 1;
        e->cold.buckets = buckets_for(e->saved.ids);
    }
    sqlite3_finalize(stmt);
    sqlite3_db_release_memory(e->db); /* its pages are read once */
    return e->cold.filter ? 0 : -EBADMSG;
}

void eb_saved_close(struct eb_sqlite *e)
{
    free(e->cold.filter);
    e->cold.filter = NULL;
}

/* ---- at the end ---- */

/* All that are to be saved, and where each belongs. */
struct saving {
    const struct eb_sqlite *e;
    int64_t since_ms; /* what was accepted before is left out */
    uint64_t floor;   /* and so is what lies up to it */
    struct eb_dedupe_entry *list;
    uint32_t *order; /* places in the list, bucket by bucket */
    uint32_t *ends;  /* of each bucket in `order`; one more, in front */
    unsigned char *filter;
    uint64_t count, cap, buckets, filter_bytes;
    bool oom;
};

static void saving_free(struct saving *s)
{
    free(s->list);
    free(s->order);
    free(s->ends);
    free(s->filter);
}

static void take(struct saving *s, const struct eb_dedupe_entry *entry)
{
    if (entry->timestamp < s->since_ms || entry->seq <= s->floor)
        return;
    if (s->count == s->cap) {
        uint64_t cap = s->cap ? s->cap * 2 : 1024;
        struct eb_dedupe_entry *list = realloc(s->list, cap * sizeof(*list));
        s->oom = s->oom || !list;
        if (!list)
            return;
        s->list = list;
        s->cap = cap;
    }
    s->list[s->count++] = *entry;
}

/* Those of earlier runs. -EBADMSG: a bucket is not whole. */
static int take_cold(struct eb_sqlite *e, struct saving *s)
{
    for (uint64_t b = 0; b < e->cold.buckets; b++) {
        const void *blob = NULL;
        struct eb_dedupe_entry entry;
        int64_t n = read_bucket(e, b, &blob);
        for (int64_t i = 0; i < n; i++) {
            eb_ids_decode(blob, (size_t)i, &entry);
            take(s, &entry);
        }
        sqlite3_reset(e->bucket);
        if (n < 0)
            return (int)n;
    }
    return 0;
}

static void take_row(void *ctx, const uint8_t id[16], uint64_t seq, int64_t timestamp)
{
    struct saving *s = ctx;
    struct eb_dedupe_entry entry = {.seq = seq, .timestamp = timestamp};
    if (seq > s->e->saved.last_seq || eb_made_is(&s->e->cold.made, id, seq, timestamp))
        return;
    memcpy(entry.id, id, 16);
    take(s, &entry);
}

/* Those of earlier runs, then those of this one. */
static int collect(struct eb_sqlite *e, struct saving *s, const struct eb_dedupe *dedupe)
{
    const struct eb_engine_ids tell = {.ctx = s, .id = take_row};
    int result = e->cold.filter ? take_cold(e, s) : 0;
    if (result == -EBADMSG) { /* (V2) */
        s->count = 0;
        result = eb_ids_from_log(e, s->since_ms, e->now.last_seq - s->floor, &tell);
    }
    for (uint64_t at = dedupe->head; at < dedupe->tail && result == 0;) {
        size_t run;
        const struct eb_dedupe_entry *from = eb_dedupe_run(dedupe, at, &run);
        for (size_t i = 0; i < run; i++)
            take(s, &from[i]);
        at += run;
    }
    if (s->oom)
        return -ENOMEM;
    return result == 0 && s->count > UINT32_MAX ? -EOVERFLOW : result;
}

/* By bucket. */
static int arrange(struct eb_sqlite *e, struct saving *s)
{
    s->buckets = buckets_for(s->count);
    s->filter_bytes = power_of_two(s->count * BITS_AN_ID) / 8;
    s->order = malloc(s->count * sizeof(*s->order));
    s->ends = calloc(s->buckets + 1, sizeof(*s->ends));
    s->filter = calloc(1, s->filter_bytes + EB_IDS_TAIL);
    if (!s->order || !s->ends || !s->filter)
        return -ENOMEM;
    for (uint64_t i = 0; i < s->count; i++) {
        uint64_t hash = hash_of(e, s->list[i].id);
        set_bits(s->filter, s->filter_bytes * 8 - 1, hash);
        s->ends[bucket_of(hash, s->buckets) + 1]++;
    }
    for (uint64_t b = 0; b < s->buckets; b++)
        s->ends[b + 1] += s->ends[b];
    for (uint64_t i = 0; i < s->count; i++) { /* ends[b] is where b begins, and moves to its end */
        uint64_t b = bucket_of(hash_of(e, s->list[i].id), s->buckets);
        s->order[s->ends[b]++] = (uint32_t)i;
    }
    return 0;
}

static int write_buckets(struct eb_sqlite *e, const struct saving *s)
{
    struct eb_dedupe_entry *bucket = NULL;
    size_t cap = 0;
    int result = 0;
    for (uint64_t b = 0, from = 0; b < s->buckets && result == 0; from = s->ends[b++]) {
        size_t count = s->ends[b] - from;
        if (count > cap) {
            free(bucket);
            cap = count * 2;
            bucket = malloc(cap * sizeof(*bucket));
            if (!bucket)
                return -ENOMEM;
        }
        for (size_t i = 0; i < count; i++)
            bucket[i] = s->list[s->order[from + i]];
        result = eb_ids_put_list(e, PART_BUCKET - (int64_t)b, bucket, count);
        if (result == 0 && b % A_TRANSACTION == A_TRANSACTION - 1) { /* (ids_sqlite.c, I3) */
            result = e->base.ops->commit(&e->base);
            if (result == 0)
                result = e->base.ops->begin(&e->base);
        }
    }
    free(bucket);
    return result;
}

int eb_saved_write(struct eb_sqlite *e, const struct eb_dedupe *dedupe, int64_t since_ms,
                   uint64_t floor, uint64_t *ret_count)
{
    struct saving s = {.e = e, .since_ms = since_ms, .floor = floor};
    *ret_count = e->saved.ids;
    if (e->cold.filter && !eb_dedupe_count(dedupe))
        return 0; /* none came: what is there says it all */
    int result = collect(e, &s, dedupe);
    if (result == 0 && s.count)
        result = arrange(e, &s);
    if (result == 0 && s.count)
        result = write_buckets(e, &s);
    if (result == 0 && s.count)
        result = eb_ids_put_part(e, PART_FILTER, e->now.last_seq, e->now.last_ts, s.filter,
                                 s.filter_bytes);
    *ret_count = s.count;
    saving_free(&s);
    return result;
}
