/*
 * SASL on the server's side (RFC 6120 section 6; SCRAM RFC 5802/7677 with channel binding RFC 9266, 5929; PLAIN RFC
 * 4616; tokens by draft-schmaus-kitten-sasl-ht).
 *
 * Pure: no I/O, no account data. The account's home is asked for SCRAM keys (SASL_NEED_KEYS), and PBKDF2 for PLAIN
 * runs on the blocking pool (SASL_NEED_HASHING); a token is checked by the home (SASL_NEED_TOKEN). One struct per
 * attempt, one thread at a time.
 */
#ifndef ROOKERY_SASL_H
#define ROOKERY_SASL_H

#include "jid.h"
#include "scram.h"

#include <stdbool.h>

enum sasl_status {
    SASL_CONTINUE,     /* send sasl_out as challenge */
    SASL_NEED_KEYS,    /* ask the home of sasl_user for sasl_hash keys, then call sasl_keys */
    SASL_NEED_TOKEN,   /* ask the home of sasl_user to check sasl_token, then call sasl_token_checked */
    SASL_NEED_HOME,    /* EXTERNAL: ask the home of sasl_user whether it fits, then call sasl_home_checked */
    SASL_NEED_HASHING, /* run sasl_hashing on the pool, then call sasl_hashed */
    SASL_SUCCESS,      /* send sasl_out (may be empty) as success; sasl_user is authenticated */
    SASL_FAILURE,      /* send sasl_failure */
};

/* RFC 6120 6.5 */
enum sasl_failure {
    SASL_ABORTED,
    SASL_ACCOUNT_DISABLED,
    SASL_CREDENTIALS_EXPIRED,
    SASL_ENCRYPTION_REQUIRED,
    SASL_INCORRECT_ENCODING,
    SASL_INVALID_AUTHZID,
    SASL_INVALID_MECHANISM,
    SASL_MALFORMED_REQUEST,
    SASL_MECHANISM_TOO_WEAK,
    SASL_NOT_AUTHORIZED,
    SASL_TEMPORARY_AUTH_FAILURE,
};
const char *sasl_failure_name(enum sasl_failure f);

/* What the TLS layer knows about this connection; zero lengths where there is none. Copied. */
struct sasl_binding {
    bool tls;
    uint8_t exporter[32]; /* RFC 9266 tls-exporter; TLS 1.3 only (or 1.2 with extended master secret) */
    size_t exporter_len;
    uint8_t end_point[64]; /* RFC 5929 tls-server-end-point */
    size_t end_point_len;
    /* RFC 5929 tls-unique, undefined for TLS 1.3 and so never announced: slixmpp before 1.8.5 and others know no other
     * type, take the first Finished message there too, and would not get in at all. */
    uint8_t unique[64];
    size_t unique_len;
};

enum sasl_mech {
    SASL_SCRAM_SHA512_PLUS,
    SASL_SCRAM_SHA256_PLUS,
    SASL_SCRAM_SHA1_PLUS,
    SASL_SCRAM_SHA512,
    SASL_SCRAM_SHA256,
    SASL_SCRAM_SHA1,
    SASL_PLAIN,
    SASL_EXTERNAL,  /* the TLS client certificate, XEP-0178 */
    SASL_ANONYMOUS, /* RFC 4505, XEP-0175: sasl_user is made up */
    SASL_HT_EXPR,   /* bound to tls-exporter */
    SASL_HT_ENDP,   /* bound to tls-server-end-point */
    SASL_HT_NONE,
    SASL_MECHS,
};
/* Those for tokens (XEP-0484): offered beside the others. */
enum { SASL_TOKENS = 1 << SASL_HT_EXPR | 1 << SASL_HT_ENDP | 1 << SASL_HT_NONE, SASL_RESPONDER_MAX = 64 };
const char *sasl_mech_name(enum sasl_mech m);
/* Does it look at the bytes of tls-exporter? Else only their length is needed. */
bool sasl_uses_exporter(enum sasl_mech m);
/* Bit set (1 << mech) of what may be offered: -PLUS only with a binding, PLAIN and tokens only under TLS; and with
 * allowed. */
unsigned sasl_offer(const struct sasl_binding *b, unsigned allowed);
/* The mechanism of this exact, case-sensitive name among offered; SASL_MECHS for none. */
enum sasl_mech sasl_find(const char *name, unsigned offered);

struct sasl;
/* offered is what this very stream announced: SCRAM's 'y' flag fails when -PLUS was among it, and the client is told
 * a hash of it (XEP-0474). domain: the stream's host. */
struct sasl *sasl_new(enum sasl_mech m, unsigned offered, const struct sasl_binding *b, const char *domain);
void sasl_free(struct sasl **s); /* wipes secrets */

/* One client message, decoded from base64. */
enum sasl_status sasl_step(struct sasl *s, const void *in, size_t n);
/* NULL keys: temporary failure. For unknown users the home gives scram_fake keys, and known = false. */
enum sasl_status sasl_keys(struct sasl *s, const struct scram_keys *k, bool known);
void sasl_hashing(struct sasl *s); /* blocking; on a pool thread; nobody else touches s meanwhile */
enum sasl_status sasl_hashed(struct sasl *s);

/* EXTERNAL, right after sasl_new: who the certificate names; who the stream's header claims (NULL: nobody). Copied. */
void sasl_identities(struct sasl *s, const struct jid *const *jids, size_t n, const struct jid *from);
enum sasl_status sasl_home_checked(struct sasl *s, enum err e); /* ERR_NOT_FOUND: it does not */

/* What the client has sent, for the home. */
struct sasl_token {
    const uint8_t *proof, *binding;
    size_t proof_len, binding_len;
};
struct sasl_token sasl_token(const struct sasl *s);
/* OK: responder is what the home says in turn; ERR_NOT_FOUND: wrong, ERR_CLOSED: expired; else a temporary failure. */
enum sasl_status sasl_token_checked(struct sasl *s, enum err e, const void *responder, size_t n);

enum sasl_mech sasl_mech(const struct sasl *s);
const struct jid *sasl_user(const struct sasl *s); /* bare JID: claimed at NEED_KEYS, proven at SUCCESS */
enum scram_hash sasl_hash(const struct sasl *s);
const void *sasl_out(const struct sasl *s, size_t *n);
enum sasl_failure sasl_why(const struct sasl *s);

#endif
