/*
 * reader.c - what a reader can ask beside its pages (store.c): the engine's answers, kept from looking past what is
 * committed and announced.
 */
#include <errno.h>

#include "broker/store/internal.h"

/* Where an engine has no way of its own: one after the other. */
static ptrdiff_t one_by_one(struct eb_reader *reader, const uint64_t *seqs, size_t count,
                            size_t max_bytes, struct eb_event **events, int *errs)
{
    struct eb_engine *engine = reader->store->engine;
    size_t bytes = 0, i;

    for (i = 0; i < count && (i == 0 || bytes < max_bytes); i++) {
        events[i] = NULL;
        errs[i] = engine->ops->event(engine, reader->impl, seqs[i], &events[i]);
        if (errs[i] == -EIO || errs[i] == -ENOMEM)
            return i ? (ptrdiff_t)i : errs[i];
        bytes += events[i] ? eb_event_size(events[i]) : 0;
    }
    return (ptrdiff_t)i;
}

ptrdiff_t eb_reader_events(struct eb_reader *reader, const uint64_t *seqs, size_t count,
                           size_t max_bytes, struct eb_event **events, int *errs)
{
    struct eb_engine *engine = reader->store->engine;
    uint64_t last = eb_store_last_seq(reader->store);
    size_t known = 0;

    while (known < count && seqs[known] <= last)
        known++;
    if (known == 0 && count) {
        events[0] = NULL;
        errs[0] = -ENOENT;
        return 1;
    }
    if (!engine->ops->events)
        return one_by_one(reader, seqs, known, max_bytes, events, errs);
    return engine->ops->events(engine, reader->impl, seqs, known, max_bytes, events, errs);
}

int eb_reader_first_at(struct eb_reader *reader, int64_t time_ms, uint64_t *ret)
{
    struct eb_engine *engine = reader->store->engine;
    uint64_t last = eb_store_last_seq(reader->store), seq;
    int rc = engine->ops->first_at(engine, reader->impl, time_ms, &seq);

    if (rc == 0)
        *ret = seq <= last ? seq : last + 1;
    return rc == 0 || rc == -ENOMEM ? rc : -EIO;
}

int eb_reader_count(struct eb_reader *reader, struct eb_selection *selection, uint64_t from,
                    uint64_t upto, uint64_t *ret)
{
    struct eb_engine *engine = reader->store->engine;
    uint64_t last = eb_store_last_seq(reader->store);

    *ret = 0;
    from = from ? from : 1;
    upto = upto < last ? upto : last;
    if (from > upto)
        return 0;
    return engine->ops->count(engine, reader->impl, selection, from, upto, ret);
}

ptrdiff_t eb_reader_dead(struct eb_reader *reader, uint64_t consumer, uint64_t after, uint64_t *ret,
                         size_t max)
{
    struct eb_engine *engine = reader->store->engine;

    return engine->ops->dead(engine, reader->impl, consumer, after, ret, max);
}

int eb_reader_last(struct eb_reader *reader, const char *topic, size_t len, struct eb_event **ret)
{
    struct eb_engine *engine = reader->store->engine;

    return engine->ops->last(engine, reader->impl, topic, len, eb_store_last_seq(reader->store),
                             ret);
}

int eb_reader_last_seqs(struct eb_reader *reader, struct eb_selection *selection, uint64_t upto,
                        uint64_t **ret, size_t *ret_count)
{
    struct eb_engine *engine = reader->store->engine;
    uint64_t last = eb_store_last_seq(reader->store);

    return engine->ops->last_seqs(engine, reader->impl, selection, upto < last ? upto : last, ret,
                                  ret_count);
}

ptrdiff_t eb_reader_scheduled(struct eb_reader *reader, uint64_t after, struct eb_scheduled *ret,
                              size_t max)
{
    struct eb_engine *engine = reader->store->engine;

    if (!engine->ops->scheduled)
        return 0;
    return engine->ops->scheduled(engine, reader->impl, after, ret, max);
}
