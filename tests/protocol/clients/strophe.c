/* libstrophe behind the line protocol of PROTOCOL.md. */
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <strophe.h>

#define NS_FORWARD "urn:xmpp:forward:0"

struct client {
    xmpp_ctx_t *ctx;
    xmpp_conn_t *conn;
    const char *jid, *password, *host, *mode;
    unsigned short port;
    bool cut, quit, over;
};

static void say(const char *event, const char *a, const char *b)
{
    printf("%s%s%s%s%s\n", event, a ? "\t" : "", a ? a : "", b ? "\t" : "", b ? b : "");
    fflush(stdout);
}

static const char *body_of(xmpp_stanza_t *message)
{
    xmpp_stanza_t *body = message ? xmpp_stanza_get_child_by_name(message, "body") : NULL;
    xmpp_stanza_t *text = body ? xmpp_stanza_get_children(body) : NULL;
    return text ? xmpp_stanza_get_text_ptr(text) : NULL;
}

static const char *forwarded_body(xmpp_stanza_t *wrapper)
{
    xmpp_stanza_t *forwarded = xmpp_stanza_get_child_by_name_and_ns(wrapper, "forwarded", NS_FORWARD);
    return forwarded ? body_of(xmpp_stanza_get_child_by_name(forwarded, "message")) : NULL;
}

static int on_message(xmpp_conn_t *conn, xmpp_stanza_t *m, void *arg)
{
    (void)conn, (void)arg;
    const char *type = xmpp_stanza_get_type(m);
    xmpp_stanza_t *wrapper = xmpp_stanza_get_child_by_ns(m, "urn:xmpp:carbons:2");
    if (wrapper) {
        say("carbon", forwarded_body(wrapper), NULL);
    } else if ((wrapper = xmpp_stanza_get_child_by_ns(m, "urn:xmpp:mam:2"))) {
        say("archived", forwarded_body(wrapper), NULL);
    } else if (body_of(m) && (!type || strcmp(type, "error"))) {
        bool late = xmpp_stanza_get_child_by_ns(m, "urn:xmpp:delay");
        say(late ? "delayed" : "message", xmpp_stanza_get_from(m), body_of(m));
    }
    return 1;
}

static int on_presence(xmpp_conn_t *conn, xmpp_stanza_t *p, void *arg)
{
    (void)conn, (void)arg;
    const char *type = xmpp_stanza_get_type(p);
    say("presence", xmpp_stanza_get_from(p), type ? type : "available");
    return 1;
}

static int on_answer(xmpp_conn_t *conn, xmpp_stanza_t *iq, void *arg)
{
    (void)conn;
    const char *what = arg, *type = xmpp_stanza_get_type(iq);
    if (!type || strcmp(type, "result")) {
        say("error", what, type);
    } else if (!strcmp(what, "roster")) {
        char line[4096] = "";
        xmpp_stanza_t *item = xmpp_stanza_get_children(xmpp_stanza_get_children(iq));
        for (; item; item = xmpp_stanza_get_next(item)) {
            const char *jid = xmpp_stanza_get_attribute(item, "jid");
            size_t n = strlen(line);
            snprintf(line + n, sizeof line - n, "%s%s", n ? "," : "", jid ? jid : "");
        }
        say("roster", line, NULL);
    } else {
        say(what, NULL, NULL);
    }
    return 0;
}

static void ask(struct client *c, char *what, const char *type, const char *payload)
{
    char *id = xmpp_uuid_gen(c->ctx);
    xmpp_id_handler_add(c->conn, on_answer, id, what);
    xmpp_send_raw_string(c->conn, "<iq type='%s' id='%s'>%s</iq>", type, id, payload);
    xmpp_free(c->ctx, id);
}

static int last_socket = -1; /* the callback has no argument of its own */

static int remember_socket(xmpp_conn_t *conn, void *sock)
{
    (void)conn;
    last_socket = *(int *)sock;
    return 0;
}

static void on_connection(xmpp_conn_t *conn, xmpp_conn_event_t event, int error, xmpp_stream_error_t *why, void *arg);

