#include "envelope_pack.h"
#include "scram.h"

#include <mesh.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct jid *jid(struct arena *a, const char *s)
{
    return jid_parse(a, s, strlen(s));
}

/* One of each kind, with all that its kind needs and a value in every field. */
static struct envelope *sample(enum env_kind kind)
{
    struct envelope *e = env_new(kind, NULL);
    e->jid = jid(e->arena, "juliet@example.org/balcony");
    e->sender = jid(e->arena, "römeo@example.org/orchard");
    e->target = jid(e->arena, "example.org");
    e->from = (struct addr){3, 65535};
    e->to = (struct addr){4000000000u, 1};
    e->session = UINT64_MAX;
    e->seq = 7;
    e->id = 1ull << 40;
    e->code = kind == ENV_KICK || kind == ENV_BOUND ? 20 : 1;
    if (kind == ENV_BIND || kind == ENV_RESUME || kind == ENV_CREATE || kind == ENV_TOKEN || kind == ENV_CERTIFICATE ||
        kind == ENV_CONTROL || kind == ENV_CONTROLLED)
        e->code = 0;
    e->flags = 0xffffffff;
    e->reg = 9;
    e->origin = 0x123456789abcdef0;
    e->stanza_kind = STANZA_IQ;
    e->stanza_type = IQ_RESULT;
    if (kind == ENV_CREATE)
        e->jid = jid_bare(e->arena, e->jid);
    size_t n = kind == ENV_KEYS || kind == ENV_UPGRADE ? sizeof(struct scram_keys)
               : kind == ENV_CREATE                    ? sizeof(struct creation)
                                                       : 32;
    e->bytes = bytes_new(NULL, n);
    for (size_t i = 0; i < n; i++)
        e->bytes->data[i] = (char)((n - 1 - i) * 37); /* the last one is a NUL */
    return e;
}

static bool same_jid(const struct jid *a, const struct jid *b)
{
    return a && b ? jid_eq(a, b) : a == b;
}

static void assert_same(const struct envelope *a, const struct envelope *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_true(same_jid(a->jid, b->jid) && same_jid(a->sender, b->sender) && same_jid(a->target, b->target));
    assert_true(a->from.node == b->from.node && a->from.worker == b->from.worker);
    assert_true(a->to.node == b->to.node && a->to.worker == b->to.worker);
    assert_true(a->session == b->session && a->seq == b->seq && a->id == b->id);
    assert_true(a->code == b->code && a->flags == b->flags && a->reg == b->reg && a->origin == b->origin);
    assert_true(a->stanza_kind == b->stanza_kind && a->stanza_type == b->stanza_type);
    assert_true(!a->bytes == !b->bytes);
    if (a->bytes) {
        assert_int_equal(a->bytes->len, b->bytes->len);
        assert_memory_equal(a->bytes->data, b->bytes->data, a->bytes->len);
    }
}

static void test_every_kind_comes_back(void **state)
{
    (void)state;
    struct buf out = {0};
    size_t used, at = 0;
    for (enum env_kind k = 0; strcmp(env_kind_name(k), "?"); k++) {
        if (k == ENV_CALL)
            continue;
        struct envelope *e = sample(k);
        env_pack(&out, e);
        struct envelope *got = env_unpack(buf_data(&out) + at, out.len - at, &used);
        assert_non_null(got);
        assert_same(e, got);
        at += used;
        assert_int_equal(at, out.len);
        env_free(&e);
        env_free(&got);
    }
    assert_null(env_unpack(buf_data(&out) + at, 0, &used));
    assert_int_equal(used, 0);
    buf_free(&out);
}

static void test_empty_fields(void **state)
{
    (void)state;
    struct buf out = {0};
    struct envelope *e = env_new(ENV_COMMITTED, NULL);
    env_pack(&out, e);
    size_t used;
    struct envelope *got = env_unpack(buf_data(&out), out.len, &used);
    assert_non_null(got);
    assert_same(e, got);
    env_free(&got);
    e->bytes = bytes_new("", 0); /* an empty list is not the same as none */
    buf_clear(&out);
    env_pack(&out, e);
    got = env_unpack(buf_data(&out), out.len, &used);
    assert_same(e, got);
    env_free(&got);
    env_free(&e);
    buf_free(&out);
}

static void test_a_tree_becomes_bytes(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    struct stanza *s =
        stanza_new(STANZA_MESSAGE, MESSAGE_CHAT, jid(a, "juliet@example.org"), jid(a, "romeo@example.org/o"), "x1");
    struct envelope *e = env_stanza_new(ENV_ROUTE, jid(a, "juliet@example.org"), &s);
    struct buf out = {0};
    env_pack(&out, e);
    size_t used;
    struct envelope *got = env_unpack(buf_data(&out), out.len, &used);
    assert_string_equal(env_stanza(got)->id, "x1");
    assert_same(e, got);
    env_free(&e);
    env_free(&got);
    buf_free(&out);
    arena_free(&a);
}

