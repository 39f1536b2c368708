/*
 * space.c - how much room the disk has left for the log, and whether that is below min_free.
 *
 * What counts is what will be free when the checkpoints still owed have run: they may make the database
 * file longer. The disk is looked at when somebody asks, at most once in EB_SPACE_CACHE_MS; but sooner when
 * what was stored meanwhile may have used up a good part of what was left above min_free.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "broker/store/internal.h"
#include "common/clock.h"
#include "common/log.h"

static int64_t real_wall(void *ctx)
{
    return eb_wall_ms();
}

static int64_t real_mono(void *ctx)
{
    return eb_mono_ms();
}

/* The folder is asked, not the file: the WAL beside it may be all that grows. */
static int real_free(void *ctx, const char *path, uint64_t *ret)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 0;
    if (len >= sizeof folder)
        return -ENAMETOOLONG;
    memcpy(folder, path, len);
    folder[len] = '\0';
    struct statvfs fs;
    if (statvfs(len ? folder : slash ? "/" : ".", &fs) < 0)
        return -errno;
    *ret = (uint64_t)fs.f_bavail * fs.f_frsize;
    return 0;
}

const struct eb_store_env eb_store_env_real = {
    .wall_ms = real_wall,
    .mono_ms = real_mono,
    .free_bytes = real_free,
};

void eb_space_init(struct eb_space *space)
{
    atomic_init(&space->checked_at, INT64_MIN);
    atomic_init(&space->free, UINT64_MAX);
    atomic_init(&space->written, 0);
    atomic_init(&space->low, false);
}

const char *eb_space_text(char *buf, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    if (bytes < 1024) {
        snprintf(buf, size, "%" PRIu64 " bytes", bytes);
        return buf;
    }
    double value = (double)bytes / 1024;
    size_t unit = 0;
    while (value >= 1024 && unit < 3) {
        value /= 1024;
        unit++;
    }
    snprintf(buf, size, "%.1f %s", value, units[unit]);
    return buf;
}

uint64_t eb_space_free(struct eb_store *store)
{
    struct eb_space *space = &store->space;
    if (!store->config.path)
        return 0;
    int64_t now = store->env.mono_ms(store->env.ctx);
    int64_t before = atomic_load(&space->checked_at);
    if (before != INT64_MIN && now - before < EB_SPACE_CACHE_MS)
        return atomic_load(&space->free);
    /* Whoever comes first looks; the others believe the last figure meanwhile. */
    if (!atomic_compare_exchange_strong(&space->checked_at, &before, now))
        return atomic_load(&space->free);
    uint64_t bytes;
    if (store->env.free_bytes(store->env.ctx, store->config.path, &bytes) < 0) {
        bytes = UINT64_MAX; /* unknown: the disk itself will say when it is full */
    } else {
        struct eb_engine_figures figures;
        store->engine->ops->figures(store->engine, &figures);
        bytes -= bytes < figures.wal_pending_bytes ? bytes : figures.wal_pending_bytes;
    }
    atomic_store(&space->written, 0);
    atomic_store(&space->free, bytes);
    return bytes;
}

bool eb_space_low(struct eb_store *store, uint64_t min_free, uint64_t *ret_free)
{
    if (!store->config.path)
        return false;
    uint64_t bytes = eb_space_free(store);
    if (bytes >= min_free && atomic_load(&store->space.written) > (bytes - min_free) / 4) {
        atomic_store(&store->space.checked_at, INT64_MIN);
        bytes = eb_space_free(store);
    }
    bool low = bytes < min_free;
    if (atomic_exchange(&store->space.low, low) != low) {
        char has[32], wants[32];
        eb_space_text(has, sizeof has, bytes);
        eb_space_text(wants, sizeof wants, min_free);
        if (low)
            eb_warn("EB-DISK-LOW", "%s free for %s, below min_free (%s): publishes are refused",
                    has, store->config.path, wants);
        else
            eb_info("EB-DISK-OK", "%s free for %s: publishes are taken again", has,
                    store->config.path);
    }
    *ret_free = bytes;
    return low;
}
