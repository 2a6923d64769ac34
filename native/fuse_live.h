/* Requests to a plain tree: handed on to libfuse behind a socket, for what they need is policy, and that is Python's.
 *
 * libfuse takes one end of a SOCK_SEQPACKET pair for a mounted /dev/fuse. What overlayfs asks again and again (extended
 * attributes, symlinks' targets, the file system's figures) is answered from what was answered before, for as long as
 * attributes are believed anyway.
 */
#ifndef ORION_FUSE_LIVE_H
#define ORION_FUSE_LIVE_H

#include "fuse_session.h"

struct orion_live;

/* ttl_ns: for how long an answer is given again; 0: never. */
int orion_live_create(uint64_t ttl_ns, struct orion_live **ret);
/* Ends what libfuse reads; the mount must be gone. */
void orion_live_destroy(struct orion_live *live);

/* libfuse's end of the pair, for "/dev/fd/<n>"; libfuse closes it. */
int orion_live_fd(const struct orion_live *live);
/* Serves a mounted device, and takes it over. */
int orion_live_start(struct orion_live *live, int device);
/* Readable when the mount is gone. */
int orion_live_ended_fd(const struct orion_live *live);

struct orion_live_statistics {
	struct orion_session_statistics session;
	uint64_t forwarded, remembered; /* requests that libfuse answered, and that it was spared */
};

void orion_live_statistics(struct orion_live *live, struct orion_live_statistics *ret);

#endif
