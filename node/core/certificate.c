#include "certificate.h"

#include "err.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string.h>

#define XMPP_ADDR "1.3.6.1.5.5.7.8.5"

static bool is_xmpp_addr(const GENERAL_NAME *g)
{
    char oid[64];
    return g->type == GEN_OTHERNAME && OBJ_obj2txt(oid, sizeof oid, g->d.otherName->type_id, 1) > 0 &&
           !strcmp(oid, XMPP_ADDR);
}

/* jid_parse refuses what has a NUL in it. */
static bool add_jid(struct certificate *c, const OTHERNAME *o)
{
    if (c->jid_count == CERTIFICATE_JIDS_MAX || o->value->type != V_ASN1_UTF8STRING)
        return false;
    const ASN1_STRING *s = o->value->value.utf8string;
    const struct jid *j = jid_parse(NULL, (const char *)ASN1_STRING_get0_data(s), (size_t)ASN1_STRING_length(s));
    if (!j)
        return false;
    c->jids[c->jid_count++] = j;
    return true;
}

static bool read_names(X509 *x, struct certificate *c)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    bool good = true;
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && good; i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        good = !is_xmpp_addr(g) || add_jid(c, g->d.otherName);
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    return good;
}

bool certificate_of(struct x509_st *x, struct certificate *out)
{
    unsigned n = 0;
    *out = (struct certificate){0};
    CHECK(X509_digest(x, EVP_sha256(), out->hash, &n) == 1 && n == sizeof out->hash, "digest");
    out->current =
        X509_cmp_current_time(X509_get0_notBefore(x)) < 0 && X509_cmp_current_time(X509_get0_notAfter(x)) > 0;
    if (read_names(x, out))
        return true;
    certificate_clear(out);
    return false;
}

bool certificate_parse(const void *der, size_t n, struct certificate *out)
{
    const unsigned char *p = der, *end = p + n;
    X509 *x = d2i_X509(NULL, &p, (long)n);
    bool good = x && p == end && certificate_of(x, out);
    X509_free(x);
    ERR_clear_error();
    return good;
}

void certificate_clear(struct certificate *c)
{
    while (c->jid_count)
        jid_free(&c->jids[--c->jid_count]);
}
