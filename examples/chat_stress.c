/*
 * chat_stress.c - broker, publisher and subscriber in one process.
 *
 * Starts a broker on a free port with a log in a temporary folder, publishes N messages on "chat.stress" (ttl
 * 3600) through one client, receives them through another that subscribed to "chat.*" and acknowledges each, and
 * says so. Everything is the public API: <eventbus/broker.h> and <eventbus/client.h>.
 *
 *   chat_stress [--messages N] [--storage memory]
 */
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <eventbus/broker.h>
#include <eventbus/client.h>

enum { WAIT_MS = 60000, BAR_FROM = 10000, BAR_WIDTH = 40 };

struct chat {
    eb_client *subscriber;
    size_t wanted;
    atomic_size_t received, acknowledged, refused;
    uint64_t last_seq; /* callbacks run one at a time */
    bool out_of_order;
    char folder[64], db[96], address[128];
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "chat_stress: %s: %s\n", what, why);
    return -1;
}

/* On the client's callback thread. */
static void on_message(void *user, eb_subscription *subscription, const eb_message *message)
{
    struct chat *chat = user;
    (void)subscription;
    if (message->seq <= chat->last_seq)
        chat->out_of_order = true;
    chat->last_seq = message->seq;
    if (eb_client_acknowledge(chat->subscriber, message->seq, 0) == 0)
        atomic_fetch_add(&chat->acknowledged, 1);
    atomic_fetch_add(&chat->received, 1);
}

static void on_stored(void *user, int result, const eb_receipt *receipts, size_t count)
{
    struct chat *chat = user;
    (void)receipts, (void)count;
    if (result != 0)
        atomic_fetch_add(&chat->refused, 1);
}

static void draw_bar(const struct chat *chat, size_t received)
{
    if (chat->wanted < BAR_FROM || !isatty(STDERR_FILENO))
        return;
    int filled = (int)(received * BAR_WIDTH / chat->wanted);
    fprintf(stderr, "\r[%.*s%*s] %3zu%%", filled, "########################################",
            BAR_WIDTH - filled, "", received * 100 / chat->wanted);
    if (received == chat->wanted)
        fputc('\n', stderr);
}

static int publish_all(struct chat *chat, eb_client *publisher)
{
    char text[64];
    for (size_t i = 1; i <= chat->wanted; i++) {
        int len = snprintf(text, sizeof text, "Message %zu", i);
        eb_publication event = {
            .topic = "chat.stress", .payload = text, .payload_len = (size_t)len, .ttl_s = 3600};
        int rc = eb_client_publish(publisher, &event, on_stored,
                                   chat); /* waits only while too many are in flight */
        if (rc < 0)
            return fail("publish", eb_result_text(rc));
        if (i % 4096 == 0)
            draw_bar(chat, atomic_load(&chat->received));
    }
    int rc = eb_client_flush(publisher, WAIT_MS);
    return rc < 0 ? fail("flush", eb_result_text(rc)) : 0;
}

static int wait_received(struct chat *chat)
{
    struct timespec pause = {.tv_nsec = 5000000};
    double quiet_since = now();
    for (size_t seen = 0, received; (received = atomic_load(&chat->received)) < chat->wanted;) {
        if (received != seen)
            quiet_since = now();
        seen = received;
        if (now() - quiet_since > WAIT_MS / 1000.0)
            return fail("subscriber", "no message for a minute");
        draw_bar(chat, received);
        nanosleep(&pause, NULL);
    }
    draw_bar(chat, chat->wanted);
    return 0;
}

static int open_client(struct chat *chat, eb_client **ret)
{
    eb_client_options options = EB_CLIENT_OPTIONS_INIT;
    char url[192];
    const char *why = NULL;
    snprintf(url, sizeof url, "ws://%s/ws", chat->address);
    options.url = url;
    options.connect_now = true;
    int rc = eb_client_open(&options, ret, &why);
    return rc < 0 ? fail("cannot connect", why ? why : eb_result_text(rc)) : 0;
}

