#include "sqlite_db.h"

/* Deletes some of an owner's messages: ids in [*from, before) that do not wait above the watermark. The rows looked at
 * are taken from *budget; when nothing is left of it, *from has moved and there may be more. Returns the rows deleted.
 */
static uint64_t purge_some(struct sqlite *d, int64_t owner, uint64_t *from, uint64_t before, uint64_t watermark,
                           unsigned *budget)
{
    int64_t first = (int64_t)*from, end = (int64_t)before, keep_above = (int64_t)watermark;
    if (!first)
        (void)db_run(d, db_bind(d, S_PROGRESS_LAST_ID, "ii", owner, end));
    int64_t cut = db_int(d, db_bind(d, S_MESSAGE_NTH, "iiii", owner, first, end, (int64_t)*budget), end);
    if (d->rc)
        return 0;
    (void)db_run(d, db_bind(d, S_MESSAGE_PURGE, "iiii", owner, first, cut, keep_above));
    uint64_t n = (uint64_t)sqlite3_changes64(d->db);
    *from = (uint64_t)cut;
    if (cut < end)
        *budget = 0;
    else
        *budget -= *budget > n ? (unsigned)n : *budget - 1; /* never 0 here: this owner is finished */
    return n;
}

static bool job_next_owner(struct sqlite *d, struct purge *p)
{
    int64_t next = p->req->owner;
    if (!next)
        next = db_int(d, db_bind(d, S_MESSAGE_NEXT_OWNER, "i", p->owner), 0);
    else if (p->owner)
        return false; /* only this one, and it is done */
    if (!next || d->rc)
        return false;
    p->owner = next;
    p->from = 0;
    return true;
}

bool purge_step(struct sqlite *d, struct purge *p)
{
    unsigned budget = PURGE_ROWS;
    for (unsigned owners = 0; owners < PURGE_OWNERS && budget; owners++) {
        if (p->from == PURGE_OWNER_DONE && !job_next_owner(d, p))
            return false;
        int64_t watermark = db_int(d, db_bind(d, S_WATERMARK_GET, "i", p->owner), 0);
        p->count += purge_some(d, p->owner, &p->from, p->req->id, (uint64_t)watermark, &budget);
        if (d->rc)
            return false;
        if (budget)
            p->from = PURGE_OWNER_DONE;
    }
    return true;
}

bool doomed_step(struct sqlite *d, struct doomed *at)
{
    unsigned budget = PURGE_ROWS;
    int64_t owner = db_int(d, db_bind(d, S_DOOMED_NEXT, ""), 0);
    if (!owner)
        return false;
    if (at->owner != owner)
        *at = (struct doomed){owner, 0};
    purge_some(d, owner, &at->from, INT64_MAX, INT64_MAX, &budget);
    if (!budget || d->rc)
        return true;
    (void)db_run(d, db_bind(d, S_DOOMED_REMOVE, "i", owner));
    return true;
}
