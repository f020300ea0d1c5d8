#include "envelope_pack.h"

#include "bigendian.h"
#include "log.h"
#include "metrics.h"
#include "scram.h"

#include <mesh.pb-c.h>
#include <string.h>

/* Numbers of these enums travel, in stanza_kind, stanza_type and code: they may only grow at the end. */
_Static_assert(STANZA_IQ == 2 && IQ_ERROR == 16 && PRESENCE_AVAILABLE == 5 && IQ_GET == 13, "stanza types travel");
_Static_assert(ENV_ROUTE == 3 && ENV_SELF == 4, "COMMITTED says which");
_Static_assert(SE_UNEXPECTED_REQUEST == 21 && STREAM_UNSUPPORTED_VERSION == 25 && ERR_CLOSED == 9, "errors travel");

/* What an envelope must have, so that no handler has to ask. */
enum { HASH_LEN = 32 }; /* of a token */
enum {
    NEEDS_JID = 1,
    NEEDS_FULL = 2,
    NEEDS_BYTES = 4,
    NEEDS_HASH = 8,
    MAY_HASH = 16,
    NEEDS_KEYS = 32,
    NEEDS_CREATION = 64
};

/* X(kind, what it needs, the greatest code) */
#define KINDS(X)                                                                                                       \
    X(AUTH, NEEDS_JID, SCRAM_HASHES - 1)                                                                               \
    X(BIND, NEEDS_JID, 0)                                                                                              \
    X(RESUME, NEEDS_JID | NEEDS_HASH, 0)                                                                               \
    X(ROUTE, NEEDS_JID | NEEDS_BYTES, UINT32_MAX)                                                                      \
    X(SELF, NEEDS_JID | NEEDS_BYTES, UINT32_MAX)                                                                       \
    X(SM_ON, NEEDS_JID | MAY_HASH, UINT32_MAX)                                                                         \
    X(HANDLED, NEEDS_JID, UINT32_MAX)                                                                                  \
    X(ACKED, NEEDS_JID, UINT32_MAX)                                                                                    \
    X(DETACHED, NEEDS_JID, UINT32_MAX)                                                                                 \
    X(CLOSE, NEEDS_JID, UINT32_MAX)                                                                                    \
    X(REVOKED, NEEDS_JID, 1)                                                                                           \
    X(CREATE, NEEDS_JID | NEEDS_CREATION, 0)                                                                           \
    X(INVITE, NEEDS_JID | MAY_HASH, INVITE_KEEP)                                                                       \
    X(REGISTER, NEEDS_FULL | NEEDS_BYTES, UINT32_MAX)                                                                  \
    X(TOKEN, NEEDS_JID | NEEDS_BYTES, 0)                                                                               \
    X(UPGRADE, NEEDS_JID | NEEDS_KEYS, SCRAM_HASHES - 1)                                                               \
    X(CERTIFICATE, NEEDS_JID | NEEDS_HASH, 0)                                                                          \
    X(KEYS, NEEDS_KEYS, ERR_CLOSED)                                                                                    \
    X(BOUND, 0, 1 + SE_UNEXPECTED_REQUEST)                                                                             \
    X(RESUMED, 0, ERR_CLOSED)                                                                                          \
    X(COMMITTED, 0, UINT32_MAX)                                                                                        \
    X(DELIVER, NEEDS_BYTES, UINT32_MAX)                                                                                \
    X(KICK, 0, STREAM_UNSUPPORTED_VERSION)                                                                             \
    X(BLOCKED, NEEDS_BYTES, UINT32_MAX)                                                                                \
    X(STATE, NEEDS_BYTES, UINT32_MAX)                                                                                  \
    X(YIELD, 0, UINT32_MAX)                                                                                            \
    X(CREATED, 0, ERR_CLOSED)                                                                                          \
    X(INVITED, 0, ERR_CLOSED)                                                                                          \
    X(TOKENED, 0, ERR_CLOSED)                                                                                          \
    X(CHECKED, 0, ERR_CLOSED)                                                                                          \
    X(FORGOT, 0, UINT32_MAX)                                                                                           \
    X(AFRESH, 0, UINT32_MAX)                                                                                           \
    X(TAKEOVER, 0, ERR_CLOSED)                                                                                         \
    X(CONTROL, NEEDS_BYTES, 0)                                                                                         \
    X(CONTROLLED, NEEDS_BYTES, 0)

