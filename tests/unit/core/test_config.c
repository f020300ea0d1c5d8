#include "config_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define HOSTS "hosts: [{ domain: Example.ORG, certificate: /dev/null, key: /dev/null }]\n"

static struct config *good(const char *text)
{
    struct config *c;
    char *why;
    enum err e = config_parse("test.yml", "/etc/rookery", text, strlen(text), &c, &why);
    if (why)
        print_message("%s", why);
    assert_int_equal(e, OK);
    assert_null(why);
    return c;
}

/* Every line of expected must be a line of what is wrong, and there are no others. */
static void bad(const char *text, const char *expected)
{
    struct config *c;
    char *why;
    assert_int_equal(config_parse("test.yml", "/etc/rookery", text, strlen(text), &c, &why), ERR_INVALID);
    assert_null(c);
    assert_string_equal(why, expected);
    free(why);
}

static void defaults(void **state)
{
    (void)state;
    struct config *c = good(HOSTS);
    assert_int_equal(c->host_count, 1);
    assert_string_equal(c->hosts[0].domain, "example.org");
    assert_int_equal(c->listen_count, 2);
    assert_string_equal(c->listen[0].address, "::");
    assert_int_equal(c->listen[0].port, 5222);
    assert_int_equal(c->listen[0].mode, LISTEN_STARTTLS);
    assert_int_equal(c->listen[1].port, 5223);
    assert_int_equal(c->listen[1].mode, LISTEN_TLS);
    assert_int_equal(c->access_count, 0);
    assert_string_equal(c->storage.driver, "sqlite");
    assert_string_equal(c->storage.path, "/etc/rookery/rookery.sqlite");
    assert_string_equal(c->control.socket, "/etc/rookery/rookeryctl.sock");
    assert_null(c->log.path);
    assert_true(c->c2s.require_tls);
    assert_int_equal(c->c2s.rate, 1 << 20);
    assert_int_equal(c->c2s.unauthenticated_ms, 30000);
    assert_int_equal(c->c2s.idle_ping_ms, 600000);
    assert_int_equal(c->sm.max_resume_s, 600);
    assert_int_equal(c->max_cached_accounts, 10000);
    config_free(&c);
    assert_null(c);
}

static void values(void **state)
{
    (void)state;
    struct config *c =
        good(HOSTS "listen: [{ port: 443, mode: auto, address: 127.0.0.1 }]\n"
                   "access:\n"
                   "  - { action: deny, network: 192.0.2.0/24 }\n"
                   "  - { action: allow, jid: Ann@example.org, host: example.org, network: '2001:db8::1' }\n"
                   "node: &empty\n"
                   "offline: *empty\n"
                   "c2s:\n"
                   "  require_tls: off\n"
                   "  rate: 64KiB\n"
                   "  max_out: 5000000\n"
                   "  tls_timeout: 1500ms\n"
                   "  sasl_timeout: 2min\n"
                   "  idle_ping: 0\n"
                   "  conflict: rename\n"
                   "sm: { max_resume: 90s }\n"
                   "log: { path: /var/log/rookery.log, level: debug }\n");
    assert_int_equal(c->listen_count, 1);
    assert_int_equal(c->listen[0].mode, LISTEN_AUTO);
    assert_string_equal(c->listen[0].address, "127.0.0.1");
    assert_int_equal(c->access_count, 2);
    assert_int_equal(c->access[0].action, ACCESS_DENY);
    assert_null(c->access[0].jid);
    assert_string_equal(c->access[0].network, "192.0.2.0/24");
    assert_string_equal(c->access[1].jid, "ann@example.org");
    assert_string_equal(c->access[1].host, "example.org");
    assert_string_equal(c->access[1].network, "2001:db8::1/128");
    assert_false(c->c2s.require_tls);
    assert_int_equal(c->c2s.rate, 65536);
    assert_int_equal(c->c2s.max_out, 5000000);
    assert_int_equal(c->c2s.tls_timeout_ms, 1500);
    assert_int_equal(c->c2s.sasl_timeout_ms, 120000);
    assert_int_equal(c->c2s.idle_ping_ms, 0);
    assert_int_equal(c->c2s.conflict, CONFLICT_RENAME);
    assert_int_equal(c->sm.max_resume_s, 90);
    assert_string_equal(c->log.path, "/var/log/rookery.log");
    assert_string_equal(c->log.level, "debug");
    config_free(&c);
}

