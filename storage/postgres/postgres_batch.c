/*
 * A batch as a few statements. Operations of one slot keep their order; those of different slots do not matter to each
 * other, so they are gathered by kind: first all session records, then all messages, and so on. When a slot's next
 * operation belongs to an earlier kind than its last one, it goes to a second layer, which begins anew.
 */
#include "postgres.h"

#include <stdlib.h>
#include <string.h>

enum { RANK_NONE = -1, RANK_SESSION_PUT, RANK_PUT, RANK_WATERMARK, RANK_SESSION_DELETE, RANK_SINGLE };

struct pg_batch *pg_batch_new(uint32_t max)
{
    struct pg_batch *b = xcalloc(1, sizeof *b);
    b->plan = xcalloc(max, sizeof *b->plan);
    b->groups = xcalloc(max, sizeof *b->groups);
    return b;
}

void pg_batch_free(struct pg_batch **bp)
{
    struct pg_batch *b = *bp;
    *bp = NULL;
    for (int i = 0; i < PUT_ARRAYS; i++)
        array_free(&b->arrays[i]);
    free(b->groups);
    free(b->plan);
    free(b);
}

/* ---- the plan ---- */

static int rank_of(const struct store_req *r)
{
    switch (r->op) {
    case OP_SESSION_PUT:
        return RANK_SESSION_PUT;
    case OP_ARCHIVE_PUT:
        return RANK_PUT;
    case OP_WATERMARK_SET:
        return RANK_WATERMARK;
    case OP_SESSION_DELETE:
        return RANK_SESSION_DELETE;
    default:
        return RANK_SINGLE;
    }
}

/* One statement cannot write a session record twice, nor say which of two messages with the same id was the first. */
static bool goes_later(const struct slot_plan *s, const struct store_req *r, int rank)
{
    if (rank != s->rank)
        return rank < s->rank;
    return rank == RANK_SESSION_PUT || (rank == RANK_PUT && r->in.item.id <= s->last_put);
}

static uint32_t layer_of(struct pg_batch *b, const struct store_req *r, int rank)
{
    struct slot_plan *s = &b->slots[r->slot];
    if (s->stamp != b->stamp)
        *s = (struct slot_plan){.stamp = b->stamp, .rank = RANK_NONE};
    if (goes_later(s, r, rank))
        s->layer++;
    s->rank = rank;
    if (rank == RANK_PUT)
        s->last_put = r->in.item.id;
    return s->layer;
}

static int planned_order(const void *a, const void *b)
{
    const struct planned *x = a, *y = b;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank - y->rank;
    return x->n < y->n ? -1 : x->n > y->n;
}

static void plan_make(struct pg_batch *b, struct store_req **ops, size_t n)
{
    b->stamp++;
    for (size_t i = 0; i < n; i++) {
        int rank = rank_of(ops[i]);
        ops[i]->err = OK;
        b->plan[i] = (struct planned){.r = ops[i], .layer = layer_of(b, ops[i], rank), .n = (uint32_t)i, .rank = rank};
    }
    qsort(b->plan, n, sizeof *b->plan, planned_order);
    b->group_count = 0;
    for (size_t i = 0; i < n; i++) {
        const struct planned *p = &b->plan[i];
        struct pg_group *last = b->group_count ? &b->groups[b->group_count - 1] : NULL;
        if (last && p->rank != RANK_SINGLE && p->rank == last->rank && p->layer == b->plan[last->first].layer)
            last->count++;
        else
            b->groups[b->group_count++] = (struct pg_group){p->rank, i, 1};
    }
}

/* ---- statements of many ---- */

static void arrays_begin(struct pg_batch *b, const char *types, size_t count)
{
    for (int i = 0; types[i]; i++)
        array_begin(&b->arrays[i], types[i] == 'i' ? PG_INT8 : types[i] == 't' ? PG_TEXT : PG_BYTEA, count);
}

static void arrays_send(struct pg_batch *b, struct pg_conn *c, enum pg_stmt s, int count)
{
    struct pg_args args = {0};
    for (int i = 0; i < count; i++)
        arg_array(&args, &b->arrays[i]);
    pg_send(c, s, &args);
}

