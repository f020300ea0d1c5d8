/*
 * The XML gate and stream parser (RFC 6120 sections 4 and 11; DESIGN section 8).
 *
 * Bytes in, at most one event per top-level thing out. Before expat sees a byte it has passed: UTF-8 (no overlong
 * forms, surrogates, U+FFFE/F), no NUL, first byte '<' or white space or a UTF-8 BOM. Doctype, comment, PI,
 * non-predefined entity: restricted-xml. Bytes that are not UTF-8, an XML declaration with another encoding:
 * unsupported-encoding. Text between stanzas: bad-format. A limit: policy-violation. All else expat refuses, undeclared
 * prefixes too: not-well-formed. Limits are in raw bytes since the end of the last stanza, counted before expat's
 * event; white space between stanzas is free. What is cut where never changes the events: expat is given one whole tag
 * at a time (xml_lex.h), callbacks run outside of it.
 *
 * Parsers are expensive in memory, so only a stream in the middle of a stanza has one, from the end of its first tag.
 * Between two it is left to the worker's pool, where any stream whose header says the same (its name and namespaces)
 * takes it as it stands. One thread.
 */
#ifndef ROOKERY_XML_STREAM_H
#define ROOKERY_XML_STREAM_H

#include "stanza.h"

struct xml_limits {
    uint32_t max_stanza_bytes; /* default 10 KiB before authentication, 256 KiB c2s, 512 KiB s2s */
    uint16_t max_depth;        /* 64, the stanza itself is 1 */
    uint16_t max_attributes;   /* 64 per element, namespace declarations counted */
    uint32_t max_children;     /* 10,000 per element */
};                             /* and the tree's memory: 4 * max_stanza_bytes + 64 KiB */

struct xml_pool;
/* A stream between stanzas takes about 150 bytes, and its header's name and namespaces when they are not the usual
 * ones. At most max parsers are kept that no stream has; the least recently used one goes, and one that has seen much.
 */
struct xml_pool *xml_pool_new(unsigned max);
void xml_pool_free(struct xml_pool **p); /* after all its streams */

struct xml_stream;

struct xml_stream_ops {
    /* <stream:stream ...>: header is valid during the call only; name/ns as sent (the callee checks them);
     * content_ns is its default namespace, "" for none. */
    void (*open)(void *arg, const struct xml *header, const char *content_ns);
    /* One complete child of the stream. The callee takes *arena (and x in it). Elements in content_ns are given as they
     * are. */
    void (*element)(void *arg, struct arena **arena, struct xml *x);
    /* </stream:stream> */
    void (*close)(void *arg);
};

struct xml_stream *xml_stream_new(struct xml_pool *pool, const struct xml_stream_ops *ops, void *arg,
                                  struct xml_limits limits);
void xml_stream_free(struct xml_stream **s); /* also allowed inside a callback of s */
void xml_stream_limits(struct xml_stream *s, struct xml_limits limits);
/* Forget everything; the next bytes must be a new stream header (after STARTTLS or SASL). Allowed inside a callback:
 * then the rest of the bytes of this feed is not parsed, and xml_stream_feed reports it by *used < n. */
void xml_stream_reset(struct xml_stream *s);
/* Moves the stream to another worker's pool (call on the old worker, between feeds, then use on the new). */
void xml_stream_detach(struct xml_stream *s);
void xml_stream_attach(struct xml_stream *s, struct xml_pool *pool);

/* Feeds bytes; callbacks run inside. STREAM_OK, or why the stream must be closed (*why: English detail for <text/>).
 * After an error or </stream:stream> further bytes are ignored; the error is returned again. */
enum stream_error xml_stream_feed(struct xml_stream *s, const char *p, size_t n, size_t *used,
                                  const char **why) WARN_UNUSED;
/* True between stanzas (or before the header): nothing half-received. */
bool xml_stream_idle(const struct xml_stream *s);

/* One complete element of our own making (storage, mesh) into a tree; the same gate, any thread. Without an xmlns it is
 * in no namespace (""). NULL when it is not one element. */
struct xml *xml_parse(struct arena *a, const char *p, size_t n);
/* One stanza of our own making, as stanza_bytes wrote it. NULL when malformed. Yours. */
struct stanza *stanza_parse(const char *p, size_t n);

#endif
