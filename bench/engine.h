/* The engine of rookery-bench: lanes (threads) of sessions that do what the phases of a scenario say.
 *
 * Lanes share nothing but struct run. A lane holds its lock while it works and lets it go while it waits, so the main
 * thread can take its tally once a second. Pairs and circles of contacts lie inside of one lane: what a session sends
 * to another is accounted for without any word between threads.
 *
 * Everything is an open loop unless the scenario gives a window or parallel instead of a rate: operations are due at
 * times that do not depend on the server, latency counts from then, and how late the generator itself was is a figure.
 */
#ifndef BENCH_ENGINE_H
#define BENCH_ENGINE_H

#include "client.h"
#include "figures.h"
#include "scenario.h"

#include <pthread.h>
#include <stdatomic.h>

#define SECOND ((uint64_t)1000000000)
#define NEVER  UINT64_MAX
enum { NODES_MAX = 64, LOGIN_TIMEOUT_S = 30, QUERY_TIMEOUT_S = 30 };

enum stage { OFFLINE, LOGGING_IN, ONLINE };

/* What a session asked and waits for; one at a time. */
enum query { Q_NONE, Q_START_ROSTER, Q_START_ARCHIVE, Q_ROSTER, Q_ARCHIVE, Q_PING, Q_MAKE_ROSTER, Q_MAKE_ITEM };

/* Messages from the oldest not acknowledged to the newest created, numbered from 0. Those from sent on wait for a
 * connection. Without stream management what is sent counts as acknowledged. */
struct outbox {
    struct outbound {
        uint64_t due, sent_ns;
        uint32_t sm_at; /* stanzas of the stream when it was sent, itself included */
        uint32_t units; /* deliveries that it is due for */
    } * ring;
    uint32_t cap, created, sent, acked, ever_sent;
};

/* What came from the partner. */
struct inbox {
    unsigned char *seen; /* a bit for each number */
    size_t seen_bytes;
    uint32_t received, highest;
    struct {
        uint32_t seq, id; /* hash of the stanza-id */
    } * recent;
};

/* The contacts of a session: those run.contacts / 2 slots before and behind it. */
struct circle {
    uint64_t subscribed; /* bits: to whom */
    uint32_t sent;       /* own statuses */
    uint32_t last[64];   /* the newest status of each contact, plus 1 */
    unsigned items;      /* in the roster besides */
    uint64_t make_asks;  /* when making looks at the roster again: some servers lose a subscription or a push */
    uint64_t make_ends;  /* when making gives up; 0: not at it */
    bool made;
};

/* Rooms of a lane (XEP-0045): run.occupants slots one after the other are one. */
struct rooms {
    bool wanted;
    char service[256]; /* where rooms are; empty: not known yet */
    char candidates[8][256];
    unsigned candidate_count, answers, joining, parallel, asker;
    uint64_t ask_at, swept_at;
    struct room {
        bool open; /* made and unlocked: others get in */
        unsigned joining;
    } * room;
};

/* A session as an occupant of its room. */
struct member {
    enum { OUT, JOINING, IN } state;
    uint64_t at; /* when joining: since when; when out: it does not try again before */
    struct outbox out;
    unsigned char *said; /* for each own message a bit for each occupant that should have it, then for each that has */
    size_t said_bytes;
    uint32_t *next; /* by occupant: the number behind the newest that it has */
};

struct session {
    struct client client;
    struct scram_key key;
    struct lane *lane;
    unsigned slot, node;
    enum stage stage;
    bool leaves;    /* logs in only to leave */
    bool comes_new; /* its login is no return */
    bool inactive;
    bool sent_away;                                    /* it left, or left last, because the scenario said so */
    bool orderly;                                      /* its stream was closed: there is nothing to resume */
    enum { STEP_ROSTER, STEP_ARCHIVE, STEP_END } step; /* of the login */
    uint64_t due;                                      /* of the login that is under way */
    uint64_t back_at;                                  /* planned return; 0: none */
    uint64_t online_ns, active_ns;                     /* since when it is online; since when not inactive */
    uint64_t reads_at;                                 /* when it reads again, or did; 0: always */
    char *token;                                       /* what to resume with */
    uint32_t handled;
    enum query query;
    uint32_t query_id;
    uint64_t query_due;
    unsigned pages_left;
    struct outbox out;
    struct inbox in;
    struct circle *circle;
    struct member *member;
};

/* What became of operations that were due in one second. */
struct second {
    uint32_t due, done, served; /* served: done within scenario.available */
    uint64_t worst;             /* latency of the slowest that was done */
};

struct arrivals {
    double next; /* number of the next one, spread over the phase by the rate */
    unsigned cursor;
};

struct lane {
    pthread_t thread;
    pthread_mutex_t lock;
    unsigned index, slots, first_user, online, logging_in, connected, making, made;
    int epoll_fd, phase;
    uint64_t phase_start;
    bool done; /* with what the phase's until waits for */
    struct session *sessions;
    struct returning {
        uint64_t at;
        unsigned slot;
    } * returning;
    unsigned returning_count, paused;
    struct arrivals arrivals[ACTIVITIES];
    uint64_t swept_at, random;
    struct rooms rooms;
    struct tally *tally;
    struct second *seconds;
    unsigned second_count;
    struct client_traffic traffic; /* counted so far */
    char why[512];                 /* of the first failure */
};

