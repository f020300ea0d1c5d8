/* Loading and checking: a walk over the YAML document along the table of options. */
#include "config_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

enum { FILE_MAX = 1 << 20, MISTAKES_MAX = 100 };

struct check {
    const char *name, *dir; /* the file's, for messages and relative paths */
    struct arena *arena;
    yaml_document_t *doc;
    struct config *config;
    struct buf why;
    unsigned mistakes;
};

__attribute__((format(printf, 3, 4))) static void mistake(struct check *c, size_t line, const char *fmt, ...)
{
    if (++c->mistakes > MISTAKES_MAX)
        return;
    char *text;
    va_list ap;
    va_start(ap, fmt);
    CHECK(vasprintf(&text, fmt, ap) >= 0, "out of memory");
    va_end(ap);
    buf_printf(&c->why, "%s:%zu: %s\n", c->name, line, text);
    free(text);
    if (c->mistakes == MISTAKES_MAX)
        buf_printf(&c->why, "%s: there may be more mistakes\n", c->name);
}

static bool given_up(const struct check *c)
{
    return c->mistakes >= MISTAKES_MAX;
}

static size_t line_of(const yaml_node_t *n)
{
    return n->start_mark.line + 1;
}

/* "c2s.rate" */
static const char *full_name(struct check *c, const char *section, const char *key)
{
    return *section ? arena_printf(c->arena, "%s.%s", section, key) : key;
}

/* `key:` with nothing behind it, as when all its lines are commented out. */
static bool is_empty(const yaml_node_t *n)
{
    return n->type == YAML_SCALAR_NODE && n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !n->data.scalar.length;
}

static void check_scalar(struct check *c, const struct option *o, const yaml_node_t *n, void *base)
{
    struct buf wrong = {0};
    const char *name = full_name(c, o->section, o->key);
    if (n->type != YAML_SCALAR_NODE) {
        buf_printf(&wrong, "a %s stands here, not %s; allowed: ", n->type == YAML_MAPPING_NODE ? "map" : "list",
                   option_noun(o));
        option_allowed(o, &wrong);
    } else {
        option_read(o, (const char *)n->data.scalar.value, n->data.scalar.length, c->dir, c->arena, base, &wrong);
    }
    if (wrong.len)
        mistake(c, line_of(n), "%s: %s", name, buf_cstr(&wrong));
    buf_free(&wrong);
}

static void set_defaults(struct check *c, const char *section, void *base);
static void check_map(struct check *c, const char *section, const yaml_node_t *n, void *base);

static void check_list(struct check *c, const struct option *o, const yaml_node_t *n)
{
    if (n->type != YAML_SEQUENCE_NODE && !is_empty(n)) {
        mistake(c, line_of(n), "%s: must be a list: each item on a line that begins with `-`", o->key);
        return;
    }
    const yaml_node_item_t *first = is_empty(n) ? NULL : n->data.sequence.items.start;
    size_t count = first ? (size_t)(n->data.sequence.items.top - first) : 0;
    if (count < o->min || count > o->max) {
        mistake(c, line_of(n), "%s: %zu items; allowed: %llu to %llu", o->key, count, (unsigned long long)o->min,
                (unsigned long long)o->max);
        return;
    }
    char *items = arena_alloc(c->arena, (count ? count : 1) * o->item_size);
    for (size_t i = 0; i < count && !given_up(c); i++) {
        set_defaults(c, o->key, items + i * o->item_size);
        check_map(c, o->key, yaml_document_get_node(c->doc, first[i]), items + i * o->item_size);
    }
    *(void **)((char *)c->config + o->offset) = items;
    *(size_t *)((char *)c->config + o->count_offset) = count;
}

static void unknown_key(struct check *c, const char *section, const yaml_node_t *key)
{
    struct buf text = {0};
    const char *s = (const char *)key->data.scalar.value;
    option_quote(&text, s, key->data.scalar.length);
    if (!strcmp(s, "<<")) {
        mistake(c, line_of(key), "merge keys (`<<`) are not supported; write the options out");
    } else {
        const struct option *o = option_nearest(section, s, key->data.scalar.length);
        mistake(c, line_of(key), "%s%sunknown option %s; did you mean %s?", section, *section ? ": " : "",
                buf_cstr(&text), full_name(c, o->section, o->key));
    }
    buf_free(&text);
}

