/* Lanes: threads, the times at which operations are due, what an activity does then. */
#include "engine.h"

#include <math.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

struct run run;

enum { TURN_MS = 10, BURST = 512 }; /* so much is issued before the sockets are looked at again */

void not_offered(unsigned bit)
{
    run.not_offered |= bit;
}

double lane_random(struct lane *l)
{
    l->random ^= l->random << 13, l->random ^= l->random >> 7, l->random ^= l->random << 17; /* xorshift64 */
    return (double)(l->random >> 11) / (double)((uint64_t)1 << 53);
}

/* ---- what becomes of operations, by the second they were due in ---- */

static struct second *second_of(struct lane *l, uint64_t due)
{
    unsigned i = due > run.start ? (unsigned)((due - run.start) / SECOND) : 0;
    if (i >= l->second_count) {
        unsigned count = 2 * i + 64;
        l->seconds = realloc(l->seconds, count * sizeof *l->seconds);
        if (!l->seconds)
            abort();
        memset(l->seconds + l->second_count, 0, (count - l->second_count) * sizeof *l->seconds);
        l->second_count = count;
    }
    return &l->seconds[i];
}

void op_due(struct lane *l, uint64_t due, unsigned n)
{
    second_of(l, due)->due += n;
}

void op_done(struct lane *l, enum kind kind, uint64_t due)
{
    op_done_since(l, kind, due, due);
}

void op_done_since(struct lane *l, enum kind kind, uint64_t due, uint64_t since)
{
    uint64_t now = now_ns(), took = now > since ? now - since : 0;
    struct second *second = second_of(l, due);
    second->done++;
    hist_add(&l->tally->latency[kind], took);
    second->served += (double)took <= run.scenario.available * (double)SECOND;
    if (took > second->worst)
        second->worst = took;
}

/* When it came back from where the scenario had sent it, or will. */
static uint64_t returned(const struct session *s)
{
    uint64_t back = s->sent_away ? s->due : 0;
    return s->reads_at > back ? s->reads_at : back;
}

void op_delivered(struct session *to, const struct session *from, enum kind kind, uint64_t due)
{
    uint64_t since = returned(to) > returned(from) ? returned(to) : returned(from);
    to->lane->tally->count[C_RECEIVED_INACTIVE] += to->inactive;
    if (due < since)
        op_done_since(to->lane, KIND_WAITED, due, since);
    else
        op_done(to->lane, kind, due);
}

/* ---- when ---- */

static const struct phase *phase_now(const struct lane *l)
{
    return l->phase >= 0 && l->phase < MAX_PHASES ? &run.scenario.phases[l->phase] : NULL;
}

const struct plan *lane_plan(const struct lane *l, enum activity a)
{
    const struct phase *p = phase_now(l);
    return p && p->plan[a].on ? &p->plan[a] : NULL;
}

unsigned plan_sessions(const struct lane *l, const struct plan *plan)
{
    unsigned limit = 2 * (((unsigned)plan->pairs + run.lane_count - 1) / run.lane_count);
    return limit && limit < l->slots ? limit : l->slots;
}

uint64_t phase_end(void)
{
    int at = run.phase;
    return at >= 0 && at < MAX_PHASES ? run.phase_start + (uint64_t)(run.scenario.phases[at].seconds * (double)SECOND)
                                      : NEVER;
}

/* Seconds from the phase's begin until n operations are due, the rate going from r0 to r1 in so many seconds. */
static double time_of(double n, double r0, double r1, double seconds)
{
    double growth = (r1 - r0) / seconds, root = r0 * r0 + 2 * growth * n;
    if (n <= 0)
        return 0;
    return root < 0 || (r0 <= 0 && growth <= 0) ? INFINITY : 2 * n / (r0 + sqrt(root));
}

static double gap(struct lane *l)
{
    return run.scenario.poisson ? -log(1 - lane_random(l)) : 1;
}

/* When the next operation is due; NEVER if not in this phase. */
static uint64_t next_due(struct lane *l, enum activity a)
{
    const struct phase *p = phase_now(l);
    double lanes = run.lane_count, *rate = (double *)p->plan[a].rate;
    double at = time_of(l->arrivals[a].next, rate[0] / lanes, rate[1] / lanes, p->seconds);
    return at < p->seconds ? l->phase_start + (uint64_t)(at * (double)SECOND) : NEVER;
}

/* ---- what ---- */

