/* buf.c - the growing byte buffer. */
#include "common/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 256

void eb_buf_finish(struct eb_buf *buf)
{
    free(buf->data);
    *buf = (struct eb_buf)EB_BUF_INIT;
}

static bool grow(struct eb_buf *buf, size_t need)
{
    size_t cap = buf->cap ? buf->cap : FIRST_CAP;

    while (cap < need) {
        if (cap > SIZE_MAX / 2) {
            cap = need;
            break;
        }
        cap *= 2;
    }
    char *data = realloc(buf->data, cap);
    if (!data)
        return false;
    buf->data = data;
    buf->cap = cap;
    return true;
}

char *eb_buf_reserve(struct eb_buf *buf, size_t more)
{
    if (buf->failed)
        return NULL;
    /* A buffer that reserved nothing yet still gives a pointer that may be written 0 bytes to. */
    if (!buf->data || more > buf->cap - buf->len) {
        if (more > SIZE_MAX - buf->len || !grow(buf, buf->len + more)) {
            buf->failed = true;
            return NULL;
        }
    }
    return buf->data + buf->len;
}

void eb_buf_add(struct eb_buf *buf, const void *data, size_t len)
{
    if (len == 0)
        return;
    char *at = eb_buf_reserve(buf, len);
    if (!at)
        return;
    memcpy(at, data, len);
    buf->len += len;
}

void eb_buf_str(struct eb_buf *buf, const char *text)
{
    eb_buf_add(buf, text, strlen(text));
}

void eb_buf_printf(struct eb_buf *buf, const char *fmt, ...)
{
    va_list ap, again;
    int len;

    if (buf->failed)
        return;
    va_start(ap, fmt);
    va_copy(again, ap);
    size_t room = buf->cap - buf->len;
    len = vsnprintf(room ? buf->data + buf->len : NULL, room, fmt, ap);
    if (len < 0) {
        buf->failed = true;
    } else if ((size_t)len < room) {
        buf->len += (size_t)len;
    } else if (eb_buf_reserve(buf, (size_t)len + 1)) { /* vsnprintf writes a NUL too */
        vsnprintf(buf->data + buf->len, (size_t)len + 1, fmt, again);
        buf->len += (size_t)len;
    }
    va_end(again);
    va_end(ap);
}
