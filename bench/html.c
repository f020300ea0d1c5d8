#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- pieces ---- */

static double number_of(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *text_of(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static void cell(const char *text, const char *kind, FILE *to)
{
    fprintf(to, "<td%s%s%s>", kind ? " class='" : "", kind ? kind : "", kind ? "'" : "");
    html_text(text, to);
    fputs("</td>", to);
}

static void number_cell(double v, FILE *to)
{
    if (!isfinite(v))
        fputs("<td class='n'>-</td>", to);
    else
        fprintf(to,
                fabs(v - round(v)) < 1e-9 || fabs(v) >= 1000 ? "<td class='n'>%.0f</td>" : "<td class='n'>%.4g</td>",
                v);
}

/* ---- plots over time ---- */

struct columns {
    size_t count;
    double *x;
    double *y[SERIES_MAX];
};

static double *column(const json_t *rows, const char *name, const char *inner, bool zero)
{
    size_t i;
    const json_t *row;
    double *out = calloc(json_array_size(rows) + 1, sizeof *out);
    json_array_foreach(rows, i, row)
    {
        double v = inner ? number_of(json_object_get(row, name), inner) : number_of(row, name);
        out[i] = zero && isnan(v) ? 0 : v;
    }
    return out;
}

static size_t marks_of(const json_t *result, struct mark *marks, size_t max)
{
    size_t i, n = 0;
    const json_t *o;
    json_array_foreach(json_object_get(result, "faults"), i, o)
    {
        if (n < max && number_of(o, "t") >= 0)
            marks[n++] = (struct mark){number_of(o, "t"), text_of(o, "command")};
    }
    return n;
}

/* names: fields of the rows, or with "inner" keys of the object of that name in them. */
static void over_time(const json_t *result, struct plot p, const char *inner, const char *const *names, size_t count,
                      bool zero, double factor, FILE *to)
{
    const json_t *rows = json_object_get(result, "seconds");
    struct series series[SERIES_MAX];
    struct mark marks[32];
    size_t n = json_array_size(rows);
    double *x = column(rows, "t", NULL, false);
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        double *y = inner ? column(rows, inner, names[i], zero) : column(rows, names[i], NULL, zero);
        for (size_t k = 0; k < n; k++)
            y[k] *= factor, any = any || isfinite(y[k]);
        series[i] = (struct series){names[i], n, x, y};
    }
    p.x_unit = "seconds";
    p.series = series;
    p.series_count = count;
    p.marks = marks;
    p.mark_count = marks_of(result, marks, 32);
    p.x_from_zero = true;
    if (any)
        svg_plot(&p, to);
    for (size_t i = 0; i < count; i++)
        free((void *)series[i].y);
    free(x);
}

/* Names of what the histograms have: the kinds of operations that happened. */
static size_t kinds_of(const json_t *result, const char **names)
{
    const char *name;
    json_t *value;
    size_t n = 0;
    json_object_foreach(json_object_get(result, "histograms"), name, value)
    {
        (void)value;
        if (n < SERIES_MAX)
            names[n++] = name;
    }
    return n;
}

static size_t roles_of(const json_t *result, const char **names)
{
    const char *name;
    json_t *value;
    size_t n = 0;
    json_object_foreach(json_object_get(result, "roles"), name, value)
    {
        (void)value;
        if (n < SERIES_MAX)
            names[n++] = name;
    }
    return n;
}

static void plots(const json_t *result, FILE *to)
{
    static const char *const latencies[] = {"p50_ms", "p99_ms", "max_ms"}, *const generator[] = {"generator_percent"},
                             *const late[] = {"late_ms"}, *const memory[] = {"pss_kib"}, *const online[] = {"online"},
                             *const available[] = {"availability"};
    const char *names[SERIES_MAX];
    over_time(result, (struct plot){.title = "Latency", .y_unit = "ms", .log_y = true}, NULL, latencies, 3, false, 1,
              to);
    size_t n = kinds_of(result, names);
    if (n)
        over_time(result, (struct plot){.title = "Done", .y_unit = "per second"}, NULL, names, n, true, 1, to);
    over_time(result, (struct plot){.title = "Availability: served in time, by when it was due", .y_unit = "%"}, NULL,
              available, 1, false, 1, to);
    over_time(result, (struct plot){.title = "Sessions online", .y_unit = ""}, NULL, online, 1, false, 1, to);
    n = roles_of(result, names);
    if (n) {
        over_time(result, (struct plot){.title = "CPU of the server", .y_unit = "% of a core"}, "cpu_percent", names, n,
                  false, 1, to);
        over_time(result, (struct plot){.title = "Memory of the server (PSS)", .y_unit = "MiB"}, NULL, memory, 1, false,
                  1 / 1024.0, to);
    }
    over_time(result, (struct plot){.title = "CPU of the generator", .y_unit = "% of a core"}, NULL, generator, 1,
              false, 1, to);
    over_time(result, (struct plot){.title = "How late the generator itself was", .y_unit = "ms"}, NULL, late, 1, false,
              1, to);
}

/* Sixteen bars from each latency to its double, though the buckets are finer: few values make no lawn. */
static void histogram(const char *kind, const json_t *buckets, FILE *to)
{
    enum { BARS = 16 };
    size_t i, n = json_array_size(buckets);
    const json_t *b;
    double *x = calloc(2 * n + 2, sizeof *x), *y = calloc(2 * n + 2, sizeof *y);
    char title[80];
    size_t k = 0;
    json_array_foreach(buckets, i, b)
    {
        double bar = ceil(log2(fmax(json_number_value(json_array_get(b, 0)), 1e-6)) * BARS - 1e-6);
        if (k == 0 || x[k - 1] < exp2(bar / BARS) * 0.999) {
            x[k++] = exp2((bar - 1) / BARS);
            x[k++] = exp2(bar / BARS);
        }
        y[k - 2] += json_number_value(json_array_get(b, 1));
    }
    snprintf(title, sizeof title, "Latencies: %s", kind);
    struct series s = {kind, k, x, y};
    struct plot p = {.title = title,
                     .x_unit = "ms",
                     .y_unit = "count",
                     .log_x = true,
                     .bars = true,
                     .series = &s,
                     .series_count = 1};
    svg_plot(&p, to);
    free(x);
    free(y);
}

/* ---- tables ---- */

static void thresholds(const json_t *result, FILE *to)
{
    size_t i;
    const json_t *o, *list = json_object_get(result, "thresholds");
    if (!json_array_size(list))
        return;
    fputs("<h2>Thresholds</h2><table><tr><th>wanted<th>measured<th></tr>\n", to);
    json_array_foreach(list, i, o)
    {
        bool met = json_is_true(json_object_get(o, "met"));
        fputs("<tr>", to);
        cell(text_of(o, "threshold"), NULL, to);
        number_cell(number_of(o, "value"), to);
        cell(met ? "met" : "broken", met ? "good" : "bad", to);
        fputs("</tr>\n", to);
    }
    fputs("</table>\n", to);
}

static void latencies(const json_t *result, FILE *to)
{
    static const char *const columns[] = {"count",  "per_s",   "p50_ms",   "p90_ms",
                                          "p99_ms", "p999_ms", "p9999_ms", "max_ms"};
    const json_t *figures = json_object_get(result, "figures");
    const char *kinds[SERIES_MAX];
    size_t n = kinds_of(result, kinds);
    if (!n)
        return;
    fputs("<h2>Operations</h2><table><tr><th>what<th>count<th>per second<th>p50 ms<th>p90 ms<th>p99 ms"
          "<th>p99.9 ms<th>p99.99 ms<th>max ms</tr>\n",
          to);
    for (size_t i = 0; i < n; i++) {
        fputs("<tr>", to);
        cell(kinds[i], NULL, to);
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
            char name[64];
            snprintf(name, sizeof name, "%s_%s", kinds[i], columns[c]);
            number_cell(number_of(figures, name), to);
        }
        fputs("</tr>\n", to);
    }
    fputs("</table>\n", to);
}

