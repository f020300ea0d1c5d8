/* From what was measured to one JSON object, its thresholds, and the table in the terminal. */
#include "conduct.h"
#include "fault.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* ---- figures ---- */

static void set(json_t *o, const char *name, double value, int decimals)
{
    json_object_set_new(o, name, rounded(value, decimals));
}

/* KIND_count, KIND_per_s, KIND_p50_ms...; prefix "" for the main kind. */
static void set_kind(json_t *o, const char *prefix, const struct hist *h, double seconds)
{
    char name[64];
    snprintf(name, sizeof name, "%scount", prefix);
    set(o, name, (double)h->count, 0);
    snprintf(name, sizeof name, "%sper_s", prefix);
    set(o, name, seconds > 0 ? (double)h->count / seconds : 0, 1);
    for (int q = 0; q < QUANTILES && h->count; q++) { /* nothing done is not "done at once" */
        snprintf(name, sizeof name, "%s%s_ms", prefix, quantiles[q].name);
        set(o, name, (double)hist_quantile(h, quantiles[q].q) / 1e6, 3);
    }
}

static void set_span(json_t *o, const struct span *s, bool with_main)
{
    enum kind kind = main_kind(&run.scenario);
    double units = (double)s->tally.latency[kind].count;
    set(o, "seconds", s->seconds, 2);
    if (with_main)
        set_kind(o, "", &s->tally.latency[kind], s->seconds);
    for (int k = 0; k < KINDS; k++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "%s_", kind_names[k]);
        if (s->tally.latency[k].count)
            set_kind(o, prefix, &s->tally.latency[k], s->seconds);
    }
    if (server_roles() && s->seconds > 0)
        set(o, "server_cpu_percent", 100 * s->cpu / s->seconds, 1);
    if (server_roles() && units > 0)
        set(o, "server_cpu_us_per_unit", s->cpu * 1e6 / units, 2);
    if (s->seconds >= 0.1)
        set(o, "generator_cpu_percent", 100 * s->own_cpu / s->seconds, 1);
    if (units > 0)
        set(o, "generator_cpu_us_per_unit", s->own_cpu * 1e6 / units, 2);
    set(o, "generator_late_p99_ms", (double)hist_quantile(&s->tally.late, 0.99) / 1e6, 3);
    set(o, "generator_late_max_ms", (double)s->tally.late.max / 1e6, 3);
}

/* What happened to the operations of one second, all lanes together. */
static struct second second_sum(unsigned i)
{
    struct second sum = {0};
    for (unsigned l = 0; l < run.lane_count; l++) {
        if (i >= run.lanes[l].second_count)
            continue;
        const struct second *s = &run.lanes[l].seconds[i];
        sum.due += s->due, sum.done += s->done, sum.served += s->served;
        sum.worst = s->worst > sum.worst ? s->worst : sum.worst;
    }
    return sum;
}

/* From second a to b: how available the server was to those who wanted something of it. */
static void set_availability(json_t *o, double a, double b)
{
    double due = 0, served = 0, done = 0, worst_second = 100;
    uint64_t gap = 0;
    unsigned below = 0;
    for (unsigned i = (unsigned)a; a >= 0 && i < (unsigned)ceil(b); i++) {
        struct second s = second_sum(i);
        if (!s.due)
            continue;
        due += s.due, served += s.served, done += s.done;
        worst_second = fmin(worst_second, 100.0 * s.served / s.due);
        below += s.served < s.due * 0.999;
        gap = s.worst > gap ? s.worst : gap;
    }
    if (due <= 0)
        return;
    set(o, "availability_percent", 100 * served / due, 3);
    set(o, "worst_second_percent", worst_second, 1);
    set(o, "worst_gap_ms", (double)gap / 1e6, 1);
    set(o, "seconds_below_999", below, 0);
    set(o, "never_done", due - done, 0);
}

static json_t *make_figures(const struct measured *m)
{
    json_t *o = json_object();
    const uint64_t *count = m->total.count;
    double units = (double)m->all.tally.latency[main_kind(&run.scenario)].count;
    set_span(o, &m->all, true);
    set(o, "sessions", m->all.online, 0);
    for (int c = 0; c < COUNTERS; c++)
        set(o, counter_names[c], (double)count[c], 0);
    set(o, "lost", (double)count[C_SENT] - (double)count[C_RECEIVED] - (double)count[C_MISSED], 0);
    set(o, "refused_per_s", m->all.seconds > 0 ? (double)m->all.tally.count[C_REFUSED] / m->all.seconds : 0, 1);
    set(o, "unsent", (double)count[C_CREATED] - (double)count[C_SENT], 0);
    set(o, "presence_missing", (double)count[C_PRESENCE_EXPECTED] - (double)count[C_PRESENCE_RECEIVED], 0);
    set_availability(o, m->first_measured, m->end);
    if (units > 0)
        set(o, "wire_bytes_per_unit", (double)(m->all.tally.count[C_WIRE_IN] + m->all.tally.count[C_WIRE_OUT]) / units,
            0);
    if (!server_roles())
        return o;
    set(o, "server_pss_kib", m->all.kib, 0);
    if (m->all.online && m->kib_before > 0 &&
        m->all.kib > m->kib_before) /* else a heap shrank that others had filled */
        set(o, "pss_kib_per_session", (m->all.kib - m->kib_before) / m->all.online, 2);
    if (m->logins_with_cpu)
        set(o, "server_cpu_us_per_login", m->login_cpu * 1e6 / (double)m->logins_with_cpu, 2);
    return o;
}

