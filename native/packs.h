/* The files of a release's packs on each server: opened when they are first needed, and kept open. */
#ifndef ORION_PACKS_H
#define ORION_PACKS_H

#include "manifest.h"
#include "upstream.h"

struct orion_packs; /* all functions may be called from any thread */

/* Sees to it that the process may have as many descriptors, as far as it can. -ENOMEM. */
int orion_packs_create(const struct orion_manifest *manifest, struct orion_upstreams *upstreams, struct orion_packs **ret);
void orion_packs_destroy(struct orion_packs *packs);

/* A pack's file on a server; a descriptor that stays ours, or a negative errno. In a job: blocks. */
int orion_packs_open(struct orion_packs *packs, uint32_t pack, uint32_t server);
/* The same if it is open already, or -1, for whoever is not in a job; waits for nothing. */
int orion_packs_borrow(struct orion_packs *packs, uint32_t pack, uint32_t server, struct orion_borrowed *borrowed);
/* Opens those that are likely to be needed first on a server, in the background: the few largest. */
void orion_packs_open_early(struct orion_packs *packs, uint32_t server);
/* After ESTALE: the same from another file. In a job: blocks. */
int orion_packs_reopen(struct orion_packs *packs, uint32_t pack, uint32_t server);

#endif
