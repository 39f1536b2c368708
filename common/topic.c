/*
 * topic.c - what a topic and a pattern are, and whether one matches the other.
 *
 * A pattern with two or more '#' is read as   head # middle # tail   with head before the first
 * '#' and tail behind the last.
 *
 * (T1) Head and tail have no '#': each is compared with the topic's first and last words, once.
 *      With one '#' that is all: whatever lies between them belongs to the '#'.
 * (T2) The middle must be found anywhere in what is left. It is run as a nondeterministic automaton
 *      whose states are bits: state i = "i words of the middle are found"; a state in front
 *      of which stood a '#' also stays when a word passes. One step for all states at once is
 *      a shift of two 64-bit words, so no number of '#' costs more (no backtracking).
 * (T3) A step needs "which words of the middle equal this one": the middle's different words are
 *      sorted first, and looked up by halving.
 *
 * Together: every word of either is looked at a constant number of times, but for T3's logarithm
 * (at most 7). tests/unit/common/test_topic.c counts.
 */
#include "common/topic.h"

#include <string.h>
#include <unictype.h>
#include <unistr.h>

#include "common/text.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#ifndef EB_TOPIC_STEP /* the test counts comparisons here */
#define EB_TOPIC_STEP() ((void)0)
#endif

#define WORDS_MAX ((EB_TOPIC_MAX + 1) / 2)

struct word {
    const char *text;
    size_t len;
};

size_t eb_first_word(const char *text, size_t len)
{
    const char *dot = memchr(text, '.', len);

    return dot ? (size_t)(dot - text) : len;
}

/* ---- well-formed? ---- */

/* A failed check: what kind of text it was and which code it gets. */
struct blame {
    const char *what; /* "topic" or "pattern" */
    enum eb_code code;
    struct eb_error *err;
    struct word text;
};

static int blame(const struct blame *b, const char *why)
{
    char quoted[280];

    return eb_fail(b->err, b->code, "%s %s: \"%s\"", b->what, why,
                   eb_quote(quoted, sizeof(quoted), b->text.text, b->text.len));
}

static int blame_char(const struct blame *b, const char *kind, ucs4_t c)
{
    char quoted[280];

    return eb_fail(b->err, b->code, "%s has %s (U+%04X): \"%s\"", b->what, kind, (unsigned)c,
                   eb_quote(quoted, sizeof(quoted), b->text.text, b->text.len));
}

/* Length, encoding, and code points that no word may have. */
static int check_text(const struct blame *b)
{
    const unsigned char *at = (const unsigned char *)b->text.text;
    size_t len = b->text.len;

    if (len == 0)
        return eb_fail(b->err, b->code, "%s is empty: 1 to %d bytes are allowed", b->what,
                       EB_TOPIC_MAX);
    if (len > EB_TOPIC_MAX)
        return eb_fail(b->err, b->code, "%s has %zu bytes: at most %d are allowed", b->what, len,
                       EB_TOPIC_MAX);
    if (!eb_utf8_valid(b->text.text, len))
        return blame(b, "is not valid UTF-8");
    while (len > 0) {
        ucs4_t c = *at;
        int n = c < 0x80 ? 1 : u8_mbtouc_unsafe(&c, at, len);
        if (c < 0x20 || (c >= 0x7F && c < 0xA0))
            return blame_char(b, "a control character", c);
        if (c == ' ' || (c >= 0x80 && uc_is_property_white_space(c)))
            return blame_char(b, "white space", c);
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

static bool has_wildcard(struct word word)
{
    return memchr(word.text, '*', word.len) || memchr(word.text, '#', word.len);
}

/* Take the next word off @rest; false at the end. @rest->text is NULL when all are taken. */
static bool next_word(struct word *rest, struct word *ret)
{
    if (!rest->text)
        return false;
    size_t n = eb_first_word(rest->text, rest->len);
    *ret = (struct word){rest->text, n};
    if (n == rest->len)
        *rest = (struct word){NULL, 0};
    else
        *rest = (struct word){rest->text + n + 1, rest->len - n - 1};
    return true;
}

#ifdef __SSE2__
/* Sixteen bytes of a topic: which may not be in a plain one, and which are dots, as masks. */
static inline unsigned odd_bytes(__m128i v, unsigned *ret_dots)
{
    __m128i odd = _mm_cmplt_epi8(v, _mm_set1_epi8(' ' + 1)); /* signed: above 0x7F too */

    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7F)));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8('*')));
    odd = _mm_or_si128(odd, _mm_cmpeq_epi8(v, _mm_set1_epi8('#')));
    *ret_dots = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_set1_epi8('.')));
    return (unsigned)_mm_movemask_epi8(odd);
}
#endif

