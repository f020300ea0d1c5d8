#include "scenario.h"

#include "figures.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

const char *const activity_names[ACTIVITIES] = {"connect", "login",  "make", "message",   "group", "presence",
                                                "archive", "roster", "ping", "reconnect", "csi",   "pause"};

static const char *const activity_about[ACTIVITIES] = {
    "offline sessions come online and stay",
    "offline sessions log in and leave at once",
    "rosters and subscriptions are made where they are missing",
    "one of a pair of sessions writes to the other",
    "one of a room writes to all in it, itself too (XEP-0045); without rate they only join",
    "a session tells its contacts a new status",
    "pages of the own archive, from the newest backwards (XEP-0313)",
    "the whole roster is asked for",
    "the server is pinged (XEP-0199)",
    "sessions go and come back",
    "a session becomes inactive, or active again (XEP-0352)",
    "a session stops reading for a while",
};

/* ---- what there is ---- */

enum type { NUMBER, WHOLE, RANGE, WORD, TEXT }; /* RANGE: one number or a list of two; TEXT: max is the room */

struct key {
    const char *name;
    enum type type;
    size_t offset;
    double min, max;
    const char *about;
    const char *words[2]; /* of false and true */
    unsigned of;          /* activities, as bits */
};

#define YES_NO                                                                                                         \
    {                                                                                                                  \
        "false", "true"                                                                                                \
    }
#define A(activity) (1u << ACT_##activity)
#define RATED                                                                                                          \
    (A(LOGIN) | A(MESSAGE) | A(GROUP) | A(PRESENCE) | A(ARCHIVE) | A(ROSTER) | A(PING) | A(RECONNECT) | A(CSI) |       \
     A(CONNECT) | A(MAKE) | A(PAUSE))

#define S(field) offsetof(struct scenario, field)
static const struct key scenario_keys_table[] = {
    {"name", TEXT, S(name), 1, sizeof(((struct scenario *)0)->name), "what reports call it"},
    {"about", TEXT, S(about), 1, sizeof(((struct scenario *)0)->about), "one line"},
    {"sessions", WHOLE, S(sessions), 2, 1e6, "accounts user0, user1, ... that take part, one session each"},
    {"arrival", WORD, S(poisson), 0, 0, "gaps between arrivals", {"even", "poisson"}},
    {"drain", NUMBER, S(drain), 0, 3600, "at the end, seconds without any late message before the rest counts as lost"},
    {"available", NUMBER, S(available), 0.001, 3600,
     "seconds within which an operation must be done to count as served"},
};

#define H(field) offsetof(struct habits, field)
static const struct key habit_keys[] = {
    {"presence", WORD, H(presence), 0, 0, "sends initial presence", YES_NO},
    {"roster", WORD, H(roster), 0, 0, "asks for the roster when it logs in", YES_NO},
    {"catch_up", WHOLE, H(catch_up), 0, 1000, "newest messages of the archive that it asks for when it logs in"},
    {"sm", WORD, H(sm), 0, 0,
     "stream management (XEP-0198); what is not acknowledged is sent again in the next session", YES_NO},
    {"resume", WORD, H(resume), 0, 0, "with sm: resumes after a cut", YES_NO},
    {"origin_id", WORD, H(origin_id), 0, 0, "messages carry an origin-id (XEP-0359)", YES_NO},
    {"reconnect", NUMBER, H(reconnect), 0, 3600,
     "seconds until it comes back when it was cut off, give or take a half; 0: never"},
    {"rooms", TEXT, H(rooms), 1, sizeof(((struct habits *)0)->rooms),
     "the service with rooms (XEP-0045); without, the server is asked for it"},
};

#define P(field) offsetof(struct phase, field)
static const struct key phase_keys[] = {
    {"name", TEXT, P(name), 1, sizeof(((struct phase *)0)->name), "letters, digits, - and _"},
    {"seconds", NUMBER, P(seconds), 0.1, 1e6, "how long; with until: done at most"},
    {"until",
     WORD,
     P(until_done),
     0,
     0,
     "done: ends when connect, login or make were everybody's turn once, and all of group are in",
     {"time", "done"}},
    {"measure", WORD, P(measure), 0, 0, "counts into the figures (lost, doubled and the like are always counted)",
     YES_NO},
};

