/*
 * The configuration: YAML, checked against one table of options (config.c), from which deploy/docs/options.md
 * is generated too. A new option is one line of that table and one field here.
 * Every mistake is reported at once with file, line, what is wrong and what is allowed.
 * A loaded config is immutable; a reload makes a new one.
 */
#ifndef ROOKERY_CONFIG_H
#define ROOKERY_CONFIG_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum listen_mode { LISTEN_STARTTLS, LISTEN_TLS, LISTEN_AUTO }; /* AUTO: recognised by the first bytes */
enum bind_conflict { CONFLICT_REPLACE, CONFLICT_REJECT, CONFLICT_RENAME };
enum contact_role {
    CONTACT_ABUSE,
    CONTACT_ADMIN,
    CONTACT_FEEDBACK,
    CONTACT_SALES,
    CONTACT_SECURITY,
    CONTACT_STATUS,
    CONTACT_SUPPORT,
    CONTACT_ROLES
};
enum access_action { ACCESS_ALLOW, ACCESS_DENY };

enum strangers { STRANGERS_ALLOWED, STRANGERS_REFUSED, STRANGERS_AS_GLOBAL };

struct config_host {
    const char *domain;      /* prepared */
    const char *certificate; /* absolute path */
    const char *key;
    enum strangers strangers;
    bool anonymous; /* accounts of one session (XEP-0175) */
};
struct config_listen {
    const char *address; /* numeric; "::" by default */
    uint16_t port;
    enum listen_mode mode;
};
/* First match decides; allowed when none matches. Any of the conditions may be absent (NULL: matches all). */
struct config_access {
    enum access_action action;
    const char *jid;     /* bare JID */
    const char *host;    /* virtual host */
    const char *network; /* CIDR */
};
/* As config_access, for in-band registration: from where. */
enum registration_what { REGISTRATION_ANY, REGISTRATION_REGISTER, REGISTRATION_REMOVE };
struct config_registration_access {
    enum access_action action;
    enum registration_what what;
    const char *host, *network;
};
/* First match decides; allowed when none matches. */
struct config_registration_name {
    enum access_action action;
    const char *pattern; /* POSIX extended regular expression, anchored at both ends */
};
struct config_registration_watcher {
    const char *jid; /* bare */
};
struct config_contact {
    enum contact_role role;
    const char *address; /* URI */
    const char *host;    /* NULL: all */
};
struct config_report {
    const char *jid;  /* bare */
    const char *host; /* NULL: of all */
};
struct config_postgres {
    const char *conninfo; /* libpq's; may hold a password: never logged or shown */
};
struct config_redis {
    const char *address; /* numeric */
    uint16_t port;
};
struct config_http {
    const char *address; /* numeric */
    uint16_t port;
};

