/* What sessions have in hand, as the mailbox and as each session count it. */
#include "mailbox.h"

#include <string.h>

struct inflight *inflight_find(const struct mailbox *m, uint64_t id)
{
    uint32_t lo = m->inflight_off, hi = lo + m->inflight_count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (m->inflight[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < m->inflight_off + m->inflight_count && m->inflight[lo].id == id ? &m->inflight[lo] : NULL;
}

void inflight_add(struct mailbox *m, uint64_t id)
{
    if (inflight_find(m, id))
        return;
    if (m->inflight_off + m->inflight_count == m->inflight_cap) {
        if (m->inflight_off > m->inflight_cap / 2) {
            memmove(m->inflight, m->inflight + m->inflight_off, m->inflight_count * sizeof *m->inflight);
            m->inflight_off = 0;
        } else {
            m->inflight_cap = m->inflight_cap ? m->inflight_cap * 2 : 4;
            m->inflight = xrealloc(m->inflight, m->inflight_cap * sizeof *m->inflight);
        }
    }
    uint32_t at = m->inflight_off + m->inflight_count++;
    for (; at > m->inflight_off && m->inflight[at - 1].id > id; at--)
        m->inflight[at] = m->inflight[at - 1];
    m->inflight[at] = (struct inflight){id, false};
}

void inflight_drop(struct mailbox *m, uint64_t id)
{
    struct inflight *f = inflight_find(m, id);
    if (!f)
        return;
    struct inflight *end = m->inflight + m->inflight_off + m->inflight_count;
    memmove(f, f + 1, (size_t)(end - f - 1) * sizeof *f);
    m->inflight_count--;
}

void outstanding_add(struct session *se, uint64_t id)
{
    if (se->outstanding_off + se->outstanding_count == se->outstanding_cap) {
        if (se->outstanding_off > se->outstanding_cap / 2) {
            memmove(se->outstanding, se->outstanding + se->outstanding_off, se->outstanding_count * sizeof(uint64_t));
            se->outstanding_off = 0;
        } else {
            se->outstanding_cap = se->outstanding_cap ? se->outstanding_cap * 2 : 4;
            se->outstanding = xrealloc(se->outstanding, se->outstanding_cap * sizeof(uint64_t));
        }
    }
    se->outstanding[se->outstanding_off + se->outstanding_count++] = id;
}
