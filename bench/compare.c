#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows of the table, in this order; others only where a result has them and another has not the same. */
static const struct figure {
    const char *name, *title, *unit; /* unit: with a bar plot in HTML */
} rows[] = {
    {"per_s", "units per second", "/s"},
    {"p50_ms", "p50 ms", "ms"},
    {"p90_ms", "p90 ms", NULL},
    {"p99_ms", "p99 ms", "ms"},
    {"p999_ms", "p99.9 ms", NULL},
    {"p9999_ms", "p99.99 ms", NULL},
    {"max_ms", "max ms", NULL},
    {"server_cpu_us_per_unit", "server CPU us per unit", "us"},
    {"server_cpu_us_per_login", "server CPU us per login", "us"},
    {"server_cpu_percent", "server CPU %", NULL},
    {"pss_kib_per_session", "PSS KiB per session", "KiB"},
    {"server_pss_kib", "PSS KiB", NULL},
    {"wire_bytes_per_unit", "bytes on the wire per unit", NULL},
    {"ack_p99_ms", "ack p99 ms", NULL},
    {"login_p99_ms", "login p99 ms", NULL},
    {"return_p99_ms", "return p99 ms", NULL},
    {"availability_percent", "available %", NULL},
    {"worst_gap_ms", "worst gap ms", NULL},
    {"lost", "lost", NULL},
    {"missed", "missed", NULL},
    {"doubled", "doubled", NULL},
    {"reordered", "reordered", NULL},
    {"errors", "errors", NULL},
    {"failed_logins", "failed logins", NULL},
    {"cut_sessions", "cut sessions", NULL},
    {"presence_missing", "presence missing", NULL},
    {"skipped", "skipped", NULL},
    {"refused_per_s", "refused/s", NULL},
    {"generator_late_p99_ms", "generator late p99 ms", NULL},
    {"generator_cpu_percent", "generator CPU %", NULL},
};
enum { ROWS = sizeof rows / sizeof *rows, LABELS_MAX = 24, SCENARIOS_MAX = 64 };

struct names {
    const char *name[SCENARIOS_MAX];
    size_t count;
};

