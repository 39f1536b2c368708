/*
 * repair.c - bring every whole row of a damaged log into a new one.
 *
 *   round 1: look at every page (and at the frames of the WAL that are not whole): collect topics' names, marks,
 *            small values, and which pages are leaves of the log
 *   round 2: those leaves in the order of their first seq: each row that passes its checksum goes into the target
 *   round 3: leaves that may be old ones or not the log's at all: rows whose seq is still missing
 *
 * (R1) The damaged file is read through pread alone; SQLite never sees it. It stays byte for byte what it is.
 * (R2) Nothing is needed but the pages themselves: no header, schema, index or inner page.
 * (R3) What was deleted does not come back: pages on the freelist or free by the pointer map are passed over,
 *      and so are seqs up to `deleted_upto`. Where both maps are damaged, an event that was deleted singly may
 *      return.
 * (R4) Overflow pages hold publishers' bytes: they are never taken for leaves (pointer map; where that is
 *      damaged, the chains of the rows already found).
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/store/build.h"
#include "broker/store/ids.h"
#include "broker/store/repair_kept.h"
#include "broker/store/salvage.h"
#include "common/clock.h"
#include "common/uuid.h"

#define TIME_MIN 100000000000 /* ms: in 1973, before there was an eventbus */

struct leaf {
    int64_t first; /* lowest rowid that can be read in it */
    uint32_t pgno;
    uint32_t frame; /* in the WAL, 0: the page's newest image */
    bool loose;     /* round 3 */
};

struct mark {
    uint64_t seq;
    int64_t at;
    uint8_t id[16]; /* of `gone` */
};

struct marks {
    struct mark *list;
    size_t count, cap;
};

struct repair {
    const struct eb_ops *ops;
    struct eb_ops_summary *sum;
    struct eb_pages pages;
    struct eb_salvage salvage;
    struct eb_page_map *map, *old_map; /* old_map: as the file has it, without the WAL */
    struct eb_build *build;
    struct eb_repair_kept kept;
    uint8_t *free_bits;
    bool freelist_broken;
    struct leaf *leaves;
    size_t leaf_count, leaf_cap;
    struct marks acked, gone;
    struct eb_buf imported; /* 36 bytes each */
    uint64_t deleted_upto, last_seq;
    int64_t last_ts;
    int64_t told_ms;
};

static void say(struct repair *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct repair *r, const char *fmt, ...)
{
    char line[400];
    va_list args;
    if (!r->ops->report)
        return;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    r->ops->report(r->ops->ctx, line);
}

static void progress(struct repair *r, uint64_t done, uint64_t total)
{
    int64_t now = eb_mono_ms();
    if (r->ops->progress && (now - r->told_ms > 100 || done == total)) {
        r->told_ms = now;
        r->ops->progress(r->ops->ctx, done, total);
    }
}

/* Room for one more in a list that doubles. */
static void *grow(void *list, size_t *cap, size_t count, size_t each)
{
    if (count < *cap)
        return list;
    size_t want = *cap ? 2 * *cap : 256;
    void *more = realloc(list, want * each);
    if (more)
        *cap = want;
    return more;
}

static int add_mark(struct marks *marks, uint64_t seq, int64_t at, const uint8_t *id)
{
    void *list = grow(marks->list, &marks->cap, marks->count, sizeof(struct mark));
    if (!list)
        return -ENOMEM;
    marks->list = list;
    struct mark *m = &marks->list[marks->count++];
    *m = (struct mark){.seq = seq, .at = at};
    if (id)
        memcpy(m->id, id, 16);
    return 0;
}

static int add_leaf(struct repair *r, int64_t first, uint32_t pgno, uint32_t frame, bool loose)
{
    void *list = grow(r->leaves, &r->leaf_cap, r->leaf_count, sizeof(*r->leaves));
    if (!list)
        return -ENOMEM;
    r->leaves = list;
    r->leaves[r->leaf_count++] = (struct leaf){first, pgno, frame, loose};
    return 0;
}

