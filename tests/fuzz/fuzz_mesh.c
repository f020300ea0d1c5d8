/*
 * Messages of a peer into the link's flow, and frames into envelopes. The first byte says what the rest is:
 *   e   envelopes, one behind the other
 *   m   messages between links: uint16 length and that many bytes each, to a flow that sends frames of its own. An h
 *       for a length's high bit: the message is signed as a HELLO first, so that the decoder behind the HMAC is reached
 *
 * Properties: what env_unpack gives packs and unpacks to the same bytes again, and has what its kind needs; a flow
 * takes frames only in the order of their numbers, whatever headers say, and accounts for all that it keeps.
 */
#include "bigendian.h"
#include "envelope_pack.h"
#include "link_flow.h"
#include "log.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_level_set(LOG_ERROR);
    return 0;
}

static void envelopes(const uint8_t *p, size_t n)
{
    size_t used;
    for (; n; p += used, n -= used) {
        struct envelope *e = env_unpack(p, n, &used);
        CHECK(used <= n && (!e || used), "used %zu of %zu", used, n);
        if (!used)
            return;
        if (!e)
            continue;
        CHECK(e->kind != ENV_CALL && (e->kind >= ENV_KEYS || e->jid), "%s without a JID", env_kind_name(e->kind));
        struct buf once = {0}, twice = {0};
        size_t again;
        env_pack(&once, e);
        struct envelope *f = env_unpack(buf_data(&once), once.len, &again);
        CHECK(f && again == once.len, "not idempotent");
        env_pack(&twice, f);
        CHECK(once.len == twice.len && !memcmp(buf_data(&once), buf_data(&twice), once.len), "packs differently");
        env_free(&e);
        env_free(&f);
        buf_free(&once);
        buf_free(&twice);
    }
}

static const char secret[] = "0123456789abcdef";

static void hello(const uint8_t *p, size_t n)
{
    struct buf b = {0};
    struct link_hello h;
    const struct link_header header = {.version = LINK_VERSION, .type = LINK_HELLO, .node = 1, .incarnation = 1};
    link_header_put(buf_reserve(&b, LINK_HEADER + 2), &header);
    be_put16(buf_data(&b) + LINK_HEADER, (uint16_t)n);
    buf_wrote(&b, LINK_HEADER + 2);
    buf_add(&b, p, n);
    uint8_t mac[32];
    HMAC(EVP_sha256(), secret, sizeof secret, (uint8_t *)buf_data(&b), b.len, mac, NULL);
    buf_add(&b, mac, sizeof mac);
    if (!link_hello_get(buf_data(&b), b.len, secret, sizeof secret, &h))
        CHECK(h.node == 1 && h.incarnation == 1 && h.version_min <= LINK_VERSION, "hello of another");
    buf_data(&b)[b.len - 1] ^= 1;
    CHECK(link_hello_get(buf_data(&b), b.len, secret, sizeof secret, &h), "forged");
    buf_free(&b);
}

struct taken {
    struct link_flow *flow;
    uint64_t last;
};

static void on_frame(void *arg, const struct link_record *r)
{
    struct taken *t = arg;
    CHECK(t->flow->taken == t->last + 1 && (r->len == 0 || r->data), "out of order");
    t->last++;
}

static void speak(struct link_flow *f, uint64_t now_us)
{
    struct flow_frame *fr = calloc(1, sizeof *fr);
    buf_str(&fr->payload, "a frame");
    f->queued += flow_cost(fr->payload.len);
    flow_push(f, &fr, now_us / 1000);
    size_t n = flow_size(f, now_us / 1000);
    CHECK(n >= LINK_HEADER && n <= FLOW_MESSAGE_MAX, "message of %zu", n);
    char *out = malloc(n);
    struct link_header h = {.node = 2, .incarnation = 2};
    flow_write(f, &h, now_us, out, n);
    CHECK(link_records_check(&h, out, n), "own message");
    free(out);
}

static void messages(const uint8_t *p, size_t n)
{
    struct link_flow f;
    struct taken t = {&f, 0};
    flow_init(&f);
    for (uint64_t now = 1000000; n >= 2; now += 300000) {
        bool signed_one = p[0] & 0x80;
        size_t len = (size_t)(p[0] & 0x7f) << 8 | p[1];
        p += 2;
        n -= 2;
        if (len > n)
            len = n;
        speak(&f, now);
        struct link_header h;
        char *copy = malloc(len + 1);
        memcpy(copy, p, len);
        if (signed_one)
            hello(p, len < 400 ? len : 400);
        else if (link_header_get(copy, len, &h))
            flow_take(&f, &h, copy, len, now, on_frame, &t);
        free(copy);
        flow_tick(&f, now / 1000);
        p += len;
        n -= len;
    }
    size_t kept = 0;
    for (const struct flow_frame *fr = f.head; fr; fr = fr->next)
        kept += flow_cost(fr->payload.len);
    CHECK(kept == f.queued && f.taken == t.last, "%zu kept, %zu counted", kept, (size_t)f.queued);
    flow_clear(&f);
    CHECK(!f.queued, "left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size && data[0] == 'e')
        envelopes(data + 1, size - 1);
    else if (size && data[0] == 'm')
        messages(data + 1, size - 1);
    return 0;
}
