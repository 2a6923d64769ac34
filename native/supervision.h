/* What a mount's daemon and the process that starts the next one after its death have in common (docs/supervisor.md). */
#ifndef ORION_SUPERVISION_H
#define ORION_SUPERVISION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What a session and those after it on the same device know: in memory that all of them share. */
struct orion_agreement {
	_Atomic bool agreed; /* INIT is answered, or is just being answered with these flags */
	_Atomic uint64_t flags;
	_Atomic bool streamed; /* the mount's bundle has ended, or there is none */
};

/* One for all processes that are forked from now on. */
int orion_agreement_create(struct orion_agreement **ret);
/* Whether a bundle may still be on its way to the mount. */
bool orion_agreement_streams(const struct orion_agreement *agreement);

/* Has the kernel send again what was read from a mounted device and not answered; for whoever reads next. -EINVAL: it
 * cannot (before Linux 6.9). Waits for nothing. */
int orion_resend(int device);

/* Closes a descriptor, of a pipe's writing end, when this process is being ended, and not before. Its own thread holds
 * it: a thread of a killed daemon may have to wait in the kernel for an answer that only the next daemon gives, and until
 * then the process is not gone, nor would its descriptors be closed. */
int orion_lifeline_hold(int fd);

/* Has this process get SIGTERM when its parent, which is still there, is gone. */
int orion_end_with_parent(void);

/* A descriptor of /proc, opened once: it stays good when /proc moves to where a node's daemon does not see it. Children
 * have it as well. */
int orion_proc(void);

#endif
