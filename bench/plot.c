/* `rookery-bench plot`: any lines on axes, for scripts. See html_plots(). */
#include "report.h"

#include <stdlib.h>

static const char *text_of(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static void one_plot(const json_t *o, FILE *to)
{
    struct series series[SERIES_MAX];
    double *values[SERIES_MAX];
    size_t n = 0, i, k;
    const json_t *s, *point;
    json_array_foreach(json_object_get(o, "series"), i, s)
    {
        const json_t *points = json_object_get(s, "points");
        size_t count = json_array_size(points);
        if (n == SERIES_MAX || !(values[n] = calloc(2 * count + 1, sizeof *values[n])))
            break;
        json_array_foreach(points, k, point)
        {
            values[n][k] = json_number_value(json_array_get(point, 0));
            values[n][count + k] = json_number_value(json_array_get(point, 1));
        }
        series[n] = (struct series){text_of(s, "name"), count, values[n], values[n] + count};
        n++;
    }
    struct plot p = {.title = text_of(o, "title"),
                     .x_unit = text_of(o, "x"),
                     .y_unit = text_of(o, "y"),
                     .log_x = json_is_true(json_object_get(o, "log_x")),
                     .log_y = json_is_true(json_object_get(o, "log_y")),
                     .series = series,
                     .series_count = n};
    svg_plot(&p, to);
    while (n > 0)
        free(values[--n]);
}

void html_plots(const json_t *page, FILE *to)
{
    size_t i;
    const json_t *o;
    html_begin(text_of(page, "title"), to);
    fputs("<p>", to);
    html_text(text_of(page, "about"), to);
    fputs("</p>\n", to);
    json_array_foreach(json_object_get(page, "plots"), i, o) one_plot(o, to);
    html_end(to);
}
