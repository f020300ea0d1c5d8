/* SCRAM, the server's side: RFC 5802 sections 5 to 7. Messages are checked to hold no NUL and then read as strings. */
#include "sasl_impl.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AUTHZID_MAX = JID_MAX, USER_MAX = JID_MAX };

static bool is_plus(enum sasl_mech m)
{
    return m == SASL_SCRAM_SHA512_PLUS || m == SASL_SCRAM_SHA256_PLUS || m == SASL_SCRAM_SHA1_PLUS;
}

static bool plus_offered(const struct sasl *s)
{
    for (enum sasl_mech m = 0; m < SASL_MECHS; m++)
        if (is_plus(m) && s->offered & 1u << m)
            return true;
    return false;
}

/* Takes "k=value" up to a comma or the end off *at; the value, or NULL when the attribute is another. */
static const char *take_attr(const char **at, char k, size_t *n)
{
    const char *p = *at;
    if (p[0] != k || p[1] != '=')
        return NULL;
    *n = strcspn(p + 2, ",");
    *at = p + 2 + *n;
    return p + 2;
}

static bool take_comma(const char **at)
{
    return *(*at)++ == ',';
}

/* saslname: "=2C" and "=3D" only, and not empty. */
static bool saslname_decode(const char *in, size_t n, char *out, size_t room)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        char c = in[i];
        if (c == '=') {
            if (n - i < 3 || (memcmp(in + i, "=2C", 3) && memcmp(in + i, "=3D", 3)))
                return false;
            c = in[i + 1] == '2' ? ',' : '=';
            i += 2;
        }
        if (used + 1 >= room)
            return false;
        out[used++] = c;
    }
    out[used] = 0;
    return used > 0;
}

/* Optional extensions are ignored, a mandatory one (m=) is not ours to know. Ends at the end or at ",p=". */
static bool skip_extensions(const char **at)
{
    while (**at == ',' && strncmp(*at, ",p=", 3) != 0) {
        char name = (*at)[1];
        size_t n;
        const char *p = *at + 1;
        bool letter = (name >= 'a' && name <= 'z') || (name >= 'A' && name <= 'Z');
        if (!letter || name == 'm' || !take_attr(&p, name, &n) || !n)
            return false;
        *at = p;
    }
    return true;
}

static bool nonce_ok(const char *p, size_t n)
{
    if (!n || n > SASL_NONCE_MAX)
        return false;
    for (size_t i = 0; i < n; i++)
        if (p[i] < 0x21 || p[i] > 0x7E)
            return false;
    return true;
}

struct bytes_ref {
    const uint8_t *p;
    size_t n;
};

/* The flag before the first comma of the gs2 header; what the binding adds to c= goes to data. */
static bool take_flag(struct sasl *s, const char **at, struct bytes_ref *data)
{
    const struct sasl_binding *b = &s->binding;
    const char *type;
    size_t n;
    if (**at == 'n' || **at == 'y') {
        /* y: "I could bind, but you did not offer it". If we did, somebody took it out of the features. */
        if (**at == 'y' && plus_offered(s))
            return sasl_fail(s, SASL_NOT_AUTHORIZED), false;
        ++*at;
        return is_plus(s->mech) ? sasl_fail(s, SASL_MALFORMED_REQUEST), false : true;
    }
    if (!(type = take_attr(at, 'p', &n)) || !n || !is_plus(s->mech))
        return sasl_fail(s, SASL_MALFORMED_REQUEST), false;
    if (n == strlen("tls-exporter") && !memcmp(type, "tls-exporter", n))
        *data = (struct bytes_ref){b->exporter, b->exporter_len};
    else if (n == strlen("tls-server-end-point") && !memcmp(type, "tls-server-end-point", n))
        *data = (struct bytes_ref){b->end_point, b->end_point_len};
    else if (n == strlen("tls-unique") && !memcmp(type, "tls-unique", n))
        *data = (struct bytes_ref){b->unique, b->unique_len};
    if (!data->n) /* a type we do not speak, or cannot on this connection */
        return sasl_fail(s, SASL_NOT_AUTHORIZED), false;
    return true;
}

