/*
 * test_damage.c - a golden log, damaged in one place at a time: what check, verify and repair make of it.
 *
 * The ledger is kept outside: for each row, which bytes of the file (or of the WAL) hold it. A damage that touches
 * none of them must not cost the row; one that does must cost that row alone.
 *
 * EB_TEST_FULL=1: more places of each kind, and a golden file of 1 GiB.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/store/check.h"
#include "broker/store/ops.h"
#include "broker/store/salvage.h"
#include "common/clock.h"
#include "tests/unit/store/golden.h"

#define MAX_SEQ (fx->g.last + 2)

struct piece { /* bytes that hold a part of a row */
    uint64_t at;
    uint32_t len;
    uint32_t seq;
    bool wal;
};

struct fixture {
    char dir[64], db[96], bad[96], fixed[96];
    struct golden g;
    struct piece *pieces;
    size_t count, cap;
    uint32_t pages, page_size;
    uint8_t *kind; /* by page: 1 + enum eb_tree; the last ones below */
    bool *inner;
    struct eb_roots roots;
    uint64_t db_bytes, wal_bytes;
    uint64_t last_commit_at; /* in the WAL: where the last transaction begins */
    uint64_t *commit_ends;   /* byte behind each commit frame */
    size_t commits;
    char *report; /* of the verify at hand */
    size_t report_len;
    uint64_t seed;
};

enum { KIND_OVERFLOW = 100, KIND_TRUNK, KIND_FREE, KIND_MAP };

static uint64_t next_random(struct fixture *fx)
{
    fx->seed = fx->seed * 6364136223846793005u + 1442695040888963407u;
    return fx->seed >> 17;
}

/* ---- where each row lies ---- */

static void add_piece(struct fixture *fx, struct eb_pages *p, uint32_t pgno, uint32_t off,
                      uint32_t len, uint64_t seq)
{
    struct piece piece = {
        .at = (uint64_t)(pgno - 1) * p->page_size + off, .len = len, .seq = (uint32_t)seq};
    for (uint32_t i = 0; i < p->newest_count; i++) {
        if (p->newest[i].pgno == pgno) {
            piece.wal = true;
            piece.at = 32 + (uint64_t)(p->newest[i].frame - 1) * (24 + p->page_size) + 24 + off;
            if (!off) { /* an overflow page is found by the number in the frame's header only */
                piece.at -= 24;
                piece.len += 24;
            }
        }
    }
    if (fx->count == fx->cap) {
        fx->cap = fx->cap ? 2 * fx->cap : 4096;
        fx->pieces = realloc(fx->pieces, fx->cap * sizeof(*fx->pieces));
        assert_non_null(fx->pieces);
    }
    fx->pieces[fx->count++] = piece;
}

static void map_tree(struct fixture *fx, struct eb_pages *p, enum eb_tree tree)
{
    struct eb_walk walk = {0};
    struct eb_walk_step step;
    assert_int_equal(eb_walk_begin(&walk, p, fx->roots.root[tree], eb_tree_is_table(tree)), 0);
    while (eb_walk_next(&walk, &step) > 0) {
        fx->kind[step.pgno] = (uint8_t)(1 + tree);
        fx->inner[step.pgno] = step.node->inner;
        for (int d = 0; d < walk.depth; d++) {
            fx->kind[walk.level[d].pgno] = (uint8_t)(1 + tree);
            fx->inner[walk.level[d].pgno] = true;
        }
        if (tree != EB_TREE_LOG)
            continue;
        for (uint32_t i = 0; i < step.node->cells; i++) {
            struct eb_cell cell;
            uint8_t page[4096];
            assert_true(eb_cell_read(step.node, i, &cell));
            add_piece(fx, p, step.pgno, cell.offset, cell.size, (uint64_t)cell.rowid);
            uint64_t rest = cell.payload - cell.local;
            for (uint32_t at = cell.overflow; rest; at = eb_be32(page)) {
                assert_int_equal(eb_pages_read(p, at, page), 0);
                uint32_t n = rest < 4092 ? (uint32_t)rest : 4092;
                fx->kind[at] = KIND_OVERFLOW;
                add_piece(fx, p, at, 0, n + 4, (uint64_t)cell.rowid);
                rest -= n;
            }
        }
    }
    eb_walk_finish(&walk);
}

