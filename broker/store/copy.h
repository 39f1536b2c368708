/* copy.h - reading a log beside a running broker, in short reads, each row checked: backup, restore, verify. */
#pragma once

#include "broker/store/ops.h"

struct eb_build;

/** Read the rows and lists of a log that a broker has open, and report what is damaged in them. As eb_store_verify. */
int eb_verify_online(const char *path, const struct eb_ops *ops, struct eb_ops_summary *ret,
                     struct eb_error *err);
