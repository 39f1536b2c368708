/*
 * disk.c - how often a second this disk can promise: 4 KiB and fdatasync, to a file that grows (as a new WAL does)
 * and over bytes that are there (as a recycled one does).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/raw/raw.h"

#define BLOCK       4096
#define FILE_BLOCKS 1024

static int sync_blocks(int fd, const struct raw_options *options, const char *limit,
                       unsigned wrap_at)
{
    char block[BLOCK];
    struct raw_times times = {0};
    double start = raw_now(), now = start;

    memset(block, 'x', sizeof(block));
    for (uint64_t i = 0; now - start < options->seconds; i++) {
        off_t at = (off_t)(wrap_at ? i % wrap_at : i) * BLOCK;
        if (pwrite(fd, block, BLOCK, at) != BLOCK || fdatasync(fd) < 0)
            return -1;
        double end = raw_now();
        if (raw_times_add(&times, end - now) < 0)
            return -1;
        now = end;
    }
    raw_print(limit, (double)times.count, now - start, &times);
    return 0;
}

static int in_file(const struct raw_options *options, const char *limit, unsigned prepared)
{
    char path[4096], block[BLOCK] = {0};
    int rc = 0;

    snprintf(path, sizeof(path), "%s", raw_path(options, limit));
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        perror(path);
        return -1;
    }
    for (unsigned i = 0; i < prepared && rc == 0; i++)
        rc = pwrite(fd, block, BLOCK, (off_t)i * BLOCK) == BLOCK ? 0 : -1;
    if (rc == 0 && fsync(fd) == 0)
        rc = sync_blocks(fd, options, limit, prepared);
    else
        rc = -1;
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    close(fd);
    unlink(path);
    return rc;
}

int raw_fdatasync_append(const struct raw_options *options)
{
    return in_file(options, "fdatasync-append", 0);
}

int raw_fdatasync_overwrite(const struct raw_options *options)
{
    return in_file(options, "fdatasync-overwrite", FILE_BLOCKS);
}
