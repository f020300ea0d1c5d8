/*
 * Inside of the configuration: the table of options and what one option's text may be.
 * Included by config*.c and their tests only; everyone else includes config.h.
 */
#ifndef ROOKERY_CONFIG_TABLE_H
#define ROOKERY_CONFIG_TABLE_H

#include "arena.h"
#include "buf.h"
#include "config.h"

enum option_type {
    OPTION_SECTION,    /* a map; its options have .section = this .key */
    OPTION_LIST,       /* a list of maps; offsets of its options are relative to the item */
    OPTION_BOOL,       /* bool */
    OPTION_INT,        /* uint32_t */
    OPTION_PORT,       /* uint16_t */
    OPTION_SIZE,       /* uint32_t bytes */
    OPTION_DURATION,   /* uint32_t of .unit_ms milliseconds each */
    OPTION_ENUM,       /* enum: the word's place in .words */
    OPTION_WORD,       /* const char *, one of .words */
    OPTION_PATH,       /* const char *, made absolute */
    OPTION_FILE,       /* as OPTION_PATH; must exist and be readable */
    OPTION_SOCKET,     /* as OPTION_PATH; short enough for sockaddr_un */
    OPTION_DOMAIN,     /* const char *, prepared */
    OPTION_JID,        /* const char *, prepared, bare */
    OPTION_ADDRESS,    /* const char *, numeric IPv4 or IPv6 */
    OPTION_NETWORK,    /* const char *, "address/bits" */
    OPTION_ENDPOINT,   /* const char *, "host:port" */
    OPTION_NODE,       /* const char *, a node's name: [a-z0-9-]{1,63} */
    OPTION_NAME,       /* const char *, 1 to 255 visible ASCII characters */
    OPTION_TEXT,       /* const char *, at most .max bytes; may be empty */
    OPTION_URI,        /* const char *, with its scheme */
    OPTION_URL,        /* const char *, http: or https: */
    OPTION_PATTERN,    /* const char *, a POSIX extended regular expression, made to match whole strings */
    OPTION_LOCALPARTS, /* const char *, prepared, with one space between them; may be empty */
    OPTION_CONNINFO,   /* const char *, for libpq; may hold a password: never shown */
};

struct option {
    const char *section; /* "" at top level */
    const char *key;
    enum option_type type;
    const char *about;    /* one or two sentences of Markdown */
    const char *standard; /* the default as it would stand in the file; NULL: none */
    bool required;
    size_t offset;                  /* of the value in struct config, or in the item of a list */
    uint64_t min, max;              /* numbers: inclusive, durations in ms; lists: number of items */
    uint32_t unit_ms;               /* durations: what the field counts */
    const char *const *words;       /* up to a NULL */
    size_t count_offset, item_size; /* lists */
};

extern const struct option config_options[];
extern const size_t config_option_count;

/* NULL: no such option. key need not be NUL-terminated. */
const struct option *option_find(const char *section, const char *key, size_t n);
/* The known option whose name is closest to section.key; never NULL. */
const struct option *option_nearest(const char *section, const char *key, size_t n);

/* "a size", "a domain", ... */
const char *option_noun(const struct option *o);
/* What may stand there: "0 to 1GiB, e.g. 64KiB". */
void option_allowed(const struct option *o, struct buf *out);
/* Reads text into the field at base + o->offset. False: *wrong gets what is wrong with it, base is untouched.
 * dir is what relative paths are relative to; strings go to arena a. */
bool option_read(const struct option *o, const char *text, size_t n, const char *dir, struct arena *a, void *base,
                 struct buf *wrong);

/* Text made safe to show on one line of a terminal, quoted and shortened. */
void option_quote(struct buf *out, const char *text, size_t n);

/* As config_load, from memory. name stands in the messages. */
enum err config_parse(const char *name, const char *dir, const char *text, size_t n, struct config **out,
                      char **why) WARN_UNUSED;
/* deploy/docs/options.md */
void config_write_options(struct buf *out);

#endif
