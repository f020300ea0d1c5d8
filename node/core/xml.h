/*
 * A small XML tree in an arena, and the canonical serialiser.
 *
 * The tree is what one parser made of received bytes, or what we built; what goes out is always written
 * from a tree, never forwarded. Names and namespaces are resolved; prefixes are not kept.
 */
#ifndef ROOKERY_XML_H
#define ROOKERY_XML_H

#include "arena.h"
#include "buf.h"

#include <stdbool.h>

#define NS_XML "http://www.w3.org/XML/1998/namespace"

struct xml_attr {
    struct xml_attr *next;
    const char *ns; /* NULL: none */
    const char *name, *value;
};

/* An element, or a run of text (then name is NULL). All strings are NUL-terminated UTF-8 without NUL. */
struct xml {
    struct xml *next, *first, *last;
    const char *name, *ns; /* ns never NULL for elements, "" for none */
    struct xml_attr *attrs;
    const char *text;
    size_t text_len;
};

struct xml *xml_new(struct arena *a, const char *name, const char *ns);                     /* borrows both strings */
struct xml *xml_add(struct arena *a, struct xml *parent, const char *name, const char *ns); /* ns NULL: parent's */
void xml_append(struct xml *parent, struct xml *child);
void xml_prepend(struct xml *parent, struct xml *child);
void xml_remove(struct xml *parent, struct xml *child);
void xml_add_text(struct arena *a, struct xml *x, const char *text, size_t n); /* copies */
/* <name>text</name> in the parent's namespace or ns; returns the new element. */
struct xml *xml_add_leaf(struct arena *a, struct xml *parent, const char *name, const char *ns, const char *text);
struct xml *xml_copy(struct arena *a, const struct xml *x);

/* Sets (or with value NULL removes) an attribute without namespace. Copies value, borrows name and ns. */
void xml_set(struct arena *a, struct xml *x, const char *name, const char *value);
void xml_set_ns(struct arena *a, struct xml *x, const char *ns, const char *name, const char *value);
const char *xml_get(const struct xml *x, const char *name); /* NULL: absent */
const char *xml_get_ns(const struct xml *x, const char *ns, const char *name);

/* First child element with this name and ns (either may be NULL: any); x may be NULL. */
struct xml *xml_find(const struct xml *x, const char *name, const char *ns);
/* Next sibling that matches in the same way. */
struct xml *xml_find_next(const struct xml *child, const char *name, const char *ns);
bool xml_is(const struct xml *x, const char *name, const char *ns); /* x may be NULL */
/* Text directly inside x, concatenated; "" for none. x NULL gives NULL. */
const char *xml_text(struct arena *a, const struct xml *x);
const char *xml_find_text(struct arena *a, const struct xml *x, const char *name,
                          const char *ns); /* NULL: no such child */
/* Elements directly inside x. */
size_t xml_count(const struct xml *x);

/* Writes x as it must stand where parent_ns is the default namespace: xmlns only where it changes, attributes
 * double-quoted, & < > " ' and TAB CR LF in attributes escaped, & < > and CR in text. parent_ns NULL: not known,
 * the namespace is always declared. Prefixes appear only for namespaced attributes (xml:, ns1:, ...) and xml: elements.
 */
void xml_write(struct buf *out, const struct xml *x, const char *parent_ns);
/* Escapes n bytes as the text or attribute value above. */
void xml_escape(struct buf *out, const char *s, size_t n, bool in_attribute);

#endif
