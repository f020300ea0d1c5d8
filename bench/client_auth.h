/* SASL for bench/client: SCRAM-SHA-1, SCRAM-SHA-256 (RFC 5802, 7677; no channel binding) and PLAIN. Only texts; the
 * client sends them. */
#ifndef BENCH_CLIENT_AUTH_H
#define BENCH_CLIENT_AUTH_H

#include "client.h"

enum { AUTH_TEXT = 1024 };

/* Do the stream's features have the mechanism that is configured? */
bool auth_offered(const struct client *c, const char *features);
/* out: <auth/> (AUTH_TEXT bytes). */
void auth_start(struct client *c, char *out);
/* out: <response/>; NULL, or why there is none. */
const char *auth_challenge(struct client *c, const char *xml, char *out);
/* Is the server's signature right? */
bool auth_success(struct client *c, const char *xml);

#endif
