/*
 * json_scan.h - passing over the plain part of a string, sixteen bytes at a time: json.c reads with it,
 * json_write.c writes with it. Private to them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

/* The bytes of @v that end a plain run, as a mask; see eb_json_plain. */
static inline unsigned eb_json_odd(__m128i v, bool ascii)
{
    /* Signed, bytes above 0x7f are negative: one comparison finds both ends. */
    __m128i odd = ascii ? _mm_cmplt_epi8(v, _mm_set1_epi8(0x20))
                        : _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);

    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8('"')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
    return (unsigned)_mm_movemask_epi8(odd);
}
#endif

/*
 * The first byte in [p, end) that a string cannot simply pass over: a quote, a backslash, a control
 * character below 0x20 or, if @ascii, a byte above 0x7f.
 */
static inline const char *eb_json_plain(const char *p, const char *end, bool ascii)
{
#ifdef __SSE2__
    while (end - p >= 16) {
        unsigned mask = eb_json_odd(_mm_loadu_si128((const __m128i *)p), ascii);
        if (mask)
            return p + __builtin_ctz(mask);
        p += 16;
    }
#else
    /* Eight at a time; a false alarm (a borrow above a real hit) only costs the byte loop below. */
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    while (end - p >= 8) {
        uint64_t v, quote, backslash;
        memcpy(&v, p, 8);
        quote = v ^ ones * '"';
        backslash = v ^ ones * '\\';
        uint64_t odd = ((v - ones * 0x20) & ~v) | ((quote - ones) & ~quote) |
                       ((backslash - ones) & ~backslash);
        if ((odd | (ascii ? v : 0)) & high)
            break;
        p += 8;
    }
#endif
    for (; p < end; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c == '"' || c == '\\' || (ascii && c > 0x7f))
            break;
    }
    return p;
}
