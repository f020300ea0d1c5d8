/* The table of options: a new option is one line here and one field in config.h. */
#include "config_table.h"
#include "scram.h"

#include <string.h>

#define KIB(n)     ((uint64_t)(n) << 10)
#define MIB(n)     ((uint64_t)(n) << 20)
#define GIB(n)     ((uint64_t)(n) << 30)
#define SECONDS(n) ((uint64_t)(n)*1000)
#define HOURS(n)   ((uint64_t)(n)*3600000)

static const char *const listen_modes[] = {"starttls", "tls", "auto", NULL};
static const char *const access_actions[] = {"allow", "deny", NULL};
static const char *const registration_whats[] = {"any", "register", "remove", NULL};
static const char *const drivers[] = {"sqlite", "postgres", "memory", NULL};
static const char *const log_levels[] = {"error", "warn", "info", "debug", NULL};
static const char *const log_formats[] = {"logfmt", "json", NULL};
static const char *const contact_roles[] = {"abuse",    "admin",  "feedback", "sales",
                                            "security", "status", "support",  NULL};
static const char *const strangers[] = {"allowed", "refused", NULL};
static const char *const host_strangers[] = {"allowed", "refused", "as-global", NULL};
static const char *const conflicts[] = {"replace", "reject", "rename", NULL};
static const char *const archive_policies[] = {"always", "roster", "never", NULL};

#define SECTION(key_, about_)                                                                                          \
    {                                                                                                                  \
        .section = "", .key = key_, .type = OPTION_SECTION, .about = about_                                            \
    }
#define LIST(field, count, standard_, min_, max_, about_)                                                              \
    {                                                                                                                  \
        .section = "", .key = #field, .type = OPTION_LIST, .about = about_, .standard = standard_, .min = min_,        \
        .max = max_, .required = (min_) > 0 && !(standard_), .offset = offsetof(struct config, field),                 \
        .count_offset = offsetof(struct config, count), .item_size = sizeof *((struct config *)0)->field               \
    }
/* An option of a list's items. */
#define ITEM(list, struct_, field, type_, standard_, about_, ...)                                                      \
    {                                                                                                                  \
        .section = list, .key = #field, .type = type_, .about = about_, .standard = standard_,                         \
        .offset = offsetof(struct struct_, field), __VA_ARGS__                                                         \
    }
#define NEEDED .required = true
#define OPTION(section_, field, type_, standard_, about_, ...)                                                         \
    {                                                                                                                  \
        .section = #section_, .key = #field, .type = type_, .about = about_, .standard = standard_,                    \
        .offset = offsetof(struct config, section_.field), __VA_ARGS__                                                 \
    }
#define BOOL(section_, field, standard_, about_) OPTION(section_, field, OPTION_BOOL, standard_, about_, .max = 1)
#define INT(section_, field, standard_, min_, max_, about_)                                                            \
    OPTION(section_, field, OPTION_INT, standard_, about_, .min = min_, .max = max_)
#define SIZE(section_, field, standard_, min_, max_, about_)                                                           \
    OPTION(section_, field, OPTION_SIZE, standard_, about_, .min = min_, .max = max_)
/* The unit stands in the value, so the key has no suffix. */
#define DURATION(section_, key_, field, unit, standard_, min_, max_, about_)                                           \
    {                                                                                                                  \
        .section = #section_, .key = key_, .type = OPTION_DURATION, .about = about_, .standard = standard_,            \
        .offset = offsetof(struct config, section_.field), .min = min_, .max = max_, .unit_ms = unit                   \
    }

