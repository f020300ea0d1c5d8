#include "core/err.h"
#include "core/log.h"

#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64], rotated[72];
static char text[1 << 20];
static const struct log c2s = {"c2s", 42};

static int setup(void **state)
{
    (void)state;
    strcpy(path, "/tmp/rookery-log-XXXXXX");
    int fd = mkstemp(path);
    close(fd);
    snprintf(rotated, sizeof rotated, "%s.1", path);
    return fd < 0;
}

static int tear_down(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_LOGFMT, NULL);
    unlink(path);
    unlink(rotated);
    return 0;
}

static char *contents(const char *of)
{
    FILE *f = fopen(of, "r");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    fclose(f);
    return text;
}

/* The only line, after its time, which is checked. */
static char *line(void)
{
    char *s = contents(path);
    int y, mo, d, h, mi, sec, ms, n = 0;
    sscanf(s, "time=%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &y, &mo, &d, &h, &mi, &sec, &ms, &n);
    assert_int_equal(n, (int)strlen("time=2024-01-01T00:00:00.000Z "));
    assert_true(y >= 2024 && mo <= 12 && d <= 31 && h < 24 && mi < 60 && sec <= 60);
    return s + n;
}

static void logfmt_fields(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_LOGFMT, path);
    log_info(&c2s, "bound", "jid", "a@b/c", "text", "two words", "none", "", "null", (char *)NULL, "eq", "a=b");
    assert_string_equal(line(),
                        "level=info kind=c2s id=42 event=bound jid=a@b/c text=\"two words\" none=\"\" null=\"\" "
                        "eq=\"a=b\"\n");
}

static void no_id_no_kind(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_LOGFMT, path);
    log_error(NULL, "x");
    assert_string_equal(line(), "level=error event=x\n");
}

static void hostile_values_are_escaped(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_LOGFMT, path);
    log_warn(&c2s, "e", "a", "x\ny\r\t\"\\", "b", "\x1b[31m\x7f", "c", "\xff\xc3(", "d", "\xc2\x9b\xe2\x80\xae", "e",
             "zoë", "f", "\xc0\x8a\xed\xa0\x80\xe2\x82");
    assert_string_equal(line(), "level=warn kind=c2s id=42 event=e a=\"x\\ny\\r\\t\\\"\\\\\" b=\"\\u001b[31m\\u007f\" "
                                "c=\"\\xff\\xc3(\" d=\"\\u009b\\u202e\" e=\"zoë\" "
                                "f=\"\\xc0\\x8a\\xed\\xa0\\x80\\xe2\\x82\"\n");
}

/* Every byte on its own, in both formats: one printable line of valid UTF-8; JSON parses. */
static void every_byte(void **state)
{
    (void)state;
    for (int format = LOG_LOGFMT; format <= LOG_JSON; format++) {
        unlink(path);
        log_setup(LOG_INFO, (enum log_format)format, path);
        char value[256];
        for (int i = 0; i < 255; i++)
            value[i] = (char)(i + 1);
        value[255] = 0;
        log_info(&c2s, "all", "v", value);
        char *s = contents(path);
        assert_ptr_equal(strchr(s, '\n'), s + strlen(s) - 1);
        for (char *p = s; p[1]; p++)
            assert_in_range((unsigned char)*p, ' ', '~');
        if (format == LOG_JSON) {
            json_t *j = json_loads(s, 0, NULL);
            assert_non_null(j);
            json_decref(j);
        }
    }
}

static void json_fields(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_JSON, path);
    log_info(&c2s, "bound", "jid", "a@b", "v", "\"q\"\n\x01\xff zoë", "n", (char *)NULL);
    json_t *j = json_loads(contents(path), 0, NULL);
    assert_non_null(j);
    assert_int_equal(json_object_size(j), 8);
    assert_string_equal(json_string_value(json_object_get(j, "level")), "info");
    assert_string_equal(json_string_value(json_object_get(j, "kind")), "c2s");
    assert_string_equal(json_string_value(json_object_get(j, "id")), "42");
    assert_string_equal(json_string_value(json_object_get(j, "event")), "bound");
    assert_string_equal(json_string_value(json_object_get(j, "v")), "\"q\"\n\x01\xef\xbf\xbd zoë");
    assert_string_equal(json_string_value(json_object_get(j, "n")), "");
    json_decref(j);
}

