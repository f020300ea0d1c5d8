#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The plot's frame inside of its picture. */
enum { WIDTH = 860, HEIGHT = 280, LEFT = 70, RIGHT = 14, TOP = 50, BOTTOM = 40 };
static const char *const colours[] = {"#2563a8", "#c2571a", "#2f8f4e", "#8b3fa0", "#b8860b",
                                      "#00838f", "#ad1457", "#5d4037", "#607d8b", "#000000"};
enum { COLOURS = sizeof colours / sizeof *colours };

struct axis {
    double min, max, from, to; /* values, and where they are in the picture */
    bool log;
};

void html_text(const char *text, FILE *to)
{
    for (const char *p = text; *p; p++)
        switch (*p) {
        case '<':
            fputs("&lt;", to);
            break;
        case '>':
            fputs("&gt;", to);
            break;
        case '&':
            fputs("&amp;", to);
            break;
        case '"':
            fputs("&quot;", to);
            break;
        default:
            fputc(*p, to);
        }
}

void html_begin(const char *title, FILE *to)
{
    fputs("<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>", to);
    html_text(title, to);
    fputs("</title>\n<style>body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 "
          "1em;color:#222;background:#fff}"
          "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;margin:.6em 0}"
          "td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}"
          "th{text-align:right}th:first-child,th.l{text-align:left}"
          "td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#b00020;font-weight:600}.good{color:#"
          "2f7d32}"
          "svg{display:block;margin:1em "
          "0;max-width:100%;height:auto}p.small{color:#666;font-size:.9em}code{font-size:.95em}</style>"
          "</head><body>\n<h1>",
          to);
    html_text(title, to);
    fputs("</h1>\n", to);
}

void html_end(FILE *to)
{
    fputs("</body></html>\n", to);
}

static double place(const struct axis *a, double v)
{
    double share =
        a->log ? (log10(v) - log10(a->min)) / (log10(a->max) - log10(a->min)) : (v - a->min) / (a->max - a->min);
    return a->from + share * (a->to - a->from);
}

static bool drawable(const struct axis *a, double v)
{
    return isfinite(v) && (!a->log || v > 0);
}

static void widen(struct axis *a, size_t count, const double *values)
{
    for (size_t i = 0; i < count; i++)
        if (drawable(a, values[i])) {
            a->min = fmin(a->min, values[i]);
            a->max = fmax(a->max, values[i]);
        }
}

/* 1, 2 or 5 times a power of ten, so that there are about n steps. */
static double nice_step(double range, int n)
{
    double raw = range / n, power = pow(10, floor(log10(raw))), f = raw / power;
    return power * (f < 1.5 ? 1 : f < 3.5 ? 2 : f < 7.5 ? 5 : 10);
}

/* Ends of the axis where it looks good; logarithmic ones at powers of ten. */
static void round_ends(struct axis *a, bool from_zero)
{
    if (a->min > a->max)
        a->min = a->log ? 1 : 0, a->max = a->log ? 10 : 1; /* nothing to draw */
    if (a->log) {
        a->min = pow(10, floor(log10(a->min)));
        a->max = pow(10, ceil(log10(a->max) + 1e-9));
        return;
    }
    if (from_zero)
        a->min = fmin(a->min, 0);
    if (a->max <= a->min)
        a->max = a->min + 1;
    if (from_zero) {
        double step = nice_step(a->max - a->min, 4);
        a->max = ceil(a->max / step - 1e-9) * step;
    }
}

/* ---- axes ---- */

static void number(double v, FILE *to)
{
    if (fabs(v) >= 1e6)
        fprintf(to, "%gM", v / 1e6);
    else if (fabs(v) >= 1e4)
        fprintf(to, "%gk", v / 1e3);
    else
        fprintf(to, "%g", fabs(v) < 1e-12 ? 0 : v);
}

static void tick(const struct axis *a, double v, bool vertical, FILE *to)
{
    double at = place(a, v);
    if (vertical)
        fprintf(to,
                "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#e4e4e4'/><text x='%d' y='%.1f' text-anchor='end'>",
                LEFT, WIDTH - RIGHT, at, at, LEFT - 6, at + 4);
    else
        fprintf(
            to,
            "<line x1='%.1f' x2='%.1f' y1='%d' y2='%d' stroke='#e4e4e4'/><text x='%.1f' y='%d' text-anchor='middle'>",
            at, at, TOP, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 16);
    number(v, to);
    fputs("</text>", to);
}

static void ticks(const struct axis *a, bool vertical, FILE *to)
{
    if (a->log) {
        for (double v = a->min; v <= a->max * 1.0001; v *= 10)
            tick(a, v, vertical, to);
        return;
    }
    double step = nice_step(a->max - a->min, vertical ? 4 : 10);
    for (double v = ceil(a->min / step) * step; v <= a->max + step * 1e-6; v += step)
        tick(a, v, vertical, to);
}

static void frame(const struct plot *p, FILE *to)
{
    fprintf(to,
            "<svg viewBox='0 0 %d %d' width='%d' xmlns='http://www.w3.org/2000/svg' font-family='system-ui,sans-serif' "
            "font-size='12' fill='#444'><text x='%d' y='16' font-size='14' font-weight='600' fill='#222'>",
            WIDTH, HEIGHT, WIDTH, LEFT);
    html_text(p->title, to);
    if (*p->y_unit) {
        fputs(", ", to);
        html_text(p->y_unit, to);
    }
    fprintf(to, "</text><text x='%d' y='%d' text-anchor='end'>", WIDTH - RIGHT, HEIGHT - 6);
    html_text(p->x_unit, to);
    fputs("</text>", to);
}

/* ---- what is drawn ---- */