static void wrong_values(void **state)
{
    (void)state;
    bad(HOSTS "c2s:\n  rate: fast\n  max_out: 2GiB\n  tls_timeout: 10\n  require_tls: maybe\n",
        "test.yml:3: c2s.rate: \"fast\" is not a size; allowed: 0 to 1GiB, e.g. 64KiB\n"
        "test.yml:4: c2s.max_out: \"2GiB\" is not a size; allowed: 64KiB to 1GiB, e.g. 64KiB\n"
        "test.yml:5: c2s.tls_timeout: \"10\" is not a duration; allowed: 100ms to 1h, e.g. 30s\n"
        "test.yml:6: c2s.require_tls: \"maybe\" is not a truth value; allowed: yes or no\n");
    bad(HOSTS "sm: { max_resume: 1500ms }\nnode: { workers: -1 }\n",
        "test.yml:2: sm.max_resume: \"1500ms\" is not a duration; allowed: 0 to 24h, e.g. 30s\n"
        "test.yml:3: node.workers: \"-1\" is not a number; allowed: 0 to 256\n");
    bad(HOSTS "storage: { driver: oracle }\nmax_cached_accounts: [1]\n",
        "test.yml:2: storage.driver: \"oracle\" is not a known word; allowed: sqlite, postgres, memory\n"
        "test.yml:3: max_cached_accounts: a list stands here, not a number; allowed: 0 to 10000000\n");
    bad(HOSTS "node: { workers: 99999999999999999999999999 }\n",
        "test.yml:2: node.workers: \"99999999999999999999999999\" is not a number; allowed: 0 to 256\n");
    bad(HOSTS "log: { path: \"a\\0b\\e\" }\n",
        "test.yml:2: log.path: \"a\\x00b\\x1b\" is not a path; allowed: a path, e.g. data/file\n");
}

static void wrong_addresses(void **state)
{
    (void)state;
    bad(HOSTS "listen: [{ port: 0 }, { port: 65536 }, { port: 1, address: localhost }]\n",
        "test.yml:2: listen.port: \"0\" is not a port; allowed: 1 to 65535\n"
        "test.yml:2: listen.port: \"65536\" is not a port; allowed: 1 to 65535\n"
        "test.yml:2: listen.address: \"localhost\" is not an IP address; allowed: e.g. 192.0.2.1 or \"2001:db8::1\"\n");
    bad(HOSTS "access:\n"
              "- { action: deny, network: 192.0.2.0/33 }\n"
              "- { action: deny, network: 192.0.2.1/24 }\n"
              "- { action: deny, network: example.org }\n"
              "- { action: deny, jid: ann@example.org/phone }\n"
              "- { jid: example.org, host: -x- }\n",
        "test.yml:3: access.network: \"192.0.2.0/33\" is not a network; allowed: e.g. 192.0.2.0/24 or 2001:db8::/32\n"
        "test.yml:4: access.network: \"192.0.2.1/24\" is not a network; allowed: e.g. 192.0.2.0/24 or 2001:db8::/32\n"
        "test.yml:5: access.network: \"example.org\" is not a network; allowed: e.g. 192.0.2.0/24 or 2001:db8::/32\n"
        "test.yml:6: access.jid: \"ann@example.org/phone\" is not a bare JID; allowed: user@domain\n"
        "test.yml:7: access.jid: \"example.org\" is not a bare JID; allowed: user@domain\n"
        "test.yml:7: access.host: \"-x-\" is not a domain; allowed: a domain, e.g. example.org\n"
        "test.yml:7: access.action: missing; it must be given\n");
}

