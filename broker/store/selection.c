/* selection.c - what a stream of events wants: its patterns, and what an engine has learned about them. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/engine.h"

int eb_selection_create(const struct eb_pattern *patterns, size_t count, struct eb_selection **ret)
{
    static _Atomic uint64_t numbers;
    struct eb_selection *selection = calloc(1, sizeof *selection);
    if (!selection)
        return -ENOMEM;
    selection->number = atomic_fetch_add_explicit(&numbers, 1, memory_order_relaxed) + 1;
    selection->patterns = malloc((count ? count : 1) * sizeof *patterns);
    if (!selection->patterns) {
        free(selection);
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        selection->patterns[i] = patterns[i];
        if (patterns[i].len == 1 && patterns[i].text[0] == '#')
            selection->all = true;
    }
    selection->count = count;
    *ret = selection;
    return 0;
}

void eb_selection_destroy(struct eb_selection *selection)
{
    if (!selection)
        return;
    free(selection->patterns);
    free(selection->ids);
    free(selection->engine_state);
    free(selection);
}

bool eb_selection_match(const struct eb_selection *selection, const char *topic, size_t len)
{
    if (selection->all && topic[0] != '$' && topic[0] != '_')
        return true;
    for (size_t i = 0; i < selection->count; i++)
        if (eb_pattern_match(&selection->patterns[i], topic, len))
            return true;
    return false;
}
