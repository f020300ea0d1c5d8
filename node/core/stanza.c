#include "stanza.h"

#include <stdlib.h>
#include <string.h>

#define N_OF(array) (sizeof(array) / sizeof *(array))

static const char *const kind_names[] = {"message", "presence", "iq"};

/* The value of the type attribute; the default of its kind has none. */
static const struct {
    enum stanza_kind kind;
    const char *name;
} types[] = {
    [MESSAGE_NORMAL] = {STANZA_MESSAGE, "normal"},
    [MESSAGE_CHAT] = {STANZA_MESSAGE, "chat"},
    [MESSAGE_GROUPCHAT] = {STANZA_MESSAGE, "groupchat"},
    [MESSAGE_HEADLINE] = {STANZA_MESSAGE, "headline"},
    [MESSAGE_ERROR] = {STANZA_MESSAGE, "error"},
    [PRESENCE_AVAILABLE] = {STANZA_PRESENCE, NULL},
    [PRESENCE_UNAVAILABLE] = {STANZA_PRESENCE, "unavailable"},
    [PRESENCE_SUBSCRIBE] = {STANZA_PRESENCE, "subscribe"},
    [PRESENCE_SUBSCRIBED] = {STANZA_PRESENCE, "subscribed"},
    [PRESENCE_UNSUBSCRIBE] = {STANZA_PRESENCE, "unsubscribe"},
    [PRESENCE_UNSUBSCRIBED] = {STANZA_PRESENCE, "unsubscribed"},
    [PRESENCE_PROBE] = {STANZA_PRESENCE, "probe"},
    [PRESENCE_ERROR] = {STANZA_PRESENCE, "error"},
    [IQ_GET] = {STANZA_IQ, "get"},
    [IQ_SET] = {STANZA_IQ, "set"},
    [IQ_RESULT] = {STANZA_IQ, "result"},
    [IQ_ERROR] = {STANZA_IQ, "error"},
};

/* RFC 6120 8.3.3; where the RFC leaves a choice the first one it names. */
static const struct {
    const char *name, *type;
} errors[] = {
    [SE_BAD_REQUEST] = {"bad-request", "modify"},
    [SE_CONFLICT] = {"conflict", "cancel"},
    [SE_FEATURE_NOT_IMPLEMENTED] = {"feature-not-implemented", "cancel"},
    [SE_FORBIDDEN] = {"forbidden", "auth"},
    [SE_GONE] = {"gone", "cancel"},
    [SE_INTERNAL_SERVER_ERROR] = {"internal-server-error", "cancel"},
    [SE_ITEM_NOT_FOUND] = {"item-not-found", "cancel"},
    [SE_JID_MALFORMED] = {"jid-malformed", "modify"},
    [SE_NOT_ACCEPTABLE] = {"not-acceptable", "modify"},
    [SE_NOT_ALLOWED] = {"not-allowed", "cancel"},
    [SE_NOT_AUTHORIZED] = {"not-authorized", "auth"},
    [SE_POLICY_VIOLATION] = {"policy-violation", "modify"},
    [SE_RECIPIENT_UNAVAILABLE] = {"recipient-unavailable", "wait"},
    [SE_REDIRECT] = {"redirect", "modify"},
    [SE_REGISTRATION_REQUIRED] = {"registration-required", "auth"},
    [SE_REMOTE_SERVER_NOT_FOUND] = {"remote-server-not-found", "cancel"},
    [SE_REMOTE_SERVER_TIMEOUT] = {"remote-server-timeout", "wait"},
    [SE_RESOURCE_CONSTRAINT] = {"resource-constraint", "wait"},
    [SE_SERVICE_UNAVAILABLE] = {"service-unavailable", "cancel"},
    [SE_SUBSCRIPTION_REQUIRED] = {"subscription-required", "auth"},
    [SE_UNDEFINED_CONDITION] = {"undefined-condition", "cancel"},
    [SE_UNEXPECTED_REQUEST] = {"unexpected-request", "wait"},
};

const char *stanza_error_name(enum stanza_error e)
{
    CHECK((unsigned)e < N_OF(errors), "stanza error %d", (int)e);
    return errors[e].name;
}