static void map_free(struct fixture *fx, struct eb_pages *p)
{
    uint8_t page[4096];
    assert_int_equal(eb_pages_read(p, 1, page), 0);
    for (uint32_t at = eb_be32(page + 32); at; at = eb_be32(page)) {
        assert_int_equal(eb_pages_read(p, at, page), 0);
        fx->kind[at] = KIND_TRUNK;
        for (uint32_t i = 0; i < eb_be32(page + 4); i++)
            fx->kind[eb_be32(page + 8 + 4 * i)] = KIND_FREE;
    }
    for (uint32_t i = 2; i <= p->count; i++)
        if (eb_page_is_map(p, i))
            fx->kind[i] = KIND_MAP;
}

static void map_golden(struct fixture *fx)
{
    struct eb_pages p;
    struct eb_error err;
    const char *why;
    assert_int_equal(eb_pages_open(&p, fx->db, NULL, &err), 0);
    fx->pages = p.count;
    fx->page_size = p.page_size;
    fx->db_bytes = p.db_bytes;
    fx->wal_bytes = p.wal_bytes;
    fx->kind = calloc(p.count + 1, 1);
    fx->inner = calloc(p.count + 1, sizeof(*fx->inner));
    assert_int_equal(eb_roots_read(&p, NULL, &fx->roots, &why), 0);
    for (int i = 0; i < EB_TREE_COUNT; i++)
        map_tree(fx, &p, i);
    map_free(fx, &p);
    fx->commit_ends = calloc(p.frame_count + 1, sizeof(*fx->commit_ends));
    for (uint32_t i = 0; i < p.frame_count; i++) {
        assert_true(p.frames[i].chained);
        if (p.frames[i].commit) {
            fx->last_commit_at = fx->commits ? fx->commit_ends[fx->commits - 1] : 32;
            fx->commit_ends[fx->commits++] = 32 + (uint64_t)(i + 1) * (24 + p.page_size);
        }
    }
    eb_pages_close(&p);
}

static struct fixture *make(struct golden g, uint64_t seed)
{
    struct fixture *fx = calloc(1, sizeof(*fx));
    fx->g = g;
    fx->seed = seed;
    strcpy(fx->dir,
           access("/dev/shm", W_OK) ? "/tmp/eb-damage-XXXXXX" : "/dev/shm/eb-damage-XXXXXX");
    assert_non_null(mkdtemp(fx->dir));
    snprintf(fx->db, sizeof(fx->db), "%s/golden.db", fx->dir);
    snprintf(fx->bad, sizeof(fx->bad), "%s/bad.db", fx->dir);
    snprintf(fx->fixed, sizeof(fx->fixed), "%s/fixed.db", fx->dir);
    golden_make(&g, fx->db);
    map_golden(fx);
    return fx;
}

static void destroy(struct fixture *fx)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", fx->dir);
    assert_int_equal(system(cmd), 0);
    free(fx->pieces);
    free(fx->kind);
    free(fx->inner);
    free(fx->commit_ends);
    free(fx->report);
    free(fx);
}

/* ---- damaging ---- */

enum how { ZERO_PAGE, ZERO_SECTOR, FLIP, GARBAGE, CUT };
static const char *const how_names[] = {"zero", "zero sector", "flip", "garbage", "cut"};

struct damage {
    bool wal;
    enum how how;
    uint64_t at;
    uint64_t len; /* CUT: to the end */
    unsigned bit;
};

static void copy_golden(struct fixture *fx)
{
    char cmd[400];
    snprintf(cmd, sizeof(cmd),
             "cd '%s' && rm -f bad.db* fixed.db* && cp golden.db bad.db && "
             "if [ -e golden.db-wal ]; then cp golden.db-wal bad.db-wal; fi",
             fx->dir);
    assert_int_equal(system(cmd), 0);
}

