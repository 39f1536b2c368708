/*
 * loneack.c - the most that one connection which waits for each answer could reach with SQLite as its log: its thread
 * reads a request, commits one row of 128 bytes, and answers. No parsing, no protocol, nobody else. It speaks as much of
 * RESP as groupack.c does. Load comes from outside, on one connection.
 */
#include <sys/socket.h>

#include "tests/bench/raw/raw.h"

static const char added[] = "$15\r\n1700000000000-0\r\n";
static struct raw_rows *rows;

static void *serve(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char request[4096];
    ssize_t n;

    while ((n = recv(fd, request, sizeof(request), 0)) > 0) {
        bool ping = n > 8 && request[8] == 'P';
        if (!ping && raw_rows_commit(rows, 1) < 0)
            break;
        const char *answer = ping ? "+PONG\r\n" : added;
        if (send(fd, answer, ping ? 7 : sizeof(added) - 1, MSG_NOSIGNAL) < 0)
            break;
    }
    shutdown(fd, SHUT_RDWR);
    return NULL;
}

int raw_lone_ack(const struct raw_options *options)
{
    rows = raw_rows_open(options, "FULL");
    if (!rows)
        return -1;
    int rc = raw_serve("lone-ack", options, serve);
    raw_rows_close(rows);
    return rc;
}
