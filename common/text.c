/* text.c - UTF-8 and Base64. */
#include "common/text.h"

#include <string.h>

#define HIGH_BITS 0x8080808080808080u

static inline bool continues(unsigned char c)
{
    return (c & 0xC0) == 0x80;
}

/* Length of the well-formed sequence at @at (first byte >= 0x80), 0 if there is none (table 3-7). */
static inline size_t sequence(const unsigned char *at, size_t len)
{
    unsigned char lead = at[0];

    if (lead < 0xE0)
        return lead >= 0xC2 && len >= 2 && continues(at[1]) ? 2 : 0;
    if (lead < 0xF0) {
        if (len < 3 || !continues(at[1]) || !continues(at[2]))
            return 0;
        bool overlong = lead == 0xE0 && at[1] < 0xA0;
        bool surrogate = lead == 0xED && at[1] >= 0xA0;
        return overlong || surrogate ? 0 : 3;
    }
    if (lead > 0xF4 || len < 4 || !continues(at[1]) || !continues(at[2]) || !continues(at[3]))
        return 0;
    bool overlong = lead == 0xF0 && at[1] < 0x90;
    bool beyond = lead == 0xF4 && at[1] >= 0x90; /* U+10FFFF */
    return overlong || beyond ? 0 : 4;
}

bool eb_utf8_valid(const char *text, size_t len)
{
    const unsigned char *at = (const unsigned char *)text, *end = at + len;

    while (at < end) {
        /* Nearly everything is ASCII: 32 and then 8 bytes at a time while it lasts. */
        while (end - at >= 32) {
            uint64_t four[4];
            memcpy(four, at, 32);
            if ((four[0] | four[1] | four[2] | four[3]) & HIGH_BITS)
                break;
            at += 32;
        }
        while (end - at >= 8) {
            uint64_t eight;
            memcpy(&eight, at, 8);
            if (eight & HIGH_BITS)
                break;
            at += 8;
        }
        while (at < end && *at < 0x80)
            at++;
        while (at < end && *at >= 0x80) {
            size_t n = sequence(at, (size_t)(end - at));
            if (n == 0)
                return false;
            at += n;
        }
    }
    return true;
}

static const char alphabet[64] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Value + 1 of each letter, 0 for all else; the two alphabets differ in their last two letters. */
#define LETTERS(c62, c63)                                                                          \
    ['A'] = 1, ['B'] = 2, ['C'] = 3, ['D'] = 4, ['E'] = 5, ['F'] = 6, ['G'] = 7, ['H'] = 8,        \
    ['I'] = 9, ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16, \
    ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23,            \
    ['X'] = 24, ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30,            \
    ['e'] = 31, ['f'] = 32, ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37,            \
    ['l'] = 38, ['m'] = 39, ['n'] = 40, ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44,            \
    ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48, ['w'] = 49, ['x'] = 50, ['y'] = 51,            \
    ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56, ['4'] = 57, ['5'] = 58,            \
    ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, [c62] = 63, [c63] = 64

static const uint8_t standard[256] = {LETTERS('+', '/')};
static const uint8_t url[256] = {LETTERS('-', '_')};

size_t eb_base64_length(size_t len)
{
    return (len / 3 + (len % 3 != 0)) * 4;
}

size_t eb_base64_encode(char *out, const void *data, size_t len)
{
    const unsigned char *in = data;
    char *at = out;

    for (; len >= 3; in += 3, len -= 3, at += 4) {
        uint32_t bits = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 8 | in[2];
        at[0] = alphabet[bits >> 18];
        at[1] = alphabet[bits >> 12 & 63];
        at[2] = alphabet[bits >> 6 & 63];
        at[3] = alphabet[bits & 63];
    }
    if (len > 0) {
        uint32_t bits = (uint32_t)in[0] << 16 | (len > 1 ? (uint32_t)in[1] << 8 : 0);
        at[0] = alphabet[bits >> 18];
        at[1] = alphabet[bits >> 12 & 63];
        at[2] = len > 1 ? alphabet[bits >> 6 & 63] : '=';
        at[3] = '=';
        at += 4;
    }
    return (size_t)(at - out);
}

/* Decode unpadded @text; what is written never overtakes what is read, so @out may be @text. */
static ptrdiff_t decode(unsigned char *out, const char *text, size_t len, const uint8_t values[256])
{
    const unsigned char *in = (const unsigned char *)text;
    unsigned char *at = out;

    if (len % 4 == 1)
        return -1;
    for (; len >= 4; in += 4, len -= 4) {
        uint32_t a = values[in[0]], b = values[in[1]], c = values[in[2]], d = values[in[3]];
        if (!a || !b || !c || !d)
            return -1;
        uint32_t bits = (a - 1) << 18 | (b - 1) << 12 | (c - 1) << 6 | (d - 1);
        *at++ = (unsigned char)(bits >> 16);
        *at++ = (unsigned char)(bits >> 8);
        *at++ = (unsigned char)bits;
    }
    if (len >= 2) {
        uint32_t a = values[in[0]], b = values[in[1]], c = len > 2 ? values[in[2]] : 1;
        if (!a || !b || !c)
            return -1;
        uint32_t bits = (a - 1) << 18 | (b - 1) << 12 | (c - 1) << 6;
        if (bits & (len > 2 ? 0xFF : 0xFFFF)) /* bits left over */
            return -1;
        *at++ = (unsigned char)(bits >> 16);
        if (len > 2)
            *at++ = (unsigned char)(bits >> 8);
    }
    return at - out;
}

ptrdiff_t eb_base64_decode(void *out, const char *text, size_t len)
{
    if (len % 4 != 0)
        return -1;
    if (len > 0 && text[len - 1] == '=')
        len -= text[len - 2] == '=' ? 2 : 1;
    return decode(out, text, len, standard);
}

ptrdiff_t eb_base64url_decode(void *out, const char *text, size_t len)
{
    return decode(out, text, len, url);
}
