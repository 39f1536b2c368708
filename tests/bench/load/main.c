/*
 * main.c - eventbus-load: one load generator for all brokers of the benchmark. Options in, one line of JSON out.
 *
 *   eventbus-load MODE --target TARGET --port P [options]       README.md says what there is
 */
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "load.h"

struct options opt = {.host = "127.0.0.1",
                      .connections = 1,
                      .threads = 1,
                      .batch = 1,
                      .frame = 256,
                      .topics = 1,
                      .payload = 128,
                      .seconds = 3,
                      .subscribers = 1,
                      .publishers = 1};

static const struct mode *const modes[] = {&mode_publish, &mode_fanout, &mode_latency, &mode_replay,
                                           &mode_idle,    &mode_work,   NULL};

static double number(const char *name, const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value >= least) || value > most)
        die("--%s: a number from %g to %g, not \"%s\"", name, least, most, text);
    return value;
}

static const struct wire *find_wire(const char *name)
{
    for (const struct wire *const *wire = wires; *wire; wire++)
        if (strcmp((*wire)->name, name) == 0)
            return *wire;
    fputs("targets:", stderr);
    for (const struct wire *const *wire = wires; *wire; wire++)
        fprintf(stderr, " %s", (*wire)->name);
    fputc('\n', stderr);
    die("--target: there is no \"%s\"", name);
}

static const struct option longs[] = {{"target", 1, NULL, 't'},      {"host", 1, NULL, 'h'},
                                      {"port", 1, NULL, 'p'},        {"threads", 1, NULL, 'T'},
                                      {"connections", 1, NULL, 'c'}, {"window", 1, NULL, 'w'},
                                      {"refill", 1, NULL, 'r'},      {"batch", 1, NULL, 'b'},
                                      {"frame", 1, NULL, 'f'},       {"topics", 1, NULL, 'n'},
                                      {"payload", 1, NULL, 's'},     {"events", 1, NULL, 'e'},
                                      {"seconds", 1, NULL, 'S'},     {"warmup", 1, NULL, 'u'},
                                      {"paced", 1, NULL, 'R'},       {"rate", 1, NULL, 'R'},
                                      {"mask", 1, NULL, 'm'},        {"subscribers", 1, NULL, 'x'},
                                      {"publishers", 1, NULL, 'y'},  {"stalled", 1, NULL, 'z'},
                                      {"tick", 1, NULL, 'k'},        {NULL, 0, NULL, 0}};

static void set(int option, const char *name)
{
    switch (option) {
    case 't':
        opt.wire = find_wire(optarg);
        break;
    case 'h':
        opt.host = optarg;
        break;
    case 'p':
        opt.port = (unsigned)number(name, optarg, 0, 65535);
        break;
    case 'T':
        opt.threads = (unsigned)number(name, optarg, 1, 64);
        break;
    case 'c':
        opt.connections = (unsigned)number(name, optarg, 1, 1e6);
        break;
    case 'w':
        opt.window = (unsigned)number(name, optarg, 1, 1e8);
        break;
    case 'r':
        opt.refill = (unsigned)number(name, optarg, 1, 1e8);
        break;
    case 'b':
        opt.batch = (unsigned)number(name, optarg, 1, 10000);
        break;
    case 'f':
        opt.frame = (unsigned)number(name, optarg, 1, 100000);
        break;
    case 'n':
        opt.topics = (unsigned)number(name, optarg, 1, 1e6);
        break;
    case 's':
        opt.payload = (size_t)number(name, optarg, PAYLOAD_MIN, 1 << 20);
        break;
    case 'e':
        opt.events = (uint64_t)number(name, optarg, 1, 1e10);
        break;
    case 'S':
        opt.seconds = number(name, optarg, 0.001, 1e6);
        break;
    case 'u':
        opt.warmup = number(name, optarg, 0, 1e6);
        break;
    case 'R':
        opt.paced = number(name, optarg, 0.001, 1e9);
        break;
    case 'k':
        opt.tick = (uint64_t)(number(name, optarg, 0, 1e6) * 1e3);
        break;
    case 'x':
        opt.subscribers = (unsigned)number(name, optarg, 0, 1e6);
        break;
    case 'y':
        opt.publishers = (unsigned)number(name, optarg, 0, PUBLISHERS_MAX);
        break;
    case 'z':
        opt.stalled = (unsigned)number(name, optarg, 0, 1e6);
        break;
    case 'm':
        if (strcmp(optarg, "random") != 0 && strcmp(optarg, "zero") != 0)
            die("--mask: random or zero");
        opt.mask_zero = *optarg == 'z';
        break;
    default:
        die("tests/bench/load/README.md lists the options");
    }
}