static void apply(struct fixture *fx, const struct damage *d)
{
    char name[128];
    uint8_t buf[4096] = {0};
    snprintf(name, sizeof(name), "%s%s", fx->bad, d->wal ? "-wal" : "");
    int fd = open(name, O_RDWR);
    assert_true(fd >= 0);
    if (d->how == CUT) {
        assert_int_equal(ftruncate(fd, (off_t)d->at), 0);
    } else {
        if (d->how == GARBAGE)
            for (size_t i = 0; i < d->len; i++)
                buf[i] = (uint8_t)next_random(fx);
        if (d->how == FLIP) {
            assert_int_equal(pread(fd, buf, 1, (off_t)d->at), 1);
            buf[0] ^= (uint8_t)(1u << d->bit);
        }
        assert_int_equal(pwrite(fd, buf, d->len, (off_t)d->at), (ssize_t)d->len);
    }
    close(fd);
}

static bool touches(const struct fixture *fx, const struct damage *d, const struct piece *p)
{
    if (d->wal != p->wal)
        return false;
    if (d->how == CUT && d->wal) { /* what is not committed in what is left, is gone as well */
        uint64_t end = 32;
        for (size_t i = 0; i < fx->commits && fx->commit_ends[i] <= d->at; i++)
            end = fx->commit_ends[i];
        return p->at + p->len > end;
    }
    return p->at < d->at + d->len && d->at < p->at + p->len;
}

/* ---- what must hold ---- */

static void collect(void *ctx, const char *line)
{
    struct fixture *fx = ctx;
    size_t len = strlen(line);
    fx->report = realloc(fx->report, fx->report_len + len + 2);
    memcpy(fx->report + fx->report_len, line, len);
    fx->report_len += len;
    fx->report[fx->report_len++] = '\n';
    fx->report[fx->report_len] = 0;
}

/* Does the report name the seq among what is lost? */
static bool reported(const struct fixture *fx, uint64_t seq)
{
    unsigned long long a, b;
    for (const char *at = fx->report; at && *at; at = strchr(at, '\n'), at = at ? at + 1 : NULL) {
        if (sscanf(at, "lost: events %llu to %llu", &a, &b) == 2 && a <= seq && seq <= b)
            return true;
        if (sscanf(at, "lost: events from %llu on", &a) == 1 && a <= seq)
            return true;
        if (sscanf(at, "lost: event %llu", &a) == 1 && a == seq)
            return true;
        if (sscanf(at, "lost: %llu more ranges", &a) == 1)
            return true;
    }
    return false;
}

/* A copy of file and WAL in memory, to see that they are not changed. */
static char *contents(const struct fixture *fx, size_t *ret_len)
{
    char *all = malloc(fx->db_bytes + fx->wal_bytes + 1);
    size_t len = 0;
    for (int i = 0; i < 2; i++) {
        char name[128];
        ssize_t n;
        snprintf(name, sizeof(name), "%s%s", fx->bad, i ? "-wal" : "");
        int fd = open(name, O_RDONLY);
        while (fd >= 0 && (n = read(fd, all + len, fx->db_bytes + fx->wal_bytes + 1 - len)) > 0)
            len += (size_t)n;
        if (fd >= 0)
            close(fd);
    }
    *ret_len = len;
    return all;
}

static bool bit(const uint8_t *bits, uint64_t n)
{
    return bits[n / 8] >> n % 8 & 1;
}

/* Some rows of the last transaction may go: without what follows it cannot be told from one never answered. */
static bool in_last_transaction(const struct fixture *fx, const struct damage *d,
                                const struct piece *p)
{
    return d->wal && p->wal && d->at + (d->how == CUT ? 0 : d->len) > fx->last_commit_at &&
           p->at + p->len > fx->last_commit_at;
}

