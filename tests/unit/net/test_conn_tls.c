/* Connections: handshakes, and how TLS starts. */
#include "conn_test.h"

#include <malloc.h>

static void check_exporter(const struct client_options options, const char *info)
{
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->echo = true);
    struct client c = connect_tls(o, options);
    char in[2];
    SSL_write(c.ssl, "hi", 2);
    ssl_read_exactly(c.ssl, in, 2); /* with a session ticket unread the client's close would be a reset */
    struct answers a = ask(o);
    uint8_t exporter[32], hash[32];
    assert_int_equal(SSL_export_keying_material(c.ssl, exporter, 32, "EXPORTER-Channel-Binding", 24,
                                                (const unsigned char *)"", 0, 1),
                     1);
    assert_int_equal(a.exporter_len, 32);
    assert_memory_equal(a.exporter, exporter, 32);
    X509 *x = SSL_get1_peer_certificate(c.ssl);
    X509_digest(x, EVP_sha256(), hash, NULL);
    X509_free(x);
    assert_int_equal(a.end_point_len, 32);
    assert_memory_equal(a.end_point, hash, 32);
    assert_string_equal(a.info, info);
    assert_true(a.tls);
    client_free(&c);
    wait_for(o, o->closed_times == 1);
    assert_int_equal(GET(o, o->why), CONN_EOF);
    owner_free(o);
}

static void test_channel_bindings(void **state)
{
    (void)state;
    check_exporter((struct client_options){.min = TLS1_3_VERSION}, "TLSv1.3 TLS_AES_256_GCM_SHA384");
    check_exporter((struct client_options){.max = TLS1_2_VERSION}, "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384");
}

static void test_no_exporter_without_extended_master_secret(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    struct client c = client_new(o->client_fd, (struct client_options){.max = TLS1_2_VERSION});
    SSL_set_options(c.ssl, SSL_OP_NO_EXTENDED_MASTER_SECRET);
    assert_int_equal(SSL_connect(c.ssl), 1);
    wait_for(o, o->ready == 1);
    assert_int_equal(ask(o).exporter_len, 0);
    assert_int_equal(ask(o).end_point_len, 32);
    client_free(&c);
    owner_free(o);
}

static void test_old_tls_is_refused(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    struct client c = client_new(o->client_fd, (struct client_options){.max = TLS1_1_VERSION});
    assert_int_equal(SSL_connect(c.ssl), -1);
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
    ERR_clear_error();
    wait_for(o, o->closed_times == 1);
    assert_int_equal(GET(o, o->why), CONN_TLS_FAILED);
    client_free(&c);
    owner_free(o);
}

static void test_garbage_instead_of_hello(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    send_all(o->client_fd, "GET / HTTP/1.1\r\n\r\n", 18);
    wait_for(o, o->closed_times == 1);
    assert_int_equal(GET(o, o->why), CONN_TLS_FAILED);
    assert_int_equal(GET(o, o->bytes), 0);
    close(o->client_fd);
    owner_free(o);
}

static void test_renegotiation_is_refused(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->echo = true);
    struct client c = connect_tls(o, (struct client_options){.max = TLS1_2_VERSION});
    assert_int_equal(SSL_renegotiate(c.ssl), 1);
    assert_int_equal(SSL_do_handshake(c.ssl), -1);
    assert_int_equal(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
    ERR_clear_error();
    assert_int_equal(GET(o, o->ready), 1);
    client_free(&c);
    owner_free(o);
}

/* Everything in segments of one byte, both the handshake and the data. */
static void test_byte_by_byte(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->echo = true);
    struct client c = client_new(o->client_fd, (struct client_options){0});
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, out);
    int flags = 0;
    struct timeval soon = {.tv_usec = 2000};
    setsockopt(o->client_fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
    char in[4], one;
    bool connected = false, asked = false;
    for (size_t got = 0; got < 4;) {
        if (!connected)
            connected = SSL_do_handshake(c.ssl) == 1;
        else if (!asked)
            asked = SSL_write(c.ssl, "ping", 4) == 4;
        else {
            int r = SSL_read(c.ssl, in + got, (int)(4 - got));
            got += r > 0 ? (size_t)r : 0;
        }
        while (BIO_read(out, &one, 1) == 1)
            assert_int_equal(send(o->client_fd, &one, 1, flags), 1);
    }
    assert_memory_equal(in, "ping", 4);
    client_free(&c);
    owner_free(o);
}

/* Whoever vanishes mid-handshake: after each part of a ClientHello, by FIN and by RST. */
static void test_vanish_in_handshake(void **state)
{
    (void)state;
    for (int part = 0; part < 8; part++) {
        struct owner *o = open_with((struct setup){.tls = true});
        struct client c = client_new(dup(o->client_fd), (struct client_options){0});
        BIO *out = BIO_new(BIO_s_mem());
        SSL_set0_wbio(c.ssl, out);
        BIO_up_ref(out);
        SSL_set0_rbio(c.ssl, BIO_new(BIO_s_mem()));
        SSL_do_handshake(c.ssl);
        char *hello;
        long n = BIO_get_mem_data(out, &hello);
        send_all(o->client_fd, hello, (size_t)(n * (part / 2) / 3));
        sleep_ms(10);
        BIO_free(out);
        client_free(&c);
        if (part % 2)
            close_hard(o->client_fd);
        else
            close(o->client_fd);
        wait_for(o, o->closed_times == 1);
        /* a whole ClientHello is answered, and closing with the answer unread resets too */
        assert_int_equal(GET(o, o->why), part % 2 || part >= 6 ? CONN_RESET : CONN_EOF);
        assert_int_equal(GET(o, o->bytes), 0);
        assert_int_equal(GET(o, o->ready), 0);
        owner_free(o);
    }
}

