/* The operator's tool: turns its arguments into a request on the server's control socket. See deploy/docs. */
#include "credentials_json.h"
#include "ctl.h"
#include "jid.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ITERATIONS_MIN = 4096, ITERATIONS_MAX = 1000000, OPTIONS_MAX = 3 };

struct ctl_option {
    const char *name;  /* "older-than"; in the request's args "older_than" */
    const char *value; /* how the help calls it */
    bool number;
};

struct invocation {
    const struct ctl_command *command;
    const char *const *words; /* behind the command's name */
    size_t count;
    json_t *args;
};

struct ctl_command {
    const char *name, *words; /* as in the help */
    size_t min, max;
    const char *about;
    /* An exit code. */
    int (*run)(struct ctl *c, struct invocation *in);
    struct ctl_option options[OPTIONS_MAX];
};

static int usage_error(const char *what, const char *which)
{
    fprintf(stderr, "rookeryctl: %s%s%s; see rookeryctl --help\n", what, which ? ": " : "", which ? which : "");
    return CTL_USAGE;
}

static void print_result(const struct ctl *c, const json_t *result)
{
    if (!c->json)
        output_print(result);
    else if (!json_dumpf(result, stdout, JSON_ENCODE_ANY | JSON_INDENT(2)))
        putchar('\n');
}

/* "user add" and the words behind it as the request's list. */
static json_t *command_words(const struct invocation *in, size_t count)
{
    json_t *words = json_array();
    for (const char *p = in->command->name; *p;) {
        size_t n = strcspn(p, " ");
        json_array_append_new(words, json_stringn(p, n));
        p += n + (p[n] == ' ');
    }
    for (size_t i = 0; i < count; i++) {
        json_t *word = json_string(in->words[i]);
        json_array_append_new(words, word ? word : json_string(""));
    }
    return words;
}

/* ---- commands that send what they were given ---- */

struct collected {
    const struct ctl *ctl;
    json_t *lists; /* by name, for --json */
    bool printed;
};

/* Long results come in parts: {"users": [...]} again and again. */
static void collect(void *arg, const json_t *value)
{
    struct collected *c = arg;
    const char *name;
    json_t *part;
    json_object_foreach((json_t *)value, name, part)
    {
        if (!c->ctl->json) {
            output_print(part);
            c->printed = true;
        } else if (json_is_array(part)) {
            json_t *all = json_object_get(c->lists, name);
            if (!all)
                json_object_set_new(c->lists, name, all = json_array());
            json_array_extend(all, part);
        }
    }
}

static int pass_on(struct ctl *c, struct invocation *in)
{
    struct collected parts = {.ctl = c, .lists = json_object()};
    json_t *result;
    int code = ctl_call(c, command_words(in, in->count), json_incref(in->args), collect, &parts, &result);
    if (json_is_object(result))
        json_object_update(result, parts.lists);
    if (!code && !parts.printed)
        print_result(c, result);
    json_decref(result);
    json_decref(parts.lists);
    return code;
}

/* ---- commands with passwords: derived here, so none crosses the socket ---- */

/* From --scram-iterations, else the server's. 0: *code is the exit code. */
static uint32_t iterations(struct ctl *c, const struct invocation *in, int *code)
{
    const json_t *given = json_object_get(in->args, "scram_iterations");
    json_int_t n = json_integer_value(given);
    *code = CTL_OK;
    if (!given) {
        json_t *settings;
        *code = ctl_call(c, json_pack("[s, s]", "user", "settings"), json_object(), NULL, NULL, &settings);
        n = json_integer_value(json_object_get(settings, "scram_iterations"));
        json_decref(settings);
    }
    if (!*code && (n < ITERATIONS_MIN || n > ITERATIONS_MAX))
        *code = usage_error("--scram-iterations", "4096 to 1000000 are allowed");
    return *code ? 0 : (uint32_t)n;
}

/* The keys of the password given as the second word, or of the one read; NULL: says why. */
static json_t *derive_keys(const struct invocation *in, uint32_t n)
{
    bool given = in->count > 1 && strcmp(in->words[1], "-");
    char *password = given ? xstrdup(in->words[1]) : password_read();
    struct credentials keys;
    json_t *json = NULL;
    if (password && credentials_derive(password, n, &keys))
        fprintf(stderr, "rookeryctl: the password is empty or has characters that are not allowed\n");
    else if (password)
        json = credentials_to_json(&keys);
    password_free(&password);
    explicit_bzero(&keys, sizeof keys);
    return json;
}