static bool connect_client(struct client *c, xmpp_sm_state_t *state)
{
    c->conn = xmpp_conn_new(c->ctx);
    xmpp_conn_set_flags(c->conn, XMPP_CONN_FLAG_TRUST_TLS | (strcmp(c->mode, "tls") ? XMPP_CONN_FLAG_MANDATORY_TLS
                                                                                    : XMPP_CONN_FLAG_LEGACY_SSL));
    xmpp_conn_set_jid(c->conn, c->jid);
    xmpp_conn_set_pass(c->conn, c->password);
    xmpp_conn_set_sockopt_callback(c->conn, remember_socket);
    if (state)
        xmpp_conn_set_sm_state(c->conn, state);
    return xmpp_connect_client(c->conn, c->host, c->port, on_connection, c) == XMPP_EOK;
}

static void on_connection(xmpp_conn_t *conn, xmpp_conn_event_t event, int error, xmpp_stream_error_t *why, void *arg)
{
    struct client *c = arg;
    (void)why;
    if (event == XMPP_CONN_CONNECT) {
        xmpp_handler_add(conn, on_message, NULL, "message", NULL, NULL);
        xmpp_handler_add(conn, on_presence, NULL, "presence", NULL, NULL);
        say(c->cut ? "resumed" : "online", xmpp_conn_get_bound_jid(conn), NULL);
        c->cut = false;
    } else if (event == XMPP_CONN_DISCONNECT) {
        c->over = true;
        if (!c->cut && !c->quit)
            say("error", "disconnected", error ? strerror(error) : NULL);
    }
}

static void obey(struct client *c, char *line)
{
    char *name = strsep(&line, "\t"), *a = strsep(&line, "\t"), *b = line;
    if (!strcmp(name, "presence"))
        xmpp_send_raw_string(c->conn, "<presence/>");
    else if (!strcmp(name, "subscribe") || !strcmp(name, "subscribed"))
        xmpp_send_raw_string(c->conn, "<presence to='%s' type='%s'/>", a, name);
    else if (!strcmp(name, "roster"))
        ask(c, "roster", "get", "<query xmlns='jabber:iq:roster'/>");
    else if (!strcmp(name, "carbons"))
        ask(c, "carbons", "set", "<enable xmlns='urn:xmpp:carbons:2'/>");
    else if (!strcmp(name, "archive"))
        ask(c, "fin", "set",
            "<query xmlns='urn:xmpp:mam:2'><set "
            "xmlns='http://jabber.org/protocol/rsm'><max>20</max><before/></set></query>");
    else if (!strcmp(name, "chat")) {
        xmpp_stanza_t *m = xmpp_message_new(c->ctx, "chat", a, NULL);
        xmpp_message_set_body(m, b);
        xmpp_send(c->conn, m);
        xmpp_stanza_release(m);
    } else if (!strcmp(name, "cut")) {
        c->cut = true;
        shutdown(last_socket, SHUT_RDWR);
    } else if (!strcmp(name, "quit")) {
        c->quit = true;
        xmpp_disconnect(c->conn);
    }
}

/* The lines that wait on standard input. */
static void read_commands(struct client *c)
{
    static char line[8192];
    static size_t n;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    while (poll(&in, 1, 0) > 0) {
        if (read(STDIN_FILENO, line + n, 1) != 1)
            exit(0);
        if (line[n] == '\n') {
            line[n] = 0;
            n = 0;
            obey(c, line);
        } else if (++n == sizeof line) {
            exit(1);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    struct client c = {
        .jid = argv[1], .password = argv[2], .host = argv[3], .port = (unsigned short)atoi(argv[4]), .mode = argv[5]};
    signal(SIGPIPE, SIG_IGN); /* the connection that was cut may still be written to */
    xmpp_initialize();
    c.ctx = xmpp_ctx_new(NULL, getenv("STROPHE_DEBUG") ? xmpp_get_default_logger(XMPP_LEVEL_DEBUG) : NULL);
    if (!connect_client(&c, NULL))
        return 1;
    while (!(c.over && !c.cut)) {
        xmpp_run_once(c.ctx, 20);
        read_commands(&c);
        if (c.over && c.cut) {
            xmpp_sm_state_t *state = xmpp_conn_get_sm_state(c.conn);
            xmpp_conn_release(c.conn);
            c.over = false;
            if (!connect_client(&c, state))
                return 1;
        }
    }
    return 0;
}
