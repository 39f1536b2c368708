/*
 * work_queue.c - jobs handed out to workers that crash, and none is lost.
 *
 * The dispatcher publishes N jobs and starts W worker processes that take them from one durable consumer. A worker may be
 * told to kill itself in the middle of a job, or to give a job back; the dispatcher starts it again, and the broker hands
 * its job to another. Each worker reports a job before it acknowledges it; the dispatcher counts what was done, what was
 * done twice (a crash between report and ack: delivery is at least once), and lists the dead letters. With --keys the jobs
 * of one key are done one after the other, and the dispatcher sees to it that they were.
 *
 *   work_queue [--url ws://127.0.0.1:3000/ws] [--jobs 200] [--workers 4] [--crash PERCENT] [--nack PERCENT]
 *              [--keys N] [--work MS] [--max-deliver N] [--consumer work_queue]
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <eventbus/client.h>

enum { WAIT_MS = 20000, WORKERS_MAX = 64, JOBS_MAX = 1000000, BAR_WIDTH = 40, SHOWN = 10 };

struct options {
    const char *url, *consumer;
    long jobs, workers, crash, nack, keys, work, max_deliver;
    long worker; /* this process is a worker, with that number; 0: the dispatcher */
    const char *run;
};

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "work_queue: %s: %s\n", what, why);
    return -1;
}

