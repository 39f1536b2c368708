/* vfs_power.c - see vfs_power.h. One lock over all of it: a power cut is one moment for all threads. */
#include "tests/unit/store/vfs_power.h"

#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512
#define NAMES  32

struct bytes {
    uint8_t *data;
    uint64_t len, cap;
};

struct version { /* a sector as some write left it */
    uint64_t sector;
    uint8_t data[SECTOR];
};

/* What lies behind a name: it lives on when the name is gone. */
struct inode {
    struct inode *next;
    struct bytes now, synced;
    struct version *versions;
    size_t count, cap;
};

struct entry {
    char name[256];
    struct inode *now, *synced; /* NULL: there is no such name */
};

struct power_file {
    sqlite3_file base;
    struct inode *inode;
    bool folder_first; /* a fresh WAL or journal: its first sync syncs the folder */
    sqlite3_file *real;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    struct power_options options;
    uint64_t random, operations;
    bool dead;
    struct inode *inodes;
    struct entry entries[NAMES];
    unsigned count;
} power;
static sqlite3_vfs *real_vfs;

static uint64_t chance(uint64_t n)
{
    power.random ^= power.random << 13;
    power.random ^= power.random >> 7;
    power.random ^= power.random << 17;
    return (power.random >> 11) % n;
}

/* One step nearer to the cut. False: the power is out. */
static bool step(void)
{
    if (!power.dead && ++power.operations == power.options.cut_at)
        power.dead = true;
    return !power.dead;
}

static void resize(struct bytes *b, uint64_t len)
{
    if (len > b->cap) {
        b->cap = len * 2 + 65536;
        b->data = realloc(b->data, b->cap);
        if (!b->data)
            abort();
    }
    if (len > b->len)
        memset(b->data + b->len, 0, len - b->len);
    b->len = len;
}

static void assign(struct bytes *to, const struct bytes *from)
{
    resize(to, from->len);
    if (from->len)
        memcpy(to->data, from->data, from->len);
}

static void remember(struct inode *inode, uint64_t sector)
{
    if (inode->count == inode->cap) {
        inode->cap = inode->cap ? 2 * inode->cap : 64;
        inode->versions = realloc(inode->versions, inode->cap * sizeof(*inode->versions));
        if (!inode->versions)
            abort();
    }
    struct version *v = &inode->versions[inode->count++];
    uint64_t at = sector * SECTOR, n = inode->now.len - at;
    memset(v, 0, sizeof(*v));
    v->sector = sector;
    memcpy(v->data, inode->now.data + at, n < SECTOR ? n : SECTOR);
}

/* Each version lands or does not: the last one that lands counts. Versions of a sector keep their order. */
static void lose(const struct inode *inode, struct bytes *ret)
{
    uint64_t len = chance(2) ? inode->now.len : inode->synced.len;
    assign(ret, &inode->synced);
    unsigned odds = (unsigned)chance(4); /* some cuts take nearly all, some nearly nothing */
    for (size_t i = 0; i < inode->count; i++) {
        const struct version *v = &inode->versions[i];
        if (chance(4) > odds)
            continue;
        if (ret->len < (v->sector + 1) * SECTOR)
            resize(ret, (v->sector + 1) * SECTOR);
        memcpy(ret->data + v->sector * SECTOR, v->data, SECTOR);
    }
    resize(ret, len);
}

static struct entry *entry_of(const char *name)
{
    for (unsigned i = 0; i < power.count; i++)
        if (!strcmp(power.entries[i].name, name))
            return &power.entries[i];
    if (power.count == NAMES)
        abort();
    struct entry *e = &power.entries[power.count++];
    memset(e, 0, sizeof(*e));
    snprintf(e->name, sizeof(e->name), "%s", name);
    return e;
}

static struct inode *new_inode(void)
{
    struct inode *inode = calloc(1, sizeof(*inode));
    if (!inode)
        abort();
    inode->next = power.inodes;
    power.inodes = inode;
    return inode;
}

static void sync_inode(struct inode *inode)
{
    assign(&inode->synced, &inode->now);
    inode->count = 0;
}

static void sync_folder(void)
{
    for (unsigned i = 0; i < power.count; i++)
        power.entries[i].synced = power.entries[i].now;
}

/* ---- a file ---- */

#define REAL(f) (((struct power_file *)(f))->real)

static int f_close(sqlite3_file *f)
{
    int rc = REAL(f)->pMethods->xClose(REAL(f));
    sqlite3_free(REAL(f));
    return rc;
}

