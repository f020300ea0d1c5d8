/* Properties of JID preparation: what it accepts is within limits, and preparing that again gives it again. */
#include "hash.h"
#include "jid.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t whole_len(const struct jid *j)
{
    return j->bare_len + (j->resource_len ? 1u + j->resource_len : 0);
}

static void check_parts(struct arena *a, const struct jid *j)
{
    const char *p;
    if (j->local_len) {
        p = jid_prep_local(a, jid_local(j), j->local_len);
        CHECK(p && strlen(p) == j->local_len && !memcmp(p, jid_local(j), j->local_len), "localpart");
    }
    p = jid_prep_domain(a, jid_domain(j), j->domain_len);
    CHECK(p && strlen(p) == j->domain_len && !memcmp(p, jid_domain(j), j->domain_len), "domainpart");
    if (j->resource_len) {
        p = jid_prep_resource(a, jid_resource(j), j->resource_len);
        CHECK(p && !strcmp(p, jid_resource(j)), "resourcepart");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *a = arena_new();
    const struct jid *j = jid_parse(a, (const char *)data, size);
    if (j) {
        CHECK(j->domain_len && j->domain_len <= JID_PART_MAX, "domain of %u bytes", j->domain_len);
        CHECK(j->local_len <= JID_PART_MAX && j->resource_len <= JID_PART_MAX, "lengths");
        CHECK(strlen(j->s) == whole_len(j) && j->hash == hash_stable(j->s, j->bare_len), "inconsistent");
        const struct jid *again = jid_parse(a, j->s, whole_len(j));
        CHECK(again && jid_eq(j, again), "not idempotent: %s", j->s);
        CHECK(jid_eq(j, jid_trusted(a, j->s, whole_len(j))), "trusted differs");
        check_parts(a, j);
    }
    arena_free(&a);
    return 0;
}
