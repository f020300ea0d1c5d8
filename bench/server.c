#include "server.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SOURCES_MAX = 128, PAGE_MAX = 1 << 20, DESCENDANTS_MAX = 1024 };

static struct source {
    unsigned role;
    char *path; /* pid file, or HOST:PORT/PATH with url */
    bool url, family;
    int pid;
    double last, total; /* CPU: as last seen; since the first sample */
    bool seen;
} sources[SOURCES_MAX];
static unsigned source_count, role_count;
static char roles[ROLES_MAX][32];

unsigned server_roles(void)
{
    return role_count;
}

const char *server_role(unsigned role)
{
    return roles[role];
}

/* ---- options ---- */

/* The role that text begins with, else "server"; *text goes behind it. -1: too many. */
static int take_role(const char **text)
{
    char name[32] = "server";
    size_t n = strcspn(*text, "=/:,");
    if ((*text)[n] == '=' && n && n < sizeof name) {
        snprintf(name, sizeof name, "%.*s", (int)n, *text);
        *text += n + 1;
    }
    for (unsigned i = 0; i < role_count; i++)
        if (strcmp(roles[i], name) == 0)
            return (int)i;
    if (role_count == ROLES_MAX)
        return -1;
    strcpy(roles[role_count], name);
    return (int)role_count++;
}

static bool add_pid(unsigned role, const char *word, size_t len)
{
    struct source *s = &sources[source_count];
    char *end;
    if (!len || source_count == SOURCES_MAX)
        return false;
    *s = (struct source){.role = role, .family = word[len - 1] == '+'};
    s->path = strndup(word, len - s->family);
    if (!strchr(s->path, '/')) {
        s->pid = (int)strtol(s->path, &end, 10);
        if (s->pid <= 0 || *end)
            return false;
        free(s->path);
        s->path = NULL;
    }
    source_count++;
    return true;
}

bool server_add_pids(const char *text)
{
    int role = take_role(&text);
    if (role < 0)
        return false;
    for (;; text++) {
        size_t n = strcspn(text, ",");
        if (!add_pid((unsigned)role, text, n))
            return false;
        text += n;
        if (!*text)
            return true;
    }
}

bool server_add_metrics(const char *text)
{
    int role = take_role(&text);
    if (role < 0 || source_count == SOURCES_MAX || strncmp(text, "http://", 7))
        return false;
    sources[source_count++] = (struct source){.role = (unsigned)role, .url = true, .path = strdup(text + 7)};
    return true;
}

/* ---- /proc ---- */

/* utime, stime of all threads; with children also of those that have ended. stat knows the time of ended threads, and
 * the kernel scales it to the exact run time: it is cut to whole ticks, not sampled. False when it is gone. */
static bool proc_stat(int pid, int *parent, double *own, double *children)
{
    char path[64], text[1024];
    unsigned long user, system;
    long child_user, child_system;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *behind_name = strrchr(text, ')'); /* the name may hold anything */
    if (!behind_name || sscanf(behind_name, ") %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld", parent,
                               &user, &system, &child_user, &child_system) != 5)
        return false;
    double tick = (double)sysconf(_SC_CLK_TCK);
    *own = (double)(user + system) / tick;
    *children = (double)(child_user + child_system) / tick;
    return true;
}

static double proc_pss(int pid)
{
    char path[64], line[256];
    double kib = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "Pss: %lf", &kib) == 1)
            break;
    fclose(f);
    return kib;
}

/* All processes below those in pids, which grows. */
static unsigned descendants(int *pids, unsigned count)
{
    static struct {
        int pid, parent;
    } all[32768];
    unsigned n = 0;
    double own, children;
    DIR *dir = opendir("/proc");
    if (!dir)
        return count;
    for (struct dirent *e; (e = readdir(dir)) && n < sizeof all / sizeof *all;)
        if (isdigit((unsigned char)e->d_name[0]) &&
            proc_stat(all[n].pid = atoi(e->d_name), &all[n].parent, &own, &children))
            n++;
    closedir(dir);
    for (unsigned i = 0; i < count; i++)
        for (unsigned k = 0; k < n && count < DESCENDANTS_MAX; k++)
            if (all[k].parent == pids[i])
                pids[count++] = all[k].pid;
    return count;
}

