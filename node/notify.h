/*
 * What systemd is told (sd_notify(3)): ready, stopping, alive. It is one datagram, so no library for it. Without
 * NOTIFY_SOCKET nothing happens. Main thread only.
 */
#ifndef ROOKERY_NOTIFY_H
#define ROOKERY_NOTIFY_H

#include "worker.h"

void notify(const char *state);

/* Tells that the node is alive, as often as WATCHDOG_USEC asks for and only while the loops of all workers turn. */
struct watchdog;
/* NULL: nobody asked for it. n's workers must run. */
struct watchdog *watchdog_new(struct node *n);
/* From now on the node is alive whatever the workers do: they end one by one. */
void watchdog_stopping(struct watchdog *w);
/* Call between the end of all loops and worker_free for watchdog_stop, behind worker_free for watchdog_free. */
void watchdog_stop(struct watchdog *w);
void watchdog_free(struct watchdog **w);

#endif
