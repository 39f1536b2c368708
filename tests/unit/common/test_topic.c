/*
 * test_topic.c - topics, patterns and matching.
 *
 * topic.c is compiled into this file so that the comparisons of its matcher can be counted.
 */
static unsigned long steps;
#define EB_TOPIC_STEP() (steps++)
#include "common/topic.c"

#include <stdio.h>

#include "claim.h"

static uint32_t seed = 19470301;

static uint32_t rnd(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)seed * below >> 32);
}

static bool topic_ok(const char *text, size_t len)
{
    struct eb_error err = {.code = EB_OK};
    bool ok = eb_topic_check(text, len, &err) == 0;

    assert_int_equal(err.code, ok ? EB_OK : EB_INVALID_TOPIC);
    return ok;
}

static bool matches(const char *pattern, const char *topic)
{
    struct eb_pattern parsed;
    struct eb_error err;

    if (eb_pattern_parse(&parsed, pattern, strlen(pattern), &err) < 0)
        fail_msg("%s: %s", pattern, err.message);
    assert_true(topic_ok(topic, strlen(topic)));
    return eb_pattern_match(&parsed, topic, strlen(topic));
}

/* Words of any bytes but the forbidden ones, joined by dots; '$' topics are well-formed. */
static void good_topics_are_taken(void **state)
{
    static const char *const good[] = {"a",      "user.created", "$dead.billing", "_reply.x",
                                       "日本.é", "a/b",          "A-b_c:d",       "x.$y._z",
                                       "😀",      "\xE2\x80\x8B"};
    char longest[EB_TOPIC_MAX];

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(topic_ok(good[i], strlen(good[i])));
    memset(longest, 'x', sizeof(longest));
    assert_true(topic_ok(longest, sizeof(longest)));
}

static void check_refusal(const char *topic, size_t len, const char *why)
{
    struct eb_error err;

    assert_int_equal(eb_topic_check(topic, len, &err), -1);
    assert_int_equal(err.code, EB_INVALID_TOPIC);
    assert_string_equal(err.message, why);
}

/* Each refusal says what is wrong and shows the text. */
static void refusal_says_what_is_wrong(void **state)
{
    char big[400];

    check_refusal("user..created", 13, "topic has an empty word: \"user..created\"");
    check_refusal(".a", 2, "topic has an empty word: \".a\"");
    check_refusal("a.", 2, "topic has an empty word: \"a.\"");
    check_refusal(".", 1, "topic has an empty word: \".\"");
    check_refusal("", 0, "topic is empty: 1 to 255 bytes are allowed");
    check_refusal("a.*", 3,
                  "topic has a wildcard (\"*\" and \"#\" are for patterns only): \"a.*\"");
    check_refusal("a#", 2, "topic has a wildcard (\"*\" and \"#\" are for patterns only): \"a#\"");
    check_refusal("a b", 3, "topic has white space (U+0020): \"a b\"");
    check_refusal("a\0b", 3, "topic has a control character (U+0000): \"a\\x00b\"");
    check_refusal("a\xE3\x80\x80", 4, "topic has white space (U+3000): \"a\xE3\x80\x80\"");
    check_refusal("\xC2\x9F", 2, "topic has a control character (U+009F): \"\\xC2\\x9F\"");
    check_refusal("a\xFF", 2, "topic is not valid UTF-8: \"a\\xFF\"");
    memset(big, 'x', sizeof(big));
    check_refusal(big, 256, "topic has 256 bytes: at most 255 are allowed");
}

/* Of all code points exactly the controls, White_Space, '*', '#' (and '.' alone) are refused. */
static void exactly_these_code_points_are_refused(void **state)
{
    static const ucs4_t white[] = {0x20,   0xA0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003,
                                   0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A,
                                   0x2028, 0x2029, 0x202F, 0x205F, 0x3000};

    for (ucs4_t c = 0; c < 0x110000; c++) {
        uint8_t text[8] = "x";
        int n = u8_uctomb(text + 1, c, 6);
        if (n < 0) /* a surrogate */
            continue;
        bool bad = c < 0x20 || (c >= 0x7F && c < 0xA0) || c == '*' || c == '#' || c == '.';
        for (size_t i = 0; i < sizeof(white) / sizeof(white[0]); i++)
            bad = bad || c == white[i];
        if ((eb_topic_check((char *)text, (size_t)n + 1, NULL) == 0) == bad)
            fail_msg("U+%04X", (unsigned)c);
    }
}

