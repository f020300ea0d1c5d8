#include "core/bytes.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void holds_a_copy(void **state)
{
    (void)state;
    char text[] = "a\0b";
    struct bytes *b = bytes_new(text, 3);
    text[0] = 'x';
    assert_int_equal(b->len, 3);
    assert_memory_equal(b->data, "a\0b\0", 4);
    bytes_unref(&b);
    assert_null(b);
    bytes_unref(&b);
    b = bytes_new(NULL, 10);
    memset(b->data, 'y', 10);
    assert_string_equal(b->data, "yyyyyyyyyy");
    bytes_unref(&b);
    b = bytes_new("", 0);
    assert_string_equal(b->data, "");
    bytes_unref(&b);
}

static void lives_while_referenced(void **state)
{
    (void)state;
    struct bytes *a = bytes_new("x", 1), *b = bytes_ref(a);
    assert_ptr_equal(a, b);
    bytes_unref(&a);
    assert_null(a);
    assert_string_equal(b->data, "x");
    assert_int_equal(atomic_load(&b->refs), 1);
    bytes_unref(&b);
}

static void *take_and_drop(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        struct bytes *mine = bytes_ref(arg);
        bytes_unref(&mine);
    }
    struct bytes *given = arg;
    bytes_unref(&given);
    return NULL;
}

/* The sanitizers tell when the last of several threads does not free, or one too many does. */
static void threads_share(void **state)
{
    (void)state;
    struct bytes *b = bytes_new("shared", 6);
    pthread_t t[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, take_and_drop, bytes_ref(b));
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(atomic_load(&b->refs), 1);
    bytes_unref(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_a_copy),
        cmocka_unit_test(lives_while_referenced),
        cmocka_unit_test(threads_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
