/* Reports from results: one self-contained HTML file for one run, and comparisons of several. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* html.c: plots as inline SVG; no script, nothing from elsewhere. */
void html_report(const json_t *result, FILE *to);

/* compare.c: results with the same scenario and label are one column, each figure their median. results is an array. */
void compare_print(const json_t *results, FILE *to); /* for the terminal; also valid Markdown */
void compare_html(const json_t *results, FILE *to);

/* plot.c: a page of plots that a script wants: {"title", "about", "plots": [{"title", "x", "y", "log_x", "log_y",
 * "series": [{"name", "points": [[x, y], ...]}]}]}. */
void html_plots(const json_t *page, FILE *to);

/* svg.c: plots with axes. A series is drawn where its y is not NAN. */
enum { SERIES_MAX = 20 };
struct series {
    const char *name;
    size_t count;
    const double *x, *y;
};
struct mark {
    double x;
    const char *text;
};
struct plot {
    const char *title, *x_unit, *y_unit;
    bool log_x, log_y, x_from_zero, bars; /* bars: from zero to y, as wide as the distance to the next x */
    const struct series *series;
    size_t series_count;
    const struct mark *marks;
    size_t mark_count;
};
void svg_plot(const struct plot *p, FILE *to);
/* Horizontal bars, one a name; NAN is left out. colour: by name, any number; the same one is always the same colour. */
void svg_bars(const char *title, const char *unit, size_t count, const char *const *names, const size_t *colour,
              const double *values, FILE *to);
void html_text(const char *text, FILE *to);
/* What all pages begin with and end with. */
void html_begin(const char *title, FILE *to);
void html_end(FILE *to);

#endif
