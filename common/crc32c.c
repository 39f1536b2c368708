/*
 * crc32c.c - CRC32C (Castagnoli; RFC 3720 B.4) by the processor's instruction or by eight tables.
 */
#include "common/crc32c.h"

#include <endian.h>
#include <pthread.h>
#include <string.h>

#include "common/text.h"

#define POLYNOMIAL 0x82F63B78u /* bit-reversed */

static uint32_t tables[8][256]; /* tables[k][b]: byte b followed by k zero bytes */
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        tables[0][b] = crc;
    }
    for (uint32_t b = 0; b < 256; b++) {
        for (int k = 1; k < 8; k++)
            tables[k][b] = tables[k - 1][b] >> 8 ^ tables[0][tables[k - 1][b] & 0xFF];
    }
}

uint32_t eb_crc32c_tables(uint32_t crc, const void *data, size_t len)
{
    const unsigned char *at = data;

    pthread_once(&tables_once, make_tables);
    crc = ~crc;
    for (; len >= 8; at += 8, len -= 8) {
        uint64_t eight;
        memcpy(&eight, at, 8);
        eight = le64toh(eight) ^ crc;
        crc = 0;
        for (int k = 0; k < 8; k++)
            crc ^= tables[7 - k][eight >> (8 * k) & 0xFF];
    }
    for (; len > 0; at++, len--)
        crc = crc >> 8 ^ tables[0][(crc ^ *at) & 0xFF];
    return ~crc;
}

#ifdef __x86_64__

bool eb_crc32c_has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2");
}

EB_CRC32C_STEPS uint32_t eb_crc32c_instruction(uint32_t crc, const void *data, size_t len)
{
    return ~(uint32_t)eb_crc32c_step((uint32_t)~crc, data, len);
}

#else

bool eb_crc32c_has_instruction(void)
{
    return false;
}

uint32_t eb_crc32c_instruction(uint32_t crc, const void *data, size_t len)
{
    return eb_crc32c_tables(crc, data, len);
}

#endif

uint32_t eb_crc32c(uint32_t crc, const void *data, size_t len)
{
    return eb_crc32c_has_instruction() ? eb_crc32c_instruction(crc, data, len)
                                       : eb_crc32c_tables(crc, data, len);
}
