#include "sm.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void archive_id_text(uint64_t id, char out[21])
{
    snprintf(out, 21, "%llu", (unsigned long long)id);
}

bool archive_id_parse(const char *text, uint64_t *out)
{
    size_t n = strlen(text);
    if (!n || n > 20 || strspn(text, "0123456789") != n || text[0] == '0')
        return false;
    char *end;
    unsigned long long v = strtoull(text, &end, 10);
    *out = v;
    return v != UINT64_MAX;
}

void time_text(uint64_t unix_us, char out[28])
{
    time_t t = (time_t)(unix_us / 1000000);
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(out, 28, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + 19, 9, ".%06uZ", (unsigned)(unix_us % 1000000));
}

/* Reads exactly n digits. */
static bool digits(const char **p, int n, int *out)
{
    int v = 0;
    for (int i = 0; i < n; i++, (*p)++) {
        if (!isdigit((unsigned char)**p))
            return false;
        v = v * 10 + (**p - '0');
    }
    *out = v;
    return true;
}

static bool skip(const char **p, char c)
{
    return **p == c && (*p)++;
}

/* XEP-0082: CCYY-MM-DDThh:mm:ss[.sss]TZD */
bool time_parse(const char *p, uint64_t *unix_us)
{
    struct tm tm = {0};
    int y, mo, oh = 0, om = 0, sign = 0;
    if (!digits(&p, 4, &y) || !skip(&p, '-') || !digits(&p, 2, &mo) || !skip(&p, '-') || !digits(&p, 2, &tm.tm_mday) ||
        !skip(&p, 'T') || !digits(&p, 2, &tm.tm_hour) || !skip(&p, ':') || !digits(&p, 2, &tm.tm_min) ||
        !skip(&p, ':') || !digits(&p, 2, &tm.tm_sec))
        return false;
    if (mo < 1 || mo > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60 ||
        y < 1970 || y > 9999)
        return false;
    uint64_t us = 0, unit = 100000;
    if (skip(&p, '.')) {
        if (!isdigit((unsigned char)*p))
            return false;
        for (; isdigit((unsigned char)*p); p++, unit /= 10)
            us += (uint64_t)(*p - '0') * unit;
    }
    if (*p == '+' || *p == '-') {
        sign = *p++ == '+' ? 1 : -1;
        if (!digits(&p, 2, &oh) || !skip(&p, ':') || !digits(&p, 2, &om) || oh > 14 || om > 59)
            return false;
    } else if (!skip(&p, 'Z')) {
        return false;
    }
    tm.tm_year = y - 1900;
    tm.tm_mon = mo - 1;
    int64_t t = (int64_t)timegm(&tm) - sign * (oh * 3600 + om * 60);
    if (*p || t < 0)
        return false;
    *unix_us = (uint64_t)t * 1000000 + us;
    return true;
}

struct xml *delay_add(struct arena *a, struct xml *parent, const char *from, uint64_t unix_us)
{
    char stamp[28];
    time_text(unix_us, stamp);
    struct xml *d = xml_add(a, parent, "delay", "urn:xmpp:delay");
    if (from)
        xml_set(a, d, "from", from);
    xml_set(a, d, "stamp", stamp);
    return d;
}
