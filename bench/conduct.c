#include "conduct.h"

#include "fault.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MEMORY_EVERY_S = 5, STEP_MS = 20 };

static struct {
    struct measured *m;
    struct tally *spare, interval; /* interval: since the last row */
    struct server_sample server, server_last, phase_server;
    double own_last, phase_own;
    uint64_t row_at, phase_at;
    unsigned rows, online;
    int phase;
    bool progress;
} at;

enum kind main_kind(const struct scenario *s)
{
    static const struct {
        enum activity activity;
        enum kind kind;
    } order[] = {{ACT_MESSAGE, KIND_MESSAGE}, {ACT_GROUP, KIND_GROUP},   {ACT_PRESENCE, KIND_PRESENCE},
                 {ACT_ARCHIVE, KIND_ARCHIVE}, {ACT_ROSTER, KIND_ROSTER}, {ACT_RECONNECT, KIND_RETURN},
                 {ACT_LOGIN, KIND_LOGIN},     {ACT_PING, KIND_PING}};
    for (unsigned i = 0; i < sizeof order / sizeof *order; i++)
        for (unsigned p = 0; p < s->phase_count; p++)
            if (s->phases[p].measure && s->phases[p].plan[order[i].activity].on)
                return order[i].kind;
    return KIND_LOGIN;
}

json_t *rounded(double value, int decimals)
{
    char text[64];
    snprintf(text, sizeof text, "%.*f", decimals, value);
    return decimals ? json_real(strtod(text, NULL)) : json_integer((json_int_t)strtod(text, NULL));
}

static double since_start(uint64_t ns)
{
    return ns > run.start ? (double)(ns - run.start) / 1e9 : 0;
}

/* ---- taking what the lanes have counted ---- */

static bool measured(int phase)
{
    return phase >= 0 && phase < (int)run.scenario.phase_count && run.scenario.phases[phase].measure;
}

/* Drain belongs to the last phase. */
static struct span *span_now(void)
{
    int last = (int)run.scenario.phase_count - 1;
    return &at.m->phases[at.phase < 0 ? 0 : at.phase > last ? last : at.phase];
}

static void collect(void)
{
    at.online = 0;
    for (unsigned i = 0; i < run.lane_count; i++) {
        struct lane *l = &run.lanes[i];
        pthread_mutex_lock(&l->lock);
        struct tally *full = l->tally;
        l->tally = at.spare;
        at.online += l->online;
        pthread_mutex_unlock(&l->lock);
        tally_merge(&at.interval, full);
        tally_merge(&span_now()->tally, full);
        memset(full, 0, sizeof *full);
        at.spare = full;
    }
}

static uint64_t total(enum counter c)
{
    uint64_t n = at.m->total.count[c];
    for (unsigned p = 0; p < run.scenario.phase_count; p++)
        n += at.m->phases[p].tally.count[c];
    return n;
}

/* ---- a row a second ---- */

static const char *phase_name(void)
{
    return at.phase < 0                               ? "start"
           : at.phase < (int)run.scenario.phase_count ? run.scenario.phases[at.phase].name
                                                      : "drain";
}

static void add_counts(json_t *row, const struct tally *t)
{
    static const enum counter shown[] = {C_SENT,          C_REFUSED, C_RECEIVED, C_ERRORS,
                                         C_FAILED_LOGINS, C_CUT,     C_WIRE_IN,  C_WIRE_OUT};
    for (int k = 0; k < KINDS; k++)
        if (t->latency[k].count)
            json_object_set_new(row, kind_names[k], json_integer((json_int_t)t->latency[k].count));
    for (unsigned i = 0; i < sizeof shown / sizeof *shown; i++)
        if (t->count[shown[i]])
            json_object_set_new(row, counter_names[shown[i]], json_integer((json_int_t)t->count[shown[i]]));
}

