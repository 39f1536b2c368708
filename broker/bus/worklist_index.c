/*
 * worklist_index.c - how the open events of a consumer are found: by seq, by key, by time; the window of what was
 * looked at past the first open one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/worklist_internal.h"

#define BUCKETS_MIN 64
#define WINDOW_MIN  64

/* ---- jobs by seq ---- */

static uint32_t bucket_of(uint64_t seq, uint32_t buckets)
{
    return (uint32_t)((seq * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (buckets - 1);
}

struct eb_job *eb_job_find(const struct eb_worklist *list, uint64_t seq)
{
    struct eb_job *job = list->jobs[bucket_of(seq, list->job_buckets)];

    while (job && job->seq != seq)
        job = job->hash_next;
    return job;
}

static int grow_jobs(struct eb_worklist *list)
{
    if (list->job_count < list->job_buckets)
        return 0;
    uint32_t buckets = list->job_buckets * 2;
    struct eb_job **jobs = calloc(buckets, sizeof(struct eb_job *));
    if (!jobs)
        return -ENOMEM;
    for (uint32_t i = 0; i < list->job_buckets; i++) {
        for (struct eb_job *next, *job = list->jobs[i]; job; job = next) {
            next = job->hash_next;
            uint32_t to = bucket_of(job->seq, buckets);
            job->hash_next = jobs[to];
            jobs[to] = job;
        }
    }
    free(list->jobs);
    list->jobs = jobs;
    list->job_buckets = buckets;
    return 0;
}

static int reserve_heap(struct eb_worklist *list)
{
    if (list->job_count < list->heap_cap)
        return 0;
    uint32_t cap = list->heap_cap * 2;
    struct eb_job **heap = realloc(list->heap, cap * sizeof(struct eb_job *));
    if (!heap)
        return -ENOMEM;
    list->heap = heap;
    list->heap_cap = cap;
    return 0;
}

struct eb_job *eb_job_make(struct eb_worklist *list, uint64_t seq)
{
    if (grow_jobs(list) < 0 || reserve_heap(list) < 0)
        return NULL;
    struct eb_job_block *block = eb_job_block_get(list, seq / EB_WORKLIST_BLOCK);
    struct eb_job *job = list->spare ? list->spare : malloc(sizeof(*job));
    if (!block || !job) {
        if (!list->spare)
            free(job);
        return NULL;
    }
    if (list->spare)
        list->spare = job->hash_next;
    uint32_t bucket = bucket_of(seq, list->job_buckets);
    *job = (struct eb_job){.seq = seq, .hash_next = list->jobs[bucket], .block_next = block->jobs};
    list->jobs[bucket] = job;
    if (block->jobs)
        block->jobs->block_prev = job;
    block->jobs = job;
    block->count++;
    block->dirty = true;
    list->job_count++;
    return job;
}

void eb_job_drop(struct eb_worklist *list, struct eb_job *job)
{
    struct eb_job **at = &list->jobs[bucket_of(job->seq, list->job_buckets)];
    struct eb_job_block *block = eb_job_block_find(list, job->seq / EB_WORKLIST_BLOCK);

    while (*at != job)
        at = &(*at)->hash_next;
    *at = job->hash_next;
    if (job->block_prev)
        job->block_prev->block_next = job->block_next;
    else
        block->jobs = job->block_next;
    if (job->block_next)
        job->block_next->block_prev = job->block_prev;
    block->count--;
    block->dirty = true;
    list->job_count--;
    job->hash_next = list->spare;
    list->spare = job;
}

void eb_job_mark(struct eb_worklist *list, struct eb_job *job)
{
    eb_job_block_find(list, job->seq / EB_WORKLIST_BLOCK)->dirty = true;
}

static void free_jobs(struct eb_job *job)
{
    while (job) {
        struct eb_job *next = job->hash_next;
        free(job);
        job = next;
    }
}

void eb_job_drop_all(struct eb_worklist *list)
{
    for (uint32_t i = 0; i < list->job_buckets; i++) {
        for (struct eb_job *job = list->jobs[i]; job; job = job->hash_next) {
            if (job->state == EB_JOB_OUT) {
                job->worker->jobs = NULL;
                job->worker->count = 0;
            }
        }
        free_jobs(list->jobs[i]);
        list->jobs[i] = NULL;
    }
    list->job_count = list->heap_count = 0;
    for (uint32_t i = 0; i < list->key_buckets; i++)
        while (list->keys[i])
            eb_job_key_drop(list, list->keys[i]);
    for (size_t i = 0; i < list->block_count; i++) {
        list->blocks[i].dirty = true;
        list->blocks[i].jobs = NULL;
        list->blocks[i].count = 0;
    }
}

/* ---- blocks ---- */

/* Place of the first block whose number is not below @number. */
static size_t block_place(const struct eb_worklist *list, uint64_t number)
{
    size_t low = 0, high = list->block_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (list->blocks[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct eb_job_block *eb_job_block_find(struct eb_worklist *list, uint64_t number)
{
    size_t at = block_place(list, number);

    return at < list->block_count && list->blocks[at].number == number ? &list->blocks[at] : NULL;
}

struct eb_job_block *eb_job_block_get(struct eb_worklist *list, uint64_t number)
{
    size_t at = block_place(list, number);

    if (at < list->block_count && list->blocks[at].number == number)
        return &list->blocks[at];
    if (list->block_count == list->block_cap) {
        size_t cap = list->block_cap ? list->block_cap * 2 : 8;
        struct eb_job_block *blocks = realloc(list->blocks, cap * sizeof(*blocks));
        if (!blocks)
            return NULL;
        list->blocks = blocks;
        list->block_cap = cap;
    }
    memmove(&list->blocks[at + 1], &list->blocks[at],
            (list->block_count - at) * sizeof(list->blocks[0]));
    list->block_count++;
    list->blocks[at] = (struct eb_job_block){.number = number};
    return &list->blocks[at];
}

uint64_t eb_worklist_first_open(const struct eb_worklist *list)
{
    uint64_t first = list->next;

    for (size_t i = 0; i < list->block_count; i++) {
        if (list->blocks[i].count == 0)
            continue;
        for (const struct eb_job *job = list->blocks[i].jobs; job; job = job->block_next)
            if (job->seq < first)
                first = job->seq;
        break;
    }
    return first;
}

/* ---- keys ---- */

static struct eb_job_key **key_bucket(const struct eb_worklist *list, const uint64_t hash[2])
{
    return &list->keys[hash[0] & (list->key_buckets - 1)];
}

static int grow_keys(struct eb_worklist *list)
{
    if (list->key_count < list->key_buckets)
        return 0;
    uint32_t old = list->key_buckets;
    struct eb_job_key **from = list->keys, **to = calloc(old * 2, sizeof(struct eb_job_key *));
    if (!to)
        return -ENOMEM;
    list->keys = to;
    list->key_buckets = old * 2;
    for (uint32_t i = 0; i < old; i++) {
        for (struct eb_job_key *next, *key = from[i]; key; key = next) {
            next = key->hash_next;
            struct eb_job_key **at = key_bucket(list, key->hash);
            key->hash_next = *at;
            *at = key;
        }
    }
    free(from);
    return 0;
}

struct eb_job_key *eb_job_key_get(struct eb_worklist *list, struct eb_order_key order)
{
    struct eb_job_key *key = *key_bucket(list, order.hash);

    while (key && (key->hash[0] != order.hash[0] || key->hash[1] != order.hash[1]))
        key = key->hash_next;
    if (key || grow_keys(list) < 0)
        return key;
    key = calloc(1, sizeof(*key));
    if (!key)
        return NULL;
    key->hash[0] = order.hash[0];
    key->hash[1] = order.hash[1];
    struct eb_job_key **at = key_bucket(list, key->hash);
    key->hash_next = *at;
    *at = key;
    list->key_count++;
    return key;
}

void eb_job_key_drop(struct eb_worklist *list, struct eb_job_key *key)
{
    struct eb_job_key **at = key_bucket(list, key->hash);

    while (*at != key)
        at = &(*at)->hash_next;
    *at = key->hash_next;
    list->key_count--;
    free(key);
}

/* ---- times: a binary heap, the earliest first ---- */

static void heap_put(struct eb_worklist *list, uint32_t at, struct eb_job *job)
{
    list->heap[at] = job;
    job->heap_at = at + 1;
}

static void heap_up(struct eb_worklist *list, uint32_t at, struct eb_job *job)
{
    while (at > 0 && list->heap[(at - 1) / 2]->at_ms > job->at_ms) {
        heap_put(list, at, list->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_put(list, at, job);
}

static void heap_down(struct eb_worklist *list, uint32_t at, struct eb_job *job)
{
    for (uint32_t child; (child = at * 2 + 1) < list->heap_count; at = child) {
        if (child + 1 < list->heap_count && list->heap[child + 1]->at_ms < list->heap[child]->at_ms)
            child++;
        if (list->heap[child]->at_ms >= job->at_ms)
            break;
        heap_put(list, at, list->heap[child]);
    }
    heap_put(list, at, job);
}

void eb_job_heap_add(struct eb_worklist *list, struct eb_job *job, int64_t at_ms)
{
    job->at_ms = at_ms;
    heap_up(list, list->heap_count++, job);
}

void eb_job_heap_remove(struct eb_worklist *list, struct eb_job *job)
{
    uint32_t at = job->heap_at - 1;
    struct eb_job *last = list->heap[--list->heap_count];

    job->heap_at = 0;
    if (last == job)
        return;
    if (at > 0 && list->heap[(at - 1) / 2]->at_ms > last->at_ms)
        heap_up(list, at, last);
    else
        heap_down(list, at, last);
}

/* ---- the window ---- */

int eb_worklist_window_reserve(struct eb_worklist *list)
{
    if (!list->config.ordered || list->window_count < list->window_cap)
        return 0;
    uint32_t cap = list->window_cap ? list->window_cap * 2 : WINDOW_MIN;
    uint64_t *window = malloc(cap * sizeof(*window));
    if (!window)
        return -ENOMEM;
    for (uint32_t i = 0; i < list->window_count; i++)
        window[i] = list->window[(list->window_head + i) & (list->window_cap - 1)];
    free(list->window);
    list->window = window;
    list->window_head = 0;
    list->window_cap = cap;
    return 0;
}

void eb_worklist_window_push(struct eb_worklist *list, uint64_t seq)
{
    if (!list->config.ordered)
        return;
    list->window[(list->window_head + list->window_count++) & (list->window_cap - 1)] = seq;
    eb_worklist_window_pop(list);
}

void eb_worklist_window_pop(struct eb_worklist *list)
{
    while (list->window_count > 0 && !eb_job_find(list, list->window[list->window_head])) {
        list->window_head = (list->window_head + 1) & (list->window_cap - 1);
        list->window_count--;
    }
}

void eb_worklist_window_clear(struct eb_worklist *list)
{
    list->window_head = list->window_count = 0;
}

bool eb_worklist_window_full(const struct eb_worklist *list)
{
    if (!list->config.ordered)
        return list->job_count >= EB_WORKLIST_OPEN;
    return list->window_count >
           list->config.order_window; /* the first open one, and so many past it */
}

/* ---- life ---- */

int eb_worklist_index_create(struct eb_worklist *list)
{
    list->job_buckets = list->key_buckets = list->heap_cap = BUCKETS_MIN;
    list->jobs = calloc(BUCKETS_MIN, sizeof(struct eb_job *));
    list->keys = calloc(BUCKETS_MIN, sizeof(struct eb_job_key *));
    list->heap = calloc(BUCKETS_MIN, sizeof(struct eb_job *));
    if (list->jobs && list->keys && list->heap)
        return 0;
    eb_worklist_index_destroy(list);
    return -ENOMEM;
}

void eb_worklist_index_destroy(struct eb_worklist *list)
{
    free_jobs(list->spare);
    free(list->jobs);
    free(list->keys);
    free(list->heap);
    free(list->blocks);
    free(list->window);
}
