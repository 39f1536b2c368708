/*
 * build.c - make a new log: rows first, then lists and values, then durable, then its name.
 *
 *   TARGET.part-PID    no journal, no sync: nobody needs it after a crash
 *        | rows, topics, marks; index by segments; meta
 *        | WAL mode, closed, fsync
 *        v
 *   TARGET             link() refuses a name that is taken; then the folder is synced
 */
#include "broker/store/build_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/store/schema.h"
#include "broker/store/segments.h"
#include "common/topic.h"
#include "common/uuid.h"

const char *const eb_build_sql[PUT_COUNT] = {
    "INSERT OR IGNORE INTO topics(id, name) VALUES(?1, ?2)",
    "INSERT OR IGNORE INTO log(" EB_ROW_COLUMNS ") VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9)",
    "INSERT OR IGNORE INTO expiry(at, seq) VALUES(?1, ?2)",
    "INSERT OR IGNORE INTO acked(seq, at) SELECT ?1, ?2 FROM log WHERE seq = ?1",
    "INSERT OR IGNORE INTO gone(id, seq, ts) VALUES(?1, ?2, ?3)",
    "INSERT OR IGNORE INTO replies(topic, events) VALUES(?1, 0)",
    "UPDATE replies SET events = events + 1 WHERE topic = ?1",
    "UPDATE topics SET last_seq = max(last_seq, ?2) WHERE id = ?1",
    "INSERT OR IGNORE INTO consumers(id, name, settings, made, next, first_open, redelivered, dead,"
    " lost, stopped) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    "INSERT OR IGNORE INTO open_blocks(consumer, block, data) VALUES(?1, ?2, ?3)",
    "INSERT OR IGNORE INTO dead_letters(consumer, seq) VALUES(?1, ?2)",
    "INSERT OR IGNORE INTO marks(name, value) VALUES(?1, ?2)",
    "INSERT OR IGNORE INTO scheduled(" EB_SCHEDULED_COLUMNS
    ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    "INSERT OR IGNORE INTO imported(message_id) VALUES(?1)",
    "INSERT OR IGNORE INTO there VALUES(?1, ?2)",
};

/* The ids come beside those of the log's own marks. */
static const char imported_sql[] =
    "CREATE TABLE imported(message_id TEXT PRIMARY KEY) WITHOUT ROWID;"
    "CREATE TEMP TABLE old_view AS SELECT sql FROM sqlite_schema WHERE name = 'processed_messages'";

static int add_imported(struct eb_build *build)
{
    char *sql = NULL;
    sqlite3_stmt *stmt = NULL;
    int rc = eb_sql_exec(build->db, imported_sql);
    if (!rc)
        rc = eb_sql_prepare(build->db,
                            "SELECT sql || ' UNION SELECT message_id FROM imported' FROM old_view",
                            &stmt);
    if (!rc && sqlite3_step(stmt) == SQLITE_ROW)
        sql = sqlite3_mprintf("DROP VIEW processed_messages; %s", sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    if (!rc)
        rc = sql ? eb_sql_exec(build->db, sql) : -ENOMEM;
    sqlite3_free(sql);
    if (!rc)
        rc = eb_sql_prepare(build->db, eb_build_sql[PUT_IMPORTED], &build->put[PUT_IMPORTED]);
    build->has_imported = !rc;
    return rc;
}

int eb_build_say(struct eb_build *build, int rc, struct eb_error *err)
{
    const char *db =
        build && build->db && sqlite3_errcode(build->db) ? sqlite3_errmsg(build->db) : NULL;
    if (rc == -ENOSPC)
        eb_fail(err, EB_STORAGE_FULL, "no room on the disk for %.150s: nothing was made",
                build->target);
    else if (rc == -ENOMEM)
        eb_fail(err, EB_INTERNAL, "out of memory: nothing was made");
    else
        eb_fail(err, EB_INTERNAL, "cannot write %.120s: %.80s: nothing was made", build->target,
                db ? db : strerror(-rc));
    return rc;
}

static int refuse_taken(const char *target, struct eb_error *err)
{
    eb_fail(err, EB_CONFLICT,
            "%.150s is there already and is left as it is: name a file that is not there", target);
    return -EEXIST;
}

static int open_part(struct eb_build *build, const char *vfs, struct eb_error *err)
{
    /* Made by us alone: a link of that name that somebody laid there is refused. */
    int fd = open(build->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        int rc = -errno;
        eb_fail(err, rc == -ENOSPC ? EB_STORAGE_FULL : EB_INTERNAL, "cannot make %.150s: %s",
                build->part, strerror(-rc));
        free(build->part); /* not ours: leave it */
        build->part = NULL;
        return rc;
    }
    close(fd);
    int rc = eb_db_open(build->part, vfs, EB_DB_WRITE, &build->db, err);
    if (rc)
        return rc;
    rc = eb_schema_create(build->db);
    if (!rc)
        rc = eb_sql_exec(build->db,
                         "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
                         "PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -65536; BEGIN");
    for (int i = 0; i < PUT_IMPORTED && !rc; i++)
        rc = eb_sql_prepare(build->db, eb_build_sql[i], &build->put[i]);
    return rc ? eb_build_say(build, rc, err) : 0;
}

int eb_build_create(const char *target, const char *vfs, struct eb_build **ret,
                    struct eb_error *err)
{
    struct stat st;
    if (!lstat(target, &st))
        return refuse_taken(target, err);
    struct eb_build *build = calloc(1, sizeof(*build));
    int rc = -ENOMEM;
    if (build)
        build->target = strdup(target);
    if (build && build->target && asprintf(&build->part, "%s.part-%ld", target, (long)getpid()) < 0)
        build->part = NULL;
    if (!build || !build->part) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        goto fail;
    }
    rc = open_part(build, vfs, err);
    if (rc)
        goto fail;
    *ret = build;
    return 0;
fail:
    eb_build_destroy(build);
    return rc;
}

