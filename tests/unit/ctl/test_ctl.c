/* rookeryctl's CSV and its output. The protocol: tests/unit/control. */
#include "ctl/ctl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void csv(void **state)
{
    (void)state;
    static const struct {
        const char *line, *local, *password, *why;
    } cases[] = {
        {"ann,secret\n", "ann", "secret", NULL},
        {"ann,secret", "ann", "secret", NULL},
        {"\"ann\",\"a,b\"\r\n", "ann", "a,b", NULL},
        {"ann,\"say \"\"hi\"\", \"\n", "ann", "say \"hi\", ", NULL},
        {"\"\",\"\"\"\"", "", "\"", NULL},
        {"ann, p w ", "ann", " p w ", NULL},
        {"ann,", "ann", "", NULL},
        {"ann\n", NULL, NULL, "no password"},
        {"\"ann\"\n", NULL, NULL, "no password"},
        {"", NULL, NULL, "no password"},
        {"ann,a,b\n", NULL, NULL, "more than two fields"},
        {"ann,\"a\",\n", NULL, NULL, "more than two fields"},
        {"ann,\"a\n", NULL, NULL, "the closing quote is missing"},
        {"\"ann,a\n", NULL, NULL, "the closing quote is missing"},
        {"ann,\"a\"\"\n", NULL, NULL, "the closing quote is missing"},
        {"ann,\"a\"b\n", NULL, NULL, "text behind the closing quote"},
        {"ann,a\"b\n", NULL, NULL, "a quote inside of a field without quotes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *line = strdup(cases[i].line), *local, *password;
        const char *why = NULL;
        bool ok = csv_line(line, &local, &password, &why);
        assert_int_equal(ok, !cases[i].why);
        if (ok) {
            assert_string_equal(local, cases[i].local);
            assert_string_equal(password, cases[i].password);
        } else {
            assert_string_equal(why, cases[i].why);
        }
        free(line);
    }
}

static void prints(const char *json, const char *expected)
{
    struct buf out = {0};
    json_t *j = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(j);
    output_write(&out, j);
    assert_string_equal(out.len ? buf_cstr(&out) : "", expected);
    json_decref(j);
    buf_free(&out);
}

static void output(void **state)
{
    (void)state;
    prints("null", "");
    prints("\"done\"", "done\n");
    prints("[]", "");
    prints("[\"a\", 5, true, null]", "a\n5\nyes\n-\n");
    prints("{\"version\": \"1\", \"up\": 12, \"idle\": \"\"}", "version  1\nup       12\nidle\n");
    prints("[{\"jid\": \"j\\u00fcrgen\", \"n\": 1}, {\"jid\": \"a\", \"more\": false}]",
           "jid     n  more\nj\xc3\xbcrgen  1  -\na       -  no\n");
    prints("{\"workers\": [{\"id\": 0}, {\"id\": 10}], \"name\": \"x\"}", "name  x\n\nworkers\nid\n0\n10\n");
    prints("[\"\\u001b[31m\\u009bx\\n\"]", "?[31m??x?\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(csv), cmocka_unit_test(output)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
