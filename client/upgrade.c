/*
 * upgrade.c - the HTTP side of the WebSocket handshake (RFC 6455 4.1): the request, and every check of the answer.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "client/internal.h"
#include "common/text.h"
#include "common/ws.h"

#define JSON   "eventbus.json.v1"
#define BINARY "eventbus.bin.v1"

/* Ours, the one we would rather speak first. */
static const char *const offers[] = {
    [EB_PROTOCOL_ANY] = BINARY ", " JSON,
    [EB_PROTOCOL_JSON] = JSON,
    [EB_PROTOCOL_BINARY] = BINARY,
};

void eb_upgrade_request(struct eb_buf *out, const struct eb_url *url, const char *token,
                        eb_protocol protocol, struct eb_upgrade *ret)
{
    unsigned char nonce[16];
    char key[25];

    *ret = (struct eb_upgrade){.offer = offers[protocol]};
    if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce))
        eb_uuid_v4(nonce);
    key[eb_base64_encode(key, nonce, sizeof(nonce))] = '\0';
    eb_ws_accept(ret->accept, key, 24);
    eb_buf_printf(out,
                  "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Protocol: %s\r\nUser-Agent: libeventbus/" EB_VERSION "\r\n",
                  url->target, url->authority, key, ret->offer);
    if (token)
        eb_buf_printf(out, "Authorization: Bearer %s\r\n", token);
    eb_buf_str(out, "\r\n");
}

/* Does the comma-separated list @value hold @word, whatever the case? */
static bool has_word(const char *value, size_t len, const char *word)
{
    size_t word_len = strlen(word);

    while (len > 0) {
        const char *comma = memchr(value, ',', len);
        size_t part = comma ? (size_t)(comma - value) : len, n = part;
        const char *p = value;
        while (n > 0 && (*p == ' ' || *p == '\t'))
            p++, n--;
        while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t'))
            n--;
        if (n == word_len && strncasecmp(p, word, n) == 0)
            return true;
        value += comma ? part + 1 : part;
        len -= comma ? part + 1 : part;
    }
    return false;
}

/* The first header @name in the lines [@at, @end): its trimmed value, or NULL. */
static const char *find_header(const char *at, const char *end, const char *name, size_t *ret_len)
{
    size_t name_len = strlen(name);

    while (at < end) {
        const char *eol = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!eol)
            eol = end;
        if ((size_t)(eol - at) > name_len && at[name_len] == ':' &&
            strncasecmp(at, name, name_len) == 0) {
            const char *value = at + name_len + 1;
            while (value < eol && (*value == ' ' || *value == '\t'))
                value++;
            while (eol > value && (eol[-1] == ' ' || eol[-1] == '\t'))
                eol--;
            *ret_len = (size_t)(eol - value);
            return value;
        }
        at = eol + 2;
    }
    return NULL;
}

static ptrdiff_t refuse(struct eb_upgrade *upgrade, const char *why)
{
    snprintf(upgrade->why, sizeof(upgrade->why), "%s", why);
    return -1;
}

static bool read_status(struct eb_upgrade *upgrade, const char *data, size_t len)
{
    if (len < 13 || strncmp(data, "HTTP/1.", 7) != 0 || !isdigit((unsigned char)data[7]) ||
        data[8] != ' ')
        return false;
    for (int i = 9; i < 12; i++) {
        if (!isdigit((unsigned char)data[i]))
            return false;
        upgrade->status = upgrade->status * 10 + (data[i] - '0');
    }
    return true;
}

/* Another answer than 101: a sentence with the status line, for people. */
static ptrdiff_t refused(struct eb_upgrade *upgrade, const char *data, const char *eol)
{
    int len = (int)(eol - data - 9 < 120 ? eol - data - 9 : 120);

    snprintf(upgrade->why, sizeof(upgrade->why), "the broker refused the connection: %.*s", len,
             data + 9);
    for (char *p = upgrade->why; *p; p++) {
        if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
            *p = '?';
    }
    return -1;
}

static ptrdiff_t check_headers(struct eb_upgrade *upgrade, const char *lines, const char *end)
{
    const char *value;
    size_t len;

    value = find_header(lines, end, "Upgrade", &len);
    if (!value || !has_word(value, len, "websocket"))
        return refuse(upgrade, "not a WebSocket: the 101 lacks \"Upgrade: websocket\"");
    value = find_header(lines, end, "Connection", &len);
    if (!value || !has_word(value, len, "upgrade"))
        return refuse(upgrade, "not a WebSocket: the 101 lacks \"Connection: Upgrade\"");
    value = find_header(lines, end, "Sec-WebSocket-Accept", &len);
    if (!value || len != strlen(upgrade->accept) || memcmp(value, upgrade->accept, len) != 0)
        return refuse(upgrade, "not a WebSocket: Sec-WebSocket-Accept is not the one for our key");
    if (find_header(lines, end, "Sec-WebSocket-Extensions", &len))
        return refuse(upgrade, "the 101 names an extension that was not asked for");
    value = find_header(lines, end, "Sec-WebSocket-Protocol", &len);
    if (value)
        upgrade->binary = len == strlen(BINARY) && memcmp(value, BINARY, len) == 0;
    if (!value || (!upgrade->binary && (len != strlen(JSON) || memcmp(value, JSON, len) != 0)) ||
        !strstr(upgrade->offer, upgrade->binary ? BINARY : JSON)) {
        snprintf(upgrade->why, sizeof(upgrade->why),
                 "not an eventbus broker: the 101 names no subprotocol that was asked for (%s)",
                 upgrade->offer);
        return -1;
    }
    return 0;
}

ptrdiff_t eb_upgrade_check(struct eb_upgrade *upgrade, const char *data, size_t len)
{
    const char *end = memmem(data, len, "\r\n\r\n", 4), *eol;

    if (!end) {
        if (len >= EB_UPGRADE_MAX)
            return refuse(upgrade, "the answer to the upgrade has no end");
        if (memcmp(data, "HTTP/1.", len < 7 ? len : 7) != 0)
            return refuse(upgrade, "what answers there does not speak HTTP/1.1");
        return 0;
    }
    if (!read_status(upgrade, data, len))
        return refuse(upgrade, "what answers there does not speak HTTP/1.1");
    eol = memmem(data, len, "\r\n", 2);
    if (upgrade->status != 101)
        return refused(upgrade, data, eol);
    if (check_headers(upgrade, eol + 2, end + 2) < 0)
        return -1;
    return end + 4 - data;
}
