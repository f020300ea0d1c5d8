#include "client.h"

#include "client_auth.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
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
    WAIT_SESSION,
    WAIT_ENABLED,
    WAIT_PAIR
};
enum { READ_CHUNK = 16384, TIGHT_BYTES = 16384 };

_Thread_local struct client_traffic client_traffic;

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

/* TLS counts its own bytes; those before STARTTLS are few and left out. */
static void count_traffic(struct client *c)
{
    if (!c->ssl)
        return;
    uint64_t in = BIO_number_read(SSL_get_rbio(c->ssl)), out = BIO_number_written(SSL_get_wbio(c->ssl));
    client_traffic.in += in - c->wire_in;
    client_traffic.out += out - c->wire_out;
    c->wire_in = in;
    c->wire_out = out;
}

static void release(struct client *c)
{
    count_traffic(c);
    SSL_free(c->ssl);
    close(c->fd); /* leaves the epoll set too */
    free(c->in);
    free(c->out);
    free(c->auth);
    c->ssl = NULL;
    c->auth = NULL;
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

bool client_full(const struct client *c)
{
    return c->out_len > 0;
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
    if (c->wants_session) { /* RFC 3921: servers that do not say it is optional mean it */
        c->wants_session = false;
        c->phase = WAIT_SESSION;
        say(c, "<iq type='set' id='session'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>");
        return;
    }
    free(c->auth);
    c->auth = NULL;
    if (!c->config->sm || !(c->offers & OFFERS_SM)) {
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
    const char *r = c->config->resource;
    c->phase = WAIT_BIND;
    say(c, "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>%s%s%s</bind></iq>",
        r ? "<resource>" : "", r ? r : "", r ? "</resource>" : "");
}

static void authenticated(struct client *c, const char *features)
{
    const char *session = strstr(features, "<session");
    c->wants_session = session && !strstr(session, "<optional");
    c->offers =
        (strstr(features, "urn:xmpp:sm:3") ? OFFERS_SM : 0) | (strstr(features, "urn:xmpp:csi:0") ? OFFERS_CSI : 0);
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
        free(c->auth);
        c->auth = NULL;
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
    char why[512];
    snprintf(why, sizeof why, "unexpected: %.400s", xml);
    client_fail(c, why);
}

static void answer_challenge(struct client *c, const char *xml)
{
    char text[AUTH_TEXT];
    const char *why = auth_challenge(c, xml, text);
    if (why) {
        client_fail(c, why);
        return;
    }
    c->phase = WAIT_SUCCESS;
    client_send(c, text, strlen(text), 0);
}

static void login_element(struct client *c, char *xml)
{
    bool features = strstr(xml, "features") != NULL;
    if (c->phase == WAIT_FEATURES_CLEAR && features && strstr(xml, "<starttls")) {
        c->phase = WAIT_PROCEED;
        say(c, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    } else if (c->phase == WAIT_PROCEED && strncmp(xml, "<proceed", 8) == 0) {
        start_tls(c);
    } else if (c->phase == WAIT_FEATURES_TLS && features && auth_offered(c, xml)) {
        char text[AUTH_TEXT];
        auth_start(c, text);
        c->phase = c->config->mechanism == PLAIN ? WAIT_SUCCESS : WAIT_CHALLENGE;
        client_send(c, text, strlen(text), 0);
    } else if (c->phase == WAIT_CHALLENGE && strncmp(xml, "<challenge", 10) == 0) {
        answer_challenge(c, xml);
    } else if (c->phase == WAIT_SUCCESS && strncmp(xml, "<success", 8) == 0 && auth_success(c, xml)) {
        open_stream(c, WAIT_FEATURES_AUTH);
    } else if (c->phase == WAIT_FEATURES_AUTH && features && strstr(xml, "<bind")) {
        authenticated(c, xml);
    } else if (c->phase == WAIT_RESUMED && (strncmp(xml, "<resumed", 8) == 0 || strncmp(xml, "<failed", 7) == 0)) {
        resume_answered(c, xml);
    } else if (c->phase == WAIT_BIND && strncmp(xml, "<iq", 3) == 0 && strstr(xml, "<jid>")) {
        bound(c);
    } else if (c->phase == WAIT_SESSION && strncmp(xml, "<iq", 3) == 0 && !strstr(xml, "<error")) {
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
    else /* also what was on its way when we closed (RFC 6120, 4.4) */
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
    while (!c->paused) {
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

/* The edge for what came meanwhile has passed. */
void client_pause(struct client *c, bool pause)
{
    c->paused = pause;
    if (!pause && c->state >= CLIENT_LOGIN)
        read_all(c);
}

/* The port is chosen by connect(), so that one address can have as many connections as there are pairs of ports. */
static void bind_source(struct client *c)
{
    if (!c->config->source_count)
        return;
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr = c->config->sources[c->user % c->config->source_count]};
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
    (void)!bind(c->fd, (const struct sockaddr *)&from, sizeof from); /* connect() then says what is wrong */
}

void client_open(struct client *c, const struct client_config *config, const struct client_ops *ops, int epoll_fd,
                 unsigned user, struct scram_key *key)
{
    void *arg = c->arg;
    *c = (struct client){.arg = arg, .config = config, .ops = ops, .user = user, .key = key};
    c->since_ns = now_ns();
    c->state = CLIENT_CONNECTING;
    c->fd = socket(config->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bind_source(c);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (config->tight)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &(int){TIGHT_BYTES}, sizeof(int));
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

/* While nobody listens on a port from the range that the system chooses from, a connection to it on the same machine
 * may be given that very port and meet itself; it would also keep the server from coming back. */
static bool meets_itself(const struct client *c)
{
    struct sockaddr_storage own = {0}, peer = {0};
    socklen_t own_len = sizeof own, peer_len = sizeof peer;
    if (getsockname(c->fd, (struct sockaddr *)&own, &own_len) != 0 ||
        getpeername(c->fd, (struct sockaddr *)&peer, &peer_len) != 0 || own_len != peer_len ||
        memcmp(&own, &peer, own_len) != 0)
        return false;
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    return true;
}

static void connected(struct client *c)
{
    int err = 0;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &(socklen_t){sizeof err});
    if (err) {
        client_fail(c, strerror(err));
    } else if (meets_itself(c)) {
        client_fail(c, "nobody listens");
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
    count_traffic(c);
}
