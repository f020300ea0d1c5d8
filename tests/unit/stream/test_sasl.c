#include "sasl.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ITERATIONS = 50, ALL = (1 << SASL_MECHS) - 1 };
static const unsigned WITHOUT_PLUS =
    ALL & ~(1u << SASL_SCRAM_SHA512_PLUS | 1u << SASL_SCRAM_SHA256_PLUS | 1u << SASL_SCRAM_SHA1_PLUS);

static const struct sasl_binding tls = {true, "exporter exporter exporter 1234", 32, "certificate hash", 16};
static const struct sasl_binding plain_tcp = {0};
static struct credentials romeo; /* password "pencil" */

static int setup(void **state)
{
    (void)state;
    return credentials_derive("pencil", ITERATIONS, &romeo) == OK ? 0 : -1;
}

static enum sasl_status step(struct sasl *s, const char *text)
{
    return sasl_step(s, text, strlen(text));
}

static struct sasl *open_mech(enum sasl_mech m, unsigned offered)
{
    return sasl_new(m, offered, &tls, "example.com");
}

/* ---- a client, from RFC 5802 section 3 ---- */

struct client {
    enum scram_hash hash;
    const char *gs2, *bare, *password;
    const void *cb;
    size_t cb_len;
    const char *nonce_suffix, *extension; /* to be wrong on purpose */
    char server_sig[128];
};

static void hmac(enum scram_hash h, const void *key, const char *text, uint8_t *out)
{
    const EVP_MD *md = h == SCRAM_SHA1 ? EVP_sha1() : h == SCRAM_SHA256 ? EVP_sha256() : EVP_sha512();
    HMAC(md, key, (int)scram_len(h), (const uint8_t *)text, strlen(text), out, NULL);
}

/* Client-final for this server-first. */
static void client_final(struct client *c, const char *server_first, char *out, size_t room)
{
    const EVP_MD *md = c->hash == SCRAM_SHA1 ? EVP_sha1() : c->hash == SCRAM_SHA256 ? EVP_sha256() : EVP_sha512();
    uint8_t salt[64], salted[64], key[64], stored[64], sig[64], cb[256];
    char nonce[512], salt64[64], cb64[512], without[2048], message[4096], proof[128];
    int iterations, n = (int)scram_len(c->hash);
    assert_int_equal(sscanf(server_first, "r=%511[^,],s=%63[^,],i=%d", nonce, salt64, &iterations), 3);
    int salt_len = EVP_DecodeBlock(salt, (uint8_t *)salt64, (int)strlen(salt64));
    salt_len -= salt64[strlen(salt64) - 2] == '=' ? 2 : salt64[strlen(salt64) - 1] == '=';
    PKCS5_PBKDF2_HMAC(c->password, (int)strlen(c->password), salt, salt_len, iterations, md, n, salted);
    memcpy(cb, c->gs2, strlen(c->gs2));
    memcpy(cb + strlen(c->gs2), c->cb ? c->cb : "", c->cb_len);
    EVP_EncodeBlock((uint8_t *)cb64, cb, (int)(strlen(c->gs2) + c->cb_len));
    snprintf(without, sizeof without, "c=%s,r=%s%s%s", cb64, nonce, c->nonce_suffix ? c->nonce_suffix : "",
             c->extension ? c->extension : "");
    snprintf(message, sizeof message, "%s,%s,%s", c->bare, server_first, without);
    hmac(c->hash, salted, "Client Key", key);
    EVP_Digest(key, (size_t)n, stored, NULL, md, NULL);
    hmac(c->hash, stored, message, sig);
    for (int i = 0; i < n; i++)
        key[i] ^= sig[i];
    EVP_EncodeBlock((uint8_t *)proof, key, n);
    assert_true((size_t)snprintf(out, room, "%s,p=%s", without, proof) < room);
    hmac(c->hash, salted, "Server Key", key);
    hmac(c->hash, key, message, sig);
    strcpy(c->server_sig, "v=");
    EVP_EncodeBlock((uint8_t *)c->server_sig + 2, sig, n);
}

