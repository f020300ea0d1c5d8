#include "xml_stream.h"

#include "list.h"
#include "utf8.h"
#include "xml_build.h"
#include "xml_lex.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    BIG = 32 * 1024,    /* a parser that saw a stanza of this size has grown, and is not kept; */
    WORN = 64 * 1024,   /* nor one that saw so much of all, for expat remembers every name */
    LIMIT_MAX = 1 << 30 /* expat counts in int */
};

enum phase { BEFORE_HEADER, OPEN, CLOSED, FAILED };

/* What only a stream in the middle of a stanza needs. */
struct parser {
    struct xml_builder build;
    struct list link;   /* pool->spare */
    const char *header; /* it stands between two stanzas of any stream with this one; NULL: before a header */
    uint32_t fed;
    bool big;
};

struct xml_pool {
    struct list spare; /* without a stream; the one used last comes first */
    unsigned max, count;
    unsigned long salt;
};

struct xml_stream {
    struct xml_pool *pool;
    const struct xml_stream_ops *ops;
    void *arg;
    struct parser *parser; /* NULL: none needed now */
    struct buf held;       /* what came since the last end of a tag */
    const char *prime;     /* a header with the names and namespaces of the peer's; for its parsers */
    const char *why;
    struct xml_limits limits;
    uint32_t used; /* raw bytes since the end of the last stanza, white space before the next not counted */
    enum xml_lex lex;
    struct utf8 utf8;
    uint8_t phase, err, bom; /* bom: bytes seen of a byte order mark, BOM_DONE when that is settled */
    bool feeding, dying, restarted;
};

enum { BOM_DONE = 3 };

/* ---- headers that are kept ---- */

static const char *const usual_headers[] = {
    "<stream:stream xmlns=\"" NS_CLIENT "\" xmlns:stream=\"" NS_STREAM "\">",
    "<stream:stream xmlns=\"" NS_SERVER "\" xmlns:stream=\"" NS_STREAM "\">",
};

static const char *header_copy(const char *h, size_t n)
{
    for (unsigned i = 0; i < sizeof usual_headers / sizeof *usual_headers; i++)
        if (strlen(usual_headers[i]) == n && !memcmp(h, usual_headers[i], n))
            return usual_headers[i];
    return xstrndup(h, n);
}

static void header_free(const char **h)
{
    if (*h != usual_headers[0] && *h != usual_headers[1])
        free((char *)*h);
    *h = NULL;
}

