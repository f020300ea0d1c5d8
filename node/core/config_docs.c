/* The reference of all options, written from their table. */
#include "config_table.h"

#include <stdio.h>
#include <string.h>

static void write_option(struct buf *out, const struct option *o)
{
    buf_printf(out, "| `%s` | ", o->key);
    option_allowed(o, out);
    if (o->standard)
        buf_printf(out, " | `%s` | ", o->standard);
    else
        buf_str(out, o->required ? " | *needed* | " : " | | ");
    buf_printf(out, "%s |\n", o->about);
}

static void write_section(struct buf *out, const struct option *section)
{
    buf_printf(out, "\n## %s\n\n%s", section->key, section->about);
    if (section->type == OPTION_LIST)
        buf_printf(out, " A list of maps, %llu to %llu.", (unsigned long long)section->min,
                   (unsigned long long)section->max);
    if (section->standard)
        buf_printf(out, " Default: `%s`.", section->standard);
    buf_str(out, "\n\n| option | allowed | default | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; i < config_option_count; i++)
        if (!strcmp(config_options[i].section, section->key))
            write_option(out, &config_options[i]);
}

static bool is_scalar(const struct option *o)
{
    return o->type != OPTION_SECTION && o->type != OPTION_LIST;
}

void config_write_options(struct buf *out)
{
    buf_str(out, "# Options\n\n"
                 "<!-- written by `rookeryd --options`; do not edit -->\n\n"
                 "The configuration is one YAML file. Only `hosts` is needed. Relative paths are taken from the\n"
                 "file's own directory. Sizes have a suffix (`B`, `KiB`, `MiB`, `GiB`), durations a unit\n"
                 "(`ms`, `s`, `min`, `h`). `rookeryd --check FILE` reports every mistake with its line.\n");
    for (size_t i = 0; i < config_option_count; i++)
        if (!is_scalar(&config_options[i]))
            write_section(out, &config_options[i]);
    buf_str(out, "\n## At the top level\n\n| option | allowed | default | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; i < config_option_count; i++)
        if (!*config_options[i].section && is_scalar(&config_options[i]))
            write_option(out, &config_options[i]);
}

void config_print_options(void)
{
    struct buf out = {0};
    config_write_options(&out);
    fwrite(buf_data(&out), 1, out.len, stdout);
    buf_free(&out);
}
