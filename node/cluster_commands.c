/* What rookeryctl can ask about the cluster: cluster, where. */
#include "cluster.h"
#include "daemon.h"
#include "link.h"

#include <stdlib.h>
#include <string.h>

/* ---- cluster ---- */

static json_t *member(const struct node *n, const struct ring *r, const struct ring_member *m)
{
    struct link_stats st;
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(m->name));
    json_object_set_new(o, "node", json_integer(m->node));
    json_object_set_new(o, "incarnation", json_integer((json_int_t)m->incarnation));
    json_object_set_new(o, "address", json_string(m->address));
    json_object_set_new(o, "workers", json_integer(m->workers));
    json_object_set_new(o, "slots", json_integer(cluster_slots(r, m->node)));
    json_object_set_new(o, "self", json_boolean(m->node == n->id));
    if (m->node == n->id || !link_stats(cluster_link(n->cluster), m->node, &st))
        return o;
    json_object_set_new(o, "up", json_boolean(st.up));
    json_object_set_new(o, "queue_bytes", json_integer((json_int_t)st.queue_bytes));
    json_object_set_new(o, "lag_us", json_integer(st.rtt_us));
    json_object_set_new(o, "resent", json_integer((json_int_t)st.resent));
    return o;
}

static void run_cluster(struct control_request *q, void *ctx)
{
    struct daemon *d = ctx;
    const struct ring *r = d->node.workers[0].ring;
    if (!r) {
        control_reply_error(q, d->node.cluster ? "this node has no ring yet"
                                               : "this node is alone: cluster.node is not configured");
        return;
    }
    json_t *o = json_object(), *members = json_array();
    for (size_t i = 0; i < ring_count(r); i++)
        json_array_append_new(members, member(&d->node, r, ring_member_at(r, i)));
    json_object_set_new(o, "node", json_string(d->config->cluster.node));
    json_object_set_new(o, "epoch", json_integer((json_int_t)ring_epoch(r)));
    json_object_set_new(o, "members", members);
    control_reply_ok(q, o);
}

/* ---- where ---- */

struct where {
    struct control_request *request;
    const struct node *node;
    const struct jid *jid;
};

static const char *node_name(const struct ring *r, const struct session_record *s)
{
    const struct ring_member *m = r ? ring_find(r, s->node) : NULL;
    if (!r)
        return "this node";
    return m && m->incarnation == s->incarnation ? m->name : NULL;
}

static json_t *record(const struct ring *r, const struct session_record *s)
{
    char id[17];
    const char *name = node_name(r, s);
    json_t *o = json_object();
    snprintf(id, sizeof id, "%016llx", (unsigned long long)s->session);
    json_object_set_new(o, "jid", json_string(s->jid));
    json_object_set_new(o, "session", json_string(id));
    json_object_set_new(o, "node", name ? json_string(name) : json_null()); /* null: it was on a node that is gone */
    json_object_set_new(o, "resumable", json_boolean(s->resumable));
    return o;
}

/* The sessions come from their records in storage, so any node can answer. */
static void on_loaded(void *arg, enum err e, const struct account_data *data)
{
    struct where *w = arg;
    const struct ring *r = w->node->workers[0].ring;
    const struct ring_member *home = cluster_home(w->node, w->jid);
    if (e != OK) {
        control_reply_error(w->request, e == ERR_NOT_FOUND ? "no such account" : "storage: %s", err_name(e));
    } else {
        json_t *o = json_object(), *sessions = json_array();
        for (size_t i = 0; i < data->session_count; i++)
            json_array_append_new(sessions, record(r, &data->sessions[i]));
        json_object_set_new(o, "jid", json_string(w->jid->s));
        json_object_set_new(o, "slot", json_integer(jid_slot(w->jid)));
        json_object_set_new(o, "home", home ? json_string(home->name) : json_null());
        json_object_set_new(o, "worker",
                            json_integer(jid_slot(w->jid) % (home ? home->workers : w->node->worker_count)));
        json_object_set_new(o, "sessions", sessions);
        control_reply_ok(w->request, o);
    }
    jid_free(&w->jid);
    free(w);
}

static void run_where(struct control_request *q, void *ctx)
{
    struct daemon *d = ctx;
    const char *text = control_word(q, 0);
    struct arena *a = arena_new();
    const struct jid *j = jid_parse(a, text, strlen(text));
    if (!j || !j->local_len) {
        control_reply_error(q, "%s is not the JID of an account", text);
    } else {
        struct where *w = xmalloc(sizeof *w);
        *w = (struct where){q, &d->node, jid_bare(NULL, j)};
        store_account_load(d->node.workers[0].store, w->jid, UINT64_MAX, on_loaded, w);
    }
    arena_free(&a);
}

const struct control_command cluster_commands[] = {
    {"cluster", 0, 0, run_cluster},
    {"where", 1, 1, run_where},
};
const size_t cluster_command_count = sizeof cluster_commands / sizeof *cluster_commands;
