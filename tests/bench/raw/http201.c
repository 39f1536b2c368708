/*
 * http201.c - libmicrohttpd answering each POST with 201 and nothing else, with the broker's own way of running it
 * (poll, a pool of two): the most an HTTP publish on it could reach. Load comes from outside.
 */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/raw/raw.h"

static struct MHD_Response *empty;

static enum MHD_Result answer(void *user, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *body,
                              size_t *body_size, void **state)
{
    static int seen;

    if (*state == NULL) {
        *state = &seen;
        return MHD_YES;
    }
    if (*body_size != 0) {
        *body_size = 0;
        return MHD_YES;
    }
    return MHD_queue_response(connection, MHD_HTTP_CREATED, empty);
}

int raw_http201(const struct raw_options *options)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options->port)};
    char sink[64];

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    empty = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD, 0, NULL, NULL, answer, NULL, MHD_OPTION_THREAD_POOL_SIZE, 2u,
        MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_CONNECTION_LIMIT, 2048u, MHD_OPTION_END);
    if (empty == NULL || daemon == NULL) {
        fprintf(stderr, "http201: libmicrohttpd does not start\n");
        return -1;
    }
    printf("{\"limit\":\"http201\",\"port\":%u}\n",
           (unsigned)MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
    fflush(stdout);
    while (read(STDIN_FILENO, sink, sizeof(sink)) > 0)
        ;
    MHD_stop_daemon(daemon);
    MHD_destroy_response(empty);
    return 0;
}
