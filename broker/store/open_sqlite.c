/*
 * open_sqlite.c - the log in an SQLite file: opening and closing it.
 *
 *   probe (read-only) -> lock -> check -> open, make or migrate -> marks of this run -> figures, index -> statements
 *
 * (O1) A file that is not ours is refused before anything is made beside it; a file that is ours is written to
 *      only under its lock.
 * (O2) The start writes (clean = 0) before anything is read: with synchronous = FULL that syncs the whole WAL,
 *      so what a killed broker had committed and not yet synced is as safe as what it answered.
 * (O3) `clean` = 1 is the last thing that an orderly end commits. After trouble it is not, and the WAL stays as
 *      it is: the next start looks at it with fresh eyes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/check.h"
#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"
#include "common/log.h"

static void boot_id(char out[64])
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

    out[0] = '\0';
    if (!file)
        return;
    if (!fgets(out, 64, file))
        out[0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    fclose(file);
}

/* May the last run have lost what it had answered (PROTOCOL 1, epoch)? A boot id that is not known may differ. */
static int lost_history(sqlite3 *db, const char *boot, bool *ret)
{
    char durability[16], before[64];
    int64_t clean;
    int result = eb_meta_int(db, EB_META_CLEAN, 1, &clean);

    if (result == 0)
        result = eb_meta_text(db, EB_META_DURABILITY, durability, sizeof(durability));
    if (result == 0)
        result = eb_meta_text(db, EB_META_BOOT_ID, before, sizeof(before));
    if (result == 0)
        *ret = !clean && strcmp(durability, "os") == 0 &&
               (boot[0] == '\0' || strcmp(before, boot) != 0);
    return result;
}

/* The marks of this run, and a new epoch if it needs one (O2). */
static int mark_start(struct eb_sqlite *e, bool new_epoch)
{
    bool lost = false;
    char boot[64];
    int result;

    boot_id(boot);
    result = eb_sql_exec(e->db, "BEGIN IMMEDIATE");
    if (result < 0)
        return result;
    result = lost_history(e->db, boot, &lost);
    if (result == 0 && (new_epoch || lost))
        result = eb_meta_new_epoch(e->db);
    if (result == 0)
        result = eb_meta_set_int(e->db, EB_META_CLEAN, 0);
    if (result == 0) /* from here on it is not believed (ids_sqlite.c, I1) */
        result = eb_sql_exec(e->db, "DELETE FROM meta WHERE key = '" EB_META_SAVED "'");
    if (result == 0)
        result = eb_meta_set_text(e->db, EB_META_BOOT_ID, boot);
    if (result == 0)
        result = eb_meta_set_text(e->db, EB_META_DURABILITY,
                                  e->durability == EB_DURABILITY_OS ? "os" : "fsync");
    if (result == 0)
        result = eb_sql_exec(e->db, "COMMIT");
    if (result < 0 && !sqlite3_get_autocommit(e->db))
        sqlite3_exec(e->db, "ROLLBACK", NULL, NULL, NULL);
    if (result == 0 && lost)
        eb_warn("EB-NEW-EPOCH", "the machine was restarted while the log ran with durability = os: "
                                "the newest events may "
                                "be lost, so the log has a new epoch");
    return result;
}

static int number(sqlite3 *db, const char *sql, uint64_t *ret)
{
    int64_t value;
    int result = eb_sql_int(db, sql, 0, &value);

    if (result == 0)
        *ret = value > 0 ? (uint64_t)value : 0;
    return result;
}

/* What the tables say the log is; the open segment comes later. */
static int load_state(struct eb_sqlite *e)
{
    struct eb_sqlite_state *now = &e->now;
    uint64_t top = 0, last = 0;
    int64_t meta_last = 0, meta_ts = 0, ts = 0, deleted = 0, ids = 0;
    int result = number(e->db, "SELECT max(id) FROM topics", &top);

    if (result == 0)
        result = eb_sql_int(e->db, "SELECT max(part) FROM ids", 0, &ids);
    if (result == 0)
        result = number(e->db, "SELECT min(seq) FROM log", &now->first_seq);
    if (result == 0)
        result = number(e->db, "SELECT max(seq) FROM log", &last);
    if (result == 0)
        result = eb_sql_int(e->db, "SELECT ts FROM log ORDER BY seq DESC LIMIT 1", 0, &ts);
    if (result == 0)
        result = eb_meta_int(e->db, EB_META_LAST_SEQ, 0, &meta_last);
    if (result == 0)
        result = eb_meta_int(e->db, EB_META_LAST_TS, 0, &meta_ts);
    if (result == 0)
        result = eb_meta_int(e->db, EB_META_DELETED_UPTO, 0, &deleted);
    if (result < 0)
        return result;
    now->topic_top = (uint32_t)top;
    now->last_seq = (uint64_t)meta_last > last ? (uint64_t)meta_last : last; /* (E2) */
    now->tail = last > 0 && last == now->last_seq;
    now->last_ts = meta_ts > ts ? meta_ts : ts;
    now->deleted_upto = (uint64_t)deleted;
    now->ids_top = ids > 0 ? ids : 0;
    now->ids_saved = true; /* the same */
    e->saved.newest_ts = now->last_ts;
    e->saved.there = e->saved.there && e->saved.last_seq == now->last_seq &&
                     strcmp(e->saved.epoch, e->epoch) == 0;
    if (e->saved.there)
        now->topics = e->saved.topics;
    else
        result = number(e->db, "SELECT count(*) FROM topics", &now->topics);
    now->dead_segments = true; /* to be looked for once */
    now->acked_sweep = now->gone_sweep = (struct eb_sweep){.next = INT64_MIN};
    return result;
}

