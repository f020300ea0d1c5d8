/* XEP-0357: the app servers that an account has enabled, as kept in storage and in memory. Private to
 * xep_0357_push.c. */
#ifndef ROOKERY_PUSH_TARGETS_H
#define ROOKERY_PUSH_TARGETS_H

#include "hooks.h"

#define NS_PUSH            "urn:xmpp:push:0"
#define NS_PUBSUB          "http://jabber.org/protocol/pubsub"
#define NS_PUBLISH_OPTIONS NS_PUBSUB "#publish-options"
#define NS_DATA            "jabber:x:data"

struct push_target {
    const struct jid *jid; /* of the app server; malloc */
    char *node;            /* "": none */
    char *resource;        /* of the client that enabled it */
    struct bytes *options; /* the form for <publish-options/>, canonical XML; NULL: none */
    /* not stored */
    uint64_t told;        /* archive id: messages up to it are told, or about to be */
    uint64_t told_before; /* when it became due */
    uint32_t unseen;      /* messages since the client was last there */
    uint32_t errors;      /* in a row */
    uint64_t due_ms;      /* loop_mono_ms when it is to be notified; 0: it is not */
    bool unless_there;    /* but only if its client is not there then */
    uint64_t flight_ms;   /* when the notification was sent whose answer is missing; 0: none is */
};

struct push_targets {
    struct push_target *list;
    size_t count;
};

/* From what push_targets_write made; NULL: none. What is not stored is taken over from *t where jid and node are the
 * same. */
void push_targets_read(struct push_targets *t, const struct bytes *stored);
/* Empty bytes when there is none. */
struct bytes *push_targets_write(const struct push_targets *t);
void push_targets_free(struct push_targets *t);
/* node NULL: the first one of this jid. NULL: there is none. */
struct push_target *push_target_find(const struct push_targets *t, const struct jid *jid, const char *node);
void push_target_remove(struct push_targets *t, struct push_target *x);
/* Replaces the one with this jid and node. options: borrowed. */
void push_target_set(struct push_targets *t, const struct jid *jid, const char *node, const char *resource,
                     struct bytes *options);

#endif
