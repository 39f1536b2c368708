/*
 * settings.c - the table of settings and what is made of it (settings.h).
 */
#include "broker/settings.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "broker/net/address.h"

extern char **environ;

enum kind {
    KIND_BOOL,
    KIND_COUNT,
    KIND_SIZE,
    KIND_DURATION,
    KIND_SECONDS,
    KIND_RATE,
    KIND_CHOICE,
    KIND_TEXT,
    KIND_LIST,
    KIND_OFF_DURATION
};

struct setting {
    const char *key;
    enum kind kind;
    size_t offset;
    const char *fallback;
    uint64_t min, max;
    const char *choices; /* KIND_CHOICE: "a|b" */
    bool limit;          /* shown among `limits` of /v1/stats */
    bool reload;
    const char *help;
    const char *why; /* the default's reason, for the docs */
};

#define AT(field) offsetof(struct eb_settings, field)
#define K         ((uint64_t)1024)
#define M         (K * K)
#define G         (K * M)
#define MAX_TIME  ((uint64_t)100 * 365 * 86400 * 1000)

static const struct setting table[] = {
    {"listen", KIND_LIST, AT(listen), "127.0.0.1:3000", 0, 0, NULL, false, false,
     "Address to serve on: ADDR:PORT, [::1]:PORT or unix:PATH. Repeatable. Port 0 picks one and "
     "says which.",
     "Loopback: nobody else reaches a broker that has no token yet."},
    {"db", KIND_TEXT, AT(db), "eventbus.db", 0, 0, NULL, false, false,
     "The log's file. Made when there is none.",
     "In the folder where the broker is started: easy to find."},
    {"storage", KIND_CHOICE, AT(storage), "sqlite", 0, 0, "sqlite|memory", false, false,
     "sqlite keeps the log in the file; memory keeps a ring of memory_bytes and nothing on disk.",
     "Durability is what this program is for."},
    {"memory_bytes", KIND_SIZE, AT(memory_bytes), "256M", M, 64 * G, NULL, true, false,
     "Size of the ring with storage = memory. What falls off before it was delivered makes a gap.",
     "A few minutes of a busy bus, on a small machine."},
    {"durability", KIND_CHOICE, AT(durability), "fsync", 0, 0, "fsync|os", false, false,
     "fsync: what was acknowledged survives a power cut. os: it survives the broker, not the "
     "machine.",
     "An acknowledgement that a power cut takes back is none."},
    {"auto_ack", KIND_BOOL, AT(auto_ack), "false", 0, 0, NULL, false, false,
     "Mark an event as acknowledged once the kernel took it for the first plain subscriber.",
     "Off: a handed-over event is not a handled one."},
    {"ws_path", KIND_TEXT, AT(ws_path), "/ws", 0, 0, NULL, false, false, "Path of the WebSocket.",
     "The path that clients of prk_eventbus use."},
    {"channel_capacity", KIND_COUNT, AT(channel_capacity), "1024", 1, 1000000, NULL, true, false,
     "Events in a connection's outbound queue; beyond it the connection is fed from the log.",
     "Absorbs a burst; a thousand slow subscribers still fit in memory."},
    {"channel_bytes", KIND_SIZE, AT(channel_bytes), "1M", 4 * K, G, NULL, true, false,
     "Bytes in a connection's outbound queue. One larger event passes alone.",
     "The bound of what one slow subscriber costs."},
    {"max_payload", KIND_SIZE, AT(max_payload), "1M", 1, 256 * M, NULL, true, false,
     "Largest payload of an event.", "Events are facts, not files."},
    {"max_message", KIND_SIZE, AT(max_message), "0", 0, 2 * G, NULL, true, false,
     "Largest WebSocket message or JSON body; 0: 6 x max_payload + 64 KiB.",
     "A payload whose every byte is escaped as \\u00XX still fits."},
    {"max_body_bytes", KIND_SIZE, AT(max_body_bytes), "256M", M, 64 * G, NULL, true, false,
     "Bytes of HTTP request bodies in memory at once, of all connections; beyond it a request gets "
     "503.",
     "Many slow uploads of large bodies cost no more than this."},
    {"max_batch", KIND_COUNT, AT(max_batch), "10000", 1, 1000000, NULL, true, false,
     "Events in one batch.", "A batch is one transaction: it delays the others by its length."},
    {"max_headers", KIND_COUNT, AT(max_headers), "64", 0, 64, NULL, true, false,
     "Headers of an event (16 KiB altogether).", "The protocol's own bound."},
    {"max_connections", KIND_COUNT, AT(max_connections), "10000", 1, 1000000, NULL, true, false,
     "WebSockets and SSE streams together; above it an upgrade gets 503.",
     "10 to 14 KB for an idle WebSocket, 35 for a stream; lowered at start, with a log line, when "
     "the limit of open files is smaller."},
    {"max_http_connections", KIND_COUNT, AT(max_http_connections), "2048", 16, 100000, NULL, true,
     false, "HTTP connections beside those.", "Room for every service's keep-alive pool."},
    {"max_subscriptions", KIND_COUNT, AT(max_subscriptions), "1000", 1, 1000000, NULL, true, false,
     "Subscriptions of one connection.", "More is a client in a loop."},
    {"max_open_requests", KIND_COUNT, AT(max_open_requests), "16384", 1, 1000000, NULL, true, false,
     "Requests of one connection that wait for their commit; beyond it the connection is not read.",
     "Deep enough for full pipelining, a bound for memory."},
    {"max_open_bytes", KIND_SIZE, AT(max_open_bytes), "16M", K, G, NULL, true, false,
     "Bytes of events of one connection that wait for their commit; beyond it the connection is "
     "not read.",
     "A publisher of large events costs no more memory than this, and keeps the disk busy."},
    {"max_unsent_answers", KIND_SIZE, AT(max_unsent_answers), "1M", 4 * K, G, NULL, true, false,
     "Bytes of unsent answers of one connection; beyond it the connection is not read until it "
     "drains.",
     "A client that never reads its answers costs no more."},
    {"dedupe_window", KIND_DURATION, AT(dedupe_window), "10m", 0, MAX_TIME, NULL, true, true,
     "How long a message id is remembered.", "Longer than any sane retry."},
    {"dedupe_max", KIND_COUNT, AT(dedupe_max), "1000000", 0, 100000000, NULL, true, true,
     "Message ids remembered at most; beyond it the oldest go early, counted.",
     "63 MB at the most, when publishers give them all; those that the broker makes cost nothing."},
    {"max_scheduled", KIND_COUNT, AT(max_scheduled), "1000000", 0, 100000000, NULL, true, false,
     "Events that wait until they are due (deliver_at, delay); beyond it a publish for later is "
     "refused.",
     "They cost disk only; a bound for a publisher in a loop."},
    {"default_ttl", KIND_SECONDS, AT(default_ttl), "0", 0, MAX_TIME / 1000, NULL, true, false,
     "Time to live of events published without a ttl; 0: they do not expire.",
     "Nothing is deleted unless asked for."},
    {"retention_age", KIND_DURATION, AT(retention_age), "0", 0, MAX_TIME, NULL, true, true,
     "Delete events older than this; 0: off.", "Nothing is deleted unless asked for."},
    {"retention_bytes", KIND_SIZE, AT(retention_bytes), "0", 0, UINT64_MAX / 2, NULL, true, true,
     "Delete the oldest events while the log is larger; 0: off.",
     "Nothing is deleted unless asked for."},
    {"retention_events", KIND_COUNT, AT(retention_events), "0", 0, UINT64_MAX / 2, NULL, true, true,
     "Delete the oldest events while there are more; 0: off.",
     "Nothing is deleted unless asked for."},
    {"acked_retention", KIND_OFF_DURATION, AT(acked_retention), "off", 0, MAX_TIME, NULL, true,
     true, "Delete an event so long after it was acknowledged; off: never, 0: at once.",
     "Nothing is deleted unless asked for."},
    {"retention_holds", KIND_BOOL, AT(retention_holds), "false", 0, 0, NULL, false, false,
     "Age and size delete nothing that a durable consumer has not done yet.",
     "Off: a consumer that nobody works for any more must not fill the disk."},
    {"max_consumers", KIND_COUNT, AT(max_consumers), "1000", 1, 100000, NULL, true, false,
     "Durable consumers; another one is limit_exceeded.",
     "Each has a feed of its own, and a line in every list of metrics."},
    {"webhook_allow", KIND_LIST, AT(webhook_allow), "", 0, 0, NULL, false, true,
     "Networks (10.0.0.0/8, ::1) that webhooks may call though their addresses are not global.",
     "Who may make a consumer must not reach what only this machine reaches."},
    {"min_free", KIND_SIZE, AT(min_free), "64M", 0, UINT64_MAX / 2, NULL, true, true,
     "Publishes are refused (storage_full) while the disk has less room than this.",
     "Room to acknowledge, delete and repair when the disk runs full."},
    {"readers", KIND_COUNT, AT(readers), "4", 1, 64, NULL, true, false,
     "Threads, each with its own SQLite connection, that feed replays and slow subscribers.",
     "Enough to hide the disk on small machines."},
    {"flushers", KIND_COUNT, AT(flushers), "2", 1, 16, NULL, true, false,
     "Threads that write to WebSockets.", "Measured best on two cores (docs/architecture.md)."},
    {"publish_rate", KIND_RATE, AT(publish_rate), "0", 0, 0, NULL, true, true,
     "Events a second that one connection may publish (rate_limited beyond, bursts of one second); "
     "0: off.",
     "Off: trusted services."},
    {"ping_interval", KIND_DURATION, AT(ping_interval), "30s", 0, MAX_TIME, NULL, true, true,
     "Every WebSocket is pinged so often, and closed (1013) when nothing came from it until the "
     "next "
     "ping; 0: off.",
     "Shorter than the 60 s of usual proxies."},
    {"idle_timeout", KIND_DURATION, AT(idle_timeout), "0", 0, MAX_TIME, NULL, true, true,
     "Close a WebSocket from which nothing came for this long, not even a pong; 0: off.",
     "A quiet subscriber is no fault."},
    {"stall_timeout", KIND_DURATION, AT(stall_timeout), "60s", 100, MAX_TIME, NULL, true, true,
     "Close (1013) a connection whose socket took nothing for this long while an event waited.",
     "A laptop that sleeps shortly comes back in time."},
    {"drain_timeout", KIND_DURATION, AT(drain_timeout), "10s", 0, MAX_TIME, NULL, true, true,
     "Time for the orderly end: answers and queues are sent before connections are closed.",
     "Well below the 90 s after which systemd kills."},
    {"request_timeout", KIND_DURATION, AT(request_timeout), "30s", 1000, MAX_TIME, NULL, true,
     false,
     "Time for the head of an HTTP request, and for its body (plus 1 ms per 16 bytes of it).",
     "Slow requests do not pile up."},
    {"sse_comment", KIND_DURATION, AT(sse_comment), "15s", 100, 15000, NULL, true, false,
     "A silent SSE stream gets a comment line so often.", "The protocol's own bound."},
    {"allowed_origins", KIND_LIST, AT(allowed_origins), "", 0, 0, NULL, false, true,
     "Origins (https://app.example) whose pages may open a WebSocket beside the broker's own; * "
     "for any.",
     "A web page of a stranger must not read your bus."},
    {"cors_origins", KIND_LIST, AT(cors_origins), "", 0, 0, NULL, false, true,
     "Origins whose pages may use the HTTP API (CORS); * for any.", "Off."},
    {"token_file", KIND_TEXT, AT(token_file), "", 0, 0, NULL, false, true,
     "File with one bearer token a line; # starts a comment. Reread on SIGHUP.",
     "Without one the broker serves loopback only."},
    {"insecure", KIND_BOOL, AT(insecure), "false", 0, 0, NULL, false, false,
     "Serve beyond loopback without a token, and accept any Host.",
     "Off: it should be a decision."},
    {"pages", KIND_BOOL, AT(pages), "true", 0, 0, NULL, false, false,
     "Serve the status and chat page at /.", "A newcomer's first look."},
    {"log_level", KIND_CHOICE, AT(log_level), "info", 0, 0, "error|warn|info|debug", false, true,
     "Least important lines to log.", "Starts, stops and what needs a person."},
    {"log_format", KIND_CHOICE, AT(log_format), "text", 0, 0, "text|json", false, true,
     "Lines for people or JSON lines for machines.", "People come first."},
    {"log_file", KIND_TEXT, AT(log_file), "", 0, 0, NULL, false, true,
     "Log to this file (reopened on SIGHUP); empty: standard error.",
     "systemd and containers collect standard error."},
    {"pid_file", KIND_TEXT, AT(pid_file), "", 0, 0, NULL, false, false,
     "Write the process id here while running; empty: none.", "systemd needs none."},
};

