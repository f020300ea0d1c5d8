#include "xml_build.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Stands between namespace and name in what expat reports. No UTF-8 contains it, so no name can imitate it. */
enum { SEPARATOR = 0xFF, TEXT_KEEP = 4096, TREE_SPARE = 64 * 1024 };

static void fail(struct xml_builder *b, enum stream_error err, const char *why)
{
    if (b->err)
        return;
    b->err = err;
    b->why = why;
    XML_StopParser(b->expat, XML_FALSE);
}

static void need_arena(struct xml_builder *b)
{
    if (!b->arena)
        b->arena = arena_new();
}

/* Many small elements take more memory than bytes on the wire. */
static void check_memory(struct xml_builder *b)
{
    if (arena_size(b->arena) > 4 * (size_t)b->limits->max_stanza_bytes + TREE_SPARE)
        fail(b, STREAM_POLICY_VIOLATION, "stanza takes too much memory");
}

static struct xml *top(const struct xml_builder *b)
{
    return b->depth > 1 ? b->stack[b->depth - 2].x : NULL;
}

static void flush_text(struct xml_builder *b)
{
    if (!b->text.len)
        return;
    xml_add_text(b->arena, top(b), buf_data(&b->text), b->text.len);
    if (b->text.cap > TEXT_KEEP)
        buf_free(&b->text);
    else
        buf_clear(&b->text);
}

/* "namespace SEPARATOR name" or "name". A namespace equal to known is not copied again. */
static const char *take_name(struct arena *a, const char *raw, const char *known, const char **ns)
{
    char *sep = strchr(raw, (char)SEPARATOR);
    if (!sep) {
        *ns = NULL;
        return arena_strdup(a, raw);
    }
    size_t n = (size_t)(sep - raw);
    if (known && !strncmp(known, raw, n) && !known[n]) {
        *ns = known;
        return arena_strdup(a, sep + 1);
    }
    char *copy = arena_strdup(a, raw);
    copy[n] = 0;
    *ns = copy;
    return copy + n + 1;
}

static void take_attrs(struct xml_builder *b, struct xml *x, const char **raw)
{
    unsigned n = 0;
    while (raw[2 * n])
        n++;
    if (n + b->declarations > b->limits->max_attributes)
        fail(b, STREAM_POLICY_VIOLATION, "too many attributes");
    b->declarations = 0;
    if (b->err || !n)
        return;
    struct xml_attr *attrs = arena_alloc(b->arena, n * sizeof *attrs);
    for (unsigned i = 0; i < n; i++) {
        const char *known = i && attrs[i - 1].ns ? attrs[i - 1].ns : NS_XML;
        attrs[i].name = take_name(b->arena, raw[2 * i], known, &attrs[i].ns);
        attrs[i].value = arena_strdup(b->arena, raw[2 * i + 1]);
        attrs[i].next = i + 1 < n ? &attrs[i + 1] : NULL;
    }
    x->attrs = attrs;
}

static void push(struct xml_builder *b, struct xml *x)
{
    if (b->depth - 1 == b->room) {
        b->room = b->room ? 2 * b->room : 8;
        b->stack = xrealloc(b->stack, b->room * sizeof *b->stack);
    }
    b->stack[b->depth - 1] = (struct xml_level){.x = x};
}

static void add_child(struct xml_builder *b, struct xml *x)
{
    struct xml_level *parent = &b->stack[b->depth - 2];
    flush_text(b);
    xml_append(parent->x, x);
    if (++parent->children > b->limits->max_children)
        fail(b, STREAM_POLICY_VIOLATION, "too many child elements");
}

static void on_start(void *arg, const char *raw, const char **attrs)
{
    struct xml_builder *b = arg;
    if (b->err)
        return;
    if (b->depth > b->limits->max_depth) {
        fail(b, STREAM_POLICY_VIOLATION, "elements nested too deeply");
        return;
    }
    if (b->depth == 1 && b->element) { /* cannot be, see xml_lex.h */
        fail(b, STREAM_NOT_WELL_FORMED, "two stanzas where one was seen");
        return;
    }
    need_arena(b);
    struct xml *parent = top(b), *x = xml_new(b->arena, NULL, NULL);
    x->name = take_name(b->arena, raw, parent ? parent->ns : NULL, &x->ns);
    if (!x->ns)
        x->ns = "";
    if (b->depth == 1 && !strcmp(x->name, "stream") && !strcmp(x->ns, NS_STREAM)) {
        fail(b, STREAM_UNSUPPORTED_STANZA_TYPE, "a second stream header"); /* now: its end would never come */
        return;
    }
    take_attrs(b, x, attrs);
    if (!b->depth)
        b->header = x;
    else if (parent)
        add_child(b, x);
    if (b->depth)
        push(b, x);
    b->depth++;
    check_memory(b);
}

