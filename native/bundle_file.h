/* A bundle: what a boot will read, in the order of its reading, packed in frames (docs/profiles.md). This is its index:
 * which pages are in which frame, and where that lies in the file.
 */
#ifndef ORION_BUNDLE_FILE_H
#define ORION_BUNDLE_FILE_H

#include "manifest.h"

#define ORION_BUNDLE_ROLE_MAX 64
#define ORION_FRAME_MAX (256u << 10) /* bytes of a frame, unpacked */

struct orion_bundle_header {
	uint8_t magic[8]; /* ORIONBN\n */
	uint32_t version; /* 1 */
	uint32_t header_size; /* 512 */
	uint64_t file_size;
	uint32_t digest_kind, digest_size; /* as the manifest's */
	uint32_t frame_count, chunk_count;
	uint64_t frames_offset, chunks_offset, payload_offset;
	uint64_t raw_bytes, packed_bytes; /* of all frames */
	uint8_t manifest[ORION_DIGEST_MAX]; /* digest of the manifest that it belongs to */
	char role[ORION_BUNDLE_ROLE_MAX];
	uint64_t profile_boots;
	uint8_t reserved[296];
	uint8_t digest[ORION_DIGEST_MAX]; /* of header and index but these bytes */
};

struct orion_frame {
	uint64_t offset; /* in the file */
	uint32_t packed; /* bytes there: lz4, or as they are if as many as raw */
	uint32_t raw; /* bytes of its chunks */
	uint32_t first, count; /* chunks */
	uint64_t t_us; /* when a boot wanted the first of them */
	uint8_t digest[ORION_DIGEST_MAX]; /* of the raw bytes */
};

struct orion_chunk {
	uint64_t offset; /* in the file; whole pages, but for the file's end */
	uint32_t inode;
	uint32_t length;
	uint32_t at; /* in its frame's raw bytes */
	uint32_t reserved;
};

_Static_assert(sizeof(struct orion_bundle_header) == 512, "");
_Static_assert(sizeof(struct orion_frame) == 64, "");
_Static_assert(sizeof(struct orion_chunk) == 24, "");

/* A bundle's index; it points into the caller's bytes, which must stay. */
struct orion_bundle_index {
	const struct orion_bundle_header *header;
	const struct orion_frame *frames;
	const struct orion_chunk *chunks;
	uint32_t *by_place; /* chunks' numbers, by inode and offset */
	uint32_t *frame_of; /* for each chunk its frame */
};

/* How many bytes of the file are header and index, as its first 512 bytes say: 0 if they are no bundle's, or of one that is
 * larger than any boot's. */
size_t orion_bundle_index_size(const uint8_t *bytes, size_t length);

/* Takes header and index, and checks every record against the manifest that is served; bytes must be aligned to 8.
 * -EINVAL: no bundle; -EPROTONOSUPPORT: another version; -EBADMSG: broken; -ESTALE: another release's; -ENOMEM. */
int orion_bundle_index_create(const uint8_t *bytes, size_t length, const struct orion_manifest *manifest,
			      struct orion_bundle_index *ret);
void orion_bundle_index_destroy(struct orion_bundle_index *index);

/* The chunk that has a byte of a file; NULL if none has. O(log n). */
const struct orion_chunk *orion_bundle_index_find(const struct orion_bundle_index *index, uint32_t inode, uint64_t offset);

/* Unpacks a frame and verifies it: 0 or -EBADMSG. ret: frame->raw bytes. */
int orion_frame_unpack(const struct orion_bundle_index *index, const struct orion_frame *frame, const uint8_t *packed,
		       uint8_t *ret);

#endif
