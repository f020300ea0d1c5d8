/*
 * A worker's side of the mesh: envelopes for other nodes are packed into one frame for each worker there and leave at
 * the end of the loop's turn; frames that come are unpacked. A frame from a node that knows a newer ring waits until
 * this worker has it too, so sender and receiver agree on who is home; so does an envelope from another worker of this
 * node, as rings do not reach all of them at the same moment. Private to node/.
 */
#ifndef ROOKERY_WORKER_MESH_H
#define ROOKERY_WORKER_MESH_H

#include "worker.h"

/* Packs e for a worker of another node. Consumes *e. */
void worker_mesh_send(struct worker *w, uint32_t node, uint16_t worker, struct envelope **e);
/* An envelope from another worker of this node: true when it waits for the ring that one knew; then *e is consumed. */
bool worker_mesh_early(struct worker *w, struct envelope **e);
/* True: what this session says does not count, since the home forgot what it said before; it will say all of it again.
 */
bool worker_mesh_deaf(const struct worker *w, const struct envelope *e);
/* ENV_AFRESH. */
void worker_mesh_afresh(struct worker *w, const struct envelope *e);
/* What has to leave now; all: the patient ones too. */
void worker_mesh_flush(struct worker *w, bool all);
/* Sends what links had no room for; is one of them still not fit for more? */
bool worker_mesh_congested(struct worker *w);
void worker_mesh_free(struct worker *w);

#endif
