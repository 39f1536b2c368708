/*
 * serve.c - a listening socket, and a thread for each connection that comes: what the raw limits serve that load comes
 * to from outside. They end when stdin does.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/raw/raw.h"

#define STACK (128 * 1024)

static void *(*serve_one)(void *);

bool raw_thread(void *(*run)(void *), void *arg)
{
    pthread_attr_t attr;
    pthread_t id;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    bool made = pthread_create(&id, &attr, run, arg) == 0;
    pthread_attr_destroy(&attr);
    return made;
}

static void *take(void *arg)
{
    int listener = (int)(intptr_t)arg, one = 1, fd;

    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (!raw_thread(serve_one, (void *)(intptr_t)fd))
            close(fd);
    }
    return NULL;
}

static int listen_on(uint16_t port, uint16_t *ret)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, 1024) < 0 || getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        return -1;
    *ret = ntohs(address.sin_port);
    return fd;
}

int raw_serve(const char *limit, const struct raw_options *options, void *(*serve)(void *fd))
{
    uint16_t port = 0;
    char sink[64];
    int listener = listen_on(options->port, &port);

    serve_one = serve;
    if (listener < 0 || !raw_thread(take, (void *)(intptr_t)listener)) {
        perror(limit);
        return -1;
    }
    printf("{\"limit\":\"%s\",\"port\":%u}\n", limit, (unsigned)port);
    fflush(stdout);
    while (read(STDIN_FILENO, sink, sizeof(sink)) > 0)
        ;
    return 0;
}
