/*
 * A storage driver for the simulator: the memory driver behind a queue that the simulation empties when it likes, with
 * injected errors and a crash. It takes the name "memory", so store_open finds it instead of the real one.
 */
#ifndef ROOKERY_SIM_STORE_H
#define ROOKERY_SIM_STORE_H

#include "store_driver.h"

/* What happens to a request whose turn has come; OK: carried out. Asked once for each. */
typedef enum err sim_store_fault_fn(void *arg, const struct store_req *r);

void sim_store_faults(sim_store_fault_fn *fn, void *arg); /* NULL: none */
size_t sim_store_pending(void);
/* The oldest n requests are carried out or fail; their answers are on their way to the workers' inboxes. */
void sim_store_commit(size_t n);
/* Power is off (true): what is queued and what still comes is not carried out. */
void sim_store_dead(bool dead);

#endif