/* Wildcards stand only as whole words, and the facts that the topic table uses are right. */
static void pattern_facts_are_right(void **state)
{
    static const struct {
        const char *text;
        unsigned literal;
        bool wild, reserved, lead;
    } facts[] = {
        {"a.b", 3, false, false, false},   {"a.b.*", 4, true, false, false},
        {"a.b.#", 3, true, false, false},  {"a.*.#", 2, true, false, false},
        {"#", 0, true, false, true},       {"*.a", 0, true, false, true},
        {"$dead.*", 6, true, true, false}, {"_r.#", 2, true, true, false},
        {"#.$x", 0, true, false, true},
    };

    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
        struct eb_pattern p;
        assert_int_equal(eb_pattern_parse(&p, facts[i].text, strlen(facts[i].text), NULL), 0);
        assert_string_equal(p.text, facts[i].text);
        assert_int_equal(p.len, strlen(facts[i].text));
        assert_int_equal(p.literal, facts[i].literal);
        assert_int_equal(p.wild, facts[i].wild);
        assert_int_equal(p.reserved, facts[i].reserved);
        assert_int_equal(p.lead_hash, facts[i].lead);
    }
}

/* A bad pattern is refused with its own code, and the output stays untouched. */
static void bad_patterns_are_refused(void **state)
{
    static const char *const bad[] = {"",     "a*", "*a", "**", "##",  "a.b#.c", "#a",
                                      "a..b", ".",  "#.", ".#", "a b", "*#"};
    struct eb_pattern p = {.len = 77};
    struct eb_error err;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(eb_pattern_parse(&p, bad[i], strlen(bad[i]), &err), -1);
        assert_int_equal(err.code, EB_INVALID_PATTERN);
        assert_int_equal(p.len, 77);
    }
    eb_pattern_parse(&p, "a*", 2, &err);
    assert_string_equal(err.message, "pattern has a word that mixes a wildcard with other text "
                                     "(\"*\" and \"#\" stand only as whole words): \"a*\"");
}

/* The examples of the protocol. */
static void protocol_examples_hold(void **state)
{
    assert_true(matches("user.*", "user.created"));
    assert_false(matches("user.*", "user"));
    assert_false(matches("user.*", "user.a.b"));
    assert_true(matches("user.#", "user"));
    assert_true(matches("user.#", "user.created"));
    assert_true(matches("user.#", "user.a.b"));
    assert_false(matches("user.#", "users"));
    assert_false(matches("user.#", "users.a"));
    assert_true(matches("#", "a.b.c"));
    assert_true(matches("#.b.#", "b"));
    assert_true(matches("a.#.b", "a.b"));
    assert_false(matches("a.#.a", "a"));
    assert_false(matches("a.#.*", "a"));
    assert_true(matches("#.*.#", "a"));
}

/* Reserved topics are reached only by naming their first word. */
static void reserved_topics_need_their_name(void **state)
{
    static const char *const blind[] = {"#",   "*.x", "#.x",       "*.*",
                                        "#.#", "*.#", "#.$dead.x", "$other.x"};

    for (size_t i = 0; i < sizeof(blind) / sizeof(blind[0]); i++)
        assert_false(matches(blind[i], "$dead.x"));
    assert_false(matches("*.x", "_reply.x"));
    assert_true(matches("$dead.x", "$dead.x"));
    assert_true(matches("$dead.*", "$dead.x"));
    assert_true(matches("$dead.#", "$dead"));
    assert_true(matches("_reply.#", "_reply.x"));
    assert_true(matches("*.$x", "a.$x")); /* only the first word is reserved */
}

