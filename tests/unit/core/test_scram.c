#include "scram.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* An RFC's example exchange: password "pencil", 4096 iterations. */
struct vector {
    enum scram_hash hash;
    const char *salt, *message, *proof, *signature;
};

static const struct vector vectors[] = {
    /* RFC 5802 section 5 */
    {SCRAM_SHA1, "QSXCR+Q6sek8bf92",
     "n=user,r=fyko+d2lbbFgONRv9qkxdawL,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096,"
     "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j",
     "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "rmF9pqV8S7suAoZWja4dJRkFsKQ="},
    /* RFC 7677 section 3 */
    {SCRAM_SHA256, "W22ZaJ0SNY7soEsUEjb6gQ==",
     "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
     "s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
     "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
};

static const EVP_MD *md(enum scram_hash h)
{
    return h == SCRAM_SHA1 ? EVP_sha1() : h == SCRAM_SHA256 ? EVP_sha256() : EVP_sha512();
}

static void hmac(enum scram_hash h, const uint8_t *key, const char *text, uint8_t *out)
{
    assert_non_null(HMAC(md(h), key, (int)scram_len(h), (const uint8_t *)text, strlen(text), out, NULL));
}

/* StoredKey from the vector's proof, by RFC 5802 section 3 read backwards: H(proof XOR HMAC(StoredKey, message)). */
static bool proof_fits(const struct vector *v, const struct scram_keys *k)
{
    uint8_t proof[SCRAM_KEY_MAX], sig[SCRAM_KEY_MAX], stored[SCRAM_KEY_MAX];
    size_t n = scram_len(v->hash);
    assert_int_equal(base64_decode(proof, sizeof proof, v->proof, strlen(v->proof)), n);
    hmac(v->hash, k->stored, v->message, sig);
    for (size_t i = 0; i < n; i++)
        proof[i] ^= sig[i];
    EVP_Digest(proof, n, stored, NULL, md(v->hash), NULL);
    return !memcmp(stored, k->stored, n);
}

/* Keys of a vector: RFC 5802's salt has 12 bytes, ours 16, so that one is derived here. */
static void vector_keys(const struct vector *v, struct scram_keys *k)
{
    uint8_t salt[32], salted[SCRAM_KEY_MAX], client[SCRAM_KEY_MAX];
    long n = base64_decode(salt, sizeof salt, v->salt, strlen(v->salt));
    assert_true(n > 0);
    PKCS5_PBKDF2_HMAC("pencil", 6, salt, (int)n, 4096, md(v->hash), (int)scram_len(v->hash), salted);
    hmac(v->hash, salted, "Client Key", client);
    EVP_Digest(client, scram_len(v->hash), k->stored, NULL, md(v->hash), NULL);
    hmac(v->hash, salted, "Server Key", k->server);
    k->iterations = 4096;
    memcpy(k->salt, salt, n < SCRAM_SALT_LEN ? (size_t)n : SCRAM_SALT_LEN);
}

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        const struct vector *v = &vectors[i];
        struct scram_keys k = {0};
        uint8_t sig[SCRAM_KEY_MAX];
        char text[2 * SCRAM_KEY_MAX];
        vector_keys(v, &k);
        assert_true(proof_fits(v, &k));
        hmac(v->hash, k.server, v->message, sig);
        base64_encode(text, sig, scram_len(v->hash));
        assert_string_equal(text, v->signature);
    }
}

/* RFC 7677's salt has our length: the library must find the very keys its exchange was made with. */
static void test_rfc7677_password(void **state)
{
    (void)state;
    struct scram_keys k = {0};
    vector_keys(&vectors[1], &k);
    assert_true(scram_verify(SCRAM_SHA256, &k, "pencil"));
    assert_false(scram_verify(SCRAM_SHA256, &k, "pencil "));
    assert_false(scram_verify(SCRAM_SHA256, &k, ""));
    k.stored[31] ^= 1;
    assert_false(scram_verify(SCRAM_SHA256, &k, "pencil"));
}

