#include "tls.h"

#include "hash.h"
#include "list.h"
#include "log.h"
#include "tls_ssl.h"

#include <errno.h>
#include <idn2.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Mozilla's "intermediate" list. */
static const char ciphers_12[] =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305";
static const char ciphers_13[] = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
static const char groups[] = "X25519:P-256:P-384";
static const char alpn_client[] = "xmpp-client"; /* XEP-0368 */

enum { NAME_MAX_BYTES = 253 };

struct host {
    struct hash_node node; /* in tls.hosts by name */
    char *name;            /* A-labels, lower case, no dot at the end */
    SSL_CTX *ctx;
    uint8_t end_point[64]; /* RFC 5929 tls-server-end-point of the certificate, asked for at every login */
    size_t end_point_len;
};

struct tls {
    atomic_uint refs;
    struct hash_table hosts;
    SSL_CTX *fallback; /* of the first host */
};

static const struct log tls_log = {.kind = "tls"};

const char *tls_error(void)
{
    unsigned long e = ERR_get_error();
    ERR_clear_error();
    const char *reason = e ? ERR_reason_error_string(e) : NULL;
    return reason ? reason : "unknown error";
}

/* Names are compared in one form: A-labels in lower case. False: not a host name. */
static bool fold_name(const char *in, char out[NAME_MAX_BYTES + 1])
{
    size_t n = strlen(in);
    if (n && in[n - 1] == '.')
        n--;
    if (!n || n > NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < n; i++) {
        bool upper = in[i] >= 'A' && in[i] <= 'Z';
        out[i] = upper ? (char)(in[i] | 0x20) : in[i];
        if (!upper && !(in[i] >= 'a' && in[i] <= 'z') && !(in[i] >= '0' && in[i] <= '9') && !strchr(".-_", in[i]))
            return false;
    }
    out[n] = 0;
    return true;
}

static struct host *host_find(const struct tls *t, const char *name)
{
    struct hash_node *n = hash_find(&t->hosts, hash_seeded(name, strlen(name)));
    for (; n; n = hash_next(n)) {
        struct host *h = container_of(n, struct host, node);
        if (!strcmp(h->name, name))
            return h;
    }
    return NULL;
}

static int on_sni(SSL *s, int *alert, void *arg)
{
    (void)alert;
    const char *asked = SSL_get_servername(s, TLSEXT_NAMETYPE_host_name);
    char name[NAME_MAX_BYTES + 1];
    struct host *h = asked && fold_name(asked, name) ? host_find(arg, name) : NULL;
    if (!h)
        return SSL_TLSEXT_ERR_NOACK; /* the first host's certificate: the client decides whether it likes it */
    SSL_set_SSL_CTX(s, h->ctx);
    return SSL_TLSEXT_ERR_OK;
}

/* RFC 7301 §3.2: a list without overlap ends the handshake; this also stops cross-protocol attacks (ALPACA). */
static int on_alpn(SSL *s, const unsigned char **out, unsigned char *outlen, const unsigned char *in, unsigned n,
                   void *arg)
{
    (void)s;
    (void)arg;
    const unsigned len = sizeof alpn_client - 1;
    for (unsigned i = 0; i < n && in[i] < n - i; i += 1 + in[i])
        if (in[i] == len && !memcmp(in + i + 1, alpn_client, len)) {
            *out = in + i + 1;
            *outlen = (unsigned char)len;
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* Without it OpenSSL would ask for a passphrase on the terminal. */
static int no_passphrase(char *out, int size, int writing, void *arg)
{
    (void)out, (void)size, (void)writing, (void)arg;
    return -1;
}

static SSL_CTX *ctx_new(struct tls *t)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    CHECK(ctx, "SSL_CTX_new: %s", tls_error());
    SSL_CTX_set_security_level(ctx, 2);
    bool good = SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) && SSL_CTX_set_max_proto_version(ctx, 0) &&
                SSL_CTX_set_cipher_list(ctx, ciphers_12) && SSL_CTX_set_ciphersuites(ctx, ciphers_13) &&
                SSL_CTX_set1_groups_list(ctx, groups) && SSL_CTX_set_dh_auto(ctx, 1) &&
                SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"rookery", 7);
    CHECK(good, "TLS defaults: %s", tls_error());
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* No resumption: XMPP clients hardly use it, a ticket costs CPU at every login, and its key would have to be shared
     * by the nodes of a cluster. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    SSL_CTX_set_tlsext_servername_callback(ctx, on_sni);
    SSL_CTX_set_tlsext_servername_arg(ctx, t);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    return ctx;
}

