#include "sasl_impl.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLUS_MECHS = 1 << SASL_SCRAM_SHA512_PLUS | 1 << SASL_SCRAM_SHA256_PLUS | 1 << SASL_SCRAM_SHA1_PLUS };

const char *sasl_failure_name(enum sasl_failure f)
{
    static const char *const names[] = {
        [SASL_ABORTED] = "aborted",
        [SASL_ACCOUNT_DISABLED] = "account-disabled",
        [SASL_CREDENTIALS_EXPIRED] = "credentials-expired",
        [SASL_ENCRYPTION_REQUIRED] = "encryption-required",
        [SASL_INCORRECT_ENCODING] = "incorrect-encoding",
        [SASL_INVALID_AUTHZID] = "invalid-authzid",
        [SASL_INVALID_MECHANISM] = "invalid-mechanism",
        [SASL_MALFORMED_REQUEST] = "malformed-request",
        [SASL_MECHANISM_TOO_WEAK] = "mechanism-too-weak",
        [SASL_NOT_AUTHORIZED] = "not-authorized",
        [SASL_TEMPORARY_AUTH_FAILURE] = "temporary-auth-failure",
    };
    return names[f];
}

static const char *const mech_names[SASL_MECHS] = {
    [SASL_SCRAM_SHA512_PLUS] = "SCRAM-SHA-512-PLUS",
    [SASL_SCRAM_SHA256_PLUS] = "SCRAM-SHA-256-PLUS",
    [SASL_SCRAM_SHA1_PLUS] = "SCRAM-SHA-1-PLUS",
    [SASL_SCRAM_SHA512] = "SCRAM-SHA-512",
    [SASL_SCRAM_SHA256] = "SCRAM-SHA-256",
    [SASL_SCRAM_SHA1] = "SCRAM-SHA-1",
    [SASL_PLAIN] = "PLAIN",
    [SASL_EXTERNAL] = "EXTERNAL",
    [SASL_ANONYMOUS] = "ANONYMOUS",
    [SASL_HT_EXPR] = "HT-SHA-256-EXPR",
    [SASL_HT_ENDP] = "HT-SHA-256-ENDP",
    [SASL_HT_NONE] = "HT-SHA-256-NONE",
};

const char *sasl_mech_name(enum sasl_mech m)
{
    return mech_names[m];
}

bool sasl_uses_exporter(enum sasl_mech m)
{
    return (PLUS_MECHS | 1 << SASL_HT_EXPR) & 1 << m;
}

unsigned sasl_offer(const struct sasl_binding *b, unsigned allowed)
{
    unsigned offer = allowed & ((1u << SASL_MECHS) - 1);
    if (!b->tls || (!b->exporter_len && !b->end_point_len))
        offer &= ~(unsigned)PLUS_MECHS;
    if (!b->tls)
        offer &= ~(1u << SASL_PLAIN | 1u << SASL_EXTERNAL | SASL_TOKENS);
    if (!b->exporter_len)
        offer &= ~(1u << SASL_HT_EXPR);
    if (!b->end_point_len)
        offer &= ~(1u << SASL_HT_ENDP);
    return offer;
}

enum sasl_mech sasl_find(const char *name, unsigned offered)
{
    enum sasl_mech m = 0;
    while (m < SASL_MECHS && !(offered & 1u << m && strcmp(name, mech_names[m]) == 0))
        m++;
    return m;
}

struct sasl *sasl_new(enum sasl_mech m, unsigned offered, const struct sasl_binding *b, const char *domain)
{
    CHECK(m < SASL_MECHS, "mechanism %d", (int)m);
    struct sasl *s = xcalloc(1, sizeof *s);
    s->mech = m;
    s->offered = offered;
    s->binding = *b;
    s->domain = xstrdup(domain);
    return s;
}

static void wipe_free(char *text)
{
    if (text)
        OPENSSL_cleanse(text, strlen(text));
    free(text);
}

void sasl_free(struct sasl **sp)
{
    struct sasl *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    wipe_free(s->cbind);
    wipe_free(s->nonce);
    wipe_free(s->client_first);
    wipe_free(s->server_first);
    for (size_t i = 0; i < s->identity_count; i++)
        jid_free(&s->identities[i]);
    free(s->identities);
    jid_free(&s->from);
    free(s->domain);
    jid_free(&s->user);
    OPENSSL_cleanse(s, sizeof *s);
    free(s);
}

enum sasl_status sasl_fail(struct sasl *s, enum sasl_failure why)
{
    s->state = SASL_AT_FAILURE;
    s->why = why;
    s->out_len = 0;
    OPENSSL_cleanse(s->password, sizeof s->password);
    OPENSSL_cleanse(&s->keys, sizeof s->keys);
    return SASL_FAILURE;
}

