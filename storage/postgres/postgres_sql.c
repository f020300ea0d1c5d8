#include "postgres.h"

/*
 * Numbers come and go as bigint, unsigned ones by their bits. Session ids are compared in unsigned order: (id < 0, id).
 * WHO: an account by its JID, where the answer to a first statement is not there yet.
 * FILTER: see sqlite_db.c; $4 and $5 are the view's mask and value of flags, $6 and $7 "with".
 */
#define WHO " (select owner from account where jid = $1::text) "
#define SESSION                                                                                                        \
    " session, token_hash, bare, resource, expires, in_seq, node, incarnation, resumable::int::bigint"                 \
    " from session_record "
#define FILTER                                                                                                         \
    " from archive where owner = $1::bigint and id between $2::bigint and $3::bigint"                                  \
    " and (flags & $4::bigint) = $5::bigint and ($6::text is null or"                                                  \
    " (peer = $6::text and ($7::text is null or resource = $7::text)))"
#define ROW "select id, flags::bigint, peer, resource, stanza"

const char *const pg_texts[PG_STMTS] = {
    [S_BEGIN] = "begin",
    [S_BATCH] = "select batch_begin($1::bigint, $2::bigint, $3::bigint, $4::bigint, $5::bigint, $6::bigint)",
    [S_COMMIT] = "commit",
    [S_ROLLBACK] = "rollback",
    /* A new generation for each connection: waits for a batch of the last one that still runs, and ends what it may
     * yet begin. */
    [S_MARK] = "insert into batch_mark as m (writer) values ($1::bigint) on conflict (writer) do update"
               " set generation = m.generation + 1, touched = now() returning generation, batch",
    [S_MARK_REMOVE] = "with mine as (delete from batch_mark where writer = $1::bigint)"
                      " delete from batch_mark where touched < now() - interval '30 days'",
    [S_NAME] = "select set_config('application_name', 'rookery/' || $1::bigint || '/' || $2::bigint, false)",
    [S_OWNERS_GONE] = "select t.n from unnest($1::bigint[]) with ordinality t(owner, n)"
                      " where not exists (select 1 from progress p where p.owner = t.owner)",
    [S_CREATED] = "select count(*) from account where jid = $1::text and credentials = $2::bytea",

    [S_SESSION_PUT] =
        "insert into session_record as s (session, token_hash, bare, resource, expires, in_seq, node, incarnation,"
        " resumable) select t.session, t.token, t.bare, t.resource, t.expires, t.in_seq, t.node, t.incarnation,"
        " t.resumable <> 0 from unnest($1::bigint[], $2::bytea[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],"
        " $7::bigint[], $8::bigint[], $9::bigint[])"
        " t(session, token, bare, resource, expires, in_seq, node, incarnation, resumable)"
        " on conflict (session) do update set token_hash = excluded.token_hash, bare = excluded.bare,"
        " resource = excluded.resource, expires = excluded.expires, in_seq = greatest(s.in_seq, excluded.in_seq),"
        " node = excluded.node, incarnation = excluded.incarnation, resumable = excluded.resumable",
    /* Answers with those that were not put, and whether their owner exists. */
    [S_ARCHIVE_PUT] =
        "with item as materialized (select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[],"
        " $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::bytea[])"
        " with ordinality t(owner, id, flags, origin, session, seq, handled, peer, resource, stanza, n)),"
        " put as (insert into archive(owner, id, flags, origin, session, seq, peer, resource, stanza)"
        " select i.owner, i.id, i.flags::smallint, i.origin, i.session, i.seq, i.peer, i.resource, i.stanza"
        " from item i where exists (select 1 from progress p where p.owner = i.owner)"
        " on conflict do nothing returning owner, id),"
        " counted as (update session_record s set in_seq = h.handled from"
        " (select session, max(handled) as handled from item where handled > 0 and session <> 0 group by session) h"
        " where s.session = h.session and s.in_seq < h.handled)"
        " select i.n, (select count(*) from progress p where p.owner = i.owner) from item i"
        " where (i.owner, i.id) not in (select put.owner, put.id from put)",
    [S_WATERMARK_SET] =
        "with item as materialized (select * from unnest($1::bigint[], $2::bigint[]) with ordinality t(owner, id, n)),"
        " old as materialized (select p.owner, p.watermark, t.id from (select owner, max(id) as id from item"
        " group by owner order by owner) t join progress p on p.owner = t.owner where p.watermark < t.id),"
        " raised as (update progress p set watermark = old.id from old where p.owner = old.owner),"
        " gone as (delete from archive m using old where m.owner = old.owner and m.id > old.watermark"
        " and m.id <= old.id and m.flags & 4 = 4)"
        " select i.n from item i where not exists (select 1 from progress p where p.owner = i.owner)",
    [S_SESSION_DELETE] = "delete from session_record s using unnest($1::bigint[], $2::text[]) t(session, bare)"
                         " where s.session = t.session and s.bare = t.bare",

    [S_ACCOUNT_CREATE] =
        "with a as (insert into account(owner, jid, domain, credentials) values (($1::bigint << 40) +"
        " nextval('account_serial'), $2::text, $3::text, $4::bytea) on conflict (jid) do nothing returning owner),"
        " p as (insert into progress(owner) select owner from a) select count(*) from a",
    [S_ACCOUNT_DELETE] = "with a as (delete from account where jid = $1::text returning owner),"
                         " p as (delete from progress p using a where p.owner = a.owner),"
                         " r as (delete from roster r using a where r.owner = a.owner),"
                         " v as (delete from account_value v using a where v.owner = a.owner),"
                         " s as (delete from session_record where bare = $1::text),"
                         " d as (insert into doomed(owner) select owner from a) select count(*) from a",
    [S_CREDENTIALS_SET] = "with a as (update account set credentials = $2::bytea where jid = $1::text"
                          " and ($3::bytea is null or credentials = $3::bytea) returning 1) select count(*) from a",
    [S_ROSTER_PUT] =
        "with p as (update progress set roster_version = $2::bigint where owner = $1::bigint returning owner),"
        " r as (insert into roster(owner, contact, name, subscription, ask, approved, in_roster, request, version,"
        " groups) select owner, $3::text, $4::text, $5::bigint::smallint, $6::bigint <> 0, $7::bigint <> 0,"
        " $8::bigint <> 0, $9::bytea, $2::bigint, $10::bytea from p on conflict (owner, contact) do update set"
        " name = excluded.name, subscription = excluded.subscription, ask = excluded.ask, approved = excluded.approved,"
        " in_roster = excluded.in_roster, request = excluded.request, version = excluded.version,"
        " groups = excluded.groups) select count(*) from p",
    [S_ROSTER_DELETE] =
        "with p as (update progress set roster_version = $2::bigint where owner = $1::bigint returning owner),"
        " r as (delete from roster r using p where r.owner = p.owner and r.contact = $3::text) select count(*) from p",
    [S_BLOCKED_SET] = "with a as (update account set blocked = $2::bytea where owner = $1::bigint returning 1) select "
                      "count(*) from a",
    [S_MAM_PREFS_SET] = "with a as (update account set mam_prefs = $2::bytea where owner = $1::bigint returning 1)"
                        " select count(*) from a",
    [S_VALUE_SET] = "with p as materialized (select owner from progress where owner = $1::bigint),"
                    " d as (delete from account_value v using p where v.owner = p.owner and v.key = $2::text"
                    " and $3::bytea is null),"
                    " i as (insert into account_value(owner, key, data) select owner, $2::text, $3::bytea from p"
                    " where $3::bytea is not null on conflict (owner, key) do update set data = excluded.data)"
                    " select count(*) from p",

    [S_CREDENTIALS_GET] = "select credentials from account where jid = $1::text",
    [S_ACCOUNT_LIST] = "select jid from account where domain = $1::text and jid > $2::text order by jid"
                       " limit $3::bigint",
    [S_ACCOUNT_LOAD] = "select a.owner, p.watermark, p.roster_version, greatest(p.last_id, p.watermark,"
                       " (select max(m.id) from archive m where m.owner = a.owner)), a.mam_prefs, a.blocked"
                       " from account a join progress p on p.owner = a.owner where a.jid = $1::text",
    [S_LOAD_ROSTER] = "select contact, name, subscription::bigint, ask::int::bigint, approved::int::bigint,"
                      " in_roster::int::bigint, request, version, groups from roster where owner =" WHO,
    [S_LOAD_WAITING] = "select count(*) from archive where owner =" WHO
                       "and id > (select watermark from progress where owner =" WHO ") and flags & 2 = 2",
    [S_LOAD_ORIGINS] = "select origin from archive where owner =" WHO
                       "and id >= $2::bigint and origin <> 0 order by id desc limit $3::bigint",
    [S_LOAD_MARKS] = "select session, max(seq) from archive where owner =" WHO
                     "and id >= $2::bigint and session <> 0 group by session order by max(id) desc limit $3::bigint",
    [S_LOAD_SESSIONS] = "select" SESSION "where bare = $1::text and expires >= $2::bigint",
    [S_VALUE_GET] = "select data from account_value where owner = $1::bigint and key = $2::text",
    [S_FIND_FORWARDS] = ROW FILTER " order by id limit $8::bigint",
    [S_FIND_BACKWARDS] = ROW FILTER " order by id desc limit $8::bigint",
    [S_FIND_IDS] = ROW " from archive where owner = $1::bigint and id = any($2::bigint[])"
                       " and (flags & $3::bigint) = $4::bigint order by id",
    [S_FIND_COUNT] = "select count(*)" FILTER,
    [S_ARCHIVE_HAS] = "select count(*) from archive where owner = $1::bigint and id = $2::bigint and flags & 4 = 0",
    [S_ARCHIVE_META] = "select coalesce(min(id), 0), coalesce(max(id), 0), count(*) from archive"
                       " where owner = $1::bigint and flags & 4 = 0",
    [S_SESSION_FIND] = "select" SESSION "where token_hash = $2::bytea and bare = $1::text",
    [S_SESSION_JIDS] = "select" SESSION "where node = $1::bigint and incarnation = $2::bigint and expires >= $3::bigint"
                       " and ((session < 0), session) > ($4::bigint < 0, $4::bigint)"
                       " order by (session < 0), session limit $5::bigint",

    [S_DROP_WEEK] = "select archive_drop_week($1::bigint)",
    /* Up to 1,000 rows of up to 200 owners. The highest id of an owner outlives its message. */
    [S_PURGE] =
        "with o as materialized (select owner, watermark from progress where owner > $1::bigint"
        " and ($2::bigint = 0 or owner = $2::bigint) order by owner limit 200),"
        " v as materialized (select m.owner, m.id from o cross join lateral (select a.owner, a.id from archive a"
        " where a.owner = o.owner and a.id < $3::bigint and not (a.flags & 2 = 2 and a.id > o.watermark)"
        " order by a.id limit 1000) m limit 1000),"
        " kept as (update progress p set last_id = t.id from (select owner, max(id) as id from v group by owner"
        " order by owner) t where p.owner = t.owner and p.last_id < t.id),"
        " gone as (delete from archive a using v where a.owner = v.owner and a.id = v.id)"
        " select (select count(*) from v), (select count(*) from o), (select coalesce(max(owner), 0) from o)",
    [S_MAKE_WEEKS] = "select archive_make_weeks($1::bigint)",
    /* Rows may still arrive from a node that had the account in memory: the owner stays doomed for a while. */
    [S_DOOMED] = "with v as materialized (select m.owner, m.id from doomed d cross join lateral (select a.owner, a.id"
                 " from archive a where a.owner = d.owner limit 1000) m limit 1000),"
                 " gone as (delete from archive a using v where a.owner = v.owner and a.id = v.id),"
                 " loose as (delete from account_value x using doomed d where x.owner = d.owner),"
                 " done as (delete from doomed d where d.made < now() - interval '10 minutes'"
                 " and not exists (select 1 from archive a where a.owner = d.owner))"
                 " select count(*) from v",
    [S_SESSION_EXPIRE] = "delete from session_record where expires < $1::bigint",
};
