#include "net_test.h"

#include "tls_ssl.h"

#include <sys/stat.h>

/* Handshakes in memory: both sides in this thread. */
struct pair {
    SSL_CTX *ctx;
    SSL *client, *server;
};

static bool handshake(struct pair *p, struct tls *t, struct client_options o)
{
    *p = (struct pair){.ctx = SSL_CTX_new(TLS_client_method()), .server = tls_ssl_new(t)};
    SSL_CTX_set_min_proto_version(p->ctx, o.min);
    SSL_CTX_set_max_proto_version(p->ctx, o.max);
    p->client = SSL_new(p->ctx);
    SSL_set_connect_state(p->client);
    if (o.sni)
        SSL_set_tlsext_host_name(p->client, o.sni);
    if (o.alpn)
        SSL_set_alpn_protos(p->client, (const unsigned char *)o.alpn, (unsigned)strlen(o.alpn));
    BIO *a, *b;
    BIO_new_bio_pair(&a, 65536, &b, 65536);
    SSL_set_bio(p->client, a, a);
    SSL_set_bio(p->server, b, b);
    int c = 0, s = 0;
    for (int i = 0; i < 10 && !(c == 1 && s == 1); i++) {
        c = SSL_do_handshake(p->client);
        s = SSL_do_handshake(p->server);
    }
    return c == 1 && s == 1;
}

static void pair_free(struct pair *p)
{
    SSL_free(p->client);
    SSL_free(p->server);
    SSL_CTX_free(p->ctx);
    ERR_clear_error();
}

/* The domain of the certificate that sni brings. */
static void check_sni(struct tls *t, const char *sni, const char *domain)
{
    struct pair p;
    assert_true(handshake(&p, t, (struct client_options){.sni = sni}));
    X509 *x = SSL_get1_peer_certificate(p.client);
    char name[256] = "";
    X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, name, sizeof name);
    X509_free(x);
    assert_string_equal(name, domain);
    pair_free(&p);
}

static void test_sni(void **state)
{
    (void)state;
    make_p256("one", "one.example");
    make_p256("two", "two.example");
    make_p256("idn", "xn--bcher-kva.example");
    struct tls_host hosts[] = {
        {"one.example", in_dir("one.crt"), in_dir("one.key")},
        {"Two.Example", in_dir("two.crt"), in_dir("two.key")},
        {"bücher.example", in_dir("idn.crt"), in_dir("idn.key")},
    };
    struct tls *t;
    char *why;
    assert_int_equal(tls_new(hosts, 3, &t, &why), OK);
    assert_null(why);
    check_sni(t, NULL, "one.example");
    check_sni(t, "one.example", "one.example");
    check_sni(t, "two.example", "two.example");
    check_sni(t, "TWO.exAMPLE", "two.example");
    check_sni(t, "two.example.", "two.example");
    check_sni(t, "xn--bcher-kva.example", "xn--bcher-kva.example");
    check_sni(t, "unknown.example", "one.example");
    struct tls *other = tls_ref(t);
    tls_unref(&t);
    check_sni(other, "two.example", "two.example");
    tls_unref(&other);
    assert_null(other);
}

static void test_alpn(void **state)
{
    (void)state;
    struct tls *t = make_tls("alpn", "example.org");
    struct pair p;
    assert_true(handshake(&p, t, (struct client_options){0}));
    assert_null(tls_ssl_alpn(p.server));
    pair_free(&p);
    assert_true(handshake(&p, t, (struct client_options){.alpn = "\x08http/1.1\x0bxmpp-client"}));
    assert_string_equal(tls_ssl_alpn(p.server), "xmpp-client");
    pair_free(&p);
    assert_false(handshake(&p, t, (struct client_options){.alpn = "\x08http/1.1\x0axmpp-clien"}));
    bool alerted = false;
    for (unsigned long e; (e = ERR_get_error());)
        alerted |= ERR_GET_REASON(e) == SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL;
    assert_true(alerted);
    pair_free(&p);
    tls_unref(&t);
}

static void test_no_resumption(void **state)
{
    (void)state;
    struct tls *t = make_tls("ticket", "example.org");
    struct pair p;
    assert_true(handshake(&p, t, (struct client_options){.max = TLS1_2_VERSION}));
    SSL_SESSION *s = SSL_get1_session(p.client);
    assert_false(SSL_SESSION_has_ticket(s));
    SSL_SESSION_free(s);
    assert_int_equal(SSL_CTX_sess_number(SSL_get_SSL_CTX(p.server)), 0); /* nothing is kept here */
    pair_free(&p);
    tls_unref(&t);
}

static void check_end_point(EVP_PKEY *key, const EVP_MD *sign, const EVP_MD *expected)
{
    make_cert("end", "example.org", key, sign, -60, 3600);
    EVP_PKEY_free(key);
    struct tls *t;
    char *why;
    struct tls_host host = {"example.org", in_dir("end.crt"), in_dir("end.key")};
    assert_int_equal(tls_new(&host, 1, &t, &why), OK);
    struct pair p;
    assert_true(handshake(&p, t, (struct client_options){0}));
    uint8_t mine[64], theirs[64];
    unsigned n = 0;
    if (expected) {
        X509 *x = SSL_get1_peer_certificate(p.client);
        X509_digest(x, expected, theirs, &n);
        X509_free(x);
    }
    assert_int_equal(tls_ssl_end_point(p.server, mine), n);
    assert_memory_equal(mine, theirs, n);
    pair_free(&p);
    tls_unref(&t);
}

