/*
 * Memory that is freed whole: one arena per stanza, per stream header, per request.
 *
 * An arena lives inside its own first chunk, so a stanza costs one allocation,
 * and first chunks are kept in a small per-thread cache. Not thread safe; an arena
 * may be handed to another thread together with everything in it.
 */
#ifndef ROOKERY_ARENA_H
#define ROOKERY_ARENA_H

#include "err.h"

#include <stddef.h>

struct arena;

struct arena *arena_new(void);
/* Begins with less than a third as much: for what there are many of at a time and is seldom large (envelopes). */
struct arena *arena_new_small(void);
/* Frees *a and sets it to NULL; NULL inside is fine. */
void arena_free(struct arena **a);

/* Zero-filled, aligned for any type; never NULL. */
void *arena_alloc(struct arena *a, size_t n) __attribute__((malloc));
/* As arena_alloc, contents undefined, no alignment: for bytes of text. */
char *arena_bytes(struct arena *a, size_t n) __attribute__((malloc));
/* NUL-terminated copies. */
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Bytes taken from the system for this arena. */
size_t arena_size(const struct arena *a);

#endif