static bool come(struct lane *l, uint64_t due, bool leaves)
{
    unsigned *cursor = &l->arrivals[leaves ? ACT_LOGIN : ACT_CONNECT].cursor;
    unsigned all = leaves ? l->slots : plan_sessions(l, &phase_now(l)->plan[ACT_CONNECT]);
    bool once = !leaves || phase_now(l)->until_done;
    for (unsigned i = 0; i < all && (!once || *cursor < all); i++) {
        struct session *s = &l->sessions[(*cursor)++ % all];
        if (s->stage != OFFLINE || s->back_at || s->client.state != CLIENT_CLOSED)
            continue;
        s->leaves = leaves;
        s->comes_new = true;
        session_open(s, due);
        return true;
    }
    return false;
}

static bool go(struct lane *l, const struct plan *plan, uint64_t due)
{
    struct session *s = session_next(l, &l->arrivals[ACT_RECONNECT].cursor, false);
    double after = plan->after[0] + (plan->after[1] - plan->after[0]) * lane_random(l);
    if (s)
        session_leave(s, plan->cut, due + (uint64_t)(after * (double)SECOND) + 1);
    return s;
}

static bool toggle(struct session *s)
{
    if (!(s->client.offers & OFFERS_CSI)) {
        not_offered(1u << ACT_CSI);
        return true;
    }
    const char *text = s->inactive ? "<active xmlns='urn:xmpp:csi:0'/>" : "<inactive xmlns='urn:xmpp:csi:0'/>";
    s->inactive = !s->inactive;
    s->active_ns = s->inactive ? NEVER : now_ns();
    s->lane->tally->count[C_CSI]++;
    client_send(&s->client, text, strlen(text), 0);
    return true;
}

static struct session *next_to_make(struct lane *l)
{
    unsigned *cursor = &l->arrivals[ACT_MAKE].cursor;
    while (*cursor < l->slots) {
        struct session *s = &l->sessions[(*cursor)++];
        if (s->stage == ONLINE && s->client.state == CLIENT_READY)
            return s;
    }
    return NULL;
}

/* Messages are created whether there is a connection or not, unless the scenario itself sent the writer away. */
static struct session *next_writer(struct lane *l, const struct plan *plan, unsigned *cursor)
{
    unsigned writers = plan_sessions(l, plan);
    for (unsigned i = 0; i < writers; i++) {
        struct session *s = &l->sessions[(*cursor)++ % writers];
        if (s->stage == ONLINE || !s->sent_away)
            return s;
    }
    return NULL;
}

/* Where messages may be refused, latency is that of those which are not, from when they are: how late that was is in
 * the generator's own figure. */
static bool write_one(struct lane *l, const struct plan *plan, uint64_t due)
{
    struct session *s = next_writer(l, plan, &l->arrivals[ACT_MESSAGE].cursor);
    if (!s || plan->accept <= 0)
        return s && message_create(s, due);
    if (!message_full(s, plan))
        return message_create(s, now_ns());
    l->tally->count[C_REFUSED]++;
    return true;
}

static bool stop_reading(struct session *s, const struct plan *plan, uint64_t due)
{
    double after = plan->after[0] + (plan->after[1] - plan->after[0]) * lane_random(s->lane);
    if (s->client.paused)
        return false;
    session_pause(s, due + (uint64_t)(after * (double)SECOND));
    return true;
}

/* False: nobody was there to do it. */
static bool perform(struct lane *l, enum activity a, const struct plan *plan, uint64_t due)
{
    unsigned *cursor = &l->arrivals[a].cursor;
    bool asks = a == ACT_ARCHIVE || a == ACT_ROSTER || a == ACT_PING;
    struct session *s;
    switch (a) {
    case ACT_CONNECT:
    case ACT_LOGIN:
        return come(l, due, a == ACT_LOGIN);
    case ACT_RECONNECT:
        return go(l, plan, due);
    case ACT_MAKE:
        s = next_to_make(l);
        if (s)
            make_start(s);
        return s;
    case ACT_MESSAGE:
        return write_one(l, plan, due);
    case ACT_GROUP:
        return group_create(l, cursor, due);
    default:
        if (!(s = session_next(l, cursor, asks)))
            return false;
        return a == ACT_PRESENCE  ? presence_send(s, due)
               : a == ACT_CSI     ? toggle(s)
               : a == ACT_PAUSE   ? stop_reading(s, plan, due)
               : a == ACT_ARCHIVE ? query_send(s, Q_ARCHIVE, due)
                                  : query_send(s, a == ACT_ROSTER ? Q_ROSTER : Q_PING, due);
    }
}

