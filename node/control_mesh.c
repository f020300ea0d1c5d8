/* rookeryctl may ask any node: what only an account's home knows goes there, and the answer comes back. */
#include "cluster.h"
#include "daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_MS = 30000 };

/* Here: a request that another node is to answer. */
struct passed_on {
    struct list link;
    struct daemon *daemon;
    struct control_request *request;
    uint64_t id;
    struct timer overdue;
    char node[64]; /* name */
};

/* There: who asked. */
struct asker {
    struct daemon *daemon;
    struct addr addr;
    uint64_t id;
};

static void tell(struct daemon *d, enum env_kind kind, struct addr to, uint64_t id, const char *line, size_t n)
{
    struct worker *w = &d->node.workers[0];
    if (!w->sm) /* in worker_free */
        return;
    struct envelope *e = env_new(kind, NULL);
    e->from = (struct addr){d->node.id, w->index};
    e->to = to;
    e->id = id;
    e->bytes = bytes_new(line, n);
    worker_send(w, &e);
}

/* ---- here ---- */

static void passed_on_free(struct passed_on *p)
{
    timer_stop(p->daemon->node.workers[0].loop, &p->overdue);
    list_del(&p->link);
    free(p);
}

static void on_overdue(void *arg)
{
    struct passed_on *p = arg;
    control_reply_error(p->request, "%s has not answered; look whether it was done", p->node);
    passed_on_free(p);
}

void control_pass_on(struct daemon *d, struct control_request *r, const struct ring_member *home)
{
    if (control_asked(r)) { /* its home has changed while it was on its way here */
        control_reply_error(r, "the home has just changed, try again");
        return;
    }
    struct passed_on *p = xcalloc(1, sizeof *p);
    p->daemon = d;
    p->request = r;
    p->id = ++d->passed_on_last;
    snprintf(p->node, sizeof p->node, "%s", home->name);
    list_add_tail(&d->passed_on, &p->link);
    timer_start(d->node.workers[0].loop, &p->overdue, ANSWER_MS, on_overdue, p);
    char *line = control_line(r);
    tell(d, ENV_CONTROL, (struct addr){home->node, 0}, p->id, line, strlen(line));
    free(line);
}

static void on_answer(struct daemon *d, const struct envelope *e)
{
    list_for_each (l, &d->passed_on) {
        struct passed_on *p = container_of(l, struct passed_on, link);
        if (p->id != e->id)
            continue;
        control_reply_line(p->request, e->bytes->data, e->bytes->len);
        passed_on_free(p);
        return;
    }
}

/* ---- there ---- */

static void answer(void *arg, const char *line, size_t n)
{
    struct asker *k = arg;
    tell(k->daemon, ENV_CONTROLLED, k->addr, k->id, line, n);
    free(k);
}

static void on_question(struct daemon *d, const struct envelope *e)
{
    struct asker *k = xmalloc(sizeof *k);
    *k = (struct asker){d, e->from, e->id};
    control_ask(d->control, e->bytes->data, e->bytes->len, answer, k);
}

/* ---- both ---- */

static void on_control(void *arg, const struct envelope *e)
{
    struct daemon *d = arg;
    if (e->kind == ENV_CONTROL)
        on_question(d, e);
    else
        on_answer(d, e);
}

void control_mesh_open(struct daemon *d)
{
    list_init(&d->passed_on);
    d->node.on_control_arg = d;
    d->node.on_control = on_control;
}

void control_mesh_close(struct daemon *d)
{
    d->node.on_control = NULL;
    list_for_each_safe (l, &d->passed_on) {
        struct passed_on *p = container_of(l, struct passed_on, link);
        control_reply_error(p->request, "the node stops"); /* nobody hears it any more */
        passed_on_free(p);
    }
}