static void expect(struct fixture *fx, const struct damage *d, const char *what)
{
    uint8_t *whole = malloc(MAX_SEQ / 8 + 1), *present = calloc(MAX_SEQ / 8 + 1, 1);
    uint8_t *doubt = calloc(MAX_SEQ / 8 + 1, 1);
    struct eb_ops ops = {.ctx = fx, .report = collect};
    struct eb_ops_summary sum;
    struct eb_error err;
    uint64_t want = 0;
    memset(whole, 0xff, MAX_SEQ / 8 + 1);
    for (size_t i = 0; i < fx->count; i++) {
        uint32_t seq = fx->pieces[i].seq;
        if (touches(fx, d, &fx->pieces[i]))
            whole[seq / 8] &= (uint8_t) ~(1u << seq % 8);
        if (in_last_transaction(fx, d, &fx->pieces[i]))
            doubt[seq / 8] |= (uint8_t)(1u << seq % 8);
    }
    size_t len_before, len_after;
    char *before = contents(fx, &len_before);
    fx->report_len = 0;
    collect(fx, what);
    int64_t began = eb_mono_ms();
    int started = eb_store_check(fx->bad, NULL, &err);
    assert_true(eb_mono_ms() - began < 2000);
    if (started) {
        assert_true(started == -EBADMSG || started == -EINVAL);
        assert_true(err.message[0] != 0);
    }
    int verified = eb_store_verify(fx->bad, &ops, &sum, &err);
    int rc = eb_store_repair(fx->bad, fx->fixed, &ops, &sum, &err);
    bool any = false; /* a cut may leave nothing */
    for (uint64_t seq = 1; seq < MAX_SEQ; seq++)
        any = any || (golden_live(&fx->g, seq) && bit(whole, seq));
    if (rc && (any || rc != -EBADMSG))
        fail_msg("%s: repair: %s", what, err.message);
    char *after = contents(fx, &len_after);
    if (len_before != len_after || memcmp(before, after, len_before))
        fail_msg("%s: the damaged file was changed", what);
    if (rc)
        goto out;
    uint64_t n = golden_read(fx->fixed, present, MAX_SEQ);
    assert_int_equal(n, sum.rows);
    for (uint64_t seq = 1; seq < MAX_SEQ; seq++) {
        bool live = golden_live(&fx->g, seq), is_whole = live && bit(whole, seq);
        want += is_whole;
        if (bit(present, seq) && !live)
            fail_msg("%s: event %llu came back from the dead\n%s", what, (unsigned long long)seq,
                     fx->report);
        if (is_whole && !bit(present, seq) && !bit(doubt, seq))
            fail_msg("%s: event %llu is whole and was not brought back\n%s", what,
                     (unsigned long long)seq, fx->report);
        if (live && !bit(present, seq) && !(d->wal && d->how == CUT) && !bit(doubt, seq) &&
            (!verified || !reported(fx, seq)))
            fail_msg("%s: verify did not find that event %llu is lost\n%s", what,
                     (unsigned long long)seq, fx->report);
    }
    fx->report_len = 0;
    rc = eb_store_verify(fx->fixed, &ops, &sum, &err);
    if (rc)
        fail_msg("%s: the repaired log is not whole: %s\n%s", what, err.message, fx->report);
    assert_int_equal(eb_store_check(fx->fixed, NULL, &err), 0);
out:
    free(before);
    free(after);
    free(whole);
    free(present);
    free(doubt);
}

static void hit(struct fixture *fx, uint32_t pgno, enum how how, const char *name)
{
    struct damage d = {
        .how = how, .at = (uint64_t)(pgno - 1) * fx->page_size, .len = fx->page_size};
    char what[160];
    if (how == FLIP) {
        d.at += next_random(fx) % fx->page_size;
        d.len = 1;
        d.bit = next_random(fx) % 8;
    } else if (how == ZERO_SECTOR) {
        d.at += next_random(fx) % 8 * 512;
        d.len = 512;
    } else if (how == CUT) {
        d.len = fx->db_bytes - d.at;
    }
    snprintf(what, sizeof(what), "%s of %s, page %u, byte %llu bit %u", how_names[how], name, pgno,
             (unsigned long long)d.at, d.bit);
    copy_golden(fx);
    apply(fx, &d);
    expect(fx, &d, what);
}