static void hosts(void **state)
{
    (void)state;
    bad("", "test.yml:1: hosts: missing; it must be given\n");
    bad("hosts:\n", "test.yml:1: hosts: 0 items; allowed: 1 to 10000\n");
    bad("hosts: example.org\n", "test.yml:1: hosts: must be a list: each item on a line that begins with `-`\n");
    bad("hosts:\n- domain: example.org\n  certificate: no/such.pem\n",
        "test.yml:3: hosts.certificate: \"no/such.pem\" cannot be read: No such file or directory (looked for "
        "/etc/rookery/no/such.pem)\n"
        "test.yml:2: hosts.key: missing; it must be given\n");
    bad("hosts:\n- &a { domain: a.example, certificate: /dev/null, key: /dev/null }\n"
        "- { domain: A.example, certificate: /dev/null, key: /dev/null }\n",
        "test.yml:3: hosts.domain: a.example is there twice\n");
}

static void names(void **state)
{
    (void)state;
    bad(HOSTS "c2s:\n  rat: 1MiB\nc2z: {}\nrequire_tls: yes\nhosts: []\n",
        "test.yml:3: c2s: unknown option \"rat\"; did you mean c2s.rate?\n"
        "test.yml:4: unknown option \"c2z\"; did you mean c2s?\n"
        "test.yml:5: unknown option \"require_tls\"; did you mean c2s.require_tls?\n"
        "test.yml:6: hosts: given twice; the first is in line 1\n");
    bad(HOSTS "c2s: { rate: 1KiB, rate: 2KiB }\nsm: 5\n<<: {}\n[a]: 5\n",
        "test.yml:2: c2s.rate: given twice; the first is in line 2\n"
        "test.yml:3: sm: must be a map: `key: value` lines\n"
        "test.yml:4: merge keys (`<<`) are not supported; write the options out\n"
        "test.yml:5: the name of an option must be a word\n");
}

static void together(void **state)
{
    (void)state;
    bad(HOSTS "contacts:\n- { role: abuse, address: \"mailto:a@example.org\", host: example.net }\n",
        "test.yml:3: contacts.host: example.net is not one of the hosts\n");
    bad(HOSTS "access:\n- { action: deny, host: example.net }\n"
              "listen:\n- { port: 5222 }\n- { port: 5222, mode: tls }\n"
              "c2s: { max_stanza: 10KiB, max_stanza_unauthenticated: 11KiB }\n",
        "test.yml:3: access.host: example.net is not one of the hosts\n"
        "test.yml:6: listen.port: 5222 of :: is there twice\n"
        "test.yml:1: c2s.max_stanza_unauthenticated: may not be larger than c2s.max_stanza\n");
}

static void not_yaml(void **state)
{
    (void)state;
    struct config *c;
    char *why;
    static const char *const texts[] = {HOSTS "c2s: { rate\n",
                                        HOSTS "\tc2s: {}\n",
                                        HOSTS "a: *b\n",
                                        "\xff\xfe\x00",
                                        HOSTS "---\n- 1\n",
                                        "- 1\n",
                                        "text"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(config_parse("test.yml", "/", texts[i], strlen(texts[i]), &c, &why), ERR_INVALID);
        assert_memory_equal(why, "test.yml:", 9);
        free(why);
    }
    bad(HOSTS "--- {}\n", "test.yml:2: a second document (behind `---`) is not allowed\n");
}

/* An item that contains itself, and many mistakes: both must come to an end. */
static void bounded(void **state)
{
    (void)state;
    struct config *c;
    char *why;
    bad("hosts: &h [*h]\n", "test.yml:1: hosts: must be a map: `key: value` lines\n");
    struct buf text = {0};
    for (int i = 0; i < 1000; i++)
        buf_printf(&text, "x%d: 1\n", i);
    assert_int_equal(config_parse("t", "/", buf_data(&text), text.len, &c, &why), ERR_INVALID);
    size_t lines = 0;
    for (const char *p = why; (p = strchr(p, '\n')); p++)
        lines++;
    assert_int_equal(lines, 101);
    assert_non_null(strstr(why, "there may be more mistakes"));
    free(why);
    buf_free(&text);
}