/* To the challenge, which is copied to out. */
static void to_challenge(struct sasl *s, const struct client *c, bool known, char *out)
{
    char first[1024];
    size_t n;
    snprintf(first, sizeof first, "%s%s", c->gs2, c->bare);
    assert_int_equal(step(s, first), SASL_NEED_KEYS);
    assert_string_equal(sasl_user(s)->s, "romeo@example.com");
    assert_int_equal(sasl_hash(s), c->hash);
    struct scram_keys fake;
    scram_fake(c->hash, (uint8_t[32]){1}, "romeo", ITERATIONS, &fake);
    assert_int_equal(sasl_keys(s, known ? &romeo.keys[c->hash] : &fake, known), SASL_CONTINUE);
    const char *p = sasl_out(s, &n);
    memcpy(out, p, n);
    out[n] = 0;
}

static enum sasl_status exchange(struct sasl *s, struct client *c, bool known)
{
    char challenge[1024], final[2048];
    size_t n;
    to_challenge(s, c, known, challenge);
    client_final(c, challenge, final, sizeof final);
    enum sasl_status r = step(s, final);
    const char *out = sasl_out(s, &n);
    if (r == SASL_SUCCESS) {
        assert_int_equal(n, strlen(c->server_sig));
        assert_memory_equal(out, c->server_sig, n);
        assert_string_equal(sasl_user(s)->s, "romeo@example.com");
    } else {
        assert_int_equal(n, 0);
    }
    return r;
}

#define EXPORTER "p=tls-exporter,,"
#define ENDPOINT "p=tls-server-end-point,,"
#define BARE     "n=Romeo,r=fyko+d2lbbFg"

static void test_scram_success(void **state)
{
    (void)state;
    static const enum scram_hash hash[] = {SCRAM_SHA512, SCRAM_SHA256, SCRAM_SHA1};
    for (enum sasl_mech m = SASL_SCRAM_SHA512_PLUS; m < SASL_PLAIN; m++) {
        bool plus = m < SASL_SCRAM_SHA512;
        for (int kind = 0; kind < 2; kind++) {
            struct client c = {hash[m % 3], plus ? kind ? EXPORTER : ENDPOINT : kind ? "n,," : "y,,", BARE, "pencil"};
            if (plus)
                c.cb = kind ? (void *)tls.exporter : (void *)tls.end_point, c.cb_len = kind ? 32 : 16;
            struct sasl *s = open_mech(m, plus || kind ? ALL : WITHOUT_PLUS);
            assert_int_equal(exchange(s, &c, true), SASL_SUCCESS);
            assert_int_equal(step(s, "again"), SASL_FAILURE);
            sasl_free(&s);
            assert_null(s);
        }
    }
}

static void expect_not_authorized(enum sasl_mech m, struct client *c, bool known)
{
    struct sasl *s = open_mech(m, m < SASL_SCRAM_SHA512 ? ALL : WITHOUT_PLUS);
    assert_int_equal(exchange(s, c, known), SASL_FAILURE);
    assert_int_equal(sasl_why(s), SASL_NOT_AUTHORIZED);
    assert_int_equal(step(s, "n,,n=a,r=b"), SASL_FAILURE);
    sasl_free(&s);
}

static void test_scram_wrong(void **state)
{
    (void)state;
    struct client good = {SCRAM_SHA256, "n,,", BARE, "pencil"}, c = good;
    c.password = "pencil2", expect_not_authorized(SASL_SCRAM_SHA256, &c, true);
    c = good, expect_not_authorized(SASL_SCRAM_SHA256, &c, false); /* unknown user, same steps */
    c = good, c.nonce_suffix = "x", expect_not_authorized(SASL_SCRAM_SHA256, &c, true);
    c = good, c.cb = "x", c.cb_len = 1, expect_not_authorized(SASL_SCRAM_SHA256, &c, true);
    c = (struct client){SCRAM_SHA256, EXPORTER, BARE, "pencil", "another certificate's exporter...", 32};
    expect_not_authorized(SASL_SCRAM_SHA256_PLUS, &c, true);
    c.cb = tls.exporter, c.cb_len = 31, expect_not_authorized(SASL_SCRAM_SHA256_PLUS, &c, true);
    c.cb_len = 0, expect_not_authorized(SASL_SCRAM_SHA256_PLUS, &c, true);
    c.cb = tls.end_point, c.cb_len = 16, expect_not_authorized(SASL_SCRAM_SHA256_PLUS, &c, true);
    /* extensions after the nonce are ignored */
    c = good, c.bare = BARE ",x=1", c.extension = ",y=2";
    struct sasl *s = open_mech(SASL_SCRAM_SHA256, ALL);
    assert_int_equal(exchange(s, &c, true), SASL_SUCCESS);
    sasl_free(&s);
}

