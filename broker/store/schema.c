/*
 * schema.c - the log's file as a database: how it is recognised, opened, made and brought forward.
 *
 * (F1) A file that is not ours is never written to. It is looked at read-only, and as `immutable` when no WAL
 *      lies beside it, so that SQLite makes no file beside it either.
 * (F2) application_id and the tables come into being in one transaction: a crash leaves an empty database,
 *      which is made anew, or a whole one.
 * (F3) A step of migration and its new version number are one transaction.
 */
#include "broker/store/schema.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/uuid.h"

/* id as text: 8-4-4-4-12 */
#define UUID_SQL(id)                                                                               \
    "lower(substr(hex(" id "),1,8)||'-'||substr(hex(" id "),9,4)||'-'||substr(hex(" id             \
    "),13,4)||'-'||substr(hex(" id "),17,4)||'-'||substr(hex(" id "),21))"

#define IDS_SQL                                                                                    \
    "CREATE TABLE ids(part INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL,"                        \
    "  last_ts INTEGER NOT NULL, entries BLOB NOT NULL);"

/* Kept for others (state.h), and what waits until it is due (PROTOCOL 8). */
#define STATE_SQL                                                                                  \
    "CREATE TABLE consumers(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"                    \
    "  settings TEXT NOT NULL, made INTEGER NOT NULL, next INTEGER NOT NULL,"                      \
    "  first_open INTEGER NOT NULL, redelivered INTEGER NOT NULL, dead INTEGER NOT NULL,"          \
    "  lost INTEGER NOT NULL, stopped TEXT);"                                                      \
    "CREATE TABLE open_blocks(consumer INTEGER NOT NULL, block INTEGER NOT NULL,"                  \
    "  data BLOB NOT NULL, PRIMARY KEY(consumer, block)) WITHOUT ROWID;"                           \
    "CREATE TABLE dead_letters(consumer INTEGER NOT NULL, seq INTEGER NOT NULL,"                   \
    "  PRIMARY KEY(consumer, seq)) WITHOUT ROWID;"                                                 \
    "CREATE TABLE marks(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"             \
    "CREATE TABLE scheduled(place INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,"                   \
    "  due INTEGER NOT NULL, made INTEGER NOT NULL, topic TEXT NOT NULL, ttl INTEGER NOT NULL,"    \
    "  content_type TEXT, headers TEXT, payload BLOB NOT NULL, crc INTEGER NOT NULL);"             \
    "CREATE INDEX scheduled_due ON scheduled(due, place);"                                         \
    "CREATE TABLE replies(topic INTEGER PRIMARY KEY, events INTEGER NOT NULL);"

/* The last offset of a list: two bytes little-endian before its checksum (docs/formats/log.md). */
#define HEX_DIGIT(byte, n)                                                                         \
    "(instr('0123456789ABCDEF', substr(hex(substr(seqs, " byte ", 1)), " n ", 1)) - 1)"
#define TOPIC_LAST_SQL                                                                             \
    "ALTER TABLE topics ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0;"                           \
    "UPDATE topics SET last_seq = m.segment * 65536 + m.high * 256 + m.low FROM (SELECT topic,"    \
    "  max(segment) AS segment, " HEX_DIGIT("-5", "1") " * 16 + " HEX_DIGIT(                       \
        "-5", "2") " AS high,"                                                                     \
                   "  " HEX_DIGIT("-6", "1") " * 16 + " HEX_DIGIT(                                 \
                       "-6",                                                                       \
                       "2") " AS low"                                                              \
                            "  FROM postings GROUP BY topic) AS m WHERE m.topic = topics.id;"