const struct option config_options[] = {
    LIST(hosts, host_count, NULL, 1, 10000, "The virtual hosts: the domains whose accounts live here."),
    ITEM("hosts", config_host, domain, OPTION_DOMAIN, NULL, "The domain, the part behind the `@` of its accounts.",
         NEEDED),
    ITEM(
        "hosts", config_host, certificate, OPTION_FILE, NULL,
        "PEM file: the certificate, then its chain. It is chosen by SNI; the first host's also serves clients without.",
        NEEDED),
    ITEM("hosts", config_host, key, OPTION_FILE, NULL, "PEM file: the certificate's private key.", NEEDED),
    ITEM("hosts", config_host, anonymous, OPTION_BOOL, "no",
         "Let anybody in without an account, under a name made up for one session (SASL ANONYMOUS, XEP-0175).",
         .max = 1),
    ITEM("hosts", config_host, strangers, OPTION_ENUM, "as-global", "As `abuse.strangers`, for this host.",
         .words = host_strangers),

    LIST(listen, listen_count, "[{ port: 5222, mode: starttls }, { port: 5223, mode: tls }]", 1, 64,
         "The addresses and ports clients connect to."),
    ITEM("listen", config_listen, address, OPTION_ADDRESS, "\"::\"",
         "Numeric address; `\"::\"` is every address, IPv4 as well."),
    ITEM("listen", config_listen, port, OPTION_PORT, NULL, "TCP port.", .min = 1, .max = 65535, NEEDED),
    ITEM("listen", config_listen, mode, OPTION_ENUM, "starttls",
         "`starttls` upgrades in the stream, `tls` begins with TLS (XEP-0368), `auto` sees by the first bytes which of "
         "the two speaks.",
         .words = listen_modes),

    LIST(access, access_count, NULL, 0, 10000,
         "Who may log in. The first entry that fits decides; who fits none is allowed. A condition left out fits all."),
    ITEM("access", config_access, action, OPTION_ENUM, NULL, "What happens to those who fit.", .words = access_actions,
         NEEDED),
    ITEM("access", config_access, jid, OPTION_JID, NULL, "Fits this account."),
    ITEM("access", config_access, host, OPTION_DOMAIN, NULL, "Fits accounts of this virtual host."),
    ITEM("access", config_access, network, OPTION_NETWORK, NULL, "Fits clients that come from this network."),

    LIST(registration_access, registration_access_count, NULL, 0, 10000,
         "From where accounts may be made and removed in band. The first entry that fits decides; who fits none is "
         "allowed. A condition left out fits all."),
    ITEM("registration_access", config_registration_access, action, OPTION_ENUM, NULL, "What happens to those who fit.",
         .words = access_actions, NEEDED),
    ITEM("registration_access", config_registration_access, what, OPTION_ENUM, "any", "Fits those who want this.",
         .words = registration_whats),
    ITEM("registration_access", config_registration_access, host, OPTION_DOMAIN, NULL,
         "Fits accounts of this virtual host."),
    ITEM("registration_access", config_registration_access, network, OPTION_NETWORK, NULL,
         "Fits clients that come from this network."),

    LIST(registration_names, registration_name_count, NULL, 0, 1000,
         "Names that may be registered, the parts before the `@`, prepared and so in lower case. The first entry that "
         "fits decides; a name that fits none is allowed."),
    ITEM("registration_names", config_registration_name, action, OPTION_ENUM, NULL, "What happens to such names.",
         .words = access_actions, NEEDED),
    ITEM("registration_names", config_registration_name, pattern, OPTION_PATTERN, NULL,
         "POSIX extended regular expression of the whole name; it sees bytes of UTF-8.", NEEDED),

    LIST(registration_watchers, registration_watcher_count, NULL, 0, 100,
         "Who is told by a message of each account made in band."),
    ITEM("registration_watchers", config_registration_watcher, jid, OPTION_JID, NULL, "A bare JID.", NEEDED),

    LIST(contacts, contact_count, NULL, 0, 1000, "Whom people may turn to, for everybody to see (XEP-0157)."),
    ITEM("contacts", config_contact, role, OPTION_ENUM, NULL, "What for.", .words = contact_roles, NEEDED),
    ITEM("contacts", config_contact, address, OPTION_URI, NULL, "Where to.", NEEDED),
    ITEM("contacts", config_contact, host, OPTION_DOMAIN, NULL, "For this virtual host only; otherwise for all."),

    LIST(reports, report_count, NULL, 0, 100,
         "Who gets a message of each report of spam or abuse (XEP-0377); they are in the log too."),
    ITEM("reports", config_report, jid, OPTION_JID, NULL, "A bare JID.", NEEDED),
    ITEM("reports", config_report, host, OPTION_DOMAIN, NULL, "Only reports by accounts of this virtual host."),

    LIST(postgres, postgres_count, NULL, 0, 64,
         "The PostgreSQL databases, when `storage.driver` is `postgres`. The first keeps the cluster's own tables too. "
         "Accounts are split evenly over all of them by their order: it may not change once there are accounts."),
    ITEM("postgres", config_postgres, conninfo, OPTION_CONNINFO, NULL,
         "How libpq connects: with several hosts and `target_session_attrs=read-write` it finds the primary. It may "
         "hold a password, and is never logged.",
         NEEDED),

    LIST(redis, redis_count, NULL, 0, 16,
         "Redis, which tells all nodes who is online where; without it everything works, only less is known. One "
         "server, or several of which one is the master, or the Sentinels when `registry.sentinel` is given."),
    ITEM("redis", config_redis, address, OPTION_ADDRESS, "127.0.0.1", "Numeric address."),
    ITEM("redis", config_redis, port, OPTION_PORT, "6379", "TCP port.", .min = 1, .max = 65535),

    LIST(http, http_count, NULL, 0, 8,
         "Addresses and ports of plain HTTP: `/metrics` and `/health`, for operators only."),
    ITEM("http", config_http, address, OPTION_ADDRESS, "127.0.0.1", "Numeric address."),
    ITEM("http", config_http, port, OPTION_PORT, NULL, "TCP port.", .min = 1, .max = 65535, NEEDED),

    SECTION("node", "This process."),
    INT(node, workers, "0", 0, 256, "Event loops, one thread each; 0 is one per processor core."),

    SECTION("cluster",
            "Several nodes as one server, each with its own configuration; needs `storage.driver: postgres`. "
            "With `node` the four files must be given."),
    OPTION(cluster, node, OPTION_NODE, NULL, "This node's name, unlike all others'; without it the node is alone."),
    OPTION(cluster, listen, OPTION_ADDRESS, "127.0.0.1",
           "Numeric address the other nodes connect to; use one that only they reach."),
    OPTION(cluster, port, OPTION_PORT, "5290", "TCP port for the other nodes.", .min = 1, .max = 65535),
    OPTION(cluster, advertise, OPTION_ENDPOINT, NULL,
           "Where the others find this node; without it `listen` and `port`, which then may not be every address."),
    OPTION(cluster, certificate, OPTION_FILE, NULL,
           "PEM file: this node's certificate for the link, for its name, as server and as client."),
    OPTION(cluster, key, OPTION_FILE, NULL, "PEM file: that certificate's private key."),
    OPTION(cluster, ca, OPTION_FILE, NULL, "PEM file: the authority that signed the certificates of all nodes."),
    OPTION(cluster, secret, OPTION_FILE, NULL, "File of 32 to 4096 random bytes, the same on all nodes."),
    DURATION(cluster, "heartbeat", heartbeat_ms, 1, "1s", 50, SECONDS(60),
             "How often the node tells the database that it lives."),
    DURATION(cluster, "lease", lease_ms, 1, "4s", 200, SECONDS(600),
             "Silence after which the others take over what a node was responsible for."),
    DURATION(cluster, "fence", fence_ms, 1, "3s", 100, SECONDS(600),
             "Silence of the database after which a node stops acting for its accounts; shorter than `lease`."),
    SIZE(cluster, max_queue, "64MiB", MIB(1), GIB(1),
         "Bytes waiting for one other node; then clients are read slower."),

    SECTION("registry", "The use of Redis."),
    OPTION(registry, sentinel, OPTION_NAME, NULL,
           "The master's name at the Sentinels; without it `redis` are the servers themselves, tried in turn until one "
           "is a master."),
    OPTION(registry, user, OPTION_NAME, NULL, "User of Redis' access control."),
    OPTION(registry, password_file, OPTION_FILE, NULL, "File with the password for Redis in its first line."),
    INT(registry, max_queue, "1000", 10, 1000000,
        "Commands sent to Redis whose answers may be outstanding; what is more waits its turn."),
    INT(registry, pace, "5000", 1, 1000000, "Sessions registered again in a second when Redis comes back."),

    SECTION("storage", "Where accounts, rosters and archives are kept."),
    OPTION(storage, driver, OPTION_WORD, "sqlite",
           "`sqlite` for a single node, `postgres` for a cluster too; `memory` forgets everything at the end: for "
           "tests only.",
           .words = drivers),
    OPTION(storage, path, OPTION_PATH, "rookery.sqlite", "The database file of `sqlite`; made when it does not exist."),
    INT(storage, max_queued, "100000", 100, 10000000,
        "Operations that may wait; above half of it clients are not read, above all of it stanzas are refused."),
    INT(storage, max_batch, "2000", 1, 100000, "Operations committed in one transaction at most."),

    SECTION("log", "One line per event, with fields. Bodies and secrets are never logged."),
    OPTION(log, level, OPTION_WORD, "info",
           "`error`: an operator must act; `warn`: degraded; `info`: sessions come and go; `debug`: stanzas' heads.",
           .words = log_levels),
    OPTION(log, format, OPTION_WORD, "logfmt", "How a line is written.", .words = log_formats),
    OPTION(log, path, OPTION_PATH, NULL, "The log file; without it lines go to standard error."),

    SECTION("control", "The channel `rookeryctl` speaks to."),
    OPTION(control, socket, OPTION_SOCKET, "rookeryctl.sock",
           "Unix socket, open to the server's own user and to root."),

    SECTION("c2s", "Connections of clients."),
    BOOL(c2s, require_tls, "yes", "No login without TLS."),
    DURATION(c2s, "tls_timeout", tls_timeout_ms, 1, "10s", 100, HOURS(1), "Time for the TLS handshake."),
    DURATION(c2s, "features_timeout", features_timeout_ms, 1, "10s", 100, HOURS(1),
             "Time a client may take to open its stream and to choose a feature."),
    DURATION(c2s, "sasl_timeout", sasl_timeout_ms, 1, "30s", 100, HOURS(1), "Time for one SASL exchange."),
    DURATION(c2s, "bind_timeout", bind_timeout_ms, 1, "30s", 100, HOURS(1),
             "Time from authentication to binding a resource or resuming a session."),
    DURATION(c2s, "unauthenticated_timeout", unauthenticated_ms, 1, "30s", 100, HOURS(1),
             "Time from connecting to being authenticated, whatever is sent meanwhile."),
    SIZE(c2s, max_stanza_unauthenticated, "10KiB", KIB(1), MIB(1), "Bytes of one stanza before authentication."),
    SIZE(c2s, max_stanza, "256KiB", KIB(10), MIB(16), "Bytes of one stanza (RFC 6120 asks for 10000 at least)."),
    SIZE(c2s, max_out, "4MiB", KIB(64), GIB(1),
         "Bytes waiting to be sent to one client; a client that lets more pile up is disconnected."),
    SIZE(c2s, rate, "1MiB", 0, GIB(1), "Bytes a second read from one client; 0 is no limit."),
    SIZE(c2s, rate_burst, "4MiB", KIB(16), GIB(1), "Bytes a quiet client may send at once before `rate` holds."),
    INT(c2s, max_unauthenticated_per_ip, "256", 1, 1000000,
        "Connections of one address (IPv6: of one /64) that have not logged in yet."),
    INT(c2s, max_failed_per_ip, "60", 1, 1000000, "Failed logins a minute from one address."),
    INT(c2s, max_auth_attempts, "3", 1, 100, "Failed logins on one stream before it is closed."),
    INT(c2s, max_messages_per_minute, "0", 0, 60000,
        "Messages of one session, on average; a quiet one may send so many at once. What is more is refused. 0 is no "
        "limit."),
    INT(c2s, max_pending_stanzas, "64", 1, 10000,
        "Stanzas of one session received but not committed; then reading from it pauses."),
    INT(c2s, max_sessions_per_account, "20", 1, 10000, "Sessions of one account at the same time."),
    OPTION(c2s, conflict, OPTION_ENUM, "replace",
           "A resource is bound a second time: the new session replaces the old one, is rejected, or gets another "
           "resource.",
           .words = conflicts),
    INT(c2s, parsers, "16", 0, 100000, "XML parsers each worker keeps ready for streams that get bytes."),
    DURATION(c2s, "idle_ping", idle_ping_ms, 1, "10min", 0, HOURS(24),
             "Silence after which the server pings a client (XEP-0199); 0 is never."),
    DURATION(c2s, "ping_timeout", ping_timeout_ms, 1, "60s", SECONDS(1), HOURS(1),
             "Time for the answer; without one the connection counts as lost."),
    INT(c2s, csi_max_held, "1000", 0, 100000,
        "Presences and chat states held back for a client that says it is inactive (XEP-0352); with one more all are "
        "sent. 0 is no XEP-0352."),
    SIZE(c2s, csi_max_held_bytes, "256KiB", KIB(16), MIB(64), "The same in bytes."),

    SECTION("sasl", "Authentication."),
    BOOL(sasl, plain, "yes", "Offer PLAIN, under TLS only."),
    INT(sasl, scram_iterations, "10000", 4096, 1000000,
        "PBKDF2 iterations for new passwords and for answers about accounts that do not exist."),
    BOOL(sasl, fast, "yes", "Give clients tokens to log in with next time, in one round trip (XEP-0484)."),
    BOOL(sasl, external, "no",
         "Ask clients for a certificate, and let them log in by one that their account lists (XEP-0257) or that "
         "`external_ca` vouches for (XEP-0178)."),
    OPTION(sasl, external_ca, OPTION_FILE, NULL,
           "PEM file: authorities whose certificates log in to the accounts that they name (`xmppAddr`)."),
    DURATION(sasl, "token_lifetime", token_lifetime_s, 1000, "504h", SECONDS(1), HOURS(8760),
             "How long a token is good when it is not used. With each use it may be replaced by a new one."),
    DURATION(sasl, "token_rotation", token_rotation_s, 1000, "24h", 0, HOURS(8760),
             "Age from which a token that is used is replaced by a new one."),

    SECTION("registration", "Accounts made, changed and removed by clients (XEP-0077)."),
    BOOL(registration, enabled, "no", "Clients may make accounts before they log in."),
    BOOL(registration, invitations, "no",
         "Accounts may be made by invitation (`rookeryctl invite`), also where and when others may make none."),
    BOOL(registration, change_password, "no", "Users may change their passwords. Their other sessions end then."),
    BOOL(registration, remove, "no", "Users may remove their accounts, with all data."),
    OPTION(registration, instructions, OPTION_TEXT, "Choose a user name and a password.",
           "What people read above the form.", .max = 1000),
    OPTION(registration, redirect, OPTION_URL, NULL,
           "Where people make accounts instead: clients that ask are sent to this address, and none is made in band "
           "but by invitation."),
    OPTION(registration, welcome_subject, OPTION_TEXT, NULL, "Subject of the message to each new account.",
           .max = 1000),
    OPTION(registration, welcome_body, OPTION_TEXT, NULL,
           "The message to each new account, from its host; without it there is none.", .max = 10000),
    OPTION(registration, reserved, OPTION_LOCALPARTS,
           "abuse admin administrator hostmaster info noc postmaster root security support webmaster",
           "Names that nobody gets, in any case of letters."),
    INT(registration, keep_removed_days, "30", 0, 3650,
        "Days for which nobody gets the name of an account that its user removed, but by an invitation for that name; "
        "0 "
        "gives it away at once, to somebody who may be taken for the one before."),
    BOOL(registration, mixed_scripts, "no",
         "Names may mix letters of several scripts; such a name may look like another one."),
    INT(registration, min_password_entropy, "32", 0, 1000,
        "Bits a new password must have: its length, repeated characters counted once, times log2 of the alphabets it "
        "uses "
        "(26 small and 26 capital letters, 10 digits, 33 other ASCII, 128 the rest); 0 is any. 32 is 7 small letters, "
        "or 5 of all kinds."),
    INT(registration, rate, "10", 0, 1000000,
        "Attempts of one network in `rate_period` on one node that got as far as a name and a password that are "
        "allowed; 0 is no limit."),
    DURATION(registration, "rate_period", rate_period_ms, 1, "1h", SECONDS(1), HOURS(24), "See `rate`."),
    INT(registration, rate_ipv4_prefix, "32", 8, 32, "Bits of an IPv4 address that make its network."),
    INT(registration, rate_ipv6_prefix, "64", 16, 128, "The same for IPv6."),
    DURATION(
        registration, "timeout", timeout_ms, 1, "5min", SECONDS(1), HOURS(1),
        "Time for filling in the form and logging in; it takes the place of `c2s.unauthenticated_timeout` for those "
        "who ask for the form."),

    SECTION("sm", "Stream management and resumption (XEP-0198)."),
    DURATION(sm, "max_resume", max_resume_s, 1000, "10min", 0, HOURS(24),
             "Longest time a lost session waits for its client; 0 is no resumption."),
    INT(sm, max_unacked, "5000", 10, 1000000, "Stanzas a client may leave unacknowledged; above it the session ends."),
    SIZE(sm, max_unacked_bytes, "4MiB", KIB(64), GIB(1), "The same in bytes."),
    INT(sm, ack_every, "10", 1, 10000, "Stanzas after which the server asks for an acknowledgement."),

    SECTION("roster", "Contacts, subscriptions and blocking."),
    INT(roster, max_items, "1000", 1, 100000, "Contacts of one account."),
    INT(roster, max_groups, "32", 0, 1000, "Groups of one contact."),
    INT(roster, max_name_bytes, "1023", 1, 65535, "Bytes of a contact's or group's name."),
    INT(roster, max_blocked, "1000", 0, 100000, "Blocked addresses of one account (XEP-0191)."),
    INT(roster, max_directed, "1000", 0, 100000, "Addresses one session sent directed presence to."),
    INT(roster, max_pending_in, "1000", 0, 100000, "Subscription requests waiting for one account's answer."),

    SECTION("abuse", "Unwanted messages."),
    OPTION(
        abuse, strangers, OPTION_ENUM, "allowed",
        "What becomes of messages from those who are not in the recipient's roster. `refused`: they are answered as if "
        "there was no such account. Still welcome are the server, its `contacts` and `reports`, and answers to what "
        "the recipient wrote in the last two weeks, as far as the node remembers.",
        .words = strangers),

    SECTION("multicast", "Messages to several addresses at once (XEP-0033)."),
    INT(multicast, max_recipients, "50", 0, 1000, "Addresses of one message; 0 switches it off."),

    SECTION("offline", "Messages for those who are not there."),
    INT(offline, max_messages, "10000", 0, 1000000, "Waiting messages of one account; above it senders get an error."),
    INT(offline, expire_days, "0", 0, 36500,
        "Days after which a message that waits is not delivered any more; it stays in the archive. 0 is never."),

    SECTION("archive", "The message archive (XEP-0313)."),
    OPTION(archive, default_policy, OPTION_WORD, "always",
           "What is archived for accounts that have not chosen: all, only conversations with contacts, or nothing.",
           .words = archive_policies),
    INT(archive, max_page, "250", 1, 10000, "Messages in one page of a query."),
    INT(archive, retention_days, "0", 0, 36500, "Days after which messages are removed; 0 is never."),

    SECTION("private", "What clients keep for themselves (XEP-0049)."),
    INT(private, max_items, "100", 0, 100000, "Elements of one account."),
    SIZE(private, max_item, "64KiB", KIB(1), MIB(4), "Bytes of one element."),

    SECTION("vcard", "What users tell about themselves (XEP-0054)."),
    SIZE(vcard, max_size, "128KiB", KIB(1), MIB(4), "Bytes of one vCard, its picture included."),

    SECTION("push", "Notifications to the app servers of clients that are not there (XEP-0357)."),
    INT(push, max_targets, "10", 0, 1000,
        "App servers (address and node) that one account may enable; 0 is no XEP-0357."),
    INT(push, per_minute, "60", 1, 100000,
        "Notifications of one account in a minute. What comes faster is told together, in the next one."),
    DURATION(
        push, "ack_delay", ack_delay_s, 1000, "30s", 0, HOURS(1),
        "A client that is connected and has not acknowledged a message (XEP-0198) for so long is notified too; 0 is "
        "never."),
    BOOL(push, sender, "yes", "Tell app servers who wrote the last message."),
    BOOL(push, body, "no", "Tell app servers the text of the last message."),

    SECTION("version", "What is told about the server (XEP-0092)."),
    BOOL(version, show_version, "yes", "Tell the version."),
    BOOL(version, show_os, "no", "Tell the operating system."),

    {.section = "",
     .key = "max_cached_accounts",
     .type = OPTION_INT,
     .standard = "10000",
     .offset = offsetof(struct config, max_cached_accounts),
     .max = 10000000,
     .about = "Accounts without a session that each worker keeps in memory."},
};
const size_t config_option_count = sizeof config_options / sizeof *config_options;