/* A known user's right proof does not help an attempt that was said to be unknown. */
static void test_scram_known_is_decisive(void **state)
{
    (void)state;
    struct client c = {SCRAM_SHA1, "n,,", BARE, "pencil"};
    struct sasl *s = open_mech(SASL_SCRAM_SHA1, ALL);
    char challenge[1024], final[2048];
    size_t n;
    assert_int_equal(step(s, "n,," BARE), SASL_NEED_KEYS);
    assert_int_equal(sasl_keys(s, &romeo.keys[SCRAM_SHA1], false), SASL_CONTINUE);
    const char *p = sasl_out(s, &n);
    memcpy(challenge, p, n), challenge[n] = 0;
    client_final(&c, challenge, final, sizeof final);
    assert_int_equal(step(s, final), SASL_FAILURE);
    sasl_free(&s);
}

static void first_gives(enum sasl_mech m, unsigned offered, const char *text, size_t n, int why)
{
    struct sasl *s = open_mech(m, offered);
    enum sasl_status r = sasl_step(s, text, n);
    if (why < 0) {
        assert_int_equal(r, SASL_NEED_KEYS);
    } else {
        assert_int_equal(r, SASL_FAILURE);
        assert_int_equal(sasl_why(s), why);
        assert_int_equal(sasl_keys(s, &romeo.keys[0], true), SASL_FAILURE);
    }
    sasl_free(&s);
}

#define FIRST(m, offered, text, why) first_gives(m, offered, text, sizeof text - 1, why)
#define BAD(text)                    FIRST(SASL_SCRAM_SHA256, ALL, text, SASL_MALFORMED_REQUEST)

static void test_scram_first(void **state)
{
    (void)state;
    FIRST(SASL_SCRAM_SHA256, ALL, "n,," BARE, -1);
    FIRST(SASL_SCRAM_SHA256, ALL, "y,," BARE, SASL_NOT_AUTHORIZED); /* -PLUS was stripped on the way */
    FIRST(SASL_SCRAM_SHA256, 1u << SASL_SCRAM_SHA1_PLUS | 1u << SASL_SCRAM_SHA256, "y,," BARE, SASL_NOT_AUTHORIZED);
    FIRST(SASL_SCRAM_SHA256, WITHOUT_PLUS, "y,," BARE, -1);
    FIRST(SASL_SCRAM_SHA256, ALL, EXPORTER BARE, SASL_MALFORMED_REQUEST);
    FIRST(SASL_SCRAM_SHA256_PLUS, ALL, "n,," BARE, SASL_MALFORMED_REQUEST);
    FIRST(SASL_SCRAM_SHA256_PLUS, ALL, "p=tls-unique,," BARE, SASL_NOT_AUTHORIZED);
    FIRST(SASL_SCRAM_SHA256_PLUS, ALL, "p=,," BARE, SASL_MALFORMED_REQUEST);
    FIRST(SASL_SCRAM_SHA256_PLUS, ALL, "p=tls-exporter2,," BARE, SASL_NOT_AUTHORIZED);
    BAD(""), BAD("n"), BAD("n,"), BAD("n,,"), BAD("n,,,"), BAD("nn,," BARE), BAD("F,n,," BARE), BAD("n,x=1," BARE);
    BAD("n,,m=1," BARE), BAD("n,,n=romeo"), BAD("n,,n=,r=x"), BAD("n,,n=romeo,r="), BAD("n,,r=x,n=romeo");
    BAD("n,," BARE ",m=1"), BAD("n,," BARE ","), BAD("n,," BARE ",x"), BAD("n,," BARE ",x="), BAD("n,," BARE ",1=2");
    BAD("n,,n=romeo,r=a b"), BAD("n,,n=romeo,r=\xC3\xA9"), BAD("n,,n=romeo,r=a\0b"), BAD("n,,n=ro\0meo,r=ab");
    BAD("n,,n=ro=meo,r=a"), BAD("n,,n=ro=2c,r=a"), BAD("n,,n=ro=,r=a"), BAD("n,,n=ro=2,r=a"), BAD("n,a=,n=romeo,r=a");
    FIRST(SASL_SCRAM_SHA256, ALL, "n,,n=ro=3Dmeo=2C,r=a", -1);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,,n=romeo@example.com,r=a", SASL_NOT_AUTHORIZED);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,,n=ro meo,r=a", SASL_NOT_AUTHORIZED);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,,n=\xFF,r=a", SASL_NOT_AUTHORIZED);
    char big[9000];
    memset(big, 'a', sizeof big), memcpy(big, "n,,n=a,r=", 9);
    first_gives(SASL_SCRAM_SHA256, ALL, big, 9 + 256, -1);
    first_gives(SASL_SCRAM_SHA256, ALL, big, 9 + 257, SASL_MALFORMED_REQUEST);
    first_gives(SASL_SCRAM_SHA256, ALL, big, sizeof big, SASL_MALFORMED_REQUEST);
}

