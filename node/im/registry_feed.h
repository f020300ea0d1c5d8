/*
 * Tells the session registry (storage/redis/registry.h) of the sessions that are at home here, when there is one
 * (sm->registry). Nothing waits for it.
 */
#ifndef ROOKERY_REGISTRY_FEED_H
#define ROOKERY_REGISTRY_FEED_H

#include "hooks.h"

extern const struct module im_registry_feed;

/* For sessions that came to this home otherwise than by binding, or whenever all of one is to be told: as it is now. */
void registry_feed_put(struct session *se);

#endif
