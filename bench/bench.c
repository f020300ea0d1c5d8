/* rookery-bench: drives an XMPP server as a scenario says, and measures it. --help, `keys`, bench/README.md. */
#include "conduct.h"
#include "fault.h"
#include "report.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef SCENARIO_DIR
#define SCENARIO_DIR "bench/scenarios"
#endif

enum { SETS_MAX = 64, SOURCES_LIMIT = 65536 };

static struct options {
    const char *host, *port, *domain, *password, *cipher, *mechanism, *json, *html, *label;
    double threads;
    bool direct, relay, quiet, help;
    const char *sets[SETS_MAX];
    unsigned set_count;
} opt = {.host = "127.0.0.1",
         .port = "5222",
         .domain = "localhost",
         .password = "secret",
         .cipher = "TLS_AES_256_GCM_SHA384",
         .mechanism = "SCRAM-SHA-1",
         .label = ""};

static struct in_addr *sources;
static unsigned source_count;

/* ---- command line ---- */

static bool add_set(const char *text)
{
    if (opt.set_count == SETS_MAX)
        return false;
    opt.sets[opt.set_count++] = text;
    return true;
}

/* "A-B" or "A" of IPv4. */
static bool add_range(char *range)
{
    struct in_addr from, to;
    char *dash = strchr(range, '-');
    if (dash)
        *dash = 0;
    if (inet_pton(AF_INET, range, &from) != 1 || inet_pton(AF_INET, dash ? dash + 1 : range, &to) != 1)
        return false;
    for (uint32_t a = ntohl(from.s_addr); a <= ntohl(to.s_addr); a++) {
        if (source_count == SOURCES_LIMIT)
            return false;
        sources = realloc(sources, (source_count + 1) * sizeof *sources);
        if (!sources)
            abort();
        sources[source_count++].s_addr = htonl(a);
    }
    return source_count;
}

static bool add_sources(const char *text)
{
    char *copy = strdup(text), *rest = copy;
    bool fine = true;
    for (char *range; fine && (range = strsep(&rest, ","));)
        fine = add_range(range);
    free(copy);
    return fine;
}

