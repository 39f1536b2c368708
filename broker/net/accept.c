/*
 * accept.c - the thread `eb-accept` of a listening socket: takes connections and deals them out to the libmicrohttpd daemons
 * behind it, each of one thread.
 *
 * (G1) libmicrohttpd's own pool lets whoever wakes first take a connection, and often one thread has nearly all of them: then
 *      the other idles, and publishes over HTTP are a quarter slower. Here the daemon with the fewest gets the next.
 * (G2) `count` is up before a connection is handed over and down when libmicrohttpd has closed it, or did not take it. (Of one
 *      that it drops behind the hand-over for lack of memory it says nothing: that place is lost.)
 * (G3) At the limit, or without a descriptor, connections wait in the kernel's queue.
 */
#include "broker/net/http.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

#define NO_FILES_SAY_MS 10000
#define RETRY_MS        20

static void no_descriptor(void)
{
    static _Atomic int64_t said_ms = INT64_MIN / 2;
    int64_t now = eb_mono_ms(), said = atomic_load(&said_ms);
    if (now - said >= NO_FILES_SAY_MS && atomic_compare_exchange_strong(&said_ms, &said, now))
        eb_warn("EB-NO-FILES", "a connection waits: no file descriptor is left for it");
}

/* G1. NULL: the limit is reached. */
static struct eb_net_daemon *with_fewest(struct eb_acceptor *acceptor)
{
    struct eb_net_daemon *fewest = NULL;
    unsigned min = 0, sum = 0;
    for (unsigned i = 0; i < acceptor->daemon_count; i++) {
        unsigned count = atomic_load(&acceptor->daemons[i].count);
        sum += count;
        if (!fewest || count < min) {
            fewest = &acceptor->daemons[i];
            min = count;
        }
    }
    return sum < acceptor->limit ? fewest : NULL;
}

/* False: not now (G3). */
static bool take_one(struct eb_acceptor *acceptor, struct eb_net_daemon *daemon)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof(addr);
    int fd = accept4(acceptor->fd, (struct sockaddr *)&addr, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
            return errno != EINVAL && errno != EBADF;
        no_descriptor();
        return false;
    }
    atomic_fetch_add(&daemon->count, 1); /* G2 */
    if (MHD_add_connection(daemon->daemon, fd, (struct sockaddr *)&addr, len) != MHD_YES)
        atomic_fetch_sub(&daemon->count, 1); /* it has closed it */
    return true;
}

static void *accept_main(void *arg)
{
    struct eb_acceptor *acceptor = arg;
    bool waits = false;
    pthread_setname_np(pthread_self(), "eb-accept");
    for (;;) {
        struct pollfd fds[2] = {{.fd = acceptor->stop_fd, .events = POLLIN},
                                {.fd = waits ? -1 : acceptor->fd, .events = POLLIN}};
        if (poll(fds, 2, waits ? RETRY_MS : -1) < 0)
            continue; /* a signal */
        if (fds[0].revents)
            return NULL;
        struct eb_net_daemon *daemon = with_fewest(acceptor);
        waits = !daemon || ((waits || fds[1].revents) && !take_one(acceptor, daemon));
    }
}

int eb_acceptor_start(struct eb_acceptor *acceptor)
{
    acceptor->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (acceptor->stop_fd < 0)
        return -errno;
    int rc = pthread_create(&acceptor->thread, NULL, accept_main, acceptor);
    if (rc != 0)
        close(acceptor->stop_fd);
    acceptor->started = rc == 0;
    return -rc;
}

void eb_acceptor_stop(struct eb_acceptor *acceptor)
{
    const uint64_t one = 1;
    if (!acceptor->started)
        return;
    while (write(acceptor->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    pthread_join(acceptor->thread, NULL);
    close(acceptor->stop_fd);
    close(acceptor->fd);
    acceptor->started = false;
}