#define TABLE_SIZE (sizeof table / sizeof table[0])
_Static_assert(sizeof table / sizeof table[0] <= sizeof((struct eb_settings *)0)->given,
               "given[] too small");

static void *field(const struct eb_settings *settings, const struct setting *s)
{
    return (char *)settings + s->offset;
}

static const struct setting *find(const char *key)
{
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        const char *a = table[i].key, *b = key;
        while (*a && (*a == *b || (*a == '_' && *b == '-')))
            a++, b++;
        if (!*a && !*b)
            return &table[i];
    }
    return NULL;
}

/* ---- values ---- */

/* A number with one of the @units behind it; @units are "name factor" pairs. */
struct unit {
    const char *name;
    double factor;
};

static const struct unit size_units[] = {
    {"", 1},          {"b", 1},           {"k", 1024.0},       {"kib", 1024.0},
    {"m", 1048576.0}, {"mib", 1048576.0}, {"g", 1073741824.0}, {"gib", 1073741824.0},
    {"kb", 1e3},      {"mb", 1e6},        {"gb", 1e9},         {NULL, 0}};
static const struct unit ms_units[] = {{"", 1000},    {"ms", 1},      {"s", 1000}, {"m", 60e3},
                                       {"h", 3600e3}, {"d", 86400e3}, {NULL, 0}};
