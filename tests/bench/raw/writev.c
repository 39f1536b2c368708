/*
 * writev.c - a bare fan-out: the same frames to each of many TCP sockets, --batch of them (at most 64 KiB) lie in a row and
 * go in one writev, and one thread reads and throws away. No queue, no match, no log: what the kernel leaves to a broker that delivers.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/bench/raw/raw.h"

#define FRAME_HEAD 2 /* a WebSocket header of a short frame */
#define BURST_MOST ((size_t)64 << 10)

struct fan {
    unsigned sockets, batch;
    size_t frame;
    int *out, *in;
    atomic_ullong read; /* bytes */
    atomic_bool done;
};

static void *read_all(void *arg)
{
    struct fan *fan = arg;
    struct epoll_event ready[64];
    static char sink[256 * 1024];
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    for (unsigned i = 0; i < fan->sockets; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fan->in[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fan->in[i], &event);
    }
    while (!atomic_load(&fan->done)) {
        int count = epoll_wait(epoll, ready, 64, 20);
        for (int i = 0; i < count; i++) {
            ssize_t got = recv(ready[i].data.fd, sink, sizeof(sink), MSG_DONTWAIT);
            if (got > 0)
                atomic_fetch_add(&fan->read, (unsigned long long)got);
        }
    }
    close(epoll);
    return NULL;
}

static int connect_all(struct fan *fan)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof(address);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) < 0 ||
        listen(listener, 128) < 0 || getsockname(listener, (struct sockaddr *)&address, &len) < 0)
        return -1;
    for (unsigned i = 0; i < fan->sockets; i++) {
        fan->in[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fan->in[i] < 0 || connect(fan->in[i], (struct sockaddr *)&address, len) < 0)
            return -1;
        fan->out[i] = accept(listener, NULL, NULL);
        if (fan->out[i] < 0 ||
            setsockopt(fan->out[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
            return -1;
    }
    close(listener);
    return 0;
}

/* All of one burst, however often the socket is full. */
static int write_burst(int fd, char *burst, size_t len)
{
    while (len > 0) {
        struct iovec left = {burst, len};
        ssize_t wrote = writev(fd, &left, 1);
        if (wrote < 0)
            return -1;
        burst += wrote;
        len -= (size_t)wrote;
    }
    return 0;
}

static int fan_out(struct fan *fan, const struct raw_options *options)
{
    size_t len = fan->frame * fan->batch;
    char *burst = calloc(1, len);
    pthread_t reader;
    int rc = 0;

    if (burst == NULL || pthread_create(&reader, NULL, read_all, fan) != 0) {
        free(burst);
        return -1;
    }
    double start = raw_now(), now = start;
    while (rc == 0 && now - start < options->seconds) {
        for (unsigned i = 0; i < fan->sockets && rc == 0; i++)
            rc = write_burst(fan->out[i], burst, len);
        now = raw_now();
    }
    double read = (double)atomic_load(&fan->read);
    atomic_store(&fan->done, true);
    pthread_join(reader, NULL);
    free(burst);
    if (rc == 0)
        raw_print("writev", read / (double)fan->frame, now - start, NULL);
    return rc;
}

int raw_writev(const struct raw_options *options)
{
    struct fan fan = {
        .sockets = options->sockets, .batch = options->batch, .frame = options->bytes + FRAME_HEAD};

    if (fan.batch > BURST_MOST / fan.frame)
        fan.batch = (unsigned)(BURST_MOST / fan.frame) + 1;

    fan.out = calloc(fan.sockets, sizeof(*fan.out));
    fan.in = calloc(fan.sockets, sizeof(*fan.in));
    int rc =
        fan.out == NULL || fan.in == NULL || connect_all(&fan) < 0 ? -1 : fan_out(&fan, options);
    if (rc < 0)
        fprintf(stderr, "writev: %s\n", strerror(errno));
    /* sockets end with the process: this is its only work */
    free(fan.out);
    free(fan.in);
    return rc;
}
