#include "domain.h"

#include "precis.h"

#include <arpa/inet.h>
#include <idn2.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { LABEL_MAX = 63, ULABEL_MAX = 4 * LABEL_MAX };

static bool is_ascii(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] > 0x7F)
            return false;
    return true;
}

/* Letters, digits and hyphens as far as s is ASCII, hyphens neither first nor last. */
static bool is_ldh(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c <= 0x7F && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-')
            return false;
    }
    return s[0] != '-' && s[n - 1] != '-';
}

/* Is this mapped label a U-label, and does it encode as alabel (when one is given)? */
static bool ulabel_ok(const char *u, size_t n, const char *alabel)
{
    char z[ULABEL_MAX + 1];
    uint8_t *a = NULL;
    if (n > ULABEL_MAX || !is_ldh(u, n))
        return false;
    memcpy(z, u, n);
    z[n] = 0;
    /* No UTS #46: it would map and silently drop characters that make another name of it. */
    bool ok = idn2_lookup_u8((const uint8_t *)z, &a, IDN2_NFC_INPUT | IDN2_NO_TR46) == IDN2_OK &&
              strncmp((const char *)a, "xn--", 4) == 0 && (!alabel || strcmp((const char *)a, alabel) == 0);
    idn2_free(a);
    return ok;
}

/* a: NUL-terminated "xn--...", lower case. */
static size_t alabel_decode(const char *a, char *out, size_t room)
{
    char *u = NULL;
    size_t n = 0;
    if (idn2_to_unicode_8z8z(a, &u, 0) == IDN2_OK && !is_ascii(u, strlen(u))) {
        n = precis_username(u, strlen(u), out, room);
        if (n != strlen(u) || memcmp(u, out, n) != 0 || !ulabel_ok(out, n, a))
            n = 0;
    }
    idn2_free(u);
    return n;
}

static size_t label_prep(const char *s, size_t n, char *out, size_t room)
{
    char label[ULABEL_MAX + 1];
    size_t len = precis_username(s, n, label, ULABEL_MAX);
    if (!len || !is_ldh(label, len))
        return 0;
    bool reserved = len >= 4 && label[2] == '-' && label[3] == '-';
    if (is_ascii(label, len)) {
        if (len > LABEL_MAX)
            return 0;
        label[len] = 0;
        if (reserved)
            return strncmp(label, "xn--", 4) == 0 ? alabel_decode(label, out, room) : 0;
    } else if (!ulabel_ok(label, len, NULL)) {
        return 0;
    }
    if (len > room)
        return 0;
    memcpy(out, label, len);
    return len;
}

/* Length of the label separator at s: a dot, or what RFC 5895 maps to it (U+3002, and its wide and narrow forms). */
static size_t dot_len(const char *s, size_t n)
{
    if (*s == '.')
        return 1;
    if ((unsigned char)*s < 0xE3 || n < 3)
        return 0;
    return !memcmp(s, "\xE3\x80\x82", 3) || !memcmp(s, "\xEF\xBC\x8E", 3) || !memcmp(s, "\xEF\xBD\xA1", 3) ? 3 : 0;
}

static size_t name_prep(const char *s, size_t n, char *out, size_t room)
{
    size_t used = 0, i = 0;
    for (;;) {
        size_t from = i, dot = 0, len;
        while (i < n && !(dot = dot_len(s + i, n - i)))
            i++;
        if (used >= room || !(len = label_prep(s + from, i - from, out + used, room - used)))
            return 0;
        used += len;
        i += dot;
        if (i >= n) /* also after a final dot */
            return used;
        if (used == room)
            return 0;
        out[used++] = '.';
    }
}

static size_t ipv6_prep(const char *s, size_t n, char *out, size_t room)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr addr;
    if (n < 4 || n - 2 >= sizeof text || s[n - 1] != ']' || memchr(s, 0, n))
        return 0;
    memcpy(text, s + 1, n - 2);
    text[n - 2] = 0;
    if (inet_pton(AF_INET6, text, &addr) != 1 || !inet_ntop(AF_INET6, &addr, text, sizeof text))
        return 0;
    size_t len = strlen(text);
    if (len + 2 > room)
        return 0;
    out[0] = '[';
    memcpy(out + 1, text, len);
    out[len + 1] = ']';
    return len + 2;
}

size_t domain_prep(const char *s, size_t n, char *out, size_t room)
{
    if (!n)
        return 0;
    return s[0] == '[' ? ipv6_prep(s, n, out, room) : name_prep(s, n, out, room);
}
