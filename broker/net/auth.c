/*
 * auth.c - who may (PROTOCOL 4): bearer tokens, the Host check against DNS rebinding, Origins
 * of WebSockets and of pages that would change something, CORS.
 *
 * (A1) Tokens are kept as SHA-256 digests and each is compared whole, so that the time taken says neither
 *      how much of a token was right nor which one it was.
 * (A2) The rules are one immutable policy, swapped whole: a request sees the old or the new one, never both.
 */
#include "broker/net/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/text.h"

#define TOKEN_MAX 4096

/* ---- the policy ---- */

static void free_list(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

static int copy_list(const char *const *list, char ***ret)
{
    size_t count = 0;
    while (list && list[count])
        count++;
    char **copy = calloc(count + 1, sizeof(*copy));
    if (!copy)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        copy[i] = strdup(list[i]);
        if (!copy[i]) {
            free_list(copy);
            return -ENOMEM;
        }
    }
    *ret = copy;
    return 0;
}

static void digest_of(const void *data, size_t len, unsigned char out[32])
{
    struct sha256_ctx ctx;
    sha256_init(&ctx);
    sha256_update(&ctx, len, data);
    sha256_digest(&ctx, 32, out);
}

static void policy_free(struct eb_policy *policy)
{
    free(policy->digests);
    free_list(policy->allowed_origins);
    free_list(policy->cors_origins);
    free(policy->limits_json);
    free(policy);
}

int eb_policy_create(const struct eb_net_config *config, struct eb_policy **ret)
{
    struct eb_policy *policy = calloc(1, sizeof(*policy));
    if (!policy)
        return -ENOMEM;
    policy->refs = 1;
    policy->tokens = config->tokens != NULL;
    policy->insecure = config->insecure;
    policy->publish_rate = config->publish_rate;
    policy->stall_timeout_ms = config->stall_timeout_ms > 0 ? config->stall_timeout_ms : 60000;
    policy->limits_json = strdup(config->limits_json ? config->limits_json : "{}");
    while (config->tokens && config->tokens[policy->digest_count])
        policy->digest_count++;
    policy->digests = calloc(policy->digest_count + 1, sizeof(*policy->digests));
    if (!policy->digests || !policy->limits_json ||
        copy_list(config->allowed_origins, &policy->allowed_origins) < 0 ||
        copy_list(config->cors_origins, &policy->cors_origins) < 0) {
        policy_free(policy);
        return -ENOMEM;
    }
    for (size_t i = 0; i < policy->digest_count; i++)
        digest_of(config->tokens[i], strlen(config->tokens[i]), policy->digests[i]);
    *ret = policy;
    return 0;
}

void eb_policy_unref(struct eb_policy *policy)
{
    if (policy && atomic_fetch_sub(&policy->refs, 1) == 1)
        policy_free(policy);
}

bool eb_policy_token(const struct eb_policy *policy, const void *token, size_t len)
{
    unsigned char digest[32];
    digest_of(token, len, digest);
    int found = 0;
    for (size_t i = 0; i < policy->digest_count; i++)
        found |= memeql_sec(digest, policy->digests[i], sizeof(digest));
    return found != 0;
}

/* ---- Host and Origin ---- */

/* Length of the host in "host:port" or "[v6]:port"; what is behind it must be nothing or a port. 0: malformed. */
static size_t host_length(const char *text)
{
    size_t len = *text == '[' ? strcspn(text, "]") + 1 : strcspn(text, ":");
    if (*text == '[' && text[len - 1] != ']')
        return 0;
    const char *port = text + len;
    if (*port == 0)
        return len;
    if (*port != ':' || port[1 + strspn(port + 1, "0123456789")] != 0)
        return 0;
    return len;
}

