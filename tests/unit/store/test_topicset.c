/* test_topicset.c - the treap of topics against an array of counts. */
#include "fixture.h"

#include "broker/store/topicset.h"

#define NAMES 300

/* Adding and dropping in random order: the same topics, in byte order, each once. */
static void in_order_and_counted(void **state)
{
    struct eb_topicset set = {0};
    struct eb_topic_node *nodes[NAMES] = {0};
    unsigned counts[NAMES] = {0}, seed = 3;
    for (int step = 0; step < 20000; step++) {
        unsigned n = (unsigned)rand_r(&seed) % NAMES;
        char name[16];
        int len = snprintf(name, sizeof name, "t.%u", n);
        if (rand_r(&seed) % 2) {
            struct eb_topic_node *node = eb_topicset_add(&set, name, (size_t)len);
            assert_true(!counts[n] || node == nodes[n]);
            nodes[n] = node;
            counts[n]++;
        } else if (counts[n]) {
            counts[n]--;
            eb_topicset_drop(&set, nodes[n]);
        }
    }
    size_t want = 0, got = 0;
    for (unsigned n = 0; n < NAMES; n++)
        want += counts[n] != 0;
    assert_int_equal(want, set.count);
    const struct eb_topic_node *last = NULL, *node;
    while ((node = eb_topicset_next(&set, last ? last->name : NULL, last ? last->len : 0))) {
        assert_true(!last || strcmp(last->name, node->name) < 0);
        assert_int_equal(counts[atoi(node->name + 2)], node->events);
        last = node;
        got++;
    }
    assert_int_equal(want, got);
    for (unsigned n = 0; n < NAMES; n++)
        while (counts[n]--)
            eb_topicset_drop(&set, nodes[n]);
    assert_null(set.root);
    assert_int_equal(0, set.count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"topicset/in_order_and_counted", in_order_and_counted, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("topicset", tests, NULL, NULL);
}