static int current_pid(const struct source *s)
{
    int pid = 0;
    FILE *f = s->path ? fopen(s->path, "r") : NULL;
    if (!s->path)
        return s->pid;
    if (f && fscanf(f, "%d", &pid) != 1)
        pid = 0;
    if (f)
        fclose(f);
    return pid;
}

/* CPU is of the whole family, ended children included. */
static bool read_pid(struct source *s, double *cpu, double *kib, bool memory)
{
    int pids[DESCENDANTS_MAX] = {current_pid(s)}, parent;
    unsigned count = pids[0] > 0 ? 1 : 0;
    double own, children;
    if (pids[0] != s->pid)
        s->last = 0;
    s->pid = pids[0];
    if (!count || !proc_stat(pids[0], &parent, &own, &children))
        return false;
    if (s->family)
        count = descendants(pids, count);
    for (unsigned i = 0; i < count; i++)
        if (proc_stat(pids[i], &parent, &own, &children)) {
            *cpu += own + (s->family ? children : 0);
            *kib += memory ? proc_pss(pids[i]) : 0;
        }
    return true;
}

/* ---- /metrics ---- */

static int http_connect(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    struct timeval patience = {.tv_usec = 300000};
    if (getaddrinfo(host, port, &hints, &found))
        return -1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

/* One GET; the answer, yours to free, or NULL. */
static char *http_get(const char *place)
{
    char host[200], request[600], *page = NULL;
    size_t len = 0;
    snprintf(host, sizeof host, "%.*s", (int)strcspn(place, "/"), place);
    const char *path = strchr(place, '/') ? strchr(place, '/') : "/metrics";
    char *colon = strrchr(host, ':');
    if (colon)
        *colon = 0;
    int fd = http_connect(host, colon ? colon + 1 : "80");
    if (fd < 0)
        return NULL;
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host);
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) == n && (page = malloc(PAGE_MAX))) {
        for (ssize_t got; len < PAGE_MAX - 1 && (got = recv(fd, page + len, PAGE_MAX - 1 - len, 0)) > 0;)
            len += (size_t)got;
        page[len] = 0;
    }
    close(fd);
    return page;
}

/* The value on a line that begins with the name; -1: there is none. */
static double metric(const char *page, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = page; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, n) == 0 && (line[n] == ' ' || line[n] == '{'))
            return strtod(line + strcspn(line, " \n"), NULL);
    }
    return -1;
}

static bool read_url(const struct source *s, double *cpu, double *kib)
{
    char *page = http_get(s->path);
    *cpu = page ? metric(page, "process_cpu_seconds_total") : -1;
    double bytes = page ? metric(page, "process_resident_memory_bytes") : -1;
    *kib = bytes > 0 ? bytes / 1024 : 0;
    free(page);
    return *cpu >= 0;
}

/* ---- sampling ---- */

static void sample_source(struct source *s, struct server_sample *out, bool memory)
{
    double cpu = 0, kib = 0;
    if (s->url ? read_url(s, &cpu, &kib) : read_pid(s, &cpu, &kib, memory)) {
        if (cpu < s->last)
            s->last = 0; /* it was started anew */
        s->total += s->seen ? cpu - s->last : 0;
        s->last = cpu;
    }
    s->seen = true;
    out->cpu[s->role] += s->total;
    if (memory)
        out->kib[s->role] += kib;
}

void server_sample(struct server_sample *out, bool memory)
{
    memset(out->cpu, 0, sizeof out->cpu);
    if (memory)
        memset(out->kib, 0, sizeof out->kib);
    for (unsigned i = 0; i < source_count; i++)
        sample_source(&sources[i], out, memory);
    out->cpu_all = out->kib_all = 0;
    for (unsigned r = 0; r < role_count; r++) {
        out->cpu_all += out->cpu[r];
        out->kib_all += out->kib[r];
    }
}

double own_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}
