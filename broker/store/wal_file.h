/*
 * wal_file.h - the WAL as the writer's connection writes it: frame by frame, gathered into larger writes (wal_file.c).
 */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>

struct eb_wal_vfs {
    sqlite3_vfs vfs;
    sqlite3_vfs *real; /* NULL: not registered */
    char name[40];
    bool
        syncs; /* each commit is synced. The owner's to set before the file is opened; false after eb_wal_vfs_init */
    struct wal_file *wal;             /* NULL: not open */
    sqlite3_io_methods db;            /* of the database's file: those it has, */
    const sqlite3_io_methods *db_was; /* but for one */
};

/**
 * Make a VFS of its own known to SQLite, for one connection: that named @base (NULL: the usual one), but for the WAL. 0 or
 * -errno. @vfs stays where it is until eb_wal_vfs_finish, which comes after the connection's end.
 */
int eb_wal_vfs_init(struct eb_wal_vfs *vfs, const char *base);
void eb_wal_vfs_finish(struct eb_wal_vfs *vfs);
