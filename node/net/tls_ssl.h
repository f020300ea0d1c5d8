/*
 * What conn.c needs of tls.c beyond tls.h: OpenSSL objects. Private to node/net.
 */
#ifndef ROOKERY_TLS_SSL_H
#define ROOKERY_TLS_SSL_H

#include "certificate.h"
#include "tls.h"

#include <openssl/ssl.h>
#include <stdint.h>

/* A server's side of one connection; the caller keeps its reference on t as long as it lives. */
SSL *tls_ssl_new(struct tls *t);
/* After the handshake: wipes the keys of the exchange, which OpenSSL would keep as long as the connection lives. */
void tls_ssl_forget_exchange(SSL *s);
/* The certificate of this host, unless the client names another by SNI. Before the handshake. */
void tls_ssl_host(SSL *s, struct tls *t, const char *domain);
/* The protocol ALPN agreed on, as a literal; NULL: none. */
const char *tls_ssl_alpn(const SSL *s);
/* RFC 9266 and RFC 5929; the length, 0 when not available. out NULL: not derived. */
size_t tls_ssl_exporter(SSL *s, uint8_t out[32]);
size_t tls_ssl_unique(SSL *s, uint8_t out[64]);
/* The peer's certificate. False: it has none, or one that cannot be read. */
bool tls_ssl_peer(SSL *s, struct certificate *out);
size_t tls_ssl_end_point(const SSL *s, uint8_t out[64]);
/* Takes the oldest error of this thread's OpenSSL queue, empties the queue; never NULL. */
const char *tls_error(void);

#endif