static void put_add(struct pg_array *a, const struct store_req *r)
{
    const struct archive_item *it = &r->in.item;
    size_t bare = store_bare_len(r->text);
    const char *resource = r->text[bare] ? r->text + bare + 1 : NULL;
    const int64_t numbers[] = {
        r->owner,         (int64_t)it->id,     it->flags, (int64_t)it->origin, (int64_t)it->session,
        (int64_t)it->seq, (int64_t)it->handled};
    for (int i = 0; i < 7; i++)
        array_int(&a[i], numbers[i]);
    array_blob(&a[7], r->text, bare);
    array_blob(&a[8], resource, resource ? strlen(resource) : 0);
    array_blob(&a[9], r->bytes->data, r->bytes->len);
}

static void session_add(struct pg_array *a, const struct store_req *r)
{
    const struct session_record *s = &r->in.session;
    size_t bare = store_bare_len(r->text);
    const char *resource = r->text[bare] ? r->text + bare + 1 : "";
    array_int(&a[0], (int64_t)s->session);
    array_blob(&a[1], store_token_none(s->token_hash) ? NULL : s->token_hash, sizeof s->token_hash);
    array_blob(&a[2], r->text, bare);
    array_blob(&a[3], resource, strlen(resource));
    array_int(&a[4], (int64_t)s->expires_unix);
    array_int(&a[5], (int64_t)s->in_seq);
    array_int(&a[6], s->node);
    array_int(&a[7], (int64_t)s->incarnation);
    array_int(&a[8], s->resumable);
}

static void watermark_add(struct pg_array *a, const struct store_req *r)
{
    array_int(&a[0], r->owner);
    array_int(&a[1], (int64_t)r->id);
}

static void session_delete_add(struct pg_array *a, const struct store_req *r)
{
    array_int(&a[0], (int64_t)r->id);
    array_blob(&a[1], r->text, strlen(r->text));
}

static const struct {
    enum pg_stmt stmt;
    const char *types;
    void (*add)(struct pg_array *a, const struct store_req *r);
} many[] = {
    [RANK_SESSION_PUT] = {S_SESSION_PUT, "ibttiiiii", session_add},
    [RANK_PUT] = {S_ARCHIVE_PUT, "iiiiiiittb", put_add},
    [RANK_WATERMARK] = {S_WATERMARK_SET, "ii", watermark_add},
    [RANK_SESSION_DELETE] = {S_SESSION_DELETE, "it", session_delete_add},
};

/* ---- statements of one ---- */

static void arg_bytes(struct pg_args *a, const struct bytes *b)
{
    arg_blob(a, b ? b->data : NULL, b ? b->len : 0);
}

static void roster_args(struct pg_args *a, struct store_req *r)
{
    const struct roster_item *it = r->in.roster;
    arg_int(a, (int64_t)it->version);
    arg_text(a, it->jid);
    arg_text(a, it->name);
    arg_int(a, it->subscription);
    arg_int(a, it->ask);
    arg_int(a, it->approved);
    arg_int(a, it->in_roster);
    arg_bytes(a, it->request);
    arg_bytes(a, store_strings_pack(store_req_arena(r), it->groups, it->group_count));
}

static void credentials_arg(struct pg_args *a, const struct store_req *r, uint8_t packed[STORE_CREDENTIALS_PACKED])
{
    store_credentials_pack(r->in.credentials, packed);
    arg_blob(a, packed, STORE_CREDENTIALS_PACKED);
}

static void account_send(struct pg_conn *c, struct store_req *r)
{
    uint8_t packed[STORE_CREDENTIALS_PACKED];
    struct pg_args a = {0};
    if (r->op == OP_ACCOUNT_CREATE)
        arg_int(&a, r->slot);
    arg_text(&a, r->text);
    if (r->op == OP_ACCOUNT_CREATE)
        arg_text(&a, store_domain(r->text));
    if (r->op != OP_ACCOUNT_DELETE)
        credentials_arg(&a, r, packed);
    if (r->op == OP_CREDENTIALS_SET)
        arg_bytes(&a, r->bytes);
    pg_send(c,
            r->op == OP_ACCOUNT_CREATE   ? S_ACCOUNT_CREATE
            : r->op == OP_ACCOUNT_DELETE ? S_ACCOUNT_DELETE
                                         : S_CREDENTIALS_SET,
            &a);
    explicit_bzero(packed, sizeof packed);
}

