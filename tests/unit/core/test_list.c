#include "core/list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct item {
    char name;
    struct list link;
};

static const char *names(const struct list *head)
{
    static char s[16];
    size_t n = 0;
    list_for_each (pos, head)
        s[n++] = container_of(pos, struct item, link)->name;
    s[n] = 0;
    return s;
}

static void add_and_delete(void **state)
{
    (void)state;
    struct list head;
    struct item a = {.name = 'a'}, b = {.name = 'b'}, c = {.name = 'c'};
    list_init(&head);
    assert_true(list_empty(&head));
    assert_null(list_first(&head));
    assert_false(list_linked(&a.link));
    list_del(&a.link); /* in none */
    list_add_tail(&head, &a.link);
    list_add_tail(&head, &b.link);
    list_add_tail(&head, &c.link);
    assert_true(list_linked(&b.link));
    assert_string_equal(names(&head), "abc");
    assert_ptr_equal(list_first(&head), &a.link);
    list_del(&b.link);
    list_del(&b.link);
    assert_false(list_linked(&b.link));
    assert_string_equal(names(&head), "ac");
    list_add_tail(&head, &b.link);
    list_del(&a.link);
    assert_string_equal(names(&head), "cb");
    list_del(&c.link);
    list_del(&b.link);
    assert_true(list_empty(&head));
}

static void safe_against_removal(void **state)
{
    (void)state;
    struct list head;
    struct item it[5];
    list_init(&head);
    for (int i = 0; i < 5; i++) {
        it[i] = (struct item){.name = (char)('0' + i)};
        list_add_tail(&head, &it[i].link);
    }
    list_for_each_safe (pos, &head) {
        if (container_of(pos, struct item, link)->name % 2 == 0)
            list_del(pos);
    }
    assert_string_equal(names(&head), "13");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(add_and_delete), cmocka_unit_test(safe_against_removal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
