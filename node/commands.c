/* What rookeryctl can ask of a running node beyond storage: status, sessions, rosters, reload, stop. */
#include "cluster.h"
#include "control.h"
#include "control_store.h"
#include "daemon.h"
#include "fast.h"
#include "metrics.h"
#include "removal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LIST_MAX = 10000 }; /* sessions in one answer */

/* A request on its way through workers; it comes back to the main thread with its result. */
struct errand {
    struct inbox_msg msg;
    struct daemon *daemon;
    struct control_request *request;
    void (*visit)(struct errand *e, struct account *a); /* on the account's home */
    json_t *result;
    const char *refused;
    bool later; /* visit: it goes back by itself */
    uint16_t next_worker;
    size_t kicked;
    char *resource; /* session kick: NULL: all */
};

static void on_back(struct inbox_msg *m, void *ctx)
{
    (void)ctx;
    struct errand *e = container_of(m, struct errand, msg);
    if (e->refused) {
        control_reply_error(e->request, "%s: %s", control_word(e->request, 0), e->refused);
        json_decref(e->result);
    } else {
        control_reply_ok(e->request, e->result);
    }
    free(e->resource);
    free(e);
}

static void errand_back(struct errand *e)
{
    e->msg.fn = on_back;
    inbox_push(e->daemon->node.workers[0].inbox, &e->msg);
}

static struct errand *errand_new(struct daemon *d, struct control_request *r)
{
    struct errand *e = xcalloc(1, sizeof *e);
    e->daemon = d;
    e->request = r;
    return e;
}

static void on_account(void *arg, struct account *a, enum err why)
{
    struct errand *e = arg;
    if (a)
        e->visit(e, a);
    else
        e->refused = control_store_error(why);
    if (!e->later)
        errand_back(e);
}

/* Sends the errand to the account's home. */
static void visit_account(struct daemon *d, struct control_request *r, const char *text,
                          void (*visit)(struct errand *e, struct account *a))
{
    struct arena *a = arena_new();
    const struct jid *j = jid_parse(a, text, strlen(text));
    const struct ring_member *home = j ? cluster_home(&d->node, j) : NULL;
    if (!j || !j->local_len) {
        control_reply_error(r, "%s is not the JID of an account", text);
    } else if (home && home->node != d->node.id) {
        control_pass_on(d, r, home);
    } else {
        struct errand *e = errand_new(d, r);
        struct envelope *env = env_new(ENV_CALL, j);
        e->visit = visit;
        e->resource = jid_is_bare(j) ? NULL : xstrdup(jid_resource(j));
        env->call = on_account;
        env->call_arg = e;
        worker_send(&d->node.workers[0], &env);
    }
    arena_free(&a);
}

/* ---- status ---- */

static void run_status(struct control_request *r, void *ctx)
{
    struct daemon *d = ctx;
    json_t *o = json_object(), *hosts = json_array(), *m = json_object();
    for (size_t i = 0; i < d->config->host_count; i++)
        json_array_append_new(hosts, json_string(d->config->hosts[i].domain));
    for (int i = 0; i < METRIC_COUNT; i++)
        json_object_set_new(m, metric_name((enum metric)i), json_integer(metric_read((enum metric)i)));
    json_object_set_new(o, "version", json_string(ROOKERY_VERSION));
    json_object_set_new(o, "state", json_string(d->stopping ? "stopping" : "running"));
    json_object_set_new(o, "workers", json_integer(d->node.worker_count));
    json_object_set_new(o, "storage", json_string(d->config->storage.driver));
    json_object_set_new(o, "hosts", hosts);
    json_object_set_new(o, "metrics", m);
    control_reply_ok(r, o);
}

/* ---- sessions ---- */

