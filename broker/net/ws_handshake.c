/* ws_handshake.c - what a WebSocket handshake must say (RFC 6455 4.2.1), and which subprotocol is spoken. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "broker/net/ws_internal.h"
#include "common/text.h"

#define KEY_TEXT 24 /* Base64 of 16 bytes */

/*
 * Next element of a comma-separated list, without the white space around it; NULL at the end. Empty elements
 * are passed over (RFC 9110 5.6.1).
 */
static const char *next_element(const char **list, size_t *ret_len)
{
    const char *p = *list;

    while (p && *p) {
        p += strspn(p, " \t,");
        size_t len = strcspn(p, ",");
        const char *start = p;
        p += len;
        while (len > 0 && (start[len - 1] == ' ' || start[len - 1] == '\t'))
            len--;
        if (len > 0) {
            *list = p;
            *ret_len = len;
            return start;
        }
    }
    *list = p;
    return NULL;
}

static bool list_has(const char *list, const char *name)
{
    const char *element;
    size_t len;

    while ((element = next_element(&list, &len)))
        if (len == strlen(name) && strncasecmp(element, name, len) == 0)
            return true;
    return false;
}

static bool key_valid(const char *key)
{
    unsigned char raw[KEY_TEXT];

    return strlen(key) == KEY_TEXT && eb_base64_decode(raw, key, KEY_TEXT) == 16;
}

/* The first that is ours. False when something was asked for and nothing of it is. */
static bool choose(const char *list, struct eb_ws_agreed *agreed)
{
    static const char bearer[] = "bearer.";
    static const char *const ours[] = {EB_WS_PROTOCOL_BINARY, EB_WS_PROTOCOL_JSON};
    const char *element;
    size_t len;

    while ((element = next_element(&list, &len))) {
        if (len >= sizeof(bearer) - 1 && memcmp(element, bearer, sizeof(bearer) - 1) == 0)
            continue;
        agreed->asked = true;
        for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]) && !agreed->protocol; i++)
            if (len == strlen(ours[i]) && memcmp(element, ours[i], len) == 0)
                agreed->protocol = ours[i];
    }
    return !agreed->asked || agreed->protocol;
}

enum eb_ws_handshake eb_ws_handshake(const struct eb_ws_offer *offer, struct eb_ws_agreed *ret,
                                     char *why, size_t why_size)
{
    struct eb_ws_agreed agreed = {0};
    const char *wrong = NULL;
    enum eb_ws_handshake result = EB_HANDSHAKE_BAD;

    if (!list_has(offer->upgrade, "websocket")) {
        wrong = "this path speaks WebSocket: the request needs \"Upgrade: websocket\"";
        result = EB_HANDSHAKE_UPGRADE_REQUIRED;
    } else if (!list_has(offer->connection, "upgrade")) {
        wrong = "a WebSocket handshake needs \"Connection: Upgrade\"";
    } else if (!offer->version || strcmp(offer->version, "13") != 0) {
        wrong = "only WebSocket version 13 is spoken (Sec-WebSocket-Version)";
        result = EB_HANDSHAKE_UPGRADE_REQUIRED;
    } else if (!offer->key || offer->keys != 1 || !key_valid(offer->key)) {
        wrong = "Sec-WebSocket-Key must be given once and be the Base64 of 16 bytes";
    } else if (!choose(offer->protocols, &agreed)) {
        wrong =
            "none of the subprotocols asked for is spoken; this broker speaks " EB_WS_PROTOCOL_JSON
            " and " EB_WS_PROTOCOL_BINARY;
    }
    if (wrong) {
        snprintf(why, why_size, "%s", wrong);
        return result;
    }
    eb_ws_accept(agreed.accept, offer->key, KEY_TEXT);
    *ret = agreed;
    return EB_HANDSHAKE_OK;
}