static json_t *make_row(uint64_t now, double seconds)
{
    const struct tally *t = &at.interval;
    const struct hist *h = &t->latency[main_kind(&run.scenario)];
    json_t *row = json_object();
    json_object_set_new(row, "t", rounded(since_start(now), 2));
    json_object_set_new(row, "phase", json_string(phase_name()));
    json_object_set_new(row, "online", json_integer(at.online));
    add_counts(row, t);
    if (h->count) {
        json_object_set_new(row, "p50_ms", rounded((double)hist_quantile(h, 0.5) / 1e6, 3));
        json_object_set_new(row, "p99_ms", rounded((double)hist_quantile(h, 0.99) / 1e6, 3));
        json_object_set_new(row, "max_ms", rounded((double)h->max / 1e6, 3));
    }
    json_object_set_new(row, "late_ms", rounded((double)t->late.max / 1e6, 3));
    json_object_set_new(row, "generator_percent", rounded(100 * (own_cpu() - at.own_last) / seconds, 1));
    json_t *cpu = json_object();
    for (unsigned r = 0; r < server_roles(); r++)
        json_object_set_new(cpu, server_role(r),
                            rounded(100 * (at.server.cpu[r] - at.server_last.cpu[r]) / seconds, 1));
    json_object_set_new(row, "cpu_percent", cpu);
    if (server_roles())
        json_object_set_new(row, "pss_kib", rounded(at.server.kib_all, 0));
    return row;
}

static void print_progress(double seconds)
{
    const struct tally *t = &at.interval;
    enum kind kind = main_kind(&run.scenario);
    fprintf(stderr,
            "\r\033[K%-10s %5.0f s  %u online  %.0f %s/s  p99 %.1f ms  %llu logins  %llu errors  late %.1f ms  "
            "server %.0f %%  generator %.0f %%",
            phase_name(), since_start(now_ns()), at.online, (double)t->latency[kind].count / seconds, kind_names[kind],
            (double)hist_quantile(&t->latency[kind], 0.99) / 1e6, (unsigned long long)t->count[C_LOGINS],
            (unsigned long long)(t->count[C_ERRORS] + t->count[C_FAILED_LOGINS] + t->count[C_CUT]),
            (double)t->late.max / 1e6, 100 * (at.server.cpu_all - at.server_last.cpu_all) / seconds,
            100 * (own_cpu() - at.own_last) / seconds);
    fflush(stderr);
}

static void end_row(uint64_t now)
{
    double seconds = (double)(now - at.row_at) / 1e9;
    collect();
    server_sample(&at.server, at.rows++ % MEMORY_EVERY_S == 0);
    json_array_append_new(at.m->seconds, make_row(now, seconds));
    if (at.progress)
        print_progress(seconds);
    memset(&at.interval, 0, sizeof at.interval);
    at.server_last = at.server;
    at.own_last = own_cpu();
    at.row_at = now;
}

/* Lets time pass, at most until then; rows and faults happen meanwhile. */
static void pass_until(uint64_t until)
{
    uint64_t now = now_ns(), next = faults_turn(now), step = now + STEP_MS * SECOND / 1000;
    next = step < next ? step : next;
    next = until < next ? until : next;
    if (next > now)
        usleep((useconds_t)((next - now) / 1000) + 1);
    now = now_ns();
    if (now >= at.row_at + SECOND)
        end_row(now);
}

/* ---- phases ---- */

static bool lanes_done(void)
{
    bool done = true;
    for (unsigned i = 0; i < run.lane_count; i++) {
        struct lane *l = &run.lanes[i];
        pthread_mutex_lock(&l->lock);
        done = done && l->done && l->phase == run.phase;
        pthread_mutex_unlock(&l->lock);
    }
    return done;
}

static void phase_begin(int phase)
{
    uint64_t now = now_ns();
    server_sample(&at.phase_server, false);
    at.phase_own = own_cpu();
    at.phase_at = now;
    at.phase = phase;
    if (phase < (int)run.scenario.phase_count) {
        at.m->phase_start[phase] = since_start(now);
        if (measured(phase) && at.m->first_measured < 0)
            at.m->first_measured = since_start(now);
        faults_phase_begins(&run.scenario, (unsigned)phase, now);
    }
    run.phase_start = now;
    run.phase = phase;
}

/* What the phase cost; the drain's part is added to the last phase. Memory is read: at.server has it for that moment.
 */
static void phase_end_at(uint64_t end)
{
    struct span *span = span_now();
    struct server_sample server = at.server;
    collect();
    server_sample(&server, true);
    span->seconds += (double)(end - at.phase_at) / 1e9;
    span->cpu += server.cpu_all - at.phase_server.cpu_all;
    span->own_cpu += own_cpu() - at.phase_own;
    for (unsigned r = 0; r < server_roles(); r++)
        span->role_cpu[r] += server.cpu[r] - at.phase_server.cpu[r];
    if (at.phase < (int)run.scenario.phase_count) {
        span->online = at.online;
        span->kib = server.kib_all;
    }
}

/* The server offers nothing of what the phase wants. */
static bool nothing_left(const struct phase *p)
{
    unsigned wanted = 0;
    for (unsigned a = 0; a < ACTIVITIES; a++)
        wanted |= p->plan[a].on ? 1u << a : 0;
    return wanted && !(wanted & ~run.not_offered);
}

