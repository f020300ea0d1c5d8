#include "postgres.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * The same tables in every shard, each with the accounts of its slots. owner: (slot << 40) + a serial, never given
 * again. progress is apart from account because it is written all the time; fillfactor leaves room for HOT updates.
 * archive: one partition a week (id: microseconds << 4), made ahead by archive_make_weeks; what fits none of them lies
 * in archive_rest, so that a late job loses nothing.
 * fence: who may write here, kept by membership, which makes it too when it comes first. batch_mark: the last batch
 * committed by a writer.
 *
 * Expand and contract: a step only adds what versions from min_code_version on can live with; they are told by the row
 * in schema_version. It is taken away in a later release, by a step that raises min_code_version.
 */
static const char *const steps[] = {
    "create table account(owner bigint primary key, jid text collate \"C\" not null unique,"
    " domain text collate \"C\" not null, credentials bytea not null, mam_prefs bytea, blocked bytea);"
    "create index account_domain on account(domain, jid);"
    "create sequence account_serial;"
    "create table progress(owner bigint primary key, watermark bigint not null default 0,"
    " roster_version bigint not null default 0, last_id bigint not null default 0) with (fillfactor = 70);"
    "create table roster(owner bigint not null, contact text collate \"C\" not null, name text,"
    " subscription smallint not null, ask boolean not null, approved boolean not null, in_roster boolean not null,"
    " request bytea, version bigint not null, groups bytea, primary key(owner, contact));"
    "create table account_value(owner bigint not null, key text collate \"C\" not null, data bytea not null,"
    " primary key(owner, key));"
    "create table archive(owner bigint not null, id bigint not null, flags smallint not null, origin bigint not null,"
    " session bigint not null, seq bigint not null, peer text collate \"C\" not null, resource text collate \"C\","
    " stanza bytea not null, primary key(owner, id)) partition by range(id);"
    "create table archive_rest partition of archive default;"
    "create table archive_week(week bigint primary key);"
    "create table session_record(session bigint primary key, token_hash bytea unique,"
    " bare text collate \"C\" not null, resource text collate \"C\" not null, expires bigint not null,"
    " in_seq bigint not null, node bigint not null, incarnation bigint not null, resumable boolean not null)"
    " with (fillfactor = 70);"
    "create index session_bare on session_record(bare);"
    "create index session_node on session_record(node, incarnation, (session < 0), session);"
    "create table doomed(owner bigint primary key, made timestamptz not null default now());"
    "create table if not exists fence(node_id int not null, incarnation bigint not null, epoch bigint not null,"
    " batch bigint not null default 0, primary key(node_id, incarnation, epoch));"
    "create table batch_mark(writer bigint primary key, generation bigint not null default 1,"
    " batch bigint not null default 0, touched timestamptz not null default now()) with (fillfactor = 10);"
    "create table installation(secret bytea, shard int not null, shards int not null);"

    /* First in each batch. The fence row is locked, so that its removal waits for the batch and the batch for it. */
    "create function batch_begin(p_node bigint, p_incarnation bigint, p_epoch bigint, p_writer bigint,"
    " p_generation bigint, p_batch bigint) returns void language plpgsql as $$ begin"
    " if p_node <> 0 then"
    "  perform 1 from fence where node_id = p_node::int and incarnation = p_incarnation and epoch = p_epoch"
    "   for key share;"
    "  if not found then raise exception 'fenced' using errcode = 'RK001'; end if;"
    " end if;"
    " update batch_mark set batch = p_batch where writer = p_writer and generation = p_generation;"
    " if not found then raise exception 'an old connection' using errcode = 'RK002'; end if;"
    "end $$;"

    /* 9676800000000: a week in ids. Attaching locks the table less than \"partition of\" would. */
    "create function archive_make_weeks(p_id bigint) returns void language plpgsql as $$ declare w bigint; begin"
    " perform set_config('lock_timeout', '1s', true);"
    " perform pg_advisory_xact_lock(721390011);"
    " for w in select generate_series(p_id / 9676800000000, p_id / 9676800000000 + 2) except select week"
    "  from archive_week order by 1 loop"
    "  begin"
    "   execute format('create table %I (like archive including all)', 'archive_' || w);"
    "   execute format('alter table archive attach partition %I for values from (%s) to (%s)', 'archive_' || w,"
    "    w * 9676800000000, (w + 1) * 9676800000000);"
    "   insert into archive_week values (w);"
    "  exception when check_violation then"
    "   raise log 'archive_rest has messages of week %, it stays without a partition', w;"
    "  end;"
    " end loop;"
    "end $$;"

    /* Drops one week that lies wholly before p_before and in which nothing waits; its rows, or -1: there is none. */
    "create function archive_drop_week(p_before bigint) returns bigint language plpgsql as $$"
    " declare w bigint; part text; n bigint; waits boolean; begin"
    " perform set_config('lock_timeout', '1s', true), set_config('enable_seqscan', 'on', true),"
    "  set_config('enable_hashjoin', 'on', true);"
    " for w in select week from archive_week where (week + 1) * 9676800000000 <= p_before order by week loop"
    "  part := 'archive_' || w;"
    "  execute format('lock table %I in share row exclusive mode', part);"
    "  execute format('select exists (select 1 from %I m join progress p on p.owner = m.owner"
    "   where m.flags & 2 = 2 and m.id > p.watermark)', part) into waits;"
    "  continue when waits;"
    "  execute format('update progress p set last_id = t.id from (select owner, max(id) as id from %I group by owner) t"
    "   where p.owner = t.owner and p.last_id < t.id and not exists (select 1 from archive m where m.owner = p.owner"
    "   and m.id > t.id)', part);"
    "  execute format('select count(*) from %I', part) into n;"
    "  execute format('drop table %I', part);"
    "  delete from archive_week where week = w;"
    "  return n;"
    " end loop;"
    " return -1;"
    "end $$;",
};
enum { VERSION = sizeof steps / sizeof *steps, MIN_CODE_VERSION = 1 };

