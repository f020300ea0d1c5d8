/*
 * PRECIS (RFC 8264): preparation and comparison of strings that people choose.
 *
 * Both profiles give bytes that are compared as bytes. Preparing a prepared string changes nothing: a string for
 * which Unicode's own mappings would not settle at once is refused. Plain ASCII never reaches a library.
 */
#ifndef ROOKERY_PRECIS_H
#define ROOKERY_PRECIS_H

#include <stddef.h>

/* Longer input is refused unread. */
enum { PRECIS_INPUT_MAX = 4095 };

/* Take n bytes, write at most room bytes (no NUL) to out, return their number.
 * 0: bad UTF-8, a character or sequence that is not allowed, empty, or longer than room. out may not overlap s. */
size_t precis_username(const char *s, size_t n, char *out, size_t room); /* UsernameCaseMapped, RFC 8265 3.3 */
size_t precis_opaque(const char *s, size_t n, char *out,
                     size_t room); /* OpaqueString, RFC 8265 4.2; wipes its copies */

#endif
