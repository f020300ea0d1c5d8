/* The server as the machine sees it: CPU time and memory of its processes, by role, from /proc or from a /metrics URL.
 * Used by the main thread only. A process that ends and comes back (its pid file names another, its counter begins
 * again) is counted on. */
#ifndef BENCH_SERVER_H
#define BENCH_SERVER_H

#include <stdbool.h>

enum { ROLES_MAX = 16 };

/* "[ROLE=]PID[+][,PID[+]]...": + is "and all its descendants"; a PID with a slash in it is the path of a pid file. */
bool server_add_pids(const char *text);
/* "[ROLE=]http://HOST:PORT/PATH": process_cpu_seconds_total and process_resident_memory_bytes. */
bool server_add_metrics(const char *text);

unsigned server_roles(void);
const char *server_role(unsigned role);

struct server_sample {
    double cpu[ROLES_MAX]; /* seconds since the first sample */
    double kib[ROLES_MAX]; /* PSS, or resident memory from /metrics; as of the last sample with memory */
    double cpu_all, kib_all;
};
/* memory: read that too; PSS costs the server something, so not every second. */
void server_sample(struct server_sample *out, bool memory);

/* The generator's own user and system time. */
double own_cpu(void);

#endif
