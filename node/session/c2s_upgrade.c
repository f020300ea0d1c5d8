/*
 * XEP-0480: an account that was imported with keys of one hash gets those of another from a client that knows the
 * password. A task is only given to who has proven that with this very login, and only for what the account lacks.
 */
#include "c2s.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#define NS_UPGRADE "urn:xmpp:sasl:upgrade:0"
#define NS_SCRAM   "urn:xmpp:scram-upgrade:0"

enum { TASKS = 1 << SCRAM_SHA256 | 1 << SCRAM_SHA512 }; /* nobody is brought back to SHA-1 */

static void task_name(enum scram_hash h, char out[32])
{
    snprintf(out, 32, "UPGR-SCRAM-%s", scram_name(h));
}

void c2s_upgrade_features(struct arena *a, struct xml *authentication)
{
    for (enum scram_hash h = 0; h < SCRAM_HASHES; h++) {
        char name[32];
        task_name(h, name);
        if (TASKS & 1 << h)
            xml_add_leaf(a, authentication, "upgrade", NS_UPGRADE, name);
    }
}

/* What the client would do, as far as the account lacks it. */
static unsigned wanted(struct login *l)
{
    unsigned set = 0;
    if (!l->by_password || !l->has)
        return 0;
    for (const struct xml *x = xml_find(l->request, "upgrade", NS_UPGRADE); x;
         x = xml_find_next(x, "upgrade", NS_UPGRADE))
        for (enum scram_hash h = 0; h < SCRAM_HASHES; h++) {
            char name[32];
            task_name(h, name);
            set |= (unsigned)!strcmp(xml_text(l->arena, x), name) << h;
        }
    return set & TASKS & ~l->has;
}

static enum scram_hash task(const struct login *l)
{
    return (enum scram_hash)__builtin_ctz(l->upgrades);
}

bool c2s_upgrade(struct c2s *c)
{
    struct login *l = c->login;
    struct buf b = {0};
    char name[32];
    if (l->upgrade_step == UPGRADE_UNKNOWN)
        l->upgrades = wanted(l);
    l->upgrade_step = l->upgrades ? UPGRADE_OFFERED : UPGRADE_IDLE;
    if (!l->upgrades)
        return false;
    task_name(task(l), name);
    buf_str(&b, "<continue xmlns='" NS_SASL2 "'>");
    if (l->data)
        buf_printf(&b, "<additional-data>%s</additional-data>", l->data);
    l->data = NULL;
    buf_printf(&b, "<tasks><task>%s</task></tasks></continue>", name);
    c2s_write_text(c, buf_cstr(&b));
    buf_free(&b);
    if (c->waiting)
        c2s_go_on(c);
    return true;
}

/* RFC 6120's conditions; there is no way back to SASL from here. */
static void task_failed(struct c2s *c, enum sasl_failure why)
{
    struct buf b = {0};
    log_info(&c->log, "task-failed", "jid", c->user->s, "why", sasl_failure_name(why));
    buf_printf(&b, "<failure xmlns='" NS_SASL2 "'><%s xmlns='" NS_SASL "'/></failure>", sasl_failure_name(why));
    c2s_write_text(c, buf_cstr(&b));
    buf_free(&b);
    c2s_end(c);
}

/* The client may be in this step; else its stream is over. */
static bool at_step(struct c2s *c, enum upgrade_step step)
{
    if (!c->login) {
        c2s_stream_error(c, STREAM_NOT_AUTHORIZED, "no task was given");
        return false;
    }
    if (c->login->upgrade_step != step)
        task_failed(c, SASL_MALFORMED_REQUEST);
    return c->login && c->login->upgrade_step == step && c->state != C2S_DEAD;
}

void c2s_task_next(struct c2s *c, const struct xml *x)
{
    char name[32], salt[SCRAM_SALT_LEN * 2];
    const char *chosen = xml_get(x, "task");
    if (!at_step(c, UPGRADE_OFFERED))
        return;
    task_name(task(c->login), name);
    if (!chosen || strcmp(chosen, name)) {
        task_failed(c, SASL_MALFORMED_REQUEST);
        return;
    }
    struct buf b = {0};
    c->login->upgrade_step = UPGRADE_SALTED;
    random_bytes(c->login->salt, SCRAM_SALT_LEN);
    base64_encode(salt, c->login->salt, SCRAM_SALT_LEN);
    buf_printf(&b, "<task-data xmlns='" NS_SASL2 "'><salt xmlns='" NS_SCRAM "' iterations='%u'>%s</salt></task-data>",
               c->edge->config->sasl.scram_iterations, salt);
    c2s_write_text(c, buf_cstr(&b));
    buf_free(&b);
}

static void write_keys(struct c2s *c, const uint8_t *salted)
{
    struct login *l = c->login;
    struct scram_keys k = {.iterations = c->edge->config->sasl.scram_iterations};
    memcpy(k.salt, l->salt, sizeof k.salt);
    scram_keys_make(task(l), salted, &k);
    struct envelope *e = env_new(ENV_UPGRADE, c->user);
    e->code = task(l);
    e->bytes = bytes_new(&k, sizeof k);
    e->seq = ++c->question;
    OPENSSL_cleanse(&k, sizeof k);
    l->upgrade_step = UPGRADE_WRITING;
    c2s_wait(c);
    c2s_ask(c, &e);
}

void c2s_task_data(struct c2s *c, const struct xml *x)
{
    uint8_t salted[SCRAM_KEY_MAX];
    if (!at_step(c, UPGRADE_SALTED))
        return;
    const char *text = xml_find_text(c->login->arena, x, "hash", NS_SCRAM);
    size_t n = text ? strlen(text) : 0;
    if (!n || base64_decode(salted, sizeof salted, text, n) != (long)scram_len(task(c->login)))
        task_failed(c, SASL_MALFORMED_REQUEST);
    else
        write_keys(c, salted);
    OPENSSL_cleanse(salted, sizeof salted);
}

void c2s_task_abort(struct c2s *c, const struct xml *x)
{
    (void)x;
    if (c->login)
        task_failed(c, SASL_ABORTED);
    else
        c2s_stream_error(c, STREAM_NOT_AUTHORIZED, "not twice on one stream");
}

/* The client is who it says whether its keys could be kept or not. */
void c2s_upgrade_done(struct c2s *c, const struct envelope *e)
{
    struct login *l = c->login;
    if (!l || l->upgrade_step != UPGRADE_WRITING)
        return;
    c2s_answered(c);
    log_info(&c->log, "keys-added", "jid", c->user->s, "hash", scram_name(task(l)), "result",
             err_name((enum err)e->code));
    l->upgrades &= l->upgrades - 1;
    l->upgrade_step = UPGRADE_IDLE;
    c2s_login_go(c);
}