#define F(field) offsetof(struct plan, field)
static const struct key plan_keys[] = {
    {"rate", RANGE, F(rate), 0, 1e7, "a second, all sessions together; [from, to] is a ramp", .of = RATED},
    {"parallel", WHOLE, F(parallel), 1, 1e6, "so many at a time (group: join)",
     .of = A(CONNECT) | A(LOGIN) | A(MAKE) | A(GROUP)},
    {"window", WHOLE, F(window), 1, 256, "without rate: so many on their way per session", .of = A(MESSAGE)},
    {"accept", WHOLE, F(accept), 0, 1e6,
     "with rate: a session with so many on their way, or one whose socket takes no more, refuses what is due; 0: none "
     "does",
     .of = A(MESSAGE)},
    {"pairs", WHOLE, F(pairs), 0, 5e5, "so many pairs come or write, at least one a thread; 0: all",
     .of = A(CONNECT) | A(MESSAGE)},
    {"body", WHOLE, F(body), 44, 8192, "bytes of a message's body", .of = A(MESSAGE) | A(GROUP)},
    {"ack_every", WHOLE, F(ack_every), 1, 256, "with sm: an acknowledgement is asked for so often",
     .of = A(MESSAGE) | A(GROUP)},
    {"store", WORD, F(store), 0, 0, "false: messages carry <no-store/> (XEP-0334)", YES_NO, A(MESSAGE) | A(GROUP)},
    {"page", WHOLE, F(page), 1, 1000, "messages in a page", .of = A(ARCHIVE)},
    {"pages", WHOLE, F(pages), 1, 1000, "pages that are read one after the other", .of = A(ARCHIVE)},
    {"share", NUMBER, F(share), 0.001, 100, "without rate: per cent of the sessions, all at once", .of = A(RECONNECT)},
    {"after", RANGE, F(after), 0, 3600, "seconds until they come back, or read again; [from, to] is evenly spread",
     .of = A(RECONNECT) | A(PAUSE)},
    {"cut", WORD, F(cut), 0, 0, "the connection just ends; false: the stream is closed first", YES_NO, A(RECONNECT)},
    {"contacts", WHOLE, F(contacts), 0, 64, "other sessions each is mutually subscribed to; even", .of = A(MAKE)},
    {"items", WHOLE, F(items), 0, 2000, "roster items without subscription besides", .of = A(MAKE)},
    {"occupants", WHOLE, F(occupants), 2, 1000, "sessions in a room", .of = A(GROUP)},
};
#define COUNT(table) (sizeof(table) / sizeof *(table))

static const struct plan plan_defaults = {.parallel = 16,
                                          .window = 4,
                                          .body = 100,
                                          .ack_every = 1,
                                          .page = 50,
                                          .pages = 1,
                                          .share = 100,
                                          .contacts = 10,
                                          .occupants = 20,
                                          .store = true,
                                          .cut = true};
static const struct phase phase_defaults = {.measure = true};
static const struct scenario scenario_defaults = {
    .name = "", .drain = 10, .available = 1, .client = {.presence = true}};

/* ---- reading ---- */

struct reader {
    const char *name;
    yaml_document_t doc;
    FILE *errors;
    unsigned mistakes;
};

static __attribute__((format(printf, 3, 4))) void mistake(struct reader *r, const yaml_node_t *at, const char *format,
                                                          ...)
{
    va_list ap;
    r->mistakes++;
    fprintf(r->errors, "%s:%zu: ", r->name, at ? at->start_mark.line + 1 : 1);
    va_start(ap, format);
    vfprintf(r->errors, format, ap);
    va_end(ap);
    fputc('\n', r->errors);
}

static yaml_node_t *node(struct reader *r, int index)
{
    return yaml_document_get_node(&r->doc, index);
}

static const char *scalar(const yaml_node_t *n)
{
    return n && n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : NULL;
}

