#include "ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

bool ctl_connect(struct ctl *c)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(c->path) >= sizeof a.sun_path) {
        fprintf(stderr, "rookeryctl: %s: the path is too long\n", c->path);
        return false;
    }
    strcpy(a.sun_path, c->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a)) {
        fprintf(stderr, "rookeryctl: no server at %s: %s\n", c->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    c->in = fdopen(fd, "r");
    c->out = fdopen(dup(fd), "w");
    CHECK(c->in && c->out, "fdopen: %s", strerror(errno));
    return true;
}

void ctl_close(struct ctl *c)
{
    if (c->in)
        fclose(c->in);
    if (c->out)
        fclose(c->out);
    c->in = c->out = NULL;
}

static int no_answer(const struct ctl *c)
{
    fprintf(stderr, "rookeryctl: the server at %s ended the connection\n", c->path);
    return CTL_NO_SERVER;
}

static bool send_request(struct ctl *c, json_t *words, json_t *args)
{
    json_t *request = json_pack("{s:o, s:o}", "command", words, "args", args);
    bool sent = request && !json_dumpf(request, c->out, JSON_COMPACT | JSON_ENSURE_ASCII) &&
                fputc('\n', c->out) != EOF && !fflush(c->out);
    json_decref(request);
    return sent;
}

/* The final reply, progress handed on; NULL: the connection ended. */
static json_t *receive_reply(struct ctl *c, ctl_progress_fn *on_progress, void *arg)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    json_t *reply = NULL;
    while (!reply && (n = getline(&line, &room, c->in)) > 0) {
        reply = json_loadb(line, (size_t)n, 0, NULL);
        const json_t *progress = json_object_get(reply, "progress");
        if (!reply)
            break;
        if (progress) {
            if (on_progress)
                on_progress(arg, progress);
            json_decref(reply);
            reply = NULL;
        }
    }
    free(line);
    return reply;
}

int ctl_call(struct ctl *c, json_t *words, json_t *args, ctl_progress_fn *on_progress, void *arg, json_t **result)
{
    *result = NULL;
    if (!send_request(c, words, args))
        return no_answer(c);
    json_t *reply = receive_reply(c, on_progress, arg);
    if (!reply)
        return no_answer(c);
    int code = json_is_true(json_object_get(reply, "ok")) ? CTL_OK : CTL_REFUSED;
    if (code == CTL_OK) {
        *result = json_incref(json_object_get(reply, "result"));
    } else {
        const char *why = json_string_value(json_object_get(reply, "error"));
        fprintf(stderr, "rookeryctl: %s\n", why ? why : "refused");
    }
    json_decref(reply);
    return code;
}
