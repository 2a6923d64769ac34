/* A trace as bytes that need nothing else: header, records, and what of the manifest they speak of. docs/trace.md is the
 * specification.
 */
#ifndef ORION_TRACE_FILE_H
#define ORION_TRACE_FILE_H

#include "manifest.h"
#include "trace.h"

#define ORION_TRACE_MAGIC "ORIONTR\n"
#define ORION_TRACE_NAMES_MAGIC "ORIONTN\n"
#define ORION_TRACE_VERSION 2

#define ORION_TRACE_FIRST_TOUCHES 1u /* the kernel read nothing ahead, and was given nothing unasked */
#define ORION_TRACE_DEGRADED 2u /* a server failed, a block was not what its digest says, or records are lost */

struct orion_trace_header {
	uint8_t magic[8];
	uint32_t version;
	uint32_t header_size; /* sizeof(struct orion_trace_header) */
	uint32_t record_size; /* sizeof(struct orion_trace_record) */
	uint32_t flags; /* ORION_TRACE_… */
	uint64_t record_count;
	uint64_t lost; /* records for which there was no room */
	uint64_t started_ns; /* CLOCK_MONOTONIC of the engine's start */
	uint8_t digest_kind; /* the manifest's */
	uint8_t reserved[7]; /* zero */
	uint8_t digest[ORION_DIGEST_MAX]; /* of the manifest */
	char name[64], label[64]; /* the release's, cut to 63 bytes, padded with NUL */
	uint32_t block_size; /* the release's, bytes */
	uint8_t reserved_2[36]; /* zero */
};

_Static_assert(sizeof(struct orion_trace_header) == 256, "");

/* All records that are answered, in the order of their arrival, with paths and digests. *ret begins with the header, and
 * goes to orion_trace_file_destroy(). O(n) in the manifest's names. -ENOMEM. */
int orion_trace_file_create(struct orion_trace *trace, const struct orion_manifest *manifest, uint32_t flags,
			    uint8_t **ret, size_t *ret_length);
void orion_trace_file_destroy(uint8_t *bytes);

#endif
