/*
 * count.c - a library to preload into the broker: counts what it asks of libc, for tests that bound the cost of an
 * event where a clock would tell of the machine (tests/e2e/test_perf_smoke.py).
 *
 * The counters lie in a file that the test made and maps too: EVENTBUS_COUNT_FILE, one 64-bit number for each name
 * in COUNTED below, in that order. Calls inside libc are not seen, calls of SQLite and libmicrohttpd are.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define COUNTED(X)                                                                                 \
    X(allocations)                                                                                 \
    X(locks) X(signals) X(receives) X(sends) X(polls) X(file_reads) X(file_writes) X(hints) X(syncs)

enum {
#define X(name) name,
    COUNTED(X)
#undef X
        COUNTERS
};

static atomic_ullong none[COUNTERS];
static atomic_ullong *counters = none;

static void count(int which)
{
    atomic_fetch_add_explicit(&counters[which], 1, memory_order_relaxed);
}

__attribute__((constructor)) static void map_counters(void)
{
    const char *path = getenv("EVENTBUS_COUNT_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    if (fd < 0)
        return;
    void *map = mmap(NULL, sizeof(none), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        counters = map;
}

/* ---- memory: through glibc's own names, as dlsym() allocates by itself ---- */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size)
{
    count(allocations);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count(allocations);
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    count(allocations);
    return __libc_realloc(old, size);
}

/* ---- calls: counted, then handed on ---- */

#define HAND_ON(which, type, name, parameters, arguments)                                          \
    type name parameters                                                                           \
    {                                                                                              \
        static type(*next) parameters;                                                             \
        if (!next)                                                                                 \
            next = (type(*) parameters)dlsym(RTLD_NEXT, #name);                                    \
        count(which);                                                                              \
        return next arguments;                                                                     \
    }

HAND_ON(locks, int, pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex))
HAND_ON(signals, int, pthread_cond_signal, (pthread_cond_t * cond), (cond))
HAND_ON(signals, int, pthread_cond_broadcast, (pthread_cond_t * cond), (cond))
HAND_ON(receives, ssize_t, recv, (int fd, void *buf, size_t len, int flags), (fd, buf, len, flags))
HAND_ON(receives, ssize_t, recvmsg, (int fd, struct msghdr *msg, int flags), (fd, msg, flags))
HAND_ON(receives, ssize_t, read, (int fd, void *buf, size_t len), (fd, buf, len))
HAND_ON(sends, ssize_t, send, (int fd, const void *buf, size_t len, int flags),
        (fd, buf, len, flags))
HAND_ON(sends, ssize_t, sendmsg, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags))
HAND_ON(sends, ssize_t, write, (int fd, const void *buf, size_t len), (fd, buf, len))
HAND_ON(sends, ssize_t, writev, (int fd, const struct iovec *iov, int n), (fd, iov, n))
HAND_ON(polls, int, poll, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout))
HAND_ON(polls, int, epoll_wait, (int fd, struct epoll_event *events, int n, int timeout),
        (fd, events, n, timeout))
HAND_ON(file_reads, ssize_t, pread64, (int fd, void *buf, size_t len, off64_t at),
        (fd, buf, len, at))
HAND_ON(file_writes, ssize_t, pwrite64, (int fd, const void *buf, size_t len, off64_t at),
        (fd, buf, len, at))
HAND_ON(file_writes, ssize_t, pwritev, (int fd, const struct iovec *iov, int n, off_t at),
        (fd, iov, n, at))
HAND_ON(hints, int, sync_file_range, (int fd, off64_t from, off64_t len, unsigned flags),
        (fd, from, len, flags))
HAND_ON(syncs, int, fdatasync, (int fd), (fd))
HAND_ON(syncs, int, fsync, (int fd), (fd))