/* The index: closed segments that lack theirs, then the open one, then the sums. */
static int load_segments(struct eb_sqlite *e)
{
    struct eb_sqlite_state *now = &e->now;
    uint64_t open = eb_segment_of(now->last_seq + 1);
    int result = 0;

    if (!e->saved.there) /* else the run that left it has seen to that */
        result = eb_segments_complete(e->db, open);
    if (result == 0)
        result = number(e->db, "SELECT sum(events) FROM segments", &now->events);
    if (result == 0)
        result = number(e->db, "SELECT sum(bytes) FROM segments", &now->bytes);
    if (result == 0)
        result = number(e->db, "SELECT sum(acked) FROM segments", &now->acked);
    if (result < 0)
        return result;
    e->open = eb_segment_create(open);
    if (!e->open)
        return -ENOMEM;
    if (!e->saved.there || !eb_ids_load_segment(e, e->open))
        result = eb_segment_load(e->open, e->db);
    if (result < 0)
        return result;
    now->open_events = e->open->events;
    now->open_bytes = e->open->bytes;
    now->open_acked = e->open->acked;
    now->open_last_ts = e->open->last_ts;
    now->events += now->open_events;
    now->bytes += now->open_bytes;
    now->acked += now->open_acked;
    return 0;
}

/* Whose is it, by what SQLite reads (WAL included); make or migrate it. */
static int settle_schema(struct eb_sqlite *e, bool fresh)
{
    int64_t application = 0, objects = 0;
    int result = eb_sql_int(e->db, "PRAGMA application_id", 0, &application);

    if (result == 0)
        result = eb_sql_int(e->db, "SELECT count(*) FROM sqlite_schema", 0, &objects);
    if (result == 0 && fresh && application == 0 && objects == 0) {
        result = eb_schema_create(e->db);
        if (result == 0)
            result = eb_sync_folder(e->path);
    } else if (result == 0 && application != EB_APPLICATION_ID) {
        return -EINVAL;
    }
    if (result == 0)
        result = eb_db_journal(e->db, e->durability == EB_DURABILITY_FSYNC);
    if (result == 0)
        result = eb_schema_migrate(e->db, eb_schema_migrations, EB_SCHEMA_VERSION);
    return result;
}

static int load(struct eb_sqlite *e, bool fresh, bool new_epoch, struct eb_engine_start *ret)
{
    int64_t page_size = 0;
    int result = settle_schema(e, fresh);

    if (result == 0)
        result = eb_sql_exec(e->db, "PRAGMA cache_size = -16384");
    if (result == 0)
        result = eb_ids_saved(e->db, &e->saved);
    if (result == 0)
        result = mark_start(e, new_epoch);
    if (result == 0)
        result = eb_meta_text(e->db, EB_META_EPOCH, e->epoch, sizeof(e->epoch));
    if (result == 0)
        result = load_state(e);
    if (result == 0)
        result = eb_made_load(e, &ret->made);
    if (result == 0)
        result = load_segments(e);
    if (result == 0)
        result = eb_scheduled_load(e);
    if (result == 0)
        result = eb_last_load(e);
    if (result == 0)
        result = eb_sqlite_prepare(e);
    if (result == 0)
        result = eb_sql_int(e->db, "PRAGMA page_size", EB_PAGE_SIZE, &page_size);
    if (result < 0)
        return result;
    memcpy(ret->epoch, e->epoch, sizeof(ret->epoch));
    e->page_size = (int)page_size;
    ret->last_seq = e->now.last_seq;
    ret->last_timestamp = e->now.last_ts;
    eb_wal_watch(e);
    eb_sqlite_show(e);
    return 0;
}

static void destroy(struct eb_sqlite *e)
{
    sqlite3_stmt *stmt;

    while (e->db && (stmt = sqlite3_next_stmt(e->db, NULL)))
        sqlite3_finalize(stmt);
    sqlite3_close(e->db);
    eb_wal_vfs_finish(&e->wal_vfs);
    eb_segment_unref(e->open);
    eb_segment_unref(e->shown);
    eb_topic_ids_destroy(e->topics);
    eb_blocks_finish(&e->blocks);
    eb_saved_close(e);
    eb_log_unlock(e->lock_fd); /* after the connection: the file is then at rest */
    eb_gate_finish(&e->gate);
    eb_checkpointer_finish(&e->checkpointer);
    eb_lock_finish(&e->state_lock);
    eb_lock_finish(&e->damaged_lock);
    free(e->bad);
    free(e->path);
    free(e->vfs);
    free(e);
}

