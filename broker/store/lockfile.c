/*
 * lockfile.c - one broker a log: a flock on a file beside it, and the syncing of a fresh name's folder.
 *
 * A file of its own, because closing any descriptor of the database drops SQLite's POSIX locks on it. The lock
 * dies with the process; the file stays (removing it would let two brokers each lock a file of that name).
 * Backup, verify and the sqlite3 shell do not take it: they may look at a log that is in use.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "broker/store/schema.h"

/* Folder of @path into @out. */
static void folder_of(const char *path, char out[PATH_MAX])
{
    char copy[PATH_MAX];

    snprintf(copy, sizeof(copy), "%s", path);
    snprintf(out, PATH_MAX, "%s", dirname(copy));
}

/* The one name of the log, however it was called: its own real path, or its folder's if it is not there yet. */
static int real_name(const char *path, char out[PATH_MAX], struct eb_error *err)
{
    char folder[PATH_MAX], copy[PATH_MAX], real[PATH_MAX];

    if (strlen(path) > PATH_MAX - 16)
        return -ENAMETOOLONG;
    if (realpath(path, out))
        return 0;
    if (errno != ENOENT)
        return -errno;
    folder_of(path, folder);
    if (!realpath(folder, real)) {
        int result = -errno;
        eb_fail(err, EB_INTERNAL, "the folder %s of the log cannot be used: %s (mkdir -p %s)",
                folder, strerror(-result), folder);
        return result;
    }
    snprintf(copy, sizeof(copy), "%s", path);
    if (snprintf(out, PATH_MAX, "%s/%s", real, basename(copy)) >= PATH_MAX)
        return -ENAMETOOLONG;
    return 0;
}

static int busy(int fd, const char *path, struct eb_error *err)
{
    char pid[32] = "";
    ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);

    pid[n > 0 ? n : 0] = '\0';
    pid[strcspn(pid, "\n")] = '\0';
    eb_fail(err, EB_INTERNAL,
            "%s is in use by another broker (process %s): stop that one, or give this one a log of "
            "its own with --db",
            path, pid[0] ? pid : "unknown");
    return -EBUSY;
}

int eb_log_lock(const char *path, int *ret_fd, struct eb_error *err)
{
    char name[PATH_MAX], file[PATH_MAX + 8], pid[32];
    int fd, result;

    eb_fail(err, EB_INTERNAL, "cannot use %s", path);
    result = real_name(path, name, err);
    if (result < 0)
        return result;
    snprintf(file, sizeof(file), "%s.lock", name);
    fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        result = -errno;
        eb_fail(
            err, result == -ENOSPC ? EB_STORAGE_FULL : EB_INTERNAL,
            "cannot make %s: %s; the broker's user must be able to write the log and its folder",
            file, strerror(-result));
        return result;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        result = errno == EWOULDBLOCK ? busy(fd, path, err) : -errno;
        close(fd);
        return result;
    }
    snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
    /* Only for the message above: a lock without a number in it is as good. */
    if (ftruncate(fd, 0) == 0 && pwrite(fd, pid, strlen(pid), 0) < 0)
        (void)errno;
    *ret_fd = fd;
    return 0;
}

void eb_log_unlock(int fd)
{
    if (fd >= 0)
        close(fd);
}

int eb_sync_folder(const char *path)
{
    char folder[PATH_MAX];
    int fd, result;

    folder_of(path, folder);
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    result = fsync(fd) < 0 && errno != EINVAL ? -errno : 0; /* EINVAL: no such thing there */
    close(fd);
    return result;
}
