/*
 * Counters and gauges. Each thread adds to its own copy without contention; reading sums all copies.
 * A new metric is one line here.
 */
#ifndef ROOKERY_METRICS_H
#define ROOKERY_METRICS_H

#include <stdint.h>

/* X(id, name, help); names ending in _total are counters, the rest gauges */
#define METRICS(X)                                                                                                     \
    X(M_CONNECTIONS, "connections", "open client sockets")                                                             \
    X(M_CONNECTIONS_TOTAL, "connections_total", "client sockets accepted")                                             \
    X(M_SESSIONS, "sessions", "bound sessions, detached ones included")                                                \
    X(M_SESSIONS_DETACHED, "sessions_detached", "sessions waiting for resumption")                                     \
    X(M_ACCOUNTS, "accounts_loaded", "accounts held in memory")                                                        \
    X(M_LOGIN_TOTAL, "logins_total", "successful authentications")                                                     \
    X(M_LOGIN_FAILED_TOTAL, "logins_failed_total", "failed authentications")                                           \
    X(M_RESUMED_TOTAL, "resumptions_total", "resumed streams")                                                         \
    X(M_IN_MESSAGE_TOTAL, "stanzas_in_message_total", "messages received from clients")                                \
    X(M_IN_PRESENCE_TOTAL, "stanzas_in_presence_total", "presences received from clients")                             \
    X(M_IN_IQ_TOTAL, "stanzas_in_iq_total", "iqs received from clients")                                               \
    X(M_OUT_TOTAL, "stanzas_out_total", "stanzas sent to clients")                                                     \
    X(M_BYTES_IN_TOTAL, "bytes_in_total", "bytes received from clients, before decryption")                            \
    X(M_BYTES_OUT_TOTAL, "bytes_out_total", "bytes sent to clients, after encryption")                                 \
    X(M_COMMITTED_TOTAL, "messages_committed_total", "messages committed to storage")                                  \
    X(M_DELIVERED_TOTAL, "messages_delivered_total", "messages acknowledged by recipients")                            \
    X(M_DEDUPED_TOTAL, "messages_deduplicated_total", "messages sent again and recognised")                            \
    X(M_STREAM_ERROR_TOTAL, "stream_errors_total", "streams closed with an error")                                     \
    X(M_STORE_BATCH_TOTAL, "store_batches_total", "storage transactions")                                              \
    X(M_STORE_OP_TOTAL, "store_operations_total", "storage operations")

enum metric {
#define X(id, name, help) id,
    METRICS(X)
#undef X
        METRIC_COUNT
};

void metric_add(enum metric m, int64_t n); /* any thread */
int64_t metric_read(enum metric m);        /* any thread; sum over all threads that ever added */
const char *metric_name(enum metric m);
const char *metric_help(enum metric m);

#endif
