/* test_dedupe.c - the table of ids against a plain list that does the same slowly. */
#include "fixture.h"

#include "broker/store/dedupe.h"

struct model {
    struct eb_dedupe_entry entries[60000];
    size_t head, tail;
};

static const struct eb_dedupe_entry *put(struct eb_dedupe *dedupe, const uint8_t id[16],
                                         uint64_t seq, int64_t timestamp)
{
    return eb_dedupe_put(dedupe, id, eb_dedupe_ahead(dedupe, id), seq, timestamp);
}

static const struct eb_dedupe_entry *model_find(struct model *model, unsigned n)
{
    uint8_t id[16];
    id_from(id, n);
    for (size_t i = model->tail; i > model->head; i--)
        if (memcmp(model->entries[i - 1].id, id, 16) == 0)
            return &model->entries[i - 1];
    return NULL;
}

/* Put, undo, expire and bound in random order give what the list gives. */
static void same_as_a_list(void **state)
{
    static struct model model;
    struct eb_dedupe dedupe;
    unsigned seed = 7;
    int64_t now = 0;
    uint64_t seq = 0;
    assert_int_equal(0, eb_dedupe_init(&dedupe));
    for (int step = 0; step < 40000; step++) {
        unsigned what = (unsigned)rand_r(&seed) % 1000;
        if (what < 970) {
            unsigned n = (unsigned)rand_r(&seed) % 6000;
            uint8_t id[16];
            id_from(id, n);
            const struct eb_dedupe_entry *want = model_find(&model, n);
            const struct eb_dedupe_entry *got = put(&dedupe, id, ++seq, now);
            assert_int_equal(!want, !got);
            if (want) {
                assert_int_equal(want->seq, got->seq);
            } else {
                struct eb_dedupe_entry *entry = &model.entries[model.tail++];
                memcpy(entry->id, id, 16);
                entry->seq = seq;
                entry->timestamp = now;
            }
        } else if (what < 990) {
            size_t back = (unsigned)rand_r(&seed) % 50;
            uint64_t mark = eb_dedupe_mark(&dedupe);
            mark = mark > back ? mark - back : 0;
            eb_dedupe_undo(&dedupe, mark);
            while (back-- && model.tail > model.head)
                model.tail--;
        } else if (what < 996) {
            now += 10;
            eb_dedupe_expire(&dedupe, now - 150);
            while (model.head < model.tail && model.entries[model.head].timestamp <= now - 150)
                model.head++;
        } else if (what < 997) {
            if (model.tail - model.head > 2500) {
                eb_dedupe_bound(&dedupe, model.entries[model.tail - 2501].seq);
                model.head = model.tail - 2500;
            }
        }
        assert_int_equal(model.tail - model.head, eb_dedupe_count(&dedupe));
    }
    assert_true(dedupe.chunk_begin > 8); /* it grew on the way */
    eb_dedupe_finish(&dedupe);
}

/* An id loaded twice at start answers with its later seq, also after the earlier one expired. */
static void later_load_wins(void **state)
{
    struct eb_dedupe dedupe;
    uint8_t id[16];
    id_from(id, 1);
    assert_int_equal(0, eb_dedupe_init(&dedupe));
    eb_dedupe_load(&dedupe, id, 5, 100);
    eb_dedupe_load(&dedupe, id, 9, 200);
    eb_dedupe_loaded(&dedupe);
    assert_int_equal(9, put(&dedupe, id, 10, 300)->seq);
    eb_dedupe_expire(&dedupe, 100);
    assert_int_equal(9, put(&dedupe, id, 10, 300)->seq);
    eb_dedupe_expire(&dedupe, 200);
    assert_null(put(&dedupe, id, 10, 300));
    eb_dedupe_finish(&dedupe);
}

/* What is dropped for the bound is the oldest. */
static void bound_evicts_the_oldest(void **state)
{
    struct eb_dedupe dedupe;
    uint8_t id[16];
    assert_int_equal(0, eb_dedupe_init(&dedupe));
    for (unsigned n = 1; n <= 10; n++) {
        id_from(id, n);
        assert_null(put(&dedupe, id, n, n));
    }
    eb_dedupe_bound(&dedupe, 6);
    assert_int_equal(4, eb_dedupe_count(&dedupe));
    assert_int_equal(7, eb_dedupe_oldest(&dedupe));
    id_from(id, 6);
    assert_null(put(&dedupe, id, 11, 11));
    id_from(id, 7);
    assert_non_null(put(&dedupe, id, 12, 12));
    eb_dedupe_finish(&dedupe);
}

/* Ids that expire in one moment are found no more at once, and leave in bounded steps. */
static void many_expire_in_steps(void **state)
{
    struct eb_dedupe dedupe;
    uint8_t id[16];
    unsigned steps = 0;
    assert_int_equal(0, eb_dedupe_init(&dedupe));
    for (unsigned n = 0; n < 100000; n++) {
        id_from(id, n);
        eb_dedupe_load(&dedupe, id, n + 1, 100);
    }
    eb_dedupe_loaded(&dedupe);
    for (unsigned n = 0; n < 100000; n++) {
        id_from(id, n);
        assert_int_equal(n + 1, put(&dedupe, id, 0, 200)->seq);
    }
    eb_dedupe_expire(&dedupe, 100);
    assert_true(eb_dedupe_count(&dedupe) > 50000);
    id_from(id, 99999);
    assert_null(put(&dedupe, id, 200000, 200));
    assert_int_equal(200000, put(&dedupe, id, 0, 200)->seq);
    for (; eb_dedupe_count(&dedupe) > 1; steps++)
        eb_dedupe_expire(&dedupe, 100);
    assert_true(steps < 100);
    assert_int_equal(200000, put(&dedupe, id, 0, 200)->seq); /* the one that came again */
    assert_int_equal(200000, eb_dedupe_oldest_seq(&dedupe));
    for (unsigned i = 0; i < EB_DEDUPE_SHARDS; i++)
        assert_true(dedupe.shards[i].cap <= 16); /* and the memory went with them */
    eb_dedupe_finish(&dedupe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"dedupe/same_as_a_list", same_as_a_list, NULL, NULL, NULL},
        {"dedupe/later_load_wins", later_load_wins, NULL, NULL, NULL},
        {"dedupe/many_expire_in_steps", many_expire_in_steps, NULL, NULL, NULL},
        {"dedupe/bound_evicts_the_oldest", bound_evicts_the_oldest, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("dedupe", tests, NULL, NULL);
}