static void add_session(json_t *list, const struct session *se)
{
    char since[28];
    json_t *o = json_object();
    time_text(se->bound_unix_us, since);
    json_object_set_new(o, "jid", json_string(se->jid->s));
    json_object_set_new(o, "priority", json_integer(se->priority));
    json_object_set_new(o, "available", json_boolean(se->available));
    json_object_set_new(o, "resumable", json_boolean(se->resumable));
    json_object_set_new(o, "carbons", json_boolean(se->carbons));
    json_object_set_new(o, "unacknowledged", json_integer(se->outstanding_count));
    json_object_set_new(o, "worker", json_integer(se->at.worker));
    json_object_set_new(o, "since", json_string(since));
    json_array_append_new(list, o);
}

static void list_account(struct errand *e, struct account *a)
{
    e->result = json_array();
    list_for_each (l, &a->sessions)
        add_session(e->result, container_of(l, struct session, link));
}

/* Goes from worker to worker, then home. */
static void on_list_worker(struct inbox_msg *m, void *ctx)
{
    struct worker *w = ctx;
    struct errand *e = container_of(m, struct errand, msg);
    hash_for_each (n, &w->sm->sessions) {
        if (json_array_size(e->result) < LIST_MAX)
            add_session(e->result, container_of(n, struct session, node));
    }
    if (++e->next_worker < w->node->worker_count)
        inbox_push(w->node->workers[e->next_worker].inbox, &e->msg);
    else
        errand_back(e);
}

static void run_session_list(struct control_request *r, void *ctx)
{
    struct daemon *d = ctx;
    if (control_word(r, 0)) {
        visit_account(d, r, control_word(r, 0), list_account);
        return;
    }
    struct errand *e = errand_new(d, r);
    e->result = json_array();
    e->msg.fn = on_list_worker;
    inbox_push(d->node.workers[0].inbox, &e->msg);
}

static void kick(struct errand *e, struct account *a)
{
    list_for_each (l, &a->sessions) {
        struct session *se = container_of(l, struct session, link);
        if (e->resource && strcmp(e->resource, jid_resource(se->jid)))
            continue;
        session_kick(se, STREAM_POLICY_VIOLATION);
        e->kicked++;
    }
    e->result = json_pack("{s:I}", "kicked", (json_int_t)e->kicked);
    if (!e->kicked)
        e->refused = "no such session";
}

static void run_session_kick(struct control_request *r, void *ctx)
{
    visit_account(ctx, r, control_word(r, 0), kick);
}

/* ---- roster ---- */

static void show_roster(struct errand *e, struct account *a)
{
    static const char *const subs[] = {"none", "to", "from", "both"};
    e->result = json_array();
    hash_for_each (n, &a->roster) {
        const struct roster_entry *it = container_of(n, struct roster_entry, node);
        json_t *o = json_object(), *groups = json_array();
        for (size_t i = 0; i < it->group_count; i++)
            json_array_append_new(groups, json_string(it->groups[i]));
        json_object_set_new(o, "jid", json_string(it->jid));
        json_object_set_new(o, "name", it->name ? json_string(it->name) : json_null());
        json_object_set_new(o, "subscription", json_string(subs[it->subscription & SUB_BOTH]));
        json_object_set_new(o, "ask", json_boolean(it->ask));
        json_object_set_new(o, "approved", json_boolean(it->approved));
        json_object_set_new(o, "pending_in", json_boolean(it->request != NULL));
        json_object_set_new(o, "in_roster", json_boolean(it->in_roster));
        json_object_set_new(o, "groups", groups);
        json_array_append_new(e->result, o);
    }
}

static void run_roster_show(struct control_request *r, void *ctx)
{
    visit_account(ctx, r, control_word(r, 0), show_roster);
}

/* ---- tokens (XEP-0484) ---- */

static void set_time(json_t *o, const char *name, uint64_t unix_s)
{
    char text[28];
    time_text(unix_s * 1000000, text);
    json_object_set_new(o, name, json_string(text));
}