/* ---- round 1 ---- */

static bool is_key(const struct eb_value *v, const char *key)
{
    return v->type == EB_V_TEXT && v->len == strlen(key) && !memcmp(v->data, key, v->len);
}

/* The one page of `meta` is known by its epoch: (key, value) alone could be a topic in its index. */
static bool is_meta(const struct eb_node *node)
{
    for (uint32_t i = 0; i < node->cells; i++) {
        struct eb_cell cell;
        struct eb_value v[2];
        uint8_t id[16];
        if (eb_cell_read(node, i, &cell) && !cell.overflow &&
            eb_record_read(cell.data, cell.payload, v, 2) == 2 && is_key(&v[0], EB_META_EPOCH) &&
            v[1].type == EB_V_TEXT && v[1].len == EB_UUID_TEXT)
            return eb_uuid_parse(id, (const char *)v[1].data, v[1].len);
    }
    return false;
}

static void take_meta(struct repair *r, const struct eb_value v[2])
{
    if (v[1].type != EB_V_INT || v[1].i < 0)
        return;
    uint64_t n = (uint64_t)v[1].i;
    if (is_key(&v[0], EB_META_DELETED_UPTO) && n < EB_SEQ_MAX)
        r->deleted_upto = n > r->deleted_upto ? n : r->deleted_upto;
    if (is_key(&v[0], EB_META_LAST_SEQ) && n < EB_SEQ_MAX)
        r->last_seq = n > r->last_seq ? n : r->last_seq;
    if (is_key(&v[0], EB_META_LAST_TS))
        r->last_ts = v[1].i > r->last_ts ? v[1].i : r->last_ts;
}

/* A page of an index tree: `meta`, the names, the ids of deleted events, imported ids. */
static int look_at_index(struct repair *r, const struct eb_node *node, uint32_t pgno)
{
    if (is_meta(node)) {
        for (uint32_t i = 0; i < node->cells; i++) {
            struct eb_cell cell;
            struct eb_value v[2];
            if (eb_cell_read(node, i, &cell) && !cell.overflow &&
                eb_record_read(cell.data, cell.payload, v, 2) == 2)
                take_meta(r, v);
        }
        return 0;
    }
    for (uint32_t i = 0; i < node->cells; i++) {
        struct eb_cell cell;
        struct eb_value v[3];
        uint8_t id[16];
        if (!eb_cell_read(node, i, &cell) || cell.overflow)
            continue;
        int n = eb_record_read(cell.data, cell.payload, v, 3), rc = 0;
        if (n == 3 && v[0].type == EB_V_BLOB && v[0].len == 16 && v[1].type == EB_V_INT &&
            v[1].i > 0 && v[2].type == EB_V_INT)
            rc = add_mark(&r->gone, (uint64_t)v[1].i, v[2].i, v[0].data);
        if (n == 1 && v[0].type == EB_V_TEXT && v[0].len == EB_UUID_TEXT &&
            eb_uuid_parse(id, (const char *)v[0].data, v[0].len))
            eb_buf_add(&r->imported, v[0].data, v[0].len);
        if (rc)
            return rc;
    }
    return eb_repair_kept_foreign(&r->kept, pgno) ? 0 : eb_salvage_names(&r->salvage, node);
}

/* A list of ids of deleted events, if it is whole. */
static int take_ids(struct repair *r, const struct eb_cell *cell)
{
    struct eb_buf buf = EB_BUF_INIT;
    struct eb_value v[4];
    int64_t count = 0;
    int rc = 0;
    if (cell->rowid > 0 && !eb_cell_payload(&r->pages, cell, &buf, NULL, NULL) &&
        eb_record_read((const uint8_t *)buf.data, cell->payload, v, 4) == 4 &&
        v[3].type == EB_V_BLOB)
        count = eb_ids_check(cell->rowid, v[3].data, v[3].len);
    for (int64_t i = 0; i < count && !rc; i++) {
        struct eb_dedupe_entry entry;
        eb_ids_decode(v[3].data, (size_t)i, &entry);
        rc = add_mark(&r->gone, entry.seq, entry.timestamp, entry.id);
    }
    eb_buf_finish(&buf);
    return rc;
}

