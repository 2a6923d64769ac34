/* Records, then names and digests, in one growing buffer. */
#define _GNU_SOURCE
#include "trace_file.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct buffer {
	uint8_t *bytes;
	size_t used, room;
	int error; /* sticky */
};

static void put(struct buffer *buffer, const void *bytes, size_t length)
{
	if (!buffer->error && buffer->used + length > buffer->room) {
		const size_t room = 2 * (buffer->used + length);
		uint8_t *grown = realloc(buffer->bytes, room);

		if (grown) {
			buffer->bytes = grown;
			buffer->room = room;
		} else {
			buffer->error = -ENOMEM;
		}
	}
	if (buffer->error || !length)
		return;
	memcpy(buffer->bytes + buffer->used, bytes, length);
	buffer->used += length;
}

/* Where an inode's name is, once it is known. */
struct place {
	uint32_t directory, position;
	bool is_known, is_wanted;
};

/* Finds a name of every directory, and of every wanted file, in one walk over all names. */
static void find_names(const struct orion_manifest *manifest, struct place *places)
{
	const struct orion_inode *inode;
	struct orion_name name;

	for (uint32_t directory = 0; directory < manifest->inode_count; directory++) {
		if (orion_manifest_inode(manifest, directory, &inode) || !S_ISDIR(inode->mode))
			continue;
		for (uint32_t position = 0; position < inode->count; position++) {
			const struct orion_inode *named;

			if (orion_manifest_entry(manifest, directory, position, &name) ||
			    orion_manifest_inode(manifest, name.inode, &named))
				continue;
			struct place *place = &places[name.inode];

			if (!place->is_known && (place->is_wanted || S_ISDIR(named->mode)))
				*place = (struct place){directory, position, true, place->is_wanted};
		}
	}
}

/* A path without a leading slash, written to the end of ret; empty if there is none, or none so short. */
static const char *path_of(const struct orion_manifest *manifest, const struct place *places, uint32_t number,
			   char ret[PATH_MAX], uint16_t *ret_length)
{
	size_t at = PATH_MAX;
	struct orion_name name;

	*ret_length = 0;
	while (number != ORION_ROOT) {
		const struct place *place = &places[number];

		if (!place->is_known || orion_manifest_entry(manifest, place->directory, place->position, &name) ||
		    name.length + 1 > at)
			return ret;
		if (at < PATH_MAX)
			ret[--at] = '/';
		at -= name.length;
		memcpy(ret + at, name.text, name.length);
		number = place->directory;
	}
	*ret_length = (uint16_t)(PATH_MAX - at);
	return ret + at;
}

static int put_names(struct buffer *buffer, const struct orion_manifest *manifest,
		     const struct orion_trace_record *records, size_t count)
{
	struct place *places = calloc(manifest->inode_count + 1, sizeof(*places));
	char path[PATH_MAX];
	uint32_t wanted = 0;

	if (!places)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		if (records[i].kind != ORION_TRACE_FETCH && records[i].inode < manifest->inode_count &&
		    !places[records[i].inode].is_wanted) {
			places[records[i].inode].is_wanted = true;
			wanted++;
		}
	find_names(manifest, places);
	put(buffer, ORION_TRACE_NAMES_MAGIC, 8);
	put(buffer, &wanted, sizeof(wanted));
	for (uint32_t number = 0; number < manifest->inode_count; number++) {
		uint16_t length;

		if (!places[number].is_wanted)
			continue;
		const char *found = path_of(manifest, places, number, path, &length);

		put(buffer, &number, sizeof(number));
		put(buffer, &length, sizeof(length));
		put(buffer, found, length);
		put(buffer, &manifest->inodes[number].size, sizeof(manifest->inodes[number].size));
	}
	free(places);
	return 0;
}

/* Blocks of a file: first to last. */
struct range {
	uint64_t first, last;
	uint32_t inode;
};

static int compare_ranges(const void *left, const void *right)
{
	const struct range *a = left, *b = right;

	if (a->inode != b->inode)
		return a->inode < b->inode ? -1 : 1;
	return a->first < b->first ? -1 : a->first > b->first;
}

