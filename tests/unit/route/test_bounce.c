/* Errors that sm itself sends back. */
#include "sm_harness.h"

static int teardown(void **state)
{
    struct harness *h = *state;
    harness_close(h);
    return 0;
}

static int setup(void **state)
{
    struct harness *h = *state = harness_open();
    harness_account(h, "romeo@example.org");
    return 0;
}

/* RFC 6120 10.3: without `to` it was for the sender's own account. */
static void test_without_to(void **state)
{
    struct harness *h = *state;
    uint64_t romeo = harness_bind(h, "romeo@example.org/orchard");
    harness_send(h, romeo, "<message type='groupchat' id='1'><body>x</body></message>");
    expect(h, romeo, "type=\"error\"", "id=\"1\"", "from=\"romeo@example.org\"", "to=\"romeo@example.org/orchard\"",
           "<service-unavailable", NULL);
    expect_nothing(h, romeo);
    harness_end(h, romeo);
}

static void test_to_nobody(void **state)
{
    struct harness *h = *state;
    uint64_t romeo = harness_bind(h, "romeo@example.org/orchard");
    harness_send(h, romeo, "<message to='nobody@example.org' id='1'><body>x</body></message>");
    expect(h, romeo, "type=\"error\"", "id=\"1\"", "from=\"nobody@example.org\"", NULL);
    expect_nothing(h, romeo);
    harness_end(h, romeo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_without_to, setup, teardown),
        cmocka_unit_test_setup_teardown(test_to_nobody, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
