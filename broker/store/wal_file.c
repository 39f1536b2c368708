/*
 * wal_file.c - the WAL of the writer's connection: frames that follow one another go to the file in one write.
 *
 * SQLite writes a frame in two calls, its head of 24 bytes and its page. Each costs a call and the handling of each of
 * the file's pages that it touches: three for a frame. 16 frames in one write touch 17 (decisions/0024).
 *
 * (H1) Held back is only what follows directly on what was written last, as a head and then its page. All else, a head
 *      that is written again included, goes to the file at once, behind what was held.
 * (H2) A frame that commits (its head says so) takes all that is held with it, and its write tells how that went: nobody
 *      but this connection needs a frame before. Before it reads, syncs or truncates what is held is written too.
 * (H3) What a transaction leaves when it is rolled back is dropped as its lock is: others may write there from then on.
 * (H4) So SQLite is told the errors of the file's writes, if later: in the same transaction. If that is by a write or a
 *      sync it gives the transaction up, and what was held is dropped. If it is by another call, whose errors may have no
 *      such consequence, what is held stays and is tried again, so that no commit can be without it.
 * (H5) Of a longer transaction the kernel is asked to begin with each piece as it is written: the disk has most of it when
 *      the sync comes. That is a hint; the sync covers all, and tells the errors. Its last page of the file is left for
 *      the next piece, which writes there too.
 */
#include "broker/store/wal_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/store/schema.h"

#define HEAD 24                           /* of a frame: sqlite.org/fileformat2, 4.1 */
#define HELD (16 * (HEAD + EB_PAGE_SIZE)) /* larger pages: fewer of them */

struct wal_file {
    sqlite3_file base;
    sqlite3_file *real; /* behind this */
    unsigned char *held;
    int hints;         /* the same file, for (H5); -1: there are none */
    size_t len;        /* held */
    sqlite3_int64 at;  /* where it goes */
    sqlite3_int64 end; /* behind what was held or written last; -1: not known */
    bool head;         /* a frame's head is the last that is held, */
    bool commits;      /* and it is of the frame that commits */
    struct eb_wal_vfs *vfs;
};

static struct wal_file *wal_of(sqlite3_file *file)
{
    return (struct wal_file *)file;
}

/* ---- writing ---- */

/* (H5) */
static void begin_writeback(const struct wal_file *wal)
{
    off_t from = wal->at & ~(off_t)(EB_PAGE_SIZE - 1);
    off_t to = (wal->at + (off_t)wal->len) & ~(off_t)(EB_PAGE_SIZE - 1);

    if (wal->hints >= 0 && wal->len + HEAD + EB_PAGE_SIZE > HELD && !wal->commits)
        sync_file_range(wal->hints, from, to - from, SYNC_FILE_RANGE_WRITE);
}

static int flush(struct wal_file *wal)
{
    int rc = SQLITE_OK;

    if (wal->len)
        rc = wal->real->pMethods->xWrite(wal->real, wal->held, (int)wal->len, wal->at);
    if (rc != SQLITE_OK)
        return rc;
    begin_writeback(wal);
    wal->len = 0;
    wal->head = false;
    return SQLITE_OK;
}

static void drop(struct wal_file *wal)
{
    wal->len = 0;
    wal->head = false;
    wal->end = -1;
}

/* The same for a write or a sync, of which SQLite gives up the transaction when it fails (H4). */
static int flush_or_drop(struct wal_file *wal)
{
    int rc = flush(wal);

    if (rc != SQLITE_OK)
        drop(wal);
    return rc;
}

static void hold(struct wal_file *wal, const void *data, size_t len, sqlite3_int64 offset)
{
    if (wal->len == 0)
        wal->at = offset;
    memcpy(wal->held + wal->len, data, len);
    wal->len += len;
    wal->end = offset + (sqlite3_int64)len;
}

