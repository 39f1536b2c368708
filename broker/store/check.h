/* check.h - the look at a log's file before it is opened: what is damaged, within a time that no size changes. */
#pragma once

#include "common/error.h"

/**
 * Look at header, schema, freelist, WAL, roots and last pages of the log at @path, for at most 2 s. Reads
 * only, through @vfs (NULL: the default one) and before SQLite has opened the file: neither file nor WAL is
 * changed. Call it when no other process writes the file (behind the lock of a running broker).
 *
 * 0: fit to be opened, or there is no file, or it is empty.
 * -EBADMSG: damaged; -EINVAL: not a log of ours (no database, another program's, a newer schema, one of
 * prk_eventbus 0.1); -EACCES, -EISDIR, -EIO, -ENOMEM. @err->message says what and what to type.
 */
int eb_store_check(const char *path, const char *vfs, struct eb_error *err);