/* A leaf of a table: names, marks, or one of the log. */
static int look_at_leaf(struct repair *r, const struct eb_node *node, uint32_t pgno, uint32_t frame,
                        bool loose)
{
    int64_t first = INT64_MAX, before = 0;
    bool log = false;
    for (uint32_t i = 0; i < node->cells; i++) {
        struct eb_cell cell;
        struct eb_value v[2];
        if (!eb_cell_read(node, i, &cell))
            continue;
        switch (eb_table_shape(&cell)) {
        case EB_SHAPE_LOG:
            log = true;
            first = cell.rowid > 0 && cell.rowid < first ? cell.rowid : first;
            break;
        case EB_SHAPE_ACKED: /* has no checksum: only what stands in order is believed */
            /* Rows of `replies` look like it; what they count is smaller than any time. */
            if (cell.rowid <= before || eb_record_read(cell.data, cell.payload, v, 2) != 2 ||
                v[1].i < 0 || eb_repair_kept_foreign(&r->kept, pgno) ||
                (!r->kept.known && v[1].i < TIME_MIN))
                break;
            before = cell.rowid;
            if (add_mark(&r->acked, (uint64_t)cell.rowid, v[1].i, NULL))
                return -ENOMEM;
            break;
        case EB_SHAPE_IDS:
            if (take_ids(r, &cell))
                return -ENOMEM;
            break;
        default:
            break;
        }
    }
    int rc = log ? add_leaf(r, first, pgno, frame, loose) : 0;
    return rc ? rc : eb_salvage_names(&r->salvage, node);
}

static int look_at(struct repair *r, uint32_t pgno, uint32_t frame, bool loose, const uint8_t *page)
{
    static const uint8_t zero[EB_PAGE_MAX];
    struct eb_node node;
    bool good = eb_node_read(&node, &r->pages, pgno, page);
    int rc =
        good && !(node.table && node.inner) ? eb_repair_kept_look(&r->kept, &node, pgno, frame) : 0;
    if (rc)
        return rc;
    if (good && !node.table)
        return look_at_index(r, &node, pgno);
    if (good && node.type == EB_TABLE_INNER)
        return 0;
    if (good && node.cells)
        return look_at_leaf(r, &node, pgno, frame, loose);
    /* No header to go by: its cells may still be there. */
    if (memcmp(page, zero, r->pages.usable))
        return add_leaf(r, INT64_MAX, pgno, frame, true);
    return 0;
}

/* Does the overflow page @pgno hang where the pointer map says it does? */
static bool hangs(struct repair *r, uint32_t pgno, uint32_t parent, enum eb_page_use use)
{
    uint8_t page[EB_PAGE_MAX];
    struct eb_node node;
    struct eb_cell cell;
    if (eb_pages_read(&r->pages, parent, page))
        return false;
    if (use == EB_USE_OVERFLOW)
        return eb_be32(page) == pgno;
    if (!eb_node_read(&node, &r->pages, parent, page))
        return true; /* cannot be told: then it is no leaf (R4) */
    for (uint32_t i = 0; i < node.cells; i++)
        if (eb_cell_read(&node, i, &cell) && cell.overflow == pgno)
            return true;
    return eb_node_check(&node, NULL) != NULL;
}

/* (R3), (R4); the maps may be damaged themselves, so one is believed only if something else agrees. */
static bool pass_over(struct repair *r, uint32_t pgno, enum eb_page_use use, uint32_t parent)
{
    bool listed = eb_bit_get(r->free_bits, pgno);
    if (use == EB_USE_FREE)
        return listed || r->freelist_broken;
    if (use == EB_USE_OVERFLOW || use == EB_USE_OVERFLOW_FIRST)
        return hangs(r, pgno, parent, use);
    return use == EB_USE_UNKNOWN && listed;
}

