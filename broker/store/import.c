/*
 * import.c - take over a file of prk_eventbus 0.1: its messages with their seqs, and what was acknowledged.
 *
 * What that file is like (prk_eventbus 0.1, storage/sqlite.rs and core/event_bus.rs):
 *   messages(seq, topic, payload, metadata, ttl, status); metadata is {"timestamp":…,"content_type":…}, the
 *   timestamp in seconds for a single publish and in milliseconds for a batch; ttl 0 is none; status `pending`
 *   or `delivered`. It keeps no message id with a message, only those acknowledged, in processed_messages.
 * What becomes of it:
 *   (P1) Every row that can be an event here becomes one, under its own seq. Others are reported and left out.
 *   (P2) `delivered` is acknowledged. The ids in processed_messages are kept in a table of their own
 *        (`imported`): no row says whose they are.
 *   (P3) A row gets a message id made of its timestamp, seq and topic: the same at each import.
 *   (P4) Timestamps become milliseconds and never run backward.
 *   (P5) The old file is never written to, nor is a file made beside it: what has a journal or a WAL, and so
 *        would be written to when it is opened, is copied first.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/store/build.h"
#include "broker/store/schema.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/topic.h"
#include "common/uuid.h"

struct name_slot {
    uint32_t id; /* 0: empty */
    uint32_t at, len;
};

struct import {
    const struct eb_ops *ops;
    struct eb_ops_summary *sum;
    const char *old;
    char *copy; /* of the old file, if it has a WAL or journal */
    sqlite3 *db;
    struct eb_build *build;
    struct eb_json json;
    struct name_slot *slots; /* open addressing, at most half full */
    uint32_t slot_count, topics;
    struct eb_buf names;
    int64_t last_ts, now;
    uint64_t total, done;
    int64_t told_ms;
};

static void line(struct import *im, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(struct import *im, const char *fmt, ...)
{
    char text[500];
    va_list args;
    if (!im->ops->report)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    im->ops->report(im->ops->ctx, text);
}

/* ---- opening the old file ---- */

static int copy_file(const char *from, const char *to)
{
    char *buf = malloc(1 << 20);
    int in = open(from, O_RDONLY | O_CLOEXEC), rc = in < 0 || !buf ? -errno : 0;
    int out = rc ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (!rc && out < 0)
        rc = -errno;
    ssize_t n = 0;
    while (!rc && (n = read(in, buf, 1 << 20)) > 0)
        for (ssize_t at = 0, w; at < n && !rc; at += w) {
            w = write(out, buf + at, (size_t)(n - at));
            if (w < 0)
                rc = -errno;
        }
    if (!rc && n < 0)
        rc = -errno;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    free(buf);
    return rc;
}

static bool has(const char *path, const char *suffix)
{
    char name[4096 + 16];
    struct stat st;
    snprintf(name, sizeof(name), "%s%s", path, suffix);
    return !stat(name, &st) && st.st_size > 0;
}

static const char *const beside[] = {"", "-wal", "-journal"};

static int copy_aside(struct import *im, const char *target)
{
    if (asprintf(&im->copy, "%s.old-%ld", target, (long)getpid()) < 0) {
        im->copy = NULL;
        return -ENOMEM;
    }
    int rc = 0;
    for (int i = 0; i < 3 && !rc; i++) {
        char from[4096 + 16], to[4096 + 64];
        snprintf(from, sizeof(from), "%s%s", im->old, beside[i]);
        snprintf(to, sizeof(to), "%s%s", im->copy, beside[i]);
        if (!i || has(im->old, beside[i]))
            rc = copy_file(from, to);
    }
    return rc;
}

static void drop_copy(struct import *im)
{
    static const char *const all[] = {"", "-wal", "-journal", "-shm"};
    for (int i = 0; im->copy && i < 4; i++) {
        char name[4096 + 64];
        snprintf(name, sizeof(name), "%s%s", im->copy, all[i]);
        unlink(name);
    }
    free(im->copy);
}

static int open_immutable(const char *path, sqlite3 **ret)
{
    char *uri = malloc(3 * strlen(path) + 64), *at;
    if (!uri)
        return SQLITE_NOMEM;
    at = uri + sprintf(uri, "file:%s", path[0] == '/' ? "" : "./");
    for (; *path; path++)
        at += sprintf(at, strchr("?#%", *path) ? "%%%02X" : "%c", (unsigned char)*path);
    strcpy(at, "?immutable=1");
    int rc = sqlite3_open_v2(uri, ret, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX,
                             NULL);
    free(uri);
    return rc;
}

static int open_old(struct import *im, const char *target, struct eb_error *err)
{
    enum eb_file_kind kind;
    eb_fail(err, EB_INTERNAL, "out of memory");
    if (access(im->old, R_OK)) {
        int rc = -errno;
        eb_fail(err, EB_INTERNAL, "cannot read %.150s: %s", im->old, strerror(-rc));
        return rc;
    }
    bool aside = has(im->old, "-wal") || has(im->old, "-journal");
    int rc = aside ? copy_aside(im, target) : 0;
    if (rc) {
        eb_fail(err, EB_INTERNAL, "cannot copy %.120s beside the new log: %s", im->old,
                strerror(-rc));
        return rc;
    }
    rc = aside
             ? sqlite3_open_v2(im->copy, &im->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL)
             : open_immutable(im->old, &im->db);
    if (rc)
        return eb_sql_errno(im->db, rc);
    rc = eb_schema_probe(aside ? im->copy : im->old, NULL, &kind, err);
    if (rc)
        return rc;
    if (kind == EB_FILE_OLD_EVENTBUS)
        return 0;
    eb_fail(err, EB_INTERNAL, "%.120s is no file of prk_eventbus 0.1%s", im->old,
            kind == EB_FILE_OURS ? ": it is a log of eventbus already, start it with --db" : "");
    return -EINVAL;
}

/* ---- rows ---- */

static uint64_t hash(const char *text, size_t len)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)text[i]) * 1099511628211u;
    return h ^ h >> 32;
}

