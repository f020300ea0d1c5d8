/* The data of the cluster's database: the memory driver, opened up. */
#ifndef ROOKERY_SIM_CLUSTER_MEMORY_H
#define ROOKERY_SIM_CLUSTER_MEMORY_H

#include "store_driver.h"

void data_open(void);
void data_close(void);
void data_run(struct store_req *r); /* carries it out */
unsigned data_slot(int64_t owner);
void data_forget(int64_t owner, uint64_t id); /* a message that was never committed */

#endif