/* ---- the rest of the result ---- */

static json_t *make_machine(void)
{
    char line[256], model[200] = "?", when[32];
    struct utsname u;
    time_t now = time(NULL);
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %199[^\n]", model) == 1)
            break;
    if (f)
        fclose(f);
    uname(&u);
    strftime(when, sizeof when, "%FT%TZ", gmtime(&now));
    double load[3] = {0};
    if (getloadavg(load, 3) != 3)
        load[0] = -1;
    return json_pack("{s:s, s:s, s:i, s:s, s:s, s:[f,f,f], s:f}", "date", when, "cpu", model, "cores",
                     (int)sysconf(_SC_NPROCESSORS_ONLN), "system", u.release, "openssl",
                     OpenSSL_version(OPENSSL_VERSION_STRING), "load_after", load[0], load[1], load[2], "memory_gib",
                     round((double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / (1 << 30) * 10) / 10);
}

static json_t *make_histograms(const struct measured *m)
{
    json_t *all = json_object();
    for (int k = 0; k < KINDS; k++) {
        const struct hist *h = &m->all.tally.latency[k];
        json_t *list = json_array();
        for (unsigned i = 0; i < HIST_BUCKETS; i++)
            if (h->bucket[i])
                json_array_append_new(list,
                                      json_pack("[f,I]", (double)hist_bucket_top(i) / 1e6, (json_int_t)h->bucket[i]));
        if (h->count)
            json_object_set(all, kind_names[k], list);
        json_decref(list);
    }
    return all;
}

static json_t *make_phases(const struct measured *m)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < run.scenario.phase_count; i++) {
        const struct phase *p = &run.scenario.phases[i];
        json_t *o =
            json_pack("{s:s, s:b, s:f}", "name", p->name, "measured", (int)p->measure, "start", m->phase_start[i]);
        set_span(o, &m->phases[i], false);
        set(o, "online", m->phases[i].online, 0);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *make_faults(const struct measured *m)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < fault_count; i++) {
        const struct fault *f = &faults[i];
        double from = f->started ? (double)(f->started - run.start) / 1e9 : -1, to = m->end;
        for (unsigned k = 0; k < fault_count; k++) {
            double other = faults[k].started ? (double)(faults[k].started - run.start) / 1e9 : -1;
            if (other > from && other < to)
                to = other;
        }
        json_t *o = json_pack("{s:s, s:s, s:f, s:f, s:i}", "when", f->when, "command", f->command, "t", from, "took_s",
                              f->ended > f->started ? (double)(f->ended - f->started) / 1e9 : 0, "exit", f->exit_code);
        set_availability(o, from, to);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *make_roles(const struct measured *m)
{
    double units = (double)m->all.tally.latency[main_kind(&run.scenario)].count;
    json_t *o = json_object();
    for (unsigned r = 0; r < server_roles(); r++) {
        json_t *one = json_object();
        set(one, "cpu_percent", m->all.seconds > 0 ? 100 * m->all.role_cpu[r] / m->all.seconds : 0, 1);
        if (units > 0)
            set(one, "cpu_us_per_unit", m->all.role_cpu[r] * 1e6 / units, 2);
        json_object_set_new(o, server_role(r), one);
    }
    return o;
}

static json_t *make_not_offered(void)
{
    json_t *list = json_array();
    for (int a = 0; a < ACTIVITIES; a++)
        if (run.not_offered & 1u << a)
            json_array_append_new(list, json_string(activity_names[a]));
    if (run.not_offered & NO_SM)
        json_array_append_new(list, json_string("sm"));
    return list;
}

/* Each row's availability is that of the operations that were due in its second. */
static void add_availability(json_t *rows)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        double t = json_real_value(json_object_get(row, "t"));
        struct second s = second_sum(t >= 1 ? (unsigned)(t - 0.5) : 0);
        if (s.due)
            set(row, "availability", 100.0 * s.served / s.due, 2);
    }
}

