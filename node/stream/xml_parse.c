/* Single elements of our own making, read through the same gate: a stream per thread that never ends. */
#include "xml_stream.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const char plain_header[] = "<s>", client_header[] = "<s xmlns='" NS_CLIENT "'>";

struct scratch {
    struct xml_pool *pool;
    struct xml_stream *plain, *client; /* by the namespace an element without xmlns is in */
    struct arena *arena;
    struct xml *x;
    unsigned elements;
};

static _Thread_local struct scratch *mine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* only for its destructor */

static void on_open(void *arg, const struct xml *header, const char *content_ns)
{
    (void)arg, (void)header, (void)content_ns;
}

static void on_element(void *arg, struct arena **arena, struct xml *x)
{
    struct scratch *sc = arg;
    arena_free(&sc->arena);
    sc->arena = *arena;
    sc->x = x;
    sc->elements++;
    *arena = NULL;
}

/* "<a/></s>" would end our stream: more than one element. */
static void on_close(void *arg)
{
    struct scratch *sc = arg;
    sc->elements += 2;
}

static const struct xml_stream_ops ops = {on_open, on_element, on_close};

static void scratch_free(void *arg)
{
    struct scratch *sc = arg;
    xml_stream_free(&sc->plain);
    xml_stream_free(&sc->client);
    xml_pool_free(&sc->pool);
    free(sc);
    mine = NULL;
}

static void make_key(void)
{
    CHECK(!pthread_key_create(&key, scratch_free), "thread key");
}

static bool feed(struct xml_stream *s, const char *p, size_t n)
{
    size_t used;
    const char *why;
    return !xml_stream_feed(s, p, n, &used, &why) && xml_stream_idle(s);
}

static void start(struct xml_stream *s, const char *header)
{
    xml_stream_reset(s);
    CHECK(feed(s, header, strlen(header)), "own header");
}

static struct scratch *scratch(void)
{
    /* Generous: what we wrote may carry more than we let a peer send. */
    static const struct xml_limits limits = {16 << 20, 512, 512, 1 << 20};
    if (!mine) {
        mine = xcalloc(1, sizeof *mine);
        mine->pool = xml_pool_new(2);
        mine->plain = xml_stream_new(mine->pool, &ops, mine, limits);
        mine->client = xml_stream_new(mine->pool, &ops, mine, limits);
        start(mine->plain, plain_header);
        start(mine->client, client_header);
        pthread_once(&once, make_key);
        pthread_setspecific(key, mine);
    }
    return mine;
}

/* The element, with its arena in sc->arena; NULL and no arena when p is anything but one element. */
static struct xml *parse(struct scratch *sc, struct xml_stream *s, const char *p, size_t n)
{
    sc->elements = 0;
    sc->x = NULL;
    if (feed(s, p, n) && sc->elements == 1)
        return sc->x;
    arena_free(&sc->arena);
    start(s, s == sc->plain ? plain_header : client_header);
    return NULL;
}

struct xml *xml_parse(struct arena *a, const char *p, size_t n)
{
    struct scratch *sc = scratch();
    struct xml *x = parse(sc, sc->plain, p, n);
    if (!x)
        return NULL;
    x = xml_copy(a, x);
    arena_free(&sc->arena);
    return x;
}

struct stanza *stanza_parse(const char *p, size_t n)
{
    struct scratch *sc = scratch();
    struct xml *x = parse(sc, sc->client, p, n);
    if (!x)
        return NULL;
    if (!xml_is(x, "message", NULL) && !xml_is(x, "presence", NULL) && !xml_is(x, "iq", NULL)) {
        arena_free(&sc->arena);
        return NULL;
    }
    struct stanza *s;
    enum stanza_error bad;
    if (stanza_from_xml(&sc->arena, x, &s, &bad) != OK)
        stanza_free(&s);
    return s;
}
