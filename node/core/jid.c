#include "jid.h"

#include "domain.h"
#include "hash.h"
#include "precis.h"

#include <idn2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistring/version.h>

/* A JID cut at its separators; a part that is not there has p NULL. */
struct part {
    const char *p;
    size_t n;
};
struct parts {
    struct part local, domain, resource;
};

/* RFC 7622 section 3.1: the first '/' begins the resource, whatever stands behind it; then the first '@'. */
static struct parts jid_split(const char *s, size_t n)
{
    struct parts r = {0};
    const char *slash = memchr(s, '/', n);
    if (slash) {
        r.resource = (struct part){slash + 1, n - (size_t)(slash + 1 - s)};
        n = (size_t)(slash - s);
    }
    const char *at = memchr(s, '@', n);
    if (at) {
        r.local = (struct part){s, (size_t)(at - s)};
        n -= r.local.n + 1;
        s = at + 1;
    }
    r.domain = (struct part){s, n};
    return r;
}

static size_t local_prep(const char *s, size_t n, char *out)
{
    size_t len = precis_username(s, n, out, JID_PART_MAX);
    for (size_t i = 0; i < len; i++) { /* after mapping: a fullwidth commercial at is one by now */
        switch (out[i]) {
        case '"':
        case '&':
        case '\'':
        case '/':
        case ':':
        case '<':
        case '>':
        case '@':
            return 0;
        }
    }
    return len;
}

static size_t resource_prep(const char *s, size_t n, char *out)
{
    return precis_opaque(s, n, out, JID_PART_MAX);
}

static size_t domainpart_prep(const char *s, size_t n, char *out)
{
    return domain_prep(s, n, out, JID_PART_MAX);
}

static struct jid *jid_alloc(struct arena *a, size_t n)
{
    struct jid *j = a ? arena_alloc(a, sizeof *j + n + 1) : xmalloc(sizeof *j + n + 1);
    j->s[n] = 0;
    return j;
}

/* s holds the whole, prepared; the lengths are those of its parts. */
static const struct jid *jid_build(struct arena *a, const char *s, size_t local, size_t domain, size_t resource)
{
    size_t bare = domain + (local ? local + 1 : 0), n = bare + (resource ? resource + 1 : 0);
    struct jid *j = jid_alloc(a, n);
    memcpy(j->s, s, n);
    j->local_len = (uint16_t)local;
    j->domain_len = (uint16_t)domain;
    j->resource_len = (uint16_t)resource;
    j->bare_len = (uint16_t)bare;
    j->hash = hash_stable(j->s, bare);
    return j;
}

static const struct jid *jid_prepare(struct arena *a, const struct parts *in)
{
    char s[JID_MAX];
    size_t n = 0, local = 0, domain, resource = 0;
    if (in->local.p) {
        if (!(local = local_prep(in->local.p, in->local.n, s)))
            return NULL;
        s[local] = '@';
        n = local + 1;
    }
    if (!(domain = domainpart_prep(in->domain.p, in->domain.n, s + n)))
        return NULL;
    n += domain;
    if (in->resource.p) {
        s[n++] = '/';
        if (!(resource = resource_prep(in->resource.p, in->resource.n, s + n)))
            return NULL;
    }
    return jid_build(a, s, local, domain, resource);
}

const struct jid *jid_parse(struct arena *a, const char *s, size_t n)
{
    if (!n || n > JID_MAX)
        return NULL;
    struct parts parts = jid_split(s, n);
    return jid_prepare(a, &parts);
}

static struct part part_of(const char *s)
{
    return s && *s ? (struct part){s, strlen(s)} : (struct part){NULL, 0};
}

const struct jid *jid_make(struct arena *a, const char *local, const char *domain, const char *resource)
{
    struct parts parts = {part_of(local), part_of(domain), part_of(resource)};
    return jid_prepare(a, &parts);
}

static bool part_fits(const struct part *p)
{
    return !p->p || (p->n && p->n <= JID_PART_MAX);
}

