/*
 * backup.c - copy a log into a new file, also while a broker writes to it.
 *
 *   scheduled events, a few hundred at a read, each       publishes go on; no read lasts, so checkpoints do too
 *   checked
 *   one read: last seq E, consumers and theirs, marks,    as they stood at E
 *   topics' last seqs, what is still scheduled
 *   rows up to E, a few hundred at a read, each checked
 *   one read: meta, marks, ids of the deleted             what retention deleted meanwhile is taken back
 *   index, values, sync, name                             build.c
 *
 * So no consumer of the copy stands beyond E, what it counts as handled was handled, and an event that became due is
 * either scheduled or in the log.
 *
 * What cannot be read is named and counted, and the copy is made without it; only a small table that cannot be
 * read stops it. The copy is the log up to E; of an event that was acknowledged or deleted while it was copied it has the one
 * state or the other. A topic comes with its first event: names that have none left are not copied.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/store/build.h"
#include "broker/store/copy.h"
#include "broker/store/ids.h"
#include "broker/store/made.h"
#include "broker/store/schema.h"
#include "broker/store/segments.h"
#include "common/clock.h"

#define ROWS_A_READ  512
#define BYTES_A_READ (4u << 20)
#define LINES_MAX    1000

static const char rows_sql[] =
    "SELECT seq, topic, ts, ttl, id, content_type, headers, payload, crc,"
    " (SELECT name FROM topics WHERE id = topic), (SELECT at FROM acked WHERE acked.seq = log.seq)"
    " FROM log WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";

struct source {
    const struct eb_ops *ops;
    struct eb_ops_summary *sum;
    const char *path;
    sqlite3 *db;
    sqlite3_stmt *rows;
    uint64_t first, end;
    uint64_t done; /* rows up to here were read */
    int lock;
    struct eb_build *build; /* NULL: only look */
    int64_t told_ms;
};

static const struct eb_ops no_ops;

static int source_say(struct source *s, int rc, struct eb_error *err)
{
    if (rc == -EBADMSG)
        eb_fail(
            err, EB_INTERNAL,
            "%.60s is damaged (%.60s): look with `eventbusd --verify --db %.60s`, then --repair",
            s->path, sqlite3_errmsg(s->db), s->path);
    else
        eb_fail(err, EB_INTERNAL, "cannot read %.120s: %.80s", s->path,
                sqlite3_errcode(s->db) ? sqlite3_errmsg(s->db) : strerror(-rc));
    return rc;
}

/* A file that nobody has open and that has no WAL is read as it is: SQLite then makes no file beside it. */
static int open_quiet(struct source *s, struct eb_error *err)
{
    char *uri = malloc(3 * strlen(s->path) + 64), *at;
    if (!uri)
        return -ENOMEM;
    at = uri + sprintf(uri, "file:%s", s->path[0] == '/' ? "" : "./");
    for (const char *p = s->path; *p; p++)
        at += sprintf(at, strchr("?#%", *p) ? "%%%02X" : "%c", (unsigned char)*p);
    strcpy(at, "?immutable=1");
    int rc = sqlite3_open_v2(
        uri, &s->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, s->ops->vfs);
    free(uri);
    return rc == SQLITE_OK ? 0 : source_say(s, eb_sql_errno(s->db, rc), err);
}

static int check_kind(struct source *s, struct eb_error *err)
{
    enum eb_file_kind kind;
    int rc = eb_schema_probe(s->path, s->ops->vfs, &kind, err);
    if (!rc && kind == EB_FILE_ABSENT) {
        eb_fail(err, EB_INTERNAL, "there is no log %.150s", s->path);
        return -ENOENT;
    }
    return rc ? rc : kind == EB_FILE_OURS ? 0 : -EINVAL;
}

/* Where the log begins and ends now. */
static int find_end(struct source *s)
{
    int64_t first = 0, last = 0, given = 0;
    int rc = eb_sql_int(s->db, "SELECT min(seq) FROM log", 0, &first);
    if (!rc)
        rc = eb_sql_int(s->db, "SELECT max(seq) FROM log", 0, &last);
    if (!rc)
        rc = eb_meta_int(s->db, EB_META_LAST_SEQ, 0, &given);
    s->first = s->first ? s->first : (uint64_t)first;
    s->end = (uint64_t)(given > last ? given : last);
    return rc;
}

