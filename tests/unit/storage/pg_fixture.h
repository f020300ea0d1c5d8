/*
 * A PostgreSQL server of the test's own: a new cluster in a temporary folder, on a Unix socket only, fsync on, gone
 * with the test. PostgreSQL refuses to run as root, so root's test runs it as the user "postgres" (or "nobody").
 */
#ifndef ROOKERY_TEST_PG_FIXTURE_H
#define ROOKERY_TEST_PG_FIXTURE_H

#include <fcntl.h>
#include <glob.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct pg_server {
    char dir[64], bin[128];
    pid_t pid;
    uid_t uid;
    gid_t gid;
    unsigned databases;
};

static inline void pg_give_up(const char *what)
{
    fprintf(stderr, "PostgreSQL for the test: %s\n", what);
    exit(1);
}

/* Runs a program of PostgreSQL's in a child that ends with us. */
static inline pid_t pg_spawn(struct pg_server *p, const char *program, const char *const *args)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    char path[192], log[96];
    char *argv[16] = {path};
    snprintf(path, sizeof path, "%s/%s", p->bin, program);
    snprintf(log, sizeof log, "%s/log", p->dir);
    for (int i = 0; args[i] && i < 14; i++)
        argv[i + 1] = strdup(args[i]);
    if (p->uid && getuid() == 0 && (setgid(p->gid) || setuid(p->uid)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGINT);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    execv(path, argv);
    _exit(127);
}

static inline void pg_start(struct pg_server *p)
{
    char data[96], conninfo[128];
    snprintf(data, sizeof data, "%s/data", p->dir);
    snprintf(conninfo, sizeof conninfo, "host=%s user=rookery dbname=postgres", p->dir);
    const char *args[] = {"-D", data, "-k", p->dir, "-c", "listen_addresses=", "-c", "shared_buffers=64MB", NULL};
    p->pid = pg_spawn(p, "postgres", args);
    for (int i = 0; PQping(conninfo) != PQPING_OK; i++) {
        if (i == 600 || waitpid(p->pid, NULL, WNOHANG))
            pg_give_up("does not start");
        usleep(50000);
    }
}

/* signal: SIGINT stops at once but cleanly, SIGQUIT is a crash. */
static inline void pg_stop(struct pg_server *p, int signal)
{
    kill(p->pid, signal);
    waitpid(p->pid, NULL, 0);
    p->pid = 0;
}

static inline void pg_new(struct pg_server *p)
{
    glob_t found;
    int status;
    char data[96];
    *p = (struct pg_server){0};
    if (glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &found) || !found.gl_pathc)
        pg_give_up("not installed");
    snprintf(p->bin, sizeof p->bin, "%s", found.gl_pathv[found.gl_pathc - 1]);
    *strrchr(p->bin, '/') = 0;
    globfree(&found);
    const struct passwd *user = getpwnam("postgres");
    user = user ? user : getpwnam("nobody");
    p->uid = user ? user->pw_uid : 0;
    p->gid = user ? user->pw_gid : 0;
    strcpy(p->dir, "/tmp/rookery-pg-XXXXXX");
    if (!mkdtemp(p->dir) || (getuid() == 0 && chown(p->dir, p->uid, p->gid)))
        pg_give_up("no folder");
    snprintf(data, sizeof data, "%s/data", p->dir);
    const char *args[] = {"-D", data, "-U", "rookery", "-A", "trust", "-E", "UTF8", "--locale=C", NULL};
    if (waitpid(pg_spawn(p, "initdb", args), &status, 0) < 0 || status)
        pg_give_up("initdb failed");
    pg_start(p);
}

static inline void pg_end(struct pg_server *p)
{
    char command[96];
    if (p->pid)
        pg_stop(p, SIGINT);
    snprintf(command, sizeof command, "rm -rf %s", p->dir);
    if (system(command))
        fprintf(stderr, "%s is left\n", p->dir);
}

/* Of a test's own connection, not the driver's: first column of the first row; fails loudly. */
static inline int64_t pg_sql(const char *conninfo, const char *sql)
{
    PGconn *pg = PQconnectdb(conninfo);
    PQclear(PQexec(pg, "set client_min_messages = warning"));
    PGresult *res = PQexec(pg, sql);
    ExecStatusType status = PQresultStatus(res);
    int64_t n = 0;
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        fprintf(stderr, "%s: %s\n", sql, PQerrorMessage(pg));
        abort();
    }
    if (status == PGRES_TUPLES_OK && PQntuples(res))
        n = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    PQclear(res);
    PQfinish(pg);
    return n;
}

/* A new empty place for a shard: a schema, which is made faster than a database. */
static inline void pg_database(struct pg_server *p, char out[256])
{
    char sql[64], any[128];
    snprintf(sql, sizeof sql, "create schema t%u", ++p->databases);
    snprintf(any, sizeof any, "host=%s user=rookery dbname=postgres", p->dir);
    pg_sql(any, sql);
    snprintf(out, 256, "%s options='-c search_path=t%u'", any, p->databases);
}

static inline void pg_database_drop(const char *conninfo)
{
    char sql[96];
    snprintf(sql, sizeof sql, "drop schema %s cascade", strstr(conninfo, "search_path=") + 12);
    *strchr(sql, '\'') = ' ';
    pg_sql(conninfo, sql);
}

#endif
