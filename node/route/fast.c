#include "fast.h"

#include "account.h"

#include <fast.pb-c.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#define KEY "urn:xmpp:fast:0 clients"

enum {
    HASH_LEN = SHA256_DIGEST_LENGTH,
    TOKEN_BYTES = 54, /* as text 72 characters: more than a block of SHA-256 (fast.h) */
    CLIENTS_MAX = 50, /* of an account; then the one that was used last goes */
    USED_STEP_S = 3600,
};

struct token {
    uint8_t key[HASH_LEN];
    uint32_t mech; /* 0: there is none */
    uint64_t issued, expires;
};

struct client {
    uint64_t id, used;
    ProtobufCBinaryData software, device;
    struct token now, next;
};

/* Work on an account's clients. */
struct job {
    struct account *account;
    struct arena *arena;
    uint8_t fingerprint[HASH_LEN]; /* of the account's credentials */
    uint64_t unix_s;
    struct client list[CLIENTS_MAX + 1];
    size_t count;
    bool changed;
    /* Sets changed when it changes the list. */
    void (*work)(struct job *j);
    void (*done)(struct job *j, enum err e);
    /* ENV_TOKEN */
    struct envelope *e;
    Fast__Request *request;
    bool good, expired;
    uint8_t responder[HASH_LEN];
    char token[TOKEN_BYTES * 4 / 3 + 2];
    uint64_t token_expires;
    /* commands */
    uint64_t client;
    bool found;
    fast_list_fn *list_fn;
    store_done_fn *done_fn;
    void *arg;
};

static void job_free(struct job *j)
{
    struct account *a = j->account;
    env_free(&j->e);
    if (j->request)
        fast__request__free_unpacked(j->request, NULL);
    arena_free(&j->arena);
    OPENSSL_cleanse(j, sizeof *j);
    free(j);
    account_unpin(a);
}

/* ---- the stored form ---- */

static ProtobufCBinaryData copied(struct arena *a, ProtobufCBinaryData d)
{
    return (ProtobufCBinaryData){d.len, d.len ? memcpy(arena_bytes(a, d.len), d.data, d.len) : NULL};
}

static struct token token_read(const Fast__Token *m)
{
    struct token t = {0};
    if (!m || m->key.len != HASH_LEN)
        return t;
    memcpy(t.key, m->key.data, HASH_LEN);
    t.mech = m->mech;
    t.issued = m->issued;
    t.expires = m->expires;
    return t;
}

/* Those issued under other credentials are void. */
static void list_read(struct job *j, const struct bytes *b)
{
    Fast__Clients *m = b ? fast__clients__unpack(NULL, b->len, (const uint8_t *)b->data) : NULL;
    bool ours = m && m->account.len == HASH_LEN && !memcmp(m->account.data, j->fingerprint, HASH_LEN);
    for (size_t i = 0; ours && i < m->n_clients && j->count < CLIENTS_MAX; i++) {
        const Fast__Client *c = m->clients[i];
        j->list[j->count++] = (struct client){.id = c->id,
                                              .used = c->used,
                                              .software = copied(j->arena, c->software),
                                              .device = copied(j->arena, c->device),
                                              .now = token_read(c->now),
                                              .next = token_read(c->next)};
    }
    if (m)
        fast__clients__free_unpacked(m, NULL);
}

static Fast__Token *token_write(struct arena *a, struct token *t)
{
    Fast__Token *m = arena_alloc(a, sizeof *m);
    fast__token__init(m);
    m->key = (ProtobufCBinaryData){HASH_LEN, t->key};
    m->mech = t->mech;
    m->issued = t->issued;
    m->expires = t->expires;
    return t->mech ? m : NULL;
}

static struct bytes *list_write(struct job *j)
{
    Fast__Clients m = FAST__CLIENTS__INIT;
    m.account = (ProtobufCBinaryData){HASH_LEN, j->fingerprint};
    m.clients = arena_alloc(j->arena, (j->count + 1) * sizeof *m.clients);
    for (size_t i = 0; i < j->count; i++) {
        struct client *c = &j->list[i];
        Fast__Client *out = m.clients[m.n_clients++] = arena_alloc(j->arena, sizeof *out);
        fast__client__init(out);
        out->id = c->id;
        out->used = c->used;
        out->software = c->software;
        out->device = c->device;
        out->now = token_write(j->arena, &c->now);
        out->next = token_write(j->arena, &c->next);
    }
    if (!m.n_clients)
        return bytes_new("", 0);
    struct bytes *b = bytes_new(NULL, fast__clients__get_packed_size(&m));
    fast__clients__pack(&m, (uint8_t *)b->data);
    return b;
}