static void nap(long ms)
{
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

static bool by_chance(long percent)
{
    return random() % 100 < percent;
}

static int open_client(const struct options *options, eb_client **ret)
{
    eb_client_options client = EB_CLIENT_OPTIONS_INIT;
    const char *why = NULL;
    client.url = options->url;
    int rc = eb_client_open(&client, ret, &why);
    return rc < 0 ? complain(options->url, why ? why : eb_result_text(rc)) : 0;
}

/* Dispatcher and workers must mean the same consumer, or the second one is told of the conflict. */
static int consume(eb_client *client, const struct options *options, eb_consumer_options *consumer,
                   eb_consumer **ret)
{
    static const int64_t backoff[] = {50};
    eb_consumer_settings settings = EB_CONSUMER_SETTINGS_INIT;
    char topic[128], why[256];
    const char *const patterns[] = {topic, NULL};
    snprintf(topic, sizeof topic, "%s.job", options->consumer);
    settings.patterns = patterns;
    settings.max_deliver = (uint32_t)options->max_deliver;
    settings.backoff = backoff;
    settings.backoff_count = 1;
    settings.order = options->keys > 0 ? "header:key" : "none";
    consumer->name = options->consumer;
    consumer->settings = &settings;
    int rc = eb_consumer_open(client, consumer, WAIT_MS, ret);
    consumer->settings = NULL; /* they were copied */
    if (rc == EB_RESULT_CONFLICT)
        return complain(options->consumer,
                        "is there with other settings; name another one with --consumer");
    if (rc < 0) {
        eb_client_last_error(client, why, sizeof why);
        return complain(options->consumer, why[0] ? why : eb_result_text(rc));
    }
    return 0;
}

/* ---- a worker ---- */

struct worker {
    const struct options *options;
    eb_client *client;
};

/* "RUN JOB KEY DELIVERY WORKER" on <consumer>.done; waited for, so that it is in the log before the ack is. */
static int report(const struct worker *worker, const eb_delivery *delivery)
{
    const struct options *options = worker->options;
    char topic[128], text[256];
    int len = snprintf(text, sizeof text, "%.*s %u %ld", (int)delivery->message->payload_len,
                       (const char *)delivery->message->payload, delivery->number, options->worker);
    snprintf(topic, sizeof topic, "%s.done", options->consumer);
    eb_publication event = {
        .topic = topic, .payload = text, .payload_len = (size_t)len, .ttl_s = 3600};
    return eb_client_publish_wait(worker->client, &event, NULL, WAIT_MS);
}

static eb_verdict on_job(void *user, eb_consumer *consumer, eb_delivery *delivery)
{
    const struct worker *worker = user;
    const struct options *options = worker->options;
    (void)consumer;
    nap(options->work);
    if (by_chance(options->nack))
        return EB_NACK; /* somebody else may have more luck, after the backoff */
    if (by_chance(options->crash))
        raise(SIGKILL); /* before anything is done: the broker sees the connection end */
    if (report(worker, delivery) < 0)
        return EB_NACK;
    if (by_chance(options->crash) && by_chance(10))
        raise(SIGKILL); /* done, but nobody knows: it will be done again */
    return EB_ACK;
}

static int work(const struct options *options)
{
    struct worker worker = {.options = options};
    eb_consumer_options consumer = EB_CONSUMER_OPTIONS_INIT;
    eb_consumer *handle;
    sigset_t ends;
    int sig, rc;

    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    srandom((unsigned)getpid());
    if (open_client(options, &worker.client) < 0)
        return 1;
    consumer.event = on_job;
    consumer.user = &worker;
    consumer.max_inflight = 4; /* few: what waits here comes back late when we crash */
    rc = consume(worker.client, options, &consumer, &handle);
    if (rc == 0) {
        sigwait(&ends, &sig);
        rc = eb_consumer_close(handle, WAIT_MS); /* ends its job, gives the others back */
    }
    eb_client_close(worker.client, WAIT_MS);
    return rc == 0 ? 0 : 1;
}

/* ---- the dispatcher ---- */

struct dispatcher {
    const struct options *options;
    pthread_mutex_t lock; /* what follows: callbacks and the main thread */
    uint32_t *done;       /* by job: how often it was reported */
    bool *dead;           /* by job */
    long *last;           /* by key: the last job reported first */
    long finished, reports, dead_count, out_of_order;
    char shown[SHOWN][160]; /* dead letters */
    pid_t workers[WORKERS_MAX + 1];
    long crashes;
};

static bool is_ours(const struct dispatcher *dispatcher, const eb_message *message, long *ret_job,
                    long *ret_key)
{
    char run[32];
    return sscanf(message->payload, "%31s %ld %ld", run, ret_job, ret_key) == 3 &&
           strcmp(run, dispatcher->options->run) == 0 && *ret_job >= 0 &&
           *ret_job < dispatcher->options->jobs && *ret_key >= 0 &&
           *ret_key <= dispatcher->options->keys;
}

static void on_done(void *user, eb_subscription *subscription, const eb_message *message)
{
    struct dispatcher *dispatcher = user;
    long job, key;
    (void)subscription;
    if (!is_ours(dispatcher, message, &job, &key))
        return;
    pthread_mutex_lock(&dispatcher->lock);
    dispatcher->reports++;
    if (dispatcher->done[job]++ == 0) {
        dispatcher->finished += !dispatcher->dead[job];
        dispatcher->out_of_order += dispatcher->options->keys > 0 && job < dispatcher->last[key];
        dispatcher->last[key] = job;
    }
    pthread_mutex_unlock(&dispatcher->lock);
}

static void on_dead(void *user, eb_subscription *subscription, const eb_message *message)
{
    struct dispatcher *dispatcher = user;
    long job, key;
    (void)subscription;
    if (!is_ours(dispatcher, message, &job, &key))
        return;
    pthread_mutex_lock(&dispatcher->lock);
    if (!dispatcher->dead[job]) {
        dispatcher->dead[job] = true;
        dispatcher->finished += dispatcher->done[job] == 0;
        if (dispatcher->dead_count < SHOWN)
            snprintf(dispatcher->shown[dispatcher->dead_count], sizeof dispatcher->shown[0],
                     "job %ld: %s", job, message->headers ? message->headers : "");
        dispatcher->dead_count++;
    }
    pthread_mutex_unlock(&dispatcher->lock);
}

static int listen_to(eb_client *client, struct dispatcher *dispatcher, const char *pattern,
                     void (*event)(void *, eb_subscription *, const eb_message *))
{
    eb_subscribe_options options = EB_SUBSCRIBE_OPTIONS_INIT;
    options.pattern = pattern;
    options.event = event;
    options.user = dispatcher;
    int rc = eb_client_subscribe(client, &options, WAIT_MS, NULL);
    return rc < 0 ? complain(pattern, eb_result_text(rc)) : 0;
}

static int publish_jobs(eb_client *client, const struct options *options)
{
    char topic[128];
    snprintf(topic, sizeof topic, "%s.job", options->consumer);
    for (long job = 0; job < options->jobs; job++) {
        char text[96], key[24];
        const char *const headers[] = {"key", key, NULL};
        long of = options->keys > 0 ? job % options->keys : 0;
        int len = snprintf(text, sizeof text, "%s %ld %ld", options->run, job, of);
        snprintf(key, sizeof key, "%ld", of);
        eb_publication event = {.topic = topic,
                                .payload = text,
                                .payload_len = (size_t)len,
                                .headers = options->keys > 0 ? headers : NULL,
                                .ttl_s = EB_TTL_BROKER};
        int rc = eb_client_publish(client, &event, NULL, NULL);
        if (rc < 0)
            return complain("publish", eb_result_text(rc));
    }
    int rc = eb_client_flush(client, WAIT_MS);
    return rc < 0 ? complain("flush", eb_result_text(rc)) : 0;
}

static int start_worker(struct dispatcher *dispatcher, char **argv, long number)
{
    char text[24];
    pid_t pid = fork();
    if (pid < 0)
        return complain("fork", "no more processes");
    if (pid > 0) {
        dispatcher->workers[number] = pid;
        return 0;
    }
    snprintf(text, sizeof text, "%ld", number);
    setenv("WORK_QUEUE_WORKER", text, 1);
    execv("/proc/self/exe", argv);
    _exit(127);
}

/* Those that crashed are started again; one that ended by itself has a reason that will not go away. */
static int look_after(struct dispatcher *dispatcher, char **argv)
{
    int status;
    for (long i = 1; i <= dispatcher->options->workers; i++) {
        if (waitpid(dispatcher->workers[i], &status, WNOHANG) <= 0)
            continue;
        dispatcher->workers[i] = 0;
        if (!WIFSIGNALED(status))
            return complain("a worker ended", "see above");
        dispatcher->crashes++;
        if (start_worker(dispatcher, argv, i) < 0)
            return -1;
    }
    return 0;
}

static void stop_workers(struct dispatcher *dispatcher)
{
    for (long i = 1; i <= dispatcher->options->workers; i++)
        if (dispatcher->workers[i] > 0)
            kill(dispatcher->workers[i], SIGTERM);
    for (long i = 1; i <= dispatcher->options->workers; i++)
        if (dispatcher->workers[i] > 0)
            waitpid(dispatcher->workers[i], NULL, 0);
}

static void draw_bar(long finished, long jobs)
{
    int filled = (int)(finished * BAR_WIDTH / jobs);
    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r[%.*s%*s] %3ld%%", filled, "########################################",
            BAR_WIDTH - filled, "", finished * 100 / jobs);
    if (finished == jobs)
        fputc('\n', stderr);
}

