/*
 * Persistent data: accounts, rosters, archives, blocking lists, resumption records.
 *
 * Asynchronous. Every call copies what it is given, returns at once, and its callback runs exactly once, later, on the
 * calling worker (through its inbox), never inside the call. Callbacks of one worker run in the order of its calls, and
 * a read sees every write called before it on the same worker (archive_purge alone is outside this order: it may take
 * long). Writes are grouped: while one transaction is in flight the next is collected; a callback with OK means
 * committed (single node: SQLite WAL, synchronous=FULL; PostgreSQL: with the synchronous standby, where there is one).
 * ERR_UNKNOWN means nobody knows whether it was written; postgres finds out instead, and calls wait while the database
 * is away.
 * ERR_BUSY: the queue is full (max_queued), nothing was written. Writes for an owner that does not exist (any more):
 * ERR_NOT_FOUND; reads find nothing.
 *
 * There is no cancel: callers hand an arg that survives them (an account pinned by a pending count, or an id to look
 * up).
 *
 * A bare JID's home is the only writer of its data, so ids made there are ordered as they are committed.
 * Single writer also means: no call here is a compare-and-set, but for credentials.
 */
#ifndef ROOKERY_STORE_H
#define ROOKERY_STORE_H

#include "bytes.h"
#include "inbox.h"
#include "jid.h"
#include "scram.h"

struct store;        /* one per process */
struct store_client; /* one per worker: knows the inbox that gets the callbacks */

struct store_config {
    const char *driver;        /* "memory", "sqlite", "postgres" */
    const char *path;          /* sqlite: file; ":memory:" is not for production */
    uint32_t max_queued;       /* operations called whose callback has not run, all workers together; default 100,000 */
    uint32_t max_batch;        /* operations per transaction; default 2,000 */
    const char *const *shards; /* postgres: libpq conninfo of each shard, in the order of their slots */
    size_t shard_count;        /* shard of a slot = slot * shard_count / RING_SLOTS */
};

/* Opens, creates or migrates the schema (schema version row; a database newer than the code is refused).
 * On error *why (malloc'd) says what an operator must do. ERR_CLOSED: postgres cannot be reached, or not now. */
enum err store_open(const struct store_config *c, struct store **out, char **why) WARN_UNUSED;
/* Commits what is queued, then closes. Clients are freed before. */
void store_close(struct store **s);
struct store_client *store_client_new(struct store *s, struct inbox *inbox);
/* On the worker's thread, not from a callback, before inbox_free. No callback of this client runs any more; what it
 * called is still written. */
void store_client_free(struct store_client **c);
/* What is called in between goes to the driver in one piece: one wake-up, one transaction. For the work of one loop
 * turn; do not nest. */
void store_hold(struct store_client *c);
void store_release(struct store_client *c);

/* What this node may write: membership in the ring, as of an epoch. */
struct store_fence {
    uint32_t node;
    uint64_t incarnation, epoch;
    uint64_t slots[RING_SLOTS / 64]; /* bit s % 64 of word s / 64: this node is the home of slot s */
    void (*refused)(void *arg,
                    uint64_t epoch); /* a transaction of this epoch was refused; any thread; NULL: nobody asks */
    void *arg;
};
/*
 * postgres: from the first call on every transaction of writes needs the row (node, incarnation, epoch) of table fence
 * in its shard. When the row is missing, writes wait until a newer epoch is set here; then those of slots that are not
 * this node's any more end with ERR_FENCED, unwritten, and the others are written. Writes for other slots end with
 * ERR_FENCED at once. Accounts' creation, deletion and credentials come from administration and are bound to no slot;
 * nor are purges. Without a fence, and with other drivers, nothing is checked: one node has the database alone.
 * Any thread; copied. Epochs only grow within an incarnation.
 */
void store_fence_set(struct store *s, const struct store_fence *f);
/* What c is called to write from now on is written by this ring. When the slot has been another's since then, by what
 * store_fence_set was told (or may have been, when an epoch was left out), it ends with ERR_FENCED, also if the slot
 * has come back: meanwhile somebody else may have written the same. Without a call c knows no ring and is not asked. */
void store_client_epoch(struct store_client *c, uint64_t epoch);

typedef void store_done_fn(void *arg, enum err e);

/* ---- accounts ---- */

void store_account_create(struct store_client *c, const struct jid *bare, const struct credentials *cr, store_done_fn *,
                          void *arg); /* ERR_EXISTS */
void store_account_delete(struct store_client *c, const struct jid *bare, store_done_fn *,
                          void *arg); /* and all its data; ERR_NOT_FOUND */
void store_account_credentials_set(struct store_client *c, const struct jid *bare, const struct credentials *cr,
                                   store_done_fn *, void *arg);
/* The same if the credentials are still `was`, else ERR_NOT_FOUND: an account's home adds to them while administration
 * may replace them. */
void store_account_credentials_replace(struct store_client *c, const struct jid *bare, const struct credentials *was,
                                       const struct credentials *cr, store_done_fn *, void *arg);
