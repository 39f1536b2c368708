/* writer_fixture.h - what the tests of the writer share: one store each, its counters, their names. */
#pragma once

#include "fixture.h"

static inline int setup(void **state)
{
    *state = calloc(1, sizeof(struct fixture));
    return *state ? 0 : -1;
}

static inline int teardown(void **state)
{
    struct fixture *fx = *state;
    eb_store_close(fx->store);
    free(fx);
    return 0;
}

static inline struct eb_store_counters counters_of(struct fixture *fx)
{
    struct eb_store_counters counters;
    eb_store_counters(fx->store, &counters);
    return counters;
}

#define TEST(name)                                                                                 \
    {                                                                                              \
        "writer/" #name, name, setup, teardown, NULL                                               \
    }
