/* What one chat message costs: gate, parse and tree; tree to bytes; and many streams in turn,
 * whose headers say the same, or not. */
#include "xml_stream.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static const char header[] =
    "<stream:stream to='example.com' version='1.0' xmlns='" NS_CLIENT "' xmlns:stream='" NS_STREAM "'>";
static const char other[] = "<s:stream to='example.com' version='1.0' xmlns='" NS_CLIENT "' xmlns:s='" NS_STREAM "'>";
static const char chat[] = "<message to='romeo@example.net' type='chat' id='m-17'>"
                           "<body>Art thou not Romeo, and a Montague?</body></message>";

static unsigned long elements;
static struct xml *kept;
static struct arena *kept_arena;

static void on_open(void *arg, const struct xml *x, const char *content_ns)
{
    (void)arg, (void)x, (void)content_ns;
}

static void on_element(void *arg, struct arena **arena, struct xml *x)
{
    (void)arg;
    elements++;
    if (kept) {
        arena_free(arena);
        return;
    }
    kept = x;
    kept_arena = *arena;
    *arena = NULL;
}

static void on_close(void *arg)
{
    (void)arg;
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void feed(struct xml_stream *s, const char *p, size_t n)
{
    size_t used;
    const char *why = "";
    enum stream_error err = xml_stream_feed(s, p, n, &used, &why);
    CHECK(!err, "%s", why);
}

static double parse(struct xml_stream **streams, unsigned n_streams, unsigned rounds)
{
    double start = now_ns();
    for (unsigned i = 0; i < rounds; i++)
        feed(streams[i % n_streams], chat, sizeof chat - 1);
    return (now_ns() - start) / rounds;
}

static double serialise(unsigned rounds)
{
    struct buf out = {0};
    double start = now_ns();
    for (unsigned i = 0; i < rounds; i++) {
        buf_clear(&out);
        xml_write(&out, kept, NS_CLIENT);
    }
    double ns = (now_ns() - start) / rounds;
    CHECK(out.len >= 100, "%zu bytes", out.len);
    buf_free(&out);
    return ns;
}

static double best(double a, double b)
{
    return a && a < b ? a : b;
}

int main(void)
{
    static const struct xml_stream_ops ops = {on_open, on_element, on_close};
    static const struct xml_limits limits = {256 * 1024, 64, 64, 10000};
    enum { N = 4, ROUNDS = 200000 };
    struct xml_pool *pool = xml_pool_new(1);
    struct xml_stream *same[N], *differ[N];
    for (int i = 0; i < N; i++) {
        same[i] = xml_stream_new(pool, &ops, NULL, limits);
        differ[i] = xml_stream_new(pool, &ops, NULL, limits);
        feed(same[i], header, sizeof header - 1);
        feed(differ[i], i % 2 ? header : other, (i % 2 ? sizeof header : sizeof other) - 1);
    }
    double t_same = 0, t_differ = 0, t_write = 0;
    for (int i = 0; i < 5; i++) {
        t_same = best(t_same, parse(same, N, ROUNDS));
        t_differ = best(t_differ, parse(differ, N, ROUNDS));
        t_write = best(t_write, serialise(ROUNDS));
    }
    CHECK(elements == 10ul * ROUNDS, "%lu elements", elements);
    printf("chat message of %zu bytes, best of 5 x %d\n", sizeof chat - 1, ROUNDS);
    printf("gate + parse + tree  %7.0f ns\nafter other headers  %7.0f ns\nserialise            %7.0f ns\n", t_same,
           t_differ, t_write);
    arena_free(&kept_arena);
    for (int i = 0; i < N; i++) {
        xml_stream_free(&same[i]);
        xml_stream_free(&differ[i]);
    }
    xml_pool_free(&pool);
    return 0;
}
