/* Reads every block of a release and compares it with its digest, on all processors. */
#ifndef ORION_AUDIT_H
#define ORION_AUDIT_H

#include "manifest.h"

#include <stdatomic.h>

enum orion_audit_verdict { ORION_BLOCK_GOOD, ORION_BLOCK_MISSING, ORION_BLOCK_DIFFERS };

struct orion_audit;

/* packs: the directory with the packs, a descriptor that stays the caller's, as the manifest's bytes do. rate: bytes per
 * second that all jobs together read; 0: as many as come. */
int orion_audit_create(const struct orion_manifest *manifest, int packs, uint32_t jobs, uint64_t rate,
		       struct orion_audit **ret);
void orion_audit_destroy(struct orion_audit *audit);

/* Looks at all blocks; -ECANCELED. ret_verdicts: a byte for each block of the manifest. */
int orion_audit_run(struct orion_audit *audit, uint8_t *ret_verdicts);

/* While it runs, from another thread: bytes looked at; and no more of it. */
uint64_t orion_audit_done(const struct orion_audit *audit);
void orion_audit_cancel(struct orion_audit *audit);

#endif
