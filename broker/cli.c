/*
 * cli.c - see cli.h. The options are the table of settings and a handful of actions.
 */
#include "broker/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

struct action_option {
    const char *name;
    int argument; /* as in struct option */
    enum eb_action action;
    const char *value, *help;
};

static const struct action_option actions[] = {
    {"help", no_argument, EB_ACTION_HELP, "", "Show this and end."},
    {"version", no_argument, EB_ACTION_VERSION, "", "Show the version and end."},
    {"check-config", no_argument, EB_ACTION_CHECK_CONFIG, "",
     "Check file, environment and command line, and end."},
    {"print-config", no_argument, EB_ACTION_PRINT_CONFIG, "",
     "Print every setting as a configuration file, and end."},
    {"print-docs", no_argument, EB_ACTION_PRINT_DOCS, "",
     "Print the table of settings as Markdown, and end."},
    {"backup", required_argument, EB_ACTION_BACKUP, "COPY",
     "Copy the log of --db into the new file COPY, also beside a running broker."},
    {"restore", required_argument, EB_ACTION_RESTORE, "COPY",
     "Make the new log --db from a backup, with a new epoch."},
    {"verify", no_argument, EB_ACTION_VERIFY, "", "Read all of --db and say what is damaged."},
    {"repair", required_argument, EB_ACTION_REPAIR, "NEW",
     "Bring every whole event of --db into the new file NEW; --db is not touched."},
    {"import", required_argument, EB_ACTION_IMPORT, "OLD",
     "Take over a file of prk_eventbus 0.1 into the new log --db."},
};
#define ACTIONS (sizeof actions / sizeof actions[0])

enum { OPT_CONFIG = 1000, OPT_NEW_EPOCH, OPT_ACTION = 2000, OPT_SETTING = 3000, OPT_NO = 4000 };
enum { MAX_OPTIONS = 200, NAME_SIZE = 48 };

struct option_table {
    struct option options[MAX_OPTIONS];
    char names[MAX_OPTIONS][NAME_SIZE];
    size_t count;
};

static void add_option(struct option_table *t, const char *prefix, const char *key, int argument,
                       int value)
{
    char *name = t->names[t->count];
    snprintf(name, NAME_SIZE, "%s%s", prefix, key);
    for (char *c = name; *c; c++) {
        if (*c == '_')
            *c = '-';
    }
    t->options[t->count++] = (struct option){name, argument, NULL, value};
}

static void build_options(struct option_table *t)
{
    struct eb_setting_about about;
    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < ACTIONS; i++)
        add_option(t, "", actions[i].name, actions[i].argument, OPT_ACTION + (int)i);
    add_option(t, "", "config", required_argument, OPT_CONFIG);
    add_option(t, "", "new-epoch", no_argument, OPT_NEW_EPOCH);
    for (size_t i = 0; eb_settings_about(i, &about); i++) {
        add_option(t, "", about.key, about.flag ? optional_argument : required_argument,
                   OPT_SETTING + (int)i);
        if (about.flag)
            add_option(t, "no-", about.key, no_argument, OPT_NO + (int)i);
    }
}

static int take_action(const struct action_option *action, const char *arg, struct eb_cli *cli)
{
    if (cli->action != EB_ACTION_RUN && cli->action != action->action) {
        fprintf(stderr,
                "eventbusd: one action at a time: --%s does not go with the one before it\n",
                action->name);
        return -EINVAL;
    }
    cli->action = action->action;
    cli->file = arg;
    return 0;
}

static int take_setting(size_t i, const char *value, struct eb_settings *settings)
{
    char err[EB_SETTING_ERROR];
    struct eb_setting_about about;
    if (eb_settings_about(i, &about) &&
        eb_settings_set(settings, about.key, value, EB_FROM_COMMAND_LINE, err) == 0)
        return 0;
    fprintf(stderr, "eventbusd: --%s\n", err);
    return -EINVAL;
}

static int take_option(int opt, const char *arg, struct eb_cli *cli, struct eb_settings *settings,
                       bool apply)
{
    if (opt == OPT_CONFIG)
        cli->config = arg;
    else if (opt == OPT_NEW_EPOCH)
        settings->new_epoch = true;
    else if (opt < OPT_SETTING)
        /* cppcheck-suppress arrayIndexOutOfBoundsCond ; getopt gives only what the table has */
        return take_action(&actions[opt - OPT_ACTION], arg, cli);
    else if (apply && opt >= OPT_NO)
        return take_setting((size_t)(opt - OPT_NO), "false", settings);
    else if (apply)
        return take_setting((size_t)(opt - OPT_SETTING), arg ? arg : "true", settings);
    return 0;
}

