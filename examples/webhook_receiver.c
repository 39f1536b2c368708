/*
 * webhook_receiver.c - takes the webhooks of a consumer with `push`, and believes none that is not signed.
 *
 * What a receiver of Standard Webhooks (https://www.standardwebhooks.com) has to do, all of it: the signature is an
 * HMAC-SHA256 over id, timestamp and body, compared in constant time; a timestamp that is too far off is refused, so that
 * a recorded call is worth nothing later; of several signatures one is enough, so that a secret can be exchanged. Calls
 * may come twice, as all deliveries of a durable consumer: what came before is recognised by its id.
 *
 *   webhook_receiver --secret whsec_… [--port 8080] [--tolerance 300]
 *
 * Prints a line for each event: its topic, its id, its size and its text.
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <microhttpd.h>
#include <netinet/in.h>
#include <nettle/base64.h>
#include <nettle/hmac.h>
#include <nettle/memops.h>

enum { BODY_MAX = 1024 * 1024, SECRET_MAX = 64, SEEN = 1024, ID_MAX = 128 };

struct receiver {
    uint8_t secret[SECRET_MAX];
    size_t secret_len;
    long tolerance; /* seconds */
    int port;
    char seen[SEEN][ID_MAX]; /* a ring; one thread of libmicrohttpd answers all */
    unsigned next;
};

/* What is known of a request while its body comes. */
struct call {
    char *body;
    size_t len;
    bool too_large;
};

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "webhook_receiver: %s: %s\n", what, why);
    return -1;
}

/* "whsec_" and base64 of 24 to 64 bytes. */
static int parse_secret(struct receiver *receiver, const char *text)
{
    struct base64_decode_ctx ctx;
    uint8_t room[BASE64_DECODE_LENGTH(SECRET_MAX * 2)];
    size_t len = sizeof room;

    if (strncmp(text, "whsec_", 6) != 0 || strlen(text) > 6 + SECRET_MAX * 2)
        return -1;
    nettle_base64_decode_init(&ctx);
    if (!nettle_base64_decode_update(&ctx, &len, room, strlen(text) - 6, text + 6) ||
        !nettle_base64_decode_final(&ctx) || len < 24 || len > SECRET_MAX)
        return -1;
    memcpy(receiver->secret, room, len);
    receiver->secret_len = len;
    return 0;
}

/* ---- is it ours? ---- */

/* base64 of the HMAC over "id.timestamp.body". */
static void sign(const struct receiver *receiver, const char *id, const char *timestamp,
                 const struct call *call, char ret[BASE64_ENCODE_RAW_LENGTH(SHA256_DIGEST_SIZE)])
{
    struct hmac_sha256_ctx ctx;
    uint8_t digest[SHA256_DIGEST_SIZE];

    hmac_sha256_set_key(&ctx, receiver->secret_len, receiver->secret);
    hmac_sha256_update(&ctx, strlen(id), (const uint8_t *)id);
    hmac_sha256_update(&ctx, 1, (const uint8_t *)".");
    hmac_sha256_update(&ctx, strlen(timestamp), (const uint8_t *)timestamp);
    hmac_sha256_update(&ctx, 1, (const uint8_t *)".");
    hmac_sha256_update(&ctx, call->len, (const uint8_t *)call->body);
    hmac_sha256_digest(&ctx, sizeof digest, digest);
    base64_encode_raw(ret, sizeof digest, digest);
}

/* One of the signatures "v1,… v1,…" must be @wanted; versions that we do not know are passed over. */
static bool one_matches(const char *signatures, const char *wanted, size_t len)
{
    bool match = false;

    while (*signatures) {
        size_t part = strcspn(signatures, " ");
        if (part == len + 3 && strncmp(signatures, "v1,", 3) == 0)
            match |= memeql_sec(signatures + 3, wanted, len) !=
                     0; /* takes as long wherever they differ */
        signatures += part + (signatures[part] == ' ');
    }
    return match;
}

/* NULL: it is sound; else what is wrong with it, and the status to answer. */
static const char *judge(const struct receiver *receiver, const char *id, const char *timestamp,
                         const char *signatures, const struct call *call, unsigned *ret_status)
{
    char wanted[BASE64_ENCODE_RAW_LENGTH(SHA256_DIGEST_SIZE)];
    char *end;
    long long at;

    *ret_status = MHD_HTTP_BAD_REQUEST;
    if (!id || !timestamp || !signatures)
        return "webhook-id, webhook-timestamp or webhook-signature is missing";
    at = strtoll(timestamp, &end, 10);
    if (end == timestamp || *end != '\0')
        return "webhook-timestamp is not a number of seconds";
    *ret_status = MHD_HTTP_UNAUTHORIZED;
    sign(receiver, id, timestamp, call, wanted);
    if (!one_matches(signatures, wanted, sizeof wanted))
        return "no signature is ours";
    if (llabs((long long)time(NULL) - at) > receiver->tolerance)
        return "webhook-timestamp is too far from now";
    return NULL;
}

