/* address.c - which addresses are global, and which lie in a network that an operator names. */
#include "broker/net/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

/* RFC 6890 and its registries: what is not globally reachable. IPv4 in its mapped form. */
static const struct {
    const char *network;
    uint8_t bits;
} special[] = {
    {"::ffff:0.0.0.0", 96 + 8},       /* this network */
    {"::ffff:10.0.0.0", 96 + 8},      /* private */
    {"::ffff:100.64.0.0", 96 + 10},   /* shared, RFC 6598 */
    {"::ffff:127.0.0.0", 96 + 8},     /* loopback */
    {"::ffff:169.254.0.0", 96 + 16},  /* link-local; cloud metadata */
    {"::ffff:172.16.0.0", 96 + 12},   /* private */
    {"::ffff:192.0.0.0", 96 + 24},    /* IETF protocol assignments */
    {"::ffff:192.0.2.0", 96 + 24},    /* documentation */
    {"::ffff:192.88.99.0", 96 + 24},  /* 6to4 relays, gone */
    {"::ffff:192.168.0.0", 96 + 16},  /* private */
    {"::ffff:198.18.0.0", 96 + 15},   /* benchmarking */
    {"::ffff:198.51.100.0", 96 + 24}, /* documentation */
    {"::ffff:203.0.113.0", 96 + 24},  /* documentation */
    {"::ffff:224.0.0.0", 96 + 4},     /* multicast */
    {"::ffff:240.0.0.0", 96 + 4},     /* reserved, broadcast */
    {"::", 96},                       /* unspecified, loopback, IPv4-compatible */
    {"64:ff9b::", 96},                /* NAT64: an IPv4 address behind it */
    {"64:ff9b:1::", 48},              /* local NAT64 */
    {"100::", 64},                    /* discard */
    {"2001::", 23},                   /* IETF protocol assignments, Teredo */
    {"2001:db8::", 32},               /* documentation */
    {"2002::", 16},                   /* 6to4: an IPv4 address inside */
    {"3fff::", 20},                   /* documentation */
    {"5f00::", 16},                   /* segment routing */
    {"fc00::", 7},                    /* unique local */
    {"fe80::", 10},                   /* link-local */
    {"fec0::", 10},                   /* site-local, gone */
    {"ff00::", 8},                    /* multicast */
};

static bool prefix_equal(const uint8_t a[16], const uint8_t b[16], unsigned bits)
{
    unsigned rest = bits % 8;

    if (memcmp(a, b, bits / 8) != 0)
        return false;
    return rest == 0 || (a[bits / 8] ^ b[bits / 8]) >> (8 - rest) == 0;
}

static bool to_bytes(const struct sockaddr *address, uint8_t ret[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    if (address->sa_family == AF_INET6) {
        memcpy(ret, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
        return true;
    }
    if (address->sa_family != AF_INET)
        return false;
    memcpy(ret, mapped, 12);
    memcpy(ret + 12, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
    return true;
}

bool eb_address_global(const struct sockaddr *address)
{
    uint8_t bytes[16], network[16];

    if (!to_bytes(address, bytes))
        return false;
    for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
        if (inet_pton(AF_INET6, special[i].network, network) == 1 &&
            prefix_equal(bytes, network, special[i].bits))
            return false;
    return true;
}

bool eb_address_in(const struct sockaddr *address, const struct eb_network *networks, size_t count)
{
    uint8_t bytes[16];

    if (!to_bytes(address, bytes))
        return false;
    for (size_t i = 0; i < count; i++)
        if (prefix_equal(bytes, networks[i].address, networks[i].bits))
            return true;
    return false;
}

static int fail(struct eb_error *err, const char *text, size_t len)
{
    return eb_fail(err, EB_INVALID_REQUEST,
                   "\"%.*s\" is no network; one is written 10.0.0.0/8, 192.0.2.7 or fd00::/8",
                   (int)(len < 60 ? len : 60), text);
}

int eb_network_parse(struct eb_network *ret, const char *text, size_t len, struct eb_error *err)
{
    char host[64];
    const char *slash = memchr(text, '/', len);
    size_t host_len = slash ? (size_t)(slash - text) : len;
    struct in_addr v4;
    long bits = -1;

    if (host_len >= sizeof(host))
        return fail(err, text, len);
    memcpy(host, text, host_len);
    host[host_len] = '\0';
    if (slash) {
        size_t digits = len - host_len - 1;
        bits = 0;
        for (size_t i = 0; i < digits; i++)
            bits = slash[1 + i] >= '0' && slash[1 + i] <= '9' && bits < 1000
                       ? bits * 10 + (slash[1 + i] - '0')
                       : 1000;
        if (digits == 0)
            return fail(err, text, len);
    }
    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, host, &v4) == 1) {
        if (bits > 32)
            return fail(err, text, len);
        ret->address[10] = ret->address[11] = 0xff;
        memcpy(ret->address + 12, &v4, 4);
        ret->bits = (uint8_t)(96 + (bits < 0 ? 32 : bits));
        return 0;
    }
    if (inet_pton(AF_INET6, host, ret->address) != 1 || bits > 128)
        return fail(err, text, len);
    ret->bits = (uint8_t)(bits < 0 ? 128 : bits);
    return 0;
}

int eb_networks_parse(struct eb_network **ret, size_t *ret_count, const char *text,
                      struct eb_error *err)
{
    static const char blanks[] = ", \t";
    struct eb_network *list = NULL;
    size_t count = 0;

    *ret = NULL;
    *ret_count = 0;
    for (text += strspn(text, blanks); *text; text += strspn(text, blanks)) {
        size_t len = strcspn(text, blanks);
        struct eb_network *more = realloc(list, (count + 1) * sizeof(*list));
        if (!more) {
            free(list);
            return eb_fail(err, EB_INTERNAL, "out of memory");
        }
        list = more;
        if (eb_network_parse(&list[count++], text, len, err) < 0) {
            free(list);
            return -1;
        }
        text += len;
    }
    *ret = list;
    *ret_count = count;
    return 0;
}
