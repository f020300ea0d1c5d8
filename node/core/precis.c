#include "precis.h"

#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unicase.h>
#include <unictype.h>
#include <uninorm.h>
#include <unistr.h>

enum { ZWNJ = 0x200C, ZWJ = 0x200D, CCC_VIRAMA = 9 };

/* Code points on their way through the rules. */
struct text {
    size_t n;
    ucs4_t c[PRECIS_INPUT_MAX];
};

enum property { PVALID, CONTEXT, FREE_PVAL, DISALLOWED };

/* ---- derived property of a code point, RFC 8264 section 8; the order of the tests is the RFC's ---- */

/* RFC 5892 section 2.6, which RFC 8264 section 9.6 takes over. */
static bool exception(ucs4_t c, enum property *out)
{
    switch (c) {
    case 0x00DF:
    case 0x03C2:
    case 0x06FD:
    case 0x06FE:
    case 0x0F0B:
    case 0x3007:
        *out = PVALID;
        return true;
    case 0x00B7:
    case 0x0375:
    case 0x05F3:
    case 0x05F4:
    case 0x30FB:
        *out = CONTEXT;
        return true;
    case 0x0640:
    case 0x07FA:
    case 0x302E:
    case 0x302F:
    case 0x303B:
        *out = DISALLOWED;
        return true;
    }
    if ((c >= 0x0660 && c <= 0x0669) || (c >= 0x06F0 && c <= 0x06F9)) {
        *out = CONTEXT;
        return true;
    }
    if (c >= 0x3031 && c <= 0x3035) {
        *out = DISALLOWED;
        return true;
    }
    return false;
}

/* Hangul_Syllable_Type L, V or T. */
static bool old_hangul_jamo(ucs4_t c)
{
    return (c >= 0x1100 && c <= 0x11FF) || (c >= 0xA960 && c <= 0xA97C) || (c >= 0xD7B0 && c <= 0xD7C6) ||
           (c >= 0xD7CB && c <= 0xD7FB);
}

/* toNFKC(c) != c */
static bool has_compat(ucs4_t c)
{
    int tag;
    ucs4_t parts[UC_DECOMPOSITION_MAX_LENGTH];
    if (uc_decomposition(c, &tag, parts) < 0)
        return false;
    ucs4_t buf[32];
    size_t n = 32;
    ucs4_t *r = u32_normalize(UNINORM_NFKC, &c, 1, buf, &n);
    bool same = r && n == 1 && r[0] == c;
    if (r != buf)
        free(r);
    return !same;
}

static enum property category_property(uint32_t category)
{
    const uint32_t letters = UC_CATEGORY_MASK_Ll | UC_CATEGORY_MASK_Lu | UC_CATEGORY_MASK_Lo | UC_CATEGORY_MASK_Nd |
                             UC_CATEGORY_MASK_Lm | UC_CATEGORY_MASK_Mn | UC_CATEGORY_MASK_Mc;
    const uint32_t others = UC_CATEGORY_MASK_Lt | UC_CATEGORY_MASK_Nl | UC_CATEGORY_MASK_No | UC_CATEGORY_MASK_Me |
                            UC_CATEGORY_MASK_Zs | UC_CATEGORY_MASK_S | UC_CATEGORY_MASK_P;
    return category & letters ? PVALID : category & others ? FREE_PVAL : DISALLOWED;
}

static enum property property_of(ucs4_t c)
{
    enum property p;
    if (c > 0x20 && c < 0x7F)
        return PVALID;
    if (exception(c, &p))
        return p;
    uint32_t category = uc_general_category(c).bitmask;
    if (category & UC_CATEGORY_MASK_Cn)
        return DISALLOWED;
    if (c == ZWNJ || c == ZWJ)
        return CONTEXT;
    if (old_hangul_jamo(c) || uc_is_property_default_ignorable_code_point(c) || (category & UC_CATEGORY_MASK_Cc))
        return DISALLOWED;
    return has_compat(c) ? FREE_PVAL : category_property(category);
}

/* ---- contextual rules, RFC 5892 appendix A ---- */

