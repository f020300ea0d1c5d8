#include "scram.h"

#include "precis.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/random.h>

enum { PASSWORD_MAX = 1023 };

size_t scram_len(enum scram_hash h)
{
    static const size_t len[SCRAM_HASHES] = {20, 32, 64};
    return len[h];
}

const char *scram_name(enum scram_hash h)
{
    static const char *const name[SCRAM_HASHES] = {"SHA-1", "SHA-256", "SHA-512"};
    return name[h];
}

static const EVP_MD *scram_md(enum scram_hash h)
{
    return h == SCRAM_SHA1 ? EVP_sha1() : h == SCRAM_SHA256 ? EVP_sha256() : EVP_sha512();
}

static void hmac_text(enum scram_hash h, const uint8_t *key, const char *text, uint8_t *out)
{
    CHECK(HMAC(scram_md(h), key, (int)scram_len(h), (const uint8_t *)text, strlen(text), out, NULL), "HMAC");
}

/* RFC 5802 section 3 */
void scram_keys_make(enum scram_hash h, const uint8_t *salted, struct scram_keys *k)
{
    uint8_t client[SCRAM_KEY_MAX];
    hmac_text(h, salted, "Client Key", client);
    CHECK(EVP_Digest(client, scram_len(h), k->stored, NULL, scram_md(h), NULL) == 1, "digest");
    hmac_text(h, salted, "Server Key", k->server);
    OPENSSL_cleanse(client, sizeof client);
}

/* From the prepared password; k has salt and iterations. */
static void keys_derive(enum scram_hash h, const char *password, size_t n, struct scram_keys *k)
{
    uint8_t salted[SCRAM_KEY_MAX];
    size_t len = scram_len(h);
    CHECK(PKCS5_PBKDF2_HMAC(password, (int)n, k->salt, sizeof k->salt, (int)k->iterations, scram_md(h), (int)len,
                            salted) == 1,
          "PBKDF2");
    scram_keys_make(h, salted, k);
    OPENSSL_cleanse(salted, sizeof salted);
}

enum err credentials_derive(const char *password, uint32_t iterations, struct credentials *out)
{
    char prepared[PASSWORD_MAX];
    size_t n = precis_opaque(password, strlen(password), prepared, sizeof prepared);
    if (!n || !iterations || iterations > INT32_MAX)
        return ERR_INVALID;
    memset(out, 0, sizeof *out);
    for (enum scram_hash h = 0; h < SCRAM_HASHES; h++) {
        out->keys[h].iterations = iterations;
        random_bytes(out->keys[h].salt, SCRAM_SALT_LEN);
        keys_derive(h, prepared, n, &out->keys[h]);
    }
    OPENSSL_cleanse(prepared, sizeof prepared);
    return OK;
}

bool scram_verify(enum scram_hash h, const struct scram_keys *k, const char *password)
{
    char prepared[PASSWORD_MAX];
    size_t n = precis_opaque(password, strlen(password), prepared, sizeof prepared);
    if (!n || !k->iterations || k->iterations > INT32_MAX)
        return false;
    struct scram_keys mine = {.iterations = k->iterations};
    memcpy(mine.salt, k->salt, sizeof mine.salt);
    keys_derive(h, prepared, n, &mine);
    bool same = equal_const_time(mine.stored, k->stored, scram_len(h));
    OPENSSL_cleanse(prepared, sizeof prepared);
    OPENSSL_cleanse(&mine, sizeof mine);
    return same;
}

void scram_fake(enum scram_hash h, const uint8_t secret[32], const char *name, uint32_t iterations,
                struct scram_keys *out)
{
    uint8_t salt_key[SCRAM_KEY_MAX], salt[SCRAM_KEY_MAX];
    memset(out, 0, sizeof *out);
    out->iterations = iterations;
    /* Two steps: a real account's salts differ from hash to hash as well. */
    const char *label = scram_name(h);
    CHECK(HMAC(EVP_sha256(), secret, 32, (const uint8_t *)label, strlen(label), salt_key, NULL), "HMAC");
    hmac_text(SCRAM_SHA256, salt_key, name, salt);
    memcpy(out->salt, salt, sizeof out->salt);
    random_bytes(out->stored, scram_len(h));
    random_bytes(out->server, scram_len(h));
    OPENSSL_cleanse(salt_key, sizeof salt_key);
}

void random_bytes(void *out, size_t n)
{
    for (uint8_t *p = out; n;) {
        ssize_t got = getrandom(p, n, 0);
        CHECK(got > 0 || errno == EINTR, "getrandom: %d", errno);
        if (got > 0) {
            p += got;
            n -= (size_t)got;
        }
    }
}

bool equal_const_time(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}

/* ---- base64 ---- */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

long base64_decode(void *out, size_t room, const char *in, size_t n)
{
    if (n % 4)
        return -1;
    size_t pad = !n ? 0 : in[n - 1] != '=' ? 0 : in[n - 2] != '=' ? 1 : 2;
    size_t len = n / 4 * 3 - pad, at = 0;
    if (len > room)
        return -1;
    uint8_t *o = out;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int d = i < n - pad ? digit(in[i]) : 0;
        if (d < 0)
            return -1;
        bits = bits << 6 | (uint32_t)d;
        if (i % 4 == 3)
            for (int shift = 16; shift >= 0 && at < len; shift -= 8)
                o[at++] = (uint8_t)(bits >> shift);
    }
    /* What the padding cut off must be zero, or two texts would mean the same bytes. */
    return pad && bits & ((1u << (8 * pad)) - 1) ? -1 : (long)len;
}

void base64_encode(char *out, const void *in, size_t n)
{
    const uint8_t *p = in;
    for (; n; p += 3) {
        uint32_t bits = (uint32_t)p[0] << 16 | (n > 1 ? (uint32_t)p[1] << 8 : 0) | (n > 2 ? p[2] : 0u);
        *out++ = alphabet[bits >> 18];
        *out++ = alphabet[bits >> 12 & 63];
        *out++ = n > 1 ? alphabet[bits >> 6 & 63] : '=';
        *out++ = n > 2 ? alphabet[bits & 63] : '=';
        n -= n < 3 ? n : 3;
    }
    *out = 0;
}

void random_token(char *out, size_t n)
{
    while (n) {
        uint8_t raw[48]; /* whole groups of base64, and few system calls */
        char text[sizeof raw / 3 * 4 + 1];
        size_t take = n < sizeof raw ? n : sizeof raw, length = (take * 4 + 2) / 3;
        random_bytes(raw, take);
        base64_encode(text, raw, take);
        for (size_t i = 0; i < length; i++)
            *out++ = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
        n -= take;
    }
    *out = 0;
}
