/* HTTP requests: whole or byte by byte gives the same answers, nothing is read past its limit, and what is accepted
 * holds none of the bytes two programs might disagree about. */
#include "err.h"
#include "http_request.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_ANSWERS = 64 };

struct seen {
    size_t n, at[MAX_ANSWERS];
    int status[MAX_ANSWERS];
    size_t path[MAX_ANSWERS];
};

static void check_good(struct http_reader *r, const char *p, size_t n)
{
    CHECK(n <= HTTP_MAX_HEAD && !memchr(p, 0, n), "length %zu", n);
    for (size_t i = 0; i < n; i++) {
        CHECK((p[i] == '\n') == (i && p[i - 1] == '\r'), "bare line end");
        CHECK(!(i && p[i - 1] == '\n' && (p[i] == ' ' || p[i] == '\t')), "folded line");
    }
    CHECK(strlen(http_reader_path(r)) == r->path.len && r->path.len, "path");
    CHECK(n >= 4 && !memcmp(p + n - 4, "\r\n\r\n", 4), "the end");
}

static void run(const char *data, size_t size, size_t step, struct seen *s)
{
    struct http_reader r;
    http_reader_init(&r);
    size_t at = 0, begin = 0;
    for (int status = 0; at < size && s->n < MAX_ANSWERS;) {
        size_t n = step < size - at ? step : size - at;
        size_t eaten = http_reader_feed(&r, data + at, n, &status);
        CHECK(eaten <= n && (status || eaten == n), "eaten %zu of %zu", eaten, n);
        at += eaten;
        if (!status)
            continue;
        if (status == 200)
            check_good(&r, data + begin, at - begin);
        s->at[s->n] = status == 200 ? at : 0; /* where a bad one is noticed is nobody's business */
        s->path[s->n] = status == 200 ? r.path.len : 0;
        s->status[s->n++] = status;
        if (status != 200 || !r.keep_alive)
            break;
        http_reader_next(&r);
        begin = at;
    }
    http_reader_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole = {0}, bytes = {0};
    run((const char *)data, size, size, &whole);
    run((const char *)data, size, 1, &bytes);
    CHECK(whole.n == bytes.n, "%zu answers or %zu", whole.n, bytes.n);
    for (size_t i = 0; i < whole.n; i++) {
        CHECK(whole.at[i] == bytes.at[i] && whole.path[i] == bytes.path[i], "request %zu", i);
        CHECK((whole.status[i] == 200) == (bytes.status[i] == 200), "%d or %d", whole.status[i], bytes.status[i]);
    }
    return 0;
}
