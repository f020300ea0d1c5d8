/* XEP-0313 with 0059 and 0441: filters, pages, metadata, preferences. max_page is 10. */
#include "sm_harness.h"

#include <stdio.h>

#define ROMEO  "romeo@example.org"
#define JULIET "juliet@example.org"
#define NURSE  "nurse@example.org"
#define FORM(fields)                                                                                                   \
    "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field>" fields "</"  \
    "x>"
#define FIELD(var, value) "<field var='" var "'><value>" value "</value></field>"
#define RSM(x)            "<set xmlns='http://jabber.org/protocol/rsm'>" x "</set>"

enum { SENT = 12 };

struct archive {
    struct harness *h;
    uint64_t romeo, juliet;
    char id[SENT][24]; /* of "m0" .. "m11" in Juliet's archive; even ones from Romeo, odd ones to the nurse */
};

static void query(struct archive *a, const char *child)
{
    char st[2048];
    harness_skip(a->h, a->juliet);
    snprintf(st, sizeof st, "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2' queryid='x&amp;y'>%s</query></iq>",
             child);
    harness_send(a->h, a->juliet, st);
}

static void queryf(struct archive *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void queryf(struct archive *a, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    query(a, text);
}

static void result_id(const char *result, char out[24])
{
    const char *p = strstr(result, "<result xmlns=\"urn:xmpp:mam:2\" id=\"");
    assert_non_null(p);
    p += 35;
    snprintf(out, 24, "%.*s", (int)strcspn(p, "\""), p);
}

/* The results are these messages in this order, then the fin. Returns the fin. */
static const char *expect_page(struct archive *a, const int *m, int n)
{
    for (int i = 0; i < n; i++) {
        char body[32];
        snprintf(body, sizeof body, "<body>m%d</body>", m[i]);
        expect(a->h, a->juliet, "<result ", "queryid=\"x&amp;y\"", body, NULL);
    }
    const char *fin = expect(a->h, a->juliet, "type=\"result\"", "<fin xmlns=\"urn:xmpp:mam:2\"", NULL);
    expect_nothing(a->h, a->juliet);
    return fin;
}
#define PAGE(a, ...) expect_page(a, (const int[]){__VA_ARGS__}, (int)(sizeof((const int[]){__VA_ARGS__}) / sizeof(int)))

static struct archive archive_open(void)
{
    struct archive a = {.h = harness_open()};
    harness_account(a.h, ROMEO);
    harness_account(a.h, JULIET);
    harness_account(a.h, NURSE);
    a.romeo = harness_bind(a.h, ROMEO "/orchard");
    a.juliet = harness_bind(a.h, JULIET "/balcony");
    harness_send(a.h, a.juliet, "<presence/>");
    for (int i = 0; i < SENT; i++) {
        char st[160];
        snprintf(st, sizeof st, "<message to='%s' type='chat'><body>m%d</body></message>", i % 2 ? NURSE : JULIET, i);
        harness_send(a.h, i % 2 ? a.juliet : a.romeo, st);
        loop_sim_advance(a.h->loop, 1000); /* a second apart */
    }
    a.h->config.archive.max_page = 100;
    query(&a, "");
    for (int i = 0; i < SENT; i++)
        result_id(harness_next(a.h, a.juliet), a.id[i]);
    a.h->config.archive.max_page = 10;
    return a;
}

static void everything(void **state)
{
    (void)state;
    struct archive a = archive_open();
    query(&a, "");
    const char *first = expect(a.h, a.juliet, "from=\"" JULIET "\"", "to=\"" JULIET "/balcony\"",
                               "<delay xmlns=\"urn:xmpp:delay\" stamp=\"20", "<forwarded xmlns=\"urn:xmpp:forward:0\">",
                               "<message xmlns=\"jabber:client\"", "m0", NULL);
    struct stanza *st = stanza_parse(first, strlen(first));
    assert_non_null(st);
    stanza_free(&st);
    const char *fin = PAGE(&a, 1, 2, 3, 4, 5, 6, 7, 8, 9);
    assert_null(strstr(fin, "complete"));
    char last[40];
    snprintf(last, sizeof last, "<last>%s</last>", a.id[9]);
    assert_non_null(strstr(fin, last));
    harness_close(a.h);
}

static void pages(void **state)
{
    (void)state;
    struct archive a = archive_open();
    query(&a, RSM("<max>5</max>"));
    assert_non_null(strstr(PAGE(&a, 0, 1, 2, 3, 4), "<count>12</count>"));
    queryf(&a, RSM("<max>5</max><after>%s</after>"), a.id[4]);
    assert_null(strstr(PAGE(&a, 5, 6, 7, 8, 9), "complete"));
    queryf(&a, RSM("<max>5</max><after>%s</after>"), a.id[9]);
    assert_non_null(strstr(PAGE(&a, 10, 11), "complete=\"true\""));
    query(&a, RSM("<max>3</max><before/>"));
    assert_null(strstr(PAGE(&a, 9, 10, 11), "complete"));
    queryf(&a, RSM("<max>3</max><before>%s</before>"), a.id[2]);
    assert_non_null(strstr(PAGE(&a, 0, 1), "complete=\"true\""));
    queryf(&a, RSM("<max>3</max><before>%s</before>") "<flip-page/>", a.id[9]);
    const char *fin = PAGE(&a, 8, 7, 6);
    char first[40];
    snprintf(first, sizeof first, "<first>%s</first>", a.id[6]); /* the page is flipped, not the set */
    assert_non_null(strstr(fin, first));
    queryf(&a, RSM("<after>%s</after>"), a.id[11]);
    fin = expect(a.h, a.juliet, "complete=\"true\"", NULL);
    assert_null(strstr(fin, "<first>"));
    query(&a, RSM("<max>0</max>"));
    expect(a.h, a.juliet, "<fin ", "<count>12</count>", NULL);
    expect_nothing(a.h, a.juliet);
    harness_close(a.h);
}

static void filters(void **state)
{
    (void)state;
    struct archive a = archive_open();
    query(&a, FORM(FIELD("with", ROMEO)));
    PAGE(&a, 0, 2, 4, 6, 8, 10);
    query(&a, FORM(FIELD("with", ROMEO "/orchard")) RSM("<max>2</max>"));
    PAGE(&a, 0, 2);
    query(&a, FORM(FIELD("with", NURSE)) RSM("<max>2</max><before/>"));
    assert_non_null(strstr(PAGE(&a, 9, 11), "<count>6</count>"));
    query(&a, FORM(FIELD("with", ROMEO "/elsewhere")));
    expect(a.h, a.juliet, "complete=\"true\"", NULL);
    queryf(&a, FORM("<field var='after-id'><value>%s</value></field><field var='before-id'><value>%s</value></field>"),
           a.id[3], a.id[7]);
    PAGE(&a, 4, 5, 6);
    queryf(&a, FORM("<field var='ids'><value>%s</value><value>%s</value></field>"), a.id[8], a.id[2]);
    PAGE(&a, 2, 8);
    char start[28], end[28];
    uint64_t id;
    assert_true(archive_id_parse(a.id[5], &id));
    time_text(archive_id_us(id), start);
    assert_true(archive_id_parse(a.id[7], &id));
    time_text(archive_id_us(id), end);
    queryf(&a, FORM("<field var='start'><value>%s</value></field><field var='end'><value>%s</value></field>"), start,
           end);
    PAGE(&a, 5, 6, 7); /* both ends belong to it */
    harness_close(a.h);
}

static void refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {RSM("<after>12345</after>"), "item-not-found"},
        {RSM("<before>nonsense</before>"), "item-not-found"},
        {FORM(FIELD("after-id", "12345")), "item-not-found"},
        {FORM(FIELD("ids", "12345")), "item-not-found"},
        {FORM(FIELD("with", "a@@b")), "jid-malformed"},
        {FORM(FIELD("start", "yesterday")), "bad-request"},
        {FORM(FIELD("{urn:x}mood", "lonely")), "feature-not-implemented"},
        {FORM(FIELD("with", ROMEO) FIELD("with", JULIET)), "bad-request"},
        {RSM("<max>-1</max>"), "bad-request"},
        {RSM("<max>5</max><index>3</index>"), "feature-not-implemented"},
    };
    struct archive a = archive_open();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        query(&a, cases[i][0]);
        expect(a.h, a.juliet, "type=\"error\"", cases[i][1], NULL);
        expect_nothing(a.h, a.juliet);
    }
    harness_skip(a.h, a.romeo);
    harness_send(a.h, a.romeo,
                 "<iq type='set' id='q' to='" JULIET "'><query xmlns='urn:xmpp:mam:2'/></iq>"); /* THREATS 24 */
    expect(a.h, a.romeo, "type=\"error\"", NULL);
    expect_nothing(a.h, a.romeo);
    harness_close(a.h);
}