static const struct unit s_units[] = {{"", 1},     {"s", 1},     {"m", 60},
                                      {"h", 3600}, {"d", 86400}, {NULL, 0}};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

static bool read_number(const char *value, const struct unit *units, double *ret)
{
    char *end;
    if (!isdigit((unsigned char)value[0]))
        return false;
    errno = 0;
    double number = strtod(value, &end);
    if (errno || end == value || strspn(value, "0123456789.") != (size_t)(end - value))
        return false;
    while (*end == ' ')
        end++;
    for (; units->name; units++) {
        if (strcasecmp(end, units->name) == 0) {
            *ret = number * units->factor;
            return true;
        }
    }
    return false;
}

static const char *kind_name(const struct setting *s)
{
    switch (s->kind) {
    case KIND_BOOL:
        return "true or false";
    case KIND_COUNT:
        return "a whole number";
    case KIND_SIZE:
        return "a size: bytes, or a number with K, M or G";
    case KIND_DURATION:
        return "a time: seconds, or a number with ms, s, m, h or d";
    case KIND_SECONDS:
        return "whole seconds, or a number with s, m, h or d";
    case KIND_OFF_DURATION:
        return "off, or a time: seconds, or a number with ms, s, m, h or d";
    case KIND_RATE:
        return "a number of events a second";
    case KIND_CHOICE:
        return s->choices;
    case KIND_TEXT:
        return "a text";
    case KIND_LIST:
        return "a list, separated by commas or spaces";
    }
    return "";
}