static int set_password(struct ctl *c, struct invocation *in)
{
    int code;
    json_t *result, *keys;
    uint32_t n = iterations(c, in, &code);
    if (!n)
        return code;
    if (!(keys = derive_keys(in, n)))
        return CTL_USAGE;
    code = ctl_call(c, command_words(in, 1), json_pack("{s:o}", "keys", keys), NULL, NULL, &result);
    if (!code && c->json)
        print_result(c, result);
    json_decref(result);
    return code;
}

static int user_import(struct ctl *c, struct invocation *in)
{
    const char *text = json_string_value(json_object_get(in->args, "domain"));
    struct arena *a = arena_new();
    const char *domain = text ? jid_prep_domain(a, text, strlen(text)) : NULL;
    int code = domain ? CTL_OK : usage_error("user import", text ? "--domain is not a domain" : "--domain is missing");
    uint32_t n = domain ? iterations(c, in, &code) : 0;
    if (n)
        code = import_run(c, stdin, domain, n);
    arena_free(&a);
    return code;
}

#define ITERATIONS                                                                                                     \
    {                                                                                                                  \
        "scram-iterations", "N", true                                                                                  \
    }

static const struct ctl_command commands[] = {
    {"status", "", 0, 0, "what the server is and does", pass_on},
    {"user add",
     "JID [PASSWORD|-]",
     1,
     2,
     "create an account; `-` or nothing reads the password from standard input",
     set_password,
     {ITERATIONS}},
    {"user passwd", "JID [PASSWORD|-]", 1, 2, "set another password", set_password, {ITERATIONS}},
    {"user del", "JID", 1, 1, "delete an account and all its data", pass_on},
    {"user list", "[DOMAIN]", 0, 1, "list accounts", pass_on},
    {"user import",
     "",
     0,
     0,
     "create accounts from CSV lines `localpart,password` on standard input",
     user_import,
     {{"domain", "NAME", false}, ITERATIONS}},
    {"invite list", "[HOST]", 0, 1, "list the invitations of a host that may still be used", pass_on},
    {"invite del", "HOST ID", 2, 2, "take an invitation back", pass_on},
    {"invite",
     "[HOST]",
     0,
     1,
     "make an invitation to register and print its xmpp: URI (default: the first host, one use, 7 days)",
     pass_on,
     {{"name", "NAME", false}, {"uses", "N", true}, {"days", "N", true}}},
    {"session list", "[JID]", 0, 1, "list sessions", pass_on},
    {"session kick", "JID", 1, 1, "end the sessions of an account, or with a full JID one of them", pass_on},
    {"cluster", "", 0, 0, "show the ring: its epoch, members, their slots and links", pass_on},
    {"where", "JID", 1, 1, "show an account's slot, home and where its sessions are", pass_on},
    {"roster show", "JID", 1, 1, "show an account's contacts", pass_on},
    {"token list", "JID", 1, 1, "list the clients that may log in to an account by a token (XEP-0484)", pass_on},
    {"token revoke", "JID [CLIENT]", 1, 2, "revoke a client's tokens, or all, and end its sessions", pass_on},
    {"archive purge",
     "[JID]",
     0,
     1,
     "remove old messages of one account or of all",
     pass_on,
     {{"before", "DATE", false}, {"older-than", "DAYS", true}}},
    {"reload", "", 0, 0, "read the configuration and the certificates again", pass_on},
    {"stop", "", 0, 0, "stop the server", pass_on},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

/* ---- arguments ---- */

static int print_help(void)
{
    puts("rookeryctl [--dir DIR | --socket PATH] [--json] COMMAND...\n\n"
         "  --dir DIR      the server's directory; its socket is DIR/rookeryctl.sock\n"
         "                 (default: ./run, then /run/rookery)\n"
         "  --socket PATH  the socket itself\n"
         "  --json         print results as JSON\n"
         "  --version      print the version\n\nCommands:");
    for (size_t i = 0; i < COMMANDS; i++) {
        const struct ctl_command *c = &commands[i];
        printf("  %s%s%s", c->name, *c->words ? " " : "", c->words);
        for (const struct ctl_option *o = c->options; o < c->options + OPTIONS_MAX && o->name; o++)
            printf(" [--%s %s]", o->name, o->value);
        printf("\n      %s\n", c->about);
    }
    puts("\nExit codes: 0 done, 1 refused by the server, 2 wrong usage, 3 no server.");
    return fflush(stdout) ? CTL_REFUSED : CTL_OK;
}

static const struct ctl_command *find_command(const char *const *words, size_t count, size_t *used)
{
    for (size_t i = 0; i < COMMANDS; i++) {
        const char *p = commands[i].name;
        for (*used = 0; *p && *used < count; ++*used) {
            size_t n = strcspn(p, " ");
            if (strlen(words[*used]) != n || memcmp(words[*used], p, n))
                break;
            p += n + (p[n] == ' ');
        }
        if (!*p)
            return &commands[i];
    }
    return NULL;
}

/* Name and value of a command's option into args. False: not an option of it, or a wrong value. */
static bool command_option(const struct ctl_command *c, const char *name, const char *value, json_t *args)
{
    for (const struct ctl_option *o = c->options; o < c->options + OPTIONS_MAX && o->name; o++) {
        if (strcmp(o->name, name))
            continue;
        char *key = xstrdup(name), *end = NULL;
        for (char *p = key; (p = strchr(p, '-'));)
            *p = '_';
        long long n = o->number ? strtoll(value, &end, 10) : 0;
        bool fine = !o->number || (*value >= '0' && *value <= '9' && !*end);
        fine = fine && !json_object_set_new(args, key, o->number ? json_integer(n) : json_string(value));
        free(key);
        return fine;
    }
    return false;
}

struct arguments {
    const char *dir, *socket;
    bool json, help, version;
    const char *words[16];
    size_t count;
    const char *names[8], *values[8]; /* options of the command */
    size_t option_count;
};

/* False: an option without its value, or too many of anything. Behind `--` and for a lone `-` words begin. */
static bool read_arguments(char **argv, struct arguments *a)
{
    bool only_words = false;
    for (char **p = argv + 1; *p; p++) {
        if (only_words || strncmp(*p, "--", 2)) {
            if (a->count == sizeof a->words / sizeof *a->words)
                return false;
            a->words[a->count++] = *p;
        } else if (!(*p)[2]) {
            only_words = true;
        } else if (!strcmp(*p, "--json")) {
            a->json = true;
        } else if (!strcmp(*p, "--help")) {
            a->help = true;
        } else if (!strcmp(*p, "--version")) {
            a->version = true;
        } else if (!p[1] || a->option_count == sizeof a->names / sizeof *a->names) {
            return false;
        } else if (!strcmp(*p, "--dir")) {
            a->dir = *++p;
        } else if (!strcmp(*p, "--socket")) {
            a->socket = *++p;
        } else {
            a->names[a->option_count] = *p + 2;
            a->values[a->option_count++] = *++p;
        }
    }
    return !a->dir || !a->socket;
}

/* malloc'd. */
static char *socket_path(const struct arguments *a)
{
    const char *dir = a->dir ? a->dir : access("run/rookeryctl.sock", F_OK) ? "/run/rookery" : "run";
    char *path;
    if (a->socket)
        return xstrdup(a->socket);
    CHECK(asprintf(&path, "%s/rookeryctl.sock", dir) >= 0, "out of memory");
    return path;
}

static int run(const struct arguments *a, struct invocation *in)
{
    size_t used;
    in->command = find_command(a->words, a->count, &used);
    if (!in->command)
        return usage_error(a->count ? "unknown command" : "no command", a->count ? a->words[0] : NULL);
    in->words = a->words + used;
    in->count = a->count - used;
    if (in->count < in->command->min || in->count > in->command->max)
        return usage_error("wrong number of words", in->command->name);
    for (size_t i = 0; i < a->option_count; i++)
        if (!command_option(in->command, a->names[i], a->values[i], in->args))
            return usage_error("unknown option or wrong value", a->names[i]);
    char *path = socket_path(a);
    struct ctl c = {.path = path, .json = a->json};
    int code = ctl_connect(&c) ? in->command->run(&c, in) : CTL_NO_SERVER;
    ctl_close(&c);
    free(path);
    return code;
}

int main(int argc, char **argv)
{
    (void)argc;
    struct arguments a = {0};
    if (!read_arguments(argv, &a))
        return usage_error("wrong options", NULL);
    if (a.help)
        return print_help();
    if (a.version) {
        puts("rookeryctl " ROOKERY_VERSION);
        return CTL_OK;
    }
    struct invocation in = {.args = json_object()};
    int code = run(&a, &in);
    json_decref(in.args);
    return code;
}
