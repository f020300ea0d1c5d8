/*
 * Bytes of strangers into the XML gate. Properties: where the bytes are cut changes no event; parsers shared with
 * another stream change none either; what is reported, written and read again is the same tree. Input: two bytes that
 * choose the cut, then the stream.
 */
#include "utf8.h"
#include "xml_stream.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct peer {
    struct xml_stream *stream;
    struct buf events;
    enum stream_error err;
};

static void round_trip(const struct xml *x)
{
    struct buf first = {0}, second = {0};
    xml_write(&first, x, "");
    CHECK(utf8_valid(buf_data(&first), first.len), "wrote what is no UTF-8");
    struct arena *a = arena_new();
    struct xml *back = xml_parse(a, buf_data(&first), first.len);
    CHECK(back, "cannot read again: %s", buf_cstr(&first));
    xml_write(&second, back, "");
    CHECK(first.len == second.len && !memcmp(buf_data(&first), buf_data(&second), first.len), "%s became %s",
          buf_cstr(&first), buf_cstr(&second));
    arena_free(&a);
    buf_free(&first);
    buf_free(&second);
}

static void on_open(void *arg, const struct xml *header, const char *content_ns)
{
    struct peer *p = arg;
    struct arena *a = arena_new();
    struct xml *around = xml_new(a, "header", ""); /* in the place of a stanza a header is refused */
    xml_append(around, xml_copy(a, header));
    round_trip(around);
    arena_free(&a);
    buf_printf(&p->events, "open %s\n", content_ns);
    xml_write(&p->events, header, NULL);
}

static void on_element(void *arg, struct arena **arena, struct xml *x)
{
    struct peer *p = arg;
    round_trip(x);
    xml_write(&p->events, x, NULL);
    buf_str(&p->events, "\n");
    arena_free(arena);
}

static void on_close(void *arg)
{
    struct peer *p = arg;
    buf_str(&p->events, "close\n");
}

static const struct xml_stream_ops ops = {on_open, on_element, on_close};

static void feed(struct peer *p, const uint8_t *s, size_t n)
{
    size_t used;
    const char *why = NULL;
    if (p->err)
        return;
    p->err = xml_stream_feed(p->stream, (const char *)s, n, &used, &why);
    CHECK(used == n && (!p->err || why), "%zu of %zu bytes", used, n);
}

enum { WHOLE, CUT, BYTES, PEERS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct xml_limits limits = {2048, 8, 8, 20};
    if (size < 2)
        return 0;
    size_t n = size - 2, cut = (data[0] | (size_t)data[1] << 8) % (n + 1);
    const uint8_t *s = data + 2;
    struct xml_pool *pool = xml_pool_new(1);
    struct peer peer[PEERS] = {0};
    for (int i = 0; i < PEERS; i++)
        peer[i].stream = xml_stream_new(pool, &ops, &peer[i], limits);
    feed(&peer[WHOLE], s, n);
    feed(&peer[CUT], s, cut);
    for (size_t i = 0; i < n; i++)
        feed(&peer[BYTES], s + i, 1);
    feed(&peer[CUT], s + cut, n - cut);
    for (int i = 0; i < PEERS; i++) {
        CHECK(peer[i].err == peer[WHOLE].err, "%s, then %s", stream_error_name(peer[WHOLE].err),
              stream_error_name(peer[i].err));
        CHECK(!strcmp(buf_cstr(&peer[i].events), buf_cstr(&peer[WHOLE].events)), "%s, then %s",
              buf_cstr(&peer[WHOLE].events), buf_cstr(&peer[i].events));
    }
    for (int i = 0; i < PEERS; i++) {
        xml_stream_free(&peer[i].stream);
        buf_free(&peer[i].events);
    }
    xml_pool_free(&pool);
    return 0;
}
