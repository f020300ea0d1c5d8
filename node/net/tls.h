/*
 * TLS contexts of the virtual hosts: certificates chosen by SNI, Mozilla-intermediate-like defaults (TLS 1.2+),
 * ALPN (XEP-0368). An immutable snapshot: a reload makes a new one, connections keep theirs until they close.
 * Any thread may take and drop references.
 */
#ifndef ROOKERY_TLS_H
#define ROOKERY_TLS_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>

struct tls_host {
    const char *domain;      /* A-label or U-label; matched against SNI, case-insensitive */
    const char *certificate; /* PEM file with the chain */
    const char *key;         /* PEM file */
    bool ask_client;         /* clients are asked for a certificate; none, or a bad one, is no reason to end */
    const char *client_ca;   /* PEM file: authorities that vouch for clients; NULL: none do */
};

struct tls; /* the snapshot */

/* The first host serves connections without SNI or with an unknown one. On error *why (malloc'd) says what is wrong
 * with which file. */
enum err tls_new(const struct tls_host *hosts, size_t n, struct tls **out, char **why) WARN_UNUSED;
struct tls *tls_ref(struct tls *t);
void tls_unref(struct tls **t);

#endif