static int wider(struct import *im)
{
    uint32_t count = im->slot_count ? 2 * im->slot_count : 1024;
    struct name_slot *slots = calloc(count, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    for (uint32_t i = 0; i < im->slot_count; i++) {
        struct name_slot s = im->slots[i];
        if (!s.id)
            continue;
        uint64_t at = hash(im->names.data + s.at, s.len) % count;
        while (slots[at].id)
            at = (at + 1) % count;
        slots[at] = s;
    }
    free(im->slots);
    im->slots = slots;
    im->slot_count = count;
    return 0;
}

/* The number of a topic, given at its first row. */
static int topic_id(struct import *im, const char *name, size_t len, uint32_t *ret)
{
    int rc = 2 * (im->topics + 1) > im->slot_count ? wider(im) : 0;
    if (rc)
        return rc;
    uint64_t at = hash(name, len) % im->slot_count;
    for (; im->slots[at].id; at = (at + 1) % im->slot_count) {
        if (im->slots[at].len == len && !memcmp(im->names.data + im->slots[at].at, name, len)) {
            *ret = im->slots[at].id;
            return 0;
        }
    }
    im->slots[at] = (struct name_slot){++im->topics, (uint32_t)im->names.len, (uint32_t)len};
    eb_buf_add(&im->names, name, len);
    *ret = im->topics;
    return eb_buf_failed(&im->names) ? -ENOMEM : eb_build_topic(im->build, im->topics, name, len);
}

static int leave_out(struct import *im, int64_t seq, const char *why)
{
    if (++im->sum->left_out <= 1000)
        line(im, "left out: message %lld: %s", (long long)seq, why);
    if (im->sum->left_out == 1001)
        line(im, "left out: more messages; they are counted");
    return 0;
}

/* Milliseconds, and the content type; what cannot be read is what the row before had. */
static void read_metadata(struct import *im, sqlite3_stmt *stmt, struct eb_row *row)
{
    struct eb_error err;
    int64_t ts = 0;
    const char *text = (const char *)sqlite3_column_text(stmt, 3);
    if (text && !eb_json_parse(&im->json, text, (size_t)sqlite3_column_bytes(stmt, 3), &err)) {
        uint32_t tok = eb_json_member(&im->json, 0, "timestamp");
        if (tok && eb_json_int64(&im->json, tok, &ts) && ts > 0 &&
            ts < 100000000000) /* until the year 5138 */
            ts *= 1000;
        tok = eb_json_member(&im->json, 0, "content_type");
        if (tok && im->json.tokens[tok].type == EB_JSON_STRING) {
            row->content_type = eb_json_string(&im->json, tok, &row->content_type_len);
            if (!row->content_type_len || row->content_type_len > EB_CONTENT_TYPE_MAX ||
                (row->content_type_len == strlen(EB_CONTENT_TYPE_DEFAULT) &&
                 !memcmp(row->content_type, EB_CONTENT_TYPE_DEFAULT, row->content_type_len))) {
                row->content_type = NULL;
                row->content_type_len = 0;
            }
        }
    }
    row->ts = ts > im->last_ts ? ts : im->last_ts;
    im->last_ts = row->ts;
}

/* (P3) */
static void make_id(uint8_t id[16], const struct eb_row *row, const char *topic)
{
    char text[400];
    int len = snprintf(text, sizeof(text), "prk_eventbus:%llu:%lld:%s",
                       (unsigned long long)row->seq, (long long)row->ts, topic);
    eb_uuid_v5(id, text, (size_t)len);
    for (int i = 0; i < 6; i++)
        id[i] = (uint8_t)((uint64_t)row->ts >> (40 - 8 * i));
    id[6] = (uint8_t)(0x70 | (id[6] & 0x0f));
}

static int take_row(struct import *im, sqlite3_stmt *stmt)
{
    struct eb_error err = {.code = EB_OK};
    uint8_t id[16];
    int64_t seq = sqlite3_column_int64(stmt, 0), ttl = sqlite3_column_int64(stmt, 4);
    const char *topic = (const char *)sqlite3_column_text(stmt, 1);
    size_t len = (size_t)sqlite3_column_bytes(stmt, 1);
    if (seq < 1 || (uint64_t)seq >= EB_SEQ_MAX)
        return leave_out(im, seq, "its seq is not between 1 and 2^53");
    if (!topic || eb_topic_check(topic, len, &err))
        return leave_out(im, seq, topic ? err.message : "it has no topic");
    if (topic[0] == '$')
        return leave_out(im, seq, "topics that begin with $ are the broker's own");
    if (ttl < 0)
        return leave_out(im, seq, "its ttl is negative: it was never delivered there");
    struct eb_row row = {.seq = (uint64_t)seq, .ttl = ttl, .id = id};
    row.payload = sqlite3_column_blob(stmt, 2);
    row.payload_len = (size_t)sqlite3_column_bytes(stmt, 2);
    read_metadata(im, stmt, &row);
    make_id(id, &row, topic);
    int rc = topic_id(im, topic, len, &row.topic_id);
    if (rc)
        return rc;
    row.crc = eb_row_crc(&row, topic, len);
    rc = eb_build_row(im->build, &row);
    const char *status = (const char *)sqlite3_column_text(stmt, 5);
    if (!rc && status && strcmp(status, "pending"))
        rc = eb_build_acked(im->build, row.seq, im->now);
    return rc;
}

static int take_processed(struct import *im, sqlite3_stmt *stmt)
{
    uint8_t id[16];
    char text[EB_UUID_TEXT + 1];
    const char *given = (const char *)sqlite3_column_text(stmt, 0);
    if (!given || !eb_uuid_parse(id, given, (size_t)sqlite3_column_bytes(stmt, 0)))
        return 0;
    eb_uuid_format(text, id);
    return eb_build_imported(im->build, text, EB_UUID_TEXT);
}

static int each(struct import *im, const char *sql,
                int (*take)(struct import *im, sqlite3_stmt *stmt))
{
    sqlite3_stmt *stmt = NULL;
    int rc = eb_sql_prepare(im->db, sql, &stmt), step = SQLITE_DONE;
    while (!rc && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
        rc = take(im, stmt);
        im->done++;
        if (im->ops->progress && (im->done == im->total || eb_mono_ms() - im->told_ms > 100)) {
            im->told_ms = eb_mono_ms();
            im->ops->progress(im->ops->ctx, im->done, im->total);
        }
    }
    if (!rc)
        rc = eb_sql_errno(im->db, step);
    sqlite3_finalize(stmt);
    return rc;
}

static int take_all(struct import *im, struct eb_error *err)
{
    int64_t count = 0, last = 0, sequence = 0, has_sequence = 0;
    int rc = eb_sql_int(im->db, "SELECT count(*) FROM messages", 0, &count);
    im->total = (uint64_t)count;
    im->now = eb_wall_ms();
    if (!rc)
        rc = each(im,
                  "SELECT seq, topic, CAST(payload AS BLOB), metadata, ttl, status FROM messages "
                  "ORDER BY seq",
                  take_row);
    if (!rc)
        rc = each(im, "SELECT message_id FROM processed_messages", take_processed);
    if (!rc)
        rc = eb_sql_int(im->db, "SELECT max(seq) FROM messages", 0, &last);
    if (!rc)
        rc = eb_sql_int(im->db, "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'",
                        0, &has_sequence);
    if (!rc && has_sequence)
        rc = eb_sql_int(im->db, "SELECT seq FROM sqlite_sequence WHERE name = 'messages'", 0,
                        &sequence);
    if (rc) {
        eb_fail(err, EB_INTERNAL, "%.100s cannot be read, or the new log not be written: %s",
                im->old, sqlite3_errcode(im->db) ? sqlite3_errmsg(im->db) : strerror(-rc));
        return rc;
    }
    if (count && im->sum->left_out == (uint64_t)count) {
        eb_fail(err, EB_INTERNAL,
                "not one of the %lld messages in %.100s can be an event here: nothing was made",
                (long long)count, im->old);
        return -EBADMSG;
    }
    last = sequence > last ? sequence : last;
    struct eb_build_end end = {.last_seq =
                                   last > 0 && (uint64_t)last < EB_SEQ_MAX ? (uint64_t)last : 0,
                               .last_ts = im->last_ts};
    return eb_build_finish(im->build, &end, im->sum, err);
}

int eb_store_import(const char *old, const char *target, const struct eb_ops *ops,
                    struct eb_ops_summary *ret, struct eb_error *err)
{
    static const struct eb_ops none;
    struct eb_ops_summary sum = {0};
    char real[PATH_MAX]; /* journal and WAL lie beside the file, not beside a link to it */
    struct import im = {
        .ops = ops ? ops : &none, .sum = &sum, .old = realpath(old, real) ? real : old};
    eb_json_init(&im.json);
    int rc = eb_build_create(target, NULL, &im.build, err);
    if (!rc)
        rc = open_old(&im, target, err);
    if (!rc)
        rc = take_all(&im, err);
    eb_build_destroy(im.build);
    sqlite3_close(im.db);
    drop_copy(&im);
    eb_json_finish(&im.json);
    eb_buf_finish(&im.names);
    free(im.slots);
    if (!rc)
        *ret = sum;
    return rc;
}