/* A page of a kind, chosen by chance. */
static uint32_t some_page(struct fixture *fx, int kind, bool inner)
{
    uint32_t from = (uint32_t)(next_random(fx) % fx->pages);
    for (uint32_t i = 0; i < fx->pages; i++) {
        uint32_t pgno = (from + i) % fx->pages + 1;
        if (fx->kind[pgno] == kind && fx->inner[pgno] == inner)
            return pgno;
    }
    return 0;
}

/* Two segments (65536 is in it), two levels of pages, a freelist with a trunk. */
static const struct golden small = {
    .first = 61001, .last = 68200, .deleted = 62000, .with_free = true};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 4 /* times */
#else
#define SLOW 1
#endif

/* How often of so many, when it should not take minutes. */
static unsigned rounds_of(unsigned all)
{
    unsigned n = getenv("EB_TEST_FULL") ? all : all / (2 * SLOW);
    return n ? n : 1;
}

static void on_kind(int kind, bool inner, const char *name, unsigned rounds, bool cut)
{
    struct fixture *fx = make(small, 42 + (uint64_t)kind);
    uint32_t any = some_page(fx, kind, inner);
    if (!any)
        fail_msg("the golden has no page of this kind: %s", name);
    for (unsigned i = 0; i < rounds_of(rounds); i++)
        for (enum how how = ZERO_PAGE; how <= (cut ? CUT : GARBAGE); how++)
            hit(fx, some_page(fx, kind, inner), how, name);
    destroy(fx);
}

/* An undamaged golden is found whole by all, and repaired into itself. */
static void whole_is_whole(void **state)
{
    struct fixture *fx = make(small, 1);
    struct eb_ops ops = {.ctx = fx, .report = collect};
    struct eb_ops_summary sum;
    struct eb_error err;
    assert_int_equal(eb_store_check(fx->db, NULL, &err), 0);
    int rc = eb_store_verify(fx->db, &ops, &sum, &err);
    if (rc)
        fail_msg("%s\n%s", err.message, fx->report);
    uint64_t live = 0;
    for (uint64_t seq = 1; seq < MAX_SEQ; seq++)
        live += golden_live(&fx->g, seq);
    assert_int_equal(sum.rows, live);
    struct damage none = {.at = UINT64_MAX / 2};
    copy_golden(fx);
    expect(fx, &none, "nothing");
    destroy(fx);
}

static void log_leaf(void **state)
{
    on_kind(1 + EB_TREE_LOG, false, "a leaf of log", 6, true);
}

static void log_inner(void **state)
{
    on_kind(1 + EB_TREE_LOG, true, "an inner page of log", 4, false);
}

static void overflow(void **state)
{
    on_kind(KIND_OVERFLOW, false, "an overflow page", 3, false);
}

static void topics(void **state)
{
    on_kind(1 + EB_TREE_TOPICS, false, "a leaf of topics", 5, false);
    on_kind(1 + EB_TREE_TOPICS_INDEX, false, "a leaf of the index of topics", 4, false);
}

static void lists(void **state)
{
    on_kind(1 + EB_TREE_POSTINGS, false, "postings", 4, false);
    on_kind(1 + EB_TREE_EXPIRY, false, "expiry", 3, false);
    on_kind(1 + EB_TREE_META, false, "meta", 3, false);
}

static void free_pages(void **state)
{
    on_kind(KIND_TRUNK, false, "a trunk of the freelist", 4, false);
    on_kind(KIND_FREE, false, "a free page", 2, false);
}

static void pointer_map(void **state)
{
    on_kind(KIND_MAP, false, "a pointer map page", 4, false);
}