static void allowed(const struct key *k, char *out, size_t size)
{
    switch (k->type) {
    case WORD:
        snprintf(out, size, "%s or %s", k->words[0], k->words[1]);
        break;
    case TEXT:
        snprintf(out, size, "text of 1 to %.0f bytes", k->max - 1);
        break;
    default:
        snprintf(out, size, "a %snumber from %g to %g%s", k->type == WHOLE ? "whole " : "", k->min, k->max,
                 k->type == RANGE ? ", or [from, to]" : "");
    }
}

static bool read_number(const struct key *k, const char *text, double *out)
{
    char *end;
    if (!text || !*text)
        return false;
    *out = strtod(text, &end);
    return !*end && *out >= k->min && *out <= k->max && (k->type != WHOLE || *out == (double)(long)*out);
}

static bool read_range(struct reader *r, const struct key *k, const yaml_node_t *n, double out[2])
{
    if (n->type != YAML_SEQUENCE_NODE) {
        bool fine = read_number(k, scalar(n), &out[0]);
        out[1] = out[0];
        return fine;
    }
    yaml_node_item_t *item = n->data.sequence.items.start;
    return n->data.sequence.items.top - item == 2 && read_number(k, scalar(node(r, item[0])), &out[0]) &&
           read_number(k, scalar(node(r, item[1])), &out[1]);
}

static bool read_word(const struct key *k, const char *text, bool *out)
{
    for (int i = 0; text && i < 2; i++)
        if (strcmp(text, k->words[i]) == 0) {
            *out = i;
            return true;
        }
    return false;
}

static bool read_text(const struct key *k, const char *text, char *out)
{
    return text && *text && strlen(text) < (size_t)k->max && strcpy(out, text);
}

static void read_value(struct reader *r, const struct key *k, const yaml_node_t *n, void *base)
{
    void *out = (char *)base + k->offset;
    char what[120];
    bool fine = k->type == WORD    ? read_word(k, scalar(n), out)
                : k->type == TEXT  ? read_text(k, scalar(n), out)
                : k->type == RANGE ? read_range(r, k, n, out)
                                   : read_number(k, scalar(n), out);
    if (fine)
        return;
    allowed(k, what, sizeof what);
    mistake(r, n, "%s: %s is allowed", k->name, what);
}

static const struct key *find_key(const struct key *table, size_t count, const char *name, unsigned of)
{
    for (size_t i = 0; i < count; i++)
        if (name && strcmp(table[i].name, name) == 0 && (!of || table[i].of & of))
            return &table[i];
    return NULL;
}

static void list_keys(FILE *to, const struct key *table, size_t count, unsigned of)
{
    for (size_t i = 0, n = 0; i < count; i++)
        if (!of || table[i].of & of)
            fprintf(to, "%s%s", n++ ? ", " : "", table[i].name);
}

/* A map whose keys are those of the table; what the table does not know goes to other(), which says whether it does. */
struct map {
    const char *what;
    const struct key *keys;
    size_t count;
    unsigned of;
    bool (*other)(struct reader *r, void *base, const char *name, const yaml_node_t *value);
    const char *others; /* their names, for the message */
};

static void read_map(struct reader *r, const struct map *m, const yaml_node_t *n, void *base)
{
    const char *seen[32];
    size_t count = 0;
    if (n->type != YAML_MAPPING_NODE) {
        mistake(r, n, "%s: a map is needed", m->what);
        return;
    }
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = node(r, p->key), *value = node(r, p->value);
        const char *name = scalar(key);
        const struct key *k = find_key(m->keys, m->count, name, m->of);
        for (size_t i = 0; name && i < count; i++)
            if (strcmp(seen[i], name) == 0)
                mistake(r, key, "%s: %s is there twice", m->what, name);
        if (name && count < COUNT(seen))
            seen[count++] = name;
        if (k) {
            read_value(r, k, value, base);
        } else if (!name || !m->other || !m->other(r, base, name, value)) {
            mistake(r, key, "%s: no such key: %s; there are:", m->what, name ? name : "(not a word)");
            fputs("    ", r->errors);
            list_keys(r->errors, m->keys, m->count, m->of);
            fprintf(r->errors, "%s%s\n", m->others ? ", " : "", m->others ? m->others : "");
        }
    }
}

