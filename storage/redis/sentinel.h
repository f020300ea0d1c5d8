/*
 * Which server is the master, as the Sentinels say (https://redis.io/docs/reference/sentinel-clients/). Private to
 * storage/redis. One question at a time; the Sentinel that answered last is asked first.
 */
#ifndef ROOKERY_SENTINEL_H
#define ROOKERY_SENTINEL_H

#include "registry.h"

struct sentinel;

/* address: numeric, lent for the call; NULL: no Sentinel knows. Not inside of sentinel_ask. */
typedef void sentinel_fn(void *arg, const char *address, uint16_t port);

/* c is kept until sentinel_free: its servers are the Sentinels. */
struct sentinel *sentinel_new(struct loop *l, const struct registry_config *c, sentinel_fn *fn, void *arg);
void sentinel_free(struct sentinel **s); /* NULL inside is fine; not in fn */
/* Nothing new happens while a question is under way. fn runs once, unless sentinel_stop comes first. */
void sentinel_ask(struct sentinel *s);
void sentinel_stop(struct sentinel *s);

#endif