static int close_db(struct eb_build *build)
{
    for (int i = 0; i < PUT_COUNT; i++) {
        sqlite3_finalize(build->put[i]);
        build->put[i] = NULL;
    }
    int rc = eb_sql_errno(build->db, sqlite3_close(build->db));
    build->db = NULL;
    return rc;
}

void eb_build_destroy(struct eb_build *build)
{
    if (!build)
        return;
    close_db(build);
    if (build->part) {
        static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
        char name[4096 + 64];
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof(name), "%s%s", build->part, suffixes[i]);
            unlink(name);
        }
    }
    free(build->target);
    free(build->part);
    free(build);
}

int eb_build_put(struct eb_build *build, int which, bool *ret_new)
{
    sqlite3_stmt *stmt = build->put[which];
    int rc = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    if (rc != SQLITE_DONE)
        return eb_sql_errno(build->db, rc);
    *ret_new = sqlite3_changes(build->db) > 0;
    return 0;
}

int eb_build_topic(struct eb_build *build, uint32_t id, const char *name, size_t len)
{
    bool fresh = false;
    sqlite3_bind_int64(build->put[PUT_TOPIC], 1, id);
    sqlite3_bind_text(build->put[PUT_TOPIC], 2, name, (int)len, SQLITE_STATIC);
    int rc = eb_build_put(build, PUT_TOPIC, &fresh);
    build->topics += fresh;
    if (rc || !eb_topic_is_reply(name, len))
        return rc;
    build->has_replies = true;
    sqlite3_bind_int64(build->put[PUT_REPLY], 1, id);
    return eb_build_put(build, PUT_REPLY, &fresh);
}

int eb_build_row(struct eb_build *build, const struct eb_row *row)
{
    bool fresh = false;
    int rc = eb_sql_errno(build->db, eb_row_bind(build->put[PUT_ROW], row));
    if (!rc)
        rc = eb_build_put(build, PUT_ROW, &fresh);
    if (rc || !fresh)
        return rc;
    build->rows++;
    if (build->has_replies) {
        sqlite3_bind_int64(build->put[PUT_REPLY_ROW], 1, row->topic_id);
        rc = eb_build_put(build, PUT_REPLY_ROW, &fresh);
        if (rc)
            return rc;
    }
    build->last_seq = row->seq > build->last_seq ? row->seq : build->last_seq;
    build->last_ts = row->ts > build->last_ts ? row->ts : build->last_ts;
    int64_t at = eb_row_expires(row->ts, row->ttl);
    if (at == INT64_MAX)
        return 0;
    sqlite3_bind_int64(build->put[PUT_EXPIRY], 1, at);
    sqlite3_bind_int64(build->put[PUT_EXPIRY], 2, (sqlite3_int64)row->seq);
    return eb_build_put(build, PUT_EXPIRY, &fresh);
}

int eb_build_acked(struct eb_build *build, uint64_t seq, int64_t at)
{
    bool fresh = false;
    sqlite3_bind_int64(build->put[PUT_ACKED], 1, (sqlite3_int64)seq);
    sqlite3_bind_int64(build->put[PUT_ACKED], 2, at);
    int rc = eb_build_put(build, PUT_ACKED, &fresh);
    build->acked += fresh;
    return rc;
}

int eb_build_gone(struct eb_build *build, const uint8_t id[16], uint64_t seq, int64_t ts)
{
    bool fresh;
    sqlite3_bind_blob(build->put[PUT_GONE], 1, id, 16, SQLITE_STATIC);
    sqlite3_bind_int64(build->put[PUT_GONE], 2, (sqlite3_int64)seq);
    sqlite3_bind_int64(build->put[PUT_GONE], 3, ts);
    return eb_build_put(build, PUT_GONE, &fresh);
}

int eb_build_imported(struct eb_build *build, const char *id, size_t len)
{
    bool fresh;
    int rc = build->has_imported ? 0 : add_imported(build);
    if (rc)
        return rc;
    sqlite3_bind_text(build->put[PUT_IMPORTED], 1, id, (int)len, SQLITE_STATIC);
    return eb_build_put(build, PUT_IMPORTED, &fresh);
}

