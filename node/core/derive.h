/* SCRAM keys of a password, derived on the blocking pool: what every change of a password goes through. */
#ifndef ROOKERY_DERIVE_H
#define ROOKERY_DERIVE_H

#include "blocking.h"
#include "scram.h"

/* On the loop of `reply`. ERR_INVALID: the password is empty or has characters that are not allowed. cr is valid during
 * the call, and then wiped. */
typedef void derive_fn(void *arg, enum err e, const struct credentials *cr);

/* The password is copied, and wiped when its keys are there. ERR_BUSY: too many wait; fn will not be called. */
enum err derive_run(struct blocking *b, struct inbox *reply, const char *password, uint32_t iterations, derive_fn *fn,
                    void *arg) WARN_UNUSED;

#endif