static uint32_t put_range(struct buffer *buffer, const struct orion_manifest *manifest, const struct range *range,
			  uint64_t from)
{
	uint32_t count = 0;

	for (uint64_t at = from; at <= range->last && at <= UINT32_MAX; at++) {
		const uint32_t file_block = (uint32_t)at;
		uint8_t digest[ORION_DIGEST_MAX] = {0};
		struct orion_block_of_file block;

		if (orion_manifest_block(manifest, range->inode, at, &block))
			continue;
		if (block.digest)
			memcpy(digest, block.digest, manifest->header->digest_size);
		put(buffer, &range->inode, sizeof(range->inode));
		put(buffer, &file_block, sizeof(file_block));
		put(buffer, digest, sizeof(digest));
		count++;
	}
	return count;
}

static int put_blocks(struct buffer *buffer, const struct orion_manifest *manifest,
		      const struct orion_trace_record *records, size_t count)
{
	struct range *ranges = calloc(count + 1, sizeof(*ranges));
	size_t used = 0;
	uint32_t total = 0;

	if (!ranges)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		if (records[i].kind == ORION_TRACE_READ && records[i].length)
			ranges[used++] = (struct range){
				.first = records[i].offset >> manifest->block_shift,
				.last = (records[i].offset + records[i].length - 1) >> manifest->block_shift,
				.inode = records[i].inode,
			};
	qsort(ranges, used, sizeof(*ranges), compare_ranges);
	/* Its place is known, its value only afterwards. */
	const size_t counted_at = buffer->used;

	put(buffer, &total, sizeof(total));
	uint64_t next = 0;

	for (size_t i = 0; i < used; i++) {
		if (!i || ranges[i].inode != ranges[i - 1].inode)
			next = 0;
		total += put_range(buffer, manifest, &ranges[i], ranges[i].first > next ? ranges[i].first : next);
		if (ranges[i].last + 1 > next)
			next = ranges[i].last + 1;
	}
	free(ranges);
	if (!buffer->error)
		memcpy(buffer->bytes + counted_at, &total, sizeof(total));
	return 0;
}

static void put_header(struct buffer *buffer, const struct orion_manifest *manifest,
		       const struct orion_trace_counts *counts, uint64_t records, uint32_t flags)
{
	struct orion_trace_header header = {
		.version = ORION_TRACE_VERSION,
		.header_size = sizeof(header),
		.record_size = sizeof(struct orion_trace_record),
		.flags = flags | (counts->lost ? ORION_TRACE_DEGRADED : 0),
		.record_count = records,
		.lost = counts->lost,
		.started_ns = counts->started_ns,
		.digest_kind = (uint8_t)manifest->header->digest_kind,
		.block_size = manifest->header->block_size,
	};

	memcpy(header.magic, ORION_TRACE_MAGIC, sizeof(header.magic));
	memcpy(header.digest, manifest->header->digest, sizeof(header.digest));
	memcpy(header.name, manifest->header->name, strnlen(manifest->header->name, sizeof(header.name) - 1));
	memcpy(header.label, manifest->header->label, strnlen(manifest->header->label, sizeof(header.label) - 1));
	put(buffer, &header, sizeof(header));
}

int orion_trace_file_create(struct orion_trace *trace, const struct orion_manifest *manifest, uint32_t flags,
			    uint8_t **ret, size_t *ret_length)
{
	struct orion_trace_counts counts;
	struct buffer buffer = {0};
	size_t count = 0, answered = 0;
	uint64_t next;

	orion_trace_count(trace, &counts);
	struct orion_trace_record *records = calloc(counts.kept + 1, sizeof(*records));

	if (!records)
		return -ENOMEM;
	count = orion_trace_since(trace, 0, records, counts.kept, &next);
	for (size_t i = 0; i < count; i++)
		if (records[i].wait_ns != ORION_TRACE_WAITING)
			records[answered++] = records[i];
	put_header(&buffer, manifest, &counts, answered, flags);
	put(&buffer, records, answered * sizeof(*records));
	int error = put_names(&buffer, manifest, records, answered);

	if (!error)
		error = put_blocks(&buffer, manifest, records, answered);
	free(records);
	if (!error)
		error = buffer.error;
	if (error) {
		free(buffer.bytes);
		return error;
	}
	*ret = buffer.bytes;
	*ret_length = buffer.used;
	return 0;
}

void orion_trace_file_destroy(uint8_t *bytes)
{
	free(bytes);
}
