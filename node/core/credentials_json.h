/*
 * SCRAM keys as JSON, the form in which rookeryctl hands them to the server:
 *   {"SHA-1": {"iterations": 10000, "salt": "base64", "stored": "base64", "server": "base64"}, ...}
 */
#ifndef ROOKERY_CREDENTIALS_JSON_H
#define ROOKERY_CREDENTIALS_JSON_H

#include "scram.h"

#include <jansson.h>

/* Yours. Sets without keys (iterations 0) are left out. */
json_t *credentials_to_json(const struct credentials *c);
/* ERR_INVALID: no set at all, an unknown hash, a wrong length, or iterations beyond 4096 to 1,000,000. j may be NULL.
 */
enum err credentials_from_json(const json_t *j, struct credentials *out) WARN_UNUSED;

#endif
