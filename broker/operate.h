/* operate.h - the actions of the command line that work on a log and end: backup, restore, verify, repair, import. */
#pragma once

#include "broker/cli.h"

/**
 * Run one; progress on a terminal, the report on stdout. Returns the exit status: 0 it worked, 1 it did not,
 * 3 a backup or restore was made, but lacks events that were damaged.
 */
int eb_operate(const struct eb_cli *cli, const struct eb_settings *settings);
