/*
 * schema.h - the log's file as a database: whose it is, its tables and their versions, its small values, and
 * the lock that keeps a second broker out. docs/formats/log.md describes what lies in it.
 *
 * Functions return 0 or -errno and say nothing by themselves; those with @err put a sentence there that says
 * what is wrong and what to type.
 */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define EB_APPLICATION_ID 0x45764273 /* "EvBs" */
#define EB_SCHEMA_VERSION 3
#define EB_PAGE_SIZE      4096

/* ---- errors and statements ---- */

/** What an SQLite result means to us: -ENOSPC, -EBADMSG, -ENOMEM, -EBUSY, -EACCES, -EROFS, -EIO; 0 for OK, ROW, DONE. */
int eb_sql_errno(sqlite3 *db, int rc);
/** Prepare a statement that is kept. 0 or -errno. */
int eb_sql_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret);
int eb_sql_exec(sqlite3 *db, const char *sql);
/** One integer, or @otherwise when there is no row. */
int eb_sql_int(sqlite3 *db, const char *sql, int64_t otherwise, int64_t *ret);

/* ---- whose file is it ---- */

enum eb_file_kind {
    EB_FILE_ABSENT, /* not there, or empty, or a database without anything in it */
    EB_FILE_OURS,
    EB_FILE_NEWER,        /* ours, of a newer schema */
    EB_FILE_OLD_EVENTBUS, /* prk_eventbus 0.1 */
    EB_FILE_FOREIGN,      /* another program's database */
    EB_FILE_NOT_DATABASE,
};
/**
 * Look at the file without writing to it. 0 with @ret and, for all but ABSENT and OURS, the sentence that
 * refuses it in @err; else -EACCES, -EISDIR, -EIO, -EBADMSG (its first page or its schema is damaged), -ENOMEM.
 */
int eb_schema_probe(const char *path, const char *vfs, enum eb_file_kind *ret,
                    struct eb_error *err);

/* ---- opening ---- */

enum eb_db_mode {
    EB_DB_READ,   /* no writing, no creating */
    EB_DB_WRITE,  /* read and write, must be there */
    EB_DB_CREATE, /* read and write, made if it is not there */
};
/** A connection for one thread, with the settings all of ours have. On failure @ret stays and @err says why. */
int eb_db_open(const char *path, const char *vfs, enum eb_db_mode mode, sqlite3 **ret,
               struct eb_error *err);
/** Put the sentence for @result into @err, with what @db (may be NULL) says and what to type. Returns @result. */
int eb_db_refuse(struct eb_error *err, int result, sqlite3 *db, const char *path);
#define EB_DB_BUSY_MS 5000 /* for another process's lock */
/** WAL, and a sync at each commit (@fsync) or at checkpoints only. For a connection that writes. */
int eb_db_journal(sqlite3 *db, bool fsync);
/** Make the tables of the current version in an empty database, with a new epoch. One transaction. */
int eb_schema_create(sqlite3 *db);

/* One step forward: from version `from` to `from + 1`, run inside a transaction that also sets the version. */
struct eb_migration {
    int from;
    const char *sql;
};
extern const struct eb_migration eb_schema_migrations[]; /* ends with sql NULL */
/** Run the steps of @steps that lead from the file's version to @to. 0, -EINVAL (no step leads on), -errno. */
int eb_schema_migrate(sqlite3 *db, const struct eb_migration *steps, int to);
int eb_schema_version(sqlite3 *db, int *ret);

/** fsync the folder of @path: makes a fresh name in it last. */
int eb_sync_folder(const char *path);

/* ---- table meta ---- */

#define EB_META_EPOCH        "epoch"
#define EB_META_LAST_SEQ     "last_seq"
#define EB_META_LAST_TS      "last_ts"
#define EB_META_DELETED_UPTO "deleted_upto"
#define EB_META_CLEAN        "clean"
#define EB_META_BOOT_ID      "boot_id"
#define EB_META_DURABILITY   "durability"
#define EB_META_SAVED        "saved"
#define EB_META_SCHEDULED    "scheduled"
#define EB_META_TOPIC_TOP    "topic_top"
#define EB_META_ID_KEY       "id_key"

int eb_meta_int(sqlite3 *db, const char *key, int64_t otherwise, int64_t *ret);
int eb_meta_set_int(sqlite3 *db, const char *key, int64_t value);
/** Text into @out, "" when there is none; cut at @size. */
int eb_meta_text(sqlite3 *db, const char *key, char *out, size_t size);
int eb_meta_set_text(sqlite3 *db, const char *key, const char *value);
/** Give the log a new epoch. */
int eb_meta_new_epoch(sqlite3 *db);

/* ---- one broker a log ---- */

/**
 * Take the lock of the log at @path: a flock on `PATH.lock` (of the real path, so that a link to it is the same
 * log). It ends with the process. 0 with a descriptor to be given to eb_log_unlock; -EBUSY with the holder's
 * process id in @err, -EACCES, -EROFS, -ENOENT (no such folder).
 */
int eb_log_lock(const char *path, int *ret_fd, struct eb_error *err);
void eb_log_unlock(int fd); /* -1 is fine */