static void form_and_metadata(void **state)
{
    (void)state;
    struct archive a = archive_open();
    harness_skip(a.h, a.juliet);
    harness_send(a.h, a.juliet, "<iq type='get' id='f'><query xmlns='urn:xmpp:mam:2'/></iq>");
    expect(a.h, a.juliet, "type=\"form\"", "var=\"with\"", "var=\"start\"", "var=\"end\"", "var=\"before-id\"",
           "var=\"after-id\"", "var=\"ids\"", NULL);
    harness_send(a.h, a.juliet, "<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>");
    expect(a.h, a.juliet, "<start id=", a.id[0], "<end id=", a.id[11], "timestamp=\"20", NULL);
    harness_account(a.h, "empty@example.org");
    uint64_t empty = harness_bind(a.h, "empty@example.org/x");
    harness_send(a.h, empty, "<iq type='get' id='m'><metadata xmlns='urn:xmpp:mam:2'/></iq>");
    expect(a.h, empty, "<metadata xmlns=\"urn:xmpp:mam:2\"/>", NULL);
    harness_close(a.h);
}

/* Large messages: a page ends before it floods the client, from whichever side it was read. */
static void page_bytes(void **state)
{
    (void)state;
    struct archive a = archive_open();
    enum { LARGE = 200000 };
    char *st = malloc(LARGE + 200);
    int n = snprintf(st, 200, "<message to='" JULIET "' type='chat'><body>");
    memset(st + n, 'x', LARGE);
    strcpy(st + n + LARGE, "</body></message>");
    for (int i = 0; i < 4; i++)
        harness_send(a.h, a.romeo, st);
    free(st);
    queryf(&a, RSM("<after>%s</after>"), a.id[SENT - 1]);
    char id[4][24];
    for (int i = 0; i < 2; i++)
        result_id(harness_next(a.h, a.juliet), id[i]);
    assert_null(strstr(expect(a.h, a.juliet, "<fin ", id[1], NULL), "complete"));
    queryf(&a, RSM("<after>%s</after>"), id[1]);
    for (int i = 2; i < 4; i++)
        result_id(harness_next(a.h, a.juliet), id[i]);
    expect(a.h, a.juliet, "complete=\"true\"", id[3], NULL);
    query(&a, RSM("<before/>"));
    char last[2][24];
    for (int i = 0; i < 2; i++)
        result_id(harness_next(a.h, a.juliet), last[i]);
    assert_string_equal(last[0], id[2]);
    assert_string_equal(last[1], id[3]);
    assert_null(strstr(expect(a.h, a.juliet, "<fin ", NULL), "complete"));
    harness_close(a.h);
}

