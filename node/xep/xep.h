/* The modules of this folder, for modules.c. */
#ifndef ROOKERY_XEP_H
#define ROOKERY_XEP_H

#include "hooks.h"

extern const struct module xep_0012_last;
extern const struct module xep_0030_disco;
extern const struct module xep_0033_multicast;
extern const struct module xep_0049_private;
extern const struct module xep_0054_vcard;
extern const struct module xep_0077_register;
extern const struct module xep_0092_version;
extern const struct module xep_0115_caps;
extern const struct module xep_0157_contact;
extern const struct module xep_0191_blocking;
extern const struct module xep_0199_ping;
extern const struct module xep_0202_time;
extern const struct module xep_0257_certificates;
extern const struct module xep_0280_carbons;
extern const struct module xep_0313_mam;
extern const struct module xep_0357_push;
extern const struct module xep_0377_reports;
extern const struct module xep_0445_invite;

#endif