/* c= as it must come back: the gs2 header, then the binding's data. */
static char *cbind_expected(const char *header, size_t n, const struct bytes_ref *data)
{
    uint8_t *raw = xmalloc(n + data->n + 1);
    char *text = xmalloc((n + data->n + 2) / 3 * 4 + 1);
    memcpy(raw, header, n);
    if (data->n)
        memcpy(raw + n, data->p, data->n);
    base64_encode(text, raw, n + data->n);
    free(raw);
    return text;
}

/* [reserved-mext ","] username "," nonce ["," extensions]; a mext fails to be n=. */
static bool take_bare(struct sasl *s, const char *at, const char *authzid)
{
    char user[USER_MAX + 1];
    size_t n, nonce_len;
    const char *name = take_attr(&at, 'n', &n);
    if (!name || !saslname_decode(name, n, user, sizeof user) || !take_comma(&at))
        return sasl_fail(s, SASL_MALFORMED_REQUEST), false;
    const char *nonce = take_attr(&at, 'r', &nonce_len);
    if (!nonce || !nonce_ok(nonce, nonce_len) || !skip_extensions(&at) || *at)
        return sasl_fail(s, SASL_MALFORMED_REQUEST), false;
    if (!sasl_claim(s, user, authzid))
        return false;
    s->nonce = xmalloc(nonce_len + SASL_NONCE_BYTES * 4 / 3 + 2);
    memcpy(s->nonce, nonce, nonce_len);
    random_token(s->nonce + nonce_len, SASL_NONCE_BYTES);
    return true;
}

enum sasl_status scram_first(struct sasl *s, const char *in, size_t n)
{
    char authzid[AUTHZID_MAX + 1] = "";
    struct bytes_ref data = {0};
    const char *at = in, *p;
    size_t len;
    if (memchr(in, 0, n))
        return sasl_fail(s, SASL_MALFORMED_REQUEST);
    if (!take_flag(s, &at, &data))
        return SASL_FAILURE;
    if (!take_comma(&at) || ((p = take_attr(&at, 'a', &len)) && !saslname_decode(p, len, authzid, sizeof authzid)) ||
        !take_comma(&at))
        return sasl_fail(s, SASL_MALFORMED_REQUEST);
    if (!take_bare(s, at, authzid))
        return SASL_FAILURE;
    s->cbind = cbind_expected(in, (size_t)(at - in), &data);
    s->client_first = xstrdup(at);
    s->state = SASL_AT_KEYS;
    return SASL_NEED_KEYS;
}

static const EVP_MD *scram_md(const struct sasl *s)
{
    enum scram_hash h = sasl_hash(s);
    return h == SCRAM_SHA1 ? EVP_sha1() : h == SCRAM_SHA256 ? EVP_sha256() : EVP_sha512();
}

/* Names in order, of what was announced, behind each other; the separators cannot be part of XML. */
static void announced(const struct sasl *s, char *out, size_t room)
{
    const char *names[SASL_MECHS];
    size_t count = 0, used = 0;
    for (enum sasl_mech m = 0; m < SASL_MECHS; m++) {
        if (!(s->offered & 1u << m & ~(unsigned)SASL_TOKENS))
            continue;
        size_t at = count++;
        for (; at && strcmp(names[at - 1], sasl_mech_name(m)) > 0; at--)
            names[at] = names[at - 1];
        names[at] = sasl_mech_name(m);
    }
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(out + used, room - used, "%s%s", i ? "\x1e" : "", names[i]);
    const char *exporter = s->binding.exporter_len ? "tls-exporter" : "",
               *end_point = s->binding.end_point_len ? "tls-server-end-point" : "";
    if (*exporter || *end_point)
        used += (size_t)snprintf(out + used, room - used, "\x1f%s%s%s", exporter, *exporter && *end_point ? "\x1e" : "",
                                 end_point);
    CHECK(used < room, "%zu bytes announced", used);
}

/* XEP-0474: a client that was shown other mechanisms or bindings than ours sees it by this. */
static void announced_hash(const struct sasl *s, char out[SCRAM_KEY_MAX * 2])
{
    char text[512];
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned n;
    announced(s, text, sizeof text);
    CHECK(EVP_Digest(text, strlen(text), digest, &n, scram_md(s), NULL) == 1, "digest");
    base64_encode(out, digest, n);
}

