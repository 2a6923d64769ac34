/* Bundles' indexes: nothing in them is believed. */
#define _GNU_SOURCE
#include "bundle_file.h"

#include "orion.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define VERSION 1
#define PAGE 4096u
/* What a boot reads has some hundred frames and some thousand chunks. */
#define FRAMES_MAX (1u << 16)
#define CHUNKS_MAX (1u << 20)

static const uint8_t magic[8] = {'O', 'R', 'I', 'O', 'N', 'B', 'N', '\n'};

static uint64_t aligned(uint64_t length)
{
	return (length + PAGE - 1) / PAGE * PAGE;
}

size_t orion_bundle_index_size(const uint8_t *bytes, size_t length)
{
	struct orion_bundle_header header;

	if (length < sizeof(header))
		return 0;
	memcpy(&header, bytes, sizeof(header));
	if (memcmp(header.magic, magic, sizeof(magic)) != 0 || header.frame_count > FRAMES_MAX ||
	    header.chunk_count > CHUNKS_MAX)
		return 0;
	return aligned(aligned(sizeof(header) + header.frame_count * sizeof(struct orion_frame)) +
		       header.chunk_count * sizeof(struct orion_chunk));
}

static int check_header(const struct orion_bundle_header *header, size_t length, const struct orion_manifest *manifest)
{
	const struct orion_header *release = manifest->header;

	if (memcmp(header->magic, magic, sizeof(magic)) != 0)
		return -EINVAL;
	if (header->version != VERSION)
		return -EPROTONOSUPPORT;
	if (header->header_size != sizeof(*header) || header->frames_offset != sizeof(*header) ||
	    header->frame_count == 0 || header->frame_count > header->chunk_count || header->frame_count > FRAMES_MAX ||
	    header->chunk_count > CHUNKS_MAX ||
	    header->chunks_offset != aligned(sizeof(*header) + header->frame_count * sizeof(struct orion_frame)) ||
	    header->payload_offset != length ||
	    header->payload_offset !=
		    aligned(header->chunks_offset + header->chunk_count * sizeof(struct orion_chunk)) ||
	    header->packed_bytes > INT64_MAX || header->file_size != header->payload_offset + header->packed_bytes)
		return -EBADMSG;
	if (header->digest_kind != release->digest_kind || header->digest_size != release->digest_size ||
	    memcmp(header->manifest, release->digest, release->digest_size) != 0)
		return -ESTALE;
	return 0;
}

/* As a manifest's: of all bytes but those of the digest itself. */
static int check_digest(const struct orion_bundle_header *header, const uint8_t *bytes, size_t length)
{
	uint8_t digest[ORION_DIGEST_MAX];

	_Static_assert(offsetof(struct orion_bundle_header, digest) == offsetof(struct orion_header, digest), "");
	orion_manifest_digest(header->digest_kind, bytes, length, digest);
	return memcmp(digest, header->digest, header->digest_size) == 0 ? 0 : -EBADMSG;
}

/* Whole pages of a regular file, or those at its end. */
static bool is_good_chunk(const struct orion_manifest *manifest, const struct orion_chunk *chunk)
{
	const struct orion_inode *inode;

	if (!chunk->length || chunk->offset % PAGE || chunk->length > ORION_FRAME_MAX ||
	    orion_manifest_inode(manifest, chunk->inode, &inode) || !S_ISREG(inode->mode))
		return false;
	return chunk->offset < inode->size && chunk->length <= inode->size - chunk->offset &&
	       (chunk->length % PAGE == 0 || chunk->offset + chunk->length == inode->size);
}

