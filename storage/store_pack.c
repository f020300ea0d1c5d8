#include "store_driver.h"

#include <string.h>

struct bytes *store_bytes_in(struct arena *a, const void *p, size_t n)
{
    CHECK(n < UINT32_MAX, "bytes of %zu", n);
    struct bytes *b = arena_alloc(a, sizeof *b + n + 1);
    atomic_init(&b->refs, 1);
    b->len = (uint32_t)n;
    if (n)
        memcpy(b->data, p, n);
    return b;
}

const char *const *store_strings_copy(struct arena *a, const char *const *s, size_t n)
{
    const char **copy = arena_alloc(a, (n + !n) * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        copy[i] = arena_strdup(a, s[i]);
    return copy;
}

struct roster_item *store_roster_copy(struct arena *a, const struct roster_item *it)
{
    struct roster_item *copy = arena_alloc(a, sizeof *copy);
    *copy = *it;
    copy->jid = arena_strdup(a, it->jid);
    copy->name = it->name ? arena_strdup(a, it->name) : NULL;
    copy->request = it->request ? store_bytes_in(a, it->request->data, it->request->len) : NULL;
    copy->groups = store_strings_copy(a, it->groups, it->group_count);
    return copy;
}

struct bytes *store_strings_pack(struct arena *a, const char *const *s, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += strlen(s[i]) + 1;
    char *p = arena_bytes(a, len + !len), *at = p;
    for (size_t i = 0; i < n; i++)
        at = stpcpy(at, s[i]) + 1;
    return store_bytes_in(a, p, len);
}

struct store_list store_strings_unpack(struct arena *a, const char *p, size_t n)
{
    struct store_list list = {0};
    for (size_t i = 0; i < n; i++)
        list.n += !p[i];
    const char **items = arena_alloc(a, (list.n + !list.n) * sizeof *items);
    for (size_t i = 0; i < list.n; i++) {
        items[i] = arena_strdup(a, p);
        p += strlen(p) + 1;
    }
    list.items = items;
    return list;
}

void store_credentials_pack(const struct credentials *cr, uint8_t out[STORE_CREDENTIALS_PACKED])
{
    for (int h = 0; h < SCRAM_HASHES; h++) {
        const struct scram_keys *k = &cr->keys[h];
        for (int shift = 24; shift >= 0; shift -= 8)
            *out++ = (uint8_t)(k->iterations >> shift);
        out = (uint8_t *)mempcpy(out, k->salt, sizeof k->salt);
        out = (uint8_t *)mempcpy(out, k->stored, sizeof k->stored);
        out = (uint8_t *)mempcpy(out, k->server, sizeof k->server);
    }
}

void store_credentials_unpack(const uint8_t *p, size_t n, struct credentials *out)
{
    enum { EACH = STORE_CREDENTIALS_PACKED / SCRAM_HASHES };
    *out = (struct credentials){0};
    for (int h = 0; h < SCRAM_HASHES && n >= EACH; h++, p += EACH, n -= EACH) {
        struct scram_keys *k = &out->keys[h];
        k->iterations = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        const uint8_t *at = p + 4;
        memcpy(k->salt, at, sizeof k->salt);
        memcpy(k->stored, at += sizeof k->salt, sizeof k->stored);
        memcpy(k->server, at + sizeof k->stored, sizeof k->server);
    }
}

bool store_token_none(const uint8_t token_hash[32])
{
    static const uint8_t none[32];
    return !memcmp(token_hash, none, sizeof none);
}

size_t store_bare_len(const char *jid)
{
    return strcspn(jid, "/");
}

const char *store_domain(const char *bare)
{
    const char *at = strchr(bare, '@');
    return at ? at + 1 : bare;
}

bool store_query_range(const struct archive_query *q, uint64_t *first, uint64_t *last)
{
    if (q->after_id == UINT64_MAX || q->before_id == 0)
        return false;
    *first = q->start_id > q->after_id ? q->start_id : q->after_id + 1;
    *last = q->end_id < q->before_id ? q->end_id : q->before_id - 1;
    /* What no row can have: keeps the bounds within SQL's signed integers. */
    if (*last > INT64_MAX)
        *last = INT64_MAX;
    return *first <= *last;
}