/* Header and schema. */
static void page_one(void **state)
{
    struct fixture *fx = make(small, 7);
    struct eb_error err;
    for (unsigned i = 0; i < rounds_of(6); i++)
        for (enum how how = ZERO_PAGE; how <= GARBAGE; how++)
            hit(fx, 1, i && how != FLIP && how != ZERO_SECTOR ? FLIP : how, "page 1");
    copy_golden(fx);
    struct damage d = {.how = ZERO_PAGE, .at = 0, .len = 100};
    apply(fx, &d);
    assert_int_equal(eb_store_check(fx->bad, NULL, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "--repair NEW --db"));
    assert_non_null(strstr(err.message, "--verify --db"));
    destroy(fx);
}

/* Cut at any byte, also in the middle of a page. */
static void cut_file(void **state)
{
    struct fixture *fx = make(small, 9);
    for (unsigned i = 0; i < rounds_of(8); i++) {
        struct damage d = {.how = CUT,
                           .at = fx->db_bytes / 20 + next_random(fx) % (fx->db_bytes * 19 / 20)};
        char what[80];
        d.len = fx->db_bytes - d.at;
        snprintf(what, sizeof(what), "cut at byte %llu", (unsigned long long)d.at);
        copy_golden(fx);
        apply(fx, &d);
        struct eb_error err;
        assert_int_equal(eb_store_check(fx->bad, NULL, &err), -EBADMSG);
        expect(fx, &d, what);
    }
    destroy(fx);
}

/* Rows that lie in the WAL alone. */
static void wal(void **state)
{
    struct golden g = {
        .first = 1, .last = 9000, .deleted = 500, .wal_from = 7001, .with_free = true};
    struct fixture *fx = make(g, 11);
    struct damage none = {.at = UINT64_MAX / 2};
    struct eb_error err;
    copy_golden(fx);
    assert_int_equal(eb_store_check(fx->bad, NULL, &err), 0);
    expect(fx, &none, "nothing in the WAL");
    for (unsigned i = 0; i < 5 * rounds_of(5); i++) {
        struct damage d = {
            .wal = true, .how = i % 5, .at = next_random(fx) % (fx->wal_bytes - 5000), .len = 4096};
        char what[120];
        if (i == 0)
            d.at = 0;
        if (d.how == FLIP)
            d.len = 1;
        d.bit = i % 8;
        if (d.how == CUT)
            d.len = fx->wal_bytes - d.at;
        snprintf(what, sizeof(what), "%s in the WAL at byte %llu", how_names[d.how],
                 (unsigned long long)d.at);
        copy_golden(fx);
        apply(fx, &d);
        if (d.how != CUT && d.at + d.len <= fx->last_commit_at &&
            eb_store_check(fx->bad, NULL, &err) != -EBADMSG)
            fail_msg("%s: the check at start did not see it", what);
        expect(fx, &d, what);
    }
    destroy(fx);
}

/*
 * A WAL of 16 GiB (a hole, of which nothing is on the disk): the check is done in time all the same, and sees what is
 * wrong in the frames that it reached.
 */
static void endless_wal(void **state)
{
    struct golden g = {.first = 1, .last = 400, .wal_from = 201};
    struct fixture *fx = make(g, 13);
    struct eb_error err;
    char name[128];
    snprintf(name, sizeof(name), "%s-wal", fx->bad);
    for (int damaged = 0; damaged < 2; damaged++) {
        struct damage d = {.wal = true, .how = FLIP, .at = 5000, .len = 1};
        copy_golden(fx);
        if (damaged)
            apply(fx, &d);
        assert_int_equal(truncate(name, (off_t)16 << 30), 0);
        int64_t began = eb_mono_ms();
        assert_int_equal(eb_store_check(fx->bad, NULL, &err), damaged ? -EBADMSG : 0);
        assert_true(eb_mono_ms() - began < 2000);
        assert_true(!damaged || strstr(err.message, "frame 2 of its WAL"));
    }
    destroy(fx);
}

/* ---- a golden file of 1 GiB: only with EB_TEST_FULL, prints what docs/operations.md says ---- */

