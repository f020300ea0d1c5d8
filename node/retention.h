/* archive.retention_days: removes older messages at the start and every hour. Main thread only. */
#ifndef ROOKERY_RETENTION_H
#define ROOKERY_RETENTION_H

#include "worker.h"

struct retention {
    struct node *node;
    struct timer timer;
};

/* r lives until n's first worker is freed; n->config is read anew each time. */
void retention_start(struct retention *r, struct node *n);
void retention_stop(struct retention *r);

#endif
