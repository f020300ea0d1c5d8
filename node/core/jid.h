/*
 * JIDs (RFC 7622): immutable values, prepared once where they enter, compared as bytes from then on.
 *
 * localpart: PRECIS UsernameCaseMapped (RFC 8265) minus "&'/:<>@ ; domainpart: IDNA2008 U-label, lower case,
 * or an IP literal; resourcepart: PRECIS OpaqueString. Each 1..1023 bytes after preparation.
 */
#ifndef ROOKERY_JID_H
#define ROOKERY_JID_H

#include "arena.h"

#include <stdbool.h>
#include <stdint.h>

enum { JID_PART_MAX = 1023, JID_MAX = 3 * JID_PART_MAX + 2, RING_SLOTS = 4096 };

/* One block; s is "local@domain/resource", "domain", ... NUL-terminated. A const struct jid * is borrowed. */
struct jid {
    uint64_t hash;      /* hash_stable of the bare JID: slot, home worker and tables come from it */
    uint16_t local_len; /* 0: none (then no '@' either) */
    uint16_t domain_len;
    uint16_t resource_len; /* 0: none (then no '/' either) */
    uint16_t bare_len;     /* bytes of s before '/' or the end */
    char s[];
};

/* Prepares n bytes of UTF-8 in arena a, or with malloc when a is NULL (then free() it).
 * NULL when it is not a JID: the peer gets jid-malformed. Input over JID_MAX bytes is refused unread. */
const struct jid *jid_parse(struct arena *a, const char *s, size_t n);
/* From parts (NULL or "" for none), each prepared. */
const struct jid *jid_make(struct arena *a, const char *local, const char *domain, const char *resource);
/* Already prepared: no checks beyond lengths. For JIDs that come back from storage or the mesh. */
const struct jid *jid_trusted(struct arena *a, const char *s, size_t n);
/* Copies. a NULL: malloc. */
const struct jid *jid_dup(struct arena *a, const struct jid *j);
const struct jid *jid_bare(struct arena *a, const struct jid *j);
const struct jid *jid_with_resource(struct arena *a, const struct jid *bare, const char *prepared_resource);
/* Only for JIDs from malloc; sets *j to NULL. */
void jid_free(const struct jid **j);

/* One part alone, prepared into a: NULL when it is not allowed. */
const char *jid_prep_local(struct arena *a, const char *s, size_t n);
const char *jid_prep_domain(struct arena *a, const char *s, size_t n);
const char *jid_prep_resource(struct arena *a, const char *s, size_t n);

bool jid_eq(const struct jid *a, const struct jid *b);      /* whole */
bool jid_eq_bare(const struct jid *a, const struct jid *b); /* without resources */
static inline bool jid_is_bare(const struct jid *j)
{
    return !j->resource_len;
}

/* Parts; domain and resource run to the end only of their own length, so use *_len with local and domain. */
const char *jid_local(const struct jid *j);    /* not NUL-terminated: local_len bytes */
const char *jid_domain(const struct jid *j);   /* not NUL-terminated: domain_len bytes */
const char *jid_resource(const struct jid *j); /* NUL-terminated; "" for none */
bool jid_domain_is(const struct jid *j, const char *domain);

static inline unsigned jid_slot(const struct jid *j)
{
    return (unsigned)(j->hash % RING_SLOTS);
}

/* Version of the Unicode tables behind preparation, for the mesh's HELLO. */
const char *jid_unicode_version(void);

#endif
