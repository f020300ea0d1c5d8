/*
 * Structured logs: one line per event with fields, logfmt or JSON, to standard error or a file.
 * Never bodies, passwords, tokens or keys. Control characters are escaped.
 * error = an operator acts; warn = degraded; info = session life; debug = stanzas' heads.
 *
 *     log_info(&c->log, "bound", "jid", jid->s, "sm", "yes");
 */
#ifndef ROOKERY_LOG_H
#define ROOKERY_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_LOGFMT, LOG_JSON };

/* What is bound to a connection, account, link: "kind id" goes before each line's own fields. */
struct log {
    const char *kind; /* "c2s", "sm", "store", ...: a literal */
    uint64_t id;      /* 0: none */
};

/* path NULL: standard error. One thread calls log_setup, again after a reload, and log_reopen after log rotation;
 * others may be writing meanwhile. */
void log_setup(enum log_level max, enum log_format format, const char *path);
void log_level_set(enum log_level max);
void log_reopen(void);

extern _Atomic(enum log_level) log_max; /* read only */

/* Pairs of key, value (strings; a NULL value prints as empty) up to a final NULL. Any thread. */
void log_write(const struct log *l, enum log_level level, const char *event, ...) __attribute__((sentinel));

#define log_at(level, l, ...)                                                                                          \
    do {                                                                                                               \
        if ((level) <= log_max)                                                                                        \
            log_write((l), (level), __VA_ARGS__, (char *)0);                                                           \
    } while (0)
#define log_error(l, ...) log_at(LOG_ERROR, l, __VA_ARGS__)
#define log_warn(l, ...)  log_at(LOG_WARN, l, __VA_ARGS__)
#define log_info(l, ...)  log_at(LOG_INFO, l, __VA_ARGS__)
#define log_debug(l, ...) log_at(LOG_DEBUG, l, __VA_ARGS__)

/* A number as a value; one of 8 rotating per-thread buffers, good for one log line. */
const char *log_num(int64_t n);

#endif
