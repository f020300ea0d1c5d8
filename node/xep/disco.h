/* XEP-0030's answers, for those who make something of them. */
#ifndef ROOKERY_DISCO_H
#define ROOKERY_DISCO_H

#include "hooks.h"

#define NS_INFO "http://jabber.org/protocol/disco#info"

/* <query> below parent: what disco#info says about the host or account that cx asks about. */
struct xml *disco_info_write(struct hook_ctx *cx, struct arena *ar, struct xml *parent);

#endif
