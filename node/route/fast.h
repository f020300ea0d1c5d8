/*
 * Tokens of XEP-0484 (FAST): a client that has logged in gets one and logs in with it next time, in one round trip.
 *
 * What is stored. Checking HT-SHA-256-* takes HMAC(token, ...), so storage must hold something that gives it. A token's
 * text is longer than a block of SHA-256, so HMAC first hashes it, and SHA-256(token) is all that is kept. Be clear
 * about what that is worth: the token itself cannot be had from storage, but who reads storage can make the proof of
 * any HT-SHA-256-* login with what is there, until the token expires or is revoked. It is no password hash; a stolen
 * database means revoked tokens. (SCRAM's stored keys do not have this weakness; nothing that HT allows would mend it.)
 *
 * A client has at most two tokens: the one that it uses, and one that it was given since and has not used yet. A token
 * is bound to its mechanism. It ends when it expires, when a later one is used, when the client or an operator says so,
 * and with the account's password: stored with the tokens is which credentials the account had.
 */
#ifndef ROOKERY_FAST_H
#define ROOKERY_FAST_H

#include "sm.h"

/* ENV_TOKEN; the account is there. Consumes *e, answers with ENV_TOKENED. */
void handle_token(struct account *a, struct envelope **e);

void token_refuse(struct sm *s, const struct envelope *e, enum err why);

struct fast_client {
    uint64_t id; /* struct session's client */
    const char *software, *device;
    uint64_t used, expires; /* unix seconds; used to the hour */
};
/* Valid during the call; err other than OK: none. */
typedef void fast_list_fn(void *arg, enum err err, const struct fast_client *list, size_t n);
void fast_list(struct account *a, fast_list_fn *fn, void *arg);
/* Revokes the tokens of one client (0: of all) and ends its sessions. ERR_NOT_FOUND: it has none. */
void fast_revoke(struct account *a, uint64_t client, store_done_fn *done, void *arg);

#endif
