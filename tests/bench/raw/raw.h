/*
 * raw.h - what the raw limits share: options, clock, percentiles, the one line of JSON each prints.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct raw_options {
    const char *folder; /* where files are made and deleted again */
    double seconds;     /* how long to measure */
    unsigned batch;     /* rows a commit, frames a writev */
    unsigned bytes;     /* payload */
    unsigned sockets;
    uint64_t events; /* rows to read back */
    double rate;     /* rows that come a second */
    uint16_t port;   /* 0: a free one */
};

/* One limit: prints its line on stdout. 0, or not when something went wrong (said on stderr). */
typedef int raw_limit(const struct raw_options *options);
raw_limit raw_fdatasync_append, raw_fdatasync_overwrite, raw_sqlite_insert, raw_sqlite_select,
    raw_sqlite_paced, raw_http201, raw_group_ack, raw_lone_ack, raw_writev;

/** Monotonic seconds. */
double raw_now(void);
/** "FOLDER/NAME" in a static buffer. */
const char *raw_path(const struct raw_options *options, const char *name);

/* Times of single operations, for percentiles. */
struct raw_times {
    uint32_t *us;
    size_t count, cap;
};
/** 0, or -1 without memory. */
int raw_times_add(struct raw_times *times, double seconds);
/** Print `{"limit":…,"rate":…,"p50_us":…,…}`; sorts the times and frees them. */
void raw_print(const char *limit, double count, double seconds, struct raw_times *times);

/** A detached thread with a small stack. */
bool raw_thread(void *(*run)(void *), void *arg);
/** Print the port, and give each connection (its descriptor, as a pointer) a thread that runs @serve; until stdin ends. */
int raw_serve(const char *limit, const struct raw_options *options, void *(*serve)(void *fd));

/* A file of SQLite's own with one table of rows (sqlite.c): one thread at a time. */
struct raw_rows;
/** @synchronous: FULL, or OFF. NULL when it went wrong (said on stderr). */
struct raw_rows *raw_rows_open(const struct raw_options *options, const char *synchronous);
/** One commit of @count more rows. 0 or -1. */
int raw_rows_commit(struct raw_rows *rows, unsigned count);
/** The file goes, too. */
void raw_rows_close(struct raw_rows *rows);
