/* XEP-0059 Result Set Management: the <set/> of a query and of its answer. */
#ifndef ROOKERY_RSM_H
#define ROOKERY_RSM_H

#include "stanza.h"

struct rsm {
    bool present;
    bool has_max;
    uint32_t max;
    const char *after;  /* NULL: none */
    const char *before; /* NULL: none; "": the last page */
};

/* Reads the set in query. False: *bad is the error it deserves. */
bool rsm_parse(struct arena *a, const struct xml *query, struct rsm *out, enum stanza_error *bad);
/* Adds the answer's set; first and last NULL: an empty page; count negative: not told. */
void rsm_write(struct arena *a, struct xml *parent, const char *first, const char *last, int64_t count);

#endif