int eb_build_trim(struct eb_build *build, uint64_t seq)
{
    char sql[512];
    snprintf(sql, sizeof(sql),
             "WITH gone AS (SELECT topic, count(*) AS n FROM log WHERE seq <= %llu GROUP BY topic)"
             " UPDATE replies SET events = events - gone.n FROM gone"
             " WHERE gone.topic = replies.topic; DELETE FROM expiry WHERE seq <= %llu; DELETE FROM "
             "acked WHERE seq <= %llu;"
             "DELETE FROM log WHERE seq <= %llu",
             (unsigned long long)seq, (unsigned long long)seq, (unsigned long long)seq,
             (unsigned long long)seq);
    return eb_sql_exec(build->db, sql);
}

uint64_t eb_build_last_seq(const struct eb_build *build)
{
    return build->last_seq;
}

static int write_meta(struct eb_build *build, const struct eb_build_end *end)
{
    sqlite3 *db = build->db;
    int64_t last_ts = end->last_ts > build->last_ts ? end->last_ts : build->last_ts;
    int rc = end->epoch ? eb_meta_set_text(db, EB_META_EPOCH, end->epoch) : eb_meta_new_epoch(db);
    if (!rc)
        rc = eb_meta_set_int(db, EB_META_LAST_SEQ, (int64_t)build->last_seq);
    if (!rc)
        rc = eb_meta_set_int(db, EB_META_DELETED_UPTO, (int64_t)end->deleted_upto);
    if (!rc)
        rc = eb_meta_set_int(db, EB_META_LAST_TS, last_ts);
    if (!rc && end->id_key && end->id_key[0])
        rc = eb_meta_set_text(db, EB_META_ID_KEY, end->id_key);
    return rc ? rc : eb_meta_set_int(db, EB_META_CLEAN, 1);
}

static int count_up(struct eb_build *build, struct eb_ops_summary *ret)
{
    int64_t n[7] = {0};
    static const char *const sql[7] = {
        "SELECT count(*) FROM log",
        "SELECT count(*) FROM topics",
        "SELECT count(*) FROM acked",
        "SELECT min(seq) FROM log",
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
        "SELECT count(*) FROM consumers",
        "SELECT count(*) FROM scheduled"};
    for (int i = 0; i < 7; i++) {
        int rc = eb_sql_int(build->db, sql[i], 0, &n[i]);
        if (rc)
            return rc;
    }
    ret->rows = (uint64_t)n[0];
    ret->topics = (uint64_t)n[1];
    ret->acked = (uint64_t)n[2];
    ret->first_seq = (uint64_t)n[3];
    ret->bytes = (uint64_t)n[4];
    ret->consumers = (uint64_t)n[5];
    ret->scheduled = (uint64_t)n[6];
    ret->last_seq = build->last_seq;
    return eb_meta_text(build->db, EB_META_EPOCH, ret->epoch, sizeof(ret->epoch));
}

/* Sync it and give it its name: the old one goes only when the new one is there. */
static int name_it(struct eb_build *build)
{
    int fd = open(build->part, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) ? -errno : 0;
    close(fd);
    if (rc)
        return rc;
    if (renameat2(AT_FDCWD, build->part, AT_FDCWD, build->target, RENAME_NOREPLACE)) {
        /* Not every file system has it; link refuses a taken name as well. */
        if (errno != EINVAL && errno != ENOSYS)
            return -errno;
        if (link(build->part, build->target))
            return -errno;
        unlink(build->part);
    }
    return eb_sync_folder(build->target);
}

int eb_build_finish(struct eb_build *build, const struct eb_build_end *end,
                    struct eb_ops_summary *ret, struct eb_error *err)
{
    struct eb_ops_summary s = *ret;
    if (end->last_seq > build->last_seq)
        build->last_seq = end->last_seq;
    int rc = eb_build_kept_finish(build, end->rewind);
    if (!rc)
        rc = write_meta(build, end);
    if (!rc && build->has_replies)
        rc = eb_sql_exec(build->db, "DELETE FROM topics WHERE id IN (SELECT topic FROM replies"
                                    " WHERE events <= 0); DELETE FROM replies WHERE events <= 0");
    if (!rc)
        rc = eb_sql_exec(build->db, "COMMIT");
    if (!rc)
        rc = eb_segments_complete(build->db, eb_segment_of(build->last_seq + 1));
    if (!rc)
        rc = count_up(build, &s);
    if (!rc)
        rc = eb_sql_exec(build->db, "PRAGMA journal_mode = WAL");
    if (rc)
        return eb_build_say(build, rc, err);
    rc = close_db(build);
    if (!rc)
        rc = name_it(build);
    if (rc == -EEXIST)
        return refuse_taken(build->target, err);
    if (rc)
        return eb_build_say(build, rc, err);
    *ret = s;
    return 0;
}