static bool script_is(ucs4_t c, const char *name)
{
    const uc_script_t *s = uc_script(c);
    return s && strcmp(s->name, name) == 0;
}

static bool after_virama(const struct text *t, size_t i)
{
    return i && uc_combining_class(t->c[i - 1]) == CCC_VIRAMA;
}

/* A.1: between letters that would join, seen through transparent marks. */
static bool breaks_joining(const struct text *t, size_t i)
{
    size_t before = i, after = i + 1;
    while (before && uc_joining_type(t->c[before - 1]) == UC_JOINING_TYPE_T)
        before--;
    while (after < t->n && uc_joining_type(t->c[after]) == UC_JOINING_TYPE_T)
        after++;
    if (!before || after == t->n)
        return false;
    int left = uc_joining_type(t->c[before - 1]), right = uc_joining_type(t->c[after]);
    return (left == UC_JOINING_TYPE_L || left == UC_JOINING_TYPE_D) &&
           (right == UC_JOINING_TYPE_R || right == UC_JOINING_TYPE_D);
}

static bool has_japanese(const struct text *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (script_is(t->c[i], "Hiragana") || script_is(t->c[i], "Katakana") || script_is(t->c[i], "Han"))
            return true;
    return false;
}

static bool has_range(const struct text *t, ucs4_t from, ucs4_t to)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->c[i] >= from && t->c[i] <= to)
            return true;
    return false;
}

static bool context_ok(const struct text *t, size_t i)
{
    switch (t->c[i]) {
    case ZWNJ:
        return after_virama(t, i) || breaks_joining(t, i);
    case ZWJ:
        return after_virama(t, i);
    case 0x00B7: /* middle dot, Catalan l·l */
        return i && t->c[i - 1] == 'l' && i + 1 < t->n && t->c[i + 1] == 'l';
    case 0x0375: /* Greek keraia */
        return i + 1 < t->n && script_is(t->c[i + 1], "Greek");
    case 0x05F3: /* geresh */
    case 0x05F4: /* gershayim */
        return i && script_is(t->c[i - 1], "Hebrew");
    }
    return true;
}

/* Rules of one place are tried at each place, rules of the whole string (digits, katakana middle dot) once. */
static bool contexts_ok(const struct text *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->c[i] > 0x7F && !context_ok(t, i))
            return false;
    if (has_range(t, 0x0660, 0x0669) && has_range(t, 0x06F0, 0x06F9))
        return false;
    return !has_range(t, 0x30FB, 0x30FB) || has_japanese(t);
}

/* ---- bidi rule, RFC 5893 section 2 ---- */

#define BIDI(c) (1u << UC_BIDI_##c)
enum {
    BIDI_RTL = BIDI(R) | BIDI(AL) | BIDI(AN),
    BIDI_WEAK = BIDI(EN) | BIDI(ES) | BIDI(CS) | BIDI(ET) | BIDI(ON) | BIDI(BN) | BIDI(NSM),
};

static bool bidi_ok(const struct text *t)
{
    uint32_t all = 0, last = 0;
    for (size_t i = 0; i < t->n; i++) {
        uint32_t class = 1u << uc_bidi_class(t->c[i]);
        all |= class;
        if (class != BIDI(NSM))
            last = class;
    }
    if (!(all & BIDI_RTL))
        return true;
    uint32_t first = 1u << uc_bidi_class(t->c[0]);
    if (first & (BIDI(R) | BIDI(AL)))
        return !(all & ~(BIDI_RTL | BIDI_WEAK)) && (last & (BIDI_RTL | BIDI(EN))) &&
               (all & (BIDI(EN) | BIDI(AN))) != (BIDI(EN) | BIDI(AN));
    return false; /* a left-to-right string may hold no right-to-left character (rule 5) */
}

/* ---- mappings ---- */

static bool allowed(const struct text *t, enum property most)
{
    for (size_t i = 0; i < t->n; i++)
        if (property_of(t->c[i]) > most)
            return false;
    return true;
}

