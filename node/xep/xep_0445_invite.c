/*
 * XEP-0445: what an invitation's token is good for. All of a host's invitations are one value, a JSON array:
 * {"hash", "name", "uses", "expires", "claims": [hash of a localpart]}. A claim is remembered by name, so asking twice
 * takes one use, and one that was never heard of again can be taken up by the same name. One without a hash keeps the
 * name of a removed account: nobody has its token.
 */
#include "hash.h"
#include "invitations.h"
#include "xep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY "urn:xmpp:ibr-token:0 invitations"

enum { DAY_S = 86400, KEPT_MAX = 1000 };
enum { GRACE_S = 3600 }; /* for those who were let in before it expired (section 4) */

enum step { LOOK = INVITE_LOOK, CLAIM = INVITE_CLAIM, RETURN = INVITE_RETURN, KEEP = INVITE_KEEP, ADD, DEL, LIST };

struct job {
    struct account *host;
    enum step step;
    char hash[65];   /* hexadecimal; "": no token. DEL: its beginning */
    char *localpart; /* claimed; NULL: none */
    struct invitation add;
    char *found; /* the invitation's name; NULL: any */
    json_t *list;
    struct invite_asker asker; /* or else `done` or `listed` */
    store_done_fn *done;
    invitations_fn *listed;
    void *arg;
};

static uint64_t now_unix(const struct job *j)
{
    return loop_unix_us(j->host->sm->loop) / 1000000;
}

static void hex(const uint8_t *p, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        sprintf(out + 2 * i, "%02x", p[i]);
}

void invitation_id(const uint8_t token_hash[32], char out[INVITATION_ID_LEN + 1])
{
    hex(token_hash, INVITATION_ID_LEN / 2, out);
}

/* ---- one invitation ---- */

static const char *name_of(const json_t *i)
{
    return json_string_value(json_object_get(i, "name"));
}

/* NULL: no invitation, only a kept name. */
static const char *hash_of(const json_t *i)
{
    return json_string_value(json_object_get(i, "hash"));
}

static uint64_t number_of(const json_t *i, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(i, key));
}

static json_t *claims_of(const json_t *i)
{
    return json_object_get(i, "claims");
}

static bool usable(const struct job *j, const json_t *i)
{
    return json_array_size(claims_of(i)) < number_of(i, "uses") && number_of(i, "expires") > now_unix(j);
}

static json_int_t claim_of(const struct job *j)
{
    return (json_int_t)hash_stable(j->localpart, strlen(j->localpart));
}

/* The claim's place; SIZE_MAX: there is none. */
static size_t claim_find(const json_t *i, json_int_t claim)
{
    size_t at;
    json_t *c;
    json_array_foreach(claims_of(i), at, c)
    {
        if (json_integer_value(c) == claim)
            return at;
    }
    return SIZE_MAX;
}

/* The place of the invitation whose hash begins like this. */
static size_t find(const json_t *all, const char *hash)
{
    size_t at;
    json_t *i;
    json_array_foreach(all, at, i)
    {
        if (hash_of(i) && !strncmp(hash_of(i), hash, strlen(hash)))
            return at;
    }
    return SIZE_MAX;
}

/* The place of what keeps a name for others than own; SIZE_MAX: nothing does. */
static size_t keeper(const struct job *j, const json_t *all, const char *name, const json_t *own)
{
    size_t at;
    json_t *i;
    json_array_foreach(all, at, i)
    {
        if (i != own && name_of(i) && !strcmp(name_of(i), name) && usable(j, i))
            return at;
    }
    return SIZE_MAX;
}

/* ---- what is done with all of them; *write: they have changed ---- */

static enum err look(struct job *j, const json_t *i)
{
    if (!i || !usable(j, i))
        return ERR_NOT_FOUND;
    j->found = name_of(i) ? xstrdup(name_of(i)) : NULL;
    return OK;
}

static enum err claim(struct job *j, const json_t *all, json_t *i, bool *write)
{
    if (*j->hash && !i)
        return ERR_NOT_FOUND;
    if (i && name_of(i) && strcmp(name_of(i), j->localpart))
        return ERR_INVALID;
    if (keeper(j, all, j->localpart, i) != SIZE_MAX)
        return ERR_EXISTS;
    if (!i || claim_find(i, claim_of(j)) != SIZE_MAX)
        return OK;
    if (json_array_size(claims_of(i)) >= number_of(i, "uses"))
        return ERR_NOT_FOUND;
    *write = !json_array_append_new(claims_of(i), json_integer(claim_of(j)));
    return OK;
}

static enum err give_back(struct job *j, json_t *i, bool *write)
{
    size_t at = i ? claim_find(i, claim_of(j)) : SIZE_MAX;
    *write = at != SIZE_MAX && !json_array_remove(claims_of(i), at);
    return OK;
}

static enum err add(struct job *j, json_t *all, bool *write)
{
    size_t kept = j->add.name ? keeper(j, all, j->add.name, NULL) : SIZE_MAX;
    if (json_array_size(all) >= INVITATIONS_MAX + KEPT_MAX)
        return ERR_LIMIT;
    if (kept != SIZE_MAX && hash_of(json_array_get(all, kept)))
        return ERR_EXISTS;
    if (kept != SIZE_MAX)
        json_array_remove(all, kept);
    json_t *i = json_pack("{s:s, s:I, s:I, s:[]}", "hash", j->hash, "uses", (json_int_t)j->add.uses, "expires",
                          (json_int_t)j->add.expires_unix, "claims");
    if (j->add.name)
        json_object_set_new(i, "name", json_string(j->add.name));
    *write = !json_array_append_new(all, i);
    return OK;
}