/* The usual topic, printable ASCII and sound, in one pass. What is not is judged at leisure. */
static bool plain_topic(const char *text, size_t len)
{
    bool dot = true; /* the byte before was one, or there is none */

    if (len > EB_TOPIC_MAX)
        return false;
#ifdef __SSE2__
    for (size_t i = 0, n; i < len; i += n) {
        char rest[16];
        const char *at = text + i;
        unsigned dots;
        n = len - i < 16 ? len - i : 16;
        if (n < 16) { /* filled with what is neither odd nor a dot */
            memset(rest, 'x', sizeof(rest));
            memcpy(rest, at, n);
            at = rest;
        }
        if (odd_bytes(_mm_loadu_si128((const __m128i *)at), &dots) || (dots & (dots << 1 | dot)))
            return false;
        dot = dots >> (n - 1) & 1;
    }
#else
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c <= ' ' || c >= 0x7F || c == '*' || c == '#' || (c == '.' && dot))
            return false;
        dot = c == '.';
    }
#endif
    return !dot;
}

int eb_topic_check(const char *text, size_t len, struct eb_error *err)
{
    struct blame b = {"topic", EB_INVALID_TOPIC, err, {text, len}};
    struct word rest = b.text, word;

    if (plain_topic(text, len))
        return 0;
    if (check_text(&b) < 0)
        return -1;
    while (next_word(&rest, &word)) {
        if (word.len == 0)
            return blame(&b, "has an empty word");
        if (has_wildcard(word))
            return blame(&b, "has a wildcard (\"*\" and \"#\" are for patterns only)");
    }
    return 0;
}

static bool is_word(struct word word, char c)
{
    return word.len == 1 && word.text[0] == c;
}

int eb_pattern_parse(struct eb_pattern *ret, const char *text, size_t len, struct eb_error *err)
{
    /* cppcheck-suppress ctuuninitvar ; it is filled when something is wrong, not read */
    struct blame b = {"pattern", EB_INVALID_PATTERN, err, {text, len}};
    struct word rest = b.text, word;
    struct eb_pattern pattern = {.literal = 0};

    if (check_text(&b) < 0)
        return -1;
    while (next_word(&rest, &word)) {
        if (word.len == 0)
            return blame(&b, "has an empty word");
        if (has_wildcard(word)) {
            if (word.len != 1)
                return blame(&b, "has a word that mixes a wildcard with other text (\"*\" and "
                                 "\"#\" stand only as whole words)");
            /* "a.#" matches "a" too: in front of '#' the dot is not part of every match. */
            if (!pattern.wild && is_word(word, '#') && pattern.literal > 0)
                pattern.literal--;
            pattern.wild = true;
        }
        if (!pattern.wild)
            pattern.literal = (uint8_t)(rest.text ? rest.text - text : (ptrdiff_t)len);
    }
    pattern.len = (uint8_t)len;
    pattern.reserved = text[0] == '$' || text[0] == '_';
    pattern.lead_hash = text[0] == '#' || text[0] == '*';
    memcpy(pattern.text, text, len);
    *ret = pattern;
    return 0;
}

/* ---- matching ---- */

/* 128 bits: a middle has at most 126 words, so at most 127 states. */
struct bits {
    uint64_t low, high;
};

static inline void bit_set(struct bits *bits, unsigned i)
{
    if (i < 64)
        bits->low |= (uint64_t)1 << i;
    else
        bits->high |= (uint64_t)1 << (i - 64);
}

static inline bool bit_test(const struct bits *bits, unsigned i)
{
    return (i < 64 ? bits->low >> i : bits->high >> (i - 64)) & 1;
}

/* The middle of a pattern as an automaton (T2). */
struct middle {
    unsigned count;               /* words but '#': the accepting state */
    unsigned distinct;            /* of them that are literal and different */
    struct bits stay;             /* states with a '#' in front of their next word */
    struct bits any;              /* words that are '*' */
    struct word words[WORDS_MAX]; /* the distinct ones, sorted */
    struct bits at[WORDS_MAX];    /* where each of them stands */
};

