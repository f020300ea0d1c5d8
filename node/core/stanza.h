/*
 * Stanzas (RFC 6120 section 8) and the tables of stanza and stream errors.
 *
 * A stanza owns an arena that holds the struct, its JIDs and its tree; stanza_free frees all of it.
 * It is moved along its way, never shared; what many receive is serialised once into struct bytes.
 */
#ifndef ROOKERY_STANZA_H
#define ROOKERY_STANZA_H

#include "bytes.h"
#include "jid.h"
#include "xml.h"

#define NS_CLIENT      "jabber:client"
#define NS_SERVER      "jabber:server"
#define NS_STREAM      "http://etherx.jabber.org/streams"
#define NS_STREAMS_ERR "urn:ietf:params:xml:ns:xmpp-streams"
#define NS_STANZAS     "urn:ietf:params:xml:ns:xmpp-stanzas"

enum stanza_kind { STANZA_MESSAGE, STANZA_PRESENCE, STANZA_IQ };

enum stanza_type {
    /* message; an unknown or absent type is normal (RFC 6121 5.2.2) */
    MESSAGE_NORMAL,
    MESSAGE_CHAT,
    MESSAGE_GROUPCHAT,
    MESSAGE_HEADLINE,
    MESSAGE_ERROR,
    /* presence */
    PRESENCE_AVAILABLE,
    PRESENCE_UNAVAILABLE,
    PRESENCE_SUBSCRIBE,
    PRESENCE_SUBSCRIBED,
    PRESENCE_UNSUBSCRIBE,
    PRESENCE_UNSUBSCRIBED,
    PRESENCE_PROBE,
    PRESENCE_ERROR,
    /* iq */
    IQ_GET,
    IQ_SET,
    IQ_RESULT,
    IQ_ERROR,
};

/* RFC 6120 8.3.3; the RFC's own error type comes with each. */
enum stanza_error {
    SE_BAD_REQUEST,
    SE_CONFLICT,
    SE_FEATURE_NOT_IMPLEMENTED,
    SE_FORBIDDEN,
    SE_GONE,
    SE_INTERNAL_SERVER_ERROR,
    SE_ITEM_NOT_FOUND,
    SE_JID_MALFORMED,
    SE_NOT_ACCEPTABLE,
    SE_NOT_ALLOWED,
    SE_NOT_AUTHORIZED,
    SE_POLICY_VIOLATION,
    SE_RECIPIENT_UNAVAILABLE,
    SE_REDIRECT,
    SE_REGISTRATION_REQUIRED,
    SE_REMOTE_SERVER_NOT_FOUND,
    SE_REMOTE_SERVER_TIMEOUT,
    SE_RESOURCE_CONSTRAINT,
    SE_SERVICE_UNAVAILABLE,
    SE_SUBSCRIPTION_REQUIRED,
    SE_UNDEFINED_CONDITION,
    SE_UNEXPECTED_REQUEST,
};

/* RFC 6120 4.9.3 */
enum stream_error {
    STREAM_OK,
    STREAM_BAD_FORMAT,
    STREAM_BAD_NAMESPACE_PREFIX,
    STREAM_CONFLICT,
    STREAM_CONNECTION_TIMEOUT,
    STREAM_HOST_GONE,
    STREAM_HOST_UNKNOWN,
    STREAM_IMPROPER_ADDRESSING,
    STREAM_INTERNAL_SERVER_ERROR,
    STREAM_INVALID_FROM,
    STREAM_INVALID_NAMESPACE,
    STREAM_INVALID_XML,
    STREAM_NOT_AUTHORIZED,
    STREAM_NOT_WELL_FORMED,
    STREAM_POLICY_VIOLATION,
    STREAM_REMOTE_CONNECTION_FAILED,
    STREAM_RESET,
    STREAM_RESOURCE_CONSTRAINT,
    STREAM_RESTRICTED_XML,
    STREAM_SEE_OTHER_HOST,
    STREAM_SYSTEM_SHUTDOWN,
    STREAM_UNDEFINED_CONDITION,
    STREAM_UNSUPPORTED_ENCODING,
    STREAM_UNSUPPORTED_FEATURE,
    STREAM_UNSUPPORTED_STANZA_TYPE,
    STREAM_UNSUPPORTED_VERSION,
};
const char *stream_error_name(enum stream_error e); /* "bad-format", ... */
const char *stanza_error_name(enum stanza_error e); /* "bad-request", ... */

struct stanza {
    struct arena *arena;
    struct xml *x; /* name message, presence or iq, in NS_CLIENT whatever stream it came from */
    enum stanza_kind kind;
    enum stanza_type type;
    const struct jid *to, *from; /* NULL: absent; kept equal to the attributes by stanza_set_* */
    const char *id;              /* NULL: absent */
};

/* Takes a parsed tree with its arena. ERR_INVALID and *bad when it is no stanza we can treat:
 *   SE_JID_MALFORMED  'to' or 'from' is no JID (the missing one is left NULL, so an error can be returned)
 *   SE_BAD_REQUEST    iq without id or with a wrong type or child count; presence with an unknown type
 * The stanza is returned in both cases; *arena is consumed. x must be a message, presence or iq element. */
enum err stanza_from_xml(struct arena **arena, struct xml *x, struct stanza **out, enum stanza_error *bad) WARN_UNUSED;

/* A new one with to, from, id set when not NULL (copied). type gives the attribute, left out for the default. */
struct stanza *stanza_new(enum stanza_kind kind, enum stanza_type type, const struct jid *to, const struct jid *from,
                          const char *id);
void stanza_free(struct stanza **s);
struct stanza *stanza_copy(const struct stanza *s);

void stanza_set_to(struct stanza *s, const struct jid *to); /* NULL removes; copies */
void stanza_set_from(struct stanza *s, const struct jid *from);
void stanza_set_type(struct stanza *s, enum stanza_type t);

/* iq result: same id, to and from exchanged. q is not consumed. */
struct stanza *stanza_result(const struct stanza *q);
/* Error answer (RFC 6120 8.3): same kind and id, to and from exchanged, <error type><condition/><text xml:lang='en'>.
 * text may be NULL. NULL when q must not be answered (is itself an error or an iq result). */
struct stanza *stanza_error(const struct stanza *q, enum stanza_error e, const char *text);
/* As stanza_error, with the error's RFC type replaced ("wait", "modify", ...); extra, from the arena of *out or NULL,
 * is an application-specific condition appended to <error/>. */
void stanza_error_extra(struct stanza *err, const char *type, const char *name, const char *ns);

/* First child element of an iq get or set; NULL otherwise. */
struct xml *stanza_payload(const struct stanza *s);

/* Serialised as in a stream whose default namespace is NS_CLIENT. One reference, yours. */
struct bytes *stanza_bytes(const struct stanza *s);

/* Splices raw canonical XML in as last children: for <stanza-id/> and <delay/>, without parsing again. */
struct bytes *bytes_with_children(const struct bytes *stanza, const char *children, size_t n);

#endif
