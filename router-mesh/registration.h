/*
 * What a session's c2s tells a home that does not know it (ENV_REGISTER): the home before has died or the slot has
 * moved, or the session has been resumed on another node. Travels as protobuf (proto/session.proto).
 *
 * A registration replaces what the home knew of that session. What the home has in hand for it and the c2s does not
 * list was lost on the way and is given again; what c2s lists as arrived is never sent again.
 */
#ifndef ROOKERY_REGISTRATION_H
#define ROOKERY_REGISTRATION_H

#include "arena.h"
#include "bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct registration {
    const struct bytes *state; /* the last ENV_STATE; NULL: there was none */
    bool resumable;
    const uint8_t *token_hash; /* 32 bytes when resumable */
    uint32_t resume_s;
    uint64_t handled;        /* as ENV_HANDLED */
    const uint64_t *in_hand; /* archive ids delivered to the client and not acknowledged, in order of delivery */
    size_t in_hand_count;
    const uint64_t *arrived; /* archive ids that have arrived, above the watermark c2s knows of; any order */
    size_t arrived_count;
};

struct bytes *registration_pack(const struct registration *r);
/* Everything it points to is in the arena. False: malformed. */
bool registration_unpack(struct arena *a, const struct bytes *b, struct registration *out);

#endif
