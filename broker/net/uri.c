/*
 * uri.c - a request's URI: percent-decoding, the split into path and query, and parameters with their checks.
 *
 * (U1) Split first, decode after: a `%2F` in a segment is a byte of it, never a separator.
 * (U2) `+` is itself, in the path and in a query: no topic or pattern holds a space.
 * (U3) What decodes to U+0000 is refused: no value of ours may hold it and texts here end with one.
 */
#include "broker/net/http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PATTERNS_MAX 64

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

ptrdiff_t eb_percent_decode(char *out, const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '%') {
            out[n++] = text[i];
            continue;
        }
        if (len - i < 3)
            return -1;
        int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
        if (high < 0 || low < 0 || (high == 0 && low == 0))
            return -1;
        out[n++] = (char)(high << 4 | low);
        i += 2;
    }
    return (ptrdiff_t)n;
}

/* "http://host:1/path" to "/path"; RFC 9112 3.2.2 wants the absolute form understood. */
static char *skip_authority(char *raw)
{
    if (strncasecmp(raw, "http://", 7) != 0 && strncasecmp(raw, "https://", 8) != 0)
        return raw;
    char *authority = strstr(raw, "//") + 2;
    char *end = authority + strcspn(authority, "/?#");
    if (*end == '/')
        return end;
    end[-1] = '/'; /* no path: "/" and what follows; the authority is not needed any more */
    return end - 1;
}

void eb_uri_finish(struct eb_uri *uri)
{
    free(uri->params);
    *uri = (struct eb_uri){0};
}

static int add_param(struct eb_uri *uri, char *text, struct eb_error *err)
{
    if (uri->param_count == EB_URI_PARAMS)
        return eb_fail(err, EB_INVALID_REQUEST, "the query has more than %d parameters",
                       EB_URI_PARAMS);
    char *equals = strchr(text, '=');
    char *value = equals ? equals + 1 : text + strlen(text);
    size_t name_len = equals ? (size_t)(equals - text) : strlen(text);
    ptrdiff_t decoded = eb_percent_decode(text, text, name_len);
    ptrdiff_t value_len = eb_percent_decode(value, value, strlen(value));
    char quoted[80];
    if (decoded < 0 || value_len < 0)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "the query has a bad percent-escape in or after \"%s\": %%XX with two hex "
                       "digits, not %%00",
                       eb_quote(quoted, sizeof(quoted), text, decoded < 0 ? 0 : (size_t)decoded));
    text[decoded] = 0;
    value[value_len] = 0;
    uri->params[uri->param_count++] =
        (struct eb_param){text, value, (size_t)decoded, (size_t)value_len};
    return 0;
}

int eb_uri_split(struct eb_uri *uri, char *raw, struct eb_error *err)
{
    uri->param_count = 0;
    raw[strcspn(raw, "#")] = 0; /* a fragment never belongs here: what is behind it is not ours */
    uri->path = skip_authority(raw);
    char *query = strchr(uri->path, '?');
    if (!query)
        return 0;
    *query++ = 0;
    if (!uri->params)
        uri->params = calloc(EB_URI_PARAMS, sizeof(*uri->params));
    if (!uri->params)
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    for (char *next; query; query = next) {
        next = strchr(query, '&');
        if (next)
            *next++ = 0;
        if (*query && add_param(uri, query, err) < 0)
            return -1;
    }
    return 0;
}

const struct eb_param *eb_uri_param(const struct eb_uri *uri, const char *name)
{
    for (unsigned i = uri->param_count; i > 0; i--)
        if (strcmp(uri->params[i - 1].name, name) == 0)
            return &uri->params[i - 1];
    return NULL;
}

bool eb_parse_u64(const char *text, size_t len, uint64_t max, uint64_t *ret)
{
    uint64_t value = 0;
    if (len == 0 || len > 19)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    if (value > max)
        return false;
    *ret = value;
    return true;
}

int eb_uri_number(const struct eb_uri *uri, const char *name, uint64_t min, uint64_t max,
                  uint64_t *ret, bool *ret_given, struct eb_error *err)
{
    const struct eb_param *param = eb_uri_param(uri, name);
    if (ret_given)
        *ret_given = param != NULL;
    if (!param)
        return 0;
    uint64_t value;
    char quoted[80];
    if (!eb_parse_u64(param->value, param->value_len, max, &value) || value < min)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "%s is \"%s\": it must be an integer from %llu to %llu", name,
                       eb_quote(quoted, sizeof(quoted), param->value, param->value_len),
                       (unsigned long long)min, (unsigned long long)max);
    *ret = value;
    return 0;
}

static int parse_patterns(const struct eb_uri *uri, struct eb_pattern *patterns, size_t *ret_count,
                          struct eb_error *err)
{
    size_t count = 0;
    for (unsigned i = 0; i < uri->param_count; i++) {
        const struct eb_param *param = &uri->params[i];
        if (strcmp(param->name, "pattern") != 0)
            continue;
        if (param->value_len == 0)
            return eb_fail(
                err, EB_INVALID_PATTERN,
                "pattern is empty: in a URL '#' begins the fragment and must be written %%23");
        if (count == PATTERNS_MAX)
            return eb_fail(err, EB_LIMIT_EXCEEDED, "more than %d patterns", PATTERNS_MAX);
        if (eb_pattern_parse(&patterns[count], param->value, param->value_len, err) < 0)
            return -1;
        count++;
    }
    if (count == 0)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "the parameter pattern is missing: give pattern=user.* for example, or "
                       "pattern=%%23 for all "
                       "topics ('#' must be written %%23 in a URL)");
    *ret_count = count;
    return 0;
}

int eb_uri_patterns(const struct eb_uri *uri, struct eb_pattern **ret, size_t *ret_count,
                    struct eb_error *err)
{
    unsigned most = uri->param_count < PATTERNS_MAX ? uri->param_count + 1 : PATTERNS_MAX;
    struct eb_pattern *patterns = malloc(most * sizeof(*patterns));
    if (!patterns)
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    if (parse_patterns(uri, patterns, ret_count, err) < 0) {
        free(patterns);
        return -1;
    }
    *ret = patterns;
    return 0;
}