/* The first set: another password makes a new one, an added hash (XEP-0480) does not touch it. */
static void fingerprint(const struct credentials *cr, uint8_t out[HASH_LEN])
{
    struct {
        uint32_t hash;
        struct scram_keys keys;
    } first;
    memset(&first, 0, sizeof first);
    for (enum scram_hash h = 0; h < SCRAM_HASHES && !first.keys.iterations; h++) {
        first.hash = h;
        memcpy(&first.keys, &cr->keys[h], sizeof first.keys);
    }
    SHA256((const uint8_t *)&first, sizeof first, out);
    OPENSSL_cleanse(&first, sizeof first);
}

/* ---- running a job ---- */

static enum err on_list(void *arg, const struct bytes *old, struct bytes **now)
{
    struct job *j = arg;
    if (j->account->abandoned)
        return ERR_FENCED;
    list_read(j, old);
    j->work(j);
    if (j->changed)
        *now = list_write(j);
    return OK;
}

static void on_done(void *arg, enum err e)
{
    struct job *j = arg;
    j->done(j, e);
    job_free(j);
}

static void on_credentials(void *arg, enum err e, const struct credentials *cr)
{
    struct job *j = arg;
    if (e != OK) {
        on_done(j, e);
        return;
    }
    fingerprint(cr, j->fingerprint);
    value_update(j->account, KEY, on_list, on_done, j);
}

static void job_start(struct job *j)
{
    j->arena = arena_new();
    j->unix_s = loop_unix_us(j->account->sm->loop) / 1000000;
    account_pin(j->account);
    store_account_credentials_get(j->account->sm->store, j->account->jid, on_credentials, j);
}

/* ---- logging in ---- */

static void mac(const uint8_t key[HASH_LEN], const char *role, const Fast__Request *r, uint8_t out[HASH_LEN])
{
    uint8_t message[9 + 64];
    size_t n = r->binding.len < 64 ? r->binding.len : 64;
    memcpy(message, role, 9); /* "Initiator", "Responder" */
    if (n)
        memcpy(message + 9, r->binding.data, n);
    CHECK(HMAC(EVP_sha256(), key, HASH_LEN, message, 9 + n, out, NULL), "HMAC");
}

/* The same work for a token that is not there. */
static bool fits(struct job *j, const struct token *t)
{
    uint8_t proof[HASH_LEN];
    mac(t->key, "Initiator", j->request, proof);
    bool same = j->request->proof.len == HASH_LEN && equal_const_time(proof, j->request->proof.data, HASH_LEN);
    return same & (t->mech && t->mech == j->request->mech);
}

static struct client *client_find(struct job *j, uint64_t id)
{
    for (size_t i = 0; i < j->count; i++)
        if (j->list[i].id == id)
            return &j->list[i];
    return NULL;
}

static void client_remove(struct job *j, struct client *c)
{
    size_t i = (size_t)(c - j->list);
    memmove(c, c + 1, (--j->count - i) * sizeof *c);
    j->changed = true;
}

/* Its entry, with room made for it. */
static struct client *client_add(struct job *j, uint64_t id)
{
    struct client *c = client_find(j, id), *oldest = j->list;
    if (c)
        return c;
    for (size_t i = 0; i < j->count; i++)
        if (j->list[i].used < oldest->used)
            oldest = &j->list[i];
    if (j->count == CLIENTS_MAX)
        client_remove(j, oldest);
    c = &j->list[j->count++];
    *c = (struct client){.id = id};
    return c;
}

static void prune(struct job *j)
{
    for (size_t i = j->count; i; i--) {
        struct client *c = &j->list[i - 1];
        if (c->next.mech && c->next.expires <= j->unix_s)
            c->next = (struct token){0};
        if (!c->next.mech && c->now.expires <= j->unix_s)
            client_remove(j, c);
    }
}

/* Until it is used the one before stays good: the client may never hear of the new one. */
static void issue(struct job *j, uint32_t mech)
{
    const struct config *cf = j->account->sm->config;
    prune(j);
    struct client *c = client_add(j, j->e->id);
    random_token(j->token, TOKEN_BYTES);
    j->token_expires = j->unix_s + cf->sasl.token_lifetime_s;
    c->next = (struct token){.mech = mech, .issued = j->unix_s, .expires = j->token_expires};
    SHA256((const uint8_t *)j->token, strlen(j->token), c->next.key);
    c->software = j->request->software;
    c->device = j->request->device;
    c->used = j->unix_s;
    j->changed = true;
}

/* Which of the client's tokens gives this proof, made its present one; NULL: none. */
static struct token *token_used(struct job *j, struct client *c)
{
    bool next = fits(j, &c->next), now = fits(j, &c->now);
    if (!(next | now))
        return NULL;
    if (next) {
        c->now = c->next;
        c->next = (struct token){0};
        j->changed = true;
    }
    return &c->now;
}

