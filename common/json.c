/*
 * json.c - the strict reader of json.h and its lookups.
 *
 * (J1) One pass, left to right: grammar, UTF-8, surrogates and depth are checked as the bytes go by. No
 *      byte is looked at a second time, whatever the text: the time is linear in its length.
 * (J2) No recursion: open containers are on a stack of EB_JSON_DEPTH token indices in the reader.
 * (J3) A token is never moved against its index, so `next` and the stack may hold indices while the array
 *      grows. The array is kept from parse to parse: the usual parse allocates nothing.
 * (J4) A string is never longer unescaped than escaped. So the scratch buffer is the text's mirror: a string
 *      at text + n is unescaped to scratch + n. Any string may be asked for any number of times, in any order;
 *      nothing moves, and nothing can fail after the parse made the room (only if a backslash was seen).
 */
#include "common/json.h"

#include <stdlib.h>
#include <string.h>

#include "common/json_scan.h"

/* Above these an array is given back when the next text is much smaller. */
#define KEEP_TOKENS  4096u
#define KEEP_SCRATCH (64u * 1024)

void eb_json_init(struct eb_json *json)
{
    memset(json, 0, sizeof(*json));
}

void eb_json_finish(struct eb_json *json)
{
    free(json->tokens);
    eb_buf_finish(&json->scratch);
    memset(json, 0, sizeof(*json));
}

/* ---- scanning ---- */

/* Length of the well-formed UTF-8 sequence at p (its first byte is above 0x7f), 0 if it is not one. */
static inline size_t utf8_sequence(const char *text, const char *end)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t room = (size_t)(end - text);
    unsigned c = p[0];

    if (c < 0xc2 || room < 2 || (p[1] & 0xc0) != 0x80)
        return 0;
    if (c < 0xe0)
        return 2;
    if (room < 3 || (p[2] & 0xc0) != 0x80)
        return 0;
    if (c < 0xf0) {
        if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f)) /* overlong; surrogate */
            return 0;
        return 3;
    }
    if (c > 0xf4 || room < 4 || (p[3] & 0xc0) != 0x80)
        return 0;
    if ((c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f)) /* overlong; above U+10FFFF */
        return 0;
    return 4;
}

/* The four hex digits at p, or a negative number. */
static inline int hex4(const char *p, const char *end)
{
    /* 1 more than the digit's value, 0: not a digit. */
    static const int8_t digits[256] = {
        ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,
        ['6'] = 7,  ['7'] = 8,  ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12,
        ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16, ['A'] = 11, ['B'] = 12,
        ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16};
    const unsigned char *d = (const unsigned char *)p;

    if (end - p < 4)
        return -1;
    int a = digits[d[0]] - 1, b = digits[d[1]] - 1, c = digits[d[2]] - 1, e = digits[d[3]] - 1;
    return (a | b | c | e) < 0 ? -1 : a * 4096 + b * 256 + c * 16 + e;
}

