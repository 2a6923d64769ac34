/* Answers of a release: everything from its manifest and its blocks, with nothing remembered for any inode.
 *
 * A node id is the inode's number plus one, so FORGET means nothing. A release never changes: all timeouts are endless,
 * and files are neither opened nor closed.
 */
#ifndef ORION_FUSE_RELEASE_H
#define ORION_FUSE_RELEASE_H

#include "fetch.h"
#include "fuse_session.h"
#include "manifest.h"

struct orion_served;

int orion_served_create(const struct orion_manifest *manifest, struct orion_fetch *fetch, struct orion_served **ret);
/* After orion_served_stop(), orion_session_stop() and the upstreams, which may answer reads. */
void orion_served_destroy(struct orion_served *served);

/* Stops what it does of its own accord; before the session ends. */
void orion_served_stop(struct orion_served *served);

/* The session's options for it: flags, handle and context. */
void orion_served_options(struct orion_served *served, struct orion_session_options *ret);

/* Reads that wait for blocks at this moment. */
uint64_t orion_served_in_flight(struct orion_served *served);

#endif
