/*
 * This node in its cluster: membership (a thread of its own), the link to the other nodes, and who is told of a new
 * ring. Private to node/.
 */
#ifndef ROOKERY_CLUSTER_H
#define ROOKERY_CLUSTER_H

#include "ring.h"
#include "worker.h"

struct link;

/* With cluster.node configured: registers the node with the database (waits for that), opens the link, sets n->id.
 * Before the workers are made. Without: OK, n->cluster stays NULL. */
enum err cluster_open(struct node *n, char **why) WARN_UNUSED;
/* While the node starts: signals are blocked, and nobody reads them yet. */
bool cluster_stop_wanted(void);
/* Takes a share of the slots; returns when every worker has been given the ring. After the workers are made and before
 * they run. */
void cluster_join(struct node *n);
/* After the workers have stopped, before they are freed: what they have sent leaves, nothing comes in any more. */
void cluster_leave(struct node *n);
/* Leaves the ring. After storage is closed. */
void cluster_close(struct cluster **c);

/* Any thread. */
struct link *cluster_link(struct cluster *c);
struct ring *cluster_ring(struct cluster *c);  /* the one that the workers were given last, a reference; NULL: none */
bool cluster_lease_ok(struct cluster *c);      /* the control database has answered lately */
const char *cluster_unwell(struct cluster *c); /* why new clients should not come here, static text; NULL: they may */
unsigned cluster_slots(const struct ring *r, uint32_t node); /* how many are a node's; cluster_metrics.c */
void cluster_metrics(struct buf *out, void *node);           /* a collector; cluster_metrics.c */
void cluster_poke(struct cluster *c, uint64_t epoch);        /* a newer ring exists */
/* Main thread (worker 0): who is home, in its ring. NULL: this node is alone. Good until the loop's turn ends. */
const struct ring_member *cluster_home(const struct node *n, const struct jid *jid);

#endif
