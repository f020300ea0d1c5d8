#include "utf8.h"

#include <string.h>

#define ONES  0x0101010101010101ull
#define HIGHS 0x8080808080808080ull

/* Bytes at the start that are ASCII and not NUL, by eights: v - ONES borrows into the high bit only below a zero byte.
 */
static size_t ascii_run(const char *p, size_t n)
{
    size_t i = 0;
    for (uint64_t v; n - i >= 8; i += 8) {
        memcpy(&v, p + i, 8);
        if (((v - ONES) | v) & HIGHS)
            break;
    }
    while (i < n && p[i] > 0)
        i++;
    return i;
}

static bool take_lead(struct utf8 *u, uint8_t c)
{
    *u = (struct utf8){.lo = 0x80, .hi = 0xBF, .lead = c};
    if (c >= 0xC2 && c <= 0xDF)
        u->left = 1;
    else if (c >= 0xE0 && c <= 0xEF)
        u->left = 2;
    else if (c >= 0xF0 && c <= 0xF4)
        u->left = 3;
    else
        return false;
    if (c == 0xE0) /* shorter forms exist */
        u->lo = 0xA0;
    else if (c == 0xED) /* surrogates */
        u->hi = 0x9F;
    else if (c == 0xF0)
        u->lo = 0x90;
    else if (c == 0xF4) /* over U+10FFFF */
        u->hi = 0x8F;
    return true;
}

static bool take_next(struct utf8 *u, uint8_t c)
{
    if (c < u->lo || c > u->hi)
        return false;
    bool before_ffff = u->lead == 0xEF && u->left == 2 && c == 0xBF;
    u->left--;
    u->lo = 0x80;
    u->hi = before_ffff ? 0xBD : 0xBF; /* EF BF BE and EF BF BF are U+FFFE and U+FFFF */
    return true;
}

bool utf8_feed(struct utf8 *u, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!u->left)
            i += ascii_run(p + i, n - i);
        if (i == n)
            break;
        uint8_t c = (uint8_t)p[i];
        if (u->left ? !take_next(u, c) : !take_lead(u, c))
            return false;
    }
    return true;
}

bool utf8_valid(const char *p, size_t n)
{
    struct utf8 u = {0};
    return utf8_feed(&u, p, n) && !u.left;
}