const char *stream_error_name(enum stream_error e)
{
    static const char *const names[] = {
        [STREAM_OK] = "ok",
        [STREAM_BAD_FORMAT] = "bad-format",
        [STREAM_BAD_NAMESPACE_PREFIX] = "bad-namespace-prefix",
        [STREAM_CONFLICT] = "conflict",
        [STREAM_CONNECTION_TIMEOUT] = "connection-timeout",
        [STREAM_HOST_GONE] = "host-gone",
        [STREAM_HOST_UNKNOWN] = "host-unknown",
        [STREAM_IMPROPER_ADDRESSING] = "improper-addressing",
        [STREAM_INTERNAL_SERVER_ERROR] = "internal-server-error",
        [STREAM_INVALID_FROM] = "invalid-from",
        [STREAM_INVALID_NAMESPACE] = "invalid-namespace",
        [STREAM_INVALID_XML] = "invalid-xml",
        [STREAM_NOT_AUTHORIZED] = "not-authorized",
        [STREAM_NOT_WELL_FORMED] = "not-well-formed",
        [STREAM_POLICY_VIOLATION] = "policy-violation",
        [STREAM_REMOTE_CONNECTION_FAILED] = "remote-connection-failed",
        [STREAM_RESET] = "reset",
        [STREAM_RESOURCE_CONSTRAINT] = "resource-constraint",
        [STREAM_RESTRICTED_XML] = "restricted-xml",
        [STREAM_SEE_OTHER_HOST] = "see-other-host",
        [STREAM_SYSTEM_SHUTDOWN] = "system-shutdown",
        [STREAM_UNDEFINED_CONDITION] = "undefined-condition",
        [STREAM_UNSUPPORTED_ENCODING] = "unsupported-encoding",
        [STREAM_UNSUPPORTED_FEATURE] = "unsupported-feature",
        [STREAM_UNSUPPORTED_STANZA_TYPE] = "unsupported-stanza-type",
        [STREAM_UNSUPPORTED_VERSION] = "unsupported-version",
    };
    CHECK((unsigned)e < N_OF(names), "stream error %d", (int)e);
    return names[e];
}

/* ---- from a tree ---- */

/* A stanza is kept as if it came from a client: the stream's own namespace, and what inherited it, is renamed. */
static void rename_ns(struct xml *x, const char *from, const char *to)
{
    x->ns = to;
    for (struct xml *c = x->first; c; c = c->next)
        if (xml_is(c, NULL, from))
            rename_ns(c, from, to);
}

static enum stanza_kind kind_of(const struct xml *x)
{
    for (unsigned k = 0; k < N_OF(kind_names); k++)
        if (!strcmp(x->name, kind_names[k]))
            return (enum stanza_kind)k;
    CHECK(false, "no stanza");
    return STANZA_IQ;
}

/* False when the kind has no such type; *out is then one that lets the sender get his error answer. */
static bool type_of(enum stanza_kind kind, const char *name, enum stanza_type *out)
{
    static const enum stanza_type fallback[] = {MESSAGE_NORMAL, PRESENCE_AVAILABLE, IQ_GET};
    *out = fallback[kind];
    if (!name)
        return kind != STANZA_IQ;
    for (unsigned t = 0; t < N_OF(types); t++)
        if (types[t].kind == kind && types[t].name && !strcmp(types[t].name, name)) {
            *out = (enum stanza_type)t;
            return true;
        }
    return kind == STANZA_MESSAGE;
}

static bool iq_is_whole(const struct stanza *s)
{
    size_t children = xml_count(s->x);
    if (!s->id)
        return false;
    if (s->type == IQ_GET || s->type == IQ_SET)
        return children == 1;
    return s->type == IQ_ERROR || children <= 1;
}

/* The attribute becomes the prepared JID, so that what is written is what was checked. */
static bool take_jid(struct arena *a, struct xml_attr *at, const struct jid **out)
{
    *out = jid_parse(a, at->value, strlen(at->value));
    if (*out)
        at->value = (*out)->s;
    return *out != NULL;
}

enum err stanza_from_xml(struct arena **arena, struct xml *x, struct stanza **out, enum stanza_error *bad)
{
    struct arena *a = *arena;
    *arena = NULL;
    struct stanza *s = arena_alloc(a, sizeof *s);
    s->arena = a;
    s->x = x;
    s->kind = kind_of(x);
    *out = s;
    if (strcmp(x->ns, NS_CLIENT) != 0)
        rename_ns(x, x->ns, NS_CLIENT);

    bool jids_ok = true;
    const char *type = NULL;
    for (struct xml_attr *at = x->attrs; at; at = at->next) {
        if (at->ns)
            continue;
        if (!strcmp(at->name, "to"))
            jids_ok &= take_jid(a, at, &s->to);
        else if (!strcmp(at->name, "from"))
            jids_ok &= take_jid(a, at, &s->from);
        else if (!strcmp(at->name, "id"))
            s->id = at->value;
        else if (!strcmp(at->name, "type"))
            type = at->value;
    }
    bool type_ok = type_of(s->kind, type, &s->type);
    if (!type_ok || (s->kind == STANZA_IQ && !iq_is_whole(s))) {
        *bad = SE_BAD_REQUEST;
        return ERR_INVALID;
    }
    if (!jids_ok) {
        *bad = SE_JID_MALFORMED;
        return ERR_INVALID;
    }
    return OK;
}

/* ---- our own ---- */

static void set_jid(struct stanza *s, const char *name, const struct jid **field, const struct jid *j)
{
    *field = j ? jid_dup(s->arena, j) : NULL;
    xml_set(s->arena, s->x, name, j ? j->s : NULL);
}

void stanza_set_to(struct stanza *s, const struct jid *to)
{
    set_jid(s, "to", &s->to, to);
}

void stanza_set_from(struct stanza *s, const struct jid *from)
{
    set_jid(s, "from", &s->from, from);
}

