/*
 * sink.c - the other end of a target's protocol, which does nothing but answer: what the loader reaches against it
 * is the loader's own ceiling on this machine, and a row near it says nothing about a broker.
 *
 *   eventbus-load sink --target TARGET --port P       prints "listening on HOST:PORT", ends by a signal
 *
 * What is published without asking for an answer is given to every connection that subscribed, encoded once and
 * written in one send a round: the fan-out that no broker can beat with these system calls.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>

#include "load.h"

static struct loop loop;
static struct conn **subscribers;
static size_t subscribers_len;
static struct conn round_out; /* only its outgoing bytes: of this round, for all subscribers */

uint8_t *sink_reserve(size_t len)
{
    return conn_reserve(&round_out, len);
}

void sink_wrote(size_t len)
{
    conn_wrote(&round_out, len);
}

void sink_subscribe(struct conn *c)
{
    subscribers = reallocarray(subscribers, subscribers_len + 1, sizeof(struct conn *));
    if (!subscribers)
        die("no memory");
    subscribers[subscribers_len++] = c;
}

static void gone(struct conn *c)
{
    for (size_t i = 0; i < subscribers_len; i++)
        if (subscribers[i] == c)
            subscribers[i--] = subscribers[--subscribers_len];
    close(c->fd);
    free(c->rest);
    free(c->out);
    free(c);
}

static void give_round(void)
{
    for (size_t i = 0; i < subscribers_len; i++) {
        struct conn *c = subscribers[i];
        ssize_t sent = 0;
        if (c->out_from == c->out_to)
            sent = send(c->fd, round_out.out, round_out.out_to, MSG_NOSIGNAL);
        if (sent < 0)
            sent = 0;
        if ((size_t)sent < round_out.out_to) {
            conn_put(c, round_out.out + sent, round_out.out_to - (size_t)sent);
            conn_flush(c);
        }
    }
    round_out.out_to = 0;
}

static int listen_socket(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    socklen_t len = sizeof(at);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (inet_pton(AF_INET, opt.host, &at.sin_addr) != 1 ||
        bind(fd, (struct sockaddr *)&at, len) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) < 0)
        die("listen on %s:%u: %m", opt.host, opt.port);
    printf("listening on %s:%u\n", opt.host, ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

static void accept_one(int listening)
{
    int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct conn *c;

    if (fd < 0)
        return;
    c = calloc(1, sizeof(*c));
    if (!c)
        die("no memory");
    c->wire = opt.wire;
    c->role = ROLE_SERVED;
    loop_attach(&loop, c, fd);
    if (c->wire->greet)
        c->wire->greet(c);
    conn_flush(c);
}

static void serve(int listening, const struct epoll_event *event)
{
    struct conn *c = event->data.ptr;

    if (!c)
        accept_one(listening);
    else if ((event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !conn_read(c, c->wire->serve))
        gone(c);
    else
        conn_flush(c);
}

int sink_main(void)
{
    struct epoll_event events[256], accepting = {.events = EPOLLIN};
    int listening;

    if (!opt.wire->serve)
        die("there is no sink for %s", opt.wire->name);
    loop_init(&loop);
    listening = listen_socket();
    if (epoll_ctl(loop.epoll, EPOLL_CTL_ADD, listening, &accepting) < 0)
        die("epoll_ctl: %m");
    for (;;) {
        int count = epoll_wait(loop.epoll, events, 256, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait: %m");
        for (int i = 0; i < count; i++)
            serve(listening, &events[i]);
        if (round_out.out_to > 0)
            give_round();
    }
}