static int compare(struct word a, struct word b)
{
    EB_TOPIC_STEP();
    if (a.len != b.len)
        return a.len < b.len ? -1 : 1;
    return memcmp(a.text, b.text, a.len);
}

/* Index of @word among the distinct ones, or of where it belongs. */
static unsigned find(const struct middle *m, struct word word, bool *ret_found)
{
    unsigned low = 0, high = m->distinct;

    *ret_found = false;
    while (low < high) {
        unsigned half = (low + high) / 2;
        int order = compare(word, m->words[half]);
        if (order == 0) {
            *ret_found = true;
            return half;
        }
        if (order < 0)
            high = half;
        else
            low = half + 1;
    }
    return low;
}

static void middle_add(struct middle *m, struct word word)
{
    bool found;

    if (is_word(word, '#')) {
        bit_set(&m->stay, m->count);
        return;
    }
    if (is_word(word, '*')) {
        bit_set(&m->any, m->count++);
        return;
    }
    unsigned i = find(m, word, &found);
    if (!found) {
        memmove(m->words + i + 1, m->words + i, (m->distinct - i) * sizeof(m->words[0]));
        memmove(m->at + i + 1, m->at + i, (m->distinct - i) * sizeof(m->at[0]));
        m->words[i] = word;
        m->at[i] = (struct bits){0, 0};
        m->distinct++;
    }
    bit_set(&m->at[i], m->count++);
}

/* Do the words of @pattern, found in order, lie in @topic, given a '#' before and behind them? */
static bool middle_match(struct word pattern, struct word topic)
{
    struct middle m;
    struct word word;
    bool found;

    m.count = m.distinct = 0;
    m.stay = m.any = (struct bits){0, 0};
    bit_set(&m.stay, 0);
    while (next_word(&pattern, &word))
        middle_add(&m, word);
    struct bits states = {1, 0};
    while (!bit_test(&states, m.count) && next_word(&topic, &word)) {
        unsigned i = find(&m, word, &found);
        struct bits equal = found ? m.at[i] : (struct bits){0, 0};
        uint64_t low = states.low & (equal.low | m.any.low);
        uint64_t high = states.high & (equal.high | m.any.high);
        EB_TOPIC_STEP();
        states.low = low << 1 | (states.low & m.stay.low);
        states.high = high << 1 | low >> 63 | (states.high & m.stay.high);
    }
    return bit_test(&states, m.count);
}

static bool word_matches(struct word pattern, struct word topic)
{
    EB_TOPIC_STEP();
    return is_word(pattern, '*') ||
           (pattern.len == topic.len && memcmp(pattern.text, topic.text, topic.len) == 0);
}

/* Take the last word off @rest; false at the end. */
static bool last_word(struct word *rest, struct word *ret)
{
    if (!rest->text)
        return false;
    const char *dot = memrchr(rest->text, '.', rest->len);
    if (!dot) {
        *ret = *rest;
        *rest = (struct word){NULL, 0};
        return true;
    }
    *ret = (struct word){dot + 1, (size_t)(rest->text + rest->len - dot - 1)};
    rest->len = (size_t)(dot - rest->text);
    return true;
}

bool eb_pattern_match(const struct eb_pattern *pattern, const char *topic, size_t len)
{
    struct word p = {pattern->text, pattern->len}, t = {topic, len}, pw, tw;

    if ((topic[0] == '$' || topic[0] == '_') && !pattern->reserved)
        return false;
    if (!pattern->wild)
        return p.len == len && memcmp(p.text, topic, len) == 0;
    if (len < pattern->literal || memcmp(p.text, topic, pattern->literal) != 0)
        return false;
    for (;;) { /* head, T1 */
        if (!next_word(&p, &pw))
            return !t.text;
        if (is_word(pw, '#'))
            break;
        if (!next_word(&t, &tw) || !word_matches(pw, tw))
            return false;
    }
    for (;;) { /* tail, T1 */
        if (!last_word(&p, &pw))
            return true; /* there was one '#' only */
        if (is_word(pw, '#'))
            break;
        if (!last_word(&t, &tw) || !word_matches(pw, tw))
            return false;
    }
    return !p.text || middle_match(p, t);
}

bool eb_topic_is_reply(const char *topic, size_t len)
{
    static const char word[] = "_reply";
    const size_t word_len = sizeof word - 1;
    return len >= word_len && topic[0] == '_' && memcmp(topic, word, word_len) == 0 &&
           (len == word_len || topic[word_len] == '.');
}
