/* Shared by the mechanisms, for nobody else. */
#ifndef ROOKERY_SASL_IMPL_H
#define ROOKERY_SASL_IMPL_H

#include "sasl.h"

enum {
    SASL_MESSAGE_MAX = 8192, /* the gate allows 10 KB of XML before authentication */
    SASL_PASSWORD_MAX = 1023,
    SASL_NONCE_MAX = 256,  /* the client's part */
    SASL_NONCE_BYTES = 24, /* entropy of ours */
    SASL_PROOF_LEN = 32,   /* HMAC-SHA-256 */
};

enum sasl_state {
    SASL_AT_START,
    SASL_AT_KEYS,
    SASL_AT_TOKEN,
    SASL_AT_HOME,
    SASL_AT_HASHING,
    SASL_AT_FINAL,
    SASL_AT_SUCCESS,
    SASL_AT_FAILURE
};

struct sasl {
    enum sasl_mech mech;
    enum sasl_state state;
    enum sasl_failure why;
    unsigned offered;
    struct sasl_binding binding;
    char *domain;
    const struct jid *user;
    struct scram_keys keys;
    bool known, fits; /* fits: the password gave the keys (PLAIN) */
    char password[SASL_PASSWORD_MAX + 1];
    uint8_t proof[SASL_PROOF_LEN]; /* HT */
    const struct jid **identities; /* EXTERNAL: bare JIDs */
    size_t identity_count;
    const struct jid *from;
    /* SCRAM: strings of the exchange, from malloc */
    char *cbind;        /* what c= must say, in base64 */
    char *nonce;        /* client's and ours */
    char *client_first; /* without the gs2 header */
    char *server_first;
    char out[SASL_NONCE_MAX + 256];
    size_t out_len;
};

enum sasl_status sasl_fail(struct sasl *s, enum sasl_failure why);
/* Sets the user and compares authzid ("" for none) with it; false after sasl_fail. Both NUL-terminated, unprepared. */
bool sasl_claim(struct sasl *s, const char *authcid, const char *authzid);

enum sasl_status scram_first(struct sasl *s, const char *in, size_t n);
enum sasl_status scram_challenge(struct sasl *s);
enum sasl_status scram_final(struct sasl *s, const char *in, size_t n);

#endif
