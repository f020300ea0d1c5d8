#include "client_auth.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SASL "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"

struct client_auth {
    char nonce[32];
    char message[512]; /* RFC 5802's AuthMessage, as far as it is known */
};

static const char *const mechanism_names[] = {"SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN"};

static const EVP_MD *digest(const struct client *c)
{
    return c->config->mechanism == SCRAM_SHA_256 ? EVP_sha256() : EVP_sha1();
}

static int digest_len(const struct client *c)
{
    return EVP_MD_get_size(digest(c));
}

static void hmac(const struct client *c, const unsigned char *key, const char *text, unsigned char *out)
{
    HMAC(digest(c), key, digest_len(c), (const unsigned char *)text, strlen(text), out, NULL);
}

static void encode(char *out, const void *data, size_t len)
{
    EVP_EncodeBlock((unsigned char *)out, data, (int)len);
}

bool auth_offered(const struct client *c, const char *features)
{
    char tag[32];
    snprintf(tag, sizeof tag, ">%s<", mechanism_names[c->config->mechanism]);
    return strstr(features, tag);
}

void auth_start(struct client *c, char *out)
{
    char plain[400], coded[560];
    int n;
    if (c->config->mechanism == PLAIN) {
        n = snprintf(plain, sizeof plain, "%cuser%u%c%s", 0, c->user, 0, c->config->password);
    } else {
        unsigned char random[18];
        if (!c->auth)
            c->auth = malloc(sizeof *c->auth);
        if (!c->auth || RAND_bytes(random, sizeof random) != 1)
            abort();
        encode(c->auth->nonce, random, sizeof random);
        snprintf(c->auth->message, sizeof c->auth->message, "n=user%u,r=%s", c->user, c->auth->nonce);
        n = snprintf(plain, sizeof plain, "n,,%s", c->auth->message);
    }
    encode(coded, plain, n < (int)sizeof plain ? (size_t)n : sizeof plain - 1);
    snprintf(out, AUTH_TEXT, "<auth " SASL " mechanism='%s'>%s</auth>", mechanism_names[c->config->mechanism], coded);
}

/* The base64 text of an element, decoded into out and terminated; its length, -1 if there is none that fits. */
static int decode_text(const char *xml, char *out, size_t size)
{
    const char *from = strchr(xml, '>');
    const char *to = from ? strchr(++from, '<') : NULL;
    if (!to || to == from || (size_t)(to - from) / 4 * 3 >= size)
        return -1;
    int n = EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)from, (int)(to - from));
    if (n < 0)
        return -1;
    n -= (to[-1] == '=') + (to[-2] == '=');
    out[n] = 0;
    return n;
}

/* Into the user's key, unless it is there for this salt and count already. */
static bool salted_password(struct client *c, const char *salt64, const char *count)
{
    char tag[sizeof c->key->salt_and_count];
    unsigned char salt[64];
    if ((size_t)snprintf(tag, sizeof tag, "%s,%s", salt64, count) >= sizeof tag || strlen(salt64) % 4)
        return false;
    if (strcmp(tag, c->key->salt_and_count) == 0)
        return true;
    int n = EVP_DecodeBlock(salt, (const unsigned char *)salt64, (int)strlen(salt64));
    for (const char *p = salt64 + strlen(salt64); n > 0 && p > salt64 && p[-1] == '='; p--)
        n--;
    if (n <= 0 || atoi(count) < 1 ||
        PKCS5_PBKDF2_HMAC(c->config->password, -1, salt, n, atoi(count), digest(c), digest_len(c),
                          c->key->salted_password) != 1)
        return false;
    memcpy(c->key->salt_and_count, tag, sizeof tag);
    return true;
}

/* The client-final-message with its proof; server is the server-first-message, r its nonce. */
static void final_message(struct client *c, const char *server, const char *r, char *out, size_t size)
{
    unsigned char key[EVP_MAX_MD_SIZE], stored[EVP_MAX_MD_SIZE], proof[EVP_MAX_MD_SIZE];
    char proof64[EVP_MAX_MD_SIZE * 2];
    struct client_auth *a = c->auth;
    size_t len = strlen(a->message);
    snprintf(out, size, "c=biws,%s", r);
    snprintf(a->message + len, sizeof a->message - len, ",%s,%s", server, out);
    hmac(c, c->key->salted_password, "Client Key", key);
    EVP_Digest(key, (size_t)digest_len(c), stored, NULL, digest(c), NULL);
    hmac(c, stored, a->message, proof);
    for (int i = 0; i < digest_len(c); i++)
        proof[i] ^= key[i];
    encode(proof64, proof, (size_t)digest_len(c));
    len = strlen(out);
    snprintf(out + len, size - len, ",p=%s", proof64);
}

const char *auth_challenge(struct client *c, const char *xml, char *out)
{
    char server[280], fields[280], final[400], coded[560];
    char *r = fields, *s, *i;
    if (decode_text(xml, server, sizeof server) < 0 || strncmp(server, "r=", 2) ||
        strncmp(server + 2, c->auth->nonce, strlen(c->auth->nonce)) || !(s = strstr(strcpy(fields, server), ",s=")) ||
        !(i = strstr(s + 3, ",i=")))
        return "bad SCRAM challenge";
    *s = *i = 0;
    if (!salted_password(c, s + 3, i + 3))
        return "bad SCRAM salt or count";
    final_message(c, server, r, final, sizeof final);
    encode(coded, final, strlen(final));
    snprintf(out, AUTH_TEXT, "<response " SASL ">%s</response>", coded);
    return NULL;
}

bool auth_success(struct client *c, const char *xml)
{
    char text[128], expect[EVP_MAX_MD_SIZE * 2];
    unsigned char key[EVP_MAX_MD_SIZE], signature[EVP_MAX_MD_SIZE];
    if (c->config->mechanism == PLAIN)
        return true;
    hmac(c, c->key->salted_password, "Server Key", key);
    hmac(c, key, c->auth->message, signature);
    encode(expect, signature, (size_t)digest_len(c));
    return decode_text(xml, text, sizeof text) > 0 && strncmp(text, "v=", 2) == 0 && strcmp(text + 2, expect) == 0;
}