/* OpenSSL's buffers for the handshake, 33 KiB, come with the end of a ClientHello: many may drip. */
static void test_half_hello(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    struct client c = client_new(dup(o->client_fd), (struct client_options){0});
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, out);
    SSL_do_handshake(c.ssl);
    char *hello, record;
    long n = BIO_get_mem_data(out, &hello);
    size_t before = mallinfo2().uordblks;
    send_all(o->client_fd, hello, (size_t)n - 1);
    sleep_ms(50);
    if (before) /* sanitizers have an allocator of their own */
        assert_true(mallinfo2().uordblks < before + 8 * 1024);
    send_all(o->client_fd, hello + n - 1, 1);
    read_exactly(o->client_fd, &record, 1);
    assert_int_equal(record, 22); /* ServerHello */
    if (before)
        assert_true(mallinfo2().uordblks > before + 16 * 1024);
    client_free(&c);
    owner_free(o);
}

/* The first record says that it is longer than any may be: nothing more is waited for. */
static void test_endless_hello(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    send_all(o->client_fd, "\x16\x03\x01\xff\xff", 5);
    wait_for(o, o->closed_times == 1);
    assert_int_equal(GET(o, o->why), CONN_TLS_FAILED);
    owner_free(o);
}

/* ---- STARTTLS ---- */

static void test_starttls(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->starttls = o->echo = true);
    send_all(o->client_fd, "<starttls/>", 11);
    char in[21];
    read_exactly(o->client_fd, in, 21);
    assert_memory_equal(in, "<starttls/><proceed/>", 21);
    struct client c = connect_tls(o, (struct client_options){0});
    assert_int_equal(SSL_write(c.ssl, "secret", 6), 6);
    ssl_read_exactly(c.ssl, in, 6);
    assert_memory_equal(in, "secret", 6);
    client_free(&c);
    owner_free(o);
}

/* What comes in clear after the request never is data: split at each byte of what follows. */
static void test_starttls_injection(void **state)
{
    (void)state;
    const char text[] = "<starttls/><iq/>";
    for (size_t split = 11; split < sizeof text - 1; split++) {
        struct owner *o = open_with((struct setup){0});
        SET(o, o->starttls = true);
        send_all(o->client_fd, text, split);
        wait_for(o, o->bytes == split);
        send_all(o->client_fd, text + split, sizeof text - 1 - split);
        if (sizeof text - 1 - split < 5) /* OpenSSL waits for a whole record header */
            send_all(o->client_fd, "xxxxx", 5);
        wait_for(o, o->closed_times == 1);
        assert_int_equal(GET(o, o->why), CONN_TLS_FAILED);
        assert_int_equal(GET(o, o->bytes), split);
        close(o->client_fd);
        owner_free(o);
    }
}

static void test_detection(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){0});
    SET(o, o->detect = true);
    struct client c = connect_tls(o, (struct client_options){0});
    SET(o, o->detect = false);
    SET(o, o->echo = true);
    SSL_write(c.ssl, "hello", 5);
    char in[5];
    ssl_read_exactly(c.ssl, in, 5);
    assert_memory_equal(in, "hello", 5);
    client_free(&c);
    owner_free(o);
}

/* A TLS 1.3 client may send data together with the end of its handshake. */
static void test_pause_in_ready_keeps_data(void **state)
{
    (void)state;
    struct owner *o = open_with((struct setup){.tls = true});
    SET(o, o->pause_in_ready = true);
    struct client c = client_new(o->client_fd, (struct client_options){.min = TLS1_3_VERSION});
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set0_wbio(c.ssl, out);
    BIO *in = SSL_get_rbio(c.ssl);
    BIO_up_ref(in);
    SSL_set0_rbio(c.ssl, BIO_new(BIO_s_mem()));
    assert_int_equal(SSL_do_handshake(c.ssl), -1); /* makes the ClientHello */
    SSL_set0_rbio(c.ssl, in);
    char *p;
    long n = BIO_get_mem_data(out, &p);
    send_all(o->client_fd, p, (size_t)n);
    (void)BIO_reset(out);
    assert_int_equal(SSL_do_handshake(c.ssl), 1);
    assert_int_equal(SSL_write(c.ssl, "early", 5), 5);
    n = BIO_get_mem_data(out, &p);
    send_all(o->client_fd, p, (size_t)n);
    wait_for(o, o->ready == 1);
    sleep_ms(50);
    assert_int_equal(GET(o, o->bytes), 0);
    on_worker(w, do_resume, o);
    wait_for(o, o->bytes == 5);
    assert_string_equal(GET(o, buf_cstr(&o->got)), "early");
    client_free(&c);
    owner_free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_channel_bindings),
        cmocka_unit_test(test_no_exporter_without_extended_master_secret),
        cmocka_unit_test(test_old_tls_is_refused),
        cmocka_unit_test(test_garbage_instead_of_hello),
        cmocka_unit_test(test_renegotiation_is_refused),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_vanish_in_handshake),
        cmocka_unit_test(test_half_hello),
        cmocka_unit_test(test_endless_hello),
        cmocka_unit_test(test_starttls),
        cmocka_unit_test(test_starttls_injection),
        cmocka_unit_test(test_detection),
        cmocka_unit_test(test_pause_in_ready_keeps_data),
    };
    return cmocka_run_group_tests(tests, conn_setup, conn_teardown);
}