/* cr is valid during the call; ERR_NOT_FOUND with NULL. */
typedef void store_credentials_fn(void *arg, enum err e, const struct credentials *cr);
void store_account_credentials_get(struct store_client *c, const struct jid *bare, store_credentials_fn *, void *arg);
/* Bare JIDs of a domain in order, after the given one (NULL: from the start), at most limit. */
typedef void store_list_fn(void *arg, enum err e, const char *const *jids, size_t n);
void store_account_list(struct store_client *c, const char *domain, const char *after, size_t limit, store_list_fn *,
                        void *arg);

/* ---- what the home of an account keeps in memory ---- */

enum { SUB_NONE = 0, SUB_TO = 1, SUB_FROM = 2, SUB_BOTH = 3 }; /* bits */

struct roster_item {
    const char *jid;             /* bare (or full) JID of the contact, prepared */
    const char *name;            /* NULL: none */
    uint8_t subscription;        /* SUB_* */
    bool ask;                    /* subscription pending out */
    bool approved;               /* pre-approval, RFC 6121 3.4 */
    bool in_roster;              /* false: only a pending-in request, never shown in the roster */
    const struct bytes *request; /* pending in: the subscribe stanza to give to every new resource; NULL: none */
    uint64_t version;            /* roster version of its last change */
    const char *const *groups;
    size_t group_count;
};

enum { STORE_ORIGINS_MAX = 4096 };

/* How far a sending session has come with this owner. */
struct stream_mark {
    uint64_t session, seq;
};

/* One operation loads it all; valid during the callback. */
struct account_data {
    int64_t owner;      /* key for all calls below */
    uint64_t last_id;   /* highest archive id ever given, 0: none */
    uint64_t watermark; /* deliverable messages with an id above it are waiting (offline) */
    uint64_t waiting;   /* number of them */
    uint64_t roster_version;
    const struct roster_item *roster;
    size_t roster_count;
    const struct bytes *mam_prefs; /* opaque to storage; NULL: defaults */
    const char *const *blocked;    /* JIDs as in XEP-0191 */
    size_t blocked_count;
    const uint64_t *origins; /* origin hashes (non-zero) of messages with id >= origins_since, newest last, at most
                                STORE_ORIGINS_MAX */
    size_t origin_count;
    const struct stream_mark *marks; /* the highest seq of each session among messages with id >= origins_since; of at
                                        most STORE_ORIGINS_MAX sessions, those that sent last */
    size_t mark_count;
    const struct session_record *sessions; /* all of this account that have not expired */
    size_t session_count;
};
typedef void store_account_fn(void *arg, enum err e,
                              const struct account_data *d); /* ERR_NOT_FOUND: no such account, d NULL */
/* origins_since: archive id from which origin hashes are wanted. */
void store_account_load(struct store_client *c, const struct jid *bare, uint64_t origins_since, store_account_fn *,
                        void *arg);

void store_roster_put(struct store_client *c, int64_t owner, const struct roster_item *it, store_done_fn *,
                      void *arg); /* also sets roster_version */
void store_roster_delete(struct store_client *c, int64_t owner, const char *contact, uint64_t version, store_done_fn *,
                         void *arg); /* version too */
/* Replaces the whole list. */
void store_blocked_set(struct store_client *c, int64_t owner, const char *const *jids, size_t n, store_done_fn *,
                       void *arg);
void store_mam_prefs_set(struct store_client *c, int64_t owner, const struct bytes *prefs, store_done_fn *, void *arg);

/* Small named values of an account (private XML, vCard, ...): key is "namespace name" of the feature's choice. value
 * NULL deletes. */
typedef void store_value_fn(void *arg, enum err e, const struct bytes *value); /* ERR_NOT_FOUND with NULL */
void store_value_get(struct store_client *c, int64_t owner, const char *key, store_value_fn *, void *arg);
void store_value_set(struct store_client *c, int64_t owner, const char *key, struct bytes *value, store_done_fn *,
                     void *arg);

/* ---- archive and offline ---- */

enum {
    ARCHIVE_OUT = 1,     /* sent by the owner; else received */
    ARCHIVE_DELIVER = 2, /* must reach a resource: counts as waiting while id > watermark */
    ARCHIVE_HIDDEN = 4,  /* kept only for delivery; not in MAM; removed once the watermark passes it */
};

struct archive_item {
    uint64_t id; /* ordered per owner: microseconds since 1970 << 4, at least last + 1 */
    uint8_t flags;
    const char *peer;     /* the other side's JID, full when known */
    uint64_t origin;      /* hash of (peer bare, origin-id); 0: none */
    struct bytes *stanza; /* canonical message as received by the owner, without our <stanza-id/>; shared, not copied */
    uint64_t session, seq; /* the sending c2s session and its number of the stanza: account_load's marks; session 0:
                              none */
    uint64_t handled;      /* the record of `session`, one of this owner's, gets an in_seq of at least this in the same
                                   transaction; 0: none */
};
/* Group-committed; the hot path. The item is copied, the stanza referenced. ERR_EXISTS: the owner has this id already.
 */
