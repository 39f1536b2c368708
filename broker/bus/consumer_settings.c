/*
 * consumer_settings.c - the settings of a durable consumer (PROTOCOL 7) from JSON and back. The form that is stored is
 * the form that is taken, with the secret.
 */
#include <stdio.h>
#include <string.h>

#include "broker/bus/consumers.h"

#define SECONDS_MAX     ((int64_t)365 * 24 * 3600) /* a year: no wait is longer */
#define INFLIGHT_MAX    100000
#define WINDOW_MAX      1000000
#define CONCURRENCY_MAX 256
#define ACK_WAIT        30000
#define PUSH_TIMEOUT    10000

int eb_consumer_name_check(const char *name, size_t len, struct eb_error *err)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    char quoted[300];
    size_t i = 0;
    while (i < len && name[i] != '\0' && strchr(allowed, name[i]) != NULL)
        i++;
    if (len >= 1 && len <= EB_CONSUMER_NAME_MAX && i == len)
        return 0;
    return eb_fail(err, EB_INVALID_REQUEST,
                   "a consumer's name has 1 to %d of A-Z a-z 0-9 _ -, and not %s",
                   EB_CONSUMER_NAME_MAX, eb_quote(quoted, sizeof(quoted), name, len));
}

/* ---- members ---- */

struct reading {
    struct eb_json *json;
    uint32_t obj;
    struct eb_error *err;
};

static enum eb_json_type type_of(const struct reading *r, uint32_t tok)
{
    return r->json->tokens[tok].type;
}

/* A JSON number in thousandths, rounded up; exact, whatever the locale. False: too large, or not a number. */
static bool thousandths(const struct reading *r, uint32_t tok, int64_t *ret)
{
    const struct eb_json_token *token = &r->json->tokens[tok];
    const char *at = r->json->text + token->start, *end = at + token->len;
    int64_t value = 0, exponent = 0;
    int places = 3;
    bool fraction = false, more = false, negative = false;
    if (token->type != EB_JSON_NUMBER || *at == '-')
        return false;
    for (; at < end && *at != 'e' && *at != 'E'; at++) {
        if (*at == '.') {
            fraction = true;
        } else if (value > INT64_MAX / 100) { /* more digits than matter */
            more = more || *at != '0';
            places += !fraction;
        } else {
            value = value * 10 + (*at - '0');
            places -= fraction;
        }
    }
    if (at < end && ++at < end && (*at == '-' || *at == '+'))
        negative = *at++ == '-';
    for (; at < end; at++)
        exponent = exponent < 1000 ? exponent * 10 + (*at - '0') : exponent;
    for (exponent = places + (negative ? -exponent : exponent); exponent > 0 && value > 0;
         exponent--) {
        if (value > INT64_MAX / 10)
            return false;
        value *= 10;
    }
    for (; exponent < 0 && value > 0; exponent++) {
        more = more || value % 10 != 0;
        value /= 10;
    }
    *ret = value + (more ? 1 : 0);
    return true;
}

/* Seconds, maybe with a fraction, to ms. @zero: none at all is a time too. */
static int take_seconds(const struct reading *r, uint32_t tok, const char *name, bool zero,
                        int64_t *ret)
{
    int64_t ms;
    if (thousandths(r, tok, &ms) && (ms > 0 || zero) && ms <= SECONDS_MAX * 1000) {
        *ret = ms;
        return 0;
    }
    return eb_fail(r->err, EB_INVALID_REQUEST,
                   "%s must be a number of seconds, %s and at most %lld (a fraction is fine)", name,
                   zero ? "0 or more" : "more than 0", (long long)SECONDS_MAX);
}

static int seconds(const struct reading *r, const char *name, int64_t *ret)
{
    uint32_t tok = eb_json_member(r->json, r->obj, name);
    return tok == 0 ? 0 : take_seconds(r, tok, name, false, ret);
}

static int count(const struct reading *r, const char *name, uint32_t min, uint32_t max,
                 uint32_t *ret)
{
    uint32_t tok = eb_json_member(r->json, r->obj, name);
    int64_t value;
    if (tok == 0)
        return 0;
    if (!eb_json_int64(r->json, tok, &value) || value < min || value > max)
        return eb_fail(r->err, EB_INVALID_REQUEST, "%s must be a whole number from %u to %u", name,
                       min, max);
    *ret = (uint32_t)value;
    return 0;
}

