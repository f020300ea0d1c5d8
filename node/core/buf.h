/*
 * A growable byte queue: append at the end, consume at the front.
 * One owner (a connection and direction, or a function that builds text). Memory is
 * given back as soon as the queue is empty and was large. Limits are the owner's: check before appending.
 */
#ifndef ROOKERY_BUF_H
#define ROOKERY_BUF_H

#include "err.h"

#include <stddef.h>

struct buf {
    char *mem;
    size_t off, len, cap; /* the bytes are mem[off .. off+len) */
};

static inline char *buf_data(const struct buf *b)
{
    return b->mem + b->off;
}

/* Room for n more bytes; returns where to write them, then call buf_wrote. */
char *buf_reserve(struct buf *b, size_t n);
void buf_wrote(struct buf *b, size_t n);
void buf_add(struct buf *b, const void *p, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drops n bytes from the front. */
void buf_consume(struct buf *b, size_t n);
/* Empties it, keeps the memory. */
void buf_clear(struct buf *b);
/* Frees the memory; the buf can be used again. */
void buf_free(struct buf *b);
/* The bytes as a NUL-terminated string, valid until the next change. */
const char *buf_cstr(struct buf *b);

#endif
