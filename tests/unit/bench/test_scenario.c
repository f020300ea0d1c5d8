/* bench/scenario: what is read, what every mistake is told as, changes by --set, thresholds. */
#include "scenario.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char good[] = "name: chat\n"
                           "about: two and two\n"
                           "sessions: 200\n"
                           "arrival: poisson\n"
                           "client: { sm: true, resume: true, reconnect: 1.5 }\n"
                           "phases:\n"
                           "  - { name: connect, until: done, measure: false, connect: { parallel: 32 } }\n"
                           "  - name: steady\n"
                           "    seconds: 30\n"
                           "    message: { rate: [100, 2000], body: 60, store: false }\n"
                           "    ping: { rate: 5 }\n"
                           "thresholds:\n"
                           "  - p99_ms < 50\n"
                           "  - lost == 0\n";

static void reads(void **state)
{
    (void)state;
    struct scenario s;
    assert_true(scenario_parse(&s, "x", good, strlen(good), stderr));
    assert_true(scenario_check(&s, stderr));
    assert_string_equal(s.name, "chat");
    assert_true(s.sessions == 200 && s.poisson && s.client.sm && s.client.resume && s.client.reconnect == 1.5);
    assert_true(s.client.presence && s.drain == 10); /* defaults */
    assert_int_equal(s.phase_count, 2);
    assert_true(s.phases[0].until_done && !s.phases[0].measure && s.phases[0].plan[ACT_CONNECT].parallel == 32);
    const struct phase *p = &s.phases[1];
    assert_true(p->seconds == 30 && p->measure && p->plan[ACT_MESSAGE].on && !p->plan[ACT_CONNECT].on);
    assert_true(p->plan[ACT_MESSAGE].rate[0] == 100 && p->plan[ACT_MESSAGE].rate[1] == 2000);
    assert_true(p->plan[ACT_MESSAGE].body == 60 && !p->plan[ACT_MESSAGE].store);
    assert_true(p->plan[ACT_PING].rate[0] == 5 && p->plan[ACT_PING].rate[1] == 5);
    assert_int_equal(s.threshold_count, 2);
    assert_string_equal(s.thresholds[0].figure, "p99_ms");
    assert_string_equal(s.thresholds[1].text, "lost == 0");
}

/* What the reader says; parsed and checked must have failed. */
static char *complaint(const char *yaml)
{
    char *text = NULL;
    size_t len = 0;
    struct scenario s;
    FILE *f = open_memstream(&text, &len);
    bool fine = scenario_parse(&s, "x.yml", yaml, strlen(yaml), f) && scenario_check(&s, f);
    fclose(f);
    assert_false(fine);
    return text;
}

