/*
 * pages.c - open a log's file and WAL below SQLite; know the newest committed image of each page.
 *
 *   WAL:  header | frame 1 | frame 2 | ...        frame: page number, commit size, salts, checksum | page
 *
 * (W1) A frame is whole when its checksum follows from the one stored in the frame before it (the first: in
 *      the header) and its salts are the header's. SQLite stops at the first that is not; we look behind it.
 * (W2) A frame that is not whole at the end of the WAL is what a crash leaves: the transaction was never
 *      answered. SQLite drops it, and so do we.
 * (W3) A commit whose next frame is chained to it was synced before that frame was written. A frame that is
 *      not whole before such a commit is damage: something answered lies behind it. `committed_end` is the last
 *      commit in the last run of whole frames that has such a proof; frames of an older history that a
 *      shorter one has overwritten break the chain where the two meet and prove nothing.
 */
#include "broker/store/pages.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"

#define WAL_HEADER   32
#define FRAME_HEADER 24

static int file_open(struct eb_pages *pages, const char *name, int kind, sqlite3_file **ret)
{
    sqlite3_file *file = sqlite3_malloc(pages->vfs->szOsFile);
    if (!file)
        return -ENOMEM;
    memset(file, 0, (size_t)pages->vfs->szOsFile);
    int flags = 0;
    int rc = pages->vfs->xOpen(pages->vfs, name, file, SQLITE_OPEN_READONLY | kind, &flags);
    if (rc != SQLITE_OK) {
        if (file->pMethods)
            file->pMethods->xClose(file);
        sqlite3_free(file);
        return rc == SQLITE_NOMEM ? -ENOMEM : rc == SQLITE_CANTOPEN ? -EACCES : -EIO;
    }
    *ret = file;
    return 0;
}

static void file_close(sqlite3_file *file)
{
    if (!file)
        return;
    if (file->pMethods)
        file->pMethods->xClose(file);
    sqlite3_free(file);
}

/* A short read fills up with zeroes and is fine: a partial page is judged by what is in it. */
static int file_read(sqlite3_file *file, void *buf, uint32_t len, uint64_t at)
{
    int rc = file->pMethods->xRead(file, buf, (int)len, (sqlite3_int64)at);
    return rc == SQLITE_OK || rc == SQLITE_IOERR_SHORT_READ ? 0 : -EIO;
}

static void read_header(struct eb_pages *pages, const uint8_t *h)
{
    uint32_t size = eb_be16(h + 16);
    size = size == 1 ? EB_PAGE_MAX : size;
    bool whole = !memcmp(h, "SQLite format 3", 16) && size >= 512 && !(size & (size - 1)) &&
                 h[18] >= 1 && h[18] <= 2 && h[19] >= 1 && h[19] <= 2 && h[21] == 64 &&
                 h[22] == 32 && h[23] == 32 && h[20] <= size / 8 && eb_be32(h + 44) <= 4 &&
                 eb_be32(h + 56) <= 1; /* 0: nothing was made in it yet, all is in the WAL */
    pages->header_whole = whole;
    pages->page_size = whole ? size : EB_PAGE_SIZE;
    pages->usable = whole ? size - h[20] : EB_PAGE_SIZE;
}

/* The WAL's checksum: two sums over pairs of words, in the byte order that the magic number names. */
static void wal_sum(bool big, const uint8_t *data, size_t len, uint32_t sum[2])
{
    uint32_t a = sum[0], b = sum[1];
    for (size_t i = 0; i + 8 <= len; i += 8) {
        const uint8_t *p = data + i;
        uint32_t x, y;
        if (big) {
            x = eb_be32(p);
            y = eb_be32(p + 4);
        } else {
            memcpy(&x, p, 4);
            memcpy(&y, p + 4, 4);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            x = __builtin_bswap32(x);
            y = __builtin_bswap32(y);
#endif
        }
        a += x + b;
        b += y + a;
    }
    sum[0] = a;
    sum[1] = b;
}

static bool same(const uint32_t a[2], const uint32_t b[2])
{
    return a[0] == b[0] && a[1] == b[1];
}

