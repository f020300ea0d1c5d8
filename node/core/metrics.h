/*
 * Counters, gauges and histograms. Each thread adds to its own copy without contention; reading sums all copies.
 * A new metric is one line here. In Prometheus' text every name gets "rookery_" in front.
 *
 * What has labels that only the running process knows (peers, shards) is printed by a collector, a function that its
 * owner registers and that runs at every scrape.
 */
#ifndef ROOKERY_METRICS_H
#define ROOKERY_METRICS_H

#include "buf.h"

#include <stdint.h>

/* X(id, name, help); names ending in _total are counters, the rest gauges. A name may carry labels: lines of one family
 * stand together and have the first one's help. */
#define METRICS(X)                                                                                                     \
    X(M_CONNECTIONS, "connections", "open client sockets")                                                             \
    X(M_CONNECTIONS_TOTAL, "connections_total", "client sockets accepted")                                             \
    X(M_SESSIONS, "sessions", "bound sessions, detached ones included")                                                \
    X(M_SESSIONS_DETACHED, "sessions_detached", "sessions waiting for resumption")                                     \
    X(M_ACCOUNTS, "accounts_loaded", "accounts held in memory")                                                        \
    X(M_LOGIN_TOTAL, "logins_total", "successful authentications")                                                     \
    X(M_LOGIN_FAILED_TOTAL, "logins_failed_total", "failed authentications")                                           \
    X(M_REGISTRATION_TOTAL, "registrations_total", "accounts made in band")                                            \
    X(M_REGISTRATION_REFUSED_TOTAL, "registrations_refused_total", "attempts to make one that were refused")           \
    X(M_RESUMED_TOTAL, "resumptions_total", "resumed streams")                                                         \
    X(M_IN_MESSAGE_TOTAL, "stanzas_in_total{kind=\"message\"}", "stanzas received from clients")                       \
    X(M_IN_PRESENCE_TOTAL, "stanzas_in_total{kind=\"presence\"}", "stanzas received from clients")                     \
    X(M_IN_IQ_TOTAL, "stanzas_in_total{kind=\"iq\"}", "stanzas received from clients")                                 \
    X(M_OUT_MESSAGE_TOTAL, "stanzas_out_total{kind=\"message\"}", "stanzas sent to clients")                           \
    X(M_OUT_PRESENCE_TOTAL, "stanzas_out_total{kind=\"presence\"}", "stanzas sent to clients")                         \
    X(M_OUT_IQ_TOTAL, "stanzas_out_total{kind=\"iq\"}", "stanzas sent to clients")                                     \
    X(M_BYTES_IN_TOTAL, "bytes_in_total", "bytes received from clients, before decryption")                            \
    X(M_BYTES_OUT_TOTAL, "bytes_out_total", "bytes sent to clients, after encryption")                                 \
    X(M_ACKNOWLEDGED_TOTAL, "stanzas_acknowledged_total", "stanzas that the h told to clients covers (XEP-0198)")      \
    X(M_UNACKED_BYTES, "unacknowledged_bytes", "bytes kept until clients acknowledge them (XEP-0198)")                 \
    X(M_CSI_INACTIVE, "clients_inactive", "sessions whose client says that nobody looks at it (XEP-0352)")             \
    X(M_CSI_HELD_TOTAL, "csi_held_total", "presences and chat states held back for inactive clients")                  \
    X(M_CSI_COALESCED_TOTAL, "csi_coalesced_total", "those of them that a later one made void: never sent")            \
    X(M_COMMITTED_TOTAL, "messages_committed_total", "messages committed to storage")                                  \
    X(M_DELIVERED_TOTAL, "messages_delivered_total", "messages acknowledged by recipients")                            \
    X(M_DEDUPED_TOTAL, "messages_deduplicated_total", "messages sent again and recognised")                            \
    X(M_PUSH_TOTAL, "push_notifications_total", "notifications sent to app servers (XEP-0357)")                        \
    X(M_PUSH_FAILED_TOTAL, "push_failed_total", "those of them answered with an error, or not in time")                \
    X(M_PUSH_DISABLED_TOTAL, "push_disabled_total", "app servers disabled because of errors")                          \
    X(M_STREAM_ERROR_TOTAL, "stream_errors_total", "streams closed with an error")                                     \
    X(M_STORE_BATCH_TOTAL, "store_batches_total", "storage transactions")                                              \
    X(M_STORE_OP_TOTAL, "store_operations_total", "storage operations, reads and writes")                              \
    X(M_STORE_FAILED_TOTAL, "store_failed_total", "storage operations that were not carried out, or nobody knows")     \
    X(M_STORE_QUEUED, "store_queued", "storage operations called and not yet finished")                                \
    X(M_REGISTRY_UP, "registry_up", "workers whose session registry is served by Redis")                               \
    X(M_REGISTRY_WAITING, "registry_waiting", "sessions of which Redis has not been told")                             \
    X(M_HTTP_TOTAL, "http_requests_total", "answered HTTP requests")                                                   \
    X(M_MESH_SKIPPED_TOTAL, "mesh_skipped_total", "envelopes from other nodes that were not understood")

/* X(id, name, scale, help): observed in microseconds and shown as seconds (SCALE_SECONDS), or counted (SCALE_COUNT) */
#define HISTOGRAMS(X)                                                                                                  \
    X(H_COMMIT, "store_commit_seconds", SCALE_SECONDS, "from the call of a write to its commit")                       \
    X(H_BATCH, "store_batch_operations", SCALE_COUNT, "operations finished in one transaction")                        \
    X(H_TURN, "loop_turn_seconds", SCALE_SECONDS, "work of one turn of an event loop: who comes meanwhile waits")      \
    X(H_LAG, "loop_lag_seconds", SCALE_SECONDS, "how late an event loop's timers run")

enum metric {
#define X(id, name, help) id,
    METRICS(X)
#undef X
        METRIC_COUNT
};

enum histogram {
#define X(id, name, scale, help) id,
    HISTOGRAMS(X)
#undef X
        HISTOGRAM_COUNT
};

void metric_add(enum metric m, int64_t n);                 /* any thread */
void metric_observe(enum histogram h, uint64_t value);     /* any thread */
int64_t metric_read(enum metric m);                        /* any thread; sum over all threads that ever added */
uint64_t metric_observed(enum histogram h, uint64_t *sum); /* number of observations, and their sum */
uint64_t metric_clock_us(void);                            /* monotonic, for H_..._seconds */
const char *metric_name(enum metric m);                    /* without "rookery_", with labels if it has any */
const char *metric_help(enum metric m);

/* Prints families with labels of its own, by the functions below. Runs at a scrape, on whichever thread that comes to:
 * what it reads is protected by its owner. It must not block. */
typedef void metrics_collector_fn(struct buf *out, void *arg);
enum { METRICS_COLLECTORS_MAX = 32 };
void metrics_collector_add(metrics_collector_fn *fn, void *arg);
void metrics_collector_remove(metrics_collector_fn *fn, void *arg); /* it does not run any more when this returns */

/* The HELP and TYPE lines; name without "rookery_"; type "counter" (then the name ends in _total) or "gauge". */
void metrics_family(struct buf *out, const char *name, const char *type, const char *help);
/* One sample of it. labels: label, value, label, value, ... NULL; values are escaped. */
void metrics_sample(struct buf *out, const char *name, double value, ...) __attribute__((sentinel));

/* All of it in Prometheus' text format 0.0.4. Any thread. */
void metrics_print(struct buf *out);

#endif
