/*
 * groupack.c - the most that connections which wait for each answer could reach with a thread each and one sync for
 * all that wait: a thread reads a request and hands it over; one thread writes 4 KiB over bytes that are there, syncs
 * them and answers everybody. No parsing, no rows, no log. It speaks as much of RESP as `eventbus-load --target redis`
 * needs with a window of 1 (serve.c): a request is whole in one read. Load comes from outside.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/raw/raw.h"

#define BLOCK       4096
#define FILE_BLOCKS 1024
#define MOST        4096

static const char added[] = "$15\r\n1700000000000-0\r\n";
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static int waiting[MOST];
static unsigned waiting_len;
static int file = -1;

static bool hand_over(int fd)
{
    pthread_mutex_lock(&lock);
    bool room = waiting_len < MOST;
    if (room)
        waiting[waiting_len++] = fd;
    if (waiting_len == 1)
        pthread_cond_signal(&some);
    pthread_mutex_unlock(&lock);
    return room;
}

static void *serve(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char request[4096];
    ssize_t n;

    while ((n = recv(fd, request, sizeof(request), 0)) > 0) {
        bool ping = n > 8 && request[8] == 'P';
        if (ping ? send(fd, "+PONG\r\n", 7, MSG_NOSIGNAL) < 0 : !hand_over(fd))
            break;
    }
    shutdown(fd, SHUT_RDWR); /* not closed: it may still stand among those that wait */
    return NULL;
}

static void *commit(void *unused)
{
    static char block[BLOCK];
    int mine[MOST];

    (void)unused;
    for (uint64_t turn = 0;; turn++) {
        pthread_mutex_lock(&lock);
        while (waiting_len == 0)
            pthread_cond_wait(&some, &lock);
        unsigned n = waiting_len;
        memcpy(mine, waiting, n * sizeof(*mine));
        waiting_len = 0;
        pthread_mutex_unlock(&lock);
        if (pwrite(file, block, BLOCK, (off_t)(turn % FILE_BLOCKS) * BLOCK) != BLOCK ||
            fdatasync(file) < 0)
            abort();
        for (unsigned i = 0; i < n; i++)
            send(mine[i], added, sizeof(added) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    return NULL;
}

static int open_file(const char *path)
{
    char block[BLOCK] = {0};
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

    unlink(path);
    for (unsigned i = 0; i < FILE_BLOCKS && fd >= 0; i++)
        if (pwrite(fd, block, BLOCK, (off_t)i * BLOCK) != BLOCK)
            return -1;
    return fd >= 0 && fsync(fd) == 0 ? fd : -1;
}

int raw_group_ack(const struct raw_options *options)
{
    file = open_file(raw_path(options, "group-ack"));
    if (file < 0 || !raw_thread(commit, NULL)) {
        perror("group-ack");
        return -1;
    }
    return raw_serve("group-ack", options, serve);
}