static void read_plan(struct reader *r, struct plan *plan, enum activity a, const yaml_node_t *n)
{
    struct map m = {activity_names[a], plan_keys, COUNT(plan_keys), 1u << a};
    if (!plan->on)
        *plan = plan_defaults;
    plan->on = true;
    read_map(r, &m, n, plan);
}

static bool read_activity(struct reader *r, void *base, const char *name, const yaml_node_t *value)
{
    struct phase *phase = base;
    for (int a = 0; a < ACTIVITIES; a++)
        if (strcmp(name, activity_names[a]) == 0) {
            read_plan(r, &phase->plan[a], (enum activity)a, value);
            return true;
        }
    return false;
}

static const struct map phase_map = {
    "phase",           phase_keys,
    COUNT(phase_keys), 0,
    read_activity,     "connect, login, make, message, group, presence, archive, roster, ping, reconnect, csi, pause"};

static void read_phases(struct reader *r, struct scenario *s, const yaml_node_t *n)
{
    if (n->type != YAML_SEQUENCE_NODE) {
        mistake(r, n, "phases: a list of phases is needed");
        return;
    }
    s->phase_count = 0;
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        if (s->phase_count == MAX_PHASES) {
            mistake(r, n, "phases: at most %d", MAX_PHASES);
            return;
        }
        struct phase *phase = &s->phases[s->phase_count++];
        *phase = phase_defaults;
        read_map(r, &phase_map, node(r, *i), phase);
        if (!phase->name[0] ||
            strspn(phase->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") !=
                strlen(phase->name))
            mistake(r, node(r, *i), "phase: a name of letters, digits, - and _ is needed");
        if (phase->seconds <= 0 && !phase->until_done)
            mistake(r, node(r, *i), "phase %s: seconds (or until: done) is needed", phase->name);
        if (phase->seconds <= 0)
            phase->seconds = 600;
    }
}

static void read_thresholds(struct reader *r, struct scenario *s, const yaml_node_t *n)
{
    if (n->type != YAML_SEQUENCE_NODE) {
        mistake(r, n, "thresholds: a list is needed");
        return;
    }
    s->threshold_count = 0;
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        const yaml_node_t *line = node(r, *i);
        if (s->threshold_count == MAX_THRESHOLDS)
            mistake(r, line, "thresholds: at most %d", MAX_THRESHOLDS);
        else if (!scalar(line) || !threshold_parse(&s->thresholds[s->threshold_count++], scalar(line)))
            mistake(r, line, "thresholds: FIGURE < NUMBER is needed (or <=, ==, !=, >=, >), as in: lost == 0");
        else if (!figure_known(s->thresholds[s->threshold_count - 1].figure))
            mistake(r, line, "thresholds: no figure is called %s; `rookery-bench keys` lists them",
                    s->thresholds[s->threshold_count - 1].figure);
        if (s->threshold_count == MAX_THRESHOLDS)
            break;
    }
}

static bool read_part(struct reader *r, void *base, const char *name, const yaml_node_t *value)
{
    static const struct map client = {"client", habit_keys, COUNT(habit_keys)};
    struct scenario *s = base;
    if (strcmp(name, "client") == 0)
        read_map(r, &client, value, &s->client);
    else if (strcmp(name, "phases") == 0)
        read_phases(r, s, value);
    else if (strcmp(name, "thresholds") == 0)
        read_thresholds(r, s, value);
    else
        return false;
    return true;
}

static const struct map scenario_map = {"scenario", scenario_keys_table, COUNT(scenario_keys_table),
                                        0,          read_part,           "client, phases, thresholds"};

/* Loads one document; false after telling what libyaml does not like. */
static bool load(struct reader *r, const char *yaml, size_t len)
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        abort();
    yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, len);
    bool fine = yaml_parser_load(&parser, &r->doc);
    if (!fine)
        fprintf(r->errors, "%s:%zu: %s\n", r->name, parser.problem_mark.line + 1,
                parser.problem ? parser.problem : "not YAML");
    yaml_parser_delete(&parser);
    return fine;
}