/* What a server said may be cut in the middle of a character. */
static const char *first_failure(void)
{
    static char why[sizeof run.lanes->why];
    for (unsigned i = 0; i < run.lane_count && !*why; i++)
        strcpy(why, run.lanes[i].why);
    for (char *p = why; *p; p++)
        *p = *p < ' ' || *p > '~' ? '?' : *p;
    return why;
}

json_t *result_make(const struct measured *m, const char *label)
{
    add_availability(m->seconds);
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:O, s:s}", "tool", "rookery-bench 1",
        "scenario", run.scenario.name, "about", run.scenario.about, "label", label, "machine", make_machine(),
        "threads", (int)run.lane_count, "unit", json_string(kind_names[main_kind(&run.scenario)]), "figures",
        make_figures(m), "roles", make_roles(m), "not_offered", make_not_offered(), "phases", make_phases(m), "faults",
        make_faults(m), "histograms", make_histograms(m), "seconds", m->seconds, "first_failure", first_failure());
}

/* ---- judging and showing ---- */

bool result_judge(json_t *result, const struct scenario *s)
{
    const json_t *figures = json_object_get(result, "figures"), *fault;
    json_t *list = json_array();
    bool ok = true;
    size_t n;
    for (unsigned i = 0; i < s->threshold_count; i++) {
        const struct threshold *t = &s->thresholds[i];
        const json_t *value = json_object_get(figures, t->figure);
        bool met = value && threshold_met(t, json_number_value(value));
        json_t *o = json_pack("{s:s, s:b}", "threshold", t->text, "met", (int)met);
        json_object_set_new(o, "value", value ? json_copy((json_t *)value) : json_null());
        json_array_append_new(list, o);
        ok = ok && met;
    }
    json_array_foreach(json_object_get(result, "faults"), n, fault)
    {
        ok = ok && json_integer_value(json_object_get(fault, "exit")) == 0;
    }
    json_object_set_new(result, "thresholds", list);
    json_object_set_new(result, "ok", json_boolean(ok));
    return ok;
}

static const char *text_of(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static void print_value(FILE *to, const json_t *value)
{
    if (json_is_integer(value))
        fprintf(to, "%lld", (long long)json_integer_value(value));
    else if (json_is_number(value))
        fprintf(to, "%g", json_number_value(value));
    else
        fputs("not measured", to);
}

static void print_faults(const json_t *result, FILE *to)
{
    size_t i;
    const json_t *fault;
    json_array_foreach(json_object_get(result, "faults"), i, fault)
    {
        fprintf(to, "  at %-10s %s: exit %lld, worst gap ", text_of(fault, "when"), text_of(fault, "command"),
                (long long)json_integer_value(json_object_get(fault, "exit")));
        print_value(to, json_object_get(fault, "worst_gap_ms"));
        fprintf(to, " ms, worst second ");
        print_value(to, json_object_get(fault, "worst_second_percent"));
        fprintf(to, " %%, never done ");
        print_value(to, json_object_get(fault, "never_done"));
        fputc('\n', to);
    }
}

void result_print(const json_t *result, FILE *to)
{
    const char *name, *unit = text_of(result, "unit");
    json_t *value;
    size_t i;
    fprintf(to, "%s: %s (unit: %s)\n", text_of(result, "scenario"), text_of(result, "about"), unit);
    json_object_foreach(json_object_get(result, "figures"), name, value)
    {
        bool twice = strncmp(name, unit, strlen(unit)) == 0 && name[strlen(unit)] == '_';
        if (twice || (json_number_value(value) == 0 && strcmp(name, "lost") && strcmp(name, "doubled")))
            continue;
        fprintf(to, "  %-28s ", name);
        print_value(to, value);
        fputc('\n', to);
    }
    json_object_foreach(json_object_get(result, "roles"), name, value)
    {
        fprintf(to, "  CPU of %-21s %g %%", name, json_number_value(json_object_get(value, "cpu_percent")));
        if (json_object_get(value, "cpu_us_per_unit"))
            fprintf(to, ", %g us per %s", json_number_value(json_object_get(value, "cpu_us_per_unit")),
                    text_of(result, "unit"));
        fputc('\n', to);
    }
    print_faults(result, to);
    json_array_foreach(json_object_get(result, "not_offered"), i, value)
        fprintf(to, "  the server does not offer: %s\n", json_string_value(value));
    if (*text_of(result, "first_failure"))
        fprintf(to, "  first failure: %s\n", text_of(result, "first_failure"));
    json_array_foreach(json_object_get(result, "thresholds"), i, value)
    {
        fprintf(to, "  %s  %s: ", json_is_true(json_object_get(value, "met")) ? "ok    " : "BROKEN",
                text_of(value, "threshold"));
        print_value(to, json_object_get(value, "value"));
        fputc('\n', to);
    }
}
