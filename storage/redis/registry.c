#include "registry.h"

#include "buf.h"
#include "hash.h"
#include "log.h"
#include "metrics.h"
#include "redis_link.h"
#include "sentinel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BACKOFF_MIN_MS = 100,
    BACKOFF_MAX_MS = 2000,
    CHECK_MS = 2000,   /* is it still a master? */
    CHECKS_TO_ASK = 5, /* with every fifth check the Sentinels are asked as well */
    PACE_MS = 20,
};

/* What Redis should say about one resource. In exactly one of the registry's lists. Connections are counted, so that
 * the loss of one needs no visit to each entry. */
struct entry {
    struct hash_node node;
    struct list link;
    uint64_t session, incarnation;
    uint32_t at;      /* node of its socket, as the incarnation */
    uint32_t calling; /* the connection in which a command is under way */
    uint32_t settled; /* the connection in which Redis took it as it is */
    int8_t priority;
    uint8_t show;      /* index of shows */
    bool gone;         /* the session has ended: Redis should say nothing */
    bool forgotten;    /* when the command under way is over, this is */
    bool changed;      /* since the command that is under way */
    uint32_t resource; /* where it begins in text */
    char text[];       /* bare NUL resource NUL */
};

struct lookup {
    struct list link;
    registry_fn *fn;
    void *arg;
};

struct registry {
    struct loop *loop;
    struct registry_config config; /* its strings and servers are copies */
    struct log log;
    struct redis_link *link;
    struct sentinel *sentinel;
    size_t next; /* server to try */
    char address[64];
    uint16_t port;
    bool ready;    /* link leads to a master */
    bool up, down; /* what the log says; neither: nothing yet */
    uint32_t connection, refusal_logged, backoff_ms, checks;
    struct timer retry, check, pace;
    uint64_t credit; /* thousandths of entries that may be told again */
    struct task pump, refuse;

    struct hash_table entries;
    struct list fresh, again, sent, settled; /* to tell; to tell again, paced; command under way; Redis knows */
    size_t settled_count, gone_count, gauge;
    struct list lookups, refused; /* under way; to be answered ERR_BUSY at the end of the turn */
};

static const char *const shows[] = {"", "away", "chat", "dnd", "xa", "unavailable"};
enum { SHOWS = sizeof shows / sizeof *shows };

/* Another home may have written a newer session meanwhile. */
static const char delete_ours[] = "local v = redis.call('HGET', KEYS[1], ARGV[1]) "
                                  "if v and string.match(v, '^%d+|%d+|(%x+)|') == ARGV[2] then "
                                  "return redis.call('HDEL', KEYS[1], ARGV[1]) end return 0";

static void fail(struct registry *r, const char *why);

/* ---- the table ---- */

static uint64_t entry_hash(const char *bare, const char *resource)
{
    return hash_seeded(bare, strlen(bare)) * 31 + hash_seeded(resource, strlen(resource));
}

static struct entry *entry_find(const struct registry *r, const char *bare, const char *resource)
{
    for (struct hash_node *n = hash_find(&r->entries, entry_hash(bare, resource)); n; n = hash_next(n)) {
        struct entry *e = container_of(n, struct entry, node);
        if (!strcmp(e->text, bare) && !strcmp(e->text + e->resource, resource))
            return e;
    }
    return NULL;
}

static struct entry *entry_new(struct registry *r, const char *bare, const char *resource)
{
    size_t nb = strlen(bare) + 1, nr = strlen(resource) + 1;
    struct entry *e = xcalloc(1, sizeof *e + nb + nr);
    memcpy(e->text, bare, nb);
    memcpy(e->text + nb, resource, nr);
    e->resource = (uint32_t)nb;
    hash_insert(&r->entries, &e->node, entry_hash(bare, resource));
    return e;
}

/* Puts it into another list. */
static void entry_move(struct registry *r, struct entry *e, struct list *to)
{
    r->settled_count -= e->settled == r->connection;
    e->settled = to == &r->settled ? r->connection : 0;
    r->settled_count += to == &r->settled;
    e->calling = to == &r->sent ? r->connection : 0;
    e->changed = false;
    list_del(&e->link);
    list_add_tail(to, &e->link);
}

