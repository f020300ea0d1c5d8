/*
 * Immutable bytes shared by reference count: a stanza serialised once and sent to many.
 * The count is atomic, so the bytes may cross workers; the contents never change.
 */
#ifndef ROOKERY_BYTES_H
#define ROOKERY_BYTES_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
    atomic_uint refs;
    uint32_t len;
    char data[]; /* followed by a NUL that len does not count */
};

/* A new block with one reference; data is undefined when p is NULL and must be filled before sharing. */
struct bytes *bytes_new(const void *p, size_t n);
struct bytes *bytes_ref(struct bytes *b);
/* Drops one reference and sets *b to NULL; NULL inside is fine. */
void bytes_unref(struct bytes **b);

#endif