static int boolean(const struct reading *r, const char *name, bool *ret)
{
    uint32_t tok = eb_json_member(r->json, r->obj, name);
    if (tok == 0)
        return 0;
    if (type_of(r, tok) != EB_JSON_TRUE && type_of(r, tok) != EB_JSON_FALSE)
        return eb_fail(r->err, EB_INVALID_REQUEST, "%s must be true or false", name);
    *ret = type_of(r, tok) == EB_JSON_TRUE;
    return 0;
}

static int patterns(const struct reading *r, struct eb_consumer_settings *ret)
{
    uint32_t list = eb_json_member(r->json, r->obj, "patterns");
    if (list == 0 || type_of(r, list) != EB_JSON_ARRAY)
        return eb_fail(r->err, EB_INVALID_REQUEST,
                       "patterns must be a list of 1 to %d patterns, as [\"user.*\"]",
                       EB_CONSUMER_PATTERNS_MAX);
    for (uint32_t tok = list + 1; tok < r->json->tokens[list].next;
         tok = r->json->tokens[tok].next) {
        size_t len;
        if (ret->pattern_count == EB_CONSUMER_PATTERNS_MAX)
            return eb_fail(r->err, EB_INVALID_REQUEST, "patterns has more than %d members",
                           EB_CONSUMER_PATTERNS_MAX);
        if (type_of(r, tok) != EB_JSON_STRING)
            return eb_fail(r->err, EB_INVALID_REQUEST, "patterns[%u] must be a string",
                           ret->pattern_count);
        const char *text = eb_json_string(r->json, tok, &len);
        if (eb_pattern_parse(&ret->patterns[ret->pattern_count], text, len, r->err) < 0)
            return -1;
        ret->pattern_count++;
    }
    if (ret->pattern_count == 0)
        return eb_fail(r->err, EB_INVALID_REQUEST,
                       "patterns is empty: name at least one, \"#\" for every topic");
    return 0;
}

static int from(const struct reading *r, struct eb_consumer_settings *ret)
{
    uint32_t tok = eb_json_member(r->json, r->obj, "from");
    int64_t value;
    if (tok == 0 || eb_json_equals(r->json, tok, "new", 3)) {
        ret->from = EB_FROM_NEW;
        return 0;
    }
    if (type_of(r, tok) == EB_JSON_STRING && eb_json_equals(r->json, tok, "all", 3)) {
        ret->from = EB_FROM_ALL;
        return 0;
    }
    if (type_of(r, tok) == EB_JSON_OBJECT) {
        uint32_t seq = eb_json_member(r->json, tok, "seq"),
                 time = eb_json_member(r->json, tok, "time");
        if (seq != 0 && time == 0 && eb_json_int64(r->json, seq, &value) && value >= 0 &&
            value < (int64_t)EB_SEQ_MAX) {
            ret->from = EB_FROM_SEQ;
            ret->from_seq = (uint64_t)value;
            return 0;
        }
        if (time != 0 && seq == 0 && eb_json_int64(r->json, time, &value) && value >= 0) {
            ret->from = EB_FROM_TIME;
            ret->from_time_ms = value;
            return 0;
        }
    }
    return eb_fail(
        r->err, EB_INVALID_REQUEST,
        "from must be \"new\", \"all\", {\"seq\":N} or {\"time\":milliseconds since 1970}");
}

static int backoff(const struct reading *r, struct eb_consumer_settings *ret)
{
    uint32_t list = eb_json_member(r->json, r->obj, "backoff");
    if (list == 0)
        return 0;
    if (type_of(r, list) != EB_JSON_ARRAY)
        return eb_fail(r->err, EB_INVALID_REQUEST,
                       "backoff must be a list of seconds, as [1, 5, 30]");
    for (uint32_t tok = list + 1; tok < r->json->tokens[list].next;
         tok = r->json->tokens[tok].next) {
        if (ret->backoff_count == EB_BACKOFF_MAX)
            return eb_fail(r->err, EB_INVALID_REQUEST,
                           "backoff has more than %d members (the last one repeats)",
                           EB_BACKOFF_MAX);
        if (take_seconds(r, tok, "each of backoff", true, &ret->backoff_ms[ret->backoff_count]) < 0)
            return -1;
        ret->backoff_count++;
    }
    return 0;
}