/* What the letter behind a backslash stands for; 0: not an escape of one letter. */
static const char simple_escapes[256] = {
    ['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
    ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t',
};

/* ---- the reader ---- */

struct reader {
    struct eb_json *json;
    const char *begin, *p, *end;
    struct eb_error *err;
    uint32_t stack[EB_JSON_DEPTH]; /* the open containers, outermost first */
    unsigned depth;
    bool escaped; /* any string had a backslash */
};

static bool refuse(struct reader *r, const char *at, const char *what)
{
    eb_fail(r->err, EB_INVALID_JSON, "invalid JSON at byte %zu: %s", (size_t)(at - r->begin), what);
    return false;
}

/* "expected @what, found …" at the reader's place. */
static bool expected(struct reader *r, const char *what)
{
    size_t at = (size_t)(r->p - r->begin);

    if (r->p >= r->end) {
        eb_fail(r->err, EB_INVALID_JSON, "invalid JSON at byte %zu: expected %s, found the end", at,
                what);
    } else if (*r->p > 0x20 && *r->p < 0x7f) {
        eb_fail(r->err, EB_INVALID_JSON, "invalid JSON at byte %zu: expected %s, found '%c'", at,
                what, *r->p);
    } else {
        eb_fail(r->err, EB_INVALID_JSON, "invalid JSON at byte %zu: expected %s, found byte 0x%02x",
                at, what, (unsigned char)*r->p);
    }
    return false;
}

static bool grow_tokens(struct reader *r)
{
    struct eb_json *json = r->json;
    uint32_t cap = json->cap ? json->cap * 2 : 64;
    struct eb_json_token *tokens = NULL;

    if (cap > json->cap)
        tokens = realloc(json->tokens, (size_t)cap * sizeof(*tokens));
    if (!tokens) {
        eb_fail(r->err, EB_UNAVAILABLE, "out of memory");
        return false;
    }
    json->tokens = tokens;
    json->cap = cap;
    return true;
}

/* A token for the value at r->p; NULL when out of memory. Its `next` is right for a scalar. */
static inline struct eb_json_token *add_token(struct reader *r, enum eb_json_type type)
{
    struct eb_json *json = r->json;

    if (json->count == json->cap && !grow_tokens(r))
        return NULL;
    struct eb_json_token *token = &json->tokens[json->count++];
    token->start = (uint32_t)(r->p - r->begin);
    token->len = 0;
    token->next = json->count;
    token->type = (uint8_t)type;
    token->escaped = false;
    return token;
}

static inline void skip_space(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\r' || *r->p == '\t'))
        r->p++;
}

/* At a backslash: check the escape and pass it. A surrogate passes as a pair or not at all. */
static inline bool read_escape(struct reader *r)
{
    const char *at = r->p;

    if (r->end - at < 2)
        return refuse(r, at, "the text ends inside a string");
    if (simple_escapes[(unsigned char)at[1]]) {
        r->p += 2;
        return true;
    }
    if (at[1] != 'u')
        return refuse(r, at,
                      "expected an escape, one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX");
    int unit = hex4(at + 2, r->end);
    if (unit < 0)
        return refuse(r, at, "expected four hex digits after \\u");
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return refuse(r, at, "unpaired low surrogate; expected a high one before it");
    if (unit < 0xd800 || unit > 0xdbff) {
        r->p += 6;
        return true;
    }
    int low = r->end - at >= 12 && at[6] == '\\' && at[7] == 'u' ? hex4(at + 8, r->end) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return refuse(r, at, "unpaired high surrogate; expected \\uDC00 to \\uDFFF after it");
    r->p += 12;
    return true;
}

/* At a quote: a string token, and the reader behind its closing quote. */
static inline bool read_string(struct reader *r)
{
    r->p++;
    struct eb_json_token *token = add_token(r, EB_JSON_STRING);
    if (!token)
        return false;
    for (;;) {
        r->p = eb_json_plain(r->p, r->end, true);
        if (r->p == r->end)
            return refuse(r, r->begin + token->start - 1, "a string without its closing quote");
        unsigned char c = (unsigned char)*r->p;
        if (c == '"')
            break;
        if (c == '\\') {
            token->escaped = r->escaped = true;
            if (!read_escape(r))
                return false;
        } else if (c < 0x20) {
            return expected(r, "control characters in a string as \\uXXXX");
        } else {
            do { /* text that is not ASCII comes in runs */
                size_t n = utf8_sequence(r->p, r->end);
                if (n == 0)
                    return refuse(r, r->p, "not valid UTF-8");
                r->p += n;
            } while (r->p < r->end && (unsigned char)*r->p > 0x7f);
        }
    }
    token->len = (uint32_t)(r->p - r->begin) - token->start;
    r->p++;
    return true;
}

static inline bool is_digit(const struct reader *r)
{
    return r->p < r->end && *r->p >= '0' && *r->p <= '9';
}

static bool read_number(struct reader *r)
{
    struct eb_json_token *token = add_token(r, EB_JSON_NUMBER);

    if (!token)
        return false;
    if (*r->p == '-')
        r->p++;
    if (!is_digit(r))
        return expected(r, "a digit");
    if (*r->p++ == '0' && is_digit(r))
        return expected(r, "a number without leading zeros");
    while (is_digit(r))
        r->p++;
    if (r->p < r->end && *r->p == '.') {
        r->p++;
        if (!is_digit(r))
            return expected(r, "a digit after the decimal point");
        while (is_digit(r))
            r->p++;
    }
    if (r->p < r->end && (*r->p == 'e' || *r->p == 'E')) {
        r->p++;
        if (r->p < r->end && (*r->p == '+' || *r->p == '-'))
            r->p++;
        if (!is_digit(r))
            return expected(r, "a digit in the exponent");
        while (is_digit(r))
            r->p++;
    }
    token->len = (uint32_t)(r->p - r->begin) - token->start;
    return true;
}

static bool read_literal(struct reader *r, const char *word, size_t len, enum eb_json_type type)
{
    if ((size_t)(r->end - r->p) < len || memcmp(r->p, word, len) != 0)
        return expected(r, "a value");
    struct eb_json_token *token = add_token(r, type);
    if (!token)
        return false;
    token->len = (uint32_t)len;
    r->p += len;
    return true;
}

/* The member name and the colon; the reader stands where the value begins. */
static inline bool read_name(struct reader *r)
{
    skip_space(r);
    if (r->p == r->end || *r->p != '"')
        return expected(r, "a member name in quotes");
    if (!read_string(r))
        return false;
    skip_space(r);
    if (r->p == r->end || *r->p != ':')
        return expected(r, "':' after a member name");
    r->p++;
    return true;
}

static inline void close_container(struct reader *r)
{
    struct eb_json_token *token = &r->json->tokens[r->stack[--r->depth]];

    r->p++;
    token->len = (uint32_t)(r->p - r->begin) - token->start;
    token->next = r->json->count;
}

/*
 * At '{' or '['. @ret_open says that a value must follow (the container stays open); an empty one is
 * closed at once.
 */
static inline bool open_container(struct reader *r, bool *ret_open)
{
    bool object = *r->p == '{';

    if (r->depth == EB_JSON_DEPTH)
        return refuse(r, r->p, "nested too deep; at most 32 levels");
    if (!add_token(r, object ? EB_JSON_OBJECT : EB_JSON_ARRAY))
        return false;
    r->stack[r->depth++] = r->json->count - 1;
    r->p++;
    skip_space(r);
    *ret_open = r->p == r->end || *r->p != (object ? '}' : ']');
    if (!*ret_open) {
        close_container(r);
        return true;
    }
    return !object || read_name(r);
}

/* Behind a value: commas and closing brackets, until the next value is due or (@ret_done) all is closed. */
static inline bool after_value(struct reader *r, bool *ret_done)
{
    *ret_done = false;
    while (r->depth > 0) {
        bool object = r->json->tokens[r->stack[r->depth - 1]].type == EB_JSON_OBJECT;
        skip_space(r);
        if (r->p == r->end)
            return expected(r, object ? "',' or '}'" : "',' or ']'");
        if (*r->p == ',') {
            r->p++;
            return !object || read_name(r);
        }
        if (*r->p != (object ? '}' : ']'))
            return expected(r, object ? "',' or '}'" : "',' or ']'");
        close_container(r);
    }
    *ret_done = true;
    return true;
}

/* One value; of a container that is not empty only its opening (@ret_open). */
static inline bool read_value(struct reader *r, bool *ret_open)
{
    *ret_open = false;
    skip_space(r);
    if (r->p == r->end)
        return expected(r, "a value");
    switch (*r->p) {
    case '"':
        return read_string(r);
    case '{':
    case '[':
        return open_container(r, ret_open);
    case 't':
        return read_literal(r, "true", 4, EB_JSON_TRUE);
    case 'f':
        return read_literal(r, "false", 5, EB_JSON_FALSE);
    case 'n':
        return read_literal(r, "null", 4, EB_JSON_NULL);
    default:
        return *r->p == '-' || is_digit(r) ? read_number(r) : expected(r, "a value");
    }
}

static bool read_text(struct reader *r)
{
    bool open, done = false;

    while (!done) {
        if (!read_value(r, &open))
            return false;
        if (!open && !after_value(r, &done))
            return false;
    }
    skip_space(r);
    return r->p == r->end || expected(r, "the end of the text");
}

int eb_json_parse(struct eb_json *json, const char *text, size_t len, struct eb_error *err)
{
    struct reader r = {.json = json, .begin = text, .p = text, .end = text + len, .err = err};

    json->text = text;
    json->len = len;
    json->count = 0;
    if (json->cap > KEEP_TOKENS && json->cap > len) {
        free(json->tokens);
        json->tokens = NULL;
        json->cap = 0;
    }
    json->scratch.len = 0;
    if (json->scratch.failed || (json->scratch.cap > KEEP_SCRATCH && json->scratch.cap / 4 > len))
        eb_buf_finish(&json->scratch);
    if (len >= UINT32_MAX)
        return eb_fail(err, EB_INVALID_JSON, "invalid JSON: a text of 4 GiB or more is not read");
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        refuse(&r, text, "expected a value, found a byte order mark");
        goto fail;
    }
    if (!read_text(&r))
        goto fail;
    if (r.escaped && !eb_buf_reserve(&json->scratch, len)) { /* J4 */
        eb_fail(err, EB_UNAVAILABLE, "out of memory");
        goto fail;
    }
    return 0;

fail:
    json->count = 0;
    return -1;
}

