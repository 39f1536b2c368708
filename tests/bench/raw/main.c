/*
 * main.c - the raw limits of this machine, each measured alone: what a broker on it could reach at the very most.
 *
 *   eventbus-raw LIMIT [--folder DIR] [--seconds S] [--batch N] [--bytes N] [--sockets N] [--events N]
 *                      [--rate N] [--port P]
 *
 * One JSON object on one line on stdout. `http201`, `group-ack` and `lone-ack` are servers: they print their port, and end
 * when stdin does.
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/bench/raw/raw.h"

static const struct {
    const char *name;
    raw_limit *run;
} limits[] = {
    {"fdatasync-append", raw_fdatasync_append},
    {"fdatasync-overwrite", raw_fdatasync_overwrite},
    {"sqlite-insert", raw_sqlite_insert},
    {"sqlite-select", raw_sqlite_select},
    {"sqlite-paced", raw_sqlite_paced},
    {"http201", raw_http201},
    {"group-ack", raw_group_ack},
    {"lone-ack", raw_lone_ack},
    {"writev", raw_writev},
};

double raw_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

const char *raw_path(const struct raw_options *options, const char *name)
{
    static char path[4096];

    snprintf(path, sizeof(path), "%s/%s", options->folder, name);
    return path;
}

int raw_times_add(struct raw_times *times, double seconds)
{
    if (times->count == times->cap) {
        size_t cap = times->cap ? 2 * times->cap : 4096;
        uint32_t *us = realloc(times->us, cap * sizeof(*us));
        if (us == NULL)
            return -1;
        times->us = us;
        times->cap = cap;
    }
    times->us[times->count++] = (uint32_t)(seconds * 1e6 + 0.5);
    return 0;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

void raw_print(const char *limit, double count, double seconds, struct raw_times *times)
{
    printf("{\"limit\":\"%s\",\"events\":%.0f,\"seconds\":%.3f,\"rate\":%.0f", limit, count,
           seconds, count / seconds);
    if (times != NULL && times->count != 0) {
        qsort(times->us, times->count, sizeof(*times->us), by_size);
        printf(",\"p50_us\":%u,\"p99_us\":%u,\"max_us\":%u", times->us[times->count / 2],
               times->us[times->count - 1 - times->count / 100], times->us[times->count - 1]);
        free(times->us);
        *times = (struct raw_times){0};
    }
    printf("}\n");
    fflush(stdout);
}

static int usage(const char *why)
{
    fprintf(stderr, "eventbus-raw: %s\nlimits:", why);
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++)
        fprintf(stderr, " %s", limits[i].name);
    fprintf(stderr,
            "\noptions: --folder --seconds --batch --bytes --sockets --events --rate --port\n");
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"folder", required_argument, NULL, 'f'},
        {"seconds", required_argument, NULL, 's'},
        {"batch", required_argument, NULL, 'b'},
        {"bytes", required_argument, NULL, 'y'},
        {"sockets", required_argument, NULL, 'n'},
        {"events", required_argument, NULL, 'e'},
        {"rate", required_argument, NULL, 'r'},
        {"port", required_argument, NULL, 'p'},
        {0},
    };
    struct raw_options options = {.folder = ".",
                                  .seconds = 1,
                                  .batch = 64,
                                  .bytes = 128,
                                  .sockets = 100,
                                  .events = 200000,
                                  .rate = 10000};

    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'f':
            options.folder = optarg;
            break;
        case 's':
            options.seconds = strtod(optarg, NULL);
            break;
        case 'b':
            options.batch = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'y':
            options.bytes = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'n':
            options.sockets = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'e':
            options.events = strtoull(optarg, NULL, 10);
            break;
        case 'r':
            options.rate = strtod(optarg, NULL);
            break;
        case 'p':
            options.port = (uint16_t)strtoul(optarg, NULL, 10);
            break;
        default:
            return usage("unknown option");
        }
    }
    if (optind + 1 != argc || options.seconds <= 0 || options.batch == 0 || options.sockets == 0 ||
        !(options.rate > 0))
        return usage("one limit, and sane options");
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++)
        if (strcmp(limits[i].name, argv[optind]) == 0)
            return limits[i].run(&options) == 0 ? 0 : 1;
    return usage("no such limit");
}