/* ---- the reference: what the protocol says, word for word ---- */

static const char *behind(const char *text) /* the words after the first, NULL if none */
{
    const char *dot = strchr(text, '.');
    return dot ? dot + 1 : NULL;
}

static bool ref_words(const char *p, const char *t)
{
    if (!p)
        return !t;
    if (*p == '#')
        return ref_words(behind(p), t) || (t && ref_words(p, behind(t)));
    if (!t)
        return false;
    size_t n = strcspn(t, ".");
    bool same = *p == '*' || (strcspn(p, ".") == n && memcmp(p, t, n) == 0);
    return same && ref_words(behind(p), behind(t));
}

static bool reference(const char *p, const char *t)
{
    if ((*t == '$' || *t == '_') && (strcspn(p, ".") != strcspn(t, ".") || *p != *t))
        return false;
    return ref_words(p, t);
}

/* @count random words, those of a topic unless @hashes or @stars say how often (in 16) a wildcard comes. */
static void random_words(char *out, uint32_t count, uint32_t hashes, uint32_t stars)
{
    static const char *const words[] = {"a", "b", "ab", "c"};
    size_t len = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t dice = rnd(16);
        const char *word = dice < hashes            ? "#"
                           : dice < hashes + stars  ? "*"
                           : i == 0 && rnd(12) == 0 ? (rnd(2) ? "$a" : "_a")
                                                    : words[rnd(4)];
        len += (size_t)sprintf(out + len, "%s%s", i ? "." : "", word);
    }
}

static void compare_random(int rounds, uint32_t max_words, uint32_t hashes, uint32_t stars)
{
    char pattern[256], topic[256];
    int hits = 0;

    for (int n = 0; n < rounds; n++) {
        random_words(pattern, 1 + rnd(max_words), hashes, stars);
        random_words(topic, 1 + rnd(max_words), 0, 0);
        bool want = reference(pattern, topic);
        hits += want;
        if (matches(pattern, topic) != want)
            fail_msg("%s %s %s", pattern, want ? "must match" : "must not match", topic);
    }
    assert_true(hits > rounds / 200); /* or the comparison shows nothing */
}

/* The matcher is the reference: short words of a small alphabet, few and many wildcards. */
static void matcher_is_the_reference(void **state)
{
    compare_random(40000, 5, 3, 3);
    compare_random(40000, 8, 6, 3);
    compare_random(40000, 8, 9, 2);
    compare_random(20000, 12, 8, 5);
}

/*
 * Middles beyond 64 states, where a state moves from one machine word to the next: a pattern made
 * from the topic's own words, some of them '*', some runs replaced by '#', matches; with one word
 * that the topic has nowhere it does not.
 */
static void long_middles_cross_the_machine_word(void **state)
{
    for (int n = 0; n < 4000; n++) {
        char topic[EB_TOPIC_MAX + 1] = "a", pattern[EB_TOPIC_MAX + 1] = "#";
        uint32_t words = 90 + rnd(30), bad = rnd(2) ? rnd(words) : words;
        size_t t = 1, p = 1;
        for (uint32_t i = 0; i < words; i++) {
            char word = (char)('a' + rnd(3));
            t += (size_t)sprintf(topic + t, ".%c", word);
            bool gap = rnd(10) == 0;
            if (i == bad || !gap || pattern[p - 1] != '#')
                p += (size_t)sprintf(pattern + p, ".%c",
                                     i == bad ? 'z'
                                     : gap    ? '#'
                                     : rnd(8) ? word
                                              : '*');
        }
        sprintf(pattern + p, ".#");
        if (matches(pattern, topic) != (bad == words))
            fail_msg("%s %s", pattern, topic);
    }
}

