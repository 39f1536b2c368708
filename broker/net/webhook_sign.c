/* webhook_sign.c - the secret and the signature of Standard Webhooks (symmetric, v1). */
#include <inttypes.h>
#include <nettle/hmac.h>
#include <stdio.h>
#include <string.h>

#include "broker/net/webhook.h"
#include "common/text.h"

#define PREFIX "whsec_"

ptrdiff_t eb_webhook_secret_parse(uint8_t ret[EB_WEBHOOK_SECRET_MAX], const char *text, size_t len,
                                  struct eb_error *err)
{
    const size_t prefix = strlen(PREFIX);
    uint8_t bytes[EB_WEBHOOK_SECRET_MAX + 8];
    ptrdiff_t n = -1;

    if (len > prefix && memcmp(text, PREFIX, prefix) == 0 &&
        len - prefix <= eb_base64_length(EB_WEBHOOK_SECRET_MAX))
        n = eb_base64_decode(bytes, text + prefix, len - prefix);
    if (n < EB_WEBHOOK_SECRET_MIN || n > EB_WEBHOOK_SECRET_MAX)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "a webhook's secret is \"whsec_\" and base64 of %d to %d random bytes",
                       EB_WEBHOOK_SECRET_MIN, EB_WEBHOOK_SECRET_MAX);
    memcpy(ret, bytes, (size_t)n);
    return n;
}

void eb_webhook_sign(char ret[EB_WEBHOOK_SIGNATURE], const uint8_t *secret, size_t secret_len,
                     const char *id, int64_t timestamp, const void *body, size_t len)
{
    struct hmac_sha256_ctx ctx;
    uint8_t digest[SHA256_DIGEST_SIZE];
    char stamp[32];
    int n = snprintf(stamp, sizeof(stamp), ".%" PRId64 ".", timestamp);

    hmac_sha256_set_key(&ctx, secret_len, secret);
    hmac_sha256_update(&ctx, strlen(id), (const uint8_t *)id);
    hmac_sha256_update(&ctx, (size_t)n, (const uint8_t *)stamp);
    hmac_sha256_update(&ctx, len, body);
    hmac_sha256_digest(&ctx, sizeof(digest), digest);
    memcpy(ret, "v1,", 3);
    ret[3 + eb_base64_encode(ret + 3, digest, sizeof(digest))] = '\0';
}