static void damage_full(struct fixture *fx, int what)
{
    struct damage d = {.how = ZERO_PAGE, .len = fx->page_size};
    copy_golden(fx);
    for (int i = 0; i < (what == 0 ? 1 : 200); i++) {
        uint32_t pgno = what == 0 ? 1 : 2 + (uint32_t)(next_random(fx) % (fx->pages - 2));
        d.how = what == 2 ? FLIP : ZERO_PAGE;
        d.at = (uint64_t)(pgno - 1) * fx->page_size +
               (what == 2 ? next_random(fx) % fx->page_size : 0);
        d.len = what == 2 ? 1 : fx->page_size;
        apply(fx, &d);
    }
    if (what == 3)
        apply(fx, &(struct damage){.how = CUT, .at = fx->db_bytes / 10 * 9});
}

static void full(void **state)
{
    static const char *const names[] = {"header zeroed", "200 pages zeroed", "200 bits flipped",
                                        "200 pages zeroed, cut by a tenth"};
    if (!getenv("EB_TEST_FULL"))
        skip();
    struct golden g = {.first = 60001, .last = 2860000, .deleted = 61500, .with_free = true};
    struct fixture *fx = make(g, 99);
    print_message("golden: %.2f GiB\n", (double)fx->db_bytes / (1 << 30));
    for (int what = -1; what < 4; what++) {
        struct eb_ops_summary seen = {0}, saved = {0};
        struct eb_error err;
        uint8_t *present = calloc(MAX_SEQ / 8 + 1, 1);
        what < 0 ? copy_golden(fx) : damage_full(fx, what);
        int64_t t0 = eb_mono_ms();
        int rc = eb_store_check(fx->bad, NULL, &err);
        int64_t t1 = eb_mono_ms();
        assert_true(t1 - t0 < 2000);
        int verified = eb_store_verify(fx->bad, NULL, &seen, &err);
        int64_t t2 = eb_mono_ms();
        assert_int_equal(eb_store_repair(fx->bad, fx->fixed, NULL, &saved, &err), 0);
        int64_t t3 = eb_mono_ms();
        print_message("%s: check %lld ms (%d), verify %lld ms (%d, %llu whole, %llu lost), repair "
                      "%lld ms (%llu)\n",
                      what < 0 ? "whole" : names[what], (long long)(t1 - t0), rc,
                      (long long)(t2 - t1), verified, (unsigned long long)seen.rows,
                      (unsigned long long)seen.damaged, (long long)(t3 - t2),
                      (unsigned long long)saved.rows);
        assert_int_equal(golden_read(fx->fixed, present, MAX_SEQ), saved.rows);
        assert_int_equal(saved.rows, seen.rows);
        for (uint64_t seq = 1; seq < MAX_SEQ; seq++)
            assert_true(golden_live(&g, seq) || !bit(present, seq));
        free(present);
    }
    destroy(fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"damage/whole_is_whole", whole_is_whole, NULL, NULL, NULL},
        {"damage/leaf_of_log_costs_only_its_rows", log_leaf, NULL, NULL, NULL},
        {"damage/inner_page_of_log_costs_no_row", log_inner, NULL, NULL, NULL},
        {"damage/overflow_page_costs_one_row", overflow, NULL, NULL, NULL},
        {"damage/topics_or_their_index_cost_no_row", topics, NULL, NULL, NULL},
        {"damage/lists_cost_no_row", lists, NULL, NULL, NULL},
        {"damage/freelist_costs_no_row_and_raises_none", free_pages, NULL, NULL, NULL},
        {"damage/pointer_map_costs_no_row", pointer_map, NULL, NULL, NULL},
        {"damage/header_and_schema_cost_no_row", page_one, NULL, NULL, NULL},
        {"damage/cut_file_costs_what_was_cut", cut_file, NULL, NULL, NULL},
        {"damage/wal_costs_what_its_frames_held", wal, NULL, NULL, NULL},
        {"damage/endless_wal_does_not_hold_up_the_check", endless_wal, NULL, NULL, NULL},
        {"damage/full_size", full, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