/* A head that follows on what was written before; its page will fit as well, if it is of the usual size. */
static int hold_head(struct wal_file *wal, const unsigned char *head, sqlite3_int64 offset)
{
    int rc = wal->len + HEAD + EB_PAGE_SIZE > HELD ? flush_or_drop(wal) : SQLITE_OK;

    if (rc != SQLITE_OK)
        return rc;
    hold(wal, head, HEAD, offset);
    wal->head = true;
    wal->commits = head[4] || head[5] || head[6] || head[7]; /* pages of the file after it */
    return SQLITE_OK;
}

static int wal_write(sqlite3_file *file, const void *data, int len, sqlite3_int64 offset)
{
    struct wal_file *wal = wal_of(file);
    bool next = offset == wal->end;
    int rc;

    if (next && !wal->head && len == HEAD)
        return hold_head(wal, data, offset);
    if (next && wal->head && wal->len + (size_t)len <= HELD) {
        hold(wal, data, (size_t)len, offset);
        wal->head = false;
        return wal->commits ? flush_or_drop(wal) : SQLITE_OK; /* (H2) */
    }
    rc = flush_or_drop(wal);
    if (rc == SQLITE_OK)
        rc = wal->real->pMethods->xWrite(wal->real, data, len, offset);
    wal->end = rc == SQLITE_OK ? offset + len : -1;
    return rc;
}

/* ---- all else ---- */

static int wal_close(sqlite3_file *file)
{
    struct wal_file *wal = wal_of(file);
    int rc = flush(wal), closed = wal->real->pMethods->xClose(wal->real);

    if (wal->hints >= 0)
        close(wal->hints); /* SQLite has no locks on a WAL that this could lose */
    free(wal->held);
    wal->held = NULL;
    wal->vfs->wal = NULL;
    return rc == SQLITE_OK ? closed : rc;
}

static int wal_read(sqlite3_file *file, void *data, int len, sqlite3_int64 offset)
{
    struct wal_file *wal = wal_of(file);
    int rc = flush(wal);

    return rc == SQLITE_OK ? wal->real->pMethods->xRead(wal->real, data, len, offset) : rc;
}

static int wal_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    struct wal_file *wal = wal_of(file);
    int rc = flush(wal);

    return rc == SQLITE_OK ? wal->real->pMethods->xTruncate(wal->real, size) : rc;
}

static int wal_sync(sqlite3_file *file, int flags)
{
    struct wal_file *wal = wal_of(file);
    int rc = flush_or_drop(wal);

    return rc == SQLITE_OK ? wal->real->pMethods->xSync(wal->real, flags) : rc;
}

/* With what is held: who asks for the size may not care that a write fails. */
static int wal_size(sqlite3_file *file, sqlite3_int64 *ret)
{
    struct wal_file *wal = wal_of(file);
    int rc = wal->real->pMethods->xFileSize(wal->real, ret);

    if (rc == SQLITE_OK && wal->len && *ret < wal->at + (sqlite3_int64)wal->len)
        *ret = wal->at + (sqlite3_int64)wal->len;
    return rc;
}

static int wal_lock(sqlite3_file *file, int level)
{
    return wal_of(file)->real->pMethods->xLock(wal_of(file)->real, level);
}

static int wal_unlock(sqlite3_file *file, int level)
{
    return wal_of(file)->real->pMethods->xUnlock(wal_of(file)->real, level);
}

static int wal_check_lock(sqlite3_file *file, int *ret)
{
    return wal_of(file)->real->pMethods->xCheckReservedLock(wal_of(file)->real, ret);
}

static int wal_control(sqlite3_file *file, int op, void *arg)
{
    return wal_of(file)->real->pMethods->xFileControl(wal_of(file)->real, op, arg);
}

static int wal_sector(sqlite3_file *file)
{
    return wal_of(file)->real->pMethods->xSectorSize(wal_of(file)->real);
}

static int wal_device(sqlite3_file *file)
{
    return wal_of(file)->real->pMethods->xDeviceCharacteristics(wal_of(file)->real);
}

