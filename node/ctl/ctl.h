/*
 * The parts of rookeryctl: speaking to the server, passwords, import, output. Blocking; a program of its own.
 */
#ifndef ROOKERY_CTL_H
#define ROOKERY_CTL_H

#include "buf.h"
#include "err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { CTL_OK = 0, CTL_REFUSED = 1, CTL_USAGE = 2, CTL_NO_SERVER = 3 }; /* exit codes */

/* ---- client.c ---- */

struct ctl {
    FILE *in, *out;   /* the server; NULL: not connected */
    const char *path; /* of the socket */
    bool json;        /* print JSON */
};

/* False: says why on standard error. */
bool ctl_connect(struct ctl *c);
void ctl_close(struct ctl *c);
/* Sends {"command": words, "args": args} (takes both) and waits. on_progress may be NULL; its value is borrowed.
 * An exit code; CTL_OK: *result is yours. Everything else has been told on standard error. */
typedef void ctl_progress_fn(void *arg, const json_t *value);
int ctl_call(struct ctl *c, json_t *words, json_t *args, ctl_progress_fn *on_progress, void *arg, json_t **result);

/* ---- output.c ---- */

/* Objects as "key  value" lines, lists of objects as tables, all aligned; control characters are masked. */
void output_write(struct buf *out, const json_t *value);
void output_print(const json_t *value);

/* ---- password.c ---- */

/* One line from standard input; on a terminal asked for twice, without echo. malloc'd; NULL: says why. */
char *password_read(void);
/* Erases, then frees. */
void password_free(char **p);

/* ---- import.c ---- */

/* One line of CSV `localpart,password` (RFC 4180 quoting, within a line), decoded in place: both point into line.
 * False: *why is wrong. */
bool csv_line(char *line, char **local, char **password, const char **why);
/* Reads CSV from in until its end and creates the accounts, batch by batch. An exit code. */
int import_run(struct ctl *c, FILE *in, const char *domain, uint32_t iterations);

#endif
