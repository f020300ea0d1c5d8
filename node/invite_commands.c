/* rookeryctl invite: invitations to register. A host's invitations are changed at its home only. */
#include "cluster.h"
#include "daemon.h"
#include "invitations.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

enum { DAYS_STANDARD = 7, DAYS_MAX = 3650, TOKEN_BYTES = 18 };

/* To the host's home and back. */
struct errand {
    struct inbox_msg msg;
    struct daemon *daemon;
    struct control_request *request;
    const struct jid *host; /* malloc */
    void (*visit)(struct errand *e, struct account *host);
    struct invitation invitation;
    char *name;
    char id[65]; /* del */
    json_t *result;
    enum err err;
    bool missing; /* nobody was ever invited */
};

/* ---- back ---- */

static void errand_free(struct errand *e)
{
    json_decref(e->result);
    jid_free(&e->host);
    free(e->name);
    free(e);
}

static const char *explain(enum err e)
{
    switch (e) {
    case ERR_LIMIT:
        return "there are too many invitations; remove some";
    case ERR_EXISTS:
        return "there is an invitation for this name";
    case ERR_NOT_FOUND:
        return "no such invitation";
    case ERR_FENCED:
        return "the home has just changed, try again";
    default:
        return err_name(e);
    }
}

static void on_back(struct inbox_msg *m, void *ctx)
{
    (void)ctx;
    struct errand *e = container_of(m, struct errand, msg);
    if (e->err)
        control_reply_error(e->request, "%s: %s", e->host->s, explain(e->err));
    else
        control_reply_ok(e->request, json_incref(e->result));
    errand_free(e);
}

static void errand_done(void *arg, enum err err)
{
    struct errand *e = arg;
    e->err = err;
    e->msg.fn = on_back;
    inbox_push(e->daemon->node.workers[0].inbox, &e->msg);
}

/* ---- there ---- */

static void on_host(void *arg, struct account *host, enum err why)
{
    struct errand *e = arg;
    if (host)
        e->visit(e, host);
    else
        errand_done(e, why == ERR_NOT_FOUND && e->missing ? OK : why);
}

static void errand_go(struct errand *e)
{
    struct envelope *env = env_new(ENV_CALL, e->host);
    env->call = on_host;
    env->call_arg = e;
    worker_send(&e->daemon->node.workers[0], &env);
}

static const struct jid *host_of(const struct config *cf, const char *text)
{
    struct arena *a = arena_new();
    const char *domain = text ? jid_prep_domain(a, text, strlen(text)) : cf->hosts[0].domain;
    const struct jid *host = NULL;
    for (size_t i = 0; domain && i < cf->host_count; i++)
        if (!strcmp(cf->hosts[i].domain, domain))
            host = jid_make(NULL, NULL, domain, NULL);
    arena_free(&a);
    return host;
}

/* NULL: the request has been answered. */
static struct errand *errand_new(struct daemon *d, struct control_request *r, const char *domain,
                                 void (*visit)(struct errand *e, struct account *host))
{
    const struct jid *host = host_of(d->config, domain);
    const struct ring_member *home = host ? cluster_home(&d->node, host) : NULL;
    if (!host)
        control_reply_error(r, "%s: no such host", domain);
    else if (home && home->node != d->node.id)
        control_pass_on(d, r, home);
    else if (!d->config->registration.invitations)
        control_reply_error(r, "registration.invitations is off");
    else {
        struct errand *e = xcalloc(1, sizeof *e);
        *e = (struct errand){.daemon = d, .request = r, .host = host, .visit = visit};
        return e;
    }
    if (host)
        jid_free(&host);
    return NULL;
}

/* ---- invite ---- */

/* RFC 5122 2.2: what may stand in a node or a domain as it is. */
static char *uri_of(const struct errand *e, const char *token)
{
    struct buf b = {0};
    buf_str(&b, "xmpp:");
    for (const char *p = e->name; p && *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || strchr("-._~!$'()*+,=", *p);
        buf_printf(&b, plain ? "%c" : "%%%02X", (unsigned char)*p);
    }
    buf_printf(&b, "%s%s?register;preauth=%s", e->name ? "@" : "", e->host->s, token);
    char *uri = xstrdup(buf_cstr(&b));
    buf_free(&b);
    return uri;
}