static bool header_same(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

/* ---- pool ---- */

struct xml_pool *xml_pool_new(unsigned max)
{
    struct xml_pool *pool = xcalloc(1, sizeof *pool);
    list_init(&pool->spare);
    pool->max = max;
    CHECK(getrandom(&pool->salt, sizeof pool->salt, 0) == sizeof pool->salt, "getrandom");
    return pool;
}

static void parser_free(struct parser *p)
{
    xml_builder_free(&p->build);
    header_free(&p->header);
    free(p);
}

void xml_pool_free(struct xml_pool **pool)
{
    struct xml_pool *p = *pool;
    *pool = NULL;
    if (!p)
        return;
    list_for_each_safe (it, &p->spare)
        parser_free(container_of(it, struct parser, link));
    free(p);
}

static struct parser *unlink_spare(struct xml_pool *pool, struct list *it)
{
    list_del(it);
    pool->count--;
    return container_of(it, struct parser, link);
}

static void rewind_parser(struct xml_pool *pool, struct parser *p)
{
    header_free(&p->header);
    xml_builder_reset(&p->build, pool->salt);
}

/* One that stands behind this header, or before any. */
static struct parser *take(struct xml_pool *pool, const char *header)
{
    list_for_each (it, &pool->spare)
        if (header_same(container_of(it, struct parser, link)->header, header))
            return unlink_spare(pool, it);
    struct parser *p;
    if (pool->count && pool->count >= pool->max) {
        p = unlink_spare(pool, pool->spare.prev);
        rewind_parser(pool, p);
    } else {
        p = xcalloc(1, sizeof *p);
        xml_builder_init(&p->build, pool->salt);
    }
    return p;
}

static void put(struct xml_pool *pool, struct parser *p)
{
    if (p->big || p->fed > WORN) {
        parser_free(p);
        return;
    }
    list_add(&pool->spare, &p->link);
    if (++pool->count > pool->max)
        parser_free(unlink_spare(pool, pool->spare.prev));
}

/* Gives the stream's parser back to the pool. What it was in the middle of is lost. */
static void release(struct xml_stream *s)
{
    struct parser *p = s->parser;
    buf_free(&s->held);
    if (!p)
        return;
    s->parser = NULL;
    if (!s->pool) {
        parser_free(p);
        return;
    }
    rewind_parser(s->pool, p);
    put(s->pool, p);
}

/* Shows the parser the header again, so that it stands where the stream stands: between two stanzas. */
static void prime(struct parser *p, const char *header)
{
    static const struct xml_limits any = {LIMIT_MAX, UINT16_MAX, UINT16_MAX, UINT32_MAX};
    struct xml_builder *b = &p->build;
    b->limits = &any;
    enum stream_error err = xml_builder_feed(b, header, strlen(header));
    CHECK(!err && b->header, "own stream header: %s", b->why ? b->why : "");
    b->header = NULL;
    arena_free(&b->arena);
    buf_free(&b->prefixes);
    p->header = header_copy(header, strlen(header));
}

static struct parser *acquire(struct xml_stream *s)
{
    if (s->parser)
        return s->parser;
    const char *header = s->phase == OPEN ? s->prime : NULL;
    struct parser *p = s->parser = take(s->pool, header);
    if (header && !p->header)
        prime(p, header);
    p->build.limits = &s->limits;
    return p;
}

/* A feed that left the stream between two stanzas leaves its parser to others. */
static void settle(struct xml_stream *s)
{
    struct parser *p = s->parser;
    if (!p || !xml_stream_idle(s))
        return;
    buf_free(&s->held);
    if (s->phase == OPEN && !p->header)
        p->header = header_copy(s->prime, strlen(s->prime));
    s->parser = NULL;
    put(s->pool, p);
}

/* tag: the header as received, for the name with its prefix, which the end tag must repeat. */
static void keep_header(struct xml_stream *s, struct xml_builder *b, const char *tag, size_t n)
{
    const char *name = (const char *)memrchr(tag, '<', n) + 1;
    struct buf h = {0};
    buf_str(&h, "<");
    buf_add(&h, name, strcspn(name, " \t\r\n/>"));
    if (b->content_ns[0]) {
        buf_str(&h, " xmlns=\"");
        xml_escape(&h, b->content_ns, strlen(b->content_ns), true);
        buf_str(&h, "\"");
    }
    buf_str(&h, buf_cstr(&b->prefixes));
    buf_str(&h, ">");
    s->prime = header_copy(buf_data(&h), h.len);
    buf_free(&h);
    buf_free(&b->prefixes);
}

/* ---- life ---- */

struct xml_stream *xml_stream_new(struct xml_pool *pool, const struct xml_stream_ops *ops, void *arg,
                                  struct xml_limits limits)
{
    struct xml_stream *s = xcalloc(1, sizeof *s);
    s->pool = pool;
    s->ops = ops;
    s->arg = arg;
    xml_stream_limits(s, limits);
    return s;
}

void xml_stream_limits(struct xml_stream *s, struct xml_limits limits)
{
    s->limits = limits;
    if (s->limits.max_stanza_bytes > LIMIT_MAX)
        s->limits.max_stanza_bytes = LIMIT_MAX;
}

void xml_stream_free(struct xml_stream **sp)
{
    struct xml_stream *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    release(s);
    header_free(&s->prime);
    if (s->feeding)
        s->dying = true; /* xml_stream_feed frees it on its way out */
    else
        free(s);
}

void xml_stream_reset(struct xml_stream *s)
{
    release(s);
    header_free(&s->prime);
    s->phase = BEFORE_HEADER;
    s->err = STREAM_OK;
    s->used = 0;
    s->bom = 0;
    s->lex = LEX_TEXT;
    s->utf8 = (struct utf8){0};
    s->restarted = true;
}

void xml_stream_detach(struct xml_stream *s)
{
    CHECK(!s->feeding, "detach inside a feed");
    s->pool = NULL; /* a parser in the middle of something belongs to no list, so it moves along */
}

void xml_stream_attach(struct xml_stream *s, struct xml_pool *pool)
{
    CHECK(!s->pool, "attached twice");
    s->pool = pool;
}

bool xml_stream_idle(const struct xml_stream *s)
{
    return !s->used && (s->bom == 0 || s->bom == BOM_DONE);
}

/* ---- feeding ---- */

static void fail(struct xml_stream *s, enum stream_error err, const char *why)
{
    release(s);
    s->phase = FAILED;
    s->err = (uint8_t)err;
    s->why = why;
}

static bool is_live(const struct xml_stream *s)
{
    return !s->dying && !s->restarted && (s->phase == BEFORE_HEADER || s->phase == OPEN);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* A byte order mark, and what no encoding of '<' but UTF-8 starts with. Returns the bytes to leave out. */
static size_t at_start(struct xml_stream *s, char c)
{
    static const char mark[] = "\xEF\xBB\xBF";
    if (s->bom < BOM_DONE && c == mark[s->bom]) {
        s->bom++;
        return 1;
    }
    if (s->bom == 0)
        s->bom = BOM_DONE;
    if (s->bom != BOM_DONE || c <= 0)
        fail(s, STREAM_UNSUPPORTED_ENCODING, "not UTF-8");
    else if (c != '<' && !is_space(c))
        fail(s, STREAM_NOT_WELL_FORMED, "no stream header");
    return 0;
}

/* Between stanzas: white space keeps a connection alive and counts for nothing; expat need not see it. */
static size_t at_gap(struct xml_stream *s, const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && is_space(p[i]))
        i++;
    if (!i && p[0] != '<')
        fail(s, STREAM_BAD_FORMAT, "text between stanzas");
    return i;
}

/* Hands out what the builder has completed. A callback may free or reset the stream. */
static void dispatch(struct xml_stream *s, struct xml_builder *b)
{
    struct arena *arena = b->arena;
    struct xml *x = b->header ? b->header : b->element;
    bool header = b->header, closed = b->closed;
    const char *content_ns = b->content_ns;
    if (x) {
        s->used = 0;
        b->arena = NULL;
        b->header = b->element = NULL;
    }
    if (header) {
        s->phase = OPEN;
        s->ops->open(s->arg, x, content_ns);
        arena_free(&arena);
    } else if (x) {
        s->ops->element(s->arg, &arena, x);
    }
    if (closed && is_live(s)) {
        release(s);
        s->phase = CLOSED;
        s->used = 0;
        s->ops->close(s->arg);
    }
}

static void parse_tag(struct xml_stream *s, const char *p, size_t n)
{
    struct parser *ps = acquire(s);
    struct xml_builder *b = &ps->build;
    if (s->held.len) {
        buf_add(&s->held, p, n);
        p = buf_data(&s->held);
        n = s->held.len;
    }
    ps->big |= s->used > BIG;
    ps->fed += (uint32_t)n;
    enum stream_error err = xml_builder_feed(b, p, n);
    if (err) {
        fail(s, err, b->why);
        return;
    }
    if (b->header)
        keep_header(s, b, p, n);
    buf_consume(&s->held, s->held.len);
    dispatch(s, b);
}

/* Something other than white space before the next tag: said at once, for the end of the tag may never come. */
static bool is_text(const char *p, size_t n)
{
    while (n && is_space(*p))
        p++, n--;
    return n && *p != '<';
}

/* One step forward in p, at most to behind the next tag. Returns the bytes done. */
static size_t step(struct xml_stream *s, const char *p, size_t n)
{
    if (!s->used) {
        size_t skip = s->phase == OPEN ? at_gap(s, p, n) : at_start(s, *p);
        if (skip || s->phase == FAILED)
            return skip;
    }
    size_t room = s->limits.max_stanza_bytes > s->used ? s->limits.max_stanza_bytes - s->used : 0;
    if (s->phase == BEFORE_HEADER && s->lex == LEX_TEXT && is_text(p, n < room ? n : room)) {
        fail(s, STREAM_NOT_WELL_FORMED, "no stream header");
        return 0;
    }
    bool tag = false;
    size_t len = xml_lex(&s->lex, p, n, &tag);
    bool over = len > room;
    if (over)
        len = room;
    if (!utf8_feed(&s->utf8, p, len))
        fail(s, STREAM_UNSUPPORTED_ENCODING, "not UTF-8");
    else if (over)
        fail(s, STREAM_POLICY_VIOLATION, "stanza too big");
    else if (s->lex == LEX_RESTRICTED)
        fail(s, STREAM_RESTRICTED_XML, "comment or document type");
    if (s->phase == FAILED)
        return len;
    s->used += (uint32_t)len;
    if (tag)
        parse_tag(s, p, len);
    else
        buf_add(&s->held, p, len);
    return len;
}

enum stream_error xml_stream_feed(struct xml_stream *s, const char *p, size_t n, size_t *used, const char **why)
{
    CHECK(!s->feeding, "feed inside a feed");
    size_t at = 0;
    s->feeding = true;
    s->restarted = false;
    while (at < n && is_live(s))
        at += step(s, p + at, n - at);
    s->feeding = false;
    *used = s->phase >= CLOSED && !s->dying ? n : at; /* nothing after an end is wanted */
    if (s->dying) {
        free(s);
        return STREAM_OK;
    }
    if (s->phase == FAILED) {
        *why = s->why;
        return s->err;
    }
    settle(s);
    return STREAM_OK;
}