/* libunistring writes to the array it is given, or, when that is too small, to a block of its own. */
static bool text_made(const struct text *t, ucs4_t *made)
{
    if (made != t->c)
        free(made);
    return made == t->c;
}

static bool nfc(const struct text *t, struct text *out)
{
    out->n = PRECIS_INPUT_MAX;
    return text_made(out, u32_normalize(UNINORM_NFC, t->c, t->n, out->c, &out->n));
}

static void width_map(struct text *t)
{
    for (size_t i = 0; i < t->n; i++) {
        int tag;
        ucs4_t parts[UC_DECOMPOSITION_MAX_LENGTH];
        if (t->c[i] > 0x7F && uc_decomposition(t->c[i], &tag, parts) == 1 &&
            (tag == UC_DECOMP_WIDE || tag == UC_DECOMP_NARROW))
            t->c[i] = parts[0];
    }
}

static bool username_map(struct text *t, struct text *scratch)
{
    width_map(t);
    if (!allowed(t, CONTEXT))
        return false;
    scratch->n = PRECIS_INPUT_MAX;
    return text_made(scratch, u32_tolower(t->c, t->n, NULL, NULL, scratch->c, &scratch->n)) && nfc(scratch, t) &&
           bidi_ok(t);
}

static bool opaque_map(struct text *t, struct text *scratch)
{
    if (!allowed(t, FREE_PVAL))
        return false;
    for (size_t i = 0; i < t->n; i++)
        if (t->c[i] > 0x7F && uc_general_category(t->c[i]).bitmask & UC_CATEGORY_MASK_Zs)
            t->c[i] = ' ';
    memcpy(scratch->c, t->c, t->n * sizeof t->c[0]);
    scratch->n = t->n;
    return nfc(scratch, t);
}

/* ---- profiles ---- */

typedef bool map_fn(struct text *t, struct text *scratch);

static bool settle(map_fn *map, struct text *t, struct text *scratch, struct text *again)
{
    if (!map(t, scratch) || !contexts_ok(t))
        return false;
    memcpy(again->c, t->c, t->n * sizeof t->c[0]);
    again->n = t->n;
    return map(again, scratch) && again->n == t->n && !memcmp(again->c, t->c, t->n * sizeof t->c[0]);
}

/* Wipes the part of t that may have been used: t->n is only the last length. */
static void text_wipe(struct text *t, size_t used)
{
    OPENSSL_cleanse(t->c, (used < PRECIS_INPUT_MAX ? used : PRECIS_INPUT_MAX) * sizeof t->c[0]);
}

static size_t enforce(map_fn *map, const char *s, size_t n, char *out, size_t room)
{
    if (!n || n > PRECIS_INPUT_MAX || u8_check((const uint8_t *)s, n))
        return 0;
    struct text t, scratch, again;
    t.n = PRECIS_INPUT_MAX;
    size_t len = 0;
    if (u8_to_u32((const uint8_t *)s, n, t.c, &t.n) == t.c && settle(map, &t, &scratch, &again)) {
        len = room;
        uint8_t *p = u32_to_u8(t.c, t.n, (uint8_t *)out, &len);
        if (p != (uint8_t *)out) {
            free(p);
            len = 0;
        }
    }
    /* Lower case and NFC give at most three times the code points, each. */
    text_wipe(&t, 9 * n), text_wipe(&scratch, 9 * n), text_wipe(&again, 9 * n);
    return len;
}

size_t precis_username(const char *s, size_t n, char *out, size_t room)
{
    for (size_t i = 0; i < n && i < room; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c > 0x7F)
            return enforce(username_map, s, n, out, room);
        if (c <= ' ' || c == 0x7F)
            return 0;
        out[i] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    return n <= room ? n : enforce(username_map, s, n, out, room);
}

size_t precis_opaque(const char *s, size_t n, char *out, size_t room)
{
    for (size_t i = 0; i < n && i < room; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c > 0x7F)
            return enforce(opaque_map, s, n, out, room);
        if (c < ' ' || c == 0x7F)
            return 0;
        out[i] = (char)c;
    }
    return n <= room ? n : enforce(opaque_map, s, n, out, room);
}
