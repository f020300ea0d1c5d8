/* XEP-0484 (FAST) at the edge: it carries what the client says to the account's home, which knows the tokens. */
#include "c2s.h"

#include <fast.pb-c.h>
#include <openssl/crypto.h>
#include <string.h>

#define NS_FAST "urn:xmpp:fast:0"

enum { NAME_MAX_BYTES = 64 }; /* of what is kept of a client's description */

_Static_assert(SASL_HT_ENDP - SASL_HT_EXPR + FAST__MECH__HT_SHA_256_EXPR == FAST__MECH__HT_SHA_256_ENDP &&
                   SASL_HT_NONE - SASL_HT_EXPR + FAST__MECH__HT_SHA_256_EXPR == FAST__MECH__HT_SHA_256_NONE,
               "the same order");

void c2s_fast_feature(const struct c2s *c, struct arena *a, struct xml *in)
{
    if (!c->offered_tokens)
        return;
    struct xml *x = xml_add(a, in, "fast", NS_FAST);
    for (enum sasl_mech m = 0; m < SASL_MECHS; m++)
        if (c->offered_tokens & 1u << m)
            xml_add_leaf(a, x, "mechanism", NULL, sasl_mech_name(m));
}

static uint32_t mech_number(enum sasl_mech m)
{
    return (uint32_t)(m - SASL_HT_EXPR) + FAST__MECH__HT_SHA_256_EXPR;
}

/* The token mechanism that <request-token/> names; NO_MECH: it wants no token, or none that it can have. */
static uint32_t wanted(const struct c2s *c)
{
    const struct xml *x = xml_find(c->login->request, "request-token", NS_FAST);
    const char *name = x ? xml_get(x, "mechanism") : NULL;
    enum sasl_mech m = name ? sasl_find(name, c->offered_tokens) : SASL_MECHS;
    return m < SASL_MECHS && c->login->client ? mech_number(m) : FAST__MECH__NO_MECH;
}

static ProtobufCBinaryData name_of(struct login *l, const char *element)
{
    const struct xml *agent = xml_find(l->request, "user-agent", NS_SASL2);
    const char *text = agent ? xml_find_text(l->arena, agent, element, NS_SASL2) : NULL;
    size_t n = text ? strlen(text) : 0;
    for (n = n > NAME_MAX_BYTES ? NAME_MAX_BYTES : n; n && text[n] && ((unsigned char)text[n] & 0xc0) == 0x80;)
        n--; /* whole characters */
    return (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)text};
}

static void ask(struct c2s *c, const struct jid *who, Fast__Request *m)
{
    struct login *l = c->login;
    struct envelope *e = env_new(ENV_TOKEN, who);
    m->wanted = wanted(c);
    m->software = name_of(l, "software");
    m->device = name_of(l, "device");
    e->id = l->client;
    e->seq = ++c->question;
    e->bytes = bytes_new(NULL, fast__request__get_packed_size(m));
    fast__request__pack(m, (uint8_t *)e->bytes->data);
    c2s_wait(c);
    c2s_ask(c, &e);
}

static bool is_true(const char *v)
{
    return v && (!strcmp(v, "true") || !strcmp(v, "1"));
}

void c2s_token_check(struct c2s *c)
{
    const struct xml *fast = xml_find(c->login->request, "fast", NS_FAST);
    if (!fast || !c->login->client) {
        c2s_sasl_fail(c, SASL_MALFORMED_REQUEST); /* tokens are a client's, so it says which one it is */
        return;
    }
    struct sasl_token t = sasl_token(c->sasl);
    Fast__Request m = FAST__REQUEST__INIT;
    m.mech = mech_number(sasl_mech(c->sasl));
    m.proof = (ProtobufCBinaryData){t.proof_len, (uint8_t *)(uintptr_t)t.proof};
    m.binding = (ProtobufCBinaryData){t.binding_len, (uint8_t *)(uintptr_t)t.binding};
    m.invalidate = is_true(xml_get(fast, "invalidate"));
    ask(c, sasl_user(c->sasl), &m);
}

bool c2s_token_request(struct c2s *c)
{
    Fast__Request m = FAST__REQUEST__INIT;
    c->login->token_done = true;
    if (!wanted(c))
        return false;
    ask(c, c->user, &m);
    return true;
}

static bool is_token_text(ProtobufCBinaryData d)
{
    for (size_t i = 0; i < d.len; i++)
        if (d.data[i] <= ' ' || d.data[i] >= 0x7f || strchr("<>&'\"", d.data[i]))
            return false;
    return d.len && d.len < 256;
}

static void say_token(struct c2s *c, const Fast__Answer *m)
{
    struct buf *b = &c->login->result;
    c->login->token_done = true;
    if (!is_token_text(m->token) || !is_token_text(m->expiry))
        return;
    buf_printf(b, "<token xmlns='" NS_FAST "' expiry='%.*s' token='%.*s'/>", (int)m->expiry.len,
               (const char *)m->expiry.data, (int)m->token.len, (const char *)m->token.data);
    log_info(&c->log, "token-issued", "peer", conn_peer(c->conn));
}

/* To a client that is logged in it is no harm to get no token; the others are not logged in. */
void c2s_tokened(struct c2s *c, const struct envelope *e)
{
    if (!c->login || !c->waiting || e->seq != c->question)
        return;
    c2s_answered(c);
    Fast__Answer *m = e->bytes ? fast__answer__unpack(NULL, e->bytes->len, (const uint8_t *)e->bytes->data) : NULL;
    enum err err = e->code ? (enum err)e->code : m && m->responder.len <= SASL_RESPONDER_MAX ? OK : ERR_INVALID;
    if (err == OK)
        say_token(c, m);
    if (c->state == C2S_AUTHED)
        c2s_login_go(c);
    else if (c->sasl)
        c2s_token_checked(c, err, m ? m->responder.data : NULL, m && err == OK ? m->responder.len : 0);
    if (m)
        fast__answer__free_unpacked(m, NULL);
}
