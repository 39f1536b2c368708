/*
 * main.c - eventbusd, the daemon: signals, pid file, systemd; the broker itself is broker.c.
 *
 * Exit status: 0 after an orderly end, 1 when it could not start or work, 2 for a wrong command line.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef EB_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "broker/broker.h"
#include "broker/cli.h"
#include "broker/operate.h"
#include "common/clock.h"
#include "common/log.h"

static void notify(const char *state)
{
#ifdef EB_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

/* How often systemd wants to hear from us, in milliseconds; 0: not at all. */
static int64_t watchdog_ms(void)
{
#ifdef EB_SYSTEMD
    uint64_t us;
    if (sd_watchdog_enabled(0, &us) > 0)
        return (int64_t)(us / 2000);
#endif
    return 0;
}

static int setup_log(const struct eb_settings *s)
{
    int rc = eb_broker_log(s->log_level, s->log_format, s->log_file[0] ? s->log_file : NULL);
    if (rc < 0)
        fprintf(stderr, "eventbusd: log_file = %s: %s\n", s->log_file, strerror(-rc));
    return rc;
}

/* Files that are no connections: the log and its readers, libmicrohttpd's and the flushers' descriptors. */
enum { FILES_BESIDE = 200 };

/* Raise the limit of open files as far as it goes, and hold max_connections against it. */
static int fit_file_limit(struct eb_settings *s)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 0;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
    uint64_t need = s->max_connections + s->max_http_connections + FILES_BESIDE;
    if (limit.rlim_cur == RLIM_INFINITY || need <= limit.rlim_cur)
        return 0;
    if (eb_settings_is_given(s, "max_connections")) {
        fprintf(stderr,
                "eventbusd: max_connections = %" PRIu64 " and max_http_connections = %" PRIu64
                " need %" PRIu64 " open files, the limit is %" PRIu64
                ": raise it (ulimit -Hn, LimitNOFILE= in systemd) or lower them\n",
                s->max_connections, s->max_http_connections, need, (uint64_t)limit.rlim_cur);
        return -EMFILE;
    }
    uint64_t left = limit.rlim_cur > FILES_BESIDE + 32 ? limit.rlim_cur - FILES_BESIDE : 32;
    if (!eb_settings_is_given(s, "max_http_connections") && s->max_http_connections > left / 4)
        s->max_http_connections = left / 4 > 16 ? left / 4 : 16;
    s->max_connections = left > s->max_http_connections ? left - s->max_http_connections : 16;
    eb_warn("EB-FILE-LIMIT",
            "max_connections lowered to %" PRIu64 ": the limit of open files is %" PRIu64,
            s->max_connections, (uint64_t)limit.rlim_cur);
    return 0;
}

static int write_pid_file(const char *path)
{
    if (!path[0])
        return 0;
    FILE *file = fopen(path, "we");
    if (file && fprintf(file, "%ld\n", (long)getpid()) > 0 && fclose(file) == 0)
        return 0;
    fprintf(stderr, "eventbusd: pid_file = %s: %s\n", path, strerror(errno));
    return -1;
}

static void say_what_is_kept(const eb_broker *broker)
{
    const struct eb_settings *s = &broker->settings;
    struct eb_store_info info;
    char kept[256] = "everything is kept";
    eb_store_info(broker->store, &info);
    if (s->retention_age || s->retention_bytes || s->retention_events || s->acked_retention >= 0 ||
        s->default_ttl)
        snprintf(kept, sizeof kept,
                 "deleted: older than %" PRIu64 " s, beyond %" PRIu64 " bytes, beyond %" PRIu64
                 " events (0: never), default ttl %" PRIu64 " s, acknowledged: %s",
                 s->retention_age / 1000, s->retention_bytes, s->retention_events, s->default_ttl,
                 s->acked_retention < 0 ? "kept" : "deleted");
    if (info.memory)
        snprintf(kept, sizeof kept,
                 "kept in memory only, the last %" PRIu64
                 " bytes of events; nothing survives a restart",
                 s->memory_bytes);
    eb_info(NULL,
            "eventbusd %s: log %s, %" PRIu64 " events, last seq %" PRIu64
            ", epoch %s, durability %s; %s",
            EB_VERSION, info.memory ? "in memory" : s->db, info.events, info.last_seq, info.epoch,
            info.memory ? "none" : s->durability, kept);
}

