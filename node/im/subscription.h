/*
 * Subscription states (RFC 6121 section 3 and appendix A) and their stanzas.
 *
 * A change is committed before anybody learns of it, and what arrives for the account meanwhile waits in its
 * presence_queue: so a "subscribed" is seen before the presence that follows it.
 */
#ifndef ROOKERY_SUBSCRIPTION_H
#define ROOKERY_SUBSCRIPTION_H

#include "hooks.h"

/* What a step asks for, done in this order after the commit. */
enum {
    STEP_CHANGED = 1,      /* the entry is other than before */
    STEP_UNAVAILABLE = 2,  /* contact: unavailable from all resources */
    STEP_ROUTE = 4,        /* the stanza goes to the contact */
    STEP_REPLY = 8,        /* contact: "subscribed" in the user's name */
    STEP_DELIVER = 16,     /* the stanza goes to interested resources */
    STEP_DELIVER_NEW = 32, /* the stanza, a request, goes to available resources */
    STEP_PUSH = 64,        /* roster push */
    STEP_PRESENCE = 128,   /* contact: current presence of all resources */
};

/* The tables of appendix A: alter e and say what follows. */
unsigned subscription_out(struct roster_entry *e, enum stanza_type t);                       /* A.2 and 3.4 */
unsigned subscription_in(struct roster_entry *e, enum stanza_type t, struct bytes *request); /* A.3 */

static inline bool is_subscription(enum stanza_type t)
{
    return t == PRESENCE_SUBSCRIBE || t == PRESENCE_SUBSCRIBED || t == PRESENCE_UNSUBSCRIBE ||
           t == PRESENCE_UNSUBSCRIBED;
}

/* A subscription stanza from a resource of the account (own) or for the account. Takes *st. */
void subscription_run(struct account *a, struct stanza **st, bool own);

/* Is a roster write under way? Then cx's stanza is taken and handled after it. */
bool presence_deferred(struct hook_ctx *cx);

#endif