static int source_open(struct source *s, bool lockable, struct eb_error *err)
{
    char real[PATH_MAX], wal[PATH_MAX + 8];
    s->lock = -1;
    int rc = check_kind(s, err);
    if (rc)
        return rc;
    bool busy = lockable && eb_log_lock(s->path, &s->lock, err) == -EBUSY;
    snprintf(wal, sizeof(wal), "%s-wal", realpath(s->path, real) ? real : s->path);
    if (!busy && access(wal, F_OK))
        rc = open_quiet(s, err);
    else
        rc = eb_db_open(s->path, s->ops->vfs, EB_DB_READ, &s->db, err);
    if (rc)
        return rc;
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (!busy) /* the broker may have started meanwhile: then we are beside it, and hold it up no longer */
        eb_log_unlock(s->lock);
    s->lock = -1;
    rc = eb_sql_prepare(s->db, rows_sql, &s->rows);
    if (!rc)
        rc = find_end(s);
    return rc ? source_say(s, rc, err) : 0;
}

static void source_close(struct source *s)
{
    sqlite3_finalize(s->rows);
    sqlite3_close(s->db);
    eb_log_unlock(s->lock);
}

static void progress(struct source *s, uint64_t seq)
{
    int64_t now = eb_mono_ms();
    if (s->ops->progress && (now - s->told_ms > 100 || seq >= s->end)) {
        s->told_ms = now;
        s->ops->progress(s->ops->ctx, seq < s->first ? 0 : seq - s->first + 1,
                         s->end - s->first + 1);
    }
}

/* The copy goes on without them: on the bad day one flipped bit must not cost the backup. */
static void lost(struct source *s, uint64_t from, uint64_t to)
{
    char line[80];
    if (from == to)
        snprintf(line, sizeof(line), "lost: event %llu", (unsigned long long)from);
    else
        snprintf(line, sizeof(line), "lost: events %llu to %llu", (unsigned long long)from,
                 (unsigned long long)to);
    if (s->sum->damaged < LINES_MAX && s->ops->report)
        s->ops->report(s->ops->ctx, line);
    s->sum->damaged += to - from + 1;
}

static int one_row(struct source *s, struct eb_row *row, struct eb_error *err)
{
    const char *topic = (const char *)sqlite3_column_text(s->rows, 9);
    size_t len = topic ? (size_t)sqlite3_column_bytes(s->rows, 9) : 0;
    int rc = eb_row_read(s->rows, row);
    if (!rc)
        rc = eb_row_check(row, topic, len);
    if (rc == -EBADMSG) {
        lost(s, row->seq, row->seq);
        return 0;
    }
    s->sum->rows++;
    s->sum->first_seq = s->sum->first_seq ? s->sum->first_seq : row->seq;
    if (!s->build)
        return 0;
    rc = eb_build_topic(s->build, row->topic_id, topic, len);
    if (!rc)
        rc = eb_build_row(s->build, row);
    if (!rc && sqlite3_column_type(s->rows, 10) == SQLITE_INTEGER)
        rc = eb_build_acked(s->build, row->seq, sqlite3_column_int64(s->rows, 10));
    return rc ? eb_build_say(s->build, rc, err) : 0;
}

/* One short read. *seq moves on; at the end it is s->end. */
static int some_rows(struct source *s, uint64_t *seq, struct eb_error *err)
{
    size_t bytes = 0;
    int n = 0, rc = 0, step;
    sqlite3_bind_int64(s->rows, 1, (sqlite3_int64)*seq + 1);
    sqlite3_bind_int64(s->rows, 2, (sqlite3_int64)s->end);
    sqlite3_bind_int(s->rows, 3, ROWS_A_READ);
    while ((step = sqlite3_step(s->rows)) == SQLITE_ROW && !rc) {
        struct eb_row row;
        rc = one_row(s, &row, err);
        *seq = row.seq;
        bytes += row.payload_len;
        n++;
        if (bytes >= BYTES_A_READ)
            break;
    }
    if (!rc && step == SQLITE_DONE && n < ROWS_A_READ)
        *seq = s->end;
    if (step != SQLITE_ROW && step != SQLITE_DONE && !rc)
        rc = source_say(s, eb_sql_errno(s->db, step), err);
    sqlite3_reset(s->rows);
    return rc;
}

/* Can the first event above @seq be read, or is there none? */
static bool readable(struct source *s, uint64_t seq)
{
    sqlite3_bind_int64(s->rows, 1, (sqlite3_int64)seq + 1);
    sqlite3_bind_int64(s->rows, 2, (sqlite3_int64)s->end);
    sqlite3_bind_int(s->rows, 3, 1);
    int step = sqlite3_step(s->rows);
    sqlite3_reset(s->rows);
    return step == SQLITE_ROW || step == SQLITE_DONE;
}