/* An impatient user's signal ends the phases, so that all streams are closed in order: a server would keep resumable
 * sessions, and give them what the next run sends. */
static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
    signal(number, SIG_DFL);
}

static void run_phase(unsigned i)
{
    const struct phase *p = &run.scenario.phases[i];
    phase_begin((int)i);
    uint64_t until = at.phase_at + (uint64_t)(p->seconds * 1e9);
    while (now_ns() < until && !interrupted && !(p->until_done && lanes_done()) && !nothing_left(p))
        pass_until(until);
    collect(); /* before the next phase begins to count */
    phase_end_at(now_ns());
    if (measured((int)i))
        at.m->end = since_start(now_ns());
}

/* Presences on their way. Who went had not all that was expected, and who came may have had what was not: then drain()
 * waits in vain, or not long enough (README.md: presence_missing). */
static uint64_t unheard(void)
{
    uint64_t expected = total(C_PRESENCE_EXPECTED), received = total(C_PRESENCE_RECEIVED);
    return expected > received ? expected - received : 0;
}

static uint64_t outstanding(void)
{
    uint64_t missing = total(C_SENT) - total(C_RECEIVED) - total(C_MISSED), unsent = total(C_CREATED) - total(C_SENT);
    bool acks = run.scenario.client.sm && !(run.not_offered & NO_SM) && !run.config.relay;
    return missing + unsent + unheard() + (acks ? total(C_SENT) - total(C_ACKED) : 0);
}

/* Until everything that was sent is there, or nothing has come for a while. */
static void drain(void)
{
    uint64_t patience = (uint64_t)(run.scenario.drain * 1e9);
    phase_begin(PHASE_DRAIN);
    uint64_t last = at.phase_at, before = UINT64_MAX;
    while (now_ns() < last + patience && !interrupted) {
        collect();
        uint64_t now = outstanding();
        if (now != before) /* the first time too: lanes that were late may have held us up */
            last = now_ns();
        before = now;
        if (now == 0)
            break;
        pass_until(last + patience);
    }
    phase_end_at(last);
}

static unsigned sessions_away(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < run.lane_count; i++) {
        struct lane *l = &run.lanes[i];
        pthread_mutex_lock(&l->lock);
        n += l->returning_count + l->logging_in;
        pthread_mutex_unlock(&l->lock);
    }
    return n;
}

/* Sessions that may be resumed come back, to be closed in order: else the server would keep them, and give them what
 * the next run sends. */
static void bring_home(void)
{
    uint64_t until = now_ns() + (uint64_t)(run.scenario.drain * 1e9);
    while (run.scenario.client.resume && !interrupted && sessions_away() && now_ns() < until)
        pass_until(until);
}

static void sum_up(struct measured *m)
{
    for (unsigned i = 0; i < run.scenario.phase_count; i++) {
        const struct phase *p = &run.scenario.phases[i];
        const struct span *s = &m->phases[i];
        tally_merge(&m->total, &s->tally);
        if (p->plan[ACT_CONNECT].on || p->plan[ACT_LOGIN].on) {
            m->login_cpu += s->cpu;
            m->logins_with_cpu += s->tally.count[C_LOGINS];
        }
        if (!p->measure)
            continue;
        tally_merge(&m->all.tally, &s->tally);
        m->all.seconds += s->seconds;
        m->all.cpu += s->cpu;
        m->all.own_cpu += s->own_cpu;
        m->all.online = s->online;
        m->all.kib = s->kib;
        for (unsigned r = 0; r < server_roles(); r++)
            m->all.role_cpu[r] += s->role_cpu[r];
    }
}

void conduct(struct measured *m, unsigned threads, bool progress)
{
    at.m = m;
    at.progress = progress;
    at.phase = -1;
    at.spare = calloc(1, sizeof *at.spare);
    m->seconds = json_array();
    m->first_measured = -1;
    server_sample(&at.server, true);
    m->kib_before = at.server.kib_all;
    at.server_last = at.server;
    at.own_last = own_cpu();
    lanes_start(threads);
    at.row_at = run.start;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    for (unsigned i = 0; i < run.scenario.phase_count && !interrupted; i++)
        run_phase(i);
    drain();
    bring_home();
    end_row(now_ns());
    lanes_stop();
    collect();
    faults_finish(30);
    sum_up(m);
    if (progress)
        fputs("\r\033[K", stderr);
}