/* ---- what is done with it ---- */

static bool seen_before(struct receiver *receiver, const char *id)
{
    for (unsigned i = 0; i < SEEN; i++) {
        if (strncmp(receiver->seen[i], id, ID_MAX - 1) == 0)
            return true;
    }
    snprintf(receiver->seen[receiver->next++ % SEEN], ID_MAX, "%s", id);
    return false;
}

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

/* What other people wrote goes to a terminal: only what is printable. */
static void print_text(const char *text, size_t len)
{
    for (size_t i = 0; i < len && i < 200; i++)
        putchar((unsigned char)text[i] < ' ' || (unsigned char)text[i] == 0x7f ? '.' : text[i]);
}

static void print_event(struct MHD_Connection *connection, const char *id, const struct call *call,
                        bool again)
{
    const char *topic = header(connection, "ce-type");

    if (topic)
        print_text(topic, strlen(topic));
    printf(" %s%s, %zu bytes: ", id, again ? " (again)" : "", call->len);
    if (call->body)
        print_text(call->body, call->len);
    putchar('\n');
    fflush(stdout);
}

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned status, const char *why)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(why), (void *)why, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result rc;

    MHD_add_response_header(response, "Content-Type", "text/plain");
    rc = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return rc;
}

static enum MHD_Result take(struct receiver *receiver, struct MHD_Connection *connection,
                            const struct call *call)
{
    const char *id = header(connection, "webhook-id");
    unsigned status = MHD_HTTP_CONTENT_TOO_LARGE;
    const char *why = "too large";

    if (!call->too_large)
        why = judge(receiver, id, header(connection, "webhook-timestamp"),
                    header(connection, "webhook-signature"), call, &status);
    if (why) {
        complain("refused", why);
        return reply(connection, status, why);
    }
    print_event(connection, id, call, seen_before(receiver, id));
    return reply(connection, MHD_HTTP_NO_CONTENT, ""); /* 2xx: it is acknowledged */
}

/* ---- HTTP ---- */

static void keep(struct call *call, const char *data, size_t len)
{
    char *body = call->len + len <= BODY_MAX ? realloc(call->body, call->len + len) : NULL;

    if (!body) {
        call->too_large = true;
        return;
    }
    memcpy(body + call->len, data, len);
    call->body = body;
    call->len += len;
}

static enum MHD_Result answer(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **req_cls)
{
    struct call *call = *req_cls;
    (void)url, (void)version;

    if (!call) {
        *req_cls = calloc(1, sizeof *call);
        return *req_cls ? MHD_YES : MHD_NO;
    }
    if (*upload_size > 0) {
        keep(call, upload, *upload_size);
        *upload_size = 0;
        return MHD_YES;
    }
    if (strcmp(method, "POST") != 0)
        return reply(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "webhooks are POSTed");
    return take(cls, connection, call);
}

static void done(void *cls, struct MHD_Connection *connection, void **req_cls,
                 enum MHD_RequestTerminationCode code)
{
    struct call *call = *req_cls;
    (void)cls, (void)connection, (void)code;

    if (call)
        free(call->body);
    free(call);
}

static bool number(const char *text, long max, long *ret)
{
    char *end;

    *ret = strtol(text, &end, 10);
    return end != text && *end == '\0' && *ret >= 0 && *ret <= max;
}

static int parse_arguments(int argc, char **argv, struct receiver *receiver)
{
    static const struct option options[] = {{"secret", required_argument, NULL, 's'},
                                            {"port", required_argument, NULL, 'p'},
                                            {"tolerance", required_argument, NULL, 't'},
                                            {0}};
    long port = receiver->port;
    int opt;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == 's' && parse_secret(receiver, optarg) < 0)
            return complain("--secret", "must be whsec_ and base64 of 24 to 64 bytes");
        if ((opt == 'p' && !number(optarg, 65535, &port)) ||
            (opt == 't' && !number(optarg, 86400, &receiver->tolerance)) || opt == '?')
            return -1;
    }
    receiver->port = (int)port;
    return optind == argc && receiver->secret_len > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    static struct receiver receiver = {.tolerance = 300, .port = 8080};
    sigset_t ends;
    int sig;

    if (parse_arguments(argc, argv, &receiver) < 0) {
        fprintf(stderr,
                "usage: webhook_receiver --secret whsec_BASE64 [--port N] [--tolerance SECONDS]\n");
        return 2;
    }
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)receiver.port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD, 0, NULL, NULL, answer, &receiver, MHD_OPTION_SOCK_ADDR,
        &address, MHD_OPTION_NOTIFY_COMPLETED, done, NULL, MHD_OPTION_END);
    if (!daemon)
        return complain("cannot serve", "is the port taken?"), 1;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    printf("webhook_receiver: http://127.0.0.1:%u/\n", info ? info->port : (unsigned)receiver.port);
    fflush(stdout);
    sigwait(&ends, &sig);
    MHD_stop_daemon(daemon);
    return 0;
}