/* A page of the log makes no sense: go on behind it, with as few lost as can be. */
static void pass_page(struct source *s, uint64_t *seq)
{
    uint64_t bad = *seq, good = bad + 1;
    for (uint64_t step = 1; good < s->end && !readable(s, good); step *= 2) {
        bad = good;
        good = good + step < s->end ? good + step : s->end;
    }
    while (good - bad > 1) {
        uint64_t mid = bad + (good - bad) / 2;
        if (readable(s, mid))
            good = mid;
        else
            bad = mid;
    }
    lost(s, *seq + 1, good);
    *seq = good;
}

static int all_rows(struct source *s, struct eb_error *err)
{
    int rc = 0;
    while (!rc && s->done < s->end) {
        rc = some_rows(s, &s->done, err);
        if (rc == -EBADMSG) {
            pass_page(s, &s->done);
            rc = 0;
        }
        progress(s, s->done);
    }
    return rc;
}

/* ---- the small tables ---- */

static int each(struct source *s, const char *sql,
                int (*take)(struct source *s, sqlite3_stmt *stmt))
{
    sqlite3_stmt *stmt = NULL;
    int rc = eb_sql_prepare(s->db, sql, &stmt), step = SQLITE_DONE;
    while (!rc && (step = sqlite3_step(stmt)) == SQLITE_ROW)
        rc = take(s, stmt);
    if (!rc)
        rc = eb_sql_errno(s->db, step);
    sqlite3_finalize(stmt);
    return rc;
}

static int take_acked(struct source *s, sqlite3_stmt *stmt)
{
    uint64_t seq = (uint64_t)sqlite3_column_int64(stmt, 0);
    return seq <= s->end ? eb_build_acked(s->build, seq, sqlite3_column_int64(stmt, 1)) : 0;
}

static int take_gone(struct source *s)
{
    struct eb_ids_list gone = {NULL};
    int rc = eb_ids_gone(s->db, INT64_MIN, &gone);
    for (size_t i = 0; i < gone.count && !rc; i++)
        if (gone.entries[i].seq <= s->end)
            rc = eb_build_gone(s->build, gone.entries[i].id, gone.entries[i].seq,
                               gone.entries[i].timestamp);
    free(gone.entries);
    return rc;
}

static int take_imported(struct source *s, sqlite3_stmt *stmt)
{
    return eb_build_imported(s->build, (const char *)sqlite3_column_text(stmt, 0),
                             (size_t)sqlite3_column_bytes(stmt, 0));
}

static int small_tables(struct source *s, struct eb_build_end *end, char epoch[64],
                        char id_key[EB_MADE_TEXT])
{
    int64_t deleted = 0, ts = 0, imported = 0;
    int rc = eb_sql_exec(s->db, "BEGIN");
    if (!rc)
        rc = eb_meta_text(s->db, EB_META_EPOCH, epoch, 64);
    if (!rc)
        rc = eb_meta_text(s->db, EB_META_ID_KEY, id_key, EB_MADE_TEXT);
    if (!rc)
        rc = eb_meta_int(s->db, EB_META_DELETED_UPTO, 0, &deleted);
    if (!rc)
        rc = eb_meta_int(s->db, EB_META_LAST_TS, 0, &ts);
    if (!rc)
        rc = each(s, "SELECT seq, at FROM acked ORDER BY seq", take_acked);
    if (!rc)
        rc = take_gone(s);
    if (!rc)
        rc = eb_sql_int(s->db, "SELECT count(*) FROM sqlite_schema WHERE name = 'imported'", 0,
                        &imported);
    if (!rc && imported)
        rc = each(s, "SELECT message_id FROM imported", take_imported);
    sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);
    end->deleted_upto = (uint64_t)deleted < s->end ? (uint64_t)deleted : s->end;
    end->last_ts = ts;
    end->last_seq = s->end;
    return rc;
}

/* The end of the copy, and all that must fit it. */
static int fix_end(struct source *s, struct eb_error *err)
{
    struct eb_copy_kept kept = {.from = s->db, .build = s->build, .ops = s->ops, .sum = s->sum};
    int rc = eb_copy_kept_begin(&kept);
    if (!rc)
        rc = eb_copy_scheduled(&kept);
    if (!rc)
        rc = eb_sql_exec(s->db, "BEGIN");
    if (!rc)
        rc = find_end(s);
    if (!rc)
        rc = eb_copy_kept_end(&kept);
    sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);
    return rc ? source_say(s, rc, err) : 0;
}