static void write_file(const char *dir, const char *name, const char *text, size_t n)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    fclose(f);
}

static void read_file(const char *path, struct buf *out)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n;
    while ((n = fread(buf_reserve(out, 4096), 1, 4096, f)))
        buf_wrote(out, n);
    fclose(f);
}

static void files(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_config.XXXXXX", path[200];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/r.yml", dir);
    struct config *c;
    char *why;
    assert_int_equal(config_load(path, &c, &why), ERR_INVALID);
    assert_non_null(strstr(why, "cannot be read: No such file"));
    free(why);

    /* The example, its options at their defaults, beside the files it names. */
    struct buf text = {0};
    read_file("deploy/rookery.example.yml", &text);
    write_file(dir, "r.yml", buf_data(&text), text.len);
    buf_free(&text);
    assert_int_equal(config_load(path, &c, &why), ERR_INVALID);
    assert_non_null(strstr(why, "hosts.certificate"));
    free(why);
    char command[400];
    snprintf(command, sizeof command, "mkdir %s/certs && touch %s/certs/example.org.pem %s/certs/example.org.key", dir,
             dir, dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(config_load(path, &c, &why), OK);
    assert_int_equal(strncmp(c->hosts[0].certificate, dir, strlen(dir)), 0);
    config_free(&c);

    struct buf large = {0};
    while (large.len <= 1 << 20)
        buf_str(&large, "# a comment that goes on and on\n");
    write_file(dir, "r.yml", buf_data(&large), large.len);
    buf_free(&large);
    assert_int_equal(config_load(path, &c, &why), ERR_INVALID);
    assert_non_null(strstr(why, "too large"));
    free(why);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

/* The table itself: every default must be allowed, every name findable. */
static void table(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_option_count; i++) {
        const struct option *o = &config_options[i];
        assert_ptr_equal(option_find(o->section, o->key, strlen(o->key)), o);
        assert_ptr_equal(option_nearest(o->section, o->key, strlen(o->key)), o);
        assert_non_null(o->about);
    }
}

static void documentation(void **state)
{
    (void)state;
    struct buf is = {0}, must = {0};
    config_write_options(&must);
    read_file("deploy/docs/options.md", &is);
    if (strcmp(buf_cstr(&is), buf_cstr(&must)))
        fail_msg("deploy/docs/options.md is out of date: rookeryd --options > deploy/docs/options.md");
    buf_free(&is);
    buf_free(&must);
}

