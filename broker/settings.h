/*
 * settings.h - every setting of the broker, from one table: names, kinds, defaults, bounds, reasons.
 *
 * The table (settings.c) generates `--help`, the check of the configuration file, `--print-config` and
 * docs/configuration.md. Later beats earlier: defaults, file, environment (EVENTBUS_KEY), command line.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Durations are milliseconds, sizes bytes, whatever unit they were written in. */
struct eb_settings {
    char **listen;
    char *db;
    char *storage;
    uint64_t memory_bytes;
    char *durability;
    bool auto_ack;
    char *ws_path;
    uint64_t channel_capacity, channel_bytes;
    uint64_t max_body_bytes;
    uint64_t max_payload, max_message, max_batch, max_headers;
    uint64_t max_connections, max_http_connections, max_subscriptions;
    uint64_t max_open_requests, max_open_bytes, max_unsent_answers;
    uint64_t dedupe_window, dedupe_max;
    uint64_t max_scheduled;
    uint64_t default_ttl;
    uint64_t retention_age, retention_bytes, retention_events;
    int64_t acked_retention; /* -1: off */
    uint64_t min_free;
    uint64_t readers, flushers;
    double publish_rate;
    uint64_t ping_interval, idle_timeout, stall_timeout, drain_timeout, request_timeout,
        sse_comment;
    uint64_t max_consumers;
    bool retention_holds;
    char **webhook_allow;
    char **allowed_origins, **cors_origins;
    char *token_file;
    bool insecure, pages;
    char *log_level, *log_format, *log_file, *pid_file;
    bool new_epoch;    /* not a setting of the file: the action --new-epoch */
    uint8_t given[64]; /* by table index: where the value came from (enum eb_setting_source) */
};

enum eb_setting_source { EB_FROM_DEFAULT, EB_FROM_FILE, EB_FROM_ENVIRONMENT, EB_FROM_COMMAND_LINE };

#define EB_SETTING_ERROR 512 /* room that the functions below want for a message */

/** All defaults. 0 or -ENOMEM. */
int eb_settings_init(struct eb_settings *settings);
void eb_settings_finish(struct eb_settings *settings);
/**
 * Set one by its INI key ("max_payload"; dashes are taken for underscores). -EINVAL with a sentence in @err:
 * what is wrong and what would be right. A list setting is replaced by the first value from a stronger
 * source and extended by further ones from the same source.
 */
int eb_settings_set(struct eb_settings *settings, const char *key, const char *value,
                    enum eb_setting_source source, char err[EB_SETTING_ERROR]);
/** Read an INI file (libinih). All bad lines go to @out as "FILE:LINE: …"; returns how many, or -errno. */
int eb_settings_load(struct eb_settings *settings, const char *path, FILE *out);
/** EVENTBUS_KEY of the environment. Unknown ones are named on @out, and are no error. Returns bad values. */
int eb_settings_load_environment(struct eb_settings *settings, FILE *out);
/** What no single value shows: settings that contradict each other. 0 or -EINVAL with @err. */
int eb_settings_check(const struct eb_settings *settings, char err[EB_SETTING_ERROR]);
/** What may change while running is taken over from @fresh; the rest stays. 0 or -ENOMEM (then some may have changed). */
int eb_settings_take_reloadable(struct eb_settings *settings, const struct eb_settings *fresh);
/** Copies; @ret is overwritten. */
int eb_settings_copy(struct eb_settings *ret, const struct eb_settings *settings);

bool eb_settings_is_given(const struct eb_settings *settings, const char *key);
/** Name, kind and help of setting @i, for --help and getopt; false behind the last. */
struct eb_setting_about {
    const char *key, *kind, *fallback, *help;
    bool flag; /* a boolean: may stand alone on the command line */
};
bool eb_settings_about(size_t i, struct eb_setting_about *ret);
void eb_settings_print(const struct eb_settings *settings,
                       FILE *out);          /* as a file that --config reads */
void eb_settings_print_markdown(FILE *out); /* docs/configuration.md */
/** The limits by their names, as a JSON object (malloc'd), for /v1/stats. */
char *eb_settings_limits_json(const struct eb_settings *settings);
/** The value of setting @i as text (malloc'd), NULL when out of memory. */
char *eb_settings_text(const struct eb_settings *settings, size_t i);
/** May it change on SIGHUP? */
bool eb_settings_reloadable(size_t i);