static int bad(const struct setting *s, const char *value, char *err)
{
    snprintf(err, EB_SETTING_ERROR, "%s = \"%.80s\": must be %s", s->key, value, kind_name(s));
    return -EINVAL;
}

static void show_number(const struct setting *s, uint64_t n, char *out, size_t size)
{
    if (s->kind == KIND_SIZE && n && n % G == 0)
        snprintf(out, size, "%" PRIu64 "G", n / G);
    else if (s->kind == KIND_SIZE && n && n % M == 0)
        snprintf(out, size, "%" PRIu64 "M", n / M);
    else if (s->kind == KIND_SIZE && n && n % K == 0)
        snprintf(out, size, "%" PRIu64 "K", n / K);
    else if ((s->kind == KIND_DURATION || s->kind == KIND_OFF_DURATION) && n % 1000)
        snprintf(out, size, "%" PRIu64 "ms", n);
    else if (s->kind == KIND_DURATION || s->kind == KIND_OFF_DURATION)
        snprintf(out, size, "%" PRIu64 "%s", n / 1000, n ? "s" : "");
    else
        snprintf(out, size, "%" PRIu64, n);
}

static int set_number(struct eb_settings *settings, const struct setting *s, const char *value,
                      char *err)
{
    const struct unit *units = s->kind == KIND_SIZE ? size_units
                               : s->kind == KIND_DURATION || s->kind == KIND_OFF_DURATION ? ms_units
                               : s->kind == KIND_SECONDS                                  ? s_units
                                                         : no_units;
    double number;
    if (!read_number(value, units, &number) || (s->kind == KIND_COUNT && number != floor(number)))
        return bad(s, value, err);
    if (number < (double)s->min || number > (double)s->max) {
        char low[32], high[32];
        show_number(s, s->min, low, sizeof low);
        show_number(s, s->max, high, sizeof high);
        snprintf(err, EB_SETTING_ERROR, "%s = \"%.80s\": must be between %s and %s", s->key, value,
                 low, high);
        return -EINVAL;
    }
    if (s->kind == KIND_OFF_DURATION)
        *(int64_t *)field(settings, s) = (int64_t)number;
    else
        *(uint64_t *)field(settings, s) = (uint64_t)number;
    return 0;
}