static void entry_free(struct registry *r, struct entry *e)
{
    r->settled_count -= e->settled == r->connection;
    r->gone_count -= e->gone;
    list_del(&e->link);
    hash_remove(&r->entries, &e->node);
    free(e);
}

static void entry_changed(struct registry *r, struct entry *e)
{
    if (e->calling == r->connection)
        e->changed = true;
    else
        entry_move(r, e, r->ready ? &r->fresh : &r->again);
    loop_later(r->loop, &r->pump);
}

static void splice(struct list *from, struct list *to)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

/* ---- telling Redis ---- */

/* Server-wide troubles end the connection, and all is told again on the next one. A refusal of just this command (a key
 * that is no hash, a right that is missing) would only meet itself there. */
static bool refused_command(const redisReply *reply)
{
    static const char *const codes[] = {"WRONGTYPE ", "NOPERM ", "ERR "};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (!strncmp(reply->str, codes[i], strlen(codes[i])))
            return true;
    return false;
}

static void served(struct registry *r)
{
    r->backoff_ms = BACKOFF_MIN_MS;
    if (r->up)
        return;
    r->up = true;
    r->down = false;
    metric_add(M_REGISTRY_UP, 1);
    log_info(&r->log, "registry-up", "server", r->address, "port", log_num(r->port));
}

