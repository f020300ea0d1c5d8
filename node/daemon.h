/* The process: node, configuration, signals, control socket. Main thread only. Private to node/. */
#ifndef ROOKERY_DAEMON_H
#define ROOKERY_DAEMON_H

#include "control.h"
#include "control_store.h"
#include "retention.h"
#include "trim.h"
#include "worker.h"

#include <signal.h>

struct daemon {
    struct node node;
    struct config *config;
    const char *config_path;
    sigset_t signal_set;
    struct loop_fd signals;
    struct watchdog *watchdog; /* NULL: none */
    struct retention retention;
    struct trim trim;
    struct control *control;
    struct control_store accounts;
    struct list passed_on; /* control_mesh.c */
    uint64_t passed_on_last;
    bool stopping;
};

/* ERR_INVALID: *why (malloc'd) lists the mistakes; what runs stays as it is. */
enum err daemon_reload(struct daemon *d, char **why) WARN_UNUSED;
void daemon_stop(struct daemon *d);

/* commands.c: rookeryctl's side of the node */
enum err daemon_control_open(struct daemon *d, char **why) WARN_UNUSED;
void daemon_control_close(struct daemon *d);

/* control_mesh.c: between the two above. A node answers what comes from another one as if rookeryctl had asked it. */
void control_mesh_open(struct daemon *d);
void control_mesh_close(struct daemon *d);
/* Lets that node answer r, within 30 s; r itself came from another node: refused. */
void control_pass_on(struct daemon *d, struct control_request *r, const struct ring_member *home);

/* invite_commands.c; ctx: the daemon */
extern const struct control_command invite_commands[];
extern const size_t invite_command_count;

/* cluster_commands.c; ctx: the daemon */
extern const struct control_command cluster_commands[];
extern const size_t cluster_command_count;

#endif
