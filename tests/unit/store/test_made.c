/* test_made.c - ids that say their seq: their bytes, what is known again, and what is not. */
#include "fixture.h"

#include "broker/store/made.h"
#include "common/uuid.h"

#define NOW INT64_C(1700000000000)

static const struct eb_made known = {
    .key = {0x0706050403020100, 0x0f0e0d0c0b0a0908}, .from = 0, .era = 1};

static void text_of(const struct eb_made *made, uint64_t seq, int64_t ts, char text[37])
{
    uint8_t id[16];
    eb_made_id(made, id, seq, ts);
    eb_uuid_format(text, id);
}

/* The bytes are those of another implementation (SipHash-1-3 of seq, and timestamp with the era in its top 16 bits). */
static void vectors(void **state)
{
    const struct {
        uint64_t seq;
        int64_t ts;
        uint32_t era;
        const char *id;
    } all[] = {
        {1, NOW, 1, "018bcfe5-6800-7000-8000-00018e381120"},
        {2, NOW, 1, "018bcfe5-6800-7000-8000-00026118ee57"},
        {(UINT64_C(1) << 30) + 5, NOW + 1, 1, "018bcfe5-6801-7001-8000-0005d9853716"},
        {(UINT64_C(1) << 42) + 7, NOW + 1, 1, "018bcfe5-6801-7000-8000-0007186acd22"},
        {1, NOW, 2, "018bcfe5-6800-7000-8000-0001f7f57349"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct eb_made made = known;
        char text[37];
        made.era = all[i].era;
        text_of(&made, all[i].seq, all[i].ts, text);
        assert_string_equal(all[i].id, text);
    }
}

/* Each is known again with its seq and time, whatever the seq, and sorts as it does. */
static void known_again(void **state)
{
    const uint64_t seqs[] = {1,
                             2,
                             1000000,
                             (UINT64_C(1) << 30) - 1,
                             UINT64_C(1) << 30,
                             (UINT64_C(1) << 42) - 1,
                             UINT64_C(1) << 42,
                             (UINT64_C(1) << 42) + 1,
                             EB_SEQ_MAX - 1};
    uint8_t before[16] = {0}, id[16];
    for (size_t i = 0; i < sizeof seqs / sizeof *seqs; i++) {
        for (uint64_t later = 0; later < 3000000; later = later * 3 + 1) {
            uint64_t last = seqs[i] + later;
            int64_t ts = 0;
            eb_made_id(&known, id, seqs[i], NOW + (int64_t)i);
            assert_int_equal(seqs[i], eb_made_seq(&known, id, 0, last, &ts));
            assert_int_equal(NOW + (int64_t)i, ts);
            assert_int_equal(seqs[i], eb_made_seq(&known, id, seqs[i] - 1, last, &ts));
            assert_int_equal(0, eb_made_seq(&known, id, seqs[i], last, &ts));
            assert_int_equal(0, eb_made_seq(&known, id, 0, seqs[i] - 1, &ts));
        }
        assert_true(eb_made_is(&known, id, seqs[i], NOW + (int64_t)i));
        assert_false(eb_made_is(&known, id, seqs[i] + 1, NOW + (int64_t)i));
        assert_false(eb_made_is(&known, id, seqs[i], NOW - 1));
        if (i > 0)
            assert_true(memcmp(before, id, 16) < 0);
        memcpy(before, id, 16);
    }
}

/* One bit changed anywhere, another secret, another kind of UUID: it was not made here. */
static void others_are_not(void **state)
{
    struct eb_made other = known;
    uint8_t id[16], id4[16];
    int64_t ts;
    eb_made_id(&known, id, 77, NOW);
    for (int bit = 0; bit < 128; bit++) {
        id[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(0, eb_made_seq(&known, id, 0, EB_SEQ_MAX, &ts));
        assert_false(eb_made_is(&known, id, 77, NOW));
        id[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    other.key[1] ^= 1;
    assert_int_equal(0, eb_made_seq(&other, id, 0, 1000, &ts));
    for (int i = 0; i < 10000; i++) {
        i % 2 ? eb_uuid_v7(id4) : eb_uuid_v4(id4);
        assert_int_equal(0, eb_made_seq(&known, id4, 0, UINT64_C(1) << 41, &ts));
    }
    assert_int_equal(0, eb_made_init(&other));
    assert_true(other.key[0] != known.key[0] && other.key[1] != other.key[0]);
}

/* With a new epoch ids of seqs that were lost are unknown, those of the log that is left are not; eras without a seq
 * do not count. */
static void a_new_era(void **state)
{
    struct eb_made made = known;
    uint8_t kept[16], lost[16], again[16];
    int64_t ts;
    eb_made_id(&made, kept, 90, NOW);
    eb_made_id(&made, lost, 91, NOW);
    eb_made_new_era(&made, 90);
    eb_made_new_era(&made, 90);
    eb_made_id(&made, again, 91, NOW);
    assert_memory_not_equal(lost, again, 16);
    assert_int_equal(90, eb_made_seq(&made, kept, 0, 200, &ts));
    assert_int_equal(0, eb_made_seq(&made, lost, 0, 200, &ts));
    assert_int_equal(91, eb_made_seq(&made, again, 0, 200, &ts));
    eb_made_new_era(&made, 95);
    assert_int_equal(91, eb_made_seq(&made, again, 0, 200, &ts));
    assert_int_equal(0, eb_made_seq(&made, kept, 0, 200, &ts)); /* like any publisher's now */
}

/* The text is read as it was written; one that is changed anywhere is not. */
static void as_text(void **state)
{
    static const char want[] = "07060504030201000f0e0d0c0b0a0908 17 3 2"
                               " 0190aaaa-bbbb-4ccc-8ddd-eeeeffff0001 aed976e0";
    const struct eb_made made = {
        .key = {known.key[0], known.key[1]}, .from = 17, .era = 3, .before = 2};
    struct eb_made back;
    char text[EB_MADE_TEXT], epoch[37];
    eb_made_format(&made, "0190aaaa-bbbb-4ccc-8ddd-eeeeffff0001", text);
    assert_string_equal(want, text);
    assert_true(eb_made_parse(text, &back, epoch));
    assert_memory_equal(&made, &back, sizeof made);
    assert_string_equal("0190aaaa-bbbb-4ccc-8ddd-eeeeffff0001", epoch);
    for (size_t i = 0; i < sizeof want - 1; i++) {
        char was = text[i];
        text[i] = was == '1' ? '2' : '1';
        assert_false(eb_made_parse(text, &back, NULL));
        text[i] = '\0';
        assert_false(eb_made_parse(text, &back, NULL));
        text[i] = was;
    }
}

#define T(name)                                                                                    \
    {                                                                                              \
        "made/" #name, name, NULL, NULL, NULL                                                      \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(vectors), T(known_again), T(others_are_not), T(a_new_era), T(as_text),
    };
    return cmocka_run_group_tests_name("made", tests, NULL, NULL);
}
