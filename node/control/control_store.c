#include "control_store.h"
#include "credentials_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE = 500, IMPORT_MAX = 1000, DAYS_MAX = 36500 };

/* One command about one account, on its way through storage. */
struct account_job {
    struct control_request *request;
    struct control_store *cx;
    const struct jid *bare;
    uint64_t before; /* archive purge */
};

static void account_job_free(struct account_job *j)
{
    jid_free(&j->bare);
    free(j);
}

static bool is_local(const struct config *g, const struct jid *j)
{
    for (size_t i = 0; i < g->host_count; i++)
        if (jid_domain_is(j, g->hosts[i].domain))
            return true;
    return false;
}

/* A bare JID of a virtual host, malloc'd; NULL: *why says what is wrong with it. */
static const struct jid *parse_account(const struct config *g, const char *text, const char **why)
{
    const struct jid *j = text ? jid_parse(NULL, text, strlen(text)) : NULL;
    *why = !j || !j->local_len || !jid_is_bare(j) ? "not a bare JID" : is_local(g, j) ? NULL : "no such host";
    if (*why && j)
        jid_free(&j);
    return j;
}

/* The job for the account named by the first word; NULL: the request has been answered. */
static struct account_job *account_job(struct control_request *r, struct control_store *cx)
{
    const char *why;
    const struct jid *bare = parse_account(cx->config, control_word(r, 0), &why);
    if (!bare) {
        control_reply_error(r, "%s: %s", control_word(r, 0), why);
        return NULL;
    }
    struct account_job *j = xcalloc(1, sizeof *j);
    *j = (struct account_job){.request = r, .cx = cx, .bare = bare};
    return j;
}

const char *control_store_error(enum err e)
{
    switch (e) {
    case ERR_EXISTS:
        return "exists already";
    case ERR_NOT_FOUND:
        return "no such account";
    case ERR_BUSY:
        return "storage is busy, try again";
    case ERR_FENCED:
        return "the home has just changed, try again";
    case ERR_UNKNOWN:
        return "unknown whether it was done, look and try again";
    default:
        return err_name(e);
    }
}

static void refuse(struct account_job *j, enum err e)
{
    control_reply_error(j->request, "%s: %s", j->bare->s, control_store_error(e));
}

static void account_done(void *arg, enum err e)
{
    struct account_job *j = arg;
    if (e)
        refuse(j, e);
    else
        control_reply_ok(j->request, json_pack("{s:s}", "jid", j->bare->s));
    account_job_free(j);
}

static void password_changed(void *arg, enum err e)
{
    struct account_job *j = arg;
    if (!e && j->cx->changed)
        j->cx->changed(j->cx->arg, j->bare);
    account_done(j, e);
}

/* As account_job, for a command that brings the keys of a password. */
static struct account_job *keys_job(struct control_request *r, struct control_store *cx, struct credentials *keys)
{
    if (credentials_from_json(control_arg(r, "keys"), keys) == OK)
        return account_job(r, cx);
    control_reply_error(r, "no valid keys");
    return NULL;
}

static void user_add(struct control_request *r, void *ctx)
{
    struct control_store *cx = ctx;
    struct credentials keys;
    struct account_job *j = keys_job(r, cx, &keys);
    if (j)
        store_account_create(cx->store, j->bare, &keys, account_done, j);
}

static void user_passwd(struct control_request *r, void *ctx)
{
    struct control_store *cx = ctx;
    struct credentials keys;
    struct account_job *j = keys_job(r, cx, &keys);
    if (j)
        store_account_credentials_set(cx->store, j->bare, &keys, password_changed, j);
}

/* What rookeryctl must know before it derives keys. */
static void user_settings(struct control_request *r, void *ctx)
{
    struct control_store *cx = ctx;
    control_reply_ok(r, json_pack("{s:I}", "scram_iterations", (json_int_t)cx->config->sasl.scram_iterations));
}

/* ---- user list: page after page, each sent before the next is read ---- */

