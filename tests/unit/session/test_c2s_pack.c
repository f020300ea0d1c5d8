/* A session as a value: what is packed on one node is the same on another, and bytes that are no session are refused.
 */
#include "c2s.h"
#include "envelope_pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* after the standard headers */
#include <cmocka.h>

static struct envelope *message(const char *to, uint64_t seq)
{
    struct arena *a = arena_new();
    const struct jid *jid = jid_parse(a, to, strlen(to));
    struct stanza *s = stanza_new(STANZA_MESSAGE, MESSAGE_CHAT, jid, jid, "m1");
    struct envelope *e = env_stanza_new(ENV_ROUTE, jid, &s);
    e->seq = seq;
    arena_free(&a);
    return e;
}

static struct c2s_session example(void)
{
    struct c2s_session s = {
        .id = 0x1122334455667788,
        .jid = jid_parse(NULL, "romeo@here/orchard", 18),
        .received = 40,
        .handled = 40,
        .sm = true,
        .resumable = true,
        .sm_base = 3,
        .sent = 12,
        .acked = 10,
        .resume_s = 600,
        .reported = 30,
        .reg = 4,
        .known = 3,
        .former_node = 5,
        .former_incarnation = 77,
        .repeats = true,
        .seen_max = 900,
    };
    s.blocked = bytes_new("paris@here", 10);
    s.state = bytes_new("\0opaque", 7);
    s.token_hash = xmalloc(32);
    memset(s.token_hash, 7, 32);
    session_window_push(&s, PENDING_SELF | PENDING_ROUTE, message("juliet@here", 41));
    session_window_push(&s, 0, NULL);
    session_window_push(&s, PENDING_ROUTE, message("nurse@here", 43));
    for (uint64_t id = 700; id <= 900; id += 200) {
        struct bytes *b = bytes_new("<message/>", 10);
        session_queue_push(&s, b, id);
        bytes_unref(&b);
    }
    s.seen = xcalloc(3, sizeof *s.seen);
    memcpy(s.seen, (uint64_t[]){500, 700, 900}, 3 * sizeof *s.seen);
    s.seen_count = s.seen_cap = 3;
    s.seen_arrived = 1;
    return s;
}

static void test_same(void **state)
{
    (void)state;
    struct c2s_session a = example(), b;
    struct bytes *packed = session_pack(&a);
    assert_true(session_unpack(packed, &b));
    assert_int_equal(b.id, a.id);
    assert_string_equal(b.jid->s, a.jid->s);
    assert_int_equal(b.received, 43);
    assert_int_equal(b.handled, 40);
    assert_true(b.sm && b.resumable);
    assert_int_equal(b.sm_base, 3);
    assert_int_equal(b.sent, 12);
    assert_int_equal(b.acked, 10);
    assert_int_equal(b.reg, 4);
    assert_int_equal(b.known, 3);
    assert_int_equal(b.former_node, 5);
    assert_true(b.repeats);
    assert_int_equal(b.former_incarnation, 77);
    assert_int_equal(b.reported, 30);
    assert_memory_equal(b.token_hash, a.token_hash, 32);
    assert_int_equal(b.blocked->len, 10);
    assert_memory_equal(b.state->data, "\0opaque", 7);
    assert_int_equal(b.seen_count, 3);
    assert_int_equal(b.seen_arrived, 1);
    assert_int_equal(b.seen[2], 900);
    assert_int_equal(b.queue_count, 2);
    assert_int_equal(session_item(&b, 1)->id, 900);
    assert_int_equal(session_pending(&b, 0)->need, PENDING_SELF | PENDING_ROUTE);
    assert_string_equal(session_pending(&b, 0)->env->jid->s, "juliet@here");
    assert_int_equal(session_pending(&b, 1)->need, 0);
    assert_null(session_pending(&b, 1)->env);
    assert_int_equal(session_pending(&b, 2)->env->seq, 43);
    bytes_unref(&packed);
    session_clear(&a);
    session_clear(&b);
}

/* Cut anywhere, or with a byte changed: refused, or a session that is whole; never a crash or a leak. */
static void test_damaged(void **state)
{
    (void)state;
    struct c2s_session a = example(), b;
    struct bytes *packed = session_pack(&a);
    for (size_t n = 0; n < packed->len; n++) {
        struct bytes *cut = bytes_new(packed->data, n);
        if (session_unpack(cut, &b)) {
            assert_int_equal(b.sent - b.acked, b.queue_count);
            session_clear(&b);
        }
        bytes_unref(&cut);
    }
    for (size_t i = 0; i < packed->len; i++)
        for (int flip = 1; flip < 256; flip <<= 1) {
            struct bytes *bad = bytes_new(packed->data, packed->len);
            bad->data[i] = (char)(bad->data[i] ^ flip);
            if (session_unpack(bad, &b)) {
                assert_int_equal(b.sent - b.acked, b.queue_count);
                assert_true(b.seen_arrived <= b.seen_count);
                session_clear(&b);
            }
            bytes_unref(&bad);
        }
    bytes_unref(&packed);
    session_clear(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same), cmocka_unit_test(test_damaged)};
    log_setup(LOG_ERROR, LOG_LOGFMT, NULL); /* or each envelope that is skipped says so */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