static void test_scram_authzid(void **state)
{
    (void)state;
    FIRST(SASL_SCRAM_SHA256, ALL, "n,a=ROMEO@Example.com.," BARE, -1);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,a=juliet@example.com," BARE, SASL_INVALID_AUTHZID);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,a=romeo@example.net," BARE, SASL_INVALID_AUTHZID);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,a=romeo@example.com/x," BARE, SASL_INVALID_AUTHZID);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,a=romeo," BARE, SASL_INVALID_AUTHZID);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,a=example.com," BARE, SASL_INVALID_AUTHZID);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,a=romeo@example.com\0," BARE, SASL_MALFORMED_REQUEST);
    FIRST(SASL_SCRAM_SHA256, ALL, "n,a=romeo=40example.com," BARE, SASL_MALFORMED_REQUEST);
}

static void final_malformed(const char *text, size_t n)
{
    struct client c = {SCRAM_SHA1, "n,,", BARE, "pencil"};
    struct sasl *s = open_mech(SASL_SCRAM_SHA1, ALL);
    char challenge[1024];
    to_challenge(s, &c, true, challenge);
    assert_int_equal(sasl_step(s, text, n), SASL_FAILURE);
    assert_int_equal(sasl_why(s), SASL_MALFORMED_REQUEST);
    sasl_free(&s);
}

#define FINAL(text) final_malformed(text, sizeof text - 1)
#define PROOF       "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="

static void test_scram_final(void **state)
{
    (void)state;
    FINAL(""), FINAL("c=biws"), FINAL("c=biws,r=x"), FINAL("r=x,c=biws,p=" PROOF), FINAL("c=biws,r=x,p=");
    FINAL("c=biw,r=x,p=" PROOF), FINAL("c=b ws,r=x,p=" PROOF), FINAL("c=biws,r=x,p=dG9vIHNob3J0");
    FINAL("c=biws,r=x,p=" PROOF ",x=1"), FINAL("c=biws,m=1,r=x,p=" PROOF), FINAL("c=biws,r=x,m=1,p=" PROOF);
    FINAL("c=biws,r=x,p=" PROOF "\0"), FINAL("c=biws,r=x,p=" PROOF PROOF),
        FINAL("c=biws,r=x,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Tt=");
}

static void test_scram_order(void **state)
{
    (void)state;
    struct sasl *s = open_mech(SASL_SCRAM_SHA1, ALL);
    assert_int_equal(step(s, "c=biws,r=x,p=" PROOF), SASL_FAILURE); /* final first */
    sasl_free(&s);
    s = open_mech(SASL_SCRAM_SHA1, ALL);
    assert_int_equal(step(s, "n,," BARE), SASL_NEED_KEYS);
    assert_int_equal(step(s, "n,," BARE), SASL_FAILURE); /* does not wait for the challenge */
    assert_int_equal(sasl_keys(s, &romeo.keys[SCRAM_SHA1], true), SASL_FAILURE);
    sasl_free(&s);
    s = open_mech(SASL_SCRAM_SHA1, ALL);
    assert_int_equal(step(s, "n,," BARE), SASL_NEED_KEYS);
    assert_int_equal(sasl_keys(s, NULL, true), SASL_FAILURE);
    assert_int_equal(sasl_why(s), SASL_TEMPORARY_AUTH_FAILURE);
    sasl_free(&s);
    sasl_free(&s);
}

static void test_nonce(void **state)
{
    (void)state;
    struct client c = {SCRAM_SHA1, "n,,", BARE, "pencil"};
    char out[2][1024];
    for (int i = 0; i < 2; i++) {
        struct sasl *s = open_mech(SASL_SCRAM_SHA1, ALL);
        to_challenge(s, &c, true, out[i]);
        assert_int_equal(strncmp(out[i], "r=fyko+d2lbbFg", 14), 0);
        assert_true(strcspn(out[i] + 14, ",") * 6 >= 128);
        sasl_free(&s);
    }
    assert_string_not_equal(out[0], out[1]);
}

