#include "core/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void add_and_consume(void **state)
{
    (void)state;
    struct buf b = {0};
    assert_string_equal(buf_cstr(&b), "");
    buf_str(&b, "hello ");
    buf_add(&b, "world", 5);
    buf_add(&b, NULL, 0);
    buf_printf(&b, " %d%s", 7, "!");
    assert_string_equal(buf_cstr(&b), "hello world 7!");
    assert_int_equal(b.len, 14);
    buf_consume(&b, 6);
    assert_memory_equal(buf_data(&b), "world 7!", 8);
    assert_string_equal(buf_cstr(&b), "world 7!");
    buf_consume(&b, 8);
    assert_int_equal(b.len, 0);
    buf_free(&b);
    buf_free(&b);
    buf_str(&b, "again");
    assert_string_equal(buf_cstr(&b), "again");
    buf_free(&b);
}

static void reserve_then_wrote(void **state)
{
    (void)state;
    struct buf b = {0};
    char *p = buf_reserve(&b, 1000);
    memset(p, 'x', 1000);
    assert_int_equal(b.len, 0);
    buf_wrote(&b, 10);
    assert_string_equal(buf_cstr(&b), "xxxxxxxxxx");
    buf_free(&b);
}

static void printf_of_long_text(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_str(&b, "<");
    buf_printf(&b, "%010000d", 5);
    buf_str(&b, ">");
    assert_int_equal(b.len, 10002);
    assert_int_equal(strlen(buf_cstr(&b)), 10002);
    assert_string_equal(buf_cstr(&b) + 9999, "05>");
    buf_free(&b);
}

static void empty_large_buffer_gives_memory_back(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_reserve(&b, 100);
    buf_wrote(&b, 100);
    buf_consume(&b, 100);
    assert_non_null(b.mem); /* small: kept for the next stanza */
    memset(buf_reserve(&b, 100000), 'x', 100000);
    buf_wrote(&b, 100000);
    buf_consume(&b, 99999);
    assert_non_null(b.mem);
    buf_consume(&b, 1);
    assert_null(b.mem);
    assert_int_equal(b.cap, 0);
}

static void clear_keeps_memory(void **state)
{
    (void)state;
    struct buf b = {0};
    memset(buf_reserve(&b, 10000), 'x', 10000);
    buf_wrote(&b, 10000);
    buf_consume(&b, 1);
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_true(b.cap >= 10000);
    assert_string_equal(buf_cstr(&b), "");
    buf_free(&b);
}

/* A queue of numbers under random appends and consumes comes out as it went in, and its memory stays bounded. */
static void queue_keeps_order(void **state)
{
    (void)state;
    struct buf b = {0};
    unsigned seed = 7;
    uint32_t in = 0, out = 0;
    for (int round = 0; round < 20000; round++) {
        for (int n = rand_r(&seed) % 20; n > 0; n--, in++)
            buf_add(&b, &in, sizeof in);
        for (int n = rand_r(&seed) % 22; n > 0 && b.len; n--, out++) {
            uint32_t got;
            memcpy(&got, buf_data(&b), sizeof got);
            assert_int_equal(got, out);
            buf_consume(&b, sizeof got);
        }
        assert_int_equal(b.len, (in - out) * sizeof in);
    }
    assert_true(in > 100000);
    assert_true(b.cap < 64 * 1024);
    buf_free(&b);
}

/* A slow reader's long queue: small appends and consumes do not move all of it each time. */
static void long_queue_is_seldom_moved(void **state)
{
    (void)state;
    struct buf b = {0};
    enum { LONG = 1 << 20 };
    memset(buf_reserve(&b, LONG), 'x', LONG);
    buf_wrote(&b, LONG);
    int moves = 0;
    for (int i = 0; i < 10000; i++) {
        buf_consume(&b, 100);
        size_t off = b.off;
        memset(buf_reserve(&b, 100), 'y', 100);
        buf_wrote(&b, 100);
        moves += b.off < off;
    }
    assert_int_equal(b.len, LONG);
    assert_true(moves <= 4);
    assert_true(b.cap <= 4 * LONG);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(add_and_consume),
        cmocka_unit_test(reserve_then_wrote),
        cmocka_unit_test(printf_of_long_text),
        cmocka_unit_test(empty_large_buffer_gives_memory_back),
        cmocka_unit_test(clear_keeps_memory),
        cmocka_unit_test(queue_keeps_order),
        cmocka_unit_test(long_queue_is_seldom_moved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