bool sasl_claim(struct sasl *s, const char *authcid, const char *authzid)
{
    /* An empty localpart would make the domain itself the user. */
    s->user = *authcid ? jid_make(NULL, authcid, s->domain, NULL) : NULL;
    if (!s->user) {
        sasl_fail(s, SASL_NOT_AUTHORIZED);
        return false;
    }
    if (!*authzid)
        return true;
    const struct jid *other = jid_parse(NULL, authzid, strlen(authzid));
    bool same = other && jid_eq(other, s->user);
    jid_free(&other);
    if (!same)
        sasl_fail(s, SASL_INVALID_AUTHZID);
    return same;
}

/* RFC 4616: [authzid] NUL authcid NUL passwd. in is followed by a NUL. */
static enum sasl_status plain_first(struct sasl *s, const char *in, size_t n)
{
    if (!s->binding.tls)
        return sasl_fail(s, SASL_ENCRYPTION_REQUIRED);
    const char *end = in + n, *authcid = memchr(in, 0, n);
    const char *password = authcid ? memchr(authcid + 1, 0, (size_t)(end - authcid - 1)) : NULL;
    if (!password || memchr(password + 1, 0, (size_t)(end - password - 1)) || password == authcid + 1)
        return sasl_fail(s, SASL_MALFORMED_REQUEST);
    authcid++, password++;
    size_t len = (size_t)(end - password);
    if (!len || len > SASL_PASSWORD_MAX)
        return sasl_fail(s, SASL_NOT_AUTHORIZED);
    if (!sasl_claim(s, authcid, in))
        return SASL_FAILURE;
    memcpy(s->password, password, len + 1);
    s->state = SASL_AT_KEYS;
    return SASL_NEED_KEYS;
}

/* authcid NUL HMAC(token, "Initiator" || binding). in is followed by a NUL. */
static enum sasl_status token_first(struct sasl *s, const char *in, size_t n)
{
    size_t name = strlen(in);
    if (name >= n || n - name - 1 != SASL_PROOF_LEN)
        return sasl_fail(s, SASL_MALFORMED_REQUEST);
    if (!sasl_claim(s, in, ""))
        return SASL_FAILURE;
    memcpy(s->proof, in + name + 1, SASL_PROOF_LEN);
    s->state = SASL_AT_TOKEN;
    return SASL_NEED_TOKEN;
}

void sasl_identities(struct sasl *s, const struct jid *const *jids, size_t n, const struct jid *from)
{
    s->identities = xcalloc(n + 1, sizeof *s->identities);
    for (; s->identity_count < n; s->identity_count++)
        s->identities[s->identity_count] = jid_bare(NULL, jids[s->identity_count]);
    s->from = from ? jid_dup(NULL, from) : NULL;
}

static bool has_identity(const struct sasl *s, const struct jid *j)
{
    for (size_t i = 0; i < s->identity_count; i++)
        if (jid_eq(s->identities[i], j))
            return true;
    return !s->identity_count; /* it names nobody: the account's list decides */
}

/* XEP-0178 section 2, steps 10 and 11: the authorization identity, or the only one there is. */
static enum sasl_status external_first(struct sasl *s, const char *in, size_t n)
{
    if (n)
        s->user = memchr(in, 0, n) ? NULL : jid_parse(NULL, in, n);
    else if (s->identity_count > 1)
        return sasl_fail(s, SASL_INVALID_AUTHZID);
    else if (s->identity_count || s->from)
        s->user = jid_dup(NULL, s->identity_count ? s->identities[0] : s->from);
    if (!s->user)
        return sasl_fail(s, n ? SASL_INVALID_AUTHZID : SASL_NOT_AUTHORIZED);
    if (!jid_is_bare(s->user) || !s->user->local_len || !jid_domain_is(s->user, s->domain) || !has_identity(s, s->user))
        return sasl_fail(s, SASL_INVALID_AUTHZID);
    s->state = SASL_AT_HOME;
    return SASL_NEED_HOME;
}

enum sasl_status sasl_home_checked(struct sasl *s, enum err e)
{
    if (s->state == SASL_AT_FAILURE)
        return SASL_FAILURE;
    CHECK(s->state == SASL_AT_HOME, "checked in state %d", (int)s->state);
    if (e != OK)
        return sasl_fail(s, e == ERR_NOT_FOUND ? SASL_NOT_AUTHORIZED : SASL_TEMPORARY_AUTH_FAILURE);
    s->state = SASL_AT_SUCCESS;
    return SASL_SUCCESS;
}

/* A version 4 UUID. What the client says of itself (trace data) is of no use to anybody here. */
static enum sasl_status anonymous_first(struct sasl *s)
{
    uint8_t r[16];
    char name[37];
    random_bytes(r, sizeof r);
    r[6] = (uint8_t)((r[6] & 0x0f) | 0x40);
    r[8] = (uint8_t)((r[8] & 0x3f) | 0x80);
    snprintf(name, sizeof name, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0], r[1],
             r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15]);
    if (!sasl_claim(s, name, ""))
        return SASL_FAILURE;
    s->state = SASL_AT_SUCCESS;
    return SASL_SUCCESS;
}

