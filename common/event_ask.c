/* event_ask.c - see event_ask.h. */
#include "common/event_ask.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/event_json.h"

#define SECONDS_MAX 1e12 /* beyond it is beyond every bound of ours */

static bool is_digit(const char *p, const char *end)
{
    return p < end && *p >= '0' && *p <= '9';
}

/* The exponent at @p, from -999 to 999, or false. */
static bool read_exponent(const char *p, const char *end, int *ret)
{
    bool minus = p < end && *p == '-';
    int value = 0;

    p += p < end && (*p == '-' || *p == '+');
    if (!is_digit(p, end))
        return false;
    for (; is_digit(p, end); p++)
        value = value < 100 ? value * 10 + (*p - '0') : 999;
    *ret = minus ? -value : value;
    return p == end;
}

bool eb_seconds_parse(const char *text, size_t len, int64_t *ret_ms)
{
    const char *p = text, *end = text + len;
    double value = 0;
    int scale = 3, exponent = 0; /* of ten */

    if (!is_digit(p, end))
        return false;
    for (; is_digit(p, end); p++)
        value = value * 10 + (*p - '0');
    if (p < end && *p == '.') {
        if (!is_digit(++p, end))
            return false;
        for (; is_digit(p, end); p++) {
            if (value < SECONDS_MAX) { /* more digits tell nothing */
                value = value * 10 + (*p - '0');
                scale--;
            }
        }
    }
    if (p < end && ((*p != 'e' && *p != 'E') || !read_exponent(p + 1, end, &exponent)))
        return false;
    for (scale += exponent; scale > 0 && value > 0 && value < 1e3 * SECONDS_MAX; scale--)
        value *= 10;
    for (; scale < 0 && value > 1e-9; scale++)
        value /= 10;
    if (value > 1e3 * SECONDS_MAX)
        value = 1e3 * SECONDS_MAX;
    *ret_ms = (int64_t)value;
    *ret_ms += (double)*ret_ms < value;
    return true;
}

/* A whole number without sign, of at most 18 digits. */
static bool read_whole(const char *text, size_t len, uint64_t *ret)
{
    uint64_t value = 0;

    if (len == 0 || len > 18)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *ret = value;
    return true;
}

int eb_ask_expected(struct eb_draft *draft, const char *name, const char *text, size_t len,
                    struct eb_error *err)
{
    char quoted[80];

    if (!read_whole(text, len, &draft->expected) || draft->expected >= EB_SEQ_MAX)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "%s is %s: it must be the topic's last seq, a whole number below 2^53, or 0 "
                       "for a topic that has none",
                       name, eb_quote(quoted, sizeof(quoted), text, len));
    draft->has_expected = true;
    return 0;
}

int eb_ask_due(struct eb_draft *draft, const char *name, uint64_t ms, bool since_1970,
               struct eb_error *err)
{
    int64_t now = eb_wall_ms();
    uint64_t most = (uint64_t)EB_DELAY_MAX_MS + (since_1970 && now > 0 ? (uint64_t)now : 0);

    if (draft->deliver_at_ms != 0)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "a time to deliver at and a delay are both given: one of them says when");
    if (ms > most)
        return eb_fail(err, EB_INVALID_REQUEST, "%s is more than a year (365 days) ahead", name);
    draft->deliver_at_ms = (int64_t)ms + (since_1970 ? 0 : now);
    if (draft->deliver_at_ms < 1)
        draft->deliver_at_ms = 1; /* 0 is for: not asked */
    return 0;
}

int eb_ask_deliver_at(struct eb_draft *draft, const char *name, const char *text, size_t len,
                      struct eb_error *err)
{
    char quoted[80];
    uint64_t ms;

    if (!read_whole(text, len, &ms))
        return eb_fail(
            err, EB_INVALID_REQUEST,
            "%s is %s: it must be a whole number of milliseconds since 1970 UTC, 0 or more", name,
            eb_quote(quoted, sizeof(quoted), text, len));
    return eb_ask_due(draft, name, ms, true, err);
}

int eb_ask_delay(struct eb_draft *draft, const char *name, const char *text, size_t len,
                 struct eb_error *err)
{
    char quoted[80];
    int64_t ms;

    if (!eb_seconds_parse(text, len, &ms))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "%s is %s: it must be a number of seconds, 0 or more, as 5 or 0.25", name,
                       eb_quote(quoted, sizeof(quoted), text, len));
    return eb_ask_due(draft, name, (uint64_t)ms, false, err);
}

/* ---- members of JSON ---- */

/* The text of the number at @tok; -1 with @err when it is something else. */
static int number_text(const struct eb_json *json, uint32_t tok, const char *name, const char **ret,
                       size_t *ret_len, struct eb_error *err)
{
    const struct eb_json_token *token = &json->tokens[tok];

    if (token->type != EB_JSON_NUMBER)
        return eb_fail(err, EB_INVALID_REQUEST, "%s must be a number", name);
    *ret = json->text + token->start;
    *ret_len = token->len;
    return 0;
}

int eb_asks_from_tokens(struct eb_draft *draft, const struct eb_json *json, uint32_t expected,
                        uint32_t deliver_at, uint32_t delay, struct eb_error *err)
{
    const struct {
        const char *name;
        uint32_t tok;
        int (*read)(struct eb_draft *, const char *, const char *, size_t, struct eb_error *);
    } members[] = {
        {"\"expected_last_seq\"", expected, eb_ask_expected},
        {"\"deliver_at\"", deliver_at, eb_ask_deliver_at},
        {"\"delay\"", delay, eb_ask_delay},
    };
    const char *text = NULL;
    size_t len = 0;

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        if (members[i].tok == 0)
            continue;
        if (number_text(json, members[i].tok, members[i].name, &text, &len, err) < 0 ||
            members[i].read(draft, members[i].name, text, len, err) < 0)
            return -1;
    }
    return 0;
}

int eb_asks_from_json(struct eb_draft *outer, const struct eb_json *json, uint32_t obj,
                      struct eb_error *err)
{
    *outer = (struct eb_draft){.ttl = EB_TTL_UNSET};
    if (eb_ttl_from_json(&outer->ttl, json, eb_json_member(json, obj, "ttl"), err) < 0)
        return -1;
    return eb_asks_from_tokens(outer, json, eb_json_member(json, obj, "expected_last_seq"),
                               eb_json_member(json, obj, "deliver_at"),
                               eb_json_member(json, obj, "delay"), err);
}

void eb_asks_default(struct eb_draft *draft, const struct eb_draft *outer)
{
    if (draft->ttl == EB_TTL_UNSET)
        draft->ttl = outer->ttl;
    if (draft->deliver_at_ms == 0)
        draft->deliver_at_ms = outer->deliver_at_ms;
    if (!draft->has_expected && outer->has_expected) {
        draft->has_expected = true;
        draft->expected = outer->expected;
    }
}