static void test_derive(void **state)
{
    (void)state;
    struct credentials c, d;
    assert_int_equal(credentials_derive("p\u00E4ss w\u00F6rd", 100, &c), OK);
    assert_int_equal(credentials_derive("p\u00E4ss w\u00F6rd", 100, &d), OK);
    for (enum scram_hash h = 0; h < SCRAM_HASHES; h++) {
        assert_int_equal(c.keys[h].iterations, 100);
        assert_true(scram_verify(h, &c.keys[h], "p\u00E4ss w\u00F6rd"));
        assert_true(scram_verify(h, &c.keys[h], "pa\u0308ss\u00A0wo\u0308rd")); /* equal under OpaqueString */
        assert_false(scram_verify(h, &c.keys[h], "P\u00E4ss w\u00F6rd"));
        assert_memory_not_equal(c.keys[h].salt, d.keys[h].salt, SCRAM_SALT_LEN);
        assert_memory_not_equal(c.keys[h].stored, d.keys[h].stored, scram_len(h));
    }
    assert_int_equal(credentials_derive("", 100, &c), ERR_INVALID);
    assert_int_equal(credentials_derive("a\tb", 100, &c), ERR_INVALID);
    assert_int_equal(credentials_derive("\xFF", 100, &c), ERR_INVALID);
    assert_int_equal(credentials_derive("x", 0, &c), ERR_INVALID);
    char big[1025];
    memset(big, 'x', 1024), big[1024] = 0;
    assert_int_equal(credentials_derive(big, 1, &c), ERR_INVALID);
    assert_int_equal(credentials_derive(big + 1, 1, &c), OK);
}

static void test_fake(void **state)
{
    (void)state;
    uint8_t secret[32] = "secret";
    struct scram_keys a, b, c;
    scram_fake(SCRAM_SHA256, secret, "romeo", 4096, &a);
    scram_fake(SCRAM_SHA256, secret, "romeo", 4096, &b);
    assert_memory_equal(a.salt, b.salt, SCRAM_SALT_LEN);
    assert_int_equal(a.iterations, 4096);
    scram_fake(SCRAM_SHA1, secret, "romeo", 4096, &b);
    assert_memory_not_equal(a.salt, b.salt, SCRAM_SALT_LEN);
    scram_fake(SCRAM_SHA256, secret, "julia", 4096, &c);
    assert_memory_not_equal(a.salt, c.salt, SCRAM_SALT_LEN);
    secret[0]++;
    scram_fake(SCRAM_SHA256, secret, "romeo", 4096, &c);
    assert_memory_not_equal(a.salt, c.salt, SCRAM_SALT_LEN);
}

static long decode(const char *s, size_t room)
{
    char out[64];
    return base64_decode(out, room, s, strlen(s));
}

/* RFC 4648 section 10 */
static void test_base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"},
                                           {"\xff\xef\xbe", "/+++"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char out[16];
        size_t n = strlen(pairs[i][0]);
        base64_encode(out, pairs[i][0], n);
        assert_string_equal(out, pairs[i][1]);
        assert_int_equal(base64_decode(out, n, pairs[i][1], strlen(pairs[i][1])), n);
        assert_memory_equal(out, pairs[i][0], n);
    }
    assert_int_equal(decode("Zm9v", 2), -1); /* no room */
    const char *bad[] = {"Z",        "Zg",   "Zg=",   "Zh==", "Zm9=", "====", "Z===",
                         "Zg==Zg==", "Zm 9", "Zm9\n", "Zm-_", "=Zm9", "Zg=a", "Zm9v\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(decode(bad[i], 64), -1);
    assert_int_equal(base64_decode((char[8]){0}, 8, "Zm\0v", 4), -1);
}

static void test_token(void **state)
{
    (void)state;
    for (size_t n = 0; n < 40; n++) {
        char *out = malloc(n * 4 / 3 + 2); /* ASan watches the promised room */
        random_token(out, n);
        assert_int_equal(strlen(out), (n * 8 + 5) / 6);
        assert_int_equal(strspn(out, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), strlen(out));
        free(out);
    }
    char a[32], b[32];
    random_token(a, 16), random_token(b, 16);
    assert_string_not_equal(a, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors), cmocka_unit_test(test_rfc7677_password), cmocka_unit_test(test_derive),
        cmocka_unit_test(test_fake),    cmocka_unit_test(test_base64),           cmocka_unit_test(test_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