static void long_values_are_cut(void **state)
{
    (void)state;
    static char big[100000];
    for (int format = LOG_LOGFMT; format <= LOG_JSON; format++)
        for (int fill = 0; fill < 3; fill++) {
            memset(big, "a \x01"[fill], sizeof big - 1);
            unlink(path);
            log_setup(LOG_INFO, (enum log_format)format, path);
            log_info(&c2s, "big", "a", big, "b", big, "c", big, "d", big, "e", big, "f", "end");
            char *s = contents(path);
            size_t n = strlen(s);
            assert_in_range(n, 3000, 4096);
            assert_ptr_equal(strchr(s, '\n'), s + n - 1);
            assert_non_null(strstr(s, "...\""));
            if (format == LOG_JSON) {
                json_t *j = json_loads(s, 0, NULL);
                assert_non_null(j);
                json_decref(j);
            }
        }
}

/* Whatever is left of the line when a value comes: it never overflows and always ends well. */
static void line_ends_well_at_any_length(void **state)
{
    (void)state;
    static char v[4][1100];
    for (size_t n = 1; n < 1100; n += 7) {
        for (int i = 0; i < 4; i++)
            memset(v[i], 'x', n);
        unlink(path);
        log_setup(LOG_INFO, LOG_JSON, path);
        log_info(&c2s, "e", "a", v[0], "b", v[1], "c", v[2], "d", v[3], "e", "1", "f", "22", "g", "333", "h", "4444");
        json_t *j = json_loads(contents(path), 0, NULL);
        assert_non_null(j);
        json_decref(j);
    }
}

static void level_limits(void **state)
{
    (void)state;
    log_setup(LOG_WARN, LOG_LOGFMT, path);
    log_info(&c2s, "no");
    assert_string_equal(contents(path), "");
    log_level_set(LOG_DEBUG);
    log_debug(&c2s, "yes");
    assert_non_null(strstr(contents(path), "level=debug kind=c2s id=42 event=yes\n"));
}

static void reopen_follows_rotation(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_LOGFMT, path);
    log_info(&c2s, "one");
    assert_int_equal(rename(path, rotated), 0);
    log_info(&c2s, "two");
    log_reopen();
    log_info(&c2s, "three");
    assert_non_null(strstr(contents(rotated), "event=two\n"));
    assert_null(strstr(text, "three"));
    assert_non_null(strstr(line(), "event=three\n"));
}

static void numbers(void **state)
{
    (void)state;
    const char *a = log_num(INT64_MIN), *b = log_num(0), *c = log_num(77);
    assert_string_equal(a, "-9223372036854775808");
    assert_string_equal(b, "0");
    assert_string_equal(c, "77");
}

static void *writer(void *arg)
{
    for (int i = 0; i < 500; i++)
        log_info(&c2s, "n", "from", arg, "i", log_num(i));
    return NULL;
}

/* Lines of several threads, with rotations going on, are whole. */
static void threads_write_whole_lines(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_JSON, path);
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, writer, (void *)"abc");
    for (int i = 0; i < 20; i++) {
        log_level_set(LOG_INFO);
        log_reopen();
    }
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    int lines = 0;
    for (char *s = contents(path), *end; (end = strchr(s, '\n')); s = end + 1, lines++) {
        *end = 0;
        json_t *j = json_loads(s, 0, NULL);
        assert_non_null(j);
        json_decref(j);
    }
    assert_int_equal(lines, 1500);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(logfmt_fields),
        TEST(no_id_no_kind),
        TEST(hostile_values_are_escaped),
        TEST(every_byte),
        TEST(json_fields),
        TEST(long_values_are_cut),
        TEST(line_ends_well_at_any_length),
        TEST(level_limits),
        TEST(reopen_follows_rotation),
        TEST(numbers),
        TEST(threads_write_whole_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
