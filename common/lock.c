/*
 * lock.c - mutexes whose order is checked.
 *
 * (K1) The locks a thread holds have strictly rising ranks in the order they were taken: `held`
 *      is sorted, and a take needs to look at its last entry alone. Two locks of one rank at once
 *      are a wrong take like any other.
 * (K2) Locks may be dropped in any order; what remains is still sorted.
 * (K3) A wait gives up only the innermost lock: taking back an outer one while an inner is held
 *      would be a wrong take. The thread runs nothing meanwhile, so its entry stays in place.
 * (K4) A try is checked like a take: the order is one, and a wrong try is found at once rather
 *      than when it happens to succeed.
 */
#include "common/lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef EB_LOCK_CHECK

static const struct {
    const char *name, *what;
} ranks[EB_LOCK_RANK_COUNT] = {
#define X(rank, what) [rank] = {#rank, what},
    EB_LOCK_RANKS(X)
#undef X
};

static _Thread_local struct {
    const struct eb_lock *locks[EB_LOCK_RANK_COUNT];
    unsigned count;
} held;

static _Noreturn void wrong(const char *why, const struct eb_lock *lock,
                            const struct eb_lock *other)
{
    fprintf(stderr, "eb_lock: %s %s (%s)", why, ranks[lock->rank].name, ranks[lock->rank].what);
    if (other)
        fprintf(stderr, " while holding %s (%s)", ranks[other->rank].name, ranks[other->rank].what);
    fputc('\n', stderr);
    abort();
}

static void check_take(const struct eb_lock *lock)
{
    if (held.count > 0 && held.locks[held.count - 1]->rank >= lock->rank)
        wrong("wrong order: taking", lock, held.locks[held.count - 1]);
}

static void note_taken(const struct eb_lock *lock)
{
    held.locks[held.count++] = lock;
}

static void note_dropped(const struct eb_lock *lock)
{
    unsigned i = held.count;

    while (i > 0 && held.locks[i - 1] != lock)
        i--;
    if (i == 0)
        wrong("dropping, but this thread does not hold", lock, NULL);
    for (; i < held.count; i++)
        held.locks[i - 1] = held.locks[i];
    held.count--;
}

static void check_wait(const struct eb_lock *lock)
{
    eb_lock_assert_held((struct eb_lock *)lock);
    if (held.locks[held.count - 1] != lock)
        wrong("wrong order: waiting gives up", lock, held.locks[held.count - 1]);
}

void eb_lock_assert_held(struct eb_lock *lock)
{
    for (unsigned i = 0; i < held.count; i++) {
        if (held.locks[i] == lock)
            return;
    }
    wrong("must be held here:", lock, NULL);
}

void eb_lock_assert_none(void)
{
    if (held.count > 0)
        wrong("no lock may be held here, but this one is:", held.locks[held.count - 1], NULL);
}

#else

static void check_take(const struct eb_lock *lock)
{
}
static void note_taken(const struct eb_lock *lock)
{
}
static void note_dropped(const struct eb_lock *lock)
{
}
static void check_wait(const struct eb_lock *lock)
{
}
void eb_lock_assert_held(struct eb_lock *lock)
{
}
void eb_lock_assert_none(void)
{
}

#endif

/* A pthread call that fails on a sound object is a bug: going on would be without a lock. */
static void must(int rc, const char *call)
{
    if (rc == 0)
        return;
    fprintf(stderr, "eb_lock: %s: error %d\n", call, rc);
    abort();
}

void eb_lock_init(struct eb_lock *lock, enum eb_lock_rank rank)
{
    must(pthread_mutex_init(&lock->mutex, NULL), "pthread_mutex_init");
    lock->rank = (uint8_t)rank;
}

void eb_lock_finish(struct eb_lock *lock)
{
    must(pthread_mutex_destroy(&lock->mutex), "pthread_mutex_destroy");
}

void eb_lock_take(struct eb_lock *lock)
{
    check_take(lock);
    must(pthread_mutex_lock(&lock->mutex), "pthread_mutex_lock");
    note_taken(lock);
}

bool eb_lock_try(struct eb_lock *lock)
{
    check_take(lock);
    int rc = pthread_mutex_trylock(&lock->mutex);
    if (rc == EBUSY)
        return false;
    must(rc, "pthread_mutex_trylock");
    note_taken(lock);
    return true;
}

void eb_lock_drop(struct eb_lock *lock)
{
    note_dropped(lock);
    must(pthread_mutex_unlock(&lock->mutex), "pthread_mutex_unlock");
}

void eb_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    must(pthread_condattr_init(&attr), "pthread_condattr_init");
    must(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC), "pthread_condattr_setclock");
    must(pthread_cond_init(cond, &attr), "pthread_cond_init");
    pthread_condattr_destroy(&attr);
}

int eb_cond_wait(pthread_cond_t *cond, struct eb_lock *lock, int64_t deadline_ms)
{
    check_wait(lock);
    if (deadline_ms < 0) {
        must(pthread_cond_wait(cond, &lock->mutex), "pthread_cond_wait");
        return 0;
    }
    struct timespec ts = {.tv_sec = deadline_ms / 1000, .tv_nsec = deadline_ms % 1000 * 1000000};
    int rc = pthread_cond_timedwait(cond, &lock->mutex, &ts);
    if (rc == ETIMEDOUT)
        return rc;
    must(rc, "pthread_cond_timedwait");
    return 0;
}
