#include "xml_stream.h"

#include "list.h"
#include "utf8.h"
#include "xml_build.h"
#include "xml_lex.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    SPARE_MAX = 16,      /* parsers kept without a stream */
    BIG = 32 * 1024,     /* a parser that saw a stanza of this size has grown, and is not kept */
    LIMIT_MAX = 1 << 30, /* expat counts in int */
};

enum phase { BEFORE_HEADER, OPEN, CLOSED, FAILED };

/* What only a stream in the middle of something needs. */
struct parser {
    struct xml_builder build;
    struct list link; /* idle ones are in pool->idle, those without a stream in pool->spare */
    struct xml_stream *owner;
    struct buf held; /* what came since the last end of a tag */
    bool big;
};

struct xml_pool {
    struct list idle, spare; /* idle: the least recently used is the first */
    unsigned hot, idle_count, spare_count;
    unsigned long salt;
};

struct xml_stream {
    struct xml_pool *pool;
    const struct xml_stream_ops *ops;
    void *arg;
    struct parser *parser; /* NULL: none needed now */
    const char *prime;     /* a header with the names and namespaces of the peer's; for the next parser */
    const char *why;
    struct xml_limits limits;
    uint32_t used; /* raw bytes since the end of the last stanza, white space before the next not counted */
    enum xml_lex lex;
    struct utf8 utf8;
    uint8_t phase, err, bom; /* bom: bytes seen of a byte order mark, BOM_DONE when that is settled */
    bool feeding, dying, restarted;
};

enum { BOM_DONE = 3 };

/* ---- pool ---- */

struct xml_pool *xml_pool_new(unsigned hot)
{
    struct xml_pool *pool = xcalloc(1, sizeof *pool);
    list_init(&pool->idle);
    list_init(&pool->spare);
    pool->hot = hot;
    CHECK(getrandom(&pool->salt, sizeof pool->salt, 0) == sizeof pool->salt, "getrandom");
    return pool;
}

static void parser_free(struct parser *p)
{
    xml_builder_free(&p->build);
    buf_free(&p->held);
    free(p);
}

void xml_pool_free(struct xml_pool **pool)
{
    struct xml_pool *p = *pool;
    *pool = NULL;
    if (!p)
        return;
    CHECK(list_empty(&p->idle), "pool still has streams");
    list_for_each_safe (it, &p->spare)
        parser_free(container_of(it, struct parser, link));
    free(p);
}

static struct parser *take_spare(struct xml_pool *pool)
{
    struct list *it = list_first(&pool->spare);
    struct parser *p;
    if (it) {
        list_del(it);
        pool->spare_count--;
        p = container_of(it, struct parser, link);
    } else {
        p = xcalloc(1, sizeof *p);
        xml_builder_init(&p->build, pool->salt);
    }
    return p;
}

static void leave_idle(struct xml_stream *s)
{
    if (!s->parser || !list_linked(&s->parser->link))
        return;
    list_del(&s->parser->link);
    s->pool->idle_count--;
}

/* Gives the stream's parser back to the pool. What it was in the middle of is lost. */
static void release(struct xml_stream *s)
{
    struct parser *p = s->parser;
    if (!p)
        return;
    leave_idle(s);
    s->parser = NULL;
    p->owner = NULL;
    if (!s->pool || p->big || s->pool->spare_count >= SPARE_MAX) {
        parser_free(p);
        return;
    }
    buf_free(&p->held);
    xml_builder_reset(&p->build, s->pool->salt);
    list_add_tail(&s->pool->spare, &p->link);
    s->pool->spare_count++;
}

/* Shows the parser the header again, so that it stands where the stream stands: between two stanzas. */
static void prime(struct xml_builder *b, const char *header)
{
    static const struct xml_limits any = {LIMIT_MAX, UINT16_MAX, UINT16_MAX, UINT32_MAX};
    b->limits = &any;
    enum stream_error err = xml_builder_feed(b, header, strlen(header));
    CHECK(!err && b->header, "own stream header: %s", b->why ? b->why : "");
    b->header = NULL;
    arena_free(&b->arena);
}

/* The stream's parser, as busy: it cannot be parked now. */
static struct parser *acquire(struct xml_stream *s)
{
    leave_idle(s);
    if (!s->parser) {
        s->parser = take_spare(s->pool);
        s->parser->owner = s;
        if (s->phase == OPEN)
            prime(&s->parser->build, s->prime);
        s->parser->build.limits = &s->limits;
    }
    return s->parser;
}

/* After a feed that left the stream between stanzas its parser may be taken away. */
static void settle(struct xml_stream *s)
{
    if (!s->parser || !xml_stream_idle(s) || list_linked(&s->parser->link))
        return;
    struct xml_pool *pool = s->pool;
    if (s->parser->big) {
        release(s);
        return;
    }
    list_add_tail(&pool->idle, &s->parser->link);
    if (++pool->idle_count > pool->hot)
        release(container_of(list_first(&pool->idle), struct parser, link)->owner);
}

/* ---- the header kept for later ---- */

static const char *const usual_headers[] = {
    "<stream:stream xmlns=\"" NS_CLIENT "\" xmlns:stream=\"" NS_STREAM "\">",
    "<stream:stream xmlns=\"" NS_SERVER "\" xmlns:stream=\"" NS_STREAM "\">",
};

static bool is_usual(const char *header)
{
    return header == usual_headers[0] || header == usual_headers[1];
}

static void forget_header(struct xml_stream *s)
{
    if (!is_usual(s->prime))
        free((char *)s->prime);
    s->prime = NULL;
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
    for (unsigned i = 0; i < sizeof usual_headers / sizeof *usual_headers && !s->prime; i++)
        if (!strcmp(buf_cstr(&h), usual_headers[i]))
            s->prime = usual_headers[i];
    if (!s->prime)
        s->prime = xstrndup(buf_data(&h), h.len);
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
    forget_header(s);
    if (s->feeding)
        s->dying = true; /* xml_stream_feed frees it on its way out */
    else
        free(s);
}

void xml_stream_reset(struct xml_stream *s)
{
    release(s);
    forget_header(s);
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
    if (xml_stream_idle(s))
        release(s);
    s->pool = NULL; /* a busy parser belongs to no list, so it moves along */
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
    struct parser *ps = s->parser;
    struct xml_builder *b = &ps->build;
    ps->big |= s->used > BIG;
    if (ps->held.len) {
        buf_add(&ps->held, p, n);
        p = buf_data(&ps->held);
        n = ps->held.len;
    }
    enum stream_error err = xml_builder_feed(b, p, n);
    if (err) {
        fail(s, err, b->why);
        return;
    }
    if (b->header)
        keep_header(s, b, p, n);
    buf_consume(&ps->held, ps->held.len);
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
    struct parser *ps = acquire(s);
    if (tag)
        parse_tag(s, p, len);
    else
        buf_add(&ps->held, p, len);
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
