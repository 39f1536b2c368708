/* made.c - ids that say their seq (made.h). */
#include "broker/store/made.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "broker/store/sip.h"
#include "common/text.h"

#define SEQ_BITS   42
#define SEQ_MASK   ((UINT64_C(1) << SEQ_BITS) - 1)
#define LOW_BITS   30
#define LOW_MASK   ((UINT64_C(1) << LOW_BITS) - 1)
#define TIME_MASK  ((UINT64_C(1) << 48) - 1)
#define VERSION(h) ((h) >> 12 & 15)

int eb_made_init(struct eb_made *made)
{
    ssize_t n;
    *made = (struct eb_made){.era = 1};
    do
        n = getrandom(made->key, sizeof made->key, 0);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof made->key ? 0 : n < 0 ? -errno : -EIO;
}

void eb_made_new_era(struct eb_made *made, uint64_t last_seq)
{
    if (last_seq > made->from)
        made->before = made->era;
    made->from = last_seq;
    made->era++;
}

/* The two halves of an id, most significant byte first. */
struct halves {
    uint64_t high, low;
};

static struct halves make(const struct eb_made *made, uint64_t seq, uint64_t time)
{
    uint64_t era = seq > made->from ? made->era : made->before;
    uint64_t hash = eb_sip16(made->key, seq, time | era << 48);
    return (struct halves){
        .high = time << 16 | UINT64_C(7) << 12 | (seq >> LOW_BITS & 0xfff),
        .low = UINT64_C(2) << 62 | (seq & LOW_MASK) << 32 | (uint32_t)hash,
    };
}

static struct halves read_id(const uint8_t id[16])
{
    struct halves h;
    memcpy(&h, id, 16);
    h.high = __builtin_bswap64(h.high);
    h.low = __builtin_bswap64(h.low);
    return h;
}

void eb_made_id(const struct eb_made *made, uint8_t id[16], uint64_t seq, int64_t timestamp)
{
    struct halves h = make(made, seq, (uint64_t)timestamp & TIME_MASK);
    h.high = __builtin_bswap64(h.high);
    h.low = __builtin_bswap64(h.low);
    memcpy(id, &h, 16);
}

bool eb_made_is(const struct eb_made *made, const uint8_t id[16], uint64_t seq, int64_t timestamp)
{
    struct halves h = read_id(id), want;
    if (h.high >> 16 != ((uint64_t)timestamp & TIME_MASK) || VERSION(h.high) != 7)
        return false; /* most others, without a hash */
    want = make(made, seq, h.high >> 16);
    return h.high == want.high && h.low == want.low;
}

uint64_t eb_made_seq(const struct eb_made *made, const uint8_t id[16], uint64_t floor,
                     uint64_t last, int64_t *ret_timestamp)
{
    struct halves h = read_id(id), want;
    uint64_t bits = (h.high & 0xfff) << LOW_BITS | (h.low >> 32 & LOW_MASK);
    uint64_t behind = (last - bits) & SEQ_MASK; /* the newest seq with these bits */
    if (VERSION(h.high) != 7 || last <= floor || behind >= last - floor)
        return 0;
    want = make(made, last - behind, h.high >> 16);
    if (h.high != want.high || h.low != want.low)
        return 0;
    *ret_timestamp = (int64_t)(h.high >> 16);
    return last - behind;
}

/* ---- as text ---- */

static uint32_t check_of(const char *text, size_t len)
{
    return eb_crc32c(0, text, len);
}

void eb_made_format(const struct eb_made *made, const char *epoch, char out[EB_MADE_TEXT])
{
    int len = snprintf(out, EB_MADE_TEXT,
                       "%016" PRIx64 "%016" PRIx64 " %" PRIu64 " %" PRIu32 " %" PRIu32 " %.36s",
                       made->key[0], made->key[1], made->from, made->era, made->before, epoch);
    snprintf(out + len, EB_MADE_TEXT - (size_t)len, " %08" PRIx32, check_of(out, (size_t)len));
}

bool eb_made_parse(const char *text, struct eb_made *ret, char ret_epoch[37])
{
    struct eb_made made;
    char epoch[37], again[EB_MADE_TEXT];
    if (sscanf(text, "%16" SCNx64 "%16" SCNx64 " %" SCNu64 " %" SCNu32 " %" SCNu32 " %36s",
               &made.key[0], &made.key[1], &made.from, &made.era, &made.before, epoch) != 6)
        return false;
    eb_made_format(&made, epoch, again); /* its checksum as well */
    if (strcmp(again, text) != 0)
        return false;
    *ret = made;
    if (ret_epoch)
        memcpy(ret_epoch, epoch, sizeof epoch);
    return true;
}
