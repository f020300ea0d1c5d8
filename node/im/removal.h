/* An account's end, in band (XEP-0077 3.2) or by rookeryctl. */
#ifndef ROOKERY_REMOVAL_H
#define ROOKERY_REMOVAL_H

#include "hooks.h"

/* Deletes a with all its data. Then subscriptions are cancelled both ways, so that contacts see it go, are free to
 * forget it, and tell nothing to whoever has the name next; and its sessions end. done comes last: OK, ERR_NOT_FOUND,
 * what storage says, or the home changed under it (account_gone). On the home's thread. */
void account_remove(struct account *a, store_done_fn *done, void *arg);

#endif