/* The phases of the scenario, then these. */
enum { PHASE_NONE = -1, PHASE_DRAIN = MAX_PHASES, PHASE_CLOSE, PHASE_STOP };
enum { NO_SM = 1u << ACTIVITIES }; /* not_offered: bits of activities, and this */

extern struct run {
    struct scenario scenario;
    struct client_config config, nodes[NODES_MAX];
    unsigned node_count, lane_count, contacts, occupants;
    uint32_t id; /* tells our messages from those an earlier run left behind */
    bool wants_messages;
    struct lane *lanes;
    uint64_t start;
    _Atomic uint64_t phase_start; /* written before phase */
    _Atomic int phase;
    _Atomic unsigned not_offered;
} run;

static inline unsigned user_of(const struct session *s)
{
    return s->lane->first_user + s->slot;
}

/* lane.c */
void lanes_start(unsigned threads);
void lanes_stop(void);
/* Until when the phase of now lasts, NEVER for phases behind the scenario's. */
uint64_t phase_end(void);
/* What the lane's phase wants of an activity; NULL: nothing. */
const struct plan *lane_plan(const struct lane *l, enum activity a);
/* So many of the lane's sessions, the first ones, come or write. */
unsigned plan_sessions(const struct lane *l, const struct plan *plan);
/* A random number from 0 to below 1. */
double lane_random(struct lane *l);
/* An operation was due; it was done. n operations at once. */
void op_due(struct lane *l, uint64_t due, unsigned n);
void op_done(struct lane *l, enum kind kind, uint64_t due);
/* The same with a latency that counts from later. */
void op_done_since(struct lane *l, enum kind kind, uint64_t due, uint64_t since);
/* A message came from one session to another. */
void op_delivered(struct session *to, const struct session *from, enum kind kind, uint64_t due);
void not_offered(unsigned bit);

/* session.c */
void session_open(struct session *s, uint64_t due);
void session_return_later(struct session *s, uint64_t at);
void session_go_on(struct session *s); /* with the login, after a query of it is answered */
/* Reads nothing until then. */
void session_pause(struct session *s, uint64_t until);
/* Closes, and comes back at that time (0: stays away). */
void session_leave(struct session *s, bool cut, uint64_t back_at);
/* The next session of a cursor that is online and, if wanted, waits for nothing; NULL if there is none near. */
struct session *session_next(struct lane *l, unsigned *cursor, bool idle);
void session_timeouts(struct lane *l, uint64_t now);
void session_error(struct session *s, const char *what);

/* outbox.c */
/* False: full. */
bool outbox_add(struct outbox *o, uint64_t due, unsigned units);
/* Sends what waits, while there is a connection; again: not for the first time. */
void outbox_flush(struct session *s, struct outbox *o,
                  void (*send)(struct session *s, struct outbound *m, uint32_t seq, bool again));
/* h counts modulo 2^32 (XEP-0198 section 4). */
void outbox_acked(struct session *s, struct outbox *o, uint32_t h);
/* A new stream: what is not acknowledged is sent again in it. */
void outbox_again(struct outbox *o);

/* message.c */
bool message_create(struct session *s, uint64_t due);
/* Has the session as many on their way as the plan accepts? */
bool message_full(struct session *s, const struct plan *plan);
void message_flush(struct session *s);
/* In a closed loop: as many as the window lets; else nothing. */
void message_refill(struct session *s);
void message_received(struct session *s, const char *xml);
void message_acked(struct session *s, uint32_t h);
/* Sends a body with its numbers in it, and reads such a body: false when it is none of this run. */
void message_send(struct session *s, const struct outbound *m, uint32_t seq, const char *to, const char *type,
                  const struct plan *plan);
bool message_numbers(const char *xml, unsigned *user, unsigned *seq, uint64_t *due);

/* contacts.c */
bool presence_send(struct session *s, uint64_t due);
void presence_received(struct session *s, const char *xml);
void contacts_new_session(struct session *s);
void make_start(struct session *s);
void make_roster(struct session *s, const char *xml);
void make_next(struct session *s);
void roster_pushed(struct session *s, const char *xml);
void make_timeouts(struct lane *l, uint64_t now);

/* group.c */
/* Finds the service, and joins who should be in a room and is not. */
void group_turn(struct lane *l, uint64_t now);
/* Everybody who is online is in; or there are no rooms. */
bool group_done(const struct lane *l);
/* The next session of the cursor writes to its room; false: there is none. */
bool group_create(struct lane *l, unsigned *cursor, uint64_t due);
void group_flush(struct session *s);
void group_received(struct session *s, const char *xml);
/* False: it is of no room. */
bool group_presence(struct session *s, const char *xml);
/* A message came back: if from its room, it is no longer in. */
void group_bounced(struct session *s, const char *xml);
bool group_answered(struct session *s, const char *id, bool error, const char *xml);
/* It is out of its room. excused: because the scenario sent it away; what is on its way to it is not lost then. */
void group_left(struct session *s, bool excused);

/* query.c */
bool query_send(struct session *s, enum query query, uint64_t due);
void query_answered(struct session *s, char *xml);
/* The value of an attribute in the element's first tag. */
bool xml_attribute(const char *xml, const char *name, char *out, size_t size);

#endif
