/*
 * XEP-0115 and its successor XEP-0390, of a host: hashes over the disco#info that is answered, in the stream features.
 * They take about 20 us; the edge keeps what they are in (c2s_features).
 */
#include "disco.h"
#include "xep.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define NS_CAPS  "http://jabber.org/protocol/caps"
#define NS_CAPS2 "urn:xmpp:caps"
#define NS_DATA  "jabber:x:data"
#define NODE     "urn:rookery:server" /* which software this is; 0115 wants a URI */

/* Text that is sorted and joined. */
struct pieces {
    struct arena *arena;
    const char **list;
    size_t count;
};

static struct pieces pieces_new(struct arena *ar, const struct xml *parent)
{
    return (struct pieces){.arena = ar, .list = arena_alloc(ar, (xml_count(parent) + 1) * sizeof(char *))};
}

static void piece_add(struct pieces *p, const char *text)
{
    p->list[p->count++] = text;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b); /* i;octet: no text has a NUL */
}

static char *pieces_join(struct pieces *p)
{
    struct buf b = {0};
    qsort(p->list, p->count, sizeof *p->list, compare);
    for (size_t i = 0; i < p->count; i++)
        buf_str(&b, p->list[i]);
    char *joined = arena_strndup(p->arena, b.len ? buf_data(&b) : "", b.len);
    buf_free(&b);
    return joined;
}

/* ---- what is hashed ---- */

/* The two XEPs build much the same. US ends every value, in 0115 only until all is sorted: a value goes before those
 * that it is the beginning of. */
#define US "\x1f"

struct form {
    const char *identity;                        /* format of category, type, lang, name */
    const char *field_end, *form_end, *part_end; /* behind a field; a form; all features, identities, forms */
    bool old; /* identities first; a form's FORM_TYPE leads it, without its name; '<' for US */
};

static const struct form v1 = {"%s/%s/%s/%s" US, "", "", "", true};
static const struct form v2 = {"%s" US "%s" US "%s" US "%s" US "\x1e", "\x1e", "\x1d", "\x1c", false};

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

static bool leads(const struct form *f, const struct xml *field)
{
    return f->old && !strcmp(or_empty(xml_get(field, "var")), "FORM_TYPE");
}

static const char *features(struct arena *ar, const struct xml *query)
{
    struct pieces p = pieces_new(ar, query);
    for (struct xml *x = xml_find(query, "feature", NS_INFO); x; x = xml_find_next(x, "feature", NS_INFO))
        piece_add(&p, arena_printf(ar, "%s" US, xml_get(x, "var")));
    return pieces_join(&p);
}

static const char *identities(struct arena *ar, const struct xml *query, const struct form *f)
{
    struct pieces p = pieces_new(ar, query);
    for (struct xml *x = xml_find(query, "identity", NS_INFO); x; x = xml_find_next(x, "identity", NS_INFO))
        piece_add(&p, arena_printf(ar, f->identity, or_empty(xml_get(x, "category")), or_empty(xml_get(x, "type")),
                                   or_empty(xml_get_ns(x, NS_XML, "lang")), or_empty(xml_get(x, "name"))));
    return pieces_join(&p);
}

static const char *field(struct arena *ar, const struct xml *x, const struct form *f)
{
    struct pieces values = pieces_new(ar, x);
    for (struct xml *v = xml_find(x, "value", NS_DATA); v; v = xml_find_next(v, "value", NS_DATA))
        piece_add(&values, arena_printf(ar, "%s" US, xml_text(ar, v)));
    const char *joined = pieces_join(&values);
    if (leads(f, x))
        return joined;
    return arena_printf(ar, "%s" US "%s%s", or_empty(xml_get(x, "var")), joined, f->field_end);
}

static const char *data_form(struct arena *ar, const struct xml *form, const struct form *f)
{
    struct pieces fields = pieces_new(ar, form);
    const char *first = "";
    for (struct xml *x = xml_find(form, "field", NS_DATA); x; x = xml_find_next(x, "field", NS_DATA)) {
        if (leads(f, x))
            first = field(ar, x, f);
        else
            piece_add(&fields, field(ar, x, f));
    }
    return arena_printf(ar, "%s%s%s", first, pieces_join(&fields), f->form_end);
}

