/*
 * json_plain.h - is a text JSON? The obvious recursive reader, slow and short, as a judge of the fast one.
 */
#pragma once

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/text.h"

struct plain {
    const unsigned char *p, *end;
};

static bool plain_value(struct plain *in, int depth);

static void plain_space(struct plain *in)
{
    while (in->p < in->end && strchr(" \t\r\n", *in->p) && *in->p)
        in->p++;
}

static bool plain_eat(struct plain *in, const char *word)
{
    size_t len = strlen(word);

    if ((size_t)(in->end - in->p) < len || memcmp(in->p, word, len) != 0)
        return false;
    in->p += len;
    return true;
}

static bool plain_digits(struct plain *in)
{
    const unsigned char *from = in->p;

    while (in->p < in->end && *in->p >= '0' && *in->p <= '9')
        in->p++;
    return in->p > from;
}

static bool plain_number(struct plain *in)
{
    plain_eat(in, "-");
    if (!plain_eat(in, "0") && !plain_digits(in))
        return false;
    if (plain_eat(in, ".") && !plain_digits(in))
        return false;
    if (plain_eat(in, "e") || plain_eat(in, "E")) {
        if (!plain_eat(in, "+"))
            plain_eat(in, "-");
        return plain_digits(in);
    }
    return true;
}

/* One UTF-16 code unit after "\u". */
static bool plain_unit(struct plain *in, unsigned *ret)
{
    char digits[5] = {0}, *stop;

    if (in->end - in->p < 4)
        return false;
    memcpy(digits, in->p, 4);
    if (strspn(digits, "0123456789abcdefABCDEF") != 4)
        return false;
    *ret = (unsigned)strtoul(digits, &stop, 16);
    in->p += 4;
    return true;
}

static bool plain_string(struct plain *in)
{
    const unsigned char *from = ++in->p;
    unsigned unit;

    for (; in->p < in->end; in->p++) {
        if (*in->p == '"')
            return eb_utf8_valid((const char *)from, (size_t)(in->p++ - from));
        if (*in->p < 0x20)
            return false;
        if (*in->p != '\\')
            continue;
        if (++in->p == in->end || !*in->p || !strchr("\"\\/bfnrtu", *in->p))
            return false;
        if (*in->p != 'u')
            continue;
        in->p++;
        if (!plain_unit(in, &unit) || (unit & 0xfc00) == 0xdc00)
            return false;
        if ((unit & 0xfc00) == 0xd800 &&
            (!plain_eat(in, "\\u") || !plain_unit(in, &unit) || (unit & 0xfc00) != 0xdc00))
            return false;
        in->p--;
    }
    return false;
}

static bool plain_container(struct plain *in, bool object, int depth)
{
    const char *close = object ? "}" : "]";

    in->p++;
    plain_space(in);
    if (plain_eat(in, close))
        return true;
    for (;;) {
        if (object) {
            plain_space(in);
            if (in->p == in->end || *in->p != '"' || !plain_string(in))
                return false;
            plain_space(in);
            if (!plain_eat(in, ":"))
                return false;
        }
        if (!plain_value(in, depth))
            return false;
        if (plain_eat(in, close))
            return true;
        if (!plain_eat(in, ","))
            return false;
    }
}

static bool plain_value(struct plain *in, int depth)
{
    bool ok;

    plain_space(in);
    if (in->p == in->end)
        return false;
    if (*in->p == '"')
        ok = plain_string(in);
    else if (*in->p == '[' || *in->p == '{')
        ok = depth < EB_JSON_DEPTH && plain_container(in, *in->p == '{', depth + 1);
    else
        ok = plain_eat(in, "null") || plain_eat(in, "true") || plain_eat(in, "false") ||
             plain_number(in);
    plain_space(in);
    return ok;
}

static bool plain_valid(const char *text, size_t len)
{
    struct plain in = {(const unsigned char *)text, (const unsigned char *)text + len};

    return plain_value(&in, 0) && in.p == in.end;
}
