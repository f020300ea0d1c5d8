#include "certificates.h"

#include "account.h"
#include "certificate.h"

#include <stdlib.h>
#include <string.h>

struct check {
    struct account *account;
    struct envelope *e;
    bool good, no_manager;
};

Certificates__List *certificates_read(const struct bytes *value)
{
    return value ? certificates__list__unpack(NULL, value->len, (const uint8_t *)value->data) : NULL;
}

uint64_t certificate_id(const uint8_t hash[32])
{
    uint64_t id;
    memcpy(&id, hash, sizeof id);
    return id ? id : 1;
}

static bool is_this(const Certificates__Certificate *m, const uint8_t hash[CERTIFICATE_HASH_LEN])
{
    struct certificate c;
    if (!certificate_parse(m->der.data, m->der.len, &c))
        return false;
    bool same = !memcmp(c.hash, hash, CERTIFICATE_HASH_LEN);
    certificate_clear(&c);
    return same;
}

static enum err look(void *arg, const struct bytes *value, struct bytes **now)
{
    struct check *k = arg;
    Certificates__List *m = certificates_read(value);
    (void)now;
    for (size_t i = 0; m && i < m->n_certificates; i++)
        if (is_this(m->certificates[i], (const uint8_t *)k->e->bytes->data)) {
            k->good = true;
            k->no_manager |= m->certificates[i]->no_management;
        }
    if (m)
        certificates__list__free_unpacked(m, NULL);
    return OK;
}

static void on_looked(void *arg, enum err e)
{
    struct check *k = arg;
    struct account *a = k->account;
    if (!account_gone(a, e))
        checked_answer(a->sm, k->e, e == OK && !k->good ? ERR_NOT_FOUND : e,
                       k->no_manager ? CERTIFICATE_NO_MANAGER : 0);
    env_free(&k->e);
    free(k);
    account_unpin(a);
}

void handle_certificate(struct account *a, struct envelope **ep)
{
    struct envelope *e = *ep;
    CHECK(e->bytes && e->bytes->len == CERTIFICATE_HASH_LEN, "certificate");
    if (a->missing || e->flags & CERTIFICATE_TRUSTED) {
        checked_answer(a->sm, e, a->missing ? ERR_NOT_FOUND : OK, 0);
        return;
    }
    struct check *k = xmalloc(sizeof *k);
    *k = (struct check){.account = a, .e = e};
    *ep = NULL;
    account_pin(a);
    value_update(a, CERTIFICATES_KEY, look, on_looked, k);
}