static int set_bool(struct eb_settings *settings, const struct setting *s, const char *value,
                    char *err)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no",
                                                                                "off", "0"};
    for (size_t i = 0; i < 4; i++) {
        if (strcasecmp(value, yes[i]) == 0 || strcasecmp(value, no[i]) == 0) {
            *(bool *)field(settings, s) = strcasecmp(value, yes[i]) == 0;
            return 0;
        }
    }
    return bad(s, value, err);
}

static bool is_choice(const char *choices, const char *value)
{
    size_t len = strlen(value);
    for (const char *c = choices; *c; c += strcspn(c, "|"), c += *c == '|') {
        if (strcspn(c, "|") == len && strncmp(c, value, len) == 0)
            return true;
    }
    return false;
}

static int set_text(struct eb_settings *settings, const struct setting *s, const char *value)
{
    char *copy = strdup(value);
    if (!copy)
        return -ENOMEM;
    char **at = field(settings, s);
    free(*at);
    *at = copy;
    return 0;
}

static void free_list(char **list)
{
    for (char **p = list; p && *p; p++)
        free(*p);
    free(list);
}

static int list_add(char ***list, const char *text, size_t len)
{
    size_t n = 0;
    while ((*list)[n])
        n++;
    char **more = realloc(*list, (n + 2) * sizeof *more);
    if (!more)
        return -ENOMEM;
    *list = more;
    more[n] = strndup(text, len);
    more[n + 1] = NULL;
    return more[n] ? 0 : -ENOMEM;
}

static int set_list(struct eb_settings *settings, const struct setting *s, const char *value,
                    bool extend)
{
    char ***at = field(settings, s);
    if (!extend || !*at) {
        free_list(*at);
        if (!(*at = calloc(1, sizeof **at)))
            return -ENOMEM;
    }
    for (const char *p = value; *p;) {
        size_t skip = strspn(p, ", \t\n"), len = strcspn(p + skip, ", \t\n");
        if (len && list_add(at, p + skip, len) < 0)
            return -ENOMEM;
        p += skip + len;
    }
    return 0;
}

static int set_value(struct eb_settings *settings, const struct setting *s, const char *value,
                     bool extend, char *err)
{
    double rate;
    switch (s->kind) {
    case KIND_BOOL:
        return set_bool(settings, s, value, err);
    case KIND_RATE:
        if (!read_number(value, no_units, &rate))
            return bad(s, value, err);
        *(double *)field(settings, s) = rate;
        return 0;
    case KIND_CHOICE:
        return is_choice(s->choices, value) ? set_text(settings, s, value) : bad(s, value, err);
    case KIND_TEXT:
        return set_text(settings, s, value);
    case KIND_LIST:
        return set_list(settings, s, value, extend);
    case KIND_OFF_DURATION:
        if (strcasecmp(value, "off") == 0) {
            *(int64_t *)field(settings, s) = -1;
            return 0;
        }
        return set_number(settings, s, value, err);
    default:
        return set_number(settings, s, value, err);
    }
}

