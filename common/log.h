/*
 * log.h - the log output of a process: text or JSON lines, to standard error or a file.
 *
 * A line that a person acts on carries a stable id ("EB-DISK-LOW") that docs/operations.md explains;
 * other lines carry none. Library code does not log; the broker logs once, where it decides.
 */
#pragma once

#include <stdbool.h>

enum eb_log_level { EB_LOG_ERROR, EB_LOG_WARN, EB_LOG_INFO, EB_LOG_DEBUG };

/**
 * Set level, format and file (NULL: standard error). May be called again (SIGHUP reopens the file).
 * Returns 0 or -errno if the file cannot be opened (then the old output stays).
 * Threads: any.
 */
int eb_log_setup(enum eb_log_level level, bool json, const char *file);
enum eb_log_level eb_log_level(void);

/** Log one line. @id is a stable id or NULL. Threads: any; takes EB_RANK_LOG_SINK for the write only. */
void eb_log(enum eb_log_level level, const char *id, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define eb_error_log(id, ...) eb_log(EB_LOG_ERROR, id, __VA_ARGS__)
#define eb_warn(id, ...)      eb_log(EB_LOG_WARN, id, __VA_ARGS__)
#define eb_info(id, ...)      eb_log(EB_LOG_INFO, id, __VA_ARGS__)
#define eb_debug(...)                                                                              \
    do {                                                                                           \
        if (eb_log_level() >= EB_LOG_DEBUG)                                                        \
            eb_log(EB_LOG_DEBUG, NULL, __VA_ARGS__);                                               \
    } while (0)
