/*
 * Envelopes as bytes, for the mesh (proto/mesh.proto): envelope follows envelope in a frame.
 *
 *     uint32 length of the head, uint32 length of the body (big-endian); the head, an Envelope; the body, env->bytes
 *
 * Peers are authenticated nodes of the cluster, maybe one version newer or older, maybe broken: what is unpacked keeps
 * what handlers rely on (JIDs are prepared and there where their kind needs one, types fit kinds, sizes of keys and
 * hashes are right), or it is not unpacked.
 */
#ifndef ROOKERY_ENVELOPE_PACK_H
#define ROOKERY_ENVELOPE_PACK_H

#include "buf.h"
#include "envelope.h"

/* The most an envelope's head takes, three JIDs of the greatest length included; its body comes on top. */
enum { ENV_HEAD_MAX = 10 * 1024 };

/* Appends e; it is flattened (bytes made, the tree freed). Any kind but ENV_CALL, which never travels. */
void env_pack(struct buf *out, struct envelope *e);

/* The envelope that begins at p, with its own reference to a copy of the body; the rest begins *used bytes further.
 * NULL and *used > 0: one of a kind that this version does not know, or one with contents that are refused. It is
 *                     skipped, counted, and said in the log; the next one may be fine.
 * NULL and *used 0:   n is 0, or this is not an envelope at all, and nothing behind it can be read. */
struct envelope *env_unpack(const void *p, size_t n, size_t *used);

#endif