static char *text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *text(const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    CHECK(n >= 0, "text");
    return s;
}

static bool readable(const char *what, const char *path, char **why)
{
    if (path && !access(path, R_OK))
        return true;
    *why = text("%s %s: %s", what, path ? path : "(none)", path ? strerror(errno) : "not configured");
    return false;
}

static bool load_files(SSL_CTX *ctx, const struct tls_host *h, char **why)
{
    if (!readable("certificate", h->certificate, why) || !readable("key", h->key, why))
        return false;
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(ctx, h->certificate) != 1) {
        *why = text("certificate %s: %s", h->certificate, tls_error());
        return false;
    }
    bool loaded = SSL_CTX_use_PrivateKey_file(ctx, h->key, SSL_FILETYPE_PEM) == 1;
    if (loaded && SSL_CTX_check_private_key(ctx) == 1)
        return true;
    if (loaded || ERR_GET_LIB(ERR_peek_error()) == ERR_LIB_X509) /* "key values mismatch" */
        *why = text("key %s does not belong to certificate %s", h->key, h->certificate);
    else
        *why = text("key %s: %s", h->key, tls_error());
    ERR_clear_error();
    return false;
}

/* What an operator wants to know but no reason to refuse to start. */
static void warn_about(const struct tls_host *h, const char *name, SSL_CTX *ctx)
{
    X509 *x = SSL_CTX_get0_certificate(ctx);
    const char *trouble = NULL;
    if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
        trouble = "expired";
    else if (X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
        trouble = "not valid yet";
    else if (X509_check_host(x, name, 0, 0, NULL) != 1)
        trouble = "not for this domain";
    if (trouble)
        log_warn(&tls_log, "certificate", "domain", h->domain, "file", h->certificate, "trouble", trouble);
}

static size_t end_point(SSL_CTX *ctx, uint8_t out[64])
{
    X509 *x = SSL_CTX_get0_certificate(ctx);
    int nid = NID_undef;
    if (!x || !X509_get_signature_info(x, &nid, NULL, NULL, NULL) || nid == NID_undef)
        return 0; /* RFC 5929 §4.1: undefined for signatures without a hash of their own (Ed25519) */
    if (nid == NID_md5 || nid == NID_sha1)
        nid = NID_sha256;
    unsigned n = 0;
    uint8_t digest[EVP_MAX_MD_SIZE];
    const EVP_MD *md = EVP_get_digestbynid(nid);
    if (!md || !X509_digest(x, md, digest, &n) || n > 64)
        return 0;
    memcpy(out, digest, n);
    return n;
}

/* Whether it is good enough is asked at login, not here. */
static int accept_any(int good, X509_STORE_CTX *x)
{
    (void)good, (void)x;
    return 1;
}

static bool ask_client(SSL_CTX *ctx, const struct tls_host *h, char **why)
{
    if (!h->ask_client)
        return true;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, accept_any);
    if (!h->client_ca)
        return true;
    ERR_clear_error();
    /* Their names are not sent: clients with certificates of their own making would not present those. */
    if (SSL_CTX_load_verify_file(ctx, h->client_ca) == 1)
        return true;
    *why = text("authorities %s: %s", h->client_ca, tls_error());
    return false;
}

