/* XEP-0297 forwarded messages, written around canonical bytes without parsing them. */
#ifndef ROOKERY_FORWARD_H
#define ROOKERY_FORWARD_H

#include "buf.h"
#include "jid.h"

/* <forwarded xmlns='urn:xmpp:forward:0'>, with <delay/> when stamp (XEP-0082) is given, around message. */
void forward_write(struct buf *out, const char *message, size_t n, const char *stamp);
/* The opening tag of our own message around it; type NULL: none. */
void forward_open(struct buf *out, const struct jid *from, const struct jid *to, const char *type);

#endif
