/*
 * listener.h - addresses to serve on: parsing, binding, and what may be served without a token.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define EB_LISTENER_ERROR 512

struct eb_listener {
    int fd;
    bool loopback; /* 127.0.0.0/8, ::1 or a Unix socket */
    bool unix_socket;
    char path[108];    /* of a Unix socket: removed at the end */
    char address[128]; /* as text, with the port that was really taken */
};

/**
 * Bind and listen on "ADDR:PORT", "[V6]:PORT" or "unix:PATH" (a socket nobody answers on is replaced).
 * @allow_public: else an address beyond loopback is refused with -EPERM before anything is bound.
 * -EINVAL, -EADDRINUSE, -EACCES … with a sentence in @err.
 */
int eb_listener_open(const char *where, bool allow_public, struct eb_listener *ret,
                     char err[EB_LISTENER_ERROR]);
/** Close what nobody took over (fd >= 0), remove a Unix socket's file. */
void eb_listener_finish(struct eb_listener *listener);
