/* What need not be read again: the blocks of the store's releases, and the files that their scans know.
 *
 * A scan says which file of the source became which inode of the manifest. A file that has its device, inode number,
 * size, mtime and ctime still, has its content still: ctime cannot be set by hand. It lies beside the manifest in the
 * release's directory and is of use only to the machine that built it.
 */
#define _GNU_SOURCE
#include "builder_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t checksum(const void *bytes, size_t length)
{
	return XXH3_64bits(bytes, length);
}

bool too_young(const struct orion_builder *builder, const struct stamp *stamp)
{
	/* A change within the same tick of the file system's clock as the last one leaves no trace. Ticks are 10 ms at
	 * most, or seconds where there are no smaller ones; clocks of other machines are not looked at. */
	const int64_t margin = stamp->ctime_nsec ? 50000000 : 2000000000;

	/* Centuries have too many nanoseconds. */
	if (stamp->ctime < builder->started.tv_sec - 100 || stamp->ctime > builder->started.tv_sec)
		return stamp->ctime > builder->started.tv_sec;
	return (builder->started.tv_sec - stamp->ctime) * 1000000000 + builder->started.tv_nsec - stamp->ctime_nsec < margin;
}

int add_known(struct orion_builder *builder, const struct known_file *file, bool replace)
{
	uint32_t number;

	if (builder->known_count == builder->known_capacity) {
		const uint32_t capacity = builder->known_capacity ? builder->known_capacity * 2 : 1024;
		struct known_file *grown = realloc(builder->known, capacity * sizeof *grown);

		if (!grown)
			return -ENOMEM;
		builder->known = grown;
		builder->known_capacity = capacity;
	}
	if (inode_map_add(&builder->known_map, file->stamp.device, file->stamp.inode, builder->known_count, &number))
		return -ENOMEM;
	if (number == builder->known_count) {
		builder->known[builder->known_count++] = *file;
	} else {
		struct known_file *there = builder->known + number;

		if (!replace)
			return -EEXIST;
		if (!there->manifest)
			free(there->extents.list);
		*there = *file;
	}
	return 0;
}

/* Whether each block lies in a pack. */
static bool good_blocks(const struct orion_manifest *manifest)
{
	for (uint32_t i = 0; i < manifest->block_count; i++) {
		const struct orion_place *place = manifest->blocks + i;

		if (place->pack >= manifest->pack_count || !place->length ||
		    place->length > manifest->header->block_size || place->offset > INT64_MAX ||
		    place->offset + place->length > manifest->packs[place->pack].size)
			return false;
	}
	return true;
}

/* Takes over a release's packs and blocks, which are good. */
static int add_blocks(struct orion_builder *builder, struct source *source)
{
	const struct orion_manifest *manifest = &source->manifest;
	uint32_t *packs = malloc((manifest->pack_count + 1) * sizeof *packs);
	int result = packs ? 0 : -ENOMEM;

	for (uint32_t i = 0; !result && i < manifest->pack_count; i++) {
		uint32_t at = NEW_PACK + 1;

		while (at < builder->pack_count && memcmp(builder->packs[at].id, manifest->packs[i].id, 16))
			at++;
		if (at == builder->pack_count) {
			struct pack *grown = realloc(builder->packs, (at + 1) * sizeof *grown);

			if (!grown) {
				result = -ENOMEM;
				break;
			}
			builder->packs = grown;
			memcpy(grown[at].id, manifest->packs[i].id, 16);
			grown[at].size = manifest->packs[i].size;
			builder->pack_count++;
		}
		packs[i] = at;
	}
	for (uint32_t i = 0; !result && i < manifest->block_count; i++) {
		const struct orion_place *from = manifest->blocks + i;
		const struct place place = {from->offset, packs[from->pack], from->length, NOWHERE};
		bool new;

		result = block_table_add(&builder->blocks, manifest->digests + (size_t)i * builder->blocks.digest_size,
					 &place, source->blocks + i, &new);
		if (!result && new)
			builder->store_blocks++;
	}
	free(packs);
	return result;
}

static int add_scan(struct orion_builder *builder, const struct source *source, const uint8_t *scan, size_t length)
{
	const struct scan_header *header = (const struct scan_header *)(const void *)scan;
	const struct scan_record *records = (const struct scan_record *)(const void *)(header + 1);
	const struct orion_manifest *manifest = &source->manifest;

	if (length < sizeof *header || memcmp(header->magic, SCAN_MAGIC, sizeof header->magic) ||
	    header->version != SCAN_VERSION || header->record_size != sizeof *records ||
	    memcmp(header->manifest, manifest->header->digest, ORION_DIGEST_MAX) ||
	    header->count != (length - sizeof *header) / sizeof *records ||
	    header->checksum != checksum(records, length - sizeof *header))
		return -EBADMSG;
	for (uint64_t i = 0; i < header->count; i++) {
		const struct orion_inode *inode;

		if (orion_manifest_inode(manifest, records[i].number, &inode) || !S_ISREG(inode->mode))
			return -EBADMSG;
	}
	for (uint64_t i = 0; i < header->count; i++) {
		const struct orion_inode *inode = manifest->inodes + records[i].number;
		struct known_file file = {.manifest = manifest, .blocks = source->blocks, .number = records[i].number};
		int result;

		file.stamp = (struct stamp){
			.device = records[i].device,
			.inode = records[i].inode,
			.size = inode->size,
			.mtime = inode->mtime,
			.mtime_nsec = inode->mtime_nsec,
			.ctime = records[i].ctime,
			.ctime_nsec = records[i].ctime_nsec,
		};
		result = add_known(builder, &file, false);
		if (result && result != -EEXIST)
			return result;
	}
	return 0;
}

