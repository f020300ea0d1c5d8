/*
 * Errors that the world causes (disk, network, database). A peer's mistakes are
 * stanza or stream errors (stanza.h, xml_stream.h), ours are CHECK().
 */
#ifndef ROOKERY_ERR_H
#define ROOKERY_ERR_H

#define WARN_UNUSED __attribute__((warn_unused_result))

enum err {
    OK = 0,
    ERR_INVALID, /* input that no retry mends */
    ERR_NOT_FOUND,
    ERR_EXISTS,
    ERR_LIMIT,   /* a configured limit is reached */
    ERR_BUSY,    /* try later: queue full, connection lost before anything was sent */
    ERR_IO,      /* failed, and surely not written */
    ERR_UNKNOWN, /* unknown whether written; settle by (session, seq) */
    ERR_FENCED,  /* this node is not a member of the ring any more */
    ERR_CLOSED,
};

/* A short lower-case word for logs; never NULL. */
const char *err_name(enum err e);

/* Ends the process with file, line and the printf-style context. On in release builds too. */
#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (__builtin_expect(!(cond), 0))                                                                              \
            check_failed(__FILE__, __LINE__, #cond, "" __VA_ARGS__);                                                   \
    } while (0)

_Noreturn void check_failed(const char *file, int line, const char *cond, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Allocation of small, bounded sizes; aborts when memory is gone. Sizes a peer chooses are limited first. */
void *xmalloc(unsigned long n) __attribute__((malloc));
void *xcalloc(unsigned long n, unsigned long size) __attribute__((malloc));
void *xrealloc(void *p, unsigned long n) WARN_UNUSED;
char *xstrdup(const char *s);
char *xstrndup(const char *s, unsigned long n);

#endif