static char *text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *text(const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    CHECK(vasprintf(&s, fmt, ap) >= 0, "out of memory");
    va_end(ap);
    return s;
}

static bool run(struct pg_conn *c, const char *sql)
{
    PGresult *res = PQexec(c->pg, sql);
    ExecStatusType status = PQresultStatus(res);
    PQclear(res);
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK;
}

/* First column of the first row as a number. */
static int64_t number(struct pg_conn *c, const char *sql, int64_t none)
{
    PGresult *res = PQexec(c->pg, sql);
    if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) && !PQgetisnull(res, 0, 0))
        none = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    PQclear(res);
    return none;
}

static bool version_write(struct pg_conn *c, int version, int min_code)
{
    char v[16], m[16];
    const char *values[] = {v, m};
    snprintf(v, sizeof v, "%d", version);
    snprintf(m, sizeof m, "%d", min_code);
    PGresult *res = PQexecParams(c->pg, "update schema_version set version = $1::int, min_code_version = $2::int", 2,
                                 NULL, values, NULL, NULL, 0);
    bool ok = PQresultStatus(res) == PGRES_COMMAND_OK;
    PQclear(res);
    return ok;
}

static bool migrate(struct pg_conn *c, int64_t from)
{
    for (int64_t version = from; version < VERSION; version++)
        if (!run(c, steps[version]) || !version_write(c, (int)version + 1, MIN_CODE_VERSION))
            return false;
    if (from < VERSION)
        log_info(&c->log, "schema migrated", "from", log_num(from), "to", log_num(VERSION));
    return true;
}