struct list_job {
    struct control_request *request;
    struct control_store *cx;
    char **domains; /* copies: a reload may come between two pages */
    size_t domain_count, domain;
    char *after; /* NULL: from the start of the domain */
    size_t users;
};

static void list_free(struct list_job *j)
{
    for (size_t i = 0; i < j->domain_count; i++)
        free(j->domains[i]);
    free(j->domains);
    free(j->after);
    free(j);
}

static void list_finish(struct list_job *j, enum err e)
{
    if (e)
        control_reply_error(j->request, "%s", control_store_error(e));
    else
        control_reply_ok(j->request, json_pack("{s:I}", "count", (json_int_t)j->users));
    list_free(j);
}

static void list_page(void *arg, enum err e, const char *const *jids, size_t n);

static void list_next(struct control_request *r, void *arg)
{
    struct list_job *j = arg;
    if (control_gone(r) || j->domain == j->domain_count)
        list_finish(j, OK);
    else
        store_account_list(j->cx->store, j->domains[j->domain], j->after, PAGE, list_page, j);
}

static void list_page(void *arg, enum err e, const char *const *jids, size_t n)
{
    struct list_job *j = arg;
    if (e) {
        list_finish(j, e);
        return;
    }
    json_t *users = json_array();
    for (size_t i = 0; i < n; i++)
        if (strchr(jids[i], '@')) /* not a host's own (xep/invitations.h) */
            json_array_append_new(users, json_string(jids[i]));
    j->users += json_array_size(users);
    free(j->after);
    j->after = n == PAGE ? xstrdup(jids[n - 1]) : NULL;
    j->domain += !j->after;
    control_progress(j->request, json_pack("{s:o}", "users", users), list_next, j);
}

static void user_list(struct control_request *r, void *ctx)
{
    struct control_store *cx = ctx;
    const char *only = control_word(r, 0);
    struct arena *a = arena_new();
    const char *wanted = only ? jid_prep_domain(a, only, strlen(only)) : NULL;
    struct list_job *j = xcalloc(1, sizeof *j);
    *j = (struct list_job){.request = r, .cx = cx, .domains = xcalloc(cx->config->host_count, sizeof(char *))};
    for (size_t i = 0; i < cx->config->host_count; i++)
        if (!only || (wanted && !strcmp(wanted, cx->config->hosts[i].domain)))
            j->domains[j->domain_count++] = xstrdup(cx->config->hosts[i].domain);
    arena_free(&a);
    if (j->domain_count) {
        list_next(r, j);
    } else {
        control_reply_error(r, "%s: no such host", only);
        list_free(j);
    }
}

/* ---- user import: a batch ---- */

struct import_job {
    struct control_request *request;
    size_t pending, created;
    json_t *failed; /* [{"jid", "error"}] */
};

struct import_one {
    struct import_job *job;
    char *jid;
};

static void import_failed(struct import_job *j, const char *jid, const char *why)
{
    json_array_append_new(j->failed, json_pack("{s:s, s:s}", "jid", jid, "error", why));
}

static void import_unref(struct import_job *j)
{
    if (--j->pending)
        return;
    control_reply_ok(j->request, json_pack("{s:I, s:o}", "created", (json_int_t)j->created, "failed", j->failed));
    free(j);
}

static void import_done(void *arg, enum err e)
{
    struct import_one *one = arg;
    if (e)
        import_failed(one->job, one->jid, control_store_error(e));
    else
        one->job->created++;
    import_unref(one->job);
    free(one->jid);
    free(one);
}

static void import_one(struct control_store *cx, struct import_job *j, const json_t *account)
{
    const char *text = json_string_value(json_object_get(account, "jid")), *why;
    struct credentials keys;
    const struct jid *bare = parse_account(cx->config, text, &why);
    if (!bare) {
        import_failed(j, text ? text : "", why);
        return;
    }
    if (credentials_from_json(json_object_get(account, "keys"), &keys)) {
        import_failed(j, text, "no valid keys");
    } else {
        struct import_one *one = xcalloc(1, sizeof *one);
        *one = (struct import_one){.job = j, .jid = xstrdup(text)};
        j->pending++;
        store_account_create(cx->store, bare, &keys, import_done, one);
    }
    jid_free(&bare);
}

