/*
 * tokens.c - the token file: who may use the broker.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/broker.h"

void eb_tokens_free(char **tokens)
{
    for (char **t = tokens; t && *t; t++)
        free(*t);
    free(tokens);
}

/* A token travels in a header (RFC 6750 2.1, b64token) and, encoded, in a subprotocol: visible ASCII only. */
static bool is_token(const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c <= ' ' || *c > '~')
            return false;
    }
    return true;
}

static int add(char ***list, size_t *count, const char *token)
{
    char **more = realloc(*list, (*count + 2) * sizeof *more);
    if (!more)
        return -ENOMEM;
    *list = more;
    more[*count] = strdup(token);
    more[*count + 1] = NULL;
    return more[(*count)++] ? 0 : -ENOMEM;
}

int eb_tokens_load(const char *path, char ***ret, char err[EB_BROKER_ERROR])
{
    FILE *file = fopen(path, "re");
    if (!file) {
        int rc = -errno;
        snprintf(err, EB_BROKER_ERROR, "token_file = %s: %s", path, strerror(-rc));
        return rc;
    }
    char *line = NULL, **list = NULL;
    size_t cap = 0, count = 0;
    int rc = 0, number = 0;
    while (rc == 0 && getline(&line, &cap, file) >= 0) {
        char *start = line + strspn(line, " \t");
        number++;
        start[strcspn(start, "\r\n")] = '\0';
        for (size_t len = strlen(start); len && strchr(" \t", start[len - 1]); len--)
            start[len - 1] = '\0';
        if (!*start || *start == '#')
            continue;
        if (!is_token(start)) {
            snprintf(err, EB_BROKER_ERROR, "%s:%d: a token is visible ASCII without spaces", path,
                     number);
            rc = -EINVAL;
        } else {
            rc = add(&list, &count, start);
        }
    }
    if (rc == 0 && count == 0) {
        snprintf(err, EB_BROKER_ERROR, "token_file = %s holds no token: write one a line", path);
        rc = -EINVAL;
    }
    free(line);
    fclose(file);
    if (rc < 0) {
        eb_tokens_free(list);
        return rc;
    }
    *ret = list;
    return 0;
}
