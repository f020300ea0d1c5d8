/*
 * Control commands that need nothing but storage: user add, passwd, list, import; archive purge.
 *
 * Passwords never cross the socket: rookeryctl derives the keys and sends only them (credentials_json.h).
 */
#ifndef ROOKERY_CONTROL_STORE_H
#define ROOKERY_CONTROL_STORE_H

#include "config.h"
#include "control.h"
#include "store.h"

struct control_store {
    struct store_client *store;  /* of the worker whose loop serves the control channel */
    const struct config *config; /* the owner replaces it after a reload; both must stay until the next turn */
    void (*changed)(void *arg, const struct jid *bare); /* an account's keys were: end its sessions. May be NULL */
    void *arg;
};

extern const struct control_command control_store_commands[];
extern const size_t control_store_command_count;
/* control_offer(c, control_store_commands, control_store_command_count, &ctx) */

/* What a storage error means to an operator. */
const char *control_store_error(enum err e);

#endif