static const char schema_sql[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    "  last_seq INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE log("
    "  seq          INTEGER PRIMARY KEY,"
    "  topic        INTEGER NOT NULL,"
    "  ts           INTEGER NOT NULL,"
    "  ttl          INTEGER NOT NULL,"
    "  id           BLOB NOT NULL,"
    "  content_type TEXT,"
    "  headers      TEXT,"
    "  payload      BLOB NOT NULL,"
    "  crc          INTEGER NOT NULL);"
    "CREATE TABLE expiry(at INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(at, seq))"
    " WITHOUT ROWID;"
    "CREATE TABLE acked(seq INTEGER PRIMARY KEY, at INTEGER NOT NULL);"
    "CREATE TABLE gone(id BLOB PRIMARY KEY, seq INTEGER NOT NULL, ts INTEGER NOT NULL)"
    " WITHOUT ROWID;" IDS_SQL STATE_SQL
    "CREATE TABLE segments(segment INTEGER PRIMARY KEY, events INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, acked INTEGER NOT NULL, last_ts INTEGER NOT NULL);"
    /* Not by (segment, topic) without rowid: a list would lie in the inner pages, and each comparison on
     * the way down would read it with its overflow pages. */
    "CREATE TABLE postings(segment INTEGER NOT NULL, topic INTEGER NOT NULL, seqs BLOB NOT NULL,"
    "  place INTEGER PRIMARY KEY);"
    /* Text is shown as text, so that it can be compared with a string; other bytes stay a blob. */
    "CREATE VIEW messages AS SELECT l.seq AS seq,"
    "  (SELECT name FROM topics t WHERE t.id = l.topic) AS topic,"
    "  CASE WHEN (l.content_type IS NULL OR l.content_type LIKE 'text/%'"
    "    OR l.content_type LIKE '%json%' OR l.content_type LIKE '%xml%')"
    "    AND instr(l.payload, x'00') = 0 THEN CAST(l.payload AS TEXT) ELSE l.payload END"
    "    AS payload,"
    "  CASE WHEN json_valid(l.headers) THEN json_object('timestamp', l.ts, 'content_type',"
    "    ifnull(l.content_type, 'text/plain'), 'message_id', " UUID_SQL(
        "l.id") ","
                "    'headers', json(l.headers)) ELSE json_object('timestamp', l.ts, "
                "'content_type',"
                "    ifnull(l.content_type, 'text/plain'), 'message_id', " UUID_SQL(
                    "l.id") ") END"
                            "    AS metadata,"
                            "  nullif(l.ttl, 0) AS ttl,"
                            "  CASE WHEN a.seq IS NULL THEN 'pending' ELSE 'processed' END AS "
                            "status"
                            "  FROM log l LEFT JOIN acked a ON a.seq = l.seq;"
                            "CREATE VIEW processed_messages AS SELECT " UUID_SQL(
                                "l.id") " AS message_id"
                                        "  FROM acked a JOIN log l ON l.seq = a.seq;"
                                        "PRAGMA application_id = 1165378163;"
                                        "PRAGMA user_version = 3;";

_Static_assert(EB_APPLICATION_ID == 1165378163, "the number in schema_sql");
_Static_assert(EB_SCHEMA_VERSION == 3, "the number in schema_sql, and a migration to it");

const struct eb_migration eb_schema_migrations[] = {
    {1, IDS_SQL}, {2, STATE_SQL TOPIC_LAST_SQL}, {0, NULL}};

/* ---- errors and statements ---- */

int eb_sql_errno(sqlite3 *db, int rc)
{
    int sys;

    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EBADMSG;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return -EACCES;
    case SQLITE_READONLY:
        return -EROFS;
    default:
        sys = db ? sqlite3_system_errno(db) : 0;
        if (sys == ENOSPC || sys == EDQUOT || sys == EFBIG)
            return -ENOSPC;
        return sys == EACCES || sys == EPERM ? -EACCES : -EIO;
    }
}

int eb_sql_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret)
{
    return eb_sql_errno(db, sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL));
}

int eb_sql_exec(sqlite3 *db, const char *sql)
{
    return eb_sql_errno(db, sqlite3_exec(db, sql, NULL, NULL, NULL));
}

int eb_sql_int(sqlite3 *db, const char *sql, int64_t otherwise, int64_t *ret)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *ret =
            sqlite3_column_type(stmt, 0) == SQLITE_NULL ? otherwise : sqlite3_column_int64(stmt, 0);
    else if (rc == SQLITE_DONE)
        *ret = otherwise;
    sqlite3_finalize(stmt);
    return eb_sql_errno(db, rc);
}

/* ---- opening ---- */