/* Read all frames; which are chained to the one before is known then, whatever the header says. */
static int wal_read(struct eb_pages *pages, bool big, const uint32_t header_sum[2],
                    int64_t deadline_ms)
{
    const uint32_t ps = pages->page_size;
    uint8_t *buf = malloc(FRAME_HEADER + ps);
    if (!buf)
        return -ENOMEM;
    int rc = 0;
    uint32_t prev[2] = {header_sum[0], header_sum[1]};
    for (uint32_t i = 0; i < pages->frame_count && !rc; i++) {
        struct eb_wal_frame *f = &pages->frames[i];
        if (i % 64 == 63 && eb_mono_ms() > deadline_ms) {
            pages->wal_partial = true;
            pages->frame_count = i;
            break;
        }
        rc = file_read(pages->wal, buf, FRAME_HEADER + ps,
                       WAL_HEADER + (uint64_t)i * (FRAME_HEADER + ps));
        f->pgno = eb_be32(buf);
        f->commit = eb_be32(buf + 4);
        f->salt[0] = eb_be32(buf + 8);
        f->salt[1] = eb_be32(buf + 12);
        f->sum[0] = eb_be32(buf + 16);
        f->sum[1] = eb_be32(buf + 20);
        uint32_t sum[2] = {prev[0], prev[1]};
        wal_sum(big, buf, 8, sum);
        wal_sum(big, buf + FRAME_HEADER, ps, sum);
        f->chained = f->pgno && same(sum, f->sum);
        memcpy(prev, f->sum, sizeof(prev));
    }
    free(buf);
    return rc;
}

/* (W2), (W3) */
static void wal_judge(struct eb_pages *pages, const uint32_t salt[2])
{
    struct eb_wal_frame *f = pages->frames;
    uint32_t run = 0, n = pages->frame_count;
    for (uint32_t i = 0; i < n; i++)
        f[i].chained = f[i].chained && same(f[i].salt, salt);
    while (!pages->wal_header_broken && run < n && f[run].chained)
        run++;
    /* SQLite's view ends with the first run: nothing behind it is needed to know that. */
    pages->wal_partial = pages->wal_partial && run == n;
    for (uint32_t i = run; i > 0 && !pages->sql_end; i--)
        if (f[i - 1].commit)
            pages->sql_end = i;
    pages->committed_end = pages->sql_end;
    for (uint32_t i = run; i < n;) {
        uint32_t last = 0;
        bool proof = pages->wal_header_broken && i <= 1;
        for (; i < n && f[i].chained; i++) {
            proof = proof || last; /* a frame behind a commit */
            last = f[i].commit ? i + 1 : last;
        }
        if (proof && last)
            pages->committed_end = last;
        while (i < n && !f[i].chained)
            i++;
    }
}

static int by_page(const void *va, const void *vb)
{
    const struct eb_page_at *a = va, *b = vb;
    if (a->pgno != b->pgno)
        return a->pgno < b->pgno ? -1 : 1;
    return a->frame < b->frame ? -1 : a->frame > b->frame;
}

/* Sort by page, keep the newest of each. Returns how many. */
static uint32_t newest_of(struct eb_page_at *at, uint32_t n)
{
    uint32_t kept = 0;
    if (n)
        qsort(at, n, sizeof(*at), by_page);
    for (uint32_t i = 0; i < n; i++)
        if (i + 1 == n || at[i + 1].pgno != at[i].pgno)
            at[kept++] = at[i];
    return kept;
}

static int wal_index(struct eb_pages *pages)
{
    uint32_t end = pages->committed_end, n = 0;
    if (!end)
        return 0;
    pages->newest = malloc(end * sizeof(*pages->newest));
    pages->broken = malloc(end * sizeof(*pages->broken));
    if (!pages->newest || !pages->broken)
        return -ENOMEM;
    for (uint32_t i = 0; i < end; i++) {
        struct eb_page_at at = {pages->frames[i].pgno, i + 1};
        if (pages->frames[i].chained)
            pages->newest[n++] = at;
        else
            pages->broken[pages->broken_frames++] = at;
    }
    pages->newest_count = newest_of(pages->newest, n);
    pages->broken_count = newest_of(pages->broken, pages->broken_frames);
    pages->count = pages->frames[end - 1].commit;
    return 0;
}

