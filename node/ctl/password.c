#include "ctl.h"

#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

void password_free(char **p)
{
    if (*p)
        explicit_bzero(*p, strlen(*p));
    free(*p);
    *p = NULL;
}

static char *read_line(void)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n = getline(&line, &room, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    line[strcspn(line, "\r\n")] = 0;
    return line;
}

static char *ask(const char *prompt)
{
    struct termios shown, hidden;
    fputs(prompt, stderr);
    if (tcgetattr(STDIN_FILENO, &shown))
        return NULL;
    hidden = shown;
    hidden.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
    char *line = read_line();
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown);
    fputc('\n', stderr);
    return line;
}

char *password_read(void)
{
    if (!isatty(STDIN_FILENO)) {
        char *line = read_line();
        if (!line)
            fprintf(stderr, "rookeryctl: no password on standard input\n");
        return line;
    }
    char *first = ask("Password: "), *again = ask("Again: ");
    if (!first || !again || strcmp(first, again)) {
        fprintf(stderr, "rookeryctl: the passwords differ\n");
        password_free(&first);
    }
    password_free(&again);
    return first;
}