static enum err host_add(struct tls *t, const struct tls_host *h, char **why)
{
    char *ascii = NULL, name[NAME_MAX_BYTES + 1];
    int r = idn2_lookup_u8((const uint8_t *)h->domain, (uint8_t **)&ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    bool named = r == IDN2_OK && fold_name(ascii, name);
    idn2_free(ascii);
    if (!named) {
        *why = text("domain %s: %s", h->domain, r == IDN2_OK ? "not a host name" : idn2_strerror(r));
        return ERR_INVALID;
    }
    if (host_find(t, name)) {
        *why = text("domain %s: listed twice", h->domain);
        return ERR_INVALID;
    }
    SSL_CTX *ctx = ctx_new(t);
    if (!load_files(ctx, h, why) || !ask_client(ctx, h, why)) {
        SSL_CTX_free(ctx);
        return ERR_INVALID;
    }
    warn_about(h, name, ctx);
    struct host *e = xcalloc(1, sizeof *e);
    e->name = xstrdup(name);
    e->ctx = ctx;
    e->end_point_len = end_point(ctx, e->end_point);
    SSL_CTX_set_app_data(ctx, e);
    hash_insert(&t->hosts, &e->node, hash_seeded(name, strlen(name)));
    if (!t->fallback)
        t->fallback = ctx;
    return OK;
}

enum err tls_new(const struct tls_host *hosts, size_t n, struct tls **out, char **why)
{
    *out = NULL;
    *why = NULL;
    struct tls *t = xcalloc(1, sizeof *t);
    atomic_init(&t->refs, 1);
    enum err e = OK;
    for (size_t i = 0; i < n && e == OK; i++)
        e = host_add(t, &hosts[i], why);
    if (e == OK && !n) {
        *why = text("no host with a certificate");
        e = ERR_INVALID;
    }
    if (e == OK)
        *out = t;
    else
        tls_unref(&t);
    return e;
}

struct tls *tls_ref(struct tls *t)
{
    atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    return t;
}

void tls_unref(struct tls **tp)
{
    struct tls *t = *tp;
    *tp = NULL;
    if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
        return;
    hash_for_each (n, &t->hosts) {
        struct host *h = container_of(n, struct host, node);
        SSL_CTX_free(h->ctx);
        free(h->name);
        free(h);
    }
    hash_free(&t->hosts);
    free(t);
}

SSL *tls_ssl_new(struct tls *t)
{
    SSL *s = SSL_new(t->fallback);
    CHECK(s, "SSL_new: %s", tls_error());
    SSL_set_accept_state(s);
    return s;
}

/* Setting a type, if only the one it has, frees the key that was there. */
static void wipe(EVP_PKEY *k)
{
    if (!EVP_PKEY_set_type(k, EVP_PKEY_get_id(k)))
        ERR_clear_error();
    EVP_PKEY_free(k);
}

void tls_ssl_forget_exchange(SSL *s)
{
    EVP_PKEY *k = NULL;
    if (SSL_get_tmp_key(s, &k))
        wipe(k);
    if (SSL_get_peer_tmp_key(s, &k))
        wipe(k);
}

const char *tls_ssl_alpn(const SSL *s)
{
    const unsigned char *p;
    unsigned n;
    SSL_get0_alpn_selected(s, &p, &n);
    return n ? alpn_client : NULL; /* the only one on_alpn selects */
}

void tls_ssl_host(SSL *s, struct tls *t, const char *domain)
{
    char name[NAME_MAX_BYTES + 1];
    struct host *h = fold_name(domain, name) ? host_find(t, name) : NULL;
    if (h)
        SSL_set_SSL_CTX(s, h->ctx);
}

size_t tls_ssl_exporter(SSL *s, uint8_t out[32])
{
    static const char label[] = "EXPORTER-Channel-Binding";
    /* RFC 9266 §3: before TLS 1.3 only the extended master secret makes the value unique to the connection. */
    if (SSL_version(s) < TLS1_3_VERSION && SSL_get_extms_support(s) != 1)
        return 0;
    if (!out)
        return 32;
    /* The context is the empty string, which TLS 1.2 tells from none (RFC 5705 §4). */
    bool good = SSL_export_keying_material(s, out, 32, label, sizeof label - 1, (const unsigned char *)"", 0, 1) == 1;
    return good ? 32 : 0;
}

size_t tls_ssl_unique(SSL *s, uint8_t out[64])
{
    if (SSL_version(s) < TLS1_3_VERSION && SSL_get_extms_support(s) != 1)
        return 0;
    size_t n = SSL_session_reused(s) ? SSL_get_finished(s, out, 64) : SSL_get_peer_finished(s, out, 64);
    return n <= 64 ? n : 0;
}

bool tls_ssl_peer(SSL *s, struct certificate *out)
{
    X509 *x = SSL_get1_peer_certificate(s);
    bool good = x && certificate_of(x, out);
    if (good)
        out->trusted = SSL_get_verify_result(s) == X509_V_OK;
    X509_free(x);
    return good;
}

size_t tls_ssl_end_point(const SSL *s, uint8_t out[64])
{
    const struct host *h = SSL_CTX_get_app_data(SSL_get_SSL_CTX(s));
    memcpy(out, h->end_point, h->end_point_len);
    return h->end_point_len;
}