static int wal_load(struct eb_pages *pages, int64_t deadline_ms)
{
    uint8_t h[WAL_HEADER];
    sqlite3_int64 size = 0;
    if (pages->wal->pMethods->xFileSize(pages->wal, &size) != SQLITE_OK)
        return -EIO;
    pages->wal_bytes = (uint64_t)size;
    if (size <= WAL_HEADER)
        return 0;
    int rc = file_read(pages->wal, h, sizeof(h), 0);
    if (rc)
        return rc;
    uint32_t magic = eb_be32(h), sum[2] = {0, 0};
    uint32_t salt[2] = {eb_be32(h + 16), eb_be32(h + 20)};
    const uint32_t stored[2] = {eb_be32(h + 24), eb_be32(h + 28)};
    bool big = magic == 0x377f0683;
    wal_sum(big, h, 24, sum);
    uint32_t ps = eb_be32(h + 8);
    pages->wal_header_broken = (magic & ~1u) != 0x377f0682 || !same(sum, stored) || ps < 512 ||
                               ps > EB_PAGE_MAX || (ps & (ps - 1));
    if (!pages->wal_header_broken && pages->page_size != ps) {
        if (pages->header_whole)
            pages->wal_header_broken = true;
        else
            pages->page_size = pages->usable = ps;
    }
    uint64_t n = ((uint64_t)size - WAL_HEADER) / (FRAME_HEADER + pages->page_size);
    pages->frame_count = n > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)n;
    pages->frames = calloc(pages->frame_count ? pages->frame_count : 1, sizeof(*pages->frames));
    if (!pages->frames)
        return -ENOMEM;
    rc = wal_read(pages, big, stored, deadline_ms);
    if (rc)
        return rc;
    for (uint32_t i = 0; pages->wal_header_broken && i < pages->frame_count; i++) {
        if (pages->frames[i].chained) { /* the newest round of the WAL begins at its start */
            memcpy(salt, pages->frames[i].salt, sizeof(salt));
            break;
        }
    }
    wal_judge(pages, salt);
    return wal_index(pages);
}

static int say(struct eb_error *err, int rc, const char *path)
{
    switch (rc) {
    case -ENOENT:
        eb_fail(err, EB_INTERNAL, "there is no file %.150s", path);
        break;
    case -EISDIR:
        eb_fail(err, EB_INTERNAL, "%.150s is not a file", path);
        break;
    case -ENOMEM:
        eb_fail(err, EB_INTERNAL, "out of memory");
        break;
    default:
        eb_fail(err, EB_INTERNAL, "cannot read %.150s: %s", path, strerror(-rc));
    }
    return rc;
}

static int open_files(struct eb_pages *pages, const char *path)
{
    int there = 0;
    /* The real name, links followed, as SQLite does: its VFS opens no link, and the WAL lies beside the file. */
    char full[PATH_MAX];
    int full_rc = pages->vfs->xFullPathname(pages->vfs, path, sizeof(full), full);
    if (full_rc != SQLITE_OK && full_rc != SQLITE_OK_SYMLINK)
        return -EACCES;
    char *wal_path = sqlite3_mprintf("%s-wal", full);
    if (!wal_path)
        return -ENOMEM;
    pages->db_name = sqlite3_create_filename(full, "", wal_path, 0, NULL);
    pages->wal_name = pages->db_name ? sqlite3_filename_wal(pages->db_name) : NULL;
    sqlite3_free(wal_path);
    if (!pages->db_name)
        return -ENOMEM;
    if (pages->vfs->xAccess(pages->vfs, pages->db_name, SQLITE_ACCESS_EXISTS, &there) || !there) {
        struct stat st; /* SQLite's xAccess takes an empty file for an absent one */
        if (stat(path, &st) || st.st_size)
            return -ENOENT;
        return 0;
    }
    struct stat st;
    if (!stat(path, &st) && !S_ISREG(st.st_mode))
        return -EISDIR;
    int rc = file_open(pages, pages->db_name, SQLITE_OPEN_MAIN_DB, &pages->db);
    if (rc)
        return rc;
    there = 0;
    pages->vfs->xAccess(pages->vfs, pages->wal_name, SQLITE_ACCESS_EXISTS, &there);
    return there ? file_open(pages, pages->wal_name, SQLITE_OPEN_WAL, &pages->wal) : 0;
}

int eb_pages_open(struct eb_pages *pages, const char *path, const char *vfs, struct eb_error *err)
{
    return eb_pages_open_until(pages, path, vfs, INT64_MAX, err);
}