static const struct setting {
    const char *name;
    enum { FLAG, NUMBER, TEXT, CALL } kind;
    void *value;
    bool (*call)(const char *text);
    const char *about;
} settings[] = {
    {"host", TEXT, &opt.host, .about = "server's address"},
    {"port", TEXT, &opt.port, .about = "its port, or PORT,PORT...: nodes of a cluster; users are spread over them"},
    {"domain", TEXT, &opt.domain, .about = "domain of the accounts user0, user1, ..."},
    {"password", TEXT, &opt.password, .about = "password of them all"},
    {"mechanism", TEXT, &opt.mechanism, .about = "SCRAM-SHA-1, SCRAM-SHA-256 or PLAIN"},
    {"direct", FLAG, &opt.direct, .about = "TLS from the first byte (XEP-0368) instead of STARTTLS"},
    {"cipher", TEXT, &opt.cipher, .about = "TLS 1.3 cipher suite to offer"},
    {"relay", FLAG, &opt.relay, .about = "the server is rookery-relay: only connect and message work"},
    {"source", CALL, .call = add_sources, .about = "addresses to connect from: A,B,C-D (IPv4; 127.0.0.2-127.0.3.255)"},
    {"threads", NUMBER, &opt.threads, .about = "threads of the generator (default: one per core)"},
    {"set", CALL, .call = add_set,
     .about = "KEY=VALUE: changes the scenario: sessions=20, client.sm=true, steady.message.rate=9; * is any phase"},
    {"pid", CALL, .call = server_add_pids,
     .about = "[ROLE=]PID,PID...: measure these; PID may be a pid file (with a /); PID+: with children"},
    {"metrics", CALL, .call = server_add_metrics, .about = "[ROLE=]http://HOST:PORT/metrics: measure by that"},
    {"at", TEXT, NULL,
     .about = "30s COMMAND: run it then, counted from the first measured phase; PHASE+5s: from that one"},
    {"label", TEXT, &opt.label, .about = "what comparisons call this server"},
    {"json", TEXT, &opt.json, .about = "write the result there (- is standard output)"},
    {"html", TEXT, &opt.html, .about = "write a report there"},
    {"quiet", FLAG, &opt.quiet, .about = "no progress line (there is none either when standard error is no terminal)"},
    {"help", FLAG, &opt.help, .about = "this text"},
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static void usage(FILE *to)
{
    fputs("Usage: rookery-bench SCENARIO [--OPTION [VALUE]]...     a file, or the name of one in " SCENARIO_DIR "\n"
          "       rookery-bench compare RESULT.json... [--html FILE]   medians by scenario and label\n"
          "       rookery-bench report RESULT.json [--html FILE]       the HTML report again\n"
          "       rookery-bench plot FILE.json [--html FILE]           lines on axes, for scripts\n"
          "       rookery-bench check SCENARIO...                      is it right?\n"
          "       rookery-bench keys                                   what scenarios may say; figures\n\nOptions:\n",
          to);
    for (const struct setting *s = settings; s < settings + SETTINGS; s++) {
        fprintf(to, "  --%-10s %s", s->name, s->about);
        if (s->kind == TEXT && s->value && *(const char **)s->value && **(const char **)s->value)
            fprintf(to, " (%s)", *(const char **)s->value);
        fputc('\n', to);
    }
    fputs("\nEnds with 0 when all thresholds are met, 1 when one is not or a command of --at failed, 2 if misused.\n",
          to);
}

static bool set_option(const struct setting *s, int argc, char **argv)
{
    char *end;
    switch (s->kind) {
    case FLAG:
        *(bool *)s->value = true;
        return true;
    case CALL:
        return s->call(optarg);
    case NUMBER:
        *(double *)s->value = strtod(optarg, &end);
        return end != optarg && !*end && *(double *)s->value >= 1 && *(double *)s->value <= 256;
    default:
        if (!s->value) /* --at takes two words */
            return optind < argc && fault_add(optarg, argv[optind++]);
        *(const char **)s->value = optarg;
        return true;
    }
}

static bool parse(int argc, char **argv)
{
    struct option names[SETTINGS + 1] = {{0}};
    for (int i = 0; i < SETTINGS; i++)
        names[i] = (struct option){settings[i].name, settings[i].kind != FLAG, NULL, i};
    for (int i; (i = getopt_long(argc, argv, "", names, NULL)) != -1;)
        if (i == '?' || !set_option(&settings[i], argc, argv)) {
            if (i != '?')
                fprintf(stderr, "rookery-bench: --%s: bad value; %s\n", settings[i].name, settings[i].about);
            return false;
        }
    return true;
}

/* ---- reading and writing ---- */

static bool read_scenario(struct scenario *s, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s", name);
    if (access(path, R_OK) != 0 && !strchr(name, '/'))
        snprintf(path, sizeof path, "%s/%s.yml", SCENARIO_DIR, name);
    if (!scenario_read(s, path, stderr))
        return false;
    for (unsigned i = 0; i < opt.set_count; i++)
        if (!scenario_set(s, opt.sets[i], stderr))
            return false;
    return scenario_check(s, stderr);
}

static FILE *open_out(const char *path)
{
    FILE *f = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
    if (!f)
        fprintf(stderr, "rookery-bench: %s: %s\n", path, strerror(errno));
    return f;
}

static bool close_out(FILE *f)
{
    return f == stdout ? fflush(f) == 0 : fclose(f) == 0;
}

static bool write_results(const json_t *result)
{
    FILE *f;
    if (opt.json) {
        if (!(f = open_out(opt.json)))
            return false;
        json_dumpf(result, f, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
        fputc('\n', f);
        if (!close_out(f))
            return false;
    }
    if (opt.html) {
        if (!(f = open_out(opt.html)))
            return false;
        html_report(result, f);
        return close_out(f);
    }
    return true;
}

/* An array of the results in files; NULL after telling which is none. */
static json_t *load_results(int count, char **paths)
{
    json_t *all = json_array();
    for (int i = 0; i < count; i++) {
        json_error_t error;
        json_t *one = json_load_file(paths[i], 0, &error);
        if (!json_is_object(json_object_get(one, "figures")) || !json_is_string(json_object_get(one, "scenario"))) {
            fprintf(stderr, "rookery-bench: %s: no result of rookery-bench%s%s\n", paths[i], one ? "" : ": ",
                    one ? "" : error.text);
            json_decref(one);
            json_decref(all);
            return NULL;
        }
        json_array_append_new(all, one);
    }
    return all;
}

/* ---- the run ---- */

/* A node for each of the ports. */
static bool find_nodes(void)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    char ports[512], *rest = ports, *port;
    snprintf(ports, sizeof ports, "%s", opt.port);
    while ((port = strsep(&rest, ",")) && run.node_count < NODES_MAX) {
        int e = getaddrinfo(opt.host, port, &hints, &found);
        if (e) {
            fprintf(stderr, "rookery-bench: %s, port %s: %s\n", opt.host, port, gai_strerror(e));
            return false;
        }
        struct client_config *n = &run.nodes[run.node_count++];
        *n = run.config;
        memcpy(&n->addr, found->ai_addr, found->ai_addrlen);
        n->addr_len = found->ai_addrlen;
        freeaddrinfo(found);
    }
    return true;
}

static bool find_mechanism(void)
{
    static const char *const names[] = {
        [SCRAM_SHA_1] = "SCRAM-SHA-1", [SCRAM_SHA_256] = "SCRAM-SHA-256", [PLAIN] = "PLAIN"};
    for (unsigned i = 0; i < 3; i++)
        if (strcmp(opt.mechanism, names[i]) == 0) {
            run.config.mechanism = i;
            return true;
        }
    fprintf(stderr, "rookery-bench: --mechanism: SCRAM-SHA-1, SCRAM-SHA-256 or PLAIN\n");
    return false;
}

static bool configure(void)
{
    run.config = (struct client_config){.domain = opt.domain,
                                        .password = opt.password,
                                        .sm = run.scenario.client.sm,
                                        .resumable = run.scenario.client.resume,
                                        .direct_tls = opt.direct || opt.relay,
                                        .relay = opt.relay,
                                        .sources = sources,
                                        .source_count = source_count};
    for (unsigned i = 0; i < run.scenario.phase_count; i++) {
        const struct plan *make = &run.scenario.phases[i].plan[ACT_MAKE],
                          *group = &run.scenario.phases[i].plan[ACT_GROUP];
        if (make->on && make->contacts > run.contacts)
            run.contacts = (unsigned)make->contacts;
        if (group->on)
            run.occupants = (unsigned)group->occupants;
        run.config.tight = run.config.tight || run.scenario.phases[i].plan[ACT_MESSAGE].accept > 0;
    }
    SSL_CTX *tls = run.config.tls = SSL_CTX_new(TLS_client_method());
    if (!tls || SSL_CTX_set_ciphersuites(tls, opt.cipher) != 1) {
        fprintf(stderr, "rookery-bench: %s: no such cipher suite\n", opt.cipher);
        return false;
    }
    SSL_CTX_set_mode(tls,
                     SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return find_mechanism() && find_nodes() && RAND_bytes((unsigned char *)&run.id, sizeof run.id) == 1;
}

static void raise_limits(void)
{
    struct rlimit files;
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if ((double)files.rlim_cur < run.scenario.sessions + 100)
        fprintf(stderr, "rookery-bench: only %llu descriptors for %.0f sessions (ulimit -Hn)\n",
                (unsigned long long)files.rlim_cur, run.scenario.sessions);
}

static int do_run(const char *name)
{
    static struct measured m;
    if (!read_scenario(&run.scenario, name) || !faults_check(&run.scenario, stderr) || !configure())
        return 2;
    raise_limits();
    conduct(&m, opt.threads >= 1 ? (unsigned)opt.threads : (unsigned)sysconf(_SC_NPROCESSORS_ONLN),
            !opt.quiet && isatty(STDERR_FILENO));
    json_t *result = result_make(&m, opt.label);
    if (!result) {
        fprintf(stderr, "rookery-bench: a label or a command is not UTF-8\n");
        return 2;
    }
    bool ok = result_judge(result, &run.scenario);
    if (!opt.json || strcmp(opt.json, "-"))
        result_print(result, stdout);
    if (!write_results(result))
        return 2;
    json_decref(result);
    return ok ? 0 : 1;
}

/* ---- other commands ---- */

static int do_compare(int count, char **paths)
{
    json_t *results = count ? load_results(count, paths) : NULL;
    if (!results)
        return 2;
    compare_print(results, stdout);
    FILE *f = opt.html ? open_out(opt.html) : NULL;
    if (f)
        compare_html(results, f);
    bool fine = !opt.html || (f && close_out(f));
    json_decref(results);
    return fine ? 0 : 2;
}

static int do_report(int count, char **paths)
{
    json_t *results = count == 1 ? load_results(count, paths) : NULL;
    FILE *f = results ? open_out(opt.html ? opt.html : "-") : NULL;
    if (!f)
        return 2;
    html_report(json_array_get(results, 0), f);
    json_decref(results);
    return close_out(f) ? 0 : 2;
}

static int do_plot(int count, char **paths)
{
    json_error_t error;
    json_t *page = count == 1 ? json_load_file(paths[0], 0, &error) : NULL;
    FILE *f = page ? open_out(opt.html ? opt.html : "-") : NULL;
    if (!f)
        return 2;
    html_plots(page, f);
    json_decref(page);
    return close_out(f) ? 0 : 2;
}

static int do_check(int count, char **paths)
{
    bool fine = count > 0;
    struct scenario s;
    for (int i = 0; i < count; i++)
        fine = read_scenario(&s, paths[i]) && fine;
    return fine ? 0 : 2;
}

int main(int argc, char **argv)
{
    bool fine = parse(argc, argv);
    char **words = argv + optind;
    int count = argc - optind;
    if (opt.help || !fine || !count) {
        usage(opt.help ? stdout : stderr);
        return opt.help ? 0 : 2;
    }
    if (strcmp(words[0], "keys") == 0) {
        scenario_keys(stdout);
        figures_print();
        return 0;
    }
    if (strcmp(words[0], "compare") == 0)
        return do_compare(count - 1, words + 1);
    if (strcmp(words[0], "report") == 0)
        return do_report(count - 1, words + 1);
    if (strcmp(words[0], "plot") == 0)
        return do_plot(count - 1, words + 1);
    if (strcmp(words[0], "check") == 0)
        return do_check(count - 1, words + 1);
    if (count == 1)
        return do_run(words[0]);
    usage(stderr);
    return 2;
}
