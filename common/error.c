/* error.c - the table of error codes, and sentences that quote bad input safely. */
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/text.h"

#define QUOTE_MAX 64

static const struct {
    const char *name;
    const char *title;
    int http;
} codes[EB_CODE_COUNT] = {
#define X(sym, name, http, title) [sym] = {name, title, http},
    EB_CODES(X)
#undef X
};

static enum eb_code known(enum eb_code code)
{
    return (unsigned)code < EB_CODE_COUNT ? code : EB_INTERNAL;
}

const char *eb_code_name(enum eb_code code)
{
    return codes[known(code)].name;
}

const char *eb_code_title(enum eb_code code)
{
    return codes[known(code)].title;
}

int eb_code_http(enum eb_code code)
{
    return codes[known(code)].http;
}

enum eb_code eb_code_from_name(const char *name, size_t len)
{
    for (int code = 0; code < EB_CODE_COUNT; code++) {
        if (strlen(codes[code].name) == len && memcmp(codes[code].name, name, len) == 0)
            return (enum eb_code)code;
    }
    return EB_INTERNAL;
}

/* Length of @text without a code point that a cut at @len left unfinished. */
static size_t whole_points(const char *text, size_t len)
{
    size_t back = 0;

    while (back < 3 && back < len && ((unsigned char)text[len - 1 - back] & 0xC0) == 0x80)
        back++;
    if (back == len)
        return len;
    unsigned char lead = (unsigned char)text[len - 1 - back];
    size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    return want > back + 1 ? len - 1 - back : len;
}

int eb_fail(struct eb_error *err, enum eb_code code, const char *fmt, ...)
{
    char text[sizeof(err->message)]; /* an argument may be err->message itself */
    va_list ap;

    if (!err)
        return -1;
    va_start(ap, fmt);
    int len = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (len < 0)
        text[0] = '\0';
    else if ((size_t)len >= sizeof(text))
        text[whole_points(text, sizeof(text) - 1)] = '\0';
    err->code = code;
    err->index = -1;
    err->has_last_seq = false;
    memcpy(err->message, text, strlen(text) + 1);
    return -1;
}

/* Bytes of the printable code point at @text, 0 if its first byte must be escaped. */
static size_t printable(const char *text, size_t len)
{
    unsigned char c = (unsigned char)text[0];

    if (c < 0x80)
        return c >= 0x20 && c != 0x7F;
    if (c == 0xC2 && len > 1 && (unsigned char)text[1] < 0xA0) /* U+0080-009F */
        return 0;
    size_t want = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    return want <= len && eb_utf8_valid(text, want) ? want : 0;
}

const char *eb_quote(char *buf, size_t size, const char *text, size_t len)
{
    size_t in = 0, out = 0, cut_at = 0; /* cut_at: the last place with room for "..." behind */

    if (size == 0)
        return "";
    while (in < len) {
        size_t n = printable(text + in, len - in);
        size_t need = n ? n : 4;
        if (in + (n ? n : 1) > QUOTE_MAX || out + need + 1 > size)
            break;
        if (n)
            memcpy(buf + out, text + in, n);
        else
            snprintf(buf + out, size - out, "\\x%02X", (unsigned char)text[in]);
        in += n ? n : 1;
        out += need;
        if (out + 4 <= size)
            cut_at = out;
    }
    if (in < len) {
        out = cut_at;
        for (int i = 0; i < 3 && out + 1 < size; i++)
            buf[out++] = '.';
    }
    buf[out] = '\0';
    return buf;
}