static int wait_finished(struct dispatcher *dispatcher, char **argv)
{
    time_t since = time(NULL);
    for (long seen = -1, finished = 0; finished < dispatcher->options->jobs; nap(20)) {
        if (look_after(dispatcher, argv) < 0)
            return -1;
        pthread_mutex_lock(&dispatcher->lock);
        finished = dispatcher->finished;
        pthread_mutex_unlock(&dispatcher->lock);
        if (finished != seen)
            since = time(NULL);
        seen = finished;
        draw_bar(finished, dispatcher->options->jobs);
        if (time(NULL) - since > 120)
            return complain("the workers", "nothing was finished for two minutes");
    }
    return 0;
}

static int say_result(const struct dispatcher *dispatcher)
{
    const struct options *options = dispatcher->options;
    long done = 0;
    for (long job = 0; job < options->jobs; job++)
        done += dispatcher->done[job] > 0;
    printf("%ld jobs done, %ld reports, %ld done more than once\n", done, dispatcher->reports,
           dispatcher->reports - done);
    printf("%ld crashes of %ld workers, each started again\n", dispatcher->crashes,
           options->workers);
    if (options->keys > 0)
        printf("%ld keys, %ld jobs out of their key's order\n", options->keys,
               dispatcher->out_of_order);
    printf("%ld dead letters on $dead.%s\n", dispatcher->dead_count, options->consumer);
    for (long i = 0; i < dispatcher->dead_count && i < SHOWN; i++)
        printf("  %s\n", dispatcher->shown[i]);
    return dispatcher->out_of_order == 0 ? 0 : -1;
}

static int dispatch_with(eb_client *client, struct dispatcher *dispatcher, char **argv)
{
    const struct options *options = dispatcher->options;
    eb_consumer_options pull = EB_CONSUMER_OPTIONS_INIT;
    eb_consumer *consumer;
    char done[128], dead[128];
    int rc = 0;

    snprintf(done, sizeof done, "%s.done", options->consumer);
    snprintf(dead, sizeof dead, "$dead.%s", options->consumer);
    pull.max_inflight = 1;
    if (consume(client, options, &pull, &consumer) < 0) /* it is there before the first job is */
        return -1;
    eb_consumer_close(consumer, WAIT_MS);
    if (listen_to(client, dispatcher, done, on_done) < 0 ||
        listen_to(client, dispatcher, dead, on_dead) < 0)
        return -1;
    for (long i = 1; i <= options->workers && rc == 0; i++)
        rc = start_worker(dispatcher, argv, i);
    if (rc == 0)
        rc = publish_jobs(client, options);
    if (rc == 0)
        rc = wait_finished(dispatcher, argv);
    stop_workers(dispatcher);
    return rc;
}