static void add(struct errand *e, struct account *host)
{
    invitation_add(host, &e->invitation, errand_done, e);
}

static void on_host_made(void *arg, enum err err)
{
    struct errand *e = arg;
    if (err == OK || err == ERR_EXISTS)
        errand_go(e);
    else
        errand_done(e, err);
}

static bool number(struct control_request *r, const char *arg, uint64_t standard, uint64_t max, uint64_t *out)
{
    const json_t *j = control_arg(r, arg);
    json_int_t n = j ? json_integer_value(j) : (json_int_t)standard;
    *out = (uint64_t)n;
    return n > 0 && (uint64_t)n <= max;
}

static void draw_token(struct errand *e)
{
    char token[TOKEN_BYTES * 4 / 3 + 2], id[INVITATION_ID_LEN + 1], expires[28];
    random_token(token, TOKEN_BYTES);
    SHA256((const unsigned char *)token, strlen(token), e->invitation.token_hash);
    invitation_id(e->invitation.token_hash, id);
    time_text(e->invitation.expires_unix * 1000000, expires);
    char *uri = uri_of(e, token);
    e->result = json_pack("{s:s, s:s, s:s}", "uri", uri, "id", id, "expires", expires);
    free(uri);
}

static void run_invite(struct control_request *r, void *ctx)
{
    struct daemon *d = ctx;
    uint64_t uses, days;
    const char *name = json_string_value(control_arg(r, "name"));
    struct arena *a = arena_new();
    const char *local = name ? jid_prep_local(a, name, strlen(name)) : NULL;
    bool fine = false;
    if (name && !local)
        control_reply_error(r, "%s: not a possible name", name);
    else if (!number(r, "uses", 1, name ? 1 : INVITATION_USES_MAX, &uses))
        control_reply_error(r, "uses: 1 to %d, and one only with a name", INVITATION_USES_MAX);
    else if (!number(r, "days", DAYS_STANDARD, DAYS_MAX, &days))
        control_reply_error(r, "days: 1 to %d", DAYS_MAX);
    else
        fine = true;
    struct errand *e = fine ? errand_new(d, r, control_word(r, 0), add) : NULL;
    if (e) {
        struct worker *w = &d->node.workers[0];
        static const struct credentials none; /* a host never logs in */
        e->name = local ? xstrdup(local) : NULL;
        e->invitation.name = e->name;
        e->invitation.uses = (uint32_t)uses;
        e->invitation.expires_unix = loop_unix_us(w->loop) / 1000000 + days * 86400;
        draw_token(e);
        store_account_create(w->store, e->host, &none, on_host_made, e);
    }
    arena_free(&a);
}

/* ---- invite list, invite del ---- */

static void on_list(void *arg, enum err err, json_t *list)
{
    struct errand *e = arg;
    size_t i;
    json_t *one;
    json_decref(e->result);
    e->result = list ? list : json_array();
    json_array_foreach(e->result, i, one)
    {
        char expires[28];
        time_text((uint64_t)json_integer_value(json_object_get(one, "expires")) * 1000000, expires);
        json_object_set_new(one, "expires", json_string(expires));
    }
    errand_done(e, err);
}

static void visit_list(struct errand *e, struct account *host)
{
    invitation_list(host, on_list, e);
}

static void run_list(struct control_request *r, void *ctx)
{
    struct errand *e = errand_new(ctx, r, control_word(r, 0), visit_list);
    if (!e)
        return;
    e->result = json_array();
    e->missing = true;
    errand_go(e);
}

static void visit_del(struct errand *e, struct account *host)
{
    invitation_del(host, e->id, errand_done, e);
}

static void run_del(struct control_request *r, void *ctx)
{
    const char *id = control_word(r, 1);
    if (strlen(id) != INVITATION_ID_LEN) {
        control_reply_error(r, "%s: not an invitation's id, see invite list", id);
        return;
    }
    struct errand *e = errand_new(ctx, r, control_word(r, 0), visit_del);
    if (!e)
        return;
    strcpy(e->id, id);
    e->result = json_pack("{s:s}", "id", id);
    errand_go(e);
}

const struct control_command invite_commands[] = {
    {"invite list", 0, 1, run_list},
    {"invite del", 2, 2, run_del},
    {"invite", 0, 1, run_invite},
};
const size_t invite_command_count = sizeof invite_commands / sizeof *invite_commands;
