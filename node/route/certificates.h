/*
 * The certificates by which an account's clients may log in (XEP-0257, SASL EXTERNAL): a small value of the account,
 * read for a login and changed by the account's owner (xep/xep_0257_certificates.c).
 */
#ifndef ROOKERY_CERTIFICATES_H
#define ROOKERY_CERTIFICATES_H

#include "sm.h"

#include <certificates.pb-c.h>

#define CERTIFICATES_KEY "urn:xmpp:saslcert:1"

/* ENV_CERTIFICATE, answered with ENV_CHECKED. Consumes *e. */
void handle_certificate(struct account *a, struct envelope **e);

/* NULL for none or malformed. Yours: certificates__list__free_unpacked. */
Certificates__List *certificates_read(const struct bytes *value);
/* What struct session's certificate is for this one. */
uint64_t certificate_id(const uint8_t hash[32]);

#endif
