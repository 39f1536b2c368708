/*
 * consumer_key.c - what orders the events of a consumer: SipHash-2-4 with 128 bits of the topic, or of a header's
 * value. Its key is new at each start, so nobody can choose topics that share a key.
 */
#include <string.h>
#include <strings.h>

#include "broker/bus/consumer_internal.h"

static uint64_t rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static void mix(uint64_t v[4], unsigned rounds)
{
    for (; rounds > 0; rounds--) {
        v[0] += v[1];
        v[1] = rotate(v[1], 13) ^ v[0];
        v[0] = rotate(v[0], 32);
        v[2] += v[3];
        v[3] = rotate(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = rotate(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = rotate(v[1], 17) ^ v[2];
        v[2] = rotate(v[2], 32);
    }
}

static uint64_t word(const uint8_t *data, size_t len)
{
    uint64_t ret = 0;
    for (size_t i = 0; i < len; i++)
        ret |= (uint64_t)data[i] << (8 * i);
    return ret;
}

void eb_siphash(const uint64_t key[2], const void *data, size_t len, uint64_t ret[2])
{
    const uint8_t *at = data, *end = at + len - len % 8;
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d ^ 0xee,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    for (; at < end; at += 8) {
        uint64_t m = word(at, 8);
        v[3] ^= m;
        mix(v, 2);
        v[0] ^= m;
    }
    uint64_t last = word(at, len % 8) | (uint64_t)(len & 0xff) << 56;
    v[3] ^= last;
    mix(v, 2);
    v[0] ^= last;
    v[2] ^= 0xee;
    mix(v, 4);
    ret[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    mix(v, 4);
    ret[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The end of the JSON string that begins at @at, behind its quote: where the closing one is. */
static const char *string_end(const char *at, const char *end)
{
    while (at < end && *at != '"')
        at += *at == '\\' ? 2 : 1;
    return at < end ? at : end;
}

/*
 * The header's value as it stands in the event's canonical text, still escaped: equal values have equal texts. Names
 * are compared without case, as over HTTP. NULL: there is none.
 */
static const char *header_value(const struct eb_event *event, const char *name, size_t *ret_len)
{
    const char *at = event->headers, *end = at + event->headers_len;
    size_t len = strlen(name);
    while (event->headers_len > 0 && at < end) {
        const char *key = memchr(at, '"', (size_t)(end - at));
        if (key == NULL)
            break;
        const char *key_end = string_end(++key, end);
        const char *value =
            key_end < end ? memchr(key_end + 1, '"', (size_t)(end - key_end - 1)) : NULL;
        if (value == NULL)
            break;
        const char *value_end = string_end(++value, end);
        if ((size_t)(key_end - key) == len && strncasecmp(key, name, len) == 0) {
            *ret_len = (size_t)(value_end - value);
            return value;
        }
        at = value_end + 1;
    }
    return NULL;
}

struct eb_order_key eb_order_key(const struct eb_consumer *consumer, const struct eb_event *event,
                                 enum eb_consumer_order order, const char *header)
{
    struct eb_order_key key = {.present = false};
    const char *text = event->topic;
    size_t len = event->topic_len;
    bool redriven = strcmp(event->topic, consumer->dead_topic) == 0;
    if (order == EB_ORDER_HEADER)
        text = header_value(event, header, &len);
    else if (order == EB_ORDER_TOPIC && redriven)
        text = header_value(event, "dead-topic", &len); /* a topic has nothing that is escaped */
    if (order == EB_ORDER_NONE || text == NULL)
        return key;
    key.present = true;
    eb_siphash(consumer->all->key, text, len, key.hash);
    return key;
}