static int dispatch(const struct options *options, char **argv)
{
    struct dispatcher dispatcher = {.lock = PTHREAD_MUTEX_INITIALIZER, .options = options};
    eb_client *client;

    dispatcher.done = calloc((size_t)options->jobs, sizeof *dispatcher.done);
    dispatcher.dead = calloc((size_t)options->jobs, sizeof *dispatcher.dead);
    dispatcher.last = calloc((size_t)options->keys + 1, sizeof *dispatcher.last);
    if (!dispatcher.done || !dispatcher.dead || !dispatcher.last)
        return complain("jobs", "out of memory");
    if (open_client(options, &client) < 0)
        return -1;
    int rc = dispatch_with(client, &dispatcher, argv);
    eb_client_close(client, WAIT_MS);
    if (rc == 0)
        rc = say_result(&dispatcher);
    free(dispatcher.done);
    free(dispatcher.dead);
    free(dispatcher.last);
    return rc;
}

/* ---- the command line ---- */

static bool number(const char *text, long min, long max, long *ret)
{
    char *end;
    *ret = strtol(text, &end, 10);
    return end != text && *end == '\0' && *ret >= min && *ret <= max;
}

static int parse_arguments(int argc, char **argv, struct options *options)
{
    static const struct option names[] = {
        {"url", required_argument, NULL, 'u'},         {"consumer", required_argument, NULL, 'c'},
        {"jobs", required_argument, NULL, 'j'},        {"workers", required_argument, NULL, 'w'},
        {"crash", required_argument, NULL, 'x'},       {"nack", required_argument, NULL, 'n'},
        {"keys", required_argument, NULL, 'k'},        {"work", required_argument, NULL, 't'},
        {"max-deliver", required_argument, NULL, 'm'}, {0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "", names, NULL)) != -1) {
        bool fine = opt == 'u'   ? (options->url = optarg) != NULL
                    : opt == 'c' ? strlen(options->consumer = optarg) <= 64
                    : opt == 'j' ? number(optarg, 1, JOBS_MAX, &options->jobs)
                    : opt == 'w' ? number(optarg, 1, WORKERS_MAX, &options->workers)
                    : opt == 'x' ? number(optarg, 0, 90, &options->crash)
                    : opt == 'n' ? number(optarg, 0, 90, &options->nack)
                    : opt == 'k' ? number(optarg, 0, JOBS_MAX, &options->keys)
                    : opt == 't' ? number(optarg, 0, 60000, &options->work)
                    : opt == 'm' ? number(optarg, 0, 1000000, &options->max_deliver)
                                 : false;
        if (!fine)
            return -1;
    }
    return optind == argc ? 0 : -1;
}

static void usage(void)
{
    fprintf(
        stderr,
        "usage: work_queue [--url URL] [--jobs N] [--workers N] [--crash PERCENT] [--nack "
        "PERCENT]\n"
        "                  [--keys N] [--work MS] [--max-deliver N] [--consumer NAME]\n"
        "  --crash, --nack  how often a worker kills itself in a job, or gives it back (0 to 90)\n"
        "  --keys           jobs have so many keys, and those of one key are done in their order\n"
        "  --max-deliver    after so many deliveries a job is a dead letter (0: never)\n");
}

int main(int argc, char **argv)
{
    struct options options = {.url = "ws://127.0.0.1:3000/ws",
                              .consumer = "work_queue",
                              .jobs = 200,
                              .workers = 4,
                              .work = 5,
                              .max_deliver = 10};
    const char *worker = getenv("WORK_QUEUE_WORKER");
    char run[32];
    if (parse_arguments(argc, argv, &options) < 0) {
        usage();
        return 2;
    }
    if (worker) {
        options.worker = strtol(worker, NULL, 10);
        return work(&options);
    }
    snprintf(run, sizeof run, "%llx-%x", (unsigned long long)time(NULL), (unsigned)getpid());
    options.run = run; /* tells this run's jobs from those that an earlier one left */
    return dispatch(&options, argv) == 0 ? 0 : 1;
}
