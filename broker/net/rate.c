/* rate.c - a token bucket that holds one second's worth (publish_rate). */
#include "broker/net/internal.h"
#include "common/clock.h"

/*
 * A request for more than the bucket ever holds is let through when it is full and leaves a debt: a batch above
 * the rate would otherwise never be taken.
 */
bool eb_rate_take(struct eb_rate *rate, double per_second, double n)
{
    if (per_second <= 0)
        return true;
    double size = per_second < 1 ? 1 : per_second;
    int64_t now = eb_mono_us();

    if (rate->at_us == 0)
        rate->tokens = size;
    else
        rate->tokens += (double)(now - rate->at_us) * per_second / 1e6;
    rate->at_us = now;
    if (rate->tokens > size)
        rate->tokens = size;
    if (rate->tokens < (n < size ? n : size))
        return false;
    rate->tokens -= n;
    return true;
}
