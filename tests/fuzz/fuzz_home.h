/*
 * For fuzz targets: an sm with all modules on simulated time and the memory store, four accounts with rosters, a
 * blocking list and messages; and what every stanza that leaves it must be like.
 *
 * Accounts of example.org: romeo and juliet (contacts of each other), mercutio (has asked to be romeo's), tybalt
 * (blocked by juliet). All passwords are "pencil".
 */
#ifndef ROOKERY_FUZZ_HOME_H
#define ROOKERY_FUZZ_HOME_H

#include "modules.h"
#include "sm.h"
#include "xml_stream.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct home {
    struct loop *loop;
    struct inbox *inbox;
    struct store *store;
    struct store_client *client;
    struct sm *sm;
    struct config config;
    struct config_host host;
    bool flat;                                            /* envelopes go as between workers, without their tree */
    void (*to_edge)(struct home *h, struct envelope **e); /* what sm says; consumes */
};

enum { HOME_PAGE = 5 };

static inline const struct jid *home_jid(const char *text)
{
    const struct jid *j = jid_parse(NULL, text, strlen(text));
    CHECK(j, "%s", text);
    return j;
}

/* ---- envelopes ---- */

static void home_on_envelope(struct inbox_msg *m, void *ctx)
{
    struct home *h = ctx;
    struct envelope *e = container_of(m, struct envelope, msg);
    if (e->kind < ENV_KEYS)
        sm_handle(h->sm, &e);
    else
        h->to_edge(h, &e);
}

/* As worker_send: never inside the sender's call. */
static void home_send(void *arg, struct envelope **ep)
{
    struct home *h = arg;
    struct envelope *e = *ep;
    *ep = NULL;
    if (h->flat)
        env_flatten(e);
    e->msg.fn = home_on_envelope;
    inbox_push(h->inbox, &e->msg);
}

/* ---- what comes out ---- */

/* b is one stanza, and written again it stays what it is. The stanza is yours. */
static inline struct stanza *home_check_stanza(const struct bytes *b)
{
    struct stanza *s = stanza_parse(b->data, b->len);
    CHECK(s && strlen(b->data) == b->len, "not a stanza: %s", b->data);
    struct bytes *once = stanza_bytes(s), *twice;
    struct stanza *again = stanza_parse(once->data, once->len);
    CHECK(again, "%s became %s", b->data, once->data);
    twice = stanza_bytes(again);
    CHECK(!strcmp(once->data, twice->data), "%s became %s", once->data, twice->data);
    stanza_free(&again);
    bytes_unref(&once);
    bytes_unref(&twice);
    return s;
}

/* The message in a carbon or an archive result of s (which came from the reader's own account), else NULL. */
static inline const struct xml *home_forwarded(const struct stanza *s)
{
    static const struct {
        const char *name, *ns;
    } wrappers[] = {{"sent", "urn:xmpp:carbons:2"}, {"received", "urn:xmpp:carbons:2"}, {"result", "urn:xmpp:mam:2"}};
    for (size_t i = 0; s->kind == STANZA_MESSAGE && i < sizeof wrappers / sizeof *wrappers; i++) {
        const struct xml *w = xml_find(s->x, wrappers[i].name, wrappers[i].ns);
        if (w)
            return xml_find(xml_find(w, "forwarded", "urn:xmpp:forward:0"), "message", NULL);
    }
    return NULL;
}

/* ---- life ---- */

static void home_must(void *arg, enum err e)
{
    (void)arg;
    CHECK(e == OK, "preparing the store: %s", err_name(e));
}

static void home_contact(struct home *h, int64_t owner, const char *jid, uint8_t subscription, struct bytes *request)
{
    struct roster_item it = {
        .jid = jid, .subscription = subscription, .in_roster = !request, .request = request, .version = 1};
    store_roster_put(h->client, owner, &it, home_must, NULL);
}

static void home_message(struct home *h, int64_t owner, uint64_t id, const char *peer, const char *text)
{
    struct bytes *b = bytes_new(text, strlen(text));
    struct archive_item it = {.id = id, .flags = ARCHIVE_DELIVER, .peer = peer, .stanza = b};
    store_archive_put(h->client, owner, &it, home_must, NULL);
    bytes_unref(&b);
}

