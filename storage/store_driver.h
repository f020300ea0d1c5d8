/*
 * Between store.c and a driver: requests.
 *
 * store.c copies the arguments of a call into a request and hands it to the driver on the calling worker's thread. The
 * driver runs it wherever it likes (a thread of its own, the worker's loop), fills in `err` and `out`, and gives it
 * back with store_complete, a whole batch at once. store.c takes it to the worker it came from, puts callbacks into the
 * order of the calls, and frees it. So a driver may finish requests in any order, as long as a read sees what the same
 * worker wrote before it, and writes of one worker take effect in its order.
 */
#ifndef ROOKERY_STORE_DRIVER_H
#define ROOKERY_STORE_DRIVER_H

#include "arena.h"
#include "store.h"

enum store_op {
    /* reads */
    OP_CREDENTIALS_GET,
    OP_ACCOUNT_LIST,
    OP_ACCOUNT_LOAD,
    OP_VALUE_GET,
    OP_ARCHIVE_FIND,
    OP_ARCHIVE_HAS,
    OP_ARCHIVE_META,
    OP_SESSION_FIND,
    OP_SESSION_JIDS,
    /* writes */
    OP_ACCOUNT_CREATE,
    OP_ACCOUNT_DELETE,
    OP_CREDENTIALS_SET,
    OP_ROSTER_PUT,
    OP_ROSTER_DELETE,
    OP_BLOCKED_SET,
    OP_MAM_PREFS_SET,
    OP_VALUE_SET,
    OP_ARCHIVE_PUT,
    OP_WATERMARK_SET,
    OP_ARCHIVE_PURGE,
    OP_SESSION_PUT,
    OP_SESSION_DELETE,
    STORE_OPS,
};

struct store_list {
    const char *const *items;
    size_t n;
};

struct store_page {
    struct archive_row *rows;
    size_t n;
    bool more;
    int64_t total;
};

struct store_sessions {
    struct session_record *items;
    size_t n;
};

struct store_meta {
    uint64_t first_id, last_id, count;
};

struct store_req {
    struct store_req *next;      /* the driver's, until it is the list given to store_complete */
    struct store_req *call_next; /* store.c: calls of one worker in order */
    struct store_client *client;
    struct arena *arena; /* store_req_arena */
    enum store_op op;
    bool done;          /* store.c */
    uint64_t epoch;     /* store_client_epoch */
    uint64_t called_us; /* writes: when */
    union {
        store_done_fn *done;
        store_credentials_fn *credentials;
        store_list_fn *list;
        store_account_fn *account;
        store_value_fn *value;
        store_page_fn *page;
        store_meta_fn *meta;
        store_count_fn *count;
        store_session_fn *session;
        store_sessions_fn *sessions;
    } fn;
    void *arg;

    /* What is asked. Unused fields are zero. */
    int64_t owner;       /* calls about an account's data */
    unsigned phase;      /* the driver's */
    unsigned slot;       /* of calls that name a JID */
    struct bytes *bytes; /* a reference: stanza, value, preferences, packed credentials that must still be there */
    uint64_t id; /* watermark, has, purge's before, load's origins_since, roster_delete's version, session_delete */
    union {
        const struct credentials *credentials;
        struct {
            const char *after;
            size_t limit;
        } list;
        const struct roster_item *roster;
        struct store_list blocked;
        struct archive_item item; /* peer is text, stanza is bytes */
        struct archive_query query;
        struct session_record session; /* jid is text */
        uint8_t token_hash[32];
        struct {
            uint32_t node;
            uint64_t incarnation, after;
            size_t limit;
        } node;
    } in;

    /* The answer; everything it points to is in the arena. Read by store.c only when err is OK. */
    enum err err;
    union {
        struct credentials *credentials;
        struct store_list list;
        struct account_data account;
        struct bytes *value;
        struct store_page page;
        struct store_meta meta;
        uint64_t count;
        struct session_record session;
        struct store_sessions sessions;
    } out;

    char text[]; /* the one string most calls have: bare JID, domain, contact, value's key, peer, full JID */
};

/* For drivers with a fence. since: the epoch from which on each slot that is this node's has been so without a break.
 */
void store_fence_since(uint64_t since[RING_SLOTS], const struct store_fence *before, const struct store_fence *now);
/* May this write be done, or is it bound to a home that is another one, or was meanwhile? */
bool store_fence_allows(const struct store_fence *f, const uint64_t since[RING_SLOTS], const struct store_req *r);

struct store_driver {
    const char *name;
    /* Fills in the installation's secret. On error *why as in store_open. */
    enum err (*open)(const struct store_config *c, void **db, uint8_t secret[32], char **why);
    /* Takes the requests from first to last, linked by next. Any worker's thread; must neither block nor complete
     * inside the call in a way that runs callbacks (store_complete never does). */
    void (*submit)(void *db, struct store_req *first, struct store_req *last);
    /* store_fence_set; NULL: the driver has no fence. */
    void (*fence)(void *db, const struct store_fence *f);
    /* store_shards, store_shard_stats; NULL: the driver has none. */
    size_t (*shards)(const void *db);
    struct store_shard_stats (*stats)(const void *db, size_t shard);
    /* Finishes what was submitted. */
    void (*close)(void *db);
};

extern const struct store_driver store_memory, store_sqlite, store_postgres;

/* Gives back finished requests, linked by next; one inbox message per worker. Any thread. */
void store_complete(struct store_req *list);

/* The request's arena, made when first needed; goes with the request from thread to thread. */
struct arena *store_req_arena(struct store_req *r);

static inline bool store_op_writes(enum store_op op)
{
    return op >= OP_ACCOUNT_CREATE;
}

/* Ids a page may hold: start, end, after and before in one; false when that is none at all. */
bool store_query_range(const struct archive_query *q, uint64_t *first, uint64_t *last);

/* ---- copies and flat forms (store_pack.c) ---- */

struct roster_item *store_roster_copy(struct arena *a, const struct roster_item *it);
/* Bytes that live and die with the arena: never unref. */
struct bytes *store_bytes_in(struct arena *a, const void *p, size_t n);
const char *const *store_strings_copy(struct arena *a, const char *const *s, size_t n);

/* A list of strings as one block, each with its NUL. */
struct bytes *store_strings_pack(struct arena *a, const char *const *s, size_t n);
struct store_list store_strings_unpack(struct arena *a, const char *p, size_t n);

enum { STORE_CREDENTIALS_PACKED = SCRAM_HASHES * (4 + SCRAM_SALT_LEN + 2 * SCRAM_KEY_MAX) };
void store_credentials_pack(const struct credentials *cr, uint8_t out[STORE_CREDENTIALS_PACKED]);
/* Hashes that the block does not have are left without keys: it may come from an older version. */
void store_credentials_unpack(const uint8_t *p, size_t n, struct credentials *out);

/* No token: a session that cannot be resumed. */
bool store_token_none(const uint8_t token_hash[32]);

/* Length of the bare part of a prepared JID. */
size_t store_bare_len(const char *jid);
/* The domain of a prepared bare JID. */
const char *store_domain(const char *bare);

#endif
