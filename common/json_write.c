/*
 * json_write.c - JSON's primitives onto a buffer: strings at the speed of memcpy, integers.
 */
#include <string.h>

#include "common/json.h"
#include "common/json_scan.h"

/* Write the escape of @c (a quote, a backslash or below 0x20) and return the place behind it. */
static char *put_escape(char *out, unsigned char c)
{
    static const char letters[32] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    static const char hex[16] = "0123456789abcdef";

    *out++ = '\\';
    if (c >= 0x20) {
        *out++ = (char)c;
    } else if (letters[c]) {
        *out++ = letters[c];
    } else {
        memcpy(out, "u00", 3);
        out[3] = hex[c >> 4];
        out[4] = hex[c & 15];
        out += 5;
    }
    return out;
}

/* Escape [p, end) to @out, which has room for 6 bytes each and 16 more. Returns the place behind. */
static char *put_escaped(char *out, const char *p, const char *end)
{
    while (p < end) {
#ifdef __SSE2__
        unsigned mask = 0;
        while (end - p >= 16 && mask == 0) {
            __m128i v = _mm_loadu_si128((const __m128i *)p);
            _mm_storeu_si128((__m128i *)out, v); /* what follows an odd byte is written over */
            mask = eb_json_odd(v, false);
            unsigned n = mask ? (unsigned)__builtin_ctz(mask) : 16;
            p += n;
            out += n;
        }
        if (mask) {
            out = put_escape(out, (unsigned char)*p++);
            continue;
        }
        if (p < end) { /* the rest, and short texts: at once, too */
            char rest[16] = {0};
            unsigned n = (unsigned)(end - p);
            memcpy(rest, p, n);
            __m128i v = _mm_loadu_si128((const __m128i *)rest);
            _mm_storeu_si128((__m128i *)out, v);
            if ((eb_json_odd(v, false) & ((1u << n) - 1)) == 0)
                return out + n;
        }
#endif
        const char *odd = eb_json_plain(p, end, false);
        memcpy(out, p, (size_t)(odd - p));
        out += odd - p;
        p = odd;
        if (p < end)
            out = put_escape(out, (unsigned char)*p++);
    }
    return out;
}

void eb_json_write_string(struct eb_buf *out, const char *text, size_t len)
{
    /* In blocks, so that room for the worst case (six bytes for one) stays small. */
    const size_t block = 1024;
    const char *end = text + len;
    bool first = true;

    do {
        size_t n = (size_t)(end - text) < block ? (size_t)(end - text) : block;
        char *begin = eb_buf_reserve(out, 6 * n + 18), *p = begin; /* and both quotes */
        if (!p)
            return;
        if (first)
            *p++ = '"';
        p = put_escaped(p, text, text + n);
        text += n;
        if (text == end)
            *p++ = '"';
        out->len += (size_t)(p - begin);
        first = false;
    } while (text < end);
}

char *eb_json_put_u64(char *at, uint64_t value)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324"
                                "25262728293031323334353637383940414243444546474849"
                                "50515253545556575859606162636465666768697071727374"
                                "75767778798081828384858687888990919293949596979899";
    char digits[20], *p = digits + sizeof(digits);

    for (; value >= 10; value /= 100)
        memcpy(p -= 2, pairs + value % 100 * 2, 2);
    if (value || p == digits + sizeof(digits))
        *--p = (char)('0' + value);
    size_t len = (size_t)(digits + sizeof(digits) - p);
    memcpy(at, p, len);
    return at + len;
}

void eb_json_write_u64(struct eb_buf *out, uint64_t value)
{
    char digits[20];

    eb_buf_add(out, digits, (size_t)(eb_json_put_u64(digits, value) - digits));
}

void eb_json_write_i64(struct eb_buf *out, int64_t value)
{
    if (value < 0)
        eb_buf_add(out, "-", 1);
    eb_json_write_u64(out, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}
