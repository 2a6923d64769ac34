/* Requests that libfuse has and has not answered, so that a process that is killed need not wait for it. */
#ifndef ORION_FORWARDED_H
#define ORION_FORWARDED_H

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct orion_forwarded;

int orion_forwarded_create(struct orion_forwarded **ret);
void orion_forwarded_destroy(struct orion_forwarded *forwarded);

/* libfuse gets a request; only such are noted whose late answer can be undone. */
void orion_forwarded_add(struct orion_forwarded *forwarded, const struct fuse_in_header *header);

/* Who waits for it has got a signal. */
void orion_forwarded_interrupt(struct orion_forwarded *forwarded, uint64_t unique);

/* Whether anybody waits who got a signal, and may be killed later. */
bool orion_forwarded_watches(struct orion_forwarded *forwarded);

/* Finds a request whose process is being killed, and counts it as answered: it is to be answered now. false: there is none. */
bool orion_forwarded_killed(struct orion_forwarded *forwarded, uint64_t *ret_unique);

/* libfuse answers: false if that was done in its place. */
bool orion_forwarded_take(struct orion_forwarded *forwarded, uint64_t unique, struct fuse_in_header *ret);

#endif