int eb_settings_set(struct eb_settings *settings, const char *key, const char *value,
                    enum eb_setting_source source, char err[EB_SETTING_ERROR])
{
    const struct setting *s = find(key);
    if (!s) {
        snprintf(err, EB_SETTING_ERROR,
                 "unknown setting \"%.60s\"; eventbusd --help lists them all", key);
        return -EINVAL;
    }
    size_t i = (size_t)(s - table);
    int rc = set_value(settings, s, value,
                       settings->given[i] == source && source != EB_FROM_DEFAULT, err);
    if (rc == -ENOMEM)
        snprintf(err, EB_SETTING_ERROR, "out of memory");
    if (rc == 0)
        settings->given[i] = (uint8_t)source;
    return rc;
}

int eb_settings_init(struct eb_settings *settings)
{
    char err[EB_SETTING_ERROR];
    memset(settings, 0, sizeof *settings);
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        if (set_value(settings, &table[i], table[i].fallback, false, err) < 0) {
            eb_settings_finish(settings);
            return -ENOMEM;
        }
    }
    return 0;
}

void eb_settings_finish(struct eb_settings *settings)
{
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        void *at = field(settings, &table[i]);
        if (table[i].kind == KIND_TEXT || table[i].kind == KIND_CHOICE)
            free(*(char **)at);
        else if (table[i].kind == KIND_LIST)
            free_list(*(char ***)at);
    }
    memset(settings, 0, sizeof *settings);
}

static void show_value(const struct eb_settings *settings, const struct setting *s, char *out,
                       size_t size)
{
    const void *at = field(settings, s);
    int64_t off;
    size_t used = 0;
    switch (s->kind) {
    case KIND_BOOL:
        snprintf(out, size, "%s", *(const bool *)at ? "true" : "false");
        break;
    case KIND_RATE:
        snprintf(out, size, "%g", *(const double *)at);
        break;
    case KIND_TEXT:
    case KIND_CHOICE:
        snprintf(out, size, "%s", *(char *const *)at);
        break;
    case KIND_LIST:
        out[0] = '\0';
        for (char **p = *(char **const *)at; p && *p && used < size; p++)
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", *p);
        break;
    case KIND_OFF_DURATION:
        off = *(const int64_t *)at;
        if (off < 0)
            snprintf(out, size, "off");
        else
            show_number(s, (uint64_t)off, out, size);
        break;
    default:
        show_number(s, *(const uint64_t *)at, out, size);
    }
}

int eb_settings_copy(struct eb_settings *ret, const struct eb_settings *settings)
{
    char err[EB_SETTING_ERROR], value[8192];
    memset(ret, 0, sizeof *ret);
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        show_value(settings, &table[i], value, sizeof value);
        if (set_value(ret, &table[i], value, false, err) < 0) {
            eb_settings_finish(ret);
            return -ENOMEM;
        }
    }
    memcpy(ret->given, settings->given, sizeof ret->given);
    ret->new_epoch = settings->new_epoch;
    return 0;
}

int eb_settings_take_reloadable(struct eb_settings *settings, const struct eb_settings *fresh)
{
    char err[EB_SETTING_ERROR], value[8192];
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        if (!table[i].reload)
            continue;
        show_value(fresh, &table[i], value, sizeof value);
        if (set_value(settings, &table[i], value, false, err) < 0)
            return -ENOMEM;
        settings->given[i] = fresh->given[i];
    }
    return 0;
}

/* ---- what the table tells ---- */

bool eb_settings_is_given(const struct eb_settings *settings, const char *key)
{
    const struct setting *s = find(key);
    return s && settings->given[s - table] != EB_FROM_DEFAULT;
}

