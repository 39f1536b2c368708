/*
 * settings_load.c - settings from an INI file (libinih) and from the environment.
 */
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "broker/settings.h"

extern char **environ;

struct load {
    struct eb_settings *settings;
    const char *path;
    FILE *file, *out;
    int line, bad;
    bool partial; /* the line before was longer than libinih's buffer */
};

static void complain(struct load *load, const char *what)
{
    fprintf(load->out, "%s:%d: %s\n", load->path, load->line, what);
    load->bad++;
}

/* libinih's reader: counts lines, since its handler is not told them, and refuses to cut long ones. */
static char *read_line(char *buffer, int size, void *stream)
{
    struct load *load = stream;
    if (!fgets(buffer, size, load->file))
        return NULL;
    size_t len = strlen(buffer);
    bool whole = (len && buffer[len - 1] == '\n') || feof(load->file);
    if (!load->partial)
        load->line++;
    if (!whole && !load->partial) {
        char text[96];
        snprintf(text, sizeof text,
                 "line is longer than %d bytes; split a list over several lines with its key",
                 size - 2);
        complain(load, text);
    }
    if (load->partial || !whole)
        strcpy(buffer, "\n");
    load->partial = !whole;
    return buffer;
}

static int take(void *user, const char *section, const char *name, const char *value)
{
    struct load *load = user;
    char err[EB_SETTING_ERROR];
    if (section[0] && strcmp(section, "eventbus") != 0) {
        snprintf(err, sizeof err,
                 "unknown section [%.60s]; settings stand without a section or under [eventbus]",
                 section);
        complain(load, err);
    } else if (eb_settings_set(load->settings, name, value ? value : "", EB_FROM_FILE, err) < 0) {
        complain(load, err);
    }
    return 1;
}

int eb_settings_load(struct eb_settings *settings, const char *path, FILE *out)
{
    struct load load = {.settings = settings, .path = path, .out = out};
    load.file = fopen(path, "re");
    if (!load.file)
        return -errno;
    int rc = ini_parse_stream(read_line, &load, take, &load);
    if (rc > 0 && load.bad == 0) {
        load.line = rc;
        complain(&load, "neither a comment, a [section] nor key = value");
    } else if (rc > 0) {
        load.bad++;
    }
    fclose(load.file);
    return rc < 0 ? -ENOMEM : load.bad;
}

int eb_settings_load_environment(struct eb_settings *settings, FILE *out)
{
    int bad = 0;
    for (char **e = environ; *e; e++) {
        const char *value = strchr(*e, '=');
        if (strncmp(*e, "EVENTBUS_", 9) != 0 || !value || value - *e > 64 + 9)
            continue;
        char key[80] = "", err[EB_SETTING_ERROR];
        for (const char *c = *e + 9; c < value; c++)
            key[c - *e - 9] = (char)tolower((unsigned char)*c);
        struct eb_setting_about about;
        size_t i = 0;
        while (eb_settings_about(i, &about) && strcmp(about.key, key) != 0)
            i++;
        if (!eb_settings_about(i, &about)) {
            /* The client tools read EVENTBUS_URL and others: not ours, but a misspelt one should be seen. */
            if (strcmp(key, "config") != 0 && strcmp(key, "url") != 0 && strcmp(key, "token") != 0)
                fprintf(out, "eventbusd: %.*s is not a setting of the broker, ignored\n",
                        (int)(value - *e), *e);
        } else if (eb_settings_set(settings, key, value + 1, EB_FROM_ENVIRONMENT, err) < 0) {
            fprintf(out, "eventbusd: %.*s: %s\n", (int)(value - *e), *e, err);
            bad++;
        }
    }
    return bad;
}
