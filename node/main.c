/* rookeryd: starts the workers, reloads and stops them. */
#include "cluster.h"
#include "config.h"
#include "daemon.h"
#include "log.h"
#include "notify.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

static const struct log main_log = {"node", 0};

static void usage(FILE *f)
{
    fputs("Usage: rookeryd --config FILE [--pid FILE]\n"
          "       rookeryd --check FILE | --options | --version | --help\n"
          "\n"
          "Runs one Rookery node in the foreground.\n"
          "\n"
          "  --config FILE  the configuration (YAML)\n"
          "  --pid FILE     write the process id there\n"
          "  --check FILE   check a configuration and say every mistake\n"
          "  --options      print the reference of all options as Markdown\n"
          "\n"
          "SIGHUP reloads configuration and certificates and reopens the log; SIGTERM stops cleanly.\n",
          f);
}

/* ---- start ---- */

static enum err make_tls(const struct config *c, struct tls **out, char **why)
{
    struct tls_host *hosts = xcalloc(c->host_count, sizeof *hosts);
    for (size_t i = 0; i < c->host_count; i++)
        hosts[i] = (struct tls_host){c->hosts[i].domain, c->hosts[i].certificate, c->hosts[i].key, c->sasl.external,
                                     c->sasl.external_ca};
    enum err e = tls_new(hosts, c->host_count, out, why);
    free(hosts);
    return e;
}

static void setup_log(const struct config *c)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    enum log_level level = LOG_INFO;
    for (int i = 0; i < 4; i++)
        if (!strcmp(c->log.level, levels[i]))
            level = (enum log_level)i;
    log_setup(level, strcmp(c->log.format, "json") ? LOG_LOGFMT : LOG_JSON, c->log.path);
}

static enum err write_pid(const char *path)
{
    char tmp[4096];
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    FILE *f = fopen(tmp, "we");
    if (!f)
        return ERR_IO;
    fprintf(f, "%d\n", (int)getpid());
    if (fclose(f) || rename(tmp, path))
        return ERR_IO;
    return OK;
}

static void raise_fd_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

/* Before any thread starts: all of them inherit it, and the main loop reads the signals. */
static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
}

static enum err probe_ports(const struct config *c, char **why)
{
    enum err e = OK;
    for (size_t i = 0; i < c->listen_count && e == OK; i++)
        e = listener_probe(c->listen[i].address, c->listen[i].port, why);
    for (size_t i = 0; i < c->http_count && e == OK; i++)
        e = listener_probe(c->http[i].address, c->http[i].port, why);
    return e;
}

static enum err open_storage(struct node *n, char **why)
{
    const struct config *c = n->config;
    const char **shards = xcalloc(c->postgres_count + 1, sizeof *shards);
    for (size_t i = 0; i < c->postgres_count; i++)
        shards[i] = c->postgres[i].conninfo;
    struct store_config sc = {
        .driver = c->storage.driver,
        .path = c->storage.path,
        .max_queued = c->storage.max_queued,
        .max_batch = c->storage.max_batch,
        .shards = shards,
        .shard_count = c->postgres_count,
    };
    enum err e;
    /* The other nodes' database may be in the middle of a failover. */
    while ((e = store_open(&sc, &n->store, why)) == ERR_CLOSED && c->cluster.node && !cluster_stop_wanted()) {
        log_warn(&main_log, "waiting", "why", *why);
        free(*why);
        *why = NULL;
        sleep(1);
    }
    free(shards);
    return e;
}

static enum err open_node(struct daemon *d, char **why)
{
    struct node *n = &d->node;
    const struct config *c = n->config;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    enum err e = probe_ports(c, why);
    if (e != OK)
        return e;
    e = make_tls(c, &n->tls, why);
    if (e != OK)
        return e;
    e = open_storage(n, why);
    if (e != OK)
        return e;
    n->worker_count = (uint16_t)(c->node.workers ? c->node.workers : (cores > 0 ? cores : 1));
    e = cluster_open(n, why);
    if (e != OK)
        return e;
    n->blocking = blocking_new(cores > 0 ? (unsigned)cores : 1, 1000);
    n->ips = ip_limits_new(c->c2s.max_unauthenticated_per_ip, c->c2s.max_failed_per_ip);
    n->registrations = net_rate_new();
    n->workers = xcalloc(n->worker_count, sizeof *n->workers);
    for (uint16_t i = 0; i < n->worker_count; i++)
        worker_init(&n->workers[i], n, i);
    /* The ports last: whoever can connect finds everything there. */
    e = daemon_control_open(d, why);
    if (e == OK && n->cluster)
        cluster_join(n);
    for (uint16_t i = 0; i < n->worker_count && e == OK; i++)
        e = worker_listen(&n->workers[i], why);
    return e;
}

