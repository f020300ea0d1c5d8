/*
 * Validation of UTF-8 that comes in pieces (RFC 3629): no overlong forms, surrogates or values over U+10FFFF,
 * and none of what XML 1.0 forbids beyond that: NUL, U+FFFE, U+FFFF. Other control characters are expat's to refuse.
 */
#ifndef ROOKERY_UTF8_H
#define ROOKERY_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* State between pieces; zeroed is the start. left == 0: at the end of a character. */
struct utf8 {
    uint8_t left;   /* bytes missing of the current character */
    uint8_t lo, hi; /* what the next of them may be */
    uint8_t lead;
};

/* False once something invalid was seen; the state is of no use then. */
bool utf8_feed(struct utf8 *u, const char *p, size_t n);
/* All of it, whole characters only. */
bool utf8_valid(const char *p, size_t n);

#endif
