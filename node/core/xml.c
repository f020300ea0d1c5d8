#include "xml.h"

#include <stdio.h>
#include <string.h>

struct xml *xml_new(struct arena *a, const char *name, const char *ns)
{
    struct xml *x = arena_alloc(a, sizeof *x);
    x->name = name;
    x->ns = ns;
    return x;
}

struct xml *xml_add(struct arena *a, struct xml *parent, const char *name, const char *ns)
{
    struct xml *x = xml_new(a, name, ns ? ns : parent->ns);
    xml_append(parent, x);
    return x;
}

void xml_append(struct xml *parent, struct xml *child)
{
    child->next = NULL;
    if (parent->last)
        parent->last->next = child;
    else
        parent->first = child;
    parent->last = child;
}

void xml_prepend(struct xml *parent, struct xml *child)
{
    child->next = parent->first;
    parent->first = child;
    if (!parent->last)
        parent->last = child;
}

void xml_remove(struct xml *parent, struct xml *child)
{
    struct xml *before = NULL;
    for (struct xml *c = parent->first; c; before = c, c = c->next) {
        if (c != child)
            continue;
        if (before)
            before->next = c->next;
        else
            parent->first = c->next;
        if (parent->last == c)
            parent->last = before;
        c->next = NULL;
        return;
    }
}

void xml_add_text(struct arena *a, struct xml *x, const char *text, size_t n)
{
    if (!n)
        return;
    struct xml *t = arena_alloc(a, sizeof *t);
    t->text = arena_strndup(a, text, n);
    t->text_len = n;
    xml_append(x, t);
}

struct xml *xml_add_leaf(struct arena *a, struct xml *parent, const char *name, const char *ns, const char *text)
{
    struct xml *x = xml_add(a, parent, name, ns);
    if (text)
        xml_add_text(a, x, text, strlen(text));
    return x;
}

struct xml *xml_copy(struct arena *a, const struct xml *x)
{
    struct xml *copy = arena_alloc(a, sizeof *copy);
    if (!x->name) {
        copy->text = arena_strndup(a, x->text, x->text_len);
        copy->text_len = x->text_len;
        return copy;
    }
    copy->name = arena_strdup(a, x->name);
    copy->ns = arena_strdup(a, x->ns);
    struct xml_attr **end = &copy->attrs;
    for (const struct xml_attr *at = x->attrs; at; at = at->next) {
        *end = arena_alloc(a, sizeof **end);
        (*end)->ns = at->ns ? arena_strdup(a, at->ns) : NULL;
        (*end)->name = arena_strdup(a, at->name);
        (*end)->value = arena_strdup(a, at->value);
        end = &(*end)->next;
    }
    for (const struct xml *c = x->first; c; c = c->next)
        xml_append(copy, xml_copy(a, c));
    return copy;
}

static bool attr_is(const struct xml_attr *at, const char *ns, const char *name)
{
    return !strcmp(at->name, name) && (ns && at->ns ? !strcmp(at->ns, ns) : ns == at->ns);
}

void xml_set_ns(struct arena *a, struct xml *x, const char *ns, const char *name, const char *value)
{
    struct xml_attr **at = &x->attrs;
    while (*at && !attr_is(*at, ns, name))
        at = &(*at)->next;
    if (!value) {
        if (*at)
            *at = (*at)->next;
        return;
    }
    if (!*at) {
        *at = arena_alloc(a, sizeof **at);
        (*at)->ns = ns;
        (*at)->name = name;
    }
    (*at)->value = arena_strdup(a, value);
}

void xml_set(struct arena *a, struct xml *x, const char *name, const char *value)
{
    xml_set_ns(a, x, NULL, name, value);
}

const char *xml_get_ns(const struct xml *x, const char *ns, const char *name)
{
    for (const struct xml_attr *at = x->attrs; at; at = at->next)
        if (attr_is(at, ns, name))
            return at->value;
    return NULL;
}

const char *xml_get(const struct xml *x, const char *name)
{
    return xml_get_ns(x, NULL, name);
}

bool xml_is(const struct xml *x, const char *name, const char *ns)
{
    return x && x->name && (!name || !strcmp(x->name, name)) && (!ns || !strcmp(x->ns, ns));
}

struct xml *xml_find(const struct xml *x, const char *name, const char *ns)
{
    if (!x || !x->first || xml_is(x->first, name, ns))
        return x ? x->first : NULL;
    return xml_find_next(x->first, name, ns);
}

struct xml *xml_find_next(const struct xml *child, const char *name, const char *ns)
{
    struct xml *c = child->next;
    while (c && !xml_is(c, name, ns))
        c = c->next;
    return c;
}

const char *xml_text(struct arena *a, const struct xml *x)
{
    if (!x)
        return NULL;
    size_t runs = 0, len = 0;
    const struct xml *run = NULL;
    for (const struct xml *c = x->first; c; c = c->next)
        if (!c->name) {
            runs++;
            len += c->text_len;
            run = c;
        }
    if (runs <= 1)
        return run ? run->text : "";
    char *text = arena_bytes(a, len + 1), *p = text;
    for (const struct xml *c = x->first; c; c = c->next)
        if (!c->name)
            p = mempcpy(p, c->text, c->text_len);
    *p = 0;
    return text;
}

const char *xml_find_text(struct arena *a, const struct xml *x, const char *name, const char *ns)
{
    return xml_text(a, xml_find(x, name, ns));
}

size_t xml_count(const struct xml *x)
{
    size_t n = 0;
    for (const struct xml *c = x->first; c; c = c->next)
        n += c->name != NULL;
    return n;
}

