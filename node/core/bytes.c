#include "bytes.h"

#include "err.h"

#include <stdlib.h>
#include <string.h>

struct bytes *bytes_new(const void *p, size_t n)
{
    CHECK(n < UINT32_MAX, "bytes of %zu", n);
    struct bytes *b = xmalloc(sizeof *b + n + 1);
    atomic_init(&b->refs, 1);
    b->len = (uint32_t)n;
    if (p && n)
        memcpy(b->data, p, n);
    b->data[n] = 0;
    return b;
}

struct bytes *bytes_ref(struct bytes *b)
{
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

void bytes_unref(struct bytes **bp)
{
    struct bytes *b = *bp;
    *bp = NULL;
    if (b && atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1)
        free(b);
}