static void say_where(eb_broker *broker)
{
    const char *address;
    for (size_t i = 0; (address = eb_broker_address(broker, i)); i++) {
        printf("listening on %s\n", address);
        eb_info(NULL, "listening on %s", address);
    }
    fflush(stdout);
}

static void reload(eb_broker *broker, int argc, char **argv)
{
    struct eb_settings fresh;
    char err[EB_BROKER_ERROR];
    notify("RELOADING=1");
    if (eb_cli_reparse(argc, argv, &fresh) < 0 || fit_file_limit(&fresh) < 0)
        eb_error_log("EB-RELOAD-FAILED",
                     "settings are wrong, nothing changed; eventbusd --check-config says where");
    else if (setup_log(&fresh) < 0 || eb_broker_reload(broker, &fresh, err) < 0)
        eb_error_log("EB-RELOAD-FAILED", "nothing changed: %s", err);
    else
        eb_info("EB-RELOADED", "settings, tokens and log file read again");
    eb_settings_finish(&fresh);
    notify("READY=1");
}

/* A second signal ends it at once, whatever the drain is waiting for. */
static void *second_signal(void *arg)
{
    int sig;
    pthread_setname_np(pthread_self(), "eb-signal");
    sigwait(arg, &sig);
    eb_warn("EB-STOP-NOW", "second signal: ending at once");
    _exit(1);
}

/* Until the signal that ends the process. */
static void wait_for_the_end(eb_broker *broker, const sigset_t *signals, int argc, char **argv)
{
    int64_t beat = watchdog_ms();
    struct timespec wait = {.tv_sec = beat / 1000, .tv_nsec = beat % 1000 * 1000000};
    for (;;) {
        int sig = beat ? sigtimedwait(signals, NULL, &wait) : sigwaitinfo(signals, NULL);
        if (sig == SIGTERM || sig == SIGINT)
            return;
        if (sig == SIGHUP)
            reload(broker, argc, argv);
        else if (beat && sig < 0 && errno == EAGAIN)
            notify("WATCHDOG=1");
    }
}

static int run(struct eb_settings *settings, int argc, char **argv)
{
    static sigset_t signals,
        ending; /* static: the second_signal thread reads it until the very end */
    char err[EB_BROKER_ERROR];
    eb_broker *broker = NULL;
    pthread_t watcher;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    ending = signals;
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is a full disk to us, not our death */

    if (setup_log(settings) < 0 || fit_file_limit(settings) < 0)
        return 1;
    if (eb_broker_start_settings(settings, &broker, err) < 0) {
        eb_error_log("EB-START-FAILED", "%s", err);
        return 1;
    }
    if (write_pid_file(settings->pid_file) < 0) {
        eb_broker_stop(broker);
        return 1;
    }
    say_what_is_kept(broker);
    say_where(broker);
    notify("READY=1");
    wait_for_the_end(broker, &signals, argc, argv);
    notify("STOPPING=1");
    eb_info(NULL, "ending: answering what is in flight, at most %" PRIu64 " s",
            settings->drain_timeout / 1000);
    if (pthread_create(&watcher, NULL, second_signal, &ending) == 0)
        pthread_detach(watcher);
    eb_broker_stop(broker);
    if (settings->pid_file[0])
        unlink(settings->pid_file);
    eb_info(NULL, "ended");
    return 0;
}

int main(int argc, char **argv)
{
    struct eb_cli cli;
    struct eb_settings settings;
    int status = 0;
    if (eb_cli_parse(argc, argv, &cli, &settings) < 0) {
        eb_settings_finish(&settings);
        return 2;
    }
    switch (cli.action) {
    case EB_ACTION_HELP:
        eb_cli_help();
        break;
    case EB_ACTION_VERSION:
        printf("eventbusd %s\n", EB_VERSION);
        break;
    case EB_ACTION_CHECK_CONFIG:
        printf("configuration is fine\n");
        break;
    case EB_ACTION_PRINT_CONFIG:
        eb_settings_print(&settings, stdout);
        break;
    case EB_ACTION_PRINT_DOCS:
        eb_settings_print_markdown(stdout);
        break;
    case EB_ACTION_RUN:
        status = run(&settings, argc, argv);
        break;
    default:
        status = eb_operate(&cli, &settings);
        break;
    }
    eb_settings_finish(&settings);
    return status;
}