/* Comparisons of the worst patterns known, with @words words in each of both. */
static unsigned long cost(unsigned words, unsigned shape)
{
    char pattern[600] = "", topic[600] = "";
    struct eb_pattern parsed;

    for (unsigned i = 0; i < words; i++) {
        char c = shape == 2 ? (char)('A' + i % 50) : 'a';
        sprintf(topic + strlen(topic), "%s%c", i ? "." : "", c);
        if (shape == 0) /* #.a.#.a … #.b: every '#' could be tried everywhere */
            strcat(pattern, i % 2 ? "a." : "#.");
        else if (shape == 1) /* #.a.a.a.a … b.#: the long middle nearly fits at every place */
            strcat(pattern, i == 0 ? "#." : i < words / 2 ? "a." : "");
        else /* #.A.B.C …: many different words to find */
            sprintf(pattern + strlen(pattern), i % 3 ? "%c." : "#.", c);
    }
    strcat(pattern, shape == 2 ? "#.A.#" : "b.#");
    assert_int_equal(eb_pattern_parse(&parsed, pattern, strlen(pattern), NULL), 0);
    steps = 0;
    eb_pattern_match(&parsed, topic, strlen(topic));
    return steps;
}

/* Four times the words cost about four times the comparisons, and never many for one word. */
static void matching_costs_linear_time(void **state)
{
    for (unsigned shape = 0; shape < 3; shape++) {
        unsigned long small = cost(30, shape), large = cost(120, shape);
        assert_true(small > 30);
        assert_true(large < 6 * small); /* quadratic: 16 times */
        assert_true(large <= 120 * 16);
    }
}

/* One or two odd bytes at every place of topics of every length: found, wherever blocks of bytes begin and end. */
static void odd_bytes_are_found_anywhere(void **state)
{
    static const char odd[] = ". *#\x1f\x7f";
    struct eb_error err;
    char text[64];

    for (size_t len = 1; len <= 50; len++) {
        memset(text, 'a', sizeof(text));
        assert_int_equal(eb_topic_check(text, len, &err), 0);
        for (size_t at = 0; at < len; at++) {
            for (size_t i = 0; i < sizeof(odd) - 1; i++) {
                bool fine = odd[i] == '.' && at > 0 && at < len - 1;
                text[at] = odd[i];
                assert_int_equal(eb_topic_check(text, len, &err), fine ? 0 : -1);
            }
            text[at] = text[at + 1] = '.';
            if (at + 1 < len)
                assert_int_equal(eb_topic_check(text, len, &err), -1);
            text[at] = text[at + 1] = 'a';
        }
    }
}

/* Only a whole first word `_reply` makes a topic of replies. */
static void topics_of_replies_are_told(void **state)
{
    static const char *const replies[] = {"_reply", "_reply.a", "_reply.a.b"};
    static const char *const others[] = {"_repl",   "_replyx",  "_replyx.a",
                                         "reply.a", "a._reply", "_"};
    for (size_t i = 0; i < 3; i++)
        assert_true(eb_topic_is_reply(replies[i], strlen(replies[i])));
    for (size_t i = 0; i < 6; i++)
        assert_false(eb_topic_is_reply(others[i], strlen(others[i])));
    assert_false(eb_topic_is_reply("_reply", 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM("topic/topics_of_replies_are_told", topics_of_replies_are_told),
        CLAIM("topic/good_topics_are_taken", good_topics_are_taken),
        CLAIM("topic/odd_bytes_are_found_anywhere", odd_bytes_are_found_anywhere),
        CLAIM("topic/refusal_says_what_is_wrong", refusal_says_what_is_wrong),
        CLAIM("topic/exactly_these_code_points_are_refused", exactly_these_code_points_are_refused),
        CLAIM("pattern/facts_are_right", pattern_facts_are_right),
        CLAIM("pattern/bad_patterns_are_refused", bad_patterns_are_refused),
        CLAIM("match/protocol_examples_hold", protocol_examples_hold),
        CLAIM("match/reserved_topics_need_their_name", reserved_topics_need_their_name),
        CLAIM("match/is_the_reference", matcher_is_the_reference),
        CLAIM("match/long_middles_cross_the_machine_word", long_middles_cross_the_machine_word),
        CLAIM("match/costs_linear_time", matching_costs_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