/*
 * An older image of a page that was free when it was written holds what was deleted before. Its newer image is in
 * a frame that is not whole, maybe not even by its number: so each page that only the file has is asked.
 */
static bool was_free(struct repair *r, uint32_t pgno)
{
    if (!r->pages.broken_frames || eb_pages_in_wal(&r->pages, pgno))
        return false;
    r->pages.file_only = true;
    enum eb_page_use use = eb_page_use(r->old_map, pgno, NULL);
    r->pages.file_only = false;
    return use == EB_USE_FREE || use == EB_USE_OVERFLOW || use == EB_USE_OVERFLOW_FIRST;
}

static int look_at_pages(struct repair *r)
{
    uint8_t page[EB_PAGE_MAX];
    struct eb_node node;
    uint32_t n = r->pages.count;
    for (uint32_t pgno = 1; pgno <= n; pgno++) {
        uint32_t parent = 0;
        enum eb_page_use use = eb_page_use(r->map, pgno, &parent);
        bool sure = use == EB_USE_TREE || use == EB_USE_ROOT;
        progress(r, pgno, 2 * (uint64_t)n);
        if (use == EB_USE_MAP)
            continue;
        int rc = eb_pages_read(&r->pages, pgno, page);
        if (rc == -ENODATA)
            continue;
        if (rc == -EIO) { /* a bad sector: what others hold is still to be had */
            say(r, "page %u cannot be read from the disk", pgno);
            r->sum->problems++;
            continue;
        }
        r->sum->pages++;
        if (!sure && use != EB_USE_UNKNOWN && !eb_node_read(&node, &r->pages, pgno, page))
            continue;
        if ((!sure && pass_over(r, pgno, use, parent)) || was_free(r, pgno))
            continue;
        rc = rc ? rc : look_at(r, pgno, 0, !sure, page);
        if (rc)
            return rc;
    }
    return 0;
}

/* Committed frames that are not whole, and the image in the file under each: some of their rows may be. */
static int look_at_frames(struct repair *r)
{
    uint8_t page[EB_PAGE_MAX];
    for (uint32_t f = 1; f <= r->pages.committed_end; f++) {
        uint32_t pgno = r->pages.frames[f - 1].pgno;
        if (r->pages.frames[f - 1].chained)
            continue;
        say(r, "frame %u of the WAL is damaged", f);
        r->sum->problems++;
        pgno = pgno && pgno <= r->pages.count ? pgno : 2;
        int rc = eb_pages_read_frame(&r->pages, f, page);
        if (!rc && eb_page_use(r->map, pgno, NULL) != EB_USE_OVERFLOW &&
            eb_page_use(r->map, pgno, NULL) != EB_USE_OVERFLOW_FIRST)
            rc = look_at(r, pgno, f, true, page);
        if (rc == -ENOMEM)
            return rc;
    }
    return 0;
}

/* ---- rounds 2 and 3 ---- */

static int take_row(void *ctx, const struct eb_row *row, struct eb_name *name)
{
    struct repair *r = ctx;
    if (row->seq <= r->deleted_upto)
        return 0;
    int rc = 0;
    if (!name->taken) {
        rc = eb_build_topic(r->build, name->id, eb_name_text(&r->salvage.names, name), name->len);
        name->taken = true;
    }
    return rc ? rc : eb_build_row(r->build, row);
}

static void bad_row(void *ctx, uint64_t seq, const char *why)
{
    struct repair *r = ctx;
    if (seq && seq <= r->deleted_upto)
        return;
    if (++r->sum->damaged <= 1000)
        say(r, "event %llu is damaged: %s", (unsigned long long)seq, why);
    if (r->sum->damaged == 1001)
        say(r, "more events are damaged; they are counted");
}

