/*
 * Messages of strangers, who are not in the account's roster, refused by option: for a host or for all of them.
 *
 * Welcome all the same: errors; one's own account; our hosts, and operators named in the configuration (contacts,
 * reports); whom a session has sent its presence to, such as rooms; and whom the user has written to in the last two
 * weeks: that is kept in memory only, for the latest of them. A stranger is told what everybody is told who writes to
 * nobody, so that addresses cannot be collected in this way.
 */
#ifndef ROOKERY_STRANGERS_H
#define ROOKERY_STRANGERS_H

#include "hooks.h"

extern const struct module im_strangers;

#endif
