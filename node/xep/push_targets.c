#include "push_targets.h"

#include "xml_stream.h"

#include <stdlib.h>
#include <string.h>

static void target_clear(struct push_target *x)
{
    jid_free(&x->jid);
    free(x->node);
    free(x->resource);
    bytes_unref(&x->options);
}

void push_targets_free(struct push_targets *t)
{
    for (size_t i = 0; i < t->count; i++)
        target_clear(&t->list[i]);
    free(t->list);
    *t = (struct push_targets){0};
}

struct push_target *push_target_find(const struct push_targets *t, const struct jid *jid, const char *node)
{
    for (size_t i = 0; i < t->count; i++)
        if (jid_eq(t->list[i].jid, jid) && (!node || !strcmp(t->list[i].node, node)))
            return &t->list[i];
    return NULL;
}

void push_target_remove(struct push_targets *t, struct push_target *x)
{
    target_clear(x);
    *x = t->list[--t->count];
}

void push_target_set(struct push_targets *t, const struct jid *jid, const char *node, const char *resource,
                     struct bytes *options)
{
    struct push_target *x = push_target_find(t, jid, node);
    if (x) {
        free(x->resource);
        bytes_unref(&x->options);
    } else {
        t->list = xrealloc(t->list, (t->count + 1) * sizeof *t->list);
        x = &t->list[t->count++];
        *x = (struct push_target){.jid = jid_dup(NULL, jid), .node = xstrdup(node)};
    }
    x->resource = xstrdup(resource);
    x->options = options ? bytes_ref(options) : NULL;
}

/* ---- stored: <push xmlns='urn:xmpp:push:0'><enable jid='' node='' resource=''>form</enable>...</push> ---- */

struct bytes *push_targets_write(const struct push_targets *t)
{
    struct buf b = {0};
    if (t->count)
        buf_str(&b, "<push xmlns=\"" NS_PUSH "\">");
    for (size_t i = 0; i < t->count; i++) {
        const struct push_target *x = &t->list[i];
        buf_str(&b, "<enable jid=\"");
        xml_escape(&b, x->jid->s, strlen(x->jid->s), true);
        buf_str(&b, "\" node=\"");
        xml_escape(&b, x->node, strlen(x->node), true);
        buf_str(&b, "\" resource=\"");
        xml_escape(&b, x->resource, strlen(x->resource), true);
        buf_str(&b, "\">");
        if (x->options)
            buf_add(&b, x->options->data, x->options->len);
        buf_str(&b, "</enable>");
    }
    if (t->count)
        buf_str(&b, "</push>");
    struct bytes *out = bytes_new(b.len ? buf_data(&b) : "", b.len);
    buf_free(&b);
    return out;
}

static void target_read(struct push_targets *t, const struct xml *x)
{
    const char *s = xml_get(x, "jid"), *node = xml_get(x, "node"), *resource = xml_get(x, "resource");
    const struct xml *form = xml_find(x, "x", NS_DATA);
    const struct jid *jid = s ? jid_trusted(NULL, s, strlen(s)) : NULL;
    struct bytes *options = NULL;
    if (form) {
        struct buf b = {0};
        xml_write(&b, form, NULL);
        options = bytes_new(buf_data(&b), b.len);
        buf_free(&b);
    }
    if (jid && node && resource)
        push_target_set(t, jid, node, resource, options);
    bytes_unref(&options);
    jid_free(&jid);
}

static void carry_over(struct push_target *x, const struct push_target *before)
{
    x->told = before->told;
    x->told_before = before->told_before;
    x->unseen = before->unseen;
    x->errors = before->errors;
    x->due_ms = before->due_ms;
    x->unless_there = before->unless_there;
    x->flight_ms = before->flight_ms;
}

void push_targets_read(struct push_targets *t, const struct bytes *stored)
{
    struct push_targets now = {0};
    struct arena *a = arena_new();
    struct xml *all = stored ? xml_parse(a, stored->data, stored->len) : NULL;
    for (const struct xml *x = xml_find(all, "enable", NS_PUSH); x; x = xml_find_next(x, "enable", NS_PUSH))
        target_read(&now, x);
    arena_free(&a);
    for (size_t i = 0; i < now.count; i++) {
        const struct push_target *before = push_target_find(t, now.list[i].jid, now.list[i].node);
        if (before)
            carry_over(&now.list[i], before);
    }
    push_targets_free(t);
    *t = now;
}
