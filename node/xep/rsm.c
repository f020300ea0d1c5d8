#include "rsm.h"

#include <stdlib.h>

#define NS_RSM "http://jabber.org/protocol/rsm"

static bool number(const char *s, uint32_t *out)
{
    uint64_t v = 0;
    for (const char *p = s; *p; p++) {
        if (*p < '0' || *p > '9' || v > UINT32_MAX / 10)
            return false;
        v = v * 10 + (uint64_t)(*p - '0');
    }
    *out = v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
    return *s != 0;
}

bool rsm_parse(struct arena *a, const struct xml *query, struct rsm *out, enum stanza_error *bad)
{
    *out = (struct rsm){0};
    const struct xml *set = xml_find(query, "set", NS_RSM);
    if (!set)
        return true;
    const char *max = xml_find_text(a, set, "max", NS_RSM);
    out->present = true;
    out->has_max = max != NULL;
    out->after = xml_find_text(a, set, "after", NS_RSM);
    out->before = xml_find_text(a, set, "before", NS_RSM);
    *bad = SE_BAD_REQUEST;
    if (max && !number(max, &out->max))
        return false;
    *bad = SE_FEATURE_NOT_IMPLEMENTED; /* section 2.6: by index is optional */
    return !xml_find(set, "index", NS_RSM);
}

void rsm_write(struct arena *a, struct xml *parent, const char *first, const char *last, int64_t count)
{
    struct xml *set = xml_add(a, parent, "set", NS_RSM);
    if (first)
        xml_add_leaf(a, set, "first", NULL, first);
    if (last)
        xml_add_leaf(a, set, "last", NULL, last);
    if (count >= 0)
        xml_add_leaf(a, set, "count", NULL, arena_printf(a, "%lld", (long long)count));
}