static int by_first(const void *va, const void *vb)
{
    const struct leaf *a = va, *b = vb;
    if (a->loose != b->loose)
        return a->loose ? 1 : -1;
    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    return a->pgno < b->pgno ? -1 : a->pgno > b->pgno;
}

static int take_rows(struct repair *r)
{
    uint8_t page[EB_PAGE_MAX];
    const char *why;
    if (r->leaf_count)
        qsort(r->leaves, r->leaf_count, sizeof(*r->leaves), by_first);
    for (size_t i = 0; i < r->leaf_count; i++) {
        struct leaf *l = &r->leaves[i];
        progress(r, r->leaf_count + i + 1, 2 * (uint64_t)r->leaf_count);
        if (l->loose && !l->frame && eb_bit_get(r->salvage.chains, l->pgno))
            continue; /* (R4) */
        int rc = l->frame ? eb_pages_read_frame(&r->pages, l->frame, page)
                          : eb_pages_read(&r->pages, l->pgno, page);
        /* What an older or foreign page holds that is no row is no loss. */
        r->salvage.bad = l->loose && l->first == INT64_MAX ? NULL : bad_row;
        if (!rc)
            rc = eb_salvage_leaf(&r->salvage, l->pgno, page, &why);
        if (rc)
            return rc;
    }
    return 0;
}

/*
 * Names that no row uses: one for each id, the table's before the index's; the name of a consumer or a mark may look like
 * the latter. And what a topic's last seq was.
 */
static int take_name(struct repair *r, struct eb_name *name)
{
    int rc = 0;
    if (!name->taken && (name->tabled || r->kept.known))
        rc = eb_build_topic(r->build, name->id, eb_name_text(&r->salvage.names, name), name->len);
    return rc || !name->last ? rc : eb_build_topic_last(r->build, name->id, name->last);
}

static int take_rest(struct repair *r)
{
    struct eb_names *names = &r->salvage.names;
    int rc = 0;
    for (size_t i = 0; i < names->count && !rc; i++)
        rc = take_name(r, &names->list[i]);
    for (size_t i = 0; i < r->acked.count && !rc; i++)
        rc = eb_build_acked(r->build, r->acked.list[i].seq, r->acked.list[i].at);
    for (size_t i = 0; i < r->gone.count && !rc; i++)
        rc = eb_build_gone(r->build, r->gone.list[i].id, r->gone.list[i].seq, r->gone.list[i].at);
    for (size_t i = 0; i < r->imported.len && !rc; i += EB_UUID_TEXT)
        rc = eb_build_imported(r->build, r->imported.data + i, EB_UUID_TEXT);
    return rc;
}

/* ---- the whole ---- */

static int prepare(struct repair *r, const char *damaged, struct eb_error *err)
{
    const char *why;
    uint64_t free_pages;
    int rc = eb_pages_open(&r->pages, damaged, r->ops->vfs, err);
    if (rc)
        return rc;
    if (r->pages.count < r->pages.file_pages && (!r->pages.header_whole || !r->pages.newest_count))
        r->pages.count = r->pages.file_pages; /* better too many than too few */
    eb_fail(err, EB_INTERNAL, "out of memory");
    rc = eb_salvage_init(&r->salvage, &r->pages);
    r->map = calloc(1, sizeof(*r->map));
    r->old_map = calloc(1, sizeof(*r->old_map));
    r->free_bits = calloc(r->pages.count / 8 + 1, 1);
    if (rc || !r->map || !r->old_map || !r->free_bits)
        return -ENOMEM;
    r->map->pages = &r->pages;
    r->old_map->pages = &r->pages;
    r->salvage.ctx = r;
    r->salvage.row = take_row;
    /* Without a header the list has no beginning, which looks like an empty one. */
    r->freelist_broken = eb_freelist_read(&r->pages, r->free_bits, 0, &free_pages, &why) != 0 ||
                         !r->pages.header_whole;
    if (r->freelist_broken)
        say(r, "the freelist is damaged: %s", why ? why : "it cannot be read");
    return eb_repair_kept_init(&r->kept, &r->pages);
}