struct rule {
    enum env_kind kind;
    unsigned needs;
    uint32_t code_max;
};

/* A new kind that is not in the table above does not compile. */
static uint32_t wire_kind(enum env_kind k)
{
    switch (k) {
#define X(name, needs, code_max)                                                                                       \
    case ENV_##name:                                                                                                   \
        return MESH__KIND__##name;
        KINDS(X)
#undef X
    case ENV_CALL:
        break;
    }
    check_failed(__FILE__, __LINE__, "kind", "an envelope of kind %d does not travel", (int)k);
}

static bool rule_find(uint32_t wire, struct rule *out)
{
    switch (wire) {
#define X(name, needs, code_max)                                                                                       \
    case MESH__KIND__##name:                                                                                           \
        *out = (struct rule){ENV_##name, needs, code_max};                                                             \
        return true;
        KINDS(X)
#undef X
    }
    return false;
}

/* ---- packing ---- */

static ProtobufCBinaryData jid_field(const struct jid *j)
{
    if (!j)
        return (ProtobufCBinaryData){0, NULL};
    return (ProtobufCBinaryData){j->bare_len + (j->resource_len ? 1u + j->resource_len : 0), (uint8_t *)j->s};
}

void env_pack(struct buf *out, struct envelope *e)
{
    env_flatten(e);
    Mesh__Envelope m = MESH__ENVELOPE__INIT;
    m.kind = wire_kind(e->kind);
    m.from_node = e->from.node;
    m.from_worker = e->from.worker;
    m.to_node = e->to.node;
    m.to_worker = e->to.worker;
    m.session = e->session;
    m.seq = e->seq;
    m.id = e->id;
    m.code = e->code;
    m.flags = e->flags;
    m.no_hurry = e->no_hurry;
    m.reg = e->reg;
    m.origin = e->origin;
    m.stanza_kind = e->stanza_kind;
    m.stanza_type = e->stanza_type;
    m.jid = jid_field(e->jid);
    m.sender = jid_field(e->sender);
    m.target = jid_field(e->target);
    m.has_bytes = e->bytes != NULL;

    size_t head = mesh__envelope__get_packed_size(&m), body = e->bytes ? e->bytes->len : 0;
    char *at = buf_reserve(out, 8 + head + body);
    be_put32(at, (uint32_t)head);
    be_put32(at + 4, (uint32_t)body);
    mesh__envelope__pack(&m, (uint8_t *)at + 8);
    if (body)
        memcpy(at + 8 + head, e->bytes->data, body);
    buf_wrote(out, 8 + head + body);
}

/* ---- unpacking ---- */

/* What protobuf-c may take for one head: it sits on the stack, and a head that wants more is refused. */
struct budget {
    size_t used;
    _Alignas(max_align_t) uint8_t mem[2 * ENV_HEAD_MAX];
};

static void *budget_alloc(void *data, size_t n)
{
    struct budget *b = data;
    size_t room = sizeof b->mem - b->used;
    if (n > room)
        return NULL;
    void *p = b->mem + b->used;
    n = (n + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
    b->used += n < room ? n : room;
    return p;
}

static void budget_free(void *data, void *p)
{
    (void)data;
    (void)p;
}

static bool read_jid(struct arena *a, const ProtobufCBinaryData *f, const struct jid **out)
{
    *out = f->len ? jid_parse(a, (const char *)f->data, f->len) : NULL;
    return *out || !f->len;
}

static bool type_fits(uint32_t kind, uint32_t type)
{
    switch (kind) {
    case STANZA_MESSAGE:
        return type < PRESENCE_AVAILABLE;
    case STANZA_PRESENCE:
        return type >= PRESENCE_AVAILABLE && type < IQ_GET;
    case STANZA_IQ:
        return type >= IQ_GET && type <= IQ_ERROR;
    default:
        return false;
    }
}

static bool creation_fits(const struct envelope *e)
{
    const struct creation *c = e->bytes && e->bytes->len == sizeof *c ? (const void *)e->bytes->data : NULL;
    return c && e->jid->local_len && jid_is_bare(e->jid) && !c->peer[sizeof c->peer - 1];
}

static bool follows(const struct envelope *e, const struct rule *r)
{
    size_t len = e->bytes ? e->bytes->len : 0;
    if (r->needs & (NEEDS_JID | NEEDS_FULL) && !e->jid)
        return false;
    if (r->needs & NEEDS_FULL && jid_is_bare(e->jid))
        return false;
    if (e->kind == ENV_BOUND && !e->code && (!e->jid || jid_is_bare(e->jid)))
        return false;
    if ((r->needs & NEEDS_BYTES && !e->bytes) || (r->needs & NEEDS_HASH && len != HASH_LEN))
        return false;
    if ((r->needs & MAY_HASH && e->bytes && len != HASH_LEN) ||
        (r->needs & NEEDS_KEYS && len != sizeof(struct scram_keys)))
        return false;
    if (r->needs & NEEDS_CREATION && !creation_fits(e))
        return false;
    return e->code <= r->code_max;
}

/* Kinds without a stanza leave stanza_kind and stanza_type zero, which is a normal message. */
static bool fill(struct envelope *e, const Mesh__Envelope *m, const char *body, size_t body_len)
{
    if (m->from_worker > UINT16_MAX || m->to_worker > UINT16_MAX || !type_fits(m->stanza_kind, m->stanza_type) ||
        (body_len && !m->has_bytes))
        return false;
    e->from = (struct addr){m->from_node, (uint16_t)m->from_worker};
    e->to = (struct addr){m->to_node, (uint16_t)m->to_worker};
    e->session = m->session;
    e->seq = m->seq;
    e->id = m->id;
    e->code = m->code;
    e->flags = m->flags;
    e->no_hurry = m->no_hurry;
    e->reg = m->reg;
    e->origin = m->origin;
    e->stanza_kind = (enum stanza_kind)m->stanza_kind;
    e->stanza_type = (enum stanza_type)m->stanza_type;
    if (!read_jid(e->arena, &m->jid, &e->jid) || !read_jid(e->arena, &m->sender, &e->sender) ||
        !read_jid(e->arena, &m->target, &e->target))
        return false;
    e->bytes = m->has_bytes ? bytes_new(body, body_len) : NULL;
    return true;
}

static void skipped(const char *why, uint32_t kind)
{
    static const struct log log = {"mesh", 0};
    metric_add(M_MESH_SKIPPED_TOTAL, 1);
    log_warn(&log, "envelope skipped", "reason", why, "kind", log_num(kind));
}

static struct envelope *from_message(const Mesh__Envelope *m, const char *body, size_t body_len)
{
    struct rule rule;
    if (!rule_find(m->kind, &rule)) {
        skipped("unknown kind", m->kind);
        return NULL;
    }
    struct envelope *e = env_new(rule.kind, NULL);
    if (fill(e, m, body, body_len) && follows(e, &rule))
        return e;
    skipped("malformed", m->kind);
    env_free(&e);
    return NULL;
}

struct envelope *env_unpack(const void *p, size_t n, size_t *used)
{
    const char *at = p;
    *used = 0;
    if (n < 8)
        return NULL;
    uint32_t head = be_get32(at), body = be_get32(at + 4);
    if (head > ENV_HEAD_MAX || head > n - 8 || body > n - 8 - head)
        return NULL;
    *used = 8 + (size_t)head + body;

    struct budget budget;
    budget.used = 0;
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    Mesh__Envelope *m = mesh__envelope__unpack(&allocator, head, (const uint8_t *)at + 8);
    if (!m) {
        skipped("malformed", 0);
        return NULL;
    }
    return from_message(m, at + 8 + head, body); /* m goes with the stack */
}