static void fault_table(const json_t *result, FILE *to)
{
    static const char *const columns[] = {
        "t", "took_s", "exit", "worst_gap_ms", "worst_second_percent", "seconds_below_999", "never_done"};
    size_t i;
    const json_t *o, *list = json_object_get(result, "faults");
    if (!json_array_size(list))
        return;
    fputs(
        "<h2>Faults</h2><table><tr><th><th class='l'>command<th>at s<th>took s<th>exit<th>worst gap ms<th>worst second "
        "%<th>seconds below "
        "99.9 %<th>never done</tr>\n",
        to);
    json_array_foreach(list, i, o)
    {
        fprintf(to, "<tr><td>%zu</td>", i + 1);
        cell(text_of(o, "command"), NULL, to);
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
            number_cell(number_of(o, columns[c]), to);
        fputs("</tr>\n", to);
    }
    fputs("</table><p class='small'>The worst gap is the longest that an operation waited which was due between this "
          "fault and the "
          "next; those never done are counted beside it.</p>\n",
          to);
}

/* Every figure that is not one of a kind's. */
static void figure_table(const json_t *result, FILE *to)
{
    const char *name, *kinds[SERIES_MAX];
    json_t *value;
    size_t n = kinds_of(result, kinds);
    fputs("<h2>Figures</h2><table>\n", to);
    json_object_foreach(json_object_get(result, "figures"), name, value)
    {
        bool of_kind = false;
        for (size_t i = 0; i < n; i++)
            of_kind = of_kind || (strncmp(name, kinds[i], strlen(kinds[i])) == 0 && name[strlen(kinds[i])] == '_' &&
                                  (strstr(name, "_ms") || strstr(name, "_count") || strstr(name, "_per_s")));
        if (of_kind || json_number_value(value) == 0)
            continue;
        fputs("<tr>", to);
        cell(name, NULL, to);
        number_cell(json_number_value(value), to);
        fputs("</tr>\n", to);
    }
    fputs("</table><p class='small'>Figures that are zero are left out, but for those above.</p>\n", to);
}