/* The snapshot counts from now on. */
static int set_saved(struct eb_sqlite *e)
{
    int result = eb_meta_set_text(e->db, EB_META_SAVED, e->saved_text);

    return result < 0 ? eb_sqlite_failed(e, sqlite3_errcode(e->db), "naming the snapshot") : 0;
}

void eb_sqlite_close(struct eb_engine *engine, bool clean, int64_t now_ms)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    int result = -EIO;

    eb_checkpointer_stop(e);
    if (clean && engine->ops->begin(engine) == 0) {
        result = eb_sqlite_set_meta(e, EB_META_LAST_SEQ, (int64_t)e->now.last_seq);
        if (result == 0)
            result = eb_sqlite_set_meta(e, EB_META_LAST_TS, e->now.last_ts);
        if (result == 0)
            result = eb_sqlite_set_meta(e, EB_META_CLEAN, 1);
        if (result == 0 && e->saved_text[0])
            result = set_saved(e);
        if (result == 0)
            result = engine->ops->commit(engine);
        if (result < 0)
            engine->ops->rollback(engine);
    }
    if (result < 0) /* (O3) */
        sqlite3_db_config(e->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    destroy(e);
}

static struct eb_sqlite *create(const struct eb_store_config *config,
                                struct eb_engine_counters *counters)
{
    struct eb_sqlite *e = calloc(1, sizeof(*e));

    if (!e)
        return NULL;
    e->base.ops = &eb_sqlite_ops;
    e->lock_fd = -1;
    e->durability = config->durability;
    e->counters = counters;
    eb_gate_init(&e->gate);
    eb_checkpointer_init(&e->checkpointer);
    eb_lock_init(&e->state_lock, EB_RANK_STORE_STATE);
    eb_lock_init(&e->damaged_lock, EB_RANK_LEAF);
    e->path = strdup(config->path);
    e->vfs = config->vfs ? strdup(config->vfs) : NULL;
    e->topics = eb_topic_ids_create();
    if (!e->path || (config->vfs && !e->vfs) || !e->topics || eb_blocks_init(&e->blocks) < 0) {
        destroy(e);
        return NULL;
    }
    return e;
}

/* Whose file is it? 0 with ret_fresh, -errno with the sentence in @err. */
static int look_first(const char *path, const char *vfs, bool *ret_fresh, struct eb_error *err)
{
    enum eb_file_kind kind;
    int result = eb_schema_probe(path, vfs, &kind, err);

    if (result == -EBADMSG ||
        (result == 0 && (kind == EB_FILE_NOT_DATABASE || kind == EB_FILE_FOREIGN))) {
        /* It may be a log with a damaged head: the check can tell, and says more. */
        struct eb_error more;
        int checked = eb_store_check(path, vfs, &more);
        if (checked < 0) {
            *err = more;
            return checked;
        }
    }
    if (result < 0)
        return result;
    if (kind != EB_FILE_ABSENT && kind != EB_FILE_OURS)
        return -EINVAL;
    *ret_fresh = kind == EB_FILE_ABSENT;
    return 0;
}

/* The one connection that writes frames to the WAL (checkpoints only read it). */
static int open_writer(struct eb_sqlite *e, struct eb_error *err)
{
    int result = eb_wal_vfs_init(&e->wal_vfs, e->vfs);

    if (result < 0)
        return eb_db_refuse(err, result, NULL, e->path);
    e->wal_vfs.syncs = e->durability == EB_DURABILITY_FSYNC;
    return eb_db_open(e->path, e->wal_vfs.name, EB_DB_CREATE, &e->db, err);
}

static int open_real(const struct eb_store_config *config, struct eb_engine_counters *counters,
                     struct eb_engine **ret, struct eb_engine_start *ret_start,
                     struct eb_error *err)
{
    struct eb_sqlite *e;
    bool fresh;
    int result = look_first(config->path, config->vfs, &fresh, err);

    if (result < 0)
        return result;
    e = create(config, counters);
    if (!e) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        return -ENOMEM;
    }
    result = eb_log_lock(e->path, &e->lock_fd, err);
    if (result == 0) /* behind the lock: nobody else writes to it */
        result = eb_store_check(e->path, e->vfs, err);
    if (result == 0)
        result = open_writer(e, err);
    if (result < 0)
        goto destroy;
    result = load(e, fresh, config->new_epoch, ret_start);
    if (result < 0) {
        eb_db_refuse(err, result, e->db, e->path);
        goto destroy;
    }
    *ret = &e->base;
    return 0;

destroy:
    if (e->db)
        sqlite3_db_config(e->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    destroy(e);
    return result;
}

int eb_engine_sqlite_open(const struct eb_store_config *config, struct eb_engine_counters *counters,
                          struct eb_engine **ret, struct eb_engine_start *ret_start,
                          struct eb_error *err)
{
    struct eb_store_config real = *config;
    char *path = realpath(config->path, NULL); /* through a link it is the same log, lock and WAL */
    int result;

    if (path)
        real.path = path;
    result = open_real(&real, counters, ret, ret_start, err);
    free(path);
    return result;
}
