/*
 * worklist_blocks.c - the open events of a consumer in the form that is stored: a version byte, then for each, in
 * seq order, three or four numbers in LEB128: offset from the one before (the first: from the block's begin), then
 * deliveries * 8 + ended * 4 + extra * 2 + waiting, and, when it waits, its time in wall clock milliseconds.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/worklist_internal.h"

#define VERSION 1
#define JOB_MAX 17 /* bytes: 2 for the offset, 5 for deliveries and flags, 10 for a time */

static size_t put_number(uint8_t *out, uint64_t value)
{
    size_t len = 0;

    for (; value >= 0x80; value >>= 7)
        out[len++] = (uint8_t)(value | 0x80);
    out[len++] = (uint8_t)value;
    return len;
}

static bool get_number(const uint8_t *data, size_t len, size_t *at, uint64_t *ret)
{
    *ret = 0;
    for (unsigned shift = 0; shift < 64 && *at < len; shift += 7) {
        uint8_t byte = data[(*at)++];
        *ret |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

/* When a restart may deliver it again; 0: at once. */
static int64_t due_wall(const struct eb_job *job, int64_t wall_ms)
{
    if (job->state == EB_JOB_WAITING)
        return job->at_ms + wall_ms;
    return job->state == EB_JOB_RECALL && job->due_ms > 0 ? job->due_ms + wall_ms : 0;
}

static size_t put_block(uint8_t *out, const struct eb_job_block *block, int64_t wall_ms)
{
    const struct eb_job *by_offset[EB_WORKLIST_BLOCK] = {0};
    uint64_t last = 0;
    size_t len = 0;

    for (const struct eb_job *job = block->jobs; job; job = job->block_next)
        by_offset[job->seq % EB_WORKLIST_BLOCK] = job;
    out[len++] = VERSION;
    for (uint64_t offset = 0; offset < EB_WORKLIST_BLOCK; offset++) {
        const struct eb_job *job = by_offset[offset];
        if (!job || job->state == EB_JOB_BURYING)
            continue;
        int64_t due = due_wall(job, wall_ms);
        len += put_number(out + len, offset - last);
        len += put_number(out + len, (uint64_t)job->deliveries << 3 | (job->ended ? 4 : 0) |
                                         (job->extra ? 2 : 0) | (due > 0));
        if (due > 0)
            len += put_number(out + len, (uint64_t)due);
        last = offset;
    }
    return len > 1 ? len : 0;
}

/* Blocks that were stored empty are needed no longer. */
static void sweep(struct eb_worklist *list)
{
    size_t kept = 0;

    for (size_t i = 0; i < list->block_count; i++) {
        list->blocks[i].dirty = false;
        if (list->blocks[i].count > 0)
            list->blocks[kept++] = list->blocks[i];
    }
    list->block_count = kept;
}

int eb_worklist_collect(struct eb_worklist *list, int64_t wall_ms, struct eb_worklist_delta *ret)
{
    size_t count = 0, bytes = 0;

    *ret =
        (struct eb_worklist_delta){.next = list->next, .first_open = eb_worklist_first_open(list)};
    for (size_t i = 0; i < list->block_count; i++) {
        if (!list->blocks[i].dirty)
            continue;
        count++;
        bytes += 1 + (size_t)list->blocks[i].count * JOB_MAX;
    }
    if (count == 0)
        return 0;
    ret->memory = malloc(count * sizeof(*ret->blocks) + bytes);
    if (!ret->memory)
        return -ENOMEM;
    ret->blocks = ret->memory;
    uint8_t *out = (uint8_t *)(ret->blocks + count);
    for (size_t i = 0; i < list->block_count; i++) {
        const struct eb_job_block *block = &list->blocks[i];
        if (!block->dirty)
            continue;
        size_t len = block->count > 0 ? put_block(out, block, wall_ms) : 0;
        ret->blocks[ret->count++] = (struct eb_worklist_block){block->number, out, len};
        out += len;
    }
    sweep(list);
    return 0;
}

void eb_worklist_uncollect(struct eb_worklist *list, const struct eb_worklist_delta *delta)
{
    for (size_t i = 0; i < delta->count; i++) {
        struct eb_job_block *block = eb_job_block_get(list, delta->blocks[i].number);
        if (block) /* without memory for an empty one, its stale form is overwritten by a later change or stays:
                      what it says is open is delivered once more, which is allowed */
            block->dirty = true;
    }
}

void eb_worklist_delta_finish(struct eb_worklist_delta *delta)
{
    free(delta->memory);
    *delta = (struct eb_worklist_delta){0};
}

int eb_worklist_load(struct eb_worklist *list, uint64_t number, const uint8_t *data, size_t len,
                     int64_t wall_ms)
{
    uint64_t offset = 0, flags, step, due;
    size_t at = 1;

    if (len == 0 || data[0] != VERSION)
        return -EBADMSG;
    while (at < len) {
        bool first = at == 1;
        if (!get_number(data, len, &at, &step) || !get_number(data, len, &at, &flags))
            return -EBADMSG;
        due = 0;
        if ((flags & 1) && !get_number(data, len, &at, &due))
            return -EBADMSG;
        offset += step;
        if ((!first && step == 0) || step >= EB_WORKLIST_BLOCK || offset >= EB_WORKLIST_BLOCK ||
            flags >> 3 > UINT32_MAX || due > INT64_MAX)
            return -EBADMSG;
        struct eb_job_saved saved = {
            .seq = number * EB_WORKLIST_BLOCK + offset,
            .deliveries = (uint32_t)(flags >> 3),
            .due_ms = due > 0 ? (int64_t)due - wall_ms : 0,
            .extra = flags & 2,
            .ended = flags & 4,
        };
        if (due > 0 && saved.due_ms <= 0)
            saved.due_ms = 1; /* long past: still not "did not wait" */
        int rc = eb_worklist_restore(list, &saved);
        if (rc < 0)
            return rc;
    }
    struct eb_job_block *block = eb_job_block_find(list, number);
    if (block)
        block->dirty = false; /* it is what is stored */
    return 0;
}

int eb_worklist_copy(struct eb_worklist *list, const struct eb_worklist_config *config,
                     struct eb_worklist **ret)
{
    struct eb_worklist_delta delta;
    int rc;

    for (size_t i = 0; i < list->block_count; i++)
        list->blocks[i].dirty = true;
    rc = eb_worklist_collect(list, 0, &delta);
    if (rc < 0)
        return rc;
    rc = eb_worklist_create(config, delta.next, ret);
    for (size_t i = 0; rc == 0 && i < delta.count; i++) {
        if (delta.blocks[i].len > 0)
            rc = eb_worklist_load(*ret, delta.blocks[i].number, delta.blocks[i].data,
                                  delta.blocks[i].len, 0);
        if (rc < 0)
            eb_worklist_destroy(*ret);
    }
    if (rc == 0)
        eb_worklist_uncollect(*ret, &delta);
    else
        eb_worklist_uncollect(list, &delta);
    eb_worklist_delta_finish(&delta);
    return rc;
}
