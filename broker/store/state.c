/* state.c - what others keep in the log's file (state.h): asked of the engine. */
#include "broker/store/state.h"

#include "broker/store/internal.h"

int eb_store_load_state(struct eb_store *store, const struct eb_state_loader *loader)
{
    const struct eb_engine_ops *ops = store->engine->ops;

    if (!ops->load_state)
        return 0;
    eb_lock_take(&store->commit_lock);
    int rc = ops->load_state(store->engine, loader);
    eb_lock_drop(&store->commit_lock);
    return rc;
}

/* The caller is alone with the engine, or holds the commit lock. */
int eb_store_mark(struct eb_store *store, const char *name, uint64_t *ret)
{
    const struct eb_engine_ops *ops = store->engine->ops;

    *ret = 0;
    return ops->mark ? ops->mark(store->engine, name, ret) : 0;
}

void eb_store_hold(struct eb_store *store, uint64_t seq)
{
    atomic_store(&store->hold, seq == UINT64_MAX ? 0 : seq ? seq : 1);
}