void store_archive_put(struct store_client *c, int64_t owner, const struct archive_item *it, store_done_fn *,
                       void *arg);
/* Raises the watermark (never lowers it) and removes ARCHIVE_HIDDEN rows at or below it. Loading an account looks at
 * every row above it, so raise it past what was sent too when nothing waits. */
void store_watermark_set(struct store_client *c, int64_t owner, uint64_t id, store_done_fn *, void *arg);

struct archive_query {
    int64_t owner;
    uint64_t start_id, end_id;    /* inclusive bounds from start/end times; 0 and UINT64_MAX for none */
    uint64_t after_id, before_id; /* exclusive bounds (RSM and before-id/after-id); 0 and UINT64_MAX for none */
    const char *with;             /* NULL: all; bare JID: every resource of it; full: only that */
    const uint64_t *ids;          /* XEP-0313 ids filter; n_ids 0: none */
    size_t n_ids;
    uint32_t max;     /* rows wanted */
    bool backwards;   /* the last max rows of the range instead of the first; result order is ascending all the same */
    bool want_count;  /* total of the filter, ignoring after_id, before_id and max */
    bool deliverable; /* instead of MAM's view: ARCHIVE_DELIVER rows, hidden ones too (offline) */
};
struct archive_row {
    uint64_t id;
    uint8_t flags;
    const char *peer;
    const char *stanza;
    size_t stanza_len;
};
/* more: rows are left in the direction of reading. total: -1 unless wanted. Valid during the call.
 * ERR_NOT_FOUND: an id in ids does not exist. */
typedef void store_page_fn(void *arg, enum err e, const struct archive_row *rows, size_t n, bool more, int64_t total);
void store_archive_find(struct store_client *c, const struct archive_query *q, store_page_fn *, void *arg);
/* Does this id exist in MAM's view? (RSM: item-not-found.) OK or ERR_NOT_FOUND. */
void store_archive_has(struct store_client *c, int64_t owner, uint64_t id, store_done_fn *, void *arg);
/* First and last row in MAM's view; ids 0 when empty. */
typedef void store_meta_fn(void *arg, enum err e, uint64_t first_id, uint64_t last_id, uint64_t count);
void store_archive_meta(struct store_client *c, int64_t owner, store_meta_fn *, void *arg);
/* Deletes rows with id < before (of one owner, or of all with owner 0) that are not waiting for delivery; count by
 * callback. Goes in steps between the batches of others. */
typedef void store_count_fn(void *arg, enum err e, uint64_t n);
void store_archive_purge(struct store_client *c, int64_t owner, uint64_t before, store_count_fn *, void *arg);

/* ---- session records: resumption (XEP-0198), and whose socket was on a dead node ---- */

struct session_record {
    uint64_t session;       /* the session's id, unique for ever (drawn at random) */
    uint8_t token_hash[32]; /* SHA-256 of the resumption id; zeros: not resumable, never found by it */
    const char *jid;        /* full JID */
    uint64_t expires_unix;  /* seconds; older ones are removed now and then */
    uint64_t in_seq;        /* stanzas known to be handled */
    uint32_t node;          /* where its socket is */
    uint64_t incarnation;   /* of that node */
    bool resumable;
};
/* A session that exists keeps its in_seq when that is higher. ERR_EXISTS: the token hash is another session's. */
void store_session_put(struct store_client *c, const struct session_record *r, store_done_fn *, void *arg);
typedef void store_session_fn(void *arg, enum err e, const struct session_record *r); /* ERR_NOT_FOUND */
/* Among the sessions of this account. */
void store_session_find(struct store_client *c, const struct jid *bare, const uint8_t token_hash[32],
                        store_session_fn *, void *arg);
void store_session_delete(struct store_client *c, const struct jid *bare, uint64_t session, store_done_fn *, void *arg);
/* Records that have not expired of sessions whose socket is on this incarnation of a node: at most limit, by ascending
 * session id, after the given one (0: from the start). Fewer than limit: that was all. */
typedef void store_sessions_fn(void *arg, enum err e, const struct session_record *r, size_t n);
void store_session_jids(struct store_client *c, uint32_t node, uint64_t incarnation, uint64_t after_session,
                        size_t limit, store_sessions_fn *, void *arg);

struct store_shard_stats {
    uint64_t up; /* 0: writes wait until the database is back; 1 also while there is nothing to write */
    uint64_t transactions, fenced; /* writes that were committed; that were refused because of the fence */
    uint64_t reconnects;           /* of the connection that writes */
};
/* postgres: how many shards there are, and how one is doing; other drivers have none. Any thread. */
size_t store_shards(const struct store *s);
struct store_shard_stats store_shard_stats(const struct store *s, size_t shard);

/* One random secret per installation, made at creation: fake SCRAM salts, later dialback. Ready after store_open. */
/* Do more than so many per cent of max_queued wait? Any thread. Who is told so should take on less. */
bool store_behind(const struct store *s, unsigned percent);
const uint8_t *store_secret(const struct store *s); /* 32 bytes */

#endif
