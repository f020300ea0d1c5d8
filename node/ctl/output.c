/* Any JSON value for people: aligned, one thing a line. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 32 };

/* Names of users and resources end on an operator's terminal: nothing in them may command it. */
static void mask(char *s)
{
    for (unsigned char *p = (unsigned char *)s; *p; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            p[0] = p[1] = '?';
    }
}

/* malloc'd. */
static char *cell(const json_t *v)
{
    char *s;
    if (!v || json_is_null(v))
        s = xstrdup("-");
    else if (json_is_string(v))
        s = xstrdup(json_string_value(v));
    else if (json_is_boolean(v))
        s = xstrdup(json_is_true(v) ? "yes" : "no");
    else
        s = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    CHECK(s, "a value that cannot be written");
    mask(s);
    return s;
}

/* Characters, not bytes; wide ones count as one. */
static int width(const char *s)
{
    int n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static int cell_width(const json_t *v)
{
    char *s = cell(v);
    int n = width(s);
    free(s);
    return n;
}

static void pad(struct buf *out, const char *s, int to)
{
    buf_str(out, s);
    for (int n = width(s); n < to; n++)
        buf_str(out, " ");
}

static void trim_line(struct buf *out)
{
    while (out->len && buf_data(out)[out->len - 1] == ' ')
        out->len--;
    buf_str(out, "\n");
}

struct columns {
    const char *names[COLUMNS_MAX];
    int widths[COLUMNS_MAX];
    size_t count;
};

static void columns_add(struct columns *c, const char *name, const json_t *value)
{
    size_t i = 0;
    while (i < c->count && strcmp(c->names[i], name))
        i++;
    if (i == COLUMNS_MAX)
        return;
    if (i == c->count) {
        c->names[c->count++] = name;
        c->widths[i] = width(name);
    }
    int n = cell_width(value);
    c->widths[i] = n > c->widths[i] ? n : c->widths[i];
}

static void write_row(struct buf *out, const struct columns *c, const json_t *row)
{
    for (size_t i = 0; i < c->count; i++) {
        char *s = row ? cell(json_object_get(row, c->names[i])) : xstrdup(c->names[i]);
        pad(out, s, c->widths[i] + 2);
        free(s);
    }
    trim_line(out);
}

static void write_table(struct buf *out, const json_t *rows)
{
    struct columns c = {.count = 0};
    size_t i;
    json_t *row, *value;
    const char *name;
    json_array_foreach(rows, i, row) json_object_foreach(row, name, value) columns_add(&c, name, value);
    write_row(out, &c, NULL);
    json_array_foreach(rows, i, row) write_row(out, &c, row);
}

static void write_list(struct buf *out, const json_t *list)
{
    if (json_is_object(json_array_get(list, 0))) {
        write_table(out, list);
        return;
    }
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        char *s = cell(item);
        buf_printf(out, "%s\n", s);
        free(s);
    }
}

static bool is_group(const json_t *v)
{
    return json_is_object(v) || (json_is_array(v) && json_is_object(json_array_get(v, 0)));
}

/* What fits on a line first, then lists and maps under their names. */
static void write_object(struct buf *out, const json_t *object)
{
    const char *name;
    json_t *value;
    int widest = 0;
    json_object_foreach((json_t *)object, name, value) if (!is_group(value) && width(name) > widest) widest =
        width(name);
    json_object_foreach((json_t *)object, name, value)
    {
        if (is_group(value))
            continue;
        char *s = cell(value);
        pad(out, name, widest + 2);
        buf_str(out, s);
        trim_line(out);
        free(s);
    }
    json_object_foreach((json_t *)object, name, value)
    {
        if (!is_group(value))
            continue;
        buf_printf(out, "\n%s\n", name);
        output_write(out, value);
    }
}

void output_write(struct buf *out, const json_t *value)
{
    if (json_is_object(value))
        write_object(out, value);
    else if (json_is_array(value))
        write_list(out, value);
    else if (value && !json_is_null(value)) {
        char *s = cell(value);
        buf_printf(out, "%s\n", s);
        free(s);
    }
}

void output_print(const json_t *value)
{
    struct buf out = {0};
    output_write(&out, value);
    if (out.len)
        fwrite(buf_data(&out), 1, out.len, stdout);
    buf_free(&out);
}
