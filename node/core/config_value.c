/* One option's text: reading it, and saying what may stand there. */
#include "config_table.h"
#include "jid.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

struct unit {
    const char *name;
    uint64_t factor;
};

/* Largest first: a number is written with the first that divides it. */
static const struct unit size_units[] = {{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
                                         {"B", 1},         {"", 1},          {NULL, 0}};
static const struct unit time_units[] = {{"h", 3600000}, {"min", 60000}, {"s", 1000}, {"ms", 1}, {NULL, 0}};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

static const struct unit *units_of(const struct option *o)
{
    return o->type == OPTION_SIZE ? size_units : o->type == OPTION_DURATION ? time_units : no_units;
}

const char *option_noun(const struct option *o)
{
    static const char *const nouns[] = {
        [OPTION_SECTION] = "a map of options",
        [OPTION_LIST] = "a list of maps",
        [OPTION_BOOL] = "a truth value",
        [OPTION_INT] = "a number",
        [OPTION_PORT] = "a port",
        [OPTION_SIZE] = "a size",
        [OPTION_DURATION] = "a duration",
        [OPTION_ENUM] = "a known word",
        [OPTION_WORD] = "a known word",
        [OPTION_PATH] = "a path",
        [OPTION_FILE] = "a readable file",
        [OPTION_SOCKET] = "the path of a socket",
        [OPTION_DOMAIN] = "a domain",
        [OPTION_JID] = "a bare JID",
        [OPTION_ADDRESS] = "an IP address",
        [OPTION_NETWORK] = "a network",
        [OPTION_ENDPOINT] = "a host with a port",
        [OPTION_NODE] = "a node's name",
        [OPTION_NAME] = "a name",
        [OPTION_TEXT] = "a text",
        [OPTION_URL] = "a URL",
        [OPTION_PATTERN] = "a regular expression",
        [OPTION_LOCALPARTS] = "a list of names",
        [OPTION_URI] = "a URI",
        [OPTION_CONNINFO] = "a connection string",
    };
    return nouns[o->type];
}

static void write_number(struct buf *out, const struct option *o, uint64_t n)
{
    const struct unit *u = units_of(o);
    while (n && u[1].name && n % u->factor)
        u++;
    if (n)
        buf_printf(out, "%llu%s", (unsigned long long)(n / u->factor), u->name);
    else
        buf_str(out, "0");
}

void option_allowed(const struct option *o, struct buf *out)
{
    switch (o->type) {
    case OPTION_INT:
    case OPTION_PORT:
    case OPTION_SIZE:
    case OPTION_DURATION:
        write_number(out, o, o->min);
        buf_str(out, " to ");
        write_number(out, o, o->max);
        buf_str(out, o->type == OPTION_SIZE ? ", e.g. 64KiB" : o->type == OPTION_DURATION ? ", e.g. 30s" : "");
        break;
    case OPTION_ENUM:
    case OPTION_WORD:
        for (size_t i = 0; o->words[i]; i++)
            buf_printf(out, "%s%s", i ? ", " : "", o->words[i]);
        break;
    case OPTION_TEXT:
        buf_printf(out, "at most %llu bytes of UTF-8", (unsigned long long)o->max);
        break;
    case OPTION_SOCKET:
        buf_printf(out, "at most %zu bytes when absolute", sizeof((struct sockaddr_un *)0)->sun_path - 1);
        break;
    default: {
        static const char *const examples[] = {[OPTION_SECTION] = "`key: value` lines",
                                               [OPTION_LIST] = "items that begin with `-`",
                                               [OPTION_BOOL] = "yes or no",
                                               [OPTION_PATH] = "a path, e.g. data/file",
                                               [OPTION_FILE] = "the path of a file",
                                               [OPTION_DOMAIN] = "a domain, e.g. example.org",
                                               [OPTION_JID] = "user@domain",
                                               [OPTION_ADDRESS] = "e.g. 192.0.2.1 or \"2001:db8::1\"",
                                               [OPTION_NETWORK] = "e.g. 192.0.2.0/24 or 2001:db8::/32",
                                               [OPTION_ENDPOINT] =
                                                   "e.g. host.example.org:5290 or \"[2001:db8::1]:5290\"",
                                               [OPTION_NODE] = "1 to 63 of a-z, 0-9 and -",
                                               [OPTION_URL] = "https://... or http://..., at most 1000 bytes",
                                               [OPTION_PATTERN] = "at most 1000 bytes, e.g. [a-z]{3,20}",
                                               [OPTION_LOCALPARTS] = "localparts with spaces between them",
                                               [OPTION_NAME] = "1 to 255 visible ASCII characters",
                                               [OPTION_URI] = "e.g. xmpp:admin@example.org or mailto:admin@example.org",
                                               [OPTION_CONNINFO] = "e.g. \"host=db1,db2 dbname=rookery "
                                                                   "target_session_attrs=read-write\""};
        buf_str(out, examples[o->type]);
    }
    }
}

void option_quote(struct buf *out, const char *text, size_t n)
{
    enum { SHOWN = 80 };
    buf_str(out, "\"");
    for (size_t i = 0; i < n && i < SHOWN; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f)
            buf_printf(out, "\\x%02x", c);
        else
            buf_add(out, text + i, 1);
    }
    buf_str(out, n > SHOWN ? "...\"" : "\"");
}

