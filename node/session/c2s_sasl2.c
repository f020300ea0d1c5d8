/* SASL2 (XEP-0388) with what a client may ask for in the same round trip: resumption (XEP-0198), Bind 2 (XEP-0386). */
#include "c2s.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#define NS_BIND2   "urn:xmpp:bind:0"
#define NS_CARBONS "urn:xmpp:carbons:2"

enum { CLIENT_ID_MAX = 128 };

/* ---- features ---- */

/* What may stand in <bind/>: carbons are the home's business, the others are ours. */
static void add_inline(const struct c2s *c, struct arena *a, struct xml *authentication)
{
    struct xml *in = xml_add(a, authentication, "inline", NULL);
    struct xml *list = xml_add(a, xml_add(a, in, "bind", NS_BIND2), "inline", NULL);
    xml_set(a, xml_add(a, list, "feature", NULL), "var", NS_CARBONS);
    xml_set(a, xml_add(a, list, "feature", NULL), "var", NS_SM);
    if (c->edge->config->c2s.csi_max_held)
        xml_set(a, xml_add(a, list, "feature", NULL), "var", NS_CSI);
    xml_add(a, in, "sm", NS_SM);
    c2s_fast_feature(c, a, in);
}

void c2s_sasl2_features(struct c2s *c, struct arena *a, struct xml *features)
{
    struct xml *x = xml_add(a, features, "authentication", NS_SASL2);
    for (enum sasl_mech m = 0; m < SASL_MECHS; m++)
        if (c->offered & 1u << m)
            xml_add_leaf(a, x, "mechanism", NULL, sasl_mech_name(m));
    add_inline(c, a, x);
    c2s_upgrade_features(a, x);
}

/* ---- <authenticate/> ---- */

/* The same for an installation of a client at every login. Its id is told to nobody, so a hash of it goes to the home.
 */
static uint64_t client_id(const struct xml *request)
{
    const struct xml *agent = xml_find(request, "user-agent", NS_SASL2);
    const char *id = agent ? xml_get(agent, "id") : NULL;
    unsigned char digest[SHA256_DIGEST_LENGTH];
    uint64_t client;
    if (!id || !*id || strlen(id) > CLIENT_ID_MAX)
        return 0;
    SHA256((const unsigned char *)id, strlen(id), digest);
    memcpy(&client, digest, sizeof client);
    return client ? client : 1;
}

void c2s_sasl2_authenticate(struct c2s *c, const struct xml *x)
{
    c2s_login_free(c);
    struct login *l = c->login = xcalloc(1, sizeof *l);
    l->arena = arena_new();
    l->request = xml_copy(l->arena, x);
    l->client = client_id(x);
    c2s_sasl_begin(c, xml_get(l->request, "mechanism"),
                   xml_find_text(l->arena, l->request, "initial-response", NS_SASL2));
}

void c2s_login_free(struct c2s *c)
{
    struct login *l = c->login;
    c->login = NULL;
    if (!l)
        return;
    buf_free(&l->result);
    arena_free(&l->arena);
    free(l);
}

void c2s_login_data(struct c2s *c, const void *data, size_t n)
{
    if (!n)
        return;
    char *text = arena_bytes(c->login->arena, (n + 2) / 3 * 4 + 1);
    base64_encode(text, data, n);
    c->login->data = text;
}

void c2s_say(struct c2s *c, const char *text)
{
    if (c->login)
        buf_str(&c->login->result, text);
    else
        c2s_write_text(c, text);
}

/* ---- <success/> ---- */

static void send_success(struct c2s *c)
{
    struct login *l = c->login;
    struct buf b = {0};
    const struct jid *who = c->state == C2S_BOUND ? c->session.jid : c->user;
    buf_str(&b, "<success xmlns='" NS_SASL2 "'>");
    if (l->data)
        buf_printf(&b, "<additional-data>%s</additional-data>", l->data);
    buf_str(&b, "<authorization-identifier>");
    xml_escape(&b, who->s, strlen(who->s), false);
    buf_str(&b, "</authorization-identifier>");
    buf_str(&b, buf_cstr(&l->result));
    buf_str(&b, "</success>");
    c2s_write_text(c, buf_cstr(&b));
    buf_free(&b);
    c2s_login_free(c);
}

/* XEP-0198 section 9.2: the stream is the one from before, and no features follow. */
void c2s_login_resumed(struct c2s *c)
{
    send_success(c);
}

static void finish(struct c2s *c)
{
    send_success(c);
    c2s_features(c);
    if (c->waiting)
        c2s_go_on(c);
}

/* ---- what was asked for inline ---- */

/* The home gets <bind/> as it is: what modules want to know of it is theirs. */
static void ask_bind(struct c2s *c, const struct xml *bind)
{
    struct stanza *iq = stanza_new(STANZA_IQ, IQ_SET, NULL, NULL, "bind");
    xml_append(iq->x, xml_copy(iq->arena, bind));
    struct envelope *e = env_stanza_new(ENV_BIND, c->user, &iq);
    e->flags = BIND_2 | c2s_bind_flags(c);
    e->origin = c->certificate_id;
    e->id = c->login->client;
    free(c->resume_token);
    c->resume_token = xstrdup("bind");
    c2s_wait(c);
    c2s_ask(c, &e);
}

void c2s_login_go(struct c2s *c)
{
    struct login *l = c->login;
    const struct xml *resume = xml_find(l->request, "resume", NS_SM), *bind = xml_find(l->request, "bind", NS_BIND2);
    if (c2s_upgrade(c) || (!l->token_done && c2s_token_request(c))) {
        return;
    } else if (resume && !l->resume_tried) {
        l->resume_tried = true;
        c2s_sm_resume(c, resume);
    } else if (bind) {
        ask_bind(c, bind);
    } else {
        finish(c);
    }
}

/* Refused: there is no <bound/>, and the features that follow offer to bind by an iq, which tells why. */
void c2s_login_bound(struct c2s *c, const struct envelope *e)
{
    const struct xml *bind = xml_find(c->login->request, "bind", NS_BIND2), *enable = xml_find(bind, "enable", NS_SM);
    free(c->resume_token);
    c->resume_token = NULL;
    if (e->code) {
        log_info(&c->log, "not-bound", "jid", c->user->s, "why", stanza_error_name((enum stanza_error)(e->code - 1)));
        finish(c);
        return;
    }
    c2s_bound_as(c, e->jid);
    c2s_say(c, "<bound xmlns='" NS_BIND2 "'>");
    if (e->bytes)
        buf_add(&c->login->result, e->bytes->data, e->bytes->len);
    if (enable)
        c2s_sm_enable(c, enable);
    c2s_say(c, "</bound>");
    if (xml_find(bind, "inactive", NS_CSI))
        c2s_csi(c, false);
    finish(c);
}