#define PREFS(d, always, never)                                                                                        \
    "<iq type='set' id='p'><prefs xmlns='urn:xmpp:mam:2' default='" d "'><always>" always "</always><never>" never     \
    "</never></prefs></iq>"

/* How many messages a short exchange of Romeo and Juliet leaves in her archive. */
static int archived(struct archive *a)
{
    static int serial;
    char st[160], count[32];
    int n = 0;
    serial++;
    snprintf(st, sizeof st, "<message to='" JULIET "' type='chat'><body>new%d</body></message>", serial);
    harness_send(a->h, a->romeo, st);
    snprintf(st, sizeof st, "<message to='" ROMEO "' type='chat'><body>new%d</body></message>", serial);
    harness_send(a->h, a->juliet, st);
    harness_skip(a->h, a->juliet);
    query(a, RSM("<max>10</max><before/>"));
    snprintf(count, sizeof count, "<body>new%d</body>", serial);
    for (const char *got = harness_next(a->h, a->juliet); !strstr(got, "<fin "); got = harness_next(a->h, a->juliet))
        n += strstr(got, count) != NULL;
    return n;
}

static void preferences(void **state)
{
    (void)state;
    struct archive a = archive_open();
    struct harness *h = a.h;
    harness_skip(h, a.juliet);
    harness_send(h, a.juliet, "<iq type='get' id='p'><prefs xmlns='urn:xmpp:mam:2'/></iq>");
    expect(h, a.juliet, "default=\"always\"", "<always/>", "<never/>", NULL);
    assert_int_equal(archived(&a), 2);
    harness_send(h, a.juliet, PREFS("always", "", "<jid>ROMEO@example.org</jid>"));
    expect(h, a.juliet, "type=\"result\"", "<never><jid>" ROMEO "</jid></never>", NULL);
    assert_int_equal(archived(&a), 0);
    harness_send(h, a.juliet, PREFS("never", "<jid>" ROMEO "/orchard</jid>", ""));
    harness_skip(h, a.juliet);
    assert_int_equal(archived(&a), 1); /* his resource; what she sends goes to his bare JID */
    harness_send(h, a.juliet, PREFS("roster", "", ""));
    harness_skip(h, a.juliet);
    assert_int_equal(archived(&a), 0);
    harness_send(h, a.juliet,
                 "<iq type='set' id='s'><query xmlns='jabber:iq:roster'><item jid='" ROMEO "'/></query></iq>");
    assert_int_equal(archived(&a), 2);
    harness_send(h, a.juliet, PREFS("sometimes", "", ""));
    expect(h, a.juliet, "type=\"error\"", "bad-request", NULL);
    harness_send(h, a.juliet, PREFS("always", "<jid>a@@b</jid>", ""));
    expect(h, a.juliet, "type=\"error\"", "jid-malformed", NULL);
    harness_send(h, a.juliet, "<iq type='get' id='p'><prefs xmlns='urn:xmpp:mam:2'/></iq>");
    expect(h, a.juliet, "default=\"roster\"", NULL);
    harness_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything),        cmocka_unit_test(pages),
        cmocka_unit_test(filters),           cmocka_unit_test(refused),
        cmocka_unit_test(form_and_metadata), cmocka_unit_test(preferences),
        cmocka_unit_test(page_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
