/*
 * operate.c - see operate.h; the work itself is the store's (ops.h).
 */
#include "broker/operate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/store/ops.h"
#include "common/clock.h"

enum { EXIT_LACKS = 3 };

struct bar {
    const char *verb;
    bool terminal, shown;
    int64_t started_ms, drawn_ms;
};

static void draw(void *ctx, uint64_t done, uint64_t total)
{
    enum { WIDTH = 32 };
    struct bar *bar = ctx;
    int64_t now = eb_mono_ms();
    if (!bar->terminal || (done != total && now - bar->drawn_ms < 100))
        return;
    bar->drawn_ms = now;
    bar->shown = true;
    double seconds = (double)(now - bar->started_ms) / 1000;
    if (total == 0) {
        fprintf(stderr, "\r%s %" PRIu64 " (%.0f/s) ", bar->verb, done,
                seconds > 0 ? (double)done / seconds : 0);
    } else {
        int filled = (int)(done * WIDTH / total);
        fprintf(stderr, "\r%s [%.*s%*s] %3d%% %.0fs ", bar->verb, filled,
                "################################", WIDTH - filled, "", (int)(done * 100 / total),
                seconds);
    }
    fflush(stderr);
}

static void end_line(struct bar *bar)
{
    if (bar->shown)
        fputc('\n', stderr);
    bar->shown = false;
}

static void report(void *ctx, const char *line)
{
    end_line(ctx);
    printf("%s\n", line);
}

static int run(const struct eb_cli *cli, const char *db, struct eb_ops *ops,
               struct eb_ops_summary *sum, struct eb_error *err)
{
    switch (cli->action) {
    case EB_ACTION_BACKUP:
        return eb_store_backup(db, cli->file, ops, sum, err);
    case EB_ACTION_RESTORE:
        return eb_store_restore(cli->file, db, ops, sum, err);
    case EB_ACTION_REPAIR:
        return eb_store_repair(db, cli->file, ops, sum, err);
    case EB_ACTION_IMPORT:
        return eb_store_import(cli->file, db, ops, sum, err);
    default:
        return eb_store_verify(db, ops, sum, err);
    }
}

static void summarise(const struct eb_cli *cli, const char *db, const struct eb_ops_summary *s)
{
    if (cli->action == EB_ACTION_VERIFY) {
        printf("%s: %" PRIu64 " events whole, %" PRIu64 " damaged, %" PRIu64 " other problems\n",
               db, s->rows, s->damaged, s->problems);
        return;
    }
    const char *target =
        cli->action == EB_ACTION_BACKUP || cli->action == EB_ACTION_REPAIR ? cli->file : db;
    printf("%s: %" PRIu64 " events on %" PRIu64 " topics, %" PRIu64 " acknowledged", target,
           s->rows, s->topics, s->acked);
    if (s->consumers)
        printf(", %" PRIu64 " consumers", s->consumers);
    if (s->scheduled)
        printf(", %" PRIu64 " scheduled", s->scheduled);
    if (s->rows)
        printf(", seq %" PRIu64 " to %" PRIu64, s->first_seq, s->last_seq);
    printf(", epoch %s\n", s->epoch);
    if (s->damaged)
        printf("%" PRIu64 " events were damaged and could not be brought over\n", s->damaged);
    if (s->left_out)
        printf("%" PRIu64 " rows were left out, each named above\n", s->left_out);
}

/* A copy that was made, but not of all: the operator must not take it for a whole one. */
static bool lacks_events(const struct eb_cli *cli, const char *db, const struct eb_ops_summary *s)
{
    if (!s->damaged || (cli->action != EB_ACTION_BACKUP && cli->action != EB_ACTION_RESTORE))
        return false;
    bool backup = cli->action == EB_ACTION_BACKUP;
    fprintf(stderr,
            "eventbusd: %s was made, but lacks what is damaged in %s: keep older copies, and see "
            "what --repair NEW --db %s brings back\n",
            backup ? cli->file : db, backup ? db : cli->file, backup ? db : cli->file);
    return true;
}

int eb_operate(const struct eb_cli *cli, const struct eb_settings *settings)
{
    static const char *const verbs[] = {[EB_ACTION_BACKUP] = "backup",
                                        [EB_ACTION_RESTORE] = "restore",
                                        [EB_ACTION_VERIFY] = "verify",
                                        [EB_ACTION_REPAIR] = "repair",
                                        [EB_ACTION_IMPORT] = "import"};
    struct bar bar = {
        .verb = verbs[cli->action], .terminal = isatty(STDERR_FILENO), .started_ms = eb_mono_ms()};
    struct eb_ops ops = {.ctx = &bar, .progress = draw, .report = report};
    struct eb_ops_summary sum = {0};
    struct eb_error err = {0};
    int rc = run(cli, settings->db, &ops, &sum, &err);
    end_line(&bar);
    if (rc == 0 || cli->action == EB_ACTION_VERIFY)
        summarise(cli, settings->db, &sum);
    if (rc < 0) {
        fprintf(stderr, "eventbusd: %s\n", err.message[0] ? err.message : strerror(-rc));
        return 1;
    }
    return lacks_events(cli, settings->db, &sum) ? EXIT_LACKS : 0;
}
