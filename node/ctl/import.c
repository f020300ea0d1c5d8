/* Accounts from CSV: read a batch, derive its keys on every core, send it. */
#include "credentials_json.h"
#include "ctl.h"
#include "jid.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 500, BATCH_BYTES = 700000, KEYS_BYTES = 700, THREADS_MAX = 64, REPORT_S = 5 };

struct row {
    unsigned long line;
    const struct jid *jid;
    char *password;
    struct credentials keys;
    enum err derived;
};

struct import {
    struct ctl *ctl;
    FILE *in;
    const char *domain;
    uint32_t iterations;
    char *text; /* getline's */
    size_t room;
    unsigned long line, created, bad;
    struct row rows[BATCH];
    size_t count;
    atomic_size_t next; /* the row to derive next */
    time_t reported;
};

/* One field, unquoted in place. *end: the comma behind it, or the end of the line; NULL: *why is wrong. */
static char *csv_field(char *s, char **end, const char **why)
{
    *end = NULL;
    if (*s != '"') {
        *end = s + strcspn(s, ",");
        if (memchr(s, '"', (size_t)(*end - s))) {
            *why = "a quote inside of a field without quotes";
            *end = NULL;
        }
        return s;
    }
    char *out = s, *in = s + 1;
    while (*in && (*in != '"' || in[1] == '"')) {
        in += *in == '"';
        *out++ = *in++;
    }
    if (*in == '"' && (!in[1] || in[1] == ','))
        *end = in + 1;
    else
        *why = *in ? "text behind the closing quote" : "the closing quote is missing";
    /* The field became shorter, so its end lies before *end. */
    *out = 0;
    return s;
}

bool csv_line(char *line, char **local, char **password, const char **why)
{
    char *end;
    line[strcspn(line, "\r\n")] = 0;
    *local = csv_field(line, &end, why);
    if (!end)
        return false;
    if (!*end) {
        *why = "no password";
        return false;
    }
    *end = 0;
    *password = csv_field(end + 1, &end, why);
    if (!end)
        return false;
    if (*end) {
        *why = "more than two fields";
        return false;
    }
    return true;
}

static void bad_row(struct import *m, unsigned long line, const char *why)
{
    fprintf(stderr, "line %lu: %s\n", line, why);
    m->bad++;
}

static void add_row(struct import *m, char *text, size_t n)
{
    const char *why;
    char *local, *password;
    const struct jid *jid = NULL;
    if (memchr(text, 0, n))
        bad_row(m, m->line, "a NUL character");
    else if (!csv_line(text, &local, &password, &why))
        bad_row(m, m->line, why);
    else if (!*local || !(jid = jid_make(NULL, local, m->domain, NULL)))
        bad_row(m, m->line, "not a localpart");
    else
        m->rows[m->count++] = (struct row){.line = m->line, .jid = jid, .password = xstrdup(password)};
    explicit_bzero(text, n);
}

/* False: the input has ended. */
static bool read_batch(struct import *m)
{
    size_t bytes = 0;
    ssize_t n = 0;
    while (m->count < BATCH && bytes < BATCH_BYTES && (n = getline(&m->text, &m->room, m->in)) > 0) {
        char *text = m->text;
        if (!m->line++ && !strncmp(text, "\xef\xbb\xbf", 3)) {
            text += 3; /* the mark spreadsheets put in front */
            n -= 3;
        }
        if (!text[strspn(text, "\r\n")] || (m->line == 1 && !strncmp(text, "localpart,password", 18)))
            continue;
        add_row(m, text, (size_t)n);
        bytes += m->count ? m->rows[m->count - 1].jid->bare_len + KEYS_BYTES : 0;
    }
    return n > 0 || m->count == BATCH || bytes >= BATCH_BYTES;
}

static void *derive_rows(void *arg)
{
    struct import *m = arg;
    size_t i;
    while ((i = atomic_fetch_add(&m->next, 1)) < m->count) {
        struct row *r = &m->rows[i];
        r->derived = credentials_derive(r->password, m->iterations, &r->keys);
    }
    return NULL;
}

