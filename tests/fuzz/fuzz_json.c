/*
 * fuzz_json.c - any bytes as JSON text: the reader agrees with the obvious one (json_plain.h), its tokens are
 * sound, every string unescapes to valid UTF-8 and is the same after being written and read again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/common/json_plain.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_string(struct eb_json *json, uint32_t tok, struct eb_buf *out,
                         struct eb_json *again)
{
    struct eb_error err;
    size_t len, len2;
    const char *text = eb_json_string(json, tok, &len);

    CHECK(eb_utf8_valid(text, len) && len <= json->tokens[tok].len);
    CHECK(eb_json_equals(json, tok, text, len));
    out->len = 0;
    eb_json_write_string(out, text, len);
    CHECK(eb_json_parse(again, out->data, out->len, &err) == 0 && again->count == 1);
    const char *text2 = eb_json_string(again, 0, &len2);
    CHECK(len == len2 && memcmp(text, text2, len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct eb_json json, again; /* kept from input to input, as a connection does */
    static struct eb_buf out;
    struct eb_error err;
    int64_t number;

    bool ok = eb_json_parse(&json, (const char *)data, size, &err) == 0;
    CHECK(ok == plain_valid((const char *)data, size));
    if (!ok) {
        CHECK(err.code == EB_INVALID_JSON && eb_utf8_valid(err.message, strlen(err.message)));
        return 0;
    }
    CHECK(json.tokens[0].next == json.count);
    for (uint32_t i = 0; i < json.count; i++) {
        const struct eb_json_token *token = &json.tokens[i];
        CHECK(token->next > i && token->next <= json.count);
        CHECK((size_t)token->start + token->len <= size);
        if (token->type == EB_JSON_STRING && i < 64)
            check_string(&json, i, &out, &again);
        eb_json_int64(&json, i, &number);
    }
    size_t len;
    eb_json_member(&json, 0, "topic");
    eb_json_last_name(&json, 0, &len);
    return 0;
}