static enum sasl_status plain(const char *text, size_t n, bool known, enum sasl_failure *why)
{
    struct sasl *s = open_mech(SASL_PLAIN, ALL);
    enum sasl_status r = sasl_step(s, text, n);
    if (r == SASL_NEED_KEYS && (r = sasl_keys(s, &romeo.keys[sasl_hash(s)], known)) == SASL_NEED_HASHING) {
        assert_int_equal(step(s, "hurry"), SASL_FAILURE);
        sasl_hashing(s);
        r = sasl_hashed(s);
    }
    if (r == SASL_SUCCESS)
        assert_string_equal(sasl_user(s)->s, "romeo@example.com");
    *why = sasl_why(s);
    sasl_free(&s);
    return r;
}

#define PLAIN_OK(text) assert_int_equal(plain(text, sizeof text - 1, true, &why), SASL_SUCCESS)
#define PLAIN_BAD(text, w)                                                                                             \
    assert_int_equal(plain(text, sizeof text - 1, true, &why), SASL_FAILURE), assert_int_equal(why, w)

static void test_plain(void **state)
{
    (void)state;
    enum sasl_failure why;
    PLAIN_OK("\0romeo\0pencil");
    PLAIN_OK("\0ROMEO\0pencil");
    PLAIN_OK("Romeo@EXAMPLE.com\0romeo\0pencil");
    PLAIN_BAD("\0romeo\0Pencil", SASL_NOT_AUTHORIZED);
    PLAIN_BAD("\0romeo\0", SASL_NOT_AUTHORIZED);
    PLAIN_BAD("\0ro meo\0pencil", SASL_NOT_AUTHORIZED);
    PLAIN_BAD("\0romeo@example.com\0pencil", SASL_NOT_AUTHORIZED);
    PLAIN_BAD("juliet@example.com\0romeo\0pencil", SASL_INVALID_AUTHZID);
    PLAIN_BAD("romeo@example.com/x\0romeo\0pencil", SASL_INVALID_AUTHZID);
    PLAIN_BAD("romeo\0romeo\0pencil", SASL_INVALID_AUTHZID);
    PLAIN_BAD("example.com\0romeo\0pencil", SASL_INVALID_AUTHZID);
    PLAIN_BAD("\0\0pencil", SASL_MALFORMED_REQUEST);
    PLAIN_BAD("\0romeo\0pencil\0", SASL_MALFORMED_REQUEST);
    PLAIN_BAD("a\0\0romeo\0pencil", SASL_MALFORMED_REQUEST);
    PLAIN_BAD("romeo\0pencil", SASL_MALFORMED_REQUEST);
    PLAIN_BAD("romeo", SASL_MALFORMED_REQUEST);
    PLAIN_BAD("", SASL_MALFORMED_REQUEST);
    assert_int_equal(plain("\0romeo\0pencil", 13, false, &why), SASL_FAILURE);
    assert_int_equal(why, SASL_NOT_AUTHORIZED);
    char big[2000] = "\0romeo\0";
    memset(big + 7, 'x', 1024);
    assert_int_equal(plain(big, 7 + 1024, true, &why), SASL_FAILURE);
    assert_int_equal(why, SASL_NOT_AUTHORIZED);
    struct sasl *s = sasl_new(SASL_PLAIN, ALL, &plain_tcp, "example.com");
    assert_int_equal(sasl_step(s, "\0romeo\0pencil", 13), SASL_FAILURE);
    assert_int_equal(sasl_why(s), SASL_ENCRYPTION_REQUIRED);
    sasl_free(&s);
}

/* ---- tokens ---- */

#define HT_PROOF "0123456789abcdef0123456789ABCDEF"

static void test_token(void **state)
{
    (void)state;
    for (enum sasl_mech m = SASL_HT_EXPR; m <= SASL_HT_NONE; m++) {
        struct sasl *s = open_mech(m, ALL);
        size_t n;
        assert_int_equal(sasl_step(s, "Romeo\0" HT_PROOF, 38), SASL_NEED_TOKEN);
        assert_string_equal(sasl_user(s)->s, "romeo@example.com");
        struct sasl_token t = sasl_token(s);
        assert_int_equal(t.proof_len, 32);
        assert_memory_equal(t.proof, HT_PROOF, 32);
        assert_int_equal(t.binding_len, m == SASL_HT_EXPR ? 32 : m == SASL_HT_ENDP ? 16 : 0);
        assert_memory_equal(t.binding, m == SASL_HT_ENDP ? tls.end_point : tls.exporter, t.binding_len);
        assert_int_equal(sasl_token_checked(s, OK, "responder", 9), SASL_SUCCESS);
        assert_memory_equal(sasl_out(s, &n), "responder", 9);
        assert_int_equal(n, 9);
        sasl_free(&s);
    }
}

