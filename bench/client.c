#include "client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* What the login waits for. */
enum {
    WAIT_FEATURES_CLEAR,
    WAIT_PROCEED,
    WAIT_FEATURES_TLS,
    WAIT_CHALLENGE,
    WAIT_SUCCESS,
    WAIT_FEATURES_AUTH,
    WAIT_RESUMED,
    WAIT_BIND,
    WAIT_ENABLED,
    WAIT_PAIR
};
enum { SHA1_LEN = 20, READ_CHUNK = 16384 };

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void grow(char **data, size_t *cap, size_t need)
{
    if (need <= *cap)
        return;
    *cap = need < 2 * *cap ? 2 * *cap : need;
    *data = realloc(*data, *cap);
    if (!*data)
        abort();
}

/* ---- closing and sending ---- */

static void release(struct client *c)
{
    SSL_free(c->ssl);
    close(c->fd); /* leaves the epoll set too */
    free(c->in);
    free(c->out);
    c->ssl = NULL;
    c->in = c->out = NULL;
    c->fd = -1;
    c->in_len = c->in_cap = c->out_len = c->out_cap = c->scan = c->start = 0;
}

void client_fail(struct client *c, const char *why)
{
    if (c->state == CLIENT_CLOSED)
        return;
    if (c->state == CLIENT_CLOSING)
        why = NULL;
    c->state = CLIENT_CLOSED;
    ERR_clear_error();
    c->ops->closed(c, why);
    release(c); /* after the callback: why may lie in our buffer */
}