static void user_import(struct control_request *r, void *ctx)
{
    const json_t *accounts = control_arg(r, "accounts");
    if (!json_is_array(accounts) || json_array_size(accounts) > IMPORT_MAX) {
        control_reply_error(r, "accounts: must be a list of at most %d", IMPORT_MAX);
        return;
    }
    struct import_job *j = xcalloc(1, sizeof *j);
    *j = (struct import_job){.request = r, .pending = 1, .failed = json_array()};
    for (size_t i = 0; i < json_array_size(accounts); i++)
        import_one(ctx, j, json_array_get(accounts, i));
    import_unref(j);
}

/* ---- archive purge ---- */

/* "2026-01-31" or "2026-01-31T12:00:00Z". */
static bool parse_date(const char *text, uint64_t *unix_s)
{
    struct tm tm = {0};
    const char *end = strptime(text, "%Y-%m-%d", &tm);
    if (end && *end)
        end = strptime(end, "T%H:%M:%SZ", &tm);
    time_t t = end && !*end ? timegm(&tm) : -1;
    *unix_s = (uint64_t)t;
    return t >= 0;
}

static uint64_t days_ago(uint64_t days)
{
    uint64_t now = (uint64_t)time(NULL);
    return now > days * 86400 ? now - days * 86400 : 0;
}

/* The archive id (microseconds << 4) from which on messages stay; 0: *why is wrong. */
static uint64_t purge_before(struct control_request *r, const char **why)
{
    const char *date = json_string_value(control_arg(r, "before"));
    const json_t *older = control_arg(r, "older_than");
    uint64_t unix_s = 0;
    *why = NULL;
    if (!date == !older)
        *why = "give either a date or a number of days";
    else if (date && !parse_date(date, &unix_s))
        *why = "not a date such as 2026-01-31";
    else if (older &&
             (!json_is_integer(older) || json_integer_value(older) < 0 || json_integer_value(older) > DAYS_MAX))
        *why = "not a number of days";
    else if (older)
        unix_s = days_ago((uint64_t)json_integer_value(older));
    return unix_s * 1000000 << 4;
}

static void purge_done(void *arg, enum err e, uint64_t n)
{
    struct account_job *j = arg;
    if (e)
        control_reply_error(j->request, "%s", control_store_error(e));
    else
        control_reply_ok(j->request, json_pack("{s:I}", "removed", (json_int_t)n));
    account_job_free(j);
}

static void purge_loaded(void *arg, enum err e, const struct account_data *d)
{
    struct account_job *j = arg;
    if (!e) {
        store_archive_purge(j->cx->store, d->owner, j->before, purge_done, j);
        return;
    }
    refuse(j, e);
    account_job_free(j);
}

static void archive_purge(struct control_request *r, void *ctx)
{
    struct control_store *cx = ctx;
    const char *why;
    uint64_t before = purge_before(r, &why);
    if (why) {
        control_reply_error(r, "archive purge: %s", why);
        return;
    }
    if (control_word(r, 0)) {
        struct account_job *j = account_job(r, cx);
        if (!j)
            return;
        j->before = before;
        store_account_load(cx->store, j->bare, UINT64_MAX, purge_loaded, j);
    } else {
        struct account_job *j = xcalloc(1, sizeof *j);
        *j = (struct account_job){.request = r, .cx = cx, .before = before};
        store_archive_purge(cx->store, 0, before, purge_done, j);
    }
}

const struct control_command control_store_commands[] = {
    {"user add", 1, 1, user_add},       {"user passwd", 1, 1, user_passwd},     {"user list", 0, 1, user_list},
    {"user import", 0, 0, user_import}, {"archive purge", 0, 1, archive_purge}, {"user settings", 0, 0, user_settings},
};
const size_t control_store_command_count = sizeof control_store_commands / sizeof *control_store_commands;
