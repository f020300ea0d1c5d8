/* XEP-0357: what depends on time: rates, answers that do not come, clients that take nothing. */
#include "sm_harness.h"

#include "metrics.h"

#include <stdio.h>

#define ROMEO  "romeo@example.org"
#define JULIET "juliet@example.org"
#define APP    "app@example.org"
#define ENABLE "<iq type='set' id='e'><enable xmlns='urn:xmpp:push:0' jid='" APP "/1' node='n'/></iq>"

struct cast {
    struct harness *h;
    uint64_t romeo, phone, app;
};

/* Juliet's phone has enabled push; it is online when there. */
static struct cast cast_open(bool there)
{
    struct cast c = {.h = harness_open()};
    c.h->config.push.max_targets = 3;
    c.h->config.push.per_minute = 3;
    c.h->config.push.ack_delay_s = 30;
    c.h->config.push.sender = true;
    harness_account(c.h, ROMEO);
    harness_account(c.h, JULIET);
    harness_account(c.h, APP);
    c.romeo = harness_bind(c.h, ROMEO "/orchard");
    c.app = harness_bind(c.h, APP "/1");
    c.phone = harness_bind(c.h, JULIET "/phone");
    harness_send(c.h, c.phone, ENABLE);
    expect(c.h, c.phone, "type=\"result\"", NULL);
    if (there)
        harness_send(c.h, c.phone, "<presence/>");
    else
        harness_end(c.h, c.phone);
    return c;
}

static void wait_ms(struct cast *c, uint64_t ms)
{
    loop_sim_advance(c->h->loop, ms);
    harness_run(c->h);
}

static void say(struct cast *c)
{
    harness_send(c->h, c->romeo, "<message to='" JULIET "' type='chat'><body>hi</body></message>");
}

/* A notification with this count; its id. */
static const char *told(struct cast *c, int count)
{
    static char id[32];
    char value[80];
    snprintf(value, sizeof value, "<field var=\"message-count\"><value>%d</value>", count);
    const char *got = expect(c->h, c->app, "<iq", "to=\"" APP "/1\"", "from=\"" JULIET "\"", value, NULL);
    assert_int_equal(sscanf(strstr(got, "id=\"") + 4, "%31[^\"]", id), 1);
    return id;
}

static void answer(struct cast *c, const char *id, const char *error)
{
    char xml[400];
    snprintf(xml, sizeof xml, "<iq to='" JULIET "' id='%s' type='%s'>%s</iq>", id, error ? "error" : "result",
             error ? error : "");
    harness_send(c->h, c->app, xml);
}

static void rate(void **state)
{
    (void)state;
    struct cast c = cast_open(false);
    for (int i = 1; i <= 3; i++) {
        say(&c);
        answer(&c, told(&c, i), NULL);
    }
    for (int i = 0; i < 5; i++)
        say(&c);
    wait_ms(&c, 50 * 1000);
    expect_nothing(c.h, c.app);
    wait_ms(&c, 11 * 1000);
    answer(&c, told(&c, 8), NULL); /* what came meanwhile, in one */
    wait_ms(&c, 120 * 1000);
    expect_nothing(c.h, c.app);
    harness_close(c.h);
}

/* What waits for its commit when the first one is told is not told twice. */
static void burst(void **state)
{
    (void)state;
    struct cast c = cast_open(false);
    for (int i = 0; i < 3; i++)
        harness_post(c.h, c.romeo, "<message to='" JULIET "' type='chat'><body>hi</body></message>");
    harness_run(c.h);
    answer(&c, told(&c, 1), NULL);
    answer(&c, told(&c, 3), NULL);
    expect_nothing(c.h, c.app);
    harness_close(c.h);
}

static void no_answers(void **state)
{
    (void)state;
    struct cast c = cast_open(false);
    int64_t disabled = metric_read(M_PUSH_DISABLED_TOTAL);
    for (int i = 1; i <= 10; i++) {
        say(&c);
        told(&c, i);
        expect_nothing(c.h, c.app);
        wait_ms(&c, 61 * 1000);
    }
    assert_int_equal(metric_read(M_PUSH_DISABLED_TOTAL), disabled + 1);
    say(&c);
    wait_ms(&c, 61 * 1000);
    expect_nothing(c.h, c.app);
    harness_close(c.h);
}

