/* tmpl.c - requests made once: text in which the id and the stamp have known places. */
#include <stdarg.h>
#include <stdlib.h>

#include "load.h"

#define STAMP_MARK "$$$$$$$$$$$$$$$$$$$$$$$$$$$$$$"

_Static_assert(sizeof(STAMP_MARK) - 1 == STAMP, "the mark is as long as what takes its place");

static size_t place(const struct tmpl *tmpl, const char *mark)
{
    uint8_t *found = memmem(tmpl->bytes, tmpl->len, mark, strlen(mark));

    return found ? (size_t)(found - tmpl->bytes) : SIZE_MAX;
}

void tmpl_make(struct tmpl *tmpl, const char *format, ...)
{
    char *text;
    va_list args;

    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    if (len < 0)
        die("no memory");
    tmpl->bytes = (uint8_t *)text;
    tmpl->len = (size_t)len;
    tmpl->id_at = place(tmpl, ID_MARK);
    tmpl->stamp_at = place(tmpl, STAMP_MARK);
}

struct tmpl *tmpl_topics(const char *format)
{
    struct tmpl *tmpls = calloc(opt.topics, sizeof(*tmpls));

    if (!tmpls)
        die("no memory");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    for (unsigned i = 0; i < opt.topics; i++)
        tmpl_make(&tmpls[i], format, i, opt.payload_text);
#pragma GCC diagnostic pop
    return tmpls;
}