bool scenario_parse(struct scenario *s, const char *name, const char *yaml, size_t len, FILE *errors)
{
    struct reader r = {.name = name, .errors = errors};
    *s = scenario_defaults;
    if (!load(&r, yaml, len))
        return false;
    const yaml_node_t *root = yaml_document_get_root_node(&r.doc);
    if (!root)
        mistake(&r, NULL, "the file is empty");
    else
        read_map(&r, &scenario_map, root, s);
    if (root && (!s->name[0] || s->sessions <= 0 || s->phase_count == 0))
        mistake(&r, root, "scenario: name, sessions and phases are needed");
    yaml_document_delete(&r.doc);
    return r.mistakes == 0;
}

bool scenario_read(struct scenario *s, const char *path, FILE *errors)
{
    enum { LIMIT = 65536 };
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(errors, "%s: cannot be read\n", path);
        return false;
    }
    char *yaml = malloc(LIMIT);
    size_t len = yaml ? fread(yaml, 1, LIMIT, f) : LIMIT;
    fclose(f);
    bool fine = len < LIMIT;
    if (!fine)
        fprintf(errors, "%s: larger than %d bytes\n", path, LIMIT - 1);
    fine = fine && scenario_parse(s, path, yaml, len, errors);
    free(yaml);
    return fine;
}

/* ---- changing one value ---- */

/* PHASE.KEY or PHASE.ACTIVITY.KEY; the number of places it was set at. */
static unsigned set_in_phases(struct reader *r, struct scenario *s, const char *phase, const char *key,
                              const yaml_node_t *value)
{
    unsigned hits = 0;
    char activity[32] = "";
    const char *dot = strchr(key, '.');
    if (dot)
        snprintf(activity, sizeof activity, "%.*s", (int)(dot - key), key);
    for (struct phase *p = s->phases; p < s->phases + s->phase_count; p++) {
        if (strcmp(phase, "*") && strcmp(phase, p->name))
            continue;
        const struct key *k = dot ? NULL : find_key(phase_keys, COUNT(phase_keys), key, 0);
        if (k)
            read_value(r, k, value, p), hits++;
        for (unsigned a = 0; a < ACTIVITIES && dot; a++)
            if (p->plan[a].on && strcmp(activity, activity_names[a]) == 0 &&
                (k = find_key(plan_keys, COUNT(plan_keys), dot + 1, 1u << a)))
                read_value(r, k, value, &p->plan[a]), hits++;
    }
    return hits;
}

static unsigned set_one(struct reader *r, struct scenario *s, const char *path, const yaml_node_t *value)
{
    const char *dot = strchr(path, '.');
    char head[48];
    const struct key *k = dot ? NULL : find_key(scenario_keys_table, COUNT(scenario_keys_table), path, 0);
    if (k)
        return read_value(r, k, value, s), 1;
    if (!dot)
        return 0;
    snprintf(head, sizeof head, "%.*s", (int)(dot - path), path);
    if (strcmp(head, "client"))
        return set_in_phases(r, s, head, dot + 1, value);
    k = find_key(habit_keys, COUNT(habit_keys), dot + 1, 0);
    return k ? (read_value(r, k, value, &s->client), 1) : 0;
}

bool scenario_set(struct scenario *s, const char *assignment, FILE *errors)
{
    struct reader r = {.name = assignment, .errors = errors};
    char path[128];
    const char *equals = strchr(assignment, '=');
    if (!equals || (size_t)(equals - assignment) >= sizeof path) {
        fprintf(errors, "%s: KEY=VALUE is needed\n", assignment);
        return false;
    }
    snprintf(path, sizeof path, "%.*s", (int)(equals - assignment), assignment);
    if (!load(&r, equals + 1, strlen(equals + 1)))
        return false;
    const yaml_node_t *value = yaml_document_get_root_node(&r.doc);
    if (!value || !set_one(&r, s, path, value))
        mistake(&r, value, "nothing in the scenario is called %s", path);
    yaml_document_delete(&r.doc);
    return r.mistakes == 0;
}

/* ---- checking, thresholds, help ---- */

