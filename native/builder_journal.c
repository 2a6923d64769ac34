/* The journal of a build: what has been written to the new pack, and which files are done, so that the build that comes
 * after a killed one goes on where it was.
 *
 * It is a row of frames, each with its length and checksum. A frame may be written before its blocks are, and the
 * machine may lose either: nothing is believed before the blocks were read back and have their digests.
 */
#define _GNU_SOURCE
#include "builder_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define RUN_MAX (1u << 20)

static void free_bytes(uint8_t **bytes)
{
	free(*bytes);
}
#define scoped_bytes __attribute__((cleanup(free_bytes))) uint8_t *

static int append(struct record *record, const void *bytes, size_t length)
{
	if (record->length + length > record->capacity) {
		const size_t capacity = (record->length + length) * 2;
		uint8_t *grown = realloc(record->bytes, capacity);

		if (!grown)
			return -ENOMEM;
		record->bytes = grown;
		record->capacity = capacity;
	}
	memcpy(record->bytes + record->length, bytes, length);
	record->length += length;
	return 0;
}

/* Room for the frame stands at the beginning. */
static int begin(struct record *record)
{
	return record->length ? 0 : append(record, &(struct frame){0}, sizeof(struct frame));
}

int journal_block(struct orion_builder *builder, struct record *record, uint32_t block)
{
	const struct place *place = builder->blocks.places + block;
	const uint32_t size = builder->blocks.digest_size;
	int result = begin(record);

	if (!result)
		result = append(record, &(struct block_record){BLOCK_WRITTEN, place->length, place->offset},
				sizeof(struct block_record));
	return result ? result : append(record, builder->blocks.digests + (size_t)block * size, size);
}

int journal_file(struct orion_builder *builder, struct record *record, const struct node *node)
{
	const struct orion_extent *extents = node_extents(node);
	const uint32_t size = builder->blocks.digest_size;
	int result = begin(record);

	if (too_young(builder, &node->stamp))
		return 0;
	if (!result)
		result = append(record, &(struct file_record){FILE_DONE, node->count, node->stamp},
				sizeof(struct file_record));
	for (uint32_t i = 0; !result && i < node->count; i++) {
		result = append(record, extents + i, sizeof *extents);
		/* The blocks' numbers here are not those of the next build: digests are. */
		if (!result && extents[i].block != ORION_HOLE)
			result = append(record, builder->blocks.digests + (size_t)extents[i].block * size,
					(size_t)extents[i].count * size);
	}
	return result;
}

int journal_append(struct orion_builder *builder, struct record *record)
{
	struct frame frame = {.length = record->length - sizeof frame};

	if (record->length <= sizeof frame)
		return 0;
	frame.checksum = checksum(record->bytes + sizeof frame, frame.length);
	memcpy(record->bytes, &frame, sizeof frame);
	/* O_APPEND: frames of several threads do not mix. */
	const ssize_t written = write(builder->journal, record->bytes, record->length);
	const bool whole = written == (ssize_t)record->length;
	const int error = written < 0 ? errno : ENOSPC;

	record->length = 0;
	return whole ? 0 : -error;
}

