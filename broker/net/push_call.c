/*
 * push_call.c - header lines of a webhook's call (push_call.h).
 *
 * Nothing that a publisher chose may end a line or stand for a header that rules the connection: names are checked to be
 * tokens and not among those, values to have no control characters; what does not pass is left out.
 */
#include "broker/net/push_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/json.h"
#include "common/uuid.h"

/* ---- what may be a header ---- */

static bool is_token(const char *name, size_t len)
{
    static const char others[] = "!#$%&'*+-.^_`|~";

    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (c == '\0' || !strchr(others, c)))
            return false;
    }
    return len > 0;
}

static bool begins(const char *name, size_t len, const char *with)
{
    size_t n = strlen(with);
    return len >= n && strncasecmp(name, with, n) == 0;
}

/* Those that rule the connection, the body or the signature. */
static bool is_reserved(const char *name, size_t len)
{
    static const char *const reserved[] = {"connection",
                                           "content-length",
                                           "content-type",
                                           "expect",
                                           "host",
                                           "keep-alive",
                                           "te",
                                           "trailer",
                                           "upgrade",
                                           "user-agent",
                                           "transfer-encoding"};

    for (size_t i = 0; i < sizeof(reserved) / sizeof(*reserved); i++)
        if (len == strlen(reserved[i]) && strncasecmp(name, reserved[i], len) == 0)
            return true;
    return begins(name, len, "webhook-") || begins(name, len, "proxy-");
}

static bool has_control(const char *value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f)
            return true;
    return false;
}

const char *eb_push_content_type(const struct eb_event *event)
{
    const char *type = event->content_type;

    for (size_t i = 0; i < event->content_type_len; i++)
        if ((unsigned char)type[i] < 0x20 || (unsigned char)type[i] > 0x7e)
            return "application/octet-stream";
    return event->content_type_len > 0 ? type : EB_CONTENT_TYPE_DEFAULT;
}

/* ---- lines, each with a NUL behind ---- */

/* A CloudEvents attribute: what is no visible ASCII, quotes and percent signs are encoded (3.1.3.2). */
static void add_encoded(struct eb_buf *out, const char *value, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c > 0x20 && c < 0x7f && c != '"' && c != '%')
            eb_buf_add(out, &value[i], 1);
        else
            eb_buf_printf(out, "%%%02X", c);
    }
}

static void end_line(struct eb_push_lines *lines)
{
    eb_buf_add(&lines->text, "", 1);
    lines->count++;
}

static void add_attribute(struct eb_push_lines *lines, const char *name, const char *value,
                          size_t len)
{
    eb_buf_printf(&lines->text, "ce-%s: ", name);
    add_encoded(&lines->text, value, len);
    end_line(lines);
}

static void add_header(struct eb_push_lines *lines, const char *name, size_t name_len,
                       const char *value, size_t len)
{
    bool attribute = begins(name, name_len, "ce-");
    if (!is_token(name, name_len) || is_reserved(name, name_len) || has_control(value, len) ||
        (attribute && len == 0))
        return;
    eb_buf_add(&lines->text, name, name_len);
    /* "name;" is how libcurl is told of a header without a value */
    eb_buf_str(&lines->text, len > 0 ? ": " : ";");
    if (attribute)
        add_encoded(&lines->text, value, len);
    else
        eb_buf_add(&lines->text, value, len);
    end_line(lines);
}

/* The event's own headers. @ret_given: which of the attributes that we would make are among them. */
static bool add_headers(struct eb_push_lines *lines, const struct eb_event *event,
                        const char *const *attributes, bool *ret_given)
{
    struct eb_json json;
    struct eb_error err;

    if (event->headers_len == 0)
        return true;
    eb_json_init(&json);
    bool ok = eb_json_parse(&json, event->headers, event->headers_len, &err) == 0;
    for (uint32_t i = 1; ok && i < json.count; i = json.tokens[i + 1].next) {
        size_t name_len, len;
        const char *name = eb_json_string(&json, i, &name_len);
        const char *value = eb_json_string(&json, i + 1, &len);
        add_header(lines, name, name_len, value, len);
        for (size_t a = 0; attributes[a]; a++)
            if (name_len == strlen(attributes[a]) + 3 && begins(name, name_len, "ce-") &&
                strncasecmp(name + 3, attributes[a], name_len - 3) == 0 && len > 0 &&
                !has_control(value, len))
                ret_given[a] = true;
    }
    eb_json_finish(&json);
    return ok;
}

static void write_time(char out[40], int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    char text[24];

    gmtime_r(&seconds, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, 40, "%s.%03dZ", text, (int)(ms % 1000));
}

static bool point(struct eb_push_lines *lines)
{
    const char *at = lines->text.data;

    if (eb_buf_failed(&lines->text))
        return false;
    lines->lines = calloc(lines->count, sizeof(*lines->lines));
    if (!lines->lines)
        return false;
    for (size_t i = 0; i < lines->count; i++, at += strlen(at) + 1)
        lines->lines[i] = at;
    return true;
}

bool eb_push_lines_make(struct eb_push_lines *ret, const struct eb_event *event, const char *epoch)
{
    static const char *const names[] = {"specversion", "id", "source", "type", "time", NULL};
    char id[EB_UUID_TEXT + 1], source[80], time[40];
    bool given[5] = {false};

    *ret = (struct eb_push_lines){0};
    eb_uuid_format(id, event->id);
    snprintf(source, sizeof(source), "urn:eventbus:%s", epoch);
    write_time(time, event->timestamp);
    const char *const values[] = {"1.0", id, source, event->topic, time};
    if (!add_headers(ret, event, names, given))
        return false;
    for (size_t i = 0; names[i]; i++)
        if (!given[i])
            add_attribute(ret, names[i], values[i],
                          values[i] == event->topic ? event->topic_len : strlen(values[i]));
    return point(ret);
}

void eb_push_lines_finish(struct eb_push_lines *lines)
{
    eb_buf_finish(&lines->text);
    free(lines->lines);
    lines->lines = NULL;
}