static void draw_line(const struct series *s, const struct axis *x, const struct axis *y, const char *colour, FILE *to)
{
    bool pen_down = false;
    fprintf(to, "<path fill='none' stroke='%s' stroke-width='1.6' stroke-linejoin='round' d='", colour);
    for (size_t i = 0; i < s->count; i++) {
        bool can = drawable(x, s->x[i]) && drawable(y, s->y[i]);
        if (can)
            fprintf(to, "%c%.1f %.1f", pen_down ? 'L' : 'M', place(x, s->x[i]), place(y, s->y[i]));
        pen_down = can;
    }
    fputs("'/>", to);
    if (s->count <= 12)
        for (size_t i = 0; i < s->count; i++)
            if (drawable(x, s->x[i]) && drawable(y, s->y[i]))
                fprintf(to, "<circle cx='%.1f' cy='%.1f' r='3' fill='%s'/>", place(x, s->x[i]), place(y, s->y[i]),
                        colour);
}

static void draw_bars(const struct series *s, const struct axis *x, const struct axis *y, const char *colour, FILE *to)
{
    fprintf(to, "<path fill='%s' d='", colour);
    for (size_t i = 0; i + 1 < s->count; i++)
        if (s->y[i] > 0 && drawable(x, s->x[i]) && drawable(x, s->x[i + 1]))
            fprintf(to, "M%.1f %.1fV%.1fH%.1fV%.1fZ", place(x, s->x[i]), y->from, place(y, s->y[i]),
                    fmax(place(x, s->x[i + 1]), place(x, s->x[i]) + 1), y->from);
    fputs("'/>", to);
}

static void draw_marks(const struct plot *p, const struct axis *x, FILE *to)
{
    for (size_t i = 0; i < p->mark_count; i++) {
        double at = place(x, p->marks[i].x);
        if (p->marks[i].x < x->min || p->marks[i].x > x->max)
            continue;
        fprintf(to,
                "<line x1='%.1f' x2='%.1f' y1='%d' y2='%d' stroke='#b00020' stroke-dasharray='4 3'/>"
                "<text x='%.1f' y='%d' fill='#b00020'>fault %zu<title>",
                at, at, TOP, HEIGHT - BOTTOM, at + 4, TOP + 12 + (int)(i % 3) * 14,
                i + 1); /* side by side they do not overlap */
        html_text(p->marks[i].text, to);
        fputs("</title></text>", to);
    }
}

/* Below the title, in two rows if need be. */
static void legend(const struct plot *p, FILE *to)
{
    double at = LEFT, top = 23;
    for (size_t i = 0; i < p->series_count && p->series_count > 1; i++) {
        if (at + 14 + 7.0 * (double)strlen(p->series[i].name) > WIDTH)
            at = LEFT, top += 13;
        fprintf(to, "<rect x='%.1f' y='%.0f' width='10' height='10' fill='%s'/><text x='%.1f' y='%.0f'>", at, top,
                colours[i % COLOURS], at + 14, top + 9);
        html_text(p->series[i].name, to);
        fputs("</text>", to);
        at += 34 + 7.0 * (double)strlen(p->series[i].name);
    }
}

void svg_plot(const struct plot *p, FILE *to)
{
    struct axis x = {INFINITY, -INFINITY, LEFT, WIDTH - RIGHT, p->log_x},
                y = {INFINITY, -INFINITY, HEIGHT - BOTTOM, TOP, p->log_y};
    for (size_t i = 0; i < p->series_count; i++) {
        widen(&x, p->series[i].count, p->series[i].x);
        widen(&y, p->series[i].count, p->series[i].y);
    }
    if (p->x_from_zero)
        x.min = fmin(x.min, 0);
    round_ends(&x, false);
    round_ends(&y, true);
    frame(p, to);
    ticks(&x, false, to);
    ticks(&y, true, to);
    for (size_t i = 0; i < p->series_count; i++)
        (p->bars ? draw_bars : draw_line)(&p->series[i], &x, &y, colours[i % COLOURS], to);
    draw_marks(p, &x, to);
    fprintf(to, "<path fill='none' stroke='#888' d='M%d %dV%dH%d'/>", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
    legend(p, to);
    fputs("</svg>\n", to);
}

void svg_bars(const char *title, const char *unit, size_t count, const char *const *names, const size_t *colour,
              const double *values, FILE *to)
{
    enum { ROW = 24, NAMES = 150, END = 90 };
    double max = 0;
    for (size_t i = 0; i < count; i++)
        max = isfinite(values[i]) ? fmax(max, values[i]) : max;
    fprintf(
        to,
        "<svg viewBox='0 0 %d %zu' width='%d' xmlns='http://www.w3.org/2000/svg' font-family='system-ui,sans-serif' "
        "font-size='12' fill='#444'><text x='0' y='16' font-size='14' font-weight='600' fill='#222'>",
        WIDTH, 30 + ROW * count, WIDTH);
    html_text(title, to);
    fputs("</text>", to);
    for (size_t i = 0; i < count; i++) {
        double y = 28 + ROW * (double)i,
               wide = isfinite(values[i]) && max > 0 ? values[i] / max * (WIDTH - NAMES - END) : 0;
        fprintf(to, "<text x='%d' y='%.0f' text-anchor='end'>", NAMES - 8, y + 13);
        html_text(names[i], to);
        fprintf(to, "</text><rect x='%d' y='%.0f' width='%.1f' height='16' fill='%s'/><text x='%.1f' y='%.0f'>", NAMES,
                y, wide, colours[colour[i] % COLOURS], NAMES + wide + 6, y + 13);
        if (isfinite(values[i]))
            fprintf(to, values[i] >= 1000 ? "%.0f %s" : "%.4g %s", values[i], unit);
        else
            fputs("not measured", to);
        fputs("</text>", to);
    }
    fputs("</svg>\n", to);
}
