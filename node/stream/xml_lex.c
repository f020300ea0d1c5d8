#include "xml_lex.h"

#include <string.h>

/* To behind the first c, which leads to the state then; or to n. */
static size_t skip_until(enum xml_lex *state, const char *p, size_t n, char c, enum xml_lex then)
{
    const char *q = memchr(p, c, n);
    if (!q)
        return n;
    *state = then;
    return (size_t)(q - p) + 1;
}

static enum xml_lex after_open(char c)
{
    return c == '!' ? LEX_BANG : c == '?' ? LEX_PI : LEX_TAG;
}

static enum xml_lex after_bracket(enum xml_lex state, char c)
{
    if (c == ']')
        return LEX_CDATA_2; /* "]]]>" ends it too */
    return state == LEX_CDATA_2 && c == '>' ? LEX_TEXT : LEX_CDATA;
}

static size_t in_tag(enum xml_lex *state, const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] != '>' && p[i] != '\'' && p[i] != '"')
        i++;
    if (i == n)
        return n;
    *state = p[i] == '>' ? LEX_TEXT : p[i] == '"' ? LEX_QUOT : LEX_APOS;
    return i + 1;
}

size_t xml_lex(enum xml_lex *state, const char *p, size_t n, bool *tag)
{
    size_t i = 0;
    while (i < n && *state != LEX_RESTRICTED)
        switch (*state) {
        case LEX_TEXT:
            i += skip_until(state, p + i, n - i, '<', LEX_OPEN);
            break;
        case LEX_OPEN:
            if (p[i] == '\'' || p[i] == '"') { /* no value: expat is to refuse it now, not when the quote ends */
                *state = LEX_TEXT;
                *tag = true;
                return i + 1;
            }
            *state = after_open(p[i]);
            i += *state != LEX_TAG; /* "<>" is seen by in_tag */
            break;
        case LEX_TAG:
            i += in_tag(state, p + i, n - i);
            *tag = *state == LEX_TEXT;
            if (*tag)
                return i;
            break;
        case LEX_APOS:
            i += skip_until(state, p + i, n - i, '\'', LEX_TAG);
            break;
        case LEX_QUOT:
            i += skip_until(state, p + i, n - i, '"', LEX_TAG);
            break;
        case LEX_BANG:
            *state = p[i++] == '[' ? LEX_CDATA : LEX_RESTRICTED;
            break;
        case LEX_CDATA:
            i += skip_until(state, p + i, n - i, ']', LEX_CDATA_1);
            break;
        case LEX_CDATA_1:
        case LEX_CDATA_2:
            *state = after_bracket(*state, p[i++]);
            if (*state == LEX_TEXT)
                return i;
            break;
        case LEX_PI:
            i += skip_until(state, p + i, n - i, '>', LEX_TEXT);
            *tag = *state == LEX_TEXT;
            if (*tag)
                return i;
            break;
        case LEX_RESTRICTED:
            break;
        }
    return i;
}
