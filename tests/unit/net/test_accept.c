/* Who takes the connections of a listening socket, and how many (accept.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "broker/net/http.h"
#include "common/clock.h"

#define DAEMONS 2
#define CLIENTS 40

struct front {
    struct eb_net_daemon daemons[DAEMONS];
    struct eb_acceptor acceptor;
    struct sockaddr_in addr;
    int clients[CLIENTS];
    unsigned client_count;
};

static enum MHD_Result nothing(void *ctx, struct MHD_Connection *connection, const char *url,
                               const char *method, const char *version, const char *body,
                               size_t *body_size, void **state)
{
    return MHD_NO;
}

/* Connections that a daemon's own thread has looked at: of those before it says nothing at its stop (G2). */
static _Atomic unsigned begun;

static void notify(void *ctx, struct MHD_Connection *connection, void **socket_context,
                   enum MHD_ConnectionNotificationCode code)
{
    struct eb_net_daemon *daemon = ctx;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        atomic_fetch_sub(&begun, 1);
        atomic_fetch_sub(&daemon->count, 1);
    } else {
        atomic_fetch_add(&begun, 1);
    }
}

static void start(struct front *front, unsigned limit)
{
    socklen_t len = sizeof(front->addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    memset(front, 0, sizeof(*front));
    front->addr.sin_family = AF_INET;
    front->addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&front->addr, len), 0);
    assert_int_equal(listen(fd, 128), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&front->addr, &len), 0);
    for (unsigned i = 0; i < DAEMONS; i++) {
        struct MHD_Daemon *daemon =
            MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC,
                             0, NULL, NULL, nothing, NULL, MHD_OPTION_NOTIFY_CONNECTION, notify,
                             &front->daemons[i], MHD_OPTION_END);
        assert_non_null(daemon);
        front->daemons[i].daemon = daemon;
    }
    front->acceptor = (struct eb_acceptor){
        .fd = fd, .limit = limit, .daemon_count = DAEMONS, .daemons = front->daemons};
    assert_int_equal(eb_acceptor_start(&front->acceptor), 0);
}

static void connect_one(struct front *front)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&front->addr, sizeof(front->addr)), 0);
    front->clients[front->client_count++] = fd;
}

static unsigned sum(struct front *front)
{
    return atomic_load(&front->daemons[0].count) + atomic_load(&front->daemons[1].count);
}

static void wait_for_sum(struct front *front, unsigned wanted)
{
    int64_t deadline = eb_mono_ms() + 10000;
    while ((sum(front) != wanted || atomic_load(&begun) != wanted) && eb_mono_ms() < deadline)
        poll(NULL, 0, 1);
    assert_int_equal(sum(front), wanted);
    assert_int_equal(atomic_load(&begun), wanted);
}

static void stop(struct front *front)
{
    eb_acceptor_stop(&front->acceptor);
    for (unsigned i = 0; i < DAEMONS; i++)
        MHD_stop_daemon(front->daemons[i].daemon);
    for (unsigned i = 0; i < front->client_count; i++)
        close(front->clients[i]);
    assert_int_equal(sum(front), 0);
}

/* G1: however they come, no thread has more of them than another, and one that has lost some gets the next. */
static void connections_are_dealt_out_evenly(void **state)
{
    struct front front;
    start(&front, 1000);
    for (unsigned i = 0; i < CLIENTS - 4; i++)
        connect_one(&front);
    wait_for_sum(&front, CLIENTS - 4);
    assert_int_equal(atomic_load(&front.daemons[0].count), (CLIENTS - 4) / 2);
    for (unsigned i = 0; i < 8; i += 2) /* they went in turn: all four were the first daemon's */
        assert_int_equal(shutdown(front.clients[i], SHUT_RDWR), 0);
    wait_for_sum(&front, CLIENTS - 8);
    for (unsigned i = 0; i < 4; i++)
        connect_one(&front);
    wait_for_sum(&front, CLIENTS - 4);
    assert_int_equal(atomic_load(&front.daemons[0].count), (CLIENTS - 4) / 2);
    stop(&front);
}

/* G3: beyond the limit they wait in the kernel, and come in when others go. */
static void beyond_the_limit_they_wait_until_others_go(void **state)
{
    struct front front;
    start(&front, 4);
    for (unsigned i = 0; i < 6; i++)
        connect_one(&front);
    wait_for_sum(&front, 4);
    poll(NULL, 0, 100); /* it looks again every 20 ms, and must not take a fifth */
    assert_int_equal(sum(&front), 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(shutdown(front.clients[i], SHUT_RDWR), 0);
    wait_for_sum(&front, 2);
    stop(&front);
}

/* The end: who connects afterwards is refused, since the socket is closed. */
static void after_the_stop_nobody_is_taken(void **state)
{
    struct front front;
    start(&front, 4);
    connect_one(&front);
    wait_for_sum(&front, 1);
    eb_acceptor_stop(&front.acceptor);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&front.addr, sizeof(front.addr)), -1);
    close(fd);
    stop(&front);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"accept/connections_are_dealt_out_evenly", connections_are_dealt_out_evenly, NULL, NULL,
         NULL},
        {"accept/beyond_the_limit_they_wait_until_others_go",
         beyond_the_limit_they_wait_until_others_go, NULL, NULL, NULL},
        {"accept/after_the_stop_nobody_is_taken", after_the_stop_nobody_is_taken, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
