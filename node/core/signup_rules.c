/* XEP-0077: what names and passwords may be. */
#include "signup.h"

#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <unictype.h>
#include <unistr.h>

/* ---- names ---- */

static bool is_reserved(const char *words, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = words; p && *p;) {
        size_t len = strcspn(p, " ");
        if (len == n && !memcmp(p, name, n))
            return true;
        p += len + (p[len] == ' ');
    }
    return false;
}

/* Patterns are checked when the configuration is read. */
static bool matches(const char *pattern, const char *name)
{
    regex_t re;
    if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB))
        return false;
    bool match = !regexec(&re, name, 0, NULL, 0);
    regfree(&re);
    return match;
}

static bool pattern_allows(const struct config *cf, const char *name)
{
    for (size_t i = 0; i < cf->registration_name_count; i++)
        if (matches(cf->registration_names[i].pattern, name))
            return cf->registration_names[i].action == ACCESS_ALLOW;
    return true;
}

enum { LATIN = 1, HAN = 2, KANA = 4, HANGUL = 8, BOPOMOFO = 16, OTHER = 32 };

/* Scripts that go together in one language (UTS 39 5.2, "highly restrictive"). */
static bool scripts_agree(unsigned seen)
{
    static const unsigned sets[] = {LATIN | HAN | KANA, LATIN | HAN | HANGUL, LATIN | HAN | BOPOMOFO, OTHER};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (!(seen & ~sets[i]))
            return true;
    return false;
}

static unsigned script_set(const char *script)
{
    static const struct {
        const char *name;
        unsigned set;
    } known[] = {{"Latin", LATIN},   {"Han", HAN},       {"Hiragana", KANA},
                 {"Katakana", KANA}, {"Hangul", HANGUL}, {"Bopomofo", BOPOMOFO}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(script, known[i].name))
            return known[i].set;
    return OTHER;
}

/* THREATS 28: one letter of another alphabet makes a name that looks like somebody else's. */
static bool mixes_scripts(const char *name)
{
    const char *other = NULL;
    unsigned seen = 0;
    ucs4_t c;
    for (const uint8_t *p = (const uint8_t *)name; (p = u8_next(&c, p));) {
        const uc_script_t *s = uc_script(c);
        if (!s || !strcmp(s->name, "Common") || !strcmp(s->name, "Inherited"))
            continue;
        unsigned set = script_set(s->name);
        if (set == OTHER && other && strcmp(other, s->name))
            return true;
        if (set == OTHER)
            other = s->name;
        seen |= set;
    }
    return !scripts_agree(seen);
}

const char *signup_name_refused(const struct config *cf, const char *name)
{
    if (is_reserved(cf->registration.reserved, name))
        return "this name is reserved";
    if (!pattern_allows(cf, name))
        return "such names are not given here";
    if (!cf->registration.mixed_scripts && mixes_scripts(name))
        return "the name mixes letters of several scripts";
    return NULL;
}

/* ---- passwords ---- */

static double alphabet(ucs4_t c, unsigned *classes)
{
    unsigned class = c >= 'a' && c <= 'z' ? 0 : c >= 'A' && c <= 'Z' ? 1 : c >= '0' && c <= '9' ? 2 : c < 128 ? 3 : 4;
    static const double size[] = {26, 26, 10, 33, 128};
    if (*classes & 1u << class)
        return 0;
    *classes |= 1u << class;
    return size[class];
}

/* As ejabberd measures: characters times bits of the alphabets they come from; but a repeated character counts once. */
static double entropy(const char *password)
{
    double letters = 0;
    unsigned classes = 0, count = 0;
    ucs4_t c, before = 0;
    for (const uint8_t *p = (const uint8_t *)password; (p = u8_next(&c, p)); before = c) {
        letters += alphabet(c, &classes);
        count += c != before;
    }
    return count ? count * log2(letters) : 0;
}

const char *signup_password_refused(const struct config *cf, const char *name, const char *password)
{
    if (!cf->registration.min_password_entropy)
        return NULL;
    if (!strcasecmp(name, password))
        return "the password is the user name";
    return entropy(password) < cf->registration.min_password_entropy
               ? "the password is too easy to guess: make it longer, or use more kinds of characters"
               : NULL;
}
