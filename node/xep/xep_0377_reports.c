/*
 * XEP-0377: reports in the items of a block request (XEP-0191, which does the blocking: this module stands before it).
 * Operators get a line in the log for each request, and those who are configured a message; one account can make them
 * one in some seconds only. What users write goes into the message, never into the log.
 */
#include "xep.h"

#include <string.h>

#define NS_REPORT   "urn:xmpp:reporting:1"
#define NS_REPORT_0 "urn:xmpp:reporting:0" /* slixmpp 1.8: the reason is an element */
#define NS_BLOCKING "urn:xmpp:blocking"
#define NS_SID      "urn:xmpp:sid:0"

enum {
    EVERY_MS = 10000,     /* at most one message of one account */
    MAX_LISTED = 20,      /* reported addresses in one message */
    MAX_IDS = 10,         /* reported messages of one address */
    MAX_TEXT_BYTES = 2048 /* of a user's words about one address */
};

static const char *reason_of(const struct xml *report)
{
    const char *reason = xml_get(report, "reason");
    if (xml_is(report, "report", NS_REPORT_0))
        return xml_find(report, "spam", NS_REPORT_0) ? "spam" : xml_find(report, "abuse", NS_REPORT_0) ? "abuse" : NULL;
    if (reason && !strcmp(reason, "urn:xmpp:reporting:spam"))
        return "spam";
    return reason && !strcmp(reason, "urn:xmpp:reporting:abuse") ? "abuse" : NULL;
}

/* The next item with a report that can be understood. */
static const struct xml *next_report(struct arena *ar, struct xml **item, const struct jid **who)
{
    for (; *item; *item = xml_find_next(*item, "item", NS_BLOCKING)) {
        const struct xml *report = xml_find(*item, "report", NS_REPORT);
        if (!report)
            report = xml_find(*item, "report", NS_REPORT_0);
        const char *jid = xml_get(*item, "jid");
        *who = report && reason_of(report) && jid ? jid_parse(ar, jid, strlen(jid)) : NULL;
        if (*who)
            return report;
    }
    return NULL;
}

static void describe(struct buf *out, struct arena *ar, const struct jid *who, const struct xml *report)
{
    const char *text = xml_find_text(ar, report, "text", NULL);
    unsigned ids = 0;
    buf_printf(out, "\n%s: %s", who->s, reason_of(report));
    for (struct xml *x = xml_find(report, "stanza-id", NS_SID); x && ids < MAX_IDS;
         x = xml_find_next(x, "stanza-id", NS_SID), ids++)
        if (xml_get(x, "id") && strlen(xml_get(x, "id")) <= 256)
            buf_printf(out, "\n  message %s", xml_get(x, "id"));
    if (text && *text)
        buf_printf(out, "\n  \"%s\"", strlen(text) <= MAX_TEXT_BYTES ? text : "(too long)");
}

static void tell(struct account *a, const char *text)
{
    const struct config *c = a->sm->config;
    struct arena *ar = arena_new();
    const struct jid *host = jid_trusted(ar, jid_domain(a->jid), a->jid->domain_len);
    for (size_t i = 0; i < c->report_count; i++) {
        if (c->reports[i].host && !jid_domain_is(host, c->reports[i].host))
            continue;
        const struct jid *to = jid_trusted(ar, c->reports[i].jid, strlen(c->reports[i].jid));
        struct stanza *st = stanza_new(STANZA_MESSAGE, MESSAGE_NORMAL, to, host, NULL);
        xml_add_leaf(st->arena, st->x, "subject", NULL, "Abuse report");
        xml_add_leaf(st->arena, st->x, "body", NULL, text);
        sm_route(a->sm, &st);
    }
    arena_free(&ar);
}

static enum hook_result on_block(struct hook_ctx *cx)
{
    struct account *a = cx->account;
    struct arena *ar = cx->stanza->arena;
    struct xml *item = xml_find(cx->payload, "item", NS_BLOCKING);
    struct buf text = {0};
    const struct jid *who, *first = NULL;
    const char *reason = NULL;
    unsigned count = 0;
    for (const struct xml *r; (r = next_report(ar, &item, &who)); item = xml_find_next(item, "item", NS_BLOCKING)) {
        if (!count++) {
            first = who;
            reason = reason_of(r);
        }
        if (count <= MAX_LISTED)
            describe(&text, ar, who, r);
    }
    uint64_t now = loop_mono_ms(cx->sm->loop);
    if (!count || (a->reported_ms && now - a->reported_ms < EVERY_MS)) {
        buf_free(&text);
        return PASS;
    }
    a->reported_ms = now;
    log_info(&cx->sm->log, "abuse-report", "by", a->jid->s, "reported", first->s, "reason", reason, "count",
             log_num(count));
    tell(a, arena_printf(ar, "%s reports:%s%s", a->jid->s, buf_cstr(&text), count > MAX_LISTED ? "\n..." : ""));
    buf_free(&text);
    return PASS;
}

static const struct iq_hook iq[] = {
    {IQ_SETS, TO_SELF, NS_BLOCKING, "block", on_block},
    {0},
};

const struct module xep_0377_reports = {
    .name = "reports",
    .features = (const char *const[]){NS_REPORT, NS_REPORT_0, NULL},
    .iq = iq,
};
