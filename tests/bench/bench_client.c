/*
 * bench_client.c - what it costs to publish through the library: with how many in flight, alone and in batches, and
 * what a publish that waits for a broker that is away holds in memory. Starts the broker given as its argument in
 * memory storage, so that the client counts and not the disk. Ratios to one that waits count, not the absolutes.
 *
 *   bench_client BROKER
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <eventbus/client.h>

#define PAYLOAD 128
#define ROUNDS  3

static char url[128];
static char payload[PAYLOAD];

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double cpu(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static long rss_kib(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long size, resident = 0;

    if (!file || fscanf(file, "%ld %ld", &size, &resident) != 2)
        abort();
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void must(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, eb_result_text(rc));
    exit(1);
}

static pid_t start_broker(const char *path)
{
    int out[2];
    char line[256];
    pid_t pid;

    if (pipe(out) < 0 || (pid = fork()) < 0)
        exit(1);
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        execl(path, path, "--listen", "127.0.0.1:0", "--storage", "memory", "--log-level", "error",
              (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *file = fdopen(out[0], "r");
    while (file && fgets(line, sizeof(line), file)) {
        char *port = strrchr(line, ':');
        if (strncmp(line, "listening on ", 13) == 0 && port) {
            snprintf(url, sizeof(url), "ws://127.0.0.1:%d/ws", atoi(port + 1));
            return pid; /* the pipe stays open: the broker may write on */
        }
    }
    fprintf(stderr, "the broker did not start\n");
    exit(1);
}

static eb_client *open_client(size_t in_flight)
{
    eb_client_options options = EB_CLIENT_OPTIONS_INIT;
    eb_client *client;

    options.url = url;
    options.connect_now = true;
    options.max_pending = in_flight;
    must(eb_client_open(&options, &client, NULL), "open");
    return client;
}

static eb_publication event(void)
{
    return (eb_publication){
        .topic = "bench.a", .payload = payload, .payload_len = PAYLOAD, .ttl_s = EB_TTL_BROKER};
}

struct rate {
    double events, cpu_us;
};

static struct rate best(struct rate a, struct rate b)
{
    return a.events > b.events ? a : b;
}

static struct rate run(size_t in_flight, size_t batch, size_t count)
{
    eb_client *client = open_client(in_flight);
    eb_publication *events = calloc(batch, sizeof(*events)), one = event();
    double start = now(), used = cpu();

    for (size_t i = 0; i < batch; i++)
        events[i] = one;
    for (size_t done = 0; done < count; done += batch) {
        if (in_flight == 1)
            must(eb_client_publish_wait(client, &one, NULL, -1), "publish_wait");
        else if (batch == 1)
            must(eb_client_publish(client, &one, NULL, NULL), "publish");
        else
            must(eb_client_publish_batch(client, events, batch, NULL, NULL), "publish_batch");
    }
    must(eb_client_flush(client, -1), "flush");
    struct rate rate = {(double)count / (now() - start), (cpu() - used) / (double)count * 1e6};
    must(eb_client_close(client, 5000), "close");
    free(events);
    return rate;
}

static void publish_rates(void)
{
    static const struct {
        size_t in_flight, batch, count;
    } cases[] = {
        {1, 1, 2000}, {64, 1, 50000}, {4096, 1, 200000}, {65536, 1, 200000}, {64, 256, 200192}};
    struct rate base = {0};

    printf("%-32s %12s %8s %14s\n", "publish, 128 bytes", "events/s", "ratio", "CPU us/event");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rate rate = {0};
        char name[64];
        for (int round = 0; round < ROUNDS; round++)
            rate = best(rate, run(cases[i].in_flight, cases[i].batch, cases[i].count));
        if (i == 0)
            base = rate;
        snprintf(name, sizeof(name), "%zu in flight, batches of %zu", cases[i].in_flight,
                 cases[i].batch);
        printf("%-32s %12.0f %8.1f %14.2f\n", name, rate.events, rate.events / base.events,
               rate.cpu_us);
    }
}

/* The broker is gone: what each publish holds that waits for it. */
static void memory_while_away(pid_t broker)
{
    eb_client *client = open_client(65536);
    eb_publication one = event();
    long before;

    kill(broker, SIGSTOP);
    before = rss_kib();
    for (int i = 0; i < 50000; i++)
        must(eb_client_publish(client, &one, NULL, NULL), "publish");
    printf("waiting for a broker that is away: %.0f bytes a publish of %d\n\n",
           (double)(rss_kib() - before) * 1024 / 50000, PAYLOAD);
    kill(broker, SIGCONT);
    must(eb_client_close(client, 60000), "close");
}

int main(int argc, char **argv)
{
    pid_t broker;

    if (argc != 2)
        return 2;
    memset(payload, 'x', sizeof(payload));
    broker = start_broker(argv[1]);
    memory_while_away(broker); /* first, while the heap is fresh */
    publish_rates();
    kill(broker, SIGKILL);
    waitpid(broker, NULL, 0);
    return 0;
}
