/* Which modules this server runs, in running order. A new XEP is one file and one line in modules.c. */
#ifndef ROOKERY_MODULES_H
#define ROOKERY_MODULES_H

#include "hooks.h"

extern const struct module *const modules[]; /* NULL-terminated */

#endif
