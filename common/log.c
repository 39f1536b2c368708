/*
 * log.c - one line, one write.
 *
 * (G1) A line is formatted on the stack without a lock and is at most PIPE_BUF bytes: one write(2)
 *      puts it out whole, also where several processes share the output. What is longer is cut
 *      and ends in "...".
 * (G2) Whatever a message quotes cannot forge a line: control characters and bytes that are not
 *      UTF-8 are escaped in both formats.
 * (G3) An output that fails (disk full, closed pipe) loses the line and stops nobody.
 */
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/text.h"

#define LINE_MAX_BYTES PIPE_BUF
#define MESSAGE_MAX    2048

static struct eb_lock sink_lock = EB_LOCK_INIT(EB_RANK_LOG_SINK);
static int sink_fd = STDERR_FILENO;         /* [sink_lock] */
static atomic_int sink_level = EB_LOG_INFO; /* [a] */
static atomic_bool sink_json;               /* [a] */

static const char *const level_names[] = {"error", "warn", "info", "debug"};

int eb_log_setup(enum eb_log_level level, bool json, const char *file)
{
    int fd = STDERR_FILENO;

    if (file) {
        fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
        if (fd < 0)
            return -errno;
    }
    eb_lock_take(&sink_lock);
    int old = sink_fd;
    sink_fd = fd;
    eb_lock_drop(&sink_lock);
    atomic_store(&sink_level, (int)level);
    atomic_store(&sink_json, json);
    if (old != STDERR_FILENO)
        close(old);
    return 0;
}

enum eb_log_level eb_log_level(void)
{
    return (enum eb_log_level)atomic_load_explicit(&sink_level, memory_order_relaxed);
}

/* A line in the making. Room for the end of a JSON line and the newline is kept back by @cap. */
struct line {
    char data[LINE_MAX_BYTES];
    size_t len, cap;
};

static bool line_add(struct line *line, const char *data, size_t len)
{
    if (len > line->cap - line->len)
        return false;
    memcpy(line->data + line->len, data, len);
    line->len += len;
    return true;
}

static bool line_str(struct line *line, const char *text)
{
    return line_add(line, text, strlen(text));
}

/* Bytes of the code point at @text that may be shown as it is, 0 if its first byte may not. */
static size_t showable(const char *text, size_t len, bool json)
{
    unsigned char c = (unsigned char)text[0];

    if (c < 0x80)
        return c >= 0x20 && c != 0x7F && !(json && (c == '"' || c == '\\'));
    if (c == 0xC2 && len > 1 && (unsigned char)text[1] < 0xA0) /* U+0080-009F */
        return 0;
    size_t want = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    return want <= len && eb_utf8_valid(text, want) ? want : 0;
}

/* Escape one byte: in JSON a control character is itself again when read, other bytes show as \xNN. */
static bool line_escape(struct line *line, unsigned char c, bool json)
{
    char text[8];

    if (json && (c == '"' || c == '\\'))
        snprintf(text, sizeof(text), "\\%c", c);
    else if (json && c < 0x80)
        snprintf(text, sizeof(text), "\\u%04x", c);
    else
        snprintf(text, sizeof(text), "%s%02X", json ? "\\\\x" : "\\x", c);
    return line_str(line, text);
}

static void line_text(struct line *line, const char *text, size_t len, bool cut, bool json)
{
    size_t i = 0;

    line->cap -= 3; /* for the "..." of a cut */
    while (i < len) {
        size_t n = showable(text + i, len - i, json);
        if (!(n ? line_add(line, text + i, n) : line_escape(line, (unsigned char)text[i], json)))
            break;
        i += n ? n : 1;
    }
    line->cap += 3;
    if (cut || i < len)
        line_str(line, "...");
}

static void line_time(struct line *line)
{
    struct timespec ts;
    struct tm tm;
    char text[64];

    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", tm.tm_year + 1900,
             tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ts.tv_nsec / 1000000);
    line_str(line, text);
}

static void line_write(const struct line *line)
{
    size_t done = 0;

    eb_lock_take(&sink_lock);
    while (done < line->len) {
        ssize_t n = write(sink_fd, line->data + done, line->len - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            break; /* G3 */
    }
    eb_lock_drop(&sink_lock);
}

static void make_text(struct line *line, enum eb_log_level level, const char *id, const char *msg,
                      size_t len, bool cut)
{
    char head[16];

    line->cap = sizeof(line->data) - 1;
    line_time(line);
    snprintf(head, sizeof(head), " %-5s ", level_names[level]);
    line_str(line, head);
    if (id) {
        line_str(line, "[");
        line_str(line, id);
        line_str(line, "] ");
    }
    line_text(line, msg, len, cut, false);
    line->cap = sizeof(line->data);
    line_str(line, "\n");
}

static void make_json(struct line *line, enum eb_log_level level, const char *id, const char *msg,
                      size_t len, bool cut)
{
    char thread[32] = "";

    line->cap = sizeof(line->data) - 3;
    line_str(line, "{\"ts\":\"");
    line_time(line);
    line_str(line, "\",\"level\":\"");
    line_str(line, level_names[level]);
    line_str(line, "\",\"id\":");
    if (id) {
        line_str(line, "\"");
        line_text(line, id, strlen(id), false, true);
        line_str(line, "\"");
    } else {
        line_str(line, "null");
    }
    pthread_getname_np(pthread_self(), thread, sizeof(thread));
    line_str(line, ",\"thread\":\"");
    line_text(line, thread, strlen(thread), false, true);
    line_str(line, "\",\"msg\":\"");
    line_text(line, msg, len, cut, true);
    line->cap = sizeof(line->data);
    line_str(line, "\"}\n");
}

void eb_log(enum eb_log_level level, const char *id, const char *fmt, ...)
{
    char msg[MESSAGE_MAX];
    struct line line;
    va_list ap;
    int saved = errno;

    if (level > eb_log_level())
        return;
    va_start(ap, fmt);
    int len = vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    if (len < 0)
        len = 0;
    bool cut = (size_t)len >= sizeof(msg);
    if (cut)
        len = sizeof(msg) - 1;
    line.len = 0;
    if (atomic_load_explicit(&sink_json, memory_order_relaxed))
        make_json(&line, level, id, msg, (size_t)len, cut);
    else
        make_text(&line, level, id, msg, (size_t)len, cut);
    line_write(&line);
    errno = saved;
}
