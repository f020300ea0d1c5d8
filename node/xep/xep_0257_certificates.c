/* XEP-0257: an account's list of the certificates that may log in to it by SASL EXTERNAL. */
#include "certificate.h"
#include "certificates.h"
#include "xep.h"

#include <string.h>

#define NS_CERT "urn:xmpp:saslcert:1"

enum { CERTIFICATES_MAX = 32, NAME_MAX_BYTES = 256, DER_MAX = 16384 };

/* Lives in its stanza's arena. */
struct request {
    struct hook_late *late;
    const char *name;
    uint8_t *der; /* append */
    size_t der_len;
    uint8_t hash[CERTIFICATE_HASH_LEN];
    bool no_management, revoke;
    enum stanza_error refused; /* why the change gave ERR_INVALID */
    struct xml *items;         /* get */
};

static bool enabled(const struct hook_ctx *cx)
{
    return cx->sm->config->sasl.external;
}

static void list_pack(const Certificates__List *m, struct bytes **now)
{
    *now = bytes_new(NULL, certificates__list__get_packed_size(m));
    certificates__list__pack(m, (uint8_t *)(*now)->data);
}

static bool named(const Certificates__Certificate *m, const char *name)
{
    return m->name.len == strlen(name) && !memcmp(m->name.data, name, m->name.len);
}

static bool hash_of(const Certificates__Certificate *m, uint8_t hash[CERTIFICATE_HASH_LEN])
{
    struct certificate c;
    if (!certificate_parse(m->der.data, m->der.len, &c))
        return false;
    memcpy(hash, c.hash, sizeof c.hash);
    certificate_clear(&c);
    return true;
}

static enum err refuse(struct request *r, enum stanza_error why)
{
    r->refused = why;
    return ERR_INVALID;
}

/* ---- changes ---- */

static bool is_taken(const Certificates__Certificate *m, const struct request *r)
{
    uint8_t hash[CERTIFICATE_HASH_LEN];
    return named(m, r->name) || (hash_of(m, hash) && !memcmp(hash, r->hash, sizeof hash));
}

static enum err append(void *arg, const struct bytes *old, struct bytes **now)
{
    struct request *r = arg;
    Certificates__List *m = certificates_read(old), all = CERTIFICATES__LIST__INIT;
    Certificates__Certificate added = CERTIFICATES__CERTIFICATE__INIT, *list[CERTIFICATES_MAX];
    enum err e = m && m->n_certificates >= CERTIFICATES_MAX ? refuse(r, SE_RESOURCE_CONSTRAINT) : OK;
    for (size_t i = 0; m && i < m->n_certificates && e == OK; i++) {
        list[all.n_certificates++] = m->certificates[i];
        e = is_taken(m->certificates[i], r) ? refuse(r, SE_CONFLICT) : OK;
    }
    if (e == OK) {
        added.name = (ProtobufCBinaryData){strlen(r->name), (uint8_t *)(uintptr_t)r->name};
        added.der = (ProtobufCBinaryData){r->der_len, r->der};
        added.no_management = r->no_management;
        list[all.n_certificates++] = &added;
        all.certificates = list;
        list_pack(&all, now);
    }
    if (m)
        certificates__list__free_unpacked(m, NULL);
    return e;
}

static enum err take_out(void *arg, const struct bytes *old, struct bytes **now)
{
    struct request *r = arg;
    Certificates__List *m = certificates_read(old);
    size_t i = 0, n = m ? m->n_certificates : 0;
    while (i < n && !named(m->certificates[i], r->name))
        i++;
    if (i < n) {
        Certificates__Certificate *gone = m->certificates[i];
        r->revoke &= hash_of(gone, r->hash);
        m->certificates[i] = m->certificates[n - 1];
        m->certificates[n - 1] = gone;
        m->n_certificates = n - 1;
        list_pack(m, now);
        m->n_certificates = n; /* to be freed with the others */
    }
    if (m)
        certificates__list__free_unpacked(m, NULL);
    return i < n ? OK : refuse(r, SE_ITEM_NOT_FOUND);
}

static void end_sessions(struct account *a, uint64_t certificate)
{
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (se->certificate == certificate)
            session_kick(se, STREAM_NOT_AUTHORIZED);
    }
}

static void on_changed(void *arg, enum err e)
{
    struct request *r = arg;
    struct hook_late *l = r->late;
    struct account *a = l->account;
    uint64_t revoked = e == OK && r->revoke ? certificate_id(r->hash) : 0;
    enum stanza_error refused = r->refused;
    account_pin(a);
    if (e == ERR_INVALID)
        hook_late_error(&l, refused, NULL);
    else
        hook_late_done(l, e);
    if (revoked)
        end_sessions(a, revoked);
    account_unpin(a);
}

/* ---- iq ---- */