void stanza_set_type(struct stanza *s, enum stanza_type t)
{
    CHECK((unsigned)t < N_OF(types) && types[t].kind == s->kind, "type %d for kind %d", (int)t, (int)s->kind);
    s->type = t;
    xml_set(s->arena, s->x, "type", t == MESSAGE_NORMAL ? NULL : types[t].name);
}

struct stanza *stanza_new(enum stanza_kind kind, enum stanza_type type, const struct jid *to, const struct jid *from,
                          const char *id)
{
    struct arena *a = arena_new();
    struct stanza *s = arena_alloc(a, sizeof *s);
    s->arena = a;
    s->kind = kind;
    s->x = xml_new(a, kind_names[kind], NS_CLIENT);
    if (to)
        stanza_set_to(s, to);
    if (from)
        stanza_set_from(s, from);
    stanza_set_type(s, type);
    xml_set(a, s->x, "id", id);
    s->id = xml_get(s->x, "id");
    return s;
}

void stanza_free(struct stanza **sp)
{
    struct stanza *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    struct arena *a = s->arena; /* s lives in it */
    arena_free(&a);
}

struct stanza *stanza_copy(const struct stanza *s)
{
    struct arena *a = arena_new();
    struct stanza *copy = arena_alloc(a, sizeof *copy);
    *copy = *s;
    copy->arena = a;
    copy->x = xml_copy(a, s->x);
    copy->to = s->to ? jid_dup(a, s->to) : NULL;
    copy->from = s->from ? jid_dup(a, s->from) : NULL;
    copy->id = xml_get(copy->x, "id");
    return copy;
}

struct stanza *stanza_result(const struct stanza *q)
{
    return stanza_new(STANZA_IQ, IQ_RESULT, q->from, q->to, q->id);
}

static enum stanza_type error_type(enum stanza_kind kind)
{
    static const enum stanza_type of[] = {MESSAGE_ERROR, PRESENCE_ERROR, IQ_ERROR};
    return of[kind];
}

struct stanza *stanza_error(const struct stanza *q, enum stanza_error e, const char *text)
{
    if (q->type == error_type(q->kind) || q->type == IQ_RESULT)
        return NULL;
    struct stanza *s = stanza_new(q->kind, error_type(q->kind), q->from, q->to, q->id);
    struct xml *error = xml_add(s->arena, s->x, "error", NULL);
    xml_set(s->arena, error, "type", errors[e].type);
    xml_add(s->arena, error, stanza_error_name(e), NS_STANZAS);
    if (text) {
        struct xml *t = xml_add_leaf(s->arena, error, "text", NS_STANZAS, text);
        xml_set_ns(s->arena, t, NS_XML, "lang", "en");
    }
    return s;
}

void stanza_error_extra(struct stanza *err, const char *type, const char *name, const char *ns)
{
    struct xml *error = xml_find(err->x, "error", NS_CLIENT);
    CHECK(error, "stanza without error");
    if (type)
        xml_set(err->arena, error, "type", type);
    if (name)
        xml_add(err->arena, error, arena_strdup(err->arena, name), arena_strdup(err->arena, ns));
}

struct xml *stanza_payload(const struct stanza *s)
{
    return s->type == IQ_GET || s->type == IQ_SET ? xml_find(s->x, NULL, NULL) : NULL;
}

/* ---- bytes ---- */

struct bytes *stanza_bytes(const struct stanza *s)
{
    /* Written behind a place for the header, so the buffer itself becomes the block: no copy. */
    struct buf b = {0};
    buf_reserve(&b, 512);
    buf_wrote(&b, sizeof(struct bytes));
    xml_write(&b, s->x, NS_CLIENT);
    size_t len = b.len - sizeof(struct bytes);
    CHECK(len < UINT32_MAX, "stanza of %zu", len);
    buf_add(&b, "", 1);
    /* It may wait in queues for long: give back what doubling took too much. */
    struct bytes *out = b.cap - b.len > b.len / 4 ? xrealloc(b.mem, b.len) : (void *)b.mem;
    atomic_init(&out->refs, 1);
    out->len = (uint32_t)len;
    return out;
}

struct bytes *bytes_with_children(const struct bytes *stanza, const char *children, size_t n)
{
    const char *data = stanza->data;
    bool empty = stanza->len >= 2 && !memcmp(data + stanza->len - 2, "/>", 2);
    /* Canonical bytes: a '<' is never in a value, so the last one opens the end tag. */
    const char *end = memrchr(data, '<', stanza->len);
    CHECK(end && (empty || end[1] == '/'), "not a stanza");
    size_t head = empty ? stanza->len - 2 : (size_t)(end - data);
    size_t name = strcspn(data + 1, " />");
    size_t tail = empty ? name + 3 : stanza->len - head;

    struct bytes *out = bytes_new(NULL, head + (empty ? 1 : 0) + n + tail);
    char *p = mempcpy(out->data, data, head);
    if (!empty) {
        p = mempcpy(p, children, n);
        memcpy(p, end, tail);
        return out;
    }
    *p++ = '>';
    p = mempcpy(p, children, n);
    p = mempcpy(p, "</", 2);
    p = mempcpy(p, data + 1, name);
    *p = '>';
    return out;
}