static void summary(const json_t *result, FILE *to)
{
    static const char *const always[] = {"lost", "doubled", "reordered", "errors", "failed_logins", "cut_sessions"};
    const json_t *figures = json_object_get(result, "figures"), *machine = json_object_get(result, "machine");
    fputs("<p>", to);
    html_text(text_of(result, "about"), to);
    fprintf(to, "</p>\n<p class='small'>%s, %s, %lld cores, Linux %s, OpenSSL %s. Unit: %s.</p>\n<p>",
            text_of(machine, "date"), text_of(machine, "cpu"),
            (long long)json_integer_value(json_object_get(machine, "cores")), text_of(machine, "system"),
            text_of(machine, "openssl"), text_of(result, "unit"));
    for (size_t i = 0; i < sizeof always / sizeof *always; i++) {
        double v = number_of(figures, always[i]);
        fprintf(to, "<span class='%s'>%s %.0f</span>%s", v == 0 ? "good" : "bad", always[i], v,
                i + 1 < sizeof always / sizeof *always ? " · " : "");
    }
    fputs("</p>\n", to);
    size_t i;
    const json_t *o;
    json_array_foreach(json_object_get(result, "not_offered"), i, o)
        fprintf(to, "<p class='bad'>The server does not offer: %s</p>\n", json_string_value(o));
    if (*text_of(result, "first_failure")) {
        fputs("<p class='small'>First failure: <code>", to);
        html_text(text_of(result, "first_failure"), to);
        fputs("</code></p>\n", to);
    }
}

void html_report(const json_t *result, FILE *to)
{
    char title[200];
    const char *label = text_of(result, "label"), *kind;
    json_t *buckets;
    snprintf(title, sizeof title, "%s%s%s", text_of(result, "scenario"), *label ? ": " : "", label);
    html_begin(title, to);
    summary(result, to);
    thresholds(result, to);
    latencies(result, to);
    fault_table(result, to);
    if (json_array_size(json_object_get(result, "seconds")) > 1) {
        fputs("<h2>Over time</h2>\n", to);
        plots(result, to);
    }
    if (json_object_size(json_object_get(result, "histograms")))
        fputs("<h2>How latencies are spread</h2>\n", to);
    json_object_foreach(json_object_get(result, "histograms"), kind, buckets) histogram(kind, buckets, to);
    figure_table(result, to);
    html_end(to);
}