/* Base64 may be broken into lines. */
static bool read_der(struct arena *a, const char *text, struct request *r)
{
    size_t n = text ? strlen(text) : 0, used = 0;
    if (!n || n > DER_MAX * 2)
        return false;
    char *packed = arena_bytes(a, n + 1);
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", text[i]))
            packed[used++] = text[i];
    r->der = arena_alloc(a, used + 1);
    long len = base64_decode(r->der, used + 1, packed, used);
    struct certificate c;
    if (len <= 0 || len > DER_MAX || !certificate_parse(r->der, (size_t)len, &c))
        return false;
    r->der_len = (size_t)len;
    memcpy(r->hash, c.hash, sizeof c.hash);
    certificate_clear(&c);
    return true;
}

static struct request *request_new(struct hook_ctx *cx)
{
    struct arena *a = cx->stanza->arena;
    struct request *r = arena_alloc(a, sizeof *r);
    *r = (struct request){.name = xml_find_text(a, cx->payload, "name", NS_CERT)};
    return r;
}

static enum hook_result start(struct hook_ctx *cx, struct request *r, value_change_fn *work, store_done_fn *done)
{
    struct account *a = cx->account;
    r->late = hook_wait(cx);
    value_update(a, CERTIFICATES_KEY, work, done, r);
    return WAIT;
}

static bool may_change(const struct hook_ctx *cx)
{
    return cx->session && !cx->session->no_manager;
}

static enum hook_result on_append(struct hook_ctx *cx)
{
    struct arena *a = cx->stanza->arena;
    if (!enabled(cx))
        return PASS;
    if (!may_change(cx))
        return hook_error(cx, SE_FORBIDDEN, "not with this certificate");
    struct request *r = request_new(cx);
    if (!r->name || !*r->name || strlen(r->name) > NAME_MAX_BYTES ||
        !read_der(a, xml_find_text(a, cx->payload, "x509cert", NS_CERT), r))
        return hook_error(cx, SE_BAD_REQUEST, "a name and a certificate (base64 of DER) are needed");
    r->no_management = xml_find(cx->payload, "no-cert-management", NS_CERT);
    return start(cx, r, append, on_changed);
}

/* <disable/>, <revoke/> */
static enum hook_result on_remove(struct hook_ctx *cx)
{
    if (!enabled(cx))
        return PASS;
    if (!may_change(cx))
        return hook_error(cx, SE_FORBIDDEN, "not with this certificate");
    struct request *r = request_new(cx);
    r->revoke = xml_is(cx->payload, "revoke", NS_CERT);
    return r->name ? start(cx, r, take_out, on_changed) : hook_error(cx, SE_BAD_REQUEST, "a name is needed");
}

static void add_users(struct arena *a, struct xml *item, const struct account *account, uint64_t certificate)
{
    struct xml *users = NULL;
    list_for_each (l, &account->sessions) {
        const struct session *se = container_of(l, struct session, link);
        if (se->certificate != certificate)
            continue;
        users = users ? users : xml_add(a, item, "users", NULL);
        xml_add_leaf(a, users, "resource", NULL, jid_resource(se->jid));
    }
}

static enum err collect(void *arg, const struct bytes *value, struct bytes **now)
{
    struct request *r = arg;
    struct arena *a = r->late->stanza->arena;
    Certificates__List *m = certificates_read(value);
    (void)now;
    r->items = xml_new(a, "items", NS_CERT);
    for (size_t i = 0; m && i < m->n_certificates; i++) {
        const Certificates__Certificate *c = m->certificates[i];
        struct xml *item = xml_add(a, r->items, "item", NULL);
        char *text = arena_bytes(a, (c->der.len + 2) / 3 * 4 + 1);
        base64_encode(text, c->der.data, c->der.len);
        xml_add_leaf(a, item, "name", NULL, arena_strndup(a, (const char *)c->name.data, c->name.len));
        xml_add_leaf(a, item, "x509cert", NULL, text);
        if (hash_of(c, r->hash))
            add_users(a, item, r->late->account, certificate_id(r->hash));
    }
    if (m)
        certificates__list__free_unpacked(m, NULL);
    return OK;
}

static void on_collected(void *arg, enum err e)
{
    struct request *r = arg;
    struct hook_late *l = r->late;
    if (e != OK) {
        hook_late_done(l, e);
        return;
    }
    struct stanza *reply = stanza_result(l->stanza);
    xml_append(reply->x, xml_copy(reply->arena, r->items));
    hook_late_reply(&l, reply);
}

static enum hook_result on_items(struct hook_ctx *cx)
{
    return enabled(cx) ? start(cx, request_new(cx), collect, on_collected) : PASS;
}

static void on_disco(struct hook_ctx *cx, struct arena *a, struct xml *query)
{
    if (cx->to == TO_SERVER && enabled(cx))
        xml_set(a, xml_add(a, query, "feature", NULL), "var", NS_CERT);
}

static const struct iq_hook iq[] = {
    {IQ_SETS, TO_SELF | TO_SERVER, NS_CERT, "append", on_append},
    {IQ_SETS, TO_SELF | TO_SERVER, NS_CERT, "disable", on_remove},
    {IQ_SETS, TO_SELF | TO_SERVER, NS_CERT, "revoke", on_remove},
    {IQ_GETS, TO_SELF | TO_SERVER, NS_CERT, "items", on_items},
    {0},
};

const struct module xep_0257_certificates = {
    .name = "certificates",
    .iq = iq,
    .disco_info = on_disco,
};
