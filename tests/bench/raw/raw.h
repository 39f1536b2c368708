/*
 * raw.h - what the raw limits share: options, clock, percentiles, the one line of JSON each prints.
 */
#pragma once

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
    uint16_t port;   /* 0: a free one */
};

/* One limit: prints its line on stdout. 0, or not when something went wrong (said on stderr). */
typedef int raw_limit(const struct raw_options *options);
raw_limit raw_fdatasync_append, raw_fdatasync_overwrite, raw_sqlite_insert, raw_sqlite_select,
    raw_http201, raw_group_ack, raw_writev;

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