static void check_pair(struct check *c, const char *section, const yaml_node_pair_t *pair, void *base, size_t *seen)
{
    const yaml_node_t *key = yaml_document_get_node(c->doc, pair->key);
    const yaml_node_t *value = yaml_document_get_node(c->doc, pair->value);
    if (key->type != YAML_SCALAR_NODE) {
        mistake(c, line_of(key), "the name of an option must be a word");
        return;
    }
    const struct option *o = option_find(section, (const char *)key->data.scalar.value, key->data.scalar.length);
    if (!o) {
        unknown_key(c, section, key);
        return;
    }
    size_t *line = &seen[o - config_options];
    if (*line) {
        mistake(c, line_of(key), "%s: given twice; the first is in line %zu", full_name(c, section, o->key), *line);
        return;
    }
    *line = line_of(key);
    if (o->type == OPTION_SECTION)
        check_map(c, o->key, value, base);
    else if (o->type == OPTION_LIST)
        check_list(c, o, value);
    else
        check_scalar(c, o, value, base);
}

/* base: the struct the section's offsets are relative to. */
static void check_map(struct check *c, const char *section, const yaml_node_t *n, void *base)
{
    size_t seen[config_option_count]; /* line of each option's key; 0: not there */
    memset(seen, 0, sizeof seen);
    if (n->type == YAML_MAPPING_NODE) {
        const yaml_node_pair_t *p = n->data.mapping.pairs.start;
        for (; p < n->data.mapping.pairs.top && !given_up(c); p++)
            check_pair(c, section, p, base, seen);
    } else if (!is_empty(n)) {
        mistake(c, line_of(n), "%s%smust be a map: `key: value` lines", section, *section ? ": " : "");
        return;
    }
    for (size_t i = 0; i < config_option_count; i++) {
        const struct option *o = &config_options[i];
        if (o->required && !seen[i] && !strcmp(o->section, section))
            mistake(c, line_of(n), "%s: missing; it must be given", full_name(c, section, o->key));
    }
}

static bool parse_yaml(const char *text, size_t n, yaml_parser_t *parser, yaml_document_t *doc)
{
    CHECK(yaml_parser_initialize(parser), "out of memory");
    yaml_parser_set_input_string(parser, (const unsigned char *)text, n);
    return yaml_parser_load(parser, doc);
}

/* A list's default is YAML too. */
static void default_list(struct check *c, const struct option *o)
{
    yaml_parser_t parser;
    yaml_document_t doc, *outer = c->doc;
    CHECK(parse_yaml(o->standard, strlen(o->standard), &parser, &doc), "default of %s", o->key);
    c->doc = &doc;
    check_list(c, o, yaml_document_get_root_node(&doc));
    c->doc = outer;
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
}

/* A default may be written in quotes, as YAML wants "::" to be. */
static void default_scalar(struct check *c, const struct option *o, void *base)
{
    struct buf wrong = {0};
    bool quoted = *o->standard == '"';
    size_t n = strlen(o->standard) - 2 * quoted;
    char *text = arena_strndup(c->arena, o->standard + quoted, n);
    if (!option_read(o, text, n, c->dir, c->arena, base, &wrong))
        mistake(c, 1, "%s: the default does not fit here: %s", full_name(c, o->section, o->key), buf_cstr(&wrong));
    buf_free(&wrong);
}

static void set_defaults(struct check *c, const char *section, void *base)
{
    for (size_t i = 0; i < config_option_count; i++) {
        const struct option *o = &config_options[i];
        if (strcmp(o->section, section))
            continue;
        if (o->type == OPTION_SECTION)
            set_defaults(c, o->key, base);
        else if (o->type == OPTION_LIST && o->standard)
            default_list(c, o);
        else if (o->standard)
            default_scalar(c, o, base);
    }
}

/* The value of a key; NULL: not there. */
static const yaml_node_t *map_get(struct check *c, const yaml_node_t *map, const char *key)
{
    if (!map || map->type != YAML_MAPPING_NODE)
        return NULL;
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++)
        if (!strcmp((char *)yaml_document_get_node(c->doc, p->key)->data.scalar.value, key))
            return yaml_document_get_node(c->doc, p->value);
    return NULL;
}

/* The items of a list of the document, to name their lines. */
static size_t item_line(struct check *c, const char *list, size_t i)
{
    const yaml_node_t *value = map_get(c, yaml_document_get_root_node(c->doc), list);
    return value ? line_of(yaml_document_get_node(c->doc, value->data.sequence.items.start[i])) : 1;
}