/* This thread works too, so it goes on even when no other can be started. */
static void derive_batch(struct import *m)
{
    pthread_t threads[THREADS_MAX];
    long cores = sysconf(_SC_NPROCESSORS_ONLN), started = 0;
    atomic_store(&m->next, 0);
    while (started < cores - 1 && started < THREADS_MAX && !pthread_create(&threads[started], NULL, derive_rows, m))
        started++;
    derive_rows(m);
    while (started)
        pthread_join(threads[--started], NULL);
}

static json_t *batch_json(struct import *m)
{
    json_t *accounts = json_array();
    for (size_t i = 0; i < m->count; i++) {
        struct row *r = &m->rows[i];
        if (r->derived)
            bad_row(m, r->line, "the password is not allowed");
        else
            json_array_append_new(accounts,
                                  json_pack("{s:s, s:o}", "jid", r->jid->s, "keys", credentials_to_json(&r->keys)));
    }
    return accounts;
}

static void report_failed(struct import *m, const json_t *failed)
{
    const char *jid = json_string_value(json_object_get(failed, "jid"));
    const char *why = json_string_value(json_object_get(failed, "error"));
    unsigned long line = 0;
    /* The last of equal ones: the first was created. */
    for (size_t i = 0; jid && i < m->count; i++)
        if (!strcmp(m->rows[i].jid->s, jid))
            line = m->rows[i].line;
    fprintf(stderr, "line %lu: %s: %s\n", line, jid ? jid : "", why ? why : "refused");
    m->bad++;
}

static int send_batch(struct import *m)
{
    json_t *result, *accounts = batch_json(m), *failed;
    size_t i;
    int code = ctl_call(m->ctl, json_pack("[s, s]", "user", "import"), json_pack("{s:o}", "accounts", accounts), NULL,
                        NULL, &result);
    if (code)
        return code;
    m->created += (unsigned long)json_integer_value(json_object_get(result, "created"));
    json_array_foreach(json_object_get(result, "failed"), i, failed) report_failed(m, failed);
    json_decref(result);
    return CTL_OK;
}

static void free_batch(struct import *m)
{
    for (size_t i = 0; i < m->count; i++) {
        jid_free(&m->rows[i].jid);
        password_free(&m->rows[i].password);
    }
    explicit_bzero(m->rows, sizeof m->rows);
    m->count = 0;
}

static void report_progress(struct import *m)
{
    bool terminal = isatty(STDERR_FILENO);
    time_t now = time(NULL);
    if (!terminal && now - m->reported < REPORT_S)
        return;
    fprintf(stderr, terminal ? "\r%lu accounts created, %lu lines bad" : "%lu accounts created, %lu lines bad\n",
            m->created, m->bad);
    m->reported = now;
}

static void print_result(const struct import *m)
{
    json_t *result = json_pack("{s:I, s:I}", "created", (json_int_t)m->created, "bad", (json_int_t)m->bad);
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    if (m->ctl->json)
        json_dumpf(result, stdout, JSON_INDENT(2)), putchar('\n');
    else
        output_print(result);
    json_decref(result);
}

int import_run(struct ctl *c, FILE *in, const char *domain, uint32_t iterations)
{
    struct import *m = xcalloc(1, sizeof *m);
    int code = CTL_OK;
    bool more = true;
    *m = (struct import){.ctl = c, .in = in, .domain = domain, .iterations = iterations, .reported = time(NULL)};
    while (more && !code) {
        more = read_batch(m);
        if (m->count) {
            derive_batch(m);
            code = send_batch(m);
            report_progress(m);
        }
        free_batch(m);
    }
    print_result(m);
    if (!code && m->bad)
        code = CTL_REFUSED;
    if (m->text)
        explicit_bzero(m->text, m->room);
    free(m->text);
    free(m);
    return code;
}
