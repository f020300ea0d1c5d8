/*
 * Listening sockets: one per worker and port (SO_REUSEPORT), a budget of accepts per turn, and the limit of connections
 * that are not authenticated yet, per source address (IPv6: per /64), over all workers.
 */
#ifndef ROOKERY_LISTENER_H
#define ROOKERY_LISTENER_H

#include "err.h"
#include "loop.h"

#include <stdint.h>
#include <sys/socket.h>

struct listener;
/* Takes the accepted, non-blocking, close-on-exec, TCP_NODELAY fd. IPv4 peers of "::" come as IPv4. */
typedef void listener_fn(void *arg, int fd, const struct sockaddr *peer);

/* address: numeric IPv4 or IPv6 ("::" listens on both). ERR_IO: *why (malloc'd) says what and errno's text. */
enum err listener_new(struct loop *l, const char *address, uint16_t port, listener_fn *fn, void *arg,
                      struct listener **out, char **why) WARN_UNUSED;
/* Does another process serve this port? SO_REUSEPORT would let us share it with one of the same user, silently.
 * ERR_BUSY and *why (malloc'd); OK also when the address cannot be used for other reasons, which listener_new will say.
 */
enum err listener_probe(const char *address, uint16_t port, char **why) WARN_UNUSED;
void listener_free(struct listener **li);          /* not inside fn, where listener_stop is fine */
uint16_t listener_port(const struct listener *li); /* the real one when 0 was asked */
/* Out of descriptors: accepting pauses for a moment by itself. Draining: stop for good. */
void listener_stop(struct listener *li);

/* Unauthenticated connections and failed logins per address; shared by all workers, a short mutex. */
struct ip_limits;
/* 0: no limit. Memory is bounded (2^18 networks); failures are counted in slices of 10 s. */
struct ip_limits *ip_limits_new(unsigned max_unauthenticated, unsigned max_failed_per_minute);
void ip_limits_free(struct ip_limits **l);
void ip_limits_set(struct ip_limits *l, unsigned max_unauthenticated, unsigned max_failed_per_minute);
/* False: over the limit, close the socket. True must be paired with one ip_leave. */
bool ip_enter(struct ip_limits *l, const struct sockaddr_storage *a);
void ip_leave(struct ip_limits *l, const struct sockaddr_storage *a);
void ip_failed(struct ip_limits *l, const struct sockaddr_storage *a, uint64_t mono_ms);
/* True while this address has used up its failures of the last minute (mono_ms: now). */
bool ip_blocked(struct ip_limits *l, const struct sockaddr_storage *a, uint64_t mono_ms);

#endif
