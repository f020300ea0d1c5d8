#include "modules.h"

#include "presence.h"
#include "registry_feed.h"
#include "roster.h"
#include "strangers.h"
#include "xep.h"

/* What route/ does itself (deliver.c) and only has to be announced: XEP-0160, 0203, 0334, 0359. */
static const struct module spine = {
    .name = "spine",
    .features = (const char *const[]){"msgoffline", "urn:xmpp:delay", "urn:xmpp:hints", NULL},
    .account_features = (const char *const[]){"urn:xmpp:sid:0", NULL},
};

/* clang-format off: one line each. xep_0012_last sees a session that closes before im_presence ends its presence;
 * xep_0115_caps answers for its nodes before xep_0030_disco refuses them; xep_0377_reports reads what xep_0191_blocking
 * does then. */
const struct module *const modules[] = {
    &xep_0012_last,
    &im_roster,
    &im_presence,
    &im_registry_feed,
    &spine,
    &xep_0115_caps,
    &xep_0030_disco,
    &xep_0033_multicast,
    &xep_0049_private,
    &xep_0054_vcard,
    &xep_0077_register,
    &xep_0092_version,
    &xep_0157_contact,
    &xep_0377_reports,
    &xep_0191_blocking,
    &im_strangers,
    &xep_0199_ping,
    &xep_0202_time,
    &xep_0257_certificates,
    &xep_0280_carbons,
    &xep_0313_mam,
    &xep_0357_push,
    &xep_0445_invite,
    NULL,
};