int eb_db_refuse(struct eb_error *err, int result, sqlite3 *db, const char *path)
{
    switch (result) {
    case -EBADMSG:
        eb_fail(
            err, EB_INTERNAL,
            "%s is damaged (%s): see how far with `eventbusd --verify --db %s`, bring back what is "
            "whole with `eventbusd --repair NEW --db %s`",
            path, db ? sqlite3_errmsg(db) : "cannot be read", path, path);
        break;
    case -EACCES:
        eb_fail(err, EB_INTERNAL,
                "no permission to open %s: the broker's user must be able to read and write the "
                "file and "
                "its folder",
                path);
        break;
    case -EROFS:
        eb_fail(err, EB_INTERNAL,
                "%s is read-only: the broker's user must be able to write the file and its folder "
                "(chmod, chown, or a file system mounted rw)",
                path);
        break;
    case -EBUSY:
        eb_fail(err, EB_INTERNAL,
                "%s is locked by another program: end what writes to it (fuser %s shows it)", path,
                path);
        break;
    case -ENOSPC:
        eb_fail(err, EB_STORAGE_FULL, "no room on the disk of %s: free some and start again", path);
        break;
    case -EINVAL:
        eb_fail(err, EB_INTERNAL,
                "%s is not a log that this broker (" EB_VERSION ") can use: name another with --db",
                path);
        break;
    case -ENOMEM:
        eb_fail(err, EB_INTERNAL, "out of memory while opening %s", path);
        break;
    default:
        eb_fail(err, EB_INTERNAL, "cannot open %s: %s (%s)", path,
                db ? sqlite3_errmsg(db) : "unknown error",
                db && sqlite3_system_errno(db) ? strerror(sqlite3_system_errno(db)) : "I/O error");
        break;
    }
    return result;
}

int eb_db_open(const char *path, const char *vfs, enum eb_db_mode mode, sqlite3 **ret,
               struct eb_error *err)
{
    static const int modes[] = {SQLITE_OPEN_READONLY, SQLITE_OPEN_READWRITE,
                                SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE};
    sqlite3 *db = NULL;
    int result;

    result = eb_sql_errno(db, sqlite3_open_v2(path, &db, modes[mode] | SQLITE_OPEN_NOMUTEX, vfs));
    if (result == -EIO && db)
        result = eb_sql_errno(db, sqlite3_errcode(db));
    if (result == 0) {
        sqlite3_extended_result_codes(db, 1);
        sqlite3_busy_timeout(db, EB_DB_BUSY_MS);
        /* Debian builds with SECURE_DELETE: overwriting what is deleted costs a page write each. */
        result = eb_sql_exec(db, "PRAGMA secure_delete = OFF; PRAGMA temp_store = MEMORY;"
                                 "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;");
    }
    if (result == 0 && mode != EB_DB_READ && sqlite3_db_readonly(db, "main") == 1)
        result = -EROFS;
    if (result < 0) {
        eb_db_refuse(err, result, db, path);
        sqlite3_close(db);
        return result;
    }
    *ret = db;
    return 0;
}