static int f_read(sqlite3_file *f, void *buf, int n, sqlite3_int64 at)
{
    return REAL(f)->pMethods->xRead(REAL(f), buf, n, at);
}

static int f_write(sqlite3_file *f, const void *buf, int n, sqlite3_int64 at)
{
    struct inode *inode = ((struct power_file *)f)->inode;
    int rc = SQLITE_IOERR_WRITE;
    pthread_mutex_lock(&lock);
    if (step()) {
        rc = REAL(f)->pMethods->xWrite(REAL(f), buf, n, at);
        if ((uint64_t)at + (uint64_t)n > inode->now.len)
            resize(&inode->now, (uint64_t)at + (uint64_t)n);
        memcpy(inode->now.data + at, buf, (size_t)n);
        for (uint64_t s = (uint64_t)at / SECTOR; s <= ((uint64_t)at + (uint64_t)n - 1) / SECTOR;
             s++)
            remember(inode, s);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static int f_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    int rc = SQLITE_IOERR_TRUNCATE;
    pthread_mutex_lock(&lock);
    if (step()) {
        rc = REAL(f)->pMethods->xTruncate(REAL(f), size);
        resize(&((struct power_file *)f)->inode->now, (uint64_t)size);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static int f_sync(sqlite3_file *f, int flags)
{
    struct power_file *file = (struct power_file *)f;
    int rc = SQLITE_OK;
    pthread_mutex_lock(&lock);
    bool was_dead = power.dead;
    if (!step()) {
        rc = SQLITE_IOERR_FSYNC;
        if (!was_dead &&
            !power.options.ignore_sync) { /* cut in the middle of it: some of it is safe */
            struct bytes half = {0};
            lose(file->inode, &half);
            assign(&file->inode->synced, &half);
            free(half.data);
        }
    } else if (!power.options.ignore_sync) {
        sync_inode(file->inode);
        if (file->folder_first)
            sync_folder();
        file->folder_first = false;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static int f_size(sqlite3_file *f, sqlite3_int64 *ret)
{
    return REAL(f)->pMethods->xFileSize(REAL(f), ret);
}
static int f_lock(sqlite3_file *f, int level)
{
    return REAL(f)->pMethods->xLock(REAL(f), level);
}
static int f_unlock(sqlite3_file *f, int level)
{
    return REAL(f)->pMethods->xUnlock(REAL(f), level);
}
static int f_reserved(sqlite3_file *f, int *ret)
{
    return REAL(f)->pMethods->xCheckReservedLock(REAL(f), ret);
}
static int f_control(sqlite3_file *f, int op, void *arg)
{
    if (op == SQLITE_FCNTL_SIZE_HINT || op == SQLITE_FCNTL_CHUNK_SIZE)
        return SQLITE_OK; /* would write behind our back */
    return REAL(f)->pMethods->xFileControl(REAL(f), op, arg);
}
static int f_sector(sqlite3_file *f)
{
    return SECTOR;
}
static int f_device(sqlite3_file *f)
{
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE; /* a sector is written whole or not at all */
}
static int f_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **ret)
{
    return REAL(f)->pMethods->xShmMap(REAL(f), page, size, extend, ret);
}
static int f_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    return REAL(f)->pMethods->xShmLock(REAL(f), offset, n, flags);
}
static void f_shm_barrier(sqlite3_file *f)
{
    REAL(f)->pMethods->xShmBarrier(REAL(f));
}
static int f_shm_unmap(sqlite3_file *f, int drop)
{
    return REAL(f)->pMethods->xShmUnmap(REAL(f), drop);
}

static const sqlite3_io_methods methods = {
    2,          f_close,       f_read,      f_write,   f_truncate, f_sync,   f_size,
    f_lock,     f_unlock,      f_reserved,  f_control, f_sector,   f_device, f_shm_map,
    f_shm_lock, f_shm_barrier, f_shm_unmap, NULL,      NULL};

/* ---- the VFS ---- */

static int v_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    struct power_file *file = (struct power_file *)f;
    int rc = SQLITE_CANTOPEN;
    memset(file, 0, sizeof(*file));
    file->real = sqlite3_malloc(real_vfs->szOsFile);
    if (!file->real)
        return SQLITE_NOMEM;
    memset(file->real, 0, (size_t)real_vfs->szOsFile);
    pthread_mutex_lock(&lock);
    struct entry *e = name ? entry_of(name) : NULL;
    bool fresh = !e || !e->now;
    if (!fresh || !(flags & SQLITE_OPEN_CREATE) || step())
        rc = real_vfs->xOpen(real_vfs, name, file->real, flags, out);
    if (rc == SQLITE_OK) {
        if (fresh)
            file->inode = new_inode();
        if (e && fresh)
            e->now = file->inode;
        file->inode = e ? e->now : file->inode;
        file->folder_first = fresh && (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL));
        file->base.pMethods = &methods;
    } else {
        sqlite3_free(file->real);
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static int v_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    int rc = SQLITE_IOERR_DELETE;
    pthread_mutex_lock(&lock);
    if (step()) {
        rc = real_vfs->xDelete(real_vfs, name, 0);
        entry_of(name)->now = NULL;
        if (sync && !power.options.ignore_sync)
            sync_folder();
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

static int v_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret)
{
    return real_vfs->xAccess(real_vfs, name, flags, ret);
}
static int v_full(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
    return real_vfs->xFullPathname(real_vfs, name, n, out);
}
static int v_random(sqlite3_vfs *vfs, int n, char *out)
{
    return real_vfs->xRandomness(real_vfs, n, out);
}
static int v_sleep(sqlite3_vfs *vfs, int us)
{
    return real_vfs->xSleep(real_vfs, us);
}
static int v_time(sqlite3_vfs *vfs, double *ret)
{
    return real_vfs->xCurrentTime(real_vfs, ret);
}
static int v_error(sqlite3_vfs *vfs, int n, char *out)
{
    return real_vfs->xGetLastError ? real_vfs->xGetLastError(real_vfs, n, out) : 0;
}

static sqlite3_vfs vfs_power = {
    .iVersion = 1,
    .szOsFile = sizeof(struct power_file),
    .mxPathname = 255,
    .zName = "power",
    .xOpen = v_open,
    .xDelete = v_delete,
    .xAccess = v_access,
    .xFullPathname = v_full,
    .xRandomness = v_random,
    .xSleep = v_sleep,
    .xCurrentTime = v_time,
    .xGetLastError = v_error,
};

static void drop_inodes(void)
{
    while (power.inodes) {
        struct inode *inode = power.inodes;
        power.inodes = inode->next;
        free(inode->now.data);
        free(inode->synced.data);
        free(inode->versions);
        free(inode);
    }
}

/* What is on disk when a round begins is durable. */
static void load_entries(void)
{
    unsigned count = power.count;
    power.count = 0;
    for (unsigned i = 0; i < count; i++) {
        struct entry *e = &power.entries[power.count];
        *e = power.entries[i];
        int fd = open(e->name, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        power.count++;
        off_t size = lseek(fd, 0, SEEK_END);
        e->now = e->synced = new_inode();
        resize(&e->now->now, (uint64_t)size);
        if (size && pread(fd, e->now->now.data, (size_t)size, 0) != size)
            abort();
        close(fd);
        sync_inode(e->now);
    }
}

void power_begin(const struct power_options *options)
{
    if (!real_vfs) {
        real_vfs = sqlite3_vfs_find(NULL);
        sqlite3_vfs_register(&vfs_power, 0);
    }
    drop_inodes();
    power.options = *options;
    power.random = options->seed * 0x9E3779B97F4A7C15u | 1;
    power.operations = 0;
    power.dead = false;
    load_entries();
}

void power_arm(uint64_t n)
{
    pthread_mutex_lock(&lock);
    power.options.cut_at = power.operations + n;
    pthread_mutex_unlock(&lock);
}

void power_cut(void)
{
    pthread_mutex_lock(&lock);
    power.dead = true;
    pthread_mutex_unlock(&lock);
}

bool power_is_cut(void)
{
    pthread_mutex_lock(&lock);
    bool dead = power.dead;
    pthread_mutex_unlock(&lock);
    return dead;
}

uint64_t power_operations(void)
{
    return power.operations;
}

void power_restore(void)
{
    for (unsigned i = 0; i < power.count; i++) {
        struct entry *e = &power.entries[i];
        struct inode *left = chance(2) ? e->now : e->synced;
        struct bytes bytes = {0};
        unlink(e->name);
        if (!left)
            continue;
        lose(left, &bytes);
        int fd = open(e->name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0 || (bytes.len && write(fd, bytes.data, bytes.len) != (ssize_t)bytes.len))
            abort();
        close(fd);
        free(bytes.data);
    }
}