/* A file of n bytes; its name. */
static const char *secret_file(char *path, size_t n)
{
    strcpy(path, "/tmp/rookery-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)n), 0);
    close(fd);
    return path;
}

#define LINK "  certificate: /dev/null\n  key: /dev/null\n  ca: /dev/null\n"

static void cluster(void **state)
{
    (void)state;
    char path[64], text[1024];
    snprintf(text, sizeof text,
             HOSTS "cluster:\n  node: node-1\n  secret: %s\n  listen: \"::1\"\n" LINK "storage: { driver: postgres }\n"
                   "postgres: [{ conninfo: host=a password=x }, { conninfo: \"postgresql://b/c\" }]\n"
                   "redis: [{}, { address: 127.0.0.2, port: 26379 }]\n"
                   "registry: { sentinel: rookery, user: me, password_file: /dev/null }\n"
                   "http: [{ port: 8080 }]\n",
             secret_file(path, 32));
    struct config *c = good(text);
    assert_string_equal(c->cluster.node, "node-1");
    assert_string_equal(c->cluster.advertise, "[::1]:5290");
    assert_int_equal(c->cluster.heartbeat_ms, 1000);
    assert_int_equal(c->cluster.lease_ms, 4000);
    assert_int_equal(c->cluster.fence_ms, 3000);
    assert_int_equal(c->cluster.max_queue, 64 << 20);
    assert_int_equal(c->postgres_count, 2);
    assert_string_equal(c->postgres[0].conninfo, "host=a password=x");
    assert_int_equal(c->redis_count, 2);
    assert_int_equal(c->redis[0].port, 6379);
    assert_string_equal(c->redis[1].address, "127.0.0.2");
    assert_string_equal(c->registry.sentinel, "rookery");
    assert_int_equal(c->registry.pace, 5000);
    assert_int_equal(c->http_count, 1);
    assert_string_equal(c->http[0].address, "127.0.0.1");
    config_free(&c);
    unlink(path);
}

static void wrong_cluster(void **state)
{
    (void)state;
    char path[64], text[1024], why[1024];
    bad(HOSTS "cluster:\n  node: node1\n  listen: 0.0.0.0\n",
        "test.yml:3: cluster.certificate: missing; it must be given with cluster.node\n"
        "test.yml:3: cluster.key: missing; it must be given with cluster.node\n"
        "test.yml:3: cluster.ca: missing; it must be given with cluster.node\n"
        "test.yml:3: cluster.secret: missing; it must be given with cluster.node\n"
        "test.yml:3: cluster.node: a cluster needs storage.driver: postgres\n"
        "test.yml:4: cluster.advertise: must be given when cluster.listen is every address\n");
    bad(HOSTS "cluster:\n" LINK, "test.yml:3: cluster.certificate: is not used without cluster.node\n"
                                 "test.yml:4: cluster.key: is not used without cluster.node\n"
                                 "test.yml:5: cluster.ca: is not used without cluster.node\n");
    snprintf(text, sizeof text,
             HOSTS "storage: { driver: postgres }\npostgres: [{ conninfo: a=b }]\n"
                   "cluster:\n  node: n\n  secret: %s\n  advertise: '[::1]:1'\n  fence: 4s\n  heartbeat: 4s\n" LINK,
             secret_file(path, 31));
    snprintf(why, sizeof why,
             "test.yml:6: cluster.secret: %s must be a file of 32 to 4096 bytes\n"
             "test.yml:8: cluster.fence: must be shorter than cluster.lease\n"
             "test.yml:9: cluster.heartbeat: must be shorter than cluster.fence\n",
             path);
    bad(text, why);
    unlink(path);
    bad(HOSTS "cluster: { node: Node_1, advertise: node1, port: 0 }\n",
        "test.yml:2: cluster.node: \"Node_1\" is not a node's name; allowed: 1 to 63 of a-z, 0-9 and -\n"
        "test.yml:2: cluster.advertise: \"node1\" is not a host with a port; allowed: e.g. host.example.org:5290 or "
        "\"[2001:db8::1]:5290\"\n"
        "test.yml:2: cluster.port: \"0\" is not a port; allowed: 1 to 65535\n");
}

/* A password in a connection string that is refused is not shown. */
static void wrong_services(void **state)
{
    (void)state;
    bad(HOSTS "storage: { driver: postgres }\n",
        "test.yml:2: storage.driver: postgres needs one item under postgres at least\n");
    bad(HOSTS "postgres:\n- conninfo: a=b\n", "test.yml:3: postgres: is not used unless storage.driver is postgres\n");
    bad(HOSTS "postgres:\n- conninfo: password hunter2\n",
        "test.yml:3: postgres.conninfo: this is not a connection string; allowed: e.g. \"host=db1,db2 dbname=rookery "
        "target_session_attrs=read-write\"\n");
    bad(HOSTS "registry:\n  sentinel: rookery\n",
        "test.yml:3: registry.sentinel: the Sentinels must be listed under redis\n");
    bad(HOSTS "registry:\n  user: a b\n",
        "test.yml:3: registry.user: \"a b\" is not a name; allowed: 1 to 255 visible ASCII characters\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),        cmocka_unit_test(values),        cmocka_unit_test(wrong_values),
        cmocka_unit_test(wrong_addresses), cmocka_unit_test(hosts),         cmocka_unit_test(names),
        cmocka_unit_test(together),        cmocka_unit_test(not_yaml),      cmocka_unit_test(bounded),
        cmocka_unit_test(files),           cmocka_unit_test(table),         cmocka_unit_test(documentation),
        cmocka_unit_test(cluster),         cmocka_unit_test(wrong_cluster), cmocka_unit_test(wrong_services),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