bool scenario_check(const struct scenario *s, FILE *errors)
{
    unsigned mistakes = 0;
    double occupants = 0;
    for (const struct phase *p = s->phases; p < s->phases + s->phase_count; p++) {
        const struct plan *login = &p->plan[ACT_LOGIN], *make = &p->plan[ACT_MAKE];
        const struct plan *group = &p->plan[ACT_GROUP];
        if (p->until_done && !p->plan[ACT_CONNECT].on && !make->on && !login->on && !group->on)
            mistakes++,
                fprintf(errors, "%s: phase %s: until: done needs connect, login, make or group\n", s->name, p->name);
        if (group->on && (group->occupants > s->sessions || (occupants > 0 && group->occupants != occupants)))
            mistakes++, fprintf(errors, "%s: phase %s: occupants must be the same everywhere, at most sessions\n",
                                s->name, p->name);
        occupants = group->on ? group->occupants : occupants;
        if (login->on && p->plan[ACT_CONNECT].on)
            mistakes++, fprintf(errors, "%s: phase %s: login and connect want the same sessions\n", s->name, p->name);
        if (make->on && ((long)make->contacts % 2 || make->contacts >= s->sessions))
            mistakes++,
                fprintf(errors, "%s: phase %s: contacts must be even and fewer than sessions\n", s->name, p->name);
        for (int a = ACT_PRESENCE; a < ACTIVITIES; a++)
            if (p->plan[a].on && a != ACT_RECONNECT && p->plan[a].rate[0] <= 0 && p->plan[a].rate[1] <= 0)
                mistakes++, fprintf(errors, "%s: phase %s: %s needs a rate\n", s->name, p->name, activity_names[a]);
    }
    if ((long)s->sessions % 2)
        mistakes++, fprintf(errors, "%s: sessions must be even: they are pairs\n", s->name);
    if (s->client.resume && !s->client.sm)
        mistakes++, fprintf(errors, "%s: client: resume needs sm\n", s->name);
    return mistakes == 0;
}

bool threshold_parse(struct threshold *t, const char *text)
{
    static const char *const signs[] = {
        [BELOW] = "<", [AT_MOST] = "<=", [EQUAL] = "==", [AT_LEAST] = ">=", [ABOVE] = ">", [DIFFERENT] = "!="};
    char sign[3], rest[2];
    if (strlen(text) >= sizeof t->text ||
        sscanf(text, " %47[a-z0-9_] %2[<>=!] %lf %1s", t->figure, sign, &t->value, rest) != 3)
        return false;
    strcpy(t->text, text);
    for (unsigned i = 0; i < COUNT(signs); i++)
        if (strcmp(sign, signs[i]) == 0) {
            t->is = i;
            return true;
        }
    return false;
}

bool threshold_met(const struct threshold *t, double v)
{
    switch (t->is) {
    case BELOW:
        return v < t->value;
    case AT_MOST:
        return v <= t->value;
    case EQUAL:
        return v == t->value;
    case AT_LEAST:
        return v >= t->value;
    case ABOVE:
        return v > t->value;
    default:
        return v != t->value;
    }
}

static void print_keys(FILE *to, const char *title, const struct key *table, size_t count, unsigned of)
{
    char what[120];
    fprintf(to, "%s\n", title);
    for (const struct key *k = table; k < table + count; k++) {
        if (of && !(k->of & of))
            continue;
        allowed(k, what, sizeof what);
        fprintf(to, "    %-10s %s\n               %s\n", k->name, k->about, what);
    }
}

void scenario_keys(FILE *to)
{
    char title[200];
    print_keys(to, "A scenario:", scenario_keys_table, COUNT(scenario_keys_table), 0);
    print_keys(to, "client: how every session behaves", habit_keys, COUNT(habit_keys), 0);
    print_keys(to, "phases: a list, each with", phase_keys, COUNT(phase_keys), 0);
    for (unsigned a = 0; a < ACTIVITIES; a++) {
        snprintf(title, sizeof title, "  %s: %s", activity_names[a], activity_about[a]);
        print_keys(to, title, plan_keys, COUNT(plan_keys), 1u << a);
    }
}