/* Open loop: everything that is due by now. */
static uint64_t perform_due(struct lane *l, enum activity a, uint64_t now)
{
    const struct plan *plan = &phase_now(l)->plan[a];
    for (int i = 0; i < BURST; i++) {
        uint64_t due = next_due(l, a);
        if (due > now)
            return due;
        l->arrivals[a].next += gap(l);
        hist_add(&l->tally->late, now_ns() - due);
        if (!perform(l, a, plan, due) && a != ACT_CONNECT && a != ACT_MAKE)
            l->tally->count[C_SKIPPED]++;
    }
    return now;
}

/* Closed loop: as many at a time as there may be. */
static void perform_parallel(struct lane *l, enum activity a)
{
    const struct plan *plan = &phase_now(l)->plan[a];
    unsigned limit = (unsigned)plan->parallel / run.lane_count;
    if (now_ns() >= phase_end())
        return;
    while ((a == ACT_MAKE ? l->making : l->logging_in) < (limit ? limit : 1))
        if (!perform(l, a, plan, now_ns()))
            return;
}

static uint64_t tick_activity(struct lane *l, enum activity a, uint64_t now)
{
    const struct plan *plan = &phase_now(l)->plan[a];
    bool answers = !run.config.relay || a == ACT_CONNECT || a == ACT_LOGIN || a == ACT_MESSAGE || a == ACT_RECONNECT ||
                   a == ACT_PAUSE;
    if (!plan->on || !answers || run.not_offered & 1u << a)
        return NEVER;
    if (plan->rate[0] > 0 || plan->rate[1] > 0)
        return perform_due(l, a, now);
    if (a == ACT_CONNECT || a == ACT_LOGIN || a == ACT_MAKE)
        perform_parallel(l, a);
    return NEVER;
}

/* ---- the turn ---- */

/* A share of the sessions leaves at once, and closed loops of messages begin. */
static void enter_phase(struct lane *l, int at)
{
    l->phase = at;
    l->phase_start = run.phase_start;
    l->done = false;
    l->made = 0;
    const struct phase *p = phase_now(l);
    for (int a = 0; a < ACTIVITIES; a++) {
        l->arrivals[a].next = run.scenario.poisson ? gap(l) : (double)l->index / run.lane_count;
        if (a == ACT_CONNECT || a == ACT_MAKE || (p && p->until_done))
            l->arrivals[a].cursor = 0; /* everybody once */
    }
    const struct plan *reconnect = p ? &p->plan[ACT_RECONNECT] : NULL;
    if (reconnect && reconnect->on && reconnect->rate[0] <= 0 && reconnect->rate[1] <= 0)
        for (unsigned n = (unsigned)ceil(l->online * reconnect->share / 100); n > 0; n--)
            go(l, reconnect, run.phase_start);
    for (unsigned i = 0; i < l->slots; i++) {
        struct session *s = &l->sessions[i];
        message_refill(s);
        if (at == PHASE_DRAIN && s->client.counting_out && s->out.acked != s->out.sent)
            client_send(&s->client, "<r xmlns='urn:xmpp:sm:3'/>", 26, 0);
        else if (at == PHASE_CLOSE && s->client.state != CLIENT_CLOSED)
            session_leave(s, false, 0);
    }
}

/* What was due in the phase that has ended and was not yet issued: late it may be, left out it must not be. */
static void finish_phase(struct lane *l, uint64_t end)
{
    for (int a = 0; a < ACTIVITIES && phase_now(l); a++) {
        const struct plan *plan = lane_plan(l, (enum activity)a);
        while (plan && (plan->rate[0] > 0 || plan->rate[1] > 0) && tick_activity(l, (enum activity)a, end) <= end)
            ;
    }
}

static void bring_back(struct lane *l, uint64_t now)
{
    for (unsigned i = 0; i < l->returning_count;) {
        struct returning r = l->returning[i];
        struct session *s = &l->sessions[r.slot];
        if (r.at > now) {
            i++;
            continue;
        }
        l->returning[i] = l->returning[--l->returning_count];
        if (s->stage == OFFLINE && l->phase < PHASE_CLOSE)
            session_open(s, r.at);
    }
}

static bool all_done(const struct lane *l)
{
    const struct phase *p = phase_now(l);
    if (!p || !p->until_done)
        return false;
    const struct plan *connect = &p->plan[ACT_CONNECT];
    bool connected = !connect->on || (l->arrivals[ACT_CONNECT].cursor >= plan_sessions(l, connect) && !l->logging_in);
    connected = connected && (!p->plan[ACT_LOGIN].on || (l->arrivals[ACT_LOGIN].cursor >= l->slots && !l->logging_in));
    bool made = !p->plan[ACT_MAKE].on || (l->arrivals[ACT_MAKE].cursor >= l->slots && !l->making);
    return connected && made && (!p->plan[ACT_GROUP].on || group_done(l));
}

