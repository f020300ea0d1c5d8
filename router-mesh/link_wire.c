#include "link_wire.h"

#include "bigendian.h"
#include "jid.h"
#include "scram.h"

#include <mesh.pb-c.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>

enum { MAGIC = 0x524b, MAC = 32, NONCE = 16 };

void link_header_put(void *out, const struct link_header *h)
{
    char *at = out;
    be_put16(at, MAGIC);
    at[2] = (char)h->version;
    at[3] = (char)h->type;
    be_put16(at + 4, h->flags);
    be_put16(at + 6, 0);
    be_put32(at + 8, h->node);
    be_put32(at + 12, h->count);
    be_put64(at + 16, h->incarnation);
    be_put64(at + 24, h->epoch);
    be_put64(at + 32, h->ack);
    be_put64(at + 40, h->seq);
    be_put64(at + 48, h->stamp_us);
    be_put64(at + 56, h->echo_us);
    be_put32(at + 64, h->held_us);
    be_put32(at + 68, 0);
}

bool link_header_get(const void *p, size_t n, struct link_header *out)
{
    const char *at = p;
    if (n < LINK_HEADER || be_get16(at) != MAGIC)
        return false;
    *out = (struct link_header){
        .version = (uint8_t)at[2],
        .type = (uint8_t)at[3],
        .flags = be_get16(at + 4),
        .node = be_get32(at + 8),
        .count = be_get32(at + 12),
        .incarnation = be_get64(at + 16),
        .epoch = be_get64(at + 24),
        .ack = be_get64(at + 32),
        .seq = be_get64(at + 40),
        .stamp_us = be_get64(at + 48),
        .echo_us = be_get64(at + 56),
        .held_us = be_get32(at + 64),
    };
    return true;
}

void link_record_put(void *out, const struct link_record *r)
{
    char *at = out;
    be_put64(at, r->epoch);
    be_put32(at + 8, r->len);
    be_put16(at + 12, r->worker);
    be_put16(at + 14, 0);
}

bool link_record_get(const char **at, const char *end, struct link_record *out)
{
    const char *p = *at;
    if (end - p < LINK_RECORD || (size_t)(end - p) - LINK_RECORD < be_get32(p + 8))
        return false;
    *out = (struct link_record){be_get64(p), be_get16(p + 12), be_get32(p + 8), p + LINK_RECORD};
    *at = p + LINK_RECORD + out->len;
    return true;
}

bool link_records_check(const struct link_header *h, const void *message, size_t n)
{
    const char *at = (const char *)message + LINK_HEADER, *end = (const char *)message + n;
    struct link_record r;
    for (uint32_t i = 0; i < h->count; i++)
        if (!link_record_get(&at, end, &r))
            return false;
    return at == end && h->seq <= UINT64_MAX - h->count;
}

/* ---- HELLO ---- */

static void mac_of(const void *p, size_t n, const void *secret, size_t secret_len, uint8_t out[MAC])
{
    CHECK(HMAC(EVP_sha256(), secret, (int)secret_len, p, n, out, NULL), "HMAC");
}

void link_hello_put(struct buf *out, const struct link_hello *h, const void *secret, size_t secret_len)
{
    uint8_t nonce[NONCE];
    random_bytes(nonce, sizeof nonce);
    Mesh__Hello m = MESH__HELLO__INIT;
    m.node = h->node;
    m.incarnation = h->incarnation;
    m.target_node = h->target_node;
    m.target_incarnation = h->target_incarnation;
    m.serial = h->serial;
    m.version_min = m.version_max = LINK_VERSION;
    m.unicode = (char *)jid_unicode_version();
    m.software = (char *)ROOKERY_VERSION;
    m.nonce = (ProtobufCBinaryData){sizeof nonce, nonce};

    size_t start = out->len, len = mesh__hello__get_packed_size(&m);
    char *at = buf_reserve(out, LINK_HEADER + 2 + len + MAC);
    const struct link_header header = {
        .version = LINK_VERSION, .type = LINK_HELLO, .node = h->node, .incarnation = h->incarnation};
    link_header_put(at, &header);
    be_put16(at + LINK_HEADER, (uint16_t)len);
    mesh__hello__pack(&m, (uint8_t *)at + LINK_HEADER + 2);
    mac_of(at, LINK_HEADER + 2 + len, secret, secret_len, (uint8_t *)at + LINK_HEADER + 2 + len);
    buf_wrote(out, LINK_HEADER + 2 + len + MAC);
    CHECK(out->len - start <= LINK_HELLO_MAX, "HELLO of %zu bytes", out->len - start);
}

static const char *judge(const Mesh__Hello *m, const struct link_header *header, struct link_hello *out)
{
    *out = (struct link_hello){m->node,   m->target_node, m->incarnation, m->target_incarnation,
                               m->serial, m->version_min, m->version_max, ""};
    snprintf(out->unicode, sizeof out->unicode, "%s", m->unicode);
    if (m->node != header->node || m->incarnation != header->incarnation)
        return "header and hello differ";
    if (m->version_min > LINK_VERSION || m->version_max < LINK_VERSION)
        return "protocol version";
    /* Two nodes that prepare JIDs differently would not agree on their homes. */
    return strcmp(m->unicode, jid_unicode_version()) ? "unicode version" : NULL;
}

const char *link_hello_get(const void *p, size_t n, const void *secret, size_t secret_len, struct link_hello *out)
{
    const uint8_t *at = p;
    uint8_t mac[MAC];
    struct link_header header;
    if (n > LINK_HELLO_MAX || n < LINK_HEADER + 2 + MAC || !link_header_get(p, n, &header) ||
        header.type != LINK_HELLO || n != LINK_HEADER + 2u + be_get16(at + LINK_HEADER) + MAC)
        return "malformed hello";
    mac_of(p, n - MAC, secret, secret_len, mac);
    if (!equal_const_time(mac, at + n - MAC, MAC))
        return "wrong secret";
    Mesh__Hello *m = mesh__hello__unpack(NULL, n - LINK_HEADER - 2 - MAC, at + LINK_HEADER + 2);
    if (!m)
        return "malformed hello";
    const char *why = judge(m, &header, out);
    mesh__hello__free_unpacked(m, NULL);
    return why;
}