static void on_end(void *arg, const char *raw)
{
    (void)raw;
    struct xml_builder *b = arg;
    if (b->err)
        return;
    flush_text(b);
    b->depth--;
    if (b->depth == 1)
        b->element = b->stack[0].x;
    b->closed = !b->depth;
    if (b->arena)
        check_memory(b);
}

static void on_text(void *arg, const char *s, int n)
{
    struct xml_builder *b = arg;
    if (b->err)
        return;
    if (b->depth > 1) {
        buf_add(&b->text, s, (size_t)n);
        return;
    }
    for (int i = 0; i < n; i++)
        if (!strchr(" \t\r\n", s[i]))
            fail(b, STREAM_BAD_FORMAT, "text between stanzas");
}

static void on_namespace(void *arg, const char *prefix, const char *uri)
{
    struct xml_builder *b = arg;
    b->declarations++;
    if (b->depth || b->err)
        return;
    if (!uri)
        uri = "";
    if (!prefix) {
        need_arena(b);
        b->content_ns = arena_strdup(b->arena, uri);
        return;
    }
    buf_printf(&b->prefixes, " xmlns:%s=\"", prefix);
    xml_escape(&b->prefixes, uri, strlen(uri), true);
    buf_str(&b->prefixes, "\"");
}

static void on_declaration(void *arg, const char *version, const char *encoding, int standalone)
{
    (void)standalone;
    struct xml_builder *b = arg;
    if (version && strcmp(version, "1.0") != 0)
        fail(b, STREAM_NOT_WELL_FORMED, "not XML 1.0");
    if (encoding && strcasecmp(encoding, "utf-8") != 0)
        fail(b, STREAM_UNSUPPORTED_ENCODING, "encoding is not UTF-8");
}

static void on_doctype(void *arg, const char *name, const char *sysid, const char *pubid, int internal)
{
    (void)name, (void)sysid, (void)pubid, (void)internal;
    fail(arg, STREAM_RESTRICTED_XML, "document type");
}

static void on_comment(void *arg, const char *text)
{
    (void)text;
    fail(arg, STREAM_RESTRICTED_XML, "comment");
}

static void on_instruction(void *arg, const char *target, const char *data)
{
    (void)target, (void)data;
    fail(arg, STREAM_RESTRICTED_XML, "processing instruction");
}

/* The salt is ours to give: expat would ask the kernel for a new one at each reset. */
static void set_up(struct xml_builder *b, unsigned long salt)
{
    XML_SetHashSalt(b->expat, salt);
    XML_SetUserData(b->expat, b);
    XML_SetElementHandler(b->expat, on_start, on_end);
    XML_SetCharacterDataHandler(b->expat, on_text);
    XML_SetStartNamespaceDeclHandler(b->expat, on_namespace);
    XML_SetXmlDeclHandler(b->expat, on_declaration);
    XML_SetStartDoctypeDeclHandler(b->expat, on_doctype);
    XML_SetCommentHandler(b->expat, on_comment);
    XML_SetProcessingInstructionHandler(b->expat, on_instruction);
    b->content_ns = "";
}

void xml_builder_init(struct xml_builder *b, unsigned long salt)
{
    *b = (struct xml_builder){.expat = XML_ParserCreateNS("UTF-8", (XML_Char)SEPARATOR)};
    CHECK(b->expat, "out of memory for a parser");
    set_up(b, salt);
}

void xml_builder_free(struct xml_builder *b)
{
    arena_free(&b->arena);
    XML_ParserFree(b->expat);
    buf_free(&b->prefixes);
    buf_free(&b->text);
    free(b->stack);
}

void xml_builder_reset(struct xml_builder *b, unsigned long salt)
{
    arena_free(&b->arena);
    b->header = b->element = NULL;
    b->closed = false;
    b->depth = b->declarations = 0;
    b->err = STREAM_OK;
    buf_clear(&b->prefixes);
    buf_clear(&b->text);
    CHECK(XML_ParserReset(b->expat, "UTF-8"), "parser reset");
    set_up(b, salt);
}

enum stream_error xml_builder_feed(struct xml_builder *b, const char *p, size_t n)
{
    if (XML_Parse(b->expat, p, (int)n, XML_FALSE) != XML_STATUS_ERROR || b->err)
        return b->err;
    enum XML_Error code = XML_GetErrorCode(b->expat);
    b->err = code == XML_ERROR_UNDEFINED_ENTITY ? STREAM_RESTRICTED_XML : STREAM_NOT_WELL_FORMED;
    b->why = XML_ErrorString(code);
    return b->err;
}
