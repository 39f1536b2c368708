/*
 * topic.h - topics, patterns and matching (PROTOCOL 1).
 *
 * A topic is 1 to 255 bytes of UTF-8: words joined by '.', a word has 1 or more bytes and none of
 * '.', '*', '#', control characters (U+0000-001F, U+007F-009F) or White_Space code points.
 * A pattern may have '*' (exactly one word) and '#' (zero or more words) as whole words.
 * Bytes are compared, nothing is normalised.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define EB_TOPIC_MAX 255

struct eb_pattern {
    uint8_t len;
    uint8_t literal; /* bytes of the leading words that are literal: every match starts with them.
                         With their dots ("a.b." of "a.b.*"), but "a.b" of "a.b.#", which matches "a.b" */
    bool wild;       /* has '*' or '#' */
    bool
        reserved; /* its first word is literal and starts with '$' or '_': only then it reaches such topics */
    bool lead_hash; /* its first word is '#' or '*': lives in the wildcard shard */
    char text[EB_TOPIC_MAX + 1];
};

/** Check @text; 0, or -1 with EB_INVALID_TOPIC in @err that says what is wrong. '$' topics are well-formed here. */
int eb_topic_check(const char *text, size_t len, struct eb_error *err);
/** Check and take a pattern; 0, or -1 with EB_INVALID_PATTERN. */
int eb_pattern_parse(struct eb_pattern *ret, const char *text, size_t len, struct eb_error *err);
/** Does it match? Time linear in the length of both for any number of '#'. @topic must be well-formed. */
bool eb_pattern_match(const struct eb_pattern *pattern, const char *topic, size_t len);
/** Length of the first word. */
size_t eb_first_word(const char *text, size_t len);
/** Is its first word `_reply`? Such topics are gone with their last event (PROTOCOL 8). */
bool eb_topic_is_reply(const char *topic, size_t len);
