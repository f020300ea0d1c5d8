/*
 * Rosters (RFC 6121 section 2, versioning 2.6): the iq side, and changes of entries for everybody who makes some.
 *
 * A change is applied to memory at once, so that what follows sees it, and taken back when storage fails. Clients are
 * told after the commit.
 */
#ifndef ROOKERY_ROSTER_H
#define ROOKERY_ROSTER_H

#include "hooks.h"

#define NS_ROSTER "jabber:iq:roster"

extern const struct module im_roster;

/* Sends the item as it is now to every interested resource; one that is not in the roster any more as removed. */
void roster_push(struct account *a, const char *jid);

struct roster_change {
    struct account *account;
    struct roster_entry *entry;  /* alter this one between begin and end */
    struct roster_entry *before; /* as it was */
    bool created;                /* it was not there */
    uint64_t version;
    store_done_fn *done;
    void *arg;
};

/* Finds or adds the entry of jid (prepared). Ends with commit or abort, in the same call. */
struct roster_change *roster_change_begin(struct account *a, const char *jid);
/* Nothing was altered. */
void roster_change_abort(struct roster_change **c);
/* Writes the entry, or removes it when nothing in it is worth keeping; done comes later. The account stays pinned until
 * then. */
void roster_change_commit(struct roster_change **c, store_done_fn *done, void *arg);
/* Would this change make more contacts or pending requests than the configuration allows? */
bool roster_change_exceeds(const struct roster_change *c);

/* No subscription, no request, no name: the entry will be removed by commit. */
void roster_entry_clear(struct roster_entry *e);

#endif
