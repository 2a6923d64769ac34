/* Builds a release: walks a directory, hashes what is in it on all processors, writes what the store does not have yet
 * into one new pack, and the manifest beside it.
 *
 * A builder works in a directory of its own, where it leaves new.pack, manifest, scan and journal; to put them into
 * their places in the store is the caller's. Its functions are called one after the other, from any thread; only
 * orion_builder_progress() and orion_builder_cancel() may be called while another one runs.
 *
 * Each returns 0 or a negative errno, and then orion_builder_error() says in one line what was wrong.
 */
#ifndef ORION_BUILDER_H
#define ORION_BUILDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct orion_builder;

struct orion_builder_options {
	const char *root; /* the directory that is taken */
	const char *work; /* the build's own directory, which is there and locked by the caller */
	const char *name, *label; /* at most 95 bytes each */
	uint32_t digest_kind;
	uint32_t block_size;
	uint32_t jobs; /* threads */
	bool rehash; /* read every file, whatever is known of it */
	bool cross; /* enter other file systems that are mounted below */
};

enum orion_builder_phase { ORION_BUILD_LOADING, ORION_BUILD_WALKING, ORION_BUILD_HASHING, ORION_BUILD_WRITING };

struct orion_builder_progress {
	uint32_t phase;
	uint32_t warnings;
	uint64_t inodes; /* found by the walk so far */
	uint64_t files, content_bytes; /* regular files, and their sizes without holes at the end of the walk */
	uint64_t known_files, known_bytes; /* of these, taken over unread from an earlier release or a killed build */
	uint64_t files_total, bytes_total; /* to be read and hashed */
	uint64_t files_done, bytes_done;
	uint64_t new_bytes; /* of blocks that the store did not have */
	uint64_t resumed_bytes; /* of blocks that a killed build had written */
	uint64_t store_blocks; /* blocks that the store has in other packs */
	uint64_t pack_bytes; /* length of the new pack, resumed bytes and all */
	uint64_t used_new_blocks; /* how many of the new pack's blocks the release uses, known after writing */
	uint64_t manifest_bytes, stored_bytes; /* known after writing */
};

int orion_builder_create(const struct orion_builder_options *options, struct orion_builder **ret);
void orion_builder_destroy(struct orion_builder *builder);

/* Leaves out what matches: as fnmatch(3) has it, against the name alone, or, if the pattern has a slash, against the
 * path from the root on. Of a directory, all that is in it is left out as well. */
int orion_builder_exclude(struct orion_builder *builder, const char *pattern);

/* Takes over what a killed build left in the work directory, each block verified; or starts afresh there.
 * To be called once, after orion_builder_add_release(): files may be done whose blocks the store had. */
int orion_builder_resume(struct orion_builder *builder);

/* Tells what the store has already: the manifest of a release, and its scan (NULL: none). -EBADMSG if one of them is
 * damaged, and then nothing of it is used. Both must stay until the builder is destroyed. Among files that several
 * scans know, the first one counts. A release with other blocks or digests is ignored. */
int orion_builder_add_release(struct orion_builder *builder, const uint8_t *manifest, size_t manifest_length,
			      const uint8_t *scan, size_t scan_length);

/* The three steps. */
int orion_builder_walk(struct orion_builder *builder);
int orion_builder_hash(struct orion_builder *builder);
int orion_builder_write(struct orion_builder *builder);

void orion_builder_progress(const struct orion_builder *builder, struct orion_builder_progress *ret);
/* What runs returns soon, with -ECANCELED. */
void orion_builder_cancel(struct orion_builder *builder);

const char *orion_builder_error(const struct orion_builder *builder);
/* The warning of that number, from 0; NULL after the last. Only the first 100 are kept. */
const char *orion_builder_warning(const struct orion_builder *builder, uint32_t number);
/* The new pack's name; after orion_builder_write(). */
void orion_builder_pack_id(const struct orion_builder *builder, uint8_t ret[16]);

#endif