static void check(struct job *j)
{
    static const struct client nobody;
    const struct config *cf = j->account->sm->config;
    struct client *c = client_find(j, j->e->id), dummy = nobody;
    struct token *t = token_used(j, c ? c : &dummy);
    if (!c || !t)
        return;
    j->expired = t->expires <= j->unix_s;
    j->good = !j->expired;
    if (j->expired)
        return;
    mac(t->key, "Responder", j->request, j->responder);
    bool due = j->unix_s - t->issued >= cf->sasl.token_rotation_s && !j->request->invalidate;
    uint32_t mech = j->request->wanted ? j->request->wanted : due ? t->mech : 0;
    if (j->unix_s - c->used >= USED_STEP_S) {
        c->used = j->unix_s;
        j->changed = true;
    }
    if (j->request->invalidate)
        client_remove(j, c);
    if (mech)
        issue(j, mech);
}

static void on_request(struct job *j)
{
    if (j->request->mech) {
        check(j);
    } else {
        j->good = true;
        issue(j, j->request->wanted);
    }
}

static struct bytes *answer_write(struct job *j)
{
    char expiry[28];
    Fast__Answer m = FAST__ANSWER__INIT;
    if (j->request->mech)
        m.responder = (ProtobufCBinaryData){HASH_LEN, j->responder};
    if (*j->token) {
        time_text(j->token_expires * 1000000, expiry);
        m.token = (ProtobufCBinaryData){strlen(j->token), (uint8_t *)j->token};
        m.expiry = (ProtobufCBinaryData){strlen(expiry), (uint8_t *)expiry};
    }
    struct bytes *b = bytes_new(NULL, fast__answer__get_packed_size(&m));
    fast__answer__pack(&m, (uint8_t *)b->data);
    return b;
}

void token_refuse(struct sm *s, const struct envelope *q, enum err why)
{
    struct envelope *r = env_new(ENV_TOKENED, NULL);
    r->to = q->from;
    r->session = q->session;
    r->seq = q->seq;
    r->code = why;
    s->send(s->send_arg, &r);
}

/* Only when it is written: a client must not have a token that nobody knows, nor believe one revoked that is not. */
static void on_answered(struct job *j, enum err e)
{
    struct sm *s = j->account->sm;
    if (account_gone(j->account, e))
        return; /* its new home is asked */
    if (e != OK || !j->good) {
        token_refuse(s, j->e, e != OK ? e : j->expired ? ERR_CLOSED : ERR_NOT_FOUND);
        return;
    }
    struct envelope *r = env_new(ENV_TOKENED, NULL);
    r->to = j->e->from;
    r->session = j->e->session;
    r->seq = j->e->seq;
    r->bytes = answer_write(j);
    s->send(s->send_arg, &r);
}

void handle_token(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    Fast__Request *m = e->bytes ? fast__request__unpack(NULL, e->bytes->len, (const uint8_t *)e->bytes->data) : NULL;
    bool sane = m && e->id && (m->mech || m->wanted);
    if (!sane || a->missing) {
        token_refuse(a->sm, e, sane ? ERR_NOT_FOUND : ERR_INVALID);
        if (m)
            fast__request__free_unpacked(m, NULL);
        return;
    }
    struct job *j = xcalloc(1, sizeof *j);
    j->account = a;
    j->e = e;
    *ep = NULL;
    j->request = m;
    j->work = on_request;
    j->done = on_answered;
    job_start(j);
}

/* ---- for operators ---- */

static const char *text(struct arena *a, ProtobufCBinaryData d)
{
    return arena_strndup(a, d.len ? (const char *)d.data : "", d.len);
}

static void list_nothing(struct job *j)
{
    prune(j);
    j->changed = false;
}

static void on_listed(struct job *j, enum err e)
{
    struct fast_client list[CLIENTS_MAX];
    for (size_t i = 0; i < j->count; i++) {
        const struct client *c = &j->list[i];
        list[i] = (struct fast_client){.id = c->id,
                                       .software = text(j->arena, c->software),
                                       .device = text(j->arena, c->device),
                                       .used = c->used,
                                       .expires = c->next.expires > c->now.expires ? c->next.expires : c->now.expires};
    }
    j->list_fn(j->arg, e, list, e == OK ? j->count : 0);
}

void fast_list(struct account *a, fast_list_fn *fn, void *arg)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->account = a;
    j->work = list_nothing;
    j->done = on_listed;
    j->list_fn = fn;
    j->arg = arg;
    job_start(j);
}

static void revoke(struct job *j)
{
    for (size_t i = j->count; i; i--)
        if (!j->client || j->list[i - 1].id == j->client) {
            client_remove(j, &j->list[i - 1]);
            j->found = true;
        }
}

static void on_revoked(struct job *j, enum err e)
{
    list_for_each (l, &j->account->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (e == OK && j->found && se->client && (!j->client || se->client == j->client))
            session_kick(se, STREAM_NOT_AUTHORIZED);
    }
    j->done_fn(j->arg, e == OK && !j->found ? ERR_NOT_FOUND : e);
}

void fast_revoke(struct account *a, uint64_t client, store_done_fn *done, void *arg)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->account = a;
    j->client = client;
    j->work = revoke;
    j->done = on_revoked;
    j->done_fn = done;
    j->arg = arg;
    job_start(j);
}