int eb_db_journal(sqlite3 *db, bool fsync)
{
    sqlite3_stmt *stmt = NULL;
    bool wal = false;
    int rc = sqlite3_prepare_v2(db, "PRAGMA journal_mode = WAL", -1, &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        wal = strcmp((const char *)sqlite3_column_text(stmt, 0), "wal") == 0;
    sqlite3_finalize(stmt);
    int result = eb_sql_errno(db, rc);
    if (result < 0)
        return result;
    if (!wal)
        return -EIO;
    return eb_sql_exec(db, fsync ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
}

/* ---- whose file is it ---- */

/* file:PATH?mode=ro, with what has a meaning in a URI escaped. NULL when out of memory. */
static char *read_only_uri(const char *path, bool immutable)
{
    char *uri = malloc(strlen(path) * 3 + 64), *at;

    if (!uri)
        return NULL;
    at = uri + sprintf(uri, "file:");
    if (path[0] == '/' && path[1] == '/')
        at += sprintf(at, "//"); /* else the first word would be taken for a host */
    for (; *path; path++)
        at += sprintf(at, strchr("?#%", *path) ? "%%%02X" : "%c", (unsigned char)*path);
    sprintf(at, "?mode=ro%s", immutable ? "&immutable=1" : "");
    return uri;
}

static bool exists(const char *path, const char *suffix, const char *vfs_name)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(vfs_name);
    char full[4096], name[4096 + 8];
    int there = 0;

    /* More than OK: it went through a link. */
    if (!vfs || (vfs->xFullPathname(vfs, path, sizeof(full), full) & 0xff) != SQLITE_OK)
        return false;
    snprintf(name, sizeof(name), "%s%s", full, suffix);
    return vfs->xAccess(vfs, name, SQLITE_ACCESS_EXISTS, &there) == SQLITE_OK && there;
}

struct look {
    int64_t application_id, version, objects, old_tables;
};

static int look_at(const char *path, const char *vfs, bool immutable, struct look *ret,
                   struct eb_error *err)
{
    char *uri = read_only_uri(path, immutable);
    sqlite3 *db = NULL;
    struct look look = {0};
    int result;

    if (!uri)
        return -ENOMEM;
    result = eb_sql_errno(
        NULL, sqlite3_open_v2(uri, &db,
                              SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, vfs));
    if (result < 0 && db)
        result = eb_sql_errno(db, sqlite3_errcode(db));
    free(uri);
    if (result < 0)
        goto close;
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_busy_timeout(db, EB_DB_BUSY_MS);
    result = eb_sql_int(db, "PRAGMA application_id", 0, &look.application_id);
    if (result == 0)
        result = eb_sql_int(db, "PRAGMA user_version", 0, &look.version);
    if (result == 0 && look.application_id != EB_APPLICATION_ID)
        result = eb_sql_int(db, "SELECT count(*) FROM sqlite_schema", 0, &look.objects);
    if (result == 0 && look.objects)
        result = eb_sql_int(
            db,
            "SELECT (SELECT count(*) FROM pragma_table_info('messages') WHERE name IN"
            " ('seq','topic','payload','metadata','ttl','status')) = 6 AND"
            " (SELECT count(*) FROM pragma_table_info('processed_messages') WHERE name ="
            " 'message_id') = 1 AND (SELECT type FROM sqlite_schema WHERE name = 'messages')"
            " = 'table'",
            0, &look.old_tables);
    if (result == 0)
        *ret = look;
close:
    if (result < 0 && !(db && sqlite3_errcode(db) == SQLITE_NOTADB))
        eb_db_refuse(err, result, db, path);
    if (result < 0 && db && sqlite3_errcode(db) == SQLITE_NOTADB)
        result = -ENOEXEC; /* told apart from damage: the caller says what it is */
    sqlite3_close(db);
    return result;
}

#define OLD_SAYS " is a file of prk_eventbus 0.1, left as it is; take it over: eventbusd --import "
#define OLD_DO   " --db NEW"

static enum eb_file_kind judge(const struct look *look, const char *path, struct eb_error *err)
{
    if (look->application_id == EB_APPLICATION_ID) {
        if (look->version <= EB_SCHEMA_VERSION)
            return EB_FILE_OURS;
        eb_fail(err, EB_INTERNAL,
                "%s has schema version %lld, made by a newer eventbus; this one (" EB_VERSION
                ") knows versions up to %d: start the newer eventbusd",
                path, (long long)look->version, EB_SCHEMA_VERSION);
        return EB_FILE_NEWER;
    }
    if (look->application_id == 0 && look->version == 0 && look->old_tables) {
        /* The command must fit as well: the name in front of it is what is cut. */
        const char *name = strlen(path) > 85 ? "OLD" : path;
        int room = (int)(sizeof(err->message) - sizeof(OLD_SAYS) - sizeof(OLD_DO) - strlen(name));
        eb_fail(err, EB_INTERNAL, "%.*s" OLD_SAYS "%s" OLD_DO, room, path, name);
        return EB_FILE_OLD_EVENTBUS;
    }
    if (look->application_id == 0 && look->version == 0 && look->objects == 0)
        return EB_FILE_ABSENT;
    eb_fail(
        err, EB_INTERNAL,
        "%s is a database of another program (application_id %lld): name another file with --db",
        path, (long long)look->application_id);
    return EB_FILE_FOREIGN;
}

int eb_schema_probe(const char *path, const char *vfs, enum eb_file_kind *ret, struct eb_error *err)
{
    struct look look = {0};
    struct stat st;
    int result;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        eb_fail(err, EB_INTERNAL, "%s is a folder: name a file in it, such as %s/eventbus.db", path,
                path);
        return -EISDIR;
    }
    if (!exists(path, "", vfs)) {
        *ret = EB_FILE_ABSENT;
        return 0;
    }
    result = look_at(path, vfs, true, &look, err);
    /*
     * What the file itself does not say may still lie in its WAL. A journal beside it is left alone: reading
     * it would write, and our own files have one only before there is anything in them.
     */
    if (exists(path, "-wal", vfs) &&
        (result == 0 ? look.application_id != EB_APPLICATION_ID : result != -ENOEXEC)) {
        struct look behind = look;
        int second = look_at(path, vfs, false, &behind, err);
        if (second != -EROFS) { /* that: a folder in which not even a reader can work */
            result = second;
            look = behind;
        }
    }
    if (result == -ENOEXEC) {
        eb_fail(err, EB_INTERNAL,
                "%s is not a database: name another file with --db (if it was a log, its header is "
                "damaged: eventbusd --repair NEW --db %s)",
                path, path);
        *ret = EB_FILE_NOT_DATABASE;
        return 0;
    }
    if (result < 0)
        return result;
    *ret = judge(&look, path, err);
    return 0;
}

