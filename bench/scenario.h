/* Scenario files: what the sessions of a run do, phase after phase, and which figures are good enough.
 *
 *     name: chat
 *     sessions: 200
 *     client: { sm: true }
 *     phases:
 *       - { name: connect, until: done, measure: false, connect: { parallel: 32 } }
 *       - { name: steady, seconds: 30, message: { rate: 2000 } }
 *     thresholds:
 *       - p99_ms < 50
 *
 * The tables in scenario.c are the reference; `rookery-bench keys` prints them. Everything is checked while reading,
 * and every mistake is told with its line and what is allowed there. */
#ifndef BENCH_SCENARIO_H
#define BENCH_SCENARIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum activity {
    ACT_CONNECT,   /* offline sessions come and stay */
    ACT_LOGIN,     /* offline sessions log in and leave at once */
    ACT_MAKE,      /* rosters and subscriptions are made where they are missing */
    ACT_MESSAGE,   /* one of a pair writes to the other */
    ACT_GROUP,     /* one of a room writes to all in it (XEP-0045) */
    ACT_PRESENCE,  /* a session tells its contacts a new status */
    ACT_ARCHIVE,   /* pages of the own archive (XEP-0313), backwards */
    ACT_ROSTER,    /* the whole roster */
    ACT_PING,      /* XEP-0199, to the server */
    ACT_RECONNECT, /* sessions go and come back */
    ACT_CSI,       /* sessions become inactive, and active again (XEP-0352) */
    ACT_PAUSE,     /* sessions stop reading for a while */
    ACTIVITIES
};

/* What a phase wants of one activity; each uses some of the fields. */
struct plan {
    bool on;
    double rate[2];  /* a second, all sessions together, at the phase's begin and end; 0: no open loop */
    double parallel; /* so many at a time (connect, login, make, group: joining) */
    double window;   /* so many on their way per session, without a rate (message) */
    double accept;   /* with so many on its way a session refuses what is due; 0: never (message) */
    double pairs;    /* so many of them come, or write; 0: all (connect, message) */
    double body, ack_every;
    double page, pages;
    double share;    /* per cent of the sessions, all at once, without a rate (reconnect) */
    double after[2]; /* seconds until they come back, or read again: between these (reconnect, pause) */
    double contacts, items;
    double occupants;
    bool store; /* false: <no-store/> */
    bool cut;   /* without closing the stream */
};

struct phase {
    char name[32];
    double seconds; /* with until_done: at most */
    bool until_done, measure;
    struct plan plan[ACTIVITIES];
};

/* How every session behaves. */
struct habits {
    bool presence, roster, sm, resume, origin_id;
    double catch_up;  /* newest messages of the archive asked for when logging in */
    double reconnect; /* seconds until a session that was cut off comes back, give or take a half; 0: never */
    char rooms[256];  /* the service with rooms; empty: it is asked for */
};

struct threshold {
    char text[80], figure[48];
    enum { BELOW, AT_MOST, EQUAL, AT_LEAST, ABOVE, DIFFERENT } is;
    double value;
};

enum { MAX_PHASES = 24, MAX_THRESHOLDS = 24 };

struct scenario {
    char name[48], about[160];
    double sessions;
    bool poisson;     /* arrivals: exponential gaps instead of even ones */
    double drain;     /* seconds that late messages are waited for at the end, counted from the last one that came */
    double available; /* seconds within which an operation must be done to count as served */
    struct habits client;
    unsigned phase_count, threshold_count;
    struct phase phases[MAX_PHASES];
    struct threshold thresholds[MAX_THRESHOLDS];
};

extern const char *const activity_names[ACTIVITIES];

/* Reads a file (or YAML from memory, called name). False after telling every mistake to errors as NAME:LINE: .... */
bool scenario_read(struct scenario *s, const char *path, FILE *errors);
bool scenario_parse(struct scenario *s, const char *name, const char *yaml, size_t len, FILE *errors);
/* Changes one value: "sessions=20", "client.sm=true", "steady.seconds=5", "steady.message.rate=100"; "*" is every phase
 * that has the thing. */
bool scenario_set(struct scenario *s, const char *assignment, FILE *errors);
/* What belongs together: call after the last change. */
bool scenario_check(const struct scenario *s, FILE *errors);
/* All keys, what they take, their defaults. */
void scenario_keys(FILE *to);

/* "FIGURE < NUMBER"; false if it is none. */
bool threshold_parse(struct threshold *t, const char *text);
bool threshold_met(const struct threshold *t, double value);

#endif