static void home_romeo(void *arg, enum err e, const struct account_data *d)
{
    static const char ask[] = "<presence to=\"romeo@example.org\" from=\"mercutio@example.org\" type=\"subscribe\"/>";
    struct home *h = arg;
    home_must(h, e);
    struct bytes *request = bytes_new(ask, sizeof ask - 1);
    home_contact(h, d->owner, "juliet@example.org", SUB_BOTH, NULL);
    home_contact(h, d->owner, "mercutio@example.org", SUB_NONE, request);
    home_message(
        h, d->owner, 1699999000000000ULL << 4, "juliet@example.org/x",
        "<message to=\"romeo@example.org\" from=\"juliet@example.org/x\" type=\"chat\"><body>1</body></message>");
    home_message(h, d->owner, 1699999500000000ULL << 4, "tybalt@example.org/y",
                 "<message to=\"romeo@example.org\" from=\"tybalt@example.org/y\"><body>2</body></message>");
    bytes_unref(&request);
}

static void home_juliet(void *arg, enum err e, const struct account_data *d)
{
    static const char *const blocked[] = {"tybalt@example.org", "other.net/x"};
    struct home *h = arg;
    home_must(h, e);
    home_contact(h, d->owner, "romeo@example.org", SUB_BOTH, NULL);
    store_blocked_set(h->client, d->owner, blocked, 2, home_must, NULL);
}

static void home_accounts(struct home *h)
{
    static const struct {
        const char *jid;
        store_account_fn *fill;
    } accounts[] = {{"romeo@example.org", home_romeo},
                    {"juliet@example.org", home_juliet},
                    {"mercutio@example.org", NULL},
                    {"tybalt@example.org", NULL}};
    static struct credentials keys;
    if (!keys.keys[0].iterations)
        CHECK(credentials_derive("pencil", 1, &keys) == OK, "credentials");
    for (size_t i = 0; i < sizeof accounts / sizeof *accounts; i++) {
        const struct jid *j = home_jid(accounts[i].jid);
        store_account_create(h->client, j, &keys, home_must, NULL);
        if (accounts[i].fill)
            store_account_load(h->client, j, 0, accounts[i].fill, h);
        jid_free(&j);
        loop_sim_advance(h->loop, 1);
    }
}

static void home_defaults(struct home *h)
{
    struct config *c = &h->config;
    h->host.domain = "example.org";
    c->hosts = &h->host;
    c->host_count = 1;
    c->c2s.max_sessions_per_account = 3;
    c->sasl.scram_iterations = 1;
    c->roster.max_items = 4;
    c->roster.max_groups = 3;
    c->roster.max_name_bytes = 64;
    c->roster.max_blocked = 4;
    c->roster.max_directed = 3;
    c->roster.max_pending_in = 2;
    c->offline.max_messages = 4;
    c->archive.default_policy = "always";
    c->archive.max_page = HOME_PAGE;
    c->version.show_version = true;
    c->max_cached_accounts = 2; /* accounts come and go */
}

/* *h zeroed but for to_edge. max_queued: calls that storage takes at a time, at least 6; it refuses what is above. */
static inline void home_open(struct home *h, uint32_t max_queued)
{
    struct store_config sc = {.driver = "memory", .max_queued = max_queued, .max_batch = 100};
    char *why = NULL;
    log_level_set(LOG_ERROR);
    home_defaults(h);
    h->loop = loop_sim_new(1700000000000000);
    h->inbox = inbox_new(h->loop, h);
    CHECK(store_open(&sc, &h->store, &why) == OK, "store");
    h->client = store_client_new(h->store, h->inbox);
    home_accounts(h);
    h->sm = sm_new(h->loop, h->client, &h->config, store_secret(h->store), modules, home_send, h);
}

/* sessions: may be left. */
static inline void home_close(struct home *h, bool sessions)
{
    loop_sim_advance(h->loop, 1000);
    CHECK(sm_idle(h->sm), "something is still under way");
    CHECK(sessions || !h->sm->sessions.count, "%zu sessions are left", h->sm->sessions.count);
    sm_flush(h->sm);
    loop_sim_advance(h->loop, 1);
    sm_free(&h->sm);
    store_client_free(&h->client);
    store_close(&h->store);
    inbox_free(&h->inbox);
    loop_free(&h->loop);
}

#endif
