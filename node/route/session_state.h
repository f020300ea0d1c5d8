/*
 * What a home knows of a session beyond what c2s knows (ENV_STATE): presence, priority, what it asked for, to whom it
 * sent directed presence. c2s keeps it unread and gives it to another home with ENV_REGISTER. proto/session.proto.
 */
#ifndef ROOKERY_SESSION_STATE_H
#define ROOKERY_SESSION_STATE_H

#include "sm.h"

struct bytes *session_state_pack(const struct session *se);
/* Into a session that has none of it yet. False: malformed; se is as it was. */
bool session_state_unpack(struct session *se, const struct bytes *b);
/* Of one that no home has sent an ENV_STATE for: bound, and no more. */
void session_state_clear(struct session *se);

#endif