static int order(const struct reading *r, struct eb_consumer_settings *ret)
{
    static const char prefix[] = "header:";
    uint32_t tok = eb_json_member(r->json, r->obj, "order");
    size_t len = 0;
    const char *text = "";
    if (tok == 0 || eb_json_equals(r->json, tok, "none", 4))
        return 0;
    if (type_of(r, tok) == EB_JSON_STRING)
        text = eb_json_string(r->json, tok, &len);
    if (len == 5 && memcmp(text, "topic", 5) == 0) {
        ret->order = EB_ORDER_TOPIC;
        return 0;
    }
    size_t name = len > sizeof(prefix) - 1 ? len - (sizeof(prefix) - 1) : 0;
    if (name == 0 || memcmp(text, prefix, sizeof(prefix) - 1) != 0 || name > EB_ORDER_HEADER_MAX ||
        memchr(text, '\0', len) != NULL)
        return eb_fail(r->err, EB_INVALID_REQUEST,
                       "order must be \"none\", \"topic\" or \"header:NAME\" (NAME: 1 to %d bytes)",
                       EB_ORDER_HEADER_MAX);
    ret->order = EB_ORDER_HEADER;
    for (size_t i = 0; i < name; i++) {
        char c = text[sizeof(prefix) - 1 + i];
        ret->order_header[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    return 0;
}

static int push_text(const struct reading *r, const char *name, const char *shown, size_t max,
                     char *ret)
{
    uint32_t tok = eb_json_member(r->json, r->obj, name);
    size_t len = 0;
    const char *text = NULL;
    if (tok != 0 && type_of(r, tok) == EB_JSON_STRING)
        text = eb_json_string(r->json, tok, &len);
    if (text == NULL || len < 1 || len > max || memchr(text, '\0', len) != NULL)
        return eb_fail(r->err, EB_INVALID_REQUEST, "%s must be a string of 1 to %zu bytes", shown,
                       max);
    memcpy(ret, text, len);
    ret[len] = '\0';
    return 0;
}

static int push(const struct reading *outer, struct eb_consumer_settings *ret)
{
    struct reading r = *outer;
    r.obj = eb_json_member(r.json, outer->obj, "push");
    if (r.obj == 0)
        return 0;
    if (type_of(&r, r.obj) != EB_JSON_OBJECT)
        return eb_fail(
            r.err, EB_INVALID_REQUEST,
            "push must be {\"url\":…,\"secret\":\"whsec_…\",\"timeout\":10,\"concurrency\":4}");
    ret->has_push = true;
    ret->push.timeout_ms = PUSH_TIMEOUT;
    ret->push.concurrency = 4;
    if (push_text(&r, "url", "push.url", EB_PUSH_URL_MAX, ret->push.url) < 0 ||
        push_text(&r, "secret", "push.secret", EB_PUSH_SECRET_MAX, ret->push.secret) < 0)
        return -1;
    uint32_t timeout = eb_json_member(r.json, r.obj, "timeout");
    if (timeout != 0 && take_seconds(&r, timeout, "push.timeout", false, &ret->push.timeout_ms) < 0)
        return -1;
    return count(&r, "concurrency", 1, CONCURRENCY_MAX, &ret->push.concurrency);
}

int eb_consumer_settings_read(struct eb_consumer_settings *ret, struct eb_json *json, uint32_t obj,
                              struct eb_error *err)
{
    struct reading r = {json, obj, err};
    *ret = (struct eb_consumer_settings){
        .ack_wait_ms = ACK_WAIT,
        .max_inflight = 256,
        .order_window = 10000,
        .dead_letter = true,
    };
    if (json->tokens[obj].type != EB_JSON_OBJECT)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "the settings of a consumer must be an object, as {\"patterns\":[\"#\"]}");
    if (patterns(&r, ret) < 0 || from(&r, ret) < 0 ||
        seconds(&r, "ack_wait", &ret->ack_wait_ms) < 0)
        return -1;
    if (count(&r, "max_deliver", 0, UINT32_MAX >> 4, &ret->max_deliver) < 0 ||
        backoff(&r, ret) < 0 || count(&r, "max_inflight", 1, INFLIGHT_MAX, &ret->max_inflight) < 0)
        return -1;
    if (order(&r, ret) < 0 || count(&r, "order_window", 1, WINDOW_MAX, &ret->order_window) < 0 ||
        boolean(&r, "dead_letter", &ret->dead_letter) < 0)
        return -1;
    return push(&r, ret);
}

/* ---- and back ---- */

static void write_seconds(struct eb_buf *out, int64_t ms)
{
    eb_json_write_i64(out, ms / 1000);
    if (ms % 1000 != 0) {
        char text[8];
        int len = snprintf(text, sizeof(text), ".%03d", (int)(ms % 1000));
        while (text[len - 1] == '0')
            len--;
        eb_buf_add(out, text, (size_t)len);
    }
}

static void write_from(struct eb_buf *out, const struct eb_consumer_settings *settings)
{
    switch (settings->from) {
    case EB_FROM_NEW:
        eb_buf_str(out, "\"new\"");
        break;
    case EB_FROM_ALL:
        eb_buf_str(out, "\"all\"");
        break;
    case EB_FROM_SEQ:
        eb_buf_str(out, "{\"seq\":");
        eb_json_write_u64(out, settings->from_seq);
        eb_buf_str(out, "}");
        break;
    case EB_FROM_TIME:
        eb_buf_str(out, "{\"time\":");
        eb_json_write_i64(out, settings->from_time_ms);
        eb_buf_str(out, "}");
        break;
    }
}

static void write_order(struct eb_buf *out, const struct eb_consumer_settings *settings)
{
    char text[EB_ORDER_HEADER_MAX + 16] = "none";
    if (settings->order == EB_ORDER_TOPIC)
        snprintf(text, sizeof(text), "topic");
    else if (settings->order == EB_ORDER_HEADER)
        snprintf(text, sizeof(text), "header:%s", settings->order_header);
    eb_json_write_string(out, text, strlen(text));
}

static void write_push(struct eb_buf *out, const struct eb_consumer_settings *settings, bool secret)
{
    eb_buf_str(out, ",\"push\":{\"url\":");
    eb_json_write_string(out, settings->push.url, strlen(settings->push.url));
    eb_buf_str(out, ",\"secret\":");
    if (secret)
        eb_json_write_string(out, settings->push.secret, strlen(settings->push.secret));
    else
        eb_buf_str(out, "true");
    eb_buf_str(out, ",\"timeout\":");
    write_seconds(out, settings->push.timeout_ms);
    eb_buf_printf(out, ",\"concurrency\":%u}", settings->push.concurrency);
}

void eb_consumer_settings_write(struct eb_buf *out, const struct eb_consumer_settings *settings,
                                bool secret)
{
    eb_buf_str(out, "{\"patterns\":[");
    for (unsigned i = 0; i < settings->pattern_count; i++) {
        eb_buf_str(out, i != 0 ? "," : "");
        eb_json_write_string(out, settings->patterns[i].text, settings->patterns[i].len);
    }
    eb_buf_str(out, "],\"from\":");
    write_from(out, settings);
    eb_buf_str(out, ",\"ack_wait\":");
    write_seconds(out, settings->ack_wait_ms);
    eb_buf_printf(out, ",\"max_deliver\":%u,\"backoff\":[", settings->max_deliver);
    for (unsigned i = 0; i < settings->backoff_count; i++) {
        eb_buf_str(out, i != 0 ? "," : "");
        write_seconds(out, settings->backoff_ms[i]);
    }
    eb_buf_printf(out, "],\"max_inflight\":%u,\"order\":", settings->max_inflight);
    write_order(out, settings);
    eb_buf_printf(out, ",\"order_window\":%u,\"dead_letter\":%s", settings->order_window,
                  settings->dead_letter ? "true" : "false");
    if (settings->has_push)
        write_push(out, settings, secret);
    eb_buf_str(out, "}");
}

bool eb_consumer_settings_equal(const struct eb_consumer_settings *a,
                                const struct eb_consumer_settings *b)
{
    struct eb_buf text[2] = {EB_BUF_INIT, EB_BUF_INIT};
    eb_consumer_settings_write(&text[0], a, true);
    eb_consumer_settings_write(&text[1], b, true);
    bool equal = !eb_buf_failed(&text[0]) && !eb_buf_failed(&text[1]) &&
                 text[0].len == text[1].len && memcmp(text[0].data, text[1].data, text[0].len) == 0;
    eb_buf_finish(&text[0]);
    eb_buf_finish(&text[1]);
    return equal;
}
