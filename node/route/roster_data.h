/*
 * The roster of an account in memory: entries by prepared JID, and their way from and to storage.
 * What may be changed and who is told is im/roster.h's; here is only the data. The account owns its entries.
 */
#ifndef ROOKERY_ROSTER_DATA_H
#define ROOKERY_ROSTER_DATA_H

#include "sm.h"

/* Fills a->roster and a->roster_version from what storage found; the roster was empty. */
void roster_load(struct account *a, const struct account_data *d);
/* Frees all entries and the table. */
void roster_unload(struct account *a);

/* A new empty entry (SUB_NONE, not in the roster) in a's table; jid must not be there yet. The caller limits their
 * number. */
struct roster_entry *roster_entry_add(struct account *a, const char *jid);
/* Takes *e out of a's table, frees it and sets *e to NULL. */
void roster_entry_remove(struct account *a, struct roster_entry **e);

/* NULL or "" for none. */
void roster_entry_set_name(struct roster_entry *e, const char *name);
void roster_entry_set_groups(struct roster_entry *e, const char *const *groups, size_t n);
/* The pending subscribe stanza; NULL: none. Takes a reference of its own. */
void roster_entry_set_request(struct roster_entry *e, struct bytes *request);

/* e as storage wants it; borrows from e. */
struct roster_item roster_entry_item(const struct roster_entry *e);

/* A copy outside of any table, to go back to when storage fails: roster_entry_free. */
struct roster_entry *roster_entry_copy(const struct roster_entry *e);
/* Everything but the JID and the place in the table becomes as in `from`. */
void roster_entry_restore(struct roster_entry *e, const struct roster_entry *from);
void roster_entry_free(struct roster_entry **e);

#endif
