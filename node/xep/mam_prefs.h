/*
 * XEP-0441 preferences of an archive, kept as text: a first line "always", "roster" or "never", then a line per JID
 * that is an exception, "+jid" always, "-jid" never.
 */
#ifndef ROOKERY_MAM_PREFS_H
#define ROOKERY_MAM_PREFS_H

#include "hooks.h"

#define NS_MAM "urn:xmpp:mam:2"

enum hook_result mam_prefs_get(struct hook_ctx *cx);
enum hook_result mam_prefs_set(struct hook_ctx *cx);
/* Does the user want messages with this one archived? */
bool mam_prefs_want(const struct account *a, const struct jid *peer);

#endif