static void test_token_refused(void **state)
{
    (void)state;
    static const struct {
        const char *message;
        size_t n;
        enum sasl_failure why;
    } bad[] = {{"romeo\0" HT_PROOF, 37, SASL_MALFORMED_REQUEST},
               {"romeo\0" HT_PROOF "x", 39, SASL_MALFORMED_REQUEST},
               {"romeo", 5, SASL_MALFORMED_REQUEST},
               {"", 0, SASL_MALFORMED_REQUEST},
               {"\0" HT_PROOF, 33, SASL_NOT_AUTHORIZED},
               {"ro meo\0" HT_PROOF, 39, SASL_NOT_AUTHORIZED}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sasl *s = open_mech(SASL_HT_NONE, ALL);
        assert_int_equal(sasl_step(s, bad[i].message, bad[i].n), SASL_FAILURE);
        assert_int_equal(sasl_why(s), bad[i].why);
        sasl_free(&s);
    }
    static const struct {
        enum err e;
        enum sasl_failure why;
    } home[] = {{ERR_NOT_FOUND, SASL_NOT_AUTHORIZED},
                {ERR_CLOSED, SASL_CREDENTIALS_EXPIRED},
                {ERR_BUSY, SASL_TEMPORARY_AUTH_FAILURE}};
    for (size_t i = 0; i < sizeof home / sizeof *home; i++) {
        struct sasl *s = open_mech(SASL_HT_NONE, ALL);
        assert_int_equal(sasl_step(s, "romeo\0" HT_PROOF, 38), SASL_NEED_TOKEN);
        assert_int_equal(sasl_token_checked(s, home[i].e, NULL, 0), SASL_FAILURE);
        assert_int_equal(sasl_why(s), home[i].why);
        assert_int_equal(sasl_step(s, "romeo\0" HT_PROOF, 38), SASL_FAILURE);
        sasl_free(&s);
    }
}

static void test_offer(void **state)
{
    (void)state;
    struct sasl_binding unbound = {.tls = true};
    assert_int_equal(sasl_offer(&tls, ALL), ALL);
    assert_int_equal(sasl_offer(&unbound, ALL), WITHOUT_PLUS & ~(1u << SASL_HT_EXPR | 1u << SASL_HT_ENDP));
    assert_int_equal(sasl_offer(&plain_tcp, ALL),
                     WITHOUT_PLUS & ~(1u << SASL_PLAIN | 1u << SASL_EXTERNAL | SASL_TOKENS));
    assert_int_equal(sasl_offer(&tls, 1u << SASL_PLAIN), 1u << SASL_PLAIN);
    for (enum sasl_mech m = 0; m < SASL_MECHS; m++) {
        assert_int_equal(sasl_find(sasl_mech_name(m), ALL), m);
        assert_int_equal(sasl_find(sasl_mech_name(m), ALL & ~(1u << m)), SASL_MECHS);
    }
    assert_int_equal(sasl_find("plain", ALL), SASL_MECHS);
    assert_int_equal(sasl_find("", ALL), SASL_MECHS);
    assert_string_equal(sasl_failure_name(SASL_INVALID_AUTHZID), "invalid-authzid");
    /* tls-exporter asked for where only the end point is known */
    struct sasl_binding end_only = tls;
    end_only.exporter_len = 0;
    struct sasl *s = sasl_new(SASL_SCRAM_SHA1_PLUS, ALL, &end_only, "example.com");
    assert_int_equal(step(s, EXPORTER BARE), SASL_FAILURE);
    assert_int_equal(sasl_why(s), SASL_NOT_AUTHORIZED);
    sasl_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scram_success),
        cmocka_unit_test(test_scram_wrong),
        cmocka_unit_test(test_scram_known_is_decisive),
        cmocka_unit_test(test_scram_first),
        cmocka_unit_test(test_scram_authzid),
        cmocka_unit_test(test_scram_final),
        cmocka_unit_test(test_scram_order),
        cmocka_unit_test(test_nonce),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_token),
        cmocka_unit_test(test_token_refused),
        cmocka_unit_test(test_offer),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