static const sqlite3_io_methods wal_methods = {
    .iVersion = 1, /* SQLite shares and maps the database's file, not its WAL */
    .xClose = wal_close,
    .xRead = wal_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = wal_size,
    .xLock = wal_lock,
    .xUnlock = wal_unlock,
    .xCheckReservedLock = wal_check_lock,
    .xFileControl = wal_control,
    .xSectorSize = wal_sector,
    .xDeviceCharacteristics = wal_device,
};

/* ---- the VFS ---- */

#define WRITE_LOCK 0 /* the first of the WAL's: sqlite.org/walformat, 2.3 */

/* (H3) */
static int db_lock(sqlite3_file *file, int first, int count, int flags)
{
    struct eb_wal_vfs *ours =
        (struct eb_wal_vfs *)((char *)file->pMethods - offsetof(struct eb_wal_vfs, db));

    if (first == WRITE_LOCK && flags & SQLITE_SHM_UNLOCK && ours->wal && ours->wal->len)
        drop(ours->wal);
    return ours->db_was->xShmLock(file, first, count, flags);
}

/* The file that the WAL is of, as it is but for its locks. */
static int open_db(struct eb_wal_vfs *ours, const char *name, sqlite3_file *file, int flags,
                   int *ret)
{
    int rc = ours->real->xOpen(ours->real, name, file, flags, ret);

    if (rc != SQLITE_OK || file->pMethods->iVersion < 2)
        return rc;
    ours->db_was = file->pMethods;
    ours->db = *file->pMethods;
    ours->db.xShmLock = db_lock;
    file->pMethods = &ours->db;
    return SQLITE_OK;
}

static int open_file(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret)
{
    struct eb_wal_vfs *ours = (struct eb_wal_vfs *)vfs;
    sqlite3_vfs *real = ours->real;
    struct wal_file *wal = wal_of(file);
    int rc;

    if (flags & SQLITE_OPEN_MAIN_DB)
        return open_db(ours, name, file, flags, ret);
    if (!(flags & SQLITE_OPEN_WAL))
        return real->xOpen(real, name, file, flags, ret);
    *wal = (struct wal_file){.real = (sqlite3_file *)(wal + 1), .end = -1, .vfs = ours};
    wal->real->pMethods = NULL;
    wal->held = malloc(HELD);
    if (!wal->held)
        return SQLITE_NOMEM;
    rc = real->xOpen(real, name, wal->real, flags, ret);
    if (rc == SQLITE_OK) {
        wal->base.pMethods = &wal_methods;
        wal->hints = ours->syncs ? open(name, O_RDONLY | O_CLOEXEC) : -1;
        ours->wal = wal;
        return SQLITE_OK;
    }
    if (wal->real->pMethods)
        wal->real->pMethods->xClose(wal->real);
    free(wal->held);
    return rc;
}

int eb_wal_vfs_init(struct eb_wal_vfs *vfs, const char *base)
{
    sqlite3_vfs *real = sqlite3_vfs_find(base);

    if (!real)
        return -ENOENT;
    snprintf(vfs->name, sizeof(vfs->name), "eventbus-wal-%p", (void *)vfs);
    vfs->vfs = *real; /* its other functions find what they need in pAppData */
    vfs->vfs.pNext = NULL;
    vfs->vfs.zName = vfs->name;
    vfs->vfs.szOsFile += (int)sizeof(struct wal_file);
    vfs->vfs.xOpen = open_file;
    vfs->real = real;
    vfs->syncs = false;
    if (sqlite3_vfs_register(&vfs->vfs, 0) == SQLITE_OK)
        return 0;
    vfs->real = NULL;
    return -ENOMEM;
}

void eb_wal_vfs_finish(struct eb_wal_vfs *vfs)
{
    if (vfs->real)
        sqlite3_vfs_unregister(&vfs->vfs);
    vfs->real = NULL;
}