bool eb_host_is_loopback(const char *host)
{
    char name[64];
    size_t len = host_length(host);
    if (len == 0 || len >= sizeof(name))
        return false;
    memcpy(name, host, len);
    name[len] = 0;
    if (strcasecmp(name, "localhost") == 0 || strcasecmp(name, "localhost.") == 0)
        return true;
    struct in_addr v4;
    if (inet_pton(AF_INET, name, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    struct in6_addr v6;
    if (name[0] != '[')
        return false;
    name[len - 1] = 0;
    if (inet_pton(AF_INET6, name + 1, &v6) != 1)
        return false;
    return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

/* The port behind a host, or the scheme's own. */
static const char *port_of(const char *text, size_t host_len, const char *fallback)
{
    return text[host_len] == ':' && text[host_len + 1] ? text + host_len + 1 : fallback;
}

bool eb_origin_is_host(const char *origin, const char *host)
{
    const char *scheme_end = strstr(origin, "://");
    if (!scheme_end || !host)
        return false;
    bool tls = strncasecmp(origin, "https", 5) == 0;
    const char *name = scheme_end + 3, *fallback = tls ? "443" : "80";
    size_t origin_len = host_length(name), len = host_length(host);
    if (origin_len == 0 || origin_len != len || strncasecmp(name, host, len) != 0)
        return false;
    return strcmp(port_of(name, len, fallback), port_of(host, len, fallback)) == 0;
}

static bool listed(char *const *list, const char *origin)
{
    for (; *list; list++)
        if (strcmp(*list, "*") == 0 || strcasecmp(*list, origin) == 0)
            return true;
    return false;
}

const char *eb_cors_origin(const struct eb_policy *policy, struct MHD_Connection *connection)
{
    if (!policy || !policy->cors_origins[0])
        return NULL;
    const char *origin =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_ORIGIN);
    return origin && listed(policy->cors_origins, origin) ? origin : NULL;
}

int eb_auth_origin(struct eb_http_request *request, struct eb_error *err)
{
    size_t len;
    char quoted[80];
    const char *origin = eb_http_header(request, MHD_HTTP_HEADER_ORIGIN, &len);
    if (!origin || eb_origin_is_host(origin, eb_http_header(request, MHD_HTTP_HEADER_HOST, &len)) ||
        listed(request->policy->allowed_origins, origin))
        return 0;
    return eb_fail(err, EB_FORBIDDEN, "origin \"%s\" is neither this host nor in allowed_origins",
                   eb_quote(quoted, sizeof(quoted), origin, strlen(origin)));
}

enum reach { REACH_UNIX, REACH_LOOPBACK, REACH_BEYOND };

/* A host's own daemon gives no listener: ask the socket. */
static enum reach reach_of(struct eb_http_request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    if (!info || getsockname(info->connect_fd, (struct sockaddr *)&addr, &len) < 0)
        return REACH_BEYOND;
    if (addr.ss_family == AF_UNIX)
        return REACH_UNIX;
    bool loopback = false;
    if (addr.ss_family == AF_INET) {
        loopback = ntohl(((struct sockaddr_in *)&addr)->sin_addr.s_addr) >> 24 == 127;
    } else if (addr.ss_family == AF_INET6) {
        const struct in6_addr *v6 = &((struct sockaddr_in6 *)&addr)->sin6_addr;
        loopback = IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
    }
    return loopback ? REACH_LOOPBACK : REACH_BEYOND;
}

/*
 * With neither tokens nor `insecure`: may this address be served at all, and can a browser of this machine reach it?
 * Our own sockets beyond loopback were refused at start, a host's daemon's are here.
 */
static int check_reach(struct eb_http_request *request, bool *ret_browsers, struct eb_error *err)
{
    if (request->listener) {
        *ret_browsers = eb_listener_checks_host(request->listener);
        return 0;
    }
    enum reach reach = reach_of(request);
    *ret_browsers = reach == REACH_LOOPBACK;
    if (reach != REACH_BEYOND)
        return 0;
    return eb_fail(
        err, EB_FORBIDDEN,
        "this address reaches beyond this machine: the bus embedded here answers on it only with "
        "token_file (one token a line) or insecure = true");
}

static int check_host(struct eb_http_request *request, struct eb_error *err)
{
    size_t len;
    const char *host = eb_http_header(request, MHD_HTTP_HEADER_HOST, &len);
    if (!host || eb_host_is_loopback(host))
        return 0;
    char quoted[80];
    return eb_fail(err, EB_FORBIDDEN,
                   "host \"%s\" is not a loopback name (127.0.0.1, [::1] or localhost): without a "
                   "token_file this "
                   "broker answers to no other",
                   eb_quote(quoted, sizeof(quoted), host, strlen(host)));
}

/*
 * A page of any site can have its visitor's browser send a plain POST here, without asking first (CORS asks only
 * before what a form could not send). Where nothing but the way in protects the broker, Origin tells.
 */
static int check_cross_site(struct eb_http_request *request, struct eb_error *err)
{
    size_t len;
    char quoted[80];
    const char *origin = eb_http_header(request, MHD_HTTP_HEADER_ORIGIN, &len);
    if (request->method & (EB_METHOD_GET | EB_METHOD_HEAD | EB_METHOD_OPTIONS) || !origin ||
        eb_origin_is_host(origin, eb_http_header(request, MHD_HTTP_HEADER_HOST, &len)) ||
        listed(request->policy->cors_origins, origin) ||
        listed(request->policy->allowed_origins, origin))
        return 0;
    return eb_fail(
        err, EB_FORBIDDEN,
        "a page of origin \"%s\" may not change anything here: it is neither this host nor in "
        "cors_origins or allowed_origins",
        eb_quote(quoted, sizeof(quoted), origin, strlen(origin)));
}

/* Without a token the loopback address is the only guard, and a browser of this machine is inside of it. */
static int check_way_in(struct eb_http_request *request, struct eb_error *err)
{
    const struct eb_policy *policy = request->policy;
    bool browsers = false;
    if (policy->tokens || policy->insecure)
        return 0;
    if (check_reach(request, &browsers, err) < 0)
        return -1;
    if (!browsers)
        return 0;
    if (check_host(request, err) < 0)
        return -1;
    return check_cross_site(request, err);
}

/* ---- tokens ---- */

/* Is a "bearer.<base64url>" among the subprotocols, and right? */
static bool subprotocol_token(const struct eb_policy *policy, const char *list)
{
    while (*list) {
        list += strspn(list, ", \t");
        size_t len = strcspn(list, ", \t");
        char token[TOKEN_MAX];
        if (len > 7 && len - 7 <= sizeof(token) && memcmp(list, "bearer.", 7) == 0) {
            memcpy(token, list + 7, len - 7);
            ptrdiff_t decoded = eb_base64url_decode(token, token, len - 7);
            if (decoded > 0 && eb_policy_token(policy, token, (size_t)decoded))
                return true;
        }
        list += len;
    }
    return false;
}

static bool header_token(const struct eb_policy *policy, const char *value, size_t len)
{
    if (len < 7 || strncasecmp(value, "Bearer ", 7) != 0)
        return false;
    value += 7;
    len -= 7;
    while (len > 0 && *value == ' ')
        value++, len--;
    while (len > 0 && value[len - 1] == ' ')
        len--;
    return len > 0 && len <= TOKEN_MAX && eb_policy_token(policy, value, len);
}

int eb_auth_check(struct eb_http_request *request, bool open, struct eb_error *err)
{
    if (check_way_in(request, err) < 0)
        return -1;
    if (!request->policy->tokens || open)
        return 0;
    size_t len;
    const char *value = eb_http_header(request, MHD_HTTP_HEADER_AUTHORIZATION, &len);
    if (value && header_token(request->policy, value, len))
        return 0;
    const char *protocols =
        request->websocket ? eb_http_header(request, "Sec-WebSocket-Protocol", &len) : NULL;
    if (protocols && subprotocol_token(request->policy, protocols))
        return 0;
    return eb_fail(err, EB_UNAUTHORIZED, "%s: this broker wants \"Authorization: Bearer TOKEN\"%s",
                   value ? "the token is not one of this broker's" : "there is no token",
                   request->websocket
                       ? " or, from a browser, the subprotocol bearer.<base64url of TOKEN>"
                       : "");
}
