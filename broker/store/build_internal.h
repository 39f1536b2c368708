/* build_internal.h - a new log while it is made: what build.c and build_kept.c share. */
#pragma once

#include <sqlite3.h>

#include "broker/store/build.h"
#include "broker/store/scheduled_row.h"

enum {
    PUT_TOPIC,
    PUT_ROW,
    PUT_EXPIRY,
    PUT_ACKED,
    PUT_GONE,
    PUT_REPLY,
    PUT_REPLY_ROW,
    PUT_LAST,
    PUT_CONSUMER,
    PUT_BLOCK,
    PUT_DEAD,
    PUT_MARK,
    PUT_SCHEDULED,
    PUT_IMPORTED, /* this and the next: prepared when they are needed */
    PUT_THERE,
    PUT_COUNT
};

struct eb_build {
    sqlite3 *db;
    sqlite3_stmt *put[PUT_COUNT];
    char *target, *part;
    uint64_t rows, topics, acked, last_seq;
    int64_t last_ts;
    bool has_imported, has_replies;
    bool has_there; /* eb_build_scheduled_there was told something */
};

extern const char *const eb_build_sql[PUT_COUNT];
/** Run one of the kept statements; *ret_new: did it put something? */
int eb_build_put(struct eb_build *build, int which, bool *ret_new);

/* build_kept.c */
/** What is kept must fit the log that was made: see eb_build_end.rewind. */
int eb_build_kept_finish(struct eb_build *build, bool rewind);
