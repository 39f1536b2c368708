/* test_lock.c - the lock order is checked, and the checks see what they are for. */
#include "common/lock.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "claim.h"
#include "common/clock.h"

static struct eb_lock shard, shard2, session, leaf;

static int setup(void **state)
{
    eb_lock_init(&shard, EB_RANK_SHARD);
    eb_lock_init(&shard2, EB_RANK_SHARD);
    eb_lock_init(&session, EB_RANK_SESSION);
    eb_lock_init(&leaf, EB_RANK_LEAF);
    return 0;
}

static int teardown(void **state)
{
    eb_lock_finish(&shard);
    eb_lock_finish(&shard2);
    eb_lock_finish(&session);
    eb_lock_finish(&leaf);
    return 0;
}

/* Rising ranks may be taken, dropped in any order, and taken again. */
static void rising_ranks_pass(void **state)
{
    eb_lock_assert_none();
    eb_lock_take(&shard);
    eb_lock_take(&session);
    assert_true(eb_lock_try(&leaf));
    eb_lock_assert_held(&shard);
    eb_lock_assert_held(&session);
    eb_lock_drop(&session);
    eb_lock_drop(&leaf);
    eb_lock_take(&session);
    eb_lock_drop(&shard);
    eb_lock_drop(&session);
    eb_lock_take(&shard2);
    eb_lock_drop(&shard2);
    eb_lock_assert_none();
}

static void *try_shard(void *arg)
{
    *(bool *)arg = eb_lock_try(&shard);
    if (*(bool *)arg)
        eb_lock_drop(&shard);
    return NULL;
}

static bool other_thread_gets_shard(void)
{
    pthread_t thread;
    bool got = false;

    assert_int_equal(pthread_create(&thread, NULL, try_shard, &got), 0);
    pthread_join(thread, NULL);
    return got;
}

/* A try says whether it got the lock, and a refused one is not counted as held. */
static void try_tells_the_truth(void **state)
{
    eb_lock_take(&shard);
    assert_false(other_thread_gets_shard());
    eb_lock_drop(&shard);
    assert_true(other_thread_gets_shard());
}

/* A wait ends at its deadline, holds the lock again, and the order is still known. */
static void wait_ends_at_deadline(void **state)
{
    pthread_cond_t cond;
    int64_t start = eb_mono_ms();

    eb_cond_init(&cond);
    eb_lock_take(&session);
    assert_int_equal(eb_cond_wait(&cond, &session, start + 20), ETIMEDOUT);
    assert_true(eb_mono_ms() >= start + 20);
    assert_int_equal(eb_cond_wait(&cond, &session, 0), ETIMEDOUT); /* long past */
    eb_lock_assert_held(&session);
    eb_lock_take(&leaf);
    eb_lock_drop(&leaf);
    eb_lock_drop(&session);
    eb_lock_assert_none();
    pthread_cond_destroy(&cond);
}

static struct {
    pthread_cond_t cond;
    bool go; /* [session] */
} gate;

static void *open_gate(void *arg)
{
    eb_lock_take(&session);
    gate.go = true;
    pthread_cond_signal(&gate.cond);
    eb_lock_drop(&session);
    return NULL;
}

/* While one thread waits, another has the lock and wakes it. */
static void wait_gives_the_lock_up(void **state)
{
    pthread_t thread;

    eb_cond_init(&gate.cond);
    gate.go = false;
    eb_lock_take(&session);
    assert_int_equal(pthread_create(&thread, NULL, open_gate, NULL), 0);
    while (!gate.go)
        assert_int_equal(eb_cond_wait(&gate.cond, &session, -1), 0);
    eb_lock_drop(&session);
    pthread_join(thread, NULL);
    pthread_cond_destroy(&gate.cond);
}

#ifdef EB_LOCK_CHECK

/* Run @wrong in a child; it must abort and have said all of @say (NULL-terminated). */
static void must_abort(void (*wrong)(void), const char *const say[])
{
    char text[1024];
    size_t len = 0;
    ssize_t n;
    int fds[2], status;

    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGABRT, SIG_DFL); /* cmocka catches it */
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        wrong();
        _exit(0);
    }
    close(fds[1]);
    while (len < sizeof(text) - 1 && (n = read(fds[0], text + len, sizeof(text) - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    for (int i = 0; say[i]; i++)
        assert_non_null(strstr(text, say[i]));
}

static void take_backwards(void)
{
    eb_lock_take(&session);
    eb_lock_take(&shard);
}

static void try_backwards(void)
{
    eb_lock_take(&session);
    eb_lock_try(&shard);
}

static void take_two_of_a_rank(void)
{
    eb_lock_take(&shard);
    eb_lock_take(&shard2);
}

static void take_twice(void)
{
    eb_lock_take(&shard);
    eb_lock_take(&shard);
}

static void take_backwards_after_wait(void)
{
    pthread_cond_t cond;

    eb_cond_init(&cond);
    eb_lock_take(&session);
    eb_cond_wait(&cond, &session, 0);
    eb_lock_take(&shard);
}

static void wait_with_inner_lock(void)
{
    pthread_cond_t cond;

    eb_cond_init(&cond);
    eb_lock_take(&shard);
    eb_lock_take(&session);
    eb_cond_wait(&cond, &shard, 0);
}

static void drop_not_held(void)
{
    eb_lock_drop(&shard);
}

static void assert_held_not_held(void)
{
    eb_lock_take(&shard);
    eb_lock_assert_held(&session);
}

static void assert_none_but_one(void)
{
    eb_lock_take(&leaf);
    eb_lock_assert_none();
}

/* Each wrong take ends the process and names both locks; so do the broken assertions. */
static void wrong_take_names_both(void **state)
{
    static const char *const both[] = {"EB_RANK_SHARD (bus: ", "EB_RANK_SESSION (bus: ", NULL};
    static const char *const same[] = {"taking EB_RANK_SHARD", "holding EB_RANK_SHARD", NULL};
    static const char *const one[] = {"EB_RANK_SHARD", NULL};

    must_abort(take_backwards, both);
    must_abort(try_backwards, both);
    must_abort(take_two_of_a_rank, same);
    must_abort(take_twice, same);
    must_abort(take_backwards_after_wait, both);
    must_abort(wait_with_inner_lock, both);
    must_abort(drop_not_held, one);
    must_abort(assert_held_not_held, (const char *const[]){"EB_RANK_SESSION", NULL});
    must_abort(assert_none_but_one, (const char *const[]){"EB_RANK_LEAF", NULL});
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef EB_LOCK_CHECK
        CLAIM("lock/wrong_take_names_both", wrong_take_names_both),
#endif
        CLAIM("lock/rising_ranks_pass", rising_ranks_pass),
        CLAIM("lock/try_tells_the_truth", try_tells_the_truth),
        CLAIM("lock/wait_ends_at_deadline", wait_ends_at_deadline),
        CLAIM("lock/wait_gives_the_lock_up", wait_gives_the_lock_up),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