static void an_answer_ends_the_row(void **state)
{
    (void)state;
    struct cast c = cast_open(false);
    for (int i = 1; i <= 15; i++) {
        say(&c);
        const char *id = told(&c, i);
        if (i == 8)
            answer(&c, id, NULL);
        wait_ms(&c, 61 * 1000);
    }
    harness_close(c.h);
}

static void errors_of_others(void **state)
{
    (void)state;
    struct cast c = cast_open(false);
    char xml[200];
    say(&c);
    const char *id = told(&c, 1);
    snprintf(xml, sizeof xml, "<iq to='" JULIET "' id='%s' type='error'/>", id);
    harness_send(c.h, c.romeo, xml);
    answer(&c, id, NULL);
    say(&c);
    answer(&c, told(&c, 2), "<error type='wait'><internal-server-error xmlns='" NS_STANZAS "'/></error>");
    say(&c);
    answer(&c, told(&c, 3), "<error type='modify'><not-acceptable xmlns='" NS_STANZAS "'/></error>");
    wait_ms(&c, 61 * 1000);
    say(&c);
    expect_nothing(c.h, c.app);
    harness_close(c.h);
}

static void acknowledge(struct cast *c)
{
    struct session *se = sm_session(c->h->sm, c->phone);
    struct envelope *e = env_new(ENV_ACKED, se->jid);
    e->session = c->phone;
    e->id = se->outstanding[se->outstanding_off + se->outstanding_count - 1];
    harness_queue(c->h, e);
    harness_run(c->h);
}

static void connected_and_silent(void **state)
{
    (void)state;
    struct cast c = cast_open(true);
    say(&c);
    wait_ms(&c, 20 * 1000);
    say(&c);
    acknowledge(&c);
    wait_ms(&c, 60 * 1000);
    expect_nothing(c.h, c.app);
    say(&c);
    wait_ms(&c, 29 * 1000);
    expect_nothing(c.h, c.app);
    wait_ms(&c, 2 * 1000);
    answer(&c, told(&c, 1), NULL);
    wait_ms(&c, 120 * 1000);
    expect_nothing(c.h, c.app); /* once */
    harness_close(c.h);
}

/* The phone lost its connection without XEP-0198 and is back at once; then it is not. */
static void back_at_once(void **state)
{
    (void)state;
    struct cast c = cast_open(true);
    say(&c);
    harness_end(c.h, c.phone);
    c.phone = harness_bind(c.h, JULIET "/phone");
    harness_send(c.h, c.phone, "<presence/>");
    wait_ms(&c, 2000);
    expect_nothing(c.h, c.app);
    harness_end(c.h, c.phone);
    wait_ms(&c, 2000);
    answer(&c, told(&c, 1), NULL);
    say(&c);
    answer(&c, told(&c, 2), NULL);
    harness_close(c.h);
}

/* Forgotten with the account, known to storage: the error that comes late disables it all the same. */
static void account_dropped(void **state)
{
    (void)state;
    struct cast c = cast_open(false);
    c.h->config.max_cached_accounts = 0;
    say(&c);
    char id[32];
    snprintf(id, sizeof id, "%s", told(&c, 1));
    wait_ms(&c, 1000);
    say(&c);
    told(&c, 2); /* it does not know of the one in flight, but of what waits */
    wait_ms(&c, 1000);
    answer(&c, id, "<error type='cancel'><item-not-found xmlns='" NS_STANZAS "'/></error>");
    say(&c);
    wait_ms(&c, 61 * 1000);
    expect_nothing(c.h, c.app);
    harness_close(c.h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rate),
        cmocka_unit_test(burst),
        cmocka_unit_test(no_answers),
        cmocka_unit_test(an_answer_ends_the_row),
        cmocka_unit_test(errors_of_others),
        cmocka_unit_test(connected_and_silent),
        cmocka_unit_test(back_at_once),
        cmocka_unit_test(account_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