static uint64_t turn(struct lane *l, uint64_t now)
{
    uint64_t next = now + TURN_MS * SECOND / 1000;
    int at = run.phase;
    if (at != l->phase) {
        finish_phase(l, run.phase_start);
        enter_phase(l, at);
    }
    bring_back(l, now);
    for (int a = 0; a < ACTIVITIES && phase_now(l); a++) {
        uint64_t due = tick_activity(l, (enum activity)a, now);
        next = due < next ? due : next;
    }
    session_timeouts(l, now);
    group_turn(l, now);
    l->done = all_done(l);
    l->tally->count[C_WIRE_IN] += client_traffic.in - l->traffic.in;
    l->tally->count[C_WIRE_OUT] += client_traffic.out - l->traffic.out;
    l->traffic = client_traffic;
    return next;
}

static void *lane_main(void *arg)
{
    struct lane *l = arg;
    struct epoll_event events[256];
    prctl(PR_SET_TIMERSLACK, 1000);
    while (run.phase != PHASE_STOP) {
        pthread_mutex_lock(&l->lock);
        uint64_t next = turn(l, now_ns()), now = now_ns();
        pthread_mutex_unlock(&l->lock);
        struct timespec wait = {0, next > now ? (long)(next - now) : 0};
        int n = epoll_pwait2(l->epoll_fd, events, 256, &wait, NULL);
        pthread_mutex_lock(&l->lock);
        for (int i = 0; i < n; i++)
            client_event(events[i].data.ptr);
        pthread_mutex_unlock(&l->lock);
    }
    for (unsigned i = 0; i < l->slots; i++)
        client_fail(&l->sessions[i].client, NULL);
    return NULL;
}

static void *need(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        abort();
    return p;
}

static void lane_make(struct lane *l, unsigned index, unsigned slots, unsigned first_user)
{
    l->index = index;
    l->slots = slots;
    l->first_user = first_user;
    l->phase = PHASE_NONE;
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->sessions = need(slots, sizeof *l->sessions);
    l->returning = need(slots, sizeof *l->returning);
    l->tally = need(1, sizeof *l->tally);
    l->rooms.room = need(run.occupants ? slots / run.occupants + 1 : 0, sizeof *l->rooms.room);
    strcpy(l->rooms.service, run.scenario.client.rooms);
    pthread_mutex_init(&l->lock, NULL);
    if (RAND_bytes((unsigned char *)&l->random, sizeof l->random) != 1)
        abort();
    l->random |= 1;
    for (unsigned i = 0; i < slots; i++) {
        struct session *s = &l->sessions[i];
        s->lane = l;
        s->slot = i;
        s->client.arg = s;
    }
}

void lanes_start(unsigned threads)
{
    unsigned pairs = ((unsigned)run.scenario.sessions + 1) / 2, first = 0;
    while (threads > 1 && (pairs / threads * 2 <= run.contacts || pairs / threads * 2 < run.occupants))
        threads--; /* circles and rooms lie inside of a lane */
    run.lane_count = threads < pairs ? threads : pairs;
    run.lanes = need(run.lane_count, sizeof *run.lanes);
    run.phase = PHASE_NONE;
    run.start = now_ns();
    for (unsigned i = 0; i < run.lane_count; i++) {
        unsigned slots = 2 * (pairs / run.lane_count + (i < pairs % run.lane_count));
        lane_make(&run.lanes[i], i, slots, first);
        first += slots;
    }
    for (unsigned i = 0; i < run.lane_count; i++)
        if (pthread_create(&run.lanes[i].thread, NULL, lane_main, &run.lanes[i]) != 0)
            abort();
}

static unsigned still_open(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < run.lane_count; i++) {
        struct lane *l = &run.lanes[i];
        pthread_mutex_lock(&l->lock);
        n += l->online + l->logging_in + (l->phase != PHASE_CLOSE);
        pthread_mutex_unlock(&l->lock);
    }
    return n;
}

void lanes_stop(void)
{
    run.phase = PHASE_CLOSE;
    for (int i = 0; i < 500 && still_open(); i++)
        usleep(10000);
    run.phase = PHASE_STOP;
    for (unsigned i = 0; i < run.lane_count; i++)
        pthread_join(run.lanes[i].thread, NULL);
}
