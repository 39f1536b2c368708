/*
 * resolve.c - host names without being held up by them.
 *
 * getaddrinfo() cannot be cancelled and may take half a minute. Numbers are taken as they are; a name is looked up
 * by a short-lived thread, `eb-client-dns`, which owns its own memory: who gives up waiting lets go of it.
 * (N1) At most one lookup of a client runs: the next try waits for the one that still does.
 * (N2) The last of the two, thread and waiter, frees it.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/internal.h"

struct eb_lookup {
    atomic_int refs;  /* [a] thread, waiter (N2) */
    int done_fd;      /* [I] readable once `done` */
    atomic_bool done; /* [a] rc and found are set */
    int rc;
    struct addrinfo *found;
    char *host, *port; /* [I] */
};

static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};

void eb_lookup_drop(struct eb_lookup *lookup)
{
    if (!lookup || atomic_fetch_sub(&lookup->refs, 1) != 1)
        return;
    if (lookup->found)
        freeaddrinfo(lookup->found);
    if (lookup->done_fd >= 0)
        close(lookup->done_fd);
    free(lookup->host);
    free(lookup->port);
    free(lookup);
}

static void *run(void *arg)
{
    struct eb_lookup *lookup = arg;
    uint64_t one = 1;

    pthread_setname_np(pthread_self(), "eb-client-dns");
    lookup->rc = getaddrinfo(lookup->host, lookup->port, &hints, &lookup->found);
    atomic_store(&lookup->done, true);
    if (write(lookup->done_fd, &one, sizeof(one)) < 0)
        (void)0; /* a fresh eventfd takes it */
    eb_lookup_drop(lookup);
    return NULL;
}

/* A detached thread with all signals blocked: it was started by one that blocks them. */
static struct eb_lookup *start(const char *host, const char *port)
{
    struct eb_lookup *lookup = calloc(1, sizeof(*lookup));
    pthread_attr_t attr;
    pthread_t thread;
    int rc = -1;

    if (!lookup)
        return NULL;
    atomic_init(&lookup->refs, 2);
    lookup->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lookup->host = strdup(host);
    lookup->port = strdup(port);
    if (lookup->done_fd >= 0 && lookup->host && lookup->port && pthread_attr_init(&attr) == 0) {
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        rc = pthread_create(&thread, &attr, run, lookup);
        pthread_attr_destroy(&attr);
    }
    if (rc == 0)
        return lookup;
    atomic_store(&lookup->refs, 1);
    eb_lookup_drop(lookup);
    return NULL;
}

static int wait_for(struct eb_lookup *lookup, int wake_fd, int64_t deadline)
{
    struct pollfd fds[2] = {{lookup->done_fd, POLLIN, 0}, {wake_fd, POLLIN, 0}};

    for (;;) {
        int64_t left = deadline - eb_mono_ms();
        int rc = poll(fds, 2, left > 0 ? (int)left : 0);
        if (rc < 0 && errno != EINTR)
            return -errno;
        if (rc > 0 && atomic_load(&lookup->done))
            return 0;
        if (rc > 0 && fds[1].revents)
            return -ECANCELED;
        if (rc == 0 && left <= 0)
            return -ETIMEDOUT;
    }
}

int eb_lookup(struct eb_lookup **kept, const char *host, const char *port, int wake_fd,
              int64_t deadline, struct addrinfo **ret, char *why, size_t size)
{
    struct addrinfo number = {.ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct eb_lookup *lookup;
    int rc;

    if (getaddrinfo(host, port, &number, ret) == 0)
        return 0;
    if (!*kept)
        *kept = start(host, port);
    lookup = *kept;
    if (!lookup) {
        snprintf(why, size, "out of memory for the lookup of \"%s\"", host);
        return -ENOMEM;
    }
    rc = wait_for(lookup, wake_fd, deadline);
    if (rc < 0) { /* still running: the next try waits for it (N1) */
        snprintf(why, size, "the lookup of \"%s\" takes too long", host);
        return rc;
    }
    *kept = NULL;
    if (lookup->rc == 0) {
        *ret = lookup->found;
        lookup->found = NULL;
    } else {
        snprintf(why, size, "the name \"%s\" cannot be looked up: %s", host,
                 gai_strerror(lookup->rc));
        rc = -EHOSTUNREACH;
    }
    eb_lookup_drop(lookup);
    return rc;
}
