/*
 * address.h - where the broker may connect to by itself: addresses that anybody can reach, and what the operator allows.
 * After IANA's registries of special-purpose addresses (RFC 6890).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/error.h"

struct eb_network { /* an IPv4 network is kept as ::ffff:0:0/96 of it */
    uint8_t address[16];
    uint8_t bits;
};

/** "10.0.0.0/8", "::1", "fd00::/8". -1 with @err: EB_INVALID_REQUEST. */
int eb_network_parse(struct eb_network *ret, const char *text, size_t len, struct eb_error *err);
/** A list of them, separated by commas and blanks. Malloc'd; NULL and 0 for an empty one. */
int eb_networks_parse(struct eb_network **ret, size_t *ret_count, const char *text,
                      struct eb_error *err);
/** Neither loopback, private, link-local, shared, multicast, reserved nor documentation; also not inside IPv6. */
bool eb_address_global(const struct sockaddr *address);
bool eb_address_in(const struct sockaddr *address, const struct eb_network *networks, size_t count);
