/*
 * vfs_power.h - an SQLite VFS under which the power can be cut.
 *
 * It hands everything to the default VFS and remembers what was synced. At the cut each file keeps, sector by
 * sector (512 bytes), what was synced or any later version of that sector, independently of all others: writes
 * are dropped and reordered. Its length is the synced one or the last. Names that came or went since their
 * folder was synced came or went, or did not. SQLite syncs a folder with the first sync of a fresh WAL or
 * journal, and with some deletions; the rest is not durable.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct power_options {
    uint64_t seed;
    uint64_t
        cut_at; /* the n-th write, sync, truncation, creation or deletion is the last; 0: never */
    bool ignore_sync; /* syncs do nothing, as with synchronous = OFF */
};

/** Register the VFS "power" (once) and begin a round: everything that lies on disk is durable. */
void power_begin(const struct power_options *options);
/** Cut at the n-th operation from now. */
void power_arm(uint64_t n);
/** Cut now, if it is not cut yet: every write from here on fails. */
void power_cut(void);
bool power_is_cut(void);
/** Once all files are closed: leave on disk what a power cut would have left. */
void power_restore(void);
uint64_t power_operations(void); /* of this round */
