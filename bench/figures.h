/* What is counted: latencies by kind of operation, events by name. A tally belongs to one thread at a time; the main
 * thread takes those of all lanes once a second and adds them up. */
#ifndef BENCH_FIGURES_H
#define BENCH_FIGURES_H

#include "histogram.h"

#include <stdbool.h>

/* Operations with a latency, counted from when they were due. */
enum kind {
    KIND_MESSAGE, /* until the partner has it */
    KIND_GROUP,   /* a message to a room, until one occupant has it */
    KIND_WAITED,  /* a message one of whose two was away because the scenario sent it away; counted from their return */
    KIND_ACK,     /* a message, from its sending until its acknowledgement (XEP-0198) */
    KIND_LOGIN,   /* until presence is sent, the roster and the archive's newest are there (as the scenario wants) */
    KIND_RETURN,  /* the same for a session that was cut off, or until it is resumed */
    KIND_PRESENCE, /* until one contact has it */
    KIND_ARCHIVE,  /* a page */
    KIND_ROSTER,
    KIND_PING,
    KIND_JOIN, /* from asking to be let into a room until being in */
    KINDS
};
extern const char *const kind_names[KINDS];

enum counter {
    C_CREATED, /* messages that were due and not refused; of one to a room each delivery counts, here and below */
    C_REFUSED, /* messages that were due when a session had enough on their way (accept) */
    C_SENT,    /* of them, at least once given to a connection */
    C_RECEIVED,
    C_MISSED,            /* deliveries to those who were not in the room, or left it on purpose before it came */
    C_RECEIVED_INACTIVE, /* of those received, by a session that was inactive (XEP-0352) */
    C_DOUBLED,
    C_REDELIVERED, /* again in a later session, under the same stanza-id: what a server does when it had no
                      acknowledgement */
    C_REORDERED,
    C_RESENT, /* by us, into a new session, because they had not been acknowledged */
    C_ACKED,
    C_FOREIGN, /* messages of no session of this run */
    C_ERRORS,  /* stanzas of type error, and queries without answer */
    C_LOGINS,
    C_FAILED_LOGINS,
    C_CUT, /* sessions that the server or the network ended */
    C_RESUMED,
    C_NOT_RESUMED,
    C_PRESENCE_EXPECTED,
    C_PRESENCE_RECEIVED,
    C_PRESENCE_DOUBLED,
    C_CSI,     /* sessions became inactive, or active again */
    C_SKIPPED, /* operations for which no session was free */
    C_ARCHIVE_MESSAGES,
    C_WIRE_IN,
    C_WIRE_OUT,
    COUNTERS
};
extern const char *const counter_names[COUNTERS];

struct tally {
    struct hist latency[KINDS], late; /* late: how late the generator was itself */
    uint64_t count[COUNTERS];
};

void tally_merge(struct tally *to, const struct tally *from);

/* Quantiles as reports show them. */
struct quantile {
    const char *name; /* "p99" */
    double q;
};
enum { QUANTILES = 6 };
extern const struct quantile quantiles[QUANTILES];

/* Is there a figure of that name in the results of some scenario? */
bool figure_known(const char *name);
/* Their names, for people. */
void figures_print(void);

#endif
