/* libFuzzer target: any bytes as a bundle's header and index, and what follows them as packed frames.
 *
 * Digest and release are made right first: what they would refuse is what this is about. The first byte says whether.
 */
#define _GNU_SOURCE
#include "bundle_file.h"
#include "tests/sample_manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length);

static struct orion_manifest manifest;

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void open_sample(void)
{
	static struct sample *sample;

	if (sample)
		return;
	sample = make_sample();
	require(sample && orion_manifest_open((const uint8_t *)sample, sizeof(*sample), &manifest) == 0);
}

static void make_right(uint8_t *bytes, size_t length)
{
	struct orion_bundle_header *header = (struct orion_bundle_header *)bytes;
	uint8_t digest[ORION_DIGEST_MAX] = {0};

	header->digest_kind = manifest.header->digest_kind;
	header->digest_size = manifest.header->digest_size;
	memcpy(header->manifest, manifest.header->digest, sizeof(header->manifest));
	orion_manifest_digest(header->digest_kind, bytes, length, digest);
	memcpy(header->digest, digest, sizeof(digest));
}

/* Everything that a good index promises. */
static void walk(const struct orion_bundle_index *index, const uint8_t *payload, size_t length)
{
	static uint8_t raw[ORION_FRAME_MAX];

	for (uint32_t i = 0; i < index->header->chunk_count; i++) {
		const struct orion_chunk *chunk = &index->chunks[i];
		const struct orion_inode *inode;

		require(orion_bundle_index_find(index, chunk->inode, chunk->offset) == chunk);
		require(orion_bundle_index_find(index, chunk->inode, chunk->offset + chunk->length - 1) == chunk);
		require(orion_manifest_inode(&manifest, chunk->inode, &inode) == 0);
		require(chunk->offset + chunk->length <= inode->size);
		require(index->frame_of[i] < index->header->frame_count);
		require(chunk->at + chunk->length <= index->frames[index->frame_of[i]].raw);
	}
	for (uint32_t i = 0; i < index->header->frame_count; i++) {
		const struct orion_frame *frame = &index->frames[i];

		require(frame->raw <= sizeof(raw));
		if (frame->packed <= length)
			(void)orion_frame_unpack(index, frame, payload, raw);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_length)
{
	struct orion_bundle_index index;

	open_sample();
	if (!input_length)
		return 0;

	const bool right = input[0] & 1;
	const size_t length = input_length - 1, size = orion_bundle_index_size(input + 1, length);
	const size_t taken = size && size <= length ? size : length;
	/* A copy: aligned, and no longer than it says. */
	uint8_t *bytes = malloc(taken ? taken : 1);

	require(bytes != NULL);
	memcpy(bytes, input + 1, taken);
	if (right && taken >= sizeof(struct orion_bundle_header))
		make_right(bytes, taken);

	const int result = orion_bundle_index_create(bytes, taken, &manifest, &index);

	if (result == 0) {
		walk(&index, input + 1 + taken, length - taken);
		orion_bundle_index_destroy(&index);
	} else {
		require(result == -EINVAL || result == -EPROTONOSUPPORT || result == -EBADMSG || result == -ESTALE);
	}
	free(bytes);
	return 0;
}