_Static_assert(SCRAM_ITERATIONS == 10000, "the default of sasl.scram_iterations is SCRAM_ITERATIONS");

static bool names(const char *s, const char *key, size_t n)
{
    return strlen(s) == n && !memcmp(s, key, n);
}

const struct option *option_find(const char *section, const char *key, size_t n)
{
    for (size_t i = 0; i < config_option_count; i++)
        if (!strcmp(config_options[i].section, section) && names(config_options[i].key, key, n))
            return &config_options[i];
    return NULL;
}

/* Levenshtein distance; both sides are cut to what a key may be long. */
static size_t distance(const char *a, size_t n, const char *b)
{
    enum { LONGEST = 48 };
    size_t row[LONGEST + 1], m = strlen(b);
    n = n < LONGEST ? n : LONGEST;
    for (size_t i = 0; i <= n; i++)
        row[i] = i;
    for (size_t j = 1; j <= m; j++) {
        size_t diagonal = row[0];
        row[0] = j;
        for (size_t i = 1; i <= n; i++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[i];
            best = best < row[i] + 1 ? best : row[i] + 1;
            row[i] = best < row[i - 1] + 1 ? best : row[i - 1] + 1;
        }
    }
    return row[n];
}

static bool in_list(const struct option *o)
{
    const struct option *parent = *o->section ? option_find("", o->section, strlen(o->section)) : NULL;
    return parent && parent->type == OPTION_LIST;
}

const struct option *option_nearest(const char *section, const char *key, size_t n)
{
    const struct option *best = NULL;
    size_t best_distance = SIZE_MAX;
    for (size_t i = 0; i < config_option_count; i++) {
        const struct option *o = &config_options[i];
        bool here = !strcmp(o->section, section);
        if (!here && in_list(o))
            continue;
        /* A right key in the wrong section is a common mistake, but a neighbour that fits as well goes first. */
        size_t d = distance(key, n, o->key) + !here;
        if (d < best_distance) {
            best_distance = d;
            best = o;
        }
    }
    return best;
}