/* Bytes taken or given, 0 if it would block, -1 if the connection is gone. */
static ssize_t io(struct client *c, bool out, char *data, size_t len)
{
    ssize_t n;
    if (c->ssl) {
        n = out ? SSL_write(c->ssl, data, (int)len) : SSL_read(c->ssl, data, (int)len);
        if (n > 0)
            return n;
        int e = SSL_get_error(c->ssl, (int)n);
        return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
    n = out ? send(c->fd, data, len, MSG_NOSIGNAL) : recv(c->fd, data, len, 0);
    if (n > 0)
        return n;
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static void flush(struct client *c)
{
    size_t done = 0;
    while (done < c->out_len) {
        ssize_t n = io(c, true, c->out + done, c->out_len - done);
        if (n < 0) {
            client_fail(c, "connection lost while writing");
            return;
        }
        if (n == 0)
            break;
        done += (size_t)n;
    }
    c->out_len -= done;
    if (done && c->out_len)
        memmove(c->out, c->out + done, c->out_len);
}

void client_send(struct client *c, const char *data, size_t len, unsigned stanzas)
{
    if (c->state < CLIENT_LOGIN || c->state == CLIENT_CLOSING)
        return;
    if (c->counting_out)
        c->sm_sent += stanzas;
    grow(&c->out, &c->out_cap, c->out_len + len);
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
    flush(c);
}

static __attribute__((format(printf, 2, 3))) void say(struct client *c, const char *format, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    client_send(c, text, (size_t)n, 0);
}

void client_close(struct client *c)
{
    if (c->state != CLIENT_READY) {
        client_fail(c, NULL);
        return;
    }
    if (c->counting_in) /* or the server keeps what we have for later (XEP-0198 section 4) */
        say(c, "<a xmlns='urn:xmpp:sm:3' h='%u'/>", c->sm_handled);
    if (!c->config->relay)
        say(c, "</stream:stream>");
    if (c->state != CLIENT_READY)
        return; /* the send failed */
    c->state = CLIENT_CLOSING;
    c->since_ns = now_ns();
    if (c->config->relay)
        client_fail(c, NULL);
}

/* ---- SASL (RFC 5802) ---- */

static void hmac(const unsigned char key[SHA1_LEN], const char *text, unsigned char out[SHA1_LEN])
{
    HMAC(EVP_sha1(), key, SHA1_LEN, (const unsigned char *)text, strlen(text), out, NULL);
}

static void auth_start(struct client *c)
{
    char plain[256], coded[400];
    if (c->config->plain) {
        int n = snprintf(plain, sizeof plain, "%cuser%u%c%s", 0, c->user, 0, c->config->password);
        EVP_EncodeBlock((unsigned char *)coded, (unsigned char *)plain, n);
        say(c, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>", coded);
        c->phase = WAIT_SUCCESS;
        return;
    }
    unsigned char random[18];
    if (RAND_bytes(random, sizeof random) != 1)
        abort();
    EVP_EncodeBlock((unsigned char *)c->nonce, random, sizeof random);
    snprintf(c->auth_message, sizeof c->auth_message, "n=user%u,r=%s", c->user, c->nonce);
    int n = snprintf(plain, sizeof plain, "n,,%s", c->auth_message);
    EVP_EncodeBlock((unsigned char *)coded, (unsigned char *)plain, n);
    say(c, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>%s</auth>", coded);
    c->phase = WAIT_CHALLENGE;
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
        PKCS5_PBKDF2_HMAC_SHA1(c->config->password, -1, salt, n, atoi(count), SHA1_LEN, c->key->salted_password) != 1)
        return false;
    memcpy(c->key->salt_and_count, tag, sizeof tag);
    return true;
}

static void auth_challenge(struct client *c, const char *xml)
{
    char server[280], fields[280], final[340], proof64[40], coded[500];
    unsigned char key[SHA1_LEN], stored[SHA1_LEN], proof[SHA1_LEN];
    char *r = fields, *s, *i;
    if (decode_text(xml, server, sizeof server) < 0 || strncmp(server, "r=", 2) ||
        strncmp(server + 2, c->nonce, strlen(c->nonce)) || !(s = strstr(strcpy(fields, server), ",s=")) ||
        !(i = strstr(s + 3, ",i="))) {
        client_fail(c, "bad SCRAM challenge");
        return;
    }
    *s = *i = 0;
    if (!salted_password(c, s + 3, i + 3)) {
        client_fail(c, "bad SCRAM salt or count");
        return;
    }
    snprintf(final, sizeof final, "c=biws,%s", r);
    size_t bare = strlen(c->auth_message);
    snprintf(c->auth_message + bare, sizeof c->auth_message - bare, ",%s,%s", server, final);
    hmac(c->key->salted_password, "Client Key", key);
    EVP_Digest(key, SHA1_LEN, stored, NULL, EVP_sha1(), NULL);
    hmac(stored, c->auth_message, proof);
    for (int k = 0; k < SHA1_LEN; k++)
        proof[k] ^= key[k];
    EVP_EncodeBlock((unsigned char *)proof64, proof, SHA1_LEN);
    size_t used = strlen(final);
    snprintf(final + used, sizeof final - used, ",p=%s", proof64);
    EVP_EncodeBlock((unsigned char *)coded, (unsigned char *) final, (int)strlen(final));
    say(c, "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>%s</response>", coded);
    c->phase = WAIT_SUCCESS;
}

static bool auth_success(struct client *c, const char *xml)
{
    char text[128], expect[40];
    unsigned char key[SHA1_LEN], signature[SHA1_LEN];
    if (c->config->plain)
        return true;
    hmac(c->key->salted_password, "Server Key", key);
    hmac(key, c->auth_message, signature);
    EVP_EncodeBlock((unsigned char *)expect, signature, SHA1_LEN);
    return decode_text(xml, text, sizeof text) > 0 && strncmp(text, "v=", 2) == 0 && strcmp(text + 2, expect) == 0;
}

/* ---- login ---- */

static void open_stream(struct client *c, int phase)
{
    c->phase = phase;
    c->depth = 0;
    say(c,
        "<?xml version='1.0'?><stream:stream to='%s' version='1.0' xmlns='jabber:client' "
        "xmlns:stream='http://etherx.jabber.org/streams'>",
        c->config->domain);
}

static void start_tls(struct client *c)
{
    c->ssl = SSL_new(c->config->tls);
    if (!c->ssl || SSL_set_fd(c->ssl, c->fd) != 1 || SSL_set_tlsext_host_name(c->ssl, c->config->domain) != 1)
        abort();
    if (c->config->direct_tls && !c->config->relay)
        SSL_set_alpn_protos(c->ssl, (const unsigned char *)"\013xmpp-client", 12);
    SSL_set_connect_state(c->ssl);
    c->state = CLIENT_HANDSHAKE;
}

static void become_ready(struct client *c)
{
    if (c->config->presence) {
        static const char presence[] = "<presence/>";
        client_send(c, presence, sizeof presence - 1, 1);
    }
    if (c->state != CLIENT_LOGIN)
        return; /* the send failed */
    c->state = CLIENT_READY;
    c->ops->ready(c);
}

static void bound(struct client *c)
{
    if (!c->config->sm) {
        become_ready(c);
        return;
    }
    c->phase = WAIT_ENABLED;
    c->counting_out = true;
    say(c, "<enable xmlns='urn:xmpp:sm:3'%s/>", c->config->resumable ? " resume='true'" : "");
}

/* A number or a token in an attribute of the element's first tag. */
static bool attribute(const char *xml, const char *name, char *out, size_t size)
{
    char key[32];
    snprintf(key, sizeof key, " %s=", name);
    const char *end = strchr(xml, '>'), *at = strstr(xml, key);
    if (!end || !at || at > end)
        return false;
    at += strlen(key);
    size_t n = strcspn(at + 1, (char[]){*at, 0});
    return n < size && snprintf(out, size, "%.*s", (int)n, at + 1) >= 0;
}

static void bind_resource(struct client *c)
{
    c->phase = WAIT_BIND;
    say(c, "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>");
    if (c->config->resource)
        say(c, "<resource>%s</resource>", c->config->resource);
    say(c, "</bind></iq>");
}

static void authenticated(struct client *c)
{
    if (!c->token[0]) {
        bind_resource(c);
        return;
    }
    c->phase = WAIT_RESUMED;
    say(c, "<resume xmlns='urn:xmpp:sm:3' previd='%s' h='%u'/>", c->token, c->sm_handled);
}

static void resume_answered(struct client *c, const char *xml)
{
    char h[16];
    c->resumption_h = attribute(xml, "h", h, sizeof h) ? atoll(h) : -1;
    if (strncmp(xml, "<resumed", 8) == 0) {
        c->resumption = RESUME_DONE;
        c->counting_in = c->counting_out = true;
        c->state = CLIENT_READY;
        c->ops->ready(c);
        return;
    }
    c->resumption = RESUME_FAILED;
    c->token[0] = 0;
    c->sm_handled = 0;
    bind_resource(c);
}

static void refused(struct client *c, const char *xml)
{
    char why[256];
    snprintf(why, sizeof why, "unexpected: %.200s", xml);
    client_fail(c, why);
}

static void login_element(struct client *c, char *xml)
{
    bool features = strstr(xml, "features") != NULL;
    if (c->phase == WAIT_FEATURES_CLEAR && features && strstr(xml, "<starttls")) {
        c->phase = WAIT_PROCEED;
        say(c, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    } else if (c->phase == WAIT_PROCEED && strncmp(xml, "<proceed", 8) == 0) {
        start_tls(c);
    } else if (c->phase == WAIT_FEATURES_TLS && features &&
               strstr(xml, c->config->plain ? ">PLAIN<" : ">SCRAM-SHA-1<")) {
        auth_start(c);
    } else if (c->phase == WAIT_CHALLENGE && strncmp(xml, "<challenge", 10) == 0) {
        auth_challenge(c, xml);
    } else if (c->phase == WAIT_SUCCESS && strncmp(xml, "<success", 8) == 0 && auth_success(c, xml)) {
        open_stream(c, WAIT_FEATURES_AUTH);
    } else if (c->phase == WAIT_FEATURES_AUTH && features && strstr(xml, "<bind")) {
        authenticated(c);
    } else if (c->phase == WAIT_RESUMED && (strncmp(xml, "<resumed", 8) == 0 || strncmp(xml, "<failed", 7) == 0)) {
        resume_answered(c, xml);
    } else if (c->phase == WAIT_BIND && strncmp(xml, "<iq", 3) == 0 && strstr(xml, "<jid>")) {
        bound(c);
    } else if (c->phase == WAIT_ENABLED && strncmp(xml, "<enabled", 8) == 0) {
        c->counting_in = true;
        attribute(xml, "id", c->token, sizeof c->token);
        become_ready(c);
    } else if (c->phase == WAIT_PAIR && strncmp(xml, "<paired", 7) == 0) {
        become_ready(c);
    } else {
        refused(c, xml);
    }
}

static void handshake(struct client *c)
{
    int n = SSL_do_handshake(c->ssl);
    if (n != 1) {
        int e = SSL_get_error(c->ssl, n);
        if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE)
            client_fail(c, "TLS handshake failed");
        return;
    }
    c->state = CLIENT_LOGIN;
    if (!c->config->relay) {
        open_stream(c, WAIT_FEATURES_TLS);
        return;
    }
    c->phase = WAIT_PAIR;
    c->depth = 1; /* as if in a stream */
    say(c, "%08u", c->user);
}

/* ---- elements ---- */

static bool is_stanza(const char *xml)
{
    return strncmp(xml, "<message", 8) == 0 || strncmp(xml, "<presence", 9) == 0 || strncmp(xml, "<iq", 3) == 0;
}

static void element(struct client *c, char *xml, size_t len)
{
    if (c->state == CLIENT_LOGIN) {
        login_element(c, xml);
        return;
    }
    if (c->counting_in && is_stanza(xml))
        c->sm_handled++;
    if (strncmp(xml, "<r ", 3) == 0 || strncmp(xml, "<r/", 3) == 0 || strncmp(xml, "<r>", 3) == 0)
        say(c, "<a xmlns='urn:xmpp:sm:3' h='%u'/>", c->sm_handled);
    else if (strstr(xml, "stream:error") && c->state == CLIENT_READY)
        refused(c, xml);
    else if (c->state == CLIENT_READY)
        c->ops->element(c, xml, len);
}

/* The '>' that ends the tag at tag, or NULL when it has not come yet; a '>' in an attribute's value is none. */
static char *tag_end(char *tag, char *end)
{
    char quote = 0;
    for (char *p = tag; p < end; p++) {
        if (quote)
            quote = *p == quote ? 0 : quote;
        else if (*p == '"' || *p == '\'')
            quote = *p;
        else if (*p == '>')
            return p;
    }
    return NULL;
}

/* Takes one tag; false when there is no whole one, or the client is no longer the one that was reading. */
static bool take_tag(struct client *c)
{
    char *end = c->in + c->in_len;
    char *tag = c->scan < c->in_len ? memchr(c->in + c->scan, '<', c->in_len - c->scan) : NULL;
    char *gt = tag ? tag_end(tag, end) : NULL;
    if (!gt) {
        c->scan = tag ? (size_t)(tag - c->in) : c->in_len;
        return false;
    }
    c->scan = (size_t)(gt + 1 - c->in);
    if (tag[1] == '?')
        return true;
    bool close_tag = tag[1] == '/', empty = gt[-1] == '/';
    int outside = c->depth; /* 0: this tag is the stream's header, 1: it begins an element */
    if (outside == 1 && close_tag) {
        client_fail(c, "the server closed the stream");
        return false;
    }
    if (outside <= 1)
        c->start = (size_t)(tag - c->in);
    c->depth += close_tag ? -1 : !empty;
    if (c->depth != 1 || outside == 0)
        return true;
    SSL *before = c->ssl;
    char saved = gt[1]; /* there is always room for a NUL behind */
    gt[1] = 0;
    element(c, c->in + c->start, c->scan - c->start);
    if (c->state == CLIENT_CLOSED || c->ssl != before)
        return false;
    c->in[c->scan] = saved;
    return true;
}

/* Moves what is left of a half element to the front. */
static void compact(struct client *c)
{
    size_t keep_from = c->depth > 1 ? c->start : c->scan;
    c->in_len -= keep_from;
    c->scan -= keep_from;
    c->start = 0;
    if (keep_from && c->in_len)
        memmove(c->in, c->in + keep_from, c->in_len);
}

static void drop_empty_buffers(struct client *c)
{
    if (c->in_len == 0) {
        free(c->in);
        c->in = NULL;
        c->in_cap = 0;
    }
    if (c->out_len == 0) {
        free(c->out);
        c->out = NULL;
        c->out_cap = 0;
    }
}

static void read_all(struct client *c)
{
    for (;;) {
        grow(&c->in, &c->in_cap, c->in_len + READ_CHUNK + 1);
        ssize_t n = io(c, false, c->in + c->in_len, READ_CHUNK);
        if (n < 0)
            client_fail(c, "connection lost");
        if (n < 0)
            return;
        c->in_len += (size_t)n;
        while (c->state >= CLIENT_LOGIN && take_tag(c))
            ;
        if (c->state == CLIENT_CLOSED)
            return;
        compact(c);
        if (n == 0 || c->state == CLIENT_HANDSHAKE) {
            drop_empty_buffers(c);
            return;
        }
    }
}

void client_open(struct client *c, const struct client_config *config, const struct client_ops *ops, int epoll_fd,
                 unsigned user, struct scram_key *key)
{
    void *arg = c->arg;
    *c = (struct client){.arg = arg, .config = config, .ops = ops, .user = user, .key = key};
    c->since_ns = now_ns();
    c->state = CLIENT_CONNECTING;
    c->fd = socket(config->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (c->fd < 0 ||
        (connect(c->fd, (const struct sockaddr *)&config->addr, config->addr_len) != 0 && errno != EINPROGRESS) ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) != 0)
        client_fail(c, strerror(errno));
}

void client_resume(struct client *c, const char *token, uint32_t handled)
{
    snprintf(c->token, sizeof c->token, "%s", token);
    c->sm_handled = handled;
}

static void connected(struct client *c)
{
    int err = 0;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &(socklen_t){sizeof err});
    if (err) {
        client_fail(c, strerror(err));
    } else if (c->config->direct_tls) {
        start_tls(c);
    } else {
        c->state = CLIENT_LOGIN;
        open_stream(c, WAIT_FEATURES_CLEAR);
    }
}

void client_event(struct client *c)
{
    if (c->state == CLIENT_CONNECTING)
        connected(c);
    if (c->state == CLIENT_HANDSHAKE)
        handshake(c);
    if (c->state >= CLIENT_LOGIN)
        flush(c);
    if (c->state >= CLIENT_LOGIN)
        read_all(c);
    if (c->state == CLIENT_HANDSHAKE) /* STARTTLS was granted: the edge for it has passed */
        handshake(c);
}