static void refuse(const struct option *o, const char *text, size_t n, struct buf *wrong)
{
    if (o->type == OPTION_CONNINFO)
        buf_str(wrong, "this");
    else
        option_quote(wrong, text, n);
    buf_printf(wrong, " is not %s; allowed: ", option_noun(o));
    option_allowed(o, wrong);
}

/* Digits and one of the units. A bare 0 needs none. */
static bool parse_number(const char *s, const struct unit *units, uint64_t *out)
{
    uint64_t v = 0;
    if (*s < '0' || *s > '9')
        return false;
    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return false;
    *out = 0;
    if (!v && !*s)
        return true;
    for (; units->name; units++)
        if (!strcmp(units->name, s))
            return !__builtin_mul_overflow(v, units->factor, out);
    return false;
}

static bool read_number(const struct option *o, const char *s, void *field)
{
    uint64_t v, unit = o->unit_ms ? o->unit_ms : 1;
    if (!parse_number(s, units_of(o), &v) || v < o->min || v > o->max || v % unit)
        return false;
    if (o->type == OPTION_PORT)
        *(uint16_t *)field = (uint16_t)v;
    else
        *(uint32_t *)field = (uint32_t)(v / unit);
    return true;
}

static bool read_bool(const char *s, bool *out)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(words[i], s)) {
            *out = i % 2;
            return true;
        }
    return false;
}

static bool read_word(const struct option *o, const char *s, void *field)
{
    for (unsigned i = 0; o->words[i]; i++)
        if (!strcmp(o->words[i], s)) {
            if (o->type == OPTION_ENUM)
                *(unsigned *)field = i;
            else
                *(const char **)field = o->words[i];
            return true;
        }
    return false;
}

static const char *read_jid(struct arena *a, const char *s, size_t n)
{
    const struct jid *j = jid_parse(a, s, n);
    return j && jid_is_bare(j) && j->local_len ? j->s : NULL;
}

/* "address/bits" or an address alone; bits behind the prefix must be zero, a set one is mostly a slip. */
static const char *read_network(struct arena *a, const char *s)
{
    unsigned char ip[16] = {0};
    const char *slash = strchr(s, '/');
    const char *address = slash ? arena_strndup(a, s, (size_t)(slash - s)) : s;
    unsigned bits = inet_pton(AF_INET, address, ip) == 1 ? 32 : inet_pton(AF_INET6, address, ip) == 1 ? 128 : 0;
    uint64_t prefix = bits;
    if (!bits || (slash && (!parse_number(slash + 1, no_units, &prefix) || prefix > bits)))
        return NULL;
    for (uint64_t i = prefix; i < bits; i++)
        if (ip[i / 8] & 0x80 >> i % 8)
            return NULL;
    return arena_printf(a, "%s/%llu", address, (unsigned long long)prefix);
}

static const char *read_address(struct arena *a, const char *s)
{
    unsigned char ip[16];
    return inet_pton(AF_INET, s, ip) == 1 || inet_pton(AF_INET6, s, ip) == 1 ? arena_strdup(a, s) : NULL;
}

static bool all_of(const char *s, const char *allowed, size_t max)
{
    size_t n = strspn(s, allowed);
    return n && !s[n] && n <= max;
}

