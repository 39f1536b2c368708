/* clock.c - the two clocks. */
#include "common/clock.h"

#include <time.h>

static int64_t read_us(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t eb_wall_ms(void)
{
    return read_us(CLOCK_REALTIME) / 1000;
}

int64_t eb_mono_ms(void)
{
    return read_us(CLOCK_MONOTONIC) / 1000;
}

int64_t eb_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}