enum sasl_status scram_challenge(struct sasl *s)
{
    char hash[SCRAM_KEY_MAX * 2];
    char salt[SCRAM_SALT_LEN * 2];
    base64_encode(salt, s->keys.salt, SCRAM_SALT_LEN);
    announced_hash(s, hash);
    int n = snprintf(s->out, sizeof s->out, "r=%s,s=%s,i=%u,h=%s", s->nonce, salt, s->keys.iterations, hash);
    CHECK(n > 0 && (size_t)n < sizeof s->out, "challenge of %d bytes", n);
    s->out_len = (size_t)n;
    s->server_first = xstrdup(s->out);
    s->state = SASL_AT_FINAL;
    return SASL_CONTINUE;
}

static void hmac_message(const struct sasl *s, const uint8_t *key, const char *without_proof, size_t n, uint8_t *out)
{
    size_t room = strlen(s->client_first) + strlen(s->server_first) + n + 3;
    char *message = xmalloc(room);
    int len = snprintf(message, room, "%s,%s,%.*s", s->client_first, s->server_first, (int)n, without_proof);
    CHECK(HMAC(scram_md(s), key, (int)scram_len(sasl_hash(s)), (uint8_t *)message, (size_t)len, out, NULL), "HMAC");
    free(message);
}

/* RFC 5802 section 3: H(proof XOR ClientSignature) must be StoredKey. */
static bool proof_fits(const struct sasl *s, const uint8_t *proof, const char *without_proof, size_t n)
{
    uint8_t client_key[SCRAM_KEY_MAX], stored[SCRAM_KEY_MAX];
    size_t len = scram_len(sasl_hash(s));
    hmac_message(s, s->keys.stored, without_proof, n, client_key);
    for (size_t i = 0; i < len; i++)
        client_key[i] ^= proof[i];
    CHECK(EVP_Digest(client_key, len, stored, NULL, scram_md(s), NULL) == 1, "digest");
    bool fits = equal_const_time(stored, s->keys.stored, len);
    OPENSSL_cleanse(client_key, sizeof client_key);
    return fits;
}

static bool is_text(const char *p, size_t n, const char *text)
{
    return n == strlen(text) && equal_const_time(p, text, n);
}

/* channel-binding "," nonce ["," extensions] "," proof */
enum sasl_status scram_final(struct sasl *s, const char *in, size_t n)
{
    uint8_t proof[SCRAM_KEY_MAX], raw[SASL_MESSAGE_MAX], signature[SCRAM_KEY_MAX];
    const char *at = in, *c, *r, *p = NULL;
    size_t c_len, r_len, p_len, before_proof = 0, len = scram_len(sasl_hash(s));
    bool shape = !memchr(in, 0, n) && (c = take_attr(&at, 'c', &c_len)) && take_comma(&at) &&
                 (r = take_attr(&at, 'r', &r_len)) && skip_extensions(&at);
    if (shape) {
        before_proof = (size_t)(at - in);
        shape = take_comma(&at) && (p = take_attr(&at, 'p', &p_len)) && !*at;
    }
    if (!shape || base64_decode(raw, sizeof raw, c, c_len) < 0 ||
        base64_decode(proof, sizeof proof, p, p_len) != (long)len)
        return sasl_fail(s, SASL_MALFORMED_REQUEST);
    /* All is computed whatever fails, also for users that do not exist. */
    bool bound = is_text(c, c_len, s->cbind), same_nonce = is_text(r, r_len, s->nonce);
    bool fits = proof_fits(s, proof, in, before_proof);
    if (!(bound & same_nonce & fits & s->known))
        return sasl_fail(s, SASL_NOT_AUTHORIZED);
    hmac_message(s, s->keys.server, in, before_proof, signature);
    memcpy(s->out, "v=", 2);
    base64_encode(s->out + 2, signature, len);
    s->out_len = strlen(s->out);
    s->state = SASL_AT_SUCCESS;
    return SASL_SUCCESS;
}
