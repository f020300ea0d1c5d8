#include "signup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool weak(unsigned bits, const char *password)
{
    struct config cf = {.registration.min_password_entropy = bits};
    return signup_password_refused(&cf, "romeo", password);
}

static void test_passwords(void **state)
{
    (void)state;
    assert_false(weak(0, "a"));
    assert_false(weak(0, "romeo"));
    assert_true(weak(1, "ROMEO"));
    assert_true(weak(1, ""));
    assert_false(weak(32, "abcdefg")); /* 7 * log2(26) = 32.9 */
    assert_true(weak(33, "abcdefg"));
    assert_false(weak(32, "aB1%x")); /* 5 * log2(95) = 32.8 */
    assert_true(weak(32, "aB1%"));
    assert_true(weak(10, "111111111111111111111"));
    assert_false(weak(19, "0123456")); /* 7 * log2(10) = 23.3 */
    assert_true(weak(24, "0123456"));
    assert_false(weak(20, "жщю")); /* 3 * 7 = 21 */
    assert_true(weak(22, "жщю"));
}

static bool bad_name(const char *name)
{
    struct config cf = {.registration.reserved = "root postmaster"};
    return signup_name_refused(&cf, name);
}

static void test_reserved(void **state)
{
    (void)state;
    assert_true(bad_name("root"));
    assert_true(bad_name("postmaster"));
    assert_false(bad_name("postmasters"));
    assert_false(bad_name("roo"));
    assert_false(bad_name("root postmaster"));
}

static void test_scripts(void **state)
{
    (void)state;
    assert_false(bad_name("romeo-1.5_x"));
    assert_false(bad_name("ромео-15"));
    assert_false(bad_name("ρωμαίος"));
    assert_false(bad_name("r\u0301omeo"));     /* a combining accent is of every script */
    assert_false(bad_name("漢字ひらカタabc")); /* as Japanese is written */
    assert_false(bad_name("漢한글abc"));
    assert_true(bad_name("r\u043emeo")); /* Cyrillic o */
    assert_true(bad_name("ром\u03b5о")); /* Greek epsilon */
    assert_true(bad_name("ひ한"));
    assert_true(bad_name("漢ж"));
    struct config cf = {.registration.mixed_scripts = true};
    assert_null(signup_name_refused(&cf, "r\u043emeo"));
}

static void test_patterns(void **state)
{
    (void)state;
    struct config_registration_name names[] = {{ACCESS_ALLOW, "^(admin-of-.*)$"},
                                               {ACCESS_DENY, "^(.*admin.*)$"},
                                               {ACCESS_ALLOW, "^([a-z]+|[0-9]+)$"},
                                               {ACCESS_DENY, "^(x1)$"}};
    struct config cf = {.registration_names = names, .registration_name_count = 4};
    assert_null(signup_name_refused(&cf, "admin-of-verona"));
    assert_non_null(signup_name_refused(&cf, "my-admin"));
    assert_null(signup_name_refused(&cf, "romeo"));
    assert_non_null(signup_name_refused(&cf, "x1"));
    assert_null(signup_name_refused(&cf, "x1y")); /* fits none */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passwords),
        cmocka_unit_test(test_reserved),
        cmocka_unit_test(test_scripts),
        cmocka_unit_test(test_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