/* What is written today must not go to archive_rest: no partition could be made for it then. */
static bool weeks_make(struct pg_conn *c)
{
    PGresult *res = PQexecParams(c->pg, "select archive_make_weeks((extract(epoch from now()) * 1000000)::bigint << 4)",
                                 0, NULL, NULL, NULL, NULL, 0);
    bool ok = PQresultStatus(res) == PGRES_TUPLES_OK;
    PQclear(res);
    return ok;
}

/* The installation's row; made with the first schema. */
static bool installation_make(struct pg_conn *c, unsigned shard, unsigned shards)
{
    uint8_t secret[32];
    char s[16], n[16];
    const char *values[] = {(const char *)secret, s, n};
    const int lengths[] = {sizeof secret, 0, 0}, formats[] = {1, 0, 0};
    random_bytes(secret, sizeof secret);
    snprintf(s, sizeof s, "%u", shard);
    snprintf(n, sizeof n, "%u", shards);
    PGresult *res = PQexecParams(c->pg,
                                 "insert into installation(secret, shard, shards) select $1::bytea, $2::int, $3::int"
                                 " where not exists (select 1 from installation)",
                                 3, NULL, values, lengths, formats, 0);
    bool ok = PQresultStatus(res) == PGRES_COMMAND_OK;
    PQclear(res);
    explicit_bzero(secret, sizeof secret);
    return ok;
}

static bool secret_read(struct pg_conn *c, uint8_t secret[32])
{
    PGresult *res = PQexecParams(c->pg, "select secret from installation", 0, NULL, NULL, NULL, NULL, 1);
    bool ok = PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1 && PQgetlength(res, 0, 0) == 32;
    if (ok)
        memcpy(secret, PQgetvalue(res, 0, 0), 32);
    PQclear(res);
    return ok;
}

static enum err version_check(struct pg_conn *c, int64_t *version, char **why)
{
    if (!run(c, "create table if not exists schema_version(version int not null, min_code_version int not null);"
                "insert into schema_version select 0, 0 where not exists (select 1 from schema_version)")) {
        *why = text("the schema of the PostgreSQL database cannot be made: %s", PQerrorMessage(c->pg));
        return ERR_IO;
    }
    *version = number(c, "select version from schema_version", -1);
    int64_t min_code = number(c, "select min_code_version from schema_version", -1);
    if (*version >= 0 && min_code <= VERSION)
        return OK;
    *why = text("the PostgreSQL database has schema version %lld, which needs a program that knows version %lld; this "
                "one knows %d",
                (long long)*version, (long long)min_code, VERSION);
    return ERR_INVALID;
}

static enum err shard_check(struct pg_conn *c, unsigned shard, unsigned shards, char **why)
{
    int64_t is = number(c, "select shard from installation", -1), of = number(c, "select shards from installation", -1);
    if (is == shard && of == shards)
        return OK;
    *why = text("this PostgreSQL database is shard %lld of %lld, but the configuration has it as shard %u of %u",
                (long long)is + 1, (long long)of, shard + 1, shards);
    return ERR_INVALID;
}

enum err pg_schema_open(struct pg_conn *c, unsigned shard, unsigned shards, uint8_t secret[32], char **why)
{
    int64_t version = 0;
    /* All nodes start at once, one migrates. The lock goes with the transaction, so a failover cannot leave it. */
    bool ok = run(c, "begin; select pg_advisory_xact_lock(721390010); set local lock_timeout = '1s';"
                     "set local client_min_messages = warning");
    if (ok) {
        enum err e = version_check(c, &version, why);
        if (e)
            return e;
    }
    ok = ok && migrate(c, version) && weeks_make(c) && installation_make(c, shard, shards) && run(c, "commit");
    if (ok && !secret)
        return shard_check(c, shard, shards, why);
    if (ok && secret_read(c, secret))
        return shard_check(c, shard, shards, why);
    *why = text("the schema of the PostgreSQL database cannot be brought from version %lld to %d: %s",
                (long long)version, VERSION, PQerrorMessage(c->pg));
    return ERR_IO;
}
