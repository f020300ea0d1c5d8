/*
 * SCRAM keys (RFC 5802, 7677): derived from a password once, stored, and all that a login needs.
 * The password itself is never stored. Derivation is slow on purpose: call it from the blocking pool only.
 */
#ifndef ROOKERY_SCRAM_H
#define ROOKERY_SCRAM_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum scram_hash { SCRAM_SHA1, SCRAM_SHA256, SCRAM_SHA512, SCRAM_HASHES };

enum { SCRAM_SALT_LEN = 16, SCRAM_KEY_MAX = 64, SCRAM_ITERATIONS = 10000 };

struct scram_keys {
    uint32_t iterations; /* 0: no keys for this hash */
    uint8_t salt[SCRAM_SALT_LEN];
    uint8_t stored[SCRAM_KEY_MAX], server[SCRAM_KEY_MAX]; /* scram_len bytes each */
};

/* What an account keeps: one set per hash. */
struct credentials {
    struct scram_keys keys[SCRAM_HASHES];
};

size_t scram_len(enum scram_hash h);       /* 20, 32, 64 */
const char *scram_name(enum scram_hash h); /* "SHA-1", ... as in the mechanism's name */

/* Prepares the password (PRECIS OpaqueString, RFC 8265) and derives all three sets with fresh salts.
 * ERR_INVALID: the password is empty or not allowed. Blocks (about 15 ms for 10,000 iterations). */
enum err credentials_derive(const char *password, uint32_t iterations, struct credentials *out) WARN_UNUSED;
/* From the SaltedPassword of RFC 5802, scram_len bytes; k has salt and iterations. */
void scram_keys_make(enum scram_hash h, const uint8_t *salted, struct scram_keys *k);
/* Does this password give these keys? Constant time in the keys. Blocks. */
bool scram_verify(enum scram_hash h, const struct scram_keys *k, const char *password);
/* Keys for a user that does not exist: salt by HMAC(secret, name), so that asking twice looks the same; nothing fits
 * them. */
void scram_fake(enum scram_hash h, const uint8_t secret[32], const char *name, uint32_t iterations,
                struct scram_keys *out);

/* 2^-128 guessable text token: n random bytes as base64url without padding; out has room for n * 4 / 3 + 2. */
void random_token(char *out, size_t n);
void random_bytes(void *out, size_t n);
bool equal_const_time(const void *a, const void *b, size_t n);

/* Strict base64 (RFC 4648 section 4, padding required, no white space). Returns bytes written or -1. */
long base64_decode(void *out, size_t room, const char *in, size_t n);
/* out has room for (n + 2) / 3 * 4 + 1. */
void base64_encode(char *out, const void *in, size_t n);

#endif