const struct jid *jid_trusted(struct arena *a, const char *s, size_t n)
{
    if (!n || n > JID_MAX)
        return NULL;
    struct parts p = jid_split(s, n);
    if (!part_fits(&p.local) || !part_fits(&p.domain) || !part_fits(&p.resource))
        return NULL;
    return jid_build(a, s, p.local.n, p.domain.n, p.resource.n);
}

static size_t jid_len(const struct jid *j)
{
    return j->bare_len + (j->resource_len ? j->resource_len + 1u : 0);
}

const struct jid *jid_dup(struct arena *a, const struct jid *j)
{
    size_t n = jid_len(j);
    struct jid *copy = jid_alloc(a, n);
    memcpy(copy, j, sizeof *j + n);
    return copy;
}

const struct jid *jid_bare(struct arena *a, const struct jid *j)
{
    struct jid *bare = jid_alloc(a, j->bare_len);
    memcpy(bare, j, sizeof *j + j->bare_len);
    bare->resource_len = 0;
    return bare;
}

const struct jid *jid_with_resource(struct arena *a, const struct jid *bare, const char *prepared_resource)
{
    size_t n = prepared_resource ? strlen(prepared_resource) : 0;
    CHECK(n <= JID_PART_MAX, "resource of %zu bytes", n);
    if (!n)
        return jid_bare(a, bare);
    struct jid *j = jid_alloc(a, bare->bare_len + 1 + n);
    memcpy(j, bare, sizeof *j + bare->bare_len);
    j->s[j->bare_len] = '/';
    memcpy(j->s + j->bare_len + 1, prepared_resource, n);
    j->resource_len = (uint16_t)n;
    return j;
}

void jid_free(const struct jid **j)
{
    free((void *)*j);
    *j = NULL;
}

static const char *prep_one(struct arena *a, size_t (*prep)(const char *, size_t, char *), const char *s, size_t n)
{
    char out[JID_PART_MAX];
    size_t len = s ? prep(s, n, out) : 0;
    return len ? arena_strndup(a, out, len) : NULL;
}

const char *jid_prep_local(struct arena *a, const char *s, size_t n)
{
    return prep_one(a, local_prep, s, n);
}

const char *jid_prep_domain(struct arena *a, const char *s, size_t n)
{
    return n <= JID_MAX ? prep_one(a, domainpart_prep, s, n) : NULL;
}

const char *jid_prep_resource(struct arena *a, const char *s, size_t n)
{
    return prep_one(a, resource_prep, s, n);
}

bool jid_eq(const struct jid *a, const struct jid *b)
{
    return a->resource_len == b->resource_len && jid_eq_bare(a, b) &&
           !memcmp(jid_resource(a), jid_resource(b), a->resource_len);
}

bool jid_eq_bare(const struct jid *a, const struct jid *b)
{
    return a->hash == b->hash && a->bare_len == b->bare_len && !memcmp(a->s, b->s, a->bare_len);
}

const char *jid_local(const struct jid *j)
{
    return j->s;
}

const char *jid_domain(const struct jid *j)
{
    return j->s + j->bare_len - j->domain_len;
}

const char *jid_resource(const struct jid *j)
{
    return j->resource_len ? j->s + j->bare_len + 1 : "";
}

bool jid_domain_is(const struct jid *j, const char *domain)
{
    return strlen(domain) == j->domain_len && !memcmp(jid_domain(j), domain, j->domain_len);
}

static char unicode_version[64];

static void unicode_version_make(void)
{
    int v = _libunistring_version;
    const char *idn2 = idn2_check_version(NULL);
    snprintf(unicode_version, sizeof unicode_version, "unistring-%d.%d.%d idn2-%s", v >> 16, v >> 8 & 0xFF, v & 0xFF,
             idn2 ? idn2 : "?");
}

/* Neither library tells its Unicode version; its own version stands for the tables it carries. */
const char *jid_unicode_version(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, unicode_version_make);
    return unicode_version;
}
