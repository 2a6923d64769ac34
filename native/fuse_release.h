/* Answers of a release: everything from its manifest and its blocks, with nothing remembered for any inode.
 *
 * A node id is the inode's number plus one, so FORGET means nothing. A release never changes: all timeouts are endless,
 * and files are neither opened nor closed.
 */
#ifndef ORION_FUSE_RELEASE_H
#define ORION_FUSE_RELEASE_H

#include "bundle.h"
#include "fetch.h"
#include "fuse_session.h"
#include "manifest.h"
#include "trace.h"

struct orion_served;

struct orion_served_settings {
	struct orion_trace *trace; /* records requests there; NULL: nowhere */
	bool first_touches; /* each page is asked for when it is touched: no readahead, nothing given unasked */
	bool learns; /* the same, until orion_served_push(); the kernel's readahead is the caller's affair */
};

int orion_served_create(const struct orion_manifest *manifest, struct orion_fetch *fetch,
			const struct orion_served_settings *settings, struct orion_served **ret);
/* Answers from a bundle what it has, from now on; before the session starts. NULL: from none. */
void orion_served_use_bundle(struct orion_served *served, struct orion_bundle *bundle);
/* Gives unasked what is about to be asked for, from now on, though settings.learns was set. */
void orion_served_push(struct orion_served *served);
/* Whether a READ of some of these bytes waits for us. */
bool orion_served_is_in_flight(struct orion_served *served, uint32_t inode, uint64_t offset, uint64_t length);
/* After orion_served_stop(), orion_session_stop() and the upstreams, which may answer reads. */
void orion_served_destroy(struct orion_served *served);

/* Stops what it does of its own accord; before the session ends. */
void orion_served_stop(struct orion_served *served);

/* The session's options for it: flags, handle and context. */
void orion_served_options(struct orion_served *served, struct orion_session_options *ret);

/* Reads that wait for blocks at this moment. */
uint64_t orion_served_in_flight(struct orion_served *served);

#endif
