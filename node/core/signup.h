/*
 * XEP-0077 as both sides of a login need it: c2s before it, the account's home behind it. Reading a request, as fields
 * or as a data form; the answers; the rules on names and passwords.
 */
#ifndef ROOKERY_SIGNUP_H
#define ROOKERY_SIGNUP_H

#include "config.h"
#include "stanza.h"

#define NS_REGISTER "jabber:iq:register"

/* What a set asks for; texts live in the arena. */
struct signup_request {
    bool remove;
    const char *username, *password; /* NULL: not given, or empty */
};

/* NULL: *out is filled. Else what is wrong with it (bad-request). */
const char *signup_read(struct arena *a, const struct xml *query, struct signup_request *out);

/* The answer to a get: fields and the same as a form. username NULL: nobody is logged in. */
struct stanza *signup_fields(const struct stanza *q, const struct config *cf, const char *username);

/* The answer to a get where accounts are made elsewhere (XEP-0066). */
struct stanza *signup_redirect(const struct stanza *q, const struct config *cf);

/* What is wrong with a name (a prepared localpart) or a password by our rules; NULL: nothing. Static texts. */
const char *signup_name_refused(const struct config *cf, const char *name);
const char *signup_password_refused(const struct config *cf, const char *name, const char *password);

/* stanza_error, with the number that stood for the condition before there were conditions (XEP-0086): old scripts look
 * at nothing else. Also for other stanza errors of these requests. */
struct stanza *signup_error(const struct stanza *q, enum stanza_error e, const char *text);

#endif
