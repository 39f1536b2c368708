/*
 * repair_kept.h - what is kept beside the events, brought out of a damaged log.
 *
 * Its tables have no checksums, but for scheduled events, and some look alike: which page belongs to which is asked of the
 * schema, where that can be read, and of the rows' shape otherwise.
 */
#pragma once

#include "broker/store/build.h"
#include "broker/store/salvage.h"

struct eb_kept_page {
    uint32_t pgno, frame; /* frame in the WAL, 0: the page's newest image */
};

struct eb_repair_kept {
    struct eb_pages *pages;
    uint8_t *kinds; /* by page: 1 + enum eb_tree, 0: not known */
    bool known;     /* the schema was read */
    bool whole;     /* consumers and their blocks are all there, as they were last committed */
    struct eb_kept_page *list;
    size_t count, cap;
    uint64_t bad; /* rows that could not be taken */
};

/** Find out what the schema says. -ENOMEM, or 0, also when it cannot be read. */
int eb_repair_kept_init(struct eb_repair_kept *kept, struct eb_pages *pages);
void eb_repair_kept_finish(struct eb_repair_kept *kept);
/** May the page's (text, number) entries be names of topics, may its rows be acknowledgements? */
bool eb_repair_kept_foreign(const struct eb_repair_kept *kept, uint32_t pgno);
/** Round 1: remember the page if there is something of ours in it. -ENOMEM. */
int eb_repair_kept_look(struct eb_repair_kept *kept, const struct eb_node *node, uint32_t pgno,
                        uint32_t frame);
/** Put all of it into the new log; @chains: bits of overflow pages, which hold what publishers chose. */
int eb_repair_kept_take(struct eb_repair_kept *kept, struct eb_build *build, uint8_t *chains);
