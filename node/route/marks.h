/*
 * Which stanzas of a sending session an account has had: in a cluster c2s sends what is not committed again when a home
 * changes, in order, so all up to the highest number seen is a repetition.
 *
 * What this home has seen counts for everything: the link loses nothing between living nodes, so its answers arrive.
 * What was loaded from storage says only which messages are stored: an iq or a presence that was handled by a dead home
 * is handled again, as its answer may have died with that home.
 */
#ifndef ROOKERY_MARKS_H
#define ROOKERY_MARKS_H

#include "envelope.h"
#include "store.h"

struct marks; /* the sessions that sent last, some thousand */

struct marks *marks_new(const struct stream_mark *loaded, size_t n);
void marks_free(struct marks **m); /* *m may be NULL */
/* Is this ROUTE or SELF a repetition? Otherwise it is noted. */
bool marks_seen(struct marks *m, const struct envelope *e);

#endif
