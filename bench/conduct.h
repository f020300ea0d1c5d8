/* The main thread's part of a run: phases, a sample a second, faults, the end; and what came out of it, as one JSON
 * object from which everything else (table, HTML, comparison) is made. */
#ifndef BENCH_CONDUCT_H
#define BENCH_CONDUCT_H

#include "engine.h"
#include "server.h"

#include <jansson.h>

/* What was measured in one phase, or in all measured ones. */
struct span {
    struct tally tally;
    double seconds, cpu, own_cpu, role_cpu[ROLES_MAX];
    unsigned online; /* at its end */
    double kib;
};

struct measured {
    struct span phases[MAX_PHASES], all; /* all: the measured ones, and the drain when the last phase is one of them */
    struct tally total;                  /* whether measured or not */
    double first_measured, end;          /* seconds since the run's start; end: of the last measured phase */
    double phase_start[MAX_PHASES];
    double kib_before, login_cpu;
    uint64_t logins_with_cpu;
    json_t *seconds; /* a row each */
};

/* Runs it. progress: a line on standard error each second. */
void conduct(struct measured *m, unsigned threads, bool progress);
/* The operations that the scenario is about: what "units" and figures without a kind mean. */
enum kind main_kind(const struct scenario *s);

/* result.c: the whole result; label names the server in comparisons. */
json_t *result_make(const struct measured *m, const char *label);
/* Checks the thresholds, writes "thresholds" and "ok" into the result; is everything as it should be? */
bool result_judge(json_t *result, const struct scenario *s);
void result_print(const json_t *result, FILE *to);
/* Rounded, for people and for small files. */
json_t *rounded(double value, int decimals);

#endif
