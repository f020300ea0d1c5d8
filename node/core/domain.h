/* Domainparts (RFC 7622 section 3.2): host names under IDNA2008, and IP literals. */
#ifndef ROOKERY_DOMAIN_H
#define ROOKERY_DOMAIN_H

#include <stddef.h>

/* Writes the domain in the one form it is compared in: lower case, A-labels turned into U-labels, no final dot,
 * IPv6 in brackets and as inet_ntop writes it. At most room bytes (no NUL) to out; returns their number, 0 when it is
 * not a domain. Idempotent. */
size_t domain_prep(const char *s, size_t n, char *out, size_t room);

#endif
