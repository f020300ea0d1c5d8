#include "arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __has_feature /* clang */
#define HAS_FEATURE(f) __has_feature(f)
#else
#define HAS_FEATURE(f) 0
#endif

/* With AddressSanitizer nothing is cached, so that it sees the use of a freed arena. */
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
enum { CACHE_MAX = 0 };
#else
enum { CACHE_MAX = 64 };
#endif

enum { FIRST_CHUNK = 2048, SMALL_CHUNK = 640, ALIGN = 16 };

struct chunk {
    struct chunk *next;
    size_t size;
};

struct arena {
    struct chunk head; /* the chunk this arena lives in */
    struct chunk *chunks;
    char *at, *end;
    size_t total;
};

/* First chunks are of two sizes, so a freed one serves the next stanza, or envelope, of this thread. */
static _Thread_local struct cache {
    struct chunk *first;
    unsigned count;
} caches[2];

static struct cache *cache_of(size_t size)
{
    return &caches[size == SMALL_CHUNK];
}

static struct arena *arena_of(size_t size)
{
    struct cache *k = cache_of(size);
    struct arena *a = (struct arena *)k->first;
    if (a) {
        k->first = a->head.next;
        k->count--;
    } else {
        a = xmalloc(size);
    }
    a->head = (struct chunk){NULL, size};
    a->chunks = NULL;
    a->at = (char *)a + (sizeof *a + ALIGN - 1) / ALIGN * ALIGN;
    a->end = (char *)a + size;
    a->total = size;
    return a;
}

struct arena *arena_new(void)
{
    return arena_of(FIRST_CHUNK);
}

struct arena *arena_new_small(void)
{
    return arena_of(SMALL_CHUNK);
}

void arena_free(struct arena **ap)
{
    struct arena *a = *ap;
    *ap = NULL;
    if (!a)
        return;
    for (struct chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    struct cache *k = cache_of(a->head.size);
    if (k->count != CACHE_MAX) {
        a->head.next = k->first;
        k->first = &a->head;
        k->count++;
    } else {
        free(a);
    }
}

static void arena_grow(struct arena *a, size_t n)
{
    size_t size = a->total < 64 * 1024 ? a->total * 2 : 64 * 1024;
    if (size < n + sizeof(struct chunk) + ALIGN)
        size = n + sizeof(struct chunk) + ALIGN;
    struct chunk *c = xmalloc(size);
    *c = (struct chunk){a->chunks, size};
    a->chunks = c;
    a->at = (char *)(c + 1);
    a->end = (char *)c + size;
    a->total += size;
}

char *arena_bytes(struct arena *a, size_t n)
{
    if ((size_t)(a->end - a->at) < n)
        arena_grow(a, n);
    char *p = a->at;
    a->at += n;
    return p;
}

void *arena_alloc(struct arena *a, size_t n)
{
    size_t pad = (ALIGN - (uintptr_t)a->at % ALIGN) % ALIGN;
    if ((size_t)(a->end - a->at) < n + pad) {
        arena_grow(a, n + ALIGN);
        pad = (ALIGN - (uintptr_t)a->at % ALIGN) % ALIGN;
    }
    void *p = a->at + pad;
    a->at += pad + n;
    return memset(p, 0, n);
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    char *p = arena_bytes(a, n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0, "format %s", fmt);
    char *p = arena_bytes(a, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

size_t arena_size(const struct arena *a)
{
    return a->total;
}