static const char *text_of(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static const char *label_of(const json_t *result)
{
    const char *label = text_of(result, "label");
    return *label ? label : "run";
}

static void add_name(struct names *n, const char *name, size_t max)
{
    for (size_t i = 0; i < n->count; i++)
        if (strcmp(n->name[i], name) == 0)
            return;
    if (n->count < max)
        n->name[n->count++] = name;
}

static struct names scenarios_of(const json_t *results)
{
    struct names n = {{0}, 0};
    size_t i;
    const json_t *r;
    json_array_foreach(results, i, r) add_name(&n, text_of(r, "scenario"), SCENARIOS_MAX);
    return n;
}

/* scenario: NULL for all. */
static struct names labels_of(const json_t *results, const char *scenario)
{
    struct names n = {{0}, 0};
    size_t i;
    const json_t *r;
    json_array_foreach(results, i, r) if (!scenario || strcmp(text_of(r, "scenario"), scenario) == 0)
        add_name(&n, label_of(r), LABELS_MAX);
    return n;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool belongs(const json_t *r, const char *scenario, const char *label)
{
    return strcmp(text_of(r, "scenario"), scenario) == 0 && strcmp(label_of(r), label) == 0;
}

/* The server has not what the scenario is about: its run says nothing. */
static bool not_offered(const json_t *r)
{
    size_t i;
    const json_t *name;
    json_array_foreach(json_object_get(r, "not_offered"), i, name)
    {
        if (strcmp(json_string_value(name) ? json_string_value(name) : "", text_of(r, "unit")) == 0)
            return true;
    }
    return false;
}

/* Those with figures. */
static size_t runs_of(const json_t *results, const char *scenario, const char *label)
{
    size_t i, n = 0;
    const json_t *r;
    json_array_foreach(results, i, r) n += belongs(r, scenario, label) && !not_offered(r);
    return n;
}

/* NAN when no run has the figure. */
static double median(const json_t *results, const char *scenario, const char *label, const char *figure)
{
    double *values = calloc(json_array_size(results) + 1, sizeof *values), m;
    size_t i, n = 0;
    const json_t *r;
    json_array_foreach(results, i, r)
    {
        const json_t *v = json_object_get(json_object_get(r, "figures"), figure);
        if (belongs(r, scenario, label) && json_is_number(v) && !not_offered(r))
            values[n++] = json_number_value(v);
    }
    qsort(values, n, sizeof *values, by_value);
    m = !n ? NAN : n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    free(values);
    return m;
}

static bool interesting(const json_t *results, const char *scenario, const struct names *labels, const char *figure)
{
    for (size_t i = 0; i < labels->count; i++) {
        double v = median(results, scenario, labels->name[i], figure);
        if (isfinite(v) && v != 0)
            return true;
    }
    return strcmp(figure, "lost") == 0;
}

static void format_runs(size_t n, char *out, size_t size)
{
    snprintf(out, size, n ? "%zu" : "not offered", n);
}

static void format(double v, char *out, size_t size)
{
    if (!isfinite(v))
        snprintf(out, size, "-");
    else if (fabs(v) >= 1000 || v == round(v))
        snprintf(out, size, "%.0f", v);
    else
        snprintf(out, size, "%.3g", v);
}

/* With two columns: how many times the first the second is. */
static void ratio(const json_t *results, const char *scenario, const struct names *labels, const char *figure,
                  char *out, size_t size)
{
    double a = median(results, scenario, labels->name[0], figure),
           b = median(results, scenario, labels->name[1], figure);
    out[0] = 0;
    if (isfinite(a) && isfinite(b) && a > 0)
        snprintf(out, size, "%.2f", b / a);
}

/* ---- for the terminal ---- */

static void print_scenario(const json_t *results, const char *scenario, FILE *to)
{
    struct names labels = labels_of(results, scenario);
    char cell[64];
    fprintf(to, "\n## %s\n\n| %-26s |", scenario, "");
    for (size_t i = 0; i < labels.count; i++)
        fprintf(to, " %12s |", labels.name[i]);
    fputs(labels.count == 2 ? " second/first |\n|---|" : "\n|---|", to);
    for (size_t i = 0; i < labels.count + (labels.count == 2); i++)
        fputs("---:|", to);
    fprintf(to, "\n| %-26s |", "runs");
    for (size_t i = 0; i < labels.count; i++) {
        format_runs(runs_of(results, scenario, labels.name[i]), cell, sizeof cell);
        fprintf(to, " %12s |", cell);
    }
    fputs(labels.count == 2 ? "              |\n" : "\n", to);
    for (const struct figure *f = rows; f < rows + ROWS; f++) {
        if (!interesting(results, scenario, &labels, f->name))
            continue;
        fprintf(to, "| %-26s |", f->title);
        for (size_t i = 0; i < labels.count; i++) {
            format(median(results, scenario, labels.name[i], f->name), cell, sizeof cell);
            fprintf(to, " %12s |", cell);
        }
        if (labels.count == 2) {
            ratio(results, scenario, &labels, f->name, cell, sizeof cell);
            fprintf(to, " %12s |", cell);
        }
        fputc('\n', to);
    }
}

void compare_print(const json_t *results, FILE *to)
{
    struct names scenarios = scenarios_of(results);
    for (size_t i = 0; i < scenarios.count; i++)
        print_scenario(results, scenarios.name[i], to);
}

/* ---- as HTML ---- */

static void html_table(const json_t *results, const char *scenario, const struct names *labels, FILE *to)
{
    char cell[64];
    fputs("<table><tr><th>", to);
    for (size_t i = 0; i < labels->count; i++) {
        fputs("<th>", to);
        html_text(labels->name[i], to);
    }
    fputs("</tr>\n<tr><td>runs (figures are their medians)</td>", to);
    for (size_t i = 0; i < labels->count; i++) {
        format_runs(runs_of(results, scenario, labels->name[i]), cell, sizeof cell);
        fprintf(to, "<td class='n'>%s</td>", cell);
    }
    for (const struct figure *f = rows; f < rows + ROWS; f++) {
        if (!interesting(results, scenario, labels, f->name))
            continue;
        fprintf(to, "</tr>\n<tr><td>%s</td>", f->title);
        for (size_t i = 0; i < labels->count; i++) {
            format(median(results, scenario, labels->name[i], f->name), cell, sizeof cell);
            fprintf(to, "<td class='n'>%s</td>", cell);
        }
    }
    fputs("</tr></table>\n", to);
}

static void html_scenario(const json_t *results, const char *scenario, FILE *to)
{
    struct names labels = labels_of(results, scenario);
    struct names all = labels_of(results, NULL);
    double values[LABELS_MAX];
    size_t i, colour[LABELS_MAX];
    const json_t *r;
    fputs("<h2>", to);
    html_text(scenario, to);
    fputs("</h2>\n", to);
    json_array_foreach(results, i, r)
    {
        if (strcmp(text_of(r, "scenario"), scenario))
            continue;
        fputs("<p>", to);
        html_text(text_of(r, "about"), to);
        fprintf(to, " Unit: %s.</p>\n", text_of(r, "unit"));
        break;
    }
    html_table(results, scenario, &labels, to);
    for (size_t k = 0; k < labels.count; k++)
        for (colour[k] = 0; colour[k] < all.count && strcmp(all.name[colour[k]], labels.name[k]);)
            colour[k]++;
    for (const struct figure *f = rows; f < rows + ROWS; f++) {
        if (!f->unit || !interesting(results, scenario, &labels, f->name))
            continue;
        for (size_t k = 0; k < labels.count; k++)
            values[k] = median(results, scenario, labels.name[k], f->name);
        svg_bars(f->title, f->unit, labels.count, labels.name, colour, values, to);
    }
}

void compare_html(const json_t *results, FILE *to)
{
    struct names scenarios = scenarios_of(results);
    const json_t *machine = json_object_get(json_array_get(results, 0), "machine");
    html_begin("Comparison", to);
    fprintf(to, "<p class='small'>%s, %s, %lld cores, Linux %s, OpenSSL %s</p>\n", text_of(machine, "date"),
            text_of(machine, "cpu"), (long long)json_integer_value(json_object_get(machine, "cores")),
            text_of(machine, "system"), text_of(machine, "openssl"));
    for (size_t i = 0; i < scenarios.count; i++)
        html_scenario(results, scenarios.name[i], to);
    html_end(to);
}