static void test_cut_short(void **state)
{
    (void)state;
    struct buf out = {0};
    struct envelope *e = sample(ENV_ROUTE);
    env_pack(&out, e);
    for (size_t n = 0; n < out.len; n++) {
        char *copy = malloc(n + 1); /* so that ASan sees a read too far */
        memcpy(copy, buf_data(&out), n);
        size_t used = 1;
        assert_null(env_unpack(copy, n, &used));
        assert_int_equal(used, 0);
        free(copy);
    }
    env_free(&e);
    buf_free(&out);
}

/* Packs m as it is, with a body, and a good envelope behind it; m is skipped, that one comes. */
static void assert_skipped(Mesh__Envelope *m, const char *body)
{
    struct buf out = {0};
    size_t head = mesh__envelope__get_packed_size(m), len = body ? strlen(body) : 0, used;
    uint8_t prefix[8] = {0, 0, (uint8_t)(head >> 8), (uint8_t)head, 0, 0, (uint8_t)(len >> 8), (uint8_t)len};
    buf_add(&out, prefix, sizeof prefix);
    mesh__envelope__pack(m, (uint8_t *)buf_reserve(&out, head));
    buf_wrote(&out, head);
    buf_add(&out, body, len);
    struct envelope *good = sample(ENV_ROUTE);
    env_pack(&out, good);
    assert_null(env_unpack(buf_data(&out), out.len, &used));
    assert_int_equal(used, 8 + head + len);
    struct envelope *got = env_unpack(buf_data(&out) + used, out.len - used, &used);
    assert_same(good, got);
    env_free(&got);
    env_free(&good);
    buf_free(&out);
}

static Mesh__Envelope route(void)
{
    Mesh__Envelope m = MESH__ENVELOPE__INIT;
    m.kind = MESH__KIND__ROUTE;
    m.has_bytes = true;
    m.jid = (ProtobufCBinaryData){5, (uint8_t *)"a@b.c"};
    return m;
}

static void test_refused(void **state)
{
    (void)state;
    Mesh__Envelope m = route();
    m.kind = 4711; /* from a newer node */
    assert_skipped(&m, "<message/>");
    m = route();
    m.jid.len = 0;
    assert_skipped(&m, "<message/>");
    m = route();
    m.jid = (ProtobufCBinaryData){5, (uint8_t *)"a@b\0c"};
    assert_skipped(&m, "<message/>");
    m = route();
    m.sender = (ProtobufCBinaryData){4, (uint8_t *)"@b.c"};
    assert_skipped(&m, "<message/>");
    m = route();
    m.has_bytes = false;
    assert_skipped(&m, NULL);
    assert_skipped(&m, "<message/>");
    m = route();
    m.from_worker = 65536;
    assert_skipped(&m, "<message/>");
    m = route();
    m.stanza_kind = STANZA_IQ;
    m.stanza_type = MESSAGE_CHAT;
    assert_skipped(&m, "<message/>");
    m = route();
    m.stanza_kind = 3;
    assert_skipped(&m, "<message/>");
    m = route();
    m.kind = MESH__KIND__AUTH;
    m.code = SCRAM_HASHES;
    assert_skipped(&m, NULL);
    m.kind = MESH__KIND__RESUME;
    m.code = 0;
    assert_skipped(&m, "short");
    m.kind = MESH__KIND__KEYS;
    assert_skipped(&m, "short");
    m.kind = MESH__KIND__REGISTER; /* bare */
    assert_skipped(&m, "x");
    m.kind = MESH__KIND__KICK;
    m.code = STREAM_UNSUPPORTED_VERSION + 1;
    assert_skipped(&m, NULL);
}

/* Fields repeated until protobuf-c would want more memory than a head may take. */
static void test_budget(void **state)
{
    (void)state;
    struct buf out = {0};
    enum { HEAD = ENV_HEAD_MAX, FIELD = 3 + 1000 };
    char *head = buf_reserve(&out, 8 + HEAD);
    memset(head, 0, 8 + HEAD);
    head[2] = (char)(HEAD >> 8);
    head[3] = (char)(HEAD & 255);
    for (char *at = head + 8; at + FIELD <= head + 8 + HEAD; at += FIELD) {
        at[0] = 14 << 3 | 2; /* jid, of 1000 bytes */
        at[1] = (char)((1000 & 127) | 128);
        at[2] = 1000 >> 7;
    }
    buf_wrote(&out, 8 + HEAD);
    size_t used;
    assert_null(env_unpack(head, out.len, &used));
    assert_int_equal(used, 8 + HEAD);
    head[3]++; /* over the limit: not read at all */
    assert_null(env_unpack(head, out.len, &used));
    assert_int_equal(used, 0);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_comes_back),
        cmocka_unit_test(test_empty_fields),
        cmocka_unit_test(test_a_tree_becomes_bytes),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
