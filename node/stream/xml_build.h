/*
 * One expat parser and the tree it is building. Knows the stream's shape (header, children, end tag) and the limits
 * of a tree; bytes, pools and callbacks are xml_stream.c's. Only xml_stream.c includes this.
 */
#ifndef ROOKERY_XML_BUILD_H
#define ROOKERY_XML_BUILD_H

#include "xml_stream.h"

#include <expat.h>

struct xml_level {
    struct xml *x;
    uint32_t children;
};

struct xml_builder {
    XML_Parser expat;
    const struct xml_limits *limits;

    /* What the last feed completed; the owner takes them and sets them to NULL. */
    struct arena *arena; /* of header or element, also while it is being built */
    struct xml *header, *element;
    bool closed;
    const char *content_ns; /* the header's default namespace, "" for none */
    struct buf prefixes;    /* the header's other declarations, as they are written in a tag */

    struct xml_level *stack; /* stack[0] is the element being built; the stream itself is not in it */
    unsigned depth, room;    /* open elements, the stream counted; allocated levels */
    unsigned declarations;   /* of namespaces, seen before the element's own event */
    struct buf text;         /* run of text not yet in the tree */
    enum stream_error err;
    const char *why;
};

void xml_builder_init(struct xml_builder *b, unsigned long salt);
void xml_builder_free(struct xml_builder *b);
/* Back to before the header. */
void xml_builder_reset(struct xml_builder *b, unsigned long salt);
/* Whole tags with the text before them, one tag at a time. b->why is set on errors. */
enum stream_error xml_builder_feed(struct xml_builder *b, const char *p, size_t n) WARN_UNUSED;

#endif