/* Of an option, or of what surrounds it when it is not there. */
static size_t option_line(struct check *c, const char *section, const char *key)
{
    const yaml_node_t *map = map_get(c, yaml_document_get_root_node(c->doc), section);
    const yaml_node_t *value = map_get(c, map, key);
    return value ? line_of(value) : map ? line_of(map) : 1;
}

static const struct config_host *find_host(const struct config *g, const char *domain, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(g->hosts[i].domain, domain))
            return &g->hosts[i];
    return NULL;
}

static void check_hosts(struct check *c, const struct config *g)
{
    for (size_t i = 0; i < g->host_count; i++)
        if (find_host(g, g->hosts[i].domain, i))
            mistake(c, item_line(c, "hosts", i), "hosts.domain: %s is there twice", g->hosts[i].domain);
    for (size_t i = 0; i < g->access_count; i++)
        if (g->access[i].host && !find_host(g, g->access[i].host, g->host_count))
            mistake(c, item_line(c, "access", i), "access.host: %s is not one of the hosts", g->access[i].host);
    for (size_t i = 0; i < g->registration_access_count; i++)
        if (g->registration_access[i].host && !find_host(g, g->registration_access[i].host, g->host_count))
            mistake(c, item_line(c, "registration_access", i), "registration_access.host: %s is not one of the hosts",
                    g->registration_access[i].host);
    for (size_t i = 0; i < g->report_count; i++)
        if (g->reports[i].host && !find_host(g, g->reports[i].host, g->host_count))
            mistake(c, item_line(c, "reports", i), "reports.host: %s is not one of the hosts", g->reports[i].host);
    for (size_t i = 0; i < g->contact_count; i++)
        if (g->contacts[i].host && !find_host(g, g->contacts[i].host, g->host_count))
            mistake(c, item_line(c, "contacts", i), "contacts.host: %s is not one of the hosts", g->contacts[i].host);
    for (size_t i = 0; i < g->listen_count; i++)
        for (size_t j = 0; j < i; j++)
            if (g->listen[i].port == g->listen[j].port && !strcmp(g->listen[i].address, g->listen[j].address))
                mistake(c, item_line(c, "listen", i), "listen.port: %u of %s is there twice", g->listen[i].port,
                        g->listen[i].address);
}

static void check_databases(struct check *c, const struct config *g)
{
    bool postgres = !strcmp(g->storage.driver, "postgres");
    if (postgres && !g->postgres_count)
        mistake(c, option_line(c, "storage", "driver"),
                "storage.driver: postgres needs one item under postgres at least");
    if (!postgres && g->postgres_count)
        mistake(c, item_line(c, "postgres", 0), "postgres: is not used unless storage.driver is postgres");
    if (g->registry.sentinel && !g->redis_count)
        mistake(c, option_line(c, "registry", "sentinel"),
                "registry.sentinel: the Sentinels must be listed under redis");
}

static void check_secret(struct check *c, const char *path)
{
    struct stat st;
    if (stat(path, &st) || !S_ISREG(st.st_mode) || st.st_size < 32 || st.st_size > 4096)
        mistake(c, option_line(c, "cluster", "secret"), "cluster.secret: %s must be a file of 32 to 4096 bytes", path);
}

/* Without `advertise` it is what we listen on, which must then be an address others can dial. */
static void complete_advertise(struct check *c, struct config *g)
{
    const char *ip = g->cluster.listen;
    if (g->cluster.advertise)
        return;
    if (g->cluster.node && (!strcmp(ip, "::") || !strcmp(ip, "0.0.0.0")))
        mistake(c, option_line(c, "cluster", "listen"),
                "cluster.advertise: must be given when cluster.listen is every address");
    g->cluster.advertise = arena_printf(c->arena, strchr(ip, ':') ? "[%s]:%u" : "%s:%u", ip, g->cluster.port);
}

