#include "buf.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEEP = 4096 }; /* an emptied buffer above this size gives its memory back */

char *buf_reserve(struct buf *b, size_t n)
{
    if (b->cap - b->off - b->len >= n)
        return b->mem + b->off + b->len;
    size_t need = b->len + n;
    /* Moving must win a quarter of the room, or a long queue would be moved for each small append. */
    bool move_is_enough = b->off && need <= b->cap / 4 * 3;
    if (b->off)
        memmove(b->mem, b->mem + b->off, b->len);
    b->off = 0;
    if (!move_is_enough) {
        size_t cap = b->cap ? b->cap * 2 : 256;
        while (cap < need)
            cap *= 2;
        b->mem = xrealloc(b->mem, cap);
        b->cap = cap;
    }
    return b->mem + b->off + b->len;
}

void buf_wrote(struct buf *b, size_t n)
{
    CHECK(b->off + b->len + n <= b->cap, "buf overrun by %zu", n);
    b->len += n;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    if (!n)
        return;
    memcpy(buf_reserve(b, n), p, n);
    b->len += n;
}

void buf_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0, "format %s", fmt);
    char *p = buf_reserve(b, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void buf_consume(struct buf *b, size_t n)
{
    CHECK(n <= b->len, "consume %zu of %zu", n, b->len);
    b->off += n;
    b->len -= n;
    if (!b->len) {
        b->off = 0;
        if (b->cap > KEEP)
            buf_free(b);
    }
}

void buf_clear(struct buf *b)
{
    b->off = b->len = 0;
}

void buf_free(struct buf *b)
{
    free(b->mem);
    *b = (struct buf){0};
}

const char *buf_cstr(struct buf *b)
{
    *buf_reserve(b, 1) = 0;
    return b->mem + b->off;
}
