/*
 * crc32c.h - the two ways of eb_crc32c() (text.h), each by itself so that tests can compare them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** With tables; anywhere. */
uint32_t eb_crc32c_tables(uint32_t crc, const void *data, size_t len);
/** Does this processor have the instruction? */
bool eb_crc32c_has_instruction(void);
/** With the instruction; only if it is there. */
uint32_t eb_crc32c_instruction(uint32_t crc, const void *data, size_t len);