static void check_cluster(struct check *c, struct config *g)
{
    const struct {
        const char *key, *value;
    } files[] = {{"certificate", g->cluster.certificate},
                 {"key", g->cluster.key},
                 {"ca", g->cluster.ca},
                 {"secret", g->cluster.secret}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (g->cluster.node && !files[i].value)
            mistake(c, option_line(c, "cluster", ""), "cluster.%s: missing; it must be given with cluster.node",
                    files[i].key);
        if (!g->cluster.node && files[i].value)
            mistake(c, option_line(c, "cluster", files[i].key), "cluster.%s: is not used without cluster.node",
                    files[i].key);
    }
    if (g->cluster.node && g->cluster.secret)
        check_secret(c, g->cluster.secret);
    if (g->cluster.node && strcmp(g->storage.driver, "postgres"))
        mistake(c, option_line(c, "cluster", "node"), "cluster.node: a cluster needs storage.driver: postgres");
    if (g->cluster.fence_ms >= g->cluster.lease_ms)
        mistake(c, option_line(c, "cluster", "fence"), "cluster.fence: must be shorter than cluster.lease");
    if (g->cluster.heartbeat_ms >= g->cluster.fence_ms)
        mistake(c, option_line(c, "cluster", "heartbeat"), "cluster.heartbeat: must be shorter than cluster.fence");
    complete_advertise(c, g);
}

/* What one option alone cannot tell. Runs only when all of them are right, so every field is set. */
static void check_together(struct check *c)
{
    struct config *g = c->config;
    check_hosts(c, g);
    check_databases(c, g);
    check_cluster(c, g);
    if (g->c2s.max_stanza_unauthenticated > g->c2s.max_stanza)
        mistake(c, 1, "c2s.max_stanza_unauthenticated: may not be larger than c2s.max_stanza");
    if (g->c2s.max_stanza > g->c2s.max_out)
        mistake(c, 1, "c2s.max_out: may not be smaller than c2s.max_stanza");
}

static void check_document(struct check *c, yaml_parser_t *parser)
{
    yaml_node_t *root = yaml_document_get_root_node(c->doc);
    yaml_node_t empty = {.type = YAML_MAPPING_NODE};
    check_map(c, "", root ? root : &empty, c->config);
    if (!c->mistakes)
        check_together(c);
    yaml_document_t next;
    if (!root)
        return;
    if (yaml_parser_load(parser, &next)) {
        yaml_node_t *more = yaml_document_get_root_node(&next);
        if (more)
            mistake(c, line_of(more), "a second document (behind `---`) is not allowed");
        yaml_document_delete(&next);
    }
}

static void check_text(struct check *c, const char *text, size_t n)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    if (parse_yaml(text, n, &parser, &doc)) {
        c->doc = &doc;
        check_document(c, &parser);
        yaml_document_delete(&doc);
    }
    if (parser.error != YAML_NO_ERROR)
        mistake(c, (parser.error == YAML_READER_ERROR ? 0 : parser.problem_mark.line) + 1, "not YAML: %s%s%s",
                parser.problem ? parser.problem : "cannot be read", parser.context ? ", " : "",
                parser.context ? parser.context : "");
    yaml_parser_delete(&parser);
}

enum err config_parse(const char *name, const char *dir, const char *text, size_t n, struct config **out, char **why)
{
    struct arena *arena = arena_new();
    struct check c = {.name = name, .dir = dir, .arena = arena, .config = arena_alloc(arena, sizeof *c.config)};
    c.config->arena = arena;
    set_defaults(&c, "", c.config);
    check_text(&c, text, n);
    *out = NULL;
    *why = NULL;
    if (c.mistakes) {
        *why = xstrdup(buf_cstr(&c.why));
        config_free(&c.config);
    } else {
        *out = c.config;
    }
    buf_free(&c.why);
    return *out ? OK : ERR_INVALID;
}

static enum err read_file(const char *path, struct buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    ssize_t n = 0;
    while (out->len <= FILE_MAX && (n = read(fd, buf_reserve(out, 65536), 65536)) > 0)
        buf_wrote(out, (size_t)n);
    int error = out->len > FILE_MAX ? EFBIG : n < 0 ? errno : 0;
    close(fd);
    errno = error;
    return error ? ERR_IO : OK;
}

enum err config_load(const char *path, struct config **out, char **why)
{
    struct buf text = {0};
    char *absolute = realpath(path, NULL);
    enum err e = ERR_INVALID;
    *out = NULL;
    if (!absolute || read_file(absolute, &text) != OK) {
        CHECK(asprintf(why, "%s:1: cannot be read: %s\n", path, strerror(errno)) >= 0, "out of memory");
    } else {
        char *slash = strrchr(absolute, '/');
        *slash = 0; /* "" for the root: dir "" gives "/file" */
        e = config_parse(path, absolute, text.len ? buf_cstr(&text) : "", text.len, out, why);
    }
    buf_free(&text);
    free(absolute);
    return e;
}

void config_free(struct config **c)
{
    if (*c) {
        struct arena *a = (*c)->arena;
        *c = NULL;
        arena_free(&a);
    }
}