static void on_told(void *owner, void *arg, const redisReply *reply)
{
    struct registry *r = owner;
    struct entry *e = arg;
    if (reply->type == REDIS_REPLY_ERROR && refused_command(reply)) {
        if (r->refusal_logged != r->connection)
            log_warn(&r->log, "registry-refused", "jid", e->text, "why", reply->str);
        r->refusal_logged = r->connection;
    } else if (reply->type != REDIS_REPLY_INTEGER) {
        fail(r, reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
        return;
    } else {
        served(r);
    }
    if (e->forgotten || (e->gone && !e->changed))
        entry_free(r, e);
    else if (e->changed)
        entry_move(r, e, &r->fresh);
    else
        entry_move(r, e, &r->settled);
    loop_later(r->loop, &r->pump);
}

static void tell(struct registry *r, struct entry *e)
{
    const char *resource = e->text + e->resource;
    char value[128], session[17];
    struct buf key = {0};
    if (e->forgotten) { /* its command was lost with a connection */
        entry_free(r, e);
        return;
    }
    buf_printf(&key, "s:%s", e->text);
    snprintf(session, sizeof session, "%llx", (unsigned long long)e->session);
    snprintf(value, sizeof value, "%u|%llu|%s|%d|%s|", e->at, (unsigned long long)e->incarnation, session, e->priority,
             shows[e->show]);
    const char *put[] = {"HSET", buf_cstr(&key), resource, value};
    const char *remove[] = {"EVAL", delete_ours, "1", buf_cstr(&key), resource, session};
    entry_move(r, e, &r->sent);
    redis_link_call(r->link, on_told, e, e->gone ? 6 : 4, e->gone ? remove : put, NULL);
    buf_free(&key);
}

static bool has_room(const struct registry *r)
{
    return r->ready && redis_link_waiting(r->link) < r->config.max_queue;
}

static void on_pace(void *arg)
{
    struct registry *r = arg;
    r->credit += (uint64_t)r->config.pace * PACE_MS;
    while (has_room(r) && r->credit >= 1000 && !list_empty(&r->again)) {
        r->credit -= 1000;
        tell(r, container_of(list_first(&r->again), struct entry, link));
    }
    if (r->credit > 1000) /* not used, as Redis is slower: not saved up */
        r->credit = 1000;
    if (r->ready && !list_empty(&r->again))
        timer_start(r->loop, &r->pace, PACE_MS, on_pace, r);
}

static void on_pump(void *arg)
{
    struct registry *r = arg;
    while (has_room(r) && !list_empty(&r->fresh))
        tell(r, container_of(list_first(&r->fresh), struct entry, link));
    metric_add(M_REGISTRY_WAITING, (int64_t)registry_waiting(r) - (int64_t)r->gauge);
    r->gauge = registry_waiting(r);
}

static uint8_t show_index(const char *show)
{
    uint8_t index = SHOWS;
    while (--index && strcmp(shows[index], show))
        ;
    return index;
}

static bool entry_says(const struct entry *e, const struct registry_entry *p)
{
    return !e->gone && !e->forgotten && e->session == p->session && e->at == p->node &&
           e->incarnation == p->incarnation && e->priority == p->priority && e->show == show_index(p->show);
}

void registry_put(struct registry *r, const char *bare, const struct registry_entry *p)
{
    struct entry *e = entry_find(r, bare, p->resource);
    if (!e)
        e = entry_new(r, bare, p->resource);
    else if (entry_says(e, p))
        return;
    r->gone_count -= e->gone;
    e->gone = e->forgotten = false;
    e->session = p->session;
    e->at = p->node;
    e->incarnation = p->incarnation;
    e->priority = (int8_t)p->priority;
    e->show = show_index(p->show);
    entry_changed(r, e);
}

/* What is not told here is deleted, too: another home may have written it. */
void registry_remove(struct registry *r, const char *bare, const char *resource, uint64_t session)
{
    struct entry *e = entry_find(r, bare, resource);
    if (e && (e->gone || e->session != session))
        return;
    if (r->gone_count >= REGISTRY_GONE_MAX && (!e || e->calling != r->connection)) {
        if (e)
            entry_free(r, e);
        loop_later(r->loop, &r->pump);
        return;
    }
    if (!e)
        e = entry_new(r, bare, resource);
    e->session = session;
    e->forgotten = false;
    e->gone = true;
    r->gone_count++;
    entry_changed(r, e);
}

void registry_forget(struct registry *r, const char *bare, const char *resource, uint64_t session)
{
    struct entry *e = entry_find(r, bare, resource);
    if (!e || e->gone || e->session != session)
        return;
    if (e->calling == r->connection)
        e->forgotten = true;
    else
        entry_free(r, e);
    loop_later(r->loop, &r->pump);
}

/* ---- lookups ---- */

/* Cuts the next field off *at. */
static bool number(char **at, int base, unsigned long long max, unsigned long long *out)
{
    char *field = strsep(at, "|"), *end;
    if (!field || *field < '0' || (*field > '9' && (base == 10 || *field < 'a' || *field > 'f')))
        return false;
    *out = strtoull(field, &end, base);
    return !*end && *out <= max;
}

/* Cuts value into pieces. */
static bool entry_parse(char *value, struct registry_entry *out)
{
    unsigned long long node, incarnation, session, priority;
    if (!number(&value, 10, UINT32_MAX, &node) || !number(&value, 10, UINT64_MAX, &incarnation) ||
        !number(&value, 16, UINT64_MAX, &session) || !value)
        return false;
    bool negative = *value == '-';
    value += negative;
    if (!number(&value, 10, 127 + negative, &priority))
        return false;
    out->node = (uint32_t)node;
    out->incarnation = incarnation;
    out->session = session;
    out->priority = negative ? -(int)priority : (int)priority;
    out->show = strsep(&value, "|");
    out->caps = strsep(&value, "|"); /* what newer versions add behind is left alone */
    return out->show && out->caps;
}

static void lookup_end(struct lookup *k, enum err e, const struct registry_entry *entries, size_t n)
{
    list_del(&k->link);
    k->fn(k->arg, e, entries, n);
    free(k);
}

static void lookups_end(struct list *lookups, enum err e)
{
    for (struct list *l; (l = list_first(lookups));)
        lookup_end(container_of(l, struct lookup, link), e, NULL, 0);
}

static void on_refuse(void *arg)
{
    struct registry *r = arg;
    lookups_end(&r->refused, ERR_BUSY);
}

static void on_found(void *owner, void *arg, const redisReply *reply)
{
    size_t n = 0;
    (void)owner;
    if (reply->type != REDIS_REPLY_ARRAY) {
        lookup_end(arg, ERR_IO, NULL, 0);
        return;
    }
    struct registry_entry *entries = xcalloc(reply->elements / 2 + 1, sizeof *entries);
    for (size_t i = 0; i + 1 < reply->elements; i += 2) {
        const redisReply *field = reply->element[i], *value = reply->element[i + 1];
        entries[n].resource = field->str;
        n += field->type == REDIS_REPLY_STRING && value->type == REDIS_REPLY_STRING &&
             entry_parse(value->str, &entries[n]);
    }
    lookup_end(arg, OK, entries, n);
    free(entries);
}

void registry_get(struct registry *r, const char *bare, registry_fn *fn, void *arg)
{
    struct lookup *k = xcalloc(1, sizeof *k);
    k->fn = fn;
    k->arg = arg;
    if (!has_room(r)) {
        list_add_tail(&r->refused, &k->link);
        loop_later(r->loop, &r->refuse);
        return;
    }
    struct buf key = {0};
    buf_printf(&key, "s:%s", bare);
    const char *argv[] = {"HGETALL", buf_cstr(&key)};
    list_add_tail(&r->lookups, &k->link);
    redis_link_call(r->link, on_found, k, 2, argv, NULL);
    buf_free(&key);
}

/* ---- the connection ---- */

static void on_check(void *arg);
static void on_retry(void *arg);

/* The connection, or the attempt at one, is given up. From callbacks of the loop only. */
static void fail(struct registry *r, const char *why)
{
    if (!r->down) {
        log_warn(&r->log, "registry-down", "server", r->address, "port", log_num(r->port), "why", why);
        metric_add(M_REGISTRY_UP, r->up ? -1 : 0);
    }
    r->up = r->ready = false;
    r->down = true;
    redis_link_close(&r->link);
    if (r->sentinel)
        sentinel_stop(r->sentinel);
    timer_stop(r->loop, &r->check);
    timer_stop(r->loop, &r->pace);
    r->connection++;
    r->settled_count = 0;
    splice(&r->fresh, &r->again);
    splice(&r->sent, &r->again);
    splice(&r->settled, &r->again);
    splice(&r->lookups, &r->refused);
    loop_later(r->loop, &r->refuse);
    loop_later(r->loop, &r->pump);
    r->next++;
    timer_start(r->loop, &r->retry, r->backoff_ms, on_retry, r);
    r->backoff_ms = r->backoff_ms * 2 < BACKOFF_MAX_MS ? r->backoff_ms * 2 : BACKOFF_MAX_MS;
}

static void on_lost(void *owner, const char *why)
{
    fail(owner, why);
}

static void on_auth(void *owner, void *arg, const redisReply *reply)
{
    (void)arg;
    if (reply->type != REDIS_REPLY_STATUS)
        fail(owner, reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
}

/* The answer to ROLE, first and then every CHECK_MS. */
static void on_role(void *owner, void *arg, const redisReply *reply)
{
    struct registry *r = owner;
    (void)arg;
    if (reply->type != REDIS_REPLY_ARRAY || !reply->elements || reply->element[0]->type != REDIS_REPLY_STRING) {
        fail(r, reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
        return;
    }
    if (strcmp(reply->element[0]->str, "master")) {
        fail(r, "no master");
        return;
    }
    timer_start(r->loop, &r->check, CHECK_MS, on_check, r);
    if (r->ready) {
        served(r); /* for a whole interval, perhaps without anything to write */
        return;
    }
    r->ready = true;
    on_pace(r);
    loop_later(r->loop, &r->pump);
}

static void role(struct registry *r)
{
    const char *argv[] = {"ROLE"};
    redis_link_call(r->link, on_role, NULL, 1, argv, NULL);
}

static void on_check(void *arg)
{
    struct registry *r = arg;
    if (r->sentinel && ++r->checks % CHECKS_TO_ASK == 0)
        sentinel_ask(r->sentinel);
    role(r);
}

static void dial(struct registry *r, const char *address, uint16_t port)
{
    snprintf(r->address, sizeof r->address, "%s", address);
    r->port = port;
    r->link = redis_link_open(r->loop, address, port, on_lost, r);
    redis_link_auth(r->link, r->config.user, r->config.password, on_auth, NULL);
    role(r);
}

/* A master that has lost its place behind a partition answers ROLE like any other: that is why they are asked later,
 * too. Sentinels that know nothing then change nothing. */
static void on_master(void *arg, const char *address, uint16_t port)
{
    struct registry *r = arg;
    if (!r->link && address)
        dial(r, address, port);
    else if (!r->link)
        fail(r, "no Sentinel knows the master");
    else if (address && (port != r->port || strcmp(address, r->address)))
        fail(r, "the Sentinels name another master");
}

static void on_retry(void *arg)
{
    struct registry *r = arg;
    const struct registry_server *s = &r->config.servers[r->next % r->config.count];
    if (r->sentinel)
        sentinel_ask(r->sentinel);
    else
        dial(r, s->address, s->port);
}

/* ---- interface ---- */

static char *copy(const char *s)
{
    return s ? xstrdup(s) : NULL;
}

static void config_copy(struct registry_config *to, const struct registry_config *c)
{
    struct registry_server *servers = xcalloc(c->count, sizeof *servers);
    for (size_t i = 0; i < c->count; i++)
        servers[i] = (struct registry_server){xstrdup(c->servers[i].address), c->servers[i].port};
    *to = *c;
    to->servers = servers;
    to->sentinel = copy(c->sentinel);
    to->user = copy(c->user);
    to->password = copy(c->password);
    to->sentinel_password = copy(c->sentinel_password);
    to->max_queue = c->max_queue ? c->max_queue : 1000;
    to->pace = c->pace ? c->pace : 5000;
}

static void config_free(struct registry_config *c)
{
    for (size_t i = 0; i < c->count; i++)
        free((char *)c->servers[i].address);
    free((void *)c->servers);
    free((char *)c->sentinel);
    free((char *)c->user);
    free((char *)c->password);
    free((char *)c->sentinel_password);
}

struct registry *registry_new(struct loop *l, const struct registry_config *c)
{
    CHECK(c->count, "a registry without servers");
    struct registry *r = xcalloc(1, sizeof *r);
    r->loop = l;
    r->log.kind = "redis";
    config_copy(&r->config, c);
    r->pump = (struct task){.fn = on_pump, .arg = r};
    r->refuse = (struct task){.fn = on_refuse, .arg = r};
    r->backoff_ms = BACKOFF_MIN_MS;
    r->connection = 1;
    struct list *lists[] = {&r->fresh, &r->again, &r->sent, &r->settled, &r->lookups, &r->refused};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        list_init(lists[i]);
    if (c->sentinel)
        r->sentinel = sentinel_new(l, &r->config, on_master, r);
    timer_start(l, &r->retry, 0, on_retry, r);
    return r;
}

void registry_free(struct registry **rp)
{
    struct registry *r = *rp;
    *rp = NULL;
    if (!r)
        return;
    redis_link_close(&r->link);
    sentinel_free(&r->sentinel);
    timer_stop(r->loop, &r->retry);
    timer_stop(r->loop, &r->check);
    timer_stop(r->loop, &r->pace);
    loop_never(&r->pump);
    loop_never(&r->refuse);
    lookups_end(&r->lookups, ERR_CLOSED);
    lookups_end(&r->refused, ERR_CLOSED);
    hash_for_each (n, &r->entries)
        free(container_of(n, struct entry, node));
    hash_free(&r->entries);
    metric_add(M_REGISTRY_UP, r->up ? -1 : 0);
    metric_add(M_REGISTRY_WAITING, -(int64_t)r->gauge);
    config_free(&r->config);
    free(r);
}

bool registry_up(const struct registry *r)
{
    return r->up;
}

size_t registry_waiting(const struct registry *r)
{
    return r->entries.count - r->settled_count;
}
