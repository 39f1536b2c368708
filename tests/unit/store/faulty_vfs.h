/*
 * faulty_vfs.h - the default VFS with fault points: the n-th write, sync or truncation fails, once or from then
 * on. Reads and locks are passed through. One thread alone can be meant, by its name.
 */
#pragma once

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct vfs_fault {
    int at;   /* calls to go; < 0: never */
    int code; /* an SQLite code; for syncs SQLITE_IOERR_FSYNC stands instead of SQLITE_FULL */
    int lasting;
    unsigned hits;
    const char *thread; /* NULL: any. Such a fault is lasting, `at` is 0 as long as it lasts. */
    atomic_uint thread_hits;
};

static struct vfs_fault vfs_fault = {.at = -1};

struct faulty_file {
    sqlite3_file base;
    sqlite3_file *real;
};

/* Beside other threads nothing is counted down. */
static int vfs_hit_thread(int code)
{
    char name[16] = "";

    pthread_getname_np(pthread_self(), name, sizeof(name));
    if (vfs_fault.at < 0 || strcmp(name, vfs_fault.thread) != 0)
        return SQLITE_OK;
    atomic_fetch_add(&vfs_fault.thread_hits, 1);
    return code;
}

static int vfs_hit(int code)
{
    if (vfs_fault.thread)
        return vfs_hit_thread(code);
    if (vfs_fault.at < 0)
        return SQLITE_OK;
    if (vfs_fault.at > 0) {
        vfs_fault.at--;
        return SQLITE_OK;
    }
    if (!vfs_fault.lasting)
        vfs_fault.at = -1;
    vfs_fault.hits++;
    return code;
}

#define REAL(file) (((struct faulty_file *)(file))->real)

static int f_close(sqlite3_file *file)
{
    int rc = REAL(file)->pMethods->xClose(REAL(file));

    free(REAL(file));
    return rc;
}
static int f_read(sqlite3_file *file, void *data, int len, sqlite3_int64 at)
{
    return REAL(file)->pMethods->xRead(REAL(file), data, len, at);
}
static int f_write(sqlite3_file *file, const void *data, int len, sqlite3_int64 at)
{
    int rc = vfs_hit(vfs_fault.code);

    if (rc == SQLITE_OK)
        return REAL(file)->pMethods->xWrite(REAL(file), data, len, at);
    /* As a disk does it: a part of it may be there. */
    REAL(file)->pMethods->xWrite(REAL(file), data, len / 2, at);
    return rc;
}
static int f_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    int rc = vfs_hit(SQLITE_IOERR_TRUNCATE);

    return rc ? rc : REAL(file)->pMethods->xTruncate(REAL(file), size);
}
static int f_sync(sqlite3_file *file, int flags)
{
    return vfs_hit(
        SQLITE_IOERR_FSYNC); /* no power is cut here: a sync that works has nothing to do */
}
static int f_size(sqlite3_file *file, sqlite3_int64 *ret)
{
    return REAL(file)->pMethods->xFileSize(REAL(file), ret);
}
static int f_lock(sqlite3_file *file, int level)
{
    return REAL(file)->pMethods->xLock(REAL(file), level);
}
static int f_unlock(sqlite3_file *file, int level)
{
    return REAL(file)->pMethods->xUnlock(REAL(file), level);
}
static int f_reserved(sqlite3_file *file, int *ret)
{
    return REAL(file)->pMethods->xCheckReservedLock(REAL(file), ret);
}
static int f_control(sqlite3_file *file, int op, void *arg)
{
    return REAL(file)->pMethods->xFileControl(REAL(file), op, arg);
}
static int f_sector(sqlite3_file *file)
{
    return REAL(file)->pMethods->xSectorSize(REAL(file));
}
static int f_device(sqlite3_file *file)
{
    return REAL(file)->pMethods->xDeviceCharacteristics(REAL(file));
}
static int f_shm_map(sqlite3_file *file, int page, int size, int extend, void volatile **ret)
{
    return REAL(file)->pMethods->xShmMap(REAL(file), page, size, extend, ret);
}
static int f_shm_lock(sqlite3_file *file, int at, int n, int flags)
{
    return REAL(file)->pMethods->xShmLock(REAL(file), at, n, flags);
}
static void f_shm_barrier(sqlite3_file *file)
{
    REAL(file)->pMethods->xShmBarrier(REAL(file));
}
static int f_shm_unmap(sqlite3_file *file, int delete)
{
    return REAL(file)->pMethods->xShmUnmap(REAL(file), delete);
}

static const sqlite3_io_methods faulty_methods = {
    .iVersion = 2,
    .xClose = f_close,
    .xRead = f_read,
    .xWrite = f_write,
    .xTruncate = f_truncate,
    .xSync = f_sync,
    .xFileSize = f_size,
    .xLock = f_lock,
    .xUnlock = f_unlock,
    .xCheckReservedLock = f_reserved,
    .xFileControl = f_control,
    .xSectorSize = f_sector,
    .xDeviceCharacteristics = f_device,
    .xShmMap = f_shm_map,
    .xShmLock = f_shm_lock,
    .xShmBarrier = f_shm_barrier,
    .xShmUnmap = f_shm_unmap,
};

static int f_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *ret)
{
    sqlite3_vfs *real = vfs->pAppData;
    struct faulty_file *faulty = (struct faulty_file *)file;
    int rc;

    faulty->base.pMethods = NULL;
    faulty->real = calloc(1, (size_t)real->szOsFile);
    rc = real->xOpen(real, name, faulty->real, flags, ret);
    if (rc == SQLITE_OK)
        faulty->base.pMethods = &faulty_methods;
    else
        free(faulty->real);
    return rc;
}

static void faulty_vfs_register(void)
{
    static sqlite3_vfs vfs;
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);

    vfs = *real;
    vfs.pNext = NULL;
    vfs.zName = "eb-faulty";
    vfs.pAppData = real;
    vfs.szOsFile = (int)sizeof(struct faulty_file);
    vfs.xOpen = f_open;
    sqlite3_vfs_register(&vfs, 0);
}
