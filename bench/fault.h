/* Commands that run in the middle of a measurement: --at 30s 'kill ...'. Main thread only. */
#ifndef BENCH_FAULT_H
#define BENCH_FAULT_H

#include "scenario.h"

#include <stdint.h>
#include <sys/types.h>

enum { FAULTS_MAX = 32 };

struct fault {
    const char *when, *command;
    char phase[32]; /* counted from this one's begin; empty: from that of the first measured phase */
    double seconds; /* after that */
    uint64_t at;    /* known when the phase begins; 0: not yet */
    uint64_t started, ended;
    pid_t pid;
    int exit_code; /* of the command; -1: a signal ended it, or it never came to it */
};

extern struct fault faults[FAULTS_MAX];
extern unsigned fault_count;

/* when: "30s", "500ms", "2min", "PHASE+5s". */
bool fault_add(const char *when, const char *command);
/* Does every fault name a phase of the scenario? */
bool faults_check(const struct scenario *s, FILE *errors);
void faults_phase_begins(const struct scenario *s, unsigned phase, uint64_t now);
/* Starts what is due and collects what has ended; the time of the next one, UINT64_MAX if there is none. */
uint64_t faults_turn(uint64_t now);
/* Waits for those that run, so many seconds. */
void faults_finish(double seconds);

#endif