static const char *data_forms(struct arena *ar, const struct xml *query, const struct form *f)
{
    struct pieces p = pieces_new(ar, query);
    for (struct xml *x = xml_find(query, "x", NS_DATA); x; x = xml_find_next(x, "x", NS_DATA))
        piece_add(&p, data_form(ar, x, f));
    return pieces_join(&p);
}

static const char *hash_input(struct arena *ar, const struct xml *query, const struct form *f)
{
    const char *fs = features(ar, query), *is = identities(ar, query, f), *ds = data_forms(ar, query, f);
    if (!f->old)
        return arena_printf(ar, "%s%s%s%s%s%s", fs, f->part_end, is, f->part_end, ds, f->part_end);
    char *all = arena_printf(ar, "%s%s%s", is, fs, ds);
    for (char *p = all; (p = strpbrk(p, US));)
        *p++ = '<';
    return all;
}

static const char *hash(struct arena *ar, const EVP_MD *md, const char *input)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n;
    CHECK(EVP_Digest(input, strlen(input), digest, &n, md, NULL) == 1, "digest");
    char *text = arena_bytes(ar, 4 * ((size_t)n + 2) / 3 + 1);
    EVP_EncodeBlock((unsigned char *)text, digest, (int)n);
    return text;
}

/* ---- what is said ---- */

static const char *ver(struct arena *ar, const struct xml *query)
{
    return hash(ar, EVP_sha1(), hash_input(ar, query, &v1));
}

static const struct algorithm {
    const char *name;
    const EVP_MD *(*md)(void);
} algorithms[] = {{"sha-256", EVP_sha256}, {"sha3-256", EVP_sha3_256}};

enum { ALGORITHMS = sizeof algorithms / sizeof *algorithms };

static void on_stream_features(struct sm *s, const char *host, struct arena *a, struct xml *out)
{
    struct arena *ar = arena_new();
    const struct jid *to = jid_trusted(ar, host, strlen(host));
    struct stanza *q = stanza_new(STANZA_IQ, IQ_GET, to, to, "caps");
    struct hook_ctx cx = {.sm = s, .to = TO_SERVER, .stanza = q};
    const struct xml *query = disco_info_write(&cx, ar, xml_new(ar, "iq", NS_CLIENT));
    struct xml *c = xml_add(a, out, "c", NS_CAPS);
    xml_set(a, c, "hash", "sha-1");
    xml_set(a, c, "node", NODE);
    xml_set(a, c, "ver", ver(ar, query));
    struct xml *c2 = xml_add(a, out, "c", NS_CAPS2);
    const char *input = hash_input(ar, query, &v2);
    for (size_t i = 0; i < ALGORITHMS; i++) {
        const char *text = arena_strdup(a, hash(ar, algorithms[i].md(), input));
        xml_set(a, xml_add_leaf(a, c2, "hash", "urn:xmpp:hashes:2", text), "algo", algorithms[i].name);
    }
    stanza_free(&q);
    arena_free(&ar);
}

/* Is node what these features are announced under? */
static bool node_is(struct arena *ar, const struct xml *query, const char *node)
{
    if (!strcmp(node, arena_printf(ar, NODE "#%s", ver(ar, query))))
        return true;
    for (size_t i = 0; i < ALGORITHMS; i++) {
        const char *text = hash(ar, algorithms[i].md(), hash_input(ar, query, &v2));
        if (!strcmp(node, arena_printf(ar, NS_CAPS2 "#%s.%s", algorithms[i].name, text)))
            return true;
    }
    return false;
}

static enum hook_result on_info(struct hook_ctx *cx)
{
    const char *node = xml_get(cx->payload, "node");
    if (!node)
        return PASS;
    struct stanza *r = stanza_result(cx->stanza);
    struct xml *query = disco_info_write(cx, r->arena, r->x);
    if (!node_is(r->arena, query, node)) {
        stanza_free(&r);
        return PASS;
    }
    xml_set(r->arena, query, "node", node);
    return hook_reply(cx, r);
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SERVER, NS_INFO, "query", on_info},
    {0},
};

const struct module xep_0115_caps = {
    .name = "caps",
    .features = (const char *const[]){NS_CAPS, NS_CAPS2, NULL},
    .iq = iq,
    .stream_features = on_stream_features,
};