struct config {
    struct config_host *hosts;
    size_t host_count;
    struct config_listen *listen;
    size_t listen_count;
    struct config_access *access;
    size_t access_count;
    struct config_registration_access *registration_access;
    size_t registration_access_count;
    struct config_registration_name *registration_names;
    size_t registration_name_count;
    struct config_registration_watcher *registration_watchers;
    size_t registration_watcher_count;
    struct config_contact *contacts;
    size_t contact_count;
    struct config_report *reports;
    size_t report_count;
    struct config_postgres *postgres; /* the shards; the first is the control database too */
    size_t postgres_count;            /* > 0 exactly when storage.driver is "postgres" */
    struct config_redis *redis;       /* the server, or the Sentinels when registry.sentinel is set */
    size_t redis_count;               /* 0: no Redis */
    struct config_http *http;
    size_t http_count;
    struct {
        uint32_t workers;
    } node; /* 0: one per core */
    struct {
        const char *node; /* this node's name; NULL: a single node, and nothing else here has a meaning */
        const char *listen;
        uint16_t port;
        const char *advertise;                     /* "host:port" or "[IPv6]:port", what the others dial; never NULL */
        const char *certificate, *key, *ca;        /* absolute paths, all there when node is */
        const char *secret;                        /* absolute path; its file has 32 to 4096 bytes */
        uint32_t heartbeat_ms, lease_ms, fence_ms; /* heartbeat < fence < lease */
        uint32_t max_queue;                        /* bytes waiting for one peer; 64 MiB */
    } cluster;
    struct {
        const char *sentinel;             /* the master's name; NULL: redis are servers, one the master */
        const char *user, *password_file; /* NULL: none */
        uint32_t max_queue;               /* commands under way to Redis; 1000 */
        uint32_t pace;                    /* sessions registered again per second; 5000 */
    } registry;
    struct {
        const char *driver, *path;
        uint32_t max_queued, max_batch;
    } storage;
    struct {
        const char *level, *format, *path;
    } log; /* path NULL: standard error */
    struct {
        const char *socket;
    } control; /* absolute path of the control socket */
    struct {
        bool require_tls; /* default true */
        uint32_t tls_timeout_ms, features_timeout_ms, sasl_timeout_ms,
            bind_timeout_ms;                             /* per state; 10, 10, 30, 30 s */
        uint32_t unauthenticated_ms;                     /* all of them together; 30 s, not extended by traffic */
        uint32_t max_stanza_unauthenticated, max_stanza; /* bytes: 10 KiB, 256 KiB */
        uint32_t max_out;                                /* bytes of pending output per connection; 4 MiB */
        uint32_t rate, rate_burst;           /* bytes per second 0: unlimited; default 1 MiB/s, burst 4 MiB */
        uint32_t max_unauthenticated_per_ip; /* 256 */
        uint32_t max_failed_per_ip;          /* failed logins per minute; 60 */
        uint32_t max_auth_attempts;          /* per stream; 3 */
        uint32_t max_messages_per_minute;    /* of a session; 0: no limit */
        uint32_t max_pending_stanzas;        /* received but not committed, then reading stops; 64 */
        uint32_t max_sessions_per_account;   /* 20 */
        enum bind_conflict conflict;         /* replace */
        uint32_t parsers;                    /* XML parsers kept ready per worker; 16 */
        uint32_t idle_ping_ms;               /* silence before the server pings; 0: never; 10 min */
        uint32_t ping_timeout_ms;            /* 60 s */
        /* held for an inactive client (XEP-0352); 1000, 256 KiB; 0 stanzas: not offered */
        uint32_t csi_max_held, csi_max_held_bytes;
    } c2s;
    struct {
        bool plain; /* offer PLAIN under TLS; true */
        uint32_t scram_iterations;
        bool fast;                 /* tokens (XEP-0484); true */
        uint32_t token_lifetime_s; /* 21 days */
        bool external;             /* login by client certificate; false */
        const char *external_ca;   /* NULL: only certificates that accounts have listed */
        uint32_t token_rotation_s; /* a token that is older when it is used is replaced; 24 h */
    } sasl;
    struct {
        bool enabled, change_password, remove; /* XEP-0077; all false */
        bool invitations;                      /* XEP-0445; false */
        const char *instructions;
        const char *redirect;                        /* URL; NULL: accounts are made here */
        const char *welcome_subject, *welcome_body;  /* body NULL: no message */
        const char *reserved;                        /* prepared localparts, with one space between them */
        uint32_t keep_removed_days;                  /* nobody gets the name of an account removed in band; 30 */
        bool mixed_scripts;                          /* names may mix scripts; false */
        uint32_t min_password_entropy;               /* bits; 32 */
        uint32_t rate, rate_period_ms;               /* attempts of one network in a period; 10 in 1 h; 0: no limit */
        uint32_t rate_ipv4_prefix, rate_ipv6_prefix; /* what a network is: 32, 64 */
        uint32_t timeout_ms;                         /* from the first question to the login; 5 min */
    } registration;
    struct {
        uint32_t max_resume_s;      /* longest time a session waits for resumption; 600 */
        uint32_t max_unacked;       /* stanzas a session may leave unacknowledged, 5000; above it is closed */
        uint32_t max_unacked_bytes; /* 4 MiB */
        uint32_t ack_every;         /* ask for an ack after so many stanzas; 10 */
    } sm;
    struct {
        uint32_t max_items;      /* 1000 contacts */
        uint32_t max_groups;     /* per contact; 32 */
        uint32_t max_name_bytes; /* 1023 */
        uint32_t max_blocked;    /* 1000 */
        uint32_t max_directed;   /* remembered directed presences per session; 1000 */
        uint32_t max_pending_in; /* subscription requests waiting; 1000 */
    } roster;
    struct {
        enum strangers strangers; /* never STRANGERS_AS_GLOBAL; allowed */
    } abuse;
    struct {
        uint32_t max_recipients; /* 50; 0: off */
    } multicast;
    struct {
        uint32_t max_messages; /* per account; 10000 */
        uint32_t expire_days;  /* 0: never */
    } offline;
    struct {
        uint32_t max_targets; /* app servers' nodes of one account; 0: no XEP-0357; 10 */
        uint32_t per_minute;  /* notifications of one account; 60 */
        uint32_t ack_delay_s; /* 0: never; 30 */
        bool sender, body;    /* told to app servers; yes, no */
    } push;
    struct {
        const char *default_policy; /* "always", "roster", "never" */
        uint32_t max_page;          /* 250 */
        uint32_t retention_days;    /* 0: for ever */
    } archive;
    struct {
        uint32_t max_items; /* per account; 100 */
        uint32_t max_item;  /* bytes; 64 KiB */
    } private;
    struct {
        uint32_t max_size; /* bytes; 128 KiB */
    } vcard;
    struct {
        bool show_version, show_os;
    } version;
    uint32_t max_cached_accounts; /* accounts without a session kept in memory per worker; 10,000 */

    struct arena *arena; /* owns everything above */
};

/* Relative paths are taken from the file's directory. On mistakes: ERR_INVALID and *why (malloc'd), one "file:line:
 * ..." line each. Defaults for everything but hosts. */
enum err config_load(const char *path, struct config **out, char **why) WARN_UNUSED;
void config_free(struct config **c);
/* The reference, as Markdown, on standard output (rookeryd --options). */
void config_print_options(void);

#endif