int eb_pages_open_until(struct eb_pages *pages, const char *path, const char *vfs,
                        int64_t deadline_ms, struct eb_error *err)
{
    uint8_t h[100] = {0};
    memset(pages, 0, sizeof(*pages));
    pages->page_size = pages->usable = EB_PAGE_SIZE;
    pages->vfs = sqlite3_vfs_find(vfs);
    if (!pages->vfs)
        return say(err, -EINVAL, path);
    int rc = open_files(pages, path);
    sqlite3_int64 size = 0;
    if (!rc && pages->db && pages->db->pMethods->xFileSize(pages->db, &size) != SQLITE_OK)
        rc = -EIO;
    if (!rc && size)
        rc = file_read(pages->db, h, sizeof(h), 0);
    if (rc)
        goto fail;
    pages->db_bytes = (uint64_t)size;
    read_header(pages, h);
    if (pages->wal)
        rc = wal_load(pages, deadline_ms);
    if (rc)
        goto fail;
    pages->file_pages = (uint32_t)((pages->db_bytes + pages->page_size - 1) / pages->page_size);
    if (!pages->count) {
        /* The header's count holds if it was written with the last change; else the file's size does. */
        uint32_t said = eb_be32(h + 28);
        bool valid = pages->header_whole && said && eb_be32(h + 24) == eb_be32(h + 92);
        pages->count = valid ? said : pages->file_pages;
    }
    return 0;
fail:
    eb_pages_close(pages);
    return say(err, rc, path);
}

void eb_pages_close(struct eb_pages *pages)
{
    file_close(pages->db);
    file_close(pages->wal);
    sqlite3_free_filename((char *)pages->db_name);
    free(pages->frames);
    free(pages->newest);
    free(pages->broken);
    memset(pages, 0, sizeof(*pages));
}

static uint32_t find_frame(const struct eb_page_at *at, uint32_t count, uint32_t pgno)
{
    uint32_t lo = 0, hi = count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (at[mid].pgno < pgno)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < count && at[lo].pgno == pgno ? at[lo].frame : 0;
}

bool eb_pages_in_wal(const struct eb_pages *pages, uint32_t pgno)
{
    return find_frame(pages->newest, pages->newest_count, pgno) != 0;
}

int eb_pages_read_frame(struct eb_pages *pages, uint32_t frame, uint8_t *buf)
{
    uint64_t at =
        WAL_HEADER + (uint64_t)(frame - 1) * (FRAME_HEADER + pages->page_size) + FRAME_HEADER;
    return file_read(pages->wal, buf, pages->page_size, at);
}

int eb_pages_read(struct eb_pages *pages, uint32_t pgno, uint8_t *buf)
{
    uint32_t frame = pages->file_only ? 0 : find_frame(pages->newest, pages->newest_count, pgno);
    if (pages->try_broken) {
        uint32_t broken = find_frame(pages->broken, pages->broken_count, pgno);
        frame = broken > frame ? broken : frame;
    }
    if (frame)
        return eb_pages_read_frame(pages, frame, buf);
    if (!pgno || pgno > pages->file_pages || !pages->db)
        return -ENODATA;
    return file_read(pages->db, buf, pages->page_size, (uint64_t)(pgno - 1) * pages->page_size);
}

static uint32_t lock_page(const struct eb_pages *pages)
{
    return 0x40000000u / pages->page_size + 1;
}

/* The pointer map page that tells of @pgno: page 2, and then one for each usable/5 pages. */
static uint32_t map_page(const struct eb_pages *pages, uint32_t pgno)
{
    uint32_t each = pages->usable / 5 + 1;
    uint32_t at = (pgno - 2) / each * each + 2;
    return at == lock_page(pages) ? at + 1 : at;
}

bool eb_page_is_map(const struct eb_pages *pages, uint32_t pgno)
{
    return pgno >= 2 && (pgno == lock_page(pages) || map_page(pages, pgno) == pgno);
}

enum eb_page_use eb_page_use(struct eb_page_map *map, uint32_t pgno, uint32_t *ret_parent)
{
    struct eb_pages *pages = map->pages;
    if (pgno < 2)
        return EB_USE_ROOT;
    if (eb_page_is_map(pages, pgno))
        return EB_USE_MAP;
    uint32_t at = map_page(pages, pgno);
    if (map->at != at) {
        map->at = at;
        map->readable = !eb_pages_read(pages, at, map->buf);
    }
    uint32_t off = 5 * (pgno - at - 1);
    if (!map->readable || pgno <= at || off + 5 > pages->usable)
        return EB_USE_UNKNOWN;
    const uint8_t *p = map->buf + off;
    if (p[0] < EB_USE_ROOT || p[0] > EB_USE_TREE)
        return EB_USE_UNKNOWN;
    uint32_t parent = eb_be32(p + 1);
    bool orphan = p[0] <= EB_USE_FREE;
    if (orphan != !parent || parent > pages->count)
        return EB_USE_UNKNOWN;
    if (ret_parent)
        *ret_parent = parent;
    return p[0];
}
