/*
 * SASL before anybody is known: byte 0 picks mechanism and binding, then messages separated by a newline.
 * No input may succeed: the keys fit no password, no token is known, and who is refused stays refused.
 */
#include "sasl.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum sasl_status answer(struct sasl *s, enum sasl_status r, bool known)
{
    struct scram_keys keys;
    if (r == SASL_NEED_KEYS) {
        CHECK(sasl_user(s) && sasl_user(s)->local_len && jid_is_bare(sasl_user(s)), "user");
        CHECK(jid_domain_is(sasl_user(s), "example.com"), "domain");
        scram_fake(sasl_hash(s), (const uint8_t[32]){0}, "x", 1, &keys);
        r = sasl_keys(s, &keys, known);
    }
    if (r == SASL_NEED_TOKEN) {
        struct sasl_token t = sasl_token(s);
        CHECK(sasl_user(s)->local_len && t.proof_len == 32 && t.binding_len <= 32, "token");
        r = sasl_token_checked(s, known ? ERR_NOT_FOUND : ERR_CLOSED, NULL, 0);
    }
    if (r == SASL_NEED_HOME) {
        CHECK(sasl_user(s)->local_len && jid_is_bare(sasl_user(s)) && jid_domain_is(sasl_user(s), "example.com"),
              "user");
        r = sasl_home_checked(s, ERR_NOT_FOUND);
    }
    if (r == SASL_NEED_HASHING) {
        sasl_hashing(s);
        r = sasl_hashed(s);
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct sasl_binding binding = {true, "exporter", 32, "end point", 32};
    if (!size)
        return 0;
    unsigned offered = data[0] & 0x80 ? ~0u : 1u << data[0] % SASL_MECHS;
    if (data[0] % SASL_MECHS == SASL_ANONYMOUS)
        return 0; /* lets everybody in */
    struct sasl *s = sasl_new(data[0] % SASL_MECHS, offered, &binding, "example.com");
    bool failed = false;
    for (const uint8_t *p = data + 1, *end = data + size; p < end;) {
        const uint8_t *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p), out;
        enum sasl_status r = answer(s, sasl_step(s, p, n), data[0] & 0x40);
        CHECK(r == SASL_CONTINUE || r == SASL_FAILURE, "status %d", (int)r);
        CHECK(!failed || r == SASL_FAILURE, "recovered");
        failed = r == SASL_FAILURE;
        const void *text = sasl_out(s, &out);
        CHECK(failed ? !out : out && !memcmp(text, "r=", 2), "out");
        p += n + 1;
    }
    sasl_free(&s);
    return 0;
}