static void single_send(struct pg_conn *c, struct store_req *r)
{
    struct pg_args a = {0};
    arg_int(&a, r->owner);
    switch (r->op) {
    case OP_ROSTER_PUT:
        roster_args(&a, r);
        pg_send(c, S_ROSTER_PUT, &a);
        return;
    case OP_ROSTER_DELETE:
        arg_int(&a, (int64_t)r->id);
        arg_text(&a, r->text);
        pg_send(c, S_ROSTER_DELETE, &a);
        return;
    case OP_BLOCKED_SET:
        arg_bytes(&a, store_strings_pack(store_req_arena(r), r->in.blocked.items, r->in.blocked.n));
        pg_send(c, S_BLOCKED_SET, &a);
        return;
    case OP_MAM_PREFS_SET:
        arg_bytes(&a, r->bytes);
        pg_send(c, S_MAM_PREFS_SET, &a);
        return;
    case OP_VALUE_SET:
        arg_text(&a, r->text);
        arg_bytes(&a, r->bytes);
        pg_send(c, S_VALUE_SET, &a);
        return;
    default:
        account_send(c, r);
    }
}

void pg_batch_send(struct pg_batch *b, struct pg_conn *c, struct store_req **ops, size_t n)
{
    plan_make(b, ops, n);
    for (size_t g = 0; g < b->group_count; g++) {
        const struct pg_group *group = &b->groups[g];
        if (group->rank == RANK_SINGLE) {
            single_send(c, b->plan[group->first].r);
            continue;
        }
        arrays_begin(b, many[group->rank].types, group->count);
        for (size_t i = 0; i < group->count; i++)
            many[group->rank].add(b->arrays, b->plan[group->first + i].r);
        arrays_send(b, c, many[group->rank].stmt, (int)strlen(many[group->rank].types));
    }
}

/* ---- answers ---- */

/* Statements of many answer with the numbers of those that failed, counted from 1. */
void pg_batch_answer(struct pg_batch *b, size_t group, const PGresult *res)
{
    const struct pg_group *g = &b->groups[group];
    if (g->rank == RANK_SINGLE) {
        struct store_req *r = b->plan[g->first].r;
        if (!col_int(res, 0, 0))
            r->err = r->op == OP_ACCOUNT_CREATE ? ERR_EXISTS : ERR_NOT_FOUND;
        return;
    }
    for (int row = 0; row < PQntuples(res); row++) {
        size_t n = (size_t)col_int(res, row, 0);
        CHECK(n && n <= g->count, "answer about row %zu of %zu", n, g->count);
        b->plan[g->first + n - 1].r->err = g->rank == RANK_PUT && col_int(res, row, 1) ? ERR_EXISTS : ERR_NOT_FOUND;
    }
}

/* An account that exists with exactly these credentials is the one that this batch made: salts are random. */
static bool recall_created(struct pg_conn *c, struct store_req *r)
{
    uint8_t packed[STORE_CREDENTIALS_PACKED];
    char state[6];
    struct pg_args a = {0};
    arg_text(&a, r->text);
    credentials_arg(&a, r, packed);
    PGresult *res = pg_ask(c, S_CREATED, &a, state);
    bool answered = res;
    if (answered)
        r->err = col_int(res, 0, 0) ? OK : ERR_EXISTS;
    PQclear(res);
    explicit_bzero(packed, sizeof packed);
    return answered;
}

/*
 * Which operations had no account to write to. (A message whose id was taken passes for written: ids are given by the
 * account's only writer.)
 */
bool pg_batch_recall(struct pg_batch *b, struct pg_conn *c, struct store_req **ops, size_t n)
{
    char state[6];
    struct pg_args a = {0};
    array_begin(&b->arrays[0], PG_INT8, n);
    for (size_t i = 0; i < n; i++) {
        ops[i]->err = OK;
        array_int(&b->arrays[0], ops[i]->owner);
    }
    arg_array(&a, &b->arrays[0]);
    PGresult *res = pg_ask(c, S_OWNERS_GONE, &a, state);
    for (int row = 0; res && row < PQntuples(res); row++) {
        size_t i = (size_t)col_int(res, row, 0);
        CHECK(i && i <= n, "answer about row %zu of %zu", i, n);
        if (ops[i - 1]->owner)
            ops[i - 1]->err = ERR_NOT_FOUND;
    }
    bool ok = res;
    PQclear(res);
    for (size_t i = 0; i < n && ok; i++)
        if (ops[i]->op == OP_ACCOUNT_CREATE)
            ok = recall_created(c, ops[i]);
    return ok;
}
