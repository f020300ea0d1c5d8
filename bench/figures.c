#include "figures.h"

#include <stdio.h>
#include <string.h>

const char *const kind_names[KINDS] = {"message",  "group",   "waited", "ack",  "login", "return",
                                       "presence", "archive", "roster", "ping", "join"};

const char *const counter_names[COUNTERS] = {"created",
                                             "refused",
                                             "sent",
                                             "received",
                                             "missed",
                                             "received_inactive",
                                             "doubled",
                                             "redelivered",
                                             "reordered",
                                             "resent",
                                             "acked",
                                             "foreign",
                                             "errors",
                                             "logins",
                                             "failed_logins",
                                             "cut_sessions",
                                             "resumed",
                                             "not_resumed",
                                             "presence_expected",
                                             "presence_received",
                                             "presence_doubled",
                                             "csi_switches",
                                             "skipped",
                                             "archive_messages",
                                             "wire_bytes_in",
                                             "wire_bytes_out"};

const struct quantile quantiles[QUANTILES] = {{"p50", 0.5},    {"p90", 0.9},      {"p99", 0.99},
                                              {"p999", 0.999}, {"p9999", 0.9999}, {"max", 1}};

/* Besides the counters and those of each kind. */
static const char *const derived[] = {
    "seconds",
    "refused_per_s",
    "sessions",
    "lost",
    "unsent",
    "presence_missing",
    "server_cpu_percent",
    "server_cpu_us_per_unit",
    "server_cpu_us_per_login",
    "server_pss_kib",
    "pss_kib_per_session",
    "generator_cpu_percent",
    "generator_cpu_us_per_unit",
    "generator_late_p99_ms",
    "generator_late_max_ms",
    "availability_percent",
    "worst_second_percent",
    "worst_gap_ms",
    "wire_bytes_per_unit",
};

void tally_merge(struct tally *to, const struct tally *from)
{
    for (int k = 0; k < KINDS; k++)
        hist_merge(&to->latency[k], &from->latency[k]);
    hist_merge(&to->late, &from->late);
    for (int c = 0; c < COUNTERS; c++)
        to->count[c] += from->count[c];
}

/* What follows "message_" or, for the scenario's main kind, stands alone. */
static bool of_kind(const char *name)
{
    char full[32];
    for (int q = 0; q < QUANTILES; q++) {
        snprintf(full, sizeof full, "%s_ms", quantiles[q].name);
        if (strcmp(name, full) == 0)
            return true;
    }
    return strcmp(name, "per_s") == 0 || strcmp(name, "count") == 0;
}

bool figure_known(const char *name)
{
    for (unsigned i = 0; i < sizeof derived / sizeof *derived; i++)
        if (strcmp(name, derived[i]) == 0)
            return true;
    for (int c = 0; c < COUNTERS; c++)
        if (strcmp(name, counter_names[c]) == 0)
            return true;
    for (int k = 0; k < KINDS; k++) {
        size_t n = strlen(kind_names[k]);
        if (strncmp(name, kind_names[k], n) == 0 && name[n] == '_' && of_kind(name + n + 1))
            return true;
    }
    return of_kind(name);
}

void figures_print(void)
{
    printf("Figures, for thresholds:\n    of each kind of operation (");
    for (int k = 0; k < KINDS; k++)
        printf("%s%s", k ? ", " : "", kind_names[k]);
    printf("):\n        KIND_count, KIND_per_s");
    for (int q = 0; q < QUANTILES; q++)
        printf(", KIND_%s_ms", quantiles[q].name);
    printf("\n        without KIND_ they are those of the scenario's main kind\n   ");
    for (int c = 0; c < COUNTERS; c++)
        printf(" %s", counter_names[c]);
    printf("\n   ");
    for (unsigned i = 0; i < sizeof derived / sizeof *derived; i++)
        printf(" %s", derived[i]);
    printf("\n");
}
