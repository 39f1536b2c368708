/*
 * pages.h - the pages of a log's file as they lie on disk, the WAL's newest ones over them. Read only.
 *
 * SQLite reads a file only as long as it believes in it. The check at start, verify and repair must read one
 * that is damaged, and must not change it by reading (a WAL recovery or checkpoint would). So they go below
 * SQLite: through the VFS's xRead, by the published format (sqlite.org/fileformat2.html).
 */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/store/schema.h" /* EB_PAGE_SIZE: assumed where the header cannot be read */
#include "common/error.h"

#define EB_PAGE_MAX 65536

struct eb_wal_frame {
    uint32_t pgno;
    uint32_t commit; /* pages of the database after this commit, 0: not the end of a transaction */
    uint32_t salt[2];
    uint32_t sum[2];
    bool chained; /* its checksum follows from the one stored before it */
};

struct eb_page_at {
    uint32_t pgno, frame;
};

struct eb_pages {
    sqlite3_vfs *vfs;
    sqlite3_file *db, *wal; /* wal NULL: there is none */
    const char *db_name, *wal_name;
    uint64_t db_bytes, wal_bytes;
    uint32_t page_size, usable;
    uint32_t file_pages; /* in the file, a partial one at the end included */
    uint32_t count;      /* of the committed state */
    bool header_whole;   /* the 100 bytes at the start make sense */

    struct eb_wal_frame *frames; /* frames[0] is the first */
    uint32_t frame_count;
    uint32_t sql_end;       /* frames that SQLite takes for committed */
    uint32_t committed_end; /* frames that were committed, by what follows them (see pages.c, W3) */
    bool wal_header_broken;
    bool
        wal_partial; /* the time was up before the end of what is committed: only header and frames are known */
    uint32_t broken_frames; /* not chained, up to committed_end */
    struct eb_page_at
        *newest; /* by pgno: the newest whole committed frame of each page in the WAL */
    uint32_t newest_count;
    struct eb_page_at
        *broken; /* by pgno: the newest image of a page that is in a frame which is not whole */
    uint32_t broken_count;
    bool try_broken; /* read those where they are newer than the newest whole one */
    bool file_only;  /* read as if there were no WAL */
};

/** Open file and WAL. -ENOENT, -EACCES, -EIO, -ENOMEM; @err says which. An empty file has count 0. */
int eb_pages_open(struct eb_pages *pages, const char *path, const char *vfs, struct eb_error *err);
/** The same, reading the WAL until @deadline_ms (eb_mono_ms) at most: see wal_partial. */
int eb_pages_open_until(struct eb_pages *pages, const char *path, const char *vfs,
                        int64_t deadline_ms, struct eb_error *err);
void eb_pages_close(struct eb_pages *pages);

/** The newest committed image. 0, -ENODATA (the file ends before it), -EIO. @buf has page_size bytes. */
int eb_pages_read(struct eb_pages *pages, uint32_t pgno, uint8_t *buf);
/** The image in a frame (from 1), whole or not. */
int eb_pages_read_frame(struct eb_pages *pages, uint32_t frame, uint8_t *buf);
/** Is the page in the WAL? */
bool eb_pages_in_wal(const struct eb_pages *pages, uint32_t pgno);

/* What the pointer map says a page is. */
enum eb_page_use {
    EB_USE_UNKNOWN,
    EB_USE_ROOT = 1,
    EB_USE_FREE = 2,
    EB_USE_OVERFLOW_FIRST = 3,
    EB_USE_OVERFLOW = 4,
    EB_USE_TREE = 5,
    EB_USE_MAP, /* a pointer map page itself, or the lock page that is never used */
};

/* Pointer map pages are read in turn: remember the last. */
struct eb_page_map {
    struct eb_pages *pages;
    uint32_t at; /* which one is in buf, 0: none */
    bool readable;
    uint8_t buf[EB_PAGE_MAX];
};
enum eb_page_use eb_page_use(struct eb_page_map *map, uint32_t pgno, uint32_t *ret_parent);
/** Is it a pointer map page, or the lock page? */
bool eb_page_is_map(const struct eb_pages *pages, uint32_t pgno);

static inline uint32_t eb_be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}
static inline uint32_t eb_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