static int read_all(int fd, uint8_t *bytes, size_t length, uint64_t offset)
{
	while (length) {
		const ssize_t got = pread(fd, bytes, length, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -ENODATA;
		bytes += got;
		offset += (uint64_t)got;
		length -= (size_t)got;
	}
	return 0;
}

/* The next length bytes of a frame. */
struct cursor {
	const uint8_t *next, *end;
};

static const void *take(struct cursor *cursor, size_t length)
{
	const uint8_t *at = cursor->next;

	if ((size_t)(cursor->end - cursor->next) < length)
		return NULL;
	cursor->next += length;
	return at;
}

struct found_block {
	struct block_record record;
	uint8_t digest[ORION_DIGEST_MAX];
};

/* What a journal says that there should be. */
struct claims {
	struct found_block *blocks;
	size_t block_count, block_capacity;
	const uint8_t **files; /* their records */
	const uint8_t **ends; /* of the frames that they are in */
	size_t file_count, file_capacity;
};

static void free_claims(struct claims *claims)
{
	free(claims->blocks);
	free(claims->files);
	free(claims->ends);
}

static bool skip_file(const struct orion_builder *builder, struct cursor *cursor, const struct file_record *record)
{
	for (uint32_t i = 0; i < record->extents; i++) {
		struct orion_extent extent;
		const void *bytes = take(cursor, sizeof extent);

		if (!bytes)
			return false;
		memcpy(&extent, bytes, sizeof extent);
		if (extent.block != ORION_HOLE && !take(cursor, (size_t)extent.count * builder->blocks.digest_size))
			return false;
	}
	return true;
}

static int claim(const struct orion_builder *builder, struct claims *claims, struct cursor cursor)
{
	while (cursor.next < cursor.end) {
		const uint8_t *start = cursor.next;
		uint32_t kind;

		if ((size_t)(cursor.end - cursor.next) < sizeof kind)
			return -EBADMSG;
		memcpy(&kind, cursor.next, sizeof kind);
		if (kind == BLOCK_WRITTEN) {
			const void *record = take(&cursor, sizeof(struct block_record));
			const void *digest = record ? take(&cursor, builder->blocks.digest_size) : NULL;

			if (!digest)
				return -EBADMSG;
			if (claims->block_count == claims->block_capacity) {
				const size_t capacity = claims->block_capacity ? claims->block_capacity * 2 : 1024;
				struct found_block *grown = realloc(claims->blocks, capacity * sizeof *grown);

				if (!grown)
					return -ENOMEM;
				claims->blocks = grown;
				claims->block_capacity = capacity;
			}
			struct found_block *block = claims->blocks + claims->block_count++;

			memcpy(&block->record, record, sizeof block->record);
			memcpy(block->digest, digest, builder->blocks.digest_size);
		} else if (kind == FILE_DONE) {
			struct file_record record;
			const void *bytes = take(&cursor, sizeof record);

			if (!bytes)
				return -EBADMSG;
			memcpy(&record, bytes, sizeof record);
			if (!skip_file(builder, &cursor, &record))
				return -EBADMSG;
			if (claims->file_count == claims->file_capacity) {
				const size_t capacity = claims->file_capacity ? claims->file_capacity * 2 : 1024;
				const uint8_t **files = realloc(claims->files, capacity * sizeof *files);
				const uint8_t **ends;

				if (!files)
					return -ENOMEM;
				claims->files = files;
				ends = realloc(claims->ends, capacity * sizeof *ends);
				if (!ends)
					return -ENOMEM;
				claims->ends = ends;
				claims->file_capacity = capacity;
			}
			claims->files[claims->file_count] = start;
			claims->ends[claims->file_count++] = cursor.end;
		} else {
			return -EBADMSG;
		}
	}
	return 0;
}

static int by_offset(const void *one, const void *other)
{
	const uint64_t first = ((const struct found_block *)one)->record.offset,
		       second = ((const struct found_block *)other)->record.offset;

	return (first > second) - (first < second);
}

/* The blocks that really are in the pack go into the table. */
static int adopt_blocks(struct orion_builder *builder, struct claims *claims)
{
	uint8_t *data = malloc(RUN_MAX);
	uint64_t end = 0;
	int result = data ? 0 : -ENOMEM;

	if (claims->block_count)
		qsort(claims->blocks, claims->block_count, sizeof *claims->blocks, by_offset);
	for (size_t i = 0; !result && i < claims->block_count && !builder->stop; i++) {
		const struct block_record *record = &claims->blocks[i].record;
		struct place place = {record->offset, NEW_PACK, record->length, NOWHERE};
		uint8_t digest[ORION_DIGEST_MAX];
		uint32_t number;
		bool new;

		if (!record->length || record->length > builder->block_size || record->offset < end ||
		    read_all(builder->pack, data, record->length, record->offset))
			continue;
		orion_digest_bytes(builder->digest_kind, data, record->length, digest);
		if (memcmp(digest, claims->blocks[i].digest, builder->blocks.digest_size))
			continue;
		/* What lies between was never finished; it would only take room. */
		if (record->offset > end)
			fallocate(builder->pack, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)end,
				  (off_t)(record->offset - end));
		result = block_table_add(&builder->blocks, digest, &place, &number, &new);
		end = record->offset + record->length;
		builder->resumed_bytes += record->length;
	}
	free(data);
	if (!result && builder->stop)
		result = -ECANCELED;
	if (!result && ftruncate(builder->pack, (off_t)end))
		result = -errno;
	builder->pack_end = end;
	builder->pack_bytes = end;
	return result;
}

