#include "core/err.h"
#include "core/hash.h"
#include "core/list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Values of another implementation of SipHash-1-3 under the zero key (CPython 3.11, PYTHONHASHSEED=0). They may never
 * change: nodes of different versions agree on the ring by them. */
static void stable_values(void **state)
{
    (void)state;
    unsigned char bytes[64];
    for (int i = 0; i < 64; i++)
        bytes[i] = (unsigned char)i;
    assert_int_equal(hash_stable("a", 1), 0x407448d2b89b1813);
    assert_int_equal(hash_stable("abcdefg", 7), 0x6db12aae9070f506);
    assert_int_equal(hash_stable("abcdefgh", 8), 0x3f7b849c0b8e35ea);
    assert_int_equal(hash_stable("abcdefghi", 9), 0xf89b34a3d11eb6e5);
    assert_int_equal(hash_stable("juliet@example.com", 18), 0x4708bab6adb0ea05);
    assert_int_equal(hash_stable(bytes, 64), 0x75e05fd5bbc870c6);
}

static const char *self;

/* What a fresh process prints for the seeded hash of "x". */
static void fresh_process(char *out, size_t n)
{
    char command[4200];
    snprintf(command, sizeof command, "'%s' seeded", self);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_non_null(fgets(out, (int)n, f));
    pclose(f);
}

static void seed_differs_between_processes(void **state)
{
    (void)state;
    char a[32], b[32];
    fresh_process(a, sizeof a);
    fresh_process(b, sizeof b);
    assert_string_not_equal(a, b);
    assert_int_equal(hash_seeded("x", 1), hash_seeded("x", 1));
    assert_int_not_equal(hash_seeded("x", 1), hash_seeded("y", 1));
    assert_int_not_equal(hash_seeded("x", 1), hash_stable("x", 1));
}

struct entry {
    struct hash_node node;
    int key, seen;
};

static uint64_t hash_of(int key)
{
    return hash_seeded(&key, sizeof key);
}

static struct entry *find(const struct hash_table *t, int key, uint64_t hash)
{
    for (struct hash_node *n = hash_find(t, hash); n; n = hash_next(n))
        if (container_of(n, struct entry, node)->key == key)
            return container_of(n, struct entry, node);
    return NULL;
}

static void insert_find_remove(void **state)
{
    (void)state;
    enum { N = 5000 };
    static struct entry e[N];
    struct hash_table t = {0};
    assert_null(hash_find(&t, 1));
    for (int i = 0; i < N; i++) {
        e[i].key = i;
        hash_insert(&t, &e[i].node, hash_of(i));
    }
    assert_int_equal(t.count, N);
    for (int i = 0; i < N; i++)
        assert_ptr_equal(find(&t, i, hash_of(i)), &e[i]);
    assert_null(find(&t, N, hash_of(N)));
    for (int i = 0; i < N; i += 2)
        hash_remove(&t, &e[i].node);
    assert_int_equal(t.count, N / 2);
    for (int i = 0; i < N; i++)
        assert_ptr_equal(find(&t, i, hash_of(i)), i % 2 ? &e[i] : NULL);
    hash_free(&t);
    assert_null(hash_find(&t, 1));
}

/* Same full hash, and same slot with another hash: found by key. */
static void collisions(void **state)
{
    (void)state;
    struct entry e[6] = {0};
    struct hash_table t = {0};
    for (int i = 0; i < 6; i++) {
        e[i].key = i;
        hash_insert(&t, &e[i].node, i < 4 ? 5 : 5 + 16);
    }
    for (int i = 0; i < 4; i++)
        assert_ptr_equal(find(&t, i, 5), &e[i]);
    assert_null(find(&t, 4, 5));
    assert_ptr_equal(find(&t, 4, 21), &e[4]);
    hash_remove(&t, &e[2].node);
    assert_null(find(&t, 2, 5));
    assert_ptr_equal(find(&t, 0, 5), &e[0]);
    hash_free(&t);
}

static void each_once_even_when_removed(void **state)
{
    (void)state;
    enum { N = 1000 };
    static struct entry e[N];
    struct hash_table t = {0};
    hash_for_each (n, &t)
        fail();
    for (int i = 0; i < N; i++)
        hash_insert(&t, &e[i].node, hash_of(i) % 100); /* long chains too */
    hash_for_each (n, &t) {
        container_of(n, struct entry, node)->seen++;
        hash_remove(&t, n);
    }
    assert_int_equal(t.count, 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(e[i].seen, 1);
    hash_free(&t);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "seeded") == 0) {
        printf("%llx\n", (unsigned long long)hash_seeded("x", 1));
        return 0;
    }
    static char path[4096];
    CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0, "who am I?");
    self = path;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stable_values),
        cmocka_unit_test(seed_differs_between_processes),
        cmocka_unit_test(insert_find_remove),
        cmocka_unit_test(collisions),
        cmocka_unit_test(each_once_even_when_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