static const struct mode *read_options(int argc, char **argv)
{
    const struct mode *mode = NULL;
    int option, index;

    if (argc < 2 || argv[1][0] == '-')
        die("usage: eventbus-load publish|fanout|latency|replay|idle|work|sink --target TARGET "
            "--port "
            "PORT [options]");
    opt.mode = argv[1];
    for (const struct mode *const *m = modes; *m; m++)
        if (strcmp((*m)->name, opt.mode) == 0)
            mode = *m;
    if (!mode && strcmp(opt.mode, "sink") != 0)
        die("there is no mode \"%s\"", opt.mode);
    while ((option = getopt_long(argc - 1, argv + 1, "", longs, &index)) != -1)
        set(option, option == '?' ? "" : longs[index].name);
    if (optind != argc - 1 || !opt.wire || (mode && !opt.port))
        die("--target and --port are needed, and nothing else without --");
    return mode;
}

/* What was not said, and what does not go together. */
static void complete(void)
{
    const struct wire *wire = opt.wire;
    struct rlimit files;

    if (!opt.window)
        opt.window = opt.payload > 512 ? (unsigned)(524288 / opt.payload) + 1 : 1024;
    if (!opt.refill)
        opt.refill = opt.window > 64 ? opt.window / 4 : opt.window;
    if (opt.refill > opt.window)
        opt.refill = opt.window;
    if (wire->batch_max && opt.batch > wire->batch_max)
        die("--batch: %s has no batches", wire->name);
    if (wire->topics_max && opt.topics > wire->topics_max && strcmp(opt.mode, "publish") != 0)
        die("--topics: a subscriber of %s has %u", wire->name, wire->topics_max);
    if (strcmp(opt.mode, "replay") == 0 || strcmp(opt.mode, "idle") == 0)
        opt.threads = 1;
    if (opt.events && opt.warmup > 0)
        die("--warmup is for runs of --seconds");
    opt.payload_text = malloc(opt.payload + 1);
    if (!opt.payload_text)
        die("no memory");
    /* Nothing to escape in JSON, and not all the same. */
    for (size_t i = 0; i < opt.payload; i++)
        opt.payload_text[i] = i < STAMP ? '$' : (char)('a' + i * 7 % 26);
    opt.payload_text[opt.payload] = '\0';
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
}

static void print(const struct mode *mode, FILE *out)
{
    static struct hist latency, late;
    uint64_t measured = 0;

    for (unsigned i = 0; i < run.loops_len; i++) {
        hist_merge(&latency, &run.loops[i].latency);
        hist_merge(&late, &run.loops[i].late);
        measured += run.loops[i].measured;
    }
    fprintf(out, "{\"target\":\"%s\",\"mode\":\"%s\",\"payload\":%zu,\"topics\":%u,\"threads\":%u",
            opt.wire->name, mode->name, opt.payload, opt.topics, opt.threads);
    mode->report(out);
    fprintf(out, ",\"measured\":%llu,\"seconds\":%.6f,\"rate\":%.1f", (unsigned long long)measured,
            run.seconds, run.seconds > 0 ? (double)measured / run.seconds : 0.0);
    if (opt.paced)
        fprintf(out, ",\"paced\":%g,\"late_p99_us\":%.1f,\"late_max_us\":%.1f", opt.paced,
                (double)hist_at(&late, 0.99) / 1e3, (double)late.max / 1e3);
    fprintf(out,
            ",\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f",
            (double)hist_at(&latency, 0.5) / 1e3, (double)hist_at(&latency, 0.9) / 1e3,
            (double)hist_at(&latency, 0.99) / 1e3, (double)hist_at(&latency, 0.999) / 1e3,
            (double)latency.max / 1e3);
    fprintf(out, ",\"loader_cpu_s\":%.3f,\"cpu_share\":%.3f,\"errors\":%lu}\n", run.cpu_s,
            run.seconds > 0 ? run.cpu_s / run.seconds / opt.threads : 0.0,
            atomic_load(&run.errors));
}

int main(int argc, char **argv)
{
    const struct mode *mode = read_options(argc, argv);

    complete();
    if (opt.wire->prepare)
        opt.wire->prepare();
    if (!mode)
        return sink_main();
    bool good = loop_run(mode);
    if (!mode->waits)
        print(mode, stdout);
    return good ? 0 : 1;
}
