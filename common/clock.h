/* clock.h - the two clocks: wall time for timestamps, monotonic time for waits. */
#pragma once

#include <stdint.h>

int64_t eb_wall_ms(void); /* milliseconds since 1970 UTC */
int64_t eb_mono_ms(void); /* milliseconds, never backward */
int64_t eb_mono_us(void);