/* Whether the host is found shows only later: names may be resolved elsewhere. */
static const char *read_endpoint(struct arena *a, const char *s)
{
    unsigned char ip[16];
    uint64_t port;
    const char *colon = strrchr(s, ':');
    size_t n = colon ? (size_t)(colon - s) : 0;
    if (!colon || !parse_number(colon + 1, no_units, &port) || !port || port > UINT16_MAX)
        return NULL;
    const char *host = arena_strndup(a, s, n);
    bool good = n > 2 && *host == '[' && host[n - 1] == ']'
                    ? inet_pton(AF_INET6, arena_strndup(a, host + 1, n - 2), ip) == 1
                    : all_of(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-", 253);
    return good ? arena_strdup(a, s) : NULL;
}

static const char *read_name(struct arena *a, const char *s)
{
    size_t n = 0;
    while (s[n] > 0x20 && s[n] < 0x7f)
        n++;
    return n && !s[n] && n <= 255 ? arena_strdup(a, s) : NULL;
}

/* It goes into XML: no control characters but line ends and tabs. YAML has seen to UTF-8. */
static const char *read_text(const struct option *o, const char *s, size_t n, struct arena *a)
{
    if (n > o->max)
        return NULL;
    for (const char *p = s; *p; p++)
        if (((unsigned char)*p < 0x20 && !strchr("\t\n\r", *p)) || *p == 0x7f)
            return NULL;
    return arena_strdup(a, s);
}

static const char *read_url(struct arena *a, const char *s)
{
    bool scheme = !strncmp(s, "https://", 8) || !strncmp(s, "http://", 7);
    size_t n = 0;
    while ((unsigned char)s[n] > 0x20 && s[n] != 0x7f)
        n++;
    return scheme && !s[n] && n <= 1000 ? arena_strdup(a, s) : NULL;
}

static const char *read_pattern(struct arena *a, const char *s, struct buf *wrong)
{
    regex_t re;
    char why[200];
    if (!*s || strlen(s) > 1000)
        return NULL;
    const char *whole = arena_printf(a, "^(%s)$", s);
    int e = regcomp(&re, whole, REG_EXTENDED | REG_NOSUB);
    if (!e) {
        regfree(&re);
        return whole;
    }
    regerror(e, &re, why, sizeof why);
    option_quote(wrong, s, strlen(s));
    buf_printf(wrong, " is not a regular expression: %s", why);
    return NULL;
}

static const char *read_localparts(struct arena *a, const char *s, size_t n)
{
    char *out = arena_bytes(a, n * 4 + 1), *end = out; /* preparation may lengthen a name */
    for (size_t len; *(s += strspn(s, " \t\n,")); s += len) {
        len = strcspn(s, " \t\n,");
        const char *name = jid_prep_local(a, s, len);
        if (!name || (size_t)(end - out) + strlen(name) + 1 > n * 4)
            return NULL;
        end += sprintf(end, "%s%s", end == out ? "" : " ", name);
    }
    *end = 0;
    return out;
}

/* RFC 3986: a scheme, and visible ASCII. */
static const char *read_uri(struct arena *a, const char *s)
{
    size_t scheme = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    return isalpha((unsigned char)*s) && s[scheme] == ':' && s[scheme + 1] ? read_name(a, s) : NULL;
}

/* libpq alone understands all of it, and says what is wrong when the database is opened. */
static const char *read_conninfo(struct arena *a, const char *s)
{
    bool uri = !strncmp(s, "postgresql://", 13) || !strncmp(s, "postgres://", 11);
    return uri || strchr(s, '=') ? arena_strdup(a, s) : NULL;
}

static const char *read_path(const struct option *o, const char *s, const char *dir, struct arena *a, struct buf *wrong)
{
    if (!*s)
        return NULL;
    const char *path = *s == '/' ? arena_strdup(a, s) : arena_printf(a, "%s/%s", dir, s);
    if (o->type == OPTION_FILE && access(path, R_OK)) {
        option_quote(wrong, s, strlen(s));
        buf_printf(wrong, " cannot be read: %s (looked for %s)", strerror(errno), path);
        return NULL;
    }
    return o->type == OPTION_SOCKET && strlen(path) >= sizeof((struct sockaddr_un *)0)->sun_path ? NULL : path;
}

static const char *read_string(const struct option *o, const char *s, size_t n, const char *dir, struct arena *a,
                               struct buf *wrong)
{
    switch (o->type) {
    case OPTION_DOMAIN:
        return jid_prep_domain(a, s, n);
    case OPTION_JID:
        return read_jid(a, s, n);
    case OPTION_ADDRESS:
        return read_address(a, s);
    case OPTION_NETWORK:
        return read_network(a, s);
    case OPTION_ENDPOINT:
        return read_endpoint(a, s);
    case OPTION_NODE:
        return all_of(s, "abcdefghijklmnopqrstuvwxyz0123456789-", 63) ? arena_strdup(a, s) : NULL;
    case OPTION_NAME:
        return read_name(a, s);
    case OPTION_TEXT:
        return read_text(o, s, n, a);
    case OPTION_URL:
        return read_url(a, s);
    case OPTION_PATTERN:
        return read_pattern(a, s, wrong);
    case OPTION_LOCALPARTS:
        return read_localparts(a, s, n);
    case OPTION_URI:
        return read_uri(a, s);
    case OPTION_CONNINFO:
        return read_conninfo(a, s);
    default:
        return read_path(o, s, dir, a, wrong);
    }
}

static bool read_field(const struct option *o, const char *s, size_t n, const char *dir, struct arena *a, void *field,
                       struct buf *wrong)
{
    switch (o->type) {
    case OPTION_BOOL:
        return read_bool(s, field);
    case OPTION_INT:
    case OPTION_PORT:
    case OPTION_SIZE:
    case OPTION_DURATION:
        return read_number(o, s, field);
    case OPTION_ENUM:
    case OPTION_WORD:
        return read_word(o, s, field);
    default: {
        const char *v = read_string(o, s, n, dir, a, wrong);
        if (v)
            *(const char **)field = v;
        return v;
    }
    }
}

bool option_read(const struct option *o, const char *text, size_t n, const char *dir, struct arena *a, void *base,
                 struct buf *wrong)
{
    /* YAML can write a NUL ("\0"); behind it nothing would be looked at. */
    if (strlen(text) == n && read_field(o, text, n, dir, a, (char *)base + o->offset, wrong))
        return true;
    if (!wrong->len)
        refuse(o, text, n, wrong);
    return false;
}