static void say_kept(struct repair *r)
{
    if (r->kept.bad)
        say(r, "%llu rows of consumers, their events or scheduled events were damaged",
            (unsigned long long)r->kept.bad);
    if (r->sum->consumers && !r->kept.whole)
        say(r, "consumers may have lost what they knew of open events: each begins again at its "
               "first one, and delivers some twice");
    if (!r->kept.known)
        say(r, "the schema cannot be read: marks could not be told from other rows and are lost");
}

static int salvage_all(struct repair *r, const char *path, const char *target, struct eb_error *err)
{
    int rc = look_at_pages(r);
    if (!rc)
        rc = look_at_frames(r);
    if (rc) {
        eb_fail(err, EB_INTERNAL, "cannot read the damaged file: %s", strerror(-rc));
        return rc;
    }
    if (eb_buf_failed(&r->imported))
        return -ENOMEM;
    eb_names_sort(&r->salvage.names);
    rc = eb_build_create(target, r->ops->vfs, &r->build, err);
    if (rc)
        return rc;
    rc = eb_repair_kept_take(&r->kept, r->build, r->salvage.chains);
    if (!rc)
        rc = take_rows(r);
    if (!rc && !eb_build_last_seq(r->build)) {
        eb_fail(err, EB_INTERNAL, "not one whole event is in %.150s: no new log was made", path);
        return -EBADMSG;
    }
    if (!rc)
        rc = take_rest(r);
    if (rc)
        return eb_build_say(r->build, rc, err);
    struct eb_build_end end = {.last_seq = r->last_seq,
                               .deleted_upto = r->deleted_upto,
                               .last_ts = r->last_ts,
                               .rewind = !r->kept.whole};
    rc = eb_build_finish(r->build, &end, r->sum, err);
    if (!rc)
        say_kept(r);
    return rc;
}

/* A broker that runs on it would change it under our hands. The lock file cannot always be made: then so be it. */
static int keep_brokers_out(const char *damaged, int *ret_fd, struct eb_error *err)
{
    int rc = eb_log_lock(damaged, ret_fd, err);
    if (rc == -EBUSY)
        eb_fail(err, EB_CONFLICT, "a broker is running on %.120s: stop it before the repair",
                damaged);
    return rc == -EBUSY ? rc : 0;
}

int eb_store_repair(const char *damaged, const char *target, const struct eb_ops *ops,
                    struct eb_ops_summary *ret, struct eb_error *err)
{
    static const struct eb_ops none;
    struct eb_ops_summary sum = {0};
    struct repair r = {.ops = ops ? ops : &none, .sum = &sum};
    int lock = -1;
    int rc = access(target, F_OK) ? 0 : -EEXIST;
    if (rc)
        eb_fail(err, EB_CONFLICT,
                "%.150s is there already and is left as it is: name a file that is not there",
                target);
    if (!rc)
        rc = access(damaged, F_OK) ? -ENOENT : keep_brokers_out(damaged, &lock, err);
    if (rc == -ENOENT)
        eb_fail(err, EB_INTERNAL, "there is no file %.150s", damaged);
    if (!rc)
        rc = prepare(&r, damaged, err);
    if (!rc)
        rc = salvage_all(&r, damaged, target, err);
    eb_build_destroy(r.build);
    eb_salvage_finish(&r.salvage);
    eb_repair_kept_finish(&r.kept);
    eb_pages_close(&r.pages);
    eb_log_unlock(lock);
    eb_buf_finish(&r.imported);
    free(r.map);
    free(r.old_map);
    free(r.free_bits);
    free(r.leaves);
    free(r.acked.list);
    free(r.gone.list);
    if (!rc)
        *ret = sum;
    return rc;
}