/* ---- lookups ---- */

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* Unescape the (validated) escape at *p into @out, at most 4 bytes; *p goes behind it. */
static inline size_t unescape(const char **p, const char *end, char out[4])
{
    const char *at = *p;
    uint32_t c;

    *p += 2;
    if (at[1] != 'u') {
        out[0] = simple_escapes[(unsigned char)at[1]];
        return 1;
    }
    c = (uint32_t)hex4(at + 2, end);
    *p += 4;
    if (c >= 0xd800 && c <= 0xdbff) {
        c = 0x10000 + ((c - 0xd800) << 10) + ((uint32_t)hex4(at + 8, end) - 0xdc00);
        *p += 6;
    }
    return put_utf8(out, c);
}

/* Compare an escaped string with @name, no further than to the first difference. */
static bool escaped_equals(const char *p, size_t escaped_len, const char *name, size_t len)
{
    const char *end = p + escaped_len;
    size_t i = 0;

    while (p < end) {
        char c[4];
        size_t n = 1;
        if (*p == '\\')
            n = unescape(&p, end, c);
        else
            c[0] = *p++;
        if (len - i < n || memcmp(name + i, c, n) != 0)
            return false;
        i += n;
    }
    return i == len;
}

bool eb_json_equals(const struct eb_json *json, uint32_t tok, const char *text, size_t len)
{
    const struct eb_json_token *token = &json->tokens[tok];

    if (token->escaped)
        return escaped_equals(json->text + token->start, token->len, text, len);
    return token->len == len && memcmp(json->text + token->start, text, len) == 0;
}