/* The oldest makes room. */
static enum err keep(struct job *j, json_t *all, bool *write)
{
    size_t at, count = 0, oldest = SIZE_MAX;
    json_t *i;
    json_array_foreach(all, at, i)
    {
        if (!hash_of(i) && !count++)
            oldest = at;
    }
    if (count >= KEPT_MAX)
        json_array_remove(all, oldest);
    json_int_t until = (json_int_t)(now_unix(j) + j->host->sm->config->registration.keep_removed_days * DAY_S);
    *write =
        !json_array_append_new(all, json_pack("{s:s, s:i, s:I}", "name", j->localpart, "uses", 1, "expires", until));
    return OK;
}

static enum err list(struct job *j, const json_t *all)
{
    size_t at;
    json_t *i;
    j->list = json_array();
    json_array_foreach(all, at, i)
    {
        if (hash_of(i) && usable(j, i))
            json_array_append_new(
                j->list,
                json_pack("{s:o, s:o, s:O, s:I, s:O}", "id", json_stringn(hash_of(i), INVITATION_ID_LEN), "name",
                          name_of(i) ? json_string(name_of(i)) : json_null(), "uses", json_object_get(i, "uses"),
                          "used", (json_int_t)json_array_size(claims_of(i)), "expires", json_object_get(i, "expires")));
    }
    return OK;
}

static enum err run(struct job *j, json_t *all, bool *write)
{
    size_t at = *j->hash ? find(all, j->hash) : SIZE_MAX;
    json_t *i = at == SIZE_MAX ? NULL : json_array_get(all, at);
    switch (j->step) {
    case LOOK:
        return look(j, i);
    case CLAIM:
        return claim(j, all, i, write);
    case RETURN:
        return give_back(j, i, write);
    case KEEP:
        return keep(j, all, write);
    case ADD:
        return add(j, all, write);
    case DEL:
        *write = at != SIZE_MAX && !json_array_remove(all, at);
        return *write ? OK : ERR_NOT_FOUND;
    case LIST:
        return list(j, all);
    }
    return ERR_INVALID;
}

/* ---- the value ---- */

static void drop_old(const struct job *j, json_t *all)
{
    for (size_t at = json_array_size(all); at--;)
        if (number_of(json_array_get(all, at), "expires") + GRACE_S <= now_unix(j))
            json_array_remove(all, at);
}

static enum err on_change(void *arg, const struct bytes *old, struct bytes **now)
{
    struct job *j = arg;
    bool write = false;
    json_t *all = old ? json_loadb(old->data, old->len, 0, NULL) : json_array();
    if (!json_is_array(all)) {
        log_error(&j->host->sm->log, "invitations-unreadable", "host", j->host->jid->s);
        json_decref(all);
        return ERR_IO;
    }
    drop_old(j, all);
    enum err e = run(j, all, &write);
    if (write) {
        char *text = json_dumps(all, JSON_COMPACT);
        *now = bytes_new(text, strlen(text));
        free(text);
    }
    json_decref(all);
    return e;
}

static void job_end(struct job *j, enum err e)
{
    if (j->listed)
        j->listed(j->arg, e, e == OK ? j->list : NULL);
    else if (j->done)
        j->done(j->arg, e);
    else if (j->step <= CLAIM && e != ERR_FENCED) /* else the new home is asked */
        invite_answer(j->host->sm, &j->asker, e, j->found);
    free(j->localpart);
    free((char *)j->add.name);
    free(j->found);
    free(j);
}

static void on_done(void *arg, enum err e)
{
    struct job *j = arg;
    job_end(j, account_gone(j->host, e) ? ERR_FENCED : e);
}

static struct job *job_new(struct account *host, enum step step, const uint8_t *token_hash)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->host = host;
    j->step = step;
    if (token_hash)
        hex(token_hash, 32, j->hash);
    return j;
}

static void job_start(struct job *j)
{
    value_update(j->host, KEY, on_change, on_done, j);
}

/* ---- who asks ---- */

static void on_invite(struct account *host, const struct envelope *e)
{
    bool claims = e->code != INVITE_LOOK;
    if (claims && (!e->target || !e->target->local_len))
        return;
    struct job *j = job_new(host, (enum step)e->code, e->bytes ? (const uint8_t *)e->bytes->data : NULL);
    j->localpart = claims ? strndup(jid_local(e->target), e->target->local_len) : NULL;
    j->asker = (struct invite_asker){e->from, e->session, e->seq};
    if (host->missing)
        job_end(j, *j->hash ? ERR_NOT_FOUND : OK);
    else
        job_start(j);
}

void invitation_add(struct account *host, const struct invitation *i, store_done_fn *done, void *arg)
{
    struct job *j = job_new(host, ADD, i->token_hash);
    j->add = *i;
    j->add.name = i->name ? xstrdup(i->name) : NULL;
    j->done = done;
    j->arg = arg;
    job_start(j);
}

void invitation_del(struct account *host, const char *id, store_done_fn *done, void *arg)
{
    struct job *j = job_new(host, DEL, NULL);
    snprintf(j->hash, sizeof j->hash, "%s", id);
    j->done = done;
    j->arg = arg;
    job_start(j);
}

void invitation_list(struct account *host, invitations_fn *done, void *arg)
{
    struct job *j = job_new(host, LIST, NULL);
    j->listed = done;
    j->arg = arg;
    job_start(j);
}

const struct module xep_0445_invite = {
    .name = "invite",
    .invite = on_invite,
};
