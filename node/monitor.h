/* What the HTTP port shows to those who watch the node: /metrics (Prometheus' text format) and /health. */
#ifndef ROOKERY_MONITOR_H
#define ROOKERY_MONITOR_H

#include "http_server.h"

/* For http_server_new; the argument is the struct node. */
extern const struct http_route monitor_routes[];

#endif
