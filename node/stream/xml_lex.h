/*
 * Finds where tags end, so that expat is given whole tags and never a part of one.
 *
 * Expat defers another look at an unfinished token until the data has doubled (CVE-2023-52425); a stanza whose
 * last byte just came could wait for more. With whole tags there is nothing to defer, and after each call of expat
 * at most one thing has happened. The scanner only cuts: what is a tag, and where a stanza ends, expat says. Input on
 * which the two would disagree is not well-formed, and then expat refuses it.
 */
#ifndef ROOKERY_XML_LEX_H
#define ROOKERY_XML_LEX_H

#include <stdbool.h>
#include <stddef.h>

enum xml_lex {
    LEX_TEXT,
    LEX_OPEN, /* after '<' */
    LEX_TAG,
    LEX_APOS, /* in a value between ' */
    LEX_QUOT,
    LEX_BANG, /* after "<!" */
    LEX_CDATA,
    LEX_CDATA_1,    /* after ']' in CDATA */
    LEX_CDATA_2,    /* after "]]" */
    LEX_PI,         /* after "<?": the XML declaration */
    LEX_RESTRICTED, /* comment or document type: final */
};

/* Reads on in p to behind the end of a tag (*tag is set to true), or to n. Returns the bytes read. Zero is the start
 * state. */
size_t xml_lex(enum xml_lex *state, const char *p, size_t n, bool *tag);

#endif