static int adopt_file(struct orion_builder *builder, const uint8_t *start, const uint8_t *frame_end)
{
	struct node node = {.mode = S_IFREG};
	struct cursor cursor = {start, frame_end};
	struct file_record record;
	struct known_file file = {0};
	uint32_t next = 0;
	int result = 0;

	memcpy(&record, take(&cursor, sizeof record), sizeof record);
	for (uint32_t i = 0; !result && i < record.extents; i++) {
		struct orion_extent extent;

		memcpy(&extent, take(&cursor, sizeof extent), sizeof extent);
		if (extent.block == ORION_HOLE)
			result = node_add(&node, next, extent.count, ORION_HOLE);
		for (uint32_t j = 0; !result && extent.block != ORION_HOLE && j < extent.count; j++) {
			const uint32_t block =
				block_table_find(&builder->blocks, take(&cursor, builder->blocks.digest_size));

			result = block == NOWHERE ? -ENOENT : node_add(&node, next + j, 1, block);
		}
		next += extent.count;
	}
	node.stamp = record.stamp;
	if (!result && !node_is_whole(&node, &builder->blocks, builder->block_size))
		result = -EBADMSG;
	if (!result) {
		file.stamp = record.stamp;
		file.extents.count = node.count;
		file.extents.list = malloc((node.count + 1) * sizeof *file.extents.list);
		if (!file.extents.list)
			result = -ENOMEM;
		else
			memcpy(file.extents.list, node_extents(&node), node.count * sizeof *file.extents.list);
		if (!result && (result = add_known(builder, &file, true)))
			free(file.extents.list);
	}
	node_clear(&node);
	/* A file that lacks a block, or has too many, is read again, no more. */
	return result == -ENOMEM ? result : 0;
}

static int adopt(struct orion_builder *builder, const uint8_t *bytes, size_t length, uint64_t *ret_end)
{
	__attribute__((cleanup(free_claims))) struct claims claims = {0};
	size_t at = sizeof(struct journal_header);
	int result = 0;

	while (at + sizeof(struct frame) <= length) {
		const size_t blocks = claims.block_count, files = claims.file_count;
		const uint8_t *start = bytes + at + sizeof(struct frame);
		struct frame frame;

		memcpy(&frame, bytes + at, sizeof frame);
		if (frame.length > length - at - sizeof frame || frame.checksum != checksum(start, frame.length))
			break;
		result = claim(builder, &claims, (struct cursor){start, start + frame.length});
		if (result) {
			/* Nothing of it, nor what follows: new frames go here. */
			claims.block_count = blocks;
			claims.file_count = files;
			break;
		}
		at += sizeof frame + frame.length;
	}
	*ret_end = at;
	if (result == -EBADMSG)
		result = 0;
	if (!result)
		result = adopt_blocks(builder, &claims);
	for (size_t i = 0; !result && !builder->rehash && i < claims.file_count; i++)
		result = adopt_file(builder, claims.files[i], claims.ends[i]);
	return result;
}

int orion_builder_resume(struct orion_builder *builder)
{
	const struct journal_header header = {
		.version = JOURNAL_VERSION, .digest_kind = builder->digest_kind, .block_size = builder->block_size};
	struct journal_header expected = header;
	struct stat st;
	uint64_t end = sizeof header;
	int result = 0;

	memcpy(expected.magic, JOURNAL_MAGIC, sizeof expected.magic);
	builder->pack = openat(builder->work, "new.pack", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (builder->pack >= 0)
		builder->journal =
			openat(builder->work, "journal", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (builder->journal < 0 || fstat(builder->journal, &st))
		return builder_fail(builder, -errno, NULL, "the build's directory: %s", strerror(errno));
	scoped_bytes bytes = malloc((size_t)st.st_size + 1);

	if (!bytes)
		return builder_fail(builder, -ENOMEM, NULL, "%s", strerror(ENOMEM));
	if (st.st_size >= (off_t)sizeof expected && read_all(builder->journal, bytes, (size_t)st.st_size, 0) == 0 &&
	    memcmp(bytes, &expected, sizeof expected) == 0) {
		result = adopt(builder, bytes, (size_t)st.st_size, &end);
		if (!result && ftruncate(builder->journal, (off_t)end))
			result = -errno;
	} else if (ftruncate(builder->pack, 0) || ftruncate(builder->journal, 0)) {
		result = -errno;
	} else if (write(builder->journal, &expected, sizeof expected) != sizeof expected) {
		result = -ENOSPC;
	}
	return result ? builder_fail(builder, result, NULL, "the build's directory: %s", strerror(-result)) : 0;
}
