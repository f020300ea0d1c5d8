#include "signup.h"

#include <string.h>

#define NS_FORM "jabber:x:data"

/* ---- requests ---- */

static const char *form_value(struct arena *a, const struct xml *form, const char *var)
{
    for (struct xml *f = xml_find(form, "field", NS_FORM); f; f = xml_find_next(f, "field", NS_FORM)) {
        const char *name = xml_get(f, "var");
        if (name && !strcmp(name, var))
            return xml_find_text(a, f, "value", NS_FORM);
    }
    return NULL;
}

static const char *unless_empty(const char *s)
{
    return s && *s ? s : NULL;
}

static bool known_form(const char *type)
{
    return !type || !strcmp(type, NS_REGISTER) || !strcmp(type, NS_REGISTER ":changepassword");
}

const char *signup_read(struct arena *a, const struct xml *query, struct signup_request *out)
{
    *out = (struct signup_request){.remove = xml_find(query, "remove", NS_REGISTER)};
    if (out->remove)
        return xml_count(query) == 1 ? NULL : "<remove/> stands alone";
    const struct xml *form = xml_find(query, "x", NS_FORM); /* goes before the fields: section 5 */
    if (!form) {
        out->username = unless_empty(xml_find_text(a, query, "username", NS_REGISTER));
        out->password = unless_empty(xml_find_text(a, query, "password", NS_REGISTER));
        return NULL;
    }
    const char *type = xml_get(form, "type");
    if (!type || strcmp(type, "submit"))
        return "the form is not submitted";
    if (!known_form(form_value(a, form, "FORM_TYPE")))
        return "this is another form";
    out->username = unless_empty(form_value(a, form, "username"));
    out->password = unless_empty(form_value(a, form, "password"));
    return NULL;
}

/* ---- answers ---- */

static struct xml *form_field(struct arena *a, struct xml *form, const char *type, const char *var, const char *value)
{
    struct xml *f = xml_add(a, form, "field", NULL);
    xml_set(a, f, "type", type);
    xml_set(a, f, "var", var);
    if (value)
        xml_add_leaf(a, f, "value", NULL, value);
    return f;
}

static void form_needs(struct arena *a, struct xml *form, const char *type, const char *var, const char *label,
                       const char *value)
{
    struct xml *f = form_field(a, form, type, var, value);
    xml_set(a, f, "label", label);
    xml_add(a, f, "required", NULL);
}

struct stanza *signup_fields(const struct stanza *q, const struct config *cf, const char *username)
{
    struct stanza *r = stanza_result(q);
    struct arena *a = r->arena;
    struct xml *query = xml_add(a, r->x, "query", NS_REGISTER);
    const char *instructions = username ? "You are registered." : cf->registration.instructions;
    if (username)
        xml_add(a, query, "registered", NULL);
    xml_add_leaf(a, query, "instructions", NULL, instructions);
    xml_add_leaf(a, query, "username", NULL, username ? username : "");
    xml_add(a, query, "password", NULL);
    struct xml *form = xml_add(a, query, "x", NS_FORM);
    xml_set(a, form, "type", "form");
    xml_add_leaf(a, form, "title", NULL, username ? "Password change" : "New account");
    xml_add_leaf(a, form, "instructions", NULL, instructions);
    form_field(a, form, "hidden", "FORM_TYPE", NS_REGISTER);
    form_needs(a, form, "text-single", "username", "User name", username);
    form_needs(a, form, "text-private", "password", "Password", NULL);
    return r;
}

struct stanza *signup_redirect(const struct stanza *q, const struct config *cf)
{
    struct stanza *r = stanza_result(q);
    struct arena *a = r->arena;
    struct xml *query = xml_add(a, r->x, "query", NS_REGISTER);
    xml_add_leaf(a, query, "instructions", NULL, arena_printf(a, "To register, visit %s", cf->registration.redirect));
    xml_add_leaf(a, xml_add(a, query, "x", "jabber:x:oob"), "url", NULL, cf->registration.redirect);
    return r;
}

/* XEP-0086 */
static const char *legacy_code(enum stanza_error e)
{
    switch (e) {
    case SE_NOT_AUTHORIZED:
        return "401";
    case SE_FORBIDDEN:
        return "403";
    case SE_ITEM_NOT_FOUND:
        return "404";
    case SE_NOT_ALLOWED:
        return "405";
    case SE_NOT_ACCEPTABLE:
        return "406";
    case SE_REGISTRATION_REQUIRED:
        return "407";
    case SE_CONFLICT:
        return "409";
    case SE_INTERNAL_SERVER_ERROR:
    case SE_RESOURCE_CONSTRAINT:
        return "500";
    case SE_FEATURE_NOT_IMPLEMENTED:
        return "501";
    case SE_SERVICE_UNAVAILABLE:
        return "503";
    default:
        return "400"; /* bad-request, jid-malformed, unexpected-request */
    }
}

struct stanza *signup_error(const struct stanza *q, enum stanza_error e, const char *text)
{
    struct stanza *r = stanza_error(q, e, text);
    if (r)
        xml_set(r->arena, xml_find(r->x, "error", NS_CLIENT), "code", legacy_code(e));
    return r;
}
