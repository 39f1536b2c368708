/*
 * event_scan.c - the publish that nearly all are, read in one pass without tokens (declared in event_json.h).
 *
 * (ES1) What is taken here is taken by the JSON reader too, with the same draft; the reverse need not hold: an
 *       escape, a member unknown or given twice, a null, a number that is not a plain one … goes to the reader.
 *       So there is one judge of what is wrong, and no sentence about it here.
 */
#include <string.h>

#include "common/event_json.h"
#include "common/json_scan.h"
#include "common/text.h"
#include "common/uuid.h"

#define DIGITS_MAX 15 /* always below 2^53 */

struct scan {
    const char *p, *end;
};

struct text {
    const char *at;
    size_t len;
};

static inline void skip_space(struct scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t'))
        s->p++;
}

static inline bool take(struct scan *s, char c)
{
    skip_space(s);
    if (s->p == s->end || *s->p != c)
        return false;
    s->p++;
    return true;
}

/* A string without escapes. */
static inline bool take_string(struct scan *s, struct text *ret)
{
    if (!take(s, '"'))
        return false;
    const char *begin = s->p, *at = eb_json_plain(begin, s->end, true);
    bool ascii = at == s->end || (unsigned char)*at < 0x80;
    if (!ascii)
        at = eb_json_plain(at, s->end, false);
    if (at == s->end || *at != '"')
        return false;
    *ret = (struct text){begin, (size_t)(at - begin)};
    s->p = at + 1;
    return ascii || eb_utf8_valid(ret->at, ret->len);
}

/* A member's name and the colon. */
static inline bool take_name(struct scan *s, struct text *ret)
{
    return take_string(s, ret) && take(s, ':');
}

/* A whole number, not negative, of few digits. Behind the last one the caller finds out what it is. */
static inline bool take_number(struct scan *s, struct text *ret, int64_t *ret_value)
{
    int64_t value = 0;

    skip_space(s);
    const char *begin = s->p;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9' && s->p - begin <= DIGITS_MAX)
        value = value * 10 + (*s->p++ - '0');
    size_t len = (size_t)(s->p - begin);
    if (len == 0 || len > DIGITS_MAX || (len > 1 && *begin == '0'))
        return false;
    *ret = (struct text){begin, len};
    *ret_value = value;
    return true;
}

#define IS(text, literal)                                                                          \
    ((text).len == sizeof(literal) - 1 && memcmp((text).at, literal, sizeof(literal) - 1) == 0)

enum {
    TYPE = 1,
    ID = 2,
    DATA = 4,
    TTL = 8,
    TOPIC = 16,
    PAYLOAD = 32,
    MESSAGE_ID = 64,
    CONTENT = 128
};

/* False: seen before. */
static inline bool first(unsigned *seen, unsigned member)
{
    bool fresh = !(*seen & member);

    *seen |= member;
    return fresh;
}

static inline bool take_data_member(struct scan *s, unsigned *seen, struct eb_draft *draft)
{
    struct text name, value;

    if (!take_name(s, &name) || !take_string(s, &value))
        return false;
    if (IS(name, "topic")) {
        draft->topic = value.at;
        draft->topic_len = value.len;
        return first(seen, TOPIC);
    }
    if (IS(name, "payload")) {
        draft->payload = value.at;
        draft->payload_len = value.len;
        draft->payload_utf8 = true;
        return first(seen, PAYLOAD);
    }
    if (IS(name, "message_id")) {
        draft->has_id = true;
        return first(seen, MESSAGE_ID) && eb_uuid_parse(draft->id, value.at, value.len);
    }
    if (IS(name, "content_type")) {
        draft->content_type = value.at;
        draft->content_type_len = value.len;
        return first(seen, CONTENT);
    }
    return false;
}

static inline bool take_data(struct scan *s, unsigned *seen, struct eb_draft *draft)
{
    if (!take(s, '{'))
        return false;
    do {
        if (!take_data_member(s, seen, draft))
            return false;
    } while (take(s, ','));
    return take(s, '}');
}

static inline bool take_id(struct scan *s, struct eb_publish_scan *ret)
{
    struct text id;
    int64_t value;

    skip_space(s);
    if (s->p < s->end && *s->p >= '0' && *s->p <= '9') {
        if (!take_number(s, &id, &value))
            return false;
    } else {
        if (!take_string(s, &id) || id.len > EB_REQUEST_ID_MAX)
            return false;
        id = (struct text){id.at - 1, id.len + 2};
    }
    ret->id = id.at;
    ret->id_len = id.len;
    return true;
}

static inline bool take_member(struct scan *s, unsigned *seen, struct eb_publish_scan *ret)
{
    struct text name, value;

    if (!take_name(s, &name))
        return false;
    if (IS(name, "type"))
        return first(seen, TYPE) && take_string(s, &value) && IS(value, "publish");
    if (IS(name, "id"))
        return first(seen, ID) && take_id(s, ret);
    if (IS(name, "data"))
        return first(seen, DATA) && take_data(s, seen, &ret->draft);
    if (IS(name, "ttl"))
        return first(seen, TTL) && take_number(s, &value, &ret->draft.ttl);
    return false;
}

bool eb_publish_scan(struct eb_publish_scan *ret, const char *text, size_t len)
{
    const unsigned needed = TYPE | DATA | TOPIC | PAYLOAD;
    struct scan s = {text, text + len};
    unsigned seen = 0;

    *ret = (struct eb_publish_scan){.draft.ttl = EB_TTL_UNSET};
    if (!take(&s, '{'))
        return false;
    do {
        if (!take_member(&s, &seen, ret))
            return false;
    } while (take(&s, ','));
    if (!take(&s, '}'))
        return false;
    skip_space(&s);
    return s.p == s.end && (seen & needed) == needed;
}