/* ---- making and migrating ---- */

int eb_schema_version(sqlite3 *db, int *ret)
{
    int64_t version;
    int result = eb_sql_int(db, "PRAGMA user_version", 0, &version);

    if (result == 0)
        *ret = (int)version;
    return result;
}

/* Make @result the end of the open transaction. */
static int end_transaction(sqlite3 *db, int result)
{
    if (result == 0)
        result = eb_sql_exec(db, "COMMIT");
    if (result < 0 && !sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return result;
}

int eb_schema_create(sqlite3 *db)
{
    int64_t vacuum = 0;
    int result;

    result = eb_sql_exec(db, "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL");
    if (result == 0)
        result = eb_sql_int(db, "PRAGMA auto_vacuum", 0, &vacuum);
    if (result == 0 && vacuum != 2) /* an empty database that was made with other settings */
        result = eb_sql_exec(db, "PRAGMA auto_vacuum = INCREMENTAL; VACUUM");
    if (result == 0)
        result = eb_db_journal(db, true);
    if (result == 0)
        result = eb_sql_exec(db, "BEGIN IMMEDIATE");
    if (result < 0)
        return result;
    result = eb_sql_exec(db, schema_sql);
    if (result == 0)
        result = eb_meta_new_epoch(db);
    return end_transaction(db, result);
}

static const struct eb_migration *step_from(const struct eb_migration *steps, int version)
{
    for (; steps->sql; steps++)
        if (steps->from == version)
            return steps;
    return NULL;
}

int eb_schema_migrate(sqlite3 *db, const struct eb_migration *steps, int to)
{
    char set[64];
    int version, result;

    while ((result = eb_schema_version(db, &version)) == 0 && version != to) {
        const struct eb_migration *step = step_from(steps, version);
        if (!step || version > to)
            return -EINVAL;
        snprintf(set, sizeof(set), "PRAGMA user_version = %d", version + 1);
        result = eb_sql_exec(db, "BEGIN IMMEDIATE");
        if (result < 0)
            return result;
        result = eb_sql_exec(db, step->sql);
        if (result == 0)
            result = eb_sql_exec(db, set);
        result = end_transaction(db, result);
        if (result < 0)
            return result;
    }
    return result;
}

/* ---- meta ---- */

static int meta_select(sqlite3 *db, const char *key, sqlite3_stmt **ret)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, "SELECT value FROM meta WHERE key = ?1", -1, &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
        *ret = stmt;
        return 1;
    }
    sqlite3_finalize(stmt);
    return eb_sql_errno(db, rc);
}

int eb_meta_int(sqlite3 *db, const char *key, int64_t otherwise, int64_t *ret)
{
    sqlite3_stmt *stmt = NULL;
    int result = meta_select(db, key, &stmt);

    if (result < 0)
        return result;
    *ret = result ? sqlite3_column_int64(stmt, 0) : otherwise;
    if (result)
        sqlite3_finalize(stmt);
    return 0;
}

int eb_meta_text(sqlite3 *db, const char *key, char *out, size_t size)
{
    sqlite3_stmt *stmt = NULL;
    int result = meta_select(db, key, &stmt);

    if (result < 0)
        return result;
    const char *text = result ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
    snprintf(out, size, "%s", text ? text : "");
    if (result)
        sqlite3_finalize(stmt);
    return 0;
}

static int meta_set(sqlite3 *db, const char *key, const char *text, int64_t number)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db, "INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)", -1,
                                &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK)
        rc = text ? sqlite3_bind_text(stmt, 2, text, -1, SQLITE_STATIC)
                  : sqlite3_bind_int64(stmt, 2, number);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    sqlite3_finalize(stmt);
    return eb_sql_errno(db, rc);
}

int eb_meta_set_int(sqlite3 *db, const char *key, int64_t value)
{
    return meta_set(db, key, NULL, value);
}

int eb_meta_set_text(sqlite3 *db, const char *key, const char *value)
{
    return meta_set(db, key, value, 0);
}

int eb_meta_new_epoch(sqlite3 *db)
{
    char text[EB_UUID_TEXT + 1];
    uint8_t id[16];

    eb_uuid_v4(id);
    eb_uuid_format(text, id);
    return eb_meta_set_text(db, EB_META_EPOCH, text);
}
