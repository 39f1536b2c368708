/*
 * listener.c - see listener.h.
 */
#include "broker/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(int rc, char *err, const char *fmt, const char *where, const char *why)
{
    snprintf(err, EB_LISTENER_ERROR, fmt, where, why);
    return rc;
}

static bool is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24) == 127;
    if (sa->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)sa)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
    }
    return false;
}

/* A socket file that nobody answers on is left over from a crash. */
static bool is_stale(const struct sockaddr_un *sun)
{
    struct stat st;
    if (lstat(sun->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool stale =
        connect(fd, (const struct sockaddr *)sun, sizeof *sun) < 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int open_unix(const char *where, const char *path, struct eb_listener *ret, char *err)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof sun.sun_path)
        return fail(-EINVAL, err, "listen = %s: %s", where, "a socket's path has 1 to 107 bytes");
    strcpy(sun.sun_path, path);
    if (is_stale(&sun))
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(-errno, err, "listen = %s: %s", where, strerror(errno));
    if (bind(fd, (struct sockaddr *)&sun, sizeof sun) < 0 || listen(fd, SOMAXCONN) < 0) {
        int rc = -errno;
        close(fd);
        return fail(rc, err, "listen = %s: %s", where, strerror(-rc));
    }
    *ret = (struct eb_listener){.fd = fd, .loopback = true, .unix_socket = true};
    strcpy(ret->path, path);
    snprintf(ret->address, sizeof ret->address, "unix:%s", path);
    return 0;
}

static void describe(struct eb_listener *listener)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    char host[64] = "?", port[8] = "?";
    if (getsockname(listener->fd, (struct sockaddr *)&ss, &len) == 0)
        getnameinfo((struct sockaddr *)&ss, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(listener->address, sizeof listener->address, strchr(host, ':') ? "[%s]:%s" : "%s:%s",
             host, port);
}

static int bind_one(const struct addrinfo *ai, const char *where, struct eb_listener *ret,
                    char *err)
{
    int one = 1;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(-errno, err, "listen = %s: %s", where, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (ai->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
        int rc = -errno;
        close(fd);
        return fail(rc, err, "listen = %s: %s", where,
                    rc == -EADDRINUSE ? "address already in use: another program serves there; "
                                        "choose another port or end it"
                                      : strerror(-rc));
    }
    *ret = (struct eb_listener){.fd = fd, .loopback = is_loopback(ai->ai_addr)};
    describe(ret);
    return 0;
}

/* Split "host:port" and "[v6]:port" in place. */
static bool split(char *text, char **ret_host, char **ret_port)
{
    char *colon = strrchr(text, ':');
    if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
        atol(colon + 1) > 65535)
        return false;
    *colon = '\0';
    *ret_port = colon + 1;
    size_t len = strlen(text);
    if (text[0] == '[' && len > 2 && text[len - 1] == ']') {
        text[len - 1] = '\0';
        *ret_host = text + 1;
        return true;
    }
    *ret_host = text;
    return len > 0 && !strchr(text, ':');
}

int eb_listener_open(const char *where, bool allow_public, struct eb_listener *ret,
                     char err[EB_LISTENER_ERROR])
{
    if (strncmp(where, "unix:", 5) == 0)
        return open_unix(where, where + 5, ret, err);
    char text[256], *host, *port;
    size_t len = strlen(where);
    bool fits = len < sizeof text;
    if (fits)
        memcpy(text, where, len + 1);
    if (!fits || !split(text, &host, &port))
        return fail(-EINVAL, err, "listen = %s: %s", where,
                    "must be ADDR:PORT (127.0.0.1:3000), [V6]:PORT or unix:PATH");
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    int gai = getaddrinfo(host, port, &hints, &list);
    if (gai != 0)
        return fail(-EINVAL, err, "listen = %s: %s", where, gai_strerror(gai));
    int rc;
    if (!allow_public && !is_loopback(list->ai_addr))
        rc = fail(-EPERM, err,
                  "listen = %s reaches beyond this machine%s: set token_file = FILE (one token a "
                  "line), or insecure = true if everybody may",
                  where, "");
    else
        rc = bind_one(list, where, ret, err);
    freeaddrinfo(list);
    return rc;
}

void eb_listener_finish(struct eb_listener *listener)
{
    if (listener->fd >= 0)
        close(listener->fd);
    if (listener->unix_socket && listener->path[0])
        unlink(listener->path);
    listener->fd = -1;
    listener->path[0] = '\0';
}
