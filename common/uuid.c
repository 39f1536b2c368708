/*
 * uuid.c - UUIDs: made (v4, v5, v7), read and written.
 *
 * A v7 is (RFC 9562 6.2, method 3, then 1)
 *
 *      48 bits milliseconds | 7 | 12 bits of a millisecond's 1/4096 | 2 | 62 random bits
 *
 * (U1) The first two fields are one 60-bit number taken from a shared atomic: the clock if it has
 *      moved on, else the last number + 1. So they rise strictly over all threads; when the clock
 *      jumps back, or more than 4096 are made in a millisecond, they run ahead of it until it
 *      has caught up.
 * (U2) Random bytes come from getrandom(2) in bulk, for each thread. A forked child never uses
 *      what its parent had left, which would make both give the same ids.
 */
#include "common/uuid.h"

#include <errno.h>
#include <nettle/sha1.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define POOL_BYTES 256 /* up to here getrandom(2) is never cut short by a signal */

const uint8_t eb_uuid_namespace[16] = {0x39, 0xf5, 0xce, 0x6a, 0x4e, 0xad, 0x54, 0x0a,
                                       0x9b, 0x0b, 0x13, 0x9e, 0xb7, 0x92, 0xe6, 0x4f};

static atomic_uint generation = 1; /* [a] counts forks on the way from the first process to this */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static _Thread_local struct {
    unsigned generation; /* of the process that filled it; 0: empty */
    unsigned used;
    uint8_t bytes[POOL_BYTES];
} pool;

static void after_fork(void)
{
    atomic_fetch_add(&generation, 1);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, after_fork);
}

static void refill(unsigned now)
{
    ssize_t n;

    pthread_once(&fork_once, watch_forks);
    do {
        n = getrandom(pool.bytes, POOL_BYTES, 0);
    } while (n < 0 && errno == EINTR);
    if (n != POOL_BYTES) {
        /* Only a kernel without the call, or a filter that forbids it. Ids that repeat lose events. */
        fprintf(stderr, "eb_uuid: getrandom: %s\n", strerror(errno));
        abort();
    }
    pool.generation = now;
    pool.used = 0;
}

static void random_bytes(uint8_t *out, unsigned len)
{
    unsigned now = atomic_load_explicit(&generation, memory_order_relaxed);

    if (pool.generation != now || pool.used + len > POOL_BYTES)
        refill(now);
    memcpy(out, pool.bytes + pool.used, len);
    pool.used += len;
}

static void stamp(uint8_t id[16], unsigned version)
{
    id[6] = (uint8_t)(id[6] & 0x0F) | (uint8_t)(version << 4);
    id[8] = (id[8] & 0x3F) | 0x80;
}

void eb_uuid_v4(uint8_t out[16])
{
    random_bytes(out, 16);
    stamp(out, 4);
}

/* The next 60-bit number of U1. */
static uint64_t next_tick(void)
{
    static _Atomic uint64_t last; /* [a] */
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    uint64_t ms = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
    uint64_t now = ms << 12 | ((uint64_t)ts.tv_nsec % 1000000 << 12) / 1000000;
    uint64_t seen = atomic_load_explicit(&last, memory_order_relaxed), next;
    do {
        next = now > seen ? now : seen + 1;
    } while (!atomic_compare_exchange_weak(&last, &seen, next));
    return next;
}

void eb_uuid_v7(uint8_t out[16])
{
    uint64_t tick = next_tick();

    for (int i = 0; i < 6; i++)
        out[i] = (uint8_t)(tick >> (52 - 8 * i));
    out[6] = (uint8_t)(tick >> 8 & 0x0F);
    out[7] = (uint8_t)tick;
    random_bytes(out + 8, 8);
    stamp(out, 7);
}

void eb_uuid_v5(uint8_t out[16], const void *name, size_t len)
{
    struct sha1_ctx sha1;

    sha1_init(&sha1);
    sha1_update(&sha1, sizeof(eb_uuid_namespace), eb_uuid_namespace);
    sha1_update(&sha1, len, name);
    sha1_digest(&sha1, 16, out);
    stamp(out, 5);
}

/* Is there a hyphen in front of byte @i? */
static bool hyphen_before(int i)
{
    return i == 4 || i == 6 || i == 8 || i == 10;
}

/* The 32 digits. */
static void format_digits(char out[32], const uint8_t id[16])
{
#ifdef __SSE2__
    __m128i bytes = _mm_loadu_si128((const __m128i *)id), low4 = _mm_set1_epi8(0x0f);
    __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), low4);
    __m128i low = _mm_and_si128(bytes, low4);
    for (int half = 0; half < 2; half++) {
        __m128i v = half ? _mm_unpackhi_epi8(high, low) : _mm_unpacklo_epi8(high, low);
        __m128i letter = _mm_cmpgt_epi8(v, _mm_set1_epi8(9));
        v = _mm_add_epi8(v, _mm_set1_epi8('0'));
        v = _mm_add_epi8(v, _mm_and_si128(letter, _mm_set1_epi8('a' - '0' - 10)));
        _mm_storeu_si128((__m128i *)(out + 16 * half), v);
    }
#else
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < 16; i++) {
        out[2 * i] = digits[id[i] >> 4];
        out[2 * i + 1] = digits[id[i] & 15];
    }
#endif
}

void eb_uuid_format(char out[EB_UUID_TEXT + 1], const uint8_t id[16])
{
    char digits[32];

    format_digits(digits, id);
    memcpy(out, digits, 8);
    memcpy(out + 9, digits + 8, 4);
    memcpy(out + 14, digits + 12, 4);
    memcpy(out + 19, digits + 16, 4);
    memcpy(out + 24, digits + 20, 12);
    out[8] = out[13] = out[18] = out[23] = '-';
    out[EB_UUID_TEXT] = '\0';
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool eb_uuid_parse(uint8_t out[16], const char *text, size_t len)
{
    static const char urn[] = "urn:uuid:";
    const size_t urn_len = sizeof(urn) - 1;
    uint8_t id[16];

    if (len == urn_len + EB_UUID_TEXT && strncasecmp(text, urn, urn_len) == 0) {
        text += urn_len;
        len -= urn_len;
    } else if (len >= 2 && text[0] == '{' && text[len - 1] == '}') {
        text++;
        len -= 2;
    }
    if (len != EB_UUID_TEXT && len != 32)
        return false;
    for (int i = 0; i < 16; i++, text += 2) {
        if (len == EB_UUID_TEXT && hyphen_before(i) && *text++ != '-')
            return false;
        int high = hex(text[0]), low = hex(text[1]);
        if (high < 0 || low < 0)
            return false;
        id[i] = (uint8_t)(high << 4 | low);
    }
    memcpy(out, id, sizeof(id));
    return true;
}