static enum sasl_status sasl_message(struct sasl *s, const char *in, size_t n)
{
    if (s->state == SASL_AT_START)
        return s->mech == SASL_PLAIN         ? plain_first(s, in, n)
               : s->mech == SASL_EXTERNAL    ? external_first(s, in, n)
               : s->mech == SASL_ANONYMOUS   ? anonymous_first(s)
               : 1u << s->mech & SASL_TOKENS ? token_first(s, in, n)
                                             : scram_first(s, in, n);
    if (s->state == SASL_AT_FINAL)
        return scram_final(s, in, n);
    return sasl_fail(s, SASL_MALFORMED_REQUEST);
}

enum sasl_status sasl_step(struct sasl *s, const void *in, size_t n)
{
    if (s->state == SASL_AT_FAILURE)
        return SASL_FAILURE;
    /* A client that does not wait. A pool thread uses s just now, so nothing is written; the caller gives up. */
    if (s->state == SASL_AT_HASHING)
        return SASL_FAILURE;
    if (n > SASL_MESSAGE_MAX)
        return sasl_fail(s, SASL_MALFORMED_REQUEST);
    char text[SASL_MESSAGE_MAX + 1]; /* a copy with a NUL behind it */
    if (n)
        memcpy(text, in, n);
    text[n] = 0;
    enum sasl_status r = sasl_message(s, text, n);
    OPENSSL_cleanse(text, n);
    return r;
}

enum sasl_status sasl_keys(struct sasl *s, const struct scram_keys *k, bool known)
{
    if (s->state == SASL_AT_FAILURE)
        return SASL_FAILURE;
    CHECK(s->state == SASL_AT_KEYS, "keys in state %d", (int)s->state);
    if (!k)
        return sasl_fail(s, SASL_TEMPORARY_AUTH_FAILURE);
    if (!k->iterations)
        return sasl_fail(s, SASL_NOT_AUTHORIZED);
    s->keys = *k;
    s->known = known;
    if (s->mech != SASL_PLAIN)
        return scram_challenge(s);
    s->state = SASL_AT_HASHING;
    return SASL_NEED_HASHING;
}

void sasl_hashing(struct sasl *s)
{
    CHECK(s->state == SASL_AT_HASHING, "hashing in state %d", (int)s->state);
    s->fits = scram_verify(sasl_hash(s), &s->keys, s->password);
    OPENSSL_cleanse(s->password, sizeof s->password);
}

enum sasl_status sasl_hashed(struct sasl *s)
{
    CHECK(s->state == SASL_AT_HASHING, "hashed in state %d", (int)s->state);
    if (!(s->fits & s->known))
        return sasl_fail(s, SASL_NOT_AUTHORIZED);
    s->state = SASL_AT_SUCCESS;
    return SASL_SUCCESS;
}

struct sasl_token sasl_token(const struct sasl *s)
{
    CHECK(s->state == SASL_AT_TOKEN, "token in state %d", (int)s->state);
    struct sasl_token t = {.proof = s->proof, .proof_len = SASL_PROOF_LEN, .binding = s->binding.exporter};
    if (s->mech == SASL_HT_EXPR)
        t.binding_len = s->binding.exporter_len;
    if (s->mech == SASL_HT_ENDP) {
        t.binding = s->binding.end_point;
        t.binding_len = s->binding.end_point_len;
    }
    return t;
}

enum sasl_status sasl_token_checked(struct sasl *s, enum err e, const void *responder, size_t n)
{
    if (s->state == SASL_AT_FAILURE)
        return SASL_FAILURE;
    CHECK(s->state == SASL_AT_TOKEN && n <= sizeof s->out, "token checked in state %d", (int)s->state);
    if (e != OK)
        return sasl_fail(s, e == ERR_NOT_FOUND ? SASL_NOT_AUTHORIZED
                            : e == ERR_CLOSED  ? SASL_CREDENTIALS_EXPIRED
                                               : SASL_TEMPORARY_AUTH_FAILURE);
    if (n)
        memcpy(s->out, responder, n);
    s->out_len = n;
    s->state = SASL_AT_SUCCESS;
    return SASL_SUCCESS;
}

enum sasl_mech sasl_mech(const struct sasl *s)
{
    return s->mech;
}

const struct jid *sasl_user(const struct sasl *s)
{
    return s->user;
}

enum scram_hash sasl_hash(const struct sasl *s)
{
    switch (s->mech) {
    case SASL_SCRAM_SHA512:
    case SASL_SCRAM_SHA512_PLUS:
        return SCRAM_SHA512;
    case SASL_SCRAM_SHA1:
    case SASL_SCRAM_SHA1_PLUS:
        return SCRAM_SHA1;
    default:
        return SCRAM_SHA256;
    }
}

const void *sasl_out(const struct sasl *s, size_t *n)
{
    *n = s->out_len;
    return s->out;
}

enum sasl_failure sasl_why(const struct sasl *s)
{
    return s->why;
}
