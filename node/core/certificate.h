/*
 * What an X.509 certificate says about an XMPP client (RFC 6120 13.7.1.4, XEP-0178): identities are the xmppAddr
 * entries of subjectAltName and nothing else. Pure, any thread.
 */
#ifndef ROOKERY_CERTIFICATE_H
#define ROOKERY_CERTIFICATE_H

#include "jid.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CERTIFICATE_HASH_LEN = 32, CERTIFICATE_JIDS_MAX = 16 };

struct certificate {
    uint8_t hash[CERTIFICATE_HASH_LEN]; /* SHA-256 of the whole */
    bool current;                       /* neither expired nor from the future */
    bool trusted;                       /* an authority that we trust vouches for it; only set for a TLS peer's */
    const struct jid *jids[CERTIFICATE_JIDS_MAX]; /* malloc */
    size_t jid_count;
};

struct x509_st; /* OpenSSL's X509 */
/* False: unreadable names (one is no JID, or has a NUL in it); *out needs no clearing then. */
bool certificate_of(struct x509_st *x, struct certificate *out);
/* From DER: exactly one certificate. */
bool certificate_parse(const void *der, size_t n, struct certificate *out);
void certificate_clear(struct certificate *c);

#endif