static void close_node(struct daemon *d)
{
    struct node *n = &d->node;
    blocking_free(&n->blocking);
    if (n->cluster)
        cluster_leave(n);
    for (uint16_t i = 0; n->workers && i < n->worker_count; i++)
        worker_free(&n->workers[i]);
    free(n->workers);
    if (n->store)
        store_close(&n->store);
    cluster_close(&n->cluster); /* as a member to the end: what was still to be written was fenced by that */
    ip_limits_free(&n->ips);
    net_rate_free(&n->registrations);
    tls_unref(&n->tls);
}

/* ---- reload ---- */

struct old_config {
    struct config *config;
    _Atomic unsigned users;
};

/* The last worker that has taken the new configuration frees the old one. */
static void on_reloaded(void *arg)
{
    struct old_config *o = arg;
    if (--o->users)
        return;
    config_free(&o->config);
    free(o);
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static bool same_ports(const struct config *a, const struct config *b)
{
    bool equal = a->listen_count == b->listen_count;
    for (size_t i = 0; i < a->listen_count && equal; i++) {
        const struct config_listen *l = &a->listen[i], *m = &b->listen[i];
        equal = same(l->address, m->address) && l->port == m->port && l->mode == m->mode;
    }
    return equal;
}

static bool same_http(const struct config *a, const struct config *b)
{
    bool equal = a->http_count == b->http_count;
    for (size_t i = 0; i < a->http_count && equal; i++)
        equal = same(a->http[i].address, b->http[i].address) && a->http[i].port == b->http[i].port;
    return equal;
}

static bool same_cluster(const struct config *a, const struct config *b)
{
    return same(a->cluster.node, b->cluster.node) && same(a->cluster.listen, b->cluster.listen) &&
           a->cluster.port == b->cluster.port && same(a->cluster.advertise, b->cluster.advertise) &&
           same(a->cluster.certificate, b->cluster.certificate) && same(a->cluster.key, b->cluster.key) &&
           same(a->cluster.ca, b->cluster.ca) && same(a->cluster.secret, b->cluster.secret) &&
           a->cluster.heartbeat_ms == b->cluster.heartbeat_ms && a->cluster.lease_ms == b->cluster.lease_ms &&
           a->cluster.fence_ms == b->cluster.fence_ms && a->cluster.max_queue == b->cluster.max_queue;
}

static bool same_postgres(const struct config *a, const struct config *b)
{
    bool equal = a->postgres_count == b->postgres_count;
    for (size_t i = 0; i < a->postgres_count && equal; i++)
        equal = same(a->postgres[i].conninfo, b->postgres[i].conninfo);
    return equal;
}

static bool same_redis(const struct config *a, const struct config *b)
{
    bool equal = a->redis_count == b->redis_count && same(a->registry.sentinel, b->registry.sentinel) &&
                 same(a->registry.user, b->registry.user) &&
                 same(a->registry.password_file, b->registry.password_file) &&
                 a->registry.max_queue == b->registry.max_queue && a->registry.pace == b->registry.pace;
    for (size_t i = 0; i < a->redis_count && equal; i++)
        equal = same(a->redis[i].address, b->redis[i].address) && a->redis[i].port == b->redis[i].port;
    return equal;
}

/* What is opened once at the start stays as it was; an operator who changed it is told so. */
static void warn_restart(const struct config *old, const struct config *new)
{
    const struct {
        const char *option;
        bool equal;
    } fixed[] = {
        {"listen", same_ports(old, new)},
        {"http", same_http(old, new)},
        {"node.workers", old->node.workers == new->node.workers},
        {"storage.driver", same(old->storage.driver, new->storage.driver)},
        {"storage.path", same(old->storage.path, new->storage.path)},
        {"storage.max_queued", old->storage.max_queued == new->storage.max_queued},
        {"storage.max_batch", old->storage.max_batch == new->storage.max_batch},
        {"control.socket", same(old->control.socket, new->control.socket)},
        {"cluster", same_cluster(old, new)},
        {"postgres", same_postgres(old, new)},
        {"redis", same_redis(old, new)},
        {"c2s.parsers", old->c2s.parsers == new->c2s.parsers},
    };
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (!fixed[i].equal)
            log_warn(&main_log, "needs-restart", "option", fixed[i].option);
}

enum err daemon_reload(struct daemon *d, char **why)
{
    struct config *c;
    struct tls *tls;
    *why = NULL;
    log_reopen();
    enum err e = config_load(d->config_path, &c, why);
    if (e != OK)
        return e;
    e = make_tls(c, &tls, why);
    if (e != OK) {
        config_free(&c);
        return e;
    }
    struct node *n = &d->node;
    struct old_config *o = xcalloc(1, sizeof *o);
    o->config = d->config;
    o->users = n->worker_count;
    setup_log(c);
    ip_limits_set(n->ips, c->c2s.max_unauthenticated_per_ip, c->c2s.max_failed_per_ip);
    warn_restart(d->config, c);
    d->config = c;
    n->config = c;
    d->accounts.config = c;
    tls_unref(&n->tls);
    n->tls = tls;
    for (uint16_t i = 0; i < n->worker_count; i++)
        worker_reload(&n->workers[i], c, tls, on_reloaded, o);
    log_info(&main_log, "reloaded", "config", d->config_path);
    return OK;
}

void daemon_stop(struct daemon *d)
{
    if (d->stopping)
        return;
    d->stopping = true;
    atomic_store(&d->node.unwell, "stopping");
    log_info(&main_log, "stopping");
    notify("STOPPING=1");
    watchdog_stopping(d->watchdog);
    for (uint16_t i = 0; i < d->node.worker_count; i++)
        worker_stop(&d->node.workers[i]);
}

/* A line for each. */
static void log_mistakes(const char *event, char *text)
{
    for (char *line, *rest = text; (line = strsep(&rest, "\n"));)
        if (*line)
            log_error(&main_log, event, "why", line);
}

static void on_signal(void *arg, unsigned events)
{
    (void)events;
    struct daemon *d = arg;
    struct signalfd_siginfo si;
    char *why = NULL;
    if (read(d->signals.fd, &si, sizeof si) != sizeof si)
        return;
    if (si.ssi_signo != SIGHUP) {
        daemon_stop(d);
    } else if (daemon_reload(d, &why) != OK) {
        log_mistakes("reload-refused", why);
        free(why);
    }
}

static void *worker_main(void *arg)
{
    worker_run(arg);
    return NULL;
}

static void run_node(struct daemon *d)
{
    struct node *n = &d->node;
    loop_fd_add(n->workers[0].loop, &d->signals, signalfd(-1, &d->signal_set, SFD_NONBLOCK | SFD_CLOEXEC), LOOP_READ,
                on_signal, d);
    for (uint16_t i = 1; i < n->worker_count; i++) {
        CHECK(!pthread_create(&n->workers[i].thread, NULL, worker_main, &n->workers[i]), "thread");
        n->workers[i].running = true;
    }
    log_info(&main_log, "ready", "version", ROOKERY_VERSION, "workers", log_num(n->worker_count));
    notify("READY=1");
    d->watchdog = watchdog_new(n);
    retention_start(&d->retention, n);
    trim_start(&d->trim, n);
    worker_run(&n->workers[0]);
    for (uint16_t i = 1; i < n->worker_count; i++)
        pthread_join(n->workers[i].thread, NULL);
    watchdog_stop(d->watchdog);
    retention_stop(&d->retention);
    trim_stop(&d->trim);
    int fd = d->signals.fd;
    loop_fd_del(n->workers[0].loop, &d->signals);
    close(fd);
}

static int serve(const char *config_path, const char *pid_path)
{
    struct daemon d = {.config_path = config_path};
    char *why = NULL;
    int status = 1;
    if (config_load(config_path, &d.config, &why) != OK) {
        fprintf(stderr, "%s", why);
        free(why);
        return 1;
    }
    setup_log(d.config);
    raise_fd_limit();
    block_signals(&d.signal_set);
    d.node.config = d.config;
    if (open_node(&d, &why) != OK) {
        log_error(&main_log, "start-failed", "why", why);
    } else if (pid_path && write_pid(pid_path) != OK) {
        log_error(&main_log, "start-failed", "why", "the pid file cannot be written", "path", pid_path);
    } else {
        run_node(&d);
        status = 0;
    }
    free(why);
    daemon_control_close(&d);
    close_node(&d);
    watchdog_free(&d.watchdog);
    if (pid_path && !status)
        unlink(pid_path);
    config_free(&d.config);
    log_info(&main_log, "stopped");
    return status;
}

static int check(const char *path)
{
    struct config *c;
    char *why = NULL;
    if (config_load(path, &c, &why) != OK) {
        fprintf(stderr, "%s", why);
        free(why);
        return 1;
    }
    config_free(&c);
    printf("%s: good\n", path);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},
        {"pid", required_argument, NULL, 'p'},
        {"check", required_argument, NULL, 'k'},
        {"options", no_argument, NULL, 'o'},
        {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *config = NULL, *pid = NULL;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 'c':
            config = optarg;
            break;
        case 'p':
            pid = optarg;
            break;
        case 'k':
            return check(optarg);
        case 'o':
            config_print_options();
            return 0;
        case 'v':
            puts("rookeryd " ROOKERY_VERSION);
            return 0;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 2;
        }
    if (!config || optind != argc) {
        usage(stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    return serve(config, pid);
}
