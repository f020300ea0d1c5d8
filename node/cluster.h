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
/* Takes a share of the slots; returns when every worker has been given the ring. After the workers are made and before
 * they run. */
void cluster_join(struct node *n);
/* After the workers have stopped, before they are freed: what they have sent leaves, nothing comes in any more. */
void cluster_leave(struct node *n);
/* Leaves the ring. After storage is closed. */
void cluster_close(struct cluster **c);

/* Any thread. */
struct link *cluster_link(struct cluster *c);
uint64_t cluster_incarnation(const struct cluster *c);
void cluster_poke(struct cluster *c, uint64_t epoch); /* a newer ring exists */
/* Main thread (worker 0): who is home, in its ring. NULL: this node is alone. Good until the loop's turn ends. */
const struct ring_member *cluster_home(const struct node *n, const struct jid *jid);

#endif
