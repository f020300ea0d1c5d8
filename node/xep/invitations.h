/*
 * Invitations to register (XEP-0401, XEP-0445), kept with their host: an account of its own, named by the domain alone,
 * with keys that fit nothing, made with the first invitation. So they have a home like everything else, which is their
 * only writer. Tokens are stored as hashes.
 */
#ifndef ROOKERY_INVITATIONS_H
#define ROOKERY_INVITATIONS_H

#include "hooks.h"

#include <jansson.h>

enum {
    INVITATIONS_MAX = 1000 /* of a host, but for those that keep names of removed accounts */,
    INVITATION_USES_MAX = 1000,
    INVITATION_ID_LEN = 12
};

struct invitation {
    uint8_t token_hash[32];
    const char *name; /* localpart it is for; NULL: any */
    uint32_t uses;
    uint64_t expires_unix;
};

/* The rest is for rookeryctl, on the host's home. done runs once, later.
 * ERR_LIMIT: there are too many; ERR_EXISTS: the name is kept for another invitation. */
void invitation_add(struct account *host, const struct invitation *i, store_done_fn *done, void *arg);
/* By its id, the first hexadecimal digits of its hash. ERR_NOT_FOUND. */
void invitation_del(struct account *host, const char *id, store_done_fn *done, void *arg);
/* [{"id", "name", "uses", "used", "expires"}] of those that may still be used; list is the callee's. */
typedef void invitations_fn(void *arg, enum err e, json_t *list);
void invitation_list(struct account *host, invitations_fn *done, void *arg);
void invitation_id(const uint8_t token_hash[32], char out[INVITATION_ID_LEN + 1]);

#endif