static int talk(struct chat *chat)
{
    eb_client *publisher = NULL;
    eb_subscription *subscription = NULL;
    eb_subscribe_options options = EB_SUBSCRIBE_OPTIONS_INIT;
    options.pattern = "chat.*";
    options.event = on_message;
    options.user = chat;

    int rc = open_client(chat, &chat->subscriber);
    if (rc == 0)
        rc = open_client(chat, &publisher);
    if (rc == 0 &&
        (rc = eb_client_subscribe(chat->subscriber, &options, WAIT_MS, &subscription)) < 0)
        fail("subscribe", eb_result_text(rc));
    double started = now();
    if (rc == 0)
        rc = publish_all(chat, publisher);
    if (rc == 0)
        rc = wait_received(chat);
    double seconds = now() - started;
    eb_client_close(publisher, WAIT_MS);
    eb_client_close(chat->subscriber, WAIT_MS); /* flushes the acknowledgements */
    if (rc < 0)
        return rc;
    if (atomic_load(&chat->refused) || chat->out_of_order ||
        atomic_load(&chat->acknowledged) != chat->wanted)
        return fail("result",
                    "some messages were refused, came out of order or could not be acknowledged");
    printf("Subscriber received %zu messages\n", atomic_load(&chat->received));
    printf("%.0f messages a second, published, stored, delivered and acknowledged\n",
           (double)chat->wanted / seconds);
    return 0;
}

static int start_broker(struct chat *chat, const char *storage, eb_broker **ret)
{
    char err[EB_BROKER_ERROR] = "out of memory";
    strcpy(chat->folder, "/tmp/chat_stress-XXXXXX");
    if (!mkdtemp(chat->folder))
        return fail("mkdtemp", "cannot make a folder in /tmp");
    snprintf(chat->db, sizeof chat->db, "%s/eventbus.db", chat->folder);
    eb_broker_config *config = eb_broker_config_create();
    int rc = -1;
    if (config && eb_broker_config_set(config, "listen", "127.0.0.1:0", err) == 0 &&
        eb_broker_config_set(config, "db", chat->db, err) == 0 &&
        eb_broker_config_set(config, "storage", storage, err) == 0)
        rc = eb_broker_start(config, ret, err);
    eb_broker_config_destroy(config);
    if (rc < 0)
        return fail("cannot start the broker", err);
    snprintf(chat->address, sizeof chat->address, "%s", eb_broker_address(*ret, 0));
    return 0;
}

static void remove_log(const struct chat *chat)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
    char path[128];
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        snprintf(path, sizeof path, "%s%s", chat->db, suffixes[i]);
        unlink(path);
    }
    rmdir(chat->folder);
}

static int parse_arguments(int argc, char **argv, size_t *ret_messages, const char **ret_storage)
{
    static const struct option options[] = {
        {"messages", required_argument, NULL, 'm'}, {"storage", required_argument, NULL, 's'}, {0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        char *end;
        if (opt == 'm' && (*ret_messages = strtoul(optarg, &end, 10), *end == '\0') &&
            *ret_messages > 0)
            continue;
        if (opt != 's')
            return -1;
        *ret_storage = optarg;
    }
    return optind == argc ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct chat chat = {.wanted = 1000};
    const char *storage = "sqlite";
    eb_broker *broker = NULL;
    if (parse_arguments(argc, argv, &chat.wanted, &storage) < 0) {
        fprintf(stderr, "usage: chat_stress [--messages N] [--storage sqlite|memory]\n");
        return 2;
    }
    eb_broker_log("warn", "text", NULL);
    int rc = start_broker(&chat, storage, &broker);
    if (rc == 0)
        rc = talk(&chat);
    eb_broker_stop(broker);
    remove_log(&chat);
    if (rc < 0)
        return 1;
    printf("Stress test completed!\n");
    return 0;
}
