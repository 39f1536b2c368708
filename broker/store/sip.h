/*
 * sip.h - SipHash-1-3 of exactly 16 bytes: a hash under a secret, for what clients choose or must not be able to make.
 */
#pragma once

#include <stdint.h>

static inline uint64_t eb_sip_rotl(uint64_t x, int b)
{
    return (x << b) | (x >> (64 - b));
}

static inline void eb_sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = eb_sip_rotl(v[1], 13) ^ v[0];
    v[0] = eb_sip_rotl(v[0], 32);
    v[2] += v[3];
    v[3] = eb_sip_rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = eb_sip_rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = eb_sip_rotl(v[1], 17) ^ v[2];
    v[2] = eb_sip_rotl(v[2], 32);
}

static inline uint64_t eb_sip16(const uint64_t key[2], uint64_t first, uint64_t second)
{
    const uint64_t m[3] = {first, second, (uint64_t)16 << 56};
    uint64_t v[4] = {
        key[0] ^ 0x736f6d6570736575u,
        key[1] ^ 0x646f72616e646f6du,
        key[0] ^ 0x6c7967656e657261u,
        key[1] ^ 0x7465646279746573u,
    };
    for (int i = 0; i < 3; i++) {
        v[3] ^= m[i];
        eb_sip_round(v);
        v[0] ^= m[i];
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        eb_sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