/* One walk over the command line; @apply false: only what is needed first (--config, the action). */
static int walk(int argc, char **argv, struct eb_cli *cli, struct eb_settings *settings, bool apply)
{
    struct option_table table;
    int opt, rc = 0;
    build_options(&table);
    optind = 0; /* glibc: start afresh */
    opterr = 0;
    cli->action = EB_ACTION_RUN;
    while (rc == 0 && (opt = getopt_long(argc, argv, ":h", table.options, NULL)) != -1) {
        if (opt == 'h') {
            cli->action = EB_ACTION_HELP;
        } else if (opt == ':') {
            fprintf(stderr, "eventbusd: %s needs a value; eventbusd --help shows it\n",
                    argv[optind - 1]);
            rc = -EINVAL;
        } else if (opt == '?') {
            fprintf(stderr, "eventbusd: unknown option %s; eventbusd --help lists them all\n",
                    argv[optind - 1]);
            rc = -EINVAL;
        } else {
            rc = take_option(opt, optarg, cli, settings, apply);
        }
    }
    if (rc == 0 && optind < argc) {
        fprintf(stderr, "eventbusd: unexpected \"%s\": options begin with --, as in --db PATH\n",
                argv[optind]);
        rc = -EINVAL;
    }
    return rc;
}

static int load(int argc, char **argv, struct eb_cli *cli, struct eb_settings *settings)
{
    char err[EB_SETTING_ERROR];
    int bad = 0;
    if (cli->config) {
        bad = eb_settings_load(settings, cli->config, stderr);
        if (bad < 0)
            fprintf(stderr, "eventbusd: --config %s: %s\n", cli->config, strerror(-bad));
    }
    bad += eb_settings_load_environment(settings, stderr) != 0;
    if (bad)
        return -EINVAL;
    int rc = walk(argc, argv, cli, settings, true);
    if (rc == 0 && eb_settings_check(settings, err) < 0) {
        fprintf(stderr, "eventbusd: %s\n", err);
        rc = -EINVAL;
    }
    return rc;
}

int eb_cli_parse(int argc, char **argv, struct eb_cli *ret, struct eb_settings *settings)
{
    int rc = eb_settings_init(settings);
    if (rc < 0)
        return rc;
    *ret = (struct eb_cli){.config = getenv("EVENTBUS_CONFIG")};
    rc = walk(argc, argv, ret, settings, false);
    if (rc < 0 || ret->action == EB_ACTION_HELP || ret->action == EB_ACTION_VERSION ||
        ret->action == EB_ACTION_PRINT_DOCS)
        return rc;
    return load(argc, argv, ret, settings);
}

int eb_cli_reparse(int argc, char **argv, struct eb_settings *settings)
{
    struct eb_cli cli;
    int rc = eb_cli_parse(argc, argv, &cli, settings);
    settings->new_epoch = false;
    return rc;
}

/* Words of @text, folded at the terminal's width behind an indent. */
static void fold(const char *text, int indent)
{
    int column = indent;
    for (const char *p = text; *p;) {
        int len = (int)strcspn(p, " ");
        if (column + len > 96) {
            printf("\n%*s", indent, "");
            column = indent;
        }
        printf("%.*s ", len, p);
        column += len + 1;
        p += len;
        p += *p == ' ';
    }
    putchar('\n');
}

void eb_cli_help(void)
{
    struct eb_setting_about about;
    char name[96];
    printf("eventbusd %s - a durable event bus over HTTP and WebSocket, kept in one SQLite file\n\n"
           "usage: eventbusd [--listen ADDR:PORT] [--db PATH] [--config FILE] [settings]\n"
           "       eventbusd ACTION --db PATH\n\nactions, each ends by itself:\n",
           EB_VERSION);
    for (size_t i = 0; i < ACTIONS; i++) {
        snprintf(name, sizeof name, "--%s %s", actions[i].name, actions[i].value);
        printf("  %-28s", name);
        fold(actions[i].help, 30);
    }
    printf("\nstart:\n  %-28s", "--config FILE");
    fold("Read settings from an INI file (key = value); environment and command line beat it.", 30);
    printf("  %-28s", "--new-epoch");
    fold("Declare the log another history: clients that come back are told so.", 30);
    printf("\nsettings (file: key = value with _ for -; environment: EVENTBUS_KEY; default in "
           "brackets):\n");
    for (size_t i = 0; eb_settings_about(i, &about); i++) {
        snprintf(name, sizeof name, "--%s %s", about.key, about.kind);
        for (char *c = name + 2; *c && *c != ' '; c++) {
            if (*c == '_')
                *c = '-';
        }
        printf("  %-28s%s", name, strlen(name) > 27 ? "\n                              " : "");
        char help[512];
        snprintf(help, sizeof help, "%s [%s]", about.help,
                 *about.fallback ? about.fallback : "none");
        fold(help, 30);
    }
}
