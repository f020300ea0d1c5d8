/* What the session registry is told of sessions: begin, presence, end, a resource bound again. */
#include "../storage/redis_fixture.h"

#include "sm_harness.h"

#define ROMEO "romeo@example.org"

static struct redis server;

static const char *entry(struct loop *l, struct registry *r, const char *resource)
{
    run_until(l, 5000, registry_up(r) && !registry_waiting(r));
    return redis_ask(&server, "HGET s:" ROMEO " %s", resource);
}

static void life(void **state)
{
    struct harness *h = harness_open();
    struct loop *l = loop_epoll_new(); /* sm has its own, with simulated time */
    (void)state;
    redis_start(&server);
    struct registry_server at = {"127.0.0.1", server.port};
    struct registry_config c = {.servers = &at, .count = 1};
    struct ring *ring = ring_new(1, &(struct ring_member){.node = 3, .incarnation = 17, .workers = 1}, 1);
    sm_ring(h->sm, ring, 3, 0);
    ring_unref(&ring);
    struct registry *r = h->sm->registry = registry_new(l, &c);
    harness_account(h, ROMEO);
    uint64_t phone = harness_bind(h, ROMEO "/phone");
    assert_string_equal(entry(l, r, "phone"), "3|17|3e8|0|unavailable|");
    harness_send(h, phone, "<presence><priority>-5</priority><show>xa</show></presence>");
    expect(h, phone, "<show>xa</show>", NULL); /* the others hear what the registry hears */
    assert_string_equal(entry(l, r, "phone"), "3|17|3e8|-5|xa|");
    harness_send(h, phone, "<presence><priority>500</priority></presence>"); /* refused */
    harness_send(h, phone, "<presence to='juliet@example.org'><show>dnd</show></presence>");
    assert_string_equal(entry(l, r, "phone"), "3|17|3e8|-5|xa|");
    harness_send(h, phone, "<presence><priority>5</priority></presence>");
    assert_string_equal(entry(l, r, "phone"), "3|17|3e8|5||");
    uint64_t again = harness_bind(h, ROMEO "/phone");
    assert_string_equal(entry(l, r, "phone"), "3|17|3e9|0|unavailable|");
    harness_send(h, again, "<presence/>");
    harness_send(h, again, "<presence type='unavailable'/>");
    assert_string_equal(entry(l, r, "phone"), "3|17|3e9|0|unavailable|");
    harness_end(h, again);
    assert_string_equal(entry(l, r, "phone"), "(nil)");
    registry_free(&r);
    h->sm->registry = NULL;
    harness_close(h);
    loop_free(&l);
    redis_clean(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(life)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
