/* cli.h - eventbusd's command line: settings by their names and the actions that end by themselves. */
#pragma once

#include "broker/settings.h"

enum eb_action {
    EB_ACTION_RUN,
    EB_ACTION_HELP,
    EB_ACTION_VERSION,
    EB_ACTION_CHECK_CONFIG,
    EB_ACTION_PRINT_CONFIG,
    EB_ACTION_PRINT_DOCS,
    EB_ACTION_BACKUP,
    EB_ACTION_RESTORE,
    EB_ACTION_VERIFY,
    EB_ACTION_REPAIR,
    EB_ACTION_IMPORT,
};

struct eb_cli {
    enum eb_action action;
    const char *file;   /* the action's argument */
    const char *config; /* --config, or EVENTBUS_CONFIG */
};

/**
 * Defaults, then the file, the environment and the command line into @settings. What is wrong goes to stderr.
 * 0, or -EINVAL / -ENOMEM. @settings is initialised in any case.
 */
int eb_cli_parse(int argc, char **argv, struct eb_cli *ret, struct eb_settings *settings);
/** The file, the environment and the command line once more (SIGHUP). */
int eb_cli_reparse(int argc, char **argv, struct eb_settings *settings);
void eb_cli_help(void);