/* ---- serialiser ---- */

/* Writes through a pointer of its own, so that the many short pieces of a tag cost no call each. */
struct writer {
    struct buf *out;
    char *at, *end;
};

static void writer_flush(struct writer *w)
{
    buf_wrote(w->out, (size_t)(w->at - buf_data(w->out)) - w->out->len);
}

static void writer_room(struct writer *w, size_t n)
{
    w->at = buf_reserve(w->out, n);
    w->end = w->out->mem + w->out->cap;
}

static inline void put(struct writer *w, const char *s, size_t n)
{
    if ((size_t)(w->end - w->at) < n) {
        writer_flush(w);
        writer_room(w, n);
    }
    memcpy(w->at, s, n);
    w->at += n;
}

static inline void put_str(struct writer *w, const char *s)
{
    put(w, s, strlen(s));
}

#define PUT(w, literal) put(w, "" literal, sizeof(literal) - 1)

enum { IN_TEXT = 1, IN_ATTRIBUTE = 2 };

/* Which bytes must be escaped where. A parser turns a bare CR into LF, and TAB and LF in attributes into spaces. */
static const unsigned char unsafe[256] = {
    ['&'] = IN_TEXT | IN_ATTRIBUTE,  ['<'] = IN_TEXT | IN_ATTRIBUTE, ['>'] = IN_TEXT | IN_ATTRIBUTE,
    ['\r'] = IN_TEXT | IN_ATTRIBUTE, ['"'] = IN_ATTRIBUTE,           ['\''] = IN_ATTRIBUTE,
    ['\t'] = IN_ATTRIBUTE,           ['\n'] = IN_ATTRIBUTE,
};

static void put_reference(struct writer *w, char c)
{
    switch (c) {
    case '&':
        PUT(w, "&amp;");
        break;
    case '<':
        PUT(w, "&lt;");
        break;
    case '>':
        PUT(w, "&gt;");
        break;
    case '"':
        PUT(w, "&quot;");
        break;
    case '\'':
        PUT(w, "&apos;");
        break;
    case '\t':
        PUT(w, "&#9;");
        break;
    case '\n':
        PUT(w, "&#10;");
        break;
    default:
        PUT(w, "&#13;");
    }
}

static void put_escaped(struct writer *w, const char *s, size_t n, unsigned where)
{
    const char *end = s + n;
    while (s < end) {
        const char *run = s;
        while (s < end && !(unsafe[(unsigned char)*s] & where))
            s++;
        put(w, run, (size_t)(s - run));
        if (s < end)
            put_reference(w, *s++);
    }
}

static void put_value(struct writer *w, const char *value)
{
    PUT(w, "=\"");
    put_escaped(w, value, strlen(value), IN_ATTRIBUTE);
    PUT(w, "\"");
}

/* Any namespace but xml's gets a prefix declared here; neighbours in the same one share it. */
static void put_foreign_attr(struct writer *w, const struct xml_attr *at, const char **last_ns, unsigned *prefix)
{
    char name[24];
    if (!*last_ns || strcmp(*last_ns, at->ns) != 0) {
        *last_ns = at->ns;
        ++*prefix;
        snprintf(name, sizeof name, " xmlns:ns%u", *prefix);
        put_str(w, name);
        put_value(w, at->ns);
    }
    snprintf(name, sizeof name, " ns%u:", *prefix);
    put_str(w, name);
    put_str(w, at->name);
    put_value(w, at->value);
}

static void put_attrs(struct writer *w, const struct xml *x)
{
    const char *last_ns = NULL;
    unsigned prefix = 0;
    for (const struct xml_attr *at = x->attrs; at; at = at->next) {
        if (at->ns && strcmp(at->ns, NS_XML) != 0) {
            put_foreign_attr(w, at, &last_ns, &prefix);
            continue;
        }
        if (at->ns)
            PUT(w, " xml:");
        else
            PUT(w, " ");
        put_str(w, at->name);
        put_value(w, at->value);
    }
}

static void put_xml(struct writer *w, const struct xml *x, const char *parent_ns)
{
    if (!x->name) {
        put_escaped(w, x->text, x->text_len, IN_TEXT);
        return;
    }
    /* The xml namespace may not be a default namespace, so such an element must keep its prefix. */
    bool prefixed = x->ns[0] == 'h' && !strcmp(x->ns, NS_XML);
    const char *ns = prefixed ? parent_ns : x->ns;
    const char *open = prefixed ? "<xml:" : "<";
    size_t name_len = strlen(x->name);
    put_str(w, open);
    put(w, x->name, name_len);
    if (!prefixed && ns != parent_ns && (!parent_ns || strcmp(ns, parent_ns) != 0)) {
        PUT(w, " xmlns");
        put_value(w, ns);
    }
    put_attrs(w, x);
    if (!x->first) {
        PUT(w, "/>");
        return;
    }
    PUT(w, ">");
    for (const struct xml *c = x->first; c; c = c->next)
        put_xml(w, c, ns);
    PUT(w, "</");
    put_str(w, open + 1);
    put(w, x->name, name_len);
    PUT(w, ">");
}

void xml_write(struct buf *out, const struct xml *x, const char *parent_ns)
{
    struct writer w = {.out = out};
    writer_room(&w, 256);
    put_xml(&w, x, parent_ns);
    writer_flush(&w);
}

void xml_escape(struct buf *out, const char *s, size_t n, bool in_attribute)
{
    struct writer w = {.out = out};
    writer_room(&w, 256);
    put_escaped(&w, s, n, in_attribute ? IN_ATTRIBUTE : IN_TEXT);
    writer_flush(&w);
}