int orion_builder_add_release(struct orion_builder *builder, const uint8_t *bytes, size_t length, const uint8_t *scan,
			      size_t scan_length)
{
	struct source *source = calloc(1, sizeof *source);
	int result;

	if (!source)
		return -ENOMEM;
	result = orion_manifest_open(bytes, length, &source->manifest);
	if (!result && (source->manifest.header->digest_kind != builder->digest_kind ||
			source->manifest.header->block_size != builder->block_size)) {
		free(source);
		return 0;
	}
	if (!result)
		result = orion_manifest_verify(&source->manifest);
	if (!result && !good_blocks(&source->manifest))
		result = -EBADMSG;
	if (!result && !(source->blocks = malloc((source->manifest.block_count + 1) * sizeof *source->blocks)))
		result = -ENOMEM;
	if (!result)
		result = add_blocks(builder, source);
	if (result) {
		free(source->blocks);
		free(source);
		return result == -ENOMEM ? result : -EBADMSG;
	}
	source->next = builder->sources;
	builder->sources = source;
	return scan && !builder->rehash ? add_scan(builder, source, scan, scan_length) : 0;
}

/* Blocks of another manifest, as a run of numbers there. */
static int add_run(struct node *node, const struct known_file *known, const struct orion_extent *extent)
{
	int result = 0;

	if (extent->block == ORION_HOLE)
		return node_add(node, extent->file_block, extent->count, ORION_HOLE);
	if (extent->block > known->manifest->block_count || extent->count > known->manifest->block_count - extent->block)
		return -EBADMSG;
	for (uint32_t i = 0; !result && i < extent->count; i++)
		result = node_add(node, extent->file_block + i, 1, known->blocks[extent->block + i]);
	return result;
}

static int add_runs(struct node *node, const struct known_file *known)
{
	int result = 0;

	if (!known->manifest) {
		for (uint32_t i = 0; !result && i < known->extents.count; i++) {
			const struct orion_extent *extent = known->extents.list + i;

			result = node_add(node, extent->file_block, extent->count, extent->block);
		}
		return result;
	}
	const struct orion_inode *inode = known->manifest->inodes + known->number;

	for (uint32_t i = 0; !result && i < inode->count; i++)
		result = add_run(node, known, known->manifest->extents + inode->first + i);
	return result;
}

int match_known(struct orion_builder *builder, struct node *node)
{
	const uint32_t number = inode_map_find(&builder->known_map, node->stamp.device, node->stamp.inode);
	int result;

	if (number == NOWHERE || !same_stamp(&builder->known[number].stamp, &node->stamp))
		return 0;
	result = add_runs(node, builder->known + number);
	if (!result && node_is_whole(node, &builder->blocks, builder->block_size))
		return 1;
	/* What is known of it is wrong: it is read. */
	node_clear(node);
	return result == -ENOMEM ? result : 0;
}

int write_scan(struct orion_builder *builder, const uint8_t *manifest_digest)
{
	struct scan_record *records = malloc(((size_t)builder->node_count + 1) * sizeof *records);
	struct scan_header header = {.version = SCAN_VERSION, .record_size = sizeof *records};
	scoped_fd fd = openat(builder->work, "scan", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int result = 0;

	if (!records || fd < 0) {
		result = records ? -errno : -ENOMEM;
		free(records);
		return result;
	}
	for (uint32_t i = 0; i < builder->node_count; i++) {
		const struct node *node = builder->nodes[i];

		if (!S_ISREG(node->mode) || !node->stamp.size || too_young(builder, &node->stamp))
			continue;
		records[header.count++] = (struct scan_record){
			.device = node->stamp.device,
			.inode = node->stamp.inode,
			.ctime = node->stamp.ctime,
			.ctime_nsec = node->stamp.ctime_nsec,
			.number = node->number,
		};
	}
	memcpy(header.magic, SCAN_MAGIC, sizeof header.magic);
	memcpy(header.manifest, manifest_digest, ORION_DIGEST_MAX);
	header.checksum = checksum(records, header.count * sizeof *records);
	result = write_all(fd, &header, sizeof header, 0);
	if (!result)
		result = write_all(fd, records, header.count * sizeof *records, sizeof header);
	free(records);
	if (!result && fsync(fd))
		result = -errno;
	return result;
}