/* Frames follow each other in the payload, chunks in their frame. */
static int check_frames(const struct orion_bundle_index *index, const struct orion_manifest *manifest)
{
	uint64_t offset = index->header->payload_offset, raw = 0;
	uint32_t chunk = 0;

	for (uint32_t i = 0; i < index->header->frame_count; i++) {
		const struct orion_frame *frame = &index->frames[i];
		uint32_t at = 0;

		if (frame->offset != offset || !frame->packed || frame->packed > frame->raw || frame->raw > ORION_FRAME_MAX ||
		    frame->first != chunk || !frame->count || frame->count > index->header->chunk_count - chunk)
			return -EBADMSG;
		for (uint32_t end = chunk + frame->count; chunk < end; chunk++) {
			if (!is_good_chunk(manifest, &index->chunks[chunk]) || index->chunks[chunk].at != at ||
			    index->chunks[chunk].length > frame->raw - at)
				return -EBADMSG;
			at += index->chunks[chunk].length;
			index->frame_of[chunk] = i;
		}
		if (at != frame->raw)
			return -EBADMSG;
		offset += frame->packed;
		raw += frame->raw;
	}
	return offset == index->header->file_size && chunk == index->header->chunk_count &&
			       raw == index->header->raw_bytes
		       ? 0
		       : -EBADMSG;
}

static int compare_places(const void *left, const void *right, void *context)
{
	const struct orion_chunk *chunks = context;
	const struct orion_chunk *a = &chunks[*(const uint32_t *)left], *b = &chunks[*(const uint32_t *)right];

	if (a->inode != b->inode)
		return a->inode < b->inode ? -1 : 1;
	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* No page of a file stands twice. */
static int sort_places(struct orion_bundle_index *index)
{
	const uint32_t count = index->header->chunk_count;

	for (uint32_t i = 0; i < count; i++)
		index->by_place[i] = i;
	qsort_r(index->by_place, count, sizeof(*index->by_place), compare_places, (void *)index->chunks);
	for (uint32_t i = 1; i < count; i++) {
		const struct orion_chunk *before = &index->chunks[index->by_place[i - 1]];
		const struct orion_chunk *chunk = &index->chunks[index->by_place[i]];

		if (before->inode == chunk->inode && before->offset + before->length > chunk->offset)
			return -EBADMSG;
	}
	return 0;
}

int orion_bundle_index_create(const uint8_t *bytes, size_t length, const struct orion_manifest *manifest,
			      struct orion_bundle_index *ret)
{
	const struct orion_bundle_header *header = (const struct orion_bundle_header *)bytes;
	struct orion_bundle_index index = {.header = header};

	if (length < sizeof(*header))
		return -EINVAL;

	int error = check_header(header, length, manifest);

	if (!error)
		error = check_digest(header, bytes, length);
	if (error)
		return error;
	index.frames = (const struct orion_frame *)(bytes + header->frames_offset);
	index.chunks = (const struct orion_chunk *)(bytes + header->chunks_offset);
	index.by_place = malloc(header->chunk_count * sizeof(*index.by_place));
	index.frame_of = malloc(header->chunk_count * sizeof(*index.frame_of));
	error = index.by_place && index.frame_of ? check_frames(&index, manifest) : -ENOMEM;
	if (!error)
		error = sort_places(&index);
	if (error)
		orion_bundle_index_destroy(&index);
	else
		*ret = index;
	return error;
}

void orion_bundle_index_destroy(struct orion_bundle_index *index)
{
	free(index->by_place);
	free(index->frame_of);
	*index = (struct orion_bundle_index){0};
}

const struct orion_chunk *orion_bundle_index_find(const struct orion_bundle_index *index, uint32_t inode, uint64_t offset)
{
	uint32_t low = 0, high = index->header->chunk_count;

	/* The last one that does not begin behind it. */
	while (low < high) {
		const uint32_t middle = low + (high - low) / 2;
		const struct orion_chunk *chunk = &index->chunks[index->by_place[middle]];

		if (chunk->inode < inode || (chunk->inode == inode && chunk->offset <= offset))
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return NULL;

	const struct orion_chunk *chunk = &index->chunks[index->by_place[low - 1]];

	return chunk->inode == inode && offset - chunk->offset < chunk->length ? chunk : NULL;
}

int orion_frame_unpack(const struct orion_bundle_index *index, const struct orion_frame *frame, const uint8_t *packed,
		       uint8_t *ret)
{
	uint8_t digest[ORION_DIGEST_MAX];

	if (orion_block_unpack(packed, frame->packed, NULL, frame->raw, ret))
		return -EBADMSG;
	orion_digest_bytes(index->header->digest_kind, ret, frame->raw, digest);
	return memcmp(digest, frame->digest, index->header->digest_size) == 0 ? 0 : -EBADMSG;
}