bool eb_settings_about(size_t i, struct eb_setting_about *ret)
{
    static const char *const kinds[] = {"",  "N", "SIZE", "TIME", "TIME",
                                        "N", "",  "TEXT", "LIST", "TIME"};
    if (i >= TABLE_SIZE)
        return false;
    ret->key = table[i].key;
    ret->kind = table[i].kind == KIND_CHOICE ? table[i].choices : kinds[table[i].kind];
    ret->fallback = table[i].fallback;
    ret->help = table[i].help;
    ret->flag = table[i].kind == KIND_BOOL;
    return true;
}

char *eb_settings_text(const struct eb_settings *settings, size_t i)
{
    char value[8192];
    show_value(settings, &table[i], value, sizeof value);
    return strdup(value);
}

bool eb_settings_reloadable(size_t i)
{
    return i < TABLE_SIZE && table[i].reload;
}

void eb_settings_print(const struct eb_settings *settings, FILE *out)
{
    static const char *const from[] = {"default", "file", "environment", "command line"};
    char value[8192];
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        show_value(settings, &table[i], value, sizeof value);
        fprintf(out, "# %s\n%s = %s\n", from[settings->given[i]], table[i].key, value);
    }
}

void eb_settings_print_markdown(FILE *out)
{
    fputs(
        "| key | kind | default | what | why this default | SIGHUP |\n|---|---|---|---|---|---|\n",
        out);
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        const struct setting *s = &table[i];
        fprintf(out, "| `%s` | ", s->key);
        for (const char *c = kind_name(s); *c; c++)
            fputs(*c == '|' ? " or " : (char[]){*c, 0}, out);
        fprintf(out, " | %s%s%s | %s | %s | %s |\n", *s->fallback ? "`" : "",
                *s->fallback ? s->fallback : "none", *s->fallback ? "`" : "", s->help, s->why,
                s->reload ? "yes" : "");
    }
}

char *eb_settings_limits_json(const struct eb_settings *settings)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    const char *comma = "";
    fputc('{', out);
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        const struct setting *s = &table[i];
        if (!s->limit)
            continue;
        fprintf(out, "%s\"%s\":", comma, s->key);
        comma = ",";
        const void *at = field(settings, s);
        if (s->kind == KIND_RATE)
            fprintf(out, "%g", *(const double *)at);
        else if (s->kind == KIND_OFF_DURATION && *(const int64_t *)at < 0)
            fputs("null", out);
        else if (s->kind == KIND_DURATION || s->kind == KIND_OFF_DURATION)
            fprintf(out, "%g", (double)*(const uint64_t *)at / 1000);
        else
            fprintf(out, "%" PRIu64, *(const uint64_t *)at);
    }
    fputc('}', out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static int check_networks(char **list, char err[EB_SETTING_ERROR])
{
    struct eb_network network;
    struct eb_error error;

    for (; list && *list; list++) {
        if (eb_network_parse(&network, *list, strlen(*list), &error) < 0) {
            snprintf(err, EB_SETTING_ERROR, "webhook_allow: %s", error.message);
            return -EINVAL;
        }
    }
    return 0;
}

int eb_settings_check(const struct eb_settings *settings, char err[EB_SETTING_ERROR])
{
    if (settings->ws_path[0] != '/' || strpbrk(settings->ws_path, "?# ")) {
        snprintf(err, EB_SETTING_ERROR,
                 "ws_path = \"%.80s\": must start with / and hold no ?, # or space",
                 settings->ws_path);
        return -EINVAL;
    }
    if (strncmp(settings->ws_path, "/v1", 3) == 0 &&
        (settings->ws_path[3] == '/' || !settings->ws_path[3])) {
        snprintf(err, EB_SETTING_ERROR,
                 "ws_path = \"%.80s\": /v1 belongs to the HTTP API; /ws is the usual path",
                 settings->ws_path);
        return -EINVAL;
    }
    if (settings->max_message && settings->max_message < settings->max_payload) {
        snprintf(err, EB_SETTING_ERROR,
                 "max_message = %" PRIu64 " is smaller than max_payload = %" PRIu64
                 "; 0 fits it by itself",
                 settings->max_message, settings->max_payload);
        return -EINVAL;
    }
    if (!settings->listen[0]) {
        snprintf(err, EB_SETTING_ERROR,
                 "listen is empty: name at least one address, as 127.0.0.1:3000");
        return -EINVAL;
    }
    return check_networks(settings->webhook_allow, err);
}