uint32_t eb_json_member_or_null(const struct eb_json *json, uint32_t obj, const char *name)
{
    size_t len = strlen(name);
    uint32_t end, found = 0;

    if (obj >= json->count || json->tokens[obj].type != EB_JSON_OBJECT)
        return 0;
    end = json->tokens[obj].next;
    for (uint32_t i = obj + 1; i < end; i = json->tokens[i + 1].next)
        if (eb_json_equals(json, i, name, len))
            found = i + 1;
    return found;
}

uint32_t eb_json_member(const struct eb_json *json, uint32_t obj, const char *name)
{
    uint32_t found = eb_json_member_or_null(json, obj, name);

    return found && json->tokens[found].type == EB_JSON_NULL ? 0 : found;
}

const char *eb_json_last_name(struct eb_json *json, uint32_t obj, size_t *ret_len)
{
    uint32_t end, last = 0;

    if (obj >= json->count || json->tokens[obj].type != EB_JSON_OBJECT)
        return NULL;
    end = json->tokens[obj].next;
    for (uint32_t i = obj + 1; i < end; i = json->tokens[i + 1].next)
        last = i;
    return last ? eb_json_string(json, last, ret_len) : NULL;
}

/*
 * Copy up to the next backslash and return where it is. Never writes beyond the place that mirrors @end:
 * behind it may lie another string, given out before (J4).
 */
static inline const char *copy_plain(char **out, const char *p, const char *end)
{
#ifdef __SSE2__
    while (end - p >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
        unsigned n = mask ? (unsigned)__builtin_ctz(mask) : 16;
        _mm_storeu_si128((__m128i *)*out, v);
        *out += n;
        p += n;
        if (mask)
            return p;
    }
#endif
    while (p < end && *p != '\\')
        *(*out)++ = *p++;
    return p;
}

const char *eb_json_string(struct eb_json *json, uint32_t tok, size_t *ret_len)
{
    const struct eb_json_token *token = &json->tokens[tok];
    const char *p = json->text + token->start, *end = p + token->len;

    if (!token->escaped) {
        *ret_len = token->len;
        return p;
    }
    char *begin = json->scratch.data + token->start, *out = begin; /* J4 */
    while (p < end) {
        p = copy_plain(&out, p, end);
        if (p < end) {
            char c[4];
            size_t n = unescape(&p, end, c);
            memcpy(out, c, n);
            out += n;
        }
    }
    *ret_len = (size_t)(out - begin);
    return begin;
}

bool eb_json_int64(const struct eb_json *json, uint32_t tok, int64_t *ret)
{
    const struct eb_json_token *token = &json->tokens[tok];
    const char *p = json->text + token->start, *end = p + token->len;
    bool negative = false;
    uint64_t value = 0;

    if (token->type != EB_JSON_NUMBER)
        return false;
    if (*p == '-') {
        negative = true;
        p++;
    }
    if (end - p > 19) /* the longest int64; 19 digits do not overflow uint64 */
        return false;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9')
            return false;
        value = value * 10 + (uint64_t)(*p - '0');
    }
    if (value > (uint64_t)INT64_MAX + negative)
        return false;
    *ret = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}
