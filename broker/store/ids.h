/*
 * ids.h - table `ids`: lists of ids as they lie in the file (docs/formats/log.md), read by whoever looks at a log.
 */
#pragma once

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/store/dedupe.h"

#define EB_IDS_ENTRY 32u /* bytes: id, seq, timestamp */

/**
 * The row @part whose column `entries` is @blob: number of ids of deleted events in it, 0 for a piece of the
 * snapshot; -EBADMSG: it is damaged.
 */
int64_t eb_ids_check(int64_t part, const void *blob, size_t len);
void eb_ids_decode(const void *blob, size_t i, struct eb_dedupe_entry *ret);

struct eb_ids_list {
    struct eb_dedupe_entry *entries; /* the caller's to free, also after a failure */
    size_t count, cap;
};
/** Ids of deleted events younger than @since_ms, from `gone` and `ids`, by seq. @ret begins empty. 0 or -errno. */
int eb_ids_gone(sqlite3 *db, int64_t since_ms, struct eb_ids_list *ret);