static void on_tokens(void *arg, enum err err, const struct fast_client *list, size_t n)
{
    struct errand *e = arg;
    e->result = json_array();
    if (err != OK)
        e->refused = err_name(err);
    for (size_t i = 0; i < n; i++) {
        char id[17];
        json_t *o = json_object();
        snprintf(id, sizeof id, "%016llx", (unsigned long long)list[i].id);
        json_object_set_new(o, "client", json_string(id));
        json_object_set_new(o, "software", json_string(list[i].software));
        json_object_set_new(o, "device", json_string(list[i].device));
        set_time(o, "used", list[i].used);
        set_time(o, "expires", list[i].expires);
        json_array_append_new(e->result, o);
    }
    errand_back(e);
}

static void list_tokens(struct errand *e, struct account *a)
{
    e->later = true;
    fast_list(a, on_tokens, e);
}

static void run_token_list(struct control_request *r, void *ctx)
{
    visit_account(ctx, r, control_word(r, 0), list_tokens);
}

static void on_tokens_revoked(void *arg, enum err err)
{
    struct errand *e = arg;
    if (err != OK)
        e->refused = err == ERR_NOT_FOUND ? "no such token" : err_name(err);
    errand_back(e);
}

static void revoke_tokens(struct errand *e, struct account *a)
{
    const char *text = control_word(e->request, 1);
    uint64_t client = text ? strtoull(text, NULL, 16) : 0;
    if (text && (!client || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)) {
        e->refused = "a client is 16 hexadecimal digits, as `token list` shows them";
        return;
    }
    e->later = true;
    fast_revoke(a, client, on_tokens_revoked, e);
}

static void run_token_revoke(struct control_request *r, void *ctx)
{
    visit_account(ctx, r, control_word(r, 0), revoke_tokens);
}

/* ---- accounts ---- */

static void on_user_removed(void *arg, enum err err)
{
    struct errand *e = arg;
    if (err != OK)
        e->refused = control_store_error(err);
    errand_back(e);
}

static void remove_user(struct errand *e, struct account *a)
{
    if (e->resource) {
        e->refused = "not a bare JID";
        return;
    }
    e->later = true;
    e->result = json_pack("{s:s}", "jid", a->jid->s);
    account_remove(a, on_user_removed, e);
}

static void run_user_del(struct control_request *r, void *ctx)
{
    visit_account(ctx, r, control_word(r, 0), remove_user);
}

/* ---- the node ---- */

static void run_reload(struct control_request *r, void *ctx)
{
    char *why = NULL;
    if (daemon_reload(ctx, &why) == OK)
        control_reply_ok(r, NULL);
    else
        control_reply_error(r, "%s", why ? why : "refused");
    free(why);
}

static void run_stop(struct control_request *r, void *ctx)
{
    control_reply_ok(r, NULL);
    daemon_stop(ctx);
}

static const struct control_command commands[] = {
    {"status", 0, 0, run_status},
    {"session list", 0, 1, run_session_list},
    {"session kick", 1, 1, run_session_kick},
    {"roster show", 1, 1, run_roster_show},
    {"token list", 1, 1, run_token_list},
    {"token revoke", 1, 2, run_token_revoke},
    {"user del", 1, 1, run_user_del},
    {"reload", 0, 0, run_reload},
    {"stop", 0, 0, run_stop},
};

/* ---- start and end ---- */

static void password_changed(void *arg, const struct jid *bare)
{
    struct daemon *d = arg;
    struct envelope *e = env_new(ENV_REVOKED, bare);
    worker_send(&d->node.workers[0], &e);
}

enum err daemon_control_open(struct daemon *d, char **why)
{
    struct worker *w = &d->node.workers[0];
    d->accounts = (struct control_store){.store = w->store, .config = d->config, .changed = password_changed, .arg = d};
    d->control = control_new(w->loop);
    control_offer(d->control, commands, sizeof commands / sizeof *commands, d);
    control_offer(d->control, invite_commands, invite_command_count, d);
    control_offer(d->control, cluster_commands, cluster_command_count, d);
    control_offer(d->control, control_store_commands, control_store_command_count, &d->accounts);
    control_mesh_open(d);
    return control_listen(d->control, d->config->control.socket, why);
}

void daemon_control_close(struct daemon *d)
{
    if (!d->control)
        return;
    control_free(&d->control);
    control_mesh_close(d);
}
