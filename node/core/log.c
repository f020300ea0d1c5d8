#include "log.h"

#include "err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <unistr.h>

/* A line fits a pipe's atomic write; TAIL is kept free for what ends the last value and the line. */
enum { LINE_MAX_BYTES = 4096, VALUE_MAX_BYTES = 1024, TAIL = 16 };

struct line {
    size_t len;
    enum log_format format;
    char mem[LINE_MAX_BYTES];
};

_Atomic(enum log_level) log_max = LOG_INFO;
static _Atomic(enum log_format) log_format;
static char *log_path;
static _Atomic int log_fd = STDERR_FILENO;

static const struct log log_self = {.kind = "log"};

static int open_file(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

/* Takes fd. The first file's descriptor number is kept for ever and what comes later takes its place in one step, so
 * that a writer in another thread never meets a closed number, or one that has become somebody's connection. */
static void direct(int fd)
{
    if (fd == log_fd)
        return;
    if (log_fd == STDERR_FILENO) {
        log_fd = fd;
        return;
    }
    CHECK(dup3(fd, log_fd, O_CLOEXEC) == log_fd, "dup3: %s", strerror(errno));
    if (fd != STDERR_FILENO)
        close(fd);
}

void log_setup(enum log_level max, enum log_format format, const char *path)
{
    int fd = path ? open_file(path) : STDERR_FILENO, why = errno;
    free(log_path);
    log_max = max;
    log_format = format;
    log_path = path ? xstrdup(path) : NULL;
    direct(fd < 0 ? STDERR_FILENO : fd);
    if (fd < 0)
        log_error(&log_self, "open failed, logging to standard error", "path", path, "error", strerror(why));
}

void log_level_set(enum log_level max)
{
    log_max = max;
}

void log_reopen(void)
{
    if (!log_path)
        return;
    int fd = open_file(log_path);
    if (fd < 0)
        log_error(&log_self, "reopen failed", "path", log_path, "error", strerror(errno));
    else
        direct(fd);
}

static size_t room(const struct line *l)
{
    return l->len < LINE_MAX_BYTES - TAIL ? LINE_MAX_BYTES - TAIL - l->len : 0;
}

static void put(struct line *l, const char *s, size_t n)
{
    memcpy(l->mem + l->len, s, n);
    l->len += n;
}

/* Would end a line, drive a terminal, or make text look like other text (line separators, bidi marks). */
static bool is_unsafe(ucs4_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

/* The character at s, of n > 0 bytes left, as it stands between quotes; returns the bytes it took. */
static size_t quote_char(const struct line *l, const char *s, size_t n, char out[8], size_t *out_len)
{
    static const char plain[] = "\"\\\n\r\t", letters[] = "\"\\nrt";
    ucs4_t c;
    int took = u8_mbtoucr(&c, (const uint8_t *)s, n);
    const char *p;
    if (took <= 0) {
        took = 1;
        *out_len = (size_t)(l->format == LOG_JSON ? sprintf(out, "\\ufffd") : sprintf(out, "\\x%02x", (uint8_t)*s));
    } else if (c < 0x80 && c && (p = strchr(plain, (int)c))) {
        *out_len = (size_t)sprintf(out, "\\%c", letters[p - plain]);
    } else if (is_unsafe(c)) {
        *out_len = (size_t)sprintf(out, "\\u%04x", (unsigned)c);
    } else {
        memcpy(out, s, (size_t)took);
        *out_len = (size_t)took;
    }
    return (size_t)took;
}

static void put_quoted(struct line *l, const char *s, size_t n)
{
    size_t limit = room(l) < VALUE_MAX_BYTES ? room(l) : VALUE_MAX_BYTES;
    put(l, "\"", 1);
    for (size_t i = 0, used = 0, len; i < n; used += len) {
        char c[8];
        i += quote_char(l, s + i, n - i, c, &len);
        if (used + len > limit) {
            put(l, "...", 3);
            break;
        }
        put(l, c, len);
    }
    put(l, "\"", 1);
}

/* Words of letters, digits and the punctuation of JIDs and addresses stand without quotes in logfmt. */
static bool is_word(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] > '~' || strchr("\"\\=", s[i]))
            return false;
    return n > 0 && n <= VALUE_MAX_BYTES;
}

static void put_field(struct line *l, const char *key, const char *value)
{
    size_t k = strlen(key), n = strlen(value);
    bool json = l->format == LOG_JSON, first = l->len == 0;
    if (room(l) < k + 6)
        return;
    if (json)
        put(l, first ? "{\"" : ",\"", 2);
    else if (!first)
        put(l, " ", 1);
    put(l, key, k);
    put(l, json ? "\":" : "=", json ? 2 : 1);
    if (!json && n <= room(l) && is_word(value, n))
        put(l, value, n);
    else
        put_quoted(l, value, n);
}

static void put_time(struct line *l)
{
    struct timespec now;
    struct tm tm;
    char text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
    put_field(l, "time", text);
}

static void put_head(struct line *l, const struct log *log, enum log_level level, const char *event)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    put_time(l);
    put_field(l, "level", levels[level]);
    if (log && log->kind)
        put_field(l, "kind", log->kind);
    if (log && log->id) {
        char id[24];
        snprintf(id, sizeof id, "%llu", (unsigned long long)log->id);
        put_field(l, "id", id);
    }
    put_field(l, "event", event);
}

void log_write(const struct log *log, enum log_level level, const char *event, ...)
{
    struct line l;
    l.len = 0;
    l.format = log_format;
    put_head(&l, log, level, event);
    va_list ap;
    va_start(ap, event);
    for (const char *key; (key = va_arg(ap, const char *));) {
        const char *value = va_arg(ap, const char *);
        put_field(&l, key, value ? value : "");
    }
    va_end(ap);
    if (l.format == LOG_JSON)
        put(&l, "}", 1);
    put(&l, "\n", 1);
    while (write(log_fd, l.mem, l.len) < 0 && errno == EINTR)
        ; /* any other failure: there is nowhere left to say so */
}

const char *log_num(int64_t n)
{
    static _Thread_local char text[8][24];
    static _Thread_local unsigned next;
    char *p = text[next++ % 8];
    snprintf(p, sizeof text[0], "%lld", (long long)n);
    return p;
}