static int copy(const char *path, const char *target, bool restore, const struct eb_ops *ops,
                struct eb_ops_summary *ret, struct eb_error *err)
{
    struct eb_ops_summary sum = {0};
    struct source s = {.ops = ops ? ops : &no_ops, .sum = &sum, .path = path};
    struct eb_build_end end = {0};
    char epoch[64], id_key[EB_MADE_TEXT];
    int rc = eb_build_create(target, s.ops->vfs, &s.build, err);
    if (rc)
        return rc;
    rc = source_open(&s, !restore, err);
    if (!rc)
        rc = fix_end(&s, err);
    if (!rc)
        rc = all_rows(&s, err);
    if (!rc) {
        rc = small_tables(&s, &end, epoch, id_key);
        if (rc)
            source_say(&s, rc, err);
    }
    if (!rc && end.deleted_upto)
        rc = eb_build_trim(s.build, end.deleted_upto);
    end.epoch = restore ? NULL : epoch;
    /* With a new epoch the first start of the copy begins a new era. What it lacks it must not know as deleted. */
    end.id_key = sum.damaged ? NULL : id_key;
    if (!rc)
        rc = eb_build_finish(s.build, &end, &sum, err);
    eb_build_destroy(s.build);
    source_close(&s);
    if (!rc)
        *ret = sum;
    return rc;
}

int eb_store_backup(const char *path, const char *target, const struct eb_ops *ops,
                    struct eb_ops_summary *ret, struct eb_error *err)
{
    return copy(path, target, false, ops, ret, err);
}

int eb_store_restore(const char *from, const char *target, const struct eb_ops *ops,
                     struct eb_ops_summary *ret, struct eb_error *err)
{
    return copy(from, target, true, ops, ret, err);
}

/* ---- verify beside a running broker ---- */

static int look_at_list(struct source *s, sqlite3_stmt *stmt)
{
    uint64_t segment = (uint64_t)sqlite3_column_int64(stmt, 0);
    uint32_t topic = (uint32_t)sqlite3_column_int64(stmt, 1);
    if (eb_postings_check(segment, topic, sqlite3_column_blob(stmt, 2),
                          (size_t)sqlite3_column_bytes(stmt, 2)) >= 0)
        return 0;
    char line[120];
    snprintf(line, sizeof(line), "postings: the list of topic %u in segment %llu is damaged", topic,
             (unsigned long long)segment);
    if (++s->sum->problems <= 1000 && s->ops->report)
        s->ops->report(s->ops->ctx, line);
    return 0;
}

/* A read for each segment, so that none lasts. */
static int look_at_lists(struct source *s)
{
    int64_t segment = -1;
    int rc = 0;
    while (!rc) {
        char sql[160];
        snprintf(sql, sizeof(sql),
                 "SELECT segment FROM postings WHERE place >= %lld << 32 ORDER BY place LIMIT 1",
                 (long long)segment + 1);
        rc = eb_sql_int(s->db, sql, -1, &segment);
        if (rc || segment < 0)
            break;
        snprintf(sql, sizeof(sql),
                 "SELECT segment, topic, seqs FROM postings WHERE place BETWEEN %lld << 32 AND "
                 "(%lld << 32 |"
                 " 4294967295)",
                 (long long)segment, (long long)segment);
        rc = each(s, sql, look_at_list);
    }
    return rc;
}

static int look_at_kept(struct source *s)
{
    struct eb_copy_kept kept = {.from = s->db, .ops = s->ops, .sum = s->sum};
    int rc = eb_copy_kept_begin(&kept);
    if (!rc)
        rc = eb_copy_scheduled(&kept);
    if (!rc)
        rc = eb_sql_exec(s->db, "BEGIN");
    if (!rc)
        rc = find_end(s);
    if (!rc)
        rc = eb_look_at_kept(&kept, s->end);
    sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);
    return rc;
}

int eb_verify_online(const char *path, const struct eb_ops *ops, struct eb_ops_summary *ret,
                     struct eb_error *err)
{
    struct eb_ops_summary sum = {0};
    struct source s = {.ops = ops ? ops : &no_ops, .sum = &sum, .path = path};
    int64_t topics = 0, acked = 0;
    int rc = source_open(&s, true, err);
    if (!rc)
        rc = all_rows(&s, err);
    if (!rc)
        rc = look_at_lists(&s);
    if (!rc)
        rc = look_at_kept(&s);
    if (!rc)
        rc = eb_sql_int(s.db, "SELECT count(*) FROM topics", 0, &topics);
    if (!rc)
        rc = eb_sql_int(s.db, "SELECT count(*) FROM acked", 0, &acked);
    if (!rc)
        rc = eb_meta_text(s.db, EB_META_EPOCH, sum.epoch, sizeof(sum.epoch));
    sum.topics = (uint64_t)topics;
    sum.acked = (uint64_t)acked;
    sum.last_seq = s.end;
    source_close(&s);
    if (!rc || rc == -EBADMSG)
        *ret = sum;
    return rc ? rc : sum.damaged || sum.problems ? -EBADMSG : 0;
}