static void tells_mistakes(void **state)
{
    (void)state;
#define HEAD   "name: x\nsessions: 4\n"
#define STEADY "phases:\n  - name: steady\n    seconds: 5\n"
    static const struct {
        const char *yaml, *said;
    } cases[] = {
        {"", "x.yml:1: the file is empty"},
        {"[1, 2]", "x.yml:1: scenario: a map is needed"},
        {"name: x\n", "name, sessions and phases are needed"},
        {"name: [\n", "x.yml:"},
        {"name: x\nsessions: many\n" STEADY, "x.yml:2: sessions: a whole number from 2 to 1e+06 is allowed"},
        {"name: x\nsessions: 2.5\n" STEADY, "x.yml:2: sessions: a whole number"},
        {HEAD "sessions: 5\n" STEADY, "x.yml:3: scenario: sessions is there twice"},
        {HEAD "colour: red\n" STEADY, "x.yml:3: scenario: no such key: colour; there are:\n    name, about, sessions"},
        {HEAD "arrival: random\n" STEADY, "x.yml:3: arrival: even or poisson is allowed"},
        {HEAD "client: { sm: yes }\n" STEADY, "x.yml:3: sm: false or true is allowed"},
        {HEAD "client: { resume: true }\n" STEADY, "resume needs sm"},
        {HEAD "phases: 3\n", "x.yml:3: phases: a list of phases is needed"},
        {HEAD "phases:\n  - seconds: 5\n", "x.yml:4: phase: a name of letters"},
        {HEAD "phases:\n  - name: a\n", "x.yml:4: phase a: seconds (or until: done) is needed"},
        {HEAD "phases:\n  - name: a\n    until: done\n", "until: done needs connect, login, make or group"},
        {HEAD STEADY "    message: { rate: -1 }\n",
         "x.yml:6: rate: a number from 0 to 1e+07, or [from, to] is allowed"},
        {HEAD STEADY "    message: { rate: [1, 2, 3] }\n", "x.yml:6: rate:"},
        {HEAD STEADY "    message: { page: 5 }\n",
         "x.yml:6: message: no such key: page; there are:\n    rate, window, accept, pairs"},
        {HEAD STEADY "    dance: {}\n",
         "x.yml:6: phase: no such key: dance; there are:\n    name, seconds, until, measure, connect"},
        {HEAD STEADY "    ping: {}\n", "phase steady: ping needs a rate"},
        {"name: x\nsessions: 5\n" STEADY, "sessions must be even"},
        {HEAD STEADY "    make: { contacts: 3 }\n", "contacts must be even"},
        {HEAD STEADY "    group: { occupants: 1 }\n", "x.yml:6: occupants: a whole number from 2 to 1000"},
        {HEAD STEADY "    group: { occupants: 5 }\n", "phase steady: occupants must be the same everywhere, at most"},
        {HEAD "phases:\n  - { name: a, until: done, group: { occupants: 2 } }\n"
              "  - { name: b, seconds: 5, group: { rate: 5, occupants: 4 } }\n",
         "phase b: occupants must be the same everywhere"},
        {HEAD STEADY "    group: { window: 4 }\n", "x.yml:6: group: no such key: window"},
        {HEAD "client: { rooms: '' }\n" STEADY, "x.yml:3: rooms:"},
        {HEAD STEADY "thresholds:\n  - p99_ms\n", "x.yml:7: thresholds: FIGURE < NUMBER"},
        {HEAD STEADY "thresholds:\n  - speed > 3\n", "x.yml:7: thresholds: no figure is called speed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *said = complaint(cases[i].yaml);
        if (!strstr(said, cases[i].said))
            fail_msg("%s\nsaid: %s\nnot: %s", cases[i].yaml, said, cases[i].said);
        free(said);
    }
}

static void sets(void **state)
{
    (void)state;
    struct scenario s;
    FILE *nowhere = fopen("/dev/null", "w");
    assert_true(scenario_parse(&s, "x", good, strlen(good), stderr));
    assert_true(scenario_set(&s, "sessions=20", stderr));
    assert_true(scenario_set(&s, "client.sm=false", stderr));
    assert_true(scenario_set(&s, "steady.seconds=2", stderr));
    assert_true(scenario_set(&s, "steady.message.rate=[5, 6]", stderr));
    assert_true(scenario_set(&s, "*.ping.rate=7", stderr));
    assert_true(s.sessions == 20 && !s.client.sm && s.phases[1].seconds == 2);
    assert_true(s.phases[1].plan[ACT_MESSAGE].rate[1] == 6 && s.phases[1].plan[ACT_PING].rate[0] == 7);
    static const char *const bad[] = {"sessions",          "sessions=x",           "steady=3",   "steady.ping.body=100",
                                      "nowhere.seconds=2", "steady.roster.rate=1", "sessions=[", "client.colour=1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (scenario_set(&s, bad[i], nowhere))
            fail_msg("%s was taken", bad[i]);
    fclose(nowhere);
}

static void thresholds(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
        bool met;
    } cases[] = {{"lost == 0", 0, true},   {"lost == 0", 1, false},    {"p99_ms < 50", 49.9, true},
                 {"p99_ms<50", 50, false}, {"p99_ms <= 50", 50, true}, {"sent > 10", 10, false},
                 {"sent >= 10", 10, true}, {"sent != 3", 3, false},    {"sent != 3", 4, true}};
    struct threshold t;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(threshold_parse(&t, cases[i].text));
        assert_int_equal(threshold_met(&t, cases[i].value), cases[i].met);
    }
    assert_false(threshold_parse(&t, "lost = 0"));
    assert_false(threshold_parse(&t, "lost == 0 and more"));
    assert_false(threshold_parse(&t, "lost =="));
}

/* All of bench/scenarios can be run. */
static void ours(void **state)
{
    (void)state;
    unsigned count = 0;
    char path[300];
    DIR *dir = opendir("bench/scenarios");
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        struct scenario s;
        snprintf(path, sizeof path, "bench/scenarios/%s", e->d_name);
        assert_true(scenario_read(&s, path, stderr));
        assert_true(scenario_check(&s, stderr));
        count++;
    }
    closedir(dir);
    assert_true(count >= 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),      cmocka_unit_test(tells_mistakes), cmocka_unit_test(sets),
        cmocka_unit_test(thresholds), cmocka_unit_test(ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
