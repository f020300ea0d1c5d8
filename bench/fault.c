#include "fault.h"

#include "client.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct fault faults[FAULTS_MAX];
unsigned fault_count;

bool fault_add(const char *when, const char *command)
{
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"", 1}, {"s", 1}, {"ms", 0.001}, {"min", 60}};
    struct fault f = {.when = when, .command = command, .exit_code = -1};
    const char *plus = strchr(when, '+'), *number = plus ? plus + 1 : when;
    char *end;
    if (fault_count == FAULTS_MAX || (plus && (size_t)(plus - when) >= sizeof f.phase))
        return false;
    if (plus)
        snprintf(f.phase, sizeof f.phase, "%.*s", (int)(plus - when), when);
    f.seconds = strtod(number, &end);
    for (unsigned i = 0; i < sizeof units / sizeof *units && end != number; i++)
        if (strcmp(end, units[i].name) == 0) {
            f.seconds *= units[i].seconds;
            faults[fault_count++] = f;
            return f.seconds >= 0;
        }
    return false;
}

static bool first_measured(const struct scenario *s, unsigned phase)
{
    for (unsigned i = 0; i < phase; i++)
        if (s->phases[i].measure)
            return false;
    return s->phases[phase].measure;
}

static bool counted_from(const struct fault *f, const struct scenario *s, unsigned phase)
{
    return f->phase[0] ? strcmp(f->phase, s->phases[phase].name) == 0 : first_measured(s, phase);
}

bool faults_check(const struct scenario *s, FILE *errors)
{
    bool fine = true;
    for (unsigned i = 0; i < fault_count; i++) {
        bool found = false;
        for (unsigned p = 0; p < s->phase_count; p++)
            found = found || counted_from(&faults[i], s, p);
        if (!found)
            fprintf(errors, "--at %s: the scenario has no such phase\n", faults[i].when);
        fine = fine && found;
    }
    return fine;
}

void faults_phase_begins(const struct scenario *s, unsigned phase, uint64_t now)
{
    for (struct fault *f = faults; f < faults + fault_count; f++)
        if (!f->at && counted_from(f, s, phase))
            f->at = now + (uint64_t)(f->seconds * 1e9);
}

/* Its output goes where ours goes to, but never into a report on standard output. */
static void start(struct fault *f, uint64_t now)
{
    f->started = now;
    fprintf(stderr, "\n--at %s: %s\n", f->when, f->command);
    fflush(NULL);
    f->pid = fork();
    if (f->pid == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        signal(SIGPIPE, SIG_DFL);
        execl("/bin/sh", "sh", "-c", f->command, (char *)NULL);
        _exit(127);
    }
    if (f->pid < 0)
        f->ended = now;
}

static void collect(struct fault *f)
{
    int status;
    if (f->started && !f->ended && waitpid(f->pid, &status, WNOHANG) == f->pid) {
        f->ended = now_ns();
        f->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
}

uint64_t faults_turn(uint64_t now)
{
    uint64_t next = UINT64_MAX;
    for (struct fault *f = faults; f < faults + fault_count; f++) {
        if (f->at && !f->started && now >= f->at)
            start(f, now);
        collect(f);
        if (f->at && !f->started && f->at < next)
            next = f->at;
    }
    return next;
}

void faults_finish(double seconds)
{
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);
    for (struct fault *f = faults; f < faults + fault_count; f++)
        while (f->started && !f->ended && now_ns() < until) {
            collect(f);
            usleep(10000);
        }
}
