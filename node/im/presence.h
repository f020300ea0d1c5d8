/*
 * Presence (RFC 6121 section 4) and subscriptions (section 3) of an account, at its home.
 *
 * A presence is serialised once without its `to`; what a contact gets is a copy of these bytes with `to` put in.
 */
#ifndef ROOKERY_PRESENCE_H
#define ROOKERY_PRESENCE_H

#include "hooks.h"

extern const struct module im_presence;

/* Handles one presence of cx; the stanza may be taken (cx->stanza NULL then). Not while a->presence_queue waits. */
void presence_handle(struct hook_ctx *cx);

/* Sends body, a presence from `from` without `to`, to a JID of whatever domain, unless the account blocks it. */
void presence_send(struct account *a, const struct jid *from, const struct jid *to, enum stanza_type type,
                   struct bytes *body);
/* What each available resource last broadcast; how many there were. */
size_t presence_send_current(struct account *a, const struct jid *to);
/* Unavailable from each available resource. */
void presence_send_unavailable(struct account *a, const struct jid *to);
/* The same for somebody who has just been blocked and hears nothing else any more (XEP-0191 3.3). */
void presence_hide(struct account *a, const struct jid *to);
/* As presence_hide for those blocked ones who only had directed presence; they are forgotten. */
void presence_directed_blocked(struct account *a);
/* Asks for a contact's presence, for each available resource. */
void presence_probe(struct account *a, const struct jid *contact);
/* A bare-to-bare presence without children: subscription types and unavailable. */
void presence_send_plain(struct account *a, const struct jid *to, enum stanza_type type);

/* The account's user gave up subscriptions with contact (2.5.2, 2.5.3): tells its side. */
enum { CANCEL_TO = 1, CANCEL_FROM = 2, CANCEL_REQUEST = 4 };
void presence_cancel(struct account *a, const struct jid *contact, unsigned cancel);

#endif
