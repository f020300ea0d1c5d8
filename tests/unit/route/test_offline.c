/* Messages that waited for longer than offline.expire_days. */
#include "sm_harness.h"

#include <stdio.h>

#define ROMEO  "romeo@example.org"
#define JULIET "juliet@example.org"
#define QUERY  "<iq type='set' id='q'><query xmlns='urn:xmpp:mam:2'/></iq>"

enum { HOUR_MS = 3600 * 1000 };

static struct harness *open_two(uint64_t *romeo)
{
    struct harness *h = harness_open();
    h->config.offline.expire_days = 1;
    harness_account(h, ROMEO);
    harness_account(h, JULIET);
    *romeo = harness_bind(h, ROMEO "/orchard");
    return h;
}

static void chat(struct harness *h, uint64_t from, const char *body)
{
    char xml[256];
    snprintf(xml, sizeof xml, "<message to='" JULIET "' type='chat' id='m'><body>%s</body></message>", body);
    harness_send(h, from, xml);
}

static void hours(struct harness *h, unsigned n)
{
    loop_sim_advance(h->loop, (uint64_t)n * HOUR_MS);
}

static void not_delivered_but_archived(void **state)
{
    (void)state;
    uint64_t romeo;
    struct harness *h = open_two(&romeo);
    chat(h, romeo, "old");
    hours(h, 23);
    chat(h, romeo, "new");
    hours(h, 2);
    uint64_t juliet = harness_bind(h, JULIET "/balcony");
    harness_send(h, juliet, "<presence/>");
    expect(h, juliet, "<presence", NULL);
    expect(h, juliet, "<body>new</body>", "<delay", NULL);
    expect_nothing(h, juliet);
    harness_send(h, juliet, QUERY);
    expect(h, juliet, "<body>old</body>", NULL);
    expect(h, juliet, "<body>new</body>", NULL);
    expect(h, juliet, "type=\"result\"", NULL);
    harness_end(h, juliet);
    hours(h, 1);
    juliet = harness_bind(h, JULIET "/balcony");
    harness_send(h, juliet, "<presence/>");
    expect(h, juliet, "<presence", NULL);
    expect(h, juliet, "<body>new</body>", NULL); /* nobody acknowledged it; the old one is gone for good */
    expect_nothing(h, juliet);
    harness_close(h);
}

/* They make room: for whoever never comes to have them. */
static void expired_do_not_count(void **state)
{
    (void)state;
    uint64_t romeo;
    struct harness *h = open_two(&romeo);
    h->config.offline.max_messages = 3;
    chat(h, romeo, "1");
    chat(h, romeo, "2");
    hours(h, 20);
    chat(h, romeo, "3");
    expect_nothing(h, romeo);
    chat(h, romeo, "4");
    expect(h, romeo, "type=\"error\"", "service-unavailable", NULL);
    hours(h, 6); /* 1 and 2 are over */
    chat(h, romeo, "5");
    chat(h, romeo, "6");
    expect_nothing(h, romeo);
    chat(h, romeo, "7");
    expect(h, romeo, "type=\"error\"", "service-unavailable", NULL);
    uint64_t juliet = harness_bind(h, JULIET "/balcony");
    harness_send(h, juliet, "<presence/>");
    expect(h, juliet, "<presence", NULL);
    expect(h, juliet, "<body>3</body>", NULL);
    expect(h, juliet, "<body>5</body>", NULL);
    expect(h, juliet, "<body>6</body>", NULL);
    expect_nothing(h, juliet);
    harness_close(h);
}

static void never_by_default(void **state)
{
    (void)state;
    uint64_t romeo;
    struct harness *h = open_two(&romeo);
    h->config.offline.expire_days = 0;
    chat(h, romeo, "old");
    hours(h, 72);
    uint64_t juliet = harness_bind(h, JULIET "/balcony");
    harness_send(h, juliet, "<presence/>");
    expect(h, juliet, "<presence", NULL);
    expect(h, juliet, "<body>old</body>", NULL);
    harness_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(not_delivered_but_archived),
        cmocka_unit_test(expired_do_not_count),
        cmocka_unit_test(never_by_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
