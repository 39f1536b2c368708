/* made_sqlite.c - the secret with which a file's message ids are made: meta.id_key (made.h). */
#include <string.h>

#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"

static int load(struct eb_sqlite *e, struct eb_made *ret)
{
    char text[EB_MADE_TEXT], epoch[37];
    int result = eb_meta_text(e->db, EB_META_ID_KEY, text, sizeof(text));

    if (result < 0)
        return result;
    if (!eb_made_parse(text, ret, epoch)) {
        result = eb_made_init(ret);
        e->saved.there = e->saved.there && !e->saved.runs; /* else it lacks what was made */
    } else if (strcmp(epoch, e->epoch) == 0) {
        return 0;
    } else {
        eb_made_new_era(ret, e->now.last_seq);
    }
    if (result < 0)
        return result;
    eb_made_format(ret, e->epoch, text);
    return eb_meta_set_text(e->db, EB_META_ID_KEY, text);
}

int eb_made_load(struct eb_sqlite *e, struct eb_made *ret)
{
    int result = load(e, ret);

    e->cold.made = *ret;
    return result;
}
