/*
 * crc32c.h - the two ways of eb_crc32c() (text.h), each by itself so that tests can compare them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/** With tables; anywhere. */
uint32_t eb_crc32c_tables(uint32_t crc, const void *data, size_t len);
/** Does this processor have the instruction? */
bool eb_crc32c_has_instruction(void);
/** With the instruction; only if it is there. */
uint32_t eb_crc32c_instruction(uint32_t crc, const void *data, size_t len);

/*
 * Its steps, for who has the parts of one checksum at hand and not in one piece: begin with UINT32_MAX, and the checksum
 * is the complement of what the last gives.
 */
#ifdef __x86_64__
#define EB_CRC32C_STEPS __attribute__((target("sse4.2"))) /* of every function that uses them */

EB_CRC32C_STEPS static inline uint64_t eb_crc32c_step_u64(uint64_t state, uint64_t value)
{
    return __builtin_ia32_crc32di(state, value);
}

EB_CRC32C_STEPS static inline uint64_t eb_crc32c_step(uint64_t state, const void *data, size_t len)
{
    const unsigned char *at = (const unsigned char *)data;
    uint64_t eight[4];

    for (; len >= 32; at += 32, len -= 32) {
        memcpy(eight, at, 32);
        state = __builtin_ia32_crc32di(state, eight[0]);
        state = __builtin_ia32_crc32di(state, eight[1]);
        state = __builtin_ia32_crc32di(state, eight[2]);
        state = __builtin_ia32_crc32di(state, eight[3]);
    }
    for (; len >= 8; at += 8, len -= 8) {
        memcpy(eight, at, 8);
        state = __builtin_ia32_crc32di(state, eight[0]);
    }
    if (len & 4) {
        uint32_t four;
        memcpy(&four, at, 4);
        state = __builtin_ia32_crc32si((uint32_t)state, four);
        at += 4;
    }
    for (len &= 3; len > 0; at++, len--)
        state = __builtin_ia32_crc32qi((uint32_t)state, *at);
    return state;
}
#endif
