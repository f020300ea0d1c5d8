#include "http_request.h"

#include <string.h>
#include <strings.h>

/* ---- what the parser reports ---- */

static int on_url(http_parser *p, const char *at, size_t n)
{
    struct http_reader *r = p->data;
    buf_add(&r->target, at, n);
    return 0;
}

static int on_field(http_parser *p, const char *at, size_t n)
{
    struct http_reader *r = p->data;
    if (r->in_value)
        r->field_len = 0;
    r->in_value = false;
    for (size_t i = 0; i < n; i++, r->field_len++)
        if (r->field_len < sizeof r->field)
            r->field[r->field_len] = at[i];
    return 0;
}

static int on_value(http_parser *p, const char *at, size_t n)
{
    (void)at;
    (void)n;
    struct http_reader *r = p->data;
    if (!r->in_value && r->field_len == 4 && !strncasecmp(r->field, "Host", 4))
        r->hosts++;
    r->in_value = true;
    return 0;
}

/* 0: go on. */
static int judge(const struct http_reader *r)
{
    const http_parser *p = &r->parser;
    if (p->http_major != 1 || p->http_minor > 1)
        return 505;
    if (p->uses_transfer_encoding)
        return p->flags & F_CONTENTLENGTH ? 400 : 501;
    if (p->flags & F_CONTENTLENGTH && p->content_length)
        return 413;
    return r->hosts > 1 || (p->http_minor == 1 && !r->hosts) ? 400 : 0;
}

static int on_head(http_parser *p)
{
    struct http_reader *r = p->data;
    r->status = judge(r);
    p->upgrade = 0;            /* we need not follow an Upgrade */
    return r->status ? -1 : 1; /* 1: no body comes */
}

static int on_complete(http_parser *p)
{
    struct http_reader *r = p->data;
    r->status = 200;
    r->keep_alive = http_should_keep_alive(p);
    http_parser_pause(p, 1); /* what follows is the next request */
    return 0;
}

static const http_parser_settings settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_message_complete = on_complete,
};

/* ---- the path ---- */

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool decode(struct buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = p[i];
        if (c == '%') {
            int high = i + 2 < n ? hex(p[i + 1]) : -1, low = high < 0 ? -1 : hex(p[i + 2]);
            if (low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (!c)
            return false;
        buf_add(out, &c, 1);
    }
    return true;
}

static bool take_path(struct http_reader *r)
{
    struct http_parser_url u;
    http_parser_url_init(&u);
    const char *t = buf_data(&r->target);
    if (http_parser_parse_url(t, r->target.len, r->parser.method == HTTP_CONNECT, &u))
        return false;
    if (!(u.field_set & 1 << UF_PATH))
        return decode(&r->path, "/", 1);
    return decode(&r->path, t + u.field_data[UF_PATH].off, u.field_data[UF_PATH].len);
}

/* ---- reading ---- */

static void start(struct http_reader *r)
{
    http_parser_init(&r->parser, HTTP_REQUEST);
    r->parser.data = r;
}

void http_reader_init(struct http_reader *r)
{
    *r = (struct http_reader){0};
    start(r);
}

void http_reader_free(struct http_reader *r)
{
    buf_free(&r->target);
    buf_free(&r->path);
}

void http_reader_next(struct http_reader *r)
{
    http_reader_free(r);
    http_reader_init(r);
}

/* How many bytes come before one that stands where it may not. */
static size_t clean(const struct http_reader *r, const char *p, size_t n)
{
    char last = r->last;
    for (size_t i = 0; i < n; last = p[i++]) {
        bool folded = last == '\n' && (p[i] == ' ' || p[i] == '\t');
        if (!p[i] || folded || (p[i] == '\n') != (last == '\r'))
            return i;
    }
    return n;
}

size_t http_reader_feed(struct http_reader *r, const char *p, size_t n, int *status)
{
    size_t room = HTTP_MAX_HEAD - r->bytes, good = clean(r, p, n < room ? n : room);
    size_t eaten = http_parser_execute(&r->parser, &settings, p, good);
    if (eaten)
        r->last = p[eaten - 1];
    r->bytes += eaten;
    *status = r->status;
    if (r->status == 200 && !take_path(r))
        *status = 400;
    if (!r->status && HTTP_PARSER_ERRNO(&r->parser) != HPE_OK)
        *status = 400;
    else if (!r->status && good < n)
        *status = good == room ? 431 : 400;
    return eaten;
}

const char *http_reader_path(struct http_reader *r)
{
    return buf_cstr(&r->path);
}

const char *http_reader_method(const struct http_reader *r)
{
    return http_method_str(r->parser.method);
}
