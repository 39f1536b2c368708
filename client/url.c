/*
 * url.c - "ws://host[:port][/path][?query]" taken apart.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "client/internal.h"

void eb_url_finish(struct eb_url *url)
{
    free(url->host);
    free(url->authority);
    free(url->target);
    memset(url, 0, sizeof(*url));
}

static const char *parse_port(char out[6], const char *text, size_t len)
{
    long port = 0;

    if (len == 0 || len > 5)
        return "url: the port must be a number from 1 to 65535";
    for (size_t i = 0; i < len; i++) {
        if (!isdigit((unsigned char)text[i]))
            return "url: the port must be a number from 1 to 65535";
        port = port * 10 + (text[i] - '0');
    }
    if (port < 1 || port > 65535)
        return "url: the port must be a number from 1 to 65535";
    memcpy(out, text, len);
    out[len] = '\0';
    return NULL;
}

/* host, [v6], each with or without :port. @host and @host_len say where the name itself is. */
static const char *parse_authority(struct eb_url *url, const char *text, size_t len,
                                   const char **host, size_t *host_len)
{
    const char *end = text + len, *colon;

    if (memchr(text, '@', len))
        return "url: user and password are not understood; use the token";
    if (len > 0 && text[0] == '[') {
        const char *bracket = memchr(text, ']', len);
        if (!bracket || bracket == text + 1)
            return "url: an IPv6 address must stand in brackets, as in ws://[::1]:3000/ws";
        *host = text + 1;
        *host_len = (size_t)(bracket - *host);
        colon = bracket + 1;
        if (colon < end && *colon != ':')
            return "url: behind the bracket only :port may follow";
    } else {
        colon = memchr(text, ':', len);
        if (!colon)
            colon = end;
        else if (memchr(colon + 1, ':', (size_t)(end - colon - 1)))
            return "url: an IPv6 address must stand in brackets, as in ws://[::1]:3000/ws";
        *host = text;
        *host_len = (size_t)(colon - text);
    }
    if (*host_len == 0)
        return "url: the host is missing; expected ws://host[:port][/path]";
    if (colon == end) {
        strcpy(url->port, "80");
        return NULL;
    }
    return parse_port(url->port, colon + 1, (size_t)(end - colon - 1));
}

const char *eb_url_parse(struct eb_url *ret, const char *text)
{
    struct eb_url url = {0};
    const char *host, *why;
    size_t host_len, len;

    if (!text)
        return "url: missing; expected ws://host[:port][/path]";
    if (strncasecmp(text, "wss://", 6) == 0)
        return "url: wss:// is not supported; put a TLS proxy in front and use ws://";
    if (strncasecmp(text, "ws://", 5) != 0)
        return "url: expected ws://host[:port][/path]";
    text += 5;
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7f)
            return "url: white space and control characters must be percent-encoded";
    }
    if (strchr(text, '#'))
        return "url: a fragment (#...) has no meaning here";
    len = strcspn(text, "/?");
    why = parse_authority(&url, text, len, &host, &host_len);
    if (why)
        return why;
    url.host = strndup(host, host_len);
    url.authority = strndup(text, len);
    if (text[len] == '/')
        url.target = strdup(text + len);
    else if (text[len] == '?' && (url.target = malloc(strlen(text + len) + 4)))
        stpcpy(stpcpy(url.target, "/ws"), text + len);
    else if (text[len] == '\0')
        url.target = strdup("/ws");
    if (!url.host || !url.authority || !url.target) {
        eb_url_finish(&url);
        return "out of memory";
    }
    *ret = url;
    return NULL;
}