static void test_end_point(void **state)
{
    (void)state;
    check_end_point(EVP_EC_gen("P-256"), EVP_sha256(), EVP_sha256());
    check_end_point(EVP_EC_gen("P-256"), EVP_sha384(), EVP_sha384());
    check_end_point(EVP_EC_gen("P-256"), EVP_sha512(), EVP_sha512());
    check_end_point(EVP_EC_gen("P-256"), EVP_sha1(), EVP_sha256()); /* RFC 5929 §4.1 */
    check_end_point(EVP_RSA_gen(2048), EVP_sha384(), EVP_sha384());
    check_end_point(EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), NULL, NULL);
}

static void check_refused(const char *domain, const char *crt, const char *key, const char *text)
{
    struct tls *t = (struct tls *)1;
    char *why = NULL;
    struct tls_host host = {domain, crt, key};
    assert_int_equal(tls_new(&host, 1, &t, &why), ERR_INVALID);
    assert_null(t);
    assert_non_null(why);
    if (!strstr(why, text))
        fail_msg("\"%s\" does not say \"%s\"", why, text);
    free(why);
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(in_dir(name), "w");
    fputs(text, f);
    fclose(f);
}

static void test_what_is_wrong(void **state)
{
    (void)state;
    make_p256("good", "example.org");
    make_p256("other", "example.org");
    EVP_PKEY *rsa = EVP_RSA_gen(2048), *weak = EVP_RSA_gen(1024);
    make_cert("rsa", "example.org", rsa, EVP_sha256(), -60, 3600);
    make_cert("weak", "example.org", weak, EVP_sha256(), -60, 3600);
    FILE *f = fopen(in_dir("locked.key"), "w");
    PEM_write_PKCS8PrivateKey(f, rsa, EVP_aes_128_cbc(), "pw", 2, NULL, NULL);
    fclose(f);
    EVP_PKEY_free(rsa);
    EVP_PKEY_free(weak);
    write_file("garbage.crt", "nothing\n");
    write_file("garbage.key", "nothing\n");
    const char *crt = in_dir("good.crt"), *key = in_dir("good.key");
    check_refused("example.org", "/nonexistent.crt", key, "certificate /nonexistent.crt: No such file");
    check_refused("example.org", crt, "/nonexistent.key", "key /nonexistent.key: No such file");
    check_refused("example.org", crt, NULL, "not configured");
    check_refused("example.org", in_dir("garbage.crt"), key, "garbage.crt: no start line");
    check_refused("example.org", crt, in_dir("garbage.key"), "garbage.key: ");
    check_refused("example.org", crt, in_dir("other.key"), "does not belong to certificate");
    check_refused("example.org", crt, in_dir("rsa.key"), "does not belong to certificate");
    check_refused("example.org", in_dir("weak.crt"), in_dir("weak.key"), "ee key too small");
    check_refused("example.org", in_dir("rsa.crt"), in_dir("locked.key"), "locked.key: ");
    check_refused("exa mple", crt, key, "domain exa mple");
    check_refused("", crt, key, "domain ");
    struct tls_host twice[] = {{"example.org", crt, key}, {"EXAMPLE.org", crt, key}};
    struct tls *t;
    char *why;
    assert_int_equal(tls_new(twice, 2, &t, &why), ERR_INVALID);
    assert_string_equal(why, "domain EXAMPLE.org: listed twice");
    free(why);
    assert_int_equal(tls_new(NULL, 0, &t, &why), ERR_INVALID);
    free(why);
}

static void test_expired_is_only_a_warning(void **state)
{
    (void)state;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    make_cert("old", "example.org", key, EVP_sha256(), -7200, -3600);
    EVP_PKEY_free(key);
    struct tls *t;
    char *why;
    struct tls_host host = {"example.org", in_dir("old.crt"), in_dir("old.key")};
    assert_int_equal(tls_new(&host, 1, &t, &why), OK);
    assert_null(why);
    tls_unref(&t);
}

static void *take_and_drop(void *arg)
{
    for (int i = 0; i < 1000; i++) {
        struct tls *t = tls_ref(arg);
        tls_unref(&t);
    }
    struct tls *last = arg;
    tls_unref(&last);
    return NULL;
}

static void test_references_from_threads(void **state)
{
    (void)state;
    struct tls *t = make_tls("refs", "example.org");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, take_and_drop, tls_ref(t));
    tls_unref(&t);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sni),
        cmocka_unit_test(test_alpn),
        cmocka_unit_test(test_no_resumption),
        cmocka_unit_test(test_end_point),
        cmocka_unit_test(test_what_is_wrong),
        cmocka_unit_test(test_expired_is_only_a_warning),
        cmocka_unit_test(test_references_from_threads),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
