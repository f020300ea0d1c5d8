/*
 * XEP-0049: each element is a value of its own, "jabber:iq:private NAMESPACE NAME"; their keys stand line by line in
 * the value "jabber:iq:private", so that they can be counted. An empty element is what an absent one looks like, so
 * setting it removes.
 */
#include "xep.h"
#include "xml_stream.h"

#include <string.h>

#define NS_PRIVATE "jabber:iq:private"

enum { NAME_MAX_BYTES = 512 }; /* of an element's namespace and name */

struct element {
    const char *key;
    const struct xml *x;
    bool listed;
};

/* Lives in its stanza's arena. */
struct request {
    struct hook_late *late;
    struct element *elements;
    size_t count;
    size_t writing; /* set: elements whose write is under way */
    enum err err;
    struct xml *found; /* get */
};

static bool is_empty(const struct xml *x)
{
    return !x->first && !x->attrs;
}

/* NULL: no key can be made of it. A reference may bring a line break into a namespace. */
static const char *key_of(struct arena *ar, const struct xml *x)
{
    if (!*x->ns || !strcmp(x->ns, NS_PRIVATE) || strlen(x->ns) + strlen(x->name) > NAME_MAX_BYTES ||
        strchr(x->ns, '\n'))
        return NULL;
    return arena_printf(ar, NS_PRIVATE " %s %s", x->ns, x->name);
}

static struct element *element_find(const struct request *r, const char *key, size_t n)
{
    for (size_t i = 0; i < r->count; i++)
        if (strlen(r->elements[i].key) == n && !memcmp(r->elements[i].key, key, n))
            return &r->elements[i];
    return NULL;
}

/* NULL: the error has been sent. */
static struct request *request_read(struct hook_ctx *cx, size_t max)
{
    struct arena *ar = cx->stanza->arena;
    struct request *r = arena_alloc(ar, sizeof *r);
    size_t n = xml_count(cx->payload);
    if (!n || n > max) {
        hook_error(cx, n ? SE_POLICY_VIOLATION : SE_NOT_ACCEPTABLE, n ? "too many elements" : "no element");
        return NULL;
    }
    r->elements = arena_alloc(ar, n * sizeof *r->elements);
    for (const struct xml *x = xml_find(cx->payload, NULL, NULL); x; x = xml_find_next(x, NULL, NULL)) {
        const char *key = key_of(ar, x);
        if (!key) {
            hook_error(cx, SE_NOT_ACCEPTABLE, "nothing is kept under this namespace");
            return NULL;
        }
        struct element *e = element_find(r, key, strlen(key));
        *(e ? e : &r->elements[r->count++]) = (struct element){.key = key, .x = x}; /* the last one counts */
    }
    return r;
}

/* ---- get ---- */

static enum err on_value(void *arg, const struct bytes *value, struct bytes **now)
{
    struct request *r = arg;
    (void)now;
    r->found = value ? xml_parse(r->late->stanza->arena, value->data, value->len) : NULL;
    return OK;
}

static void on_got(void *arg, enum err e)
{
    struct request *r = arg;
    struct hook_late *late = r->late; /* its end frees r */
    if (e != OK) {
        hook_late_error(&late, hook_err_stanza(e), NULL);
        return;
    }
    struct stanza *st = stanza_result(late->stanza);
    struct xml *query = xml_add(st->arena, st->x, "query", NS_PRIVATE);
    xml_append(query, xml_copy(st->arena, r->found ? r->found : r->elements->x));
    hook_late_reply(&late, st);
}

static enum hook_result on_get(struct hook_ctx *cx)
{
    struct request *r = request_read(cx, 1);
    if (!r)
        return DONE;
    r->late = hook_wait(cx);
    value_update(r->late->account, r->elements->key, on_value, on_got, r);
    return WAIT;
}

/* ---- set ---- */

/* The keys that will be there. What is written is in their order of coming, so mostly nothing changes. */
static enum err on_index(void *arg, const struct bytes *old, struct bytes **now)
{
    struct request *r = arg;
    struct buf b = {0};
    size_t count = 0, before = 0, n;
    for (const char *p = old ? old->data : ""; *p; p += n + 1, before++) {
        n = strcspn(p, "\n");
        struct element *e = element_find(r, p, n);
        if (e)
            e->listed = true;
        if (e && is_empty(e->x))
            continue;
        buf_printf(&b, "%.*s\n", (int)n, p);
        count++;
    }
    for (size_t i = 0; i < r->count; i++)
        if (!r->elements[i].listed && !is_empty(r->elements[i].x)) {
            buf_printf(&b, "%s\n", r->elements[i].key);
            count++;
        }
    bool changed = b.len != (old ? old->len : 0) || (b.len && memcmp(old->data, buf_data(&b), b.len));
    bool full = count > before && count > r->late->sm->config->private.max_items;
    if (changed && !full)
        *now = bytes_new(b.len ? buf_data(&b) : "", b.len);
    buf_free(&b);
    return full ? ERR_LIMIT : OK;
}

static void on_element(void *arg, enum err e)
{
    struct request *r = arg;
    r->err = r->err ? r->err : e;
    if (!--r->writing)
        hook_late_done(r->late, r->err);
}

static void on_indexed(void *arg, enum err e)
{
    struct request *r = arg;
    struct hook_late *late = r->late;
    if (e == ERR_LIMIT) {
        hook_late_error(&late, SE_POLICY_VIOLATION, "too many elements are kept already");
        return;
    }
    r->writing = 1;
    for (size_t i = 0; i < r->count && e == OK; i++) {
        struct buf b = {0};
        xml_write(&b, r->elements[i].x, NULL);
        struct bytes *value = is_empty(r->elements[i].x) ? NULL : bytes_new(buf_data(&b), b.len);
        r->writing++;
        store_value_set(late->sm->store, late->account->owner, r->elements[i].key, value, on_element, r);
        bytes_unref(&value);
        buf_free(&b);
    }
    on_element(r, e);
}

static bool too_large(const struct request *r, size_t max)
{
    bool large = false;
    for (size_t i = 0; i < r->count && !large; i++) {
        struct buf b = {0};
        xml_write(&b, r->elements[i].x, NULL);
        large = b.len > max;
        buf_free(&b);
    }
    return large;
}

static enum hook_result on_set(struct hook_ctx *cx)
{
    const struct config *c = cx->sm->config;
    struct request *r = request_read(cx, c->private.max_items);
    if (!r)
        return DONE;
    if (too_large(r, c->private.max_item))
        return hook_error(cx, SE_POLICY_VIOLATION, "the element is too large");
    r->late = hook_wait(cx);
    value_update(r->late->account, NS_PRIVATE, on_index, on_indexed, r);
    return WAIT;
}

static enum hook_result on_another(struct hook_ctx *cx)
{
    return hook_error(cx, SE_FORBIDDEN, NULL);
}

static const struct iq_hook iq[] = {
    {IQ_GETS, TO_SELF, NS_PRIVATE, "query", on_get},
    {IQ_SETS, TO_SELF, NS_PRIVATE, "query", on_set},
    {IQ_GETS | IQ_SETS, TO_ACCOUNT | TO_NOBODY, NS_PRIVATE, "query", on_another},
    {0},
};

const struct module xep_0049_private = {
    .name = "private",
    .features = (const char *const[]){NS_PRIVATE, NULL},
    .iq = iq,
};
